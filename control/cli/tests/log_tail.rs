//! `tachyon log tail`: the newest records, filters, and following a log that is being written.

mod logs;

use logs::Logs;
use serde_json::Value;
use std::{
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::mpsc,
    thread,
    time::Duration,
};

/// Only a program that hangs ever takes this long.
const PATIENCE: Duration = Duration::from_secs(60);

/// A program that ends with its test, also when that fails.
struct Follower(Child);

impl Drop for Follower {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn tail(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_tachyon")).args(["log", "tail"]).args(arguments).output();
    let output = output.expect("the program can be run");
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("text")
}

fn lines(text: &str) -> Vec<Value> {
    text.lines().map(|line| serde_json::from_str(line).expect("a JSON line")).collect()
}

fn sequences(lines: &[Value]) -> Vec<u64> {
    lines.iter().map(|line| line["sequence"].as_u64().expect("a number")).collect()
}

#[test]
fn the_newest_records_come_last_over_segments_and_shards() {
    let logs = Logs::new(&[0], 40);
    assert!(logs.segments(0).len() > 3, "{:?}", logs.segments(0));
    // A boot, 40 frames with their decisions, 5 checkpoints: 0 to 85.
    let all = lines(&tail(&["-n", "1000", "--json", "--directory", logs.path()]));
    assert!(sequences(&all).into_iter().eq(0..86), "every record, in order");
    let some = lines(&tail(&["-n", "50", "--json", "--directory", logs.path()]));
    assert_eq!(some, all[36..], "the same of them, with the same times");
    assert_eq!(tail(&["-n", "0", "--directory", logs.path()]), "");

    let two = Logs::new(&[0, 1], 10);
    let found = lines(&tail(&["-n", "6", "--json", "--directory", two.path()]));
    let places: Vec<_> = found.iter().map(|line| (line["sequence"].as_u64(), line["shard"].as_u64())).collect();
    let expected = [19, 20, 21].map(|sequence| [(Some(sequence), Some(0)), (Some(sequence), Some(1))]);
    assert_eq!(places, expected.concat(), "by their ticks, which are of one clock");
}

#[test]
fn a_person_sees_a_line_for_each_frame_and_message() {
    let logs = Logs::new(&[4], 1);
    let text = tail(&["--directory", logs.path()]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("2026-01-01T00:00:00.000000000Z  shard 4  #0  clock, a boot begins"), "{text}");
    assert!(
        lines[1].contains("shard 4  #1  data, 1 message, session 65544 epoch 5 frame 5001, 128 bytes from 192.0.2.7"),
        "{text}"
    );
    assert!(lines[2].starts_with("      0  topic 19  sender 150  P"), "{text}");
    let decided = "#2  decisions, worker 1 turn 0 under ruleset 9, pressure 2: 3 frames (1 whole, 1 E_AUTH_NO_SESSION), 4 messages \
                   (4 accepted)";
    assert!(lines[3].ends_with(decided), "{text}");
}

#[test]
fn filters_show_frames_and_messages_that_all_of_them_let_pass() {
    let logs = Logs::new(&[4], 16);
    let frames = |arguments: &[&str]| {
        let text = tail(&[&["-n", "1000", "--json", "--directory", logs.path()], arguments].concat());
        let lines = lines(&text);
        assert!(lines.iter().all(|line| line["kind"] == "frame"));
        let messages = lines.iter().flat_map(|line| line["messages"].as_array().expect("a list").clone());
        (lines.len(), messages.collect::<Vec<Value>>())
    };
    // Each sort of frame comes four times. Sender 120 has one message of 22 in one sort, and three of five in another, which
    // alone is of session 65543.
    let (count, messages) = frames(&["--sender", "120"]);
    assert_eq!((count, messages.len()), (8, 16));
    let (count, messages) = frames(&["--sender", "120", "--session", "65543"]);
    assert_eq!((count, messages.len()), (4, 12));
    assert!(messages.iter().all(|message| message["sender_id"] == 120 && message["mode"] == "arena"));
    let topic = messages[0]["topic_id"].to_string();
    let (count, both) = frames(&["--sender", "120", "--topic", &topic, "--session", "65543"]);
    assert_eq!((count, both.len()), (4, 12));
    assert_eq!(frames(&["--sender", "120", "--topic", "999999"]).0, 0);
    assert_eq!(frames(&["--sender", "120", "--session", "1"]).0, 0);
    assert_eq!(frames(&["--session", "65543", "--session", "65544"]).0, 16);
}

#[test]
fn following_shows_what_is_appended_across_rotations_of_two_shards() {
    let logs = Logs::new(&[0, 1], 2);
    let before: Vec<usize> = [0, 1].map(|shard| logs.segments(shard).len()).to_vec();
    let child = Command::new(env!("CARGO_BIN_EXE_tachyon"))
        .args(["log", "tail", "--follow", "-n", "2", "--json", "--directory", logs.path()])
        .stdout(Stdio::piped())
        .spawn();
    let mut follower = Follower(child.expect("the program can be run"));
    let out = BufReader::new(follower.0.stdout.take().expect("a pipe"));
    let (send, received) = mpsc::channel();
    thread::spawn(move || out.lines().map_while(Result::ok).try_for_each(|line| send.send(line)));
    let next = || -> Value {
        let line = received.recv_timeout(PATIENCE).expect("a line before the patience ends");
        serde_json::from_str(&line).expect("a JSON line")
    };
    let first = [next(), next()];
    assert_eq!(first.map(|line| line["sequence"].as_u64()), [Some(4), Some(4)], "the newest of both");

    let mut seen = [4_u64, 4];
    for round in 0..3 {
        for shard in [0_u16, 1] {
            let mut writer = logs.writer(shard);
            writer.frames(20 + round);
            let end = writer.log.next_sequence();
            let place = usize::from(shard);
            while seen[place] + 1 < end {
                let line = next();
                assert_eq!((&line["shard"], &line["sequence"]), (&shard.into(), &(seen[place] + 1).into()));
                seen[place] += 1;
            }
            writer.finish();
        }
    }
    for shard in [0, 1] {
        assert!(logs.segments(shard).len() >= before[usize::from(shard)] + 3, "it was rotated");
    }
    assert!(follower.0.try_wait().expect("our own child").is_none(), "it follows until it is told to end");
    let told = Command::new("kill").args(["-INT", &follower.0.id().to_string()]).status().expect("kill can be run");
    assert!(told.success());
    follower.0.wait().expect("our own child");
    assert!(received.recv_timeout(PATIENCE).is_err(), "and then it says nothing more");
}
