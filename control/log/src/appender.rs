//! The writer of one shard's log. It is polled: nothing here waits for the disk except opening, and making the next segment.

use crate::{
    cursor::body_bytes_max,
    damage::Error,
    format::{
        self, BLOCK, COMMIT_HEADER, CommitHeader, DURABLE, RECORD_HEADER, SEGMENT_END, SegmentHeader, leaves_name,
        record_bytes, round_up, segment_name,
    },
    note::Signer,
    record::Record,
    recovery,
    retention::Removal,
    storage::{Completion, FileId, Storage},
    tree::{self, Edge, Hash},
};
use std::{collections::VecDeque, io};

/// A file that is being made; what has this name after a crash is thrown away.
pub(crate) const UNFINISHED: &str = "unfinished.tmp";

/// The next segment's space, taken ahead.
pub(crate) const SPARE: &str = "spare.tmp";

/// How a log is written. What a log that exists already says about itself wins over `log_id` and `segment_bytes`.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// The shard.
    pub shard: u16,
    /// Random, for a new log.
    pub log_id: [u8; 16],
    /// Length of a new segment: whole blocks, room for its header and for at least two of the largest commits.
    pub segment_bytes: u64,
    /// How long the log must be idle, in nanoseconds, before an empty commit says that the last one is durable. From then on
    /// damage to that last one cannot be taken for a write that a crash cut short.
    pub mark_after_ns: u64,
    /// How long to wait, in nanoseconds, before a full disk is tried again.
    pub retry_after_ns: u64,
}

/// What the log can do at the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum State {
    /// It takes records.
    Running,
    /// The disk is full. It tries again by itself and says so when it goes on; retention still works.
    Full,
    /// It takes nothing any more; see [`Error::Failed`].
    Failed,
}

/// How far the log is. Sequences are exclusive: every record below is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Progress {
    /// The disk has taken these: a crash of this process loses none of them. Acks of class *logged* may go out.
    pub written: u64,
    /// These survive a power cut. Acks of class *durable* may go out.
    pub durable: u64,
    /// What the log can do.
    pub state: State,
}

/// The commit that is being filled.
#[derive(Debug)]
struct Filling {
    slot: usize,
    used: usize,
    records: u32,
    first_sequence: u64,
    /// How many of its bytes and of its records are in the tree already: those that a root was asked for.
    hashed: usize,
    hashed_records: u32,
}

impl Filling {
    const fn new(slot: usize, first_sequence: u64) -> Self {
        Self { slot, used: COMMIT_HEADER, records: 0, first_sequence, hashed: COMMIT_HEADER, hashed_records: 0 }
    }
}

/// What has to exist before a segment's last commit may be written.
#[derive(Debug)]
struct Rotation {
    next: SegmentHeader,
    first_sequence: u64,
    first_commit: u64,
    leaves: Vec<Hash>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting,
    Writing,
    Written,
}

/// A closed commit on its way to the disk.
#[derive(Debug)]
struct Sealed {
    slot: usize,
    segment: u64,
    offset: u64,
    bytes: usize,
    done: usize,
    number: u64,
    end_sequence: u64,
    durable: bool,
    rotation: Option<Box<Rotation>>,
    stage: Stage,
    /// Not to be begun before this tick: the disk had no room for it.
    not_before: u64,
}

/// Commits of one segment that are written and not yet known to be durable; all before them are.
#[derive(Clone, Copy, Debug)]
struct Unsynced {
    segment: u64,
    commits: u64,
    sequence: u64,
}

/// What recovery found, and where the log goes on.
#[derive(Debug)]
pub(crate) struct Start {
    pub(crate) header: SegmentHeader,
    pub(crate) file: FileId,
    pub(crate) offset: u64,
    pub(crate) next_commit: u64,
    pub(crate) previous: [u8; 32],
    pub(crate) edge: Edge,
    pub(crate) leaves: Vec<Hash>,
    pub(crate) stated_commits: u64,
    pub(crate) record_commits: u64,
    pub(crate) torn: bool,
}

/// The writer of one shard's log.
#[derive(Debug)]
pub struct Appender<S> {
    pub(crate) storage: S,
    pub(crate) config: Config,
    pub(crate) log_id: [u8; 16],
    state: State,
    retry_at: u64,
    edge: Edge,
    leaves: Vec<Hash>,
    previous: [u8; 32],
    next_commit: u64,
    /// The segment that the next commit goes to, counted from opening; where in it; what it begins with; its length.
    segment: u64,
    offset: u64,
    first_sequence: u64,
    first_commit: u64,
    segment_bytes: u64,
    spare: bool,
    files: VecDeque<FileId>,
    /// Number of the first of `files`.
    first_file: u64,
    filling: Option<Filling>,
    queue: VecDeque<Sealed>,
    free: Vec<usize>,
    unsynced: VecDeque<Unsynced>,
    syncing: Option<Unsynced>,
    /// A sync is wanted until all commits below this number are durable.
    wanted_commits: u64,
    written: u64,
    durable: u64,
    durable_commits: u64,
    /// What the newest commit says is durable, and the end of the newest commit with records.
    stated_commits: u64,
    record_commits: u64,
    busy_at: u64,
    torn: bool,
    pub(crate) removals: Vec<Removal>,
}

impl<S: Storage> Appender<S> {
    /// Opens the log in the storage's folder, or makes it. A torn end is cut off; everything that is left is durable when
    /// this returns.
    ///
    /// # Errors
    ///
    /// When the log is damaged near its end (nothing is changed then), the disk fails, or the configuration cannot work.
    pub fn open(mut storage: S, config: Config, now: u64) -> Result<Self, Error> {
        let (slots, slot_bytes) = storage.slots();
        let room = 2 * slot_bytes as u64 + 2 * BLOCK as u64;
        if slots < 2 || !slot_bytes.is_multiple_of(BLOCK) || !config.segment_bytes.is_multiple_of(BLOCK as u64) {
            return Err(Error::Config("two slots at least, and whole blocks of 4,096 bytes everywhere"));
        }
        if config.segment_bytes < room || u32::try_from(slot_bytes).is_err() {
            return Err(Error::Config("a segment holds its header and two of the largest commits at least"));
        }
        let start = recovery::recover(&mut storage, &config, now)?;
        if start.header.shard != config.shard {
            return Err(Error::Config("the log in this folder is that of another shard"));
        }
        if start.header.segment_bytes.saturating_sub(start.offset) < slot_bytes as u64 + BLOCK as u64 {
            return Err(Error::Config("the log was written with smaller slots than this; open it with those"));
        }
        let size = start.edge.size();
        Ok(Self {
            storage,
            config,
            log_id: start.header.log_id,
            state: State::Running,
            retry_at: 0,
            edge: start.edge,
            leaves: start.leaves,
            previous: start.previous,
            next_commit: start.next_commit,
            segment: 0,
            offset: start.offset,
            first_sequence: start.header.first_sequence,
            first_commit: start.header.first_commit,
            segment_bytes: start.header.segment_bytes,
            spare: false,
            files: VecDeque::from([start.file]),
            first_file: 0,
            filling: None,
            queue: VecDeque::with_capacity(slots),
            free: (0..slots).rev().collect(),
            unsynced: VecDeque::new(),
            syncing: None,
            wanted_commits: 0,
            written: size,
            durable: size,
            durable_commits: start.next_commit,
            stated_commits: start.stated_commits,
            record_commits: start.record_commits,
            busy_at: now,
            torn: start.torn,
            removals: Vec::new(),
        })
    }

    /// Queues a record; `tick` is its time in nanoseconds of the node's clock. Returns its sequence.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::DiskFull`], [`Error::Failed`] or [`Error::TooLarge`]: the record was not taken.
    pub fn append(&mut self, tick: u64, record: &Record<'_>) -> Result<u64, Error> {
        if self.state == State::Full {
            return Err(Error::DiskFull);
        }
        self.queue_record(tick, record)
    }

    /// Queues a record also while the disk is full: what makes room has to be logged first.
    pub(crate) fn queue_record(&mut self, tick: u64, record: &Record<'_>) -> Result<u64, Error> {
        if self.state == State::Failed {
            return Err(Error::Failed);
        }
        let (_, slot_bytes) = self.storage.slots();
        let (body, bytes_max) = (record.body_bytes(), body_bytes_max(slot_bytes));
        if body > bytes_max {
            return Err(Error::TooLarge { bytes: body, bytes_max });
        }
        let bytes = record_bytes(body);
        if self.filling.as_ref().is_some_and(|filling| filling.used + bytes > slot_bytes) {
            self.seal(tick, false);
        }
        let sequence = self.next_sequence();
        let filling = match &mut self.filling {
            Some(filling) => filling,
            None => {
                let slot = self.free.pop().ok_or(Error::Busy)?;
                self.filling.insert(Filling::new(slot, sequence))
            }
        };
        let place = &mut self.storage.slot(filling.slot)[filling.used..filling.used + bytes];
        record.write(&mut place[RECORD_HEADER..]);
        format::seal_record(place, body, record.kind() as u8, sequence, tick);
        filling.used += bytes;
        filling.records += 1;
        Ok(sequence)
    }

    /// Queues a checkpoint: a signed note over all records before it. Returns its sequence.
    ///
    /// # Errors
    ///
    /// As [`Self::append`].
    pub fn append_checkpoint(&mut self, tick: u64, signer: &Signer) -> Result<u64, Error> {
        let root = self.root();
        let note = signer.checkpoint(self.edge.size(), &root);
        self.append(tick, &Record::Checkpoint(&note))
    }

    /// Closes the group: what was appended so far is written as one commit. With `durable` it is then synced as well.
    /// Nothing happens if nothing was appended, except that `durable` still holds for what was written before.
    pub fn commit(&mut self, now: u64, durable: bool) {
        if self.filling.is_some() {
            self.seal(now, durable);
        } else if durable {
            self.wanted_commits = self.next_commit;
        }
    }

    /// Hands commits to the disk and looks what came of them. To be called again and again; never waits, except to make
    /// the next segment.
    ///
    /// # Errors
    ///
    /// When the disk failed. The log is [`State::Failed`] then and stays so.
    pub fn poll(&mut self, now: u64) -> Result<Progress, Error> {
        if self.state == State::Failed {
            return Err(Error::Failed);
        }
        let outcome = self.turn(now);
        if let Err(error) = outcome {
            // Never tried again: after a failed write or sync nobody knows what the disk holds until it is read anew.
            self.state = State::Failed;
            return Err(error);
        }
        Ok(self.progress())
    }

    /// How far the log is.
    #[must_use]
    pub const fn progress(&self) -> Progress {
        Progress { written: self.written, durable: self.durable, state: self.state }
    }

    /// One step towards an end: all that was appended becomes durable and a last, empty commit says so. To be called until
    /// it says true; then the appender may be dropped.
    ///
    /// # Errors
    ///
    /// As [`Self::poll`].
    pub fn finish(&mut self, now: u64) -> Result<bool, Error> {
        self.commit(now, true);
        self.poll(now)?;
        let idle = self.queue.is_empty() && self.unsynced.is_empty();
        if idle && self.unstated() {
            self.mark(now, true);
            return Ok(false);
        }
        Ok(idle && self.removals.is_empty())
    }

    /// The sequence of the next record.
    #[must_use]
    pub fn next_sequence(&self) -> u64 {
        self.edge.size()
            + self.filling.as_ref().map_or(0, |filling| u64::from(filling.records - filling.hashed_records))
    }

    /// Root of the tree of all records appended so far.
    pub fn root(&mut self) -> Hash {
        if let Some(filling) = &mut self.filling {
            let records = &self.storage.slot(filling.slot)[filling.hashed..filling.used];
            let leaves = tree::leaves(&format::leaves(records));
            (filling.hashed, filling.hashed_records) = (filling.used, filling.records);
            self.grow(&leaves);
        }
        self.edge.root()
    }

    /// Adds leaves to the tree.
    fn grow(&mut self, leaves: &[Hash]) {
        leaves.iter().for_each(|leaf| self.edge.push(*leaf));
        self.leaves.extend(leaves);
    }

    /// The log's random number.
    #[must_use]
    pub const fn log_id(&self) -> [u8; 16] {
        self.log_id
    }

    /// Whether opening cut off a write that had not ended.
    #[must_use]
    pub const fn was_torn(&self) -> bool {
        self.torn
    }

    /// The storage: for reading beside the writer, up to [`Progress::written`].
    pub const fn storage(&mut self) -> &mut S {
        &mut self.storage
    }

    /// Gives the storage back. What was not durable may be lost.
    pub fn into_storage(self) -> S {
        self.storage
    }

    /// First sequence of the segment that is being filled: it names the segment that the next commit goes to.
    #[must_use]
    pub const fn active_segment(&self) -> u64 {
        self.first_sequence
    }

    fn unstated(&self) -> bool {
        self.record_commits > self.stated_commits && self.durable_commits >= self.record_commits
    }

    /// Queues an empty commit, which says how much is durable.
    fn mark(&mut self, now: u64, durable: bool) {
        let Some(slot) = self.free.pop() else { return };
        let first_sequence = self.edge.size();
        self.filling = Some(Filling::new(slot, first_sequence));
        self.seal(now, durable);
    }

    /// Closes the commit that is being filled: its place, number and hash are settled here.
    fn seal(&mut self, now: u64, durable: bool) {
        let Some(filling) = self.filling.take() else { return };
        let bytes = round_up(filling.used, BLOCK);
        let end = self.offset + bytes as u64;
        let (_, slot_bytes) = self.storage.slots();
        // A commit of any size and one empty commit must fit behind, or this one is the segment's last.
        let ends = self.segment_bytes.saturating_sub(end) < (slot_bytes + BLOCK) as u64;
        let header = CommitHeader {
            flags: if durable { DURABLE } else { 0 } | if ends { SEGMENT_END } else { 0 },
            shard: self.config.shard,
            number: self.next_commit,
            first_sequence: filling.first_sequence,
            records: filling.records,
            bytes: u32::try_from(bytes).unwrap_or(u32::MAX),
            record_bytes: u32::try_from(filling.used - COMMIT_HEADER).unwrap_or(u32::MAX),
            durable_commits: self.durable_commits,
            tick: now,
            log_id: self.log_id,
            previous: self.previous,
            hash: [0; 32],
        };
        let commit = &mut self.storage.slot(filling.slot)[..bytes];
        let leaves;
        (self.previous, leaves) = header.seal_with_leaves(commit, filling.hashed);
        self.grow(&leaves);
        self.next_commit += 1;
        self.stated_commits = header.durable_commits;
        if filling.records > 0 {
            self.record_commits = self.next_commit;
        }
        if durable {
            self.wanted_commits = self.next_commit;
        }
        let (segment, offset) = (self.segment, self.offset);
        self.offset = end;
        let rotation = ends.then(|| Box::new(self.rotate(now)));
        self.queue.push_back(Sealed {
            slot: filling.slot,
            segment,
            offset,
            bytes,
            done: 0,
            number: header.number,
            end_sequence: self.edge.size(),
            durable,
            rotation,
            stage: Stage::Waiting,
            not_before: 0,
        });
    }

    /// Commits go to the next segment from here on.
    fn rotate(&mut self, now: u64) -> Rotation {
        let next = SegmentHeader {
            shard: self.config.shard,
            log_id: self.log_id,
            first_sequence: self.edge.size(),
            first_commit: self.next_commit,
            segment_bytes: self.config.segment_bytes,
            tick: now,
            previous: self.previous,
            root: self.edge.root(),
            edge: self.edge.parts(),
        };
        let leaves = Vec::with_capacity(self.leaves.len());
        let leaves = core::mem::replace(&mut self.leaves, leaves);
        let (first_sequence, first_commit) = (self.first_sequence, self.first_commit);
        let rotation = Rotation { first_sequence, first_commit, leaves, next };
        self.segment += 1;
        self.first_commit = self.next_commit;
        self.offset = BLOCK as u64;
        self.first_sequence = rotation.next.first_sequence;
        self.segment_bytes = rotation.next.segment_bytes;
        rotation
    }

    fn turn(&mut self, now: u64) -> Result<(), Error> {
        if self.state == State::Full && now >= self.retry_at {
            self.state = State::Running;
        }
        self.take_space(now)?;
        self.issue(now)?;
        while let Some(completion) = self.storage.poll(now).map_err(Error::storage("ask the disk what is done"))? {
            self.busy_at = now;
            match completion {
                Completion::Write { slot, result } => self.on_write(now, slot, result)?,
                Completion::Sync { result, .. } => self.on_sync(result)?,
            }
        }
        self.sync()?;
        self.remove_buried()?;
        let idle = self.filling.is_none() && self.queue.is_empty() && self.unsynced.is_empty();
        if idle && self.unstated() && now.saturating_sub(self.busy_at) >= self.config.mark_after_ns {
            self.mark(now, false);
            self.issue(now)?;
        }
        Ok(())
    }

    /// Takes the next segment's space while there is room in this one for all that may be queued and for the tombstones
    /// that retention needs: so a full disk is told early enough to be emptied, and rotation waits less.
    fn take_space(&mut self, now: u64) -> Result<(), Error> {
        let (slots, slot_bytes) = self.storage.slots();
        let room = self.segment_bytes.saturating_sub(self.offset);
        // A log that was opened near the end of its segment may be behind it before it is first polled.
        let waited_for = self.queue.iter().any(|sealed| sealed.rotation.is_some());
        let ample = room > ((slots + 3) * slot_bytes) as u64 && !waited_for;
        if self.spare || self.state == State::Full || ample {
            return Ok(());
        }
        match self.storage.create(SPARE, self.config.segment_bytes) {
            Ok(file) => {
                self.storage.close(file);
                self.spare = true;
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => self.full(now),
            Err(error) => return Err(Error::storage("take space for the next segment")(error)),
        }
        Ok(())
    }

    /// Begins every write that may begin.
    fn issue(&mut self, now: u64) -> Result<(), Error> {
        for index in 0..self.queue.len() {
            if self.queue[index].stage != Stage::Waiting {
                continue;
            }
            if self.queue[index].not_before > now {
                return Ok(());
            }
            if let Some(rotation) = self.queue[index].rotation.take() {
                // Recovery reads two segments back, so all that is older is durable before there is a third.
                if self.durable_commits < rotation.first_commit || !self.spare {
                    self.queue[index].rotation = Some(rotation);
                    return Ok(());
                }
                match make_segment(&mut self.storage, &rotation) {
                    Ok(file) => self.files.push_back(file),
                    Err(Error::DiskFull) => {
                        self.queue[index].rotation = Some(rotation);
                        self.full(now);
                        self.queue[index].not_before = self.retry_at;
                        return Ok(());
                    }
                    Err(error) => return Err(error),
                }
                self.spare = false;
            }
            self.begin(index)?;
        }
        Ok(())
    }

    fn begin(&mut self, index: usize) -> Result<(), Error> {
        let sealed = &mut self.queue[index];
        let at = usize::try_from(sealed.segment - self.first_file).ok();
        let Some(&file) = at.and_then(|at| self.files.get(at)) else {
            return Err(Error::Config("a commit has no segment; this is a fault of the log itself"));
        };
        sealed.stage = Stage::Writing;
        let (offset, number) = (sealed.offset + sealed.done as u64, sealed.number);
        let begun = self.storage.begin_write(file, offset, sealed.slot, sealed.done, sealed.bytes);
        begun.map_err(Error::storage(format!("begin to write commit {number} at byte {offset}")))
    }

    fn full(&mut self, now: u64) {
        self.state = State::Full;
        self.retry_at = now.saturating_add(self.config.retry_after_ns);
    }

    fn on_write(&mut self, now: u64, slot: usize, result: io::Result<usize>) -> Result<(), Error> {
        let position = self.queue.iter().position(|sealed| sealed.slot == slot && sealed.stage == Stage::Writing);
        let Some(index) = position else { return Ok(()) };
        let sealed = &mut self.queue[index];
        match result {
            Ok(bytes) if sealed.done + bytes >= sealed.bytes => {
                sealed.stage = Stage::Written;
                self.free.push(slot);
                self.settle();
                Ok(())
            }
            Ok(bytes) if bytes > 0 => {
                // Cut short: the rest is written again from the last whole block on.
                sealed.done = (sealed.done + bytes) / BLOCK * BLOCK;
                self.begin(index)
            }
            Err(error) if error.kind() == io::ErrorKind::StorageFull => {
                sealed.stage = Stage::Waiting;
                sealed.not_before = now.saturating_add(self.config.retry_after_ns);
                self.full(now);
                Ok(())
            }
            other => {
                let error = other.err().unwrap_or_else(|| io::ErrorKind::WriteZero.into());
                Err(Error::storage(format!("write commit {} at byte {}", sealed.number, sealed.offset))(error))
            }
        }
    }

    /// Moves `written` behind the commits that are on the disk without a hole.
    fn settle(&mut self) {
        while self.queue.front().is_some_and(|sealed| sealed.stage == Stage::Written) {
            let Some(sealed) = self.queue.pop_front() else { return };
            self.written = sealed.end_sequence;
            if sealed.durable {
                self.wanted_commits = self.wanted_commits.max(sealed.number + 1);
            }
            let now = Unsynced { segment: sealed.segment, commits: sealed.number + 1, sequence: sealed.end_sequence };
            match self.unsynced.back_mut() {
                Some(last) if last.segment == now.segment => *last = now,
                _ => self.unsynced.push_back(now),
            }
        }
    }

    /// Begins a sync if one is due. Files are synced in order, so that what is durable has no hole.
    fn sync(&mut self) -> Result<(), Error> {
        let Some(&first) = self.unsynced.front() else { return Ok(()) };
        let due = self.durable_commits < self.wanted_commits || first.segment < self.segment;
        if self.syncing.is_some() || !due {
            return Ok(());
        }
        while self.first_file < first.segment {
            self.files.pop_front().into_iter().for_each(|file| self.storage.close(file));
            self.first_file += 1;
        }
        let Some(&file) = self.files.front() else { return Ok(()) };
        self.syncing = Some(first);
        self.storage.begin_sync(file).map_err(Error::storage("begin to sync a segment"))
    }

    fn on_sync(&mut self, result: io::Result<()>) -> Result<(), Error> {
        let Some(synced) = self.syncing.take() else { return Ok(()) };
        result.map_err(Error::storage(format!("sync the commits below {}", synced.commits)))?;
        self.durable = synced.sequence;
        self.durable_commits = synced.commits;
        if self.unsynced.front().is_some_and(|first| first.commits == synced.commits) {
            self.unsynced.pop_front();
        }
        Ok(())
    }
}

/// Makes a segment of the space that was taken ahead, so that after a crash it is there whole or not at all, and keeps the
/// leaf hashes of the one before.
fn make_segment<S: Storage>(storage: &mut S, rotation: &Rotation) -> Result<FileId, Error> {
    let mut leaves: Vec<u8> = rotation.leaves.concat();
    if !leaves.is_empty() {
        leaves.resize(round_up(leaves.len(), BLOCK), 0);
        let file = make_file(storage, &leaves_name(rotation.first_sequence), leaves.len() as u64, &leaves)?;
        storage.close(file);
    }
    let (name, header) = (segment_name(rotation.next.first_sequence), rotation.next.to_block());
    let file = storage.open(SPARE).map_err(Error::storage("open the space that was taken for the next segment"))?;
    finish_file(storage, file, SPARE, &name, &header)?;
    storage.sync_folder().map_err(Error::storage("sync the log's folder"))?;
    Ok(file)
}

/// Makes a file with these first bytes under its own name only once it is whole.
pub(crate) fn make_file<S: Storage>(storage: &mut S, name: &str, bytes: u64, first: &[u8]) -> Result<FileId, Error> {
    let file = match storage.create(UNFINISHED, bytes) {
        Err(error) if error.kind() == io::ErrorKind::StorageFull => return Err(Error::DiskFull),
        created => created.map_err(Error::storage(format!("make {name}")))?,
    };
    finish_file(storage, file, UNFINISHED, name, first)?;
    Ok(file)
}

fn finish_file<S: Storage>(storage: &mut S, file: FileId, from: &str, to: &str, first: &[u8]) -> Result<(), Error> {
    let made = storage.write(file, 0, first).and_then(|()| storage.sync(file)).and_then(|()| storage.rename(from, to));
    made.map_err(|error| {
        storage.close(file);
        // No room after all, on file systems that find out late: it is tried again.
        let full = error.kind() == io::ErrorKind::StorageFull;
        if full { Error::DiskFull } else { Error::storage(format!("make {to}"))(error) }
    })
}
