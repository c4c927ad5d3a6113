//! Writes recorded turns into the logs of their shards, as control's writer does, but without its patience and its syncs.

use anyhow::{Context, anyhow};
use std::{
    collections::{BTreeMap, HashMap},
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};
use tachyon_log::{
    Appender, Config, Disk, Error, Record,
    cursor::body_bytes_max,
    record::{Arrival, Clock, key_name, ruleset_pieces},
    turn::{RecordedTurn, Split, burst, split},
};

/// Write buffers of a log, and how large they are.
const SLOTS: usize = 4;
const SLOT_BYTES: usize = 1 << 20;
const SEGMENT_BYTES: u64 = 64 << 20;

/// The logs of the shards in a directory.
pub struct Writer {
    directory: PathBuf,
    boot_id: [u8; 16],
    unix_offset_ns: u64,
    shards: BTreeMap<u16, (Appender<Disk>, u64)>,
    keys: HashMap<[u8; 32], [u8; 32]>,
}

impl core::fmt::Debug for Writer {
    /// Never prints a key.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Writer({}, {} shards)", self.directory.display(), self.shards.len())
    }
}

impl Writer {
    /// Logs in a directory, of a node's start with this number.
    #[must_use]
    pub fn new(directory: &Path, boot_id: [u8; 16], unix_offset_ns: u64) -> Self {
        let (shards, keys) = (BTreeMap::new(), HashMap::new());
        Self { directory: directory.to_owned(), boot_id, unix_offset_ns, shards, keys }
    }

    fn open(&mut self, shard: u16, tick: u64) -> anyhow::Result<()> {
        if self.shards.contains_key(&shard) {
            return Ok(());
        }
        let path = self.directory.join(format!("shard-{shard:05}"));
        let disk = Disk::open(&path, SLOTS, SLOT_BYTES).with_context(|| format!("cannot open {}", path.display()))?;
        let config = Config {
            shard,
            log_id: self.boot_id,
            segment_bytes: SEGMENT_BYTES,
            mark_after_ns: u64::MAX,
            retry_after_ns: 1_000_000_000,
        };
        let mut log = Appender::open(disk, config, tick).with_context(|| format!("log in {}", path.display()))?;
        let unix_ns = tick.wrapping_add(self.unix_offset_ns).into();
        let clock = Clock { boot_id: self.boot_id, unix_ns, boot: 1, reserved: [0; 7] };
        append(&mut log, tick, &Record::Clock(clock))?;
        self.shards.insert(shard, (log, 0));
        Ok(())
    }

    /// Appends a turn, and before it the image that it was judged under if a log does not have it yet.
    ///
    /// # Errors
    /// The disk fails or is full, or the record makes no sense.
    pub fn append(&mut self, turn: &RecordedTurn, image: Option<&[u8]>) -> anyhow::Result<()> {
        let Split { turn: head, parts, keys } =
            split(&turn.record, body_bytes_max(SLOT_BYTES)).map_err(|error| anyhow!(error))?;
        let (tick, version) = (head.tick.get(), head.ruleset_version.get());
        self.keys.extend(keys.into_iter().map(|key| (key_name(&key), key)));
        for part in parts {
            self.open(part.shard, tick)?;
            let Some((log, written)) = self.shards.get_mut(&part.shard) else { continue };
            if let Some(image) = image.filter(|_| version != 0 && *written != version) {
                for piece in ruleset_pieces(version, image, body_bytes_max(SLOT_BYTES) / 2) {
                    append(log, tick, &piece)?;
                }
                *written = version;
            }
            for whole in &part.frames {
                let burst = burst(head.turn.get()).into();
                let arrival = Arrival { source: whole.item.source, worker: head.worker, burst };
                let bytes = turn.frames.get(whole.place).context("a record of more frames than there are")?;
                append(log, tick, &Record::Frame(arrival, bytes))?;
            }
            for body in &part.bodies {
                append(log, tick, &Record::Decisions(body))?;
            }
        }
        Ok(())
    }

    /// Brings everything to the disk, and the keys beside it.
    ///
    /// # Errors
    /// The disk fails or is full.
    pub fn finish(mut self, tick: u64) -> anyhow::Result<()> {
        for (log, _) in self.shards.values_mut() {
            while !log.finish(tick)? {
                std::thread::yield_now();
            }
        }
        let mut lines = String::new();
        for (name, key) in &self.keys {
            for bytes in [name, key] {
                bytes.iter().try_for_each(|byte| write!(lines, "{byte:02x}"))?;
                lines.push(if bytes == name { ' ' } else { '\n' });
            }
        }
        let path = self.directory.join("keys");
        fs::write(&path, lines).with_context(|| format!("cannot write {}", path.display()))
    }
}

/// Appends a record, as soon as the disk has room for it.
fn append(log: &mut Appender<Disk>, tick: u64, record: &Record<'_>) -> anyhow::Result<()> {
    loop {
        match log.append(tick, record) {
            Ok(_) => return Ok(()),
            Err(Error::Busy) => {
                log.poll(tick)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
}
