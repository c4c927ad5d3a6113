//! RDMA lanes: who may agree on one, what is asked of `tachyond` for it, and how each one is.
//!
//! Control carries what both ends tell each other and keeps none of it. What it keeps is what the node calls each peer, so
//! that a lane ends with whatever it was agreed on for.

use crate::{
    record::{Agreed, Lanes, Owner, Way, address, endpoint},
    refusal::Refusal,
    registry::Change,
    state::{Caller, State},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};
use tachyon_segment::handover::{
    ControlEnd, LANE_DETAILS_BYTES, LaneAnswer, LaneKind, LaneRequest, LaneState, LaneStatus, Request,
};
use tachyon_wire::Endpoint;
use tracing::info;

/// How the node's list of drivers names the one that has lanes.
const RDMA: &str = "rdma";
/// What its ports may call their driver: the same, or what it is made with.
const RDMA_PORTS: [&str; 2] = [RDMA, "verbs"];
/// Bytes of a line; frames are whole lines.
const LINE: u32 = 64;
/// How long one look at the node's lanes serves everybody who asks. Peers ask ten times a second each, and the node is asked
/// for one lane at a time.
const LOOK_SERVES: Duration = Duration::from_millis(50);

/// Whose lane it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Holder {
    /// A publisher's session, by id.
    Session(u32),
    /// A subscriber, by slot.
    Subscriber(u32),
}

impl Holder {
    fn name(self) -> String {
        match self {
            Self::Session(id) => format!("session {id}"),
            Self::Subscriber(slot) => format!("subscriber {slot}"),
        }
    }
}

/// How one lane is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    /// Whose it is; `None`: nobody's whom control knows.
    pub(crate) holder: Option<Holder>,
    /// The worker.
    pub(crate) worker: u16,
    /// What the node calls the peer.
    pub(crate) to: SocketAddr,
    /// How frames go.
    pub(crate) way: Way,
    /// `connected`, `waiting`, `ending` or `failed`.
    pub(crate) state: &'static str,
    /// What the last failure was.
    pub(crate) why: String,
    /// Tries to bring it back.
    pub(crate) attempts: u32,
    /// Its frames go by UDP now.
    pub(crate) fell_back: bool,
}

/// The node's lanes at one moment, by worker and peer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen(BTreeMap<(u16, SocketAddr), LaneStatus>);

impl Seen {
    /// What carries copies to a subscriber, over all workers.
    pub(crate) fn carrier(&self, lanes: &Lanes, at: SocketAddr, workers: u16) -> &'static str {
        if lanes.way == Way::Udp {
            return carrier_name(Way::Udp);
        }
        let of = |worker| match self.0.get(&(worker, at)) {
            Some(lane) if lane.fell_back => "udp (fell back)",
            Some(lane) => carrier_name(way(lane.kind)),
            None => carrier_name(lanes.way),
        };
        let names: BTreeSet<&str> = (0..workers).map(of).collect();
        match names.first() {
            Some(name) if names.len() == 1 => name,
            _ => "mixed",
        }
    }
}

/// A session or subscriber, as far as its lanes are concerned.
struct Held {
    holder: Holder,
    owner: Owner,
    lanes: Lanes,
    /// Where copies of shard 0 go; `None`: it publishes.
    at: Option<SocketAddr>,
    /// Where a publisher's frames come from, and so its acks go; port 0 is any.
    pinned: Option<(IpAddr, u16)>,
    /// Its end is on its way to the node, and until it is there its lanes stay.
    ending: bool,
}

impl Held {
    /// How many ports its lane leads to: a subscriber has one for each shard.
    fn ports(&self, shard_count: u16) -> u32 {
        if self.at.is_some() { shard_count.into() } else { 1 }
    }
}

impl State {
    /// Whether the node can carry frames like this.
    ///
    /// # Errors
    /// It cannot, or there is no node.
    pub(crate) fn check_way(&self, way: Way, falls_back: bool) -> Result<(), Refusal> {
        let drivers = &self.node()?.hello.driver;
        let mut behind = drivers.split(", ").skip_while(|driver| *driver != RDMA);
        let has_rdma = behind.next().is_some();
        let text = match way {
            Way::Udp if falls_back => "only RDMA lanes fall back to UDP, and this one is UDP; leave fall_back out",
            Way::Udp => return Ok(()),
            _ if !has_rdma => {
                "the node has no driver for RDMA lanes; add \"rdma\" to the drivers of its node file, or use UDP"
            }
            _ if falls_back && behind.next().is_none() => {
                "the node has no driver behind \"rdma\" to fall back to; add one in its node file, or leave fall_back out"
            }
            _ => return Ok(()),
        };
        Err(Refusal::Precondition(format!("{text} (its drivers: {drivers})")))
    }

    /// Largest frame in bytes: the node's, and on RDMA lanes what a packet holds, if the port tells it.
    ///
    /// # Errors
    /// There is no node.
    pub(crate) fn frame_bytes_max(&mut self, way: Way) -> Result<u32, Refusal> {
        let most = self.node()?.hello.frame_bytes_max;
        if way == Way::Udp {
            return Ok(most);
        }
        let ports = match self.ports() {
            Ok(ports) => ports,
            Err(Refusal::Precondition(_)) => return Ok(most),
            Err(refusal) => return Err(refusal),
        };
        let of_rdma = ports.iter().filter(|port| RDMA_PORTS.contains(&port.driver.as_str()));
        let packet = of_rdma.filter_map(|port| port.mtu).map(|bytes| bytes / LINE * LINE).min();
        Ok(packet.map_or(most, |packet| packet.min(most)))
    }

    /// Agrees on a lane between a worker and what the caller opened; gives the worker's part and the number of workers.
    ///
    /// # Errors
    /// It is not the caller's, was not opened for RDMA, another's lane is in the way, or the node says why it cannot.
    pub(crate) fn connect_lane(
        &mut self,
        caller: Caller,
        holder: Holder,
        worker: u32,
        details: &[u8],
    ) -> Result<([u8; LANE_DETAILS_BYTES], u16), Refusal> {
        let held = self.held_by(caller, holder)?;
        if held.lanes.way == Way::Udp {
            let name = holder.name();
            let text = format!("{name} was opened for UDP, which needs no lane; open it anew with an RDMA lane");
            return Err(Refusal::Precondition(text));
        }
        let hello = self.node()?.hello.clone();
        let wrong_length = |_| {
            let text = format!("a lane's details have {LANE_DETAILS_BYTES} bytes, not {}", details.len());
            Refusal::Invalid(format!("{text}; send them as the lane's driver makes them"))
        };
        let details: [u8; LANE_DETAILS_BYTES] = details.try_into().map_err(wrong_length)?;
        let no_worker = format!("there is no worker {worker}: the node has {}, from 0", hello.workers);
        let worker = u16::try_from(worker).ok().filter(|worker| *worker < hello.workers);
        let worker = worker.ok_or(Refusal::Invalid(no_worker))?;
        let falls_back = held.lanes.falls_back;
        let mut request = LaneRequest { worker, to: Endpoint::NONE, ports: 1, falls_back, details };
        self.lanes_seen = None;
        // A lane that is being taken down may take long, and whoever offers can ask again without holding up all others.
        let ask = |state: &mut Self, request| state.ask_for(Duration::ZERO, |end| end.connect_lane(request));
        match held.at {
            Some(at) => (request.to, request.ports) = (endpoint(at.ip(), at.port()), hello.shard_count),
            // Where a publisher is, only its details say, and only the node can read them.
            None => request.to = ask(self, request)?.to,
        }
        check_pin(&held, address(request.to))?;
        self.check_free(&held, worker, address(request.to))?;
        let LaneAnswer { to, details } = ask(self, request)?;
        let agreed = Agreed { to: address(to), boot_id: hello.boot_id };
        if let Err(refusal) = self.keep_lane(&held, worker, agreed) {
            // A lane that nobody knows of would never end.
            let _ = self.call(&Request::DropLane(worker, to));
            return Err(refusal);
        }
        info!(worker, uid = caller.uid, "agreed on a lane of {} with {}", holder.name(), agreed.to);
        Ok((details, hello.workers))
    }

    /// What the caller opened and may therefore end.
    fn held_by(&self, caller: Caller, holder: Holder) -> Result<Held, Refusal> {
        let found = self.all_held().find(|held| held.holder == holder && !held.ending);
        let missing = || Refusal::NotFound(format!("no {}; it may have ended already", holder.name()));
        let held = found.ok_or_else(missing)?;
        if self.may_end(caller, &held.owner) {
            return Ok(held);
        }
        Err(Refusal::Denied(format!("{} belongs to another user", holder.name())))
    }

    fn all_held(&self) -> impl Iterator<Item = Held> + '_ {
        let sessions = self.sessions.values().map(|session| Held {
            holder: Holder::Session(session.session_id),
            owner: session.owner.clone(),
            lanes: session.lanes.clone(),
            at: None,
            pinned: session.pinned,
            ending: session.ending,
        });
        sessions.chain(self.subscribers.values().map(|subscriber| Held {
            holder: Holder::Subscriber(subscriber.slot),
            owner: subscriber.owner.clone(),
            lanes: subscriber.lanes.clone(),
            at: Some(subscriber.at()),
            pinned: None,
            ending: subscriber.ending,
        }))
    }

    /// Whether none of these names is another user's: an offer would end that user's lane, and a lane takes every frame for its
    /// names, also of those who get theirs by UDP, acks of publishers among them.
    fn check_free(&self, held: &Held, worker: u16, to: SocketAddr) -> Result<(), Refusal> {
        let hello = &self.node()?.hello;
        let (boot_id, shard_count) = (hello.boot_id, hello.shard_count);
        let leads_there = |other: &Held| {
            let agreed = other.lanes.agreed.get(&worker).filter(|agreed| agreed.boot_id == boot_id);
            let names = [other.at, agreed.map(|agreed| agreed.to)].into_iter().flatten();
            let mut names = names.map(|name| (name, other.ports(shard_count))).chain(other.pinned.map(pinned_names));
            names.any(|names| overlap(names, (to, held.ports(shard_count))))
        };
        let mut others = self.all_held().filter(|other| other.owner.uid != held.owner.uid);
        if others.any(|other| leads_there(&other)) {
            let text = format!("frames of another user go to {to} or a port behind it");
            return Err(Refusal::Denied(format!("{text}; use another address or port")));
        }
        Ok(())
    }

    /// Whether no other user's lane takes the frames for a subscriber's names, by any worker.
    ///
    /// # Errors
    /// One does, or there is no node.
    pub(crate) fn check_no_lane(&self, uid: u32, at: SocketAddr) -> Result<(), Refusal> {
        let shard_count = self.node()?.hello.shard_count;
        self.check_no_lane_to(uid, (at, shard_count.into()))
    }

    /// Whether no other user's lane takes the acks of a publisher that is pinned to this address and port.
    ///
    /// # Errors
    /// One does, or there is no node.
    pub(crate) fn check_no_lane_to_pin(&self, uid: u32, pinned: Option<(IpAddr, u16)>) -> Result<(), Refusal> {
        pinned.map_or(Ok(()), |pinned| self.check_no_lane_to(uid, pinned_names(pinned)))
    }

    fn check_no_lane_to(&self, uid: u32, names: Names) -> Result<(), Refusal> {
        let hello = &self.node()?.hello;
        let takes_them = |other: &Held| {
            let ports = other.ports(hello.shard_count);
            let mut agreed = other.lanes.agreed.values().filter(|agreed| agreed.boot_id == hello.boot_id);
            agreed.any(|agreed| overlap((agreed.to, ports), names))
        };
        if self.all_held().any(|other| other.owner.uid != uid && takes_them(&other)) {
            let text = format!("an RDMA lane of another user leads to {} or a port behind it", names.0);
            return Err(Refusal::Denied(format!("{text}; use another address or port")));
        }
        Ok(())
    }

    /// Remembers a lane, and that whoever had it before has it no more; ends the one that it replaces.
    fn keep_lane(&mut self, held: &Held, worker: u16, agreed: Agreed) -> Result<(), Refusal> {
        let mut changed = vec![(held.holder, Some(agreed))];
        let before = held.lanes.agreed.get(&worker).filter(|before| before.to != agreed.to).copied();
        let same = |other: &Held| other.holder != held.holder && other.lanes.agreed.get(&worker) == Some(&agreed);
        changed.extend(self.all_held().filter(same).map(|other| (other.holder, None)));
        for (holder, lane) in changed {
            let lanes = match holder {
                Holder::Session(id) => self.sessions.get_mut(&id).map(|session| &mut session.lanes),
                Holder::Subscriber(slot) => self.subscribers.get_mut(&slot).map(|subscriber| &mut subscriber.lanes),
            };
            let Some(lanes) = lanes else { continue };
            match lane {
                Some(lane) => lanes.agreed.insert(worker, lane),
                None => lanes.agreed.remove(&worker),
            };
            let change = match holder {
                Holder::Session(id) => self.sessions.get(&id).map(Change::Session),
                Holder::Subscriber(slot) => self.subscribers.get(&slot).map(Change::Subscriber),
            };
            self.registry.commit(change.as_slice())?;
        }
        before.map_or(Ok(()), |before| self.drop_agreed(worker, before))
    }

    /// Ends lanes at the node. Those that it does not have are ended already.
    pub(crate) fn drop_lanes(&mut self, lanes: &Lanes) -> Result<(), Refusal> {
        lanes.agreed.iter().try_for_each(|(worker, agreed)| self.drop_agreed(*worker, *agreed))
    }

    fn drop_agreed(&mut self, worker: u16, agreed: Agreed) -> Result<(), Refusal> {
        // A later start has no lane of an earlier one, and by now perhaps another's of that name.
        if self.node()?.hello.boot_id != agreed.boot_id {
            return Ok(());
        }
        self.lanes_seen = None;
        match self.call(&Request::DropLane(worker, endpoint(agreed.to.ip(), agreed.to.port()))) {
            Ok(()) | Err(Refusal::Precondition(_)) => Ok(()),
            Err(refusal) => Err(refusal),
        }
    }

    /// Ends lanes that the node has and nobody here: the answer to an offer was lost, or control ended before it could keep it.
    ///
    /// # Errors
    /// The node went away.
    pub(crate) fn drop_strangers(&mut self) -> Result<(), Refusal> {
        let hello = self.node()?.hello.clone();
        if !hello.driver.split(", ").any(|driver| driver == RDMA) {
            return Ok(());
        }
        let held: Vec<Held> = self.all_held().collect();
        for lane in self.ask(ControlEnd::lanes)? {
            let agreed = Agreed { to: address(lane.to), boot_id: hello.boot_id };
            if !held.iter().any(|held| held.lanes.agreed.get(&lane.worker) == Some(&agreed)) {
                self.drop_agreed(lane.worker, agreed)?;
            }
        }
        Ok(())
    }

    /// The node's lanes now, or a moment ago.
    ///
    /// # Errors
    /// There is no node, or it went away.
    pub(crate) fn look_at_lanes(&mut self, now: Instant) -> Result<Arc<Seen>, Refusal> {
        if !self.node()?.hello.driver.split(", ").any(|driver| driver == RDMA) {
            return Ok(Arc::default());
        }
        if let Some((at, seen)) = &self.lanes_seen
            && now.saturating_duration_since(*at) < LOOK_SERVES
        {
            return Ok(seen.clone());
        }
        let lanes = self.ask(ControlEnd::lanes)?;
        let seen = lanes.into_iter().map(|lane| ((lane.worker, address(lane.to)), lane)).collect();
        let seen = Arc::new(Seen(seen));
        self.lanes_seen = Some((now, seen.clone()));
        Ok(seen)
    }

    /// How lanes are: of one that the caller opened, or of all that it may see.
    ///
    /// # Errors
    /// There is no such session or subscriber, it is not the caller's, or there is no node.
    pub(crate) fn lanes(&mut self, caller: Caller, of: Option<Holder>, now: Instant) -> Result<Vec<Told>, Refusal> {
        let held: Vec<Held> = match of {
            Some(holder) => vec![self.held_by(caller, holder)?],
            None => self.all_held().filter(|held| !held.ending && self.may_end(caller, &held.owner)).collect(),
        };
        let seen = self.look_at_lanes(now)?;
        let boot_id = self.node()?.hello.boot_id;
        let mut left = seen.0.clone();
        let mut lanes = Vec::new();
        for Held { holder, lanes: theirs, .. } in held {
            for (worker, agreed) in &theirs.agreed {
                let found = left.remove(&(*worker, agreed.to)).filter(|_| agreed.boot_id == boot_id);
                lanes.push(match found {
                    Some(lane) => told(Some(holder), &lane),
                    None => missing(holder, *worker, theirs.way, agreed, boot_id),
                });
            }
        }
        if of.is_none() && self.is_admin(caller) {
            lanes.extend(left.values().map(|lane| told(None, lane)));
        }
        lanes.sort_by_key(|lane| lane.worker);
        Ok(lanes)
    }
}

fn told(holder: Option<Holder>, lane: &LaneStatus) -> Told {
    let state = match lane.state {
        LaneState::Connected => "connected",
        LaneState::Waiting => "waiting",
        LaneState::Ending => "ending",
        LaneState::Failed => "failed",
    };
    let LaneStatus { worker, attempts, fell_back, .. } = *lane;
    let (to, way, why) = (address(lane.to), way(lane.kind), lane.why.clone());
    Told { holder, worker, to, way, state, why, attempts, fell_back }
}

/// A lane that was agreed on and that the node does not have.
fn missing(holder: Holder, worker: u16, way: Way, agreed: &Agreed, boot_id: [u8; 16]) -> Told {
    let why = if agreed.boot_id == boot_id {
        "the node does not have it any more; offer it again"
    } else {
        "the node started again; offer it again"
    };
    let (state, why) = ("waiting", why.to_owned());
    Told { holder: Some(holder), worker, to: agreed.to, way, state, why, attempts: 0, fell_back: false }
}

/// An address with the first of a row of ports, and how many they are.
type Names = (SocketAddr, u32);

/// Where the acks of a publisher go that is pinned to this: to the one port, or to whichever it sends from.
fn pinned_names((ip, port): (IpAddr, u16)) -> Names {
    (SocketAddr::new(ip, port), if port == 0 { 1 << 16 } else { 1 })
}

/// Whether two rows of ports share one. An IPv4 address and the same one IPv4-mapped are one name at the node.
fn overlap((one, ones): Names, (other, others): Names) -> bool {
    let [first, second] = [one, other].map(|at| u32::from(at.port()));
    one.ip().to_canonical() == other.ip().to_canonical() && first < second + others && second < first + ones
}

/// A publisher's lane leads to where its session is pinned: acks go there and frames come from nowhere else, so any other place is
/// somebody else's.
fn check_pin(held: &Held, to: SocketAddr) -> Result<(), Refusal> {
    match held.pinned {
        Some((ip, _)) if ip.to_canonical() != to.ip().to_canonical() => {
            let text = format!("{} is pinned to {ip}, and this lane leads to {}", held.holder.name(), to.ip());
            Err(Refusal::Denied(format!("{text}; offer one from there, or open the session anew with that address")))
        }
        _ => Ok(()),
    }
}

const fn way(kind: LaneKind) -> Way {
    match kind {
        LaneKind::Datagrams => Way::Datagram,
        LaneKind::Connection => Way::Connection,
        LaneKind::Ring => Way::Ring,
    }
}

const fn carrier_name(way: Way) -> &'static str {
    match way {
        Way::Udp => "udp",
        Way::Datagram => "rdma_datagram",
        Way::Connection => "rdma_connection",
        Way::Ring => "rdma_ring",
    }
}
