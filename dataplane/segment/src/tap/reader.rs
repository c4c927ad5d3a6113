//! Control's side. What the worker writes is copied before it is looked at, and what it says of lengths is checked.

use super::{
    BEAT, CURSORS_MAGIC, DATA, HEAD, RING_MAGIC, STABLE, STATE, STATE_ABSENT, STATE_REFUSES, STATE_RUNNING, WORD,
    WRITTEN, adopt, check_size, header, refuse, ring_len,
    shape::{Head, Shape},
};
use crate::{
    handover::TapAnswer,
    mapping::Mapping,
    position::Position,
    stats::PAGE_BYTES,
    sync::{AtomicU64, Ordering},
};
use std::{fmt, io, os::fd::AsFd};
use tachyon_wire::{
    Reason,
    tap::{ALIGN, Item, TURN_BYTES},
};

/// What the worker is told of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TapState {
    /// Nobody writes it: messages that wait for it are refused as `E_PERSIST_UNAVAILABLE`.
    Absent,
    /// Somebody writes it, and beats at least ten times a second.
    Running,
    /// Somebody does, but takes nothing, for this reason, one of `E_PERSIST_*`.
    Refuses(Reason),
}

/// Why a record or a frame could not be read. It is a fault of `tachyond` or of this process, never of what peers sent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TapError(String);

impl fmt::Display for TapError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; restart tachyond and report it", self.0)
    }
}

impl std::error::Error for TapError {}

/// A worker's tap as control sees it. Records are read in order; what was not stable when control died is read again.
#[derive(Debug)]
pub struct TapReader {
    ring: Mapping,
    cursors: Mapping,
    arena: Mapping,
    shape: Shape,
    answer: TapAnswer,
    position: u64,
}

impl TapReader {
    /// Maps what `tachyond` handed over, and starts at the last record that is stable. Nothing is taken until
    /// [`TapReader::set_state`] says that somebody writes the log, whatever a predecessor said.
    ///
    /// # Errors
    /// `InvalidData` if a descriptor could shrink under us, or is not what `answer` says, or if the cursors are damaged;
    /// otherwise what the kernel says.
    pub fn open(ring: impl AsFd, cursors: impl AsFd, arena: impl AsFd, answer: &TapAnswer) -> io::Result<Self> {
        let bytes = answer.ring_bytes;
        if !bytes.is_power_of_two() || answer.buffer_bytes == 0 {
            return Err(refuse(format!(
                "{bytes} bytes of ring, buffers of {}: such a tap cannot be",
                answer.buffer_bytes
            )));
        }
        let expected = |magic| header(magic, answer.worker, answer.boot_id, bytes);
        let ring = adopt(ring, "ring", ring_len(bytes)?, expected(RING_MAGIC), |fd, len| Mapping::read_only(fd, len))?;
        let cursors =
            adopt(cursors, "cursors", PAGE_BYTES, expected(CURSORS_MAGIC), |fd, len| Mapping::read_write(fd, len))?;
        let arena_len = usize::try_from(answer.arena_bytes).unwrap_or(0);
        check_size(arena.as_fd(), "arena", arena_len)?;
        let arena = Mapping::read_only_lazily(arena, arena_len)?;
        let mut reader = Self { ring, cursors, arena, shape: Shape { bytes }, answer: answer.clone(), position: 0 };
        reader.set_state(TapState::Absent);
        reader.position = reader.stable();
        reader.waiting().map_err(|error| refuse(error.to_string()))?;
        Ok(reader)
    }

    /// What `tachyond` said of it.
    #[must_use]
    pub const fn answer(&self) -> &TapAnswer {
        &self.answer
    }

    /// Where the record that was read last ends.
    #[must_use]
    pub const fn position(&self) -> u64 {
        self.position
    }

    /// Up to where records were said to be stable.
    #[must_use]
    pub fn stable(&self) -> u64 {
        self.cursor(STABLE).load(Ordering::Relaxed)
    }

    /// Goes back to the last record that is stable, to read again what came behind it: whoever writes the log lost some of it.
    pub fn rewind(&mut self) {
        self.position = self.stable();
    }

    /// Bytes of the ring that are taken: by records that are not stable, and by what was skipped between them.
    #[must_use]
    pub fn taken_bytes(&self) -> u64 {
        Position(&self.ring.words()[HEAD]).look().saturating_sub(self.stable()).min(self.shape.bytes)
    }

    /// Copies the next whole record, in place of what `record` held; the position at which it ends, or `None` if there is
    /// none yet. What is in it is not looked at: that is for [`tachyon_wire::tap::read`].
    ///
    /// # Errors
    /// What lies there is no record. The tap is of no use then.
    pub fn next(&mut self, record: &mut Vec<u8>) -> Result<Option<u64>, TapError> {
        let mut waiting = self.waiting()?;
        if waiting == 0 {
            return Ok(None);
        }
        let mut start = self.position;
        if let Head::Skip(bytes) = self.head_at(start) {
            if bytes != self.shape.to_end(start) || bytes >= waiting {
                return Err(self.damaged("a skip that does not end with the ring's memory", bytes));
            }
            (start, waiting) = (start + bytes, waiting - bytes);
        }
        let Head::Record(bytes) = self.head_at(start) else { return Err(self.damaged("no record", waiting)) };
        let sound = bytes >= TURN_BYTES as u64 && bytes.is_multiple_of(ALIGN as u64);
        if !sound || bytes > waiting.min(self.shape.to_end(start)) {
            return Err(self.damaged("a record of impossible length", bytes));
        }
        let (offset, len) = (self.word(start) * WORD, usize::try_from(bytes).unwrap_or(0));
        if !self.ring.copy(offset, len, record) {
            return Err(self.damaged("a record outside of the ring", bytes));
        }
        self.position = start + bytes;
        Ok(Some(self.position))
    }

    /// Bytes that were recorded and not read.
    fn waiting(&self) -> Result<u64, TapError> {
        let head = Position(&self.ring.words()[HEAD]).look();
        match head.checked_sub(self.position) {
            Some(waiting) if waiting <= self.shape.bytes && waiting.is_multiple_of(ALIGN as u64) => Ok(waiting),
            _ => Err(self.damaged("a head that cannot be", head)),
        }
    }

    fn damaged(&self, what: &str, number: u64) -> TapError {
        let worker = self.answer.worker;
        TapError(format!("the tap of worker {worker} has, at position {}, {what} ({number})", self.position))
    }

    fn head_at(&self, position: u64) -> Head {
        Head::read(self.ring.words()[self.word(position)].load(Ordering::Relaxed))
    }

    fn word(&self, position: u64) -> usize {
        DATA + usize::try_from(self.shape.offset(position)).unwrap_or(0) / WORD
    }

    /// Copies frame number `index` of an item out of the arena, in place of what `bytes` held. It is there from when its
    /// record can be read until that record is said to be stable.
    ///
    /// # Errors
    /// The item has no such frame, or names bytes that are outside of its buffer.
    pub fn frame(&self, item: &Item, index: usize, bytes: &mut Vec<u8>) -> Result<(), TapError> {
        let place = self.place(item, index as u64);
        if place.is_some_and(|(offset, len)| self.arena.copy(offset, len, bytes)) {
            return Ok(());
        }
        let (worker, buffer) = (self.answer.worker, item.buffer);
        Err(TapError(format!(
            "the tap of worker {worker} names frame {index} of buffer {buffer}, which is not in the arena"
        )))
    }

    /// Where in the arena a frame lies, and its bytes.
    fn place(&self, item: &Item, index: u64) -> Option<(usize, usize)> {
        let [buffer, offset, length, stride] =
            [item.buffer, item.offset, item.length, item.stride].map(|field| u64::from(field.get()));
        let (size, headroom) = (u64::from(self.answer.buffer_bytes), u64::from(self.answer.headroom_bytes));
        let before = index.checked_mul(stride).filter(|before| *before < length && stride > 0)?;
        if headroom + offset + length > size {
            return None;
        }
        let start = buffer * size + headroom + offset + before;
        Some((usize::try_from(start).ok()?, usize::try_from(stride.min(length - before)).ok()?))
    }

    /// Says that records were written up to this position, the end of one that was read.
    pub fn set_written(&self, position: u64) {
        self.advance(WRITTEN, position);
    }

    /// Says that records are stable up to this position, the end of one that was read; their memory, and that of their
    /// frames, is used again from here on.
    pub fn set_stable(&self, position: u64) {
        self.advance(STABLE, position);
    }

    /// Positions only rise, and are of records that were read; what else is said is not passed on.
    fn advance(&self, cursor: usize, position: u64) {
        let (cursor, position) = (self.cursor(cursor), position.min(self.position));
        if position > cursor.load(Ordering::Relaxed) {
            Position(cursor).publish(position);
        }
    }

    /// Says how the log is. Counts as a beat.
    pub fn set_state(&self, state: TapState) {
        self.beat();
        let number = match state {
            TapState::Absent => STATE_ABSENT,
            TapState::Running => STATE_RUNNING,
            TapState::Refuses(reason) => STATE_REFUSES + u64::from(reason.number()),
        };
        self.cursor(STATE).store(number, Ordering::Release);
    }

    /// Says that whoever writes the log is alive; at least ten times a second, also when there is nothing to do. Only one
    /// thread at a time does.
    pub fn beat(&self) {
        let beat = self.cursor(BEAT);
        beat.store(beat.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    fn cursor(&self, word: usize) -> &AtomicU64 {
        &self.cursors.words()[word]
    }
}
