//! Housekeeping's side of the ports: what it does for them, and what it tells control of them.

use std::net::IpAddr;
use tachyon_driver_api::{
    LaneKind, LaneReport, LaneRequest, LaneState, NoLane, PortError, PortReport, PortState, Ports, Said,
};
use tachyon_segment::{
    StatsReader,
    handover::{self, LANE_DETAILS_BYTES, LaneStatus, PortStatus},
};
use tachyon_wire::{Endpoint, counters::Counters};

/// The ports, and what was seen of them last.
#[derive(Debug)]
pub(crate) struct PortDesk {
    /// The drivers that are there, in order.
    sides: Vec<Box<dyn Ports>>,
    /// What the workers count, for drivers whose queues are all there is to a port.
    stats: StatsReader,
    seen: Vec<PortStatus>,
    seen_lanes: Vec<LaneStatus>,
}

impl PortDesk {
    pub(crate) const fn new(sides: Vec<Box<dyn Ports>>, stats: StatsReader) -> Self {
        Self { sides, stats, seen: Vec::new(), seen_lanes: Vec::new() }
    }

    /// To be called in every interval.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        self.sides.iter_mut().for_each(|side| side.tick(now_ns));
    }

    /// What devices said since the last call.
    pub(crate) fn said(&mut self) -> Vec<Said> {
        self.sides.iter_mut().flat_map(|side| side.said()).collect()
    }

    /// A subscriber will be sent to.
    pub(crate) fn want(&mut self, to: IpAddr) {
        self.sides.iter_mut().for_each(|side| side.want(to));
    }

    pub(crate) fn stop(&mut self, name: &str) -> Result<(), PortError> {
        self.side_of(name)?.stop(name)
    }

    pub(crate) fn start(&mut self, name: &str) -> Result<(), PortError> {
        self.side_of(name)?.start(name)
    }

    /// The driver that has this port. With one driver that is it, which says what is wrong with the name.
    fn side_of(&mut self, name: &str) -> Result<&mut Box<dyn Ports>, PortError> {
        if let [_] = self.sides.as_slice() {
            return Ok(&mut self.sides[0]);
        }
        let (mut names, mut found) = (Vec::new(), None);
        for (index, side) in self.sides.iter_mut().enumerate() {
            let own: Vec<String> = side.reports().into_iter().map(|port| port.name).collect();
            if own.iter().any(|own| own == name) {
                found = Some(index);
            }
            names.extend(own);
        }
        match found.and_then(|index: usize| self.sides.get_mut(index)) {
            Some(side) => Ok(side),
            None => Err(PortError(format!("there is no port `{name}`; there are {}", names.join(", ")))),
        }
    }

    /// The port at `place`, and how many there are; for the first one all are looked at anew.
    pub(crate) fn port(&mut self, place: u32) -> Option<(&PortStatus, u16)> {
        if place == 0 {
            let mut reports: Vec<PortReport> = self.sides.iter_mut().flat_map(|side| side.reports()).collect();
            if let [only] = reports.as_mut_slice()
                && only.counters.is_empty()
            {
                only.counters = self.counted_by_workers();
            }
            self.seen = reports.into_iter().map(status).collect();
        }
        let count = u16::try_from(self.seen.len()).unwrap_or(u16::MAX);
        self.seen.get(usize::try_from(place).ok()?).map(|port| (port, count))
    }

    /// The lane at `place`, and how many there are; for the first one all are looked at anew.
    pub(crate) fn lane(&mut self, place: u32) -> Option<(&LaneStatus, u32)> {
        if place == 0 {
            let lanes = self.sides.iter_mut().filter_map(|side| side.lanes()).flat_map(|lanes| lanes.lanes());
            self.seen_lanes = lanes.map(lane_status).collect();
        }
        let count = u32::try_from(self.seen_lanes.len()).unwrap_or(u32::MAX);
        self.seen_lanes.get(usize::try_from(place).ok()?).map(|lane| (lane, count))
    }

    /// Agrees on a lane with a peer, by the first driver that has lanes. An offer without a name is answered with one.
    pub(crate) fn connect_lane(&mut self, lane: &handover::LaneRequest) -> Result<handover::LaneAnswer, NoLane> {
        let Some(lanes) = self.sides.iter_mut().find_map(|side| side.lanes()) else {
            let text = "this node has no driver with lanes: put \"rdma\" into driver in [network]";
            return Err(NoLane::Never(text.to_owned()));
        };
        let handover::LaneRequest { worker, to, ports, falls_back, details } = *lane;
        if to.is_none() {
            return Ok(handover::LaneAnswer { to: lanes.name(&details)?, details: [0; LANE_DETAILS_BYTES] });
        }
        let answer = lanes.connect(&LaneRequest { worker, to, ports, falls_back, details })?;
        Ok(handover::LaneAnswer { to: answer.to, details: answer.details })
    }

    /// Ends a lane, whichever driver has it.
    pub(crate) fn drop_lane(&mut self, worker: u16, to: Endpoint) {
        self.sides.iter_mut().filter_map(|side| side.lanes()).for_each(|lanes| lanes.disconnect(worker, to));
    }

    /// What all queues together counted. A worker whose page is half written is left out; it is dead.
    fn counted_by_workers(&self) -> Vec<(String, u64)> {
        let workers = 0..self.stats.workers();
        let read: Vec<Counters> = workers.filter_map(|worker| self.stats.read_counters(worker).ok()).collect();
        let sum = |count: fn(&Counters) -> u64| read.iter().map(count).sum();
        vec![
            ("syscalls".to_owned(), sum(|counters| counters.syscalls)),
            ("socket_overflow".to_owned(), sum(|counters| counters.socket_overflow)),
            ("receive_starved".to_owned(), sum(|counters| counters.receive_starved)),
        ]
    }
}

/// A driver's report as it travels.
fn status(report: PortReport) -> PortStatus {
    PortStatus {
        name: report.name,
        driver: report.driver.to_owned(),
        device: report.device,
        state: match report.state {
            PortState::Ready => handover::PortState::Ready,
            PortState::LinkDown => handover::PortState::LinkDown,
            PortState::Stopped => handover::PortState::Stopped,
            PortState::Waiting => handover::PortState::Waiting,
            PortState::Failed => handover::PortState::Failed,
        },
        why: report.why,
        mac: report.mac,
        speed_mbps: report.speed_mbps,
        mtu: report.mtu,
        numa_node: report.numa_node,
        queues: report.queues,
        steering: report.steering,
        addresses: report.addresses,
        counters_total: u32::try_from(report.counters.len()).unwrap_or(u32::MAX),
        counters: report.counters,
    }
}

/// A lane's report as it travels.
fn lane_status(lane: LaneReport) -> LaneStatus {
    LaneStatus {
        worker: lane.worker,
        to: lane.to,
        kind: match lane.kind {
            LaneKind::Datagrams => handover::LaneKind::Datagrams,
            LaneKind::Connection => handover::LaneKind::Connection,
            LaneKind::Ring => handover::LaneKind::Ring,
        },
        state: match lane.state {
            LaneState::Connected => handover::LaneState::Connected,
            LaneState::Waiting => handover::LaneState::Waiting,
            LaneState::Ending => handover::LaneState::Ending,
            LaneState::Failed => handover::LaneState::Failed,
        },
        why: lane.why,
        attempts: lane.attempts,
        fell_back: lane.fell_back,
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::{cell::RefCell, rc::Rc};
    use tachyon_driver_api::{LaneAnswer, Lanes};
    use tachyon_segment::StatsSegment;

    /// Ports that keep what is asked of them, and count looks and ticks; the flag says whether they have lanes.
    #[derive(Debug)]
    struct Kept(Rc<RefCell<Vec<String>>>, Vec<&'static str>, bool);

    impl Kept {
        fn keep(&self, what: String) {
            self.0.borrow_mut().push(what);
        }
    }

    impl Ports for Kept {
        fn reports(&mut self) -> Vec<PortReport> {
            self.keep("reports".into());
            let times = |what: &str| self.0.borrow().iter().filter(|kept| kept.starts_with(what)).count() as u64;
            let report = |name: &&str| PortReport {
                name: (*name).into(),
                driver: "kept",
                device: "here".into(),
                state: PortState::Waiting,
                why: "nobody has connected".into(),
                mac: None,
                speed_mbps: None,
                mtu: None,
                numa_node: None,
                queues: 1,
                steering: "none".into(),
                addresses: Vec::new(),
                counters: vec![("looks".into(), times("reports")), ("ticks".into(), times("tick"))],
            };
            self.1.iter().map(report).collect()
        }

        fn stop(&mut self, name: &str) -> Result<(), PortError> {
            self.keep(format!("stop {name}"));
            Ok(())
        }

        fn start(&mut self, name: &str) -> Result<(), PortError> {
            Err(PortError(format!("{name} is broken")))
        }

        fn tick(&mut self, now_ns: u64) {
            self.keep(format!("tick {now_ns}"));
        }

        fn want(&mut self, to: IpAddr) {
            self.keep(format!("want {to}"));
        }

        fn lanes(&mut self) -> Option<&mut dyn Lanes> {
            if self.2 { Some(self) } else { None }
        }
    }

    impl Lanes for Kept {
        fn name(&self, details: &[u8; 64]) -> Result<Endpoint, PortError> {
            Ok(Endpoint::v4([10, 0, 0, 9], details[0].into()))
        }

        fn connect(&mut self, request: &LaneRequest) -> Result<LaneAnswer, NoLane> {
            self.keep(format!("connect {} {} {}", request.worker, request.ports, request.falls_back));
            match request.to.port.get() {
                8 => Err(NoLane::Later("offer again in a moment".into())),
                9 => Err(NoLane::Never("it cannot be".into())),
                _ => Ok(LaneAnswer { to: request.to, details: request.details.map(|byte| byte + 1) }),
            }
        }

        fn disconnect(&mut self, worker: u16, to: Endpoint) {
            self.keep(format!("disconnect {worker} {}", to.port));
        }

        fn lanes(&self) -> Vec<LaneReport> {
            let states =
                [(7, LaneState::Failed, true), (8, LaneState::Ending, false), (9, LaneState::Connected, false)];
            let lane = |(port, state, fell_back)| LaneReport {
                worker: 2,
                to: Endpoint::v4([10, 0, 0, 9], port),
                kind: LaneKind::Ring,
                state,
                why: "away".into(),
                attempts: 3,
                fell_back,
            };
            states.map(lane).into()
        }
    }

    /// A desk of ports that keep what is asked of them, and what they keep.
    pub(crate) fn desk(names: &[&'static str]) -> (PortDesk, Rc<RefCell<Vec<String>>>) {
        desk_of(&[names], false)
    }

    /// The same with several drivers; the first one may have lanes.
    fn desk_of(drivers: &[&[&'static str]], lanes: bool) -> (PortDesk, Rc<RefCell<Vec<String>>>) {
        let kept = Rc::new(RefCell::default());
        let segment = StatsSegment::create(1, [1; 16]).unwrap();
        let stats = StatsReader::open(segment.reader_fd(), [1; 16]).unwrap();
        let side = |(index, names): (usize, &&[&'static str])| -> Box<dyn Ports> {
            Box::new(Kept(Rc::clone(&kept), names.to_vec(), lanes && index == 0))
        };
        let sides = drivers.iter().enumerate().map(side).collect();
        (PortDesk::new(sides, stats), kept)
    }

    #[test]
    fn with_several_drivers_each_is_told_and_asked_and_a_port_is_its_own() {
        let (mut desk, kept) = desk_of(&[&["rdma"], &["east", "west"]], false);
        desk.tick(5);
        desk.want(IpAddr::from([10, 0, 0, 1]));
        let names: Vec<String> = (0..3).map(|place| desk.port(place).unwrap().0.name.clone()).collect();
        assert_eq!((names, desk.port(3)), (["rdma", "east", "west"].map(str::to_owned).into(), None));
        desk.stop("west").unwrap();
        let PortError(text) = desk.stop("north").unwrap_err();
        assert!(text.contains("no port `north`") && text.contains("rdma, east, west"), "{text}");
        assert_eq!(desk.start("rdma"), Err(PortError("rdma is broken".into())));
        let kept = kept.borrow();
        let told: Vec<&String> = kept.iter().filter(|what| *what != "reports").collect();
        assert_eq!(told, ["tick 5", "tick 5", "want 10.0.0.1", "want 10.0.0.1", "stop west"]);
    }

    #[test]
    fn lanes_are_agreed_on_told_and_ended_by_the_driver_that_has_some() {
        let offer = |port| handover::LaneRequest {
            worker: 2,
            to: Endpoint::v4([10, 0, 0, 9], port),
            ports: 4,
            falls_back: true,
            details: [6; 64],
        };
        let (mut desk, kept) = desk_of(&[&["rdma"], &["udp"]], true);
        let answer = desk.connect_lane(&offer(7)).unwrap();
        assert_eq!((answer.to, answer.details), (offer(7).to, [7; 64]));
        assert_eq!(desk.connect_lane(&offer(8)), Err(NoLane::Later("offer again in a moment".into())));
        assert_eq!(desk.connect_lane(&offer(9)), Err(NoLane::Never("it cannot be".into())));
        let unnamed = handover::LaneRequest { to: Endpoint::NONE, ..offer(7) };
        let name = desk.connect_lane(&unnamed).unwrap();
        assert_eq!((name.to, name.details), (Endpoint::v4([10, 0, 0, 9], 6), [0; 64]), "and nothing was agreed on");
        let (lane, count) = desk.lane(0).unwrap();
        assert_eq!((lane.worker, lane.to, count), (2, offer(7).to, 3));
        assert_eq!((lane.kind, lane.state), (handover::LaneKind::Ring, handover::LaneState::Failed));
        assert_eq!((lane.why.as_str(), lane.attempts, lane.fell_back), ("away", 3, true));
        assert_eq!(desk.lane(1).unwrap().0.state, handover::LaneState::Ending);
        assert_eq!(desk.lane(3), None);
        desk.drop_lane(2, offer(7).to);
        assert_eq!(kept.borrow().iter().filter(|what| *what == "connect 2 4 true").count(), 3);
        assert_eq!(kept.borrow().last().unwrap(), "disconnect 2 7");
        let (mut desk, kept) = desk_of(&[&["udp"]], false);
        assert!(matches!(desk.connect_lane(&offer(7)), Err(NoLane::Never(text)) if text.contains("\"rdma\"")));
        assert_eq!(desk.lane(0), None);
        desk.drop_lane(2, offer(7).to);
        assert_eq!(kept.borrow().len(), 0);
    }

    #[test]
    fn a_list_is_of_one_moment_and_the_next_one_is_not() {
        let (mut desk, _) = desk(&["east", "west"]);
        for looks in 1..3 {
            for (place, name) in [(0, "east"), (1, "west")] {
                let (port, count) = desk.port(place).unwrap();
                assert_eq!((port.name.as_str(), count, port.counters_total), (name, 2, 2));
                assert_eq!(port.counters[0], ("looks".to_owned(), looks));
                assert_eq!((port.state, port.why.as_str()), (handover::PortState::Waiting, "nobody has connected"));
            }
        }
        assert_eq!(desk.port(2), None);
    }

    #[test]
    fn the_driver_is_told_what_housekeeping_is_told() {
        let (mut desk, kept) = desk(&["east"]);
        desk.tick(5);
        desk.want(IpAddr::from([10, 0, 0, 1]));
        desk.stop("east").unwrap();
        assert_eq!(desk.start("east"), Err(PortError("east is broken".into())));
        assert_eq!(*kept.borrow(), ["tick 5", "want 10.0.0.1", "stop east"]);
    }
}
