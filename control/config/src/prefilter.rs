//! The part of the node file that is for XDP: `[[prefilter]]` and `[afxdp]`.

use crate::{
    Contradiction, Device, Driver, Interface, NodeFile,
    node_file::{
        Step::{Item, Key},
        power_of_two, within,
    },
};
use serde::Deserialize;

/// Most interfaces that can have a filter: as many as AF_XDP can have ports, and more than a machine has cards.
pub const PREFILTERS_MAX: usize = 16;
/// Most publishers whose sessions a filter has room for: half of `PREFILTER_SESSIONS_MAX` in `ebpf/prefilter/contract.h`, as
/// each may have an opposite session.
const SESSIONS_MAX: u32 = 65_536;
/// Most places for AF_XDP sockets in a filter: `PREFILTER_SOCKETS_MAX` there.
const SOCKETS_MAX: u32 = 4_096;
/// A filter's clock may step this often in a second (`CONFIG_HZ=100`), so a burst has to last for one step.
const STEPS_PER_SECOND: u32 = 100;

/// The filter of one interface that stays with the kernel.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PrefilterSection {
    /// The interface.
    pub interface: Interface,
    /// How the device runs it.
    #[serde(default)]
    pub mode: FilterMode,
    /// Where frames go that pass.
    #[serde(default)]
    pub deliver: FilterDelivery,
    /// Frames a second of each source that no session is pinned to, on each CPU; 0: no limit.
    #[serde(default, deserialize_with = "within::<0, 100_000_000, _, _>")]
    pub source_frames_per_second: u32,
    /// How many of them may come at once. `None`: what the rate gives in 100 ms.
    #[serde(default, deserialize_with = "burst")]
    pub source_burst: Option<u32>,
    /// Frames a second of each session that is pinned to an address, on each CPU; 0: no limit.
    #[serde(default, deserialize_with = "within::<0, 100_000_000, _, _>")]
    pub session_frames_per_second: u32,
    /// How many of them may come at once. `None`: what the rate gives in 100 ms.
    #[serde(default, deserialize_with = "burst")]
    pub session_burst: Option<u32>,
    /// What becomes of it when the node stops.
    #[serde(default)]
    pub at_stop: AtStop,
}

/// How a device runs a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterMode {
    /// In the driver where it can, and behind it where not.
    #[default]
    Auto,
    /// In the driver, or not at all.
    Native,
    /// Behind the driver: later and slower.
    Generic,
}

/// Where frames go that pass a filter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FilterDelivery {
    /// To the kernel, and so to the workers' UDP sockets.
    #[default]
    Kernel,
    /// To the AF_XDP socket of the worker that owns the queue, if it owns the shard too; to the kernel otherwise.
    Afxdp,
    /// To the DPDK port that stands on the interface, and with them everything else that is not dropped.
    Dpdk,
}

/// What becomes of a filter when the node stops.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AtStop {
    /// It stays, and what passes goes to the kernel.
    #[default]
    Keep,
    /// It is taken off.
    Detach,
}

/// AF_XDP itself; only read with `"afxdp"` among the drivers.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct AfxdpSection {
    /// Worker n owns queue `first_queue` + n of each interface.
    #[serde(deserialize_with = "within::<0, 4_095, _, _>")]
    pub first_queue: u16,
    /// Buffers that each socket has to receive into.
    #[serde(deserialize_with = "power_of_two::<64, 32_768, _, _>")]
    pub receive_descriptors: u32,
    /// Packets that each socket has to send.
    #[serde(deserialize_with = "power_of_two::<256, 32_768, _, _>")]
    pub transmit_descriptors: u32,
    /// Whether a device may use our memory itself.
    pub zero_copy: bool,
    /// How long one call may serve the device in µs, in place of its interrupts; 0: never.
    #[serde(deserialize_with = "within::<0, 1_000, _, _>")]
    pub busy_poll_us: u32,
    /// Whether UDP checksums are computed over IPv4 too.
    pub udp_checksum: bool,
}

impl Default for AfxdpSection {
    fn default() -> Self {
        // The driver's defaults, where each is explained.
        Self {
            first_queue: 0,
            receive_descriptors: 1_024,
            transmit_descriptors: 1_024,
            zero_copy: true,
            busy_poll_us: 0,
            udp_checksum: false,
        }
    }
}

impl PrefilterSection {
    /// Rate and burst of sources that no session is pinned to.
    #[must_use]
    pub fn source_rate(&self) -> Option<(u32, u32)> {
        rate(self.source_frames_per_second, self.source_burst)
    }

    /// Rate and burst of sessions that are pinned.
    #[must_use]
    pub fn session_rate(&self) -> Option<(u32, u32)> {
        rate(self.session_frames_per_second, self.session_burst)
    }
}

/// A rate with its burst; 100 ms of it by default, as with the rates of rules.
fn rate(per_second: u32, burst: Option<u32>) -> Option<(u32, u32)> {
    (per_second > 0).then(|| (per_second, burst.unwrap_or((per_second / 10).max(1))))
}

/// Reads a burst.
fn burst<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Option<u32>, D::Error> {
    within::<1, 100_000_000, _, _>(from).map(Some)
}

type Outcome = Result<(), Contradiction>;

/// Holds the filters against the rest of the file and against each other.
pub(crate) fn check(file: &NodeFile) -> Outcome {
    for (index, section) in file.prefilters.iter().enumerate() {
        alone(file, index, section)?;
        if file.prefilters[..index].iter().any(|earlier| earlier.interface == section.interface) {
            let text = format!("a second pre-filter for {}", section.interface);
            let at = [Key("prefilter"), Item(index), Key("interface")];
            return Err(Contradiction::new(at, text, "keep one for each interface"));
        }
    }
    if file.prefilters.len() > PREFILTERS_MAX {
        let text = format!("{} pre-filters, more than a node can have", file.prefilters.len());
        let at = [Key("prefilter"), Item(PREFILTERS_MAX)];
        return Err(Contradiction::new(at, text, format!("keep {PREFILTERS_MAX} of them")));
    }
    let sessions = file.limits.sessions_max;
    if !file.prefilters.is_empty() && sessions > SESSIONS_MAX {
        let text = format!("{sessions} sessions, and a pre-filter has room for those of {SESSIONS_MAX} publishers");
        let help = format!("choose {SESSIONS_MAX} or less, or take the [[prefilter]] sections out");
        return Err(Contradiction::new([Key("limits"), Key("sessions_max")], text, help));
    }
    if file.network.driver.has(Driver::Afxdp) { afxdp(file) } else { Ok(()) }
}

/// What can be wrong within a section.
fn alone(file: &NodeFile, index: usize, section: &PrefilterSection) -> Outcome {
    let wrong = |key, text: String, help: String| {
        Err(Contradiction::new([Key("prefilter"), Item(index), Key(key)], text, help))
    };
    let rates = [
        ("source_burst", "source_frames_per_second", section.source_burst, section.source_rate()),
        ("session_burst", "session_frames_per_second", section.session_burst, section.session_rate()),
    ];
    for (key, rate_key, given, rate) in rates {
        match (given, rate) {
            (Some(_), None) => {
                let text = format!("{key} without {rate_key}");
                return wrong(key, text, format!("set {rate_key}, or leave {key} out"));
            }
            (_, Some((per_second, burst))) if burst < per_second.div_ceil(STEPS_PER_SECOND) => {
                let text = format!("a burst of {burst} at {per_second} a second is over before a filter's clock steps");
                return wrong(key, text, format!("choose {} or more", per_second.div_ceil(STEPS_PER_SECOND)));
            }
            _ => {}
        }
    }
    let has_port = dpdk_port(file, section.interface.as_str());
    match section.deliver {
        FilterDelivery::Dpdk if !has_port => {
            let text = format!("no DPDK port stands on {}", section.interface);
            let help =
                format!("add a [[ports]] with device = {{ af_xdp = {{ interface = \"{}\" }} }}", section.interface);
            return wrong("deliver", text, help);
        }
        FilterDelivery::Kernel | FilterDelivery::Afxdp if has_port => {
            let text = format!("{} belongs to a DPDK port, which would not get what passes", section.interface);
            return wrong("interface", text, "choose deliver = \"dpdk\", or take the section out".into());
        }
        FilterDelivery::Dpdk if section.mode != FilterMode::Auto => {
            let text = "DPDK's driver attaches this filter, and decides how".to_owned();
            return wrong("mode", text, "leave mode out".into());
        }
        _ => {}
    }
    if section.deliver == FilterDelivery::Afxdp && !file.network.driver.has(Driver::Afxdp) {
        let text = format!("frames of {} would go to sockets that nobody opens", section.interface);
        let help = "put \"afxdp\" into driver in [network], or choose deliver = \"kernel\"";
        return wrong("deliver", text, help.into());
    }
    Ok(())
}

/// Whether a DPDK port stands on an interface through XDP sockets.
fn dpdk_port(file: &NodeFile, name: &str) -> bool {
    let stands = |device: &Device| matches!(device, Device::AfXdp { interface } if interface.as_str() == name);
    file.ports.iter().any(|port| stands(&port.device))
}

/// What can be wrong with the driver.
fn afxdp(file: &NodeFile) -> Outcome {
    let (section, driver) = (&file.afxdp, [Key("network"), Key("driver")]);
    let wrong = |at: [crate::Step; 2], text: String, help: String| Err(Contradiction::new(at, text, help));
    if !file.prefilters.iter().any(|filter| filter.deliver == FilterDelivery::Afxdp) {
        let text = "afxdp without a pre-filter that gives it frames";
        let help = "add a [[prefilter]] with the interface and deliver = \"afxdp\"";
        return wrong(driver, text.into(), help.into());
    }
    if !file.network.driver.has(Driver::Uring) {
        let text = "afxdp without uring: nobody would take what a filter passes to the kernel";
        return wrong(driver, text.into(), "put \"uring\" behind it".into());
    }
    if file.network.driver.has(Driver::Dpdk) {
        let text = "dpdk and afxdp each need all of a worker's buffers";
        return wrong(driver, text.into(), "choose one of them".into());
    }
    let queues = u32::from(section.first_queue) + u32::from(file.workers.count);
    if queues * u32::from(file.network.shard_count) > SOCKETS_MAX {
        let text =
            format!("{queues} queues of {} shards are more than a filter can tell apart", file.network.shard_count);
        let help = format!("keep queues times shards at {SOCKETS_MAX} or less: lower first_queue");
        return wrong([Key("afxdp"), Key("first_queue")], text, help);
    }
    let (buffers, kept) = (file.buffers_per_worker(), file.afxdp_buffers_kept());
    if kept > buffers / 2 {
        let text = format!("{kept} of {buffers} buffers would be kept to receive into");
        let help = format!("raise buffers_per_worker to {} or leave it out", 2 * kept);
        return wrong([Key("afxdp"), Key("receive_descriptors")], text, help);
    }
    let (bytes, at) = (file.buffer_bytes(), [Key("memory"), Key("buffer_bytes")]);
    if chunk_bytes(bytes) != bytes {
        let text = format!("buffers of {bytes} bytes do not fit the kernel's pages");
        return wrong(at, text, format!("choose {}, or leave it out", chunk_bytes(bytes)));
    }
    let needed = file.frame_bytes_max() + PACKET_BYTES;
    if bytes < needed {
        let text =
            format!("a packet with a frame of {} bytes does not fit a buffer of {bytes}", file.frame_bytes_max());
        return wrong(at, text, format!("choose {}, or leave it out", chunk_bytes(needed)));
    }
    Ok(())
}

/// Bytes in front of each buffer that are the kernel's (`XDP_PACKET_HEADROOM`).
const HEADROOM_BYTES: u32 = 256;
/// What a packet has around a frame, and in front of it so that the frame starts a cache line, in whole lines.
const PACKET_BYTES: u32 = 128;
/// A page, which is the largest chunk that the kernel receives into.
const PAGE_BYTES: u32 = 4_096;

/// The next larger size of a buffer with which it and its headroom are a chunk or whole pages.
pub(crate) const fn chunk_bytes(bytes: u32) -> u32 {
    let stride = bytes + HEADROOM_BYTES;
    let stride = if stride <= PAGE_BYTES / 2 { PAGE_BYTES / 2 } else { stride.next_multiple_of(PAGE_BYTES) };
    stride - HEADROOM_BYTES
}

/// Buffers of a worker that are never its own: header room, and copies where sockets take one piece only.
const KEPT: u32 = 19 + 64;

impl NodeFile {
    /// Interfaces whose frames go to AF_XDP sockets.
    pub(crate) fn afxdp_ports(&self) -> u32 {
        let ports = self.prefilters.iter().filter(|filter| filter.deliver == FilterDelivery::Afxdp);
        u32::try_from(ports.count()).unwrap_or(u32::MAX)
    }

    /// Buffers of each worker that AF_XDP holds to receive into.
    #[must_use]
    pub fn afxdp_buffers_kept(&self) -> u32 {
        self.afxdp_ports().saturating_mul(self.afxdp.receive_descriptors).saturating_add(KEPT)
    }

    /// Buffers of each worker with AF_XDP: twice what it can hold.
    pub(crate) fn afxdp_buffers(&self) -> u32 {
        let sending = self.afxdp_ports().saturating_mul(self.afxdp.transmit_descriptors);
        self.afxdp_buffers_kept().saturating_add(sending).saturating_mul(2).next_multiple_of(1_024)
    }

    /// Bytes of a buffer with AF_XDP: a packet, or what sockets need for a frame.
    pub(crate) fn afxdp_buffer_bytes(&self, socket_bytes: u32) -> u32 {
        chunk_bytes(self.frame_bytes_max() + PACKET_BYTES.max(socket_bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;

    fn parse(text: &str) -> Result<NodeFile, String> {
        let source = Source { name: "node.toml", text, manual: "tachyond --print-default-config" };
        NodeFile::parse(&source).map_err(|diagnostic| diagnostic.to_string())
    }

    const FILTER: &str = "[[prefilter]]\ninterface = \"eth0\"\n";
    const BOTH: &str =
        "[[prefilter]]\ninterface = \"eth0\"\ndeliver = \"afxdp\"\n[network]\ndriver = [\"afxdp\", \"uring\"]\n";

    const DPDK: &str = "[network]\ndriver = \"dpdk\"\n[[ports]]\nname = \"east\"\naddresses = [\"10.0.1.1/24\"]\n\
                        device = { af_xdp = { interface = \"eth0\" } }\n";

    #[test]
    fn a_filter_may_give_what_passes_to_the_dpdk_port_on_its_interface() {
        let file = parse(&format!("{FILTER}deliver = \"dpdk\"\nsource_frames_per_second = 5000\n{DPDK}")).unwrap();
        assert_eq!(file.prefilters[0].deliver, FilterDelivery::Dpdk);
    }

    #[test]
    fn a_filter_needs_an_interface_and_nothing_else() {
        let file = parse(FILTER).unwrap();
        let [filter] = file.prefilters.as_slice() else { panic!("{file:?}") };
        assert_eq!((filter.mode, filter.deliver, filter.at_stop), Default::default());
        assert_eq!((filter.source_rate(), filter.session_rate()), (None, None));
        let file = parse(&format!("{FILTER}source_frames_per_second = 5000\nsession_frames_per_second = 5\n")).unwrap();
        let filter = &file.prefilters[0];
        assert_eq!((filter.source_rate(), filter.session_rate()), (Some((5_000, 500)), Some((5, 1))));
    }

    #[test]
    fn every_key_of_the_manual_can_be_written_as_it_stands_there() {
        let (head, filter) = crate::DEFAULT_NODE_FILE.split_once("# [[prefilter]]").unwrap();
        let keys: Vec<&str> = filter.lines().filter_map(|line| line.strip_prefix("# ")).collect();
        let keys: Vec<&str> = keys.into_iter().filter(|line| line.contains(" = ") && !line.contains(", see")).collect();
        assert_eq!(keys.len(), 8, "a key is missing in node.toml, or its number here: {keys:?}");
        let file = parse(&format!("{head}[[prefilter]]\n{}", keys.join("\n"))).unwrap();
        let [filter] = file.prefilters.as_slice() else { panic!("{file:?}") };
        assert_eq!((filter.source_rate(), filter.session_rate()), (Some((1_000, 100)), Some((1_000, 100))));
        assert_eq!((filter.mode, filter.deliver, filter.at_stop), Default::default());
    }

    #[test]
    fn buffers_are_whole_chunks_of_the_kernels() {
        assert_eq!([1, 1_792, 1_793, 3_840, 3_841].map(chunk_bytes), [1_792, 1_792, 3_840, 3_840, 7_936]);
        let sizes = |rest: &str| {
            let file = parse(&format!("{BOTH}{rest}")).unwrap();
            (file.frame_bytes_max(), file.buffers_per_worker(), file.buffer_bytes())
        };
        assert_eq!(sizes(""), (1_472, 5_120, 1_792));
        assert_eq!(sizes("frame_bytes_max = 8960"), (8_960, 5_120, 12_032));
        assert_eq!(sizes("[afxdp]\nreceive_descriptors = 64\ntransmit_descriptors = 256").1, 2_048);
        assert_eq!(sizes("[memory]\nbuffer_bytes = 3840").2, 3_840);
    }

    #[test]
    fn what_contradicts_is_refused_at_its_place() {
        for (text, place, says) in [
            (format!("{FILTER}source_burst = 5"), "3 | source_burst = 5", "set source_frames_per_second"),
            (format!("{FILTER}session_frames_per_second = 1001\nsession_burst = 10"), "4 | session_burst", "choose 11"),
            (format!("{FILTER}deliver = \"afxdp\""), "3 | deliver", "put \"afxdp\" into driver"),
            (format!("{FILTER}{FILTER}"), "4 | interface", "keep one for each"),
            (format!("{FILTER}deliver = \"dpdk\""), "3 | deliver", "device = { af_xdp = { interface = \"eth0\" } }"),
            (format!("{FILTER}{DPDK}"), "2 | interface", "choose deliver = \"dpdk\""),
            (format!("{FILTER}deliver = \"dpdk\"\nmode = \"native\"\n{DPDK}"), "4 | mode", "leave mode out"),
            (format!("{FILTER}[limits]\nsessions_max = 131072"), "4 | sessions_max", "choose 65536 or less"),
            ("[network]\ndriver = [\"afxdp\", \"uring\"]".into(), "2 | driver", "add a [[prefilter]]"),
            (BOTH.replace(", \"uring\"", ""), "5 | driver", "put \"uring\" behind it"),
            (BOTH.replace("[\"afxdp\", \"uring\"]", "[\"uring\", \"afxdp\"]"), "5 | driver", "put uring last"),
            (format!("{BOTH}[afxdp]\nfirst_queue = 4000"), "7 | first_queue", "lower first_queue"),
            (format!("{BOTH}[memory]\nbuffer_bytes = 4096"), "7 | buffer_bytes", "choose 7936"),
            (format!("{BOTH}frame_bytes_max = 4032\n[memory]\nbuffer_bytes = 3840"), "8 | buffer_bytes", "choose"),
            (
                format!("{BOTH}[memory]\nbuffers_per_worker = 1024\n[afxdp]\nreceive_descriptors = 1024"),
                "9 | receive_descriptors",
                "raise buffers_per_worker to 2214",
            ),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(place) && error.contains(says), "{text}: {error}");
        }
        for (text, says) in [
            (format!("{FILTER}mode = \"nativ\""), "did you mean `native`?"),
            (format!("{FILTER}deliver = \"uring\""), "unknown value `uring`"),
            ("[[prefilter]]\nmode = \"auto\"".into(), "interface"),
            ("[[prefilter]]\ninterface = \"a b\"".into(), "no interface name"),
            ("[afxdp]\nreceive_descriptors = 100".into(), "choose 64 or 128"),
        ] {
            let error = parse(&text).unwrap_err();
            assert!(error.contains(says), "{text}: {error}");
        }
    }
}
