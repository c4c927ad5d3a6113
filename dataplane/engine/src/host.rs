//! What a worker needs from whoever runs it.

use tachyon_policy::Verified;
use tachyon_wire::{
    Message, Reason,
    command::{Command, Demand},
    counters::WorkerStats,
};

/// The worker's side of the house: commands and rulesets in, counters and demands out. Every method returns at once;
/// none allocates, locks or makes a syscall.
pub trait Host {
    /// Where the bytes of a ruleset image live.
    type Image: AsRef<[u8]>;

    /// The ruleset in force, looked at once per burst. An error refuses every message with that reason.
    ///
    /// # Errors
    /// [`Reason::RulesetUnavailable`] if there is none, [`Reason::RulesetInvalid`] if it is damaged.
    fn ruleset(&mut self) -> Result<&Verified<Self::Image>, Reason>;

    /// The next command, if there is one.
    fn command(&mut self) -> Option<Command>;

    /// A sender reached its lease; word for the rebalancing thread. May be dropped.
    fn demand(&mut self, demand: Demand);

    /// A refused message of a topic with quarantine. Returns whether the bounded ring took it.
    fn quarantine(&mut self, message: &Message, reason: u8) -> bool;

    /// Called once after each burst that changed something; `whole` asks for histograms and routes too, not only the
    /// ledgers.
    fn publish(&mut self, stats: &WorkerStats, whole: bool);
}
