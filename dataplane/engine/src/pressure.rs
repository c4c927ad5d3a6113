//! How short of buffers a worker is, as a level that sheds classes.

/// Highest level: sheds every class.
pub const LEVEL_MAX: u8 = 4;

/// Sixteenths of the sendable buffers at or below which level 1, 2, 3 and 4 begin. The first is low enough that a node
/// which keeps up never sheds; the last leaves what acks and control need.
const LOW: [usize; 4] = [4, 3, 2, 1];

/// Watermarks on free buffers. A level is left only when one more sixteenth is free than where it began, so that it does
/// not flutter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pressure {
    level: u8,
}

impl Pressure {
    /// The level for this burst, given the free buffers and how many there are to send with.
    pub fn sample(&mut self, free: usize, sendable: usize) -> u8 {
        let reached = |extra: usize| {
            let level = LOW.iter().filter(|low| free * 16 <= sendable * (**low + extra)).count();
            u8::try_from(level).unwrap_or(LEVEL_MAX)
        };
        self.level = self.level.clamp(reached(0), reached(1));
        self.level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rises_at_the_low_mark_and_falls_past_the_high_one() {
        let mut pressure = Pressure::default();
        let levels: [u8; 8] = [160, 40, 41, 50, 51, 0, 20, 160].map(|free| pressure.sample(free, 160));
        assert_eq!(levels, [0, 1, 1, 1, 0, 4, 4, 0]);
    }
}
