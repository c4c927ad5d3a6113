//! A worker's turn in the logs of its shards: taken apart, and put together again.
//!
//! A body of decisions is laid out as a turn record is, so that a reader needs one parser for both. What is too long for one
//! record becomes several bodies of the same turn, cut between commands or items. Where a turn is more than one body, each shard's
//! first one begins with [`TurnParts`], so that what a crash took away of it is missed.

use crate::record::Command as LoggedCommand;
use core::fmt;
use tachyon_wire::{
    command::{AddSubscriber, Again, Command, OpenSession, Restore},
    tap::{
        self, ALIGN, COMMAND_ADD_SUBSCRIBER, COMMAND_AGAIN, COMMAND_CLOSE_SESSION, COMMAND_LEASE, COMMAND_OPEN_SESSION,
        COMMAND_PARTS, COMMAND_REMOVE_SUBSCRIBER, COMMAND_RESTORE, COMMAND_SETUP, CommandHeader, ENTRY_DURABLE,
        FRAME_WHOLE, FrameEntry, FramePart, Item, Setup, TURN_BYTES, TURN_DURABLE, Turn, TurnParts,
    },
};
use zerocopy::{FromBytes, IntoBytes};

/// Bytes that [`TurnParts`] takes of a body, with its header.
const PARTS_BYTES: usize = size_of::<CommandHeader>() + size_of::<TurnParts>();

/// Writes a turn record part by part.
#[derive(Debug)]
pub struct Encoder {
    /// Room for the header, and what was appended.
    bytes: Vec<u8>,
    commands: u16,
    items: u16,
}

impl Default for Encoder {
    fn default() -> Self {
        Self { bytes: vec![0; TURN_BYTES], commands: 0, items: 0 }
    }
}

impl Encoder {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
        self.bytes.resize(self.bytes.len().next_multiple_of(ALIGN), 0);
    }

    /// Appends a command.
    pub fn command(&mut self, number: u8, body: &[u8]) {
        let length = u32::try_from(body.len()).unwrap_or(u32::MAX).into();
        self.put(CommandHeader { number, reserved: [0; 3], length }.as_bytes());
        self.put(body);
        self.commands += 1;
    }

    /// Appends an item; as many frames have to follow as it says.
    pub fn item(&mut self, item: &Item) {
        self.put(item.as_bytes());
        self.items += 1;
    }

    /// Appends a frame of the last item.
    pub fn frame(&mut self, entry: &FrameEntry, head: &[u8], stubs: &[u8], reasons: &[u8]) {
        [entry.as_bytes(), head, stubs, reasons].into_iter().for_each(|bytes| self.put(bytes));
    }

    /// Bytes of the record so far, its header included.
    #[must_use]
    pub const fn length(&self) -> usize {
        self.bytes.len()
    }

    /// Moves all that another one has behind what is here.
    fn append(&mut self, other: &mut Self) {
        self.bytes.extend_from_slice(&other.bytes[TURN_BYTES..]);
        self.commands += core::mem::take(&mut other.commands);
        self.items += core::mem::take(&mut other.items);
        other.bytes.truncate(TURN_BYTES);
    }

    /// The record, under a header whose counts and length are those of what was appended. What is appended then begins the next one.
    pub fn finish(&mut self, turn: &Turn) -> Vec<u8> {
        let Self { mut bytes, commands, items } = core::mem::take(self);
        let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).into();
        let header = Turn { length, commands: commands.into(), items: items.into(), ..*turn };
        bytes[..TURN_BYTES].copy_from_slice(header.as_bytes());
        bytes
    }
}

/// What frames have of their turn's number: its low half. Nobody replays four billion turns at once.
#[must_use]
pub fn burst(turn: u64) -> u32 {
    u32::try_from(turn & u64::from(u32::MAX)).unwrap_or(0)
}

/// The header of a record.
#[must_use]
pub fn header(record: &[u8]) -> Option<Turn> {
    Turn::read_from_prefix(record).ok().map(|(turn, _)| turn)
}

/// A frame whose bytes are not in the turn record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WholeFrame {
    /// Its item, as the turn has it.
    pub item: Item,
    /// Its place in the item.
    pub index: usize,
    /// Its place among all whole frames of the turn.
    pub place: usize,
}

/// What one shard's log gets of a turn: the frames first, then the bodies.
#[derive(Debug, PartialEq, Eq)]
pub struct Part {
    /// The shard.
    pub shard: u16,
    /// Frames that are recorded byte for byte, in the order in which they were judged.
    pub frames: Vec<WholeFrame>,
    /// Bodies of records of decisions, at least one.
    pub bodies: Vec<Vec<u8>>,
    /// Whether a message in it waits for stable storage.
    pub durable: bool,
}

/// A turn, taken apart.
#[derive(Debug)]
pub struct Split {
    /// Its header, as the worker wrote it.
    pub turn: Turn,
    /// By shard.
    pub parts: Vec<Part>,
    /// The keys that its commands hold; the bodies have their names.
    pub keys: Vec<[u8; 32]>,
}

/// Takes a turn record apart for records whose bodies have at most `body_bytes_max` bytes.
///
/// # Errors
/// The record makes no sense, or one part of it is longer than any record.
pub fn split(record: &[u8], body_bytes_max: usize) -> Result<Split, String> {
    let (turn, mut parts) = tap::read(record).ok_or("a record that is no turn")?;
    let lead = turn.lead_shard.get();
    let bytes_max = body_bytes_max.saturating_sub(PARTS_BYTES);
    let mut building = Building { turn, bytes_max, parts: Vec::new(), frames: 0 };
    let (mut keys, mut item, mut piece) = (Vec::new(), None::<Item>, Encoder::default());
    if turn.commands.get() > 0 || turn.items.get() == 0 {
        building.part(lead);
    }
    for part in parts.by_ref() {
        match part {
            tap::Part::Command(number, bytes) => {
                piece.command(number, &without_keys(number, bytes, &mut keys));
                building.append(lead, &mut piece)?;
            }
            tap::Part::Item(next) => {
                building.item(item.take(), &mut piece)?;
                piece.item(next);
                item = Some(*next);
                building.part(next.shard.get()).index = 0;
            }
            tap::Part::Frame(frame) => {
                let Some(item) = item else { break };
                building.frame(&item, &frame);
                piece.frame(frame.entry, frame.head, frame.stubs, frame.reasons);
            }
        }
    }
    if !parts.is_whole() {
        return Err(format!("turn {} of worker {} ends before its end", turn.turn, turn.worker));
    }
    building.item(item, &mut piece)?;
    Ok(Split { turn: *turn, parts: building.finish(), keys })
}

/// A command's bytes with names in the place of keys. Of a command that we do not know nothing is kept but its length,
/// because what we do not know may be a key.
fn without_keys(number: u8, bytes: &[u8], keys: &mut Vec<[u8; 32]>) -> Vec<u8> {
    let known = match number {
        COMMAND_OPEN_SESSION => OpenSession::read_from_bytes(bytes).ok().map(|open| {
            keys.extend([open.master, open.reply_master]);
            LoggedCommand::new(&Command::OpenSession(open)).bytes().to_vec()
        }),
        COMMAND_ADD_SUBSCRIBER => AddSubscriber::read_from_bytes(bytes).ok().map(|add| {
            keys.push(add.master);
            LoggedCommand::new(&Command::AddSubscriber(add)).bytes().to_vec()
        }),
        COMMAND_CLOSE_SESSION | COMMAND_REMOVE_SUBSCRIBER => (bytes.len() == 4).then(|| bytes.to_vec()),
        COMMAND_LEASE => (bytes.len() == 8).then(|| bytes.to_vec()),
        COMMAND_RESTORE => (bytes.len() == size_of::<Restore>()).then(|| bytes.to_vec()),
        COMMAND_AGAIN => (bytes.len() == size_of::<Again>()).then(|| bytes.to_vec()),
        // Sizes and offsets; a replay starts its worker with them.
        COMMAND_SETUP => (bytes.len() == size_of::<Setup>()).then(|| bytes.to_vec()),
        _ => None,
    };
    known.unwrap_or_else(|| vec![0; bytes.len()])
}

/// One shard's part while the turn is read.
struct Growing {
    part: Part,
    /// The body that is being filled.
    body: Encoder,
    /// Place of the next frame in its item.
    index: usize,
}

struct Building<'a> {
    turn: &'a Turn,
    bytes_max: usize,
    parts: Vec<Growing>,
    /// Whole frames so far.
    frames: usize,
}

impl Building<'_> {
    fn part(&mut self, shard: u16) -> &mut Growing {
        let place = self.parts.iter().position(|growing| growing.part.shard == shard);
        let place = place.unwrap_or_else(|| {
            let part = Part { shard, frames: Vec::new(), bodies: Vec::new(), durable: false };
            self.parts.push(Growing { part, body: Encoder::default(), index: 0 });
            self.parts.len() - 1
        });
        &mut self.parts[place]
    }

    /// Appends a piece that is not to be cut to a shard's body, to a new one if need be.
    fn append(&mut self, shard: u16, piece: &mut Encoder) -> Result<(), String> {
        let (turn, bytes_max) = (*self.turn, self.bytes_max);
        let growing = self.part(shard);
        if growing.body.length() + piece.length() - TURN_BYTES > bytes_max {
            if piece.length() > bytes_max {
                let (bytes, max) = (piece.length() - TURN_BYTES, bytes_max.saturating_sub(TURN_BYTES));
                return Err(format!(
                    "turn {} of worker {}: a part of {bytes} bytes, at most {max}",
                    turn.turn, turn.worker
                ));
            }
            growing.close(&turn);
        }
        growing.body.append(piece);
        Ok(())
    }

    /// An item with all of its frames.
    fn item(&mut self, item: Option<Item>, piece: &mut Encoder) -> Result<(), String> {
        item.map_or(Ok(()), |item| self.append(item.shard.get(), piece))
    }

    fn frame(&mut self, item: &Item, frame: &FramePart<'_>) {
        let place = self.frames;
        let growing = self.part(item.shard.get());
        let whole = frame.entry.form == FRAME_WHOLE;
        if whole {
            growing.part.frames.push(WholeFrame { item: *item, index: growing.index, place });
        }
        growing.part.durable |= frame.entry.flags & ENTRY_DURABLE != 0;
        growing.index += 1;
        self.frames += usize::from(whole);
    }

    fn finish(self) -> Vec<Part> {
        let (turn, mut growing) = (self.turn, self.parts);
        growing.iter_mut().for_each(|growing| growing.close(turn));
        let mut parts: Vec<Part> = growing.into_iter().map(|growing| growing.part).collect();
        // A turn that says so and does not say where: then all of it.
        let nowhere = turn.flags & TURN_DURABLE != 0 && !parts.iter().any(|part| part.durable);
        parts.iter_mut().for_each(|part| part.durable |= nowhere);
        let shards = parts.iter().fold(0, |shards, part| shards | bit(part.shard));
        let alone = parts.len() == 1;
        for part in parts.iter_mut().filter(|part| !alone || part.bodies.len() > 1) {
            let said = TurnParts {
                shards: shards.into(),
                frames: u32::try_from(part.frames.len()).unwrap_or(u32::MAX).into(),
                bodies: u16::try_from(part.bodies.len()).unwrap_or(u16::MAX).into(),
                reserved: 0.into(),
            };
            say(&said, &mut part.bodies[0]);
        }
        parts
    }
}

impl Growing {
    /// Ends the body that was filled, and begins the next one.
    fn close(&mut self, turn: &Turn) {
        self.part.bodies.push(self.body.finish(turn));
    }
}

/// A shard's bit.
fn bit(shard: u16) -> u64 {
    1_u64.checked_shl(shard.into()).unwrap_or(0)
}

/// Puts what is said of a turn in front of a body's commands.
fn say(parts: &TurnParts, body: &mut Vec<u8>) {
    let mut said = Encoder::default();
    said.command(COMMAND_PARTS, parts.as_bytes());
    let Some(mut turn) = header(body) else { return };
    turn.length = (turn.length.get() + u32::try_from(PARTS_BYTES).unwrap_or(0)).into();
    turn.commands = (turn.commands.get() + 1).into();
    body.splice(..TURN_BYTES, turn.as_bytes().iter().chain(&said.bytes[TURN_BYTES..]).copied());
}

/// What is said of a turn in a shard's first body; nothing if the turn is this body alone.
#[must_use]
pub fn parts_of(body: &[u8]) -> Option<TurnParts> {
    match tap::read(body)?.1.next() {
        Some(tap::Part::Command(COMMAND_PARTS, bytes)) => TurnParts::read_from_bytes(bytes).ok(),
        _ => None,
    }
}

/// A turn, and what its record only points at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedTurn {
    /// The turn record, keys replaced by their names or not.
    pub record: Vec<u8>,
    /// The bytes of its whole frames, in the order in which they were judged.
    pub frames: Vec<Vec<u8>>,
}

/// What one shard's log has of a turn.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Logged {
    /// The shard.
    pub shard: u16,
    /// Its whole frames.
    pub frames: Vec<Vec<u8>>,
    /// Bodies of its records of decisions.
    pub bodies: Vec<Vec<u8>>,
}

/// Why a turn cannot be put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unjoined {
    /// The logs of these shards lack their part, or some of it.
    Missing(Vec<u16>),
    /// What is there makes no sense.
    Senseless,
}

impl fmt::Display for Unjoined {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Missing(shards) => {
                let names: Vec<String> = shards.iter().map(u16::to_string).collect();
                write!(f, "its part in the log of shard {} is missing", names.join(", "))
            }
            Self::Senseless => f.write_str("its parts do not fit together"),
        }
    }
}

/// An item with its frames while a turn is put together.
struct Gathered<'a> {
    item: &'a Item,
    frames: Vec<FramePart<'a>>,
    whole: Vec<Vec<u8>>,
}

/// Puts a turn together from the parts that its shards' logs have of it.
///
/// # Errors
/// Some of it is not there, or what is there makes no sense.
pub fn join(parts: Vec<Logged>) -> Result<RecordedTurn, Unjoined> {
    let missing = missing(&parts);
    if !missing.is_empty() {
        return Err(Unjoined::Missing(missing));
    }
    join_all(parts).ok_or(Unjoined::Senseless)
}

/// The shards whose part is not there as a whole.
fn missing(parts: &[Logged]) -> Vec<u16> {
    let said = |part: &Logged| parts_of(part.bodies.first()?);
    let bodies = |part: &Logged| said(part).map_or(1, |said| usize::from(said.bodies.get()));
    let shards = parts.iter().filter_map(said).fold(0, |shards, said| shards | said.shards.get());
    let is_whole = |shard: u16| parts.iter().any(|part| part.shard == shard && part.bodies.len() >= bodies(part));
    (0..64).filter(|shard| shards >> shard & 1 == 1 && !is_whole(*shard)).collect()
}

fn join_all(parts: Vec<Logged>) -> Option<RecordedTurn> {
    let (frames, bodies): (Vec<_>, Vec<_>) = parts.into_iter().map(|part| (part.frames, part.bodies)).unzip();
    let mut encoder = Encoder::default();
    let mut gathered: Vec<Gathered<'_>> = Vec::new();
    let mut turn = None;
    for (frames, bodies) in frames.into_iter().zip(&bodies) {
        let mut frames = frames.into_iter();
        for body in bodies {
            let (header, mut parts) = tap::read(body)?;
            turn.get_or_insert(*header);
            for part in parts.by_ref() {
                match part {
                    // The log's own word, which the turn did not have.
                    tap::Part::Command(COMMAND_PARTS, _) => {}
                    tap::Part::Command(number, bytes) => encoder.command(number, bytes),
                    tap::Part::Item(item) => gathered.push(Gathered { item, frames: Vec::new(), whole: Vec::new() }),
                    tap::Part::Frame(frame) => {
                        let last = gathered.last_mut()?;
                        if frame.entry.form == FRAME_WHOLE {
                            last.whole.push(frames.next()?);
                        }
                        last.frames.push(frame);
                    }
                }
            }
            if !parts.is_whole() {
                return None;
            }
        }
        if frames.next().is_some() {
            return None;
        }
    }
    gathered.sort_by_key(|gathered| gathered.item.place.get());
    let mut whole = Vec::new();
    for item in gathered {
        encoder.item(item.item);
        item.frames.iter().for_each(|frame| encoder.frame(frame.entry, frame.head, frame.stubs, frame.reasons));
        whole.extend(item.whole);
    }
    Some(RecordedTurn { record: encoder.finish(&turn?), frames: whole })
}

#[cfg(test)]
mod tests {
    use super::{COMMAND_CLOSE_SESSION, COMMAND_OPEN_SESSION, without_keys};

    #[test]
    fn of_unknown_commands_nothing_is_kept() {
        let mut keys = Vec::new();
        assert_eq!(without_keys(99, &[1, 2, 3], &mut keys), [0; 3]);
        assert_eq!(without_keys(COMMAND_OPEN_SESSION, &[1; 7], &mut keys), [0; 7], "a command of another length");
        assert_eq!(without_keys(COMMAND_CLOSE_SESSION, &[1, 2, 3, 4], &mut keys), [1, 2, 3, 4]);
        assert!(keys.is_empty());
    }
}
