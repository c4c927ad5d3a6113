//! The wire document says what the code says: its table of reasons and its worked examples.

use std::{fs, path::PathBuf};
use tachyon_wire::{Ledger, Reason};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn document() -> String {
    fs::read_to_string(root().join("WIRE.md")).expect("WIRE.md")
}

/// One row of the table, as the document must have it.
fn row(reason: Reason) -> String {
    let ledger = match reason.ledger() {
        Ledger::Frames => "frames",
        Ledger::Messages => "messages",
        Ledger::Copies => "copies",
        Ledger::Reader => "reader",
        Ledger::Prefilter => "prefilter",
        Ledger::Any => "any",
    };
    format!("| {} | `{}` | {ledger} | {} |", reason.number(), reason.code(), reason.help())
}

#[test]
fn the_document_lists_every_reason_in_order() {
    let rows: Vec<String> = Reason::ALL.iter().map(|reason| row(*reason)).collect();
    let expected = rows.join("\n");
    assert!(document().contains(&format!("|---:|---|---|---|\n{expected}\n\n")), "the table should read:\n{expected}");
}

#[test]
fn the_documents_hex_dumps_are_the_vectors() {
    let text = document();
    let mut found = 0;
    for block in text.split("```hex ").skip(1) {
        let (name, rest) = block.split_once('\n').expect("a name");
        let (dump, _) = rest.split_once("```").expect("an end");
        let mut bytes = Vec::new();
        for line in dump.lines() {
            let (offset, values) = line.split_once(": ").expect("an offset");
            assert_eq!(usize::from_str_radix(offset, 16).expect("a number"), bytes.len(), "{name}");
            bytes.extend(values.split(' ').map(|value| u8::from_str_radix(value, 16).expect("a byte")));
        }
        let vector = root().join("../../spec/vectors").join(name).with_extension("bin");
        assert_eq!(fs::read(vector).expect("the vector"), bytes, "{name}");
        found += 1;
    }
    assert_eq!(found, 2);
}
