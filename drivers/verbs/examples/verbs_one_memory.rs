//! A frame that came by verbs goes out by io_uring from the same memory, and the other way round, and neither driver writes a
//! byte of what was received. One queue of each driver shares one pool, as in a node with both. For a machine with two RoCE v2
//! devices, soft ones included; with `--stub` it runs anywhere with loopback.
//!
//! ```text
//! verbs_one_memory --a rxea:192.0.2.1 --b rxeb:192.0.2.2 [--limit 20]
//! verbs_one_memory --stub
//! ```
//!
//! Prints one JSON object with what each way was found to do. It ends by itself: 0 all is so, 2 bad arguments, no device, the
//! limit, or what was not so.
#![expect(clippy::print_stdout, reason = "printing the result is what it is for")]

mod ends;

use ends::{At, Parts, RING, SHARD, port};
use serde_json::{Value, json};
use std::{
    net::{IpAddr, SocketAddr, UdpSocket},
    process::ExitCode,
    time::{Duration, Instant},
};
use tachyon_driver_api::{
    Completion, CompletionBatch, Pool, Port, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue,
};
use tachyon_driver_uring::{UringConfig, UringPort, UringQueue};
use tachyon_driver_verbs::{Hardware, RingSize, VerbsConfig, device::Fabric, stub::World};
use tachyon_wire::Endpoint;

/// A frame of 22 messages.
const FRAME_BYTES: usize = 1_472;
/// How long one step may take: an emulated machine stands still at times.
const PATIENCE: Duration = Duration::from_secs(5);

/// One end: a cold side, its worker's queue and its buffers.
struct End<F: Fabric> {
    parts: Parts<F>,
    since: Instant,
}

/// What both drivers can do.
trait Queue: RxQueue + TxQueue {}
impl<Q: RxQueue + TxQueue> Queue for Q {}

/// Turns a queue once: what came, and what was done.
fn turn(queue: &mut impl Queue, pool: &mut Pool, items: &mut TxBatch) -> (Vec<Received>, Vec<Completion>) {
    let (mut received, mut done) = (RxBatch::new(), CompletionBatch::new());
    queue.tx_burst(items);
    queue.rx_burst(pool, &mut received);
    queue.completions(&mut done);
    (received.into_iter().collect(), done.into_iter().collect())
}

impl<F: Fabric> End<F> {
    fn tick(&mut self) {
        self.parts.0.tick(u64::try_from(self.since.elapsed().as_nanos()).unwrap_or(u64::MAX));
    }

    fn turn(&mut self, items: &mut TxBatch) -> (Vec<Received>, Vec<Completion>) {
        self.tick();
        turn(&mut self.parts.1, &mut self.parts.2, items)
    }
}

/// Lets both ends know each other by one of three ways; their names.
fn introduce<F: Fabric>(a: &mut End<F>, b: &mut End<F>, mode: &str) -> Result<[Endpoint; 2], String> {
    let text = |error: tachyon_driver_api::PortError| error.to_string();
    let (a, b) = (&mut a.parts.0, &mut b.parts.0);
    let details = [a.datagrams(0).map_err(text)?, b.datagrams(0).map_err(text)?];
    let names = details.map(|details| details.endpoint());
    if mode == "ud" {
        a.reach(0, names[1], &details[1]).map_err(text)?;
        b.reach(0, names[0], &details[0]).map_err(text)?;
        return Ok(names);
    }
    // Only b has a ring: a is the node.
    let ring: Option<RingSize> = (mode == "ring").then_some(RING);
    let ours = b.offer(0, names[0], ring).map_err(text)?;
    let theirs = a.accept(0, names[1], &ours, None).map_err(text)?;
    b.connect(0, names[0], &theirs).map_err(text)?;
    Ok(names)
}

fn item(pool: &mut Pool, bytes: &[u8], destination: Endpoint) -> Result<Transmit, String> {
    let mut buffer = pool.get().ok_or("no free buffer")?;
    buffer.bytes_mut()[64..64 + bytes.len()].copy_from_slice(bytes);
    let len = u32::try_from(bytes.len()).unwrap_or(0);
    Ok(Transmit { buffer, offset: 64, len, stride: len, shard: SHARD, destination, token: 1 })
}

/// Sends what was received on to somewhere else, out of its own buffer.
fn on(received: Received, destination: Endpoint) -> Transmit {
    let Received { buffer, offset, len, .. } = received;
    Transmit { buffer, offset, len, stride: len, shard: SHARD, destination, token: 2 }
}

/// Tries until something comes, or for as long as it may take.
fn until<T>(what: &str, mut step: impl FnMut() -> Option<T>) -> Result<T, String> {
    let start = Instant::now();
    loop {
        if let Some(found) = step() {
            return Ok(found);
        }
        if start.elapsed() > PATIENCE {
            return Err(format!("not in {PATIENCE:?}: {what}"));
        }
    }
}

/// Whether a completion is good, gives back the buffer at this address, and finds in it what was there before.
fn unwritten(done: &Completion, at: usize, before: &[u8]) -> Result<(), String> {
    if let Some(error) = done.error {
        return Err(format!("the frame was not sent: {error:?}"));
    }
    if done.buffer.address().addr().get() != at {
        return Err("the frame was sent from other memory than it was received in".to_owned());
    }
    let changed = done.buffer.bytes().iter().zip(before).filter(|(after, before)| after != before).count();
    if changed > 0 { Err(format!("{changed} received bytes were written")) } else { Ok(()) }
}

/// In by verbs, out by io_uring.
fn out_by_sockets<F: Fabric>(
    (a, b): (&mut End<F>, &mut End<F>),
    to_a: Endpoint,
    uring: &mut UringQueue,
    there: &UdpSocket,
    frame: &[u8],
) -> Result<(), String> {
    let mut items = TxBatch::new();
    items.push(item(&mut b.parts.2, frame, to_a)?);
    let mut none = TxBatch::new();
    let received = until("the frame arrives by verbs", || {
        b.turn(&mut items).1.into_iter().for_each(|done| b.parts.2.put(done.buffer));
        a.turn(&mut none).0.pop()
    })?;
    let (at, before) = (received.buffer.address().addr().get(), received.buffer.bytes().to_vec());
    let place = received.offset as usize..(received.offset + received.len) as usize;
    if before.get(place) != Some(frame) {
        return Err("what arrived by verbs is not what was sent".to_owned());
    }
    let port = there.local_addr().map_err(|error| error.to_string())?.port();
    items.push(on(received, Endpoint::v4([127, 0, 0, 1], port)));
    let done = until("io_uring sends it", || turn(uring, &mut a.parts.2, &mut items).1.pop())?;
    unwritten(&done, at, &before)?;
    a.parts.2.put(done.buffer);
    let mut bytes = [0; 2 * FRAME_BYTES];
    let (len, _) = there.recv_from(&mut bytes).map_err(|error| format!("nothing came by UDP: {error}"))?;
    if &bytes[..len] == frame { Ok(()) } else { Err("what went out by io_uring is not what came".to_owned()) }
}

/// In by io_uring, out by verbs.
fn out_by_verbs<F: Fabric>(
    (a, b): (&mut End<F>, &mut End<F>),
    to_b: Endpoint,
    uring: &mut UringQueue,
    there: &UdpSocket,
    frame: &[u8],
) -> Result<(), String> {
    let port = uring.local_port(SHARD).ok_or("the sockets have no port")?;
    there.send_to(frame, SocketAddr::from(([127, 0, 0, 1], port))).map_err(|error| error.to_string())?;
    let mut items = TxBatch::new();
    let received = until("the frame arrives by io_uring", || turn(uring, &mut a.parts.2, &mut items).0.pop())?;
    let (at, before) = (received.buffer.address().addr().get(), received.buffer.bytes().to_vec());
    items.push(on(received, to_b));
    let (mut done, mut arrived, mut none) = (None, None, TxBatch::new());
    until("verbs sends it and the other end has it", || {
        done = a.turn(&mut items).1.pop().or(done.take());
        arrived = b.turn(&mut none).0.pop().or(arrived.take());
        (done.is_some() && arrived.is_some()).then_some(())
    })?;
    let (Some(done), Some(arrived)) = (done, arrived) else { return Err("nothing came".to_owned()) };
    unwritten(&done, at, &before)?;
    a.parts.2.put(done.buffer);
    let place = arrived.offset as usize..(arrived.offset + arrived.len) as usize;
    let same = arrived.buffer.bytes().get(place) == Some(frame);
    b.parts.2.put(arrived.buffer);
    if same { Ok(()) } else { Err("what went out by verbs is not what came".to_owned()) }
}

/// Both ways over one kind of lane. The buffers are all back in the end.
fn both_ways<F: Fabric>(mode: &str, [mut a, mut b]: [End<F>; 2]) -> Result<Value, String> {
    let names = introduce(&mut a, &mut b, mode)?;
    let mut config = UringConfig::new(IpAddr::from([127, 0, 0, 1]), 0);
    config.rx_buffers = 16;
    let mut sockets = UringPort::new(config).map_err(|error| error.to_string())?;
    let mut uring = sockets.open(&[SHARD], &mut a.parts.2).map_err(|error| error.to_string())?;
    let there = UdpSocket::bind("127.0.0.1:0").map_err(|error| error.to_string())?;
    there.set_read_timeout(Some(PATIENCE)).map_err(|error| error.to_string())?;
    let frame: Vec<u8> = (0..FRAME_BYTES).map(|at| (at * 11).to_le_bytes()[0]).collect();
    let mut none = TxBatch::new();
    // Once each, so that both know the way before anything is sent.
    a.turn(&mut none);
    b.turn(&mut none);
    let inward = out_by_sockets((&mut a, &mut b), names[0], &mut uring, &there, &frame);
    let outward = inward.and_then(|()| out_by_verbs((&mut a, &mut b), names[1], &mut uring, &there, &frame));
    uring.close(&mut a.parts.2);
    let mut missing = 0;
    for End { parts: (mut ports, queue, mut pool), .. } in [a, b] {
        missing += ports.close(0, queue, &mut pool);
    }
    outward.map_err(|error| format!("{mode}: {error}"))?;
    Ok(
        json!({ "mode": mode, "verbs_to_uring": "same memory", "uring_to_verbs": "same memory", "buffers_missing": missing }),
    )
}

fn end<F: Fabric>(at: &At, fabric: impl FnOnce(&VerbsConfig) -> Result<F, String>) -> Result<End<F>, String> {
    let parts = ends::open(at, (u32::try_from(FRAME_BYTES).unwrap_or(0), false), fabric)?;
    Ok(End { parts, since: Instant::now() })
}

fn all(ends: Option<[At; 2]>) -> Result<Vec<Value>, String> {
    let mut found = Vec::new();
    for mode in ["ud", "rc", "ring"] {
        found.push(if let Some([a, b]) = &ends {
            let open = |at| end(at, |config| Hardware::open(config).map_err(|error| error.to_string()));
            both_ways(mode, [open(a)?, open(b)?])?
        } else {
            let world = World::new(1);
            let open = |ip: [u8; 4]| {
                let gid = std::net::Ipv4Addr::from(ip).to_ipv6_mapped().octets();
                end(&(None, IpAddr::from(ip)), |config| Ok(world.fabric(gid, 4_096, config.arena)))
            };
            both_ways(mode, [open([192, 0, 2, 1])?, open([192, 0, 2, 2])?])?
        });
    }
    Ok(found)
}

fn main() -> ExitCode {
    let (mut a, mut b, mut limit, mut stub) = (None, None, 20, false);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = if word == "--stub" { String::new() } else { words.next().unwrap_or_default() };
        let result = match word.as_str() {
            "--a" => port(&value).map(|at| a = Some(at)),
            "--b" => port(&value).map(|at| b = Some(at)),
            "--limit" => value.parse().map(|seconds| limit = seconds).map_err(|_| format!("{value} is no number")),
            "--stub" => {
                stub = true;
                Ok(())
            }
            other => Err(format!("{other} is unknown; see the head of this example")),
        };
        if let Err(error) = result {
            eprintln!("verbs_one_memory: {error}");
            return ExitCode::from(2);
        }
    }
    if !stub && (a.is_none() || b.is_none()) {
        eprintln!("verbs_one_memory: give --a and --b, or --stub");
        return ExitCode::from(2);
    }
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(limit));
        eprintln!("verbs_one_memory: not done after {limit} s; raise --limit if that is too short");
        std::process::exit(2);
    });
    match all(a.zip(b).map(|(a, b)| [a, b]).filter(|_| !stub)) {
        Ok(found) => {
            println!("{}", json!({ "lanes": found }));
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("verbs_one_memory: {error}");
            ExitCode::from(2)
        }
    }
}
