//! What a ruleset is compiled from: plain records, and the errors that name them.

use crate::{compile::GROUPS_MAX, image::bucket_fits};
use alloc::vec::Vec;
use core::fmt;
use tachyon_wire::image::{
    FAN_OUT_MAX, PRINCIPALS_MAX, ROUTES_MAX, SENDER_SLOTS_MAX, SUBSCRIBERS_MAX, TICKS_PER_NS, TOPIC_SLOTS_MAX,
    VERSION_MAX,
};

/// Index into [`RulesetSource::sets`].
pub type SetId = u32;

/// A limit: so many messages at once, and one more per period.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Quota {
    /// Time per message in 1/16 ns; 0 = no limit.
    pub period: u64,
    /// Messages that may come at once, at least 1 where `period` is not 0.
    pub burst: u32,
}

impl Quota {
    /// No limit.
    pub const UNLIMITED: Self = Self { period: 0, burst: 1 };

    /// At most `messages` in `per_ns` nanoseconds, `burst` of them at once. The period is rounded up, so never more.
    /// `None` where nothing could ever pass, or the clock cannot hold it: see
    /// [`BUCKET_SPAN_MAX`](tachyon_wire::image::BUCKET_SPAN_MAX).
    #[must_use]
    pub fn new(messages: u64, per_ns: u64, burst: u32) -> Option<Self> {
        let ticks = u128::from(per_ns) * u128::from(TICKS_PER_NS);
        if messages == 0 || ticks == 0 || burst == 0 {
            return None;
        }
        let period = u64::try_from(ticks.div_ceil(messages.into())).ok()?;
        bucket_fits(period, burst).then_some(Self { period, burst })
    }
}

/// Whether the truth log takes part.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Durability {
    /// Forwarded, never written.
    #[default]
    Volatile,
    /// Forwarded and written.
    Logged,
    /// Forwarded only once it is on stable storage.
    Durable,
}

/// What becomes of a topic's messages while the truth log takes none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WhenFull {
    /// They are not forwarded.
    #[default]
    Taildrop,
    /// They are forwarded and not written; a durable topic cannot have it.
    Mark,
    /// They are not forwarded, and the publisher is told by a nack.
    Nack,
    /// They may take what is kept back of the log's ring and buffers; then they are not forwarded.
    Buffer,
}

/// One topic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TopicSource {
    /// From 1; also its slot.
    pub topic_id: u32,
    /// What all senders together may publish on it.
    pub quota: Quota,
    /// Authenticated frames only.
    pub tag_required: bool,
    /// Refused messages also go to the quarantine ring.
    pub quarantine: bool,
    /// Whether the truth log takes part.
    pub durability: Durability,
    /// What becomes of its messages while the log takes none; means nothing for volatile topics.
    pub when_full: WhenFull,
    /// The principals that may publish on it.
    pub publishers: SetId,
    /// The subscriber slots that receive it.
    pub subscribers: SetId,
}

/// One sender.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SenderSource {
    /// Also its slot.
    pub sender_id: u32,
    /// What it may send over the whole node.
    pub quota: Quota,
}

/// All that a ruleset says. What is not listed is refused: topics, senders, rights.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RulesetSource {
    /// From 1, higher than every version before.
    pub version: u64,
    /// Shards of the fabric, a power of two.
    pub shard_count: u16,
    /// Rows of rights: principals are numbered below this.
    pub principals: u32,
    /// Sets of principals or of subscriber slots that topics refer to. Order and repetition mean nothing.
    pub sets: Vec<Vec<u32>>,
    /// The topics, in any order.
    pub topics: Vec<TopicSource>,
    /// The senders, in any order.
    pub senders: Vec<SenderSource>,
}

/// Why a source does not compile. Says which record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[expect(missing_docs, reason = "the fields are the ids and numbers that the line above each names")]
pub enum CompileError {
    /// Version 0, or above [`VERSION_MAX`].
    Version(u64),
    /// Not a power of two.
    ShardCount(u16),
    /// More principals than [`PRINCIPALS_MAX`].
    Principals(u32),
    /// Topic id 0, or at or above [`TOPIC_SLOTS_MAX`].
    TopicId(u32),
    /// This topic is there twice.
    DuplicateTopic(u32),
    /// This topic's quota has no burst, or the clock cannot hold it.
    TopicQuota(u32),
    /// This topic is durable, and is to be forwarded unwritten while the log is full.
    DurableMark(u32),
    /// This topic refers to a set that is not there.
    UnknownSet { topic_id: u32, set: SetId },
    /// This topic is to be published by a principal that is not there.
    UnknownPrincipal { topic_id: u32, principal: u32 },
    /// This topic is to be sent to a slot at or above [`SUBSCRIBERS_MAX`].
    SubscriberSlot { topic_id: u32, slot: u32 },
    /// This topic has more subscribers than [`FAN_OUT_MAX`].
    FanOut { topic_id: u32, subscribers: usize },
    /// With this topic there are more different sets of publishers than a group number can tell apart.
    TooManyGroups { topic_id: u32 },
    /// With this topic there are more different sets of subscribers than [`ROUTES_MAX`].
    TooManyRoutes { topic_id: u32 },
    /// Sender id at or above [`SENDER_SLOTS_MAX`].
    SenderId(u32),
    /// This sender is there twice.
    DuplicateSender(u32),
    /// This sender's quota has no burst, or the clock cannot hold it.
    SenderQuota(u32),
}

impl fmt::Display for CompileError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Version(version) => write!(f, "version {version} is not in 1..={VERSION_MAX}"),
            Self::ShardCount(count) => write!(f, "{count} shards: must be a power of two"),
            Self::Principals(count) => write!(f, "{count} principals, at most {PRINCIPALS_MAX}"),
            Self::TopicId(id) => write!(f, "topic {id}: ids are 1..{TOPIC_SLOTS_MAX}"),
            Self::DuplicateTopic(id) => write!(f, "topic {id} is there twice"),
            Self::TopicQuota(id) => write!(f, "topic {id}: burst is 0, or period times burst is too large"),
            Self::DurableMark(id) => write!(f, "topic {id}: a durable topic cannot be forwarded unwritten (mark)"),
            Self::UnknownSet { topic_id, set } => write!(f, "topic {topic_id}: no set {set}"),
            Self::UnknownPrincipal { topic_id, principal } => write!(f, "topic {topic_id}: no principal {principal}"),
            Self::SubscriberSlot { topic_id, slot } => {
                write!(f, "topic {topic_id}: subscriber slot {slot}, slots are below {SUBSCRIBERS_MAX}")
            }
            Self::FanOut { topic_id, subscribers } => {
                write!(f, "topic {topic_id}: {subscribers} subscribers, at most {FAN_OUT_MAX}")
            }
            Self::TooManyGroups { topic_id } => {
                write!(f, "topic {topic_id}: more than {} different sets of publishers", GROUPS_MAX - 1)
            }
            Self::TooManyRoutes { topic_id } => {
                write!(f, "topic {topic_id}: more than {ROUTES_MAX} different sets of subscribers")
            }
            Self::SenderId(id) => write!(f, "sender {id}: ids are below {SENDER_SLOTS_MAX}"),
            Self::DuplicateSender(id) => write!(f, "sender {id} is there twice"),
            Self::SenderQuota(id) => write!(f, "sender {id}: burst is 0, or period times burst is too large"),
        }
    }
}

impl core::error::Error for CompileError {}
