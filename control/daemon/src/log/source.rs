//! Where turns come from: a worker's tap, in memory that `tachyond` shares with us.

use tachyon_segment::{TapReader, TapState};
use tachyon_wire::{Reason, tap::Item};

/// One worker's tap. Positions count the bytes of its ring from the beginning and only rise.
pub(crate) trait Source: Send + 'static {
    /// The worker.
    fn worker(&self) -> u16;

    /// Its shards that are recorded.
    fn shards(&self) -> &[u16];

    /// Copies the next turn record in place of what `record` held; the position of its end, or `None` if there is none yet.
    ///
    /// # Errors
    /// What lies there is no record; nothing behind it can be read.
    fn next(&mut self, record: &mut Vec<u8>) -> Result<Option<u64>, String>;

    /// Copies a whole frame of an item of a record that was read and is not stable.
    ///
    /// # Errors
    /// The item names bytes that are not there.
    fn frame(&self, item: &Item, index: usize, bytes: &mut Vec<u8>) -> Result<(), String>;

    /// Goes back to the first record that is not stable.
    fn rewind(&mut self);

    /// Says up to where records are written, and up to where they are as stable as they ask for.
    fn tell(&self, written: u64, stable: u64);

    /// Says that records are taken, or why they are not. Counts as a beat.
    fn set_state(&self, refuses: Option<Reason>);

    /// Says that nobody writes the log any more.
    fn leave(&self);

    /// Bytes of the ring, and how many of them are taken.
    fn fill(&self) -> (u64, u64);
}

impl Source for TapReader {
    fn worker(&self) -> u16 {
        self.answer().worker
    }

    fn shards(&self) -> &[u16] {
        &self.answer().shards
    }

    fn next(&mut self, record: &mut Vec<u8>) -> Result<Option<u64>, String> {
        Self::next(self, record).map_err(|error| error.to_string())
    }

    fn frame(&self, item: &Item, index: usize, bytes: &mut Vec<u8>) -> Result<(), String> {
        Self::frame(self, item, index, bytes).map_err(|error| error.to_string())
    }

    fn rewind(&mut self) {
        Self::rewind(self);
    }

    fn tell(&self, written: u64, stable: u64) {
        // In this order, so that nobody ever sees more stable than written.
        self.set_written(written);
        self.set_stable(stable);
    }

    fn set_state(&self, refuses: Option<Reason>) {
        Self::set_state(self, refuses.map_or(TapState::Running, TapState::Refuses));
    }

    fn leave(&self) {
        Self::set_state(self, TapState::Absent);
    }

    fn fill(&self) -> (u64, u64) {
        (self.answer().ring_bytes, self.taken_bytes())
    }
}
