//! Which frames and messages are wanted.

use super::arguments::Filter;
use tachyon_log::{Owned, Record};
use tachyon_wire::{Frame, Lane, Message, Reason, frame};

/// The layout of a frame that was recorded is judged as on the lane that allows most: what its own lane allowed is not in the log.
pub(crate) const LANE: Lane = Lane { frame_bytes_max: u32::MAX, references: true };

impl Filter {
    /// Whether everything is wanted.
    pub(crate) fn is_open(&self) -> bool {
        self.topics.is_empty() && self.senders.is_empty() && self.sessions.is_empty()
    }

    /// Whether the record is wanted: with a filter, only frames in which something is.
    pub(crate) fn wants(&self, record: &Owned) -> bool {
        if self.is_open() {
            return true;
        }
        let Some(Record::Frame(_, bytes)) = Record::read(&record.raw()) else { return false };
        parse(bytes).is_ok_and(|frame| self.wants_frame(&frame))
    }

    /// Whether something in the frame is wanted: its session, and one of its messages if messages are asked for.
    pub(crate) fn wants_frame(&self, frame: &Frame<'_>) -> bool {
        let session = self.sessions.is_empty() || self.sessions.contains(&frame.header.session_id.get());
        let any = self.topics.is_empty() && self.senders.is_empty();
        session && (any || frame.messages.iter().any(|message| self.wants_message(message)))
    }

    /// Whether a message of a wanted session is wanted.
    pub(crate) fn wants_message(&self, message: &Message) -> bool {
        let topic = self.topics.is_empty() || self.topics.contains(&message.topic_id.get());
        topic && (self.senders.is_empty() || self.senders.contains(&message.sender_id.get()))
    }
}

/// The frame in a record.
pub(crate) fn parse(bytes: &[u8]) -> Result<Frame<'_>, Reason> {
    frame::parse(bytes, &LANE)
}
