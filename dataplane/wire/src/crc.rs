//! The frame's crc32c (CRC-32/ISCSI, Castagnoli): finds damage, proves nothing about the sender.

use crate::{Frame, LINE};
use crc_fast::{CrcAlgorithm, Digest};

/// The polynomial, bit-reflected: bit 31 − i is the coefficient of xⁱ.
const POLYNOMIAL: u32 = 0x82f6_3b78;
/// Frames of up to this many lines are verified without copying the header: 16 KiB, which covers jumbo frames and 255
/// messages. Longer ones do not notice the copy.
const SHIFTS: usize = 256;

/// crc32c of any bytes; what `checksum` of a payload reference is made of.
#[inline]
#[must_use]
pub fn of(bytes: &[u8]) -> u32 {
    crc_fast::crc32_iscsi(bytes)
}

/// crc32c of a frame with its `crc32c` and `tag` taken as zero, whatever stands there. Nothing is written: the header is
/// copied. Bytes that are shorter than a header are taken as they are.
#[must_use]
pub fn compute(frame: &[u8]) -> u32 {
    let Some((header, rest)) = frame.split_first_chunk::<LINE>() else { return of(frame) };
    let mut header = *header;
    header[20..24].fill(0);
    header[48..].fill(0);
    let mut digest = Digest::new(CrcAlgorithm::Crc32Iscsi);
    digest.update(&header);
    digest.update(rest);
    let [a, b, c, d, ..] = digest.finalize().to_le_bytes(); // 32 bits, held in 64
    u32::from_le_bytes([a, b, c, d])
}

/// Whether the frame's `crc32c` is right. For frames without a tag, as [`crate::frame::parse`] gives them; one with a tag
/// has no crc.
///
/// A crc is linear: that of the bytes as received differs from that of the bytes with the field zero by what the field
/// alone contributes. So one pass over the bytes as they are and one multiplication say the same as [`compute`], without
/// the copied header and the two short passes that it costs (66 against 91 ns for 22 messages, 2.6 GHz Xeon).
#[inline]
#[must_use]
pub fn verify(frame: &Frame<'_>) -> bool {
    let crc32c = frame.header.crc32c.get();
    match SHIFT.get(frame.bytes.len() / LINE) {
        Some(shift) => of(frame.bytes) ^ contribution(crc32c, *shift) == crc32c,
        None => compute(frame.bytes) == crc32c,
    }
}

/// What `field`, standing at bytes 20–23 of an otherwise empty frame, contributes to its crc: field · shift · x³³, where
/// [`SHIFT`] leaves out the x³³ that the carry-less product and the crc of eight bytes bring with them.
#[inline]
fn contribution(field: u32, shift: u32) -> u32 {
    const EIGHT_ZEROS: u32 = bitwise(&[0; 8]);
    of(&carryless_product(field, shift).to_le_bytes()) ^ EIGHT_ZEROS
}

/// Product of two polynomials over GF(2), in integer multiplications of every fourth bit: with 8 bits in each factor no
/// column sums past 8, so no carry reaches the next bit that counts.
#[inline]
fn carryless_product(a: u32, b: u32) -> u64 {
    const EVERY_FOURTH: u64 = 0x1111_1111_1111_1111;
    let (a, b) = (u64::from(a), u64::from(b));
    let mut product = 0;
    for column in 0..4 {
        let mut sum = 0;
        for bit in 0..4 {
            sum ^= (a & EVERY_FOURTH << bit).wrapping_mul(b & EVERY_FOURTH << ((column + 4 - bit) % 4));
        }
        product |= sum & EVERY_FOURTH << column;
    }
    product
}

/// By lines of a frame n: x^(512 n − 193) mod P. The field's 32 bits are followed by 64 n − 24 bytes, so it weighs
/// x^(32 + 8 · (64 n − 24)) = x^(512 n − 160), of which x³³ is left to [`contribution`].
static SHIFT: [u32; SHIFTS + 1] = shifts();

const fn shifts() -> [u32; SHIFTS + 1] {
    let mut table = [0; SHIFTS + 1];
    let mut power = 1 << 31; // x⁰
    let mut exponent = 0;
    while exponent <= 512 * SHIFTS - 193 {
        if (exponent + 193) % 512 == 0 {
            table[(exponent + 193) / 512] = power;
        }
        power = times_x(power);
        exponent += 1;
    }
    table
}

/// One power more, modulo the polynomial: what every table of powers is made with.
#[must_use]
pub const fn times_x(power: u32) -> u32 {
    power >> 1 ^ if power & 1 == 1 { POLYNOMIAL } else { 0 }
}

/// crc32c, one bit at a time: for constants, and the oracle of the tests.
const fn bitwise(bytes: &[u8]) -> u32 {
    let mut crc = u32::MAX;
    let mut index = 0;
    while index < bytes.len() {
        crc ^= bytes[index] as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = times_x(crc);
            bit += 1;
        }
        index += 1;
    }
    !crc
}

#[cfg(test)]
mod tests {
    use super::{SHIFT, SHIFTS, bitwise, compute, contribution, of};
    use crate::LINE;

    #[test]
    fn knows_the_published_check_values() {
        assert_eq!(of(b"123456789"), 0xe306_9283); // the catalogue's check value
        assert_eq!(of(&[0; 32]), 0x8a91_36aa); // RFC 3720, B.4
        assert_eq!(of(&[0xff; 32]), 0x62a8_ab43); // RFC 3720, B.4
        assert_eq!(bitwise(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn takes_the_field_out_of_a_frame_of_any_length() {
        let mut frame = [0; SHIFTS * LINE];
        let mut state = 0x9e37_79b9_u32;
        for byte in &mut frame {
            state ^= state << 13;
            state ^= state >> 17;
            state ^= state << 5;
            *byte = state.to_le_bytes()[0];
        }
        frame[48..64].fill(0);
        for lines in 1..=SHIFTS {
            let bytes = &frame[..lines * LINE];
            let field = u32::from_le_bytes([bytes[20], bytes[21], bytes[22], bytes[23]]);
            assert_eq!(of(bytes) ^ contribution(field, SHIFT[lines]), compute(bytes), "{lines} lines");
        }
        let mut zeroed = frame;
        zeroed[20..24].fill(0);
        assert_eq!(compute(&frame), bitwise(&zeroed));
    }
}
