//! What a golden vector assumes about its receiver, and what it expects.

use tachyon_wire::{Message, Reason};

/// Who reads the frame.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Receiver {
    /// A node, on ingress.
    Node,
    /// A subscriber: takes any route and judges no message.
    Subscriber,
}

/// What a receiver has settled of one session in this vector's shard.
#[derive(Clone)]
pub(crate) struct Window {
    pub epoch: u32,
    /// The greatest frame id that is settled; 0 if none is.
    pub newest: u32,
    /// Frames up to `newest`, and less than 1,024 behind it, that are *not* settled.
    pub missing: Vec<u32>,
}

/// One row of the receiver's session table.
#[derive(Clone)]
pub(crate) struct Session {
    pub session_id: u32,
    pub master: [u8; 32],
    pub tag_required: bool,
    pub system: bool,
    pub opened_by_node: bool,
    pub sender_low: u32,
    pub sender_high: u32,
    /// Empty = not pinned; else `address`, or `address:port`.
    pub pinned: &'static str,
    pub window: Window,
}

/// One vector: assumptions, bytes, expectation.
pub(crate) struct Vector {
    pub name: &'static str,
    pub about: &'static str,
    pub receiver: Receiver,
    pub shard_count: u16,
    /// The shard of the port that the bytes came to.
    pub port_shard: u16,
    pub frame_bytes_max: u32,
    pub references: bool,
    pub source: &'static str,
    pub sessions: Vec<Session>,
    pub bytes: Vec<u8>,
    pub expect: Expect,
}

/// How the frame ends.
pub(crate) enum Expect {
    /// Refused, at this frame check.
    Refused(Reason, u8),
    /// Admitted, with what each message comes to before any rule is asked: `None` = passes, else reason and message check.
    Admitted(Vec<Option<(Reason, u8)>>),
}

/// Shard of every vector that does not say otherwise.
pub(crate) const SHARD: u16 = 3;
/// Session that must authenticate.
pub(crate) const TAGGED: u32 = 0x0001_0007;
/// Session that need not.
pub(crate) const OPEN: u32 = 0x0001_0008;
/// Session that was opened by another node.
pub(crate) const CHAINED: u32 = 0x0001_0009;
/// Epoch of every window.
pub(crate) const EPOCH: u32 = 5;
/// Newest settled frame of every window.
pub(crate) const NEWEST: u32 = 5_000;
/// The frame id that follows.
pub(crate) const NEXT: u32 = NEWEST + 1;

/// The master key of a session: its id, then its bytes counted up from 1. Nobody's secret.
pub(crate) fn master(session_id: u32) -> [u8; 32] {
    let mut key = [0; 32];
    for (byte, value) in key.iter_mut().zip(1..) {
        *byte = value;
    }
    key[..4].copy_from_slice(&session_id.to_le_bytes());
    key
}

fn session(session_id: u32, tag_required: bool) -> Session {
    Session {
        session_id,
        master: master(session_id),
        tag_required,
        system: false,
        opened_by_node: false,
        sender_low: 100,
        sender_high: 199,
        pinned: "",
        window: Window { epoch: EPOCH, newest: NEWEST, missing: vec![NEWEST - 1023, NEWEST - 3] },
    }
}

/// A receiver with the three sessions above, and a frame that it has not judged yet.
pub(crate) fn vector(name: &'static str, about: &'static str, bytes: Vec<u8>, expect: Expect) -> Vector {
    let chained = Session { opened_by_node: true, ..session(CHAINED, true) };
    Vector {
        name,
        about,
        receiver: Receiver::Node,
        shard_count: 16,
        port_shard: SHARD,
        frame_bytes_max: 1472,
        references: false,
        source: "192.0.2.10:40000",
        sessions: vec![session(TAGGED, true), session(OPEN, false), chained],
        bytes,
        expect,
    }
}

impl Vector {
    /// The same with something else assumed.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut Self)) -> Self {
        change(&mut self);
        self
    }

    /// The same with something else assumed of every session.
    pub(crate) fn with_sessions(mut self, change: impl Fn(&mut Session)) -> Self {
        self.sessions.iter_mut().for_each(change);
        self
    }
}

/// Admitted, and every one of `count` messages passes.
pub(crate) fn passes(count: usize) -> Expect {
    Expect::Admitted(vec![None; count])
}

/// A good INLINE message on a topic of [`SHARD`], from a sender in everybody's range.
pub(crate) fn message(index: u32) -> Message {
    let payload: Vec<u8> = (0..index % 49).map(|byte| (byte * 5 + index).to_le_bytes()[0]).collect();
    let class = (index % 4).to_le_bytes()[0];
    Message::inline(u32::from(SHARD) + 16 * (index + 1), 100 + index % 100, class, &payload).expect("a good message")
}
