//! The bytes on disk: segment headers, commits and record headers, made and checked without touching a file. `FORMAT.md`
//! says the same in prose, for writers of readers.

use crate::{
    damage::Part,
    tree::{self, Hash},
};
use tachyon_wire::crc;

/// What is written is a whole number of these: the largest logical block of common disks, and what `O_DIRECT` asks for.
pub const BLOCK: usize = 4_096;
/// What a disk writes whole or not at all.
pub const SECTOR: usize = 512;
/// Bytes of a commit before its first record.
pub const COMMIT_HEADER: usize = 160;
/// Bytes of a record before its body.
pub const RECORD_HEADER: usize = 32;
/// Records start at multiples of this, counted from the start of their commit.
pub const RECORD_ALIGN: usize = 8;
/// Commit flag: an fsync was asked for.
pub const DURABLE: u8 = 1 << 0;
/// Commit flag: the last commit of its segment; the next segment exists.
pub const SEGMENT_END: u8 = 1 << 1;
/// Fills a commit behind its records. Not zero, so that a sector that was never written can be told from one that was.
pub const PADDING: u8 = 0xa5;

const COMMIT_MAGIC: [u8; 4] = *b"TLC1";
const SEGMENT_MAGIC: [u8; 8] = *b"TLOGSEG1";
const VERSION: u8 = 1;
/// Where a commit's header keeps its own hash and its crc, both taken as zero by the hash.
const HASH_AT: usize = 104;
const CRC_AT: usize = 156;
/// Where a segment's header keeps the right edge of the tree, and the hash of all that is before it.
const EDGE_AT: usize = 128;
const EDGE_MAX: usize = 64;
const SEGMENT_HASH_AT: usize = BLOCK - 32;

fn u32_at(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|field| field.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(bytes: &[u8], at: usize) -> u64 {
    bytes.get(at..at + 8).and_then(|field| field.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn array_at<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    bytes.get(at..at + N).and_then(|field| field.try_into().ok()).unwrap_or([0; N])
}

/// Rounds up to a multiple of `unit`.
#[must_use]
pub const fn round_up(bytes: usize, unit: usize) -> usize {
    bytes.div_ceil(unit) * unit
}

/// Bytes that a record with a body of this length takes in a commit.
#[must_use]
pub const fn record_bytes(body: usize) -> usize {
    round_up(RECORD_HEADER + body, RECORD_ALIGN)
}

/// The name of the segment whose first record has this sequence.
#[must_use]
pub fn segment_name(first_sequence: u64) -> String {
    format!("segment-{first_sequence:020}.log")
}

/// The name of the file with the leaf hashes of the segment that starts with this sequence.
#[must_use]
pub fn leaves_name(first_sequence: u64) -> String {
    format!("leaves-{first_sequence:020}.sha256")
}

/// The first sequence in a segment's name; nothing if the file is no segment.
#[must_use]
pub fn segment_of(name: &str) -> Option<u64> {
    numbered(name, "segment-", ".log")
}

/// The first sequence in the name of a file of leaf hashes.
#[must_use]
pub fn leaves_of(name: &str) -> Option<u64> {
    numbered(name, "leaves-", ".sha256")
}

fn numbered(name: &str, before: &str, behind: &str) -> Option<u64> {
    let digits = name.strip_prefix(before)?.strip_suffix(behind)?;
    (digits.len() == 20 && digits.bytes().all(|digit| digit.is_ascii_digit())).then(|| digits.parse().ok())?
}

/// The first block of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentHeader {
    /// The shard.
    pub shard: u16,
    /// Drawn at random when the log was made; every commit carries it.
    pub log_id: [u8; 16],
    /// Sequence of the first record.
    pub first_sequence: u64,
    /// Number of the first commit.
    pub first_commit: u64,
    /// Length of the file.
    pub segment_bytes: u64,
    /// Tick of its making.
    pub tick: u64,
    /// Hash of the commit before; zero in a log's first segment.
    pub previous: [u8; 32],
    /// Root of the tree of all records before.
    pub root: Hash,
    /// The hashes of the perfect subtrees of that tree, largest first: one per set bit of `first_sequence`.
    pub edge: Vec<Hash>,
}

impl SegmentHeader {
    /// The block as written.
    #[must_use]
    pub fn to_block(&self) -> [u8; BLOCK] {
        let mut block = [0; BLOCK];
        block[..8].copy_from_slice(&SEGMENT_MAGIC);
        block[8..10].copy_from_slice(&u16::from(VERSION).to_le_bytes());
        block[10..12].copy_from_slice(&self.shard.to_le_bytes());
        block[16..32].copy_from_slice(&self.log_id);
        block[32..40].copy_from_slice(&self.first_sequence.to_le_bytes());
        block[40..48].copy_from_slice(&self.first_commit.to_le_bytes());
        block[48..56].copy_from_slice(&self.segment_bytes.to_le_bytes());
        block[56..64].copy_from_slice(&self.tick.to_le_bytes());
        block[64..96].copy_from_slice(&self.previous);
        block[96..128].copy_from_slice(&self.root);
        for (hash, place) in self.edge.iter().zip(block[EDGE_AT..].chunks_exact_mut(32)) {
            place.copy_from_slice(hash);
        }
        let hash = *blake3::hash(&block[..SEGMENT_HASH_AT]).as_bytes();
        block[SEGMENT_HASH_AT..].copy_from_slice(&hash);
        block
    }

    /// What a block says; nothing if a single bit of it is wrong.
    #[must_use]
    pub fn parse(block: &[u8]) -> Option<Self> {
        let (content, hash) = block.get(..BLOCK)?.split_at(SEGMENT_HASH_AT);
        if *blake3::hash(content).as_bytes() != *hash || content[..8] != SEGMENT_MAGIC || content[8] != VERSION {
            return None;
        }
        let first_sequence = u64_at(content, 32);
        let count = (first_sequence.count_ones() as usize).min(EDGE_MAX);
        let edge = content[EDGE_AT..].chunks_exact(32).take(count).map(|hash| array_at(hash, 0)).collect();
        let header = Self {
            shard: u16::from_le_bytes([content[10], content[11]]),
            log_id: array_at(content, 16),
            first_sequence,
            first_commit: u64_at(content, 40),
            segment_bytes: u64_at(content, 48),
            tick: u64_at(content, 56),
            previous: array_at(content, 64),
            root: array_at(content, 96),
            edge,
        };
        // There is one block for each header: what is zero must be zero, and the edge must give the root.
        let sound = header.to_block() == block[..BLOCK]
            && tree::Edge::from_parts(first_sequence, &header.edge).root() == header.root;
        sound.then_some(header)
    }
}

/// What a commit says about itself, in front of its records.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CommitHeader {
    /// [`DURABLE`], [`SEGMENT_END`].
    pub flags: u8,
    /// The shard.
    pub shard: u16,
    /// Its number, from 0, without gaps over all segments.
    pub number: u64,
    /// Sequence of its first record; of the next one if it has none.
    pub first_sequence: u64,
    /// Records in it.
    pub records: u32,
    /// Its length in bytes: whole blocks.
    pub bytes: u32,
    /// The part of it that is records.
    pub record_bytes: u32,
    /// All commits below this number were known to be durable when it was made.
    pub durable_commits: u64,
    /// The tick at which it was closed.
    pub tick: u64,
    /// The log.
    pub log_id: [u8; 16],
    /// Hash of the commit before.
    pub previous: [u8; 32],
    /// BLAKE3 of the whole commit with this field and the header's crc as zeros.
    pub hash: [u8; 32],
}

impl CommitHeader {
    /// Reads a header whose crc is right.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let header = bytes.get(..COMMIT_HEADER)?;
        let known = header[..4] == COMMIT_MAGIC && header[4] == VERSION && header[5] & !(DURABLE | SEGMENT_END) == 0;
        let zeros = u32_at(header, 36) == 0 && header[136..CRC_AT].iter().all(|byte| *byte == 0);
        if !known || !zeros || crc::of(&header[..CRC_AT]) != u32_at(header, CRC_AT) {
            return None;
        }
        let this = Self {
            flags: header[5],
            shard: u16::from_le_bytes([header[6], header[7]]),
            number: u64_at(header, 8),
            first_sequence: u64_at(header, 16),
            records: u32_at(header, 24),
            bytes: u32_at(header, 28),
            record_bytes: u32_at(header, 32),
            durable_commits: u64_at(header, 40),
            tick: u64_at(header, 48),
            log_id: array_at(header, 56),
            previous: array_at(header, 72),
            hash: array_at(header, HASH_AT),
        };
        let length = round_up(COMMIT_HEADER + this.record_bytes as usize, BLOCK);
        (length == this.bytes as usize).then_some(this)
    }

    /// Finishes a commit in place: pads it, writes the header and hashes the whole. `commit` is what the header's `bytes`
    /// says. Returns the hash.
    pub fn seal(&self, commit: &mut [u8]) -> [u8; 32] {
        self.write(commit);
        let hash = *blake3::hash(commit).as_bytes();
        Self::write_hash(commit, &hash);
        hash
    }

    /// As [`Self::seal`], with the hash of each leaf from byte `from` on, in order. In a large commit all of these are computed at
    /// the same time: they are most of what writing a log costs.
    pub(crate) fn seal_with_leaves(&self, commit: &mut [u8], from: usize) -> (Hash, Vec<Hash>) {
        self.write(commit);
        let commit_hash = || *blake3::hash(commit).as_bytes();
        let leaf_hashes = || tree::leaves(&leaves(&commit[from..records_end(self)]));
        let (hash, leaf_hashes) = if commit.len() < tree::TOGETHER_BYTES_MIN {
            (commit_hash(), leaf_hashes())
        } else {
            rayon::join(commit_hash, leaf_hashes)
        };
        Self::write_hash(commit, &hash);
        (hash, leaf_hashes)
    }

    /// Pads a commit and writes its header, but for its hash.
    fn write(&self, commit: &mut [u8]) {
        commit[COMMIT_HEADER + self.record_bytes as usize..].fill(PADDING);
        let header = &mut commit[..COMMIT_HEADER];
        header.fill(0);
        header[..4].copy_from_slice(&COMMIT_MAGIC);
        header[4] = VERSION;
        header[5] = self.flags;
        header[6..8].copy_from_slice(&self.shard.to_le_bytes());
        header[8..16].copy_from_slice(&self.number.to_le_bytes());
        header[16..24].copy_from_slice(&self.first_sequence.to_le_bytes());
        header[24..28].copy_from_slice(&self.records.to_le_bytes());
        header[28..32].copy_from_slice(&self.bytes.to_le_bytes());
        header[32..36].copy_from_slice(&self.record_bytes.to_le_bytes());
        header[40..48].copy_from_slice(&self.durable_commits.to_le_bytes());
        header[48..56].copy_from_slice(&self.tick.to_le_bytes());
        header[56..72].copy_from_slice(&self.log_id);
        header[72..HASH_AT].copy_from_slice(&self.previous);
    }

    fn write_hash(commit: &mut [u8], hash: &[u8; 32]) {
        commit[HASH_AT..HASH_AT + 32].copy_from_slice(hash);
        let crc32c = crc::of(&commit[..CRC_AT]);
        commit[CRC_AT..COMMIT_HEADER].copy_from_slice(&crc32c.to_le_bytes());
    }
}

/// The hash that a commit should carry.
fn commit_hash(commit: &[u8]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&commit[..HASH_AT]).update(&[0; 32]).update(&commit[HASH_AT + 32..CRC_AT]);
    hasher.update(&[0; 4]).update(&commit[COMMIT_HEADER..]);
    *hasher.finalize().as_bytes()
}

/// Checks a commit against its own hash; its place in the chain is the caller's to check. On failure says which part of it
/// is damaged: the first record whose bytes do not hold, else the padding, else the header.
///
/// # Errors
///
/// The part that is damaged.
pub fn verify_commit(commit: &[u8]) -> Result<CommitHeader, Part> {
    let Some(header) = CommitHeader::parse(commit) else { return Err(Part::Header) };
    let Some(commit) = commit.get(..header.bytes as usize) else { return Err(Part::Missing) };
    let hashed = commit_hash(commit) == header.hash;
    let walked = walk(&header, commit);
    match (hashed, walked) {
        (_, Err(part)) => Err(part),
        (true, Ok(())) => Ok(header),
        (false, Ok(())) if commit[records_end(&header)..].iter().any(|byte| *byte != PADDING) => Err(Part::Padding),
        (false, Ok(())) => Err(Part::Header),
    }
}

fn records_end(header: &CommitHeader) -> usize {
    COMMIT_HEADER + header.record_bytes as usize
}

/// Checks that the records of a commit fill it exactly, each with its own sequence and right crcs.
fn walk(header: &CommitHeader, commit: &[u8]) -> Result<(), Part> {
    let mut at = COMMIT_HEADER;
    let end = records_end(header);
    for index in 0..u64::from(header.records) {
        let sequence = header.first_sequence + index;
        let record = RawRecord::parse(&commit[at..end]).filter(|record| record.sequence == sequence);
        let Some(record) = record else { return Err(Part::Record(sequence)) };
        at += record_bytes(record.body.len());
    }
    if at == end { Ok(()) } else { Err(Part::Header) }
}

/// A record as it lies in a commit, with right crcs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RawRecord<'a> {
    /// Its number in the shard: the index of its leaf.
    pub sequence: u64,
    /// Tick at which it was appended, in nanoseconds of the node's clock.
    pub tick: u64,
    /// Its kind's number.
    pub kind: u8,
    /// What it says.
    pub body: &'a [u8],
    /// Header and body: what is hashed into the tree.
    pub leaf: &'a [u8],
}

impl<'a> RawRecord<'a> {
    /// The record that starts here, if every bit of it holds.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        let header = bytes.get(..RECORD_HEADER)?;
        let length = u32_at(header, 0) as usize;
        if crc::of(&header[..28]) != u32_at(header, 28) || header[5..8] != [0; 3] {
            return None;
        }
        let whole = bytes.get(..record_bytes(length))?;
        let (leaf, padding) = whole.split_at(RECORD_HEADER + length);
        let body = &leaf[RECORD_HEADER..];
        let sound = crc::of(body) == u32_at(header, 24) && padding.iter().all(|byte| *byte == 0);
        let (sequence, tick, kind) = (u64_at(header, 8), u64_at(header, 16), header[4]);
        sound.then_some(Self { sequence, tick, kind, body, leaf })
    }
}

/// Writes the header of a record whose body stands behind it, and the zeros after that. `place` is the whole of the record.
pub(crate) fn seal_record(place: &mut [u8], body_bytes: usize, kind: u8, sequence: u64, tick: u64) {
    let (header, rest) = place.split_at_mut(RECORD_HEADER);
    rest[body_bytes..].fill(0);
    header.fill(0);
    header[..4].copy_from_slice(&u32::try_from(body_bytes).unwrap_or(u32::MAX).to_le_bytes());
    header[4] = kind;
    header[8..16].copy_from_slice(&sequence.to_le_bytes());
    header[16..24].copy_from_slice(&tick.to_le_bytes());
    header[24..28].copy_from_slice(&crc::of(&rest[..body_bytes]).to_le_bytes());
    let crc32c = crc::of(&header[..28]);
    header[28..].copy_from_slice(&crc32c.to_le_bytes());
}

/// Header and body of each record that was just sealed here, one behind the other.
pub(crate) fn leaves(mut records: &[u8]) -> Vec<&[u8]> {
    let mut leaves = Vec::new();
    while records.len() >= RECORD_HEADER {
        let body = u32_at(records, 0) as usize;
        leaves.push(records.get(..RECORD_HEADER + body).unwrap_or_default());
        records = records.get(record_bytes(body)..).unwrap_or_default();
    }
    leaves
}

/// The records of a verified commit, in order.
#[derive(Clone, Debug)]
pub struct Records<'a> {
    rest: &'a [u8],
}

impl<'a> Records<'a> {
    /// Of a commit that [`verify_commit`] let pass.
    #[must_use]
    pub fn of(header: &CommitHeader, commit: &'a [u8]) -> Self {
        Self { rest: commit.get(COMMIT_HEADER..records_end(header)).unwrap_or_default() }
    }
}

impl<'a> Iterator for Records<'a> {
    type Item = RawRecord<'a>;

    fn next(&mut self) -> Option<RawRecord<'a>> {
        let record = RawRecord::parse(self.rest)?;
        self.rest = self.rest.get(record_bytes(record.body.len())..).unwrap_or_default();
        Some(record)
    }
}

/// What the bytes at the place of the next commit are, where they are no whole commit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tail {
    /// Nothing was ever written here.
    Empty,
    /// A write that did not reach the disk whole: a sector is still as it was before.
    Torn,
    /// It was written whole and changed later.
    Damaged,
}

/// Tells a torn write from damage. The ground is zero before a commit is written, a sector is written whole or not at all,
/// and hardly a sector of a commit is zero: so where no sector is missing, the write was whole.
#[must_use]
pub fn classify(commit: &[u8]) -> Tail {
    let is_zero = |sector: &[u8]| sector.iter().all(|byte| *byte == 0);
    if commit.chunks(SECTOR).all(is_zero) {
        return Tail::Empty;
    }
    if commit.get(..SECTOR).is_none_or(is_zero) {
        return Tail::Torn;
    }
    let Some(header) = CommitHeader::parse(commit) else { return Tail::Damaged };
    match commit.get(..header.bytes as usize) {
        Some(whole) if !whole.chunks(SECTOR).any(is_zero) => Tail::Damaged,
        Some(_) => Tail::Torn,
        None => Tail::Damaged,
    }
}
