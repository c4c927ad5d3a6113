//! What goes wrong while the node runs: the port says so, nothing waits for ever, and every buffer and item comes back.
//!
//! Needs root, for network namespaces, XDP programs and XDP sockets; says so and does nothing without.
#![expect(clippy::unwrap_used, reason = "test helpers panic where a test would")]

mod station;

use station::{BASE_PORT, Cable, Setup, Station, THEM, US, endpoint, index_of, ip, redirect::Redirect};
use std::{
    net::{SocketAddr, UdpSocket},
    time::{Duration, Instant},
};
use tachyon_driver_api::{BURST_MAX, CompletionBatch, PortState, Ports, RxQueue, TxBatch, TxQueue};
use tachyon_wire::{Endpoint, Reason};

const THERE: ([u8; 4], u16) = (THEM.octets(), 5_000);

fn there() -> SocketAddr {
    SocketAddr::from(THERE)
}

fn opened(setup: &Setup) -> Option<(Cable, UdpSocket, Station)> {
    let cable = Cable::new(1_500)?;
    let socket = cable.socket(there());
    let us = Station::open(setup);
    Some((cable, socket, us))
}

/// Sends from there until it arrives.
fn hear(us: &mut Station, socket: &UdpSocket) {
    us.until("a frame arrives", |us| {
        let _ = socket.send_to(&[1; 64], (US, BASE_PORT));
        us.discard() > 0
    });
}

/// Every buffer is in the pool or with the queue.
fn count(us: &mut Station) {
    let held = us.queue().held();
    assert_eq!(us.pool.free() + held, us.pool.total());
}

#[test]
fn a_dry_pool_loses_what_comes_and_counts_it_and_then_goes_on() {
    let Some((_cable, socket, mut us)) = opened(&Setup::new(&[0])) else { return };
    hear(&mut us, &socket);
    let hoard: Vec<_> = std::iter::from_fn(|| us.pool.get()).collect();
    let (mut received, mut sent) = (Vec::new(), 0_usize);
    us.until("the kernel has no buffer left", |us| {
        socket.send_to(&[2; 64], (US, BASE_PORT)).unwrap();
        sent += 1;
        received.extend(us.receive());
        us.counter("rx_dropped") > 0
    });
    assert!(us.queue().stats().starved > 0);
    let dropped = usize::try_from(us.queue().stats().overflow).unwrap();
    us.until("the rest arrives", |us| {
        received.extend(us.receive());
        received.len() + usize::try_from(us.queue().stats().overflow).unwrap() >= sent
    });
    let lost = usize::try_from(us.queue().stats().overflow).unwrap();
    assert!(dropped > 0 && received.len() + lost == sent, "{} came and {lost} were lost of {sent}", received.len());
    hoard.into_iter().for_each(|buffer| us.pool.put(buffer));
    received.into_iter().for_each(|received| us.pool.put(received.buffer));
    us.discard();
    hear(&mut us, &socket);
    count(&mut us);
}

#[test]
fn a_neighbour_that_is_not_there_ends_items_and_is_found_once_it_is() {
    let Some((cable, _socket, mut us)) = opened(&Setup::new(&[0])) else { return };
    let late = Endpoint::v4([192, 0, 2, 50], 5_000);
    assert_eq!(us.send_once(0, late, &[0; 64]), Some(Reason::TxSubmitFail));
    // Nobody wanted it, but a worker sent there, which is enough.
    assert_eq!(us.counter("items_unreachable"), 1);
    cable.there(|| assert!(ip("addr add 192.0.2.50/24 dev them")));
    us.until("it is found", |us| us.send_once(0, late, &[0; 64]).is_none());
    // Behind a router, by the kernel's own routes.
    assert!(ip("route add 198.51.100.0/24 via 192.0.2.50"));
    us.reach(SocketAddr::from(([198, 51, 100, 7], 9)));
    // And no longer, when there is no route.
    assert!(ip("route del 198.51.100.0/24"));
    us.until("it is lost", |us| {
        us.send_once(0, Endpoint::v4([198, 51, 100, 7], 9), &[0; 64]) == Some(Reason::TxSubmitFail)
    });
    count(&mut us);
}

#[test]
fn a_neighbour_that_moves_is_followed() {
    let Some((cable, socket, mut us)) = opened(&Setup::new(&[0])) else { return };
    us.reach(there());
    cable.there(|| assert!(ip("link set them address 02:00:00:00:00:77")));
    let mut bytes = [0; 64];
    while socket.recv_from(&mut bytes).is_ok() {}
    // The kernel asks again by itself when it is no longer sure; this is somebody who says so at once.
    assert!(ip("neigh replace 192.0.2.2 lladdr 02:00:00:00:00:77 dev us"));
    us.until("frames arrive at the new address", |us| {
        assert_eq!(us.send_once(0, endpoint(there()), &[3; 64]), None);
        socket.recv_from(&mut bytes).is_ok()
    });
}

#[test]
fn a_port_that_is_stopped_gives_every_item_back() {
    let Some((_cable, socket, mut us)) = opened(&Setup::new(&[0])) else { return };
    us.reach(there());
    // Given to the ring, but not to the kernel: only a call hands them over.
    let mut from = TxBatch::new();
    for _ in 0..40 {
        let item = us.item(0, endpoint(there()), &[4; 64]);
        from.push(item);
    }
    assert_eq!(us.queue().tx_burst(&mut from), 40);
    us.ports.stop("east").unwrap();
    let (mut done, mut ended) = (CompletionBatch::new(), Vec::new());
    // An idle worker learns of it in its wait, before its next call.
    us.until("all items end", |us| {
        us.queue().wait(0);
        us.queue().completions(&mut done);
        for completion in done.drain(..) {
            ended.push(completion.error);
            us.pool.put(completion.buffer);
        }
        ended.len() == 40
    });
    assert!(ended.iter().all(|error| *error == Some(Reason::TxSubmitFail)), "{ended:?}");
    assert_eq!(us.send_once(0, endpoint(there()), &[4; 64]), Some(Reason::TxSubmitFail));
    us.discard();
    count(&mut us);
    us.ports.start("east").unwrap();
    us.until("the port is ready", |us| {
        us.discard();
        us.state() == PortState::Ready
    });
    hear(&mut us, &socket);
    us.until("it sends again", |us| us.send_once(0, endpoint(there()), &[4; 64]).is_none());
    count(&mut us);
}

#[test]
fn a_socket_that_finishes_nothing_is_opened_again() {
    let Some((_cable, socket, mut us)) = opened(&Setup::new(&[0])) else { return };
    us.reach(there());
    let mut from = TxBatch::new();
    let item = us.item(0, endpoint(there()), &[4; 64]);
    from.push(item);
    assert_eq!(us.queue().tx_burst(&mut from), 1);
    // Looked for again and again, but never handed to the kernel, as by a device that does not send.
    let (mut done, mut now_ns) = (CompletionBatch::new(), 100_000_000_000);
    while done.is_empty() {
        assert!(now_ns < 200_000_000_000, "nothing ends");
        for _ in 0..16 {
            us.queue().completions(&mut done);
        }
        us.queue().wait(0);
        now_ns += 500_000_000;
        us.ports.tick(now_ns);
    }
    let completion = done.remove(0);
    assert_eq!(completion.error, Some(Reason::TxTimeout));
    us.pool.put(completion.buffer);
    // The kernel lets go of the old socket's queue in a while of its own.
    let end = Instant::now() + Duration::from_secs(20);
    loop {
        now_ns += 5_000_000;
        us.ports.tick(now_ns);
        let _ = socket.send_to(&[1; 64], (US, BASE_PORT));
        if us.discard() > 0 {
            return count(&mut us);
        }
        assert!(Instant::now() < end, "nothing is received after it: {:?}", us.ports.reports());
        std::thread::sleep(Duration::from_millis(1));
    }
}

#[test]
fn an_interface_that_goes_down_or_away_comes_back_with_its_port() {
    let Some((cable, socket, mut us)) = opened(&Setup::new(&[0])) else { return };
    us.reach(there());
    // The other end loses its link: nothing is sent, and nothing hangs.
    cable.there(|| assert!(ip("link set them down")));
    us.until("the link is seen to be down", |us| {
        us.discard();
        us.state() == PortState::LinkDown
    });
    us.until("items end", |us| us.send_once(0, endpoint(there()), &[5; 64]) == Some(Reason::TxSubmitFail));
    cable.there(|| assert!(ip("link set them up")));
    us.reach(there());
    hear(&mut us, &socket);

    assert!(ip("link set us down"));
    us.until("the interface is seen to be down", |us| {
        us.discard();
        us.state() == PortState::LinkDown && us.queue().held() < 32
    });
    count(&mut us);
    assert!(ip("link set us up"));
    us.until("the port is ready", |us| {
        us.discard();
        us.state() == PortState::Ready
    });
    us.reach(there());
    hear(&mut us, &socket);

    assert!(ip("link del us"));
    us.until("the interface is seen to be gone", |us| {
        us.discard();
        us.state() == PortState::Waiting && us.queue().held() < 32
    });
    let report = us.ports.reports().remove(0);
    assert!(report.why.contains("gone"), "{}", report.why);
    assert_eq!(us.send_once(0, endpoint(there()), &[5; 64]), Some(Reason::TxSubmitFail));
    count(&mut us);

    // One of the same name is another one, with its own program.
    cable.plug(1_500);
    let _redirect = Redirect::with_map(index_of("us"), &us.redirect).unwrap();
    us.until("the port is ready", |us| {
        us.discard();
        us.state() == PortState::Ready
    });
    us.reach(there());
    hear(&mut us, &socket);
    count(&mut us);
}

#[test]
fn calls_are_made_only_when_something_is_to_be_sent_and_one_for_all_of_it() {
    let Some((_cable, _socket, mut us)) = opened(&Setup::new(&[0])) else { return };
    us.reach(there());
    us.discard();
    let before = us.queue().stats().syscalls;
    for _ in 0..1_000 {
        us.discard();
    }
    assert_eq!(us.queue().stats().syscalls, before, "an idle turn makes none");
    let mut from = TxBatch::new();
    for _ in 0..BURST_MAX {
        let item = us.item(0, endpoint(there()), &[4; 64]);
        from.push(item);
    }
    assert_eq!(us.queue().tx_burst(&mut from), BURST_MAX);
    let (mut done, mut turns) = (CompletionBatch::new(), 0);
    while done.len() < BURST_MAX {
        us.discard();
        us.queue().completions(&mut done);
        turns += 1;
        assert!(us.queue().stats().syscalls - before <= turns, "at most one a turn");
    }
    done.into_iter().for_each(|completion| us.pool.put(completion.buffer));
    count(&mut us);
}

#[test]
fn a_worker_that_ends_without_a_word_leaves_its_packets_to_the_kernel() {
    let Some((_cable, socket, mut us)) = opened(&Setup::new(&[0])) else { return };
    hear(&mut us, &socket);
    let kernel = UdpSocket::bind((US, BASE_PORT)).unwrap();
    kernel.set_nonblocking(true).unwrap();
    us.abandon();
    us.until("the kernel gets what was ours", |_| {
        socket.send_to(&[6; 64], (US, BASE_PORT)).unwrap();
        kernel.recv_from(&mut [0; 64]).is_ok()
    });
}

#[test]
fn frames_of_another_workers_shard_are_counted() {
    let Some((_cable, socket, mut us)) = opened(&Setup::new(&[0, 2])) else { return };
    hear(&mut us, &socket);
    us.until("it is counted", |us| {
        socket.send_to(&[8; 64], (US, BASE_PORT + 1)).unwrap();
        assert_eq!(us.discard(), 0);
        us.counter("other_workers_shard") > 0
    });
    count(&mut us);
}

#[test]
fn packets_longer_than_a_buffer_are_counted_and_not_sent() {
    let Some(cable) = Cable::new(9_000) else { return };
    let socket = cable.socket(there());
    let mut us = Station::open(&Setup { stride: 8_192, ..Setup::new(&[0]) });
    if !us.takes_pieces() {
        return;
    }
    assert!(us.degraded.iter().any(|line| line.contains("make the arena's buffers longer")), "{:?}", us.degraded);
    assert_eq!(us.frame_bytes_max, 8_192 - 256 - 22 - 14 - 48);
    us.until("it is counted", |us| {
        socket.send_to(&[9; 8_900], (US, BASE_PORT)).unwrap();
        assert_eq!(us.discard(), 0);
        us.counter("not_frames_too_long") > 0
    });
    hear(&mut us, &socket);
    us.reach(there());
    assert_eq!(us.send_once(0, endpoint(there()), &[9; 7_904]), Some(Reason::TxSubmitFail));
    assert_eq!(us.send_once(0, endpoint(there()), &[9; 7_850]), None);
    count(&mut us);
}
