//! Messages of one route to all of its targets. Message by message a copy costs a look-up and a scattered store; so those
//! of a burst that share route and shard wait for each other in a fan, and go to each target together.
//!
//! No fan outlives its burst: at the end of it every message is in open frames, as if it had been copied at once. So
//! windows, swaps, removals and ledgers know nothing of fans, only a panic does.

use crate::{
    egress::{CLOSED, Egress, Hop, LINE_BYTES, refuse_copies},
    lane::Lane,
};
use tachyon_driver_api::Pool;
use tachyon_kernels::{
    Path,
    copy::{self, Line},
    crc, prefetch_write_lines,
};
use tachyon_policy::{Ruleset, Verdict};
use tachyon_wire::{LINE, Message, Reason, counters::WorkerStats, image::Target};
use zerocopy::IntoBytes;

/// Messages that wait for each other at most: what a frame at MTU 1500 holds, so that frames and fans begin together
/// where all targets take such frames.
const TOGETHER: usize = 22;
/// Fans that are in use at a time: with so many they are 90 KiB, which leaves L2 to the frames.
pub const FANS: usize = 64;

/// Crcs that are known at a time: as many as there are sizes of frames among the targets of a route, about.
const KNOWN: usize = 8;

/// Messages of one route and shard, in order.
#[derive(Clone, Debug)]
#[repr(C, align(64))]
pub struct Fan {
    /// First, so that each is a line of cache.
    lines: [Line; TOGETHER],
    count: u32,
    route: u32,
    fan_out: u32,
    shard: u16,
    owned: u16,
}

impl Fan {
    /// A fan that is not in use.
    pub const EMPTY: Self = Self { count: 0, route: 0, fan_out: 0, shard: 0, owned: 0, lines: [[0; LINE]; TOGETHER] };

    /// The line of its next message; none if it is full.
    #[inline(always)]
    fn next_line(&mut self) -> Option<&mut Line> {
        let line = self.lines.get_mut(self.count as usize)?;
        self.count += 1;
        Some(line)
    }
}

/// The fans that some verdicts lead to.
struct OpenFans<'e> {
    fan_of: &'e [u32],
    fans: &'e mut [Fan],
}

impl copy::Places<Verdict> for OpenFans<'_> {
    #[inline(always)]
    fn next(&mut self, verdict: Verdict) -> Option<&mut Line> {
        let index = *self.fan_of.get(verdict.plain_route() as usize)?;
        // A closed fan's index is past all fans.
        self.fans.get_mut(index as usize)?.next_line()
    }
}

/// The slices of [`crate::Memory`] that fans are in.
#[derive(Debug)]
pub(crate) struct Fans<'a> {
    fans: &'a mut [Fan],
    /// By owned shard and route; [`CLOSED`] where there is none.
    fan_of: &'a mut [u32],
    /// Entries of `fan_of` for each owned shard.
    routes: usize,
    open: usize,
    /// The one that makes room where all are in use.
    next: usize,
}

/// What a fan is spread with.
pub(crate) struct Spread<'s, 'r, 'a> {
    pub(crate) now_ns: u64,
    pub(crate) ruleset: &'s Ruleset<'r>,
    pub(crate) egress: &'s mut Egress<'a>,
    pub(crate) pool: &'s mut Pool,
    pub(crate) stats: &'s mut WorkerStats,
}

impl<'a> Fans<'a> {
    pub(crate) fn new(fans: &'a mut [Fan], fan_of: &'a mut [u32], routes: usize) -> Self {
        Self { fans, fan_of, routes, open: 0, next: 0 }
    }

    /// Adds messages to the fans of their routes, up to the first that is refused or whose route has no fan with room;
    /// returns how many.
    #[inline]
    pub(crate) fn add_run(&mut self, path: Path, owned: u16, messages: &[Message], verdicts: &[Verdict]) -> usize {
        let row = usize::from(owned) * self.routes;
        let fan_of = self.fan_of.get(row..row + self.routes).unwrap_or_default();
        let mut fans = OpenFans { fan_of, fans: self.fans };
        copy::copy_lines(path, messages.as_bytes().as_chunks().0, verdicts, &mut fans)
    }

    /// Makes room for a message of this route; false if its routes have no fans.
    pub(crate) fn make_room(&mut self, hop: &Hop<'_>, fan_out: usize, with: &mut Spread<'_, '_, '_>) -> bool {
        let entry = usize::from(hop.owned) * self.routes + hop.route as usize;
        let known = (hop.route as usize) < self.routes && !self.fans.is_empty();
        let Some(&index) = self.fan_of.get(entry).filter(|_| known) else { return false };
        if index != CLOSED {
            self.spread(index as usize, with);
            return true;
        }
        let index = if self.open < self.fans.len() {
            self.open += 1;
            self.open - 1
        } else {
            self.next = (self.next + 1) % self.open.max(1);
            self.spread(self.next, with);
            self.close(self.next);
            self.next
        };
        let Some(fan) = self.fans.get_mut(index) else { return false };
        fan.count = 0;
        fan.route = hop.route;
        fan.fan_out = u32::try_from(fan_out).unwrap_or(0);
        (fan.shard, fan.owned) = (hop.shard, hop.owned);
        self.fan_of[entry] = u32::try_from(index).unwrap_or(CLOSED);
        true
    }

    /// Copies what waits for this route, before a message of it goes by itself.
    pub(crate) fn spread_route(&mut self, owned: u16, route: u32, with: &mut Spread<'_, '_, '_>) {
        let row = usize::from(owned) * self.routes;
        let index = self.fan_of.get(row..row + self.routes).and_then(|fans| fans.get(route as usize));
        if let Some(&index) = index
            && index != CLOSED
        {
            self.spread(index as usize, with);
        }
    }

    /// Copies everything that waits; no fan is in use after it.
    pub(crate) fn spread_all(&mut self, with: &mut Spread<'_, '_, '_>) {
        for index in 0..self.open {
            self.spread(index, with);
            self.close(index);
        }
        self.open = 0;
    }

    fn spread(&mut self, index: usize, with: &mut Spread<'_, '_, '_>) {
        let fan = &mut self.fans[index];
        let count = core::mem::take(&mut fan.count) as usize;
        let Some((rule, targets)) = with.ruleset.route(fan.route).filter(|_| count > 0) else { return };
        let hop = Hop { now_ns: with.now_ns, shard: fan.shard, owned: fan.owned, route: fan.route, rule };
        with.egress.spread(hop, targets, &fan.lines[..count], with.pool, with.stats);
    }

    fn close(&mut self, index: usize) {
        let fan = &self.fans[index];
        self.fan_of[usize::from(fan.owned) * self.routes + fan.route as usize] = CLOSED;
    }

    /// Gives up whatever waits; returns how many copies that would have been.
    pub(crate) fn abandon(&mut self) -> u64 {
        let waiting = self.fans.iter_mut();
        let copies = waiting.map(|fan| u64::from(core::mem::take(&mut fan.count)) * u64::from(fan.fan_out)).sum();
        self.fan_of.fill(CLOSED);
        self.open = 0;
        copies
    }
}

impl Lane {
    /// Appends lines to the frame being filled, as many as it has room for; returns how many.
    #[inline]
    fn append_many(&mut self, lines: &[Line], first: u32) -> usize {
        let empty = self.lines.end() == self.frame_start + LINE_BYTES;
        let places = self.lines.next_lines(lines.len());
        let count = places.len();
        places.copy_from_slice(&lines[..count]);
        self.first = if empty { first } else { self.first };
        count
    }
}

impl Egress<'_> {
    /// Copies accepted messages of one route, in order, to each of its targets.
    pub(crate) fn spread(
        &mut self,
        hop: Hop<'_>,
        targets: &[Target],
        lines: &[Line],
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) {
        stats.counters.copies_due += (targets.len() * lines.len()) as u64;
        let first = self.bodies.take(lines.len());
        let mut copied = 0;
        for (target, subscriber) in (hop.rule.first_target.get()..).zip(targets) {
            self.prefetch(hop.owned, target + 1, lines.len());
            let (mut left, mut number) = (lines, first);
            while !left.is_empty() {
                match self.append_some(hop, target, subscriber.get(), left, number, pool, stats) {
                    Ok(count) => {
                        left = left.get(count..).unwrap_or_default();
                        number = number.wrapping_add(u32::try_from(count).unwrap_or(0));
                    }
                    Err(reason) => {
                        // Nothing comes back before the next of them would be tried.
                        refuse_copies(stats, &hop, target, left.len() as u64, reason);
                        break;
                    }
                }
            }
            copied += lines.len() - left.len();
        }
        stats.counters.copies_held += copied as u64;
    }

    /// Asks for the lines that a target's messages will go to.
    #[inline]
    fn prefetch(&self, owned: u16, target: u32, lines: usize) {
        if let Some(lane) = self.lanes.get(self.lane_of(owned, target) as usize) {
            let ahead = lane.lines.bytes().get(lane.lines.end() as usize..).unwrap_or_default().as_chunks().0;
            prefetch_write_lines(ahead.get(..=lines).unwrap_or(ahead));
        }
    }

    /// Copies as many of these messages to a target as the frame being filled has room for, or where it has none the next;
    /// at least one.
    #[inline]
    #[expect(clippy::too_many_arguments, reason = "the number of the first beside what `spread` takes")]
    fn append_some(
        &mut self,
        hop: Hop<'_>,
        target: u32,
        subscriber: u32,
        lines: &[Line],
        first: u32,
        pool: &mut Pool,
        stats: &mut WorkerStats,
    ) -> Result<usize, Reason> {
        let mut index = self.lane(hop, target, subscriber, pool, stats)?;
        if !self.lanes[index].lines.has_room() && !self.next_frame(index, hop.now_ns, pool, stats) {
            index = self.lane(hop, target, subscriber, pool, stats)?;
        }
        match self.lanes[index].append_many(lines, first) {
            0 => Err(Reason::InternalInvariant),
            count => Ok(count),
        }
    }

    /// The crc of what is behind the header of the frame being filled, where it can be known for other targets, too; else 0.
    #[inline]
    pub(crate) fn crc_behind(&mut self, index: usize, count: u32) -> u32 {
        if self.lanes[index].first == 0 { 0 } else { self.shared_crc(index, count) }
    }

    #[inline(never)]
    fn shared_crc(&mut self, index: usize, count: u32) -> u32 {
        let lane = &mut self.lanes[index];
        let first = core::mem::take(&mut lane.first);
        if self.subscribers.get(lane.subscriber as usize).is_none_or(|subscriber| subscriber.tagged) {
            return 0;
        }
        let behind = lane.frame_start as usize + LINE..lane.lines.end() as usize;
        let bytes = lane.lines.bytes().get(behind).unwrap_or_default();
        self.bodies.crc(self.path, first, count, bytes)
    }
}

/// Crcs of what is behind the header of frames that went to several targets: the same messages, so the same crc.
///
/// Every message that is spread has a number. A lane that is open gets every message of its route, so two frames of one
/// route that begin with the same one and have as many are the same.
#[derive(Debug, Default)]
pub(crate) struct Bodies {
    /// The number given last; 0 is no number.
    last: u32,
    known: [Body; KNOWN],
}

#[derive(Clone, Copy, Debug, Default)]
struct Body {
    first: u32,
    count: u32,
    crc32c: u32,
}

impl Bodies {
    /// Numbers for so many messages; returns the first.
    #[inline]
    fn take(&mut self, count: usize) -> u32 {
        let count = u32::try_from(count).unwrap_or(u32::MAX);
        if let Some(last) = self.last.checked_add(count) {
            let first = self.last + 1;
            self.last = last;
            return first;
        }
        *self = Self { last: count, ..Self::default() };
        1
    }

    #[inline]
    fn crc(&mut self, path: Path, first: u32, count: u32, bytes: &[u8]) -> u32 {
        let known = &mut self.known[first.wrapping_add(count) as usize % KNOWN];
        if (known.first, known.count) != (first, count) {
            *known = Body { first, count, crc32c: crc::crc32c(path, bytes) };
        }
        known.crc32c
    }
}
