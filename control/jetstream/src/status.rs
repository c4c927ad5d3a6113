//! What the exporter says while it runs: lines for a person on standard error, and a line of JSON a second on standard
//! output for whoever asked for that.

use serde_json::{Value, json};
use std::{
    io::{self, Write},
    time::{Duration, Instant},
};

/// How often a line of JSON comes.
const EVERY: Duration = Duration::from_secs(1);

/// What was counted since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Messages that were given to the server, again and again ones included.
    pub published: u64,
    /// Messages that the stream has, by the server's word.
    pub acknowledged: u64,
    /// Messages that the log has twice: the stream has them from the first time.
    pub duplicates: u64,
    /// How often what is in the stream was read back.
    pub resumed: u64,
    /// Messages that the server had acknowledged and lost again.
    pub lost_by_server: u64,
    /// Records that were removed from the log before they were exported.
    pub records_missed: u64,
    /// Frames that were left out because the log has no decisions about them.
    pub undecided: u64,
}

/// One shard's line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ShardStatus {
    /// The shard.
    pub shard: u16,
    /// The record of the last event that was acknowledged.
    pub record: Option<u64>,
    /// The record behind the last that was read.
    pub read_to: u64,
}

/// Tells what happens.
#[derive(Debug)]
pub struct Status {
    json: bool,
    last: Option<Instant>,
    waits_for: Option<String>,
    /// What was counted.
    pub counts: Counts,
}

impl Status {
    /// With lines of JSON or without.
    #[must_use]
    pub const fn new(json: bool) -> Self {
        let counts = Counts {
            published: 0,
            acknowledged: 0,
            duplicates: 0,
            resumed: 0,
            lost_by_server: 0,
            records_missed: 0,
            undecided: 0,
        };
        Self { json, last: None, waits_for: None, counts }
    }

    /// Says one thing to a person.
    pub fn say(&self, what: &str) {
        // Nothing can be done about a standard error that cannot be written.
        let _ = writeln!(io::stderr(), "tachyon-jetstream: {what}");
    }

    /// It waits for this, or for nothing any more. Said when it changes.
    pub fn waits_for(&mut self, what: Option<String>) {
        if self.waits_for == what {
            return;
        }
        match &what {
            Some(what) => self.say(&format!("waiting for {what}")),
            None => self.say("goes on"),
        }
        self.waits_for = what;
        self.last = None;
    }

    /// Whether the next line of JSON is due.
    #[must_use]
    pub fn is_due(&self) -> bool {
        self.json && self.last.is_none_or(|last| last.elapsed() >= EVERY)
    }

    /// Writes a line of JSON.
    pub fn line(&mut self, state: &str, unacknowledged: usize, shards: &[ShardStatus]) {
        if !self.json {
            return;
        }
        self.last = Some(Instant::now());
        let Counts { published, acknowledged, duplicates, resumed, lost_by_server, records_missed, undecided } =
            self.counts;
        let shards: Vec<Value> = shards
            .iter()
            .map(|one| json!({ "shard": one.shard, "record": one.record, "read_to": one.read_to }))
            .collect();
        let state = if self.waits_for.is_some() && state == "exporting" { "waiting" } else { state };
        let line = json!({
            "state": state,
            "waits_for": self.waits_for,
            "published": published,
            "acknowledged": acknowledged,
            "unacknowledged": unacknowledged,
            "duplicates": duplicates,
            "resumed": resumed,
            "lost_by_server": lost_by_server,
            "records_missed": records_missed,
            "undecided": undecided,
            "shards": shards,
        });
        // A reader that went away is no reason to stop exporting.
        let _ = writeln!(io::stdout(), "{line}");
    }
}
