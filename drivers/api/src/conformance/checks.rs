//! The checks, each with what it needs.

use super::{
    Abilities, Rig,
    hands::{Got, Hands, frame},
};
use crate::{BURST_MAX, RxBatch, RxQueue, TxBatch};
use alloc::{collections::BTreeMap, vec::Vec};
use core::time::Duration;
use std::time::Instant;

type Needs = fn(&Abilities) -> bool;
type Check<R> = fn(&mut Hands<R>);

pub(super) fn all<R: Rig>() -> Vec<(&'static str, Needs, Check<R>)> {
    let always: Needs = |_| true;
    alloc::vec![
        ("receives frames of every size byte for byte", always, receives_byte_for_byte),
        ("keeps the order within each shard", always, keeps_order_within_a_shard),
        ("hands a long burst over in several calls", always, hands_a_long_burst_over_in_several_calls),
        ("respects the free room of the batch", always, respects_free_room),
        ("receives several frames in one buffer", |abilities| abilities.batches, receives_batches),
        ("receives at every offset that lanes have", |abilities| abilities.offsets, receives_at_offsets),
        ("sends frames byte for byte to the right peer", always, sends_byte_for_byte),
        ("takes from the front and leaves the rest", always, takes_from_the_front),
        (
            "completes an impossible send with an error",
            |abilities| abilities.impossible.is_some(),
            completes_with_error
        ),
        ("goes on receiving after starvation and counts it", always, survives_starvation),
        ("waits no longer than it was told", always, waits_in_bounds),
        ("conserves everything in mixed traffic", always, conserves_in_mixed_traffic),
    ]
}

fn receives_byte_for_byte<R: Rig>(hands: &mut Hands<R>) {
    let max = hands.abilities.frame_bytes_max;
    for (number, shard) in hands.abilities.shards.clone().into_iter().enumerate() {
        let (mut offered, mut got) = (Vec::new(), Vec::new());
        for len in [1, 64, 65, 128, 192, max / 2, max - 1, max] {
            let one = frame((number * 10_000 + len) as u64, len);
            hands.rig.inject(shard, 0, &[&one]);
            offered.push(one);
            got.extend(hands.receive(1));
        }
        hands.assert_arrived(&offered, &got);
        assert!(got.iter().all(|one| one.shard == shard && one.together == 1), "shard {shard}: {got:?}");
    }
}

fn keeps_order_within_a_shard<R: Rig>(hands: &mut Hands<R>) {
    const FRAMES: u64 = 160;
    let shards = hands.abilities.shards.clone();
    let mut offered: BTreeMap<u16, Vec<Vec<u8>>> = BTreeMap::new();
    for number in 0..FRAMES {
        let shard = shards[usize::try_from(number).unwrap_or(0) % shards.len()];
        let one = frame(number, 64);
        hands.rig.inject(shard, 0, &[&one]);
        offered.entry(shard).or_default().push(one);
    }
    let got = hands.receive(160);
    for (shard, offered) in offered {
        let of_shard: Vec<Got> = got.iter().filter(|one| one.shard == shard).cloned().collect();
        hands.assert_arrived(&offered, &of_shard);
    }
}

fn hands_a_long_burst_over_in_several_calls<R: Rig>(hands: &mut Hands<R>) {
    let shard = hands.abilities.shards[0];
    let offered: Vec<Vec<u8>> = (0..2 * BURST_MAX + 10).map(|number| frame(number as u64, 128)).collect();
    for one in &offered {
        hands.rig.inject(shard, 0, &[one]);
    }
    let got = hands.receive(offered.len());
    hands.assert_arrived(&offered, &got);
}

fn respects_free_room<R: Rig>(hands: &mut Hands<R>) {
    let shard = hands.abilities.shards[0];
    let offered: Vec<Vec<u8>> = (0..BURST_MAX + 20).map(|number| frame(number as u64, 64)).collect();
    let mut batch = RxBatch::new();
    let (first, rest) = offered.split_at(5);
    for one in first {
        hands.rig.inject(shard, 0, &[one]);
    }
    let start = Instant::now();
    while batch.is_empty() && start.elapsed() < Duration::from_secs(1) {
        hands.rx(&mut batch);
    }
    for one in rest {
        hands.rig.inject(shard, 0, &[one]);
    }
    // `rx` checks each time that what was in the batch stays as it was.
    while !batch.is_full() && start.elapsed() < Duration::from_secs(2) {
        hands.rx(&mut batch);
    }
    if batch.is_full() {
        assert_eq!(hands.rx(&mut batch), 0, "a full batch has no room");
    }
    let mut got = hands.take_frames(&mut batch);
    got.extend(hands.receive(offered.len().saturating_sub(got.len())));
    hands.assert_arrived(&offered, &got);
}

fn receives_batches<R: Rig>(hands: &mut Hands<R>) {
    let shard = hands.abilities.shards[0];
    let most = (hands.abilities.frame_bytes_max / 64).min(16);
    let (mut offered, mut got) = (Vec::new(), Vec::new());
    for (count, stride, last) in [(2, 64, 64), (most, 64, 64), (3, 128, 64), (2, 192, 1), (2, 65, 33)] {
        let batch: Vec<Vec<u8>> = (0..count)
            .map(|place| frame((stride * 1000 + place) as u64, if place + 1 == count { last } else { stride }))
            .collect();
        let slices: Vec<&[u8]> = batch.iter().map(Vec::as_slice).collect();
        hands.rig.inject(shard, 0, &slices);
        let came = hands.receive(count);
        assert!(
            came.iter().all(|one| one.together == count),
            "{count} frames were sent together, and {came:?} arrived"
        );
        got.extend(came);
        offered.extend(batch);
    }
    hands.assert_arrived(&offered, &got);
}

fn receives_at_offsets<R: Rig>(hands: &mut Hands<R>) {
    // Behind Ethernet, IPv4 or IPv6, and UDP: 14 + 20 + 8 and 14 + 40 + 8, each with a VLAN tag of 4 bytes or without.
    let shard = hands.abilities.shards[0];
    let (mut offered, mut got) = (Vec::new(), Vec::new());
    for offset in [42_u32, 46, 62, 66] {
        let pair = [frame(u64::from(offset), 128), frame(u64::from(offset) + 100, 128)];
        for one in &pair {
            hands.rig.inject(shard, offset, &[one]);
        }
        let came = hands.receive(2);
        assert!(came.iter().all(|one| one.offset == offset), "offset {offset}: {came:?}");
        got.extend(came);
        offered.extend(pair);
    }
    hands.assert_arrived(&offered, &got);
}

fn sends_byte_for_byte<R: Rig>(hands: &mut Hands<R>) {
    let Abilities { shards, peers, frame_bytes_max: max, .. } = hands.abilities.clone();
    let mut expected = Vec::new();
    let mut number = 0;
    for offset in [0, 64, 42] {
        for lens in [&[64][..], &[max], &[1], &[64, 64, 64], &[128, 128, 64]] {
            let frames: Vec<Vec<u8>> = lens
                .iter()
                .map(|len| {
                    number += 1;
                    frame(number, *len)
                })
                .collect();
            let place = usize::try_from(number).unwrap_or(0);
            let (shard, destination) = (shards[place % shards.len()], peers[place % peers.len()]);
            expected.extend(frames.iter().map(|frame| (destination, shard, frame.clone())));
            let mut batch = TxBatch::new();
            batch.extend(hands.item(shard, destination, offset, &frames));
            assert_eq!(hands.tx(&mut batch), 1, "an idle queue takes an item");
            hands.settle(expected.len());
        }
    }
    for peer in peers {
        for shard in &shards {
            let of = |at: &(_, u16, Vec<u8>)| (at.0 == peer && at.1 == *shard).then(|| at.2.clone());
            let offered: Vec<Vec<u8>> = expected.iter().filter_map(of).collect();
            let sent: Vec<Got> = hands
                .sent
                .iter()
                .filter(|sent| sent.destination == peer && sent.shard == *shard)
                .map(|sent| Got { shard: *shard, offset: 0, together: 1, frame: sent.frame.clone() })
                .collect();
            hands.assert_arrived(&offered, &sent);
        }
    }
    assert!(hands.ended.values().all(Option::is_none), "{:?}", hands.ended);
}

fn takes_from_the_front<R: Rig>(hands: &mut Hands<R>) {
    let (shard, peer) = (hands.abilities.shards[0], hands.abilities.peers[0]);
    // Nobody receives or completes, so either the queue is full at some time or the pool is empty.
    let mut offered = 0;
    let mut batch = TxBatch::new();
    loop {
        while !batch.is_full() {
            let Some(item) = hands.item(shard, peer, 0, &[frame(offered, 64)]) else { break };
            offered += 1;
            batch.push(item);
        }
        let full = batch.is_full();
        let taken = hands.tx(&mut batch);
        if taken < BURST_MAX || !full || offered > 150 {
            break;
        }
    }
    // What was left goes once there is room.
    let start = Instant::now();
    while !batch.is_empty() {
        hands.tx(&mut batch);
        hands.collect_sent();
        hands.complete(7);
        assert!(start.elapsed() < Duration::from_secs(10), "{} items are never taken", batch.len());
    }
    let offered: Vec<Vec<u8>> = (0..offered).map(|number| frame(number, 64)).collect();
    hands.settle(offered.len());
    let sent: Vec<Got> = hands
        .sent
        .iter()
        .map(|sent| Got { shard: sent.shard, offset: 0, together: 1, frame: sent.frame.clone() })
        .collect();
    hands.assert_arrived(&offered, &sent);
    assert_eq!(hands.ended.len(), offered.len(), "each item completes once");
}

fn completes_with_error<R: Rig>(hands: &mut Hands<R>) {
    let (shard, peer) = (hands.abilities.shards[0], hands.abilities.peers[0]);
    let impossible = hands.abilities.impossible.unwrap_or(peer);
    let mut batch = TxBatch::new();
    let mut impossible_tokens = Vec::new();
    for number in 0..9 {
        let to = if number % 3 == 1 { impossible } else { peer };
        let Some(item) = hands.item(shard, to, 0, &[frame(number, 64)]) else { panic!("the pool is empty") };
        if to == impossible {
            impossible_tokens.push(item.token);
        }
        batch.push(item);
    }
    while !batch.is_empty() {
        hands.tx(&mut batch);
        hands.collect_sent();
        hands.complete(BURST_MAX);
    }
    hands.settle(6);
    for (token, error) in &hands.ended {
        assert_eq!(error.is_some(), impossible_tokens.contains(token), "token {token}: {error:?}");
    }
    assert!(hands.sent.iter().all(|sent| sent.destination == peer));
}

fn survives_starvation<R: Rig>(hands: &mut Hands<R>) {
    let shard = hands.abilities.shards[0];
    let mut hoard = Vec::new();
    while let Some(buffer) = hands.take_buffer() {
        hoard.push(buffer);
    }
    let before = hands.rig.parts().0.stats().starved;
    let (mut offered, mut in_vain) = (Vec::new(), 0);
    let mut kept = RxBatch::new();
    let mut got = Vec::new();
    while hands.rig.parts().0.stats().starved == before {
        assert!(in_vain < BURST_MAX, "{in_vain} frames found no free buffer, and the queue did not count it");
        let one = frame(offered.len() as u64, 64);
        hands.rig.inject(shard, 0, &[&one]);
        offered.push(one);
        in_vain = if hands.rx(&mut kept) == 0 { in_vain + 1 } else { 0 };
        // Out of the pool's reach again, so that it stays empty.
        got.extend(hands.take_frames(&mut kept));
        while let Some(buffer) = hands.take_buffer() {
            hoard.push(buffer);
        }
    }
    for buffer in hoard {
        hands.give_back(buffer);
    }
    let last = frame(offered.len() as u64, 64);
    hands.rig.inject(shard, 0, &[&last]);
    offered.push(last.clone());
    got.extend(hands.receive(offered.len() - got.len()));
    hands.assert_arrived(&offered, &got);
    assert!(hands.abilities.lossy || got.iter().any(|one| one.frame == last));
    // Also on a link that may lose, something comes again.
    let mut tries = 0;
    let mut again = Vec::new();
    while again.is_empty() {
        tries += 1;
        assert!(tries < 20, "nothing is received after starvation");
        hands.rig.inject(shard, 0, &[&frame(u64::MAX, 64)]);
        again = hands.receive(1);
    }
}

fn waits_in_bounds<R: Rig>(hands: &mut Hands<R>) {
    /// Far more than a wait of 1 ms may take, and far less than one that sleeps through.
    const LIMIT: Duration = Duration::from_secs(4);
    let wait = |hands: &mut Hands<R>, ns| {
        let start = Instant::now();
        hands.rig.parts().0.wait(ns);
        start.elapsed()
    };
    for ns in [0, 1_000, 1_000_000] {
        let waited = wait(hands, ns);
        assert!(waited < LIMIT, "told to wait {ns} ns, it waited {waited:?}");
    }
    if hands.abilities.lossy {
        return;
    }
    let one = frame(1, 64);
    hands.rig.inject(hands.abilities.shards[0], 0, &[&one]);
    let waited = wait(hands, 20_000_000_000);
    assert!(waited < LIMIT, "a frame was there, and it waited {waited:?}");
    let got = hands.receive(1);
    hands.assert_arrived(&[one], &got);
}

fn conserves_in_mixed_traffic<R: Rig>(hands: &mut Hands<R>) {
    const SEED: u64 = 0x5eed;
    let Abilities { shards, peers, .. } = hands.abilities.clone();
    let mut state = SEED;
    // splitmix64, as good as any and four lines.
    let mut draw = |below: usize| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (state ^ (state >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % below as u64).unwrap_or(0)
    };
    std::eprintln!("conformance: seed {SEED:#x}");
    let (mut number, mut waiting) = (0, 0);
    let (mut offered, mut got, mut sending) = (Vec::new(), Vec::new(), Vec::new());
    let (mut received, mut batch) = (RxBatch::new(), TxBatch::new());
    for _ in 0..4_000 {
        number += 1;
        match draw(8) {
            0 | 1 if waiting < 100 => {
                let one = frame(number, 8 + draw(184));
                hands.rig.inject(shards[0], 0, &[&one]);
                offered.push(one);
                waiting += 1;
            }
            0..=2 => {
                waiting -= hands.rx(&mut received).min(waiting);
            }
            3 => got.extend(hands.take_frames(&mut received)),
            4 | 5 if !batch.is_full() => {
                let frames = [frame(number, 64 + draw(128))];
                if let Some(item) = hands.item(shards[draw(shards.len())], peers[draw(peers.len())], 0, &frames) {
                    batch.push(item);
                    sending.extend(frames);
                }
            }
            4..=6 => {
                hands.tx(&mut batch);
                hands.collect_sent();
            }
            _ => {
                hands.complete(draw(BURST_MAX));
            }
        }
    }
    got.extend(hands.take_frames(&mut received));
    got.extend(hands.receive(offered.len() - got.len()));
    hands.assert_arrived(&offered, &got);
    while !batch.is_empty() {
        hands.tx(&mut batch);
        hands.collect_sent();
        hands.complete(BURST_MAX);
    }
    hands.settle(sending.len());
    assert_eq!(hands.ended.len(), sending.len(), "each item completes once");
    let mut sent: Vec<Vec<u8>> = hands.sent.iter().map(|sent| sent.frame.clone()).collect();
    let before = sent.len();
    sent.sort_unstable();
    sent.dedup();
    assert_eq!(sent.len(), before, "a frame was sent twice");
    sending.sort_unstable();
    assert!(sent.iter().all(|frame| sending.binary_search(frame).is_ok()), "a frame was sent that nobody gave");
    assert!(hands.abilities.lossy || sent.len() == sending.len());
}
