//! `loop`: the whole loop, row by row.

use crate::{
    Common,
    case::Case,
    machine, peers,
    rows::{self, Row},
    table, whole,
};
use serde_json::{Value, json};
use std::{
    env,
    io::Error,
    process::{Command, Stdio},
};

/// Runs every row and the peers, and prints the table, and with `--json` all of it as one object. `second_core` is one that
/// this process may use beside its own.
pub(crate) fn run(common: &Common, second_core: Option<usize>) -> Result<(), String> {
    let machine = machine::describe();
    if !common.json {
        println!("ns per message, the median of {} passes, seed {}", common.passes(), common.seed);
        machine::print(&machine);
        println!("\n{:<34}{:>8}{:>16}{:>10}{:>10}  ", "row", "ns", "messages/s", "fastest", "target");
    }
    let mut rows = Vec::new();
    for row in rows::all() {
        let figure = apart(&row, common)?;
        if !common.json {
            print(&figure);
        }
        rows.push(figure);
    }
    let peers = peers::all(common, second_core)?;
    if !common.json {
        peers::print(&peers);
    }
    rows.extend(peers);
    end(&rows, &machine, common);
    Ok(())
}

/// The stages, the headline and the targets.
fn end(rows: &[Value], machine: &Value, common: &Common) {
    let stages = table::stages(common);
    let (headline, targets) = (rows::headline(rows), rows::targets(rows));
    let allocations: u64 = rows.iter().filter_map(|row| row["allocations"].as_u64()).sum();
    let drift = drift(rows);
    if common.json {
        let result = json!({
            "rows": rows, "headline": headline, "allocations": allocations, "stages": stages, "targets": targets,
            "drift": drift, "seed": common.seed, "passes": common.passes(), "machine": machine,
        });
        println!("{result}");
        return;
    }
    println!("\nthe base case at the end took {drift:.2} times what it took at the start");
    println!("allocations in the loop: {allocations}\n");
    table::print(&stages);
    println!();
    print_targets(&targets);
}

/// Each target, and whether it was reached.
pub(crate) fn print_targets(targets: &[Value]) {
    for target in targets {
        let reached = if target["reached"] == true { "reached" } else { "MISSED" };
        let name = target["name"].as_str().unwrap_or_default();
        let value = target["value"].as_f64().unwrap_or(f64::NAN);
        let relation = target["relation"].as_str().unwrap_or_default();
        println!("{reached:<8} {name:<58} {value:>10.2}, {relation} {}", target["limit"]);
    }
}

/// What the base case took at the end, by what it took at the start.
fn drift(rows: &[Value]) -> f64 {
    let of = |name| rows.iter().find(|row| row["name"] == name).and_then(|row| row["ns_per_message"].as_f64());
    of(rows::AGAIN.name).zip(of(rows::BASE.name)).map_or(f64::NAN, |(again, base)| again / base)
}

fn apart(row: &Row, common: &Common) -> Result<Value, String> {
    let mut figure = child("row", common, &row.case.words()).map_err(|error| format!("\"{}\": {error}", row.name))?;
    figure["name"] = row.name.into();
    figure["target_ns"] = json!(row.target);
    Ok(figure)
}

/// A command in a process of its own, and the object that it prints: nothing inherits memory, pages or caches from what ran
/// before, and whoever doubts a figure runs that one alone.
pub(crate) fn child(command: &str, common: &Common, words: &[String]) -> Result<Value, String> {
    let failed = |error: Error| format!("cannot start a process of its own: {error}");
    let output = Command::new(env::current_exe().map_err(failed)?)
        .args([command, "--json", "--passes", &common.passes().to_string(), "--seed", &common.seed.to_string()])
        .args(words)
        .stderr(Stdio::inherit())
        .output()
        .map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().last().unwrap_or_default())
        .map_err(|_| format!("ended with {}: run it alone with `{command} {}`", output.status, words.join(" ")))
}

/// One row, in this process.
pub(crate) fn one(case: &Case, common: &Common) -> Result<(), String> {
    if let Some(fault) = case.fault() {
        return Err(fault.to_owned());
    }
    let case = &case.fitted(machine::memory_bytes());
    let figure = whole::measure(case, common.seed, common.passes());
    let mut row = case.json();
    row["ns_per_message"] = figure.ns.into();
    row["ns_fastest_pass"] = figure.least.into();
    row["ns_slowest_pass"] = figure.most.into();
    row["messages_per_second"] = (1e9 / figure.ns).round().into();
    row["ns_per_copy"] = json!((case.fan_out > 0).then(|| figure.ns / f64::from(case.fan_out)));
    row["allocations"] = figure.allocations.into();
    if common.json {
        println!("{row}");
    } else {
        println!("{}", case.words().join(" "));
        row["name"] = "".into();
        print(&row);
    }
    Ok(())
}

fn print(row: &Value) {
    let number = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    let ns = number("ns_per_message");
    let verdict = row["target_ns"]
        .as_f64()
        .map_or(String::new(), |target| format!("{target:>10.0}  {}", if ns <= target { "reached" } else { "missed" }));
    let name = row["name"].as_str().unwrap_or_default();
    let fewer = if row["shards_owned"] == row["shards"] { "" } else { "  with fewer shards: memory is short" };
    let (rate, fastest) = (number("messages_per_second"), number("ns_fastest_pass"));
    println!("{name:<34}{ns:>8.1}{rate:>16.0}{fastest:>10.1}{verdict}{fewer}");
}
