//! What a run needs of whoever is in the middle, and the management interface that gives it: topics, sessions,
//! subscriptions and counters over gRPC, as any client sees them.

use crate::{
    lanes::{Carrier, DETAILS_BYTES, NodeLane, Owner},
    ledger::{Ledger, Ledgers, Route},
};
use anyhow::{Context, Result, anyhow, bail};
use std::{
    collections::BTreeMap,
    future::Future,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};
use tachyon_proto::{
    Client,
    v1::{
        self, CloseSessionRequest, ConnectLaneRequest, Lane, ListLanesRequest, ListPortsRequest, OpenSessionRequest,
        OpenSessionResponse, ResolveTopicsRequest, SlowSubscriber, StatsRequest, StatsResponse, StatusRequest,
        SubscribeRequest, SubscribeResponse, UnsubscribeRequest,
    },
};
use tokio::runtime::Runtime;
use tonic::{Code, Status};

/// Pause between two tries.
const RETRY: Duration = Duration::from_millis(100);
/// Longest wait of the thread that keeps lanes for one answer.
const LANE_CALL_MAX: Duration = Duration::from_secs(1);
/// Topic names in one call: half of what the interface allows, so that long names stay far below its size limit.
const NAMES_PER_CALL: usize = 32_768;

/// Where a run gets its topics, sessions and subscriptions from, and reads what became of its frames.
pub trait Access {
    /// Who is in the middle.
    ///
    /// # Errors
    /// The node does not connect within the patience, or tells nonsense.
    fn node(&mut self) -> Result<NodeFacts>;

    /// The ids of these topics, in the same order.
    ///
    /// # Errors
    /// The identity may not use one of them, or the registry is full.
    fn resolve(&mut self, identity: &str, names: &[String]) -> Result<Vec<u32>>;

    /// Opens a publishing session.
    ///
    /// # Errors
    /// The rules do not allow it, or there is no room.
    fn open_session(&mut self, identity: &str, tags: bool, lane: Lane) -> Result<OpenSessionResponse>;

    /// Ends a publishing session.
    ///
    /// # Errors
    /// The session is not known any more.
    fn close_session(&mut self, session_id: u32) -> Result<()>;

    /// Subscribes an address to topics.
    ///
    /// # Errors
    /// The rules do not allow it, or there is no room.
    fn subscribe(&mut self, wanted: &Wanted) -> Result<SubscribeResponse>;

    /// Ends a subscription.
    ///
    /// # Errors
    /// The subscription is not known any more.
    fn unsubscribe(&mut self, subscriber: u32) -> Result<()>;

    /// The node's counters now; all zero if [`NodeFacts::counts`] says that there are none.
    ///
    /// # Errors
    /// The control process is away for longer than the patience.
    fn read(&mut self) -> Result<Reading>;
}

/// A connection to the control process.
#[derive(Debug)]
pub struct Control {
    runtime: Runtime,
    client: Client,
    patience: Duration,
    /// The node has an RDMA device.
    has_rdma: bool,
}

/// The node as it told us.
#[derive(Clone, Debug)]
pub struct NodeFacts {
    /// Shards of the fabric.
    pub shard_count: u16,
    /// UDP port of shard 0.
    pub base_port: u16,
    /// Addresses that take frames.
    pub addresses: Vec<String>,
    /// Largest frame in bytes.
    pub frame_bytes_max: u32,
    /// What works with less than was asked for.
    pub degraded: Vec<String>,
    /// Whether it counts what it does, so that its ledgers can be held against ours.
    pub counts: bool,
    /// Its workers.
    pub workers: u16,
    /// Path MTU of its RDMA device in bytes, if it has one and tells it.
    pub fabric_mtu_bytes: Option<u32>,
}

/// The node's counters at one moment.
#[derive(Clone, Debug, Default)]
pub struct Reading {
    /// Which start of the node they belong to.
    pub boot_id: String,
    /// The ledgers.
    pub ledgers: Ledgers,
    /// Residence in the worker: count by bucket (lowest, highest), ns.
    pub residence: BTreeMap<(u64, u64), u64>,
    /// Largest residence since the node started, ns.
    pub residence_max: u64,
    /// Newest ruleset that a worker judges by.
    pub ruleset_version: u64,
    /// Copies by `route_id`.
    pub routes: BTreeMap<u32, Route>,
    /// Times a worker allocated or freed memory after start-up.
    pub heap_calls: u64,
    /// What its RDMA devices counted, by their own names.
    pub fabric: BTreeMap<String, u64>,
}

impl Control {
    /// Connects, waiting for the socket if it is not there yet. `patience` is how long this and every later call tries
    /// again while the control process is away.
    ///
    /// # Errors
    /// Nothing answers within `patience`.
    pub fn connect(socket: &Path, patience: Duration) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let start = Instant::now();
        let client = loop {
            match runtime.block_on(tachyon_proto::connect(socket)) {
                Ok(client) => break client,
                Err(_) if start.elapsed() < patience => std::thread::sleep(RETRY),
                Err(error) => {
                    return Err(anyhow!(error).context(format!(
                        "no control process answers at {}; start `tachyon-control` or give its socket with --control",
                        socket.display()
                    )));
                }
            }
        };
        Ok(Self { runtime, client, patience, has_rdma: false })
    }

    /// Calls until it works, the answer is final, or the patience is over. Only for calls that may be made twice.
    fn call<T, F>(&mut self, make: impl Fn(Client) -> F) -> Result<T>
    where
        F: Future<Output = Result<tonic::Response<T>, Status>>,
    {
        let start = Instant::now();
        loop {
            match self.runtime.block_on(make(self.client.clone())) {
                Ok(response) => return Ok(response.into_inner()),
                // Unknown and cancelled are what a connection that broke under a call looks like.
                Err(status)
                    if matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled)
                        && start.elapsed() < self.patience =>
                {
                    std::thread::sleep(RETRY);
                }
                Err(status) => bail!("{} ({:?})", status.message(), status.code()),
            }
        }
    }
}

impl Control {
    /// The node's RDMA devices.
    fn rdma_ports(&mut self) -> Result<Vec<v1::Port>> {
        if !self.has_rdma {
            return Ok(Vec::new());
        }
        let ports = self.call(async |mut client: Client| client.list_ports(ListPortsRequest {}).await);
        let ports = ports.context("reading the node's ports")?.ports.into_iter();
        Ok(ports.filter(|port| ["rdma", "verbs"].contains(&port.driver.as_str())).collect())
    }
}

impl Access for Control {
    fn node(&mut self) -> Result<NodeFacts> {
        let start = Instant::now();
        loop {
            let status = self.call(async |mut client: Client| client.status(StatusRequest {}).await)?;
            if let Some(node) = status.node.filter(|_| status.connected) {
                self.has_rdma = node.driver.split(", ").any(|driver| driver == "rdma");
                let ports = self.rdma_ports()?;
                return Ok(NodeFacts {
                    shard_count: u16::try_from(node.shard_count).context("shard_count")?.max(1),
                    base_port: u16::try_from(node.base_port).context("base_port")?,
                    addresses: node.addresses,
                    frame_bytes_max: node.frame_bytes_max,
                    degraded: status.degraded,
                    counts: true,
                    workers: u16::try_from(node.workers).context("workers")?.max(1),
                    fabric_mtu_bytes: ports.iter().filter_map(|port| port.mtu).min(),
                });
            }
            if start.elapsed() > self.patience {
                bail!("the control process has no node: {}; start `tachyond`", status.connection_problem);
            }
            std::thread::sleep(RETRY);
        }
    }

    fn resolve(&mut self, identity: &str, names: &[String]) -> Result<Vec<u32>> {
        let mut ids = Vec::with_capacity(names.len());
        for names in names.chunks(NAMES_PER_CALL) {
            let request = ResolveTopicsRequest { identity: identity.to_owned(), names: names.to_vec() };
            let answer = self
                .call(|mut client| {
                    let request = request.clone();
                    async move { client.resolve_topics(request).await }
                })
                .with_context(|| format!("resolving {} topics from {}", names.len(), names[0]))?;
            ids.extend(answer.topics.iter().map(|topic| topic.topic_id));
        }
        if ids.len() != names.len() || ids.contains(&0) {
            bail!("{} ids came back for {} topics", ids.len(), names.len());
        }
        Ok(ids)
    }

    fn open_session(&mut self, identity: &str, tags: bool, lane: Lane) -> Result<OpenSessionResponse> {
        let request = OpenSessionRequest {
            identity: identity.to_owned(),
            lane: lane.into(),
            tags,
            ..OpenSessionRequest::default()
        };
        let mut client = self.client.clone();
        let answer = self.runtime.block_on(client.open_session(request));
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| anyhow!("opening a session as {identity}: {}", status.message()))
    }

    fn close_session(&mut self, session_id: u32) -> Result<()> {
        self.call(async |mut client: Client| client.close_session(CloseSessionRequest { session_id }).await).map(drop)
    }

    fn subscribe(&mut self, wanted: &Wanted) -> Result<SubscribeResponse> {
        let request = SubscribeRequest {
            identity: wanted.identity.clone(),
            topics: wanted.topics.clone(),
            lane: wanted.lane.into(),
            address: wanted.address.clone(),
            base_port: u32::from(wanted.base_port),
            credit: wanted.credit,
            tagged: wanted.tagged,
            slow_subscriber: SlowSubscriber::Taildrop.into(),
            frame_bytes_max: wanted.frame_bytes_max,
            detached: false,
            fall_back: wanted.fall_back,
        };
        let mut client = self.client.clone();
        let answer = self.runtime.block_on(client.subscribe(request));
        answer
            .map(tonic::Response::into_inner)
            .map_err(|status| anyhow!("subscribing to {}: {}", wanted.topics.join(", "), status.message()))
    }

    fn unsubscribe(&mut self, subscriber: u32) -> Result<()> {
        self.call(async |mut client: Client| client.unsubscribe(UnsubscribeRequest { subscriber }).await).map(drop)
    }

    fn read(&mut self) -> Result<Reading> {
        let stats = self.call(async |mut client: Client| client.stats(StatsRequest {}).await);
        let mut reading = reading(&stats.context("reading the node's counters")?);
        for counter in self.rdma_ports()?.into_iter().flat_map(|port| port.counters) {
            *reading.fabric.entry(counter.name).or_default() += counter.value;
        }
        Ok(reading)
    }
}

/// Calls of the thread that keeps RDMA lanes: it does not wait for a control process that is away, since its other work
/// would wait with it.
#[derive(Debug)]
pub struct LaneCalls {
    runtime: Runtime,
    client: Client,
    socket: PathBuf,
}

impl LaneCalls {
    /// Connects.
    ///
    /// # Errors
    /// Nobody listens there.
    pub fn new(socket: &Path) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(tachyon_proto::connect(socket));
        let client = client.with_context(|| format!("no control process answers at {}", socket.display()))?;
        Ok(Self { runtime, client, socket: socket.to_owned() })
    }

    /// Another connection to the same process.
    ///
    /// # Errors
    /// Nobody listens there any more.
    pub fn again(&self) -> Result<Self> {
        Self::new(&self.socket)
    }

    fn call<T>(&self, call: impl Future<Output = Result<tonic::Response<T>, Status>>) -> Result<T> {
        let answer = self.runtime.block_on(async { tokio::time::timeout(LANE_CALL_MAX, call).await });
        match answer {
            Ok(Ok(response)) => Ok(response.into_inner()),
            Ok(Err(status)) => bail!("{} ({:?})", status.message(), status.code()),
            Err(_) => bail!("tachyon-control did not answer within {} s", LANE_CALL_MAX.as_secs()),
        }
    }
}

impl Carrier for LaneCalls {
    fn connect(&mut self, owner: Owner, worker: u16, details: [u8; DETAILS_BYTES]) -> Result<[u8; DETAILS_BYTES]> {
        let owner = Some(match owner {
            Owner::Session(id) => v1::connect_lane_request::Owner::SessionId(id),
            Owner::Subscriber(slot) => v1::connect_lane_request::Owner::Subscriber(slot),
        });
        let request = ConnectLaneRequest { owner, worker: worker.into(), details: details.to_vec() };
        let mut client = self.client.clone();
        let theirs = self.call(client.connect_lane(request))?.details;
        let count = theirs.len();
        theirs.try_into().map_err(|_| anyhow!("the node sent {count} bytes of details instead of {DETAILS_BYTES}"))
    }

    fn lanes(&mut self, owner: Owner) -> Result<Vec<NodeLane>> {
        let owner = Some(match owner {
            Owner::Session(id) => v1::list_lanes_request::Owner::SessionId(id),
            Owner::Subscriber(slot) => v1::list_lanes_request::Owner::Subscriber(slot),
        });
        let mut client = self.client.clone();
        let lanes = self.call(client.list_lanes(ListLanesRequest { owner }))?.lanes;
        let lane = |lane: v1::LaneStatus| NodeLane {
            worker: u16::try_from(lane.worker).unwrap_or(u16::MAX),
            wants_offer: matches!(lane.state.as_str(), "waiting" | "failed"),
            fell_back: lane.fell_back,
            why: lane.why,
        };
        Ok(lanes.into_iter().map(lane).collect())
    }
}

/// What to subscribe to.
#[derive(Clone, Debug)]
pub struct Wanted {
    /// The identity.
    pub identity: String,
    /// Names or patterns.
    pub topics: Vec<String>,
    /// Our address.
    pub address: String,
    /// Our port for shard 0.
    pub base_port: u16,
    /// Buffers that may be queued towards us; 0 for the node's default.
    pub credit: u32,
    /// Whether the node shall authenticate its frames.
    pub tagged: bool,
    /// Largest frame in bytes.
    pub frame_bytes_max: u32,
    /// What shall carry the frames.
    pub lane: Lane,
    /// Copies shall go by UDP once an RDMA lane has failed for good.
    pub fall_back: bool,
}

fn reading(stats: &StatsResponse) -> Reading {
    let residence = stats.residence.clone().unwrap_or_default();
    let buckets = residence.buckets.iter().map(|bucket| ((bucket.lowest, bucket.highest), bucket.count));
    let route =
        |route: &v1::Route| (route.route_id, Route { due: route.due, given: route.given, refused: route.refused });
    Reading {
        boot_id: stats.boot_id.clone(),
        ledgers: ledgers(stats),
        residence: buckets.collect(),
        residence_max: residence.max,
        fabric: BTreeMap::new(),
        ruleset_version: stats.workers.iter().map(|worker| worker.ruleset_version).max().unwrap_or(0),
        routes: stats.routes.iter().map(route).collect(),
        heap_calls: stats.workers.iter().map(|worker| worker.heap_calls).sum(),
    }
}

fn ledgers(stats: &StatsResponse) -> Ledgers {
    let all = stats.ledgers.clone().unwrap_or_default();
    let (frames, messages) = (all.frames.unwrap_or_default(), all.messages.unwrap_or_default());
    let (copies, activity) = (all.copies.unwrap_or_default(), stats.activity.unwrap_or_default());
    Ledgers {
        frames: Ledger { total: frames.seen, well: frames.admitted, held: 0, reasons: frames.reasons },
        messages: Ledger { total: messages.seen, well: messages.accepted, held: 0, reasons: messages.reasons },
        copies: Ledger { total: copies.due, well: copies.given, held: copies.held, reasons: copies.reasons },
        socket_overflow: activity.socket_overflow,
        receive_starved: activity.receive_starved,
        syscalls: activity.syscalls,
    }
}
