//! The operator's list of denied prefixes, in a file of its own: it may be a million long, and is then written whole in less
//! time than a database would take to find what changed.
//!
//! A damaged file is never taken for a shorter list, because that would let in what somebody shut out: it is refused, and
//! nothing is sent to `tachyond`, which goes on with what it has.

use crate::refusal::Refusal;
use std::{
    collections::BTreeSet,
    fs::{self, File, OpenOptions},
    io::{self, ErrorKind, Write},
    net::Ipv6Addr,
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use tachyon_config::SourcePrefix;
use tachyon_segment::handover::Prefix;
use tracing::{error, info};
use zerocopy::IntoBytes;

/// Most prefixes that are denied at a time, those of the rules included: what a filter's table holds
/// (`PREFILTER_PREFIXES_MAX` of ebpf/prefilter/contract.h).
pub(crate) const DENIED_MAX: usize = 1 << 20;

/// In the folder of the registry.
const FILE: &str = "denied.list";
/// What is written first, and then takes the other's place.
const NEW_FILE: &str = "denied.list.new";
/// The last digit is raised when the layout changes: this, then [`Prefix`] records, then the blake3 hash of both.
const MAGIC: [u8; 8] = *b"TYDENY1\n";
const HASH_BYTES: usize = blake3::OUT_LEN;

/// What a change came to.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// How many are new.
    pub(crate) added: usize,
    /// How many are gone.
    pub(crate) removed: usize,
    /// Were there already.
    pub(crate) already: Vec<Prefix>,
    /// Were not there.
    pub(crate) missing: Vec<Prefix>,
}

/// The list and its file.
#[derive(Debug)]
pub(crate) struct DenyList {
    folder: PathBuf,
    /// The list, or why it cannot be read.
    kept: Result<BTreeSet<Prefix>, String>,
}

impl DenyList {
    /// Reads the list that lies in `folder`; where none was ever written, it is empty.
    #[must_use]
    pub(crate) fn open(folder: &Path) -> Self {
        let path = folder.join(FILE);
        let kept = read(&path).map_err(|problem| {
            let path = path.display();
            format!(
                "the list of denied prefixes, {path}, {problem}; tachyond keeps what it has. Put a copy of it back, or \
                 remove it to begin with an empty list, and restart tachyon-control"
            )
        });
        match &kept {
            Ok(list) if list.is_empty() => {}
            Ok(list) => info!(prefixes = list.len(), "read the list of denied prefixes"),
            Err(problem) => error!("{problem}"),
        }
        Self { folder: folder.to_owned(), kept }
    }

    /// All of it.
    ///
    /// # Errors
    /// It could not be read; the text says what to do.
    pub(crate) fn kept(&self) -> Result<&BTreeSet<Prefix>, Refusal> {
        self.kept.as_ref().map_err(|problem| Refusal::Precondition(problem.clone()))
    }

    /// Why it could not be read, if it could not.
    #[must_use]
    pub(crate) fn problem(&self) -> Option<&str> {
        self.kept.as_ref().err().map(String::as_str)
    }

    /// Whether there is room for it beside those of the rules.
    ///
    /// # Errors
    /// There is not; the text says what to do.
    pub(crate) fn leaves_room(&self, rules: &BTreeSet<Prefix>) -> Result<(), Refusal> {
        self.kept.as_ref().map_or(Ok(()), |kept| room(kept, rules))
    }

    /// Adds and removes, and writes the file if that changed anything. `rules` take part of the room.
    ///
    /// # Errors
    /// One is in both, there is no room, or the file could not be read before or written now; nothing is changed then.
    pub(crate) fn change(
        &mut self,
        add: &BTreeSet<Prefix>,
        remove: &BTreeSet<Prefix>,
        rules: &BTreeSet<Prefix>,
    ) -> Result<Changed, Refusal> {
        if let Some(both) = add.intersection(remove).next() {
            let text = format!("{} is to be added and removed at once; decide for one of them", written(both));
            return Err(Refusal::Invalid(text));
        }
        let mut next = self.kept()?.clone();
        let mut changed = Changed::default();
        for prefix in add {
            if next.insert(*prefix) { changed.added += 1 } else { changed.already.push(*prefix) }
        }
        for prefix in remove {
            if next.remove(prefix) { changed.removed += 1 } else { changed.missing.push(*prefix) }
        }
        if changed.added > 0 {
            room(&next, rules)?;
        }
        if changed.added + changed.removed > 0 {
            write(&self.folder, &next).map_err(|error| {
                let folder = self.folder.display();
                Refusal::Internal(format!("{FILE} in {folder} could not be written: {error}; nothing was changed"))
            })?;
        }
        self.kept = Ok(next);
        Ok(changed)
    }
}

/// As a person writes it.
#[must_use]
pub(crate) fn written(prefix: &Prefix) -> String {
    // Lists are checked when they come in, so every prefix can be written.
    SourcePrefix::new(Ipv6Addr::from(prefix.ip).into(), prefix.bits).map_or_else(String::new, |own| own.to_string())
}

fn room(kept: &BTreeSet<Prefix>, rules: &BTreeSet<Prefix>) -> Result<(), Refusal> {
    let total = kept.len() + rules.difference(kept).count();
    if total <= DENIED_MAX {
        return Ok(());
    }
    let text = format!("{total} prefixes would be denied, at most {DENIED_MAX}; remove some, or write several as one");
    Err(Refusal::Exhausted(text))
}

/// The list in a file, or what is wrong with it.
fn read(path: &Path) -> Result<BTreeSet<Prefix>, String> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(BTreeSet::new()),
        Err(error) => return Err(format!("cannot be read: {error}")),
    };
    let (content, hash) = bytes.split_last_chunk::<HASH_BYTES>().ok_or("is damaged: it is too short")?;
    if blake3::hash(content) != *hash {
        return Err("is damaged: its checksum does not match".to_owned());
    }
    let records = content.strip_prefix(&MAGIC).ok_or("is of another version of tachyon-control")?;
    let list = Prefix::list(records).ok_or("is damaged: it has entries that are no prefixes")?;
    Ok(list.iter().copied().collect())
}

/// Replaces the file so that at any moment the old or the new one is there, whole.
fn write(folder: &Path, list: &BTreeSet<Prefix>) -> io::Result<()> {
    let records: Vec<Prefix> = list.iter().copied().collect();
    let mut bytes = [&MAGIC, records.as_bytes()].concat();
    let hash = blake3::hash(&bytes);
    bytes.extend(hash.as_bytes());
    let new = folder.join(NEW_FILE);
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&new)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    fs::rename(new, folder.join(FILE))?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
#[path = "deny_list_tests.rs"]
mod tests;
