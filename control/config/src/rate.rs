//! Rates as people write them: `1000/s`, `50/m`, `2M/s`.

use std::str::FromStr;
use tachyon_wire::image::{BUCKET_SPAN_MAX, TICKS_PER_NS};

/// So many messages in so much time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Messages, at least 1.
    pub messages: u64,
    /// In this many nanoseconds.
    pub per_ns: u64,
}

/// A rate and how many messages may come at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// The rate.
    pub rate: Rate,
    /// At least 1.
    pub burst: u32,
}

const SECOND_NS: u64 = 1_000_000_000;
/// The clock of a bucket counts sixteenths of a nanosecond, so this is one message per tick.
const PER_SECOND_MAX: u64 = SECOND_NS * TICKS_PER_NS;

impl FromStr for Rate {
    type Err = String;

    /// The error is what is wrong with it.
    fn from_str(text: &str) -> Result<Self, String> {
        let form = || format!("`{text}` is not a rate");
        let (count, unit) = text.split_once('/').ok_or_else(form)?;
        let per_ns = match unit {
            "s" => SECOND_NS,
            "m" => 60 * SECOND_NS,
            "h" => 3600 * SECOND_NS,
            _ => return Err(format!("`{unit}` is not a unit of time")),
        };
        let (digits, factor) = match count.as_bytes().last() {
            Some(b'k') => (&count[..count.len() - 1], 1_000),
            Some(b'M') => (&count[..count.len() - 1], 1_000_000),
            Some(b'G') => (&count[..count.len() - 1], 1_000_000_000),
            _ => (count, 1),
        };
        if digits.is_empty() || !digits.bytes().all(|digit| digit.is_ascii_digit() || digit == b'_') {
            return Err(form());
        }
        let number: u64 = digits.replace('_', "").parse().map_err(|_| form())?;
        let messages = number.checked_mul(factor).ok_or_else(form)?;
        if messages == 0 {
            return Err("a rate of 0 would let nothing pass".to_owned());
        }
        if u128::from(messages) * u128::from(SECOND_NS) > u128::from(PER_SECOND_MAX) * u128::from(per_ns) {
            return Err(format!("`{text}` is above 16G/s, one message per tick of the bucket's clock"));
        }
        Ok(Self { messages, per_ns })
    }
}

impl Rate {
    /// How to write one, for messages.
    pub(crate) const HELP: &'static str =
        "write a whole number, optionally with k, M or G, then /s, /m (minute) or /h, such as \"1000/s\" or \"2M/s\"";

    /// The burst where none is given: what the rate allows in 100 ms, at least 1. Long enough for a publisher that wakes
    /// up ten times a second, short enough that nothing piles up unseen.
    #[must_use]
    pub fn default_burst(self) -> u32 {
        let tenth = u128::from(self.messages) * u128::from(SECOND_NS / 10) / u128::from(self.per_ns);
        u32::try_from(tenth).unwrap_or(u32::MAX).clamp(1, self.burst_max())
    }

    /// The largest burst that the bucket's clock can hold with this rate, at least 1.
    #[must_use]
    pub fn burst_max(self) -> u32 {
        let period = (u128::from(self.per_ns) * u128::from(TICKS_PER_NS)).div_ceil(u128::from(self.messages.max(1)));
        u32::try_from(u128::from(BUCKET_SPAN_MAX) / period.max(1)).unwrap_or(u32::MAX).max(1)
    }
}
