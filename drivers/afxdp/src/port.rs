//! Opening a worker's queue, on the thread that will poll it.

use crate::{
    PORTS_MAX,
    buffers::{Buffers, Layout},
    calls,
    lane::Lane,
    ports::AfxdpPorts,
    queue::{AfxdpQueue, Parts},
    shared::Shared,
    socket::{Socket, SocketPlan},
    wires::{Answer, WorkerWires},
};
use arrayvec::ArrayVec;
use std::{io, sync::Arc, thread, time::Duration};
use tachyon_driver_api::{Pool, Port, PortError, PortInfo};
use tachyon_driver_ether::{Interface, WANTED_MAX};

/// Frames whose headers can have room of their own at a time: four bursts.
pub(crate) const HEADER_ROOMS: u32 = 256;
/// Of these the smallest buffer holds so many: (2,048 - 256) / 128.
pub(crate) const HEADER_ROOMS_MIN: u32 = 14;
/// Longest headers over IP in bytes: IPv6 40, UDP 8; and over IPv4.
const IPV6_BYTES: u32 = 48;
const IPV4_BYTES: u32 = 28;
/// How often and after what pause a queue that is still taken is tried again: a socket that was just closed keeps it for some
/// milliseconds.
const BUSY_TRIES: u32 = 100;
const BUSY_PAUSE: Duration = Duration::from_millis(10);

/// One port as a worker opens it.
#[derive(Clone, Debug)]
pub(crate) struct SeatPort {
    pub(crate) name: String,
    pub(crate) device: String,
    pub(crate) interface: Interface,
    /// All but the layout, which the pool decides.
    pub(crate) index: u32,
    pub(crate) queue: u32,
    pub(crate) force_copy: bool,
    pub(crate) force_one_piece: bool,
    pub(crate) udp_checksum: bool,
    pub(crate) busy_poll_us: u32,
}

/// What one worker opens its queue with.
#[derive(Debug)]
pub struct AfxdpSeat {
    pub(crate) worker: u16,
    pub(crate) ports: Vec<SeatPort>,
    pub(crate) base_port: u16,
    pub(crate) receive_descriptors: u32,
    pub(crate) transmit_descriptors: u32,
    pub(crate) lead_bytes: u32,
    pub(crate) shared: Arc<Shared>,
    pub(crate) wires: Option<WorkerWires>,
    pub(crate) degraded: Vec<String>,
    /// Longest packet that the sockets take, once they are open.
    pub(crate) packet_bytes: u32,
}

impl AfxdpSeat {
    fn plan(&self, port: &SeatPort, layout: Layout) -> SocketPlan {
        SocketPlan {
            interface: port.index,
            queue: port.queue,
            receive_descriptors: self.receive_descriptors,
            transmit_descriptors: self.transmit_descriptors,
            packet_bytes: packet_bytes(&port.interface),
            force_copy: port.force_copy,
            force_one_piece: port.force_one_piece,
            busy_poll_us: port.busy_poll_us,
            layout,
        }
    }

    /// Opens the socket of one port; `None` if its interface is not there or down now, and then the cold side opens it later.
    fn open_socket(&mut self, port: &SeatPort, plan: &SocketPlan) -> Result<Option<Socket>, PortError> {
        let mut notes = Vec::new();
        let mut tries = 0;
        let opened = loop {
            match Socket::open(plan, &mut notes) {
                Err(error) if error.raw_os_error() == Some(libc::EBUSY) && tries < BUSY_TRIES => {
                    tries += 1;
                    thread::sleep(BUSY_PAUSE);
                }
                opened => break opened,
            }
        };
        self.degraded.extend(notes.iter().map(|note| format!("{}: {note}", port.name)));
        match opened {
            Ok(socket) => {
                let room = if socket.pieces { plan.layout.packet_room() } else { plan.layout.chunk_room() };
                self.packet_bytes = self.packet_bytes.min(room);
                if room < plan.packet_bytes {
                    let fix = if socket.pieces { "make the arena's buffers longer" } else { "see above" };
                    self.degraded.push(format!(
                        "{}: packets have at most {room} bytes instead of {}: {fix}",
                        port.name, plan.packet_bytes
                    ));
                }
                Ok(Some(socket))
            }
            Err(error) if is_away(&error) => Ok(None),
            Err(error) => Err(PortError(why_refused(&port.name, &port.device, plan, &error))),
        }
    }
}

/// Longest packet of an interface, Ethernet header included.
pub(crate) fn packet_bytes(interface: &Interface) -> u32 {
    u32::from(interface.mtu) + 14
}

/// Whether the interface is only not there now.
pub(crate) fn is_away(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENODEV | libc::ENETDOWN | libc::ENXIO))
}

/// Why the kernel gives no socket, and what to do.
pub(crate) fn why_refused(name: &str, device: &str, plan: &SocketPlan, error: &io::Error) -> String {
    let queue = plan.queue;
    let (cause, fix) = match error.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => ("the system forbids it", "give CAP_NET_RAW"),
        Some(libc::EAFNOSUPPORT) => ("the kernel has no XDP sockets", "use one with CONFIG_XDP_SOCKETS=y"),
        Some(libc::EBUSY) => ("another XDP socket has this queue", "end that program, or choose other queues"),
        Some(libc::ENOBUFS | libc::ENOMEM) => {
            ("locked memory is used up", "raise RLIMIT_MEMLOCK (`ulimit -l`), or give CAP_IPC_LOCK")
        }
        Some(libc::EINVAL) => {
            ("the device has no such queue, or the kernel is too old", "`ethtool -l` shows the queues")
        }
        _ => ("the kernel refused it", "look the error up"),
    };
    format!("port {name}: no XDP socket on queue {queue} of {device}: {cause} ({error}); {fix}")
}

impl Port for AfxdpSeat {
    type Queue = AfxdpQueue;

    fn open(&mut self, shards: &[u16], pool: &mut Pool) -> Result<AfxdpQueue, PortError> {
        let Some(wires) = self.wires.take() else {
            return Err(PortError(format!("the queue of worker {} is open already: open each once", self.worker)));
        };
        let layout = Layout::of(pool, self.lead_bytes, calls::page_bytes())?;
        let mut buffers = Buffers::new(layout);
        buffers.make_headers(pool, HEADER_ROOMS)?;
        let mut owned = vec![false; shards.iter().max().map_or(0, |most| usize::from(*most) + 1)];
        shards.iter().for_each(|shard| owned[usize::from(*shard)] = true);
        let mut lanes: ArrayVec<Lane, PORTS_MAX> = ArrayVec::new();
        let mut answers = Vec::new();
        for (number, port) in (0u8..).zip(self.ports.clone()) {
            let plan = self.plan(&port, layout);
            let mut lane = Lane::new(number, port.interface.clone(), self.receive_descriptors, port.udp_checksum);
            let socket = self.open_socket(&port, &plan)?;
            let opened = socket.as_ref().map(|socket| (Arc::clone(&socket.fd), socket.zero_copy));
            if let Some(socket) = socket {
                lane.attach(socket, &buffers);
            }
            lanes.push(lane);
            answers.push(Answer::Opened(number, plan, opened));
        }
        let mut queue = AfxdpQueue::new(Parts {
            worker: self.worker,
            lanes,
            buffers,
            neighbours: WANTED_MAX,
            shared: Arc::clone(&self.shared),
            wires,
            base_port: self.base_port,
            shards: owned.into_boxed_slice(),
        });
        // Before the cold side lets packets come, so that they find buffers.
        queue.refill(pool);
        for answer in answers {
            let _ = queue.wires.answers.push(answer); // one for each port, and there is room for more
        }
        Ok(queue)
    }

    fn info(&self) -> PortInfo {
        let devices: Vec<&str> = self.ports.iter().map(|port| port.device.as_str()).collect();
        let has_v6 = self.ports.iter().flat_map(|port| &port.interface.networks).any(|network| network.ip.is_ipv6());
        let headers = if has_v6 { IPV6_BYTES } else { IPV4_BYTES };
        let packet = self.ports.iter().map(|port| packet_bytes(&port.interface)).min().unwrap_or(0);
        PortInfo {
            driver: "afxdp",
            device: devices.join(", "),
            frame_bytes_max: packet.min(self.packet_bytes).saturating_sub(headers + 14),
            degraded: self.degraded.clone(),
        }
    }
}

impl AfxdpQueue {
    /// Closes the sockets and gives every buffer back to `pool`. Returns how many are missing: 0 unless one was lost, or a device
    /// does not let go of the memory; then it keeps all that this queue had.
    pub fn close(mut self, ports: &mut AfxdpPorts, pool: &mut Pool) -> usize {
        ports.forget(self.worker);
        let layout = *self.layout();
        for lane in &mut self.lanes {
            lane.socket = None;
        }
        // One may still be on its way to us, and it has its queue.
        while self.wires.orders.pop().is_ok() {}
        if ports.await_release(self.worker, layout) {
            self.surrender(pool);
        }
        pool.total() - pool.free()
    }
}
