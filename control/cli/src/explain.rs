//! `tachyon explain`: what a reason means and what to do. Needs no node.

use crate::{
    arguments::{Form, reason},
    output,
    table::{Paint, wrap},
};
use serde_json::{Value, json};
use tachyon_wire::reason::{Ledger, Reason};

/// One reason, or every one.
pub(crate) fn run(code: Option<&str>, form: Form) {
    match code.and_then(reason) {
        Some(reason) if form.json => output::json(&described(reason)),
        Some(reason) => output::data(text(reason, Paint::detect())),
        None if form.json => output::json(&Reason::ALL.iter().copied().map(described).collect()),
        None => {
            let all: Vec<String> = Reason::ALL.iter().map(|reason| text(*reason, Paint::detect())).collect();
            output::data(all.join("\n"));
        }
    }
}

/// The name of a ledger, as the protobuf interface has it.
pub(crate) const fn ledger(ledger: Ledger) -> &'static str {
    match ledger {
        Ledger::Frames => "frames",
        Ledger::Messages => "messages",
        Ledger::Copies => "copies",
        Ledger::Reader => "reader",
        Ledger::Prefilter => "prefilter",
        Ledger::Any => "any",
    }
}

fn described(reason: Reason) -> Value {
    json!({
        "code": reason.code(),
        "number": reason.number(),
        "ledger": ledger(reason.ledger()),
        "meaning": meaning(reason.ledger()),
        "help": reason.help(),
    })
}

fn text(reason: Reason, paint: Paint) -> String {
    let heading = paint.heading(reason.code());
    let (number, meaning) = (reason.number(), meaning(reason.ledger()));
    format!("{heading} (number {number})\n{}{}", wrap(reason.help(), 2), wrap(meaning, 2))
}

/// What it is that a reason of this ledger ends.
const fn meaning(ledger: Ledger) -> &'static str {
    match ledger {
        Ledger::Frames => "Counted in the ledger of frames: it ends a whole frame, with all its messages.",
        Ledger::Messages => "Counted in the ledger of messages: it ends one message; the others of its frame go on.",
        Ledger::Copies => {
            "Counted in the ledger of copies: it ends one subscriber's copy; the others are not affected."
        }
        Ledger::Reader => "Counted by no node: whoever reads the payload finds it.",
        Ledger::Prefilter => "Counted by the pre-filter: it ends a packet at the device, before any worker sees it.",
        Ledger::Any => "Counted in whichever ledger it struck: frames, messages or copies.",
    }
}
