//! A running `tachyond` for a test: its folder, its process, and the control side of its socket.
#![expect(clippy::unwrap_used, reason = "in a test a failure is a panic, in its helpers too")]
#![allow(dead_code, reason = "each test program uses a part of it")]

use std::{
    fs,
    io::{BufRead, BufReader},
    net::UdpSocket,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        atomic::{AtomicU16, Ordering},
        mpsc::{self, Receiver},
    },
    thread,
    time::{Duration, Instant},
};
use tachyon_policy::compile::{Durability, Quota, RulesetSource, SenderSource, TopicSource, WhenFull, compile};
use tachyon_segment::{
    StatsReader,
    handover::{ControlEnd, Hello, Request},
    seal_image,
};
use tachyon_wire::{
    Endpoint, Message,
    build::{FrameFields, FrameWriter, Seal},
    command::{AddSubscriber, OpenSession},
    counters::Counters,
};
use zerocopy::FromZeros;

/// No test waits longer for anything.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Shards of the test fabric.
pub(crate) const SHARDS: u16 = 4;

/// A folder of a test's own, removed at its end.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tachyond-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// A base port of which all shards' ports are free, below the ephemeral range and different in every process and test.
pub(crate) fn free_base() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let step = u32::from(NEXT.fetch_add(1, Ordering::Relaxed)) * u32::from(SHARDS);
        let base = u16::try_from(10_000 + (std::process::id() * 97 + step) % 20_000).unwrap();
        if (0..SHARDS).all(|shard| UdpSocket::bind(("127.0.0.1", base + shard)).is_ok()) {
            return base;
        }
    }
}

/// A process that was started, and what it said.
pub(crate) struct Node {
    pub(crate) child: Child,
    pub(crate) base: u16,
    lines: Receiver<String>,
    pub(crate) said: Vec<String>,
    socket: PathBuf,
}

impl Node {
    /// Starts a node with so many workers; more text may be added to the node file.
    pub(crate) fn start(folder: &Path, base: u16, workers: u16, more: &str) -> Self {
        Self::start_with(folder, base, workers, "", more)
    }

    /// The same with more in its section on the network.
    pub(crate) fn start_with(folder: &Path, base: u16, workers: u16, network: &str, more: &str) -> Self {
        let text = format!(
            "[node]\nstate_dir = {:?}\nrun_dir = {:?}\n[network]\naddress = \"127.0.0.1\"\nbase_port = {base}\n\
             shard_count = {SHARDS}\n{network}[memory]\nbuffers_per_worker = 256\nreceive_buffers = 64\n\
             [limits]\ntopics_max = 1024\nsenders_max = 256\nsessions_max = 64\nsubscribers_max = 16\ntargets_max = 256\n\
             [workers]\ncount = {workers}\nstrict_heap = true\n{more}",
            folder.join("state"),
            folder.join("run"),
        );
        Self::start_file(folder, base, &text)
    }

    /// Starts one with this file; its folders are `state` and `run` in the folder.
    pub(crate) fn start_file(folder: &Path, base: u16, text: &str) -> Self {
        let file = folder.join("node.toml");
        fs::write(&file, text).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_tachyond"))
            .args(["--json", "--config"])
            .arg(&file)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let out = BufReader::new(child.stdout.take().unwrap());
        let (say, lines) = mpsc::channel();
        thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| say.send(line)));
        Self { child, base, lines, said: Vec::new(), socket: folder.join("run/tachyond.sock") }
    }

    /// Waits until the node has said a line with this text, and returns it.
    pub(crate) fn hear(&mut self, text: &str) -> String {
        let end = Instant::now() + PATIENCE;
        while let Ok(line) = self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
            self.said.push(line.clone());
            if line.contains(text) {
                return line;
            }
        }
        panic!("it never said {text:?}, but {:#?}", self.said);
    }

    pub(crate) fn connect(&self) -> (ControlEnd, Hello, StatsReader) {
        ControlEnd::connect(&self.socket, &[], PATIENCE).unwrap()
    }

    /// Ends it the polite way; returns whether it ended well.
    pub(crate) fn stop(&mut self) -> bool {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap().success()
    }

    /// Ends it the hard way.
    pub(crate) fn kill(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A frame of one message on the first topic of a shard.
pub(crate) fn frame(session_id: u32, shard: u16, frame_id: u32) -> Vec<u8> {
    let mut buffer = [0; 1472];
    let fields = FrameFields { frame_id, session_id, shard, ..FrameFields::default() };
    let mut writer = FrameWriter::new(&mut buffer, fields);
    writer.push(&Message::inline(u32::from(SHARDS + shard), 7, 1, b"hello").unwrap()).unwrap();
    let len = writer.finish(Seal::Crc);
    buffer[..len].to_vec()
}

/// Rules of one version: topic 4 (shard 0) goes to subscriber slot 3, principal 0 may publish on it, sender 7 has a quota.
pub(crate) fn rules(version: u64, quota: Quota) -> RulesetSource {
    RulesetSource {
        version,
        shard_count: SHARDS,
        principals: 1,
        sets: vec![vec![0], vec![3]],
        topics: (0..SHARDS)
            .map(|shard| TopicSource {
                topic_id: u32::from(SHARDS + shard),
                quota: Quota::UNLIMITED,
                tag_required: false,
                quarantine: false,
                durability: Durability::Volatile,
                when_full: WhenFull::default(),
                publishers: 0,
                subscribers: 1,
            })
            .collect(),
        senders: vec![SenderSource { sender_id: 7, quota }],
    }
}

/// The request that brings rules into force.
pub(crate) fn ruleset(source: &RulesetSource) -> Request {
    Request::Ruleset(seal_image(&compile(source).unwrap()).unwrap())
}

/// A session without tags for sender 7.
pub(crate) fn session(id: u32) -> Request {
    let mut open = OpenSession::new_zeroed();
    open.session_id = id.into();
    open.reply_session_id = (id + 32).into();
    open.sender_low = 7.into();
    open.sender_high = 7.into();
    Request::OpenSession(Box::new(open))
}

/// Subscriber slot 3 of a worker, at this port.
pub(crate) fn subscriber(worker: u16, port: u16) -> Request {
    let mut add = AddSubscriber::new_zeroed();
    add.slot = 3.into();
    add.worker = worker.into();
    add.session_id = (40 + u32::from(worker)).into();
    add.credit = 64.into();
    add.frame_bytes_max = 1472.into();
    add.endpoint = Endpoint::v4([127, 0, 0, 1], port);
    Request::AddSubscriber(Box::new(add))
}

/// Reads all workers' counters until they satisfy a condition.
pub(crate) fn wait_for(stats: &StatsReader, what: &str, condition: impl Fn(&[Counters]) -> bool) -> Vec<Counters> {
    let end = Instant::now() + PATIENCE;
    loop {
        let all: Vec<Counters> = (0..stats.workers()).map(|worker| stats.read_counters(worker).unwrap()).collect();
        if condition(&all) {
            return all;
        }
        assert!(Instant::now() < end, "never {what}: {all:#?}");
        thread::sleep(Duration::from_millis(2));
    }
}
