//! A port as it is told to control: one record each, bounded, and cut where there is more than it has room for.

use super::records::{LAYOUT, check_layout, put_text, text};
use zerocopy::{
    FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{U16, U32, U64},
};

const PORT_MAGIC: [u8; 4] = *b"TYP1";
/// Most bytes of a port's name.
pub const PORT_NAME_MAX: usize = 16;
/// Most counters that are told of a port; a NIC's extended statistics without those of single queues.
pub const PORT_COUNTERS_MAX: usize = 256;
/// Bytes of a counter's name: DPDK's longest has 63, the longest in use are near 40.
const COUNTER_NAME_MAX: usize = 56;
const WORD_MAX: usize = 16;
/// Room for a PCI address, or for a socket's path with what it belongs to.
const DEVICE_MAX: usize = 144;
/// Three lines of a terminal, as with replies.
const WHY_MAX: usize = 200;
/// Eight addresses of at most 43 characters, with a newline between them.
const ADDRESSES_MAX: usize = 8 * 44;
/// "None" where 0 is a NUMA node.
const NO_NODE: u32 = u32::MAX;

/// How a port is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PortState {
    /// Frames can pass.
    Ready,
    /// The device has no link.
    LinkDown,
    /// An operator stopped it.
    Stopped,
    /// It is not there yet.
    Waiting,
    /// It cannot work any more without a restart.
    Failed,
}

/// By the number that travels.
const STATES: [PortState; 5] =
    [PortState::Ready, PortState::LinkDown, PortState::Stopped, PortState::Waiting, PortState::Failed];

/// What `tachyond` says of a port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStatus {
    /// What people call it.
    pub name: String,
    /// Its driver.
    pub driver: String,
    /// The device or address it stands on.
    pub device: String,
    /// How it is.
    pub state: PortState,
    /// Why it is not ready, and what to do; empty if it is.
    pub why: String,
    /// Its hardware address.
    pub mac: Option<[u8; 6]>,
    /// Speed of its link in Mbit/s.
    pub speed_mbps: Option<u32>,
    /// Largest IP packet in bytes.
    pub mtu: Option<u32>,
    /// The NUMA node it is at.
    pub numa_node: Option<u32>,
    /// Queues that are open.
    pub queues: u16,
    /// How frames find the queue of their shard.
    pub steering: String,
    /// Its IP addresses, with their networks where it has some.
    pub addresses: Vec<String>,
    /// What driver and device count: the first [`PORT_COUNTERS_MAX`].
    pub counters: Vec<(String, u64)>,
    /// How many counters there are.
    pub counters_total: u32,
}

#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct CounterRecord {
    name: [u8; COUNTER_NAME_MAX],
    value: U64,
}

/// [`PortStatus`] as it travels.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct PortRecord {
    magic: [u8; 4],
    number: U32,
    layout: U64,
    ports: U16,
    state: U16,
    queues: U16,
    mac: [u8; 6],
    speed_mbps: U32,
    mtu: U32,
    numa_node: U32,
    counters_total: U32,
    name: [u8; PORT_NAME_MAX],
    driver: [u8; WORD_MAX],
    steering: [u8; WORD_MAX],
    device: [u8; DEVICE_MAX],
    why: [u8; WHY_MAX],
    addresses: [u8; ADDRESSES_MAX],
    counters: [CounterRecord; PORT_COUNTERS_MAX],
}

/// Answer to a question for one port.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct PortAnswer {
    /// The request's number.
    pub(super) number: u32,
    /// How many ports there are.
    pub(super) ports: u16,
    /// The port that was asked for.
    pub(super) port: PortStatus,
}

impl PortAnswer {
    /// On the heap: it is too large to be moved about.
    pub(super) fn to_bytes(number: u32, ports: u16, port: &PortStatus) -> Vec<u8> {
        let mut bytes = vec![0; size_of::<PortRecord>()];
        let Ok(record) = PortRecord::mut_from_bytes(&mut bytes) else { return Vec::new() };
        record.magic = PORT_MAGIC;
        record.number = number.into();
        record.layout = LAYOUT.into();
        record.ports = ports.into();
        let state = STATES.iter().zip(0_u16..).find(|(state, _)| **state == port.state);
        record.state = state.map_or(0, |(_, number)| number).into();
        record.queues = port.queues.into();
        record.mac = port.mac.unwrap_or_default();
        record.speed_mbps = port.speed_mbps.unwrap_or(0).into();
        record.mtu = port.mtu.unwrap_or(0).into();
        record.numa_node = port.numa_node.unwrap_or(NO_NODE).into();
        record.counters_total = port.counters_total.into();
        put_text(&mut record.name, &port.name);
        put_text(&mut record.driver, &port.driver);
        put_text(&mut record.steering, &port.steering);
        put_text(&mut record.device, &port.device);
        put_text(&mut record.why, &port.why);
        put_text(&mut record.addresses, &port.addresses.join("\n"));
        for (into, (name, value)) in record.counters.iter_mut().zip(&port.counters) {
            put_text(&mut into.name, name);
            into.value = (*value).into();
        }
        bytes
    }

    /// `None`: these bytes are no such answer, but perhaps a reply.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Result<Self, String>> {
        let record = PortRecord::ref_from_bytes(bytes).ok().filter(|record| record.magic == PORT_MAGIC)?;
        Some(Self::from_record(record))
    }

    fn from_record(record: &PortRecord) -> Result<Self, String> {
        check_layout(record.layout)?;
        let number = record.state.get();
        let state = STATES.get(usize::from(number)).ok_or_else(|| format!("there is no state {number} of a port"))?;
        let total = record.counters_total.get();
        let told = usize::try_from(total).unwrap_or(usize::MAX).min(PORT_COUNTERS_MAX);
        let known = |value: U32, none: u32| Some(value.get()).filter(|value| *value != none);
        let port = PortStatus {
            name: text(&record.name),
            driver: text(&record.driver),
            device: text(&record.device),
            state: *state,
            why: text(&record.why),
            mac: Some(record.mac).filter(|mac| *mac != [0; 6]),
            speed_mbps: known(record.speed_mbps, 0),
            mtu: known(record.mtu, 0),
            numa_node: known(record.numa_node, NO_NODE),
            queues: record.queues.get(),
            steering: text(&record.steering),
            addresses: text(&record.addresses).lines().map(str::to_owned).collect(),
            counters: record.counters[..told].iter().map(|one| (text(&one.name), one.value.get())).collect(),
            counters_total: total,
        };
        Ok(Self { number: record.number.get(), ports: record.ports.get(), port })
    }
}
