//! Ticks of the node's clock as times of day, by the clock records of the log.

use super::{failed, shards::Shard};
use crate::failure::Failure;
use tachyon_log::{Found, Owned, Reader, Record};

const SECOND_NS: u64 = 1_000_000_000;
const DAY_SECONDS: u64 = 86_400;

/// What the last clock record said.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Clock {
    /// A tick, and the Unix nanoseconds at it.
    at: Option<(u64, u64)>,
}

impl Clock {
    /// Learns from a record if it is one of the clock.
    pub(crate) fn learn(&mut self, record: &Owned) {
        if let Some(Record::Clock(clock)) = Record::read(&record.raw()) {
            self.at = Some((record.tick, clock.unix_ns.get()));
        }
    }

    /// Unix nanoseconds at a tick; nothing where no clock record was seen. A record can be a little older than the clock
    /// record before it, because a worker stamps it before the log does.
    pub(crate) fn unix_ns(&self, tick: u64) -> Option<u64> {
        let (known, unix_ns) = self.at?;
        Some(match tick.checked_sub(known) {
            Some(later) => unix_ns.saturating_add(later),
            None => unix_ns.saturating_sub(known - tick),
        })
    }

    /// As it stood before a record: by the last clock record before it, searched backwards segment by segment.
    pub(crate) fn before(shard: &Shard, sequence: u64) -> Result<Self, Failure> {
        let segments = shard.reader(0)?.segments().to_vec();
        let mut end = sequence;
        for first in segments.iter().rev().filter(|first| **first < sequence) {
            let mut clock = Self::default();
            let mut reader: Reader<_> = shard.reader(*first)?.until(end);
            while let Some(found) = reader.read().map_err(failed(&shard.path))? {
                if let Found::Record(record) = found {
                    clock.learn(&record);
                }
            }
            if clock.at.is_some() {
                return Ok(clock);
            }
            end = *first;
        }
        Ok(Self::default())
    }
}

/// A time of day as RFC 3339 has it, in UTC, with nanoseconds.
pub(crate) fn rfc3339(unix_ns: u64) -> String {
    let (seconds, ns) = (unix_ns / SECOND_NS, unix_ns % SECOND_NS);
    let (days, second) = (seconds / DAY_SECONDS, seconds % DAY_SECONDS);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{ns:09}Z")
}

/// Year, month and day of a day counted from 1970-01-01. Counts from 0000-03-01, so that leap days are last in their year
/// and months have a fixed pattern of lengths (Howard Hinnant, "chrono-compatible low-level date algorithms").
const fn date(days: u64) -> (u64, u64, u64) {
    let days = days + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400;
    (if month <= 2 { year + 1 } else { year }, month, day)
}

#[cfg(test)]
mod tests {
    use super::{Clock, rfc3339};

    #[test]
    fn times_are_those_of_the_calendar() {
        for (seconds, text) in [
            (0, "1970-01-01T00:00:00"),
            (951_782_400, "2000-02-29T00:00:00"),
            (951_868_800, "2000-03-01T00:00:00"),
            (1_767_225_599, "2025-12-31T23:59:59"),
            (4_107_542_400, "2100-03-01T00:00:00"),
        ] {
            assert_eq!(rfc3339(seconds * 1_000_000_000 + 7), format!("{text}.000000007Z"));
        }
    }

    #[test]
    fn ticks_before_the_clock_record_are_earlier() {
        let clock = Clock { at: Some((1_000, 5_000)) };
        assert_eq!((clock.unix_ns(1_500), clock.unix_ns(900)), (Some(5_500), Some(4_900)));
        assert_eq!(Clock::default().unix_ns(1), None);
    }
}
