//! The Merkle tree over all records of a shard, hashed as in RFC 6962: the record with sequence s is leaf s.

use rayon::prelude::*;
use sha2::{Digest, Sha256};
use tachyon_kernels::{Path, sha256};

/// SHA-256.
pub type Hash = [u8; 32];

/// What stands before a leaf when it is hashed (RFC 6962, 2.1).
const LEAF: u8 = 0;

/// Hash of a leaf: of a zero byte and the record's header and body.
#[must_use]
pub fn leaf(record: &[u8]) -> Hash {
    Sha256::new().chain_update([LEAF]).chain_update(record).finalize().into()
}

/// Records that are hashed as one piece of work: four times as many as the widest hash has lanes for.
const GROUP: usize = 64;
/// From this many bytes on the work is shared with other cores, which takes some microseconds to begin: what one core hashes in
/// ten times that.
pub(crate) const TOGETHER_BYTES_MIN: usize = 64 << 10;

/// Hashes of many leaves, in their order.
pub(crate) fn leaves(records: &[&[u8]]) -> Vec<Hash> {
    let mut hashes = vec![[0; 32]; records.len()];
    let path = Path::detect();
    let hash = |(records, hashes): (&[&[u8]], &mut [Hash])| sha256::hashes(path, LEAF, records, hashes);
    if records.iter().map(|record| record.len()).sum::<usize>() < TOGETHER_BYTES_MIN {
        records.chunks(GROUP).zip(hashes.chunks_mut(GROUP)).for_each(hash);
    } else {
        records.par_chunks(GROUP).zip(hashes.par_chunks_mut(GROUP)).for_each(hash);
    }
    hashes
}

/// Hash of a node: of a byte 1 and the hashes of its two children.
#[must_use]
pub fn node(left: &Hash, right: &Hash) -> Hash {
    Sha256::new().chain_update([1]).chain_update(left).chain_update(right).finalize().into()
}

/// Root of the tree without leaves.
#[must_use]
pub fn empty() -> Hash {
    Sha256::digest([]).into()
}

/// The right edge of a growing tree: the hashes of its perfect subtrees, largest first, one per set bit of its size. All
/// that is needed to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Edge {
    size: u64,
    /// By height of the subtree; those whose bit in `size` is clear are stale.
    hashes: [Hash; 64],
}

impl Default for Edge {
    fn default() -> Self {
        Self { size: 0, hashes: [[0; 32]; 64] }
    }
}

impl Edge {
    /// The edge of a tree of this size, from its hashes, largest subtree first. Missing ones are taken as zeros.
    #[must_use]
    pub fn from_parts(size: u64, parts: &[Hash]) -> Self {
        let mut edge = Self { size, ..Self::default() };
        let heights = (0..64).rev().filter(|height| size >> height & 1 == 1);
        for (height, hash) in heights.zip(parts) {
            edge.hashes[height] = *hash;
        }
        edge
    }

    /// Leaves so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Adds the next leaf.
    pub fn push(&mut self, leaf: Hash) {
        let mut hash = leaf;
        let mut height = 0;
        while self.size >> height & 1 == 1 {
            hash = node(&self.hashes[height], &hash);
            height += 1;
        }
        self.hashes[height] = hash;
        self.size += 1;
    }

    /// The hashes, largest subtree first.
    #[must_use]
    pub fn parts(&self) -> Vec<Hash> {
        let heights = (0..64).rev().filter(|height| self.size >> height & 1 == 1);
        heights.map(|height| self.hashes[height]).collect()
    }

    /// The root: the subtrees joined from the smallest to the largest.
    #[must_use]
    pub fn root(&self) -> Hash {
        let mut heights = (0..64).filter(|height| self.size >> height & 1 == 1);
        let Some(lowest) = heights.next() else { return empty() };
        heights.fold(self.hashes[lowest], |hash, height| node(&self.hashes[height], &hash))
    }
}

/// What proofs are made from: leaf hashes from some leaf on, and the right edge of the tree before it.
#[derive(Clone, Debug)]
pub struct Leaves {
    before: Edge,
    leaves: Vec<Hash>,
}

impl Leaves {
    /// Leaves behind a tree of which only the right edge is known.
    #[must_use]
    pub const fn new(before: Edge, leaves: Vec<Hash>) -> Self {
        Self { before, leaves }
    }

    /// Leaves of the whole tree.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.before.size + self.leaves.len() as u64
    }

    /// Hash of the subtree of leaves `from` to `to` − 1, as RFC 6962 splits it; nothing if it needs what is not known.
    fn subtree(&self, from: u64, to: u64) -> Option<Hash> {
        let first = self.before.size;
        if from >= first {
            let at = usize::try_from(from - first).ok()?;
            let count = usize::try_from(to - from).ok()?;
            let mut edge = Edge::default();
            self.leaves.get(at..at.checked_add(count)?)?.iter().for_each(|leaf| edge.push(*leaf));
            return Some(edge.root());
        }
        let size = to - from;
        if to <= first && size.is_power_of_two() {
            // The edge holds it if it is one of the perfect subtrees that `first` consists of.
            let height = size.trailing_zeros();
            let start = first >> height >> 1 << height << 1;
            return (first >> height & 1 == 1 && start == from).then(|| self.before.hashes[height as usize]);
        }
        if size < 2 {
            return None;
        }
        let middle = from + split(size);
        Some(node(&self.subtree(from, middle)?, &self.subtree(middle, to)?))
    }

    /// Root of the tree of the first `size` leaves.
    #[must_use]
    pub fn root(&self, size: u64) -> Option<Hash> {
        match size {
            0 => Some(empty()),
            _ if size > self.size() => None,
            _ if size == self.before.size => Some(self.before.root()),
            _ => self.subtree(0, size),
        }
    }

    /// The audit path of a leaf in the tree of the first `size` leaves, from the leaf up.
    #[must_use]
    pub fn inclusion(&self, leaf: u64, size: u64) -> Option<Vec<Hash>> {
        if leaf >= size || size > self.size() {
            return None;
        }
        let (mut from, mut to, mut path) = (0, size, Vec::new());
        while to - from > 1 {
            let middle = from + split(to - from);
            if leaf < middle {
                path.push(self.subtree(middle, to)?);
                to = middle;
            } else {
                path.push(self.subtree(from, middle)?);
                from = middle;
            }
        }
        path.reverse();
        Some(path)
    }

    /// The proof that the tree of the first `old` leaves is the beginning of that of the first `new` ones.
    #[must_use]
    pub fn consistency(&self, old: u64, new: u64) -> Option<Vec<Hash>> {
        if old > new || new > self.size() {
            return None;
        }
        if old == 0 || old == new {
            return Some(Vec::new());
        }
        let (mut from, mut to, mut proof, mut whole) = (0, new, Vec::new(), true);
        while to != old {
            let middle = from + split(to - from);
            if old <= middle {
                proof.push(self.subtree(middle, to)?);
                to = middle;
            } else {
                proof.push(self.subtree(from, middle)?);
                (from, whole) = (middle, false);
            }
        }
        if !whole {
            proof.push(self.subtree(from, to)?);
        }
        proof.reverse();
        Some(proof)
    }
}

/// The largest power of two below a size of at least 2.
const fn split(size: u64) -> u64 {
    1 << (63 - (size - 1).leading_zeros())
}

/// Whether an audit path leads from a leaf to the root (RFC 9162, 2.1.3.2).
#[must_use]
pub fn verify_inclusion(leaf_hash: &Hash, leaf: u64, size: u64, path: &[Hash], root: &Hash) -> bool {
    if leaf >= size {
        return false;
    }
    let (mut index, mut last, mut hash) = (leaf, size - 1, *leaf_hash);
    for sibling in path {
        if last == 0 {
            return false;
        }
        if index & 1 == 1 || index == last {
            hash = node(sibling, &hash);
            while index & 1 == 0 && index != 0 {
                (index, last) = (index >> 1, last >> 1);
            }
        } else {
            hash = node(&hash, sibling);
        }
        (index, last) = (index >> 1, last >> 1);
    }
    last == 0 && hash == *root
}

/// Whether one tree is the beginning of another (RFC 9162, 2.1.4.2).
#[must_use]
pub fn verify_consistency(old: u64, old_root: &Hash, new: u64, new_root: &Hash, proof: &[Hash]) -> bool {
    if old == 0 || old >= new {
        let same = old == new && old_root == new_root;
        return proof.is_empty() && (same || (old == 0 && *old_root == empty() && old < new));
    }
    let mut path = proof.iter();
    let first = if old.is_power_of_two() { Some(old_root) } else { path.next() };
    let Some(first) = first else { return false };
    let (mut index, mut last) = (old - 1, new - 1);
    while index & 1 == 1 {
        (index, last) = (index >> 1, last >> 1);
    }
    let (mut older, mut newer) = (*first, *first);
    for hash in path {
        if last == 0 {
            return false;
        }
        if index & 1 == 1 || index == last {
            (older, newer) = (node(hash, &older), node(hash, &newer));
            while index & 1 == 0 && index != 0 {
                (index, last) = (index >> 1, last >> 1);
            }
        } else {
            newer = node(&newer, hash);
        }
        (index, last) = (index >> 1, last >> 1);
    }
    last == 0 && older == *old_root && newer == *new_root
}

#[cfg(test)]
mod tests {
    use super::{Edge, Hash, Leaves, empty, leaf, node, split, verify_consistency, verify_inclusion};

    fn leaves(count: u64) -> Vec<Hash> {
        (0..count).map(|index| leaf(&index.to_le_bytes())).collect()
    }

    /// RFC 6962's definition, word for word.
    fn root(leaves: &[Hash]) -> Hash {
        match leaves {
            [] => empty(),
            [one] => *one,
            _ => {
                let (left, right) = leaves.split_at(usize::try_from(split(leaves.len() as u64)).expect("small"));
                node(&root(left), &root(right))
            }
        }
    }

    #[test]
    fn many_leaves_have_the_hashes_that_each_has_alone() {
        let bytes: Vec<u8> = (0..=255).cycle().take(2_000).collect();
        for count in [0, 1, 2, 15, 16, 17, 63, 64, 65, 200] {
            let records: Vec<&[u8]> = (0..count).map(|index| &bytes[index % 7..index * 37 % 1_900 + 8]).collect();
            let alone: Vec<Hash> = records.iter().map(|record| leaf(record)).collect();
            assert_eq!(super::leaves(&records), alone, "{count} records");
        }
    }

    #[test]
    fn the_edge_gives_the_root_of_the_definition_and_is_whole_in_its_parts() {
        let all = leaves(70);
        let mut edge = Edge::default();
        for size in 0..all.len() {
            assert_eq!(edge.root(), root(&all[..size]), "{size} leaves");
            assert_eq!(Edge::from_parts(edge.size(), &edge.parts()).root(), edge.root());
            edge.push(all[size]);
        }
    }

    #[test]
    fn every_proof_holds_also_where_the_first_leaves_are_gone_and_none_with_a_hash_changed() {
        let all = leaves(40);
        for gone in [0, 1, 5, 8, 13, 16, 31] {
            let mut before = Edge::default();
            all[..gone].iter().for_each(|leaf| before.push(*leaf));
            let tree = Leaves::new(before, all[gone..].to_vec());
            for size in gone.max(1)..=all.len() {
                let top = root(&all[..size]);
                assert_eq!(tree.root(size as u64), Some(top), "{gone} gone of {size}");
                for index in gone..size {
                    let path = tree.inclusion(index as u64, size as u64).expect("a path");
                    assert!(verify_inclusion(&all[index], index as u64, size as u64, &path, &top));
                    assert!(!verify_inclusion(&all[(index + 1) % 40], index as u64, size as u64, &path, &top));
                }
                for old in gone..=size {
                    let proof = tree.consistency(old as u64, size as u64).expect("a proof");
                    let old_root = root(&all[..old]);
                    assert!(verify_consistency(old as u64, &old_root, size as u64, &top, &proof), "{old} of {size}");
                    for changed in 0..proof.len() {
                        let mut wrong = proof.clone();
                        wrong[changed][0] ^= 1;
                        assert!(!verify_consistency(old as u64, &old_root, size as u64, &top, &wrong));
                    }
                }
            }
        }
    }
}
