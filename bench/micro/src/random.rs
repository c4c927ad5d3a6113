//! Random numbers that are the same everywhere, uniform and after Zipf's law.

/// SplitMix64: small, and the same everywhere.
#[derive(Clone, Debug)]
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    /// A number below `bound`.
    pub(crate) fn below(&mut self, bound: u32) -> u32 {
        u32::try_from(((self.next() >> 32) * u64::from(bound)) >> 32).unwrap_or(0)
    }

    /// A number in 0..1.
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }
}

/// Ranks 1 to `count` with probability proportional to `1 / rank^EXPONENT`, by rejection from the integral of that
/// function (Hörmann and Derflinger, 1996): exact, without a table, and hardly ever rejecting.
#[derive(Clone, Debug)]
pub(crate) struct Zipf {
    count: f64,
    integral_first: f64,
    integral_last: f64,
    accepted_at_once: f64,
}

/// As in most published measurements of key-value stores.
const EXPONENT: f64 = 0.99;

impl Zipf {
    pub(crate) fn new(count: u32) -> Self {
        Self {
            count: count.into(),
            integral_first: integral(1.5) - 1.0,
            integral_last: integral(f64::from(count) + 0.5),
            accepted_at_once: 2.0 - inverse(integral(2.5) - 2_f64.powf(-EXPONENT)),
        }
    }

    /// A rank.
    pub(crate) fn draw(&self, random: &mut Random) -> u32 {
        loop {
            let at = self.integral_last + random.unit() * (self.integral_first - self.integral_last);
            let x = inverse(at);
            let rank = x.round().clamp(1.0, self.count);
            if rank - x <= self.accepted_at_once || at >= integral(rank + 0.5) - rank.powf(-EXPONENT) {
                #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "1 to a u32")]
                return rank as u32;
            }
        }
    }
}

/// The integral of `x^-EXPONENT`.
fn integral(x: f64) -> f64 {
    (x.powf(1.0 - EXPONENT) - 1.0) / (1.0 - EXPONENT)
}

fn inverse(y: f64) -> f64 {
    (y * (1.0 - EXPONENT) + 1.0).powf(1.0 / (1.0 - EXPONENT))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranks_come_as_often_as_the_law_says() {
        const COUNT: u32 = 1_000;
        const DRAWS: u32 = 2_000_000;
        let (zipf, mut random) = (Zipf::new(COUNT), Random(7));
        let mut seen = vec![0_u32; COUNT as usize + 1];
        (0..DRAWS).for_each(|_| seen[zipf.draw(&mut random) as usize] += 1);
        let whole: f64 = (1..=COUNT).map(|rank| f64::from(rank).powf(-EXPONENT)).sum();
        for rank in [1, 2, 3, 4, 10, 100, 500, COUNT] {
            let expected = f64::from(DRAWS) * f64::from(rank).powf(-EXPONENT) / whole;
            let off = (f64::from(seen[rank as usize]) - expected).abs();
            assert!(off < 5.0 * expected.sqrt(), "rank {rank}: {} and not {expected:.0}", seen[rank as usize]);
        }
        assert_eq!(seen[0], 0);
    }
}
