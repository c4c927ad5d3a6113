//! Publishers and subscribers on RDMA queues: each has one queue with a lane to each of the node's workers.
//!
//! The queues are worked by the crews' threads. Everything else (offers, answers, failures, offers again) is the work of one
//! cold thread that owns the other side of all queues, and asks the node through the management interface how it sees our lanes.

use crate::{
    args::RunArgs,
    clock::now_ns,
    hire::{self, Ports, Role},
    lanes::{Carrier, Fabric, FabricReport, Names, Owner},
    run::apart,
    session::LaneCalls,
};
use anyhow::{Context, Result, anyhow};
use std::{
    collections::BTreeMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
    time::Duration,
};
use tachyon_driver_api::{
    CompletionBatch, Pool, Port, PortError, PortInfo, QueueStats, RxBatch, RxQueue, TxBatch, TxQueue,
};
use tachyon_driver_arena::Arena;
use tachyon_driver_uring::{UringConfig, UringPort};
use tachyon_driver_verbs::{
    ArenaRegion, Details, Errand, HardwareDevice, RingSize, VerbsConfig, VerbsPorts, VerbsQueue, VerbsSeat,
    device::Fabric as Device,
};
use tachyon_wire::Endpoint;

/// Pause of the cold thread: what the node's housekeeping takes between two ticks, or less.
const TICK: Duration = Duration::from_millis(1);
/// How often the node is asked how it sees our lanes.
const LOOK_NS: u64 = 100_000_000;
/// How long a lane that fell back is left to UDP. To agree on it needs no packet, so whether packets pass again is found out by
/// frames alone, and those that were tried are lost; this is several times as long as a lane takes to fail.
const REST_NS: u64 = 5_000_000_000;
/// How long an offer stands: the node answers within a call, so this is only for one that it refused.
const OFFER_NS: u64 = 200_000_000;
/// Slots of a subscriber's ring: twice what a node's queue pair holds (256), so that a full burst waits for nobody.
const RING_SLOTS: u32 = 512;
/// Receives of a publisher, for acks and nacks.
const ANSWER_RECEIVES: u32 = 32;
/// 82 ms, as the InfiniBand table has it, for each of the node's tries: threads of this program may stand still for longer than
/// a subscriber should, and that is not what is measured.
const MIN_RNR_TIMER: u8 = 26;
/// Most receives of a subscriber; a quarter of it is what one node worker sends at once.
const RECEIVES_MAX: u32 = 1_024;
/// Most troubles that are told one by one.
const TROUBLES_MAX: usize = 16;

/// Our side of the fabric, before lanes are agreed on.
#[derive(Clone, Debug)]
pub struct Rdma {
    fabric: Fabric,
    ip: IpAddr,
    fall_back: bool,
    sleeps: bool,
    buffers: u16,
    mtu_bytes_max: u32,
    shard_count: u16,
    workers: u16,
    /// One for each queue, in the order in which they were opened.
    opened: Arc<Mutex<Vec<(Role, VerbsPorts)>>>,
}

impl Rdma {
    /// The fabric that was asked for; `None`: UDP.
    ///
    /// # Errors
    /// No device has the address.
    pub fn asked(args: &RunArgs) -> Result<Option<Self>> {
        if args.fabric == Fabric::Udp {
            return Ok(None);
        }
        let ip = args.fabric_address.context("RDMA needs our address on its device; give --fabric-address")?;
        let devices = tachyon_driver_verbs::devices()?;
        let (_, port, _) = devices.find(None, ip)?;
        Ok(Some(Self {
            fabric: args.fabric,
            ip,
            fall_back: args.fabric_fall_back,
            sleeps: !apart(args.threads),
            buffers: hire::buffers(args),
            mtu_bytes_max: port.mtu_bytes,
            shard_count: 1,
            workers: 1,
            opened: Arc::default(),
        }))
    }

    /// The same, for a node of this shape whose path MTU is at most this.
    #[must_use]
    pub fn towards(self, workers: u16, shard_count: u16, node_mtu_bytes: Option<u32>) -> Self {
        let mtu_bytes_max = node_mtu_bytes.map_or(self.mtu_bytes_max, |bytes| bytes.min(self.mtu_bytes_max));
        Self { workers, shard_count, mtu_bytes_max, ..self }
    }

    /// Path MTU in bytes.
    #[must_use]
    pub const fn mtu_bytes(&self) -> u32 {
        self.mtu_bytes_max
    }

    fn config(&self, role: Role, arena: &Arena) -> Result<VerbsConfig, PortError> {
        let (base, bytes) = arena.region();
        let region = ArenaRegion { base: base.as_ptr().expose_provenance(), bytes };
        let mut seed = [0; 8];
        rustix::rand::getrandom(&mut seed[..], rustix::rand::GetRandomFlags::empty())
            .map_err(|error| PortError(format!("the kernel gives no random numbers: {error}")))?;
        let mut config = VerbsConfig::new(self.ip, region, u64::from_le_bytes(seed));
        config.shard_count = self.shard_count;
        config.mtu_bytes_max = self.mtu_bytes_max;
        config.receive_depth = match role {
            Role::Publish => ANSWER_RECEIVES,
            Role::Listen(_) => u32::from(self.buffers).clamp(ANSWER_RECEIVES, RECEIVES_MAX),
        };
        // Load that finds no room waits for it; it must not end as congestion of our own making.
        config.items_max = 2 * u32::from(self.buffers) + ANSWER_RECEIVES;
        config.items_per_lane_max = config.items_max;
        config.connections_max = self.workers;
        config.min_rnr_timer = MIN_RNR_TIMER;
        // A lane that is agreed on again takes its names anew before the old ones are given back.
        config.lanes_max = 2 * (self.shard_count + self.workers);
        config.events = self.sleeps;
        config.offer_ns = OFFER_NS;
        Ok(config)
    }

    /// Agrees on all lanes, and keeps them from then on. `owners` are the publishers' sessions and the subscriptions, each in
    /// the order in which their queues were opened.
    ///
    /// # Errors
    /// The node refuses a lane, or the device does.
    pub fn agree(&self, node: Endpoint, sessions: &[u32], subscribers: &[u32], calls: &LaneCalls) -> Result<Keeper> {
        let names = Names { node, workers: self.workers, shard_count: self.shard_count };
        let opened = std::mem::take(&mut *self.opened.lock().unwrap_or_else(PoisonError::into_inner));
        let (mut sessions, mut subscribers) = (sessions.iter(), subscribers.iter());
        let mut ends = Vec::new();
        for (role, ports) in opened {
            let owner = match role {
                Role::Publish => sessions.next().map(|id| Owner::Session(*id)),
                Role::Listen(_) => subscribers.next().map(|slot| Owner::Subscriber(*slot)),
            };
            let owner = owner.context("more queues than sessions and subscriptions")?;
            ends.push(End::new(ports, owner, self.fabric, names));
        }
        let mut desk = Desk { ends, carrier: calls.again()?, report: FabricReport::default() };
        desk.agree_all()?;
        Keeper::start(desk).context("the thread that keeps the lanes cannot be started")
    }
}

impl Ports for Rdma {
    type Port = RdmaPort;

    fn port(&self, role: Role, arena: &Arena) -> Result<RdmaPort, PortError> {
        let mut ports = VerbsPorts::open(self.config(role, arena)?)?;
        let seat = ports.seat(0).ok_or_else(|| PortError("a fresh port has no worker".to_owned()))?;
        let udp = match role {
            Role::Listen(base_port) if self.fall_back => {
                let config = UringConfig::new(self.ip, base_port);
                let (frame_bytes_max, rx_buffers) = (self.mtu_bytes_max, (self.buffers / 2).max(1));
                Some(UringPort::new(UringConfig { frame_bytes_max, rx_buffers, ..config })?)
            }
            _ => None,
        };
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).push((role, ports));
        Ok(RdmaPort { seat, udp })
    }
}

/// One queue's port: RDMA, and the sockets where copies come once a lane fell back.
#[derive(Debug)]
pub struct RdmaPort {
    seat: VerbsSeat<tachyon_driver_verbs::Hardware>,
    udp: Option<UringPort>,
}

impl Port for RdmaPort {
    type Queue = RdmaQueue;

    fn open(&mut self, shards: &[u16], pool: &mut Pool) -> Result<RdmaQueue, PortError> {
        let udp = self.udp.as_mut().map(|port| port.open(shards, pool)).transpose()?;
        Ok(RdmaQueue { verbs: self.seat.open(shards, pool)?, udp })
    }

    fn info(&self) -> PortInfo {
        let mut info = self.seat.info();
        info.degraded.extend(self.udp.iter().flat_map(|port| port.info().degraded));
        info
    }
}

/// What a crew works: frames come by RDMA, and by UDP from lanes that fell back.
#[derive(Debug)]
pub struct RdmaQueue {
    verbs: VerbsQueue<HardwareDevice>,
    udp: Option<<UringPort as Port>::Queue>,
}

impl RxQueue for RdmaQueue {
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        let count = self.verbs.rx_burst(pool, into);
        count + self.udp.as_mut().map_or(0, |udp| udp.rx_burst(pool, into))
    }

    fn wait(&mut self, ns: u64) {
        // Lanes fall back rarely, so the sockets are looked at when the device has nothing.
        self.verbs.wait(ns);
        if let Some(udp) = &mut self.udp {
            udp.wait(0);
        }
    }

    fn stats(&self) -> QueueStats {
        let mut stats = self.verbs.stats();
        if let Some(udp) = self.udp.as_ref().map(RxQueue::stats) {
            stats.syscalls += udp.syscalls;
            stats.overflow += udp.overflow;
            stats.starved += udp.starved;
        }
        stats
    }

    fn held(&self) -> usize {
        self.verbs.held() + self.udp.as_ref().map_or(0, RxQueue::held)
    }
}

impl TxQueue for RdmaQueue {
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        self.verbs.tx_burst(from)
    }

    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        let count = self.verbs.completions(into);
        count + self.udp.as_mut().map_or(0, |udp| udp.completions(into))
    }
}

/// The cold side of one queue.
pub struct End<F: Device> {
    ports: VerbsPorts<F>,
    owner: Owner,
    fabric: Fabric,
    names: Names,
    /// Lanes agreed on so far.
    agreements: u64,
    /// Until when a lane that fell back is left to UDP, by worker.
    resting: BTreeMap<u16, u64>,
    /// What was counted before the run; a device counts since it was there.
    counted: BTreeMap<String, u64>,
}

impl<F: Device> std::fmt::Debug for End<F> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "End({:?}, {:?})", self.owner, self.ports)
    }
}

impl<F: Device> End<F> {
    /// The cold side of `owner`'s queue, whose lanes lead to workers of these names.
    #[must_use]
    pub fn new(ports: VerbsPorts<F>, owner: Owner, fabric: Fabric, names: Names) -> Self {
        let counted = ports.report().counters.into_iter().collect();
        Self { ports, owner, fabric, names, agreements: 0, resting: BTreeMap::new(), counted }
    }

    /// Agrees on a lane with every worker.
    ///
    /// # Errors
    /// The first that does not come about.
    pub fn agree_all(&mut self, carrier: &mut dyn Carrier) -> Result<()> {
        self.ports.tick(now_ns());
        self.names.workers().try_for_each(|worker| self.agree(worker, carrier))
    }

    fn agree(&mut self, worker: u16, carrier: &mut dyn Carrier) -> Result<()> {
        let to = self.names.of(worker);
        if self.fabric == Fabric::RdmaDatagram {
            let ours = self.ports.datagrams(0)?;
            let theirs = self.ask(worker, &ours, carrier)?;
            for name in [to].into_iter().chain(self.names.also(worker)) {
                self.ports.reach(0, name, &theirs)?;
            }
        } else {
            let ours = self.ports.offer(0, to, self.ring())?;
            self.answer(worker, &ours, carrier)?;
        }
        self.agreements += 1;
        Ok(())
    }

    /// Memory that the node writes into, where this is a subscriber's queue and rings were asked for.
    fn ring(&self) -> Option<RingSize> {
        let listens = matches!(self.owner, Owner::Subscriber(_));
        let slot_bytes = self.ports.report().mtu_bytes / 64 * 64;
        (listens && self.fabric == Fabric::RdmaRing).then_some(RingSize { slots: RING_SLOTS, slot_bytes })
    }

    /// Carries an offer of a connection to a worker, and connects with what it answers.
    fn answer(&mut self, worker: u16, ours: &Details, carrier: &mut dyn Carrier) -> Result<()> {
        let theirs = self.ask(worker, ours, carrier)?;
        let to = self.names.of(worker);
        self.ports.connect(0, to, &theirs)?;
        for name in self.names.also(worker) {
            self.ports.also(0, to, name)?;
        }
        Ok(())
    }

    fn ask(&self, worker: u16, ours: &Details, carrier: &mut dyn Carrier) -> Result<Details> {
        let asked = carrier.connect(self.owner, worker, ours.encode());
        let theirs = asked.with_context(|| format!("a lane with worker {worker}"))?;
        Ok(Details::decode(&theirs)?)
    }

    /// Does what is due on our side: hears the queue and the device, and carries what failed connections need.
    pub fn tick(&mut self, now_ns: u64, carrier: &mut dyn Carrier) -> Vec<anyhow::Error> {
        self.ports.tick(now_ns);
        let mut troubles = Vec::new();
        for errand in self.ports.errands() {
            // We offered first, so only we offer again, and nobody asks us to.
            let Errand::Offer { to, details, .. } = errand else { continue };
            let Some(worker) = self.names.worker_of(&to) else { continue };
            match self.answer(worker, &details, carrier) {
                Ok(()) => self.agreements += 1,
                Err(error) => troubles.push(error),
            }
        }
        troubles
    }

    /// Looks how the node sees our lanes, and offers again where it waits for that. Returns how many fell back there.
    ///
    /// # Errors
    /// Nobody answers, or a lane does not come about; it is tried again at the next look.
    pub fn look(&mut self, now_ns: u64, carrier: &mut dyn Carrier) -> Result<u64> {
        let lanes = carrier.lanes(self.owner)?;
        let fell_back = lanes.iter().filter(|lane| lane.fell_back).count() as u64;
        let mut renewed = Ok(());
        for lane in lanes.iter().filter(|lane| lane.wants_offer) {
            if lane.fell_back && now_ns < *self.resting.entry(lane.worker).or_insert(now_ns + REST_NS) {
                continue;
            }
            self.resting.remove(&lane.worker);
            // One that does not come back keeps no other from it; the first error is told.
            renewed = renewed.and(self.renew(lane.worker, carrier).with_context(|| lane.why.clone()));
        }
        renewed.map(|()| fell_back)
    }

    fn renew(&mut self, worker: u16, carrier: &mut dyn Carrier) -> Result<()> {
        if self.fabric == Fabric::RdmaDatagram {
            return self.agree(worker, carrier);
        }
        let to = self.names.of(worker);
        match self.state_of(&to) {
            // The node saw a failure that we did not: our side goes down as well, and is offered again once it is.
            Some("connected") => Ok(self.ports.reset(0, to)?),
            None | Some("failed" | "fresh") => self.agree(worker, carrier),
            Some(_) => Ok(()),
        }
    }

    /// What our side's connections are, in the order of the workers.
    #[must_use]
    pub fn kinds(&self) -> Vec<&'static str> {
        self.ports.report().lanes.iter().map(|lane| lane.kind).collect()
    }

    /// How our side says that the lane of this name is.
    #[must_use]
    pub fn state_of(&self, to: &Endpoint) -> Option<&'static str> {
        let ip = IpAddr::from(to.ip).to_canonical();
        let name = std::net::SocketAddr::new(ip, to.port.get()).to_string();
        self.ports.report().lanes.iter().find(|lane| lane.to == name).map(|lane| lane.state)
    }
}

/// What the cold thread works.
#[derive(Debug)]
struct Desk {
    ends: Vec<End<tachyon_driver_verbs::Hardware>>,
    carrier: LaneCalls,
    report: FabricReport,
}

impl Desk {
    fn agree_all(&mut self) -> Result<()> {
        self.ends.iter_mut().try_for_each(|end| end.agree_all(&mut self.carrier))
    }

    fn work(&mut self, stop: &AtomicBool) {
        let mut looked_ns = now_ns();
        while !stop.load(Ordering::Relaxed) {
            let now = now_ns();
            let mut troubles: Vec<anyhow::Error> =
                self.ends.iter_mut().flat_map(|end| end.tick(now, &mut self.carrier)).collect();
            if now - looked_ns >= LOOK_NS {
                looked_ns = now;
                for end in &mut self.ends {
                    match end.look(now, &mut self.carrier) {
                        Ok(fell_back) => self.report.fell_back = self.report.fell_back.max(fell_back),
                        Err(error) => troubles.push(error),
                    }
                }
            }
            for trouble in troubles.iter().map(|error| format!("{error:#}")) {
                let lines = &mut self.report.troubles;
                if lines.len() < TROUBLES_MAX && !lines.contains(&trouble) {
                    lines.push(trouble);
                }
            }
            std::thread::sleep(TICK);
        }
    }

    fn finish(&mut self) {
        for end in &self.ends {
            let port = end.ports.report();
            self.report.agreements += end.agreements;
            (self.report.device, self.report.mtu_bytes) = (port.device, port.mtu_bytes);
            self.report.troubles.extend(port.notes);
            for (name, count) in port.counters {
                let since = count.saturating_sub(end.counted.get(&name).copied().unwrap_or(0));
                let sum = self.report.counters.entry(name.clone()).or_default();
                // What the queues count adds up; what the device counts is the same for every queue on it.
                *sum = if is_queues_own(&name) { *sum + since } else { since.max(*sum) };
            }
        }
        self.report.counters.retain(|_, count| *count > 0);
    }
}

/// Whether the driver's queues count this, and not the device.
fn is_queues_own(name: &str) -> bool {
    ["refused_", "items_", "receives_failed", "pairs_failed"].iter().any(|start| name.starts_with(start))
}

/// The cold thread.
#[derive(Debug)]
pub struct Keeper {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Desk>,
}

/// The cold sides, at rest. They have to outlive the queues, whose device would be closed otherwise.
#[derive(Debug)]
pub struct AtRest {
    _ends: Vec<End<tachyon_driver_verbs::Hardware>>,
}

impl Keeper {
    fn start(mut desk: Desk) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let work = move || {
            desk.work(&stopped);
            desk
        };
        let thread = std::thread::Builder::new().name("lanes".into()).spawn(work)?;
        Ok(Self { stop, thread })
    }

    /// Ends the thread once nothing is sent any more: what became of the lanes, and what has to be kept until the crews have
    /// gone home.
    ///
    /// # Errors
    /// The thread panicked.
    pub fn end(self) -> Result<(FabricReport, AtRest)> {
        self.stop.store(true, Ordering::Relaxed);
        let mut desk = self.thread.join().map_err(|_| anyhow!("the thread that keeps the lanes panicked"))?;
        desk.finish();
        Ok((desk.report, AtRest { _ends: desk.ends }))
    }
}
