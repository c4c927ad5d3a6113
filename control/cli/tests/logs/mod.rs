//! Truth logs for tests of the command line: made by the log's own writer, of the wire document's frames.
#![allow(dead_code, reason = "every test file is a program of its own and uses its own part of this")]
#![allow(unreachable_pub, reason = "as above")]

use std::{
    fs,
    path::{Path, PathBuf},
};
use tachyon_log::{
    Appender, Config, Disk, Record, Signer,
    record::{Arrival, Clock},
    turn::Encoder,
};
use tachyon_wire::{
    Endpoint, FrameHeader, Reason,
    tap::{
        ENTRY_LOGGED, ENTRY_REASONS, FRAME_REFUSED, FRAME_STUBS, FRAME_WHOLE, FrameEntry, HELD, Item, KIND_TURN,
        STUB_BYTES, Turn,
    },
};
use zerocopy::{FromBytes, FromZeros};

/// 2026-01-01T00:00:00Z.
pub const MIDNIGHT_NS: u64 = 1_767_225_600_000_000_000;
/// Frames of one, of 22, of provenance, of payloads; over IPv4 and IPv6 they are the same.
const FRAMES: [&str; 4] = ["example-crc", "data-22-crc", "data-provenance-5", "payload-mixed"];
const SLOT_BYTES: usize = 2 * 4096;
const SEGMENT_BYTES: u64 = 8 * 4096;

pub fn spec() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec")
}

pub fn vector(name: &str) -> Vec<u8> {
    fs::read(spec().join("vectors").join(name).with_extension("bin")).expect("a golden vector")
}

/// The key of a shard's log. Each has a name of its own, because a checkpoint says by it of which log it is.
pub fn signer(shard: u16) -> Signer {
    Signer::new(&format!("node.example/shard/{shard}"), &[42; 32]).expect("a name")
}

/// A log of several shards below a folder, as a node's control process lays it out.
pub struct Logs {
    pub folder: tempfile::TempDir,
}

impl Logs {
    /// Shards with this many frames each, and the file with their keys.
    pub fn new(shards: &[u16], frames: u32) -> Self {
        let this = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let keys = shards.iter().map(|shard| format!("{}\n", signer(*shard).verifier()));
        fs::write(this.folder.path().join("log.pub"), keys.collect::<String>()).expect("the keys can be written");
        for shard in shards {
            let mut writer = this.writer(*shard);
            writer.append(&clock());
            writer.frames(frames);
            writer.finish();
        }
        this
    }

    pub fn path(&self) -> &str {
        self.folder.path().to_str().expect("the path is text")
    }

    pub fn shard(&self, shard: u16) -> PathBuf {
        self.folder.path().join(format!("shard-{shard:05}"))
    }

    /// Opens a shard's log to go on writing it.
    pub fn writer(&self, shard: u16) -> Writer {
        let disk = Disk::open(&self.shard(shard), 8, SLOT_BYTES).expect("a folder that nobody else writes to");
        let config = Config {
            shard,
            log_id: [shard.to_le_bytes()[0]; 16],
            segment_bytes: SEGMENT_BYTES,
            mark_after_ns: u64::MAX,
            retry_after_ns: 0,
        };
        let log = Appender::open(disk, config, 0).expect("a sound log");
        let now = log.next_sequence() * 1_000;
        Writer { log, shard, now }
    }

    /// Every segment of a shard, by rising sequence.
    pub fn segments(&self, shard: u16) -> Vec<PathBuf> {
        segments(&self.shard(shard))
    }
}

pub fn segments(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).expect("the shard's folder");
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "log"));
    paths.sort();
    paths
}

fn clock() -> Record<'static> {
    Record::Clock(Clock { boot_id: [9; 16], unix_ns: MIDNIGHT_NS.into(), boot: 1, reserved: [0; 7] })
}

/// The source of a shard's frames: odd shards are told of by IPv6.
pub fn source(shard: u16) -> Endpoint {
    if shard.is_multiple_of(2) {
        return Endpoint::v4([192, 0, 2, 7], 40_000);
    }
    let mut address = [0; 16];
    address[..4].copy_from_slice(&[0x20, 0x01, 0x0d, 0xb8]);
    address[15] = 7;
    Endpoint::v6(address, 40_000)
}

/// Every so manieth frame is without decisions, as behind a crash.
const UNDECIDED: u32 = 7;

/// What becomes of a message by its frame's burst and its place there; nothing where that is in no log.
pub fn word(burst: u32, index: usize) -> Option<u8> {
    let decided = burst % UNDECIDED != UNDECIDED - 1;
    decided.then(|| [0, 0, 0, HELD, Reason::Throttled.number()][(burst as usize + index) % 5])
}

/// Decisions about a frame with so many messages; beside it one of three messages that no log takes, and one without a session.
fn decisions(burst: u32, source: Endpoint, messages: usize) -> Vec<u8> {
    let words: Vec<u8> = (0..messages).filter_map(|index| word(burst, index)).collect();
    if words.is_empty() {
        return vec![burst.to_le_bytes()[0]; 40];
    }
    let entry = |form: u8, flags: u8, reason: u8, count: usize| FrameEntry {
        form,
        flags,
        reason,
        reserved: 0,
        count: u16::try_from(count).expect("few").into(),
        reserved_2: 0.into(),
    };
    let head = vector("example-crc")[..64].to_vec();
    let (mut encoder, mut item, mut turn) = (Encoder::default(), Item::new_zeroed(), Turn::new_zeroed());
    (item.frames, item.source) = (3.into(), source);
    encoder.item(&item);
    encoder.frame(&entry(FRAME_WHOLE, ENTRY_REASONS | ENTRY_LOGGED, 0, messages), &[], &[], &words);
    encoder.frame(&entry(FRAME_STUBS, 0, 0, 3), &head, &[0; 3 * STUB_BYTES], &[]);
    encoder.frame(&entry(FRAME_REFUSED, 0, Reason::NoSession.number(), 0), &head, &[], &[]);
    (turn.kind, turn.pressure, turn.turn) = (KIND_TURN, 2, u64::from(burst).into());
    (turn.worker, turn.ruleset_version, turn.free_buffers) = (1.into(), 9.into(), 500.into());
    encoder.finish(&turn)
}

/// A shard's writer. A tick is a microsecond.
pub struct Writer {
    pub log: Appender<Disk>,
    shard: u16,
    now: u64,
}

impl Writer {
    pub fn append(&mut self, record: &Record<'_>) {
        self.now += 1_000;
        while let Err(error) = self.log.append(self.now, record) {
            assert!(matches!(error, tachyon_log::Error::Busy), "{error}");
            self.log.poll(self.now).expect("a healthy disk");
        }
    }

    /// Frames of every sort in turns, each with its decisions; a checkpoint behind every eighth.
    pub fn frames(&mut self, count: u32) {
        for burst in 0..count {
            let frame = vector(FRAMES[burst as usize % FRAMES.len()]);
            let arrival = Arrival { source: source(self.shard), worker: 1.into(), burst: burst.into() };
            self.append(&Record::Frame(arrival, &frame));
            let (header, _) = FrameHeader::read_from_prefix(&frame).expect("a header");
            self.append(&Record::Decisions(&decisions(burst, source(self.shard), header.count.get().into())));
            if burst % 8 == 7 {
                self.log.append_checkpoint(self.now, &signer(self.shard)).expect("room");
            }
            if burst % 3 == 2 {
                self.commit();
            }
        }
        self.commit();
    }

    /// Commits what was appended and waits until a reader can see it.
    pub fn commit(&mut self) {
        self.log.commit(self.now, false);
        while self.log.progress().written < self.log.next_sequence() {
            self.log.poll(self.now).expect("a healthy disk");
        }
    }

    pub fn finish(&mut self) {
        while !self.log.finish(self.now).expect("a healthy disk") {}
    }
}
