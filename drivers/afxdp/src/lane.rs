//! One port as a worker uses it: a socket, what the port is on the network, and what its packets become.

use crate::{
    buffers::{Buffers, Finished, HEADROOM_BYTES},
    shared::{Shared, add},
    socket::Socket,
};
use core::sync::atomic::Ordering;
use libc::xdp_desc;
use tachyon_driver_api::{Completion, CompletionBatch, Pool, Received, RxBatch, Transmit};
use tachyon_driver_ether::{Checked, Foreign, HEADER_BYTES_MAX, Hop, Interface, Receiver, UdpChecksum};

/// Ethernet header and VLAN tag, which an MTU leaves out.
const LINK_BYTES: u32 = 18;

/// A packet of which some pieces are here.
#[derive(Clone, Copy, Debug)]
struct Joining {
    number: u32,
    start: u32,
    len: u32,
    too_long: bool,
}

/// Whose lane this is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Seat<'q> {
    pub(crate) worker: u16,
    pub(crate) shared: &'q Shared,
    /// Whether each shard is this worker's.
    pub(crate) shards: &'q [bool],
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Lane {
    port: u8,
    pub(crate) socket: Option<Socket>,
    receiver: Receiver,
    pub(crate) interface: Interface,
    /// Frames may be sent: the link is there.
    can_send: bool,
    checksum: UdpChecksum,
    /// What packets may be that come here.
    checked: Checked,
    /// Longest packet to send, Ethernet header included.
    packet_bytes_max: u32,
    /// Buffers that the kernel shall have to fill, and has.
    fill_target: u32,
    filling: u32,
    joining: Option<Joining>,
    /// Descriptors that were staged and not seen by the kernel yet.
    staged: bool,
    /// Descriptors that the kernel has and has finished.
    in_flight: u64,
    finished: u64,
    woke_to_send: bool,
}

impl Lane {
    pub(crate) fn new(port: u8, interface: Interface, fill_target: u32, udp_checksum: bool) -> Self {
        Self {
            port,
            socket: None,
            receiver: Receiver::new(&interface),
            interface,
            can_send: true,
            checksum: if udp_checksum { UdpChecksum::Compute } else { UdpChecksum::None },
            checked: Checked::default(),
            packet_bytes_max: 0,
            fill_target,
            filling: 0,
            joining: None,
            staged: false,
            in_flight: 0,
            finished: 0,
            woke_to_send: false,
        }
    }

    /// Uses this socket from now on; the one before was closed.
    pub(crate) fn attach(&mut self, socket: Socket, buffers: &Buffers) {
        self.packet_bytes_max = longest_packet(&self.interface, &socket, buffers);
        // What a device put into our memory itself came by a wire; what the kernel copies may be of a program beside us.
        self.checked.partial = !socket.zero_copy;
        self.socket = Some(socket);
        (self.filling, self.in_flight, self.staged) = (0, 0, false);
    }

    /// What the port is on the network has changed.
    pub(crate) fn renew(&mut self, interface: Interface, can_send: bool, buffers: &Buffers) {
        self.receiver = Receiver::new(&interface);
        self.interface = interface;
        self.can_send = can_send;
        if let Some(socket) = &self.socket {
            self.packet_bytes_max = longest_packet(&self.interface, socket, buffers);
        }
    }

    /// The socket is closed: what the kernel had is ours, and what it had to send goes to `unsent`, by number and token.
    pub(crate) fn closed(&mut self, buffers: &mut Buffers, unsent: impl FnMut(u32, u32)) {
        buffers.take_back(self.port, unsent);
        if let Some(joining) = self.joining.take() {
            buffers.put_spare(joining.number);
        }
        (self.filling, self.in_flight, self.staged) = (0, 0, false);
    }

    /// Whether frames can be sent now.
    #[inline(always)]
    pub(crate) const fn can_send(&self) -> bool {
        self.can_send && self.socket.is_some()
    }

    /// Descriptors that the kernel has not finished.
    pub(crate) const fn in_flight(&self) -> u64 {
        self.in_flight
    }

    /// Moves what arrived to the back of `into`, at most `most`.
    #[inline]
    pub(crate) fn receive(&mut self, seat: Seat<'_>, buffers: &mut Buffers, most: usize, into: &mut RxBatch) -> usize {
        let Some(socket) = &mut self.socket else { return 0 };
        let before = into.len();
        let end = before + most;
        let first = socket.receive.read();
        let Some(mut desc) = first else { return 0 };
        loop {
            // What the kernel was not given is no packet of ours, whatever it says.
            if let Some((number, start)) = buffers.filled(desc.addr, desc.len, self.port) {
                self.filling -= 1;
                let more = desc.options & libc::XDP_PKT_CONTD != 0;
                let whole = if !more && self.joining.is_none() {
                    Some((number, start, desc.len))
                } else {
                    join(&mut self.joining, seat, self.port, buffers, (number, start, desc.len), more)
                };
                if let Some(whole) = whole {
                    take((&self.receiver, self.checked), seat, self.port, buffers, whole, into);
                }
            }
            if into.len() >= end {
                break;
            }
            match socket.receive.read() {
                Some(next) => desc = next,
                None => break,
            }
        }
        socket.receive.release();
        into.len() - before
    }

    /// Gives the kernel buffers for those that it filled; whether there were enough.
    #[inline]
    pub(crate) fn refill(&mut self, buffers: &mut Buffers, pool: &mut Pool) -> bool {
        let Some(socket) = &mut self.socket else { return true };
        let needed = self.fill_target - self.filling;
        if needed == 0 {
            return true;
        }
        let room = socket.fill.free(needed).min(needed);
        let mut given = 0;
        while given < room {
            let Some(number) = buffers.take_spare().or_else(|| next_of(pool, buffers)) else { break };
            socket.fill.write(buffers.give_to_fill(number, self.port));
            given += 1;
        }
        if given > 0 {
            socket.fill.publish();
            self.filling += given;
        }
        given == room
    }

    /// Calls the kernel if it wants that; whether it was called.
    #[inline]
    pub(crate) fn wake(&mut self) -> bool {
        let Some(socket) = &self.socket else { return false };
        let receive = socket.fill.wants_wakeup();
        let send =
            socket.busy_poll || (self.in_flight > 0 && socket.transmit.has_waiting() && socket.transmit.wants_wakeup());
        // Where both are wanted they take turns, so that neither waits for ever.
        if send && !(receive && self.woke_to_send) {
            crate::calls::wake(socket.fd());
            self.woke_to_send = true;
        } else if receive {
            crate::calls::wake_receive(socket.fd());
            self.woke_to_send = false;
        } else {
            return false;
        }
        true
    }

    /// Lets the kernel see what was staged.
    #[inline(always)]
    pub(crate) fn publish(&mut self) {
        if self.staged
            && let Some(socket) = &mut self.socket
        {
            socket.transmit.publish();
            self.staged = false;
        }
    }

    /// Moves what the kernel finished to the back of `into`.
    #[inline]
    pub(crate) fn complete(&mut self, buffers: &mut Buffers, into: &mut CompletionBatch) {
        if self.in_flight == 0 {
            return;
        }
        let Some(socket) = &mut self.socket else { return };
        let before = self.in_flight;
        while !into.is_full() {
            let Some(at) = socket.completion.read() else { break };
            match buffers.finished(at, self.port) {
                Finished::Item(number, token) => {
                    into.push(Completion { token, buffer: buffers.hand_out(number), error: None });
                }
                Finished::Part => {}
                Finished::Unknown => continue,
            }
            self.in_flight = self.in_flight.saturating_sub(1);
        }
        if self.in_flight != before {
            self.finished += before - self.in_flight;
            socket.completion.release();
        }
    }

    /// Shows the cold side how far the kernel is, so that it sees when nothing moves.
    #[inline(always)]
    pub(crate) fn show_progress(&self, seat: Seat<'_>) {
        let counts = seat.shared.worker(seat.worker);
        counts.in_flight[usize::from(self.port)].store(self.in_flight, Ordering::Relaxed);
        counts.finished[usize::from(self.port)].store(self.finished, Ordering::Relaxed);
    }

    /// Makes descriptors of an item whose buffer is not taken yet.
    #[inline]
    pub(crate) fn stage(
        &mut self,
        seat: Seat<'_>,
        buffers: &mut Buffers,
        hop: &Hop,
        source_port: u16,
        (number, item): (u32, &Transmit),
    ) -> Staged {
        let frames = count_frames(item);
        let end = u64::from(item.offset) + u64::from(item.len);
        let longest = u64::from(item.stride.min(item.len)) + hop.header_bytes() as u64;
        let possible = frames > 0
            && frames <= tachyon_driver_api::BURST_MAX
            && end <= u64::from(item.buffer.capacity())
            && longest <= u64::from(self.packet_bytes_max);
        let (true, Some(socket)) = (possible, &mut self.socket) else { return Staged::Impossible };
        let out = Out { socket, buffers, hop, checksum: self.checksum, source_port, port: self.port };
        let count = if frames == 1 && item.offset == 0 {
            out.one_piece(number, item)
        } else if out.socket.pieces {
            out.pieces(number, item, frames)
        } else {
            let count = out.copies(number, item, frames);
            if count.is_some() {
                add(&seat.shared.worker(seat.worker).copied);
            }
            self.staged |= count.is_some();
            self.in_flight += u64::from(count.unwrap_or(0));
            return if count.is_some() { Staged::Copied } else { Staged::NoRoom };
        };
        let Some(count) = count else { return Staged::NoRoom };
        self.staged = true;
        self.in_flight += u64::from(count);
        Staged::Taken
    }
}

/// What became of an item.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Staged {
    /// Its buffer is with the kernel.
    Taken,
    /// Its frames were copied, so its buffer is free already.
    Copied,
    /// There is no room now, and nothing happened.
    NoRoom,
    /// It can never be sent, and nothing happened.
    Impossible,
}

fn longest_packet(interface: &Interface, socket: &Socket, buffers: &Buffers) -> u32 {
    let room = if socket.pieces { buffers.layout().packet_room() } else { buffers.layout().chunk_room() };
    (u32::from(interface.mtu) + LINK_BYTES - if interface.vlan.is_some() { 0 } else { 4 }).min(room)
}

/// The next buffer of the pool, ours from now on.
#[inline(always)]
pub(crate) fn next_of(pool: &mut Pool, buffers: &mut Buffers) -> Option<u32> {
    let buffer = pool.get()?;
    let Some(number) = buffers.number_of(&buffer) else {
        pool.put(buffer); // another pool's, which we cannot receive into
        return None;
    };
    buffers.accept(number);
    Some(number)
}

/// Hands a packet's frame on, or counts what the packet is instead.
#[inline(always)]
fn take(
    (receiver, checked): (&Receiver, Checked),
    seat: Seat<'_>,
    port: u8,
    buffers: &mut Buffers,
    (number, start, len): (u32, u32, u32),
    into: &mut RxBatch,
) {
    let packet = &buffers.bytes(number)[start as usize..(start + len) as usize];
    match receiver.find(packet, checked) {
        Ok(found) if seat.shards.get(usize::from(found.shard)) == Some(&true) => {
            let buffer = buffers.hand_out(number);
            let (offset, len) = (start + found.offset, found.len);
            into.push(Received { buffer, offset, len, stride: len, shard: found.shard, source: found.source });
        }
        Ok(_) => {
            add(&seat.shared.worker(seat.worker).other_worker[usize::from(port)]);
            buffers.put_spare(number);
        }
        Err(cause) => refuse(seat, port, buffers, number, cause),
    }
}

#[cold]
fn refuse(seat: Seat<'_>, port: u8, buffers: &mut Buffers, number: u32, cause: Foreign) {
    seat.shared.count_foreign(seat.worker, usize::from(port), cause);
    buffers.put_spare(number);
}

/// Puts a piece behind those that are here: the pieces of a packet come in chunks of different buffers, and a frame is in one.
/// Returns the packet with its last piece.
#[cold]
fn join(
    joining: &mut Option<Joining>,
    seat: Seat<'_>,
    port: u8,
    buffers: &mut Buffers,
    (number, start, len): (u32, u32, u32),
    more: bool,
) -> Option<(u32, u32, u32)> {
    let Some(mut packet) = joining.take() else {
        *joining = Some(Joining { number, start, len, too_long: false });
        return None;
    };
    let behind = (packet.start + packet.len) as usize;
    if !packet.too_long && buffers.copy((number, start as usize), (packet.number, behind), len as usize) {
        packet.len += len;
    } else {
        packet.too_long = true;
    }
    buffers.put_spare(number);
    if more {
        *joining = Some(packet);
        return None;
    }
    if packet.too_long {
        refuse(seat, port, buffers, packet.number, Foreign::TooLong);
        return None;
    }
    add(&seat.shared.worker(seat.worker).joined);
    Some((packet.number, packet.start, packet.len))
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

/// What it takes to make packets of an item. Each way makes all of them or none, and returns how many descriptors they are.
struct Out<'q> {
    socket: &'q mut Socket,
    buffers: &'q mut Buffers,
    hop: &'q Hop,
    checksum: UdpChecksum,
    source_port: u16,
    port: u8,
}

impl Out<'_> {
    /// Headers go into the room before the frame, so it is one run of bytes.
    #[inline]
    fn one_piece(self, number: u32, item: &Transmit) -> Option<u16> {
        const { assert!(HEADER_BYTES_MAX <= HEADROOM_BYTES as usize) };
        let header_bytes = self.hop.header_bytes();
        let at = self.buffers.layout().chunk_at(number) + u64::from(HEADROOM_BYTES) - header_bytes as u64;
        let total = header_bytes as u32 + item.len;
        let count = self.chunks(at, total);
        if self.socket.transmit.free(count.into()) < u32::from(count) {
            return None;
        }
        self.buffers.accept(number);
        let header = self.buffers.header_before(number, header_bytes);
        let payload = &item.buffer.bytes()[..item.len as usize];
        self.hop.write(header, self.source_port, item.destination.port.get(), payload, self.checksum);
        self.buffers.give_to_send(number, self.port, count, item.token);
        write_run(self.socket, self.buffers.layout().chunk_bytes, at, total);
        Some(count)
    }

    /// Headers get memory of their own, and the frames stay where they are: what stands before them is not overwritten.
    fn pieces(self, number: u32, item: &Transmit, frames: usize) -> Option<u16> {
        let start = self.buffers.layout().chunk_at(number) + u64::from(HEADROOM_BYTES);
        let parts = |frame: usize| {
            let at = item.offset + frame as u32 * item.stride;
            (start + u64::from(at), at as usize, item.stride.min(item.offset + item.len - at))
        };
        let of_frames: u16 = (0..frames).map(|frame| self.chunks(parts(frame).0, parts(frame).2)).sum();
        let count = of_frames + frames as u16;
        let enough = frames == 1 || self.buffers.headers_free() >= frames;
        if self.socket.transmit.free(count.into()) < u32::from(count) || !enough {
            return None;
        }
        self.buffers.accept(number);
        let header_bytes = self.hop.header_bytes();
        for frame in 0..frames {
            let (at, offset, len) = parts(frame);
            let payload = &item.buffer.bytes()[offset..offset + len as usize];
            // One frame's headers have room in its own buffer's headroom, where nothing is ever received.
            let room = if frames == 1 { None } else { self.buffers.take_header(self.port) };
            let header_at = room.unwrap_or(start - u64::from(HEADROOM_BYTES));
            let header = self.buffers.header(header_at, header_bytes);
            self.hop.write(header, self.source_port, item.destination.port.get(), payload, self.checksum);
            self.socket.transmit.write(xdp_desc {
                addr: header_at,
                len: header_bytes as u32,
                options: libc::XDP_PKT_CONTD,
            });
            write_run(self.socket, self.buffers.layout().chunk_bytes, at, len);
        }
        let own = if frames == 1 { count } else { of_frames };
        self.buffers.give_to_send(number, self.port, own, item.token);
        Some(count)
    }

    /// Frames are copied behind their headers, because the socket takes one piece only.
    fn copies(self, number: u32, item: &Transmit, frames: usize) -> Option<u16> {
        if self.buffers.spares() < frames || self.socket.transmit.free(frames as u32) < frames as u32 {
            return None;
        }
        self.buffers.accept(number);
        let header_bytes = self.hop.header_bytes();
        for frame in 0..frames {
            let Some(copy) = self.buffers.take_spare() else { break }; // counted above
            let at = item.offset + frame as u32 * item.stride;
            let len = item.stride.min(item.offset + item.len - at);
            let payload = &item.buffer.bytes()[at as usize..(at + len) as usize];
            self.buffers.copy((number, at as usize), (copy, 0), len as usize);
            let header = self.buffers.header_before(copy, header_bytes);
            self.hop.write(header, self.source_port, item.destination.port.get(), payload, self.checksum);
            let at = self.buffers.layout().chunk_at(copy) + u64::from(HEADROOM_BYTES) - header_bytes as u64;
            self.buffers.give_copy(copy, self.port);
            self.socket.transmit.write(xdp_desc { addr: at, len: header_bytes as u32 + len, options: 0 });
        }
        Some(frames as u16)
    }

    /// How many chunks a run of bytes lies in: none may cross into the next.
    #[inline(always)]
    fn chunks(&self, at: u64, len: u32) -> u16 {
        let chunk = u64::from(self.buffers.layout().chunk_bytes);
        let inside = at & (chunk - 1);
        ((inside + u64::from(len)).div_ceil(chunk)) as u16
    }
}

/// Writes the descriptors of a run of bytes.
#[inline(always)]
fn write_run(socket: &mut Socket, chunk_bytes: u32, mut at: u64, mut len: u32) {
    loop {
        let room = chunk_bytes - (at as u32 & (chunk_bytes - 1));
        let now = len.min(room);
        len -= now;
        let options = if len > 0 { libc::XDP_PKT_CONTD } else { 0 };
        socket.transmit.write(xdp_desc { addr: at, len: now, options });
        at += u64::from(now);
        if len == 0 {
            return;
        }
    }
}
