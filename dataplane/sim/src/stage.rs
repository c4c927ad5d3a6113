//! What stands around a replaying worker in the place of device, control and log: a queue, a host and a tap that are told before
//! each turn what was there.

use std::collections::{BTreeMap, VecDeque};
use tachyon_driver_api::{Completion, CompletionBatch, Pool, QueueStats, Received, RxBatch, RxQueue, TxBatch, TxQueue};
use tachyon_engine::{Host, Log, Tap};
use tachyon_policy::Verified;
use tachyon_wire::{
    Endpoint, Message, Reason,
    command::{Command, Demand},
    counters::WorkerStats,
};

/// A buffer that was received.
#[derive(Clone, Debug)]
pub struct Arrived {
    /// Where its first frame starts.
    pub offset: u32,
    /// All its frames, behind each other.
    pub bytes: Vec<u8>,
    /// Bytes from one frame to the next.
    pub stride: u32,
    /// The shard whose port it came to.
    pub shard: u16,
    /// Where it came from.
    pub source: Endpoint,
}

/// A device that hands out what it is told, and is done with everything at once.
#[derive(Debug, Default)]
pub struct Device {
    /// What the next burst is, at most 64.
    pub arrived: Vec<Arrived>,
    /// There was no buffer for something: the pool is smaller than the recorded one.
    pub starved: bool,
    done: VecDeque<Completion>,
}

impl RxQueue for Device {
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        let before = into.len();
        for item in self.arrived.drain(..) {
            let Arrived { offset, bytes, stride, shard, source } = item;
            let start = offset as usize;
            let Some(mut buffer) = pool.get() else {
                self.starved = true;
                continue;
            };
            match buffer.bytes_mut().get_mut(start..start + bytes.len()) {
                Some(place) if !into.is_full() => place.copy_from_slice(&bytes),
                _ => {
                    self.starved = true;
                    pool.put(buffer);
                    continue;
                }
            }
            let len = u32::try_from(bytes.len()).unwrap_or(0);
            into.push(Received { buffer, offset, len, stride, shard, source });
        }
        into.len() - before
    }

    fn wait(&mut self, _ns: u64) {}

    fn stats(&self) -> QueueStats {
        QueueStats::default()
    }

    fn held(&self) -> usize {
        self.done.len()
    }
}

impl TxQueue for Device {
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        let count = from.len();
        self.done.extend(from.drain(..).map(|item| Completion { token: item.token, buffer: item.buffer, error: None }));
        count
    }

    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        let before = into.len();
        while !into.is_full()
            && let Some(done) = self.done.pop_front()
        {
            into.push(done);
        }
        into.len() - before
    }
}

/// Commands and rules as they were.
#[derive(Debug)]
pub struct House {
    /// The rules that the log has, by version.
    pub images: BTreeMap<u64, Verified<Vec<u8>>>,
    /// The version in force; 0 = none.
    pub version: u64,
    /// Why there are none.
    pub refusal: Reason,
    /// The next turn's commands.
    pub commands: VecDeque<Command>,
}

impl Host for House {
    type Image = Vec<u8>;

    fn ruleset(&mut self) -> Result<&Verified<Vec<u8>>, Reason> {
        self.images.get(&self.version).ok_or(self.refusal)
    }

    fn command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn demand(&mut self, _demand: Demand) {}

    fn quarantine(&mut self, _message: &Message, _reason: u8) -> bool {
        true
    }

    fn publish(&mut self, _stats: &WorkerStats, _whole: bool) {}
}

/// A ring whose reader was as far as the record says.
#[derive(Debug, Default)]
pub struct Ring {
    /// Where the record of the last stable turn ends.
    pub stable: u64,
    /// Less than a quarter of ring or buffers was free.
    pub scarce: bool,
    /// Why the log took nothing.
    pub refuses: Option<Reason>,
    /// Buffers that were free.
    pub free_buffers: usize,
    /// The record that the last turn made.
    pub made: Option<Vec<u8>>,
    records: VecDeque<(u64, Vec<u8>)>,
    begun: Vec<u8>,
    head: u64,
}

impl Ring {
    /// Where the record of this turn ends; of one that was released, or is not there, how far all is stable.
    #[must_use]
    pub fn end_of(&self, turn: u64) -> u64 {
        let of = |record: &[u8]| tachyon_log::turn::header(record).map_or(0, |header| header.turn.get());
        let at = self.records.partition_point(|(_, record)| of(record) <= turn);
        at.checked_sub(1).and_then(|at| self.records.get(at)).map_or(self.stable, |(end, _)| *end)
    }
}

impl Tap for Ring {
    fn is_there(&self) -> bool {
        true
    }

    fn free_buffers(&self, _counted: usize) -> usize {
        self.free_buffers
    }

    /// Written is told to be ahead of everything: when it was is not recorded and decides nothing but acks.
    fn sample(&mut self, _now_ns: u64) -> Log {
        let (scarce, refuses) = (self.scarce, self.refuses);
        Log { written: u64::MAX, stable: self.stable, room: usize::MAX, scarce, refuses }
    }

    fn begin(&mut self, bytes_max: usize) -> Option<&mut [u8]> {
        if self.begun.len() < bytes_max {
            self.begun.resize(bytes_max, 0);
        }
        self.begun.get_mut(..bytes_max)
    }

    fn commit(&mut self, bytes: usize) -> u64 {
        let record = self.begun.get(..bytes).unwrap_or_default().to_vec();
        self.head += bytes as u64;
        self.made = Some(record.clone());
        self.records.push_back((self.head, record));
        self.head
    }

    fn record(&self, position: u64) -> Option<(&[u8], u64)> {
        let at = self.records.partition_point(|(end, _)| *end <= position);
        self.records.get(at).map(|(end, record)| (record.as_slice(), *end))
    }

    fn release(&mut self, position: u64) {
        while self.records.front().is_some_and(|(end, _)| *end <= position) {
            self.records.pop_front();
        }
    }
}
