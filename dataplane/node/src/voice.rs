//! What tachyond says on standard output: one line per event, for people or (`--json`) for programs.

use serde_json::{Map, Value, json};
use std::io::{Write, stdout};

/// How to say it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Voice {
    json: bool,
}

impl Voice {
    pub(crate) const fn new(json: bool) -> Self {
        Self { json }
    }

    /// Says a line. `facts` are what a program wants to know of it.
    pub(crate) fn say(self, event: &str, text: &str, facts: &[(&str, Value)]) {
        let line = if self.json {
            let mut object = Map::new();
            object.insert("event".into(), json!(event));
            object.insert("text".into(), json!(text));
            object.extend(facts.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
            Value::Object(object).to_string()
        } else {
            format!("tachyond: {event}: {text}")
        };
        // Nobody may be listening, and that is no reason to stop.
        let _ = writeln!(stdout().lock(), "{line}");
    }
}
