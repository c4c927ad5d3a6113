//! How a vector is written down.

use crate::world::{Expect, Receiver, Session, Vector};
use serde_json::{Value, json};
use std::fmt::Write as _;
use tachyon_wire::{
    Frame, Lane, Message, Reason,
    ack::{MAP_BITS, Map},
    frame::{self, KIND_ACK, KIND_DATA, KIND_NACK},
    message::Reference,
    payload, tag,
};

/// Lower-case hexadecimal.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// The text of `X.json`: one line per session and message, so that files can be read and compared.
pub(crate) fn text(vector: &Vector) -> String {
    let mut out = String::from("{\n");
    let mut first = true;
    let mut entry = |key: &str, value: String| {
        let _ = write!(out, "{}  \"{key}\": {value}", if first { "" } else { ",\n" });
        first = false;
    };
    entry("name", json!(vector.name).to_string());
    entry("about", json!(vector.about).to_string());
    entry("bytes", json!(vector.bytes.len()).to_string());
    let receiver = if vector.receiver == Receiver::Node { "node" } else { "subscriber" };
    let assumes = json!({
        "receiver": receiver, "shard_count": vector.shard_count, "port_shard": vector.port_shard,
        "frame_bytes_max": vector.frame_bytes_max, "references": vector.references, "source": vector.source,
    });
    entry("assumes", assumes.to_string());
    entry("sessions", lines(vector.sessions.iter().map(session)));
    match &vector.expect {
        Expect::Refused(reason, check) => entry("refused", refusal(*reason, *check).to_string()),
        Expect::Admitted(verdicts) => {
            let lane = Lane { frame_bytes_max: vector.frame_bytes_max, references: vector.references };
            let frame = frame::parse(&vector.bytes, &lane).expect("an admitted frame keeps the layout");
            entry("header", header(&frame).to_string());
            entry("seal", seal(&frame, vector).to_string());
            match frame.header.kind {
                KIND_DATA => {
                    entry("messages", lines((0..verdicts.len()).map(|index| message(&frame, index, verdicts[index]))));
                    if !frame.provenance.is_empty() {
                        entry("provenance", lines(frame.provenance.iter().map(provenance)));
                    }
                    entry("payload_offset", json!(frame.payload_offset).to_string());
                }
                KIND_ACK => entry("ack", ack(&frame).to_string()),
                KIND_NACK => entry("nack", nack(&frame).to_string()),
                _ => {}
            }
        }
    }
    out.push_str("\n}\n");
    out
}

fn lines(values: impl Iterator<Item = Value>) -> String {
    let rows: Vec<String> = values.map(|value| format!("    {value}")).collect();
    format!("[\n{}\n  ]", rows.join(",\n"))
}

fn refusal(reason: Reason, check: u8) -> Value {
    json!({ "reason": reason.code(), "number": reason.number(), "check": check })
}

fn session(row: &Session) -> Value {
    json!({
        "session_id": row.session_id, "master": hex(&row.master), "tag_required": row.tag_required, "system": row.system,
        "opened_by_node": row.opened_by_node, "sender_low": row.sender_low, "sender_high": row.sender_high,
        "pinned": row.pinned, "epoch": row.window.epoch, "newest": row.window.newest, "missing": row.window.missing,
    })
}

fn header(frame: &Frame<'_>) -> Value {
    let header = frame.header;
    json!({
        "magic": "RTT1", "flags": header.flags.get(), "version": header.version, "kind": header.kind,
        "route_id": header.route_id.get(), "frame_id": header.frame_id.get(), "len": header.len.get(),
        "crc32c": header.crc32c.get(), "session_id": header.session_id.get(), "shard": header.shard.get(),
        "count": header.count.get(), "sent_ns": header.sent_ns.get(), "epoch": header.epoch.get(),
        "tag": hex(&header.tag),
    })
}

/// The steps between master key and tag, so that a program that gets another tag sees where it went astray.
fn seal(frame: &Frame<'_>, vector: &Vector) -> Value {
    let header = frame.header;
    let row = vector.sessions.iter().find(|row| row.session_id == header.session_id.get());
    match row {
        Some(row) if frame.is_authenticated() => {
            let key = tag::derive(&row.master, row.session_id, header.epoch.get());
            let nonce = [row.session_id, header.epoch.get(), u32::from(header.shard.get()), header.frame_id.get()];
            let nonce: Vec<u8> = nonce.iter().flat_map(|word| word.to_le_bytes()).collect();
            json!({ "key": hex(&key.to_bytes()), "nonce": hex(&nonce), "tag": hex(&header.tag) })
        }
        _ => json!({ "crc32c": format!("{:08x}", header.crc32c.get()) }),
    }
}

fn message(frame: &Frame<'_>, index: usize, verdict: Option<(Reason, u8)>) -> Value {
    let message: &Message = &frame.messages[index];
    let mut value = json!({
        "flags": message.flags.get(), "topic_id": message.topic_id.get(), "sender_id": message.sender_id.get(),
        "data": hex(&message.data),
    });
    if let Some((reason, check)) = verdict {
        value["refused"] = refusal(reason, check);
        return value;
    }
    value["class"] = json!(message.class());
    match message.reference() {
        Some(Reference::Arena(place)) => {
            value["arena_id"] = json!(place.arena_id.get());
            value["offset"] = json!(place.offset.get());
            value["length"] = json!(place.length.get());
            value["checksum"] = json!(place.checksum.get());
        }
        Some(Reference::Shm(place)) => {
            value["segment_id"] = json!(place.segment_id.get());
            value["offset"] = json!(place.offset.get());
            value["length"] = json!(place.length.get());
            value["checksum"] = json!(place.checksum.get());
        }
        None => {}
    }
    match payload::of(frame, index) {
        Ok(bytes) => value["payload"] = json!(hex(bytes)),
        Err(Reason::ArenaCorrupt) => value["reader"] = json!(Reason::ArenaCorrupt.code()),
        Err(_) => {} // in another arena or segment
    }
    value
}

fn provenance(identity: &frame::Provenance) -> Value {
    json!({
        "session_id": identity.session_id.get(), "epoch": identity.epoch.get(), "frame_id": identity.frame_id.get(),
        "shard": identity.shard.get(), "index": identity.index.get(),
    })
}

fn bits(map: &Map) -> Vec<u32> {
    (0..MAP_BITS).filter(|index| map.get(*index)).collect()
}

fn ack(frame: &Frame<'_>) -> Value {
    let body = frame.ack().expect("an ack");
    let cumulative = body.cumulative.get();
    let from = cumulative.saturating_sub(MAP_BITS);
    let refused: Vec<u32> = (from..=cumulative + MAP_BITS).filter(|id| body.is_refused(*id)).collect();
    json!({
        "session_id": body.session_id.get(), "epoch": body.epoch.get(), "shard": body.shard.get(), "class": body.class,
        "cumulative": cumulative, "settled_bits": bits(&body.settled), "refused_before_bits": bits(&body.refused_before),
        "refused_after_bits": bits(&body.refused_after), "refused_frames": refused,
    })
}

fn nack(frame: &Frame<'_>) -> Value {
    let body = frame.nack().expect("a nack");
    json!({
        "session_id": body.session_id.get(), "epoch": body.epoch.get(), "shard": body.shard.get(), "reason": body.reason,
        "frame_id": body.frame_id.get(), "accepted_bits": bits(&body.accepted),
    })
}
