//! The payload area: what REF_ARENA messages of arena 0 carry behind messages and provenance.

use crate::{Frame, LINE, Message, Reason, crc, message::REF_ARENA};

/// The last frame check: payload ranges are in message order, start on lines, have at least one byte, are padded with
/// zeros, and cover the area exactly. Messages whose mode is not exactly REF_ARENA with arena 0 take no part, whatever
/// else is wrong with them; checksums are not looked at, that is for whoever reads the payload.
///
/// # Errors
/// [`Reason::RefInvalid`].
#[inline]
pub fn check(frame: &Frame<'_>) -> Result<(), Reason> {
    // Most frames have no payload area: then it is enough that no message claims one.
    if frame.payload.is_empty() {
        let modes = frame.messages.iter().fold(0, |modes, message| modes | message.flags.get());
        let claimed = modes & REF_ARENA != 0 && frame.messages.iter().any(Message::is_in_frame);
        return if claimed { Err(Reason::RefInvalid) } else { Ok(()) };
    }
    if covers(frame).is_some() { Ok(()) } else { Err(Reason::RefInvalid) }
}

fn covers(frame: &Frame<'_>) -> Option<()> {
    let mut rest = frame.payload;
    for place in frame.messages.iter().filter_map(Message::in_frame) {
        // In order, without a gap and without overlap: each range starts exactly where the last one's padding ended.
        let start = frame.bytes.len() - rest.len();
        let length = place.length.get() as usize;
        if length == 0 || place.offset.get() != start as u64 {
            return None;
        }
        let (range, behind) = rest.split_at_checked(length.checked_next_multiple_of(LINE)?)?;
        if range[length..].iter().any(|byte| *byte != 0) {
            return None;
        }
        rest = behind;
    }
    rest.is_empty().then_some(())
}

/// The payload of message `index`, wherever in the frame it is, with its checksum compared.
///
/// # Errors
/// [`Reason::ArenaCorrupt`] if the checksum does not match; [`Reason::RefInvalid`] if the range is not in the frame;
/// [`Reason::ModeForbidden`] if the payload is not in this frame; [`Reason::BadPacket`] if there is no such message or it
/// has no payload mode.
pub fn of<'a>(frame: &Frame<'a>, index: usize) -> Result<&'a [u8], Reason> {
    let message = frame.messages.get(index).ok_or(Reason::BadPacket)?;
    if let Some(payload) = message.inline_payload() {
        return Ok(payload);
    }
    let Some(place) = message.in_frame() else {
        return Err(if message.reference().is_some() { Reason::ModeForbidden } else { Reason::BadPacket });
    };
    let start = usize::try_from(place.offset.get()).map_err(|_| Reason::RefInvalid)?;
    let end = start.checked_add(place.length.get() as usize).ok_or(Reason::RefInvalid)?;
    if start < frame.payload_offset as usize {
        return Err(Reason::RefInvalid);
    }
    let payload = frame.bytes.get(start..end).ok_or(Reason::RefInvalid)?;
    if u64::from(crc::of(payload)) != place.checksum.get() {
        return Err(Reason::ArenaCorrupt);
    }
    Ok(payload)
}
