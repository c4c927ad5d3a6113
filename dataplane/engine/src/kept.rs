//! What waits for the truth log: buffers whose frames it has not written yet, and what acks may not say before.

use crate::{
    record,
    tap::{Log, Tap},
    window::WINDOW,
};
use tachyon_driver_api::{Buffer, Pool, Received};
use tachyon_wire::{
    Reason,
    command::Command,
    tap::{self, FRAME_WHOLE, FramePart, Item, Part, Parts, Setup},
};

const WORDS: usize = WINDOW as usize / 64;

/// A buffer that stays until the log has what it holds.
#[derive(Debug)]
pub struct Held {
    buffer: Buffer,
    /// Where in the ring the record ends that speaks of it; the end of all positions until that is known.
    end: u64,
}

/// Frames of one window that were accepted and are not yet written, or not yet stable. Frame `id` is bit `id % 64` of word
/// `id / 64 % 16`.
#[derive(Clone, Copy, Debug)]
pub struct Pending {
    epoch: u32,
    /// Highest frame noted.
    top: u32,
    unwritten: [u64; WORDS],
    unstable: [u64; WORDS],
}

impl Pending {
    /// Nothing.
    pub const NONE: Self = Self { epoch: 0, top: 0, unwritten: [0; WORDS], unstable: [0; WORDS] };

    /// Notes a frame of which the log takes something.
    pub(crate) fn note(&mut self, epoch: u32, id: u32, durable: bool) {
        if epoch != self.epoch {
            *self = Self { epoch, ..Self::NONE };
        }
        if id > self.top {
            if id - self.top >= WINDOW {
                (self.unwritten, self.unstable) = ([0; WORDS], [0; WORDS]);
            } else {
                (self.top + 1..=id).for_each(|gone| self.clear(gone, true));
            }
            self.top = id;
        }
        let (word, bit) = place(id);
        self.unwritten[word] |= bit;
        self.unstable[word] |= if durable { bit } else { 0 };
    }

    /// Notes that everything up to `top` is where it has to be, so that acks say so of an epoch of before a restart.
    pub(crate) fn restore(&mut self, epoch: u32, top: u32) {
        if !self.knows(epoch) {
            *self = Self { epoch, top, ..Self::NONE };
        }
    }

    fn clear(&mut self, id: u32, stable: bool) {
        let (word, bit) = place(id);
        self.unwritten[word] &= !bit;
        self.unstable[word] &= if stable { !bit } else { u64::MAX };
    }

    /// A frame is written, or stable. If it left the window meanwhile its place is another's.
    pub(crate) fn settle(&mut self, epoch: u32, id: u32, stable: bool) {
        if epoch == self.epoch && self.top.checked_sub(id).is_some_and(|behind| behind < WINDOW) {
            self.clear(id, stable);
        }
    }

    /// Whether anything was noted under this epoch, so that the log has something to say of it.
    pub(crate) fn knows(&self, epoch: u32) -> bool {
        self.top > 0 && self.epoch == epoch
    }

    /// Whether a frame waits to be written, or, if `stable`, to be stable.
    pub(crate) fn waits(&self, id: u32, stable: bool) -> bool {
        let (word, bit) = place(id);
        let frames = if stable { &self.unstable } else { &self.unwritten };
        self.top.checked_sub(id).is_some_and(|behind| behind < WINDOW) && frames[word] & bit != 0
    }

    /// The lowest frame that waits, if one does.
    pub(crate) fn first(&self, stable: bool) -> Option<u32> {
        let frames = if stable { &self.unstable } else { &self.unwritten };
        if frames.iter().all(|word| *word == 0) {
            return None;
        }
        (self.top.saturating_sub(WINDOW - 1)..=self.top).find(|id| self.waits(*id, stable))
    }
}

#[inline]
const fn place(id: u32) -> (usize, u64) {
    ((id % WINDOW / 64) as usize, 1 << (id % 64))
}

/// What the log takes in this turn.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Intake {
    /// The turn is one that should be recorded.
    pub(crate) ought: bool,
    /// All that is for it, which is the usual case.
    pub(crate) all: bool,
    /// There is room for a record, of so many bytes.
    pub(crate) recorded: bool,
    pub(crate) bytes: usize,
    /// It is running short of room, so only topics with that policy may go on.
    pub(crate) scarce: bool,
    /// Why it takes no durable messages.
    pub(crate) refuses: Option<Reason>,
}

impl Intake {
    /// Nothing.
    pub(crate) const NONE: Self = Self {
        ought: false,
        all: false,
        recorded: false,
        bytes: 0,
        scarce: true,
        refuses: Some(Reason::PersistUnavailable),
    };

    /// The reason for what is not taken: the log's own, or that it does not keep up.
    pub(crate) fn reason(&self) -> Reason {
        self.refuses.unwrap_or(Reason::PersistTimeout)
    }
}

/// What waits for the log, and how far it is.
#[derive(Debug)]
pub(crate) struct Kept<'a> {
    /// Held buffers, in the order of their records: a ring of `count` from `first` on.
    held: &'a mut [Option<Held>],
    first: usize,
    count: usize,
    /// Of those, how many have been looked at because they were written.
    written_past: usize,
    /// By window; empty where there is no log.
    pub(crate) pending: &'a mut [Pending],
    /// Records up to these positions have been settled.
    pub(crate) written: u64,
    pub(crate) stable: u64,
    /// The last turn that was settled as stable.
    pub(crate) stable_turn: u64,
    /// What the log said last.
    pub(crate) log: Log,
    /// The last turn that was recorded, or should have been.
    pub(crate) turn: u64,
    /// Recorded shards, a bit each.
    pub(crate) shards: u64,
    /// All that the recorded shards did is in records.
    pub(crate) since_boot: bool,
    /// Shards that had a frame, a bit each.
    pub(crate) touched: u64,
    /// What the worker was started with: the first thing that the log is told.
    setup: Setup,
}

impl<'a> Kept<'a> {
    pub(crate) fn new(held: &'a mut [Option<Held>], pending: &'a mut [Pending], setup: Setup) -> Self {
        Self {
            held,
            first: 0,
            count: 0,
            written_past: 0,
            pending,
            written: 0,
            stable: 0,
            stable_turn: 0,
            log: Log::default(),
            turn: 0,
            shards: 0,
            since_boot: true,
            touched: 0,
            setup,
        }
    }

    /// A window starts anew: what the log has of the session that had it before says nothing of the next one's frames, which
    /// have the same numbers.
    pub(crate) fn forget(&mut self, window: usize) {
        if let Some(pending) = self.pending.get_mut(window) {
            *pending = Pending::NONE;
        }
    }

    /// What the worker was started with, in the turn whose record says so: the first.
    pub(crate) fn setup_of_turn(&self) -> Option<&Setup> {
        (self.turn == 1).then_some(&self.setup)
    }

    /// Decides whether a turn is recorded, and what the log takes of it.
    pub(crate) fn begin_turn(
        &mut self,
        tap: &mut impl Tap,
        busy: bool,
        received: &[Received],
        commands: &[Command],
    ) -> Intake {
        let ought = !commands.is_empty() || (busy && self.shards != 0);
        let refuses = self.log.refuses;
        if !tap.is_there() {
            return Intake { refuses: refuses.or(Intake::NONE.refuses), ..Intake::NONE };
        }
        // Also of turns that nobody records: a shard that is recorded later did not begin with its first record then.
        self.touched = received.iter().fold(self.touched, |touched, item| touched | 1 << (item.shard % 64));
        if !ought {
            return Intake { refuses: refuses.or(Intake::NONE.refuses), ..Intake::NONE };
        }
        self.turn += 1;
        let items = received.iter().filter(|item| self.shards >> (item.shard % 64) & 1 != 0);
        let most = |(buffers, bytes), item: &Received| (buffers + 1, bytes + record::bytes_max(item));
        let (buffers, bytes) = items.fold((0, 0), most);
        let bytes = bytes + tap::TURN_BYTES + (1 + commands.len()) * record::COMMAND_BYTES_MAX;
        let recorded = self.room() >= buffers && self.log.room >= bytes && tap.begin(bytes).is_some();
        let scarce = self.log.scarce || self.room().saturating_sub(buffers) < self.held.len() / 4;
        Intake { ought, all: recorded && !scarce && refuses.is_none(), recorded, bytes, scarce, refuses }
    }

    /// From now on these shards are recorded too.
    pub(crate) fn record_shards(&mut self, shards: u64) {
        let new = shards & !self.shards;
        self.since_boot &= new & self.touched == 0;
        self.shards |= new;
    }

    /// Buffers that wait.
    pub(crate) fn held(&self) -> usize {
        self.count
    }

    /// Buffers that may wait beside those that do.
    pub(crate) fn room(&self) -> usize {
        self.held.len() - self.count
    }

    fn around(&self, index: usize) -> usize {
        let at = self.first + index;
        if at < self.held.len() { at } else { at - self.held.len() }
    }

    /// Keeps a buffer; its record's end is told by [`Kept::end`]. Gives it back if there is no room.
    pub(crate) fn hold(&mut self, buffer: Buffer) -> Result<(), Buffer> {
        if self.room() == 0 {
            return Err(buffer);
        }
        let at = self.around(self.count);
        self.held[at] = Some(Held { buffer, end: u64::MAX });
        self.count += 1;
        Ok(())
    }

    /// The record of the last `held` buffers ends here.
    pub(crate) fn end(&mut self, held: usize, end: u64) {
        for index in self.count - held.min(self.count)..self.count {
            let at = self.around(index);
            if let Some(held) = &mut self.held[at] {
                held.end = end;
            }
        }
    }

    /// Gives back the buffers of the record that was never handed over.
    pub(crate) fn abandon(&mut self, pool: &mut Pool) {
        while self.count > 0 {
            let at = self.around(self.count - 1);
            if self.held[at].as_ref().is_some_and(|held| held.end != u64::MAX) {
                return;
            }
            if let Some(held) = self.held[at].take() {
                pool.put(held.buffer);
            }
            self.count -= 1;
        }
    }

    /// The bytes of a buffer that waits, counted from the oldest.
    pub(crate) fn bytes(&self, index: usize) -> Option<&[u8]> {
        let held = self.held.get(self.around(index))?.as_ref().filter(|_| index < self.count)?;
        Some(held.buffer.bytes())
    }

    /// Goes on behind a record that is written.
    pub(crate) fn passed_written(&mut self, end: u64, buffers: usize) {
        self.written = end;
        self.written_past += buffers;
    }

    /// How many of the oldest buffers were looked at when they were written.
    pub(crate) fn written_past(&self) -> usize {
        self.written_past
    }

    /// Goes on behind a record that is stable: its buffers are free.
    pub(crate) fn passed_stable(&mut self, turn: u64, end: u64, pool: &mut Pool) {
        (self.stable, self.stable_turn) = (end, turn);
        while self.count > 0 && self.held[self.first].as_ref().is_none_or(|held| held.end <= end) {
            if let Some(held) = self.held[self.first].take() {
                pool.put(held.buffer);
            }
            self.first = self.around(1);
            self.count -= 1;
            self.written_past = self.written_past.saturating_sub(1);
        }
    }
}

/// A frame of a record whose bytes are in a buffer.
pub(crate) struct Whole<'r> {
    pub(crate) item: &'r Item,
    pub(crate) part: FramePart<'r>,
    /// How many buffers of this record were before its.
    pub(crate) buffer: usize,
    /// Where it is in its buffer.
    pub(crate) start: usize,
    pub(crate) end: usize,
}

/// The frames of a record whose bytes are in buffers. A buffer was kept for each item with at least one of them, in order.
pub(crate) struct Wholes<'r> {
    parts: Parts<'r>,
    item: Option<&'r Item>,
    /// Frames of the item so far.
    frames: usize,
    /// Buffers so far, and whether the item's is among them.
    pub(crate) buffers: usize,
    counted: bool,
}

impl<'r> Wholes<'r> {
    pub(crate) fn new(parts: Parts<'r>) -> Self {
        Self { parts, item: None, frames: 0, buffers: 0, counted: false }
    }
}

impl<'r> Iterator for Wholes<'r> {
    type Item = Whole<'r>;

    fn next(&mut self) -> Option<Whole<'r>> {
        loop {
            match self.parts.next()? {
                Part::Command(..) => {}
                Part::Item(item) => (self.item, self.frames, self.counted) = (Some(item), 0, false),
                Part::Frame(part) => {
                    let index = self.frames;
                    self.frames += 1;
                    let Some(item) = self.item.filter(|_| part.entry.form == FRAME_WHOLE) else { continue };
                    if !core::mem::replace(&mut self.counted, true) {
                        self.buffers += 1;
                    }
                    let (offset, stride) = (item.offset.get() as usize, item.stride.get() as usize);
                    let last = offset + item.length.get() as usize;
                    let start = offset + index * stride;
                    return Some(Whole { item, part, buffer: self.buffers - 1, start, end: last.min(start + stride) });
                }
            }
        }
    }
}
