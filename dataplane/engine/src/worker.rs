//! The turn of the loop.

use crate::{
    egress::{Egress, Hop, LINE_BYTES},
    fan::{Bodies, Fans, Spread},
    host::Host,
    ingress::{Found, Ingress, Refused},
    limits::{Limits, Memory},
    pressure::Pressure,
    ready::{Ready, Tokens},
    reply::{self, Due, Replies},
};
use arrayvec::ArrayVec;
use tachyon_driver_api::{CompletionBatch, Pool, Received, RxBatch, RxQueue, TxBatch, TxQueue};
use tachyon_policy::{FrameContext, Inputs, Shards, Tables, Verdict};
use tachyon_wire::{
    Endpoint, LINE, Message, Reason,
    ack::Map,
    command::{Command, Demand, SHARE_ALL},
    counters::WorkerStats,
    frame::{ACK_WANTED, Frame, MESSAGES_MAX},
    image::Target,
};

/// Commands taken per turn: a control process that talks a lot must not become latency.
const COMMANDS_PER_TURN: usize = 4;
/// Frames that are checked, and their topics prefetched, before the first of them is judged; fewer if they have
/// [`STAGE_BYTES`] before.
const STAGE: usize = 8;
/// Bytes of such frames, about: 4 frames of 22 messages touch 176 lines of state. That is something to hide a miss behind,
/// and enough tags to make at once, and little enough that the first is still in L1 when its turn comes.
const STAGE_BYTES: usize = 4 * 1_472;
/// Full buffers that are sent before the burst is at its end: 256 KiB at most, so that what comes back of them is used again
/// while it is still in L2.
const SENT_EARLY: usize = 4;
/// Quarantined messages and words on quotas that a burst hands to the host: both are samples, and bounded.
const ASIDE_MAX: usize = 8;
/// A header and as many messages as one may have.
const FRAME_BYTES_MOST: u32 = LINE_BYTES * 257;
const _: () = assert!(FRAME_BYTES_MOST as usize == LINE * (1 + MESSAGES_MAX));
/// Turns between two publications of histograms and routes while there is traffic.
const WHOLE_EVERY: u64 = 1_024;

/// What one turn did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Buffers received.
    pub received: usize,
    /// Buffers given to the device.
    pub sent: usize,
    /// Completions settled.
    pub completed: usize,
    /// Nothing is open or queued: without something to receive, the next turn has nothing to do.
    pub idle: bool,
}

/// One pinned core's loop, owner of some shards.
#[derive(Debug)]
pub struct Worker<'a, Q, H> {
    limits: Limits,
    queue: Q,
    host: H,
    pool: Pool,
    received: RxBatch,
    completions: CompletionBatch,
    ingress: Ingress<'a>,
    tables: Tables<'a>,
    egress: Egress<'a>,
    fans: Fans<'a>,
    replies: Replies<'a>,
    pressure: Pressure,
    ruleset_version: u64,
    /// Of the frame being judged; kept here so that it is not cleared for each.
    verdicts: [Verdict; MESSAGES_MAX],
    stats: &'a mut WorkerStats,
}

impl<'a, Q: RxQueue + TxQueue, H: Host> Worker<'a, Q, H> {
    /// A worker over its queue, with memory of the sizes that `limits` tell.
    pub fn new(limits: Limits, memory: Memory<'a>, pool: Pool, queue: Q, host: H) -> Self {
        let owned = limits.owned();
        let shards = Shards::new(limits.shard_count, limits.topics_max, limits.shards);
        let egress = Egress {
            subscribers: memory.subscribers,
            streams: memory.streams,
            lane_of: memory.lane_of,
            lanes: memory.lanes,
            targets: limits.targets_max as usize,
            open: 0,
            ready: Ready::new(memory.ready),
            in_flight: memory.in_flight,
            tokens: Tokens::new(memory.tokens),
            pending: TxBatch::new(),
            submitted: ArrayVec::new(),
            unsealed: 0,
            bodies: Bodies::default(),
            path: limits.path,
            owned,
            frame_bytes_most: FRAME_BYTES_MOST.min(pool.buffer_bytes()),
            boot: limits.boot,
            unix_offset_ns: limits.unix_offset_ns,
        };
        Self {
            ingress: Ingress::new(
                memory.sessions,
                memory.windows,
                owned,
                limits.frame_bytes_max,
                limits.boot,
                limits.path,
            ),
            tables: Tables {
                topics: memory.topics,
                senders: memory.senders,
                shards,
                default_share: SHARE_ALL / u32::from(limits.workers.max(1)),
                path: limits.path,
            },
            egress,
            fans: Fans::new(memory.fans, memory.fan_of, limits.targets_max as usize),
            replies: Replies::new(memory.nacks),
            pressure: Pressure::default(),
            ruleset_version: 0,
            verdicts: [Verdict::default(); MESSAGES_MAX],
            stats: memory.stats,
            received: RxBatch::new(),
            completions: CompletionBatch::new(),
            limits,
            queue,
            host,
            pool,
        }
    }

    /// One turn: receive, govern, batch, transmit. `now_ns` is the tick, and the only time there is.
    pub fn poll(&mut self, now_ns: u64) -> Work {
        self.egress.note_handed_over(now_ns, self.stats);
        self.take_commands(now_ns);
        let received = self.queue.rx_burst(&mut self.pool, &mut self.received);
        let mut work = Work { received, ..Work::default() };
        work.completed = self.egress.settle(&mut self.queue, &mut self.completions, &mut self.pool, self.stats);
        if received > 0 {
            self.judge_burst(now_ns, &mut work);
            self.send_replies(now_ns);
        }
        // Nothing arrives, so nothing is worth waiting for; else a frame may fill for a while.
        let window_ns = if received == 0 { 0 } else { self.limits.fill_window_ns };
        self.egress.flush_due(now_ns, window_ns, self.stats);
        work.sent += self.egress.transmit(&mut self.queue);
        work.idle = self.egress.open == 0 && self.egress.ready.is_empty() && self.egress.pending.is_empty();
        self.publish(now_ns, work);
        work
    }

    /// Judges everything that was received, under one ruleset and one tick.
    fn judge_burst(&mut self, now_ns: u64, work: &mut Work) {
        // Counted before any of it is looked at, so that whatever happens it was seen.
        for item in &self.received {
            self.stats.counters.frames_seen += frames_of(item).count() as u64;
            self.stats.counters.bytes_received += u64::from(item.len);
        }
        let sendable = self.pool.total().saturating_sub(self.limits.receive_buffers as usize);
        let pressure = self.pressure.sample(self.pool.free(), sendable);
        let Self {
            host, received, ingress, tables, egress, fans, replies, stats, pool, verdicts, ruleset_version, ..
        } = self;
        let (queue, completions) = (&mut self.queue, &mut self.completions);
        let mut demands: ArrayVec<Demand, ASIDE_MAX> = ArrayVec::new();
        let mut quarantine: ArrayVec<(Message, u8), ASIDE_MAX> = ArrayVec::new();
        // Looked at once: another look might see another version.
        let ruleset = host.ruleset().map(tachyon_policy::Verified::ruleset);
        let version = ruleset.map_or(0, |ruleset| ruleset.version);
        if version != *ruleset_version {
            // Lanes belong to the routes of one version, so they are closed before the next one.
            egress.flush_due(now_ns, 0, stats);
            *ruleset_version = version;
            stats.counters.ruleset_version = version;
            stats.counters.ruleset_swaps += 1;
        }
        let inputs = Inputs { tick_ns: now_ns, ruleset, pressure };
        let mut burst = Burst {
            now_ns,
            inputs,
            ingress,
            tables,
            egress,
            fans,
            replies,
            stats,
            pool,
            queue,
            completions,
            work,
            demands: &mut demands,
            quarantine: &mut quarantine,
        };
        burst.stats.counters.pressure = pressure.into();
        burst.judge(received, verdicts);
        let quarantined = quarantine.drain(..).filter(|(message, reason)| host.quarantine(message, *reason)).count();
        stats.counters.quarantined += quarantined as u64;
        demands.drain(..).for_each(|demand| host.demand(demand));
        received.drain(..).for_each(|item| pool.put(item.buffer));
        stats.counters.bursts += 1;
    }

    fn take_commands(&mut self, now_ns: u64) {
        for _ in 0..COMMANDS_PER_TURN {
            let Some(command) = self.host.command() else { return };
            match command {
                Command::OpenSession(open) => {
                    self.ingress.anew(&open).for_each(|window| self.replies.forget(window));
                    self.ingress.open(&open);
                }
                Command::CloseSession(id) => self.ingress.close(id),
                // What was accepted before goes to whom it was accepted for.
                Command::AddSubscriber(add) => {
                    self.egress.flush_due(now_ns, 0, self.stats);
                    self.egress.add(&add);
                }
                Command::RemoveSubscriber(slot) => {
                    self.egress.flush_due(now_ns, 0, self.stats);
                    self.egress.remove(slot);
                }
                Command::Lease(lease) => {
                    let ruleset = self.host.ruleset().map(tachyon_policy::Verified::ruleset);
                    let inputs = Inputs { tick_ns: now_ns, ruleset, pressure: 0 };
                    tachyon_policy::set_lease(&inputs, &mut self.tables, lease);
                }
            }
        }
    }

    /// Answers the publishers that asked for it.
    fn send_replies(&mut self, now_ns: u64) {
        let sent_ns = now_ns.wrapping_add(self.limits.unix_offset_ns);
        let due: ArrayVec<Due, { reply::DUE_MAX }> = self.replies.due.take();
        for due in due {
            let Some(mut buffer) = self.pool.get() else {
                self.stats.counters.replies_lost += 1;
                self.ingress.window(due.window).ack_due &= due.nack_of.is_some();
                continue;
            };
            let (session, window) = self.ingress.both(due.session, due.window);
            let kept = due.nack_of.and_then(|id| self.replies.kept(due.window, window.epoch, id));
            match reply::write(&due, session, window, kept, sent_ns, buffer.bytes_mut()) {
                Some(len) => self.egress.reply(buffer, len, due.shard, due.destination, now_ns, self.stats),
                None => {
                    // A nack of the same burst took its place.
                    self.pool.put(buffer);
                    self.stats.counters.replies_lost += 1;
                }
            }
        }
        self.stats.counters.replies_lost += core::mem::take(&mut self.replies.lost);
    }

    /// Publishes what changed.
    fn publish(&mut self, now_ns: u64, work: Work) {
        let (counters, queue) = (&mut self.stats.counters, self.queue.stats());
        counters.turns += 1;
        let quiet = work.received == 0 && work.sent == 0 && work.completed == 0;
        // What was lost before us is often found out only when nothing arrives any more.
        let same = queue.overflow == counters.socket_overflow && queue.starved == counters.receive_starved;
        if quiet && same && !counters.turns.is_multiple_of(WHOLE_EVERY) {
            return;
        }
        counters.syscalls = queue.syscalls;
        counters.socket_overflow = queue.overflow;
        counters.receive_starved = queue.starved;
        counters.buffers_free = self.pool.free() as u64;
        counters.tick = now_ns;
        let whole = quiet || counters.turns.is_multiple_of(WHOLE_EVERY);
        self.host.publish(self.stats, whole);
    }

    /// Puts a worker whose turn panicked back on its feet. The rest of its burst, and what stood in open frames, is
    /// charged to [`Reason::InternalPanic`]; sessions, windows, tables and what the device already has stay.
    ///
    /// Where exactly the turn ended is not known, so nothing of it is trusted: ledgers are closed by what they lack.
    pub fn recover(&mut self) {
        for item in self.received.drain(..) {
            self.pool.put(item.buffer);
        }
        self.replies.due.clear();
        self.egress.abandon(&mut self.pool);
        self.stats.counters.copies_due += self.fans.abandon();
        let counters = &mut self.stats.counters;
        counters.copies_held = self.egress.copies_held();
        let [frames, messages, copies] = counters.unaccounted().map(|gap| u64::try_from(gap).unwrap_or(0));
        let panicked = Reason::InternalPanic.index();
        counters.frames_refused[panicked] += frames;
        counters.messages_refused[panicked] += messages;
        counters.copies_refused[panicked] += copies;
    }

    /// The device is to be watched only; see [`RxQueue::wait`].
    pub fn wait(&mut self, ns: u64) {
        self.queue.wait(ns);
    }

    /// What the worker counted.
    #[must_use]
    pub fn stats(&self) -> &WorkerStats {
        self.stats
    }

    /// The worker's queue.
    pub fn queue(&mut self) -> &mut Q {
        &mut self.queue
    }

    /// The worker's host.
    pub fn host(&mut self) -> &mut H {
        &mut self.host
    }

    /// Ends the worker; the queue and the pool that it was made with. Buffers that are open, queued or with the device are not
    /// in the pool, so whoever wants all of them back polls until the worker is idle first.
    #[must_use]
    pub fn into_parts(self) -> (Q, Pool) {
        (self.queue, self.pool)
    }

    /// Buffers the worker cannot account for: its pool's total less those that are free, received, open, queued, in
    /// flight or with the device. Zero, always.
    #[must_use]
    pub fn buffers_missing(&self) -> i64 {
        let egress = &self.egress;
        let here = self.pool.free() + self.received.len() + egress.open + egress.ready.len() + egress.pending.len();
        let count = |buffers: usize| i64::try_from(buffers).unwrap_or(i64::MAX);
        count(self.pool.total()) - count(here + self.queue.held())
    }
}

/// A frame of the stage: whose buffer it is in, and the place of its shard among the worker's.
struct Waiting<'f> {
    item: &'f Received,
    bytes: &'f [u8],
    owned: u16,
}

type Stage<'f> = ArrayVec<Waiting<'f>, STAGE>;

/// What judging one burst works with.
struct Burst<'b, 'a, 'r, Q> {
    now_ns: u64,
    inputs: Inputs<'r>,
    ingress: &'b mut Ingress<'a>,
    tables: &'b mut Tables<'a>,
    egress: &'b mut Egress<'a>,
    fans: &'b mut Fans<'a>,
    replies: &'b mut Replies<'a>,
    stats: &'b mut WorkerStats,
    pool: &'b mut Pool,
    queue: &'b mut Q,
    completions: &'b mut CompletionBatch,
    work: &'b mut Work,
    demands: &'b mut ArrayVec<Demand, ASIDE_MAX>,
    quarantine: &'b mut ArrayVec<(Message, u8), ASIDE_MAX>,
}

impl<'a, 'r, Q: TxQueue> Burst<'_, 'a, 'r, Q> {
    /// Judges a burst, a stage of frames at a time: all of them are checked first, so that what judging the first will touch
    /// is in cache by the time the last was checked.
    fn judge(&mut self, received: &[Received], verdicts: &mut [Verdict; MESSAGES_MAX]) {
        let mut frames = received.iter().flat_map(|item| frames_of(item).map(move |bytes| (item, bytes)));
        let mut found = [Found::NONE; STAGE];
        let (mut stage, mut ahead) = (&mut Stage::new(), &mut Stage::new());
        self.next_stage(&mut frames, ahead);
        while !ahead.is_empty() {
            core::mem::swap(&mut stage, &mut ahead);
            // What checking the next stage will read is asked for before this one is judged.
            self.next_stage(&mut frames, ahead);
            let found = &mut found[..stage.len()];
            for (Waiting { item, bytes, owned }, found) in stage.iter().zip(&mut *found) {
                self.ingress.find(bytes, item.shard, (*owned).into(), &item.source, found);
                if found.refused.is_none() {
                    tachyon_policy::prefetch(found.frame.messages, self.tables, item.shard);
                }
            }
            self.ingress.check_tags(found);
            for (waiting, found) in stage.iter().zip(&mut *found) {
                if let Err(refused) = self.ingress.settle(found) {
                    found.refused = Some(refused.reason);
                    self.refuse(&refused, waiting.bytes, waiting.item);
                }
            }
            for (waiting, found) in stage.iter().zip(&*found).filter(|(_, found)| found.refused.is_none()) {
                self.judge_frame(found, waiting.owned, waiting.item, verdicts);
            }
            if self.egress.ready.len() >= SENT_EARLY {
                self.work.sent += self.egress.transmit(self.queue);
                self.work.completed += self.egress.settle(self.queue, self.completions, self.pool, self.stats);
            }
        }
        if let Some((fans, mut with)) = self.spreader() {
            fans.spread_all(&mut with);
        }
    }

    /// The next frames that are judged together.
    #[inline]
    fn next_stage<'f>(&self, frames: &mut impl Iterator<Item = (&'f Received, &'f [u8])>, stage: &mut Stage<'f>) {
        stage.clear();
        let mut left = STAGE_BYTES;
        while left > 0
            && !stage.is_full()
            && let Some((item, bytes)) = frames.next()
        {
            let owned = self.owned(item.shard);
            self.ingress.prefetch(bytes, owned.into());
            stage.push(Waiting { item, bytes, owned });
            left = left.saturating_sub(bytes.len());
        }
    }

    /// A shard's place among those of this worker; past the last for one that is another's.
    #[inline]
    fn owned(&self, shard: u16) -> u16 {
        self.tables.shards.owned.get(usize::from(shard)).copied().unwrap_or(u16::MAX)
    }

    /// Judges the messages of one admitted frame and copies what is accepted.
    fn judge_frame(&mut self, found: &Found<'_>, owned: u16, item: &Received, verdicts: &mut [Verdict; MESSAGES_MAX]) {
        let (shard, source) = (item.shard, item.source);
        let Found { frame, session, window, .. } = found;
        let counters = &mut self.stats.counters;
        counters.frames_admitted += 1;
        counters.messages_seen += frame.messages.len() as u64;
        let verdicts = &mut verdicts[..frame.messages.len()];
        let context = FrameContext {
            publisher: &self.ingress.session(*session).publisher,
            authenticated: frame.is_authenticated(),
            shard,
            lane_refs_allowed: false,
        };
        let demands = &mut *self.demands;
        let mut demand = |demand| {
            let _ = demands.try_push(demand);
        };
        tachyon_policy::govern(&self.inputs, &context, frame.messages, self.tables, verdicts, &mut demand);
        let refused = self.dispatch(frame, verdicts, shard, owned);
        if let Some(reason) = refused {
            let (epoch, id) = (frame.header.epoch.get(), frame.header.frame_id.get());
            self.ingress.window(*window).mark_refused(epoch, id);
            self.count_refused(frame, verdicts);
            if frame.header.flags.get() & ACK_WANTED != 0 {
                self.keep_nack(found, verdicts, reason, shard, source);
            }
        }
        if frame.header.flags.get() & ACK_WANTED != 0 {
            let due = Due { session: *session, window: *window, shard, destination: source, nack_of: None };
            self.replies.note(self.ingress.window(*window), due);
        }
    }

    /// Copies what was accepted onto its routes; returns the first refused message's reason.
    #[inline]
    fn dispatch(&mut self, frame: &Frame<'_>, verdicts: &[Verdict], shard: u16, owned: u16) -> Option<u8> {
        // Messages with a payload in their frame are never only copied.
        let direct = match &self.inputs.ruleset {
            Ok(ruleset) if frame.payload.is_empty() => ruleset.direct_routes(),
            _ => 0,
        };
        let (mut copied, mut refused, mut first_refused, mut at) = (0, 0, None, 0);
        loop {
            let run = self.egress.append_all(owned, direct, &frame.messages[at..], &verdicts[at..], self.stats);
            (copied, at) = (copied + run as u64, at + run);
            at += verdicts[at..].iter().take_while(|verdict| verdict.is_unrouted()).count();
            let Some(verdict) = verdicts.get(at) else { break };
            if verdict.is_accepted() {
                at = self.dispatch_others(frame, verdicts, at, shard, owned);
            } else {
                refused += 1;
                first_refused = first_refused.or(Some(verdict.reason()));
                at += 1;
            }
        }
        let counters = &mut self.stats.counters;
        counters.messages_accepted += frame.messages.len() as u64 - refused;
        counters.copies_due += copied;
        counters.copies_held += copied;
        first_refused
    }

    /// Copies the accepted message at `at`, and perhaps those behind it, where that is more than to append it to the one
    /// open frame of its route; returns where to go on.
    #[inline(never)]
    fn dispatch_others(&mut self, frame: &Frame<'_>, verdicts: &[Verdict], at: usize, shard: u16, owned: u16) -> usize {
        let verdict = verdicts[at];
        let Some((rule, targets)) = self.inputs.ruleset.ok().and_then(|ruleset| ruleset.route(verdict.route())) else {
            return at + 1;
        };
        let hop = Hop { now_ns: self.now_ns, shard, owned, route: verdict.route(), rule };
        if targets.len() == 1 && frame.payload.is_empty() && !verdict.is_durable() {
            self.egress.dispatch(hop, targets, &frame.messages[at], self.pool, self.stats);
            return at + 1;
        }
        self.dispatch_fan(hop, targets, frame, verdicts, at)
    }

    /// Adds the message at `at` to its route's fan, and those behind it to theirs, up to one that is direct or refused or
    /// needs more; or copies it, where it goes by itself. Returns where to go on.
    #[inline(never)]
    fn dispatch_fan(
        &mut self,
        hop: Hop<'_>,
        targets: &[Target],
        frame: &Frame<'_>,
        verdicts: &[Verdict],
        at: usize,
    ) -> usize {
        let (message, durable) = (&frame.messages[at], verdicts[at].is_durable());
        let plain = frame.payload.is_empty() && !durable;
        if plain {
            let run = self.fans.add_run(hop.owned, &frame.messages[at..], &verdicts[at..]);
            if run > 0 {
                return at + run;
            }
        }
        let Some((fans, mut with)) = self.spreader() else { return at + 1 };
        if !plain {
            fans.spread_route(hop.owned, hop.route, &mut with);
            with.egress.dispatch_rare(hop, targets, frame, message, durable, with.pool, with.stats);
        } else if fans.make_room(&hop, targets.len(), &mut with) {
            return at + fans.add_run(hop.owned, &frame.messages[at..], &verdicts[at..]).max(1);
        } else {
            with.egress.dispatch(hop, targets, message, with.pool, with.stats);
        }
        at + 1
    }

    /// The fans and what they are spread with; none without a ruleset, and then nothing waits in one.
    #[inline]
    fn spreader(&mut self) -> Option<(&mut Fans<'a>, Spread<'_, 'r, 'a>)> {
        let Self { now_ns, inputs, egress, fans, pool, stats, .. } = self;
        let ruleset = inputs.ruleset.as_ref().ok()?;
        Some((fans, Spread { now_ns: *now_ns, ruleset, egress, pool, stats }))
    }

    #[cold]
    fn count_refused(&mut self, frame: &Frame<'_>, verdicts: &[Verdict]) {
        for (message, verdict) in frame.messages.iter().zip(verdicts).filter(|(_, verdict)| !verdict.is_accepted()) {
            self.stats.counters.messages_refused[usize::from(verdict.reason())] += 1;
            if verdict.is_quarantined() {
                let _ = self.quarantine.try_push((*message, verdict.reason()));
            }
        }
    }

    #[cold]
    fn keep_nack(&mut self, found: &Found<'_>, verdicts: &[Verdict], reason: u8, shard: u16, source: Endpoint) {
        let Found { frame, session, window, .. } = *found;
        let mut accepted = Map::EMPTY;
        for (index, _) in (0..).zip(verdicts).filter(|(_, verdict)| verdict.is_accepted()) {
            accepted.set(index);
        }
        let (id, epoch) = (frame.header.frame_id.get(), frame.header.epoch.get());
        let reason = Reason::from_number(reason).unwrap_or(Reason::InternalInvariant);
        self.replies.keep(window, epoch, id, reason, accepted);
        let due = Due { session, window, shard, destination: source, nack_of: Some(id) };
        self.replies.note(self.ingress.window(window), due);
    }

    /// Charges a refused frame; the sender of a verified one that asked for it gets its replies (again).
    #[cold]
    fn refuse(&mut self, refused: &Refused, bytes: &[u8], item: &Received) {
        self.refuse_frame(refused.reason);
        let Some((session, window)) = refused.verified else { return };
        let Ok(frame) = tachyon_wire::frame::parse(bytes, &self.ingress.lane()) else { return };
        if frame.header.flags.get() & ACK_WANTED == 0 {
            return;
        }
        let id = frame.header.frame_id.get();
        let due = Due { session, window, shard: item.shard, destination: item.source, nack_of: None };
        let state = self.ingress.window(window);
        if self.replies.kept(window, state.epoch, id).is_some() {
            self.replies.note(state, Due { nack_of: Some(id), ..due });
        }
        self.replies.note(state, due);
    }

    fn refuse_frame(&mut self, reason: Reason) {
        self.stats.counters.frames_refused[reason.index()] += 1;
    }
}

/// The frames of one buffer. A carrier without a byte carries one frame, an empty one, so that it is counted and refused.
#[inline]
fn frames_of(item: &Received) -> impl Iterator<Item = &[u8]> {
    let bytes = item.buffer.bytes().get(item.offset as usize..).unwrap_or_default();
    let bytes = bytes.get(..item.len as usize).unwrap_or_default();
    bytes.chunks(item.stride.max(1) as usize).chain(bytes.is_empty().then_some(bytes))
}
