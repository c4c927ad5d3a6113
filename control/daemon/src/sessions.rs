//! Publishers' sessions: opened under the rules, ended by their owner, by the rules, or with their process.

use crate::{
    log::Restored,
    record::{Key, Lanes, Session, Way},
    refusal::Refusal,
    registry::Change,
    ruleset::InForce,
    state::{Caller, State},
};
use std::net::{IpAddr, SocketAddr};
use tachyon_config::TagDemand;
use tachyon_segment::handover::Request;
use tachyon_wire::command::{OpenSession, SESSION_RESTORING};
use tracing::{info, warn};

/// What a publisher asks for, beside its identity.
#[derive(Clone, Debug)]
pub(crate) struct SessionWish {
    /// Frames will carry tags.
    pub(crate) tags: bool,
    /// Where frames will come from, as text; empty = anywhere.
    pub(crate) pinned: String,
    /// Stays when its process ends.
    pub(crate) detached: bool,
    /// What will carry the frames.
    pub(crate) way: Way,
}

impl State {
    /// Opens a session. `tachyond` has it before the registry has: if this process dies in between, nobody was told its
    /// number or key, and its slot is given out anew.
    ///
    /// # Errors
    /// It is not granted, there is no room, or `tachyond` is not there.
    pub(crate) fn open_session(
        &mut self,
        caller: Caller,
        identity: &str,
        wish: &SessionWish,
    ) -> Result<Session, Refusal> {
        let rules = self.rules()?;
        let identity = self.claim(caller, &rules, identity)?;
        let Some((sender_low, sender_high)) = identity.senders else {
            let text = format!("identity `{}` has no sender ids, so it cannot publish; add `senders`", identity.name);
            return Err(Refusal::Precondition(text));
        };
        if !wish.tags && identity.tags == TagDemand::Required {
            let name = &identity.name;
            let text =
                format!("identity `{name}` must use tags; open the session with tags, or set tags = \"optional\"");
            return Err(Refusal::Denied(text));
        }
        let pinned = parse_pin(&wish.pinned)?;
        self.check_way(wish.way, false)?;
        self.check_no_lane_to_pin(caller.uid, pinned)?;
        let theirs = self.sessions.values().filter(|session| session.owner.identity == identity.name).count();
        if theirs >= self.config.sessions_per_identity as usize {
            let text = format!("identity `{}` has {theirs} sessions, the most there may be; close some", identity.name);
            return Err(Refusal::Exhausted(text));
        }
        let epoch_floor = self.epoch_floor()?;
        let owner = self.owner(caller, identity, wish.detached)?;
        let full = || {
            Refusal::Exhausted(
                "all session slots of the node are in use; raise sessions_max in the node file".to_owned(),
            )
        };
        let (session_id, reply_session_id, slot, generation) =
            self.ids.as_mut().and_then(crate::session_ids::SessionIds::take).ok_or_else(full)?;
        let session = Session {
            session_id,
            reply_session_id,
            owner,
            sender_low,
            sender_high,
            class_cap: identity.class_cap,
            system: identity.system,
            tag_required: wish.tags,
            pinned,
            master: Key::random(),
            reply_master: Key::random(),
            lanes: Lanes { way: wish.way, ..Lanes::default() },
            ending: false,
        };
        let told = self.call(&Request::OpenSession(Box::new(session.command(epoch_floor))));
        let changes = [Change::Session(&session), Change::Generation(slot, generation)];
        if let Err(refusal) = told.and_then(|()| Ok(self.registry.commit(&changes)?)) {
            self.ids.iter_mut().for_each(|ids| ids.give_back(session_id, generation));
            return Err(refusal);
        }
        self.generations.insert(slot, generation);
        self.sessions.insert(session_id, session.clone());
        info!(session = session_id, identity = session.owner.identity, uid = caller.uid, "opened a session");
        Ok(session)
    }

    /// Ends a session that the caller may end.
    ///
    /// # Errors
    /// No such session, not the caller's, or the registry cannot be written.
    pub(crate) fn close_session(&mut self, caller: Caller, session_id: u32) -> Result<(), Refusal> {
        let session = self.sessions.get(&session_id).filter(|session| !session.ending);
        let missing = || Refusal::NotFound(format!("no session {session_id}; it may have ended already"));
        if !self.may_end(caller, &session.ok_or_else(missing)?.owner) {
            return Err(Refusal::Denied(format!("session {session_id} belongs to another user")));
        }
        self.end_sessions(&[session_id])
    }

    /// Ends sessions at the node and then in the registry. Where the node is not there, they are ended when it comes back.
    pub(crate) fn end_sessions(&mut self, session_ids: &[u32]) -> Result<(), Refusal> {
        for session_id in session_ids {
            let lanes = self.sessions.get(session_id).map(|session| session.lanes.clone()).unwrap_or_default();
            // The lane goes first: while the session is there, its end can be tried again.
            match self.drop_lanes(&lanes).and_then(|()| self.call(&Request::CloseSession(*session_id))) {
                // A node that does not know it any more has ended it, too.
                Ok(()) | Err(Refusal::Precondition(_)) => self.forget_session(*session_id)?,
                Err(_) => {
                    if let Some(session) = self.sessions.get_mut(session_id) {
                        session.ending = true;
                        self.registry.commit(&[Change::Session(session)])?;
                    }
                }
            }
        }
        Ok(())
    }

    pub(crate) fn forget_session(&mut self, session_id: u32) -> Result<(), Refusal> {
        self.registry.commit(&[Change::SessionGone(session_id)])?;
        self.sessions.remove(&session_id);
        if let Some(ids) = &mut self.ids {
            let generation = self.generations.get(&ids.slot(session_id)).copied().unwrap_or(0);
            ids.give_back(session_id, generation);
        }
        info!(session = session_id, "ended a session");
        Ok(())
    }

    /// Sessions that these rules do not grant as they were opened: they carry their terms with them, so they must end.
    pub(crate) fn sessions_beyond(&self, rules: &InForce) -> Vec<u32> {
        let beyond = |session: &&Session| {
            let Some(identity) = rules.identity(&session.owner.identity) else { return true };
            let (low, high) = identity.senders.unwrap_or((u32::MAX, 0));
            session.sender_low < low
                || session.sender_high > high
                || session.class_cap < identity.class_cap
                || (session.system && !identity.system)
                || (!session.tag_required && identity.tags == TagDemand::Required)
                || !self.may_claim(session.owner.uid, identity)
        };
        self.sessions.values().filter(|session| !session.ending).filter(beyond).map(|s| s.session_id).collect()
    }

    /// Tells a node that starts anew of every session: with its windows, as far as the log has them, and else under its new epochs. They
    /// stay closed until [`State::reopen_sessions`].
    pub(crate) fn resend_sessions(&mut self, restored: &Restored) -> Result<(), Refusal> {
        let epoch_floor = self.epoch_floor()?;
        let sessions: Vec<Session> = self.sessions.values().cloned().collect();
        for session in sessions {
            if session.ending {
                self.forget_session(session.session_id)?; // the new start never had it
                continue;
            }
            let mut open = session.command(epoch_floor);
            open.flags |= SESSION_RESTORING;
            let mut parts = restored.windows.get(&session.session_id).into_iter().flatten();
            let told = self.call(&Request::OpenSession(Box::new(open)));
            match told.and_then(|()| parts.try_for_each(|part| self.call(&Request::Restore(Box::new(*part))))) {
                Ok(()) => {}
                Err(Refusal::Precondition(text)) => {
                    warn!(session = session.session_id, "not taken over: {text}");
                    self.forget_session(session.session_id)?;
                }
                Err(refusal) => return Err(refusal),
            }
        }
        Ok(())
    }
}

impl State {
    /// Opens all sessions, as they are now. Those whose windows were told go on under the epochs of these, whatever is the lowest.
    pub(crate) fn reopen_sessions(&mut self, restored: &Restored) -> Result<(), Refusal> {
        let epoch_floor = self.epoch_floor()?;
        let floor = |session_id| if restored.windows.contains_key(session_id) { 0 } else { epoch_floor };
        let opens: Vec<OpenSession> = self.sessions.iter().map(|(id, session)| session.command(floor(id))).collect();
        opens.into_iter().try_for_each(|open| self.call(&Request::OpenSession(Box::new(open))))
    }
}

fn parse_pin(text: &str) -> Result<Option<(IpAddr, u16)>, Refusal> {
    if text.is_empty() {
        return Ok(None);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Ok(Some((ip, 0)));
    }
    let wrong =
        || Refusal::Invalid(format!("`{text}` is no address; write an IP, and a port if wanted: 10.0.0.7:9000"));
    let address: SocketAddr = text.parse().map_err(|_| wrong())?;
    Ok(Some((address.ip(), address.port())))
}
