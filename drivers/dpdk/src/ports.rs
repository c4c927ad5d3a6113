//! The cold side: all ports of a node, from opening to stopping; who is where; what people want to know.
//!
//! One thread owns this, and it is no worker. It opens devices, sets up each worker's queues, answers neighbours for all of
//! them, watches links, and stops and starts ports while workers go on.

use crate::{
    config::{DpdkConfig, PortConfig, Region},
    device::Device,
    eal::{Eal, enter_thread, last_error, leave_thread},
    log,
    packets::RawQueue,
    pool::{ArenaPool, SmallPool},
    port::{Opened, Settings},
    queue::{DpdkQueue, Out, PortQueue},
    shared::{PORTS_MAX, Shared, Use},
    steer::{Families, Owners},
    wires::{DeskWires, HEARD_BYTES, Heard, WorkerWires, wires},
};
use arrayvec::ArrayVec;
use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicPtr, AtomicU32, Ordering},
    },
};
use tachyon_driver_api::{BURST_MAX, Pool, Port, PortError, PortInfo, PortReport, PortState, Ports, Said};
use tachyon_driver_dpdk_sys::{self as sys, rte_mempool};
use tachyon_driver_ether::{
    Foreign, Interface, Mac, Neighbours, News, Receiver, Responder, UdpChecksum, WANTED_MAX, address,
};

/// Between looks at links and counts.
const LOOK_NS: u64 = 100_000_000;
/// Headers in memory of their own that one worker has at hand, beside one for each descriptor that a device sends from.
const SMALL: u32 = 2_047;
/// Room of each: 66 bytes of headers, or an answer to a neighbour, in whole lines.
const SMALL_BYTES: u32 = 128;
/// Packets in DPDK's own memory, at least: the AF_XDP driver puts 2,048 into its fill ring at once.
const PLAIN: u32 = 4_095;
/// Room of a packet in DPDK's own memory: MTU 1500 and then some. DPDK's usual size, which AF_XDP takes.
pub(crate) const PLAIN_BYTES: u32 = 2_048;
/// Bytes that a frame has around it in a packet at its longest: Ethernet 14, VLAN 4, IPv6 40, UDP 8; IPv4's are 20 less.
const V4_BYTES: u32 = 28;

/// What a port is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Doing {
    /// Its file is not there yet.
    Waiting,
    /// It runs.
    Ready,
    /// It runs, and its link is down.
    LinkDown,
    /// Told to stop; workers still have to let go.
    Stopping,
    /// Stopped.
    Stopped,
    /// Its device is gone or does not start.
    Failed,
}

impl Doing {
    const fn state(self) -> PortState {
        match self {
            Self::Waiting => PortState::Waiting,
            Self::Ready => PortState::Ready,
            Self::LinkDown => PortState::LinkDown,
            // Neither receives nor sends any more.
            Self::Stopping | Self::Stopped => PortState::Stopped,
            Self::Failed => PortState::Failed,
        }
    }
}

struct PortDesk {
    config: PortConfig,
    interface: Interface,
    opened: Option<Opened>,
    doing: Doing,
    why: String,
    speed_mbps: Option<u32>,
    /// Workers have to see this before the device may be stopped.
    generation: u64,
    /// Packets that the device dropped for want of room, as it said last; they stay dropped when it is gone.
    missed: u64,
}

/// The pools that workers made, for queues that are set up later. Workers own them; here they are only named to DPDK.
type Pools = Arc<Vec<WorkerPools>>;

/// One worker's pools.
#[derive(Debug, Default)]
struct WorkerPools {
    /// Its buffers.
    arena: AtomicPtr<rte_mempool>,
    /// For devices that take no memory but their own; null without such.
    plain: AtomicPtr<rte_mempool>,
}

/// See the module.
pub struct DpdkPorts {
    eal: Eal,
    config: DpdkConfig,
    owners: Owners,
    desks: Vec<PortDesk>,
    shared: Arc<Shared>,
    pools: Pools,
    regions: Vec<Region>,
    responder: Responder,
    wires: Vec<DeskWires>,
    seats: Vec<Option<WorkerWires>>,
    look_ns: u64,
    now_ns: u64,
    degraded: Vec<String>,
}

impl core::fmt::Debug for DpdkPorts {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "DpdkPorts({} ports, {} workers)", self.desks.len(), self.wires.len())
    }
}

impl DpdkPorts {
    /// Starts DPDK and opens every device; nothing is received before [`DpdkPorts::start_all`].
    ///
    /// # Errors
    /// What happened, at which device, and what to do.
    pub fn open(config: DpdkConfig) -> Result<Self, PortError> {
        if config.ports.is_empty() || config.ports.len() > PORTS_MAX {
            return Err(PortError(format!("{} ports: give it 1 to {PORTS_MAX}", config.ports.len())));
        }
        let eal = Eal::start(&config.eal)?;
        Self::with(eal, config)
    }

    /// The same where DPDK runs already.
    ///
    /// # Errors
    /// As for [`DpdkPorts::open`].
    pub fn with(eal: Eal, config: DpdkConfig) -> Result<Self, PortError> {
        let workers = u16::try_from(config.shards.len()).unwrap_or(u16::MAX);
        let (seats, wires): (Vec<_>, Vec<_>) =
            (0..workers).map(|_| wires()).map(|(seat, desk)| (Some(seat), desk)).unzip();
        let mut ports = Self {
            eal,
            owners: config.owners(),
            desks: Vec::new(),
            shared: Shared::new(workers),
            pools: Arc::new((0..workers).map(|_| WorkerPools::default()).collect()),
            regions: Vec::new(),
            responder: Responder::new(Vec::new(), &[]),
            wires,
            seats,
            look_ns: 0,
            now_ns: 0,
            degraded: Vec::new(),
            config,
        };
        if !eal.huge_pages() {
            ports.degraded.push(
                "packet descriptors stand on ordinary pages: reserve huge ones (`sysctl -w vm.nr_hugepages=256`)"
                    .to_owned(),
            );
        }
        ports.open_devices()?;
        Ok(ports)
    }

    /// Makes an arena known, so that devices may write into it: at most once each, and before workers open their queues.
    ///
    /// # Errors
    /// DPDK or a device does not take it.
    pub fn add_region(&mut self, region: Region) -> Result<(), PortError> {
        if self.regions.contains(&region) {
            return Ok(());
        }
        let Region { base, bytes, page_bytes } = region;
        let mut pages: Vec<u64> = (base..base + bytes).step_by(page_bytes).map(|page| page as u64).collect();
        let count = u32::try_from(pages.len()).unwrap_or(u32::MAX);
        let start = std::ptr::with_exposed_provenance_mut(base);
        // SAFETY: the region is an arena, which stays mapped until the process ends.
        let result = unsafe { sys::rte_extmem_register(start, bytes, pages.as_mut_ptr(), count, page_bytes) };
        // SAFETY: reads a thread-local number.
        if result != 0 && unsafe { sys::tachyon_errno() } != libc::EEXIST {
            return Err(PortError(format!("DPDK does not take the arena: {}", last_error())));
        }
        for opened in self.desks.iter().filter_map(|desk| desk.opened.as_ref()) {
            opened.map(std::ptr::with_exposed_provenance_mut(base), bytes)?;
        }
        self.regions.push(region);
        Ok(())
    }

    fn open_devices(&mut self) -> Result<(), PortError> {
        for index in 0..self.config.ports.len() {
            let config = self.config.ports[index].clone();
            let waits = config.device.awaited().map(|path| format!("waits for {}", path.display()));
            let opened = match waits {
                Some(_) => None,
                None => Some(self.open_device(index, &config)?),
            };
            let mac = opened.as_ref().map_or(config.mac.unwrap_or(made_up_mac(index)), |opened| opened.mac);
            let interface = Interface {
                mac,
                vlan: config.vlan,
                networks: config.networks.iter().copied().collect(),
                base_port: self.config.base_port,
                shard_count: u16::try_from(self.owners.queues.len()).unwrap_or(u16::MAX),
                mtu: config.mtu,
            };
            let doing = if opened.is_some() { Doing::Stopped } else { Doing::Waiting };
            let why = waits.unwrap_or_default();
            self.desks.push(PortDesk {
                config,
                interface,
                opened,
                doing,
                why,
                speed_mbps: None,
                generation: 0,
                missed: 0,
            });
        }
        let interfaces = self.desks.iter().map(|desk| desk.interface.clone()).collect();
        let fixed = (0u16..).zip(&self.desks);
        let fixed: Vec<_> = fixed
            .flat_map(|(port, desk)| desk.config.neighbours.iter().map(move |&(ip, mac)| (ip, port, mac)))
            .collect();
        self.responder = Responder::new(interfaces, &fixed);
        Ok(())
    }

    fn open_device(&self, index: usize, config: &PortConfig) -> Result<Opened, PortError> {
        let software = !matches!(config.device, Device::Pci(_));
        let settings = Settings {
            queues: u16::try_from(self.wires.len()).unwrap_or(u16::MAX),
            mtu: config.mtu,
            receive_descriptors: self.config.receive_descriptors,
            transmit_descriptors: self.config.transmit_descriptors,
            families: families(config),
            mac: config.mac.or(software.then(|| made_up_mac(index))),
        };
        let device = &config.device;
        let opened = device.check(config.mtu).and_then(|()| Opened::open(self.eal, device, &settings));
        let opened = opened.map_err(|error| PortError(format!("port {}: {error}", config.name)))?;
        for region in &self.regions {
            opened.map(std::ptr::with_exposed_provenance_mut(region.base), region.bytes)?;
        }
        Ok(opened)
    }

    /// What worker `worker` opens its queue with; once each.
    pub fn seat(&mut self, worker: u16) -> Option<DpdkSeat> {
        let wires = self.seats.get_mut(usize::from(worker))?.take()?;
        Some(DpdkSeat {
            eal: self.eal,
            worker,
            base_port: self.config.base_port,
            held: self.config.buffers_held(),
            small: SMALL + self.config.ports.len() as u32 * u32::from(self.config.transmit_descriptors),
            neighbours: WANTED_MAX + self.desks.iter().map(|desk| desk.config.neighbours.len()).sum::<usize>(),
            ports: self.desks.iter().map(PortDesk::seen_by_worker).collect(),
            names: self.desks.iter().map(|desk| desk.config.name.clone()).collect(),
            socket: self.desks.iter().find_map(|desk| desk.opened.as_ref()).map_or(-1, |opened| opened.socket),
            shared: Arc::clone(&self.shared),
            pools: Arc::clone(&self.pools),
            wires: Some(wires),
        })
    }

    /// Buffers of each worker that its devices and DPDK's pool hold.
    #[must_use]
    pub fn buffers_held(&self) -> u32 {
        u32::try_from(self.config.buffers_held()).unwrap_or(u32::MAX)
    }

    /// Lets packets come, once every worker has opened its queue.
    ///
    /// # Errors
    /// A device does not start.
    pub fn start_all(&mut self) -> Result<(), PortError> {
        for index in 0..self.desks.len() {
            if self.desks[index].opened.is_some() {
                self.start_device(index)?;
            }
        }
        Ok(())
    }

    fn start_device(&mut self, index: usize) -> Result<(), PortError> {
        let desk = &mut self.desks[index];
        let Some(opened) = &mut desk.opened else { return Ok(()) };
        for (queue, pools) in (0u16..).zip(self.pools.iter()) {
            let pool = if keeps_to_itself(&desk.config.device) { &pools.plain } else { &pools.arena };
            opened.set_up(queue, pool.load(Ordering::Acquire))?;
        }
        match opened.start(families(&desk.config), &self.owners) {
            Err(error) if is_client(&desk.config.device) => {
                (desk.doing, desk.why) = (Doing::LinkDown, format!("nobody listens at its socket yet ({error})"));
                return Ok(());
            }
            started => started?,
        }
        if desk.interface.networks.iter().any(|network| network.ip.is_ipv6()) {
            // Neighbour discovery comes by multicast. A device without the switch delivers it anyway.
            // SAFETY: a started port.
            unsafe { sys::rte_eth_allmulticast_enable(opened.number) };
        }
        self.look_at(index);
        Ok(())
    }

    /// Looks at a running port's link, and lets workers use what there is.
    fn look_at(&mut self, index: usize) {
        let desk = &mut self.desks[index];
        let Some(opened) = &desk.opened else { return };
        let (up, speed_mbps) = opened.link();
        desk.speed_mbps = speed_mbps;
        let doing = match () {
            () if opened.is_gone() => Doing::Failed,
            () if up => Doing::Ready,
            () => Doing::LinkDown,
        };
        if doing == desk.doing {
            return;
        }
        desk.doing = doing;
        let (usable, why) = match doing {
            Doing::Ready => (Use::Both, ""),
            Doing::LinkDown if is_client(&desk.config.device) => {
                (Use::None, "the other side is gone; it is asked again")
            }
            Doing::LinkDown => (Use::Receive, "its link is down: look at the cable and the other end"),
            _ => (Use::None, "its device is gone: look at the machine's log, put it back, and start the node again"),
        };
        why.clone_into(&mut desk.why);
        desk.generation = self.shared.allow(index, opened.number, usable);
    }

    /// A shared-memory client does not connect again by itself; it does when it is started.
    fn connect_again(&mut self, index: usize) {
        self.look_at(index);
        let desk = &mut self.desks[index];
        let Some(opened) = desk.opened.as_mut().filter(|_| desk.doing == Doing::LinkDown) else { return };
        if opened.running && self.shared.all_saw(desk.generation) {
            let _ = opened.stop(); // what does not stop does not start either, which is seen next
        }
        if !opened.running && opened.start(families(&desk.config), &self.owners).is_ok() {
            self.look_at(index);
        }
    }

    fn open_awaited(&mut self, index: usize) {
        if self.desks[index].config.device.awaited().is_some() {
            return;
        }
        let config = self.desks[index].config.clone();
        let result = self.open_device(index, &config).and_then(|opened| {
            self.desks[index].opened = Some(opened);
            self.start_device(index)
        });
        if let Err(error) = result {
            (self.desks[index].doing, self.desks[index].why) = (Doing::Failed, error.0);
        }
    }

    /// Gives up a device that is gone once no worker polls it: whoever takes it out of the machine waits for that.
    fn let_go(&mut self, index: usize) {
        let desk = &mut self.desks[index];
        let gone = desk.opened.as_ref().is_some_and(Opened::is_gone);
        if gone
            && self.shared.all_saw(desk.generation)
            && let Some(opened) = desk.opened.take()
        {
            opened.close();
        }
    }

    fn end_stop(&mut self, index: usize) {
        let desk = &mut self.desks[index];
        let Some(opened) = &mut desk.opened else { return };
        (desk.doing, desk.why) = match opened.stop() {
            Ok(()) => (Doing::Stopped, "stopped by an operator; `tachyon ports start` starts it".to_owned()),
            Err(error) => (Doing::Failed, error.0),
        };
    }

    /// Packets that want an answer, and what follows from time passing.
    fn talk(&mut self) {
        let Self { responder, wires, now_ns, .. } = self;
        let now_ns = *now_ns;
        let mut answers: ArrayVec<Heard, BURST_MAX> = ArrayVec::new();
        let mut news: Vec<News> = Vec::new();
        let mut send = |port: u16, packet: &[u8]| {
            let mut answer = Heard { port, len: packet.len().min(HEARD_BYTES) as u16, bytes: [0; HEARD_BYTES] };
            answer.bytes[..usize::from(answer.len)].copy_from_slice(&packet[..usize::from(answer.len)]);
            let _ = answers.try_push(answer); // in a storm, the rest asks again
        };
        for desk in wires.iter_mut() {
            while let Ok(to) = desk.wanted.pop() {
                responder.note(address(&to), now_ns);
            }
            while let Ok(heard) = desk.heard.pop() {
                let packet = &heard.bytes[..usize::from(heard.len)];
                responder.handle(heard.port, packet, now_ns, &mut send, &mut |one| news.push(one));
            }
        }
        responder.tick(now_ns, &mut send, &mut |one| news.push(one));
        // The first worker speaks for all; if it is gone, the next one.
        if let Some(first) = wires.iter_mut().find(|desk| desk.is_alive()) {
            answers.into_iter().for_each(|answer| {
                let _ = first.answers.push(answer); // the same
            });
        }
        for desk in wires.iter_mut() {
            desk.tell(&news);
        }
    }

    fn find(&self, name: &str) -> Result<usize, PortError> {
        let names = || self.desks.iter().map(|desk| desk.config.name.as_str()).collect::<Vec<_>>().join(", ");
        let found = self.desks.iter().position(|desk| desk.config.name == name);
        found.ok_or_else(|| PortError(format!("there is no port {name}; there are {}", names())))
    }

    /// Gives up all devices, and does nothing while a worker may still poll one: to close one under it would be undefined.
    /// What their rings held is back in the pools then.
    pub fn close(&mut self) {
        for (index, desk) in self.desks.iter_mut().enumerate() {
            if let Some(opened) = &desk.opened
                && self.shared.port(index).0 != Use::None
            {
                desk.generation = self.shared.allow(index, opened.number, Use::None);
            }
        }
        if !self.desks.iter().all(|desk| self.shared.all_saw(desk.generation)) {
            return;
        }
        for desk in &mut self.desks {
            if let Some(opened) = desk.opened.take() {
                opened.close();
            }
            desk.doing = Doing::Stopped;
        }
    }

    /// What is weaker than it could be.
    #[must_use]
    pub fn degraded(&self) -> Vec<String> {
        let steering = self.desks.iter().filter_map(|desk| {
            let opened = desk.opened.as_ref()?;
            let lost = opened.steering.strip_prefix("none: ")?;
            Some(format!(
                "port {}: packets do not find their worker by themselves ({lost}); what arrives at another one ends as \
                 E_INGRESS_WRONG_SHARD: use one worker, or a device with flow rules or a hash over ports",
                desk.config.name
            ))
        });
        let mixed = self.desks.iter().filter(|desk| {
            let Families { v4, v6 } = families(&desk.config);
            v4 && v6 && desk.opened.as_ref().is_some_and(Opened::is_steered_by_hash_alone)
        });
        let mixed = mixed.map(|desk| {
            format!(
                "port {}: its hash finds the worker of every packet over IPv4, but over IPv6 only from addresses whose 12th byte is \
                 0 or 128; others end as E_INGRESS_WRONG_SHARD: give each family a port of its own, or use one worker",
                desk.config.name
            )
        });
        self.degraded.iter().cloned().chain(steering).chain(mixed).collect()
    }

    /// A running port's queue, to move packets as they are. Whoever has it polls instead of the worker of that number.
    #[must_use]
    pub fn raw(&self, port: usize, queue: u16) -> Option<RawQueue> {
        let opened = self.desks.get(port)?.opened.as_ref().filter(|opened| opened.running)?;
        // SAFETY: set up with a queue for each worker, and started. That nobody else polls it is what the text above asks.
        (usize::from(queue) < self.wires.len()).then(|| unsafe { RawQueue::new(opened.number, queue) })
    }
}

/// What a worker opens its queue with.
pub struct DpdkSeat {
    eal: Eal,
    worker: u16,
    base_port: u16,
    held: usize,
    small: u32,
    /// Destinations that the cold side may tell the way to.
    neighbours: usize,
    ports: Vec<SeenPort>,
    names: Vec<String>,
    socket: i32,
    shared: Arc<Shared>,
    pools: Pools,
    wires: Option<WorkerWires>,
}

impl core::fmt::Debug for DpdkSeat {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "DpdkSeat(worker {})", self.worker)
    }
}

/// What a worker has to know of a port.
#[derive(Clone, Debug)]
struct SeenPort {
    interface: Interface,
    udp_checksum: bool,
    pieces: bool,
    copies_in: bool,
    copies_out: bool,
}

impl PortDesk {
    fn seen_by_worker(&self) -> SeenPort {
        let abilities = self.opened.as_ref().map(|opened| opened.abilities).unwrap_or_default();
        // What receives a ring's packets takes them in pieces as they are, and software devices copy all pieces.
        let pieces = abilities.pieces || !matches!(self.config.device, Device::Pci(_) | Device::AfXdp { .. });
        SeenPort {
            interface: self.interface.clone(),
            udp_checksum: abilities.udp_checksum,
            pieces,
            // At the end of a cable memory is the sender's.
            copies_in: keeps_to_itself(&self.config.device) || matches!(self.config.device, Device::Crossed { .. }),
            copies_out: keeps_to_itself(&self.config.device),
        }
    }
}

impl Port for DpdkSeat {
    type Queue = DpdkQueue;

    fn open(&mut self, _shards: &[u16], pool: &mut Pool) -> Result<DpdkQueue, PortError> {
        let Some(wires) = self.wires.take() else {
            return Err(PortError("a worker's queue can be opened once".to_owned()));
        };
        enter_thread()?;
        let (total, held) = (pool.free(), self.held);
        if total < held + held / 4 {
            return Err(PortError(format!(
                "{total} buffers for a worker whose devices hold {held}: set buffers_per_worker to {} or more, or lower the \
                 descriptors in [dpdk]",
                (held * 2).next_multiple_of(1_024)
            )));
        }
        // Each with a name of its own, also over the life of several queues.
        let unique = SERIAL.fetch_add(1, Ordering::Relaxed);
        let mut arena_pool = ArenaPool::new(self.eal, &format!("arena-{unique}"), pool, self.socket)?;
        let small = SmallPool::new(self.eal, &format!("small-{unique}"), self.small, SMALL_BYTES, self.socket)?;
        arena_pool.withdraw(total)?;
        let given = arena_pool.refill_all(pool, held);
        let pools = &self.pools[usize::from(self.worker)];
        pools.arena.store(arena_pool.as_ptr(), Ordering::Release);
        let plain = if self.ports.iter().any(|port| port.copies_out) {
            let count = u32::try_from(held).unwrap_or(u32::MAX).max(PLAIN);
            let plain = SmallPool::new(self.eal, &format!("plain-{unique}"), count, PLAIN_BYTES, self.socket)?;
            pools.plain.store(plain.as_ptr(), Ordering::Release);
            Some(plain)
        } else {
            None
        };
        Ok(DpdkQueue {
            worker: self.worker,
            ports: self.ports.iter().map(|port| port.queue(self.worker)).collect(),
            pool: arena_pool,
            small,
            plain,
            neighbours: Neighbours::new(self.neighbours),
            shared: Arc::clone(&self.shared),
            wires,
            base_port: self.base_port,
            generation: 0,
            next: 0,
            owed: 0,
            held: given,
            waiting: 0,
            turns: 0,
            dry_turns: 0,
            done: ArrayVec::new(),
            strange: ArrayVec::new(),
            starved: 0,
        })
    }

    fn info(&self) -> PortInfo {
        let mtu = self.ports.iter().map(|port| port.interface.mtu).min().unwrap_or(0);
        PortInfo {
            driver: "dpdk",
            device: self.names.join(", "),
            frame_bytes_max: u32::from(mtu).saturating_sub(V4_BYTES) / 64 * 64,
            degraded: Vec::new(),
        }
    }
}

/// Makes names that no other pool of this process has.
static SERIAL: AtomicU32 = AtomicU32::new(0);

impl SeenPort {
    fn queue(&self, worker: u16) -> PortQueue {
        PortQueue {
            usable: Use::None,
            // SAFETY: not called before the cold side says that the port may be used, which brings the right number.
            raw: unsafe { RawQueue::new(0, worker) },
            receiver: Receiver::new(&self.interface),
            interface: self.interface.clone(),
            checksum: if self.udp_checksum { UdpChecksum::Device } else { UdpChecksum::None },
            pieces: self.pieces,
            copies_in: self.copies_in,
            copies_out: self.copies_out,
            out: Out::default(),
        }
    }
}

fn families(config: &PortConfig) -> Families {
    let has = |v4: bool| config.networks.iter().any(|network| network.ip.is_ipv4() == v4);
    Families { v4: has(true), v6: has(false) }
}

/// Whether it is the side of a shared memory that has to ask for it.
const fn is_client(device: &Device) -> bool {
    matches!(device, Device::Memif { server: false, .. })
}

/// Whether its driver finds memory by the descriptor's place in DPDK's own pool, so that the arena's cannot be given to it.
const fn keeps_to_itself(device: &Device) -> bool {
    matches!(device, Device::AfXdp { .. })
}

/// The address of a software device that is not given one: locally administered, and different for each port of a node.
fn made_up_mac(index: usize) -> Mac {
    [0x02, 0, 0, 0, 0, u8::try_from(index + 1).unwrap_or(u8::MAX)]
}

impl Ports for DpdkPorts {
    fn reports(&mut self) -> Vec<PortReport> {
        self.desks.iter().enumerate().map(|(index, desk)| self.report(index, desk)).collect()
    }

    fn stop(&mut self, name: &str) -> Result<(), PortError> {
        let index = self.find(name)?;
        let desk = &mut self.desks[index];
        let (Doing::Ready | Doing::LinkDown, Some(opened)) = (desk.doing, &desk.opened) else {
            return Err(PortError(format!("port {name} does not run, so it cannot be stopped")));
        };
        desk.generation = self.shared.allow(index, opened.number, Use::None);
        (desk.doing, desk.why) = (Doing::Stopping, "workers are letting go of it".to_owned());
        Ok(())
    }

    fn start(&mut self, name: &str) -> Result<(), PortError> {
        let index = self.find(name)?;
        let desk = &mut self.desks[index];
        match desk.doing {
            Doing::Stopped => {}
            Doing::Ready | Doing::LinkDown | Doing::Waiting => return Ok(()),
            Doing::Stopping => return Err(PortError(format!("port {name} is being stopped; try again"))),
            Doing::Failed => return Err(PortError(format!("port {name} failed: {}", desk.why))),
        }
        let Some(opened) = &mut desk.opened else { return Ok(()) };
        opened.start(families(&desk.config), &self.owners)?;
        self.look_at(index);
        Ok(())
    }

    /// Opens ports whose file appeared, looks at links, ends stops, answers neighbours.
    fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.talk();
        let look = now_ns.wrapping_sub(self.look_ns) >= LOOK_NS;
        if look {
            self.look_ns = now_ns;
            for desk in &mut self.desks {
                desk.missed = desk.opened.as_ref().map_or(desk.missed, Opened::missed);
            }
            self.shared.set_missed(self.desks.iter().map(|desk| desk.missed).sum());
        }
        for index in 0..self.desks.len() {
            match self.desks[index].doing {
                Doing::Waiting => self.open_awaited(index),
                Doing::Stopping if self.shared.all_saw(self.desks[index].generation) => self.end_stop(index),
                Doing::LinkDown if look && is_client(&self.desks[index].config.device) => self.connect_again(index),
                Doing::Ready | Doing::LinkDown if look => self.look_at(index),
                Doing::Failed => self.let_go(index),
                _ => {}
            }
        }
    }

    fn want(&mut self, to: IpAddr) {
        self.responder.want(to, self.now_ns);
        self.talk();
    }

    fn said(&mut self) -> Vec<Said> {
        let serious = log::take().into_iter().filter(|line| line.level >= log::Level::Warning);
        serious.map(|line| Said { is_error: line.level == log::Level::Error, text: line.to_string() }).collect()
    }
}

impl DpdkPorts {
    fn report(&self, index: usize, desk: &PortDesk) -> PortReport {
        let opened = desk.opened.as_ref();
        let mut counters = opened.map(Opened::counters).unwrap_or_default();
        let foreign = Foreign::ALL.iter();
        let foreign = foreign.map(|&cause| (format!("not_frames_{}", cause.name()), self.shared.foreign(index, cause)));
        counters.extend(foreign.filter(|(_, count)| *count > 0));
        if index == 0 {
            // These are of the node, and stand with its first port.
            counters.push(("items_unreachable".to_owned(), self.shared.unreachable()));
            counters.push(("items_copied".to_owned(), self.shared.copied()));
        }
        let addresses = desk.config.networks.iter().map(|network| format!("{}/{}", network.ip, network.prefix));
        PortReport {
            name: desk.config.name.clone(),
            driver: "dpdk",
            device: desk.config.device.title(),
            state: desk.doing.state(),
            why: desk.why.clone(),
            mac: Some(desk.interface.mac),
            speed_mbps: desk.speed_mbps,
            mtu: Some(desk.config.mtu.into()),
            numa_node: opened.and_then(|opened| u32::try_from(opened.socket).ok()),
            queues: u16::try_from(self.wires.len()).unwrap_or(u16::MAX),
            steering: opened.map_or_else(|| "none".to_owned(), |opened| opened.steering.clone()),
            addresses: addresses.collect(),
            counters,
        }
    }
}

/// A worker that ends, however, polls no more: ports need not wait for it, and another one speaks for it.
impl Drop for DpdkQueue {
    fn drop(&mut self) {
        self.shared.leave(self.worker);
        leave_thread();
    }
}

impl DpdkQueue {
    /// Gives every buffer back to `pool`, on the thread that polled; `ports` are closed for it, so other workers' queues have
    /// to be gone before. Returns how many buffers are missing: 0 unless one was lost or a queue is left.
    pub fn close(mut self, ports: &mut DpdkPorts, pool: &mut Pool) -> usize {
        self.drop_waiting();
        self.shared.leave(self.worker);
        ports.close();
        while let Some(m) = self.pool.take() {
            let buffer = self.pool.buffer(m);
            pool.put(buffer);
        }
        self.strange.drain(..).for_each(|completion| pool.put(completion.buffer));
        pool.total() - pool.free()
    }

    /// Descriptors in DPDK's pools now, and how many there are: equal to what [`RxQueue::held`](tachyon_driver_api::RxQueue::held)
    /// counts when no device has any.
    #[must_use]
    pub fn pool_count(&self) -> (usize, usize) {
        (self.pool.available(), self.small.available())
    }
}
