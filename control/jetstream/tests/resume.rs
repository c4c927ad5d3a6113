//! Ways in which an exporter comes back: what it finds then, and that the stream is still the log.

mod support;

use async_nats::jetstream::{context::Context, stream::Config};
use std::{fs, path::Path, process::Command, thread, time::Duration};
use support::{Folder, Running, Server, Writer, compare, export_well, exporter, nats_server, settings};

const SEED: u64 = 5;

/// A server, a log of one shard, and the exporter's file.
struct Scene {
    folder: Folder,
    server: Server,
    writer: Writer,
    file: std::path::PathBuf,
}

impl Scene {
    fn new(name: &str, more: &str) -> Option<Self> {
        let program = nats_server()?;
        let folder = Folder::new(name);
        let mut server = Server::new(&program, &folder);
        server.start();
        let file = settings(&folder, server.port, more);
        let writer = Writer::new(&folder.0.join("log"), 0, SEED);
        Some(Self { folder, server, writer, file })
    }

    fn append(&mut self, frames: usize) {
        for index in 0..frames {
            self.writer.frame();
            if index % 7 == 6 {
                self.writer.commit();
            }
        }
        self.writer.finish();
    }

    /// The stream is the whole log.
    fn compare(&self) {
        let stored = self.server.read("TACHYON");
        compare(&stored, 0, &self.writer.messages);
        assert_eq!(stored.len(), self.writer.messages.len());
    }

    /// Waits until the stream has this many messages.
    fn wait_for(&self, messages: usize) {
        for _ in 0..6_000 {
            if self.server.with(count) == messages as u64 {
                return;
            }
            thread::sleep(Duration::from_millis(10));
        }
        panic!("the stream never has {messages} messages");
    }
}

async fn count(context: Context) -> u64 {
    match context.get_stream("TACHYON").await {
        Ok(stream) => stream.cached_info().state.messages,
        Err(_) => 0,
    }
}

fn copy(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    assert!(Command::new("cp").arg("-a").args([from, to]).status().expect("cp").success());
}

#[test]
fn frames_go_out_whole() {
    let Some(mut scene) = Scene::new("frames", "") else { return };
    scene.append(100);
    export_well(&scene.file, &["--frames"]);
    scene.append(100);
    export_well(&scene.file, &["--frames"]);
    let stored = scene.server.read("TACHYON");
    compare(&stored, 0, &scene.writer.frames);
    assert_eq!(stored.len(), scene.writer.frames.len());
    assert!(stored.len() > 150, "{} of 200 have an accepted message", stored.len());
}

#[test]
fn refused_messages_go_out_only_where_that_is_asked_for() {
    let Some(mut scene) = Scene::new("refused", "refused_too = true\n") else { return };
    scene.append(300);
    export_well(&scene.file, &[]);
    compare(&scene.server.read("TACHYON"), 0, &scene.writer.every);
    assert!(scene.writer.messages.len() < scene.writer.every.len() * 9 / 10, "one in five is refused");
    // From here on only accepted ones, behind what is there.
    settings(&scene.folder, scene.server.port, "");
    let (before, every) = (scene.writer.messages.len(), scene.writer.every.clone());
    scene.append(300);
    export_well(&scene.file, &[]);
    compare(&scene.server.read("TACHYON"), 0, &[&every, &scene.writer.messages[before..]].concat());
}

#[test]
fn a_frame_goes_out_when_it_is_decided_wherever_exporters_ended_before() {
    let Some(mut scene) = Scene::new("decided", "") else { return };
    let mut waited = 0;
    for round in 0..30 {
        for _ in 0..=round % 4 {
            scene.writer.frame();
        }
        // The log ends between frames and their decisions, and so does the exporter; every third time all it knows is the stream.
        scene.writer.finish_undecided();
        if round % 3 == 0 {
            let _ = fs::remove_dir_all(scene.folder.0.join("state"));
        }
        assert!(!export_well(&scene.file, &[]).contains("left out"), "what waits may yet be decided");
        compare(&scene.server.read("TACHYON"), 0, &scene.writer.messages);
        let before = scene.writer.messages.len();
        scene.writer.finish();
        waited += usize::from(scene.writer.messages.len() > before);
    }
    assert!(waited > 5, "{waited} rounds left frames waiting");
    export_well(&scene.file, &[]);
    scene.compare();
}

#[test]
fn frames_that_a_crash_left_undecided_are_left_out_and_counted() {
    let Some(mut scene) = Scene::new("undecided", "") else { return };
    let mut left_out = 0;
    for _ in 0..20 {
        scene.append(3);
        (0..3).for_each(|_| scene.writer.frame());
        left_out += scene.writer.crash();
    }
    scene.append(3);
    let output = exporter(&scene.file, &["--until-end", "--json"]).output().unwrap();
    assert!(output.status.success() && left_out > 10, "{left_out}");
    let last = String::from_utf8(output.stdout).unwrap();
    let last: serde_json::Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    assert_eq!(last["undecided"], left_out);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("are left out: the log does not say what became of them"), "{said}");
    scene.compare();
}

#[test]
fn a_server_that_is_away_is_waited_for() {
    let Some(mut scene) = Scene::new("away", "") else { return };
    scene.server.kill();
    scene.append(300);
    let mut running = Running::new(&scene.file, &[]);
    running.until_said(&format!("waiting for nats://127.0.0.1:{}", scene.server.port));
    scene.server.start();
    running.until_said("goes on");
    scene.wait_for(scene.writer.messages.len());
    scene.server.kill();
    running.until_said("the connection broke");
    scene.server.start();
    scene.append(300);
    scene.wait_for(scene.writer.messages.len());
    running.stop();
    scene.compare();
    assert_eq!(export_well(&scene.file, &[]), "");
    scene.compare();
}

#[test]
fn it_ends_well_while_it_waits() {
    let Some(mut scene) = Scene::new("ends", "") else { return };
    scene.server.kill();
    scene.append(3);
    let mut running = Running::new(&scene.file, &["--json"]);
    running.until_said("waiting for");
    running.stop();
}

#[test]
fn what_flies_is_acknowledged_and_stored_before_it_ends() {
    let Some(mut scene) = Scene::new("flush", "unacknowledged_max = 256\n") else { return };
    scene.append(4_000);
    let mut running = Running::new(&scene.file, &[]);
    running.until_said("made stream TACHYON");
    running.stop();
    let text = fs::read_to_string(scene.folder.0.join("state/TACHYON.json")).unwrap();
    let stored: serde_json::Value = serde_json::from_str(&text).unwrap();
    let in_stream = scene.server.with(count);
    // Ended before its first message it has no position yet.
    assert_eq!(stored["shards"]["0"]["stream_sequence"].as_u64().unwrap_or(0), in_stream);
    export_well(&scene.file, &[]);
    scene.compare();
}

#[test]
fn positions_that_were_lost_are_in_the_stream() {
    let Some(mut scene) = Scene::new("positions", "") else { return };
    scene.append(300);
    export_well(&scene.file, &[]);
    fs::remove_dir_all(scene.folder.0.join("state")).unwrap();
    scene.append(300);
    export_well(&scene.file, &[]);
    scene.compare();
}

#[test]
fn what_the_stream_forgot_is_in_the_positions() {
    let more = "[stream]\nmessages_max = 50\nwhen_full = \"remove-oldest\"\n";
    let Some(mut scene) = Scene::new("limits", more) else { return };
    scene.append(300);
    export_well(&scene.file, &[]);
    // Nothing at all is left in the stream to say how far it was.
    scene.server.with(|context| async move {
        context.get_stream("TACHYON").await.unwrap().purge().await.unwrap();
    });
    let before = scene.writer.messages.len();
    scene.append(5);
    export_well(&scene.file, &[]);
    compare(&scene.server.read("TACHYON"), 0, &scene.writer.messages[before..]);
}

#[test]
fn a_full_stream_is_waited_for() {
    let more = "unacknowledged_max = 64\n[stream]\nmessages_max = 50\n";
    let Some(mut scene) = Scene::new("full", more) else { return };
    scene.append(40);
    let mut running = Running::new(&scene.file, &[]);
    running.until_said("waiting for stream TACHYON to take messages");
    scene.wait_for(50);
    compare(&scene.server.read("TACHYON"), 0, &scene.writer.messages[..50]);
    // Room for the rest, a part at a time.
    let mut exported = 50;
    while exported < scene.writer.messages.len() {
        scene.server.with(|context| async move {
            context.get_stream("TACHYON").await.unwrap().purge().await.unwrap();
        });
        let next = (exported + 50).min(scene.writer.messages.len());
        scene.wait_for(next - exported);
        compare(&scene.server.read("TACHYON"), 0, &scene.writer.messages[exported..next]);
        exported = next;
    }
    running.stop();
}

#[test]
fn what_the_server_lost_is_sent_again() {
    let Some(mut scene) = Scene::new("lost", "") else { return };
    let (store, old) = (scene.folder.0.join("nats"), scene.folder.0.join("nats-before"));
    scene.append(200);
    export_well(&scene.file, &[]);
    scene.server.kill();
    copy(&store, &old);
    scene.server.start();
    scene.append(200);
    export_well(&scene.file, &[]);
    // As after a power failure: the server's disk is what it was before.
    scene.server.kill();
    fs::remove_dir_all(&store).unwrap();
    copy(&old, &store);
    scene.server.start();
    scene.append(200);
    let said = export_well(&scene.file, &[]);
    assert!(said.contains("that it had acknowledged; they are sent again"), "{said}");
    scene.compare();
}

#[test]
fn a_stream_that_was_deleted_is_made_anew_and_goes_on() {
    let Some(mut scene) = Scene::new("deleted", "") else { return };
    scene.append(100);
    export_well(&scene.file, &[]);
    let running = Running::new(&scene.file, &[]);
    scene.append(100);
    scene.wait_for(scene.writer.messages.len());
    scene.server.with(|context| async move {
        context.delete_stream("TACHYON").await.unwrap();
    });
    let before = scene.writer.messages.len();
    scene.append(100);
    scene.wait_for(scene.writer.messages.len() - before);
    let said = running.stop();
    assert!(said.contains("made stream TACHYON") && said.contains("was made anew since"), "{said}");
    compare(&scene.server.read("TACHYON"), 0, &scene.writer.messages[before..]);
}

#[test]
fn a_message_that_the_log_has_twice_is_there_once() {
    let Some(mut scene) = Scene::new("twice", "") else { return };
    for _ in 0..20 {
        scene.append(10);
        scene.writer.replay();
        scene.append(3);
    }
    let output = exporter(&scene.file, &["--until-end", "--json"]).output().unwrap();
    assert!(output.status.success());
    let last = String::from_utf8(output.stdout).unwrap();
    let last: serde_json::Value = serde_json::from_str(last.lines().last().unwrap()).unwrap();
    assert!(last["duplicates"].as_u64().unwrap() >= 20, "{last}");
    assert_eq!(last["state"], "ended");
    scene.compare();
}

/// The hardest case of messages that are still on their way when somebody else has read where the stream ends: with several
/// shards, both chains are right, and different.
#[test]
fn two_exporters_at_once_leave_the_stream_right() {
    let more = "unacknowledged_max = 64\n[stream]\nduplicate_window_ms = 100\n";
    let Some(mut scene) = Scene::new("two", more) else { return };
    let log = scene.folder.0.join("log");
    let mut others: Vec<Writer> = (1..4).map(|shard| Writer::new(&log, shard, SEED)).collect();
    for _ in 0..40 {
        scene.append(7);
        for other in &mut others {
            (0..10).for_each(|_| other.frame());
            other.commit();
        }
    }
    others.iter_mut().for_each(Writer::finish);
    let state = scene.folder.0.join("state-of-the-other");
    let mut both: Vec<_> = [scene.folder.0.join("state"), state]
        .iter()
        .map(|state| {
            let state = state.to_str().unwrap();
            exporter(&scene.file, &["--until-end", "--state-dir", state]).spawn().unwrap()
        })
        .collect();
    assert!(both.iter_mut().all(|one| one.wait().unwrap().success()));
    let stored = scene.server.read("TACHYON");
    compare(&stored, 0, &scene.writer.messages);
    for (shard, other) in (1..4).zip(&others) {
        compare(&stored, shard, &other.messages);
    }
}

#[test]
fn shards_are_found_when_they_come() {
    let Some(mut scene) = Scene::new("shards", "") else { return };
    scene.append(50);
    let running = Running::new(&scene.file, &[]);
    scene.wait_for(scene.writer.messages.len());
    let mut other = Writer::new(&scene.folder.0.join("log"), 12, SEED);
    (0..50).for_each(|_| other.frame());
    other.finish();
    scene.wait_for(scene.writer.messages.len() + other.messages.len());
    scene.append(50);
    scene.wait_for(scene.writer.messages.len() + other.messages.len());
    running.stop();
    let stored = scene.server.read("TACHYON");
    compare(&stored, 0, &scene.writer.messages);
    compare(&stored, 12, &other.messages);
}

#[test]
fn exporters_of_chosen_shards_have_streams_of_their_own() {
    let Some(mut scene) = Scene::new("chosen", "shards = [0]\n[stream]\nname = \"ZERO\"\n") else { return };
    scene.append(50);
    let mut other = Writer::new(&scene.folder.0.join("log"), 1, SEED);
    (0..50).for_each(|_| other.frame());
    other.finish();
    export_well(&scene.file, &[]);
    let of_other = settings(&scene.folder, scene.server.port, "shards = [1]\n[stream]\nname = \"ONE\"\n");
    export_well(&of_other, &[]);
    compare(&scene.server.read("ZERO"), 0, &scene.writer.messages);
    compare(&scene.server.read("ONE"), 1, &other.messages);
    let config: Config = scene
        .server
        .with(|context| async move { context.get_stream("ZERO").await.unwrap().cached_info().config.clone() });
    assert_eq!(config.subjects, ["tachyon.0.*"]);
}
