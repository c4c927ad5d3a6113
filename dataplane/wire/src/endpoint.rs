//! Where a frame came from or goes to.

use zerocopy::{FromBytes, Immutable, IntoBytes, KnownLayout, Unaligned, byteorder::little_endian::U16};

/// An IP address and a UDP port. IPv4 addresses are held IPv4-mapped (`::ffff:a.b.c.d`), so that a comparison is one
/// comparison of 16 bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub struct Endpoint {
    /// The address in network byte order; all zeros means "none".
    pub ip: [u8; 16],
    /// The UDP port; 0 means "any".
    pub port: U16,
}

impl Endpoint {
    /// The endpoint that means "no address": sessions that are not pinned, transports without addresses.
    pub const NONE: Self = Self { ip: [0; 16], port: U16::ZERO };

    /// The endpoint of an IPv4 address.
    #[must_use]
    pub const fn v4(ip: [u8; 4], port: u16) -> Self {
        let [a, b, c, d] = ip;
        Self { ip: [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d], port: U16::new(port) }
    }

    /// The endpoint of an IPv6 address.
    #[must_use]
    pub const fn v6(ip: [u8; 16], port: u16) -> Self {
        Self { ip, port: U16::new(port) }
    }

    /// Whether this is [`Endpoint::NONE`]'s address.
    #[must_use]
    pub fn is_none(&self) -> bool {
        self.ip == [0; 16]
    }

    /// Whether traffic from `source` satisfies this pin: same address, and same port unless the pin's port is 0.
    #[must_use]
    pub fn pins(&self, source: &Self) -> bool {
        self.ip == source.ip && (self.port.get() == 0 || self.port == source.port)
    }
}
