//! Checkpoints and proofs of `tachyon log`, checked by other people's implementations of the same forms.

mod logs;

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use logs::{Logs, signer, spec};
use serde_json::Value;
use signed_note::{Note, StandardVerifier, VerifierList};
use std::{
    fs,
    process::{Command, Output},
};
use tlog_tiles::{Checkpoint, Hash};

fn tachyon(arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_tachyon")).arg("log").args(arguments).output().expect("the program can be run")
}

fn ended(output: Output, code: i32) -> String {
    let (out, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(code), "stdout: {out}\nstderr: {error}");
    out.into_owned()
}

fn refusal(output: Output, code: i32) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    ended(output, code);
    error
}

fn golden(name: &str) -> String {
    spec().join("log").join(name).display().to_string()
}

/// A checkpoint whose signature another implementation has checked.
fn checked(note: &str, key: &str) -> Checkpoint {
    let verifier = StandardVerifier::new(key.trim()).expect("a verifier key");
    let parsed = Note::from_bytes(note.as_bytes()).expect("a note");
    let (good, bad) = parsed.verify(&VerifierList::new(vec![Box::new(verifier)])).expect("a signature");
    assert_eq!((good.len(), bad.len()), (1, 0));
    Checkpoint::from_bytes(parsed.text()).expect("a checkpoint")
}

fn hash(text: &str) -> Hash {
    Hash(BASE64.decode(text).expect("base64").try_into().expect("32 bytes"))
}

/// The parts of a proof, split by the words of c2sp.org/tlog-proof and c2sp.org/tlog-witness: the lines before the hashes, the
/// hashes, the checkpoint.
fn parts(text: &str) -> (Vec<String>, Vec<Hash>, String) {
    let (head, checkpoint) = text.split_once("\n\n").expect("an empty line");
    let lines = head.lines().map(str::to_owned);
    let (words, hashes): (Vec<String>, Vec<String>) =
        lines.partition(|line| line.contains(' ') || line.starts_with("c2sp.org"));
    (words, hashes.iter().map(|line| hash(line)).collect(), checkpoint.to_owned())
}

#[test]
fn checkpoints_are_printed_as_they_were_signed() {
    let key = fs::read_to_string(golden("key.txt")).expect("the key");
    let newest = ended(tachyon(&["checkpoint", "--directory", &golden("whole"), "--key", &key]), 0);
    let checkpoint = checked(&newest, &key);
    assert_eq!((checkpoint.origin(), checkpoint.size()), ("node.example/shard/3", 90));
    let older = ended(tachyon(&["checkpoint", "--at", "50", "--directory", &golden("whole"), "--key", &key]), 0);
    assert_eq!(checked(&older, &key).size(), 50);
    let json = ended(tachyon(&["checkpoint", "--directory", &golden("whole"), "--key", &key, "--json"]), 0);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!(
        (json["note"].as_str(), &json["checked"], &json["sequence"]),
        (Some(newest.as_str()), &true.into(), &90.into())
    );
    let names: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(names, ["checked", "note", "origin", "root", "sequence", "shard", "size"]);

    let unchecked = tachyon(&["checkpoint", "--directory", &golden("whole")]);
    assert!(refusal(unchecked, 0).contains("was not checked"));
    let none = refusal(tachyon(&["checkpoint", "--at", "51", "--directory", &golden("whole")]), 2);
    assert!(none.contains("no checkpoint of 51 records"), "{none}");
    let other = signer(4).verifier().to_string();
    refusal(tachyon(&["checkpoint", "--directory", &golden("whole"), "--key", &other]), 1);
}

#[test]
fn inclusion_of_every_record_is_proved_to_another_implementation() {
    let logs = Logs::new(&[0, 6], 24);
    let key = signer(6).verifier().to_string();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (proof, record) = (file("proof.tlog-proof"), file("record.bin"));
    for sequence in 0..51_u64 {
        let number = sequence.to_string();
        let arguments = ["prove", &number, "--record", &record, "--directory", logs.path(), "--shard", "6"];
        let text = ended(tachyon(&arguments), 0);
        let (words, path, note) = parts(&text);
        let bytes = fs::read(&record).expect("the record");
        let extra = format!("extra {}", BASE64.encode(&bytes));
        assert_eq!(words, ["c2sp.org/tlog-proof@v1", &extra, &format!("index {sequence}")]);
        let checkpoint = checked(&note, &key);
        assert_eq!((checkpoint.size(), checkpoint.origin()), (51, "node.example/shard/6"));
        let leaf = tlog_tiles::record_hash(&bytes);
        tlog_tiles::check_record(&path, 51, *checkpoint.hash(), sequence, leaf).expect("it is in the log");

        fs::write(&proof, &text).expect("a proof");
        let said = ended(tachyon(&["check-proof", &proof, "--key", &key]), 0);
        assert!(said.contains(&format!("record {sequence} of the 51 that node.example/shard/6 signed for")), "{said}");
    }
    let json = ["prove", "5", "--json", "--directory", logs.path(), "--shard", "6"];
    let json: Value = serde_json::from_str(&ended(tachyon(&json), 0)).expect("JSON");
    let names: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(names, ["checkpoint", "index", "leaf_hash", "path", "proof", "root", "shard", "size", "text"]);
    // The last record is the checkpoint that covers all before it, so nothing covers that one.
    let none = refusal(tachyon(&["prove", "51", "--directory", logs.path(), "--shard", "6"]), 2);
    assert!(none.contains("no checkpoint of the log covers record 51 yet"), "{none}");
}

#[test]
fn consistency_of_every_size_is_proved_to_another_implementation() {
    let key = fs::read_to_string(golden("key.txt")).expect("the key");
    for (log, newest) in [("whole", 90_u64), ("buried", 90)] {
        let directory = golden(log);
        for old in 1..=newest {
            let size = old.to_string();
            let json =
                ended(tachyon(&["prove", "--from", &size, "--json", "--directory", &directory, "--key", &key]), 0);
            let json: Value = serde_json::from_str(&json).expect("JSON");
            let (words, path, note) = parts(json["text"].as_str().expect("text"));
            assert_eq!(words, [format!("old {old}")]);
            let checkpoint = checked(&note, &key);
            assert_eq!(checkpoint.size(), newest, "{log}");
            let old_root = hash(json["old_root"].as_str().expect("base64"));
            tlog_tiles::check_tree(&path, newest, *checkpoint.hash(), old, old_root).expect("it begins with that");
        }
    }
    let arguments = ["prove", "--from", "20", "--to", "33", "--directory", &golden("whole")];
    let none = refusal(tachyon(&arguments), 2);
    assert!(none.contains("no checkpoint of 33 records") && none.contains("--json"), "{none}");
    let json: Value = serde_json::from_str(&ended(tachyon(&[&arguments[..], &["--json"]].concat()), 0)).expect("JSON");
    let names: Vec<&str> = json.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(names, ["checkpoint", "old_root", "old_size", "path", "proof", "root", "shard", "size", "text"]);
    assert_eq!((&json["checkpoint"], &json["text"], &json["size"]), (&Value::Null, &Value::Null, &33.into()));
}

#[test]
fn a_proof_is_checked_with_nothing_but_the_key_and_only_if_nothing_was_changed() {
    let key = golden("key.txt");
    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).expect("a file");
        path.display().to_string()
    };
    let proof = ended(tachyon(&["prove", "18", "--directory", &golden("whole"), "--key", &key]), 0);
    let good = file("good", &proof);
    let said: Value =
        serde_json::from_str(&ended(tachyon(&["check-proof", &good, "--key", &key, "--json"]), 0)).expect("JSON");
    assert_eq!((&said["holds"], &said["index"], &said["record"]["kind"]), (&true.into(), &18.into(), &"frame".into()));
    let names: Vec<&str> = said.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(names, ["holds", "index", "leaf_hash", "origin", "proof", "record", "root", "size", "why"]);
    let from_input = Command::new("sh")
        .args(["-c", "\"$0\" log check-proof - --key \"$1\" < \"$2\"", env!("CARGO_BIN_EXE_tachyon"), &key, &good])
        .output();
    assert!(ended(from_input.expect("a shell"), 0).contains("It holds: this is record 18"));

    // One letter of the record, of a hash, of the index, of the checkpoint's size and of its signature.
    let lines: Vec<&str> = proof.lines().collect();
    let mut wrong: Vec<String> = Vec::new();
    for line in [1, 3, 4] {
        let mut changed: Vec<String> = lines.iter().map(|line| (*line).to_owned()).collect();
        let middle = changed[line].len() / 2;
        let other = if changed[line].as_bytes()[middle] == b'A' { "B" } else { "A" };
        changed[line].replace_range(middle..=middle, other);
        wrong.push(changed.join("\n") + "\n");
    }
    wrong.push(proof.replace("index 18\n", "index 19\n"));
    wrong.push(proof.replace("\n90\n", "\n91\n"));
    wrong.push(proof.replace("node.example", "edon.example"));
    wrong.push("no proof at all\n".to_owned());
    for text in &wrong {
        assert_ne!(text, &proof);
        let bad = file("bad", text);
        assert!(refusal(tachyon(&["check-proof", &bad, "--key", &key]), 1).contains("does not hold"), "{text}");
        let said = ended(tachyon(&["check-proof", &bad, "--key", &key, "--json"]), 1);
        let said: Value = serde_json::from_str(&said).expect("JSON");
        assert!(said["holds"] == false && said["why"].is_string(), "{said}");
    }
    refusal(tachyon(&["check-proof", &good, "--key", &signer(9).verifier().to_string()]), 1);

    let old = ended(tachyon(&["checkpoint", "--at", "50", "--directory", &golden("whole"), "--key", &key]), 0);
    let older = file("old", &old);
    let proof = ended(tachyon(&["prove", "--from", "50", "--directory", &golden("whole"), "--key", &key]), 0);
    let good = file("good", &proof);
    let said = ended(tachyon(&["check-proof", &good, "--old", &older, "--key", &key]), 0);
    assert_eq!(said, "It holds: the first 50 of the 90 records of node.example/shard/3 are what they were.\n");
    let said = ended(tachyon(&["check-proof", &good, "--old", &older, "--key", &key, "--json"]), 0);
    let said: Value = serde_json::from_str(&said).expect("JSON");
    let names: Vec<&str> = said.as_object().expect("an object").keys().map(String::as_str).collect();
    assert_eq!(names, ["holds", "old_root", "old_size", "origin", "proof", "root", "size", "why"]);
    let bad = file("bad", &proof.replace("old 50\n", "old 51\n"));
    refusal(tachyon(&["check-proof", &bad, "--old", &older, "--key", &key]), 2);
    let zeros = BASE64.encode([0; 32]);
    let hash = proof.lines().nth(1).expect("a hash").to_owned();
    let bad = file("bad", &proof.replace(&hash, &zeros));
    refusal(tachyon(&["check-proof", &bad, "--old", &older, "--key", &key]), 1);
    refusal(tachyon(&["check-proof", &good, "--key", &key]), 2);
    let newest = file("newest", &ended(tachyon(&["checkpoint", "--directory", &golden("whole")]), 0));
    refusal(tachyon(&["check-proof", &good, "--old", &newest, "--key", &key]), 2);
}

#[test]
fn nothing_is_proved_of_a_log_that_is_not_the_one_that_was_signed() {
    let (logs, other) = (Logs::new(&[0], 24), Logs::new(&[0], 23));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let kept = folder.path().join("kept");
    fs::write(&kept, ended(tachyon(&["checkpoint", "--directory", logs.path()]), 0)).expect("a file");
    let kept = kept.to_str().expect("text");
    ended(tachyon(&["prove", "5", "--checkpoint", kept, "--directory", logs.path()]), 0);
    let shorter = refusal(tachyon(&["prove", "5", "--checkpoint", kept, "--directory", other.path()]), 1);
    assert!(shorter.contains("the checkpoint covers 51 records and the log has"), "{shorter}");
    // As long, and yet another: the golden log under a name that its own key does not have.
    let foreign = refusal(tachyon(&["prove", "5", "--checkpoint", kept, "--directory", &golden("whole")]), 1);
    assert!(foreign.contains("has another root"), "{foreign}");
    let gone = refusal(tachyon(&["prove", "5", "--directory", &golden("buried"), "--key", &golden("key.txt")]), 2);
    assert!(gone.contains("there is no record 5"), "{gone}");
}
