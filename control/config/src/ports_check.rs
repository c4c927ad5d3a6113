//! What can be wrong between `[network]`, `[memory]`, `[dpdk]` and `[[ports]]` although each value is in range.

use crate::{
    Contradiction, Driver, NodeFile, PortSection,
    node_file::Step::{Item, Key},
    ports::{ADDRESSES_MAX, Device, PORTS_MAX},
};

/// DPDK counts the bytes of a buffer, its headroom of 128 included, in 16 bits: 65,535 - 128 rounded down to lines.
const BUFFER_BYTES_MAX: u32 = (65_535 - 128) / 64 * 64;

type Outcome = Result<(), Contradiction>;

/// Holds the ports against the rest of the file and against each other.
pub(crate) fn check(file: &NodeFile) -> Outcome {
    let drivers = &file.network.driver;
    match (drivers.has(Driver::Dpdk), file.ports.len()) {
        (false, 0) => return Ok(()),
        (false, _) => {
            let fix = "set driver = \"dpdk\" in [network], or take the [[ports]] out";
            let text = format!("the {drivers} driver has no [[ports]]");
            return Err(Contradiction::new([Key("ports"), Item(0)], text, fix));
        }
        (true, 0) => {
            let fix = "add a [[ports]] entry for each device, or choose driver = \"uring\"";
            return Err(Contradiction::new([Key("network"), Key("driver")], "dpdk without a single port", fix));
        }
        (true, 1..=PORTS_MAX) => {}
        (true, count) => {
            let text = format!("{count} ports, more than a node can have");
            return Err(Contradiction::new([Key("ports"), Item(PORTS_MAX)], text, format!("keep {PORTS_MAX} of them")));
        }
    }
    for (index, port) in file.ports.iter().enumerate() {
        let taken = [(Driver::Rdma, "rdma"), (Driver::Uring, "udp")];
        let taken = taken.into_iter().find(|(driver, name)| drivers.has(*driver) && port.name.as_str() == *name);
        if let Some((driver, name)) = taken {
            let text = format!("`{name}` is what the port of {} is called", driver.name());
            let fix = "choose another name";
            return Err(Contradiction::new([Key("ports"), Item(index), Key("name")], text, fix));
        }
        alone(index, port)?;
        for earlier in &file.ports[..index] {
            beside(index, port, earlier)?;
        }
        frames_fit(file, port)?;
    }
    buffers_fit(file)
}

/// What can be wrong within a port.
fn alone(index: usize, port: &PortSection) -> Outcome {
    let wrong =
        |key, text: String, fix: &str| Err(Contradiction::new([Key("ports"), Item(index), Key(key)], text, fix));
    let name = &port.name;
    if port.addresses.is_empty() || port.addresses.len() > ADDRESSES_MAX {
        let text = format!("port `{name}` has {} addresses", port.addresses.len());
        return wrong("addresses", text, &format!("give it 1 to {ADDRESSES_MAX}, such as [\"10.0.1.1/24\"]"));
    }
    for (place, network) in port.addresses.iter().enumerate() {
        if let Some(same) = port.addresses[..place].iter().find(|earlier| earlier.overlaps(network)) {
            let text = format!("{same} and {network} of port `{name}` overlap");
            return wrong("addresses", text, "give the port one address in each network");
        }
    }
    if port.has_ipv6() && port.mtu < 1_280 {
        return wrong("mtu", format!("MTU {} with an IPv6 address", port.mtu), "choose 1280 or more (RFC 8200)");
    }
    if matches!(&port.device, Device::Pcap { read: None, write: None }) {
        return wrong(
            "device",
            "a pcap device without a file".into(),
            "name a file to `read`, one to `write`, or both",
        );
    }
    let own = |ip| port.addresses.iter().any(|network| network.ip() == ip);
    let near = |ip| port.addresses.iter().any(|network| network.contains(ip)) && !own(ip);
    for (place, gateway) in port.gateways.iter().enumerate() {
        if !near(*gateway) {
            let text = format!("gateway {gateway} is not a neighbour of port `{name}`");
            return wrong("gateway", text, "choose an address in one of the port's networks that is not its own");
        }
        if port.gateways[..place].iter().any(|earlier| earlier.is_ipv4() == gateway.is_ipv4()) {
            return wrong("gateway", format!("port `{name}` has two gateways of a family"), "keep one of each family");
        }
    }
    for (place, neighbour) in port.neighbours.iter().enumerate() {
        let (ip, at) = (neighbour.ip, [Key("ports"), Item(index), Key("neighbours"), Item(place), Key("ip")]);
        if !near(ip) {
            let text = format!("{ip} is not a neighbour of port `{name}`");
            let fix = "choose an address in one of the port's networks that is not its own";
            return Err(Contradiction::new(at, text, fix));
        }
        if port.neighbours[..place].iter().any(|earlier| earlier.ip == ip) {
            let text = format!("{ip} stands twice among the neighbours of port `{name}`");
            return Err(Contradiction::new(at, text, "keep one of them"));
        }
    }
    Ok(())
}

/// What can be wrong between a port and an earlier one.
fn beside(index: usize, port: &PortSection, earlier: &PortSection) -> Outcome {
    let wrong = |key, text, fix: &str| Err(Contradiction::new([Key("ports"), Item(index), Key(key)], text, fix));
    if port.name == earlier.name {
        return wrong("name", format!("a second port named `{}`", port.name), "give each port a name of its own");
    }
    if let Some(claim) = port.device.claim().filter(|claim| earlier.device.claim().as_ref() == Some(claim)) {
        let text = format!("{claim} already belongs to port `{}`", earlier.name);
        return wrong("device", text, "give each port a device of its own");
    }
    for network in &port.addresses {
        if let Some(other) = earlier.addresses.iter().find(|other| other.overlaps(network)) {
            let text =
                format!("{network} overlaps {other} of port `{}`, so nobody could tell whose it is", earlier.name);
            return wrong("addresses", text, "give each port networks of its own");
        }
    }
    Ok(())
}

fn frames_fit(file: &NodeFile, port: &PortSection) -> Outcome {
    let (frame, room) = (file.frame_bytes_max(), port.frame_bytes_max());
    if frame <= room {
        return Ok(());
    }
    let (name, mtu, family) = (&port.name, port.mtu, if port.has_ipv6() { "IPv6" } else { "IPv4" });
    let text = format!("a frame of {frame} bytes does not fit MTU {mtu} over {family} on port `{name}`");
    let fix = format!("choose {room} or less, leave it out, or raise the port's mtu");
    Err(Contradiction::new([Key("network"), Key("frame_bytes_max")], text, fix))
}

fn buffers_fit(file: &NodeFile) -> Outcome {
    let (bytes, at) = (file.buffer_bytes(), [Key("memory"), Key("buffer_bytes")]);
    let needed = file.packet_buffer_bytes();
    if bytes > BUFFER_BYTES_MAX {
        let text = format!("buffers of {bytes} bytes are larger than DPDK can count");
        return Err(Contradiction::new(at, text, format!("choose {BUFFER_BYTES_MAX} or less, or leave it out")));
    }
    if bytes < needed {
        let text = format!("a packet of the largest MTU does not fit a buffer of {bytes} bytes");
        return Err(Contradiction::new(at, text, format!("choose {needed} or more, or leave it out")));
    }
    Ok(())
}
