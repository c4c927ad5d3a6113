//! What one loaded program holds constant.

use crate::{LoaderError, Result, contract};
use std::path::PathBuf;
use tachyon_wire::frame::{BASE_PORT, SHARDS_DEFAULT};

/// Where the program gives frames that pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deliver {
    /// To the kernel's sockets.
    Kernel,
    /// To the AF_XDP socket whose index is the receive queue; to the kernel where there is none.
    ByQueue,
    /// To the AF_XDP socket whose index is queue × shard count + shard; to the kernel where there is none.
    ByShard,
    /// Everything that is not dropped, whoever it is for, to the AF_XDP socket whose index is the receive queue; to the kernel
    /// where there is none. For interfaces that belong to a program which is its own neighbour.
    AllByQueue,
}

/// How many frames a source may send, on each CPU that its packets come to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Frames per second in the long run.
    pub per_second: u32,
    /// Frames at once; at least those of one tick of the kernel's coarse clock, 10 ms with the slowest.
    pub burst: u32,
}

/// The slowest tick of a kernel (CONFIG_HZ=100), in ticks per second.
const TICKS_PER_SECOND: u32 = 100;

/// How far a bucket may be ahead of the clock, in sixteenths of a nanosecond: with a clock that is as far, both still fit 64
/// bits.
const AHEAD_MAX: u64 = 1 << 62;

/// What the program is made for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Config {
    /// UDP port of shard 0.
    pub base_port: u16,
    /// Shards, and so ports.
    pub shard_count: u16,
    /// Largest frame in bytes, header included.
    pub frame_bytes_max: u32,
    /// Where good frames go.
    pub deliver: Deliver,
    /// For each session that is pinned; `None` is no limit.
    pub pinned_rate: Option<Rate>,
    /// For each other source; `None` is no limit. Sources share 8,192 buckets per CPU by a keyed hash.
    pub unpinned_rate: Option<Rate>,
    /// Of that hash: random, and told to nobody. A program that is adopted keeps the one it has.
    pub seed: u64,
    /// Goes into the layout: a program of another generation gets new tables, with what is given, and takes over none.
    pub generation: u32,
    /// Whether native XDP is tried. Without it everything is generic, which is for finding out what native XDP changes.
    pub native_allowed: bool,
    /// Whether generic XDP will do where the driver has no native one. It comes behind the allocation of the packet's
    /// buffer and so saves much less, but the ledger and the verdicts are the same.
    pub generic_allowed: bool,
    /// Folder for the pins, on a bpf file system; a folder for each interface is made in it.
    pub pins: PathBuf,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            base_port: BASE_PORT,
            shard_count: SHARDS_DEFAULT,
            frame_bytes_max: 1472, // the largest frame at MTU 1500 over IPv4, section 9 of the wire document
            deliver: Deliver::Kernel,
            pinned_rate: None,
            unpinned_rate: None,
            seed: 0,
            generation: 0,
            native_allowed: true,
            generic_allowed: true,
            pins: PathBuf::from("/sys/fs/bpf/tachyon"),
        }
    }
}

impl Rate {
    /// Interval and tolerance in sixteenths of a nanosecond, as the program keeps them.
    fn bucket(self) -> Result<[u64; 2]> {
        if self.per_second == 0 || self.burst < self.per_second.div_ceil(TICKS_PER_SECOND) {
            return Err(LoaderError(format!(
                "a rate of {} frames per second with a burst of {} cannot be kept by a clock that steps every 10 ms; \
                 give a rate above 0 and a burst of at least a hundredth of it",
                self.per_second, self.burst
            )));
        }
        let interval = 16_000_000_000 / u64::from(self.per_second);
        let tolerance = u64::from(self.burst - 1).checked_mul(interval).filter(|ahead| *ahead <= AHEAD_MAX);
        let tolerance = tolerance.ok_or_else(|| {
            LoaderError(format!(
                "a burst of {} at {} frames per second is earned in more than nine years; give a smaller one",
                self.burst, self.per_second
            ))
        })?;
        Ok([interval, tolerance])
    }
}

/// Bytes of `struct prefilter_config`.
pub(crate) const CONFIG_BYTES: usize = 72;
/// Where its seed stands, which alone may differ between programs that are the same.
const SEED: std::ops::Range<usize> = 16..24;

/// `struct prefilter_config` as the program has it.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Image(pub(crate) [u8; CONFIG_BYTES]);

impl Image {
    /// The layout hash in it.
    pub(crate) fn layout(&self) -> u32 {
        u32::from_ne_bytes([self.0[4], self.0[5], self.0[6], self.0[7]])
    }

    /// Whether a program with this one does exactly what one with the other does.
    pub(crate) fn is_equivalent(&self, other: &Self) -> bool {
        let (mut a, mut b) = (self.0, other.0);
        a[SEED].fill(0);
        b[SEED].fill(0);
        a == b
    }
}

impl Config {
    /// The constants of a program whose object file and maps have these hashes.
    pub(crate) fn image(&self, layout: u32, build: u64) -> Result<Image> {
        if self.shard_count == 0
            || u32::from(self.base_port) + u32::from(self.shard_count) > 65_536
            || self.base_port == 0
        {
            return Err(LoaderError(format!(
                "{} shards from port {} on leave the range of ports; choose a lower base_port",
                self.shard_count, self.base_port
            )));
        }
        let bucket = |rate: Option<Rate>| rate.map_or(Ok([0, 0]), Rate::bucket);
        let ([pinned, pinned_tolerance], [unpinned, unpinned_tolerance]) =
            (bucket(self.pinned_rate)?, bucket(self.unpinned_rate)?);
        let deliver = match self.deliver {
            Deliver::Kernel => contract::TO_KERNEL,
            Deliver::ByQueue => contract::TO_QUEUE,
            Deliver::ByShard => contract::TO_SHARD,
            Deliver::AllByQueue => contract::ALL_TO_QUEUE,
        };
        let mut bytes = Vec::with_capacity(CONFIG_BYTES);
        bytes.extend(contract::VERSION.to_ne_bytes());
        bytes.extend(layout.to_ne_bytes());
        for number in [build, self.seed, pinned, pinned_tolerance, unpinned, unpinned_tolerance] {
            bytes.extend(number.to_ne_bytes());
        }
        bytes.extend(self.frame_bytes_max.to_ne_bytes());
        bytes.extend(deliver.to_ne_bytes());
        bytes.extend(self.base_port.to_ne_bytes());
        bytes.extend(self.shard_count.to_ne_bytes());
        bytes.extend([0; 4]);
        let bytes = bytes.try_into().map_err(|_| LoaderError("contract.h and config.rs disagree".to_owned()))?;
        Ok(Image(bytes))
    }
}
