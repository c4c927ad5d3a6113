//! The few instructions that the language has no safe name for: prefetch, and the copy of one line.
//!
//! An island, so that `policy` and `engine` can forbid `unsafe`. Each kernel has a scalar twin beside it that gives the same
//! result on any machine, and takes slices and indices, never pointers. The crate deliberately knows nothing of rules,
//! frames or state: whatever needs a branch on meaning belongs above it.
#![no_std]

mod prefetch;

pub use prefetch::{prefetch_read, prefetch_write};

/// Copies one message line. A fixed size lets the compiler use its widest vectors without a length check or a call.
#[inline(always)]
pub fn copy_line(to: &mut [u8; 64], from: &[u8; 64]) {
    *to = *from;
}

#[cfg(test)]
mod tests {
    use super::copy_line;

    #[test]
    fn copies_a_whole_line_and_nothing_else() {
        let from: [u8; 64] = core::array::from_fn(|index| u8::try_from(index).unwrap());
        let mut lines = [[0xaa_u8; 64]; 3];
        copy_line(&mut lines[1], &from);
        assert_eq!(lines, [[0xaa; 64], from, [0xaa; 64]]);
    }
}
