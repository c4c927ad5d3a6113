//! The golden logs are what the sources make, and a reader that shares no code with us comes to the same.

#[path = "../examples/log_vectors/make.rs"]
mod make;

use serde_json::Value;
use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::{Command, Output},
};
use tachyon_log::{ReadOnly, verify::verify};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/log")
}

fn files(below: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder().join(below)).expect("spec/log");
    let names = entries.map(|entry| below.join(entry.expect("an entry").file_name()));
    names.filter(|path| folder().join(path).is_file()).map(|path| path.to_string_lossy().into_owned()).collect()
}

#[test]
fn the_files_are_what_the_sources_make() {
    let golden = make::golden();
    let made: BTreeSet<String> = golden.keys().filter(|name| name.contains('/')).cloned().collect();
    let there: BTreeSet<String> = files(Path::new("whole")).union(&files(Path::new("buried"))).cloned().collect();
    assert_eq!(made, there, "make them anew with the example `log_vectors`");
    for (name, bytes) in golden {
        assert!(fs::read(folder().join(&name)).expect("a file") == bytes, "{name} is another");
    }
}

#[test]
fn no_master_key_is_in_the_golden_logs() {
    for (name, bytes) in make::golden() {
        for key in [0x11, 0x22, 0x33] {
            assert!(!bytes.windows(32).any(|window| window == [key; 32]), "{name} holds a key");
        }
    }
}

/// Runs the independent reader; nothing where there is no Python.
fn python(log: &Path) -> Option<Output> {
    let key = fs::read_to_string(folder().join("key.txt")).expect("the key");
    let output = Command::new("python3").arg(folder().join("read.py")).arg(log).args(["--key", key.trim()]).output();
    if output.is_err() {
        eprintln!("skipped: python3 is not installed");
    }
    output.ok()
}

#[test]
fn the_independent_reader_comes_to_the_same() {
    for log in ["whole", "buried"] {
        let Some(output) = python(&folder().join(log)) else { return };
        assert!(output.status.success(), "{log}: {}", String::from_utf8_lossy(&output.stdout));
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let expected = fs::read(folder().join(log).with_extension("json")).expect("what it should come to");
        assert_eq!(found, serde_json::from_slice::<Value>(&expected).expect("JSON"), "{log}");
    }
}

#[test]
fn both_readers_find_the_same_damage() {
    let copy = std::env::temp_dir().join(format!("tachyon-log-golden-{}", std::process::id()));
    fs::create_dir_all(&copy).expect("a folder");
    let names = files(Path::new("whole"));
    let segment = names.iter().find(|name| name.contains("segment")).expect("a segment");
    let segment_bytes = fs::read(folder().join(segment)).expect("a segment").len();
    let mut disagreements = Vec::new();
    for at in [3, 4_000, 4_096, 4_200, 4_300, 6_000, 12_000, 16_500, segment_bytes - 1] {
        for name in &names {
            let path = Path::new(name);
            let mut bytes = fs::read(folder().join(path)).expect("a file");
            if name == segment {
                bytes[at] ^= 16;
            }
            fs::write(copy.join(path.file_name().expect("a name")), bytes).expect("a copy");
        }
        let Some(output) = python(&copy) else { break };
        let report = verify(&mut ReadOnly::new(&copy), None, &[]).expect("readable");
        let found: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        let theirs = found["findings"][0].as_str().unwrap_or_default().to_owned();
        let ours = report.findings.first().map(ToString::to_string).unwrap_or_default();
        let record =
            |text: &str| text.split("record ").nth(1).and_then(|rest| rest.split(' ').next().map(str::to_owned));
        let agree =
            !ours.is_empty() && !theirs.is_empty() && (!ours.contains(": record") || record(&ours) == record(&theirs));
        if !agree {
            disagreements.push(format!("byte {at}: we say {ours:?}, they say {theirs:?}"));
        }
    }
    fs::remove_dir_all(&copy).expect("our own folder");
    assert!(disagreements.is_empty(), "{disagreements:#?}");
}
