//! Every position of a log is one from which an exporter goes on exactly: also between frames of one turn, between frames and their
//! decisions, and where the turn begins in a segment that is not read any more.

mod support;

use std::fs;
use support::{Folder, Writer, shard_folder};
use tachyon_jetstream::{
    Decided,
    event::Grain,
    positions::Position,
    shard::{Ready, Shard},
};
use tachyon_log::format::segment_of;

const SEED: u64 = 9;

/// What is told apart of an event: identity, payload, and when.
fn told(ready: &Ready) -> (String, Vec<u8>, Option<u64>) {
    (ready.event.id.clone(), ready.event.payload.to_vec(), ready.unix_ns())
}

/// At most so many events of a shard.
fn events(shard: &mut Shard<Decided>, most: usize) -> Vec<Ready> {
    let mut found = Vec::new();
    while found.len() < most {
        match shard.take_next().expect("a sound log") {
            Some(ready) => found.push(ready),
            None if shard.is_at_end().expect("a sound log") => break,
            None => {}
        }
    }
    found
}

#[test]
fn what_comes_behind_a_position_is_always_the_same() {
    let folder = Folder::new("positions");
    let log = folder.0.join("log");
    let mut writer = Writer::new(&log, 0, SEED);
    for index in 0..2_000 {
        writer.frame();
        if index % 3 == 0 {
            writer.commit();
        }
        if index % 200 == 199 {
            writer.crash();
        }
    }
    writer.finish();
    let path = shard_folder(&log, 0);
    let names = fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut starts: Vec<u64> = names.filter_map(|name| segment_of(&name)).collect();
    starts.sort_unstable();
    for grain in [Grain::Messages, Grain::Frames] {
        let all = events(&mut Shard::new(&path, 0, grain, Decided::default, None), usize::MAX);
        let written = if grain == Grain::Messages { &writer.messages } else { &writer.frames };
        assert!(all.iter().map(|ready| &ready.event.id).eq(written.iter().map(|written| &written.id)));
        let (mut tried, mut across) = (0, 0);
        for (index, ready) in all.iter().enumerate() {
            let (record, decided) = (written[index].record, written[index].decided);
            let is_near = |start: &&u64| record + 6 >= **start && record < **start + 6;
            let Some(start) = starts.iter().find(is_near) else { continue };
            let position = Position {
                log_id: [1; 16],
                place: ready.event.place,
                mark: Some(ready.mark),
                stream_sequence: 1,
                clock: ready.clock,
            };
            let mut shard = Shard::new(&path, 0, grain, Decided::default, Some(&position));
            let expected: Vec<_> = all[index + 1..].iter().take(20).map(told).collect();
            let found: Vec<_> = events(&mut shard, 20).iter().map(told).collect();
            assert_eq!(found, expected, "behind message {index}, record {record} decided by {decided}");
            tried += 1;
            across += usize::from(record < *start && *start <= decided);
        }
        assert!(starts.len() > 5 && tried > 50 && across > 0, "{tried} positions, {across} of them across segments");
    }
}
