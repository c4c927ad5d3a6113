//! What may pass: the ruleset image and the judgement of messages under it.
//!
//! Control compiles its rules into one flat image (feature `compile`, the only part that allocates). The data plane
//! verifies that image once ([`verify`]) and then judges each message by it ([`govern`]), in the one order of checks that
//! every program may rely on. A judgement is a function of its inputs alone: the messages, the session, the ruleset, one
//! tick, one pressure level, and the levels that the worker keeps in [`Tables`]. Integers only, so that the same inputs
//! give the same verdicts on any machine, and a second, slow model in `tests/reference` can be compared verdict by
//! verdict.
//!
//! When in doubt, the answer is no: a missing rule, a missing table entry, a clock that runs backwards or out of its range
//! never lets a message through that a rule in force would have held back.
//!
//! It deliberately does not parse frames, check tags or windows, look at a clock, copy messages or count them: that is
//! `wire`'s and `engine`'s part. It holds no session table either: the engine passes the one session a frame belongs to.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "compile")]
extern crate alloc;

#[cfg(feature = "compile")]
pub mod compile;
mod govern;
mod image;
mod lease;
#[cfg(feature = "compile")]
mod source;
mod tables;
mod verdict;

pub use govern::{FrameContext, Inputs, Publisher, govern, prefetch};
pub use image::{Fault, ImageError, Ruleset, Verified, verify};
pub use lease::set_lease;
pub use tables::{SHARDS_MAX, SenderState, Shards, TICK_MAX_NS, Tables, TopicState};
pub use tachyon_kernels::Path;
pub use verdict::{Summary, Verdict};
