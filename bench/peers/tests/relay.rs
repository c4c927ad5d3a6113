//! Each relay sends on every frame, in order and unchanged, and counts what it did.
#![expect(clippy::unwrap_used, reason = "test helpers panic where a test would")]

use std::{
    io::{BufRead, BufReader},
    net::{Ipv4Addr, UdpSocket},
    process::{Command, Stdio},
    sync::atomic::{AtomicU16, Ordering},
    time::Duration,
};

const SHARDS: u16 = 4;
const FRAMES: usize = 200;

/// Sockets on a free run of ports, below the ephemeral range, so that no other socket gets them once they are let go.
/// Processes and calls start at different ones.
fn run_of_sockets() -> (u16, Vec<UdpSocket>) {
    static CALLS: AtomicU16 = AtomicU16::new(0);
    let mut base = 12_000 + u16::try_from(std::process::id() % 100).unwrap() * 80;
    base += CALLS.fetch_add(1, Ordering::Relaxed) * 8;
    loop {
        let last = base + SHARDS - 1;
        let run: Result<Vec<_>, _> = (base..=last).map(|port| UdpSocket::bind((Ipv4Addr::LOCALHOST, port))).collect();
        if let Ok(run) = run {
            return (base, run);
        }
        base = last + 1;
    }
}

/// A frame as far as a relay looks at it: a header's length and the count, and a number to know it by.
fn frame(number: usize, count: u8) -> Vec<u8> {
    let mut bytes = vec![0; 64 * (1 + usize::from(count))];
    bytes[30] = count;
    bytes[64..72].copy_from_slice(&number.to_le_bytes());
    bytes
}

fn relays(mode: &str) {
    let (to, sinks) = run_of_sockets();
    let (base, held) = run_of_sockets();
    drop(held);
    let mut child = Command::new(env!("CARGO_BIN_EXE_tachyon-peers"))
        .args(["relay", "--mode", mode, "--shards", &SHARDS.to_string(), "--base-port", &base.to_string()])
        .args(["--to", &format!("127.0.0.1:{to}")])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    assert_eq!(lines.next().unwrap().unwrap(), r#"{"ready":true}"#);
    let source = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let (mut bytes, mut messages) = (vec![0; 65_536], 0);
    for number in 0..FRAMES {
        let shard = u16::try_from(number).unwrap() % SHARDS;
        let count = u8::try_from(1 + number % 22).unwrap();
        messages += u64::from(count);
        let offered = frame(number, count);
        source.send_to(&offered, (Ipv4Addr::LOCALHOST, base + shard)).unwrap();
        if number % 50 == 49 {
            for number in number - 49..=number {
                let sink = &sinks[number % usize::from(SHARDS)];
                sink.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
                let (len, from) = sink.recv_from(&mut bytes).unwrap();
                assert_eq!(bytes[..len], frame(number, u8::try_from(1 + number % 22).unwrap()), "{mode}");
                assert_eq!(from.port(), base + u16::try_from(number).unwrap() % SHARDS, "{mode}");
            }
        }
    }
    drop(child.stdin.take());
    let report: serde_json::Value = serde_json::from_str(&lines.next().unwrap().unwrap()).unwrap();
    assert!(child.wait().unwrap().success());
    assert_eq!(report["mode"], mode);
    assert_eq!(
        (report["frames"].as_u64(), report["messages"].as_u64()),
        (Some(FRAMES as u64), Some(messages)),
        "{mode}"
    );
    assert!(report["syscalls"].as_u64().unwrap() > 0 && report["cpu_seconds"].as_f64().unwrap() > 0.0, "{report}");
}

#[test]
fn plain_calls_relay() {
    relays("recvmmsg");
}

#[test]
fn calls_with_offloads_relay() {
    relays("gso");
}

#[test]
fn the_driver_relays() {
    relays("uring");
}

#[test]
fn ends_after_its_seconds() {
    let (base, held) = run_of_sockets();
    drop(held);
    let output = Command::new(env!("CARGO_BIN_EXE_tachyon-peers"))
        .args([
            "relay",
            "--mode",
            "uring",
            "--base-port",
            &base.to_string(),
            "--to",
            "127.0.0.1:9",
            "--seconds",
            "0.05",
        ])
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
}
