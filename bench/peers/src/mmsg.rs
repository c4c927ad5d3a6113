//! The plain relays: `recvmmsg` and `sendmmsg` with 64 datagrams a call, and the same with segmentation offloads. Sleeps in
//! `poll` when there is nothing, reads each ready socket until it is empty, and sends each batch before it reads the next.
#![expect(
    unsafe_code,
    reason = "these peers are the system calls themselves; a wrapper's cost would be charged to them"
)]

use crate::{Count, Relay, Turn};
use anyhow::{Context, Result, bail};
use std::{io, mem, net::UdpSocket, os::fd::AsRawFd, ptr};

/// Datagrams a call, as many as the node's bursts.
const BATCH: usize = 64;
/// [`BATCH`] as the kernel takes it.
const CALL_BATCH: u32 = 64;
/// Longest sleep in `poll`, in milliseconds: how late it sees that it is over.
const SLEEP_MS: i32 = 10;
/// Room for a frame at MTU 1500.
const PLAIN_BYTES: usize = 2_048;
/// Room for what `UDP_GRO` can join.
const JOINED_BYTES: usize = 65_536;

/// A control message with one integer: `UDP_GRO` on the way in, `UDP_SEGMENT` on the way out.
#[repr(C, align(8))]
#[derive(Clone, Copy)]
struct Control {
    header: libc::cmsghdr,
    value: u32,
}

/// One datagram, or one run of them.
struct Place {
    bytes: Box<[u8]>,
    vector: libc::iovec,
    control: Control,
}

struct Sockets {
    sockets: Vec<UdpSocket>,
    polls: Vec<libc::pollfd>,
    /// Where each socket sends.
    to: Vec<libc::sockaddr_in>,
    places: Box<[Place]>,
    headers: Box<[libc::mmsghdr]>,
    runs: bool,
}

pub(crate) fn open(relay: &Relay, runs: bool) -> Result<Turn> {
    let mut sockets = Vec::new();
    let mut to = Vec::new();
    for shard in 0..relay.shards {
        let (Some(port), Some(to_port)) = (relay.base_port.checked_add(shard), relay.to.port().checked_add(shard))
        else {
            bail!("shard {shard} has no port: --base-port or --to + {shard} is above 65535");
        };
        let socket =
            UdpSocket::bind((relay.bind, port)).with_context(|| format!("cannot bind {}:{port}", relay.bind))?;
        let room = i32::try_from(relay.receive_buffer_bytes).unwrap_or(i32::MAX / 2);
        // Without the privilege the system's limit holds, as it does for the node.
        if set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUFFORCE, room).is_err() {
            set(&socket, libc::SOL_SOCKET, libc::SO_RCVBUF, room)?;
        }
        if runs {
            set(&socket, libc::SOL_UDP, libc::UDP_GRO, 1).context("UDP_GRO")?;
        }
        let sin_addr = libc::in_addr { s_addr: u32::from_ne_bytes(relay.to.ip().octets()) };
        #[expect(clippy::cast_possible_truncation, reason = "AF_INET is 2")]
        let sin_family = libc::AF_INET as libc::sa_family_t;
        to.push(libc::sockaddr_in { sin_family, sin_port: to_port.to_be(), sin_addr, sin_zero: [0; 8] });
        sockets.push(socket);
    }
    let place = || Place {
        bytes: vec![0; if runs { JOINED_BYTES } else { PLAIN_BYTES }].into(),
        vector: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
        control: Control { header: libc::cmsghdr { cmsg_len: 0, cmsg_level: 0, cmsg_type: 0 }, value: 0 },
    };
    // SAFETY: `mmsghdr` has integers and pointers only, for which zero is a value: "none of it".
    let header = || unsafe { mem::zeroed::<libc::mmsghdr>() };
    let mut all = Sockets {
        polls: sockets
            .iter()
            .map(|socket| libc::pollfd { fd: socket.as_raw_fd(), events: libc::POLLIN, revents: 0 })
            .collect(),
        places: (0..BATCH).map(|_| place()).collect(),
        headers: (0..BATCH).map(|_| header()).collect(),
        sockets,
        to,
        runs,
    };
    (0..BATCH).for_each(|index| all.prepare(index));
    Ok(Box::new(move |count: &mut Count| all.turn(count)))
}

impl Sockets {
    /// Waits for data and sends it on.
    fn turn(&mut self, count: &mut Count) -> Result<()> {
        count.syscalls += 1;
        // SAFETY: the array has as many entries as are passed, and lives through the call.
        let ready = unsafe { libc::poll(self.polls.as_mut_ptr(), self.polls.len() as libc::nfds_t, SLEEP_MS) };
        if ready > 0 {
            for index in 0..self.sockets.len() {
                while self.polls[index].revents != 0 && self.relay(index, count)? == BATCH {}
            }
        }
        Ok(())
    }

    /// Receives one batch from a socket and sends it on; returns how many datagrams or runs it had.
    fn relay(&mut self, index: usize, count: &mut Count) -> Result<usize> {
        let fd = self.sockets[index].as_raw_fd();
        count.syscalls += 1;
        // SAFETY: there are `BATCH` headers, and `prepare` pointed each at memory of its own that lives in a box.
        let received =
            unsafe { libc::recvmmsg(fd, self.headers.as_mut_ptr(), CALL_BATCH, libc::MSG_DONTWAIT, ptr::null_mut()) };
        // An error says that there is nothing.
        let received = usize::try_from(received).unwrap_or(0);
        for at in 0..received {
            self.address(at, index, count);
        }
        let mut sent = 0;
        while sent < received {
            count.syscalls += 1;
            let rest = u32::try_from(received - sent)?;
            // SAFETY: `rest` headers from `sent` on are filled in, and what they point at lives in boxes.
            match unsafe { libc::sendmmsg(fd, self.headers[sent..].as_mut_ptr(), rest, 0) } {
                more if more > 0 => sent += usize::try_from(more)?,
                _ => return Err(io::Error::last_os_error()).context("sendmmsg"),
            }
        }
        (0..received).for_each(|at| self.prepare(at));
        Ok(received)
    }

    /// Points a header at all the room of its place, to receive.
    fn prepare(&mut self, at: usize) {
        let (place, header) = (&mut self.places[at], &mut self.headers[at].msg_hdr);
        place.vector = libc::iovec { iov_base: place.bytes.as_mut_ptr().cast(), iov_len: place.bytes.len() };
        header.msg_iov = &raw mut place.vector;
        header.msg_iovlen = 1;
        (header.msg_name, header.msg_namelen) = (ptr::null_mut(), 0);
        header.msg_control = (&raw mut place.control).cast();
        header.msg_controllen = if self.runs { size_of::<Control>() } else { 0 };
    }

    /// Points a header at what was received, to send it, and counts it.
    fn address(&mut self, at: usize, index: usize, count: &mut Count) {
        let (place, message) = (&mut self.places[at], &mut self.headers[at]);
        let len = message.msg_len as usize;
        let header = &mut message.msg_hdr;
        let joined = header.msg_controllen > 0 && place.control.header.cmsg_type == libc::UDP_GRO;
        let stride = if joined { place.control.value as usize } else { len };
        count.frames(&place.bytes[..len], stride);
        place.vector.iov_len = len;
        header.msg_name = (&raw mut self.to[index]).cast();
        header.msg_namelen = 16;
        header.msg_controllen = 0;
        if stride < len {
            // The kernel reads two bytes, the lower half.
            place.control.header.cmsg_len = size_of::<libc::cmsghdr>() + size_of::<u16>();
            place.control.header.cmsg_level = libc::SOL_UDP;
            place.control.header.cmsg_type = libc::UDP_SEGMENT;
            place.control.value = place.control.value.to_le();
            header.msg_controllen = size_of::<Control>();
        }
    }
}

fn set(socket: &UdpSocket, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value lives through the call, and its length, 4 bytes, is the one passed.
    let result = unsafe { libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const value).cast(), 4) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
