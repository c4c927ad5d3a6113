//! What a worker decided in a turn: a shard's part of it, as the log has it. A body that is no turn has its length and its first
//! bytes stand for it.

use super::{describe, hex};
use crate::table::plural;
use serde_json::{Map, Value, json};
use std::collections::BTreeMap;
use tachyon_log::record::wire_command;
use tachyon_wire::{
    FrameHeader, Reason,
    tap::{
        self, COMMAND_PARTS, COMMAND_SETUP, ENTRY_LOGGED, FRAME_REFUSED, FRAME_STUBS, FRAME_WHOLE, FramePart, Item,
        Part, Parts, Setup, TURN_COMPLETE, TURN_DEVICE, TURN_DURABLE, TURN_RESERVE, TURN_SINCE_BOOT, Turn, TurnParts,
    },
};
use zerocopy::FromBytes;

/// Bytes that are shown of a body that is no turn.
const HEAD_BYTES: usize = 32;

/// Fields of the record's JSON.
pub(crate) fn json(body: &[u8], into: &mut Map<String, Value>) {
    let fields = match read(body) {
        Some((turn, parts)) => turn_json(turn, parts),
        None => json!({ "bytes": body.len(), "head": hex(head(body)) }),
    };
    into.extend(fields.as_object().cloned().unwrap_or_default());
}

/// One line for a person.
pub(crate) fn line(body: &[u8]) -> String {
    match read(body) {
        Some((turn, parts)) => turn_line(turn, parts),
        None => {
            let more = if body.len() > HEAD_BYTES { "…" } else { "" };
            format!("{} bytes: {}{more}", body.len(), hex(head(body)))
        }
    }
}

/// The name of a word on a message, or of a frame's reason: `accepted`, or the reason's code.
pub(crate) fn verdict(word: u8) -> String {
    if word == 0 || word == tap::HELD { "accepted".to_owned() } else { describe::reason(word) }
}

fn head(body: &[u8]) -> &[u8] {
    body.get(..HEAD_BYTES).unwrap_or(body)
}

/// A turn that can be read to its end.
fn read(body: &[u8]) -> Option<(&Turn, Parts<'_>)> {
    let (turn, parts) = tap::read(body)?;
    let mut rest = parts.clone();
    rest.by_ref().for_each(drop);
    rest.is_whole().then_some((turn, parts))
}

fn turn_json(turn: &Turn, parts: Parts<'_>) -> Value {
    let (mut commands, mut frames, mut of_turn, mut item) = (Vec::new(), Vec::new(), None, None);
    for part in parts {
        match part {
            Part::Command(COMMAND_PARTS, bytes) => of_turn = TurnParts::read_from_bytes(bytes).ok(),
            Part::Command(number, bytes) => commands.push(command_json(number, bytes)),
            Part::Item(next) => item = Some(next),
            Part::Frame(frame) => frames.extend(item.map(|item| frame_json(item, &frame))),
        }
    }
    json!({
        "worker": turn.worker.get(),
        "turn": turn.turn.get(),
        "ruleset_version": Some(turn.ruleset_version.get()).filter(|version| *version != 0),
        "pressure": turn.pressure,
        "free_buffers": turn.free_buffers.get(),
        "refuses": Some(turn.refuses).filter(|reason| *reason != 0).map(describe::reason),
        "turn_flags": flags(turn),
        "stable_turn": turn.stable.get(),
        "egress_frames": turn.egress_frames.get(),
        "egress_digest": format!("{:016x}", turn.egress_digest.get()),
        "turn_shards": of_turn.map(|parts| (0..64).filter(|shard| parts.shards.get() >> shard & 1 == 1).collect::<Vec<u16>>()),
        "commands": commands,
        "frames": frames,
    })
}

/// The flags of a turn by name.
fn flags(turn: &Turn) -> Vec<&'static str> {
    let names = [
        (TURN_DURABLE, "DURABLE"),
        (TURN_COMPLETE, "COMPLETE"),
        (TURN_SINCE_BOOT, "SINCE_BOOT"),
        (TURN_DEVICE, "DEVICE"),
        (TURN_RESERVE, "RESERVE"),
    ];
    names.iter().filter(|(bit, _)| turn.flags & bit != 0).map(|(_, name)| *name).collect()
}

fn command_json(number: u8, bytes: &[u8]) -> Value {
    let mut fields = Map::new();
    match Setup::read_from_bytes(bytes) {
        Ok(setup) if number == COMMAND_SETUP => {
            fields.extend(setup_json(&setup).as_object().cloned().unwrap_or_default());
        }
        _ => describe::command_json(number, wire_command(number, bytes).as_ref(), &mut fields),
    }
    Value::Object(fields)
}

/// What a worker was started with.
fn setup_json(setup: &Setup) -> Value {
    json!({
        "command": "setup",
        "boot": setup.boot.get(),
        "workers": setup.workers.get(),
        "shard_count": setup.shard_count.get(),
        "shards": (0..64).filter(|shard| setup.shards.get() >> shard & 1 == 1).collect::<Vec<u16>>(),
        "unix_offset_ns": setup.unix_offset_ns.get(),
        "fill_window_ns": setup.fill_window_ns.get(),
        "sessions_max": setup.sessions_max.get(),
        "topics_max": setup.topics_max.get(),
        "senders_max": setup.senders_max.get(),
        "subscribers_max": setup.subscribers_max.get(),
        "targets_max": setup.targets_max.get(),
        "buffers": setup.buffers.get(),
        "receive_buffers": setup.receive_buffers.get(),
        "buffer_bytes": setup.buffer_bytes.get(),
        "frame_bytes_max": setup.frame_bytes_max.get(),
        "held_buffers": setup.held_buffers.get(),
    })
}

/// How much of a frame is in the log.
const fn kept(form: u8) -> &'static str {
    match form {
        FRAME_WHOLE => "whole",
        FRAME_STUBS => "stubs",
        _ => "head",
    }
}

/// The word on each message.
fn words<'a>(frame: &'a FramePart<'_>) -> impl Iterator<Item = u8> + 'a {
    let plain = |index| if frame.is_held(index) { tap::HELD } else { 0 };
    (0..usize::from(frame.entry.count.get()))
        .map(move |index| frame.reasons.get(index).copied().unwrap_or(plain(index)))
}

fn frame_json(item: &Item, frame: &FramePart<'_>) -> Value {
    let refused: Vec<Value> = words(frame)
        .enumerate()
        .filter(|(_, word)| *word != 0 && *word != tap::HELD)
        .map(|(index, word)| json!({ "index": index, "reason": describe::reason(word) }))
        .collect();
    // Of a whole frame the header is in the record of that frame.
    let header = FrameHeader::read_from_bytes(frame.head).ok();
    json!({
        "kept": kept(frame.entry.form),
        "reason": (frame.entry.form == FRAME_REFUSED).then(|| describe::reason(frame.entry.reason)),
        "messages": frame.entry.count.get(),
        "held": words(frame).filter(|word| *word == tap::HELD).count(),
        "refused": refused,
        "for_log": frame.entry.flags & ENTRY_LOGGED != 0,
        "session_id": header.as_ref().map(|header| header.session_id.get()),
        "epoch": header.as_ref().map(|header| header.epoch.get()),
        "frame_id": header.as_ref().map(|header| header.frame_id.get()),
        "source": describe::endpoint(&item.source),
        "item_shard": item.shard.get(),
        "place": item.place.get(),
    })
}

/// What is counted for a line.
#[derive(Default)]
struct Counts {
    frames: u64,
    whole: u64,
    messages: u64,
    accepted: u64,
    held: u64,
    /// Refused frames and messages, by reason.
    frames_refused: BTreeMap<u8, u64>,
    messages_refused: BTreeMap<u8, u64>,
}

impl Counts {
    fn frame(&mut self, frame: &FramePart<'_>) {
        self.frames += 1;
        self.whole += u64::from(frame.entry.form == FRAME_WHOLE);
        if frame.entry.form == FRAME_REFUSED {
            *self.frames_refused.entry(frame.entry.reason).or_default() += 1;
            return;
        }
        for word in words(frame) {
            self.messages += 1;
            match word {
                0 => self.accepted += 1,
                tap::HELD => (self.accepted, self.held) = (self.accepted + 1, self.held + 1),
                reason => *self.messages_refused.entry(reason).or_default() += 1,
            }
        }
    }

    fn line(&self) -> String {
        let (frames, messages) = (plural(self.frames, "frame", "frames"), plural(self.messages, "message", "messages"));
        let mut line = format!("{frames} ({} whole{}), {messages}", self.whole, refused(&self.frames_refused));
        if self.messages > 0 {
            let held = if self.held > 0 { format!(", {} of them held", self.held) } else { String::new() };
            line.push_str(&format!(" ({} accepted{held}{})", self.accepted, refused(&self.messages_refused)));
        }
        line
    }
}

/// Each reason and how often, to be put behind something else.
fn refused(by_reason: &BTreeMap<u8, u64>) -> String {
    by_reason.iter().map(|(reason, count)| format!(", {count} {}", describe::reason(*reason))).collect()
}

fn turn_line(turn: &Turn, parts: Parts<'_>) -> String {
    let (mut counts, mut commands) = (Counts::default(), 0);
    for part in parts {
        match part {
            Part::Frame(frame) => counts.frame(&frame),
            Part::Command(number, _) => commands += u64::from(number != COMMAND_PARTS),
            Part::Item(_) => {}
        }
    }
    let rules = match turn.ruleset_version.get() {
        0 => "without rules".to_owned(),
        version => format!("under ruleset {version}"),
    };
    let mut line = format!("worker {} turn {} {rules}, pressure {}: ", turn.worker, turn.turn, turn.pressure);
    if commands > 0 {
        line.push_str(&plural(commands, "command", "commands"));
        line.push_str(", ");
    }
    line.push_str(&counts.line());
    if let Some(reason) = Reason::from_number(turn.refuses).filter(|_| turn.refuses != 0) {
        line.push_str(&format!("; the log took nothing: {}", reason.code()));
    }
    line
}
