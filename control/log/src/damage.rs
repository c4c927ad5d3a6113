//! What can be wrong with a log that lies on disk, each with the place where it was found.

use core::fmt;
use tachyon_wire::Reason;

/// The part of a commit that is damaged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Part {
    /// Its header, or a field of it that the records contradict.
    Header,
    /// The record with this sequence is the first whose bytes do not hold.
    Record(u64),
    /// What is behind the records.
    Padding,
    /// The file ends before the commit does, or there is nothing where it should be.
    Missing,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Damage {
    /// The file.
    pub file: String,
    /// Where in it, in bytes.
    pub offset: u64,
    /// What is wrong.
    pub fault: Fault,
}

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The segment's first block does not hold.
    SegmentHeader,
    /// The segment belongs to another log or shard, or its name is that of another segment.
    SegmentForeign,
    /// The file is not as long as its header says.
    SegmentLength {
        /// Bytes it should have.
        expected: u64,
    },
    /// The segment that should start with this sequence is not there.
    SegmentMissing {
        /// Sequence of the first record that is missing.
        sequence: u64,
    },
    /// A commit is damaged; it was whole once.
    Commit {
        /// Its number.
        number: u64,
        /// Sequence of its first record.
        sequence: u64,
        /// What of it.
        part: Part,
    },
    /// A commit holds in itself and does not follow from the one before.
    Chain {
        /// Its number.
        number: u64,
    },
    /// The last write did not end; nothing that was durable is missing. Opening the log for appending cuts it off.
    Torn {
        /// Number of the commit that would have been written.
        number: u64,
    },
    /// Bytes where a segment has no commits any more.
    Leftover,
    /// Records before this sequence are gone, and no tombstone says so.
    NoTombstone {
        /// Sequence of the first record that is left.
        sequence: u64,
    },
    /// A tombstone whose signature or content is wrong.
    Tombstone {
        /// Its sequence.
        sequence: u64,
    },
    /// A checkpoint in the log whose signature, size or root is wrong.
    Checkpoint {
        /// Its sequence.
        sequence: u64,
    },
    /// A record whose kind is not known or whose body breaks its kind's layout.
    Body {
        /// Its sequence.
        sequence: u64,
    },
    /// A checkpoint from outside knows of more records than there are: the log was set back.
    RolledBack {
        /// Records that the checkpoint covers.
        size: u64,
    },
    /// A checkpoint from outside has another root: this is not the log it was made of.
    Forked {
        /// Records that the checkpoint covers.
        size: u64,
    },
    /// A checkpoint from outside covers fewer records than retention has removed, and their leaf hashes are gone.
    Unprovable {
        /// Records that the checkpoint covers.
        size: u64,
    },
    /// A file of leaf hashes does not belong to its records. It can be made anew from them.
    Leaves,
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}: {}", self.file, self.offset, self.fault)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::SegmentHeader => write!(f, "the segment's header is damaged; restore this file from a copy"),
            Self::SegmentForeign => write!(f, "the segment is not of this log; move it away or restore the right one"),
            Self::SegmentLength { expected } => {
                write!(f, "the file should have {expected} bytes; restore it from a copy")
            }
            Self::SegmentMissing { sequence } => {
                write!(f, "the segment with record {sequence} is missing; restore it from a copy")
            }
            Self::Commit { number, part: Part::Record(sequence), .. } => {
                write!(f, "record {sequence} in commit {number} is damaged; restore this file from a copy")
            }
            Self::Commit { number, sequence, part } => {
                write!(
                    f,
                    "commit {number} from record {sequence} on is damaged ({part:?}); restore this file from a copy"
                )
            }
            Self::Chain { number } => {
                write!(f, "commit {number} does not follow from the one before; it was put here from elsewhere")
            }
            Self::Torn { number } => {
                write!(f, "commit {number} was not written to its end; opening the log for appending cuts it off")
            }
            Self::Leftover => write!(f, "there are bytes behind the last commit; restore this file from a copy"),
            Self::NoTombstone { sequence } => {
                write!(f, "records before {sequence} are gone and no tombstone says so; restore them from a copy")
            }
            Self::Tombstone { sequence } => write!(f, "the tombstone in record {sequence} is not valid; check the key"),
            Self::Checkpoint { sequence } => {
                write!(f, "the checkpoint in record {sequence} is not valid; check the key")
            }
            Self::Body { sequence } => write!(f, "record {sequence} breaks its kind's layout; a newer writer made it"),
            Self::RolledBack { size } => {
                write!(f, "a checkpoint covers {size} records and the log has fewer; it was set back to an older state")
            }
            Self::Forked { size } => {
                write!(f, "a checkpoint of {size} records has another root; this is not the log it was made of")
            }
            Self::Unprovable { size } => {
                write!(f, "a checkpoint of {size} records ends among removed ones; keep the files of leaf hashes")
            }
            Self::Leaves => {
                write!(f, "the leaf hashes do not belong to their records; delete the file to have it made anew")
            }
        }
    }
}

impl Fault {
    /// Whether the log is not trustworthy any more. A torn tail is what a crash leaves, and leaf hashes are only a copy.
    #[must_use]
    pub const fn is_grave(&self) -> bool {
        !matches!(self, Self::Torn { .. } | Self::Leaves)
    }
}

/// Why an operation on the log did not happen.
#[derive(Debug)]
pub enum Error {
    /// The disk said no.
    Storage {
        /// What was tried, and on which file.
        what: String,
        /// The system's word.
        source: std::io::Error,
    },
    /// No room for the next segment. The log goes on by itself when there is.
    DiskFull,
    /// Everything that may wait for the disk is taken: call `poll` and try again.
    Busy,
    /// A record that no commit can hold.
    TooLarge {
        /// Bytes of its body.
        bytes: usize,
        /// Most bytes of a body.
        bytes_max: usize,
    },
    /// The log failed earlier and takes nothing any more. Open it anew: what was durable is there.
    Failed,
    /// The log is damaged, so nothing may be appended to it.
    Damaged(Damage),
    /// The log in this folder is another one, or the configuration cannot work.
    Config(&'static str),
}

impl Error {
    /// The reason that copies of durable topics end with while this is so.
    #[must_use]
    pub const fn reason(&self) -> Reason {
        match self {
            Self::DiskFull => Reason::PersistDiskFull,
            Self::Busy => Reason::PersistTimeout,
            Self::Damaged(_) => Reason::PersistCorrupt,
            Self::Storage { .. } | Self::TooLarge { .. } | Self::Failed | Self::Config(_) => Reason::PersistUnavailable,
        }
    }

    pub(crate) fn storage(what: impl Into<String>) -> impl FnOnce(std::io::Error) -> Self {
        let what = what.into();
        move |source| Self::Storage { what, source }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Storage { what, source } => {
                write!(f, "cannot {what}: {source}; check the disk and open the log anew")
            }
            Self::DiskFull => {
                write!(f, "no room for the next segment; free space or shorten retention, it then goes on")
            }
            Self::Busy => write!(f, "the disk is behind and every buffer waits for it; poll, then append again"),
            Self::TooLarge { bytes, bytes_max } => {
                write!(f, "a record of {bytes} bytes is longer than {bytes_max}; split it or raise commit_bytes_max")
            }
            Self::Failed => write!(f, "the log failed earlier; open it anew, what was durable is there"),
            Self::Damaged(damage) => write!(f, "the log is damaged and takes no records: {damage}"),
            Self::Config(what) => write!(f, "the log cannot be opened so: {what}"),
        }
    }
}

impl core::error::Error for Error {
    fn source(&self) -> Option<&(dyn core::error::Error + 'static)> {
        match self {
            Self::Storage { source, .. } => Some(source),
            _ => None,
        }
    }
}
