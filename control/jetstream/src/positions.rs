//! How far each shard was exported, kept on disk: a file that is replaced as a whole, so that it is never half written.

use crate::{
    event::{Place, WHOLE, from_hex, hex},
    follow::Mark,
};
use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
};

/// What the clocks said at some record: enough to turn later ticks of the same boot into Unix time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClockAt {
    /// Nanoseconds of the node's clock.
    pub tick: u64,
    /// Unix nanoseconds at that tick.
    pub unix_ns: u64,
}

/// How far one shard is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Position {
    /// The log.
    pub log_id: [u8; 16],
    /// The last event that was acknowledged.
    pub place: Place,
    /// A commit that was read for it, by which the log is known again.
    pub mark: Option<Mark>,
    /// The event's sequence in the stream.
    pub stream_sequence: u64,
    /// The clock that held there.
    pub clock: Option<ClockAt>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Row {
    log: String,
    record: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u16>,
    stream_sequence: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    commit_hash: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clock: Option<ClockAt>,
}

/// What the file says, in JSON so that a person can read it.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Content {
    version: u32,
    stream: String,
    created_unix_ns: Option<String>,
    shards: BTreeMap<u16, Row>,
}

const VERSION: u32 = 1;

/// The positions of one stream's exporter.
#[derive(Debug)]
pub struct Positions {
    path: PathBuf,
    stream: String,
    /// Held for as long as this lives, so that no second exporter writes here.
    _lock: File,
    /// When the stream was made, in Unix nanoseconds; tells a stream from a later one of the same name.
    pub created: Option<i128>,
    /// By shard.
    pub shards: BTreeMap<u16, Position>,
}

impl Positions {
    /// Reads the positions of this stream, or begins without any. The folder is made if need be.
    ///
    /// # Errors
    ///
    /// When the folder cannot be used, another exporter uses it, or the file is none of ours.
    pub fn open(folder: &Path, stream: &str) -> Result<Self> {
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let lock_path = folder.join(format!("{stream}.lock"));
        let lock = File::create(&lock_path).with_context(|| format!("cannot make {}", lock_path.display()))?;
        if rustix::fs::flock(&lock, rustix::fs::FlockOperation::NonBlockingLockExclusive).is_err() {
            bail!("{} is locked: another exporter to stream {stream} runs; stop it first", lock_path.display());
        }
        let path = folder.join(format!("{stream}.json"));
        let mut this = Self { path, stream: stream.to_owned(), _lock: lock, created: None, shards: BTreeMap::new() };
        match fs::read_to_string(&this.path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            text => {
                let text = text.with_context(|| format!("cannot read {}", this.path.display()))?;
                this.read(&text).with_context(|| {
                    let name = this.path.display();
                    format!("{name} is not what an exporter wrote; remove it, and the stream says how far it is")
                })?;
            }
        }
        Ok(this)
    }

    fn read(&mut self, text: &str) -> Result<()> {
        let content: Content = serde_json::from_str(text)?;
        if content.version != VERSION || content.stream != self.stream {
            bail!("it is of version {} and stream {}", content.version, content.stream);
        }
        self.created = content.created_unix_ns.map(|created| created.parse()).transpose()?;
        for (shard, row) in content.shards {
            let log_id = from_hex(&row.log).context("`log` is no number of a log")?;
            let mark = match (row.commit, row.commit_hash) {
                (Some(number), Some(hash)) => Some(Mark { number, hash: from_hex(&hash).context("`commit_hash`")? }),
                _ => None,
            };
            let place = Place { record: row.record, index: row.index.unwrap_or(WHOLE) };
            let position = Position { log_id, place, mark, stream_sequence: row.stream_sequence, clock: row.clock };
            self.shards.insert(shard, position);
        }
        Ok(())
    }

    /// Makes what is here durable: written beside the old file, synced, renamed, and the folder synced.
    ///
    /// # Errors
    ///
    /// When the disk cannot promise that; the old file is there then.
    pub fn store(&self) -> Result<()> {
        let row = |position: &Position| Row {
            log: hex(&position.log_id),
            record: position.place.record,
            index: (position.place.index != WHOLE).then_some(position.place.index),
            stream_sequence: position.stream_sequence,
            commit: position.mark.map(|mark| mark.number),
            commit_hash: position.mark.map(|mark| hex(&mark.hash)),
            clock: position.clock,
        };
        let content = Content {
            version: VERSION,
            stream: self.stream.clone(),
            created_unix_ns: self.created.map(|created| created.to_string()),
            shards: self.shards.iter().map(|(shard, position)| (*shard, row(position))).collect(),
        };
        let text = serde_json::to_vec_pretty(&content)?;
        self.replace(&text).with_context(|| format!("cannot store positions in {}", self.path.display()))
    }

    fn replace(&self, text: &[u8]) -> io::Result<()> {
        let beside = self.path.with_extension("tmp");
        let mut file = File::create(&beside)?;
        file.write_all(text)?;
        file.sync_all()?;
        fs::rename(&beside, &self.path)?;
        let folder = self.path.parent().unwrap_or(Path::new("."));
        File::open(folder)?.sync_all()
    }
}
