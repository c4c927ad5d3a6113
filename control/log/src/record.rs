//! What a record says, by kind. Bodies of frames, decisions and images are other people's bytes and are kept as they are;
//! the rest is laid out here.

use crate::{
    format::RawRecord,
    note::{Signer, Verifier},
    tree::Hash,
};
use core::fmt;
use tachyon_wire::{
    Endpoint,
    command::{AddSubscriber, OpenSession},
};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{U16, U32, U64},
};

/// Kinds of records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// A frame as it was received.
    Frame = 1,
    /// What was decided about a burst.
    Decisions = 2,
    /// A piece of a ruleset image.
    Ruleset = 3,
    /// A command to the data plane, without keys.
    Command = 4,
    /// A boot, or what the clocks say.
    Clock = 5,
    /// Removed segments.
    Tombstone = 6,
    /// Records that were lost.
    Gap = 7,
    /// A signed note over all records before.
    Checkpoint = 8,
}

/// What stands before a frame's bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Arrival {
    /// Where it came from.
    pub source: Endpoint,
    /// The worker that received it.
    pub worker: U16,
    /// Its burst, counted by that worker; names the decisions that belong to it.
    pub burst: U32,
}

/// What stands before a piece of a ruleset image.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Piece {
    /// The ruleset's version.
    pub version: U64,
    /// Bytes of the whole image.
    pub total_bytes: U64,
    /// Where this piece begins in it.
    pub offset: U64,
}

/// A boot or clock marker.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Clock {
    /// Drawn at random at every start of the node; ticks of different boots do not compare.
    pub boot_id: [u8; 16],
    /// Unix nanoseconds at the record's tick.
    pub unix_ns: U64,
    /// 1 if this is the first record of the boot, else 0.
    pub boot: u8,
    /// Zeros.
    pub reserved: [u8; 7],
}

/// Why segments were removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Removal {
    /// The log was larger than it may be.
    Size = 1,
    /// They were older than they may be.
    Age = 2,
}

/// What a tombstone's signature covers: everything before `end` is gone, this is what it came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Tombstone {
    /// First sequence that this removal took away.
    pub first: U64,
    /// First sequence that it left.
    pub end: U64,
    /// First commit that it left.
    pub end_commit: U64,
    /// Hash of the last commit that is gone: what the first one left follows from.
    pub chain: [u8; 32],
    /// Root of the tree of all records before `end`.
    pub root: Hash,
    /// Unix nanoseconds of the removal.
    pub unix_ns: U64,
    /// Number of the [`Removal`].
    pub why: u8,
    /// Zeros.
    pub reserved: [u8; 7],
}

/// Records that the log did not take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Gap {
    /// How many records are missing.
    pub count: U64,
    /// Tick of the first.
    pub first_tick: U64,
    /// Tick of the last.
    pub last_tick: U64,
    /// Number of the wire reason why.
    pub reason: u8,
    /// Kind of the missing records; 0 if there are several.
    pub kind: u8,
    /// Zeros.
    pub reserved: [u8; 6],
}

/// A command without its keys. The only way to make one takes the keys out, so that none can reach the disk.
#[derive(Clone, PartialEq, Eq)]
pub struct Command {
    number: u8,
    bytes: Vec<u8>,
}

/// What stands for a key in the log: BLAKE3 derive_key of it under a context of its own. Keys are 32 random bytes, so this
/// names one and gives nothing away; a replay that is given the keys finds the right one by it.
#[must_use]
pub fn key_name(master: &[u8; 32]) -> [u8; 32] {
    blake3::derive_key("tachyon 1 log key name", master)
}

/// What a command's number and bytes say, those of a record or those in a record of decisions; nothing where they do not fit.
#[must_use]
pub fn wire_command(number: u8, bytes: &[u8]) -> Option<tachyon_wire::command::Command> {
    use tachyon_wire::command::Command as Wire;
    let id = || bytes.try_into().ok().map(u32::from_le_bytes);
    match number {
        1 => OpenSession::read_from_bytes(bytes).ok().map(Wire::OpenSession),
        2 => id().map(Wire::CloseSession),
        3 => AddSubscriber::read_from_bytes(bytes).ok().map(Wire::AddSubscriber),
        4 => id().map(Wire::RemoveSubscriber),
        5 => tachyon_wire::command::Lease::read_from_bytes(bytes).ok().map(Wire::Lease),
        7 => tachyon_wire::command::Restore::read_from_bytes(bytes).ok().map(Wire::Restore),
        8 => tachyon_wire::command::Again::read_from_bytes(bytes).ok().map(Wire::Again),
        _ => None,
    }
}

impl Command {
    /// Of any command of the wire.
    #[must_use]
    pub fn new(command: &tachyon_wire::command::Command) -> Self {
        use tachyon_wire::command::Command as Wire;
        let (number, bytes) = match command {
            Wire::OpenSession(open) => {
                let (master, reply_master) = (key_name(&open.master), key_name(&open.reply_master));
                (1, OpenSession { master, reply_master, ..*open }.as_bytes().to_vec())
            }
            Wire::CloseSession(session_id) => (2, session_id.to_le_bytes().to_vec()),
            Wire::AddSubscriber(add) => {
                (3, AddSubscriber { master: key_name(&add.master), ..*add }.as_bytes().to_vec())
            }
            Wire::RemoveSubscriber(slot) => (4, slot.to_le_bytes().to_vec()),
            Wire::Lease(lease) => (5, lease.as_bytes().to_vec()),
            Wire::Restore(restore) => (7, restore.as_bytes().to_vec()),
            Wire::Again(again) => (8, again.as_bytes().to_vec()),
        };
        Self { number, bytes }
    }

    /// Which command: 1 open session, 2 close session, 3 add subscriber, 4 remove subscriber, 5 lease, 7 restore,
    /// 8 again.
    #[must_use]
    pub const fn number(&self) -> u8 {
        self.number
    }

    /// The command as the data plane was told it, with names in the place of keys.
    #[must_use]
    pub fn wire(&self) -> Option<tachyon_wire::command::Command> {
        wire_command(self.number, &self.bytes)
    }

    /// The command's bytes, with names in the place of keys.
    #[must_use]
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }
}

impl fmt::Debug for Command {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Command({}, {} bytes)", self.number, self.bytes.len())
    }
}

/// A record to append, or as read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Record<'a> {
    /// A frame, byte for byte.
    Frame(Arrival, &'a [u8]),
    /// What was decided about a burst; the bytes are the engine's.
    Decisions(&'a [u8]),
    /// A piece of a ruleset image.
    Ruleset(Piece, &'a [u8]),
    /// A command.
    Command(Command),
    /// A boot or clock marker.
    Clock(Clock),
    /// Removed segments, signed.
    Tombstone(Tombstone, [u8; 64]),
    /// Lost records.
    Gap(Gap),
    /// A signed note.
    Checkpoint(&'a str),
}

impl<'a> Record<'a> {
    /// The kind.
    #[must_use]
    pub const fn kind(&self) -> Kind {
        match self {
            Self::Frame(..) => Kind::Frame,
            Self::Decisions(_) => Kind::Decisions,
            Self::Ruleset(..) => Kind::Ruleset,
            Self::Command(_) => Kind::Command,
            Self::Clock(_) => Kind::Clock,
            Self::Tombstone(..) => Kind::Tombstone,
            Self::Gap(_) => Kind::Gap,
            Self::Checkpoint(_) => Kind::Checkpoint,
        }
    }

    /// The two byte strings that the body consists of.
    fn parts(&self) -> (&[u8], &[u8]) {
        match self {
            Self::Frame(arrival, frame) => (arrival.as_bytes(), frame),
            Self::Decisions(bytes) => (&[], bytes),
            Self::Ruleset(piece, bytes) => (piece.as_bytes(), bytes),
            Self::Command(command) => (core::slice::from_ref(&command.number), &command.bytes),
            Self::Clock(clock) => (clock.as_bytes(), &[]),
            Self::Tombstone(content, signature) => (content.as_bytes(), signature),
            Self::Gap(gap) => (gap.as_bytes(), &[]),
            Self::Checkpoint(note) => (note.as_bytes(), &[]),
        }
    }

    /// Bytes of the body.
    #[must_use]
    pub fn body_bytes(&self) -> usize {
        let (head, rest) = self.parts();
        head.len() + rest.len()
    }

    /// Writes the body to the first bytes of `place`.
    pub(crate) fn write(&self, place: &mut [u8]) {
        let (head, rest) = self.parts();
        place[..head.len()].copy_from_slice(head);
        place[head.len()..head.len() + rest.len()].copy_from_slice(rest);
    }

    /// Reads a record; nothing if its kind is not known or the body breaks the kind's layout.
    #[must_use]
    pub fn read(raw: &RawRecord<'a>) -> Option<Self> {
        let body = raw.body;
        let record = match raw.kind {
            1 => Arrival::read_from_prefix(body).ok().map(|(arrival, frame)| Self::Frame(arrival, frame))?,
            2 => Self::Decisions(body),
            3 => Piece::read_from_prefix(body).ok().map(|(piece, bytes)| Self::Ruleset(piece, bytes))?,
            4 => Self::Command(Command::read(body)?),
            5 => Self::Clock(Clock::read_from_bytes(body).ok()?),
            6 => {
                let (content, signature) = Tombstone::read_from_prefix(body).ok()?;
                Self::Tombstone(content, signature.try_into().ok()?)
            }
            7 => Self::Gap(Gap::read_from_bytes(body).ok()?),
            8 => Self::Checkpoint(core::str::from_utf8(body).ok()?),
            _ => return None,
        };
        Some(record)
    }
}

impl Command {
    /// Reads a command of the log; its length is that of its number.
    fn read(body: &[u8]) -> Option<Self> {
        let (number, bytes) = body.split_first()?;
        let expected = match number {
            1 => size_of::<OpenSession>(),
            2 | 4 => 4,
            3 => size_of::<AddSubscriber>(),
            5 => size_of::<tachyon_wire::command::Lease>(),
            7 => size_of::<tachyon_wire::command::Restore>(),
            8 => size_of::<tachyon_wire::command::Again>(),
            _ => return None,
        };
        (bytes.len() == expected).then(|| Self { number: *number, bytes: bytes.to_vec() })
    }
}

impl Tombstone {
    /// The record, signed.
    #[must_use]
    pub fn sign(self, log_id: &[u8; 16], signer: &Signer) -> Record<'static> {
        let signature = signer.sign_tombstone(log_id, self.as_bytes());
        Record::Tombstone(self, signature)
    }

    /// Whether the signature is one of this key over this tombstone of this log.
    #[must_use]
    pub fn holds(&self, log_id: &[u8; 16], signature: &[u8; 64], verifier: &Verifier) -> bool {
        verifier.tombstone(log_id, self.as_bytes(), signature)
    }
}

/// The records of a ruleset image, in pieces of at most `piece_bytes_max`.
pub fn ruleset_pieces(version: u64, image: &[u8], piece_bytes_max: usize) -> impl Iterator<Item = Record<'_>> {
    let total_bytes = U64::new(image.len() as u64);
    image.chunks(piece_bytes_max.max(1)).enumerate().map(move |(index, bytes)| {
        let offset = U64::new((index * piece_bytes_max.max(1)) as u64);
        Record::Ruleset(Piece { version: U64::new(version), total_bytes, offset }, bytes)
    })
}

#[cfg(test)]
mod tests {
    use super::{Command, key_name};
    use tachyon_wire::{
        Endpoint,
        command::{Command as Wire, OpenSession},
    };

    #[test]
    fn no_key_is_in_a_command() {
        let (master, reply_master) = ([0x11; 32], [0x22; 32]);
        let open = OpenSession {
            session_id: 7.into(),
            reply_session_id: 8.into(),
            principal: 1.into(),
            sender_low: 0.into(),
            sender_high: 9.into(),
            epoch_floor: 1.into(),
            class_cap: 0,
            flags: 0,
            pinned: Endpoint::NONE,
            master,
            reply_master,
        };
        let command = Command::new(&Wire::OpenSession(open));
        for key in [master, reply_master] {
            assert!(!command.bytes().windows(4).any(|window| window == &key[..4]), "a key is in the log");
            assert!(command.bytes().windows(32).any(|window| window == key_name(&key)), "its name is not");
        }
    }
}
