//! The queue that a worker polls: all ports of the node, one queue of each.
//!
//! Receiving hands the engine the buffer that the device wrote into and gives the device a free one for it. Sending puts the
//! headers into the room before the frame, so a packet is one piece; where that room holds received bytes, or a buffer holds
//! several frames, headers get memory of their own and the packet is two pieces. What the device took is complete at once,
//! with a free buffer in exchange: the sent one comes back to DPDK's pool when the device is done with it.

use crate::{
    packets::{Packet, Packets, RawQueue},
    pool::{ArenaPool, HEADROOM_BYTES, SmallPool},
    shared::{PORTS_MAX, Shared, Use},
    wires::{HEARD_BYTES, Heard, WorkerWires},
};
use arrayvec::ArrayVec;
use core::ptr::NonNull;
use std::{sync::Arc, time::Duration};
use tachyon_driver_api::{
    BURST_MAX, Buffer, Completion, CompletionBatch, Pool, QueueStats, Received, RxBatch, RxQueue, Transmit, TxBatch,
    TxQueue,
};
use tachyon_driver_dpdk_sys::{self as sys, mbuf, rte_mbuf};
use tachyon_driver_ether::{
    Checked, Foreign, HEADER_BYTES_MAX, Hop, Interface, Neighbours, News, Receiver, UdpChecksum,
};
use tachyon_wire::{Endpoint, Reason};

/// Packets that wait for a port's device: a burst, and the longest run of frames that a buffer holds.
const OUT_MAX: usize = 128;
/// Items that were taken and whose completion nobody fetched yet.
const DONE_MAX: usize = 512;
/// Most packets of one port in one turn where there are several, so that none waits for another's flood.
const SHARE: usize = 32;
/// Turns between looks at what the cold side sent, when there is never a quiet one.
const CHORE_TURNS: u32 = 1_024;
/// Turns in which a device takes nothing, or no descriptors come back, before what waits for it ends as `E_TX_TIMEOUT`: some
/// tenths of a second for a worker that spins, up to a minute for one that sleeps between turns. From then on nothing waits
/// until something moves again, so that one device holds up the others once.
const STALL_TURNS: u32 = 1 << 20;
/// Longest sleep when idle, because no device wakes us: the most that a frame may wait for an idle poll.
const SLEEP_NS_MAX: u64 = 10_000;

/// What one port is to this worker.
#[derive(Debug)]
pub(crate) struct PortQueue {
    pub(crate) usable: Use,
    pub(crate) raw: RawQueue,
    pub(crate) receiver: Receiver,
    pub(crate) interface: Interface,
    /// How UDP checksums are made towards IPv4 and IPv6.
    pub(crate) checksum: UdpChecksum,
    /// Its device takes packets in pieces.
    pub(crate) pieces: bool,
    /// What it receives is in memory that is not the worker's, and is copied from there.
    pub(crate) copies_in: bool,
    /// Its device takes no memory but its own, so what is sent is copied there.
    pub(crate) copies_out: bool,
    pub(crate) out: Out,
}

/// Packets on their way to a device, and which items they end.
#[derive(Debug, Default)]
pub(crate) struct Out {
    packets: ArrayVec<Packet, OUT_MAX>,
    /// For each packet: the token of the item it is the last of.
    tokens: ArrayVec<Option<u32>, OUT_MAX>,
    stalled_turns: u32,
}

/// Tokens of items that ended, and how.
pub(crate) type Done = ArrayVec<(u32, Option<Reason>), DONE_MAX>;

/// Both directions of one worker's queues.
#[derive(Debug)]
pub struct DpdkQueue {
    pub(crate) worker: u16,
    pub(crate) ports: ArrayVec<PortQueue, PORTS_MAX>,
    pub(crate) pool: ArenaPool,
    pub(crate) small: SmallPool,
    /// Packets for devices that take no other memory.
    pub(crate) plain: Option<SmallPool>,
    pub(crate) neighbours: Neighbours,
    pub(crate) shared: Arc<Shared>,
    pub(crate) wires: WorkerWires,
    pub(crate) base_port: u16,
    pub(crate) generation: u64,
    /// The port that is asked first next time.
    pub(crate) next: usize,
    /// Buffers that went to the worker and were not yet replaced.
    pub(crate) owed: usize,
    /// Buffers on DPDK's side.
    pub(crate) held: usize,
    /// Packets in all `out`s.
    pub(crate) waiting: usize,
    pub(crate) turns: u32,
    /// Turns in which items found no descriptors, since one last found some.
    pub(crate) dry_turns: u32,
    pub(crate) done: Done,
    /// Buffers of another pool, which cannot be sent or exchanged.
    pub(crate) strange: ArrayVec<Completion, BURST_MAX>,
    pub(crate) starved: u64,
}

impl DpdkQueue {
    /// Whether a destination lies in a network of a port or behind a gateway; it may be unknown there nevertheless.
    #[inline]
    #[must_use]
    pub fn reaches(&self, to: &Endpoint) -> bool {
        let ip = tachyon_driver_ether::address(&to.ip);
        self.ports.iter().any(|port| port.interface.reaches(ip))
    }

    /// Moves what one port received to the back of `into`.
    #[inline]
    fn receive(&mut self, index: usize, most: usize, into: &mut RxBatch) -> usize {
        let port = &mut self.ports[index];
        if port.usable == Use::None {
            return 0;
        }
        let mut packets = Packets::new();
        if port.raw.receive(&mut packets, most) == 0 {
            return 0;
        }
        let mut got = 0;
        // Looked at where they are, and owned by their descriptors from then on: moved, all of the array would be copied.
        for packet in &packets {
            let m = packet.descriptor();
            // SAFETY: the device gave the packet to us, and its bytes stay as they are until the buffer is given away.
            let pieces = unsafe { mbuf::nb_segs(m.as_ptr()) };
            let m = if port.copies_in {
                match self.pool.copy_in(m) {
                    Some(m) => m,
                    None => {
                        self.starved += 1;
                        continue;
                    }
                }
            } else {
                m
            };
            // SAFETY: as above.
            let (bytes, flags) = unsafe { (data(m), mbuf::ol_flags(m.as_ptr())) };
            let pool = &self.pool;
            let found = if pieces != 1 {
                Err(Foreign::MultiSegment)
            } else {
                port.receiver.find_then(bytes, checked(flags), |found| {
                    let buffer = pool.buffer(m);
                    let offset = (bytes.as_ptr().addr() - buffer.address().as_ptr().addr()) as u32 + found.offset;
                    let (len, stride) = (found.len, found.len.max(1));
                    into.push(Received { buffer, offset, len, stride, shard: found.shard, source: found.source });
                })
            };
            match found {
                Ok(()) => got += 1,
                Err(cause) => refuse(&self.shared, &mut self.wires, (self.worker, index), m, cause),
            }
        }
        got
    }

    /// Replaces what the worker got, as far as its pool has buffers.
    #[inline]
    fn replace(&mut self, pool: &mut Pool) {
        while self.owed > 0 {
            let given = self.pool.refill(pool, self.owed.min(BURST_MAX));
            self.owed -= given;
            self.held += given;
            if given == 0 {
                self.starved += 1;
                return;
            }
        }
    }

    /// Makes packets of an item; false if they find no room now, and then nothing happened.
    #[inline]
    fn stage(&mut self, item: &Transmit) -> bool {
        let Self { pool, small, plain, neighbours, ports, shared, wires, done, .. } = self;
        let Some(m) = pool.descriptor(&item.buffer) else { return self.refuse_strange(item) };
        let frames = count_frames(item);
        let end = u64::from(item.offset) + u64::from(item.len);
        let Some(hop) = neighbours.get(&item.destination.ip) else {
            shared.count_unreachable(self.worker);
            // A neighbour that was away, or the sender of a frame that is answered: nobody else says that it is sent to.
            let _ = wires.wanted.push(item.destination.ip);
            return fail(pool, done, m, (item.token, Reason::TxSubmitFail), &mut self.held);
        };
        let port = &mut ports[usize::from(hop.port())];
        if port.usable != Use::Both || frames == 0 || frames > BURST_MAX || end > u64::from(item.buffer.capacity()) {
            return fail(pool, done, m, (item.token, Reason::TxSubmitFail), &mut self.held);
        }
        if port.out.packets.remaining_capacity() < frames {
            return false;
        }
        let source_port = self.base_port.wrapping_add(item.shard);
        if frames == 1 && item.offset == 0 && !port.copies_out {
            let packet = one_piece(pool, m, item, hop, source_port, port.checksum);
            port.out.packets.push(packet);
            port.out.tokens.push(Some(item.token));
        } else {
            match (Pieces { pool, small, plain, port, hop, source_port }).stage(m, item, frames) {
                Ok(copied) if copied => shared.count_copied(self.worker),
                Ok(_) => {}
                Err(NoRoom) => return self.run_dry(m, item.token),
            }
            self.dry_turns = 0;
        }
        self.waiting += frames;
        self.held += 1;
        true
    }

    /// Descriptors ran out: devices are asked for those that they are done with, which many keep until they send again. If
    /// none come for long the item ends, or it would hold up everything behind it.
    #[cold]
    fn run_dry(&mut self, m: NonNull<rte_mbuf>, token: u32) -> bool {
        for port in self.ports.iter_mut().filter(|port| port.usable == Use::Both) {
            port.raw.reclaim();
        }
        self.dry_turns = self.dry_turns.saturating_add(1);
        self.dry_turns >= STALL_TURNS
            && fail(&mut self.pool, &mut self.done, m, (token, Reason::TxTimeout), &mut self.held)
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

    /// Hands every port's packets to its device.
    #[inline]
    fn flush(&mut self) {
        if self.waiting == 0 {
            return;
        }
        for port in &mut self.ports {
            let out = &mut port.out;
            if out.packets.is_empty() {
                continue;
            }
            let taken = port.raw.send(&out.packets);
            if taken == 0 {
                out.stalled_turns = out.stalled_turns.saturating_add(1);
                if out.stalled_turns >= STALL_TURNS {
                    self.waiting -= out.give_up(Reason::TxTimeout, &mut self.done);
                }
                continue;
            }
            out.stalled_turns = 0;
            self.waiting -= taken;
            out.taken(taken, &mut self.done);
        }
    }

    /// What the cold side changed about the ports.
    #[cold]
    fn renew(&mut self, generation: u64) {
        for (index, port) in self.ports.iter_mut().enumerate() {
            let (usable, number) = self.shared.port(index);
            port.usable = usable;
            if usable == Use::None || usable == Use::Receive {
                self.waiting -= port.out.give_up(Reason::TxSubmitFail, &mut self.done);
                port.out.stalled_turns = 0;
            }
            if usable != Use::None {
                // SAFETY: the cold side set this port up with a queue for each worker, started it, and said so.
                port.raw = unsafe { RawQueue::new(number, self.worker) };
            }
        }
        self.generation = generation;
        self.shared.answer(self.worker, generation);
    }

    /// Gives up what waits, for the end.
    pub(crate) fn drop_waiting(&mut self) {
        for port in &mut self.ports {
            self.waiting -= port.out.give_up(Reason::TxSubmitFail, &mut self.done);
        }
    }

    /// Neighbours that were found or lost, and answers to send for the cold side.
    #[cold]
    fn chores(&mut self) {
        self.turns = 0;
        while let Ok(news) = self.wires.news.pop() {
            match news {
                News::Reached { to, port, mac } => {
                    let from = self.ports.get(usize::from(port)).map(|port| &port.interface);
                    let hop = from.and_then(|from| Hop::new(from, port, mac, tachyon_driver_ether::address(&to)));
                    if let Some(hop) = hop {
                        self.neighbours.set(to, hop);
                    }
                }
                News::Lost { to } => self.neighbours.remove(&to),
            }
        }
        while let Ok(answer) = self.wires.answers.pop() {
            let Some(port) = self.ports.get_mut(usize::from(answer.port)) else { continue };
            if port.usable != Use::Both || port.out.packets.is_full() {
                continue; // whoever asked asks again
            }
            if let Some(packet) = self.small.take().map(|m| small_packet(m, &answer.bytes[..usize::from(answer.len)])) {
                port.out.packets.push(packet);
                port.out.tokens.push(None);
                self.waiting += 1;
            }
        }
    }
}

impl Out {
    /// The device took the first packets.
    #[inline]
    fn taken(&mut self, count: usize, done: &mut Done) {
        if count == self.packets.len() {
            // SAFETY: a packet needs no drop, and all of them are the device's now.
            unsafe { self.packets.set_len(0) };
        } else {
            self.packets.drain(..count).for_each(drop);
        }
        done.extend(self.tokens.drain(..count).flatten().map(|token| (token, None)));
    }

    /// Ends everything that waits; returns how many packets that were.
    #[cold]
    fn give_up(&mut self, reason: Reason, done: &mut Done) -> usize {
        let count = self.packets.len();
        self.packets.drain(..).for_each(Packet::free);
        done.extend(self.tokens.drain(..).flatten().map(|token| (token, Some(reason))));
        count
    }
}

/// Frames of an item. Nearly all have one, which needs no division.
#[inline(always)]
const fn count_frames(item: &Transmit) -> usize {
    if item.stride >= item.len && item.len > 0 {
        return 1;
    }
    let stride = if item.stride > 0 { item.stride } else { 1 };
    item.len.div_ceil(stride) as usize
}

/// Ends an item without sending it; its buffer goes to DPDK's side and another comes with the completion.
#[cold]
fn fail(
    pool: &mut ArenaPool,
    done: &mut Done,
    m: NonNull<rte_mbuf>,
    (token, why): (u32, Reason),
    held: &mut usize,
) -> bool {
    // SAFETY: the item's buffer is given up here; its completion brings another.
    unsafe { pool.give_many(&[m.as_ptr()]) };
    *held += 1;
    done.push((token, Some(why)));
    true
}

/// The bytes of a packet's first piece.
///
/// # Safety
/// The descriptor is ours, and its bytes stay as they are while the slice is used.
#[inline(always)]
unsafe fn data<'a>(m: NonNull<rte_mbuf>) -> &'a [u8] {
    let m = m.as_ptr();
    // SAFETY: as the caller promised; a driver that gave the packet to us wrote these fields.
    unsafe {
        let start = mbuf::buf_addr(m).add(usize::from(mbuf::data_off(m)));
        core::slice::from_raw_parts(start, usize::from(mbuf::data_len(m)))
    }
}

const IP_MASK: u64 = sys::RTE_MBUF_F_RX_IP_CKSUM_MASK as u64;
const IP_GOOD: u64 = sys::RTE_MBUF_F_RX_IP_CKSUM_GOOD as u64;
const UDP_MASK: u64 = sys::RTE_MBUF_F_RX_L4_CKSUM_MASK as u64;
const UDP_GOOD: u64 = sys::RTE_MBUF_F_RX_L4_CKSUM_GOOD as u64;

/// What the device says it verified. Where it says that something is wrong, we look ourselves: a cut packet has no right
/// checksum either, nor has what is no UDP at all, and each is to be counted as what it is.
#[inline(always)]
const fn checked(flags: u64) -> Checked {
    Checked { ip: flags & IP_MASK == IP_GOOD, udp: flags & UDP_MASK == UDP_GOOD, partial: false }
}

/// Counts a packet that is no frame for this node, tells the cold side if it wants an answer, and gives its buffer back.
#[cold]
fn refuse(
    shared: &Shared,
    wires: &mut WorkerWires,
    (worker, port): (u16, usize),
    m: NonNull<rte_mbuf>,
    cause: Foreign,
) {
    if cause == Foreign::Neighbour {
        // SAFETY: the packet is ours until it is freed below.
        let bytes = unsafe { data(m) };
        let len = bytes.len().min(HEARD_BYTES);
        let mut heard = Heard { port: port as u16, len: len as u16, bytes: [0; HEARD_BYTES] };
        heard.bytes[..len].copy_from_slice(&bytes[..len]);
        let _ = wires.heard.push(heard); // in a storm the rest is not answered, which is what one wants
    }
    shared.count_foreign(worker, port, cause);
    // SAFETY: ours, freed once, all pieces of it.
    unsafe { Packet::own(m).free() };
}

/// A packet in one piece: headers go into the room before the frame.
#[inline]
fn one_piece(
    pool: &ArenaPool,
    m: NonNull<rte_mbuf>,
    item: &Transmit,
    hop: &Hop,
    source_port: u16,
    checksum: UdpChecksum,
) -> Packet {
    const { assert!(HEADER_BYTES_MAX <= HEADROOM_BYTES as usize) };
    let bytes = hop.header_bytes();
    // SAFETY: the bytes before a buffer are the driver's own (`ArenaPool::new` saw to it), and no device reads them before
    // the packet is sent.
    let header = unsafe { core::slice::from_raw_parts_mut(item.buffer.address().as_ptr().sub(bytes), bytes) };
    let payload = &item.buffer.bytes()[..item.len as usize];
    hop.write(header, source_port, item.destination.port.get(), payload, checksum);
    // SAFETY: headers and frame lie inside the descriptor's memory, and the item's buffer is given up.
    unsafe {
        offload(m, hop, checksum);
        pool.packet(m, -(bytes as i32), bytes as u32 + item.len)
    }
}

/// Asks the device for the checksum, or for nothing.
///
/// # Safety
/// The descriptor is the caller's.
#[inline(always)]
unsafe fn offload(m: NonNull<rte_mbuf>, hop: &Hop, checksum: UdpChecksum) {
    let m = m.as_ptr();
    // SAFETY: the descriptor is the caller's.
    unsafe {
        if matches!(checksum, UdpChecksum::Device) {
            let (kind, l3) =
                if hop.header_bytes() >= 62 { (sys::RTE_MBUF_F_TX_IPV6, 40) } else { (sys::RTE_MBUF_F_TX_IPV4, 20) };
            mbuf::set_ol_flags(m, kind | sys::RTE_MBUF_F_TX_UDP_CKSUM);
            let l2 = hop.header_bytes() as u64 - l3 - 8;
            mbuf::set_tx_offload(m, l2 << sys::RTE_MBUF_L2_LEN_OFS | l3 << sys::RTE_MBUF_L3_LEN_OFS);
        } else {
            mbuf::set_ol_flags(m, 0);
        }
    }
}

/// A packet of the small pool with these bytes.
fn small_packet(m: NonNull<rte_mbuf>, bytes: &[u8]) -> Packet {
    let room = m.as_ptr();
    // SAFETY: the descriptor is ours with its own memory, which has room for what `wires` carries.
    unsafe {
        let start = mbuf::buf_addr(room).add(usize::from(mbuf::data_off(room)));
        let len = bytes.len().min(usize::from(mbuf::buf_len(room)) - usize::from(mbuf::data_off(room)));
        core::ptr::copy_nonoverlapping(bytes.as_ptr(), start, len);
        mbuf::set_data_len(room, len as u16);
        mbuf::set_pkt_len(room, len as u32);
        mbuf::set_ol_flags(room, 0);
        Packet::own(m)
    }
}

/// There are not enough descriptors now.
struct NoRoom;

/// What it takes to send frames that have no room before them.
struct Pieces<'q> {
    pool: &'q mut ArenaPool,
    small: &'q mut SmallPool,
    plain: &'q mut Option<SmallPool>,
    port: &'q mut PortQueue,
    hop: &'q Hop,
    source_port: u16,
}

impl Pieces<'_> {
    /// Makes two pieces of each frame: headers in memory of their own, and the frame where it is. All frames of the item or
    /// none; says whether they were copied because the device takes one piece only.
    #[cold]
    fn stage(mut self, m: NonNull<rte_mbuf>, item: &Transmit, frames: usize) -> Result<bool, NoRoom> {
        let copied = !self.port.pieces || self.port.copies_out;
        // A frame alone in its buffer is described by the buffer's own descriptor; several need one each.
        let needed = if copied || frames == 1 { frames } else { 2 * frames };
        let mut taken: ArrayVec<NonNull<rte_mbuf>, { 2 * BURST_MAX }> = ArrayVec::new();
        while taken.len() < needed {
            let one = match self.plain {
                Some(plain) if self.port.copies_out => plain.take(),
                _ if copied => self.pool.take(),
                _ => self.small.take(),
            };
            let Some(one) = one else {
                // SAFETY: taken here, used by nobody.
                taken.into_iter().for_each(|m| unsafe { Packet::own(m).free() });
                return Err(NoRoom);
            };
            taken.push(one);
        }
        if frames > 1 && !copied {
            // SAFETY: the item's buffer is given up.
            unsafe { self.pool.share(m, frames as u16) };
        }
        for frame in 0..frames {
            let at = item.offset + frame as u32 * item.stride;
            let len = item.stride.min(item.offset + item.len - at);
            let last = frame + 1 == frames;
            let Some(head) = taken.pop() else { break }; // counted above
            let packet = if self.port.copies_out {
                self.copy_out(head, item, at, len)
            } else if copied {
                self.copy(head, item, at, len)
            } else {
                self.chain(head, taken.pop_at(0), m, item, at, len)
            };
            self.port.out.packets.push(packet);
            self.port.out.tokens.push(last.then_some(item.token));
        }
        if copied {
            // SAFETY: the item's buffer was copied from and is given up.
            unsafe { self.pool.give_many(&[m.as_ptr()]) };
        }
        Ok(copied)
    }

    /// Headers in `head`, then the frame: by `share` if the buffer is shared, else by its own descriptor.
    fn chain(
        &mut self,
        head: NonNull<rte_mbuf>,
        share: Option<NonNull<rte_mbuf>>,
        m: NonNull<rte_mbuf>,
        item: &Transmit,
        at: u32,
        len: u32,
    ) -> Packet {
        let mut headers = [0u8; HEADER_BYTES_MAX];
        let headers = &mut headers[..self.hop.header_bytes()];
        let payload = &item.buffer.bytes()[at as usize..(at + len) as usize];
        self.hop.write(headers, self.source_port, item.destination.port.get(), payload, self.port.checksum);
        let first = small_packet(head, headers).disown();
        // SAFETY: all descriptors are ours, and the range lies inside the buffer.
        unsafe {
            let piece = match share {
                Some(share) => self.pool.shared_packet(share, m, at, len).disown(),
                None => {
                    mbuf::set_ol_flags(m.as_ptr(), 0);
                    self.pool.packet(m, at as i32, len).disown()
                }
            };
            offload(first, self.hop, self.port.checksum);
            mbuf::set_next(first.as_ptr(), piece.as_ptr());
            mbuf::set_nb_segs(first.as_ptr(), 2);
            mbuf::set_pkt_len(first.as_ptr(), self.hop.header_bytes() as u32 + len);
            Packet::own(first)
        }
    }

    /// Headers and frame in memory of the device's own.
    fn copy_out(&self, to: NonNull<rte_mbuf>, item: &Transmit, at: u32, len: u32) -> Packet {
        let payload = &item.buffer.bytes()[at as usize..(at + len) as usize];
        let header_bytes = self.hop.header_bytes();
        let m = to.as_ptr();
        // SAFETY: the descriptor is ours with its own memory, and what is written ends where that does.
        unsafe {
            let room = usize::from(mbuf::buf_len(m)) - usize::from(mbuf::data_off(m));
            let start = mbuf::buf_addr(m).add(usize::from(mbuf::data_off(m)));
            let bytes = core::slice::from_raw_parts_mut(start, room);
            let len = payload.len().min(room - header_bytes);
            self.hop.write(
                &mut bytes[..header_bytes],
                self.source_port,
                item.destination.port.get(),
                &payload[..len],
                self.port.checksum,
            );
            bytes[header_bytes..header_bytes + len].copy_from_slice(&payload[..len]);
            mbuf::set_data_len(m, (header_bytes + len) as u16);
            mbuf::set_pkt_len(m, (header_bytes + len) as u32);
            mbuf::set_ol_flags(m, 0);
            Packet::own(to)
        }
    }

    /// Headers and frame in another buffer.
    fn copy(&mut self, to: NonNull<rte_mbuf>, item: &Transmit, at: u32, len: u32) -> Packet {
        let mut buffer = self.pool.buffer(to);
        let payload = &item.buffer.bytes()[at as usize..(at + len) as usize];
        buffer.bytes_mut()[..payload.len()].copy_from_slice(payload);
        let item = Transmit {
            buffer,
            offset: 0,
            len,
            stride: len,
            shard: item.shard,
            destination: item.destination,
            token: 0,
        };
        one_piece(self.pool, to, &item, self.hop, self.source_port, self.port.checksum)
    }
}

impl RxQueue for DpdkQueue {
    #[inline]
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        let generation = self.shared.generation();
        if generation != self.generation {
            self.renew(generation);
        }
        self.flush();
        let count = self.ports.len();
        let most = if count == 1 { BURST_MAX } else { SHARE };
        let mut got = 0;
        for _ in 0..count {
            let room = into.remaining_capacity();
            if room == 0 {
                break; // before the next port's turn is taken from it, or two that are flooded would keep a third out
            }
            let index = self.next;
            self.next = if index + 1 >= count { 0 } else { index + 1 };
            got += self.receive(index, most.min(room), into);
        }
        self.owed += got;
        self.held -= got;
        self.replace(pool);
        self.turns += 1;
        if got == 0 || self.turns >= CHORE_TURNS {
            if self.wires.has_work() {
                self.chores();
            }
            self.turns = 0;
        }
        got
    }

    /// No device wakes us, so this is a short sleep.
    fn wait(&mut self, ns: u64) {
        self.chores();
        if ns > 0 {
            std::thread::sleep(Duration::from_nanos(ns.min(SLEEP_NS_MAX)));
        }
    }

    fn stats(&self) -> QueueStats {
        // The device counts for all queues together; one worker reports it.
        let overflow = if self.worker == 0 { self.shared.missed() } else { 0 };
        QueueStats { syscalls: 0, overflow, starved: self.starved }
    }

    fn held(&self) -> usize {
        self.held
    }
}

impl TxQueue for DpdkQueue {
    #[inline]
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        let mut taken = 0;
        while taken < from.len() && self.done.len() + self.waiting < DONE_MAX {
            if self.stage(&from[taken]) {
                taken += 1;
                continue;
            }
            let before = self.waiting;
            self.flush();
            if self.waiting == before {
                break;
            }
        }
        // A `Buffer` has no `Drop`: what was taken belongs to packets now.
        if taken == from.len() {
            from.clear();
        } else {
            from.drain(..taken).for_each(drop);
        }
        self.flush();
        taken
    }

    #[inline]
    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        let before = into.len();
        let mut free = [core::ptr::null_mut(); BURST_MAX];
        let mut count = self.done.len().min(into.remaining_capacity());
        if count > 0 && !self.pool.take_many(&mut free[..count]) {
            // The devices hold more than is left: as many as there are, one by one.
            count = free[..count].iter_mut().map_while(|slot| self.pool.take().map(|m| *slot = m.as_ptr())).count();
        }
        for ((token, error), m) in self.done.drain(..count).zip(free) {
            // SAFETY: the first `count` are descriptors that we took.
            let buffer = self.pool.buffer(unsafe { NonNull::new_unchecked(m) });
            into.push(Completion { token, buffer, error });
        }
        self.held -= count;
        while !self.strange.is_empty() && !into.is_full() {
            into.extend(self.strange.pop());
        }
        into.len() - before
    }
}
