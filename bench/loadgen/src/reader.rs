//! What a program must check about each frame that a node sends: layout, session, shard and seal, with the wire's own
//! parser.

use std::collections::HashMap;
use tachyon_wire::{
    Frame, Lane, crc, frame,
    tag::{self, FrameKey, MASTER_BYTES},
};

/// A session under which a node sends to us.
#[derive(Clone, Copy)]
pub struct Incoming {
    /// Its number.
    pub session_id: u32,
    /// Its master key.
    pub master: [u8; MASTER_BYTES],
    /// Whether every frame must carry a tag.
    pub tagged: bool,
}

impl std::fmt::Debug for Incoming {
    /// Names the session; never prints a key.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Incoming({}, tagged {})", self.session_id, self.tagged)
    }
}

/// Why a frame of the node cannot be counted. Each of them is a finding: the node does not make such frames.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Anomaly {
    /// The bytes break the layout.
    Layout,
    /// It came to another shard's port.
    WrongShard,
    /// Nobody told us of this session.
    UnknownSession,
    /// The tag or crc is wrong, or a tag is missing.
    BadSeal,
    /// It came before.
    Duplicate,
    /// It is older than what is remembered.
    TooLate,
}

impl Anomaly {
    /// The name in reports.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Layout => "layout",
            Self::WrongShard => "wrong_shard",
            Self::UnknownSession => "unknown_session",
            Self::BadSeal => "bad_seal",
            Self::Duplicate => "duplicate",
            Self::TooLate => "too_late",
        }
    }
}

#[derive(Debug)]
struct Known {
    incoming: Incoming,
    key: Option<(u32, FrameKey)>,
}

/// Checks frames under the sessions it knows.
#[derive(Debug)]
pub struct Reader {
    lane: Lane,
    known: HashMap<u32, Known>,
}

impl Reader {
    /// A reader of frames up to `frame_bytes_max` under these sessions.
    #[must_use]
    pub fn new(frame_bytes_max: u32, sessions: impl IntoIterator<Item = Incoming>) -> Self {
        let known = sessions.into_iter().map(|incoming| (incoming.session_id, Known { incoming, key: None }));
        Self { lane: Lane { frame_bytes_max, references: false }, known: known.collect() }
    }

    /// Checks the bytes of one frame that came to the port of `shard`.
    ///
    /// # Errors
    /// The first thing that is wrong with it.
    pub fn check<'a>(&mut self, bytes: &'a [u8], shard: u16) -> Result<Frame<'a>, Anomaly> {
        let frame = frame::parse(bytes, &self.lane).map_err(|_| Anomaly::Layout)?;
        if frame.header.shard.get() != shard {
            return Err(Anomaly::WrongShard);
        }
        let known = self.known.get_mut(&frame.header.session_id.get()).ok_or(Anomaly::UnknownSession)?;
        let sound = if frame.is_authenticated() {
            tag::verify(&known.key_of(frame.header.epoch.get()), &frame)
        } else {
            !known.incoming.tagged && crc::verify(&frame)
        };
        if sound { Ok(frame) } else { Err(Anomaly::BadSeal) }
    }
}

impl Known {
    /// The key of an epoch, derived once while the epoch lasts.
    fn key_of(&mut self, epoch: u32) -> FrameKey {
        match self.key {
            Some((known, key)) if known == epoch => key,
            _ => {
                let key = tag::derive(&self.incoming.master, self.incoming.session_id, epoch);
                self.key = Some((epoch, key));
                key
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Anomaly, Incoming, Reader};
    use tachyon_wire::{
        Message,
        build::{FrameFields, FrameWriter, Seal},
        tag,
    };

    fn frame_of(session_id: u32, seal: Seal<'_>) -> Vec<u8> {
        let mut bytes = vec![0; 128];
        let fields = FrameFields { frame_id: 1, session_id, shard: 2, epoch: 5, route_id: 9, ..FrameFields::default() };
        let mut writer = FrameWriter::new(&mut bytes, fields);
        writer.push(&Message::inline(2, 1, 2, b"x").unwrap()).unwrap();
        assert_eq!(writer.finish(seal), 128);
        bytes
    }

    #[test]
    fn takes_what_is_sealed_right_and_names_what_is_not() {
        let master = [3; 32];
        let sessions = [(1, true), (2, false)].map(|(session_id, tagged)| Incoming { session_id, master, tagged });
        let mut reader = Reader::new(1472, sessions);
        let key = tag::derive(&master, 1, 5);
        let tagged = frame_of(1, Seal::Tag(&key));
        assert!(reader.check(&tagged, 2).is_ok());
        assert_eq!(reader.check(&tagged, 3).unwrap_err(), Anomaly::WrongShard);
        assert_eq!(reader.check(&tagged[..100], 2).unwrap_err(), Anomaly::Layout);
        assert_eq!(reader.check(&frame_of(1, Seal::Crc), 2).unwrap_err(), Anomaly::BadSeal);
        assert_eq!(reader.check(&frame_of(7, Seal::Crc), 2).unwrap_err(), Anomaly::UnknownSession);
        let mut plain = frame_of(2, Seal::Crc);
        assert!(reader.check(&plain, 2).is_ok());
        plain[100] ^= 1;
        assert_eq!(reader.check(&plain, 2).unwrap_err(), Anomaly::BadSeal);
    }
}
