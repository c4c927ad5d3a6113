//! The pre-filters and XDP sockets of the node file: whether the kernel takes the program, whether its pins have a place, who sits
//! on the interfaces already, and what their drivers can do, as far as that can be told without trying.

use super::{
    finding::{Finding, State},
    host::{Host, bytes},
    kernel::number_of,
    limits::Limits,
    need::Need,
};
use serde_json::Value;
use std::path::{Path, PathBuf};
use tachyon_config::{FilterDelivery, FilterMode, NodeFile};

/// The program asks for the length of packets in several pieces, which came with this kernel (`bpf_xdp_get_buff_len`).
const FILTER_SINCE: (u32, u32) = (5, 18);
/// XDP sockets take packets in several pieces from here on (`XDP_USE_SG`).
const PIECES_SINCE: (u32, u32) = (6, 6);
/// Longest packet, without its Ethernet header, that certainly fits one piece: a page less 256 bytes in front (`XDP_PACKET_HEADROOM`),
/// 64 for alignment, and the header.
const ONE_PIECE_MTU_MAX: u64 = 4_096 - 256 - 64 - 14;

/// Drivers that run XDP programs, by `XDP_SETUP_PROG` in Linux 6.12's drivers/net; one that is not here may have come later.
const NATIVE: &[&str] = &[
    "atlantic",
    "bnxt_en",
    "ena",
    "fec",
    "fsl_dpa",
    "fsl_dpaa2_eth",
    "fsl_enetc",
    "funeth",
    "gve",
    "hv_netvsc",
    "i40e",
    "ice",
    "igb",
    "igc",
    "ionic",
    "ixgbe",
    "ixgbevf",
    "mana",
    "mlx4_core",
    "mlx5_core",
    "mvneta",
    "mvpp2",
    "nfp",
    "nicvf",
    "qede",
    "rvu_nicpf",
    "sfc",
    "tsnep",
    "virtio_net",
    "vmxnet3",
];
/// Those of them whose devices can use a program's memory themselves (`ndo_xsk_wakeup`), and since which kernel.
const ZERO_COPY: &[(&str, (u32, u32))] = &[
    ("fsl_dpaa2_eth", (6, 2)),
    ("gve", (6, 4)),
    ("i40e", (4, 20)),
    ("ice", (5, 5)),
    ("igb", (6, 14)),
    ("igc", (5, 14)),
    ("ixgbe", (4, 20)),
    ("mlx5_core", (5, 3)),
    ("nfp", (5, 18)),
    ("tsnep", (6, 3)),
    ("virtio_net", (6, 11)),
];

/// What a node file asks of XDP.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct XdpNeed {
    pub(crate) filters: Vec<FilterNeed>,
    /// The folder of the filters' pins.
    pub(crate) folder: PathBuf,
    /// Whether sockets want their device to use the buffers itself.
    pub(crate) zero_copy: bool,
}

/// One interface's filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct FilterNeed {
    pub(crate) interface: String,
    pub(crate) mode: FilterMode,
    /// Whether frames go to XDP sockets.
    pub(crate) sockets: bool,
}

impl XdpNeed {
    pub(crate) fn of(file: &NodeFile) -> Self {
        let filter = |section: &tachyon_config::PrefilterSection| FilterNeed {
            interface: section.interface.as_str().to_owned(),
            mode: section.mode,
            sockets: section.deliver == FilterDelivery::Afxdp,
        };
        Self {
            filters: file.prefilters.iter().map(filter).collect(),
            folder: file.node.filter_dir.clone(),
            zero_copy: file.afxdp.zero_copy,
        }
    }

    fn sockets(&self) -> u64 {
        self.filters.iter().filter(|filter| filter.sockets).count() as u64
    }
}

/// What the machine has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Xdp {
    version: Option<(u32, u32)>,
    /// Where bpf file systems are mounted.
    bpf: Vec<String>,
    /// Whether it forwards packets that are for others.
    forwards: bool,
    interfaces: Vec<Interface>,
    /// Interfaces with a pinned filter that the node file does not name.
    others: Vec<String>,
}

/// An interface that has a filter in the node file.
#[derive(Clone, Debug, Default)]
struct Interface {
    is_there: bool,
    mtu: u64,
    /// The driver of the device; none stands behind an interface of software.
    driver: Option<String>,
    /// What sits on it: the kernel's number of the program.
    program: Option<u64>,
    /// An earlier process's pin is there.
    is_ours: bool,
}

impl Xdp {
    pub(crate) fn read(host: &Host, need: &XdpNeed) -> Self {
        let mounts = host.text("/proc/mounts").unwrap_or_default();
        let bpf = mounts.lines().filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            let (place, kind) = (words.next()?, words.next()?);
            (kind == "bpf").then(|| place.to_owned())
        });
        let links: Value = host.links().and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default();
        let interface = |filter: &FilterNeed| {
            let folder = format!("/sys/class/net/{}", filter.interface);
            let link = links.as_array().into_iter().flatten().find(|link| link["ifname"] == filter.interface.as_str());
            // As the loader calls the folder: a bpf file system takes no dots.
            let pin = need.folder.join(filter.interface.replace('.', ":")).join("link");
            Interface {
                is_there: host.exists(&folder),
                mtu: host.number(&format!("{folder}/mtu")).unwrap_or(0),
                driver: host.link(&format!("{folder}/device/driver")),
                program: link.and_then(program_of),
                is_ours: pin.to_str().is_some_and(|pin| host.exists(pin)),
            }
        };
        Self {
            version: number_of(&host.text("/proc/sys/kernel/osrelease").unwrap_or_default()),
            bpf: bpf.collect(),
            forwards: ["/proc/sys/net/ipv4/ip_forward", "/proc/sys/net/ipv6/conf/all/forwarding"]
                .iter()
                .any(|path| host.number(path) == Some(1)),
            interfaces: need.filters.iter().map(interface).collect(),
            others: others(host, need),
        }
    }
}

/// The interfaces with a pinned filter that the node file does not name.
fn others(host: &Host, need: &XdpNeed) -> Vec<String> {
    let Some(folder) = need.folder.to_str() else { return Vec::new() };
    let pinned = host.names(folder).into_iter().filter(|name| host.exists(&format!("{folder}/{name}/link")));
    let names = pinned.map(|name| name.replace(':', "."));
    names.filter(|name| !need.filters.iter().any(|filter| filter.interface == *name)).collect()
}

/// The program on an interface as `ip -json link` has it; there may be one for each mode.
fn program_of(link: &Value) -> Option<u64> {
    let one = |xdp: &Value| xdp["prog"]["id"].as_u64();
    one(&link["xdp"]).or_else(|| link["xdp"]["attached"].as_array()?.iter().find_map(one))
}

pub(crate) fn findings(xdp: &Xdp, need: &Need, limits: &Limits) -> Vec<Finding> {
    let filters = &need.xdp.filters;
    let left = xdp.others.iter().map(|name| left_over(name, &need.xdp));
    if filters.is_empty() {
        return left.chain([Finding::fine("xdp", "the node file has no [[prefilter]]")]).collect();
    }
    let mut findings = vec![version(xdp, &need.xdp), rights(&need.xdp, limits), file_system(xdp, &need.xdp)];
    findings.extend(left);
    findings.extend(locked(need, limits));
    if xdp.forwards {
        let found =
            "this machine forwards packets, and its filters judge those for our ports that are only passing too";
        findings.push(Finding::new("xdp_forwarding", State::Note, found).help(
            "a filter looks at ports, not at addresses: frames on their way to another node are dropped for want of a session \
             here; have them come in by an interface without a [[prefilter]], or switch forwarding off",
        ));
    }
    for (filter, interface) in filters.iter().zip(&xdp.interfaces) {
        findings.push(occupied(filter, interface, &limits.rights));
        if interface.is_there {
            findings.push(driver(filter, interface, xdp, need.xdp.zero_copy));
        }
    }
    findings
}

/// What the kernel's version allows.
fn version(xdp: &Xdp, need: &XdpNeed) -> Finding {
    const CHECK: &str = "xdp_kernel";
    let Some(version) = xdp.version else {
        return Finding::new(CHECK, State::Note, "no version that is understood");
    };
    let name = |(major, minor): (u32, u32)| format!("{major}.{minor}");
    if version < FILTER_SINCE {
        let found = format!(
            "Linux {} refuses the pre-filter, {} is the first that takes it",
            name(version),
            name(FILTER_SINCE)
        );
        return Finding::new(CHECK, State::Degraded, found)
            .help("everything passes to the kernel's sockets unfiltered, and there are no XDP sockets; install a newer kernel");
    }
    if need.sockets() == 0 || version >= PIECES_SINCE {
        return Finding::fine(CHECK, format!("Linux {} takes the pre-filter", name(version)));
    }
    let found = format!("XDP sockets of Linux {} take packets in one piece", name(version));
    let long = xdp
        .interfaces
        .iter()
        .zip(&need.filters)
        .any(|(interface, filter)| filter.sockets && interface.mtu > ONE_PIECE_MTU_MAX);
    let state = if long { State::Degraded } else { State::Note };
    Finding::new(CHECK, state, found).help(format!(
        "frames that are sent from behind received bytes are copied, and packets of more than {ONE_PIECE_MTU_MAX} bytes cannot come or \
         go; from {} on they can",
        name(PIECES_SINCE)
    ))
}

/// Whether this user may load and attach.
fn rights(need: &XdpNeed, limits: &Limits) -> Finding {
    const CHECK: &str = "xdp_rights";
    let rights = &limits.rights;
    let wanted = [
        ("CAP_SYS_ADMIN", rights.is_admin, true),
        ("CAP_NET_ADMIN", rights.is_net_admin, true),
        ("CAP_NET_RAW", rights.is_net_raw, need.sockets() > 0),
    ];
    let missing: Vec<&str> = wanted.iter().filter(|(_, has, needed)| *needed && !has).map(|(name, ..)| *name).collect();
    if missing.is_empty() {
        return Finding::fine(CHECK, "this user may load the pre-filter");
    }
    Finding::new(CHECK, State::Degraded, format!("without {} this user cannot load it", missing.join(", "))).help(
        "start tachyond as root: it gives up what it does not need; it is at its start that it needs these rights",
    )
}

/// Whether pins have a place.
fn file_system(xdp: &Xdp, need: &XdpNeed) -> Finding {
    const CHECK: &str = "bpffs";
    let folder = need.folder.display();
    if let Some(place) = xdp.bpf.iter().find(|place| need.folder.starts_with(place)) {
        return Finding::fine(CHECK, format!("mounted at {place}"));
    }
    let found = format!("no bpf file system is mounted for {folder}");
    let usual = Path::new("/sys/fs/bpf");
    if need.folder.starts_with(usual) {
        return Finding::new(CHECK, State::Note, found)
            .help("tachyond mounts it if it may; a service that may not mount needs it there before")
            .command(format!("mount -t bpf bpf {}", usual.display()));
    }
    Finding::new(CHECK, State::Degraded, found)
        .help("the filter needs a place for its pins: without one it is not attached")
        .command(format!("mkdir -p {folder} && mount -t bpf bpf {folder}"))
}

/// Whether the sockets' memory may be locked: each counts the worker's buffers for itself, and one that is opened anew may do so while
/// those of the closed one still count.
fn locked(need: &Need, limits: &Limits) -> Option<Finding> {
    const CHECK: &str = "xdp_memlock";
    let sockets = need.xdp.sockets();
    let wanted = need.buffer_bytes() * sockets + need.buffer_bytes_per_worker * sockets.min(1);
    let limit = limits.locked_bytes.flatten().filter(|_| wanted > 0)?;
    let found = format!("{} of {} that XDP sockets lock", bytes(limit), bytes(wanted));
    if limits.rights.may_lock || limit >= wanted {
        return Some(Finding::fine(CHECK, found));
    }
    let help = "the kernel gives no XDP socket then, and the node does not start; RLIMIT_MEMLOCK is of this user and shell, a \
                systemd unit has its own (LimitMEMLOCK=infinity), and CAP_IPC_LOCK lifts it";
    Some(Finding::new(CHECK, State::Fails, found).help(help).command("ulimit -l unlimited"))
}

/// Who has the interface.
fn occupied(filter: &FilterNeed, interface: &Interface, rights: &super::limits::Rights) -> Finding {
    const CHECK: &str = "xdp_program";
    let name = &filter.interface;
    if !interface.is_there {
        // Sockets look for their queues at the start; a filter waits for its interface.
        let state = if filter.sockets { State::Fails } else { State::Degraded };
        return Finding::new(CHECK, state, format!("there is no interface {name}"))
            .help("correct its name in [[prefilter]], or make it before the node starts")
            .command("ip link");
    }
    match interface.program {
        None => Finding::fine(CHECK, format!("nothing sits on {name}")),
        Some(id) if interface.is_ours => {
            Finding::fine(CHECK, format!("{name} has our filter, program {id}: a node adopts or replaces it without a gap"))
        }
        Some(id) if !rights.is_admin => {
            Finding::new(CHECK, State::Note, format!("{name} has XDP program {id}; whose it is only root sees"))
        }
        Some(id) => Finding::new(CHECK, State::Degraded, format!("{name} has XDP program {id}, which is not our filter's"))
            .help(
                "the node goes on without a filter there, and takes its place once it is gone; it may be of a filter of ours whose \
                 pins were lost (`bpftool prog show` names it: tachyon_prefilt)",
            )
            .command(format!("ip link set dev {name} xdp off"))
            .command(format!("xdp-loader unload {name} --all")),
    }
}

/// A filter that an earlier node left, or that is of another node.
fn left_over(name: &str, need: &XdpNeed) -> Finding {
    let found = format!("{name} has a pre-filter, and the node file has no [[prefilter]] for it");
    let pins = need.folder.join(name.replace('.', ":"));
    Finding::new("xdp_left_over", State::Degraded, found)
        .help(
            "nobody tells it of this node's sessions, so it drops their frames at the device; unless another node uses the same \
             filter_dir and still runs, take it off",
        )
        .command(format!("rm -r {}", pins.display()))
}

/// What the driver can do.
fn driver(filter: &FilterNeed, interface: &Interface, xdp: &Xdp, zero_copy: bool) -> Finding {
    const CHECK: &str = "xdp_driver";
    let name = &filter.interface;
    let Some(driver) = interface.driver.as_deref() else {
        return Finding::fine(
            CHECK,
            format!("{name} has no device behind it: veth, tun and bond run XDP, others do not"),
        );
    };
    let (mut found, mut state, mut help) = (format!("{name}, {driver}: "), State::Fine, String::new());
    if NATIVE.contains(&driver) {
        found += "runs XDP programs";
    } else {
        found += "not known to run XDP programs";
        let lost = if filter.mode == FilterMode::Native { "nothing is filtered" } else { "the filter comes behind it" };
        (state, help) = (State::Note, format!("if it does not, {lost}: `mode = \"auto\"` takes what there is"));
    }
    if filter.sockets && zero_copy {
        let since = ZERO_COPY.iter().find(|(known, _)| *known == driver).map(|(_, since)| *since);
        match since {
            Some(since) if xdp.version.is_some_and(|version| version >= since) => {
                found += ", and can use our buffers itself"
            }
            _ => {
                found += "; the kernel copies each packet for its sockets";
                state = state.max(State::Note);
                if !help.is_empty() {
                    help += "; ";
                }
                help += "zero copy needs another card or a newer kernel, and sockets work without it";
            }
        }
    }
    Finding::new(CHECK, state, found).help(help)
}
