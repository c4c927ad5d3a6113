//! From the node file to XDP sockets.

use crate::{filters::Filters, topology::Plan};
use anyhow::Context;
use tachyon_config::{FilterDelivery, NodeFile};
use tachyon_driver_afxdp::{AfxdpConfig, AfxdpPorts, AfxdpQueue, AfxdpSeat, MapKey, PortConfig};
use tachyon_driver_api::Ports;
use tachyon_wire::Endpoint;

pub(crate) use tachyon_driver_afxdp::HEADROOM_BYTES;
/// The cold side.
pub(crate) type Cold = AfxdpPorts;
/// What a worker opens its queue with.
pub(crate) type Seat = AfxdpSeat;

impl crate::transports::Reach for AfxdpQueue {
    #[inline]
    fn reaches(&self, to: &Endpoint) -> bool {
        Self::reaches(self, to)
    }
}

/// Looks at the interfaces, and has their filters' maps of sockets at hand.
///
/// # Errors
/// No interface has a filter that could give it frames, or what the driver says.
pub(crate) fn open(file: &NodeFile, plan: &Plan, filters: &Filters) -> anyhow::Result<Cold> {
    let sections = file.prefilters.iter().filter(|section| section.deliver == FilterDelivery::Afxdp);
    let names: Vec<&str> = sections.map(|section| section.interface.as_str()).collect();
    let ports: Vec<PortConfig> = names.iter().filter_map(|name| port(file, name, filters)).collect();
    anyhow::ensure!(!ports.is_empty(), "no pre-filter can be loaded that would give it frames ({})", names.join(", "));
    Ok(AfxdpPorts::new(config(file, plan, ports))?)
}

/// What the node file says, in the driver's words.
fn config(file: &NodeFile, plan: &Plan, ports: Vec<PortConfig>) -> AfxdpConfig {
    let shards = plan.workers.iter().map(|worker| worker.shards.clone()).collect();
    AfxdpConfig {
        receive_descriptors: file.afxdp.receive_descriptors,
        transmit_descriptors: file.afxdp.transmit_descriptors,
        ..AfxdpConfig::new(ports, file.network.base_port, shards)
    }
}

/// An interface whose filter is loaded; it is told apart by its own name.
fn port(file: &NodeFile, name: &str, filters: &Filters) -> Option<PortConfig> {
    let map = filters.xskmap(name)?;
    Some(PortConfig {
        first_queue: file.afxdp.first_queue.into(),
        // So that a frame of another worker's shard goes to that worker by the kernel, and does not end at this one.
        map_key: MapKey::QueueAndShard(file.network.shard_count),
        force_copy: !file.afxdp.zero_copy,
        udp_checksum: file.afxdp.udp_checksum,
        busy_poll_us: file.afxdp.busy_poll_us,
        ..PortConfig::new(name, name, Some(map))
    })
}

/// A worker's queues.
pub(crate) fn seat(ports: &mut Cold, worker: u16) -> anyhow::Result<Seat> {
    ports.seat(worker).context("a worker takes its place once")
}

/// Largest frame in bytes, header included, that the MTU of every interface carries.
pub(crate) fn frame_bytes_max(ports: &Cold) -> u32 {
    ports.frame_bytes_max()
}

/// Its interfaces, for people.
pub(crate) fn title(ports: &mut Cold) -> String {
    ports.reports().into_iter().map(|port| port.name).collect::<Vec<_>>().join(", ")
}

/// What is left once the workers have their queues.
pub(crate) fn cold(ports: Cold) -> Box<dyn Ports> {
    Box::new(ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::Machine;
    use tachyon_config::Source;

    /// The node file's defaults and sizes are made without knowing the driver, so the two are held together here.
    #[test]
    fn the_node_files_defaults_are_the_drivers_and_its_buffers_are_enough() {
        for filters in 1..=3 {
            let mut text = "[network]\ndriver = [\"afxdp\", \"uring\"]\n".to_owned();
            for filter in 0..filters {
                text.push_str(&format!("[[prefilter]]\ninterface = \"e{filter}\"\ndeliver = \"afxdp\"\n"));
            }
            let file = NodeFile::parse(&Source { name: "node.toml", text: &text, manual: "" }).unwrap();
            let plan = Plan::new(&file, &Machine::discover()).unwrap();
            let ports: Vec<PortConfig> = (0..filters).map(|_| PortConfig::new("e", "e", None)).collect();
            let (ours, theirs) = (
                config(&file, &plan, ports.clone()),
                AfxdpConfig::new(ports, file.network.base_port, vec![(0..16).collect()]),
            );
            assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
            assert!(file.buffers_per_worker() as usize >= 2 * ours.buffers_held());
            assert!((file.buffer_bytes() + HEADROOM_BYTES).is_power_of_two());
        }
    }
}
