//! A record in words and as JSON.

use super::{
    arguments::Filter,
    clock::rfc3339,
    decisions,
    filter::{self, LANE},
    hex,
};
use crate::table::plural;
use serde_json::{Map, Value, json};
use std::net::{Ipv6Addr, SocketAddr};
use tachyon_log::{
    Owned, Record,
    note::Checkpoint,
    record::{Removal, Tombstone},
};
use tachyon_wire::{
    Endpoint, Frame, FrameHeader, Message, Reason, command, frame,
    message::{self, Reference},
    payload,
};

/// Bytes of a payload that a line for a person shows; JSON has them all.
const PAYLOAD_CHARS: usize = 64;

/// A record and what is known besides it.
pub(crate) struct Described<'a> {
    pub(crate) shard: u16,
    pub(crate) record: &'a Owned,
    /// Unix nanoseconds at its tick.
    pub(crate) unix_ns: Option<u64>,
    /// Messages that are shown.
    pub(crate) filter: &'a Filter,
}

/// The name of a kind of records.
pub(crate) const fn kind(number: u8) -> &'static str {
    match number {
        1 => "frame",
        2 => "decisions",
        3 => "ruleset",
        4 => "command",
        5 => "clock",
        6 => "tombstone",
        7 => "gap",
        8 => "checkpoint",
        _ => "unknown",
    }
}

/// An address and port; IPv4 as IPv4.
pub(crate) fn endpoint(endpoint: &Endpoint) -> String {
    SocketAddr::new(Ipv6Addr::from(endpoint.ip).to_canonical(), endpoint.port.get()).to_string()
}

impl Described<'_> {
    /// As `tachyon log show --help` documents it.
    pub(crate) fn json(&self) -> Value {
        let mut fields = Map::new();
        let mut add = |name: &str, value: Value| fields.insert(name.to_owned(), value);
        add("shard", self.shard.into());
        add("sequence", self.record.sequence.into());
        add("tick", self.record.tick.into());
        add("unix_ns", self.unix_ns.into());
        add("kind", kind(self.record.kind).into());
        match Record::read(&self.record.raw()) {
            Some(Record::Frame(arrival, bytes)) => {
                add("source", endpoint(&arrival.source).into());
                add("worker", arrival.worker.get().into());
                add("burst", arrival.burst.get().into());
                frame_json(bytes, self.filter, &mut fields);
            }
            Some(Record::Decisions(body)) => decisions::json(body, &mut fields),
            Some(Record::Command(command)) => command_json(command.number(), command.wire().as_ref(), &mut fields),
            Some(record) => fields.extend(other_json(&record)),
            None => {
                add("bytes", self.record.raw().body.len().into());
            }
        }
        Value::Object(fields)
    }

    /// One line, and one for each message of a frame.
    pub(crate) fn lines(&self) -> String {
        let time = self.unix_ns.map_or_else(|| format!("tick {}", self.record.tick), rfc3339);
        let head = format!("{time}  shard {}  #{}  ", self.shard, self.record.sequence);
        match Record::read(&self.record.raw()) {
            Some(Record::Frame(arrival, bytes)) => {
                let from = endpoint(&arrival.source);
                match filter::parse(bytes) {
                    Ok(frame) => format!("{head}{} from {from}\n{}", frame_line(&frame), messages(&frame, self.filter)),
                    Err(reason) => {
                        format!("{head}{} bytes from {from} that are no frame: {}\n", bytes.len(), reason.code())
                    }
                }
            }
            Some(Record::Decisions(body)) => format!("{head}decisions, {}\n", decisions::line(body)),
            Some(record) => format!("{head}{}\n", other_line(&record)),
            None => format!("{head}{} that this program does not know\n", kind(self.record.kind)),
        }
    }

    /// All that is known, over several lines.
    pub(crate) fn text(&self) -> String {
        let record = self.record;
        let mut text = format!("shard {}  record {}  {}\n", self.shard, record.sequence, kind(record.kind));
        let time = self.unix_ns.map_or_else(|| "unknown: no clock record lies before it".to_owned(), rfc3339);
        text.push_str(&format!("  tick        {} ns\n  time        {time}\n", record.tick));
        match Record::read(&record.raw()) {
            Some(Record::Frame(arrival, bytes)) => {
                let (source, worker) = (endpoint(&arrival.source), arrival.worker.get());
                text.push_str(&format!("  received    from {source} by worker {worker}, burst {}\n", arrival.burst));
                text.push_str(&frame_text(bytes, self.filter));
            }
            Some(Record::Decisions(body)) => text.push_str(&format!("  decisions   {}\n", decisions::line(body))),
            Some(Record::Checkpoint(note)) => {
                note.lines().for_each(|line| text.push_str(&format!("  | {line}\n")));
            }
            Some(known) => {
                let fields = match &known {
                    Record::Command(command) => {
                        let mut fields = Map::new();
                        command_json(command.number(), command.wire().as_ref(), &mut fields);
                        fields
                    }
                    other => other_json(other),
                };
                for (name, value) in &fields {
                    let value = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
                    text.push_str(&format!("  {name:<10}  {value}\n"));
                }
            }
            None => text.push_str("  its kind or layout is not known; a newer writer made it\n"),
        }
        text
    }
}

fn frame_kind(number: u8) -> &'static str {
    match number {
        frame::KIND_DATA => "data",
        frame::KIND_ACK => "ack",
        frame::KIND_NACK => "nack",
        frame::KIND_HEARTBEAT => "heartbeat",
        _ => "unknown",
    }
}

/// The flags of a frame's header by name.
fn frame_flags(header: &FrameHeader) -> Vec<&'static str> {
    let names = [
        (frame::AUTHENTICATED, "AUTHENTICATED"),
        (frame::DURABLE, "DURABLE"),
        (frame::ACK_WANTED, "ACK_WANTED"),
        (frame::TRACE, "TRACE"),
        (frame::PROVENANCE, "PROVENANCE"),
    ];
    names.iter().filter(|(bit, _)| header.flags.get() & bit != 0).map(|(_, name)| *name).collect()
}

/// The flags of a message by name, its mode among them.
fn message_flags(message: &Message) -> Vec<&'static str> {
    let names = [
        (message::INLINE_PAYLOAD, "INLINE_PAYLOAD"),
        (message::REF_ARENA, "REF_ARENA"),
        (message::REF_SHM, "REF_SHM"),
        (message::GOVERNANCE_REQUIRED, "GOVERNANCE_REQUIRED"),
        (message::SYSTEM_PACKET, "SYSTEM_PACKET"),
        (message::PRIORITY_HIGH, "PRIORITY_HIGH"),
    ];
    names.iter().filter(|(bit, _)| message.flags.get() & bit != 0).map(|(_, name)| *name).collect()
}

/// Where a message has its payload: `inline`, `arena`, `shm`, or `none` where exactly one mode is not set.
pub(crate) fn mode(message: &Message) -> &'static str {
    match message.flags.get() & message::MODE_MASK {
        message::INLINE_PAYLOAD => "inline",
        message::REF_ARENA => "arena",
        message::REF_SHM => "shm",
        _ => "none",
    }
}

/// The payload as text, if it is some.
fn as_text(payload: &[u8]) -> Option<&str> {
    let text = core::str::from_utf8(payload).ok()?;
    (!text.is_empty() && !text.chars().any(|char| char.is_control() && char != '\n' && char != '\t')).then_some(text)
}

fn frame_json(bytes: &[u8], filter: &Filter, into: &mut Map<String, Value>) {
    let frame = match filter::parse(bytes) {
        Ok(frame) => frame,
        Err(reason) => {
            into.insert("fault".to_owned(), reason.code().into());
            into.insert("frame".to_owned(), hex(bytes).into());
            return;
        }
    };
    let header = frame.header;
    let wanted = frame.messages.iter().enumerate().filter(|(_, message)| filter.wants_message(message));
    let messages: Vec<Value> = wanted.map(|(index, _)| message_json(&frame, index)).collect();
    let fields = json!({
        "fault": null,
        "type": frame_kind(header.kind),
        "flags": frame_flags(header),
        "route_id": header.route_id.get(),
        "frame_id": header.frame_id.get(),
        "session_id": header.session_id.get(),
        "epoch": header.epoch.get(),
        "frame_shard": header.shard.get(),
        "sent_ns": header.sent_ns.get(),
        "frame_bytes": bytes.len(),
        "messages": messages,
    });
    into.extend(fields.as_object().cloned().unwrap_or_default());
}

fn message_json(frame: &Frame<'_>, index: usize) -> Value {
    let message = &frame.messages[index];
    let (payload, fault) = payload_of(frame, index);
    let provenance = frame.provenance.get(index).map(|origin| {
        json!({
            "session_id": origin.session_id.get(),
            "epoch": origin.epoch.get(),
            "frame_id": origin.frame_id.get(),
            "shard": origin.shard.get(),
            "index": origin.index.get(),
        })
    });
    json!({
        "index": index,
        "topic_id": message.topic_id.get(),
        "sender_id": message.sender_id.get(),
        "class": message.class(),
        "flags": message_flags(message),
        "mode": mode(message),
        "payload": payload.map(hex),
        "text": payload.and_then(as_text),
        "fault": fault.map(|reason| reason.code()),
        "provenance": provenance,
    })
}

/// The payload of a message if it is in the frame; and what is wrong with the message if something is.
pub(crate) fn payload_of<'a>(frame: &Frame<'a>, index: usize) -> (Option<&'a [u8]>, Option<Reason>) {
    let fault = frame.messages.get(index).and_then(|message| message::check(message, LANE.references).err());
    match payload::of(frame, index) {
        Ok(payload) => (Some(payload), fault),
        // It is elsewhere, which is no fault of the message.
        Err(Reason::ModeForbidden) => (None, fault),
        Err(reason) => (None, fault.or(Some(reason))),
    }
}

fn frame_line(frame: &Frame<'_>) -> String {
    let header = frame.header;
    let what = match header.kind {
        frame::KIND_DATA => format!("data, {}", plural(frame.messages.len() as u64, "message", "messages")),
        kind => frame_kind(kind).to_owned(),
    };
    let (session, epoch, id) = (header.session_id, header.epoch, header.frame_id);
    format!("{what}, session {session} epoch {epoch} frame {id}, {} bytes", frame.bytes.len())
}

/// A line for each message that is wanted.
fn messages(frame: &Frame<'_>, filter: &Filter) -> String {
    let wanted = frame.messages.iter().enumerate().filter(|(_, message)| filter.wants_message(message));
    wanted.map(|(index, message)| message_line(frame, index, message)).collect()
}

fn message_line(frame: &Frame<'_>, index: usize, message: &Message) -> String {
    let (topic, sender, class) = (message.topic_id, message.sender_id, message.class());
    let (payload, fault) = payload_of(frame, index);
    let mut line = format!("    {index:>3}  topic {topic}  sender {sender}  P{class}  ");
    if message.flags.get() & message::SYSTEM_PACKET != 0 {
        line.push_str("system  ");
    }
    line.push_str(&match payload {
        Some(payload) => format!("{} {} bytes  {}", mode(message), payload.len(), shown(payload)),
        None => elsewhere(message),
    });
    if let Some(reason) = fault {
        line.push_str(&format!("  {}", reason.code()));
    }
    if let Some(origin) = frame.provenance.get(index) {
        let (session, epoch, id) = (origin.session_id, origin.epoch, origin.frame_id);
        line.push_str(&format!("  first admitted as {session}/{epoch}/{id}/{}/{}", origin.shard, origin.index));
    }
    line.push('\n');
    line
}

/// Text in quotes, other bytes in hex, both cut.
fn shown(payload: &[u8]) -> String {
    match as_text(payload) {
        Some(text) if text.chars().count() > PAYLOAD_CHARS => {
            format!("{:?}…", text.chars().take(PAYLOAD_CHARS).collect::<String>())
        }
        Some(text) => format!("{text:?}"),
        None if payload.len() > PAYLOAD_CHARS / 2 => format!("{}…", hex(&payload[..PAYLOAD_CHARS / 2])),
        None => hex(payload),
    }
}

/// Where a payload is that is not in the frame.
fn elsewhere(message: &Message) -> String {
    match message.reference() {
        Some(Reference::Arena(at)) => format!("{} bytes in arena {} at {}", at.length, at.arena_id, at.offset),
        Some(Reference::Shm(at)) => format!("{} bytes in segment {} at {}", at.length, at.segment_id, at.offset),
        None => "no payload".to_owned(),
    }
}

fn frame_text(bytes: &[u8], filter: &Filter) -> String {
    let frame = match filter::parse(bytes) {
        Ok(frame) => frame,
        Err(reason) => {
            return format!("  no frame    {}, {} bytes: {}\n", reason.code(), bytes.len(), shown(bytes));
        }
    };
    let header = frame.header;
    let flags = frame_flags(header).join(" ");
    let seal = if frame.is_authenticated() {
        format!("tag {}", hex(&header.tag))
    } else {
        format!("crc32c {:08x}", header.crc32c.get())
    };
    let (session, epoch, id) = (header.session_id, header.epoch, header.frame_id);
    let mut text = format!(
        "  frame       {}, {} bytes, shard {}, route {}\n  identity    session {session}, epoch {epoch}, frame {id}\n",
        frame_kind(header.kind),
        bytes.len(),
        header.shard,
        header.route_id,
    );
    text.push_str(&format!("  seal        {seal}\n"));
    text.push_str(&format!("  flags       {}\n", if flags.is_empty() { "none" } else { &flags }));
    text.push_str(&format!("  sent        {}, by the sender's clock\n", rfc3339(header.sent_ns.get())));
    if header.kind == frame::KIND_DATA {
        text.push_str(&format!("  messages    {}\n{}", frame.messages.len(), messages(&frame, filter)));
    }
    text
}

/// The fields of a command. Where the data plane was given a key, the log has only its name, and so has this.
pub(crate) fn command_json(number: u8, said: Option<&command::Command>, into: &mut Map<String, Value>) {
    let (name, fields) = match said {
        Some(command::Command::OpenSession(open)) => ("open_session", open_json(open)),
        Some(command::Command::CloseSession(session)) => ("close_session", json!({ "session_id": session })),
        Some(command::Command::AddSubscriber(add)) => ("add_subscriber", add_json(add)),
        Some(command::Command::RemoveSubscriber(slot)) => ("remove_subscriber", json!({ "slot": slot })),
        Some(command::Command::Lease(lease)) => {
            ("lease", json!({ "sender_id": lease.sender_id.get(), "share": lease.share.get() }))
        }
        Some(command::Command::Restore(part)) => {
            let (session, epoch, top) = (part.session_id.get(), part.epoch.get(), part.top.get());
            ("restore", json!({ "session_id": session, "shard": part.shard.get(), "epoch": epoch, "top": top }))
        }
        Some(command::Command::Again(again)) => {
            let of = again.identity;
            let (session, epoch, frame_id) = (of.session_id.get(), of.epoch.get(), of.frame_id.get());
            let (shard, index) = (of.shard.get(), of.index.get());
            (
                "again",
                json!({ "session_id": session, "shard": shard, "epoch": epoch, "frame_id": frame_id, "index": index }),
            )
        }
        None => ("unknown", json!({ "number": number })),
    };
    into.insert("command".to_owned(), name.into());
    into.extend(fields.as_object().cloned().unwrap_or_default());
}

fn open_json(open: &command::OpenSession) -> Value {
    json!({
        "session_id": open.session_id.get(),
        "reply_session_id": open.reply_session_id.get(),
        "principal": open.principal.get(),
        "sender_low": open.sender_low.get(),
        "sender_high": open.sender_high.get(),
        "epoch_floor": open.epoch_floor.get(),
        "class_cap": open.class_cap,
        "tag_required": open.flags & command::SESSION_TAG_REQUIRED != 0,
        "system": open.flags & command::SESSION_SYSTEM != 0,
        "node": open.flags & command::SESSION_NODE != 0,
        "pinned": Some(&open.pinned).filter(|pinned| !pinned.is_none()).map(endpoint),
        "key_name": hex(&open.master),
        "reply_key_name": hex(&open.reply_master),
    })
}

fn add_json(add: &command::AddSubscriber) -> Value {
    json!({
        "slot": add.slot.get(),
        "worker": add.worker.get(),
        "tagged": add.tagged != 0,
        "session_id": add.session_id.get(),
        "credit": add.credit.get(),
        "frame_bytes_max": add.frame_bytes_max.get(),
        "endpoint": endpoint(&add.endpoint),
        "key_name": hex(&add.master),
    })
}

/// The fields of what is neither frame, decisions nor command.
fn other_json(record: &Record<'_>) -> Map<String, Value> {
    let fields = match record {
        Record::Ruleset(piece, bytes) => json!({
            "version": piece.version.get(),
            "total_bytes": piece.total_bytes.get(),
            "offset": piece.offset.get(),
            "bytes": bytes.len(),
        }),
        Record::Clock(clock) => json!({
            "boot_id": hex(&clock.boot_id),
            "boot": clock.boot != 0,
            "clock_unix_ns": clock.unix_ns.get(),
        }),
        Record::Gap(gap) => json!({
            "count": gap.count.get(),
            "first_tick": gap.first_tick.get(),
            "last_tick": gap.last_tick.get(),
            "reason": reason(gap.reason),
            "of_kind": Some(gap.kind).filter(|number| *number != 0).map(kind),
        }),
        Record::Tombstone(tombstone, signature) => tombstone_json(tombstone, signature),
        Record::Checkpoint(note) => {
            let says = Checkpoint::unchecked(note);
            json!({
                "origin": says.as_ref().map(|says| says.origin.clone()),
                "size": says.as_ref().map(|says| says.size),
                "root": says.as_ref().map(|says| hex(&says.root)),
                "note": note,
            })
        }
        Record::Frame(..) | Record::Decisions(_) | Record::Command(_) => json!({}),
    };
    fields.as_object().cloned().unwrap_or_default()
}

fn tombstone_json(tombstone: &Tombstone, signature: &[u8; 64]) -> Value {
    json!({
        "first": tombstone.first.get(),
        "end": tombstone.end.get(),
        "end_commit": tombstone.end_commit.get(),
        "chain": hex(&tombstone.chain),
        "root": hex(&tombstone.root),
        "removed_unix_ns": tombstone.unix_ns.get(),
        "why": why(tombstone.why),
        "signature": hex(signature),
    })
}

const fn why(number: u8) -> &'static str {
    if number == Removal::Size as u8 {
        "size"
    } else if number == Removal::Age as u8 {
        "age"
    } else {
        "unknown"
    }
}

/// The code of a reason; its number where this program does not know it.
pub(crate) fn reason(number: u8) -> String {
    Reason::from_number(number).map_or_else(|| number.to_string(), |reason| reason.code().to_owned())
}

/// What is neither frame nor decisions in one line.
fn other_line(record: &Record<'_>) -> String {
    match record {
        Record::Ruleset(piece, bytes) => {
            let (version, total, offset) = (piece.version, piece.total_bytes, piece.offset);
            format!("ruleset version {version}, bytes {offset} to {} of {total}", offset.get() + bytes.len() as u64)
        }
        Record::Clock(clock) => {
            let what = if clock.boot == 0 { "clock" } else { "clock, a boot begins" };
            format!("{what}: {}, boot {}", rfc3339(clock.unix_ns.get()), hex(&clock.boot_id))
        }
        Record::Gap(gap) => format!("gap: {} records lost to {}", gap.count, reason(gap.reason)),
        Record::Tombstone(gone, _) => {
            let (first, end, why) = (gone.first.get(), gone.end.get(), why(gone.why));
            format!("tombstone: records {first} to {} removed for their {why}", end.saturating_sub(1))
        }
        Record::Checkpoint(note) => match Checkpoint::unchecked(note) {
            Some(says) => format!("checkpoint of {} records, signed by {}", says.size, says.origin),
            None => "checkpoint that cannot be read".to_owned(),
        },
        Record::Command(command) => {
            let mut fields = Map::new();
            command_json(command.number(), command.wire().as_ref(), &mut fields);
            let name = fields.remove("command").and_then(|name| name.as_str().map(str::to_owned));
            let said = fields.iter().filter(|(name, _)| !name.ends_with("key_name"));
            let said: Vec<String> = said.map(|(name, value)| format!("{name} {value}")).collect();
            format!("{}: {}", name.unwrap_or_default(), said.join(", "))
        }
        Record::Frame(..) | Record::Decisions(_) => String::new(),
    }
}
