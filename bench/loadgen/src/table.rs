//! The report for a person.

use serde_json::Value;
use std::fmt::Write;

/// The report as lines of text.
#[must_use]
pub fn text(report: &Value) -> String {
    let mut out = String::new();
    // Writing to a string cannot fail.
    let _ = write(&mut out, report);
    out
}

fn write(out: &mut String, report: &Value) -> std::fmt::Result {
    writeln!(out, "offered      {} frames, {} messages", report["offered_frames"], report["offered_messages"])?;
    writeln!(out, "forged       {} frames, repeated {}", report["forged"]["frames"], report["replayed"]["frames"])?;
    for (side, unit) in [("before", "frames"), ("after", "copies")] {
        let lost = &report[format!("lost_{side}_us")];
        if lost.is_object() {
            writeln!(out, "{:<12} {} {unit}, source {}", format!("lost {side}"), lost[unit], plain(&lost["source"]))?;
        }
    }
    let on_the_way = &report["lost_on_the_way"];
    if on_the_way.is_object() {
        writeln!(out, "lost         {} frames on the way", on_the_way["frames"])?;
    }
    for (ledger, total, well) in
        [("frames", "seen", "admitted"), ("messages", "seen", "accepted"), ("copies", "due", "given")]
    {
        let book = &report["ledgers"][ledger];
        if book.is_null() {
            continue;
        }
        writeln!(out, "{ledger:<12} {total} {}, {well} {}, refused {}", book[total], book[well], book["refused"])?;
        for (code, count) in book["reasons"].as_object().into_iter().flatten() {
            writeln!(out, "             {code:<28} {count}")?;
        }
    }
    writeln!(out, "received     {} copies", report["received_copies"])?;
    writeln!(out, "passed/s     {}", report["messages_per_second"])?;
    for (name, key) in [("residence", "residence_ns"), ("end to end", "end_to_end_ns")] {
        let of = &report[key];
        if of.is_null() {
            continue;
        }
        let (p50, p99, p999, max) = (&of["p50"], &of["p99"], &of["p999"], &of["max"]);
        writeln!(out, "{name:<12} p50 {p50} ns, p99 {p99} ns, p99.9 {p999} ns, max {max} ns")?;
    }
    if report["ledgers"].is_object() {
        writeln!(out, "syscalls     {} per message", report["syscalls_per_message"])?;
        writeln!(out, "unaccounted  {}", report["unaccounted"])?;
    }
    let behind = &report["behind"];
    writeln!(out, "behind       {} frames late, {} never offered", behind["late_frames"], behind["missed_frames"])?;
    for key in ["findings", "unexpected", "degraded"] {
        for line in report[key].as_array().into_iter().flatten() {
            writeln!(out, "{key:<12} {}", plain(line))?;
        }
    }
    Ok(())
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}
