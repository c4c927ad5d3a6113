//! The node's pre-filters: who may set them, what they deny, and what is asked of `tachyond`.
//!
//! What is denied is the operator's list and the rules' together. `tachyond` gets all of it on every connection and after
//! each change, so that neither side has to know what the other had before.

use crate::{
    deny_list::{Changed, written},
    refusal::Refusal,
    state::{Caller, State},
};
use std::collections::BTreeSet;
use tachyon_config::SourcePrefix;
use tachyon_segment::{
    handover::{ControlEnd, FilterStatus, INTERFACE_NAME_MAX, Prefix, Request},
    seal_image,
};
use tracing::{debug, info, warn};
use zerocopy::IntoBytes;

/// Most prefixes of one request or one page: with the longest text, 43 bytes, they are a third of what a message may have.
pub(crate) const AT_ONCE_MAX: usize = 262_144;

/// One page of what is denied.
#[derive(Debug)]
pub(crate) struct Page {
    /// Each with whether the operator and whether the rules deny it.
    pub(crate) denied: Vec<(String, bool, bool)>,
    /// How many there are in all.
    pub(crate) total: usize,
    /// There are more behind these.
    pub(crate) more: bool,
    /// Why `tachyond` does not have the list; empty if it does.
    pub(crate) problem: String,
}

/// What a change came to, as a person writes it.
#[derive(Debug)]
pub(crate) struct ChangeTold {
    /// Its counts.
    pub(crate) changed: Changed,
    /// Of those to be removed: are still denied by the rules.
    pub(crate) still_denied: Vec<String>,
    /// How many are denied in all.
    pub(crate) total: usize,
    /// `tachyond` has it.
    pub(crate) in_force: bool,
}

impl State {
    /// The node's pre-filters.
    ///
    /// # Errors
    /// There is no node, or it went away.
    pub(crate) fn filters(&mut self) -> Result<Vec<FilterStatus>, Refusal> {
        self.ask(ControlEnd::filters)
    }

    /// Attaches or detaches the pre-filter of an interface.
    ///
    /// # Errors
    /// The caller may not, there is no such interface, or the node says why it cannot.
    pub(crate) fn set_filter(&mut self, caller: Caller, interface: &str, attached: bool) -> Result<(), Refusal> {
        self.only_administrators(caller, "set pre-filters")?;
        // A longer one would not get through to the node, and the kernel has none.
        if interface.is_empty() || interface.len() > INTERFACE_NAME_MAX {
            let names = format!("names have 1 to {INTERFACE_NAME_MAX} bytes; see `tachyon prefilter status`");
            return Err(Refusal::Invalid(format!("no interface is named `{interface}`: {names}")));
        }
        let interface = interface.to_owned();
        info!(interface, attached, uid = caller.uid, "setting a pre-filter");
        self.call(&if attached { Request::AttachFilter(interface) } else { Request::DetachFilter(interface) })
    }

    /// What is denied, from behind `after` on.
    ///
    /// # Errors
    /// `after` is no prefix, or the operator's list cannot be read.
    pub(crate) fn denied(&self, after: &str) -> Result<Page, Refusal> {
        let after = if after.is_empty() { None } else { Some(parsed(after)?) };
        let (operator, rules) = (self.deny_list.kept()?, self.denied_by_rules());
        let mut behind = operator.union(&rules).filter(|prefix| after.is_none_or(|after| **prefix > after));
        let told = |prefix: &Prefix| (written(prefix), operator.contains(prefix), rules.contains(prefix));
        let denied = behind.by_ref().take(AT_ONCE_MAX).map(told).collect();
        let more = behind.next().is_some();
        let problem = self.node().map_or_else(|refusal| refusal.text().to_owned(), |_| self.denied_problem.clone());
        Ok(Page { denied, more, total: operator.union(&rules).count(), problem })
    }

    /// Changes the operator's list, and tells `tachyond`, if it is there.
    ///
    /// # Errors
    /// The caller may not, something is no prefix, or there is no room: nothing is changed then. Or `tachyond` refuses the
    /// list, which is stored then.
    pub(crate) fn change_denied(
        &mut self,
        caller: Caller,
        add: &[String],
        remove: &[String],
    ) -> Result<ChangeTold, Refusal> {
        self.only_administrators(caller, "change what is denied")?;
        let asked = add.len() + remove.len();
        if asked > AT_ONCE_MAX {
            let text = format!("{asked} prefixes in one call, at most {AT_ONCE_MAX}; make several calls");
            return Err(Refusal::Invalid(text));
        }
        let all = |texts: &[String]| texts.iter().map(|text| parsed(text)).collect::<Result<BTreeSet<Prefix>, _>>();
        let (add, remove) = (all(add)?, all(remove)?);
        let rules = self.denied_by_rules();
        let changed = self.deny_list.change(&add, &remove, &rules)?;
        let total = self.deny_list.kept()?.union(&rules).count();
        let still_denied = remove.intersection(&rules).map(written).collect();
        let (added, removed) = (changed.added, changed.removed);
        info!(added, removed, total, uid = caller.uid, "changed the list of denied prefixes");
        if self.link.is_some() && (added + removed > 0 || !self.denied_problem.is_empty()) {
            match self.send_denied() {
                // Whoever lost the connection is told as if it had not been there: the list goes with the next one.
                Ok(()) | Err(Refusal::Unavailable(_)) => {}
                Err(refusal) => {
                    let text =
                        format!("{}; the list is stored, and is offered again with every change", refusal.text());
                    return Err(Refusal::Precondition(text));
                }
            }
        }
        let in_force = self.link.is_some() && self.denied_problem.is_empty();
        Ok(ChangeTold { changed, still_denied, total, in_force })
    }

    /// Tells `tachyond` everything that is denied, in place of what it had.
    ///
    /// # Errors
    /// It does not take it, or the operator's list cannot be read.
    pub(crate) fn send_denied(&mut self) -> Result<(), Refusal> {
        let sent = self.try_send_denied();
        self.denied_problem = sent.as_ref().err().map(|refusal| refusal.text().to_owned()).unwrap_or_default();
        sent
    }

    /// [`State::send_denied`] for a connection that is new: only a loss of it is an error, since everything else of the
    /// node goes on with the list that it has.
    ///
    /// # Errors
    /// The connection is lost again.
    pub(crate) fn greet_with_denied(&mut self) -> Result<(), Refusal> {
        match self.send_denied() {
            Err(refusal @ Refusal::Unavailable(_)) => Err(refusal),
            Err(refusal) if self.denies_something() => {
                warn!("tachyond goes on with the denied prefixes that it has: {}", refusal.text());
                Ok(())
            }
            // A node without filters has nothing to do with an empty list.
            Err(refusal) => {
                debug!("{}", refusal.text());
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }

    /// What is wrong with the list, if that matters.
    #[must_use]
    pub(crate) fn denied_degraded(&self) -> Option<String> {
        if let Some(problem) = self.deny_list.problem() {
            return Some(problem.to_owned());
        }
        let matters = self.link.is_some() && !self.denied_problem.is_empty() && self.denies_something();
        matters.then(|| format!("denied prefixes are not in force: {}", self.denied_problem))
    }

    fn try_send_denied(&mut self) -> Result<(), Refusal> {
        let rules = self.denied_by_rules();
        let all: Vec<Prefix> = self.deny_list.kept()?.union(&rules).copied().collect();
        let no_memory = |error| Refusal::Internal(format!("no memory for the denied prefixes: {error}; free some"));
        let sealed = seal_image(all.as_bytes()).map_err(no_memory)?;
        self.call(&Request::Denied(sealed))?;
        debug!(prefixes = all.len(), "denied prefixes in force");
        Ok(())
    }

    fn denies_something(&self) -> bool {
        !self.denied_by_rules().is_empty() || self.deny_list.kept().map_or(true, |kept| !kept.is_empty())
    }

    fn denied_by_rules(&self) -> BTreeSet<Prefix> {
        self.in_force.as_ref().map(|rules| rules.denied().clone()).unwrap_or_default()
    }
}

/// A prefix as `tachyond` takes it.
///
/// # Errors
/// The text is none.
fn parsed(text: &str) -> Result<Prefix, Refusal> {
    let prefix = text.parse::<SourcePrefix>().ok().and_then(|own| Prefix::new(own.ip(), own.bits()));
    let wrong = || match text.parse::<SourcePrefix>() {
        Err(wrong) => Refusal::Invalid(format!("{wrong}; {}", SourcePrefix::HELP)),
        Ok(_) => Refusal::Invalid(format!("`{text}` is no prefix; {}", SourcePrefix::HELP)),
    };
    prefix.ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::registry::Registry;
    use tachyon_config::ControlFile;

    #[test]
    fn only_administrators_set_filters_and_change_what_is_denied() {
        let folder = std::env::temp_dir().join(format!("tachyon-filters-{}", std::process::id()));
        let (registry, stored) = Registry::open(&folder).unwrap();
        let config = ControlFile { admin_uids: vec![7], state_dir: folder.clone(), ..ControlFile::default() };
        let mut state = State::new(config, 5, registry, stored).unwrap();
        let add = ["10.0.0.0/8".to_owned()];
        for uid in [0, 5, 6, 7] {
            let caller = Caller { uid, pid: None };
            let set = state.set_filter(caller, "eth0", true).unwrap_err();
            let changed = state.change_denied(caller, &add, &[]);
            if uid == 6 {
                assert!(matches!(&set, Refusal::Denied(text) if text.contains("user 6 may not set pre-filters")));
                assert!(matches!(&changed, Err(Refusal::Denied(text)) if text.contains("admin_uids")), "{changed:?}");
            } else {
                assert!(matches!(set, Refusal::Unavailable(_)), "user {uid} may, but there is no node");
                assert!(!changed.unwrap().in_force);
            }
        }
        drop(state);
        std::fs::remove_dir_all(folder).unwrap();
    }
}
