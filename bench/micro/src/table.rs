//! The budget table: what each stage of the loop costs per message, beside what the design allows.
//!
//! Stages that stand alone are measured alone; batching is what the whole loop costs beyond them.

use crate::{
    Common,
    case::{Case, Proof},
    machine, stages, whole,
};
use serde_json::{Value, json};

/// One row: the stage, its budget in the first specification, the two targets, and which figure of a column it shows.
const ROWS: &[(&str, Option<f64>, f64, f64, &str)] = &[
    ("receive", Some(10.0), 0.5, 0.5, "receive"),
    ("frame checks, crc32c", None, 2.5, 2.5, "checks_crc"),
    ("frame checks, tag", None, 5.0, 5.0, "checks_tag"),
    ("govern", Some(25.0), 3.0, 18.0, "govern"),
    ("batch and copy out", Some(20.0), 3.0, 5.0, "batch"),
    ("egress header, crc32c", None, 1.0, 1.0, "seal_crc"),
    ("egress header, tag", None, 5.5, 5.5, "seal_tag"),
    ("ledgers, histograms", None, 0.5, 0.5, "ledgers"),
    ("dispatch (one empty turn)", Some(11.0), 0.5, 0.5, "dispatch"),
    ("crc -> crc", Some(66.0), 10.0, 30.0, "crc_crc"),
    ("tag -> crc", None, 14.0, 34.0, "tag_crc"),
    ("tag -> tag", None, 20.0, 40.0, "tag_tag"),
];

/// Topics of the two columns.
const COLUMNS: [u32; 2] = [65_536, 1_000_000];

/// Measures and prints the table.
pub(crate) fn run(common: &Common) {
    let columns = COLUMNS.map(|topics| column(topics, common));
    let allocations: u64 = columns.iter().map(|column| column["allocations"].as_u64().unwrap_or(u64::MAX)).sum();
    let rows = rows(&columns);
    let machine = machine::describe();
    if common.json {
        let result = json!({"rows": rows, "allocations": allocations, "seed": common.seed, "passes": common.passes(),
                            "cpu": machine["cpu"], "machine": machine});
        println!("{result}");
        return;
    }
    println!("ns per message: 22 messages a frame, 256 sessions, 16 destinations, seed {}", common.seed);
    print(&rows);
    println!("allocations in the loop: {allocations}");
    machine::print(&machine);
}

/// The rows, with a figure of each column.
fn rows(columns: &[Value; 2]) -> Vec<Value> {
    ROWS.iter()
        .map(|(stage, first, near, far, key)| {
            json!({"stage": stage, "first_specification_ns": first, "target_64k_ns": near, "target_1m_ns": far,
                   "measured_64k_ns": columns[0][key], "measured_1m_ns": columns[1][key]})
        })
        .collect()
}

/// What the loop's own run shows of it: every stage at both sizes.
pub(crate) fn stages(common: &Common) -> Vec<Value> {
    rows(&COLUMNS.map(|topics| column(topics, common)))
}

/// The table, for a person.
pub(crate) fn print(rows: &[Value]) {
    println!(
        "{:<28}{:>10}{:>12}{:>12}{:>12}{:>12}",
        "stage", "first spec", "target 64k", "measured", "target 1M", "measured"
    );
    for row in rows {
        let figure = |key: &str, digits: usize| row[key].as_f64().map_or("-".to_owned(), |ns| format!("{ns:.digits$}"));
        println!(
            "{:<28}{:>10}{:>12}{:>12}{:>12}{:>12}",
            row["stage"].as_str().unwrap_or_default(),
            figure("first_specification_ns", 0),
            figure("target_64k_ns", 1),
            figure("measured_64k_ns", 1),
            figure("target_1m_ns", 1),
            figure("measured_1m_ns", 1)
        );
    }
}

/// All figures at one number of topics.
fn column(topics: u32, common: &Common) -> Value {
    let case = Case { topics, ..Case::BASE };
    let alone = stages::measure(&case, common.seed, common.passes());
    let whole = |ingress, egress, fan_out| {
        whole::measure(&Case { ingress, egress, fan_out, ..case }, common.seed, common.passes())
    };
    let (unrouted, crc_crc) = (whole(Proof::Crc, Proof::Crc, 0), whole(Proof::Crc, Proof::Crc, 1));
    let (tag_crc, tag_tag) = (whole(Proof::Tag, Proof::Crc, 1), whole(Proof::Tag, Proof::Tag, 1));
    json!({
        "receive": alone.receive, "checks_crc": alone.checks_crc, "checks_tag": alone.checks_tag, "govern": alone.govern,
        "batch": (crc_crc.ns - unrouted.ns - alone.seal_crc).max(0.0),
        "seal_crc": alone.seal_crc, "seal_tag": alone.seal_tag, "ledgers": alone.ledgers, "dispatch": alone.dispatch,
        "crc_crc": crc_crc.ns, "tag_crc": tag_crc.ns, "tag_tag": tag_tag.ns,
        "allocations": unrouted.allocations + crc_crc.allocations + tag_crc.allocations + tag_tag.allocations,
    })
}
