//! The whole program against a stand-in node and a stand-in control process, over real loopback sockets: phases,
//! progress, drain, proof and report.

use crate::{
    control::{Shared, start},
    stand_in::SHARDS,
};
use clap::Parser;
use serde_json::Value;
use std::{net::UdpSocket, sync::atomic::Ordering};
use tachyon_loadgen::{
    args::{Cli, Verb},
    run,
};

/// Receives and forwards until told to stop.
fn relay(shared: &Shared) {
    let bind = |shard: u16| UdpSocket::bind(("127.0.0.1", shared.base_port + shard)).unwrap();
    let sockets: Vec<UdpSocket> = (0..SHARDS).map(bind).collect();
    sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let mut bytes = [0; 65_536];
    while !shared.stop.load(Ordering::Relaxed) {
        let mut idle = true;
        for (shard, socket) in (0..SHARDS).zip(&sockets) {
            while let Ok(length) = socket.recv(&mut bytes) {
                idle = false;
                let copies = shared.node.lock().unwrap().take(&bytes[..length], shard, false);
                let subscriber = shared.subscriber.lock().unwrap().clone();
                if let (Some(copies), Some((_, port))) = (copies, subscriber) {
                    socket.send_to(&copies, ("127.0.0.1", port + shard)).unwrap();
                }
            }
        }
        if idle {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
}

#[test]
fn phases_run_one_after_another_and_everything_adds_up() {
    let (shared, socket, node) = start("phases", relay);
    let line = [
        "tachyon-load",
        "run",
        "--control",
        socket.to_str().unwrap(),
        "--seconds",
        "0.6",
        "--rate",
        "20k",
        "--topics",
        "64",
        "--frame-bytes",
        "768",
        "--sessions",
        "3",
        "--senders",
        "10",
        "--choice",
        "zipf",
        "--seed",
        "9",
        "--phase",
        "name=steady",
        "--phase",
        "name=forged,forged=1/10,replayed=0.1",
        "--phase",
        "name=hot,hot-topic=other.hot,hot-share=0.5,flood-sender=3",
    ];
    let Verb::Run(args) = Cli::try_parse_from(line).unwrap().command;
    let mut lines: Vec<Value> = Vec::new();
    let report = run::run(&args, &mut |line| lines.push(line.clone())).unwrap();
    shared.stop.store(true, Ordering::Relaxed);
    node.join().unwrap();
    let _ = std::fs::remove_file(&socket);

    assert_eq!(report["unaccounted"], 0, "{report:#}");
    assert_eq!(report["unexpected"].as_array().map(Vec::len), Some(0), "{report:#}");
    assert_eq!(report["lost_before_us"]["source"], "none");
    let frames = report["offered_frames"].as_u64().unwrap();
    assert!((2_000..=3_300).contains(&frames), "20,000 messages a second in frames of 11 for 1.8 s: {frames}");
    assert_eq!(report["ledgers"]["frames"]["seen"], frames);
    assert_eq!(report["received_copies"], report["ledgers"]["copies"]["given"]);
    assert_eq!(report["driver"], "uring");
    assert!(report["end_to_end_ns"]["p50"].as_u64().unwrap() > 1000);
    assert_eq!(report["ruleset_versions"], serde_json::json!([7]));
    let phases = report["phases"].as_array().unwrap();
    assert_eq!(phases[0]["forged_frames"], 0);
    assert!(phases[1]["forged_frames"].as_u64().unwrap() > 40 && phases[1]["replayed_frames"].as_u64().unwrap() > 40);
    assert_eq!(phases[2]["ledgers"]["frames"]["refused"], 0, "a phase's ledgers are its own: {}", phases[2]);
    for phase in ["steady", "forged", "hot"] {
        let shown = lines.iter().filter(|line| line["event"] == "progress" && line["phase"] == phase).count();
        assert!(shown >= 1, "{phase}: {lines:?}");
    }
}

#[test]
fn without_a_control_process_the_error_says_what_to_start() {
    let line = ["tachyon-load", "run", "--control", "/nonexistent/control.sock", "--patience", "0.1"];
    let Verb::Run(args) = Cli::try_parse_from(line).unwrap().command;
    let error = format!("{:#}", run::run(&args, &mut |_| {}).unwrap_err());
    assert!(error.contains("start `tachyon-control`"), "{error}");
}

#[test]
fn rdma_that_cannot_be_had_is_refused_with_what_to_do() {
    let line = ["tachyon-load", "run", "--control", "/nonexistent/control.sock", "--fabric", "rdma-ring"];
    // An address of the documentation's network, which no device has.
    let Verb::Run(args) = Cli::try_parse_from(line.iter().chain(&["--fabric-address", "192.0.2.77"])).unwrap().command;
    let error = format!("{:#}", run::run(&args, &mut |_| {}).unwrap_err());
    let words = if cfg!(feature = "verbs") { "no RDMA device" } else { "--features verbs" };
    assert!(error.contains(words), "{error}");
}
