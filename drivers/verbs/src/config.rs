//! What a port is opened with.

use crate::{device::Secret, wires::BEAT_NS};
use std::net::IpAddr;

/// DSCP 26 (AF31) in the high six bits and ECT(0) in the low two: what switches that are set up for RoCE v2 expect in the
/// lossless class, and what lets them mark instead of drop (DCQCN).
const TRAFFIC_CLASS_DEFAULT: u8 = 26 << 2 | 0b10;
/// Most tries of either kind, of three bits: 7 would mean for ever where a peer has nothing to receive into, and the soft device
/// (rxe) takes it so for a peer that does not answer too. Then whoever is gone would hold its buffers for ever.
pub(crate) const RETRIES_MAX: u8 = 6;
const RETRY_COUNT_DEFAULT: u8 = RETRIES_MAX;
const RNR_RETRY_DEFAULT: u8 = RETRIES_MAX;
/// Devices may wait up to four times as long as the timeout says (InfiniBand Architecture, 9.7.6.1.3).
const TIMEOUT_FACTOR: u64 = 4;
/// 4.096 µs × 2^14 = 67 ms until a packet is sent again: above any pause of a loaded switch, and with six tries half a
/// second until a dead peer is seen.
const TIMEOUT_DEFAULT: u8 = 14;
/// Code 18 is 5.12 ms (InfiniBand Architecture, table of RNR NAK timer values); six tries are 31 ms, more than a subscriber that
/// shares its core waits for its next slice.
const MIN_RNR_TIMER_DEFAULT: u8 = 18;
/// Receives posted: four bursts, so that a worker may be late by some turns.
const RECEIVE_DEPTH_DEFAULT: u32 = 256;
/// Pieces of work on one queue pair: four bursts.
const SEND_DEPTH_DEFAULT: u32 = 256;
/// Bytes that are copied into the descriptor: a header and one message. Longer ones the device fetches better itself.
const INLINE_BYTES_DEFAULT: u32 = 128;
/// One completion in this many pieces of work, and one for the last of a burst.
const SIGNAL_INTERVAL_DEFAULT: u32 = 16;
/// In front of a frame: 24 and the 40 of a datagram's route header make one line.
const RECEIVE_OFFSET_DEFAULT: u32 = 24;

/// The memory that all buffers lie in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ArenaRegion {
    /// Its first address.
    pub base: usize,
    /// Its length in bytes.
    pub bytes: usize,
}

/// How to open a port.
#[derive(Clone, Debug)]
pub struct VerbsConfig {
    /// The device, such as `mlx5_0`; `None`: whichever has the address.
    pub device: Option<String>,
    /// Our address on it. Its GID is found by this and by its type, RoCE v2, never by an index.
    pub ip: IpAddr,
    /// Workers; each gets queues of its own.
    pub workers: u16,
    /// Shards of the fabric; what claims to be of another one is refused.
    pub shard_count: u16,
    /// Registered once, at the start.
    pub arena: ArenaRegion,
    /// Packets' traffic class: DSCP in the high six bits, ECN in the low two. Default 106: DSCP 26 and ECT(0).
    pub traffic_class: u8,
    /// Most bytes of a packet's payload: 256, 512, 1024, 2048 or 4096. The port's own limit counts where it is lower.
    pub mtu_bytes_max: u32,
    /// Tries after a packet that nobody acknowledged, 0 to 6; 7 would be for ever with some devices and is taken as 6. Default 6.
    pub retry_count: u8,
    /// Tries after the peer had nothing to receive into, 0 to 6; 7 would be for ever and is taken as 6. Default 6.
    pub rnr_retry: u8,
    /// Exponent of the time until a packet is sent again: 4.096 µs × 2^n, 1 to 31. Default 14.
    pub timeout: u8,
    /// How long a peer shall wait that we had no memory for, as the code of the InfiniBand table, 0 to 31. Default 18: 5.12 ms.
    pub min_rnr_timer: u8,
    /// Receives posted per worker. Default 256.
    pub receive_depth: u32,
    /// Bytes left free in front of what is received. Default 24: a datagram's frame then starts on a line, behind its route
    /// header of 40. With connections only, 0 puts theirs on a line.
    pub receive_offset_bytes: u32,
    /// Pieces of work per queue pair. Default 256.
    pub send_depth: u32,
    /// Items that one worker has in the driver, over all destinations. Default 1,024.
    pub items_max: u32,
    /// Items that one destination may have in the driver; what is more ends as `E_TX_CONGESTION`, so that one slow subscriber
    /// does not hold all buffers. Default 256.
    pub items_per_lane_max: u32,
    /// Destinations per worker. Default 1,024.
    pub lanes_max: u16,
    /// Names that a destination has on average, such as a port number for each shard. Default 1.
    pub ports_per_peer: u16,
    /// Connections per worker. Default 256.
    pub connections_max: u16,
    /// Frames up to this long travel in the descriptor. Default 128; the device's own limit counts where it is lower.
    pub inline_bytes: u32,
    /// Every n-th piece of work asks for a completion, and so does the last of a burst. Default 16.
    pub signal_interval: u32,
    /// Whether an idle worker sleeps until the device wakes it: for hosts with fewer cores than workers. Default false.
    pub events: bool,
    /// Reconnections tried before a lane is reported as failed; none is tried while the port's own link is down. Default 10:
    /// with the wait doubled each time, and half a second until a try is seen to fail, about 15 s.
    pub reconnects_max: u32,
    /// Before the first try; doubled for each further one. Default 10 ms.
    pub reconnect_ns: u64,
    /// How long the peer may take to answer an offer. Default 1 s.
    pub offer_ns: u64,
    /// Where packet numbers and Q_Keys come from; must be the operating system's randomness outside of tests.
    pub seed: Secret<u64>,
}

impl VerbsConfig {
    /// The defaults, for this address and arena.
    #[must_use]
    pub const fn new(ip: IpAddr, arena: ArenaRegion, seed: u64) -> Self {
        Self {
            device: None,
            ip,
            workers: 1,
            shard_count: 16,
            arena,
            traffic_class: TRAFFIC_CLASS_DEFAULT,
            mtu_bytes_max: 4_096,
            retry_count: RETRY_COUNT_DEFAULT,
            rnr_retry: RNR_RETRY_DEFAULT,
            timeout: TIMEOUT_DEFAULT,
            min_rnr_timer: MIN_RNR_TIMER_DEFAULT,
            receive_depth: RECEIVE_DEPTH_DEFAULT,
            receive_offset_bytes: RECEIVE_OFFSET_DEFAULT,
            send_depth: SEND_DEPTH_DEFAULT,
            items_max: 1_024,
            items_per_lane_max: 256,
            lanes_max: 1_024,
            ports_per_peer: 1,
            connections_max: 256,
            inline_bytes: INLINE_BYTES_DEFAULT,
            signal_interval: SIGNAL_INTERVAL_DEFAULT,
            events: false,
            reconnects_max: 10,
            reconnect_ns: 10_000_000,
            offer_ns: 1_000_000_000,
            seed: Secret(seed),
        }
    }

    /// Completions that a worker can have at once: of every receive and of every piece of work.
    pub(crate) const fn completions_max(&self) -> u32 {
        let pairs = self.connections_max as u32 + 1;
        self.receive_depth.saturating_add(pairs.saturating_mul(self.send_depth))
    }

    /// Beats without a completion after which a device is taken to have forgotten its work: longer than all tries for a peer
    /// that does not answer and all for one that has nothing to receive into, taking its timer to be like ours.
    pub(crate) fn silent_beats_max(&self) -> u32 {
        let tries = |count: u8| u64::from(count.min(RETRIES_MAX)) + 1;
        let answers_ns = tries(self.retry_count) * TIMEOUT_FACTOR * (4_096 << self.timeout);
        let receives_ns = tries(self.rnr_retry) * not_ready_ns(self.min_rnr_timer);
        // One more for the beat that came right behind the work, and one because the last is not whole.
        u32::try_from((answers_ns + receives_ns) / BEAT_NS).unwrap_or(u32::MAX - 2) + 2
    }
}

/// What a code of the InfiniBand table of RNR NAK timer values means.
const fn not_ready_ns(code: u8) -> u64 {
    match code {
        0 => 655_360_000,
        1 => 10_000,
        // From here each second one is twice as long, and those between half as long again.
        code => (10_000 << (code / 2)) * (2 + code as u64 % 2) / 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_device_is_waited_for_longer_than_it_may_try() {
        assert_eq!(
            [2, 3, 18, 19, 26, 31].map(not_ready_ns),
            [20_000, 30_000, 5_120_000, 7_680_000, 81_920_000, 491_520_000]
        );
        let mut config = VerbsConfig::new([192, 0, 2, 1].into(), ArenaRegion { base: 0, bytes: 0 }, 1);
        assert_eq!(
            config.silent_beats_max(),
            21,
            "seven times 4 × 67 ms and seven times 5 ms, in tenths of a second, and two"
        );
        config.timeout = 31;
        assert!(config.silent_beats_max() > 2_000_000);
    }
}
