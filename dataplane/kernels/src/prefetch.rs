//! Hints that a record will be needed soon.

/// Asks for the line that holds `slice[index]`, to be read soon. An index outside the slice asks for nothing.
#[inline(always)]
pub fn prefetch_read<T>(slice: &[T], index: usize) {
    if let Some(item) = slice.get(index) {
        hint::<T, false>(item);
    }
}

/// Asks for the line that holds `slice[index]`, to be written soon. An index outside the slice asks for nothing.
#[inline(always)]
pub fn prefetch_write<T>(slice: &[T], index: usize) {
    if let Some(item) = slice.get(index) {
        hint::<T, true>(item);
    }
}

#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline(always)]
fn hint<T, const WRITE: bool>(item: &T) {
    use core::arch::x86_64::{_MM_HINT_ET0, _MM_HINT_T0, _mm_prefetch};
    let line = core::ptr::from_ref(item).cast::<i8>();
    // SAFETY: a prefetch is a hint that never faults and changes nothing a program can see; the address is that of a
    // live reference. It is here for speed: `examples/govern_cost.rs` of `policy` shows the difference.
    unsafe {
        if WRITE {
            _mm_prefetch::<_MM_HINT_ET0>(line);
        } else {
            _mm_prefetch::<_MM_HINT_T0>(line);
        }
    }
}

/// The scalar twin: a hint not given changes no result.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
#[inline(always)]
fn hint<T, const WRITE: bool>(_item: &T) {}

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
