//! The rows, for people.

use serde_json::Value;

/// One row in a line.
pub(crate) fn print(row: &Value) {
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let mut line = format!("{:<58}", text("case"));
    if let Some(ns) = row["ours_ns"].as_f64() {
        let (way, empty) = (text("way"), row["peer_ns"].as_f64().unwrap_or(f64::NAN));
        line += &format!(" {ns:>6.1} ns by {way:<30} empty {empty:>5.1} ns");
    } else if let Some(value) = row["value"].as_f64() {
        line += &format!(" {value:>6.2}");
    } else {
        let of = |key: &str| row[key].as_f64().unwrap_or(f64::NAN);
        line += &format!(" {:>6.2} M/s, {:<31} {:>6.2} M/s", of("ours_mpps"), text("peer"), of("peer_mpps"));
        line += &format!("  ratio {:.3}", of("ratio"));
    }
    for (part, name) in [("with_source", "source included"), ("calls_alone", "the driver's calls alone")] {
        if let Some(ratio) = row[part]["ratio"].as_f64() {
            line += &format!(", {name} {ratio:.2}");
        }
    }
    match row["reached"].as_bool() {
        Some(true) => line += &format!("  reached ({})", row["target"]),
        Some(false) => line += &format!("  MISSED ({})", row["target"]),
        None => {}
    }
    println!("{line}");
}
