//! Lanes as a node's control agrees on them: names, ends, failures, and falling over to the next driver.

mod station;

use station::{MTU, Station};
use tachyon_driver_api::{LaneKind, LaneRequest, LaneState, Lanes, NoLane, PortState, Ports};
use tachyon_driver_verbs::{
    Details, RingSize,
    stub::{Faults, World},
};
use tachyon_wire::{Endpoint, Reason};

const PEER: Endpoint = Endpoint::v4([192, 0, 2, 2], 5_000);
const NODE: Endpoint = Endpoint::v4([192, 0, 2, 1], 24_640);

/// A node whose peers have up to four names, and a peer.
fn both() -> (World, Station, Station) {
    let world = World::new(1);
    let node = Station::new(&world, [192, 0, 2, 1], |config| {
        (config.ports_per_peer, config.lanes_max, config.reconnects_max) = (5, 2, 2);
    });
    let peer = Station::new(&world, [192, 0, 2, 2], |config| (config.ports_per_peer, config.lanes_max) = (4, 2));
    (world, node, peer)
}

fn request(details: &Details, ports: u16, falls_back: bool) -> LaneRequest {
    LaneRequest { worker: 0, to: PEER, ports, falls_back, details: details.encode() }
}

/// The peer offers, the node answers, the peer connects.
fn offer(node: &mut Station, peer: &mut Station, ring: Option<RingSize>, falls_back: bool) -> Result<(), NoLane> {
    offer_as(PEER, node, peer, ring, falls_back)
}

fn offer_as(
    name: Endpoint,
    node: &mut Station,
    peer: &mut Station,
    ring: Option<RingSize>,
    falls_back: bool,
) -> Result<(), NoLane> {
    let ours = peer.ports.offer(0, NODE, ring)?;
    let request = LaneRequest { to: name, ..request(&ours, 4, falls_back) };
    let answer = Lanes::connect(&mut node.ports, &request)?;
    assert_eq!(answer.to, name);
    peer.ports.connect(0, NODE, &Details::decode(&answer.details)?)?;
    node.receive(0);
    peer.receive(0);
    Ok(())
}

fn port(first: Endpoint, more: u16) -> Endpoint {
    Endpoint::v6(first.ip, first.port.get() + more)
}

fn text(error: NoLane) -> String {
    let (NoLane::Never(text) | NoLane::Later(text)) = error;
    text
}

/// Lets time pass on the node, and says what it said.
fn pass(node: &mut Station, milliseconds: u64) -> Vec<String> {
    let mut said = Vec::new();
    for _ in 0..milliseconds {
        node.now_ns += 1_000_000;
        Ports::tick(&mut node.ports, node.now_ns);
        node.receive(0);
        said.extend(Ports::said(&mut node.ports).into_iter().map(|said| said.text));
    }
    said
}

fn reaches(node: &mut Station, to: Endpoint) -> bool {
    node.receive(0);
    node.workers[0].queue.reaches(&to)
}

/// Sends a frame from the node, and says how it ended.
fn fate(node: &mut Station, to: Endpoint) -> Option<Reason> {
    let token = node.send(0, 1, to, &[7; 64], 64);
    node.receive(0);
    let ended = node.ended(0);
    let [(only, reason)] = ended.as_slice() else { panic!("one item ended: {ended:?}") };
    assert_eq!(*only, token);
    *reason
}

#[test]
fn a_peer_is_reached_at_all_its_ports_and_at_no_other() {
    let ring = Some(RingSize { slots: 8, slot_bytes: MTU });
    for (ring, kind) in [(None, LaneKind::Connection), (ring, LaneKind::Ring)] {
        let (_, mut node, mut peer) = both();
        offer(&mut node, &mut peer, ring, false).unwrap();
        for more in 0..4 {
            assert_eq!(fate(&mut node, port(PEER, more)), None);
        }
        assert_eq!(peer.receive(0).len(), 4);
        for other in [port(PEER, 4), Endpoint::v6(PEER.ip, 4_999), Endpoint::v4([192, 0, 2, 3], 5_000)] {
            assert!(!reaches(&mut node, other));
        }
        let lanes = Lanes::lanes(&node.ports);
        let [lane] = lanes.as_slice() else { panic!("one lane: {lanes:?}") };
        assert_eq!((lane.to, lane.kind, lane.state, lane.fell_back), (PEER, kind, LaneState::Connected, false));
        Lanes::disconnect(&mut node.ports, 0, PEER);
        assert!((0..4).all(|more| !reaches(&mut node, port(PEER, more))), "all names end with the lane");
        assert_eq!(Lanes::lanes(&node.ports), []);
    }
}

#[test]
fn datagrams_may_become_a_connection_and_back() {
    let (_, mut node, mut peer) = both();
    let theirs = peer.ports.datagrams(0).unwrap();
    assert_eq!(Lanes::name(&node.ports, &theirs.encode()), Ok(theirs.endpoint()));
    let unnamed = LaneRequest { to: Endpoint::NONE, ..request(&theirs, 1, false) };
    let error = Lanes::connect(&mut node.ports, &unnamed).unwrap_err();
    assert!(matches!(&error, NoLane::Never(text) if text.contains("ask for the one")), "{error:?}");
    let answer = Lanes::connect(&mut node.ports, &request(&theirs, 4, false)).unwrap();
    assert_eq!(Details::decode(&answer.details), node.ports.datagrams(0));
    assert!(reaches(&mut node, port(PEER, 3)));
    assert!(!reaches(&mut node, theirs.endpoint()), "a name that nobody asked for and nobody looked at");
    assert_eq!(fate(&mut node, port(PEER, 3)), None);
    assert_eq!(peer.receive(0).len(), 1);
    pass(&mut node, 2); // lanes come back when nothing is in flight on them
    offer(&mut node, &mut peer, None, false).unwrap();
    assert_eq!(Lanes::lanes(&node.ports)[0].kind, LaneKind::Connection);
    assert_eq!(fate(&mut node, PEER), None);
    pass(&mut node, 2);
    Lanes::connect(&mut node.ports, &request(&theirs, 2, false)).unwrap();
    assert_eq!(Lanes::lanes(&node.ports)[0].kind, LaneKind::Datagrams);
    node.receive(0); // until then it sends on the connection, which ends
    assert_eq!((fate(&mut node, port(PEER, 1)), reaches(&mut node, port(PEER, 2))), (None, false));
}

#[test]
fn a_further_name_stays_over_reconnections_and_goes_with_the_lane() {
    let (_, mut node, mut peer) = both();
    let further = Endpoint::v4([192, 0, 2, 1], 30_000);
    assert!(peer.ports.also(0, NODE, further).unwrap_err().0.contains("connect with it first"));
    offer(&mut node, &mut peer, None, false).unwrap();
    peer.ports.also(0, NODE, further).unwrap();
    peer.ports.also(0, NODE, further).unwrap();
    assert!(reaches(&mut peer, further));
    // The lane fails, and is offered anew.
    peer.ports.reset(0, NODE).unwrap();
    node.ports.reset(0, PEER).unwrap();
    for _ in 0..4 {
        pass(&mut node, 1);
        pass(&mut peer, 1);
    }
    offer(&mut node, &mut peer, None, false).unwrap();
    assert_eq!(fate(&mut peer, further), None);
    assert_eq!(node.receive(0).len(), 1);
    peer.ports.disconnect(0, NODE).unwrap();
    assert!(!reaches(&mut peer, further) && !reaches(&mut peer, NODE));
}

#[test]
fn names_that_cannot_be_are_refused_and_nothing_is_left_of_them() {
    let (_, mut node, mut peer) = both();
    let theirs = peer.ports.datagrams(0).unwrap();
    let mut refused = |to: Endpoint, ports: u16, word: &str| {
        let error = Lanes::connect(&mut node.ports, &LaneRequest { to, ..request(&theirs, ports, false) });
        let text = text(error.expect_err(word));
        assert!(text.contains(word), "{text}");
    };
    refused(PEER, 0, "cannot be");
    refused(Endpoint::v6(PEER.ip, 65_535), 2, "cannot be");
    refused(PEER, 11, "raise ports_per_peer"); // two times five are there
    Lanes::connect(&mut node.ports, &request(&theirs, 5, false)).unwrap();
    for (first, ports) in [(5_003, 1), (4_998, 3), (4_990, 5)] {
        let to = Endpoint::v6(PEER.ip, first);
        let result = Lanes::connect(&mut node.ports, &LaneRequest { to, ..request(&theirs, ports, false) });
        assert_eq!(result.is_err(), first != 4_990, "{first}: {result:?}");
    }
    assert!(node.ports.also(0, PEER, Endpoint::v6(PEER.ip, 4_991)).unwrap_err().0.contains("is a name of"));
    assert!(node.ports.also(0, PEER, Endpoint::v6(PEER.ip, 1)).unwrap_err().0.contains("raise ports_per_peer"));
    assert!(!reaches(&mut node, Endpoint::v6(PEER.ip, 1)));
    Lanes::disconnect(&mut node.ports, 0, Endpoint::v6(PEER.ip, 4_990));
    node.ports.also(0, PEER, Endpoint::v6(PEER.ip, 4_991)).unwrap();
    assert!(reaches(&mut node, Endpoint::v6(PEER.ip, 4_991)));
    let mut junk = request(&theirs, 1, false);
    junk.details[0] = 9;
    assert!(text(Lanes::connect(&mut node.ports, &junk).unwrap_err()).contains("version"));
    assert!(Lanes::name(&node.ports, &junk.details).unwrap_err().0.contains("version"));
    let nobody = LaneRequest { worker: 7, ..request(&theirs, 1, false) };
    assert!(text(Lanes::connect(&mut node.ports, &nobody).unwrap_err()).contains("there is no worker 7"));
}

#[test]
fn an_offer_on_a_standing_lane_takes_it_down_and_the_next_one_is_taken() {
    let (_, mut node, mut peer) = both();
    offer(&mut node, &mut peer, None, false).unwrap();
    peer.ports.reset(0, NODE).unwrap();
    pass(&mut peer, 4);
    for _ in 0..2 {
        let ours = peer.ports.offer(0, NODE, None).unwrap();
        let error = Lanes::connect(&mut node.ports, &request(&ours, 4, false)).unwrap_err();
        let again =
            matches!(&error, NoLane::Later(text) if text.contains("is being taken down, offer again in a moment"));
        assert!(again, "{error:?}");
        assert_eq!(Lanes::lanes(&node.ports)[0].state, LaneState::Ending);
    }
    let said = pass(&mut node, 4);
    assert!(said[0].contains("worker 0 to 192.0.2.2:5000 failed: the peer offers it anew"), "{said:?}");
    offer(&mut node, &mut peer, None, false).unwrap();
    assert_eq!(fate(&mut node, port(PEER, 1)), None);
    assert!(pass(&mut node, 1)[0].contains("is back"));
}

#[test]
fn a_lane_that_failed_for_good_falls_over_where_it_may_and_comes_back_when_it_is_offered() {
    for falls_back in [true, false] {
        let (_, mut node, mut peer) = both();
        offer(&mut node, &mut peer, None, falls_back).unwrap();
        peer.ports.reset(0, NODE).unwrap();
        assert_eq!(fate(&mut node, PEER), Some(Reason::TxTimeout));
        assert!(reaches(&mut node, PEER), "it may come back yet");
        let said = pass(&mut node, 200);
        assert!(said[0].contains("failed: the peer does not acknowledge"), "{said:?}");
        let end = if falls_back { "go by the next driver" } else { "end as E_TX_QP_RESET" };
        assert!(said[1].contains("was given up") && said[1].contains(end), "{said:?}");
        assert_eq!(said.len(), 2, "each is said once: {said:?}");
        let lane = Lanes::lanes(&node.ports).remove(0);
        assert_eq!((lane.state, lane.fell_back), (LaneState::Failed, falls_back));
        assert!(lane.why.contains("2 tries"), "{}", lane.why);
        assert!((0..4).all(|more| reaches(&mut node, port(PEER, more)) != falls_back));
        let end = if falls_back { Reason::TxSubmitFail } else { Reason::TxQpReset };
        assert_eq!(fate(&mut node, PEER), Some(end));
        pass(&mut peer, 4);
        offer(&mut node, &mut peer, None, falls_back).unwrap();
        assert!((0..4).all(|more| fate(&mut node, port(PEER, more)).is_none()));
        let said = pass(&mut node, 1);
        assert!(said.len() == 1 && said[0].contains("is back"), "{said:?}");
        let lane = Lanes::lanes(&node.ports).remove(0);
        assert_eq!((lane.state, lane.fell_back), (LaneState::Connected, false));
    }
}

#[test]
fn an_offer_that_fails_lets_no_frame_go_where_it_may_not() {
    for by_datagrams in [false, true] {
        let (world, mut node, mut peer) = both();
        let theirs = peer.ports.datagrams(0).unwrap();
        if by_datagrams {
            Lanes::connect(&mut node.ports, &request(&theirs, 4, false)).unwrap();
        } else {
            offer(&mut node, &mut peer, None, false).unwrap();
            peer.ports.reset(0, NODE).unwrap();
            assert_eq!(fate(&mut node, PEER), Some(Reason::TxTimeout));
            pass(&mut node, 5);
        }
        pass(&mut peer, 5);
        // An offer of either kind, in the place of a lane of either kind.
        world.set_faults(Faults { unreachable: 65_536, ..Faults::default() });
        for details in [peer.ports.offer(0, NODE, None).unwrap(), theirs] {
            let error = Lanes::connect(&mut node.ports, &request(&details, 4, false)).unwrap_err();
            assert!(matches!(&error, NoLane::Never(text) if text.contains("no way")), "{error:?}");
            pass(&mut node, 5);
            let end = if by_datagrams { None } else { Some(Reason::TxQpReset) };
            for more in 0..4 {
                assert!(reaches(&mut node, port(PEER, more)), "its frames would go by the next driver");
                assert_eq!(fate(&mut node, port(PEER, more)), end);
            }
        }
        assert_eq!(Lanes::lanes(&node.ports).len(), 1);
        world.set_faults(Faults::default());
        pass(&mut node, 50);
        offer(&mut node, &mut peer, None, false).unwrap();
        assert!((0..4).all(|more| fate(&mut node, port(PEER, more)).is_none()));
        assert_eq!(Lanes::lanes(&node.ports)[0].state, LaneState::Connected);
    }
}

#[test]
fn an_offer_that_fails_takes_no_number_from_a_lane_that_the_device_gave_it_to() {
    let world = World::new(1);
    let mut node = Station::new(&world, [192, 0, 2, 1], |config| (config.ports_per_peer, config.lanes_max) = (5, 4));
    let [mut first, mut second] = [2, 3].map(|last| Station::new(&world, [192, 0, 2, last], |_| {}));
    let other = Endpoint::v4([192, 0, 2, 3], 5_000);
    offer(&mut node, &mut first, None, false).unwrap();
    offer_as(other, &mut node, &mut second, None, false).unwrap();
    for (name, peer) in [(PEER, &mut first), (other, &mut second)] {
        Lanes::disconnect(&mut node.ports, 0, name);
        pass(&mut node, 10);
        peer.ports.disconnect(0, NODE).unwrap();
        pass(peer, 10);
    }
    // The places of the worker are given out last in, first out, and numbers from the lowest on: this lane has the second one's place
    // with the first one's number, and the offer that fails has the first one's place.
    offer(&mut node, &mut first, None, false).unwrap();
    world.set_faults(Faults { unreachable: 65_536, ..Faults::default() });
    offer_as(other, &mut node, &mut second, None, false).unwrap_err();
    world.set_faults(Faults::default());
    pass(&mut node, 10);
    first.send(0, 1, NODE, &[9; 64], 64);
    first.receive(0);
    assert_eq!(node.receive(0).len(), 1, "the lane that stands is still known by its number");
}

#[test]
fn a_way_that_is_still_looked_for_changes_nothing_yet() {
    let (world, mut node, mut peer) = both();
    let theirs = peer.ports.datagrams(0).unwrap();
    for is_known in [false, true] {
        for details in [peer.ports.offer(0, NODE, None).unwrap(), theirs] {
            world.set_faults(Faults { sought: 65_536, ..Faults::default() });
            let error = Lanes::connect(&mut node.ports, &request(&details, 4, false)).unwrap_err();
            assert!(matches!(&error, NoLane::Later(text) if text.contains("being looked for")), "{error:?}");
            assert_eq!((Lanes::lanes(&node.ports).len(), reaches(&mut node, PEER)), (is_known.into(), is_known));
        }
        world.set_faults(Faults::default());
        Lanes::connect(&mut node.ports, &request(&theirs, 4, false)).unwrap();
        assert!(reaches(&mut node, PEER));
        assert_eq!(fate(&mut node, PEER), None);
        pass(&mut node, 2); // lanes come back when nothing is in flight on them
    }
}

#[test]
fn a_peers_ports_become_more_and_fewer_while_its_lane_stands() {
    let (_, mut node, mut peer) = both();
    let theirs = peer.ports.datagrams(0).unwrap();
    for ports in [2, 5, 1, 4] {
        Lanes::connect(&mut node.ports, &request(&theirs, ports, false)).unwrap();
        assert!((0..5).all(|more| reaches(&mut node, port(PEER, more)) == (more < ports)), "{ports}");
        pass(&mut node, 2); // lanes come back when nothing is in flight on them
    }
    let error = Lanes::connect(&mut node.ports, &request(&theirs, 11, false)).unwrap_err();
    assert!(matches!(&error, NoLane::Never(text) if text.contains("raise ports_per_peer")), "{error:?}");
    assert!((0..4).all(|more| fate(&mut node, port(PEER, more)).is_none()), "what stood stays");
}

#[test]
fn a_lane_that_may_fall_over_does_not_wait_for_our_own_link() {
    for falls_back in [true, false] {
        let (world, mut node, mut peer) = both();
        offer(&mut node, &mut peer, None, falls_back).unwrap();
        world.set_link(station::mapped([192, 0, 2, 1]), false);
        peer.ports.reset(0, NODE).unwrap();
        fate(&mut node, PEER);
        let said = pass(&mut node, 200);
        assert!(said.iter().any(|text| text.contains("link is down")), "{said:?}");
        let state = if falls_back { LaneState::Failed } else { LaneState::Waiting };
        assert_eq!(Lanes::lanes(&node.ports)[0].state, state);
        assert_eq!(Ports::reports(&mut node.ports)[0].state, PortState::LinkDown);
    }
}

#[test]
fn datagrams_fall_over_when_their_queue_pair_gives_up() {
    let (world, mut node, mut peer) = both();
    let theirs = peer.ports.datagrams(0).unwrap();
    Lanes::connect(&mut node.ports, &request(&theirs, 2, true)).unwrap();
    node.receive(0);
    world.set_faults(Faults { error: 65_536, ..Faults::default() });
    for _ in 0..50 {
        if reaches(&mut node, PEER) {
            fate(&mut node, PEER);
        }
        pass(&mut node, 5);
    }
    world.set_faults(Faults::default());
    assert!(!reaches(&mut node, PEER) && !reaches(&mut node, port(PEER, 1)));
    let lane = Lanes::lanes(&node.ports).remove(0);
    assert_eq!((lane.state, lane.fell_back), (LaneState::Failed, true));
    Lanes::connect(&mut node.ports, &request(&theirs, 2, true)).unwrap();
    pass(&mut node, 2);
    assert_eq!(fate(&mut node, port(PEER, 1)), None);
    assert_eq!(peer.receive(0).len(), 1);
    assert_eq!(Lanes::lanes(&node.ports)[0].state, LaneState::Connected);
}

#[test]
fn the_port_is_reported_and_is_not_to_be_stopped() {
    let (_, mut node, mut peer) = both();
    offer(&mut node, &mut peer, None, false).unwrap();
    let reports = Ports::reports(&mut node.ports);
    let [port] = reports.as_slice() else { panic!("one port: {reports:?}") };
    assert_eq!((port.name.as_str(), port.driver, port.device.as_str()), ("rdma", "verbs", "stub"));
    assert_eq!((port.state, port.mtu, port.queues), (PortState::Ready, Some(MTU), 1));
    assert_eq!((port.steering.as_str(), port.addresses.as_slice()), ("lanes", ["192.0.2.1".to_owned()].as_slice()));
    assert!(port.counters.contains(&("receive_depth".to_owned(), 256)), "{:?}", port.counters);
    let stopped = Ports::stop(&mut node.ports, "rdma").unwrap_err();
    assert!(stopped.0.contains("cannot be stopped") && stopped.0.contains("stop tachyond"), "{stopped}");
    assert!(Ports::start(&mut node.ports, "east").unwrap_err().0.contains("no port `east`"));
}
