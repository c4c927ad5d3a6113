//! What goes between a worker and the cold side: sockets to use or to give up, and who is where.

use crate::{
    resolver::News,
    socket::{Socket, SocketPlan},
};
use rtrb::{Consumer, Producer, RingBuffer};
use std::{
    collections::{BTreeSet, VecDeque},
    os::fd::OwnedFd,
    sync::Arc,
};
use tachyon_driver_ether::Interface;
use tachyon_wire::Reason;

/// Orders that may wait; the cold side gives each port one at a time.
const ORDERS: usize = 64;
/// Destinations that may wait to be asked for; whoever is left out is noted again with the next copy for it.
const WANTED: usize = 64;
/// News that a worker has not taken yet; more wait with the cold side, because each change is told once.
const NEWS: usize = 4_096;
/// News that wait with the cold side before those that newer ones replaced are left out.
const LATE: usize = 4 * NEWS;

/// What the cold side tells a worker to do. Nothing in it is on the heap, as no worker may free that.
#[derive(Debug)]
pub(crate) enum Order {
    /// Use this socket for this port.
    Attach(u8, Socket),
    /// Give up this port's socket.
    Detach(u8),
    /// That socket is closed, so what it had is the worker's again; what it had to send ends for this reason.
    Closed(u8, Reason),
    /// The port is now this on the network, and frames may be sent there or not.
    Renew(u8, Interface, bool),
}

/// What a worker answers.
#[derive(Debug)]
pub(crate) enum Answer {
    /// It opened this port as planned; with which socket, and whether that is zero copy, if the interface was there.
    Opened(u8, SocketPlan, Option<(Arc<OwnedFd>, bool)>),
    /// It no longer uses this socket, if it had one.
    Returned(u8, Option<Socket>),
}

/// The worker's ends.
#[derive(Debug)]
pub(crate) struct WorkerWires {
    pub(crate) orders: Consumer<Order>,
    pub(crate) answers: Producer<Answer>,
    /// Destinations that no way is known to, as in `Endpoint::ip`.
    pub(crate) wanted: Producer<[u8; 16]>,
    pub(crate) news: Consumer<News>,
}

impl WorkerWires {
    /// Whether the cold side sent something.
    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        !self.orders.is_empty() || !self.news.is_empty()
    }
}

/// The cold side's ends.
#[derive(Debug)]
pub(crate) struct DeskWires {
    orders: Producer<Order>,
    pub(crate) answers: Consumer<Answer>,
    pub(crate) wanted: Consumer<[u8; 16]>,
    news: Producer<News>,
    /// What found no room in the ring, oldest first.
    late: VecDeque<News>,
}

impl DeskWires {
    /// Whether there still is a worker at the other end.
    pub(crate) fn is_alive(&self) -> bool {
        !self.orders.is_abandoned()
    }

    /// Gives an order; false if there is no room now, and then nothing happened.
    pub(crate) fn order(&mut self, order: Order) -> bool {
        self.orders.push(order).is_ok()
    }

    /// Tells the worker these, after those that it was not told yet.
    pub(crate) fn tell(&mut self, news: &[News]) {
        if !self.is_alive() {
            self.late.clear();
            return;
        }
        self.late.extend(news);
        while let Some(one) = self.late.pop_front() {
            if self.news.push(one).is_err() {
                self.late.push_front(one);
                break;
            }
        }
        if self.late.len() > LATE {
            let mut seen = BTreeSet::new();
            let last: Vec<News> = self.late.drain(..).rev().filter(|one| seen.insert(one.destination())).collect();
            self.late.extend(last.into_iter().rev());
        }
    }
}

pub(crate) fn wires() -> (WorkerWires, DeskWires) {
    let (orders_in, orders) = RingBuffer::new(ORDERS);
    let (answers, answers_out) = RingBuffer::new(ORDERS);
    let (wanted, wanted_out) = RingBuffer::new(WANTED);
    let (news_in, news) = RingBuffer::new(NEWS);
    let desk =
        DeskWires { orders: orders_in, answers: answers_out, wanted: wanted_out, news: news_in, late: VecDeque::new() };
    (WorkerWires { orders, answers, wanted, news }, desk)
}
