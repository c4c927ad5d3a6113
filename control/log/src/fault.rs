//! A disk in memory that does to the log what real ones did to others, all from one seed: unsynced writes that are lost,
//! reordered or torn at a sector, syncs that fail or lie, errors, short and misdirected writes, stalls, a full disk, and a
//! power cut or a killed process at any step.

use crate::{
    format::SECTOR,
    storage::{Completion, FileId, Files, Storage},
};
use std::{
    collections::{BTreeMap, VecDeque},
    io,
};

/// Numbers from a seed (splitmix64).
#[derive(Clone, Debug)]
pub struct Random(u64);

impl Random {
    /// From a seed.
    #[must_use]
    pub const fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// The next number.
    pub const fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ mixed >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ mixed >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ mixed >> 31
    }

    /// A number below `end`; 0 if that is 0.
    pub const fn below(&mut self, end: u64) -> u64 {
        self.next() % if end == 0 { 1 } else { end }
    }

    /// True once in `of`.
    pub const fn one_in(&mut self, of: u64) -> bool {
        self.below(of) == 0
    }
}

/// What goes wrong, each by the number of the write or sync (from 0) that it happens to.
#[derive(Clone, Debug, Default)]
pub struct Faults {
    /// This write fails with an I/O error and may have been done in part.
    pub write_error: Option<u64>,
    /// This write fails because there is no room, with nothing done.
    pub write_full: Option<u64>,
    /// This write does only its first blocks or sectors.
    pub short_write: Option<u64>,
    /// This write goes elsewhere in its file and says it is done.
    pub misdirected_write: Option<u64>,
    /// This sync fails, and what it should have kept is gone.
    pub sync_error: Option<u64>,
    /// This sync says it is done and has done nothing.
    pub lost_sync: Option<u64>,
    /// What is begun takes up to this long, in nanoseconds.
    pub stall_ns: u64,
}

/// What a power cut leaves of what was not synced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cut {
    /// All of it.
    KeepsAll,
    /// Nothing.
    LosesAll,
    /// Every write whole or not at all, in any order.
    DropsWrites,
    /// Every sector for itself.
    TearsSectors,
}

impl Cut {
    /// Every kind.
    pub const ALL: [Self; 4] = [Self::KeepsAll, Self::LosesAll, Self::DropsWrites, Self::TearsSectors];
}

#[derive(Clone, Debug, Default)]
struct Inode {
    durable: Vec<u8>,
    /// What a reader sees.
    view: Vec<u8>,
    /// Writes since the last sync.
    pending: Vec<(usize, Vec<u8>)>,
}

#[derive(Clone, Debug)]
enum Flight {
    Write { inode: u32, offset: usize, bytes: Vec<u8>, slot: usize, outcome: Outcome },
    Sync { inode: u32, file: FileId, pending: usize, number: u64 },
}

#[derive(Clone, Debug)]
enum Outcome {
    Done(usize),
    Failed,
    Full,
}

/// One folder in memory.
#[derive(Clone, Debug)]
pub struct FaultDisk {
    /// Every name's history since the last sync of the folder; the last entry is what it stands for now.
    names: BTreeMap<String, Vec<Option<u32>>>,
    inodes: BTreeMap<u32, Inode>,
    next_inode: u32,
    open: Vec<Option<u32>>,
    slots: Vec<Vec<u8>>,
    busy: Vec<bool>,
    flights: VecDeque<(u64, Flight)>,
    faults: Faults,
    random: Random,
    now: u64,
    writes: u64,
    syncs: u64,
    capacity_bytes: u64,
    /// Steps until everything stops.
    steps_left: u64,
    steps: u64,
}

impl FaultDisk {
    /// An empty folder.
    #[must_use]
    pub fn new(seed: u64, slots: usize, slot_bytes: usize, faults: Faults) -> Self {
        Self {
            names: BTreeMap::new(),
            inodes: BTreeMap::new(),
            next_inode: 0,
            open: Vec::new(),
            slots: vec![vec![0; slot_bytes]; slots],
            busy: vec![false; slots],
            flights: VecDeque::new(),
            faults,
            random: Random::new(seed),
            now: 0,
            writes: 0,
            syncs: 0,
            capacity_bytes: u64::MAX,
            steps_left: u64::MAX,
            steps: 0,
        }
    }

    /// From here on everything fails after this many more steps. A step is each write begun, done or torn, each sync
    /// begun or done, each file made, renamed or removed, each sync of the folder.
    pub const fn stop_after(&mut self, steps: u64) {
        self.steps_left = steps;
    }

    /// Steps so far.
    #[must_use]
    pub const fn steps(&self) -> u64 {
        self.steps
    }

    /// How many bytes all files may have together.
    pub const fn set_capacity(&mut self, bytes: u64) {
        self.capacity_bytes = bytes;
    }

    /// The disk after the machine lost power: what was not synced is left as `cut` says, files that were not synced may
    /// be empty, and every name stands for something that it stood for since the last sync of the folder.
    #[must_use]
    pub fn power_cut(mut self, seed: u64, cut: Cut) -> Self {
        let mut random = Random::new(seed);
        self.land_flights();
        for inode in self.inodes.values_mut() {
            if inode.durable.len() < inode.view.len() && (cut == Cut::KeepsAll || random.one_in(2)) {
                inode.durable.resize(inode.view.len(), 0);
            }
            for (offset, bytes) in core::mem::take(&mut inode.pending) {
                apply(&mut inode.durable, offset, &bytes, cut, &mut random);
            }
            inode.view.clone_from(&inode.durable);
        }
        for history in self.names.values_mut() {
            let at = match cut {
                Cut::KeepsAll => history.len() - 1,
                Cut::LosesAll => 0,
                _ => usize::try_from(random.below(history.len() as u64)).unwrap_or(0),
            };
            *history = vec![history[at]];
        }
        self.restarted()
    }

    /// The disk after the process was killed: the disk's memory keeps what it took; writes in flight are done in part.
    #[must_use]
    pub fn killed(mut self, seed: u64) -> Self {
        let mut random = Random::new(seed);
        for (_, flight) in core::mem::take(&mut self.flights) {
            if let Flight::Write { inode, offset, bytes, .. } = flight
                && let Some(inode) = self.inodes.get_mut(&inode)
            {
                let before = inode.view.clone();
                apply(&mut inode.view, offset, &bytes, Cut::TearsSectors, &mut random);
                let end = (offset + bytes.len()).min(before.len());
                inode.pending.push((offset, inode.view[offset.min(end)..end].to_vec()));
            }
        }
        self.restarted()
    }

    fn restarted(mut self) -> Self {
        self.open.clear();
        self.flights.clear();
        self.busy.fill(false);
        self.faults = Faults::default();
        self.steps_left = u64::MAX;
        self
    }

    /// What is in flight counts as written and not synced.
    fn land_flights(&mut self) {
        for (_, flight) in core::mem::take(&mut self.flights) {
            if let Flight::Write { inode, offset, bytes, .. } = flight
                && let Some(inode) = self.inodes.get_mut(&inode)
            {
                inode.pending.push((offset, bytes));
            }
        }
    }

    /// A file's bytes as a reader sees them.
    #[must_use]
    pub fn bytes(&self, name: &str) -> Option<&[u8]> {
        let inode = (*self.names.get(name)?.last()?)?;
        self.inodes.get(&inode).map(|inode| inode.view.as_slice())
    }

    /// A file's bytes, to damage them behind the log's back.
    pub fn bytes_mut(&mut self, name: &str) -> Option<&mut Vec<u8>> {
        let inode = (*self.names.get(name)?.last()?)?;
        let inode = self.inodes.get_mut(&inode)?;
        inode.pending.clear();
        Some(&mut inode.view)
    }

    /// Puts a file there, or takes it away.
    pub fn set(&mut self, name: &str, bytes: Option<Vec<u8>>) {
        let inode = bytes.map(|bytes| {
            self.next_inode += 1;
            let inode = Inode { durable: bytes.clone(), view: bytes, pending: Vec::new() };
            self.inodes.insert(self.next_inode, inode);
            self.next_inode
        });
        self.names.insert(name.to_owned(), vec![inode]);
    }

    fn step(&mut self) -> io::Result<()> {
        if self.steps_left == 0 {
            return Err(io::Error::other("the machine is off"));
        }
        self.steps_left -= 1;
        self.steps += 1;
        Ok(())
    }

    fn inode(&self, file: FileId) -> io::Result<u32> {
        self.open.get(file.0 as usize).copied().flatten().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn node(&mut self, inode: u32) -> io::Result<&mut Inode> {
        self.inodes.get_mut(&inode).ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn now_is(&mut self, name: &str, inode: Option<u32>) {
        self.names.entry(name.to_owned()).or_insert_with(|| vec![None]).push(inode);
    }

    fn due(&mut self) -> u64 {
        self.now.saturating_add(self.random.below(self.faults.stall_ns.saturating_add(1)))
    }

    fn sync_now(&mut self, inode: u32, pending: usize, number: u64) -> io::Result<()> {
        let (fails, lies) = (self.faults.sync_error == Some(number), self.faults.lost_sync == Some(number));
        let node = self.node(inode)?;
        if fails {
            // The pages are marked clean and are gone; a second sync would say that all is well.
            node.view.clone_from(&node.durable);
            node.pending.clear();
            return Err(io::Error::other("input/output error"));
        }
        if !lies {
            node.durable.resize(node.view.len(), 0);
            for (offset, bytes) in node.pending.drain(..pending.min(node.pending.len())) {
                node.durable[offset..offset + bytes.len()].copy_from_slice(&bytes);
            }
        }
        Ok(())
    }

    fn land(&mut self, flight: Flight) -> io::Result<Completion> {
        match flight {
            Flight::Write { inode, offset, bytes, slot, outcome } => {
                self.busy[slot] = false;
                let node = self.node(inode)?;
                let done = match outcome {
                    Outcome::Done(done) => done,
                    Outcome::Failed => bytes.len() / 2 / SECTOR * SECTOR,
                    Outcome::Full => 0,
                };
                let bytes = bytes[..done].to_vec();
                if offset + done <= node.view.len() {
                    node.view[offset..offset + done].copy_from_slice(&bytes);
                    node.pending.push((offset, bytes));
                }
                let result = match outcome {
                    Outcome::Done(done) => Ok(done),
                    Outcome::Failed => Err(io::Error::other("input/output error")),
                    Outcome::Full => Err(io::ErrorKind::StorageFull.into()),
                };
                Ok(Completion::Write { slot, result })
            }
            Flight::Sync { inode, file, pending, number } => {
                let result = self.sync_now(inode, pending, number);
                Ok(Completion::Sync { file, result })
            }
        }
    }
}

/// Writes to what is durable as much as the cut leaves.
fn apply(durable: &mut [u8], offset: usize, bytes: &[u8], cut: Cut, random: &mut Random) {
    let whole = match cut {
        Cut::KeepsAll => true,
        Cut::LosesAll => false,
        Cut::DropsWrites => random.one_in(2),
        Cut::TearsSectors => false,
    };
    // Some writes lose a single sector, most lose about half.
    let rare = 1 + random.below(8);
    for (index, sector) in bytes.chunks(SECTOR).enumerate() {
        let at = offset + index * SECTOR;
        let kept = whole || (cut == Cut::TearsSectors && !random.one_in(rare));
        if let (true, Some(place)) = (kept, durable.get_mut(at..at + sector.len())) {
            place.copy_from_slice(sector);
        }
    }
}

impl Files for FaultDisk {
    fn names(&mut self) -> io::Result<Vec<String>> {
        let there = self.names.iter().filter(|(_, history)| history.last().is_some_and(Option::is_some));
        Ok(there.map(|(name, _)| name.clone()).collect())
    }

    fn open(&mut self, name: &str) -> io::Result<FileId> {
        let inode = self.names.get(name).and_then(|history| *history.last()?).ok_or(io::ErrorKind::NotFound)?;
        let place = self.open.iter().position(Option::is_none).unwrap_or(self.open.len());
        if place == self.open.len() {
            self.open.push(None);
        }
        self.open[place] = Some(inode);
        Ok(FileId(u32::try_from(place).unwrap_or(u32::MAX)))
    }

    fn close(&mut self, file: FileId) {
        if let Some(open) = self.open.get_mut(file.0 as usize) {
            *open = None;
        }
    }

    fn length(&mut self, file: FileId) -> io::Result<u64> {
        let inode = self.inode(file)?;
        Ok(self.node(inode)?.view.len() as u64)
    }

    fn read(&mut self, file: FileId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let inode = self.inode(file)?;
        let view = &self.node(inode)?.view;
        let from = usize::try_from(offset).unwrap_or(usize::MAX).min(view.len());
        let bytes = into.len().min(view.len() - from);
        into[..bytes].copy_from_slice(&view[from..from + bytes]);
        Ok(bytes)
    }
}

impl Storage for FaultDisk {
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<FileId> {
        self.step()?;
        let live = self.names.values().filter_map(|history| *history.last()?).collect::<Vec<_>>();
        let used: u64 =
            live.iter().filter_map(|inode| self.inodes.get(inode)).map(|inode| inode.view.len() as u64).sum();
        if used.saturating_add(bytes) > self.capacity_bytes {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.next_inode += 1;
        let view = vec![0; usize::try_from(bytes).map_err(|_| io::ErrorKind::StorageFull)?];
        self.inodes.insert(self.next_inode, Inode { durable: Vec::new(), view, pending: Vec::new() });
        self.now_is(name, Some(self.next_inode));
        self.open(name)
    }

    fn write(&mut self, file: FileId, offset: u64, blocks: &[u8]) -> io::Result<()> {
        self.step()?;
        let inode = self.inode(file)?;
        let at = usize::try_from(offset).unwrap_or(usize::MAX);
        let node = self.node(inode)?;
        let place = node.view.get_mut(at..at + blocks.len()).ok_or(io::ErrorKind::InvalidInput)?;
        place.copy_from_slice(blocks);
        node.pending.push((at, blocks.to_vec()));
        self.step()
    }

    fn sync(&mut self, file: FileId) -> io::Result<()> {
        self.step()?;
        let inode = self.inode(file)?;
        let number = self.syncs;
        self.syncs += 1;
        self.sync_now(inode, usize::MAX, number)?;
        self.step()
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.step()?;
        let inode = self.names.get(from).and_then(|history| *history.last()?).ok_or(io::ErrorKind::NotFound)?;
        self.now_is(from, None);
        self.now_is(to, Some(inode));
        self.step()
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        self.step()?;
        self.names.get(name).and_then(|history| *history.last()?).ok_or(io::ErrorKind::NotFound)?;
        self.now_is(name, None);
        self.step()
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        self.step()?;
        for history in self.names.values_mut() {
            let last = history.last().copied().flatten();
            *history = vec![last];
        }
        self.step()
    }

    fn slots(&self) -> (usize, usize) {
        (self.slots.len(), self.slots.first().map_or(0, Vec::len))
    }

    fn slot(&mut self, slot: usize) -> &mut [u8] {
        if self.busy.get(slot) == Some(&false) { &mut self.slots[slot] } else { &mut [] }
    }

    fn begin_write(&mut self, file: FileId, offset: u64, slot: usize, from: usize, to: usize) -> io::Result<()> {
        self.step()?;
        let inode = self.inode(file)?;
        let bytes = self.slots[slot][from..to].to_vec();
        let number = self.writes;
        self.writes += 1;
        let mut offset = usize::try_from(offset).map_err(|_| io::ErrorKind::InvalidInput)?;
        let mut outcome = Outcome::Done(bytes.len());
        if self.faults.write_error == Some(number) {
            outcome = Outcome::Failed;
        }
        if self.faults.write_full == Some(number) {
            outcome = Outcome::Full;
        }
        if self.faults.short_write == Some(number) {
            let sectors = (bytes.len() / SECTOR) as u64;
            let done = 1 + self.random.below(sectors.saturating_sub(1));
            outcome = Outcome::Done(usize::try_from(done).unwrap_or(1) * SECTOR);
        }
        if self.faults.misdirected_write == Some(number) {
            let blocks = (self.node(inode)?.view.len() - bytes.len()) / crate::format::BLOCK;
            offset = usize::try_from(self.random.below(blocks as u64 + 1)).unwrap_or(0) * crate::format::BLOCK;
        }
        self.busy[slot] = true;
        let due = self.due();
        self.flights.push_back((due, Flight::Write { inode, offset, bytes, slot, outcome }));
        Ok(())
    }

    fn begin_sync(&mut self, file: FileId) -> io::Result<()> {
        self.step()?;
        let inode = self.inode(file)?;
        let number = self.syncs;
        self.syncs += 1;
        let pending = self.node(inode)?.pending.len();
        let due = self.due();
        self.flights.push_back((due, Flight::Sync { inode, file, pending, number }));
        Ok(())
    }

    fn poll(&mut self, now: u64) -> io::Result<Option<Completion>> {
        self.now = now;
        let due: Vec<usize> = (0..self.flights.len()).filter(|index| self.flights[*index].0 <= now).collect();
        if due.is_empty() {
            return Ok(None);
        }
        // In any order, and not everything that could be done is done in one turn.
        let pick = usize::try_from(self.random.below(due.len() as u64 + 1)).unwrap_or(0);
        let Some(&index) = due.get(pick) else { return Ok(None) };
        self.step()?;
        let Some((_, flight)) = self.flights.remove(index) else { return Ok(None) };
        self.land(flight).map(Some)
    }
}
