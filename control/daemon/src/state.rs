//! All that control knows, in one place: the registry's contents, the rules in force and the connection to `tachyond`.
//!
//! Its methods block (on the disk, on the socket) and are called with the lock held, one at a time; what waits for
//! something else to happen waits outside of it.

use crate::{
    deny_list::DenyList,
    lanes::Seen,
    log::Log,
    record::{Attachment, Owner, RulesText, Session, Subscriber},
    refusal::Refusal,
    registry::{Change, Registry, Stored},
    routes::RouteTable,
    ruleset::{InForce, Principals},
    session_ids::SessionIds,
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
    thread,
    time::{Duration, Instant},
};
use tachyon_config::{ControlFile, Identity, Rules};
use tachyon_segment::{
    StatsReader,
    handover::{CallError, ControlEnd, Hello, Request},
};
use tachyon_wire::image::PRINCIPALS_MAX;
use tracing::{info, warn};

/// How long a busy `tachyond` is asked again: its workers take commands at least every millisecond, so this is a stall.
const BUSY_PATIENCE: Duration = Duration::from_secs(2);

/// Who calls.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Caller {
    /// Its Unix user.
    pub(crate) uid: u32,
    /// Its process, if it can be seen.
    pub(crate) pid: Option<i32>,
}

/// A live connection.
#[derive(Debug)]
pub(crate) struct Link {
    /// The socket.
    pub(crate) end: ControlEnd,
    /// What the node said of itself.
    pub(crate) hello: Arc<Hello>,
    /// Its counters.
    pub(crate) stats: Arc<StatsReader>,
}

/// All that control knows.
#[derive(Debug)]
pub(crate) struct State {
    /// How control itself runs.
    pub(crate) config: ControlFile,
    /// The user that control runs as.
    pub(crate) own_uid: u32,
    pub(crate) registry: Registry,
    /// By id - 1.
    pub(crate) topics: Vec<String>,
    pub(crate) topic_ids: HashMap<String, u32>,
    pub(crate) principals: Principals,
    pub(crate) sessions: BTreeMap<u32, Session>,
    pub(crate) subscribers: BTreeMap<u32, Subscriber>,
    pub(crate) generations: BTreeMap<u32, u32>,
    pub(crate) egress_sessions: u64,
    /// Version of the last ruleset that was given out.
    pub(crate) version: u64,
    pub(crate) in_force: Option<Arc<InForce>>,
    /// The operator's list of denied prefixes.
    pub(crate) deny_list: DenyList,
    /// Why the connected node does not have everything that is denied; empty if it has.
    pub(crate) denied_problem: String,
    pub(crate) attachment: Option<Attachment>,
    pub(crate) ids: Option<SessionIds>,
    pub(crate) link: Option<Link>,
    /// Why there is no link.
    pub(crate) link_problem: String,
    /// The last look at the node's lanes, and when it was.
    pub(crate) lanes_seen: Option<(Instant, Arc<Seen>)>,
    /// Rises with everything that changes the ruleset.
    pub(crate) change: u64,
    /// Routes of the last ruleset that `tachyond` accepted.
    pub(crate) routes: Arc<RouteTable>,
    /// The truth log, if it is enabled.
    pub(crate) log: Option<Log>,
}

impl State {
    /// From what the registry holds.
    ///
    /// # Errors
    /// The stored rules cannot be read any more: they were written by a version with another format. Or the truth log cannot
    /// be started.
    pub(crate) fn new(config: ControlFile, own_uid: u32, registry: Registry, stored: Stored) -> anyhow::Result<Self> {
        let log = Log::start(&config.log)?;
        let principals: Principals = stored.principals.into_iter().zip(0..).collect();
        let mut in_force = None;
        if let Some(text) = stored.rules {
            let (rules, _) = Rules::parse(&text.file_name, &text.text).map_err(|diagnostics| {
                let all: Vec<String> = diagnostics.iter().map(ToString::to_string).collect();
                anyhow::anyhow!("the rules in the registry are not valid for this version:\n{}", all.join("\n"))
            })?;
            in_force = Some(Arc::new(InForce::new(text, rules, &principals)));
        }
        Ok(Self {
            deny_list: DenyList::open(&config.state_dir),
            denied_problem: String::new(),
            config,
            own_uid,
            registry,
            topic_ids: stored.topics.iter().cloned().zip(1..).collect(),
            topics: stored.topics,
            principals,
            sessions: stored.sessions,
            subscribers: stored.subscribers,
            generations: stored.generations,
            egress_sessions: stored.egress_sessions,
            version: stored.version,
            in_force,
            attachment: stored.attachment,
            ids: None,
            link: None,
            link_problem: "not connected yet".to_owned(),
            lanes_seen: None,
            change: 0,
            routes: Arc::default(),
            log,
        })
    }

    /// Whether the caller may apply rules and end what others opened.
    #[must_use]
    pub(crate) fn is_admin(&self, caller: Caller) -> bool {
        caller.uid == 0 || caller.uid == self.own_uid || self.config.admin_uids.contains(&caller.uid)
    }

    /// Refuses whoever is none.
    ///
    /// # Errors
    /// The caller may not do `what`.
    pub(crate) fn only_administrators(&self, caller: Caller, what: &str) -> Result<(), Refusal> {
        let uid = caller.uid;
        let denied = || Refusal::Denied(format!("user {uid} may not {what}; add it to admin_uids in the control file"));
        if self.is_admin(caller) { Ok(()) } else { Err(denied()) }
    }

    /// The rules in force.
    ///
    /// # Errors
    /// None were ever applied.
    pub(crate) fn rules(&self) -> Result<Arc<InForce>, Refusal> {
        let none = "no rules were applied yet, so nothing may pass; apply some with `tachyon rules apply`";
        self.in_force.clone().ok_or_else(|| Refusal::Precondition(none.to_owned()))
    }

    /// The identity that a caller claims, if it may.
    ///
    /// # Errors
    /// There is none of that name, or this user may not claim it.
    pub(crate) fn claim<'r>(&self, caller: Caller, rules: &'r InForce, name: &str) -> Result<&'r Identity, Refusal> {
        let missing = || Refusal::NotFound(format!("no identity `{name}` in the rules; add an [[identity]] entry"));
        let identity = rules.identity(name).ok_or_else(missing)?;
        if self.may_claim(caller.uid, identity) {
            return Ok(identity);
        }
        let uid = caller.uid;
        Err(Refusal::Denied(format!(
            "user {uid} may not claim identity `{name}`; add {uid} to its `uids` in the rules"
        )))
    }

    pub(crate) fn may_claim(&self, uid: u32, identity: &Identity) -> bool {
        let default = uid == 0 || uid == self.own_uid;
        identity.uids.as_ref().map_or(default, |uids| uids.contains(&uid))
    }

    /// Whether a caller may end what `owner` opened.
    pub(crate) fn may_end(&self, caller: Caller, owner: &Owner) -> bool {
        caller.uid == owner.uid || self.is_admin(caller)
    }

    /// The owner of what a caller opens now.
    pub(crate) fn owner(&self, caller: Caller, identity: &Identity, detached: bool) -> Result<Owner, Refusal> {
        let missing = || Refusal::Internal(format!("identity `{}` has no row", identity.name));
        Ok(Owner {
            principal: *self.principals.get(&identity.name).ok_or_else(missing)?,
            identity: identity.name.clone(),
            uid: caller.uid,
            process: caller.pid.filter(|_| !detached).and_then(crate::process::find),
        })
    }

    /// Rows for the identities of `rules`, new ones where they have none, and the new ones.
    pub(crate) fn principals_for(&self, rules: &Rules) -> Result<(Principals, Vec<(u32, String)>), Refusal> {
        let mut principals = self.principals.clone();
        let mut new = Vec::new();
        for identity in &rules.identities {
            let next = u32::try_from(principals.len()).unwrap_or(u32::MAX);
            if principals.contains_key(&identity.name) {
                continue;
            }
            if next >= PRINCIPALS_MAX {
                let text =
                    format!("more than {PRINCIPALS_MAX} identities since the registry was made; use old names again");
                return Err(Refusal::Exhausted(text));
            }
            principals.insert(identity.name.clone(), next);
            new.push((next, identity.name.clone()));
        }
        Ok((principals, new))
    }

    /// The connected node.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn node(&self) -> Result<&Link, Refusal> {
        let text = || format!("tachyond is not connected: {}; start it and try again", self.link_problem);
        self.link.as_ref().ok_or_else(|| Refusal::Unavailable(text()))
    }

    /// Asks `tachyond`, again while it is busy. A lost connection is noted.
    pub(crate) fn call(&mut self, request: &Request) -> Result<(), Refusal> {
        self.ask(|end| end.call(request))
    }

    /// Asks `tachyond` something that has an answer, again while it is busy. A lost connection is noted.
    pub(crate) fn ask<T>(&mut self, question: impl Fn(&mut ControlEnd) -> Result<T, CallError>) -> Result<T, Refusal> {
        self.ask_for(BUSY_PATIENCE, question)
    }

    /// The same, as long as a caller has patience: everybody else waits for it.
    pub(crate) fn ask_for<T>(
        &mut self,
        patience: Duration,
        question: impl Fn(&mut ControlEnd) -> Result<T, CallError>,
    ) -> Result<T, Refusal> {
        self.node()?;
        let end = Instant::now() + patience;
        loop {
            let Some(link) = &mut self.link else { return Err(self.node().err().unwrap_or_else(lost)) };
            match question(&mut link.end) {
                Ok(answer) => return Ok(answer),
                Err(CallError::Busy(_)) if Instant::now() < end => thread::sleep(Duration::from_millis(1)),
                Err(error) => {
                    if let CallError::Lost(cause) = &error {
                        self.lose(&cause.to_string());
                    }
                    return Err(error.into());
                }
            }
        }
    }

    /// Whether the connection still stands; notes it if not.
    pub(crate) fn look_after_link(&mut self) -> bool {
        let Some(link) = &self.link else { return false };
        // Nothing comes unasked, so anything that can be read is the end of the connection.
        let mut fds = [PollFd::new(&link.end, PollFlags::IN | PollFlags::RDHUP)];
        let ready = poll(&mut fds, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }));
        if ready == Ok(0) {
            return true;
        }
        self.lose("tachyond closed the connection");
        false
    }

    /// Gives the connection up.
    pub(crate) fn lose(&mut self, why: &str) {
        self.lanes_seen = None;
        if self.link.take().is_some() {
            warn!("lost tachyond: {why}");
        }
        self.link_problem = why.to_owned();
    }

    /// Says why there is no connection.
    pub(crate) fn set_link_problem(&mut self, problem: String) {
        self.link_problem = problem;
    }

    /// Lowest epoch of this start of the node, in both directions.
    pub(crate) fn epoch_floor(&self) -> Result<u32, Refusal> {
        Ok(u32::from(self.node()?.hello.boot_number) << 16)
    }

    /// Ends what processes that have ended had opened, and once more what `tachyond` was too busy to end.
    ///
    /// # Errors
    /// The registry cannot be written.
    pub(crate) fn reap(&mut self) -> Result<(), Refusal> {
        let gone = |owner: &Owner| owner.process.is_some_and(|process| !crate::process::runs(process));
        let sessions: Vec<u32> =
            self.sessions.values().filter(|s| !s.ending && gone(&s.owner)).map(|s| s.session_id).collect();
        let subscribers: Vec<u32> =
            self.subscribers.values().filter(|s| !s.ending && gone(&s.owner)).map(|s| s.slot).collect();
        if !sessions.is_empty() || !subscribers.is_empty() {
            info!("ending {} sessions and {} subscriptions of ended processes", sessions.len(), subscribers.len());
        }
        self.end_sessions(&sessions)?;
        self.end_subscribers(&subscribers)?;
        while self.link.is_some()
            && let Some(session) =
                self.sessions.values().find(|session| session.ending).map(|session| session.session_id)
        {
            self.end_sessions(&[session])?;
            if self.sessions.contains_key(&session) {
                break; // it is still busy, and everybody waits here
            }
        }
        Ok(())
    }

    pub(crate) fn commit_rules(&mut self, text: &RulesText, new_principals: &[(u32, String)]) -> Result<(), Refusal> {
        let rows = new_principals.iter().map(|(row, name)| Change::Principal(*row, name));
        let changes: Vec<Change<'_>> = rows.chain([Change::Rules(text)]).collect();
        Ok(self.registry.commit(&changes)?)
    }
}

fn lost() -> Refusal {
    Refusal::Unavailable("the connection to tachyond is lost; try again".to_owned())
}
