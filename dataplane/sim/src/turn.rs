//! A worker's turn as the log has it: taken apart by shard, put together again, written anew.

use std::collections::BTreeMap;
use tachyon_wire::tap::{self, ALIGN, CommandHeader, FRAME_WHOLE, FrameEntry, FramePart, Item, Part, TURN_BYTES, Turn};
use zerocopy::{FromBytes, IntoBytes};

/// A turn, and what its record only points at.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RecordedTurn {
    /// The turn record, keys replaced by their names or not.
    pub record: Vec<u8>,
    /// The bytes of its whole frames, in the order in which they were judged.
    pub frames: Vec<Vec<u8>>,
}

/// One shard's part of a turn: the whole frames, and the record of decisions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShardPart {
    /// The shard.
    pub shard: u16,
    /// Its whole frames, each with the item that it came in.
    pub frames: Vec<(Item, Vec<u8>)>,
    /// The body of its record of decisions.
    pub body: Vec<u8>,
}

/// What one shard's log has of a turn: whole frames, and the bodies of its records of decisions.
pub type Logged = (Vec<Vec<u8>>, Vec<Vec<u8>>);

/// Writes a turn record part by part.
#[derive(Debug)]
pub struct Encoder {
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

    /// The record, under a header whose counts and length are those of what was appended.
    #[must_use]
    pub fn finish(mut self, turn: &Turn) -> Vec<u8> {
        let length = u32::try_from(self.bytes.len()).unwrap_or(u32::MAX).into();
        let header = Turn { length, commands: self.commands.into(), items: self.items.into(), ..*turn };
        self.bytes[..TURN_BYTES].copy_from_slice(header.as_bytes());
        self.bytes
    }
}

/// The header of a record.
#[must_use]
pub fn header(record: &[u8]) -> Option<Turn> {
    Turn::read_from_prefix(record).ok().map(|(turn, _)| turn)
}

/// An item with its frames while a turn is put together.
struct Gathered<'a> {
    item: &'a Item,
    frames: Vec<FramePart<'a>>,
    whole: Vec<Vec<u8>>,
}

/// Puts a turn together from the parts that its shards' logs have of it: frames and bodies, by shard. `None` if they do not
/// make sense, or a frame is missing.
#[must_use]
pub fn join(parts: Vec<Logged>) -> Option<RecordedTurn> {
    let (frames, bodies): (Vec<_>, Vec<_>) = parts.into_iter().unzip();
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
                    Part::Command(number, bytes) => encoder.command(number, bytes),
                    Part::Item(item) => gathered.push(Gathered { item, frames: Vec::new(), whole: Vec::new() }),
                    Part::Frame(frame) => {
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

/// Whole frames, each with its item.
type Whole = Vec<(Item, Vec<u8>)>;

/// Takes a turn apart for the logs of its shards. `change` gets every command and says what is written of it: there are keys
/// in them. `None` if the record makes no sense.
#[must_use]
pub fn split(turn: &RecordedTurn, mut change: impl FnMut(u8, &[u8]) -> Vec<u8>) -> Option<Vec<ShardPart>> {
    let (header, mut parts) = tap::read(&turn.record)?;
    let lead = header.lead_shard.get();
    let mut shards: BTreeMap<u16, (Encoder, Whole)> = BTreeMap::new();
    if header.commands.get() > 0 || header.items.get() == 0 {
        shards.entry(lead).or_default();
    }
    let (mut item, mut frames) = (None, turn.frames.iter());
    for part in parts.by_ref() {
        match part {
            Part::Command(number, bytes) => {
                shards.entry(lead).or_default().0.command(number, &change(number, bytes));
            }
            Part::Item(next) => {
                shards.entry(next.shard.get()).or_default().0.item(next);
                item = Some(next);
            }
            Part::Frame(frame) => {
                let item = item?;
                let (encoder, whole) = shards.entry(item.shard.get()).or_default();
                encoder.frame(frame.entry, frame.head, frame.stubs, frame.reasons);
                if frame.entry.form == FRAME_WHOLE {
                    whole.push((*item, frames.next()?.clone()));
                }
            }
        }
    }
    let part =
        |(shard, (encoder, frames)): (u16, (Encoder, _))| ShardPart { shard, frames, body: encoder.finish(header) };
    parts.is_whole().then(|| shards.into_iter().map(part).collect())
}
