//! Two network namespaces with a cable between them, and a bpf file system for pins. All of it goes when this is dropped.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "in a test a failure is a panic, in its helpers too, and what is skipped is said"
)]

use rustix::{
    fs::{CWD, Mode, OFlags, openat},
    mount::{MountFlags, UnmountFlags, mount, unmount},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use std::{
    fs,
    net::UdpSocket,
    os::fd::AsFd,
    path::PathBuf,
    process::Command,
    sync::atomic::{AtomicU32, Ordering},
    thread,
};

/// The publisher's address, and its second one.
pub(crate) const PUBLISHER: &str = "10.77.0.1";
pub(crate) const OTHER: &str = "10.77.0.66";
/// The node's; its interface is `b`.
pub(crate) const NODE: &str = "10.77.0.2";

pub(crate) struct Cable {
    name: String,
    pub(crate) pins: PathBuf,
}

/// Runs a program with these words, and fails if it does.
fn run(program: &str, words: &str) {
    let output = Command::new(program).args(words.split(' ')).output().unwrap();
    assert!(output.status.success(), "{program} {words}: {}", String::from_utf8_lossy(&output.stderr));
}

impl Cable {
    /// `None`, with a line that says why, where this may not be made.
    pub(crate) fn new() -> Option<Self> {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let is_there = |program: &str, word: &str| Command::new(program).arg(word).output().is_ok();
        if !rustix::process::geteuid().is_root() || !is_there("ip", "-V") || !is_there("ethtool", "--version") {
            println!("skipped: filters at a device need root, ip (iproute2) and ethtool");
            return None;
        }
        let name = format!("txn{}x{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let pins = std::env::temp_dir().join(&name);
        fs::create_dir(&pins).unwrap();
        mount("bpf", &pins, "bpf", MountFlags::empty(), None).unwrap();
        let cable = Self { name, pins };
        let (there, here) = (cable.there(), cable.here());
        for namespace in [&there, &here] {
            run("ip", &format!("netns add {namespace}"));
            // Neighbour discovery would come in between what is counted.
            let off = "net.ipv6.conf.all.disable_ipv6=1 net.ipv6.conf.default.disable_ipv6=1";
            run("ip", &format!("netns exec {namespace} sysctl -qw {off}"));
            run("ip", &format!("-n {namespace} link set dev lo up"));
        }
        // A queue for each of two workers; everything comes on the first, as the other end has but one to send from.
        let far = "name a address 02:00:00:00:78:01 numrxqueues 1 numtxqueues 1";
        let near = format!("name b address 02:00:00:00:78:02 numrxqueues 2 numtxqueues 2 netns {here}");
        run("ip", &format!("-n {there} link add {far} type veth peer {near}"));
        for (namespace, device, address) in [(&there, "a", PUBLISHER), (&there, "a", OTHER), (&here, "b", NODE)] {
            run("ip", &format!("-n {namespace} address add {address}/24 dev {device}"));
        }
        // Checksums that the kernel leaves to a device nobody has would be wrong in a driver's eyes.
        run("ip", &format!("netns exec {there} ethtool -K a tx off"));
        run("ip", &format!("-n {there} link set dev a up"));
        run("ip", &format!("-n {here} link set dev b up"));
        // With fixed neighbours nothing but the test's own packets is on the cable.
        run("ip", &format!("-n {there} neighbour replace {NODE} lladdr 02:00:00:00:78:02 dev a nud permanent"));
        for address in [PUBLISHER, OTHER] {
            run("ip", &format!("-n {here} neighbour replace {address} lladdr 02:00:00:00:78:01 dev b nud permanent"));
        }
        Some(cable)
    }

    /// The publisher's namespace.
    fn there(&self) -> String {
        format!("{}a", self.name)
    }

    /// The node's.
    fn here(&self) -> String {
        format!("{}b", self.name)
    }

    /// Whether the node's interface has an XDP program.
    pub(crate) fn has_program(&self) -> bool {
        let output = Command::new("ip").args(["-n", &self.here(), "link", "show", "dev", "b"]).output().unwrap();
        String::from_utf8_lossy(&output.stdout).contains("prog/xdp")
    }

    /// Makes an interface beside the cable, in the node's namespace.
    pub(crate) fn add_interface(&self, name: &str) {
        run("ip", &format!("-n {} link add {name} type veth peer name far", self.here()));
    }

    /// Does something where the node is, on a thread that goes there and ends; processes that it starts stay there.
    pub(crate) fn at_node<T: Send>(&self, what: impl FnOnce() -> T + Send) -> T {
        within(&self.here(), what)
    }

    /// A publisher's socket.
    pub(crate) fn socket(&self, address: &str, port: u16) -> UdpSocket {
        within(&self.there(), || UdpSocket::bind((address, port)).unwrap())
    }
}

fn within<T: Send>(namespace: &str, what: impl FnOnce() -> T + Send) -> T {
    let path = format!("/run/netns/{namespace}");
    thread::scope(|scope| {
        let inside = scope.spawn(|| {
            let file = openat(CWD, path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty()).unwrap();
            move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::Network)).unwrap();
            what()
        });
        inside.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

impl Drop for Cable {
    fn drop(&mut self) {
        for namespace in [self.there(), self.here()] {
            let _ = Command::new("ip").args(["netns", "delete", &namespace]).status();
        }
        let _ = unmount(&self.pins, UnmountFlags::DETACH);
        let _ = fs::remove_dir(&self.pins);
    }
}
