//! Subscribers: a slot that the ruleset's routes name, and one egress session per worker.

use crate::{
    record::{Key, Lanes, Subscriber, Way},
    refusal::Refusal,
    registry::Change,
    ruleset::{InForce, any_matches},
    state::{Caller, State},
};
use std::net::{IpAddr, SocketAddr};
use tachyon_config::Pattern;
use tachyon_segment::handover::{Hello, Request};
use tracing::{info, warn};

/// Most names and patterns of one subscription.
const PATTERNS_MAX: usize = 65_536;
/// Most credit, in buffers: as in the control file.
const CREDIT_MAX: u32 = 65_536;
/// Smallest frame: a header and one message.
const FRAME_BYTES_MIN: u32 = 128;

/// What a subscriber asks for, beside its identity.
#[derive(Clone, Debug)]
pub(crate) struct SubscriberWish {
    /// Names and patterns.
    pub(crate) topics: Vec<String>,
    /// Where copies go.
    pub(crate) address: String,
    /// Port of shard 0.
    pub(crate) base_port: u32,
    /// Buffers per worker; 0 = default.
    pub(crate) credit: u32,
    /// Frames carry tags.
    pub(crate) tagged: bool,
    /// Largest frame; 0 = what the node's lane allows.
    pub(crate) frame_bytes_max: u32,
    /// Stays when its process ends.
    pub(crate) detached: bool,
    /// What will carry the frames.
    pub(crate) way: Way,
    /// They go by UDP once that has failed for good.
    pub(crate) falls_back: bool,
}

impl State {
    /// Adds a subscriber; the plain names among its topics are registered. Gives the change that the ruleset must include
    /// before copies flow.
    ///
    /// # Errors
    /// It is not granted, there is no room, or `tachyond` is not there.
    pub(crate) fn subscribe(
        &mut self,
        caller: Caller,
        identity: &str,
        wish: SubscriberWish,
    ) -> Result<(Subscriber, u64), Refusal> {
        let names = self.check_topics(caller, identity, &wish.topics)?;
        let hello = self.node()?.hello.clone();
        let (address, base_port) = parse_endpoint(&wish, &hello)?;
        let credit = if wish.credit == 0 { self.config.subscriber_credit } else { wish.credit };
        if credit > CREDIT_MAX {
            return Err(Refusal::Invalid(format!("a credit of {credit} buffers, at most {CREDIT_MAX}")));
        }
        self.check_way(wish.way, wish.falls_back)?;
        self.check_no_lane(caller.uid, SocketAddr::new(address, base_port))?;
        let frame_bytes_max = frame_bytes(wish.frame_bytes_max, self.frame_bytes_max(wish.way)?)?;
        let slot = self.free_slot(identity, hello.subscribers_max)?;
        self.resolve(caller, identity, &names)?;
        let rules = self.rules()?;
        let owner = self.owner(caller, self.claim(caller, &rules, identity)?, wish.detached)?;
        let egress = self.take_egress(hello.workers)?;
        let (topics, tagged) = (wish.topics, wish.tagged);
        let lanes = Lanes { way: wish.way, falls_back: wish.falls_back, ..Lanes::default() };
        let subscriber = Subscriber {
            slot,
            owner,
            topics,
            address,
            base_port,
            credit,
            tagged,
            frame_bytes_max,
            egress,
            lanes,
            ending: false,
        };
        self.subscribers.insert(slot, subscriber.clone());
        let counted = Change::EgressSessions(self.egress_sessions);
        let told = self.try_plan().and_then(|()| self.tell_subscriber(&subscriber));
        let kept = told.and_then(|()| Ok(self.registry.commit(&[Change::Subscriber(&subscriber), counted])?));
        if let Err(refusal) = kept {
            self.subscribers.remove(&slot);
            // Workers that have it already send it nothing, since no route names it; a failure leaves only that.
            let _ = self.call(&Request::RemoveSubscriber(slot));
            return Err(refusal);
        }
        self.change += 1;
        info!(subscriber = slot, identity, uid = caller.uid, "subscribed {address}:{base_port}");
        Ok((subscriber, self.change))
    }

    /// Today's topics of a subscriber.
    #[must_use]
    pub(crate) fn topics_of(&self, subscriber: &Subscriber) -> Vec<(u32, String)> {
        let Some(rules) = &self.in_force else { return Vec::new() };
        let Some(identity) = rules.identity(&subscriber.owner.identity) else { return Vec::new() };
        let wanted: Vec<Pattern> = subscriber.topics.iter().filter_map(|text| text.parse().ok()).collect();
        let gets = |name: &str| {
            any_matches(&wanted, name) && any_matches(&identity.subscribe, name) && rules.topic(name).is_some()
        };
        let topics = self.topics.iter().zip(1_u32..).filter(|(name, _)| gets(name));
        topics.map(|(name, id)| (id, name.clone())).collect()
    }

    /// Ends a subscription that the caller may end. Gives the change that the ruleset must include before it is gone.
    ///
    /// # Errors
    /// No such subscriber, not the caller's, or the registry cannot be written.
    pub(crate) fn unsubscribe(&mut self, caller: Caller, slot: u32) -> Result<u64, Refusal> {
        let subscriber = self.subscribers.get(&slot).filter(|subscriber| !subscriber.ending);
        let missing = || Refusal::NotFound(format!("no subscriber {slot}; it may have ended already"));
        if !self.may_end(caller, &subscriber.ok_or_else(missing)?.owner) {
            return Err(Refusal::Denied(format!("subscriber {slot} belongs to another user")));
        }
        self.end_subscribers(&[slot])?;
        Ok(self.change)
    }

    /// Marks subscribers as ending: the next ruleset does not name them, and after it they are removed.
    pub(crate) fn end_subscribers(&mut self, slots: &[u32]) -> Result<(), Refusal> {
        for slot in slots {
            if let Some(subscriber) = self.subscribers.get_mut(slot) {
                subscriber.ending = true;
                self.registry.commit(&[Change::Subscriber(subscriber)])?;
                self.change += 1;
            }
        }
        Ok(())
    }

    /// Subscribers that no ruleset in force names any more.
    pub(crate) fn remove_subscribers(&mut self, slots: &[u32]) -> Result<(), Refusal> {
        for slot in slots {
            let lanes = self.subscribers.get(slot).map(|subscriber| subscriber.lanes.clone()).unwrap_or_default();
            match self.call(&Request::RemoveSubscriber(*slot)) {
                // A node that does not know it any more has ended it, too.
                Ok(()) | Err(Refusal::Precondition(_)) => {
                    self.drop_lanes(&lanes)?;
                    self.forget_subscriber(*slot)?;
                }
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }

    pub(crate) fn forget_subscriber(&mut self, slot: u32) -> Result<(), Refusal> {
        self.registry.commit(&[Change::SubscriberGone(slot)])?;
        self.subscribers.remove(&slot);
        info!(subscriber = slot, "ended a subscription");
        Ok(())
    }

    /// Subscribers whose identity is gone, or may not be claimed by their user any more.
    pub(crate) fn subscribers_beyond(&self, rules: &InForce) -> Vec<u32> {
        let granted = |subscriber: &&Subscriber| {
            let identity = rules.identity(&subscriber.owner.identity);
            identity.is_some_and(|identity| self.may_claim(subscriber.owner.uid, identity))
        };
        let current = self.subscribers.values().filter(|subscriber| !subscriber.ending);
        current.filter(|subscriber| !granted(subscriber)).map(|subscriber| subscriber.slot).collect()
    }

    /// Tells a node that starts anew of every subscriber that goes on. The slots of all others stay taken until
    /// [`State::forget_ended`].
    pub(crate) fn resend_subscribers(&mut self) -> Result<(), Refusal> {
        let subscribers: Vec<Subscriber> = self.subscribers.values().filter(|s| !s.ending).cloned().collect();
        for subscriber in subscribers {
            match self.tell_subscriber(&subscriber) {
                Ok(()) => {}
                Err(Refusal::Precondition(text)) => {
                    warn!(subscriber = subscriber.slot, "not taken over: {text}");
                    self.end_subscribers(&[subscriber.slot])?;
                }
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }

    /// Frees the slots of subscribers that a node which starts anew was not told of. Only once its ruleset does not name them: the one
    /// that it has stored would send their topics to whoever gets the slot.
    pub(crate) fn forget_ended(&mut self) -> Result<(), Refusal> {
        let ended: Vec<u32> = self.subscribers.values().filter(|s| s.ending).map(|s| s.slot).collect();
        ended.into_iter().try_for_each(|slot| self.forget_subscriber(slot))
    }

    fn tell_subscriber(&mut self, subscriber: &Subscriber) -> Result<(), Refusal> {
        subscriber.commands().try_for_each(|add| self.call(&Request::AddSubscriber(Box::new(add))))
    }

    /// Holds each name and pattern against the rules; gives the plain names.
    fn check_topics(&self, caller: Caller, identity: &str, topics: &[String]) -> Result<Vec<String>, Refusal> {
        let rules = self.rules()?;
        let claimed = self.claim(caller, &rules, identity)?;
        if topics.is_empty() || topics.len() > PATTERNS_MAX {
            let text = format!("{} topics in one subscription, from 1 to {PATTERNS_MAX} are possible", topics.len());
            return Err(Refusal::Invalid(text));
        }
        let mut names = Vec::new();
        for text in topics {
            let wrong = |wrong: String| Refusal::Invalid(format!("`{text}`: {wrong}"));
            let pattern: Pattern = text.parse().map_err(wrong)?;
            if !claimed.subscribe.iter().any(|granted| granted.overlaps(&pattern)) {
                let text = format!("identity `{identity}` may not subscribe to anything under `{text}`; grant it");
                return Err(Refusal::Denied(text));
            }
            if let Pattern::Exact(name) = pattern {
                names.push(name);
            }
        }
        Ok(names)
    }

    fn free_slot(&self, identity: &str, subscribers_max: u32) -> Result<u32, Refusal> {
        let theirs = self.subscribers.values().filter(|subscriber| subscriber.owner.identity == identity).count();
        if theirs >= self.config.subscribers_per_identity as usize {
            let text = format!("identity `{identity}` has {theirs} subscriptions, the most there may be; end some");
            return Err(Refusal::Exhausted(text));
        }
        let full = "all subscriber slots of the node are in use; raise subscribers_max in the node file";
        let free = (0..subscribers_max).find(|slot| !self.subscribers.contains_key(slot));
        free.ok_or_else(|| Refusal::Exhausted(full.to_owned()))
    }

    fn take_egress(&mut self, workers: u16) -> Result<Vec<(u32, Key)>, Refusal> {
        let first = self.egress_sessions;
        self.egress_sessions += u64::from(workers);
        let ids = self.ids.as_ref().ok_or_else(|| Refusal::Internal("no session numbers".to_owned()))?;
        Ok((first..self.egress_sessions).map(|count| (ids.egress(count), Key::random())).collect())
    }
}

fn parse_endpoint(wish: &SubscriberWish, hello: &Hello) -> Result<(IpAddr, u16), Refusal> {
    let text = &wish.address;
    let wrong = |_| Refusal::Invalid(format!("`{text}` is no IP address; write one such as 10.0.0.7 or ::1"));
    // An IPv4-mapped one is the same name at the node, so it has to be the same here.
    let address = text.parse::<IpAddr>().map_err(wrong)?.to_canonical();
    if address.is_unspecified() {
        return Err(Refusal::Invalid(format!("copies cannot go to {address}; name the subscriber's own address")));
    }
    let last = wish.base_port.saturating_add(u32::from(hello.shard_count)).saturating_sub(1);
    match u16::try_from(wish.base_port) {
        Ok(base_port) if base_port > 0 && last <= u32::from(u16::MAX) => Ok((address, base_port)),
        _ => {
            let highest = u32::from(u16::MAX) + 1 - u32::from(hello.shard_count);
            let text = format!("base_port {} is out of range; choose 1 to {highest}", wish.base_port);
            Err(Refusal::Invalid(text))
        }
    }
}

fn frame_bytes(wanted: u32, lane_max: u32) -> Result<u32, Refusal> {
    match wanted {
        0 => Ok(lane_max),
        FRAME_BYTES_MIN.. if wanted <= lane_max => Ok(wanted),
        _ => {
            let text = format!("frames of at most {wanted} bytes; choose {FRAME_BYTES_MIN} to {lane_max}, or 0");
            Err(Refusal::Invalid(text))
        }
    }
}
