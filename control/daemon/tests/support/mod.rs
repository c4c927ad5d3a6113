//! A `tachyond` that only keeps what it is told, and a control process over a real socket, both in folders of their own.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tachyon_config::{ControlFile, TruthLogSection};
use tachyon_policy::verify;
use tachyon_proto::Client;
use tachyon_segment::{
    SealedImage, StatsSegment, StatsWriter, TapRing,
    handover::{
        Accepted, Connection, FilterStatus, Hello, Incoming, LaneAnswer, LaneKind, LaneRequest, LaneState, LaneStatus,
        Listener, PortStatus, Prefix, Reply, Request, TapAnswer,
    },
};
use tachyon_wire::{
    Endpoint,
    command::{AddSubscriber, Again, OpenSession, Restore},
};
use tokio::{runtime::Builder, sync::oneshot};

pub(crate) const SHARDS: u16 = 4;

/// A folder that is removed on drop.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("tachyon-control-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A worker's tap as the node has it.
pub(crate) struct Tapped {
    pub(crate) ring: TapRing,
    pub(crate) arena: OwnedFd,
    pub(crate) answer: TapAnswer,
}

/// What a node was told.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) sessions: BTreeMap<u32, OpenSession>,
    pub(crate) subscribers: BTreeMap<(u32, u16), AddSubscriber>,
    /// The ruleset in force.
    pub(crate) image: Vec<u8>,
    pub(crate) version: u64,
    /// Every request, in its order.
    pub(crate) log: Vec<String>,
    /// Rulesets are refused with this text, if there is one.
    pub(crate) refuse: Option<String>,
    /// Requests whose name begins like this find it busy, if there is one.
    pub(crate) busy: Option<&'static str>,
    /// The ports it has; setting one of another name is refused.
    pub(crate) ports: Vec<PortStatus>,
    /// Every offer of a lane.
    pub(crate) offers: Vec<LaneRequest>,
    /// The lanes it has.
    pub(crate) lanes: Vec<LaneStatus>,
    /// Offers of lanes are refused with this text, if there is one.
    pub(crate) refuse_lane: Option<String>,
    /// The pre-filters it has; setting that of another interface is refused.
    pub(crate) filters: Vec<FilterStatus>,
    /// What is denied. Lists of it are not in the log, because each connection brings one.
    pub(crate) denied: Vec<Prefix>,
    /// How many lists came.
    pub(crate) denied_lists: u32,
    /// Lists of denied prefixes are refused with this text, if there is one.
    pub(crate) refuse_denied: Option<String>,
    pub(crate) connections: u32,
    /// Windows of before its start, and messages that it forwards again.
    pub(crate) restored: Vec<Restore>,
    pub(crate) again: Vec<Again>,
    /// The taps it has; without any it has no log.
    pub(crate) taps: Vec<Tapped>,
}

/// One start of a node; ends on drop.
pub(crate) struct Node {
    pub(crate) told: Arc<Mutex<Told>>,
    pub(crate) hello: Hello,
    pub(crate) writers: Vec<StatsWriter>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Node {
    pub(crate) fn start(folder: &Path, boot_number: u16) -> Self {
        Self::start_as(folder, hello(boot_number))
    }

    pub(crate) fn start_as(folder: &Path, hello: Hello) -> Self {
        Self::start_with(folder, hello, Told::default())
    }

    /// A start that answers as `told` says from the first request on.
    pub(crate) fn start_with(folder: &Path, hello: Hello, told: Told) -> Self {
        let listener = Listener::bind(&folder.join("tachyond.sock"), &[rustix::process::geteuid().as_raw()]).unwrap();
        let segment = StatsSegment::create(hello.workers, hello.boot_id).unwrap();
        let writers = (0..hello.workers).map(|worker| segment.writer(worker).unwrap()).collect();
        let (told, end) = (Arc::new(Mutex::new(told)), Arc::new(AtomicBool::new(false)));
        let (theirs, ended, said) = (told.clone(), end.clone(), hello.clone());
        let thread = thread::spawn(move || {
            let mut connection: Option<Connection> = None;
            while !ended.load(Ordering::Relaxed) {
                if let Some(new) = listener.accept().unwrap() {
                    let mut told = theirs.lock().unwrap();
                    told.connections += 1;
                    let hello = Hello { ruleset_version: told.version, ..said.clone() };
                    let _ = new.send_hello(&hello, segment.reader_fd());
                    connection = Some(new);
                }
                match connection.as_ref().map(Connection::receive) {
                    Some(Ok(Incoming::Request(number, request))) => {
                        answer(&mut theirs.lock().unwrap(), connection.as_ref().unwrap(), number, request);
                    }
                    Some(Ok(Incoming::Closed) | Err(_)) => connection = None,
                    Some(Ok(Incoming::Malformed(_, text))) => panic!("{text}"),
                    _ => thread::sleep(Duration::from_millis(1)),
                }
            }
        });
        Self { told, hello, writers, end, thread: Some(thread) }
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        let _ = self.thread.take().unwrap().join();
    }
}

/// What the node answers to peers that offer it a lane.
pub(crate) const WORKERS_PART: [u8; 64] = [0xab; 64];

fn answer(told: &mut Told, connection: &Connection, number: u32, request: Request) {
    let _ = match request {
        Request::Port(place) if (place as usize) < told.ports.len() => {
            connection.reply_port(number, u16::try_from(told.ports.len()).unwrap(), &told.ports[place as usize])
        }
        Request::Lane(place) if (place as usize) < told.lanes.len() => {
            connection.reply_lane(number, u32::try_from(told.lanes.len()).unwrap(), &told.lanes[place as usize])
        }
        Request::Filter(place) if (place as usize) < told.filters.len() => {
            connection.reply_filter(number, u16::try_from(told.filters.len()).unwrap(), &told.filters[place as usize])
        }
        Request::Tap(worker) if usize::from(worker) < told.taps.len() => {
            let Tapped { ring, arena, answer } = &told.taps[usize::from(worker)];
            connection.reply_tap(number, answer, [ring.ring_fd(), ring.cursors_fd(), arena.as_fd()])
        }
        // Where a publisher is, only its details say.
        Request::ConnectLane(ref lane) if lane.to.is_none() => {
            let to = Endpoint::v4([10, 0, 0, lane.details[0]], 77);
            connection.reply_details(number, &LaneAnswer { to, details: [0; 64] })
        }
        Request::ConnectLane(ref lane) if told.refuse_lane.is_none() => {
            told.log.push(format!("{request:?}"));
            told.offers.push(**lane);
            let to = lane.to;
            told.lanes.retain(|other| (other.worker, other.to) != (lane.worker, to));
            told.lanes.push(LaneStatus {
                worker: lane.worker,
                to,
                kind: LaneKind::Ring,
                state: LaneState::Connected,
                why: String::new(),
                attempts: 0,
                fell_back: false,
            });
            connection.reply_details(number, &LaneAnswer { to, details: WORKERS_PART })
        }
        request => connection.reply(&take(told, number, request)),
    };
}

fn take(told: &mut Told, number: u32, request: Request) -> Reply {
    if !matches!(request, Request::Denied(_)) {
        told.log.push(format!("{request:?}"));
    }
    let mut reply = Reply { number, accepted: Accepted::Yes, text: String::new() };
    if told.busy.is_some_and(|name| format!("{request:?}").starts_with(name)) {
        return Reply { accepted: Accepted::Busy, text: "a ring is full".into(), ..reply };
    }
    match request {
        Request::OpenSession(open) => drop(told.sessions.insert(open.session_id.get(), *open)),
        Request::CloseSession(id) => drop(told.sessions.remove(&id)),
        Request::AddSubscriber(add) => drop(told.subscribers.insert((add.slot.get(), add.worker.get()), *add)),
        Request::RemoveSubscriber(slot) => told.subscribers.retain(|(theirs, _), _| *theirs != slot),
        Request::Ruleset(fd) => match told.refuse.clone() {
            Some(text) => reply = Reply { accepted: Accepted::Refused, text, ..reply },
            None => {
                let image = SealedImage::adopt(&fd).unwrap();
                let version = verify(image.as_ref(), SHARDS).unwrap().version();
                assert!(version > told.version, "versions rise");
                (told.image, told.version) = (image.as_ref().to_vec(), version);
            }
        },
        Request::StopPort(name) | Request::StartPort(name) if told.ports.iter().any(|port| port.name == name) => {}
        Request::DropLane(worker, to) => told.lanes.retain(|lane| (lane.worker, lane.to) != (worker, to)),
        Request::ConnectLane(_) => {
            reply = Reply { accepted: Accepted::Refused, text: told.refuse_lane.clone().unwrap(), ..reply };
        }
        Request::Lane(_) | Request::Filter(_) => {}
        Request::Denied(fd) => match told.refuse_denied.clone() {
            Some(text) => reply = Reply { accepted: Accepted::Refused, text, ..reply },
            None => {
                told.denied = Prefix::list(SealedImage::adopt(&fd).unwrap().as_ref()).unwrap().to_vec();
                told.denied_lists += 1;
            }
        },
        Request::AttachFilter(name) | Request::DetachFilter(name)
            if told.filters.iter().any(|filter| filter.interface == name) => {}
        Request::AttachFilter(_) | Request::DetachFilter(_) => {
            reply = Reply { accepted: Accepted::Refused, text: "there is no such interface".into(), ..reply };
        }
        Request::Tap(_) => {
            reply = Reply { accepted: Accepted::Refused, text: "the node has no log".into(), ..reply };
        }
        Request::Restore(part) => told.restored.push(*part),
        Request::Again(again) => told.again.push(*again),
        Request::StopPort(_) | Request::StartPort(_) | Request::Port(_) => {
            reply = Reply { accepted: Accepted::Refused, text: "there is no such port".into(), ..reply };
        }
    }
    reply
}

pub(crate) fn hello(boot_number: u16) -> Hello {
    Hello {
        boot_id: [u8::try_from(boot_number).unwrap(); 16],
        boot_number,
        workers: 2,
        shard_count: SHARDS,
        listen: Endpoint::v4([0; 4], 24_640),
        frame_bytes_max: 1472,
        sessions_max: 64,
        subscribers_max: 16,
        topics_max: 1024,
        senders_max: 4096,
        targets_max: 64,
        ruleset_version: 0,
        driver: "fake".into(),
        degraded: vec!["ordinary pages".into()],
    }
}

/// A control process in this one.
pub(crate) struct Control {
    pub(crate) client: Client,
    pub(crate) socket: PathBuf,
    end: oneshot::Sender<()>,
    thread: JoinHandle<()>,
}

impl Control {
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::start_with(folder, ControlFile::default().log).await
    }

    pub(crate) async fn start_with(folder: &Path, log: TruthLogSection) -> Self {
        let (run_dir, state_dir) = (folder.into(), folder.join("state"));
        let config = ControlFile { run_dir, state_dir, log, ..ControlFile::default() };
        let (end, ended) = oneshot::channel::<()>();
        // A runtime of its own, so that everything of it is gone once the thread has ended, as with a process.
        let thread = thread::spawn(move || {
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
            runtime.block_on(tachyon_control::serve(config, async { drop(ended.await) })).unwrap();
        });
        let socket = folder.join("control.sock");
        let client = eventually_some(async || tachyon_proto::connect(&socket).await.ok()).await;
        Self { client, socket, end, thread }
    }

    pub(crate) async fn connected(&mut self) {
        let client = self.client.clone();
        eventually(async || {
            client.clone().status(tachyon_proto::v1::StatusRequest {}).await.unwrap().into_inner().connected
        })
        .await;
    }

    pub(crate) async fn apply(&mut self, text: &str) -> tachyon_proto::v1::ApplyRulesResponse {
        let request = tachyon_proto::v1::ApplyRulesRequest { text: text.into(), file_name: "rules.toml".into() };
        self.client.apply_rules(request).await.unwrap().into_inner()
    }

    /// Ends it as a signal would; its registry is closed afterwards.
    pub(crate) async fn stop(self) {
        drop((self.end, self.client));
        tokio::task::spawn_blocking(|| self.thread.join().unwrap()).await.unwrap();
    }
}

pub(crate) async fn eventually(condition: impl AsyncFn() -> bool) {
    eventually_some(async || condition().await.then_some(())).await;
}

pub(crate) async fn eventually_some<T>(look: impl AsyncFn() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(20);
    while Instant::now() < end {
        if let Some(found) = look().await {
            return found;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    panic!("it did not happen in 20 s");
}
