//! The queue that a worker polls: one socket for each port of the node.
//!
//! Receiving hands the engine the buffer that the kernel or the device filled and gives the kernel a free one for it. Sending
//! puts the headers into the room before the frame, so a packet is one piece; where that room holds received bytes, or a
//! buffer holds several frames, headers get memory of their own. A sent buffer comes back when the kernel is done with it.

use crate::{
    buffers::{Buffers, Layout},
    calls,
    lane::{Lane, Seat, Staged, next_of},
    resolver::News,
    shared::{PORTS_MAX, Shared, add},
    wires::{Answer, Order, WorkerWires},
};
use arrayvec::ArrayVec;
use std::{collections::VecDeque, os::fd::AsRawFd, sync::Arc};
use tachyon_driver_api::{
    BURST_MAX, Buffer, Completion, CompletionBatch, Pool, QueueStats, RxBatch, RxQueue, Transmit, TxBatch, TxQueue,
};
use tachyon_driver_ether::{Hop, Neighbours, Network};
use tachyon_wire::{Endpoint, Reason};

/// Most packets of one port in one turn where there are several, so that none waits for another's flood.
const SHARE: usize = 32;
/// Turns between looks at what the cold side sent, when there is never a quiet one.
const CHORE_TURNS: u32 = 1_024;
/// Longest sleep while something is on its way out, because nothing wakes us when it is done.
const FLIGHT_NS: u64 = 50_000;

/// Both directions of one worker's queues.
#[derive(Debug)]
pub struct AfxdpQueue {
    pub(crate) worker: u16,
    pub(crate) lanes: ArrayVec<Lane, PORTS_MAX>,
    pub(crate) buffers: Buffers,
    neighbours: Neighbours,
    shared: Arc<Shared>,
    pub(crate) wires: WorkerWires,
    base_port: u16,
    /// Whether each shard is this worker's.
    shards: Box<[bool]>,
    /// The port that is asked first next time, and the one that is looked at first for a call.
    next: usize,
    next_wake: usize,
    turns: u32,
    /// Items that ended here: number, token and reason.
    done: VecDeque<(u32, u32, Option<Reason>)>,
    /// Buffers of another pool, which cannot be sent.
    strange: ArrayVec<Completion, BURST_MAX>,
    /// Free buffers to keep for copies, where a socket takes one piece only.
    reserve: usize,
    syscalls: u64,
    starved: u64,
    /// The kernel was called in this turn already.
    woken: bool,
}

/// What a queue is made of.
pub(crate) struct Parts {
    pub(crate) worker: u16,
    pub(crate) lanes: ArrayVec<Lane, PORTS_MAX>,
    pub(crate) buffers: Buffers,
    pub(crate) neighbours: usize,
    pub(crate) shared: Arc<Shared>,
    pub(crate) wires: WorkerWires,
    pub(crate) base_port: u16,
    pub(crate) shards: Box<[bool]>,
}

impl AfxdpQueue {
    pub(crate) fn new(parts: Parts) -> Self {
        let Parts { worker, lanes, buffers, neighbours, shared, wires, base_port, shards } = parts;
        let count = buffers.layout().count() as usize;
        let mut queue = Self {
            worker,
            lanes,
            buffers,
            neighbours: Neighbours::new(neighbours),
            shared,
            wires,
            base_port,
            shards,
            next: 0,
            next_wake: 0,
            turns: 0,
            // Each entry has a buffer of its own, so there can be no more.
            done: VecDeque::with_capacity(count),
            strange: ArrayVec::new(),
            reserve: 0,
            syscalls: 0,
            starved: 0,
            woken: false,
        };
        queue.set_reserve();
        queue
    }

    fn set_reserve(&mut self) {
        let copies = self.lanes.iter().any(|lane| lane.socket.as_ref().is_some_and(|socket| !socket.pieces));
        self.reserve = if copies { BURST_MAX } else { 0 };
    }

    /// Gives the kernel what it needs to receive, and the worker what is left.
    #[inline]
    pub(crate) fn refill(&mut self, pool: &mut Pool) {
        let mut enough = true;
        for lane in &mut self.lanes {
            enough &= lane.refill(&mut self.buffers, pool);
        }
        self.starved += u64::from(!enough);
        while self.buffers.spares() > self.reserve
            && let Some(number) = self.buffers.take_spare()
        {
            pool.put(self.buffers.hand_out(number));
        }
        while self.buffers.spares() < self.reserve
            && let Some(number) = next_of(pool, &mut self.buffers)
        {
            self.buffers.put_spare(number);
        }
    }

    /// Whether a frame to this destination would leave: its neighbour is known, and the port it is at can send.
    #[inline]
    #[must_use]
    pub fn reaches(&self, to: &Endpoint) -> bool {
        let lane = self.neighbours.peek(&to.ip).and_then(|hop| self.lanes.get(usize::from(hop.port())));
        lane.is_some_and(Lane::can_send)
    }

    /// Calls the kernel once, if one of the sockets wants it.
    #[inline]
    fn wake(&mut self) {
        let count = self.lanes.len();
        for _ in 0..count {
            let index = self.next_wake;
            self.next_wake = if index + 1 >= count { 0 } else { index + 1 };
            if self.lanes[index].wake() {
                self.syscalls += 1;
                return;
            }
        }
    }

    /// Takes an item over; false if there is no room for it now, and then nothing happened.
    #[inline]
    fn stage(&mut self, item: &Transmit) -> bool {
        let Some(number) = self.buffers.number_of(&item.buffer) else { return self.refuse_strange(item) };
        let Some(hop) = self.neighbours.get(&item.destination.ip) else {
            add(&self.shared.worker(self.worker).unreachable);
            // A neighbour that was away, or the sender of a frame that is answered: nobody else says that it is sent to.
            let _ = self.wires.wanted.push(item.destination.ip);
            return self.end(number, item.token, Some(Reason::TxSubmitFail));
        };
        let Some(lane) = self.lanes.get_mut(usize::from(hop.port())).filter(|lane| lane.can_send()) else {
            return self.end(number, item.token, Some(Reason::TxSubmitFail));
        };
        let source_port = self.base_port.wrapping_add(item.shard);
        let seat = Seat { worker: self.worker, shared: &self.shared, shards: &self.shards };
        match lane.stage(seat, &mut self.buffers, hop, source_port, (number, item)) {
            Staged::Taken => true,
            Staged::Copied => {
                self.done.push_back((number, item.token, None));
                true
            }
            Staged::NoRoom => false,
            Staged::Impossible => self.end(number, item.token, Some(Reason::TxSubmitFail)),
        }
    }

    /// Ends an item that the kernel never got.
    #[cold]
    fn end(&mut self, number: u32, token: u32, error: Option<Reason>) -> bool {
        self.buffers.accept(number);
        self.done.push_back((number, token, error));
        true
    }

    #[cold]
    fn refuse_strange(&mut self, item: &Transmit) -> bool {
        if self.strange.is_full() {
            return false;
        }
        // SAFETY: `tx_burst` forgets the item, so this is the only owner of its range.
        let buffer = unsafe { Buffer::from_raw(item.buffer.address(), item.buffer.capacity(), item.buffer.index()) };
        self.strange.push(Completion { token: item.token, buffer, error: Some(Reason::TxSubmitFail) });
        true
    }

    /// What the cold side ordered, and neighbours that were found or lost.
    #[cold]
    fn chores(&mut self) {
        self.turns = 0;
        while let Ok(order) = self.wires.orders.pop() {
            self.obey(order);
        }
        while let Ok(news) = self.wires.news.pop() {
            match news {
                News::Reached { to, port, mac, source } => {
                    let Some(lane) = self.lanes.get(usize::from(port)) else { continue };
                    // The kernel chose the source, so that is the only address of ours to choose from.
                    let mut from = lane.interface.clone();
                    from.networks.clear();
                    from.networks.push(Network { ip: source, prefix: 0, gateway: None });
                    if let Some(hop) = Hop::new(&from, port, mac, tachyon_driver_ether::address(&to)) {
                        self.neighbours.set(to, hop);
                    }
                }
                News::Lost { to } => self.neighbours.remove(&to),
            }
        }
    }

    fn obey(&mut self, order: Order) {
        let (Order::Attach(port, _) | Order::Detach(port) | Order::Closed(port, _) | Order::Renew(port, ..)) = order;
        let Some(lane) = self.lanes.get_mut(usize::from(port)) else { return };
        match order {
            Order::Attach(_, socket) => lane.attach(socket, &self.buffers),
            Order::Detach(_) => {
                // The cold side gives each port one order at a time, so there is room.
                let _ = self.wires.answers.push(Answer::Returned(port, lane.socket.take()));
            }
            Order::Closed(_, reason) => {
                let done = &mut self.done;
                lane.closed(&mut self.buffers, |number, token| {
                    done.push_back((number, token, Some(reason)));
                });
            }
            Order::Renew(_, interface, can_send) => lane.renew(interface, can_send, &self.buffers),
        }
        self.set_reserve();
    }

    /// Ends everything and gives every buffer back to `pool`; the kernel has none any more, because all sockets are closed.
    pub(crate) fn surrender(&mut self, pool: &mut Pool) {
        for lane in &mut self.lanes {
            lane.closed(&mut self.buffers, |number, token| {
                self.done.push_back((number, token, Some(Reason::TxSubmitFail)));
            });
        }
        for (number, _, _) in self.done.drain(..) {
            pool.put(self.buffers.hand_out(number));
        }
        while let Some(number) = self.buffers.take_spare() {
            pool.put(self.buffers.hand_out(number));
        }
        self.buffers.give_up_headers(pool);
        self.strange.drain(..).for_each(|completion| pool.put(completion.buffer));
    }

    /// How the buffers lie.
    pub(crate) const fn layout(&self) -> &Layout {
        self.buffers.layout()
    }
}

impl RxQueue for AfxdpQueue {
    #[inline]
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        // First, so that busy polling finds its packets in the same turn.
        if !core::mem::take(&mut self.woken) {
            self.wake();
        }
        let count = self.lanes.len();
        let most = if count == 1 { BURST_MAX } else { SHARE };
        let mut got = 0;
        for _ in 0..count {
            let room = into.remaining_capacity();
            if room == 0 {
                break; // before the next port's turn is taken from it, or two that are flooded would keep a third out
            }
            let index = self.next;
            self.next = if index + 1 >= count { 0 } else { index + 1 };
            let seat = Seat { worker: self.worker, shared: &self.shared, shards: &self.shards };
            got += self.lanes[index].receive(seat, &mut self.buffers, most.min(room), into);
        }
        self.turns += 1;
        if got == 0 || self.turns >= CHORE_TURNS {
            if self.wires.has_work() {
                self.chores();
            }
            self.turns = 0;
        }
        self.refill(pool);
        got
    }

    fn wait(&mut self, ns: u64) {
        self.chores();
        let mut ns = ns;
        let mut sockets: ArrayVec<libc::pollfd, PORTS_MAX> = ArrayVec::new();
        for lane in &self.lanes {
            if lane.in_flight() > 0 {
                ns = ns.min(FLIGHT_NS);
            }
            if let Some(socket) = &lane.socket {
                sockets.push(libc::pollfd { fd: socket.fd().as_raw_fd(), events: libc::POLLIN, revents: 0 });
            }
        }
        if ns > 0 {
            calls::wait(&mut sockets, ns);
            self.syscalls += 1;
        }
    }

    fn stats(&self) -> QueueStats {
        QueueStats { syscalls: self.syscalls, overflow: self.shared.missed(self.worker), starved: self.starved }
    }

    fn held(&self) -> usize {
        self.buffers.held() + self.strange.len()
    }
}

impl TxQueue for AfxdpQueue {
    #[inline]
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        let mut taken = 0;
        while taken < from.len() && self.stage(&from[taken]) {
            taken += 1;
        }
        for lane in &mut self.lanes {
            lane.publish();
        }
        if taken == from.len() {
            from.clear(); // A `Buffer` has no `Drop`: what was taken is in the books of `buffers` now.
        } else {
            from.drain(..taken).for_each(drop);
            if taken == 0 && !self.woken {
                self.wake(); // the ring is full, and may be drained by a call only
                self.woken = true;
            }
        }
        taken
    }

    #[inline]
    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        let before = into.len();
        let seat = Seat { worker: self.worker, shared: &self.shared, shards: &self.shards };
        for lane in &mut self.lanes {
            lane.complete(&mut self.buffers, into);
            lane.show_progress(seat);
        }
        add(&self.shared.worker(self.worker).looks);
        while !into.is_full()
            && let Some((number, token, error)) = self.done.pop_front()
        {
            into.push(Completion { token, buffer: self.buffers.hand_out(number), error });
        }
        while !into.is_full()
            && let Some(completion) = self.strange.pop()
        {
            into.push(completion);
        }
        into.len() - before
    }
}
