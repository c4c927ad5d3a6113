//! The kernel: its version, its clock, and what its settings allow the sockets and programs that Tachyon uses.

use super::{
    finding::{Finding, State},
    host::{Host, bytes},
    limits::Rights,
    need::Need,
};

/// Before this version io_uring lacks something that the driver uses: DEFER_TASKRUN and multishot recvmsg are there from 6.1 on.
const IO_URING_SINCE: (u32, u32) = (6, 1);

/// Clock sources that are read without leaving user space: of x86-64 and of Arm.
const FAST_CLOCKS: &[&str] = &["tsc", "arch_sys_counter"];

/// What the kernel is and allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Kernel {
    pub(crate) release: String,
    /// `kernel.io_uring_disabled`: 0 for all, 1 for the privileged, 2 for nobody. Kernels before 6.6 have no such setting.
    pub(crate) io_uring_disabled: Option<u64>,
    pub(crate) bpf_jit: Option<u64>,
    pub(crate) receive_max: Option<u64>,
    pub(crate) send_max: Option<u64>,
    pub(crate) clock: Option<String>,
    pub(crate) clocks: Vec<String>,
}

impl Kernel {
    pub(crate) fn read(host: &Host) -> Self {
        let clocks = "/sys/devices/system/clocksource/clocksource0";
        let available = host.text(&format!("{clocks}/available_clocksource")).unwrap_or_default();
        Self {
            release: host.text("/proc/sys/kernel/osrelease").unwrap_or_default(),
            io_uring_disabled: host.number("/proc/sys/kernel/io_uring_disabled"),
            bpf_jit: host.number("/proc/sys/net/core/bpf_jit_enable"),
            receive_max: host.number("/proc/sys/net/core/rmem_max"),
            send_max: host.number("/proc/sys/net/core/wmem_max"),
            clock: host.text(&format!("{clocks}/current_clocksource")),
            clocks: available.split_whitespace().map(str::to_owned).collect(),
        }
    }
}

pub(crate) fn findings(kernel: &Kernel, need: &Need, rights: &Rights) -> Vec<Finding> {
    let mut findings = vec![version(kernel, need), io_uring(kernel, need, rights), bpf_jit(kernel)];
    findings.push(socket_buffers(kernel, need, rights));
    findings.push(clock(kernel));
    findings
}

/// Major and minor of a release such as `6.1.0-18-amd64`.
pub(crate) fn number_of(release: &str) -> Option<(u32, u32)> {
    let mut parts = release.split(|character: char| !character.is_ascii_digit());
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn version(kernel: &Kernel, need: &Need) -> Finding {
    const CHECK: &str = "kernel";
    let Some(version) = number_of(&kernel.release) else {
        return Finding::new(CHECK, State::Note, format!("no version that is understood: {:?}", kernel.release));
    };
    if need.io_uring && version < IO_URING_SINCE {
        let (major, minor) = IO_URING_SINCE;
        let help = format!("io_uring is used from {major}.{minor} on; before, recvmmsg and sendmmsg, which is slower");
        return Finding::new(CHECK, State::Degraded, kernel.release.clone()).help(help);
    }
    Finding::fine(CHECK, kernel.release.clone())
}

fn io_uring(kernel: &Kernel, need: &Need, rights: &Rights) -> Finding {
    const CHECK: &str = "io_uring";
    if !need.io_uring {
        return Finding::fine(CHECK, "the node file does not use it");
    }
    let (found, allowed) = match kernel.io_uring_disabled {
        None => ("this kernel does not restrict it", true),
        Some(0) => ("allowed", true),
        Some(1) => ("allowed to the privileged only", rights.is_admin),
        Some(_) => ("switched off", false),
    };
    if allowed {
        return Finding::fine(CHECK, found);
    }
    Finding::new(CHECK, State::Degraded, found)
        .help("tachyond uses recvmmsg and sendmmsg then: more system calls, and more time in each")
        .command("sysctl -w kernel.io_uring_disabled=0")
        .command("echo kernel.io_uring_disabled=0 > /etc/sysctl.d/60-tachyon-io-uring.conf")
}

fn bpf_jit(kernel: &Kernel) -> Finding {
    const CHECK: &str = "bpf_jit";
    match kernel.bpf_jit {
        None => Finding::new(CHECK, State::Note, "the kernel does not say"),
        Some(0) => Finding::new(CHECK, State::Degraded, "off")
            .help("packet filters are interpreted, at several times the cost per packet")
            .command("sysctl -w net.core.bpf_jit_enable=1")
            .command("echo net.core.bpf_jit_enable=1 > /etc/sysctl.d/60-tachyon-bpf.conf"),
        Some(_) => Finding::fine(CHECK, "on"),
    }
}

/// Whether sockets may be as large as the node file asks for.
fn socket_buffers(kernel: &Kernel, need: &Need, rights: &Rights) -> Finding {
    const CHECK: &str = "socket_buffers";
    let wanted = need.socket_buffer_bytes;
    let limits = [("rmem_max", kernel.receive_max), ("wmem_max", kernel.send_max)];
    let word = |(name, limit): &(&str, Option<u64>)| {
        format!("net.core.{name} {}", limit.map_or_else(|| "unknown".to_owned(), |limit| limit.to_string()))
    };
    let found = format!("{}, {wanted} asked for", limits.iter().map(word).collect::<Vec<_>>().join(", "));
    let low: Vec<&str> =
        limits.iter().filter(|(_, limit)| limit.is_some_and(|limit| limit < wanted)).map(|(name, _)| *name).collect();
    if low.is_empty() {
        return Finding::fine(CHECK, found);
    }
    if rights.is_net_admin {
        return Finding::fine(CHECK, format!("{found}; this user may exceed them (CAP_NET_ADMIN)"));
    }
    let help =
        format!("sockets would hold less than the {} asked for, so bursts are lost in the kernel", bytes(wanted));
    let mut finding = Finding::new(CHECK, State::Degraded, found).help(help);
    for name in low {
        finding = finding.command(format!("sysctl -w net.core.{name}={wanted}")).command(format!(
            "echo net.core.{name}={wanted} > /etc/sysctl.d/60-tachyon-{}.conf",
            name.replace('_', "-")
        ));
    }
    finding
}

fn clock(kernel: &Kernel) -> Finding {
    const CHECK: &str = "clock";
    let Some(clock) = kernel.clock.as_deref() else {
        return Finding::new(CHECK, State::Note, "the kernel does not say");
    };
    if FAST_CLOCKS.contains(&clock) {
        return Finding::fine(CHECK, clock);
    }
    let finding = Finding::new(CHECK, State::Degraded, clock);
    if kernel.clocks.iter().any(|other| other == "tsc") {
        return finding
            .help("reading this clock costs more than tsc, or a system call; each burst reads it")
            .command("echo tsc > /sys/devices/system/clocksource/clocksource0/current_clocksource");
    }
    finding.help(
        "the kernel does not trust this machine's tsc (`dmesg | grep -i tsc` says why), so each reading of the clock costs \
         more; in a virtual machine the hypervisor decides",
    )
}
