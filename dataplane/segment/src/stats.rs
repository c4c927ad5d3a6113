//! The statistics segment: what each worker counts, on memory that `tachyond` writes and control can only read.
//!
//! One header page, then one run of pages per worker. A worker's ledgers stand under one sequence and are published once
//! per burst; its histogram and routes stand under a second one and are published on a slower schedule. Two sequences,
//! because a reader copies 18 KiB of histogram and routes in more time than a burst takes: under one sequence it would
//! be overtaken on every attempt. So ledgers are whole to the burst, and the rest lags behind them by one slow period.

use crate::{
    mapping::Mapping,
    seqlock::Block,
    sync::{AtomicU64, Ordering},
};
use core::{fmt, mem::offset_of, time::Duration};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, ftruncate, memfd_create};
use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    sync::Arc,
};
use tachyon_wire::{
    counters::{Counters, HISTOGRAM_BUCKETS, Histogram, ROUTES_COUNTED, RouteCounters, WorkerStats},
    reason::REASON_SLOTS,
};

/// Most workers of a node: more cores than the machines we know of have, and small enough to bound the segment.
pub const WORKERS_MAX: u16 = 1024;

/// First word of the segment.
const MAGIC: u64 = u64::from_le_bytes(*b"TYSTATS1");
/// Raised when the meaning of a word changes without its place.
const LAYOUT_VERSION: u64 = 1;

const LINE_WORDS: usize = 8; // of a cache line
pub(crate) const PAGE_BYTES: usize = 4096; // the smallest page size of the targets we build for; pages of one worker are its own
const WORD: usize = size_of::<u64>();

const HEADER_LAYOUT: usize = 1;
const HEADER_BOOT_ID: usize = 2; // two words
const HEADER_WORKERS: usize = 4;
const HEADER_STRIDE: usize = 5;

const COUNTER_WORDS: usize = size_of::<Counters>() / WORD;
const DETAIL_WORDS: usize = (size_of::<Histogram>() + ROUTES_COUNTED * size_of::<RouteCounters>()) / WORD;

const STATS_WORDS: usize = size_of::<WorkerStats>() / WORD;

const _: () = assert!(COUNTER_WORDS + DETAIL_WORDS == STATS_WORDS, "histogram and routes follow the counters, no gap");

// Words of a worker's run. Sequences and status have cache lines of their own.
const LEDGER_SEQUENCE: usize = 0;
const DETAIL_SEQUENCE: usize = LINE_WORDS;
const STATUS: usize = 2 * LINE_WORDS;
const LEDGERS: usize = 3 * LINE_WORDS;
const DETAILS: usize = (LEDGERS + COUNTER_WORDS).next_multiple_of(LINE_WORDS);
const STRIDE_BYTES: usize = ((DETAILS + DETAIL_WORDS) * WORD).next_multiple_of(PAGE_BYTES);

/// The histogram and the routes as one run of words, in the order of [`WorkerStats`].
#[derive(Clone, Copy, zerocopy::FromBytes, zerocopy::IntoBytes, zerocopy::Immutable)]
#[repr(C)]
struct Details {
    residence: Histogram,
    routes: [RouteCounters; ROUTES_COUNTED],
}

/// What both sides must agree on, as one number (FNV-1a over every size and offset): differing builds refuse each other.
pub(crate) const LAYOUT: u64 = {
    macro_rules! offsets {
        ($($field:ident)*) => { [$(offset_of!(Counters, $field) as u64),*] };
    }
    let counters = offsets!(
        frames_seen frames_admitted frames_refused messages_seen messages_accepted messages_refused copies_due
        copies_given copies_refused copies_held messages_held turns_recorded turns_lost bytes_recorded quarantined bursts turns bytes_received bytes_sent frames_sent
        replies_sent replies_lost syscalls socket_overflow receive_starved ruleset_version ruleset_swaps pressure
        buffers_free tick
    );
    let sizes = [
        LAYOUT_VERSION,
        REASON_SLOTS as u64,
        HISTOGRAM_BUCKETS as u64,
        ROUTES_COUNTED as u64,
        size_of::<Counters>() as u64,
        size_of::<Details>() as u64,
        LEDGERS as u64,
        DETAILS as u64,
        STATUS as u64,
        STRIDE_BYTES as u64,
    ];
    fnv1a(fnv1a(FNV_START, &sizes), &counters)
};

pub(crate) const FNV_START: u64 = 0xcbf2_9ce4_8422_2325; // offset basis of the 64-bit FNV

/// FNV-1a, 64 bits, taking whole words instead of bytes: it tells honest builds apart, it does not resist forgers.
pub(crate) const fn fnv1a(mut hash: u64, words: &[u64]) -> u64 {
    let mut index = 0;
    while index < words.len() {
        hash = (hash ^ words[index]).wrapping_mul(0x0000_0100_0000_01b3); // prime of the 64-bit FNV
        index += 1;
    }
    hash
}

/// Whether a worker runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// Not yet opened its queue.
    Starting,
    /// In its loop.
    Running,
    /// Panicked or failed to open its queue; its shards are down until it is restarted.
    Down,
}

/// What the node says of a worker, beside what the worker counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerStatus {
    /// Whether it runs.
    pub state: WorkerState,
    /// Times it was restarted after a panic.
    pub restarts: u64,
    /// Times its thread allocated or freed after it was sealed; always 0.
    pub heap_calls: u64,
}

/// The segment as `tachyond` holds it.
#[derive(Debug)]
pub struct StatsSegment {
    fd: OwnedFd,
    mapping: Arc<Mapping>,
    workers: u16,
}

impl StatsSegment {
    /// Makes the segment, all counters zero. Every descriptor of it, this process's too, is read-only from here on; only
    /// the mapping made here can write.
    ///
    /// # Errors
    /// `InvalidInput` for 0 or more than [`WORKERS_MAX`] workers; otherwise what the kernel says.
    pub fn create(workers: u16, boot_id: [u8; 16]) -> io::Result<Self> {
        if !(1..=WORKERS_MAX).contains(&workers) {
            let text = format!("{workers} workers are impossible: a node has 1 to {WORKERS_MAX}");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, text));
        }
        let len = PAGE_BYTES + usize::from(workers) * STRIDE_BYTES;
        let fd = memfd_create("tachyon-stats", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
        ftruncate(&fd, len as u64)?;
        let mapping = Arc::new(Mapping::read_write(&fd, len)?);
        let seals = SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL;
        fcntl_add_seals(&fd, seals)?;
        let words = mapping.words();
        let (low, high) = split(boot_id);
        for (index, value) in [
            (0, MAGIC),
            (HEADER_LAYOUT, LAYOUT),
            (HEADER_BOOT_ID, low),
            (HEADER_BOOT_ID + 1, high),
            (HEADER_WORKERS, u64::from(workers)),
            (HEADER_STRIDE, STRIDE_BYTES as u64),
        ] {
            words[index].store(value, Ordering::Release);
        }
        Ok(Self { fd, mapping, workers })
    }

    /// The writer of one worker's run. A worker has one at a time; a restarted worker's writer goes on where the last one
    /// stopped, even in the middle of a publication. `None` if there is no such worker.
    #[must_use]
    pub fn writer(&self, worker: u16) -> Option<StatsWriter> {
        (worker < self.workers).then(|| StatsWriter { mapping: self.mapping.clone(), run: run_of(worker) })
    }

    /// Says how a worker is; called by the thread that watches over workers, not by the worker.
    pub fn set_status(&self, worker: u16, status: WorkerStatus) {
        assert!(worker < self.workers, "worker {worker} of {}", self.workers);
        let words = &self.mapping.words()[run_of(worker) + STATUS..][..3];
        let state = match status.state {
            WorkerState::Starting => 0,
            WorkerState::Running => 1,
            WorkerState::Down => 2,
        };
        for (word, value) in words.iter().zip([state, status.restarts, status.heap_calls]) {
            word.store(value, Ordering::Relaxed);
        }
    }

    /// The descriptor for control: through it nothing can be written, mapped writable or resized.
    #[must_use]
    pub fn reader_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// One worker's hand on its run of the segment.
#[derive(Debug)]
pub struct StatsWriter {
    mapping: Arc<Mapping>,
    run: usize,
}

impl StatsWriter {
    /// Publishes the ledgers, for every burst. No syscall, no lock: 215 plain stores, 50 ns on a 2.6 GHz core
    /// (comparing first and storing only the cache lines that changed was tried and is no faster).
    #[inline]
    pub fn publish_ledgers(&mut self, counters: &Counters) {
        let values: &[u64; COUNTER_WORDS] = zerocopy::transmute_ref!(counters);
        ledgers(self.mapping.words(), self.run).publish(values);
    }

    /// Publishes everything; meant for a slower schedule, from a few times a second to once per millisecond.
    pub fn publish_all(&mut self, stats: &WorkerStats) {
        self.publish_ledgers(&stats.counters);
        let values: &[u64; STATS_WORDS] = zerocopy::transmute_ref!(stats);
        details(self.mapping.words(), self.run).publish(&values[COUNTER_WORDS..]);
    }
}

/// Why a worker's counters could not be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ReadError {
    /// The segment has no such worker.
    NoSuchWorker,
    /// No attempt saw a whole publication: the writer died, or was suspended, while writing.
    Torn,
}

impl fmt::Display for ReadError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoSuchWorker => "the segment has no such worker",
            Self::Torn => {
                "the worker's counters are being written and stay so; it was stopped or killed while publishing"
            }
        })
    }
}

impl std::error::Error for ReadError {}

/// The segment as control sees it.
#[derive(Debug)]
pub struct StatsReader {
    mapping: Mapping,
    workers: u16,
    boot_id: [u8; 16],
}

/// Attempts that follow each other at once; a publication takes 0.1 µs, so these are more than a running writer needs.
const ATTEMPTS_SPINNING: u32 = 100;
/// Attempts with a pause in between, for a writer that was preempted in the middle: together 50 ms, longer than a time
/// slice and its wait on a busy machine.
const ATTEMPTS_PAUSING: u32 = 500;
const PAUSE: Duration = Duration::from_micros(100);

impl StatsReader {
    /// Maps a descriptor that `tachyond` handed over.
    ///
    /// # Errors
    /// `InvalidData` if it could shrink under us, or its magic, layout, boot id or size is not the expected one.
    pub fn open(fd: impl AsFd, boot_id: [u8; 16]) -> io::Result<Self> {
        let seals = fcntl_get_seals(&fd).map_err(|error| refuse(format!("no sealed memory file: {error}")))?;
        if !seals.contains(SealFlags::SHRINK | SealFlags::SEAL) {
            return Err(refuse(format!("not sealed against shrinking: has {seals:?}")));
        }
        let len = usize::try_from(fstat(&fd)?.st_size).unwrap_or(0);
        let len_max = PAGE_BYTES + usize::from(WORKERS_MAX) * STRIDE_BYTES;
        if !(PAGE_BYTES..=len_max).contains(&len) {
            return Err(refuse(format!("{len} bytes are not the size of any statistics segment")));
        }
        let mapping = Mapping::read_only(fd, len)?;
        let header = |index: usize| mapping.words()[index].load(Ordering::Relaxed);
        if header(0) != MAGIC {
            return Err(refuse("its first bytes are not those of a statistics segment".into()));
        }
        if header(HEADER_LAYOUT) != LAYOUT || header(HEADER_STRIDE) != STRIDE_BYTES as u64 {
            return Err(refuse("it has another layout; run tachyond and tachyon-control of the same version".into()));
        }
        if (header(HEADER_BOOT_ID), header(HEADER_BOOT_ID + 1)) != split(boot_id) {
            return Err(refuse("it belongs to another start of tachyond than the one that said hello".into()));
        }
        let workers = u16::try_from(header(HEADER_WORKERS)).unwrap_or(0);
        if workers == 0 || len != PAGE_BYTES + usize::from(workers) * STRIDE_BYTES {
            return Err(refuse(format!("{len} bytes do not fit its {workers} workers")));
        }
        Ok(Self { mapping, workers, boot_id })
    }

    /// Workers in the segment.
    #[must_use]
    pub const fn workers(&self) -> u16 {
        self.workers
    }

    /// Which start of `tachyond` it belongs to; counters begin at zero with each.
    #[must_use]
    pub const fn boot_id(&self) -> [u8; 16] {
        self.boot_id
    }

    /// One worker's ledgers, whole to the burst. May pause up to 50 ms if the writer is in the middle of publishing.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read_counters(&self, worker: u16) -> Result<Counters, ReadError> {
        let mut values = [0; COUNTER_WORDS];
        read_whole(ledgers(self.mapping.words(), self.run(worker)?), &mut values)?;
        Ok(zerocopy::transmute!(values))
    }

    /// All that one worker published. Ledgers are whole to the burst; histogram and routes are whole among themselves and
    /// up to one slow period older. May pause as [`StatsReader::read_counters`] does.
    ///
    /// # Errors
    /// See [`ReadError`].
    pub fn read(&self, worker: u16) -> Result<Box<WorkerStats>, ReadError> {
        let mut values = [0; DETAIL_WORDS];
        read_whole(details(self.mapping.words(), self.run(worker)?), &mut values)?;
        let Details { residence, routes } = zerocopy::transmute!(values);
        let counters = self.read_counters(worker)?;
        Ok(Box::new(WorkerStats { counters, residence, routes }))
    }

    /// How a worker is.
    ///
    /// # Errors
    /// [`ReadError::NoSuchWorker`].
    pub fn status(&self, worker: u16) -> Result<WorkerStatus, ReadError> {
        let words = &self.mapping.words()[self.run(worker)? + STATUS..];
        let state = match words[0].load(Ordering::Relaxed) {
            0 => WorkerState::Starting,
            1 => WorkerState::Running,
            _ => WorkerState::Down,
        };
        let (restarts, heap_calls) = (words[1].load(Ordering::Relaxed), words[2].load(Ordering::Relaxed));
        Ok(WorkerStatus { state, restarts, heap_calls })
    }

    fn run(&self, worker: u16) -> Result<usize, ReadError> {
        if worker < self.workers { Ok(run_of(worker)) } else { Err(ReadError::NoSuchWorker) }
    }
}

fn read_whole(block: Block<'_>, values: &mut [u64]) -> Result<(), ReadError> {
    for attempt in 0..ATTEMPTS_SPINNING + ATTEMPTS_PAUSING {
        if block.try_read(values) {
            return Ok(());
        }
        if attempt < ATTEMPTS_SPINNING {
            core::hint::spin_loop();
        } else {
            std::thread::sleep(PAUSE);
        }
    }
    Err(ReadError::Torn)
}

/// First word of a worker's run.
const fn run_of(worker: u16) -> usize {
    (PAGE_BYTES + worker as usize * STRIDE_BYTES) / WORD
}

fn ledgers(words: &[AtomicU64], run: usize) -> Block<'_> {
    Block { sequence: &words[run + LEDGER_SEQUENCE], words: &words[run + LEDGERS..][..COUNTER_WORDS] }
}

fn details(words: &[AtomicU64], run: usize) -> Block<'_> {
    Block { sequence: &words[run + DETAIL_SEQUENCE], words: &words[run + DETAILS..][..DETAIL_WORDS] }
}

pub(crate) fn split(boot_id: [u8; 16]) -> (u64, u64) {
    let whole = u128::from_le_bytes(boot_id);
    #[expect(clippy::cast_possible_truncation, reason = "the low half is what is wanted")]
    (whole as u64, (whole >> 64) as u64)
}

fn refuse(why: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("statistics segment refused: {why}"))
}

#[cfg(test)]
mod tests;
