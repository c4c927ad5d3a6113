//! When it is sent. Open loop: the times follow from the rate alone and never from the system under test, so a system
//! that stalls is measured with the wait it caused (no coordinated omission).

use crate::clock::SECOND_NS;

/// A run that is handed over later than this after its time counts as late: a tenth of the smallest latency that a
/// reader of the report would act on at the tail, and above what a timer of a shared core misses by.
pub const LATE_NS: u64 = 1_000_000;
/// The spacing of runs that [`frames_per_run`] aims at: about what one wake-up and one system call cost on a shared core.
const RUN_SPACING_NS: u64 = 50_000;

/// The rate of one publisher.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rate {
    /// Messages per second.
    PerSecond(f64),
    /// As fast as buffers come back. Then a run's intended time is when it is built, and no run is ever late.
    Max,
}

impl Rate {
    /// This rate's part for one of `publishers`.
    #[must_use]
    pub fn part(self, publishers: usize) -> Self {
        match self {
            Self::PerSecond(rate) => Self::PerSecond(rate / f64::from(u32::try_from(publishers.max(1)).unwrap_or(1))),
            Self::Max => Self::Max,
        }
    }
}

/// Frames handed over together at this rate, at most `most`: the publisher's unit of arrival. A low rate sends each frame
/// alone; a high one sends runs, because an application that has that much to say has more than one frame to say.
#[must_use]
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "clamped to 1..=most before the cast")]
pub fn frames_per_run(rate: Rate, messages_per_frame: u32, most: u32) -> u32 {
    match rate {
        Rate::Max => most.max(1),
        Rate::PerSecond(rate) => {
            let frames = rate / f64::from(messages_per_frame.max(1)) * (RUN_SPACING_NS as f64 / SECOND_NS as f64);
            frames.ceil().clamp(1.0, f64::from(most.max(1))) as u32
        }
    }
}

/// The intended times of runs of equal size.
#[derive(Clone, Copy, Debug)]
pub struct Schedule {
    start_ns: u64,
    end_ns: u64,
    period_ns: f64,
    next: u64,
}

impl Schedule {
    /// Runs of `messages_per_run` from `start_ns` until before `end_ns`.
    #[must_use]
    pub fn new(rate: Rate, messages_per_run: u32, start_ns: u64, end_ns: u64) -> Self {
        let period_ns = match rate {
            Rate::PerSecond(rate) if rate > 0.0 => f64::from(messages_per_run) * SECOND_NS as f64 / rate,
            Rate::PerSecond(_) => f64::INFINITY,
            Rate::Max => 0.0,
        };
        Self { start_ns, end_ns, period_ns, next: 0 }
    }

    /// The intended time of the next run; `None` once the phase has no more.
    #[inline]
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "nanoseconds of one phase stay below 2^53, exact in an f64"
    )]
    pub fn next_due(&self) -> Option<u64> {
        let offset = if self.next == 0 { 0.0 } else { self.next as f64 * self.period_ns };
        let due = self.start_ns.saturating_add(offset as u64);
        (due < self.end_ns).then_some(due)
    }

    /// Takes the next run if its time has come: its intended time. After the end of the phase nothing is taken any more;
    /// what was missed stays in [`Schedule::missed`].
    #[inline]
    pub fn take(&mut self, now_ns: u64) -> Option<u64> {
        let due = self.next_due()?;
        if now_ns < due || now_ns >= self.end_ns {
            return None;
        }
        self.next += 1;
        Some(if self.period_ns > 0.0 { due } else { now_ns })
    }

    /// Whether the phase is over at `now_ns`.
    #[must_use]
    pub fn over(&self, now_ns: u64) -> bool {
        now_ns >= self.end_ns
    }

    /// Runs that were planned before the end and not taken: what the generator failed to offer.
    #[must_use]
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        clippy::cast_precision_loss,
        reason = "as in next_due"
    )]
    pub fn missed(&self) -> u64 {
        if self.period_ns <= 0.0 || self.end_ns <= self.start_ns {
            return 0;
        }
        let span = (self.end_ns - self.start_ns) as f64;
        let planned = if self.period_ns.is_finite() { (span / self.period_ns).ceil() as u64 } else { 1 };
        planned.saturating_sub(self.next)
    }
}

#[cfg(test)]
mod tests {
    use super::{Rate, Schedule, frames_per_run};
    use crate::clock::SECOND_NS;
    use proptest::prelude::*;

    #[test]
    fn a_stall_does_not_move_the_intended_times() {
        let mut schedule = Schedule::new(Rate::PerSecond(1000.0), 1, 0, SECOND_NS);
        assert_eq!(schedule.take(0), Some(0));
        assert_eq!(schedule.take(0), None);
        // Half a second passes in which nothing could be sent: every missed time is still due, at its own time.
        let late: Vec<u64> = std::iter::from_fn(|| schedule.take(SECOND_NS / 2)).collect();
        assert_eq!(late.len(), 500);
        assert_eq!(late[0], 1_000_000);
        assert_eq!(late[499], 500_000_000);
    }

    #[test]
    fn what_was_not_offered_in_time_is_counted_and_not_sent() {
        let mut schedule = Schedule::new(Rate::PerSecond(1000.0), 10, 0, SECOND_NS);
        assert!(schedule.take(0).is_some());
        assert_eq!(schedule.take(SECOND_NS), None);
        assert_eq!(schedule.missed(), 99);
    }

    #[test]
    fn a_maximum_rate_is_never_late_and_ends() {
        let mut schedule = Schedule::new(Rate::Max, 22, 100, 200);
        assert_eq!(schedule.take(99), None);
        assert_eq!(schedule.take(150), Some(150));
        assert_eq!(schedule.take(150), Some(150));
        assert_eq!(schedule.take(200), None);
        assert_eq!(schedule.missed(), 0);
    }

    #[test]
    fn runs_grow_with_the_rate() {
        assert_eq!(frames_per_run(Rate::PerSecond(100_000.0), 22, 44), 1);
        assert_eq!(frames_per_run(Rate::PerSecond(5_000_000.0), 22, 44), 12);
        assert_eq!(frames_per_run(Rate::PerSecond(1e9), 22, 44), 44);
        assert_eq!(frames_per_run(Rate::Max, 22, 44), 44);
    }

    proptest! {
        #[test]
        fn taken_and_missed_add_up_to_the_rate(
            rate in 1.0f64..1e6, per_run in 1u32..1000, steps in proptest::collection::vec(1u64..20_000_000, 1..100),
        ) {
            let end = SECOND_NS;
            let mut schedule = Schedule::new(Rate::PerSecond(rate), per_run, 0, end);
            let (mut now, mut taken, mut last) = (0, 0u64, None);
            for step in steps {
                while let Some(due) = schedule.take(now) {
                    prop_assert!(due <= now && Some(due) > last, "due in order, never early");
                    last = Some(due);
                    taken += 1;
                }
                now += step;
            }
            let planned = (rate / f64::from(per_run)).ceil();
            prop_assert!(((taken + schedule.missed()) as f64 - planned).abs() <= 1.0);
        }
    }
}
