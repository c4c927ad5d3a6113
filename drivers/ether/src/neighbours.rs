//! A worker's own table from destination addresses to ready headers.

use crate::Hop;
use alloc::{boxed::Box, vec};

/// A destination address and the headers towards it.
type Entry = ([u8; 16], Hop);

/// Destination addresses and their headers, as many as were asked for and no more. Open addressing with at least half of
/// the slots empty; entries move back when one before them is removed, so nothing piles up over months. Addresses come
/// from subscriptions and not from packets, so nobody can choose them to collide.
#[derive(Clone, Debug)]
pub struct Neighbours {
    slots: Box<[Option<Entry>]>,
    capacity: usize,
    count: usize,
    /// Where the last search ended: frames come in runs to one destination.
    last: usize,
}

impl Neighbours {
    /// A table for this many destinations. Allocates; nothing after it does.
    #[must_use]
    pub fn new(capacity: usize) -> Self {
        let slots = vec![None; (capacity.max(1) * 2).next_power_of_two()].into_boxed_slice();
        Self { slots, capacity, count: 0, last: 0 }
    }

    /// Sets the headers towards an address (as in `Endpoint::ip`); false if there is no room for another one.
    pub fn set(&mut self, to: [u8; 16], hop: Hop) -> bool {
        let at = self.search(&to);
        let Some(slot) = self.slots.get_mut(at) else { return false };
        if slot.is_none() {
            if self.count == self.capacity {
                return false;
            }
            self.count += 1;
        }
        *slot = Some((to, hop));
        true
    }

    /// Forgets an address.
    pub fn remove(&mut self, to: &[u8; 16]) {
        let mut hole = self.search(to);
        if self.slots[hole].take().is_none() {
            return;
        }
        self.count -= 1;
        // Whoever was pushed past the hole by a collision moves back into it, or a search would end there too early.
        let mask = self.slots.len() - 1;
        let mut next = (hole + 1) & mask;
        while let Some((key, _)) = &self.slots[next] {
            let home = self.home(key);
            if next.wrapping_sub(home) & mask >= next.wrapping_sub(hole) & mask {
                self.slots[hole] = self.slots[next].take();
                hole = next;
            }
            next = (next + 1) & mask;
        }
    }

    /// The headers towards an address.
    #[inline]
    pub fn get(&mut self, to: &[u8; 16]) -> Option<&Hop> {
        if !matches!(self.slots.get(self.last), Some(Some((key, _))) if key == to) {
            self.last = self.search(to);
        }
        self.slots.get(self.last)?.as_ref().map(|(_, hop)| hop)
    }

    /// The same for whoever only looks: the address that was asked for last is not remembered.
    #[inline]
    #[must_use]
    pub fn peek(&self, to: &[u8; 16]) -> Option<&Hop> {
        let at = match self.slots.get(self.last) {
            Some(Some((key, _))) if key == to => self.last,
            _ => self.search(to),
        };
        self.slots.get(at)?.as_ref().map(|(_, hop)| hop)
    }

    /// Where an address is, or the empty slot where it would be.
    #[inline]
    fn search(&self, to: &[u8; 16]) -> usize {
        let mask = self.slots.len() - 1;
        let mut at = self.home(to);
        // Ends: at least half of the slots are empty.
        while let Some(Some((key, _))) = self.slots.get(at) {
            if key == to {
                break;
            }
            at = (at + 1) & mask;
        }
        at
    }

    #[inline]
    fn home(&self, to: &[u8; 16]) -> usize {
        let bits = u128::from_ne_bytes(*to);
        // The low and the high half of the address, mixed by the golden ratio as in Fibonacci hashing.
        #[expect(clippy::cast_possible_truncation, reason = "the halves")]
        let (low, high) = (bits as u64, (bits >> 64) as u64);
        let mixed = (high ^ low.rotate_left(29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        (mixed >> 32) as usize & (self.slots.len() - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::Neighbours;
    use crate::{Hop, Interface, Network, address_bytes};
    use alloc::collections::BTreeMap;
    use arrayvec::ArrayVec;
    use core::net::{IpAddr, Ipv4Addr};
    use proptest::prelude::*;

    fn hop(port: u16) -> Hop {
        let ip: IpAddr = Ipv4Addr::new(192, 0, 2, 1).into();
        let networks: ArrayVec<_, 8> = [Network { ip, prefix: 24, gateway: None }].into_iter().collect();
        let mac = [0, 0, 0x5e, 0, 0x53, 1];
        let interface = Interface { mac, vlan: None, networks, base_port: 24_640, shard_count: 1, mtu: 1500 };
        Hop::new(&interface, port, mac, ip).unwrap()
    }

    proptest! {
        /// Few slots and many operations, so that chains of collisions grow, wrap around and lose their middles.
        #[test]
        fn behaves_like_a_map_with_limited_room(operations in proptest::collection::vec((0u8..24, 0u8..3, any::<u16>()), 0..400)) {
            const CAPACITY: usize = 12;
            let (mut table, mut model) = (Neighbours::new(CAPACITY), BTreeMap::new());
            let key = |number: u8| address_bytes(Ipv4Addr::new(192, 0, 2, number).into());
            for (number, what, port) in operations {
                match what {
                    0 => {
                        table.remove(&key(number));
                        model.remove(&number);
                    }
                    _ => {
                        let room = model.len() < CAPACITY || model.contains_key(&number);
                        prop_assert_eq!(table.set(key(number), hop(port)), room);
                        if room {
                            model.insert(number, port);
                        }
                    }
                }
                for number in 0..24 {
                    prop_assert_eq!(table.get(&key(number)).map(Hop::port), model.get(&number).copied());
                }
            }
        }
    }
}
