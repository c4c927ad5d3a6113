//! Captures in the place of a network: what publishers send is written into one file as Ethernet packets, and what a
//! node sends is read from another, so that a node can be tried whose driver has no hardware to stand on.
//!
//! Nobody answers while the load is offered: the node gets the file when it is whole. So there is no pressure, no loss and
//! no latency to be seen here; what the node decides, and that it accounts for everything, is.

use crate::{
    args::RunArgs,
    clock::unix_ns,
    hire::{Ports, Role},
    pcap::{Follower, Writer},
};
use anyhow::{Context, Result, anyhow, bail};
use std::{
    collections::VecDeque,
    net::IpAddr,
    path::PathBuf,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    thread,
    time::Duration,
};
use tachyon_driver_api::{
    Buffer, Completion, CompletionBatch, Pool, Port, PortError, PortInfo, QueueStats, Received, RxBatch, RxQueue,
    Transmit, TxBatch, TxQueue,
};
use tachyon_driver_arena::Arena;
use tachyon_driver_ether::{
    Checked, Foreign, Found, HEADER_BYTES_MAX, Hop, Interface, Mac, Network, Receiver, UdpChecksum, address_bytes,
};
use tachyon_wire::Reason;

/// Largest frame that fits into one packet: what IP's length field leaves over behind IPv4 and UDP headers.
const FRAME_BYTES_MAX: u32 = 65_535 - 20 - 8;
/// First UDP port that publishers send from: the first ephemeral one (RFC 6335), above every port that is listened on.
const SOURCE_PORT: u16 = 49_152;
/// Packets that one call looks at, at most: more than a burst, because those for other subscribers are passed over.
const PACKETS_PER_BURST: usize = 1024;
/// The longest sleep; nobody wakes a reader of a file.
const NAP_MAX: Duration = Duration::from_millis(1);

/// Between whom the packets go, and where they are kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CaptureConfig {
    /// The file that publishers write.
    pub write: PathBuf,
    /// The file that the node writes, if somebody reads it.
    pub read: Option<PathBuf>,
    /// Whether publishers read it too, because the node answers them.
    pub answers: bool,
    /// The IP address of this program's end.
    pub from: IpAddr,
    /// The node's.
    pub to: IpAddr,
    /// The Ethernet address of this program's end.
    pub from_mac: Mac,
    /// The node's.
    pub to_mac: Mac,
    /// The VLAN that packets are tagged with.
    pub vlan: Option<u16>,
    /// Shards of the fabric.
    pub shard_count: u16,
    /// Largest frame in bytes.
    pub frame_bytes_max: u32,
}

/// Opens queues on one pair of captures.
#[derive(Clone, Debug)]
pub struct CapturePorts {
    config: Arc<CaptureConfig>,
    shared: Arc<Shared>,
}

/// What all queues of one pair have together.
#[derive(Debug)]
struct Shared {
    /// `None` once it is finished, or of no use.
    writer: Mutex<Option<Writer>>,
    publishers: AtomicUsize,
    /// Packets without a frame for the queue that read them, by kind.
    foreign: [AtomicU64; Foreign::COUNT],
    /// The first thing that went wrong with either file.
    fault: Mutex<Option<String>>,
}

impl CapturePorts {
    /// Begins the file to be written.
    ///
    /// # Errors
    /// It cannot be made, or the addresses are of two families.
    pub fn new(config: CaptureConfig) -> Result<Self> {
        let CaptureConfig { from, to, .. } = config;
        if from.is_ipv4() != to.is_ipv4() {
            bail!("packets cannot go from {from} to {to}; give --write-from and --write-to of one family");
        }
        let path = config.write.display();
        let writer = Writer::create(&config.write)
            .with_context(|| format!("cannot write {path}; give --write a place that can be written"))?;
        let shared = Shared {
            writer: Mutex::new(Some(writer)),
            publishers: AtomicUsize::new(0),
            foreign: std::array::from_fn(|_| AtomicU64::new(0)),
            fault: Mutex::new(None),
        };
        Ok(Self { config: Arc::new(config), shared: Arc::new(shared) })
    }

    /// What the command line asks for; `None` if it asks for sockets.
    ///
    /// # Errors
    /// Something that does not go together with captures, or a file that cannot be made.
    pub fn asked(args: &RunArgs, node: IpAddr, shard_count: u16) -> Result<Option<Self>> {
        let Some(write) = &args.write else { return Ok(None) };
        if args.phases.len() > 1 {
            bail!("the node reads a capture as a whole, so phases cannot be told apart; give one --phase with --write");
        }
        if args.subscribers > 0 && args.read.is_none() {
            bail!("nobody would read what the node sends; give --read FILE or --subscribers 0 with --write");
        }
        let config = CaptureConfig {
            write: write.clone(),
            read: args.read.clone(),
            answers: args.ack,
            from: write_from(args, node),
            to: write_to(args, node),
            from_mac: args.write_from_mac,
            to_mac: args.write_to_mac,
            vlan: args.vlan,
            shard_count,
            frame_bytes_max: args.frame_bytes,
        };
        Self::new(config).map(Some)
    }

    /// Gives the written file its name: the load is over.
    ///
    /// # Errors
    /// The file could not be written in full.
    pub fn finish(&self) -> Result<()> {
        let writer = lock(&self.shared.writer).take();
        self.check()?;
        let path = self.config.write.display();
        match writer {
            Some(writer) => writer.finish().with_context(|| format!("cannot finish {path}; is the disk full?")),
            None => Ok(()),
        }
    }

    /// Puts what was written so far where it can be read: under which name.
    ///
    /// # Errors
    /// The file is finished, or could not be written.
    pub fn flush(&self) -> Result<PathBuf> {
        let mut writer = lock(&self.shared.writer);
        let writer = writer.as_mut().ok_or_else(|| anyhow!("the capture is finished"))?;
        writer.flush()?;
        Ok(writer.partial().to_owned())
    }

    /// Whether both files could be written and read so far.
    ///
    /// # Errors
    /// The first thing that went wrong.
    pub fn check(&self) -> Result<()> {
        lock(&self.shared.fault).clone().map_or(Ok(()), |fault| Err(anyhow!(fault)))
    }

    /// What was read and was no frame for whoever read it, for the report; `None` if that is what must be so: packets to
    /// other subscribers, and questions for neighbours.
    #[must_use]
    pub fn strange(&self) -> Option<String> {
        let usual = [Foreign::OtherPort, Foreign::Neighbour];
        let counts = Foreign::ALL.iter().filter(|kind| !usual.contains(kind)).filter_map(|kind| {
            let count = self.shared.foreign[kind.index()].load(Ordering::Relaxed);
            (count > 0).then(|| format!("{count} {}", kind.name()))
        });
        let counts: Vec<String> = counts.collect();
        let path = self.config.read.as_ref()?.display();
        (!counts.is_empty()).then(|| format!("{path} has packets without a frame for us: {}", counts.join(", ")))
    }
}

impl Ports for CapturePorts {
    type Port = CapturePort;

    fn port(&self, role: Role, _arena: &Arena) -> Result<CapturePort, PortError> {
        if self.config.frame_bytes_max > FRAME_BYTES_MAX {
            let bytes = self.config.frame_bytes_max;
            return Err(PortError(format!(
                "a frame of {bytes} bytes does not fit a packet; give --frame-bytes {FRAME_BYTES_MAX} or less"
            )));
        }
        Ok(CapturePort { ports: self.clone(), role })
    }
}

/// One role's end of the captures.
#[derive(Debug)]
pub struct CapturePort {
    ports: CapturePorts,
    role: Role,
}

impl CapturePort {
    /// The UDP port of shard 0: of a subscriber where it listens, of a publisher where it sends from.
    fn base_port(&self) -> Result<u16, PortError> {
        match self.role {
            Role::Listen(base_port) => Ok(base_port),
            Role::Publish => {
                let number = self.ports.shared.publishers.fetch_add(1, Ordering::Relaxed);
                let shards = usize::from(self.ports.config.shard_count);
                let last = usize::from(SOURCE_PORT) + (number + 1) * shards - 1;
                let last =
                    u16::try_from(last).map_err(|_| PortError("too many --publishers for one address".into()))?;
                Ok(last - (self.ports.config.shard_count - 1))
            }
        }
    }
}

impl Port for CapturePort {
    type Queue = CaptureQueue;

    fn open(&mut self, _shards: &[u16], pool: &mut Pool) -> Result<CaptureQueue, PortError> {
        let config = &self.ports.config;
        // One network that holds everybody: where packets go is given, not found out.
        let network = Network { ip: config.from, prefix: 0, gateway: None };
        let base_port = self.base_port()?;
        let interface = Interface {
            mac: config.from_mac,
            vlan: config.vlan,
            networks: std::iter::once(network).collect(),
            base_port,
            shard_count: config.shard_count,
            mtu: u16::MAX,
        };
        let hop = Hop::new(&interface, 0, config.to_mac, config.to)
            .ok_or_else(|| PortError(format!("there is no way from {} to {}", config.from, config.to)))?;
        let reads = config.answers || matches!(self.role, Role::Listen(_));
        let follower = config.read.as_deref().filter(|_| reads).map(Follower::new).transpose().map_err(PortError)?;
        Ok(CaptureQueue {
            hop,
            receiver: Receiver::new(&interface),
            follower,
            to: address_bytes(config.to),
            mac: config.from_mac,
            base_port,
            frame_bytes_max: config.frame_bytes_max,
            shared: Arc::clone(&self.ports.shared),
            done: VecDeque::with_capacity(pool.total()),
            starved: 0,
        })
    }

    fn info(&self) -> PortInfo {
        let config = &self.ports.config;
        PortInfo {
            driver: "pcap",
            device: config.write.display().to_string(),
            frame_bytes_max: config.frame_bytes_max,
            degraded: vec!["times tell nothing of the node: frames wait in a file until the load is over".into()],
        }
    }
}

/// One publisher's or subscriber's end.
#[derive(Debug)]
pub struct CaptureQueue {
    hop: Hop,
    receiver: Receiver,
    follower: Option<Follower>,
    to: [u8; 16],
    mac: Mac,
    base_port: u16,
    frame_bytes_max: u32,
    shared: Arc<Shared>,
    done: VecDeque<Completion>,
    starved: u64,
}

impl CaptureQueue {
    /// Writes the frames of one item.
    fn write(&self, writer: &mut Writer, item: &Transmit, now_ns: u64) -> Result<(), Reason> {
        let stride = item.stride.min(item.len);
        let frames = item.buffer.bytes().get(item.offset as usize..).and_then(|bytes| bytes.get(..item.len as usize));
        let (Some(frames), true) = (frames, stride > 0 && stride <= self.frame_bytes_max) else {
            return Err(Reason::TxSubmitFail);
        };
        let Some(source) = self.base_port.checked_add(item.shard).filter(|_| item.destination.ip == self.to) else {
            return Err(Reason::TxSubmitFail);
        };
        let mut header = [0; HEADER_BYTES_MAX];
        let header = &mut header[..self.hop.header_bytes()];
        for frame in frames.chunks(stride as usize) {
            self.hop.write(header, source, item.destination.port.get(), frame, UdpChecksum::Compute);
            writer.write(now_ns, header, frame).map_err(|error| {
                note(&self.shared.fault, || format!("cannot write the capture: {error}"));
                Reason::TxSubmitFail
            })?;
        }
        Ok(())
    }

    /// Reads the next packet into a buffer; what is in it, or `None` if there is no packet.
    fn read(&mut self, buffer: &mut Buffer) -> Option<Result<Found, Foreign>> {
        let packet = match self.follower.as_mut()?.packet() {
            Ok(packet) => packet?,
            Err(fault) => {
                note(&self.shared.fault, || fault);
                self.follower = None;
                return None;
            }
        };
        let Some(bytes) = buffer.bytes_mut().get_mut(..packet.len()) else { return Some(Err(Foreign::TooLong)) };
        bytes.copy_from_slice(packet);
        // Whoever records is no device with an address of its own; which device a packet was sent to is the node's
        // matter, and the addresses above it tell whether it is for us. Groups stay groups.
        if let Some(to) = bytes.first_chunk_mut::<6>().filter(|to| to[0] & 1 == 0) {
            *to = self.mac;
        }
        Some(self.receiver.find(bytes, Checked::default()))
    }
}

impl RxQueue for CaptureQueue {
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        let before = into.len();
        for _ in 0..PACKETS_PER_BURST {
            if into.is_full() || self.follower.is_none() {
                break;
            }
            let Some(mut buffer) = pool.get() else {
                self.starved += 1;
                break;
            };
            match self.read(&mut buffer) {
                Some(Ok(Found { offset, len, shard, source })) => {
                    into.push(Received { buffer, offset, len, stride: len, shard, source });
                }
                Some(Err(kind)) => {
                    self.shared.foreign[kind.index()].fetch_add(1, Ordering::Relaxed);
                    pool.put(buffer);
                }
                None => {
                    pool.put(buffer);
                    break;
                }
            }
        }
        into.len() - before
    }

    fn wait(&mut self, ns: u64) {
        if self.done.is_empty() {
            thread::sleep(Duration::from_nanos(ns).min(NAP_MAX));
        }
    }

    fn stats(&self) -> QueueStats {
        QueueStats { starved: self.starved, ..QueueStats::default() }
    }

    fn held(&self) -> usize {
        self.done.len()
    }
}

impl TxQueue for CaptureQueue {
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        let shared = Arc::clone(&self.shared);
        let mut writer = lock(&shared.writer);
        let count = from.len().min(self.done.capacity() - self.done.len());
        let now_ns = unix_ns();
        for item in from.drain(..count) {
            let written = match writer.as_mut() {
                Some(writer) => self.write(writer, &item, now_ns),
                None => Err(Reason::TxSubmitFail),
            };
            self.done.push_back(Completion { token: item.token, buffer: item.buffer, error: written.err() });
        }
        count
    }

    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        let count = self.done.len().min(into.remaining_capacity());
        into.extend(self.done.drain(..count));
        count
    }
}

/// The node's address in packets: what is given, else the one it told.
#[must_use]
pub fn write_to(args: &RunArgs, node: IpAddr) -> IpAddr {
    args.write_to.unwrap_or(node)
}

/// Our address in packets: what is given, else the one that subscribers listen on if the node could reach it, else the
/// neighbour of the node's.
#[must_use]
pub fn write_from(args: &RunArgs, node: IpAddr) -> IpAddr {
    let to = write_to(args, node);
    let listen = Some(args.listen);
    let listen =
        listen.filter(|ip| !ip.is_loopback() && !ip.is_unspecified() && ip.is_ipv4() == to.is_ipv4() && *ip != to);
    args.write_from.or(listen).unwrap_or_else(|| next_to(to))
}

/// The address after this one; the one before at the end of 256, where a broadcast address may be.
fn next_to(ip: IpAddr) -> IpAddr {
    let after = |last: u8| if last < 254 { last + 1 } else { last - 1 };
    match ip {
        IpAddr::V4(ip) => {
            let [a, b, c, last] = ip.octets();
            [a, b, c, after(last)].into()
        }
        IpAddr::V6(ip) => {
            let mut bytes = ip.octets();
            bytes[15] = after(bytes[15]);
            bytes.into()
        }
    }
}

/// UDP ports of shard 0 of `count` subscribers, from `first` on. Nothing is bound, so none can be taken; but none may be
/// one that publishers send from.
///
/// # Errors
/// There are not that many.
pub fn listen_ports(first: u16, shard_count: u16, count: usize) -> Result<Vec<u16>> {
    let bases: Vec<u16> = (first..SOURCE_PORT).step_by(usize::from(shard_count.max(1))).take(count).collect();
    match bases.last() {
        Some(last) if bases.len() < count || u32::from(*last) + u32::from(shard_count) > u32::from(SOURCE_PORT) => {
            bail!("{count} subscribers from port {first} on reach beyond {SOURCE_PORT}; give a lower --listen-port")
        }
        None if count > 0 => bail!("port {first} is beyond {SOURCE_PORT}; give a lower --listen-port"),
        _ => Ok(bases),
    }
}

/// Remembers the first thing that went wrong.
fn note(fault: &Mutex<Option<String>>, what: impl FnOnce() -> String) {
    lock(fault).get_or_insert_with(what);
}

/// A thread that panicked leaves nothing half done behind these locks.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::{CapturePorts, SOURCE_PORT, listen_ports, write_from, write_to};
    use crate::args::{Cli, RunArgs, Verb};
    use clap::Parser;
    use std::net::IpAddr;

    fn args(more: &[&str]) -> RunArgs {
        let file = std::env::temp_dir().join(format!("tachyon-load-asked-{}.pcap", std::process::id()));
        let file = file.to_str().unwrap();
        let line = ["tachyon-load", "run", "--control", "/run/x.sock", "--write", file];
        let Verb::Run(args) = Cli::try_parse_from(line.iter().chain(more)).unwrap().command;
        *args
    }

    #[test]
    fn addresses_are_those_given_or_lie_beside_the_nodes() {
        let ends = |more: &[&str], node: &str| {
            let (args, node) = (args(more), node.parse().unwrap());
            (write_from(&args, node).to_string(), write_to(&args, node).to_string())
        };
        let pair = |from: &str, to: &str| (from.to_owned(), to.to_owned());
        assert_eq!(ends(&[], "192.0.2.1"), pair("192.0.2.2", "192.0.2.1"));
        assert_eq!(ends(&[], "192.0.2.254"), pair("192.0.2.253", "192.0.2.254"));
        assert_eq!(ends(&[], "2001:db8::1"), pair("2001:db8::2", "2001:db8::1"));
        assert_eq!(ends(&["--listen", "198.51.100.9"], "192.0.2.1"), pair("198.51.100.9", "192.0.2.1"));
        assert_eq!(ends(&["--listen", "192.0.2.1"], "192.0.2.1"), pair("192.0.2.2", "192.0.2.1"));
        let given = ["--write-to", "2001:db8::7", "--write-from", "2001:db8::9"];
        assert_eq!(ends(&given, "192.0.2.1"), pair("2001:db8::9", "2001:db8::7"));
    }

    #[test]
    fn what_a_capture_cannot_do_is_refused_at_once() {
        let refusal = |more: &[&str]| {
            let node: IpAddr = "192.0.2.1".parse().unwrap();
            CapturePorts::asked(&args(more), node, 16).unwrap_err().to_string()
        };
        assert!(refusal(&[]).contains("--read FILE or --subscribers 0"));
        assert!(refusal(&["--subscribers", "0", "--phase", "name=a", "--phase", "name=b"]).contains("one --phase"));
        assert!(refusal(&["--subscribers", "0", "--write-from", "2001:db8::1"]).contains("one family"));
    }

    #[test]
    fn subscribers_listen_below_where_publishers_send_from() {
        assert_eq!(listen_ports(26_640, 16, 2).unwrap(), [26_640, 26_656]);
        assert_eq!(listen_ports(SOURCE_PORT - 16, 16, 1).unwrap(), [SOURCE_PORT - 16]);
        assert!(listen_ports(SOURCE_PORT - 15, 16, 1).is_err() && listen_ports(SOURCE_PORT - 32, 16, 3).is_err());
        assert!(listen_ports(60_000, 16, 1).is_err() && listen_ports(60_000, 16, 0).unwrap().is_empty());
    }
}
