//! Closes egress frames: numbered one by one when their buffer is queued, sealed some at a time, because tags that are made
//! together cost less than half.

use crate::{
    egress::{Egress, Subscriber},
    ready::Ready,
    stream::Stream,
};
use arrayvec::ArrayVec;
use core::ops::Range;
use tachyon_kernels::{
    Path, crc,
    tags::{self, Job},
};
use tachyon_wire::{
    FrameHeader, LINE,
    frame::AUTHENTICATED,
    tag::{FrameKey, TAG_BYTES},
    tap,
};
use zerocopy::FromBytes;

/// Buffers that are sealed at the latest when there are so many: at 64 KiB each they are still in L2.
pub(crate) const TOGETHER: usize = 4;
/// Tags that are made together.
const TAGS: usize = tags::TOGETHER;

/// A numbered frame that wants a tag: which queued buffer it is in, and where.
struct Numbered {
    place: usize,
    range: Range<usize>,
    key: FrameKey,
}

impl Egress<'_> {
    /// Seals the frames of the buffers that were queued since the last time.
    pub fn seal_queued(&mut self) {
        let mut numbered: ArrayVec<Numbered, TAGS> = ArrayVec::new();
        let (count, mut for_log) = (core::mem::take(&mut self.unsealed), false);
        for back in (0..count).rev() {
            for_log |= self.seal_buffer(self.ready.place(back), &mut numbered) == Some(true);
        }
        if !numbered.is_empty() {
            self.write_tags(&mut numbered);
        }
        if for_log {
            // In the queue's order, which is the same whenever frames are sealed; which are sealed together depends on the device.
            for back in (0..count).rev() {
                self.digest(self.ready.place(back));
            }
        }
    }

    /// Seals a buffer's frames, or leaves them among the numbered until there are enough; returns whether they are for the
    /// truth log. `None` where there is nothing to seal: a reply has no subscriber, and was sealed when it was written.
    fn seal_buffer(&mut self, place: usize, numbered: &mut ArrayVec<Numbered, TAGS>) -> Option<bool> {
        let item = self.ready.at_mut(place)?;
        let flight = self.in_flight.get(item.token as usize)?;
        let for_log = flight.for_log;
        let (subscriber_slot, stream_place) = (flight.subscriber as usize, flight.stream as usize);
        let subscriber = self.subscribers.get(subscriber_slot)?;
        let (length, stride) = (item.len as usize, item.stride.max(1) as usize);
        if !subscriber.tagged {
            let bytes = item.buffer.bytes_mut().get_mut(..length)?;
            bytes.chunks_mut(stride).for_each(|frame| with_crc(self.path, frame));
            return Some(for_log);
        }
        for start in (0..length).step_by(stride) {
            let end = length.min(start + stride);
            let (header, _) = FrameHeader::ref_from_prefix(self.ready.bytes(place, start..end)?).ok()?;
            let subscriber = self.subscribers.get(subscriber_slot)?;
            let stream = self.streams.get_mut(stream_place)?;
            let key = stream.key(header.epoch.get(), &subscriber.master, subscriber.session_id);
            numbered.push(Numbered { place, range: start..end, key });
            if numbered.is_full() {
                self.write_tags(numbered);
            }
        }
        Some(for_log)
    }

    /// Writes the tags of these frames, and forgets them.
    fn write_tags(&mut self, numbered: &mut ArrayVec<Numbered, TAGS>) {
        let tags = made_tags(self.path, &self.ready, numbered);
        for (Numbered { place, range, .. }, tag) in numbered.drain(..).zip(&tags) {
            if let Some(frame) = self.ready.at_mut(place).and_then(|item| item.buffer.bytes_mut().get_mut(range)) {
                write_tag(frame, tag);
            }
        }
    }

    /// Adds a buffer's sealed frames to what the truth log is told of them, if it is.
    fn digest(&mut self, place: usize) {
        let Some(item) = self.ready.at_mut(place) else { return };
        if !self.in_flight.get(item.token as usize).is_some_and(|flight| flight.for_log) {
            return;
        }
        let (length, stride) = (item.len as usize, item.stride.max(1) as usize);
        let Some(bytes) = self.ready.bytes(place, 0..length) else { return };
        for frame in bytes.chunks(stride) {
            let Ok((header, _)) = FrameHeader::ref_from_prefix(frame) else { continue };
            let tagged = header.flags.get() & AUTHENTICATED != 0;
            let half = u64::from_le_bytes(*header.tag.first_chunk().unwrap_or(&[0; 8]));
            let seal = if tagged { half } else { header.crc32c.get().into() };
            let (session_id, frame_id) = (header.session_id.get(), header.frame_id.get());
            self.logged_digest = tap::digest(self.logged_digest, session_id, frame_id, seal);
            self.logged_frames = self.logged_frames.wrapping_add(1);
        }
    }
}

fn made_tags(path: Path, ready: &Ready<'_>, numbered: &[Numbered]) -> [[u8; TAG_BYTES]; TAGS] {
    let bytes = |frame: &Numbered| ready.bytes(frame.place, frame.range.clone()).unwrap_or(&[0; LINE]);
    let jobs: ArrayVec<Job<'_>, TAGS> =
        numbered.iter().map(|frame| Job { key: &frame.key, frame: bytes(frame) }).collect();
    let mut tags = [[0; TAG_BYTES]; TAGS];
    tags::tags(path, &jobs, &mut tags);
    tags
}

/// Gives a frame its place in the stream. Not just before it is sealed: reading a line that was written a moment ago in
/// pieces has to wait for all of them.
pub(crate) fn number(frame: &mut [u8], subscriber: &Subscriber, stream: &mut Stream, sent_ns: u64) {
    let (frame_id, epoch) = stream.advance();
    let Ok((header, _)) = FrameHeader::mut_from_prefix(frame) else { return };
    header.frame_id.set(frame_id);
    header.session_id.set(subscriber.session_id);
    header.epoch.set(epoch);
    header.sent_ns.set(sent_ns);
    if subscriber.tagged {
        header.flags.set(header.flags.get() | AUTHENTICATED);
    }
}

/// The tag was zero: the header was written for this frame. So was the crc, unless that of what is behind the header was
/// known and left there.
fn with_crc(path: Path, frame: &mut [u8]) {
    let behind = FrameHeader::ref_from_prefix(frame).map_or(0, |(header, _)| header.crc32c.get());
    let crc32c = if behind == 0 { crc::frame_crc(path, frame) } else { crc::joined_crc(path, frame, behind) };
    if let Ok((header, _)) = FrameHeader::mut_from_prefix(frame) {
        header.crc32c.set(crc32c);
    }
}

fn write_tag(frame: &mut [u8], tag: &[u8; TAG_BYTES]) {
    if let Ok((header, _)) = FrameHeader::mut_from_prefix(frame) {
        header.tag = *tag;
    }
}
