//! `bus`: latency from publisher to subscriber through the worker and rings in memory.
//!
//! Open loop: frames have a time at which they are due, whether or not the one before got through, and latency counts from
//! that time. So a stall shows in everything that it delayed, and not only in the one frame that met it. An empty relay in
//! the worker's place, between the same threads and at the same rates, shows what of it is rings, cores and the machine.
//!
//! The two take turns, and each quantile is the median of its values in all passes: a shared machine takes a core away for
//! milliseconds now and then, and one such pause among a second's messages would be the P99 of all of them.

use crate::{
    Common,
    case::Case,
    cycle::print_targets,
    input::{self, MARK, SOURCE, Source},
    machine, median, rows,
    whole::{self, POOL},
};
use serde_json::{Value, json};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tachyon_driver_api::{CompletionBatch, Pool, QueueStats, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_mem::{LinkConfig, MemQueue, pair};
use tachyon_wire::{
    LINE,
    counters::{Counters, Histogram},
};

/// Parts of the capacity at which latency is measured, in percent.
const LOADS: [u32; 3] = [1, 50, 90];
/// Frames that a publisher sends at once where it has fallen behind.
const AT_ONCE: usize = 16;
/// Buffers of the publisher and of the subscriber: what a link holds, and as many to work with.
const ENDS: usize = 512;
/// Sent before anything is measured: ten messages for each topic and sender, the first of which finds its records in memory
/// that was never touched, and copies its rules. That takes a millisecond or ten, once.
const WARM_UP: u64 = 10 * Case::BASE.topics as u64;
/// Longer than anything takes that is not lost.
const PATIENCE: Duration = Duration::from_secs(5);
/// Where a message's mark is: behind flags and ids.
const MARK_AT: usize = 16;

/// What `bus` takes beside the rest.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Seconds at each load, all passes together.
    #[arg(long, default_value_t = 3.6)]
    seconds: f64,
}

/// Measures and prints.
pub(crate) fn run(args: Args, common: &Common) -> Result<(), String> {
    let allowed = machine::allowed();
    if allowed.len() < 2 {
        return Err(
            "the bus needs two cores, one for the worker and one for its users: give this process another".to_owned()
        );
    }
    if !(0.01..=600.0).contains(&args.seconds) {
        return Err("--seconds: give 0.01 to 600".to_owned());
    }
    let passes = common.passes();
    let time = Duration::from_secs_f64(args.seconds / passes as f64 / if common.quick { 4.0 } else { 1.0 });
    let machine = machine::describe();
    let threads = if allowed.len() < 3 { "publisher and subscriber share a thread" } else { "a thread each" };
    if !common.json {
        println!(
            "publisher -> worker -> subscriber, {threads}, crc -> crc, medians of {passes} passes of {:.2} s a row, seed {}",
            time.as_secs_f64(),
            common.seed
        );
        machine::print(&machine);
        println!(
            "\n{:<16}{:<8}{:>6}{:>14}{:>10}{:>10}{:>10}{:>12}",
            "messages/frame", "middle", "load", "messages/s", "P50 ns", "P99 ns", "P99.9 ns", "max ns"
        );
    }
    let mut rows = Vec::new();
    for messages in [22, 1] {
        let cores = Cores::of(&allowed);
        let capacity =
            (0..passes).map(|_| Ok(through(Middle::Worker, &cores, messages, &[None], time, common.seed)?[0].1));
        let capacity = median(capacity.collect::<Result<_, String>>()?);
        let rates = LOADS.map(|percent| Some(capacity * f64::from(percent) / 100.0));
        let mut seen = [const { Vec::new() }; 2 * LOADS.len()];
        for _ in 0..passes {
            for (middle, seen) in [Middle::Worker, Middle::Relay].into_iter().zip(seen.chunks_mut(LOADS.len())) {
                let pass = through(middle, &cores, messages, &rates, time, common.seed)?;
                seen.iter_mut().zip(pass).for_each(|(seen, pass)| seen.push(pass));
            }
        }
        for (place, seen) in seen.iter().enumerate() {
            let middle = if place < LOADS.len() { Middle::Worker } else { Middle::Relay };
            let row = row(middle, messages, LOADS[place % LOADS.len()], capacity, seen);
            if !common.json {
                print(&row);
            }
            rows.push(row);
        }
    }
    let targets = targets(&rows);
    if common.json {
        println!(
            "{}",
            json!({ "rows": rows, "threads": threads, "targets": targets, "seed": common.seed, "machine": machine })
        );
    } else {
        println!();
        print_targets(&targets);
    }
    Ok(())
}

fn row(middle: Middle, messages: usize, percent: u32, capacity: f64, passes: &[(Histogram, f64)]) -> Value {
    let quantile = |permille| median(passes.iter().map(|(histogram, _)| histogram.quantile(permille) as f64).collect());
    json!({
        "messages_per_frame": messages, "middle": middle.name(), "load_percent": percent,
        "messages_per_second": median(passes.iter().map(|(_, rate)| rate.round()).collect()),
        "capacity_messages_per_second": capacity.round(),
        "p50_ns": quantile(500), "p99_ns": quantile(990), "p999_ns": quantile(999),
        "max_ns": passes.iter().map(|(histogram, _)| histogram.max).max(),
    })
}

fn print(row: &Value) {
    let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    println!(
        "{:<16}{:<8}{:>4} %{:>14.0}{:>10.0}{:>10.0}{:>10.0}{:>12.0}",
        number("messages_per_frame"),
        row["middle"].as_str().unwrap_or_default(),
        number("load_percent"),
        number("messages_per_second"),
        number("p50_ns"),
        number("p99_ns"),
        number("p999_ns"),
        number("max_ns")
    );
}

/// P99 at half load is at most 5 µs, or where the machine is the limit at most 1.3 times that of the relay.
fn targets(rows: &[Value]) -> Vec<Value> {
    let at_half = |middle: &str, messages: u64| {
        let found = rows
            .iter()
            .find(|row| row["middle"] == middle && row["messages_per_frame"] == messages && row["load_percent"] == 50);
        found.and_then(|row| row["p99_ns"].as_f64()).unwrap_or(f64::NAN)
    };
    [22, 1]
        .map(|messages| {
            let (worker, relay) = (at_half("worker", messages), at_half("relay", messages));
            let limit = (1.3 * relay).max(5_000.0);
            rows::target(&format!("P99 at 50 %, {messages} a frame, ns (5,000 or 1.3 x relay)"), worker, limit.round())
        })
        .to_vec()
}

/// Who runs where.
#[derive(Clone, Copy, Debug)]
struct Cores {
    worker: usize,
    publisher: usize,
    /// None where it shares the publisher's thread.
    subscriber: Option<usize>,
}

impl Cores {
    fn of(allowed: &[usize]) -> Self {
        let last = allowed.len() - 1;
        Self { worker: allowed[last], publisher: allowed[0], subscriber: (last > 1).then(|| allowed[1]) }
    }
}

/// What stands between the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Middle {
    Worker,
    Relay,
}

impl Middle {
    fn name(self) -> &'static str {
        match self {
            Self::Worker => "worker",
            Self::Relay => "relay",
        }
    }
}

/// Runs some loads through a middle, each a rate in messages a second, or as much as gets through. Gives for each the
/// latencies and the rate that arrived.
fn through(
    middle: Middle,
    cores: &Cores,
    messages: usize,
    rates: &[Option<f64>],
    time: Duration,
    seed: u64,
) -> Result<Vec<(Histogram, f64)>, String> {
    let case = Case { messages, destinations: 1, ..Case::BASE };
    let mut arena = input::arena(POOL + 2 * ENDS);
    let mut pool = |count| arena.take(count).map(Pool::new).map_err(|error| error.to_string());
    let (worker_pool, publisher_pool, subscriber_pool) = (pool(POOL)?, pool(ENDS)?, pool(ENDS)?);
    let (from_publisher, to_worker) = pair(LinkConfig::default());
    let (to_subscriber, at_subscriber) = pair(LinkConfig::default());
    let start = Instant::now();
    let flags = Flags::default();
    let mut publisher = Publisher {
        queue: to_worker,
        pool: publisher_pool,
        source: Source::new(&case, seed),
        messages,
        start,
        sent: 0,
    };
    let mut subscriber =
        Subscriber { queue: at_subscriber, pool: subscriber_pool, start, received: 0, histogram: Histogram::ZERO };
    let queue = Split { from: from_publisher, to: to_subscriber };
    thread::scope(|scope| {
        let inner = scope.spawn(|| {
            machine::pin(cores.worker);
            match middle {
                Middle::Worker => Some(work(&case, queue, worker_pool, start, &flags)),
                Middle::Relay => {
                    relay(queue, worker_pool, &flags);
                    None
                }
            }
        });
        flags.wait_ready();
        let warm_up = subscriber.received + WARM_UP;
        while subscriber.received < warm_up {
            load(&mut publisher, &mut subscriber, cores, None, time);
        }
        let mut results = Vec::new();
        for rate in rates {
            results.push(load(&mut publisher, &mut subscriber, cores, *rate, time));
        }
        flags.stop.store(true, Ordering::Release);
        let counters = inner.join().map_err(|_| "the worker failed: see above".to_owned())?;
        if let Some(counters) = counters {
            whole::check(&counters, publisher.source.offered, 1);
        }
        if subscriber.received != publisher.sent {
            return Err(format!(
                "{} messages were sent and {} arrived: nothing may be lost here",
                publisher.sent, subscriber.received
            ));
        }
        Ok(results)
    })
}

/// What threads tell each other outside of what is measured.
#[derive(Debug, Default)]
struct Flags {
    ready: AtomicBool,
    stop: AtomicBool,
}

impl Flags {
    fn wait_ready(&self) {
        while !self.ready.load(Ordering::Acquire) {
            thread::yield_now();
        }
    }
}

/// The governed middle.
fn work(case: &Case, queue: Split, pool: Pool, start: Instant, flags: &Flags) -> Box<Counters> {
    let rulesets = Arc::new(vec![input::ruleset(case, 1)]);
    let mut worker = whole::worker(case, rulesets, pool, queue);
    flags.ready.store(true, Ordering::Release);
    loop {
        let idle = worker.poll(nanoseconds(start)).idle;
        if idle && flags.stop.load(Ordering::Acquire) && worker.stats().counters.copies_held == 0 {
            return Box::new(worker.stats().counters);
        }
    }
}

/// The empty middle: whatever comes is sent on as it is.
fn relay(mut queue: Split, mut pool: Pool, flags: &Flags) {
    let (mut received, mut pending, mut done) = (RxBatch::new(), TxBatch::new(), CompletionBatch::new());
    flags.ready.store(true, Ordering::Release);
    while !flags.stop.load(Ordering::Acquire) {
        if pending.is_empty() {
            queue.rx_burst(&mut pool, &mut received);
        }
        pending.extend(received.drain(..).map(|item| Transmit {
            buffer: item.buffer,
            offset: item.offset,
            len: item.len,
            stride: item.stride,
            shard: item.shard,
            destination: item.source,
            token: 0,
        }));
        queue.tx_burst(&mut pending);
        queue.completions(&mut done);
        done.drain(..).for_each(|completion| pool.put(completion.buffer));
    }
}

/// Runs one load, on one thread or two, until everything sent has arrived.
fn load(
    publisher: &mut Publisher,
    subscriber: &mut Subscriber,
    cores: &Cores,
    rate: Option<f64>,
    time: Duration,
) -> (Histogram, f64) {
    subscriber.histogram = Histogram::ZERO;
    let before = subscriber.received;
    let begun = Instant::now();
    let mut schedule = Schedule::new(nanoseconds(publisher.start), rate, publisher.messages, time);
    let arrived = match cores.subscriber {
        None => {
            machine::pin(cores.publisher);
            while publisher.turn(&mut schedule) {
                subscriber.turn();
            }
            let arrived = (subscriber.received - before) as f64 / begun.elapsed().as_secs_f64();
            drain(publisher, subscriber);
            arrived
        }
        Some(core) => {
            let sent = AtomicU64::new(u64::MAX);
            thread::scope(|scope| {
                let reader = scope.spawn(|| {
                    machine::pin(core);
                    let mut patience = None;
                    loop {
                        subscriber.turn();
                        let sent = sent.load(Ordering::Acquire);
                        let over = sent != u64::MAX && patience.get_or_insert_with(Instant::now).elapsed() > PATIENCE;
                        if over || subscriber.received >= sent {
                            return;
                        }
                    }
                });
                machine::pin(cores.publisher);
                while publisher.turn(&mut schedule) {}
                sent.store(publisher.sent, Ordering::Release);
                while !reader.is_finished() {
                    publisher.recover();
                }
            });
            (subscriber.received - before) as f64 / begun.elapsed().as_secs_f64()
        }
    };
    (subscriber.histogram, arrived)
}

/// Receives what is still on its way.
fn drain(publisher: &mut Publisher, subscriber: &mut Subscriber) {
    let begun = Instant::now();
    while subscriber.received < publisher.sent && begun.elapsed() < PATIENCE {
        subscriber.turn();
        publisher.recover();
    }
}

/// When frames are due.
#[derive(Clone, Copy, Debug)]
struct Schedule {
    start: u64,
    end: u64,
    /// Nanoseconds from one frame to the next; 0 = whenever there is room.
    interval: f64,
    frames: u64,
}

impl Schedule {
    fn new(start: u64, rate: Option<f64>, messages: usize, time: Duration) -> Self {
        let interval = rate.map_or(0.0, |rate| 1e9 * messages as f64 / rate);
        Self { start, end: start + u64::try_from(time.as_nanos()).unwrap_or(u64::MAX), interval, frames: 0 }
    }

    /// The time at which the next frame is due; that of the call where there is no rate.
    fn due(&self, now: u64) -> u64 {
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "nanoseconds of a run")]
        let offset = (self.frames as f64 * self.interval) as u64;
        if self.interval == 0.0 { now } else { self.start + offset }
    }
}

/// Sends frames when they are due.
#[derive(Debug)]
struct Publisher {
    queue: MemQueue,
    pool: Pool,
    source: Source,
    messages: usize,
    start: Instant,
    /// Messages.
    sent: u64,
}

impl Publisher {
    /// Sends what is due, as far as there is room; false once the time is over and everything due was sent.
    fn turn(&mut self, schedule: &mut Schedule) -> bool {
        self.recover();
        let now = nanoseconds(self.start);
        let room = AT_ONCE.min(self.queue.config().depth - self.queue.held());
        let mut batch = TxBatch::new();
        while batch.len() < room && schedule.due(now) <= now.min(schedule.end) {
            let Some(mut buffer) = self.pool.get() else { break };
            let (len, shard) = self.source.frame(buffer.bytes_mut(), self.messages, schedule.due(now));
            let len = u32::try_from(len).unwrap_or(0);
            batch.push(Transmit { buffer, offset: 0, len, stride: len, shard, destination: SOURCE, token: 0 });
            schedule.frames += 1;
            self.sent += self.messages as u64;
        }
        self.queue.tx_burst(&mut batch);
        debug_assert!(batch.is_empty(), "there was room for all of them");
        schedule.due(now) <= schedule.end
    }

    fn recover(&mut self) {
        let mut done = CompletionBatch::new();
        while self.queue.completions(&mut done) > 0 {
            done.drain(..).for_each(|completion| self.pool.put(completion.buffer));
        }
    }
}

/// Receives, and notes how long each message took.
#[derive(Debug)]
struct Subscriber {
    queue: MemQueue,
    pool: Pool,
    start: Instant,
    /// Messages.
    received: u64,
    histogram: Histogram,
}

impl Subscriber {
    fn turn(&mut self) {
        let mut batch = RxBatch::new();
        while self.queue.rx_burst(&mut self.pool, &mut batch) > 0 {
            for item in batch.drain(..) {
                let now = nanoseconds(self.start);
                let bytes = &item.buffer.bytes()[item.offset as usize..][..item.len as usize];
                bytes
                    .chunks(item.stride as usize)
                    .for_each(|frame| note(&mut self.histogram, &mut self.received, now, frame));
                self.pool.put(item.buffer);
            }
        }
    }
}

/// Enters a frame's messages; neighbours with one mark go in together.
fn note(histogram: &mut Histogram, received: &mut u64, now: u64, frame: &[u8]) {
    let mark = |message: &[u8]| message[MARK_AT..MARK_AT + MARK].try_into().map_or(0, u64::from_le_bytes);
    let messages: &[[u8; LINE]] = frame[LINE..].as_chunks().0;
    for run in messages.chunk_by(|one, next| mark(one) == mark(next)) {
        histogram.record(now.saturating_sub(mark(&run[0])), run.len() as u64);
    }
    *received += messages.len() as u64;
}

/// One end towards the publisher and one towards the subscriber, so that the two may be threads of their own.
#[derive(Debug)]
struct Split {
    from: MemQueue,
    to: MemQueue,
}

impl RxQueue for Split {
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        self.from.rx_burst(pool, into)
    }

    fn wait(&mut self, _ns: u64) {}

    fn stats(&self) -> QueueStats {
        self.from.stats()
    }

    fn held(&self) -> usize {
        self.from.held() + self.to.held()
    }
}

impl TxQueue for Split {
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        self.to.tx_burst(from)
    }

    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        self.to.completions(into)
    }
}

fn nanoseconds(start: Instant) -> u64 {
    u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX)
}
