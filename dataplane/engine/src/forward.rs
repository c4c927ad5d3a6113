//! Copies of durable messages: forwarded once the log has them, each with the identity under which it was first admitted.

use crate::egress::{Egress, Hop, LINE_BYTES, refuse_copies};
use tachyon_driver_api::Pool;
use tachyon_wire::{
    Frame, LINE, Message, Reason,
    counters::WorkerStats,
    frame::{PROVENANCE, Provenance, provenance_lines},
    image::Target,
};
use zerocopy::{IntoBytes, byteorder::little_endian::U64};

/// Messages of one frame that follow each other and go by one route.
pub(crate) struct Event<'f> {
    pub(crate) frame: &'f Frame<'f>,
    /// The first of them.
    pub(crate) first: usize,
    /// How many; 1 if the frame has a payload.
    pub(crate) count: usize,
}

impl Event<'_> {
    /// The identity of the message at an index: the one that came with it, or else this frame's.
    fn identity(&self, index: usize) -> Provenance {
        let header = self.frame.header;
        self.frame.provenance.get(index).copied().unwrap_or(Provenance {
            session_id: header.session_id,
            epoch: header.epoch,
            frame_id: header.frame_id,
            shard: header.shard,
            index: u16::try_from(index).unwrap_or(u16::MAX).into(), // a frame has at most 256
        })
    }

    /// The payload of a message that has one in its frame.
    fn payload(&self) -> &[u8] {
        let place = self.frame.messages.get(self.first).and_then(Message::in_frame);
        let bytes = place.and_then(|place| {
            let start = usize::try_from(place.offset.get()).ok()?;
            self.frame.bytes.get(start..)?.get(..place.length.get() as usize)
        });
        bytes.unwrap_or_default()
    }
}

impl Egress<'_> {
    /// Copies messages with their identities to every target of their route. Their copies come due only now.
    pub(crate) fn forward(
        &mut self,
        hop: Hop<'_>,
        targets: &[Target],
        event: &Event<'_>,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) {
        for (target, subscriber) in (hop.rule.first_target.get()..).zip(targets) {
            stats.counters.copies_due += event.count as u64;
            let mut at = 0;
            while at < event.count {
                let rest = Event { first: event.first + at, count: event.count - at, ..*event };
                match self.forward_some(hop, target, subscriber.get(), &rest, pool, stats) {
                    Ok(copied) => {
                        stats.counters.copies_held += copied as u64;
                        at += copied;
                    }
                    Err(reason) => {
                        refuse_copies(stats, &hop, target, rest.count as u64, reason);
                        break;
                    }
                }
            }
        }
    }

    /// Writes one frame with as many of the messages as fit; returns how many.
    fn forward_some(
        &mut self,
        hop: Hop<'_>,
        target: u32,
        subscriber: u32,
        event: &Event<'_>,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) -> Result<usize, Reason> {
        let payload = event.payload();
        let most = self.subscribers.get(subscriber as usize).ok_or(Reason::TxSubmitFail)?.frame_bytes_max as usize;
        let bytes = |count: usize| LINE * (1 + count + provenance_lines(count)) + payload.len().next_multiple_of(LINE);
        let count = (1..=event.count).rev().find(|count| bytes(*count) <= most).ok_or(Reason::TxSubmitFail)?;
        let size = u32::try_from(bytes(count)).map_err(|_| Reason::TxSubmitFail)?;
        let index = self.lane_for(hop, target, subscriber, size, pool, stats)?;
        let lane = &mut self.lanes[index];
        let Some(buffer) = &mut lane.buffer else { return Err(Reason::InternalInvariant) };
        let at = lane.end as usize;
        let body = buffer.bytes_mut().get_mut(at..at + size as usize - LINE).ok_or(Reason::InternalInvariant)?;
        write_body(body, event, count, payload);
        lane.end = lane.frame_start + size;
        let copies = u32::try_from(count).unwrap_or(0);
        if !(self.close_flagged(index, copies, PROVENANCE, stats) && self.start_frame(index)) {
            self.flush_closed(index, stats);
        }
        Ok(count)
    }
}

/// Writes messages, their identities, and a payload behind them.
fn write_body(body: &mut [u8], event: &Event<'_>, count: usize, payload: &[u8]) {
    let (lines, behind) = body.split_at_mut(count * LINE);
    let (identities, area) = behind.split_at_mut(provenance_lines(count) * LINE);
    lines.copy_from_slice(event.frame.messages[event.first..event.first + count].as_bytes());
    let (used, padding) = identities.split_at_mut(count * size_of::<Provenance>());
    for (index, place) in (event.first..).zip(used.chunks_exact_mut(size_of::<Provenance>())) {
        place.copy_from_slice(event.identity(index).as_bytes());
    }
    padding.fill(0);
    if !payload.is_empty() {
        // `offset` of a reference stands at byte 4 of `data`, which is byte 20 of the message.
        let offset = LINE * (1 + count + provenance_lines(count));
        lines[20..28].copy_from_slice(U64::new(offset as u64).as_bytes());
        area[..payload.len()].copy_from_slice(payload);
        area[payload.len()..].fill(0);
    }
}
const _: () = assert!(LINE == LINE_BYTES as usize);
