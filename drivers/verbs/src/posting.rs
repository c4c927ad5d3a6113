//! Real queue pairs, the hot half: posting and polling, by the pointers that verbs' own inline functions call.

use crate::{
    device::{Completed, CompletedBatch, Device, Receive, Status, To, Work},
    devices::{failed, made},
    hardware::{AddressHandle, Opened, QueuePair, Queues, RingRegion},
};
use core::{
    mem::{self, MaybeUninit},
    ptr,
};
use std::{sync::Arc, time::Duration};
use tachyon_driver_api::{BURST_MAX, PortError};
use tachyon_driver_verbs_sys as sys;

/// Longest sleep of an idle worker that no device wakes: the most that a frame may wait for an idle poll.
const NAP_NS: u64 = 10_000;
/// Wakings that are acknowledged together, because acknowledging takes a lock.
const ACKNOWLEDGE: u32 = 64;

/// One completion queue, and the channel that wakes its worker if it is to be woken.
///
/// Completions are read in place (`ibv_start_poll`) on `mlx5`, and copied (`ibv_poll_cq`) elsewhere: the soft device of
/// rdma-core 44 lets go of its lock when there is no next completion and then skips one when the poll ends.
#[derive(Debug)]
pub(crate) struct Completions {
    queue: *mut sys::ibv_cq_ex,
    channel: *mut sys::ibv_comp_channel,
    extended: bool,
}

impl Completions {
    pub(crate) fn new(opened: &Opened, entries: u32, extended: bool, events: bool) -> Result<Self, PortError> {
        let context = opened.context.0;
        let mut channel = ptr::null_mut();
        if events {
            // SAFETY: an open device.
            channel = made(
                unsafe { sys::ibv_create_comp_channel(context) },
                &opened.name,
                "it cannot wake a worker",
                "set events = false",
            )?;
            // SAFETY: the channel's own descriptor.
            let result = unsafe {
                let fd = (*channel).fd;
                libc::fcntl(fd, libc::F_SETFL, libc::fcntl(fd, libc::F_GETFL) | libc::O_NONBLOCK)
            };
            if result < 0 {
                let what = "its wakings cannot be read without waiting";
                let error = failed(&opened.name, what, 0, "set events = false");
                // SAFETY: made above, and nothing uses it.
                unsafe { destroy_channel(channel) };
                return Err(error);
            }
        }
        let flags = sys::IBV_WC_EX_WITH_BYTE_LEN
            | sys::IBV_WC_EX_WITH_IMM
            | sys::IBV_WC_EX_WITH_QP_NUM
            | sys::IBV_WC_EX_WITH_SRC_QP;
        // Without the flag for one thread: the cold side resets queue pairs, which looks into the queue, while a worker polls.
        // SAFETY: zeros are a value of this plain structure, which verbs reads.
        let queue = unsafe {
            let mut wanted: sys::ibv_cq_init_attr_ex = mem::zeroed();
            (wanted.cqe, wanted.channel, wanted.wc_flags) = (entries, channel, u64::from(flags));
            sys::ibv_create_cq_ex(context, &raw mut wanted)
        };
        let hint = "lower receive_depth, send_depth or connections_max";
        let queue = made(queue, &opened.name, "a completion queue cannot be made", hint).inspect_err(|_| {
            // SAFETY: made above if it was wanted, and there is no queue that would use it.
            unsafe { destroy_channel(channel) }
        })?;
        Ok(Self { queue, channel, extended })
    }

    /// The same as queue pairs ask for it.
    pub(crate) const fn queue(&self) -> *mut sys::ibv_cq {
        self.queue.cast() // `ibv_cq_ex_to_cq` is this cast
    }

    pub(crate) fn destroy(&self) {
        // SAFETY: made in `new`, destroyed once, after whatever completes into it; all wakings were acknowledged.
        unsafe {
            sys::ibv_destroy_cq(self.queue());
            destroy_channel(self.channel);
        }
    }
}

/// Ends a channel, if there is one.
///
/// # Safety
/// It was made by verbs, and nothing uses it any more.
unsafe fn destroy_channel(channel: *mut sys::ibv_comp_channel) {
    if !channel.is_null() {
        // SAFETY: as promised.
        unsafe { sys::ibv_destroy_comp_channel(channel) };
    }
}

/// One worker's part of a device.
#[derive(Debug)]
pub struct HardwareDevice {
    queues: Arc<Queues>,
    lkey: u32,
    /// Whether the device's doorbell is a syscall: `mlx5` maps its own, the soft device writes to its descriptor.
    soft: bool,
    /// Wakings that were not acknowledged yet.
    woken: u32,
    syscalls: u64,
}

// SAFETY: one owner polls and posts; the handles in it may be used by any thread.
unsafe impl Send for HardwareDevice {}

impl HardwareDevice {
    pub(crate) const fn new(queues: Arc<Queues>, lkey: u32, soft: bool) -> Self {
        Self { queues, lkey, soft, woken: 0, syscalls: 0 }
    }

    /// Reads completions in place.
    #[inline]
    fn poll_in_place(&self, into: &mut CompletedBatch) {
        let queue = self.queues.completions.queue;
        // SAFETY: the queue lives; its pointers were set by the provider when it was made, those for what was asked for included.
        // Between start and end this is the only reader, and nothing is read before start or a next said that there is something.
        unsafe {
            let mut attributes = sys::ibv_poll_cq_attr { comp_mask: 0 };
            if ((*queue).start_poll.unwrap_unchecked())(queue, &raw mut attributes) != 0 {
                return;
            }
            loop {
                let status = status((*queue).status);
                let good = status == Status::Good;
                let mut completed = Completed {
                    id: (*queue).wr_id,
                    status,
                    len: 0,
                    immediate: None,
                    qpn: 0,
                    source_qpn: 0,
                    written: false,
                };
                if good && completed.id & crate::device::RECEIVE != 0 {
                    let flags = ((*queue).read_wc_flags.unwrap_unchecked())(queue);
                    let immediate = ((*queue).read_imm_data.unwrap_unchecked())(queue);
                    completed.immediate = (flags & sys::IBV_WC_WITH_IMM != 0).then(|| u32::from_be(immediate));
                    completed.len = ((*queue).read_byte_len.unwrap_unchecked())(queue);
                    completed.qpn = ((*queue).read_qp_num.unwrap_unchecked())(queue);
                    completed.source_qpn = ((*queue).read_src_qp.unwrap_unchecked())(queue);
                    let opcode = ((*queue).read_opcode.unwrap_unchecked())(queue);
                    completed.written = opcode == sys::IBV_WC_RECV_RDMA_WITH_IMM;
                }
                into.push(completed);
                if into.is_full() || ((*queue).next_poll.unwrap_unchecked())(queue) != 0 {
                    break;
                }
            }
            ((*queue).end_poll.unwrap_unchecked())(queue);
        }
    }

    /// Has completions copied.
    #[inline]
    fn poll_copied(&self, into: &mut CompletedBatch) {
        let queue = self.queues.completions.queue();
        let room = into.remaining_capacity();
        // Not zeroed: three kilobytes would be written for each poll that finds nothing.
        let mut found = [const { MaybeUninit::<sys::ibv_wc>::uninit() }; BURST_MAX];
        // SAFETY: the provider fills as many as it says, at most as many as it is told, and no others are read. This is
        // `ibv_poll_cq` without its wrapper.
        unsafe {
            let poll = (*(*queue).context).ops.poll_cq.unwrap_unchecked();
            let count = poll(queue, i32::try_from(room.min(BURST_MAX)).unwrap_or(0), found.as_mut_ptr().cast());
            for one in &found[..usize::try_from(count).unwrap_or(0)] {
                let one = one.assume_init_ref();
                let with_immediate = one.wc_flags & sys::IBV_WC_WITH_IMM != 0;
                into.push(Completed {
                    id: one.wr_id,
                    status: status(one.status),
                    len: one.byte_len,
                    immediate: with_immediate.then(|| u32::from_be(one.__bindgen_anon_1.imm_data)),
                    qpn: one.qp_num,
                    source_qpn: one.src_qp,
                    written: one.opcode == sys::IBV_WC_RECV_RDMA_WITH_IMM,
                });
            }
        }
    }
}

#[inline]
const fn status(code: sys::ibv_wc_status) -> Status {
    match code {
        sys::IBV_WC_SUCCESS => Status::Good,
        sys::IBV_WC_WR_FLUSH_ERR => Status::Flushed,
        sys::IBV_WC_RETRY_EXC_ERR | sys::IBV_WC_RESP_TIMEOUT_ERR => Status::NoAnswer,
        sys::IBV_WC_RNR_RETRY_EXC_ERR => Status::NotReady,
        code => Status::Fault(code),
    }
}

impl Device for HardwareDevice {
    type Pair = Arc<QueuePair>;
    type Address = AddressHandle;
    type Ring = RingRegion;

    #[inline]
    fn start(&mut self, pair: &Arc<QueuePair>) {
        let posting = pair.posting;
        // SAFETY: the queue pair lives and was made with these operations, so the provider set the pointers.
        unsafe { ((*posting).wr_start.unwrap_unchecked())(posting) }
    }

    #[inline]
    unsafe fn push(&mut self, pair: &Arc<QueuePair>, work: &Work, to: To<'_, AddressHandle>) {
        let posting = pair.posting;
        let inline = work.inline && work.len <= pair.inline_bytes;
        // SAFETY: as in `start`, between it and `finish`; the caller promised that the bytes lie in the arena, whose key this is.
        // Of the setters each is called once per piece of work: the address of a datagram, and the bytes or where they are.
        unsafe {
            (*posting).wr_id = work.id;
            // That bytes are inline is said twice, because the soft device looks at the flag and mlx5 at the call.
            let signalled = if work.signalled { sys::IBV_SEND_SIGNALED } else { 0 };
            (*posting).wr_flags = signalled | if inline { sys::IBV_SEND_INLINE } else { 0 };
            let immediate = work.immediate.to_be();
            match to {
                To::Memory { rkey, address } => {
                    ((*posting).wr_rdma_write_imm.unwrap_unchecked())(posting, rkey.0, address, immediate);
                }
                To::Peer => ((*posting).wr_send_imm.unwrap_unchecked())(posting, immediate),
                To::Datagram { address, qpn, qkey } => {
                    ((*posting).wr_send_imm.unwrap_unchecked())(posting, immediate);
                    ((*posting).wr_set_ud_addr.unwrap_unchecked())(posting, address.handle, qpn, qkey.0);
                }
            }
            if inline {
                let bytes = ptr::with_exposed_provenance_mut(work.address as usize);
                ((*posting).wr_set_inline_data.unwrap_unchecked())(posting, bytes, work.len as usize);
            } else {
                ((*posting).wr_set_sge.unwrap_unchecked())(posting, self.lkey, work.address, work.len);
            }
        }
    }

    #[inline]
    fn finish(&mut self, pair: &Arc<QueuePair>) -> bool {
        let posting = pair.posting;
        self.syscalls += u64::from(self.soft);
        // SAFETY: as in `start`.
        unsafe { ((*posting).wr_complete.unwrap_unchecked())(posting) == 0 }
    }

    #[inline]
    unsafe fn receive(&mut self, receives: &[Receive]) -> usize {
        let count = receives.len().min(BURST_MAX);
        if count == 0 {
            return 0;
        }
        let mut pieces = [const { MaybeUninit::<sys::ibv_sge>::uninit() }; BURST_MAX];
        let mut requests = [const { MaybeUninit::<sys::ibv_recv_wr>::uninit() }; BURST_MAX];
        let first_piece = pieces.as_mut_ptr().cast::<sys::ibv_sge>();
        let first = requests.as_mut_ptr().cast::<sys::ibv_recv_wr>();
        // SAFETY: the first `count` of each are written before they are read, and form a list that lives through the call, which
        // is `ibv_post_srq_recv` without its wrapper; the caller promised the memory.
        unsafe {
            for (at, receive) in receives[..count].iter().enumerate() {
                *first_piece.add(at) = sys::ibv_sge { addr: receive.address, length: receive.len, lkey: self.lkey };
                let next = if at + 1 < count { first.add(at + 1) } else { ptr::null_mut() };
                let sg_list = first_piece.add(at);
                *first.add(at) = sys::ibv_recv_wr { wr_id: receive.id, next, sg_list, num_sge: 1 };
            }
            let queue = self.queues.receive;
            let mut refused = ptr::null_mut();
            let post = (*(*queue).context).ops.post_srq_recv.unwrap_unchecked();
            if post(queue, first, &raw mut refused) == 0 {
                return count;
            }
            usize::try_from(refused.offset_from(first)).unwrap_or(0).min(count)
        }
    }

    #[inline]
    fn poll(&mut self, into: &mut CompletedBatch) {
        if self.queues.completions.extended { self.poll_in_place(into) } else { self.poll_copied(into) }
    }

    fn arm(&mut self) {
        if self.queues.completions.channel.is_null() {
            return;
        }
        let queue = self.queues.completions.queue();
        // SAFETY: the queue lives. This is `ibv_req_notify_cq` for any completion.
        unsafe { sys::ibv_req_notify_cq(queue, 0) };
        self.syscalls += u64::from(self.soft);
    }

    fn sleep(&mut self, ns: u64) {
        let channel = self.queues.completions.channel;
        if channel.is_null() {
            std::thread::sleep(Duration::from_nanos(ns.min(NAP_NS)));
            self.syscalls += 1;
            return;
        }
        // SAFETY: the channel lives, its descriptor does not block, and all pointers are to locals that live through the calls.
        unsafe {
            let mut wanted = libc::pollfd { fd: (*channel).fd, events: libc::POLLIN, revents: 0 };
            let seconds = i64::try_from(ns / 1_000_000_000).unwrap_or(i64::MAX);
            let limit = libc::timespec { tv_sec: seconds, tv_nsec: (ns % 1_000_000_000).cast_signed() };
            self.syscalls += 1;
            if libc::ppoll(&raw mut wanted, 1, &raw const limit, ptr::null()) <= 0 {
                return;
            }
            let (mut queue, mut ours) = (ptr::null_mut(), ptr::null_mut());
            while sys::ibv_get_cq_event(channel, &raw mut queue, &raw mut ours) == 0 {
                self.woken += 1;
                self.syscalls += 1;
            }
        }
        if self.woken >= ACKNOWLEDGE {
            self.acknowledge();
        }
    }

    fn syscalls(&self) -> u64 {
        self.syscalls
    }
}

impl HardwareDevice {
    /// A completion queue is destroyed only once every waking was acknowledged.
    fn acknowledge(&mut self) {
        // SAFETY: as many as were read.
        unsafe { sys::ibv_ack_cq_events(self.queues.completions.queue(), mem::take(&mut self.woken)) };
    }
}

impl Drop for HardwareDevice {
    fn drop(&mut self) {
        self.acknowledge();
    }
}
