//! The filter of an interface whose XDP program somebody else attaches: DPDK's AF_XDP driver takes an object file, loads it,
//! gives it its sockets, and keeps it on the interface for as long as the port is open.
//!
//! There is no link and no pin then. What is on the interface is found by asking the kernel, and is ours if its maps and constants
//! are; its tables are kept and read as always.

use crate::{Config, Doing, LoaderError, Prefilter, Program, Result, place, program, tables::CONSTANTS};
use libbpf_rs::{Xdp, XdpFlags};
use std::{ops::Range, os::fd::AsFd};

/// The object file with this configuration in it, for whoever loads it by itself. It can be read by anybody who may read the file:
/// the seed is in it.
///
/// # Errors
/// A configuration that cannot be kept.
pub fn object(config: &Config) -> Result<Vec<u8>> {
    let (mut bytes, image) = program::plain(config)?;
    let place = section(&bytes, CONSTANTS).and_then(|range| bytes.get_mut(range));
    let place = place.filter(|place| place.len() == image.0.len());
    let place =
        place.ok_or_else(|| LoaderError("the pre-filter's object file has no place for constants".to_owned()))?;
    place.copy_from_slice(&image.0);
    Ok(bytes)
}

/// The program on an interface, if it is one of ours, and whether it is attached without a link: with one it is not ours to take.
fn attached(ifindex: u32) -> Result<Option<Program>> {
    let number = i32::try_from(ifindex).doing(|| "the interface's number".to_owned())?;
    // The descriptor that is asked with plays no part; any will do.
    let id = {
        let any = std::fs::File::open("/dev/null").doing(|| "/dev/null".to_owned())?;
        Xdp::new(any.as_fd()).query_id(number, XdpFlags::NONE)
    };
    let id = id.doing(|| format!("interface {ifindex} cannot be asked for its XDP program"))?;
    // Somebody else's lacks our maps, which is how it is told apart.
    Ok(if id == 0 { None } else { Program::from_id(id).ok() })
}

impl Prefilter {
    /// The filter that somebody else put onto an interface from our [`object`]; `None` if nothing of ours is there. It can be neither
    /// put on nor off as others are; [`Prefilter::take_off_beside`] ends it.
    ///
    /// # Errors
    /// No such interface, or the kernel refuses.
    pub fn beside(interface: &str, config: &Config) -> Result<Option<Self>> {
        let ifindex = place::index_of(interface)?;
        Ok(attached(ifindex)?.map(|program| Self::of_others(interface, ifindex, config, program)))
    }

    /// Takes off what a process that died left on an interface, so that another one can attach anew; whether there was anything. A
    /// filter that is held by a link stays.
    ///
    /// # Errors
    /// No such interface, or the kernel refuses.
    pub fn sweep(interface: &str) -> Result<bool> {
        let ifindex = place::index_of(interface)?;
        let Some(program) = attached(ifindex)? else { return Ok(false) };
        let number = i32::try_from(ifindex).doing(|| "the interface's number".to_owned())?;
        let swept = Xdp::new(program.as_fd()).detach(number, XdpFlags::NONE);
        swept.doing(|| format!("what an earlier process left on {interface} cannot be taken off"))?;
        Ok(true)
    }
}

/// Where a section lies in an ELF file of 64 bits and this machine's byte order, by the layouts in elf(5).
fn section(file: &[u8], name: &str) -> Option<Range<usize>> {
    let number = |at: usize, bytes: usize| {
        let mut value = [0; 8];
        value[..bytes].copy_from_slice(file.get(at..at + bytes)?);
        usize::try_from(u64::from_le_bytes(value)).ok()
    };
    let (headers, size, count, names) = (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?, number(0x3e, 2)?);
    let names = number(headers + names * size + 0x18, 8)?;
    let found = (0..count).map(|index| headers + index * size).find(|header| {
        let at = number(*header, 4).map(|offset| names + offset);
        at.and_then(|at| file.get(at..at + name.len() + 1))
            .is_some_and(|text| text.strip_suffix(&[0]) == Some(name.as_bytes()))
    })?;
    let start = number(found + 0x18, 8)?;
    Some(start..start + number(found + 0x20, 8)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Deliver;

    #[test]
    fn an_object_differs_from_the_plain_one_in_its_constants_alone() {
        let of = |config: &Config| object(config).expect("an object");
        let (one, other) = (of(&Config::default()), of(&Config { deliver: Deliver::AllByQueue, ..Config::default() }));
        let range = section(&one, CONSTANTS).expect("constants");
        assert_eq!(
            (one[..range.start].to_vec(), one[range.end..].to_vec()),
            (other[..range.start].to_vec(), other[range.end..].to_vec())
        );
        assert_ne!(one[range.clone()], other[range.clone()]);
        assert_eq!(one[range.start..range.start + 4], crate::contract::VERSION.to_ne_bytes());
        assert_eq!(section(&one, ".nothing"), None);
        assert_eq!(section(&one[..200], CONSTANTS), None);
    }
}
