//! The cold side: what the kernel allows, and opening queues.

use crate::{
    UringConfig, UringQueue,
    calls::Calls,
    config::DRIVER,
    provided::FRAMES_OFFSET,
    queue::Mode,
    ring::{self, Ring},
    socket::{self, ShardSocket},
};
use std::{
    collections::BTreeMap,
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tachyon_driver_api::{Pool, Port, PortError, PortInfo};

/// Room that a buffer needs for `UDP_GRO`: the largest datagram the kernel can join.
const JOINED_BYTES: u32 = 65_536;
/// Most sockets of a queue: one bit short of the index that means "none", and far above any shard count.
const SHARDS_MAX: usize = 4_096;

/// An IP address whose UDP ports carry shards.
#[derive(Debug)]
pub struct UringPort {
    config: UringConfig,
    io_uring: bool,
    degraded: Vec<String>,
    runs_refused: Arc<AtomicBool>,
    ports: BTreeMap<u16, u16>,
}

impl UringPort {
    /// Looks at what the kernel allows; binds nothing yet.
    ///
    /// # Errors
    /// A configuration that cannot work, with the value and the fix.
    pub fn new(config: UringConfig) -> Result<Self, PortError> {
        if config.rx_buffers == 0 || config.rx_buffers > 32_768 {
            return Err(PortError(format!("rx_buffers is {}: choose 1 to 32768", config.rx_buffers)));
        }
        if config.tx_depth == 0 || config.tx_depth > 16_384 {
            return Err(PortError(format!("tx_depth is {}: choose 1 to 16384", config.tx_depth)));
        }
        let mut degraded = Vec::new();
        let refused = if config.force_fallback {
            Some("io_uring is off by configuration; set force_fallback to false".to_owned())
        } else {
            ring::probe().err().map(|e| why_refused(&e))
        };
        let io_uring = refused.is_none();
        degraded.extend(refused.map(|why| format!("recvmmsg and sendmmsg instead of io_uring: {why}")));
        if config.zero_copy && !io_uring {
            degraded.push("sends are copied: zero_copy needs io_uring".to_owned());
        }
        let runs_refused = Arc::new(AtomicBool::new(false));
        Ok(Self { config, io_uring, degraded, runs_refused, ports: BTreeMap::new() })
    }

    /// The UDP port that a shard is bound to, once a queue that owns it is open.
    #[must_use]
    pub fn local_port(&self, shard: u16) -> Option<u16> {
        self.ports.get(&shard).copied()
    }

    fn note(&mut self, line: String) {
        if !self.degraded.contains(&line) {
            self.degraded.push(line);
        }
    }

    /// Binds the sockets; the second value says whether runs can be sent.
    fn sockets(&mut self, shards: &[u16], capacity: u32) -> Result<(Vec<ShardSocket>, bool), PortError> {
        let sockets = shards
            .iter()
            .map(|&shard| ShardSocket::open(&self.config, shard, &mut self.degraded))
            .collect::<Result<Vec<_>, _>>()?;
        if !self.config.gso {
            self.note("frames go one by one: gso is off by configuration; set it to true".to_owned());
            return Ok((sockets, false));
        }
        if capacity < JOINED_BYTES {
            let line =
                format!("UDP_GRO is off: buffers have {capacity} bytes; give the arena buffers of {JOINED_BYTES}");
            self.note(line);
        } else if let Some(e) = sockets.iter().find_map(|socket| socket.join_runs().err()) {
            self.note(format!("UDP_GRO is off: the kernel refused it ({e}); use Linux 5.0 or newer"));
        }
        let runs = sockets.iter().all(socket::can_send_runs);
        if !runs {
            self.note("UDP_SEGMENT is off: the kernel refused it; use Linux 4.18 or newer".to_owned());
        }
        Ok((sockets, runs))
    }
}

impl Port for UringPort {
    type Queue = UringQueue;

    fn open(&mut self, shards: &[u16], pool: &mut Pool) -> Result<UringQueue, PortError> {
        if shards.is_empty() || shards.len() > SHARDS_MAX {
            return Err(PortError(format!("a queue of {} shards: give it 1 to {SHARDS_MAX}", shards.len())));
        }
        let Some(buffer) = pool.get() else {
            return Err(PortError(
                "the pool is empty, so there is nothing to receive into; give it buffers".to_owned(),
            ));
        };
        let capacity = buffer.capacity();
        pool.put(buffer);
        let needed = self.config.frame_bytes_max.saturating_add(FRAMES_OFFSET);
        if capacity < needed {
            let line =
                format!("buffers have {capacity} bytes and need {needed}: raise their size or lower frame_bytes_max");
            return Err(PortError(line));
        }
        let (sockets, runs) = self.sockets(shards, capacity)?;
        self.ports.extend(sockets.iter().map(|socket| (socket.shard, socket.port)));
        let refused = Arc::clone(&self.runs_refused);
        if !self.io_uring {
            return Ok(UringQueue(Mode::Calls(Box::new(Calls::open(&self.config, sockets, runs, refused, pool)))));
        }
        let ring = Ring::open(&self.config, sockets, runs, refused, &mut self.degraded, pool).map_err(|e| {
            let device = self.info().device;
            PortError(format!("cannot open io_uring for {device}: {}", why_refused(&e)))
        })?;
        Ok(UringQueue(Mode::Ring(Box::new(ring))))
    }

    fn info(&self) -> PortInfo {
        let mut degraded = self.degraded.clone();
        if self.runs_refused.load(Ordering::Relaxed) {
            degraded.push(
                "UDP_SEGMENT is off: the device refused it; switch its checksum offload on (`ethtool -K DEVICE tx on`)"
                    .to_owned(),
            );
        }
        let (device, frame_bytes_max) = (self.config.device(), self.config.frame_bytes_max);
        PortInfo { driver: DRIVER, device, frame_bytes_max, degraded }
    }
}

/// Why the kernel refuses a ring, and what to do.
fn why_refused(e: &io::Error) -> String {
    let (cause, fix) = match e.raw_os_error() {
        Some(libc::ENOSYS) => ("the kernel has no io_uring", "use one with CONFIG_IO_URING=y"),
        Some(libc::EPERM | libc::EACCES) => {
            ("the system forbids it", "`sysctl -w kernel.io_uring_disabled=0`, and allow it in the seccomp profile")
        }
        Some(libc::EINVAL) => ("the kernel is older than 6.1", "use a newer one"),
        Some(libc::ENOMEM) => ("locked memory is used up", "raise RLIMIT_MEMLOCK (`ulimit -l`)"),
        Some(libc::EMFILE | libc::ENFILE) => ("file descriptors are used up", "raise RLIMIT_NOFILE (`ulimit -n`)"),
        _ => ("the kernel refused it", "look the error up"),
    };
    format!("{cause} ({e}); {fix}")
}
