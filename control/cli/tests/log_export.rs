//! `tachyon log export`: captures that tshark reads, tables that pyarrow and the Parquet crate read.

mod logs;

use logs::{Logs, MIDNIGHT_NS, spec, word};
use parquet::{
    file::reader::{FileReader as _, SerializedFileReader},
    record::{Field, Row},
};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Output},
};

fn tachyon(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tachyon")).arg("log").args(arguments).output().expect("the program can be run")
}

/// Exports to a file and returns what is said of it.
fn export(format: &str, out: &Path, directory: &str, more: &[&str]) -> Value {
    let out = out.to_str().expect("text");
    let output =
        tachyon(&[&["export", "--format", format, "--out", out, "--directory", directory, "--json"], more].concat());
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    serde_json::from_slice(&output.stdout).expect("JSON")
}

/// Every frame of a log as `tail` has it, in the order of ticks.
fn frames(directory: &str) -> Vec<Value> {
    let output = tachyon(&["tail", "-n", "100000", "--json", "--directory", directory]);
    let text = String::from_utf8(output.stdout).expect("text");
    let records = text.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON"));
    records.filter(|record| record["kind"] == "frame").collect()
}

/// What tshark says of a capture, a line for each packet; nothing where there is no tshark.
fn tshark(capture: &Path, fields: &[&str]) -> Option<Vec<String>> {
    let script = format!("lua_script:{}", spec().join("wireshark/tachyon.lua").display());
    let home = capture.parent().expect("a folder");
    let output = Command::new("tshark")
        .args(["-n", "-X", &script, "-o", "udp.check_checksum:TRUE", "-o", "ip.check_checksum:TRUE"])
        .args(["-T", "fields", "-E", "separator=|", "-E", "occurrence=a", "-E", "aggregator=,"])
        .args(fields.iter().flat_map(|field| ["-e", field]))
        .arg("-r")
        .arg(capture)
        .env("HOME", home)
        .env("XDG_CONFIG_HOME", home)
        .output();
    let Ok(output) = output else {
        eprintln!("skipped: tshark is not installed (apt-get install tshark)");
        return None;
    };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && !errors.to_lowercase().contains("lua"), "tshark: {errors}");
    Some(String::from_utf8(output.stdout).expect("text").lines().map(str::to_owned).collect())
}

#[test]
fn a_capture_holds_every_frame_as_it_could_have_come() {
    let logs = Logs::new(&[0, 1], 20);
    let out = logs.folder.path().join("out.pcapng");
    let said = export("pcapng", &out, logs.path(), &[]);
    let expected = frames(logs.path());
    let fields: Vec<&str> = said.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(fields, ["damaged", "file", "format", "frames", "left_out", "messages"]);
    assert_eq!((&said["frames"], &said["left_out"], &said["damaged"]), (&40.into(), &0.into(), &false.into()));
    assert_eq!(expected.len(), 40);
    let names = [
        "frame.time_epoch",
        "frame.comment",
        "frame.interface_name",
        "ip.src",
        "ipv6.src",
        "udp.srcport",
        "udp.dstport",
        "ip.checksum.status",
        "udp.checksum.status",
        "tachyon.fault",
        "tachyon.session_id",
        "tachyon.frame_id",
        "tachyon.count",
        "tachyon.message.topic_id",
    ];
    let Some(lines) = tshark(&out, &names) else { return };
    assert_eq!(lines.len(), expected.len());
    for (line, record) in lines.iter().zip(&expected) {
        let found: Vec<&str> = line.split('|').collect();
        let (shard, sequence) = (record["shard"].as_u64().expect("a number"), &record["sequence"]);
        let ns = record["unix_ns"].as_u64().expect("a time");
        assert_eq!(found[0], format!("{}.{:09}", ns / 1_000_000_000, ns % 1_000_000_000));
        assert_eq!(found[1], format!("shard {shard} sequence {sequence}"));
        assert_eq!(found[2], format!("shard {shard}"));
        let (v4, v6) = if shard == 0 { ("192.0.2.7", "") } else { ("", "2001:db8::7") };
        assert_eq!((found[3], found[4], found[5]), (v4, v6, "40000"));
        assert_eq!(found[6], (24_640 + shard).to_string());
        // 1 is good; IPv6 has no checksum of its own.
        assert_eq!((found[7], found[8]), (if shard == 0 { "1" } else { "" }, "1"), "{line}");
        assert_eq!(found[9], "", "the dissector finds no fault: {line}");
        assert_eq!(found[10], record["session_id"].to_string());
        assert_eq!(found[11], record["frame_id"].to_string());
        let messages = record["messages"].as_array().expect("a list");
        assert_eq!(found[12], messages.len().to_string());
        let topics: Vec<String> = messages.iter().map(|message| message["topic_id"].to_string()).collect();
        assert_eq!(found[13], topics.join(","));
    }
}

#[test]
fn a_capture_is_cut_by_sequence_and_by_filters() {
    let logs = Logs::new(&[0], 20);
    let out = logs.folder.path().join("out.pcapng");
    let said = export("pcapng", &out, logs.path(), &["--from", "3", "--to", "7", "--base-port", "9000"]);
    assert_eq!(said["frames"], 3, "records 3, 5 and 7 are frames");
    let whole = export("pcapng", &out, logs.path(), &["--sender", "120", "--session", "65543"]);
    assert_eq!(
        (&whole["frames"], &whole["messages"]),
        (&5.into(), &15.into()),
        "one sort of four, three messages each"
    );
    let Some(lines) = tshark(&out, &["frame.comment"]) else { return };
    assert_eq!(lines, ["7", "15", "24", "32", "41"].map(|sequence| format!("shard 0 sequence {sequence}")));
    let output = tachyon(&[
        "export",
        "--format",
        "pcapng",
        "--out",
        "x",
        "--from",
        "5",
        "--to",
        "3",
        "--directory",
        logs.path(),
    ]);
    assert_eq!(output.status.code(), Some(2));
}

/// A table's rows as the Parquet crate reads them, each by the names of its columns.
fn rows(path: &Path) -> Vec<BTreeMap<String, Field>> {
    let reader = SerializedFileReader::new(fs::File::open(path).expect("the table")).expect("a Parquet file");
    let columns = |row: Row| row.get_column_iter().map(|(name, field)| (name.clone(), field.clone())).collect();
    reader.get_row_iter(None).expect("rows").map(|row| columns(row.expect("a row"))).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).expect("hex")).collect()
}

/// What became of a message, as the log's decisions say.
fn verdict(record: &Value, message: &Value) -> Option<&'static str> {
    let number = |value: &Value| value.as_u64().expect("a number");
    let burst = u32::try_from(number(&record["burst"])).expect("small");
    let word = word(burst, usize::try_from(number(&message["index"])).expect("small"))?;
    Some(if word == 0 || word == tachyon_wire::tap::HELD { "accepted" } else { "E_GOV_THROTTLED" })
}

/// How often each verdict comes.
fn verdicts<'a>(all: impl Iterator<Item = Option<&'a str>>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    all.for_each(|verdict| *counts.entry(verdict.unwrap_or("null").to_owned()).or_default() += 1);
    counts
}

#[test]
fn a_table_that_is_cut_between_frames_and_decisions_has_their_verdicts() {
    let logs = Logs::new(&[2], 12);
    let out = logs.folder.path().join("out.parquet");
    let all = frames(logs.path());
    // Of the second frame alone: its decisions are behind what is asked for. Then from its decisions on.
    for (from, to, bursts) in [("3", "3", 1..2), ("4", "9", 2..5), ("13", "100", 6..12)] {
        export("parquet", &out, logs.path(), &["--from", from, "--to", to]);
        let expected: Vec<Option<&str>> = all
            .iter()
            .filter(|record| bursts.contains(&record["burst"].as_u64().expect("a number")))
            .flat_map(|record| {
                record["messages"].as_array().expect("a list").iter().map(|message| verdict(record, message))
            })
            .collect();
        let found = rows(&out);
        let found: Vec<Option<&str>> = found
            .iter()
            .map(|row| if let Field::Str(code) = &row["verdict"] { Some(code.as_str()) } else { None })
            .collect();
        assert_eq!(found, expected, "{from} to {to}");
    }
}

#[test]
fn a_table_has_a_row_for_each_message() {
    let logs = Logs::new(&[2, 3], 12);
    let out = logs.folder.path().join("out.parquet");
    let said = export("parquet", &out, logs.path(), &[]);
    let rows = rows(&out);
    let mut count = 0;
    for record in &frames(logs.path()) {
        for message in record["messages"].as_array().expect("a list") {
            let row = &rows[count];
            let number = |value: &Value| value.as_u64().expect("a number");
            let (short, int) = (
                |value: &Value| u16::try_from(number(value)).expect("small"),
                |value: &Value| u32::try_from(number(value)).expect("small"),
            );
            assert_eq!(row["shard"], Field::UShort(short(&record["shard"])));
            assert_eq!(row["sequence"], Field::ULong(number(&record["sequence"])));
            assert_eq!(row["index"], Field::UShort(short(&message["index"])));
            assert_eq!(row["tick"], Field::ULong(number(&record["tick"])));
            assert_eq!(row["session"], Field::UInt(int(&record["session_id"])));
            assert_eq!(row["epoch"], Field::UInt(int(&record["epoch"])));
            assert_eq!(row["frame_id"], Field::UInt(int(&record["frame_id"])));
            assert_eq!(row["topic_id"], Field::UInt(int(&message["topic_id"])));
            assert_eq!(row["sender_id"], Field::UInt(int(&message["sender_id"])));
            assert_eq!(row["class"], Field::UByte(u8::try_from(number(&message["class"])).expect("small")));
            assert_eq!(row["mode"], Field::Str(message["mode"].as_str().expect("text").to_owned()));
            let Field::Bytes(payload) = &row["payload"] else { panic!("{:?}", row["payload"]) };
            assert_eq!(payload.data(), bytes(message["payload"].as_str().expect("hex")));
            assert!(matches!(&row["data"], Field::Bytes(data) if data.len() == 48), "{:?}", row["data"]);
            assert_eq!(
                row["verdict"],
                verdict(record, message).map_or(Field::Null, |code| Field::Str(code.to_owned()))
            );
            count += 1;
        }
    }
    assert_eq!((rows.len(), &said["messages"], &said["frames"]), (count, &count.into(), &24.into()));
    let some = export("parquet", &out, logs.path(), &["--sender", "120", "--session", "65543", "--shard", "3"]);
    assert_eq!((&some["messages"], self::rows(&out).len()), (&9.into(), 9));
}

#[test]
fn a_table_is_read_by_pyarrow() {
    let logs = Logs::new(&[2], 12);
    let out = logs.folder.path().join("out.parquet");
    let said = export("parquet", &out, logs.path(), &[]);
    let script = "
import json, sys
try:
    import pyarrow.parquet
except ImportError:
    sys.exit(3)
table = pyarrow.parquet.read_table(sys.argv[1])
first = table.slice(0, 1).to_pylist()[0]
print(json.dumps({
    'rows': table.num_rows,
    'verdicts': {str(one['values'] or 'null'): one['counts'] for one in table.column('verdict').value_counts().to_pylist()},
    'types': {field.name: str(field.type) for field in table.schema},
    'unix_ns': table.column('unix_ns').cast('int64')[0].as_py(),
    'first': {name: value for name, value in first.items() if isinstance(value, (int, str))},
}))";
    let Ok(output) = Command::new("python3").args(["-c", script]).arg(&out).output() else {
        eprintln!("skipped: python3 is not installed");
        return;
    };
    if output.status.code() == Some(3) {
        eprintln!("skipped: pyarrow is not installed (python3 -m pip install pyarrow)");
        return;
    }
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(found["rows"], said["messages"]);
    let all = frames(logs.path());
    let each = all.iter().flat_map(|record| {
        record["messages"].as_array().expect("a list").iter().map(|message| verdict(record, message))
    });
    let expected = verdicts(each);
    assert!(expected.len() == 3, "accepted, refused, and not known: {expected:?}");
    assert_eq!(found["verdicts"], serde_json::to_value(expected).expect("JSON"));
    let types = &found["types"];
    for (name, kind) in [
        ("shard", "uint16"),
        ("sequence", "uint64"),
        ("unix_ns", "timestamp[ns, tz=UTC]"),
        ("session", "uint32"),
        ("class", "uint8"),
        ("flags", "uint64"),
        ("mode", "string"),
        ("data", "fixed_size_binary[48]"),
        ("payload", "binary"),
        ("verdict", "string"),
    ] {
        assert_eq!(types[name], kind, "{name}");
    }
    assert_eq!(found["unix_ns"], MIDNIGHT_NS + 1_000);
    assert_eq!((&found["first"]["sequence"], &found["first"]["session"]), (&1.into(), &65_544.into()));
}
