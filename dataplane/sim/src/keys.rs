//! The keys of sessions, by the names that the log has for them.

use anyhow::Context;
use std::{collections::HashMap, fs, path::Path};
use tachyon_log::record::key_name;

/// Keys by name. Whoever has none gets the name in its place: 32 bytes that fit everywhere, and verify nothing.
#[derive(Clone, Default)]
pub struct Keys {
    keys: HashMap<[u8; 32], [u8; 32]>,
    names: HashMap<[u8; 32], [u8; 32]>,
}

impl core::fmt::Debug for Keys {
    /// Never prints a key.
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        write!(f, "Keys({})", self.keys.len())
    }
}

impl Keys {
    /// No keys but the one of zeros, which sessions without tags have.
    #[must_use]
    pub fn new() -> Self {
        let mut keys = Self::default();
        keys.add([0; 32]);
        keys
    }

    /// Reads a file of lines, each a name and its key in 64 hexadecimal digits. Other lines are passed over: a crash may have cut
    /// one short.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("cannot read the keys in {}", path.display()))?;
        let mut keys = Self::new();
        for key in text.lines().filter_map(|line| digits(line.split_once(' ')?.1)) {
            keys.add(key);
        }
        Ok(keys)
    }

    /// Adds a key.
    pub fn add(&mut self, key: [u8; 32]) {
        let name = key_name(&key);
        self.keys.insert(name, key);
        self.names.insert(key, name);
    }

    /// The key of this name and true, or the name itself and false.
    #[must_use]
    pub fn resolve(&self, name: &[u8; 32]) -> ([u8; 32], bool) {
        self.keys.get(name).map_or((*name, false), |key| (*key, true))
    }

    /// The name of a key that [`Keys::resolve`] gave.
    #[must_use]
    pub fn name(&self, key: &[u8; 32]) -> [u8; 32] {
        self.names.get(key).copied().unwrap_or(*key)
    }
}

fn digits(text: &str) -> Option<[u8; 32]> {
    let mut key = [0; 32];
    if text.len() != 64 || !text.bytes().all(|digit| digit.is_ascii_hexdigit()) {
        return None;
    }
    for (byte, place) in key.iter_mut().zip((0..64).step_by(2)) {
        *byte = u8::from_str_radix(text.get(place..place + 2)?, 16).ok()?;
    }
    Some(key)
}
