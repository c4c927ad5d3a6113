//! The hand-over of messages from one place to another: `crossbeam`'s and `rtrb`'s rings beside the link of our memory
//! driver.
//!
//! Ours moves buffers, and does more for each than a ring: an empty one comes back for it, under its token. So it is
//! measured with one message in a buffer, which is its worst case and what the others do, and with 32 in a buffer, which
//! is how a frame travels. The message itself is copied in and read out in every case. Every ring has room for 1,024 messages.

use super::{missing, row, take_turns};
use crate::{
    case::Case,
    input::{self, SOURCE, Source as Generated},
    machine,
};
use crossbeam_queue::ArrayQueue;
use serde_json::Value;
use std::{
    collections::VecDeque,
    hint::{black_box, spin_loop},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Instant,
};
use tachyon_driver_api::{CompletionBatch, Pool, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_mem::{LinkConfig, MemQueue, pair};
use tachyon_wire::{LINE, Message};
use zerocopy::{FromBytes, IntoBytes};

/// Messages that are handed over at a time.
const BATCH: usize = 32;
/// Messages that each ring has room for.
const ROOM: usize = 1_024;
/// Batches in a figure.
const BATCHES: usize = 8_192;
/// Looks at a ring that does not move before the core is given to somebody else, who may be the other side.
const PATIENCE: u32 = 256;
/// Runs between two threads of which the fastest counts: where others use the cores too, most runs are about them.
const RUNS: usize = 16;

/// The end that puts in.
trait Source: Send {
    /// Puts in what fits of a batch; returns how many messages.
    fn send(&mut self, batch: &[Message; BATCH]) -> usize;
}

/// The end that takes out.
trait Sink {
    /// Takes out what is there, at most about a batch, and reads it; returns how many messages.
    fn receive(&mut self) -> usize;
}

impl Source for Arc<ArrayQueue<Message>> {
    fn send(&mut self, batch: &[Message; BATCH]) -> usize {
        batch.iter().take_while(|message| self.push(**message).is_ok()).count()
    }
}

impl Sink for Arc<ArrayQueue<Message>> {
    fn receive(&mut self) -> usize {
        read(std::iter::from_fn(|| self.pop()).take(BATCH))
    }
}

/// `rtrb` as most use it.
struct Singly<T>(T);

impl Source for Singly<rtrb::Producer<Message>> {
    fn send(&mut self, batch: &[Message; BATCH]) -> usize {
        batch.iter().take_while(|message| self.0.push(**message).is_ok()).count()
    }
}

impl Sink for Singly<rtrb::Consumer<Message>> {
    fn receive(&mut self) -> usize {
        read(std::iter::from_fn(|| self.0.pop().ok()).take(BATCH))
    }
}

/// `rtrb` with one update of its indices for a batch.
struct Chunks<T>(T);

impl Source for Chunks<rtrb::Producer<Message>> {
    fn send(&mut self, batch: &[Message; BATCH]) -> usize {
        if self.0.push_entire_slice(batch).is_ok() { BATCH } else { 0 }
    }
}

impl Sink for Chunks<rtrb::Consumer<Message>> {
    fn receive(&mut self) -> usize {
        let Ok(chunk) = self.0.read_chunk(BATCH) else { return 0 };
        let (one, two) = chunk.as_slices();
        let taken = read(one.iter().chain(two).copied());
        chunk.commit_all();
        taken
    }
}

fn read(messages: impl Iterator<Item = Message>) -> usize {
    messages.fold(0, |count, message| {
        black_box(&message);
        count + 1
    })
}

/// One end of our link, with the buffers it sends and receives with.
struct Link {
    queue: MemQueue,
    pool: Pool,
    per_buffer: usize,
}

impl Link {
    /// A link of which every buffer holds so many messages.
    fn ends(per_buffer: usize) -> (Self, Self) {
        let depth = ROOM / per_buffer;
        let buffer_bytes = u32::try_from(LINE * per_buffer).expect("a batch is small");
        let (worker, outside) = pair(LinkConfig { depth, frame_bytes_max: buffer_bytes });
        // As many as can be in flight, and a burst in hand.
        let each = depth + 2 * BATCH;
        let bytes = 2 * each * buffer_bytes as usize;
        let config = ArenaConfig { bytes, buffer_bytes, pages: Pages::Auto, lock: false, numa_node: None };
        let mut arena = Arena::create(config).expect("memory for the buffers");
        let mut end = |queue| {
            let pool = Pool::new(arena.take(each).expect("the arena is large enough"));
            Self { queue, pool, per_buffer }
        };
        (end(outside), end(worker))
    }
}

impl Source for Link {
    fn send(&mut self, batch: &[Message; BATCH]) -> usize {
        let mut done = CompletionBatch::new();
        self.queue.completions(&mut done);
        done.drain(..).for_each(|completion| self.pool.put(completion.buffer));
        let mut out = TxBatch::new();
        let mut filled = 0;
        for messages in batch.chunks(self.per_buffer) {
            let Some(mut buffer) = self.pool.get() else { break };
            let bytes = messages.as_bytes();
            buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            let len = u32::try_from(bytes.len()).unwrap_or(0);
            out.push(Transmit { buffer, offset: 0, len, stride: len, shard: 0, destination: SOURCE, token: 0 });
            filled += messages.len();
        }
        self.queue.tx_burst(&mut out);
        let left = out.len();
        out.drain(..).for_each(|item| self.pool.put(item.buffer));
        filled - left * self.per_buffer
    }
}

impl Sink for Link {
    fn receive(&mut self) -> usize {
        let mut batch = RxBatch::new();
        self.queue.rx_burst(&mut self.pool, &mut batch);
        batch.drain(..).fold(0, |count, item| {
            let bytes = &item.buffer.bytes()[item.offset as usize..][..item.len as usize];
            let messages = <[Message]>::ref_from_bytes(bytes).expect("whole messages");
            let taken = read(messages.iter().copied());
            self.pool.put(item.buffer);
            count + taken
        })
    }
}

/// The messages of the loop's base case, as many as it has in use at a time.
fn generated(seed: u64) -> Vec<[Message; BATCH]> {
    let case = Case::BASE;
    let mut spare = input::arena(case.ring()).take(case.ring()).expect("the arena is large enough");
    let mut loaded = VecDeque::new();
    Generated::of(&case, seed, case.ring() * case.per_buffer()).load(case.ring(), &mut spare, &mut loaded);
    let frames = loaded.iter().flat_map(|item| item.buffer.bytes()[..item.len as usize].chunks(item.stride as usize));
    let messages: Vec<Message> = frames
        .flat_map(|frame| <[Message]>::ref_from_bytes(&frame[LINE..]).expect("whole messages"))
        .copied()
        .collect();
    messages.as_chunks().0.to_vec()
}

/// Both ends on one thread: what a push and a pop cost while everything is in the cache.
fn same_thread(mut source: impl Source, mut sink: impl Sink, batches: &[[Message; BATCH]]) -> impl FnMut() -> f64 {
    move || {
        let begun = Instant::now();
        for batch in batches.iter().cycle().take(BATCHES) {
            let sent = source.send(black_box(batch));
            assert_eq!((sent, sink.receive()), (BATCH, BATCH), "a batch fits and comes out");
        }
        begun.elapsed().as_secs_f64() * 1e9 / (BATCHES * BATCH) as f64
    }
}

/// An end on each of two threads, as fast as both can. As many messages in all runs together as on one thread. The threads
/// stay on two cores: on one, a ring that fills and empties by turns never leaves the cache, and looks fastest.
fn two_threads(
    mut source: impl Source,
    mut sink: impl Sink,
    batches: &[[Message; BATCH]],
    other: usize,
) -> impl FnMut() -> f64 {
    const TOTAL: usize = BATCHES * BATCH / RUNS;
    let mut run = move || {
        let (ready, go) = (AtomicBool::new(false), AtomicBool::new(false));
        let ns = thread::scope(|scope| {
            scope.spawn(|| {
                machine::pin(other);
                ready.store(true, Ordering::Release);
                let mut waited = 0;
                while !go.load(Ordering::Acquire) {
                    pause(&mut waited, 0);
                }
                let (mut sent, mut at) = (0, 0);
                while sent < TOTAL {
                    // What was not taken of a batch is not offered again: it is how many that counts, not which.
                    let more = source.send(black_box(&batches[at]));
                    at = (at + usize::from(more > 0)) % batches.len();
                    sent += more;
                    pause(&mut waited, more);
                }
            });
            let mut waited = 0;
            while !ready.load(Ordering::Acquire) {
                pause(&mut waited, 0);
            }
            let begun = Instant::now();
            go.store(true, Ordering::Release);
            let mut received = 0;
            while received < TOTAL {
                let more = sink.receive();
                received += more;
                pause(&mut waited, more);
            }
            begun.elapsed().as_secs_f64() * 1e9 / received as f64
        });
        // The last batch may have been more than was missing; the next run begins with an empty ring.
        while sink.receive() > 0 {}
        ns
    };
    move || (0..RUNS).map(|_| run()).fold(f64::INFINITY, f64::min)
}

/// Waits a little if nothing moved.
fn pause(waited: &mut u32, moved: usize) {
    *waited = if moved > 0 { 0 } else { *waited + 1 };
    match *waited {
        0 => {}
        PATIENCE.. => {
            *waited = 0;
            thread::yield_now();
        }
        _ => spin_loop(),
    }
}

/// Whether a thread may run on this core, which need not be among those of the calling thread.
fn reachable(core: usize) -> bool {
    let tried = thread::spawn(move || {
        machine::pin(core);
        machine::allowed() == [core]
    });
    tried.join().unwrap_or(false)
}

/// Every ring on one thread and on two: the second on another core, if there is one.
pub(super) fn rows(seed: u64, rounds: usize, other: Option<usize>) -> Vec<Value> {
    let generated = generated(seed);
    let batches = generated.as_slice();
    // A function cannot take `same_thread` and `two_threads`, which are generic over each ring, as an argument.
    macro_rules! figures {
        ($how:ident $(, $other:expr)?) => {{
            let queue = Arc::new(ArrayQueue::new(ROOM));
            let (producer, consumer) = rtrb::RingBuffer::new(ROOM);
            let (chunk_producer, chunk_consumer) = rtrb::RingBuffer::new(ROOM);
            let ((one_out, one_in), (many_out, many_in)) = (Link::ends(1), Link::ends(BATCH));
            take_turns(
                rounds,
                [
                    &mut $how(queue.clone(), queue, batches $(, $other)?),
                    &mut $how(Singly(producer), Singly(consumer), batches $(, $other)?),
                    &mut $how(Chunks(chunk_producer), Chunks(chunk_consumer), batches $(, $other)?),
                    &mut $how(one_out, one_in, batches $(, $other)?),
                    &mut $how(many_out, many_in, batches $(, $other)?),
                ],
            )
        }};
    }
    let mut rows = table("one thread", figures!(same_thread));
    let here = machine::allowed();
    match other.filter(|other| here.len() == 1 && here[0] != *other && reachable(*other)) {
        Some(other) => rows.extend(table("two threads", figures!(two_threads, other))),
        None => {
            let note = "this process may use one core only";
            rows.push(missing("rings, two threads", "hand-over between threads", note));
        }
    }
    rows
}

fn table(threads: &str, [queue, rtrb, chunks, one, many]: [f64; 5]) -> Vec<Value> {
    let singly = format!("64-byte messages, each by itself, {threads}");
    let together = format!("64-byte messages, 32 at a time, {threads}");
    let row = |name: &str, what: &str, ns, ours, note| row(&format!("{name}, {threads}"), what, ns, ours, note);
    vec![
        row("crossbeam", &singly, queue, one, "ArrayQueue push and pop, each shown to the other side at once"),
        row("rtrb", &singly, rtrb, one, "push and pop, each shown to the other side at once"),
        row(
            "ours, 1 a buffer",
            &singly,
            one,
            one,
            "mem link: shown 32 at a time; a buffer and a token come back for each",
        ),
        row("crossbeam, batch", &together, queue, many, "the same figure: ArrayQueue has no batches"),
        row("rtrb, chunks", &together, chunks, many, "push_entire_slice and read_chunk of 32"),
        row("ours, 32 a buffer", &together, many, many, "mem link: a buffer for 32, one comes back"),
    ]
}
