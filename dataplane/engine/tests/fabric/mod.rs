//! A worker between publishers and subscribers, all in memory and in virtual time. Whatever it sends is verified frame by
//! frame by who receives it; whatever it publishes has to add up at once.
#![allow(dead_code, unused_imports, reason = "each test program uses a part of it")]

mod ends;
mod host;
pub(crate) mod model;
mod rules;
mod tap;

pub(crate) use ends::{Publisher, Received, Reply, Subscriber};
pub(crate) use host::TestHost;
pub(crate) use rules::Rules;
pub(crate) use tap::TestTap;

use std::{
    cell::{Cell, RefCell},
    hash::{DefaultHasher, Hash, Hasher},
    rc::Rc,
};
use tachyon_driver_api::{Completion, CompletionBatch, Pool, QueueStats, RxBatch, RxQueue, TxBatch, TxQueue};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_mem::{FaultCounts, Faults, Faulty, LinkConfig, MemQueue, Outside, pair};
use tachyon_engine::{Limits, Memory, Work, Worker};
use tachyon_policy::Verified;
use tachyon_wire::{Endpoint, Message, Reason, command::Command, counters::Counters};

/// splitmix64: any seed will do.
#[derive(Clone, Debug)]
pub(crate) struct Draws(pub(crate) u64);

impl Draws {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub(crate) fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit as u64).unwrap()
    }

    pub(crate) fn id(&mut self, limit: u32) -> u32 {
        u32::try_from(self.next() % u64::from(limit)).unwrap()
    }

    pub(crate) fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}

/// The worker's queue, so that a test can look at its faults while the worker has it.
#[derive(Clone, Debug)]
pub(crate) struct SharedQueue {
    inner: Rc<RefCell<Faulty<MemQueue>>>,
    /// The next hand-over panics.
    pub(crate) panics: Rc<Cell<bool>>,
}

impl RxQueue for SharedQueue {
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        self.inner.borrow_mut().rx_burst(pool, into)
    }

    fn wait(&mut self, ns: u64) {
        self.inner.borrow_mut().wait(ns);
    }

    fn stats(&self) -> QueueStats {
        self.inner.borrow().stats()
    }

    fn held(&self) -> usize {
        self.inner.borrow().held()
    }
}

impl TxQueue for SharedQueue {
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        assert!(!self.panics.take(), "a hand-over that panics");
        self.inner.borrow_mut().tx_burst(from)
    }

    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        let before = into.len();
        let count = self.inner.borrow_mut().completions(into);
        let known = |done: &Completion| done.error.is_none_or(|reason| (40..50).contains(&reason.number()));
        assert!(into[before..].iter().all(known), "completions end in reasons of the copy ledger");
        count
    }
}

/// How large everything is.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    pub(crate) shard_count: u16,
    pub(crate) shards: &'static [u16],
    pub(crate) worker: u16,
    pub(crate) workers: u16,
    /// Buffers of the worker.
    pub(crate) pool: usize,
    /// Buffers of the outside.
    pub(crate) outside: usize,
    pub(crate) buffer_bytes: u32,
    pub(crate) frame_bytes_max: u32,
    /// Buffers in flight each way.
    pub(crate) depth: usize,
    pub(crate) faults: Faults,
    pub(crate) seed: u64,
    pub(crate) held_buffers: u32,
    /// Bytes of the truth log's ring; 0 where there is none.
    pub(crate) log_bytes: usize,
    pub(crate) fill_window_ns: u64,
    pub(crate) subscribers_max: u32,
    pub(crate) targets_max: u32,
    pub(crate) topics_max: u32,
    pub(crate) path: tachyon_engine::Path,
}

pub(crate) const BOOT: u16 = 7;
pub(crate) const UNIX_OFFSET: u64 = 1_700_000_000_000_000_000;
pub(crate) const SESSIONS_MAX: u32 = 64;

impl Default for Config {
    fn default() -> Self {
        Self {
            shard_count: 4,
            shards: &[0, 1, 2, 3],
            worker: 0,
            workers: 1,
            pool: 256,
            outside: 320,
            buffer_bytes: 4096,
            frame_bytes_max: 1472,
            depth: 256,
            faults: Faults::default(),
            seed: 1,
            held_buffers: 0,
            log_bytes: 0,
            fill_window_ns: 5_000,
            subscribers_max: 128,
            targets_max: 512,
            topics_max: 1024,
            path: tachyon_engine::Path::detect(),
        }
    }
}

pub(crate) struct Fabric {
    pub(crate) worker: Worker<'static, SharedQueue, TestHost, TestTap>,
    pub(crate) queue: SharedQueue,
    pub(crate) outside: Outside,
    /// Virtual time, ns.
    pub(crate) now: u64,
    pub(crate) publishers: Vec<Publisher>,
    pub(crate) subscribers: Vec<Subscriber>,
    /// Frames of the node may be missing, so gaps in frame ids are no error.
    pub(crate) lossy: bool,
    /// There are addresses that are no publisher's and no subscriber's.
    pub(crate) strangers: bool,
    pub(crate) config: Config,
    /// Frames handed to the link, and buffers they travelled in.
    pub(crate) offered: u64,
    /// Every byte that came out, where it went and in which order.
    pub(crate) digest: DefaultHasher,
    sends: usize,
}

impl Fabric {
    pub(crate) fn new(config: Config, rules: impl Into<Option<Rules>>) -> Self {
        let bytes = (config.pool + config.outside) * config.buffer_bytes as usize;
        let arena = ArenaConfig {
            bytes,
            buffer_bytes: config.buffer_bytes,
            pages: Pages::Ordinary,
            lock: false,
            numa_node: None,
        };
        let mut arena = Arena::create(arena).unwrap();
        let pool = Pool::new(arena.take(config.pool).unwrap());
        let outside_pool = Pool::new(arena.take(config.outside).unwrap());
        let (inside, outside) = pair(LinkConfig { depth: config.depth, frame_bytes_max: config.buffer_bytes });
        let inner = Rc::new(RefCell::new(Faulty::new(inside, config.faults, config.seed)));
        let queue = SharedQueue { inner, panics: Rc::default() };
        let limits = Limits {
            worker: config.worker,
            workers: config.workers,
            shard_count: config.shard_count,
            shards: config.shards,
            sessions_max: SESSIONS_MAX,
            topics_max: config.topics_max,
            senders_max: 1024,
            subscribers_max: config.subscribers_max,
            targets_max: config.targets_max,
            buffers: u32::try_from(config.pool).unwrap(),
            receive_buffers: 0,
            frame_bytes_max: config.frame_bytes_max,
            held_buffers: config.held_buffers,
            fill_window_ns: config.fill_window_ns,
            boot: BOOT,
            unix_offset_ns: UNIX_OFFSET,
            path: config.path,
        };
        let host = TestHost::new(rules.into().map(Rules::verified));
        let memory = Memory::leak(&limits);
        Self {
            worker: Worker::with_tap(limits, memory, pool, queue.clone(), host, TestTap::new(config.log_bytes)),
            queue,
            outside: Outside::new(outside, outside_pool),
            now: 1_000_000,
            publishers: Vec::new(),
            subscribers: Vec::new(),
            lossy: false,
            strangers: false,
            config,
            offered: 0,
            digest: DefaultHasher::new(),
            sends: 0,
        }
    }

    /// Opens a session for a new publisher and returns its number.
    pub(crate) fn publisher(&mut self, principal: u32, tagged: bool) -> usize {
        let number = self.publishers.len();
        let publisher = Publisher::new(number, principal, tagged);
        self.command(Command::OpenSession(publisher.open()));
        self.publishers.push(publisher);
        number
    }

    /// Adds a subscriber in the next free slot and returns its number, which is the slot.
    pub(crate) fn subscriber(&mut self, tagged: bool, credit: u32, frame_bytes_max: u32) -> usize {
        let number = self.subscribers.len();
        let subscriber = Subscriber::new(number, tagged, credit, frame_bytes_max);
        self.command(Command::AddSubscriber(subscriber.add()));
        self.subscribers.push(subscriber);
        number
    }

    /// Gives the worker a command and lets it take it.
    pub(crate) fn command(&mut self, command: Command) {
        self.worker.host().commands.push_back(command);
        self.step(0);
        assert!(self.worker.host().commands.is_empty());
    }

    /// Puts a ruleset in force.
    pub(crate) fn apply(&mut self, rules: Rules) {
        self.worker.host().apply(rules.verified());
    }

    pub(crate) fn image(&mut self) -> Option<&Verified<Vec<u8>>> {
        self.worker.host().images.last()
    }

    /// Sends frames in one buffer as if from `source` to the port of `shard`, at ever other offsets in the buffer.
    pub(crate) fn send_from(&mut self, source: Endpoint, shard: u16, frames: &[&[u8]]) -> bool {
        const OFFSETS: [u32; 6] = [0, 42, 46, 62, 66, 128];
        self.sends += 1;
        let bytes: usize = frames.iter().map(|frame| frame.len()).sum();
        let room = self.config.buffer_bytes - u32::try_from(bytes).unwrap();
        let offset = OFFSETS[self.sends % OFFSETS.len()].min(room);
        let sent = self.outside.send(source, shard, offset, frames);
        self.offered += if sent { frames.len() as u64 } else { 0 };
        sent
    }

    /// Sends one frame of a publisher.
    pub(crate) fn send(&mut self, publisher: usize, shard: u16, frame: &[u8]) {
        let source = self.publishers[publisher].endpoint;
        assert!(self.send_from(source, shard, &[frame]), "the link has room");
    }

    /// A frame of these messages, sent under the publisher's next id.
    pub(crate) fn publish(&mut self, publisher: usize, shard: u16, flags: u16, messages: &[Message]) -> Vec<u8> {
        let frame = self.publishers[publisher].frame(shard, flags, messages);
        self.send(publisher, shard, &frame);
        frame
    }

    /// One turn, `ns` later. All ledgers and buffers have to add up after it.
    pub(crate) fn step(&mut self, ns: u64) -> Work {
        self.now += ns;
        let work = self.worker.poll(self.now);
        assert_eq!(self.worker.stats().counters.unaccounted(), [0; 3], "ledgers");
        assert_eq!(self.worker.buffers_missing(), 0, "buffers");
        work
    }

    /// Gives what the worker sent to who it was sent to, who verify it. Returns the number of frames.
    pub(crate) fn collect(&mut self) -> usize {
        let delivered = self.outside.receive();
        let count = delivered.len();
        for item in delivered {
            (&item.frame, item.destination.ip, item.destination.port.get(), item.shard).hash(&mut self.digest);
            let ip = item.destination.ip;
            let number = usize::from(u16::from_be_bytes([ip[14], ip[15]]));
            match ip[13] {
                1 => self.subscribers[number].take(&item, self.now, self.lossy),
                2 => self.publishers[number].take(&item, self.lossy),
                other => assert!(self.strangers, "nobody lives in network {other}"),
            }
        }
        count
    }

    /// Turns until there is nothing left to do, everything collected.
    pub(crate) fn drain(&mut self) {
        let mut quiet = 0;
        for _ in 0..100_000 {
            let work = self.step(1_000);
            let collected = self.collect();
            let busy = work.received + work.sent + work.completed + collected > 0 || !work.idle;
            quiet = if busy { 0 } else { quiet + 1 };
            if quiet == 40 && self.queue.held() == 0 {
                return;
            }
        }
        panic!("never idle: {:?}", self.worker.stats().counters);
    }

    /// Some turns, however much waits for the truth log, everything collected.
    pub(crate) fn drain_held(&mut self) {
        for _ in 0..100 {
            self.step(1_000);
            self.collect();
        }
    }

    /// Drains; then nothing may be held anywhere.
    pub(crate) fn finish(&mut self) -> Counters {
        self.drain();
        let counters = self.worker.stats().counters;
        assert_eq!(counters.unaccounted(), [0; 3]);
        assert_eq!(counters.copies_held, 0);
        assert_eq!(self.worker.buffers_missing(), 0);
        assert_eq!(self.worker.host().published.counters.unaccounted(), [0; 3]);
        assert_eq!(self.worker.host().published.counters.copies_held, 0, "what is published is what is");
        let seen = self.fault_counts().seen();
        assert_eq!(counters.frames_seen, seen, "offered = seen + lost");
        assert_eq!(self.offered, self.fault_counts().arrived);
        let received: usize = self.subscribers.iter().map(|subscriber| subscriber.received.len()).sum();
        assert_eq!(counters.copies_given, received as u64, "what was given arrived");
        counters
    }

    pub(crate) fn fault_counts(&self) -> FaultCounts {
        self.queue.inner.borrow().counts()
    }

    pub(crate) fn set_faults(&self, faults: Faults) {
        self.queue.inner.borrow_mut().set_faults(faults);
    }
}

/// Frames or messages refused, without the zeros.
pub(crate) fn reasons(refused: &[u64]) -> Vec<(Reason, u64)> {
    let counts = Reason::ALL.iter().map(|reason| (*reason, refused[reason.index()]));
    let counted: Vec<_> = counts.filter(|(_, count)| *count > 0).collect();
    let sum: u64 = counted.iter().map(|(_, count)| count).sum();
    assert_eq!(sum, refused.iter().sum::<u64>(), "only reasons are counted");
    counted
}

/// A message that carries its number and the time it was made.
pub(crate) fn message(topic_id: u32, sender_id: u32, class: u8, number: u64, now: u64) -> Message {
    let mut payload = [0; 16];
    payload[..8].copy_from_slice(&number.to_le_bytes());
    payload[8..].copy_from_slice(&now.to_le_bytes());
    Message::inline(topic_id, sender_id, class, &payload).unwrap()
}

/// The number and the time in a message.
pub(crate) fn mark(message: &Message) -> (u64, u64) {
    let payload = message.inline_payload().unwrap();
    let word = |at: usize| u64::from_le_bytes(payload[at..at + 8].try_into().unwrap());
    (word(0), word(8))
}
