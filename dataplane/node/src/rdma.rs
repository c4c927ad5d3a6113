//! From the node file to the RDMA device.

use crate::ports::Region;
use anyhow::Context;
use std::{fs, net::IpAddr, path::PathBuf};
use tachyon_config::NodeFile;
use tachyon_driver_api::Ports;
use tachyon_driver_verbs::{ArenaRegion, VerbsConfig, VerbsPorts, VerbsQueue, VerbsSeat, device::Device, devices};
use tachyon_wire::Endpoint;

/// The cold side.
pub(crate) type Cold = VerbsPorts;
/// What a worker opens its queue with.
pub(crate) type Seat = VerbsSeat<tachyon_driver_verbs::Hardware>;

/// In nanoseconds.
const MILLISECOND: u64 = 1_000_000;

impl<D: Device> crate::transports::Reach for VerbsQueue<D> {
    #[inline]
    fn reaches(&self, to: &Endpoint) -> bool {
        Self::reaches(self, to)
    }
}

fn address(file: &NodeFile) -> anyhow::Result<IpAddr> {
    file.rdma_address().context("rdma without an address: set address in [rdma]")
}

/// What the node file says, in the driver's words.
pub(crate) fn config(file: &NodeFile, arena: ArenaRegion, events: bool, seed: u64) -> anyhow::Result<VerbsConfig> {
    let section = &file.rdma;
    Ok(VerbsConfig {
        device: section.device.as_ref().map(|device| device.as_str().to_owned()),
        workers: file.workers.count,
        shard_count: file.network.shard_count,
        traffic_class: section.traffic_class,
        mtu_bytes_max: section.mtu_bytes_max,
        retry_count: section.retry_count,
        rnr_retry: section.rnr_retry,
        timeout: section.timeout,
        min_rnr_timer: section.min_rnr_timer,
        receive_depth: section.receive_depth,
        send_depth: section.send_depth,
        items_max: section.items_max,
        items_per_lane_max: section.items_per_lane_max,
        lanes_max: section.lanes_max,
        // A subscriber is sent each shard at a port of its own.
        ports_per_peer: file.network.shard_count,
        connections_max: section.connections_max,
        inline_bytes: section.inline_bytes,
        signal_interval: section.signal_interval,
        events,
        reconnects_max: section.reconnects_max,
        reconnect_ns: u64::from(section.reconnect_ms) * MILLISECOND,
        ..VerbsConfig::new(address(file)?, arena, seed)
    })
}

/// Looks whether there is such a device; its name.
///
/// # Errors
/// There is none; in one line.
pub(crate) fn find(file: &NodeFile) -> anyhow::Result<String> {
    let (all, ip) = (devices()?, address(file)?);
    anyhow::ensure!(!all.0.is_empty(), "this machine has no RDMA device");
    let device = file.rdma.device.as_ref().map(tachyon_config::RdmaDevice::as_str);
    match all.find(device, ip) {
        Ok((device, ..)) => Ok(device.name.clone()),
        Err(error) => anyhow::bail!("{}", error.to_string().trim_end().replace('\n', "; ")),
    }
}

/// Opens the device, and registers the arena.
///
/// # Errors
/// The workers' memory is in several pieces, or what the driver says.
pub(crate) fn open(file: &NodeFile, regions: &[Region], alone: bool, seed: u64) -> anyhow::Result<Cold> {
    let [Region { base, bytes, .. }] = *regions else {
        anyhow::bail!(
            "the workers are on {} NUMA nodes and the device takes memory in one piece: put workers.cores on one node",
            regions.len()
        )
    };
    // Nobody sleeps on one driver where there are several, so nobody would read the device's wakings.
    let events = file.rdma.events && alone;
    Ok(VerbsPorts::open(config(file, ArenaRegion { base, bytes }, events, seed)?)?)
}

/// A worker's queues.
pub(crate) fn seat(ports: &mut Cold, worker: u16) -> anyhow::Result<Seat> {
    ports.seat(worker).context("a worker takes its place once")
}

/// Buffers of each worker that the device holds to receive into.
pub(crate) fn receive_buffers(file: &NodeFile) -> u32 {
    file.rdma.receive_depth
}

/// Largest frame in bytes, header included, that the path MTU carries.
pub(crate) fn frame_bytes_max(ports: &Cold) -> u32 {
    ports.report().mtu_bytes / 64 * 64
}

/// Its device, for people.
pub(crate) fn title(ports: &Cold) -> String {
    ports.report().device
}

/// Whether its device is software.
pub(crate) const fn is_soft(ports: &Cold) -> bool {
    ports.is_soft()
}

/// What the cold side reads while the node runs: the device's own counts.
pub(crate) fn files(ports: &Cold) -> Vec<PathBuf> {
    let folder = PathBuf::from("/sys/class/infiniband").join(ports.report().device);
    fs::canonicalize(folder).into_iter().collect()
}

/// What is left once the workers have their queues.
pub(crate) fn cold(ports: Cold) -> Box<dyn Ports> {
    Box::new(ports)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tachyon_config::Source;

    /// The node file's defaults are made without knowing the driver, so the two are held together here.
    #[test]
    fn the_node_files_defaults_are_the_drivers() {
        let text = "[network]\ndriver = \"rdma\"\naddress = \"10.0.0.1\"\nshard_count = 16\n";
        let file = NodeFile::parse(&Source { name: "node.toml", text, manual: "" }).unwrap();
        let arena = ArenaRegion { base: 0, bytes: 0 };
        let ours = config(&file, arena, file.rdma.events, 5).unwrap();
        let theirs = VerbsConfig { ports_per_peer: 16, ..VerbsConfig::new([10, 0, 0, 1].into(), arena, 5) };
        assert_eq!(format!("{ours:?}"), format!("{theirs:?}"));
        assert!(ours.receive_offset_bytes + 40 + ours.mtu_bytes_max <= file.buffer_bytes());
        assert!(receive_buffers(&file) <= file.buffers_per_worker() / 2);
    }

    #[test]
    fn memory_in_several_pieces_is_refused_with_what_to_do() {
        let text = "[network]\ndriver = \"rdma\"\naddress = \"10.0.0.1\"\n";
        let file = NodeFile::parse(&Source { name: "node.toml", text, manual: "" }).unwrap();
        let region = Region { base: 0, bytes: 64, page_bytes: 4_096 };
        let error = open(&file, &[region, region], true, 1).unwrap_err().to_string();
        assert!(error.contains("2 NUMA nodes") && error.contains("workers.cores"), "{error}");
    }
}
