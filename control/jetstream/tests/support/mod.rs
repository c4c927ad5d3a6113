//! What the exporter's tests share: a real nats-server, a writer of logs that remembers what it wrote, the exporter as a
//! process, and a reader of the whole stream.
#![allow(dead_code, reason = "every test file is a program of its own and uses its own part of this")]
#![allow(unreachable_pub, reason = "as above")]

use async_nats::{
    HeaderMap,
    jetstream::{self, Context, ErrorCode, context::GetStreamErrorKind, stream::Stream},
};
use std::{
    env, fs,
    io::Read,
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, ChildStderr, Command, Output, Stdio},
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};
use tachyon_log::{
    Appender, Config, Disk, Record, Signer,
    fault::Random,
    record::{Arrival, Clock},
    retention::Limits,
    turn::{Encoder, burst, split},
};
use tachyon_wire::{
    Endpoint, Message, Reason,
    build::{FrameFields, FrameWriter, Seal},
    tap::{self, ENTRY_REASONS, FRAME_REFUSED, FRAME_WHOLE, FrameEntry, HEAD_BYTES, HELD, Item, Part, Turn},
};
use zerocopy::FromZeros;

/// A folder that goes away with the test.
pub struct Folder(pub PathBuf);

impl Folder {
    pub fn new(name: &str) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = env::temp_dir().join(format!("tachyon-jetstream-{}-{count}-{name}", std::process::id()));
        fs::create_dir_all(&path).expect("a folder for temporary files");
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Debian's server; nothing, and a line that says so, where it is not installed.
pub fn nats_server() -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let places = env::split_paths(&path).chain(["/usr/sbin".into(), "/usr/local/sbin".into()]);
    let found = places.map(|folder| folder.join("nats-server")).find(|file| file.is_file());
    if found.is_none() {
        eprintln!("skipped: nats-server is not installed (apt-get install nats-server)");
    }
    found
}

/// A server on a port and with a folder of its own, which it has again after every start.
pub struct Server {
    program: PathBuf,
    store: PathBuf,
    pub port: u16,
    child: Option<Child>,
}

impl Server {
    pub fn new(program: &Path, folder: &Folder) -> Self {
        // A port that was free a moment ago; another program may take it, and then the server says so and the test fails.
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a port").port();
        Self { program: program.to_owned(), store: folder.0.join("nats"), port, child: None }
    }

    pub fn start(&mut self) {
        assert!(self.child.is_none());
        let log = fs::OpenOptions::new().create(true).append(true).open(self.store.with_extension("log"));
        let child = Command::new(&self.program)
            .args(["-a", "127.0.0.1", "-p", &self.port.to_string(), "-js", "-sd"])
            .arg(&self.store)
            .stderr(log.expect("a log file"))
            .spawn();
        self.child = Some(child.expect("nats-server starts"));
    }

    /// As `kill -9` does.
    pub fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            child.kill().expect("our own child");
            child.wait().expect("our own child");
        }
    }

    /// Waits until it takes connections.
    pub fn wait(&self) {
        for _ in 0..3_000 {
            if TcpStream::connect(("127.0.0.1", self.port)).is_ok() {
                return;
            }
            std::thread::sleep(Duration::from_millis(10));
        }
        panic!(
            "nats-server takes no connections: {}",
            fs::read_to_string(self.store.with_extension("log")).expect("its log")
        );
    }

    /// Runs something that talks to it.
    pub fn with<T, F: Future<Output = T>>(&self, work: impl FnOnce(Context) -> F) -> T {
        self.wait();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let address = format!("127.0.0.1:{}", self.port);
        runtime.block_on(async {
            let client = async_nats::connect(address).await.expect("the server answers");
            let context = jetstream::new(client);
            // The server takes connections before JetStream has read its files.
            while !is_ready(&context).await {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            work(context).await
        })
    }

    /// Everything that the stream holds, from its first message on.
    pub fn read(&self, stream: &str) -> Vec<Stored> {
        self.with(|context| async move {
            let stream = context.get_stream(stream).await.expect("the stream is there");
            read_all(&stream).await
        })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// One message of a stream.
#[derive(Clone, Debug, PartialEq)]
pub struct Stored {
    pub sequence: u64,
    pub subject: String,
    pub headers: HeaderMap,
    pub payload: Vec<u8>,
}

impl Stored {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(|value| value.as_str())
    }
}

/// Whether JetStream says that there is no such stream, instead of nothing.
async fn is_ready(context: &Context) -> bool {
    match context.get_stream("none").await.map_err(|error| error.kind()) {
        Err(GetStreamErrorKind::JetStream(told)) => told.error_code() == ErrorCode::STREAM_NOT_FOUND,
        _ => false,
    }
}

async fn read_all(stream: &Stream) -> Vec<Stored> {
    let state = stream.get_info().await.expect("the server answers").state;
    let mut all = Vec::new();
    if state.messages == 0 {
        return all;
    }
    for sequence in state.first_sequence..=state.last_sequence {
        let message = stream.get_raw_message(sequence).await.expect("no holes");
        let (subject, payload) = (message.subject.to_string(), message.payload.to_vec());
        all.push(Stored { sequence: message.sequence, subject, headers: message.headers, payload });
    }
    all
}

/// What the stream has to hold for one message or frame of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    pub record: u64,
    /// The record that says what became of it.
    pub decided: u64,
    pub subject: String,
    pub id: String,
    pub sender: u32,
    pub tick: u64,
    pub payload: Vec<u8>,
}

pub const SLOT_BYTES: usize = 16 * 1024;
/// Small, so that logs are full of rotations.
pub const SEGMENT_BYTES: u64 = 64 * 4_096;
/// Unix nanoseconds at tick 0.
pub const UNIX_NS: u64 = 1_700_000_000_000_000_000;

/// A frame that was logged and is not decided yet.
struct Undecided {
    record: u64,
    tick: u64,
    frame_id: u32,
    bytes: Vec<u8>,
    /// Topic, sender and what is referred to; none of what is not expected in the stream.
    messages: Vec<(u32, u32, Vec<u8>)>,
    /// What becomes of each.
    words: Vec<u8>,
}

/// A writer of one shard's log, which remembers what it wrote.
pub struct Writer {
    appender: Appender<Disk>,
    shard: u16,
    boot: u8,
    now: u64,
    frame_id: u32,
    random: Random,
    turn: u64,
    undecided: Vec<Undecided>,
    /// Messages that were accepted, and refused ones too.
    pub messages: Vec<Written>,
    pub every: Vec<Written>,
    /// Frames with an accepted message, and the words on their messages.
    pub frames: Vec<Written>,
    words: Vec<Vec<u8>>,
}

/// What becomes of a message: one in five is refused.
fn word(random: &mut Random) -> u8 {
    match random.below(5) {
        0 => Reason::Throttled.number(),
        1 => HELD,
        _ => 0,
    }
}

pub fn shard_folder(log: &Path, shard: u16) -> PathBuf {
    log.join(format!("shard-{shard:05}"))
}

pub fn signer() -> Signer {
    Signer::new("node.example/shard/0", &[42; 32]).expect("a name")
}

impl Writer {
    pub fn new(log: &Path, shard: u16, seed: u64) -> Self {
        Self::with_log_id(log, shard, seed, [u8::try_from(shard + 1).expect("few shards"); 16])
    }

    pub fn with_log_id(log: &Path, shard: u16, seed: u64, log_id: [u8; 16]) -> Self {
        let disk = Disk::open(&shard_folder(log, shard), 4, SLOT_BYTES).expect("a folder that nobody else writes to");
        let config =
            Config { shard, log_id, segment_bytes: SEGMENT_BYTES, mark_after_ns: 1_000, retry_after_ns: 1_000 };
        let appender = Appender::open(disk, config, 0).expect("a log");
        let random = Random::new(seed ^ u64::from(shard) << 32);
        let mut this = Self {
            appender,
            shard,
            boot: 9,
            now: 0,
            frame_id: 0,
            random,
            turn: 1,
            undecided: Vec::new(),
            messages: Vec::new(),
            every: Vec::new(),
            frames: Vec::new(),
            words: Vec::new(),
        };
        this.clock();
        this
    }

    /// A start of the node.
    fn clock(&mut self) {
        let unix_ns = (UNIX_NS + self.now).into();
        self.record(&Record::Clock(Clock { boot_id: [self.boot; 16], unix_ns, boot: 1, reserved: [0; 7] }));
    }

    /// Appends a record at the next tick, whatever the disk has to do first.
    fn record(&mut self, record: &Record<'_>) -> u64 {
        loop {
            match self.appender.append(self.now, record) {
                Ok(sequence) => {
                    self.now += 1_000;
                    return sequence;
                }
                Err(tachyon_log::Error::Busy) => {
                    self.appender.poll(self.now).expect("a healthy disk");
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// A frame of up to eight messages, some with payload; now and then something else beside it.
    pub fn frame(&mut self) {
        self.frame_id += 1;
        let fields = FrameFields {
            frame_id: self.frame_id,
            session_id: 7,
            shard: self.shard,
            epoch: 3,
            ..FrameFields::default()
        };
        let mut bytes = vec![0; 4_096];
        let mut writer = FrameWriter::new(&mut bytes, fields);
        let (mut of_messages, count) = (Vec::new(), 1 + self.random.below(8));
        for _ in 0..count {
            let topic = 1 + u32::try_from(self.random.below(5)).expect("small");
            let sender = 1 + u32::try_from(self.random.below(100)).expect("small");
            let length = usize::try_from(1 + self.random.below(40)).expect("small");
            let payload: Vec<u8> = (0..length).map(|_| self.random.next().to_le_bytes()[0]).collect();
            if self.random.one_in(4) {
                writer.push_with_payload(topic, sender, 2, 0, &payload).expect("room");
                of_messages.push((topic, sender, payload));
            } else {
                writer.push(&Message::inline(topic, sender, 2, &payload).expect("a short payload")).expect("room");
                of_messages.push((topic, sender, Vec::new()));
            }
        }
        let length = writer.finish(Seal::Crc);
        bytes.truncate(length);
        let words = of_messages.iter().map(|_| word(&mut self.random)).collect();
        self.logged(bytes, of_messages, words);
        if self.random.one_in(10) {
            self.record(&Record::Decisions(b"no turn at all"));
        }
        if self.random.one_in(20) {
            self.logged(b"no frame at all".to_vec(), Vec::new(), vec![0]);
        }
        if self.random.one_in(2) {
            self.decide();
        }
    }

    fn logged(&mut self, bytes: Vec<u8>, messages: Vec<(u32, u32, Vec<u8>)>, words: Vec<u8>) {
        let (source, burst) = (Endpoint::v4([10, 0, 0, 1], 7), burst(self.turn).into());
        let (tick, frame_id) = (self.now, self.frame_id);
        let record = self.record(&Record::Frame(Arrival { source, worker: 0.into(), burst }, &bytes));
        self.undecided.push(Undecided { record, tick, frame_id, bytes, messages, words });
    }

    /// Ends the turn: writes down what became of its frames, in one record or several.
    pub fn decide(&mut self) {
        let mut encoder = Encoder::default();
        let (mut item, mut turn) = (Item::new_zeroed(), Turn::new_zeroed());
        let mut entry = FrameEntry::new_zeroed();
        for frame in &self.undecided {
            // Beside it one that was not admitted, and sometimes one of another shard.
            (item.shard, item.frames) = (self.shard.into(), 2.into());
            encoder.item(&item);
            (entry.form, entry.flags, entry.count) = (FRAME_REFUSED, 0, 0.into());
            encoder.frame(&entry, &[0; HEAD_BYTES], &[], &[]);
            (entry.form, entry.flags) = (FRAME_WHOLE, ENTRY_REASONS);
            entry.count = u16::try_from(frame.words.len()).expect("few").into();
            encoder.frame(&entry, &[], &[], &frame.words);
            if self.random.one_in(4) {
                (item.shard, item.frames) = ((self.shard + 1).into(), 0.into());
                encoder.item(&item);
            }
        }
        (turn.kind, turn.turn, turn.lead_shard) = (tap::KIND_TURN, self.turn.into(), self.shard.into());
        let bytes_max = if self.random.one_in(3) { 300 } else { 8_192 };
        let split = split(&encoder.finish(&turn), bytes_max).expect("a turn");
        let part = split.parts.into_iter().find(|part| part.shard == self.shard).expect("the lead shard");
        for body in part.bodies {
            let decided = self.record(&Record::Decisions(&body));
            let (_, parts) = tap::read(&body).expect("a turn");
            let whole = |part: &Part<'_>| matches!(part, Part::Frame(frame) if frame.entry.form == FRAME_WHOLE);
            for frame in self.undecided.drain(..parts.filter(whole).count()).collect::<Vec<_>>() {
                self.expect(frame, decided);
            }
        }
        assert!(self.undecided.is_empty());
        self.turn += 1;
    }

    /// Notes what the stream has to hold of a frame.
    fn expect(&mut self, frame: Undecided, decided: u64) {
        let (shard, Undecided { record, tick, frame_id, bytes, messages, words }) = (self.shard, frame);
        let is_accepted = |word: &u8| *word == 0 || *word == HELD;
        for (index, (topic, sender, referred)) in messages.iter().enumerate() {
            let written = Written {
                record,
                decided,
                subject: format!("tachyon.{shard}.{topic}"),
                id: format!("7.3.{frame_id}.{shard}.{index}"),
                sender: *sender,
                tick,
                payload: [&bytes[64 * (index + 1)..64 * (index + 2)], referred].concat(),
            };
            self.messages.extend(is_accepted(&words[index]).then(|| written.clone()));
            self.every.push(written);
        }
        if !messages.is_empty() && words.iter().any(is_accepted) {
            let (subject, id) = (format!("tachyon.{shard}.frames"), format!("7.3.{frame_id}.{shard}"));
            self.frames.push(Written { record, decided, subject, id, sender: 0, tick, payload: bytes });
            self.words.push(words);
        }
    }

    /// The frame before last once more, byte for byte: what a log looks like that holds a replay.
    pub fn replay(&mut self) {
        let old = self.frames.len() - 2;
        let (bytes, words) = (self.frames[old].payload.clone(), self.words[old].clone());
        self.decide();
        self.logged(bytes, Vec::new(), words);
        self.decide();
    }

    /// The node starts anew: what is not decided never is, and turns are numbered from 1. Says how many frames that are.
    pub fn crash(&mut self) -> usize {
        self.boot += 1;
        self.turn = 1;
        self.clock();
        self.undecided.drain(..).count()
    }

    pub fn commit(&mut self) {
        self.appender.commit(self.now, self.random.one_in(3));
        self.appender.poll(self.now).expect("a healthy disk");
    }

    /// Removes all but this much of the log.
    pub fn retain(&mut self, bytes_max: u64) {
        let limits = Limits { bytes_max, oldest_tick: 0 };
        self.appender.retain(self.now, self.now, &limits, &signer()).expect("room");
    }

    /// Until all is decided and durable and a mark says so.
    pub fn finish(&mut self) {
        self.decide();
        self.finish_undecided();
    }

    /// The same, in the middle of a turn.
    pub fn finish_undecided(&mut self) {
        self.now += 1_000_000;
        while !self.appender.finish(self.now).expect("a healthy disk") {
            self.now += 1_000;
        }
    }
}

/// How an exporter of a test is set.
pub fn settings(folder: &Folder, port: u16, more: &str) -> PathBuf {
    let root = folder.0.display();
    let path = folder.0.join("jetstream.toml");
    let text = format!(
        "servers = [\"nats://127.0.0.1:{port}\"]\nlog_dir = \"{root}/log\"\nstate_dir = \"{root}/state\"\npoll_ms = 1\n\
         store_ms = 20\nretry_ms_max = 320\n{more}"
    );
    fs::write(&path, text).expect("a folder");
    path
}

pub fn exporter(settings: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tachyon-jetstream"));
    command.arg("--config").arg(settings).args(words);
    command
}

/// Runs an exporter to the end of the log.
pub fn export(settings: &Path, words: &[&str]) -> Output {
    exporter(settings, &[&["--until-end"], words].concat()).output().expect("the exporter starts")
}

/// The same, which has to go well; returns what it said.
pub fn export_well(settings: &Path, words: &[&str]) -> String {
    let output = export(settings, words);
    let said = String::from_utf8(output.stderr).expect("text");
    assert!(output.status.success(), "{said}");
    said
}

/// An exporter that runs on until it is told to stop.
pub struct Running {
    child: Child,
    said: ChildStderr,
}

impl Running {
    pub fn new(settings: &Path, words: &[&str]) -> Self {
        let mut child = exporter(settings, words).stderr(Stdio::piped()).spawn().expect("the exporter starts");
        let said = child.stderr.take().expect("a pipe");
        Self { child, said }
    }

    /// Reads its words until these are among them.
    pub fn until_said(&mut self, words: &str) -> String {
        let mut said = Vec::new();
        let mut byte = [0];
        while !String::from_utf8_lossy(&said).contains(words) {
            assert!(self.said.read(&mut byte).expect("a pipe") == 1, "it ended: {}", String::from_utf8_lossy(&said));
            said.push(byte[0]);
        }
        String::from_utf8(said).expect("text")
    }

    /// Sends SIGTERM; it has to end well. Returns the rest of what it said.
    pub fn stop(mut self) -> String {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).expect("our own child");
        let mut rest = String::new();
        self.said.read_to_string(&mut rest).expect("a pipe");
        assert!(self.child.wait().expect("our own child").success(), "{rest}");
        rest
    }
}

impl Drop for Running {
    /// A test that failed leaves none behind, which would keep the pipes of whoever runs it.
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Holds what the stream has of a shard against what was written, byte for byte and in order.
pub fn compare(stored: &[Stored], shard: u16, written: &[Written]) {
    let prefix = format!("tachyon.{shard}.");
    let of_shard: Vec<&Stored> = stored.iter().filter(|one| one.subject.starts_with(&prefix)).collect();
    for (index, (stored, written)) in of_shard.iter().zip(written).enumerate() {
        let place = format!("message {index} of shard {shard}, {} of the stream", stored.sequence);
        assert_eq!(stored.header("Nats-Msg-Id"), Some(written.id.as_str()), "{place}");
        assert_eq!(stored.subject, written.subject, "{place}");
        assert_eq!(stored.payload, written.payload, "{place}");
        assert_eq!(stored.header("Tachyon-Record"), Some(written.record.to_string().as_str()), "{place}");
        assert_eq!(stored.header("Tachyon-Tick"), Some(written.tick.to_string().as_str()), "{place}");
        let sender = (written.sender > 0).then(|| written.sender.to_string());
        assert_eq!(stored.header("Tachyon-Sender"), sender.as_deref(), "{place}");
        let unix_ns = (UNIX_NS + written.tick).to_string();
        assert_eq!(stored.header("Tachyon-Unix-Ns"), Some(unix_ns.as_str()), "{place}");
    }
    assert_eq!(of_shard.len(), written.len(), "messages of shard {shard}");
}
