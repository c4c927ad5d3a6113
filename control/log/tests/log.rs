//! A log that nothing happens to: what goes in comes out, in order, verified, and other people's tools agree.

mod support;

use proptest::prelude::*;
use signed_note::{Note, StandardVerifier, VerifierList};
use support::{arrival, config, disk, fill, finish, is_right, log, read_all, record, signer};
use tachyon_log::{
    Appender, Cursor, Error, Fault, Record,
    cursor::Item,
    format::{leaves_name, segment_name},
    record::{Clock, Command, Gap, ruleset_pieces},
    retention::Limits,
    storage::Files,
    tree,
    verify::{self, Verification, verify},
};
use tachyon_wire::command::{Command as Wire, Lease};
use tlog_tiles::{Checkpoint, Hash};

#[test]
fn what_goes_in_comes_out_over_many_segments() {
    let mut disk = log(1, 500, 7, 12, 2);
    let (records, whole) = read_all(&mut disk);
    assert!(whole);
    assert_eq!(records.len(), 500);
    for (sequence, record) in records.iter().enumerate() {
        assert_eq!(record.0, sequence as u64);
        assert!(is_right(1, record), "record {sequence}");
    }
    let report = verify(&mut disk, None, &[]).expect("readable");
    assert_eq!(report.findings, []);
    assert!(report.segments > 5, "{} segments", report.segments);
    assert_eq!(report.next_sequence, 500);
}

#[test]
fn a_log_goes_on_where_it_ended() {
    let mut storage = log(2, 40, 3, 12, 2);
    for round in 1..6 {
        let mut appender = Appender::open(storage, config(12), 0).expect("a sound log");
        assert_eq!(appender.next_sequence(), 40 * round);
        assert!(!appender.was_torn());
        fill(&mut appender, 2, 40 * (round + 1), 3);
        let root = appender.root();
        storage = appender.into_storage();
        assert_eq!(verify(&mut storage, None, &[]).expect("readable").root, Some(root));
    }
    let (records, whole) = read_all(&mut storage);
    assert!(whole && records.len() == 240 && records.iter().all(|record| is_right(2, record)));
}

/// The roots after each of the first `count` records, and all leaf hashes.
fn history(files: &mut impl Files) -> (Vec<tree::Hash>, Vec<tree::Hash>) {
    let (mut roots, mut leaves, mut edge) = (vec![tree::empty()], Vec::new(), tree::Edge::default());
    let mut cursor = Cursor::new(files, 0).expect("a folder");
    while let Some(item) = cursor.next(files).expect("readable") {
        let Item::Commit(commit) = item else { continue };
        for raw in commit.records() {
            let leaf = tree::leaf(raw.leaf);
            assert_eq!(leaf, tlog_tiles::record_hash(raw.leaf).0, "another implementation's leaf");
            edge.push(leaf);
            leaves.push(leaf);
            roots.push(edge.root());
        }
    }
    (roots, leaves)
}

#[test]
fn other_peoples_tools_accept_notes_and_proofs_and_refuse_them_changed() {
    let mut disk = disk(4, 4, 2);
    let mut appender = Appender::open(&mut disk, config(12), 0).expect("a new log");
    fill(&mut appender, 4, 130, 7);
    let at = appender.append_checkpoint(1, &signer()).expect("room");
    finish(&mut appender, 0);
    drop(appender);
    let mut note = None;
    let mut cursor = Cursor::new(&mut disk, at).expect("a folder");
    while let Some(item) = cursor.next(&mut disk).expect("readable") {
        let Item::Commit(commit) = item else { continue };
        let found = commit.records().find(|raw| raw.sequence == at);
        note = note.or_else(|| found.and_then(|raw| String::from_utf8(raw.body.to_vec()).ok()));
    }
    let note = note.expect("the note");
    let verifier = StandardVerifier::new(&signer().verifier().to_string()).expect("our key's text");
    let parsed = Note::from_bytes(note.as_bytes()).expect("a note");
    let (good, bad) = parsed.verify(&VerifierList::new(vec![Box::new(verifier)])).expect("a signature");
    assert_eq!((good.len(), bad.len()), (1, 0));
    let checkpoint = Checkpoint::from_bytes(parsed.text()).expect("a checkpoint");
    assert_eq!((checkpoint.origin(), checkpoint.size()), ("node.example/shard/3", at));

    let (roots, leaves) = history(&mut disk);
    let tree = verify::tree(&mut disk).expect("a sound log");
    assert_eq!(checkpoint.hash().0, roots[usize::try_from(at).expect("small")]);
    let foreign = |path: Vec<tree::Hash>| path.into_iter().map(Hash).collect::<Vec<_>>();
    for index in (0..at).step_by(3) {
        let path = foreign(tree.inclusion(index, at).expect("a path"));
        let leaf = leaves[usize::try_from(index).expect("small")];
        tlog_tiles::check_record(&path, at, *checkpoint.hash(), index, Hash(leaf)).expect("an inclusion proof");
        assert!(tlog_tiles::check_record(&path, at, *checkpoint.hash(), (index + 1) % at, Hash(leaf)).is_err());
    }
    for old in 1..=at {
        let proof = foreign(tree.consistency(old, at).expect("a proof"));
        let root = Hash(roots[usize::try_from(old).expect("small")]);
        tlog_tiles::check_tree(&proof, at, *checkpoint.hash(), old, root).expect("a consistency proof");
        assert!(tlog_tiles::check_tree(&proof, at, *checkpoint.hash(), old, Hash([1; 32])).is_err());
    }
}

#[test]
fn what_is_removed_is_buried_and_everything_left_stays_provable() {
    let mut disk = disk(6, 4, 2);
    let mut appender = Appender::open(&mut disk, config(12), 0).expect("a new log");
    fill(&mut appender, 6, 900, 7);
    let (roots, leaves) = history(appender.storage());
    let limits = Limits { bytes_max: 5 * 12 * 4096, oldest_tick: 0 };
    let buried = appender.retain(1, 1_700_000_000_000_000_000, &limits, &signer()).expect("room");
    assert!(buried > 3, "{buried} segments");
    finish(&mut appender, 0);
    let kept = tachyon_log::Checkpoint { origin: String::new(), size: 30, root: roots[30] };
    drop(appender);
    assert_eq!(disk.bytes(&segment_name(0)), None);
    let report = verify(&mut disk, Some(&signer().verifier()), std::slice::from_ref(&kept)).expect("readable");
    assert_eq!(report.findings, [], "an old checkpoint holds by the leaf hashes");
    assert!(report.first_sequence > 30);
    let (first, next) = (report.first_sequence, report.next_sequence);
    let tree = verify::tree(&mut disk).expect("a sound log");
    let root = report.root.expect("a root");
    for index in [0, 17, first - 1, first, 899] {
        let path = tree.inclusion(index, next).expect("also of what is removed");
        let leaf = leaves[usize::try_from(index).expect("small")];
        assert!(tree::verify_inclusion(&leaf, index, next, &path, &root));
    }
    // Without the leaf hashes only what is left can be proved, and that is said.
    disk.set(&leaves_name(0), None);
    let report = verify(&mut disk, None, std::slice::from_ref(&kept)).expect("readable");
    assert_eq!(report.findings.iter().map(|found| found.fault).collect::<Vec<_>>(), [Fault::Unprovable { size: 30 }]);
    let tree = verify::tree(&mut disk).expect("a sound log");
    assert_eq!((tree.inclusion(17, next), tree.inclusion(899, next).is_some()), (None, true));
    // Another key's tombstones bury nothing.
    let other = tachyon_log::Signer::new("node.example/shard/3", &[1; 32]).expect("a name").verifier();
    assert!(!verify(&mut disk, Some(&other), &[]).expect("readable").is_sound());
    let mut appender = Appender::open(&mut disk, config(12), 0).expect("a sound log");
    assert_eq!(appender.next_sequence(), next);
    // Age: everything but the segment that is being filled.
    appender.retain(2, 2, &Limits { bytes_max: u64::MAX, oldest_tick: u64::MAX }, &signer()).expect("room");
    finish(&mut appender, 0);
    drop(appender);
    let report = verify(&mut disk, Some(&signer().verifier()), &[]).expect("readable");
    assert_eq!(report.findings, []);
    assert!(report.segments <= 2, "the tombstones themselves may have filled a segment");
}

#[test]
fn a_log_is_scrubbed_in_slices_beside_its_writer() {
    let mut appender = Appender::open(disk(8, 4, 2), config(12), 0).expect("a new log");
    fill(&mut appender, 8, 200, 7);
    let mut verification = Verification::new(appender.storage(), None, &[]).expect("a folder").until(200);
    let (mut slices, mut bytes) = (0, Vec::new());
    let report = loop {
        if let Some(report) = verification.step(appender.storage(), 10_000).expect("readable") {
            break report;
        }
        slices += 1;
        let _busy = appender.append(slices, &record(8, appender.next_sequence(), &mut bytes));
        appender.commit(slices, true);
        appender.poll(slices).expect("a healthy disk");
    };
    assert!(slices > 5);
    assert_eq!((report.findings.len(), report.next_sequence), (0, 200));
}

#[test]
fn an_image_larger_than_a_commit_is_kept_in_pieces_and_too_large_a_record_is_refused() {
    let image: Vec<u8> = (0..50_000_u32).map(|byte| byte.to_le_bytes()[0]).collect();
    let mut appender = Appender::open(disk(3, 4, 2), config(12), 0).expect("a new log");
    let refused = appender.append(0, &Record::Decisions(&image));
    assert!(matches!(refused, Err(Error::TooLarge { bytes: 50_000, .. })));
    let mut now = 0;
    for piece in ruleset_pieces(9, &image, 6_000) {
        while appender.append(now, &piece).is_err() {
            now += 1;
            appender.poll(now).expect("a healthy disk");
        }
    }
    finish(&mut appender, now);
    let mut disk = appender.into_storage();
    let mut cursor = Cursor::new(&mut disk, 0).expect("a folder");
    let mut found = Vec::new();
    while let Some(item) = cursor.next(&mut disk).expect("readable") {
        let Item::Commit(commit) = item else { continue };
        for raw in commit.records() {
            let Some(Record::Ruleset(piece, bytes)) = Record::read(&raw) else { panic!("a piece of the image") };
            assert_eq!((piece.version.get(), piece.offset.get()), (9, found.len() as u64));
            found.extend_from_slice(bytes);
        }
    }
    assert_eq!(found, image);
}

/// What a test may append: a record by its number, with bytes of this length.
fn any_record(number: u8, bytes: &[u8]) -> Record<'_> {
    match number {
        0 => Record::Frame(arrival(bytes.len() as u64), bytes),
        1 => Record::Decisions(bytes),
        2 => Record::Command(Command::new(&Wire::Lease(Lease { sender_id: 5.into(), share: 9.into() }))),
        3 => Record::Clock(Clock { boot_id: [3; 16], unix_ns: 8.into(), boot: 1, reserved: [0; 7] }),
        _ => Record::Gap(Gap {
            count: 1.into(),
            first_tick: 2.into(),
            last_tick: 3.into(),
            reason: 48,
            kind: 1,
            reserved: [0; 6],
        }),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]
    #[test]
    fn any_records_in_any_groups_come_back(
        records in proptest::collection::vec((0..5_u8, 0..3_000_usize, 0..4_u8, any::<u64>()), 1..60),
        segment_blocks in 6..40_u64,
        reopen in any::<bool>(),
    ) {
        let mut storage = disk(1, 3, 2);
        let mut appender = Appender::open(&mut storage, config(segment_blocks), 0).expect("a new log");
        let bytes: Vec<Vec<u8>> = records.iter().map(|(_, length, fill, _)| vec![*fill; *length]).collect();
        for (index, (number, _, end, tick)) in records.iter().enumerate() {
            while appender.append(*tick, &any_record(*number, &bytes[index])).is_err() {
                appender.poll(0).expect("a healthy disk");
            }
            if *end < 2 {
                appender.commit(*tick, *end == 0);
            }
        }
        finish(&mut appender, 0);
        let root = appender.root();
        drop(appender);
        if reopen {
            prop_assert_eq!(Appender::open(&mut storage, config(segment_blocks), 0).expect("a sound log").root(), root);
        }
        let report = verify(&mut storage, None, &[]).expect("readable");
        prop_assert_eq!((report.findings.len(), report.root), (0, Some(root)));
        let mut index = 0;
        let mut cursor = Cursor::new(&mut storage, 0).expect("a folder");
        while let Some(item) = cursor.next(&mut storage).expect("readable") {
            let Item::Commit(commit) = item else { continue };
            for raw in commit.records() {
                prop_assert_eq!(Record::read(&raw), Some(any_record(records[index].0, &bytes[index])));
                prop_assert_eq!((raw.sequence, raw.tick), (index as u64, records[index].3));
                index += 1;
            }
        }
        prop_assert_eq!(index, records.len());
    }
}
