//! What goes between a worker and the cold side, one ring each way, and the counts that the worker keeps for people.
//!
//! The cold side makes everything and destroys everything. A worker gets a queue pair, a ring or a way to a peer by an
//! order, and gives it back by news once nothing of it is in flight; until then the handle keeps the object alive.

use crate::{
    device::{Device, Secret, Status},
    ring::{Reader, Writer},
};
use core::sync::atomic::{AtomicU64, Ordering};
use rtrb::{Consumer, Producer, RingBuffer};
use tachyon_wire::Endpoint;

/// Time between two beats, by which workers, who have no clock, see that something does not go on.
pub(crate) const BEAT_NS: u64 = 100_000_000;

/// What the cold side tells a worker.
#[derive(Debug)]
pub(crate) enum Order<D: Device> {
    /// A destination and the port numbers after it are reached like this from now on; the lane is a free one.
    Route { to: Endpoint, ports: u16, lane: u16, by: Lane<D::Address> },
    /// They are reached no more; the lane comes back by [`News::LaneFree`].
    Forget { to: Endpoint, ports: u16, lane: u16 },
    /// A further destination is reached by a lane.
    Name { name: Endpoint, lane: u16 },
    /// It no longer is.
    Unname { name: Endpoint },
    /// A queue pair is connected and may be used.
    Ready { pair: u16, handle: D::Pair, qpn: u32, peer: Endpoint, out: Option<Writer>, into: Option<Reader<D::Ring>> },
    /// A queue pair is in error since now at the latest: send nothing more on it, and read what it had to tell.
    Stop { pair: u16 },
    /// A queue pair was reset: what is still in flight on it will not complete.
    Reset { pair: u16 },
    /// Some time has passed: see [`BEAT_NS`].
    Beat,
}

/// How a destination is reached.
#[derive(Debug)]
pub(crate) enum Lane<A> {
    /// By datagrams, on queue pair 0.
    Datagram { address: A, qpn: u32, qkey: Secret<u32> },
    /// By sends on a connected queue pair, or by writes if its peer has a ring.
    Connected { pair: u16 },
}

/// What a worker tells the cold side.
#[derive(Debug)]
pub(crate) enum News<D: Device> {
    /// A queue pair is in error since this.
    Failed { pair: u16, status: Status },
    /// All that a stopped queue pair had to tell was read, and nothing of it is in flight, or the device is not going to say so.
    Drained { pair: u16 },
    /// A reset queue pair is forgotten; its ring may be unregistered.
    Cleared { pair: u16, handle: Option<D::Pair>, ring: Option<D::Ring> },
    /// A lane is free, and nothing that used its address is in flight.
    LaneFree { lane: u16, address: Option<D::Address> },
}

/// The worker's ends.
#[derive(Debug)]
pub(crate) struct WorkerWires<D: Device> {
    pub(crate) orders: Consumer<Order<D>>,
    pub(crate) news: Producer<News<D>>,
}

/// The cold side's ends.
#[derive(Debug)]
pub(crate) struct DeskWires<D: Device> {
    pub(crate) orders: Producer<Order<D>>,
    pub(crate) news: Consumer<News<D>>,
}

pub(crate) fn wires<D: Device>(pairs: usize, lanes: usize) -> (WorkerWires<D>, DeskWires<D>) {
    let (orders_in, orders) = RingBuffer::new(256);
    // A pair tells at most three things and a lane one before the cold side acts on them, so news always find room.
    let (news, news_out) = RingBuffer::new(4 * pairs + lanes);
    (WorkerWires { orders, news }, DeskWires { orders: orders_in, news: news_out })
}

/// What a worker refused, by cause, and what else people ask for. Written by that worker alone.
#[derive(Debug, Default)]
#[repr(align(128))]
pub(crate) struct Counts([AtomicU64; Count::ALL.len()]);

/// See [`Counts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Count {
    NoImmediate,
    BadImmediate,
    BadRouteHeader,
    Empty,
    NoConnection,
    RingBroken,
    CreditsBroken,
    ReceiveFailed,
    Unreachable,
    Congested,
    Stalled,
    Silent,
    PairsFailed,
}

impl Count {
    pub(crate) const ALL: [(Self, &str); 13] = [
        (Self::NoImmediate, "refused_no_immediate"),
        (Self::BadImmediate, "refused_bad_immediate"),
        (Self::BadRouteHeader, "refused_bad_route_header"),
        (Self::Empty, "refused_empty"),
        (Self::NoConnection, "refused_no_connection"),
        (Self::RingBroken, "refused_ring_broken"),
        (Self::CreditsBroken, "refused_credits_broken"),
        (Self::ReceiveFailed, "receives_failed"),
        (Self::Unreachable, "items_unreachable"),
        (Self::Congested, "items_congested"),
        (Self::Stalled, "items_stalled"),
        (Self::Silent, "pairs_silent"),
        (Self::PairsFailed, "pairs_failed"),
    ];
}

impl Counts {
    /// Adds to a count that only the calling thread writes.
    #[cold]
    pub(crate) fn add(&self, count: Count) {
        let count = &self.0[count as usize];
        count.store(count.load(Ordering::Relaxed).wrapping_add(1), Ordering::Relaxed);
    }

    pub(crate) fn get(&self, count: Count) -> u64 {
        self.0[count as usize].load(Ordering::Relaxed)
    }
}
