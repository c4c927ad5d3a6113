//! What a replay came to: topics with their last messages, levels of buckets, windows of sessions. A document for people and
//! programs, in a file that says itself whether it is whole.

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Write as _,
    path::Path,
};
use tachyon_log::turn::header;
use tachyon_wire::{FrameHeader, LINE, Message, tap::FramePart};
use zerocopy::FromBytes;

/// The first word of a file, with the version of its layout.
const MAGIC: &str = "tachyon-snapshot-1";

/// What is noted of a topic.
#[derive(Clone, Debug, Default)]
struct Topic {
    accepted: u64,
    refused: u64,
    last: Option<Last>,
}

/// The last message that was accepted.
#[derive(Clone, Debug)]
struct Last {
    turn: u64,
    session_id: u32,
    epoch: u32,
    frame_id: u32,
    index: usize,
    /// All of it, or what the log keeps.
    bytes: Vec<u8>,
}

/// What is noted while turns are replayed.
#[derive(Clone, Debug, Default)]
pub struct Notes {
    topics: BTreeMap<u32, Topic>,
    senders: BTreeSet<u32>,
    sessions: BTreeSet<(u32, u16)>,
}

/// How a snapshot asks the worker: levels of a topic and of a sender, and a session's window in a shard.
pub trait Ask {
    /// Level of a topic's bucket, in 1/16 ns.
    fn topic(&mut self, topic_id: u32) -> Option<u64>;
    /// Level of a sender's bucket.
    fn sender(&mut self, sender_id: u32) -> Option<u64>;
    /// A session's window in a shard, in JSON.
    fn window(&mut self, session_id: u32, shard: u16) -> Option<Value>;
}

impl Notes {
    /// Notes an admitted frame, of which these are the bytes or what is left of them.
    pub fn frame(&mut self, turn: u64, part: &FramePart<'_>, bytes: &[u8], whole: bool) {
        let Ok((header, body)) = FrameHeader::ref_from_prefix(bytes) else { return };
        let session_id = header.session_id.get();
        self.sessions.insert((session_id, header.shard.get()));
        for (index, line) in body.chunks_exact(LINE).take(usize::from(part.entry.count.get())).enumerate() {
            let Ok(message) = Message::ref_from_bytes(line) else { return };
            self.senders.insert(message.sender_id.get());
            let topic = self.topics.entry(message.topic_id.get()).or_default();
            if !part.is_accepted(index) {
                topic.refused += 1;
                continue;
            }
            topic.accepted += 1;
            let bytes = if whole { line } else { &line[..tachyon_wire::tap::STUB_BYTES] }.to_vec();
            let (epoch, frame_id) = (header.epoch.get(), header.frame_id.get());
            topic.last = Some(Last { turn, session_id, epoch, frame_id, index, bytes });
        }
    }

    /// The document of a worker that stands behind this turn.
    pub fn document(&self, record: &[u8], ask: &mut impl Ask) -> Value {
        let turn = header(record);
        let topics = self.topics.iter().map(|(topic_id, topic)| {
            let last = topic.last.as_ref().map(|last| {
                json!({
                    "turn": last.turn, "session": last.session_id, "epoch": last.epoch, "frame_id": last.frame_id,
                    "index": last.index, "message": hex(&last.bytes),
                })
            });
            let level = ask.topic(*topic_id);
            json!({"topic": topic_id, "accepted": topic.accepted, "refused": topic.refused, "level": level, "last": last})
        });
        let topics: Vec<Value> = topics.collect();
        let senders: Vec<Value> =
            self.senders.iter().map(|sender| json!({"sender": sender, "level": ask.sender(*sender)})).collect();
        let windows = self.sessions.iter().filter_map(|(session, shard)| ask.window(*session, *shard));
        let windows: Vec<Value> = windows.collect();
        json!({
            "worker": turn.map(|turn| turn.worker.get()),
            "turn": turn.map(|turn| turn.turn.get()),
            "tick": turn.map(|turn| turn.tick.get()),
            "ruleset_version": turn.map(|turn| turn.ruleset_version.get()),
            "topics": topics, "senders": senders, "windows": windows,
        })
    }
}

/// Writes a document so that the file is there whole or not at all: a line with the version, the BLAKE3 of the rest and its
/// length, then the rest.
///
/// # Errors
/// What the disk said.
pub fn write(path: &Path, document: &Value) -> anyhow::Result<()> {
    let text = format!("{document:#}\n");
    let temporary = path.with_extension("tmp");
    let cannot = || format!("cannot write {}", temporary.display());
    let mut file = File::create(&temporary).with_context(cannot)?;
    writeln!(file, "{MAGIC} {} {}", blake3::hash(text.as_bytes()).to_hex(), text.len()).with_context(cannot)?;
    file.write_all(text.as_bytes()).with_context(cannot)?;
    file.sync_all().with_context(cannot)?;
    fs::rename(&temporary, path).with_context(|| format!("cannot put {} in its place", path.display()))?;
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder).and_then(|folder| folder.sync_all()).with_context(|| format!("cannot sync {}", folder.display()))
}

/// Reads a document that [`write()`] wrote.
///
/// # Errors
/// It cannot be read, is of another version, or was changed.
pub fn read(path: &Path) -> anyhow::Result<Value> {
    let text = fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
    let Some((first, rest)) = text.split_once('\n') else { bail!("{} is no snapshot", path.display()) };
    let words: Vec<&str> = first.split(' ').collect();
    let [magic, hash, length] = words.as_slice() else { bail!("{} is no snapshot", path.display()) };
    ensure!(*magic == MAGIC, "{} is no snapshot of this version; make it anew", path.display());
    let same = *hash == blake3::hash(rest.as_bytes()).to_hex().as_str() && *length == rest.len().to_string();
    ensure!(same, "{} was changed or cut short; make it anew", path.display());
    serde_json::from_str(rest).with_context(|| format!("{} holds no JSON", path.display()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
