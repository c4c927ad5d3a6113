//! After a restart: windows as the truth log has them, and messages that it has and whose copies may not have left before.

use crate::{egress::Hop, host::Host, logged::adopt_rules, tap::Tap, worker::Worker};
use tachyon_driver_api::{RxQueue, TxQueue};
use tachyon_wire::{
    Reason,
    command::{Again, Restore},
    image::ROUTE_DURABLE,
};

impl<Q: RxQueue + TxQueue, H: Host, T: Tap> Worker<'_, Q, H, T> {
    /// Gives a session back a part of its window in one of our shards.
    #[cold]
    pub(crate) fn restore(&mut self, restore: &Restore) {
        let owned = self.owned(restore.shard.get());
        let Some(window) = self.ingress.restore(owned, restore) else { return };
        if let Some(pending) = self.kept.pending.get_mut(window) {
            pending.restore(restore.epoch.get(), restore.top.get());
        }
    }

    /// Copies a message of before onto the route that it has now. One that the rules in force do not forward any more is counted
    /// as a copy that came to nothing, because the log has it as accepted.
    #[cold]
    pub(crate) fn forward_again(&mut self, now_ns: u64, again: &Again) {
        let shard = again.identity.shard.get();
        let owned = self.owned(shard);
        let Self { host, kept, limits, egress, stats, pool, ruleset_version, .. } = self;
        let ruleset = host.ruleset().ok().map(tachyon_policy::Verified::ruleset);
        // So that the turn's record says under which rules.
        adopt_rules(ruleset.as_ref(), ruleset_version, kept, limits, egress, now_ns, stats);
        let reason = if usize::from(owned) >= limits.owned() || again.message.in_frame().is_some() {
            Reason::InternalInvariant // whoever sends them leaves these out
        } else if let Some(ruleset) = ruleset
            && let Some(topic) = ruleset.topic(again.message.topic_id.get())
        {
            let route = topic.route.get();
            match ruleset.route(route) {
                None => return, // nobody subscribes, so nothing is due
                Some((rule, targets)) if rule.for_log == ROUTE_DURABLE => {
                    let hop = Hop { now_ns, shard, owned, route, rule };
                    return egress.forward_as(hop, targets, &again.message, &again.identity, None, pool, stats);
                }
                Some(_) => Reason::PersistUnavailable, // frames of such a route have no identities
            }
        } else {
            Reason::PersistUnavailable
        };
        stats.counters.copies_due += 1;
        stats.counters.copies_refused[reason.index()] += 1;
    }

    /// A shard's place among those of this worker; past the last for one that is another's.
    fn owned(&self, shard: u16) -> u16 {
        self.tables.shards.owned.get(usize::from(shard)).copied().unwrap_or(u16::MAX)
    }
}
