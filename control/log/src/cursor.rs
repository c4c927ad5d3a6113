//! Reading a log from its files, commit by commit, along the chain. What does not hold is named, and reading goes on behind
//! it wherever the bytes allow that.

use crate::{
    damage::{Damage, Error, Fault, Part},
    format::{
        self, BLOCK, COMMIT_HEADER, CommitHeader, Records, SEGMENT_END, SegmentHeader, Tail, classify, segment_name,
        segment_of, verify_commit,
    },
    storage::{FileId, Files},
};

/// Bytes that are read at once where the place of the next commit is not known.
const SCAN_BYTES: usize = 1 << 20;
/// What is behind the last commit.
static ZEROS: [u8; BLOCK] = [0; BLOCK];

/// What comes next in the log.
#[derive(Debug)]
pub enum Item<'a> {
    /// A segment begins. What it says about the records before it is not checked here.
    Segment(&'a SegmentHeader),
    /// A commit that holds in itself and follows from the one before.
    Commit(Commit<'a>),
    /// Something does not hold. The next item lies behind it.
    Damage(Damage),
}

/// A verified commit.
#[derive(Clone, Copy, Debug)]
pub struct Commit<'a> {
    /// What it says about itself.
    pub header: CommitHeader,
    /// All of it.
    pub bytes: &'a [u8],
    /// Where it lies in its segment.
    pub offset: u64,
}

impl<'a> Commit<'a> {
    /// Its records.
    #[must_use]
    pub fn records(&self) -> Records<'a> {
        Records::of(&self.header, self.bytes)
    }
}

/// What the next commit has to follow from. Unknown where damage lies between.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expected {
    /// Its number.
    pub number: u64,
    /// Sequence of its first record.
    pub sequence: u64,
    /// Hash of the commit before.
    pub previous: Option<[u8; 32]>,
}

/// The segment that is being read.
#[derive(Debug)]
struct Open {
    file: FileId,
    header: SegmentHeader,
    offset: u64,
    bytes: u64,
    ended: bool,
}

/// A place in a log. It borrows nothing: the files come with every call, so a writer may use them between.
#[derive(Debug)]
pub struct Cursor {
    /// Sequences of the first records of the segments that were there at the start, rising.
    segments: Vec<u64>,
    next_segment: usize,
    open: Option<Open>,
    identity: Option<([u8; 16], u16)>,
    expected: Option<Expected>,
    /// Records from this sequence on are not looked at.
    limit: u64,
    torn: bool,
    done: bool,
    buffer: Vec<u8>,
}

/// Where a log ends.
#[derive(Debug)]
pub(crate) struct End {
    pub(crate) header: SegmentHeader,
    pub(crate) offset: u64,
    pub(crate) expected: Expected,
    pub(crate) torn: bool,
    /// Segments behind that, which an unfinished rotation left.
    pub(crate) later: Vec<u64>,
}

impl Cursor {
    /// At the segment that holds this sequence, or at the first one.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn new<F: Files>(files: &mut F, sequence: u64) -> Result<Self, Error> {
        let segments = list(files)?;
        let next_segment = segments.iter().rposition(|first| *first <= sequence).unwrap_or(0);
        Ok(Self {
            segments,
            next_segment,
            open: None,
            identity: None,
            expected: None,
            limit: u64::MAX,
            torn: false,
            done: false,
            buffer: Vec::new(),
        })
    }

    /// Stops before the first commit at or behind this sequence: for reading beside a writer.
    #[must_use]
    pub const fn until(mut self, sequence: u64) -> Self {
        self.limit = sequence;
        self
    }

    /// The first sequences of all segments.
    #[must_use]
    pub fn segments(&self) -> &[u64] {
        &self.segments
    }

    /// Goes on where the log ended, if there is more by now: for following a writer. What is half written is not looked at
    /// before it is whole; where damage ended the reading, it stays ended.
    ///
    /// # Errors
    ///
    /// When the files cannot be read.
    pub fn again<F: Files>(&mut self, files: &mut F) -> Result<bool, Error> {
        if !self.done {
            return Ok(true);
        }
        let more = match self.open {
            Some(_) => self.fetch(files)?.is_ok_and(|header| self.follows(&header)),
            None => {
                self.look_again(files)?;
                self.next_segment < self.segments.len()
            }
        };
        self.done = !more;
        Ok(more)
    }

    /// Learns of segments that were made since the folder was listed.
    fn look_again<F: Files>(&mut self, files: &mut F) -> Result<(), Error> {
        let known = self.segments.last().copied();
        self.segments.extend(list(files)?.into_iter().filter(|first| known.is_none_or(|known| *first > known)));
        Ok(())
    }

    /// What comes next; nothing at the end of the log.
    ///
    /// # Errors
    ///
    /// When the files cannot be read. What is merely wrong in them is an item.
    pub fn next<F: Files>(&mut self, files: &mut F) -> Result<Option<Item<'_>>, Error> {
        let at_limit = self.expected.is_some_and(|expected| expected.sequence >= self.limit);
        if self.done || at_limit {
            return Ok(None);
        }
        match self.open.as_ref().map(|open| open.ended) {
            None => self.next_segment(files),
            Some(true) => self.close_segment(files),
            Some(false) => self.next_commit(files),
        }
    }

    fn next_segment<F: Files>(&mut self, files: &mut F) -> Result<Option<Item<'_>>, Error> {
        let Some(&first) = self.segments.get(self.next_segment) else {
            self.done = true;
            return Ok(None);
        };
        self.next_segment += 1;
        let name = segment_name(first);
        let file = files.open(&name).map_err(Error::storage(format!("open {name}")))?;
        let bytes = files.length(file).map_err(Error::storage(format!("measure {name}")))?;
        self.read(files, file, 0, BLOCK, &name)?;
        let fault = match SegmentHeader::parse(&self.buffer) {
            None => Fault::SegmentHeader,
            Some(header) => match self.check_segment(&header, first, bytes) {
                Some(Fault::SegmentMissing { sequence }) => {
                    // Told once; what was missing is given up, and the segment is read in the next turn.
                    self.next_segment -= 1;
                    self.expected = None;
                    files.close(file);
                    return Ok(Some(Item::Damage(Damage {
                        file: name,
                        offset: 0,
                        fault: Fault::SegmentMissing { sequence },
                    })));
                }
                Some(fault) => fault,
                None => return Ok(Some(self.enter(file, header, bytes))),
            },
        };
        files.close(file);
        self.expected = None;
        Ok(Some(Item::Damage(Damage { file: name, offset: 0, fault })))
    }

    fn enter(&mut self, file: FileId, header: SegmentHeader, bytes: u64) -> Item<'_> {
        self.identity = Some((header.log_id, header.shard));
        self.expected = Some(Expected {
            number: header.first_commit,
            sequence: header.first_sequence,
            previous: Some(header.previous),
        });
        let open = Open { file, header, offset: BLOCK as u64, bytes, ended: false };
        Item::Segment(&self.open.insert(open).header)
    }

    fn check_segment(&self, header: &SegmentHeader, first: u64, bytes: u64) -> Option<Fault> {
        if self.identity.is_some_and(|identity| identity != (header.log_id, header.shard))
            || header.first_sequence != first
        {
            return Some(Fault::SegmentForeign);
        }
        if header.segment_bytes != bytes {
            return Some(Fault::SegmentLength { expected: header.segment_bytes });
        }
        let expected = self.expected?;
        if first > expected.sequence {
            return Some(Fault::SegmentMissing { sequence: expected.sequence });
        }
        let follows = first == expected.sequence
            && header.first_commit == expected.number
            && expected.previous.is_none_or(|previous| previous == header.previous);
        (!follows).then_some(Fault::SegmentForeign)
    }

    /// Reads what lies where the next commit should be, as much of it as it claims to be, and checks it in itself.
    fn fetch<F: Files>(&mut self, files: &mut F) -> Result<Result<CommitHeader, Part>, Error> {
        let Some(open) = &self.open else { return Ok(Err(Part::Missing)) };
        let (file, offset, room) = (open.file, open.offset, open.bytes.saturating_sub(open.offset));
        let name = segment_name(open.header.first_sequence);
        if room < BLOCK as u64 {
            self.buffer.clear();
            return Ok(Err(Part::Missing));
        }
        self.read(files, file, offset, BLOCK, &name)?;
        let claimed = CommitHeader::parse(&self.buffer).filter(|header| u64::from(header.bytes) <= room);
        if let Some(header) = claimed {
            self.read(files, file, offset, header.bytes as usize, &name)?;
        }
        Ok(verify_commit(&self.buffer))
    }

    /// Whether this is the commit that has to come next.
    fn follows(&self, header: &CommitHeader) -> bool {
        let (Some(open), Some(expected)) = (&self.open, self.expected) else { return false };
        let same = header.log_id == open.header.log_id
            && header.shard == open.header.shard
            && header.number == expected.number
            && header.first_sequence == expected.sequence;
        same && expected.previous.is_none_or(|hash| hash == header.previous)
    }

    fn next_commit<F: Files>(&mut self, files: &mut F) -> Result<Option<Item<'_>>, Error> {
        let verdict = self.fetch(files)?;
        let (Some(open), Some(expected)) = (&self.open, self.expected) else { return Ok(None) };
        let (offset, name, log_id) = (open.offset, segment_name(open.header.first_sequence), open.header.log_id);
        match verdict {
            Ok(header) if self.follows(&header) => {
                self.step(&header);
                Ok(Some(Item::Commit(Commit { header, bytes: &self.buffer, offset })))
            }
            // Whole, yet not the one that follows: it was written elsewhere, by another log, or is a copy.
            Ok(header) if header.number >= expected.number && header.log_id == log_id => {
                self.step(&header);
                let fault = Fault::Chain { number: expected.number };
                Ok(Some(Item::Damage(Damage { file: name, offset, fault })))
            }
            Ok(_) => {
                self.resume(files, offset + BLOCK as u64)?;
                let fault = Fault::Chain { number: expected.number };
                Ok(Some(Item::Damage(Damage { file: name, offset, fault })))
            }
            Err(part) => self.no_commit(files, part),
        }
    }

    /// Goes behind a commit.
    fn step(&mut self, header: &CommitHeader) {
        self.expected = Some(Expected {
            number: header.number + 1,
            sequence: header.first_sequence + u64::from(header.records),
            previous: Some(header.hash),
        });
        if let Some(open) = &mut self.open {
            open.offset += u64::from(header.bytes);
            open.ended = header.flags & SEGMENT_END != 0;
        }
    }

    /// Where the next commit should be there is none that holds: the end of the log, a torn write, or damage.
    fn no_commit<F: Files>(&mut self, files: &mut F, part: Part) -> Result<Option<Item<'_>>, Error> {
        let (Some(open), Some(expected)) = (&self.open, self.expected) else { return Ok(None) };
        let (name, offset) = (segment_name(open.header.first_sequence), open.offset);
        let tail = classify(&self.buffer);
        let part = if tail == Tail::Empty { Part::Missing } else { part };
        let claimed = CommitHeader::parse(&self.buffer).filter(|_| tail != Tail::Empty);
        let (proof, dirty) = self.look_ahead(files, expected.number)?;
        let later = self.next_segment < self.segments.len();
        if proof || tail == Tail::Damaged {
            // A writer beside us may have ended it, and written more, while we looked ahead.
            if let Some(header) = self.fetch(files)?.ok().filter(|header| self.follows(header)) {
                self.step(&header);
                return Ok(Some(Item::Commit(Commit { header, bytes: &self.buffer, offset })));
            }
            // A header with a right crc still says where the next commit is and what it follows from.
            match claimed.filter(|header| header.number == expected.number) {
                Some(header) => self.step(&header),
                None => self.resume(files, offset + BLOCK as u64)?,
            }
            let fault = Fault::Commit { number: expected.number, sequence: expected.sequence, part };
            return Ok(Some(Item::Damage(Damage { file: name, offset, fault })));
        }
        self.done = true;
        if let Some(file) = self.stranger(files, &expected)? {
            return Ok(Some(Item::Damage(Damage { file, offset: 0, fault: Fault::SegmentForeign })));
        }
        self.torn = dirty || later || tail == Tail::Torn;
        let fault = Fault::Torn { number: expected.number };
        Ok(self.torn.then_some(Item::Damage(Damage { file: name, offset, fault })))
    }

    /// Whether a later commit says that this one was durable, and whether there is anything at all behind.
    ///
    /// Later commits are looked for at every block, so bytes of a received frame could pose as one. They would have to
    /// carry the log's random number, which never leaves the node, and then could only make it refuse to cut.
    fn look_ahead<F: Files>(&mut self, files: &mut F, number: u64) -> Result<(bool, bool), Error> {
        let Some(open) = &self.open else { return Ok((false, false)) };
        let (file, from, to) = (open.file, open.offset, open.bytes);
        let name = segment_name(open.header.first_sequence);
        let (found, dirty) = self.scan(files, file, from, to, &name, |header| header.durable_commits > number)?;
        let mut found = found.is_some();
        for index in self.next_segment..self.segments.len() {
            if found {
                break;
            }
            let name = segment_name(self.segments[index]);
            let file = files.open(&name).map_err(Error::storage(format!("open {name}")))?;
            let bytes = files.length(file).map_err(Error::storage(format!("measure {name}")))?;
            let scanned = self.scan(files, file, BLOCK as u64, bytes, &name, |header| header.durable_commits > number);
            files.close(file);
            found = scanned?.0.is_some();
        }
        Ok((found, dirty))
    }

    /// The first of the later segments that no unfinished rotation of this log left.
    fn stranger<F: Files>(&mut self, files: &mut F, expected: &Expected) -> Result<Option<String>, Error> {
        for index in self.next_segment..self.segments.len() {
            let (first, name) = (self.segments[index], segment_name(self.segments[index]));
            let file = files.open(&name).map_err(Error::storage(format!("open {name}")))?;
            let read = self.read(files, file, 0, BLOCK, &name);
            files.close(file);
            read?;
            let ours = SegmentHeader::parse(&self.buffer).is_some_and(|header| {
                let same = self.identity == Some((header.log_id, header.shard)) && header.first_sequence == first;
                same && header.first_commit > expected.number && first >= expected.sequence
            });
            if !ours {
                return Ok(Some(name));
            }
        }
        Ok(None)
    }

    /// Looks at every block from `from` on for the header of a commit of this log that is `wanted`; says too whether there
    /// was a byte that is not zero.
    fn scan<F: Files>(
        &self,
        files: &mut F,
        file: FileId,
        from: u64,
        to: u64,
        name: &str,
        wanted: impl Fn(&CommitHeader) -> bool,
    ) -> Result<(Option<(u64, CommitHeader)>, bool), Error> {
        let log_id = self.identity.map(|(log_id, _)| log_id);
        let (mut at, mut dirty) = (from, false);
        let mut chunk = vec![0; SCAN_BYTES];
        while at < to {
            let wanted_bytes = chunk.len().min(usize::try_from(to - at).unwrap_or(usize::MAX));
            let got = files.read(file, at, &mut chunk[..wanted_bytes]);
            let got = got.map_err(Error::storage(format!("read {name} at byte {at}")))?;
            for (index, block) in chunk[..got].chunks(BLOCK).enumerate() {
                // As slices, because bytes one by one take longer than the disk.
                dirty |= !dirty && *block != ZEROS[..block.len()];
                let header =
                    CommitHeader::parse(block).filter(|header| Some(header.log_id) == log_id && wanted(header));
                if let Some(header) = header {
                    return Ok((Some((at + (index * BLOCK) as u64, header)), true));
                }
            }
            if got < wanted_bytes {
                break;
            }
            at += got as u64;
        }
        Ok((None, dirty))
    }

    /// Goes to the next commit of this segment at or behind `from`, or to the next segment.
    fn resume<F: Files>(&mut self, files: &mut F, from: u64) -> Result<(), Error> {
        let (Some(open), Some(expected)) = (&self.open, self.expected) else { return Ok(()) };
        let (file, to, name) = (open.file, open.bytes, segment_name(open.header.first_sequence));
        let (found, _) = self.scan(files, file, from, to, &name, |header| header.number > expected.number)?;
        let Some(open) = &mut self.open else { return Ok(()) };
        match found {
            Some((at, header)) => {
                open.offset = at;
                let (number, sequence) = (header.number, header.first_sequence);
                self.expected = Some(Expected { number, sequence, previous: None });
            }
            None => {
                files.close(open.file);
                self.open = None;
                self.expected = None;
            }
        }
        Ok(())
    }

    /// Behind a segment's last commit there is nothing, and the next segment is there.
    fn close_segment<F: Files>(&mut self, files: &mut F) -> Result<Option<Item<'_>>, Error> {
        let (Some(open), Some(expected)) = (self.open.take(), self.expected) else { return Ok(None) };
        let name = segment_name(open.header.first_sequence);
        let scanned = self.scan(files, open.file, open.offset, open.bytes, &name, |_| false);
        files.close(open.file);
        let offset = open.offset;
        if scanned?.1 {
            return Ok(Some(Item::Damage(Damage { file: name, offset, fault: Fault::Leftover })));
        }
        if self.next_segment == self.segments.len() {
            self.look_again(files)?;
        }
        if self.next_segment == self.segments.len() {
            self.done = true;
            let fault = Fault::SegmentMissing { sequence: expected.sequence };
            return Ok(Some(Item::Damage(Damage { file: name, offset, fault })));
        }
        self.next_segment(files)
    }

    /// Fills the buffer with this part of a file; it gets shorter where the file ends.
    fn read<F: Files>(
        &mut self,
        files: &mut F,
        file: FileId,
        offset: u64,
        bytes: usize,
        name: &str,
    ) -> Result<(), Error> {
        self.buffer.resize(bytes, 0);
        let got = files.read(file, offset, &mut self.buffer);
        let got = got.map_err(Error::storage(format!("read {name} at byte {offset}")))?;
        self.buffer.truncate(got);
        Ok(())
    }

    /// Where the log ends, once everything was read.
    pub(crate) fn end<F: Files>(mut self, files: &mut F) -> Option<End> {
        let open = self.open.take()?;
        files.close(open.file);
        let later = self.segments.split_off(self.next_segment);
        Some(End { header: open.header, offset: open.offset, expected: self.expected?, torn: self.torn, later })
    }
}

/// The first sequences of the segments in a folder, rising.
fn list<F: Files>(files: &mut F) -> Result<Vec<u64>, Error> {
    let names = files.names().map_err(Error::storage("list the log's folder"))?;
    let mut segments: Vec<u64> = names.iter().filter_map(|name| segment_of(name)).collect();
    segments.sort_unstable();
    Ok(segments)
}

/// Most bytes of a record's body in commits of this size.
#[must_use]
pub const fn body_bytes_max(commit_bytes_max: usize) -> usize {
    commit_bytes_max - COMMIT_HEADER - format::RECORD_HEADER
}
