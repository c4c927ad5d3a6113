//! Endpoints to kernel socket addresses and back, byte by byte, so that nothing here needs `unsafe`.

use tachyon_wire::Endpoint;

/// Bytes of the largest address used here, `sockaddr_in6`.
pub(crate) const SOCKADDR_BYTES: usize = size_of::<libc::sockaddr_in6>();
/// [`SOCKADDR_BYTES`] as the kernel takes it.
pub(crate) const SOCKADDR_LENGTH: libc::socklen_t = 28;
const V4_MAPPED: [u8; 12] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff];
/// Bytes of a `sockaddr_in`.
const V4_BYTES: usize = size_of::<libc::sockaddr_in>();

/// Address family numbers as the kernel writes them: the first two bytes, native order.
const fn family(number: i32) -> [u8; 2] {
    // AF_INET and AF_INET6 are 2 and 10.
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "address families are below 50")]
    (number as u16).to_ne_bytes()
}

/// Writes `endpoint` for a socket of this family; `None` if such a socket cannot reach it.
#[inline]
pub(crate) fn encode(endpoint: &Endpoint, v6: bool, into: &mut [u8; SOCKADDR_BYTES]) -> Option<u32> {
    *into = [0; SOCKADDR_BYTES];
    into[2..4].copy_from_slice(&endpoint.port.get().to_be_bytes());
    if v6 {
        into[..2].copy_from_slice(&family(libc::AF_INET6));
        into[8..24].copy_from_slice(&endpoint.ip);
        return Some(SOCKADDR_LENGTH);
    }
    let ip = endpoint.ip.strip_prefix(&V4_MAPPED)?;
    into[..2].copy_from_slice(&family(libc::AF_INET));
    into[4..8].copy_from_slice(ip);
    Some(16)
}

const _: () = assert!(SOCKADDR_BYTES == 28 && V4_BYTES == 16);

/// The endpoint that the kernel wrote; [`Endpoint::NONE`] if it wrote none.
#[inline]
pub(crate) fn decode(from: &[u8; SOCKADDR_BYTES]) -> Endpoint {
    let port = u16::from_be_bytes([from[2], from[3]]);
    let kind = [from[0], from[1]];
    if kind == family(libc::AF_INET) {
        Endpoint::v4([from[4], from[5], from[6], from[7]], port)
    } else if kind == family(libc::AF_INET6) {
        let mut ip = [0; 16];
        ip.copy_from_slice(&from[8..24]);
        Endpoint::v6(ip, port)
    } else {
        Endpoint::NONE
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_survives_the_way_to_the_kernel_and_back() {
        let mut bytes = [0xff; SOCKADDR_BYTES];
        let four = Endpoint::v4([127, 0, 0, 9], 24_640);
        assert_eq!(encode(&four, false, &mut bytes), Some(16));
        assert_eq!(decode(&bytes), four);
        assert_eq!(encode(&four, true, &mut bytes), Some(28), "a dual-stack socket takes mapped addresses");
        assert_eq!(decode(&bytes), four);
        let six = Endpoint::v6([7; 16], 1);
        assert_eq!(encode(&six, true, &mut bytes), Some(28));
        assert_eq!(decode(&bytes), six);
        assert_eq!(encode(&six, false, &mut bytes), None);
        assert_eq!(decode(&[0; SOCKADDR_BYTES]), Endpoint::NONE);
    }
}
