//! Packets by their descriptors: owned, moved in bursts, and the two calls that receive and send them.
//!
//! This is the layer below buffers and frames, and what the plain forwarding of this driver is measured on.

use arrayvec::ArrayVec;
use core::ptr::NonNull;
use tachyon_driver_api::BURST_MAX;
use tachyon_driver_dpdk_sys::{self as sys, rte_mbuf};

/// A packet that this thread owns. Move-only: what was sent cannot be touched. It has no `Drop`, because nearly all are
/// sent; [`Packet::free`] is for the others.
#[derive(Debug)]
#[repr(transparent)]
pub struct Packet(NonNull<rte_mbuf>);

impl Packet {
    /// # Safety
    /// The caller owns the descriptor and everything that hangs on it.
    #[inline(always)]
    pub(crate) const unsafe fn own(m: NonNull<rte_mbuf>) -> Self {
        Self(m)
    }

    /// The descriptor, which the caller owns from here on.
    #[inline(always)]
    pub(crate) const fn disown(self) -> NonNull<rte_mbuf> {
        self.0
    }

    /// The descriptor, for as long as the packet is not given away.
    #[inline(always)]
    pub(crate) const fn descriptor(&self) -> NonNull<rte_mbuf> {
        self.0
    }

    /// Gives it back to its pool.
    pub fn free(self) {
        // SAFETY: owned, so it is freed once.
        unsafe { sys::rte_pktmbuf_free(self.0.as_ptr()) }
    }
}

/// Packets in order.
pub type Packets = ArrayVec<Packet, BURST_MAX>;

/// One queue of one started port, in both directions; belongs to one thread at a time.
#[derive(Clone, Copy, Debug)]
pub struct RawQueue {
    port: u16,
    queue: u16,
}

impl RawQueue {
    /// # Safety
    /// The port is set up with this queue in both directions, and no other thread polls it. Before the port is started
    /// and after it is stopped it is not called.
    pub(crate) const unsafe fn new(port: u16, queue: u16) -> Self {
        Self { port, queue }
    }

    /// DPDK's numbers of the port and the queue, for code of another language that moves packets beside ours.
    #[must_use]
    pub const fn numbers(&self) -> (u16, u16) {
        (self.port, self.queue)
    }

    /// Moves what arrived to the back of `into`, at most `most`; returns how many.
    #[inline(always)]
    pub fn receive(&mut self, into: &mut Packets, most: usize) -> usize {
        let room = most.min(into.remaining_capacity());
        let len = into.len();
        // SAFETY: `new` promised a port that is set up. This is `rte_eth_rx_burst` without its wrapper: the table is the
        // one that DPDK exports for the inline function (which would be a call more from here). The driver writes at most
        // `room` pointers of packets that are ours then; `Packet` is such a pointer.
        unsafe {
            let calls = (&raw const sys::rte_eth_fp_ops).cast::<sys::rte_eth_fp_ops>().add(usize::from(self.port));
            let data = *(*calls).rxq.data.add(usize::from(self.queue));
            let receive = (*calls).rx_pkt_burst.unwrap_unchecked();
            let got = receive(data, into.as_mut_ptr().add(len).cast(), room as u16); // at most BURST_MAX
            into.set_len(len + usize::from(got));
            usize::from(got)
        }
    }

    /// Gives the first packets of `from` to the device; returns how many it took. The others stay the caller's.
    #[inline(always)]
    pub(crate) fn send(&mut self, from: &[Packet]) -> usize {
        // SAFETY: as in `receive`. The caller forgets what was taken, which is why this is not public: see `send_from`.
        unsafe {
            let calls = (&raw const sys::rte_eth_fp_ops).cast::<sys::rte_eth_fp_ops>().add(usize::from(self.port));
            let data = *(*calls).txq.data.add(usize::from(self.queue));
            let send = (*calls).tx_pkt_burst.unwrap_unchecked();
            usize::from(send(data, from.as_ptr().cast_mut().cast(), from.len() as u16))
        }
    }

    /// Asks the device for the packets that it has sent; without effect where its driver cannot be asked.
    #[cold]
    pub(crate) fn reclaim(&mut self) {
        // SAFETY: as in `receive`; zero stands for all of them.
        unsafe { sys::rte_eth_tx_done_cleanup(self.port, self.queue, 0) };
    }

    /// Sends from the front of `from`, and keeps there what the device did not take; returns how many it took.
    #[inline(always)]
    pub fn send_from(&mut self, from: &mut Packets) -> usize {
        let taken = self.send(from);
        let left = from.len() - taken;
        // SAFETY: the first `taken` are the device's now; the rest moves to the front, and the length follows.
        unsafe {
            if left > 0 {
                let start = from.as_mut_ptr();
                core::ptr::copy(start.add(taken), start, left);
            }
            from.set_len(left);
        }
        taken
    }
}
