//! Damage of every kind to a finished log: each is found, and named by the record or the segment that it hit.

mod support;

use std::ops::Range;
use support::{config, is_right, log, read_all, signer};
use tachyon_log::{
    Appender, Checkpoint, Cursor, Error, Fault, Verifier,
    cursor::Item,
    damage::Part,
    fault::FaultDisk,
    format::{
        BLOCK, COMMIT_HEADER, CommitHeader, Records, SEGMENT_END, SegmentHeader, segment_name, segment_of,
        verify_commit,
    },
    storage::Files,
    tree,
    verify::{Report, verify},
};

const SEED: u64 = 5;
/// From one flipped bit to the next. All of them in release; in debug a prime, so that every bit of a byte has its turn.
const STRIDE: usize = if cfg!(debug_assertions) { 211 } else { 1 };

/// Segments of 64 KiB and commits of up to 8 KiB: 1 MiB in all.
fn megabyte() -> FaultDisk {
    log(SEED, 1_900, 9, 16, 2)
}

fn segments(disk: &mut FaultDisk) -> Vec<u64> {
    let names = disk.names().expect("a folder");
    let mut segments: Vec<u64> = names.iter().filter_map(|name| segment_of(name)).collect();
    segments.sort_unstable();
    segments
}

fn judged(disk: &mut FaultDisk) -> Report {
    verify(disk, Some(&signer().verifier()), &[]).expect("a disk that can be read")
}

/// The commits of a segment, and what is behind them.
fn commits(bytes: &[u8]) -> (Vec<Range<usize>>, usize) {
    let (mut at, mut found) = (BLOCK, Vec::new());
    while let Some(header) = bytes.get(at..).and_then(CommitHeader::parse) {
        found.push(at..at + header.bytes as usize);
        at += header.bytes as usize;
        if header.flags & SEGMENT_END != 0 {
            break;
        }
    }
    (found, at)
}

/// By byte of a commit, the part that its damage has to be named by.
fn parts(commit: &[u8]) -> Vec<Part> {
    let header = verify_commit(commit).expect("a sound commit");
    let mut parts = vec![Part::Padding; commit.len()];
    parts[..COMMIT_HEADER].fill(Part::Header);
    let mut at = COMMIT_HEADER;
    for record in Records::of(&header, commit) {
        let end = at + record.leaf.len().next_multiple_of(8);
        parts[at..end].fill(Part::Record(record.sequence));
        at = end;
    }
    parts
}

#[test]
fn the_sound_records_end_where_the_damage_begins() {
    let mut disk = log(9, 150, 4, 12, 2);
    assert_eq!(judged(&mut disk).sound_sequence, 150);
    for segment in segments(&mut disk) {
        let name = segment_name(segment);
        let bytes = disk.bytes(&name).expect("a segment").to_vec();
        for commit in commits(&bytes).0 {
            let first = CommitHeader::parse(&bytes[commit.clone()]).expect("a header").first_sequence;
            let mut changed = bytes.clone();
            changed[commit.start + COMMIT_HEADER / 2] ^= 4;
            disk.set(&name, Some(changed));
            let report = judged(&mut disk);
            assert_eq!((report.is_sound(), report.sound_sequence), (false, first), "{:?}", report.findings);
        }
        let mut changed = bytes.clone();
        changed[9] ^= 4;
        disk.set(&name, Some(changed));
        assert_eq!(judged(&mut disk).sound_sequence, segment, "a damaged header takes its segment with it");
        disk.set(&name, Some(bytes));
    }
    // Of a log that is not the one that was seen, what an older checkpoint agrees with is sound, and no more.
    let root = |size: u64| {
        let mut files = log(9, 150, 4, 12, 2);
        tachyon_log::verify::tree(&mut files).expect("a sound log").root(size).expect("it has that many")
    };
    let seen = [(40, root(40)), (80, [1; 32])].map(|(size, root)| Checkpoint { origin: String::new(), size, root });
    let report = verify(&mut disk, None, &seen).expect("readable");
    assert_eq!((report.is_sound(), report.sound_sequence), (false, 40), "{:?}", report.findings);
}

#[test]
fn every_flipped_bit_is_found_and_the_record_it_hit_is_named() {
    let mut disk = megabyte();
    let (mut bits, mut first) = (0, 0);
    for segment in segments(&mut disk) {
        let name = segment_name(segment);
        let mut bytes = disk.bytes(&name).expect("a segment").to_vec();
        let (commits, end) = commits(&bytes);
        for bit in (first..BLOCK * 8).step_by(STRIDE) {
            bytes[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(SegmentHeader::parse(&bytes[..BLOCK]), None, "bit {bit} of {name}");
            bytes[bit / 8] ^= 1 << (bit % 8);
            bits += 1;
        }
        for range in commits {
            let mut commit = bytes[range].to_vec();
            let parts = parts(&commit);
            for bit in (first..commit.len() * 8).step_by(STRIDE) {
                commit[bit / 8] ^= 1 << (bit % 8);
                assert_eq!(verify_commit(&commit), Err(parts[bit / 8]), "bit {bit} of a commit in {name}");
                commit[bit / 8] ^= 1 << (bit % 8);
                bits += 1;
            }
        }
        // Behind the commits a reader has to look for itself.
        for bit in (end * 8 + first..bytes.len() * 8).step_by(STRIDE) {
            disk.bytes_mut(&name).expect("a segment")[bit / 8] ^= 1 << (bit % 8);
            let mut cursor = Cursor::new(&mut disk, segment).expect("a folder");
            let found = loop {
                match cursor.next(&mut disk).expect("readable").expect("a finding before the end") {
                    Item::Damage(damage) => break damage,
                    Item::Segment(header) => assert_eq!(header.first_sequence, segment, "bit {bit} was passed over"),
                    Item::Commit(_) => {}
                }
            };
            assert_eq!(found.file, name);
            disk.bytes_mut(&name).expect("a segment")[bit / 8] ^= 1 << (bit % 8);
            bits += 1;
        }
        first = (first + 1) % STRIDE;
    }
    let log_bits = segments(&mut disk).len() * 16 * 4096 * 8;
    assert!(log_bits >= 8 << 20, "the log has {log_bits} bits");
    assert!(bits >= log_bits / STRIDE, "{bits} of {log_bits} bits were flipped");
}

#[test]
fn a_flipped_bit_is_named_by_the_judge_and_all_else_still_reads() {
    let mut disk = megabyte();
    let all = segments(&mut disk);
    for (index, segment) in all.iter().enumerate() {
        let name = segment_name(*segment);
        let (commits, _) = commits(disk.bytes(&name).expect("a segment"));
        for range in commits.iter().step_by(if cfg!(debug_assertions) { 5 } else { 1 }) {
            let commit = &disk.bytes(&name).expect("a segment")[range.clone()];
            let header = verify_commit(commit).expect("sound");
            let parts = parts(commit);
            let at = (index * 7919 + range.start) % commit.len();
            disk.bytes_mut(&name).expect("a segment")[range.start + at] ^= 4;
            let report = judged(&mut disk);
            let [damage] = report.findings.as_slice() else { panic!("{:?}", report.findings) };
            let (number, sequence) = (header.number, header.first_sequence);
            assert_eq!((damage.file.as_str(), damage.offset), (name.as_str(), range.start as u64));
            assert_eq!(damage.fault, Fault::Commit { number, sequence, part: parts[at] });
            assert!(!report.is_sound());
            assert_eq!(report.records, 1_900 - u64::from(header.records), "everything else is read");
            disk.bytes_mut(&name).expect("a segment")[range.start + at] ^= 4;
        }
    }
    assert_eq!(judged(&mut disk).findings, []);
}

#[test]
fn damage_near_the_end_is_refused_and_never_cut() {
    let whole = megabyte();
    let mut reading = whole.clone();
    let last = segment_name(*segments(&mut reading).last().expect("segments"));
    let (commits, _) = commits(whole.bytes(&last).expect("a segment"));
    for range in commits {
        for at in [0, 9, 120, COMMIT_HEADER + 5, range.len() - 1] {
            let mut disk = whole.clone();
            disk.bytes_mut(&last).expect("a segment")[range.start + at] ^= 1;
            let refused = Appender::open(&mut disk, config(16), 0).map(drop);
            assert!(matches!(refused, Err(Error::Damaged(_))), "{refused:?} at byte {at} of {range:?}");
            let (records, _) = read_all(&mut disk);
            assert!(records.iter().all(|record| is_right(SEED, record)), "what is before still reads");
        }
    }
}

#[test]
fn every_truncation_is_found() {
    let whole = megabyte();
    let all = segments(&mut whole.clone());
    for segment in [all[0], all[all.len() / 2], all[all.len() - 1]] {
        let name = segment_name(segment);
        let bytes = whole.bytes(&name).expect("a segment").to_vec();
        let mut disk = whole.clone();
        for length in (0..bytes.len()).rev().step_by(if cfg!(debug_assertions) { 61 } else { 1 }) {
            disk.bytes_mut(&name).expect("a segment").truncate(length);
            let mut cursor = Cursor::new(&mut disk, segment).expect("a folder");
            let first = cursor.next(&mut disk).expect("readable");
            let expected = if length < BLOCK {
                Fault::SegmentHeader
            } else {
                Fault::SegmentLength { expected: bytes.len() as u64 }
            };
            assert!(matches!(&first, Some(Item::Damage(damage)) if damage.fault == expected && damage.file == name));
        }
        assert!(!judged(&mut disk).is_sound());
    }
}

#[test]
fn segments_that_are_missing_swapped_or_doubled_are_found() {
    let whole = megabyte();
    let all = segments(&mut whole.clone());
    for (index, segment) in all.iter().enumerate() {
        let name = segment_name(*segment);
        let mut disk = whole.clone();
        disk.set(&name, None);
        let report = judged(&mut disk);
        let expected = match index {
            0 => Fault::NoTombstone { sequence: all[1] },
            _ => Fault::SegmentMissing { sequence: *segment },
        };
        assert_eq!(report.findings.first().map(|damage| damage.fault), Some(expected), "without {name}");
        for other in &all[index + 1..] {
            let mut disk = whole.clone();
            let (here, there) = (whole.bytes(&name), whole.bytes(&segment_name(*other)));
            disk.set(&name, there.map(<[u8]>::to_vec));
            assert!(!judged(&mut disk).is_sound(), "{other} doubled over {segment}");
            disk.set(&segment_name(*other), here.map(<[u8]>::to_vec));
            assert!(!judged(&mut disk).is_sound(), "{other} and {segment} swapped");
        }
        // A copy under a name that no segment has.
        let mut disk = whole.clone();
        disk.set(&segment_name(segment + 1), whole.bytes(&name).map(<[u8]>::to_vec));
        assert!(!judged(&mut disk).is_sound(), "{segment} twice");
    }
}

#[test]
fn commits_that_change_places_are_found() {
    let whole = megabyte();
    let name = segment_name(0);
    let (commits, _) = commits(whole.bytes(&name).expect("a segment"));
    let mut tried = 0;
    for (first, second) in commits.iter().zip(&commits[1..]).filter(|(first, second)| first.len() == second.len()) {
        let mut disk = whole.clone();
        let bytes = disk.bytes_mut(&name).expect("a segment");
        let (left, right) = bytes.split_at_mut(second.start);
        left[first.clone()].swap_with_slice(&mut right[..second.len()]);
        assert!(!judged(&mut disk).is_sound(), "{first:?} and {second:?} swapped");
        let mut disk = whole.clone();
        disk.bytes_mut(&name).expect("a segment").copy_within(first.clone(), second.start);
        assert!(!judged(&mut disk).is_sound(), "{first:?} twice");
        tried += 1;
    }
    assert!(tried > 0);
}

#[test]
fn only_a_checkpoint_from_outside_shows_that_a_log_was_set_back_or_made_anew() {
    let mut old = log(SEED, 300, 9, 16, 2);
    let mut new = old.clone();
    let mut appender = Appender::open(&mut new, config(16), 0).expect("a sound log");
    support::fill(&mut appender, SEED, 400, 9);
    let kept = Checkpoint { origin: String::new(), size: 400, root: appender.root() };
    drop(appender);
    let outside = std::slice::from_ref(&kept);
    assert!(judged(&mut old).is_sound(), "by itself an old state is a sound log");
    let report = verify(&mut old, None, outside).expect("readable");
    assert_eq!(report.findings.first().map(|damage| damage.fault), Some(Fault::RolledBack { size: 400 }));
    assert!(verify(&mut new, None, outside).expect("readable").is_sound());
    let mut other = log(SEED + 1, 400, 9, 16, 2);
    let report = verify(&mut other, None, outside).expect("readable");
    assert_eq!(report.findings.first().map(|damage| damage.fault), Some(Fault::Forked { size: 400 }));
    let tree = tree::Leaves::root(&tachyon_log::verify::tree(&mut new).expect("readable"), 400);
    assert_eq!(tree, Some(kept.root));
}

#[test]
fn a_checkpoint_under_another_key_is_found() {
    let mut disk = support::disk(SEED, 4, 2);
    let mut appender = Appender::open(&mut disk, config(16), 0).expect("a new log");
    appender.append_checkpoint(0, &signer()).expect("room");
    support::fill(&mut appender, SEED + 9, 20, 3);
    drop(appender);
    assert_eq!(judged(&mut disk).checkpoints, 1);
    let other = tachyon_log::Signer::new("node.example/shard/3", &[1; 32]).expect("a name");
    let other: Verifier = other.verifier();
    let report = verify(&mut disk, Some(&other), &[]).expect("readable");
    assert_eq!(report.findings.first().map(|damage| damage.fault), Some(Fault::Checkpoint { sequence: 0 }));
}
