//! Two ports of this machine talk to each other through the driver, in one process: how many frames go, and how long one takes
//! there and back. Prints one JSON object per test. For a machine with two RoCE v2 devices, soft ones included, next to perftest;
//! with `--stub` it runs anywhere, in memory.
//!
//! ```text
//! verbs_pingpong --a rxea:192.0.2.1 --b rxeb:192.0.2.2 [--mode ud|rc|ring] [--test stream|pingpong] [--events]
//!                [--bytes 64] [--seconds 5] [--count N] [--limit 60] [--progress] [--pin]
//! ```
//!
//! Without `--mode` or `--test` it runs all of them. A test ends after `--seconds`, or after `--count` frames if that is sooner;
//! `kpps` is what was completed well by the time from the first frame to the last completion. `--events` lets idle workers sleep until the device wakes them, `--progress`
//! says on stderr every 50 ms how many frames of a stream have arrived, and `--pin` keeps the asking end on processor 0 and the
//! other on 1, or two polling ends may share one and wait for each other's time slice. A stream is settled before it ends: frames are numbered,
//! what is on its way is waited for, and `posted` is what `arrived`, `repeated` ones apart, and what is missing. It ends by
//! itself, at the latest `--limit` seconds after its start: 0 fine, 1 nothing arrived or a buffer is missing, 2 bad arguments,
//! no device, or the limit.
#![expect(clippy::print_stdout, reason = "printing the result is what it is for")]

mod ends;
#[path = "ends/seen.rs"]
mod seen;

use ends::{At, RING, SHARD, port};
use seen::{Seen, number};
use serde_json::json;
use std::{
    net::IpAddr,
    process::ExitCode,
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tachyon_driver_api::{Buffer, CompletionBatch, Pool, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_verbs::{
    Errand, Hardware, RingSize, VerbsConfig, VerbsPorts, VerbsQueue,
    device::{Device, Fabric},
    devices,
    stub::World,
};
use tachyon_wire::Endpoint;

/// Frames that a stream has on their way at most.
const WINDOW: usize = 128;
/// Room in the window before a stream sends again: a worker's bursts are as long as what comes in one turn, and not one frame each.
const BURST: usize = 32;
/// One idle wait: short, so that the end of a test is seen.
const WAIT_NS: u64 = 1_000_000;
/// How long a ping waits for its pong before it counts as lost: datagrams may be.
const LOST: Duration = Duration::from_millis(500);
/// How long a stream waits in the end for what it still has on its way: longer than a connection needs to be given up.
const SETTLE: Duration = Duration::from_secs(3);
/// How long nothing has to come for the other end to take it that nothing more will.
const QUIET: Duration = Duration::from_millis(100);
/// Time between two words of progress.
const PROGRESS: Duration = Duration::from_millis(50);

/// What the threads of one test tell each other.
#[derive(Debug, Default)]
struct Signs {
    /// Nothing new is to be sent.
    stop: AtomicBool,
    /// Nothing more is on its way.
    settled: AtomicBool,
    /// Frames that the other end has.
    arrived: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Mode {
    Ud,
    Rc,
    Ring,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Test {
    Stream,
    PingPong,
}

#[derive(Clone, Debug)]
struct Args {
    a: At,
    b: At,
    modes: Vec<Mode>,
    tests: Vec<Test>,
    events: bool,
    stub: bool,
    progress: bool,
    pin: bool,
    bytes: u32,
    seconds: u64,
    count: u64,
    limit: u64,
}

fn parse() -> Result<Args, String> {
    let here = |last| (None, IpAddr::from([192, 0, 2, last]));
    let (modes, tests) = (vec![Mode::Ud, Mode::Rc, Mode::Ring], vec![Test::Stream, Test::PingPong]);
    let (events, stub, progress, pin, bytes, seconds, limit) = (false, false, false, false, 64, 5, 60);
    let (a, b, count) = (here(1), here(2), u64::MAX);
    let mut args = Args { a, b, modes, tests, events, stub, progress, pin, bytes, seconds, count, limit };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        let number = |text: String| text.parse::<u64>().map_err(|_| format!("{text} is no number"));
        match word.as_str() {
            "--a" => args.a = port(&value()?)?,
            "--b" => args.b = port(&value()?)?,
            "--mode" => {
                args.modes = match value()?.as_str() {
                    "ud" => vec![Mode::Ud],
                    "rc" => vec![Mode::Rc],
                    "ring" => vec![Mode::Ring],
                    other => return Err(format!("--mode {other}: it is ud, rc or ring")),
                }
            }
            "--test" => {
                args.tests = match value()?.as_str() {
                    "stream" => vec![Test::Stream],
                    "pingpong" => vec![Test::PingPong],
                    other => return Err(format!("--test {other}: it is stream or pingpong")),
                }
            }
            "--events" => args.events = true,
            "--stub" => args.stub = true,
            "--progress" => args.progress = true,
            "--pin" => args.pin = true,
            "--bytes" => args.bytes = u32::try_from(number(value()?)?.clamp(16, 4_096)).unwrap_or(64),
            "--seconds" => args.seconds = number(value()?)?.clamp(1, 3_600),
            "--count" => args.count = number(value()?)?.max(1),
            "--limit" => args.limit = number(value()?)?.max(1),
            other => return Err(format!("{other} is unknown; see the head of this example")),
        }
    }
    Ok(args)
}

/// One end: its cold side, and what its worker takes along.
struct End<F: Fabric> {
    ports: VerbsPorts<F>,
    worker: Option<Worker<F::Device>>,
}

struct Worker<D: Device> {
    queue: VerbsQueue<D>,
    pool: Pool,
    peer: Endpoint,
    events: bool,
    bytes: u32,
    /// Frames of a test, at most.
    count: u64,
    /// What the last turn received. These batches live as long as the worker, as in any loop of its kind: to move their four
    /// kilobytes about costs an emulated processor more than a message.
    received: RxBatch,
    done: CompletionBatch,
    batch: TxBatch,
}

impl<F: Fabric> End<F> {
    fn open(at: &At, args: &Args, fabric: impl FnOnce(&VerbsConfig) -> Result<F, String>) -> Result<Self, String> {
        let (ports, queue, pool) = ends::open(at, (args.bytes, args.events), fabric)?;
        let (peer, events, bytes, count) = (Endpoint::NONE, args.events, args.bytes, args.count);
        let (received, done, batch) = (RxBatch::new(), CompletionBatch::new(), TxBatch::new());
        let worker = Worker { queue, pool, peer, events, bytes, count, received, done, batch };
        Ok(Self { ports, worker: Some(worker) })
    }
}

/// Lets both ends know each other.
fn introduce<F: Fabric>(a: &mut End<F>, b: &mut End<F>, mode: Mode) -> Result<[Endpoint; 2], String> {
    let text = |error: tachyon_driver_api::PortError| error.to_string();
    let details = [a.ports.datagrams(0).map_err(text)?, b.ports.datagrams(0).map_err(text)?];
    let names = details.map(|details| details.endpoint());
    if mode == Mode::Ud {
        a.ports.reach(0, names[1], &details[1]).map_err(text)?;
        b.ports.reach(0, names[0], &details[0]).map_err(text)?;
        return Ok(names);
    }
    let ring = ring(mode);
    let ours = a.ports.offer(0, names[1], ring).map_err(text)?;
    let theirs = b.ports.accept(0, names[0], &ours, ring).map_err(text)?;
    a.ports.connect(0, names[1], &theirs).map_err(text)?;
    Ok(names)
}

fn ring(mode: Mode) -> Option<RingSize> {
    // Twice the window of a stream, so that there is room while credits are on their way.
    (mode == Mode::Ring).then_some(RingSize { slots: 256, ..RING })
}

/// What a worker found.
#[derive(Debug, Default)]
struct Found {
    /// Frames that the driver took.
    posted: u64,
    /// Frames whose completion was good.
    sent: u64,
    received: u64,
    seen: Seen,
    failed: u64,
    lost: u64,
    rtts_ns: Vec<u64>,
    /// From the first frame of a stream to its last completion.
    took: Duration,
    syscalls: u64,
}

fn item(buffer: Buffer, offset: u32, len: u32, destination: Endpoint) -> Transmit {
    Transmit { buffer, offset, len, stride: len, shard: SHARD, destination, token: 0 }
}

impl<D: Device> Worker<D> {
    /// Sends a burst of at most this many frames, the first of which begins with this number; returns how many were taken.
    fn send(&mut self, most: usize, number: u64) -> usize {
        let free = std::iter::from_fn(|| self.pool.get()).take(most.min(self.batch.capacity()));
        for (mut buffer, number) in free.zip(number..) {
            buffer.bytes_mut()[64..72].copy_from_slice(&number.to_le_bytes());
            self.batch.push(item(buffer, 64, self.bytes, self.peer));
        }
        self.give()
    }

    fn give(&mut self) -> usize {
        let taken = self.queue.tx_burst(&mut self.batch);
        self.batch.drain(..).for_each(|item| self.pool.put(item.buffer));
        taken
    }

    /// One turn: `received` has what arrived, and the numbers are of what ended well and badly.
    fn turn(&mut self) -> (u64, u64) {
        self.queue.rx_burst(&mut self.pool, &mut self.received);
        self.queue.completions(&mut self.done);
        let (mut well, mut badly) = (0, 0);
        for completion in self.done.drain(..) {
            if completion.error.is_none() {
                well += 1
            } else {
                badly += 1
            }
            self.pool.put(completion.buffer);
        }
        if self.received.is_empty() && well + badly == 0 && self.events {
            self.queue.wait(WAIT_NS);
        }
        (well, badly)
    }

    /// The other end: gives every frame back, or only counts them.
    fn serve(&mut self, test: Test, signs: &Signs) -> Found {
        let mut found = Found::default();
        let mut last = Instant::now();
        while !signs.settled.load(Ordering::Relaxed) || last.elapsed() < QUIET {
            let (well, badly) = self.turn();
            (found.sent, found.failed) = (found.sent + well, found.failed + badly);
            if self.received.is_empty() {
                continue;
            }
            last = Instant::now();
            for Received { buffer, offset, len, .. } in self.received.drain(..) {
                found.received += 1;
                match test {
                    Test::Stream => {
                        found.seen.note(number(&buffer, offset));
                        self.pool.put(buffer);
                    }
                    // Received bytes go back as they are, out of the same buffer.
                    Test::PingPong => self.batch.push(item(buffer, offset, len, self.peer)),
                }
            }
            signs.arrived.store(found.received, Ordering::Relaxed);
            let back = self.batch.len();
            found.lost += (back - self.give()) as u64;
        }
        found.syscalls = self.queue.stats().syscalls;
        found
    }

    /// Sends as much as the window allows, and in the end waits for what is on its way.
    fn stream(&mut self, signs: &Signs) -> Found {
        let (mut found, mut out) = (Found::default(), 0);
        let mut stopped: Option<Instant> = None;
        let start = Instant::now();
        while stopped.is_none_or(|since| out > 0 && since.elapsed() < SETTLE) {
            if signs.stop.load(Ordering::Relaxed) || found.posted >= self.count {
                stopped.get_or_insert_with(Instant::now);
            } else if WINDOW - out >= BURST {
                let left = usize::try_from(self.count - found.posted).unwrap_or(WINDOW);
                let taken = self.send((WINDOW - out).min(left), found.posted);
                (found.posted, out) = (found.posted + taken as u64, out + taken);
            }
            let (well, badly) = self.turn();
            self.received.drain(..).for_each(|received| self.pool.put(received.buffer));
            (found.sent, found.failed) = (found.sent + well, found.failed + badly);
            out -= usize::try_from(well + badly).unwrap_or(out).min(out);
            if well > 0 {
                found.took = start.elapsed();
            }
        }
        found.syscalls = self.queue.stats().syscalls;
        found
    }

    /// Sends one, waits for it to come back, and so on.
    fn ping(&mut self, signs: &Signs) -> Found {
        let stop = &signs.stop;
        let mut found = Found::default();
        let mut number = 0_u64;
        while !stop.load(Ordering::Relaxed) && number < self.count {
            number += 1;
            let start = Instant::now();
            let taken = self.send(1, number) as u64;
            (found.posted, found.failed) = (found.posted + taken, found.failed + 1 - taken);
            let mut back = false;
            while !back && !stop.load(Ordering::Relaxed) && start.elapsed() < LOST {
                let (well, badly) = self.turn();
                (found.sent, found.failed) = (found.sent + well, found.failed + badly);
                for received in self.received.drain(..) {
                    back |= seen::number(&received.buffer, received.offset) == number;
                    found.received += 1;
                    self.pool.put(received.buffer);
                }
            }
            if back {
                found.rtts_ns.push(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
            } else if !stop.load(Ordering::Relaxed) {
                found.lost += 1;
            }
        }
        found.syscalls = self.queue.stats().syscalls;
        found
    }
}

/// Ticks both cold sides and carries what they need while the test runs: for its time, and until the asking worker is done.
fn attend<F: Fabric>(
    a: &mut End<F>,
    b: &mut End<F>,
    names: [Endpoint; 2],
    mode: Mode,
    args: &Args,
    signs: &Signs,
    done: impl Fn() -> bool,
) {
    let start = Instant::now();
    let mut told = start;
    while !done() {
        if start.elapsed() >= Duration::from_secs(args.seconds) {
            signs.stop.store(true, Ordering::Relaxed);
        }
        if args.progress && told.elapsed() >= PROGRESS {
            eprintln!("arrived {}", signs.arrived.load(Ordering::Relaxed));
            told = Instant::now();
        }
        let now_ns = u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX);
        a.ports.tick(now_ns);
        b.ports.tick(now_ns);
        for errand in a.ports.errands() {
            let Errand::Offer { details, .. } = errand else { continue };
            if let Ok(answer) = b.ports.accept(0, names[0], &details, ring(mode)) {
                let _ = a.ports.connect(0, names[1], &answer); // the next try says why not
            }
        }
        for errand in b.ports.errands() {
            if matches!(errand, Errand::Renew { .. }) {
                let _ = a.ports.reset(0, names[1]); // one that is down already stays down
            }
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Keeps the calling thread on one processor, if that is asked for and the machine has it.
fn settle_on(cpu: usize, pin: bool) {
    if !pin {
        return;
    }
    // SAFETY: a set of no processors is all zeros, `CPU_SET` writes within it for numbers this small, and the call reads it.
    let result = unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), &raw const set)
    };
    if result != 0 {
        eprintln!("verbs_pingpong: cannot stay on processor {cpu}: {}", std::io::Error::last_os_error());
    }
}

fn percentile(sorted: &[u64], of_100: usize) -> Option<f64> {
    let at = (sorted.len() * of_100 / 100).min(sorted.len().checked_sub(1)?);
    sorted.get(at).map(|ns| f64::from(u32::try_from(*ns).unwrap_or(u32::MAX)) / 1_000.0)
}

/// Runs one test on fresh ports and prints what came of it; says whether frames arrived and no buffer is missing.
fn run<F: Fabric>(args: &Args, mode: Mode, test: Test, mut ends: [End<F>; 2]) -> Result<bool, String>
where
    F::Device: 'static,
{
    let [a, b] = &mut ends;
    let names = introduce(a, b, mode)?;
    let signs = Signs::default();
    let (Some(mut client), Some(mut server)) = (a.worker.take(), b.worker.take()) else {
        return Err("no worker".to_owned());
    };
    (client.peer, server.peer) = (names[1], names[0]);
    // Once each, so that both know the way before anything is sent.
    client.turn();
    server.turn();
    let (mut found, served) = std::thread::scope(|scope| {
        let serving = scope.spawn(|| {
            settle_on(1, args.pin);
            server.serve(test, &signs)
        });
        let asking = scope.spawn(|| {
            settle_on(0, args.pin);
            if test == Test::Stream { client.stream(&signs) } else { client.ping(&signs) }
        });
        attend(a, b, names, mode, args, &signs, || asking.is_finished());
        signs.settled.store(true, Ordering::Relaxed);
        (asking.join().unwrap_or_default(), serving.join().unwrap_or_default())
    });
    let lanes: Vec<String> =
        a.ports.report().lanes.iter().map(|lane| format!("{} {} {}", lane.kind, lane.state, lane.why)).collect();
    let missing = a.ports.close(0, client.queue, &mut client.pool) + b.ports.close(0, server.queue, &mut server.pool);
    found.rtts_ns.sort_unstable();
    let arrived = if test == Test::Stream { served.received } else { found.rtts_ns.len() as u64 };
    let per_ms = |count: u64, took: Duration| count as f64 / took.as_secs_f64().max(1e-9) / 1_000.0;
    println!(
        "{}",
        json!({
            "mode": format!("{mode:?}").to_lowercase(),
            "test": format!("{test:?}").to_lowercase(),
            "events": args.events,
            "bytes": args.bytes,
            "seconds": args.seconds,
            "kpps": (test == Test::Stream).then(|| per_ms(found.sent, found.took)),
            "min_us": percentile(&found.rtts_ns, 0),
            "p50_us": percentile(&found.rtts_ns, 50),
            "p99_us": percentile(&found.rtts_ns, 99),
            "posted": found.posted,
            "sent": found.sent,
            "arrived": arrived,
            "out_of_order": served.seen.out_of_order,
            "repeated": served.seen.repeated,
            "failed": found.failed + served.failed,
            "lost": found.lost,
            "syscalls": found.syscalls + served.syscalls,
            "buffers_missing": missing,
            "registrations": a.ports.report().registrations,
            "lanes": lanes,
            "counters": a.ports.report().counters.into_iter().collect::<std::collections::BTreeMap<_, _>>(),
        })
    );
    Ok(arrived > 0 && missing == 0)
}

fn all(args: &Args) -> Result<bool, String> {
    let mut good = true;
    for &mode in &args.modes {
        for &test in &args.tests {
            good &= if args.stub {
                let world = World::new(1);
                let open = |port: &At| {
                    let IpAddr::V4(ip) = port.1 else { return Err("--stub has IPv4 only".to_owned()) };
                    let gid = ip.to_ipv6_mapped().octets();
                    End::open(port, args, |config| Ok(world.fabric(gid, 4_096, config.arena)))
                };
                run(args, mode, test, [open(&args.a)?, open(&args.b)?])?
            } else {
                let open = |port: &At| {
                    End::open(port, args, |config| Hardware::open(config).map_err(|error| error.to_string()))
                };
                run(args, mode, test, [open(&args.a)?, open(&args.b)?])?
            };
        }
    }
    Ok(good)
}

fn main() -> ExitCode {
    let args = match parse() {
        Ok(args) => args,
        Err(error) => {
            eprintln!("verbs_pingpong: {error}");
            return ExitCode::from(2);
        }
    };
    if !args.stub {
        match devices() {
            Ok(found) => eprint!("{found}"),
            Err(error) => eprintln!("{error}"),
        }
    }
    let limit = args.limit;
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(limit));
        eprintln!("verbs_pingpong: not done after {limit} s; raise --limit if that is too short");
        std::process::exit(2);
    });
    match all(&args) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("verbs_pingpong: {error}");
            ExitCode::from(2)
        }
    }
}
