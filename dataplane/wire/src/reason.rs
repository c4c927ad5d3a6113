//! Every way in which a frame, a message or a copy can end other than well. Declared once, here; a number or a name is
//! never changed or used again.

/// Slots in an array that is indexed by reason number.
pub const REASON_SLOTS: usize = 64;

/// Which ledger a reason is charged to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ledger {
    /// Frames: seen = admitted + Σ reasons.
    Frames,
    /// Messages of admitted frames: seen = accepted + Σ reasons.
    Messages,
    /// Copies: due = given + Σ reasons + held.
    Copies,
    /// Found by whoever reads a payload; the node never charges it.
    Reader,
    /// Packets at a device that the pre-filter guards: seen = passed + redirected + Σ reasons. It uses these and, for what it
    /// can tell from a header, those of [`Ledger::Frames`]; no worker charges these, because no worker sees such packets.
    Prefilter,
    /// May be charged to any ledger.
    Any,
}

impl Reason {
    /// Whether it says that the truth log does not take a message: one of the `E_PERSIST_` reasons.
    #[must_use]
    pub const fn is_of_log(self) -> bool {
        matches!(self, Self::PersistUnavailable | Self::PersistTimeout | Self::PersistDiskFull | Self::PersistCorrupt)
    }
}

macro_rules! reasons {
    ($($name:ident = $number:literal, $code:literal, $ledger:ident, $help:literal;)*) => {
        /// Why something was refused.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum Reason { $(#[doc = $help] $name = $number,)* }

        impl Reason {
            /// Every reason, by rising number.
            pub const ALL: &'static [Self] = &[$(Self::$name),*];

            /// The name that never changes, such as `E_AUTH_BAD_TAG`.
            #[must_use]
            pub const fn code(self) -> &'static str {
                match self { $(Self::$name => $code),* }
            }

            /// The ledger it is charged to.
            #[must_use]
            pub const fn ledger(self) -> Ledger {
                match self { $(Self::$name => Ledger::$ledger),* }
            }

            /// One line: what happened and what to do.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(Self::$name => $help),* }
            }

            /// The reason with this number.
            #[must_use]
            pub const fn from_number(number: u8) -> Option<Self> {
                match number { $($number => Some(Self::$name),)* _ => None }
            }
        }
    };
}

reasons! {
    TooLarge = 1, "E_INGRESS_TOO_LARGE", Frames, "The frame is larger than its lane allows; send frames of at most the size told at session opening.";
    BadFrame = 2, "E_INGRESS_BAD_FRAME", Frames, "The frame's bytes break the layout; check the sender against the wire document and its golden vectors.";
    WrongShard = 3, "E_INGRESS_WRONG_SHARD", Frames, "The frame's shard does not belong to the port it came to; send shard n to base port + n.";
    NoSession = 4, "E_AUTH_NO_SESSION", Frames, "No such session, or not from its pinned address; open one with OpenSession.";
    BadTag = 5, "E_AUTH_BAD_TAG", Frames, "The tag does not match the frame; wrong key, wrong epoch, or forged.";
    BadCrc = 6, "E_INGRESS_BAD_CRC", Frames, "The crc32c does not match the frame; it was damaged on the way.";
    TagRequired = 7, "E_AUTH_TAG_REQUIRED", Frames, "This session must authenticate its frames; set AUTHENTICATED and the tag.";
    Stale = 8, "E_AUTH_STALE", Frames, "The frame is older than the replay window or its epoch is over; publish its messages anew in a new frame.";
    Replay = 9, "E_AUTH_REPLAY", Frames, "A frame with this id was already settled; it is not judged twice.";
    RefInvalid = 10, "E_ARENA_REF_INVALID", Frames, "The payload ranges do not cover the payload area exactly; see the wire document on REF_ARENA.";
    BadPacket = 20, "E_INGRESS_BAD_PACKET", Messages, "The message's topic, flags or reference break the layout; check the sender against the wire document.";
    ModeForbidden = 21, "E_INGRESS_MODE_FORBIDDEN", Messages, "This payload mode is not allowed on this lane; use INLINE or REF_ARENA with arena 0.";
    TopicShard = 22, "E_GOV_TOPIC_SHARD", Messages, "The topic belongs to another shard; shard = topic_id mod shard_count.";
    SystemDenied = 23, "E_GOV_SYSTEM_DENIED", Messages, "SYSTEM_PACKET needs a right of its own; grant `system` to the identity or clear the flag.";
    Sender = 24, "E_AUTH_SENDER", Messages, "The sender_id is outside the session's range; use the range told at session opening.";
    RulesetUnavailable = 25, "E_GOV_RULESET_UNAVAILABLE", Messages, "The node has no ruleset yet; apply one with `tachyon rules apply`.";
    RulesetInvalid = 26, "E_GOV_RULESET_INVALID", Messages, "The ruleset in force is damaged; apply it anew with `tachyon rules apply`.";
    Denylisted = 27, "E_GOV_DENYLISTED", Messages, "The topic is unknown or this session may not publish on it; grant it in the rules or resolve the topic first.";
    TopicTagRequired = 28, "E_GOV_TAG_REQUIRED", Messages, "The topic takes authenticated frames only; open the session with tags.";
    Shed = 29, "E_GOV_SHED", Messages, "The node is short of buffers and sheds this class; slow down, or raise buffers or the message's class.";
    QuotaExceeded = 30, "E_GOV_QUOTA_EXCEEDED", Messages, "The sender spent its quota; slow down, or raise sender_rate or sender_burst in the rules.";
    Throttled = 31, "E_GOV_THROTTLED", Messages, "The topic's rate is spent; slow down, or raise rate or burst in the rules.";
    TxCongestion = 40, "E_TX_CONGESTION", Copies, "This subscriber's queue is full; make it read faster or raise its credit.";
    TxSubmitFail = 41, "E_TX_SUBMIT_FAIL", Copies, "The device refused the frame; check the subscriber's address and the link.";
    TxCqError = 42, "E_TX_CQ_ERROR", Copies, "The completion came back with an error; check the link and the peer.";
    TxQpReset = 43, "E_TX_QP_RESET", Copies, "The queue pair was reset while the frame was in flight; it reconnects by itself.";
    TxTimeout = 44, "E_TX_TIMEOUT", Copies, "The device did not finish in time; check the link and the peer.";
    ArenaOom = 45, "E_ARENA_OOM", Copies, "No free buffer for an egress frame; raise buffers in the node file.";
    PersistUnavailable = 46, "E_PERSIST_UNAVAILABLE", Copies, "The truth log is not there, so durable topics are not forwarded; start it or make the topic volatile.";
    PersistTimeout = 47, "E_PERSIST_TIMEOUT", Copies, "The truth log did not confirm in time; check the disk.";
    PersistDiskFull = 48, "E_PERSIST_DISK_FULL", Copies, "The truth log's disk is full; free space or shorten retention.";
    PersistCorrupt = 49, "E_PERSIST_CORRUPT", Copies, "The truth log is damaged; run its verification.";
    ArenaCorrupt = 50, "E_ARENA_CORRUPT", Reader, "The payload does not match its checksum; discard it.";
    FilterMalformed = 52, "E_FILTER_MALFORMED", Prefilter, "The packet's IP or UDP lengths contradict its size, or IPv6 came without a UDP checksum; check the sender's network stack.";
    FilterFragment = 53, "E_FILTER_FRAGMENT", Prefilter, "The datagram was fragmented on its way to a shard's port; send frames that fit the path's MTU.";
    FilterDenied = 54, "E_FILTER_DENIED", Prefilter, "The source lies in a denied prefix and is no session's pinned address; take the prefix off the deny list or pin the session.";
    FilterRate = 55, "E_FILTER_RATE", Prefilter, "The source sent more frames than the pre-filter lets through; slow down, or raise the rate in the node file.";
    FilterTopic = 56, "E_FILTER_TOPIC", Prefilter, "Nobody may publish in the block of topics of the frame's first message; resolve the topic first.";
    InternalPanic = 60, "E_INTERNAL_PANIC", Any, "A worker panicked and was restarted; report it with the log line.";
    InternalInvariant = 61, "E_INTERNAL_INVARIANT", Any, "An internal check failed; report it with the log line.";
    InternalOverflow = 62, "E_INTERNAL_OVERFLOW", Any, "An internal table is full; raise its limit in the node file.";
}

impl Reason {
    /// The stable number.
    #[must_use]
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The number as an index into an array of [`REASON_SLOTS`].
    #[must_use]
    pub const fn index(self) -> usize {
        self as usize
    }
}
