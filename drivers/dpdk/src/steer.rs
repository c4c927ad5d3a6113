//! Which queue a packet arrives on: the one of the worker that owns its shard.
//!
//! A shard is a UDP port, so the device is told by flow rules, one per shard and address family. Where it has none, its hash
//! does the same: the receive-side scaling hash is linear in the packet's bits, and with a key of a single set bit the low
//! seven bits of the hash are the low seven bits of the destination port, in reverse, whatever the rest of the packet holds.
//! The table from hash to queue then is a table from shard to queue. Devices with neither spread as they like, and what
//! arrives at the wrong worker is counted there as such.

use crate::eal::error_of;
use core::{mem, ptr};
use tachyon_driver_dpdk_sys as sys;

/// Bytes of the key that every device with such a hash takes.
pub(crate) const KEY_BYTES: usize = 40;
/// Bits of the hash that choose an entry of the table; larger tables repeat it.
const HASH_BITS: u32 = 7;
/// The key bit for IPv4, counted from the first: the hash of input bit i has key bits i to i + 31. Of an IPv4 packet the input is
/// 4 + 4 bytes of addresses and 2 + 2 of ports, so the last port bit is number 95; with bit 120 set it moves hash bit 6, the one
/// seven places before it hash bit 0, and no other input bit moves any of them.
const KEY_BIT_V4: usize = 120;
/// The same for IPv6, whose input is 24 bytes longer.
const KEY_BIT_V6: usize = KEY_BIT_V4 + 24 * 8;

/// Which address families the port speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Families {
    pub(crate) v4: bool,
    pub(crate) v6: bool,
}

/// The hash key that looks at the destination port alone. With both families the IPv6 hash has seven bits of the source address
/// mixed in (bits 89 to 95): the two key bits cannot be kept apart.
pub(crate) fn key(families: Families) -> [u8; KEY_BYTES] {
    let mut key = [0; KEY_BYTES];
    let mut set = |bit: usize| key[bit / 8] |= 0x80 >> (bit % 8);
    if families.v4 || !families.v6 {
        set(KEY_BIT_V4);
    }
    if families.v6 {
        set(KEY_BIT_V6);
    }
    key
}

/// The queue of each shard, and where shard 0 is.
#[derive(Clone, Debug)]
pub(crate) struct Owners {
    pub(crate) base_port: u16,
    /// By shard.
    pub(crate) queues: Vec<u16>,
}

impl Owners {
    /// The queue for a hash value.
    fn of_hash(&self, hash: u32) -> u16 {
        let low_port_bits = u16::try_from(hash.reverse_bits() >> (32 - HASH_BITS)).unwrap_or(0);
        let low = (1u16 << HASH_BITS) - 1;
        let shard = low_port_bits.wrapping_sub(self.base_port) & low;
        // What is no shard of ours may go anywhere.
        self.queues.get(usize::from(shard)).copied().unwrap_or(0)
    }
}

/// Tells the device by its hash; the port is configured, and its hash with [`key`]. Returns why not.
pub(crate) fn by_hash(port: u16, table: u16, owners: &Owners) -> Result<(), String> {
    let group = sys::RTE_ETH_RETA_GROUP_SIZE as usize;
    if usize::from(table) < group {
        return Err("the device has no table from hash to queue".to_owned());
    }
    let mut entries: Vec<sys::rte_eth_rss_reta_entry64> =
        vec![sys::rte_eth_rss_reta_entry64::default(); usize::from(table).div_ceil(group)];
    for (index, entry) in (0u32..).zip(0..usize::from(table)) {
        let (to, place) = (&mut entries[entry / group], entry % group);
        to.mask |= 1 << place;
        to.reta[place] = owners.of_hash(index & ((1 << HASH_BITS) - 1));
    }
    // SAFETY: as many groups as the table has entries for.
    let result = unsafe { sys::rte_eth_dev_rss_reta_update(port, entries.as_mut_ptr(), table) };
    if result == 0 { Ok(()) } else { Err(format!("the table from hash to queue was refused: {}", error_of(result))) }
}

/// Tells the device by flow rules; the port is started. All or none.
pub(crate) fn by_rules(port: u16, families: Families, owners: &Owners) -> Result<(), String> {
    let asked = [(false, families.v4), (true, families.v6)].into_iter().filter(|(_, spoken)| *spoken);
    let all = asked.flat_map(|(v6, _)| (0u16..).zip(&owners.queues).map(move |(shard, queue)| (v6, shard, *queue)));
    // Drivers may keep rules over a stop, and then refuse them as doubles.
    // SAFETY: no other thread changes rules.
    unsafe { sys::rte_flow_flush(port, ptr::null_mut()) };
    for (v6, shard, queue) in all {
        rule(port, v6, owners.base_port + shard, queue).inspect_err(|_| {
            // SAFETY: no other thread changes rules.
            unsafe { sys::rte_flow_flush(port, ptr::null_mut()) };
        })?;
    }
    Ok(())
}

fn rule(port: u16, v6: bool, destination_port: u16, queue: u16) -> Result<(), String> {
    let item = |kind, spec, mask| sys::rte_flow_item { type_: kind, spec, last: ptr::null(), mask };
    // SAFETY: all of these are plain numbers and pointers, for which zeros are values; what they point to outlives the call.
    unsafe {
        let (mut spec, mut mask): (sys::rte_flow_item_udp, sys::rte_flow_item_udp) = mem::zeroed();
        spec.hdr.dst_port = destination_port.to_be();
        mask.hdr.dst_port = u16::MAX;
        let network = if v6 { sys::RTE_FLOW_ITEM_TYPE_IPV6 } else { sys::RTE_FLOW_ITEM_TYPE_IPV4 };
        let pattern = [
            item(sys::RTE_FLOW_ITEM_TYPE_ETH, ptr::null(), ptr::null()),
            item(network, ptr::null(), ptr::null()),
            item(sys::RTE_FLOW_ITEM_TYPE_UDP, (&raw const spec).cast(), (&raw const mask).cast()),
            item(sys::RTE_FLOW_ITEM_TYPE_END, ptr::null(), ptr::null()),
        ];
        let to = sys::rte_flow_action_queue { index: queue };
        let action = |kind, conf| sys::rte_flow_action { type_: kind, conf };
        let actions = [
            action(sys::RTE_FLOW_ACTION_TYPE_QUEUE, (&raw const to).cast()),
            action(sys::RTE_FLOW_ACTION_TYPE_END, ptr::null()),
        ];
        let mut attributes: sys::rte_flow_attr = mem::zeroed();
        attributes.set_ingress(1);
        let mut error: sys::rte_flow_error = mem::zeroed();
        let made =
            sys::rte_flow_create(port, &raw const attributes, pattern.as_ptr(), actions.as_ptr(), &raw mut error);
        if !made.is_null() {
            return Ok(());
        }
        let said = if error.message.is_null() {
            "the device has none".to_owned()
        } else {
            core::ffi::CStr::from_ptr(error.message).to_string_lossy().into_owned()
        };
        Err(format!("flow rules were refused: {said}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The hash as the standard describes it: for each set bit of the input, the 32 key bits from there on.
    fn toeplitz(key: &[u8], input: &[u8]) -> u32 {
        let bit = |bytes: &[u8], at: usize| bytes.get(at / 8).is_some_and(|byte| byte & (0x80 >> (at % 8)) != 0);
        let window = |at: usize| (0..32).fold(0u32, |window, i| window << 1 | u32::from(bit(key, at + i)));
        (0..input.len() * 8).filter(|at| bit(input, *at)).fold(0, |hash, at| hash ^ window(at))
    }

    #[test]
    fn the_reference_hash_is_the_standards() {
        // The first IPv4 example of the published verification suite for this hash, with ports.
        let key = [
            0x6d, 0x5a, 0x56, 0xda, 0x25, 0x5b, 0x0e, 0xc2, 0x41, 0x67, 0x25, 0x3d, 0x43, 0xa3, 0x8f, 0xb0, 0xd0, 0xca,
            0x2b, 0xcb, 0xae, 0x7b, 0x30, 0xb4, 0x77, 0xcb, 0x2d, 0xa3, 0x80, 0x30, 0xf2, 0x0c, 0x6a, 0x42, 0xb7, 0x3b,
            0xbe, 0xac, 0x01, 0xfa,
        ];
        let input = [66, 9, 149, 187, 161, 142, 100, 80, 0x0a, 0xea, 0x06, 0xe6];
        assert_eq!(toeplitz(&key, &input), 0x51cc_c178);
    }

    #[test]
    fn a_key_of_one_bit_sends_each_shard_to_its_owner_whoever_sent_it() {
        // With both families IPv4 is steered as well as alone; what IPv6 then lacks is said at `key`.
        let cases = [(true, false, 8), (true, true, 8), (false, true, 32)];
        for (v4, v6, address_bytes) in cases {
            let families = Families { v4, v6 };
            let owners = Owners { base_port: 24_640, queues: (0..64).map(|shard| shard % 4).collect() };
            let key = key(families);
            for shard in 0..64u16 {
                for source in 0..200u32 {
                    let mut input: Vec<u8> = (0..address_bytes)
                        .map(|i| (source.wrapping_mul(2_654_435_761).rotate_left(i * 5)) as u8)
                        .collect();
                    input.extend((source as u16).wrapping_mul(40_503).to_be_bytes());
                    input.extend((24_640 + shard).to_be_bytes());
                    let entry = toeplitz(&key, &input) & 127;
                    assert_eq!(owners.of_hash(entry), shard % 4);
                }
            }
        }
    }
}
