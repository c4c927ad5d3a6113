//! The load generator against each relay: what it publishes comes back to its own subscriber, verified and counted.
#![expect(clippy::unwrap_used, reason = "test helpers panic where a test would")]

use clap::Parser;
use std::{
    io::{BufRead, BufReader},
    net::{IpAddr, Ipv4Addr},
    process::{Child, Command, Stdio},
};
use tachyon_loadgen::{
    args::{Cli, Verb},
    hire::free_ports,
    run,
};

const SHARDS: u16 = 16;

/// A relay that is ready, from `base` to `to`.
fn start(mode: &str, base: u16, to: u16) -> Child {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tachyon-peers"))
        .args(["relay", "--mode", mode, "--shards", &SHARDS.to_string(), "--base-port", &base.to_string()])
        .args(["--to", &format!("127.0.0.1:{to}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
    child
}

/// Half a second through a relay; `more` are further words for the load generator.
fn through(mode: &str, first: u16, more: &[&str]) -> serde_json::Value {
    let listen = IpAddr::V4(Ipv4Addr::LOCALHOST);
    // Below the ephemeral ports, and apart from what tests of other processes take.
    let first = first + u16::try_from(std::process::id() % 50).unwrap() * 2 * SHARDS;
    let ports = free_ports(listen, first, SHARDS, 2).unwrap();
    let mut child = start(mode, ports[0], ports[1]);
    let (relay, to) = (format!("127.0.0.1:{}", ports[0]), ports[1].to_string());
    let words = ["tachyon-load", "run", "--relay", &relay, "--listen-port", &to, "--seconds", "0.5", "--rate", "40k"];
    let Verb::Run(args) = Cli::try_parse_from(words.iter().chain(more)).unwrap().command;
    let report = run::run(&args, &mut |_| {});
    drop(child.stdin.take());
    assert!(child.wait().unwrap().success());
    report.unwrap()
}

fn everything_comes_back(report: &serde_json::Value) {
    let offered = report["offered_messages"].as_u64().unwrap();
    assert!(offered > 10_000, "{report:#}");
    assert_eq!(report["received_copies"], offered, "{report:#}");
    assert_eq!(report["subscribers"][0]["anomalies"], serde_json::json!({}), "{report:#}");
    let lost = &report["lost_on_the_way"];
    assert_eq!((lost["frames"].as_u64(), lost["gap_frames"].as_u64()), (Some(0), Some(0)), "{report:#}");
    assert!(report["ledgers"].is_null() && report["unaccounted"].is_null(), "nobody counted but us");
    assert!(report["end_to_end_ns"]["p50"].as_u64().unwrap() > 1_000, "{report:#}");
}

#[test]
fn every_tagged_frame_comes_back_through_every_relay() {
    for (mode, first) in [("recvmmsg", 13_000), ("gso", 15_000), ("uring", 17_000)] {
        everything_comes_back(&through(mode, first, &[]));
    }
}

#[test]
fn frames_with_a_crc_come_back_too() {
    everything_comes_back(&through("uring", 19_000, &["--crc", "--messages-per-frame", "3"]));
}

#[test]
fn a_frame_that_was_damaged_on_purpose_is_found() {
    let report = through("gso", 21_000, &["--forged-share", "0.1"]);
    let forged = report["forged"]["frames"].as_u64().unwrap();
    let anomalies = report["subscribers"][0]["anomalies"].as_object().unwrap();
    assert!(forged > 50 && anomalies["bad_seal"].as_u64().unwrap() > 10, "{report:#}");
}
