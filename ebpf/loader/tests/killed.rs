//! A loader may die at any moment, even while it changes tables or replaces the program: good frames go on arriving, denied
//! ones go on dying, and the next loader finds a whole filter.
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
use std::{
    collections::BTreeSet,
    env,
    io::{BufRead, BufReader, Write},
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    path::PathBuf,
    process::{Command, Stdio},
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    thread,
    time::Duration,
};
use tachyon_loader::{Config, Content, Found, Prefilter, Prefix, Session, TopicBlocks};
use tachyon_wire::{Endpoint, Reason};

const SESSIONS: [u32; 2] = [0x0001_0001, 0x0001_0002];
const PINS: &str = "PREFILTER_PINS";
const STEP: &str = "a step is done";

/// One that is pinned to the sender, and one that anybody may use who is not denied.
fn sessions() -> [Session; 2] {
    let pinned = Endpoint { port: 0.into(), ..endpoint(SocketAddr::new(SENDER.parse().unwrap(), 0)) };
    [
        Session { id: SESSIONS[0], pinned, by_node: false },
        Session { id: SESSIONS[1], pinned: Endpoint::NONE, by_node: false },
    ]
}

/// A list of some length that always denies the one.
fn deny(count: u32) -> Vec<Prefix> {
    let other = |index: u32| Prefix::new(Ipv4Addr::from_bits(0xc000_0000 + index * 8).into(), 30).unwrap();
    (0..count).map(other).chain([Prefix::new(DENIED.parse().unwrap(), 32).unwrap()]).collect()
}

/// The program that is killed: attaches, changes everything there is to change, and attaches something else.
#[test]
#[ignore = "the other test starts this one, and kills it"]
fn a_loader_that_never_rests() {
    let Some(pins) = env::var_os(PINS).map(PathBuf::from) else { return };
    let mut topics = TopicBlocks::NONE;
    topics.allow(u32::from(SHARD));
    for round in 0.. {
        let list = deny(round % 7 * 100);
        let content = Content { sessions: &sessions(), deny: &list, topics: Some(&topics) };
        // The same program, another, and one with other tables, in turn.
        let (frame_bytes_max, generation) = (1472 - round / 2 % 2 * 64, round / 5 % 3);
        let config = Config { frame_bytes_max, generation, pins: pins.clone(), ..Config::default() };
        let filter = Prefilter::attach("b", &config, &content).expect("attached");
        step();
        for _ in 0..2 {
            filter.tables().deny_replace(&deny(round % 5 * 50)).expect("a list");
            step();
            filter.tables().topics_replace(&topics).expect("topics");
            sessions().iter().for_each(|session| filter.tables().session_add(session).expect("a session"));
            step();
        }
    }
}

/// Says that something is done, past what the test harness holds back. Nobody may be listening any more.
fn step() {
    let _ = writeln!(std::io::stdout(), "{STEP}");
}

/// Sends a frame that is denied and one that is good, and waits for the good one, until told to stop. Counts rounds.
fn traffic(from: &str, to: &str, stop: &AtomicBool, rounds: &AtomicU64) {
    let bound =
        |namespace: &str, ip: &str, port: u16| within(namespace, || UdpSocket::bind((ip, port))).expect("a socket");
    let (sender, denied, receiver) = (bound(from, SENDER, 0), bound(from, DENIED, 0), bound(to, RECEIVER, PORT));
    receiver.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut buffer = [0; 2048];
    while !stop.load(Relaxed) {
        let round = rounds.load(Relaxed);
        let mut frames = SESSIONS.map(|session| frame(session, SHARD, &[u32::from(SHARD)]));
        frames.iter_mut().for_each(|frame| frame[12..16].copy_from_slice(&(round as u32 + 1).to_le_bytes()));
        denied.send_to(&frames[1], (RECEIVER, PORT)).unwrap();
        sender.send_to(&frames[0], (RECEIVER, PORT)).unwrap();
        let (bytes, source) = receiver.recv_from(&mut buffer).expect("the good frame of this round arrives");
        assert_eq!(source.ip().to_string(), SENDER, "round {round}: the denied one passed");
        assert_eq!(buffer[..bytes], frames[0], "round {round}: in order, and none is lost");
        rounds.fetch_add(1, Relaxed);
    }
}

/// Starts a loader and kills it after some steps and a bit, both others each time.
fn kill_one(lane: &Lane, rounds: &AtomicU64, turn: u64, is_over: impl Fn() -> bool) {
    let own = env::current_exe().expect("this program");
    let mut loader = Command::new("ip")
        .args(["netns", "exec", &lane.receiver()])
        .arg(own)
        .args(["--ignored", "--exact", "a_loader_that_never_rests"])
        .env(PINS, &lane.pins)
        .stdout(Stdio::piped())
        .stderr(Stdio::inherit())
        .spawn()
        .expect("a loader");
    // Kept until it is dead: a harness that cannot speak ends by itself.
    let mut said = BufReader::new(loader.stdout.take().expect("its output")).lines();
    let steps = said.by_ref().filter(|line| line.as_ref().is_ok_and(|line| line == STEP));
    let wanted = (turn * 7 % 24) as usize;
    assert_eq!(steps.take(wanted).count(), wanted, "the loader ended by itself");
    // A round takes about as long as a write to a table, and attaching some thousands.
    let until = rounds.load(Relaxed) + turn * 997 % if turn.is_multiple_of(2) { 64 } else { 8192 };
    while rounds.load(Relaxed) < until && !is_over() {
        thread::yield_now();
    }
    loader.kill().expect("killed");
    loader.wait().expect("gone");
}

#[test]
fn a_killed_loader_leaves_the_filter_whole() {
    if !lane::can_be_made() {
        return;
    }
    let lane = Lane::new();
    let (from, to) = (lane.sender(), lane.receiver());
    let config = Config { pins: lane.pins.clone(), ..Config::default() };
    let list = deny(0);
    let content = Content { sessions: &sessions(), deny: &list, topics: None };
    let attach = || within(&to, || Prefilter::attach("b", &config, &content)).expect("attached");
    assert_eq!(attach().found(), Found::Nothing);
    let (stop, rounds) = (AtomicBool::new(false), AtomicU64::new(0));
    thread::scope(|scope| {
        let traffic = scope.spawn(|| traffic(&from, &to, &stop, &rounds));
        let mut programs = BTreeSet::new();
        for turn in 0..40 {
            kill_one(&lane, &rounds, turn, || traffic.is_finished());
            assert!(!traffic.is_finished(), "traffic stopped after {turn} loaders");
            let left = within(&to, || Prefilter::open("b", &lane.pins)).expect("it can be looked at");
            let left = left.expect("the filter is there");
            let (open, denied) = left.tables().entries().expect("whole tables");
            programs.insert(within(&to, || left.status()).expect("a status").program.program_id);
            assert_eq!(open, 2, "after {turn} loaders");
            assert!(denied >= 1, "after {turn} loaders");
        }
        stop.store(true, Relaxed);
        println!("{} programs were left attached by 40 killed loaders", programs.len());
        assert!(programs.len() > 1, "loaders were killed before they did anything");
        traffic.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
    });
    println!("{} rounds of traffic over 40 killed loaders", rounds.load(Relaxed));
    let last = attach();
    assert_ne!(last.found(), Found::Nothing, "the next loader adopts");
    let counters = last.tables().counters().unwrap();
    assert_eq!(counters.unaccounted(), 0);
    assert_eq!(counters.dropped_all(), counters.dropped(Reason::FilterDenied), "only the denied ones died");
    within(&to, || last.detach()).expect("detached");
}
