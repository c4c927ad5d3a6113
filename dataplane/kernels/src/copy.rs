//! Lines to where they belong, one here and one there.

use crate::{
    path::{Level, Path},
    prefetch::prefetch_behind,
};
use tachyon_wire::LINE;

/// A message, or a header, as the bytes that it is.
pub type Line = [u8; LINE];

/// Where lines go to.
pub trait Places<K> {
    /// The place of the next line that has this key, which then is taken; none ends the copying. To be inlined by force: what it
    /// does is done for each line.
    fn next(&mut self, key: K) -> Option<&mut Line>;
}

/// Copies each line to the place that its key leads to, up to the first that has none; returns how many.
#[inline]
pub fn copy_lines<K: Copy>(path: Path, lines: &[Line], keys: &[K], places: &mut impl Places<K>) -> usize {
    match path.0 {
        Level::Scalar => scalar(lines, keys, places),
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: a path of this level proves that the CPU has what the function enables.
        Level::Avx2 => unsafe { avx2(lines, keys, places) },
        #[cfg(all(target_arch = "x86_64", not(miri)))]
        // SAFETY: as above.
        Level::Avx512 => unsafe { avx512(lines, keys, places) },
    }
}

/// The one text of all paths: how wide a line's moves are is up to what the function around it enables.
#[inline(always)]
fn each<K: Copy>(lines: &[Line], keys: &[K], places: &mut impl Places<K>) -> usize {
    for (count, (line, key)) in lines.iter().zip(keys).enumerate() {
        let Some(place) = places.next(*key) else { return count };
        *place = *line;
        // By the time these places get the line after next, its place is here: 2 % of `bench loop`.
        prefetch_behind(place, 2);
    }
    lines.len().min(keys.len())
}

// None is inlined, so that the loop has the registers for itself.
#[inline(never)]
fn scalar<K: Copy>(lines: &[Line], keys: &[K], places: &mut impl Places<K>) -> usize {
    each(lines, keys, places)
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx2")]
#[inline(never)]
fn avx2<K: Copy>(lines: &[Line], keys: &[K], places: &mut impl Places<K>) -> usize {
    each(lines, keys, places)
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[target_feature(enable = "avx512f,avx512bw,avx512dq,avx512vl,avx2")]
#[inline(never)]
fn avx512<K: Copy>(lines: &[Line], keys: &[K], places: &mut impl Places<K>) -> usize {
    each(lines, keys, places)
}
