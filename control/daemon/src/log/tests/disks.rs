//! Disks in memory, one for each shard, with seeded faults.

use crate::log::folders::Folders;
use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};
use tachyon_log::{
    Files, Storage,
    fault::{FaultDisk, Faults},
    format::segment_of,
    storage::{Completion, FileId},
};

/// A snapshot and its name.
type Named = (String, Vec<u8>);

/// The disks, and how often each was opened.
#[derive(Clone, Default)]
pub(super) struct Disks {
    pub(super) disks: Arc<Mutex<BTreeMap<u16, FaultDisk>>>,
    /// What a new disk does wrong.
    pub(super) faults: BTreeMap<u16, Faults>,
    pub(super) checkpoints: Arc<Mutex<BTreeMap<u16, String>>>,
    pub(super) snapshots: Arc<Mutex<BTreeMap<u16, Vec<Named>>>>,
}

/// A disk that is in use; it goes home when it is not any more, and then what was in flight is done in part.
#[derive(Debug)]
pub(super) struct Lent {
    shard: u16,
    disk: Option<FaultDisk>,
    home: Arc<Mutex<BTreeMap<u16, FaultDisk>>>,
}

impl Lent {
    pub(super) fn disk(&mut self) -> &mut FaultDisk {
        self.disk.as_mut().expect("there until it is dropped")
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let (Some(disk), Ok(mut home)) = (self.disk.take(), self.home.lock()) {
            home.insert(self.shard, disk.killed(1));
        }
    }
}

impl Folders for Disks {
    type Storage = Lent;
    type Reader = FaultDisk;

    fn exists(&self, shard: u16) -> bool {
        self.disks.lock().expect("unbroken").contains_key(&shard)
    }

    fn storage(&mut self, shard: u16) -> io::Result<Lent> {
        let faults = self.faults.get(&shard).cloned().unwrap_or_default();
        let new = || FaultDisk::new(u64::from(shard), 4, super::super::folders::SLOT_BYTES, faults);
        let disk = self.disks.lock().expect("unbroken").remove(&shard).unwrap_or_else(new);
        Ok(Lent { shard, disk: Some(disk), home: self.disks.clone() })
    }

    fn reader(&mut self, _shard: u16) -> Option<FaultDisk> {
        None
    }

    fn log_id(&mut self) -> [u8; 16] {
        [7; 16]
    }

    fn keep_checkpoint(&mut self, shard: u16, note: &str) -> io::Result<()> {
        self.checkpoints.lock().expect("unbroken").insert(shard, note.to_owned());
        Ok(())
    }

    fn keep_snapshot(&mut self, shard: u16, records: u64, snapshot: &[u8]) -> io::Result<()> {
        let mut all = self.snapshots.lock().expect("unbroken");
        let snapshots = all.entry(shard).or_default();
        snapshots.insert(0, (records.to_string(), snapshot.to_vec()));
        snapshots.truncate(2);
        Ok(())
    }

    fn snapshots(&mut self, shard: u16) -> io::Result<Vec<(String, Vec<u8>)>> {
        Ok(self.snapshots.lock().expect("unbroken").get(&shard).cloned().unwrap_or_default())
    }

    fn publish_key(&mut self, _key: &str) -> io::Result<()> {
        Ok(())
    }

    fn segments(&mut self, shard: u16) -> io::Result<Vec<(u64, u64)>> {
        let mut disks = self.disks.lock().expect("unbroken");
        let names = disks.get_mut(&shard).map(Files::names).transpose()?.unwrap_or_default();
        Ok(names.iter().filter_map(|name| Some((segment_of(name)?, u64::MAX))).collect())
    }
}

impl Files for Lent {
    fn names(&mut self) -> io::Result<Vec<String>> {
        self.disk().names()
    }

    fn open(&mut self, name: &str) -> io::Result<FileId> {
        self.disk().open(name)
    }

    fn close(&mut self, file: FileId) {
        self.disk().close(file);
    }

    fn length(&mut self, file: FileId) -> io::Result<u64> {
        self.disk().length(file)
    }

    fn read(&mut self, file: FileId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        self.disk().read(file, offset, into)
    }
}

impl Storage for Lent {
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<FileId> {
        self.disk().create(name, bytes)
    }

    fn write(&mut self, file: FileId, offset: u64, blocks: &[u8]) -> io::Result<()> {
        self.disk().write(file, offset, blocks)
    }

    fn sync(&mut self, file: FileId) -> io::Result<()> {
        self.disk().sync(file)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.disk().rename(from, to)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.disk().remove(name)
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        self.disk().sync_folder()
    }

    fn slots(&self) -> (usize, usize) {
        self.disk.as_ref().expect("there until it is dropped").slots()
    }

    fn slot(&mut self, slot: usize) -> &mut [u8] {
        self.disk().slot(slot)
    }

    fn begin_write(&mut self, file: FileId, offset: u64, slot: usize, from: usize, to: usize) -> io::Result<()> {
        self.disk().begin_write(file, offset, slot, from, to)
    }

    fn begin_sync(&mut self, file: FileId) -> io::Result<()> {
        self.disk().begin_sync(file)
    }

    fn poll(&mut self, now: u64) -> io::Result<Option<Completion>> {
        self.disk().poll(now)
    }
}
