//! A device in memory: what real queue pairs do, by the same rules, with seeded faults and no time of its own.
//!
//! Several fabrics share one [`World`]. What one posts is delivered when anybody polls, in the order of each queue pair, into
//! memory that the receiver posted; it checks what a device checks (registered memory, keys, states, depths) and panics where a
//! real one would write somewhere it must not. It exists so that everything above it is tested without hardware, and to
//! measure what the driver itself costs ([`World::sink`]).

use crate::{
    config::ArenaRegion,
    device::{
        Completed, CompletedBatch, Device, Fabric, FabricEvent, FabricInfo, Needs, PeerEnd, RECEIVE, Receive,
        RingMemory, Secret, Status, To, Way, Work,
    },
};
use std::{
    collections::VecDeque,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tachyon_driver_api::PortError;

/// Longest nap of an idle wait; nobody wakes a worker here.
const NAP: Duration = Duration::from_micros(50);

/// What goes wrong, each as a chance in 65,536.
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// A queue pair does nothing this time.
    pub delay: u32,
    /// A datagram is lost.
    pub lose: u32,
    /// Work ends with an error, and its queue pair is in error from then on.
    pub error: u32,
    /// The device takes nothing of a burst.
    pub refuse: u32,
    /// Completions that are there are not told this time.
    pub hold: u32,
    /// Tries at a peer that has nothing to receive into before it is given up; 0: for ever.
    pub not_ready_max: u32,
    /// A reset takes what its queue pair completed and nobody read out of the completion queue, as mlx5 does.
    pub forget: u32,
    /// A queue pair is not reset, and keeps what it has.
    pub keep: u32,
    /// There is no way to a peer.
    pub unreachable: u32,
    /// Whether there is a way to a peer is not known yet.
    pub sought: u32,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Reset,
    Ready,
    Error,
}

#[derive(Clone, Copy, Debug)]
enum Target {
    Datagram { gid: [u8; 16], qpn: u32, qkey: u32 },
    Peer,
    Memory { rkey: u32, address: u64 },
}

#[derive(Debug)]
struct QueuePair {
    qpn: u32,
    node: usize,
    worker: usize,
    /// For datagrams: what senders have to know.
    qkey: Option<u32>,
    state: State,
    peer: Option<(u32, u32)>,
    psn: u32,
    sends: VecDeque<(Work, Target)>,
    /// Completions of sends that were told or need not be: places are free again only up to here.
    outstanding: u32,
    unsignalled: u32,
    not_ready: u32,
    ring: Option<(u32, u64, u64)>,
    /// Where peers wrote and nobody has been told yet: nobody may write there again.
    unread: VecDeque<u64>,
    /// Another one after each reset.
    life: u32,
    /// It does nothing more of what it was given, until it is reset.
    still: bool,
}

#[derive(Debug)]
struct Worker {
    needs: Needs,
    /// With the places that each frees, and which life of its queue pair they belong to.
    completions: VecDeque<(Completed, u32, u32)>,
    receives: VecDeque<Receive>,
}

#[derive(Debug)]
struct Node {
    gid: [u8; 16],
    mtu_bytes: u32,
    region: ArenaRegion,
    workers: Vec<Worker>,
    events: VecDeque<FabricEvent>,
    registrations: u64,
}

#[derive(Debug)]
struct Inner {
    nodes: Vec<Node>,
    pairs: Vec<QueuePair>,
    faults: Faults,
    random: u64,
    next_key: u32,
    sink: bool,
    arrivals: u32,
    /// Lives of queue pairs so far: numbers come again, lives do not.
    lives: u32,
}

/// All nodes and what lies between them.
#[derive(Clone, Debug)]
pub struct World(Arc<Mutex<Inner>>);

impl World {
    /// A world in which the same calls with the same seed do the same.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let inner = Inner {
            nodes: Vec::new(),
            pairs: Vec::new(),
            faults: Faults::default(),
            random: seed,
            next_key: 0x100,
            sink: false,
            arrivals: 0,
            lives: 0,
        };
        Self(Arc::new(Mutex::new(inner)))
    }

    /// A world that swallows what is sent, and receives `arrivals` datagrams of the path MTU at each poll, as long as there is
    /// memory.
    #[must_use]
    pub fn sink(arrivals: u32) -> Self {
        let world = Self::new(1);
        {
            let mut inner = world.lock();
            (inner.sink, inner.arrivals) = (true, arrivals);
        }
        world
    }

    /// Changes what goes wrong from now on.
    pub fn set_faults(&self, faults: Faults) {
        self.lock().faults = faults;
    }

    /// Adds a node with this address and memory, and returns its device.
    #[must_use]
    pub fn fabric(&self, gid: [u8; 16], mtu_bytes: u32, region: ArenaRegion) -> StubFabric {
        let mut inner = self.lock();
        inner.nodes.push(Node {
            gid,
            mtu_bytes,
            region,
            workers: Vec::new(),
            events: VecDeque::new(),
            registrations: 1,
        });
        StubFabric { world: self.clone(), node: inner.nodes.len() - 1 }
    }

    /// Puts a queue pair that works into error from outside, as a device does that finds something wrong on the receiving side.
    pub fn break_pair(&self, qpn: u32) {
        let mut inner = self.lock();
        let works = |pair: &QueuePair| pair.qpn == qpn && pair.state == State::Ready;
        let Some(at) = inner.pairs.iter().position(works) else { return };
        inner.fail(at);
        let node = inner.pairs[at].node;
        inner.nodes[node].events.push_back(FabricEvent::PairFailed { qpn, why: "broken from outside".to_owned() });
    }

    /// Has a queue pair forget what it has to do: nothing of it ends any more, neither well nor badly. The soft device does that
    /// when it loses a timer.
    pub fn stand_still(&self, qpn: u32) {
        self.lock().pairs.iter_mut().filter(|pair| pair.qpn == qpn).for_each(|pair| pair.still = true);
    }

    /// Takes the link of the node with this address down or up, as far as its device says so.
    pub fn set_link(&self, gid: [u8; 16], up: bool) {
        let event = if up { FabricEvent::PortUp } else { FabricEvent::PortDown };
        self.lock()
            .nodes
            .iter_mut()
            .filter(|node| node.gid == gid)
            .for_each(|node| node.events.push_back(event.clone()));
    }

    /// Receives that a worker of the node with this address posted, and was not told to be used up.
    #[must_use]
    pub fn receives(&self, gid: [u8; 16], worker: u16) -> usize {
        let inner = self.lock();
        let node = inner.nodes.iter().find(|node| node.gid == gid);
        let Some(worker) = node.and_then(|node| node.workers.get(usize::from(worker))) else { return 0 };
        let used = worker.completions.iter().filter(|(completed, ..)| completed.id & RECEIVE != 0);
        worker.receives.len() + used.count()
    }

    /// Sends bytes to a datagram queue pair from outside, with this route header and immediate.
    pub fn inject(&self, qpn: u32, header: &[u8; 40], immediate: Option<u32>, bytes: &[u8]) -> bool {
        let mut inner = self.lock();
        let Some(at) = inner.pairs.iter().position(|pair| pair.qpn == qpn) else { return false };
        let (node, worker) = (inner.pairs[at].node, inner.pairs[at].worker);
        let Some(receive) = inner.nodes[node].workers[worker].receives.pop_front() else { return false };
        let len = bytes.len() as u32 + 40;
        assert!(len <= receive.len, "the receive has only {} bytes", receive.len);
        write(receive.address, header);
        write(receive.address + 40, bytes);
        let arrived =
            Completed { id: receive.id, status: Status::Good, len, immediate, qpn, source_qpn: 99, written: false };
        inner.nodes[node].workers[worker].completions.push_back((arrived, 0, 0));
        true
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic of the stub is a failed test already; what comes after may as well see the rest.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Copies to memory that somebody posted or registered.
fn write(address: u64, bytes: &[u8]) {
    let to = core::ptr::with_exposed_provenance_mut::<u8>(address as usize);
    // SAFETY: whoever posted the address promised that it is registered, of that length, and nobody else's now; the callers
    // here compared lengths.
    unsafe { core::ptr::copy_nonoverlapping(bytes.as_ptr(), to, bytes.len()) }
}

/// Copies from one posted memory to another.
fn copy(from: u64, to: u64, len: u32) {
    let source = core::ptr::with_exposed_provenance::<u8>(from as usize);
    let target = core::ptr::with_exposed_provenance_mut::<u8>(to as usize);
    // SAFETY: as in `write`, for both; they belong to different buffers.
    unsafe { core::ptr::copy(source, target, len as usize) }
}

impl Inner {
    fn chance(&mut self, of_65536: u32) -> bool {
        if of_65536 == 0 {
            return false;
        }
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        ((z ^ (z >> 27)) >> 20) as u32 & 0xffff < of_65536
    }

    fn find_way(&mut self) -> Result<(), PortError> {
        let is_lost = self.chance(self.faults.unreachable);
        if is_lost { Err(PortError("stub: there is no way to the peer".to_owned())) } else { Ok(()) }
    }

    fn find(&self, qpn: u32) -> Option<usize> {
        self.pairs.iter().position(|pair| pair.qpn == qpn)
    }

    fn new_life(&mut self) -> u32 {
        self.lives += 1;
        self.lives
    }

    /// Does what every queue pair can do now.
    fn progress(&mut self) {
        for at in 0..self.pairs.len() {
            if self.pairs[at].sends.is_empty() || self.pairs[at].still || self.chance(self.faults.delay) {
                continue;
            }
            while let Some(&(work, target)) = self.pairs[at].sends.front() {
                if self.chance(self.faults.error) {
                    self.end(at, Status::Fault(11));
                    break;
                }
                match self.deliver(at, &work, target) {
                    None => break,
                    Some(status) => self.end(at, status),
                }
                if self.pairs[at].state != State::Ready {
                    break;
                }
            }
        }
    }

    /// The first piece of work of a queue pair ends; what is behind a failed one is flushed.
    fn end(&mut self, at: usize, status: Status) {
        let pair = &mut self.pairs[at];
        let Some((work, _)) = pair.sends.pop_front() else { return };
        pair.unsignalled += 1;
        if work.signalled || status != Status::Good {
            let freed = std::mem::take(&mut pair.unsignalled);
            let (node, worker, life) = (pair.node, pair.worker, pair.life);
            let completed = Completed {
                id: work.id,
                status,
                len: 0,
                immediate: None,
                qpn: pair.qpn,
                source_qpn: 0,
                written: false,
            };
            self.nodes[node].workers[worker].completions.push_back((completed, freed, life));
        }
        if status != Status::Good && status != Status::Flushed {
            self.fail(at);
        }
    }

    fn fail(&mut self, at: usize) {
        self.pairs[at].state = State::Error;
        while !self.pairs[at].sends.is_empty() && !self.pairs[at].still {
            self.end(at, Status::Flushed);
        }
    }

    /// Delivers one piece of work; `None`: not now.
    fn deliver(&mut self, at: usize, work: &Work, target: Target) -> Option<Status> {
        if self.sink {
            return Some(Status::Good);
        }
        match target {
            Target::Datagram { gid, qpn, qkey } => {
                self.deliver_datagram(at, work, gid, (qpn, qkey));
                Some(Status::Good)
            }
            Target::Peer | Target::Memory { .. } => self.deliver_to_peer(at, work, target),
        }
    }

    fn deliver_datagram(&mut self, at: usize, work: &Work, gid: [u8; 16], (qpn, qkey): (u32, u32)) {
        if self.chance(self.faults.lose) {
            return;
        }
        let Some(to) = self.find(qpn) else { return };
        let (node, worker) = (self.pairs[to].node, self.pairs[to].worker);
        let known = self.nodes[node].gid == gid && self.pairs[to].qkey == Some(qkey);
        if !known || self.pairs[to].state != State::Ready || work.len > self.nodes[node].mtu_bytes {
            return;
        }
        let Some(receive) = self.nodes[node].workers[worker].receives.pop_front() else { return };
        let len = work.len + 40;
        assert!(len <= receive.len, "a receive of {} bytes for {len}", receive.len);
        write(receive.address, &route_header(&self.nodes[self.pairs[at].node].gid, &gid));
        copy(work.address, receive.address + 40, work.len);
        let arrived = Completed {
            id: receive.id,
            status: Status::Good,
            len,
            immediate: Some(work.immediate),
            qpn,
            source_qpn: self.pairs[at].qpn,
            written: false,
        };
        self.nodes[node].workers[worker].completions.push_back((arrived, 0, 0));
    }

    fn deliver_to_peer(&mut self, at: usize, work: &Work, target: Target) -> Option<Status> {
        let (own_qpn, own_psn) = (self.pairs[at].qpn, self.pairs[at].psn);
        let to = self.pairs[at].peer.and_then(|(qpn, _)| self.find(qpn));
        let to =
            to.filter(|to| self.pairs[*to].state == State::Ready && self.pairs[*to].peer == Some((own_qpn, own_psn)));
        let Some(to) = to else { return Some(Status::NoAnswer) };
        let (node, worker) = (self.pairs[to].node, self.pairs[to].worker);
        if let Target::Memory { rkey, address } = target {
            // Exactly the ring of exactly this connection.
            let good = self.pairs[to].ring.is_some_and(|(key, base, bytes)| {
                key == rkey && address >= base && address + u64::from(work.len) <= base + bytes
            });
            if !good {
                self.fail(to);
                return Some(Status::Fault(10));
            }
        }
        let Some(receive) = self.nodes[node].workers[worker].receives.front().copied() else {
            self.pairs[at].not_ready += 1;
            let most = self.faults.not_ready_max;
            return (most > 0 && self.pairs[at].not_ready > most).then_some(Status::NotReady);
        };
        self.pairs[at].not_ready = 0;
        self.nodes[node].workers[worker].receives.pop_front();
        let written = matches!(target, Target::Memory { .. });
        match target {
            Target::Memory { address, .. } => {
                let unread = &mut self.pairs[to].unread;
                assert!(!unread.contains(&address), "a slot that was not read is written again");
                unread.push_back(address);
                copy(work.address, address, work.len);
            }
            _ => {
                assert!(work.len <= receive.len, "a receive of {} bytes for {}", receive.len, work.len);
                copy(work.address, receive.address, work.len);
            }
        }
        let arrived = Completed {
            id: receive.id,
            status: Status::Good,
            len: work.len,
            immediate: Some(work.immediate),
            qpn: self.pairs[to].qpn,
            source_qpn: 0,
            written,
        };
        self.nodes[node].workers[worker].completions.push_back((arrived, 0, 0));
        Some(Status::Good)
    }
}

/// What a device leaves in front of a datagram.
fn route_header(source: &[u8; 16], destination: &[u8; 16]) -> [u8; 40] {
    let mut header = [0; 40];
    if source[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff] {
        header[..20].fill(0xa5); // means nothing over IPv4
        header[20] = 0x45;
        header[32..36].copy_from_slice(&source[12..]);
        header[36..].copy_from_slice(&destination[12..]);
    } else {
        header[0] = 0x60;
        header[8..24].copy_from_slice(source);
        header[24..].copy_from_slice(destination);
    }
    header
}

/// A ring's memory and registration.
#[derive(Debug)]
pub struct StubRing {
    world: World,
    rkey: u32,
    _memory: Vec<u64>,
}

impl Drop for StubRing {
    fn drop(&mut self) {
        let mut inner = self.world.lock();
        let rkey = self.rkey;
        inner
            .pairs
            .iter_mut()
            .filter(|pair| pair.ring.is_some_and(|ring| ring.0 == rkey))
            .for_each(|pair| pair.ring = None);
    }
}

/// A queue pair. Its number is given out again once nobody holds it, as devices do.
#[derive(Clone, Debug)]
pub struct StubPair(Arc<Number>);

#[derive(Debug)]
struct Number {
    world: World,
    qpn: u32,
}

impl StubPair {
    fn qpn(&self) -> u32 {
        self.0.qpn
    }
}

impl Drop for Number {
    fn drop(&mut self) {
        self.world.lock().pairs.retain(|pair| pair.qpn != self.qpn);
    }
}

/// One node's device.
#[derive(Debug)]
pub struct StubFabric {
    world: World,
    node: usize,
}

impl StubFabric {
    fn add(&mut self, worker: u16, qkey: Option<u32>) -> StubPair {
        let mut inner = self.world.lock();
        let depth = inner.nodes[self.node].workers[usize::from(worker)].needs.send_depth as usize;
        let (qpn, life) = ((0x11..).find(|qpn| inner.find(*qpn).is_none()).unwrap_or_default(), inner.new_life());
        inner.pairs.push(QueuePair {
            qpn,
            node: self.node,
            worker: usize::from(worker),
            qkey,
            state: if qkey.is_some() { State::Ready } else { State::Reset },
            peer: None,
            psn: 0,
            sends: VecDeque::with_capacity(depth),
            outstanding: 0,
            unsignalled: 0,
            not_ready: 0,
            ring: None,
            unread: VecDeque::with_capacity(1 << 15),
            life,
            still: false,
        });
        StubPair(Arc::new(Number { world: self.world.clone(), qpn }))
    }
}

impl Fabric for StubFabric {
    type Device = StubDevice;

    fn info(&self) -> FabricInfo {
        let inner = self.world.lock();
        let node = &inner.nodes[self.node];
        FabricInfo {
            device: "stub".to_owned(),
            gid: node.gid,
            mtu_bytes: node.mtu_bytes,
            up: true,
            soft: false,
            degraded: Vec::new(),
        }
    }

    fn worker(&mut self, worker: u16, needs: Needs) -> Result<StubDevice, PortError> {
        let mut inner = self.world.lock();
        let room = (needs.pairs * needs.send_depth + 2 * needs.receive_depth) as usize;
        inner.nodes[self.node].workers.push(Worker {
            needs,
            completions: VecDeque::with_capacity(room),
            receives: VecDeque::with_capacity(needs.receive_depth as usize),
        });
        let burst = Vec::with_capacity(needs.send_depth as usize);
        Ok(StubDevice { world: self.world.clone(), node: self.node, worker: usize::from(worker), burst })
    }

    fn datagrams(&mut self, worker: u16, qkey: u32) -> Result<StubPair, PortError> {
        Ok(self.add(worker, Some(qkey)))
    }

    fn pair(&mut self, worker: u16) -> Result<StubPair, PortError> {
        Ok(self.add(worker, None))
    }

    fn qpn(&self, pair: &StubPair) -> u32 {
        pair.qpn()
    }

    fn revive(&mut self, pair: &StubPair, qkey: u32) -> Result<(), PortError> {
        let mut inner = self.world.lock();
        let Some(at) = inner.find(pair.qpn()) else { return Err(PortError("no such queue pair".to_owned())) };
        assert_eq!(inner.pairs[at].state, State::Reset);
        (inner.pairs[at].state, inner.pairs[at].qkey) = (State::Ready, Some(qkey));
        Ok(())
    }

    fn find_way(&mut self, _gid: &[u8; 16]) -> Result<Way, PortError> {
        let mut inner = self.world.lock();
        let sought = inner.faults.sought;
        Ok(if inner.chance(sought) { Way::Sought } else { Way::Known })
    }

    fn connect(&mut self, pair: &StubPair, own_psn: u32, peer: &PeerEnd) -> Result<(), PortError> {
        let mut inner = self.world.lock();
        let Some(at) = inner.find(pair.qpn()) else { return Err(PortError("no such queue pair".to_owned())) };
        assert_eq!(inner.pairs[at].state, State::Reset, "only from reset");
        inner.find_way()?;
        let pair = &mut inner.pairs[at];
        (pair.state, pair.peer, pair.psn) = (State::Ready, Some((peer.qpn, peer.psn)), own_psn);
        Ok(())
    }

    fn fail(&mut self, pair: &StubPair) {
        let mut inner = self.world.lock();
        if let Some(at) = inner.find(pair.qpn()).filter(|at| inner.pairs[*at].state == State::Ready) {
            inner.fail(at);
        }
    }

    fn reset(&mut self, pair: &StubPair) -> Result<(), PortError> {
        let mut inner = self.world.lock();
        let Some(at) = inner.find(pair.qpn()) else { return Err(PortError("no such queue pair".to_owned())) };
        let Faults { keep, forget, .. } = inner.faults;
        if inner.chance(keep) {
            return Err(PortError("stub: a queue pair cannot be reset".to_owned()));
        }
        if inner.chance(forget) {
            let (node, worker, qpn) = (inner.pairs[at].node, inner.pairs[at].worker, inner.pairs[at].qpn);
            inner.nodes[node].workers[worker].completions.retain(|(completed, ..)| completed.qpn != qpn);
        }
        let life = inner.new_life();
        let pair = &mut inner.pairs[at];
        (pair.state, pair.peer, pair.outstanding, pair.unsignalled) = (State::Reset, None, 0, 0);
        pair.sends.clear();
        pair.unread.clear();
        (pair.life, pair.still) = (life, false);
        Ok(())
    }

    fn address(&mut self, gid: &[u8; 16]) -> Result<[u8; 16], PortError> {
        self.world.lock().find_way().map(|()| *gid)
    }

    fn ring(&mut self, pair: &StubPair, bytes: usize) -> Result<RingMemory<StubRing>, PortError> {
        let mut memory = vec![0_u64; bytes / 8];
        let address = memory.as_mut_ptr().expose_provenance() as u64;
        let mut inner = self.world.lock();
        inner.next_key += 0x101;
        let rkey = inner.next_key;
        let Some(at) = inner.find(pair.qpn()) else { return Err(PortError("no such queue pair".to_owned())) };
        inner.pairs[at].ring = Some((rkey, address, bytes as u64));
        let keep = StubRing { world: self.world.clone(), rkey, _memory: memory };
        Ok(RingMemory { address, rkey: Secret(rkey), keep })
    }

    fn event(&mut self) -> Option<FabricEvent> {
        self.world.lock().nodes[self.node].events.pop_front()
    }

    fn registrations(&self) -> u64 {
        self.world.lock().nodes[self.node].registrations
    }

    fn counters(&self) -> Vec<(String, u64)> {
        Vec::new()
    }
}

/// One worker's part of a node's device.
#[derive(Debug)]
pub struct StubDevice {
    world: World,
    node: usize,
    worker: usize,
    /// Between start and finish.
    burst: Vec<(Work, Target)>,
}

impl Device for StubDevice {
    type Pair = StubPair;
    type Address = [u8; 16];
    type Ring = StubRing;

    fn start(&mut self, _pair: &StubPair) {
        self.burst.clear();
    }

    unsafe fn push(&mut self, _pair: &StubPair, work: &Work, to: To<'_, [u8; 16]>) {
        let region = self.world.lock().nodes[self.node].region;
        let (base, end) = (region.base as u64, (region.base + region.bytes) as u64);
        assert!(work.len == 0 || (work.address >= base && work.address + u64::from(work.len) <= end), "not registered");
        let target = match to {
            To::Datagram { address, qpn, qkey } => Target::Datagram { gid: *address, qpn, qkey: qkey.0 },
            To::Peer => Target::Peer,
            To::Memory { rkey, address } => Target::Memory { rkey: rkey.0, address },
        };
        self.burst.push((*work, target));
    }

    fn finish(&mut self, pair: &StubPair) -> bool {
        let mut inner = self.world.lock();
        let Some(at) = inner.find(pair.qpn()) else { return false };
        let refuse = inner.faults.refuse;
        if inner.chance(refuse) {
            inner.fail(at);
            return false;
        }
        let Inner { pairs, nodes, .. } = &mut *inner;
        let pair = &mut pairs[at];
        let depth = nodes[self.node].workers[self.worker].needs.send_depth;
        assert_ne!(pair.state, State::Reset, "work on a queue pair that is reset");
        pair.outstanding += self.burst.len() as u32;
        assert!(pair.outstanding <= depth, "{} pieces of work where {depth} fit", pair.outstanding);
        pair.sends.extend(self.burst.drain(..));
        if pair.state == State::Error {
            inner.fail(at);
        }
        true
    }

    unsafe fn receive(&mut self, receives: &[Receive]) -> usize {
        let mut inner = self.world.lock();
        let Node { region, workers, .. } = &mut inner.nodes[self.node];
        let (base, end) = (region.base as u64, (region.base + region.bytes) as u64);
        let worker = &mut workers[self.worker];
        for receive in receives {
            assert!(receive.address >= base && receive.address + u64::from(receive.len) <= end, "not registered");
            assert!(worker.receives.len() < worker.needs.receive_depth as usize, "too many receives");
            worker.receives.push_back(*receive);
        }
        receives.len()
    }

    fn poll(&mut self, into: &mut CompletedBatch) {
        let mut inner = self.world.lock();
        inner.progress();
        if inner.sink {
            inner.make_arrivals(self.node, self.worker);
        }
        let hold = inner.faults.hold;
        if inner.chance(hold) {
            return;
        }
        let Inner { nodes, pairs, .. } = &mut *inner;
        let completions = &mut nodes[self.node].workers[self.worker].completions;
        while !into.is_full()
            && let Some((completed, freed, life)) = completions.pop_front()
        {
            if freed > 0
                && let Some(pair) = pairs.iter_mut().find(|pair| pair.qpn == completed.qpn && pair.life == life)
            {
                pair.outstanding -= freed;
            }
            if completed.written
                && let Some(pair) = pairs.iter_mut().find(|pair| pair.qpn == completed.qpn)
            {
                pair.unread.pop_front();
            }
            into.push(completed);
        }
    }

    fn arm(&mut self) {}

    fn sleep(&mut self, ns: u64) {
        std::thread::sleep(Duration::from_nanos(ns).min(NAP));
    }

    fn syscalls(&self) -> u64 {
        0
    }
}

impl Inner {
    fn make_arrivals(&mut self, node: usize, worker: usize) {
        let Some(at) = self.pairs.iter().position(|pair| pair.node == node && pair.worker == worker) else { return };
        let qpn = self.pairs[at].qpn;
        let Node { gid, workers, mtu_bytes, .. } = &mut self.nodes[node];
        let header = route_header(gid, gid);
        for _ in 0..self.arrivals {
            let Some(receive) = workers[worker].receives.pop_front() else { return };
            write(receive.address, &header);
            let (id, len) = (receive.id, *mtu_bytes + 40);
            let status = Status::Good;
            let arrived = Completed { id, status, len, immediate: Some(0), qpn, source_qpn: 99, written: false };
            workers[worker].completions.push_back((arrived, 0, 0));
        }
    }
}
