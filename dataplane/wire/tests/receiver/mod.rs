//! A receiver, slow and obvious: it knows only what a vector's `.json` says it knows, and judges the `.bin` by the check
//! order of `WIRE.md`.

use serde_json::Value;
use std::net::SocketAddr;
use tachyon_wire::{
    Frame, Lane, Message, Reason, crc,
    frame::{self, AUTHENTICATED},
    message::{self, SYSTEM_PACKET},
    payload, tag,
};

/// What a frame came to: refused at a frame check, or admitted with a word on each message.
pub(crate) type Outcome<'a> = Result<(Frame<'a>, Vec<Option<(Reason, u8)>>), (Reason, u8)>;

fn number(value: &Value) -> u32 {
    value.as_u64().and_then(|number| number.try_into().ok()).expect("a number of 32 bits")
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    (0..text.len()).step_by(2).map(|at| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal")).collect()
}

/// Judges `bytes` as the receiver that `vector` describes.
pub(crate) fn judge<'a>(bytes: &'a [u8], vector: &Value) -> Outcome<'a> {
    let assumes = &vector["assumes"];
    let references = assumes["references"].as_bool().expect("a boolean");
    let lane = Lane { frame_bytes_max: number(&assumes["frame_bytes_max"]), references };
    let frame =
        frame::parse(bytes, &lane).map_err(|reason| (reason, if reason == Reason::TooLarge { 1 } else { 2 }))?;
    let sessions = vector["sessions"].as_array().expect("a list");
    let session = sessions.iter().find(|row| number(&row["session_id"]) == frame.header.session_id.get());
    if assumes["receiver"] == "subscriber" {
        seal(&frame, session.ok_or((Reason::NoSession, 4))?)?;
        return Ok((frame, vec![None; frame.messages.len()]));
    }
    let by_node = session.is_some_and(|row| row["opened_by_node"].as_bool().expect("a boolean"));
    frame::check_route(&frame, by_node).map_err(|reason| (reason, 2))?;
    if u32::from(frame.header.shard.get()) != number(&assumes["port_shard"]) {
        return Err((Reason::WrongShard, 3));
    }
    let session = session.ok_or((Reason::NoSession, 4))?;
    if !is_from(&session["pinned"], &assumes["source"]) {
        return Err((Reason::NoSession, 4));
    }
    seal(&frame, session)?;
    window(&frame, session)?;
    payload::check(&frame).map_err(|reason| (reason, 7))?;
    let shard_count = number(&assumes["shard_count"]);
    let verdicts =
        frame.messages.iter().map(|message| judge_message(message, &frame, session, shard_count, references));
    Ok((frame, verdicts.collect()))
}

fn is_from(pinned: &Value, source: &Value) -> bool {
    let source: SocketAddr = source.as_str().and_then(|text| text.parse().ok()).expect("a source");
    match pinned.as_str().expect("text") {
        "" => true,
        text => match text.parse::<SocketAddr>() {
            Ok(pin) => pin == source,
            Err(_) => text.parse() == Ok(source.ip()),
        },
    }
}

fn seal(frame: &Frame<'_>, session: &Value) -> Result<(), (Reason, u8)> {
    let reason = if frame.header.flags.get() & AUTHENTICATED != 0 {
        let master = unhex(session["master"].as_str().expect("text")).try_into().expect("32 bytes");
        let key = tag::derive(&master, frame.header.session_id.get(), frame.header.epoch.get());
        if tag::verify(&key, frame) {
            assert_eq!(tag::compute(&key, frame.bytes), frame.header.tag);
            return Ok(());
        }
        Reason::BadTag
    } else if session["tag_required"] == true {
        Reason::TagRequired
    } else {
        if crc::verify(frame) {
            assert_eq!(crc::compute(frame.bytes), frame.header.crc32c.get());
            return Ok(());
        }
        Reason::BadCrc
    };
    Err((reason, 5))
}

fn window(frame: &Frame<'_>, session: &Value) -> Result<(), (Reason, u8)> {
    let (epoch, current) = (frame.header.epoch.get(), number(&session["epoch"]));
    let tagged = frame.is_authenticated();
    let id = frame.header.frame_id.get();
    let missing = session["missing"].as_array().expect("a list");
    let (newest, is_settled) = if epoch == current {
        let newest = number(&session["newest"]);
        (newest, id <= newest && !missing.iter().any(|missing| number(missing) == id))
    } else {
        (0, false) // a new epoch starts with an empty window
    };
    let stale = epoch < current
        || (!tagged && epoch > current + 1)
        || id > 1 << 31
        || id + 1024 <= newest
        || (!tagged && id > newest + 65_536);
    if stale {
        return Err((Reason::Stale, 6));
    }
    if is_settled { Err((Reason::Replay, 6)) } else { Ok(()) }
}

fn judge_message(
    message: &Message,
    frame: &Frame<'_>,
    session: &Value,
    shard_count: u32,
    references: bool,
) -> Option<(Reason, u8)> {
    if let Err(reason) = message::check(message, references) {
        return Some((reason, if reason == Reason::BadPacket { 1 } else { 2 }));
    }
    if message.topic_id.get() % shard_count != u32::from(frame.header.shard.get()) {
        return Some((Reason::TopicShard, 3));
    }
    if message.flags.get() & SYSTEM_PACKET != 0 && session["system"] == false {
        return Some((Reason::SystemDenied, 4));
    }
    let range = number(&session["sender_low"])..=number(&session["sender_high"]);
    if range.contains(&message.sender_id.get()) { None } else { Some((Reason::Sender, 5)) }
}
