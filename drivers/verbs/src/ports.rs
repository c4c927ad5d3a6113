//! The cold side: a device from opening to closing, who is connected with whom, and bringing back what failed.
//!
//! One thread owns this, and it is no worker. It makes queue pairs, registers memory, exchanges details through whoever
//! carries them, reads what the device says by itself, and hands workers finished things by orders.

use crate::{
    config::VerbsConfig,
    connection::{Connection, Stage},
    details::{Details, RingDetails},
    device::{Fabric, FabricEvent, FabricInfo, Needs, Pair, PeerEnd, Secret, Status},
    flight::Flight,
    hardware::Hardware,
    lanes::Telling,
    names::{Key, Peer, key},
    queue::VerbsQueue,
    receives::Receives,
    ring::{Reader, Writer},
    sending::{LaneState, Limits, Sending},
    table::Table,
    wires::{BEAT_NS, Counts, DeskWires, Lane, News, Order, WorkerWires, wires},
};
use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};
use tachyon_driver_api::{BURST_MAX, Pool, Port, PortError, PortInfo};
use tachyon_wire::Endpoint;

/// Bits of queue pair and packet numbers.
const BITS_24: u64 = 0x00ff_ffff;
/// Q_Keys with the highest bit are the kernel's (InfiniBand Architecture, 10.2.5).
const QKEY_BITS: u64 = 0x7fff_ffff;

/// How large a ring shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RingSize {
    /// Slots: a power of two, at most 32,768.
    pub slots: u32,
    /// Bytes of each: a multiple of 64.
    pub slot_bytes: u32,
}

/// Something to carry to a peer, because a connection failed. The side that offered first offers again; the other asks it to,
/// because it may not have seen the failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Errand {
    /// The peer shall answer this with its own details: [`VerbsPorts::accept`] there, [`VerbsPorts::connect`] here.
    Offer {
        /// The worker.
        worker: u16,
        /// The peer.
        to: Endpoint,
        /// Our part.
        details: Details,
        /// Which try this is, from 1.
        attempt: u32,
    },
    /// The peer shall take the connection down and offer again: [`VerbsPorts::reset`] there.
    Renew {
        /// The worker.
        worker: u16,
        /// The peer.
        to: Endpoint,
    },
}

/// One worker's part.
pub(crate) struct Desk<F: Fabric> {
    pub(crate) wires: DeskWires<F::Device>,
    /// Orders that found no room yet.
    backlog: VecDeque<Order<F::Device>>,
    device: Option<F::Device>,
    seat: Option<WorkerWires<F::Device>>,
    pub(crate) counts: Arc<Counts>,
    /// The datagram queue pair, as the connection to nobody.
    pub(crate) datagrams: Connection<F>,
    qkey: u32,
    pub(crate) connections: Vec<Connection<F>>,
    free_pairs: Vec<u16>,
    pub(crate) peers: BTreeMap<Key, Peer>,
    pub(crate) free_lanes: Vec<u16>,
    /// Names of peers that have a lane, and how many the worker has room for.
    pub(crate) names: usize,
    pub(crate) names_max: usize,
}

/// See the module.
pub struct VerbsPorts<F: Fabric = Hardware> {
    pub(crate) fabric: F,
    pub(crate) config: VerbsConfig,
    pub(crate) info: FabricInfo,
    pub(crate) desks: Vec<Desk<F>>,
    errands: Vec<Errand>,
    random: u64,
    pub(crate) now_ns: u64,
    beaten_ns: u64,
    pub(crate) up: bool,
    pub(crate) lost: bool,
    pub(crate) notes: Vec<String>,
    pub(crate) telling: Telling,
}

impl<F: Fabric> core::fmt::Debug for VerbsPorts<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "VerbsPorts({}, {} workers)", self.info.device, self.desks.len())
    }
}

impl<F: Fabric> VerbsPorts<F> {
    /// Makes every worker's queues on a device that is open.
    ///
    /// # Errors
    /// The device does not give them, or a number of the configuration cannot be; the text says which and what to do.
    pub fn with(fabric: F, config: VerbsConfig) -> Result<Self, PortError> {
        check(&config)?;
        let info = fabric.info();
        let (random, up) = (config.seed.0, info.up);
        let desks = Vec::new();
        let (errands, notes) = (Vec::new(), Vec::new());
        let telling = Telling::new(up);
        let (now_ns, beaten_ns, lost) = (0, 0, false);
        let mut ports =
            Self { fabric, config, info, desks, errands, random, now_ns, beaten_ns, up, lost, notes, telling };
        for worker in 0..ports.config.workers {
            let mut desk = ports.desk(worker)?;
            desk.send_backlog();
            ports.desks.push(desk);
        }
        ports.info = ports.fabric.info(); // making queues may have shown a weakness
        Ok(ports)
    }

    fn desk(&mut self, worker: u16) -> Result<Desk<F>, PortError> {
        let config = &self.config;
        let (pairs, lanes) = (config.connections_max + 1, config.lanes_max);
        let names_max = usize::from(lanes) * usize::from(config.ports_per_peer);
        let needs =
            Needs { receive_depth: config.receive_depth, send_depth: config.send_depth, pairs: u32::from(pairs) };
        let device = self.fabric.worker(worker, needs)?;
        let qkey = (self.draw() & QKEY_BITS) as u32;
        let pair = self.fabric.datagrams(worker, qkey)?;
        let (seat, wires) = wires(usize::from(pairs), usize::from(lanes));
        let mut datagrams = Connection::new(Endpoint::NONE, 0, pair.clone());
        datagrams.stage = Stage::Connected;
        let ready = Order::Ready {
            pair: 0,
            qpn: self.fabric.qpn(&pair),
            handle: pair,
            peer: Endpoint::NONE,
            out: None,
            into: None,
        };
        Ok(Desk {
            wires,
            backlog: VecDeque::from([ready]),
            device: Some(device),
            seat: Some(seat),
            counts: Arc::default(),
            datagrams,
            qkey,
            connections: Vec::new(),
            free_pairs: (1..pairs).rev().collect(),
            peers: BTreeMap::new(),
            free_lanes: (0..lanes).rev().collect(),
            names: 0,
            names_max,
        })
    }

    /// splitmix64 over the seed.
    fn draw(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.random ^ (self.random >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// What worker `worker` opens its queue with; once each.
    pub fn seat(&mut self, worker: u16) -> Option<VerbsSeat<F>> {
        let desk = self.desks.get_mut(usize::from(worker))?;
        Some(VerbsSeat {
            parts: Some((desk.device.take()?, desk.seat.take()?)),
            counts: Arc::clone(&desk.counts),
            config: self.config.clone(),
            info: self.info.clone(),
        })
    }

    pub(crate) fn own_desk(&mut self, worker: u16) -> Result<&mut Desk<F>, PortError> {
        let count = self.desks.len();
        let found = self.desks.get_mut(usize::from(worker));
        found.ok_or_else(|| PortError(format!("there is no worker {worker}: there are {count}, from 0")))
    }

    /// A worker's datagram queue pair, for whoever shall send to it.
    ///
    /// # Errors
    /// There is no such worker.
    pub fn datagrams(&mut self, worker: u16) -> Result<Details, PortError> {
        let (gid, mtu_bytes) = (self.info.gid, self.info.mtu_bytes as u16);
        let desk = self.own_desk(worker)?;
        let (pair, qkey) = (desk.datagrams.pair.clone(), desk.qkey);
        Ok(Details::Datagrams { gid, qpn: self.fabric.qpn(&pair), qkey, mtu_bytes })
    }

    /// From now on a worker reaches `to` by datagrams to this queue pair.
    ///
    /// # Errors
    /// These are no datagram details, the address is not reachable, or there are no lanes left.
    pub fn reach(&mut self, worker: u16, to: Endpoint, theirs: &Details) -> Result<(), PortError> {
        theirs.check()?;
        let Details::Datagrams { gid, qpn, qkey, mtu_bytes } = *theirs else {
            return Err(PortError(format!("{theirs:?} is one end of a connection: give it to `accept` or `connect`")));
        };
        if u32::from(mtu_bytes) < self.info.mtu_bytes {
            return Err(PortError(format!(
                "the peer takes datagrams of {mtu_bytes} bytes and this port sends up to {}: set mtu_bytes_max to {mtu_bytes}",
                self.info.mtu_bytes
            )));
        }
        let (address, now_ns) = (self.fabric.address(&gid)?, self.now_ns);
        let desk = self.own_desk(worker)?;
        if desk.datagrams.stage == Stage::Failed {
            // Somebody counts on it again, so it is tried again.
            (desk.datagrams.stage, desk.datagrams.attempts) = (Stage::Waiting { until_ns: now_ns }, 0);
        }
        desk.route(to, Lane::Datagram { address, qpn, qkey: Secret(qkey) })
    }

    /// Our part of a connection to `to`, for its peer; what the peer answers goes to [`VerbsPorts::connect`]. With a ring the
    /// peer writes its frames into memory of ours instead of sending them.
    ///
    /// # Errors
    /// There is a connection already that was not closed, or the device gives nothing more.
    pub fn offer(&mut self, worker: u16, to: Endpoint, ring: Option<RingSize>) -> Result<Details, PortError> {
        let index = self.own_desk(worker)?.connections.iter().position(|one| one.to == to);
        let index = match index {
            Some(index) => index,
            None => self.add_connection(worker, to, ring)?,
        };
        let connection = &mut self.desks[usize::from(worker)].connections[index];
        if !matches!(connection.stage, Stage::Fresh | Stage::Offered { .. } | Stage::Waiting { .. } | Stage::Failed) {
            return Err(PortError(format!(
                "{} is {} already: disconnect it first",
                name(&to),
                connection.stage.name()
            )));
        }
        connection.ring_size = ring.or(connection.ring_size);
        connection.active = true;
        self.make_offer(worker, index)
    }

    fn add_connection(&mut self, worker: u16, to: Endpoint, ring: Option<RingSize>) -> Result<usize, PortError> {
        let most = self.config.connections_max;
        let pair = self.fabric.pair(worker)?;
        let desk = self.own_desk(worker)?;
        let Some(index) = desk.free_pairs.pop() else {
            return Err(PortError(format!("worker {worker} has {most} connections: raise connections_max")));
        };
        let mut connection = Connection::new(to, index, pair);
        connection.ring_size = ring;
        desk.connections.push(connection);
        Ok(desk.connections.len() - 1)
    }

    /// New numbers and a new ring for a queue pair that is in reset.
    fn make_offer(&mut self, worker: u16, index: usize) -> Result<Details, PortError> {
        let psn = (self.draw() & BITS_24) as u32;
        let until_ns = self.now_ns.saturating_add(self.config.offer_ns);
        let connection = &mut self.desks[usize::from(worker)].connections[index];
        let mut ring = None;
        // The old registration ends before there is a new one, so no key of before is good any more.
        connection.ring = None;
        if let Some(size) = connection.ring_size {
            let memory = self.fabric.ring(&connection.pair, size.slots as usize * size.slot_bytes as usize)?;
            let (rkey, address) = (memory.rkey.0, memory.address);
            ring = Some(RingDetails { rkey, address, slots: size.slots, slot_bytes: size.slot_bytes });
            connection.ring = Some(memory);
        }
        connection.psn = psn;
        connection.stage = Stage::Offered { until_ns };
        let (gid, mtu_bytes) = (self.info.gid, self.info.mtu_bytes as u16);
        let details = Details::Connection { gid, qpn: self.fabric.qpn(&connection.pair), psn, mtu_bytes, ring };
        details.check().map(|()| details)
    }

    /// The peer's part, for an offer of ours.
    ///
    /// # Errors
    /// There is no offer to this peer, these are no connection details, or the device refuses them.
    pub fn connect(&mut self, worker: u16, to: Endpoint, theirs: &Details) -> Result<(), PortError> {
        theirs.check()?;
        let Details::Connection { gid, qpn, psn, mtu_bytes, ring } = *theirs else {
            return Err(PortError(format!("{theirs:?} is no connection: give it to `reach`")));
        };
        let (mtu_bytes, now_ns) = (u32::from(mtu_bytes).min(self.info.mtu_bytes), self.now_ns);
        let desk = self.own_desk(worker)?;
        let Some(index) = desk.connections.iter().position(|one| one.to == to) else {
            return Err(PortError(format!("nothing was offered to {}: offer first", name(&to))));
        };
        if !matches!(desk.connections[index].stage, Stage::Offered { .. }) {
            let stage = desk.connections[index].stage.name();
            return Err(PortError(format!("{} is {stage}, so there is no offer to answer: offer again", name(&to))));
        }
        let (pair, own_psn) = (desk.connections[index].pair.clone(), desk.connections[index].psn);
        self.fabric.connect(&pair, own_psn, &PeerEnd { gid, qpn, psn, mtu_bytes })?;
        let own_qpn = self.fabric.qpn(&pair);
        let desk = &mut self.desks[usize::from(worker)];
        let connection = &mut desk.connections[index];
        connection.stage = Stage::Connected;
        connection.connected_ns = now_ns;
        connection.writes = ring.is_some();
        let into = connection.ring.take().zip(connection.ring_size);
        let into = into.map(|(ring, size)| Reader::new(ring.address, size.slots, size.slot_bytes, ring.keep));
        let out = ring.map(|ring| Writer::new(Secret(ring.rkey), ring.address, ring.slots, ring.slot_bytes));
        let number = connection.number;
        let peer = desk.peers.get(&key(&to)).and_then(|peer| peer.source).unwrap_or(to);
        desk.order(Order::Ready { pair: number, handle: pair, qpn: own_qpn, peer, out, into });
        if desk.peers.get(&key(&to)).is_some_and(|peer| peer.lane.is_some() && !peer.is_datagram) {
            return Ok(());
        }
        desk.route(to, Lane::Connected { pair: number })
    }

    /// The answer to a peer's offer: connects with it, and returns our part for its [`VerbsPorts::connect`]. A connection that
    /// stands already has failed on the peer's side; it is taken down, and the peer has to offer again once
    /// [`VerbsPorts::tick`] saw it end.
    ///
    /// # Errors
    /// As for [`VerbsPorts::offer`] and [`VerbsPorts::connect`].
    pub fn accept(
        &mut self,
        worker: u16,
        to: Endpoint,
        theirs: &Details,
        ring: Option<RingSize>,
    ) -> Result<Details, PortError> {
        theirs.check()?;
        let standing = self.own_desk(worker)?.connections.iter_mut().find(|one| one.to == to);
        if let Some(connection) = standing.filter(|one| one.stage == Stage::Connected) {
            connection.attempts = 0;
            self.take_down(worker, to, "the peer connects again");
        }
        let ours = self.offer(worker, to, ring)?;
        // Only the side that offered first offers again after a failure, or both offers would cross.
        self.own_desk(worker)?.connections.iter_mut().filter(|one| one.to == to).for_each(|one| one.active = false);
        self.connect(worker, to, theirs)?;
        Ok(ours)
    }

    /// Brings a connection down as if it had failed, so that it is offered again.
    ///
    /// # Errors
    /// There is none to this peer.
    pub fn reset(&mut self, worker: u16, to: Endpoint) -> Result<(), PortError> {
        if self.own_desk(worker)?.connections.iter().any(|one| one.to == to) {
            self.take_down(worker, to, "an operator reset it");
            return Ok(());
        }
        Err(PortError(format!("worker {worker} has no connection to {}", name(&to))))
    }

    pub(crate) fn take_down(&mut self, worker: u16, to: Endpoint, why: &str) {
        let desk = &self.desks[usize::from(worker)];
        let Some(number) = desk.connections.iter().find(|one| one.to == to).map(|one| one.number) else { return };
        self.stop(usize::from(worker), number, why);
    }

    /// A queue pair works no more, or shall not. It is in error before its worker hears of it, so that what the worker reads
    /// from then on is all that arrived.
    fn stop(&mut self, worker: usize, number: u16, why: &str) {
        let desk = &mut self.desks[worker];
        let Some(connection) = desk.connection(number) else { return };
        if connection.fail(why) {
            self.fabric.fail(&connection.pair);
            desk.order(Order::Stop { pair: number });
        }
    }

    /// Ends the way to a destination, whichever it was. What is in flight ends as `E_TX_QP_RESET` or well.
    ///
    /// # Errors
    /// There is none.
    pub fn disconnect(&mut self, worker: u16, to: Endpoint) -> Result<(), PortError> {
        let desk = self.own_desk(worker)?;
        desk.unroute(to);
        let peer = desk.peers.remove(&key(&to));
        if !desk.connections.iter().any(|one| one.to == to) {
            let missing = || PortError(format!("worker {worker} has no way to {}", name(&to)));
            return peer.map(|_| ()).ok_or_else(missing);
        }
        self.end_connection(worker, to);
        Ok(())
    }

    /// Ends the connection with a peer, if there is one, and not the way to it.
    pub(crate) fn end_connection(&mut self, worker: u16, to: Endpoint) {
        let desk = &mut self.desks[usize::from(worker)];
        let Some(index) = desk.connections.iter().position(|one| one.to == to) else { return };
        desk.connections[index].closing = true;
        if desk.connections[index].stage.is_at_rest() {
            let number = desk.connections.swap_remove(index).number;
            desk.free_pairs.push(number);
        } else {
            self.take_down(worker, to, "it is being closed");
        }
    }

    /// What failed connections need carried to their peers; each is given once.
    pub fn errands(&mut self) -> Vec<Errand> {
        core::mem::take(&mut self.errands)
    }

    /// Does what is due: hears workers and the device, and brings back what failed. To be called every few milliseconds with a
    /// clock that does not run backwards.
    pub fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        while let Some(event) = self.fabric.event() {
            self.heed(event);
        }
        let beats = now_ns.saturating_sub(self.beaten_ns) >= BEAT_NS;
        if beats {
            self.beaten_ns = now_ns;
        }
        for worker in 0..self.desks.len() {
            self.hear(worker);
            for index in (0..self.desks[worker].connections.len()).rev() {
                self.advance(worker, index);
            }
            self.advance_datagrams(worker);
            self.fall_back(worker);
            self.desks[worker].send_backlog();
            if beats {
                self.desks[worker].beat();
            }
        }
    }

    fn heed(&mut self, event: FabricEvent) {
        match event {
            FabricEvent::PortUp => self.up = true,
            FabricEvent::PortDown => self.up = false,
            FabricEvent::DeviceLost => self.lost = true,
            FabricEvent::Note(note) => {
                if self.notes.last() != Some(&note) && self.notes.len() < 64 {
                    self.notes.push(note);
                }
            }
            FabricEvent::PairFailed { qpn, why } => {
                let fabric = &self.fabric;
                let found = self.desks.iter().enumerate().find_map(|(worker, desk)| {
                    let mut all = desk.connections.iter().chain([&desk.datagrams]);
                    let one = all.find(|one| fabric.qpn(&one.pair) == qpn)?;
                    Some((worker, one.number))
                });
                if let Some((worker, number)) = found {
                    self.stop(worker, number, &why);
                }
            }
        }
    }

    fn hear(&mut self, worker: usize) {
        while let Ok(news) = self.desks[worker].wires.news.pop() {
            let now_ns = self.now_ns;
            let desk = &mut self.desks[worker];
            match news {
                News::LaneFree { lane, address } => {
                    drop(address);
                    desk.free_lanes.push(lane);
                }
                News::Failed { pair, status } => self.stop(worker, pair, &why(status)),
                News::Drained { pair } => {
                    if let Some(connection) = desk.connection(pair) {
                        connection.drained();
                    }
                }
                News::Cleared { pair, handle, ring } => {
                    drop((handle, ring)); // the registration ends here, and with it the key
                    if let Some(connection) = desk.connection(pair) {
                        connection.cleared(now_ns, self.config.reconnect_ns, self.config.reconnects_max);
                    }
                }
            }
        }
    }

    /// One step of bringing a connection back, or of closing it.
    fn advance(&mut self, worker: usize, index: usize) {
        let (now_ns, up) = (self.now_ns, self.up);
        let Desk { connections, peers, .. } = &mut self.desks[worker];
        let connection = &mut connections[index];
        let falls_back = peers.get(&key(&connection.to)).is_some_and(|peer| peer.falls_back);
        if connection.closing && connection.stage.is_at_rest() {
            let number = self.desks[worker].connections.swap_remove(index).number;
            self.desks[worker].free_pairs.push(number);
            return;
        }
        match connection.stage {
            Stage::Draining { until_ns } if now_ns >= until_ns => {
                let number = connection.number;
                self.clear(worker, number);
            }
            // While our own link is down nothing can succeed, so it is no try, unless there is another way to wait for.
            Stage::Waiting { .. } if !up && !falls_back => {}
            Stage::Waiting { until_ns } if connection.active && now_ns >= until_ns => {
                let (to, attempt) = (connection.to, connection.attempts);
                let worker = u16::try_from(worker).unwrap_or(u16::MAX);
                match self.make_offer(worker, index) {
                    Ok(details) => self.errands.push(Errand::Offer { worker, to, details, attempt }),
                    Err(error) => self.desks[usize::from(worker)].connections[index].give_up(error.0),
                }
            }
            Stage::Waiting { until_ns } if now_ns >= until_ns => {
                let (worker, to) = (u16::try_from(worker).unwrap_or(u16::MAX), connection.to);
                self.errands.push(Errand::Renew { worker, to });
                connection.try_again(now_ns, self.config.reconnect_ns, self.config.reconnects_max);
            }
            Stage::Offered { until_ns } if connection.attempts > 0 && now_ns >= until_ns => {
                "the peer does not answer".clone_into(&mut connection.why);
                connection.try_again(now_ns, self.config.reconnect_ns, self.config.reconnects_max);
            }
            Stage::Connected => connection.settle(now_ns),
            _ => {}
        }
    }

    /// Resets a queue pair whose worker has read it out, and so has taken the order to stop: none is posted on meanwhile. The
    /// worker forgets what was in flight only once the device has.
    fn clear(&mut self, worker: usize, number: u16) {
        let (now_ns, first_ns) = (self.now_ns, self.config.reconnect_ns);
        let desk = &mut self.desks[worker];
        let Some(connection) = desk.connection(number) else { return };
        match self.fabric.reset(&connection.pair) {
            Ok(()) => {
                connection.stage = Stage::Clearing;
                desk.order(Order::Reset { pair: number });
            }
            Err(error) => connection.keep_draining(&error, now_ns, first_ns),
        }
    }

    /// The datagram queue pair needs no peer to come back.
    fn advance_datagrams(&mut self, worker: usize) {
        let (now_ns, desk) = (self.now_ns, &mut self.desks[worker]);
        let connection = &mut desk.datagrams;
        match connection.stage {
            Stage::Draining { until_ns } if now_ns >= until_ns => self.clear(worker, 0),
            Stage::Waiting { until_ns } if now_ns >= until_ns => {
                let (pair, qkey) = (connection.pair.clone(), desk.qkey);
                match self.fabric.revive(&pair, qkey) {
                    Ok(()) => {
                        (connection.stage, connection.connected_ns) = (Stage::Connected, now_ns);
                        let qpn = self.fabric.qpn(&pair);
                        let peer = Endpoint::NONE;
                        desk.order(Order::Ready { pair: 0, handle: pair, qpn, peer, out: None, into: None });
                    }
                    Err(error) => connection.give_up(error.0),
                }
            }
            Stage::Connected => connection.settle(now_ns),
            _ => {}
        }
    }
}

impl<F: Fabric> Desk<F> {
    fn connection(&mut self, number: u16) -> Option<&mut Connection<F>> {
        if number == 0 {
            return Some(&mut self.datagrams);
        }
        self.connections.iter_mut().find(|one| one.number == number)
    }

    pub(crate) fn order(&mut self, order: Order<F::Device>) {
        self.backlog.push_back(order);
        self.send_backlog();
    }

    fn send_backlog(&mut self) {
        while let Some(order) = self.backlog.pop_front() {
            if let Err(rtrb::PushError::Full(order)) = self.wires.orders.push(order) {
                self.backlog.push_front(order);
                return;
            }
        }
    }

    /// Whether the worker took every order.
    fn has_obeyed(&self) -> bool {
        self.backlog.is_empty() && self.wires.orders.slots() == self.wires.orders.buffer().capacity()
    }

    /// One beat for a worker that took everything of before: for one that stands still they shall not pile up.
    fn beat(&mut self) {
        if self.has_obeyed() {
            let _ = self.wires.orders.push(Order::Beat); // there is room
        }
    }
}

/// An endpoint for people.
pub(crate) fn name(to: &Endpoint) -> String {
    let ip = std::net::Ipv6Addr::from(to.ip);
    let ip = ip.to_ipv4_mapped().map_or_else(|| format!("[{ip}]"), |ip| ip.to_string());
    format!("{ip}:{}", to.port)
}

fn why(status: Status) -> String {
    match status {
        Status::Good => "nothing".to_owned(),
        Status::Flushed => "the queue pair went into error by itself".to_owned(),
        Status::NoAnswer => "the peer does not acknowledge: look at the link and at the peer".to_owned(),
        Status::Silent => "the device completes nothing of what it was given: it lost track of it".to_owned(),
        Status::NotReady => "the peer has nothing to receive into: is its worker running?".to_owned(),
        Status::Fault(u32::MAX) => "the device refused to take work".to_owned(),
        Status::Fault(number) => format!("completion status {number}: look it up under ibv_wc_status"),
    }
}

fn check(config: &VerbsConfig) -> Result<(), PortError> {
    let mut wrong = Vec::new();
    let mut need = |good: bool, text: &str| {
        if !good {
            wrong.push(text.to_owned());
        }
    };
    need((1..=1_024).contains(&config.workers), "workers: choose 1 to 1024");
    need(config.send_depth >= 2 && config.send_depth <= 1 << 15, "send_depth: choose 2 to 32768");
    need((1..=1 << 15).contains(&config.receive_depth), "receive_depth: choose 1 to 32768");
    need((1..=1 << 20).contains(&config.items_max), "items_max: choose 1 to 1048576");
    need(config.items_per_lane_max > 0, "items_per_lane_max: choose at least 1");
    need((1..=config.send_depth).contains(&config.signal_interval), "signal_interval: choose 1 to send_depth");
    need(config.lanes_max > 0 && config.ports_per_peer > 0, "lanes_max, ports_per_peer: choose at least 1");
    need(config.connections_max < 4_096, "connections_max: choose at most 4095");
    need(config.shard_count.is_power_of_two(), "shard_count: choose a power of two");
    need(config.receive_offset_bytes <= 1_024, "receive_offset_bytes: choose at most 1024");
    need(
        config.retry_count <= 7 && (1..=31).contains(&config.timeout) && config.min_rnr_timer <= 31,
        "retry_count is at most 7, timeout 1 to 31 and min_rnr_timer at most 31",
    );
    if wrong.is_empty() { Ok(()) } else { Err(PortError(format!("verbs: {}", wrong.join("; ")))) }
}

/// What a worker opens its queue with.
pub struct VerbsSeat<F: Fabric> {
    parts: Option<(F::Device, WorkerWires<F::Device>)>,
    counts: Arc<Counts>,
    config: VerbsConfig,
    info: FabricInfo,
}

impl<F: Fabric> core::fmt::Debug for VerbsSeat<F> {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "VerbsSeat({})", self.info.device)
    }
}

impl<F: Fabric> Port for VerbsSeat<F> {
    type Queue = VerbsQueue<F::Device>;

    fn open(&mut self, _shards: &[u16], pool: &mut Pool) -> Result<Self::Queue, PortError> {
        let config = &self.config;
        let depth = config.receive_depth as usize;
        let needed = config.receive_offset_bytes + crate::receives::ROUTE_HEADER_BYTES + self.info.mtu_bytes;
        if pool.free() <= depth {
            return Err(PortError(format!(
                "{} buffers for a worker whose device holds {depth}: set buffers_per_worker to {} or more, or lower \
                 receive_depth",
                pool.free(),
                (depth * 2).next_multiple_of(BURST_MAX)
            )));
        }
        if pool.buffer_bytes() < needed {
            return Err(PortError(format!(
                "buffers have {} bytes and need {needed}: raise their size or lower mtu_bytes_max",
                pool.buffer_bytes()
            )));
        }
        let Some((device, wires)) = self.parts.take() else {
            return Err(PortError("a worker's queue can be opened once".to_owned()));
        };
        let (pairs, lanes) = (usize::from(config.connections_max) + 1, usize::from(config.lanes_max));
        let mut queue = VerbsQueue {
            device,
            receives: Receives::new(config.receive_depth, config.receive_offset_bytes),
            pairs: (0..pairs).map(|_| Sending::new()).collect(),
            lanes: (0..lanes).map(|_| LaneState { by: None, items: 0 }).collect(),
            destinations: Table::new(lanes * usize::from(config.ports_per_peer)),
            by_qpn: Table::new(pairs),
            flight: Flight::new(config.items_max),
            done: VecDeque::with_capacity(config.items_max as usize),
            arrived: VecDeque::with_capacity(depth + BURST_MAX),
            listed: Vec::with_capacity(pairs),
            readers: Vec::with_capacity(pairs),
            draining: Vec::with_capacity(2 * pairs),
            retiring: Vec::with_capacity(lanes),
            wires,
            counts: Arc::clone(&self.counts),
            limits: Limits {
                send_depth: config.send_depth,
                signal_interval: config.signal_interval,
                inline_bytes: config.inline_bytes,
                silent_beats_max: config.silent_beats_max(),
            },
            items_per_lane_max: config.items_per_lane_max,
            completions_max: config.completions_max(),
            frame_bytes_max: self.info.mtu_bytes,
            shard_count: config.shard_count,
            v4: self.info.gid[..12] == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
            starved: 0,
            beat: false,
        };
        queue.receives.fill(&mut queue.device, pool);
        Ok(queue)
    }

    fn info(&self) -> PortInfo {
        PortInfo {
            driver: "verbs",
            device: self.info.device.clone(),
            frame_bytes_max: self.info.mtu_bytes / 64 * 64,
            degraded: self.info.degraded.clone(),
        }
    }
}

impl<F: Fabric> VerbsPorts<F> {
    /// Takes a worker's queue apart and gives all its buffers back: its queue pairs are reset first, so that no device writes
    /// any more. The worker's thread must have handed it over. Returns how many buffers are missing: 0 unless one was lost.
    pub fn close(&mut self, worker: u16, queue: VerbsQueue<F::Device>, pool: &mut Pool) -> usize {
        if let Some(desk) = self.desks.get_mut(usize::from(worker)) {
            let pairs: Vec<Pair<F>> =
                desk.connections.iter().chain([&desk.datagrams]).map(|one| one.pair.clone()).collect();
            for pair in pairs {
                self.fabric.fail(&pair);
                let _ = self.fabric.reset(&pair); // what cannot be reset is destroyed with its last handle
            }
            desk.connections.clear();
        }
        queue.abandon(pool);
        pool.total() - pool.free()
    }
}

impl VerbsPorts<Hardware> {
    /// Opens the device that has the configured address, registers the arena, and makes every worker's queues.
    ///
    /// # Errors
    /// What happened, at which device, and what to do.
    pub fn open(config: VerbsConfig) -> Result<Self, PortError> {
        let fabric = Hardware::open(&config)?;
        Self::with(fabric, config)
    }
}
