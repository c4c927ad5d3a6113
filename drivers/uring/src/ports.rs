//! The cold side of a running node: its sockets are one port, there for as long as the process is.

use crate::{UringConfig, config::DRIVER};
use std::net::IpAddr;
use tachyon_driver_api::{PortError, PortReport, PortState, Ports};

/// What the port is called: there is only one, and no file names it.
const NAME: &str = "udp";

/// The sockets of all workers as one port. Its counters are those that the workers publish, so it reports none itself.
#[derive(Clone, Debug)]
pub struct UringPorts {
    report: PortReport,
}

impl UringPorts {
    /// The port that `queues` workers open with this configuration.
    #[must_use]
    pub fn new(config: &UringConfig, queues: u16) -> Self {
        let report = PortReport {
            name: NAME.to_owned(),
            driver: DRIVER,
            device: config.device(),
            // A worker whose sockets cannot be bound ends the start, and the kernel takes none away afterwards.
            state: PortState::Ready,
            why: String::new(),
            mac: None,
            speed_mbps: None,
            mtu: None,
            numa_node: None,
            queues,
            steering: "sockets".to_owned(),
            addresses: vec![config.bind_ip.to_string()],
            counters: Vec::new(),
        };
        Self { report }
    }

    fn refuse(name: &str, what: &str, fix: &str) -> PortError {
        PortError(match name {
            NAME => {
                format!("port `{NAME}` cannot be {what}: the workers own its sockets for as long as they run; {fix}")
            }
            _ => format!("there is no port `{name}`; with the {DRIVER} driver the only one is `{NAME}`"),
        })
    }
}

impl Ports for UringPorts {
    fn reports(&mut self) -> Vec<PortReport> {
        vec![self.report.clone()]
    }

    fn stop(&mut self, name: &str) -> Result<(), PortError> {
        Err(Self::refuse(name, "stopped", "stop tachyond instead"))
    }

    fn start(&mut self, name: &str) -> Result<(), PortError> {
        Err(Self::refuse(name, "started", "it runs already"))
    }

    /// Nothing to do: the kernel looks after links and neighbours.
    fn tick(&mut self, _now_ns: u64) {}

    /// Nothing to do: the kernel asks for a neighbour when the first frame goes there.
    fn want(&mut self, _to: IpAddr) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sockets_are_one_port_that_cannot_be_stopped() {
        let mut ports = UringPorts::new(&UringConfig::new(IpAddr::from([127, 0, 0, 1]), 24_640), 3);
        ports.tick(1);
        ports.want(IpAddr::from([127, 0, 0, 2]));
        let reports = ports.reports();
        let [report] = reports.as_slice() else { panic!("one port: {reports:?}") };
        assert_eq!((report.name.as_str(), report.driver, report.queues), ("udp", "uring", 3));
        assert_eq!((report.device.as_str(), report.state), ("127.0.0.1, ports from 24640", PortState::Ready));
        assert_eq!((report.steering.as_str(), report.why.as_str()), ("sockets", ""));
        let PortError(stopped) = ports.stop("udp").unwrap_err();
        assert!(stopped.contains("cannot be stopped") && stopped.contains("stop tachyond"), "{stopped}");
        let PortError(started) = ports.start("east").unwrap_err();
        assert!(started.contains("no port `east`") && started.contains("`udp`"), "{started}");
        assert_eq!(ports.reports(), reports, "and nothing has changed");
    }
}
