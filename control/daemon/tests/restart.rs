//! What the truth log promises when processes die: `tachyond` and `tachyon-control` are killed while a publisher sends durable messages
//! and repeats what is not acknowledged. In the end each acknowledged message is in the log once, and with the subscriber once.
//!
//! What happens is decided by how far the publisher is, never by time.
#![expect(clippy::unwrap_used, reason = "in a test a failure is a panic, in its helpers too")]

use std::{
    collections::{BTreeMap, BTreeSet},
    env, fs,
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tachyon_log::{Found, ReadOnly, Reader, Record};
use tachyon_proto::{
    Client,
    v1::{ApplyRulesRequest, Ledgers, OpenSessionRequest, ResolveTopicsRequest, StatsRequest, SubscribeRequest},
};
use tachyon_wire::{
    Lane, Message,
    ack::CLASS_DURABLE,
    build::{FrameFields, FrameWriter, Seal},
    frame::{self, ACK_WANTED, FrameHeader},
    tag,
    tap::{self, FRAME_WHOLE, Part},
};
use tokio::runtime::Runtime;

const SHARDS: u16 = 2;
/// Values that the publisher has to bring through.
const VALUES: u64 = 3_000;
const VALUES_PER_FRAME: usize = 3;
/// Frames that may be unsettled in a shard: few enough that no socket overflows while a process starts.
const UNSETTLED_MAX: usize = 24;
/// Pause before a frame is repeated.
const REPEAT: Duration = Duration::from_millis(40);
/// Nothing takes as long as this.
const PATIENCE: Duration = Duration::from_secs(120);
const LANE: Lane = Lane { frame_bytes_max: 1472, references: false };

/// Session, epoch, frame, shard and index: which event a message is.
type Identity = (u32, u32, u32, u16, u16);

/// What is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Victim {
    Node,
    Control,
    Both,
}

/// Both processes in a folder of their own.
struct World {
    folder: PathBuf,
    tachyond: PathBuf,
    base: u16,
    node: Option<Child>,
    control: Option<Child>,
}

impl World {
    /// `None`, with a line, where `tachyond` was not built.
    fn start(name: &str) -> Option<Self> {
        let tachyond = Path::new(env!("CARGO_BIN_EXE_tachyon-control")).with_file_name("tachyond");
        if !tachyond.exists() {
            eprintln!("skipped: {} is not there; build tachyon-node first", tachyond.display());
            return None;
        }
        // Processes die here, not the machine; so the log may lie in memory, where no slow disk decides how long this takes.
        let memory = Path::new("/dev/shm");
        let below = if memory.is_dir() { memory.to_owned() } else { env::temp_dir() };
        let folder = below.join(format!("tachyon-restart-{name}-{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (base, at) = (free_base(), folder.display());
        fs::write(
            folder.join("node.toml"),
            format!(
                "[node]\nstate_dir = \"{at}/node\"\nrun_dir = \"{at}\"\n\
                 [network]\naddress = \"127.0.0.1\"\nbase_port = {base}\nshard_count = {SHARDS}\n\
                 [memory]\nbuffers_per_worker = 1024\nreceive_buffers = 128\n\
                 [limits]\ntopics_max = 64\nsenders_max = 64\nsessions_max = 64\nsubscribers_max = 16\ntargets_max = 64\n\
                 [workers]\ncount = 1\nidle = \"wait\"\n[log]\nenabled = true\nring_mib = 8\n"
            ),
        )
        .unwrap();
        fs::write(
            folder.join("control.toml"),
            format!(
                "run_dir = \"{at}\"\nstate_dir = \"{at}/control\"\nlog_level = \"info\"\n\
                 [log]\nenabled = true\ndirectory = \"{at}/log\"\nsegment_mib = 8\n"
            ),
        )
        .unwrap();
        let mut world = Self { folder, tachyond, base, node: None, control: None };
        world.start_node();
        world.start_control();
        Some(world)
    }

    fn spawn(&self, program: &Path, file: &str) -> Child {
        let said = fs::OpenOptions::new().create(true).append(true).open(self.folder.join(format!("{file}.said")));
        let said = said.unwrap();
        let mut command = Command::new(program);
        command.arg("--config").arg(self.folder.join(file)).stdout(said.try_clone().unwrap()).stderr(said);
        command.stdin(Stdio::null()).spawn().unwrap()
    }

    fn start_node(&mut self) {
        self.node = Some(self.spawn(&self.tachyond, "node.toml"));
    }

    fn start_control(&mut self) {
        self.control = Some(self.spawn(Path::new(env!("CARGO_BIN_EXE_tachyon-control")), "control.toml"));
    }

    /// Kills as a crash would, and starts again at once.
    fn kill(&mut self, victim: Victim) {
        let end = |child: &mut Option<Child>| {
            let mut child = child.take().unwrap();
            child.kill().unwrap();
            child.wait().unwrap();
        };
        if victim != Victim::Control {
            end(&mut self.node);
        }
        if victim != Victim::Node {
            end(&mut self.control);
            self.start_control();
        }
        if victim != Victim::Control {
            self.start_node();
        }
    }

    fn client(&self, runtime: &Runtime) -> Client {
        let socket = self.folder.join("control.sock");
        let begun = Instant::now();
        loop {
            match runtime.block_on(tachyon_proto::connect(&socket)) {
                Ok(client) => return client,
                Err(_) if begun.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(10)),
                Err(error) => panic!("{error}\n{}", self.said()),
            }
        }
    }

    /// Calls until the call is answered.
    fn call<T, F: Future<Output = Result<tonic::Response<T>, tonic::Status>>>(
        &self,
        runtime: &Runtime,
        call: impl Fn(Client) -> F,
    ) -> T {
        let begun = Instant::now();
        loop {
            match runtime.block_on(call(self.client(runtime))) {
                Ok(answer) => return answer.into_inner(),
                Err(_) if begun.elapsed() < PATIENCE => thread::sleep(Duration::from_millis(20)),
                Err(status) => panic!("{status}\n{}", self.said()),
            }
        }
    }

    fn said(&self) -> String {
        let said = |file| fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        format!("control:\n{}node:\n{}", said("control.toml.said"), said("node.toml.said"))
    }

    /// Ends control in good order, so that the log is all on the disk.
    fn end_control(&mut self) {
        let mut control = self.control.take().unwrap();
        let pid = rustix::process::Pid::from_child(&control);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        control.wait().unwrap();
    }
}

impl Drop for World {
    fn drop(&mut self) {
        for child in [&mut self.node, &mut self.control].into_iter().flatten() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if !thread::panicking() {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }
}

/// Ports for all shards of both sides, below those that the kernel gives away.
fn free_base() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let step = NEXT.fetch_add(1, Ordering::Relaxed) * u32::from(SHARDS);
        let base = u16::try_from(10_000 + (std::process::id() * 89 + step) % 20_000).unwrap();
        if (base..base + SHARDS).all(|port| UdpSocket::bind(("127.0.0.1", port)).is_ok()) {
            return base;
        }
    }
}

/// The subscriber: it drops what it has, by the identity.
#[derive(Default)]
struct Received {
    /// By event, the value that came with it.
    events: BTreeMap<Identity, u64>,
    doubles: u64,
}

struct Subscriber {
    base: u16,
    received: Arc<Mutex<Received>>,
    end: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Subscriber {
    fn start(base: u16) -> Self {
        let (received, end) = (Arc::new(Mutex::new(Received::default())), Arc::new(AtomicBool::new(false)));
        let listen = |port: u16| {
            let socket = UdpSocket::bind(("127.0.0.1", port)).unwrap();
            // Where that is not allowed, what overflows is counted.
            let _ = rustix::net::sockopt::set_socket_recv_buffer_size_force(&socket, 16 << 20);
            socket.set_read_timeout(Some(Duration::from_millis(20))).unwrap();
            let (received, end) = (received.clone(), end.clone());
            thread::spawn(move || {
                let mut bytes = [0; 2048];
                while !end.load(Ordering::Relaxed) {
                    let Ok(length) = socket.recv(&mut bytes) else { continue };
                    let frame = frame::parse(&bytes[..length], &LANE).unwrap();
                    assert_eq!(frame.provenance.len(), frame.messages.len(), "a durable message without identity");
                    for (message, from) in frame.messages.iter().zip(frame.provenance) {
                        let event = (
                            from.session_id.get(),
                            from.epoch.get(),
                            from.frame_id.get(),
                            from.shard.get(),
                            from.index.get(),
                        );
                        let mut received = received.lock().unwrap();
                        if let Some(before) = received.events.insert(event, value_of(message)) {
                            assert_eq!(before, value_of(message), "one event with two values");
                            received.doubles += 1;
                        }
                    }
                }
            })
        };
        Self { base, threads: (base..base + SHARDS).map(listen).collect(), received, end }
    }

    /// Datagrams that the kernel dropped because we did not read fast enough.
    fn overflow(base: u16) -> u64 {
        let sockets = fs::read_to_string("/proc/net/udp").unwrap();
        let port = |line: &str| u16::from_str_radix(line.split_whitespace().nth(1)?.split_once(':')?.1, 16).ok();
        let ours = sockets.lines().filter(|line| port(line).is_some_and(|port| (base..base + SHARDS).contains(&port)));
        ours.filter_map(|line| line.split_whitespace().last()?.parse::<u64>().ok()).sum()
    }

    fn end(self) -> Received {
        self.end.store(true, Ordering::Relaxed);
        self.threads.into_iter().for_each(|thread| thread.join().unwrap());
        Arc::into_inner(self.received).unwrap().into_inner().unwrap()
    }
}

fn value_of(message: &Message) -> u64 {
    u64::from_le_bytes(message.inline_payload().unwrap().try_into().unwrap())
}

/// A frame that waits for its ack.
struct Kept {
    bytes: Vec<u8>,
    values: Vec<u64>,
    sent: Instant,
}

/// What the publisher does in one shard.
struct Stream {
    shard: u16,
    topic_id: u32,
    epoch: u32,
    next: u32,
    kept: BTreeMap<u32, Kept>,
    values: Vec<u64>,
}

/// A publisher as the wire document wants it.
struct Publisher {
    socket: UdpSocket,
    base: u16,
    session_id: u32,
    master: [u8; 32],
    sender: u32,
    streams: Vec<Stream>,
    acked: BTreeSet<u64>,
    /// Frames that were sent once more, refused, and published anew because their epoch was over.
    repeated: u64,
    refused: u64,
    anew: u64,
}

impl Publisher {
    fn seal(&self, stream: usize, values: &[u64]) -> Vec<u8> {
        let stream = &self.streams[stream];
        let mut bytes = [0; 1472];
        let fields = FrameFields {
            flags: ACK_WANTED,
            frame_id: stream.next,
            session_id: self.session_id,
            shard: stream.shard,
            epoch: stream.epoch,
            ..FrameFields::default()
        };
        let mut writer = FrameWriter::new(&mut bytes, fields);
        for value in values {
            writer.push(&Message::inline(stream.topic_id, self.sender, 1, &value.to_le_bytes()).unwrap()).unwrap();
        }
        let length = writer.finish(Seal::Tag(&tag::derive(&self.master, self.session_id, stream.epoch)));
        bytes[..length].to_vec()
    }

    fn send(&self, shard: u16, bytes: &[u8]) {
        self.socket.send_to(bytes, ("127.0.0.1", self.base + shard)).unwrap();
    }

    /// One turn: reads what was answered, sends what may be sent, repeats what was not answered.
    fn turn(&mut self) {
        self.listen();
        for index in 0..self.streams.len() {
            while self.streams[index].kept.len() < UNSETTLED_MAX && !self.streams[index].values.is_empty() {
                let values = &mut self.streams[index].values;
                let rest = values.len().saturating_sub(VALUES_PER_FRAME);
                let values = values.split_off(rest);
                let bytes = self.seal(index, &values);
                let stream = &mut self.streams[index];
                stream.kept.insert(stream.next, Kept { bytes: bytes.clone(), values, sent: Instant::now() });
                stream.next += 1;
                let shard = stream.shard;
                self.send(shard, &bytes);
            }
            let shard = self.streams[index].shard;
            let late = self.streams[index].kept.values_mut().filter(|kept| kept.sent.elapsed() >= REPEAT);
            let again: Vec<Vec<u8>> = late
                .map(|kept| {
                    kept.sent = Instant::now();
                    kept.bytes.clone()
                })
                .collect();
            self.repeated += again.len() as u64;
            again.iter().for_each(|bytes| self.send(shard, bytes));
        }
    }

    fn listen(&mut self) {
        let mut bytes = [0; 2048];
        while let Ok(length) = self.socket.recv(&mut bytes) {
            let Some(ack) = frame::parse(&bytes[..length], &LANE).unwrap().ack().copied() else { continue };
            let stream = self.streams.iter_mut().find(|stream| stream.shard == ack.shard.get()).unwrap();
            assert_eq!(ack.session_id.get(), self.session_id);
            if ack.epoch.get() > stream.epoch {
                // The node does not know what was before. What is not settled is published anew.
                (stream.epoch, stream.next) = (ack.epoch.get(), 1);
                let kept = std::mem::take(&mut stream.kept);
                self.anew += kept.len() as u64;
                stream.values.extend(kept.into_values().flat_map(|kept| kept.values));
            } else if ack.epoch.get() == stream.epoch && ack.class == CLASS_DURABLE {
                let settled: Vec<u32> = stream.kept.keys().copied().filter(|id| ack.is_settled(*id)).collect();
                for id in settled {
                    let kept = stream.kept.remove(&id).unwrap();
                    if ack.is_refused(id) {
                        // One topic, and so all of it.
                        self.refused += 1;
                        stream.values.extend(kept.values);
                    } else {
                        self.acked.extend(kept.values);
                    }
                }
            }
        }
    }

    fn is_done(&self) -> bool {
        self.streams.iter().all(|stream| stream.kept.is_empty() && stream.values.is_empty())
    }
}

/// What the log has: every event that was accepted, and how often.
fn logged(directory: &Path) -> BTreeMap<Identity, (u64, u32)> {
    let mut events = BTreeMap::new();
    for shard in 0..SHARDS {
        let files = ReadOnly::new(&directory.join(format!("shard-{shard:05}")));
        let mut reader = Reader::new(files, 0).unwrap();
        let mut frames: BTreeMap<u32, Vec<Vec<u8>>> = BTreeMap::new();
        while let Some(found) = reader.read().unwrap() {
            let Found::Record(owned) = found else { panic!("{found:?}") };
            match Record::read(&owned.raw()) {
                Some(Record::Frame(arrival, bytes)) => {
                    frames.entry(arrival.burst.get()).or_default().push(bytes.to_vec());
                }
                Some(Record::Clock(clock)) if clock.boot != 0 => frames.clear(),
                Some(Record::Decisions(body)) => {
                    let (turn, parts) = tap::read(body).unwrap();
                    let mut whole =
                        frames.remove(&u32::try_from(turn.turn.get()).unwrap()).unwrap_or_default().into_iter();
                    for part in parts {
                        let Part::Frame(part) = part else { continue };
                        if part.entry.form == FRAME_WHOLE {
                            note(&whole.next().unwrap(), &part, &mut events);
                        }
                    }
                }
                _ => {}
            }
        }
    }
    events
}

fn note(bytes: &[u8], part: &tap::FramePart<'_>, events: &mut BTreeMap<Identity, (u64, u32)>) {
    let frame = frame::parse(bytes, &LANE).unwrap();
    let FrameHeader { session_id, epoch, frame_id, shard, .. } = *frame.header;
    for (index, message) in (0_u16..).zip(frame.messages) {
        if part.is_held(index.into()) {
            let event = (session_id.get(), epoch.get(), frame_id.get(), shard.get(), index);
            events.entry(event).or_insert((value_of(message), 0)).1 += 1;
        }
    }
}

/// A publisher and a subscriber under rules by which all topics are durable.
fn enter(world: &World, runtime: &Runtime) -> (Publisher, Subscriber) {
    let rules = "[[topic]]\nmatch = \"proof.*\"\ndurability = \"durable\"\n[[identity]]\nname = \"prover\"\n\
                 publish = [\"proof.*\"]\nsubscribe = [\"proof.*\"]\nsenders = \"0-9\"\nclass = \"P1\"\ntags = \"required\"\n";
    world.call(runtime, async |mut client| {
        client.apply_rules(ApplyRulesRequest { text: rules.into(), file_name: "rules.toml".into() }).await
    });
    let names: Vec<String> = (0..SHARDS).map(|shard| format!("proof.{shard}")).collect();
    let resolve = ResolveTopicsRequest { identity: "prover".into(), names };
    let topics = world.call(runtime, async |mut client| client.resolve_topics(resolve.clone()).await).topics;
    let base = free_base();
    let subscriber = Subscriber::start(base);
    let subscribe = SubscribeRequest {
        identity: "prover".into(),
        topics: vec!["proof.*".into()],
        address: "127.0.0.1".into(),
        base_port: base.into(),
        credit: 256,
        ..SubscribeRequest::default()
    };
    world.call(runtime, async |mut client| client.subscribe(subscribe.clone()).await);
    let open = OpenSessionRequest { identity: "prover".into(), tags: true, ..OpenSessionRequest::default() };
    let session = world.call(runtime, async |mut client| client.open_session(open.clone()).await);
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    let share = VALUES / u64::from(SHARDS);
    let stream = |(index, topic): (u64, &tachyon_proto::v1::Topic)| Stream {
        shard: u16::try_from(topic.topic_id % u32::from(SHARDS)).unwrap(),
        topic_id: topic.topic_id,
        epoch: session.epoch,
        next: 1,
        kept: BTreeMap::new(),
        values: (index * share..(index + 1) * share).collect(),
    };
    let publisher = Publisher {
        socket,
        base: world.base,
        session_id: session.session_id,
        master: session.master_key.as_slice().try_into().unwrap(),
        sender: session.sender_low,
        streams: (0..).zip(&topics).map(stream).collect(),
        acked: BTreeSet::new(),
        repeated: 0,
        refused: 0,
        anew: 0,
    };
    (publisher, subscriber)
}

/// Publishes everything, kills on the way, and holds the ends against each other.
fn prove(name: &str, victims: &[Victim]) {
    let Some(mut world) = World::start(name) else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let (mut publisher, subscriber) = enter(&world, &runtime);
    let begun = Instant::now();
    let mut left = victims.iter().zip(1..);
    let mut next = left.next();
    while !publisher.is_done() {
        publisher.turn();
        if let Some((victim, number)) = next
            && publisher.acked.len() as u64 >= VALUES * number / (victims.len() as u64 + 1)
        {
            world.kill(*victim);
            next = left.next();
        }
        let (acked, said) = (publisher.acked.len(), || world.said());
        assert!(begun.elapsed() < PATIENCE, "{acked} of {VALUES} are acknowledged; {}", said());
    }
    assert_eq!(next, None, "everybody was killed");
    let ledgers: Ledgers =
        world.call(&runtime, async |mut client| client.stats(StatsRequest {}).await).ledgers.unwrap();
    world.end_control();
    // Copies of what was acknowledged are in the sockets by now; they only have to be read.
    let wanted = publisher.acked.len();
    let has_all = |received: &Received| received.events.values().collect::<BTreeSet<_>>().len() >= wanted;
    let overflow = || Subscriber::overflow(subscriber.base);
    while !has_all(&subscriber.received.lock().unwrap()) && overflow() == 0 && begun.elapsed() < PATIENCE {
        thread::sleep(Duration::from_millis(20));
    }
    let overflow = overflow();
    let received = subscriber.end();
    let events = logged(&world.folder.join("log"));
    eprintln!(
        "{name}: {} repeated, {} refused, {} anew, {} doubles dropped",
        publisher.repeated, publisher.refused, publisher.anew, received.doubles
    );
    assert_eq!(publisher.acked.len() as u64, VALUES);
    assert_eq!(ledgers.unaccounted, 0, "the ledgers of the last start");
    let twice: Vec<_> = events.iter().filter(|(_, (_, times))| *times != 1).collect();
    assert!(twice.is_empty(), "events that are in the log more than once: {twice:?}");
    let mut values: BTreeMap<u64, Vec<Identity>> = BTreeMap::new();
    events.iter().for_each(|(event, (value, _))| values.entry(*value).or_default().push(*event));
    let strange: Vec<_> = values.iter().filter(|(_, events)| events.len() != 1).collect();
    assert!(strange.is_empty(), "values that are in the log under several identities: {strange:?}");
    let lost: Vec<_> = publisher.acked.iter().filter(|value| !values.contains_key(value)).collect();
    assert!(lost.is_empty(), "acknowledged, and not in the log: {lost:?}");
    let delivered: BTreeSet<u64> = received.events.values().copied().collect();
    assert_eq!(delivered.len(), received.events.len(), "a value came under two identities");
    let missing: Vec<_> = publisher.acked.difference(&delivered).collect();
    // What the kernel drops for want of room it counts by runs of frames, none of which holds more copies than this.
    let excused = overflow * 1_024;
    if overflow > 0 {
        eprintln!("{name}: the kernel dropped {overflow} datagrams, which may excuse {} values", missing.len());
    }
    let excused = missing.len() as u64 <= excused;
    assert!(excused, "acknowledged, and never delivered: {missing:?}\n{}", world.said());
}

#[test]
fn a_killed_node_loses_and_doubles_nothing() {
    prove("node", &[Victim::Node, Victim::Node, Victim::Node]);
}

#[test]
fn a_killed_control_loses_and_doubles_nothing() {
    prove("control", &[Victim::Control, Victim::Control]);
}

#[test]
fn both_killed_at_once_lose_and_double_nothing() {
    prove("both", &[Victim::Both, Victim::Control, Victim::Both, Victim::Node]);
}
