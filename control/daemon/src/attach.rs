//! Taking up a connection to `tachyond`: what it has already stays undisturbed, what it lacks is sent again.

use crate::{
    control::Offer,
    record::{Attachment, Shape},
    refusal::Refusal,
    registry::Change,
    session_ids::SessionIds,
    state::{Link, State},
};
use std::sync::Arc;
use tachyon_segment::{
    StatsReader,
    handover::{ControlEnd, Hello, Request},
};
use tracing::{info, warn};

impl State {
    /// Takes up a connection. Afterwards the node has every session and subscriber of the registry, and every denied
    /// prefix. One that starts anew has the ruleset, too, whose version is given; otherwise it follows. The caller holds off
    /// other rulesets.
    ///
    /// # Errors
    /// The connection was lost again, or the registry cannot be written.
    pub(crate) fn attach(&mut self, end: ControlEnd, hello: Hello, stats: StatsReader) -> Result<Option<u64>, Refusal> {
        let shape = Shape { sessions_max: hello.sessions_max, workers: hello.workers, shard_count: hello.shard_count };
        let now = Attachment { boot_id: hello.boot_id, boot_number: hello.boot_number, shape };
        // Versions only rise, whatever became of our own count.
        self.version = self.version.max(hello.ruleset_version);
        self.link = Some(Link { end, hello: Arc::new(hello), stats: Arc::new(stats) });
        // First, because what the node is told from here on is for the log too.
        self.attach_log()?;
        let before = self.attachment;
        if before.is_some_and(|before| !can_follow(&before, &now)) {
            self.end_everything()?;
        }
        let taken: Vec<u32> = self.sessions.keys().copied().collect();
        self.ids = Some(SessionIds::new(shape.sessions_max, &self.generations, taken));
        let mut offered = None;
        if before.is_some_and(|before| before.boot_id == now.boot_id) {
            // It went on without us. What ended in the meantime ends there now.
            let ending: Vec<u32> = self.sessions.values().filter(|s| s.ending).map(|s| s.session_id).collect();
            self.end_sessions(&ending)?;
        } else {
            offered = self.restore()?;
            self.registry.commit(&[Change::Attachment(&now)])?;
            self.attachment = Some(now);
        }
        // After the sessions, so that a denied source that one is pinned to is not shut out in between.
        self.greet_with_denied()?;
        self.drop_strangers()?;
        if offered.is_none() {
            self.change += 1; // so that the ruleset is offered
        }
        let (sessions, subscribers) = (self.sessions.len(), self.subscribers.len());
        info!(boot = now.boot_number, sessions, subscribers, "connected to tachyond");
        Ok(offered)
    }

    /// Hands the node's taps to the truth log, unless it has them. A node without taps goes on without a log, which refuses
    /// what is durable.
    fn attach_log(&mut self) -> Result<(), Refusal> {
        let (boot_id, workers) = self.node().map(|link| (link.hello.boot_id, link.hello.workers))?;
        if self.log.as_ref().is_none_or(|log| log.has(&boot_id)) {
            return Ok(());
        }
        let taps = (0..workers).map(|worker| self.ask(|end| end.tap(worker))).collect::<Result<Vec<_>, _>>();
        let Some(log) = &mut self.log else { return Ok(()) };
        match taps {
            Ok(taps) => log.attach(boot_id, taps),
            Err(refusal) => log.set_problem(refusal.text()),
        }
        // What was refused is no reason to do without the node; a lost connection is.
        self.node().map(|_| ())
    }

    /// Gives a node that starts anew its sessions and subscribers, the ruleset, and what the truth log has of before. Sessions are open
    /// only once all of it is told: an answer must neither come from half a window nor before what it promises has left. The
    /// ruleset comes before what is forwarded again, because the one that the node has stored may be older than what the log
    /// has accepted, and lack its topics. Gives the ruleset's version.
    fn restore(&mut self) -> Result<Option<u64>, Refusal> {
        let sessions = self.sessions.keys().copied().collect();
        let restored = self.log.as_ref().map(|log| log.restored(sessions)).unwrap_or_default();
        for problem in &restored.problems {
            warn!("sessions may have to begin a new epoch: {problem}");
        }
        self.resend_sessions(&restored)?;
        self.resend_subscribers()?;
        let offered = self.offer_rules()?;
        if offered.is_some() {
            self.forget_ended()?;
        }
        for again in &restored.again {
            self.call(&Request::Again(Box::new(*again)))?;
        }
        self.reopen_sessions(&restored)?;
        let (sessions, again) = (restored.windows.len(), restored.again.len());
        if sessions + again > 0 {
            info!("{sessions} sessions go on where the log ends; {again} messages are forwarded again");
        }
        Ok(offered)
    }

    /// Offers the rules that are in force here, if there are any; gives the version. Those that the node does not take are no
    /// reason to do without it: the publisher tries them again, and tells what stands against them.
    fn offer_rules(&mut self) -> Result<Option<u64>, Refusal> {
        if self.in_force.is_none() {
            return Ok(None);
        }
        let numbered = self.next_version()?;
        match self.plan().and_then(|plan| Offer::new(plan, numbered)).and_then(|offer| self.put_in_force(offer)) {
            Ok(version) => Ok(Some(version)),
            Err(refusal) => {
                warn!("it goes on with the rules that it has stored: {}", refusal.text());
                self.node()?; // a lost connection is a reason
                Ok(None)
            }
        }
    }

    /// Ends all sessions and subscriptions without the node, which has none of them. Slots of subscribers stay taken as long as
    /// the ruleset that it has stored may name them.
    fn end_everything(&mut self) -> Result<(), Refusal> {
        if !self.sessions.is_empty() || !self.subscribers.is_empty() {
            let (sessions, subscribers) = (self.sessions.len(), self.subscribers.len());
            warn!(
                "tachyond lost its boot number or has other tables: {sessions} sessions and {subscribers} subscriptions end"
            );
        }
        self.subscribers.values_mut().for_each(|subscriber| subscriber.ending = true);
        let sessions = self.sessions.keys().map(|id| Change::SessionGone(*id));
        let changes: Vec<Change<'_>> = sessions.chain(self.subscribers.values().map(Change::Subscriber)).collect();
        self.registry.commit(&changes)?;
        self.sessions.clear();
        Ok(())
    }
}

/// Whether sessions of one start can go on under another: slots and workers are the same, and the boot number has risen,
/// because under a lower one the node would use keys and nonces again that it has used before.
fn can_follow(before: &Attachment, now: &Attachment) -> bool {
    before.boot_id == now.boot_id || (before.shape == now.shape && now.boot_number > before.boot_number)
}
