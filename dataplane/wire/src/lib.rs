//! The bytes that cross a boundary: messages, frames, tags, acks, reasons, the ruleset image, the commands and counters
//! that control and data plane exchange.
//!
//! There is one parser, here, and every driver, generator, test and tool uses it. The crate allocates nothing, needs no
//! `std`, contains no `unsafe`, and deliberately judges nothing: whether a well-formed message may pass is for `policy`,
//! whether a frame is new is for `engine`. `WIRE.md` beside this crate says the same in prose, for writers of clients.
#![no_std]
#![forbid(unsafe_code)]

pub mod ack;
pub mod build;
pub mod command;
pub mod counters;
pub mod crc;
pub mod endpoint;
pub mod frame;
pub mod image;
pub mod message;
pub mod payload;
pub mod reason;
pub mod tag;
pub mod tap;

pub use endpoint::Endpoint;
pub use frame::{Frame, FrameHeader, LINE, Lane};
pub use message::Message;
pub use reason::{Ledger, Reason};
