//! What two ends tell each other before frames can go: a fixed encoding for whatever API carries it.
//!
//! 64 bytes, little endian; everything not named is zero, and anything else is refused.
//!
//! | offset | size | field |
//! |---:|---:|---|
//! | 0 | 1 | version: 1 |
//! | 1 | 1 | kind: 0 datagrams, 1 connection, 2 connection with a ring |
//! | 2 | 2 | path MTU in bytes |
//! | 4 | 4 | number of the queue pair, 24 bits |
//! | 8 | 4 | number of its first packet, 24 bits; 0 for datagrams |
//! | 12 | 4 | Q_Key; 0 for connections |
//! | 16 | 16 | GID: the IP address, IPv4 ones IPv4-mapped |
//! | 32 | 2 | LID: 0 on Ethernet |
//! | 36 | 4 | slots of the ring |
//! | 40 | 4 | bytes of a slot |
//! | 44 | 4 | the ring's key |
//! | 48 | 8 | the ring's address |

use crate::ring::SLOTS_MAX;
use core::fmt;
use tachyon_driver_api::PortError;
use tachyon_wire::Endpoint;

/// Length of the encoding.
pub const DETAILS_BYTES: usize = 64;
const VERSION: u8 = 1;
/// Queue pair and packet numbers have 24 bits (InfiniBand Architecture, base transport header).
const BITS_24: u32 = 0x00ff_ffff;
/// Largest slot: the largest frame that any lane carries is below it.
const SLOT_BYTES_MAX: u32 = 1 << 16;

/// A ring that the peer may write into, and nothing else of ours.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct RingDetails {
    /// The key of exactly this memory, new with each connection. Whoever has it can write there.
    pub rkey: u32,
    /// Where it starts.
    pub address: u64,
    /// Slots: a power of two, at most 32,768.
    pub slots: u32,
    /// Bytes of each: a multiple of 64, at most 65,536.
    pub slot_bytes: u32,
}

impl fmt::Debug for RingDetails {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "RingDetails({} slots of {} bytes)", self.slots, self.slot_bytes)
    }
}

/// One end's part.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Details {
    /// A worker's datagram queue pair: whoever knows this can send to it.
    Datagrams {
        /// The IP address, IPv4 ones IPv4-mapped.
        gid: [u8; 16],
        /// The queue pair.
        qpn: u32,
        /// What it asks senders to know.
        qkey: u32,
        /// Path MTU in bytes.
        mtu_bytes: u16,
    },
    /// One end of a connection.
    Connection {
        /// The IP address, IPv4 ones IPv4-mapped.
        gid: [u8; 16],
        /// The queue pair.
        qpn: u32,
        /// The number of its first packet.
        psn: u32,
        /// Path MTU in bytes; the smaller one of both ends counts.
        mtu_bytes: u16,
        /// Where the peer shall write its frames; without it the peer sends them.
        ring: Option<RingDetails>,
    },
}

impl fmt::Debug for Details {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Datagrams { qpn, mtu_bytes, .. } => write!(f, "Datagrams(qpn {qpn}, MTU {mtu_bytes})"),
            Self::Connection { qpn, mtu_bytes, ring, .. } => {
                write!(f, "Connection(qpn {qpn}, MTU {mtu_bytes}, ring {ring:?})")
            }
        }
    }
}

impl Details {
    /// The endpoint of a datagram queue pair: its address, and the low 16 bits of its number as the port. This is what
    /// frames that it sends name as their source.
    #[must_use]
    pub const fn endpoint(&self) -> Endpoint {
        let (Self::Datagrams { gid, qpn, .. } | Self::Connection { gid, qpn, .. }) = self;
        Endpoint::v6(*gid, *qpn as u16)
    }

    /// The address alone.
    #[must_use]
    pub const fn gid(&self) -> [u8; 16] {
        let (Self::Datagrams { gid, .. } | Self::Connection { gid, .. }) = self;
        *gid
    }

    /// As bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; DETAILS_BYTES] {
        let mut bytes = [0; DETAILS_BYTES];
        let mut put = |at: usize, value: &[u8]| bytes[at..at + value.len()].copy_from_slice(value);
        put(0, &[VERSION]);
        match self {
            Self::Datagrams { gid, qpn, qkey, mtu_bytes } => {
                put(2, &mtu_bytes.to_le_bytes());
                put(4, &qpn.to_le_bytes());
                put(12, &qkey.to_le_bytes());
                put(16, gid);
            }
            Self::Connection { gid, qpn, psn, mtu_bytes, ring } => {
                put(1, &[1 + u8::from(ring.is_some())]);
                put(2, &mtu_bytes.to_le_bytes());
                put(4, &qpn.to_le_bytes());
                put(8, &psn.to_le_bytes());
                put(16, gid);
                if let Some(ring) = ring {
                    put(36, &ring.slots.to_le_bytes());
                    put(40, &ring.slot_bytes.to_le_bytes());
                    put(44, &ring.rkey.to_le_bytes());
                    put(48, &ring.address.to_le_bytes());
                }
            }
        }
        bytes
    }

    /// From bytes that anybody may have made.
    ///
    /// # Errors
    /// Which field cannot be.
    pub fn decode(bytes: &[u8]) -> Result<Self, PortError> {
        let Ok(bytes) = <&[u8; DETAILS_BYTES]>::try_from(bytes) else {
            return Err(refuse(&format!("they have {} bytes and not {DETAILS_BYTES}", bytes.len())));
        };
        if bytes[0] != VERSION {
            return Err(refuse(&format!("they are of version {} and this node speaks {VERSION}", bytes[0])));
        }
        let word = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let mut gid = [0; 16];
        gid.copy_from_slice(&bytes[16..32]);
        let (mtu_bytes, qpn, psn, qkey) = (u16::from_le_bytes([bytes[2], bytes[3]]), word(4), word(8), word(12));
        let details = match bytes[1] {
            0 => Self::Datagrams { gid, qpn, qkey, mtu_bytes },
            1 => Self::Connection { gid, qpn, psn, mtu_bytes, ring: None },
            2 => {
                let address = u64::from(word(48)) | u64::from(word(52)) << 32;
                let ring = RingDetails { rkey: word(44), address, slots: word(36), slot_bytes: word(40) };
                Self::Connection { gid, qpn, psn, mtu_bytes, ring: Some(ring) }
            }
            kind => return Err(refuse(&format!("kind {kind} is unknown"))),
        };
        details.check()?;
        if details.encode() == *bytes { Ok(details) } else { Err(refuse("a field that must be zero is not")) }
    }

    /// Whether every number can be.
    pub(crate) fn check(&self) -> Result<(), PortError> {
        let (Self::Datagrams { gid, qpn, mtu_bytes, .. } | Self::Connection { gid, qpn, mtu_bytes, .. }) = self;
        if *gid == [0; 16] {
            return Err(refuse("the address is zero"));
        }
        if !(2..=BITS_24).contains(qpn) {
            return Err(refuse(&format!("queue pair {qpn} cannot be: 0 and 1 are the fabric's, and 24 bits are all")));
        }
        if !mtu_bytes.is_power_of_two() || !(256..=4_096).contains(mtu_bytes) {
            return Err(refuse(&format!("a path MTU of {mtu_bytes} cannot be: it is 256, 512, 1024, 2048 or 4096")));
        }
        let Self::Connection { psn, ring, .. } = self else { return Ok(()) };
        if *psn > BITS_24 {
            return Err(refuse(&format!("packet number {psn} has more than 24 bits")));
        }
        let Some(RingDetails { address, slots, slot_bytes, .. }) = *ring else { return Ok(()) };
        if !slots.is_power_of_two() || slots > SLOTS_MAX {
            return Err(refuse(&format!("a ring of {slots} slots cannot be: a power of two up to {SLOTS_MAX}")));
        }
        if slot_bytes == 0 || !slot_bytes.is_multiple_of(64) || slot_bytes > SLOT_BYTES_MAX {
            return Err(refuse(&format!(
                "slots of {slot_bytes} bytes cannot be: a multiple of 64 up to {SLOT_BYTES_MAX}"
            )));
        }
        let bytes = u64::from(slots) * u64::from(slot_bytes);
        if address == 0 || address.checked_add(bytes).is_none() {
            return Err(refuse("the ring lies outside of any memory"));
        }
        Ok(())
    }
}

fn refuse(why: &str) -> PortError {
    PortError(format!("the peer's connection details are refused: {why}; let both ends exchange them again"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const GID: [u8; 16] = [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 192, 0, 2, 1];

    fn all() -> [Details; 3] {
        let ring = RingDetails { rkey: 0xdead_beef, address: 0x7f00_0000_1000, slots: 64, slot_bytes: 1_024 };
        let plain = Details::Connection { gid: GID, qpn: 17, psn: 0x00ab_cdef, mtu_bytes: 4_096, ring: None };
        let Details::Connection { gid, qpn, psn, mtu_bytes, .. } = plain else { unreachable!() };
        [
            Details::Datagrams { gid: GID, qpn: 0x0001_2345, qkey: 0x1111_1111, mtu_bytes: 1_024 },
            plain,
            Details::Connection { gid, qpn, psn, mtu_bytes, ring: Some(ring) },
        ]
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for details in all() {
            assert_eq!(Details::decode(&details.encode()).unwrap(), details);
        }
        assert_eq!(all()[0].endpoint(), Endpoint::v4([192, 0, 2, 1], 0x2345));
    }

    #[test]
    fn keys_are_not_shown() {
        for details in all() {
            let shown = format!("{details:?} {details:#?}").to_lowercase();
            for key in [0xdead_beef_u32, 0x1111_1111] {
                assert!(!shown.contains(&key.to_string()) && !shown.contains(&format!("{key:x}")), "{shown}");
            }
        }
    }

    #[test]
    fn every_other_byte_string_is_refused_or_is_itself() {
        for details in all() {
            let good = details.encode();
            assert!(Details::decode(&good[..63]).is_err());
            for at in 0..DETAILS_BYTES {
                for value in [0, 1, 2, 3, 0x7f, 0x80, 0xff] {
                    let mut bytes = good;
                    bytes[at] = value;
                    if let Ok(decoded) = Details::decode(&bytes) {
                        assert_eq!(decoded.encode(), bytes, "byte {at} as {value}");
                    }
                }
            }
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_name() {
        let [datagrams, _, ring] = all().map(|details| details.encode());
        for (mut bytes, at, value, word) in [
            (datagrams, 0, 2, "version"),
            (datagrams, 1, 3, "kind"),
            (datagrams, 2, 1, "MTU"),
            (datagrams, 7, 1, "queue pair"),
            (datagrams, 8, 1, "zero"),
            (datagrams, 32, 1, "zero"),
            (ring, 11, 1, "packet number"),
            (ring, 36, 65, "slots"),
            (ring, 40, 1, "bytes cannot"),
            (ring, 63, 1, "zero"),
        ] {
            bytes[at] = value;
            let error = Details::decode(&bytes).unwrap_err().0;
            assert!(error.contains(word), "{error}");
        }
        let mut far = ring;
        far[48..56].copy_from_slice(&(u64::MAX - 4_095).to_le_bytes());
        assert!(Details::decode(&far).unwrap_err().0.contains("outside"));
    }
}
