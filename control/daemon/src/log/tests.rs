//! What the tests of the log share: turns that can be told from their numbers alone, a tap that plays them, disks in memory,
//! and a reader that holds logs against them.

mod disks;
mod kill;
mod turns;
mod whole;

use super::{
    Now, Settings, Writer,
    folders::Folders,
    keys::{KeyFile, SigningKey},
    rulesets::Rulesets,
    shard::Shard,
    source::Source,
};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    os::unix::fs::FileExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
};
use tachyon_log::{Cursor, Files, Record, cursor, damage::Fault, fault::Random, turn::split};
use tachyon_wire::{
    Endpoint, Reason,
    command::OpenSession,
    tap::{self, CommandHeader, FrameEntry, Item, Turn},
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

pub(super) const BOOT: [u8; 16] = [0xb0; 16];
/// Positions rise by this much with each turn.
const STEP: u64 = 64;

/// A folder that goes away with the test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    /// A new one.
    pub(crate) fn new(name: &str) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("tachyon-{name}-{}-{number}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Which turns a worker has.
#[derive(Clone, Debug)]
pub(super) struct Script {
    pub(super) worker: u16,
    pub(super) shards: Vec<u16>,
    /// Turns in all.
    pub(super) turns: u64,
    /// Turns that were lost before they were recorded.
    pub(super) lost: std::ops::Range<u64>,
}

fn random(worker: u16, turn: u64, salt: u64) -> Random {
    Random::new(turn.wrapping_mul(0x1234_5678_9abc_def1) ^ u64::from(worker) << 48 ^ salt)
}

/// The keys that a turn's command brings.
pub(super) fn key_of(worker: u16, turn: u64, salt: u64) -> [u8; 32] {
    let mut random = random(worker, turn, salt);
    let mut key = [0; 32];
    key.chunks_mut(8).for_each(|part| part.copy_from_slice(&random.next().to_le_bytes()));
    key
}

/// A whole frame's bytes.
fn frame_of(worker: u16, turn: u64, item: u64, index: u64, length: usize) -> Vec<u8> {
    let mut random = random(worker, turn, item << 8 | index | 1 << 40);
    (0..length).map(|_| random.next().to_le_bytes()[0]).collect()
}

impl Script {
    pub(super) fn new(worker: u16, shards: &[u16], turns: u64) -> Self {
        Self { worker, shards: shards.to_vec(), turns, lost: 0..0 }
    }

    /// The record of a turn.
    pub(super) fn record(&self, turn: u64) -> Vec<u8> {
        let mut random = random(self.worker, turn, 0);
        let mut header = Turn::new_zeroed();
        (header.kind, header.turn, header.tick) = (tap::KIND_TURN, turn.into(), (turn * 10).into());
        (header.worker, header.lead_shard) = (self.worker.into(), self.shards[0].into());
        header.ruleset_version = (1 + turn / 5_000).min(3).into();
        let mut body = Vec::new();
        if turn % 50 == 1 {
            header.commands = 1.into();
            let mut open = OpenSession::new_zeroed();
            open.session_id = u32::try_from(turn).unwrap_or(0).into();
            open.master = key_of(self.worker, turn, 1);
            open.reply_master = key_of(self.worker, turn, 2);
            let length = u32::try_from(size_of::<OpenSession>()).expect("small").into();
            let command = CommandHeader { number: tap::COMMAND_OPEN_SESSION, reserved: [0; 3], length };
            body.extend_from_slice(command.as_bytes());
            body.extend_from_slice(open.as_bytes());
            body.resize(body.len().next_multiple_of(8), 0);
        }
        let items = if turn.is_multiple_of(17) { 0 } else { 1 + random.below(3) };
        header.items = u16::try_from(items).expect("small").into();
        for place in 0..items {
            let shard = self.shards[usize::try_from(random.below(self.shards.len() as u64)).expect("small")];
            let durable = self.item(turn, place, shard, &mut random, &mut body);
            header.flags |= if durable { tap::TURN_DURABLE } else { 0 };
        }
        header.length = u32::try_from(tap::TURN_BYTES + body.len()).expect("small").into();
        [header.as_bytes(), &body].concat()
    }

    fn item(&self, turn: u64, place: u64, shard: u16, random: &mut Random, body: &mut Vec<u8>) -> bool {
        let (frames, stride) = (1 + random.below(4), 64 + 8 * random.below(40));
        let mut item = Item::new_zeroed();
        // Names the turn and the place, so that the frame can be told from it.
        item.buffer = u32::try_from(turn << 4 | place).expect("few turns").into();
        item.stride = u32::try_from(stride).expect("small").into();
        item.length = u32::try_from(stride * frames).expect("small").into();
        (item.shard, item.place) = (shard.into(), u16::try_from(place).expect("small").into());
        item.frames = u16::try_from(frames).expect("small").into();
        item.source = Endpoint::v4([10, 0, 0, 1], 7);
        body.extend_from_slice(item.as_bytes());
        let mut any_durable = false;
        for _ in 0..frames {
            let form = u8::try_from(random.below(3)).expect("small");
            let (durable, count) = (form == tap::FRAME_WHOLE && random.one_in(6), 1 + random.below(3));
            let flags =
                if durable { tap::ENTRY_DURABLE } else { 0 } | if random.one_in(3) { tap::ENTRY_REASONS } else { 0 };
            any_durable |= durable;
            let (form, flags, count) = if form == tap::FRAME_REFUSED {
                (form, 0, 0)
            } else {
                (form, flags, u16::try_from(count).expect("small"))
            };
            let entry = FrameEntry { form, flags, reason: 3, reserved: 0, count: count.into(), reserved_2: 0.into() };
            body.extend_from_slice(entry.as_bytes());
            let head = if form == tap::FRAME_WHOLE { 0 } else { tap::HEAD_BYTES };
            let stubs = if form == tap::FRAME_STUBS { usize::from(count) * tap::STUB_BYTES } else { 0 };
            let reasons = if flags & tap::ENTRY_REASONS == 0 { 0 } else { usize::from(count) };
            body.resize(body.len() + head + stubs + reasons.next_multiple_of(8), 0);
        }
        any_durable
    }
}

/// What `tachyond` sees of the log.
#[derive(Debug, Default)]
pub(super) struct Cursors {
    pub(super) written: AtomicU64,
    pub(super) stable: AtomicU64,
    /// 0 = absent, 1 = running, 256 + a reason's number.
    pub(super) state: AtomicU64,
    /// Where `stable` is kept too, for whoever sees this process end.
    pub(super) file: Option<File>,
}

impl Cursors {
    /// Turns that are stable.
    pub(super) fn stable_turns(&self) -> u64 {
        self.stable.load(Ordering::SeqCst) / STEP
    }
}

/// A tap that plays a script.
pub(super) struct Player {
    pub(super) script: Script,
    pub(super) cursors: Arc<Cursors>,
    next: u64,
    /// Turns that the ring holds.
    pub(super) room: u64,
}

impl Player {
    pub(super) fn new(script: &Script, cursors: &Arc<Cursors>) -> Self {
        Self { script: script.clone(), cursors: cursors.clone(), next: cursors.stable_turns() + 1, room: 500 }
    }
}

impl Source for Player {
    fn worker(&self) -> u16 {
        self.script.worker
    }

    fn shards(&self) -> &[u16] {
        &self.script.shards
    }

    fn next(&mut self, record: &mut Vec<u8>) -> Result<Option<u64>, String> {
        if self.script.lost.contains(&self.next) {
            self.next = self.script.lost.end;
        }
        if self.next > self.script.turns || self.next > self.cursors.stable_turns() + self.room {
            return Ok(None);
        }
        *record = self.script.record(self.next);
        self.next += 1;
        Ok(Some((self.next - 1) * STEP))
    }

    fn frame(&self, item: &Item, index: usize, bytes: &mut Vec<u8>) -> Result<(), String> {
        let name = u64::from(item.buffer.get());
        let (turn, place, length) = (name >> 4, name & 15, item.stride.get() as usize);
        assert!(turn > self.cursors.stable_turns(), "the buffer of turn {turn} is used again");
        *bytes = frame_of(self.script.worker, turn, place, index as u64, length);
        Ok(())
    }

    fn rewind(&mut self) {
        self.next = self.cursors.stable_turns() + 1;
    }

    fn tell(&self, written: u64, stable: u64) {
        assert!(stable <= written.max(self.cursors.written.load(Ordering::SeqCst)), "stable and not written");
        self.cursors.written.fetch_max(written, Ordering::SeqCst);
        let before = self.cursors.stable.fetch_max(stable, Ordering::SeqCst);
        if let Some(file) = self.cursors.file.as_ref().filter(|_| stable > before) {
            file.write_all_at(&stable.to_le_bytes(), 0).expect("a file");
        }
    }

    fn set_state(&self, refuses: Option<Reason>) {
        self.cursors.state.store(refuses.map_or(1, |reason| 256 + u64::from(reason.number())), Ordering::SeqCst);
    }

    fn leave(&self) {
        self.cursors.state.store(0, Ordering::SeqCst);
    }

    fn fill(&self) -> (u64, u64) {
        (self.room * STEP, (self.next - 1 - self.cursors.stable_turns()) * STEP)
    }
}

pub(super) fn settings() -> Settings {
    Settings {
        segment_bytes: 8 << 20,
        commit_interval_ns: 1_000,
        loss_window_ns: 50_000,
        keep_bytes: None,
        keep_ns: None,
        checkpoint_interval_ns: 1_000_000,
        scrub_bytes_per_s: 0,
    }
}

/// A writer with a signing key and the keys of sessions in this folder.
pub(super) fn writer<F: Folders>(folder: &Folder, folders: F, settings: Settings) -> Writer<F, Player> {
    let signing = SigningKey::open(&folder.0.join("log.key"), Some("node.example/tachyon")).expect("a key");
    let keys = KeyFile::open(&folder.0.join("keys")).expect("a file");
    let mut rulesets = Rulesets::default();
    for version in 1..4 {
        rulesets.add(version, image(version).into());
    }
    Writer::new(settings, folders, signing, Some(keys), rulesets)
}

/// The image of a version: that of the second is longer than a record may be, and too long to be in every segment.
pub(super) fn image(version: u64) -> Vec<u8> {
    let mut random = Random::new(version);
    (0..if version == 2 { 300_000 } else { 20_000 }).map(|_| random.next().to_le_bytes()[0]).collect()
}

/// A time, far behind that of any file that a test makes.
pub(super) fn at(tick: u64) -> Now {
    Now { tick, unix_ns: 4_000_000_000_000_000_000 + tick }
}

/// Steps until all turns are stable; gives the tick.
pub(super) fn run<F: Folders>(
    writer: &mut Writer<F, Player>,
    mut tick: u64,
    cursors: &[(&Script, &Arc<Cursors>)],
) -> u64 {
    for _ in 0..2_000_000 {
        tick += 10_000;
        writer.step(at(tick));
        if cursors.iter().all(|(script, cursors)| cursors.stable_turns() == script.turns) {
            return tick;
        }
    }
    panic!("turns never become stable: {cursors:?}");
}

/// What a log has of one turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) frames: Vec<Vec<u8>>,
    pub(super) bodies: Vec<Vec<u8>>,
}

/// What one shard's log has.
#[derive(Debug, Default)]
pub(super) struct Read {
    /// By worker and turn.
    pub(super) turns: BTreeMap<(u16, u64), Found>,
    /// Number of lost records, and number of their kind.
    pub(super) gaps: Vec<(u64, u8)>,
    /// Boot ids, and whether they begin there.
    pub(super) clocks: Vec<([u8; 16], bool)>,
    /// Versions of images that are whole.
    pub(super) images: Vec<u64>,
    pub(super) checkpoints: u64,
}

/// Reads one shard's log. Turns rise, and nothing is there twice.
pub(super) fn read<F: Files>(files: &mut F) -> Read {
    let mut read = Read::default();
    let (mut cursor, mut pieces) = (Cursor::new(files, 0).expect("a folder"), Vec::new());
    while let Some(item) = cursor.next(files).expect("readable") {
        match item {
            cursor::Item::Segment(_) => {}
            cursor::Item::Damage(damage) => assert!(matches!(damage.fault, Fault::Torn { .. }), "{damage}"),
            cursor::Item::Commit(commit) => {
                for raw in commit.records() {
                    match Record::read(&raw).expect("a known kind") {
                        Record::Frame(arrival, bytes) => {
                            let key = (arrival.worker.get(), u64::from(arrival.burst.get()));
                            assert!(
                                read.turns.range((key.0, key.1 + 1)..=(key.0, u64::MAX)).next().is_none(),
                                "{key:?}"
                            );
                            read.turns.entry(key).or_default().frames.push(bytes.to_vec());
                        }
                        Record::Decisions(body) => {
                            let turn = Turn::ref_from_bytes(&body[..tap::TURN_BYTES]).expect("a turn");
                            let key = (turn.worker.get(), turn.turn.get());
                            assert!(
                                read.turns.range((key.0, key.1 + 1)..=(key.0, u64::MAX)).next().is_none(),
                                "{key:?}"
                            );
                            read.turns.entry(key).or_default().bodies.push(body.to_vec());
                        }
                        Record::Gap(gap) => read.gaps.push((gap.count.get(), gap.kind)),
                        Record::Clock(clock) => read.clocks.push((clock.boot_id, clock.boot == 1)),
                        Record::Ruleset(piece, bytes) => {
                            if piece.offset.get() == 0 {
                                pieces.clear();
                            }
                            pieces.extend_from_slice(bytes);
                            if pieces.len() as u64 == piece.total_bytes.get() {
                                assert_eq!(pieces, image(piece.version.get()));
                                read.images.push(piece.version.get());
                            }
                        }
                        Record::Checkpoint(_) => read.checkpoints += 1,
                        Record::Tombstone(..) => {}
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
    }
    read
}

/// Holds the logs of a worker's shards against its script: turns up to `stable` are there whole, those behind are there whole,
/// in part or not at all, and nothing is there that was not.
pub(super) fn check(script: &Script, logs: &BTreeMap<u16, Read>, stable: u64) {
    let max = Shard::<tachyon_log::Disk>::body_bytes_max();
    let nothing = Read::default();
    for turn in (1..=script.turns).filter(|turn| !script.lost.contains(turn)) {
        let expected = split(&script.record(turn), max).expect("a turn");
        for part in &expected.parts {
            let log = logs.get(&part.shard).unwrap_or(&nothing);
            let Some(found) = log.turns.get(&(script.worker, turn)) else {
                assert!(turn > stable, "shard {}: turn {turn} of {stable} is not there", part.shard);
                continue;
            };
            let name = |item: &Item| (u64::from(item.buffer.get()) & 15, item.stride.get() as usize);
            let frames: Vec<Vec<u8>> = part
                .frames
                .iter()
                .map(|whole| {
                    let (place, length) = name(&whole.item);
                    frame_of(script.worker, turn, place, whole.index as u64, length)
                })
                .collect();
            if turn <= stable {
                assert_eq!(
                    (&found.frames, &found.bodies),
                    (&frames, &part.bodies),
                    "shard {}: turn {turn}",
                    part.shard
                );
            } else {
                assert!(frames.starts_with(&found.frames), "shard {}: turn {turn}", part.shard);
                assert!(part.bodies.starts_with(&found.bodies), "shard {}: turn {turn}", part.shard);
            }
        }
    }
    for (shard, log) in logs {
        let mut turns = log.turns.keys().filter(|(worker, _)| *worker == script.worker);
        let strange = turns.find(|(_, turn)| {
            let parts = split(&script.record(*turn), max).expect("a turn").parts;
            *turn > script.turns || !parts.iter().any(|part| part.shard == *shard)
        });
        assert_eq!(strange, None, "shard {shard}");
    }
}
