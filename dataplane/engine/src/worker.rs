//! The turn of the loop.

use crate::{
    egress::{Egress, Hop, LINE_BYTES},
    fan::{Bodies, Fans, Spread},
    host::Host,
    ingress::{Found, Ingress, Refused},
    kept::{Intake, Kept, Pending},
    limits::{Limits, Memory},
    logged::{adopt_rules, refused_by_device},
    pressure::Pressure,
    ready::{Ready, Tokens},
    record::{Filled, Record},
    reply::{self, Due, Replies},
    stage::{self, Frames, STAGE, Stage, Waiting},
    tap::{NoTap, Tap},
};
use arrayvec::ArrayVec;
use tachyon_driver_api::{CompletionBatch, Pool, Received, RxBatch, RxQueue, TxBatch, TxQueue};
use tachyon_policy::{FrameContext, Inputs, Shards, Tables, Verdict};
use tachyon_wire::{
    Endpoint, LINE, Message, Reason,
    ack::Map,
    ack::{CLASS_ADMITTED, CLASS_DURABLE, CLASS_LOGGED},
    command::{Command, Demand, SHARE_ALL},
    counters::WorkerStats,
    frame::{ACK_WANTED, Frame, MESSAGES_MAX},
    image::{FULL_BUFFER, FULL_MARK, FULL_NACK, TOPIC_DURABLE, TOPIC_FULL_MASK, TOPIC_FULL_SHIFT, Target},
};

/// Commands taken per turn: a control process that talks a lot must not become latency.
const COMMANDS_PER_TURN: usize = 4;
/// The commands of a turn.
type Commands = ArrayVec<Command, COMMANDS_PER_TURN>;
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
pub struct Worker<'a, Q, H, T = NoTap> {
    pub(crate) limits: Limits,
    pub(crate) queue: Q,
    pub(crate) host: H,
    pub(crate) tap: T,
    pub(crate) pool: Pool,
    pub(crate) received: RxBatch,
    completions: CompletionBatch,
    pub(crate) ingress: Ingress<'a>,
    pub(crate) tables: Tables<'a>,
    pub(crate) egress: Egress<'a>,
    fans: Fans<'a>,
    pub(crate) replies: Replies<'a>,
    pub(crate) kept: Kept<'a>,
    /// Free buffers before this turn's burst was judged.
    pub(crate) free_before: usize,
    pressure: Pressure,
    pub(crate) ruleset_version: u64,
    /// Of the frame being judged; kept here so that it is not cleared for each.
    verdicts: [Verdict; MESSAGES_MAX],
    pub(crate) stats: &'a mut WorkerStats,
}

impl<'a, Q: RxQueue + TxQueue, H: Host> Worker<'a, Q, H> {
    /// A worker over its queue, with memory of the sizes that `limits` tell, and without a truth log.
    pub fn new(limits: Limits, memory: Memory<'a>, pool: Pool, queue: Q, host: H) -> Self {
        Self::with_tap(limits, memory, pool, queue, host, NoTap)
    }
}

impl<'a, Q: RxQueue + TxQueue, H: Host, T: Tap> Worker<'a, Q, H, T> {
    /// A worker that tells the truth log of its turns.
    pub fn with_tap(limits: Limits, memory: Memory<'a>, pool: Pool, queue: Q, host: H, tap: T) -> Self {
        let owned = limits.owned();
        let shards = Shards::new(limits.shard_count, limits.topics_max, limits.shards);
        let setup = limits.setup(pool.buffer_bytes());
        let egress = Egress {
            subscribers: memory.subscribers,
            streams: memory.streams,
            lane_of: memory.lane_of,
            lanes: memory.lanes,
            targets: limits.targets_max as usize,
            open: 0,
            share: 0,
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
            logged_frames: 0,
            logged_digest: 0,
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
            kept: Kept::new(memory.held, memory.pending, setup),
            free_before: 0,
            pressure: Pressure::default(),
            ruleset_version: 0,
            verdicts: [Verdict::default(); MESSAGES_MAX],
            stats: memory.stats,
            received: RxBatch::new(),
            completions: CompletionBatch::new(),
            limits,
            queue,
            host,
            tap,
            pool,
        }
    }

    /// One turn: receive, govern, batch, transmit. `now_ns` is the tick, and the only time there is.
    pub fn poll(&mut self, now_ns: u64) -> Work {
        self.egress.note_handed_over(now_ns, self.stats);
        let commands = self.take_commands(now_ns);
        let received = self.queue.rx_burst(&mut self.pool, &mut self.received);
        let mut work = Work { received, ..Work::default() };
        work.completed = self.egress.settle(&mut self.queue, &mut self.completions, &mut self.pool, self.stats);
        let (refused_before, open) = (refused_by_device(&self.stats.counters), self.egress.open > 0);
        let log = self.tap.is_there();
        let freed = log && self.hear_log(now_ns);
        let busy = received > 0 || freed || open;
        let (intake, filled) = if received > 0 {
            self.judge_burst(now_ns, &commands, &mut work)
        } else {
            self.record_quiet(busy, &commands)
        };
        if !self.replies.due.is_empty() {
            self.send_replies(now_ns);
        }
        // Nothing arrives, so nothing is worth waiting for; else a frame may fill for a while.
        let window_ns = if received == 0 { 0 } else { self.limits.fill_window_ns };
        self.egress.flush_due(now_ns, window_ns, self.stats);
        work.sent += self.egress.transmit(&mut self.queue);
        if log {
            self.end_turn(now_ns, intake, filled, refused_before);
        }
        self.received.drain(..).for_each(|item| self.pool.put(item.buffer));
        work.idle = self.is_idle();
        self.publish(now_ns, work);
        work
    }

    /// Nothing is open or queued, and nothing that the log may have by now waits for it.
    fn is_idle(&self) -> bool {
        let egress = &self.egress;
        egress.open == 0 && egress.ready.is_empty() && egress.pending.is_empty() && !self.waits_for_log()
    }

    /// Judges everything that was received, under one ruleset and one tick.
    fn judge_burst(&mut self, now_ns: u64, commands: &Commands, work: &mut Work) -> (Intake, Filled) {
        // Counted before any of it is looked at, so that whatever happens it was seen.
        for item in &self.received {
            self.stats.counters.frames_seen += stage::frames_in(item);
            self.stats.counters.bytes_received += u64::from(item.len);
        }
        let sendable = self.pool.total().saturating_sub(self.limits.receive_buffers as usize);
        self.free_before = self.tap.free_buffers(self.pool.free());
        let pressure = self.pressure.sample(self.free_before, sendable);
        let Self {
            limits,
            host,
            received,
            ingress,
            tables,
            egress,
            fans,
            replies,
            stats,
            pool,
            verdicts,
            tap,
            kept,
            ruleset_version,
            ..
        } = self;
        let (queue, completions) = (&mut self.queue, &mut self.completions);
        let mut demands: ArrayVec<Demand, ASIDE_MAX> = ArrayVec::new();
        let mut quarantine: ArrayVec<(Message, u8), ASIDE_MAX> = ArrayVec::new();
        // Looked at once: another look might see another version.
        let ruleset = host.ruleset().map(tachyon_policy::Verified::ruleset);
        adopt_rules(ruleset.as_ref().ok(), ruleset_version, kept, limits, egress, now_ns, stats);
        let intake = kept.begin_turn(tap, true, received, commands);
        let record = if intake.recorded { tap.begin(intake.bytes) } else { None };
        let setup = kept.setup_of_turn().copied();
        let setup = setup.as_ref();
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
            intake,
            record: record.map(|bytes| Record::new(bytes, setup, commands)),
            recorded: if intake.recorded { kept.shards } else { 0 },
            logged: kept.shards,
            pending: kept.pending,
            marked: false,
        };
        burst.stats.counters.pressure = pressure.into();
        burst.judge(received, verdicts);
        let marked = burst.marked;
        let filled = Filled { marked, ..burst.record.take().map_or(Filled::EMPTY, Record::finish) };
        let quarantined = quarantine.drain(..).filter(|(message, reason)| host.quarantine(message, *reason)).count();
        stats.counters.quarantined += quarantined as u64;
        demands.drain(..).for_each(|demand| host.demand(demand));
        stats.counters.bursts += u64::from(!received.is_empty());
        (intake, filled)
    }

    fn take_commands(&mut self, now_ns: u64) -> Commands {
        let mut commands = Commands::new();
        // All are taken before one is followed, because a host may adopt rules while it is asked for them.
        while !commands.is_full()
            && let Some(command) = self.host.command()
        {
            commands.push(command);
        }
        for command in &commands {
            match *command {
                Command::OpenSession(open) => {
                    for window in self.ingress.anew(&open) {
                        self.replies.forget(window);
                        self.kept.forget(window);
                    }
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
                    let (rules, version) = (ruleset.as_ref().ok(), &mut self.ruleset_version);
                    // So that the turn's record says under which rules.
                    let Self { kept, limits, egress, stats, .. } = self;
                    adopt_rules(rules, version, kept, limits, egress, now_ns, stats);
                    let inputs = Inputs { tick_ns: now_ns, ruleset, pressure: 0 };
                    tachyon_policy::set_lease(&inputs, &mut self.tables, lease);
                }
                Command::Restore(restore) => self.restore(&restore),
                Command::Again(again) => self.forward_again(now_ns, &again),
            }
        }
        commands
    }

    /// Answers the publishers that asked for it.
    fn send_replies(&mut self, now_ns: u64) {
        let sent_ns = now_ns.wrapping_add(self.limits.unix_offset_ns);
        let due: ArrayVec<Due, { reply::DUE_MAX }> = self.replies.due.take();
        for due in due {
            let Some(mut buffer) = self.pool.get() else {
                self.stats.counters.replies_lost += 1;
                if due.nack_of.is_none() {
                    self.ingress.window(due.window).ack_due &= !due.bit();
                }
                continue;
            };
            let (session, window) = self.ingress.both(due.session, due.window);
            let kept = due.nack_of.and_then(|id| self.replies.kept(due.window, window.epoch, id));
            let pending = self.kept.pending.get(due.window);
            match reply::write(&due, session, window, pending, kept, sent_ns, buffer.bytes_mut()) {
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
        self.kept.abandon(&mut self.pool);
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

    /// The worker's way to the truth log.
    pub fn tap(&mut self) -> &mut T {
        &mut self.tap
    }

    /// Ends the worker; the queue and the pool that it was made with. Buffers that are open, queued or with the device are not
    /// in the pool, so whoever wants all of them back polls until the worker is idle first.
    #[must_use]
    pub fn into_parts(self) -> (Q, Pool) {
        (self.queue, self.pool)
    }
}

/// What became of a frame's messages on their way out.
struct Dispatched {
    /// Copied onto direct routes, and not counted yet.
    copied: u64,
    refused: u64,
    first_refused: Option<u8>,
}

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
    /// What the truth log takes.
    intake: Intake,
    /// What it is told, and of which shards, a bit each.
    record: Option<Record<'b>>,
    recorded: u64,
    /// Shards with topics for the log, recorded in this turn or not.
    logged: u64,
    pending: &'b mut [Pending],
    /// Messages for the log were forwarded without it.
    marked: bool,
}

impl<'a, 'r, Q: TxQueue> Burst<'_, 'a, 'r, Q> {
    /// Judges a burst, a stage of frames at a time: all of them are checked first, so that what judging the first will touch
    /// is in cache by the time the last was checked.
    fn judge(&mut self, received: &[Received], verdicts: &mut [Verdict; MESSAGES_MAX]) {
        let mut frames = Frames::of(received);
        let mut found = [Found::NONE; STAGE];
        let (mut stage, mut ahead) = (&mut Stage::new(), &mut Stage::new());
        self.next_stage(&mut frames, ahead);
        while !ahead.is_empty() {
            core::mem::swap(&mut stage, &mut ahead);
            // Before this one is judged.
            self.next_stage(&mut frames, ahead);
            let found = &mut found[..stage.len()];
            let mut tagged = false;
            for (Waiting { item, bytes, owned, .. }, found) in stage.iter().zip(&mut *found) {
                self.ingress.find(bytes, item.shard, (*owned).into(), &item.source, found);
                if found.refused.is_none() {
                    tagged |= found.is_tagged();
                    tachyon_policy::prefetch(found.frame.messages, self.tables, item.shard);
                }
            }
            if tagged {
                self.ingress.check_tags(found);
            }
            for (waiting, found) in stage.iter().zip(&mut *found) {
                if let Err(refused) = self.ingress.settle(found) {
                    found.refused = Some(refused.reason);
                    self.refuse(&refused, waiting.bytes, waiting.item);
                }
            }
            for (waiting, found) in stage.iter().zip(&*found) {
                match found.refused {
                    None => self.judge_frame(found, waiting, verdicts),
                    Some(reason) => self.record_refused(waiting, reason),
                }
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

    /// The next frames that are judged together; what checking them will read is asked for.
    #[inline]
    fn next_stage<'f>(&self, frames: &mut Frames<'f>, stage: &mut Stage<'f>) {
        frames.next_stage(stage, |item, bytes| {
            let owned = self.owned(item.shard);
            self.ingress.prefetch(bytes, owned.into());
            owned
        });
    }

    /// A shard's place among those of this worker; past the last for one that is another's.
    #[inline]
    fn owned(&self, shard: u16) -> u16 {
        self.tables.shards.owned.get(usize::from(shard)).copied().unwrap_or(u16::MAX)
    }

    /// Judges the messages of one admitted frame and copies what is accepted.
    fn judge_frame(&mut self, found: &Found<'_>, waiting: &Waiting<'_>, verdicts: &mut [Verdict; MESSAGES_MAX]) {
        let (shard, source) = (waiting.item.shard, &waiting.item.source);
        let Found { frame, session, window, .. } = found;
        let counters = &mut self.stats.counters;
        counters.frames_admitted += 1;
        counters.messages_seen += frame.messages.len() as u64;
        let verdicts = &mut verdicts[..frame.messages.len()];
        self.govern(found, shard, verdicts);
        let withheld = self.meet_log(found, waiting, verdicts);
        let refused = self.dispatch(frame, verdicts, shard, waiting.owned).or(withheld);
        if let Some(reason) = refused {
            let (epoch, id) = (frame.header.epoch.get(), frame.header.frame_id.get());
            self.ingress.window(*window).mark_refused(epoch, id);
            self.count_refused(frame, verdicts);
            if frame.header.flags.get() & ACK_WANTED != 0 {
                self.keep_nack(found, verdicts, reason, shard, *source);
            }
        }
        if frame.header.flags.get() & ACK_WANTED != 0 {
            let due = Due {
                session: *session,
                window: *window,
                shard,
                destination: *source,
                nack_of: None,
                class: CLASS_ADMITTED,
            };
            self.replies.note(self.ingress.window(*window), due);
        }
    }

    /// Judges a frame's messages and does nothing else, so that judging has the registers for itself.
    #[inline(never)]
    fn govern(&mut self, found: &Found<'_>, shard: u16, verdicts: &mut [Verdict]) {
        let context = FrameContext {
            publisher: &self.ingress.session(found.session).publisher,
            authenticated: found.frame.is_authenticated(),
            shard,
            lane_refs_allowed: false,
        };
        let demands = &mut *self.demands;
        let mut demand = |demand| {
            let _ = demands.try_push(demand);
        };
        tachyon_policy::govern(&self.inputs, &context, found.frame.messages, self.tables, verdicts, &mut demand);
    }

    /// An ack is due again, and one for each class of the log that has something to say of the window.
    fn note_acks(&mut self, session: usize, window: usize, shard: u16, destination: Endpoint) {
        let state = self.ingress.window(window);
        let logged = self.pending.get(window).is_some_and(|pending| pending.knows(state.epoch));
        let classes = [CLASS_ADMITTED, CLASS_LOGGED, CLASS_DURABLE];
        for class in classes.into_iter().take(if logged { classes.len() } else { 1 }) {
            self.replies.note(state, Due { session, window, shard, destination, nack_of: None, class });
        }
    }

    /// Settles what the truth log takes of a frame, and tells it. Returns the reason if a publisher is to be told that it
    /// does not take a message.
    #[inline]
    fn meet_log(&mut self, found: &Found<'_>, waiting: &Waiting<'_>, verdicts: &mut [Verdict]) -> Option<u8> {
        if self.logged >> (waiting.item.shard % 64) & 1 == 0 {
            return None;
        }
        let mut summary = Verdict::summary(verdicts);
        let mut nacked = None;
        if summary.is_for_log() && !self.intake.all {
            nacked = self.withhold(&found.frame, verdicts);
            summary = Verdict::summary(verdicts);
        }
        if self.recorded >> (waiting.item.shard % 64) & 1 != 0
            && let Some(record) = &mut self.record
        {
            record.judged(waiting.item, waiting.place, &found.frame, verdicts, summary);
            if summary.is_for_log()
                && let Some(pending) = self.pending.get_mut(found.window)
            {
                let header = found.frame.header;
                pending.note(header.epoch.get(), header.frame_id.get(), summary.is_any_durable());
            }
        }
        nacked
    }

    /// The log does not take all: does what each topic's policy says.
    #[cold]
    fn withhold(&mut self, frame: &Frame<'_>, verdicts: &mut [Verdict]) -> Option<u8> {
        let (intake, mut nacked) = (self.intake, None);
        for (message, verdict) in frame.messages.iter().zip(verdicts) {
            if !Verdict::summary(core::slice::from_ref(verdict)).is_for_log() {
                continue;
            }
            let topic = self.inputs.ruleset.ok().and_then(|ruleset| ruleset.topic(message.topic_id.get()).copied());
            let flags = topic.map_or(TOPIC_DURABLE, |topic| topic.flags.get());
            let policy = (flags & TOPIC_FULL_MASK) >> TOPIC_FULL_SHIFT;
            let durable = flags & TOPIC_DURABLE != 0;
            let admitted = intake.recorded && !(durable && intake.refuses.is_some());
            if admitted && (!intake.scarce || policy == FULL_BUFFER) {
                continue;
            }
            let marks = policy == FULL_MARK && !durable;
            self.marked |= marks;
            *verdict = if marks { verdict.unlogged() } else { verdict.withheld() };
            if policy == FULL_NACK {
                nacked = nacked.or(Some(intake.reason().number()));
            }
        }
        nacked
    }

    #[inline]
    fn record_refused(&mut self, waiting: &Waiting<'_>, reason: Reason) {
        if self.recorded >> (waiting.item.shard % 64) & 1 != 0
            && let Some(record) = &mut self.record
        {
            record.refused(waiting.item, waiting.place, waiting.bytes, reason);
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
        let run = self.egress.append_run(owned, direct, frame.messages, verdicts);
        let mut done = Dispatched { copied: run as u64, refused: 0, first_refused: None };
        if run < verdicts.len() {
            self.dispatch_rest(frame, verdicts, direct, run, (shard, owned), &mut done);
        }
        let counters = &mut self.stats.counters;
        counters.messages_accepted += frame.messages.len() as u64 - done.refused;
        counters.copies_due += done.copied;
        counters.copies_held += done.copied;
        done.first_refused
    }

    /// The same from the message at `at` on, which has no room in an open frame of a direct route.
    #[inline(never)]
    fn dispatch_rest(
        &mut self,
        frame: &Frame<'_>,
        verdicts: &[Verdict],
        direct: u32,
        mut at: usize,
        (shard, owned): (u16, u16),
        done: &mut Dispatched,
    ) {
        while let Some(&verdict) = verdicts.get(at) {
            let target = verdict.plain_route();
            if target < direct {
                if self.make_room(target, shard, owned) {
                    let run = self.egress.append_run(owned, direct, &frame.messages[at..], &verdicts[at..]);
                    (done.copied, at) = (done.copied + run as u64, at + run);
                } else {
                    at += 1; // Charged.
                }
            } else if verdict.is_unrouted() || verdict.is_durable() {
                at += 1; // What waits for the log is copied when the log has it.
            } else if verdict.is_accepted() {
                at = self.dispatch_others(frame, verdicts, at, shard, owned);
            } else {
                done.refused += 1;
                done.first_refused = done.first_refused.or(Some(verdict.reason()));
                at += 1;
            }
        }
    }

    /// Whether there is an open frame with room for a message of a direct route by now; if not, the message is charged.
    #[inline]
    fn make_room(&mut self, route: u32, shard: u16, owned: u16) -> bool {
        let Self { now_ns, inputs, egress, pool, stats, .. } = self;
        if egress.make_room(owned, route, *now_ns, pool, stats) {
            return true;
        }
        let found = inputs.ruleset.as_ref().ok().and_then(|ruleset| ruleset.route(route));
        let Some((rule, [subscriber])) = found else { return false };
        egress.open_direct(Hop { now_ns: *now_ns, shard, owned, route, rule }, subscriber.get(), pool, stats)
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
        if targets.len() == 1 && frame.payload.is_empty() && !verdict.is_withheld() {
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
        let message = &frame.messages[at];
        let withheld = verdicts[at].is_withheld().then(|| self.intake.reason());
        let plain = frame.payload.is_empty() && withheld.is_none();
        if plain {
            let run = self.fans.add_run(self.egress.path, hop.owned, &frame.messages[at..], &verdicts[at..]);
            if run > 0 {
                return at + run;
            }
        }
        let Some((fans, mut with)) = self.spreader() else { return at + 1 };
        if !plain {
            fans.spread_route(hop.owned, hop.route, &mut with);
            with.egress.dispatch_rare(hop, targets, frame, message, withheld, with.pool, with.stats);
        } else if fans.make_room(&hop, targets.len(), &mut with) {
            return at + fans.add_run(with.egress.path, hop.owned, &frame.messages[at..], &verdicts[at..]).max(1);
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
        let kept = |verdict: &Verdict| verdict.is_accepted() && !verdict.is_withheld();
        for (index, _) in (0..).zip(verdicts).filter(|(_, verdict)| kept(verdict)) {
            accepted.set(index);
        }
        let (id, epoch) = (frame.header.frame_id.get(), frame.header.epoch.get());
        let reason = Reason::from_number(reason).unwrap_or(Reason::InternalInvariant);
        self.replies.keep(window, epoch, id, reason, accepted);
        let due = Due { session, window, shard, destination: source, nack_of: Some(id), class: CLASS_ADMITTED };
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
        let (shard, destination) = (item.shard, item.source);
        let state = self.ingress.window(window);
        let epoch = frame.header.epoch.get(); // of an older one no nacks are kept
        if epoch == state.epoch && self.replies.kept(window, epoch, id).is_some() {
            let due = Due { session, window, shard, destination, nack_of: Some(id), class: CLASS_ADMITTED };
            self.replies.note(state, due);
        }
        self.note_acks(session, window, shard, destination);
    }

    fn refuse_frame(&mut self, reason: Reason) {
        self.stats.counters.frames_refused[reason.index()] += 1;
    }
}
