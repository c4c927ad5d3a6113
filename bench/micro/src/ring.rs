//! A truth log that has everything at once: what telling it costs a worker, without what writing costs anybody else.

use tachyon_engine::{Log, Tap};

/// Bytes of the ring: what a node file has by default.
const RING_BYTES: usize = 16 << 20;

/// The ring, or none.
#[derive(Debug)]
pub struct Ring {
    bytes: Vec<u8>,
    /// Where the next record starts.
    at: usize,
    /// Position of the end of the last record, and of what was settled.
    head: u64,
    /// Ends of the records that may still be read, each with where it starts and how long it is.
    records: std::collections::VecDeque<(u64, usize, usize)>,
}

impl Ring {
    /// No log, or one with a ring of 16 MiB.
    pub fn new(there: bool) -> Self {
        let bytes = vec![0; if there { RING_BYTES } else { 0 }];
        Self { bytes, at: 0, head: 0, records: std::collections::VecDeque::with_capacity(1 << 12) }
    }
}

impl Tap for Ring {
    #[inline]
    fn is_there(&self) -> bool {
        !self.bytes.is_empty()
    }

    /// All that was told before this turn is stable.
    #[inline]
    fn sample(&mut self, _now_ns: u64) -> Log {
        Log { written: self.head, stable: self.head, room: RING_BYTES / 2, scarce: false, refuses: None }
    }

    #[inline]
    fn begin(&mut self, bytes_max: usize) -> Option<&mut [u8]> {
        if self.at + bytes_max > self.bytes.len() {
            self.at = 0;
        }
        self.bytes.get_mut(self.at..self.at + bytes_max)
    }

    #[inline]
    fn commit(&mut self, bytes: usize) -> u64 {
        self.head += bytes as u64;
        self.records.push_back((self.head, self.at, bytes));
        self.at += bytes;
        self.head
    }

    #[inline]
    fn record(&self, position: u64) -> Option<(&[u8], u64)> {
        let (end, at, bytes) = *self.records.iter().find(|(end, ..)| *end > position)?;
        Some((self.bytes.get(at..at + bytes)?, end))
    }

    #[inline]
    fn release(&mut self, position: u64) {
        while self.records.front().is_some_and(|(end, ..)| *end <= position) {
            self.records.pop_front();
        }
    }
}
