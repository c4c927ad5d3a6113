//! Drivers that this build does not have: the same names as the modules of those that it has, and nothing behind them, so
//! that everything else is written once and costs nothing here.

use tachyon_driver_api::{
    CompletionBatch, Pool, Port, PortError, PortInfo, QueueStats, RxBatch, RxQueue, TxBatch, TxQueue,
};
use tachyon_wire::Endpoint;

/// What can never be there.
#[derive(Debug)]
pub(crate) enum Absent {}

impl RxQueue for Absent {
    fn rx_burst(&mut self, _: &mut Pool, _: &mut RxBatch) -> usize {
        match *self {}
    }

    fn wait(&mut self, _: u64) {
        match *self {}
    }

    fn stats(&self) -> QueueStats {
        match *self {}
    }

    fn held(&self) -> usize {
        match *self {}
    }
}

impl TxQueue for Absent {
    fn tx_burst(&mut self, _: &mut TxBatch) -> usize {
        match *self {}
    }

    fn completions(&mut self, _: &mut CompletionBatch) -> usize {
        match *self {}
    }
}

impl crate::transports::Reach for Absent {
    fn reaches(&self, _: &Endpoint) -> bool {
        match *self {}
    }
}

impl Port for Absent {
    type Queue = Self;

    fn open(&mut self, _: &[u16], _: &mut Pool) -> Result<Self, PortError> {
        match *self {}
    }

    fn info(&self) -> PortInfo {
        match *self {}
    }
}

/// Stands for the module of DPDK.
#[cfg(not(feature = "dpdk"))]
pub(crate) mod dpdk {
    use super::Absent;
    use crate::{filters::Filters, ports::Region, topology::Plan};
    use tachyon_config::NodeFile;
    use tachyon_driver_api::Ports;

    pub(crate) type Cold = Absent;
    pub(crate) type Seat = Absent;

    pub(crate) const HEADROOM_BYTES: u32 = 0;

    pub(crate) fn open(_: &NodeFile, _: &Plan, _: &Filters) -> anyhow::Result<Cold> {
        anyhow::bail!("this tachyond was built without DPDK; build it with --features dpdk")
    }

    pub(crate) fn seat(ports: &mut Cold, _: u16, _: Region) -> anyhow::Result<Seat> {
        match *ports {}
    }

    pub(crate) fn receive_buffers(ports: &Cold) -> u32 {
        match *ports {}
    }

    pub(crate) fn start(ports: &mut Cold, _: &Plan) -> anyhow::Result<Vec<String>> {
        match *ports {}
    }

    pub(crate) fn title(ports: &mut Cold) -> String {
        match *ports {}
    }

    pub(crate) fn cold(ports: Cold) -> Box<dyn Ports> {
        match ports {}
    }
}

/// Stands for the module of AF_XDP.
#[cfg(not(feature = "xdp"))]
pub(crate) mod afxdp {
    use super::Absent;
    use crate::{filters::Filters, topology::Plan};
    use tachyon_config::NodeFile;
    use tachyon_driver_api::Ports;

    pub(crate) type Cold = Absent;
    pub(crate) type Seat = Absent;

    pub(crate) const HEADROOM_BYTES: u32 = 0;

    pub(crate) fn open(_: &NodeFile, _: &Plan, _: &Filters) -> anyhow::Result<Cold> {
        anyhow::bail!("this tachyond was built without XDP; build it with --features xdp")
    }

    pub(crate) fn seat(ports: &mut Cold, _: u16) -> anyhow::Result<Seat> {
        match *ports {}
    }

    pub(crate) fn frame_bytes_max(ports: &Cold) -> u32 {
        match *ports {}
    }

    pub(crate) fn title(ports: &mut Cold) -> String {
        match *ports {}
    }

    pub(crate) fn cold(ports: Cold) -> Box<dyn Ports> {
        match ports {}
    }
}

/// Stands for the pre-filters: there is none, and so nothing to do.
#[cfg(not(feature = "xdp"))]
pub(crate) mod filters {
    use crate::{left_over, sandbox::User, worker::Image};
    use std::path::PathBuf;
    use tachyon_config::NodeFile;
    use tachyon_segment::handover::{FilterStatus, Prefix};
    use tachyon_wire::command::OpenSession;

    #[derive(Debug)]
    pub(crate) struct Filters;

    const NONE: &str = "this tachyond was built without pre-filters; build it with --features xdp";

    impl Filters {
        #[cfg(test)]
        pub(crate) const fn none() -> Self {
            Self
        }

        pub(crate) fn open(file: &NodeFile, _: u64, _: Option<User>, degraded: &mut Vec<String>) -> Self {
            let folder = &file.node.filter_dir;
            let left = left_over::interfaces(folder);
            let names = file.prefilters.iter().map(|section| section.interface.as_str());
            let without = names.filter(|name| !left.iter().any(|left| left == name));
            degraded.extend(without.map(|name| format!("{name} has no pre-filter, everything passes: {NONE}")));
            degraded.extend(left.iter().map(|name| left_over::warning(folder, name)));
            Self
        }

        #[cfg(feature = "dpdk")]
        pub(crate) const fn object(&self, _: &str) -> Option<PathBuf> {
            None
        }

        pub(crate) const fn adopt(&mut self) -> Vec<String> {
            Vec::new()
        }

        pub(crate) const fn rights(&self) -> rustix::thread::CapabilitySet {
            rustix::thread::CapabilitySet::empty()
        }

        pub(crate) const fn folders(&self) -> Vec<PathBuf> {
            Vec::new()
        }

        pub(crate) fn open_session(&mut self, _: &OpenSession) -> Result<(), String> {
            Ok(())
        }

        pub(crate) fn close_session(&mut self, _: u32, _: Vec<u64>) {}

        pub(crate) fn widen(&mut self, _: &Image) -> Result<(), String> {
            Ok(())
        }

        pub(crate) fn narrow(&mut self, _: &Image, _: Vec<u64>) {}

        pub(crate) fn settle(&mut self, _: impl Fn(&[u64]) -> bool) {}

        pub(crate) fn deny(&mut self, list: &[Prefix]) -> Result<(), String> {
            if list.is_empty() { Ok(()) } else { Err(NONE.to_owned()) }
        }

        pub(crate) const fn is_feeding(&self) -> bool {
            false
        }

        pub(crate) const fn feed(&mut self) -> Option<Result<(), String>> {
            Some(Ok(())) // nothing has to go anywhere
        }

        pub(crate) fn attach(&mut self, _: &str) -> Result<(), String> {
            Err(NONE.to_owned())
        }

        pub(crate) fn detach(&mut self, _: &str) -> Result<(), String> {
            Err(NONE.to_owned())
        }

        pub(crate) fn status(&mut self, _: u32) -> Option<(FilterStatus, u16)> {
            None
        }

        pub(crate) fn tick(&mut self, _: u64) {}

        pub(crate) const fn said(&mut self) -> Vec<String> {
            Vec::new()
        }

        pub(crate) fn stop(&mut self) {}
    }
}

/// Stands for the module of RDMA.
#[cfg(not(feature = "verbs"))]
pub(crate) mod rdma {
    use super::Absent;
    use crate::ports::Region;
    use std::path::PathBuf;
    use tachyon_config::NodeFile;
    use tachyon_driver_api::Ports;

    pub(crate) type Cold = Absent;
    pub(crate) type Seat = Absent;

    pub(crate) fn find(_: &NodeFile) -> anyhow::Result<String> {
        anyhow::bail!("this tachyond was built without RDMA; build it with --features verbs")
    }

    pub(crate) fn open(file: &NodeFile, _: &[Region], _: bool, _: u64) -> anyhow::Result<Cold> {
        find(file).and_then(|device| anyhow::bail!("{device} cannot be"))
    }

    pub(crate) fn seat(ports: &mut Cold, _: u16) -> anyhow::Result<Seat> {
        match *ports {}
    }

    pub(crate) fn receive_buffers(_: &NodeFile) -> u32 {
        0
    }

    pub(crate) fn frame_bytes_max(ports: &Cold) -> u32 {
        match *ports {}
    }

    pub(crate) fn title(ports: &Cold) -> String {
        match *ports {}
    }

    pub(crate) fn is_soft(ports: &Cold) -> bool {
        match *ports {}
    }

    pub(crate) fn files(ports: &Cold) -> Vec<PathBuf> {
        match *ports {}
    }

    pub(crate) fn cold(ports: Cold) -> Box<dyn Ports> {
        match ports {}
    }
}
