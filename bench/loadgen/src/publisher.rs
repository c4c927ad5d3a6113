//! One publisher: many sessions, frames in runs of one shard, sent at their times whatever becomes of them.

use crate::{
    clock::unix_ns,
    forge::{Kind, Victim, forge},
    offered::{Offered, Replies},
    plan::{Pick, Plan, Random},
    reader::Reader,
    schedule::{LATE_NS, Schedule},
    unsettled::Unsettled,
};
use std::sync::Arc;
use tachyon_driver_api::{Buffer, CompletionBatch, Pool, QueueStats, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_wire::{
    Endpoint, FrameHeader, LINE, Message,
    build::{FrameFields, Seal, seal},
    frame::{ACK_WANTED, KIND_ACK, KIND_DATA, KIND_HEARTBEAT, KIND_NACK},
    message::INLINE_MAX,
};
use zerocopy::{
    FromBytes, IntoBytes,
    byteorder::little_endian::{U32, U64},
};

/// Runs built in one turn at most: half a megabyte, an eighth of the socket buffer that our own subscribers read from, so
/// that publishing in the same thread cannot make them lose.
const RUNS_PER_TURN: usize = 8;
/// Frame numbers of one session, shard and epoch end here; the wire contract's limit.
const FRAME_ID_LAST: u32 = 1 << 31;
/// What fills a payload behind time and number: not zero, so that a reader sees it was carried.
const FILL: u8 = 0xa5;

/// A publishing session.
#[derive(Clone, Debug)]
pub struct Stream {
    /// Its number.
    pub session_id: u32,
    /// The epoch its frames are sent under.
    pub epoch: u32,
    /// First sender of its range.
    pub sender_low: u32,
    /// Its key and what forgers need.
    pub victim: Victim,
    next: Vec<u32>,
}

impl Stream {
    /// A session whose frames are numbered from 1 in each of the victim's shards.
    #[must_use]
    pub fn new(session_id: u32, epoch: u32, sender_low: u32, victim: Victim) -> Self {
        Self { session_id, epoch, sender_low, victim, next: vec![1; usize::from(victim.shard_count)] }
    }

    /// The next frame number of a shard; `None` once they are used up.
    fn number(&mut self, shard: u16) -> Option<u32> {
        let next = self.next.get_mut(usize::from(shard))?;
        let number = *next;
        if number >= FRAME_ID_LAST {
            return None;
        }
        *next += 1;
        Some(number)
    }
}

/// What all frames of a run of the program have in common.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Messages in a frame.
    pub messages: u32,
    /// Frames that a buffer takes at most.
    pub frames_most: u32,
    /// Bytes of inline payload.
    pub payload_bytes: u8,
    /// Class of all messages.
    pub class: u8,
    /// Ask for acks.
    pub ack: bool,
    /// Keep frames until they are settled at this class.
    pub until: Option<u8>,
}

impl Shape {
    /// Bytes of a frame, header included.
    #[must_use]
    pub const fn frame_bytes(&self) -> usize {
        LINE * (1 + self.messages as usize)
    }
}

/// What a publisher does in one phase.
#[derive(Clone, Debug)]
pub struct Part {
    /// When.
    pub schedule: Schedule,
    /// What.
    pub plan: Arc<Plan>,
    /// Frames handed over together.
    pub frames_per_run: u32,
    /// Share of frames that are forged.
    pub forged: f64,
    /// Share of frames that repeat an earlier one.
    pub replayed: f64,
}

/// A publisher on one queue of any driver.
#[derive(Debug)]
pub struct Publisher<Q> {
    queue: Q,
    pool: Pool,
    shape: Shape,
    node: Endpoint,
    streams: Vec<Stream>,
    kinds: Vec<Kind>,
    reader: Reader,
    template: Message,
    random: Random,
    part: Option<Part>,
    pending: TxBatch,
    received: RxBatch,
    in_flight: usize,
    run: usize,
    turn_of: usize,
    places: Vec<usize>,
    sequence: u64,
    serial: u32,
    saved: Vec<Vec<u8>>,
    unsettled: Unsettled,
    offered: Offered,
    replies: Replies,
}

/// What a publisher is made of, besides its queue and its pool.
#[derive(Debug)]
pub struct Setup {
    /// What all frames have in common.
    pub shape: Shape,
    /// The node's address and the port of shard 0.
    pub node: Endpoint,
    /// The sessions, at least one.
    pub streams: Vec<Stream>,
    /// The kinds of forged frames to make.
    pub kinds: Vec<Kind>,
    /// Reads the node's answers.
    pub reader: Reader,
    /// Seed of what is drawn while sending.
    pub seed: u64,
}

impl<Q: RxQueue + TxQueue> Publisher<Q> {
    /// A publisher that does nothing until [`Publisher::begin`].
    ///
    /// # Panics
    /// If there are no streams, or the shape's payload or class is out of range; the arguments' checks exclude both.
    #[must_use]
    pub fn new(queue: Q, pool: Pool, setup: Setup) -> Self {
        let Setup { shape, node, streams, kinds, reader, seed } = setup;
        assert!(!streams.is_empty(), "a publisher needs a session");
        let payload = [FILL; INLINE_MAX];
        let payload = payload.get(..usize::from(shape.payload_bytes)).unwrap_or(&payload);
        let shards = usize::from(streams[0].victim.shard_count);
        let template = Message::inline(1, 0, shape.class, payload).expect("payload and class were checked");
        Self {
            queue,
            pool,
            shape,
            node,
            streams,
            kinds,
            reader,
            template,
            random: Random::new(seed),
            part: None,
            pending: TxBatch::new(),
            received: RxBatch::new(),
            in_flight: 0,
            run: 0,
            turn_of: 0,
            places: vec![0; shards],
            sequence: 0,
            serial: 0,
            saved: vec![Vec::new(); shards],
            unsettled: Unsettled::default(),
            offered: Offered::default(),
            replies: Replies::default(),
        }
    }

    /// Begins a phase.
    pub fn begin(&mut self, part: Part) {
        self.part = Some(part);
    }

    /// Ends the phase: what was offered in it. To be called once [`Publisher::idle`] says so.
    pub fn end(&mut self) -> Offered {
        if let Some(part) = self.part.take() {
            self.offered.missed += part.schedule.missed() * u64::from(part.frames_per_run);
        }
        std::mem::take(&mut self.offered)
    }

    /// What was offered so far in this phase.
    #[must_use]
    pub const fn offered(&self) -> &Offered {
        &self.offered
    }

    /// What the node answered so far.
    #[must_use]
    pub const fn replies(&self) -> &Replies {
        &self.replies
    }

    /// The queue's own counts.
    #[must_use]
    pub fn queue_stats(&self) -> QueueStats {
        self.queue.stats()
    }

    /// Whether the phase is over and everything handed over has completed.
    #[must_use]
    pub fn idle(&self, now_ns: u64) -> bool {
        let over =
            self.part.as_ref().is_none_or(|part| part.schedule.over(now_ns) || part.schedule.next_due().is_none());
        over && self.pending.is_empty() && self.in_flight == 0 && self.unsettled.is_empty()
    }

    /// When there is something to send next; `None` if nothing is planned.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        // Where no more may be kept, only an answer or a repeat makes room.
        let planned = self.part.as_ref().filter(|_| self.may_send()).and_then(|part| part.schedule.next_due());
        [planned, self.unsettled.next_due()].into_iter().flatten().min()
    }

    /// Sleeps until an answer or a completion may be there, at most `ns`.
    pub fn wait(&mut self, ns: u64) {
        self.queue.wait(ns);
    }

    /// One turn: takes back what is sent, counts answers, hands over what is due. Returns how much there was to do.
    pub fn turn(&mut self, now_ns: u64) -> usize {
        let mut worked = self.complete() + self.listen() + self.repeat(now_ns);
        for _ in 0..RUNS_PER_TURN {
            if self.pending.is_full() || self.pool.free() == 0 || !self.may_send() {
                break;
            }
            let Some(due) = self.part.as_mut().and_then(|part| part.schedule.take(now_ns)) else { break };
            let Some(buffer) = self.pool.get() else { break };
            self.build(buffer, due, now_ns);
            worked += 1;
        }
        if !self.pending.is_empty() {
            self.in_flight += self.queue.tx_burst(&mut self.pending);
        }
        worked
    }

    /// Whether another run may be kept, if it has to be.
    fn may_send(&self) -> bool {
        let frames = self.part.as_ref().map_or(0, |part| part.frames_per_run.min(self.shape.frames_most) as usize);
        self.shape.until.is_none() || self.unsettled.has_room(frames)
    }

    /// Sends what was not settled in time again.
    fn repeat(&mut self, now_ns: u64) -> usize {
        let Self { unsettled, offered, pending, pool, node, .. } = self;
        let room = (pending.capacity() - pending.len()).min(pool.free());
        let sent = unsettled.repeat(now_ns, room, &mut offered.settled, |shard, bytes| {
            let Some(mut buffer) = pool.get() else { return };
            buffer.bytes_mut()[..bytes.len()].copy_from_slice(bytes);
            let len = u32::try_from(bytes.len()).unwrap_or(0);
            let destination = Endpoint { port: (node.port.get() + shard).into(), ..*node };
            pending.push(Transmit { buffer, offset: 0, len, stride: len, shard, destination, token: 1 });
        });
        offered.frames += sent as u64;
        sent
    }

    fn complete(&mut self) -> usize {
        let mut done = CompletionBatch::new();
        let count = self.queue.completions(&mut done);
        for completion in done {
            self.in_flight -= 1;
            if let Some(reason) = completion.error {
                self.offered.failed(completion.token, reason);
            }
            self.pool.put(completion.buffer);
        }
        count
    }

    /// Reads the node's answers; also what drives the device.
    fn listen(&mut self) -> usize {
        let count = self.queue.rx_burst(&mut self.pool, &mut self.received);
        for received in self.received.drain(..) {
            let (start, end) = (received.offset as usize, received.offset as usize + received.len as usize);
            for bytes in received.buffer.bytes()[start..end].chunks(received.stride as usize) {
                let frame = self.reader.check(bytes, received.shard);
                match frame.map(|frame| (frame.header.kind, frame.ack())) {
                    Ok((KIND_ACK, ack)) => {
                        self.replies.acks += 1;
                        if let Some(ack) = ack.filter(|ack| Some(ack.class) == self.shape.until) {
                            self.unsettled.settle(ack, &mut self.offered.settled);
                        }
                    }
                    Ok((KIND_NACK, _)) => self.replies.nacks += 1,
                    Ok((KIND_HEARTBEAT, _)) => self.replies.heartbeats += 1,
                    _ => self.replies.anomalies += 1,
                }
            }
            self.pool.put(received.buffer);
        }
        count
    }

    /// Fills a buffer with the frames of one run and queues it.
    fn build(&mut self, mut buffer: Buffer, due: u64, now_ns: u64) {
        let Some(part) = &self.part else { return };
        let (plan, forged, replayed) = (Arc::clone(&part.plan), part.forged, part.replayed);
        let stride = self.shape.frame_bytes();
        let frames = part.frames_per_run.min(self.shape.frames_most);
        let shard = plan.shard(self.run);
        self.run += 1;
        let sent_ns = unix_ns();
        let mut filled = 0u32;
        for bytes in buffer.bytes_mut().chunks_exact_mut(stride).take(frames as usize) {
            if self.random.chance(replayed)
                && let Some(earlier) = self.saved.get(usize::from(shard)).filter(|saved| !saved.is_empty())
            {
                bytes.copy_from_slice(earlier);
                self.offered.replayed += 1;
                filled += 1;
                continue;
            }
            let Some(stream) = self.write(bytes, plan.ring(shard), shard, due, sent_ns) else {
                self.offered.exhausted += 1;
                break;
            };
            self.finish(bytes, stream, shard, forged, replayed > 0.0);
            if self.shape.until.is_some() {
                self.keep(bytes, now_ns);
            }
            filled += 1;
        }
        self.count(filled, due, now_ns);
        let len = filled * u32::try_from(stride).unwrap_or(0);
        if filled == 0 {
            self.pool.put(buffer);
            return;
        }
        let destination = Endpoint { port: (self.node.port.get() + shard).into(), ..self.node };
        let item = Transmit { buffer, offset: 0, len, stride: len / filled, shard, destination, token: filled };
        self.pending.push(item);
    }

    /// Keeps a sealed frame until it is settled.
    fn keep(&mut self, bytes: &[u8], now_ns: u64) {
        if let Ok((header, _)) = FrameHeader::ref_from_prefix(bytes) {
            let stream = (header.session_id.get(), header.shard.get(), header.epoch.get());
            self.unsettled.keep(stream, header.frame_id.get(), bytes, now_ns);
        }
    }

    fn count(&mut self, frames: u32, due: u64, now_ns: u64) {
        let behind = now_ns.saturating_sub(due);
        self.offered.runs += u64::from(frames > 0);
        self.offered.frames += u64::from(frames);
        self.offered.messages += u64::from(frames) * u64::from(self.shape.messages);
        self.offered.behind_max_ns = self.offered.behind_max_ns.max(behind);
        if behind > LATE_NS {
            self.offered.late += u64::from(frames);
        }
    }

    /// Writes an unsealed frame of the session whose turn it is; which one, or `None` if it has no numbers left.
    fn write(&mut self, bytes: &mut [u8], ring: &[Pick], shard: u16, due: u64, sent_ns: u64) -> Option<usize> {
        let index = self.turn_of % self.streams.len();
        self.turn_of = index + 1;
        let stream = &mut self.streams[index];
        let fields = FrameFields {
            flags: if self.shape.ack { ACK_WANTED } else { 0 },
            route_id: 0,
            frame_id: stream.number(shard)?,
            session_id: stream.session_id,
            shard,
            sent_ns,
            epoch: stream.epoch,
        };
        let count = u16::try_from(self.shape.messages).ok()?;
        let header = fields.header(KIND_DATA, count, u32::try_from(bytes.len() - LINE).ok()?);
        let (head, lines) = bytes.split_at_mut(LINE);
        head.copy_from_slice(header.as_bytes());
        let messages = <[Message]>::mut_from_bytes(lines).ok()?;
        let place = self.places.get_mut(usize::from(shard))?;
        // The phase before may have had a longer ring: a hot topic is in it many times.
        *place %= ring.len();
        let mut message = self.template;
        for line in messages {
            let pick = ring[*place];
            *place = if *place + 1 == ring.len() { 0 } else { *place + 1 };
            message.topic_id = U32::new(pick.topic_id);
            message.sender_id = U32::new(stream.sender_low + pick.sender);
            stamp(&mut message, self.shape.payload_bytes, due, self.sequence);
            self.sequence += 1;
            *line = message;
        }
        Some(index)
    }

    /// Seals a frame as genuine, or forges it; keeps a genuine one to repeat it later.
    fn finish(&mut self, bytes: &mut [u8], stream: usize, shard: u16, forged: f64, keep: bool) {
        let victim = self.streams[stream].victim;
        if !self.kinds.is_empty() && self.random.chance(forged) {
            let kind = self.kinds[self.random.below(u32::try_from(self.kinds.len()).unwrap_or(1)) as usize];
            forge(kind, bytes, &victim, self.serial);
            self.serial = self.serial.wrapping_add(1);
            if let Some(index) = Kind::ALL.iter().position(|other| *other == kind) {
                self.offered.forged[index] += 1;
            }
            return;
        }
        seal(bytes, victim.key.as_ref().map_or(Seal::Crc, Seal::Tag));
        if keep && let Some(saved) = self.saved.get_mut(usize::from(shard)) {
            saved.clear();
            saved.extend_from_slice(bytes);
        }
    }
}

/// Puts the intended time and the sequence number into a message's payload, as far as there is room.
fn stamp(message: &mut Message, payload_bytes: u8, due: u64, sequence: u64) {
    if payload_bytes >= 8 {
        message.data[..8].copy_from_slice(U64::new(due).as_bytes());
    }
    if payload_bytes >= 16 {
        message.data[8..16].copy_from_slice(U64::new(sequence).as_bytes());
    }
}

/// The intended time that a message carries, if its payload has room for it.
#[must_use]
pub fn intended_ns(message: &Message) -> Option<u64> {
    let bytes = message.inline_payload()?.first_chunk::<8>()?;
    Some(u64::from_le_bytes(*bytes))
}
