//! The engine against everything that may come: what arrives, what is refused and why, and that it all adds up.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]
#![expect(clippy::print_stdout, reason = "seeds are printed, so that a failure can be seen again")]

#[path = "../fabric/mod.rs"]
mod fabric;

mod against_model;
mod fan_out;
mod faults;
mod forwarding;
mod golden;
mod logged;
mod overload;
mod panics;
mod paths;
mod quota;
mod reasons;
mod replies;
mod restore;
mod swaps;
