//! The truth log: the workers' turns, from the rings that `tachyond` shares with us to one log for each shard.
//!
//! A thread of its own reads and writes them, because it waits for the disk where nobody else should. Nothing is answered
//! here to anyone but the workers: what is written and what is stable goes back through their rings' cursors, and whoever
//! waits for that waits in `tachyond`. A position moves only when the records of all turns before it are where they have to
//! be, so a crash of this process loses nothing: the ring is read again from there, and what the log has is passed over.

mod chores;
mod folders;
mod keys;
mod known;
mod rulesets;
mod scrub;
mod shard;
mod source;
mod status;
mod windows;
mod worker;
mod writer;

use anyhow::Context;
use folders::OnDisk;
use keys::{KeyFile, SigningKey};
use rulesets::Rulesets;
use rustix::time::{ClockId, clock_gettime};
use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::DirBuilderExt,
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant},
};
use tachyon_config::TruthLogSection;
use tachyon_proto::v1;
use tachyon_segment::TapReader;
use tachyon_wire::command::{Again, Restore};
use tracing::{info, warn};
use writer::Writer;

pub(crate) use status::LogStatus;

/// Pauses of the thread while there is nothing to do: the shortest, which a message that waits for the disk notices little
/// of, and the longest, which costs a core less than a hundredth.
const PAUSE: [Duration; 2] = [Duration::from_micros(50), Duration::from_millis(1)];
/// How often the status is told anew.
const TELL: Duration = Duration::from_millis(100);
/// How long a node that starts waits until its sessions' windows are on stable storage, and thus certain.
const RESTORE_PATIENCE: Duration = Duration::from_secs(15);
/// How long the rings of a start of `tachyond` that is gone are read, while a disk is slow to take what is in them.
const DRAIN_PATIENCE: Duration = Duration::from_secs(5);
/// How long an orderly end waits for the disk.
const END_PATIENCE: Duration = Duration::from_secs(5);

/// The time, as the records have it.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Now {
    /// The node's clock, in nanoseconds.
    pub(crate) tick: u64,
    /// Nanoseconds since 1970.
    pub(crate) unix_ns: u64,
}

impl Now {
    fn read() -> Self {
        let ns = |clock| {
            let time = clock_gettime(clock);
            time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned()
        };
        Self { tick: ns(ClockId::Monotonic), unix_ns: ns(ClockId::Realtime) }
    }
}

/// How logs are written: the control file's section, in nanoseconds.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) segment_bytes: u64,
    pub(crate) commit_interval_ns: u64,
    pub(crate) loss_window_ns: u64,
    pub(crate) keep_bytes: Option<u64>,
    pub(crate) keep_ns: Option<u64>,
    pub(crate) checkpoint_interval_ns: u64,
    pub(crate) scrub_bytes_per_s: u64,
}

impl Settings {
    fn new(section: &TruthLogSection) -> Self {
        let ns = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self {
            segment_bytes: section.segment_bytes,
            commit_interval_ns: ns(section.commit_interval),
            loss_window_ns: ns(section.loss_window),
            keep_bytes: section.keep_bytes,
            keep_ns: section.keep.map(ns),
            checkpoint_interval_ns: ns(section.checkpoint_interval),
            scrub_bytes_per_s: section.scrub_bytes_per_s.unwrap_or(0),
        }
    }
}

/// What the thread is told.
enum Word {
    Attach([u8; 16], Vec<TapReader>),
    Ruleset(u64, Arc<[u8]>),
    /// Asks for what a start of `tachyond` has to know of these sessions.
    Restore(Vec<u32>, Sender<Restored>),
    End,
}

/// What a start of `tachyond` is told of what was before it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Restored {
    /// By session: its windows. A session that is not here begins a new epoch.
    pub(crate) windows: BTreeMap<u32, Vec<Restore>>,
    /// Durable messages that may not have left, shard by shard in their order.
    pub(crate) again: Vec<Again>,
    /// What is missing here, and why.
    pub(crate) problems: Vec<String>,
}

/// The log as the rest of control sees it. Ends in good order when it is dropped.
#[derive(Debug)]
pub(crate) struct Log {
    directory: PathBuf,
    words: Sender<Word>,
    status: Arc<Mutex<LogStatus>>,
    thread: Option<JoinHandle<()>>,
    /// The start of `tachyond` whose taps the thread has.
    attached: Option<[u8; 16]>,
    /// Why there are none; empty if there are.
    problem: String,
}

impl Log {
    /// Starts the thread, if the log is enabled.
    ///
    /// # Errors
    /// The directory or one of the files of keys cannot be used.
    pub(crate) fn start(section: &TruthLogSection) -> anyhow::Result<Option<Self>> {
        if !section.enabled {
            return Ok(None);
        }
        let directory = section.directory.clone();
        let made = fs::DirBuilder::new().recursive(true).mode(0o750).create(&directory);
        made.with_context(|| format!("cannot make {}; set directory of [log]", directory.display()))?;
        let signing = SigningKey::open(&section.signing_key_file, section.origin.as_deref())?;
        let keys = section.keys_file.as_deref().map(KeyFile::open).transpose()?;
        let rulesets = Rulesets::open(&directory);
        let (settings, folders) = (Settings::new(section), OnDisk::new(&directory));
        let (words, heard) = mpsc::channel();
        let status = Arc::new(Mutex::new(LogStatus::default()));
        let told = status.clone();
        let run = move || run(&mut Writer::new(settings, folders, signing, keys, rulesets), &heard, &told);
        let thread =
            thread::Builder::new().name("log".to_owned()).spawn(run).context("cannot start the log's thread")?;
        info!("truth log in {}", directory.display());
        let problem = "tachyond is not connected".to_owned();
        Ok(Some(Self { directory, words, status, thread: Some(thread), attached: None, problem }))
    }

    /// Whether the thread has the taps of this start of `tachyond`; they must not be asked for again then, because whoever
    /// opens a tap begins anew with it.
    #[must_use]
    pub(crate) fn has(&self, boot_id: &[u8; 16]) -> bool {
        self.attached == Some(*boot_id)
    }

    /// Hands over the taps of a start of `tachyond`.
    pub(crate) fn attach(&mut self, boot_id: [u8; 16], taps: Vec<TapReader>) {
        self.attached = Some(boot_id);
        self.problem.clear();
        self.tell(Word::Attach(boot_id, taps));
    }

    /// Says why the connected `tachyond` has no taps.
    pub(crate) fn set_problem(&mut self, problem: &str) {
        warn!("nothing is logged: {problem}");
        self.attached = None;
        self.problem = problem.to_owned();
    }

    /// Hands over an image before it is in force, and keeps it until the log has it.
    pub(crate) fn ruleset(&self, version: u64, image: &[u8]) {
        if let Err(error) = rulesets::keep(&self.directory, version, image) {
            warn!("cannot keep the image of ruleset {version} for the log: {error}");
        }
        self.tell(Word::Ruleset(version, image.into()));
    }

    /// What the node that was attached last has to know of these sessions. Waits until all that the log has is on stable storage;
    /// what is not in time is a problem, and left out.
    pub(crate) fn restored(&self, sessions: Vec<u32>) -> Restored {
        let (say, hear) = mpsc::channel();
        self.tell(Word::Restore(sessions, say));
        hear.recv_timeout(RESTORE_PATIENCE * 2).unwrap_or_else(|_| {
            let problem = "the log's thread does not answer".to_owned();
            Restored { problems: vec![problem], ..Restored::default() }
        })
    }

    fn tell(&self, word: Word) {
        // The thread ends only with us, or by a fault of its own that its panic has told already.
        let _ = self.words.send(word);
    }

    /// How it is.
    #[must_use]
    pub(crate) fn status(&self) -> v1::LogStatus {
        let status = self.status.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut message = status.message(&self.directory.display().to_string());
        if message.problem.is_empty() {
            let dead = self.thread.as_ref().is_none_or(JoinHandle::is_finished);
            let died = || "the log's thread has ended; restart tachyon-control and report what it said".to_owned();
            message.problem = if dead { died() } else { self.problem.clone() };
        }
        message
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.tell(Word::End);
        if let Some(thread) = self.thread.take() {
            // A panic was told when it happened.
            let _ = thread.join();
        }
    }
}

/// The thread.
fn run(writer: &mut Writer<OnDisk, TapReader>, words: &Receiver<Word>, status: &Mutex<LogStatus>) {
    let (mut pause, mut told) = (PAUSE[0], Instant::now());
    let mut asked: Option<(Vec<u32>, Sender<Restored>, Instant)> = None;
    loop {
        let heard = match words.recv_timeout(pause) {
            Ok(word) => Some(word),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => Some(Word::End),
        };
        let quiet = heard.is_none();
        match heard {
            Some(Word::Attach(boot_id, taps)) => {
                drain(writer, boot_id);
                writer.attach(Now::read(), boot_id, taps);
            }
            Some(Word::Ruleset(version, image)) => writer.add_ruleset(version, image),
            Some(Word::Restore(sessions, say)) => asked = Some((sessions, say, Instant::now() + RESTORE_PATIENCE)),
            Some(Word::End) => break,
            None => {}
        }
        asked = asked.filter(|(sessions, say, end)| {
            let restored = writer.restored(Now::read(), sessions, Instant::now() < *end);
            // Whoever asked may have gone.
            restored.map(|restored| say.send(restored)).is_none()
        });
        let busy = writer.step(Now::read());
        pause = match () {
            () if busy => Duration::ZERO,
            () if quiet => (pause * 2).clamp(PAUSE[0], PAUSE[1]),
            () => PAUSE[0],
        };
        if told.elapsed() >= TELL {
            told = Instant::now();
            *status.lock().unwrap_or_else(PoisonError::into_inner) = writer.status(Now::read());
        }
    }
    let end = Instant::now() + END_PATIENCE;
    while !writer.finish(Now::read()) && Instant::now() < end {
        thread::sleep(PAUSE[0]);
    }
}

/// Takes what the start of `tachyond` before this one has left.
fn drain(writer: &mut Writer<OnDisk, TapReader>, boot_id: [u8; 16]) {
    let end = Instant::now() + DRAIN_PATIENCE;
    while !writer.drain(Now::read(), boot_id) {
        if Instant::now() >= end {
            let s = DRAIN_PATIENCE.as_secs();
            return warn!(
                "what a tachyond that is gone has left is not all on stable storage after {s} s; check the disk"
            );
        }
        thread::sleep(PAUSE[0]);
    }
}

/// The folder that all of it lies in, for tests.
#[cfg(test)]
pub(crate) mod tests;
