//! Veth pairs between two network namespaces that end with the process: `us0`, `us1` … are in the one that the process is in,
//! `them0`, `them1` … in the other, and packets come from there.

use crate::kernel;
use anyhow::{Context, Result, ensure};
use rustix::{
    mount::{MountFlags, MountPropagationFlags, mount, mount_change},
    net::{AddressFamily, SocketType, netdevice, socket},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};
use std::{
    fs::File,
    net::Ipv4Addr,
    os::fd::{AsFd, AsRawFd, OwnedFd},
    process::Command,
};

pub(crate) const US: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
pub(crate) const THEM: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);
pub(crate) const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
pub(crate) const THEIR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];

/// The two namespaces.
pub(crate) struct Bed {
    ours: File,
    theirs: File,
}

/// One pair, with what sends from its far end.
pub(crate) struct Cable {
    number: usize,
    pub(crate) us: u32,
    pub(crate) them: u32,
    sender: OwnedFd,
}

/// Runs a tool to its end.
pub(crate) fn tool(words: &str) -> Result<String> {
    let mut words = words.split(' ');
    let mut command = Command::new(words.next().unwrap_or_default());
    command.args(words);
    let output = command.output().with_context(|| format!("cannot start {command:?}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?} ended with {}: {}", output.status, said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn new_namespace() -> Result<File> {
    kernel::unshare(UnshareFlags::NEWNET).context("a network namespace needs root")?;
    Ok(File::open("/proc/thread-self/ns/net")?)
}

fn enter(namespace: &File) -> Result<()> {
    Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
}

/// The kernel's number of an interface of this namespace.
fn index_of(interface: &str) -> Result<u32> {
    let socket = socket(AddressFamily::INET, SocketType::DGRAM, None)?;
    netdevice::name_to_index(&socket, interface).with_context(|| format!("there is no {interface}"))
}

impl Bed {
    /// Takes the process into namespaces of its own, with a file system for pinned programs that nobody else sees.
    pub(crate) fn new() -> Result<Self> {
        kernel::unshare(UnshareFlags::NEWNS).context("a mount namespace needs root")?;
        mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
        mount("bpf", "/sys/fs/bpf", "bpf", MountFlags::empty(), None).context("a bpf file system at /sys/fs/bpf")?;
        let theirs = new_namespace()?;
        let ours = new_namespace()?;
        tool("ip link set lo up")?;
        Ok(Self { ours, theirs })
    }

    /// Does something in the other namespace.
    pub(crate) fn there<T>(&self, what: impl FnOnce() -> Result<T>) -> Result<T> {
        enter(&self.theirs)?;
        let result = what();
        enter(&self.ours)?;
        result
    }

    /// Makes pair number `number`. The first has addresses, and each end knows the other's.
    pub(crate) fn cable(&self, number: usize) -> Result<Cable> {
        let mac = |mac: [u8; 6]| mac.map(|byte| format!("{byte:02x}")).join(":");
        let (ours, theirs) = (mac(OUR_MAC), mac(THEIR_MAC));
        let there = format!("/proc/{}/fd/{}", std::process::id(), self.theirs.as_raw_fd());
        tool(&format!("ip link add us{number} address {ours} type veth peer name them{number} address {theirs}"))?;
        tool(&format!("ip link set them{number} netns {there}"))?;
        let up = |name: &str, own: Ipv4Addr, other: Ipv4Addr, other_mac: &str| -> Result<u32> {
            tool(&format!("ip link set {name}{number} up"))?;
            if number == 0 {
                tool(&format!("ip addr add {own}/24 dev {name}{number}"))?;
                tool(&format!("ip neigh replace {other} lladdr {other_mac} dev {name}{number} nud permanent"))?;
            }
            index_of(&format!("{name}{number}"))
        };
        let us = up("us", US, THEM, &theirs)?;
        let them = self.there(|| up("them", THEM, US, &ours))?;
        let sender = kernel::send_through(them).context("the program that sends")?;
        Ok(Cable { number, us, them, sender })
    }
}

impl Cable {
    /// Name of our end.
    pub(crate) fn name(&self) -> String {
        format!("us{}", self.number)
    }

    /// Puts copies of a packet onto the wire from the far end. Our end's driver polls them, and its program runs, before
    /// this returns, as a rule: the soft interrupt runs as soon as a batch is on the wire.
    pub(crate) fn send(&self, bed: &Bed, packet: &[u8], count: u32) -> Result<()> {
        bed.there(|| {
            kernel::run(self.sender.as_fd(), packet, count, true)
                .with_context(|| format!("{count} packets cannot be put onto the wire"))?;
            Ok(())
        })
    }

    /// Packets that the program on our end was given since the interface was made.
    pub(crate) fn seen(&self) -> Result<u64> {
        let text = tool(&format!("ethtool -S {}", self.name()))?;
        let counts = text.lines().filter_map(|line| line.trim().split_once(": "));
        let mut packets = counts.filter(|(name, _)| name.ends_with("_xdp_packets") && name.starts_with("rx_queue"));
        packets.try_fold(0, |sum, (_, count)| Ok(sum + count.parse::<u64>()?))
    }
}
