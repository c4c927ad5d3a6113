//! The devices that a port can stand on, typed, and the names that DPDK has for them.

use crate::ports::PLAIN_BYTES;
use std::{
    ffi::CString,
    fmt,
    path::{Path, PathBuf},
    str::FromStr,
};
use tachyon_driver_api::PortError;

/// Where a device is on the PCI bus, such as `0000:01:00.0`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PciAddress {
    domain: u16,
    bus: u8,
    device: u8,
    function: u8,
}

impl fmt::Display for PciAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04x}:{:02x}:{:02x}.{:x}", self.domain, self.bus, self.device, self.function)
    }
}

impl FromStr for PciAddress {
    type Err = PortError;

    fn from_str(text: &str) -> Result<Self, PortError> {
        let parse = || {
            let (domain, rest) = text.split_once(':')?;
            let (bus, rest) = rest.split_once(':')?;
            let (device, function) = rest.split_once('.')?;
            let number = |text: &str, most: u32, digits: usize| {
                let plain = text.len() == digits && text.bytes().all(|byte| byte.is_ascii_hexdigit());
                u32::from_str_radix(text, 16).ok().filter(|number| plain && *number <= most)
            };
            Some(Self {
                domain: u16::try_from(number(domain, 0xffff, 4)?).ok()?,
                bus: u8::try_from(number(bus, 0xff, 2)?).ok()?,
                device: u8::try_from(number(device, 0x1f, 2)?).ok()?,
                function: u8::try_from(number(function, 7, 1)?).ok()?,
            })
        };
        parse().ok_or_else(|| {
            PortError(format!("\"{text}\" is no PCI address: write it as 0000:01:00.0 (see `lspci -D`)"))
        })
    }
}

/// What a port stands on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Device {
    /// A device on the PCI bus: bound to vfio-pci, or one whose kernel driver shares it (mlx5).
    Pci(PciAddress),
    /// Swallows what is sent; as often as it is asked it receives a full burst of frames that are not ours, or nothing.
    Null {
        /// Bytes of each packet it makes up.
        packet_bytes: u16,
        /// Whether it receives.
        receive: bool,
    },
    /// What is sent comes back.
    Ring,
    /// One of two ports of this process that are connected: what one sends the other receives, in the sender's memory, from
    /// where it is copied. For one worker each.
    Crossed {
        /// What both ends are called; unique in the process.
        cable: String,
        /// Which end this is.
        far: bool,
    },
    /// Rings in memory that another process shares.
    Memif {
        /// The Unix socket over which both sides meet.
        socket: PathBuf,
        /// The number of this pair at that socket.
        id: u32,
        /// Whether this side makes the socket.
        server: bool,
    },
    /// A kernel interface through packet sockets.
    AfPacket(String),
    /// A kernel interface through XDP sockets.
    AfXdp {
        /// The interface.
        interface: String,
        /// The object file of the XDP program that gives them packets, in a map called `xsks_map` by receive queue; without
        /// one the driver has a program of its own that gives them everything. The driver loads it, keeps it on the interface
        /// while the port is open, and refuses an interface that has one already.
        program: Option<PathBuf>,
    },
    /// Capture files: what is read is received, what is sent is written.
    Pcap {
        /// The file to receive; it may appear later.
        read: Option<PathBuf>,
        /// The file to write.
        write: Option<PathBuf>,
    },
    /// A virtio device whose other side is a kernel's or a program's vhost.
    VirtioUser(PathBuf),
}

/// Ethernet header and VLAN tag.
const FRAMING_BYTES: u32 = 18;
/// Packets of XDP sockets are in DPDK's own memory, of which the kernel keeps 256 bytes in front of what it receives
/// (`XDP_PACKET_HEADROOM`).
const XDP_MTU_MAX: u16 = (PLAIN_BYTES - 256 - FRAMING_BYTES) as u16;
/// Longest interface name (`IFNAMSIZ` of Linux, with its final zero).
const INTERFACE_BYTES_MAX: usize = 15;

impl Device {
    /// The name of its driver in DPDK.
    #[must_use]
    pub const fn driver(&self) -> &'static str {
        match self {
            Self::Pci(_) => "pci",
            Self::Null { .. } => "net_null",
            Self::Ring | Self::Crossed { .. } => "net_ring",
            Self::Memif { .. } => "net_memif",
            Self::AfPacket(_) => "net_af_packet",
            Self::AfXdp { .. } => "net_af_xdp",
            Self::Pcap { .. } => "net_pcap",
            Self::VirtioUser(_) => "net_virtio_user",
        }
    }

    /// Name and arguments for DPDK, or why it cannot be. `serial` makes the name unique, `queues` is how many there will be.
    pub(crate) fn name(&self, serial: u32, queues: u16) -> Result<(CString, CString), PortError> {
        let (name, arguments) = match self {
            Self::Pci(address) => (address.to_string(), String::new()),
            Self::Null { packet_bytes, receive } => {
                let no_rx = u8::from(!receive);
                (format!("net_null{serial}"), format!("size={packet_bytes},copy=0,no-rx={no_rx}"))
            }
            Self::Ring => (format!("net_ring{serial}"), String::new()),
            Self::Crossed { cable, .. } if plain(cable) && cable.len() <= CABLE_BYTES_MAX => {
                (format!("crossed{serial}"), String::new())
            }
            Self::Crossed { cable, .. } => return Err(PortError(format!("\"{cable}\" is no name for a cable"))),
            Self::Memif { socket, id, server } => {
                let role = if *server { "server" } else { "client" };
                let socket = plain_path(socket)?;
                // Copy mode: the other one is refused while memory that is not DPDK's own is registered.
                (
                    format!("net_memif{serial}"),
                    format!(
                        "role={role},id={id},socket={socket},socket-abstract=no,zero-copy=no,bsize={MEMIF_BYTES},rsize=10"
                    ),
                )
            }
            Self::AfPacket(interface) => {
                let interface = plain_interface(interface)?;
                (
                    format!("net_af_packet{serial}"),
                    format!("iface={interface},qpairs={queues},blocksz=65536,framesz=2048,framecnt=1024"),
                )
            }
            Self::AfXdp { interface, program } => {
                let interface = plain_interface(interface)?;
                let mut arguments = format!("iface={interface},start_queue=0,queue_count={queues}");
                if let Some(path) = program {
                    arguments.push_str(&format!(",xdp_prog={}", plain_path(path)?));
                }
                (format!("net_af_xdp{serial}"), arguments)
            }
            Self::Pcap { read, write } => {
                let mut arguments = Vec::new();
                if let Some(path) = read {
                    arguments.push(format!("rx_pcap={}", plain_path(path)?));
                }
                if let Some(path) = write {
                    arguments.push(format!("tx_pcap={}", plain_path(path)?));
                }
                (format!("net_pcap{serial}"), arguments.join(","))
            }
            Self::VirtioUser(path) => {
                let path = plain_path(path)?;
                (format!("net_virtio_user{serial}"), format!("path={path},queues={queues},queue_size=1024"))
            }
        };
        let c_string =
            |text: String| CString::new(text).map_err(|_| PortError("a device name holds a zero byte".to_owned()));
        Ok((c_string(name)?, c_string(arguments)?))
    }

    /// Refuses what its driver would do wrong without a word, given the longest IP packet that buffers are made for.
    pub(crate) fn check(&self, mtu: u16) -> Result<(), PortError> {
        match self {
            Self::AfXdp { .. } if mtu > XDP_MTU_MAX => Err(PortError(format!(
                "{}: an MTU of {mtu} does not fit its memory: set mtu to at most {XDP_MTU_MAX}",
                self.title()
            ))),
            // It writes no byte and looks at no buffer, so a longer packet would reach into the next one.
            Self::Null { packet_bytes, .. } if u32::from(*packet_bytes) > u32::from(mtu) + FRAMING_BYTES => {
                Err(PortError(format!(
                    "{}: packets of {packet_bytes} bytes do not fit an MTU of {mtu}: set frame_bytes to at most {}, or \
                     raise mtu",
                    self.title(),
                    u32::from(mtu) + FRAMING_BYTES
                )))
            }
            _ => Ok(()),
        }
    }

    /// A file that has to be there before the device can be opened, and is not.
    pub(crate) fn awaited(&self) -> Option<&Path> {
        match self {
            Self::Pcap { read: Some(path), .. } if !path.exists() => Some(path),
            _ => None,
        }
    }

    /// What a person calls it.
    #[must_use]
    pub fn title(&self) -> String {
        match self {
            Self::Pci(address) => address.to_string(),
            Self::Null { .. } | Self::Ring => self.driver().to_owned(),
            Self::Crossed { cable, far } => format!("{} end of {cable}", if *far { "far" } else { "near" }),
            Self::Memif { socket, id, .. } => format!("memif {id} at {}", socket.display()),
            Self::AfPacket(interface) | Self::AfXdp { interface, .. } => format!("{} {interface}", self.driver()),
            Self::Pcap { read, write } => {
                let name = |path: &Option<PathBuf>| {
                    path.as_ref().map_or("nothing".to_owned(), |path| path.display().to_string())
                };
                format!("pcap from {} to {}", name(read), name(write))
            }
            Self::VirtioUser(path) => format!("virtio-user at {}", path.display()),
        }
    }
}

/// Longest name of a cable: DPDK gives a ring's name 25 bytes, with what is put around it.
const CABLE_BYTES_MAX: usize = 12;
/// Bytes of a memif's slots: a frame of MTU 1500 in one piece, and a power of two as DPDK's default is.
const MEMIF_BYTES: u32 = 2_048;

/// A path that means nothing else in a device argument.
fn plain_path(path: &Path) -> Result<&str, PortError> {
    path.to_str().filter(|text| !text.is_empty() && plain(text)).ok_or_else(|| {
        PortError(format!(
            "the path {} cannot be used for a device: it must not hold commas, equal signs, spaces or brackets",
            path.display()
        ))
    })
}

fn plain_interface(name: &str) -> Result<&str, PortError> {
    let good = !name.is_empty() && name.len() <= INTERFACE_BYTES_MAX && plain(name) && !name.contains('/');
    if good { Ok(name) } else { Err(PortError(format!("\"{name}\" is no interface name; `ip link` lists them"))) }
}

fn plain(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_graphic() && !b",=[]()\"'".contains(&byte))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pci_address_is_read_as_it_is_written_and_nothing_else_is() {
        for good in ["0000:01:00.0", "ffff:ff:1f.7"] {
            assert_eq!(good.parse::<PciAddress>().unwrap().to_string(), good);
        }
        for bad in ["", "01:00.0", "0000:01:00", "0000:01:20.0", "0000:01:00.8", "0000:+1:00.0", "0000:01:00.0,x=1"] {
            assert!(bad.parse::<PciAddress>().is_err(), "{bad}");
        }
    }

    #[test]
    fn what_would_change_an_argument_is_refused() {
        let memif = |socket: &str| Device::Memif { socket: socket.into(), id: 0, server: true };
        assert!(memif("/run/a.sock").name(0, 1).is_ok());
        for bad in ["/run/a,b", "/run/a=b", "/run/a b", ""] {
            assert!(memif(bad).name(0, 1).is_err(), "{bad}");
        }
        for bad in ["", "eth0,x", "sixteen-letters-", "a/b"] {
            assert!(Device::AfPacket(bad.into()).name(0, 1).is_err(), "{bad}");
        }
        let xdp = |path: &str| Device::AfXdp { interface: "va".to_owned(), program: Some(path.into()) }.name(0, 2);
        let (_, arguments) = xdp("/run/a.o").unwrap();
        assert_eq!(arguments.to_str(), Ok("iface=va,start_queue=0,queue_count=2,xdp_prog=/run/a.o"));
        assert!(xdp("/run/a.o,force_copy=1").is_err());
    }
}
