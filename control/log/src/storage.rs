//! What the log asks of a disk: reading, which anyone may do, and writing, which one appender does.

use std::io;

/// A file that a storage has open. Numbers are the storage's own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct FileId(pub u32);

/// One folder's files, for reading.
pub trait Files {
    /// The names of all files, in any order.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    fn names(&mut self) -> io::Result<Vec<String>>;

    /// Opens a file.
    ///
    /// # Errors
    ///
    /// When it is not there or may not be opened.
    fn open(&mut self, name: &str) -> io::Result<FileId>;

    /// Closes a file. Nothing may be in flight on it.
    fn close(&mut self, file: FileId);

    /// The length of a file in bytes.
    ///
    /// # Errors
    ///
    /// When the disk cannot say.
    fn length(&mut self, file: FileId) -> io::Result<u64>;

    /// Reads from `offset` on until `into` is full or the file ends; returns the bytes read.
    ///
    /// # Errors
    ///
    /// When the disk cannot read there.
    fn read(&mut self, file: FileId, offset: u64, into: &mut [u8]) -> io::Result<usize>;
}

/// How something that was begun came out.
#[derive(Debug)]
pub enum Completion {
    /// A write from this slot.
    Write {
        /// The slot.
        slot: usize,
        /// Bytes written, which may be fewer than asked for.
        result: io::Result<usize>,
    },
    /// A sync.
    Sync {
        /// The file.
        file: FileId,
        /// Whether all that was written before it began is on the disk. After an error none of it may be believed.
        result: io::Result<()>,
    },
}

/// One folder's files, for the appender. The first group is slow and waits for the disk; the second only begins and asks.
pub trait Storage: Files {
    /// Makes a file of this length that reads as zeros, with all its space taken.
    ///
    /// # Errors
    ///
    /// `StorageFull` when there is no room; then no file is left behind.
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<FileId>;

    /// Writes whole blocks and waits for it.
    ///
    /// # Errors
    ///
    /// When not everything was written.
    fn write(&mut self, file: FileId, offset: u64, blocks: &[u8]) -> io::Result<()>;

    /// Waits until everything written to the file is on the disk.
    ///
    /// # Errors
    ///
    /// When the disk cannot promise that.
    fn sync(&mut self, file: FileId) -> io::Result<()>;

    /// Gives a file another name, replacing what has it.
    ///
    /// # Errors
    ///
    /// When the folder cannot be changed.
    fn rename(&mut self, from: &str, to: &str) -> io::Result<()>;

    /// Removes a file.
    ///
    /// # Errors
    ///
    /// When the folder cannot be changed.
    fn remove(&mut self, name: &str) -> io::Result<()>;

    /// Waits until names made, changed and removed are on the disk.
    ///
    /// # Errors
    ///
    /// When the disk cannot promise that.
    fn sync_folder(&mut self) -> io::Result<()>;

    /// How many slots there are, and the bytes of each.
    fn slots(&self) -> (usize, usize);

    /// A slot's memory; empty while a write from it is in flight.
    fn slot(&mut self, slot: usize) -> &mut [u8];

    /// Begins to write a slot's bytes `from..to` (whole blocks) to `offset`.
    ///
    /// # Errors
    ///
    /// When it cannot be begun.
    fn begin_write(&mut self, file: FileId, offset: u64, slot: usize, from: usize, to: usize) -> io::Result<()>;

    /// Begins a sync of everything whose write was complete before this call.
    ///
    /// # Errors
    ///
    /// When it cannot be begun.
    fn begin_sync(&mut self, file: FileId) -> io::Result<()>;

    /// Hands on what was begun, and returns one thing that came out, without waiting. `now` is the tick in nanoseconds.
    ///
    /// # Errors
    ///
    /// When the disk cannot be asked any more.
    fn poll(&mut self, now: u64) -> io::Result<Option<Completion>>;
}

/// Whoever lends a storage to an appender has it back even when opening fails.
impl<S: Files + ?Sized> Files for &mut S {
    fn names(&mut self) -> io::Result<Vec<String>> {
        (**self).names()
    }

    fn open(&mut self, name: &str) -> io::Result<FileId> {
        (**self).open(name)
    }

    fn close(&mut self, file: FileId) {
        (**self).close(file);
    }

    fn length(&mut self, file: FileId) -> io::Result<u64> {
        (**self).length(file)
    }

    fn read(&mut self, file: FileId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        (**self).read(file, offset, into)
    }
}

impl<S: Storage + ?Sized> Storage for &mut S {
    fn create(&mut self, name: &str, bytes: u64) -> io::Result<FileId> {
        (**self).create(name, bytes)
    }

    fn write(&mut self, file: FileId, offset: u64, blocks: &[u8]) -> io::Result<()> {
        (**self).write(file, offset, blocks)
    }

    fn sync(&mut self, file: FileId) -> io::Result<()> {
        (**self).sync(file)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        (**self).rename(from, to)
    }

    fn remove(&mut self, name: &str) -> io::Result<()> {
        (**self).remove(name)
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        (**self).sync_folder()
    }

    fn slots(&self) -> (usize, usize) {
        (**self).slots()
    }

    fn slot(&mut self, slot: usize) -> &mut [u8] {
        (**self).slot(slot)
    }

    fn begin_write(&mut self, file: FileId, offset: u64, slot: usize, from: usize, to: usize) -> io::Result<()> {
        (**self).begin_write(file, offset, slot, from, to)
    }

    fn begin_sync(&mut self, file: FileId) -> io::Result<()> {
        (**self).begin_sync(file)
    }

    fn poll(&mut self, now: u64) -> io::Result<Option<Completion>> {
        (**self).poll(now)
    }
}
