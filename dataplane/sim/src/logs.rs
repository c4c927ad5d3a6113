//! Turns, read from the logs of their shards.
//!
//! Each shard of a worker has a log of its own with its part of each turn: whole frames first, then the records of decisions. A
//! turn is put together by worker, boot and number. Where a crash cut off a shard's part, it is not, and says so.

use anyhow::{Context, bail};
use std::{
    collections::{BTreeMap, VecDeque},
    fs,
    path::{Path, PathBuf},
};
use tachyon_log::{
    Cursor, ReadOnly, Record,
    cursor::Item,
    turn::{Logged, RecordedTurn, Unjoined, burst, header, join},
};

/// What one shard's log has of a turn.
#[derive(Debug, Default)]
struct ShardTurn {
    boot: [u8; 16],
    boot_ns: u64,
    worker: u16,
    turn: u64,
    frames: Vec<Vec<u8>>,
    /// The low half of the turn's number, as frames have it.
    burst: Option<u32>,
    bodies: Vec<Vec<u8>>,
}

/// Images of rulesets while they are read, and when they are there.
#[derive(Debug, Default)]
struct Images {
    growing: BTreeMap<u64, Vec<u8>>,
    whole: BTreeMap<u64, Vec<u8>>,
}

/// One shard's log.
#[derive(Debug)]
struct ShardLog {
    number: u16,
    path: PathBuf,
    files: ReadOnly,
    cursor: Cursor,
    ready: VecDeque<ShardTurn>,
    growing: ShardTurn,
    ended: bool,
}

/// A turn, and whose it is.
#[derive(Debug)]
pub struct WorkerTurn {
    /// The node's start.
    pub boot: [u8; 16],
    /// The worker.
    pub worker: u16,
    /// The turn, or why it cannot be put together.
    pub turn: Result<RecordedTurn, String>,
    /// Version of the rules under which it was judged; 0 = none.
    pub ruleset_version: u64,
}

/// The logs of all shards in a directory.
#[derive(Debug)]
pub struct Logs {
    shards: Vec<ShardLog>,
    images: Images,
    damage: Vec<String>,
}

impl Logs {
    /// Opens every folder `shard-N` of a directory. Nothing is written there.
    ///
    /// # Errors
    /// The directory cannot be read, or there is no such folder in it.
    pub fn open(directory: &Path) -> anyhow::Result<Self> {
        let cannot = || format!("cannot read {}; give the directory of [log] with --directory", directory.display());
        let mut paths = Vec::new();
        for entry in fs::read_dir(directory).with_context(cannot)? {
            let path = entry.with_context(cannot)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if let Some(number) = name.strip_prefix("shard-").and_then(|number| number.parse::<u16>().ok()) {
                paths.push((number, path));
            }
        }
        paths.sort();
        if paths.is_empty() {
            bail!("{} has no folder shard-00000 or the like; give the directory of [log]", directory.display());
        }
        let shards =
            paths.into_iter().map(|(number, path)| ShardLog::open(number, path)).collect::<anyhow::Result<_>>()?;
        Ok(Self { shards, images: Images::default(), damage: Vec::new() })
    }

    /// What does not hold in the files that were read so far, in words. Turns behind the first of it may be incomplete.
    #[must_use]
    pub fn damage(&self) -> &[String] {
        &self.damage
    }

    /// An image that was read so far.
    #[must_use]
    pub fn image(&self, version: u64) -> Option<&[u8]> {
        self.images.whole.get(&version).map(Vec::as_slice)
    }

    /// The next turn, those of a worker and boot by rising number.
    ///
    /// # Errors
    /// Files cannot be read.
    pub fn next_turn(&mut self) -> anyhow::Result<Option<WorkerTurn>> {
        for shard in &mut self.shards {
            while shard.ready.is_empty() && !shard.ended {
                shard.read(&mut self.images, &mut self.damage)?;
            }
        }
        // Boots follow each other in time, so the earliest that is left is done first.
        let heads = || self.shards.iter().filter_map(|shard| shard.ready.front());
        let Some(first) = heads().min_by_key(|head| (head.boot_ns, head.worker)) else { return Ok(None) };
        let (boot, worker) = (first.boot, first.worker);
        let is_of = |head: &&ShardTurn| head.boot == boot && head.worker == worker;
        let turn = heads().filter(is_of).map(|head| head.turn).min().unwrap_or(0);
        let mut parts = Vec::new();
        for shard in &mut self.shards {
            if let Some(head) = shard.ready.pop_front_if(|head| is_of(&&*head) && head.turn == turn) {
                parts.push(Logged { shard: shard.number, frames: head.frames, bodies: head.bodies });
            }
        }
        let version = |part: &Logged| header(part.bodies.first()?).map(|turn| turn.ruleset_version.get());
        let ruleset_version = parts.iter().find_map(version).unwrap_or(0);
        let turn = join(parts).map_err(|unjoined| self.why(turn, boot, &unjoined));
        Ok(Some(WorkerTurn { boot, worker, turn, ruleset_version }))
    }

    /// Why a turn, the one before those that are ready, cannot be put together.
    fn why(&self, turn: u64, boot: [u8; 16], unjoined: &Unjoined) -> String {
        let Unjoined::Missing(shards) = unjoined else { return format!("turn {turn}: {unjoined}") };
        let goes_on = |log: &ShardLog| log.ready.front().is_some_and(|next| next.boot == boot);
        let said = shards.iter().map(|shard| match self.shards.iter().find(|log| log.number == *shard) {
            None => format!("there is no log of shard {shard}"),
            Some(log) if goes_on(log) => format!("the log of shard {shard} has lost its part"),
            Some(_) => format!("the log of shard {shard} ends before its part is whole, as a crash leaves it"),
        });
        format!("turn {turn} is in the logs only in part: {}", said.collect::<Vec<_>>().join("; "))
    }
}

impl ShardLog {
    fn open(number: u16, path: PathBuf) -> anyhow::Result<Self> {
        let mut files = ReadOnly::new(&path);
        let cursor =
            Cursor::new(&mut files, 0).with_context(|| format!("cannot read the log in {}", path.display()))?;
        let (ready, growing) = (VecDeque::new(), ShardTurn::default());
        Ok(Self { number, path, files, cursor, ready, growing, ended: false })
    }

    /// Reads a commit.
    fn read(&mut self, images: &mut Images, damage: &mut Vec<String>) -> anyhow::Result<()> {
        let Self { number: _, path, files, cursor, ready, growing, ended } = self;
        let next = cursor.next(files).with_context(|| format!("cannot read the log in {}", path.display()))?;
        match next {
            None => {
                *ended = true;
                growing.close(ready);
            }
            // A torn end is what a crash leaves: nothing that was durable is missing, and the log ends before it.
            Some(Item::Damage(what)) if !what.fault.is_grave() => {}
            Some(Item::Segment(_)) => {}
            Some(Item::Damage(what)) => damage.push(format!("{}: {what}", path.display())),
            Some(Item::Commit(commit)) => {
                for record in commit.records() {
                    match Record::read(&record) {
                        Some(record) => growing.take(&record, ready, images),
                        None => damage.push(format!("{}: a record of an unknown kind", path.display())),
                    }
                }
            }
        }
        Ok(())
    }
}

impl ShardTurn {
    /// Hands over a turn that is whole. Frames without decisions are those of a turn whose end a crash took away.
    fn close(&mut self, ready: &mut VecDeque<Self>) {
        let next = Self { boot: self.boot, boot_ns: self.boot_ns, ..Self::default() };
        let turn = core::mem::replace(self, next);
        if !turn.bodies.is_empty() {
            ready.push_back(turn);
        }
    }

    fn take(&mut self, record: &Record<'_>, ready: &mut VecDeque<Self>, images: &mut Images) {
        match record {
            Record::Frame(arrival, bytes) => {
                let burst = arrival.burst.get();
                if !self.bodies.is_empty() || self.burst.is_some_and(|before| before != burst) {
                    self.close(ready);
                }
                self.burst = Some(burst);
                self.frames.push(bytes.to_vec());
            }
            Record::Decisions(body) => {
                let Some(turn) = header(body) else { return };
                let number = turn.turn.get();
                if !self.bodies.is_empty() && self.turn != number
                    || self.burst.is_some_and(|before| before != burst(number))
                {
                    self.close(ready);
                }
                (self.turn, self.worker) = (number, turn.worker.get());
                self.bodies.push(body.to_vec());
            }
            Record::Ruleset(piece, bytes) => images.piece(piece, bytes),
            Record::Clock(clock) if clock.boot_id != self.boot => {
                self.close(ready);
                (self.boot, self.boot_ns) = (clock.boot_id, clock.unix_ns.get());
            }
            _ => {}
        }
    }
}

impl Images {
    fn piece(&mut self, piece: &tachyon_log::record::Piece, bytes: &[u8]) {
        let (version, offset) = (piece.version.get(), piece.offset.get());
        let image = self.growing.entry(version).or_default();
        if offset == 0 {
            image.clear();
        }
        // Several shards write the same image, so pieces may come twice and in between.
        if image.len() as u64 == offset {
            image.extend_from_slice(bytes);
        }
        if image.len() as u64 == piece.total_bytes.get() {
            let image = self.growing.remove(&version).unwrap_or_default();
            self.whole.insert(version, image);
        }
    }
}
