//! One queue out of those of several drivers: by which one each frame goes, and that none of them waits for another.
//!
//! A frame goes by the first driver in the node file's order that reaches its destination; the last one takes the rest. What a
//! driver does not take at once waits here, in order, in a line of its own: it counts as taken, and as held. What finds the line of
//! any but the last one full ends as `E_TX_CONGESTION`, because it has nowhere to wait but in front of frames for others, and
//! drivers with lanes may be full for as long as a stuck peer takes to be given up. The last one, which most frames go by, holds up
//! the caller instead. Frames to one destination stay in order as long as one driver reaches it; where a lane fails over to the
//! next driver or comes back, what still waits for the old one may be overtaken.
//!
//! Which drivers there are is known when the queue is opened. Where it is one, bursts go straight through to it. No call goes
//! through a table: every driver is a field of its own type, and one that this build lacks is a field that cannot be
//! there. A further one is a field, a [`Kind`], and an arm wherever kinds are told apart.

use tachyon_driver_api::{
    BURST_MAX, Completion, CompletionBatch, Pool, Port, PortError, PortInfo, QueueStats, RxBatch, RxQueue, TxBatch,
    TxQueue,
};
use tachyon_wire::{Endpoint, Reason};

/// Drivers there can be.
const KINDS: usize = 4;
/// Longest sleep where there are several: nobody can sleep on all, so this is how long a frame may wait at those that are not
/// slept on. As long as an idle worker polls on by default, and about what a kernel's timer is late anyway.
const SLICE_NS: u64 = 50_000;

/// A driver's place in this struct; the order of preference is [`Transports::order`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// RDMA, to peers that have a lane.
    Verbs,
    /// DPDK, into the networks of its ports and behind their gateways.
    Dpdk,
    /// XDP sockets, to neighbours of their interfaces that are known.
    Afxdp,
    /// Sockets, to everybody.
    Uring,
}

/// Does something with the queue of a kind, each of its own type; nothing where it is not there.
macro_rules! with_queue {
    ($selector:ident, $kind:expr, $queue:ident => $what:expr) => {
        match $kind {
            Kind::Verbs => $selector.verbs.as_mut().map_or_else(Default::default, |$queue| $what),
            Kind::Dpdk => $selector.dpdk.as_mut().map_or_else(Default::default, |$queue| $what),
            Kind::Afxdp => $selector.afxdp.as_mut().map_or_else(Default::default, |$queue| $what),
            Kind::Uring => $selector.uring.as_mut().map_or_else(Default::default, |$queue| $what),
        }
    };
}

/// A queue that can say whom it reaches.
pub(crate) trait Reach {
    /// Whether frames to this destination may be given to it.
    fn reaches(&self, to: &Endpoint) -> bool;
}

/// Everything that one worker opens its queue with, on its own thread.
#[derive(Debug)]
pub(crate) struct Transports<V, D, X, U> {
    /// Those that are there, in order of preference; at least one.
    pub(crate) order: Vec<Kind>,
    pub(crate) verbs: Option<V>,
    pub(crate) dpdk: Option<D>,
    pub(crate) afxdp: Option<X>,
    pub(crate) uring: Option<U>,
}

/// See the module.
pub(crate) struct TransportSelector<V, D, X, U> {
    verbs: Option<V>,
    dpdk: Option<D>,
    afxdp: Option<X>,
    uring: Option<U>,
    /// The only one there is.
    only: Option<Kind>,
    /// In order of preference, of which the first `count` count.
    order: [Kind; KINDS],
    count: usize,
    /// The place that is asked first this turn.
    first: usize,
    /// What was taken and its driver did not take yet, by place.
    staged: Box<[TxBatch; KINDS]>,
    /// How many those are.
    waiting: usize,
    /// What ended here and was not fetched.
    ended: Box<CompletionBatch>,
}

impl<V: Port, D: Port, X: Port, U: Port> Port for Transports<V, D, X, U>
where
    V::Queue: Reach,
    D::Queue: Reach,
    X::Queue: Reach,
    U::Queue: Reach,
{
    type Queue = TransportSelector<V::Queue, D::Queue, X::Queue, U::Queue>;

    fn open(&mut self, shards: &[u16], pool: &mut Pool) -> Result<Self::Queue, PortError> {
        // DPDK and AF_XDP first: they know every buffer of the worker, also those that others then hold.
        let dpdk = self.dpdk.as_mut().map(|port| port.open(shards, pool)).transpose()?;
        let afxdp = self.afxdp.as_mut().map(|port| port.open(shards, pool)).transpose()?;
        let verbs = self.verbs.as_mut().map(|port| port.open(shards, pool)).transpose()?;
        let uring = self.uring.as_mut().map(|port| port.open(shards, pool)).transpose()?;
        Ok(TransportSelector::new(&self.order, verbs, dpdk, afxdp, uring))
    }

    fn info(&self) -> PortInfo {
        let infos = [
            self.verbs.as_ref().map(V::info),
            self.dpdk.as_ref().map(D::info),
            self.afxdp.as_ref().map(X::info),
            self.uring.as_ref().map(U::info),
        ];
        let mut infos: Vec<PortInfo> = infos.into_iter().flatten().collect();
        if infos.len() == 1 {
            return infos.remove(0);
        }
        PortInfo {
            driver: "several",
            device: infos.iter().map(|info| info.device.as_str()).collect::<Vec<_>>().join(", "),
            frame_bytes_max: infos.iter().map(|info| info.frame_bytes_max).min().unwrap_or(0),
            degraded: infos.into_iter().flat_map(|info| info.degraded).collect(),
        }
    }
}

impl<V, D, X, U> TransportSelector<V, D, X, U>
where
    V: RxQueue + TxQueue + Reach,
    D: RxQueue + TxQueue + Reach,
    X: RxQueue + TxQueue + Reach,
    U: RxQueue + TxQueue + Reach,
{
    /// The queues of those kinds that are there; `order` names exactly these.
    fn new(order: &[Kind], verbs: Option<V>, dpdk: Option<D>, afxdp: Option<X>, uring: Option<U>) -> Self {
        let is_there = |kind: &Kind| match kind {
            Kind::Verbs => verbs.is_some(),
            Kind::Dpdk => dpdk.is_some(),
            Kind::Afxdp => afxdp.is_some(),
            Kind::Uring => uring.is_some(),
        };
        let mut places = [Kind::Uring; KINDS];
        let mut count = 0;
        for (place, kind) in places.iter_mut().zip(order.iter().filter(|kind| is_there(kind))) {
            *place = *kind;
            count += 1;
        }
        let only = if count == 1 { Some(places[0]) } else { None };
        let (first, staged, waiting, ended) = (0, Box::default(), 0, Box::default());
        Self { verbs, dpdk, afxdp, uring, only, order: places, count, first, staged, waiting, ended }
    }

    /// The place of the driver that a frame goes by.
    #[inline]
    fn place(&self, to: &Endpoint) -> usize {
        let last = self.count - 1;
        let reaches = |kind: &Kind| match kind {
            Kind::Verbs => self.verbs.as_ref().is_some_and(|queue| queue.reaches(to)),
            Kind::Dpdk => self.dpdk.as_ref().is_some_and(|queue| queue.reaches(to)),
            Kind::Afxdp => self.afxdp.as_ref().is_some_and(|queue| queue.reaches(to)),
            Kind::Uring => self.uring.as_ref().is_some_and(|queue| queue.reaches(to)),
        };
        self.order[..last].iter().position(reaches).unwrap_or(last)
    }

    #[inline]
    fn send(&mut self, kind: Kind, from: &mut TxBatch) -> usize {
        with_queue!(self, kind, queue => queue.tx_burst(from))
    }

    #[inline]
    fn receive(&mut self, kind: Kind, pool: &mut Pool, into: &mut RxBatch) -> usize {
        with_queue!(self, kind, queue => queue.rx_burst(pool, into))
    }

    #[inline]
    fn complete(&mut self, kind: Kind, into: &mut CompletionBatch) -> usize {
        with_queue!(self, kind, queue => queue.completions(into))
    }

    fn rest(&mut self, kind: Kind, ns: u64) {
        with_queue!(self, kind, queue => queue.wait(ns))
    }

    /// Hands on what waits, as far as it is taken.
    #[inline]
    fn flush(&mut self) {
        if self.waiting == 0 {
            return;
        }
        for place in 0..self.count {
            if self.staged[place].is_empty() {
                continue;
            }
            let line = &mut self.staged[place];
            self.waiting -= with_queue!(self, self.order[place], queue => queue.tx_burst(line));
        }
    }

    /// Sorts items into the lines of their drivers, and ends what finds its line full, up to the first that can neither wait nor
    /// end; returns how many.
    #[inline]
    fn stage(&mut self, from: &mut TxBatch, places: &[usize; BURST_MAX]) -> usize {
        let mut room = [0; KINDS];
        for (room, line) in room.iter_mut().zip(self.staged.iter()) {
            *room = line.remaining_capacity();
        }
        // Whoever does not fetch what ended gets nothing more taken that would end.
        let (last, mut ends) = (self.count - 1, self.ended.remaining_capacity());
        let mut count = 0;
        for place in &places[..from.len()] {
            let left = if room[*place] > 0 || *place == last { &mut room[*place] } else { &mut ends };
            if *left == 0 {
                break;
            }
            *left -= 1;
            count += 1;
        }
        for (item, place) in from.drain(..count).zip(places) {
            let line = &mut self.staged[*place];
            if line.is_full() {
                let error = Some(Reason::TxCongestion);
                self.ended.push(Completion { token: item.token, buffer: item.buffer, error });
            } else {
                line.push(item);
                self.waiting += 1;
            }
        }
        count
    }
}

impl<V, D, X, U> RxQueue for TransportSelector<V, D, X, U>
where
    V: RxQueue + TxQueue + Reach,
    D: RxQueue + TxQueue + Reach,
    X: RxQueue + TxQueue + Reach,
    U: RxQueue + TxQueue + Reach,
{
    #[inline]
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        if let Some(kind) = self.only {
            return self.receive(kind, pool, into);
        }
        self.flush();
        // Begins with another one each time, so that none fills every batch.
        self.first = if self.first + 1 < self.count { self.first + 1 } else { 0 };
        let mut count = 0;
        for place in (self.first..self.count).chain(0..self.first) {
            count += self.receive(self.order[place], pool, into);
        }
        count
    }

    fn wait(&mut self, ns: u64) {
        if let Some(kind) = self.only {
            return self.rest(kind, ns);
        }
        self.flush();
        let last = self.count - 1;
        for place in 0..last {
            self.rest(self.order[place], 0);
        }
        // The last one sleeps for all: usually sockets, which wake a worker.
        let ns = if self.waiting > 0 || !self.ended.is_empty() { 0 } else { ns.min(SLICE_NS) };
        self.rest(self.order[last], ns);
    }

    fn stats(&self) -> QueueStats {
        let all = [
            self.verbs.as_ref().map(RxQueue::stats),
            self.dpdk.as_ref().map(RxQueue::stats),
            self.afxdp.as_ref().map(RxQueue::stats),
            self.uring.as_ref().map(RxQueue::stats),
        ];
        let mut sum = QueueStats::default();
        for stats in all.into_iter().flatten() {
            sum.syscalls += stats.syscalls;
            sum.overflow += stats.overflow;
            sum.starved += stats.starved;
        }
        sum
    }

    #[inline]
    fn held(&self) -> usize {
        self.verbs.as_ref().map_or(0, RxQueue::held)
            + self.dpdk.as_ref().map_or(0, RxQueue::held)
            + self.afxdp.as_ref().map_or(0, RxQueue::held)
            + self.uring.as_ref().map_or(0, RxQueue::held)
            + self.waiting
            + self.ended.len()
    }
}

impl<V, D, X, U> TxQueue for TransportSelector<V, D, X, U>
where
    V: RxQueue + TxQueue + Reach,
    D: RxQueue + TxQueue + Reach,
    X: RxQueue + TxQueue + Reach,
    U: RxQueue + TxQueue + Reach,
{
    #[inline]
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        if let Some(kind) = self.only {
            return self.send(kind, from);
        }
        self.flush();
        let Some(first) = from.first().map(|item| self.place(&item.destination)) else { return 0 };
        let mut places = [first; BURST_MAX];
        let mut are_alike = true;
        for (item, place) in from.iter().zip(&mut places).skip(1) {
            *place = self.place(&item.destination);
            are_alike &= *place == first;
        }
        // All for one that owes nothing: it takes them from where they are.
        if are_alike && self.staged[first].is_empty() {
            let count = self.send(self.order[first], from);
            return count + self.stage(from, &places);
        }
        let count = self.stage(from, &places);
        self.flush();
        count
    }

    #[inline]
    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        if let Some(kind) = self.only {
            return self.complete(kind, into);
        }
        let mut count = self.ended.len().min(into.remaining_capacity());
        into.extend(self.ended.drain(..count));
        for place in (self.first..self.count).chain(0..self.first) {
            if into.is_full() {
                break;
            }
            count += self.complete(self.order[place], into);
        }
        count
    }
}

#[cfg(test)]
#[cfg(feature = "verbs")]
mod lane_tests;
#[cfg(test)]
mod tests;
