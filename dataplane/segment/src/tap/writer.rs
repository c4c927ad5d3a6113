//! The worker's side. Nothing here allocates, locks or makes a system call.

use super::{
    BEAT, DATA, HEAD, STABLE, STATE, STATE_REFUSES, STATE_RUNNING, WORD, WRITTEN,
    shape::{Head, Shape},
};
use crate::{
    mapping::Mapping,
    position::Position,
    sync::{AtomicU64, Ordering},
};
use std::sync::Arc;
use tachyon_wire::{
    Reason,
    tap::{ALIGN, KIND_TURN},
};

/// Silence after which whoever writes the log counts as standing still, ns. Whoever writes it beats at least ten times a
/// second, so this is longer than a busy machine holds a process up, and a disk that takes so long has failed.
const SILENCE_NS: u64 = 2_000_000_000;

/// Records that one look walks over per cursor, so that a turn stays short after control came back to a full ring. A turn
/// adds at most one record, so the walk always catches up.
const WALK_MAX: usize = 64;

/// What the log says, looked at once per turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Sample {
    /// Every record that ends at or before this position was written.
    pub written: u64,
    /// Every record that ends at or before this position is stable. Never above `written`.
    pub stable: u64,
    /// Bytes that the next record may have.
    pub room: usize,
    /// Less than a quarter of the ring is free.
    pub scarce: bool,
    /// Why nothing is to be recorded now, if so.
    pub refuses: Option<Reason>,
}

/// A worker's hand on its ring.
#[derive(Debug)]
pub struct TapWriter {
    ring: Mapping,
    cursors: Mapping,
    shape: Shape,
    /// Where the last record ends; what is published.
    head: u64,
    /// Where the record that was begun starts, and how many bytes it may have.
    begun: Option<(u64, u64)>,
    /// The worker looks no more at what lies before this position, so that its memory is free.
    released: u64,
    written: u64,
    stable: u64,
    beat: u64,
    /// Tick at which the beat last changed, or nobody was expected to beat.
    beat_at_ns: u64,
    /// Times that control's connection ended, as housekeeping counts them.
    hangups: Arc<AtomicU64>,
    hangups_seen: u64,
    /// Control's connection ended, and nothing was heard since.
    gone: bool,
}

impl TapWriter {
    pub(super) const fn new(ring: Mapping, cursors: Mapping, bytes: u64, hangups: Arc<AtomicU64>) -> Self {
        Self {
            ring,
            cursors,
            shape: Shape { bytes },
            head: 0,
            begun: None,
            released: 0,
            written: 0,
            stable: 0,
            beat: 0,
            beat_at_ns: 0,
            hangups,
            hangups_seen: 0,
            gone: false,
        }
    }

    /// Looks at what the log says. Whatever stands in the cursors, positions never go back, never pass the last record, and
    /// are ends of records.
    #[inline]
    pub fn sample(&mut self, now_ns: u64) -> Sample {
        let words = self.cursors.words();
        let stable = Position(&words[STABLE]).look();
        let written = Position(&words[WRITTEN]).look().max(stable); // what is stable was written
        let (state, beat) = (words[STATE].load(Ordering::Relaxed), words[BEAT].load(Ordering::Relaxed));
        self.written = self.walk(self.written, written);
        self.stable = self.walk(self.stable, stable.min(self.written));
        Sample {
            written: self.written,
            stable: self.stable,
            room: to_usize(self.shape.room(self.head, self.released)),
            scarce: self.shape.free(self.head, self.released) < self.shape.bytes / 4,
            refuses: self.refusal(now_ns, state, beat),
        }
    }

    /// The last end of a record at or before `to`, from the end `from` on.
    #[inline]
    fn walk(&self, from: u64, to: u64) -> u64 {
        if to >= self.head {
            return self.head; // so the usual case, a log that keeps up, takes no walk
        }
        let mut reached = from;
        for _ in 0..WALK_MAX {
            match self.behind(reached) {
                Some((start, bytes)) if start + bytes <= to => reached = start + bytes,
                _ => break,
            }
        }
        reached
    }

    #[inline]
    fn refusal(&mut self, now_ns: u64, state: u64, beat: u64) -> Option<Reason> {
        if beat != self.beat {
            (self.beat, self.beat_at_ns, self.gone) = (beat, now_ns, false);
        }
        let hangups = self.hangups.load(Ordering::Relaxed);
        if hangups != self.hangups_seen {
            (self.hangups_seen, self.gone) = (hangups, true);
        }
        if self.gone {
            return Some(Reason::PersistUnavailable);
        }
        if state == STATE_RUNNING {
            return (now_ns.saturating_sub(self.beat_at_ns) >= SILENCE_NS).then_some(Reason::PersistTimeout);
        }
        self.beat_at_ns = now_ns; // nobody has to beat
        let named = state.checked_sub(STATE_REFUSES).and_then(|number| Reason::from_number(u8::try_from(number).ok()?));
        Some(named.filter(|reason| reason.is_of_log()).unwrap_or(Reason::PersistUnavailable))
    }

    /// The first record behind a position that is an end: where it starts, and its bytes.
    #[inline]
    fn behind(&self, position: u64) -> Option<(u64, u64)> {
        if position >= self.head || position < self.released || !position.is_multiple_of(ALIGN as u64) {
            return None;
        }
        match self.head_at(position) {
            Head::Record(bytes) => self.whole(position, bytes),
            Head::Skip(bytes) if position + bytes < self.head => match self.head_at(position + bytes) {
                Head::Record(of) => self.whole(position + bytes, of),
                _ => None,
            },
            _ => None,
        }
    }

    /// A record at `start`, if it is one that was committed: which is so for every end, and decided here for every number.
    #[inline]
    fn whole(&self, start: u64, bytes: u64) -> Option<(u64, u64)> {
        (bytes > 0 && bytes <= self.shape.to_end(start).min(self.head - start)).then_some((start, bytes))
    }

    #[inline]
    fn head_at(&self, position: u64) -> Head {
        Head::read(self.ring.words()[self.word(position)].load(Ordering::Relaxed))
    }

    /// The word in which a position lies.
    #[inline]
    fn word(&self, position: u64) -> usize {
        DATA + to_usize(self.shape.offset(position)) / WORD
    }

    /// Room for a record of up to `bytes_max`, rounded up to whole words; `None` where there is not so much. Called
    /// again with the same size before the commit it is the same memory, as it was left.
    #[inline]
    pub fn begin(&mut self, bytes_max: usize) -> Option<&mut [u8]> {
        self.begun = None;
        let bytes = (bytes_max.checked_next_multiple_of(ALIGN)?.max(ALIGN)) as u64;
        let start = self.shape.start(self.head, self.released, bytes)?;
        self.begun = Some((start, bytes));
        let first = self.word(start) * WORD;
        // SAFETY: no other process can write the ring: its file was sealed against that before anybody else had it. In this
        // one only this value has the mapping that can, and `&mut self` keeps other slices of it away.
        Some(unsafe { self.ring.bytes_mut(first..first + to_usize(bytes)) })
    }

    /// Hands over the record that was begun last, of which `bytes` were filled, a multiple of 8; returns the position of its
    /// end. The record's own length is set to that, because it is what both sides walk by. Without a record that was begun, or for
    /// more bytes than it may have, nothing is handed over.
    #[inline]
    pub fn commit(&mut self, bytes: usize) -> u64 {
        let Some((start, bytes_max)) = self.begun.take() else { return self.head };
        let bytes = bytes as u64;
        let fits = bytes > 0 && bytes <= bytes_max && bytes.is_multiple_of(ALIGN as u64);
        debug_assert!(fits, "{bytes} bytes committed, {bytes_max} begun");
        if !fits {
            return self.head;
        }
        self.set_length(start, bytes);
        if start != self.head {
            self.ring.words()[self.word(self.head)].store(Head::skip(start - self.head), Ordering::Relaxed);
        }
        self.head = start + bytes;
        Position(&self.ring.words()[HEAD]).publish(self.head);
        self.head
    }

    #[inline]
    fn set_length(&self, start: u64, bytes: u64) {
        let word = &self.ring.words()[self.word(start)];
        let before = word.load(Ordering::Relaxed);
        debug_assert_eq!(before.to_ne_bytes()[4], KIND_TURN, "a record says that it is one");
        word.store(Head::with_length(before, bytes), Ordering::Relaxed);
    }

    /// The first record that ends behind `position`, which is 0 or the end of one, and its end; `None` if nothing was committed
    /// since, or for what was released.
    #[inline]
    #[must_use]
    pub fn record(&self, position: u64) -> Option<(&[u8], u64)> {
        let (start, bytes) = self.behind(position)?;
        let first = self.word(start) * WORD;
        // SAFETY: nobody else writes the ring (see `begin`); this value only does so by `&mut self`.
        let record = unsafe { self.ring.bytes_of(first..first + to_usize(bytes)) };
        Some((record, start + bytes))
    }

    /// The worker looks no more at records that end at or before this position: their memory is free. What is not stable stays.
    #[inline]
    pub fn release(&mut self, position: u64) {
        self.released = self.released.max(position.min(self.stable));
    }
}

/// Of offsets in the ring, which was mapped, so that they fit.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "the ring was mapped, so its offsets are of the machine's size")]
const fn to_usize(offset: u64) -> usize {
    offset as usize
}
