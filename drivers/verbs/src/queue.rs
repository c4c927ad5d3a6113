//! The queue that a worker polls: one completion queue, one shared receive queue, one queue pair for datagrams and one per
//! connected peer; nothing of it is shared with another worker.
//!
//! Receiving hands the engine the buffer that the device wrote into and posts a free one for it; of a ring, the frame is
//! copied into the buffer whose receive the write used up, because the peer may write into the ring again. Sending posts
//! frames where they are. Items wait in the driver for room on their queue pair or in their peer's ring, each destination for
//! itself.

use crate::{
    device::{Completed, CompletedBatch, Device, RECEIVE, Status},
    flight::Flight,
    names::span,
    receives::{ROUTE_HEADER_BYTES, Receives, sender},
    ring::Said,
    sending::{Beaten, Flushed, LaneState, Limits, Sending, State, Tools},
    table::Table,
    wires::{Count, Counts, Lane, News, Order, WorkerWires},
};
use std::{collections::VecDeque, sync::Arc};
use tachyon_driver_api::{
    Buffer, Completion, CompletionBatch, Pool, QueueStats, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue,
};
use tachyon_wire::{Endpoint, Reason};

/// Room in front of a frame that came through a ring: its buffer is ours alone then, so it starts on a line.
const RING_OFFSET: u32 = 0;

/// Both directions of one worker's queues.
#[derive(Debug)]
pub struct VerbsQueue<D: Device> {
    pub(crate) device: D,
    pub(crate) receives: Receives,
    pub(crate) pairs: Vec<Sending<D>>,
    pub(crate) lanes: Vec<LaneState<D::Address>>,
    pub(crate) destinations: Table<Endpoint>,
    pub(crate) by_qpn: Table<u32>,
    pub(crate) flight: Flight,
    /// What ended and was not fetched.
    pub(crate) done: VecDeque<Completion>,
    /// What arrived and was not fetched.
    pub(crate) arrived: VecDeque<Received>,
    /// Queue pairs with something to post.
    pub(crate) listed: Vec<u16>,
    /// Queue pairs with a ring of ours.
    pub(crate) readers: Vec<u16>,
    /// Stopped queue pairs that are not read out yet, and lanes that nobody may use any more.
    pub(crate) draining: Vec<u16>,
    pub(crate) retiring: Vec<u16>,
    pub(crate) wires: WorkerWires<D>,
    pub(crate) counts: Arc<Counts>,
    pub(crate) limits: Limits,
    pub(crate) items_per_lane_max: u32,
    /// Completions that there can be at once.
    pub(crate) completions_max: u32,
    pub(crate) frame_bytes_max: u32,
    pub(crate) shard_count: u16,
    pub(crate) v4: bool,
    pub(crate) starved: u64,
    /// A beat came and was not heeded yet.
    pub(crate) beat: bool,
}

macro_rules! tools {
    ($queue:ident) => {
        Tools {
            device: &mut $queue.device,
            flight: &mut $queue.flight,
            lanes: &mut $queue.lanes,
            done: &mut $queue.done,
            limits: $queue.limits,
        }
    };
}

impl<D: Device> VerbsQueue<D> {
    /// Whether a destination has a lane. While that fails and may come back it still has.
    #[inline]
    #[must_use]
    pub fn reaches(&self, to: &Endpoint) -> bool {
        self.destinations.get(to).is_some()
    }

    /// Takes an item: into the line of its destination, or to its end.
    #[inline]
    fn accept(&mut self, item: Transmit) {
        let Some(lane) = self.destinations.get(&item.destination) else {
            self.counts.add(Count::Unreachable);
            return self.end(item, Reason::TxSubmitFail);
        };
        let state = &mut self.lanes[usize::from(lane)];
        let pair = match state.by {
            Some(Lane::Connected { pair }) => pair,
            _ => 0,
        };
        let sending = &mut self.pairs[usize::from(pair)];
        let most =
            sending.out.as_ref().map_or(self.frame_bytes_max, |ring| ring.slot_bytes().min(self.frame_bytes_max));
        let end = u64::from(item.offset) + u64::from(item.len);
        let fits = item.len > 0 && item.stride > 0 && item.stride.min(item.len) <= most;
        if !fits || end > u64::from(item.buffer.capacity()) {
            return self.end(item, Reason::TxSubmitFail);
        }
        if sending.state != State::Ready {
            return self.end(item, Reason::TxQpReset);
        }
        if state.items >= self.items_per_lane_max {
            self.counts.add(Count::Congested);
            return self.end(item, Reason::TxCongestion);
        }
        state.items += 1;
        sending.add(&mut self.flight, item, lane);
        if !sending.listed {
            sending.listed = true;
            self.listed.push(pair);
        }
    }

    #[cold]
    fn end(&mut self, item: Transmit, reason: Reason) {
        self.done.push_back(Completion { token: item.token, buffer: item.buffer, error: Some(reason) });
    }

    /// Posts what is pending, on every queue pair that has something.
    #[inline]
    fn flush(&mut self) {
        let mut at = 0;
        while at < self.listed.len() {
            let pair = self.listed[at];
            let sending = &mut self.pairs[usize::from(pair)];
            let flushed = sending.flush(pair, &mut tools!(self));
            if flushed == Flushed::Waiting {
                at += 1;
                continue;
            }
            sending.listed = false;
            self.listed.swap_remove(at);
            match flushed {
                Flushed::Refused => self.failed(pair, Status::Fault(u32::MAX)),
                Flushed::Empty | Flushed::Waiting => {}
            }
        }
    }

    /// Fetches completions once and sorts them.
    #[inline]
    fn poll(&mut self) {
        let mut batch = CompletedBatch::new();
        if self.arrived.capacity() - self.arrived.len() < batch.capacity() {
            return; // whoever does not fetch what arrived gets nothing more
        }
        self.device.poll(&mut batch);
        if !self.draining.is_empty() {
            self.has_read(batch.len() as u32, batch.is_full());
        }
        // After the poll: a peer sends only once our side was told to be ready, so the order for what arrived is there by now.
        if !self.wires.orders.is_empty() {
            self.obey_all();
        }
        for completed in &batch {
            if completed.id & RECEIVE != 0 {
                self.arrive(completed);
                continue;
            }
            let pair = (completed.id >> 32) as u16;
            let Some(sending) = self.pairs.get_mut(usize::from(pair)) else { continue };
            if let Some(status) = sending.settle(completed.id, completed.status, &mut tools!(self)) {
                self.failed(pair, status);
            }
        }
        // After what completed, which may be what was waited for.
        if self.beat {
            self.heed_beat();
        }
    }

    /// What was read may have been the last of those that are stopped.
    #[cold]
    fn has_read(&mut self, count: u32, more: bool) {
        for pair in &self.draining {
            self.pairs[usize::from(*pair)].has_read(count, more);
        }
    }

    #[cold]
    fn heed_beat(&mut self) {
        self.beat = false;
        for pair in 0..self.pairs.len() as u16 {
            match self.pairs[usize::from(pair)].beat(pair, &mut tools!(self)) {
                Beaten::Fine => {}
                Beaten::GaveUp => self.counts.add(Count::Stalled),
                Beaten::Refused => self.failed(pair, Status::Fault(u32::MAX)),
                Beaten::Silent => {
                    self.counts.add(Count::Silent);
                    self.failed(pair, Status::Silent);
                }
            }
        }
    }

    #[cold]
    fn failed(&mut self, pair: u16, status: Status) {
        self.counts.add(Count::PairsFailed);
        let _ = self.wires.news.push(News::Failed { pair, status }); // there is room, see `wires`
    }

    /// A receive completed.
    #[inline]
    fn arrive(&mut self, completed: &Completed) {
        let Some(mut buffer) = self.receives.take(completed.id) else { return };
        match self.understand(completed, &mut buffer) {
            Ok((offset, len, shard, source)) => {
                self.arrived.push_back(Received { buffer, offset, len, stride: len, shard, source });
            }
            Err(cause) => {
                self.receives.put_back(buffer);
                if let Some(cause) = cause {
                    self.counts.add(cause);
                }
            }
        }
    }

    /// Offset, length, shard and source of what arrived; or why it is no frame (`None`: it was not meant to be one).
    #[inline]
    fn understand(
        &mut self,
        completed: &Completed,
        buffer: &mut Buffer,
    ) -> Result<(u32, u32, u16, Endpoint), Option<Count>> {
        if completed.status != Status::Good {
            return Err(Some(Count::ReceiveFailed));
        }
        let immediate = completed.immediate.ok_or(Count::NoImmediate)?;
        let Some(pair) = self.by_qpn.get(&completed.qpn) else { return Err(Some(Count::NoConnection)) };
        let sending = &mut self.pairs[usize::from(pair)];
        let start = self.receives.offset();
        if completed.written {
            let shard = immediate as u16;
            let slot = sending.into.as_mut().and_then(|ring| ring.take(immediate >> 16, completed.len));
            let Some(from) = slot.filter(|_| completed.len <= buffer.capacity() - RING_OFFSET) else {
                return Err(Some(Count::RingBroken));
            };
            copy_slot(from, completed.len, buffer);
            return self.checked(RING_OFFSET, completed.len, shard, pair, None);
        }
        let said = Said::decode(immediate).ok_or(Count::BadImmediate)?;
        match said {
            Said::Credits(total) if pair != 0 => {
                let believed = sending.out.as_mut().is_some_and(|ring| ring.release(total));
                Err(if believed { None } else { Some(Count::CreditsBroken) })
            }
            Said::Probe if pair != 0 => Err(None),
            Said::Credits(_) | Said::Probe => Err(Some(Count::BadImmediate)),
            Said::Frame(shard) if pair != 0 => self.checked(start, completed.len, shard, pair, None),
            Said::Frame(shard) => {
                let header = buffer.bytes().get(start as usize..).and_then(<[u8]>::first_chunk);
                let ip = header.and_then(|header| sender(header, self.v4)).ok_or(Count::BadRouteHeader)?;
                let len = completed.len.checked_sub(ROUTE_HEADER_BYTES).ok_or(Count::BadRouteHeader)?;
                // The endpoint of a datagram queue pair, see `Details::endpoint`.
                let source = Endpoint::v6(ip, completed.source_qpn as u16);
                self.checked(start + ROUTE_HEADER_BYTES, len, shard, pair, Some(source))
            }
        }
    }

    #[inline]
    fn checked(
        &self,
        offset: u32,
        len: u32,
        shard: u16,
        pair: u16,
        source: Option<Endpoint>,
    ) -> Result<(u32, u32, u16, Endpoint), Option<Count>> {
        if len == 0 {
            return Err(Some(Count::Empty));
        }
        if shard >= self.shard_count {
            return Err(Some(Count::BadImmediate));
        }
        Ok((offset, len, shard, source.unwrap_or(self.pairs[usize::from(pair)].peer)))
    }

    /// Tells peers which slots of their rings are free.
    #[inline]
    fn tell_credits(&mut self) {
        for at in 0..self.readers.len() {
            let pair = self.readers[at];
            let sending = &mut self.pairs[usize::from(pair)];
            if !sending.tell_credits(pair, &mut self.device, self.limits.send_depth) {
                sending.stop(&mut tools!(self));
                self.failed(pair, Status::Fault(u32::MAX));
            }
        }
    }

    /// What the cold side orders.
    #[cold]
    fn obey_all(&mut self) {
        while let Ok(order) = self.wires.orders.pop() {
            self.obey(order);
        }
    }

    /// What the cold side waits for.
    #[cold]
    fn chores(&mut self) {
        let Self { draining, retiring, pairs, lanes, wires, .. } = self;
        draining.retain(|&pair| {
            let has_drained = pairs[usize::from(pair)].has_drained();
            if has_drained {
                let _ = wires.news.push(News::Drained { pair }); // there is room, see `wires`
            }
            !has_drained
        });
        retiring.retain(|&lane| {
            let state = &mut lanes[usize::from(lane)];
            if state.items > 0 {
                return true;
            }
            let address = match state.by.take() {
                Some(Lane::Datagram { address, .. }) => Some(address),
                _ => None,
            };
            let _ = wires.news.push(News::LaneFree { lane, address }); // the same
            false
        });
    }

    fn obey(&mut self, order: Order<D>) {
        match order {
            Order::Route { to, ports, lane, by } => {
                self.lanes[usize::from(lane)] = LaneState { by: Some(by), items: 0 };
                for name in span(to, ports) {
                    self.destinations.set(name, lane); // there is room, see `Desk::route`
                }
            }
            Order::Forget { to, ports, lane } => {
                span(to, ports).for_each(|name| self.destinations.remove(&name));
                self.retiring.push(lane);
            }
            Order::Name { name, lane } => {
                self.destinations.set(name, lane); // the same
            }
            Order::Unname { name } => self.destinations.remove(&name),
            Order::Ready { pair, handle, qpn, peer, out, into } => {
                if into.is_some() {
                    self.readers.push(pair);
                }
                self.by_qpn.set(qpn, pair);
                let sending = &mut self.pairs[usize::from(pair)];
                (sending.handle, sending.qpn, sending.peer) = (Some(handle), qpn, peer);
                (sending.out, sending.into, sending.state) = (out, into, State::Ready);
            }
            Order::Stop { pair } => {
                let sending = &mut self.pairs[usize::from(pair)];
                if sending.state == State::Ready {
                    sending.stop(&mut tools!(self));
                }
                sending.drain(self.completions_max);
                self.draining.push(pair);
            }
            Order::Beat => self.beat = true,
            Order::Reset { pair } => {
                self.readers.retain(|one| *one != pair);
                let sending = &mut self.pairs[usize::from(pair)];
                let ring = sending.reset(&mut tools!(self)).map(|reader| reader.keep);
                // Once: the device may give the number to another one, and this one may be reset again without having been ready.
                self.by_qpn.remove(&core::mem::take(&mut sending.qpn));
                let handle = sending.handle.take();
                let _ = self.wires.news.push(News::Cleared { pair, handle, ring }); // there is room, see `wires`
            }
        }
    }

    /// Gives every buffer back. Nothing may be in flight and no receive may complete any more: the cold side was told to
    /// close first.
    pub(crate) fn abandon(mut self, pool: &mut Pool) {
        for pair in 0..self.pairs.len() {
            let sending = &mut self.pairs[pair];
            drop(sending.reset(&mut tools!(self)));
        }
        self.done.drain(..).for_each(|completion| pool.put(completion.buffer));
        self.arrived.drain(..).for_each(|received| pool.put(received.buffer));
        self.receives.abandon(pool);
    }
}

/// Copies a frame out of a ring. The peer may write there meanwhile, against the rules; then the copy is of nobody's frame, and
/// its tag or crc says so.
#[inline]
fn copy_slot(from: u64, len: u32, buffer: &mut Buffer) {
    let to = &mut buffer.bytes_mut()[RING_OFFSET as usize..][..len as usize];
    // SAFETY: `Reader::take` gave an address inside the ring with at least `len` bytes behind it; the ring's memory lives as long
    // as its reader. It is read by address and never named by a reference.
    unsafe {
        core::ptr::copy_nonoverlapping(core::ptr::with_exposed_provenance(from as usize), to.as_mut_ptr(), to.len())
    }
}

impl<D: Device> RxQueue for VerbsQueue<D> {
    #[inline]
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        if !into.is_full() {
            self.poll();
        }
        if !self.draining.is_empty() || !self.retiring.is_empty() {
            self.chores();
        }
        if !self.listed.is_empty() {
            self.flush();
        }
        if !self.readers.is_empty() {
            self.tell_credits();
        }
        let count = self.arrived.len().min(into.remaining_capacity());
        into.extend(self.arrived.drain(..count));
        let (_, starved) = self.receives.fill(&mut self.device, pool);
        self.starved += u64::from(starved);
        count
    }

    fn wait(&mut self, ns: u64) {
        // Armed first and polled after, or what completes in between would wake nobody.
        self.device.arm();
        self.poll();
        self.chores();
        self.flush();
        self.tell_credits();
        if ns > 0 && self.arrived.is_empty() && self.done.is_empty() {
            self.device.sleep(ns);
        }
    }

    fn stats(&self) -> QueueStats {
        QueueStats { syscalls: self.device.syscalls(), overflow: 0, starved: self.starved }
    }

    fn held(&self) -> usize {
        self.receives.held() + self.arrived.len() + self.flight.items() + self.done.len()
    }
}

impl<D: Device> TxQueue for VerbsQueue<D> {
    #[inline]
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        // What ended and was not fetched counts too, so that `done` never grows past what it was made for.
        let room = self.flight.room().saturating_sub(self.done.len());
        let count = from.len().min(room);
        for item in from.drain(..count) {
            self.accept(item);
        }
        self.flush();
        count
    }

    #[inline]
    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        if self.done.is_empty() && self.flight.items() > 0 {
            self.poll();
        }
        let count = self.done.len().min(into.remaining_capacity());
        into.extend(self.done.drain(..count));
        count
    }
}
