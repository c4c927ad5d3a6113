//! The exporter and the server are killed with SIGKILL again and again while logs grow and rotate; in the end the stream
//! holds exactly what the logs hold. `TACHYON_NATS_KILLS` says how many times, 40 if it is not set; `TACHYON_NATS_SEED` begins
//! another series.

mod support;

use std::{
    env,
    process::{Child, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};
use support::{Folder, Server, Writer, compare, export_well, exporter, nats_server, settings};
use tachyon_log::fault::Random;

/// Three shards, so that their events mix in one stream.
const SHARDS: u16 = 3;
/// Far shorter than what a crash takes, so that the server's own memory of identities helps nobody.
const WINDOW: &str = "[stream]\nduplicate_window_ms = 100\n";

fn number(name: &str, otherwise: u64) -> u64 {
    env::var(name).map_or(otherwise, |text| text.parse().expect("a number"))
}

/// Appends to all shards until it is told to stop, with commits of any size.
fn write(writers: &mut [Writer], seed: u64, stop: &AtomicBool) {
    let mut random = Random::new(seed);
    while !stop.load(Ordering::Relaxed) {
        for writer in &mut *writers {
            for _ in 0..random.below(6) {
                writer.frame();
            }
            writer.commit();
        }
        // What is appended has to be read back at the end, so it is not as much as the disk would take.
        thread::sleep(Duration::from_micros(random.below(8_000)));
    }
    writers.iter_mut().for_each(Writer::finish);
}

fn start(settings: &std::path::Path) -> Child {
    exporter(settings, &[]).stderr(Stdio::null()).spawn().expect("the exporter starts")
}

fn kill(mut child: Child) {
    assert_eq!(child.try_wait().expect("our own child"), None, "it ended by itself");
    child.kill().expect("our own child");
    child.wait().expect("our own child");
}

#[test]
fn the_stream_is_the_log_however_often_both_sides_are_killed() {
    let Some(program) = nats_server() else { return };
    let (kills, seed) = (number("TACHYON_NATS_KILLS", 40), number("TACHYON_NATS_SEED", 20));
    println!("seed {seed}, {kills} kills");
    let folder = Folder::new("kill");
    let mut server = Server::new(&program, &folder);
    // Few unacknowledged in some series, many in others: one chain may end in any of its messages.
    let unacknowledged = [1, 16, 512, 4_096][usize::try_from(seed % 4).unwrap()];
    let file = settings(&folder, server.port, &format!("unacknowledged_max = {unacknowledged}\n{WINDOW}"));
    let log = folder.0.join("log");
    let mut writers: Vec<Writer> = (0..SHARDS).map(|shard| Writer::new(&log, shard, seed)).collect();
    let stop = AtomicBool::new(false);
    let mut random = Random::new(seed);
    thread::scope(|scope| {
        let writing = scope.spawn(|| write(&mut writers, seed, &stop));
        server.start();
        let mut running = start(&file);
        for _ in 0..kills {
            thread::sleep(Duration::from_millis(random.below(250)));
            let whom = random.below(3);
            if whom != 1 {
                kill(running);
                running = start(&file);
            }
            if whom != 0 {
                server.kill();
                // Sometimes it is away for longer than the window.
                thread::sleep(Duration::from_millis(if random.one_in(4) { 150 } else { 0 }));
                server.start();
            }
        }
        stop.store(true, Ordering::Relaxed);
        writing.join().expect("the writer");
        kill(running);
    });
    let said = export_well(&file, &["--json"]);
    let stored = server.read("TACHYON");
    println!("{} messages in the stream; the last exporter said: {said}", stored.len());
    let written: usize = writers.iter().map(|writer| writer.messages.len()).sum();
    for (shard, writer) in (0..SHARDS).zip(&writers) {
        compare(&stored, shard, &writer.messages);
    }
    assert_eq!(stored.len(), written);
    assert_eq!(export_well(&file, &[]), "", "nothing is left to say");
    assert_eq!(server.read("TACHYON").len(), written, "a run with nothing to do publishes nothing");
}
