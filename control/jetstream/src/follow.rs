//! Reading a shard's log while somebody else writes it, and telling its end from damage.
//!
//! Only whole commits that follow from the one before are taken. Where the next one should be there is mostly nothing, or a
//! write that has not ended; only now and then is it worth asking whether that is really so, because the log's own judge
//! ([`tachyon_log::Cursor`]) reads the segment from its start and looks at every block behind its end.

use core::fmt;
use std::{io, path::Path};
use tachyon_log::{
    Cursor, Damage, Error, Files, ReadOnly,
    cursor::{Expected, Item},
    format::{BLOCK, CommitHeader, Records, SEGMENT_END, SegmentHeader, segment_name, segment_of, verify_commit},
    storage::FileId,
};

/// The judge is asked after this many polls in a row that found something other than nothing, and at every doubling. A
/// write takes far less than 16 polls of milliseconds.
const DOUBTFUL_POLLS: u32 = 16;
/// The same where there was nothing: ten seconds at the default of 10 ms between polls. It costs a look at the whole
/// segment, so a shard that is merely quiet pays it ever more rarely.
const QUIET_POLLS: u32 = 1_024;
/// What the judge says has to be the same this many times, since it reads beside a writer: a commit may become whole
/// between two of its looks.
const JUDGEMENTS: u32 = 3;

/// A commit that was read before, by which a log is known again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// Its number.
    pub number: u64,
    /// Its hash.
    pub hash: [u8; 32],
}

/// Why a shard's log cannot be followed any further.
#[derive(Debug)]
pub enum Trouble {
    /// The files cannot be read.
    Log(Error),
    /// Something in the log does not hold.
    Damaged(Damage),
    /// The log holds other records than those that were read before, or fewer.
    SetBack {
        /// The last commit that was read.
        number: u64,
    },
    /// The log was made anew since.
    OtherLog,
    /// The folder holds the log of this shard.
    OtherShard(u16),
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Log(error) => error.fmt(f),
            Self::Damaged(damage) => write!(f, "the log is damaged, and nothing behind that is exported: {damage}"),
            Self::SetBack { number } => write!(
                f,
                "commit {number} was exported and the log does not have it any more: it was set back; restore the log, \
                 or export to a stream of another name"
            ),
            Self::OtherLog => f.write_str(
                "this is another log than the one that was exported so far; give it a stream of another name, or \
                 restore the old log",
            ),
            Self::OtherShard(shard) => write!(f, "the folder holds the log of shard {shard}; name it after that"),
        }
    }
}

impl core::error::Error for Trouble {}

impl From<Error> for Trouble {
    fn from(error: Error) -> Self {
        Self::Log(error)
    }
}

/// What a step found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// The next commit; [`Follower::records`] has its records.
    Commit(CommitHeader),
    /// Records are gone because the oldest segments were removed; the next commit is behind them.
    Gone {
        /// The first record that is wanted and gone.
        first: u64,
        /// The first one that is left.
        end: u64,
    },
    /// Nothing more for now.
    Idle,
}

enum Found {
    Segment,
    Step(Step),
    /// Not even the start of a commit.
    Nothing,
    /// Something that is no commit, or no commit yet.
    Doubtful,
}

#[derive(Debug)]
struct Open {
    file: FileId,
    first: u64,
    offset: u64,
    bytes: u64,
    ended: bool,
}

/// A place in a log that grows.
#[derive(Debug)]
pub struct Follower {
    files: ReadOnly,
    shard: u16,
    /// The record that is wanted where no segment was entered yet.
    from: u64,
    /// What has to be met on the way.
    mark: Option<Mark>,
    log_id: Option<[u8; 16]>,
    open: Option<Open>,
    expected: Option<Expected>,
    buffer: Vec<u8>,
    polls: u32,
    judged: bool,
    suspicion: Option<(Suspicion, u32)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Suspicion {
    Damage(Damage),
    SetBack(u64),
}

impl Follower {
    /// Of the log in this folder, from the start of the segment that has the record `from`. `log_id` and `mark` are what is
    /// known of the log from an earlier time.
    #[must_use]
    pub fn new(folder: &Path, shard: u16, from: u64, log_id: Option<[u8; 16]>, mark: Option<Mark>) -> Self {
        Self {
            files: ReadOnly::new(folder),
            shard,
            from,
            mark,
            log_id,
            open: None,
            expected: None,
            buffer: Vec::new(),
            polls: 0,
            judged: false,
            suspicion: None,
        }
    }

    /// The log's random number, once a segment was read or if it was known.
    #[must_use]
    pub const fn log_id(&self) -> Option<[u8; 16]> {
        self.log_id
    }

    /// Says which log it has to be.
    ///
    /// # Errors
    ///
    /// When it is known to be another.
    pub fn expect_log(&mut self, log_id: [u8; 16]) -> Result<(), Trouble> {
        if self.log_id.is_some_and(|known| known != log_id) {
            return Err(Trouble::OtherLog);
        }
        self.log_id = Some(log_id);
        Ok(())
    }

    /// What comes next.
    ///
    /// # Errors
    ///
    /// When the files cannot be read, are damaged, or are not those that were read before.
    pub fn step(&mut self) -> Result<Step, Trouble> {
        loop {
            let found = match &self.open {
                Some(open) if !open.ended => self.next_commit()?,
                _ => self.next_segment()?,
            };
            let doubtful = match found {
                Found::Segment => continue,
                Found::Step(step) => {
                    (self.polls, self.suspicion) = (0, None);
                    return Ok(step);
                }
                Found::Nothing => false,
                Found::Doubtful => true,
            };
            self.polls = self.polls.saturating_add(1);
            let often = if doubtful { DOUBTFUL_POLLS } else { QUIET_POLLS };
            let due = self.polls >= often && self.polls.is_power_of_two();
            if due || !self.judged || self.suspicion.is_some() {
                self.is_sound()?;
            }
            return Ok(Step::Idle);
        }
    }

    /// The records of the commit that the last step found.
    #[must_use]
    pub fn records(&self, header: &CommitHeader) -> Records<'_> {
        Records::of(header, &self.buffer)
    }

    /// Whether the log ends well where the last step found nothing more. False where the judge has a suspicion that it has
    /// not yet found often enough: ask again.
    ///
    /// # Errors
    ///
    /// When it does not.
    pub fn is_sound(&mut self) -> Result<bool, Trouble> {
        self.judged = true;
        let Some(found) = self.judge()? else {
            self.suspicion = None;
            return Ok(true);
        };
        let times = self.suspicion.take().filter(|(before, _)| *before == found).map_or(0, |(_, times)| times) + 1;
        if times >= JUDGEMENTS {
            return Err(match found {
                Suspicion::Damage(damage) => Trouble::Damaged(damage),
                Suspicion::SetBack(number) => Trouble::SetBack { number },
            });
        }
        self.suspicion = Some((found, times));
        Ok(false)
    }

    /// Reads from the start of this segment to the log's end, as if for the first time.
    fn judge(&mut self) -> Result<Option<Suspicion>, Trouble> {
        let from = self.open.as_ref().map_or(self.from, |open| open.first);
        let (mut first_commit, mut met) = (None, None);
        // The last commit that was read, be it now or in another life.
        let last = self.mark.or_else(|| {
            let expected = self.expected?;
            Some(Mark { number: expected.number.checked_sub(1)?, hash: expected.previous? })
        });
        // A folder that is not there yet is a log that has not begun.
        if self.segments()?.is_empty() {
            return Ok(last.map(|mark| Suspicion::SetBack(mark.number)));
        }
        let mut cursor = Cursor::new(&mut self.files, from)?;
        loop {
            let item = match cursor.next(&mut self.files) {
                // Removed between listing and opening: look again later.
                Err(Error::Storage { source, .. }) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
                item => item?,
            };
            match item {
                None => break,
                Some(Item::Segment(header)) => first_commit = first_commit.or(Some(header.first_commit)),
                Some(Item::Commit(commit)) if last.is_some_and(|last| last.number == commit.header.number) => {
                    met = Some(commit.header.hash);
                }
                Some(Item::Commit(_)) => {}
                Some(Item::Damage(damage)) if damage.fault.is_grave() => return Ok(Some(Suspicion::Damage(damage))),
                Some(Item::Damage(_)) => {}
            }
        }
        // Where the segment with that commit is gone, or behind, nothing can be said.
        let set_back = last.filter(|last| {
            let within = first_commit.is_some_and(|first| first <= last.number);
            within && met != Some(last.hash)
        });
        Ok(set_back.map(|last| Suspicion::SetBack(last.number)))
    }

    /// First sequences of all segments, rising.
    fn segments(&mut self) -> Result<Vec<u64>, Trouble> {
        let names = match self.files.names() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Vec::new(),
            names => names.map_err(|error| storage("list the log's folder".into(), error))?,
        };
        let mut segments: Vec<u64> = names.iter().filter_map(|name| segment_of(name)).collect();
        segments.sort_unstable();
        Ok(segments)
    }

    fn next_segment(&mut self) -> Result<Found, Trouble> {
        let segments = self.segments()?;
        let wanted = self.expected.map_or(self.from, |expected| expected.sequence);
        let first = match self.expected {
            Some(_) => segments.iter().copied().find(|first| *first >= wanted),
            None => segments.iter().copied().rfind(|first| *first <= wanted).or(segments.first().copied()),
        };
        let Some(first) = first else {
            return Ok(if self.expected.is_some() { Found::Doubtful } else { Found::Nothing });
        };
        if first > wanted {
            // Retention removes the oldest; a hole anywhere else is damage.
            if segments.first() != Some(&first) {
                return Ok(Found::Doubtful);
            }
            self.leave();
            (self.from, self.expected, self.mark) = (first, None, None);
            return Ok(Found::Step(Step::Gone { first: wanted, end: first }));
        }
        self.enter(first)
    }

    fn leave(&mut self) {
        if let Some(open) = self.open.take() {
            self.files.close(open.file);
        }
    }

    fn enter(&mut self, first: u64) -> Result<Found, Trouble> {
        let name = segment_name(first);
        let file = match self.files.open(&name) {
            // Removed just now; the next look finds what is left.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Nothing),
            file => file.map_err(|error| storage(format!("open {name}"), error))?,
        };
        let bytes = self.files.length(file).map_err(|error| storage(format!("measure {name}"), error))?;
        self.read(file, 0, BLOCK, &name)?;
        let header = SegmentHeader::parse(&self.buffer).filter(|header| {
            let follows = self.expected.is_none_or(|expected| {
                expected.number == header.first_commit && expected.previous.is_none_or(|hash| hash == header.previous)
            });
            header.first_sequence == first && header.segment_bytes == bytes && follows
        });
        let Some(header) = header else {
            self.files.close(file);
            return Ok(Found::Doubtful);
        };
        if header.shard != self.shard {
            return Err(Trouble::OtherShard(header.shard));
        }
        if self.log_id.is_some_and(|log_id| log_id != header.log_id) {
            return Err(Trouble::OtherLog);
        }
        self.leave();
        self.log_id = Some(header.log_id);
        self.expected = Some(Expected {
            number: header.first_commit,
            sequence: header.first_sequence,
            previous: Some(header.previous),
        });
        self.open = Some(Open { file, first, offset: BLOCK as u64, bytes, ended: false });
        Ok(Found::Segment)
    }

    fn next_commit(&mut self) -> Result<Found, Trouble> {
        let (Some(open), Some(expected)) = (&self.open, self.expected) else { return Ok(Found::Nothing) };
        let (file, offset, room) = (open.file, open.offset, open.bytes.saturating_sub(open.offset));
        let name = segment_name(open.first);
        self.read(file, offset, BLOCK, &name)?;
        if self.buffer.iter().all(|byte| *byte == 0) {
            return Ok(Found::Nothing);
        }
        let claimed = CommitHeader::parse(&self.buffer).filter(|header| u64::from(header.bytes) <= room);
        let Some(claimed) = claimed else { return Ok(Found::Doubtful) };
        self.read(file, offset, claimed.bytes as usize, &name)?;
        let Ok(header) = verify_commit(&self.buffer) else { return Ok(Found::Doubtful) };
        let ours = Some(header.log_id) == self.log_id && header.shard == self.shard;
        let follows = header.number == expected.number
            && header.first_sequence == expected.sequence
            && expected.previous.is_none_or(|hash| hash == header.previous);
        if !ours || !follows {
            return Ok(Found::Doubtful);
        }
        // A mark of an earlier segment is passed by; the chain from there on is as good.
        if let Some(mark) = self.mark.take_if(|mark| mark.number <= header.number)
            && mark.number == header.number
            && mark.hash != header.hash
        {
            return Err(Trouble::SetBack { number: mark.number });
        }
        self.expected = Some(Expected {
            number: header.number + 1,
            sequence: header.first_sequence + u64::from(header.records),
            previous: Some(header.hash),
        });
        if let Some(open) = &mut self.open {
            open.offset += u64::from(header.bytes);
            open.ended = header.flags & SEGMENT_END != 0;
        }
        Ok(Found::Step(Step::Commit(header)))
    }

    /// Fills the buffer with this part of a file; it gets shorter where the file ends.
    fn read(&mut self, file: FileId, offset: u64, bytes: usize, name: &str) -> Result<(), Trouble> {
        self.buffer.resize(bytes, 0);
        let got = self.files.read(file, offset, &mut self.buffer);
        let got = got.map_err(|error| storage(format!("read {name} at byte {offset}"), error))?;
        self.buffer.truncate(got);
        Ok(())
    }
}

fn storage(what: String, source: io::Error) -> Trouble {
    Trouble::Log(Error::Storage { what, source })
}
