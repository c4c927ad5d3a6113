//! The worker's side of the truth log: what it tells it of each turn, and what it does when the log has written something.
//!
//! Records are read back from the ring when they are written and when they are stable, so nothing is remembered beside
//! them but the buffers and a bit for each frame.

use crate::{
    egress::{Egress, Hop},
    host::Host,
    ingress::Ingress,
    kept::{Intake, Kept, Whole, Wholes},
    limits::Limits,
    record::{Filled, Record},
    reply::{Due, Replies},
    tap::Tap,
    worker::Worker,
};
use tachyon_driver_api::{Pool, RxQueue, TxQueue};
use tachyon_policy::{Ruleset, Shards};
use tachyon_wire::{
    Frame, Reason,
    ack::{CLASS_DURABLE, CLASS_LOGGED},
    command::Command,
    counters::{Counters, WorkerStats},
    frame::{ACK_WANTED, FrameHeader},
    image::ROUTE_NONE,
    tap::{self, KIND_TURN, TURN_COMPLETE, TURN_DEVICE, TURN_DURABLE, TURN_RESERVE, TURN_SINCE_BOOT, Turn},
};
use zerocopy::{FromBytes, IntoBytes};

/// Records that are settled per turn when they are written, and as many when they are stable: a long sync frees thousands at
/// once, and each may be a burst to forward.
const RECORDS_PER_TURN: usize = 4;

/// What [`Worker::hear_log`] works with.
struct Settling<'s, 'a, 'r> {
    now_ns: u64,
    ruleset: Option<Ruleset<'r>>,
    ingress: &'s mut Ingress<'a>,
    egress: &'s mut Egress<'a>,
    replies: &'s mut Replies<'a>,
    shards: &'s Shards,
    pool: &'s mut Pool,
    stats: &'s mut WorkerStats,
}

impl<Q: RxQueue + TxQueue, H: Host, T: Tap> Worker<'_, Q, H, T> {
    /// Looks at what the log has, acknowledges it, and forwards what waited for it. Returns whether a record was settled as stable.
    pub(crate) fn hear_log(&mut self, now_ns: u64) -> bool {
        let kept = &mut self.kept;
        kept.log = self.tap.sample(now_ns);
        let (written, stable) = (kept.log.written, kept.log.stable);
        if written <= kept.written && stable <= kept.stable {
            return false;
        }
        let ruleset = self.host.ruleset().ok().map(tachyon_policy::Verified::ruleset);
        let version = &mut self.ruleset_version;
        adopt_rules(ruleset.as_ref(), version, kept, &self.limits, &mut self.egress, now_ns, self.stats);
        let mut settling = Settling {
            now_ns,
            ruleset,
            ingress: &mut self.ingress,
            egress: &mut self.egress,
            replies: &mut self.replies,
            shards: &self.tables.shards,
            pool: &mut self.pool,
            stats: self.stats,
        };
        for _ in 0..RECORDS_PER_TURN {
            match self.tap.record(kept.written) {
                Some((record, end)) if end <= written => settling.written(kept, record, end),
                _ => break,
            }
        }
        let before = kept.stable;
        for _ in 0..RECORDS_PER_TURN {
            match self.tap.record(kept.stable) {
                Some((record, end)) if end <= stable.min(kept.written) => settling.stable(kept, record, end),
                _ => break,
            }
        }
        let freed = kept.stable != before;
        if freed {
            self.tap.release(kept.stable);
        }
        freed
    }

    /// Whether something waits for the log that it may have by now.
    pub(crate) fn waits_for_log(&self) -> bool {
        self.stats.counters.messages_held > 0
            || self.kept.stable < self.kept.log.stable
            || self.kept.written < self.kept.log.written
    }

    /// Records a turn in which nothing was received, if it ought to be.
    pub(crate) fn record_quiet(&mut self, busy: bool, commands: &[Command]) -> (Intake, Filled) {
        let intake = self.kept.begin_turn(&mut self.tap, busy, &[], commands);
        self.free_before = self.tap.free_buffers(self.pool.free());
        let setup = self.kept.setup_of_turn();
        let record = if intake.recorded { self.tap.begin(intake.bytes) } else { None };
        (intake, record.map_or(Filled::EMPTY, |bytes| Record::new(bytes, setup, commands).finish()))
    }

    /// Hands the turn's record over, if there is one.
    pub(crate) fn end_turn(&mut self, now_ns: u64, intake: Intake, filled: Filled, refused_before: u64) {
        if !intake.ought {
            return;
        }
        if !intake.recorded {
            self.stats.counters.turns_lost += 1;
            self.kept.since_boot = false;
            return;
        }
        let held = self.hold(filled.stays);
        let kept = &self.kept;
        let owned = self.limits.owned_shards();
        let flag = |is: bool, flag: u8| if is { flag } else { 0 };
        let turn = Turn {
            length: u32::try_from(filled.at).unwrap_or(0).into(),
            kind: KIND_TURN,
            flags: flag(filled.durable, TURN_DURABLE)
                | flag(kept.shards & owned == owned, TURN_COMPLETE)
                | flag(kept.since_boot, TURN_SINCE_BOOT)
                | flag(filled.marked || refused_by_device(&self.stats.counters) != refused_before, TURN_DEVICE)
                | flag(intake.scarce, TURN_RESERVE),
            pressure: u8::try_from(self.stats.counters.pressure).unwrap_or(0), // 0 to 4
            refuses: if intake.all { 0 } else { intake.reason().number() },
            turn: kept.turn.into(),
            tick: now_ns.into(),
            ruleset_version: self.ruleset_version.into(),
            free_buffers: u32::try_from(self.free_before).unwrap_or(u32::MAX).into(),
            worker: self.limits.worker.into(),
            lead_shard: self.limits.shards.first().copied().unwrap_or(0).into(),
            commands: filled.commands.into(),
            items: filled.items.into(),
            egress_frames: self.egress.logged_frames.into(),
            egress_digest: self.egress.logged_digest.into(),
            stable: kept.stable_turn.into(),
        };
        if let Some(bytes) = self.tap.begin(intake.bytes)
            && let Some(header) = bytes.get_mut(..tap::TURN_BYTES)
        {
            header.copy_from_slice(turn.as_bytes());
        }
        let end = self.tap.commit(filled.at);
        self.kept.end(held, end);
        self.stats.counters.messages_held += filled.held;
        self.stats.counters.turns_recorded += 1;
        self.stats.counters.bytes_recorded += filled.at as u64;
    }

    /// Keeps the received buffers at these places, and gives back the rest; returns how many it kept.
    fn hold(&mut self, stays: u64) -> usize {
        let mut held = 0;
        for (place, item) in self.received.drain(..).enumerate() {
            let back = if stays >> (place % 64) & 1 == 0 {
                Some(item.buffer)
            } else {
                held += 1;
                self.kept.hold(item.buffer).err()
            };
            if let Some(buffer) = back {
                self.pool.put(buffer);
            }
        }
        held
    }
}

/// Copies refused for what no record tells, before they were in a frame. What a device refuses later was sealed and counted by then,
/// and a subscriber that is not there is in the record.
pub(crate) fn refused_by_device(counters: &Counters) -> u64 {
    counters.copies_refused[Reason::TxCongestion.index()] + counters.copies_refused[Reason::ArenaOom.index()]
}

impl<'a> Settling<'_, 'a, '_> {
    fn written(&mut self, kept: &mut Kept<'a>, record: &[u8], end: u64) {
        let Some((_, parts)) = tap::read(record) else { return kept.passed_written(end, 0) };
        let past = kept.written_past();
        let mut wholes = Wholes::new(parts);
        for whole in wholes.by_ref() {
            if let Some(due) = self.settle(kept, &whole, past + whole.buffer, false) {
                self.replies.note(self.ingress.window(due.window), due);
            }
        }
        let buffers = wholes.buffers;
        kept.passed_written(end, buffers);
    }

    fn stable(&mut self, kept: &mut Kept<'a>, record: &[u8], end: u64) {
        let Some((turn, parts)) = tap::read(record) else {
            return kept.passed_stable(kept.stable_turn, end, self.pool);
        };
        // Without durable messages nothing waited for this, and most turns have none.
        let durable = turn.flags & TURN_DURABLE != 0;
        for whole in Wholes::new(parts).take_while(|_| durable) {
            if let Some(due) = self.settle(kept, &whole, whole.buffer, true) {
                self.replies.note(self.ingress.window(due.window), due);
            }
            if whole.part.entry.flags & tap::ENTRY_DURABLE != 0 {
                self.forward(kept, &whole);
            }
        }
        kept.passed_stable(turn.turn.get(), end, self.pool);
    }

    /// Clears what acks could not say before; returns the ack that is due, if the frame asked for one.
    fn settle(&mut self, kept: &mut Kept<'a>, whole: &Whole<'_>, buffer: usize, stable: bool) -> Option<Due> {
        let wanted = if stable { tap::ENTRY_DURABLE } else { tap::ENTRY_LOGGED };
        if whole.part.entry.flags & wanted == 0 {
            return None;
        }
        // It was admitted, so its header is one.
        let bytes = kept.bytes(buffer)?.get(whole.start..whole.end)?;
        let (header, _) = FrameHeader::ref_from_prefix(bytes).ok()?;
        let (epoch, id) = (header.epoch.get(), header.frame_id.get());
        let shard = whole.item.shard.get();
        let (session, window) = self.ingress.places(header.session_id.get(), self.owned(shard))?;
        let wants = header.flags.get() & ACK_WANTED != 0 && self.ingress.window(window).epoch == epoch;
        kept.pending.get_mut(window)?.settle(epoch, id, stable);
        let class = if stable { CLASS_DURABLE } else { CLASS_LOGGED };
        let destination = whole.item.source;
        wants.then_some(Due { session, window, shard, destination, nack_of: None, class })
    }

    fn owned(&self, shard: u16) -> u16 {
        self.shards.owned.get(usize::from(shard)).copied().unwrap_or(u16::MAX)
    }

    fn frame<'k>(&self, kept: &'k Kept<'a>, whole: &Whole<'_>) -> Option<Frame<'k>> {
        let bytes = kept.bytes(whole.buffer)?.get(whole.start..whole.end)?;
        tachyon_wire::frame::parse(bytes, &self.ingress.lane()).ok()
    }

    /// Copies a frame's held messages onto the routes that they have under the rules in force now.
    fn forward(&mut self, kept: &Kept<'a>, whole: &Whole<'_>) {
        let Some(frame) = self.frame(kept, whole) else { return };
        let (now_ns, shard) = (self.now_ns, whole.item.shard.get());
        let owned = self.owned(shard);
        for (index, message) in frame.messages.iter().enumerate().filter(|(index, _)| whole.part.is_held(*index)) {
            self.stats.counters.messages_held -= 1;
            let Some(ruleset) = self.ruleset else { continue };
            let route = ruleset.topic(message.topic_id.get()).map_or(ROUTE_NONE, |topic| topic.route.get());
            if let Some((rule, targets)) = ruleset.route(route) {
                let hop = Hop { now_ns, shard, owned, route, rule };
                self.egress.forward(hop, targets, &frame, index, self.pool, self.stats);
            }
        }
    }
}

/// Goes over to another version of the rules, if there is one.
pub(crate) fn adopt_rules(
    ruleset: Option<&Ruleset<'_>>,
    adopted: &mut u64,
    kept: &mut Kept<'_>,
    limits: &Limits,
    egress: &mut Egress<'_>,
    now_ns: u64,
    stats: &mut WorkerStats,
) {
    let version = ruleset.map_or(0, |ruleset| ruleset.version);
    if version == *adopted {
        return;
    }
    // Lanes belong to the routes of one version, so they are closed before the next one.
    egress.flush_due(now_ns, 0, stats);
    *adopted = version;
    stats.counters.ruleset_version = version;
    stats.counters.ruleset_swaps += 1;
    kept.record_shards(ruleset.map_or(0, Ruleset::logged_shards) & limits.owned_shards());
}
