//! Holds a replayed record against the recorded one.

use crate::{keys::Keys, rebuild::Head};
use tachyon_log::turn::Encoder;
use tachyon_wire::{
    Reason,
    command::{AddSubscriber, OpenSession},
    tap::{
        self, COMMAND_ADD_SUBSCRIBER, COMMAND_OPEN_SESSION, COMMAND_SETUP, ENTRY_DURABLE, FRAME_REFUSED, FRAME_STUBS,
        FramePart, HELD, Item, Part, STUB_BYTES, Setup, TURN_DEVICE, Turn, WITHHELD,
    },
};
use zerocopy::{FromBytes, IntoBytes};

/// What of a turn can be compared.
#[derive(Debug, Default)]
pub struct Scope {
    /// What left the worker: every shard is recorded, no device interfered, all keys are known.
    pub egress: bool,
    /// For each frame, in order, what of its head.
    pub heads: Vec<Head>,
    /// Senders' quotas depend on shards that are not recorded: messages refused for them were given this topic and the shard.
    pub topic_past_all: Option<u32>,
}

/// A difference.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The turn.
    pub turn: u64,
    /// The frame among those of the turn, if it is in one.
    pub frame: Option<usize>,
    /// The message in it, if it is in one.
    pub message: Option<usize>,
    /// What the log says.
    pub recorded: String,
    /// What the replay did.
    pub replayed: String,
}

/// A record with everything at its default that cannot be compared.
#[must_use]
pub fn canonical(record: &[u8], scope: &Scope, keys: Option<&Keys>) -> Option<Vec<u8>> {
    let (turn, mut parts) = tap::read(record)?;
    let mut encoder = Encoder::default();
    let (mut heads, mut shard) = (scope.heads.iter(), 0);
    for part in parts.by_ref() {
        match part {
            Part::Command(number, bytes) => encoder.command(number, &named(number, bytes, keys)),
            Part::Item(item) => {
                shard = item.shard.get();
                encoder.item(&Item { buffer: 0.into(), ..*item });
            }
            Part::Frame(frame) => {
                let mut head = frame.head.to_vec();
                if let Some(rule) = heads.next().filter(|_| !head.is_empty()) {
                    rule.clear(&mut head);
                }
                let (mut stubs, mut reasons) = (frame.stubs.to_vec(), frame.reasons.to_vec());
                if let Some(topic) = scope.topic_past_all {
                    stand_in(topic + u32::from(shard), &mut stubs, &mut reasons);
                }
                encoder.frame(frame.entry, &head, &stubs, &reasons);
            }
        }
    }
    let mut header = Turn { flags: turn.flags & !TURN_DEVICE, ..*turn };
    if !scope.egress {
        (header.egress_frames, header.egress_digest) = (0.into(), 0.into());
    }
    parts.is_whole().then(|| encoder.finish(&header))
}

/// A command with its keys' names in their place, and the setup as far as it can be compared.
fn named(number: u8, bytes: &[u8], keys: Option<&Keys>) -> Vec<u8> {
    let name = |key: &[u8; 32]| keys.map_or(*key, |keys| keys.name(key));
    match number {
        // How much may wait is the replay's own affair: whether it was too much is in each turn's flags.
        COMMAND_SETUP => Setup::read_from_bytes(bytes)
            .map_or_else(|_| bytes.to_vec(), |setup| Setup { held_buffers: 0.into(), ..setup }.as_bytes().to_vec()),
        COMMAND_OPEN_SESSION => OpenSession::read_from_bytes(bytes).map_or_else(
            |_| bytes.to_vec(),
            |open| {
                let (master, reply_master) = (name(&open.master), name(&open.reply_master));
                OpenSession { master, reply_master, ..open }.as_bytes().to_vec()
            },
        ),
        COMMAND_ADD_SUBSCRIBER => AddSubscriber::read_from_bytes(bytes).map_or_else(
            |_| bytes.to_vec(),
            |add| AddSubscriber { master: name(&add.master), ..add }.as_bytes().to_vec(),
        ),
        _ => bytes.to_vec(),
    }
}

/// Gives messages that were refused for their sender's quota the topic and the reason that the replay has for them.
fn stand_in(topic: u32, stubs: &mut [u8], reasons: &mut [u8]) {
    for (index, reason) in reasons.iter_mut().enumerate().filter(|(_, reason)| is_quota(**reason)) {
        *reason = Reason::Denylisted.number();
        if let Some(stub) = stubs.get_mut(index * STUB_BYTES..(index + 1) * STUB_BYTES) {
            stub[8..12].copy_from_slice(&topic.to_le_bytes());
        }
    }
}

/// Whether a recorded reason is a sender's quota.
#[must_use]
pub const fn is_quota(reason: u8) -> bool {
    reason == Reason::QuotaExceeded.number()
}

/// Where two records differ first, in words.
#[must_use]
pub fn difference(recorded: &[u8], replayed: Option<&[u8]>) -> Mismatch {
    let header = tachyon_log::turn::header(recorded);
    let turn = header.map_or(0, |header| header.turn.get());
    let at = |frame, message, recorded, replayed| Mismatch { turn, frame, message, recorded, replayed };
    let Some(replayed) = replayed else {
        return at(None, None, "a turn".to_owned(), "nothing to record".to_owned());
    };
    let (Some((left, left_parts)), Some((right, right_parts))) = (tap::read(recorded), tap::read(replayed)) else {
        return at(None, None, "a record".to_owned(), "bytes that are none".to_owned());
    };
    let (mut frames, mut others) = (0, 0);
    let mut right_parts = right_parts;
    for part in left_parts {
        let other = right_parts.next();
        match (part, other) {
            (Part::Frame(one), Some(Part::Frame(two))) => {
                if one != two {
                    let (message, recorded, replayed) = frame_difference(&one, &two);
                    return at(Some(frames), message, recorded, replayed);
                }
                frames += 1;
            }
            (one, other) if Some(one) != other => {
                return at(None, None, format!("part {others}: {}", words(Some(&one))), words(other.as_ref()));
            }
            _ => others += 1,
        }
    }
    // Nothing that follows from the parts.
    let plain = |turn: &Turn| Turn { length: 0.into(), items: 0.into(), commands: 0.into(), ..*turn };
    at(None, None, format!("{:?}", plain(left)), format!("{:?}", plain(right)))
}

/// A part in words that hold no key.
fn words(part: Option<&Part<'_>>) -> String {
    match part {
        None => "nothing".to_owned(),
        Some(Part::Command(number, bytes)) => format!("command {number} of {} bytes", bytes.len()),
        Some(Part::Item(item)) => format!("{item:?}"),
        Some(Part::Frame(frame)) => format!("{:?}", frame.entry),
    }
}

fn frame_difference(one: &FramePart<'_>, two: &FramePart<'_>) -> (Option<usize>, String, String) {
    let refused = |frame: &FramePart<'_>| frame.entry.form == FRAME_REFUSED;
    if refused(one) || refused(two) {
        let word = |frame: &FramePart<'_>| match Reason::from_number(frame.entry.reason) {
            Some(reason) if refused(frame) => reason.code().to_owned(),
            _ => format!("admitted, {} messages", frame.entry.count),
        };
        return (None, word(one), word(two));
    }
    let count = usize::from(one.entry.count.get()).max(two.entry.count.get().into());
    let verdict = |frame: &FramePart<'_>, index: usize| match frame.reasons.get(index) {
        Some(&HELD) => "accepted, held".to_owned(),
        Some(&WITHHELD) => "accepted, not taken by the log".to_owned(),
        None if frame.entry.flags & ENTRY_DURABLE != 0 => "accepted, held".to_owned(),
        Some(0) | None => "accepted".to_owned(),
        Some(number) => Reason::from_number(*number).map_or("unknown", Reason::code).to_owned(),
    };
    let first = (0..count).find(|index| verdict(one, *index) != verdict(two, *index));
    match first {
        Some(index) => (Some(index), verdict(one, index), verdict(two, index)),
        None => {
            let word = |frame: &FramePart<'_>| {
                let form = if frame.entry.form == FRAME_STUBS { "in part" } else { "whole" };
                format!("{:?} ({form}), head {:02x?}", frame.entry, frame.head)
            };
            (None, word(one), word(two))
        }
    }
}
