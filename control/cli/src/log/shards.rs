//! Where the logs of the shards lie, and which keys they are signed with.

use super::{
    arguments::{Key, Place},
    failed, usage,
};
use crate::failure::Failure;
use std::{
    fs,
    io::Read as _,
    path::{Path, PathBuf},
};
use tachyon_log::{
    Found, Owned, ReadOnly, Reader, Record, Verifier,
    format::{BLOCK, SegmentHeader, segment_of},
    note::Checkpoint,
};

/// The file with the keys, beside the shards' folders.
const KEYS: &str = "log.pub";

/// One shard's log.
#[derive(Debug)]
pub(crate) struct Shard {
    /// Its number: that of the folder's name, else that of the log in it.
    pub(crate) number: u16,
    /// Its folder.
    pub(crate) path: PathBuf,
}

impl Shard {
    /// The files of the log.
    pub(crate) fn files(&self) -> ReadOnly {
        ReadOnly::new(&self.path)
    }

    /// The records from this sequence on.
    pub(crate) fn reader(&self, from: u64) -> Result<Reader<ReadOnly>, Failure> {
        Reader::new(self.files(), from).map_err(failed(&self.path))
    }

    /// One record, if it is there and holds.
    pub(crate) fn record(&self, sequence: u64) -> Result<Option<Owned>, Failure> {
        let mut reader = self.reader(sequence)?.until(sequence.saturating_add(1));
        while let Some(found) = reader.read().map_err(failed(&self.path))? {
            if let Found::Record(record) = found
                && record.sequence == sequence
            {
                return Ok(Some(record));
            }
        }
        Ok(None)
    }

    /// The newest checkpoint that covers more than `above` records, with its note. Searched backwards, segment by segment.
    pub(crate) fn newest_checkpoint(&self, above: u64) -> Result<Option<(Checkpoint, String)>, Failure> {
        let segments = self.reader(0)?.segments().to_vec();
        let mut end = u64::MAX;
        for first in segments.iter().rev() {
            let mut newest = None;
            let mut reader = self.reader(*first)?.until(end);
            while let Some(found) = reader.read().map_err(failed(&self.path))? {
                let Found::Record(record) = found else { continue };
                newest = checkpoint_in(&record).or(newest);
            }
            if let Some(newest) = newest {
                return Ok(Some(newest).filter(|(checkpoint, _)| checkpoint.size > above));
            }
            end = *first;
        }
        Ok(None)
    }

    /// The checkpoint that covers exactly this many records, if the log holds one: it is the next record.
    pub(crate) fn checkpoint_at(&self, size: u64) -> Result<Option<(Checkpoint, String)>, Failure> {
        Ok(self.record(size)?.as_ref().and_then(checkpoint_in))
    }

    /// The one of these keys that the log is signed with: that with the name which its newest checkpoint gives as origin;
    /// without checkpoints the only one there is.
    pub(crate) fn key(&self, keys: &[Verifier]) -> Result<Option<Verifier>, Failure> {
        if let [key] = keys {
            return Ok(Some(key.clone()));
        }
        let newest = self.newest_checkpoint(0)?;
        Ok(newest.and_then(|(checkpoint, _)| keys.iter().find(|key| key.name() == checkpoint.origin).cloned()))
    }
}

/// The note of a checkpoint record, and what it says.
fn checkpoint_in(record: &Owned) -> Option<(Checkpoint, String)> {
    match Record::read(&record.raw())? {
        Record::Checkpoint(note) => Some((Checkpoint::unchecked(note)?, note.to_owned())),
        _ => None,
    }
}

/// The shards that are meant, by rising number; at least one.
pub(crate) fn shards(place: &Place) -> Result<Vec<Shard>, Failure> {
    let directory = &place.directory;
    let entries = fs::read_dir(directory).map_err(|error| {
        let help = "name the log's folder with --directory or TACHYON_LOG_DIR, and run it as a user that may read it";
        usage(format!("cannot read the log's folder: {error}"), directory, help)
    })?;
    let names: Vec<String> = entries.flatten().map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    let named = |name: &String| Some(Shard { number: shard_number(name)?, path: directory.join(name) });
    let mut shards: Vec<Shard> = names.iter().filter_map(named).collect();
    if shards.is_empty() && names.iter().any(|name| segment_of(name).is_some()) {
        let number = names.iter().find_map(|name| number_in(directory, name)).unwrap_or(0);
        shards.push(Shard { number, path: directory.clone() });
    }
    shards.sort_by_key(|shard| shard.number);
    if shards.is_empty() {
        let help = "name the folder with --directory or TACHYON_LOG_DIR";
        return Err(usage("there is no log in this folder", directory, help));
    }
    let there = numbers(&shards);
    if let Some(number) = place.shard {
        shards.retain(|shard| shard.number == number);
        if shards.is_empty() {
            return Err(usage(format!("there is no log of shard {number}"), directory, format!("there are: {there}")));
        }
    }
    Ok(shards)
}

/// The only shard that is meant.
pub(crate) fn one(place: &Place) -> Result<Shard, Failure> {
    let mut shards = shards(place)?;
    if shards.len() > 1 {
        let help = format!("choose one with --shard; there are: {}", numbers(&shards));
        return Err(usage("this is for one shard", &place.directory, help));
    }
    Ok(shards.remove(0))
}

fn numbers(shards: &[Shard]) -> String {
    shards.iter().map(|shard| shard.number.to_string()).collect::<Vec<_>>().join(", ")
}

/// The number in `shard-00003`.
fn shard_number(name: &str) -> Option<u16> {
    let digits = name.strip_prefix("shard-")?;
    (digits.len() == 5 && digits.bytes().all(|digit| digit.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The shard in a segment's header, if it holds.
fn number_in(folder: &Path, name: &str) -> Option<u16> {
    segment_of(name)?;
    let mut block = Vec::with_capacity(BLOCK);
    fs::File::open(folder.join(name)).ok()?.take(BLOCK as u64).read_to_end(&mut block).ok()?;
    SegmentHeader::parse(&block).map(|header| header.shard)
}

/// The keys that are given, or those that lie beside the log; none if there are none.
pub(crate) fn keys(key: &Key, place: &Place) -> Result<Vec<Verifier>, Failure> {
    let (path, text) = match &key.key {
        Some(given) if Verifier::parse(given).is_some() => return Ok(Verifier::parse(given).into_iter().collect()),
        Some(given) => {
            let path = PathBuf::from(given);
            let text = fs::read_to_string(&path).map_err(|error| {
                let help = "give the key as name+id+key, or a file with it";
                usage(format!("this is no verifier key, and as a file cannot be read: {error}"), &path, help)
            })?;
            (path, text)
        }
        None => {
            let beside = place.directory.join(KEYS);
            let above = place.directory.join("..").join(KEYS);
            let read = |path: PathBuf| fs::read_to_string(&path).ok().map(|text| (path, text));
            match read(beside).or_else(|| read(above)) {
                Some(found) => found,
                None => return Ok(Vec::new()),
            }
        }
    };
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let keys: Option<Vec<Verifier>> = lines.map(Verifier::parse).collect();
    keys.filter(|keys| !keys.is_empty()).ok_or_else(|| {
        let help = "restore it: a line for each key, name+id+key, as signed notes have them (c2sp.org/signed-note)";
        usage("this is no verifier key", &path, help)
    })
}

/// A file that an argument names; `-` is standard input.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let read = if path == Path::new("-") {
        let mut bytes = Vec::new();
        std::io::stdin().lock().read_to_end(&mut bytes).map(|_| bytes)
    } else {
        fs::read(path)
    };
    read.map_err(|error| usage(format!("cannot read the file: {error}"), path, "name one that this user may read"))
}

/// A signed note that an argument names.
pub(crate) fn note(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read(path)?)
        .map_err(|_| usage("this is no checkpoint: it is no text", path, "give the note as it was printed"))
}
