//! Moves shares of a sender's quota to the workers that need them.
//!
//! Each worker may spend its share of a quota, all shares together at most the whole. A worker that refuses a message for
//! quota says so; every interval the shares are moved towards those who said so. Shares are taken first and given in a
//! later interval, once the taking is known to be in force, so that at no time more than the whole is out. The moves are a
//! function of what the workers said and of nothing else: no clock, no randomness, no order of a hash map.

use std::collections::BTreeMap;
use tachyon_wire::command::{Demand, Lease, SHARE_ALL};

/// How often shares are moved; the design asks for 1 to 10 ms.
pub(crate) const INTERVAL_NS: u64 = 5_000_000;
/// Intervals for which a worker that refused keeps what it has: 100 ms, so that a worker just below its share does not
/// lose it, refuse, and get it back over and over.
const HOLD: u32 = 20;
/// Every worker keeps at least 1/64 of an equal part, so that a new publisher on it gets something through at once and
/// its first refusal is heard.
const FLOOR_PARTS: u32 = 64;
/// Intervals without any word after which a sender's shares go back to equal parts: 10 s.
const FORGET: u32 = 2_000;
/// Moves below 1/256 of the whole are not worth a command.
const STEP_MIN: u32 = SHARE_ALL / 256;

/// Carries a lease to a worker. `None`: its ring is full, try again. Otherwise a ticket to ask about.
pub(crate) trait Couriers {
    /// Sends a lease.
    fn send(&mut self, worker: usize, lease: Lease) -> Option<u64>;
    /// Whether what the ticket stands for is in force.
    fn in_force(&self, worker: usize, ticket: u64) -> bool;
}

/// One sender's shares.
#[derive(Clone, Debug)]
struct Sender {
    /// What each worker holds; until a decrease is in force, still the larger value.
    held: Vec<u32>,
    /// What each worker shall hold once all moves are done.
    target: Vec<u32>,
    /// Decreases on their way, by worker: the ticket.
    leaving: Vec<Option<u64>>,
    /// Messages refused since the last plan, by worker.
    refused: Vec<u32>,
    /// Intervals since the last plan.
    intervals: u32,
    /// Intervals since a worker last refused.
    quiet: Vec<u32>,
}

/// All senders that somebody spoke of.
#[derive(Debug)]
pub(crate) struct Leases {
    workers: usize,
    senders: BTreeMap<u32, Sender>,
}

impl Leases {
    /// Everybody holds an equal part.
    pub(crate) fn new(workers: u16) -> Self {
        Self { workers: usize::from(workers), senders: BTreeMap::new() }
    }

    /// A worker's word on a sender.
    pub(crate) fn demand(&mut self, worker: usize, demand: Demand) {
        if self.workers < 2 || worker >= self.workers {
            return; // a single worker has the whole already
        }
        let workers = self.workers;
        let sender = self.senders.entry(demand.sender_id.get()).or_insert_with(|| Sender::equal(workers));
        sender.refused[worker] = sender.refused[worker].saturating_add(demand.refused.get().max(1));
    }

    /// One interval: finishes what is under way, then plans anew. `period_of` is a sender's time per message in 1/16 ns,
    /// 0 if it has no limit or is unknown.
    pub(crate) fn step(&mut self, period_of: impl Fn(u32) -> u64, couriers: &mut impl Couriers) {
        self.senders.retain(|id, sender| {
            sender.intervals += 1;
            if sender.is_settled() {
                sender.plan(period_of(*id));
            }
            sender.take(*id, couriers);
            sender.give(*id, couriers);
            !sender.is_forgotten()
        });
    }
}

impl Sender {
    fn equal(workers: usize) -> Self {
        let part = equal_part(workers);
        Self {
            held: vec![part; workers],
            target: vec![part; workers],
            leaving: vec![None; workers],
            refused: vec![0; workers],
            intervals: 0,
            quiet: vec![u32::MAX; workers],
        }
    }

    fn is_settled(&self) -> bool {
        self.held == self.target
    }

    fn is_forgotten(&self) -> bool {
        let part = equal_part(self.held.len());
        self.is_settled() && self.held.iter().all(|share| *share == part) && self.quiet.iter().all(|q| *q >= FORGET)
    }

    /// Sets new targets from what was said since the last plan.
    fn plan(&mut self, period: u64) {
        for (quiet, refused) in self.quiet.iter_mut().zip(&self.refused) {
            *quiet = if *refused > 0 { 0 } else { quiet.saturating_add(self.intervals) };
        }
        let per_interval = |refused: &u32| refused.div_ceil(self.intervals);
        let refused: Vec<u32> = self.refused.iter().map(per_interval).collect();
        self.refused.fill(0);
        self.intervals = 0;
        if self.quiet.iter().all(|quiet| *quiet >= FORGET) {
            self.target.fill(equal_part(self.held.len()));
        } else if refused.iter().any(|refused| *refused > 0) {
            let wanted = targets(&self.held, &refused, &self.quiet, period);
            let worth_it = wanted.iter().zip(&self.held).any(|(new, old)| new.abs_diff(*old) >= STEP_MIN);
            if worth_it {
                self.target = wanted;
            }
        }
    }

    /// Takes from those who hold too much, and notes when that is in force.
    fn take(&mut self, sender_id: u32, couriers: &mut impl Couriers) {
        for worker in 0..self.held.len() {
            match self.leaving[worker] {
                Some(ticket) if couriers.in_force(worker, ticket) => {
                    self.leaving[worker] = None;
                    self.held[worker] = self.target[worker];
                }
                None if self.target[worker] < self.held[worker] => {
                    let lease = Lease { sender_id: sender_id.into(), share: self.target[worker].into() };
                    self.leaving[worker] = couriers.send(worker, lease);
                }
                _ => {}
            }
        }
    }

    /// Gives what is free, to the lowest worker number first.
    fn give(&mut self, sender_id: u32, couriers: &mut impl Couriers) {
        let mut free = SHARE_ALL.saturating_sub(self.held.iter().sum());
        for worker in 0..self.held.len() {
            let more = self.target[worker].saturating_sub(self.held[worker]);
            if more > 0 && more <= free {
                let lease = Lease { sender_id: sender_id.into(), share: self.target[worker].into() };
                if couriers.send(worker, lease).is_some() {
                    self.held[worker] = self.target[worker];
                    free -= more;
                }
            }
        }
    }
}

fn equal_part(workers: usize) -> u32 {
    SHARE_ALL / u32::try_from(workers.max(1)).unwrap_or(u32::MAX)
}

/// What each worker shall hold: in proportion to what it needs, as far as that is known, and never less than the floor.
///
/// A worker that refused needs what it holds and what it refused. One that refused lately needs what it holds. One that
/// was quiet for long is asked for a quarter of it: what it really uses is not known, and if that was too much it will
/// say so and be believed for [`HOLD`] intervals.
fn targets(held: &[u32], refused: &[u32], quiet: &[u32], period: u64) -> Vec<u32> {
    let whole = u64::from(SHARE_ALL);
    let floor = u64::from((equal_part(held.len()) / FLOOR_PARTS).max(1));
    let needs: Vec<u64> = (0..held.len())
        .map(|worker| {
            let holds = u64::from(held[worker]);
            let need = match (refused[worker], quiet[worker]) {
                (0, quiet) if quiet > HOLD => holds - holds / 4,
                (0, _) => holds,
                (refused, _) => holds + share_of(refused, period),
            };
            need.max(floor)
        })
        .collect();
    let sum: u64 = needs.iter().sum();
    let spare = whole - floor * held.len() as u64;
    // Rounded down everywhere, so the sum never exceeds the whole.
    needs.iter().map(|need| u32::try_from(floor + spare * need / sum).unwrap_or(SHARE_ALL)).collect()
}

/// What part of a quota so many messages in one interval are, in 1/65,536; at most 16 times the whole.
fn share_of(messages: u32, period: u64) -> u64 {
    let interval = INTERVAL_NS * tachyon_wire::image::TICKS_PER_NS;
    let share = u128::from(messages) * u128::from(period) * u128::from(SHARE_ALL) / u128::from(interval);
    u64::try_from(share).unwrap_or(u64::MAX).clamp(1, u64::from(SHARE_ALL) * 16)
}

#[cfg(test)]
mod tests;
