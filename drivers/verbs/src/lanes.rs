//! The cold side as a node sees it: one port, and lanes that its peers agree on through whoever carries their details.
//!
//! Here the peer is always the one that offers, also after a failure: a lane that waits is to be offered anew. So the
//! errands that [`VerbsPorts::errands`] has for those who connect by themselves are not kept.

use crate::{
    connection::{Connection, Stage, Told},
    details::{DETAILS_BYTES, Details},
    device::{Fabric, Way},
    names::key,
    ports::{VerbsPorts, name},
};
use std::net::IpAddr;
use tachyon_driver_api::{
    LANE_DETAILS_BYTES, LaneAnswer, LaneKind, LaneReport, LaneRequest, LaneState, Lanes, NoLane, PortError, PortReport,
    PortState, Ports, Said,
};
use tachyon_wire::Endpoint;

/// What the port is called: a node has one, and no file names it.
const NAME: &str = "rdma";
const _: () = assert!(DETAILS_BYTES == LANE_DETAILS_BYTES, "both ends carry the same bytes");

/// What people were told, and what they are to be told next.
#[derive(Debug)]
pub(crate) struct Telling {
    said: Vec<Said>,
    /// Notes of the device that were told.
    notes: usize,
    up: bool,
    lost: bool,
}

impl Telling {
    pub(crate) const fn new(up: bool) -> Self {
        Self { said: Vec::new(), notes: 0, up, lost: false }
    }

    fn say(&mut self, is_error: bool, text: String) {
        self.said.push(Said { is_error, text });
    }
}

impl Stage {
    const fn lane_state(self) -> LaneState {
        match self {
            Self::Connected => LaneState::Connected,
            Self::Draining { .. } | Self::Clearing => LaneState::Ending,
            Self::Fresh | Self::Offered { .. } | Self::Waiting { .. } => LaneState::Waiting,
            Self::Failed => LaneState::Failed,
        }
    }
}

impl<F: Fabric> Connection<F> {
    /// What people are told of it now; texts are made only where there is news.
    fn news(&mut self, what: impl Fn() -> String, end: &str) -> Option<Said> {
        let (told, is_error, how) = match (self.stage, self.told) {
            (_, _) if self.closing => return None,
            (Stage::Failed, Told::Nothing | Told::Failed | Told::Back) => {
                (Told::GivenUp, true, format!("was given up: {}; {end}", self.why))
            }
            (Stage::Draining { .. } | Stage::Clearing | Stage::Waiting { .. }, Told::Nothing | Told::Back) => {
                (Told::Failed, true, format!("failed: {}", self.why))
            }
            (Stage::Connected, Told::Failed | Told::GivenUp) => (Told::Back, false, "is back".to_owned()),
            _ => return None,
        };
        self.told = told;
        Some(Said { is_error, text: format!("{} {how}", what()) })
    }
}

impl<F: Fabric> VerbsPorts<F> {
    /// Whether its device is software, whose doorbell is a system call.
    #[must_use]
    pub const fn is_soft(&self) -> bool {
        self.info.soft
    }

    /// Makes room for an agreement with a peer that may have one.
    fn make_room(&mut self, worker: u16, to: Endpoint) -> Result<(), NoLane> {
        let standing = self.own_desk(worker)?.connections.iter_mut().find(|one| one.to == to);
        let Some(connection) = standing else { return Ok(()) };
        if connection.stage == Stage::Failed {
            connection.attempts = 0; // whoever offers is there again
        }
        if connection.stage.is_at_rest() {
            return Ok(());
        }
        self.take_down(worker, to, "the peer offers it anew");
        Err(NoLane::Later(format!("the lane to {} is being taken down, offer again in a moment", name(&to))))
    }

    fn agree(&mut self, worker: u16, to: Endpoint, theirs: &Details) -> Result<Details, NoLane> {
        if self.fabric.find_way(&theirs.gid())? == Way::Sought {
            let at = name(&theirs.endpoint());
            return Err(NoLane::Later(format!("the way to {at} is being looked for, offer again in a moment")));
        }
        if matches!(theirs, Details::Datagrams { .. }) {
            self.reach(worker, to, theirs)?;
            self.end_connection(worker, to); // datagrams need none
            return Ok(self.datagrams(worker)?);
        }
        self.make_room(worker, to)?;
        let agreed = self.accept(worker, to, theirs, None);
        if let Err(PortError(why)) = &agreed {
            self.take_back(worker, to, why);
        }
        Ok(agreed?)
    }

    /// What was begun for an agreement that did not come about: a queue pair that is half on its way cannot be used again
    /// before it was reset. Its lane stays, so its frames have nowhere else to go meanwhile.
    fn take_back(&mut self, worker: u16, to: Endpoint, why: &str) {
        self.take_down(worker, to, why);
        let desk = &mut self.desks[usize::from(worker)];
        let by_datagrams = desk.peers.get(&key(&to)).is_some_and(|peer| peer.lane.is_some() && peer.is_datagram);
        let Some(connection) = desk.connections.iter_mut().find(|one| one.to == to) else { return };
        if matches!(connection.stage, Stage::Offered { .. }) {
            why.clone_into(&mut connection.why);
            connection.stage = Stage::Draining { until_ns: 0 }; // no worker has it
        }
        connection.closing |= by_datagrams;
    }

    /// Collects what changed since the last time.
    fn notice(&mut self) {
        let Self { desks, telling, notes, config, info, .. } = self;
        for note in &notes[telling.notes.min(notes.len())..] {
            telling.said.push(Said { is_error: false, text: format!("{}: {note}", info.device) });
        }
        telling.notes = notes.len();
        if core::mem::replace(&mut telling.lost, self.lost) != self.lost {
            telling.say(true, format!("{} is lost: look at the machine's log, and start the node again", info.device));
        }
        if core::mem::replace(&mut telling.up, self.up) != self.up {
            let text = if self.up { "its link is up" } else { "its link is down" };
            telling.say(!self.up, format!("{}: {text}", info.device));
        }
        for (worker, desk) in (0..config.workers).zip(desks) {
            let what = || format!("the queue pair for datagrams of worker {worker}");
            let end = "lanes that may fall back do, the others' frames end as E_TX_QP_RESET";
            telling.said.extend(desk.datagrams.news(what, end));
            for connection in &mut desk.connections {
                let falls_back = desk.peers.get(&key(&connection.to)).is_some_and(|peer| peer.falls_back);
                let end = if falls_back {
                    "its frames go by the next driver until the peer offers it anew"
                } else {
                    "its frames end as E_TX_QP_RESET until the peer offers it anew"
                };
                let to = connection.to;
                telling.said.extend(connection.news(|| format!("the lane of worker {worker} to {}", name(&to)), end));
            }
        }
    }
}

impl<F: Fabric> Lanes for VerbsPorts<F> {
    fn name(&self, details: &[u8; LANE_DETAILS_BYTES]) -> Result<Endpoint, PortError> {
        Ok(Details::decode(details)?.endpoint())
    }

    fn connect(&mut self, request: &LaneRequest) -> Result<LaneAnswer, NoLane> {
        let theirs = Details::decode(&request.details)?;
        let LaneRequest { worker, to, ports, falls_back, .. } = *request;
        if to.is_none() {
            return Err(NoLane::Never("a lane needs a name: ask for the one that its details stand for".to_owned()));
        }
        if self.lost {
            return Err(NoLane::Never(format!("{} is lost: start the node again", self.info.device)));
        }
        let desk = self.own_desk(worker)?;
        let is_known = desk.peers.contains_key(&key(&to));
        desk.describe(to, ports, falls_back)?;
        // A name is what a peer asked for. Sessions may be pinned to addresses, so its frames come from where its queue pair is.
        desk.peers.entry(key(&to)).and_modify(|peer| peer.source = Some(theirs.endpoint()));
        let agreed = self.agree(worker, to, &theirs);
        if agreed.is_err() && !is_known {
            let _ = Self::disconnect(self, worker, to); // and if there is nothing of it, there is nothing to end
        }
        Ok(LaneAnswer { to, details: agreed?.encode() })
    }

    fn disconnect(&mut self, worker: u16, to: Endpoint) {
        let _ = Self::disconnect(self, worker, to); // what is not there is ended already
    }

    fn lanes(&self) -> Vec<LaneReport> {
        let mut lanes = Vec::new();
        for (worker, desk) in (0..).zip(&self.desks) {
            for ((ip, port), peer) in desk.peers.iter().filter(|(_, peer)| peer.is_datagram) {
                let kind = LaneKind::Datagrams;
                let fell_back = peer.falls_back && peer.lane.is_none();
                let mut lane = report(worker, Endpoint::v6(*ip, *port), kind, &desk.datagrams, fell_back);
                if fell_back && lane.state == LaneState::Connected {
                    // The queue pair that all of them share is back for another peer; this one has to offer, too.
                    lane.state = LaneState::Waiting;
                }
                lanes.push(lane);
            }
            for connection in desk.connections.iter().filter(|one| !one.closing) {
                let peer = desk.peers.get(&key(&connection.to));
                let fell_back = peer.is_some_and(|peer| peer.falls_back && peer.lane.is_none());
                let kind = if connection.writes { LaneKind::Ring } else { LaneKind::Connection };
                lanes.push(report(worker, connection.to, kind, connection, fell_back));
            }
        }
        lanes
    }
}

fn report<F: Fabric>(
    worker: u16,
    to: Endpoint,
    kind: LaneKind,
    connection: &Connection<F>,
    fell_back: bool,
) -> LaneReport {
    let stands = connection.stage == Stage::Connected && connection.attempts == 0;
    LaneReport {
        worker,
        to,
        kind,
        state: connection.stage.lane_state(),
        why: if stands { String::new() } else { connection.why.clone() },
        attempts: connection.attempts,
        fell_back,
    }
}

impl<F: Fabric> Ports for VerbsPorts<F> {
    fn reports(&mut self) -> Vec<PortReport> {
        let report = self.report();
        let config = &self.config;
        let mut counters = vec![
            ("lanes".to_owned(), report.lanes.len() as u64),
            ("registrations".to_owned(), report.registrations),
            ("receive_depth".to_owned(), config.receive_depth.into()),
            ("send_depth".to_owned(), config.send_depth.into()),
            ("traffic_class".to_owned(), config.traffic_class.into()),
        ];
        counters.extend(report.counters);
        vec![PortReport {
            name: NAME.to_owned(),
            driver: "verbs",
            device: report.device,
            state: match (self.lost, self.up) {
                (true, _) => PortState::Failed,
                (false, false) => PortState::LinkDown,
                (false, true) => PortState::Ready,
            },
            why: report.why,
            mac: None,
            speed_mbps: None,
            mtu: Some(report.mtu_bytes),
            numa_node: None,
            queues: report.workers,
            steering: "lanes".to_owned(),
            addresses: vec![report.address],
            counters,
        }]
    }

    fn stop(&mut self, name: &str) -> Result<(), PortError> {
        Err(refuse(name, "stopped", "end its lanes, or stop tachyond"))
    }

    fn start(&mut self, name: &str) -> Result<(), PortError> {
        Err(refuse(name, "started", "it runs already"))
    }

    fn tick(&mut self, now_ns: u64) {
        Self::tick(self, now_ns);
        drop(self.errands());
        self.notice();
    }

    /// Nothing to do: an address without a lane is not reached, and one with a lane is.
    fn want(&mut self, _to: IpAddr) {}

    fn lanes(&mut self) -> Option<&mut dyn Lanes> {
        Some(self)
    }

    fn said(&mut self) -> Vec<Said> {
        core::mem::take(&mut self.telling.said)
    }
}

fn refuse(name: &str, what: &str, fix: &str) -> PortError {
    PortError(match name {
        NAME => format!("port `{NAME}` cannot be {what}: its workers poll its device for as long as they run; {fix}"),
        _ => format!("there is no port `{name}`; RDMA's only one is `{NAME}`"),
    })
}
