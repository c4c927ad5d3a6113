//! What a shard's log says of sessions: which frames of each it has, and from where on its durable messages may not have left.
//!
//! It follows from the records alone, in their order: taken while they are appended, and taken once more from the files, it comes to
//! the same. That is what a node is given when it starts anew, so that no frame that the log has is judged a second time.

use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, VecDeque};
use tachyon_log::{Cursor, Error, Files, Record, cursor::Item, record::Arrival};
use tachyon_wire::{
    Frame, FrameHeader, Lane, Reason,
    command::{Again, RESTORE_WORDS, Restore},
    frame::{self, AUTHENTICATED, Provenance},
    tap::{self, FRAME_REFUSED, FRAME_WHOLE, FramePart, HELD, Part, Turn},
};
use zerocopy::FromBytes;

/// Frames of a window (the wire document fixes it), and its words.
const WINDOW: u32 = 1_024;
const WORDS: usize = WINDOW as usize / 64;
/// Sessions that are known in one shard; of more, those go that were quiet longest. Such a session begins a new epoch after a restart.
const SESSIONS_MAX: usize = 65_536;
/// A copy that was in a frame this long before a node was heard of last has left it. What is newer is forwarded once more.
const LEFT_NS: u64 = 100_000_000;
/// Turns that are this close are not told apart when the beginning of what is forwarded once more is looked for.
const MARK_NS: u64 = 1_000_000;

/// What a session did in this shard under its newest epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Window {
    epoch: u32,
    top: u32,
    /// Frame `id` is bit `id % 64` of word `id / 64 % 16`.
    seen: [u64; WORDS],
    /// The same: a message in it was refused, or the log did not take it.
    refused: [u64; WORDS],
    /// Sequence of the record that spoke of it last.
    last: u64,
}

impl Window {
    const fn new(epoch: u32) -> Self {
        Self { epoch, top: 0, seen: [0; WORDS], refused: [0; WORDS], last: 0 }
    }

    fn settle(&mut self, id: u32, refused: bool) {
        let place = |id: u32| ((id % WINDOW / 64) as usize, 1_u64 << (id % 64));
        if id > self.top {
            for gone in self.top.max(id.saturating_sub(WINDOW)) + 1..=id {
                let (word, bit) = place(gone);
                (self.seen[word], self.refused[word]) = (self.seen[word] & !bit, self.refused[word] & !bit);
            }
            self.top = id;
        } else if self.top - id >= WINDOW {
            return;
        }
        let (word, bit) = place(id);
        self.seen[word] |= bit;
        self.refused[word] |= if refused { bit } else { 0 };
    }

    /// As a node is told it, without what it does not have to be told.
    fn parts(&self, session_id: u32, shard: u16) -> impl Iterator<Item = Restore> {
        let parts = (0..WORDS).step_by(RESTORE_WORDS).map(move |word| {
            let words = |of: &[u64; WORDS]| std::array::from_fn(|index| of[word + index].into());
            Restore {
                session_id: session_id.into(),
                epoch: self.epoch.into(),
                top: self.top.into(),
                shard: shard.into(),
                word: u8::try_from(word).unwrap_or(0), // 12 at most
                reserved: 0,
                seen: words(&self.seen),
                refused: words(&self.refused),
            }
        });
        parts.filter(|part| part.seen.iter().any(|word| word.get() != 0))
    }
}

/// Frames whose bytes are in the log, until the decisions of their turn come: those name them by their order alone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Undecided<T> {
    /// The low half of the turn's number, by worker, and its frames.
    turns: BTreeMap<u16, (u32, VecDeque<T>)>,
}

// By hand, because a frame has no default and needs none.
impl<T> Default for Undecided<T> {
    fn default() -> Self {
        Self { turns: BTreeMap::new() }
    }
}

impl<T> Undecided<T> {
    fn push(&mut self, arrival: &Arrival, frame: T) {
        let (turn, frames) = self.turns.entry(arrival.worker.get()).or_default();
        if *turn != arrival.burst.get() {
            // Of one that never came to its decisions.
            (*turn, *frames) = (arrival.burst.get(), VecDeque::new());
        }
        frames.push_back(frame);
    }

    fn pop(&mut self, of: &Turn) -> Option<T> {
        let (turn, frames) = self.turns.get_mut(&of.worker.get())?;
        (u64::from(*turn) == of.turn.get() & u64::from(u32::MAX)).then(|| frames.pop_front())?
    }
}

/// What is kept of a frame's header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Head {
    session_id: u32,
    epoch: u32,
    frame_id: u32,
    tagged: bool,
}

impl Head {
    fn read(bytes: &[u8]) -> Option<Self> {
        let (header, _) = FrameHeader::ref_from_prefix(bytes).ok()?;
        Some(Self {
            session_id: header.session_id.get(),
            epoch: header.epoch.get(),
            frame_id: header.frame_id.get(),
            tagged: header.flags.get() & AUTHENTICATED != 0,
        })
    }
}

/// A turn, and where its records begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Mark {
    turn: u64,
    tick: u64,
    /// The turn up to which everything was forwarded by then.
    stable: u64,
    sequence: u64,
}

/// From where on durable messages may have been in a node, and in the log, but not with their subscribers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
struct Tail {
    boot_id: [u8; 16],
    /// From where that was so when this start of the node began.
    before: u64,
    /// Whether this start of the node has admitted a frame: sessions are opened only once it was told what it is to forward once more.
    open: bool,
    /// Turns since then, as many as it takes.
    marks: VecDeque<Mark>,
    newest: u64,
    newest_tick: u64,
    /// Where the records of the turn begin that is read.
    begins: Option<u64>,
}

impl Tail {
    fn start_anew(&mut self, boot_id: [u8; 16]) {
        *self = Self { boot_id, before: self.start(), ..Self::default() };
    }

    fn turn(&mut self, turn: &Turn, sequence: u64, admits: bool) {
        let begins = self.begins.take().unwrap_or(sequence);
        let (number, tick) = (turn.turn.get(), turn.tick.get());
        self.open |= admits;
        if number <= self.newest || !self.open {
            return; // more of the same, or of a node that was not told yet what it is to forward once more
        }
        (self.newest, self.newest_tick) = (number, tick);
        if self.marks.back().is_none_or(|last| tick.saturating_sub(last.tick) >= MARK_NS) {
            self.marks.push_back(Mark { turn: number, tick, stable: turn.stable.get(), sequence: begins });
        }
        let Some(stable) = self.left() else { return };
        while self.marks.get(1).is_some_and(|second| second.turn <= stable + 1) {
            self.marks.pop_front();
        }
    }

    /// The turn up to which everything has left.
    fn left(&self) -> Option<u64> {
        let old = |mark: &&Mark| mark.tick.saturating_add(LEFT_NS) <= self.newest_tick;
        self.marks.iter().rev().find(old).map(|mark| mark.stable)
    }

    fn start(&self) -> u64 {
        // A start of the node that was over too soon to say it leaves it at what was so before.
        self.left().and(self.marks.front()).map_or(self.before, |first| first.sequence)
    }
}

/// All of it, of one shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Windows {
    sessions: BTreeMap<u32, Window>,
    undecided: Undecided<Head>,
    tail: Tail,
    /// Sequence of the record that comes next.
    next: u64,
    /// The log's number, once a segment of it was read.
    log_id: Option<[u8; 16]>,
}

/// What a snapshot begins with.
const MAGIC: &str = "tachyon-windows-1";

impl Windows {
    /// A snapshot, which says itself whether it is whole: a line with the version, BLAKE3 of the rest and its length, then JSON.
    pub(crate) fn to_snapshot(&self) -> Vec<u8> {
        // Numbers and lists of them cannot fail to be written.
        let text = serde_json::to_vec(self).unwrap_or_default();
        let head = format!("{MAGIC} {} {}\n", blake3::hash(&text).to_hex(), text.len());
        [head.into_bytes(), text].concat()
    }

    /// Reads a snapshot of a log with so many records.
    ///
    /// # Errors
    /// Why it cannot be used.
    pub(crate) fn from_snapshot(bytes: &[u8], records: u64) -> Result<Self, String> {
        let end = bytes.iter().position(|byte| *byte == b'\n').ok_or("it has no first line")?;
        let (head, text) = (String::from_utf8_lossy(&bytes[..end]), &bytes[end + 1..]);
        let hash = blake3::hash(text).to_hex();
        match head.split(' ').collect::<Vec<_>>().as_slice() {
            [magic, ..] if *magic != MAGIC => return Err("it is of another version".to_owned()),
            [_, said, length] if *said == hash.as_str() && *length == text.len().to_string() => {}
            _ => return Err("it was changed or cut short".to_owned()),
        }
        let windows: Self = serde_json::from_slice(text).map_err(|error| error.to_string())?;
        if windows.next > records {
            return Err(format!("it covers {} records, and the log has {records}", windows.next));
        }
        Ok(windows)
    }

    /// Reads a log from where this is on, up to its end.
    ///
    /// # Errors
    /// The files cannot be read, or are damaged there.
    pub(crate) fn read_on<F: Files>(&mut self, files: &mut F) -> Result<(), Error> {
        let mut cursor = Cursor::new(files, self.next)?;
        while let Some(item) = cursor.next(files)? {
            match item {
                Item::Segment(header) if *self.log_id.get_or_insert(header.log_id) != header.log_id => {
                    let other = std::io::Error::other("what was known of it is of another log");
                    return Err(Error::Storage { what: "follow the log".to_owned(), source: other });
                }
                Item::Segment(_) => {}
                Item::Commit(commit) => {
                    let from = self.next;
                    for raw in commit.records().filter(|raw| raw.sequence >= from) {
                        if let Some(record) = Record::read(&raw) {
                            self.take(raw.sequence, &record);
                        }
                        self.next = raw.sequence + 1;
                    }
                }
                Item::Damage(damage) => return Err(Error::Damaged(damage)),
            }
        }
        Ok(())
    }

    /// Takes the next record of the log.
    pub(crate) fn take(&mut self, sequence: u64, record: &Record<'_>) {
        self.next = sequence + 1;
        match record {
            Record::Clock(clock) if clock.boot != 0 || clock.boot_id != self.tail.boot_id => {
                self.undecided = Undecided::default();
                self.tail.start_anew(clock.boot_id);
            }
            Record::Frame(arrival, bytes) => {
                self.tail.begins.get_or_insert(sequence);
                if let Some(head) = Head::read(bytes) {
                    self.undecided.push(arrival, head);
                }
            }
            Record::Decisions(body) => {
                let Some((turn, parts)) = tap::read(body) else { return };
                let admits = |part| matches!(part, Part::Frame(part) if part.entry.form != FRAME_REFUSED);
                self.tail.turn(turn, sequence, parts.clone().any(admits));
                for part in parts {
                    let Part::Frame(part) = part else { continue };
                    let whole = part.entry.form == FRAME_WHOLE;
                    let head = if whole { self.undecided.pop(turn) } else { Head::read(part.head) };
                    if let Some(head) = head {
                        self.frame(sequence, &head, &part);
                    }
                }
                self.shrink();
            }
            _ => {}
        }
    }

    /// What was decided about a frame, as the node's own window took it.
    fn frame(&mut self, sequence: u64, head: &Head, part: &FramePart<'_>) {
        let settled = if part.entry.form == FRAME_REFUSED {
            // Only these reasons are given to frames whose tag or crc was right.
            match Reason::from_number(part.entry.reason) {
                Some(Reason::RefInvalid) => true,
                Some(Reason::Stale) => false,
                _ => return,
            }
        } else {
            true
        };
        let known = self.sessions.get(&head.session_id).map(|window| window.epoch);
        let newer = match known {
            None => settled,
            // A frame that changes the epoch and is then refused for its number has changed it.
            Some(epoch) => head.epoch > epoch && (settled || head.tagged || head.epoch == epoch + 1),
        };
        if newer {
            self.sessions.insert(head.session_id, Window::new(head.epoch));
        }
        let window = self.sessions.get_mut(&head.session_id).filter(|window| window.epoch == head.epoch);
        if let (Some(window), true) = (window, settled) {
            let refused = part.reasons.iter().any(|word| ![0, HELD].contains(word));
            window.settle(head.frame_id, refused || part.entry.form == FRAME_REFUSED);
            window.last = sequence;
        }
    }

    /// Forgets the sessions that were quiet longest, an eighth at once, if there are too many.
    fn shrink(&mut self) {
        if self.sessions.len() > SESSIONS_MAX {
            let mut spoken: Vec<u64> = self.sessions.values().map(|window| window.last).collect();
            spoken.sort_unstable();
            let limit = spoken.get(SESSIONS_MAX / 8).copied().unwrap_or(0);
            self.sessions.retain(|_, window| window.last > limit);
        }
    }

    /// What a node is to be told of this session.
    pub(crate) fn of(&self, session_id: u32, shard: u16) -> impl Iterator<Item = Restore> {
        self.sessions.get(&session_id).into_iter().flat_map(move |window| window.parts(session_id, shard))
    }

    /// Sequence of the record that comes next.
    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// The durable messages whose copies may not have left, in their order, and how many of them have a payload in their frame, which no
    /// command carries.
    ///
    /// # Errors
    /// The files cannot be read, or are damaged there.
    pub(crate) fn again<F: Files>(&self, files: &mut F) -> Result<(Vec<Again>, u64), Error> {
        let from = self.tail.start();
        let (mut again, mut with_payload) = (Vec::new(), 0);
        let mut undecided: Undecided<Vec<u8>> = Undecided::default();
        let mut cursor = Cursor::new(files, from)?.until(self.next);
        while let Some(item) = cursor.next(files)? {
            let commit = match item {
                Item::Segment(_) => continue,
                Item::Commit(commit) => commit,
                Item::Damage(damage) => return Err(Error::Damaged(damage)),
            };
            for raw in commit.records().filter(|raw| (from..self.next).contains(&raw.sequence)) {
                match Record::read(&raw) {
                    Some(Record::Frame(arrival, bytes)) => undecided.push(&arrival, bytes.to_vec()),
                    Some(Record::Decisions(body)) => {
                        let Some((turn, parts)) = tap::read(body) else { continue };
                        for part in parts {
                            let Part::Frame(part) = part else { continue };
                            if part.entry.form != FRAME_WHOLE {
                                continue;
                            }
                            let Some(bytes) = undecided.pop(turn) else { continue };
                            with_payload += held_of(&bytes, &part, &mut again);
                        }
                    }
                    _ => {}
                }
            }
        }
        Ok((again, with_payload))
    }
}

/// Adds the messages of a frame that waited for the log; returns how many of them have a payload in it.
fn held_of(bytes: &[u8], part: &FramePart<'_>, again: &mut Vec<Again>) -> u64 {
    let lane = Lane { frame_bytes_max: u32::MAX, references: false };
    let Ok(Frame { header, messages, provenance, .. }) = frame::parse(bytes, &lane) else { return 0 };
    let mut with_payload = 0;
    for (index, message) in messages.iter().enumerate().filter(|(index, _)| part.is_held(*index)) {
        if message.in_frame().is_some() {
            with_payload += 1;
            continue;
        }
        let own = Provenance {
            session_id: header.session_id,
            epoch: header.epoch,
            frame_id: header.frame_id,
            shard: header.shard,
            index: u16::try_from(index).unwrap_or(u16::MAX).into(), // a frame has at most 256
        };
        again.push(Again { identity: provenance.get(index).copied().unwrap_or(own), message: *message });
    }
    with_payload
}

#[cfg(test)]
#[path = "windows_tests.rs"]
mod tests;
