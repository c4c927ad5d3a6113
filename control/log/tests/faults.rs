//! Disks that fail: the log says so, promises nothing that it cannot keep, and never takes damage for the end.

mod support;

use support::{config, disk, fill, finish, is_right, record, signer};
use tachyon_log::{
    Appender, Checkpoint, Cursor, Error, Fault, State,
    cursor::Item,
    fault::{Cut, FaultDisk, Faults, Random},
    retention::Limits,
    storage::Storage,
    verify::verify,
};
use tachyon_wire::Reason;

const SEED: u64 = 9;

/// Appends single durable records until the log says no; returns what was durable by then, and what it said.
fn until_it_fails<S: Storage>(appender: &mut Appender<S>, records: u64) -> (u64, Option<Error>) {
    let (mut bytes, mut now) = (Vec::new(), 0);
    while appender.next_sequence() < records {
        now += 1;
        match appender.append(now, &record(SEED, appender.next_sequence(), &mut bytes)) {
            Ok(_) | Err(Error::Busy) => {}
            Err(error) => return (appender.progress().durable, Some(error)),
        }
        appender.commit(now, true);
        if let Err(error) = appender.poll(now) {
            return (appender.progress().durable, Some(error));
        }
    }
    (appender.progress().durable, None)
}

fn broken(faults: Faults) -> FaultDisk {
    FaultDisk::new(SEED, 3, 2 * 4096, faults)
}

/// Every record that is there is what was appended; returns the sequence behind the last.
fn next_of(disk: &mut FaultDisk) -> u64 {
    let mut cursor = Cursor::new(disk, 0).expect("a folder");
    let mut next = 0;
    while let Some(item) = cursor.next(disk).expect("readable") {
        let Item::Commit(commit) = item else { continue };
        for raw in commit.records() {
            assert!(is_right(SEED, &(raw.sequence, raw.kind, raw.body.to_vec())));
            next = raw.sequence + 1;
        }
    }
    next
}

#[test]
fn after_a_failed_write_or_sync_the_log_stays_failed_and_what_was_durable_is_there() {
    for number in 0..40 {
        for sync in [false, true] {
            let (write_error, sync_error) = if sync { (None, Some(number)) } else { (Some(number), None) };
            let mut disk = broken(Faults { write_error, sync_error, ..Faults::default() });
            let Ok(mut appender) = Appender::open(&mut disk, config(12), 0) else {
                assert!(sync && number < 3, "only the first syncs are part of opening");
                continue;
            };
            let (durable, error) = until_it_fails(&mut appender, 400);
            let error = error.expect("a fault");
            assert!(matches!(error, Error::Storage { .. }), "{error}");
            assert_eq!(error.reason(), Reason::PersistUnavailable);
            // Not a second time: a sync would now succeed and mean nothing.
            for now in 0..5 {
                assert!(matches!(appender.poll(now), Err(Error::Failed)));
            }
            assert_eq!(appender.progress().state, State::Failed);
            assert!(matches!(appender.append(0, &record(SEED, 0, &mut Vec::new())), Err(Error::Failed)));
            drop(appender);
            let mut left = disk.power_cut(number, Cut::TearsSectors);
            let mut appender = Appender::open(&mut left, config(12), 0).expect("the disk is well again");
            assert!(appender.next_sequence() >= durable);
            fill(&mut appender, SEED, durable + 80, 3);
            drop(appender);
            assert_eq!(next_of(&mut left), durable + 80);
        }
    }
}

#[test]
fn a_full_disk_is_told_and_the_log_goes_on_when_there_is_room() {
    let mut disk = disk(SEED, 3, 2);
    disk.set_capacity(3 * 12 * 4096);
    let mut appender = Appender::open(disk, config(12), 0).expect("room for the first segment");
    let (durable, error) = until_it_fails(&mut appender, 10_000);
    let error = error.expect("a full disk");
    assert!(matches!(error, Error::DiskFull));
    assert_eq!((error.reason(), appender.progress().state), (Reason::PersistDiskFull, State::Full));
    let next = appender.next_sequence();
    for now in 2_000..2_010 {
        // It tries again by itself and is still full; nothing that was taken is given up.
        assert_eq!(appender.poll(now * 1_000).expect("not failed").state, State::Full);
    }
    assert!(appender.progress().durable >= durable);
    appender.storage().set_capacity(u64::MAX);
    let progress = appender.poll(10_000_000).expect("not failed");
    assert_eq!(progress.state, State::Running);
    finish(&mut appender, 10_000_000);
    assert_eq!(appender.progress().durable, next);
    fill(&mut appender, SEED, next + 50, 3);
    let mut disk = appender.into_storage();
    assert_eq!(next_of(&mut disk), next + 50);
    assert!(verify(&mut disk, None, &[]).expect("readable").findings.is_empty());
}

#[test]
fn a_full_disk_is_emptied_by_retention() {
    let mut disk = disk(SEED, 3, 2);
    disk.set_capacity(8 * 12 * 4096);
    let mut appender = Appender::open(disk, config(12), 0).expect("room for the first segment");
    let (_, error) = until_it_fails(&mut appender, 10_000);
    assert!(matches!(error, Some(Error::DiskFull)));
    let buried = appender.retain(1, 1, &Limits { bytes_max: 3 * 12 * 4096, oldest_tick: 0 }, &signer());
    assert!(buried.expect("room for tombstones, always") > 0);
    let mut now = 1;
    while appender.progress().state == State::Full {
        now += 1_000;
        appender.poll(now).expect("not failed");
        assert!(now < 1_000_000, "the room that was made is not seen");
    }
    finish(&mut appender, now);
    let mut disk = appender.into_storage();
    let report = verify(&mut disk, Some(&signer().verifier()), &[]).expect("readable");
    assert_eq!(report.findings, []);
    assert!(report.first_sequence > 0);
}

#[test]
fn a_write_without_room_is_tried_again() {
    for number in 0..30 {
        let faults = Faults { write_full: Some(number), ..Faults::default() };
        let mut appender = Appender::open(broken(faults), config(12), 0).expect("new");
        let (_, error) = until_it_fails(&mut appender, 90);
        assert!(matches!(error, Some(Error::DiskFull)), "write {number}: {error:?}");
        finish(&mut appender, 1_000_000);
        assert_eq!(appender.progress().durable, appender.next_sequence());
        let next = appender.next_sequence() + 40;
        fill(&mut appender, SEED, next, 3);
        let mut disk = appender.into_storage();
        assert_eq!(next_of(&mut disk), next);
        assert!(verify(&mut disk, None, &[]).expect("readable").findings.is_empty());
    }
}

#[test]
fn a_stalled_disk_moves_nothing_forward_and_refuses_what_it_cannot_hold() {
    let mut appender =
        Appender::open(broken(Faults { stall_ns: 1 << 40, ..Faults::default() }), config(64), 0).expect("new");
    let mut bytes = Vec::new();
    let error = loop {
        if let Err(error) = appender.append(1, &record(SEED, appender.next_sequence(), &mut bytes)) {
            break error;
        }
        appender.commit(1, true);
        let progress = appender.poll(1).expect("not failed");
        assert_eq!((progress.written, progress.durable, progress.state), (0, 0, State::Running));
    };
    assert!(matches!(error, Error::Busy));
    assert_eq!(error.reason(), Reason::PersistTimeout);
    let mut now = 1;
    while !appender.finish(now).expect("not failed") {
        now += 1 << 41;
    }
    assert_eq!(appender.progress().durable, appender.next_sequence());
}

#[test]
fn a_write_that_is_cut_short_is_finished() {
    for number in 0..30 {
        let faults = Faults { short_write: Some(number), ..Faults::default() };
        let mut appender = Appender::open(broken(faults), config(12), 0).expect("new");
        fill(&mut appender, SEED, 90, 20);
        let mut disk = appender.into_storage();
        assert_eq!(next_of(&mut disk), 90);
        assert!(verify(&mut disk, None, &[]).expect("readable").findings.is_empty());
    }
}

#[test]
fn a_misdirected_write_is_found_and_never_taken_for_the_end() {
    let mut found = 0;
    for number in 0..60 {
        let faults = Faults { misdirected_write: Some(number), ..Faults::default() };
        let mut disk = broken(faults);
        let mut appender = Appender::open(&mut disk, config(16), 0).expect("new");
        fill(&mut appender, SEED, 70, 1);
        drop(appender);
        let report = verify(&mut disk, None, &[]).expect("readable");
        if report.findings.is_empty() {
            assert_eq!(next_of(&mut disk), 70, "it hit its own place");
            continue;
        }
        assert!(!report.is_sound(), "write {number}: {:?}", report.findings);
        found += 1;
    }
    assert!(found > 30, "{found} were found");
}

#[test]
fn a_sync_that_lies_shows_against_a_checkpoint_from_outside() {
    let mut shown = 0;
    for number in 3..20 {
        let mut disk = broken(Faults { lost_sync: Some(number), ..Faults::default() });
        let mut appender = Appender::open(&mut disk, config(64), 0).expect("new");
        let mut bytes = Vec::new();
        // Stops right behind the lie.
        for now in 0.. {
            if appender.progress().durable >= number {
                break;
            }
            let next = appender.next_sequence();
            if appender.progress().durable == next {
                appender.append(now, &record(SEED, next, &mut bytes)).expect("room");
                appender.commit(now, true);
            }
            appender.poll(now).expect("not failed");
        }
        let kept = Checkpoint { origin: String::new(), size: appender.next_sequence(), root: appender.root() };
        drop(appender);
        let mut left = disk.power_cut(number, Cut::LosesAll);
        let report = verify(&mut left, None, std::slice::from_ref(&kept)).expect("readable");
        shown += u64::from(report.findings.iter().any(|found| found.fault == Fault::RolledBack { size: kept.size }));
        let next = next_of(&mut left);
        assert!(report.is_sound() == (next >= kept.size), "{:?}", report.findings);
    }
    assert!(shown > 0);
}

/// Anything at all, once each, in many workloads: either all that was acknowledged is there, or the log says that it is
/// damaged. Nothing is lost in silence, and nothing that was not appended is ever read.
#[test]
fn no_single_fault_loses_anything_in_silence() {
    let mut damaged = 0;
    for seed in 0..600 {
        let mut random = Random::new(seed);
        let at = Some(random.below(40));
        let mut faults = Faults { stall_ns: 200, ..Faults::default() };
        match seed % 4 {
            0 => faults.write_error = at,
            1 => faults.short_write = at,
            2 => faults.sync_error = at,
            _ => {}
        }
        let mut disk = FaultDisk::new(seed, 3, 2 * 4096, faults);
        let Ok(mut appender) = Appender::open(&mut disk, config(12), 0) else { continue };
        let (durable, _) = until_it_fails(&mut appender, 20 + random.below(40));
        drop(appender);
        let mut left = disk.power_cut(seed, Cut::ALL[usize::try_from(random.below(4)).expect("small")]);
        if seed % 4 == 3 && durable > 0 {
            // A bit turns over in what was durable, anywhere in the file.
            let bytes = left.bytes_mut("segment-00000000000000000000.log").expect("the first segment");
            let bit = usize::try_from(random.below(bytes.len() as u64 * 8)).expect("small");
            bytes[bit / 8] ^= 1 << (bit % 8);
        }
        match Appender::open(&mut left, config(12), 0) {
            Ok(appender) => {
                let next = appender.next_sequence();
                drop(appender);
                let report = verify(&mut left, Some(&signer().verifier()), &[]).expect("readable");
                assert!(next >= durable || !report.is_sound(), "seed {seed}: {durable} were durable, {next} are there");
                damaged += u64::from(!report.is_sound());
            }
            Err(error) => {
                assert!(matches!(error, Error::Damaged(_)), "seed {seed}: {error}");
                damaged += 1;
            }
        }
        assert!(next_of(&mut left) < 1 << 40);
    }
    assert!(damaged > 50, "{damaged} were damaged");
}
