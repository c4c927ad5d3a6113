//! Forgetting: the oldest segments are removed by size and age. A signed tombstone in the log says for each what it came to,
//! so that chain and tree still hold without it; the leaf hashes stay, so that old checkpoints can still be proved.

use crate::{
    appender::Appender,
    damage::{Damage, Error, Fault},
    format::{BLOCK, SegmentHeader, segment_name, segment_of},
    note::Signer,
    record::{self, Tombstone},
    storage::{FileId, Storage},
};

/// How much is kept.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Bytes of all segments together; the one that is being filled is never removed.
    pub bytes_max: u64,
    /// Segments whose records are all older than this tick are removed.
    pub oldest_tick: u64,
}

/// A segment that is removed once its tombstone is durable.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Removal {
    first_sequence: u64,
    tombstone: u64,
}

impl<S: Storage> Appender<S> {
    /// Buries what is beyond the limits, also while the disk is full: tombstones are appended and committed now, the files go once those are durable.
    /// `unix_ns` is the time of day in nanoseconds. Returns how many segments are buried.
    ///
    /// # Errors
    ///
    /// As [`Self::append`], or when a segment's header cannot be read.
    pub fn retain(&mut self, now: u64, unix_ns: u64, limits: &Limits, signer: &Signer) -> Result<usize, Error> {
        self.bury(now, unix_ns, limits.bytes_max, |next| next.tick <= limits.oldest_tick, signer)
    }

    /// The same, where the caller knows by another clock which segments are too old, because ticks of different boots do
    /// not compare: those that end at or before the sequence `aged_end`.
    ///
    /// # Errors
    ///
    /// As [`Self::retain`].
    pub fn retain_from(
        &mut self,
        now: u64,
        unix_ns: u64,
        bytes_max: u64,
        aged_end: u64,
        signer: &Signer,
    ) -> Result<usize, Error> {
        self.bury(now, unix_ns, bytes_max, |next| next.first_sequence <= aged_end, signer)
    }

    /// `is_aged` is asked with the header of the segment behind the one that may be too old.
    fn bury(
        &mut self,
        now: u64,
        unix_ns: u64,
        bytes_max: u64,
        is_aged: impl Fn(&SegmentHeader) -> bool,
        signer: &Signer,
    ) -> Result<usize, Error> {
        let names = self.storage.names().map_err(Error::storage("list the log's folder"))?;
        let mut segments: Vec<u64> = names.iter().filter_map(|name| segment_of(name)).collect();
        segments.sort_unstable();
        let mut headers = Vec::with_capacity(segments.len());
        for first in &segments {
            headers.push(header(&mut self.storage, *first)?);
        }
        let mut bytes: u64 = headers.iter().map(|header| header.segment_bytes).sum();
        let mut buried = 0;
        for pair in headers.windows(2) {
            let [old, next] = pair else { break };
            let why = match () {
                () if bytes > bytes_max => record::Removal::Size,
                () if is_aged(next) => record::Removal::Age,
                () => break,
            };
            if next.first_sequence > self.active_segment() || next.first_sequence > self.progress().durable {
                break;
            }
            bytes -= old.segment_bytes;
            if self.removals.iter().any(|removal| removal.first_sequence == old.first_sequence) {
                continue;
            }
            let tombstone = self.queue_record(now, &tombstone(old, next, unix_ns, why).sign(&self.log_id, signer))?;
            self.removals.push(Removal { first_sequence: old.first_sequence, tombstone });
            buried += 1;
        }
        self.commit(now, true);
        Ok(buried)
    }

    /// Removes the segments whose tombstones are durable, oldest first.
    pub(crate) fn remove_buried(&mut self) -> Result<(), Error> {
        let durable = self.progress().durable;
        let count = self.removals.iter().take_while(|removal| removal.tombstone < durable).count();
        for removal in self.removals.drain(..count) {
            let name = segment_name(removal.first_sequence);
            self.storage.remove(&name).map_err(Error::storage(format!("remove {name}, which is buried")))?;
            // One by one, so that a crash leaves no hole.
            self.storage.sync_folder().map_err(Error::storage("sync the log's folder"))?;
        }
        Ok(())
    }
}

fn tombstone(old: &SegmentHeader, next: &SegmentHeader, unix_ns: u64, why: record::Removal) -> Tombstone {
    Tombstone {
        first: old.first_sequence.into(),
        end: next.first_sequence.into(),
        end_commit: next.first_commit.into(),
        chain: next.previous,
        root: next.root,
        unix_ns: unix_ns.into(),
        why: why as u8,
        reserved: [0; 7],
    }
}

fn header<S: Storage>(storage: &mut S, first: u64) -> Result<SegmentHeader, Error> {
    let name = segment_name(first);
    let file: FileId = storage.open(&name).map_err(Error::storage(format!("open {name}")))?;
    let mut block = [0; BLOCK];
    let read = storage.read(file, 0, &mut block);
    storage.close(file);
    read.map_err(Error::storage(format!("read {name}")))?;
    let damage = Damage { file: name, offset: 0, fault: Fault::SegmentHeader };
    SegmentHeader::parse(&block).ok_or(Error::Damaged(damage))
}
