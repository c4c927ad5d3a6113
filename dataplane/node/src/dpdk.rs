//! From the node file to DPDK's ports.

use crate::{filters::Filters, ports::Region, topology::Plan};
use anyhow::Context;
use tachyon_config::{Device, HugePages, NodeFile, PortSection, Role};
use tachyon_driver_api::Ports;
use tachyon_driver_dpdk::{
    self as dpdk, DpdkConfig, DpdkPorts, DpdkQueue, DpdkSeat, EalConfig, PciAddress, PortConfig, ether,
};
use tachyon_wire::Endpoint;

pub(crate) use tachyon_driver_dpdk::HEADROOM_BYTES;
/// The cold side.
pub(crate) type Cold = DpdkPorts;
/// What a worker opens its queue with.
pub(crate) type Seat = DpdkSeat;

impl crate::transports::Reach for DpdkQueue {
    #[inline]
    fn reaches(&self, to: &Endpoint) -> bool {
        Self::reaches(self, to)
    }
}

/// Starts DPDK and opens every device.
///
/// # Errors
/// What the driver says.
pub(crate) fn open(file: &NodeFile, plan: &Plan, filters: &Filters) -> anyhow::Result<Cold> {
    let mut config = config(file, plan)?;
    for port in &mut config.ports {
        if let dpdk::Device::AfXdp { interface, program } = &mut port.device {
            *program = filters.object(interface);
        }
    }
    Ok(DpdkPorts::open(config)?)
}

/// What the node file says, in the driver's words.
pub(crate) fn config(file: &NodeFile, plan: &Plan) -> anyhow::Result<DpdkConfig> {
    let section = &file.dpdk;
    let ports: Vec<PortConfig> = file.ports.iter().map(port).collect::<anyhow::Result<_>>()?;
    let pci = ports.iter().filter_map(|port| match port.device {
        dpdk::Device::Pci(address) => Some(address),
        _ => None,
    });
    Ok(DpdkConfig {
        eal: EalConfig {
            memory_mib: section.memory_mb,
            huge_pages: match section.huge_pages {
                HugePages::Auto => dpdk::HugePages::Auto,
                HugePages::On => dpdk::HugePages::On,
                HugePages::Off => dpdk::HugePages::Off,
            },
            pci: pci.collect(),
        },
        ports,
        base_port: file.network.base_port,
        shards: plan.workers.iter().map(|worker| worker.shards.clone()).collect(),
        receive_descriptors: section.receive_descriptors,
        transmit_descriptors: section.transmit_descriptors,
    })
}

fn port(section: &PortSection) -> anyhow::Result<PortConfig> {
    // With the network that it lies in: packets through it come from our address there, which it can answer to.
    let networks = section.addresses.iter().map(|network| ether::Network {
        ip: network.ip(),
        prefix: network.prefix(),
        gateway: section.gateways.iter().copied().find(|gateway| network.contains(*gateway)),
    });
    Ok(PortConfig {
        name: section.name.as_str().to_owned(),
        device: device(&section.device)?,
        networks: networks.collect(),
        vlan: section.vlan,
        mtu: section.mtu,
        mac: section.mac.map(|mac| mac.octets()),
        neighbours: section.neighbours.iter().map(|neighbour| (neighbour.ip, neighbour.mac.octets())).collect(),
    })
}

fn device(device: &Device) -> anyhow::Result<dpdk::Device> {
    Ok(match device {
        Device::Pci(address) => dpdk::Device::Pci(address.as_str().parse::<PciAddress>()?),
        Device::Null { frame_bytes, receive } => {
            dpdk::Device::Null { packet_bytes: u16::try_from(*frame_bytes)?, receive: *receive }
        }
        Device::Ring {} => dpdk::Device::Ring,
        Device::Memif { socket, id, role } => {
            dpdk::Device::Memif { socket: socket.as_str().into(), id: *id, server: *role == Role::Server }
        }
        Device::AfPacket { interface } => dpdk::Device::AfPacket(interface.as_str().to_owned()),
        Device::AfXdp { interface } => dpdk::Device::AfXdp { interface: interface.as_str().to_owned(), program: None },
        Device::Pcap { read, write } => dpdk::Device::Pcap {
            read: read.as_ref().map(|path| path.as_str().into()),
            write: write.as_ref().map(|path| path.as_str().into()),
        },
        Device::VirtioUser { path } => dpdk::Device::VirtioUser(path.as_str().into()),
    })
}

/// A worker's queues.
pub(crate) fn seat(ports: &mut Cold, worker: u16, region: Region) -> anyhow::Result<Seat> {
    let Region { base, bytes, page_bytes } = region;
    ports.add_region(dpdk::Region { base, bytes, page_bytes })?;
    ports.seat(worker).context("a worker takes its place once")
}

/// Buffers of each worker that devices and DPDK's pool hold.
pub(crate) fn receive_buffers(ports: &Cold) -> u32 {
    ports.buffers_held()
}

/// Its ports, for people.
pub(crate) fn title(ports: &mut Cold) -> String {
    ports.reports().into_iter().map(|port| port.name).collect::<Vec<_>>().join(", ")
}

/// What is left once the workers have their queues.
pub(crate) fn cold(ports: Cold) -> Box<dyn Ports> {
    Box::new(ports)
}

/// Lets packets come; what is weaker than it could be.
pub(crate) fn start(ports: &mut DpdkPorts, plan: &Plan) -> anyhow::Result<Vec<String>> {
    ports.start_all()?;
    let mut degraded = ports.degraded();
    if rustix::process::geteuid().is_root() {
        // It began with DPDK itself, and rights belong to threads. It has to reach sockets of others anew, which root alone may.
        degraded.push("DPDK's own thread, for interrupts and sockets of devices, stays root, not fenced in".into());
    }
    for report in ports.reports() {
        let Some(node) = report.numa_node else { continue };
        for worker in plan.workers.iter().filter(|worker| worker.numa_node.is_some_and(|other| other != node)) {
            degraded.push(format!(
                "port {} is at NUMA node {node} and worker {} is not: put workers.cores on that node",
                report.name, worker.worker
            ));
        }
    }
    Ok(degraded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Machine;
    use tachyon_config::{Network, PortName, Source};

    #[test]
    fn a_gateway_belongs_to_the_network_that_it_lies_in() {
        let network = |text: &str| Network::try_from(text.to_owned()).unwrap();
        let section = PortSection {
            name: PortName::try_from("east".to_owned()).unwrap(),
            device: Device::Ring {},
            addresses: vec![network("10.0.1.1/24"), network("10.0.2.1/24")],
            gateways: vec!["10.0.2.254".parse().unwrap()],
            vlan: None,
            mtu: 1_500,
            mac: None,
            neighbours: Vec::new(),
        };
        let gateways: Vec<_> = port(&section).unwrap().networks.iter().map(|network| network.gateway).collect();
        assert_eq!(gateways, [None, Some("10.0.2.254".parse().unwrap())]);
    }

    /// The node file's default is made without knowing the driver, so the two are held together here.
    #[test]
    fn by_default_a_worker_keeps_as_many_buffers_as_its_devices_hold() {
        for ports in 1..=4 {
            let mut text = "[network]\ndriver = \"dpdk\"\n[workers]\ncount = 1\n".to_owned();
            for port in 0..ports {
                text.push_str(&format!(
                    "[[ports]]\nname = \"p{port}\"\ndevice = {{ null = {{}} }}\naddresses = [\"10.0.{port}.1/24\"]\n"
                ));
            }
            let file = NodeFile::parse(&Source { name: "node.toml", text: &text, manual: "" }).unwrap();
            let config = config(&file, &Plan::new(&file, &Machine::discover()).unwrap()).unwrap();
            assert!(file.buffers_per_worker() as usize >= 2 * config.buffers_held(), "{ports} ports");
        }
    }
}
