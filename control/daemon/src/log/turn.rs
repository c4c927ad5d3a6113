//! From a worker's turn to what each shard's log gets of it: frames, and one record of what was decided.
//!
//! A body of decisions is laid out as a turn record is, so that a reader needs one parser for both, and puts a turn together
//! again by worker and number. What is too long for one record becomes several of the same turn, cut between items.

use tachyon_log::record::Command as LoggedCommand;
use tachyon_wire::{
    command::{AddSubscriber, Command, OpenSession},
    tap::{
        self, ALIGN, COMMAND_ADD_SUBSCRIBER, COMMAND_CLOSE_SESSION, COMMAND_LEASE, COMMAND_OPEN_SESSION,
        COMMAND_REMOVE_SUBSCRIBER, COMMAND_SETUP, CommandHeader, ENTRY_DURABLE, FRAME_WHOLE, FramePart, Item, Setup,
        TURN_BYTES, TURN_DURABLE, Turn,
    },
};
use zerocopy::{FromBytes, IntoBytes};

/// A frame whose bytes are in the arena.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WholeFrame {
    /// Its item, as the turn has it.
    pub(crate) item: Item,
    /// Its place in the item.
    pub(crate) index: usize,
}

/// What one shard's log gets of a turn: the frames first, then the bodies.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Part {
    /// The shard.
    pub(crate) shard: u16,
    /// Frames that are recorded byte for byte, in the order in which they were judged.
    pub(crate) frames: Vec<WholeFrame>,
    /// Bodies of records of decisions, at least one.
    pub(crate) bodies: Vec<Vec<u8>>,
    /// Whether a message in it waits for stable storage.
    pub(crate) durable: bool,
}

/// A turn, taken apart.
#[derive(Debug)]
pub(crate) struct Split {
    /// Its header, as the worker wrote it.
    pub(crate) turn: Turn,
    /// By shard.
    pub(crate) parts: Vec<Part>,
    /// The keys that its commands hold; the bodies have their names.
    pub(crate) keys: Vec<[u8; 32]>,
}

/// Takes a turn record apart for records whose bodies have at most `body_bytes_max` bytes.
///
/// # Errors
/// The record makes no sense, or one part of it is longer than any record.
pub(crate) fn split(record: &[u8], body_bytes_max: usize) -> Result<Split, String> {
    let (turn, mut parts) = tap::read(record).ok_or("a record that is no turn")?;
    let lead = turn.lead_shard.get();
    let mut building = Building { turn, bytes_max: body_bytes_max, parts: Vec::new() };
    let (mut keys, mut item, mut piece) = (Vec::new(), None::<Item>, Vec::new());
    if turn.commands.get() > 0 || turn.items.get() == 0 {
        building.part(lead);
    }
    for part in parts.by_ref() {
        match part {
            tap::Part::Command(number, bytes) => {
                let bytes = without_keys(number, bytes, &mut keys);
                let length = u32::try_from(bytes.len()).unwrap_or(u32::MAX).into();
                piece.extend_from_slice(CommandHeader { number, reserved: [0; 3], length }.as_bytes());
                append(&mut piece, &bytes);
                building.command(lead, &piece)?;
                piece.clear();
            }
            tap::Part::Item(next) => {
                building.item(item.take(), &mut piece)?;
                piece.extend_from_slice(next.as_bytes());
                item = Some(*next);
                building.part(next.shard.get()).index = 0;
            }
            tap::Part::Frame(frame) => {
                let Some(item) = item else { break };
                building.frame(&item, &frame);
                piece.extend_from_slice(frame.entry.as_bytes());
                for bytes in [frame.head, frame.stubs, frame.reasons] {
                    append(&mut piece, bytes);
                }
            }
        }
    }
    if !parts.is_whole() {
        return Err(format!("turn {} of worker {} ends before its end", turn.turn, turn.worker));
    }
    building.item(item, &mut piece)?;
    Ok(Split { turn: *turn, parts: building.finish(), keys })
}

/// Appends bytes and what pads them.
fn append(to: &mut Vec<u8>, bytes: &[u8]) {
    to.extend_from_slice(bytes);
    to.resize(to.len().next_multiple_of(ALIGN), 0);
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
        // Sizes and offsets; a replay starts its worker with them.
        COMMAND_SETUP => (bytes.len() == size_of::<Setup>()).then(|| bytes.to_vec()),
        _ => None,
    };
    known.unwrap_or_else(|| vec![0; bytes.len()])
}

/// One shard's part while the turn is read.
struct Growing {
    part: Part,
    /// The body that is being filled; its header comes last.
    body: Vec<u8>,
    commands: u16,
    items: u16,
    /// Place of the next frame in its item.
    index: usize,
}

struct Building<'a> {
    turn: &'a Turn,
    bytes_max: usize,
    parts: Vec<Growing>,
}

impl Building<'_> {
    fn part(&mut self, shard: u16) -> &mut Growing {
        let place = self.parts.iter().position(|growing| growing.part.shard == shard);
        let place = place.unwrap_or_else(|| {
            let part = Part { shard, frames: Vec::new(), bodies: Vec::new(), durable: false };
            self.parts.push(Growing { part, body: vec![0; TURN_BYTES], commands: 0, items: 0, index: 0 });
            self.parts.len() - 1
        });
        &mut self.parts[place]
    }

    /// Room for a piece in a shard's body, in a new one if need be.
    fn room(&mut self, shard: u16, bytes: usize) -> Result<&mut Growing, String> {
        let (turn, bytes_max) = (*self.turn, self.bytes_max);
        let growing = self.part(shard);
        if growing.body.len() + bytes > bytes_max {
            if TURN_BYTES + bytes > bytes_max {
                let max = bytes_max - TURN_BYTES;
                return Err(format!(
                    "turn {} of worker {}: a part of {bytes} bytes, at most {max}",
                    turn.turn, turn.worker
                ));
            }
            growing.close(&turn);
        }
        Ok(growing)
    }

    fn command(&mut self, shard: u16, piece: &[u8]) -> Result<(), String> {
        let growing = self.room(shard, piece.len())?;
        growing.body.extend_from_slice(piece);
        growing.commands += 1;
        Ok(())
    }

    /// An item with all of its frames.
    fn item(&mut self, item: Option<Item>, piece: &mut Vec<u8>) -> Result<(), String> {
        let Some(item) = item else { return Ok(()) };
        let growing = self.room(item.shard.get(), piece.len())?;
        growing.body.append(piece);
        growing.items += 1;
        Ok(())
    }

    fn frame(&mut self, item: &Item, frame: &FramePart<'_>) {
        let growing = self.part(item.shard.get());
        if frame.entry.form == FRAME_WHOLE {
            growing.part.frames.push(WholeFrame { item: *item, index: growing.index });
        }
        growing.part.durable |= frame.entry.flags & ENTRY_DURABLE != 0;
        growing.index += 1;
    }

    fn finish(self) -> Vec<Part> {
        let (turn, mut growing) = (self.turn, self.parts);
        growing.iter_mut().for_each(|growing| growing.close(turn));
        let mut parts: Vec<Part> = growing.into_iter().map(|growing| growing.part).collect();
        // A turn that says so and does not say where: then all of it.
        let nowhere = turn.flags & TURN_DURABLE != 0 && !parts.iter().any(|part| part.durable);
        parts.iter_mut().for_each(|part| part.durable |= nowhere);
        parts
    }
}

impl Growing {
    /// Writes the header of the body that was filled, and begins the next one.
    fn close(&mut self, turn: &Turn) {
        let length = u32::try_from(self.body.len()).unwrap_or(u32::MAX).into();
        let header = Turn { length, commands: self.commands.into(), items: self.items.into(), ..*turn };
        self.body[..TURN_BYTES].copy_from_slice(header.as_bytes());
        self.part.bodies.push(std::mem::replace(&mut self.body, vec![0; TURN_BYTES]));
        (self.commands, self.items) = (0, 0);
    }
}

#[cfg(test)]
#[path = "turn_tests.rs"]
mod tests;
