//! What the demo shows.

use serde_json::{Value, json};

/// One line of progress out of one of the load's.
pub(crate) fn progress(line: &Value) -> String {
    let number = |key: &str| line[key].as_f64().unwrap_or(0.0);
    let phase = line["phase"].as_str().unwrap_or("");
    format!(
        "  {phase:<18} offered {:>10} messages   received {:>10} copies   {:>9}/s",
        number("offered_messages"),
        number("received_copies"),
        thousands(number("offered_per_second")),
    )
}

fn thousands(number: f64) -> String {
    if number >= 1e6 { format!("{:.2} M", number / 1e6) } else { format!("{:.0} k", number / 1e3) }
}

/// The load's report, with what the node says of itself and what the demo found missing.
pub(crate) fn join(report: &Value, status: &Value, degraded: Vec<String>) -> Value {
    let mut result = report.clone();
    let lists = [&report["degraded"], &status["degraded"]];
    let mut all: Vec<Value> = degraded.into_iter().map(Value::from).collect();
    for line in lists.into_iter().filter_map(Value::as_array).flatten() {
        if !all.contains(line) {
            all.push(line.clone());
        }
    }
    result["degraded"] = json!(all);
    result
}

/// The table at the end.
pub(crate) fn print(result: &Value) {
    println!();
    println!(
        "frames offered {}, of which {} never reached the node ({})",
        result["offered_frames"],
        result["lost_before_us"]["frames"],
        text(&result["lost_before_us"]["source"])
    );
    for (name, total, well) in
        [("frames", "seen", "admitted"), ("messages", "seen", "accepted"), ("copies", "due", "given")]
    {
        ledger(name, total, well, &result["ledgers"][name]);
    }
    println!("routes");
    for (route, counts) in result["routes"].as_object().into_iter().flatten() {
        println!(
            "  route {route:<24} due {:>12}  given {:>12}  received {:>12}",
            counts["due"], counts["given"], counts["received"]
        );
    }
    println!("rate                      {} messages/s accepted while load was offered", result["messages_per_second"]);
    for (name, key) in [("residence in the worker", "residence_ns"), ("end to end", "end_to_end_ns")] {
        let at = |quantile: &str| result[key][quantile].as_f64().unwrap_or(f64::NAN) / 1e3;
        println!(
            "{name:<25} P50 {:.1} µs   P99 {:.1} µs   P99.9 {:.1} µs   max {:.1} µs",
            at("p50"),
            at("p99"),
            at("p999"),
            at("max")
        );
    }
    println!("syscalls per message      {:.5}", result["syscalls_per_message"].as_f64().unwrap_or(f64::NAN));
    println!("ruleset versions          {}", result["ruleset_versions"]);
    if result["prefilter"].is_object() {
        let filter = &result["prefilter"];
        println!(
            "pre-filter under a flood  {} junk packets dropped, {} of {} good messages lost",
            filter["junk_dropped"], filter["good_lost"], filter["good_messages"]
        );
    }
    for line in result["degraded"].as_array().into_iter().flatten() {
        println!("degraded                  {}", text(line));
    }
    println!("unaccounted               {}", result["unaccounted"]);
}

fn ledger(name: &str, total: &str, well: &str, ledger: &Value) {
    println!("{:<36} {:>14}", format!("{name} {total}"), ledger[total]);
    println!("  {well:<34} {:>14}", ledger[well]);
    for (code, count) in ledger["reasons"].as_object().into_iter().flatten() {
        println!("  {code:<34} {count:>14}");
    }
    if ledger["held"] != 0 {
        println!("  {:<34} {:>14}", "held", ledger["held"]);
    }
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
