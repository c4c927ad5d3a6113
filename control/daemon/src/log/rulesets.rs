//! The images of the newest rulesets, kept beside the log until it has them: control forgets them when it restarts, and turns
//! that were judged under them may come later.

use super::keys::replace;
use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};
use tracing::warn;

/// How many versions are kept: a worker takes a new one within a turn, so what waits in its ring is of the last few.
const KEPT: usize = 4;

/// An image.
#[derive(Clone, Debug)]
pub(crate) struct Ruleset {
    /// Its bytes.
    pub(crate) bytes: Arc<[u8]>,
    /// BLAKE3 of them.
    pub(crate) hash: [u8; 32],
}

/// The newest images, by version.
#[derive(Debug, Default)]
pub(crate) struct Rulesets {
    newest: BTreeMap<u64, Ruleset>,
}

impl Rulesets {
    /// Reads the images that were kept.
    pub(crate) fn open(directory: &Path) -> Self {
        let mut rulesets = Self::default();
        for (version, path) in kept(directory) {
            match fs::read(&path) {
                Ok(bytes) => rulesets.add(version, bytes.into()),
                Err(error) => warn!("cannot read the ruleset {}: {error}", path.display()),
            }
        }
        rulesets
    }

    /// Adds an image; the oldest goes.
    pub(crate) fn add(&mut self, version: u64, bytes: Arc<[u8]>) {
        let hash = *blake3::hash(&bytes).as_bytes();
        self.newest.insert(version, Ruleset { bytes, hash });
        while self.newest.len() > KEPT {
            self.newest.pop_first();
        }
    }

    /// The image of a version.
    pub(crate) fn get(&self, version: u64) -> Option<&Ruleset> {
        self.newest.get(&version)
    }
}

/// Keeps an image on the disk, in place of the oldest one.
///
/// # Errors
/// What the disk said.
pub(crate) fn keep(directory: &Path, version: u64, bytes: &[u8]) -> io::Result<()> {
    let folder = folder(directory);
    replace(&folder.join(format!("{version:020}.image")), bytes, 0o640)?;
    let mut versions = kept(directory);
    versions.sort_unstable();
    let old = versions.len().saturating_sub(KEPT);
    versions.into_iter().take(old).try_for_each(|(_, path)| fs::remove_file(path))
}

fn folder(directory: &Path) -> PathBuf {
    directory.join("rulesets")
}

fn kept(directory: &Path) -> Vec<(u64, PathBuf)> {
    let entries = fs::read_dir(folder(directory)).into_iter().flatten().flatten();
    let version = |path: &Path| {
        let digits = path.extension().filter(|extension| *extension == "image").and(path.file_stem())?;
        digits.to_str()?.parse().ok()
    };
    entries.map(|entry| entry.path()).filter_map(|path| Some((version(&path)?, path))).collect()
}
