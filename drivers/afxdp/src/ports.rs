//! The cold side: looks after interfaces, opens and closes sockets, finds neighbours, and says how all of it is.

use crate::{
    AfxdpConfig, AfxdpSeat, MapKey, PORTS_MAX, PortConfig,
    buffers::Layout,
    calls,
    netlink::{Link, Netlink},
    port::{SeatPort, is_away, packet_bytes, why_refused},
    resolver::{Kernel, Resolver},
    shared::Shared,
    socket::{Socket, SocketPlan},
    wires::{Answer, DeskWires, Order, WorkerWires, wires},
};
use core::sync::atomic::Ordering;
use std::{
    fs, io, mem,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    thread,
    time::Duration,
};
use tachyon_driver_api::{PortError, PortReport, PortState, Ports, Said};
use tachyon_driver_ether::{Foreign, Interface, NETWORKS_MAX, Network};
use tachyon_wire::Reason;

/// Between looks at interfaces and counts, in ns: how long a port that lost its link goes on unseen.
const LOOK_NS: u64 = 100_000_000;
/// How long a socket may finish nothing of what it was given, while its worker runs, before it is closed and opened again, in ns.
const STUCK_NS: u64 = 2_000_000_000;
/// Looks of a worker at its socket in that time, so that a worker that sleeps is not taken for a socket that is stuck.
const STUCK_LOOKS: u64 = 64;
/// After a socket could not be opened, until the next try, in ns.
const RETRY_NS: u64 = 50_000_000;
/// How often and after what pause a device is asked whether it is done with closed sockets, at the end.
const RELEASE_TRIES: u32 = 100;
const RELEASE_PAUSE: Duration = Duration::from_millis(10);

/// One worker's socket of one port, as the cold side sees it.
#[derive(Debug)]
enum Held {
    /// The worker has not opened its queue yet, or is gone.
    Nobody,
    /// There is none; one may be opened from this time on.
    Absent(SocketPlan, u64),
    /// The worker uses it.
    Open(Open),
    /// The worker is to give it up.
    Detaching(SocketPlan, bool, Reason),
    /// It is closed; what it had comes back once the device is done with it.
    Closing(SocketPlan, bool, Reason),
}

#[derive(Debug)]
struct Open {
    plan: SocketPlan,
    fd: Arc<OwnedFd>,
    zero_copy: bool,
    /// What it had counted when it was last asked.
    counted: [u64; COUNTS.len()],
    /// What the worker had finished when that last changed, its looks then, and when that was.
    finished: u64,
    looks: u64,
    moved_ns: u64,
}

/// One port.
#[derive(Debug)]
struct Desk {
    config: PortConfig,
    link: Option<Link>,
    interface: Interface,
    stopped: bool,
    /// The shards of each worker.
    shards: Vec<Vec<u16>>,
    /// By worker.
    held: Vec<Held>,
    /// What each worker was told last.
    told: Vec<Option<(Interface, bool)>>,
    /// Why a socket could not be opened.
    why: String,
    counts: [u64; COUNTS.len()],
    speed_mbps: Option<u32>,
    numa_node: Option<u32>,
}

/// What sockets count, all of a port together.
const COUNTS: [&str; 4] = ["rx_dropped", "rx_ring_full", "rx_fill_ring_empty", "tx_invalid"];

/// All ports of a node.
#[derive(Debug)]
pub struct AfxdpPorts {
    config: AfxdpConfig,
    netlink: Netlink,
    desks: Vec<Desk>,
    wires: Vec<DeskWires>,
    seats: Vec<Option<WorkerWires>>,
    shared: Arc<Shared>,
    resolver: Resolver,
    said: Vec<Said>,
    now_ns: u64,
    looked_ns: u64,
}

impl AfxdpPorts {
    /// Looks at the interfaces; opens no socket yet. To be called in the network namespace that they are in.
    ///
    /// # Errors
    /// A configuration that cannot work, or an interface that is not there, and what to do.
    pub fn new(config: AfxdpConfig) -> Result<Self, PortError> {
        check(&config)?;
        let netlink = Netlink::open().map_err(|error| {
            PortError(format!("no conversation with the kernel: {error}; allow AF_NETLINK sockets"))
        })?;
        let workers = config.shards.len();
        let (seats, wires) = (0..workers).map(|_| wires()).map(|(seat, desk)| (Some(seat), desk)).unzip();
        let mut ports = Self {
            netlink,
            desks: Vec::new(),
            wires,
            seats,
            shared: Shared::new(workers),
            resolver: Resolver::default(),
            said: Vec::new(),
            now_ns: 0,
            looked_ns: 0,
            config,
        };
        for config in ports.config.ports.clone() {
            let desk = ports.open_desk(config)?;
            ports.desks.push(desk);
        }
        Ok(ports)
    }

    fn open_desk(&mut self, config: PortConfig) -> Result<Desk, PortError> {
        let (name, device) = (&config.name, &config.interface);
        let link = self.netlink.link(device).map_err(|error| PortError(format!("port {name}: {device}: {error}")))?;
        let Some(link) = link else {
            return Err(PortError(format!(
                "port {name}: there is no interface {device}; `ip link` shows what there is"
            )));
        };
        if link.kind == "vlan" {
            return Err(PortError(format!(
                "port {name}: {device} is a VLAN interface, and XDP runs on the device below it, where packets have a tag: give \
                 the device itself and have the switch take the tag off, or use the uring driver"
            )));
        }
        let workers = self.config.shards.len();
        let shards = self.config.shards.iter().flatten().copied().max().map_or(0, |most| u32::from(most) + 1);
        let read = |what: &str| fs::read_to_string(format!("/sys/class/net/{device}/{what}")).ok();
        let read = |what: &str| read(what).and_then(|text| text.trim().parse().ok());
        let (speed_mbps, numa_node) = (read("speed"), read("device/numa_node"));
        let interface = Interface {
            mac: [0; 6],
            vlan: None,
            networks: arrayvec::ArrayVec::new(),
            base_port: self.config.base_port,
            shard_count: u16::try_from(shards).unwrap_or(u16::MAX),
            mtu: 0,
        };
        let mut desk = Desk {
            config,
            link: None,
            interface,
            stopped: false,
            shards: self.config.shards.clone(),
            held: (0..workers).map(|_| Held::Nobody).collect(),
            told: vec![None; workers],
            why: String::new(),
            counts: [0; COUNTS.len()],
            speed_mbps,
            numa_node,
        };
        desk.see(&mut self.netlink, Some(link));
        desk.told.fill(Some((desk.interface.clone(), true)));
        Ok(desk)
    }

    /// Largest frame in bytes, header included, that fits every packet of every port now, in whole lines.
    #[must_use]
    pub fn frame_bytes_max(&self) -> u32 {
        let room = |desk: &Desk| {
            // Every interface has a link-local address, which nobody subscribes from.
            let counts = |ip: IpAddr| matches!(ip, IpAddr::V6(ip) if !ip.is_unicast_link_local());
            let has_v6 = desk.interface.networks.iter().any(|network| counts(network.ip));
            u32::from(desk.interface.mtu).saturating_sub(if has_v6 { 48 } else { 28 }) / 64 * 64
        };
        self.desks.iter().map(room).min().unwrap_or(0)
    }

    /// What worker `worker` opens its queue with; once each.
    pub fn seat(&mut self, worker: u16) -> Option<AfxdpSeat> {
        let wires = self.seats.get_mut(usize::from(worker))?.take()?;
        let ports = self.desks.iter().map(|desk| SeatPort {
            name: desk.config.name.clone(),
            device: desk.config.interface.clone(),
            interface: desk.interface.clone(),
            index: desk.index(),
            queue: desk.config.first_queue + u32::from(worker),
            force_copy: desk.config.force_copy,
            force_one_piece: desk.config.force_one_piece,
            udp_checksum: desk.config.udp_checksum,
            busy_poll_us: desk.config.busy_poll_us,
        });
        Some(AfxdpSeat {
            worker,
            ports: ports.collect(),
            base_port: self.config.base_port,
            receive_descriptors: self.config.receive_descriptors,
            transmit_descriptors: self.config.transmit_descriptors,
            lead_bytes: self.config.lead_bytes,
            shared: Arc::clone(&self.shared),
            wires: Some(wires),
            degraded: Vec::new(),
            packet_bytes: u32::MAX,
        })
    }

    /// Lets go of a worker's sockets; they close with the worker's own hold on them.
    pub(crate) fn forget(&mut self, worker: u16) {
        self.hear();
        for desk in &mut self.desks {
            desk.held[usize::from(worker)] = Held::Nobody;
        }
    }

    /// Waits until no device uses this memory any more: zero copy goes on for a moment after a socket is closed. False if one
    /// still may.
    pub(crate) fn await_release(&self, worker: u16, layout: Layout) -> bool {
        self.desks.iter().filter(|desk| !desk.config.force_copy).all(|desk| {
            let plan = self.probe(desk, worker, layout);
            (0..RELEASE_TRIES).any(|_| {
                let is_free = is_released(&try_queue(&plan));
                if !is_free {
                    thread::sleep(RELEASE_PAUSE);
                }
                is_free
            })
        })
    }

    fn probe(&self, desk: &Desk, worker: u16, layout: Layout) -> SocketPlan {
        SocketPlan {
            interface: desk.index(),
            queue: desk.config.first_queue + u32::from(worker),
            receive_descriptors: self.config.receive_descriptors,
            transmit_descriptors: self.config.transmit_descriptors,
            packet_bytes: 0,
            force_copy: true,
            force_one_piece: true,
            busy_poll_us: 0,
            layout,
        }
    }

    /// What workers answered.
    fn hear(&mut self) {
        let Self { desks, wires, now_ns, .. } = self;
        for (worker, wires) in wires.iter_mut().enumerate() {
            while let Ok(answer) = wires.answers.pop() {
                let (Answer::Opened(port, ..) | Answer::Returned(port, _)) = &answer;
                let Some(desk) = desks.get_mut(usize::from(*port)) else { continue };
                match answer {
                    Answer::Opened(_, plan, Some((fd, zero_copy))) => {
                        desk.register(worker, &plan, &fd);
                        desk.held[worker] = Held::Open(Open::new(plan, fd, zero_copy, *now_ns));
                    }
                    Answer::Opened(_, plan, None) => desk.held[worker] = Held::Absent(plan, *now_ns),
                    Answer::Returned(_, socket) => {
                        drop(socket);
                        if let Held::Detaching(plan, zero_copy, reason) = desk.held[worker] {
                            desk.held[worker] = Held::Closing(plan, zero_copy, reason);
                        }
                    }
                }
            }
            if !wires.is_alive() {
                desks.iter_mut().for_each(|desk| desk.held[worker] = Held::Nobody);
            }
        }
    }

    /// Looks at interfaces and counts.
    fn look(&mut self) {
        for desk in &mut self.desks {
            let link = match self.netlink.link(&desk.config.interface) {
                Ok(link) => link,
                Err(_) => desk.link.clone(), // no answer says nothing about the interface
            };
            if desk.see(&mut self.netlink, link) {
                self.resolver.tell_again(self.now_ns);
            }
            for (worker, held) in desk.held.iter_mut().enumerate() {
                if let Held::Open(open) = held {
                    open.count(&mut desk.counts, |dropped| self.shared.add_missed(worker, dropped));
                }
            }
        }
    }

    /// Opens and closes sockets as the ports want them.
    fn move_on(&mut self) {
        let now_ns = self.now_ns;
        for (port, desk) in (0u8..).zip(&mut self.desks) {
            for (worker, wires) in self.wires.iter_mut().enumerate() {
                desk.tell(port, worker, wires);
                let runs = desk.runs();
                let held = mem::replace(&mut desk.held[worker], Held::Nobody);
                desk.held[worker] = match held {
                    Held::Open(mut open) => {
                        let stuck = open.is_stuck(self.shared.worker(worker as u16), usize::from(port), now_ns);
                        if runs && !stuck && open.plan.interface == desk.index() {
                            Held::Open(open)
                        } else if wires.order(Order::Detach(port)) {
                            let reason = if stuck { Reason::TxTimeout } else { Reason::TxSubmitFail };
                            Held::Detaching(open.plan, open.zero_copy, reason)
                        } else {
                            Held::Open(open)
                        }
                    }
                    // Devices go on for a moment after zero copy.
                    Held::Closing(plan, zero_copy, reason)
                        if (!zero_copy || desk.has_let_go(&plan)) && wires.order(Order::Closed(port, reason)) =>
                    {
                        Held::Absent(plan, now_ns)
                    }
                    Held::Absent(plan, due_ns) if runs && now_ns >= due_ns => {
                        desk.open(plan, (port, worker), wires, &mut self.said, now_ns)
                    }
                    held => held,
                };
            }
        }
    }

    fn find(&mut self, name: &str) -> Result<&mut Desk, PortError> {
        let names: Vec<String> = self.desks.iter().map(|desk| desk.config.name.clone()).collect();
        let desk = self.desks.iter_mut().find(|desk| desk.config.name == name);
        desk.ok_or_else(|| PortError(format!("there is no port `{name}`; there are: {}", names.join(", "))))
    }

    fn report(&self, index: usize) -> PortReport {
        let (desk, shared) = (&self.desks[index], &self.shared);
        let (state, why) = desk.state();
        let mut counters: Vec<(String, u64)> = COUNTS.iter().map(|name| (*name).to_owned()).zip(desk.counts).collect();
        let foreign = Foreign::ALL.iter();
        let foreign = foreign.map(|&cause| (format!("not_frames_{}", cause.name()), shared.foreign(index, cause)));
        counters.extend(foreign.filter(|(_, count)| *count > 0));
        counters.push(("items_finished".to_owned(), shared.sum(|counts| &counts.finished[index])));
        counters.push(("other_workers_shard".to_owned(), shared.sum(|counts| &counts.other_worker[index])));
        if index == 0 {
            // These are of the node, and stand with its first port.
            counters.push(("items_unreachable".to_owned(), shared.sum(|counts| &counts.unreachable)));
            counters.push(("items_copied".to_owned(), shared.sum(|counts| &counts.copied)));
            counters.push(("packets_joined".to_owned(), shared.sum(|counts| &counts.joined)));
        }
        let addresses = desk.interface.networks.iter().map(|network| format!("{}/{}", network.ip, network.prefix));
        PortReport {
            name: desk.config.name.clone(),
            driver: "afxdp",
            device: desk.config.interface.clone(),
            state,
            why,
            mac: desk.link.as_ref().and_then(|link| link.mac),
            speed_mbps: desk.speed_mbps,
            mtu: Some(desk.interface.mtu.into()),
            numa_node: desk.numa_node,
            queues: u16::try_from(desk.held.iter().filter(|held| matches!(held, Held::Open(_))).count()).unwrap_or(0),
            steering: "none".to_owned(),
            addresses: addresses.collect(),
            counters,
        }
    }
}

impl Desk {
    fn index(&self) -> u32 {
        self.link.as_ref().map_or(0, |link| link.index)
    }

    /// Whether there shall be sockets.
    fn runs(&self) -> bool {
        !self.stopped && self.link.as_ref().is_some_and(|link| link.up)
    }

    /// What the kernel says of the interface now; whether that changes what packets look like.
    fn see(&mut self, netlink: &mut Netlink, link: Option<Link>) -> bool {
        let before = (self.interface.clone(), self.index());
        if let Some(link) = &link {
            self.interface.mac = link.mac.unwrap_or_default();
            self.interface.mtu = u16::try_from(link.mtu).unwrap_or(u16::MAX);
            if let Ok(addresses) = netlink.addresses(link.index) {
                let networks = addresses.into_iter().map(|(ip, prefix)| Network { ip, prefix, gateway: None });
                self.interface.networks = networks.take(NETWORKS_MAX).collect();
            }
        }
        self.link = link;
        before != (self.interface.clone(), self.index())
    }

    /// Puts a socket where the XDP program finds it.
    fn register(&mut self, worker: usize, plan: &SocketPlan, fd: &OwnedFd) {
        self.why.clear();
        let Some(map) = &self.config.xskmap else { return };
        let keys = match self.config.map_key {
            MapKey::Queue => vec![plan.queue],
            MapKey::QueueAndShard(count) => {
                let key = |shard: &u16| plan.queue * u32::from(count) + u32::from(*shard);
                self.shards[worker].iter().map(key).collect()
            }
        };
        let put = |key: u32| calls::put_into_map(map.as_fd(), key, fd.as_fd());
        if let Some(error) = keys.into_iter().find_map(|key| put(key).err()) {
            self.why = format!(
                "the XDP program cannot be told of queue {}: {error}; give it a larger map, and us CAP_BPF or the map's owner",
                plan.queue
            );
        }
    }

    /// Tells a worker what the port is now, if that is new.
    fn tell(&mut self, port: u8, worker: usize, wires: &mut DeskWires) {
        if matches!(self.held[worker], Held::Nobody) {
            return;
        }
        let can_send = self.link.as_ref().is_some_and(|link| link.up && link.carrier);
        let now = (self.interface.clone(), can_send);
        if self.told[worker].as_ref() != Some(&now) && wires.order(Order::Renew(port, now.0.clone(), can_send)) {
            self.told[worker] = Some(now);
        }
    }

    fn open(
        &mut self,
        plan: SocketPlan,
        (port, worker): (u8, usize),
        wires: &mut DeskWires,
        said: &mut Vec<Said>,
        now_ns: u64,
    ) -> Held {
        let plan = SocketPlan { interface: self.index(), packet_bytes: packet_bytes(&self.interface), ..plan };
        let mut notes = Vec::new();
        let later = Held::Absent(plan, now_ns + RETRY_NS);
        let socket = match Socket::open(&plan, &mut notes) {
            Ok(socket) => socket,
            Err(error) => {
                if !is_away(&error) {
                    self.why = why_refused(&self.config.name, &self.config.interface, &plan, &error);
                }
                return later;
            }
        };
        let (fd, zero_copy) = (Arc::clone(&socket.fd), socket.zero_copy);
        if !wires.order(Order::Attach(port, socket)) {
            return later;
        }
        let name = &self.config.name;
        said.extend(notes.into_iter().map(|note| Said { is_error: false, text: format!("port {name}: {note}") }));
        self.register(worker, &plan, &fd);
        Held::Open(Open::new(plan, fd, zero_copy, now_ns))
    }

    /// Whether the device is done with the memory of a closed socket; why that is not known is kept.
    fn has_let_go(&mut self, plan: &SocketPlan) -> bool {
        let (tried, device, queue) = (try_queue(plan), &self.config.interface, plan.queue);
        let is_free = is_released(&tried);
        self.why = match tried {
            Err(error) if !is_free && error.raw_os_error() == Some(libc::EBUSY) => {
                format!("{device} has not let go of the socket that was closed on queue {queue}; it should in a moment")
            }
            Err(error) if !is_free => {
                let why = why_refused(&self.config.name, device, plan, &error);
                format!(
                    "whether {device} let go of the socket that was closed cannot be seen, and its memory waits: {why}"
                )
            }
            _ => String::new(),
        };
        is_free
    }

    /// How it is, and why it is not ready.
    fn state(&self) -> (PortState, String) {
        let device = &self.config.interface;
        let Some(link) = &self.link else {
            let why =
                format!("the interface {device} is gone: put it back, with its XDP program, and the port goes on");
            return (if self.stopped { PortState::Stopped } else { PortState::Waiting }, why);
        };
        match () {
            () if self.stopped => {
                (PortState::Stopped, "stopped by an operator; `tachyon ports start` starts it".to_owned())
            }
            () if !link.up => (PortState::LinkDown, format!("the interface is down: `ip link set {device} up`")),
            () if !link.carrier => {
                (PortState::LinkDown, "its link is down: look at the cable and the other end".to_owned())
            }
            () if !self.why.is_empty() => (PortState::Waiting, self.why.clone()),
            () if self.interface.networks.is_empty() => {
                (PortState::Waiting, format!("the interface has no address: `ip address add ... dev {device}`"))
            }
            () if !self.held.iter().all(|held| matches!(held, Held::Open(_))) => {
                (PortState::Waiting, "not all workers have a socket yet".to_owned())
            }
            () => (PortState::Ready, String::new()),
        }
    }
}

impl Open {
    const fn new(plan: SocketPlan, fd: Arc<OwnedFd>, zero_copy: bool, now_ns: u64) -> Self {
        Self { plan, fd, zero_copy, counted: [0; COUNTS.len()], finished: 0, looks: 0, moved_ns: now_ns }
    }

    /// Adds what the socket counted since the last time.
    fn count(&mut self, counts: &mut [u64; COUNTS.len()], missed: impl FnOnce(u64)) {
        let Ok(now) = calls::statistics(self.fd.as_fd()) else { return };
        let now = [now.rx_dropped, now.rx_ring_full, now.rx_fill_ring_empty_descs, now.tx_invalid_descs];
        // A socket's own counts start anew with it; those of the port go on.
        let mut more = now;
        for ((more, before), count) in more.iter_mut().zip(self.counted).zip(counts) {
            *more = more.saturating_sub(before);
            *count += *more;
        }
        self.counted = now;
        // What found no buffer to fill is counted as dropped too.
        missed(more[0] + more[1]);
    }

    /// Whether nothing of what it was given came back for long.
    fn is_stuck(&mut self, counts: &crate::shared::WorkerCounts, port: usize, now_ns: u64) -> bool {
        let load = |count: &core::sync::atomic::AtomicU64| count.load(Ordering::Relaxed);
        let (in_flight, finished, looks) =
            (load(&counts.in_flight[port]), load(&counts.finished[port]), load(&counts.looks));
        if in_flight == 0 || finished != self.finished {
            (self.finished, self.looks, self.moved_ns) = (finished, looks, now_ns);
        }
        now_ns.saturating_sub(self.moved_ns) >= STUCK_NS && looks.wrapping_sub(self.looks) >= STUCK_LOOKS
    }
}

/// Tries whether a queue can be had again, as it can once no device uses the memory of the socket that was closed there.
fn try_queue(plan: &SocketPlan) -> io::Result<()> {
    let plan = SocketPlan { force_copy: true, force_one_piece: true, ..*plan };
    Socket::open(&plan, &mut Vec::new()).map(drop)
}

/// Whether that says that no device uses the memory: a socket was given, or there is no device to use it. Every other error may
/// have come before the kernel looked at the queue; locked memory is short exactly as long as the old socket's is held.
fn is_released(tried: &io::Result<()>) -> bool {
    tried.as_ref().err().is_none_or(is_away)
}

fn check(config: &AfxdpConfig) -> Result<(), PortError> {
    let refuse = |why: String| Err(PortError(why));
    if config.ports.is_empty() || config.ports.len() > PORTS_MAX {
        return refuse(format!("{} ports: give 1 to {PORTS_MAX}", config.ports.len()));
    }
    for (index, port) in config.ports.iter().enumerate() {
        let same = |other: &&PortConfig| other.name == port.name || other.interface == port.interface;
        if let Some(other) = config.ports[..index].iter().find(same) {
            return refuse(format!(
                "ports {} and {} have one name or interface: give each its own",
                other.name, port.name
            ));
        }
    }
    if config.shards.is_empty() || config.shards.iter().any(Vec::is_empty) {
        return refuse("a worker has no shards: give each at least one".to_owned());
    }
    let most = config.shards.iter().flatten().copied().max().unwrap_or(0);
    if config.base_port.checked_add(most).is_none() {
        return refuse(format!("shard {most} has no port: {} + {most} is above 65535; lower it", config.base_port));
    }
    for (what, count, least) in [
        ("receive_descriptors", config.receive_descriptors, 64),
        ("transmit_descriptors", config.transmit_descriptors, 256),
    ] {
        if !count.is_power_of_two() || !(least..=32_768).contains(&count) {
            return refuse(format!("{what} is {count}: choose a power of two from {least} to 32768"));
        }
    }
    Ok(())
}

impl Ports for AfxdpPorts {
    fn reports(&mut self) -> Vec<PortReport> {
        (0..self.desks.len()).map(|index| self.report(index)).collect()
    }

    fn stop(&mut self, name: &str) -> Result<(), PortError> {
        self.find(name)?.stopped = true;
        Ok(())
    }

    fn start(&mut self, name: &str) -> Result<(), PortError> {
        self.find(name)?.stopped = false;
        Ok(())
    }

    fn tick(&mut self, now_ns: u64) {
        self.now_ns = now_ns;
        self.hear();
        if now_ns.saturating_sub(self.looked_ns) >= LOOK_NS {
            self.looked_ns = now_ns;
            self.look();
        }
        self.move_on();
        let interfaces: Vec<u32> = self.desks.iter().map(Desk::index).collect();
        for wires in &mut self.wires {
            while let Ok(to) = wires.wanted.pop() {
                self.resolver.note(to, now_ns);
            }
        }
        let mut news = Vec::new();
        let mut tables = Kernel { netlink: &mut self.netlink, interfaces: &interfaces };
        self.resolver.tick(now_ns, &mut tables, &mut news);
        if let Some(why) = self.resolver.refused() {
            let text = format!(
                "neighbours are found only by the kernel's own traffic, because it does not let us ask: {why}; give \
                 CAP_NET_ADMIN"
            );
            self.said.push(Said { is_error: true, text });
        }
        for wires in &mut self.wires {
            wires.tell(&news);
        }
    }

    fn want(&mut self, to: IpAddr) {
        self.resolver.want(to, self.now_ns);
    }

    fn said(&mut self) -> Vec<Said> {
        mem::take(&mut self.said)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_is_free_only_where_a_socket_was_given_or_the_device_is_away() {
        let after = |code: i32| is_released(&Err(io::Error::from_raw_os_error(code)));
        assert!(is_released(&Ok(())));
        assert!([libc::ENODEV, libc::ENETDOWN, libc::ENXIO].into_iter().all(after));
        let unknown = [libc::EBUSY, libc::ENOBUFS, libc::ENOMEM, libc::EINVAL, libc::EPERM, libc::EMFILE];
        assert!(!unknown.into_iter().any(after));
        assert!(!is_released(&Err(io::Error::other("no number"))));
    }
}
