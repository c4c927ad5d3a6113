//! The part of the node file that names devices: `[dpdk]` and `[[ports]]`.
//!
//! What ends up in a device argument of DPDK (names, paths, interfaces) is a type that only its own parser makes. DPDK
//! splits arguments at commas and equals signs, so a character too many would be a further argument; here it is an error
//! with a place.

use crate::node_file::{power_of_two, within};
use serde::{
    Deserialize, Deserializer,
    de::{SeqAccess, Visitor, value::SeqAccessDeserializer},
};
use std::{fmt, net::IpAddr};

/// Most ports of a node.
pub const PORTS_MAX: usize = 16;
/// Most addresses of a port.
pub const ADDRESSES_MAX: usize = 8;
/// Longest interface name: the kernel's `IFNAMSIZ` without its final zero.
const INTERFACE_BYTES_MAX: usize = 15;
/// Longest port name, which is also what a record between the processes has room for.
const NAME_BYTES_MAX: usize = 16;
/// Longest path: what a Unix socket address holds (`sun_path`), without its final zero.
const PATH_BYTES_MAX: usize = 107;

/// DPDK itself; only read with `driver = "dpdk"`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DpdkSection {
    /// DPDK's own memory in MiB: descriptors and buffer headers. Buffers lie in the arena.
    #[serde(deserialize_with = "within::<16, 16_384, _, _>")]
    pub memory_mb: u32,
    /// Whether that memory is on huge pages.
    pub huge_pages: HugePages,
    /// Descriptors of a queue to receive into.
    #[serde(deserialize_with = "power_of_two::<64, 4_096, _, _>")]
    pub receive_descriptors: u16,
    /// Descriptors of a queue to send from.
    #[serde(deserialize_with = "power_of_two::<64, 4_096, _, _>")]
    pub transmit_descriptors: u16,
}

impl Default for DpdkSection {
    fn default() -> Self {
        // 1,024 is what NICs of 25 Gbit/s and more are usually run with: 0.5 ms of full frames at line rate.
        Self { memory_mb: 64, huge_pages: HugePages::Auto, receive_descriptors: 1_024, transmit_descriptors: 1_024 }
    }
}

/// Whether to use huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HugePages {
    /// Where there are some; if not, go on without and say so.
    Auto,
    /// Use them, or do not start.
    On,
    /// Do not.
    Off,
}

/// One device and how it takes part in IP.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PortSection {
    /// What people call it; unique.
    pub name: PortName,
    /// The device.
    pub device: Device,
    /// Its addresses, each with its network; at least one.
    pub addresses: Vec<Network>,
    /// Where frames to other networks go: at most one of each family.
    #[serde(rename = "gateway", default, deserialize_with = "one_or_several")]
    pub gateways: Vec<IpAddr>,
    /// Its VLAN, 1 to 4,094; `None`: frames carry no tag.
    #[serde(default, deserialize_with = "vlan")]
    pub vlan: Option<u16>,
    /// Largest IP packet in bytes.
    #[serde(default = "mtu_default", deserialize_with = "within::<576, 9_000, _, _>")]
    pub mtu: u16,
    /// Its hardware address, for devices that have none of their own.
    #[serde(default)]
    pub mac: Option<Mac>,
    /// Neighbours that are known without asking.
    #[serde(default)]
    pub neighbours: Vec<Neighbour>,
}

impl PortSection {
    /// Largest frame in bytes, header included, that fits every packet of this port: without the 20 bytes of an IPv4
    /// header or the 40 of an IPv6 one, and the 8 of UDP, rounded down to lines of 64.
    #[must_use]
    pub fn frame_bytes_max(&self) -> u32 {
        let headers = if self.has_ipv6() { 48 } else { 28 };
        u32::from(self.mtu.saturating_sub(headers)) / 64 * 64
    }

    /// Whether one of its addresses is IPv6.
    #[must_use]
    pub fn has_ipv6(&self) -> bool {
        self.addresses.iter().any(|network| network.ip().is_ipv6())
    }
}

/// Ethernet's classic MTU.
pub(crate) const MTU_DEFAULT: u16 = 1_500;

const fn mtu_default() -> u16 {
    MTU_DEFAULT
}

/// A neighbour that is known without asking.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Neighbour {
    /// Its address, in one of the port's networks.
    pub ip: IpAddr,
    /// Its hardware address.
    pub mac: Mac,
}

/// What a port stands on.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Device {
    /// A NIC that the kernel has let go of.
    Pci(PciAddress),
    /// Takes and drops everything that is sent; receives empty frames without end, or nothing.
    Null {
        /// Bytes of the frames that it makes up.
        #[serde(default = "null_bytes", deserialize_with = "within::<64, 9_018, _, _>")]
        frame_bytes: u32,
        /// Whether it makes up any.
        #[serde(default = "yes")]
        receive: bool,
    },
    /// What is sent is received again.
    Ring {},
    /// Shared memory with another process.
    Memif {
        /// The Unix socket on which both meet.
        socket: DevicePath,
        /// Which of the connections over that socket.
        #[serde(default)]
        id: u32,
        /// Which end this is.
        role: Role,
    },
    /// A kernel interface, through packet sockets.
    AfPacket {
        /// Its name.
        interface: Interface,
    },
    /// A kernel interface, through `AF_XDP`.
    AfXdp {
        /// Its name.
        interface: Interface,
    },
    /// Capture files; at least one.
    Pcap {
        /// What is received.
        read: Option<DevicePath>,
        /// Where what is sent goes; overwritten.
        write: Option<DevicePath>,
    },
    /// A virtio device that the kernel (`/dev/vhost-net`) or another process serves.
    VirtioUser {
        /// The device file, or the other process's socket.
        path: DevicePath,
    },
}

/// DPDK's own is 64; this one is a full frame of Ethernet at MTU 1500.
const fn null_bytes() -> u32 {
    1_514
}

const fn yes() -> bool {
    true
}

/// Which end of a memif connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Makes the socket.
    Server,
    /// Connects to it, and owns the memory.
    Client,
}

impl fmt::Display for Device {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Pci(address) => write!(f, "pci {address}"),
            Self::Null { .. } => f.write_str("null"),
            Self::Ring {} => f.write_str("ring"),
            Self::Memif { socket, id, .. } => write!(f, "memif {id} at {socket}"),
            Self::AfPacket { interface } => write!(f, "af_packet {interface}"),
            Self::AfXdp { interface } => write!(f, "af_xdp {interface}"),
            Self::Pcap { read, write } => {
                f.write_str("pcap")?;
                read.iter().try_for_each(|path| write!(f, " from {path}"))?;
                write.iter().try_for_each(|path| write!(f, " to {path}"))
            }
            Self::VirtioUser { path } => write!(f, "virtio_user {path}"),
        }
    }
}

impl Device {
    /// What no other port may have too; `None` for devices of which there is one for everybody.
    pub(crate) fn claim(&self) -> Option<String> {
        match self {
            Self::Null { .. } | Self::Ring {} => None,
            Self::Memif { .. } | Self::Pci(_) => Some(self.to_string()),
            Self::AfPacket { interface } | Self::AfXdp { interface } => Some(format!("interface {interface}")),
            Self::Pcap { write, .. } => write.as_ref().map(|path| format!("file {path}")),
            // Every opening of the kernel's device file is a device of its own.
            Self::VirtioUser { path } => {
                Some(format!("virtio_user {path}")).filter(|_| !path.as_str().starts_with("/dev/"))
            }
        }
    }
}

/// Declares a type of text that only its parser makes.
macro_rules! checked_text {
    ($(#[$doc:meta])* $name:ident, $check:expr) => {
        $(#[$doc])*
        #[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
        #[serde(try_from = "String")]
        pub struct $name(String);

        impl $name {
            /// The text, which fits a device argument as it is.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl TryFrom<String> for $name {
            type Error = String;

            fn try_from(text: String) -> Result<Self, String> {
                let check: fn(&str) -> Result<(), String> = $check;
                check(&text)?;
                Ok(Self(text))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}

checked_text! {
    /// A port's name: 1 to 16 of `a-z`, `0-9` and `-`.
    PortName, |text| {
        let known = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if (1..=NAME_BYTES_MAX).contains(&text.len()) && text.bytes().all(known) {
            return Ok(());
        }
        Err(format!("{text:?} is no port name: choose 1 to {NAME_BYTES_MAX} of a-z, 0-9 and -"))
    }
}

checked_text! {
    /// A kernel interface: 1 to 15 letters, digits, `.`, `_` and `-`.
    Interface, |text| {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        let fits = (1..=INTERFACE_BYTES_MAX).contains(&text.len()) && text != "." && text != "..";
        if fits && text.bytes().all(known) {
            return Ok(());
        }
        let named = format!("1 to {INTERFACE_BYTES_MAX} letters, digits, dots, underscores and hyphens");
        Err(format!("{text:?} is no interface name that a device can have: choose one of {named} (`ip link` lists them)"))
    }
}

checked_text! {
    /// A path of at most 107 bytes without anything that would end or split a device argument.
    DevicePath, |text| {
        // What is allowed is listed rather than what is not: brackets, quotes and more mean something to some device.
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"/._-+@:~".contains(&byte);
        if (1..=PATH_BYTES_MAX).contains(&text.len()) && text.bytes().all(known) {
            return Ok(());
        }
        let allowed = format!("at most {PATH_BYTES_MAX} of letters, digits and / . _ - + @ : ~");
        Err(format!("{text:?} cannot be part of a device's arguments: choose a path with {allowed}"))
    }
}

checked_text! {
    /// Where a PCI function is: domain, bus, device and function, such as `0000:01:00.0`.
    PciAddress, |text| {
        let shape = b"dddd:bb:vv.f";
        let right = |(byte, place): (u8, &u8)| match place {
            b':' | b'.' => byte == *place,
            b'f' => (b'0'..=b'7').contains(&byte),
            _ => byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte),
        };
        let device = text.get(8..10).and_then(|hex| u8::from_str_radix(hex, 16).ok());
        let fits = text.len() == shape.len() && text.bytes().zip(shape).all(right);
        if fits && device.is_some_and(|device| device < 32) {
            return Ok(());
        }
        Err(format!("{text:?} is no PCI address: choose one such as 0000:01:00.0, in small letters (`lspci -D` lists them)"))
    }
}

/// A hardware address of one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Mac([u8; 6]);

impl Mac {
    /// Its bytes, as on the wire.
    #[must_use]
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }
}

impl TryFrom<String> for Mac {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let byte = |part: &str| u8::from_str_radix(part, 16).ok().filter(|_| part.len() == 2 && !part.starts_with('+'));
        let bytes: Option<Vec<u8>> = text.split(':').map(byte).collect();
        let octets = bytes.and_then(|bytes| <[u8; 6]>::try_from(bytes).ok());
        // The lowest bit of the first byte marks groups; all zeros is nobody.
        match octets.filter(|octets| octets[0] & 1 == 0 && *octets != [0; 6]) {
            Some(octets) => Ok(Self(octets)),
            None => Err(format!("{text:?} is no hardware address of one device: choose one such as 02:00:00:00:00:01")),
        }
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

/// An address and the network around it, such as `10.0.1.1/24`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    ip: IpAddr,
    prefix: u8,
}

impl Network {
    /// The port's own address in it.
    #[must_use]
    pub const fn ip(&self) -> IpAddr {
        self.ip
    }

    /// Leading bits that all its addresses share: 1 to 32, or to 128.
    #[must_use]
    pub const fn prefix(&self) -> u8 {
        self.prefix
    }

    /// Whether an address is in this network.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        same_bits(self.ip, ip, self.prefix)
    }

    /// Whether some address is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        same_bits(self.ip, other.ip, self.prefix.min(other.prefix))
    }

    /// Whether the host bits are all zero, or all one, which no host's are.
    fn is_nobody(&self) -> bool {
        let (bits, width) = bits(self.ip);
        let host = width - u32::from(self.prefix);
        let mask = 1_u128.checked_shl(host).map_or(u128::MAX, |bit| bit - 1);
        // Networks of one or two addresses have neither a network nor a broadcast address (RFC 3021, RFC 6164).
        host > 1 && (bits & mask == 0 || (self.ip.is_ipv4() && bits & mask == mask))
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = |what: &str| Err(format!("{text:?} {what}: choose one such as 10.0.1.1/24 or fd00::1/64"));
        let Some((ip, prefix)) = text.split_once('/') else { return wrong("has no network") };
        let (Ok(ip), Ok(prefix)) = (ip.parse::<IpAddr>(), prefix.parse::<u8>()) else {
            return wrong("is no address with a network");
        };
        let network = Self { ip, prefix };
        let width = bits(ip).1;
        if prefix == 0 || u32::from(prefix) > width {
            return wrong(&format!("has a network outside of /1 to /{width}"));
        }
        if !is_of_one_host(ip) || network.is_nobody() {
            return wrong("is not the address of one host on a link");
        }
        Ok(network)
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.prefix)
    }
}

/// Whether an address can be one port's. Link-local IPv6 is out: an endpoint has no room for a zone.
fn is_of_one_host(ip: IpAddr) -> bool {
    let other = match ip {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip.to_ipv4_mapped().is_some(),
    };
    !(other || ip.is_unspecified() || ip.is_multicast() || ip.is_loopback())
}

/// An address as a number, and how many bits it has.
const fn bits(ip: IpAddr) -> (u128, u32) {
    match ip {
        IpAddr::V4(ip) => (ip.to_bits() as u128, 32),
        IpAddr::V6(ip) => (ip.to_bits(), 128),
    }
}

fn same_bits(one: IpAddr, other: IpAddr, prefix: u8) -> bool {
    let ((one, width), (other, other_width)) = (bits(one), bits(other));
    width == other_width && (one ^ other).checked_shr(width - u32::from(prefix)).unwrap_or(0) == 0
}

fn vlan<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u16>, D::Error> {
    within::<1, 4_094, _, _>(from).map(Some)
}

/// One address, or a list of them.
fn one_or_several<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<IpAddr>, D::Error> {
    struct Addresses;
    impl<'de> Visitor<'de> for Addresses {
        type Value = Vec<IpAddr>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("an IP address or a list of them")
        }

        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
            let wrong = |_| E::custom(format!("{text:?} is no IP address: choose one such as 10.0.1.254"));
            text.parse().map(|ip| vec![ip]).map_err(wrong)
        }

        fn visit_seq<A: SeqAccess<'de>>(self, list: A) -> Result<Self::Value, A::Error> {
            Vec::deserialize(SeqAccessDeserializer::new(list))
        }
    }
    from.deserialize_any(Addresses)
}
