//! A hash table of fixed capacity: from where a message goes, or a queue pair's number, to a small index.

use tachyon_wire::Endpoint;

/// What can be looked up.
pub(crate) trait Key: Copy + PartialEq {
    /// Any number that differs where keys differ, mostly.
    fn hash(&self) -> u64;
}

/// 2^64 divided by the golden ratio, for Fibonacci hashing: neighbouring addresses spread over the whole table.
const GOLDEN: u64 = 0x9e37_79b9_7f4a_7c15;

impl Key for Endpoint {
    #[inline]
    fn hash(&self) -> u64 {
        let [a, b] = [0, 8].map(|at| u64::from_le_bytes(self.ip[at..at + 8].try_into().unwrap_or_default()));
        (a ^ b.rotate_left(23) ^ u64::from(self.port.get()).rotate_left(47)).wrapping_mul(GOLDEN)
    }
}

impl Key for u32 {
    #[inline]
    fn hash(&self) -> u64 {
        u64::from(*self).wrapping_mul(GOLDEN)
    }
}

/// Open addressing with linear probing, at most half full, so that a probe is nearly always one.
#[derive(Debug)]
pub(crate) struct Table<K> {
    places: Vec<Option<(K, u16)>>,
    used: usize,
}

impl<K: Key> Table<K> {
    /// For this many keys.
    pub(crate) fn new(keys: usize) -> Self {
        Self { places: vec![None; (keys.max(1) * 2).next_power_of_two()], used: 0 }
    }

    #[inline]
    fn start(&self, key: &K) -> usize {
        // The high bits are the mixed ones; a table is far smaller than 2^32 places.
        (key.hash() >> 32) as usize & (self.places.len() - 1)
    }

    /// The place of a key, or the free one where it would go.
    #[inline]
    fn find(&self, key: &K) -> usize {
        let mut at = self.start(key);
        while self.places[at].is_some_and(|(there, _)| there != *key) {
            at = (at + 1) & (self.places.len() - 1);
        }
        at
    }

    #[inline]
    pub(crate) fn get(&self, key: &K) -> Option<u16> {
        self.places[self.find(key)].map(|(_, index)| index)
    }

    /// Sets a key; false if there are as many as it was made for.
    pub(crate) fn set(&mut self, key: K, index: u16) -> bool {
        let at = self.find(&key);
        if self.places[at].is_none() {
            if self.used * 2 >= self.places.len() {
                return false;
            }
            self.used += 1;
        }
        self.places[at] = Some((key, index));
        true
    }

    /// Removes a key, and closes the gap so that no probe ends early.
    pub(crate) fn remove(&mut self, key: &K) {
        let mut gap = self.find(key);
        if self.places[gap].take().is_none() {
            return;
        }
        self.used -= 1;
        let mask = self.places.len() - 1;
        let mut at = gap;
        loop {
            at = (at + 1) & mask;
            let Some((key, _)) = self.places[at] else { return };
            let home = self.start(&key);
            // It may move to the gap if the gap lies between its home and where it is.
            if (at.wrapping_sub(home) & mask) >= (at.wrapping_sub(gap) & mask) {
                self.places[gap] = self.places[at].take();
                gap = at;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;

    #[test]
    fn agrees_with_a_map_while_keys_come_and_go() {
        let mut table = Table::new(64);
        let mut model = BTreeMap::new();
        let mut state = 7_u64;
        for _ in 0..50_000 {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            // Few keys, a multiple of a large power of two apart, so that they collide.
            let key = ((state >> 33) % 100) as u32 * 0x0100_0000;
            if state >> 62 == 0 {
                table.remove(&key);
                model.remove(&key);
            } else if model.len() < 64 || model.contains_key(&key) {
                assert!(table.set(key, (state >> 40) as u16));
                model.insert(key, (state >> 40) as u16);
            }
            let asked = ((state >> 20) % 100) as u32 * 0x0100_0000;
            assert_eq!(table.get(&asked), model.get(&asked).copied());
        }
        for key in model.keys() {
            assert!(table.get(key).is_some());
        }
    }

    #[test]
    fn endpoints_differ_by_port_and_address() {
        let mut table = Table::new(4);
        let keys = [Endpoint::v4([10, 0, 0, 1], 1), Endpoint::v4([10, 0, 0, 1], 2), Endpoint::v6([1; 16], 1)];
        for (index, key) in (0..).zip(keys) {
            assert!(table.set(key, index));
        }
        assert_eq!(keys.map(|key| table.get(&key)), [Some(0), Some(1), Some(2)]);
        assert_eq!(table.get(&Endpoint::NONE), None);
    }
}
