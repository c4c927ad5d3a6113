//! Which events a subscriber has, by the identity in the provenance: so that a message that a node forwards a second time after a
//! restart counts once.

use std::collections::BTreeMap;
use tachyon_wire::frame::Provenance;

/// Frames of one session and shard that are told apart, from the newest back: as many as a publisher may have unsettled.
const FRAMES: u32 = 1_024;

/// What is known of a session in a shard.
#[derive(Debug)]
struct Window {
    epoch: u32,
    newest: u32,
    /// Messages of a frame, a bit each, at the frame's number modulo the window.
    frames: Vec<[u64; 4]>,
}

/// The events of one subscriber.
#[derive(Debug, Default)]
pub struct Events {
    windows: BTreeMap<(u32, u16), Window>,
}

impl Events {
    /// Whether this event comes for the first time. What is older than the window came before: publishers send nothing so old.
    pub fn is_new(&mut self, event: &Provenance) -> bool {
        let (epoch, id, index) = (event.epoch.get(), event.frame_id.get(), event.index.get());
        let fresh = || Window { epoch, newest: 0, frames: vec![[0; 4]; FRAMES as usize] };
        let window = self.windows.entry((event.session_id.get(), event.shard.get())).or_insert_with(fresh);
        if epoch > window.epoch {
            *window = fresh();
        }
        if epoch < window.epoch || window.newest.saturating_sub(id) >= FRAMES {
            return false;
        }
        if id > window.newest {
            for gone in window.newest.max(id.saturating_sub(FRAMES)) + 1..=id {
                window.frames[(gone % FRAMES) as usize] = [0; 4];
            }
            window.newest = id;
        }
        let Some(word) = window.frames[(id % FRAMES) as usize].get_mut(usize::from(index) / 64) else { return true };
        let bit = 1 << (index % 64);
        let is_new = *word & bit == 0;
        *word |= bit;
        is_new
    }
}

#[cfg(test)]
mod tests {
    use super::Events;
    use std::collections::BTreeSet;
    use tachyon_wire::frame::Provenance;

    fn event(epoch: u32, frame_id: u32, index: u16) -> Provenance {
        Provenance {
            session_id: 9.into(),
            epoch: epoch.into(),
            frame_id: frame_id.into(),
            shard: 1.into(),
            index: index.into(),
        }
    }

    #[test]
    fn an_event_is_new_once() {
        let mut events = Events::default();
        let mut seen = BTreeSet::new();
        let mut state = 1_u32;
        for step in 0..40_000_u32 {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            let id = (step / 8 + 1).saturating_sub(state >> 24).max(1);
            let index = u16::try_from(state >> 8 & 0xff).unwrap();
            assert_eq!(events.is_new(&event(1, id, index)), seen.insert((id, index)), "frame {id}, message {index}");
        }
        assert!(events.is_new(&event(2, 1, 0)) && !events.is_new(&event(2, 1, 0)));
        assert!(!events.is_new(&event(1, 5_000, 0)), "an epoch that is over");
    }
}
