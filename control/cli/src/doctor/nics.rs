//! PCI Ethernet devices: who drives each, what hangs on it, and whether a kernel-bypass driver could have it.

use super::{
    finding::{Finding, State},
    host::Host,
    iommu::Iommu,
    need::Need,
};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// PCI class of Ethernet controllers, without the programming interface.
const CLASS_ETHERNET: u64 = 0x0200;
/// PCI base class of bridges: they are in groups with what is behind them, and need no driver to be changed.
const BASE_BRIDGE: u64 = 0x06;
/// Drivers that leave the device with the kernel while programs have queues of their own.
const BIFURCATED: &[&str] = &["mlx5_core", "mlx4_core", "mana"];
/// Drivers that hand the device to a program.
const HANDS_OVER: &[&str] = &["vfio-pci", "igb_uio", "uio_pci_generic"];

/// A network interface of a device.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Interface {
    pub(crate) name: String,
    /// IP addresses; those that every interface gives itself (fe80::) are left out.
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) has_default_route: bool,
    /// A bond or bridge that it is a part of.
    pub(crate) master: Option<String>,
}

/// Whether a kernel-bypass driver can have the device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Bypass {
    /// It is handed over already.
    Ready,
    /// It stays with its kernel driver, and programs use it beside the kernel.
    Beside,
    /// Once these lines were typed as root, and until the others are.
    AfterBinding { bind: Vec<String>, give_back: Vec<String> },
    /// The kernel must keep it.
    Never,
    /// Not as the machine is set up.
    NotYet,
}

/// A PCI Ethernet device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Nic {
    /// Such as `0000:3b:00.0`.
    pub(crate) address: String,
    /// Vendor and device, such as `15b3:101d`.
    pub(crate) id: String,
    /// The kernel's driver, if one is bound.
    pub(crate) driver: Option<String>,
    /// `None` where the machine has one node only.
    pub(crate) numa_node: Option<u32>,
    pub(crate) iommu_group: Option<String>,
    /// Other devices of its group: they have to go with it.
    pub(crate) group_others: Vec<String>,
    pub(crate) interfaces: Vec<Interface>,
    pub(crate) bypass: Bypass,
    /// Why that is so, in words.
    pub(crate) why: String,
}

impl Bypass {
    /// The stable name.
    pub(crate) const fn name(&self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::Beside => "beside the kernel",
            Self::AfterBinding { .. } => "after binding",
            Self::Never => "never",
            Self::NotYet => "not yet",
        }
    }
}

impl Nic {
    pub(crate) fn json(&self) -> Value {
        let (bind, give_back) = match &self.bypass {
            Bypass::AfterBinding { bind, give_back } => (bind.as_slice(), give_back.as_slice()),
            _ => (&[][..], &[][..]),
        };
        let interface = |interface: &Interface| {
            json!({
                "name": interface.name,
                "addresses": interface.addresses,
                "default_route": interface.has_default_route,
                "master": interface.master,
            })
        };
        json!({
            "address": self.address,
            "id": self.id,
            "driver": self.driver,
            "numa_node": self.numa_node,
            "iommu_group": self.iommu_group,
            "iommu_group_others": self.group_others,
            "interfaces": self.interfaces.iter().map(interface).collect::<Vec<_>>(),
            "bypass": self.bypass.name(),
            "why": self.why,
            "bind": bind,
            "give_back": give_back,
        })
    }
}

/// Every PCI Ethernet device of the machine, by address.
pub(crate) fn nics(host: &Host) -> Vec<Nic> {
    let iommu = Iommu::read(host);
    let network = Network::read(host);
    let devices = host.names("/sys/bus/pci/devices");
    let is_ethernet = |address: &String| class(host, address).is_some_and(|class| class >> 8 == CLASS_ETHERNET);
    devices.into_iter().filter(is_ethernet).map(|address| nic(host, &iommu, &network, address)).collect()
}

fn folder(address: &str) -> String {
    format!("/sys/bus/pci/devices/{address}")
}

fn class(host: &Host, address: &str) -> Option<u64> {
    host.number(&format!("{}/class", folder(address)))
}

fn nic(host: &Host, iommu: &Iommu, network: &Network, address: String) -> Nic {
    let folder = folder(&address);
    let id = |name: &str| host.number(&format!("{folder}/{name}")).unwrap_or(0);
    let group = host.link(&format!("{folder}/iommu_group"));
    let members =
        group.as_ref().map_or_else(Vec::new, |group| host.names(&format!("/sys/kernel/iommu_groups/{group}/devices")));
    let is_bridge = |other: &String| class(host, other).is_some_and(|class| class >> 16 == BASE_BRIDGE);
    let mut nic = Nic {
        id: format!("{:04x}:{:04x}", id("vendor"), id("device")),
        driver: host.link(&format!("{folder}/driver")),
        // The kernel writes -1 where it does not know.
        numa_node: host.number(&format!("{folder}/numa_node")).and_then(|node| node.try_into().ok()),
        iommu_group: group,
        group_others: members.into_iter().filter(|other| *other != address && !is_bridge(other)).collect(),
        interfaces: interfaces(host, network, &folder),
        bypass: Bypass::NotYet,
        why: String::new(),
        address,
    };
    (nic.bypass, nic.why) = judge(host, iommu, network, &nic);
    nic
}

/// The interfaces of a device: its own, or those of the virtio device that stands behind it.
fn interfaces(host: &Host, network: &Network, folder: &str) -> Vec<Interface> {
    let virtio = host.names(folder).into_iter().filter(|name| name.starts_with("virtio"));
    let folders = virtio.map(|name| format!("{folder}/{name}/net")).chain([format!("{folder}/net")]);
    let names = folders.flat_map(|folder| host.names(&folder));
    let interface = |name: String| Interface {
        addresses: network.addresses_of(&name),
        has_default_route: network.default_routes.contains(&name),
        master: host.link(&format!("/sys/class/net/{name}/master")),
        name,
    };
    names.map(interface).collect()
}

/// Why the kernel has to keep a device with these interfaces, if it has to.
fn in_use(interfaces: &[Interface]) -> Option<String> {
    interfaces.iter().find_map(|interface| {
        let name = &interface.name;
        if interface.has_default_route {
            return Some(format!("{name} carries the default route: taking it away cuts the machine off"));
        }
        if let Some(master) = &interface.master {
            return Some(format!("{name} is a part of {master}"));
        }
        let address = interface.addresses.first()?;
        Some(format!("{name} carries the address {address}"))
    })
}

fn judge(host: &Host, iommu: &Iommu, network: &Network, nic: &Nic) -> (Bypass, String) {
    let driver = nic.driver.as_deref().unwrap_or_default();
    if HANDS_OVER.contains(&driver) {
        return (Bypass::Ready, format!("bound to {driver}"));
    }
    if BIFURCATED.contains(&driver) {
        return (Bypass::Beside, format!("stays with {driver}: programs have queues of their own beside the kernel"));
    }
    if let Some(why) = in_use(&nic.interfaces) {
        return (Bypass::Never, why);
    }
    // Whole groups are handed over, because their members can reach each other past the IOMMU.
    let others = nic.group_others.iter().filter(|other| {
        host.link(&format!("{}/driver", folder(other))).is_some_and(|driver| !HANDS_OVER.contains(&driver.as_str()))
    });
    let others: Vec<&str> = others.map(String::as_str).collect();
    for other in &others {
        if let Some(why) = in_use(&interfaces(host, network, &folder(other))) {
            return (Bypass::Never, format!("its IOMMU group holds {other} too, and {why}"));
        }
    }
    if nic.iommu_group.is_none() && !iommu.without_iommu {
        return (Bypass::NotYet, "no IOMMU group: switch the IOMMU on (see iommu)".to_owned());
    }
    let mut why = "free to be bound to vfio-pci".to_owned();
    if !others.is_empty() {
        why = format!("{why}, with its whole IOMMU group: {}", others.join(", "));
    }
    if nic.iommu_group.is_none() {
        why.push_str("; without an IOMMU it could then write to all memory");
    }
    (binding(nic, iommu, &others), why)
}

/// The exact lines that hand a device and its group over, and that give them back.
fn binding(nic: &Nic, iommu: &Iommu, others: &[&str]) -> Bypass {
    let mut bind = Vec::new();
    if !iommu.has_vfio_pci {
        bind.push("modprobe vfio-pci".to_owned());
    }
    bind.extend(nic.interfaces.iter().map(|interface| format!("ip link set dev {} down", interface.name)));
    let mut give_back = Vec::new();
    for (index, address) in std::iter::once(nic.address.as_str()).chain(others.iter().copied()).enumerate() {
        let folder = folder(address);
        bind.push(format!("echo vfio-pci > {folder}/driver_override"));
        // Devices of the group are listed because a driver is bound to them.
        if index > 0 || nic.driver.is_some() {
            bind.push(format!("echo {address} > {folder}/driver/unbind"));
        }
        bind.push(format!("echo {address} > /sys/bus/pci/drivers_probe"));
        give_back.push(format!("echo {address} > {folder}/driver/unbind"));
        give_back.push(format!("echo > {folder}/driver_override"));
        give_back.push(format!("echo {address} > /sys/bus/pci/drivers_probe"));
    }
    Bypass::AfterBinding { bind, give_back }
}

/// What the machine says about addresses and routes.
struct Network {
    addresses: Vec<(String, IpAddr)>,
    /// Interfaces with a default route, of IPv4 or IPv6.
    default_routes: Vec<String>,
}

impl Network {
    fn read(host: &Host) -> Self {
        let text = |path: &str| host.text(path).unwrap_or_default();
        let (routes, trie) = (text("/proc/net/route"), text("/proc/net/fib_trie"));
        let routes: Vec<Route> = routes.lines().filter_map(Route::parse).collect();
        // Neither file names the interface of an address, so it is the one whose link the address is on. An address without
        // such a route is not found.
        let local = local_addresses(&trie);
        let mut addresses: Vec<(String, IpAddr)> = local
            .into_iter()
            .filter_map(|address| {
                let linked = routes.iter().filter(|route| route.is_link && route.covers(address));
                Some((linked.max_by_key(|route| route.mask)?.interface.clone(), IpAddr::V4(address)))
            })
            .collect();
        addresses.extend(text("/proc/net/if_inet6").lines().filter_map(global_address));
        let first = routes.iter().filter(|route| route.mask == 0).map(|route| route.interface.clone());
        let second = text("/proc/net/ipv6_route");
        let second = second.lines().filter_map(default_of_ipv6);
        Self { addresses, default_routes: first.chain(second).collect() }
    }

    fn addresses_of(&self, interface: &str) -> Vec<IpAddr> {
        self.addresses.iter().filter(|(name, _)| name == interface).map(|(_, address)| *address).collect()
    }
}

/// A line of `/proc/net/route`; its numbers are in network order, written as the machine reads them.
struct Route {
    interface: String,
    destination: u32,
    mask: u32,
    /// To the link itself, not to a gateway.
    is_link: bool,
}

impl Route {
    fn parse(line: &str) -> Option<Self> {
        let fields: Vec<&str> = line.split_whitespace().collect();
        let number = |index: usize| {
            let value = u32::from_str_radix(fields.get(index)?, 16).ok()?;
            Some(u32::from_be_bytes(value.to_ne_bytes()))
        };
        let (destination, gateway, mask) = (number(1)?, number(2)?, number(7)?);
        Some(Self { interface: (*fields.first()?).to_owned(), destination, mask, is_link: gateway == 0 })
    }

    fn covers(&self, address: Ipv4Addr) -> bool {
        self.mask != 0 && address.to_bits() & self.mask == self.destination
    }
}

/// The machine's own IPv4 addresses, from the tree of its routes: a line with the address, and below it `host LOCAL`.
fn local_addresses(trie: &str) -> Vec<Ipv4Addr> {
    let mut addresses = Vec::new();
    let mut last = None;
    for line in trie.lines() {
        if let Some((_, address)) = line.split_once("|-- ") {
            last = address.trim().parse::<Ipv4Addr>().ok();
        } else if line.contains("/32 host LOCAL") {
            addresses.extend(last.filter(|address| !address.is_loopback()));
        }
    }
    // The tree has a part for each table, and an address may be in several.
    addresses.sort_unstable();
    addresses.dedup();
    addresses
}

/// A line of `/proc/net/if_inet6`, unless its address is one that every interface has.
fn global_address(line: &str) -> Option<(String, IpAddr)> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let address = Ipv6Addr::from_bits(u128::from_str_radix(fields.first()?, 16).ok()?);
    let own = address.is_unicast_link_local() || address.is_loopback();
    (!own).then(|| Some(((*fields.get(5)?).to_owned(), IpAddr::V6(address))))?
}

/// The interface of a line of `/proc/net/ipv6_route`, if it is a default route through a gateway.
fn default_of_ipv6(line: &str) -> Option<String> {
    let fields: Vec<&str> = line.split_whitespace().collect();
    let zero = |index: usize| fields.get(index).is_some_and(|field| field.bytes().all(|byte| byte == b'0'));
    (fields.len() == 10 && zero(0) && zero(1) && !zero(4)).then(|| fields[9].to_owned())
}

/// One finding for each device; it can be in the way only of a driver that wants one.
pub(crate) fn findings(nics: &[Nic], need: &Need) -> Vec<Finding> {
    const CHECK: &str = "nic";
    let usable = |nic: &Nic| matches!(nic.bypass, Bypass::Ready | Bypass::Beside);
    let mut findings: Vec<Finding> = nics
        .iter()
        .map(|nic| {
            let names: Vec<&str> = nic.interfaces.iter().map(|interface| interface.name.as_str()).collect();
            let name =
                if names.is_empty() { nic.address.clone() } else { format!("{} ({})", nic.address, names.join(", ")) };
            let driver = nic.driver.as_deref().unwrap_or("no driver");
            let found = format!("{name}, {driver}: {}", nic.why);
            let state = if usable(nic) || !need.vfio { State::Fine } else { State::Note };
            let mut finding = Finding::new(CHECK, if nic.bypass == Bypass::Never { State::Note } else { state }, found);
            if nic.bypass == Bypass::Never {
                finding = finding.help("leave it with the kernel; a kernel-bypass driver needs another one");
            }
            if let (Bypass::AfterBinding { bind, give_back }, true) = (&nic.bypass, need.vfio) {
                finding = finding.help(format!("to give it back: {}", give_back.join("; ")));
                finding.commands.clone_from(bind);
            }
            finding
        })
        .collect();
    if need.vfio && !nics.iter().any(usable) {
        let found = format!("none of {} PCI Ethernet devices can be used by driver \"{}\"", nics.len(), need.driver);
        findings.push(Finding::new(CHECK, State::Fails, found).help("bind one that is free, as said at each"));
    }
    findings
}
