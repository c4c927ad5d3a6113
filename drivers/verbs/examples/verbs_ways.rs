//! How long the cold side is held up by a peer that packets cannot find: one offers a lane as it would offer one to a node, from an
//! address that is on the network and that nobody answers for. For a machine with a RoCE v2 device, soft ones included.
//!
//! ```text
//! verbs_ways --a rxea:192.0.2.1 --to 192.0.2.99 [--limit 20]
//! ```
//!
//! Prints one JSON object: `asks`, how often the offer was made until it was refused; `longest_ms`, the longest of them; `whole_ms`, all
//! together; `why`, what it was refused for; and `alone_ms`, how long the kernel takes if it is asked without going round.
//! It ends by itself: 0 done, 2 bad arguments, no device, an answer, or the limit.
#![expect(clippy::print_stdout, reason = "printing the result is what it is for")]

#[allow(dead_code, reason = "each program uses its own part")]
mod ends;

use ends::{At, port};
use serde_json::{Value, json};
use std::{
    net::IpAddr,
    process::ExitCode,
    time::{Duration, Instant},
};
use tachyon_driver_api::{LaneRequest, Lanes, NoLane};
use tachyon_driver_verbs::{Details, Hardware, VerbsConfig, device::Fabric};
use tachyon_wire::Endpoint;

/// Between two offers: what a control waits before it asks again.
const PAUSE: Duration = Duration::from_millis(5);

fn look(at: &At, ip: IpAddr) -> Result<Value, String> {
    let fabric = |config: &VerbsConfig| Hardware::open(config).map_err(|error| error.to_string());
    let mut kept = None;
    let keep = |config: &VerbsConfig| {
        kept = Some(config.clone());
        fabric(config)
    };
    let (mut ports, _queue, _pool) = ends::open(at, (64, false), keep)?;
    let gid = match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    };
    let theirs = Details::Datagrams { gid, qpn: 0x11, qkey: 1, mtu_bytes: 4_096 };
    let offer =
        LaneRequest { worker: 0, to: Endpoint::v6(gid, 5_000), ports: 1, falls_back: false, details: theirs.encode() };
    let (start, mut longest, mut asks) = (Instant::now(), Duration::ZERO, 0);
    let why = loop {
        let asked = Instant::now();
        let answer = Lanes::connect(&mut ports, &offer);
        longest = longest.max(asked.elapsed());
        asks += 1;
        match answer {
            Ok(_) => return Err(format!("there is a way to {ip}")),
            Err(NoLane::Never(why)) => break why,
            Err(NoLane::Later(_)) => std::thread::sleep(PAUSE),
        }
    };
    let whole = start.elapsed();
    let mut alone = fabric(&kept.ok_or("no configuration")?)?;
    let asked = Instant::now();
    if alone.address(&gid).is_ok() {
        return Err(format!("there is a way to {ip} now"));
    }
    let ms = |time: Duration| (time.as_secs_f64() * 1e6).round() / 1e3;
    Ok(json!({
        "asks": asks, "longest_ms": ms(longest), "whole_ms": ms(whole), "why": why, "alone_ms": ms(asked.elapsed()),
    }))
}

fn main() -> ExitCode {
    let (mut a, mut to, mut limit) = (None, None, 20);
    let mut words = std::env::args().skip(1);
    while let Some(word) = words.next() {
        let value = words.next().unwrap_or_default();
        let result = match word.as_str() {
            "--a" => port(&value).map(|at| a = Some(at)),
            "--to" => value.parse().map(|ip| to = Some(ip)).map_err(|_| format!("{value} is no address")),
            "--limit" => value.parse().map(|seconds| limit = seconds).map_err(|_| format!("{value} is no number")),
            other => Err(format!("{other} is unknown; see the head of this example")),
        };
        if let Err(error) = result {
            eprintln!("verbs_ways: {error}");
            return ExitCode::from(2);
        }
    }
    let Some((a, to)) = a.zip(to) else {
        eprintln!("verbs_ways: give --a and --to");
        return ExitCode::from(2);
    };
    std::thread::spawn(move || {
        std::thread::sleep(Duration::from_secs(limit));
        eprintln!("verbs_ways: not done after {limit} s; raise --limit if that is too short");
        std::process::exit(2);
    });
    match look(&a, to) {
        Ok(found) => {
            println!("{found}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("verbs_ways: {error}");
            ExitCode::from(2)
        }
    }
}
