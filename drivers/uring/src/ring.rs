//! The io_uring mode: one ring, one multishot receive per socket, sends that finish inside the call that submits them.

use crate::{
    ArenaRegion, UringConfig,
    flight::{Flight, Settled},
    provided::{self, FRAMES_OFFSET, GROUP, Provided},
    received::frames,
    socket::ShardSocket,
};
use io_uring::{
    IoUring, cqueue, opcode,
    squeue::Entry,
    types::{CancelBuilder, Fixed, SubmitArgs, Timespec},
};
use std::{
    collections::VecDeque,
    io,
    mem::{self, MaybeUninit},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tachyon_driver_api::{BURST_MAX, CompletionBatch, Pool, QueueStats, RxBatch};

/// `IORING_ENTER_GETEVENTS`: run what the kernel put off until we ask (`DEFER_TASKRUN`).
const GETEVENTS: u32 = 1;
/// `IORING_ENTER_EXT_ARG`: the argument holds a time limit.
const EXT_ARG: u32 = 1 << 3;
/// Marks a completion as one of a receive; below it is the socket's index. Without it: the piece's index.
const RECEIVE: u64 = 1 << 32;
/// Largest region the kernel registers as one fixed buffer: 1 GiB.
const FIXED_BYTES_MAX: usize = 1 << 30;
/// Pieces that go one per call after a socket was full: sixteen bursts of 64 that go well, and it is trusted again.
const CAREFUL_PIECES: u32 = 1_024;
/// How often, 10 ms apart, a closing ring looks whether everything is cancelled before it gives up: a second in all.
const CLOSE_TRIES: u32 = 100;

/// What arrived and was not handed on.
struct Arrival {
    bytes: u32,
    buffer_id: u16,
    socket: u16,
}

/// One worker's ring. The ring is declared first, so that it is closed before what its requests point at goes away.
pub(crate) struct Ring {
    ring: IoUring,
    provided: Provided,
    pub(crate) flight: Flight,
    pub(crate) sockets: Vec<ShardSocket>,
    template: Box<libc::msghdr>,
    /// Whether the socket's multishot receive is in the kernel, by socket index.
    armed: Box<[bool]>,
    unarmed: usize,
    arrivals: VecDeque<Arrival>,
    /// Pieces to issue again, in order.
    again: VecDeque<u32>,
    /// The socket that is asked for first.
    first: usize,
    /// Pieces that still go one per call: while a socket is full, a later one could fit where an earlier one did not.
    careful: u32,
    /// Pieces that were issued and not answered.
    issued: usize,
    zero_copy: bool,
    fixed: Option<ArenaRegion>,
    drops_unknown: bool,
    runs_refused: Arc<AtomicBool>,
    pub(crate) stats: QueueStats,
}

/// Makes a ring with every flag this driver relies on.
fn build(entries: u32, completions: u32) -> io::Result<IoUring> {
    IoUring::builder()
        .setup_single_issuer()
        .setup_defer_taskrun()
        .setup_taskrun_flag()
        .setup_submit_all()
        .setup_cqsize(completions)
        .build(entries)
}

/// Whether the kernel gives us a ring.
pub(crate) fn probe() -> io::Result<()> {
    build(8, 16).map(drop)
}

impl Ring {
    /// Opens the ring of the thread that calls this.
    pub(crate) fn open(
        config: &UringConfig,
        sockets: Vec<ShardSocket>,
        runs: bool,
        runs_refused: Arc<AtomicBool>,
        degraded: &mut Vec<String>,
        pool: &mut Pool,
    ) -> io::Result<Self> {
        let (depth, count) = (u32::from(config.tx_depth), u32::try_from(sockets.len()).unwrap_or(u32::MAX));
        // Every buffer and every piece (twice, with its notification) can complete, and every receive can end, before we look.
        let completions = 2 * depth + 2 * u32::from(config.rx_buffers).next_power_of_two() + 2 * count;
        let ring = build((depth + count).next_power_of_two(), completions.next_power_of_two())?;
        let fds: Vec<_> = sockets.iter().map(ShardSocket::fd).collect();
        ring.submitter().register_files(&fds)?;
        let fixed = config.arena.filter(|_| config.zero_copy).and_then(|arena| register(&ring, arena, degraded));
        let mut provided = Provided::register(&ring, config.rx_buffers)?;
        provided.refill(pool);
        let shards: Vec<u16> = sockets.iter().map(|socket| socket.shard).collect();
        let mut this = Self {
            flight: Flight::new(config.tx_depth, &shards, config.bind_ip.is_ipv6(), runs),
            template: Box::new(provided::message_template()),
            armed: vec![false; sockets.len()].into(),
            first: 0,
            unarmed: sockets.len(),
            arrivals: VecDeque::with_capacity(provided.entries()),
            again: VecDeque::with_capacity(usize::from(config.tx_depth)),
            issued: 0,
            careful: 0,
            zero_copy: config.zero_copy,
            fixed,
            drops_unknown: false,
            runs_refused,
            stats: QueueStats::default(),
            ring,
            provided,
            sockets,
        };
        this.arm();
        this.enter(0, None);
        Ok(this)
    }

    #[inline]
    pub(crate) fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        self.provided.refill(pool);
        if self.unarmed > 0 && self.provided.has_room() {
            self.arm();
        }
        self.issue();
        let room = into.remaining_capacity();
        let (queued, asked) = {
            let queue = self.ring.submission();
            (!queue.is_empty(), queue.taskrun() || queue.cq_overflow())
        };
        if queued || (asked && self.arrivals.len() < room) {
            self.enter(0, None);
        }
        self.reap();
        self.deliver(pool, into)
    }

    #[inline]
    pub(crate) fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        self.reap();
        self.flight.completions(into)
    }

    pub(crate) fn wait(&mut self, ns: u64) {
        self.issue();
        self.reap();
        if !self.arrivals.is_empty() || self.flight.has_done() {
            return;
        }
        let time = Timespec::from(Duration::from_nanos(ns));
        self.enter(1, Some(&SubmitArgs::new().timespec(&time)));
        self.reap();
        if self.arrivals.is_empty() && mem::take(&mut self.drops_unknown) {
            for socket in &mut self.sockets {
                self.stats.overflow += socket.look_for_drops();
                self.stats.syscalls += 1;
            }
        }
    }

    pub(crate) fn held(&self) -> usize {
        self.provided.held() + self.flight.held()
    }

    /// Submits what is queued and lets the kernel do what it put off; waits for `wanted` completions if there is a limit.
    fn enter(&mut self, wanted: u32, limit: Option<&SubmitArgs<'_, '_>>) {
        let queued = u32::try_from(self.ring.submission().len()).unwrap_or(u32::MAX);
        self.stats.syscalls += 1;
        let flags = if limit.is_some() { GETEVENTS | EXT_ARG } else { GETEVENTS };
        // SAFETY: the flags match the argument, and every queued entry's memory is valid until it completes (see `push`).
        let result = unsafe { self.ring.submitter().enter(queued, wanted, flags, limit) };
        // EINTR and a full completion queue pass; what was not submitted stays queued for the next call. A thread that did
        // not open the ring gets EEXIST: a bug in the caller, which tests must see.
        debug_assert!(
            !matches!(&result, Err(e) if e.raw_os_error() == Some(libc::EEXIST)),
            "a queue was polled by a thread that did not open it"
        );
    }

    /// Queues an entry; `false` if there is no room.
    #[inline]
    fn push(&mut self, entry: &Entry) -> bool {
        // SAFETY: entries point at the template, at pieces or at buffers in flight: all on the heap or in the arena, where
        // they stay until the completion. `Drop` cancels and waits before any of it goes away.
        unsafe { self.ring.submission().push(entry) }.is_ok()
    }

    /// Queues a receive for each socket that has none. Under overload all of them end in every turn, because the first ones
    /// take all the buffers; so each turn begins with another one.
    fn arm(&mut self) {
        let count = self.armed.len();
        self.first = (self.first + 1) % count.max(1);
        for index in (self.first..count).chain(0..self.first) {
            if self.armed.get(index) != Some(&false) {
                continue;
            }
            // At most `SHARDS_MAX` sockets.
            let file = Fixed(u32::try_from(index).unwrap_or(u32::MAX));
            // MSG_TRUNC: tell the true length of what did not fit, so that nothing is lost silently.
            let entry = opcode::RecvMsgMulti::new(file, &raw const *self.template, GROUP)
                .flags(libc::MSG_TRUNC.cast_unsigned())
                .build()
                .user_data(RECEIVE | index as u64);
            if !self.push(&entry) {
                return;
            }
            if let Some(armed) = self.armed.get_mut(index) {
                *armed = true;
                self.unarmed -= 1;
            }
        }
    }

    /// Queues what has to be sent again, and new pieces only if nothing has. All sends carry MSG_DONTWAIT, so that each is
    /// answered inside the call that submits it and none can overtake another by waiting. That leaves one way: a socket gets
    /// room in the middle of a burst. Then what was overtaken fails, and for a while pieces go one by one.
    #[inline]
    fn issue(&mut self) {
        if self.issued > 0 {
            return;
        }
        while let Some(&piece) = self.again.front() {
            if self.flight.piece(piece).is_some_and(|piece| piece.is_held()) || !self.issue_piece(piece) {
                return;
            }
            self.again.pop_front();
            if self.careful > 0 {
                return;
            }
        }
        while self.issued == 0 || self.careful == 0 {
            let Some(piece) = self.flight.cut() else { return };
            if !self.issue_piece(piece) {
                self.again.push_back(piece);
                return;
            }
        }
    }

    /// Queues one piece; `false` if there is no room.
    #[inline]
    fn issue_piece(&mut self, index: u32) -> bool {
        let (zero_copy, fixed) = (self.zero_copy, self.fixed);
        let Some(piece) = self.flight.piece(index) else { return true };
        let file = Fixed(u32::from(piece.socket()));
        let flags = libc::MSG_DONTWAIT;
        // A plain SEND with an address would save a copy of the header, but kernels before 6.2 refuse it.
        let entry = match (zero_copy, piece.is_run()) {
            (false, _) => opcode::SendMsg::new(file, piece.message()).flags(flags.cast_unsigned()).build(),
            (true, true) => opcode::SendMsgZc::new(file, piece.message()).flags(flags.cast_unsigned()).build(),
            (true, false) => {
                let (start, len) = piece.bytes();
                let (address, address_bytes) = piece.address();
                opcode::SendZc::new(file, start, len)
                    .flags(flags)
                    .dest_addr(address)
                    .dest_addr_len(address_bytes)
                    .buf_index(fixed.and_then(|arena| fixed_index(arena, start, len)))
                    .build()
            }
        };
        let pushed = self.push(&entry.user_data(u64::from(index)));
        self.issued += usize::from(pushed);
        pushed
    }

    /// Looks at every completion there is.
    #[inline]
    fn reap(&mut self) {
        let mut room = [const { MaybeUninit::<cqueue::Entry>::uninit() }; BURST_MAX];
        loop {
            let entries = self.ring.completion().fill(&mut room);
            if entries.is_empty() {
                return;
            }
            for entry in entries {
                #[expect(clippy::cast_possible_truncation, reason = "the upper half is the mark, the lower an index")]
                let index = entry.user_data() as u32;
                if entry.user_data() & RECEIVE != 0 {
                    self.received(index, entry.result(), entry.flags());
                } else {
                    self.answered(index, entry.result(), entry.flags());
                }
            }
        }
    }

    /// A receive filled a buffer or ended.
    #[inline]
    fn received(&mut self, socket: u32, result: i32, flags: u32) {
        if let (Ok(bytes), Some(buffer_id), Ok(socket)) =
            (u32::try_from(result), cqueue::buffer_select(flags), u16::try_from(socket))
        {
            self.provided.mark_filled();
            self.arrivals.push_back(Arrival { bytes, buffer_id, socket });
        }
        // The ring is kept small, so that it runs dry also while the pool has buffers; then it is only filled again.
        self.stats.starved += u64::from(result == -libc::ENOBUFS && self.provided.is_short());
        if !cqueue::more(flags)
            && let Some(armed) = self.armed.get_mut(socket as usize)
        {
            *armed = false;
            self.unarmed += 1;
        }
    }

    /// A send was answered, or the kernel let go of a zero-copy buffer.
    #[inline]
    fn answered(&mut self, index: u32, result: i32, flags: u32) {
        if cqueue::notif(flags) {
            self.flight.let_go(index);
            return;
        }
        self.issued = self.issued.saturating_sub(1);
        let course = if self.again.is_empty() { None } else { self.flight.course(index) };
        match (self.flight.settle(index, result, cqueue::more(flags)), course) {
            (Settled::Again, _) => {
                self.again.push_back(index);
                self.careful = CAREFUL_PIECES;
            }
            (Settled::Sent, Some(course)) => self.flight.fail_overtaken(&mut self.again, course),
            _ => self.careful = self.careful.saturating_sub(u32::from(self.again.is_empty())),
        }
        if self.flight.runs_refused() {
            self.runs_refused.store(true, Ordering::Relaxed);
        }
    }

    /// Hands on what arrived.
    #[inline]
    fn deliver(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        let before = into.len();
        while !into.is_full() {
            let Some(arrival) = self.arrivals.pop_front() else { break };
            let Some(buffer) = self.provided.take(arrival.buffer_id, arrival.bytes as usize) else { continue };
            let (Some(head), Some(socket)) =
                (provided::head(&buffer), self.sockets.get_mut(usize::from(arrival.socket)))
            else {
                pool.put(buffer);
                continue;
            };
            self.drops_unknown = true;
            self.stats.overflow += head.control.drops.map_or(0, |drops| socket.dropped(drops));
            let found = frames(buffer, FRAMES_OFFSET, head, socket.shard);
            self.stats.overflow += found.1;
            into.push(found.0);
        }
        into.len() - before
    }

    /// Ends every request, so that the kernel writes into nothing that is ours any more; returns whether that worked.
    fn quiesce(&mut self) -> bool {
        for _ in 0..CLOSE_TRIES {
            // What is queued and not submitted must go through the kernel too, or it would be forgotten.
            self.enter(0, None);
            // An error says that nothing matched, or that this is not the thread that opened the ring.
            let _ = self.ring.submitter().register_sync_cancel(Some(Timespec::new()), CancelBuilder::any());
            let time = Timespec::from(Duration::from_millis(10));
            self.enter(0, None);
            self.reap();
            if self.unarmed == self.armed.len() && self.flight.is_settled(self.again.len()) {
                return true;
            }
            self.enter(1, Some(&SubmitArgs::new().timespec(&time)));
        }
        false
    }

    pub(crate) fn close(mut self: Box<Self>, pool: &mut Pool) {
        if self.quiesce() {
            self.provided.abandon(pool);
            self.flight.abandon(pool);
        }
    }
}

impl Drop for Ring {
    fn drop(&mut self) {
        if self.quiesce() {
            // The ring goes away some time after its descriptor is closed; this lets go of the ports now.
            let _ = self.ring.submitter().unregister_files();
        }
    }
}

/// Registers the arena as fixed buffers of at most 1 GiB each; without them sends still work.
fn register(ring: &IoUring, arena: ArenaRegion, degraded: &mut Vec<String>) -> Option<ArenaRegion> {
    let parts: Vec<libc::iovec> = (0..arena.bytes)
        .step_by(FIXED_BYTES_MAX)
        .map(|at| libc::iovec {
            iov_base: core::ptr::without_provenance_mut(arena.base + at),
            iov_len: FIXED_BYTES_MAX.min(arena.bytes - at),
        })
        .collect();
    // SAFETY: the kernel checks the range and keeps its own reference to the pages; sends name buffers only.
    let result = unsafe { ring.submitter().register_buffers(&parts) };
    match result {
        Ok(()) => Some(arena),
        Err(e) => {
            let fix = "raise RLIMIT_MEMLOCK (`ulimit -l`) or give CAP_IPC_LOCK";
            let line = format!("the arena is not registered, each zero-copy send pins its pages: {e}; {fix}");
            if !degraded.contains(&line) {
                degraded.push(line);
            }
            None
        }
    }
}

/// The fixed buffer that holds these bytes; `None` if no single one does.
fn fixed_index(arena: ArenaRegion, start: *const u8, len: u32) -> Option<u16> {
    let at = start.addr().checked_sub(arena.base)?;
    let end = at.checked_add(len as usize)?;
    let (first, last) = (at / FIXED_BYTES_MAX, end.saturating_sub(1).max(at) / FIXED_BYTES_MAX);
    if end <= arena.bytes && first == last { u16::try_from(first).ok() } else { None }
}
