//! From accepted messages to frames on their way: one open buffer per route target and shard, bounded queues, completions.

use crate::{
    fan::Bodies,
    forward,
    lane::{FOR_LOG, IDENTIFIED, LEADS, Lane, OpenLanes},
    ready::{Ready, Tokens},
    seal,
    stream::Stream,
};
use arrayvec::ArrayVec;
use tachyon_driver_api::{Buffer, Completion, CompletionBatch, Pool, Transmit, TxBatch, TxQueue};
use tachyon_kernels::{Path, copy};
use tachyon_policy::Verdict;
use tachyon_wire::{
    Endpoint, FrameHeader, LINE, Message, Reason,
    build::FrameFields,
    command,
    counters::{ROUTES_COUNTED, RouteCounters, WorkerStats},
    frame::{Frame, KIND_DATA, PROVENANCE},
    image::{ROUTE_DURABLE, ROUTE_VOLATILE, RouteRule, Target},
};
use zerocopy::{FromBytes, IntoBytes, byteorder::little_endian::U64};

/// [`LINE`] as the type that lengths have here.
pub(crate) const LINE_BYTES: u32 = 64;
const _: () = assert!(LINE == LINE_BYTES as usize);
/// In `lane_of`: this target has no open buffer in this shard.
pub const CLOSED: u32 = u32::MAX;
/// Frames in one buffer: Linux splits one send into at most 64 segments (`UDP_MAX_SEGMENTS` before 6.9).
const FRAMES_PER_BUFFER: u32 = 64;
/// Bytes in one buffer: what one UDP send may carry over IPv4 (65,535 less 20 of IP and 8 of UDP).
const BUFFER_BYTES_MAX: u32 = 65_507;
/// Bytes in all open buffers together, about: where there are many, each is sent when it is shorter, so that what is written
/// is still in L2 when it is sealed and when its buffer comes back.
const OPEN_BYTES: u32 = 512 << 10;
/// The subscriber of a reply: nobody.
const REPLY: u32 = u32::MAX;

/// Where one subscriber's copies go.
#[derive(Clone)]
pub struct Subscriber {
    active: bool,
    pub(crate) tagged: bool,
    pub(crate) session_id: u32,
    credit: u32,
    in_use: u32,
    pub(crate) frame_bytes_max: u32,
    endpoint: Endpoint,
    pub(crate) master: [u8; 32],
}

impl Subscriber {
    /// A free slot.
    pub const EMPTY: Self = Self {
        active: false,
        tagged: false,
        session_id: 0,
        credit: 0,
        in_use: 0,
        frame_bytes_max: 0,
        endpoint: Endpoint::NONE,
        master: [0; 32],
    };
}

impl core::fmt::Debug for Subscriber {
    /// Never prints a key.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Subscriber(session {}, {} of {} buffers)", self.session_id, self.in_use, self.credit)
    }
}

/// What the device was given and has not finished.
#[derive(Clone, Copy, Debug)]
pub struct InFlight {
    pub(crate) subscriber: u32,
    /// Index of the subscriber's stream in the shard.
    pub(crate) stream: u32,
    route: u32,
    copies: u32,
    bytes: u32,
    frames: u16,
    /// Its messages are for the truth log, which is told what was sealed.
    pub(crate) for_log: bool,
    pub(crate) first_ns: u64,
}

impl InFlight {
    /// An unused entry.
    pub const EMPTY: Self =
        Self { subscriber: REPLY, stream: 0, route: 0, copies: 0, bytes: 0, frames: 0, for_log: false, first_ns: 0 };
}

/// Which shard a message is in, when it came, and by which route it goes.
#[derive(Clone, Copy, Debug)]
pub struct Hop<'r> {
    /// Tick of the burst, ns.
    pub now_ns: u64,
    /// The shard.
    pub shard: u16,
    /// Its place among the worker's shards.
    pub owned: u16,
    /// Index of the route in the ruleset.
    pub route: u32,
    /// The route.
    pub rule: &'r RouteRule,
}

/// The slices of [`crate::Memory`] that egress works in.
#[derive(Debug)]
pub struct Egress<'a> {
    pub(crate) subscribers: &'a mut [Subscriber],
    pub(crate) streams: &'a mut [Stream],
    pub(crate) lane_of: &'a mut [u32],
    pub(crate) lanes: &'a mut [Lane],
    /// Entries of `lane_of` for each owned shard, by target.
    pub(crate) targets: usize,
    pub(crate) open: usize,
    /// What each open buffer may have of [`OPEN_BYTES`].
    pub(crate) share: u32,
    pub(crate) ready: Ready<'a>,
    pub(crate) in_flight: &'a mut [InFlight],
    pub(crate) tokens: Tokens<'a>,
    pub(crate) pending: TxBatch,
    pub(crate) submitted: ArrayVec<(u64, u32), SUBMITTED_MAX>,
    /// Buffers at the queue's end whose frames are numbered and not yet sealed.
    pub(crate) unsealed: usize,
    pub(crate) bodies: Bodies,
    pub(crate) path: Path,
    pub(crate) owned: usize,
    /// The longest frame that a buffer holds.
    pub(crate) frame_bytes_most: u32,
    pub(crate) boot: u16,
    pub(crate) unix_offset_ns: u64,
    /// Frames sealed of routes for the log, modulo 2³², and their digest.
    pub(crate) logged_frames: u32,
    pub(crate) logged_digest: u64,
}

/// Buffers whose hand-over is timed per turn; of a turn that hands over more, the rest is not in the histogram.
pub const SUBMITTED_MAX: usize = 256;

impl Egress<'_> {
    /// Adds, or replaces, a subscriber. What is in flight to it stays counted against its credit. What is open must have
    /// been flushed, because it belongs to the one before. A session that comes back, also after its end, goes on where it
    /// was: no key may meet one nonce twice.
    pub fn add(&mut self, add: &command::AddSubscriber) {
        self.seal_queued();
        let slot = add.slot.get() as usize;
        let Some(subscriber) = self.subscribers.get_mut(slot) else { return };
        let same = subscriber.session_id == add.session_id.get() && subscriber.master == add.master;
        // A frame holds at least one message, and whole lines only.
        let frame_bytes_max =
            add.frame_bytes_max.get().min(self.frame_bytes_most).max(2 * LINE_BYTES) / LINE_BYTES * LINE_BYTES;
        *subscriber = Subscriber {
            active: true,
            tagged: add.tagged != 0,
            session_id: add.session_id.get(),
            credit: add.credit.get(),
            in_use: subscriber.in_use,
            frame_bytes_max,
            endpoint: add.endpoint,
            master: add.master,
        };
        if !same {
            self.streams[slot * self.owned..][..self.owned].fill(Stream::of_boot(self.boot));
        }
    }

    /// Ends a subscriber; its copies from now on are refused, once what is open was flushed.
    pub fn remove(&mut self, slot: u32) {
        if let Some(subscriber) = self.subscribers.get_mut(slot as usize) {
            subscriber.active = false;
        }
    }

    /// Copies accepted messages onto direct routes, those whose only target has their number, up to the first message that
    /// is another verdict's or route's or finds no open frame with room; returns how many. The caller counts.
    #[inline]
    pub fn append_run(&mut self, owned: u16, direct: u32, messages: &[Message], verdicts: &[Verdict]) -> usize {
        let row = usize::from(owned) * self.targets;
        let lane_of = self.lane_of.get(row..row + self.targets.min(direct as usize)).unwrap_or_default();
        let mut lanes = OpenLanes { lane_of, lanes: self.lanes };
        copy::copy_lines(self.path, messages.as_bytes().as_chunks().0, verdicts, &mut lanes)
    }

    /// Whether a target's open lane, if it has one, has room for a message by now: if need be in its next frame.
    pub fn make_room(
        &mut self,
        owned: u16,
        target: u32,
        now_ns: u64,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) -> bool {
        let index = self.lane_of(owned, target) as usize;
        let Some(lane) = self.lanes.get(index) else { return false };
        lane.lines.has_room() || self.next_frame(index, now_ns, pool, stats)
    }

    /// Opens the lane of a direct route's only target for a message; if that cannot be, the message is charged.
    pub fn open_direct(&mut self, hop: Hop<'_>, subscriber: u32, pool: &mut Pool, stats: &mut WorkerStats) -> bool {
        let index = self.lane(hop, hop.route, subscriber, pool, stats);
        let opened = index
            .and_then(|index| if self.lanes[index].lines.has_room() { Ok(()) } else { Err(Reason::InternalInvariant) });
        if let Err(reason) = opened {
            stats.counters.copies_due += 1;
            refuse_copies(stats, &hop, hop.route, 1, reason);
        }
        opened.is_ok()
    }

    /// Copies one message to a target; false if there is no open frame with room for it, and then nothing happened.
    #[inline(always)]
    fn append(&mut self, owned: u16, target: u32, message: &Message) -> bool {
        let index = self.lane_of(owned, target);
        self.lanes.get_mut(index as usize).is_some_and(|lane| lane.append(message))
    }

    /// The open lane of a target, or [`CLOSED`].
    #[inline(always)]
    pub(crate) fn lane_of(&self, owned: u16, target: u32) -> u32 {
        let (row, target) = (usize::from(owned) * self.targets, target as usize);
        if target < self.targets { self.lane_of.get(row + target).map_or(CLOSED, |index| *index) } else { CLOSED }
    }

    /// Copies one accepted message to every target of its route.
    #[inline]
    pub fn dispatch(
        &mut self,
        hop: Hop<'_>,
        targets: &[Target],
        message: &Message,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) {
        stats.counters.copies_due += targets.len() as u64;
        let mut copied = 0;
        for (target, subscriber) in (hop.rule.first_target.get()..).zip(targets) {
            if self.append(hop.owned, target, message) {
                copied += 1;
                continue;
            }
            match self.copy(hop, target, subscriber.get(), message, pool, stats) {
                Ok(()) => copied += 1,
                Err(reason) => refuse_copies(stats, &hop, target, 1, reason),
            }
        }
        stats.counters.copies_held += copied;
    }

    /// Copies a message with a payload in its frame to every target of its route; or charges its copies to the reason for which
    /// the truth log does not take it.
    #[cold]
    #[expect(clippy::too_many_arguments, reason = "the frame, and why it is withheld, beside what `dispatch` takes")]
    pub fn dispatch_rare(
        &mut self,
        hop: Hop<'_>,
        targets: &[Target],
        frame: &Frame<'_>,
        message: &Message,
        withheld: Option<Reason>,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) {
        let place = message.in_frame().filter(|_| withheld.is_none());
        let payload = place.and_then(|place| {
            let start = usize::try_from(place.offset.get()).ok()?;
            frame.bytes.get(start..)?.get(..place.length.get() as usize)
        });
        let Some(payload) = payload else {
            let Some(reason) = withheld else {
                return self.dispatch(hop, targets, message, pool, stats);
            };
            stats.counters.copies_due += targets.len() as u64;
            for (target, _) in (hop.rule.first_target.get()..).zip(targets) {
                refuse_copies(stats, &hop, target, 1, reason);
            }
            return;
        };
        stats.counters.copies_due += targets.len() as u64;
        for (target, subscriber) in (hop.rule.first_target.get()..).zip(targets) {
            match self.copy_with_payload(hop, target, subscriber.get(), message, payload, pool, stats) {
                Ok(()) => stats.counters.copies_held += 1,
                Err(reason) => refuse_copies(stats, &hop, target, 1, reason),
            }
        }
    }

    /// The open lane of a target, at the start of a frame that may have this size: frames of one buffer have one size.
    pub(crate) fn lane_for(
        &mut self,
        hop: Hop<'_>,
        target: u32,
        subscriber: u32,
        size: u32,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) -> Result<usize, Reason> {
        let index = self.lane(hop, target, subscriber, pool, stats)?;
        let open = self.next_frame(index, hop.now_ns, pool, stats);
        let stride = u32::from(self.lanes[index].stride);
        if open && stride != 0 && stride != size {
            self.flush_closed(index, stats);
        }
        self.lane(hop, target, subscriber, pool, stats)
    }

    /// Appends one line where [`Egress::append`] could not: in a frame that has to be started first.
    #[inline(never)]
    fn copy(
        &mut self,
        hop: Hop<'_>,
        target: u32,
        subscriber: u32,
        message: &Message,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) -> Result<(), Reason> {
        let mut index = self.lane(hop, target, subscriber, pool, stats)?;
        if !self.lanes[index].lines.has_room() && !self.next_frame(index, hop.now_ns, pool, stats) {
            index = self.lane(hop, target, subscriber, pool, stats)?;
        }
        if self.lanes[index].append(message) { Ok(()) } else { Err(Reason::InternalInvariant) }
    }

    /// Appends a frame of this one message and its payload. Frames with payload are few and long, so each carries one
    /// message; those of equal length still travel together.
    #[cold]
    #[expect(clippy::too_many_arguments, reason = "the message and its payload beside whose they are")]
    fn copy_with_payload(
        &mut self,
        hop: Hop<'_>,
        target: u32,
        subscriber: u32,
        message: &Message,
        payload: &[u8],
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) -> Result<(), Reason> {
        let padded = payload.len().next_multiple_of(LINE);
        let size = u32::try_from(2 * LINE + padded).map_err(|_| Reason::TxSubmitFail)?;
        if self.subscribers.get(subscriber as usize).is_none_or(|subscriber| size > subscriber.frame_bytes_max) {
            return Err(Reason::TxSubmitFail);
        }
        let index = self.lane_for(hop, target, subscriber, size, pool, stats)?;
        let lane = &mut self.lanes[index];
        let at = lane.lines.end() as usize;
        let bytes = lane.lines.bytes_mut().get_mut(at..at + LINE + padded).ok_or(Reason::InternalInvariant)?;
        bytes[..LINE].copy_from_slice(message.as_bytes());
        // `offset` of a reference stands at byte 4 of `data`, which is byte 20 of the message.
        bytes[20..28].copy_from_slice(U64::new(2 * LINE as u64).as_bytes());
        bytes[LINE..LINE + payload.len()].copy_from_slice(payload);
        bytes[LINE + payload.len()..].fill(0);
        lane.lines.go_on(lane.frame_start + size, 0);
        if !(self.close_frame(index, 1, stats) && self.start_frame(index)) {
            self.flush_closed(index, stats);
        }
        Ok(())
    }

    /// The open lane of a target, opened if there is none.
    pub(crate) fn lane(
        &mut self,
        hop: Hop<'_>,
        target: u32,
        subscriber: u32,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) -> Result<usize, Reason> {
        let entry = usize::from(hop.owned) * self.targets + target as usize;
        match self.lane_of.get(entry) {
            Some(&CLOSED) => self.open(hop, target, subscriber, entry, pool, stats),
            Some(&index) => Ok(index as usize),
            None => Err(Reason::InternalOverflow),
        }
    }

    fn open(
        &mut self,
        hop: Hop<'_>,
        target: u32,
        slot: u32,
        entry: usize,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) -> Result<usize, Reason> {
        let buffer = self.buffer_for(slot, pool)?;
        if self.open == self.lanes.len() {
            self.flush(0, stats);
        }
        let index = self.open;
        self.set_open(index + 1);
        self.lane_of[entry] = u32::try_from(index).unwrap_or(CLOSED);
        self.lanes[index] = Lane {
            target,
            subscriber: slot,
            route: hop.route,
            route_id: hop.rule.route_id.get(),
            shard: hop.shard,
            owned: u8::try_from(hop.owned).unwrap_or(u8::MAX), // there are at most 64 shards
            marks: if target == hop.rule.first_target.get() { LEADS } else { 0 }
                | match hop.rule.for_log {
                    ROUTE_VOLATILE => 0,
                    ROUTE_DURABLE => FOR_LOG | IDENTIFIED,
                    _ => FOR_LOG,
                },
            ..Lane::EMPTY
        };
        self.lanes[index].begin(buffer, hop.now_ns);
        self.start_frame(index);
        Ok(index)
    }

    /// A fresh buffer for a subscriber, counted against its credit.
    #[inline]
    fn buffer_for(&mut self, slot: u32, pool: &mut Pool) -> Result<Buffer, Reason> {
        let Some(subscriber) = self.subscribers.get_mut(slot as usize).filter(|subscriber| subscriber.active) else {
            return Err(Reason::TxSubmitFail);
        };
        if subscriber.in_use >= subscriber.credit {
            return Err(Reason::TxCongestion);
        }
        let buffer = pool.get().ok_or(Reason::ArenaOom)?;
        subscriber.in_use += 1;
        Ok(buffer)
    }

    /// So many lanes are open.
    fn set_open(&mut self, open: usize) {
        self.open = open;
        self.share = OPEN_BYTES / u32::try_from(open).unwrap_or(u32::MAX).max(1);
    }

    /// Closes the frame being filled and starts the next, in a fresh buffer if need be; false if there is none, and then the
    /// lane is closed, too.
    pub(crate) fn next_frame(&mut self, index: usize, now_ns: u64, pool: &mut Pool, stats: &mut WorkerStats) -> bool {
        let count = self.lanes[index].filling();
        if count == 0 {
            return self.lanes[index].lines.has_room(); // The frame being filled is still empty.
        }
        let more = self.close_frame(index, count, stats) && self.start_frame(index);
        more || self.next_buffer(index, now_ns, pool, stats)
    }

    /// Sends what a lane has and goes on in a fresh buffer, which costs less than to close it and to find its route again; false,
    /// and it is closed, if there is none for its subscriber.
    fn next_buffer(&mut self, index: usize, now_ns: u64, pool: &mut Pool, stats: &mut WorkerStats) -> bool {
        let Ok(buffer) = self.buffer_for(self.lanes[index].subscriber, pool) else {
            self.flush_closed(index, stats);
            return false;
        };
        self.send_lane(index, stats);
        self.lanes[index].begin(buffer, now_ns);
        self.seal_if_many();
        self.start_frame(index)
    }

    /// Starts a frame behind the last one; false if the buffer has no room for it.
    #[inline]
    pub(crate) fn start_frame(&mut self, index: usize) -> bool {
        let lane = &mut self.lanes[index];
        let start = lane.lines.end();
        let stride = u32::from(lane.stride);
        let largest = if stride == 0 { self.subscribers[lane.subscriber as usize].frame_bytes_max } else { stride };
        let full = stride != 0 && start >= FRAMES_PER_BUFFER * stride;
        // One frame always fits.
        if full || start + largest > BUFFER_BYTES_MAX.min(self.share.max(largest)).min(lane.lines.capacity()) {
            return false;
        }
        let identified = lane.marks & IDENTIFIED != 0;
        lane.frame_start = start;
        let length = if identified { LINE_BYTES * (1 + forward::identified(largest)) } else { largest };
        lane.lines.go_on(start + LINE_BYTES, start + length);
        true
    }

    /// Writes the header of the frame being filled, as far as it is known before the frame is sealed; false if it is
    /// shorter than the ones before it, and so has to be the last.
    fn close_frame(&mut self, index: usize, count: u32, stats: &mut WorkerStats) -> bool {
        if self.lanes[index].marks & IDENTIFIED == 0 {
            return self.close_flagged(index, count, 0, stats);
        }
        self.lanes[index].close_identified();
        self.close_flagged(index, count, PROVENANCE, stats)
    }

    /// The same, with flags in the header.
    #[inline(always)]
    pub(crate) fn close_flagged(&mut self, index: usize, count: u32, flags: u16, stats: &mut WorkerStats) -> bool {
        let behind = self.crc_behind(index, count);
        let lane = &mut self.lanes[index];
        lane.copies += u16::try_from(count).unwrap_or(0); // a buffer holds fewer than 1,024
        let route = route_of(stats, lane.route);
        route.due += u64::from(count);
        route.accepted += if lane.marks & LEADS != 0 { u64::from(count) } else { 0 };
        let bytes = lane.lines.end() - lane.frame_start;
        let fields = FrameFields { flags, route_id: lane.route_id, shard: lane.shard, ..FrameFields::default() };
        let frame = lane.lines.bytes_mut().get_mut(lane.frame_start as usize..).unwrap_or_default();
        let Ok((header, _)) = FrameHeader::mut_from_prefix(frame) else { return false };
        *header = fields.header(KIND_DATA, u16::try_from(count).unwrap_or(u16::MAX), bytes - LINE_BYTES);
        header.crc32c.set(behind); // until it is sealed: of what is behind the header, 0 if not known
        lane.frame_start += bytes;
        if lane.stride == 0 {
            lane.stride = u16::try_from(bytes).unwrap_or(0); // a buffer has no more than 65,507
        }
        bytes == u32::from(lane.stride)
    }

    /// Closes what is open of a lane and queues it.
    fn flush(&mut self, index: usize, stats: &mut WorkerStats) {
        let count = self.lanes[index].filling();
        if count > 0 {
            self.close_frame(index, count, stats);
        }
        self.flush_closed(index, stats);
    }

    /// Sends a lane whose frames are all closed. The lane that was opened last takes its place.
    pub(crate) fn flush_closed(&mut self, index: usize, stats: &mut WorkerStats) {
        self.send_lane(index, stats);
        self.place_lane(index, CLOSED);
        self.set_open(self.open - 1);
        if index < self.open {
            self.lanes.swap(index, self.open);
            self.place_lane(index, u32::try_from(index).unwrap_or(CLOSED));
        }
        self.seal_if_many();
    }

    /// Notes where a lane is from now on, or that it is closed.
    #[inline]
    fn place_lane(&mut self, index: usize, place: u32) {
        let lane = &self.lanes[index];
        self.lane_of[usize::from(lane.owned) * self.targets + lane.target as usize] = place;
    }

    fn seal_if_many(&mut self) {
        if self.unsealed >= seal::TOGETHER {
            self.seal_queued(); // now, while it is in cache
        }
    }

    /// Numbers a lane's frames and queues its buffer.
    #[inline(always)]
    fn send_lane(&mut self, index: usize, stats: &mut WorkerStats) {
        let lane = &mut self.lanes[index];
        let Some(mut buffer) = lane.lines.take() else { return };
        let subscriber = &self.subscribers[lane.subscriber as usize];
        let place = lane.subscriber as usize * self.owned + usize::from(lane.owned);
        let stream = &mut self.streams[place];
        let sent_ns = lane.first_ns.wrapping_add(self.unix_offset_ns);
        let (len, stride) = (lane.frame_start, u32::from(lane.stride));
        let mut frames = 0; // 64 at most
        for frame in buffer.bytes_mut()[..len as usize].chunks_mut(stride.max(LINE_BYTES) as usize) {
            seal::number(frame, subscriber, stream, sent_ns);
            frames += 1;
        }
        let destination = port_of(&subscriber.endpoint, lane.shard);
        let flight = InFlight {
            subscriber: lane.subscriber,
            stream: u32::try_from(place).unwrap_or(u32::MAX),
            route: lane.route,
            copies: lane.copies.into(),
            bytes: len,
            frames,
            for_log: lane.marks & FOR_LOG != 0,
            first_ns: lane.first_ns,
        };
        let item = Transmit { buffer, offset: 0, len, stride, shard: lane.shard, destination, token: 0 };
        self.queue(item, flight, stats);
    }

    /// Queues a reply to a publisher.
    pub fn reply(
        &mut self,
        buffer: Buffer,
        len: u32,
        shard: u16,
        destination: Endpoint,
        now_ns: u64,
        stats: &mut WorkerStats,
    ) {
        let flight = InFlight { bytes: len, frames: 1, first_ns: now_ns, ..InFlight::EMPTY };
        self.queue(Transmit { buffer, offset: 0, len, stride: len, shard, destination, token: 0 }, flight, stats);
    }

    // Inlined by force, as is what it calls: both records are then written where they stay, not written and moved.
    #[inline(always)]
    fn queue(&mut self, item: Transmit, flight: InFlight, stats: &mut WorkerStats) {
        // There are as many tokens and places as buffers, so neither can be missing while this buffer is in hand.
        let Some(token) = self.tokens.get() else {
            refuse(stats, flight.route, flight.copies.into(), Reason::InternalInvariant);
            return;
        };
        self.in_flight[token as usize] = flight;
        self.ready.push(Transmit { token, ..item });
        self.unsealed += 1;
    }

    /// Flushes the lanes whose oldest message waited `window_ns` or longer, in the order in which they were opened.
    pub fn flush_due(&mut self, now_ns: u64, window_ns: u64, stats: &mut WorkerStats) {
        let (open, mut kept) = (self.open, 0);
        for index in 0..open {
            if now_ns.saturating_sub(self.lanes[index].first_ns) >= window_ns {
                let count = self.lanes[index].filling();
                if count > 0 {
                    self.close_frame(index, count, stats);
                }
                self.send_lane(index, stats);
                self.place_lane(index, CLOSED);
                self.seal_if_many();
            } else {
                self.lanes.swap(index, kept);
                self.place_lane(kept, u32::try_from(kept).unwrap_or(CLOSED));
                kept += 1;
            }
        }
        self.set_open(kept);
    }

    /// Gives up every open frame. Their copies are no longer held.
    pub fn abandon(&mut self, pool: &mut Pool) {
        for lane in self.lanes.iter_mut() {
            let mut lane = core::mem::replace(lane, Lane::EMPTY);
            if let Some(buffer) = lane.lines.take() {
                pool.put(buffer);
                let subscriber = &mut self.subscribers[lane.subscriber as usize];
                subscriber.in_use = subscriber.in_use.saturating_sub(1);
            }
        }
        self.lane_of.fill(CLOSED);
        self.set_open(0);
    }

    /// Copies in open frames, queued or in flight, counted one by one.
    #[must_use]
    pub fn copies_held(&self) -> u64 {
        let open =
            self.lanes[..self.open].iter().map(|lane| u64::from(u32::from(lane.copies) + lane.filling())).sum::<u64>();
        open + self.in_flight.iter().map(|flight| u64::from(flight.copies)).sum::<u64>()
    }

    /// Hands queued buffers to the device, as many as it takes; returns how many.
    pub fn transmit<Q: TxQueue>(&mut self, queue: &mut Q) -> usize {
        self.seal_queued();
        let mut total = 0;
        loop {
            while !self.pending.is_full()
                && let Some(item) = self.ready.pop()
            {
                self.pending.push(item);
            }
            let mut offered: ArrayVec<u32, { tachyon_driver_api::BURST_MAX }> = ArrayVec::new();
            offered.extend(self.pending.iter().map(|item| item.token)); // collected, it would be copied whole
            let taken = if offered.is_empty() { 0 } else { queue.tx_burst(&mut self.pending) };
            for token in &offered[..taken] {
                let flight = &self.in_flight[*token as usize];
                let _ = self.submitted.try_push((flight.first_ns, flight.copies));
            }
            total += taken;
            if taken == 0 || !self.pending.is_empty() {
                return total;
            }
        }
    }

    /// Times what the last turn handed over: by now the kernel has it.
    pub fn note_handed_over(&mut self, now_ns: u64, stats: &mut WorkerStats) {
        for (first_ns, copies) in self.submitted.drain(..) {
            if copies > 0 {
                stats.residence.record(now_ns.saturating_sub(first_ns), copies.into());
            }
        }
    }

    /// Settles what the device finished; returns how many.
    pub fn settle<Q: TxQueue>(
        &mut self,
        queue: &mut Q,
        batch: &mut CompletionBatch,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) -> usize {
        let mut total = 0;
        while queue.completions(batch) > 0 {
            total += self.complete(batch, pool, stats);
        }
        total
    }

    fn complete(&mut self, batch: &mut CompletionBatch, pool: &mut Pool, stats: &mut WorkerStats) -> usize {
        let count = batch.len();
        for Completion { token, buffer, error } in batch.drain(..) {
            pool.put(buffer);
            let flight = core::mem::replace(&mut self.in_flight[token as usize], InFlight::EMPTY);
            self.tokens.put(token);
            if let Some(subscriber) = self.subscribers.get_mut(flight.subscriber as usize) {
                subscriber.in_use = subscriber.in_use.saturating_sub(1);
            }
            let counters = &mut stats.counters;
            counters.copies_held -= u64::from(flight.copies);
            match error {
                None => {
                    counters.copies_given += u64::from(flight.copies);
                    counters.bytes_sent += u64::from(flight.bytes);
                    counters.frames_sent += u64::from(flight.frames);
                    counters.replies_sent += u64::from(flight.subscriber == REPLY);
                    route_of(stats, flight.route).given += u64::from(flight.copies);
                }
                Some(reason) => {
                    counters.replies_lost += u64::from(flight.subscriber == REPLY);
                    refuse(stats, flight.route, flight.copies.into(), reason);
                }
            }
        }
        count
    }
}

/// A subscriber's endpoint for one shard: shard n is n ports up.
fn port_of(endpoint: &Endpoint, shard: u16) -> Endpoint {
    let mut endpoint = *endpoint;
    endpoint.port.set(endpoint.port.get().wrapping_add(shard));
    endpoint
}

#[inline]
fn route_of(stats: &mut WorkerStats, route: u32) -> &mut RouteCounters {
    &mut stats.routes[(route as usize).min(ROUTES_COUNTED - 1)]
}

/// Charges copies that did not get into a frame to a reason.
#[cold]
pub(crate) fn refuse_copies(stats: &mut WorkerStats, hop: &Hop<'_>, target: u32, copies: u64, reason: Reason) {
    let route = route_of(stats, hop.route);
    route.due += copies;
    route.accepted += if target == hop.rule.first_target.get() { copies } else { 0 };
    refuse(stats, hop.route, copies, reason);
}

/// Charges copies to a reason.
#[cold]
fn refuse(stats: &mut WorkerStats, route: u32, copies: u64, reason: Reason) {
    stats.counters.copies_refused[reason.index()] += copies;
    route_of(stats, route).refused += copies;
}
