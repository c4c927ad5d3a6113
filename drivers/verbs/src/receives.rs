//! Buffers that the device receives into, and what stands in front of a datagram.

use crate::device::{Device, RECEIVE, Receive};
use arrayvec::ArrayVec;
use tachyon_driver_api::{BURST_MAX, Buffer, Pool};

/// Bytes that a datagram has in front: the route header of InfiniBand, in which RoCE v2 leaves its IP header.
pub(crate) const ROUTE_HEADER_BYTES: u32 = 40;

/// The buffers of one shared receive queue.
#[derive(Debug)]
pub(crate) struct Receives {
    /// By the number in the receive's identity.
    posted: Vec<Option<Buffer>>,
    /// Numbers that nothing is posted under.
    free: Vec<u32>,
    /// Buffers that came back without a frame, to be posted first.
    spare: Vec<Buffer>,
    offset: u32,
}

impl Receives {
    pub(crate) fn new(depth: u32, offset: u32) -> Self {
        Self {
            posted: (0..depth).map(|_| None).collect(),
            free: (0..depth).rev().collect(),
            spare: Vec::with_capacity(depth as usize),
            offset,
        }
    }

    /// Where bytes go in a buffer.
    #[inline]
    pub(crate) const fn offset(&self) -> u32 {
        self.offset
    }

    /// Takes the buffer of a receive that completed.
    #[inline]
    pub(crate) fn take(&mut self, id: u64) -> Option<Buffer> {
        let number = (id & !RECEIVE) as usize;
        let buffer = self.posted.get_mut(number)?.take()?;
        self.free.push(number as u32);
        Some(buffer)
    }

    /// Gives a buffer back that no frame came in.
    pub(crate) fn put_back(&mut self, buffer: Buffer) {
        self.spare.push(buffer);
    }

    /// Buffers that are posted or will be.
    #[inline]
    pub(crate) fn held(&self) -> usize {
        self.posted.len() - self.free.len() + self.spare.len()
    }

    /// Posts buffers for those that were taken; returns how many came out of the pool, and whether it had too few.
    #[inline]
    pub(crate) fn fill<D: Device>(&mut self, device: &mut D, pool: &mut Pool) -> (usize, bool) {
        let mut from_pool = 0;
        while !self.free.is_empty() {
            let mut batch: ArrayVec<Receive, BURST_MAX> = ArrayVec::new();
            while let Some(&number) = self.free.last()
                && !batch.is_full()
            {
                let Some(buffer) = self.spare.pop().or_else(|| {
                    let buffer = pool.get();
                    from_pool += usize::from(buffer.is_some());
                    buffer
                }) else {
                    break;
                };
                self.free.pop();
                let address = buffer.address().as_ptr().expose_provenance() as u64 + u64::from(self.offset);
                let len = buffer.capacity() - self.offset;
                batch.push(Receive { id: RECEIVE | u64::from(number), address, len });
                self.posted[number as usize] = Some(buffer);
            }
            if batch.is_empty() {
                return (from_pool, true);
            }
            // SAFETY: the buffers lie in the arena, which is registered, and are the device's until their receive completes:
            // `posted` holds them and hands them out only then.
            let taken = unsafe { device.receive(&batch) };
            for refused in &batch[taken..] {
                // The device has fewer places than it said; the next turn tries again.
                if let Some(buffer) = self.take(refused.id) {
                    self.spare.push(buffer);
                }
            }
            if taken < batch.len() {
                return (from_pool, false);
            }
        }
        (from_pool, false)
    }

    /// Gives every buffer back. The device must have let go of them.
    pub(crate) fn abandon(&mut self, pool: &mut Pool) {
        self.posted.iter_mut().filter_map(Option::take).chain(self.spare.drain(..)).for_each(|buffer| pool.put(buffer));
    }
}

/// The sender's address out of a datagram's route header: over IPv6 the whole of it is the IPv6 header, over IPv4 its last 20
/// bytes are the IPv4 header and the rest means nothing. `v4` says which family our own address is of, and so the packet.
#[inline]
pub(crate) fn sender(header: &[u8; ROUTE_HEADER_BYTES as usize], v4: bool) -> Option<[u8; 16]> {
    if v4 {
        // Version 4, and five words: RoCE v2 has no IP options.
        if header[20] != 0x45 {
            return None;
        }
        let mut ip = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0];
        ip[12..].copy_from_slice(&header[32..36]);
        Some(ip)
    } else {
        let mut ip = [0; 16];
        ip.copy_from_slice(&header[8..24]);
        // An IPv4 address in disguise could pass for the pinned source of a session.
        (header[0] >> 4 == 6 && ip[..12] != [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]).then_some(ip)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sender_is_found_in_either_family_and_in_no_other() {
        let mut v4 = [0xaa; 40];
        v4[20] = 0x45;
        v4[32..36].copy_from_slice(&[192, 0, 2, 9]);
        assert_eq!(sender(&v4, true).map(|ip| ip[12..].to_vec()), Some(vec![192, 0, 2, 9]));
        v4[20] = 0x46;
        assert_eq!(sender(&v4, true), None, "with options");
        let mut v6 = [0; 40];
        v6[0] = 0x60;
        v6[8..24].copy_from_slice(&[7; 16]);
        assert_eq!(sender(&v6, false), Some([7; 16]));
        assert_eq!(sender(&v6, true), None);
        v6[8..20].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff]);
        assert_eq!(sender(&v6, false), None, "an IPv4 address in disguise");
    }
}
