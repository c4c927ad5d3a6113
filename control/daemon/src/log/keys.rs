//! Two files of keys beside the log: the one that checkpoints are signed with, and those of sessions, which only a replay that
//! checks tags needs.

use anyhow::Context;
use std::{
    collections::HashSet,
    fmt::Write as _,
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};
use tachyon_log::{Signer, record::key_name};

/// What a file with a signing key begins with.
const SIGNING_MAGIC: &str = "tachyon 1 log signing key";

/// The name and seed that checkpoints of all shards are signed with. Each shard signs under a name of its own, because a name
/// is the identity of one log, and two shards have different records of the same number.
pub(crate) struct SigningKey {
    origin: String,
    seed: [u8; 32],
}

impl SigningKey {
    /// Reads the key, or makes it, readable by its owner alone. `origin` names a new one.
    ///
    /// # Errors
    /// The file cannot be read or made, or is no signing key, or it has another origin than the one that is asked for.
    pub(crate) fn open(path: &Path, origin: Option<&str>) -> anyhow::Result<Self> {
        let key = match fs::read_to_string(path) {
            Ok(text) => Self::parse(&text).with_context(|| {
                format!(
                    "{} holds no signing key; restore it from a copy, or move it away to begin anew",
                    path.display()
                )
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Self::make(path, origin)?,
            Err(error) => {
                return Err(error).with_context(|| format!("cannot read the log's signing key {}", path.display()));
            }
        };
        anyhow::ensure!(
            origin.is_none_or(|origin| origin == key.origin),
            "the log's signing key {} is of `{}`; remove `origin` from the control file, or move the key away",
            path.display(),
            key.origin
        );
        Ok(key)
    }

    fn parse(text: &str) -> Option<Self> {
        let mut lines = text.lines();
        let (magic, origin, seed) = (lines.next()?, lines.next()?, lines.next()?);
        let seed = bytes_of(seed)?;
        Signer::new(origin, &seed)?;
        (magic == SIGNING_MAGIC).then(|| Self { origin: origin.to_owned(), seed })
    }

    fn make(path: &Path, origin: Option<&str>) -> anyhow::Result<Self> {
        let mut seed = [0; 32];
        getrandom::fill(&mut seed).context("no randomness for the log's signing key")?;
        let key = Self { origin: origin.map_or_else(host_origin, str::to_owned), seed };
        anyhow::ensure!(Signer::new(&key.origin, &seed).is_some(), "`{}` cannot be the origin of a log", key.origin);
        let text = format!("{SIGNING_MAGIC}\n{}\n{}\n", key.origin, hexadecimal(&seed));
        let made = replace(path, text.as_bytes(), 0o600);
        made.with_context(|| format!("cannot make the log's signing key {}", path.display()))?;
        Ok(key)
    }

    /// What signs a shard's checkpoints. `folder` is the name of the shard's folder.
    pub(crate) fn signer(&self, folder: &str) -> Signer {
        let name = format!("{}/{folder}", self.origin);
        Signer::new(&name, &self.seed).expect("an origin that was checked when the key was read")
    }
}

/// The host's name and the program's, with whatever a key's name may not have left out.
fn host_origin() -> String {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host: String = host.chars().filter(|char| char.is_ascii_graphic() && *char != '+').collect();
    format!("{}/tachyon", if host.is_empty() { "localhost" } else { &host })
}

/// The keys of sessions, by the names that the log has for them.
pub(crate) struct KeyFile {
    file: File,
    path: PathBuf,
    known: HashSet<[u8; 32]>,
    /// Lines that are not in the file yet.
    waiting: String,
}

impl KeyFile {
    /// Opens the file, or makes it, readable by its owner alone.
    ///
    /// # Errors
    /// It cannot be read or made.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        let opened = OpenOptions::new().read(true).append(true).create(true).mode(0o600).open(path);
        let mut file = opened.with_context(|| format!("cannot open the log's file of keys {}", path.display()))?;
        let mut text = String::new();
        file.read_to_string(&mut text).with_context(|| format!("cannot read the log's keys {}", path.display()))?;
        let names =
            text.lines().filter_map(|line| bytes_of(line.split_once(' ').filter(|(_, key)| key.len() == 64)?.0));
        let known = names.collect();
        // A line that a crash cut short is ended, so that it spoils no other.
        let waiting = if text.is_empty() || text.ends_with('\n') { String::new() } else { "\n".to_owned() };
        Ok(Self { file, path: path.to_owned(), known, waiting })
    }

    /// Notes a key; it is in the file after [`KeyFile::flush`].
    pub(crate) fn add(&mut self, key: &[u8; 32]) {
        let name = key_name(key);
        if *key != [0; 32] && self.known.insert(name) {
            self.waiting.push_str(&format!("{} {}\n", hexadecimal(&name), hexadecimal(key)));
        }
    }

    /// Brings what was added to the disk. What could not be written is tried again with the next call.
    ///
    /// # Errors
    /// What the disk said, and what it means.
    pub(crate) fn flush(&mut self) -> Result<(), String> {
        if self.waiting.is_empty() {
            return Ok(());
        }
        let length = self.file.metadata().map(|metadata| metadata.len());
        let written = self.file.write_all(self.waiting.as_bytes()).and_then(|()| self.file.sync_data());
        match written {
            Ok(()) => {
                self.waiting.clear();
                Ok(())
            }
            Err(error) => {
                // Half a line would spoil the next one.
                let _ = length.and_then(|length| self.file.set_len(length));
                Err(format!(
                    "cannot keep keys in {}: {error}; tags of new sessions cannot be replayed",
                    self.path.display()
                ))
            }
        }
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string never fails.
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn bytes_of(text: &str) -> Option<[u8; 32]> {
    let mut bytes = [0; 32];
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    for (byte, place) in bytes.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(place..place + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// Puts a file in the place of another, so that there is always one of the two, whole and on the disk.
///
/// # Errors
/// What the disk said.
pub(crate) fn replace(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let folder = path.parent().unwrap_or(Path::new("."));
    fs::create_dir_all(folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let temporary = folder.join(format!("{name}.tmp"));
    match fs::remove_file(&temporary) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::{KeyFile, SigningKey, hexadecimal};
    use std::{fs, os::unix::fs::PermissionsExt};
    use tachyon_log::record::key_name;

    #[test]
    fn a_signing_key_is_made_once_and_is_its_owners_alone() {
        let folder = crate::log::tests::Folder::new("signing");
        let path = folder.0.join("log.key");
        let first = SigningKey::open(&path, Some("node.example/tachyon")).expect("made");
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        let again = SigningKey::open(&path, None).expect("read");
        let verifier = |key: &SigningKey, name| key.signer(name).verifier().to_string();
        assert_eq!(verifier(&first, "shard-00001"), verifier(&again, "shard-00001"));
        assert_ne!(verifier(&first, "shard-00001"), verifier(&first, "shard-00002"));
        assert!(verifier(&first, "shard-00001").starts_with("node.example/tachyon/shard-00001+"));
        let Err(error) = SigningKey::open(&path, Some("other.example")) else { panic!("another origin is taken") };
        assert!(error.to_string().contains("is of `node.example/tachyon`"), "{error}");
        fs::write(&path, "something else").expect("written");
        assert!(SigningKey::open(&path, None).is_err());
    }

    #[test]
    fn keys_are_kept_once_each_over_restarts_and_torn_lines() {
        let folder = crate::log::tests::Folder::new("keys");
        let path = folder.0.join("keys");
        let mut keys = KeyFile::open(&path).expect("made");
        keys.add(&[7; 32]);
        keys.add(&[7; 32]);
        keys.add(&[0; 32]);
        keys.flush().expect("written");
        let line = format!("{} {}\n", hexadecimal(&key_name(&[7; 32])), hexadecimal(&[7; 32]));
        assert_eq!(fs::read_to_string(&path).expect("there"), line);
        assert_eq!(fs::metadata(&path).expect("there").permissions().mode() & 0o777, 0o600);
        // A crash in the middle of a line.
        fs::write(&path, format!("{line}{}", &line[..80])).expect("written");
        let mut keys = KeyFile::open(&path).expect("read");
        keys.add(&[7; 32]);
        keys.add(&[8; 32]);
        keys.flush().expect("written");
        let text = fs::read_to_string(&path).expect("there");
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!((lines.len(), lines[0]), (3, line.trim_end()));
        assert!(lines[2].ends_with(&hexadecimal(&[8; 32])), "{text}");
    }
}
