//! Numbers for sessions: unique over both directions of a node, and not used again soon.
//!
//! From the low end: the slot in the node's session table, two bits for what kind of session it is, and how often the
//! slot was given out. A slot that was given out least often goes first, so with 16,384 slots a number comes back after
//! 65,536 others in the same slot have ended.

use std::collections::{BTreeMap, BTreeSet};

/// What a session is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Publisher = 0,
    Reply = 1,
    Egress = 2,
}

/// The free slots of a node's session table.
#[derive(Debug)]
pub(crate) struct SessionIds {
    slot_bits: u32,
    /// Generation and slot, so that the first one was given out least often.
    free: BTreeSet<(u32, u32)>,
}

impl SessionIds {
    /// For a table of `sessions_max` slots, a power of two. Slot 0 is never given out, since no session is numbered 0.
    #[must_use]
    pub(crate) fn new(
        sessions_max: u32,
        generations: &BTreeMap<u32, u32>,
        taken: impl IntoIterator<Item = u32>,
    ) -> Self {
        let slot_bits = sessions_max.trailing_zeros();
        let generation = |slot: u32| generations.get(&slot).copied().unwrap_or(0);
        let mut free: BTreeSet<(u32, u32)> = (1..sessions_max).map(|slot| (generation(slot), slot)).collect();
        for session_id in taken {
            let slot = session_id & (sessions_max - 1);
            free.remove(&(generation(slot), slot));
        }
        Self { slot_bits, free }
    }

    /// Takes the slot that was given out least often: session id, reply session id, slot and its new generation. `None`
    /// if all are in use.
    pub(crate) fn take(&mut self) -> Option<(u32, u32, u32, u32)> {
        let (generation, slot) = self.free.pop_first()?;
        let next = generation.wrapping_add(1);
        let session_id = number(next, Kind::Publisher, slot, self.slot_bits);
        let reply_session_id = number(next, Kind::Reply, slot, self.slot_bits);
        Some((session_id, reply_session_id, slot, next))
    }

    /// Gives a slot back.
    pub(crate) fn give_back(&mut self, session_id: u32, generation: u32) {
        self.free.insert((generation, self.slot(session_id)));
    }

    /// The slot of a session.
    #[must_use]
    pub(crate) const fn slot(&self, session_id: u32) -> u32 {
        session_id & ((1 << self.slot_bits) - 1)
    }

    /// The egress session that is given out as number `count`. Never takes a slot: the node does not look it up.
    #[must_use]
    pub(crate) const fn egress(&self, count: u64) -> u32 {
        #[expect(clippy::cast_possible_truncation, reason = "wraps after 2³⁰ egress sessions, as meant")]
        let count = count as u32;
        let slot = count & ((1 << self.slot_bits) - 1);
        number(count >> self.slot_bits, Kind::Egress, slot, self.slot_bits)
    }
}

/// The bits of `generation` that do not fit fall out at the top.
const fn number(generation: u32, kind: Kind, slot: u32, slot_bits: u32) -> u32 {
    ((generation << 2) | kind as u32).wrapping_shl(slot_bits) | slot
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;

    #[test]
    fn ids_of_all_kinds_differ_and_carry_their_slot() {
        let mut ids = SessionIds::new(64, &BTreeMap::new(), []);
        let mut seen = HashSet::new();
        for _ in 0..63 {
            let (session, reply, slot, _) = ids.take().unwrap();
            assert_eq!(session & 63, slot);
            assert!(slot != 0 && seen.insert(session) && seen.insert(reply));
        }
        assert_eq!(ids.take(), None);
        assert!((0..1000).all(|count| seen.insert(ids.egress(count))));
    }

    #[test]
    fn an_id_does_not_come_back_soon() {
        let (mut ids, mut generations) = (SessionIds::new(64, &BTreeMap::new(), []), BTreeMap::new());
        let mut seen = HashSet::new();
        for _ in 0..10_000 {
            let (session, _, slot, generation) = ids.take().unwrap();
            assert!(seen.insert(session));
            generations.insert(slot, generation);
            ids.give_back(session, generation);
        }
        let mut reopened = SessionIds::new(64, &generations, []);
        assert!(seen.insert(reopened.take().unwrap().0), "a restart knows how often slots were given out");
    }

    #[test]
    fn slots_in_use_are_not_given_out_after_a_restart() {
        let mut ids = SessionIds::new(64, &BTreeMap::new(), []);
        let (session, _, slot, generation) = ids.take().unwrap();
        let mut reopened = SessionIds::new(64, &BTreeMap::from([(slot, generation)]), [session]);
        assert!((0..62).all(|_| reopened.take().is_some_and(|(.., other, _)| other != slot)));
        assert_eq!(reopened.take(), None);
    }
}
