//! Threads with their cores, memory and queues: what a crew needs before it can work.

use crate::{
    args::RunArgs,
    crew::{Crew, Gauges, Order, Report},
    publisher::{Publisher, Setup},
    reader::Reader,
    subscriber::Subscriber,
};
use anyhow::{Context, Result, anyhow, bail};
use std::{
    net::{IpAddr, UdpSocket},
    num::NonZeroU64,
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread::JoinHandle,
};
use tachyon_driver_api::{Pool, Port, PortError};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_uring::{UringConfig, UringPort};

/// Bytes of a buffer: the largest datagram that the kernel joins or splits, so that a whole run fits.
pub const BUFFER_BYTES: u32 = 65_536;
/// Most bytes of one UDP datagram over IPv4: 65,535 − 20 (IP) − 8 (UDP).
const DATAGRAM_BYTES_MAX: u32 = 65_507;
/// Most frames that the kernel splits one send into (UDP_MAX_SEGMENTS of every kernel since 4.18).
const SEGMENTS_MAX: u32 = 64;
/// Buffers that a publisher receives answers into: acks are few, and come joined.
const ANSWER_BUFFERS: u16 = 32;
/// Sleep precision asked of the kernel in ns. Its default of 50 µs would be most of what a low rate measures.
const TIMER_SLACK_NS: u64 = 1_000;

/// Frames of this size that one run takes at most.
#[must_use]
pub const fn frames_most(frame_bytes: u32) -> u32 {
    let fit = DATAGRAM_BYTES_MAX / frame_bytes;
    if fit > SEGMENTS_MAX { SEGMENTS_MAX } else { fit }
}

/// Buffers in flight or to receive into, for each queue.
#[must_use]
pub fn buffers(args: &RunArgs) -> u16 {
    const MOST: u16 = 1 << 14;
    u16::try_from(args.buffers.clamp(1, MOST.into())).unwrap_or(MOST)
}

/// What a port is opened for.
#[derive(Clone, Copy, Debug)]
pub enum Role {
    /// Sends to a node, from any port.
    Publish,
    /// Receives shard n at this port + n.
    Listen(u16),
}

/// How one driver opens its ports for this program.
pub trait Ports: Clone + Send + 'static {
    /// The driver's port.
    type Port: Port;

    /// Opens a port, whose buffers all lie in `arena`.
    ///
    /// # Errors
    /// What happened and what to do.
    fn port(&self, role: Role, arena: &Arena) -> Result<Self::Port, PortError>;
}

/// Kernel UDP through io_uring.
#[derive(Clone, Debug)]
pub struct UringPorts {
    /// Where the node is; decides the address family that publishers send from.
    pub node: IpAddr,
    /// Where subscribers listen.
    pub listen: IpAddr,
    /// Largest frame in bytes.
    pub frame_bytes_max: u32,
    /// Buffers in flight or to receive into.
    pub buffers: u16,
}

impl Ports for UringPorts {
    type Port = UringPort;

    fn port(&self, role: Role, _arena: &Arena) -> Result<UringPort, PortError> {
        let (ip, base_port, rx_buffers) = match role {
            Role::Publish => (unspecified(self.node), 0, ANSWER_BUFFERS),
            Role::Listen(base_port) => (self.listen, base_port, self.buffers),
        };
        let config = UringConfig::new(ip, base_port);
        let frame_bytes_max = self.frame_bytes_max;
        UringPort::new(UringConfig { frame_bytes_max, rx_buffers, tx_depth: self.buffers, ..config })
    }
}

const fn unspecified(like: IpAddr) -> IpAddr {
    match like {
        IpAddr::V4(_) => IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(std::net::Ipv6Addr::UNSPECIFIED),
    }
}

/// Who works in one thread.
#[derive(Clone, Debug)]
pub struct Roster {
    /// Publishers.
    pub publishers: usize,
    /// Ports of shard 0 of each subscriber.
    pub listen_ports: Vec<u16>,
    /// Shards of the fabric.
    pub shard_count: u16,
    /// Buffers in flight or to receive into, per queue.
    pub buffers: u16,
    /// The core to pin to.
    pub cpu: Option<usize>,
    /// Nobody else needs that core.
    pub own_core: bool,
}

/// What a crew is given once its queues are open and its sessions are known.
#[derive(Debug)]
pub struct Equipment {
    /// One for each publisher.
    pub setups: Vec<Setup>,
    /// One for each subscriber.
    pub readers: Vec<Reader>,
}

/// What an opened crew says about its ports.
#[derive(Clone, Debug, Default)]
pub struct Opened {
    /// The driver's name.
    pub driver: &'static str,
    /// What is slower or weaker than it could be.
    pub degraded: Vec<String>,
}

/// A crew at work, seen from the thread that leads it.
#[derive(Debug)]
pub struct Hand {
    /// Where to give orders.
    pub orders: Sender<Order>,
    /// Where reports come.
    pub reports: Receiver<Report>,
    /// Its totals.
    pub gauges: Arc<Gauges>,
    /// What it said about its ports.
    pub opened: Opened,
    equipment: Sender<Equipment>,
    thread: JoinHandle<()>,
}

impl Hand {
    /// Starts a thread, pins it, and opens its queues there.
    ///
    /// # Errors
    /// The thread, its memory or its ports cannot be had.
    pub fn hire<P: Ports>(ports: P, roster: Roster) -> Result<Self> {
        let (orders, order_queue) = mpsc::channel();
        let (report_queue, reports) = mpsc::channel();
        let (equipment, equipment_queue) = mpsc::channel::<Equipment>();
        let (opened_queue, opened) = mpsc::channel();
        let gauges = Arc::new(Gauges::default());
        let shown = Arc::clone(&gauges);
        let work = move || {
            let own_core = roster.own_core;
            let (open, said) = match open(&ports, &roster) {
                Ok(opened) => opened,
                Err(error) => return drop(opened_queue.send(Err(error))),
            };
            let _ = opened_queue.send(Ok(said));
            let Ok(Equipment { setups, readers }) = equipment_queue.recv() else { return };
            let publishers = open.publish.into_iter().zip(setups);
            let subscribers = open.listen.into_iter().zip(readers);
            let crew = Crew {
                publishers: publishers.map(|((queue, pool), setup)| Publisher::new(queue, pool, setup)).collect(),
                subscribers: subscribers.map(|((queue, pool), reader)| Subscriber::new(queue, pool, reader)).collect(),
                own_core,
            };
            crew.work(&order_queue, &report_queue, &shown);
        };
        let thread = std::thread::Builder::new().name("load".into()).spawn(work)?;
        let opened = opened.recv().context("a load thread ended before it opened its ports")??;
        Ok(Self { orders, reports, gauges, opened, equipment, thread })
    }

    /// Lets the crew begin its loop.
    ///
    /// # Errors
    /// The thread is gone.
    pub fn equip(&self, equipment: Equipment) -> Result<()> {
        self.equipment.send(equipment).map_err(|_| gone())
    }

    /// Gives an order.
    ///
    /// # Errors
    /// The thread is gone.
    pub fn order(&self, order: Order) -> Result<()> {
        self.orders.send(order).map_err(|_| gone())
    }

    /// Whether the thread ended.
    #[must_use]
    pub fn is_gone(&self) -> bool {
        self.thread.is_finished()
    }

    /// Waits for the thread to end.
    ///
    /// # Errors
    /// It panicked.
    pub fn dismiss(self) -> Result<()> {
        drop((self.orders, self.equipment));
        self.thread.join().map_err(|_| anyhow!("a load thread panicked"))
    }
}

fn gone() -> anyhow::Error {
    anyhow!("a load thread ended before its time")
}

struct Open<Q> {
    publish: Vec<(Q, Pool)>,
    listen: Vec<(Q, Pool)>,
}

type QueueOf<P> = <<P as Ports>::Port as Port>::Queue;

fn open<P: Ports>(ports: &P, roster: &Roster) -> Result<(Open<QueueOf<P>>, Opened)> {
    let mut said = Opened::default();
    prepare_thread(roster.cpu, &mut said.degraded);
    // Twice as many as the device holds: while it fills one half, the other is in our hands.
    let per_queue = usize::from(roster.buffers) * 2 + usize::from(ANSWER_BUFFERS);
    let queues = roster.publishers + roster.listen_ports.len();
    let mut arena = Arena::create(ArenaConfig {
        bytes: queues * per_queue * BUFFER_BYTES as usize,
        buffer_bytes: BUFFER_BYTES,
        pages: Pages::Auto,
        lock: false,
        numa_node: None,
    })?;
    let shards: Vec<u16> = (0..roster.shard_count).collect();
    let mut queue = |role| -> Result<(QueueOf<P>, Pool)> {
        let mut pool = Pool::new(arena.take(per_queue)?);
        let mut port = ports.port(role, &arena)?;
        let queue = port.open(&shards, &mut pool)?;
        let info = port.info();
        said.driver = info.driver;
        said.degraded.extend(info.degraded);
        Ok((queue, pool))
    };
    let publish = (0..roster.publishers).map(|_| queue(Role::Publish)).collect::<Result<_>>()?;
    let listen = roster.listen_ports.iter().map(|port| queue(Role::Listen(*port))).collect::<Result<_>>()?;
    Ok((Open { publish, listen }, said))
}

/// Pins the thread and makes its sleeps precise; what the system does not allow is said and gone without.
fn prepare_thread(cpu: Option<usize>, degraded: &mut Vec<String>) {
    if let Err(error) = rustix::thread::set_current_timer_slack(NonZeroU64::new(TIMER_SLACK_NS)) {
        degraded.push(format!("sleeps are imprecise: the kernel keeps its timer slack ({error})"));
    }
    if let Some(cpu) = cpu {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        if let Err(error) = rustix::thread::sched_setaffinity(None, &set) {
            degraded
                .push(format!("a load thread is not pinned to core {cpu} ({error}); give cores that exist to --cpu"));
        }
    }
}

/// Base ports of `count` subscribers with `shard_count` free UDP ports behind each, from `first` on.
///
/// # Errors
/// There are not that many up to port 65,535.
pub fn free_ports(listen: IpAddr, first: u16, shard_count: u16, count: usize) -> Result<Vec<u16>> {
    let mut found = Vec::with_capacity(count);
    let mut next = u32::from(first.max(1));
    while found.len() < count {
        let (base, last) = (next, next + u32::from(shard_count) - 1);
        next = last + 1;
        let (Ok(base), Ok(last)) = (u16::try_from(base), u16::try_from(last)) else {
            bail!("no {shard_count} free UDP ports in a row from {first} on at {listen}; give another --listen-port");
        };
        // All are held until the last one is tried, so a run of ports is free at one moment.
        let held: Vec<_> = (base..=last).map_while(|port| UdpSocket::bind((listen, port)).ok()).collect();
        if held.len() == usize::from(shard_count) {
            found.push(base);
        }
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::{frames_most, free_ports};
    use std::net::{Ipv4Addr, UdpSocket};

    #[test]
    fn a_run_fits_one_datagram_and_what_the_kernel_splits() {
        assert_eq!(frames_most(1472), 44);
        assert_eq!(frames_most(128), 64);
        assert_eq!(frames_most(65_507), 1);
    }

    #[test]
    fn a_run_of_ports_with_one_taken_is_passed_over() {
        let listen = Ipv4Addr::LOCALHOST.into();
        let first = free_ports(listen, 41_000, 8, 1).unwrap()[0];
        let taken = UdpSocket::bind((listen, first + 3)).unwrap();
        let ports = free_ports(listen, first, 8, 2).unwrap();
        assert!(ports[0] >= first + 8 && ports[1] >= ports[0] + 8, "{ports:?}");
        drop(taken);
    }
}
