//! What is on its way out: cuts accepted buffers into sends that the kernel takes, and puts what became of them together
//! again. Both modes issue these pieces, each in its own way.
//!
//! Order is kept per destination: pieces are cut in order of acceptance, and whoever issues them issues in order of cutting
//! and cuts no new ones while old ones have to be tried again.

use crate::{
    address::{self, SOCKADDR_BYTES},
    control::SegmentControl,
};
use core::{mem, ptr};
use std::collections::VecDeque;
use tachyon_driver_api::{Buffer, Completion, CompletionBatch, Pool, Transmit, TxBatch};
use tachyon_wire::{Endpoint, Reason};

/// Most frames in one send: `UDP_MAX_SEGMENTS` of kernels before 6.9 (later ones take 128).
const SEGMENTS_MAX: u32 = 64;
/// Most bytes in one send: what a receiver with 64 KiB buffers takes whole, as its first frame starts at 128; below the
/// 65,507 that UDP over IPv4 allows.
const SEGMENTED_BYTES_MAX: u32 = 65_536 - 128;
/// Not an index.
const NOWHERE: u16 = u16::MAX;

/// An accepted [`Transmit`].
struct Slot {
    transmit: Option<Transmit>,
    socket: u16,
    /// Bytes that are cut into pieces already.
    cut: u32,
    /// Pieces that are not settled.
    pieces: u32,
    failed: bool,
}

/// One send: everything the kernel reads about it, at an address that stays.
pub(crate) struct Piece {
    message: libc::msghdr,
    vector: libc::iovec,
    control: SegmentControl,
    address: [u8; SOCKADDR_BYTES],
    address_bytes: u32,
    start: *mut u8,
    len: u32,
    stride: u32,
    slot: u32,
    /// Its place in the order of cutting, modulo 2³².
    place: u32,
    socket: u16,
    /// Several frames in one send.
    run: bool,
    /// A run that the device refused, sent frame by frame; `stepped` bytes of it are sent.
    stepping: bool,
    stepped: u32,
    /// The kernel answered a zero-copy send and did not let go of its memory yet.
    held: bool,
    /// How it ends once the kernel lets go: whether it failed.
    ending: Option<bool>,
}

impl Piece {
    /// The socket it leaves from, as an index.
    pub(crate) const fn socket(&self) -> u16 {
        self.socket
    }

    /// Whether it needs control data.
    pub(crate) const fn is_run(&self) -> bool {
        self.run
    }

    /// Whether it must be the last one issued until it is settled.
    pub(crate) const fn is_stepping(&self) -> bool {
        self.stepping
    }

    /// Whether the kernel may still look at its memory, so that it must not be issued again.
    pub(crate) const fn is_held(&self) -> bool {
        self.held
    }

    /// Address and length of what it sends next.
    pub(crate) fn bytes(&self) -> (*mut u8, u32) {
        let rest = self.len - self.stepped;
        (self.start.wrapping_add(self.stepped as usize), if self.stepping { rest.min(self.stride) } else { rest })
    }

    /// The socket address it goes to.
    pub(crate) const fn address(&self) -> (*const libc::sockaddr, libc::socklen_t) {
        ((&raw const self.address).cast(), self.address_bytes)
    }

    /// Fills in the header for `sendmsg`; it and what it points at stay valid until the piece is settled.
    pub(crate) fn message(&mut self) -> *const libc::msghdr {
        let (base, len) = self.bytes();
        self.vector = libc::iovec { iov_base: base.cast(), iov_len: len as usize };
        self.message.msg_name = (&raw mut self.address).cast();
        self.message.msg_namelen = self.address_bytes;
        self.message.msg_iov = &raw mut self.vector;
        self.message.msg_iovlen = 1;
        (self.message.msg_control, self.message.msg_controllen) =
            if self.run { ((&raw mut self.control).cast(), size_of::<SegmentControl>()) } else { (ptr::null_mut(), 0) };
        &raw const self.message
    }
}

/// What decides whether one piece overtook another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Course {
    destination: Endpoint,
    place: u32,
}

/// What to do with a piece that the kernel answered.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Nothing, it is over.
    Sent,
    /// Nothing, it is over, and was charged to a reason.
    Failed,
    /// Issue it again, before any other to its destination.
    Again,
}

/// Everything on its way out of one queue.
pub(crate) struct Flight {
    v6: bool,
    runs: bool,
    runs_refused: bool,
    /// Socket index by shard.
    socket_of: Box<[u16]>,
    slots: Box<[Slot]>,
    free_slots: Vec<u32>,
    /// Slots that are not cut to the end, in order of acceptance; only the first may be cut in part.
    waiting: VecDeque<u32>,
    pieces: Box<[Piece]>,
    free_pieces: Vec<u32>,
    /// Pieces cut so far, modulo 2³².
    cut: u32,
    done: VecDeque<Completion>,
}

impl Flight {
    /// Room for `depth` buffers, which leave from the sockets of `shards`, in their order.
    pub(crate) fn new(depth: u16, shards: &[u16], v6: bool, runs: bool) -> Self {
        let depth = u32::from(depth);
        let mut socket_of = vec![NOWHERE; shards.iter().max().map_or(0, |&most| usize::from(most) + 1)];
        for (socket, &shard) in (0..NOWHERE).zip(shards) {
            socket_of[usize::from(shard)] = socket;
        }
        let slot = || Slot { transmit: None, socket: NOWHERE, cut: 0, pieces: 0, failed: false };
        Self {
            v6,
            runs,
            runs_refused: false,
            socket_of: socket_of.into(),
            slots: (0..depth).map(|_| slot()).collect(),
            free_slots: (0..depth).rev().collect(),
            waiting: VecDeque::with_capacity(depth as usize),
            pieces: (0..depth).map(|_| empty_piece()).collect(),
            free_pieces: (0..depth).rev().collect(),
            cut: 0,
            done: VecDeque::with_capacity(depth as usize),
        }
    }

    /// Takes items from the front while there is room; returns how many.
    #[inline]
    pub(crate) fn accept(&mut self, from: &mut TxBatch) -> usize {
        let room = self.slots.len().saturating_sub(self.held());
        let taken = room.min(from.len());
        for transmit in from.drain(..taken) {
            let socket = self.socket_of.get(usize::from(transmit.shard)).copied().unwrap_or(NOWHERE);
            let fits = transmit.offset.checked_add(transmit.len).is_some_and(|end| end <= transmit.buffer.capacity());
            let reachable =
                self.v6 || address::encode(&transmit.destination, false, &mut [0; SOCKADDR_BYTES]).is_some();
            match self.free_slots.pop() {
                Some(index) if socket != NOWHERE && fits && reachable => {
                    if let Some(slot) = self.slots.get_mut(index as usize) {
                        *slot = Slot { transmit: Some(transmit), socket, cut: 0, pieces: 0, failed: false };
                        self.waiting.push_back(index);
                    }
                }
                index => {
                    self.free_slots.extend(index);
                    self.done.push_back(completion(transmit, true));
                }
            }
        }
        taken
    }

    /// Cuts the next piece off the oldest buffer that is not cut to the end.
    #[inline]
    pub(crate) fn cut(&mut self) -> Option<u32> {
        let &slot_index = self.waiting.front()?;
        let slot = self.slots.get_mut(slot_index as usize)?;
        let transmit = slot.transmit.as_ref()?;
        let piece_index = *self.free_pieces.last()?;
        let piece = self.pieces.get_mut(piece_index as usize)?;
        let stride = transmit.stride.max(1);
        let rest = transmit.len - slot.cut;
        let frames = if self.runs { (SEGMENTED_BYTES_MAX / stride).clamp(1, SEGMENTS_MAX) } else { 1 };
        piece.len = rest.min(stride.saturating_mul(frames));
        piece.run = piece.len > stride;
        piece.stride = stride;
        if piece.run {
            // A run has at least two frames, so that its stride is below half of `SEGMENTED_BYTES_MAX`.
            piece.control = SegmentControl::new(u16::try_from(stride).unwrap_or(u16::MAX));
        }
        piece.start = transmit.buffer.address().as_ptr().wrapping_add((transmit.offset + slot.cut) as usize);
        piece.address_bytes = address::encode(&transmit.destination, self.v6, &mut piece.address).unwrap_or(0);
        (piece.slot, piece.socket, piece.stepping, piece.stepped) = (slot_index, slot.socket, false, 0);
        (piece.held, piece.ending) = (false, None);
        piece.place = self.cut;
        self.cut = self.cut.wrapping_add(1);
        slot.cut += piece.len;
        slot.pieces += 1;
        if slot.cut >= transmit.len {
            self.waiting.pop_front();
        }
        self.free_pieces.pop();
        Some(piece_index)
    }

    /// The piece with this number.
    #[inline]
    pub(crate) fn piece(&mut self, index: u32) -> Option<&mut Piece> {
        self.pieces.get_mut(index as usize)
    }

    /// Takes the kernel's answer: bytes sent, or the negative error number. With `held` the kernel keeps the memory, and the
    /// piece ends with [`Flight::let_go`].
    #[inline]
    pub(crate) fn settle(&mut self, index: u32, result: i32, held: bool) -> Settled {
        let Some(piece) = self.pieces.get_mut(index as usize) else { return Settled::Failed };
        piece.held = held;
        match result.wrapping_neg() {
            // The socket's send buffer is full, or a signal came: that passes.
            libc::EAGAIN | libc::EINTR => Settled::Again,
            // The device cannot cut runs (no checksum offload), or the stride is above its MTU: single frames tell which.
            libc::EIO | libc::EINVAL if piece.run => {
                (piece.run, piece.stepping) = (false, true);
                Settled::Again
            }
            error if error > 0 => {
                self.finish(index, true);
                Settled::Failed
            }
            _ if piece.stepping => {
                self.runs_refused |= self.runs;
                self.runs = false;
                piece.stepped += piece.bytes().1;
                if piece.stepped < piece.len {
                    return Settled::Again;
                }
                self.finish(index, false);
                Settled::Sent
            }
            _ => {
                self.finish(index, false);
                Settled::Sent
            }
        }
    }

    /// Where a piece goes, and its place in the order of cutting.
    pub(crate) fn course(&self, piece: u32) -> Option<Course> {
        let piece = self.pieces.get(piece as usize)?;
        let transmit = self.slots.get(piece.slot as usize)?.transmit.as_ref()?;
        Some(Course { destination: transmit.destination, place: piece.place })
    }

    /// A piece was sent. Those in `again` that were cut before it, for the same destination, were overtaken: to send them now
    /// would change the order, so they fail.
    pub(crate) fn fail_overtaken(&mut self, again: &mut VecDeque<u32>, sent: Course) {
        for _ in 0..again.len() {
            let Some(index) = again.pop_front() else { break };
            // At most `depth` pieces are out, so that a difference above half the range is one below 0.
            let overtaken = self.course(index).is_some_and(|course| {
                course.destination == sent.destination && sent.place.wrapping_sub(course.place) < u32::MAX / 2
            });
            if overtaken {
                self.finish(index, true);
            } else {
                again.push_back(index);
            }
        }
    }

    /// The kernel let go of a piece that it held.
    pub(crate) fn let_go(&mut self, index: u32) {
        let Some(piece) = self.pieces.get_mut(index as usize) else { return };
        piece.held = false;
        if let Some(failed) = piece.ending.take() {
            self.finish(index, failed);
        }
    }

    /// Ends a piece, once the kernel let go of it, and with the last one its slot.
    fn finish(&mut self, index: u32, failed: bool) {
        let Some(piece) = self.pieces.get_mut(index as usize) else { return };
        if piece.held {
            piece.ending = Some(failed);
            return;
        }
        let slot_index = piece.slot;
        let Some(slot) = self.slots.get_mut(slot_index as usize) else { return };
        self.free_pieces.push(index);
        slot.pieces -= 1;
        slot.failed |= failed;
        if failed && self.waiting.front() == Some(&slot_index) {
            // It is charged as a whole; what is not cut yet is not sent.
            self.waiting.pop_front();
            slot.cut = u32::MAX;
        }
        let whole = slot.transmit.as_ref().is_some_and(|transmit| slot.cut >= transmit.len);
        if slot.pieces == 0
            && whole
            && let Some(transmit) = slot.transmit.take()
        {
            self.done.push_back(completion(transmit, slot.failed));
            self.free_slots.push(slot_index);
        }
    }

    /// Moves what is done to `into`, up to its free room; returns how many.
    #[inline]
    pub(crate) fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        let count = into.remaining_capacity().min(self.done.len());
        into.extend(self.done.drain(..count));
        count
    }

    /// Buffers held, done ones included.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.slots.len() - self.free_slots.len() + self.done.len()
    }

    /// Whether something is done and not taken back.
    pub(crate) fn has_done(&self) -> bool {
        !self.done.is_empty()
    }

    /// Whether a device refused runs, so that frames are sent one by one from then on.
    pub(crate) const fn runs_refused(&self) -> bool {
        self.runs_refused
    }

    /// Whether the kernel has nothing of it, when the caller has `again` pieces to issue again.
    pub(crate) fn is_settled(&self, again: usize) -> bool {
        self.free_pieces.len() + again == self.pieces.len()
    }

    /// Gives back every buffer. Nothing may be issued any more.
    pub(crate) fn abandon(&mut self, pool: &mut Pool) {
        let slots = self.slots.iter_mut().filter_map(|slot| slot.transmit.take()).map(|transmit| transmit.buffer);
        let done = self.done.drain(..).map(|completion| completion.buffer);
        let buffers: Vec<Buffer> = slots.chain(done).collect();
        buffers.into_iter().for_each(|buffer| pool.put(buffer));
    }
}

fn completion(transmit: Transmit, failed: bool) -> Completion {
    let error = failed.then_some(Reason::TxSubmitFail);
    Completion { token: transmit.token, buffer: transmit.buffer, error }
}

fn empty_piece() -> Piece {
    Piece {
        // SAFETY: `msghdr` has integers and pointers only, for which zero is a value: "none of it".
        message: unsafe { mem::zeroed() },
        vector: libc::iovec { iov_base: ptr::null_mut(), iov_len: 0 },
        control: SegmentControl::new(0),
        address: [0; SOCKADDR_BYTES],
        address_bytes: 0,
        start: ptr::null_mut(),
        len: 0,
        stride: 1,
        slot: 0,
        place: 0,
        socket: 0,
        run: false,
        stepping: false,
        stepped: 0,
        held: false,
        ending: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::ptr::NonNull;

    const PEER: Endpoint = Endpoint::v4([127, 0, 0, 1], 7);
    const OTHER: Endpoint = Endpoint::v4([127, 0, 0, 1], 8);

    fn transmit(token: u32, len: u32, stride: u32, destination: Endpoint) -> Transmit {
        let bytes = NonNull::from(Box::leak(vec![0_u8; 65_536].into_boxed_slice())).cast();
        // SAFETY: leaked, so valid for ever, and nobody else has it.
        let buffer = unsafe { Buffer::from_raw(bytes, 65_536, token) };
        Transmit { buffer, offset: 64, len, stride, shard: 5, destination, token }
    }

    fn accept(flight: &mut Flight, items: impl IntoIterator<Item = Transmit>) {
        let mut batch: TxBatch = items.into_iter().collect();
        let count = batch.len();
        assert_eq!(flight.accept(&mut batch), count);
    }

    /// Token and failure of everything that is done.
    fn done(flight: &mut Flight) -> Vec<(u32, bool)> {
        let mut batch = CompletionBatch::new();
        flight.completions(&mut batch);
        batch.iter().map(|completion| (completion.token, completion.error.is_some())).collect()
    }

    /// Length of each piece of one buffer, and whether it is a run.
    fn pieces(runs: bool, len: u32, stride: u32) -> Vec<(u32, bool)> {
        let mut flight = Flight::new(2_000, &[5], false, runs);
        accept(&mut flight, [transmit(1, len, stride, PEER)]);
        let mut cut = Vec::new();
        while let Some(index) = flight.cut() {
            let piece = flight.piece(index).unwrap();
            cut.push((piece.bytes().1, piece.is_run()));
            assert_eq!(flight.settle(index, 0, false), Settled::Sent);
        }
        assert_eq!(done(&mut flight), [(1, false)]);
        assert_eq!(flight.held(), 0);
        cut
    }

    #[test]
    fn cuts_what_one_send_takes() {
        assert_eq!(pieces(true, 64, 64), [(64, false)]);
        assert_eq!(pieces(true, 0, 1), [(0, false)]);
        assert_eq!(pieces(true, 64, 0), pieces(true, 64, 1), "a stride of 0 does no harm");
        assert_eq!(pieces(true, 1472 * 44, 1472), [(64_768, true)]);
        assert_eq!(pieces(true, 64 * 130, 64), [(4_096, true), (4_096, true), (128, true)]);
        assert_eq!(pieces(true, 64 * 65, 64), [(4_096, true), (64, false)]);
        assert_eq!(pieces(true, 65_000, 32_704), [(65_000, true)]);
        assert_eq!(
            pieces(true, 65_472, 32_736),
            [(32_736, false), (32_736, false)],
            "65,472 is more than a receiver takes"
        );
        assert_eq!(pieces(false, 200, 64), [(64, false), (64, false), (64, false), (8, false)]);
    }

    #[test]
    fn takes_no_more_than_its_depth_until_it_is_taken_back() {
        let mut flight = Flight::new(3, &[5], false, true);
        let mut batch: TxBatch = (0..5).map(|token| transmit(token, 64, 64, PEER)).collect();
        assert_eq!(flight.accept(&mut batch), 3);
        assert_eq!(batch[0].token, 3);
        while let Some(index) = flight.cut() {
            flight.settle(index, 64, false);
        }
        assert_eq!(flight.accept(&mut batch), 0, "three are done and not taken back");
        assert_eq!(done(&mut flight), [(0, false), (1, false), (2, false)]);
        assert_eq!(flight.accept(&mut batch), 2);
        assert_eq!(flight.held(), 2);
    }

    #[test]
    fn a_device_that_refuses_runs_gets_frames_one_by_one() {
        let mut flight = Flight::new(8, &[5], false, true);
        accept(&mut flight, [transmit(1, 150, 64, PEER)]);
        let run = flight.cut().unwrap();
        assert_eq!(flight.settle(run, -libc::EIO, false), Settled::Again);
        let mut sent = Vec::new();
        for last in [false, false, true] {
            assert!(!flight.runs_refused() || !sent.is_empty(), "only a frame that went shows that runs were at fault");
            let piece = flight.piece(run).unwrap();
            assert!(piece.is_stepping() && !piece.is_run());
            sent.push(piece.bytes().1);
            assert_eq!(flight.settle(run, -libc::EAGAIN, false), Settled::Again);
            assert_eq!(flight.settle(run, 64, false), if last { Settled::Sent } else { Settled::Again });
        }
        assert_eq!(sent, [64, 64, 22]);
        assert_eq!(done(&mut flight), [(1, false)]);
        assert!(flight.runs_refused());
        accept(&mut flight, [transmit(2, 128, 64, PEER)]);
        let next = flight.cut().unwrap();
        assert!(!flight.piece(next).unwrap().is_run(), "from then on no runs are tried");
    }

    #[test]
    fn a_bad_destination_does_not_switch_runs_off() {
        let mut flight = Flight::new(8, &[5], false, true);
        accept(&mut flight, [transmit(1, 128, 64, PEER)]);
        let run = flight.cut().unwrap();
        assert_eq!(flight.settle(run, -libc::EINVAL, false), Settled::Again);
        assert_eq!(flight.settle(run, -libc::EINVAL, false), Settled::Failed);
        assert_eq!(done(&mut flight), [(1, true)]);
        assert!(!flight.runs_refused());
    }

    #[test]
    fn a_failure_ends_the_whole_buffer_once() {
        let mut flight = Flight::new(2, &[5], false, true);
        accept(&mut flight, [transmit(1, 64 * 300, 64, PEER), transmit(2, 64, 64, PEER)]);
        let (first, second) = (flight.cut().unwrap(), flight.cut().unwrap());
        assert_eq!(flight.cut(), None, "there are two pieces in all");
        assert_eq!(flight.settle(first, -libc::ENETUNREACH, false), Settled::Failed);
        assert_eq!(done(&mut flight), [], "a piece is still out");
        assert_eq!(flight.settle(second, 4_096, false), Settled::Sent);
        assert_eq!(done(&mut flight), [(1, true)]);
        let next = flight.cut().unwrap();
        assert_eq!(flight.settle(next, 64, false), Settled::Sent);
        assert_eq!(done(&mut flight), [(2, false)]);
    }

    #[test]
    fn what_was_overtaken_fails_and_the_rest_stays_in_order() {
        let mut flight = Flight::new(8, &[5], false, true);
        flight.cut = u32::MAX - 1; // so that places wrap
        let to = |token| if token == 2 { OTHER } else { PEER };
        accept(&mut flight, [1, 2, 3, 4, 5].map(|token| transmit(token, 64, 64, to(token))));
        let cut: Vec<u32> = (0..5).map(|_| flight.cut().unwrap()).collect();
        let mut again: VecDeque<u32> = [0, 1, 2, 4].map(|at| cut[at]).into();
        let fourth = flight.course(cut[3]).unwrap();
        assert_eq!(flight.settle(cut[3], 64, false), Settled::Sent);
        flight.fail_overtaken(&mut again, fourth);
        assert_eq!(again, [cut[1], cut[4]], "another destination, and one behind it");
        assert_eq!(done(&mut flight), [(4, false), (1, true), (3, true)]);
        assert!(flight.is_settled(2));
    }

    #[test]
    fn a_held_piece_ends_when_it_is_let_go() {
        let mut flight = Flight::new(8, &[5], false, true);
        accept(&mut flight, [1, 2, 3].map(|token| transmit(token, 64, 64, PEER)));
        let cut: Vec<u32> = (0..3).map(|_| flight.cut().unwrap()).collect();
        assert_eq!(flight.settle(cut[0], -libc::EAGAIN, true), Settled::Again);
        let mut again = VecDeque::from([cut[0]]);
        let second = flight.course(cut[1]).unwrap();
        assert_eq!(flight.settle(cut[1], 64, true), Settled::Sent);
        flight.fail_overtaken(&mut again, second);
        assert_eq!((again.len(), done(&mut flight)), (0, vec![]), "the kernel may still look at both");
        assert_eq!(flight.settle(cut[2], -libc::EAGAIN, true), Settled::Again);
        assert!(flight.piece(cut[2]).unwrap().is_held());
        for index in [cut[1], cut[0], cut[2]] {
            flight.let_go(index);
        }
        assert_eq!(done(&mut flight), [(2, false), (1, true)]);
        assert!(!flight.piece(cut[2]).unwrap().is_held(), "this one can be issued again");
        assert!(flight.is_settled(1));
    }

    #[test]
    fn abandoning_gives_every_buffer_back() {
        let mut flight = Flight::new(4, &[5], false, true);
        accept(&mut flight, (0..4).map(|token| transmit(token, 64, 64, PEER)));
        let index = flight.cut().unwrap();
        flight.settle(index, 64, false);
        let mut pool = Pool::new((0..4).map(|token| transmit(token, 64, 64, PEER).buffer).collect());
        while pool.get().is_some() {}
        flight.abandon(&mut pool);
        assert_eq!(pool.free(), 4);
    }
}
