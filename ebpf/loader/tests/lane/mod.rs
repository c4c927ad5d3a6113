//! Two network namespaces with a cable between them, and a bpf file system for pins. All of it goes when this is dropped.
#![allow(dead_code, reason = "each test file uses a part of this")]

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    mount::{MountFlags, UnmountFlags, mount, unmount},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fs,
    os::fd::AsFd,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering::Relaxed},
    thread,
};

/// The sender's addresses; the second is on deny lists.
pub(crate) const SENDER: &str = "10.77.0.1";
pub(crate) const DENIED: &str = "10.77.0.66";
/// The receiver's.
pub(crate) const RECEIVER: &str = "10.77.0.2";

pub(crate) struct Lane {
    name: String,
    pub(crate) pins: PathBuf,
}

/// Runs `ip` with these words, and fails if it does.
fn ip(words: &str) {
    let output = Command::new("ip").args(words.split(' ')).output().expect("ip runs");
    assert!(output.status.success(), "ip {words}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Whether a lane can be made; says so if not.
pub(crate) fn can_be_made() -> bool {
    let tool = Command::new("ip").arg("-V").output().is_ok();
    if !tool {
        println!("skipped: network namespaces need `ip` (apt-get install iproute2)");
    }
    tool && crate::bed::is_root()
}

impl Lane {
    pub(crate) fn new() -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("tpf{}x{}", std::process::id(), MADE.fetch_add(1, Relaxed));
        let pins = std::env::temp_dir().join(&name);
        fs::create_dir(&pins).expect("a folder");
        mount("bpf", &pins, "bpf", MountFlags::empty(), None).expect("a bpf file system");
        let lane = Self { name, pins };
        let (from, to) = (lane.sender(), lane.receiver());
        for namespace in [&from, &to] {
            ip(&format!("netns add {namespace}"));
            // Neighbour discovery would come in between what is counted.
            let off = "net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1";
            ip(&format!("netns exec {namespace} sysctl -qw {off}"));
            ip(&format!("-n {namespace} link set dev lo up"));
        }
        ip(&format!(
            "-n {from} link add name a address 02:00:00:00:77:01 type veth peer name b address 02:00:00:00:77:02 netns {to}"
        ));
        for (namespace, device, address) in [(&from, "a", SENDER), (&from, "a", DENIED), (&to, "b", RECEIVER)] {
            ip(&format!("-n {namespace} address add {address}/24 dev {device}"));
        }
        ip(&format!("-n {from} link set dev a up"));
        ip(&format!("-n {to} link set dev b up"));
        // With fixed neighbours nothing but the test's own packets is on the cable.
        ip(&format!("-n {from} neighbour replace {RECEIVER} lladdr 02:00:00:00:77:02 dev a nud permanent"));
        for address in [SENDER, DENIED] {
            ip(&format!("-n {to} neighbour replace {address} lladdr 02:00:00:00:77:01 dev b nud permanent"));
        }
        lane
    }

    pub(crate) fn sender(&self) -> String {
        format!("{}a", self.name)
    }

    pub(crate) fn receiver(&self) -> String {
        format!("{}b", self.name)
    }

    /// What the device of the receiver counted.
    pub(crate) fn packets_received(&self) -> u64 {
        let path = "/sys/class/net/b/statistics/rx_packets";
        let output =
            Command::new("ip").args(["netns", "exec", &self.receiver(), "cat", path]).output().expect("ip runs");
        String::from_utf8_lossy(&output.stdout).trim().parse().expect("a number")
    }
}

/// Does something in a network namespace, on a thread that enters it and ends.
pub(crate) fn within<T: Send>(namespace: &str, what: impl FnOnce() -> T + Send) -> T {
    let path = format!("/run/netns/{namespace}");
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).expect("a namespace");
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).expect("inside");
            what()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Drop for Lane {
    fn drop(&mut self) {
        for namespace in [self.sender(), self.receiver()] {
            let _ = Command::new("ip").args(["netns", "delete", &namespace]).status();
        }
        let _ = unmount(&self.pins, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.pins);
    }
}
