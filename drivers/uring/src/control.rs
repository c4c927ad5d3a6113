//! Control data that travels beside a datagram: segment sizes and drop counts.

/// Room for `UDP_GRO` and `SO_RXQ_OVFL`, 24 bytes each, and 32 spare, so that with the 16 bytes of the kernel's own header
/// and 32 for the address the first frame starts at 128, on a cache line.
pub(crate) const RX_CONTROL_BYTES: usize = 80;
/// `cmsghdr`: length, level, kind.
const HEADER_BYTES: usize = size_of::<libc::cmsghdr>();

/// The control message that sets `UDP_SEGMENT` for one send.
#[repr(C, align(8))]
pub(crate) struct SegmentControl {
    header: libc::cmsghdr,
    stride: u16,
    padding: [u8; 6],
}

const _: () = assert!(HEADER_BYTES == 16 && size_of::<SegmentControl>() == 24);

impl SegmentControl {
    /// Cut what is sent into frames of `stride` bytes.
    pub(crate) const fn new(stride: u16) -> Self {
        let header = libc::cmsghdr {
            cmsg_len: HEADER_BYTES + size_of::<u16>(),
            cmsg_level: libc::SOL_UDP,
            cmsg_type: libc::UDP_SEGMENT,
        };
        Self { header, stride, padding: [0; 6] }
    }
}

/// What the kernel said beside a datagram.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct RxControl {
    /// Bytes from one frame to the next, where the kernel joined several.
    pub(crate) stride: Option<u32>,
    /// Datagrams this socket has dropped since it was opened, modulo 2³².
    pub(crate) drops: Option<u32>,
}

/// Reads control messages; stops at the first that does not fit.
#[inline]
pub(crate) fn parse(mut bytes: &[u8]) -> RxControl {
    let mut found = RxControl::default();
    while let Some((header, rest)) = bytes.split_first_chunk::<HEADER_BYTES>() {
        let [l0, l1, l2, l3, l4, l5, l6, l7, v0, v1, v2, v3, k0, k1, k2, k3] = *header;
        let length = usize::from_ne_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
        let value = rest.first_chunk::<4>().map_or(0, |value| u32::from_ne_bytes(*value));
        if length < HEADER_BYTES + size_of::<u32>() || length > bytes.len() {
            break;
        }
        match (i32::from_ne_bytes([v0, v1, v2, v3]), i32::from_ne_bytes([k0, k1, k2, k3])) {
            (libc::SOL_UDP, libc::UDP_GRO) => found.stride = Some(value),
            (libc::SOL_SOCKET, libc::SO_RXQ_OVFL) => found.drops = Some(value),
            _ => {}
        }
        bytes = bytes.get(length.next_multiple_of(size_of::<usize>())..).unwrap_or(&[]);
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(level: i32, kind: i32, value: u32) -> Vec<u8> {
        let mut bytes = 20_usize.to_ne_bytes().to_vec();
        bytes.extend(level.to_ne_bytes());
        bytes.extend(kind.to_ne_bytes());
        bytes.extend(value.to_ne_bytes());
        bytes.resize(24, 0);
        bytes
    }

    #[test]
    fn reads_both_messages_in_any_order_and_skips_others() {
        let gro = message(libc::SOL_UDP, libc::UDP_GRO, 1472);
        let drops = message(libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 9);
        let other = message(libc::SOL_IP, 1, 7);
        let expected = RxControl { stride: Some(1472), drops: Some(9) };
        assert_eq!(parse(&[gro.clone(), other.clone(), drops.clone()].concat()), expected);
        assert_eq!(parse(&[drops, other, gro].concat()), expected);
        assert_eq!(parse(&[]), RxControl::default());
    }

    #[test]
    fn stops_at_lengths_that_lie() {
        for length in [0_usize, 15, 16, 19, 25, usize::MAX] {
            let mut bytes = message(libc::SOL_UDP, libc::UDP_GRO, 5);
            bytes[..8].copy_from_slice(&length.to_ne_bytes());
            assert_eq!(parse(&bytes), RxControl::default(), "length {length}");
        }
        for cut in 0..20 {
            assert_eq!(parse(&message(libc::SOL_UDP, libc::UDP_GRO, 5)[..cut]), RxControl::default());
        }
    }
}
