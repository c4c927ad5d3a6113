//! A pre-filter as it is told to control: one record for each interface that has one, or could have.

use super::records::{LAYOUT, check_layout, put_text, text};
use crate::{
    SealedImage,
    image::{self, IMAGE_BYTES_MAX},
};
use rustix::fs::fstat;
use std::{
    io,
    os::fd::{AsFd, OwnedFd},
};
use tachyon_wire::reason::REASON_SLOTS;
use zerocopy::{
    FromBytes, FromZeros, Immutable, IntoBytes, KnownLayout, Unaligned,
    byteorder::little_endian::{U16, U32, U64},
};

const FILTER_MAGIC: [u8; 4] = *b"TYF1";
/// Bytes of an interface's name that are used: IFNAMSIZ of Linux is 16 with the zero behind it.
pub const INTERFACE_NAME_MAX: usize = 15;
/// Three lines of a terminal, as with replies.
const WHY_MAX: usize = 200;

/// How a filter is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterState {
    /// In the driver, before the kernel makes anything of a packet.
    Native,
    /// Behind the driver, because it has no native mode: later and slower.
    Generic,
    /// Not attached: everything passes to the kernel.
    Detached,
    /// It could not be attached, or went away.
    Failed,
}

/// By the number that travels.
const STATES: [FilterState; 4] =
    [FilterState::Native, FilterState::Generic, FilterState::Detached, FilterState::Failed];

/// What `tachyond` says of a filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterStatus {
    /// The interface.
    pub interface: String,
    /// How it is.
    pub state: FilterState,
    /// Why it is not native, and what to do; empty if it is.
    pub why: String,
    /// The kernel's number of the program; 0 if there is none.
    pub program_id: u32,
    /// Version of the program's rules.
    pub version: u32,
    /// Instructions that the kernel's verifier went through.
    pub instructions: u32,
    /// Bytes of machine code.
    pub code_bytes: u32,
    /// Time spent in the program in ns, while the kernel's statistics were on.
    pub run_ns: u64,
    /// Packets that time was for.
    pub runs: u64,
    /// Sessions that it knows.
    pub sessions: u32,
    /// Denied prefixes in its table.
    pub prefixes: u32,
    /// Blocks of topics that may pass.
    pub topic_blocks: u32,
    /// Packets that reached the program; the sum of all that follow.
    pub seen: u64,
    /// Packets that are none of ours and went on to the kernel.
    pub passed_foreign: u64,
    /// Frames that went on to the kernel's sockets.
    pub passed_ours: u64,
    /// Frames that went to a worker's own socket.
    pub redirected: u64,
    /// Frames that were dropped, by reason number.
    pub dropped: [u64; REASON_SLOTS],
}

/// [`FilterStatus`] as it travels.
#[derive(Clone, Copy, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned)]
#[repr(C)]
pub(super) struct FilterRecord {
    magic: [u8; 4],
    number: U32,
    layout: U64,
    filters: U16,
    state: U16,
    program_id: U32,
    version: U32,
    instructions: U32,
    code_bytes: U32,
    sessions: U32,
    prefixes: U32,
    topic_blocks: U32,
    run_ns: U64,
    runs: U64,
    seen: U64,
    passed_foreign: U64,
    passed_ours: U64,
    redirected: U64,
    dropped: [U64; REASON_SLOTS],
    interface: [u8; INTERFACE_NAME_MAX + 1],
    why: [u8; WHY_MAX],
}

/// Answer to a question for one filter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct FilterTold {
    /// The request's number.
    pub(super) number: u32,
    /// How many filters there are.
    pub(super) filters: u16,
    /// The filter that was asked for.
    pub(super) filter: FilterStatus,
}

impl FilterTold {
    pub(super) fn to_record(number: u32, filters: u16, filter: &FilterStatus) -> FilterRecord {
        let mut record = FilterRecord::new_zeroed();
        record.magic = FILTER_MAGIC;
        record.number = number.into();
        record.layout = LAYOUT.into();
        record.filters = filters.into();
        record.state = (filter.state as u16).into();
        record.program_id = filter.program_id.into();
        record.version = filter.version.into();
        record.instructions = filter.instructions.into();
        record.code_bytes = filter.code_bytes.into();
        record.sessions = filter.sessions.into();
        record.prefixes = filter.prefixes.into();
        record.topic_blocks = filter.topic_blocks.into();
        record.run_ns = filter.run_ns.into();
        record.runs = filter.runs.into();
        record.seen = filter.seen.into();
        record.passed_foreign = filter.passed_foreign.into();
        record.passed_ours = filter.passed_ours.into();
        record.redirected = filter.redirected.into();
        record.dropped = filter.dropped.map(U64::new);
        put_text(&mut record.interface[..INTERFACE_NAME_MAX], &filter.interface);
        put_text(&mut record.why, &filter.why);
        record
    }

    /// `None`: these bytes are no such answer, but perhaps a reply.
    pub(super) fn from_bytes(bytes: &[u8]) -> Option<Result<Self, String>> {
        let record = FilterRecord::ref_from_bytes(bytes).ok().filter(|record| record.magic == FILTER_MAGIC)?;
        Some(Self::from_record(record))
    }

    fn from_record(record: &FilterRecord) -> Result<Self, String> {
        check_layout(record.layout)?;
        let state = record.state.get();
        let filter = FilterStatus {
            interface: text(&record.interface),
            state: *STATES.get(usize::from(state)).ok_or_else(|| format!("there is no state {state} of a filter"))?,
            why: text(&record.why),
            program_id: record.program_id.get(),
            version: record.version.get(),
            instructions: record.instructions.get(),
            code_bytes: record.code_bytes.get(),
            run_ns: record.run_ns.get(),
            runs: record.runs.get(),
            sessions: record.sessions.get(),
            prefixes: record.prefixes.get(),
            topic_blocks: record.topic_blocks.get(),
            seen: record.seen.get(),
            passed_foreign: record.passed_foreign.get(),
            passed_ours: record.passed_ours.get(),
            redirected: record.redirected.get(),
            dropped: record.dropped.map(U64::get),
        };
        Ok(Self { number: record.number.get(), filters: record.filters.get(), filter })
    }
}

/// One denied prefix, as it lies in a sealed list.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable, KnownLayout, Unaligned,
)]
#[repr(C)]
pub struct Prefix {
    /// The address, IPv4 ones IPv4-mapped; bits beyond `bits` are zero.
    pub ip: [u8; 16],
    /// How many of its bits count; an IPv4 prefix has 96 more than people write.
    pub bits: u8,
}

impl Prefix {
    /// Checks and cuts an address to its prefix. `bits` are those that people write: up to 32 for IPv4.
    #[must_use]
    pub fn new(ip: std::net::IpAddr, bits: u8) -> Option<Self> {
        let (octets, bits) = match ip {
            std::net::IpAddr::V4(ip) if bits <= 32 => (ip.to_ipv6_mapped().octets(), bits + 96),
            std::net::IpAddr::V6(ip) if bits <= 128 => (ip.octets(), bits),
            _ => return None,
        };
        let kept = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
        Some(Self { ip: (u128::from_be_bytes(octets) & kept).to_be_bytes(), bits })
    }

    /// Seals a list for `Request::Denied`. It may be empty, which a ruleset may not.
    ///
    /// # Errors
    /// `InvalidInput` if it is longer than [`IMAGE_BYTES_MAX`]; otherwise what the kernel says.
    pub fn seal(list: &[Self]) -> io::Result<OwnedFd> {
        let bytes = list.as_bytes();
        if bytes.len() > IMAGE_BYTES_MAX {
            let text = format!("a list of {} prefixes is longer than {IMAGE_BYTES_MAX} bytes", list.len());
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        image::seal(bytes)
    }

    /// Takes a list that [`Prefix::seal`] made, whole.
    ///
    /// # Errors
    /// `InvalidData` if it is not sealed, or no such list; otherwise what the kernel says.
    pub fn unseal(fd: impl AsFd) -> io::Result<Vec<Self>> {
        if fstat(&fd)?.st_size == 0 {
            return Ok(Vec::new()); // nothing can be changed in nothing, and it cannot be mapped
        }
        let sealed = SealedImage::adopt(fd)?;
        let list = Self::list(sealed.as_ref()).map(<[Self]>::to_vec);
        list.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "this is no list of prefixes"))
    }

    /// All prefixes of a sealed list; `None` if it is no such list.
    #[must_use]
    pub fn list(bytes: &[u8]) -> Option<&[Self]> {
        let list = <[Self]>::ref_from_bytes(bytes).ok()?;
        let sound = |one: &Self| {
            one.bits <= 128 && Self::new(std::net::Ipv6Addr::from(one.ip).into(), one.bits).as_ref() == Some(one)
        };
        list.iter().all(sound).then_some(list)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::net::IpAddr;

    #[test]
    fn prefixes_are_cut_and_checked() {
        let prefix = |ip: &str, bits| Prefix::new(ip.parse::<IpAddr>().unwrap(), bits);
        assert_eq!(prefix("10.1.2.3", 8), prefix("10.0.0.0", 8));
        assert_ne!(prefix("10.1.2.3", 32), prefix("10.1.2.4", 32));
        assert_eq!(prefix("0.0.0.0", 0).unwrap().bits, 96);
        assert_eq!(prefix("::1", 0).unwrap().ip, [0; 16]);
        assert_eq!(prefix("2001:db8::1", 128).unwrap().ip[15], 1);
        assert_eq!((prefix("10.0.0.0", 33), prefix("::", 129)), (None, None));
    }

    #[test]
    fn lists_with_anything_wrong_in_them_are_refused_whole() {
        let good = Prefix::new("10.0.0.0".parse().unwrap(), 8).unwrap();
        let bytes = [good.as_bytes(), good.as_bytes()].concat();
        assert_eq!(Prefix::list(&bytes).unwrap().len(), 2);
        assert_eq!(Prefix::list(&[]).unwrap().len(), 0);
        assert!(Prefix::list(&bytes[1..]).is_none());
        for list in [&[][..], &[good], &[good, good]] {
            assert_eq!(Prefix::unseal(Prefix::seal(list).unwrap()).unwrap(), list);
        }
        assert!(Prefix::unseal(image::seal(&bytes[1..]).unwrap()).is_err());
        assert!(Prefix::unseal(std::fs::File::open("/proc/self/exe").unwrap()).is_err(), "not sealed");
        for (at, value) in [(15, 1), (16, 129)] {
            let mut bad = bytes.clone();
            bad[at] = value;
            assert!(Prefix::list(&bad).is_none(), "byte {at}");
        }
    }
}
