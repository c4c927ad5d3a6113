//! The reference driver: two ends of a link in memory, and a wrapper that makes any driver fail on purpose.
//!
//! It exists so that the engine, the simulator and the load generator have a device that is always there, costs next to
//! nothing, runs on one thread or two, and loses exactly what its seed says. A buffer that is sent moves to the other end
//! as it is; the other end gives an empty one of its own for it, so nothing is copied and no pool is shared.
//!
//! It deliberately models no network: no addresses but the one that travels with each item, no rate, no delay, no loss
//! other than the seeded one of [`Faulty`].
//!
//! The ring is checked with loom: `RUSTFLAGS="--cfg loom" cargo test --release -p tachyon-driver-mem --lib`.

mod faults;
mod link;
mod outside;
mod port;
mod ring;
mod sync;

pub use faults::{FAULTS_HELD_MAX, FaultCounts, Faults, Faulty};
pub use link::{LinkConfig, MemQueue, pair};
pub use outside::{Delivered, Outside};
pub use port::MemPort;
