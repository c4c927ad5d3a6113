//! What people want to know about a port and its lanes.

use crate::{
    connection::Stage,
    device::Fabric,
    ports::{Desk, VerbsPorts, name},
    wires::Count,
};

/// A port, for people.
#[derive(Clone, Debug)]
pub struct PortReport {
    /// Its device.
    pub device: String,
    /// Our address on it.
    pub address: String,
    /// Whether it is usable: `ready`, `link_down` or `lost`.
    pub state: &'static str,
    /// Why it is not.
    pub why: String,
    /// Path MTU in bytes.
    pub mtu_bytes: u32,
    /// Traffic class of its packets.
    pub traffic_class: u8,
    /// Workers that have queues on it.
    pub workers: u16,
    /// Memory regions registered, subscribers' rings not counted: 1 from start to end.
    pub registrations: u64,
    /// What the device said by itself.
    pub notes: Vec<String>,
    /// What the device counted, and what workers refused, by cause.
    pub counters: Vec<(String, u64)>,
    /// Where frames can go.
    pub lanes: Vec<LaneReport>,
}

/// One worker's way to one destination, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LaneReport {
    /// The worker.
    pub worker: u16,
    /// The destination.
    pub to: String,
    /// `datagrams`, `connection` or `ring`; the last if the peer writes into a ring of ours.
    pub kind: &'static str,
    /// `fresh`, `offered`, `connected`, `draining`, `clearing`, `waiting` or `failed`.
    pub state: &'static str,
    /// What the last failure was; empty if there was none.
    pub why: String,
    /// Tries to connect again since it stood for a while.
    pub attempts: u32,
}

impl<F: Fabric> VerbsPorts<F> {
    /// The port and all lanes.
    #[must_use]
    pub fn report(&self) -> PortReport {
        let (state, why) = match (self.lost, self.up) {
            (true, _) => ("lost", "the device is lost: look at the machine's log, and start the node again"),
            (false, false) => ("link_down", "its link is down: look at the cable and the other end"),
            (false, true) => ("ready", ""),
        };
        let mut counters = self.fabric.counters();
        for (count, name) in Count::ALL {
            let sum: u64 = self.desks.iter().map(|desk| desk.counts.get(count)).sum();
            if sum > 0 {
                counters.push((name.to_owned(), sum));
            }
        }
        let ip = std::net::Ipv6Addr::from(self.info.gid);
        PortReport {
            device: self.info.device.clone(),
            address: ip.to_ipv4_mapped().map_or_else(|| ip.to_string(), |ip| ip.to_string()),
            state,
            why: why.to_owned(),
            mtu_bytes: self.info.mtu_bytes,
            traffic_class: self.config.traffic_class,
            workers: self.config.workers,
            registrations: self.fabric.registrations(),
            notes: self.notes.clone(),
            counters,
            lanes: (0..).zip(&self.desks).flat_map(|(worker, desk)| lanes(worker, desk)).collect(),
        }
    }
}

fn lanes<F: Fabric>(worker: u16, desk: &Desk<F>) -> Vec<LaneReport> {
    let datagrams = desk.peers.iter().filter(|(_, peer)| peer.is_datagram).map(|((ip, port), _)| LaneReport {
        worker,
        to: name(&tachyon_wire::Endpoint::v6(*ip, *port)),
        kind: "datagrams",
        state: desk.datagrams.stage.name(),
        why: desk.datagrams.why.clone(),
        attempts: desk.datagrams.attempts,
    });
    let connections = desk.connections.iter().map(|one| LaneReport {
        worker,
        to: name(&one.to),
        kind: if one.ring_size.is_some() { "ring" } else { "connection" },
        state: one.stage.name(),
        why: if one.stage == Stage::Fresh { String::new() } else { one.why.clone() },
        attempts: one.attempts,
    });
    datagrams.chain(connections).collect()
}
