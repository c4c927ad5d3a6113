//! The real disk: files written past the page cache with `O_DIRECT`, by io_uring where the kernel allows it; and a plain
//! reader for whoever only verifies.

use crate::{
    format::{BLOCK, round_up},
    ring::{Done, Ring},
    storage::{Completion, FileId, Files, Storage},
};
use rustix::fs::{FallocateFlags, FlockOperation, Mode, OFlags};
use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::FileExt,
    },
    path::{Path, PathBuf},
};

/// A folder on a disk, locked against other writers for as long as this lives.
#[derive(Debug)]
pub struct Disk {
    /// Declared first, so that it is closed, and waits for the kernel, before the files are.
    ring: Ring,
    path: PathBuf,
    folder: OwnedFd,
    files: Vec<Option<OwnedFd>>,
    slots: usize,
    slot_bytes: usize,
    direct: bool,
}

impl Disk {
    /// Opens a folder, or makes it, with `slots` write buffers of `slot_bytes` each (whole blocks): the largest commit.
    ///
    /// # Errors
    ///
    /// When the folder cannot be opened, another process writes to it (`WouldBlock`), or there is no memory.
    pub fn open(path: &Path, slots: usize, slot_bytes: usize) -> io::Result<Self> {
        if slot_bytes == 0 || !slot_bytes.is_multiple_of(BLOCK) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        fs::create_dir_all(path)?;
        let folder = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::flock(&folder, FlockOperation::NonBlockingLockExclusive)?;
        let ring = Ring::new(slots, slot_bytes)?;
        Ok(Self { ring, path: path.to_owned(), folder, files: Vec::new(), slots, slot_bytes, direct: true })
    }

    /// What is not as it should be, in words for the operator; empty if all is well.
    #[must_use]
    pub fn degraded(&self) -> Vec<&'static str> {
        let ring = (!self.ring.is_ring()).then_some("the kernel refuses io_uring, so every write waits for the disk");
        let direct =
            (!self.direct).then_some("the file system refuses O_DIRECT, so writes pass through the page cache");
        ring.into_iter().chain(direct).collect()
    }

    fn open_with(&mut self, name: &str, flags: OFlags) -> io::Result<FileId> {
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        let flags = flags | OFlags::RDWR | OFlags::CLOEXEC;
        let opened = rustix::fs::openat(&self.folder, name, flags | OFlags::DIRECT, mode);
        let fd = match opened {
            Err(rustix::io::Errno::INVAL) => {
                self.direct = false;
                rustix::fs::openat(&self.folder, name, flags - OFlags::EXCL, mode)?
            }
            opened => opened?,
        };
        let place = self.files.iter().position(Option::is_none).unwrap_or(self.files.len());
        if place == self.files.len() {
            self.files.push(None);
        }
        self.files[place] = Some(fd);
        Ok(FileId(u32::try_from(place).unwrap_or(u32::MAX)))
    }
}

fn fd(files: &[Option<OwnedFd>], file: FileId) -> io::Result<&OwnedFd> {
    files.get(file.0 as usize).and_then(Option::as_ref).ok_or_else(|| io::ErrorKind::NotFound.into())
}

fn names(path: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(path)?.map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned())).collect()
}

impl Files for Disk {
    fn names(&mut self) -> io::Result<Vec<String>> {
        names(&self.path)
    }

    fn open(&mut self, name: &str) -> io::Result<FileId> {
        self.open_with(name, OFlags::empty())
    }

    fn close(&mut self, file: FileId) {
        if let Some(open) = self.files.get_mut(file.0 as usize) {
            *open = None;
        }
    }

    fn length(&mut self, file: FileId) -> io::Result<u64> {
        let length = rustix::fs::fstat(fd(&self.files, file)?)?.st_size;
        Ok(u64::try_from(length).unwrap_or(0))
    }

    fn read(&mut self, file: FileId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let fd = fd(&self.files, file)?;
        let mut done = 0;
        while done < into.len() {
            // Whole blocks from a whole block on, as O_DIRECT asks for.
            let skip = usize::try_from((offset + done as u64) % BLOCK as u64).unwrap_or(0);
            let spare = self.ring.spare();
            let bytes = round_up(into.len() - done + skip, BLOCK).min(spare.len());
            let got = match rustix::io::pread(fd, &mut spare[..bytes], offset + done as u64 - skip as u64) {
                Err(rustix::io::Errno::INTR) => continue,
                got => got?,
            };
            let useful = got.saturating_sub(skip).min(into.len() - done);
            if useful == 0 {
                break;
            }
            into[done..done + useful].copy_from_slice(&spare[skip..skip + useful]);
            done += useful;
        }
        Ok(done)
    }
}

impl Storage for Disk {
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<FileId> {
        match rustix::fs::unlinkat(&self.folder, name, rustix::fs::AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let file = self.open_with(name, OFlags::CREATE | OFlags::EXCL)?;
        let allocated = rustix::fs::fallocate(fd(&self.files, file)?, FallocateFlags::empty(), 0, bytes);
        if let Err(error) = allocated {
            self.close(file);
            rustix::fs::unlinkat(&self.folder, name, rustix::fs::AtFlags::empty())?;
            return Err(error.into());
        }
        Ok(file)
    }

    fn write(&mut self, file: FileId, offset: u64, blocks: &[u8]) -> io::Result<()> {
        let fd = fd(&self.files, file)?;
        let mut done = 0;
        while done < blocks.len() {
            let spare = self.ring.spare();
            let bytes = (blocks.len() - done).min(spare.len());
            spare[..bytes].copy_from_slice(&blocks[done..done + bytes]);
            let got = match rustix::io::pwrite(fd, &spare[..bytes], offset + done as u64) {
                Err(rustix::io::Errno::INTR) => continue,
                got => got? / BLOCK * BLOCK,
            };
            if got == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
            done += got;
        }
        Ok(())
    }

    fn sync(&mut self, file: FileId) -> io::Result<()> {
        Ok(rustix::fs::fsync(fd(&self.files, file)?)?)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.folder, from, &self.folder, to)?)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        Ok(rustix::fs::unlinkat(&self.folder, name, rustix::fs::AtFlags::empty())?)
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        Ok(rustix::fs::fsync(&self.folder)?)
    }

    fn slots(&self) -> (usize, usize) {
        (self.slots, self.slot_bytes)
    }

    fn slot(&mut self, slot: usize) -> &mut [u8] {
        self.ring.slot(slot)
    }

    fn begin_write(&mut self, file: FileId, offset: u64, slot: usize, from: usize, to: usize) -> io::Result<()> {
        self.ring.write(fd(&self.files, file)?.as_fd(), offset, slot, from, to)
    }

    fn begin_sync(&mut self, file: FileId) -> io::Result<()> {
        self.ring.sync(fd(&self.files, file)?.as_fd(), file)
    }

    fn poll(&mut self, _now: u64) -> io::Result<Option<Completion>> {
        Ok(self.ring.poll()?.map(|done| match done {
            Done::Write(slot, result) => Completion::Write { slot, result },
            Done::Sync(file, result) => Completion::Sync { file, result },
        }))
    }
}

/// A folder that is only read, through the page cache; needs no right to write and no lock.
#[derive(Debug)]
pub struct ReadOnly {
    path: PathBuf,
    files: Vec<Option<File>>,
}

impl ReadOnly {
    /// Of a folder.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), files: Vec::new() }
    }

    fn file(&self, file: FileId) -> io::Result<&File> {
        self.files.get(file.0 as usize).and_then(Option::as_ref).ok_or_else(|| io::ErrorKind::NotFound.into())
    }
}

impl Files for ReadOnly {
    fn names(&mut self) -> io::Result<Vec<String>> {
        names(&self.path)
    }

    fn open(&mut self, name: &str) -> io::Result<FileId> {
        let file = File::open(self.path.join(name))?;
        let place = self.files.iter().position(Option::is_none).unwrap_or(self.files.len());
        if place == self.files.len() {
            self.files.push(None);
        }
        self.files[place] = Some(file);
        Ok(FileId(u32::try_from(place).unwrap_or(u32::MAX)))
    }

    fn close(&mut self, file: FileId) {
        if let Some(open) = self.files.get_mut(file.0 as usize) {
            *open = None;
        }
    }

    fn length(&mut self, file: FileId) -> io::Result<u64> {
        Ok(self.file(file)?.metadata()?.len())
    }

    fn read(&mut self, file: FileId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let file = self.file(file)?;
        let mut done = 0;
        while done < into.len() {
            match file.read_at(&mut into[done..], offset + done as u64) {
                Ok(0) => break,
                Ok(got) => done += got,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(done)
    }
}
