//! A map with a fixed number of places, for the responder's memory: sorted, searched by halves, allocated once.

use alloc::vec::Vec;

/// A map of at most as many entries as it was made for.
#[derive(Clone, Debug)]
pub(crate) struct Table<K, V> {
    entries: Vec<(K, V)>,
    capacity: usize,
}

impl<K: Copy + Ord, V> Table<K, V> {
    pub(crate) fn new(capacity: usize) -> Self {
        Self { entries: Vec::with_capacity(capacity), capacity }
    }

    pub(crate) const fn is_full(&self) -> bool {
        self.entries.len() >= self.capacity
    }

    pub(crate) const fn len(&self) -> usize {
        self.entries.len()
    }

    pub(crate) fn get(&self, key: &K) -> Option<&V> {
        self.search(key).ok().map(|at| &self.entries[at].1)
    }

    pub(crate) fn get_mut(&mut self, key: &K) -> Option<&mut V> {
        self.search(key).ok().map(|at| &mut self.entries[at].1)
    }

    /// The entry at a place, in order of keys.
    pub(crate) fn at_mut(&mut self, at: usize) -> Option<(K, &mut V)> {
        self.entries.get_mut(at).map(|(key, value)| (*key, value))
    }

    /// Inserts or replaces; does nothing if there is no room.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        match self.search(&key) {
            Ok(at) => self.entries[at].1 = value,
            Err(at) if !self.is_full() => self.entries.insert(at, (key, value)),
            Err(_) => {}
        }
    }

    pub(crate) fn remove(&mut self, key: &K) -> Option<V> {
        self.search(key).ok().map(|at| self.entries.remove(at).1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.entries.iter().map(|(key, value)| (key, value))
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = (&K, &mut V)> {
        self.entries.iter_mut().map(|(key, value)| (&*key, value))
    }

    /// Keeps the entries for which `keep` is true.
    pub(crate) fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.entries.retain(|(key, value)| keep(key, value));
    }

    fn search(&self, key: &K) -> Result<usize, usize> {
        self.entries.binary_search_by(|(other, _)| other.cmp(key))
    }
}
