//! Records one by one, each with bytes of its own, in order: for whoever shows, exports or follows a log.

use crate::{
    cursor::{Cursor, Item},
    damage::{Damage, Error},
    format::{RECORD_ALIGN, RECORD_HEADER, RawRecord},
    storage::Files,
};
use std::collections::VecDeque;

/// A record that holds, with bytes of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Owned {
    /// Its sequence: the index of its leaf.
    pub sequence: u64,
    /// Node's clock in nanoseconds: of a frame, when it was received.
    pub tick: u64,
    /// Its kind's number.
    pub kind: u8,
    /// Header and body: what is hashed into the tree.
    pub leaf: Vec<u8>,
}

impl Owned {
    /// Of the bytes that are hashed into the tree; nothing if they are no record.
    #[must_use]
    pub fn from_leaf(leaf: &[u8]) -> Option<Self> {
        let mut whole = leaf.to_vec();
        whole.resize(leaf.len().next_multiple_of(RECORD_ALIGN), 0);
        RawRecord::parse(&whole).filter(|raw| raw.leaf.len() == leaf.len()).map(|raw| Self::from(&raw))
    }

    /// The record as the log's parser knows it.
    #[must_use]
    pub fn raw(&self) -> RawRecord<'_> {
        let body = self.leaf.get(RECORD_HEADER..).unwrap_or_default();
        RawRecord { sequence: self.sequence, tick: self.tick, kind: self.kind, body, leaf: &self.leaf }
    }
}

impl From<&RawRecord<'_>> for Owned {
    fn from(raw: &RawRecord<'_>) -> Self {
        Self { sequence: raw.sequence, tick: raw.tick, kind: raw.kind, leaf: raw.leaf.to_vec() }
    }
}

/// What comes next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Found {
    /// A record.
    Record(Owned),
    /// Something that does not hold. What comes next lies behind it.
    Damage(Damage),
}

/// Reads the records of one shard's log.
#[derive(Debug)]
pub struct Reader<F> {
    files: F,
    cursor: Cursor,
    from: u64,
    limit: u64,
    ready: VecDeque<Owned>,
}

impl<F: Files> Reader<F> {
    /// Of the log in these files, from this sequence on, or from the first record that is left.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn new(mut files: F, from: u64) -> Result<Self, Error> {
        let cursor = Cursor::new(&mut files, from)?;
        Ok(Self { files, cursor, from, limit: u64::MAX, ready: VecDeque::new() })
    }

    /// Stops before this sequence.
    #[must_use]
    pub fn until(mut self, sequence: u64) -> Self {
        self.cursor = self.cursor.until(sequence);
        self.limit = sequence;
        self
    }

    /// The files that are read.
    pub const fn files(&mut self) -> &mut F {
        &mut self.files
    }

    /// The first sequences of the segments that are known.
    #[must_use]
    pub fn segments(&self) -> &[u64] {
        self.cursor.segments()
    }

    /// The next record, or what is wrong where it should be; nothing at the end of the log.
    ///
    /// # Errors
    ///
    /// When the files cannot be read.
    pub fn read(&mut self) -> Result<Option<Found>, Error> {
        loop {
            if let Some(record) = self.ready.pop_front() {
                return Ok(Some(Found::Record(record)));
            }
            match self.cursor.next(&mut self.files)? {
                None => return Ok(None),
                Some(Item::Segment(_)) => {}
                Some(Item::Damage(damage)) => return Ok(Some(Found::Damage(damage))),
                Some(Item::Commit(commit)) => {
                    let wanted = self.from..self.limit;
                    let records = commit.records().filter(|raw| wanted.contains(&raw.sequence));
                    self.ready.extend(records.map(|raw| Owned::from(&raw)));
                }
            }
        }
    }

    /// Goes on where the log ended, if a writer has written more by now; see [`Cursor::again`].
    ///
    /// # Errors
    ///
    /// When the files cannot be read.
    pub fn again(&mut self) -> Result<bool, Error> {
        Ok(!self.ready.is_empty() || self.cursor.again(&mut self.files)?)
    }
}
