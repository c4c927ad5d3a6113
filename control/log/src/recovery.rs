//! What happens when a log is opened for appending: the end is found, and what a crash left behind it is cleared away.

use crate::{
    appender::{Config, SPARE, Start, UNFINISHED, make_file},
    cursor::{Cursor, End, Item},
    damage::{Damage, Error, Fault},
    format::{BLOCK, SegmentHeader, leaves_of, segment_name, segment_of},
    storage::{FileId, Storage},
    tree::{self, Edge, Hash},
};

/// Bytes that are cleared at once.
const CLEAR_BYTES: usize = 1 << 16;

/// What the walk through the last segments gathers.
#[derive(Default)]
struct Walk {
    edge: Option<Edge>,
    leaves: Vec<Hash>,
    stated_commits: u64,
    record_commits: u64,
}

pub(crate) fn recover<S: Storage>(storage: &mut S, config: &Config, now: u64) -> Result<Start, Error> {
    let names = storage.names().map_err(Error::storage("list the log's folder"))?;
    for name in names.iter().filter(|name| *name == UNFINISHED || *name == SPARE) {
        storage.remove(name).map_err(Error::storage(format!("remove {name}, which is unfinished")))?;
    }
    let mut segments: Vec<u64> = names.iter().filter_map(|name| segment_of(name)).collect();
    segments.sort_unstable();
    if segments.is_empty() {
        if names.iter().any(|name| leaves_of(name).is_some()) {
            let fault = Fault::SegmentMissing { sequence: 0 };
            return Err(Error::Damaged(Damage { file: segment_name(0), offset: 0, fault }));
        }
        return create(storage, config, now);
    }
    // The last segment may be one that a rotation had only begun with, so the one before it is read as well.
    let from = segments[segments.len().saturating_sub(2)];
    let mut cursor = Cursor::new(storage, from)?;
    let mut walk = Walk::default();
    while let Some(item) = cursor.next(storage)? {
        walk.take(item)?;
    }
    let Some(end) = cursor.end(storage) else { return Err(Error::Config("the log's last segment cannot be read")) };
    let file = settle(storage, &end, from)?;
    let (Some(edge), Some(previous)) = (walk.edge, end.expected.previous) else {
        return Err(Error::Config("the log's last segment cannot be read"));
    };
    Ok(Start {
        header: end.header,
        file,
        offset: end.offset,
        next_commit: end.expected.number,
        previous,
        edge,
        leaves: walk.leaves,
        stated_commits: walk.stated_commits,
        record_commits: walk.record_commits,
        torn: end.torn,
    })
}

impl Walk {
    fn take(&mut self, item: Item<'_>) -> Result<(), Error> {
        match item {
            Item::Segment(header) => {
                let edge = Edge::from_parts(header.first_sequence, &header.edge);
                if self.edge.as_ref().is_some_and(|known| known.root() != edge.root()) {
                    let file = segment_name(header.first_sequence);
                    return Err(Error::Damaged(Damage { file, offset: 0, fault: Fault::SegmentForeign }));
                }
                self.edge = Some(edge);
                self.leaves.clear();
            }
            Item::Commit(commit) => {
                for record in commit.records() {
                    let leaf = tree::leaf(record.leaf);
                    self.leaves.push(leaf);
                    self.edge.get_or_insert_default().push(leaf);
                }
                self.stated_commits = commit.header.durable_commits;
                if commit.header.records > 0 {
                    self.record_commits = commit.header.number + 1;
                }
            }
            Item::Damage(Damage { fault: Fault::Torn { .. }, .. }) => {}
            Item::Damage(damage) => return Err(Error::Damaged(damage)),
        }
        Ok(())
    }
}

/// A log without records.
fn create<S: Storage>(storage: &mut S, config: &Config, now: u64) -> Result<Start, Error> {
    let header = SegmentHeader {
        shard: config.shard,
        log_id: config.log_id,
        first_sequence: 0,
        first_commit: 0,
        segment_bytes: config.segment_bytes,
        tick: now,
        previous: [0; 32],
        root: tree::empty(),
        edge: Vec::new(),
    };
    let file = make_file(storage, &segment_name(0), header.segment_bytes, &header.to_block())?;
    storage.sync_folder().map_err(Error::storage("sync the log's folder"))?;
    Ok(Start {
        header,
        file,
        offset: BLOCK as u64,
        next_commit: 0,
        previous: [0; 32],
        edge: Edge::default(),
        leaves: Vec::new(),
        stated_commits: 0,
        record_commits: 0,
        torn: false,
    })
}

/// Clears what lies behind the end, and makes durable what lies before it: it may still be in the disk's memory only.
fn settle<S: Storage>(storage: &mut S, end: &End, from: u64) -> Result<FileId, Error> {
    let name = segment_name(end.header.first_sequence);
    if from != end.header.first_sequence {
        let before = segment_name(from);
        let file = storage.open(&before).map_err(Error::storage(format!("open {before}")))?;
        storage.sync(file).map_err(Error::storage(format!("sync {before}")))?;
        storage.close(file);
    }
    let file = storage.open(&name).map_err(Error::storage(format!("open {name}")))?;
    if end.torn {
        clear(storage, file, end.offset, end.header.segment_bytes, &name)?;
    }
    storage.sync(file).map_err(Error::storage(format!("sync {name}")))?;
    for first in &end.later {
        let name = segment_name(*first);
        storage.remove(&name).map_err(Error::storage(format!("remove {name}, which an unfinished rotation left")))?;
    }
    storage.sync_folder().map_err(Error::storage("sync the log's folder"))?;
    Ok(file)
}

/// Writes zeros over whatever is not zero.
fn clear<S: Storage>(storage: &mut S, file: FileId, from: u64, to: u64, name: &str) -> Result<(), Error> {
    let zeros = vec![0; CLEAR_BYTES];
    let mut chunk = vec![0; CLEAR_BYTES];
    let mut at = from;
    while at < to {
        let bytes = CLEAR_BYTES.min(usize::try_from(to - at).unwrap_or(CLEAR_BYTES));
        let got = storage.read(file, at, &mut chunk[..bytes]).map_err(Error::storage(format!("read {name}")))?;
        if chunk[..got] != zeros[..got] {
            storage.write(file, at, &zeros[..bytes]).map_err(Error::storage(format!("clear {name} at byte {at}")))?;
        }
        at += bytes as u64;
    }
    Ok(())
}
