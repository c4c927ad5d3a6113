//! Housekeeping's side of the ports: what it does for them, and what it tells control of them.

use std::net::IpAddr;
use tachyon_driver_api::{PortError, PortReport, PortState, Ports, Said};
use tachyon_segment::{
    StatsReader,
    handover::{self, PortStatus},
};
use tachyon_wire::counters::Counters;

/// The ports, and what was seen of them last.
#[derive(Debug)]
pub(crate) struct PortDesk {
    ports: Box<dyn Ports>,
    /// What the workers count, for drivers whose queues are all there is to a port.
    stats: StatsReader,
    seen: Vec<PortStatus>,
}

impl PortDesk {
    pub(crate) const fn new(ports: Box<dyn Ports>, stats: StatsReader) -> Self {
        Self { ports, stats, seen: Vec::new() }
    }

    /// To be called in every interval.
    pub(crate) fn tick(&mut self, now_ns: u64) {
        self.ports.tick(now_ns);
    }

    /// What devices said since the last call.
    pub(crate) fn said(&mut self) -> Vec<Said> {
        self.ports.said()
    }

    /// A subscriber will be sent to.
    pub(crate) fn want(&mut self, to: IpAddr) {
        self.ports.want(to);
    }

    pub(crate) fn stop(&mut self, name: &str) -> Result<(), PortError> {
        self.ports.stop(name)
    }

    pub(crate) fn start(&mut self, name: &str) -> Result<(), PortError> {
        self.ports.start(name)
    }

    /// The port at `place`, and how many there are; for the first one all are looked at anew.
    pub(crate) fn port(&mut self, place: u32) -> Option<(&PortStatus, u16)> {
        if place == 0 {
            let mut reports = self.ports.reports();
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

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::{cell::RefCell, rc::Rc};
    use tachyon_segment::StatsSegment;

    /// Ports that keep what is asked of them, and count looks and ticks.
    #[derive(Debug)]
    struct Kept(Rc<RefCell<Vec<String>>>, Vec<&'static str>);

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
    }

    /// A desk of ports that keep what is asked of them, and what they keep.
    pub(crate) fn desk(names: &[&'static str]) -> (PortDesk, Rc<RefCell<Vec<String>>>) {
        let kept = Rc::new(RefCell::default());
        let segment = StatsSegment::create(1, [1; 16]).unwrap();
        let stats = StatsReader::open(segment.reader_fd(), [1; 16]).unwrap();
        (PortDesk::new(Box::new(Kept(Rc::clone(&kept), names.to_vec())), stats), kept)
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
