//! One worker's turns on their way to the logs of its shards, and back from there: which positions of its ring are written,
//! and which are as stable as they ask for.

use super::source::Source;
use std::collections::VecDeque;
use tachyon_log::{
    record::Gap,
    turn::{Part, Split},
};
use tachyon_wire::Reason;

/// What of a turn a shard's log has to have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Need {
    /// The shard.
    pub(crate) shard: u16,
    /// All records below this sequence.
    pub(crate) sequence: u64,
    /// On stable storage; else written.
    pub(crate) durable: bool,
}

/// A turn whose records are all appended.
#[derive(Debug)]
struct Appended {
    end: u64,
    needs: Vec<Need>,
}

/// A turn that was read and is not in all logs yet.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) split: Split,
    /// Position at which its record ends.
    pub(crate) end: u64,
    /// What was lost before it, until that is written down.
    pub(crate) gap: Option<Gap>,
    /// Parts that are appended whole.
    pub(crate) done: usize,
    pub(crate) needs: Vec<Need>,
}

impl Pending {
    /// The part that is to be appended next.
    pub(crate) fn part(&self) -> Option<&Part> {
        self.split.parts.get(self.done)
    }
}

/// A worker.
pub(crate) struct Worker<T> {
    pub(crate) source: T,
    pub(crate) pending: Option<Pending>,
    appended: VecDeque<Appended>,
    /// How many of `appended`, from the front, are written.
    appended_written: usize,
    written: u64,
    stable: u64,
    /// Number and tick of the newest turn that the logs have, number 0 = none; `None` while that is not known.
    pub(crate) newest: Option<(u64, u64)>,
    /// Turns that the log will never have.
    pub(crate) lost: u64,
    /// Why its ring cannot be read any more.
    pub(crate) broken: Option<String>,
    told: Option<Option<Reason>>,
    /// Memory that is used again.
    pub(crate) record: Vec<u8>,
    pub(crate) frame: Vec<u8>,
}

impl<T: Source> Worker<T> {
    /// A worker of which nothing was read.
    pub(crate) const fn new(source: T) -> Self {
        Self {
            source,
            pending: None,
            appended: VecDeque::new(),
            appended_written: 0,
            written: 0,
            stable: 0,
            newest: None,
            lost: 0,
            broken: None,
            told: None,
            record: Vec::new(),
            frame: Vec::new(),
        }
    }

    /// Notes that a turn is appended whole.
    pub(crate) fn appended(&mut self, pending: Pending) {
        let (turn, tick) = (pending.split.turn.turn.get(), pending.split.turn.tick.get());
        if self.newest.is_none_or(|(newest, _)| turn > newest) {
            self.newest = Some((turn, tick));
        }
        self.appended.push_back(Appended { end: pending.end, needs: pending.needs });
    }

    /// Tells the worker how far its turns are. `progress` gives what a shard has written and made durable; `settled` is told
    /// what is as stable as it asks for. True if that was news.
    pub(crate) fn settle(&mut self, progress: impl Fn(u16) -> (u64, u64), mut settled: impl FnMut(&Need)) -> bool {
        let before = (self.written, self.stable);
        let is_written = |need: &Need| progress(need.shard).0 >= need.sequence;
        while let Some(next) = self.appended.get(self.appended_written).filter(|next| next.needs.iter().all(is_written))
        {
            self.written = next.end;
            self.appended_written += 1;
        }
        let is_stable = |need: &Need| !need.durable || progress(need.shard).1 >= need.sequence;
        while self.appended_written > 0
            && let Some(next) = self.appended.pop_front_if(|next| next.needs.iter().all(is_stable))
        {
            self.stable = next.end;
            self.appended_written -= 1;
            next.needs.iter().for_each(&mut settled);
        }
        let news = (self.written, self.stable) != before;
        if news {
            self.source.tell(self.written, self.stable);
        }
        news
    }

    /// Whether a turn that is not stable has records in this shard's log.
    pub(crate) fn touches(&self, shard: u16) -> bool {
        let pending = self.pending.as_ref().is_some_and(|pending| {
            pending.split.turn.lead_shard.get() == shard || pending.split.parts.iter().any(|part| part.shard == shard)
        });
        pending || self.appended.iter().any(|appended| appended.needs.iter().any(|need| need.shard == shard))
    }

    /// Whether all that is in its ring, as far as it can be read, is appended.
    pub(crate) fn is_read(&self) -> bool {
        let known = self.newest.is_some() || self.source.fill().1 == 0;
        self.broken.is_some() || (known && self.pending.is_none())
    }

    /// Whether all that is appended is as stable as it asks for.
    pub(crate) fn is_settled(&self) -> bool {
        self.appended.is_empty()
    }

    /// Goes back to the first turn that is not stable, because a log lost some of what came behind.
    pub(crate) fn rewind(&mut self) {
        self.pending = None;
        self.appended.clear();
        self.appended_written = 0;
        self.source.rewind();
    }

    /// Says that records are taken, or why they are not. Always a sign of life.
    pub(crate) fn set_state(&mut self, refuses: Option<Reason>) {
        self.told = Some(refuses);
        self.source.set_state(refuses);
    }

    /// What it was told last: `None` before the first time.
    pub(crate) const fn told(&self) -> Option<Option<Reason>> {
        self.told
    }
}
