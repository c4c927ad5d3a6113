//! The turn of the loop: receive, check, govern, batch, transmit; one worker, alone, over the queues it owns.
//!
//! A [`Worker`] is passive: its owner calls [`Worker::poll`] with the time, and that is the only time there is. It is
//! generic over the queue ([`tachyon_driver_api`]) and over its [`Host`], so the pinned thread, the simulator and the
//! benchmarks run the same text. It names no driver and no operating system, and after construction it allocates, locks,
//! logs and panics nowhere; without `alloc` in reach it could not even say `Vec`. It deliberately does not decide what is
//! allowed: that is `policy`.
//!
//! The packet's way: [`worker`] (the turn) → `stage` (some frames at a time) → [`ingress`] (frame checks, sessions,
//! windows) → `policy::govern` → [`egress`] (copies into frames per subscriber, by `fan` where a route has several targets)
//! → `seal` → the driver.
#![no_std]
#![forbid(unsafe_code)]
#[cfg(feature = "setup")]
extern crate alloc;

pub mod egress;
pub mod fan;
mod forward;
pub mod host;
pub mod ingress;
pub mod inspect;
pub mod kept;
pub mod lane;
pub mod limits;
mod logged;
pub mod pressure;
mod ready;
mod record;
pub mod reply;
mod restore;
mod seal;
mod stage;
pub mod stream;
pub mod tap;
pub mod window;
pub mod worker;

pub use host::Host;
pub use limits::{Limits, Memory};
pub use tachyon_kernels::Path;
pub use tap::{Log, NoTap, Tap};
pub use worker::{Work, Worker};
