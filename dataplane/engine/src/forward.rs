//! Copies of durable messages: forwarded once the log has them, each with the identity under which it was first admitted.
//!
//! Identities stand behind a frame's messages, and how many those will be is known only when it is closed. So they wait
//! where they stand if the frame gets full, and move up if it does not.

use crate::{
    egress::{Egress, Hop, LINE_BYTES, refuse_copies},
    lane::Lane,
};
use tachyon_driver_api::Pool;
use tachyon_wire::{
    Frame, LINE, Message, Reason,
    counters::WorkerStats,
    frame::{PROVENANCE, Provenance, provenance_lines},
    image::Target,
};
use zerocopy::{IntoBytes, byteorder::little_endian::U64};

const IDENTITY: usize = size_of::<Provenance>();

/// Messages that fit a frame of so many bytes with their identities.
pub(crate) fn identified(frame_bytes: u32) -> u32 {
    /// Four messages and the line of their identities.
    const GROUP: u32 = 5;
    let lines = (frame_bytes / LINE_BYTES).saturating_sub(1);
    let rest = (lines % GROUP).saturating_sub(1);
    lines / GROUP * (GROUP - 1) + rest
}

/// The identity of a frame's message: the one that came with it, or else its own.
fn identity(frame: &Frame<'_>, index: usize) -> Provenance {
    let header = frame.header;
    frame.provenance.get(index).copied().unwrap_or(Provenance {
        session_id: header.session_id,
        epoch: header.epoch,
        frame_id: header.frame_id,
        shard: header.shard,
        index: u16::try_from(index).unwrap_or(u16::MAX).into(), // a frame has at most 256
    })
}

/// The payload of a message that has one in its frame.
fn payload_of<'f>(frame: &Frame<'f>, message: &Message) -> Option<&'f [u8]> {
    let place = message.in_frame()?;
    let start = usize::try_from(place.offset.get()).ok()?;
    frame.bytes.get(start..)?.get(..place.length.get() as usize)
}

impl Egress<'_> {
    /// Copies a frame's message with its identity to every target of its route. Its copies come due only now.
    pub(crate) fn forward(
        &mut self,
        hop: Hop<'_>,
        targets: &[Target],
        frame: &Frame<'_>,
        index: usize,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) {
        let (message, identity) = (&frame.messages[index], identity(frame, index));
        self.forward_as(hop, targets, message, &identity, payload_of(frame, message), pool, stats);
    }

    /// Copies a message with an identity to every target of its route.
    #[expect(clippy::too_many_arguments, reason = "the message and what belongs to it beside whose they are")]
    pub(crate) fn forward_as(
        &mut self,
        hop: Hop<'_>,
        targets: &[Target],
        message: &Message,
        identity: &Provenance,
        payload: Option<&[u8]>,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) {
        for (target, subscriber) in (hop.rule.first_target.get()..).zip(targets) {
            stats.counters.copies_due += 1;
            let copied = match payload {
                None => self.append_identified(hop, target, subscriber.get(), message, identity, pool, stats),
                Some(payload) => {
                    let with = (identity, payload);
                    self.forward_payload(hop, target, subscriber.get(), message, with, pool, stats)
                }
            };
            match copied {
                Ok(()) => stats.counters.copies_held += 1,
                Err(reason) => refuse_copies(stats, &hop, target, 1, reason),
            }
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the message and its identity beside whose they are")]
    fn append_identified(
        &mut self,
        hop: Hop<'_>,
        target: u32,
        subscriber: u32,
        message: &Message,
        identity: &Provenance,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) -> Result<(), Reason> {
        if self.subscribers.get(subscriber as usize).is_none_or(|to| identified(to.frame_bytes_max) == 0) {
            return Err(Reason::TxSubmitFail);
        }
        let mut index = self.lane(hop, target, subscriber, pool, stats)?;
        if !self.lanes[index].lines.has_room() && !self.next_frame(index, hop.now_ns, pool, stats) {
            index = self.lane(hop, target, subscriber, pool, stats)?;
        }
        self.lanes[index].append_identified(message, identity).ok_or(Reason::InternalInvariant)
    }

    /// Writes a frame of this one message and its payload.
    #[cold]
    #[expect(clippy::too_many_arguments, reason = "the message and what belongs to it beside whose they are")]
    fn forward_payload(
        &mut self,
        hop: Hop<'_>,
        target: u32,
        subscriber: u32,
        message: &Message,
        (identity, payload): (&Provenance, &[u8]),
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) -> Result<(), Reason> {
        /// Header, message, identity.
        const BEFORE: usize = 3 * LINE;
        let padded = payload.len().next_multiple_of(LINE);
        let size = u32::try_from(BEFORE + padded).map_err(|_| Reason::TxSubmitFail)?;
        if self.subscribers.get(subscriber as usize).is_none_or(|to| size > to.frame_bytes_max) {
            return Err(Reason::TxSubmitFail);
        }
        let index = self.lane_for(hop, target, subscriber, size, pool, stats)?;
        let lane = &mut self.lanes[index];
        let at = lane.lines.end() as usize;
        let body = lane.lines.bytes_mut().get_mut(at..at + BEFORE - LINE + padded).ok_or(Reason::InternalInvariant)?;
        body.fill(0);
        body[..LINE].copy_from_slice(message.as_bytes());
        // `offset` of a reference stands at byte 4 of `data`, which is byte 20 of the message.
        body[20..28].copy_from_slice(U64::new(BEFORE as u64).as_bytes());
        body[LINE..LINE + IDENTITY].copy_from_slice(identity.as_bytes());
        body[2 * LINE..2 * LINE + payload.len()].copy_from_slice(payload);
        lane.lines.go_on(lane.frame_start + size, 0);
        if !(self.close_flagged(index, 1, PROVENANCE, stats) && self.start_frame(index)) {
            self.flush_closed(index, stats);
        }
        Ok(())
    }
}

impl Lane {
    /// Appends a message and, where it stands in a full frame, its identity.
    fn append_identified(&mut self, message: &Message, identity: &Provenance) -> Option<()> {
        let place = self.lines.limit() as usize + self.filling() as usize * IDENTITY;
        self.lines.bytes_mut().get_mut(place..place + IDENTITY)?.copy_from_slice(identity.as_bytes());
        self.lines.next_line()?.copy_from_slice(message.as_bytes());
        Some(())
    }

    /// Moves the identities of a frame's messages up behind the last of them, with zeros up to a whole line.
    pub(crate) fn close_identified(&mut self) {
        let (count, from, to) = (self.filling() as usize, self.lines.limit() as usize, self.lines.end() as usize);
        let end = to + provenance_lines(count) * LINE;
        if let Some(bytes) = self.lines.bytes_mut().get_mut(..from.max(to) + end - to) {
            bytes.copy_within(from..from + count * IDENTITY, to);
            bytes[to + count * IDENTITY..end].fill(0);
        }
        self.lines.go_on(u32::try_from(end).unwrap_or(u32::MAX), 0); // inside a buffer
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn as_many_fit_as_the_layout_says() {
        for lines in 0..300 {
            let fit = |count: &usize| 1 + count + provenance_lines(*count) <= lines.max(1);
            let most = (0..lines.max(1)).take_while(fit).last().unwrap_or(0);
            let bytes = u32::try_from(lines * LINE).unwrap_or(0);
            assert_eq!(identified(bytes) as usize, most, "{lines} lines");
        }
        assert_eq!(identified(1_472), 17);
    }
}
