//! The truth log as a test wants it: a ring in memory, and a disk that has what the test says.

use std::collections::VecDeque;
use tachyon_engine::{Log, Tap};
use tachyon_wire::Reason;

#[derive(Debug, Default)]
pub(crate) struct TestTap {
    pub(crate) there: bool,
    pub(crate) refuses: Option<Reason>,
    /// Bytes that records may take until they are stable.
    pub(crate) capacity: usize,
    pub(crate) written: u64,
    pub(crate) stable: u64,
    /// Records by their end, all that are not yet stable.
    records: VecDeque<(u64, Vec<u8>)>,
    /// All records there ever were.
    pub(crate) all: Vec<Vec<u8>>,
    head: u64,
    begun: Vec<u8>,
}

impl TestTap {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { there: capacity > 0, capacity, ..Self::default() }
    }

    fn used(&self) -> usize {
        self.records.iter().map(|(_, record)| record.len()).sum()
    }

    /// The disk has everything, written and stable.
    pub(crate) fn sync(&mut self) {
        (self.written, self.stable) = (self.head, self.head);
    }

    /// The disk has one more record written, or stable.
    pub(crate) fn advance(&mut self, stable: bool) {
        let from = if stable { self.stable } else { self.written };
        let next = self.records.iter().map(|(end, _)| *end).find(|end| *end > from).unwrap_or(from);
        if stable {
            self.stable = next.min(self.written);
        } else {
            self.written = next;
        }
    }

    pub(crate) fn head(&self) -> u64 {
        self.head
    }
}

impl Tap for TestTap {
    fn is_there(&self) -> bool {
        self.there
    }

    fn sample(&mut self, _now_ns: u64) -> Log {
        let room = self.capacity.saturating_sub(self.used());
        let (written, stable, refuses) = (self.written, self.stable, self.refuses);
        Log { written, stable, room, scarce: room < self.capacity / 4, refuses }
    }

    fn begin(&mut self, bytes_max: usize) -> Option<&mut [u8]> {
        if self.used() + bytes_max > self.capacity {
            return None;
        }
        self.begun.resize(bytes_max, 0xee);
        Some(&mut self.begun)
    }

    fn commit(&mut self, bytes: usize) -> u64 {
        let record = self.begun[..bytes].to_vec();
        self.head += bytes as u64;
        self.all.push(record.clone());
        self.records.push_back((self.head, record));
        self.begun.clear();
        self.head
    }

    fn record(&self, position: u64) -> Option<(&[u8], u64)> {
        let record = self.records.iter().find(|(end, _)| *end > position)?;
        Some((&record.1, record.0))
    }

    fn release(&mut self, position: u64) {
        assert!(position <= self.stable, "only what is stable is given up");
        while self.records.front().is_some_and(|(end, _)| *end <= position) {
            self.records.pop_front();
        }
    }
}
