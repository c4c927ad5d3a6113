//! What forwarding a frame costs over XDP sockets and over io_uring, on one veth, by turns in one process.
//!
//! One thread is generator, worker and sink in turn, so its CPU time (`CLOCK_THREAD_CPUTIME_ID`) holds everything, soft
//! interrupts included, as they run inside the calls that raise them; and it is told by whom: `inject` is the generator with
//! the receiving side of the worker's interface, `worker` the driver's calls and one copy of each frame into a fresh
//! buffer, with the sending side and the receiving stack of the other end, `drain` the sink. Of these `worker` is what a
//! core of the node spends, and `inject` beside that of the other driver shows what receiving costs before it.
//!
//! Needs root. Run it as `cargo run --release -p tachyon-driver-afxdp --example forward`.
#![expect(clippy::unwrap_used, reason = "a benchmark panics where a test would")]

#[path = "../tests/station/mod.rs"]
mod station;

use station::{
    BASE_PORT, Cable, Setup, Station, THEM, US, endpoint, index_of,
    redirect::{Redirect, Redirected},
    set,
};
use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    os::fd::AsRawFd,
};
use tachyon_driver_api::{CompletionBatch, Pool, Port, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_uring::{ArenaRegion, BUFFER_BYTES, UringConfig, UringPort};
use tachyon_wire::Endpoint;

/// Frames of one turn: a burst.
const BURST: usize = 64;
const BURST_COUNT: u32 = 64;
/// Turns of one measurement, and measurements of each row.
const TURNS: usize = 400;
const ROUNDS: usize = 15;
const SINK_PORT: u16 = 5_000;

/// CPU time of this thread in ns.
fn now_ns() -> u64 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the time lives through the call.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &raw mut time) };
    u64::try_from(time.tv_sec).unwrap() * 1_000_000_000 + u64::try_from(time.tv_nsec).unwrap()
}

/// Sends or receives a burst of datagrams in one call.
struct Many {
    _bytes: Vec<u8>,
    _parts: Vec<libc::iovec>,
    messages: Vec<libc::mmsghdr>,
}

impl Many {
    fn new(len: usize) -> Self {
        let mut bytes = vec![7; BURST * len];
        let mut parts: Vec<libc::iovec> = bytes
            .chunks_mut(len)
            .map(|chunk| libc::iovec { iov_base: chunk.as_mut_ptr().cast(), iov_len: len })
            .collect();
        let messages = parts.iter_mut().map(|part| {
            // SAFETY: plain numbers and pointers, for which zeros are a value.
            let mut message: libc::mmsghdr = unsafe { std::mem::zeroed() };
            (message.msg_hdr.msg_iov, message.msg_hdr.msg_iovlen) = (part, 1);
            message
        });
        let messages = messages.collect();
        Self { _bytes: bytes, _parts: parts, messages }
    }

    fn send(&mut self, socket: &UdpSocket) -> usize {
        // SAFETY: the messages point to parts, and those to bytes, which all live in `self`.
        let sent = unsafe { libc::sendmmsg(socket.as_raw_fd(), self.messages.as_mut_ptr(), BURST_COUNT, 0) };
        usize::try_from(sent).unwrap_or_else(|_| panic!("{}", io::Error::last_os_error()))
    }

    fn receive(&mut self, socket: &UdpSocket) -> usize {
        let (flags, time) = (libc::MSG_DONTWAIT, std::ptr::null_mut());
        // SAFETY: as in `send`.
        let got = unsafe { libc::recvmmsg(socket.as_raw_fd(), self.messages.as_mut_ptr(), BURST_COUNT, flags, time) };
        usize::try_from(got).unwrap_or(0)
    }
}

/// Both ends on the other side.
struct Peer {
    generator: UdpSocket,
    sink: UdpSocket,
    out: Many,
    back: Many,
    dropped: bool,
}

impl Peer {
    fn new(cable: &Cable, len: usize) -> Self {
        let generator = cable.socket(SocketAddr::from((THEM, 6_000)));
        generator.connect((US, BASE_PORT)).unwrap();
        set(&generator, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, 4 << 20);
        let sink = cable.socket(SocketAddr::from((THEM, SINK_PORT)));
        Self { generator, sink, out: Many::new(len), back: Many::new(len), dropped: false }
    }

    /// Has the other end throw away what it receives before its stack sees it, as another machine's cost is not ours.
    fn drop_all(&mut self, cable: &Cable, dropped: bool) -> Option<Redirect> {
        self.dropped = dropped;
        let all = Redirected::Dropped(SINK_PORT, 1);
        dropped.then(|| cable.there(|| Redirect::new(index_of("them"), all).unwrap()))
    }
}

/// ns of CPU time a frame.
#[derive(Clone, Copy, Debug, Default)]
struct Cost {
    inject: f64,
    worker: f64,
    drain: f64,
    syscalls: f64,
}

/// Takes frames and sends each on from a fresh buffer, or all of a burst from one as a run. Returns how many more items are open.
fn turn(queue: &mut (impl RxQueue + TxQueue), pool: &mut Pool, to: Endpoint, runs: bool, left: &mut usize) -> isize {
    let (mut received, mut out, mut done) = (RxBatch::new(), TxBatch::new(), CompletionBatch::new());
    queue.rx_burst(pool, &mut received);
    let mut fresh = None;
    for item in received.drain(..) {
        let bytes = &item.buffer.bytes()[item.offset as usize..][..item.len as usize];
        for frame in bytes.chunks(item.stride as usize) {
            let len = u32::try_from(frame.len()).unwrap();
            let mut open = fresh.take().unwrap_or_else(|| Transmit {
                buffer: pool.get().unwrap(),
                offset: 0,
                len: 0,
                stride: len,
                shard: 0,
                destination: to,
                token: 0,
            });
            open.buffer.bytes_mut()[open.len as usize..][..frame.len()].copy_from_slice(frame);
            open.len += len;
            *left = left.saturating_sub(1);
            if runs && open.len + len <= 60_000 && *left > 0 {
                fresh = Some(open);
            } else {
                out.push(open);
            }
        }
        pool.put(item.buffer);
    }
    out.extend(fresh);
    let mut open = isize::try_from(out.len()).unwrap();
    while !out.is_empty() {
        queue.tx_burst(&mut out);
        open -= complete(queue, pool, &mut done);
    }
    open - complete(queue, pool, &mut done)
}

fn complete(queue: &mut impl TxQueue, pool: &mut Pool, done: &mut CompletionBatch) -> isize {
    queue.completions(done);
    let count = done.len();
    done.drain(..).for_each(|completion| pool.put(completion.buffer));
    isize::try_from(count).unwrap()
}

fn measure(queue: &mut (impl RxQueue + TxQueue), pool: &mut Pool, peer: &mut Peer, runs: bool) -> Cost {
    let to = endpoint(SocketAddr::from((THEM, SINK_PORT)));
    let (mut cost, mut frames) = ([0_u64; 3], 0);
    let before = queue.stats().syscalls;
    for _ in 0..TURNS {
        let start = now_ns();
        let sent = peer.out.send(&peer.generator);
        let injected = now_ns();
        let (mut left, mut worker, mut drain, mut open) = (sent, 0, 0, 0_isize);
        let (mut drained, mut idle) = (0, 0);
        while left > 0 || open > 0 || (drained < sent && !peer.dropped) {
            let at = now_ns();
            open += turn(queue, pool, to, runs, &mut left);
            let then = now_ns();
            let got = if left == 0 && open == 0 && !peer.dropped { peer.back.receive(&peer.sink) } else { 0 };
            drained += got;
            idle = if got > 0 { 0 } else { idle + 1 };
            assert!(idle < 1_000, "frames were lost, so this is no measurement");
            worker += then - at;
            drain += now_ns() - then;
        }
        frames += sent;
        cost = [cost[0] + injected - start, cost[1] + worker, cost[2] + drain];
    }
    let each = |ns: u64| ns as f64 / frames as f64;
    let syscalls = each(queue.stats().syscalls - before);
    Cost { inject: each(cost[0]), worker: each(cost[1]), drain: each(cost[2]), syscalls }
}

fn median(mut costs: Vec<Cost>) -> Cost {
    costs.sort_by(|a, b| a.worker.total_cmp(&b.worker));
    costs[costs.len() / 2]
}

fn over_xdp(len: usize, dropped: bool, busy_poll_us: u32) -> Cost {
    let cable = Cable::new(1_500).unwrap();
    let mut peer = Peer::new(&cable, len);
    let mut us = Station::open(&Setup { busy_poll_us, ..Setup::new(&[0]) });
    us.reach(SocketAddr::from((THEM, SINK_PORT)));
    while peer.back.receive(&peer.sink) > 0 {}
    let _drop = peer.drop_all(&cable, dropped);
    let (queue, pool) = us.parts();
    median((0..ROUNDS).map(|_| measure(queue, pool, &mut peer, false)).collect())
}

fn over_uring(len: usize, dropped: bool, runs: bool) -> Cost {
    let cable = Cable::new(1_500).unwrap();
    let mut peer = Peer::new(&cable, len);
    let _drop = peer.drop_all(&cable, dropped);
    let buffers = 400;
    let bytes = buffers * BUFFER_BYTES as usize;
    let config =
        ArenaConfig { bytes, buffer_bytes: BUFFER_BYTES, pages: Pages::Ordinary, lock: false, numa_node: None };
    let mut arena = Arena::create(config).unwrap();
    let (base, bytes) = arena.region();
    let mut pool = Pool::new(arena.take(buffers).unwrap());
    let mut config = UringConfig::new(IpAddr::from(US), BASE_PORT);
    config.arena = Some(ArenaRegion { base: base.as_ptr().addr(), bytes });
    let mut queue = UringPort::new(config).unwrap().open(&[0], &mut pool).unwrap();
    let cost = median((0..ROUNDS).map(|_| measure(&mut queue, &mut pool, &mut peer, runs)).collect());
    queue.close(&mut pool);
    cost
}

#[expect(clippy::print_stdout, reason = "the result")]
fn main() {
    let only: Option<usize> = std::env::args().nth(1).and_then(|number| number.parse().ok());
    println!("{:<34} {:>8} {:>8} {:>8} {:>10} {:>9}", "ns a frame", "inject", "worker", "drain", "M/CPU-s", "syscalls");
    let mut number = 0;
    for (end, dropped) in [("to a socket", false), ("dropped at the other end", true)] {
        for (name, len) in [("1 message", 128), ("22 messages", 1_472)] {
            println!("{name}, {end}");
            let rows: [(&str, &dyn Fn() -> Cost); 4] = [
                ("XDP socket", &|| over_xdp(len, dropped, 0)),
                ("XDP socket, busy polling", &|| over_xdp(len, dropped, 20)),
                ("io_uring, each frame alone", &|| over_uring(len, dropped, false)),
                ("io_uring, runs of equal frames", &|| over_uring(len, dropped, true)),
            ];
            for (what, row) in rows {
                number += 1;
                if only.is_some_and(|only| only != number) {
                    continue;
                }
                let Cost { inject, worker, drain, syscalls } = row();
                let rate = 1_000.0 / worker;
                println!("{what:<34} {inject:>8.0} {worker:>8.0} {drain:>8.0} {rate:>10.2} {syscalls:>9.3}");
            }
        }
    }
}
