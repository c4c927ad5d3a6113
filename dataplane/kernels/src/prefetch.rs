//! Hints that a record will be needed soon.

/// Asks for the line that holds `slice[index]`, to be read soon. An index outside the slice asks for some other line, or for
/// none: to look which would cost more than that does.
#[inline(always)]
pub fn prefetch_read<T>(slice: &[T], index: usize) {
    hint::<T, false>(slice.as_ptr().wrapping_add(index));
}

/// Asks for the line that holds `slice[index]`, to be written soon. An index outside the slice asks for some other line, or
/// for none.
#[inline(always)]
pub fn prefetch_write<T>(slice: &[T], index: usize) {
    hint::<T, true>(slice.as_ptr().wrapping_add(index));
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn hint<T, const WRITE: bool>(item: *const T) {
    use core::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch is a hint that never faults, whatever the address, and changes nothing a program can see. It is
    // here for speed: `examples/govern_cost.rs` of `policy` shows the difference.
    unsafe {
        if WRITE {
            _mm_prefetch::<_MM_HINT_ET0>(item.cast());
        } else {
            _mm_prefetch::<_MM_HINT_T0>(item.cast());
        }
    }
}

/// The scalar twin: a hint not given changes no result.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline(always)]
fn hint<T, const WRITE: bool>(_item: *const T) {}

/// Asks for these lines, to be written soon.
#[inline]
pub fn prefetch_write_lines(lines: &[[u8; 64]]) {
    // Four by four, because to count a line alone costs more than to ask for it.
    let (fours, rest) = lines.as_chunks::<4>();
    for four in fours {
        four.iter().for_each(|line| hint::<_, true>(line));
    }
    rest.iter().for_each(|line| hint::<_, true>(line));
}

/// Asks for what would be the `items`-th item behind this one, to be written soon, whether there is one or not.
#[inline(always)]
pub(crate) fn prefetch_behind<T>(item: &T, items: usize) {
    hint::<T, true>(core::ptr::from_ref(item).wrapping_add(items));
}

#[cfg(test)]
mod tests {
    use super::{prefetch_read, prefetch_write};

    #[test]
    fn takes_any_index_and_changes_nothing() {
        let records = [1_u64, 2, 3];
        for index in [0, 2, 3, usize::MAX] {
            prefetch_read(&records, index);
            prefetch_write(&records, index);
        }
        prefetch_read::<u64>(&[], 0);
        assert_eq!(records, [1, 2, 3]);
    }
}
