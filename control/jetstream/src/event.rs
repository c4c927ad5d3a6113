//! What is published of a frame: one event for each message, or one for the whole frame; and the words by which an event
//! says where in the log it comes from.

use crate::accepts::Judged;
use bytes::Bytes;
use tachyon_wire::{
    Frame, Lane,
    frame::{self, MESSAGES_MAX},
    message::ArenaReference,
};
use zerocopy::IntoBytes;

/// Header of a NATS message: the log's random number in hexadecimal.
pub const LOG: &str = "Tachyon-Log";
/// Header: sequence of the frame's record in the log of its shard.
pub const RECORD: &str = "Tachyon-Record";
/// Header: nanoseconds of the node's clock at which the frame was received.
pub const TICK: &str = "Tachyon-Tick";
/// Header: the same in Unix nanoseconds, where a clock record stands before it in the log.
pub const UNIX_NS: &str = "Tachyon-Unix-Ns";
/// Header: who sent the message. Not there for whole frames.
pub const SENDER: &str = "Tachyon-Sender";

/// The `index` of a place that stands for a whole frame.
pub const WHOLE: u16 = u16::MAX;

/// A place in a shard's log, behind which exporting goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// Sequence of a frame's record.
    pub record: u64,
    /// The message in that frame, or [`WHOLE`].
    pub index: u16,
}

/// One NATS message to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Where it comes from.
    pub place: Place,
    /// Its topic; none for whole frames.
    pub topic: Option<u32>,
    /// Identity: session, epoch, frame, shard and, unless it is a whole frame, index, with dots between.
    pub id: String,
    /// Tick at which the frame was received.
    pub tick: u64,
    /// Who sent it; nobody in particular for whole frames.
    pub sender: Option<u32>,
    /// The message and what it refers to in its frame, or the frame.
    pub payload: Bytes,
}

/// Which events a frame becomes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Grain {
    /// One for each accepted message.
    Messages,
    /// One for each frame with an accepted message.
    Frames,
}

/// No frame of the log is too large to be read.
const LANE: Lane = Lane { frame_bytes_max: u32::MAX, references: true };

/// Adds what is published of a frame. What is no data frame has no messages, and gives nothing.
pub fn events(judged: &Judged, grain: Grain, out: &mut impl Extend<Event>) {
    let Ok(frame) = frame::parse(&judged.frame, &LANE) else { return };
    let accepted = (0..frame.messages.len().min(MESSAGES_MAX)).filter(|index| judged.is_accepted(*index));
    match grain {
        Grain::Messages => out.extend(accepted.filter_map(|index| message(judged, &frame, index))),
        Grain::Frames => out.extend((accepted.count() > 0).then(|| whole(judged, &frame))),
    }
}

fn whole(judged: &Judged, frame: &Frame<'_>) -> Event {
    Event {
        place: Place { record: judged.record, index: WHOLE },
        topic: None,
        id: identity(frame),
        tick: judged.tick,
        sender: None,
        payload: Bytes::copy_from_slice(&judged.frame),
    }
}

fn message(judged: &Judged, frame: &Frame<'_>, index: usize) -> Option<Event> {
    let message = frame.messages.get(index)?;
    let mut payload = message.as_bytes().to_vec();
    payload.extend_from_slice(message.in_frame().map_or(&[], |place| referred(frame, &place)));
    let index = u16::try_from(index).ok()?;
    Some(Event {
        place: Place { record: judged.record, index },
        topic: Some(message.topic_id.get()),
        id: format!("{}.{index}", identity(frame)),
        tick: judged.tick,
        sender: Some(message.sender_id.get()),
        payload: payload.into(),
    })
}

fn identity(frame: &Frame<'_>) -> String {
    let header = frame.header;
    format!("{}.{}.{}.{}", header.session_id, header.epoch, header.frame_id, header.shard)
}

/// What a message refers to; nothing if that is not in its frame, as in frames that were refused.
fn referred<'a>(frame: &Frame<'a>, place: &ArenaReference) -> &'a [u8] {
    let range = || {
        let start = usize::try_from(place.offset.get()).ok()?;
        let end = start.checked_add(place.length.get() as usize)?;
        (start >= frame.payload_offset as usize).then_some(start..end)
    };
    range().and_then(|range| frame.bytes.get(range)).unwrap_or_default()
}

/// Bytes in hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes that [`hex`] wrote; nothing if these are others.
#[must_use]
pub fn from_hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, digits) in bytes.iter_mut().zip(text.as_bytes().chunks_exact(2)) {
        *byte = u8::from_str_radix(core::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::{Grain, events, from_hex, hex};
    use crate::accepts::Judged;
    use tachyon_wire::{
        Message,
        build::{FrameFields, FrameWriter, Seal},
        message::ArenaReference,
    };
    use zerocopy::IntoBytes;

    fn judged(accepted: u64, messages: &[Message]) -> Judged {
        let mut frame = vec![0; 4_096];
        let fields = FrameFields { frame_id: 4, session_id: 2, shard: 5, epoch: 3, ..FrameFields::default() };
        let mut writer = FrameWriter::new(&mut frame, fields);
        let stand_in = Message::inline(1, 1, 2, &[]).expect("a message");
        messages.iter().for_each(|_| writer.push(&stand_in).expect("room"));
        let length = writer.finish(Seal::Crc);
        frame.truncate(length);
        // Over the stand-ins, because a writer of frames makes no reference that leads nowhere.
        frame[64..].copy_from_slice(messages.as_bytes());
        Judged { record: 9, tick: 1, clock: None, frame, accepted: Some([accepted, 0, 0, 0]) }
    }

    fn all(judged: &Judged, grain: Grain) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        events(judged, grain, &mut found);
        found.into_iter().map(|event| (event.id, event.payload.len())).collect()
    }

    #[test]
    fn only_what_was_accepted_is_published() {
        let message = Message::inline(7, 8, 2, b"hello").unwrap();
        let some = judged(0b101, &[message; 4]);
        assert_eq!(all(&some, Grain::Messages), [("2.3.4.5.0".into(), 64), ("2.3.4.5.2".into(), 64)]);
        assert_eq!(all(&some, Grain::Frames), [("2.3.4.5".into(), 64 * 5)]);
        let none = judged(0, &[message; 4]);
        assert_eq!(all(&none, Grain::Messages), []);
        assert_eq!(all(&none, Grain::Frames), []);
        let undecided = Judged { accepted: None, ..some.clone() };
        assert_eq!(all(&undecided, Grain::Messages), []);
        let no_frame = Judged { frame: b"RTT1".to_vec(), ..some };
        assert_eq!(all(&no_frame, Grain::Messages), []);
    }

    #[test]
    fn references_that_lead_out_of_the_frame_carry_nothing() {
        for (offset, length) in [(u64::MAX, 1), (0, 64), (64 * 2, 1), (64 * 2, u32::MAX), (1 << 40, 5)] {
            let place = ArenaReference {
                arena_id: 0.into(),
                offset: offset.into(),
                length: length.into(),
                checksum: 0.into(),
                reserved: [0; 24],
            };
            let message = Message::arena(7, 8, 2, place).unwrap();
            assert_eq!(all(&judged(1, &[message]), Grain::Messages), [("2.3.4.5.0".into(), 64)], "{offset} {length}");
        }
    }

    #[test]
    fn hexadecimal_is_read_as_it_is_written() {
        assert_eq!(from_hex(&hex(&[0, 1, 0xfe])), Some([0, 1, 0xfe]));
        assert_eq!(from_hex::<3>("0001f"), None);
        assert_eq!(from_hex::<1>("+1"), None);
    }
}
