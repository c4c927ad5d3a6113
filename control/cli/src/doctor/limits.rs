//! Limits and rights of whoever runs this; a `tachyond` that is started the same way has the same.

use super::{
    finding::{Finding, State},
    host::{Host, bytes},
    need::Need,
};

/// Numbers of capabilities, from `linux/capability.h`.
const CAP_NET_ADMIN: u32 = 12;
const CAP_NET_RAW: u32 = 13;
const CAP_IPC_LOCK: u32 = 14;
const CAP_SYS_ADMIN: u32 = 21;

/// Bytes of memory that a process has locked besides arena and tables: programs, libraries, stacks.
const PROCESS_BYTES: u64 = 64 << 20;

/// What this process may do beyond its limits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Rights {
    pub(crate) is_net_admin: bool,
    pub(crate) is_net_raw: bool,
    pub(crate) may_lock: bool,
    pub(crate) is_admin: bool,
}

/// A limit: `None` is unlimited.
type Limit = Option<u64>;

/// The soft limits of this process; the outer `None` where the kernel does not say.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) locked_bytes: Option<Limit>,
    pub(crate) descriptors: Option<Limit>,
    pub(crate) rights: Rights,
}

impl Limits {
    pub(crate) fn read(host: &Host) -> Self {
        let text = host.text("/proc/self/limits").unwrap_or_default();
        let soft = |name: &str| {
            let rest = text.lines().find_map(|line| line.strip_prefix(name))?;
            let word = rest.split_whitespace().next()?;
            if word == "unlimited" { Some(None) } else { word.parse().ok().map(Some) }
        };
        let status = host.text("/proc/self/status").unwrap_or_default();
        let mask = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
        let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or(0);
        let has = |capability: u32| mask >> capability & 1 == 1;
        Self {
            locked_bytes: soft("Max locked memory"),
            descriptors: soft("Max open files"),
            rights: Rights {
                is_net_admin: has(CAP_NET_ADMIN),
                is_net_raw: has(CAP_NET_RAW),
                may_lock: has(CAP_IPC_LOCK),
                is_admin: has(CAP_SYS_ADMIN),
            },
        }
    }
}

pub(crate) fn findings(limits: &Limits, need: &Need) -> Vec<Finding> {
    vec![locked(limits, need), descriptors(limits, need)]
}

fn locked(limits: &Limits, need: &Need) -> Finding {
    const CHECK: &str = "memlock";
    let wanted = need.buffer_bytes() + need.table_bytes + PROCESS_BYTES;
    if !need.locks {
        return Finding::fine(CHECK, "the node file does not lock memory");
    }
    let Some(limit) = limits.locked_bytes else {
        return Finding::new(CHECK, State::Note, "the kernel does not say");
    };
    let Some(limit) = limit else { return Finding::fine(CHECK, "unlimited") };
    let found = format!("{} of about {} needed", bytes(limit), bytes(wanted));
    if limit >= wanted {
        return Finding::fine(CHECK, found);
    }
    if limits.rights.may_lock {
        return Finding::fine(CHECK, format!("{found}; this user may exceed it (CAP_IPC_LOCK)"));
    }
    Finding::new(CHECK, State::Degraded, found)
        .help(
            "memory that is not locked may be swapped out, and then a packet waits for the disk; RLIMIT_MEMLOCK is of this \
             user and shell, a systemd unit has its own (LimitMEMLOCK=infinity)",
        )
        .command("ulimit -l unlimited")
}

fn descriptors(limits: &Limits, need: &Need) -> Finding {
    const CHECK: &str = "nofile";
    let Some(limit) = limits.descriptors else {
        return Finding::new(CHECK, State::Note, "the kernel does not say");
    };
    let Some(limit) = limit else { return Finding::fine(CHECK, "unlimited") };
    let found = format!("{limit} of at most {} needed", need.descriptors);
    if limit >= need.descriptors {
        return Finding::fine(CHECK, found);
    }
    Finding::new(CHECK, State::Fails, found)
        .help("tachyond cannot open its sockets; RLIMIT_NOFILE is of this user and shell, a systemd unit has LimitNOFILE=")
        .command(format!("ulimit -n {}", need.descriptors))
}
