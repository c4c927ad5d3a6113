//! What stops the exporter: it says so, ends with 1, and has exported everything before that.

mod support;

use async_nats::jetstream::stream::{Config, StorageType};
use std::{fs, path::PathBuf};
use support::{Folder, Server, Writer, compare, export, export_well, nats_server, settings, shard_folder};
use tachyon_log::format::{BLOCK, CommitHeader};

const SEED: u64 = 6;

struct Scene {
    folder: Folder,
    server: Server,
    file: PathBuf,
}

impl Scene {
    fn new(name: &str) -> Option<Self> {
        let program = nats_server()?;
        let folder = Folder::new(name);
        let mut server = Server::new(&program, &folder);
        server.start();
        let file = settings(&folder, server.port, "");
        Some(Self { folder, server, file })
    }

    fn log(&self) -> PathBuf {
        self.folder.0.join("log")
    }

    fn writer(&self) -> Writer {
        Writer::new(&self.log(), 0, SEED)
    }

    /// Runs an exporter, which has to fail; returns what it said.
    fn fails(&self, words: &[&str]) -> String {
        let output = export(&self.file, words);
        let said = String::from_utf8(output.stderr).expect("text");
        assert_eq!(output.status.code(), Some(1), "{said}");
        said
    }
}

fn append(writer: &mut Writer, frames: usize) {
    for index in 0..frames {
        writer.frame();
        if index % 5 == 4 {
            writer.commit();
        }
    }
    writer.finish();
}

#[test]
fn a_stream_that_is_made_otherwise_is_not_used() {
    let Some(scene) = Scene::new("otherwise") else { return };
    append(&mut scene.writer(), 10);
    scene.server.with(|context| async move {
        let subjects = vec!["tachyon.*.*".into()];
        let config = Config { name: "TACHYON".into(), subjects, storage: StorageType::Memory, ..Config::default() };
        context.create_stream(config).await.unwrap();
    });
    let said = scene.fails(&[]);
    assert!(said.contains("storage is Memory and has to be File"), "{said}");
    assert!(said.contains("discard is Old and has to be New"), "{said}");
    assert!(said.contains("change the stream, or the settings"), "{said}");
}

#[test]
fn a_stream_of_others_with_our_subjects_is_told() {
    let Some(scene) = Scene::new("overlap") else { return };
    append(&mut scene.writer(), 10);
    scene.server.with(|context| async move {
        let config = Config { name: "OTHERS".into(), subjects: vec!["tachyon.>".into()], ..Config::default() };
        context.create_stream(config).await.unwrap();
    });
    let said = scene.fails(&[]);
    assert!(said.contains("another stream has subjects of this prefix"), "{said}");
}

#[test]
fn a_message_of_others_in_the_stream_is_told() {
    let Some(scene) = Scene::new("others") else { return };
    let mut writer = scene.writer();
    append(&mut writer, 10);
    export_well(&scene.file, &[]);
    scene.server.with(|context| async move {
        context.publish("tachyon.0.1", "mine".into()).await.unwrap().await.unwrap();
    });
    append(&mut writer, 10);
    let said = scene.fails(&[]);
    assert!(said.contains("was not written by this program"), "{said}");
}

/// Where the commits of a segment lie.
fn commits(segment: &[u8]) -> Vec<(usize, CommitHeader)> {
    let mut at = BLOCK;
    let mut found = Vec::new();
    while let Some(header) = segment.get(at..).and_then(CommitHeader::parse) {
        found.push((at, header));
        at += header.bytes as usize;
    }
    found
}

#[test]
fn a_damaged_log_is_exported_up_to_the_damage() {
    let Some(scene) = Scene::new("damaged") else { return };
    let mut writer = scene.writer();
    append(&mut writer, 60);
    let path = shard_folder(&scene.log(), 0).join(tachyon_log::format::segment_name(0));
    let whole = fs::read(&path).unwrap();
    let (at, header) = commits(&whole)[6];
    // A bit of a record, one of the commit's header, and all of it as if it had never been written.
    let end = at + header.bytes as usize;
    for damage in 0..3 {
        let mut bytes = whole.clone();
        match damage {
            0 => bytes[at + 300] ^= 4,
            1 => bytes[at + 9] ^= 1,
            _ => bytes[at..end].fill(0),
        }
        fs::write(&path, bytes).unwrap();
        let said = scene.fails(&[]);
        assert!(
            said.contains("shard 0: the log is damaged") && said.contains("in commit 6") || said.contains("commit 6 "),
            "{said}"
        );
        let before: Vec<_> =
            writer.messages.iter().filter(|message| message.decided < header.first_sequence).cloned().collect();
        compare(&scene.server.read("TACHYON"), 0, &before);
    }
    fs::write(&path, &whole).unwrap();
    export_well(&scene.file, &[]);
    compare(&scene.server.read("TACHYON"), 0, &writer.messages);
}

#[test]
fn a_write_that_a_crash_cut_short_is_the_end_and_no_damage() {
    let Some(scene) = Scene::new("torn") else { return };
    let mut writer = scene.writer();
    append(&mut writer, 30);
    let path = shard_folder(&scene.log(), 0).join(tachyon_log::format::segment_name(0));
    let whole = fs::read(&path).unwrap();
    let all = commits(&whole);
    let (at, header) = *all.iter().rev().find(|(_, header)| header.records > 0).unwrap();
    // Of the last commit with records only the first sector arrived, and of what is behind it nothing.
    let mut bytes = whole.clone();
    bytes[at + 512..].fill(0);
    fs::write(&path, bytes).unwrap();
    export_well(&scene.file, &[]);
    let before: Vec<_> =
        writer.messages.iter().filter(|message| message.decided < header.first_sequence).cloned().collect();
    compare(&scene.server.read("TACHYON"), 0, &before);
    // It arrives after all.
    fs::write(&path, &whole).unwrap();
    export_well(&scene.file, &[]);
    compare(&scene.server.read("TACHYON"), 0, &writer.messages);
}

#[test]
fn what_retention_removed_before_it_was_exported_is_counted() {
    let Some(scene) = Scene::new("retention") else { return };
    let mut writer = scene.writer();
    append(&mut writer, 100);
    export_well(&scene.file, &[]);
    let exported = writer.messages.clone();
    append(&mut writer, 4_000);
    writer.retain(3 * support::SEGMENT_BYTES);
    writer.finish();
    let names = fs::read_dir(shard_folder(&scene.log(), 0)).unwrap();
    let names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let first = names.filter_map(|name| tachyon_log::format::segment_of(&name)).min().unwrap();
    assert!(first > 0);
    let output = export(&scene.file, &["--json"]);
    let said = String::from_utf8(output.stderr).unwrap();
    let missed = first - (exported.last().unwrap().record + 1);
    assert!(said.contains(&format!("{missed} records were removed from the log before they were exported")), "{said}");
    let lines = String::from_utf8(output.stdout).unwrap();
    let last: serde_json::Value = serde_json::from_str(lines.lines().last().unwrap()).unwrap();
    assert_eq!(last["records_missed"], missed);
    let left = writer.messages.iter().filter(|message| message.record >= first).cloned();
    let all: Vec<_> = exported.into_iter().chain(left).collect();
    let stored = scene.server.read("TACHYON");
    assert_eq!(stored.len(), all.len());
    // The clock record went with the first segment, yet what was known of it is kept with the position.
    compare(&stored, 0, &all);
}

#[test]
fn a_log_that_was_set_back_is_not_exported_over() {
    let Some(scene) = Scene::new("set-back") else { return };
    let mut writer = scene.writer();
    append(&mut writer, 40);
    let path = shard_folder(&scene.log(), 0).join(tachyon_log::format::segment_name(0));
    let before = fs::read(&path).unwrap();
    append(&mut writer, 40);
    export_well(&scene.file, &[]);
    drop(writer);
    let stored = scene.server.read("TACHYON").len();
    // Shorter than what was exported.
    fs::write(&path, before).unwrap();
    let said = scene.fails(&[]);
    assert!(said.contains("it was set back"), "{said}");
    // As long, with something else in it.
    append(&mut Writer::new(&scene.log(), 0, SEED + 1), 60);
    let said = scene.fails(&[]);
    assert!(said.contains("it was set back"), "{said}");
    assert_eq!(scene.server.read("TACHYON").len(), stored);
}

#[test]
fn another_log_in_its_place_is_not_exported() {
    let Some(scene) = Scene::new("other-log") else { return };
    append(&mut scene.writer(), 40);
    export_well(&scene.file, &[]);
    fs::remove_dir_all(scene.log()).unwrap();
    append(&mut Writer::with_log_id(&scene.log(), 0, SEED, [99; 16]), 40);
    let said = scene.fails(&[]);
    assert!(said.contains("another log than the one that was exported"), "{said}");
    // Nor without positions: the stream knows as well.
    fs::remove_dir_all(scene.folder.0.join("state")).unwrap();
    let said = scene.fails(&[]);
    assert!(said.contains("another log than the one that was exported"), "{said}");
}

#[test]
fn a_second_exporter_on_the_same_positions_is_refused() {
    let Some(scene) = Scene::new("second") else { return };
    append(&mut scene.writer(), 10);
    let mut running = support::Running::new(&scene.file, &[]);
    running.until_said("made stream TACHYON");
    let said = scene.fails(&[]);
    assert!(said.contains("another exporter to stream TACHYON runs"), "{said}");
    running.stop();
}

#[test]
fn positions_that_are_not_ours_are_not_used() {
    let Some(scene) = Scene::new("not-ours") else { return };
    append(&mut scene.writer(), 10);
    export_well(&scene.file, &[]);
    let path = scene.folder.0.join("state/TACHYON.json");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, &text[..text.len() / 2]).unwrap();
    let said = scene.fails(&[]);
    assert!(said.contains("is not what an exporter wrote; remove it"), "{said}");
}
