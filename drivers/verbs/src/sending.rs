//! One queue pair as a worker sees it: posting what is pending, and settling what completed.

use crate::{
    device::{Device, Status, To, Work},
    flight::{Flight, Frame, List},
    ring::{Reader, Said, Writer},
    wires::Lane,
};
use std::collections::VecDeque;
use tachyon_driver_api::Completion;
use tachyon_wire::{Endpoint, Reason};

/// Beats of the cold side's clock in which a queue pair takes nothing of what is pending before that ends as `E_TX_TIMEOUT`: some
/// tenths of a second, however fast a worker's turns are. Only a ring whose reader stands still gets there.
const STALL_BEATS: u32 = 4;
/// Beats until a stopped queue pair's work is taken to end no more: flushing is the device's own work and takes microseconds, so
/// this is only for one that is dead.
const DRAIN_BEATS: u32 = 2;

/// Whether a queue pair can be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// Not connected.
    Idle,
    /// Connected.
    Ready,
    /// In error or stopped; the cold side brings it back.
    Failed,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Sending<D: Device> {
    pub(crate) handle: Option<D::Pair>,
    pub(crate) state: State,
    pub(crate) qpn: u32,
    pub(crate) peer: Endpoint,
    pub(crate) out: Option<Writer>,
    pub(crate) into: Option<Reader<D::Ring>>,
    /// Counted up by resets, so that completions of before are known.
    generation: u16,
    /// The number of the next piece of work, and of the oldest that did not complete.
    next: u32,
    oldest: u32,
    pending: List,
    posted: List,
    /// Since the last one that asked for a completion.
    unsignalled: u32,
    /// Beats since something pending was posted.
    stalled_beats: u32,
    /// The oldest at the last beat, and beats since it was another.
    watched: u32,
    silent_beats: u32,
    /// Completions that may lie in front of the last one of before it was stopped, and beats since then.
    unread: u32,
    drain_beats: u32,
    /// In the queue's list of those with something to post.
    pub(crate) listed: bool,
}

/// What posting needs besides the queue pair.
pub(crate) struct Tools<'q, D: Device> {
    pub(crate) device: &'q mut D,
    pub(crate) flight: &'q mut Flight,
    pub(crate) lanes: &'q mut [LaneState<D::Address>],
    pub(crate) done: &'q mut VecDeque<Completion>,
    pub(crate) limits: Limits,
}

/// Numbers out of the configuration.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    pub(crate) send_depth: u32,
    pub(crate) signal_interval: u32,
    pub(crate) inline_bytes: u32,
    /// Beats without a completion after which a device is taken to have forgotten what it was given.
    pub(crate) silent_beats_max: u32,
}

/// A lane as the worker sees it.
#[derive(Debug)]
pub(crate) struct LaneState<A> {
    pub(crate) by: Option<Lane<A>>,
    /// Items of it in the driver.
    pub(crate) items: u32,
}

/// What a flush found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flushed {
    /// Nothing is pending any more.
    Empty,
    /// Something is.
    Waiting,
    /// The device refused; the queue pair failed.
    Refused,
}

/// What a beat found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Beaten {
    /// It goes on, or there is nothing that could.
    Fine,
    /// Nothing was taken for so long that what was pending was given up.
    GaveUp,
    /// The device refused; the queue pair failed.
    Refused,
    /// The device completed nothing for so long that it will not; the queue pair failed.
    Silent,
}

impl<D: Device> Sending<D> {
    pub(crate) const fn new() -> Self {
        Self {
            handle: None,
            state: State::Idle,
            qpn: 0,
            peer: Endpoint::NONE,
            out: None,
            into: None,
            generation: 0,
            next: 0,
            oldest: 0,
            pending: List::EMPTY,
            posted: List::EMPTY,
            unsignalled: 0,
            stalled_beats: 0,
            watched: 0,
            silent_beats: 0,
            unread: 0,
            drain_beats: 0,
            listed: false,
        }
    }

    /// Whether it has posted work that did not complete.
    #[inline]
    const fn is_in_flight(&self) -> bool {
        self.next != self.oldest
    }

    /// Takes an item to send.
    #[inline]
    pub(crate) fn add(&mut self, flight: &mut Flight, transmit: tachyon_driver_api::Transmit, lane: u16) {
        flight.add(&mut self.pending, transmit, lane);
    }

    #[inline]
    const fn room(&self, send_depth: u32) -> u32 {
        send_depth - self.next.wrapping_sub(self.oldest)
    }

    #[inline]
    fn id(&self, pair: u16, number: u32) -> u64 {
        u64::from(self.generation) << 48 | u64::from(pair) << 32 | u64::from(number)
    }

    /// Posts what is pending, as far as the queue has room and the peer's ring has slots: one burst.
    #[inline]
    pub(crate) fn flush(&mut self, pair: u16, tools: &mut Tools<'_, D>) -> Flushed {
        if self.pending.head().is_none() {
            return Flushed::Empty;
        }
        // One place stays free for credits, or a worker that sends all it can would tell its peers late what they may send.
        let mut most = self.room(tools.limits.send_depth).saturating_sub(1);
        if let Some(ring) = &self.out {
            most = most.min(ring.credits());
        }
        // Taken out while it is used, because that is cheaper than counting its owners up and down.
        let handle = if most > 0 { self.handle.take() } else { None };
        let Some(handle) = handle else {
            return Flushed::Waiting;
        };
        self.stalled_beats = 0;
        let before = (self.next, self.pending.head().map_or(0, |place| tools.flight.is_cut(place)));
        tools.device.start(&handle);
        let whole = self.push(pair, &handle, most, tools);
        let taken = tools.device.finish(&handle);
        self.handle = Some(handle);
        if !taken {
            self.take_back(before, tools);
            self.stop(tools);
            return Flushed::Refused;
        }
        for _ in 0..whole {
            tools.flight.posted(&mut self.pending, &mut self.posted);
        }
        if self.pending.head().is_some() { Flushed::Waiting } else { Flushed::Empty }
    }

    /// Pushes at most `most` frames; returns how many items have all of theirs pushed.
    #[inline]
    fn push(&mut self, pair: u16, handle: &D::Pair, most: u32, tools: &mut Tools<'_, D>) -> usize {
        let (mut whole, mut left) = (0, most);
        let mut at = self.pending.head();
        while let Some(place) = at {
            let Some((frame, is_last)) = tools.flight.cut(place, self.next) else { break };
            left -= 1;
            at = if is_last { tools.flight.after(place) } else { Some(place) };
            whole += usize::from(is_last);
            let ends_burst = left == 0 || at.is_none();
            self.push_one(pair, handle, frame, ends_burst, tools);
            if left == 0 {
                break;
            }
        }
        whole
    }

    #[inline]
    fn push_one(&mut self, pair: u16, handle: &D::Pair, frame: Frame, ends_burst: bool, tools: &mut Tools<'_, D>) {
        let mut immediate = Said::Frame(frame.shard).encode();
        let to = match (&mut self.out, &tools.lanes[usize::from(frame.lane)].by) {
            (Some(ring), _) => {
                let (slot_and_shard, address) = ring.next(frame.shard);
                immediate = slot_and_shard;
                To::Memory { rkey: ring.rkey, address }
            }
            (None, Some(Lane::Datagram { address, qpn, qkey })) => To::Datagram { address, qpn: *qpn, qkey: *qkey },
            (None, _) => To::Peer,
        };
        self.unsignalled += 1;
        let signalled = ends_burst || self.unsignalled >= tools.limits.signal_interval;
        if signalled {
            self.unsignalled = 0;
        }
        let work = Work {
            id: self.id(pair, self.next),
            address: frame.address,
            len: frame.len,
            immediate,
            signalled,
            inline: frame.len <= tools.limits.inline_bytes,
        };
        self.next = self.next.wrapping_add(1);
        // SAFETY: the frame lies in a buffer of the arena, which is registered, and the flight keeps the buffer until this
        // work or a later one of the queue pair completed, or the queue pair was reset.
        unsafe { tools.device.push(handle, &work, to) };
    }

    /// Posts the total of slots released, if it is time to and there is room. False: the device refused.
    #[inline]
    pub(crate) fn tell_credits(&mut self, pair: u16, device: &mut D, send_depth: u32) -> bool {
        let Some(total) = self.into.as_ref().and_then(Reader::due) else { return true };
        if self.state != State::Ready || self.room(send_depth) == 0 {
            return true;
        }
        let told = self.say(pair, Said::Credits(total), device);
        if let Some(ring) = self.into.as_mut().filter(|_| told) {
            ring.tell();
        }
        told
    }

    /// Posts an immediate alone; the caller saw to it that there is room. False: the device refused.
    fn say(&mut self, pair: u16, said: Said, device: &mut D) -> bool {
        let Some(handle) = &self.handle else { return false };
        let id = self.id(pair, self.next);
        let work = Work { id, address: 0, len: 0, immediate: said.encode(), signalled: true, inline: false };
        device.start(handle);
        // SAFETY: there are no bytes.
        unsafe { device.push(handle, &work, To::Peer) };
        if !device.finish(handle) {
            return false;
        }
        self.next = self.next.wrapping_add(1);
        self.unsignalled = 0;
        true
    }

    /// A completion of a piece of work. Returns the status if the queue pair failed by it.
    #[inline]
    pub(crate) fn settle(&mut self, id: u64, status: Status, tools: &mut Tools<'_, D>) -> Option<Status> {
        let number = id as u32;
        if (id >> 48) as u16 != self.generation {
            return None;
        }
        let mut failed = None;
        let was = match status.reason() {
            None => None,
            Some(reason) => {
                // The first one in error says why; all before it went well, and all behind it is flushed.
                if self.state == State::Ready {
                    self.end_up_to(number.wrapping_sub(1), None, tools);
                    self.stop(tools);
                    failed = Some(status);
                }
                tools.flight.mark(&self.posted, number, reason);
                Some(Reason::TxQpReset)
            }
        };
        self.end_up_to(number, was, tools);
        self.oldest = number.wrapping_add(1);
        failed
    }

    /// Ends the items that are posted up to this number.
    #[inline]
    fn end_up_to(&mut self, number: u32, error: Option<Reason>, tools: &mut Tools<'_, D>) {
        while let Some((mut completion, lane)) = tools.flight.take_up_to(&mut self.posted, number) {
            completion.error = completion.error.or(error);
            tools.end(completion, lane);
        }
    }

    /// A beat of the cold side's clock: what does not go on is given up. No time is read for that, and a worker that stands still
    /// itself gets no beats, so it takes nobody for silent whom it did not ask.
    ///
    /// Devices are to end all that they were given, well or by a limit of theirs. The soft device of Linux 6.1 does not: after a
    /// link was down it can lose the timer of a queue pair and with it everything that waits for an acknowledgement.
    #[cold]
    pub(crate) fn beat(&mut self, pair: u16, tools: &mut Tools<'_, D>) -> Beaten {
        if self.state != State::Ready {
            self.drain_beats = self.drain_beats.saturating_add(1);
            return Beaten::Fine;
        }
        let goes_on = !self.is_in_flight() || self.oldest != self.watched;
        self.silent_beats = if goes_on { 0 } else { self.silent_beats + 1 };
        self.watched = self.oldest;
        if self.silent_beats >= tools.limits.silent_beats_max {
            self.stop(tools);
            return Beaten::Silent;
        }
        self.stalled_beats = if self.pending.head().is_some() { self.stalled_beats + 1 } else { 0 };
        if self.stalled_beats < STALL_BEATS {
            return Beaten::Fine;
        }
        self.give_up(tools, Reason::TxTimeout);
        // A peer that is gone is seen only by sending it something, and its full ring takes no frames.
        let asked =
            self.out.is_none() || self.room(tools.limits.send_depth) == 0 || self.say(pair, Said::Probe, tools.device);
        if asked {
            return Beaten::GaveUp;
        }
        self.stop(tools);
        Beaten::Refused
    }

    /// Sends nothing more: what is pending ends, what is posted goes on until it completed.
    #[cold]
    pub(crate) fn stop(&mut self, tools: &mut Tools<'_, D>) {
        self.state = State::Failed;
        self.give_up(tools, Reason::TxQpReset);
    }

    /// It is in error, so nothing more arrives on it, and what did is among the next `most` completions.
    ///
    /// A reset must not come before they were read: mlx5 takes what is unread out of the completion queue, and the
    /// receives that such completions name would be neither the device's nor ours any more.
    #[cold]
    pub(crate) const fn drain(&mut self, most: u32) {
        (self.unread, self.drain_beats) = (most, 0);
    }

    /// So many completions were read, and there was no further one unless `more`.
    #[cold]
    pub(crate) const fn has_read(&mut self, count: u32, more: bool) {
        self.unread = if more { self.unread.saturating_sub(count) } else { 0 };
    }

    /// Whether there is nothing more to wait for before it is reset.
    #[cold]
    pub(crate) const fn has_drained(&self) -> bool {
        self.unread == 0 && (!self.is_in_flight() || self.drain_beats >= DRAIN_BEATS)
    }

    /// Ends what is pending. An item that is posted in part waits for that part.
    #[cold]
    fn give_up(&mut self, tools: &mut Tools<'_, D>, reason: Reason) {
        if self.pending.head().is_some_and(|place| tools.flight.is_cut(place) > 0) {
            tools.flight.break_off(&mut self.pending, &mut self.posted, self.next.wrapping_sub(1), reason);
        }
        while let Some((mut completion, lane)) = tools.flight.take(&mut self.pending) {
            completion.error = completion.error.or(Some(reason));
            tools.end(completion, lane);
        }
        self.stalled_beats = 0;
    }

    /// The device took nothing of a burst: what was cut for it ends, and what was cut before waits for its completion.
    #[cold]
    fn take_back(&mut self, (next, cut): (u32, u32), tools: &mut Tools<'_, D>) {
        self.next = next;
        if cut > 0 {
            tools.flight.break_off(&mut self.pending, &mut self.posted, next.wrapping_sub(1), Reason::TxSubmitFail);
        }
        while let Some((mut completion, lane)) = tools.flight.take(&mut self.pending) {
            completion.error = completion.error.or(Some(Reason::TxSubmitFail));
            tools.end(completion, lane);
        }
    }

    /// The queue pair was reset: what was in flight ended with it.
    #[cold]
    pub(crate) fn reset(&mut self, tools: &mut Tools<'_, D>) -> Option<Reader<D::Ring>> {
        self.give_up(tools, Reason::TxQpReset);
        while let Some((mut completion, lane)) = tools.flight.take(&mut self.posted) {
            completion.error = completion.error.or(Some(Reason::TxQpReset));
            tools.end(completion, lane);
        }
        // 15 bits: the highest says that an identity is a receive's.
        self.generation = (self.generation + 1) & 0x7fff;
        (self.next, self.oldest, self.unsignalled, self.watched) = (0, 0, 0, 0);
        self.silent_beats = 0;
        (self.state, self.out) = (State::Idle, None);
        self.into.take()
    }
}

impl<D: Device> Tools<'_, D> {
    #[inline]
    fn end(&mut self, completion: Completion, lane: u16) {
        self.lanes[usize::from(lane)].items -= 1;
        self.done.push_back(completion);
    }
}
