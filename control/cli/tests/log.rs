//! `tachyon log` over the golden logs and over logs that are made here: what it says, and the codes it ends with.

mod logs;

use logs::{Logs, MIDNIGHT_NS, signer, spec};
use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};
use tachyon_log::format::segment_of;

const OK: i32 = 0;
const REFUSED: i32 = 1;
const USAGE: i32 = 2;

fn tachyon(arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tachyon"));
    command.arg("log").args(arguments).env_remove("TACHYON_LOG_DIR").output().expect("the program can be run")
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("standard output is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("standard error is text")
}

/// The output of a command that must end with `code`.
fn ended(output: Output, code: i32) -> Output {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", stdout(&output), stderr(&output));
    output
}

fn json(output: &Output) -> Value {
    let text = stdout(output);
    assert_eq!(text.matches('\n').count(), 1, "one line: {text}");
    serde_json::from_str(&text).expect("standard output is JSON")
}

fn golden(name: &str) -> String {
    spec().join("log").join(name).display().to_string()
}

/// The names of an object's fields, in the order of the alphabet, as `serde_json` keeps them.
fn fields(value: &Value) -> Vec<&str> {
    value.as_object().expect("an object").keys().map(String::as_str).collect()
}

/// What the reader that shares no code with us says of a log, records and all; nothing where there is no Python.
fn independent(log: &Path) -> Option<Value> {
    let key = fs::read_to_string(spec().join("log/key.txt")).expect("the key");
    let mut command = Command::new("python3");
    command.arg(spec().join("log/read.py")).arg(log).args(["--records", "--key", key.trim()]);
    let Ok(output) = command.output() else {
        eprintln!("skipped: python3 is not installed");
        return None;
    };
    Some(serde_json::from_slice(&output.stdout).expect("JSON"))
}

#[test]
fn golden_logs_come_to_what_they_should() {
    for log in ["whole", "buried"] {
        let arguments = ["verify", "--directory", &golden(log), "--key", &golden("key.txt"), "--json"];
        let found = json(&ended(tachyon(&arguments), OK));
        assert_eq!((&found["sound"], &found["shards"][0]["shard"]), (&Value::Bool(true), &3.into()));
        let shard = &found["shards"][0];
        let expected = fs::read(spec().join("log").join(log).with_extension("json")).expect("what it should come to");
        let expected: Value = serde_json::from_slice(&expected).expect("JSON");
        for field in ["segments", "commits", "first_sequence", "next_sequence", "root", "checkpoints", "findings"] {
            assert_eq!(shard[field], expected[field], "{log}: {field}");
        }
        assert_eq!(shard["sound_sequence"], expected["next_sequence"]);
        assert_eq!(shard["key"], "node.example/shard/3");
        let names = [
            "checkpoints",
            "commits",
            "findings",
            "first_sequence",
            "key",
            "log_id",
            "log_shard",
            "next_sequence",
            "path",
            "records",
            "root",
            "segments",
            "shard",
            "sound",
            "sound_sequence",
        ];
        assert_eq!(fields(shard), names);
    }
    let text = stdout(&ended(tachyon(&["verify", "--directory", &golden("whole"), "--key", &golden("key.txt")]), OK));
    let line = "shard 3: sound, 91 records (0 to 90) in 15 commits and 6 segments, 2 checkpoints signed by \
                node.example/shard/3\n";
    assert_eq!(text, line);
}

#[test]
fn signatures_are_not_believed_to_be_checked_without_a_key() {
    let output = ended(tachyon(&["verify", "--directory", &golden("whole")]), OK);
    assert!(stdout(&output).contains("signatures not checked"), "{}", stdout(&output));
    assert!(stderr(&output).contains("--key names one"), "{}", stderr(&output));
    let other = signer(4).verifier().to_string();
    let output = ended(tachyon(&["verify", "--directory", &golden("whole"), "--key", &other, "--json"]), REFUSED);
    let finding = &json(&output)["shards"][0]["findings"][0];
    assert_eq!((&finding["fault"], &finding["grave"]), (&"checkpoint".into(), &true.into()));
}

/// A copy of a golden log in a folder of its own, changed.
fn changed(change: impl FnOnce(&Path)) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a temporary folder");
    for entry in fs::read_dir(golden("whole")).expect("the golden log") {
        let path = entry.expect("an entry").path();
        fs::copy(&path, folder.path().join(path.file_name().expect("a name"))).expect("a copy");
    }
    change(folder.path());
    folder
}

fn verified(folder: &Path, code: i32) -> Value {
    let folder = folder.to_str().expect("text");
    let found = json(&ended(tachyon(&["verify", "--directory", folder, "--key", &golden("key.txt"), "--json"]), code));
    found["shards"][0].clone()
}

#[test]
fn a_flipped_bit_is_named_and_the_records_before_it_are_sound() {
    let Some(whole) = independent(Path::new(&golden("whole"))) else { return };
    let segments = logs::segments(Path::new(&golden("whole")));
    // The last one holds no record yet.
    for (index, path) in segments[..segments.len() - 1].iter().enumerate() {
        let name = path.file_name().expect("a name");
        let bytes = fs::read(path).expect("a segment");
        // The last byte of the header of the first record in the segment's first commit.
        let at = 4096 + 160 + 31;
        let folder = changed(|folder| {
            let mut bytes = bytes.clone();
            bytes[at] ^= 0x10;
            fs::write(folder.join(name), bytes).expect("a changed segment");
        });
        let shard = verified(folder.path(), REFUSED);
        let finding = &shard["findings"][0];
        let first = segment_of(&name.to_string_lossy()).expect("a segment");
        assert_eq!(finding["file"], name.to_string_lossy().as_ref(), "segment {index}");
        assert_eq!(fields(finding), ["commit", "fault", "file", "grave", "offset", "record", "segment", "what"]);
        assert_eq!((&finding["segment"], &finding["record"]), (&first.into(), &first.into()), "segment {index}");
        assert_eq!((&finding["offset"], &finding["fault"]), (&4096.into(), &"commit".into()), "segment {index}");
        assert_eq!(shard["sound_sequence"], first, "segment {index}");
        assert!(shard["records"].as_u64() < whole["next_sequence"].as_u64(), "segment {index}");
        // Both agree, and so does what a person is told.
        let theirs = independent(folder.path()).expect("python was there");
        assert!(theirs["findings"][0].as_str().expect("a finding").contains(&format!("record {first} ")), "{theirs}");
        let told = tachyon(&["verify", "--directory", folder.path().to_str().expect("text")]);
        let text = stdout(&ended(told, REFUSED));
        assert!(text.contains("DAMAGED") && text.contains(&format!("record {first} in commit")), "{text}");
        let sound =
            if first == 0 { "not even the first".to_owned() } else { format!("records 0 to {} are", first - 1) };
        assert!(text.contains(&sound), "{sound} in {text}");
    }
}

#[test]
fn segments_that_are_cut_gone_or_swapped_are_named() {
    let names: Vec<_> = logs::segments(Path::new(&golden("whole")))
        .iter()
        .map(|path| path.file_name().expect("a name").to_owned())
        .collect();
    let cut = changed(|folder| {
        let bytes = fs::read(folder.join(&names[2])).expect("a segment");
        fs::write(folder.join(&names[2]), &bytes[..bytes.len() - 4096]).expect("a shorter one");
    });
    let gone = changed(|folder| fs::remove_file(folder.join(&names[2])).expect("a file less"));
    let swapped = changed(|folder| {
        fs::rename(folder.join(&names[2]), folder.join("aside")).expect("a name");
        fs::rename(folder.join(&names[3]), folder.join(&names[2])).expect("a name");
        fs::rename(folder.join("aside"), folder.join(&names[3])).expect("a name");
    });
    let ends = changed(|folder| fs::remove_file(folder.join(names.last().expect("six"))).expect("a file less"));
    for (folder, fault, sound) in [
        (&cut, "segment_length", 24),
        (&gone, "segment_missing", 24),
        (&swapped, "segment_foreign", 24),
        (&ends, "segment_missing", 91),
    ] {
        let shard = verified(folder.path(), REFUSED);
        assert_eq!(
            (&shard["findings"][0]["fault"], &shard["sound_sequence"]),
            (&fault.into(), &sound.into()),
            "{shard}"
        );
    }
    let torn = changed(|folder| {
        let path = folder.join(names.last().expect("six"));
        let mut bytes = fs::read(&path).expect("a segment");
        let used = bytes.iter().rposition(|byte| *byte != 0).expect("a header");
        // Of the next commit only the second sector was written.
        bytes[(used / 4096 + 1) * 4096 + 600] = 1;
        fs::write(&path, bytes).expect("a changed segment");
    });
    let shard = verified(torn.path(), OK);
    assert_eq!((&shard["findings"][0]["fault"], &shard["findings"][0]["grave"]), (&"torn".into(), &false.into()));
    assert_eq!((&shard["sound"], &shard["sound_sequence"]), (&true.into(), &91.into()), "{shard}");
}

#[test]
fn every_shard_is_judged_and_a_folder_with_anothers_log_is_told() {
    let logs = Logs::new(&[0, 1, 7], 20);
    let found = json(&ended(tachyon(&["verify", "--directory", logs.path(), "--json"]), OK));
    let shards = found["shards"].as_array().expect("a list");
    assert_eq!(shards.iter().map(|shard| shard["shard"].clone()).collect::<Vec<_>>(), [0, 1, 7].map(Value::from));
    for shard in shards {
        assert_eq!((&shard["checkpoints"], &shard["records"]), (&2.into(), &43.into()));
        assert_eq!(shard["key"], format!("node.example/shard/{}", shard["shard"]));
    }
    let one = json(&ended(tachyon(&["verify", "--directory", logs.path(), "--shard", "7", "--json"]), OK));
    assert_eq!(one["shards"].as_array().map(Vec::len), Some(1));

    fs::rename(logs.shard(0), logs.folder.path().join("aside")).expect("a name");
    fs::rename(logs.shard(1), logs.shard(0)).expect("a name");
    let output = ended(tachyon(&["verify", "--directory", logs.path()]), REFUSED);
    assert!(stdout(&output).contains("is that of shard 1"), "{}", stdout(&output));
}

#[test]
fn only_a_checkpoint_from_elsewhere_shows_that_a_log_was_set_back() {
    let logs = Logs::new(&[0], 40);
    let kept = stdout(&ended(tachyon(&["checkpoint", "--directory", logs.path()]), OK));
    let file = logs.folder.path().join("kept.txt");
    fs::write(&file, &kept).expect("a file");
    let file = file.to_str().expect("text");
    ended(tachyon(&["verify", "--directory", logs.path(), "--checkpoint", file]), OK);
    let older = Logs::new(&[0], 20);
    let output = ended(tachyon(&["verify", "--directory", older.path(), "--checkpoint", file, "--json"]), REFUSED);
    let shard = &json(&output)["shards"][0];
    assert_eq!((&shard["findings"][0]["fault"], &shard["sound_sequence"]), (&"rolled_back".into(), &43.into()));
    let two = Logs::new(&[0, 1], 8);
    ended(tachyon(&["verify", "--directory", two.path(), "--checkpoint", file]), USAGE);
}

#[test]
fn every_kind_of_record_is_shown_as_the_independent_reader_reads_it() {
    for (log, range) in [("whole", "0..90"), ("buried", "48..93")] {
        let Some(theirs) = independent(Path::new(&golden(log))) else { return };
        let shown = json(&ended(tachyon(&["show", range, "--directory", &golden(log), "--json"]), OK));
        let (theirs, shown) =
            (theirs["records"].as_array().expect("a list"), shown["records"].as_array().expect("a list"));
        assert_eq!(theirs.len(), shown.len(), "{log}");
        let kinds = ["", "frame", "decisions", "ruleset", "command", "clock", "tombstone", "gap", "checkpoint"];
        for (theirs, shown) in theirs.iter().zip(shown) {
            let kind = kinds[usize::try_from(theirs["kind"].as_u64().expect("a number")).expect("small")];
            assert_eq!((&theirs["sequence"], &theirs["tick"]), (&shown["sequence"], &shown["tick"]));
            assert_eq!((&shown["kind"], &shown["shard"]), (&kind.into(), &3.into()));
            let body = theirs["body"].as_str().expect("hex");
            match kind {
                "decisions" => assert_eq!(shown["head"], body[..42], "21 bytes, all of which are shown"),
                "checkpoint" => {
                    let note: String =
                        shown["note"].as_str().expect("text").bytes().map(|byte| format!("{byte:02x}")).collect();
                    assert_eq!(note, body);
                }
                "tombstone" => assert_eq!(shown["signature"], body[208..]),
                "frame" => assert_eq!((&shown["source"], &shown["worker"]), (&"192.0.2.7:40000".into(), &1.into())),
                _ => {}
            }
        }
    }
}

#[test]
fn a_record_for_a_program_has_the_fields_of_its_kind() {
    let shown = json(&ended(tachyon(&["show", "0..90", "--directory", &golden("whole"), "--json"]), OK));
    assert_eq!(fields(&shown), ["damaged", "records"]);
    let of = |kind: &str| {
        let records = shown["records"].as_array().expect("a list");
        records.iter().find(|record| record["kind"] == kind).expect(kind).clone()
    };
    let common = ["kind", "sequence", "shard", "tick", "unix_ns"];
    let expected: [(&str, &[&str]); 7] = [
        (
            "frame",
            &[
                "burst",
                "epoch",
                "fault",
                "flags",
                "frame_bytes",
                "frame_id",
                "frame_shard",
                "messages",
                "route_id",
                "sent_ns",
                "session_id",
                "source",
                "type",
                "worker",
            ],
        ),
        ("decisions", &["bytes", "head"]),
        ("ruleset", &["bytes", "offset", "total_bytes", "version"]),
        ("clock", &["boot", "boot_id", "clock_unix_ns"]),
        ("gap", &["count", "first_tick", "last_tick", "of_kind", "reason"]),
        ("checkpoint", &["note", "origin", "root", "size"]),
        (
            "command",
            &[
                "class_cap",
                "command",
                "epoch_floor",
                "key_name",
                "node",
                "pinned",
                "principal",
                "reply_key_name",
                "reply_session_id",
                "sender_high",
                "sender_low",
                "session_id",
                "system",
                "tag_required",
            ],
        ),
    ];
    for (kind, own) in expected {
        let mut names = [&common[..], own].concat();
        names.sort_unstable();
        assert_eq!(fields(&of(kind)), names, "{kind}");
    }
    assert_eq!((&of("gap")["reason"], &of("gap")["of_kind"]), (&"E_PERSIST_DISK_FULL".into(), &"frame".into()));
    assert_eq!((&of("clock")["unix_ns"], &of("clock")["boot"]), (&MIDNIGHT_NS.into(), &true.into()));
    let frame = of("frame");
    let names = ["class", "fault", "flags", "index", "mode", "payload", "provenance", "sender_id", "text", "topic_id"];
    assert_eq!(fields(&frame["messages"][0]), names);
    // The next record is a microsecond later, by the one clock record that there is.
    let tick = frame["tick"].as_u64().expect("a tick");
    assert_eq!(frame["unix_ns"], MIDNIGHT_NS + tick - 1_000);
}

#[test]
fn frames_are_shown_as_the_wire_document_says() {
    let logs = Logs::new(&[2], 4);
    let show = |sequence: &str| json(&ended(tachyon(&["show", sequence, "--directory", logs.path(), "--json"]), OK));
    for (sequence, name) in
        [("1", "example-crc"), ("3", "data-22-crc"), ("5", "data-provenance-5"), ("7", "payload-mixed")]
    {
        let about = fs::read(spec().join("vectors").join(name).with_extension("json")).expect("a vector");
        let about: Value = serde_json::from_slice(&about).expect("JSON");
        let shown = &show(sequence)["records"][0];
        for field in ["session_id", "epoch", "frame_id", "route_id", "sent_ns"] {
            assert_eq!(shown[field], about["header"][field], "{name}: {field}");
        }
        let (shown, theirs) =
            (shown["messages"].as_array().expect("a list"), about["messages"].as_array().expect("a list"));
        assert_eq!(shown.len(), theirs.len(), "{name}");
        for (shown, theirs) in shown.iter().zip(theirs) {
            for field in ["topic_id", "sender_id", "class", "payload"] {
                assert_eq!(shown[field], theirs[field], "{name}: {field}");
            }
        }
    }
    let text = stdout(&ended(tachyon(&["show", "7", "--directory", logs.path()]), OK));
    for part in [
        "shard 2  record 7  frame",
        "from 192.0.2.7:40000 by worker 1, burst 3",
        "session 65543, epoch 5, frame 5001",
        "  messages    5\n",
        "topic 35  sender 120  P1  arena 64 bytes  030a1118",
        "2026-01-01T00:00:00.000007",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    let text = stdout(&ended(tachyon(&["show", "0..2", "--directory", logs.path()]), OK));
    let decided = "decisions   worker 1 turn 0 under ruleset 9, pressure 2: 3 frames (1 whole";
    assert!(text.contains(decided) && text.contains("boot        true"), "{text}");
    let nothing = ended(tachyon(&["show", "500", "--directory", logs.path()]), USAGE);
    assert!(stderr(&nothing).contains("there is no record 500"), "{}", stderr(&nothing));
}

#[test]
fn decisions_are_shown_decoded_and_other_bytes_as_they_are() {
    let logs = Logs::new(&[2], 8);
    let show = |sequence: &str| json(&ended(tachyon(&["show", sequence, "--directory", logs.path(), "--json"]), OK));
    let record = &show("4")["records"][0];
    let common = ["kind", "sequence", "shard", "tick", "unix_ns"];
    let own = [
        "commands",
        "egress_digest",
        "egress_frames",
        "frames",
        "free_buffers",
        "pressure",
        "refuses",
        "ruleset_version",
        "stable_turn",
        "turn",
        "turn_flags",
        "turn_shards",
        "worker",
    ];
    let mut names = [&common[..], &own].concat();
    names.sort_unstable();
    assert_eq!(fields(record), names);
    assert_eq!((&record["worker"], &record["turn"], &record["pressure"]), (&1.into(), &1.into(), &2.into()));
    assert_eq!((&record["ruleset_version"], &record["free_buffers"]), (&9.into(), &500.into()));
    let frames = record["frames"].as_array().expect("a list");
    let kept: Vec<&str> = frames.iter().map(|frame| frame["kept"].as_str().expect("text")).collect();
    assert_eq!(kept, ["whole", "stubs", "head"]);
    // Of 22 messages of the second frame every fifth is refused, and every fifth is held.
    let words: Vec<Option<u8>> = (0..22).map(|index| logs::word(1, index)).collect();
    let of = |wanted: u8| (0..22).filter(|index| words[*index] == Some(wanted)).map(Value::from).collect::<Vec<_>>();
    let refused = frames[0]["refused"].as_array().expect("a list");
    assert!(refused.iter().all(|refused| refused["reason"] == "E_GOV_THROTTLED"), "{refused:?}");
    let places: Vec<Value> = refused.iter().map(|refused| refused["index"].clone()).collect();
    assert_eq!(places, of(tachyon_wire::Reason::Throttled.number()));
    assert_eq!((&frames[0]["messages"], &frames[0]["held"]), (&22.into(), &of(tachyon_wire::tap::HELD).len().into()));
    assert_eq!((&frames[0]["session_id"], &frames[0]["reason"]), (&Value::Null, &Value::Null));
    assert_eq!((&frames[1]["messages"], &frames[1]["refused"]), (&3.into(), &Value::Array(Vec::new())));
    assert_eq!(
        (&frames[1]["session_id"], &frames[1]["epoch"], &frames[1]["frame_id"]),
        (&65_544.into(), &5.into(), &5_001.into())
    );
    assert_eq!((&frames[2]["reason"], &frames[2]["messages"]), (&"E_AUTH_NO_SESSION".into(), &0.into()));
    assert_eq!(frames[2]["source"], "192.0.2.7:40000");
    let text = stdout(&ended(tachyon(&["show", "4", "--directory", logs.path()]), OK));
    let line = "decisions   worker 1 turn 1 under ruleset 9, pressure 2: 3 frames (1 whole, 1 E_AUTH_NO_SESSION), 25 messages (21 \
                accepted, 4 of them held, 4 E_GOV_THROTTLED)";
    assert!(text.contains(line), "{text}");
    // The seventh frame's are no turn.
    let record = &show("14")["records"][0];
    assert_eq!((&record["bytes"], &record["head"]), (&40.into(), &"06".repeat(32).into()));
    let text = stdout(&ended(tachyon(&["show", "14", "--directory", logs.path()]), OK));
    assert!(text.contains("decisions   40 bytes: 0606"), "{text}");
}

#[test]
fn a_damaged_record_is_told_and_the_others_are_shown() {
    let logs = Logs::new(&[2], 40);
    let path = &logs.segments(2)[1];
    let mut bytes = fs::read(path).expect("a segment");
    bytes[4096 + 160 + 40] ^= 1;
    fs::write(path, bytes).expect("a changed segment");
    let output = ended(tachyon(&["show", "0..1000", "--directory", logs.path(), "--json"]), REFUSED);
    let shown = json(&output);
    assert_eq!(shown["damaged"], true);
    assert!(stderr(&output).contains("is damaged"), "{}", stderr(&output));
    let last = shown["records"].as_array().and_then(|records| records.last()).expect("records behind the damage");
    assert!(last["sequence"].as_u64() > Some(60), "{last}");
}

#[test]
fn commands_show_names_of_keys_and_never_keys() {
    let text = stdout(&ended(tachyon(&["show", "0..20", "--directory", &golden("whole")]), OK));
    let shown = json(&ended(tachyon(&["show", "0..20", "--directory", &golden("whole"), "--json"]), OK));
    for key in ["11".repeat(32), "22".repeat(32), "33".repeat(32)] {
        assert!(!text.contains(&key) && !shown.to_string().contains(&key), "a key");
    }
    let commands: Vec<&str> =
        shown["records"].as_array().expect("a list").iter().filter_map(|record| record["command"].as_str()).collect();
    assert_eq!(commands, ["open_session", "add_subscriber", "lease", "remove_subscriber", "close_session"]);
}

#[test]
fn wrong_arguments_are_usage_errors() {
    let logs = Logs::new(&[0, 1], 2);
    for arguments in [
        &["verify", "--directory", "/no/such/folder"][..],
        &["verify", "--directory", "/proc/self/fd"],
        &["verify", "--directory", logs.path(), "--shard", "9"],
        &["verify", "--directory", logs.path(), "--key", "no key"],
        &["show", "9..5", "--directory", logs.path()],
        &["show", "--directory", logs.path()],
        &["prove", "1", "--directory", logs.path()],
        &["prove", "--directory", logs.path(), "--shard", "0"],
        &["prove", "1", "--from", "2", "--directory", logs.path(), "--shard", "0"],
        &["prove", "1", "--directory", logs.path(), "--shard", "0"],
        &["checkpoint", "--directory", logs.path()],
        &["checkpoint", "--directory", logs.path(), "--shard", "0"],
        &["check-proof", "/no/such/file", "--directory", logs.path()],
        &["export", "--format", "csv", "--out", "x", "--directory", logs.path()],
        &["export", "--format", "parquet", "--out", "/no/such/folder/x", "--directory", logs.path()],
    ] {
        let output = ended(tachyon(arguments), USAGE);
        assert!(stdout(&output).is_empty() && !stderr(&output).is_empty(), "{arguments:?}");
    }
    let output = ended(tachyon(&["checkpoint", "--directory", logs.path()]), USAGE);
    assert!(stderr(&output).contains("choose one with --shard; there are: 0, 1"), "{}", stderr(&output));
}
