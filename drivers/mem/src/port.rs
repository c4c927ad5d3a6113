//! The cold side: a device whose queues end outside.

use crate::{LinkConfig, MemQueue, pair};
use std::collections::VecDeque;
use tachyon_driver_api::{Pool, Port, PortError, PortInfo};

/// A device in memory. Each queue that is opened leaves its outside end here, for whoever plays the network.
#[derive(Debug, Default)]
pub struct MemPort {
    config: LinkConfig,
    outside: VecDeque<MemQueue>,
}

impl MemPort {
    /// A device whose queues are links of this kind.
    ///
    /// # Errors
    /// The depth is no power of two.
    pub fn new(config: LinkConfig) -> Result<Self, PortError> {
        if !config.depth.is_power_of_two() {
            return Err(PortError(format!("a link of depth {}: make it a power of two", config.depth)));
        }
        Ok(Self { config, outside: VecDeque::new() })
    }

    /// The outside end of the oldest open queue whose outside end nobody took yet.
    pub fn take_outside(&mut self) -> Option<MemQueue> {
        self.outside.pop_front()
    }
}

impl Port for MemPort {
    type Queue = MemQueue;

    /// Takes no buffer: a link receives by exchange. Items carry their shard, so any set of shards can share a queue.
    fn open(&mut self, _shards: &[u16], _pool: &mut Pool) -> Result<MemQueue, PortError> {
        let (worker, outside) = pair(self.config);
        self.outside.push_back(outside);
        Ok(worker)
    }

    fn info(&self) -> PortInfo {
        PortInfo {
            driver: "mem",
            device: "memory".to_owned(),
            frame_bytes_max: self.config.frame_bytes_max,
            degraded: Vec::new(),
        }
    }
}
