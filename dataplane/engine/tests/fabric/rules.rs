//! Rulesets in a few words.

use tachyon_policy::{
    Verified,
    compile::{Durability, Quota, RulesetSource, SenderSource, TopicSource, WhenFull, compile},
    verify,
};

#[derive(Clone, Debug)]
pub(crate) struct Rules {
    pub(crate) source: RulesetSource,
}

impl Rules {
    /// Rules of a version that know nothing, for 4 shards and 8 principals.
    pub(crate) fn new(version: u64) -> Self {
        Self { source: RulesetSource { version, shard_count: 4, principals: 8, ..RulesetSource::default() } }
    }

    pub(crate) fn shards(mut self, shard_count: u16) -> Self {
        self.source.shard_count = shard_count;
        self
    }

    fn set(&mut self, members: &[u32]) -> u32 {
        self.source.sets.push(members.to_vec());
        u32::try_from(self.source.sets.len() - 1).unwrap()
    }

    /// A volatile topic without limit.
    pub(crate) fn topic(mut self, topic_id: u32, publishers: &[u32], subscribers: &[u32]) -> Self {
        let (publishers, subscribers) = (self.set(publishers), self.set(subscribers));
        self.source.topics.push(TopicSource {
            topic_id,
            quota: Quota::UNLIMITED,
            tag_required: false,
            quarantine: false,
            durability: Durability::Volatile,
            when_full: WhenFull::default(),
            publishers,
            subscribers,
        });
        self
    }

    /// Changes the topic that was added last.
    pub(crate) fn with(mut self, change: impl FnOnce(&mut TopicSource)) -> Self {
        change(self.source.topics.last_mut().unwrap());
        self
    }

    pub(crate) fn sender(mut self, sender_id: u32, quota: Quota) -> Self {
        self.source.senders.push(SenderSource { sender_id, quota });
        self
    }

    /// Senders 0 to 63 without limit.
    pub(crate) fn senders(self) -> Self {
        (0..64).fold(self, |rules, sender_id| rules.sender(sender_id, Quota::UNLIMITED))
    }

    pub(crate) fn verified(self) -> Verified<Vec<u8>> {
        verify(compile(&self.source).expect("it compiles"), self.source.shard_count).expect("it verifies")
    }
}
