//! One publisher with two subscribers, each in a process of its own; something is done to one of them, the *victim*, and the other,
//! the *witness*, must not notice. Prints one JSON object: of each lane how many frames were given to the driver, how they ended
//! by reason, how many arrived, and what the lane is in the end. For a machine with two RoCE v2 devices, soft ones included.
//!
//! ```text
//! verbs_faults --a rxea:192.0.2.1 --b rxeb:192.0.2.2 --mode ud|rc|ring --fault killed|withheld|key [--limit 20]
//! ```
//!
//! `killed`: the victim ends by SIGKILL after a second and a new process takes its place one and a half seconds later.
//! `withheld`: for that time it reads nothing, so it tells no credits. `key`: its ring's key is wrong in the first exchange.
//! It ends by itself: 0 done, 2 bad arguments, no device, or the limit.
#![expect(clippy::print_stdout, reason = "printing the result, and lines between the processes, is what it is for")]

mod ends;
#[path = "ends/seen.rs"]
mod seen;

use ends::{At, RING, SHARD, port};
use seen::{Seen, number};
use serde_json::json;
use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader, Write},
    net::IpAddr,
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, channel},
    },
    time::{Duration, Instant},
};
use tachyon_driver_api::{CompletionBatch, Pool, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_verbs::{
    DETAILS_BYTES, Details, Errand, Hardware, RingSize, VerbsPorts, VerbsQueue, device::Device, device::Fabric,
};
use tachyon_wire::Endpoint;

const BYTES: u32 = 64;
/// Frames of one lane on their way, and sent at once.
const WINDOW: u64 = 64;
const BURST: u64 = 16;
/// How long a lane that ended something badly is left alone: or a lane that is down would be offered millions.
const PAUSE: Duration = Duration::from_millis(5);
/// When it is done to the victim, when it is over, and when nothing new is sent.
const DONE: Duration = Duration::from_millis(1_000);
const OVER: Duration = Duration::from_millis(2_500);
const END: Duration = Duration::from_millis(4_500);
/// How long is waited for what is on its way: longer than a device is waited for.
const SETTLE: Duration = Duration::from_secs(5);
/// How long a subscriber may take to answer.
const ANSWER: Duration = Duration::from_secs(3);
const TICK: Duration = Duration::from_millis(2);
/// How long nothing has to come for a subscriber to take it that nothing more will.
const QUIET: Duration = Duration::from_millis(100);

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    Killed,
    Withheld,
    Key,
}

#[derive(Clone, Debug)]
struct Args {
    a: At,
    b: At,
    mode: String,
    fault: Option<Fault>,
    subscriber: bool,
    limit: u64,
}

fn parse() -> Result<Args, String> {
    let here = |last| (None, IpAddr::from([192, 0, 2, last]));
    let (a, b, mode) = (here(1), here(2), "rc".to_owned());
    let mut args = Args { a, b, mode, fault: None, subscriber: false, limit: 20 };
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let mut value = || words.next().ok_or(format!("{word} needs a value"));
        match word.as_str() {
            "--a" => args.a = port(&value()?)?,
            "--b" => args.b = port(&value()?)?,
            "--mode" => args.mode = value()?,
            "--subscriber" => args.subscriber = true,
            "--limit" => args.limit = value()?.parse().map_err(|_| "--limit is no number".to_owned())?,
            "--fault" => {
                args.fault = Some(match value()?.as_str() {
                    "killed" => Fault::Killed,
                    "withheld" => Fault::Withheld,
                    "key" => Fault::Key,
                    other => return Err(format!("--fault {other}: it is killed, withheld or key")),
                });
            }
            other => return Err(format!("{other} is unknown; see the head of this example")),
        }
    }
    if !["ud", "rc", "ring"].contains(&args.mode.as_str()) {
        return Err(format!("--mode {}: it is ud, rc or ring", args.mode));
    }
    Ok(args)
}

fn ring(args: &Args) -> Option<RingSize> {
    (args.mode == "ring").then_some(RING)
}

fn hex(details: &Details) -> String {
    details.encode().iter().map(|byte| format!("{byte:02x}")).collect()
}

fn details(text: &str) -> Result<Details, String> {
    let digits = |at: usize| text.get(2 * at..2 * at + 2).and_then(|two| u8::from_str_radix(two, 16).ok());
    let bytes: Vec<u8> = (0..DETAILS_BYTES).map_while(digits).collect();
    Details::decode(&bytes).map_err(|error| error.to_string())
}

fn hardware(at: &At) -> Result<ends::Parts<Hardware>, String> {
    ends::open(at, (BYTES, false), |config| Hardware::open(config).map_err(|error| error.to_string()))
}

/// Lines of a stream, read by a thread of their own because that has no time limit.
fn lines(from: impl std::io::Read + Send + 'static) -> Receiver<String> {
    let (sender, lines) = channel();
    std::thread::spawn(move || {
        BufReader::new(from).lines().map_while(Result::ok).map(|line| sender.send(line)).all(|sent| sent.is_ok())
    });
    lines
}

/// The subscriber's process. Lines in: `publisher DETAILS`, `accept DETAILS`, `hold`, `go`, `end`; lines out: `name DETAILS`,
/// `took DETAILS` or `no WHY`, `renew`, `arrived DISTINCT REPEATED REFUSED`. It ends with its input.
fn subscribe(args: &Args) -> Result<(), String> {
    let (mut ports, queue, pool) = hardware(&args.b)?;
    println!("name {}", hex(&ports.datagrams(0).map_err(|error| error.to_string())?));
    let (told, hold, end) = (lines(std::io::stdin()), AtomicBool::new(false), AtomicBool::new(false));
    let start = Instant::now();
    let mut publisher = Endpoint::NONE;
    std::thread::scope(|scope| {
        let reader = scope.spawn(|| read(queue, pool, &hold, &end));
        loop {
            let line = told.recv_timeout(TICK);
            match line.as_deref().map(|line| line.split_once(' ').unwrap_or((line, ""))) {
                Ok(("publisher", text)) => publisher = details(text)?.endpoint(),
                Ok(("accept", text)) => {
                    match ports.accept(0, publisher, &details(text)?, ring(args)) {
                        Ok(ours) => println!("took {}", hex(&ours)),
                        Err(error) => println!("no {error}"),
                    };
                }
                Ok((word @ ("hold" | "go"), _)) => hold.store(word == "hold", Ordering::Relaxed),
                Ok(("end", _)) | Err(std::sync::mpsc::RecvTimeoutError::Disconnected) => break,
                _ => {}
            }
            ports.tick(u64::try_from(start.elapsed().as_nanos()).unwrap_or(u64::MAX));
            if ports.errands().iter().any(|errand| matches!(errand, Errand::Renew { .. })) {
                println!("renew");
            }
        }
        end.store(true, Ordering::Relaxed);
        let (distinct, repeated) = reader.join().unwrap_or_default();
        // What came on a connection that is not there any more is refused, and counted.
        let counters = ports.report().counters;
        let refused: u64 =
            counters.iter().filter(|(name, _)| name.starts_with("refused_")).map(|(_, count)| count).sum();
        println!("arrived {distinct} {repeated} {refused}");
        Ok(())
    })
}

/// The subscriber's worker: counts what is different, and what came twice.
fn read<D: Device>(mut queue: VerbsQueue<D>, mut pool: Pool, hold: &AtomicBool, end: &AtomicBool) -> (u64, u64) {
    let (mut seen, mut arrived, mut batch, mut done) = (Seen::default(), 0, RxBatch::new(), CompletionBatch::new());
    let mut last = Instant::now();
    while !end.load(Ordering::Relaxed) || last.elapsed() < QUIET {
        if hold.load(Ordering::Relaxed) {
            std::thread::sleep(TICK);
            continue;
        }
        queue.rx_burst(&mut pool, &mut batch);
        queue.completions(&mut done);
        if batch.is_empty() {
            // There are three processes, and fewer processors.
            std::thread::yield_now();
        } else {
            last = Instant::now();
        }
        for Received { buffer, offset, .. } in batch.drain(..) {
            seen.note(number(&buffer, offset));
            arrived += 1;
            pool.put(buffer);
        }
        done.drain(..).for_each(|completion| pool.put(completion.buffer));
    }
    (arrived - seen.repeated, seen.repeated)
}

/// A subscriber as the publisher sees it.
struct Subscriber {
    child: Child,
    lines: Receiver<String>,
    /// Where it takes datagrams.
    datagrams: Details,
}

impl Subscriber {
    fn start(args: &Args, publisher: &Details) -> Result<Self, String> {
        let program = std::env::current_exe().map_err(|error| error.to_string())?;
        let at = |(device, ip): &At| device.as_ref().map_or_else(|| ip.to_string(), |device| format!("{device}:{ip}"));
        let mut command = Command::new(program);
        command.args(["--subscriber", "--b", &at(&args.b), "--mode", &args.mode]);
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|error| format!("a subscriber does not start: {error}"))?;
        let lines = lines(child.stdout.take().ok_or("no output")?);
        let line = lines.recv_timeout(ANSWER).map_err(|_| "a subscriber says nothing".to_owned())?;
        let name = line.strip_prefix("name ").ok_or_else(|| format!("a subscriber says {line}"))?;
        let mut subscriber = Self { child, lines, datagrams: details(name)? };
        subscriber.tell(&format!("publisher {}", hex(publisher)));
        Ok(subscriber)
    }

    /// Tells it something; one that was killed hears nothing.
    fn tell(&mut self, line: &str) {
        let _ = self.child.stdin.as_mut().map(|input| writeln!(input, "{line}"));
    }

    /// Its answer to an offer, if it takes it.
    fn answer(&mut self, offer: &Details) -> Option<Details> {
        self.tell(&format!("accept {}", hex(offer)));
        loop {
            let line = self.lines.recv_timeout(ANSWER).ok()?;
            match line.split_once(' ') {
                Some(("took", text)) => return details(text).ok(),
                Some(("no", _)) => return None,
                _ => {}
            }
        }
    }

    /// What arrived there, distinct and repeated, and what was refused; `None` if it cannot say.
    fn arrived(&mut self) -> Option<[u64; 3]> {
        self.tell("end");
        loop {
            let line = self.lines.recv_timeout(ANSWER).ok()?;
            let Some(counts) = line.strip_prefix("arrived ") else { continue };
            let counts: Vec<u64> = counts.split(' ').filter_map(|count| count.parse().ok()).collect();
            return counts.try_into().ok();
        }
    }
}

impl Drop for Subscriber {
    fn drop(&mut self) {
        let _ = self.child.kill(); // one that ended is not there any more
        let _ = self.child.wait();
    }
}

/// What became of a lane's frames.
#[derive(Clone, Debug, Default)]
struct Lane {
    posted: u64,
    sent: u64,
    failed: BTreeMap<String, u64>,
    out: u64,
    rests_until: Option<Instant>,
}

/// The publisher's worker: the same for both lanes in turn.
fn publish<D: Device>(
    (mut queue, mut pool): (VerbsQueue<D>, Pool),
    names: [Endpoint; 2],
    stop: &AtomicBool,
) -> (VerbsQueue<D>, Pool, [Lane; 2]) {
    let mut lanes = [Lane::default(), Lane::default()];
    let (mut batch, mut received, mut done) = (TxBatch::new(), RxBatch::new(), CompletionBatch::new());
    let mut stopped: Option<Instant> = None;
    queue.rx_burst(&mut pool, &mut received); // an empty turn, in which it learns the ways
    while stopped.is_none_or(|since| lanes.iter().any(|lane| lane.out > 0) && since.elapsed() < SETTLE) {
        if stop.load(Ordering::Relaxed) {
            stopped.get_or_insert_with(Instant::now);
        }
        for (token, lane) in (0..).zip(&mut lanes) {
            let rests = lane.rests_until.is_some_and(|until| Instant::now() < until);
            if stopped.is_some() || rests || lane.out + BURST > WINDOW {
                continue;
            }
            for number in lane.posted..lane.posted + BURST {
                let Some(mut buffer) = pool.get() else { break };
                buffer.bytes_mut()[64..72].copy_from_slice(&number.to_le_bytes());
                let destination = names[token as usize];
                batch.push(Transmit {
                    buffer,
                    offset: 64,
                    len: BYTES,
                    stride: BYTES,
                    shard: SHARD,
                    destination,
                    token,
                });
            }
            let taken = queue.tx_burst(&mut batch) as u64;
            (lane.posted, lane.out) = (lane.posted + taken, lane.out + taken);
            batch.drain(..).for_each(|item| pool.put(item.buffer));
        }
        queue.rx_burst(&mut pool, &mut received);
        received.drain(..).for_each(|one| pool.put(one.buffer));
        queue.completions(&mut done);
        if done.is_empty() {
            std::thread::yield_now();
        }
        for completion in done.drain(..) {
            pool.put(completion.buffer);
            let lane = &mut lanes[completion.token as usize];
            lane.out -= 1;
            match completion.error {
                None => lane.sent += 1,
                Some(reason) => {
                    *lane.failed.entry(format!("{reason:?}")).or_default() += 1;
                    lane.rests_until = Some(Instant::now() + PAUSE);
                }
            }
        }
    }
    (queue, pool, lanes)
}

/// Makes the way to a subscriber; `bend` is the victim's first exchange with a wrong key.
fn introduce<F: Fabric>(
    ports: &mut VerbsPorts<F>,
    to: Endpoint,
    subscriber: &mut Subscriber,
    args: &Args,
    bend: bool,
) -> Result<(), String> {
    if args.mode == "ud" {
        return ports.reach(0, to, &subscriber.datagrams).map_err(|error| error.to_string());
    }
    let offer = ports.offer(0, to, None).map_err(|error| error.to_string())?;
    let mut answer = subscriber.answer(&offer).ok_or("the first offer was not taken")?;
    if let (true, Details::Connection { ring: Some(ring), .. }) = (bend, &mut answer) {
        ring.rkey ^= 0x55;
    }
    ports.connect(0, to, &answer).map_err(|error| error.to_string())
}

/// Carries what connections that come back need.
fn carry<F: Fabric>(ports: &mut VerbsPorts<F>, names: [Endpoint; 2], subscribers: &mut [Option<Subscriber>; 2]) {
    for (name, subscriber) in names.into_iter().zip(subscribers.iter_mut()) {
        let renew = subscriber.iter().flat_map(|one| one.lines.try_iter()).any(|line| line == "renew");
        if renew {
            let _ = ports.reset(0, name); // one that is down already stays down
        }
    }
    for errand in ports.errands() {
        let Errand::Offer { to, details, .. } = errand else { continue };
        let Some(at) = names.iter().position(|name| *name == to) else { continue };
        if let Some(answer) = subscribers[at].as_mut().and_then(|one| one.answer(&details)) {
            let _ = ports.connect(0, to, &answer); // the next try says why not
        }
    }
}

fn run(args: &Args, fault: Fault) -> Result<(), String> {
    let text = |error: tachyon_driver_api::PortError| error.to_string();
    let (mut ports, queue, pool) = hardware(&args.a)?;
    let ours = ports.datagrams(0).map_err(text)?;
    let (mut witness, mut victim) = (Subscriber::start(args, &ours)?, Subscriber::start(args, &ours)?);
    let names = [witness.datagrams.endpoint(), victim.datagrams.endpoint()];
    introduce(&mut ports, names[0], &mut witness, args, false)?;
    introduce(&mut ports, names[1], &mut victim, args, fault == Fault::Key)?;
    let mut subscribers = [Some(witness), Some(victim)];
    let (stop, start) = (AtomicBool::new(false), Instant::now());
    let (queue, mut pool, lanes) = std::thread::scope(|scope| -> Result<_, String> {
        let publisher = scope.spawn(|| publish((queue, pool), names, &stop));
        let (mut done, mut over) = (false, false);
        while !publisher.is_finished() {
            let since = start.elapsed();
            if since >= DONE && !done {
                done = true;
                match fault {
                    Fault::Killed => subscribers[1] = None,
                    Fault::Withheld => subscribers[1].iter_mut().for_each(|victim| victim.tell("hold")),
                    Fault::Key => {}
                }
            }
            if since >= OVER && !over {
                over = true;
                match &mut subscribers[1] {
                    Some(victim) => victim.tell("go"),
                    None => {
                        let next = Subscriber::start(args, &ours)?;
                        if args.mode == "ud" {
                            ports.reach(0, names[1], &next.datagrams).map_err(text)?;
                        }
                        subscribers[1] = Some(next);
                    }
                }
            }
            stop.store(since >= END, Ordering::Relaxed);
            ports.tick(u64::try_from(since.as_nanos()).unwrap_or(u64::MAX));
            carry(&mut ports, names, &mut subscribers);
            std::thread::sleep(TICK);
        }
        publisher.join().map_err(|_| "the publisher panicked".to_owned())
    })?;
    let reports = ports.report().lanes;
    let mut told = serde_json::Map::new();
    for ((who, lane), at) in ["witness", "victim"].into_iter().zip(lanes).zip(0..) {
        let arrived = subscribers[at].as_mut().and_then(Subscriber::arrived);
        let to = format!("{}:{}", args.b.1, names[at].port);
        let state = reports.iter().find(|report| report.to == to).map(|report| (report.state, report.why.clone()));
        told.insert(
            who.to_owned(),
            json!({
                "posted": lane.posted, "sent": lane.sent, "failed": lane.failed, "open": lane.out,
                "arrived": arrived.map(|counts| counts[0]), "repeated": arrived.map(|counts| counts[1]),
                "refused": arrived.map(|counts| counts[2]),
                "state": state.as_ref().map(|(state, _)| *state), "why": state.map(|(_, why)| why),
            }),
        );
    }
    told.insert("buffers_missing".to_owned(), ports.close(0, queue, &mut pool).into());
    println!("{}", serde_json::Value::Object(told));
    Ok(())
}

fn main() -> ExitCode {
    let result = parse().and_then(|args| {
        let limit = args.limit;
        std::thread::spawn(move || {
            std::thread::sleep(Duration::from_secs(limit));
            eprintln!("verbs_faults: not done after {limit} s; raise --limit if that is too short");
            std::process::exit(2);
        });
        match (args.subscriber, args.fault) {
            (true, _) => subscribe(&args),
            (false, Some(fault)) => run(&args, fault),
            (false, None) => Err("--fault is missing: killed, withheld or key".to_owned()),
        }
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("verbs_faults: {error}");
            ExitCode::from(2)
        }
    }
}
