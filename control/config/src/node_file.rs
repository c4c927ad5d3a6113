//! The node file: what `tachyond` reads once, at boot, before packets and with privileges.
//!
//! Every key has a default, so an empty file is a valid node; `defaults/node.toml` lists all of them with their
//! defaults and is the manual. Ranges are checked while a value is read, so that a complaint points at it.

use crate::{
    AfxdpSection, Diagnostic, DpdkSection, Driver, Drivers, LogSection, PortSection, PrefilterSection, RdmaSection,
    Severity, Source, ports::MTU_DEFAULT, ports_check, prefilter, read,
};
use serde::{Deserialize, Deserializer, de::Error};
use std::{net::IpAddr, ops::Range, path::PathBuf};

/// The commented default file. Parsing it gives [`NodeFile::default`].
pub const DEFAULT_NODE_FILE: &str = include_str!("../defaults/node.toml");

/// Everything a node is told at boot.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeFile {
    /// Folders and users.
    pub node: NodeSection,
    /// What it listens to.
    pub network: NetworkSection,
    /// Cores and what they do when idle.
    pub workers: WorkersSection,
    /// Buffers and pages.
    pub memory: MemorySection,
    /// Sizes of tables.
    pub limits: LimitsSection,
    /// The truth log.
    pub log: LogSection,
    /// RDMA; only read with `"rdma"` among the drivers.
    pub rdma: RdmaSection,
    /// DPDK itself; only read with `"dpdk"` among the drivers.
    pub dpdk: DpdkSection,
    /// The devices of DPDK, in order; none without it.
    pub ports: Vec<PortSection>,
    /// Interfaces that have a pre-filter.
    #[serde(rename = "prefilter")]
    pub prefilters: Vec<PrefilterSection>,
    /// XDP sockets; only read with `"afxdp"` among the drivers.
    pub afxdp: AfxdpSection,
}

/// Folders and users.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodeSection {
    /// Where the boot number and the last good ruleset are kept; made if missing.
    pub state_dir: PathBuf,
    /// Where the Unix socket for control lies; made if missing.
    pub run_dir: PathBuf,
    /// Where pre-filters are held for as long as nobody takes them off: a folder on a bpf file system; made if missing.
    pub filter_dir: PathBuf,
    /// The user to become once everything is open, by name or number; needs a start as root. `None`: stay who we are.
    pub user: Option<String>,
    /// A further user, by name or number, whose processes may connect as control; root and the node's own user always may.
    pub control_user: Option<String>,
}

/// What it listens to.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NetworkSection {
    /// The drivers, in order of preference.
    pub driver: Drivers,
    /// The address that sockets listen on and send from; those of DPDK's ports stand there.
    pub address: IpAddr,
    /// Shard n is at this UDP port + n.
    #[serde(deserialize_with = "within::<1, 65_535, _, _>")]
    pub base_port: u16,
    /// Shards of the fabric; a power of two, the same on every node.
    #[serde(deserialize_with = "power_of_two::<1, 64, _, _>")]
    pub shard_count: u16,
    /// Largest frame in bytes, header included. `None`: what fits the MTU, see [`NodeFile::frame_bytes_max`].
    #[serde(deserialize_with = "frame_bytes")]
    pub frame_bytes_max: Option<u32>,
    /// Whether io_uring may be used.
    pub io_uring: Switch,
    /// Whether runs of equal frames are sent and received in one go.
    pub gso: bool,
    /// Whether the kernel sends from our buffers without copying.
    pub zero_copy: bool,
    /// Bytes the kernel may hold per socket and direction.
    #[serde(deserialize_with = "within::<65_536, 1_073_741_824, _, _>")]
    pub socket_buffer_bytes: u32,
}

/// Use it if it is there, or do not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Switch {
    /// Use it if it is there; if not, go on without and say so.
    Auto,
    /// Do not use it.
    Off,
}

/// Cores and what they do when idle.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct WorkersSection {
    /// Workers; each owns a core and its part of the shards.
    #[serde(deserialize_with = "within::<1, 64, _, _>")]
    pub count: u16,
    /// The cores to pin them to, one each; empty: chosen from the machine's topology.
    pub cores: Vec<u16>,
    /// What an idle worker does.
    pub idle: Idle,
    /// With `idle = "wait"`: how long an idle worker goes on polling before it sleeps, in microseconds.
    #[serde(deserialize_with = "within::<0, 1_000_000, _, _>")]
    pub idle_spin_us: u32,
    /// With `idle = "wait"`: the longest sleep in microseconds. Frames wake it; commands and rulesets wait this long.
    #[serde(deserialize_with = "within::<10, 1_000, _, _>")]
    pub idle_wait_us: u32,
    /// Whether a worker that allocates or frees after start-up ends the process, rather than being counted.
    pub strict_heap: bool,
    /// Which instructions the loop may use.
    pub instructions: Instructions,
}

/// Which instructions the loop may use. They change what it costs and nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Instructions {
    /// The best that the CPU has.
    Auto,
    /// AVX-512 with VAES and VPCLMULQDQ, or do not start.
    Avx512,
    /// AVX2 with AES-NI and PCLMULQDQ, or do not start.
    Avx2,
    /// What every machine has.
    Scalar,
}

/// What an idle worker does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Idle {
    /// Polls on: lowest latency, a whole core.
    Spin,
    /// Polls on for a while, then sleeps until something arrives.
    Wait,
}

/// Buffers and pages.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct MemorySection {
    /// Buffers of each worker. `None`: what the driver needs, see [`NodeFile::buffers_per_worker`].
    #[serde(deserialize_with = "buffers")]
    pub buffers_per_worker: Option<u32>,
    /// How many of them the driver holds to receive into; a power of two, at most half.
    #[serde(deserialize_with = "power_of_two::<16, 32_768, _, _>")]
    pub receive_buffers: u16,
    /// Bytes of a buffer. `None`: what the driver needs, see [`NodeFile::buffer_bytes`].
    #[serde(deserialize_with = "buffer_bytes")]
    pub buffer_bytes: Option<u32>,
    /// Which pages to use.
    pub pages: Pages,
    /// Whether to lock all memory, so that nothing on the packet's way can fault.
    pub lock: bool,
}

/// Which pages to use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum Pages {
    /// The largest that are there.
    #[serde(rename = "auto")]
    Auto,
    /// 1 GiB pages, or do not start.
    #[serde(rename = "1G")]
    Huge1G,
    /// 2 MiB pages, or do not start.
    #[serde(rename = "2M")]
    Huge2M,
    /// Ordinary pages.
    #[serde(rename = "ordinary")]
    Ordinary,
}

/// Sizes of tables; all of their memory is taken at start-up.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LimitsSection {
    /// Topic slots.
    #[serde(deserialize_with = "within::<64, 1_048_576, _, _>")]
    pub topics_max: u32,
    /// Sender slots.
    #[serde(deserialize_with = "within::<64, 1_048_576, _, _>")]
    pub senders_max: u32,
    /// Sessions of publishers; a power of two.
    #[serde(deserialize_with = "power_of_two::<64, 1_048_576, _, _>")]
    pub sessions_max: u32,
    /// Subscribers.
    #[serde(deserialize_with = "within::<1, 4_096, _, _>")]
    pub subscribers_max: u32,
    /// Subscribers of all routes together: the targets section of a ruleset.
    #[serde(deserialize_with = "within::<64, 4_194_304, _, _>")]
    pub targets_max: u32,
    /// Longest wait for an egress frame to fill, in nanoseconds.
    #[serde(deserialize_with = "within::<0, 5_000, _, _>")]
    pub fill_window_ns: u32,
}

impl Default for NodeSection {
    fn default() -> Self {
        Self {
            state_dir: "/var/lib/tachyon".into(),
            run_dir: "/run/tachyon".into(),
            filter_dir: "/sys/fs/bpf/tachyon".into(),
            user: None,
            control_user: None,
        }
    }
}

impl Default for NetworkSection {
    fn default() -> Self {
        Self {
            driver: Driver::Uring.into(),
            address: IpAddr::from([0, 0, 0, 0]),
            base_port: 24_640, // below the ephemeral range, fixed by the design
            shard_count: 16,   // the design's default
            frame_bytes_max: None,
            io_uring: Switch::Auto,
            gso: true,
            zero_copy: false,
            socket_buffer_bytes: 4 << 20, // what a stock kernel allows from 6.12 on
        }
    }
}

impl Default for WorkersSection {
    fn default() -> Self {
        Self {
            count: 1,
            cores: Vec::new(),
            idle: Idle::Wait,
            idle_spin_us: 50,    // ten fill windows: longer than any gap in traffic worth the name
            idle_wait_us: 1_000, // the longest that a command or a ruleset may wait
            strict_heap: false,
            instructions: Instructions::Auto,
        }
    }
}

impl Default for MemorySection {
    fn default() -> Self {
        Self {
            buffers_per_worker: None,
            receive_buffers: 64, // one burst: more are not read before the next is filled, and cost cache
            buffer_bytes: None,
            pages: Pages::Auto,
            lock: true,
        }
    }
}

impl Default for LimitsSection {
    fn default() -> Self {
        Self {
            topics_max: 65_536,
            senders_max: 65_536,
            sessions_max: 16_384,
            subscribers_max: 1_024,
            targets_max: 65_536,
            fill_window_ns: 5_000, // the design's limit
        }
    }
}

/// A step on the way to a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A key of a table.
    Key(&'static str),
    /// A place in a list, from 0.
    Item(usize),
}

/// What is wrong with values that are each in range.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Contradiction {
    /// The way to the value to point at; not every file has it, since what is wrong may be a default.
    pub place: Vec<Step>,
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub help: String,
}

impl Contradiction {
    /// Something that is wrong at `place`.
    pub(crate) fn new(place: impl Into<Vec<Step>>, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { place: place.into(), message: message.into(), help: help.into() }
    }

    /// Where the place is in a file.
    fn span(&self, text: &str) -> Option<Range<usize>> {
        let table = toml::de::DeTable::parse(text).ok()?;
        let (Step::Key(first), rest) = self.place.split_first()? else { return None };
        let start = table.get_ref().get(*first)?;
        let value = rest.iter().try_fold(start, |value, step| match step {
            Step::Key(key) => value.get_ref().get(*key),
            Step::Item(index) => value.get_ref().get(*index),
        });
        value.map(toml::Spanned::span)
    }
}

/// MTU 1500 - 20 (IPv4) - 8 (UDP) = 64 + 22 x 64.
const FRAME_BYTES_DEFAULT: u32 = 1_472;
/// 65,664 bytes hold what the kernel joins datagrams into (`UDP_GRO`), and 31 lines more make the number of lines odd.
const URING_BUFFER_BYTES: u32 = 1_057 * 64;
/// Bytes that a packet has in front of IP and behind it: Ethernet 14, a VLAN tag 4, a checksum 4; in whole lines.
const ETHERNET_BYTES: u32 = 64;
/// Lines of a buffer that one packet is received into: one more than 2 KiB, so that buffers do not share cache sets.
const PACKET_LINES_MIN: u32 = 33;

impl NodeFile {
    /// Reads a node file's text.
    ///
    /// # Errors
    /// The first thing that is wrong, at its place.
    pub fn parse(source: &Source<'_>) -> Result<Self, Diagnostic> {
        let file: Self = read(source).map_err(|mut diagnostic| {
            // `within` and its like say what is wrong and what to do in one sentence.
            if let Some((wrong, fix)) = diagnostic.message.clone().split_once(": choose ") {
                diagnostic = diagnostic.saying(wrong, format!("choose {fix}"));
            }
            diagnostic
        })?;
        file.check().map_err(|found| {
            let span = found.span(source.text);
            Diagnostic::new(Severity::Error, source.name, source.text, span).saying(found.message, found.help)
        })?;
        Ok(file)
    }

    /// Looks for values that contradict each other.
    ///
    /// # Errors
    /// The first contradiction.
    pub fn check(&self) -> Result<(), Contradiction> {
        let (network, workers, memory) = (&self.network, &self.workers, &self.memory);
        let ensure = |holds: bool, [section, key]: [&'static str; 2], message: String, help: String| {
            if holds { Ok(()) } else { Err(Contradiction::new([Step::Key(section), Step::Key(key)], message, help)) }
        };
        let (shards, count, listed) = (network.shard_count, workers.count, workers.cores.len());
        ensure(
            u32::from(network.base_port) + u32::from(shards) - 1 <= 65_535,
            ["network", "base_port"],
            format!("with {shards} shards the last one's port is above 65535"),
            format!("choose {} or less", 65_536 - u32::from(shards)),
        )?;
        ensure(
            count <= shards,
            ["workers", "count"],
            format!("{count} workers for {shards} shards: some would own none"),
            format!("choose {shards} or less"),
        )?;
        ensure(
            listed == 0 || listed == usize::from(count),
            ["workers", "cores"],
            format!("{listed} cores for {count} workers"),
            "list one core for each worker, or none".into(),
        )?;
        let twice = workers.cores.iter().enumerate().find(|(i, core)| workers.cores[..*i].contains(core));
        ensure(
            twice.is_none(),
            ["workers", "cores"],
            format!("core {} is listed twice", twice.map_or(0, |(_, core)| *core)),
            "give each worker a core of its own".into(),
        )?;
        ensure(
            u32::from(memory.receive_buffers) <= self.buffers_per_worker() / 2,
            ["memory", "receive_buffers"],
            format!(
                "{} of {} buffers would be kept to receive into",
                memory.receive_buffers,
                self.buffers_per_worker()
            ),
            "choose at most half of buffers_per_worker".into(),
        )?;
        let uring_at = network.driver.list().iter().position(|driver| *driver == Driver::Uring);
        ensure(
            uring_at.is_none_or(|at| at + 1 == network.driver.list().len()),
            ["network", "driver"],
            "sockets reach every destination, so what stands behind uring would never send".into(),
            "put uring last".into(),
        )?;
        if network.driver.has(Driver::Rdma) {
            self.check_rdma()?;
        }
        if network.driver.has(Driver::Uring) {
            let (frame, buffer) = (self.frame_bytes_max(), self.buffer_bytes());
            let needed = frame + DRIVER_BYTES;
            ensure(
                buffer >= needed,
                ["memory", "buffer_bytes"],
                format!("a frame of {frame} bytes does not fit a buffer of {buffer}"),
                format!("choose {} or more", needed.next_multiple_of(64)),
            )?;
        }
        prefilter::check(self)?;
        ports_check::check(self)
    }

    /// What can be wrong between `[rdma]` and the rest although each value is in range.
    fn check_rdma(&self) -> Result<(), Contradiction> {
        let (rdma, frame, buffer) = (&self.rdma, self.frame_bytes_max(), self.buffer_bytes());
        let buffers = self.buffers_per_worker();
        let wrong = |[section, key]: [&'static str; 2], message: String, help: String| {
            Err(Contradiction::new([Step::Key(section), Step::Key(key)], message, help))
        };
        if self.rdma_address().is_none() {
            let help = "set address in [rdma] to one that the device's interface has";
            return wrong(["network", "driver"], "rdma without an address".into(), help.into());
        }
        if rdma.signal_interval > rdma.send_depth {
            let text = format!("a completion every {} pieces of work of {}", rdma.signal_interval, rdma.send_depth);
            return wrong(["rdma", "signal_interval"], text, format!("choose {} or less", rdma.send_depth));
        }
        if rdma.receive_depth > buffers / 2 {
            let text = format!("{} of {buffers} buffers would be kept to receive into", rdma.receive_depth);
            return wrong(["rdma", "receive_depth"], text, "choose at most half of buffers_per_worker".into());
        }
        if frame > rdma.frame_bytes_max() {
            let text = format!("a frame of {frame} bytes does not fit a path MTU of {}", rdma.mtu_bytes_max);
            let help = format!("choose {} or less, leave it out, or raise mtu_bytes_max", rdma.frame_bytes_max());
            return wrong(["network", "frame_bytes_max"], text, help);
        }
        if buffer < rdma.buffer_bytes() {
            let text = format!("a packet of {} bytes does not fit a buffer of {buffer}", rdma.mtu_bytes_max);
            let help = format!("choose {} or more, leave it out, or lower mtu_bytes_max", rdma.buffer_bytes());
            return wrong(["memory", "buffer_bytes"], text, help);
        }
        Ok(())
    }

    /// Our address on the RDMA device: that of `[rdma]`, or else of `[network]` if it is one.
    #[must_use]
    pub fn rdma_address(&self) -> Option<IpAddr> {
        self.rdma.address.or(Some(self.network.address)).filter(|address| !address.is_unspecified())
    }

    /// Largest frame in bytes, header included: as the file says, or the largest that every driver carries: what fits the MTU
    /// of every port, MTU 1500 over IPv4 for sockets, and a packet's payload for RDMA. So a frame fits wherever it goes.
    #[must_use]
    pub fn frame_bytes_max(&self) -> u32 {
        let drivers = &self.network.driver;
        let ports = self.ports.iter().map(PortSection::frame_bytes_max).min();
        let sockets = drivers.has(Driver::Uring).then_some(FRAME_BYTES_DEFAULT);
        let rdma = drivers.has(Driver::Rdma).then_some(self.rdma.frame_bytes_max());
        let fits_all = || [ports, sockets, rdma].into_iter().flatten().min();
        self.network.frame_bytes_max.or_else(fits_all).unwrap_or(FRAME_BYTES_DEFAULT)
    }

    /// Buffers of each worker: as the file says, or what the driver needs that needs most. With dpdk every descriptor of every
    /// port may hold one, with rdma every receive, and as many again are the worker's.
    #[must_use]
    pub fn buffers_per_worker(&self) -> u32 {
        let need = |driver: &Driver| match driver {
            Driver::Uring => URING_BUFFERS,
            Driver::Dpdk => {
                let dpdk = &self.dpdk;
                let ring = u32::from(dpdk.receive_descriptors) + u32::from(dpdk.transmit_descriptors);
                let ports = u32::try_from(self.ports.len()).unwrap_or(u32::MAX);
                (2 * (ports.saturating_mul(ring) + DPDK_KEPT)).next_multiple_of(1_024)
            }
            Driver::Afxdp => self.afxdp_buffers(),
            Driver::Rdma => (2 * (self.rdma.receive_depth + self.rdma.send_depth)).next_multiple_of(1_024),
        };
        let most = || self.network.driver.list().iter().map(need).max();
        self.memory.buffers_per_worker.or_else(most).unwrap_or(URING_BUFFERS)
    }

    /// Bytes of a buffer: as the file says, or what the driver needs that needs most. An odd number of lines by default, so that
    /// the starts of neighbours fall into different sets of a cache; with afxdp it is what fits the kernel's pages.
    #[must_use]
    pub fn buffer_bytes(&self) -> u32 {
        let drivers = &self.network.driver;
        let need = |driver: &Driver| match driver {
            // Beside dpdk, which cannot count buffers of 64 KiB, and beside afxdp, which would fill them with a packet each,
            // sockets get what a frame needs.
            Driver::Uring if drivers.has(Driver::Dpdk) || drivers.has(Driver::Afxdp) => {
                self.frame_bytes_max() + DRIVER_BYTES
            }
            Driver::Uring => URING_BUFFER_BYTES,
            Driver::Dpdk => self.packet_buffer_bytes().max(PACKET_LINES_MIN * 64),
            Driver::Afxdp => self.afxdp_buffer_bytes(DRIVER_BYTES),
            Driver::Rdma => self.rdma.buffer_bytes().max(PACKET_LINES_MIN * 64),
        };
        let sized = |bytes: u32| match drivers.has(Driver::Afxdp) {
            true => prefilter::chunk_bytes(bytes),
            false => (bytes.div_ceil(64) | 1) * 64,
        };
        let most = || drivers.list().iter().map(need).max().map(sized);
        self.memory.buffer_bytes.or_else(most).unwrap_or(URING_BUFFER_BYTES)
    }

    /// Bytes that a packet of the largest MTU among the ports needs, in whole lines.
    pub(crate) fn packet_buffer_bytes(&self) -> u32 {
        let mtu = self.ports.iter().map(|port| port.mtu).max().unwrap_or(MTU_DEFAULT);
        (u32::from(mtu) + ETHERNET_BYTES).next_multiple_of(64)
    }
}

/// Buffers of a worker with sockets: 132 MiB at 66 KiB each.
const URING_BUFFERS: u32 = 2_048;
/// Buffers that a worker's pool keeps at hand beside those in the rings of its ports (the driver's cache and a burst).
const DPDK_KEPT: u32 = 576;

/// What the driver keeps in front of a frame for the kernel's own headers, rounded up.
const DRIVER_BYTES: u32 = 256;

/// Reads the size of a frame.
fn frame_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    lines::<128, 65_472, _, _>(from).map(Some)
}

/// Reads a number of buffers.
fn buffers<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    within::<128, 1_048_576, _, _>(from).map(Some)
}

/// Reads the size of a buffer.
fn buffer_bytes<'de, D: Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    lines::<2_048, 1_048_576, _, _>(from).map(Some)
}

/// Reads an integer from `LOW` to `HIGH`.
pub(crate) fn within<'de, const LOW: u64, const HIGH: u64, T: TryFrom<u64>, D: Deserializer<'de>>(
    from: D,
) -> Result<T, D::Error> {
    let value = i64::deserialize(from)?;
    let refuse = || D::Error::custom(format!("{value} is out of range: choose {LOW} to {HIGH}"));
    let inside = u64::try_from(value).ok().filter(|value| (LOW..=HIGH).contains(value)).ok_or_else(refuse)?;
    T::try_from(inside).map_err(|_| refuse())
}

/// Reads a power of two from `LOW` to `HIGH`.
pub(crate) fn power_of_two<'de, const LOW: u64, const HIGH: u64, T, D>(from: D) -> Result<T, D::Error>
where
    T: TryFrom<u64> + Into<u64> + Copy,
    D: Deserializer<'de>,
{
    let value: T = within::<LOW, HIGH, _, _>(from)?;
    let number: u64 = value.into();
    if number.is_power_of_two() {
        return Ok(value);
    }
    let above = number.next_power_of_two();
    Err(D::Error::custom(format!("{number} is no power of two: choose {} or {above}", above / 2)))
}

/// Reads a number of bytes that is a multiple of 64, from `LOW` to `HIGH`.
fn lines<'de, const LOW: u64, const HIGH: u64, T, D>(from: D) -> Result<T, D::Error>
where
    T: TryFrom<u64> + Into<u64> + Copy,
    D: Deserializer<'de>,
{
    let value: T = within::<LOW, HIGH, _, _>(from)?;
    let number: u64 = value.into();
    if number.is_multiple_of(64) {
        return Ok(value);
    }
    Err(D::Error::custom(format!("{number} is no multiple of 64: choose {}", number / 64 * 64)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_follow_the_driver_that_needs_most_and_frames_the_one_that_carries_least() {
        let sizes = |driver: &str, rest: &str| {
            let text = format!("[network]\ndriver = {driver}\naddress = \"10.0.0.1\"\n{rest}");
            let file = parse(&text).unwrap();
            (file.frame_bytes_max(), file.buffers_per_worker(), file.buffer_bytes())
        };
        let port = "[[ports]]\nname = \"a\"\ndevice = { ring = {} }\naddresses = [\"10.0.1.1/24\"]\n";
        assert_eq!(sizes("\"uring\"", ""), (1_472, 2_048, 67_648));
        assert_eq!(sizes("\"rdma\"", ""), (4_096, 1_024, 65 * 64));
        assert_eq!(sizes("[\"rdma\"]", "[rdma]\nmtu_bytes_max = 1024"), (1_024, 1_024, 2_112));
        assert_eq!(sizes("[\"rdma\", \"uring\"]", ""), (1_472, 2_048, 67_648));
        assert_eq!(sizes("[\"rdma\", \"dpdk\", \"uring\"]", port), (1_472, 6_144, 65 * 64));
        assert_eq!(sizes("[\"dpdk\", \"uring\"]", port), (1_472, 6_144, 2_112));
        assert_eq!(sizes("[\"rdma\", \"uring\"]", "[rdma]\nmtu_bytes_max = 512").0, 512);
        let named = port.replace("\"a\"", "\"udp\"");
        let said = parse(&format!("[network]\ndriver = [\"dpdk\", \"uring\"]\n{named}")).unwrap_err();
        assert!(said.contains("`udp` is what the port of uring is called"), "{said}");
        let elsewhere = parse("[network]\ndriver = [\"rdma\", \"uring\"]\n[rdma]\naddress = \"fd00::1\"").unwrap();
        assert_eq!(elsewhere.rdma_address(), Some("fd00::1".parse().unwrap()));
        assert_eq!(elsewhere.network.driver.to_string(), "rdma, uring");
    }

    fn parse(text: &str) -> Result<NodeFile, String> {
        let source = Source { name: "node.toml", text, manual: "tachyond --print-default-config" };
        NodeFile::parse(&source).map_err(|diagnostic| diagnostic.to_string())
    }

    #[test]
    fn the_default_file_is_the_defaults_and_so_is_an_empty_one() {
        assert_eq!(parse(DEFAULT_NODE_FILE).unwrap(), NodeFile::default());
        assert_eq!(parse("").unwrap(), NodeFile::default());
        assert_eq!(NodeFile::default().check(), Ok(()));
    }

    #[test]
    fn the_default_file_shows_every_key() {
        let table: toml::Table = DEFAULT_NODE_FILE.parse().unwrap();
        let keys: usize = table.values().map(|section| section.as_table().unwrap().len()).sum();
        let commented = [
            "# user = ",
            "# control_user = ",
            "# frame_bytes_max = ",
            "# buffer_bytes = ",
            "# buffers_per_worker = ",
            "# device = \"mlx5_0\"",
            "# address = ",
        ];
        assert!(commented.iter().all(|key| DEFAULT_NODE_FILE.contains(key)));
        assert_eq!(
            keys + commented.len(),
            5 + 9 + 7 + 5 + 6 + 3 + 19 + 4 + 6,
            "a key is missing in node.toml, or its number here"
        );
    }

    #[test]
    fn buffers_wait_for_a_log_only_where_there_is_one() {
        let held = |text: &str| parse(text).unwrap().held_buffers();
        assert_eq!(held(""), 0);
        assert_eq!(held("[log]\nenabled = true"), 512);
        assert_eq!(held("[log]\nenabled = true\nheld_percent = 1\n[memory]\nbuffers_per_worker = 128"), 1);
    }

    #[test]
    fn refuses_what_it_does_not_know_and_what_is_out_of_range() {
        for (text, says) in [
            ("[network]\nbase_prt = 1", "did you mean `base_port`?"),
            ("[nodes]", "unknown key `nodes`"),
            ("[network]\nbase_port = 0", "choose 1 to 65535"),
            ("[network]\nbase_port = 70000", "70000 is out of range"),
            ("[network]\nshard_count = 12", "choose 8 or 16"),
            ("[network]\nframe_bytes_max = 1500", "choose 1472"),
            ("[network]\naddress = \"here\"", "invalid IP address"),
            ("[workers]\ncount = -1", "choose 1 to 64"),
            ("[workers]\nidle = \"sleep\"", "unknown value `sleep`"),
            ("[memory]\npages = \"4G\"", "unknown value `4G`"),
            ("[limits]\nfill_window_ns = 5001", "choose 0 to 5000"),
            ("[log]\nring_mib = 24", "choose 16 or 32"),
            ("[log]\nring_mib = 4", "choose 8 to 1024"),
            ("[log]\nheld_percent = 26", "choose 1 to 25"),
            ("[network]\ndriver = \"rmda\"", "did you mean `rdma`?"),
            ("[network]\ndriver = [\"rdma\", \"uting\"]", "did you mean `uring`?"),
            ("[network]\ndriver = []", "choose one or more of"),
            ("[network]\ndriver = [\"rdma\", \"rdma\"]", "rdma is there twice"),
            ("[network]\ndriver = 1", "the name of a driver or a list of them"),
            ("[rdma]\nmtu_bytes_max = 1500", "choose 256, 512, 1024, 2048 or 4096"),
            ("[rdma]\ndevice = \"mlx5 0\"", "is no name of an RDMA device"),
            ("[rdma]\nrnr_retry = 7", "choose 0 to 6"),
            ("[rdma]\ntimeouts = 14", "did you mean `timeout`?"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
            assert!(error.contains('^'), "the complaint points at nothing: {error}");
        }
    }

    #[test]
    fn refuses_values_that_contradict_each_other_and_points_at_one() {
        let rdma = |rest: &str| format!("[network]\ndriver = [\"rdma\", \"uring\"]\naddress = \"10.0.0.1\"\n{rest}");
        for (text, place) in [
            ("[network]\nbase_port = 65530", "2 | base_port = 65530"),
            ("[workers]\ncount = 17", "2 | count = 17"),
            ("[workers]\ncount = 2\ncores = [1]", "3 | cores = [1]"),
            ("[workers]\ncount = 2\ncores = [1, 1]", "3 | cores = [1, 1]"),
            ("[memory]\nreceive_buffers = 2048", "2 | receive_buffers = 2048"),
            ("[memory]\nbuffers_per_worker = 128\nreceive_buffers = 128", "3 | receive_buffers = 128"),
            ("[memory]\nbuffer_bytes = 2048\n[network]\nframe_bytes_max = 2048", "2 | buffer_bytes = 2048"),
            ("[network]\ndriver = [\"uring\", \"rdma\"]", "2 | driver = [\"uring\", \"rdma\"]"),
            ("[network]\ndriver = \"rdma\"", "2 | driver = \"rdma\""),
            (&rdma("[rdma]\nsignal_interval = 257"), "5 | signal_interval = 257"),
            (&rdma("[rdma]\nreceive_depth = 1000\n[memory]\nbuffers_per_worker = 1024"), "5 | receive_depth = 1000"),
            (&rdma("frame_bytes_max = 1472\n[rdma]\nmtu_bytes_max = 1024"), "4 | frame_bytes_max = 1472"),
            (&rdma("[memory]\nbuffer_bytes = 4096"), "5 | buffer_bytes = 4096"),
        ] {
            let error = parse(text).unwrap_err();
            assert!(error.contains(place), "{text}: {error}");
        }
    }
}
