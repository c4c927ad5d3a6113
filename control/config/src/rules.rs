//! The rules file: which topics there may be, under which limits, and who may do what.

use crate::{Diagnostic, source::read};
use crate::{Limit, Pattern, Source, SourcePrefix, rules_check};

/// The commented default rules: the manual of the file, and a working example.
pub const RULES_MANUAL: &str = include_str!("../defaults/rules.toml");

/// A checked rules file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rules {
    /// By `[[topic]]` entry; no two have the same pattern.
    pub topics: Vec<TopicRules>,
    /// By `[[identity]]` entry; no two have the same name, and no two sender ranges overlap.
    pub identities: Vec<Identity>,
    /// Sources that the pre-filter denies, beside those of the operator's list.
    pub denied: Vec<SourcePrefix>,
}

/// What holds for the topics that a pattern matches.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TopicRules {
    /// Which topics.
    pub pattern: Pattern,
    /// What each topic takes from all senders together; `None` = no limit.
    pub limit: Option<Limit>,
    /// Authenticated frames only.
    pub tag: bool,
    /// Refused messages are also copied to the quarantine ring.
    pub quarantine: bool,
    /// Whether the truth log takes part.
    pub durability: Durability,
    /// What becomes of its messages while the truth log takes none; means nothing for volatile topics.
    pub when_log_full: WhenLogFull,
}

/// Whether the truth log takes part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Durability {
    /// Forwarded, never written.
    Volatile,
    /// Forwarded and written.
    Logged,
    /// Forwarded only once it is on stable storage.
    Durable,
}

/// What becomes of a topic's messages while the truth log takes none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenLogFull {
    /// They are not forwarded.
    Taildrop,
    /// They are forwarded and not written.
    Mark,
    /// They are not forwarded, and the publisher is told.
    Nack,
    /// They may take what is kept back of the log's ring and buffers; after that they are not forwarded.
    Buffer,
}

impl Durability {
    /// What is usual: durable topics tell the publisher, logged ones go on.
    #[must_use]
    pub const fn usual_when_log_full(self) -> WhenLogFull {
        match self {
            Self::Volatile => WhenLogFull::Taildrop,
            Self::Logged => WhenLogFull::Mark,
            Self::Durable => WhenLogFull::Nack,
        }
    }
}

/// Who may publish and subscribe.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// Its name, as `OpenSession` gives it.
    pub name: String,
    /// Topics it may publish on.
    pub publish: Vec<Pattern>,
    /// Topics it may subscribe to.
    pub subscribe: Vec<Pattern>,
    /// Sender ids that its messages may carry, first and last; `None` only where it publishes nothing.
    pub senders: Option<(u32, u32)>,
    /// What each of its senders may send; `None` = no limit.
    pub sender_limit: Option<Limit>,
    /// Best class it may claim, 0–3.
    pub class_cap: u8,
    /// May set SYSTEM_PACKET.
    pub system: bool,
    /// Whether its frames must carry tags.
    pub tags: TagDemand,
    /// Unix users that may claim it; `None` = root and the user that control runs as.
    pub uids: Option<Vec<u32>>,
}

/// Whether an identity's frames must carry tags.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagDemand {
    /// Sessions without tags are refused.
    Required,
    /// `OpenSession` decides.
    Optional,
}

impl Rules {
    /// Reads and checks a rules file. Gives the warnings beside the rules.
    ///
    /// # Errors
    /// Everything that is wrong with it, at least one thing.
    pub fn parse(file_name: &str, text: &str) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let source = Source { name: file_name, text, manual: "tachyon-control --print-default-rules" };
        let file = read(&source).map_err(|diagnostic| vec![diagnostic])?;
        rules_check::check(source, file)
    }
}
