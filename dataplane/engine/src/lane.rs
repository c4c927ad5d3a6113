//! Open buffers, and the way that a message takes to one.

use crate::egress::LINE_BYTES;
use tachyon_driver_api::{Buffer, OpenBuffer};
use tachyon_kernels::copy::{Line, Places};
use tachyon_policy::Verdict;
use tachyon_wire::Message;
use zerocopy::IntoBytes;

/// [`Lane::marks`]: the target is its route's first: what it gets says how many messages the route got.
pub(crate) const LEADS: u8 = 1;
/// [`Lane::marks`]: its route's messages are for the truth log.
pub(crate) const FOR_LOG: u8 = 2;
/// [`Lane::marks`]: its route is for durable messages, which have identities.
pub(crate) const IDENTIFIED: u8 = 4;

/// An open buffer: consecutive frames of one route target and shard, all of one stride, the last perhaps shorter. One
/// cache line, the first part of it what each copy touches.
#[derive(Debug)]
#[repr(C, align(64))]
pub struct Lane {
    /// Where the next message goes, and where the frame being filled has to end at the latest.
    pub(crate) lines: OpenBuffer,
    /// What the frame being filled begins with, as [`crate::fan::Bodies`] counts; 0 where that is not known.
    pub(crate) first: u32,
    /// Where the frame being filled starts.
    pub(crate) frame_start: u32,
    /// Bytes of the first frame, once it is closed; 0 before.
    pub(crate) stride: u16,
    /// In the frames that are closed.
    pub(crate) copies: u16,
    pub(crate) target: u32,
    pub(crate) subscriber: u32,
    pub(crate) route: u32,
    pub(crate) route_id: u32,
    pub(crate) shard: u16,
    pub(crate) owned: u8,
    /// [`LEADS`], [`FOR_LOG`] and [`IDENTIFIED`].
    pub(crate) marks: u8,
    /// When the oldest message in it was received.
    pub(crate) first_ns: u64,
}

const _: () = assert!(size_of::<Lane>() == 64);

impl Lane {
    /// A closed lane.
    pub const EMPTY: Self = Self {
        lines: OpenBuffer::NONE,
        target: 0,
        subscriber: 0,
        route: 0,
        route_id: 0,
        shard: 0,
        owned: 0,
        marks: 0,
        stride: 0,
        frame_start: 0,
        copies: 0,
        first: 0,
        first_ns: 0,
    };

    /// Appends a line to the frame being filled; false if it is full.
    #[inline(always)]
    pub(crate) fn append(&mut self, message: &Message) -> bool {
        let Some(line) = self.lines.next_line() else { return false };
        line.copy_from_slice(message.as_bytes());
        true
    }

    /// Goes on in a fresh buffer.
    pub(crate) fn begin(&mut self, buffer: Buffer, now_ns: u64) {
        self.lines = OpenBuffer::new(buffer);
        (self.frame_start, self.first, self.stride, self.copies) = (0, 0, 0, 0);
        self.first_ns = now_ns;
    }

    /// Messages in the frame being filled.
    pub(crate) fn filling(&self) -> u32 {
        ((self.lines.end() - self.frame_start) / LINE_BYTES).saturating_sub(1)
    }
}

/// The open lanes that some verdicts lead to.
pub(crate) struct OpenLanes<'e> {
    /// Of one shard, by target.
    pub(crate) lane_of: &'e [u32],
    pub(crate) lanes: &'e mut [Lane],
}

impl Places<Verdict> for OpenLanes<'_> {
    #[inline(always)]
    fn next(&mut self, verdict: Verdict) -> Option<&mut Line> {
        let index = *self.lane_of.get(verdict.plain_route() as usize)?;
        // A closed lane's index is past all lanes.
        self.lanes.get_mut(index as usize)?.lines.next_line()
    }
}
