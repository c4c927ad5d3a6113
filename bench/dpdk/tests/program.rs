//! The program keeps its promises: a soak that loses nothing, and rows that say what they compared.

use std::process::Command;

fn run(words: &[&str]) -> serde_json::Value {
    let output = Command::new(env!("CARGO_BIN_EXE_tachyon-dpdk-bench")).args(words).output().expect("it starts");
    let text = String::from_utf8_lossy(&output.stdout);
    let said = String::from_utf8_lossy(&output.stderr);
    serde_json::from_str(text.lines().last().unwrap_or_default()).unwrap_or_else(|_| panic!("{words:?}: {said}"))
}

#[test]
fn a_soak_accounts_for_every_message_and_every_buffer() {
    // Of 7 messages, so that egress frames hold parts of several; fewer than the soak of a full run, because this is a build
    // without optimisation.
    let row = run(&["--soak", "100000", "--soak-messages", "7"]);
    assert!(row["frames"].as_u64() >= Some(100_000));
    assert_eq!(row["messages"].as_u64(), row["frames"].as_u64().map(|frames| frames * 7));
    assert_eq!((row["unaccounted"].as_u64(), row["missing_buffers"].as_u64()), (Some(0), Some(0)));
}

#[test]
fn a_poll_in_which_nothing_arrives_allocates_nothing() {
    let result = run(&["--json", "--pairs", "1", "--only", "idle"]);
    let rows = result["rows"].as_array().expect("rows");
    assert_eq!(rows.len(), 2);
    for row in rows {
        assert_eq!(row["allocations"], 0, "{row}");
    }
}

#[test]
fn the_policer_and_the_governed_loop_carry_the_same_frames() {
    let result = run(&["--json", "--pairs", "1", "--turn-ms", "10", "--only", "meter"]);
    let row = &result["rows"][0];
    assert_eq!(row["peer"], "rte_meter");
    assert!(row["peer_mpps"].as_f64() > Some(0.0) && row["tachyon_mpps"].as_f64() > Some(0.0), "{row}");
}
