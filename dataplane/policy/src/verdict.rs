//! What becomes of a message.

use tachyon_wire::{Reason, image::ROUTE_NONE};
use zerocopy::{FromZeros, Immutable, KnownLayout};

/// The verdict on one message, as one word: a frame's verdicts are written and read once for each message, so they are as
/// small as they can be. An accepted message's word is made when its topic's rule is adopted.
#[derive(Clone, Copy, PartialEq, Eq, FromZeros, Immutable, KnownLayout)]
#[repr(transparent)]
pub struct Verdict(u32);

/// Bits of an accepted verdict that are its route: more than routes there may be.
const ROUTE: u32 = (1 << 26) - 1;
const REFUSED: u32 = 1 << 31;
const QUARANTINE: u32 = 1 << 30;
const DURABLE: u32 = 1 << 29;
const UNROUTED: u32 = 1 << 28;
const LOGGED: u32 = 1 << 27;
const WITHHELD: u32 = 1 << 26;

impl Verdict {
    /// Accepted, onto a route or onto none ([`ROUTE_NONE`]); a durable one may only be forwarded once it is on stable
    /// storage.
    #[inline]
    #[must_use]
    pub const fn accepted(route: u32, durable: bool) -> Self {
        let route = if route == ROUTE_NONE { UNROUTED } else { route };
        Self(route | if durable { DURABLE } else { 0 })
    }

    /// The same, of a topic that is logged.
    #[inline]
    #[must_use]
    pub const fn logged(self) -> Self {
        Self(self.0 | LOGGED)
    }

    /// An accepted verdict of a message that the log is not asked to take after all.
    #[inline]
    #[must_use]
    pub const fn unlogged(self) -> Self {
        Self(self.0 & !(LOGGED | DURABLE))
    }

    /// An accepted verdict of a message that is not forwarded, because the log does not take it.
    #[inline]
    #[must_use]
    pub const fn withheld(self) -> Self {
        Self(self.0 & !(LOGGED | DURABLE) | WITHHELD)
    }

    /// Refused, and perhaps copied to the quarantine ring: only from `E_GOV_DENYLISTED` on, where the topic is known.
    #[inline]
    #[must_use]
    pub const fn refused(reason: Reason, quarantine: bool) -> Self {
        Self(REFUSED | if quarantine { QUARANTINE } else { 0 } | reason.number() as u32)
    }

    /// Whether the message may pass.
    #[inline]
    #[must_use]
    pub const fn is_accepted(self) -> bool {
        self.0 & REFUSED == 0
    }

    /// [`Reason::number`] of a refused message; 0 of an accepted one.
    #[inline]
    #[must_use]
    pub const fn reason(self) -> u8 {
        if self.is_accepted() { 0 } else { (self.0 & 0xff) as u8 }
    }

    /// Whether a refused message goes to the quarantine ring as well.
    #[inline]
    #[must_use]
    pub const fn is_quarantined(self) -> bool {
        self.0 & (REFUSED | QUARANTINE) == REFUSED | QUARANTINE
    }

    /// Whether an accepted message's topic is durable.
    #[inline]
    #[must_use]
    pub const fn is_durable(self) -> bool {
        self.0 & (REFUSED | DURABLE) == DURABLE
    }

    /// Whether an accepted message is not forwarded, because the log does not take it.
    #[inline]
    #[must_use]
    pub const fn is_withheld(self) -> bool {
        self.0 & (REFUSED | WITHHELD) == WITHHELD
    }

    /// What a frame's verdicts have in common.
    #[inline]
    #[must_use]
    pub fn summary(verdicts: &[Self]) -> Summary {
        let (any, all) = verdicts.iter().fold((0, u32::MAX), |(any, all), verdict| (any | verdict.0, all & verdict.0));
        // Refused verdicts have a reason where others have their bits, and never these.
        Summary { any, all }
    }

    /// Whether the message was accepted, and nobody subscribes to its topic.
    #[inline]
    #[must_use]
    pub const fn is_unrouted(self) -> bool {
        self.0 & (REFUSED | UNROUTED) == UNROUTED
    }

    /// Index of an accepted message's route, or [`ROUTE_NONE`].
    #[inline]
    #[must_use]
    pub const fn route(self) -> u32 {
        if self.0 & (REFUSED | UNROUTED) == 0 { self.0 & ROUTE } else { ROUTE_NONE }
    }

    /// The route of an accepted message that only has to be copied onto it; past every route for all others, so that one
    /// comparison with a number of routes finds out.
    #[inline]
    #[must_use]
    pub const fn plain_route(self) -> u32 {
        self.0 & !LOGGED
    }
}

/// What a frame's verdicts have in common.
#[derive(Clone, Copy, Debug)]
pub struct Summary {
    any: u32,
    all: u32,
}

impl Summary {
    /// A message was accepted that is for the log.
    #[inline]
    #[must_use]
    pub const fn is_for_log(self) -> bool {
        self.any & (LOGGED | DURABLE) != 0
    }

    /// A message was accepted that has to wait for the log.
    #[inline]
    #[must_use]
    pub const fn is_any_durable(self) -> bool {
        self.any & DURABLE != 0
    }

    /// All messages were accepted and have to wait for the log.
    #[inline]
    #[must_use]
    pub const fn are_all_durable(self) -> bool {
        self.all & DURABLE != 0
    }

    /// A message was refused.
    #[inline]
    #[must_use]
    pub const fn is_any_refused(self) -> bool {
        self.any & REFUSED != 0
    }

    /// A message was refused, or is not forwarded, because the log does not take it.
    #[inline]
    #[must_use]
    pub const fn is_any_stopped(self) -> bool {
        self.any & (REFUSED | WITHHELD) != 0
    }
}

impl Default for Verdict {
    /// Refused: a message nobody judged does not pass.
    fn default() -> Self {
        Self::refused(Reason::InternalInvariant, false)
    }
}

impl core::fmt::Debug for Verdict {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match Reason::from_number(self.reason()) {
            Some(reason) => write!(f, "Verdict({}, quarantine {})", reason.code(), self.is_quarantined()),
            None => write!(f, "Verdict(accepted, route {}, durable {})", self.route(), self.is_durable()),
        }
    }
}
