//! The truth log: what a shard received, decided and was told, written so that nobody can change it unseen.
//!
//! Records are appended in groups, each group is one commit that carries the hash of the one before, and all records are
//! the leaves of a Merkle tree whose signed roots other people's tools can check. `FORMAT.md` describes every byte.
//! An [`Appender`] writes one shard's log to a [`Storage`]: [`Disk`] is the real one, [`fault::FaultDisk`] one in
//! memory that loses, tears and damages what it is told to. [`Cursor`] reads, [`Reader`] hands its records out one by one,
//! [`verify`](verify::verify) judges, and [`proof`] has what others can check without the log.
//!
//! [`turn`] takes a worker's turn apart for the logs of its shards and puts it together again, and [`decided`] tells what became of
//! the frames in one of them.
//!
//! It deliberately has no thread and no clock (it is polled, and told the tick), knows no engine (it judges no message), and
//! restores nothing: what is damaged is named, never mended or passed over.
#![deny(unsafe_code)]

pub mod appender;
pub mod cursor;
pub mod damage;
pub mod decided;
pub mod disk;
pub mod fault;
pub mod format;
pub mod note;
pub mod proof;
pub mod reader;
pub mod record;
mod recovery;
pub mod retention;
mod ring;
pub mod storage;
pub mod tree;
pub mod turn;
pub mod verify;

pub use appender::{Appender, Config, Progress, State};
pub use cursor::Cursor;
pub use damage::{Damage, Error, Fault};
pub use disk::{Disk, ReadOnly};
pub use note::{Checkpoint, Signer, Verifier};
pub use reader::{Found, Owned, Reader};
pub use record::Record;
pub use storage::{Files, Storage};
