//! One shard on its way from the log to the stream: what was read and is not acknowledged yet.

use crate::{
    accepts::{Accepts, Judged},
    event::{Event, Grain, Place, events},
    follow::{Follower, Mark, Step, Trouble},
    positions::{ClockAt, Position},
};
use std::{
    collections::VecDeque,
    path::{Path, PathBuf},
};
use tachyon_log::{Record, record::Clock};

/// An event with what has to be known of the log when it is acknowledged.
#[derive(Clone, Debug)]
pub struct Ready {
    /// The event.
    pub event: Event,
    /// The clock that holds there.
    pub clock: Option<ClockAt>,
    /// The commit after which it was ready.
    pub mark: Mark,
}

impl Ready {
    /// When the frame was received, in Unix nanoseconds.
    #[must_use]
    pub fn unix_ns(&self) -> Option<u64> {
        let clock = self.clock?;
        let since = i128::from(self.event.tick) - i128::from(clock.tick);
        u64::try_from(i128::from(clock.unix_ns) + since).ok()
    }
}

/// One shard.
#[derive(Debug)]
pub struct Shard<A> {
    number: u16,
    folder: PathBuf,
    grain: Grain,
    make_accepts: fn() -> A,
    accepts: A,
    follower: Follower,
    clock: Option<ClockAt>,
    /// Up to here everything is acknowledged; what is read again of it is passed over.
    floor: Option<Place>,
    /// What comes next, all behind the floor and behind what was taken from here.
    queue: VecDeque<Ready>,
    judged: Vec<Judged>,
    /// Records that were removed before they were exported.
    records_missed: u64,
    /// Frames that were left out because the log has no decisions about them, and the record behind the last of them.
    undecided: u64,
    undecided_to: u64,
    /// The record behind the last that was read.
    read_to: u64,
    idle: bool,
}

impl<A: Accepts> Shard<A> {
    /// The shard whose log is in this folder, from its position on.
    #[must_use]
    pub fn new(folder: &Path, number: u16, grain: Grain, make_accepts: fn() -> A, position: Option<&Position>) -> Self {
        // Read from the stored place on, even if the stream is further, because the stored clock holds there.
        let from = position.map_or(0, |position| position.place.record);
        let (log_id, mark) = (position.map(|position| position.log_id), position.and_then(|position| position.mark));
        Self {
            number,
            folder: folder.to_owned(),
            grain,
            make_accepts,
            accepts: make_accepts(),
            follower: Follower::new(folder, number, from, log_id, mark),
            clock: position.and_then(|position| position.clock),
            floor: position.map(|position| position.place),
            queue: VecDeque::new(),
            judged: Vec::new(),
            records_missed: 0,
            undecided: 0,
            undecided_to: 0,
            read_to: from,
            idle: false,
        }
    }

    /// Its number.
    #[must_use]
    pub const fn number(&self) -> u16 {
        self.number
    }

    /// The log's random number, once it is known.
    #[must_use]
    pub const fn log_id(&self) -> Option<[u8; 16]> {
        self.follower.log_id()
    }

    /// Says which log it has to be.
    ///
    /// # Errors
    ///
    /// When it is known to be another.
    pub fn expect_log(&mut self, log_id: [u8; 16]) -> Result<(), Trouble> {
        self.follower.expect_log(log_id)
    }

    /// Whether the log had nothing more when it was last read. If not, and no event came of it, there is more to read.
    #[must_use]
    pub const fn is_idle(&self) -> bool {
        self.idle
    }

    /// Whether the next event needs no reading.
    #[must_use]
    pub fn has_more(&self) -> bool {
        !self.queue.is_empty()
    }

    /// Records that were removed before they were exported.
    #[must_use]
    pub const fn records_missed(&self) -> u64 {
        self.records_missed
    }

    /// Frames that were left out because the log has no decisions about them.
    #[must_use]
    pub const fn undecided(&self) -> u64 {
        self.undecided
    }

    /// The record behind the last that was read.
    #[must_use]
    pub const fn read_to(&self) -> u64 {
        self.read_to
    }

    /// The next event; nothing if the log has no more for now. Reads at most one commit, and so may say nothing although
    /// there is more: see [`Self::is_at_end`].
    ///
    /// # Errors
    ///
    /// When the log cannot be followed any further. What was before that was given out.
    pub fn take_next(&mut self) -> Result<Option<Ready>, Trouble> {
        for _ in 0..COMMITS_A_TURN {
            if !self.queue.is_empty() || !self.read()? {
                break;
            }
        }
        Ok(self.queue.pop_front())
    }

    /// Whether everything that the log has was given out.
    ///
    /// # Errors
    ///
    /// When the log is not sound where it seems to end.
    pub fn is_at_end(&mut self) -> Result<bool, Trouble> {
        Ok(self.queue.is_empty() && !self.read()? && self.follower.is_sound()?)
    }

    /// Reads the next commit; says whether there was something.
    fn read(&mut self) -> Result<bool, Trouble> {
        let step = self.follower.step()?;
        self.idle = step == Step::Idle;
        let header = match step {
            Step::Idle => return Ok(false),
            Step::Gone { first, end } => {
                let wanted = self.floor.map_or(first, |floor| first.max(floor.record + 1));
                self.records_missed += end.saturating_sub(wanted);
                self.read_to = end;
                // The decisions that frames waited for may be among them.
                self.accepts.pass_over(&mut self.judged);
                return Ok(true);
            }
            Step::Commit(header) => header,
        };
        let mark = Mark { number: header.number, hash: header.hash };
        for record in self.follower.records(&header) {
            if let Some(Record::Clock(clock)) = Record::read(&record) {
                self.clock = Some(clock_at(record.tick, &clock));
            }
            self.accepts.take(&record, self.clock, &mut self.judged);
        }
        self.queue_judged(mark);
        self.read_to = header.first_sequence + u64::from(header.records);
        Ok(true)
    }

    /// Makes events of the frames that were settled by this commit, less what is in the stream.
    fn queue_judged(&mut self, mark: Mark) {
        let mut found = Vec::new();
        for judged in self.judged.drain(..) {
            if judged.accepted.is_none() && judged.record >= self.undecided_to {
                self.undecided += 1;
                self.undecided_to = judged.record + 1;
            }
            events(&judged, self.grain, &mut found);
            let (floor, clock) = (self.floor, judged.clock);
            let new = found.drain(..).filter(|event| floor.is_none_or(|floor| event.place > floor));
            self.queue.extend(new.map(|event| Ready { event, clock, mark }));
        }
    }

    /// Takes back an event that was given out and is not acknowledged. The last one first.
    pub fn give_back(&mut self, ready: Ready) {
        self.queue.push_front(ready);
    }

    /// Everything up to this place is acknowledged.
    pub fn settle(&mut self, place: Place) {
        self.floor = self.floor.max(Some(place));
    }

    /// Goes on behind this position, which the stream knows of; all that was given out came back or is settled.
    pub fn resume(&mut self, position: Option<&Position>) {
        let place = position.map(|position| position.place);
        if place < self.floor {
            let anew = Self::new(&self.folder, self.number, self.grain, self.make_accepts, position);
            let Self { records_missed, undecided, undecided_to, .. } = *self;
            *self = Self { records_missed, undecided, undecided_to, ..anew };
            return;
        }
        self.floor = place;
        while self.queue.front().is_some_and(|ready| Some(ready.event.place) <= place) {
            self.queue.pop_front();
        }
    }
}

/// Commits that are read in one turn where they hold nothing new. Small, because acknowledgements wait meanwhile.
const COMMITS_A_TURN: u32 = 16;

fn clock_at(tick: u64, clock: &Clock) -> ClockAt {
    ClockAt { tick, unix_ns: clock.unix_ns.get() }
}
