//! The golden vectors, through the worker: a program in another language and this one have to agree on every byte.

use crate::fabric::{Config, Fabric, Rules, reasons};
use serde_json::Value;
use std::{fs, net::SocketAddr, path::Path};
use tachyon_policy::compile::Quota;
use tachyon_wire::{
    Endpoint, Reason,
    build::{self, Body, FrameFields, Seal},
    command::{Command, OpenSession, SESSION_NODE, SESSION_SYSTEM, SESSION_TAG_REQUIRED},
    tag,
};

fn number(value: &Value) -> u32 {
    u32::try_from(value.as_u64().expect("a number")).unwrap()
}

fn endpoint(text: &str) -> Endpoint {
    if text.is_empty() {
        return Endpoint::NONE;
    }
    let (ip, port) = match text.parse::<SocketAddr>() {
        Ok(address) => (address.ip(), address.port()),
        Err(_) => (text.parse().expect("an address"), 0),
    };
    match ip {
        std::net::IpAddr::V4(ip) => Endpoint::v4(ip.octets(), port),
        std::net::IpAddr::V6(ip) => Endpoint::v6(ip.octets(), port),
    }
}

fn open(row: &Value) -> OpenSession {
    let text = row["master"].as_str().unwrap();
    let byte = |at: usize| u8::from_str_radix(&text[at * 2..at * 2 + 2], 16).unwrap();
    let flag = |name: &str, flag: u8| if row[name] == true { flag } else { 0 };
    OpenSession {
        session_id: number(&row["session_id"]).into(),
        reply_session_id: 0x7000_0000.into(),
        principal: 0.into(),
        sender_low: number(&row["sender_low"]).into(),
        sender_high: number(&row["sender_high"]).into(),
        epoch_floor: number(&row["epoch"]).into(),
        class_cap: 0,
        flags: flag("tag_required", SESSION_TAG_REQUIRED)
            | flag("system", SESSION_SYSTEM)
            | flag("opened_by_node", SESSION_NODE),
        pinned: endpoint(row["pinned"].as_str().unwrap()),
        master: std::array::from_fn(byte),
        reply_master: [1; 32],
    }
}

/// Lets the worker settle what the vector says was settled.
fn settle(fabric: &mut Fabric, row: &Value, shard: u16) {
    let open = open(row);
    fabric.command(Command::OpenSession(open));
    let missing: Vec<u32> = row["missing"].as_array().unwrap().iter().map(number).collect();
    let newest = number(&row["newest"]);
    let source = if open.pinned.is_none() { Endpoint::v4([9; 4], 9) } else { open.pinned };
    let key = tag::derive(&open.master, open.session_id.get(), open.epoch_floor.get());
    for id in (newest.saturating_sub(1_023).max(1)..=newest).filter(|id| !missing.contains(id)) {
        let fields = FrameFields {
            frame_id: id,
            session_id: open.session_id.get(),
            shard,
            epoch: open.epoch_floor.get(),
            ..FrameFields::default()
        };
        let mut frame = [0; 64];
        let tagged = open.flags & SESSION_TAG_REQUIRED != 0;
        build::control(&mut frame, &fields, Body::Heartbeat, if tagged { Seal::Tag(&key) } else { Seal::Crc }).unwrap();
        assert!(fabric.send_from(source, shard, &[&frame]));
        if id % 64 == 0 {
            fabric.step(10);
        }
    }
    fabric.step(10);
    fabric.step(10);
}

#[test]
fn every_golden_vector_comes_to_what_it_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../spec/vectors");
    let (mut ran, mut skipped) = (0, 0);
    for entry in fs::read_dir(&folder).expect("spec/vectors") {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|ending| ending != "json") {
            continue;
        }
        let vector: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
        let bytes = fs::read(path.with_extension("bin")).unwrap();
        let assumes = &vector["assumes"];
        if assumes["receiver"] != "node" || assumes["references"] == true || bytes.is_empty() {
            skipped += 1; // subscribers and shared-memory lanes are not the worker's
            continue;
        }
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        judge(&name, &vector, &bytes);
        ran += 1;
    }
    println!("{ran} vectors, {skipped} not for a node's network lane");
    assert!(ran > 50, "{ran} vectors");
}

fn judge(name: &str, vector: &Value, bytes: &[u8]) {
    let assumes = &vector["assumes"];
    let shards = u16::try_from(number(&assumes["shard_count"])).unwrap();
    let port = u16::try_from(number(&assumes["port_shard"])).unwrap();
    let owned: Vec<u16> = (0..shards).collect();
    let config = Config {
        shard_count: shards,
        shards: Box::leak(owned.into_boxed_slice()),
        frame_bytes_max: number(&assumes["frame_bytes_max"]),
        buffer_bytes: 32_768,
        pool: 80,
        outside: 80,
        topics_max: 8_192,
        ..Config::default()
    };
    let rules = (100..200).fold(Rules::new(1).shards(shards), |rules, sender| rules.sender(sender, Quota::UNLIMITED));
    let topics = (1..8_192 / u32::from(shards)).map(|run| run * u32::from(shards) + u32::from(port));
    let mut fabric = Fabric::new(config, topics.fold(rules, |rules, topic| rules.topic(topic, &[0], &[])));
    fabric.strangers = true;
    let sessions = vector["sessions"].as_array().unwrap();
    sessions.iter().for_each(|row| settle(&mut fabric, row, port));
    let before = fabric.worker.stats().counters;
    assert_eq!(reasons(&before.frames_refused), [], "{name}");
    assert!(fabric.send_from(endpoint(assumes["source"].as_str().unwrap()), port, &[bytes]));
    fabric.step(10);
    let after = fabric.finish();
    if !vector["refused"].is_null() {
        let reason = Reason::from_number(u8::try_from(number(&vector["refused"]["number"])).unwrap()).unwrap();
        assert_eq!(reasons(&after.frames_refused), [(reason, 1)], "{name}");
        return;
    }
    assert_eq!(after.frames_admitted, before.frames_admitted + 1, "{name}: {:?}", reasons(&after.frames_refused));
    let mut expected = [0; tachyon_wire::reason::REASON_SLOTS];
    let empty = Vec::new();
    let rows = vector["messages"].as_array().unwrap_or(&empty);
    let numbers = rows.iter().filter_map(|row| row["refused"]["number"].as_u64());
    numbers.for_each(|number| expected[usize::try_from(number).unwrap()] += 1);
    // What passes the checks that need no rules may still be unknown to these rules.
    let refused: u64 = expected.iter().sum();
    let by_rules =
        after.messages_refused[Reason::Denylisted.index()] + after.messages_refused[Reason::QuotaExceeded.index()];
    assert_eq!(after.messages_accepted + by_rules, rows.len() as u64 - refused, "{name}");
    let mut found = after.messages_refused;
    found[Reason::Denylisted.index()] = 0;
    found[Reason::QuotaExceeded.index()] = 0;
    assert_eq!(reasons(&found), reasons(&expected), "{name}");
}
