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
    write_fabric(out, report)?;
    for key in ["findings", "unexpected", "degraded"] {
        for line in report[key].as_array().into_iter().flatten() {
            writeln!(out, "{key:<12} {}", plain(line))?;
        }
    }
    Ok(())
}

/// How the lanes fared, and each target with what was measured.
fn write_fabric(out: &mut String, report: &Value) -> std::fmt::Result {
    let fabric = &report["fabric"];
    if fabric.is_null() {
        return Ok(());
    }
    let (name, device, mtu) = (plain(&fabric["fabric"]), plain(&fabric["device"]), &fabric["mtu_bytes"]);
    let (agreements, fell_back) = (&fabric["agreements"], &fabric["fell_back"]);
    writeln!(out, "fabric       {name} on {device}, path MTU {mtu}, {agreements} agreements, {fell_back} fell back")?;
    for (side, counters) in [("ours", &fabric["counters"]), ("the node's", &fabric["node_counters"])] {
        for (name, count) in counters.as_object().into_iter().flatten() {
            writeln!(out, "             {name:<28} {count} ({side})")?;
        }
    }
    for line in fabric["troubles"].as_array().into_iter().flatten() {
        writeln!(out, "lanes        {}", plain(line))?;
    }
    for target in report["targets"].as_array().into_iter().flatten() {
        let (sign, limit) = if target["at_most"].is_null() {
            ("at least", &target["at_least"])
        } else {
            ("at most", &target["at_most"])
        };
        let (name, unit) = (plain(&target["name"]), plain(&target["unit"]));
        let outcome = if target["reached"] == true { "reached" } else { "missed" };
        let measured = &target["measured"];
        let measured = if measured.is_null() { "not measured".to_owned() } else { format!("{measured} {unit}") };
        writeln!(out, "target       {name:<14} {measured:>18}, {sign} {limit} {unit}: {outcome}")?;
    }
    Ok(())
}

fn plain(value: &Value) -> &str {
    value.as_str().unwrap_or("")
}

#[cfg(test)]
mod tests {
    use super::text;
    use serde_json::json;

    #[test]
    fn each_target_is_shown_as_reached_or_missed() {
        let report = json!({
            "fabric": {
                "fabric": "rdma-ring", "device": "rxe0", "mtu_bytes": 1024, "agreements": 4, "fell_back": 0,
                "counters": {}, "node_counters": { "out_of_buffer": 3 }, "troubles": ["worker 0: no answer"],
            },
            "targets": [
                { "name": "residence p50", "unit": "ns", "measured": 900, "at_most": 1000, "reached": true },
                { "name": "end to end p99", "unit": "ns", "measured": null, "at_most": 2000, "reached": false },
                { "name": "messages/s", "unit": "1/s", "measured": 5, "at_least": 10, "reached": false },
            ],
        });
        let text = text(&report);
        for line in [
            "fabric       rdma-ring on rxe0, path MTU 1024, 4 agreements, 0 fell back",
            "             out_of_buffer                3 (the node's)",
            "lanes        worker 0: no answer",
            "target       residence p50              900 ns, at most 1000 ns: reached",
            "target       end to end p99       not measured, at most 2000 ns: missed",
            "target       messages/s                  5 1/s, at least 10 1/s: missed",
        ] {
            assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
        }
    }
}
