//! Puts memory out of every cache, so that what comes from DRAM does.

use tachyon_wire::LINE;

/// Writes these lines back and forgets them, in every cache of the machine. Elsewhere than on x86-64 it does nothing, and
/// [`POSSIBLE`] says so.
pub(crate) fn flush(bytes: &[u8]) {
    #[cfg(target_arch = "x86_64")]
    {
        use core::arch::x86_64::{_mm_clflush, _mm_mfence};
        for line in bytes.chunks(LINE) {
            // SAFETY: every x86-64 has the instruction, the address is that of a live slice, and no byte changes.
            unsafe { _mm_clflush(line.as_ptr()) };
        }
        // SAFETY: every x86-64 has the instruction, and it only waits.
        unsafe { _mm_mfence() };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (bytes, LINE);
}

/// Whether [`flush`] does what it says.
pub(crate) const POSSIBLE: bool = cfg!(target_arch = "x86_64");
