//! Names of topics become numbers here, once and for good.

use crate::{
    refusal::Refusal,
    registry::Change,
    ruleset::{Limits, Plan, any_matches},
    state::{Caller, State},
};
use std::collections::HashSet;
use tachyon_config::check_topic_name;
use tracing::info;

/// Most names in one call: what a ruleset holds at full speed.
const NAMES_MAX: usize = 65_536;

impl State {
    /// Numbers for names that an identity may publish on or subscribe to; new ones where they have none. Also the change
    /// that the ruleset must include.
    ///
    /// # Errors
    /// A name that is none, is not granted or that no rule matches; too many topics.
    pub(crate) fn resolve(
        &mut self,
        caller: Caller,
        identity: &str,
        names: &[String],
    ) -> Result<(Vec<u32>, u64), Refusal> {
        if names.len() > NAMES_MAX {
            return Err(Refusal::Invalid(format!("{} names in one call, at most {NAMES_MAX}", names.len())));
        }
        let rules = self.rules()?;
        let claimed = self.claim(caller, &rules, identity)?;
        let mut new: Vec<&String> = Vec::new();
        let mut seen: HashSet<&String> = HashSet::new();
        for name in names {
            check_topic_name(name).map_err(|wrong| Refusal::Invalid(format!("`{name}`: {wrong}")))?;
            if !any_matches(&claimed.publish, name) && !any_matches(&claimed.subscribe, name) {
                let text =
                    format!("identity `{identity}` may neither publish on `{name}` nor subscribe to it; grant it");
                return Err(Refusal::Denied(text));
            }
            if rules.topic(name).is_none() {
                let text = format!("no [[topic]] entry matches `{name}`; add one to the rules");
                return Err(Refusal::Precondition(text));
            }
            if !self.topic_ids.contains_key(name) && seen.insert(name) {
                new.push(name);
            }
        }
        self.register(&new)?;
        let ids = names.iter().filter_map(|name| self.topic_ids.get(name).copied()).collect();
        Ok((ids, self.change))
    }

    fn register(&mut self, names: &[&String]) -> Result<(), Refusal> {
        if names.is_empty() {
            return Ok(());
        }
        let total = self.topics.len() + names.len();
        if total > self.config.topics_max as usize {
            let max = self.config.topics_max;
            let text =
                format!("{total} topics would be registered, at most {max}; raise topics_max in the control file");
            return Err(Refusal::Exhausted(text));
        }
        let before = self.topics.len();
        self.topics.extend(names.iter().copied().cloned());
        let first_id = u32::try_from(before + 1).unwrap_or(u32::MAX); // topics_max is below 2²⁰
        let changes: Vec<Change<'_>> =
            names.iter().zip(first_id..).map(|(name, id)| Change::Topic(id, name.as_str())).collect();
        let done = self.try_plan().and_then(|()| Ok(self.registry.commit(&changes)?));
        if let Err(refusal) = done {
            self.topics.truncate(before);
            return Err(refusal);
        }
        self.topic_ids.extend(names.iter().copied().cloned().zip(first_id..));
        self.change += 1;
        info!("registered {} topics from id {first_id}", names.len());
        Ok(())
    }

    /// The ruleset as it is to be now.
    pub(crate) fn plan(&self) -> Result<Plan, Refusal> {
        let rules = self.rules()?;
        let subscribers = self.subscribers.values().filter(|subscriber| !subscriber.ending);
        let principals = u32::try_from(self.principals.len()).unwrap_or(u32::MAX);
        Plan::new(&rules, &self.topics, subscribers, principals, self.shard_count()).map_err(Refusal::Exhausted)
    }

    /// Whether there can be a ruleset, so that what would prevent one is refused before it is registered.
    pub(crate) fn try_plan(&self) -> Result<(), Refusal> {
        let hello = self.link.as_ref().map(|link| &*link.hello);
        self.plan()?.check(Limits::of(hello)).map_err(Refusal::Exhausted)
    }

    /// Of the connected node, or of the last one, or the default.
    pub(crate) fn shard_count(&self) -> u16 {
        let connected = self.link.as_ref().map(|link| link.hello.shard_count);
        connected.or(self.attachment.map(|attachment| attachment.shape.shard_count)).unwrap_or(16)
    }
}
