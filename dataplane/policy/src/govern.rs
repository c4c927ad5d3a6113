//! The judgement of messages, in the order of checks that the design fixes.

use crate::{
    Verdict,
    image::Ruleset,
    tables::{MORE_ORDINARY, SHUT, SenderState, Tables, TopicState, has_room, latest, now, spent},
};
use tachyon_kernels::{MARKED, Marks, Ordinary, ordinary, prefetch_write};
use tachyon_wire::{
    Message, Reason,
    command::Demand,
    image::{TOPIC_DURABLE, TOPIC_KNOWN, TOPIC_LOGGED, TOPIC_QUARANTINE, TOPIC_TAG_REQUIRED},
    message::{self, INLINE_PAYLOAD, SYSTEM_PACKET},
};
use zerocopy::byteorder::little_endian::U64;

/// Classes of messages, P0 to P3; pressure level n sheds the n last of them.
const CLASSES: u8 = 4;
/// Frames with fewer messages than this are judged one check at a time: marking costs more than it saves them.
const WORTH_MARKING: usize = 3;

/// What does not come from the frame: sampled once per burst, and recorded with it.
#[derive(Clone, Copy, Debug)]
pub struct Inputs<'a> {
    /// Nanoseconds since the node's or the machine's start, at most [`TICK_MAX_NS`](crate::TICK_MAX_NS).
    pub tick_ns: u64,
    /// The rules in force, or the reason for which there are none: every message that gets that far is refused with it.
    pub ruleset: Result<Ruleset<'a>, Reason>,
    /// How many of the last classes are shed, 0–4.
    pub pressure: u8,
}

/// What a session allows its publisher.
#[derive(Clone, Copy, Debug)]
pub struct Publisher {
    /// Row of the rights section.
    pub principal: u32,
    /// First sender id it may use.
    pub sender_low: u32,
    /// Last sender id it may use (inclusive).
    pub sender_high: u32,
    /// The best class (0–3) it may claim; a better one is judged as this one.
    pub class_cap: u8,
    /// May send SYSTEM_PACKET messages.
    pub system: bool,
}

/// What the frame and its session say about all messages of a frame.
#[derive(Clone, Copy, Debug)]
pub struct FrameContext<'a> {
    /// The session's side.
    pub publisher: &'a Publisher,
    /// The frame's tag was present and verified.
    pub authenticated: bool,
    /// The frame's shard.
    pub shard: u16,
    /// The lane is shared memory, where REF_SHM and other arenas exist.
    pub lane_refs_allowed: bool,
}

/// Asks for the records that [`govern`] will touch for these messages. Call it for the next frame before judging this one:
/// that hides a miss of some 80 ns behind a frame's work. The messages need not have been checked in any way.
#[inline]
pub fn prefetch(messages: &[Message], tables: &Tables<'_>, shard: u16) {
    let topics = tables.topics.get(tables.shards.run_start(shard)..).unwrap_or_default();
    let shift = tables.shards.topic_shift();
    for message in messages {
        prefetch_write(topics, (message.topic_id.get() >> shift) as usize);
        prefetch_write(tables.senders, message.sender_id.get() as usize);
    }
}

/// Judges the messages of one admitted frame, in order, each by itself, into `verdicts`.
///
/// `demand` hears of senders that were refused for quota, at most once per sender and millisecond of tick.
///
/// # Panics
/// If there are fewer verdicts than messages.
#[inline]
pub fn govern(
    inputs: &Inputs<'_>,
    frame: &FrameContext<'_>,
    messages: &[Message],
    tables: &mut Tables<'_>,
    verdicts: &mut [Verdict],
    demand: &mut impl FnMut(Demand),
) {
    assert!(verdicts.len() >= messages.len(), "a verdict for each message");
    let (verdicts, _) = verdicts.split_at_mut(messages.len());
    let gate = Gate::new(frame, tables.shards.shard_count);
    let path = tables.path;
    match &inputs.ruleset {
        Ok(ruleset) => {
            let mut judge = Judge::new(inputs, ruleset, frame, tables);
            if messages.len() < WORTH_MARKING {
                return judge.judge_few(&gate, messages, verdicts, demand);
            }
            let like = judge.ordinary(&gate);
            for (messages, verdicts) in messages.chunks(MARKED).zip(verdicts.chunks_mut(MARKED)) {
                judge.judge_all(&gate, ordinary(path, messages, &like), messages, verdicts, demand);
            }
        }
        Err(reason) => {
            for (message, verdict) in messages.iter().zip(verdicts) {
                *verdict = Verdict::refused(gate.check(message).err().unwrap_or(*reason), false);
            }
        }
    }
}

/// The checks that need no rules.
struct Gate {
    shard_mask: u32,
    shard: u32,
    sender_low: u32,
    sender_high: u32,
    /// Bits of `flags` that this session may not set.
    flags_denied: u64,
    references: bool,
}

impl Gate {
    fn new(frame: &FrameContext<'_>, shard_count: u16) -> Self {
        Self {
            shard_mask: u32::from(shard_count).wrapping_sub(1),
            shard: frame.shard.into(),
            sender_low: frame.publisher.sender_low,
            sender_high: frame.publisher.sender_high,
            flags_denied: if frame.publisher.system { 0 } else { SYSTEM_PACKET },
            references: frame.lane_refs_allowed,
        }
    }

    #[inline(always)]
    fn check(&self, message: &Message) -> Result<(), Reason> {
        message::check(message, self.references)?;
        // One branch for the three: which of them it was only matters where one failed.
        let elsewhere = message.topic_id.get() & self.shard_mask ^ self.shard;
        let denied = message.flags.get() & self.flags_denied;
        let sender_id = message.sender_id.get();
        let stranger = (sender_id < self.sender_low) | (sender_id > self.sender_high);
        if u64::from(elsewhere) | denied | u64::from(stranger) == 0 {
            return Ok(());
        }
        Err(match (elsewhere, denied) {
            (0, 0) => Reason::Sender,
            (0, _) => Reason::SystemDenied,
            _ => Reason::TopicShard,
        })
    }
}

/// The checks under a ruleset, with all that is the same for a frame's messages at hand.
struct Judge<'a> {
    ruleset: &'a Ruleset<'a>,
    /// The ruleset's version as the tables hold it.
    version: u32,
    /// In 1/16 ns.
    now: u64,
    tick_ns: u64,
    /// The shard's run of the topic table.
    topics: &'a mut [TopicState],
    topic_shift: u32,
    senders: &'a mut [SenderState],
    default_share: u32,
    /// The principal's row.
    rights: &'a [U64],
    /// Topic flags that ask for what this frame, or a message in it, may lack.
    flags_asking: u16,
    /// Classes below this number pass the pressure check.
    class_end: u8,
}

impl<'a> Judge<'a> {
    fn new(
        inputs: &Inputs<'a>,
        ruleset: &'a Ruleset<'a>,
        frame: &FrameContext<'_>,
        tables: &'a mut Tables<'_>,
    ) -> Self {
        let start = tables.shards.run_start(frame.shard);
        let stop = start.saturating_add(tables.shards.slots_per_shard as usize);
        let class_end = CLASSES.saturating_sub(inputs.pressure);
        let tag = if frame.authenticated { 0 } else { TOPIC_TAG_REQUIRED };
        let volatile = if frame.lane_refs_allowed { TOPIC_LOGGED | TOPIC_DURABLE } else { 0 };
        Self {
            ruleset,
            version: ruleset.version_word(),
            now: now(inputs.tick_ns),
            tick_ns: inputs.tick_ns,
            topics: tables.topics.get_mut(start..stop).unwrap_or_default(),
            topic_shift: tables.shards.topic_shift(),
            senders: tables.senders,
            default_share: tables.default_share,
            rights: ruleset.rights_row(frame.publisher.principal),
            flags_asking: tag | volatile,
            // A session whose cap is shed is shed whatever it claims.
            class_end: if frame.publisher.class_cap < class_end { class_end } else { 0 },
        }
    }

    /// What a message must be like for [`Judge::judge_ordinary`].
    fn ordinary(&self, gate: &Gate) -> Ordinary {
        Ordinary {
            shard_mask: gate.shard_mask,
            shard: gate.shard,
            sender_low: gate.sender_low,
            sender_high: gate.sender_high,
            system: gate.flags_denied == 0,
            class_end: self.class_end,
        }
    }

    /// Judges as many as are ordinary, then the one that comes next by itself, and so on.
    #[inline]
    fn judge_all(
        &mut self,
        gate: &Gate,
        ordinary: Marks,
        messages: &[Message],
        verdicts: &mut [Verdict],
        demand: &mut impl FnMut(Demand),
    ) {
        let mut start = 0;
        while let Some(left @ [_, ..]) = messages.get(start..) {
            let run = left.len().min((ordinary >> start).trailing_ones() as usize);
            start += self.judge_run(&left[..run], &mut verdicts[start..]);
            if let Some(message) = messages.get(start) {
                verdicts[start] = self.judge_exactly(gate, message, demand);
                start += 1;
            }
        }
    }

    /// Judges messages that are ordinary, up to the first that [`Judge::judge_ordinary`] leaves alone. Returns how many.
    // Not inlined, so that the loop has the registers for itself: 15 % faster than inside a large caller.
    #[inline(never)]
    fn judge_run(&mut self, messages: &[Message], verdicts: &mut [Verdict]) -> usize {
        let row = self.rights;
        match row {
            // One word names groups 0 to 63; a message on any other is left alone.
            [word] => {
                let word = word.get();
                self.judge_while(messages, verdicts, !63, |_| Some(word))
            }
            _ => {
                let word = |group| row.get(usize::from(group >> 6)).map(|word: &U64| word.get());
                self.judge_while(messages, verdicts, 0, word)
            }
        }
    }

    /// The same, with the word of rights that speaks of a group, and the bits of a group's number that have to be zero.
    #[inline(always)]
    fn judge_while(
        &mut self,
        messages: &[Message],
        verdicts: &mut [Verdict],
        group: u16,
        rights: impl Fn(u16) -> Option<u64>,
    ) -> usize {
        let unmet = TopicState::stamp(u32::MAX, self.flags_asking, group);
        let mut judged = 0;
        for (message, verdict) in messages.iter().zip(verdicts) {
            let Some(accepted) = self.judge_ordinary(message, unmet, &rights) else { break };
            *verdict = accepted;
            judged += 1;
        }
        judged
    }

    /// Too few to be marked first: each goes through the checks one at a time.
    #[inline]
    fn judge_few(
        &mut self,
        gate: &Gate,
        messages: &[Message],
        verdicts: &mut [Verdict],
        demand: &mut impl FnMut(Demand),
    ) {
        for (message, verdict) in messages.iter().zip(verdicts) {
            *verdict = match gate.check(message) {
                Ok(()) => self.judge(message, demand),
                Err(reason) => Verdict::refused(reason, false),
            };
        }
    }

    /// Accepts a message that passed every check that needs no rule, if its topic's and its sender's records are of this
    /// version and let it pass. Everything else is left to [`Judge::judge_exactly`], and nothing was changed.
    ///
    /// The topic's stamp may differ from the version's in no bit of `unmet`: one comparison for the version, for flags that
    /// ask for what the frame lacks, and for groups that `rights` does not know.
    #[inline(always)]
    fn judge_ordinary(
        &mut self,
        message: &Message,
        unmet: u64,
        rights: impl Fn(u16) -> Option<u64>,
    ) -> Option<Verdict> {
        let topic = self.topics.get_mut((message.topic_id.get() >> self.topic_shift) as usize)?;
        let sender = self.senders.get_mut(message.sender_id.get() as usize)?;
        let version = TopicState::stamp(self.version, 0, 0);
        if rights(topic.group())? >> (topic.stamp & 63) & 1 == 0 || (topic.stamp ^ version) & unmet != 0 {
            return None;
        }
        // Both are read before either is written, or the compiler reads one of them twice.
        let (sender_tat, topic_tat) = (sender.tat, topic.tat);
        let more = sender.more_under(version);
        if more > MORE_ORDINARY
            || sender_tat > latest(sender.period, more, self.now)
            || topic_tat > latest(topic.period, topic.more.into(), self.now)
        {
            return None;
        }
        sender.tat = spent(sender_tat, sender.period, self.now);
        topic.tat = spent(topic_tat, topic.period, self.now);
        Some(topic.accept)
    }

    /// Judges any message, one check at a time.
    #[cold]
    #[inline(never)]
    fn judge_exactly(&mut self, gate: &Gate, message: &Message, demand: &mut impl FnMut(Demand)) -> Verdict {
        match gate.check(message) {
            Ok(()) => self.judge(message, demand),
            Err(reason) => Verdict::refused(reason, false),
        }
    }

    #[inline(always)]
    fn judge(&mut self, message: &Message, demand: &mut impl FnMut(Demand)) -> Verdict {
        let topic_id = message.topic_id.get();
        let Some(topic) = self.topics.get_mut((topic_id >> self.topic_shift) as usize) else {
            let known = self.ruleset.topic(topic_id).is_some_and(|rule| rule.flags.get() & TOPIC_KNOWN != 0);
            return Verdict::refused(no_state(known, Reason::Denylisted), false);
        };
        if topic.version() != self.version {
            topic.adopt(self.ruleset, self.version, topic_id, self.now);
        }
        // An unknown topic is in group 0, on which nobody has a right.
        let word = self.rights.get(usize::from(topic.group() >> 6)).map_or(0, |word| word.get());
        if word >> (topic.group() & 63) & 1 == 0 {
            return refused(Reason::Denylisted, topic);
        }
        if topic.flags() & self.flags_asking != 0
            && let Some(reason) = lacks(topic.flags() & self.flags_asking, message)
        {
            return refused(reason, topic);
        }
        if message.class() >= self.class_end {
            return refused(Reason::Shed, topic);
        }
        let sender_id = message.sender_id.get();
        let Some(sender) = self.senders.get_mut(sender_id as usize) else {
            return refused(no_state(self.ruleset.sender(sender_id).is_some(), Reason::QuotaExceeded), topic);
        };
        if sender.version != self.version {
            sender.adopt(self.ruleset, self.version, sender_id, self.default_share, self.now);
        }
        if sender.more == SHUT || !has_room(sender.tat, sender.period, sender.more, self.now) {
            if let Some(word) = sender.refuse(self.ruleset, sender_id, self.tick_ns) {
                demand(word);
            }
            return refused(Reason::QuotaExceeded, topic);
        }
        if !has_room(topic.tat, topic.period, topic.more, self.now) {
            return refused(Reason::Throttled, topic);
        }
        sender.tat = spent(sender.tat, sender.period, self.now);
        topic.tat = spent(topic.tat, topic.period, self.now);
        topic.accept
    }
}

/// The verdict on a message whose topic was looked at.
#[inline(always)]
fn refused(reason: Reason, topic: &TopicState) -> Verdict {
    Verdict::refused(reason, topic.flags() & TOPIC_QUARANTINE != 0)
}

/// The reason where a table has no record: the rules' own, or, if they know the id, that the table is too small for them.
#[cold]
fn no_state(known: bool, unknown: Reason) -> Reason {
    if known { Reason::InternalOverflow } else { unknown }
}

/// What the topic demands and the message or its frame does not have; `asked` are the topic's flags of those that ask for what
/// the frame, or a message in it, may lack. That payloads outside the frame are for volatile topics only is the one part of
/// the mode check that needs the topic's rule, so it comes as soon as there is one.
#[cold]
fn lacks(asked: u16, message: &Message) -> Option<Reason> {
    let inside = message.flags.get() & INLINE_PAYLOAD != 0 || message.is_in_frame();
    if asked & (TOPIC_LOGGED | TOPIC_DURABLE) != 0 && !inside {
        return Some(Reason::ModeForbidden);
    }
    if asked & TOPIC_TAG_REQUIRED != 0 { Some(Reason::TopicTagRequired) } else { None }
}
