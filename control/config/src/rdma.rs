//! The part of the node file that is for RDMA: `[rdma]`.
//!
//! Its numbers are those of the driver, which this crate does not know; a test of `tachyond` holds the defaults together.

use crate::node_file::within;
use serde::{Deserialize, Deserializer, de::Error};
use std::{fmt, net::IpAddr};

/// Longest name of a device: the kernel's `IB_DEVICE_NAME_MAX` without its final zero.
const DEVICE_BYTES_MAX: usize = 63;
/// What a path MTU can be (InfiniBand Architecture, 9.7.2).
const MTUS: [u32; 5] = [256, 512, 1_024, 2_048, 4_096];
/// What the driver keeps in front of a frame: a datagram's route header of 40 bytes, and what makes it a line.
const FRONT_BYTES: u32 = 64;

/// The name of an RDMA device, such as `mlx5_0`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
#[serde(try_from = "String")]
pub struct RdmaDevice(String);

impl RdmaDevice {
    /// The name.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for RdmaDevice {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let known = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        if (1..=DEVICE_BYTES_MAX).contains(&text.len()) && text.bytes().all(known) {
            return Ok(Self(text));
        }
        Err(format!("{text:?} is no name of an RDMA device: choose one such as mlx5_0 (`rdma link` lists them)"))
    }
}

impl fmt::Display for RdmaDevice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// RDMA; only read with `"rdma"` among the drivers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RdmaSection {
    /// The device. `None`: whichever has the address.
    pub device: Option<RdmaDevice>,
    /// Our address on it. `None`: that of `[network]`, see [`NodeFile::rdma_address`](crate::NodeFile::rdma_address).
    pub address: Option<IpAddr>,
    /// Packets' traffic class: DSCP in the high six bits, ECN in the low two.
    #[serde(deserialize_with = "within::<0, 255, _, _>")]
    pub traffic_class: u8,
    /// Most bytes of a packet's payload; the device's own limit counts where it is lower.
    #[serde(deserialize_with = "mtu")]
    pub mtu_bytes_max: u32,
    /// Tries after a packet that nobody acknowledged; 7 would be for ever with some devices.
    #[serde(deserialize_with = "within::<0, 6, _, _>")]
    pub retry_count: u8,
    /// Tries after the peer had nothing to receive into.
    #[serde(deserialize_with = "within::<0, 6, _, _>")]
    pub rnr_retry: u8,
    /// Exponent of the time until a packet is sent again: 4.096 µs × 2^n.
    #[serde(deserialize_with = "within::<1, 31, _, _>")]
    pub timeout: u8,
    /// How long a peer shall wait that we had no memory for, as a code.
    #[serde(deserialize_with = "within::<0, 31, _, _>")]
    pub min_rnr_timer: u8,
    /// Receives posted by each worker.
    #[serde(deserialize_with = "within::<1, 32_768, _, _>")]
    pub receive_depth: u32,
    /// Pieces of work on one queue pair.
    #[serde(deserialize_with = "within::<2, 32_768, _, _>")]
    pub send_depth: u32,
    /// Items that one worker has in the driver.
    #[serde(deserialize_with = "within::<1, 1_048_576, _, _>")]
    pub items_max: u32,
    /// Items that one destination may have in the driver.
    #[serde(deserialize_with = "within::<1, 1_048_576, _, _>")]
    pub items_per_lane_max: u32,
    /// Peers of each worker.
    #[serde(deserialize_with = "within::<1, 65_535, _, _>")]
    pub lanes_max: u16,
    /// Connections of each worker.
    #[serde(deserialize_with = "within::<0, 4_095, _, _>")]
    pub connections_max: u16,
    /// Frames up to this long travel in the descriptor.
    #[serde(deserialize_with = "within::<0, 1_024, _, _>")]
    pub inline_bytes: u32,
    /// Every n-th piece of work asks for a completion.
    #[serde(deserialize_with = "within::<1, 32_768, _, _>")]
    pub signal_interval: u32,
    /// Whether an idle worker sleeps until the device wakes it.
    pub events: bool,
    /// Tries until a lane has failed for good.
    #[serde(deserialize_with = "within::<0, 1_000, _, _>")]
    pub reconnects_max: u32,
    /// Milliseconds before the first of them; doubled for each further one.
    #[serde(deserialize_with = "within::<1, 60_000, _, _>")]
    pub reconnect_ms: u32,
}

impl Default for RdmaSection {
    fn default() -> Self {
        // The driver's defaults, where each is explained.
        Self {
            device: None,
            address: None,
            traffic_class: 106,
            mtu_bytes_max: 4_096,
            retry_count: 6,
            rnr_retry: 6,
            timeout: 14,
            min_rnr_timer: 18,
            receive_depth: 256,
            send_depth: 256,
            items_max: 1_024,
            items_per_lane_max: 256,
            lanes_max: 1_024,
            connections_max: 256,
            inline_bytes: 128,
            signal_interval: 16,
            events: false,
            reconnects_max: 10,
            reconnect_ms: 10,
        }
    }
}

impl RdmaSection {
    /// Largest frame in bytes, header included, whatever the device then has: a packet's payload, in whole lines.
    pub(crate) const fn frame_bytes_max(&self) -> u32 {
        self.mtu_bytes_max / 64 * 64
    }

    /// Bytes of a buffer that a packet is received into.
    pub(crate) const fn buffer_bytes(&self) -> u32 {
        FRONT_BYTES + self.mtu_bytes_max
    }
}

/// Reads a path MTU.
fn mtu<'de, D: Deserializer<'de>>(from: D) -> Result<u32, D::Error> {
    let value = i64::deserialize(from)?;
    let found = MTUS.into_iter().find(|mtu| i64::from(*mtu) == value);
    found.ok_or_else(|| D::Error::custom(format!("{value} is no path MTU: choose 256, 512, 1024, 2048 or 4096")))
}
