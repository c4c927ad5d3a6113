//! The golden vectors: what is checked in is what the sources make, and every file comes to what it says.

#[path = "../examples/vectors/bad_frames.rs"]
mod bad_frames;
#[path = "../examples/vectors/good.rs"]
mod good;
#[path = "../examples/vectors/json.rs"]
mod json;
#[path = "../examples/vectors/judged.rs"]
mod judged;
#[path = "../examples/vectors/messages.rs"]
mod messages;
mod receiver;
#[path = "../examples/vectors/world.rs"]
mod world;

use serde_json::Value;
use std::{collections::BTreeSet, fs, path::PathBuf};
use tachyon_wire::{Ledger, Reason, payload};

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors")
}

fn all() -> Vec<world::Vector> {
    [good::vectors(), bad_frames::vectors(), judged::vectors(), messages::vectors()].into_iter().flatten().collect()
}

/// Names of the files with this ending that are checked in.
fn checked_in(ending: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(folder()).expect("spec/vectors");
    let names = entries.map(|entry| entry.expect("an entry").path());
    let names = names.filter(|path| path.extension().is_some_and(|found| found == ending));
    names.map(|path| path.file_stem().expect("a name").to_string_lossy().into_owned()).collect()
}

#[test]
fn the_files_are_what_the_sources_make() {
    let made: BTreeSet<String> = all().iter().map(|vector| vector.name.to_owned()).collect();
    assert_eq!(made.len(), all().len(), "two vectors have one name");
    assert_eq!(made, checked_in("bin"), "make them anew with the example `vectors`");
    assert_eq!(made, checked_in("json"));
    for vector in all() {
        let path = folder().join(vector.name);
        assert_eq!(fs::read(path.with_extension("bin")).expect("bytes"), vector.bytes, "{}.bin", vector.name);
        assert_eq!(
            fs::read_to_string(path.with_extension("json")).expect("text"),
            json::text(&vector),
            "{}",
            vector.name
        );
    }
}

fn reason(value: &Value) -> Option<(Reason, u8)> {
    let number: u8 = value["number"].as_u64()?.try_into().ok()?;
    let reason = Reason::from_number(number).expect("a number of the table");
    assert_eq!(value["reason"], reason.code());
    Some((reason, value["check"].as_u64()?.try_into().ok()?))
}

#[test]
fn every_file_comes_to_what_it_says() {
    for name in checked_in("json") {
        let path = folder().join(&name);
        let bytes = fs::read(path.with_extension("bin")).expect("bytes");
        let vector: Value =
            serde_json::from_str(&fs::read_to_string(path.with_extension("json")).expect("text")).expect("JSON");
        assert_eq!(vector["bytes"], bytes.len(), "{name}");
        match receiver::judge(&bytes, &vector) {
            Err(refused) => assert_eq!(Some(refused), reason(&vector["refused"]), "{name}"),
            Ok((frame, verdicts)) => {
                assert!(vector["refused"].is_null(), "{name} was admitted");
                let empty = Vec::new();
                let expected = vector["messages"].as_array().unwrap_or(&empty);
                assert_eq!(expected.len(), verdicts.len(), "{name}");
                for (index, (expected, verdict)) in expected.iter().zip(verdicts).enumerate() {
                    assert_eq!(verdict, reason(&expected["refused"]), "{name}, message {index}");
                    if let Some(text) = expected["payload"].as_str() {
                        assert_eq!(
                            payload::of(&frame, index),
                            Ok(&receiver::unhex(text)[..]),
                            "{name}, message {index}"
                        );
                    }
                    if expected["reader"].is_string() {
                        assert_eq!(payload::of(&frame, index), Err(Reason::ArenaCorrupt), "{name}, message {index}");
                    }
                }
            }
        }
    }
}

#[test]
fn every_reason_that_needs_no_rules_has_a_vector() {
    let mut seen = BTreeSet::new();
    for name in checked_in("json") {
        let text = fs::read_to_string(folder().join(name).with_extension("json")).expect("text");
        let vector: Value = serde_json::from_str(&text).expect("JSON");
        seen.extend(reason(&vector["refused"]));
        let empty = Vec::new();
        seen.extend(vector["messages"].as_array().unwrap_or(&empty).iter().filter_map(|row| reason(&row["refused"])));
    }
    let seen: BTreeSet<Reason> = seen.into_iter().map(|(reason, _)| reason).collect();
    let needs_rules = Reason::RulesetUnavailable..=Reason::Throttled;
    for reason in Reason::ALL {
        let expected = match reason.ledger() {
            Ledger::Frames => true,
            Ledger::Messages => !needs_rules.contains(reason),
            _ => false,
        };
        assert_eq!(seen.contains(reason), expected, "{}", reason.code());
    }
}
