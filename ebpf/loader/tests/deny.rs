//! Deny lists of every size, and tables that change while packets come.
#![allow(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test helpers panic where a test would, say what was skipped or measured, and sizes are small"
)]

mod bed;

use bed::{Bed, End, OPEN, PORT, SHARD, address, frame, packet, sessions};
use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    thread,
};
use tachyon_loader::{Config, Content, Prefix, TopicBlocks};
use tachyon_wire::Reason;

const DENIED: End = End::Dropped(Reason::FilterDenied);

/// The `index`-th of many prefixes of 32 bits that share no address: multiplying by an odd number loses nothing.
fn host(index: u32) -> Ipv4Addr {
    Ipv4Addr::from_bits(index.wrapping_mul(0x9e37_79b1))
}

fn host_prefix(index: u32) -> Prefix {
    Prefix::new(IpAddr::V4(host(index)), 32).expect("32 bits")
}

fn from(ip: impl Into<IpAddr>) -> Vec<u8> {
    packet(SocketAddr::new(ip.into(), 40_000), PORT, &frame(OPEN, SHARD, &[u32::from(SHARD)]))
}

#[test]
fn lists_of_every_size_deny_what_is_on_them_and_nothing_else() {
    if !bed::is_root() {
        return;
    }
    let mut bed = Bed::new(&Config::default(), &Content { sessions: &sessions(), ..Content::default() });
    assert_eq!(bed.judge(&from(host(0))), End::Ours, "an empty list denies nobody");
    for count in [1, 10_000, 1_000_000] {
        let list: Vec<Prefix> = (0..count).map(host_prefix).collect();
        bed.program.tables().deny_replace(&list).expect("the list fits");
        for index in [0, count / 2, count - 1] {
            assert_eq!(bed.judge(&from(host(index))), DENIED, "number {index} of {count}");
        }
        for index in [count, count + 1, 2 * count + 7] {
            assert_eq!(bed.judge(&from(host(index))), End::Ours, "number {index}, with {count} on the list");
        }
    }
    bed.program.tables().deny_replace(&[]).expect("an empty list");
    assert_eq!(bed.judge(&from(host(0))), End::Ours);
}

#[test]
fn single_prefixes_come_and_go() {
    if !bed::is_root() {
        return;
    }
    let mut bed = Bed::new(&Config::default(), &Content { sessions: &sessions(), ..Content::default() });
    let everywhere = Prefix::new(IpAddr::V6(Ipv6Addr::UNSPECIFIED), 0).unwrap();
    let v4 = Prefix::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0).unwrap();
    let net = Prefix::new("2001:db8::".parse().unwrap(), 32).unwrap();
    let (here, there) = (from(host(5)), from(Ipv6Addr::new(0x2001, 0xdb8, 1, 2, 3, 4, 5, 6)));
    for (prefix, both) in [(v4, [DENIED, End::Ours]), (net, [End::Ours, DENIED]), (everywhere, [DENIED, DENIED])] {
        bed.program.tables().deny_add(&prefix).unwrap();
        assert_eq!([bed.judge(&here), bed.judge(&there)], both, "{prefix:?}");
        assert!(bed.program.tables().deny_del(&prefix).unwrap());
        assert!(!bed.program.tables().deny_del(&prefix).unwrap(), "it was there once");
        assert_eq!([bed.judge(&here), bed.judge(&there)], [End::Ours, End::Ours]);
    }
    assert_eq!(bed.program.tables().entries().unwrap(), (5, 0));
    assert!(Prefix::new(IpAddr::V4(Ipv4Addr::LOCALHOST), 33).is_none());
    assert!(Prefix::new(IpAddr::V6(Ipv6Addr::LOCALHOST), 129).is_none());
}

/// One source is on every list, another on none, and topics change too: whatever list is in force at a moment, the one is
/// always denied and the other never.
#[test]
fn a_swap_is_never_seen_half_done() {
    if !bed::is_root() {
        return;
    }
    let always = address("203.0.113.1:40000").ip();
    let never = address("203.0.113.2:40000").ip();
    let lists: Vec<Vec<Prefix>> = (1..5)
        .map(|size| {
            let others = (0..size * 2_000).map(host_prefix);
            others.chain([Prefix::new(always, 32).unwrap()]).collect()
        })
        .collect();
    let mut topics = [TopicBlocks::NONE, TopicBlocks::NONE];
    topics[0].allow(u32::from(SHARD));
    topics[1].allow(u32::from(SHARD));
    topics[1].allow(1_000);
    let content = Content { sessions: &sessions(), deny: &lists[0], topics: Some(&topics[0]) };
    let bed = Bed::new(&Config::default(), &content);
    let program = &bed.program;
    let done = AtomicBool::new(false);
    let mut sent = 0;
    thread::scope(|scope| {
        scope.spawn(|| {
            for round in 0..60 {
                program.tables().deny_replace(&lists[round % lists.len()]).expect("the list fits");
                program.tables().topics_replace(&topics[round % 2]).expect("the topics fit");
            }
            done.store(true, Relaxed);
        });
        let (denied, passed) = (from(always), from(never));
        while !done.load(Relaxed) {
            program.test_run(&denied, 500).expect("a run");
            program.test_run(&passed, 500).expect("a run");
            sent += 500;
        }
    });
    let counters = program.tables().counters().unwrap();
    assert_eq!(counters.dropped(Reason::FilterDenied), sent);
    assert_eq!(counters.passed_ours(), sent);
    assert_eq!((counters.seen(), counters.unaccounted()), (2 * sent, 0));
}

#[test]
fn the_table_of_sessions_takes_what_it_promises() {
    if !bed::is_root() {
        return;
    }
    let mut bed = Bed::new(&Config::default(), &Content::default());
    let session = |id| tachyon_loader::Session { id, pinned: tachyon_wire::Endpoint::NONE, by_node: false };
    let max = tachyon_loader::contract::SESSIONS_MAX;
    for id in 1..=max {
        bed.program.tables().session_add(&session(id)).expect("room");
    }
    let full = bed.program.tables().session_add(&session(max + 1)).expect_err("full");
    assert!(full.0.contains("131072"), "{full}");
    let of = |id| packet(address("203.0.113.2:40000"), PORT, &frame(id, SHARD, &[u32::from(SHARD)]));
    assert_eq!(bed.judge(&of(max)), End::Ours);
    assert!(bed.program.tables().session_remove(max).unwrap());
    assert!(!bed.program.tables().session_remove(max).unwrap());
    assert_eq!(bed.judge(&of(max)), End::Dropped(Reason::NoSession));
    bed.program.tables().session_add(&session(max + 1)).expect("room again");
}
