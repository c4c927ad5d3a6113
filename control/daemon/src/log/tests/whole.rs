//! The whole writer over disks in memory and on a real one.

use super::{
    BOOT, Cursors, Folder, Player, Read, Script, at, check, disks::Disks, key_of, read, run, settings, writer,
};
use crate::log::{Settings, folders::OnDisk, writer::Writer};
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    sync::{Arc, atomic::Ordering},
};
use tachyon_log::{ReadOnly, fault::Faults, record::Kind, verify::verify};
use tachyon_wire::Reason;

fn logs(disks: &Disks) -> BTreeMap<u16, Read> {
    disks.disks.lock().expect("unbroken").iter_mut().map(|(shard, disk)| (*shard, read(disk))).collect()
}

fn sound(disks: &Disks) {
    for (shard, disk) in disks.disks.lock().expect("unbroken").iter_mut() {
        let report = verify(disk, None, &[]).expect("readable");
        assert!(report.is_sound(), "shard {shard}: {:?}", report.findings);
    }
}

/// Ends the writer in good order.
fn end(mut writer: Writer<Disks, Player>, mut tick: u64) {
    while !writer.finish(at(tick)) {
        tick += 10_000;
    }
}

#[test]
fn two_workers_turns_come_to_the_logs_of_their_shards() {
    let (folder, disks) = (Folder::new("log"), Disks::default());
    let (one, two) = (Script::new(0, &[0, 2], 12_000), Script::new(1, &[1, 3, 5], 8_000));
    let cursors = [Arc::new(Cursors::default()), Arc::new(Cursors::default())];
    let mut writer = writer(&folder, disks.clone(), settings());
    writer.attach(at(0), BOOT, vec![Player::new(&one, &cursors[0]), Player::new(&two, &cursors[1])]);
    let tick = run(&mut writer, 0, &[(&one, &cursors[0]), (&two, &cursors[1])]);
    assert_eq!(cursors[0].state.load(Ordering::SeqCst), 1);
    let status = writer.status(at(tick));
    assert_eq!((status.workers[0].turns, status.workers[1].turns, status.workers[0].turns_lost), (12_000, 8_000, 0));
    end(writer, tick);
    assert_eq!(cursors[0].state.load(Ordering::SeqCst), 0, "nobody writes any more");
    sound(&disks);
    let logs = logs(&disks);
    assert_eq!(logs.keys().copied().collect::<Vec<_>>(), [0, 1, 2, 3, 5]);
    check(&one, &logs, one.turns);
    check(&two, &logs, two.turns);
    for log in logs.values() {
        assert_eq!(log.gaps, []);
        assert_eq!(log.clocks[0], (BOOT, true));
        assert!(log.clocks[1..].iter().all(|clock| *clock == (BOOT, false)));
        assert!(log.images.starts_with(&[1]) && log.checkpoints > 0);
    }
    assert!(logs[&0].images.contains(&2) && logs[&0].images.contains(&3), "{:?}", logs[&0].images);
}

#[test]
fn a_durable_turn_is_stable_only_once_it_is_synced_and_a_logged_one_once_it_is_written() {
    for durable in [false, true] {
        let folder = Folder::new("log");
        // Nothing that is begun ends before the end of time.
        let stalled = Faults { stall_ns: 1 << 20, ..Faults::default() };
        let disks = Disks { faults: BTreeMap::from([(0, stalled)]), ..Disks::default() };
        let turns = (1..).find(|turn| {
            let script = Script::new(0, &[0], *turn);
            (script.record(*turn)[5] & 1 != 0) == durable && *turn > 1
        });
        let mut script = Script::new(0, &[0], turns.expect("there is one"));
        script.lost = 1..script.turns;
        let cursors = Arc::new(Cursors::default());
        let lazy = Settings { loss_window_ns: u64::MAX, checkpoint_interval_ns: u64::MAX, ..settings() };
        let mut writer = writer(&folder, disks, lazy);
        writer.attach(at(0), BOOT, vec![Player::new(&script, &cursors)]);
        let (mut written, mut stable) = (None, None);
        for tick in (0..1 << 24).step_by(1 << 10) {
            writer.step(at(tick));
            written = written.or((cursors.written.load(Ordering::SeqCst) > 0).then_some(tick));
            stable = stable.or((cursors.stable_turns() > 0).then_some(tick));
        }
        let (written, stable) = (written.expect("written"), stable.expect("stable"));
        assert_eq!(stable > written, durable, "written at {written}, stable at {stable}");
    }
}

#[test]
fn after_a_restart_the_ring_is_read_again_and_nothing_is_there_twice() {
    let (folder, disks) = (Folder::new("log"), Disks::default());
    let script = Script::new(4, &[6, 7], 3_000);
    let cursors = Arc::new(Cursors::default());
    let mut tick = 0;
    for restart in 0..60 {
        let mut writer = writer(&folder, disks.clone(), settings());
        // The node forgot what it was told since, as if control had died before it could say it.
        let told = cursors.stable.load(Ordering::SeqCst).saturating_sub(64 * (restart % 7) * 20);
        cursors.stable.store(told, Ordering::SeqCst);
        writer.attach(at(tick), BOOT, vec![Player::new(&script, &cursors)]);
        for _ in 0..restart % 13 {
            tick += 10_000;
            writer.step(at(tick));
        }
        assert_eq!(writer.status(at(tick)).workers[0].turns_lost, 0);
    }
    let mut writer = writer(&folder, disks.clone(), settings());
    writer.attach(at(tick), BOOT, vec![Player::new(&script, &cursors)]);
    let tick = run(&mut writer, tick, &[(&script, &cursors)]);
    end(writer, tick);
    sound(&disks);
    let logs = logs(&disks);
    check(&script, &logs, script.turns);
    assert!(logs.values().all(|log| log.gaps.is_empty()), "{:?}", logs[&6].gaps);
    assert!(logs.values().all(|log| log.clocks.iter().filter(|(_, begins)| *begins).count() == 1));
}

#[test]
fn what_a_dead_node_left_is_taken_however_much_it_is_or_said_to_be_lost() {
    for drains in [true, false] {
        let (folder, disks) = (Folder::new("log"), Disks::default());
        // More than a log takes before its disk is looked at.
        let script = Script::new(0, &[0], 6_000);
        let cursors = Arc::new(Cursors::default());
        let mut writer = writer(&folder, disks.clone(), settings());
        writer.attach(at(0), BOOT, vec![Player { room: script.turns, ..Player::new(&script, &cursors) }]);
        let mut tick = 0;
        while !writer.drain(at(tick), [2; 16]) && drains {
            tick += 10_000;
            assert!(tick < 1 << 32, "it never ends: {cursors:?}");
        }
        let (next, theirs) = (Script::new(1, &[0], 10), Arc::new(Cursors::default()));
        writer.attach(at(tick), [2; 16], vec![Player::new(&next, &theirs)]);
        let tick = run(&mut writer, tick, &[(&next, &theirs)]);
        end(writer, tick);
        sound(&disks);
        let logs = logs(&disks);
        check(&next, &logs, next.turns);
        if drains {
            check(&script, &logs, script.turns);
        }
        assert_eq!(logs[&0].gaps.is_empty(), drains, "{:?}", logs[&0].gaps);
    }
}

#[test]
fn a_new_start_of_the_node_begins_with_a_clock_and_its_turns_from_one() {
    let (folder, disks) = (Folder::new("log"), Disks::default());
    let script = Script::new(0, &[0], 40);
    let mut tick = 0;
    for boot in [[1; 16], [2; 16]] {
        let cursors = Arc::new(Cursors::default());
        let mut writer = writer(&folder, disks.clone(), settings());
        writer.attach(at(tick), boot, vec![Player::new(&script, &cursors)]);
        tick = run(&mut writer, tick, &[(&script, &cursors)]);
        end(writer, tick);
    }
    let mut disk = disks.disks.lock().expect("unbroken").remove(&0).expect("a log");
    let mut clocks = Vec::new();
    let mut bodies = 0;
    let mut cursor = tachyon_log::Cursor::new(&mut disk, 0).expect("a folder");
    while let Some(item) = cursor.next(&mut disk).expect("readable") {
        let tachyon_log::cursor::Item::Commit(commit) = item else { continue };
        for raw in commit.records() {
            match tachyon_log::Record::read(&raw) {
                Some(tachyon_log::Record::Clock(clock)) if clock.boot == 1 => clocks.push((clock.boot_id, bodies)),
                Some(tachyon_log::Record::Decisions(_)) => bodies += 1,
                _ => {}
            }
        }
    }
    assert_eq!((clocks, bodies), (vec![([1; 16], 0), ([2; 16], 40)], 80));
}

#[test]
fn turns_that_were_lost_are_a_gap_in_the_lead_shards_log() {
    let (folder, disks) = (Folder::new("log"), Disks::default());
    let mut script = Script::new(0, &[3, 4], 900);
    script.lost = 401..500;
    let cursors = Arc::new(Cursors::default());
    let mut writer = writer(&folder, disks.clone(), settings());
    writer.attach(at(0), BOOT, vec![Player::new(&script, &cursors)]);
    let tick = run(&mut writer, 0, &[(&script, &cursors)]);
    assert_eq!(writer.status(at(tick)).workers[0].turns_lost, 99);
    end(writer, tick);
    let logs = logs(&disks);
    check(&script, &logs, script.turns);
    assert_eq!(logs[&3].gaps, [(99, Kind::Decisions as u8)]);
    assert_eq!(logs[&4].gaps, []);
}

#[test]
fn after_a_failed_write_or_sync_what_was_not_stable_is_written_again() {
    let mut failed = 0;
    for number in 0..40 {
        let (folder, at_number) = (Folder::new("log"), Some(number / 2));
        let mut faults = Faults { stall_ns: 30_000, ..Faults::default() };
        *(if number % 2 == 0 { &mut faults.sync_error } else { &mut faults.write_error }) = at_number;
        let disks = Disks { faults: BTreeMap::from([(0, faults)]), ..Disks::default() };
        let script = Script::new(0, &[0, 1], 1_000);
        let cursors = Arc::new(Cursors::default());
        let small = Settings { segment_bytes: 4 << 20, ..settings() };
        let mut writer = writer(&folder, disks.clone(), small);
        // A small ring, so that there are many commits.
        let player = Player { room: 30, ..Player::new(&script, &cursors) };
        writer.attach(at(0), BOOT, vec![player]);
        let (mut tick, mut refused) = (0, false);
        while cursors.stable_turns() < script.turns {
            tick += 10_000;
            writer.step(at(tick));
            refused |= cursors.state.load(Ordering::SeqCst) == 256 + u64::from(Reason::PersistUnavailable.number());
            assert!(tick < 10_000_000_000, "fault {number}: {} are stable", cursors.stable_turns());
        }
        failed += u64::from(refused);
        end(writer, tick);
        sound(&disks);
        let logs = logs(&disks);
        // What was only logged may be lost by a sync that fails, and then the log says so.
        let lost: u64 = logs[&0].gaps.iter().map(|(count, _)| count).sum();
        if lost == 0 {
            check(&script, &logs, script.turns);
        } else {
            assert!(number % 2 == 0, "fault {number}: {lost} are lost by a write that failed");
            let durable_ones = |turn: &u64| script.record(*turn)[5] & 1 != 0;
            let max = crate::log::shard::Shard::<tachyon_log::Disk>::body_bytes_max();
            for turn in (1..=script.turns).filter(durable_ones) {
                let parts = tachyon_log::turn::split(&script.record(turn), max).expect("a turn").parts;
                for part in parts.iter().filter(|part| part.durable) {
                    let found = logs[&part.shard].turns.get(&(0, turn)).expect("a durable turn");
                    assert_eq!(found.bodies, part.bodies, "fault {number}: turn {turn}");
                }
            }
        }
    }
    assert!(failed > 30, "only {failed} of 40 faults were met");
}

#[test]
fn a_full_disk_is_told_and_the_writer_goes_on_when_there_is_room() {
    let (folder, disks) = (Folder::new("log"), Disks::default());
    let script = Script::new(0, &[0], 60_000);
    let cursors = Arc::new(Cursors::default());
    let mut writer = writer(&folder, disks.clone(), settings());
    let mut disk = tachyon_log::fault::FaultDisk::new(1, 4, crate::log::folders::SLOT_BYTES, Faults::default());
    disk.set_capacity(10 << 20);
    disks.disks.lock().expect("unbroken").insert(0, disk);
    writer.attach(at(0), BOOT, vec![Player::new(&script, &cursors)]);
    let full = 256 + u64::from(Reason::PersistDiskFull.number());
    let mut tick = 0;
    while cursors.state.load(Ordering::SeqCst) != full {
        tick += 10_000;
        writer.step(at(tick));
        assert!(cursors.stable_turns() < script.turns, "the disk was never full");
    }
    let stable = cursors.stable_turns();
    for _ in 0..1_000 {
        tick += 10_000_000;
        writer.step(at(tick));
    }
    assert_eq!(cursors.state.load(Ordering::SeqCst), full);
    assert!(cursors.stable_turns() < script.turns);
    writer.shard(0).appender().expect("open").storage().disk().set_capacity(u64::MAX);
    let tick = run(&mut writer, tick, &[(&script, &cursors)]);
    assert_eq!(cursors.state.load(Ordering::SeqCst), 1);
    assert!(stable < script.turns);
    end(writer, tick);
    sound(&disks);
    let logs = logs(&disks);
    assert_eq!(logs[&0].gaps, []);
    check(&script, &logs, script.turns);
}

#[test]
fn a_disk_that_stands_still_is_told_after_two_seconds() {
    let folder = Folder::new("log");
    let stalled = Faults { stall_ns: u64::MAX / 2, ..Faults::default() };
    let disks = Disks { faults: BTreeMap::from([(0, stalled)]), ..Disks::default() };
    let script = Script::new(0, &[0], 100);
    let cursors = Arc::new(Cursors::default());
    let mut writer = writer(&folder, disks, settings());
    writer.attach(at(0), BOOT, vec![Player::new(&script, &cursors)]);
    let mut states = Vec::new();
    for tick in (0..4_000_000_000).step_by(10_000_000) {
        writer.step(at(tick));
        states.push(cursors.state.load(Ordering::SeqCst));
    }
    states.dedup();
    assert_eq!(states, [1, 256 + u64::from(Reason::PersistTimeout.number())]);
    assert_eq!(cursors.stable_turns(), 0);
}

fn real(folder: &Folder) -> Writer<OnDisk, Player> {
    writer(folder, OnDisk::new(&folder.0), Settings { scrub_bytes_per_s: 1 << 30, ..settings() })
}

fn files_below(path: &Path) -> Vec<std::path::PathBuf> {
    let entries = fs::read_dir(path).expect("a folder").map(|entry| entry.expect("an entry").path());
    entries.flat_map(|path| if path.is_dir() { files_below(&path) } else { vec![path] }).collect()
}

#[test]
fn no_key_is_in_any_file_but_the_file_of_keys() {
    let folder = Folder::new("log");
    let script = Script::new(0, &[0, 1], 2_000);
    let cursors = Arc::new(Cursors::default());
    let mut writer = real(&folder);
    writer.attach(at(0), BOOT, vec![Player::new(&script, &cursors)]);
    let mut tick = run(&mut writer, 0, &[(&script, &cursors)]);
    while !writer.finish(at(tick)) {
        tick += 10_000;
    }
    let keys: Vec<[u8; 32]> =
        (1..=script.turns).step_by(50).flat_map(|turn| [key_of(0, turn, 1), key_of(0, turn, 2)]).collect();
    // Every eight bytes of a key, which no chance brings there.
    let parts: std::collections::HashSet<[u8; 8]> =
        keys.iter().flat_map(|key| key.windows(8).map(|part| part.try_into().expect("eight"))).collect();
    let mut files = 0;
    for path in files_below(&folder.0) {
        let bytes = fs::read(&path).expect("a file");
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        let found = bytes.windows(8).any(|window| parts.contains(window));
        assert!(!found, "{name} holds part of a key");
        files += 1;
        if name == "keys" {
            let text = String::from_utf8(bytes).expect("text");
            assert_eq!(text.lines().count(), keys.len());
            for key in &keys {
                let hexadecimal: String = key.iter().map(|byte| format!("{byte:02x}")).collect();
                assert!(text.contains(&format!(" {hexadecimal}\n")), "a key is not kept");
            }
        }
    }
    assert!(files >= 6, "{files} files");
}

#[test]
fn a_real_log_has_checkpoints_that_its_public_keys_hold_and_the_scrub_finds_damage_and_its_repair() {
    let folder = Folder::new("log");
    let script = Script::new(0, &[0], 3_000);
    let cursors = Arc::new(Cursors::default());
    let mut writer = real(&folder);
    writer.attach(at(0), BOOT, vec![Player::new(&script, &cursors)]);
    let mut tick = run(&mut writer, 0, &[(&script, &cursors)]);
    for _ in 0..1_000 {
        tick += 100_000;
        writer.step(at(tick));
    }
    let shard = folder.0.join("shard-00000");
    let text = fs::read_to_string(folder.0.join("log.pub")).expect("public keys");
    let verifier = tachyon_log::Verifier::parse(text.lines().next().expect("a key")).expect("a key");
    let note = fs::read_to_string(shard.join("checkpoint")).expect("a checkpoint");
    let checkpoint = verifier.checkpoint(&note).expect("signed");
    assert_eq!(checkpoint.origin, "node.example/tachyon/shard-00000");
    let report = verify(&mut ReadOnly::new(&shard), Some(&verifier), &[checkpoint]).expect("readable");
    assert!(report.is_sound() && report.checkpoints > 0, "{:?}", report.findings);
    // A bit turns over in the first commit.
    let path = shard.join("segment-00000000000000000000.log");
    let mut bytes = fs::read(&path).expect("a segment");
    let corrupt = 256 + u64::from(Reason::PersistCorrupt.number());
    for expected in [corrupt, 1] {
        bytes[4096 + 500] ^= 4;
        fs::write(&path, &bytes).expect("written");
        let mut steps = 0;
        while cursors.state.load(Ordering::SeqCst) != expected {
            tick += 1_000_000_000;
            writer.step(at(tick));
            steps += 1;
            assert!(steps < 10_000, "the scrub does not see it");
        }
    }
}

fn old_segments_are_removed(kept: Settings) {
    let folder = Folder::new("log");
    let script = Script::new(0, &[0], 60_000);
    let cursors = Arc::new(Cursors::default());
    let mut writer = writer(&folder, OnDisk::new(&folder.0), kept);
    writer.attach(at(0), BOOT, vec![Player::new(&script, &cursors)]);
    let mut tick = run(&mut writer, 0, &[(&script, &cursors)]);
    for _ in 0..100 {
        tick += 1_000_000_000;
        writer.step(at(tick));
    }
    while !writer.finish(at(tick)) {
        tick += 10_000;
    }
    let mut files = ReadOnly::new(&folder.0.join("shard-00000"));
    let verifier = fs::read_to_string(folder.0.join("log.pub")).expect("public keys");
    let verifier = tachyon_log::Verifier::parse(&verifier).expect("a key");
    let report = verify(&mut files, Some(&verifier), &[]).expect("readable");
    assert!(report.is_sound(), "{:?}", report.findings);
    assert!(report.first_sequence > 0 && report.segments <= 3, "{} segments", report.segments);
    let log = read(&mut files);
    assert!(!log.images.is_empty() && log.images.iter().all(|version| *version == 3), "{:?}", log.images);
    assert!(log.clocks.len() >= log.images.len(), "every segment has the clocks");
}

#[test]
fn old_segments_are_removed_by_size_and_what_is_left_holds() {
    old_segments_are_removed(Settings { keep_bytes: Some(24 << 20), ..settings() });
}

#[test]
fn old_segments_are_removed_by_age_and_what_is_left_holds() {
    // Every file of the test is older than this.
    old_segments_are_removed(Settings { keep_ns: Some(1), ..settings() });
}

#[test]
fn what_is_known_of_sessions_is_the_same_from_any_snapshot_and_from_none() {
    let (folder, disks) = (Folder::new("log"), Disks::default());
    let cursors = Arc::new(Cursors::default());
    let (mut tick, mut script) = (0, Script::new(0, &[0], 0));
    for turns in [1_000, 2_000] {
        script.turns = turns;
        let mut writer = writer(&folder, disks.clone(), settings());
        writer.attach(at(tick), BOOT, vec![Player::new(&script, &cursors)]);
        tick = run(&mut writer, tick, &[(&script, &cursors)]);
        end(writer, tick);
    }
    let kept = disks.snapshots.lock().expect("unbroken")[&0].clone();
    assert_eq!(kept.len(), 2, "one of each end");
    let mut damaged = kept.clone();
    damaged[0].1.truncate(1_000);
    let mut all_damaged = damaged.clone();
    all_damaged[1].1[200] ^= 1;
    let mut known = Vec::new();
    for snapshots in [kept, damaged, all_damaged, Vec::new()] {
        disks.snapshots.lock().expect("unbroken").insert(0, snapshots);
        let mut writer = writer(&folder, disks.clone(), settings());
        writer.attach(at(tick), BOOT, vec![Player::new(&script, &cursors)]);
        tick = run(&mut writer, tick, &[(&script, &cursors)]);
        let (windows, _) = writer.shard(0).windows().expect("all of it is durable");
        known.push(windows.clone());
    }
    assert!(known[0].next() > 2_000);
    assert!(known.iter().all(|windows| *windows == known[0]));
}
