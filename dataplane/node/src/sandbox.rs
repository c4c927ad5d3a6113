//! Giving away what is not needed, before packets begin: user, capabilities, files, system calls.
//!
//! Users, capabilities and landlock domains belong to threads, and some drivers need privileges while they open. So the
//! steps are taken by each thread for itself once everything it needs is open; threads started later inherit them. The one that
//! DPDK starts for itself is there before and takes no step; a node that has it and is root says so.

use anyhow::Context;
use landlock::{ABI, Access, AccessFs, Ruleset, RulesetAttr, RulesetCreatedAttr, RulesetStatus, path_beneath_rules};
use rustix::{
    fs::{Gid, Uid},
    process::{Resource, Rlimit, geteuid, getrlimit, setrlimit},
    thread::{
        CapabilitySet, CapabilitySets, capabilities, set_capabilities, set_keep_capabilities, set_no_new_privs,
        set_thread_groups, set_thread_res_gid, set_thread_res_uid,
    },
};
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
};
use std::{collections::BTreeMap, fs, path::PathBuf};

/// A user of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
}

impl User {
    /// Looks a user up by name or number. A number that has no entry gets a group of the same number.
    pub(crate) fn find(name: &str) -> anyhow::Result<Self> {
        let passwd = fs::read_to_string("/etc/passwd").context("cannot read /etc/passwd")?;
        Self::find_in(&passwd, name)
            .with_context(|| format!("there is no user `{name}`; make one with `useradd --system {name}`"))
    }

    fn find_in(passwd: &str, name: &str) -> Option<Self> {
        let number = name.parse::<u32>().ok();
        let entry = passwd.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(':').collect();
            let user = Self { uid: fields.get(2)?.parse().ok()?, gid: fields.get(3)?.parse().ok()? };
            (fields[0] == name || number == Some(user.uid)).then_some(user)
        });
        entry.or(number.map(|number| Self { uid: number, gid: number }))
    }
}

/// What every thread gives away.
#[derive(Clone, Debug)]
pub(crate) struct Sandbox {
    /// Whom to become; `None`: stay.
    user: Option<User>,
    /// The folders that stay writable.
    folders: Vec<PathBuf>,
    /// Further folders that stay readable.
    read: Vec<PathBuf>,
    /// Whether rights are kept as they are.
    keeps: bool,
    /// Capabilities that are kept although all others are dropped, as far as they are there.
    rights: CapabilitySet,
}

impl Sandbox {
    /// What there is to give away here, and what is degraded about it.
    pub(crate) fn new(user: Option<User>, folders: Vec<PathBuf>, read: Vec<PathBuf>) -> (Self, Vec<String>) {
        let root = geteuid().is_root();
        let degraded = match user {
            Some(_) if !root => vec!["node.user is ignored: only root can become another user".into()],
            None if root => vec!["runs as root, without capabilities; set node.user".into()],
            _ => Vec::new(),
        };
        (Self { user: user.filter(|_| root), folders, read, keeps: false, rights: CapabilitySet::empty() }, degraded)
    }

    /// Gives nothing away but the way to new privileges: for threads that write to a device whose file checks that they are
    /// still who opened it, as the kernel does for the doorbells of RDMA devices that are software.
    pub(crate) const fn none() -> Self {
        let rights = CapabilitySet::empty();
        Self { user: None, folders: Vec::new(), read: Vec::new(), keeps: true, rights }
    }

    /// The same with some capabilities and folders more: for the one thread that keeps filters.
    pub(crate) fn keeping(&self, rights: CapabilitySet, folders: Vec<PathBuf>) -> Self {
        let folders = [self.folders.clone(), folders].concat();
        Self { folders, rights, ..self.clone() }
    }

    /// For the calling thread: becomes the user, drops all capabilities but those that it keeps, never gains privileges again, and touches no file
    /// outside the folders. Returns what the kernel does not know.
    pub(crate) fn enter(&self) -> anyhow::Result<Vec<String>> {
        if self.keeps {
            set_no_new_privs(true).context("cannot give up new privileges")?;
            return Ok(Vec::new());
        }
        let own = capabilities(None).context("cannot read capabilities")?;
        if let Some(User { uid, gid }) = self.user {
            set_keep_capabilities(true).context("cannot keep capabilities")?; // over the change of the user, until they are set
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            set_thread_groups(&[gid]).context("cannot leave root's groups")?;
            set_thread_res_gid(gid, gid, gid).context("cannot change the group")?;
            set_thread_res_uid(uid, uid, uid).context("cannot change the user")?;
        }
        let kept = own.permitted & self.rights;
        let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
        set_capabilities(None, sets).context("cannot drop capabilities")?;
        set_keep_capabilities(false).context("cannot give up keeping capabilities")?;
        debug_assert!(capabilities(None).is_ok_and(|sets| sets.permitted == kept));
        set_no_new_privs(true).context("cannot give up new privileges")?;
        self.restrict_files()
    }

    fn restrict_files(&self) -> anyhow::Result<Vec<String>> {
        let all = AccessFs::from_all(ABI::V5);
        let status = Ruleset::default()
            .handle_access(all)
            .and_then(Ruleset::create)
            .and_then(|ruleset| ruleset.add_rules(path_beneath_rules(&self.folders, all)))
            // The clock's and the processors' files, which are read while nothing is secret in them.
            .and_then(|ruleset| {
                ruleset.add_rules(path_beneath_rules(["/sys/devices/system"], AccessFs::from_read(ABI::V5)))
            })
            .and_then(|ruleset| ruleset.add_rules(path_beneath_rules(&self.read, AccessFs::from_read(ABI::V5))))
            .and_then(landlock::RulesetCreated::restrict_self)
            .context("cannot set up landlock")?;
        Ok(match status.ruleset {
            RulesetStatus::FullyEnforced => Vec::new(),
            RulesetStatus::PartiallyEnforced => {
                vec!["landlock holds only in part: the kernel is older than 6.10".into()]
            }
            RulesetStatus::NotEnforced => {
                vec!["files are not fenced in: the kernel has no landlock; add it to the lsm= boot parameter".into()]
            }
        })
    }
}

/// The system calls of a worker in its loop. First the drivers' own (see the driver's documentation), then what the
/// language's runtime needs to sleep, to panic, and to end a thread.
const WORKER_CALLS: &[i64] = &[
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    libc::SYS_recvmmsg,
    libc::SYS_sendmmsg,
    libc::SYS_ppoll,
    libc::SYS_getsockopt,
    libc::SYS_munmap,
    libc::SYS_close,
    // DPDK's software devices: packet sockets, capture files and the other side's eventfd.
    libc::SYS_sendto,
    libc::SYS_recvfrom,
    libc::SYS_poll,
    // The same, and the wakings of RDMA devices.
    libc::SYS_read,
    libc::SYS_lseek,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_futex,
    libc::SYS_sched_yield,
    libc::SYS_rt_sigreturn,
    libc::SYS_rt_sigprocmask,
    libc::SYS_sigaltstack,
    libc::SYS_restart_syscall,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_brk,
    libc::SYS_madvise,
    libc::SYS_mprotect,
    libc::SYS_mremap,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_tgkill,
    libc::SYS_exit,
    libc::SYS_exit_group,
];

/// `RDMA_VERBS_IOCTL` of `rdma/rdma_user_ioctl_cmds.h`: `_IOWR(0x1b, 1, struct ib_uverbs_ioctl_hdr)` with its 24 bytes.
const RDMA_VERBS_IOCTL: u64 = 0xc018_1b01;

/// Lets the process lock as much memory as it wants, or as much as it may: the kernel counts what RDMA devices are given.
/// What is refused for want of it says so.
pub(crate) fn raise_locked_memory() {
    let most = getrlimit(Resource::Memlock).maximum;
    if setrlimit(Resource::Memlock, Rlimit { current: None, maximum: None }).is_err() {
        let _ = setrlimit(Resource::Memlock, Rlimit { current: most, maximum: most }); // it is allowed to anybody
    }
}

/// The filter for worker threads: everything that is not listed fails with `EPERM`, memory is never made executable.
///
/// # Errors
/// The machine's architecture is unknown to the filter compiler.
pub(crate) fn worker_filter() -> anyhow::Result<BpfProgram> {
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = WORKER_CALLS.iter().map(|call| (*call, Vec::new())).collect();
    let executable = u64::from(libc::PROT_EXEC.cast_unsigned());
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        let masked = SeccompCmpOp::MaskedEq(executable);
        let not_executable = SeccompCondition::new(2, SeccompCmpArgLen::Dword, masked, 0)?;
        rules.insert(call, vec![SeccompRule::new(vec![not_executable])?]);
    }
    // What a queue pair's last owner does with it; that the calls are for the device's file cannot be said here.
    let verbs = SeccompCondition::new(1, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, RDMA_VERBS_IOCTL)?;
    rules.insert(libc::SYS_ioctl, vec![SeccompRule::new(vec![verbs])?]);
    let denied = SeccompAction::Errno(libc::EPERM.cast_unsigned());
    let filter = SeccompFilter::new(rules, denied, SeccompAction::Allow, std::env::consts::ARCH.try_into()?)?;
    Ok(filter.try_into()?)
}

/// Puts the calling thread behind a filter.
pub(crate) fn apply(filter: &BpfProgram) -> anyhow::Result<()> {
    Ok(seccompiler::apply_filter(filter)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{io::ErrorKind, net::UdpSocket, thread};

    #[test]
    fn finds_users_by_name_and_by_number() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\nbroken\nnode:x:801:802::/:/bin/false\n";
        let node = Some(User { uid: 801, gid: 802 });
        assert_eq!(User::find_in(passwd, "node"), node);
        assert_eq!(User::find_in(passwd, "801"), node);
        assert_eq!(User::find_in(passwd, "900"), Some(User { uid: 900, gid: 900 }));
        assert_eq!(User::find_in(passwd, "nobody-here"), None);
        assert_eq!(User::find("root").unwrap(), User { uid: 0, gid: 0 });
    }

    #[test]
    fn a_thread_in_the_sandbox_writes_only_to_its_folders() {
        let folder = std::env::temp_dir().join(format!("tachyond-sandbox-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (sandbox, _) = Sandbox::new(None, vec![folder.clone()], vec!["/proc/sys/kernel".into()]);
        let inside = folder.clone();
        thread::spawn(move || {
            let degraded = sandbox.enter().unwrap();
            fs::write(inside.join("a"), "a").unwrap();
            assert!(fs::read("/proc/sys/kernel/ostype").is_ok(), "a folder to read");
            if degraded.is_empty() {
                let outside = inside.with_extension("outside");
                assert_eq!(fs::write(outside, "a").unwrap_err().kind(), ErrorKind::PermissionDenied);
                assert_eq!(fs::read("/etc/passwd").unwrap_err().kind(), ErrorKind::PermissionDenied);
            }
            assert!(capabilities(None).unwrap().effective.is_empty());
        })
        .join()
        .unwrap();
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_thread_keeps_the_capabilities_it_has_to_and_no_other_also_as_another_user() {
        if !geteuid().is_root() {
            return println!("skipped: giving rights away needs some, so root");
        }
        let user = Some(User { uid: 65_534, gid: 65_534 });
        let (sandbox, _) = Sandbox::new(user, vec![std::env::temp_dir()], Vec::new());
        let had = capabilities(None).unwrap().permitted;
        for wanted in [CapabilitySet::NET_ADMIN | CapabilitySet::NET_RAW, CapabilitySet::empty()] {
            let sandbox = sandbox.keeping(wanted, Vec::new());
            let entered = thread::spawn(move || {
                sandbox.enter().unwrap();
                (capabilities(None).unwrap(), rustix::thread::get_keep_capabilities().unwrap(), geteuid().as_raw())
            });
            let (sets, keeps, uid) = entered.join().unwrap();
            assert_eq!((sets.effective, sets.permitted), (wanted & had, wanted & had));
            assert!(sets.inheritable.is_empty() && !keeps && uid == 65_534);
        }
    }

    #[test]
    fn a_filtered_thread_can_compute_and_panic_but_open_nothing() {
        let end = thread::spawn(|| {
            apply(&worker_filter().unwrap()).unwrap();
            assert_eq!(UdpSocket::bind("127.0.0.1:0").unwrap_err().kind(), ErrorKind::PermissionDenied);
            assert_eq!(fs::read("/proc/self/maps").unwrap_err().kind(), ErrorKind::PermissionDenied);
            // bpf(2) is housekeeping's alone.
            assert!(!WORKER_CALLS.contains(&libc::SYS_bpf));
            let large = vec![1u8; 8 << 20];
            thread::sleep(std::time::Duration::from_millis(1));
            std::panic::catch_unwind(|| panic!("expected")).unwrap_err();
            large.len()
        });
        assert_eq!(end.join().unwrap(), 8 << 20);
    }
}
