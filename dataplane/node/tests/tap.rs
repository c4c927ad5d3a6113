//! The truth log's taps of a `tachyond`, from the side of whoever writes the log.

mod node;

use node::{Folder, Node, SHARDS, free_base};
use tachyon_segment::handover::{CallError, ControlEnd};

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
