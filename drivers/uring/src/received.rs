//! From what the kernel said about a buffer to what the engine gets.

use crate::provided::Head;
use tachyon_driver_api::{Buffer, Received};

/// Describes the frames in `buffer`, which start at `offset`; the second value counts datagrams that did not fit.
///
/// What did not fit is not passed over: of a run, the frame that was cut is handed on for the engine to refuse, and those
/// behind it are counted as lost.
#[inline]
pub(crate) fn frames(buffer: Buffer, offset: u32, head: Head, shard: u16) -> (Received, u64) {
    let len = head.bytes.min(buffer.capacity().saturating_sub(offset));
    let stride = head.control.stride.filter(|&stride| stride > 0 && stride < head.bytes).unwrap_or(head.bytes).max(1);
    let lost = head.bytes.div_ceil(stride) - len.div_ceil(stride);
    (Received { buffer, offset, len, stride: stride.min(len.max(1)), shard, source: head.source }, u64::from(lost))
}
