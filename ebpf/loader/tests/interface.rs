//! The program on an interface: what passes, what dies, and that the next loader finds what the last one left.
#![allow(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test helpers panic where a test would, say what was skipped or measured, and sizes are small"
)]

mod bed;
mod lane;

use bed::{PORT, SHARD, endpoint, frame};
use lane::{DENIED, Lane, RECEIVER, SENDER, within};
use libbpf_rs::{Xdp, XdpFlags};
use rustix::net::{AddressFamily, SocketType, netdevice};
use std::{
    io::{Read, Write},
    net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket},
    os::fd::AsFd,
    time::Duration,
};
use tachyon_loader::{Config, Content, Found, Mode, Prefilter, Prefix, Program, Session, TopicBlocks};
use tachyon_wire::{Endpoint, Reason};

const SESSION: u32 = 0x0001_0001;
/// A kernel that is too slow for this is broken.
const PATIENCE: Duration = Duration::from_secs(20);

fn config(lane: &Lane) -> Config {
    Config { pins: lane.pins.clone(), ..Config::default() }
}

fn socket(namespace: &str, ip: &str, port: u16) -> UdpSocket {
    within(namespace, || {
        let socket = UdpSocket::bind((ip, port)).expect("an address");
        socket.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        socket
    })
}

fn pinned() -> Session {
    let pinned = Endpoint { port: 0.into(), ..endpoint(SocketAddr::new(SENDER.parse().unwrap(), 0)) };
    Session { id: SESSION, pinned, by_node: false }
}

fn good() -> Vec<u8> {
    frame(SESSION, SHARD, &[u32::from(SHARD)])
}

/// What a socket that nothing else comes to receives next.
fn received(socket: &UdpSocket) -> Vec<u8> {
    let mut buffer = [0; 2048];
    let bytes = socket.recv(&mut buffer).expect("the frame arrives");
    buffer[..bytes].to_vec()
}

#[test]
fn good_frames_arrive_junk_does_not_and_the_ledger_is_that_of_the_device() {
    if !lane::can_be_made() {
        return;
    }
    let lane = Lane::new();
    let (from, to) = (lane.sender(), lane.receiver());
    let filter = within(&to, || {
        Prefilter::attach("b", &config(&lane), &Content { sessions: &[pinned()], ..Content::default() })
    });
    let filter = filter.expect("attached");
    assert_eq!((filter.found(), filter.why_generic()), (Found::Nothing, None));
    let status = within(&to, || filter.status()).expect("a status");
    assert_eq!(status.mode, Mode::Native);
    println!("{status:?}");
    let (device, ledger) = (lane.packets_received(), filter.tables().counters().unwrap());
    let (sender, receiver) = (socket(&from, SENDER, 0), socket(&to, RECEIVER, PORT));
    sender.connect((RECEIVER, PORT)).unwrap();
    let mut other = good();
    for round in 1..=20_u32 {
        other[12..16].copy_from_slice(&round.to_le_bytes());
        sender.send(&[0x55; 128]).unwrap();
        sender.send(&frame(SESSION, SHARD + 1, &[4])).unwrap();
        sender.send(&frame(99, SHARD, &[3])).unwrap();
        sender.send(&other).unwrap();
        assert_eq!(received(&receiver), other, "nothing else arrives, and in order");
    }
    ssh_like(&from, &to);
    let after = filter.tables().counters().unwrap();
    assert_eq!(after.passed_ours(), 20);
    assert_eq!(after.dropped(Reason::BadFrame), 20);
    assert_eq!(after.dropped(Reason::WrongShard), 20);
    assert_eq!(after.dropped(Reason::NoSession), 20);
    assert!(after.passed_foreign() > 5, "a connection has a handful of packets");
    assert_eq!(after.unaccounted(), 0);
    assert_eq!(after.seen() - ledger.seen(), lane.packets_received() - device);
    within(&to, || filter.detach()).expect("detached");
    sender.send(b"junk").unwrap();
    assert_eq!(received(&receiver), b"junk", "without a filter everything passes");
    assert!(!lane.pins.join("b").exists(), "no pin is left");
}

/// A connection that says a few things both ways.
fn ssh_like(from: &str, to: &str) {
    let listener = within(to, || TcpListener::bind((RECEIVER, 22))).expect("port 22");
    let mut client = within(from, || TcpStream::connect((RECEIVER, 22))).expect("connected");
    let (mut server, _) = listener.accept().expect("accepted");
    for stream in [&client, &server] {
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    }
    let mut said = [0; 12];
    for _ in 0..10 {
        client.write_all(b"SSH-2.0-test").unwrap();
        server.read_exact(&mut said).unwrap();
        server.write_all(&said).unwrap();
        client.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"SSH-2.0-test");
    }
}

#[test]
fn the_next_loader_adopts() {
    if !lane::can_be_made() {
        return;
    }
    let lane = Lane::new();
    let to = lane.receiver();
    let deny = [Prefix::new(Ipv4Addr::new(10, 77, 0, 64).into(), 26).unwrap()];
    let content = Content { sessions: &[pinned()], deny: &deny, topics: None };
    let attach = |config: &Config, content: &Content<'_>| {
        within(&to, || Prefilter::attach("b", config, content)).expect("attached")
    };
    let id = |filter: &Prefilter| within(&to, || filter.status()).expect("a status").program.program_id;
    let first = attach(&config(&lane), &content);
    let (first_id, entries) = (id(&first), first.tables().entries().unwrap());
    drop(first);
    let same = attach(&Config { seed: 99, ..config(&lane) }, &Content::default());
    assert_eq!((same.found(), id(&same), same.tables().entries().unwrap()), (Found::Same, first_id, entries));
    let other = attach(&Config { frame_bytes_max: 1408, ..config(&lane) }, &Content::default());
    assert_eq!((other.found(), other.tables().entries().unwrap()), (Found::OtherProgram, (1, 1)));
    assert_ne!(id(&other), first_id);
    std::fs::remove_file(lane.pins.join("b/sessions")).expect("a name can go");
    let anew = attach(&Config { generation: 1, ..config(&lane) }, &Content { deny: &deny, ..Content::default() });
    assert_eq!((anew.found(), anew.tables().entries().unwrap()), (Found::OtherLayout, (0, 1)));
    let seen = within(&to, || Prefilter::open("b", &lane.pins)).unwrap().expect("there");
    assert_eq!(id(&seen), id(&anew));
    assert_eq!(std::fs::read_dir(lane.pins.join("b")).unwrap().count(), 8, "the link and seven tables have names");
    within(&to, || anew.detach()).expect("detached");
    assert!(within(&to, || Prefilter::open("b", &lane.pins)).unwrap().is_none());
    assert!(!lane.pins.join("b").exists(), "looking leaves nothing behind");
}

#[test]
fn a_filter_that_was_taken_off_comes_back_with_the_tables_that_were_kept_meanwhile() {
    if !lane::can_be_made() {
        return;
    }
    let lane = Lane::new();
    let to = lane.receiver();
    let config = Config { native_allowed: false, ..config(&lane) };
    // Loaded before there is an interface to put it on.
    let mut filter = within(&to, || Prefilter::load("b", &config, &Content::default())).expect("loaded");
    let status = |filter: &Prefilter| within(&to, || filter.status());
    assert!(status(&filter).is_err());
    filter.tables().session_add(&pinned()).unwrap();
    within(&to, || filter.put_on()).expect("put on");
    let first = status(&filter).expect("a status");
    assert_eq!((first.mode, filter.why_generic()), (Mode::Generic, None), "as it was asked for");
    within(&to, || filter.take_off()).expect("taken off");
    assert!(status(&filter).is_err() && !lane.pins.join("b").exists());
    // Another loader's program is not taken for this one, and is replaced by it.
    let other =
        within(&to, || Prefilter::attach("b", &Config { shard_count: 8, ..config.clone() }, &Content::default()));
    let other = other.expect("attached");
    assert!(status(&other).is_ok());
    within(&to, || filter.put_on()).expect("put on again");
    assert!(status(&filter).is_ok() && status(&other).is_err());
    assert_eq!(status(&filter).unwrap().program.program_id, first.program.program_id);
    assert_eq!(filter.tables().entries().unwrap(), (1, 0));
    assert_eq!((filter.tables().sessions_clear().unwrap(), filter.tables().entries().unwrap()), (1, (0, 0)));
    within(&to, || filter.detach()).expect("detached");
}

#[test]
fn what_stands_in_the_way_is_said() {
    if !lane::can_be_made() {
        return;
    }
    let lane = Lane::new();
    let to = lane.receiver();
    let attach =
        |interface: &str, config: &Config| within(&to, || Prefilter::attach(interface, config, &Content::default()));
    let error = attach("nothing", &config(&lane)).expect_err("no such interface");
    assert!(error.0.contains("nothing"), "{error}");
    let error = attach("b", &Config { pins: "/tmp".into(), ..Config::default() }).expect_err("no bpf file system");
    assert!(error.0.contains("no bpf file system"), "{error}");
    // The loopback device has no native XDP.
    let error = attach("lo", &Config { generic_allowed: false, ..config(&lane) }).expect_err("no native XDP");
    assert!(error.0.contains("takes no XDP program"), "{error}");
    let generic = attach("lo", &config(&lane)).expect("generic");
    assert!(generic.why_generic().is_some());
    assert_eq!(within(&to, || generic.status()).unwrap().mode, Mode::Generic);
    let elsewhere = lane.pins.join("elsewhere");
    let error = attach("lo", &Config { pins: elsewhere, ..config(&lane) }).expect_err("taken");
    assert!(error.0.contains("somebody else's"), "{error}");
    within(&to, || generic.detach()).expect("detached");
}

/// As DPDK's driver attaches what it is given: without a link, so that it stays when its process dies.
#[test]
fn what_somebody_else_attached_is_found_kept_and_swept_away() {
    if !lane::can_be_made() {
        return;
    }
    let lane = Lane::new();
    let (from, to) = (lane.sender(), lane.receiver());
    let config = config(&lane);
    let beside = || within(&to, || Prefilter::beside("b", &config)).expect("it can be asked");
    let sweep = || within(&to, || Prefilter::sweep("b"));
    assert!(beside().is_none() && !sweep().expect("nothing to do"));
    let program = Program::load(&config, &Content::default()).expect("loaded");
    let attach = || {
        let attached = within(&to, || {
            let asked = rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).expect("a socket");
            let index = netdevice::name_to_index(&asked, "b").expect("an interface");
            Xdp::new(program.as_fd()).attach(index.cast_signed(), XdpFlags::NONE)
        });
        attached.expect("attached");
    };
    attach();
    let filter = beside().expect("it is ours");
    filter.tables().session_add(&pinned()).unwrap();
    let (sender, receiver) = (socket(&from, SENDER, 0), socket(&to, RECEIVER, PORT));
    sender.send_to(b"junk", (RECEIVER, PORT)).unwrap();
    sender.send_to(&good(), (RECEIVER, PORT)).unwrap();
    assert_eq!(received(&receiver), good());
    assert_eq!(filter.tables().counters().unwrap().dropped(Reason::BadFrame), 1);
    assert_eq!(within(&to, || filter.status()).expect("a status").mode, Mode::Native);
    within(&to, || filter.take_off_beside()).expect("taken off");
    assert!(beside().is_none());
    within(&to, || filter.take_off_beside()).expect("it is gone already");
    attach();
    drop((program, filter));
    assert!(sweep().expect("swept") && beside().is_none());
    // One that is held by a link is nobody else's.
    let own = within(&to, || Prefilter::attach("b", &config, &Content::default())).expect("attached");
    assert!(sweep().is_err() && within(&to, || own.status()).is_ok());
    within(&to, || own.detach()).expect("detached");
}

#[test]
fn denied_sources_and_topics_change_at_once() {
    if !lane::can_be_made() {
        return;
    }
    let lane = Lane::new();
    let (from, to) = (lane.sender(), lane.receiver());
    let open = Session { id: SESSION, pinned: Endpoint::NONE, by_node: false };
    let filter =
        within(&to, || Prefilter::attach("b", &config(&lane), &Content { sessions: &[open], ..Content::default() }));
    let filter = filter.expect("attached");
    let (good_sender, other, receiver) =
        (socket(&from, SENDER, 0), socket(&from, DENIED, 0), socket(&to, RECEIVER, PORT));
    let deny = Prefix::new(DENIED.parse().unwrap(), 32).unwrap();
    let mut marked = good();
    marked[12] = 77;
    let arrives = |receiver: &UdpSocket| {
        // What the other sent before comes first, if it comes.
        other.send_to(&marked, (RECEIVER, PORT)).unwrap();
        good_sender.send_to(&good(), (RECEIVER, PORT)).unwrap();
        let first = received(receiver) == marked;
        if first {
            assert_eq!(received(receiver), good());
        }
        first
    };
    assert!(arrives(&receiver));
    filter.tables().deny_add(&deny).unwrap();
    assert!(!arrives(&receiver));
    filter.tables().deny_del(&deny).unwrap();
    assert!(arrives(&receiver));
    filter.tables().topics_replace(&TopicBlocks::NONE).unwrap();
    good_sender.send_to(&good(), (RECEIVER, PORT)).unwrap();
    filter.tables().session_remove(SESSION).unwrap();
    good_sender.send_to(&good(), (RECEIVER, PORT)).unwrap();
    let counters = filter.tables().counters().unwrap();
    assert_eq!((counters.dropped(Reason::FilterTopic), counters.dropped(Reason::NoSession)), (1, 1));
    assert_eq!((counters.dropped(Reason::FilterDenied), counters.unaccounted()), (1, 0));
}
