//! Loads the pre-filter, attaches it to network interfaces, and keeps its tables and counters.
//!
//! The pre-filter is an XDP program (`ebpf/prefilter`) for interfaces that stay with the kernel: junk ends there, at the
//! device, and good frames go on to the sockets. The program says what is checked; `contract.h` beside it, what both
//! sides agree on. This crate is for a housekeeping thread, and for tools that look on.
//!
//! [`Prefilter::attach`] is safe to repeat and to kill. The kernel holds the program through a link, and the link is held
//! by one file under `/sys/fs/bpf/tachyon/<interface>/`; the tables are held by the program, and their files there are
//! names for people and tools. So there is one moment at which anything changes for traffic, the creation or the update
//! of the link, and one at which it lasts, the pin. A loader killed before, between or after leaves the filter as it
//! was or as it was to be, with full tables, and the next one finds out from the link itself which of both. Tables are
//! changed in the same way: one session by one write, a whole list or map of topics by one write of the place that says
//! which is in force.
//!
//! The crate deliberately decides nothing about frames, holds no configuration file, starts no thread, reads no clock,
//! and creates no AF_XDP socket: it hands out the map to put them into. One loader at a time may write to an interface;
//! any number may read. All it asks of the kernel needs root, or CAP_NET_ADMIN and CAP_SYS_ADMIN: CAP_BPF will not do,
//! because maps are opened by their numbers, also those of a program that was just loaded.
//!
//! `unsafe` is in one file, `sys.rs`: eight calls that libbpf's safe interface does not have.
#![deny(unsafe_code)]

mod attach;
mod beside;
mod config;
mod counters;
mod place;
mod program;
#[allow(unsafe_code, reason = "libbpf-rs has no safe form of these calls")]
mod sys;
mod tables;
mod verifier;

pub use attach::{Found, Mode, Prefilter, Status};
pub use beside::object;
pub use config::{Config, Deliver, Rate};
pub use counters::Counters;
pub use program::{Content, Facts, Program, RunTimes, TestRun, Verdict};
pub use tables::{DenyDraft, Prefix, Session, Tables, TopicBlocks};
pub use verifier::Effort;

/// Numbers of the contract with the program, from `ebpf/prefilter/contract.h`.
pub mod contract {
    include!(concat!(env!("OUT_DIR"), "/contract.rs"));
}

use std::fmt;

/// Why the pre-filter could not be loaded, attached or changed: what happened, where, and what to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoaderError(pub String);

impl fmt::Display for LoaderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for LoaderError {}

type Result<T, E = LoaderError> = std::result::Result<T, E>;

/// Says what was being done when something failed.
trait Doing<T> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: fmt::Display> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|error| LoaderError(format!("{}: {error}", what())))
    }
}
