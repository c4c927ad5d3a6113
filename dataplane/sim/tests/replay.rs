//! What a worker recorded is replayed and nothing differs; where something differs it is said.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::{
    env, fs,
    path::{Path, PathBuf},
};
use tachyon_log::{
    Appender, Config, Disk, Found, ReadOnly, Reader, Record,
    format::segment_name,
    turn::{Encoder, Logged, header, join, parts_of, split},
};
use tachyon_sim::{
    Keys, RecordedTurn, Replay, Report,
    record::{Recorder, UNIX_OFFSET_NS, World},
    run::run,
    snapshot,
    write::Writer,
};

use tachyon_wire::{
    FrameHeader, Reason,
    frame::AUTHENTICATED,
    tap::{self, ENTRY_REASONS, FRAME_STUBS, FRAME_WHOLE, Part, TURN_BYTES},
};

use zerocopy::FromBytes;

/// Turns as a log has them: keys replaced by their names.
fn recorded(world: World, messages: u64) -> (Recorder, Keys, Vec<RecordedTurn>) {
    let mut recorder = Recorder::new(world).unwrap();
    let mut keys = Keys::new();
    recorder.keys().into_iter().for_each(|key| keys.add(key));
    let mut turns: Vec<RecordedTurn> = Vec::new();
    while recorder.messages() < messages {
        turns.extend(recorder.step());
    }
    let turns = turns.iter().map(through_logs).collect();
    (recorder, keys, turns)
}

/// A turn taken apart for the logs of its shards, and put together again.
fn through_logs(turn: &RecordedTurn) -> RecordedTurn {
    let parts = split(&turn.record, 1 << 20).unwrap().parts.into_iter().map(|part| Logged {
        shard: part.shard,
        frames: part.frames.iter().map(|whole| turn.frames[whole.place].clone()).collect(),
        bodies: part.bodies,
    });
    join(parts.collect()).unwrap()
}

fn replay(recorder: &Recorder, keys: &Keys, turns: &[RecordedTurn]) -> Report {
    let mut replay = Replay::new(&turns[0], keys.clone()).unwrap();
    for turn in turns {
        let version = header(&turn.record).unwrap().ruleset_version.get();
        if version != 0 {
            replay.add_ruleset(version, recorder.image(version).unwrap()).unwrap();
        }
        replay.turn(turn);
    }
    replay.report()
}

#[test]
fn a_replay_makes_the_same_records() {
    for seed in 1..4 {
        let (recorder, keys, turns) = recorded(World { seed, ..World::default() }, 100_000);
        let report = replay(&recorder, &keys, &turns);
        assert_eq!((report.mismatches, report.not_replayed, report.on_trust), (0, 0, 0), "{:?}", report.first);
        assert_eq!((report.turns, report.egress_turns), (turns.len() as u64, turns.len() as u64));
        assert!(report.digest_equal && report.egress_frames > 1_000 && report.verdicts_compared > 90_000);
        assert_eq!(replay(&recorder, &keys, &turns).hash, report.hash, "a replay is always the same");
    }
}

#[test]
fn the_recorded_world_has_all_that_may_happen() {
    let (mut recorder, _, turns) = recorded(World { seed: 1, ..World::default() }, 200_000);
    let counters = recorder.stats().counters;
    let frames = [
        Reason::TooLarge,
        Reason::BadFrame,
        Reason::NoSession,
        Reason::BadTag,
        Reason::BadCrc,
        Reason::Stale,
        Reason::Replay,
    ];
    for reason in frames {
        assert!(counters.frames_refused[reason.index()] > 0, "{reason:?}");
    }
    let messages = [
        Reason::BadPacket,
        Reason::TopicShard,
        Reason::Sender,
        Reason::Denylisted,
        Reason::TopicTagRequired,
        Reason::QuotaExceeded,
        Reason::Throttled,
    ];
    for reason in messages {
        assert!(counters.messages_refused[reason.index()] > 0, "{reason:?}");
    }
    let (mut stubs, mut whole) = (0, 0);
    for turn in &turns {
        for part in tap::read(&turn.record).unwrap().1 {
            if let Part::Frame(frame) = part {
                stubs += u64::from(frame.entry.form == FRAME_STUBS);
                whole += u64::from(frame.entry.form == FRAME_WHOLE);
            }
        }
    }
    assert!(stubs > 100 && whole > 100, "{stubs} in part, {whole} whole");
    assert!(counters.copies_refused[Reason::PersistTimeout.index()] > 0 && counters.ruleset_swaps > 1);
    assert!(recorder.step().is_some() || recorder.turns() > 0);
}

/// Quotas of senders depend on shards that nobody records, so they are taken from the record; all else is compared.
#[test]
fn where_only_some_shards_are_recorded_quotas_are_taken_on_trust() {
    let (recorder, keys, turns) = recorded(World { seed: 5, partly: true, ..World::default() }, 200_000);
    let report = replay(&recorder, &keys, &turns);
    assert_eq!((report.mismatches, report.not_replayed), (0, 0), "{:?}", report.first);
    assert!(report.on_trust > 0 && report.egress_turns < 200);
    assert!(report.verdicts_compared > 10 * report.on_trust);
}

#[test]
fn what_leaves_is_compared_up_to_the_first_message_that_went_without_the_log() {
    let (recorder, keys, turns) = recorded(World { seed: 6, marks: true, ..World::default() }, 200_000);
    let report = replay(&recorder, &keys, &turns);
    assert_eq!((report.mismatches, report.not_replayed), (0, 0), "{:?}", report.first);
    assert!(report.digest_equal && report.egress_turns > 0 && report.egress_turns < report.turns);
}

#[test]
fn without_keys_verdicts_are_compared_and_seals_are_not() {
    let (recorder, _, turns) = recorded(World { seed: 7, ..World::default() }, 50_000);
    let report = replay(&recorder, &Keys::new(), &turns);
    assert_eq!((report.mismatches, report.not_replayed, report.egress_turns), (0, 0, 0), "{:?}", report.first);
    assert!(report.on_trust > 0);
}

/// A log that says something else than what happened is found out, at the frame and the message.
#[test]
fn a_changed_verdict_is_found() {
    let (recorder, keys, mut turns) = recorded(World { seed: 8, ..World::default() }, 50_000);
    let word = |turn: &RecordedTurn| {
        let (_, parts) = tap::read(&turn.record)?;
        for part in parts {
            if let Part::Frame(frame) = part
                && frame.entry.flags & ENTRY_REASONS != 0
                && let Some(at) = frame.reasons.iter().position(|word| *word == Reason::Throttled.number())
            {
                let begin = frame.reasons.as_ptr().addr() - turn.record.as_ptr().addr();
                return Some((begin + at, at));
            }
        }
        None
    };
    let (place, (at, index)) = turns.iter().enumerate().find_map(|(place, turn)| Some((place, word(turn)?))).unwrap();
    turns[place].record[at] = 0;
    let report = replay(&recorder, &keys, &turns);
    let first = &report.first[0];
    assert_eq!((report.mismatches, first.turn, first.message), (1, place as u64 + 1, Some(index)));
    assert_eq!((first.recorded.as_str(), first.replayed.as_str()), ("accepted", Reason::Throttled.code()));
}

/// A frame that was changed behind what judging looks at is found in what left.
#[test]
fn a_changed_message_is_found() {
    let (recorder, _, mut turns) = recorded(World { seed: 9, ..World::default() }, 50_000);
    // Of a session whose frames are only taken on trust, so that it is judged all the same.
    let flags = |frame: &Vec<u8>| FrameHeader::read_from_prefix(frame).unwrap().0.flags.get();
    let crc = |frame: &Vec<u8>| flags(frame) & AUTHENTICATED == 0;
    let turn = turns.iter_mut().find(|turn| turn.frames.iter().any(crc)).unwrap();
    let frame = turn.frames.iter_mut().find(|frame| crc(frame)).unwrap();
    frame[64 + 16] ^= 1;
    let mut keys = Keys::new();
    recorder.keys().into_iter().for_each(|key| keys.add(key));
    let report = replay(&recorder, &keys, &turns);
    assert!(report.mismatches > 0);
}

#[test]
fn a_lost_turn_ends_a_replay_and_is_said() {
    let (recorder, keys, mut turns) = recorded(World { seed: 10, ..World::default() }, 20_000);
    turns.remove(100);
    let report = replay(&recorder, &keys, &turns);
    assert_eq!((report.turns, report.mismatches), (100, 0));
    assert_eq!(report.not_replayed, turns.len() as u64 - 100);
    assert_eq!(report.because.as_deref(), Some("turns 101 to 101 were lost"));
    assert!(Replay::new(&turns[1], keys).is_err(), "it does not begin in the middle");
}

#[test]
fn a_turn_that_was_taken_apart_is_put_together_again() {
    let (_, _, turns) = recorded(World { seed: 11, ..World::default() }, 50_000);
    let without_commands = |turn: &RecordedTurn| {
        let (header, parts) = tap::read(&turn.record).unwrap();
        let mut encoder = Encoder::default();
        for part in parts {
            match part {
                Part::Command(..) => {}
                Part::Item(item) => encoder.item(item),
                Part::Frame(frame) => encoder.frame(frame.entry, frame.head, frame.stubs, frame.reasons),
            }
        }
        encoder.finish(header)
    };
    for turn in &turns {
        let again = through_logs(turn);
        // Commands hold names by now, of which the second time makes names again.
        assert_eq!((without_commands(&again), &again.frames), (without_commands(turn), &turn.frames));
        assert_eq!(again.record[..TURN_BYTES], turn.record[..TURN_BYTES]);
    }
}

/// As many messages as `TACHYON_REPLAY_MESSAGES` says (a million if it does not), through logs on the disk.
#[test]
fn logs_are_replayed_from_the_disk() {
    let messages = env::var("TACHYON_REPLAY_MESSAGES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    let directory = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("logs-are-replayed");
    let _ = fs::remove_dir_all(&directory);
    fs::create_dir_all(&directory).unwrap();
    let mut recorder = Recorder::new(World { seed: 12, ..World::default() }).unwrap();
    let mut writer = Writer::new(&directory, [7; 16], UNIX_OFFSET_NS);
    let mut turns = 0;
    while recorder.messages() < messages {
        if let Some(turn) = recorder.step() {
            let version = header(&turn.record).unwrap().ruleset_version.get();
            writer.append(&turn, recorder.image(version)).unwrap();
            turns += 1;
        }
    }
    writer.finish(recorder.now()).unwrap();
    let keys = Keys::read(&directory.join("keys")).unwrap();
    let outcome = run(&directory, &keys, None, false, |_| {}).unwrap();
    assert!(outcome.is_equal() && outcome.damage.is_empty(), "{:?}", outcome.reports[0].first);
    let [report] = outcome.reports.as_slice() else { panic!("one worker") };
    assert_eq!((report.worker, report.turns, report.not_replayed, report.on_trust), (3, turns, 0, 0));
    assert_eq!(report.messages, recorder.stats().counters.messages_seen);
    assert_eq!(run(&directory, &keys, Some(1), false, |_| {}).unwrap().reports.len(), 0, "no such worker");
    // A bit of it changes.
    let segment = fs::read_dir(directory.join("shard-00001")).unwrap().filter_map(Result::ok);
    let segment = segment.map(|entry| entry.path()).filter(|path| path.extension().is_some_and(|it| it == "log")).min();
    let mut bytes = fs::read(segment.as_ref().unwrap()).unwrap();
    bytes[300_000] ^= 1;
    fs::write(segment.unwrap(), bytes).unwrap();
    let outcome = run(&directory, &keys, None, false, |_| {}).unwrap();
    assert!(!outcome.damage.is_empty() && outcome.reports[0].not_replayed > 0);
    fs::remove_dir_all(&directory).unwrap();
}

/// Keeps of a shard's log the records before `end`, as a crash would that came then.
fn cut(directory: &Path, shard: u16, end: u64) {
    let path = directory.join(format!("shard-{shard:05}"));
    let mut reader = Reader::new(ReadOnly::new(&path), 0).unwrap().until(end);
    let mut kept = Vec::new();
    while let Some(found) = reader.read().unwrap() {
        let Found::Record(record) = found else { panic!("{found:?}") };
        kept.push(record);
    }
    fs::remove_dir_all(&path).unwrap();
    let disk = Disk::open(&path, 4, 1 << 20).unwrap();
    let config =
        Config { shard, log_id: [8; 16], segment_bytes: 64 << 20, mark_after_ns: u64::MAX, retry_after_ns: 1_000 };
    let mut log = Appender::open(disk, config, 0).unwrap();
    for record in &kept {
        while let Err(error) = log.append(record.tick, &Record::read(&record.raw()).unwrap()) {
            assert!(matches!(error, tachyon_log::Error::Busy), "{error}");
            log.poll(record.tick).unwrap();
        }
    }
    while !log.finish(u64::MAX - 1).unwrap() {}
}

/// Leaves of a commit behind the last one only its second sector, as a write that a crash cut short.
fn tear(directory: &Path, shard: u16) {
    let path = directory.join(format!("shard-{shard:05}")).join(segment_name(0));
    let mut bytes = fs::read(&path).unwrap();
    let used = bytes.iter().rposition(|byte| *byte != 0).unwrap();
    bytes[(used / 4_096 + 1) * 4_096 + 600] = 1;
    fs::write(path, bytes).unwrap();
}

/// Turns of which other shards have a part too: their numbers, and the sequences of their first frame and of their decisions.
fn shared_turns(directory: &Path, shard: u16) -> Vec<(u64, u64, u64)> {
    let path = directory.join(format!("shard-{shard:05}"));
    let mut reader = Reader::new(ReadOnly::new(&path), 0).unwrap();
    let (mut found, mut first) = (Vec::new(), None);
    while let Some(next) = reader.read().unwrap() {
        let Found::Record(record) = next else { panic!("{next:?}") };
        match Record::read(&record.raw()).unwrap() {
            Record::Frame(..) => first = first.or(Some(record.sequence)),
            Record::Decisions(body) => {
                let first = first.take().filter(|_| parts_of(body).is_some());
                found.extend(first.map(|first| (header(body).unwrap().turn.get(), first, record.sequence)));
            }
            _ => {}
        }
    }
    found
}

/// A crash may leave a turn in the log of one shard and not in that of another: that is no difference, and it is said.
#[test]
fn a_turn_that_a_crash_cut_ends_a_replay_and_is_said() {
    let whole = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("a-crash-cut");
    let _ = fs::remove_dir_all(&whole);
    fs::create_dir_all(&whole).unwrap();
    let mut recorder = Recorder::new(World { seed: 14, ..World::default() }).unwrap();
    let mut writer = Writer::new(&whole, [7; 16], UNIX_OFFSET_NS);
    while recorder.messages() < 10_000 {
        if let Some(turn) = recorder.step() {
            let version = header(&turn.record).unwrap().ruleset_version.get();
            writer.append(&turn, recorder.image(version)).unwrap();
        }
    }
    writer.finish(recorder.now()).unwrap();
    let keys = Keys::read(&whole.join("keys")).unwrap();
    let shard = 2;
    let turns = shared_turns(&whole, shard);
    assert!(turns.len() > 20, "{} turns in several shards", turns.len());
    // From the last to the first, because what is cut is gone.
    for (number, first, decisions) in turns.iter().rev().step_by(turns.len() / 4) {
        // Its frames are there and the decisions are not, then nothing of it is; and last a write was cut short as well.
        for (end, is_torn) in [(*decisions, false), (*first, false), (*first, true)] {
            cut(&whole, shard, end);
            if is_torn {
                tear(&whole, shard);
            }
            let outcome = run(&whole, &keys, None, false, |_| {}).unwrap();
            let [report] = outcome.reports.as_slice() else { panic!("one worker") };
            assert!(outcome.is_equal() && outcome.damage.is_empty(), "turn {number}: {:?}", report.first);
            let because = format!(
                "turn {number} is in the logs only in part: the log of shard 2 ends before its part is whole, as a crash \
                 leaves it"
            );
            assert_eq!(report.because, Some(because));
            assert_eq!(report.turns, number - 1, "all before it are replayed");
        }
    }
    fs::remove_dir_all(whole.join("shard-00001")).unwrap();
    let outcome = run(&whole, &keys, None, false, |_| {}).unwrap();
    let because = outcome.reports[0].because.clone().unwrap();
    assert!(because.contains("in part: there is no log of shard 1"), "{because}");
    fs::remove_dir_all(&whole).unwrap();
}

/// The levels and windows are the recorded worker's own, and a file that was changed is not believed.
#[test]
fn a_snapshot_says_what_the_worker_came_to() {
    let (mut recorder, keys, turns) = recorded(World { seed: 13, ..World::default() }, 50_000);
    let mut replay = Replay::new(&turns[0], keys).unwrap();
    replay.take_notes();
    for turn in &turns {
        let version = header(&turn.record).unwrap().ruleset_version.get();
        if version != 0 {
            replay.add_ruleset(version, recorder.image(version).unwrap()).unwrap();
        }
        replay.turn(turn);
    }
    let document = replay.snapshot().unwrap();
    let number = |value: &serde_json::Value| u32::try_from(value.as_u64().unwrap()).unwrap();
    let topics = document["topics"].as_array().unwrap();
    assert!(topics.len() > 60 && topics.iter().any(|topic| topic["level"].as_u64() > Some(0)));
    for topic in topics {
        assert_eq!(topic["level"].as_u64(), recorder.topic_level(number(&topic["topic"])), "{topic}");
    }
    for sender in document["senders"].as_array().unwrap() {
        assert_eq!(sender["level"].as_u64(), recorder.sender_level(number(&sender["sender"])), "{sender}");
    }
    let windows = document["windows"].as_array().unwrap();
    assert_eq!(windows.len(), 8 * 4);
    for window in windows {
        let shard = u16::try_from(number(&window["shard"])).unwrap();
        let own = recorder.window_state(number(&window["session"]), shard).unwrap();
        assert_eq!((number(&window["top"]), number(&window["epoch"])), (own.top, own.epoch));
        assert_eq!(window["seen"], serde_json::json!(own.seen));
        assert_eq!(window["refused"], serde_json::json!(own.refused));
    }
    let accepted: u64 = topics.iter().map(|topic| topic["accepted"].as_u64().unwrap()).sum();
    assert_eq!(accepted, recorder.stats().counters.messages_accepted);
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join("a.snapshot");
    snapshot::write(&path, &document).unwrap();
    assert_eq!(snapshot::read(&path).unwrap(), document);
    let mut bytes = fs::read(&path).unwrap();
    bytes[200] ^= 1;
    fs::write(&path, bytes).unwrap();
    assert!(snapshot::read(&path).is_err());
    fs::remove_file(&path).unwrap();
}
