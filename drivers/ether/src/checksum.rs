//! The internet checksum (RFC 1071): the one's complement sum of 16-bit words.
//!
//! That sum does not care in which byte order the words are read, as long as the result is written back in the same one,
//! so everything here is in the machine's own order and nothing is swapped.

/// The sum of all words, not folded. An odd last byte counts as a word with a zero behind it.
///
/// Four lanes of 32-bit words in 64-bit sums: they cannot overflow below 16 GiB, and compilers make vectors of them.
#[inline]
pub(crate) fn sum(bytes: &[u8]) -> u64 {
    let (blocks, rest) = bytes.as_chunks::<16>();
    let mut lanes = [0u64; 4];
    for block in blocks {
        for (lane, word) in lanes.iter_mut().zip(block.as_chunks::<4>().0) {
            *lane += u64::from(u32::from_ne_bytes(*word));
        }
    }
    let (words, odd) = rest.as_chunks::<2>();
    let mut total: u64 = lanes.iter().sum();
    total += words.iter().map(|word| u64::from(u16::from_ne_bytes(*word))).sum::<u64>();
    match odd {
        [last] => total + u64::from(u16::from_ne_bytes([*last, 0])),
        _ => total,
    }
}

/// A number in network order as a word of the sum.
#[inline]
pub(crate) const fn word(value: u16) -> u64 {
    u16::from_ne_bytes(value.to_be_bytes()) as u64
}

/// A sum folded to 16 bits, carries added back in.
#[inline]
#[expect(clippy::cast_possible_truncation, reason = "four folds leave 16 bits of any 64-bit sum")]
pub(crate) const fn fold(sum: u64) -> u16 {
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff_ffff) + (sum >> 32);
    let sum = (sum & 0xffff) + (sum >> 16);
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) as u16
}

/// The bytes of a checksum field for this sum of everything else.
#[inline]
pub(crate) const fn field(sum: u64) -> [u8; 2] {
    (!fold(sum)).to_ne_bytes()
}

/// Whether a sum over data and its checksum field is that of undamaged data.
#[inline]
pub(crate) const fn is_right(sum: u64) -> bool {
    fold(sum) == 0xffff
}

#[cfg(test)]
mod tests {
    use super::{field, fold, is_right, sum};
    use alloc::vec::Vec;
    use proptest::prelude::*;

    /// Word by word in network order, carry by carry, as RFC 1071 defines it.
    fn naive(bytes: &[u8]) -> u16 {
        let mut sum = 0u32;
        for pair in bytes.chunks(2) {
            sum += u32::from(pair[0]) << 8 | u32::from(pair.get(1).copied().unwrap_or(0));
            if sum > 0xffff {
                sum -= 0xffff;
            }
        }
        !u16::try_from(sum).unwrap()
    }

    proptest! {
        #[test]
        fn sums_are_those_of_the_definition(bytes in proptest::collection::vec(any::<u8>(), 0..1600)) {
            prop_assert_eq!(u16::from_be_bytes(field(sum(&bytes))), naive(&bytes));
        }

        #[test]
        fn data_with_its_own_checksum_is_right_and_one_changed_bit_is_wrong(
            bytes in proptest::collection::vec(any::<u8>(), 2..200), at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let mut whole: Vec<u8> = field(sum(&bytes)).to_vec();
            whole.extend_from_slice(&bytes);
            prop_assert!(is_right(sum(&whole)));
            let at = at.index(whole.len());
            whole[at] ^= 1 << bit;
            prop_assert!(!is_right(sum(&whole)));
        }

        #[test]
        fn folding_keeps_the_value(value: u64) {
            let expected = u16::try_from(value % 0xffff).unwrap();
            let folded = fold(value);
            prop_assert!(folded == expected || (folded == 0xffff && expected == 0));
        }
    }
}
