//! What the kernel knows of interfaces, addresses, routes and neighbours, by rtnetlink. Only the cold side asks.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
};
use tachyon_driver_ether::Mac;

/// Longer than any answer about one thing, and than a part of a list (`NLMSG_GOODSIZE` is at most 8 KiB).
const ANSWER_BYTES: usize = 32 << 10;
/// How long an answer may take in seconds. The kernel answers inside the call, so this is for kernels that do not.
const PATIENCE_S: i64 = 1;

/// Message types (linux/rtnetlink.h) and the ends of an answer (linux/netlink.h).
const GET_LINK: u16 = 18;
const GET_ADDRESS: u16 = 22;
const GET_ROUTE: u16 = 26;
const NEW_NEIGHBOUR: u16 = 28;
const GET_NEIGHBOUR: u16 = 30;
const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Flags of a request (linux/netlink.h).
const REQUEST: u16 = 0x1;
const ACK: u16 = 0x4;
const REPLACE: u16 = 0x100;
const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;

/// Attributes (linux/if_link.h, if_addr.h, rtnetlink.h, neighbour.h).
const IFLA_ADDRESS: u16 = 1;
const IFLA_IFNAME: u16 = 3;
const IFLA_MTU: u16 = 4;
const IFLA_LINKINFO: u16 = 18;
const IFLA_INFO_KIND: u16 = 1;
const IFA_ADDRESS: u16 = 1;
const IFA_LOCAL: u16 = 2;
const RTA_DST: u16 = 1;
const RTA_OIF: u16 = 4;
const RTA_GATEWAY: u16 = 5;
const RTA_PREFSRC: u16 = 7;
const RTA_VIA: u16 = 18;
const NDA_DST: u16 = 1;
const NDA_LLADDR: u16 = 2;

/// The only type of route that leads to another machine (`RTN_UNICAST`).
const UNICAST: u8 = 1;
/// `NTF_USE`: behave as if somebody had just sent there.
const USE: u8 = 1;
/// States of a neighbour (linux/neighbour.h): reachable, stale, delay, probe and permanent have an address that holds or held.
const USABLE: u16 = 0x02 | 0x04 | 0x08 | 0x10 | 0x80 | 0x40;
/// Those of them that the kernel confirmed lately, or that somebody fixed.
const CONFIRMED: u16 = 0x02 | 0x80 | 0x40;
const FAILED: u16 = 0x20;
/// An address that is still looked for elsewhere, or was found there (`IFA_F_TENTATIVE`, `IFA_F_DADFAILED`).
const UNSURE: u8 = 0x40 | 0x08;
/// Addresses for one link only (`RT_SCOPE_LINK`): endpoints have no zone to say which.
const LINK_SCOPE: u8 = 253;

/// An interface.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Link {
    pub(crate) index: u32,
    pub(crate) mac: Option<Mac>,
    pub(crate) mtu: u32,
    /// An administrator wants it up.
    pub(crate) up: bool,
    /// Its other end is there.
    pub(crate) carrier: bool,
    /// What kind of software device it is, if it is one.
    pub(crate) kind: String,
}

/// The way to an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    pub(crate) interface: u32,
    /// Who forwards, or the address itself.
    pub(crate) next: IpAddr,
    pub(crate) source: Option<IpAddr>,
}

/// What the kernel knows of a neighbour.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Neighbour {
    /// Nothing, or it is being asked for.
    Unknown,
    /// It did not answer.
    Failed,
    /// It is there; the kernel confirmed it lately, or should be asked to.
    At(Mac, bool),
}

/// A conversation with the kernel.
#[derive(Debug)]
pub(crate) struct Netlink {
    fd: OwnedFd,
    serial: u32,
    answer: Vec<u8>,
}

/// A request being written.
struct Request(Vec<u8>);

impl Request {
    /// Bytes of a message's header.
    const HEADER: usize = 16;

    fn new(kind: u16, flags: u16, head: &[u8]) -> Self {
        let mut bytes = vec![0; Self::HEADER];
        bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
        bytes[6..8].copy_from_slice(&(REQUEST | flags).to_ne_bytes());
        bytes.extend(head);
        Self(bytes)
    }

    fn attribute(mut self, kind: u16, value: &[u8]) -> Self {
        let length = u16::try_from(value.len() + 4).unwrap_or(u16::MAX);
        self.0.extend(length.to_ne_bytes());
        self.0.extend(kind.to_ne_bytes());
        self.0.extend(value);
        self.0.resize(self.0.len().next_multiple_of(4), 0);
        self
    }

    fn address(self, kind: u16, ip: IpAddr) -> Self {
        match ip {
            IpAddr::V4(ip) => self.attribute(kind, &ip.octets()),
            IpAddr::V6(ip) => self.attribute(kind, &ip.octets()),
        }
    }
}

impl Netlink {
    /// A conversation about the namespace of the calling thread.
    pub(crate) fn open() -> io::Result<Self> {
        // SAFETY: no memory is passed.
        let fd = unsafe { libc::socket(libc::AF_NETLINK, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::NETLINK_ROUTE) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: new, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let time = libc::timeval { tv_sec: PATIENCE_S as _, tv_usec: 0 };
        let length = size_of_val(&time) as libc::socklen_t;
        // SAFETY: the time lives through the call, and its length is the one passed.
        let result = unsafe {
            let option = libc::SO_RCVTIMEO;
            libc::setsockopt(fd.as_raw_fd(), libc::SOL_SOCKET, option, (&raw const time).cast(), length)
        };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self { fd, serial: 0, answer: vec![0; ANSWER_BYTES] })
    }

    /// The interface of this name; `None` if there is none.
    pub(crate) fn link(&mut self, name: &str) -> io::Result<Option<Link>> {
        let mut text = name.as_bytes().to_vec();
        text.push(0);
        let request = Request::new(GET_LINK, 0, &[0; 16]).attribute(IFLA_IFNAME, &text);
        let mut found = None;
        match self.ask(request, |body| found = read_link(body)) {
            Err(error) if error.raw_os_error() == Some(libc::ENODEV) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(found),
        }
    }

    /// The addresses of an interface that others can send to, with their prefixes.
    pub(crate) fn addresses(&mut self, interface: u32) -> io::Result<Vec<(IpAddr, u8)>> {
        let mut found = Vec::new();
        self.ask(Request::new(GET_ADDRESS, DUMP, &[0; 8]), |body| {
            let Some(head) = body.first_chunk::<8>() else { return };
            let [family, prefix, flags, scope, index @ ..] = *head;
            if u32::from_ne_bytes(index) != interface || scope == LINK_SCOPE || flags & UNSURE != 0 {
                return;
            }
            // On a link with two ends the first is the other end's.
            let ip = attribute(&body[8..], IFA_LOCAL).or_else(|| attribute(&body[8..], IFA_ADDRESS));
            found.extend(ip.and_then(|ip| read_ip(family, ip)).map(|ip| (ip, prefix)));
        })?;
        Ok(found)
    }

    /// The way to an address; `None` if there is none to another machine.
    pub(crate) fn route(&mut self, to: IpAddr) -> io::Result<Option<Route>> {
        let (family, bits) = family(to);
        let head = [family, bits, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
        let mut found = None;
        let asked = self.ask(Request::new(GET_ROUTE, 0, &head).address(RTA_DST, to), |body| {
            found = read_route(body, to);
        });
        match asked {
            Err(error) if matches!(error.raw_os_error(), Some(libc::ENETUNREACH | libc::EHOSTUNREACH)) => Ok(None),
            // Routes that say no: prohibit, blackhole and unreachable.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EACCES | libc::EINVAL)) => Ok(None),
            Err(error) => Err(error),
            Ok(()) => Ok(found),
        }
    }

    /// What the kernel knows of the neighbour with this address.
    pub(crate) fn neighbour(&mut self, interface: u32, ip: IpAddr) -> io::Result<Neighbour> {
        let mut found = Neighbour::Unknown;
        let request = Request::new(GET_NEIGHBOUR, 0, &neighbour_head(interface, ip, 0)).address(NDA_DST, ip);
        let asked = self.ask(request, |body| {
            let Some(state) = body.get(8..10) else { return };
            let state = u16::from_ne_bytes([state[0], state[1]]);
            let mac = attribute(&body[12..], NDA_LLADDR).and_then(|mac| Mac::try_from(mac).ok());
            found = match mac {
                Some(mac) if state & USABLE != 0 => Neighbour::At(mac, state & CONFIRMED != 0),
                _ if state & FAILED != 0 => Neighbour::Failed,
                _ => Neighbour::Unknown,
            };
        });
        match asked {
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => Ok(Neighbour::Unknown),
            Err(error) => Err(error),
            Ok(()) => Ok(found),
        }
    }

    /// Has the kernel find or confirm a neighbour, as if something had just been sent there.
    pub(crate) fn resolve(&mut self, interface: u32, ip: IpAddr) -> io::Result<()> {
        let head = neighbour_head(interface, ip, USE);
        self.ask(Request::new(NEW_NEIGHBOUR, ACK | CREATE | REPLACE, &head).address(NDA_DST, ip), |_| ())
    }

    /// Asks, and hands every message of the answer to `each`, without its header.
    fn ask(&mut self, request: Request, mut each: impl FnMut(&[u8])) -> io::Result<()> {
        self.serial = self.serial.wrapping_add(1);
        let mut bytes = request.0;
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        bytes[..4].copy_from_slice(&length.to_ne_bytes());
        bytes[8..12].copy_from_slice(&self.serial.to_ne_bytes());
        let flags = u16::from_ne_bytes([bytes[6], bytes[7]]);
        // SAFETY: the bytes live through the call, and their length is the one passed.
        if unsafe { libc::send(self.fd.as_raw_fd(), bytes.as_ptr().cast(), bytes.len(), 0) } < 0 {
            return Err(io::Error::last_os_error());
        }
        let ends_with_message = flags & (ACK | DUMP) == 0;
        loop {
            // SAFETY: the answer's memory lives through the call, and its length is the one passed.
            let got = unsafe {
                libc::recv(self.fd.as_raw_fd(), self.answer.as_mut_ptr().cast(), self.answer.len(), libc::MSG_TRUNC)
            };
            let got = usize::try_from(got).map_err(|_| io::Error::last_os_error())?;
            if got > self.answer.len() {
                return Err(io::Error::other("the kernel's answer is longer than any should be"));
            }
            let mut rest = &self.answer[..got];
            while let Some((kind, serial, body, behind)) = message(rest) {
                rest = behind;
                if serial != self.serial {
                    continue; // the rest of an answer that was given up
                }
                match kind {
                    DONE => return Ok(()),
                    ERROR => return read_error(body),
                    _ => each(body),
                }
                if ends_with_message {
                    return Ok(());
                }
            }
        }
    }
}

/// The first message: its type, its serial number, what it says, and what follows it.
fn message(bytes: &[u8]) -> Option<(u16, u32, &[u8], &[u8])> {
    let head = bytes.first_chunk::<{ Request::HEADER }>()?;
    let length = u32::from_ne_bytes([head[0], head[1], head[2], head[3]]) as usize;
    let kind = u16::from_ne_bytes([head[4], head[5]]);
    let serial = u32::from_ne_bytes([head[8], head[9], head[10], head[11]]);
    let body = bytes.get(Request::HEADER..length)?;
    Some((kind, serial, body, bytes.get(length.next_multiple_of(4)..).unwrap_or_default()))
}

/// An error is a negative number; zero is an acknowledgement.
fn read_error(body: &[u8]) -> io::Result<()> {
    match body.first_chunk::<4>().map(|code| i32::from_ne_bytes(*code)) {
        Some(0) => Ok(()),
        Some(code) => Err(io::Error::from_raw_os_error(code.wrapping_neg())),
        None => Err(io::Error::other("the kernel's answer is too short")),
    }
}

/// The value of the first attribute of a kind.
fn attribute(mut bytes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// Bits of the type that say how to read it and not what it is.
    const FLAGS: u16 = 0xc000;
    loop {
        let head = bytes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([head[0], head[1]]));
        let kind = u16::from_ne_bytes([head[2], head[3]]) & !FLAGS;
        let value = bytes.get(4..length)?;
        if kind == wanted {
            return Some(value);
        }
        bytes = bytes.get(length.next_multiple_of(4)..)?;
    }
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk::<4>().map(|value| u32::from_ne_bytes(*value))
}

fn read_ip(family: u8, value: &[u8]) -> Option<IpAddr> {
    match i32::from(family) {
        libc::AF_INET => <[u8; 4]>::try_from(value).ok().map(|ip| Ipv4Addr::from(ip).into()),
        libc::AF_INET6 => <[u8; 16]>::try_from(value).ok().map(|ip| Ipv6Addr::from(ip).into()),
        _ => None,
    }
}

/// The family of an address and how many bits it has.
#[expect(clippy::cast_possible_truncation, reason = "families are below 256")]
const fn family(ip: IpAddr) -> (u8, u8) {
    if ip.is_ipv4() { (libc::AF_INET as u8, 32) } else { (libc::AF_INET6 as u8, 128) }
}

fn neighbour_head(interface: u32, ip: IpAddr, flags: u8) -> [u8; 12] {
    let mut head = [0; 12];
    head[0] = family(ip).0;
    head[4..8].copy_from_slice(&interface.to_ne_bytes());
    head[10] = flags;
    head
}

fn read_link(body: &[u8]) -> Option<Link> {
    let head = body.first_chunk::<16>()?;
    let flags = number(&head[8..])?;
    let attributes = &body[16..];
    let kind = attribute(attributes, IFLA_LINKINFO).and_then(|info| attribute(info, IFLA_INFO_KIND));
    let kind = kind.map(|kind| String::from_utf8_lossy(kind).trim_end_matches('\0').to_owned());
    Some(Link {
        index: number(&head[4..])?,
        mac: attribute(attributes, IFLA_ADDRESS).and_then(|mac| Mac::try_from(mac).ok()),
        mtu: attribute(attributes, IFLA_MTU).and_then(number).unwrap_or(0),
        up: flags & libc::IFF_UP.cast_unsigned() != 0,
        carrier: flags & libc::IFF_LOWER_UP.cast_unsigned() != 0,
        kind: kind.unwrap_or_default(),
    })
}

fn read_route(body: &[u8], to: IpAddr) -> Option<Route> {
    let head = body.first_chunk::<12>()?;
    let attributes = &body[12..];
    let family = head[0];
    let gateway = attribute(attributes, RTA_GATEWAY).and_then(|ip| read_ip(family, ip));
    // A gateway of the other family comes with its own (struct rtvia).
    let via = || {
        let via = attribute(attributes, RTA_VIA)?;
        read_ip(*via.first()?, via.get(2..)?)
    };
    (head[7] == UNICAST).then_some(())?;
    Some(Route {
        interface: attribute(attributes, RTA_OIF).and_then(number)?,
        next: gateway.or_else(via).unwrap_or(to),
        source: attribute(attributes, RTA_PREFSRC).and_then(|ip| read_ip(family, ip)),
    })
}
