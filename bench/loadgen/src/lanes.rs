//! RDMA lanes as this program plans them: one to each worker of the node, which goes by the names of that worker's shards.
//!
//! Publishers address a node by shard: address and port of shard n. Over UDP the port leads to the shard's worker; over RDMA
//! each worker has a lane of its own, so the lane has to answer to the name of each of its shards.

use anyhow::Result;
use clap::ValueEnum;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tachyon_proto::v1;
use tachyon_wire::Endpoint;

/// Bytes of one end's part of an agreement.
pub const DETAILS_BYTES: usize = 64;

/// What carries the frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Fabric {
    /// UDP through sockets.
    Udp,
    /// RoCE v2, as datagrams.
    RdmaDatagram,
    /// RoCE v2, as sends on a connection with each worker.
    RdmaConnection,
    /// RoCE v2, subscribers' frames as writes into rings of theirs; publishers send as with rdma-connection.
    RdmaRing,
}

impl Fabric {
    /// What sessions and subscriptions are opened with.
    #[must_use]
    pub const fn lane(self) -> v1::Lane {
        match self {
            Self::Udp => v1::Lane::Udp,
            Self::RdmaDatagram => v1::Lane::RdmaDatagram,
            Self::RdmaConnection => v1::Lane::RdmaConnection,
            Self::RdmaRing => v1::Lane::RdmaRing,
        }
    }
}

/// Whose lane it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A publishing session.
    Session(u32),
    /// A subscription.
    Subscriber(u32),
}

/// How the node says that one lane is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeLane {
    /// The node's worker.
    pub worker: u16,
    /// It waits for another offer: it failed there, or the node does not have it.
    pub wants_offer: bool,
    /// Its frames go by UDP now.
    pub fell_back: bool,
    /// What the last failure was.
    pub why: String,
}

/// What carries one end's part of a lane to the other.
pub trait Carrier {
    /// Offers our part to a worker; its part comes back.
    ///
    /// # Errors
    /// The node refuses, or nobody answers.
    fn connect(&mut self, owner: Owner, worker: u16, details: [u8; DETAILS_BYTES]) -> Result<[u8; DETAILS_BYTES]>;

    /// How the node says that our lanes are.
    ///
    /// # Errors
    /// Nobody answers, or there is no such owner.
    fn lanes(&mut self, owner: Owner) -> Result<Vec<NodeLane>>;
}

/// What the node's workers are called.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Names {
    /// Address of the node and port of shard 0.
    pub node: Endpoint,
    /// Its workers, at least one: worker w owns the shards s with s mod workers = w.
    pub workers: u16,
    /// Its shards.
    pub shard_count: u16,
}

impl Names {
    /// Workers that own a shard; others get no frames, so there is no lane to them.
    pub fn workers(&self) -> impl Iterator<Item = u16> + use<> {
        0..self.workers.min(self.shard_count)
    }

    /// What a worker is called: its first shard's name.
    #[must_use]
    pub fn of(&self, worker: u16) -> Endpoint {
        self.shard(worker)
    }

    /// What else it is called: the names of its other shards.
    pub fn also(&self, worker: u16) -> impl Iterator<Item = Endpoint> + use<> {
        let names = *self;
        let step = usize::from(self.workers.max(1));
        (worker..self.shard_count).step_by(step).skip(1).map(move |shard| names.shard(shard))
    }

    /// The worker of this name.
    #[must_use]
    pub fn worker_of(&self, to: &Endpoint) -> Option<u16> {
        self.workers().find(|worker| self.of(*worker) == *to)
    }

    fn shard(&self, shard: u16) -> Endpoint {
        Endpoint { port: self.node.port.get().saturating_add(shard).into(), ..self.node }
    }
}

/// What a device of the fabric did, for the report.
#[derive(Clone, Debug, Default)]
pub struct FabricReport {
    /// Our device.
    pub device: String,
    /// Path MTU in bytes.
    pub mtu_bytes: u32,
    /// Lanes that were agreed on, first agreements and those after failures.
    pub agreements: u64,
    /// Lanes that the node said fell back to UDP.
    pub fell_back: u64,
    /// What went wrong, one line each.
    pub troubles: Vec<String>,
    /// What our devices and queues counted.
    pub counters: BTreeMap<String, u64>,
}

impl FabricReport {
    /// As the report shows it; `node` is what the node's device counted in the run.
    #[must_use]
    pub fn json(&self, fabric: Fabric, node: &BTreeMap<String, u64>) -> Value {
        let name = fabric.to_possible_value().map(|value| value.get_name().to_owned());
        json!({
            "fabric": name,
            "device": self.device,
            "mtu_bytes": self.mtu_bytes,
            "agreements": self.agreements,
            "fell_back": self.fell_back,
            "troubles": self.troubles,
            "counters": self.counters,
            "node_counters": node,
        })
    }
}

/// Whether a device's counter tells of frames that nobody got: what the node's queues refuse before the engine sees it, and
/// what mlx5 and the soft device drop.
#[must_use]
pub fn counts_losses(name: &str) -> bool {
    name.starts_with("refused_") || ["receives_failed", "out_of_buffer", "rx_icrc_encapsulated"].contains(&name)
}

#[cfg(test)]
mod tests {
    use super::{Names, counts_losses};
    use proptest::prelude::*;
    use std::collections::BTreeSet;
    use tachyon_wire::Endpoint;

    const NODE: Endpoint = Endpoint::v4([10, 0, 0, 1], 24_640);

    #[test]
    fn a_worker_answers_to_the_names_of_its_shards() {
        let names = Names { node: NODE, workers: 3, shard_count: 8 };
        assert_eq!(names.of(1), Endpoint::v4([10, 0, 0, 1], 24_641));
        let also: Vec<u16> = names.also(1).map(|name| name.port.get()).collect();
        assert_eq!(also, [24_644, 24_647]);
        assert_eq!((names.worker_of(&names.of(2)), names.worker_of(&NODE)), (Some(2), Some(0)));
        assert_eq!(names.worker_of(&Endpoint::v4([10, 0, 0, 1], 24_643)), None, "that is a second name");
    }

    proptest! {
        #[test]
        fn every_shard_has_one_lane_and_it_leads_to_its_worker(workers in 1u16..70, bits in 0u32..7) {
            let names = Names { node: NODE, workers, shard_count: 1 << bits };
            let mut seen = BTreeSet::new();
            for worker in names.workers() {
                for name in [names.of(worker)].into_iter().chain(names.also(worker)) {
                    let shard = name.port.get() - 24_640;
                    prop_assert_eq!(shard % workers, worker);
                    prop_assert!(seen.insert(shard), "one name, one lane");
                }
            }
            prop_assert_eq!(seen.len(), 1 << bits);
        }
    }

    #[test]
    fn counters_of_losses_are_told_from_those_of_traffic() {
        assert!(counts_losses("out_of_buffer") && counts_losses("refused_no_immediate"));
        assert!(!counts_losses("rcvd_pkts") && !counts_losses("duplicate_request"));
    }
}
