//! A worker's queue with its pool and the cold side of its ports, for the tests.
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::{
        OnceLock,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};
use tachyon_driver_api::{
    CompletionBatch, Pool, Port, PortError, PortState, Ports, Received, RxBatch, RxQueue, Transmit, TxBatch, TxQueue,
};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_dpdk::{
    Device, DpdkConfig, DpdkPorts, DpdkQueue, Eal, EalConfig, HEADROOM_BYTES, HugePages, PortConfig, Region,
    ether::{Mac, Network},
};
use tachyon_wire::Endpoint;

pub(crate) const BASE_PORT: u16 = 24_640;
pub(crate) const BUFFERS: usize = 2_048;
/// One frame of MTU 1500 and then some, an odd number of lines with the headroom.
pub(crate) const BUFFER_BYTES: u32 = 2_112;
const DESCRIPTORS: u16 = 256;
const PATIENCE: Duration = Duration::from_secs(20);

/// DPDK, started once for the test program.
pub(crate) fn eal() -> Eal {
    static EAL: OnceLock<Eal> = OnceLock::new();
    *EAL.get_or_init(|| {
        let config = EalConfig { memory_mib: 256, huge_pages: HugePages::Off, pci: Vec::new() };
        Eal::start(&config).expect("DPDK starts")
    })
}

/// A socket path of its own.
pub(crate) fn socket() -> PathBuf {
    static SERIAL: AtomicU32 = AtomicU32::new(0);
    let serial = SERIAL.fetch_add(1, Ordering::Relaxed);
    std::env::temp_dir().join(format!("tachyon-memif-{}-{serial}.sock", std::process::id()))
}

pub(crate) fn network(ip: [u8; 4]) -> Network {
    Network { ip: Ipv4Addr::from(ip).into(), prefix: 24, gateway: None }
}

pub(crate) fn port(name: &str, device: Device, ip: [u8; 4], mac: Mac, neighbours: &[([u8; 4], Mac)]) -> PortConfig {
    PortConfig {
        name: name.to_owned(),
        device,
        networks: vec![network(ip)],
        vlan: None,
        mtu: 1_500,
        mac: Some(mac),
        neighbours: neighbours.iter().map(|&(ip, mac)| (IpAddr::from(ip), mac)).collect(),
    }
}

fn config(ports: Vec<PortConfig>, shards: &[u16], base_port: u16) -> DpdkConfig {
    let (eal, shards) = (EalConfig::default(), vec![shards.to_vec()]);
    let (receive_descriptors, transmit_descriptors) = (DESCRIPTORS, DESCRIPTORS);
    DpdkConfig { eal, ports, base_port, shards, receive_descriptors, transmit_descriptors }
}

pub(crate) struct Station {
    pub(crate) ports: DpdkPorts,
    queue: Option<DpdkQueue>,
    pub(crate) pool: Pool,
    pub(crate) arena: Arena,
    started: Instant,
}

impl Station {
    /// One worker with these ports.
    pub(crate) fn open(configs: Vec<PortConfig>, shards: &[u16], base_port: u16) -> Self {
        Self::open_with(configs, shards, base_port, BUFFER_BYTES, BUFFERS)
    }

    /// Only opens the devices.
    pub(crate) fn try_open(configs: Vec<PortConfig>, shards: &[u16]) -> Result<DpdkPorts, PortError> {
        DpdkPorts::with(eal(), config(configs, shards, BASE_PORT))
    }

    pub(crate) fn open_with(
        configs: Vec<PortConfig>,
        shards: &[u16],
        base_port: u16,
        buffer_bytes: u32,
        buffers: usize,
    ) -> Self {
        let eal = eal();
        let stride = buffer_bytes + HEADROOM_BYTES;
        let bytes = buffers * stride as usize;
        let mut arena = Arena::create(ArenaConfig {
            bytes,
            buffer_bytes: stride,
            pages: Pages::Ordinary,
            lock: false,
            numa_node: None,
        })
        .unwrap();
        let (base, bytes) = arena.region();
        let mut pool = Pool::new(arena.take_behind(HEADROOM_BYTES, buffers).unwrap());
        let mut ports = DpdkPorts::with(eal, config(configs, shards, base_port)).unwrap();
        ports
            .add_region(Region { base: base.as_ptr().expose_provenance(), bytes, page_bytes: arena.page_bytes() })
            .unwrap();
        let queue = ports.seat(0).unwrap().open(shards, &mut pool).unwrap();
        ports.start_all().unwrap();
        Self { ports, queue: Some(queue), pool, arena, started: Instant::now() }
    }

    pub(crate) fn parts(&mut self) -> (&mut DpdkQueue, &mut Pool) {
        (self.queue.as_mut().unwrap(), &mut self.pool)
    }

    pub(crate) fn queue(&mut self) -> &mut DpdkQueue {
        self.queue.as_mut().unwrap()
    }

    /// Lets the cold side work.
    pub(crate) fn tick(&mut self) {
        let now = u64::try_from(self.started.elapsed().as_nanos()).unwrap() + 1_000_000_000;
        self.ports.tick(now);
    }

    pub(crate) fn now_ns(&self) -> u64 {
        u64::try_from(self.started.elapsed().as_nanos()).unwrap() + 1_000_000_000
    }

    /// Receives what is there.
    pub(crate) fn receive(&mut self) -> Vec<Received> {
        let mut batch = RxBatch::new();
        let (queue, pool) = self.parts();
        queue.rx_burst(pool, &mut batch);
        batch.into_iter().collect()
    }

    /// Waits until something holds, working meanwhile.
    pub(crate) fn until(&mut self, what: &str, mut holds: impl FnMut(&mut Self) -> bool) {
        let end = Instant::now() + PATIENCE;
        while !holds(self) {
            assert!(Instant::now() < end, "waited in vain: {what}; {:?}", self.ports.reports());
            self.tick();
            std::thread::yield_now();
        }
    }

    pub(crate) fn state(&mut self, port: usize) -> PortState {
        self.ports.reports()[port].state
    }

    /// Sends frames one by one; what does not go at once is tried again.
    pub(crate) fn send(&mut self, shard: u16, destination: Endpoint, frames: &[&[u8]]) {
        for frame in frames {
            let mut buffer = self.pool.get().unwrap();
            buffer.bytes_mut()[..frame.len()].copy_from_slice(frame);
            let len = u32::try_from(frame.len()).unwrap();
            self.transmit(Transmit { buffer, offset: 0, len, stride: len, shard, destination, token: 7 });
        }
    }

    /// Sends one frame; whether the device took it.
    pub(crate) fn send_once(&mut self, shard: u16, destination: Endpoint, frame: &[u8]) -> bool {
        let mut buffer = self.pool.get().unwrap();
        buffer.bytes_mut()[..frame.len()].copy_from_slice(frame);
        let len = u32::try_from(frame.len()).unwrap();
        self.transmit(Transmit { buffer, offset: 0, len, stride: len, shard, destination, token: 7 }).is_none()
    }

    /// Sends an item and waits until it is complete; what became of it.
    pub(crate) fn transmit(&mut self, item: Transmit) -> Option<tachyon_wire::Reason> {
        let mut from = TxBatch::new();
        from.push(item);
        let mut completions = CompletionBatch::new();
        let end = Instant::now() + PATIENCE;
        loop {
            let queue = self.queue.as_mut().unwrap();
            queue.tx_burst(&mut from);
            queue.completions(&mut completions);
            if let Some(completion) = completions.pop() {
                self.pool.put(completion.buffer);
                return completion.error;
            }
            assert!(Instant::now() < end, "nothing completes");
        }
    }

    /// The worker ends without a word, as one does that panicked too often. Its buffers stay where they are.
    pub(crate) fn abandon(&mut self) {
        drop(self.queue.take());
    }

    /// A counter of a port.
    pub(crate) fn counter(&mut self, port: usize, name: &str) -> u64 {
        let rows = self.ports.reports();
        rows[port].counters.iter().find(|(known, _)| known == name).map_or(0, |(_, count)| *count)
    }
}

impl Drop for Station {
    fn drop(&mut self) {
        let Some(queue) = self.queue.take() else { return };
        let missing = queue.close(&mut self.ports, &mut self.pool);
        if !std::thread::panicking() {
            assert_eq!(missing, 0, "buffers that did not come back");
        }
    }
}
