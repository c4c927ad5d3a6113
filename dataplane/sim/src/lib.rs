//! The simulator's side of the truth log: a recorded worker's turns are played through the real one, and everything that it
//! decides is compared with what was recorded.
//!
//! [`Replay`] holds a [`tachyon_engine::Worker`] over a device, a host and a log that repeat what they did ([`stage`]). Frames that
//! were kept in part are made whole again ([`rebuild`]); records that the worker makes are compared byte for byte with the
//! recorded ones, but for what a replay cannot have ([`compare`]). [`logs`] reads turns from the logs of their shards,
//! and [`record`] makes some, for tests.
//!
//! It deliberately has no judgement of its own: what a message deserved is said by `policy` and the engine alone.
#![forbid(unsafe_code)]

pub mod compare;
pub mod keys;
pub mod logs;
pub mod rebuild;
pub mod record;
pub mod replay;
pub mod run;
pub mod snapshot;
pub mod stage;
pub mod write;

pub use keys::Keys;
pub use replay::{Replay, Report};
pub use tachyon_log::turn::RecordedTurn;
