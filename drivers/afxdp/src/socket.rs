//! One XDP socket: an interface's queue, the worker's memory, and the four rings between them.

use crate::{
    buffers::Layout,
    calls,
    ring::{Consumer, Kind, Producer},
};
use libc::xdp_desc;
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};

/// Room for packets that the kernel copied and has not sent yet, in bytes: a transmit ring of 1,024 full packets with what the
/// kernel counts on top.
const SEND_ROOM_BYTES: i32 = 8 << 20;
/// Packets per busy poll: the kernel's own share for one device (`NAPI_POLL_WEIGHT`).
const BUSY_POLL_PACKETS: u32 = 64;

/// What a socket is opened for.
#[derive(Clone, Copy, Debug)]
pub(crate) struct SocketPlan {
    pub(crate) interface: u32,
    pub(crate) queue: u32,
    pub(crate) receive_descriptors: u32,
    pub(crate) transmit_descriptors: u32,
    /// Longest packet, Ethernet header included.
    pub(crate) packet_bytes: u32,
    /// Never zero copy.
    pub(crate) force_copy: bool,
    /// Never several pieces.
    pub(crate) force_one_piece: bool,
    /// Microseconds that a call may spend on the device's work; 0 leaves that to interrupts.
    pub(crate) busy_poll_us: u32,
    pub(crate) layout: Layout,
}

/// An open socket. The kernel lets go of its memory once this and all copies of its descriptor are dropped.
#[derive(Debug)]
pub(crate) struct Socket {
    // Rings before the descriptor: each mapping keeps the socket open.
    pub(crate) receive: Consumer<xdp_desc>,
    pub(crate) transmit: Producer<xdp_desc>,
    pub(crate) fill: Producer<u64>,
    pub(crate) completion: Consumer<u64>,
    /// Shared with the cold side, which asks it for its counts.
    pub(crate) fd: Arc<OwnedFd>,
    /// The device reads and writes our memory itself.
    pub(crate) zero_copy: bool,
    /// Packets may have several pieces.
    pub(crate) pieces: bool,
    /// Our calls do the device's work.
    pub(crate) busy_poll: bool,
}

/// What was tried, best first: flags and whether they ask for zero copy and for pieces.
const ATTEMPTS: [(u16, bool, bool); 4] = [
    (libc::XDP_ZEROCOPY | libc::XDP_USE_SG, true, true),
    (libc::XDP_ZEROCOPY, true, false),
    (libc::XDP_COPY | libc::XDP_USE_SG, false, true),
    (libc::XDP_COPY, false, false),
];

impl Socket {
    /// Opens the best socket that the kernel and the device give. What is weaker than it could be goes to `degraded`.
    pub(crate) fn open(plan: &SocketPlan, degraded: &mut Vec<String>) -> io::Result<Self> {
        let long = plan.packet_bytes > plan.layout.chunk_room();
        let (mut last, mut no_zero_copy, mut no_pieces) = (None, None, None);
        for (flags, zero_copy, pieces) in ATTEMPTS {
            // Long packets need pieces more than they need zero copy.
            let useless = zero_copy && (plan.force_copy || (long && !pieces)) || pieces && plan.force_one_piece;
            if useless {
                continue;
            }
            let error = match Self::try_open(plan, flags, degraded) {
                Ok(socket) => {
                    if !pieces {
                        note(degraded, one_piece_only(plan, no_pieces));
                    }
                    if !zero_copy {
                        note(degraded, copied(no_zero_copy));
                    }
                    return Ok(Self { zero_copy, pieces, ..socket });
                }
                Err(error) => error,
            };
            let Some(code) = error.raw_os_error() else { return Err(error) };
            // Another mode does not get round these.
            if matches!(code, libc::EBUSY | libc::EPERM | libc::ENODEV | libc::ENOBUFS | libc::ENOMEM) {
                return Err(error);
            }
            no_zero_copy = if zero_copy { Some(code) } else { no_zero_copy };
            no_pieces = if pieces { Some(code) } else { no_pieces };
            last = Some(code);
        }
        Err(io::Error::from_raw_os_error(last.unwrap_or(libc::EOPNOTSUPP)))
    }

    fn try_open(plan: &SocketPlan, flags: u16, degraded: &mut Vec<String>) -> io::Result<Self> {
        let fd = calls::socket()?;
        let of = fd.as_fd();
        let Layout { base, bytes, chunk_bytes, lead_bytes, .. } = plan.layout;
        calls::register(of, base, bytes, chunk_bytes, lead_bytes)?;
        let (received, sent) = (plan.receive_descriptors, plan.transmit_descriptors);
        let rings =
            [(Kind::Fill, received), (Kind::Completion, sent), (Kind::Receive, received), (Kind::Transmit, sent)];
        for (kind, size) in rings {
            kind.set_size(of, size)?;
        }
        let receive = Consumer::new(of, Kind::Receive, received)?;
        let transmit = Producer::new(of, Kind::Transmit, sent)?;
        let fill = Producer::new(of, Kind::Fill, received)?;
        let completion = Consumer::new(of, Kind::Completion, sent)?;
        let busy_poll = plan.busy_poll_us > 0
            && match calls::busy_poll(of, plan.busy_poll_us, BUSY_POLL_PACKETS) {
                Ok(()) => true,
                Err(error) => {
                    note(
                        degraded,
                        format!(
                            "the device is served by interrupts: busy polling was refused ({error}); give CAP_NET_ADMIN and use Linux 5.11 or newer"
                        ),
                    );
                    false
                }
            };
        // Kernels that do not know them send in several calls, or sooner make us wait; both still work.
        let _ = calls::send_all_at_once(of, sent);
        let _ = calls::set_send_room(of, SEND_ROOM_BYTES);
        calls::bind(of, flags | libc::XDP_USE_NEED_WAKEUP, plan.interface, plan.queue)?;
        let (fd, zero_copy, pieces) = (Arc::new(fd), false, false);
        Ok(Self { receive, transmit, fill, completion, fd, zero_copy, pieces, busy_poll })
    }

    pub(crate) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

fn note(degraded: &mut Vec<String>, line: String) {
    if !degraded.contains(&line) {
        degraded.push(line);
    }
}

fn why(code: Option<i32>) -> String {
    code.map_or_else(
        || "configured so".to_owned(),
        |code| format!("the kernel refused more: {}", io::Error::from_raw_os_error(code)),
    )
}

fn copied(code: Option<i32>) -> String {
    let why = why(code);
    format!(
        "the kernel copies each packet ({why}): zero copy needs a network card whose driver has it, and its own queue"
    )
}

/// What a socket without pieces costs.
fn one_piece_only(plan: &SocketPlan, code: Option<i32>) -> String {
    let (why, room) = (why(code), plan.layout.chunk_room());
    let frames = if plan.packet_bytes > room { format!(", packets end at {room} bytes") } else { String::new() };
    format!(
        "packets have one piece ({why}){frames}, and frames that stand behind received bytes are copied before they are \
         sent: pieces need Linux 6.6 and a driver with multi-buffer XDP"
    )
}
