//! RDMA devices: what each port of them stands on, and why a node could not use it.

use super::host::Host;
use serde_json::{Value, json};
use std::{
    io::ErrorKind,
    net::{IpAddr, Ipv6Addr},
};

const DEVICES: &str = "/sys/class/infiniband";
const VERBS: &str = "/sys/class/infiniband_verbs";

/// One port of an RDMA device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RdmaPort {
    /// The device, such as `mlx5_0`.
    pub(crate) device: String,
    /// The port's number, from 1.
    pub(crate) number: u32,
    /// Network interfaces behind its addresses.
    pub(crate) interfaces: Vec<String>,
    /// As the kernel writes it: `100 Gb/sec (4X EDR)`.
    pub(crate) rate: Option<String>,
    /// Addresses that RoCE v2 goes by; those that every interface gives itself (fe80::) are left out.
    pub(crate) addresses: Vec<IpAddr>,
    /// Why a node could not use it, and what to do; `None`: it could.
    pub(crate) unusable: Option<String>,
}

impl RdmaPort {
    pub(crate) fn json(&self) -> Value {
        json!({
            "device": self.device,
            "port": self.number,
            "interfaces": self.interfaces,
            "rate": self.rate,
            "addresses": self.addresses,
            "usable": self.unusable.is_none(),
            "why": self.unusable,
        })
    }

    /// One line for a person.
    pub(crate) fn line(&self) -> String {
        let mut facts = vec![format!("{} port {}", self.device, self.number)];
        facts.extend(self.interfaces.iter().cloned());
        facts.extend(self.addresses.iter().map(ToString::to_string));
        facts.extend(self.rate.clone());
        let why = self.unusable.as_deref().unwrap_or("usable for RDMA lanes: name its address in the node file");
        format!("{}: {why}", facts.join(", "))
    }

    /// Whether this is what a port of the node stands on, by the words in which that is told.
    pub(crate) fn is_named_in(&self, text: &str) -> bool {
        let is_part = |letter: char| letter.is_alphanumeric() || letter == '_';
        text.split(|letter| !is_part(letter)).any(|word| word == self.device)
    }
}

/// Every port of every RDMA device, by name.
pub(crate) fn ports(host: &Host) -> Vec<RdmaPort> {
    let of_device = |device: String| {
        let mut numbers: Vec<u32> =
            host.names(&format!("{DEVICES}/{device}/ports")).iter().filter_map(|name| name.parse().ok()).collect();
        numbers.sort_unstable();
        numbers.into_iter().map(|number| port(host, &device, number)).collect::<Vec<_>>()
    };
    host.names(DEVICES).into_iter().flat_map(of_device).collect()
}

/// An entry of a port's table that is for RoCE v2.
struct Gid {
    address: Ipv6Addr,
    interface: Option<String>,
}

fn port(host: &Host, device: &str, number: u32) -> RdmaPort {
    let folder = format!("{DEVICES}/{device}/ports/{number}");
    let text = |name: &str| host.text(&format!("{folder}/{name}"));
    // The kernel refuses to read entries that are empty.
    let entries = host.names(&format!("{folder}/gid_attrs/types"));
    let is_v2 = |entry: &&String| {
        text(&format!("gid_attrs/types/{entry}")).is_some_and(|kind| kind.eq_ignore_ascii_case("RoCE v2"))
    };
    let gid = |entry: &String| {
        let address: Ipv6Addr = text(&format!("gids/{entry}"))?.parse().ok()?;
        Some(Gid { address, interface: text(&format!("gid_attrs/ndevs/{entry}")) })
    };
    let gids: Vec<Gid> = entries.iter().filter(is_v2).filter_map(gid).collect();
    let mut interfaces: Vec<String> = gids.iter().filter_map(|gid| gid.interface.clone()).collect();
    interfaces.sort();
    interfaces.dedup();
    let own = gids.iter().map(|gid| gid.address).filter(|address| !address.is_unicast_link_local());
    let addresses: Vec<IpAddr> = own.map(|address| IpAddr::V6(address).to_canonical()).collect();
    let interface = interfaces.first().map_or("its interface", String::as_str);
    let state = text("state").unwrap_or_default();
    let unusable = match () {
        () if text("link_layer").is_some_and(|layer| layer != "Ethernet") => {
            Some("it is on InfiniBand, and a node speaks RoCE v2: set the port to Ethernet".to_owned())
        }
        () if !state.ends_with("ACTIVE") => {
            Some(format!("no link ({state}): look at the cable, and `ip link set dev {interface} up`"))
        }
        () if gids.is_empty() => {
            Some("its table has no entry for RoCE v2: the device or its driver may only speak RoCE v1".to_owned())
        }
        () if addresses.is_empty() => {
            Some(format!("no IP address: give it one, `ip address add ADDRESS/BITS dev {interface}`"))
        }
        () => closed(host, device),
    };
    let rate = text("rate");
    RdmaPort { device: device.to_owned(), number, interfaces, rate, addresses, unusable }
}

/// Why this user's programs cannot open the device, if they cannot.
fn closed(host: &Host, device: &str) -> Option<String> {
    let names = host.names(VERBS);
    let file = names.into_iter().find(|name| host.text(&format!("{VERBS}/{name}/ibdev")).as_deref() == Some(device));
    let Some(file) = file.map(|name| format!("/dev/infiniband/{name}")) else {
        return Some("programs cannot reach it: `modprobe ib_uverbs`".to_owned());
    };
    match host.opens(&file).map_err(|error| error.kind()) {
        Ok(()) => None,
        Err(ErrorKind::NotFound) => {
            Some(format!("there is no {file}: `modprobe ib_uverbs`, or give it to the container"))
        }
        Err(ErrorKind::PermissionDenied) => {
            Some(format!("this user may not open {file}: let the node's user read and write it (often group rdma)"))
        }
        Err(kind) => Some(format!("{file} cannot be opened: {kind}")),
    }
}
