//! What the driver itself costs, over a device that only consumes descriptors: sending a frame and fetching its completion,
//! receiving one and giving its buffer back. Prints one JSON object; ends with 1 if anything is above what is asked for.
//!
//! `cargo run --release -p tachyon-driver-verbs --example post_and_poll`
#![expect(clippy::print_stdout, reason = "printing the result is what it is for")]

use std::{process::ExitCode, time::Instant};
use tachyon_driver_api::{
    BURST_MAX, CompletionBatch, Pool, Port, RxBatch, RxQueue, Transmit, TxBatch, TxQueue,
    conformance::{CountingAllocator, allocations},
};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_verbs::{ArenaRegion, Details, VerbsConfig, VerbsPorts, VerbsQueue, stub::StubDevice, stub::World};
use tachyon_wire::Endpoint;

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// A header and 22 messages; path MTU 2048.
const FRAME_BYTES: u32 = 64 + 22 * 64;
const MESSAGES: f64 = 22.0;
const BUFFERS: usize = 1_024;
/// Asked for: nanoseconds per frame and per message.
const FRAME_NS_MAX: f64 = 200.0;
const MESSAGE_NS_MAX: f64 = 10.0;
const ROUNDS: u32 = 20;
const TURNS: u32 = 5_000;

struct Bench {
    queue: VerbsQueue<StubDevice>,
    pool: Pool,
    to: Endpoint,
}

fn bench(world: &World) -> (VerbsPorts<tachyon_driver_verbs::stub::StubFabric>, Bench) {
    let buffers =
        ArenaConfig { bytes: BUFFERS * 2_112, buffer_bytes: 2_112, pages: Pages::Auto, lock: false, numa_node: None };
    let mut arena = Arena::create(buffers).expect("2 MiB of memory");
    let (base, bytes) = arena.region();
    let region = ArenaRegion { base: base.as_ptr().expose_provenance(), bytes };
    let config = VerbsConfig::new(std::net::Ipv4Addr::new(192, 0, 2, 1).into(), region, 1);
    let fabric = world.fabric(Endpoint::v4([192, 0, 2, 1], 0).ip, 2_048, region);
    let mut ports = VerbsPorts::with(fabric, config).expect("the stub gives everything");
    let mut pool = Pool::new(arena.take(BUFFERS).expect("all of it"));
    let mut queue = ports.seat(0).expect("its first").open(&[], &mut pool).expect("enough buffers");
    let theirs = Details::Datagrams { gid: Endpoint::v4([192, 0, 2, 2], 0).ip, qpn: 99, qkey: 1, mtu_bytes: 2_048 };
    ports.reach(0, theirs.endpoint(), &theirs).expect("any address will do");
    queue.rx_burst(&mut pool, &mut RxBatch::new());
    (ports, Bench { queue, pool, to: theirs.endpoint() })
}

/// One turn of sending a burst; returns how many frames completed.
fn send(bench: &mut Bench, batch: &mut TxBatch, done: &mut CompletionBatch) -> usize {
    while !batch.is_full()
        && let Some(buffer) = bench.pool.get()
    {
        batch.push(Transmit {
            buffer,
            offset: 0,
            len: FRAME_BYTES,
            stride: FRAME_BYTES,
            shard: 0,
            destination: bench.to,
            token: 0,
        });
    }
    bench.queue.tx_burst(batch);
    let count = bench.queue.completions(done);
    done.drain(..).for_each(|completion| bench.pool.put(completion.buffer));
    count
}

/// One turn of receiving; returns how many frames came.
fn receive(bench: &mut Bench, batch: &mut RxBatch) -> usize {
    let count = bench.queue.rx_burst(&mut bench.pool, batch);
    batch.drain(..).for_each(|received| bench.pool.put(received.buffer));
    count
}

/// The median of the rounds, in nanoseconds per frame, and what was allocated.
fn measure(mut turn: impl FnMut() -> usize) -> (f64, u64) {
    for _ in 0..TURNS {
        turn();
    }
    let mut allocated = 0;
    let mut rounds: Vec<f64> = (0..ROUNDS)
        .map(|_| {
            let (mut frames, start) = (0_usize, Instant::now());
            allocated += allocations(|| frames = (0..TURNS).map(|_| turn()).sum());
            start.elapsed().as_secs_f64() * 1e9 / f64::from(u32::try_from(frames).unwrap_or(u32::MAX))
        })
        .collect();
    rounds.sort_by(f64::total_cmp);
    (rounds[rounds.len() / 2], allocated)
}

fn main() -> ExitCode {
    let (ports, mut sending) = bench(&World::sink(0));
    let (mut batch, mut done) = (TxBatch::new(), CompletionBatch::new());
    let (send_ns, send_allocated) = measure(|| send(&mut sending, &mut batch, &mut done));
    let (_, mut receiving) = bench(&World::sink(u32::try_from(BURST_MAX).unwrap_or(1)));
    let mut batch = RxBatch::new();
    let (receive_ns, receive_allocated) = measure(|| receive(&mut receiving, &mut batch));
    let (allocated, registrations) = (send_allocated + receive_allocated, ports.report().registrations - 1);
    let per_message = send_ns / MESSAGES;
    println!(
        "{}",
        serde_json::json!({
            "post_and_poll_ns_per_frame": send_ns,
            "post_and_poll_ns_per_message": per_message,
            "receive_and_repost_ns_per_frame": receive_ns,
            "frame_bytes": FRAME_BYTES,
            "allocations": allocated,
            "registrations_after_start": registrations,
        })
    );
    let good = send_ns <= FRAME_NS_MAX && per_message <= MESSAGE_NS_MAX && allocated == 0 && registrations == 0;
    if good { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
