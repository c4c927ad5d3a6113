//! Frames of a shard's log, and what became of their messages: the two stand in different records, frames first, so that
//! whoever reads a log in order keeps frames back until the decisions about them come.
//!
//! Reading may begin anywhere, behind frames whose decisions are still to come: a turn's decisions say how many frames it has, so
//! those that were not read are counted and never guessed.

use crate::{
    Record,
    format::RawRecord,
    record::Arrival,
    turn::{burst, parts_of},
};
use std::collections::VecDeque;
use tachyon_wire::tap::{self, ENTRY_DURABLE, FRAME_WHOLE, FramePart, HELD, Part};

/// A frame of which nothing more will be known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Settled<T> {
    /// What was kept of it.
    pub kept: T,
    /// For each of its messages 0 if it was accepted, [`HELD`] if it was and waits for the log, or the number of the reason why not.
    /// `None` if the log has no decisions about it, as where a crash took them away.
    pub words: Option<Vec<u8>>,
}

/// A frame that was read. It is settled here too while one before it is not.
#[derive(Debug)]
struct Frame<T> {
    worker: u16,
    burst: u32,
    kept: T,
    /// Whether nothing more will be known of it.
    settled: bool,
    words: Option<Vec<u8>>,
}

/// The turn whose decisions were read last: they may be several records.
#[derive(Clone, Copy, Debug)]
struct Newest {
    worker: u16,
    turn: u64,
    /// Its frames that were not read and that no decision was met for yet.
    unread: usize,
}

/// Frames that wait for decisions, and what is kept of each.
#[derive(Debug)]
pub struct Waiting<T> {
    frames: VecDeque<Frame<T>>,
    boot_id: Option<[u8; 16]>,
    newest: Option<Newest>,
}

impl<T> Default for Waiting<T> {
    fn default() -> Self {
        Self { frames: VecDeque::new(), boot_id: None, newest: None }
    }
}

impl<T> Waiting<T> {
    /// Takes the next record. `keep` gives what is kept of a frame.
    pub fn take(&mut self, record: &RawRecord<'_>, keep: impl FnOnce(&Arrival, &[u8]) -> T) {
        match Record::read(record) {
            Some(Record::Frame(arrival, bytes)) => {
                let (worker, burst, kept) = (arrival.worker.get(), arrival.burst.get(), keep(&arrival, bytes));
                self.frames.push_back(Frame { worker, burst, kept, settled: false, words: None });
            }
            Some(Record::Decisions(body)) => self.decide(body),
            Some(Record::Clock(clock)) => {
                // Turns are numbered anew at each start of the node, and what was not decided before never is.
                if clock.boot != 0 || self.boot_id.is_some_and(|boot_id| boot_id != clock.boot_id) {
                    self.give_up();
                }
                self.boot_id = Some(clock.boot_id);
            }
            _ => {}
        }
    }

    /// The first frame, once nothing more will be known of it: frames come out in the order of their records.
    pub fn settled(&mut self) -> Option<Settled<T>> {
        let frame = self.frames.pop_front_if(|frame| frame.settled)?;
        Some(Settled { kept: frame.kept, words: frame.words })
    }

    /// Whether no frame is here.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.frames.is_empty()
    }

    /// Records were passed over, or none comes any more: what waits stays without decisions.
    pub fn give_up(&mut self) {
        self.newest = None;
        self.frames.iter_mut().for_each(|frame| frame.settled = true);
    }

    fn decide(&mut self, body: &[u8]) {
        let Some((turn, parts)) = tap::read(body) else { return };
        let (worker, number) = (turn.worker.get(), turn.turn.get());
        let burst = burst(number);
        let mut rest = parts.clone();
        let here = rest.by_ref().filter_map(whole).count();
        let waits = |frame: &&mut Frame<T>| frame.worker == worker && !frame.settled;
        let (mut frames, others): (Vec<_>, Vec<_>) =
            self.frames.iter_mut().filter(waits).partition(|frame| frame.burst == burst);
        // The writer ends a turn before it begins the next, so whatever waits of another one was cut off by a crash.
        others.into_iter().for_each(|frame| frame.settled = true);
        if self.newest.is_none_or(|newest| (newest.worker, newest.turn) != (worker, number)) {
            let all = parts_of(body).map_or(here, |said| said.frames.get() as usize);
            // More than it has are not its frames.
            let unread = all.checked_sub(frames.len()).unwrap_or(usize::MAX);
            self.newest = Some(Newest { worker, turn: number, unread });
        }
        let Some(newest) = &mut self.newest else { return };
        if !rest.is_whole() || newest.unread == usize::MAX {
            frames.into_iter().for_each(|frame| frame.settled = true);
            return;
        }
        let passed_over = newest.unread.min(here);
        newest.unread -= passed_over;
        let decisions = parts.filter_map(whole).skip(passed_over);
        for (frame, decision) in frames.iter_mut().zip(decisions) {
            (frame.settled, frame.words) = (true, Some(words(&decision)));
        }
    }
}

/// A frame whose bytes are a record of their own.
fn whole(part: Part<'_>) -> Option<FramePart<'_>> {
    match part {
        Part::Frame(frame) if frame.entry.form == FRAME_WHOLE => Some(frame),
        _ => None,
    }
}

/// A word for each message of a frame.
fn words(frame: &FramePart<'_>) -> Vec<u8> {
    if frame.reasons.is_empty() {
        let word = if frame.entry.flags & ENTRY_DURABLE == 0 { 0 } else { HELD };
        return vec![word; frame.entry.count.get().into()];
    }
    frame.reasons.to_vec()
}
