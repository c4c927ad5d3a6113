//! The rows of `loop`: one dimension at a time around the base case, then the combinations that have a target.

use crate::case::{Case, Choice, Durability, Proof, WorkingSet};
use serde_json::{Value, json};

/// A case with a name, and what it is held to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) name: &'static str,
    pub(crate) case: Case,
    /// The most nanoseconds per message that are asked for, if any.
    pub(crate) target: Option<f64>,
}

const fn row(name: &'static str, case: Case) -> Row {
    Row { name, case, target: None }
}

const fn held(name: &'static str, target: f64, case: Case) -> Row {
    Row { name, case, target: Some(target) }
}

/// The base case, first and last: what lies between the two is drift.
pub(crate) const BASE: Row = held("base", 10.0, Case::BASE);
/// The base case again.
pub(crate) const AGAIN: Row = Row { name: "base, again", ..BASE };

/// Every row.
pub(crate) fn all() -> Vec<Row> {
    [&[BASE], DIMENSIONS, TAGS, MILLION, CROWDS, FAN_OUT, LOG, &[AGAIN]].concat()
}

const B: Case = Case::BASE;
const TAG_IN: Case = Case { ingress: Proof::Tag, ..B };
const TAGS_BOTH: Case = Case { ingress: Proof::Tag, egress: Proof::Tag, ..B };

const DIMENSIONS: &[Row] = &[
    row("1,024 topics", Case { topics: 1_024, ..B }),
    row("1,000,000 topics", Case { topics: 1_000_000, ..B }),
    row("1 sender", Case { senders: 1, ..B }),
    row("256 senders", Case { senders: 256, ..B }),
    row("65,536 senders", Case { senders: 65_536, ..B }),
    row("1 session", Case { sessions: 1, ..B }),
    row("65,536 sessions", Case { sessions: 65_536, ..B }),
    row("zipf", Case { choice: Choice::Zipf, ..B }),
    row("8 a frame", Case { messages: 8, ..B }),
    row("1 a frame", Case { messages: 1, ..B }),
    row("from DRAM, 64 MB flushed", Case { working_set: WorkingSet::Dram, ..B }),
    row("from a ring of 2 x L3", Case { working_set: WorkingSet::Large, ..B }),
];

/// What telling the truth log costs: `cargo xtask bench log` holds them against the base case.
const LOG: &[Row] = &[
    row("log: stubs", Case { durability: Durability::Stubs, ..B }),
    row("log: logged", Case { durability: Durability::Logged, ..B }),
    row("log: durable", Case { durability: Durability::Durable, ..B }),
];

const TAGS: &[Row] = &[
    held("tag -> crc", 14.0, TAG_IN),
    held("tag -> tag", 20.0, TAGS_BOTH),
    row("crc -> tag", Case { egress: Proof::Tag, ..B }),
    row("tag -> crc, 8 a frame", Case { messages: 8, ..TAG_IN }),
    held("tag -> crc, 1 a frame", 100.0, Case { messages: 1, ..TAG_IN }),
    row("tag -> tag, 1 a frame", Case { messages: 1, ..TAGS_BOTH }),
    row("tag -> tag, 1,024 topics", Case { topics: 1_024, ..TAGS_BOTH }),
];

const MILLION: &[Row] = &[
    held("1M topics, DRAM, crc -> crc", 30.0, far(B)),
    held("1M topics, DRAM, tag -> crc", 34.0, far(TAG_IN)),
    held("1M topics, DRAM, tag -> tag", 40.0, far(TAGS_BOTH)),
    row("1M topics, DRAM, zipf", Case { choice: Choice::Zipf, ..far(B) }),
    row("1M topics, ring of 2 x L3", Case { topics: 1_000_000, working_set: WorkingSet::Large, ..B }),
];

const CROWDS: &[Row] = &[
    row("65,536 sessions, tag -> crc", Case { sessions: 65_536, ..TAG_IN }),
    row("65,536 sessions, tag -> tag", Case { sessions: 65_536, ..TAGS_BOTH }),
    row("65,536 sessions and senders", Case { sessions: 65_536, senders: 65_536, ..TAGS_BOTH }),
    row(
        "65,536 of all, DRAM, tag -> tag",
        Case { sessions: 65_536, senders: 65_536, working_set: WorkingSet::Dram, ..TAGS_BOTH },
    ),
];

const FAN_OUT: &[Row] = &[
    row("no subscriber", Case { fan_out: 0, ..B }),
    row("fan-out 4, crc", Case { fan_out: 4, ..B }),
    held("fan-out 16, crc", 16.0 * 4.0, Case { fan_out: 16, ..B }),
    row("fan-out 4, tag", Case { fan_out: 4, ..TAGS_BOTH }),
    held("fan-out 16, tag", 16.0 * 10.0, Case { fan_out: 16, ..TAGS_BOTH }),
];

const fn far(case: Case) -> Case {
    Case { topics: 1_000_000, working_set: WorkingSet::Dram, ..case }
}

/// Which rows are the headline.
const HEADLINE: &[(&str, &str)] = &[
    ("crc_crc_64k_ns", "base"),
    ("tag_crc_64k_ns", "tag -> crc"),
    ("tag_tag_64k_ns", "tag -> tag"),
    ("crc_crc_1m_ns", "1M topics, DRAM, crc -> crc"),
    ("tag_tag_1m_ns", "1M topics, DRAM, tag -> tag"),
    ("single_message_frame_ns", "tag -> crc, 1 a frame"),
];

/// Rows whose quotient is held to something: what is compared, with what, and the most that is allowed.
const RATIOS: &[(&str, &str, &str, f64)] = &[
    ("65,536 topics against 1,024", "base", "1,024 topics", 1.3),
    ("65,536 senders against 1", "65,536 senders", "1 sender", 1.3),
    ("65,536 sessions with cold keys against 256, tag -> tag", "65,536 sessions, tag -> tag", "tag -> tag", 1.5),
];

/// Peers that shall take a multiple of what ours takes beside them: what is compared, the peer's row, and the least.
const PEERS: &[(&str, &str, f64)] = &[
    ("the naive loop against ours, crc -> crc", "naive crc -> crc", 8.0),
    ("the naive loop against ours, tag -> tag", "naive tag -> tag", 8.0),
];

/// The least that `n` cores shall do, by `n` times one.
pub(crate) const EFFICIENCY: f64 = 0.85;

/// What the row of this name took.
fn find(rows: &[Value], name: &str) -> Option<f64> {
    of(rows, name, "ns_per_message")
}

/// A figure of the row of this name.
fn of(rows: &[Value], name: &str, key: &str) -> Option<f64> {
    rows.iter().find(|row| row["name"] == name)?[key].as_f64()
}

/// The figures to quote; null for a row that was not run.
pub(crate) fn headline(rows: &[Value]) -> Value {
    HEADLINE
        .iter()
        .map(|(key, name)| ((*key).to_owned(), json!(find(rows, name))))
        .collect::<serde_json::Map<_, _>>()
        .into()
}

/// Everything that is held to something, as far as it was run.
pub(crate) fn targets(rows: &[Value]) -> Vec<Value> {
    let absolute = all().into_iter().filter(|row| row.name != AGAIN.name).filter_map(|row| {
        let copies = if row.case.fan_out > 1 { f64::from(row.case.fan_out) } else { 1.0 };
        let unit = if copies > 1.0 { ", ns a copy" } else { ", ns a message" };
        Some(target(&format!("{}{unit}", row.name), find(rows, row.name)? / copies, row.target? / copies))
    });
    let ratios = RATIOS
        .iter()
        .filter_map(|(name, one, other, most)| Some(target(name, find(rows, one)? / find(rows, other)?, *most)));
    let peers =
        PEERS.iter().filter_map(|(name, peer, least)| Some(at_least(name, of(rows, peer, "ratio_to_ours")?, *least)));
    absolute.chain(ratios).chain(peers).collect()
}

/// Something that shall be at most so much.
pub(crate) fn target(name: &str, value: f64, limit: f64) -> Value {
    json!({ "name": name, "value": value, "relation": "at most", "limit": limit, "reached": value <= limit })
}

/// Something that shall be at least so much.
pub(crate) fn at_least(name: &str, value: f64, limit: f64) -> Value {
    json!({ "name": name, "value": value, "relation": "at least", "limit": limit, "reached": value >= limit })
}
