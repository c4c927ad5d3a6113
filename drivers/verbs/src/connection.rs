//! One queue pair as the cold side sees it: where it stands on its way up, down and up again.
//!
//! ```text
//! Fresh ─ offer ─▶ Offered ─ connect ─▶ Connected ─ error, reset, close ─▶ Draining ─ read out, and reset ─▶ Clearing
//!                     ▲                                                                                        │
//!                     └───────────────── time is up ── Waiting ◀── tries left ── the worker forgot it ◀─────────┘
//!                                                                   └─ none ──▶ Failed
//! ```

use crate::device::{Fabric, Pair, Ring, RingMemory};
use crate::ports::RingSize;
use tachyon_driver_api::PortError;
use tachyon_wire::Endpoint;

/// How long a connection stands until its tries are forgotten: longer than a peer needs to be seen as gone.
const STABLE_NS: u64 = 2_000_000_000;
/// Doublings of the wait between tries, so that it stays about a thousand times the first one at most.
const DOUBLINGS_MAX: u32 = 10;

/// Where a connection stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Made, and nothing offered.
    Fresh,
    /// Our part is with the peer.
    Offered { until_ns: u64 },
    /// It carries frames.
    Connected,
    /// In error. It is reset at this time: never before its worker has read what it had to tell, and again after a while
    /// where the device did not do it.
    Draining { until_ns: u64 },
    /// Reset; the worker has to forget it.
    Clearing,
    /// In reset, until it is offered again.
    Waiting { until_ns: u64 },
    /// Nothing more is tried.
    Failed,
}

impl Stage {
    /// Whether no worker and no device has anything of it.
    pub(crate) const fn is_at_rest(self) -> bool {
        matches!(self, Self::Fresh | Self::Offered { .. } | Self::Waiting { .. } | Self::Failed)
    }

    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fresh => "fresh",
            Self::Offered { .. } => "offered",
            Self::Connected => "connected",
            Self::Draining { .. } => "draining",
            Self::Clearing => "clearing",
            Self::Waiting { .. } => "waiting",
            Self::Failed => "failed",
        }
    }
}

/// What people were told of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Told {
    /// Nothing yet: that it stands for the first time is no news.
    Nothing,
    /// That it failed.
    Failed,
    /// That it was given up.
    GivenUp,
    /// That it is back.
    Back,
}

/// See the module.
pub(crate) struct Connection<F: Fabric> {
    pub(crate) to: Endpoint,
    /// The worker's number of the queue pair.
    pub(crate) number: u16,
    pub(crate) pair: Pair<F>,
    pub(crate) psn: u32,
    pub(crate) ring_size: Option<RingSize>,
    /// Registered and offered; the worker has it once connected.
    pub(crate) ring: Option<RingMemory<Ring<F>>>,
    pub(crate) stage: Stage,
    pub(crate) closing: bool,
    /// Whether its peer has a ring that we write into.
    pub(crate) writes: bool,
    /// What people were told of it.
    pub(crate) told: Told,
    /// Whether our side is the one that offers again after a failure.
    pub(crate) active: bool,
    /// Tries since it stood for a while.
    pub(crate) attempts: u32,
    pub(crate) connected_ns: u64,
    /// What the last failure was.
    pub(crate) why: String,
    /// How often the device did not reset it.
    pub(crate) resets: u32,
}

impl<F: Fabric> Connection<F> {
    pub(crate) const fn new(to: Endpoint, number: u16, pair: Pair<F>) -> Self {
        Self {
            to,
            number,
            pair,
            psn: 0,
            ring_size: None,
            ring: None,
            stage: Stage::Fresh,
            closing: false,
            writes: false,
            told: Told::Nothing,
            active: true,
            attempts: 0,
            connected_ns: 0,
            why: String::new(),
            resets: 0,
        }
    }

    /// It is in error; only the first cause is kept. False: it was already.
    pub(crate) fn fail(&mut self, why: &str) -> bool {
        if self.stage != Stage::Connected {
            return false;
        }
        why.clone_into(&mut self.why);
        self.stage = Stage::Draining { until_ns: u64::MAX };
        true
    }

    /// The worker has read all that it had to tell.
    pub(crate) const fn drained(&mut self) {
        if let Stage::Draining { until_ns } = &mut self.stage {
            *until_ns = 0;
        }
    }

    /// The device did not reset it, so it may still use what it was given: nobody gets any of that back before it did.
    pub(crate) fn keep_draining(&mut self, error: &PortError, now_ns: u64, first_ns: u64) {
        let wait_ns = first_ns << self.resets.min(DOUBLINGS_MAX);
        self.resets = self.resets.saturating_add(1);
        if self.resets == 1 {
            self.told = Told::Nothing; // what it fails from now on is another thing
        }
        self.why = format!("{error}; it is tried again, after {} times so far", self.resets);
        self.stage = Stage::Draining { until_ns: now_ns.saturating_add(wait_ns) };
    }

    /// Whether nobody shall wait for it any more, if there is another way.
    pub(crate) fn is_given_up(&self, most: u32) -> bool {
        self.stage == Stage::Failed || self.resets > most
    }

    /// The worker forgot it.
    pub(crate) fn cleared(&mut self, now_ns: u64, first_ns: u64, most: u32) {
        if self.stage != Stage::Clearing {
            return;
        }
        self.resets = 0;
        self.try_again(now_ns, first_ns, most);
    }

    /// Waits for the next try, twice as long as for the one before; or gives up.
    pub(crate) fn try_again(&mut self, now_ns: u64, first_ns: u64, most: u32) {
        if self.attempts >= most {
            let why = format!("{} tries to connect again failed, the last because: {}", self.attempts, self.why);
            return self.give_up(why);
        }
        let wait_ns = first_ns << self.attempts.min(DOUBLINGS_MAX);
        self.attempts += 1;
        self.ring = None;
        self.stage = Stage::Waiting { until_ns: now_ns.saturating_add(wait_ns) };
    }

    pub(crate) fn give_up(&mut self, why: String) {
        self.why = why;
        self.ring = None;
        self.stage = Stage::Failed;
    }

    /// A connection that stands for a while starts counting anew.
    pub(crate) const fn settle(&mut self, now_ns: u64) {
        if self.attempts > 0 && now_ns.saturating_sub(self.connected_ns) >= STABLE_NS {
            self.attempts = 0;
        }
    }
}
