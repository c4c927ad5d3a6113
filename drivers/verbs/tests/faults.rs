//! One fault at a time: what it costs, whom, and how it ends.

mod station;

use station::{MTU, Station, carry, connect, mapped};
use tachyon_driver_api::{BURST_MAX, RxQueue, TxQueue, conformance::CountingAllocator};
use tachyon_driver_verbs::{
    Details, RingSize,
    stub::{Faults, World},
};
use tachyon_wire::{Endpoint, Reason};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const US: Endpoint = Endpoint::v4([192, 0, 2, 1], 24_640);
const PEERS: [Endpoint; 2] = [Endpoint::v4([192, 0, 2, 2], 5_000), Endpoint::v4([192, 0, 2, 3], 5_000)];
const RING: Option<RingSize> = Some(RingSize { slots: 4, slot_bytes: MTU });

/// Us and two peers, connected with both.
fn three(ring: Option<RingSize>, reconnects_max: u32) -> (World, Station, [Station; 2]) {
    let world = World::new(1);
    let mut us = Station::new(&world, [192, 0, 2, 1], |config| config.reconnects_max = reconnects_max);
    let mut peers = [2, 3].map(|last| Station::new(&world, [192, 0, 2, last], |_| {}));
    for (peer, name) in peers.iter_mut().zip(PEERS) {
        connect((&mut us, 0, US), (peer, 0, name), (None, ring));
        peer.receive(0);
    }
    us.receive(0);
    (world, us, peers)
}

/// Receives and gives back, and says how many.
fn drain(station: &mut Station) -> usize {
    let mut count = 0;
    loop {
        let received = station.receive(0);
        if received.is_empty() {
            return count;
        }
        for one in received {
            count += 1;
            station.workers[0].pool.put(one.buffer);
        }
    }
}

fn counter(station: &Station, name: &str) -> u64 {
    station.ports.report().counters.iter().find(|(found, _)| found == name).map_or(0, |(_, count)| *count)
}

fn qpn(details: &Details) -> u32 {
    let (Details::Datagrams { qpn, .. } | Details::Connection { qpn, .. }) = details;
    *qpn
}

#[test]
fn a_failed_lane_is_its_own_matter_and_comes_back() {
    let (world, mut us, mut peers) = three(None, 5);
    let first = us.send(0, 1, PEERS[0], &[1; 64], 64);
    us.receive(0);
    assert_eq!(us.ended(0), [(first, None)]);
    // Peer 0 goes away: what is in flight to it ends by its reason, and what is behind that is flushed.
    peers[0].ports.reset(0, US).unwrap();
    let lost: Vec<u32> = (0..3).map(|_| us.send(0, 1, PEERS[0], &[2; 128], 64)).collect();
    let well = us.send(0, 1, PEERS[1], &[3; 64], 64);
    us.receive(0);
    let mut ended = us.ended(0);
    ended.sort_by_key(|(token, _)| *token);
    let flushed = Some(Reason::TxQpReset);
    let timeout = Some(Reason::TxTimeout);
    assert_eq!(ended, [(lost[0], timeout), (lost[1], flushed), (lost[2], flushed), (well, None)]);
    // New items for it end at once, and the other lane goes on.
    let (late, on) = (us.send(0, 1, PEERS[0], &[4; 64], 64), us.send(0, 1, PEERS[1], &[5; 64], 64));
    us.receive(0);
    assert_eq!(us.ended(0), [(late, flushed), (on, None)]);
    us.tick();
    assert_ne!(us.state_of(PEERS[0]), "connected");
    assert_eq!(us.state_of(PEERS[1]), "connected");
    drain(&mut peers[0]);
    // The cold side brings it back.
    for _ in 0..2_000 {
        for station in [&mut us, &mut peers[0]] {
            station.tick();
            drain(station);
        }
        carry(&mut us, &mut peers[0], US, None);
        if us.state_of(PEERS[0]) == "connected" {
            break;
        }
    }
    drain(&mut us);
    let back = us.send(0, 1, PEERS[0], &[6; 64], 64);
    us.receive(0);
    assert_eq!(us.ended(0), [(back, None)]);
    assert_eq!(drain(&mut peers[0]), 1);
    assert!(drop_all(us, &world));
}

fn drop_all(mut station: Station, _: &World) -> bool {
    let mut worker = station.workers.remove(0);
    station.ports.close(0, worker.queue, &mut worker.pool) == 0
}

#[test]
fn after_the_last_try_a_lane_is_reported_as_failed() {
    let (world, mut us, mut peers) = three(None, 3);
    peers[0].ports.reset(0, US).unwrap();
    us.send(0, 1, PEERS[0], &[1; 64], 64);
    let mut offers = 0;
    for _ in 0..20_000 {
        us.tick();
        drain(&mut us);
        us.ended(0);
        offers += us.ports.errands().len();
    }
    assert_eq!((us.state_of(PEERS[0]), offers), ("failed", 3), "nobody answered any of three offers");
    let lanes = us.ports.report().lanes;
    let lane = lanes.iter().find(|lane| lane.state == "failed").unwrap();
    assert!(lane.why.contains("3 tries") && lane.why.contains("does not answer"), "{}", lane.why);
    let late = us.send(0, 1, PEERS[0], &[4; 64], 64);
    assert_eq!(us.ended(0), [(late, Some(Reason::TxQpReset))]);
    // An operator may try once more.
    let ours = us.ports.offer(0, PEERS[0], None).unwrap();
    peers[0].tick();
    drain(&mut peers[0]);
    for _ in 0..1_000 {
        peers[0].tick();
        drain(&mut peers[0]);
    }
    let theirs = peers[0].ports.accept(0, US, &ours, None).unwrap();
    us.ports.connect(0, PEERS[0], &theirs).unwrap();
    drain(&mut us);
    let back = us.send(0, 1, PEERS[0], &[4; 64], 64);
    us.receive(0);
    assert_eq!(us.ended(0), [(back, None)]);
    assert!(drop_all(us, &world));
}

#[test]
fn what_was_sent_before_the_first_error_ended_well() {
    let world = World::new(1);
    let mut us = Station::new(&world, [192, 0, 2, 1], |config| config.signal_interval = 64);
    let mut peer = Station::new(&world, [192, 0, 2, 2], |config| config.receive_depth = 3);
    connect((&mut us, 0, US), (&mut peer, 0, PEERS[0]), (None, None));
    us.receive(0);
    world.set_faults(Faults { not_ready_max: 2, ..Faults::default() });
    // One burst with one completion at its end; the peer has memory for three.
    let mut batch = tachyon_driver_api::TxBatch::new();
    for token in 0..5 {
        let buffer = us.workers[0].pool.get().unwrap();
        batch.push(tachyon_driver_api::Transmit {
            buffer,
            offset: 0,
            len: 64,
            stride: 64,
            shard: 0,
            destination: PEERS[0],
            token,
        });
    }
    us.workers[0].queue.tx_burst(&mut batch);
    for _ in 0..5 {
        us.receive(0);
    }
    let reasons: Vec<Option<Reason>> = us.ended(0).into_iter().map(|(_, reason)| reason).collect();
    let (full, flushed) = (Some(Reason::TxCongestion), Some(Reason::TxQpReset));
    assert_eq!(reasons, [None, None, None, full, flushed], "no room at the peer, after all tries");
}

#[test]
fn a_subscriber_that_does_not_read_holds_back_nobody_else() {
    let (_, mut us, mut peers) = three(RING, 5);
    let mut ended = Vec::new();
    for _ in 0..300 {
        us.send(0, 0, PEERS[0], &[1; 64], 64);
        ended.extend(us.ended(0));
    }
    let congested = |ended: &[(u32, Option<Reason>)]| {
        ended.iter().filter(|(_, reason)| *reason == Some(Reason::TxCongestion)).count()
    };
    let held = us.ports.report().lanes.len() + congested(&ended);
    assert!(congested(&ended) >= 40, "256 wait, and the others were told at once: {held}");
    assert_eq!(counter(&us, "items_congested"), congested(&ended) as u64);
    let on = us.send(0, 0, PEERS[1], &[2; 64], 64);
    us.receive(0);
    ended.extend(us.ended(0));
    assert!(ended.contains(&(on, None)));
    assert_eq!(drain(&mut peers[1]), 1);
    // Once it reads, everything that waited arrives, through four slots.
    let mut arrived = 0;
    for _ in 0..1_000 {
        arrived += drain(&mut peers[0]);
        drain(&mut us);
        ended.extend(us.ended(0));
    }
    assert_eq!((arrived, ended.len()), (301 - 1 - congested(&ended), 301));
}

#[test]
fn a_peer_that_goes_while_its_ring_is_full_is_noticed() {
    let (_, mut us, mut peers) = three(RING, 5);
    for _ in 0..10 {
        us.send(0, 0, PEERS[0], &[1; 64], 64);
    }
    us.receive(0);
    assert_eq!(us.ended(0).len(), 4, "four slots");
    peers[0].ports.reset(0, US).unwrap();
    // Nothing is in flight, so only the probe can find out. How many turns a worker makes meanwhile means nothing.
    for _ in 0..10_000 {
        us.receive(0);
    }
    assert_eq!(us.ended(0), []);
    let mut ended = Vec::new();
    for _ in 0..500 {
        us.tick();
        us.receive(0);
        ended.extend(us.ended(0));
    }
    assert_eq!(ended.len(), 6);
    assert!(ended.iter().all(|(_, reason)| *reason == Some(Reason::TxTimeout)), "{ended:?}");
    us.tick();
    assert_ne!(us.state_of(PEERS[0]), "connected");
    assert_eq!(counter(&us, "items_stalled"), 1);
}

#[test]
fn a_queue_pair_that_the_device_forgets_ends_and_comes_back() {
    // What a peer's ring takes is all posted, so nothing is pending that could stall.
    let ring = Some(RingSize { slots: 128, slot_bytes: MTU });
    let (world, mut us, mut peers) = three(ring, 5);
    // Numbers are given in order, from 0x11: the datagram pairs of the three stations, then ours with each peer's.
    world.stand_still(0x14);
    let forgotten: Vec<u32> = (0..64).map(|_| us.send(0, 0, PEERS[0], &[1; 64], 64)).collect();
    let (mut ended, mut on, mut well) = (Vec::new(), 0, 0);
    for _ in 0..10_000 {
        us.tick();
        peers.iter_mut().for_each(Station::tick);
        on += 1;
        us.send(0, 0, PEERS[1], &[2; 64], 64);
        drain(&mut us);
        for (token, reason) in us.ended(0) {
            if forgotten.contains(&token) { ended.push(reason) } else { well += usize::from(reason.is_none()) }
        }
        peers.iter_mut().for_each(|peer| {
            drain(peer);
        });
        carry(&mut us, &mut peers[0], US, ring);
        if ended.len() == forgotten.len() && us.state_of(PEERS[0]) == "connected" {
            break;
        }
        if us.now_ns < 1_900_000_000 {
            assert_eq!(ended, [], "it may still try");
        }
    }
    assert_eq!(ended, vec![Some(Reason::TxQpReset); 64], "each has an end");
    assert_eq!(well, on, "the other lane goes on");
    assert!(us.now_ns < 4_000_000_000, "after {} ns", us.now_ns);
    assert_eq!((counter(&us, "pairs_silent"), us.state_of(PEERS[1])), (1, "connected"));
    drain(&mut us);
    let back = us.send(0, 0, PEERS[0], &[3; 64], 64);
    drain(&mut us);
    assert_eq!((us.ended(0), drain(&mut peers[0])), (vec![(back, None)], 1));
    assert!(us.is_whole(0));
}

#[test]
fn what_is_no_frame_is_refused_by_its_cause() {
    let world = World::new(1);
    let mut us = Station::new(&world, [192, 0, 2, 1], |_| {});
    let qpn = qpn(&us.ports.datagrams(0).unwrap());
    let mut good = [0; 40];
    good[20] = 0x45;
    good[32..36].copy_from_slice(&[192, 0, 2, 9]);
    us.receive(0);
    for (header, immediate, len, cause) in [
        (good, None, 64, "refused_no_immediate"),
        (good, Some(16), 64, "refused_bad_immediate"), // shard 16 of 16
        (good, Some(1 << 16), 64, "refused_bad_immediate"), // credits without a connection
        (good, Some(2 << 16), 64, "refused_bad_immediate"),
        (good, Some(9 << 16), 64, "refused_bad_immediate"),
        ([0; 40], Some(0), 64, "refused_bad_route_header"),
        (good, Some(0), 0, "refused_empty"),
    ] {
        let before = counter(&us, cause);
        assert!(world.inject(qpn, &header, immediate, &vec![7; len]));
        assert_eq!(drain(&mut us), 0);
        assert_eq!(counter(&us, cause), before + 1, "{cause} {immediate:?}: {:?}", us.ports.report().counters);
        assert!(us.is_whole(0));
    }
    assert!(world.inject(qpn, &good, Some(15), &[7; 64]));
    let got = us.receive(0).remove(0);
    assert_eq!((got.shard, got.source), (15, Endpoint::v4([192, 0, 2, 9], 99)));
    assert_eq!((got.offset % 64, got.len), (0, 64), "the frame stands on a line");
    assert_eq!(got.buffer.address().as_ptr() as usize % 64, 0);
    us.workers[0].pool.put(got.buffer);
}

#[test]
fn datagrams_of_ipv6_name_their_sender() {
    let world = World::new(1);
    let mut us = Station::new_at(&world, [0x20; 16], [192, 0, 2, 1], |_| {});
    let mut peer = Station::new_at(&world, [0x30; 16], [192, 0, 2, 2], |_| {});
    let (ours, theirs) = (us.ports.datagrams(0).unwrap(), peer.ports.datagrams(0).unwrap());
    us.ports.reach(0, theirs.endpoint(), &theirs).unwrap();
    us.receive(0);
    peer.receive(0);
    us.send(0, 3, theirs.endpoint(), &[1; 192], 128);
    us.receive(0);
    let got = peer.receive(0);
    assert_eq!(
        got.iter().map(|one| (one.len, one.source)).collect::<Vec<_>>(),
        [(128, ours.endpoint()), (64, ours.endpoint())]
    );
}

#[test]
fn every_connection_has_a_key_of_its_own_and_the_old_one_opens_nothing() {
    let (world, mut us, mut peers) = three(RING, 5);
    let ring = |details: &Details| match details {
        Details::Connection { ring: Some(ring), .. } => *ring,
        _ => panic!("no ring"),
    };
    let mut keys = std::collections::BTreeSet::new();
    for _ in 0..5 {
        peers[1].ports.disconnect(0, US).unwrap();
        us.ports.disconnect(0, PEERS[1]).unwrap();
        for _ in 0..10 {
            for station in [&mut us, &mut peers[1]] {
                station.tick();
                drain(station);
            }
        }
        let ours = us.ports.offer(0, PEERS[1], None).unwrap();
        let theirs = peers[1].ports.accept(0, US, &ours, RING).unwrap();
        assert!(keys.insert(ring(&theirs).rkey), "a key came twice");
        us.ports.connect(0, PEERS[1], &theirs).unwrap();
        drain(&mut us);
        drain(&mut peers[1]);
        us.send(0, 0, PEERS[1], &[1; 64], 64);
        drain(&mut us);
        assert_eq!((us.ended(0).len(), drain(&mut peers[1])), (1, 1));
    }
    // A peer that writes with a key of before is cut off, and nothing arrives.
    peers[0].ports.disconnect(0, US).unwrap();
    us.ports.disconnect(0, PEERS[0]).unwrap();
    for _ in 0..10 {
        for station in [&mut us, &mut peers[0]] {
            station.tick();
            drain(station);
        }
    }
    let ours = us.ports.offer(0, PEERS[0], None).unwrap();
    let mut theirs = peers[0].ports.accept(0, US, &ours, RING).unwrap();
    let Details::Connection { ring: Some(ring), .. } = &mut theirs else { panic!("no ring") };
    ring.rkey = *keys.first().unwrap();
    us.ports.connect(0, PEERS[0], &theirs).unwrap();
    drain(&mut us);
    us.send(0, 0, PEERS[0], &[1; 64], 64);
    drain(&mut us);
    assert_eq!(us.ended(0)[0].1, Some(Reason::TxCqError));
    assert_eq!(drain(&mut peers[0]), 0);
    drop(world);
}

#[test]
fn a_queue_pair_that_breaks_by_itself_is_heard_of_by_the_cold_side() {
    let (world, mut us, peers) = three(None, 5);
    let theirs = peers[0].ports.report().lanes[0].clone();
    assert_eq!(theirs.state, "connected");
    // Numbers are given in order: the datagram pair of each station first.
    let number = (0..40).find(|number| {
        world.break_pair(*number);
        us.tick();
        us.state_of(PEERS[0]) != "connected"
    });
    assert!(number.is_some());
    assert_eq!(us.state_of(PEERS[1]), "connected");
    let late = us.send(0, 0, PEERS[0], &[1; 64], 64);
    us.receive(0);
    assert_eq!(us.ended(0), [(late, Some(Reason::TxQpReset))]);
}

#[test]
fn a_device_that_tells_nothing_is_reset_and_what_it_tells_later_counts_no_more() {
    let (world, mut us, mut peers) = three(None, 5);
    world.set_faults(Faults { hold: 65_536, ..Faults::default() });
    let held: Vec<u32> = (0..3).map(|_| us.send(0, 0, PEERS[0], &[1; 64], 64)).collect();
    us.ports.reset(0, PEERS[0]).unwrap();
    for _ in 0..150 {
        us.tick();
        us.receive(0);
    }
    assert_eq!(us.ended(0), [], "the device may still have them");
    for _ in 0..100 {
        us.tick();
        us.receive(0);
        peers[0].tick();
        peers[0].receive(0);
    }
    let reset = Some(Reason::TxQpReset);
    assert_eq!(us.ended(0), held.iter().map(|token| (*token, reset)).collect::<Vec<_>>());
    peers[0].ports.reset(0, US).unwrap();
    for _ in 0..1_000 {
        peers[0].tick();
        peers[0].receive(0);
        us.tick();
        carry(&mut us, &mut peers[0], US, None);
        us.receive(0);
    }
    assert_eq!(us.state_of(PEERS[0]), "connected");
    // Three in flight again, by the same numbers, and the completions of before come first.
    world.set_faults(Faults { delay: 65_536, ..Faults::default() });
    let again: Vec<u32> = (0..3).map(|_| us.send(0, 0, PEERS[0], &[2; 64], 64)).collect();
    us.receive(0);
    assert_eq!(us.ended(0), [], "what is told belongs to those of before");
    world.set_faults(Faults::default());
    us.receive(0);
    assert_eq!(us.ended(0), again.iter().map(|token| (*token, None)).collect::<Vec<_>>());
}

#[test]
fn what_arrived_before_a_stop_is_read_before_the_reset_and_no_receive_is_lost() {
    let (world, mut us, mut peers) = three(None, 5);
    world.set_faults(Faults { forget: 65_536, ..Faults::default() });
    // More than one poll reads.
    let frames = BURST_MAX + 36;
    for _ in 0..frames {
        peers[0].send(0, 1, US, &[1; 64], 64);
    }
    peers[0].receive(0);
    us.ports.reset(0, PEERS[0]).unwrap();
    let mut arrived = 0;
    for _ in 0..5 {
        let received = us.receive(0);
        arrived += received.len();
        received.into_iter().for_each(|one| us.workers[0].pool.put(one.buffer));
        us.tick();
    }
    assert_eq!(us.state_of(PEERS[0]), "waiting", "it was reset");
    assert_eq!((arrived, world.receives(mapped(us.ip), 0)), (frames, 256));
}

#[test]
fn a_queue_pair_that_cannot_be_reset_keeps_what_it_has_and_is_tried_less_and_less_often() {
    let (world, mut us, mut peers) = three(None, 5);
    world.stand_still(0x14); // ours with the first peer, as above
    let held: Vec<u32> = (0..3).map(|_| us.send(0, 0, PEERS[0], &[1; 64], 64)).collect();
    world.set_faults(Faults { keep: 65_536, ..Faults::default() });
    us.ports.reset(0, PEERS[0]).unwrap();
    for _ in 0..60_000 {
        us.tick();
        drain(&mut us);
        assert_eq!(us.ended(0), [], "the device may still read them");
    }
    let lane = us.ports.report().lanes.into_iter().find(|lane| lane.state == "draining").unwrap();
    assert!(lane.why.contains("cannot be reset") && lane.why.ends_with("after 15 times so far"), "{}", lane.why);
    let on = us.send(0, 0, PEERS[1], &[2; 64], 64);
    us.receive(0);
    assert_eq!((us.ended(0), drain(&mut peers[1])), (vec![(on, None)], 1));
    world.set_faults(Faults::default());
    for _ in 0..11_000 {
        us.tick();
        drain(&mut us);
    }
    let reset = Some(Reason::TxQpReset);
    assert_eq!(us.ended(0), held.iter().map(|token| (*token, reset)).collect::<Vec<_>>());
    assert!(!us.ports.errands().is_empty(), "it is offered again");
    assert!(us.is_whole(0));
}

#[test]
fn nothing_is_tried_while_the_link_is_down() {
    let (world, mut us, _) = three(None, 2);
    world.set_link(mapped(us.ip), false);
    us.ports.reset(0, PEERS[0]).unwrap();
    for _ in 0..10_000 {
        us.tick();
        drain(&mut us);
    }
    assert_eq!((us.ports.errands().len(), us.state_of(PEERS[0])), (0, "waiting"));
    assert_eq!(us.ports.report().state, "link_down");
    world.set_link(mapped(us.ip), true);
    us.tick();
    assert_eq!((us.ports.errands().len(), us.ports.report().state), (1, "ready"));
}

#[test]
fn destinations_come_and_go_for_ever() {
    let world = World::new(1);
    let mut us = Station::new(&world, [192, 0, 2, 1], |config| (config.lanes_max, config.connections_max) = (2, 1));
    let mut peer = Station::new(&world, [192, 0, 2, 2], |_| {});
    let theirs = peer.ports.datagrams(0).unwrap();
    us.receive(0);
    for round in 0..300 {
        let to = Endpoint::v4([192, 0, 2, 2], round);
        us.ports.reach(0, to, &theirs).unwrap();
        us.receive(0);
        us.send(0, 0, to, &[1; 64], 64);
        us.ports.disconnect(0, to).unwrap();
        assert!(us.ports.disconnect(0, to).is_err());
        drain(&mut us);
        us.tick();
        drain(&mut us);
        us.tick();
        assert_eq!(us.ended(0).len(), 1);
        drain(&mut peer);
    }
    let gone = us.send(0, 0, Endpoint::v4([192, 0, 2, 2], 1), &[1; 64], 64);
    assert_eq!(us.ended(0), [(gone, Some(Reason::TxSubmitFail))]);
    for last in [1, 2] {
        us.ports.reach(0, Endpoint::v4([192, 0, 2, 2], last), &theirs).unwrap();
    }
    let error = us.ports.reach(0, Endpoint::v4([192, 0, 2, 2], 3), &theirs).unwrap_err();
    assert!(error.0.contains("lanes_max"), "{error}");
}

#[test]
fn what_cannot_be_is_refused_with_what_to_do() {
    let world = World::new(1);
    let mut us = Station::new(&world, [192, 0, 2, 1], |config| config.connections_max = 1);
    let datagrams = us.ports.datagrams(0).unwrap();
    let offer = us.ports.offer(0, PEERS[0], None).unwrap();
    for (result, word) in [
        (us.ports.datagrams(7).map(|_| ()), "no worker 7"),
        (us.ports.reach(0, PEERS[0], &offer), "accept"),
        (us.ports.connect(0, PEERS[0], &datagrams), "reach"),
        (us.ports.connect(0, PEERS[1], &offer), "offer first"),
        (us.ports.offer(0, PEERS[1], None).map(|_| ()), "connections_max"),
        (us.ports.offer(0, PEERS[0], Some(RingSize { slots: 3, slot_bytes: 64 })).map(|_| ()), "power of two"),
        (us.ports.reset(0, PEERS[1]), "no connection"),
        (us.ports.disconnect(0, PEERS[1]), "no way"),
    ] {
        let error = result.unwrap_err();
        assert!(error.0.contains(word), "{error}");
    }
    assert!(us.ports.seat(0).is_none(), "a seat is given once");
}

#[test]
fn no_key_is_shown() {
    let (_, us, peers) = three(RING, 5);
    let seen = format!("{:?} {:?} {:?}", us.workers[0].queue, us.ports, peers[0].ports.report());
    // The stub's keys are 0x100 and multiples of 0x101 above it.
    for key in (1..10).map(|n| 0x100 + n * 0x101) {
        assert!(!seen.contains(&format!("rkey: {key}")), "{seen}");
    }
    assert!(seen.contains("secret"));
    assert_eq!(mapped([1, 2, 3, 4])[10..], [0xff, 0xff, 1, 2, 3, 4]);
    assert_eq!(us.workers[0].queue.stats().syscalls, 0);
}
