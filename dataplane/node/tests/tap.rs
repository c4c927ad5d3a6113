//! The truth log's taps of a `tachyond`, from the side of whoever writes the log.

mod node;

use node::{Folder, Node, PATIENCE, SHARDS, frame, free_base, rules, ruleset, session, subscriber, wait_for};
use std::{
    net::UdpSocket,
    thread,
    time::{Duration, Instant},
};
use tachyon_policy::compile::{Durability, Quota, RulesetSource};
use tachyon_segment::{
    TapReader, TapState,
    handover::{CallError, ControlEnd},
};
use tachyon_wire::{
    Reason,
    tap::{self, FRAME_WHOLE, Part},
};

/// A node file's section for a log with the smallest rings.
const LOG: &str = "[log]\nenabled = true\nring_mib = 8\n";

fn refused(control: &mut ControlEnd, worker: u16) -> String {
    match control.tap(worker) {
        Err(CallError::Refused(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn a_node_without_a_log_says_so() {
    let folder = Folder::new("no-log");
    let mut node = Node::start(&folder.0, free_base(), 1, "");
    node.hear("\"ready\"");
    let (mut control, ..) = node.connect();
    for _ in 0..2 {
        assert!(refused(&mut control, 0).contains("enabled = true in [log]"));
    }
}

#[test]
fn every_worker_has_a_tap_and_whoever_connects_gets_the_same() {
    let folder = Folder::new("taps");
    let mut node = Node::start(&folder.0, free_base(), 2, LOG);
    node.hear("\"ready\"");
    let (mut control, hello, _) = node.connect();
    let taps = [control.tap(0).unwrap(), control.tap(1).unwrap()];
    assert!(refused(&mut control, 2).contains("no worker 2"));
    let mut shards: Vec<u16> = taps.iter().flat_map(|tap| tap.answer().shards.clone()).collect();
    shards.sort_unstable();
    assert_eq!(shards, (0..SHARDS).collect::<Vec<_>>());
    for (tap, worker) in taps.iter().zip(0..) {
        let answer = tap.answer();
        assert_eq!((answer.worker, answer.boot_id, answer.ring_bytes), (worker, hello.boot_id, 8 << 20));
        assert!(answer.arena_bytes >= 512 * u64::from(answer.buffer_bytes), "the buffers of both lie there");
    }
    let answer = taps[1].answer().clone();
    drop((control, taps));
    node.hear("disconnected");
    let (mut control, ..) = node.connect();
    assert_eq!(control.tap(1).unwrap().answer(), &answer);
    assert!(node.stop());
}

/// Rules under which shard 0's topic waits for the log, shard 1's is logged and the others are neither.
fn logged_rules() -> RulesetSource {
    let mut rules = rules(5, Quota::UNLIMITED);
    rules.topics[0].durability = Durability::Durable;
    rules.topics[1].durability = Durability::Logged;
    rules
}

/// Reads the next record, waiting for it, and beats meanwhile.
#[expect(clippy::unwrap_used, reason = "in a test a failure is a panic, in its helpers too")]
fn next_record(tap: &mut TapReader, record: &mut Vec<u8>) -> u64 {
    let end = Instant::now() + PATIENCE;
    loop {
        tap.beat();
        if let Some(position) = tap.next(record).unwrap() {
            return position;
        }
        assert!(Instant::now() < end, "no record came");
        thread::sleep(Duration::from_millis(1));
    }
}

/// Reads records until one holds this frame whole, and takes it out of the arena; returns where its record ends.
#[expect(clippy::unwrap_used, reason = "in a test a failure is a panic, in its helpers too")]
fn find_frame(tap: &mut TapReader, frame: &[u8]) -> u64 {
    let (mut record, mut bytes) = (Vec::new(), Vec::new());
    loop {
        let position = next_record(tap, &mut record);
        let (turn, mut parts) = tap::read(&record).unwrap();
        assert_eq!((turn.worker.get(), turn.length.get() as usize), (0, record.len()));
        let (mut item, mut index, mut found) = (None, 0, false);
        for part in parts.by_ref() {
            match part {
                Part::Command(..) => {}
                Part::Item(next) => (item, index) = (Some(*next), 0),
                Part::Frame(part) => {
                    if part.entry.form == FRAME_WHOLE {
                        tap.frame(&item.unwrap(), index, &mut bytes).unwrap();
                        found |= bytes == frame;
                    }
                    index += 1;
                }
            }
        }
        assert!(parts.is_whole());
        tap.set_written(position);
        if found {
            return position;
        }
    }
}

#[test]
fn a_durable_message_is_recorded_and_leaves_once_control_says_that_it_is_stable() {
    let folder = Folder::new("durable");
    let mut node = Node::start(&folder.0, free_base(), 1, LOG);
    node.hear("\"ready\"");
    let (mut control, _, stats) = node.connect();
    let mut log = control.tap(0).unwrap();
    // A subscriber has a port for each shard.
    let port = free_base();
    let inboxes = [0, 1].map(|shard| UdpSocket::bind(("127.0.0.1", port + shard)).unwrap());
    let receive = |shard: usize| {
        inboxes[shard].set_read_timeout(Some(PATIENCE)).unwrap();
        inboxes[shard].recv(&mut [0; 2048]).unwrap();
    };
    control.call(&session(1)).unwrap();
    control.call(&subscriber(0, port)).unwrap();
    control.call(&ruleset(&logged_rules())).unwrap();
    let out = UdpSocket::bind("127.0.0.1:0").unwrap();
    let base = node.base;
    let send = |frame: &[u8], shard: u16| out.send_to(frame, ("127.0.0.1", base + shard)).unwrap();

    send(&frame(1, 0, 1), 0);
    let refused = Reason::PersistUnavailable.index();
    wait_for(&stats, "refused while nobody writes the log", |all| {
        all[0].messages_refused[refused] + all[0].copies_refused[refused] == 1
    });
    log.set_state(TapState::Running);
    let durable = frame(1, 0, 2);
    send(&durable, 0);
    let position = find_frame(&mut log, &durable);
    let held = wait_for(&stats, "held", |all| all[0].messages_held == 1);
    assert_eq!(held[0].copies_given, 0, "it waits");
    let logged = frame(1, 1, 1);
    log.beat();
    send(&logged, 1);
    find_frame(&mut log, &logged);
    receive(1); // what is only logged does not wait
    let held = wait_for(&stats, "one given", |all| all[0].copies_given == 1);
    assert_eq!(held[0].messages_held, 1);
    log.set_stable(position);
    receive(0);
    let all = wait_for(&stats, "all given", |all| all[0].copies_given == 2 && all[0].messages_held == 0);
    assert_eq!((all[0].unaccounted(), stats.status(0).unwrap().heap_calls), ([0; 3], 0));

    // Control dies, and the log with it: at once, and not after a silence.
    drop((control, log));
    node.hear("disconnected");
    send(&frame(1, 0, 3), 0);
    wait_for(&stats, "refused again", |all| all[0].messages_refused[refused] + all[0].copies_refused[refused] == 2);
    let (mut control, ..) = node.connect();
    let mut log = control.tap(0).unwrap();
    assert_eq!(log.position(), position, "what was not stable is read again");
    log.set_state(TapState::Running);
    find_frame(&mut log, &logged);
    assert!(node.stop());
}
