//! Putting a rules file in force, or saying why not. Until `tachyond` has accepted the ruleset, nothing is changed; where the
//! registry fails then, the old rules are offered once more.

use crate::{
    control::{Control, Offer, image_of},
    record::RulesText,
    refusal::Refusal,
    ruleset::{InForce, Limits, Plan, Principals},
    state::State,
};
use std::{
    sync::Arc,
    time::{SystemTime, UNIX_EPOCH},
};
use tachyon_config::{Diagnostic, Rules, Severity};
use tachyon_proto::v1::RulesSummary;
use tracing::info;

/// What came of a rules file.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    /// Why it was refused; empty if it was not.
    pub(crate) problems: Vec<Diagnostic>,
    /// What is probably not meant.
    pub(crate) warnings: Vec<Diagnostic>,
    /// What it comes to.
    pub(crate) summary: RulesSummary,
    /// The version it became; 0 if it was refused or nobody is there to take it.
    pub(crate) version: u64,
}

/// A rules file that could be put in force.
struct Candidate {
    in_force: InForce,
    principals: Principals,
    new_principals: Vec<(u32, String)>,
    plan: Plan,
    sessions_ended: usize,
    /// The last change that the plan includes.
    change: u64,
}

impl Control {
    /// Says what is wrong with a rules file, and what it would come to.
    ///
    /// # Errors
    /// The registry is in no state to tell; never because of the file.
    pub(crate) fn check_rules(&self, text: &str, file_name: &str) -> Result<Outcome, Refusal> {
        Ok(self.consider(text, file_name)?.1)
    }

    /// Puts a rules file in force, or changes nothing and says why.
    ///
    /// # Errors
    /// `tachyond` was lost meanwhile, and nothing is changed; or the registry cannot be written, and the old rules are in force
    /// again, or the text says that they are not.
    pub(crate) fn apply_rules(&self, text: &str, file_name: &str) -> Result<Outcome, Refusal> {
        let _publishing = self.hold_publishing();
        let (candidate, mut outcome) = self.consider(text, file_name)?;
        let Some(candidate) = candidate else { return Ok(outcome) };
        let connected = self.state().node().is_ok();
        let Candidate { in_force, principals, new_principals, plan, change, .. } = candidate;
        if connected {
            match self.offer(plan) {
                Ok(version) => outcome.version = version,
                Err(Refusal::Precondition(said) | Refusal::Exhausted(said)) => {
                    outcome.problems.push(general(file_name, said, "the old rules stay in force"));
                    return Ok(outcome);
                }
                Err(refusal) => return Err(refusal),
            }
        }
        let mut state = self.state();
        if let Err(refusal) = state.commit_rules(&in_force.text, &new_principals) {
            return Err(if connected { self.take_back(&mut state, &refusal) } else { refusal });
        }
        state.principals = principals;
        // Asked only now, so that what was opened while we compiled is held against the new rules too.
        let (sessions, subscribers) = (state.sessions_beyond(&in_force), state.subscribers_beyond(&in_force));
        let denied_before = state.in_force.as_ref().map(|rules| rules.denied().clone()).unwrap_or_default();
        let denies_otherwise = denied_before != *in_force.denied();
        state.in_force = Some(Arc::new(in_force));
        if denies_otherwise
            && connected
            && let Err(refusal) = state.send_denied()
        {
            // What may be published is in force already and good by itself, so this part is told and comes later.
            let message = format!("what the rules deny is not in force yet: {}", refusal.text());
            outcome.warnings.push(whole_file(Severity::Warning, file_name, message, "see `tachyon status`"));
        }
        state.end_sessions(&sessions)?;
        state.end_subscribers(&subscribers)?;
        // What changed while we compiled, and the subscribers that ended, come with the next ruleset.
        let more = state.change > change;
        state.change += u64::from(!connected);
        drop(state);
        if connected {
            self.tell(change, Ok(outcome.version));
        }
        if more || !connected {
            self.poke();
        }
        info!(file = file_name, version = outcome.version, "rules applied");
        Ok(outcome)
    }

    /// Gives `tachyond` the old rules back, because the new ones could not be stored. Gives what to tell the caller.
    fn take_back(&self, state: &mut State, refusal: &Refusal) -> Refusal {
        // The registry cannot keep this version; the node does, and says it whenever control connects.
        state.version += 1;
        let numbered = (state.version, Limits::of(state.link.as_ref().map(|link| &*link.hello)));
        let back = state.plan().and_then(|plan| Offer::new(plan, numbered)).and_then(|offer| state.put_in_force(offer));
        Refusal::Internal(match back {
            Ok(version) => {
                self.tell(state.change, Ok(version));
                format!("{}; the old rules are in force again, as version {version}", refusal.text())
            }
            Err(why) => format!(
                "{}; tachyond has the new rules until tachyon-control is restarted, because it does not take the old ones: {}",
                refusal.text(),
                why.text()
            ),
        })
    }

    fn consider(&self, text: &str, file_name: &str) -> Result<(Option<Candidate>, Outcome), Refusal> {
        let mut outcome = Outcome::default();
        let rules = match Rules::parse(file_name, text) {
            Ok((rules, warnings)) => {
                outcome.warnings = warnings;
                rules
            }
            Err(problems) => {
                outcome.problems = problems;
                return Ok((None, outcome));
            }
        };
        let applied_unix_s = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let text = RulesText { text: text.to_owned(), file_name: file_name.to_owned(), applied_unix_s };
        let considered = self.state().candidate(text, rules);
        match considered.and_then(|(candidate, limits)| weigh(candidate, limits)) {
            Ok((candidate, summary)) => {
                outcome.summary = summary;
                Ok((Some(candidate), outcome))
            }
            Err(Refusal::Exhausted(said)) => {
                outcome.problems.push(general(file_name, said, "change the rules, or the limit that it names"));
                Ok((None, outcome))
            }
            Err(refusal) => Err(refusal),
        }
    }
}

impl State {
    fn candidate(&self, text: RulesText, rules: Rules) -> Result<(Candidate, Limits), Refusal> {
        let (principals, new_principals) = self.principals_for(&rules)?;
        let in_force = InForce::new(text, rules, &principals);
        self.deny_list.leaves_room(in_force.denied())?;
        let sessions_ended = self.sessions_beyond(&in_force).len();
        let subscribers = self.subscribers_beyond(&in_force);
        let staying = self.subscribers.values().filter(|s| !s.ending && !subscribers.contains(&s.slot));
        let rows = u32::try_from(principals.len()).unwrap_or(u32::MAX);
        let plan = Plan::new(&in_force, &self.topics, staying, rows, self.shard_count()).map_err(Refusal::Exhausted)?;
        let limits = Limits::of(self.link.as_ref().map(|link| &*link.hello));
        let change = self.change;
        Ok((Candidate { in_force, principals, new_principals, plan, sessions_ended, change }, limits))
    }
}

/// Compiles a candidate to see whether it can be, and what it comes to.
fn weigh(mut candidate: Candidate, limits: Limits) -> Result<(Candidate, RulesSummary), Refusal> {
    candidate.plan.check(limits).map_err(Refusal::Exhausted)?;
    candidate.plan.source.version = 1; // any; the real one is given when it is offered
    let (image, _) = image_of(&candidate.plan)?;
    let count = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
    let summary = RulesSummary {
        topic_rules: count(candidate.in_force.rules.topics.len()),
        identities: count(candidate.in_force.rules.identities.len()),
        topics_known: count(candidate.plan.source.topics.len()),
        topics_unmatched: candidate.plan.unmatched,
        sessions_ended: count(candidate.sessions_ended),
        image_bytes: image.len() as u64,
    };
    Ok((candidate, summary))
}

/// A problem of the whole file.
fn general(file_name: &str, message: String, help: &str) -> Diagnostic {
    whole_file(Severity::Error, file_name, message, help)
}

fn whole_file(severity: Severity, file_name: &str, message: String, help: &str) -> Diagnostic {
    Diagnostic::new(severity, file_name, "", None).saying(message, help)
}

#[cfg(test)]
#[path = "apply_tests.rs"]
mod tests;
