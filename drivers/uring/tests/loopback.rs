//! What this driver promises beyond the suite: runs, addresses, counted syscalls and losses, and closing.
#![expect(
    clippy::cast_possible_truncation,
    clippy::unwrap_used,
    reason = "test helpers panic where a test would, and sizes are small"
)]

mod station;

use station::{LOOPBACK, Station, new_pool};
use std::{
    collections::BTreeSet,
    env,
    net::{IpAddr, Ipv6Addr, UdpSocket},
    process::Command,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicU16, Ordering},
    },
    time::{Duration, Instant},
};
use tachyon_driver_api::{
    Buffer, Completion, CompletionBatch, Pool, Port, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue,
};
use tachyon_driver_uring::{ArenaRegion, BUFFER_BYTES, UringConfig, UringPort};
use tachyon_wire::{Endpoint, Reason};

/// Long, because test machines are busy; a pass does not take it.
const PATIENCE: Duration = Duration::from_secs(20);

impl Station {
    fn endpoint(&self, shard: u16) -> Endpoint {
        Endpoint::v4([127, 0, 0, 1], self.port.local_port(shard).unwrap())
    }

    /// Receives once, after waiting a little if there is nothing.
    fn receive_some(&mut self) -> Vec<Received> {
        if !self.arrived.is_empty() {
            return std::mem::take(&mut self.arrived);
        }
        let mut batch = RxBatch::new();
        let (queue, pool) = self.parts();
        if queue.rx_burst(pool, &mut batch) == 0 {
            queue.wait(1_000_000);
            queue.rx_burst(pool, &mut batch);
        }
        batch.into_iter().collect()
    }

    /// Receives until `count` frames are there, and returns them with their buffers' strides and sources.
    fn receive_frames(&mut self, count: usize) -> Vec<(Vec<u8>, u32, Endpoint)> {
        let start = Instant::now();
        let mut frames = Vec::new();
        while frames.len() < count {
            assert!(start.elapsed() < PATIENCE, "{} of {count} frames came", frames.len());
            for received in self.receive_some() {
                frames.extend(frames_of(&received).into_iter().map(|frame| (frame, received.stride, received.source)));
                self.pool.put(received.buffer);
            }
        }
        frames
    }

    /// A buffer that holds `bytes` from its start.
    fn fill(&mut self, bytes: &[u8]) -> Buffer {
        let mut buffer = self.pool.get().unwrap();
        buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
        buffer
    }

    /// What sends `bytes` to `destination`.
    fn transmit(&mut self, bytes: &[u8], stride: u32, shard: u16, destination: Endpoint) -> Transmit {
        let len = u32::try_from(bytes.len()).unwrap();
        Transmit { buffer: self.fill(bytes), offset: 0, len, stride, shard, destination, token: len }
    }

    /// Sends everything and returns how each ended, in order of completion.
    fn send(&mut self, items: impl IntoIterator<Item = Transmit>) -> Vec<Completion> {
        let start = Instant::now();
        let mut items: Vec<Transmit> = items.into_iter().collect();
        let wanted = items.len();
        let mut ended = Vec::new();
        let (mut batch, mut done) = (TxBatch::new(), CompletionBatch::new());
        while ended.len() < wanted {
            assert!(start.elapsed() < PATIENCE, "{} of {wanted} sends ended", ended.len());
            while !batch.is_full() && !items.is_empty() {
                batch.push(items.remove(0));
            }
            let queue = self.queue();
            queue.tx_burst(&mut batch);
            let mut arrived = RxBatch::new();
            queue.rx_burst(&mut Pool::new(Vec::new()), &mut arrived);
            queue.completions(&mut done);
            ended.extend(done.drain(..));
            self.arrived.extend(arrived);
        }
        ended
    }

    /// Sends everything, which must succeed, and takes the buffers back.
    fn send_well(&mut self, items: impl IntoIterator<Item = Transmit>) {
        for completion in self.send(items) {
            assert_eq!(completion.error, None, "token {}", completion.token);
            self.pool.put(completion.buffer);
        }
    }
}

/// The frames in a buffer.
fn frames_of(received: &Received) -> Vec<Vec<u8>> {
    let bytes = &received.buffer.bytes()[received.offset as usize..][..received.len as usize];
    bytes.chunks(received.stride as usize).map(<[u8]>::to_vec).collect()
}

fn plain() -> UringConfig {
    UringConfig::new(LOOPBACK, 0)
}

/// Held while a process is started, and while ports must come free: between fork and exec a child has every socket too.
static STARTING: Mutex<()> = Mutex::new(());

/// A port that nobody has, below the ephemeral range, so that no socket of another test gets it meanwhile. Processes and
/// calls start at different ones.
fn free_port() -> u16 {
    static CALLS: AtomicU16 = AtomicU16::new(0);
    let first = 20_000 + (std::process::id() % 400) as u16 * 20 + CALLS.fetch_add(1, Ordering::Relaxed) * 4;
    (first..).find(|&port| UdpSocket::bind((LOOPBACK, port)).is_ok()).unwrap()
}

/// Every mode, with its name.
fn modes() -> [(&'static str, UringConfig); 3] {
    [
        ("io_uring", plain()),
        ("zero copy", UringConfig { zero_copy: true, ..plain() }),
        ("fallback", UringConfig { force_fallback: true, ..plain() }),
    ]
}

/// `count` different frames of `stride` bytes, the last of `last`, behind each other.
fn run(count: usize, stride: usize, last: usize) -> Vec<u8> {
    let mut bytes: Vec<u8> =
        (0..count * stride).map(|at| ((at / stride) as u8).wrapping_add((at % 251) as u8)).collect();
    bytes.truncate((count - 1) * stride + last);
    bytes
}

#[test]
fn a_run_travels_in_one_piece_and_names_its_source() {
    for (mode, config) in modes() {
        let (mut from, mut to) = (Station::open(config.clone(), &[3]), Station::open(config, &[3, 4]));
        // 44 frames are what one buffer of 64 KiB holds at MTU 1500.
        for (count, stride, last) in
            [(44, 1472, 1472), (44, 1472, 64), (2, 64, 64), (64, 64, 1), (7, 9000, 9000), (1, 1472, 1472)]
        {
            let bytes = run(count, stride, last);
            let item = from.transmit(&bytes, stride as u32, 3, to.endpoint(4));
            from.send_well([item]);
            let start = Instant::now();
            let mut received = to.receive_some();
            while received.is_empty() && start.elapsed() < PATIENCE {
                received = to.receive_some();
            }
            let [received] = <[Received; 1]>::try_from(received).unwrap();
            assert_eq!((received.len as usize, received.stride as usize), (bytes.len(), stride), "{mode}");
            assert_eq!((received.shard, received.source), (4, from.endpoint(3)), "{mode}");
            assert_eq!(received.offset % 64, 0, "{mode}: frames start on a cache line");
            assert_eq!(frames_of(&received).concat(), bytes, "{mode}");
            to.pool.put(received.buffer);
        }
    }
}

#[test]
fn more_frames_than_one_send_takes_arrive_in_order_and_complete_once() {
    for (mode, config) in modes() {
        let (mut from, mut to) = (Station::open(config.clone(), &[0]), Station::open(config, &[0]));
        for (count, stride) in [(1000, 64), (65, 64), (128, 448), (3, 20_000)] {
            let bytes = run(count, stride, stride);
            let item = from.transmit(&bytes, stride as u32, 0, to.endpoint(0));
            from.send_well([item]);
            let got: Vec<u8> = to.receive_frames(count).into_iter().flat_map(|frame| frame.0).collect();
            assert!(got == bytes, "{mode}: {count} frames of {stride} differ");
        }
    }
}

#[test]
fn order_is_kept_while_sends_of_every_kind_mix() {
    for (mode, config) in modes() {
        let (mut from, mut to) = (Station::open(config.clone(), &[0]), Station::open(config, &[0]));
        let mut expected = Vec::new();
        for round in 0..20_usize {
            let mut items = Vec::new();
            for step in 0..10_usize {
                let bytes = run(1 + (round * 7 + step * 3) % 44, 64 * (1 + step % 5), 64);
                let stride = 64 * (1 + step as u32 % 5);
                items.push(from.transmit(&bytes, stride, 0, to.endpoint(0)));
                expected.extend(bytes.chunks(stride as usize).map(<[u8]>::to_vec));
            }
            from.send_well(items);
            let got: Vec<_> = to.receive_frames(expected.len()).into_iter().map(|frame| frame.0).collect();
            assert!(got == expected, "{mode}: round {round}");
            expected.clear();
        }
    }
}

#[test]
fn ipv6_names_its_source_too() {
    let ip = IpAddr::V6(Ipv6Addr::LOCALHOST);
    for (mode, config) in modes() {
        let config = UringConfig { bind_ip: ip, ..config };
        let (mut from, mut to) = (Station::open(config.clone(), &[0]), Station::open(config, &[0]));
        let at = |station: &Station| Endpoint::v6(Ipv6Addr::LOCALHOST.octets(), station.port.local_port(0).unwrap());
        let bytes = run(20, 1408, 1408);
        let item = from.transmit(&bytes, 1408, 0, at(&to));
        from.send_well([item]);
        for (frame, stride, source) in to.receive_frames(20) {
            assert_eq!((frame.len(), stride, source), (1408, 1408, at(&from)), "{mode}");
        }
    }
}

#[test]
fn an_idle_poll_makes_no_syscall() {
    let mut station = Station::open(plain(), &(0..16).collect::<Vec<_>>());
    if !station.queue().is_io_uring() {
        eprintln!("not tested: {:?}", station.port.info().degraded);
        return;
    }
    let (queue, pool) = station.parts();
    let before = queue.stats().syscalls;
    let (mut received, mut done) = (RxBatch::new(), CompletionBatch::new());
    for _ in 0..10_000 {
        assert_eq!(queue.rx_burst(pool, &mut received), 0);
        assert_eq!(queue.tx_burst(&mut TxBatch::new()), 0);
        assert_eq!(queue.completions(&mut done), 0);
    }
    assert_eq!(queue.stats().syscalls, before);
    assert!(station.port.info().degraded.iter().all(|line| line.starts_with("socket ")), "{:?}", station.port.info());
}

#[test]
fn one_call_carries_both_directions_of_a_burst() {
    let (mut one, mut other) = (Station::open(plain(), &[0]), Station::open(plain(), &[0]));
    if !one.queue().is_io_uring() {
        eprintln!("not tested: {:?}", one.port.info().degraded);
        return;
    }
    let bytes = run(44, 1472, 1472);
    let items: Vec<_> = (0..10).map(|_| one.transmit(&bytes, 1472, 0, other.endpoint(0))).collect();
    let before = one.queue().stats().syscalls;
    one.send_well(items);
    assert_eq!(one.queue().stats().syscalls - before, 1, "ten runs, one call");
    let before = other.queue().stats().syscalls;
    other.receive_frames(440);
    assert!(other.queue().stats().syscalls - before <= 3, "{:?}", other.queue().stats());
}

/// Sends and receives a fixed amount; prints what the queue counted. Run by the test below, under `strace`.
#[test]
#[ignore = "a part of counted_syscalls_are_those_that_strace_sees"]
fn exchange() {
    let config = UringConfig { force_fallback: env::var_os("EXCHANGE_FALLBACK").is_some(), ..plain() };
    let mut station = Station::open(config, &[0, 1, 2]);
    let bytes = run(44, 1472, 1472);
    for shard in [0, 1, 2, 0, 1, 2] {
        let items: Vec<_> = (0..8).map(|_| station.transmit(&bytes, 1472, shard, station.endpoint(shard))).collect();
        let ended = station.send(items);
        ended.into_iter().for_each(|completion| station.pool.put(completion.buffer));
        station.receive_frames(8 * 44);
    }
    station.queue().wait(1_000_000);
    println!("counted {}", station.queue().stats().syscalls);
}

#[test]
fn counted_syscalls_are_those_that_strace_sees() {
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    if Command::new("strace").arg("-V").output().is_err() {
        eprintln!("strace is not installed: not tested");
        return;
    }
    for fallback in [false, true] {
        let mut command = Command::new("strace");
        let calls = "trace=write,io_uring_enter,recvmmsg,sendmmsg,ppoll,recvmsg,sendmsg,recvfrom,sendto,getsockopt";
        command.args(["-f", "-qq", "-e", "signal=none", "-e", calls]);
        command.arg(env::current_exe().unwrap()).args(["exchange", "--exact", "--ignored", "--nocapture"]);
        if fallback {
            command.env("EXCHANGE_FALLBACK", "1");
        }
        let output = command.output().unwrap();
        let (text, trace) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        let Some(counted) = text.split("counted ").nth(1).and_then(|rest| rest.lines().next()) else {
            assert!(trace.contains("PTRACE") || trace.contains("ptrace"), "{text}\n{trace}");
            eprintln!("strace may not trace here: not tested");
            return;
        };
        // Setting a socket up reads its sizes back, and the standard library polls its three descriptors at the start.
        let ours = |line: &&str| {
            let call = [
                "io_uring_enter(",
                "recvmmsg(",
                "sendmmsg(",
                "ppoll(",
                "SO_MEMINFO",
                "recvmsg(",
                "sendmsg(",
                "recvfrom(",
                "sendto(",
            ];
            call.iter().any(|call| line.contains(call)) && !line.contains("resumed")
        };
        // Closing the queue comes behind that line and is not on the hot path.
        let seen = trace.lines().take_while(|line| !line.contains("\"counted ")).filter(ours).count();
        assert_eq!(counted.parse::<usize>().unwrap(), seen, "fallback {fallback}:\n{trace}");
    }
}

/// Sends faster than the device takes, from sockets with little room. Run by the test below, on a slow loopback.
#[test]
#[ignore = "a part of a_full_socket_keeps_order_and_loses_nothing_silently"]
fn squeeze() {
    for (mode, config) in modes() {
        let config = UringConfig { send_buffer_bytes: 16 << 10, ..config };
        let (mut from, mut to) = (Station::open(config.clone(), &[0]), Station::open(config, &[0]));
        let (mut next, mut offered, mut failed, mut busy) = (0_u32, 0, 0, 0);
        let (mut batch, mut done, mut got) = (TxBatch::new(), CompletionBatch::new(), Vec::new());
        let start = Instant::now();
        while next < 400 || offered > got.len() + failed {
            assert!(start.elapsed() < PATIENCE, "{mode}: {offered} offered, {} got, {failed} failed", got.len());
            while next < 400 && !batch.is_full() && from.pool.free() > 0 {
                // Runs of 1 to 9 frames, each frame with its number.
                let frames = 1 + next as usize * 7 % 9;
                let bytes: Vec<u8> =
                    (0..frames).flat_map(|at| (next * 16 + at as u32).to_le_bytes().repeat(16)).collect();
                let item = from.transmit(&bytes, 64, 0, to.endpoint(0));
                batch.push(item);
                (next, offered) = (next + 1, offered + frames);
            }
            let (queue, pool) = from.parts();
            busy += usize::from(queue.tx_burst(&mut batch) == 0 && !batch.is_empty());
            queue.rx_burst(pool, &mut RxBatch::new());
            queue.completions(&mut done);
            for completion in done.drain(..) {
                failed += if completion.error.is_some() { completion.token as usize / 64 } else { 0 };
                from.pool.put(completion.buffer);
            }
            for received in to.receive_some() {
                got.extend(frames_of(&received).iter().map(|frame| u32::from_le_bytes(*frame.first_chunk().unwrap())));
                to.pool.put(received.buffer);
            }
        }
        assert!(got.is_sorted(), "{mode}: the order changed");
        println!("squeezed {mode}: {} of {offered} frames, {failed} failed, refused {busy} times", got.len());
    }
}

#[test]
fn a_full_socket_keeps_order_and_loses_nothing_silently() {
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    let script =
        "ip link set lo up && tc qdisc add dev lo root tbf rate 16mbit burst 4k latency 20s && exec \"$0\" \"$@\"";
    let mut command = Command::new("unshare");
    command.args(["-rn", "sh", "-c", script]).arg(env::current_exe().unwrap());
    let output = command.args(["squeeze", "--exact", "--ignored", "--nocapture"]).output();
    let Ok(output) = output else {
        eprintln!("unshare is not installed: not tested");
        return;
    };
    let (text, errors) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if !text.contains("running 1 test") {
        eprintln!("no slow loopback here ({errors}): not tested");
        return;
    }
    eprintln!("{text}");
    assert!(output.status.success(), "{text}{errors}");
}

#[test]
fn every_shard_gets_its_turn_while_all_are_overloaded() {
    const SHARDS: [u16; 4] = [0, 1, 2, 3];
    for (mode, config) in modes() {
        let config = UringConfig { rx_buffers: 8, gso: false, ..config };
        let mut to = Station::open(config, &SHARDS);
        let from = UdpSocket::bind((LOOPBACK, 0)).unwrap();
        let offer = |to: &Station, count| {
            for shard in SHARDS {
                let place = (LOOPBACK, to.port.local_port(shard).unwrap());
                (0..count).for_each(|_| assert_eq!(from.send_to(&[7; 1472], place).unwrap(), 1472));
            }
        };
        offer(&to, 64);
        let mut seen = [0; SHARDS.len()];
        for _ in 0..64 {
            for received in to.receive_some() {
                seen[usize::from(received.shard)] += 1;
                to.pool.put(received.buffer);
            }
            offer(&to, 8); // more than was taken, so that no shard ever runs dry
        }
        let (least, most) = (seen.iter().min().unwrap(), seen.iter().max().unwrap());
        assert!(least * 2 > *most, "{mode}: {seen:?} of the shards were received");
    }
}

#[test]
fn what_the_kernel_drops_is_counted_also_if_nothing_follows() {
    for (mode, config) in modes() {
        let config = UringConfig { receive_buffer_bytes: 64 << 10, gso: false, ..config };
        let mut to = Station::open(config, &[0, 1]);
        let from = UdpSocket::bind((LOOPBACK, 0)).unwrap();
        const OFFERED: u64 = 2_000;
        for _ in 0..OFFERED {
            from.send_to(&[7; 1472], (LOOPBACK, to.port.local_port(1).unwrap())).unwrap();
        }
        let (start, mut seen) = (Instant::now(), 0);
        while seen + to.queue().stats().overflow < OFFERED {
            let stats = to.queue().stats();
            assert!(start.elapsed() < PATIENCE, "{mode}: {seen} of {OFFERED} seen, {stats:?}");
            for received in to.receive_some() {
                seen += 1;
                to.pool.put(received.buffer);
            }
        }
        assert_eq!(seen + to.queue().stats().overflow, OFFERED, "{mode}");
        assert!(to.queue().stats().overflow > 0, "{mode}: the socket was made too small to hold all");
    }
}

#[test]
fn a_frame_that_does_not_fit_is_cut_and_not_passed_over() {
    for force_fallback in [false, true] {
        let (mut pool, _) = new_pool(16, 2_048);
        let mut port = UringPort::new(UringConfig { force_fallback, rx_buffers: 8, ..plain() }).unwrap();
        let mut queue = port.open(&[0], &mut pool).unwrap();
        assert!(port.info().degraded.iter().any(|line| line.contains("UDP_GRO is off: buffers have 2048 bytes")));
        let from = UdpSocket::bind((LOOPBACK, 0)).unwrap();
        let address = (LOOPBACK, port.local_port(0).unwrap());
        for len in [4_000, 1, 0, 1472] {
            from.send_to(&vec![1; len], address).unwrap();
        }
        let (start, mut batch) = (Instant::now(), RxBatch::new());
        while batch.len() < 4 && start.elapsed() < PATIENCE {
            queue.rx_burst(&mut pool, &mut batch);
        }
        let lens: Vec<u32> = batch.iter().map(|received| received.len).collect();
        assert_eq!(lens, [2_048 - batch[0].offset, 1, 0, 1472]);
        assert!(lens[0] > port.info().frame_bytes_max, "the engine sees that it is too large");
        assert!(batch.iter().all(|received| received.stride > 0));
        batch.drain(..).for_each(|received| pool.put(received.buffer));
        queue.close(&mut pool);
        assert_eq!(pool.free(), 16);
    }
}

#[test]
fn a_peer_that_is_gone_disturbs_nobody() {
    for (mode, config) in modes() {
        let (mut from, mut to) = (Station::open(config.clone(), &[0]), Station::open(config, &[0]));
        let gone = Endpoint::v4([127, 0, 0, 1], free_port());
        for round in 0..20 {
            let nobody = from.transmit(&[round; 64], 64, 0, gone);
            let somebody = from.transmit(&[round; 64], 64, 0, to.endpoint(0));
            from.send_well([nobody, somebody]);
            assert_eq!(to.receive_frames(1)[0].0, [round; 64], "{mode}");
        }
    }
}

#[test]
fn what_cannot_be_sent_ends_in_one_reason() {
    for (mode, config) in modes() {
        let mut station = Station::open(config, &[0]);
        let peer = station.endpoint(0);
        let unreachable = station.transmit(&[1; 64], 64, 0, Endpoint::v6([9; 16], 9));
        let forbidden = station.transmit(&run(40, 1472, 1472), 1472, 0, Endpoint::v4([255; 4], 9));
        let foreign_shard = station.transmit(&[1; 64], 64, 9, peer);
        let long = Transmit { len: BUFFER_BYTES + 1, ..station.transmit(&[1; 64], 64, 0, peer) };
        let far = Transmit { offset: u32::MAX, ..station.transmit(&[1; 64], 64, 0, peer) };
        for completion in station.send([unreachable, forbidden, foreign_shard, long, far]) {
            assert_eq!(completion.error, Some(Reason::TxSubmitFail), "{mode}");
            station.pool.put(completion.buffer);
        }
        let well = station.transmit(&run(40, 1472, 1472), 1472, 0, peer);
        station.send_well([well]);
        assert_eq!(station.receive_frames(40).len(), 40);
        assert!(!station.port.info().degraded.iter().any(|line| line.contains("the device refused")), "{mode}");
    }
}

#[test]
fn a_closed_queue_leaves_its_ports_free() {
    let _alone = STARTING.lock().unwrap_or_else(PoisonError::into_inner);
    for (mode, config) in modes() {
        let base_port = free_port();
        for _ in 0..10 {
            let config = UringConfig { base_port, ..config.clone() };
            let mut station = Station::open(config, &[0]);
            assert_eq!(station.port.local_port(0), Some(base_port), "{mode}");
            let item = station.transmit(&run(40, 1472, 1472), 1472, 0, station.endpoint(0));
            // Closed with frames on the way in.
            station.send_well([item]);
        }
    }
}

#[test]
fn says_what_is_degraded_and_goes_on() {
    let config = UringConfig { force_fallback: true, gso: false, zero_copy: true, ..plain() };
    let mut station = Station::open(config, &[0]);
    assert!(!station.queue().is_io_uring());
    let degraded = station.port.info().degraded.join("\n");
    for part in ["recvmmsg and sendmmsg instead of io_uring", "gso is off by configuration", "sends are copied"] {
        assert!(degraded.contains(part), "{degraded}");
    }
    drop(station);
    if !UringPort::new(plain()).unwrap().info().degraded.is_empty() {
        eprintln!("this kernel refuses io_uring, so registering is not tested");
        return;
    }
    // Nothing is mapped at the first page, so it cannot be registered.
    let arena = Some(ArenaRegion { base: 4_096, bytes: 4_096 });
    let mut station = Station::open(UringConfig { zero_copy: true, arena, ..plain() }, &[0]);
    assert!(station.port.info().degraded.iter().any(|line| line.contains("the arena is not registered")));
    let item = station.transmit(&[1; 64], 64, 0, station.endpoint(0));
    station.send_well([item]);
    station.receive_frames(1);
}

#[test]
fn refuses_what_cannot_work_and_says_how_to_mend_it() {
    let (mut pool, _) = new_pool(4, 2_048);
    let mut refused = |config: UringConfig, shards: &[u16]| {
        UringPort::new(config).and_then(|mut port| port.open(shards, &mut pool)).unwrap_err().0
    };
    let holder = UdpSocket::bind((LOOPBACK, 0)).unwrap();
    let taken = holder.local_addr().unwrap().port();
    let texts = [
        refused(UringConfig { base_port: taken, ..plain() }, &[0]),
        refused(UringConfig { base_port: 65_535, ..plain() }, &[1]),
        refused(UringConfig { frame_bytes_max: 9_000, ..plain() }, &[0]),
        refused(UringConfig { rx_buffers: 0, ..plain() }, &[0]),
        refused(UringConfig { tx_depth: 0, ..plain() }, &[0]),
        refused(plain(), &[]),
        refused(UringConfig::new("192.0.2.1".parse().unwrap(), 0), &[0]),
    ];
    drop(holder);
    for text in &texts {
        assert!(text.contains([';', ':']), "{text}");
    }
    assert!(texts[0].contains("another program"), "{}", texts[0]);
    assert_eq!(texts.iter().collect::<BTreeSet<_>>().len(), texts.len(), "{texts:?}");
    assert_eq!(pool.free(), 4, "a refused port keeps no buffer");
}
