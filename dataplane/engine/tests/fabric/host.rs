//! What the worker is run by.

use std::collections::VecDeque;
use tachyon_engine::Host;
use tachyon_policy::Verified;
use tachyon_wire::{
    Message, Reason,
    command::{Command, Demand},
    counters::{Counters, Histogram, ROUTES_COUNTED, RouteCounters, WorkerStats},
};

#[derive(Debug)]
pub(crate) struct TestHost {
    pub(crate) images: Vec<Verified<Vec<u8>>>,
    pub(crate) in_force: Result<usize, Reason>,
    /// Every look sees the next image, as if control swapped between any two looks.
    pub(crate) flips: bool,
    pub(crate) looks: usize,
    pub(crate) commands: VecDeque<Command>,
    pub(crate) demands: Vec<Demand>,
    pub(crate) quarantined: Vec<(Message, u8)>,
    pub(crate) quarantine_room: usize,
    pub(crate) published: Box<WorkerStats>,
    pub(crate) publications: u64,
    /// The next look at the ruleset, or the next sight of a refused message to quarantine, panics.
    pub(crate) panics: bool,
}

impl TestHost {
    pub(crate) fn new(image: Option<Verified<Vec<u8>>>) -> Self {
        let stats = WorkerStats {
            counters: Counters::ZERO,
            residence: Histogram::ZERO,
            routes: [RouteCounters::default(); ROUTES_COUNTED],
        };
        Self {
            in_force: image.as_ref().map(|_| 0).ok_or(Reason::RulesetUnavailable),
            images: image.into_iter().collect(),
            flips: false,
            looks: 0,
            commands: VecDeque::with_capacity(64),
            demands: Vec::with_capacity(4096),
            quarantined: Vec::with_capacity(4096),
            quarantine_room: 4096,
            published: Box::new(stats),
            publications: 0,
            panics: false,
        }
    }

    pub(crate) fn apply(&mut self, image: Verified<Vec<u8>>) {
        self.images.push(image);
        self.in_force = Ok(self.images.len() - 1);
    }
}

impl Host for TestHost {
    type Image = Vec<u8>;

    fn ruleset(&mut self) -> Result<&Verified<Vec<u8>>, Reason> {
        self.looks += 1;
        assert!(!core::mem::take(&mut self.panics), "a look that panics");
        let shown = self.in_force?;
        let shown = if self.flips { self.looks % self.images.len() } else { shown };
        Ok(&self.images[shown])
    }

    fn command(&mut self) -> Option<Command> {
        self.commands.pop_front()
    }

    fn demand(&mut self, demand: Demand) {
        if self.demands.len() < self.demands.capacity() {
            self.demands.push(demand);
        }
    }

    fn quarantine(&mut self, message: &Message, reason: u8) -> bool {
        if self.quarantined.len() == self.quarantine_room {
            return false;
        }
        self.quarantined.push((*message, reason));
        true
    }

    fn publish(&mut self, stats: &WorkerStats, whole: bool) {
        assert_eq!(stats.counters.unaccounted(), [0; 3], "what is published adds up");
        assert!(stats.counters.turns >= self.published.counters.turns);
        self.published.counters = stats.counters;
        if whole {
            self.published.residence = stats.residence;
            self.published.routes = stats.routes;
        }
        self.publications += 1;
    }
}
