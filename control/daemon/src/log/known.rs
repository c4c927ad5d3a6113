//! What a shard's log has already, told from its last records: so that turns that are read a second time are passed over.

use std::collections::HashMap;
use tachyon_log::{
    Cursor, Error, Files, Record,
    cursor::Item,
    format::RawRecord,
    record::{Clock, Piece},
};
use tachyon_wire::tap::{TURN_BYTES, Turn};
use zerocopy::FromBytes;

/// How far a worker's turns are in a shard's log: all of those before `turn`, and of it so many records.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Place {
    /// Number of the newest turn of which there is anything; 0 = none yet.
    pub(crate) turn: u64,
    /// Its frames that are there.
    pub(crate) frames: usize,
    /// Its records of decisions that are there.
    pub(crate) bodies: usize,
}

/// A ruleset image in the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Image {
    /// BLAKE3 of it: numbers of versions may come again when a registry was lost.
    pub(crate) hash: [u8; 32],
    /// First sequence of the segment in which it ends.
    pub(crate) segment: u64,
}

/// What a shard's log has.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Known {
    /// The start of `tachyond` that the newest records are of.
    pub(crate) boot_id: Option<[u8; 16]>,
    /// By worker, of that start alone.
    pub(crate) places: HashMap<u16, Place>,
    /// By version.
    pub(crate) images: HashMap<u64, Image>,
    /// Tick of the turn behind the newest gap, which names it.
    pub(crate) gap_tick: Option<u64>,
}

impl Known {
    /// Reads a log backwards, segment by segment, until the newest turns and the start that they are of are known. The first
    /// turn in a segment has a clock record before it, so this is mostly the last segment alone.
    ///
    /// # Errors
    /// The files cannot be read, or are damaged there.
    pub(crate) fn read<F: Files>(files: &mut F) -> Result<Self, Error> {
        let segments = Cursor::new(files, 0)?.segments().to_vec();
        for first in segments.iter().rev() {
            let mut walk = Walk::default();
            let mut cursor = Cursor::new(files, *first)?;
            while let Some(item) = cursor.next(files)? {
                match item {
                    Item::Segment(header) => walk.segment = header.first_sequence,
                    Item::Commit(commit) => commit.records().for_each(|record| walk.take(&record)),
                    Item::Damage(damage) => return Err(Error::Damaged(damage)),
                }
            }
            if walk.settled || Some(first) == segments.first() {
                return Ok(walk.known);
            }
        }
        Ok(Self::default())
    }

    /// How far a worker's turns are there.
    pub(crate) fn place(&self, worker: u16) -> Place {
        self.places.get(&worker).copied().unwrap_or_default()
    }

    /// Notes a clock record.
    pub(crate) fn clock(&mut self, clock: &Clock) {
        let other = self.boot_id.is_some_and(|boot_id| boot_id != clock.boot_id);
        if clock.boot != 0 || other {
            self.places.clear();
            self.gap_tick = None;
        }
        self.boot_id = Some(clock.boot_id);
    }
}

/// One pass over the last segments.
#[derive(Default)]
struct Walk {
    known: Known,
    segment: u64,
    /// Whether the pass began early enough: it has seen where the start of `tachyond` begins, or, behind a clock record,
    /// the first record of the newest turn.
    settled: bool,
    /// The image that is read: its version, its length so far, and what was hashed.
    image: Option<(u64, u64, blake3::Hasher)>,
}

impl Walk {
    fn take(&mut self, raw: &RawRecord<'_>) {
        match Record::read(raw) {
            Some(Record::Clock(clock)) => {
                self.known.clock(&clock);
                self.settled |= clock.boot != 0;
            }
            Some(Record::Frame(arrival, _)) => {
                let before = self.known.place(arrival.worker.get()).turn;
                self.reach(arrival.worker.get(), nearest(before, arrival.burst.get())).frames += 1;
            }
            Some(Record::Decisions(body)) => {
                let Some(turn) = body.get(..TURN_BYTES).and_then(|head| Turn::ref_from_bytes(head).ok()) else {
                    return;
                };
                self.reach(turn.worker.get(), turn.turn.get()).bodies += 1;
            }
            Some(Record::Ruleset(piece, bytes)) => self.piece(&piece, bytes),
            Some(Record::Gap(gap)) => self.known.gap_tick = Some(gap.last_tick.get()),
            _ => {}
        }
    }

    /// The place of a worker, at this turn.
    fn reach(&mut self, worker: u16, turn: u64) -> &mut Place {
        let clocked = self.known.boot_id.is_some();
        let place = self.known.places.entry(worker).or_default();
        self.settled |= clocked && turn > place.turn;
        place.reach(turn);
        place
    }

    fn piece(&mut self, piece: &Piece, bytes: &[u8]) {
        if piece.offset.get() == 0 {
            self.image = Some((piece.version.get(), 0, blake3::Hasher::new()));
        }
        let Some((version, length, hasher)) = &mut self.image else { return };
        if *version != piece.version.get() || *length != piece.offset.get() {
            self.image = None;
            return;
        }
        hasher.update(bytes);
        *length += bytes.len() as u64;
        if *length == piece.total_bytes.get() {
            let image = Image { hash: *hasher.finalize().as_bytes(), segment: self.segment };
            self.known.images.insert(*version, image);
            self.image = None;
        }
    }
}

impl Place {
    /// Notes that something of this turn comes.
    pub(crate) fn reach(&mut self, turn: u64) {
        if turn > self.turn {
            *self = Self { turn, ..Self::default() };
        }
    }
}

/// The turn whose low 32 bits these are and that is not before `turn`: numbers only rise, and never by so many at once.
fn nearest(turn: u64, low: u32) -> u64 {
    let low = u64::from(low);
    let near = turn & !u64::from(u32::MAX) | low;
    if near < turn { near + (1 << 32) } else { near }
}
