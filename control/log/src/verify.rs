//! Judging a whole log, in one go or in slices: chain, tree, checkpoints, tombstones; and the tree that proofs are made from.

use crate::{
    cursor::{Commit, Cursor, Item},
    damage::{Damage, Error, Fault},
    format::{SegmentHeader, leaves_name, leaves_of, segment_name, segment_of},
    note::{Checkpoint, Verifier},
    record::{Record, Tombstone},
    storage::Files,
    tree::{self, Edge, Hash, Leaves},
};

/// What was found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Segments read.
    pub segments: u64,
    /// Commits that hold.
    pub commits: u64,
    /// Records in them.
    pub records: u64,
    /// The first sequence that is there.
    pub first_sequence: u64,
    /// The sequence behind the last record that holds.
    pub next_sequence: u64,
    /// Below this sequence nothing is wrong with what is there: where the first grave finding lies, else `next_sequence`.
    pub sound_sequence: u64,
    /// The log's random number and its shard, as the first segment that holds says them.
    pub identity: Option<([u8; 16], u16)>,
    /// Root of the tree of all records, if nothing is damaged in between.
    pub root: Option<Hash>,
    /// Checkpoints in the log whose signature and root are right; they are looked at only with a key.
    pub checkpoints: u64,
    /// What does not hold, in the order in which it was found.
    pub findings: Vec<Damage>,
}

impl Report {
    /// Whether the log may be believed. A torn end, which every crash leaves, is no damage.
    #[must_use]
    pub fn is_sound(&self) -> bool {
        !self.findings.iter().any(|damage| damage.fault.is_grave())
    }
}

/// A judgement that goes on in slices: also what scrubs a log beside its writer.
#[derive(Debug)]
pub struct Verification {
    cursor: Cursor,
    verifier: Option<Verifier>,
    /// Checkpoints from outside, by rising size.
    outside: Vec<Checkpoint>,
    /// Unknown behind damage, up to the next segment.
    edge: Option<Edge>,
    log_id: [u8; 16],
    /// The segment that is read, and the first that was.
    segment: u64,
    first: Option<SegmentHeader>,
    buried: bool,
    /// The largest checkpoint from outside that was found to agree, and the least sequence that a grave finding concerns.
    agreed: u64,
    sound: u64,
    bytes: u64,
    report: Report,
}

impl Verification {
    /// Of the log in these files. With `verifier` signatures are checked too. `outside` are checkpoints that were kept
    /// elsewhere: only they can show that the log was set back as a whole.
    ///
    /// # Errors
    ///
    /// When the folder cannot be read.
    pub fn new<F: Files>(files: &mut F, verifier: Option<Verifier>, outside: &[Checkpoint]) -> Result<Self, Error> {
        let mut outside = outside.to_vec();
        outside.sort_by_key(|checkpoint| checkpoint.size);
        Ok(Self {
            cursor: Cursor::new(files, 0)?,
            verifier,
            outside,
            edge: None,
            log_id: [0; 16],
            segment: 0,
            first: None,
            buried: false,
            agreed: 0,
            sound: u64::MAX,
            bytes: 0,
            report: Report::default(),
        })
    }

    /// Looks at nothing at or behind this sequence: [`Progress::written`](crate::Progress::written) beside a writer.
    #[must_use]
    pub fn until(mut self, sequence: u64) -> Self {
        self.cursor = self.cursor.until(sequence);
        self
    }

    /// Bytes of the commits judged so far.
    #[must_use]
    pub const fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Judges at least the next `bytes` bytes. Returns the report at the end of the log, or of the limit.
    ///
    /// # Errors
    ///
    /// When the files cannot be read. What is wrong in them is in the report.
    pub fn step<F: Files>(&mut self, files: &mut F, bytes: u64) -> Result<Option<Report>, Error> {
        let end = self.bytes.saturating_add(bytes);
        while self.bytes < end {
            let (known, before) = (self.report.findings.len(), self.report.next_sequence);
            let Some(item) = self.cursor.next(files)? else {
                self.settle(files)?;
                self.bound(known, before);
                self.report.sound_sequence = self.sound.min(self.report.next_sequence);
                return Ok(Some(core::mem::take(&mut self.report)));
            };
            match item {
                Item::Segment(header) => {
                    let header = header.clone();
                    self.segment(header);
                }
                Item::Commit(commit) => {
                    self.bytes += commit.bytes.len() as u64;
                    let file = segment_name(self.segment);
                    let (records, offset) = (u64::from(commit.header.records), commit.offset);
                    self.report.commits += 1;
                    self.report.records += records;
                    self.report.next_sequence = commit.header.first_sequence + records;
                    let mut judge = Judge {
                        edge: self.edge.take(),
                        verifier: self.verifier.as_ref(),
                        outside: &self.outside,
                        log_id: &self.log_id,
                        first: self.first.as_ref(),
                        buried: &mut self.buried,
                        agreed: &mut self.agreed,
                        report: &mut self.report,
                    };
                    judge.commit(&commit, |fault| Damage { file: file.clone(), offset, fault });
                    self.edge = judge.edge;
                }
                Item::Damage(damage) => {
                    if !matches!(damage.fault, Fault::Torn { .. } | Fault::Leftover) {
                        self.edge = None;
                    }
                    self.report.findings.push(damage);
                }
            }
            self.bound(known, before);
        }
        Ok(None)
    }

    /// Lowers the end of the sound records to the first that the findings from `known` on concern. `before` is the sequence
    /// that was reached before them.
    fn bound(&mut self, known: usize, before: u64) {
        let grave = self.report.findings.iter().skip(known).filter(|damage| damage.fault.is_grave());
        let least = grave.map(|damage| match damage.fault {
            Fault::Commit { sequence, .. } | Fault::SegmentMissing { sequence } => sequence,
            Fault::Body { sequence } | Fault::Checkpoint { sequence } | Fault::Tombstone { sequence } => sequence,
            Fault::NoTombstone { sequence } => sequence,
            Fault::Forked { .. } => self.agreed,
            // They concern what is not there any more; what is there holds.
            Fault::RolledBack { .. } | Fault::Unprovable { .. } => u64::MAX,
            _ => before,
        });
        self.sound = least.fold(self.sound, u64::min);
    }

    fn segment(&mut self, header: SegmentHeader) {
        self.report.segments += 1;
        self.log_id = header.log_id;
        self.segment = header.first_sequence;
        if self.edge.is_some_and(|edge| edge.root() != header.root) {
            let file = segment_name(header.first_sequence);
            self.report.findings.push(Damage { file, offset: 0, fault: Fault::SegmentForeign });
        }
        self.edge = Some(Edge::from_parts(header.first_sequence, &header.edge));
        if self.first.is_none() {
            self.report.first_sequence = header.first_sequence;
            self.report.next_sequence = header.first_sequence;
            self.report.identity = Some((header.log_id, header.shard));
            self.buried = header.first_sequence == 0;
            self.first = Some(header);
        }
    }

    /// What can only be said at the end: burials, and what happened to the checkpoints from outside.
    fn settle<F: Files>(&mut self, files: &mut F) -> Result<(), Error> {
        let file = segment_name(self.report.first_sequence);
        if let (Some(first), false) = (&self.first, self.buried) {
            let fault = Fault::NoTombstone { sequence: first.first_sequence };
            self.report.findings.push(Damage { file: file.clone(), offset: 0, fault });
        }
        self.report.root = self.edge.map(|edge| edge.root());
        let (first, next) = (self.report.first_sequence, self.report.next_sequence);
        let mut leaves = None;
        for Checkpoint { size, root, .. } in self.outside.clone() {
            let fault = if size > next {
                Some(Fault::RolledBack { size })
            } else if size > first {
                None // compared on the way
            } else {
                if leaves.is_none() {
                    leaves = Some(tree(files)?);
                }
                match leaves.as_ref().and_then(|leaves| leaves.root(size)) {
                    None => Some(Fault::Unprovable { size }),
                    Some(found) => (found != root).then_some(Fault::Forked { size }),
                }
            };
            let damage = |fault| Damage { file: file.clone(), offset: 0, fault };
            self.report.findings.extend(fault.map(damage));
        }
        Ok(())
    }
}

/// What the records of a commit are judged with.
struct Judge<'a> {
    edge: Option<Edge>,
    verifier: Option<&'a Verifier>,
    outside: &'a [Checkpoint],
    log_id: &'a [u8; 16],
    first: Option<&'a SegmentHeader>,
    buried: &'a mut bool,
    agreed: &'a mut u64,
    report: &'a mut Report,
}

impl Judge<'_> {
    fn commit(&mut self, commit: &Commit<'_>, damage: impl Fn(Fault) -> Damage) {
        for raw in commit.records() {
            let sequence = raw.sequence;
            let fault = match Record::read(&raw) {
                None => Some(Fault::Body { sequence }),
                Some(Record::Checkpoint(note)) => self.checkpoint(note, sequence),
                Some(Record::Tombstone(tombstone, signature)) => self.tombstone(&tombstone, &signature, sequence),
                Some(_) => None,
            };
            self.report.findings.extend(fault.map(&damage));
            if let Some(edge) = &mut self.edge {
                edge.push(tree::leaf(raw.leaf));
                let mut known = self.outside.iter().filter(|outside| outside.size == edge.size()).peekable();
                if known.peek().is_some() {
                    let forked = known.any(|outside| outside.root != edge.root());
                    *self.agreed = if forked { *self.agreed } else { edge.size() };
                    let fault = forked.then_some(Fault::Forked { size: edge.size() });
                    self.report.findings.extend(fault.map(&damage));
                }
            }
        }
    }

    /// A checkpoint covers exactly the records before it.
    fn checkpoint(&mut self, note: &str, sequence: u64) -> Option<Fault> {
        let root = self.edge.map(|edge| edge.root());
        let verifier = self.verifier?;
        let held = verifier
            .checkpoint(note)
            .filter(|checkpoint| checkpoint.size == sequence && root.is_none_or(|root| root == checkpoint.root));
        self.report.checkpoints += u64::from(held.is_some());
        held.is_none().then_some(Fault::Checkpoint { sequence })
    }

    fn tombstone(&mut self, tombstone: &Tombstone, signature: &[u8; 64], sequence: u64) -> Option<Fault> {
        let held = self.verifier.is_none_or(|verifier| tombstone.holds(self.log_id, signature, verifier));
        if !held || tombstone.end.get() > sequence {
            return Some(Fault::Tombstone { sequence });
        }
        let first = self.first.filter(|first| first.first_sequence == tombstone.end.get())?;
        let same = first.previous == tombstone.chain && first.root == tombstone.root;
        if !same || first.first_commit != tombstone.end_commit.get() {
            return Some(Fault::Tombstone { sequence });
        }
        *self.buried = true;
        None
    }
}

/// Judges a whole log.
///
/// # Errors
///
/// As [`Verification::step`].
pub fn verify<F: Files>(files: &mut F, verifier: Option<&Verifier>, outside: &[Checkpoint]) -> Result<Report, Error> {
    let mut verification = Verification::new(files, verifier.cloned(), outside)?;
    loop {
        if let Some(report) = verification.step(files, u64::MAX)? {
            return Ok(report);
        }
    }
}

/// The tree that proofs are made from: of removed segments from their leaf hashes, if these are there and come to the right
/// root, then from the records. Reads the whole log.
///
/// # Errors
///
/// When files cannot be read, or the log is damaged where its records are needed.
pub fn tree<F: Files>(files: &mut F) -> Result<Leaves, Error> {
    let names = files.names().map_err(Error::storage("list the log's folder"))?;
    let mut segments: Vec<u64> = names.iter().filter_map(|name| segment_of(name)).collect();
    segments.sort_unstable();
    let Some(&first) = segments.first() else { return Ok(Leaves::new(Edge::default(), Vec::new())) };
    let mut gone: Vec<u64> = names.iter().filter_map(|name| leaves_of(name)).filter(|from| *from < first).collect();
    gone.sort_unstable();
    let mut leaves = Vec::new();
    for (index, from) in gone.iter().enumerate() {
        let to = gone.get(index + 1).copied().unwrap_or(first);
        leaves.extend(read_leaves(files, *from, to)?);
    }
    let mut cursor = Cursor::new(files, 0)?;
    let mut before: Option<Edge> = None;
    while let Some(item) = cursor.next(files)? {
        match item {
            Item::Segment(header) if before.is_none() => {
                let start = Edge::from_parts(header.first_sequence, &header.edge);
                let mut whole = Edge::default();
                leaves.iter().for_each(|leaf| whole.push(*leaf));
                // Leaf hashes are a copy: they count only if they come to what the header says.
                let trusted = whole.size() == start.size() && whole.root() == start.root();
                if !trusted {
                    leaves.clear();
                }
                before = Some(if trusted { Edge::default() } else { start });
            }
            Item::Segment(_) | Item::Damage(Damage { fault: Fault::Torn { .. }, .. }) => {}
            Item::Commit(commit) => leaves.extend(commit.records().map(|record| tree::leaf(record.leaf))),
            Item::Damage(damage) => return Err(Error::Damaged(damage)),
        }
    }
    Ok(Leaves::new(before.unwrap_or_default(), leaves))
}

fn read_leaves<F: Files>(files: &mut F, from: u64, to: u64) -> Result<Vec<Hash>, Error> {
    let name = leaves_name(from);
    let file = files.open(&name).map_err(Error::storage(format!("open {name}")))?;
    let mut bytes = vec![0; usize::try_from((to - from) * 32).unwrap_or(0)];
    let got = files.read(file, 0, &mut bytes);
    files.close(file);
    bytes.truncate(got.map_err(Error::storage(format!("read {name}")))?);
    Ok(bytes.as_chunks::<32>().0.to_vec())
}
