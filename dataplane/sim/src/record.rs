//! A worker in memory with everything that a log has to follow: topics of all durabilities with quotas, rules that change, sessions
//! that come and go, forged and repeated frames, several frames in a buffer, a log that is late, full or gone. What it does follows
//! from the seed alone.

use crate::{RecordedTurn, stage::Ring};
use std::collections::{BTreeMap, VecDeque};
use tachyon_driver_api::{CompletionBatch, Pool, QueueStats, RxBatch, RxQueue, TxBatch, TxQueue};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_mem::{LinkConfig, MemQueue, Outside, pair};
use tachyon_engine::{Host, Limits, Log, Memory, Path, Tap, Worker, inspect::WindowState};
use tachyon_policy::{
    Verified,
    compile::{Durability, Quota, RulesetSource, SenderSource, TopicSource, WhenFull, compile},
    verify,
};
use tachyon_wire::{
    Endpoint, Message, Reason,
    build::{FrameFields, FrameWriter, Seal},
    command::{AddSubscriber, Command, Demand, Lease, OpenSession, SESSION_TAG_REQUIRED},
    counters::WorkerStats,
    frame::ACK_WANTED,
    tag::{self, FrameKey},
    tap::{self, FRAME_WHOLE, Part},
};

const SHARDS: &[u16] = &[0, 1, 2, 3];
const BUFFERS: u32 = 512;
const BUFFER_BYTES: u32 = 4_096;
const FRAME_BYTES_MAX: u32 = 1_472;
const TOPICS: u32 = 64;
const PUBLISHERS: u32 = 8;
const SUBSCRIBERS: u32 = 6;
const SENDERS: u32 = 16;
const EPOCH: u32 = 3;
/// What its ticks are counted from, in Unix nanoseconds.
pub const UNIX_OFFSET_NS: u64 = 1_700_000_000_000_000_000;
/// Turns between two changes of the rules.
const RULES_EVERY: u64 = 5_000;
/// Messages of a frame at most: what fits at MTU 1500.
const MESSAGES: usize = 22;

/// splitmix64: any seed will do.
#[derive(Clone, Debug)]
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, limit: u32) -> u32 {
        u32::try_from(self.next() % u64::from(limit.max(1))).unwrap_or(0)
    }

    fn one_in(&mut self, many: u32) -> bool {
        self.below(many) == 0
    }
}

/// The worker's queue; a burst is copied, so that whole frames can be told when their turn was recorded.
#[derive(Debug)]
struct Watched {
    queue: MemQueue,
    burst: Vec<(usize, Vec<u8>)>,
}

impl RxQueue for Watched {
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        let count = self.queue.rx_burst(pool, into);
        let bytes = |item: &tachyon_driver_api::Received| {
            let bytes = item.buffer.bytes().get(item.offset as usize..).unwrap_or_default();
            (item.stride.max(1) as usize, bytes.get(..item.len as usize).unwrap_or_default().to_vec())
        };
        self.burst = into.iter().map(bytes).collect();
        count
    }

    fn wait(&mut self, ns: u64) {
        self.queue.wait(ns);
    }

    fn stats(&self) -> QueueStats {
        self.queue.stats()
    }

    fn held(&self) -> usize {
        self.queue.held()
    }
}

impl TxQueue for Watched {
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        self.queue.tx_burst(from)
    }

    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        self.queue.completions(into)
    }
}

/// The worker's host.
#[derive(Debug, Default)]
struct Control {
    image: Option<Verified<Vec<u8>>>,
    commands: VecDeque<Command>,
}

impl Host for Control {
    type Image = Vec<u8>;

    fn ruleset(&mut self) -> Result<&Verified<Vec<u8>>, Reason> {
        self.image.as_ref().ok_or(Reason::RulesetUnavailable)
    }

    fn command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn demand(&mut self, _demand: Demand) {}

    fn quarantine(&mut self, _message: &Message, _reason: u8) -> bool {
        true
    }

    fn publish(&mut self, _stats: &WorkerStats, _whole: bool) {}
}

/// A ring whose reader is as late as the draws say.
#[derive(Debug, Default)]
struct Late {
    ring: Ring,
    ends: VecDeque<u64>,
    written: u64,
}

impl Tap for Late {
    fn is_there(&self) -> bool {
        true
    }

    fn sample(&mut self, now_ns: u64) -> Log {
        Log { written: self.written.max(self.ring.stable), ..self.ring.sample(now_ns) }
    }

    fn begin(&mut self, bytes_max: usize) -> Option<&mut [u8]> {
        self.ring.begin(bytes_max)
    }

    fn commit(&mut self, bytes: usize) -> u64 {
        let end = self.ring.commit(bytes);
        self.ends.push_back(end);
        end
    }

    fn record(&self, position: u64) -> Option<(&[u8], u64)> {
        self.ring.record(position)
    }

    fn release(&mut self, position: u64) {
        self.ring.release(position);
    }
}

#[derive(Debug)]
struct Publisher {
    open: OpenSession,
    key: FrameKey,
    tagged: bool,
    endpoint: Endpoint,
    last: [u32; 4],
    /// A frame that was sent, to be sent again.
    earlier: Option<(u16, Vec<u8>)>,
}

/// How a world is made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct World {
    /// What everything follows from.
    pub seed: u64,
    /// Only some shards have topics for the log, so that only those are recorded.
    pub partly: bool,
    /// Where the log takes nothing, some topics are forwarded without it.
    pub marks: bool,
}

/// The worker, and who speaks with it.
#[derive(Debug)]
pub struct Recorder {
    worker: Worker<'static, Watched, Control, Late>,
    outside: Outside,
    world: World,
    draws: Draws,
    publishers: Vec<Publisher>,
    /// Images by version, as they came into force.
    images: BTreeMap<u64, Vec<u8>>,
    version: u64,
    turns: u64,
    messages: u64,
    now: u64,
}

fn key(of: u32) -> [u8; 32] {
    let mut key = [0xa5; 32];
    key[..4].copy_from_slice(&of.to_le_bytes());
    key
}

fn endpoint(network: u8, number: u32) -> Endpoint {
    let number = u16::try_from(number).unwrap_or(0);
    let [high, low] = number.to_be_bytes();
    Endpoint::v4([10, network, high, low], 24_640 + 16 * number)
}

fn limits() -> Limits {
    Limits {
        worker: 3,
        workers: 2,
        shard_count: 4,
        shards: SHARDS,
        sessions_max: 64,
        topics_max: 256,
        senders_max: 64,
        subscribers_max: 16,
        targets_max: 256,
        buffers: BUFFERS,
        receive_buffers: 0,
        frame_bytes_max: FRAME_BYTES_MAX,
        held_buffers: BUFFERS / 4,
        fill_window_ns: 5_000,
        boot: 7,
        unix_offset_ns: UNIX_OFFSET_NS,
        path: Path::detect(),
    }
}

impl Recorder {
    /// A world from a seed.
    ///
    /// # Errors
    /// There is no memory for it.
    pub fn new(world: World) -> anyhow::Result<Self> {
        let config = ArenaConfig {
            bytes: 2 * (BUFFERS * BUFFER_BYTES) as usize,
            buffer_bytes: BUFFER_BYTES,
            pages: Pages::Ordinary,
            lock: false,
            numa_node: None,
        };
        let fault = |error: tachyon_driver_arena::ArenaError| anyhow::anyhow!("no memory for buffers: {error}");
        let mut arena = Arena::create(config).map_err(fault)?;
        let mut pool = || arena.take(BUFFERS as usize).map(Pool::new).map_err(fault);
        let (pool, other) = (pool()?, pool()?);
        let (inside, outside) = pair(LinkConfig { depth: 256, frame_bytes_max: BUFFER_BYTES });
        let (queue, limits) = (Watched { queue: inside, burst: Vec::new() }, limits());
        let memory = Memory::leak(&limits);
        let mut recorder = Self {
            worker: Worker::with_tap(limits, memory, pool, queue, Control::default(), Late::default()),
            outside: Outside::new(outside, other),
            world,
            draws: Draws(world.seed),
            publishers: Vec::new(),
            images: BTreeMap::new(),
            version: 0,
            turns: 0,
            messages: 0,
            now: 1_000_000,
        };
        recorder.open();
        Ok(recorder)
    }

    fn open(&mut self) {
        for number in 0..SUBSCRIBERS {
            self.subscribe(number);
        }
        for number in 0..PUBLISHERS {
            let tagged = number.is_multiple_of(2);
            let session_id = 0x100 + number;
            let open = OpenSession {
                session_id: session_id.into(),
                reply_session_id: (0x200 + number).into(),
                principal: (number % 4).into(),
                sender_low: 0.into(),
                sender_high: (SENDERS + 1).into(),
                epoch_floor: EPOCH.into(),
                class_cap: 0,
                flags: if tagged { SESSION_TAG_REQUIRED } else { 0 },
                pinned: Endpoint::NONE,
                master: key(session_id),
                reply_master: key(0x200 + number),
            };
            let key = tag::derive(&open.master, session_id, EPOCH);
            let endpoint = endpoint(2, number);
            self.publishers.push(Publisher { open, key, tagged, endpoint, last: [0; 4], earlier: None });
            self.worker.host().commands.push_back(Command::OpenSession(open));
        }
        self.change_rules();
    }

    fn subscribe(&mut self, number: u32) {
        let add = AddSubscriber {
            slot: number.into(),
            worker: 3.into(),
            tagged: u8::from(number.is_multiple_of(2)),
            reserved: 0,
            session_id: (0x2_0000 + number).into(),
            credit: BUFFERS.into(),
            frame_bytes_max: [1_472, 1_472, 512][number as usize % 3].into(),
            endpoint: endpoint(1, number),
            master: key(0x2_0000 + number),
        };
        self.worker.host().commands.push_back(Command::AddSubscriber(add));
    }

    /// Every key that is in the commands.
    #[must_use]
    pub fn keys(&self) -> Vec<[u8; 32]> {
        let publishers = (0..PUBLISHERS).flat_map(|number| [key(0x100 + number), key(0x200 + number)]);
        publishers.chain((0..SUBSCRIBERS).map(|number| key(0x2_0000 + number))).collect()
    }

    /// The image of a version.
    #[must_use]
    pub fn image(&self, version: u64) -> Option<&[u8]> {
        self.images.get(&version).map(Vec::as_slice)
    }

    /// The version in force.
    #[must_use]
    pub const fn version(&self) -> u64 {
        self.version
    }

    /// Messages that were sent.
    #[must_use]
    pub const fn messages(&self) -> u64 {
        self.messages
    }

    /// Turns of the worker.
    #[must_use]
    pub const fn turns(&self) -> u64 {
        self.turns
    }

    /// What the worker counted.
    pub fn stats(&self) -> &WorkerStats {
        self.worker.stats()
    }

    /// See [`Worker::topic_level`].
    pub fn topic_level(&self, topic_id: u32) -> Option<u64> {
        self.worker.topic_level(topic_id)
    }

    /// See [`Worker::sender_level`].
    pub fn sender_level(&self, sender_id: u32) -> Option<u64> {
        self.worker.sender_level(sender_id)
    }

    /// See [`Worker::window_state`].
    pub fn window_state(&mut self, session_id: u32, shard: u16) -> Option<WindowState> {
        self.worker.window_state(session_id, shard)
    }

    /// Virtual time in nanoseconds.
    #[must_use]
    pub const fn now(&self) -> u64 {
        self.now
    }

    fn change_rules(&mut self) {
        self.version += 1;
        let (version, World { partly, marks, .. }) = (self.version, self.world);
        let mut source = RulesetSource { version, shard_count: 4, principals: 4, ..RulesetSource::default() };
        source.sets = vec![vec![0, 1, 2, 3], vec![0, 1, 2]];
        for topic_id in 1..=TOPICS {
            let subscribers: Vec<u32> = (0..SUBSCRIBERS).filter(|_| self.draws.one_in(3)).collect();
            source.sets.push(subscribers);
            let durability = match topic_id / 4 % 4 {
                _ if partly && topic_id % 4 > 1 => Durability::Volatile,
                0 => Durability::Durable,
                1 => Durability::Logged,
                _ => Durability::Volatile,
            };
            let policies = [WhenFull::Taildrop, WhenFull::Nack, WhenFull::Buffer, WhenFull::Mark];
            let policy = policies[self.draws.below(if marks { 4 } else { 3 }) as usize];
            let limited = self.draws.one_in(3);
            source.topics.push(TopicSource {
                topic_id,
                quota: if limited { Quota { period: 16 * 40_000, burst: 8 } } else { Quota::UNLIMITED },
                tag_required: self.draws.one_in(8),
                quarantine: self.draws.one_in(8),
                durability,
                when_full: if durability == Durability::Durable && policy == WhenFull::Mark {
                    WhenFull::Nack
                } else {
                    policy
                },
                publishers: u32::from(self.draws.one_in(4)),
                subscribers: u32::try_from(source.sets.len() - 1).unwrap_or(0),
            });
        }
        for sender_id in 0..SENDERS {
            let limited = sender_id % 4 == 0;
            let quota = if limited { Quota { period: 16 * 900, burst: 64 } } else { Quota::UNLIMITED };
            source.senders.push(SenderSource { sender_id, quota });
        }
        // What is drawn here always compiles; if it did not, the rules before it would stay.
        if let Ok(image) = compile(&source)
            && let Ok(verified) = verify(image.clone(), 4)
        {
            self.images.insert(version, image);
            self.worker.host().image = Some(verified);
        }
    }

    /// One turn; what was recorded of it.
    pub fn step(&mut self) -> Option<RecordedTurn> {
        self.turns += 1;
        if self.turns.is_multiple_of(RULES_EVERY) {
            self.change_rules();
        }
        self.command();
        for _ in 0..self.draws.below(4) {
            self.send();
        }
        self.look_at_disk();
        self.now += u64::from(self.draws.below(8_000));
        self.worker.queue().burst.clear();
        self.worker.poll(self.now);
        self.outside.receive();
        let record = self.worker.tap().ring.made.take()?;
        let frames = whole_frames(&record, &self.worker.queue().burst);
        Some(RecordedTurn { record, frames })
    }

    /// A command now and then.
    fn command(&mut self) {
        if !self.draws.one_in(200) {
            return;
        }
        let (which, number) = (self.draws.below(5), self.draws.below(PUBLISHERS));
        let command = match which {
            0 => {
                let share = self.draws.below(65_537).into();
                Command::Lease(Lease { sender_id: (4 * self.draws.below(SENDERS / 4)).into(), share })
            }
            1 if self.draws.one_in(8) => Command::CloseSession(0x100 + number),
            2 => Command::RemoveSubscriber(self.draws.below(SUBSCRIBERS)),
            3 => {
                let slot = self.draws.below(SUBSCRIBERS);
                return self.subscribe(slot);
            }
            _ => Command::OpenSession(self.publishers[number as usize].open),
        };
        self.worker.host().commands.push_back(command);
    }

    /// What the disk has by now, and what state it is in.
    fn look_at_disk(&mut self) {
        let (more, pick) = (self.draws.below(4), self.draws.below(400));
        let tap = self.worker.tap();
        for _ in 0..more {
            let Some(end) = tap.ends.pop_front() else { break };
            tap.written = end;
        }
        if pick % 3 == 0 {
            tap.ring.stable = tap.written;
        }
        match pick {
            0 => tap.ring.refuses = Some(Reason::PersistDiskFull),
            1 => tap.ring.refuses = Some(Reason::PersistTimeout),
            2 => tap.ring.scarce = true,
            3..20 => (tap.ring.refuses, tap.ring.scarce) = (None, false),
            _ => {}
        }
    }

    /// Sends one buffer of one to three frames.
    fn send(&mut self) {
        let shard = u16::try_from(self.draws.below(4)).unwrap_or(0);
        let number = self.draws.below(PUBLISHERS) as usize;
        let count = 1 + self.draws.below(u32::try_from(MESSAGES).unwrap_or(1)) as usize;
        let frames = if self.draws.one_in(4) { 2 + self.draws.below(2) } else { 1 };
        let odd = self.draws.below(64);
        let mut bytes: Vec<Vec<u8>> = Vec::new();
        for _ in 0..if odd < 8 || count > 15 { 1 } else { frames } {
            bytes.push(self.frame(number, shard, count));
        }
        self.spoil(number, shard, odd, &mut bytes);
        let offset = [0, 42, 64, 128][self.draws.below(4) as usize];
        let frames: Vec<&[u8]> = bytes.iter().map(Vec::as_slice).collect();
        self.outside.send(self.publishers[number].endpoint, shard, offset, &frames);
    }

    fn frame(&mut self, number: usize, shard: u16, count: usize) -> Vec<u8> {
        let ack = self.draws.one_in(4);
        let messages: Vec<Message> = (0..count).filter_map(|_| self.message(shard)).collect();
        let publisher = &mut self.publishers[number];
        publisher.last[usize::from(shard)] += 1;
        let fields = FrameFields {
            flags: if ack { ACK_WANTED } else { 0 },
            frame_id: publisher.last[usize::from(shard)],
            session_id: publisher.open.session_id.get(),
            shard,
            epoch: EPOCH,
            sent_ns: 1,
            ..FrameFields::default()
        };
        let mut buffer = vec![0; FRAME_BYTES_MAX as usize];
        let mut writer = FrameWriter::new(&mut buffer, fields);
        for message in &messages {
            if writer.push(message).is_ok() {
                self.messages += 1;
            }
        }
        let length = writer.finish(if publisher.tagged { Seal::Tag(&publisher.key) } else { Seal::Crc });
        buffer.truncate(length);
        buffer
    }

    fn message(&mut self, shard: u16) -> Option<Message> {
        let mut topic = 4 * self.draws.below(TOPICS / 4) + u32::from(shard);
        let odd = self.draws.below(200);
        topic = match odd {
            0 => topic + 400,
            1 => topic + 1,
            _ => topic.max(u32::from(shard) + 4),
        };
        let sender = self.draws.below(if odd == 2 { 40 } else { SENDERS });
        let class = u8::try_from(self.draws.below(4)).unwrap_or(0);
        let number = self.draws.next().to_le_bytes();
        let mut message = Message::inline(topic.max(1), sender, class, &number)?;
        if odd == 3 {
            message.data[40] = 1; // behind its inline payload
        }
        Some(message)
    }

    /// Does something wrong to a frame now and then.
    fn spoil(&mut self, number: usize, shard: u16, odd: u32, frames: &mut [Vec<u8>]) {
        let Some(frame) = frames.first_mut() else { return };
        match odd {
            0 => frame[70] ^= 1,                        // forged or damaged
            1 => frame[0] ^= 1,                         // no frame of ours
            2 => frame[8..12].copy_from_slice(&[9; 4]), // perhaps no such session
            3 => {
                if let Some((of, earlier)) = &self.publishers[number].earlier
                    && *of == shard
                {
                    *frame = earlier.clone(); // again
                }
            }
            4 => self.publishers[number].earlier = Some((shard, frame.clone())),
            5 => frame.resize(FRAME_BYTES_MAX as usize + 64, 0),
            6 => frame.truncate(40),
            7 => {
                // Frames are lost, so ids jump, sometimes past the window.
                let jump = self.draws.below(1_500);
                self.publishers[number].last[usize::from(shard)] += jump;
            }
            _ => {}
        }
    }
}

/// The bytes of a record's whole frames, out of the burst that it speaks of.
fn whole_frames(record: &[u8], burst: &[(usize, Vec<u8>)]) -> Vec<Vec<u8>> {
    let Some((_, parts)) = tap::read(record) else { return Vec::new() };
    let (mut frames, mut item, mut index) = (Vec::new(), None, 0);
    for part in parts {
        match part {
            Part::Command(..) => {}
            Part::Item(next) => (item, index) = (burst.get(usize::from(next.place.get())), 0),
            Part::Frame(frame) => {
                let bytes = item.and_then(|(stride, bytes)| bytes.chunks(*stride).nth(index));
                if frame.entry.form == FRAME_WHOLE {
                    frames.push(bytes.unwrap_or_default().to_vec());
                }
                index += 1;
            }
        }
    }
    frames
}
