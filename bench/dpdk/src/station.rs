//! Our side of a measurement: one worker's queue over some software devices, with its pool and the cold side.

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};
use tachyon_driver_api::{CompletionBatch, Pool, Port, PortState, Ports, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_dpdk::{
    Device, DpdkConfig, DpdkPorts, DpdkQueue, Eal, EalConfig, HEADROOM_BYTES, PortConfig, RawQueue, Region,
    ether::{Mac, Network},
};
use tachyon_wire::Endpoint;

/// Descriptors of each queue, here and in testpmd.
pub(crate) const DESCRIPTORS: u16 = 256;
/// Packet descriptors of a pool, here and in testpmd: what two ports hold, and as many again for what is under way.
pub(crate) const BUFFERS: usize = 2_048;
/// Bytes of a buffer behind its headroom: a frame of MTU 1500 and then some, and with the headroom an odd number of lines,
/// so that buffers do not share sets of the cache.
const BUFFER_BYTES: u32 = 2_112;
/// Shard n is at this UDP port + n.
pub(crate) const BASE_PORT: u16 = 24_640;
/// How long links may take to come up.
const PATIENCE: Duration = Duration::from_secs(20);
/// The two ends of a connection.
pub(crate) const ENDS: [End; 2] =
    [End { ip: [192, 0, 2, 1], mac: [2, 0, 0, 0, 0, 0] }, End { ip: [192, 0, 2, 2], mac: [2, 0, 0, 0, 1, 0] }];

/// What a port is on its network. The last byte of a MAC is 0, which a policer of DPDK's reads as the colour green.
#[derive(Clone, Copy, Debug)]
pub(crate) struct End {
    pub(crate) ip: [u8; 4],
    pub(crate) mac: Mac,
}

/// A socket path of its own.
pub(crate) fn socket() -> PathBuf {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("tachyon-dpdk-bench-{}-{serial}.sock", std::process::id()))
}

/// The end of number `number` of a memif.
pub(crate) fn memif(socket: &std::path::Path, number: usize) -> Device {
    Device::Memif { socket: socket.to_owned(), id: 0, server: number == 0 }
}

/// See the module.
pub(crate) struct Station {
    pub(crate) ports: DpdkPorts,
    queue: Option<DpdkQueue>,
    pub(crate) pool: Pool,
    _arena: Arena,
    started: Instant,
}

impl Station {
    /// Opens devices as the ends of these numbers, each with the other end as its neighbour, on the calling thread.
    pub(crate) fn open(
        eal: Eal,
        devices: Vec<(Device, usize)>,
        base_port: u16,
        shards: u16,
        buffers: usize,
    ) -> Result<Self, String> {
        let stride = BUFFER_BYTES + HEADROOM_BYTES;
        let config = ArenaConfig {
            bytes: buffers * stride as usize,
            buffer_bytes: stride,
            pages: Pages::Auto,
            lock: false,
            numa_node: None,
        };
        let mut arena = Arena::create(config).map_err(|error| error.to_string())?;
        let (base, bytes) = arena.region();
        let mut pool = Pool::new(arena.take_behind(HEADROOM_BYTES, buffers).map_err(|error| error.to_string())?);
        let shards: Vec<u16> = (0..shards).collect();
        let config = DpdkConfig {
            eal: EalConfig::default(),
            ports: devices.into_iter().map(|(device, end)| port(device, end)).collect(),
            base_port,
            shards: vec![shards.clone()],
            receive_descriptors: DESCRIPTORS,
            transmit_descriptors: DESCRIPTORS,
        };
        let mut ports = DpdkPorts::with(eal, config).map_err(|error| error.0)?;
        let region = Region { base: base.as_ptr().expose_provenance(), bytes, page_bytes: arena.page_bytes() };
        ports.add_region(region).map_err(|error| error.0)?;
        let mut seat = ports.seat(0).ok_or("the worker's seat is taken")?;
        let queue = seat.open(&shards, &mut pool).map_err(|error| error.0)?;
        ports.start_all().map_err(|error| error.0)?;
        Ok(Self { ports, queue: Some(queue), pool, _arena: arena, started: Instant::now() })
    }

    /// Lets the cold side work, once; whether all links are up and the worker's side knows it.
    pub(crate) fn is_up(&mut self) -> bool {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap_or(0) + 1_000_000_000;
        self.ports.tick(now);
        let up = self.ports.reports().iter().all(|row| row.state == PortState::Ready);
        let (queue, pool) = self.parts();
        queue.rx_burst(pool, &mut RxBatch::new());
        up
    }

    /// The queue and its pool.
    pub(crate) fn parts(&mut self) -> (&mut DpdkQueue, &mut Pool) {
        (self.queue.as_mut().expect("it was not given away"), &mut self.pool)
    }

    /// Gives the queue and the pool away, to a worker.
    pub(crate) fn take_parts(&mut self) -> (DpdkQueue, Pool) {
        let pool = std::mem::replace(&mut self.pool, Pool::new(Vec::new()));
        (self.queue.take().expect("it was not given away"), pool)
    }

    /// Takes them back.
    pub(crate) fn give_back(&mut self, (queue, pool): (DpdkQueue, Pool)) {
        (self.queue, self.pool) = (Some(queue), pool);
    }

    /// A port's queue below frames.
    pub(crate) fn raw(&self, port: usize) -> RawQueue {
        self.ports.raw(port, 0).expect("the port runs")
    }

    /// Sends `count` frames of `payload_bytes` zeros to the end of this number, so that there is something to forward.
    pub(crate) fn inject(&mut self, count: usize, payload_bytes: u32, to: usize) -> Result<(), String> {
        let destination = Endpoint::v4(ENDS[to].ip, BASE_PORT);
        let (queue, pool) = self.parts();
        let (mut from, mut done) = (TxBatch::new(), CompletionBatch::new());
        for _ in 0..count {
            let mut buffer = pool.get().ok_or("no buffer is free")?;
            buffer.bytes_mut()[..payload_bytes as usize].fill(0);
            let (len, stride) = (payload_bytes, payload_bytes);
            from.push(Transmit { buffer, offset: 0, len, stride, shard: 0, destination, token: 0 });
            queue.tx_burst(&mut from);
            queue.completions(&mut done);
            let failed = done.iter().any(|completion| completion.error.is_some());
            done.drain(..).for_each(|completion| pool.put(completion.buffer));
            if failed || !from.is_empty() {
                return Err("the device takes nothing".to_owned());
            }
        }
        Ok(())
    }

    /// Ends it; an error if a buffer is missing, for then something was measured that loses memory.
    pub(crate) fn close(mut self) -> Result<(), String> {
        let queue = self.queue.take().expect("it was not given away");
        match queue.close(&mut self.ports, &mut self.pool) {
            0 => Ok(()),
            missing => Err(format!("{missing} buffers did not come back")),
        }
    }
}

fn port(device: Device, end: usize) -> PortConfig {
    let (ours, theirs) = (ENDS[end % 2], ENDS[(end + 1) % 2]);
    PortConfig {
        name: format!("port-{end}"),
        device,
        networks: vec![Network { ip: IpAddr::from(ours.ip), prefix: 24, gateway: None }],
        vlan: None,
        mtu: 1_500,
        mac: Some(ours.mac),
        neighbours: vec![(IpAddr::from(theirs.ip), theirs.mac)],
    }
}

/// Works for all of them until their links are up.
pub(crate) fn connect(stations: &mut [&mut Station]) -> Result<(), String> {
    let end = Instant::now() + PATIENCE;
    // Twice, so that each worker saw what the last tick said.
    for _ in 0..2 {
        loop {
            // All of them work each time, whether or not the first one is up.
            let up = stations.iter_mut().map(|station| usize::from(station.is_up())).sum::<usize>();
            if up == stations.len() {
                break;
            }
            if Instant::now() > end {
                return Err("links do not come up".to_owned());
            }
            std::thread::yield_now();
        }
    }
    Ok(())
}
