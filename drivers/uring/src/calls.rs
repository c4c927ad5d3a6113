//! The fallback mode: `recvmmsg` and `sendmmsg`, with the same offloads and the same pieces.

use crate::{
    UringConfig,
    address::{self, SOCKADDR_BYTES, SOCKADDR_LENGTH},
    control::{self, RX_CONTROL_BYTES},
    flight::{Flight, Settled},
    provided::Head,
    received::frames,
    socket::ShardSocket,
};
use core::{mem, ptr};
use std::{
    collections::VecDeque,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tachyon_driver_api::{BURST_MAX, Buffer, CompletionBatch, Pool, QueueStats, RxBatch, TxBatch};
use tachyon_wire::Endpoint;

/// What the kernel fills in for one datagram.
#[repr(C, align(8))]
struct Place {
    control: [u8; RX_CONTROL_BYTES],
    name: [u8; SOCKADDR_BYTES],
    vector: libc::iovec,
    buffer: Option<Buffer>,
}

/// One worker's sockets.
pub(crate) struct Calls {
    pub(crate) sockets: Vec<ShardSocket>,
    flight: Flight,
    /// Pieces that each socket has to send, in order.
    lanes: Box<[VecDeque<u32>]>,
    /// Pieces in all lanes.
    queued: usize,
    places: Box<[Place]>,
    rx_headers: Box<[libc::mmsghdr]>,
    tx_headers: Box<[libc::mmsghdr]>,
    polls: Box<[libc::pollfd]>,
    /// Places that have a buffer: the first ones.
    filled: usize,
    /// The socket to look at first, so that a busy one does not starve the others.
    first: usize,
    drops_unknown: bool,
    runs_refused: Arc<AtomicBool>,
    pub(crate) stats: QueueStats,
}

impl Calls {
    pub(crate) fn open(
        config: &UringConfig,
        sockets: Vec<ShardSocket>,
        runs: bool,
        runs_refused: Arc<AtomicBool>,
        pool: &mut Pool,
    ) -> Self {
        let shards: Vec<u16> = sockets.iter().map(|socket| socket.shard).collect();
        let depth = usize::from(config.tx_depth);
        let empty_place = || Place {
            control: [0; RX_CONTROL_BYTES],
            name: [0; SOCKADDR_BYTES],
            vector: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
            buffer: None,
        };
        let poll = |socket: &ShardSocket| libc::pollfd { fd: socket.fd(), events: libc::POLLIN, revents: 0 };
        let places = usize::from(config.rx_buffers).min(BURST_MAX);
        let mut this = Self {
            flight: Flight::new(config.tx_depth, &shards, config.bind_ip.is_ipv6(), runs),
            lanes: sockets.iter().map(|_| VecDeque::with_capacity(depth)).collect(),
            queued: 0,
            places: (0..places).map(|_| empty_place()).collect(),
            rx_headers: (0..places).map(|_| empty_header()).collect(),
            tx_headers: (0..BURST_MAX).map(|_| empty_header()).collect(),
            polls: sockets.iter().map(poll).collect(),
            filled: 0,
            first: 0,
            drops_unknown: false,
            runs_refused,
            stats: QueueStats::default(),
            sockets,
        };
        this.refill(pool);
        this
    }

    pub(crate) fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        let taken = self.flight.accept(from);
        self.flush();
        taken
    }

    pub(crate) fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        self.flight.completions(into)
    }

    pub(crate) fn held(&self) -> usize {
        self.filled + self.flight.held()
    }

    pub(crate) fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        let before = into.len();
        self.flush();
        // One socket is simply read; of several, one call tells which have something.
        let several = self.sockets.len() > 1;
        if several && !self.poll(0, libc::POLLIN) {
            return 0;
        }
        self.first = (self.first + 1) % self.sockets.len();
        for turn in 0..self.sockets.len() {
            let index = (self.first + turn) % self.sockets.len();
            let readable = !several || self.polls.get(index).is_some_and(|poll| poll.revents != 0);
            if !readable || into.is_full() {
                continue;
            }
            self.refill(pool);
            if self.filled == 0 {
                self.stats.starved += 1;
                break;
            }
            self.receive(index, into);
        }
        self.refill(pool);
        into.len() - before
    }

    pub(crate) fn wait(&mut self, ns: u64) {
        self.flush();
        if self.flight.has_done() {
            return;
        }
        let ready = self.poll(ns, libc::POLLIN | if self.queued > 0 { libc::POLLOUT } else { 0 });
        if !ready && mem::take(&mut self.drops_unknown) {
            for socket in &mut self.sockets {
                self.stats.overflow += socket.look_for_drops();
                self.stats.syscalls += 1;
            }
        }
    }

    /// Whether a socket is ready within `ns` nanoseconds.
    fn poll(&mut self, ns: u64, events: i16) -> bool {
        self.polls.iter_mut().for_each(|poll| poll.events = events);
        let time = libc::timespec {
            tv_sec: i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX),
            tv_nsec: i64::try_from(ns % 1_000_000_000).unwrap_or(0),
        };
        self.stats.syscalls += 1;
        // SAFETY: the array has as many entries as are passed, and it and the time live through the call.
        unsafe {
            libc::ppoll(self.polls.as_mut_ptr(), self.polls.len() as libc::nfds_t, &raw const time, ptr::null()) > 0
        }
    }

    /// Gives a buffer to every place that has none, as far as the pool has some; the filled ones stay in front.
    fn refill(&mut self, pool: &mut Pool) {
        while let Some(place) = self.places.get_mut(self.filled) {
            let Some(buffer) = pool.get() else { return };
            place.buffer = Some(buffer);
            self.prepare(self.filled);
            self.filled += 1;
        }
    }

    /// Points a place's header at its memory.
    fn prepare(&mut self, index: usize) {
        let (Some(place), Some(header)) = (self.places.get_mut(index), self.rx_headers.get_mut(index)) else { return };
        let Some(buffer) = &place.buffer else { return };
        place.vector = libc::iovec { iov_base: buffer.address().as_ptr().cast(), iov_len: buffer.capacity() as usize };
        header.msg_hdr.msg_name = (&raw mut place.name).cast();
        header.msg_hdr.msg_namelen = SOCKADDR_LENGTH;
        header.msg_hdr.msg_iov = &raw mut place.vector;
        header.msg_hdr.msg_iovlen = 1;
        header.msg_hdr.msg_control = (&raw mut place.control).cast();
        header.msg_hdr.msg_controllen = RX_CONTROL_BYTES;
    }

    /// Reads one socket.
    fn receive(&mut self, index: usize, into: &mut RxBatch) {
        let Some(socket) = self.sockets.get_mut(index) else { return };
        let room = self.filled.min(into.remaining_capacity());
        // At most `BURST_MAX`.
        let room = libc::c_uint::try_from(room).unwrap_or(0);
        self.stats.syscalls += 1;
        // SAFETY: the first `filled` headers point at buffers, names and control data that nothing else uses, in boxes that
        // stay; `room` is not above `filled`.
        let count = unsafe {
            let flags = libc::MSG_DONTWAIT | libc::MSG_TRUNC;
            libc::recvmmsg(socket.fd(), self.rx_headers.as_mut_ptr(), room, flags, ptr::null_mut())
        };
        // An error says that there is nothing: these sockets report no others.
        let count = usize::try_from(count).unwrap_or(0);
        self.drops_unknown |= count > 0;
        for (place, header) in self.places.iter_mut().zip(&mut self.rx_headers).take(count) {
            let Some(buffer) = place.buffer.take() else { continue };
            let control_bytes = header.msg_hdr.msg_controllen.min(RX_CONTROL_BYTES);
            let control = control::parse(&place.control[..control_bytes]);
            let source = if header.msg_hdr.msg_namelen == 0 { Endpoint::NONE } else { address::decode(&place.name) };
            self.stats.overflow += control.drops.map_or(0, |drops| socket.dropped(drops));
            let (received, lost) = frames(buffer, 0, Head { source, control, bytes: header.msg_len }, socket.shard);
            self.stats.overflow += lost;
            into.push(received);
        }
        self.close_gap(count);
    }

    /// Moves the last filled places to the front, where `count` became empty.
    fn close_gap(&mut self, count: usize) {
        for empty in 0..count {
            self.filled -= 1;
            if self.filled >= count {
                let moved = self.places.get_mut(self.filled).and_then(|place| place.buffer.take());
                if let Some(place) = self.places.get_mut(empty) {
                    place.buffer = moved;
                }
                self.prepare(empty);
            }
        }
    }

    /// Hands over everything that the sockets take.
    fn flush(&mut self) {
        loop {
            while let Some(index) = self.flight.cut() {
                let lane = self.flight.piece(index).map_or(0, |piece| usize::from(piece.socket()));
                if let Some(lane) = self.lanes.get_mut(lane) {
                    lane.push_back(index);
                    self.queued += 1;
                }
            }
            if self.queued == 0 {
                break;
            }
            for index in 0..self.lanes.len() {
                self.send(index);
            }
            if self.queued > 0 {
                // A socket is full; what is left waits for the next call.
                break;
            }
        }
        if self.flight.runs_refused() {
            self.runs_refused.store(true, Ordering::Relaxed);
        }
    }

    /// Sends a socket's pieces until it takes no more.
    fn send(&mut self, index: usize) {
        let (Some(lane), Some(socket)) = (self.lanes.get_mut(index), self.sockets.get(index)) else { return };
        while !lane.is_empty() {
            let mut count = 0;
            for (header, &piece) in self.tx_headers.iter_mut().zip(lane.iter()) {
                let Some(piece) = self.flight.piece(piece) else { break };
                // SAFETY: the pointer is to a header inside the piece, which lives.
                header.msg_hdr = unsafe { *piece.message() };
                count += 1;
                if piece.is_stepping() {
                    break;
                }
            }
            self.stats.syscalls += 1;
            // SAFETY: `count` headers are filled in, and what they point at stays until the pieces are settled.
            let sent = unsafe { libc::sendmmsg(socket.fd(), self.tx_headers.as_mut_ptr(), count, libc::MSG_DONTWAIT) };
            // The first that fails ends the call; it shows its error when it is first in the next one.
            let error = if sent <= 0 { io::Error::last_os_error().raw_os_error().unwrap_or(libc::EIO) } else { 0 };
            for _ in 0..sent.max(1) {
                let Some(piece) = lane.pop_front() else { break };
                if self.flight.settle(piece, -error, false) == Settled::Again {
                    lane.push_front(piece);
                } else {
                    self.queued -= 1;
                }
            }
            if error == libc::EAGAIN {
                return;
            }
        }
    }

    pub(crate) fn close(mut self: Box<Self>, pool: &mut Pool) {
        self.places.iter_mut().filter_map(|place| place.buffer.take()).for_each(|buffer| pool.put(buffer));
        self.flight.abandon(pool);
    }
}

fn empty_header() -> libc::mmsghdr {
    // SAFETY: `mmsghdr` has integers and pointers only, for which zero is a value: "none of it".
    unsafe { mem::zeroed() }
}
