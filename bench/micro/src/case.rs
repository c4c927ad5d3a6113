//! What a run of the loop is given: every dimension that its cost may depend on.

use clap::ValueEnum;
use serde_json::{Value, json};
use tachyon_engine::{Path, window::Window};
use tachyon_wire::LINE;

/// Bytes of frames in a received buffer at most: 44 frames of 22 messages, what a GRO buffer of 64 KiB holds.
const RECEIVED_MAX: usize = 44 * LINE * 23;
/// Frames in a received buffer at most: Linux merges no more than 64 datagrams into one.
const FRAMES_MAX: usize = 64;
/// Received frames that are in use at a time where they shall stay in L2: what the io_uring driver keeps posted.
const L2_BYTES: usize = 256 << 10;
/// Received frames that are in use at a time where they shall not.
const DRAM_BYTES: usize = 64 << 20;

/// How topics are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Choice {
    /// Each as likely as any other.
    Uniform,
    /// Zipf's law with exponent 0.99: a few are much more likely.
    Zipf,
}

/// What vouches for a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Proof {
    /// A crc32c.
    Crc,
    /// A tag.
    Tag,
}

/// Where the received frames are when their turn comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum WorkingSet {
    /// 256 KiB of buffers, used again and again.
    L2,
    /// A ring of 64 MB that was flushed out of all caches line by line: an L3 of that size would hold it otherwise.
    Dram,
    /// A ring of twice the L3, and 64 MB at least, that was not flushed: most of it was pushed out by the rest of it.
    Large,
}

/// What the truth log takes of the messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Durability {
    /// Nothing, and there is no log.
    None,
    /// Nothing, but in each shard is a topic of which it would: every frame goes into records as stubs.
    Stubs,
    /// All of them.
    Logged,
    /// All of them, and none is forwarded before it is stable, which it is in the next turn.
    Durable,
}

/// Which instructions the loop may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Instructions {
    /// The best that this CPU has.
    Best,
    /// No kernels of our own.
    Scalar,
    /// At most AVX2.
    Avx2,
    /// AVX-512.
    Avx512,
}

/// The part of the shards that one worker has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place {
    /// Shards of the fabric.
    pub shards: u16,
    /// The worker's first.
    pub first: u16,
    /// How many from there are its own.
    pub owned: u16,
    /// Workers of the node.
    pub workers: u16,
}

impl Default for Place {
    fn default() -> Self {
        Self { shards: 16, first: 0, owned: 16, workers: 1 }
    }
}

/// One case. The defaults are the base case, from which each row differs in one dimension or a few.
#[derive(Clone, Copy, Debug, PartialEq, clap::Args)]
pub struct Case {
    /// Topics, all of them known to the ruleset; at most 1,048,576.
    #[arg(long, default_value_t = 65_536)]
    pub topics: u32,
    /// Senders of all sessions together; at most 1,048,576.
    #[arg(long, default_value_t = 4_096)]
    pub senders: u32,
    /// Sessions, a power of two; each has a window and a key in every shard.
    #[arg(long, default_value_t = 256)]
    pub sessions: u32,
    /// How topics are drawn.
    #[arg(long, value_enum, default_value_t = Choice::Uniform)]
    pub choice: Choice,
    /// Messages a frame, 1 to 22.
    #[arg(long, default_value_t = 22)]
    pub messages: usize,
    /// What vouches for the frames that come.
    #[arg(long, value_enum, default_value_t = Proof::Crc)]
    pub ingress: Proof,
    /// What vouches for the frames that leave.
    #[arg(long, value_enum, default_value_t = Proof::Crc)]
    pub egress: Proof,
    /// Where the received frames are when their turn comes.
    #[arg(long, value_enum, default_value_t = WorkingSet::L2)]
    pub working_set: WorkingSet,
    /// Copies of each message; 0 = its topic has no subscriber.
    #[arg(long, default_value_t = 1)]
    pub fan_out: u32,
    /// Subscribers, in groups of as many as there are copies of a message.
    #[arg(long, default_value_t = 16)]
    pub destinations: u32,
    /// Which instructions the loop may use.
    #[arg(long, value_enum, default_value_t = Instructions::Best)]
    pub instructions: Instructions,
    /// What the truth log takes of the messages.
    #[arg(long, value_enum, default_value_t = Durability::None)]
    pub durability: Durability,
    /// The worker's shards.
    #[arg(skip)]
    pub place: Place,
}

impl Case {
    /// 65,536 topics, 4,096 senders, 256 sessions, uniform, 22 a frame, crc to crc, received into L2, one copy.
    pub const BASE: Self = Self {
        topics: 65_536,
        senders: 4_096,
        sessions: 256,
        choice: Choice::Uniform,
        messages: 22,
        ingress: Proof::Crc,
        egress: Proof::Crc,
        working_set: WorkingSet::L2,
        fan_out: 1,
        destinations: 16,
        instructions: Instructions::Best,
        durability: Durability::None,
        place: Place { shards: 16, first: 0, owned: 16, workers: 1 },
    };

    /// Why this case cannot be run, if it cannot.
    pub fn fault(&self) -> Option<&'static str> {
        let grouped =
            self.fan_out == 0 || (self.fan_out <= self.destinations && self.destinations.is_multiple_of(self.fan_out));
        [
            ((1_024..=1 << 20).contains(&self.topics), "--topics: give 1024 to 1048576"),
            ((1..=1 << 20).contains(&self.senders), "--senders: give 1 to 1048576"),
            (
                self.sessions.is_power_of_two() && self.sessions <= 1 << 16,
                "--sessions: give a power of two up to 65536",
            ),
            ((1..=22).contains(&self.messages), "--messages: give 1 to 22"),
            ((1..=64).contains(&self.destinations), "--destinations: give 1 to 64"),
            (grouped, "--fan-out: give 0, or a number that divides --destinations"),
            (self.named_path().is_some(), "--instructions: this CPU does not have them; give best"),
        ]
        .into_iter()
        .find_map(|(good, fault)| (!good).then_some(fault))
    }

    /// The path of the kernels; scalar where this CPU lacks the one that was asked for, which [`Case::fault`] says first.
    pub fn path(&self) -> Path {
        self.named_path().unwrap_or(Path::SCALAR)
    }

    fn named_path(&self) -> Option<Path> {
        match self.instructions {
            Instructions::Best => Some(Path::detect()),
            Instructions::Scalar => Path::parse("scalar"),
            Instructions::Avx2 => Path::parse("avx2"),
            Instructions::Avx512 => Path::parse("avx512"),
        }
    }

    /// The case with as many shards for the worker as half of `memory` bytes can hold: windows alone are 320 bytes for each
    /// session and shard. A row says how many it had.
    pub fn fitted(mut self, memory: u64) -> Self {
        let windows = |owned: u16| self.sessions as usize * usize::from(owned) * size_of::<Window>();
        while self.place.owned > 1 && windows(self.place.owned) as u64 > memory / 2 {
            self.place.owned /= 2;
        }
        self
    }

    /// Bytes of a frame.
    pub fn frame_bytes(&self) -> usize {
        LINE * (1 + self.messages)
    }

    /// Frames in a received buffer.
    pub fn frames(&self) -> usize {
        (RECEIVED_MAX / self.frame_bytes()).min(FRAMES_MAX)
    }

    /// Messages in a received buffer.
    pub fn per_buffer(&self) -> usize {
        self.frames() * self.messages
    }

    /// Received buffers in use at a time.
    pub fn ring(&self) -> usize {
        let bytes = match self.working_set {
            WorkingSet::L2 => L2_BYTES,
            WorkingSet::Dram => DRAM_BYTES,
            WorkingSet::Large => DRAM_BYTES.max(2 * crate::machine::cache_bytes(3)),
        };
        (bytes / (self.frames() * self.frame_bytes())).max(1)
    }

    /// What a row says of itself.
    pub fn json(&self) -> Value {
        let word = |value: Option<clap::builder::PossibleValue>| value.map(|value| value.get_name().to_owned());
        json!({
            "topics": self.topics, "senders": self.senders, "sessions": self.sessions,
            "choice": word(self.choice.to_possible_value()), "messages_per_frame": self.messages,
            "ingress": word(self.ingress.to_possible_value()), "egress": word(self.egress.to_possible_value()),
            "working_set": word(self.working_set.to_possible_value()),
            "ring_bytes": self.ring() * self.frames() * self.frame_bytes(), "fan_out": self.fan_out,
            "destinations": self.destinations, "shards": self.place.shards, "shards_owned": self.place.owned,
            "durability": word(self.durability.to_possible_value()), "path": self.path().name(),
        })
    }

    /// The words that make this case again.
    pub fn words(&self) -> Vec<String> {
        let word = |value: Option<clap::builder::PossibleValue>| {
            value.map_or_else(String::new, |value| value.get_name().to_owned())
        };
        [
            ("--topics", self.topics.to_string()),
            ("--senders", self.senders.to_string()),
            ("--sessions", self.sessions.to_string()),
            ("--choice", word(self.choice.to_possible_value())),
            ("--messages", self.messages.to_string()),
            ("--ingress", word(self.ingress.to_possible_value())),
            ("--egress", word(self.egress.to_possible_value())),
            ("--working-set", word(self.working_set.to_possible_value())),
            ("--instructions", word(self.instructions.to_possible_value())),
            ("--durability", word(self.durability.to_possible_value())),
            ("--fan-out", self.fan_out.to_string()),
            ("--destinations", self.destinations.to_string()),
        ]
        .into_iter()
        .flat_map(|(name, value)| [name.to_owned(), value])
        .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_small_machine_gets_fewer_shards() {
        let crowd = Case { sessions: 65_536, ..Case::BASE };
        assert_eq!(crowd.fitted(16 << 30).place.owned, 16);
        assert_eq!(crowd.fitted(400 << 20).place.owned, 8);
        assert_eq!(crowd.fitted(0).place.owned, 1);
    }

    #[test]
    fn cases_that_cannot_run_are_named() {
        assert_eq!(Case::BASE.fault(), None);
        assert!(Case { fan_out: 3, ..Case::BASE }.fault().is_some_and(|fault| fault.contains("--fan-out")));
        assert!(Case { sessions: 100, ..Case::BASE }.fault().is_some());
    }

    #[test]
    fn buffers_hold_what_the_kernel_would_merge() {
        assert_eq!((Case::BASE.frames(), Case::BASE.ring()), (44, 4));
        let single = Case { messages: 1, ..Case::BASE };
        assert_eq!((single.frames(), single.ring()), (64, 32));
    }
}
