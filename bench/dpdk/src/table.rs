//! The rows, for people.

use serde_json::Value;

/// One row in a line.
pub(crate) fn print(row: &Value) {
    let text = |key: &str| row[key].as_str().unwrap_or_default().to_owned();
    let mut line = format!("{:<14}{:<11}", text("row"), text("vdev"));
    for (key, name, unit) in [
        ("burst", "burst", ""),
        ("frame_bytes", "", " bytes"),
        ("tachyon_mpps", "ours", " M/s"),
        ("testpmd_mpps", "testpmd", " M/s"),
        ("peer_mpps", "rte_meter", " M/s"),
        ("ns_per_poll", "", " ns a poll"),
        ("allocations", "allocations", ""),
        ("ns_per_frame", "", " ns a frame"),
        ("loop_ns_per_message", "loop alone", " ns a message"),
        ("ratio", "ratio", ""),
    ] {
        if let Some(value) = row[key].as_f64() {
            let digits = if value.fract() == 0.0 { 0 } else { 2 };
            line += &format!("  {name}{}{value:.digits$}{unit}", if name.is_empty() { "" } else { " " });
        }
    }
    let verdict = match row["reached"].as_bool() {
        Some(true) => format!("  reached ({})", row["target"]),
        Some(false) => format!("  MISSED ({})", row["target"]),
        None => String::new(),
    };
    println!("{line}{verdict}");
    if let Some(note) = row["note"].as_str() {
        println!("{:25}  {note}", "");
    }
}
