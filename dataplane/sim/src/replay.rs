//! A worker's life since its boot, once more.

use crate::{
    Keys, RecordedTurn,
    compare::{Mismatch, Scope, canonical, difference, is_quota},
    rebuild::Sealer,
    snapshot::{Ask, Notes},
    stage::{Arrived, Device, House, Ring},
};
use serde_json::{Value, json};
use std::collections::{BTreeMap, VecDeque};
use tachyon_driver_api::Pool;
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_engine::{Limits, Memory, Path, Worker, inspect::WindowState, pressure::Pressure};
use tachyon_policy::{compile::seal, verify};
use tachyon_wire::{
    Endpoint, Reason,
    command::{AddSubscriber, Again, Command, Lease, OpenSession, Restore},
    image::{ImageHeader, SenderRule, TopicRule},
    tap::{
        self, COMMAND_SETUP, FRAME_REFUSED, FRAME_WHOLE, FramePart, Item, Part, Setup, TURN_COMPLETE, TURN_DEVICE,
        TURN_DURABLE, TURN_RESERVE, TURN_SINCE_BOOT, Turn,
    },
};
use zerocopy::FromBytes;

/// Mismatches that are told one by one.
const TOLD: usize = 10;
/// Records that a worker settles in a turn at most.
const SETTLED_PER_TURN: u64 = 4;

/// What a replay found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// The worker.
    pub worker: u16,
    /// Turns that were replayed.
    pub turns: u64,
    /// Frames in them.
    pub frames: u64,
    /// Messages of frames that were admitted.
    pub messages: u64,
    /// Verdicts on frames and messages that were compared.
    pub verdicts_compared: u64,
    /// Turns that differ, and the first of them.
    pub mismatches: u64,
    /// The first of them.
    pub first: Vec<Mismatch>,
    /// Egress frames of routes for the log, as compared last.
    pub egress_frames: u32,
    /// Turns whose egress was compared, by its digest.
    pub egress_turns: u64,
    /// All of those were equal.
    pub digest_equal: bool,
    /// Frames and messages whose verdict, or whose seal, was taken from the record.
    pub on_trust: u64,
    /// Turns that were not replayed, and why the first was not.
    pub not_replayed: u64,
    /// Why.
    pub because: Option<String>,
    /// BLAKE3 over all replayed records.
    pub hash: [u8; 32],
}

/// A replaying worker.
#[derive(Debug)]
pub struct Replay {
    worker: Worker<'static, Device, House, Ring>,
    setup: Setup,
    keys: Keys,
    sealer: Sealer,
    /// The same images without senders' quotas, for when those depend on what is not recorded.
    unlimited: BTreeMap<u64, Vec<u8>>,
    /// Shards with topics for the log under the rules so far, a bit each.
    logged: u64,
    /// Every shard that anything happened in is recorded.
    exact: bool,
    /// Nothing but what is recorded decided what left.
    egress: bool,
    pressure: Pressure,
    last: u64,
    stable_turn: u64,
    hasher: blake3::Hasher,
    report: Report,
    /// For a snapshot, if there is to be one.
    notes: Option<Notes>,
    newest: Vec<u8>,
}

/// What the record of a turn says, taken apart for the worker.
struct Scene {
    commands: VecDeque<Command>,
    arrived: Vec<Arrived>,
    scope: Scope,
    frames: u64,
    messages: u64,
    refused: u64,
    on_trust: u64,
    rules_invalid: bool,
}

impl Replay {
    /// A worker as it was started, by the first turn's record.
    ///
    /// # Errors
    /// The record is not that of a first turn, or the sizes in it cannot be had.
    pub fn new(first: &RecordedTurn, keys: Keys) -> Result<Self, String> {
        let (turn, mut parts) = tap::read(&first.record).ok_or("a turn that makes no sense")?;
        let setup = parts.find_map(|part| match part {
            Part::Command(COMMAND_SETUP, bytes) => Setup::read_from_bytes(bytes).ok(),
            _ => None,
        });
        let setup = setup.filter(|_| turn.turn.get() == 1);
        let setup = setup.ok_or("the first turn is not there: the log begins later, or lost it")?;
        let limits = limits(&setup, turn);
        let pool = pool(&setup)?;
        let house = House {
            images: BTreeMap::new(),
            version: 0,
            refusal: Reason::RulesetUnavailable,
            commands: VecDeque::new(),
        };
        let memory = Memory::leak(&limits);
        let (frame_bytes_max, topics_max) = (setup.frame_bytes_max.get(), setup.topics_max.get());
        Ok(Self {
            worker: Worker::with_tap(limits, memory, pool, Device::default(), house, Ring::default()),
            sealer: Sealer::new(frame_bytes_max, topics_max, setup.shard_count.get()),
            setup,
            keys,
            unlimited: BTreeMap::new(),
            logged: 0,
            exact: true,
            egress: true,
            pressure: Pressure::default(),
            last: 0,
            stable_turn: 0,
            hasher: blake3::Hasher::new(),
            report: Report { worker: turn.worker.get(), digest_equal: true, ..Report::default() },
            notes: None,
            newest: Vec::new(),
        })
    }

    /// Adds an image under which turns were judged.
    ///
    /// # Errors
    /// It does not verify.
    pub fn add_ruleset(&mut self, version: u64, image: &[u8]) -> Result<(), String> {
        if self.has_ruleset(version) {
            return Ok(());
        }
        let shards = self.setup.shard_count.get();
        let verified = verify(image.to_vec(), shards).map_err(|error| format!("ruleset {version}: {error}"))?;
        let mut unlimited = image.to_vec();
        without_quotas(&mut unlimited).ok_or_else(|| format!("ruleset {version}: no image"))?;
        if !self.exact {
            let verified = verify(unlimited, shards).map_err(|error| format!("ruleset {version}: {error}"))?;
            self.worker.host().images.insert(version, verified);
            return Ok(());
        }
        self.unlimited.insert(version, unlimited);
        self.worker.host().images.insert(version, verified);
        Ok(())
    }

    /// From now on notes what [`Replay::snapshot`] tells.
    pub fn take_notes(&mut self) {
        self.notes = Some(Notes::default());
    }

    /// What the worker came to, if notes were taken.
    pub fn snapshot(&mut self) -> Option<Value> {
        let notes = self.notes.take()?;
        let newest = self.newest.clone();
        let document = notes.document(&newest, self);
        self.notes = Some(notes);
        Some(document)
    }

    /// Whether an image is there.
    pub fn has_ruleset(&mut self, version: u64) -> bool {
        self.worker.host().images.contains_key(&version)
    }

    /// Counts a turn that cannot be replayed.
    pub fn pass_over(&mut self, because: &str) {
        self.report.not_replayed += 1;
        self.report.because.get_or_insert_with(|| because.to_owned());
    }

    /// Whether nothing can be replayed any more.
    #[must_use]
    pub const fn has_ended(&self) -> bool {
        self.report.not_replayed > 0
    }

    /// Replays the next turn and compares it.
    pub fn turn(&mut self, recorded: &RecordedTurn) {
        let Some((turn, _)) = tap::read(&recorded.record) else {
            return self.pass_over("a record that makes no sense");
        };
        if let Some(because) = self.obstacle(turn) {
            return self.pass_over(&because);
        }
        self.follow(turn);
        let Some(mut scene) = self.scene(turn, recorded) else {
            return self.pass_over(&format!("turn {} makes no sense", turn.turn));
        };
        self.catch_up(turn);
        self.set(turn, &scene);
        self.worker.host().commands = core::mem::take(&mut scene.commands);
        self.worker.queue().arrived = core::mem::take(&mut scene.arrived);
        self.worker.tap().made = None;
        self.worker.poll(turn.tick.get());
        let made = self.worker.tap().made.take();
        if self.notes.is_some() {
            self.newest.clone_from(&recorded.record);
        }
        self.compare(turn, recorded, made, &scene);
    }

    /// Why this turn cannot be replayed.
    fn obstacle(&mut self, turn: &Turn) -> Option<String> {
        let number = turn.turn.get();
        if self.has_ended() {
            return Some(String::new());
        }
        if number != self.last + 1 {
            return Some(format!("turns {} to {} were lost", self.last + 1, number.saturating_sub(1)));
        }
        if turn.flags & TURN_SINCE_BOOT == 0 {
            return Some(format!("up to turn {number} something happened that is not recorded"));
        }
        let version = turn.ruleset_version.get();
        (version != 0 && !self.has_ruleset(version)).then(|| format!("the log has no image of ruleset {version}"))
    }

    /// Notes what a turn says about how much can be compared from now on.
    fn follow(&mut self, turn: &Turn) {
        self.last = turn.turn.get();
        let house = self.worker.host();
        if let Some(image) = house.images.get(&turn.ruleset_version.get()) {
            self.logged |= image.ruleset().logged_shards();
        }
        if self.exact && self.logged != 0 && turn.flags & TURN_COMPLETE == 0 {
            self.exact = false;
            let shards = self.setup.shard_count.get();
            for (version, image) in core::mem::take(&mut self.unlimited) {
                if let Ok(verified) = verify(image, shards) {
                    house.images.insert(version, verified);
                }
            }
        }
        self.egress &= self.exact && turn.flags & TURN_DEVICE == 0;
    }

    /// Turns without any effect but that the log says that more is stable: before the first recorded shard nobody records them.
    fn catch_up(&mut self, turn: &Turn) {
        let target = turn.stable.get();
        while target > self.stable_turn + SETTLED_PER_TURN {
            self.stable_turn += SETTLED_PER_TURN;
            let stable_turn = self.stable_turn;
            let tap = self.worker.tap();
            tap.stable = tap.end_of(stable_turn);
            self.worker.poll(turn.tick.get());
        }
        self.stable_turn = target;
    }

    /// Tells the stage what there was.
    fn set(&mut self, turn: &Turn, scene: &Scene) {
        let reason = Reason::from_number(turn.refuses);
        let scarce = turn.flags & TURN_RESERVE != 0;
        // A full ring and a log that stands still have the same reason; only a full ring takes durable messages.
        let full = scarce && reason == Some(Reason::PersistTimeout) && turn.flags & TURN_DURABLE != 0;
        let tap = self.worker.tap();
        tap.stable = tap.end_of(turn.stable.get());
        tap.scarce = scarce;
        tap.refuses = reason.filter(|_| !full);
        tap.free_buffers = turn.free_buffers.get() as usize;
        let house = self.worker.host();
        house.version = turn.ruleset_version.get();
        house.refusal = if scene.rules_invalid { Reason::RulesetInvalid } else { Reason::RulesetUnavailable };
    }

    fn scene(&mut self, turn: &Turn, recorded: &RecordedTurn) -> Option<Scene> {
        let (_, mut parts) = tap::read(&recorded.record)?;
        let topic_past_all = (!self.exact).then_some(self.sealer.topic_past_all);
        let mut scene = Scene {
            commands: VecDeque::new(),
            arrived: Vec::new(),
            scope: Scope { topic_past_all, ..Scope::default() },
            frames: 0,
            messages: 0,
            refused: 0,
            on_trust: 0,
            rules_invalid: false,
        };
        let (mut whole, mut item) = (recorded.frames.iter(), None);
        for part in parts.by_ref() {
            match part {
                Part::Command(COMMAND_SETUP, _) => {}
                Part::Command(number, bytes) => scene.commands.push_back(self.command(number, bytes)?),
                Part::Item(next) => {
                    self.fill(&mut scene.arrived, next.place.get().into());
                    scene.arrived.push(arrived(next));
                    item = Some((next, 0));
                }
                Part::Frame(frame) => {
                    let (item, index) = item.as_mut()?;
                    self.frame(&mut scene, item, *index, &frame, &mut whole)?;
                    *index += 1;
                }
            }
        }
        let whole_is_used = whole.next().is_none();
        if scene.arrived.is_empty() && !self.exact {
            self.fill_quiet(turn, &mut scene.arrived);
        }
        if !scene.arrived.is_empty() {
            self.pressure.sample(turn.free_buffers.get() as usize, self.sendable());
        }
        scene.scope.egress = self.egress;
        (parts.is_whole() && whole_is_used).then_some(scene)
    }

    fn frame<'f>(
        &mut self,
        scene: &mut Scene,
        item: &Item,
        index: usize,
        frame: &FramePart<'_>,
        whole: &mut impl Iterator<Item = &'f Vec<u8>>,
    ) -> Option<()> {
        let (length, stride) = (item.length.get() as usize, item.stride.get().max(1) as usize);
        let length = length.saturating_sub(index * stride).min(stride);
        let bytes = if frame.entry.form == FRAME_WHOLE { Some(whole.next()?.as_slice()) } else { None };
        let foreign =
            |message: usize| !self.exact && frame.reasons.get(message).is_some_and(|reason| is_quota(*reason));
        let count = usize::from(frame.entry.count.get());
        let trusted = (0..count).filter(|message| foreign(*message)).count() as u64;
        let rebuilt = self.sealer.rebuild(frame, length, bytes, foreign);
        if rebuilt.bytes.len() != length {
            return None;
        }
        scene.arrived.last_mut()?.bytes.extend_from_slice(&rebuilt.bytes);
        if let Some(notes) = self.notes.as_mut().filter(|_| frame.entry.form != FRAME_REFUSED) {
            notes.frame(self.last, frame, &rebuilt.bytes, bytes.is_some());
        }
        scene.scope.heads.push(rebuilt.head);
        scene.frames += 1;
        scene.on_trust += trusted + u64::from(rebuilt.on_trust);
        scene.rules_invalid |= frame.reasons.contains(&Reason::RulesetInvalid.number());
        if frame.entry.form == FRAME_REFUSED {
            scene.refused += u64::from(!rebuilt.on_trust);
        } else {
            scene.messages += count as u64;
        }
        Some(())
    }

    /// Puts buffers of shards that are not recorded before the one at `place`.
    fn fill(&self, arrived: &mut Vec<Arrived>, place: usize) {
        let shards = self.setup.shards.get();
        let shard =
            (0..64).find(|shard| shards >> shard & 1 == 0).or_else(|| (0..64).find(|s| self.logged >> s & 1 == 0));
        while arrived.len() < place {
            // One frame, which is empty and refused for it.
            let source = Endpoint::NONE;
            arrived.push(Arrived { offset: 0, bytes: Vec::new(), stride: 1, shard: shard.unwrap_or(63), source });
        }
    }

    /// A turn without a recorded buffer: something came to shards that are not recorded, or a frame of theirs went. The one
    /// under which the pressure is as recorded.
    fn fill_quiet(&self, turn: &Turn, arrived: &mut Vec<Arrived>) {
        let level = self.pressure.clone().sample(turn.free_buffers.get() as usize, self.sendable());
        if level == turn.pressure || turn.commands.get() == 0 {
            self.fill(arrived, 1);
        }
    }

    fn sendable(&self) -> usize {
        self.setup.buffers.get().saturating_sub(self.setup.receive_buffers.get()) as usize
    }

    /// A command with the keys that are known, and a note of its session.
    fn command(&mut self, number: u8, bytes: &[u8]) -> Option<Command> {
        let id = || bytes.try_into().ok().map(u32::from_le_bytes);
        Some(match number {
            tap::COMMAND_OPEN_SESSION => {
                let open = OpenSession::read_from_bytes(bytes).ok()?;
                let ((master, known), (reply_master, _)) =
                    (self.keys.resolve(&open.master), self.keys.resolve(&open.reply_master));
                self.sealer.open(open.session_id.get(), master, known);
                Command::OpenSession(OpenSession { master, reply_master, ..open })
            }
            tap::COMMAND_CLOSE_SESSION => Command::CloseSession(id()?),
            tap::COMMAND_ADD_SUBSCRIBER => {
                let add = AddSubscriber::read_from_bytes(bytes).ok()?;
                let (master, known) = self.keys.resolve(&add.master);
                self.egress &= known || add.tagged == 0;
                Command::AddSubscriber(AddSubscriber { master, ..add })
            }
            tap::COMMAND_REMOVE_SUBSCRIBER => Command::RemoveSubscriber(id()?),
            tap::COMMAND_LEASE => Command::Lease(Lease::read_from_bytes(bytes).ok()?),
            tap::COMMAND_RESTORE => Command::Restore(Restore::read_from_bytes(bytes).ok()?),
            tap::COMMAND_AGAIN => Command::Again(Again::read_from_bytes(bytes).ok()?),
            _ => return None,
        })
    }

    fn compare(&mut self, turn: &Turn, recorded: &RecordedTurn, made: Option<Vec<u8>>, scene: &Scene) {
        let scope = Scope { topic_past_all: scene.scope.topic_past_all, ..Scope::default() };
        let right = made.as_deref().and_then(|made| {
            let scope = Scope { egress: scene.scope.egress, heads: scene.scope.heads.clone(), topic_past_all: None };
            canonical(made, &scope, Some(&self.keys))
        });
        let scope = Scope { egress: scene.scope.egress, heads: scene.scope.heads.clone(), ..scope };
        let left = canonical(&recorded.record, &scope, None);
        let report = &mut self.report;
        report.turns += 1;
        report.frames += scene.frames;
        report.messages += scene.messages;
        report.on_trust += scene.on_trust;
        report.verdicts_compared += scene.messages + scene.refused;
        if scene.scope.egress {
            let made = made.as_deref().and_then(tachyon_log::turn::header);
            let equal = made.is_some_and(|made| {
                (made.egress_frames, made.egress_digest) == (turn.egress_frames, turn.egress_digest)
            });
            report.digest_equal &= equal;
            report.egress_turns += 1;
            report.egress_frames = turn.egress_frames.get();
        }
        self.hasher.update(right.as_deref().unwrap_or_default());
        if left.is_none() || left != right {
            report.mismatches += 1;
            if report.first.len() < TOLD {
                report.first.push(difference(left.as_deref().unwrap_or(&recorded.record), right.as_deref()));
            }
        }
    }

    /// What was found so far.
    #[must_use]
    pub fn report(&self) -> Report {
        Report { hash: *self.hasher.finalize().as_bytes(), ..self.report.clone() }
    }
}

impl Ask for Replay {
    fn topic(&mut self, topic_id: u32) -> Option<u64> {
        self.worker.topic_level(topic_id)
    }

    fn sender(&mut self, sender_id: u32) -> Option<u64> {
        self.worker.sender_level(sender_id)
    }

    fn window(&mut self, session_id: u32, shard: u16) -> Option<Value> {
        let WindowState { epoch, top, seen, refused } = self.worker.window_state(session_id, shard)?;
        Some(
            json!({"session": session_id, "shard": shard, "epoch": epoch, "top": top, "seen": seen, "refused": refused}),
        )
    }
}

fn arrived(item: &Item) -> Arrived {
    Arrived {
        offset: item.offset.get(),
        bytes: Vec::with_capacity(item.length.get() as usize),
        stride: item.stride.get().max(1),
        shard: item.shard.get(),
        source: item.source,
    }
}

fn limits(setup: &Setup, turn: &Turn) -> Limits {
    let lead = turn.lead_shard.get();
    let rest = (0..64).filter(|shard| *shard != lead && setup.shards.get() >> shard & 1 != 0);
    let shards: Vec<u16> = core::iter::once(lead).chain(rest).collect();
    Limits {
        worker: turn.worker.get(),
        workers: setup.workers.get(),
        shard_count: setup.shard_count.get(),
        shards: shards.leak(),
        sessions_max: setup.sessions_max.get(),
        topics_max: setup.topics_max.get(),
        senders_max: setup.senders_max.get(),
        subscribers_max: setup.subscribers_max.get(),
        targets_max: setup.targets_max.get(),
        buffers: setup.buffers.get(),
        receive_buffers: setup.receive_buffers.get(),
        frame_bytes_max: setup.frame_bytes_max.get(),
        // So many that the reserve is never touched by itself: whether it was is recorded.
        held_buffers: setup.buffers.get().saturating_mul(2),
        fill_window_ns: setup.fill_window_ns.get(),
        boot: setup.boot.get(),
        unix_offset_ns: setup.unix_offset_ns.get(),
        path: Path::detect(),
    }
}

fn pool(setup: &Setup) -> Result<Pool, String> {
    let (buffers, buffer_bytes) = (setup.buffers.get() as usize, setup.buffer_bytes.get());
    let config = ArenaConfig {
        bytes: buffers * buffer_bytes as usize,
        buffer_bytes,
        pages: Pages::Ordinary,
        lock: false,
        numa_node: None,
    };
    let mut arena = Arena::create(config).map_err(|error| format!("no memory for the worker's buffers: {error}"))?;
    arena.take(buffers).map(Pool::new).map_err(|error| error.to_string())
}

/// Takes senders' quotas out of an image and seals it anew. What the rules do not know stays unknown.
fn without_quotas(image: &mut [u8]) -> Option<()> {
    /// What sections begin at.
    const SECTION: usize = 64;
    let (header, _) = ImageHeader::read_from_prefix(image).ok()?;
    let topics = header.topic_slots.get() as usize * size_of::<TopicRule>();
    let start = size_of::<ImageHeader>() + topics.next_multiple_of(SECTION);
    let bytes = header.sender_slots.get() as usize * size_of::<SenderRule>();
    for rule in <[SenderRule]>::mut_from_bytes(image.get_mut(start..start + bytes)?).ok()? {
        rule.period = 0.into();
    }
    seal(image);
    Some(())
}
