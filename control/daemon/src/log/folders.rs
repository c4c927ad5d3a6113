//! Where the logs lie: a folder for each shard, and the public keys beside them.

use super::keys::replace;
use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, UNIX_EPOCH},
};
use tachyon_log::{Disk, Files, ReadOnly, Storage, format::segment_of};

/// Write buffers of a shard: enough to fill some while others are on their way.
const SLOTS: usize = 8;
/// Bytes of each: the largest commit. A write of that size is long enough for a disk's full rate.
pub(crate) const SLOT_BYTES: usize = 256 * 1024;

/// What snapshots' names end in, and how many are kept: the second is for when the first cannot be used.
const SNAPSHOT: &str = "windows";
const SNAPSHOTS: usize = 2;

/// What the writer asks of the machine, besides time.
pub(crate) trait Folders: Send + 'static {
    /// Where one shard's log is written.
    type Storage: Storage;
    /// Where it is read, beside its writer.
    type Reader: Files;

    /// Whether there is a log of this shard already.
    fn exists(&self, shard: u16) -> bool;

    /// Opens a shard's folder, or makes it.
    ///
    /// # Errors
    /// What the disk said.
    fn storage(&mut self, shard: u16) -> io::Result<Self::Storage>;

    /// A shard's folder for reading; `None` where that cannot be.
    fn reader(&mut self, shard: u16) -> Option<Self::Reader>;

    /// A number that no other log has.
    fn log_id(&mut self) -> [u8; 16];

    /// Puts the newest checkpoint beside a shard's segments.
    ///
    /// # Errors
    /// What the disk said.
    fn keep_checkpoint(&mut self, shard: u16, note: &str) -> io::Result<()>;

    /// Keeps a snapshot of so many records beside a shard's segments, and the one before it.
    ///
    /// # Errors
    /// What the disk said.
    fn keep_snapshot(&mut self, shard: u16, records: u64, snapshot: &[u8]) -> io::Result<()>;

    /// A shard's snapshots, the newest first, each with its name.
    ///
    /// # Errors
    /// What the disk said.
    fn snapshots(&mut self, shard: u16) -> io::Result<Vec<(String, Vec<u8>)>>;

    /// Adds a shard's public key to those that are there.
    ///
    /// # Errors
    /// What the disk said.
    fn publish_key(&mut self, key: &str) -> io::Result<()>;

    /// The first sequences of a shard's segments, rising, each with the Unix nanoseconds when it was written last.
    ///
    /// # Errors
    /// What the disk said.
    fn segments(&mut self, shard: u16) -> io::Result<Vec<(u64, u64)>>;
}

/// The name of a shard's folder.
pub(crate) fn shard_folder(shard: u16) -> String {
    format!("shard-{shard:05}")
}

/// The names of a folder's snapshots, the newest first.
fn snapshot_names(folder: &Path) -> io::Result<Vec<String>> {
    let names: io::Result<Vec<String>> =
        fs::read_dir(folder)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect();
    let mut names = names?;
    names.retain(|name| name.split_once('.').is_some_and(|(_, rest)| rest == SNAPSHOT));
    names.sort_unstable_by(|one, other| other.cmp(one));
    Ok(names)
}

/// Folders on a real disk.
#[derive(Debug)]
pub(crate) struct OnDisk {
    directory: PathBuf,
}

impl OnDisk {
    /// Below this directory.
    pub(crate) fn new(directory: &Path) -> Self {
        Self { directory: directory.to_owned() }
    }

    fn folder(&self, shard: u16) -> PathBuf {
        self.directory.join(shard_folder(shard))
    }
}

impl Folders for OnDisk {
    type Storage = Disk;
    type Reader = ReadOnly;

    fn exists(&self, shard: u16) -> bool {
        self.folder(shard).exists()
    }

    fn storage(&mut self, shard: u16) -> io::Result<Disk> {
        Disk::open(&self.folder(shard), SLOTS, SLOT_BYTES)
    }

    fn reader(&mut self, shard: u16) -> Option<ReadOnly> {
        Some(ReadOnly::new(&self.folder(shard)))
    }

    fn log_id(&mut self) -> [u8; 16] {
        let mut log_id = [0; 16];
        // Without randomness no session has keys either; then the clock must do, for it only has to differ.
        if getrandom::fill(&mut log_id).is_err() {
            let now = UNIX_EPOCH.elapsed().map_or(0, |since| since.as_nanos());
            log_id = now.to_le_bytes();
        }
        log_id
    }

    fn keep_checkpoint(&mut self, shard: u16, note: &str) -> io::Result<()> {
        replace(&self.folder(shard).join("checkpoint"), note.as_bytes(), 0o644)
    }

    fn keep_snapshot(&mut self, shard: u16, records: u64, snapshot: &[u8]) -> io::Result<()> {
        let folder = self.folder(shard);
        replace(&folder.join(format!("{records:020}.{SNAPSHOT}")), snapshot, 0o640)?;
        snapshot_names(&folder)?.into_iter().skip(SNAPSHOTS).try_for_each(|name| fs::remove_file(folder.join(name)))
    }

    fn snapshots(&mut self, shard: u16) -> io::Result<Vec<(String, Vec<u8>)>> {
        let folder = self.folder(shard);
        let names = snapshot_names(&folder)?.into_iter();
        names.map(|name| fs::read(folder.join(&name)).map(|bytes| (name, bytes))).collect()
    }

    fn publish_key(&mut self, key: &str) -> io::Result<()> {
        let path = self.directory.join("log.pub");
        let mut text = match fs::read_to_string(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
            text => text?,
        };
        if text.lines().any(|line| line == key) {
            return Ok(());
        }
        text.push_str(key);
        text.push('\n');
        replace(&path, text.as_bytes(), 0o644)
    }

    fn segments(&mut self, shard: u16) -> io::Result<Vec<(u64, u64)>> {
        let mut segments = Vec::new();
        for entry in fs::read_dir(self.folder(shard))? {
            let entry = entry?;
            let Some(first) = segment_of(&entry.file_name().to_string_lossy()) else { continue };
            let written = entry.metadata()?.modified()?.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
            segments.push((first, u64::try_from(written.as_nanos()).unwrap_or(u64::MAX)));
        }
        segments.sort_unstable();
        Ok(segments)
    }
}
