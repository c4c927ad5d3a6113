//! The truth log, from the taps of a node over the socket to the files.

use crate::support::{Control, Folder, Node, Tapped, eventually_some};
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, memfd_create};
use std::{fs::File, os::fd::OwnedFd, os::unix::fs::FileExt, path::Path};
use tachyon_config::ControlFile;
use tachyon_log::{Cursor, ReadOnly, Record, Verifier, cursor::Item as LogItem, verify::verify};
use tachyon_proto::v1::{LogStatus, StatusRequest};
use tachyon_segment::{TapRing, TapWriter, handover::TapAnswer};
use tachyon_wire::{
    Endpoint, Reason,
    tap::{ENTRY_DURABLE, FRAME_WHOLE, FrameEntry, Item, KIND_TURN, TURN_DURABLE, Turn},
};
use zerocopy::{FromZeros, IntoBytes};

const BUFFER_BYTES: u32 = 4096;
const HEADROOM_BYTES: u32 = 128;
const FRAME: &[u8; 128] = &[0x5a; 128];

/// A worker's tap, its part and ours. Buffer 3 of its arena holds the frame.
fn tap(worker: u16, shards: &[u16], boot_id: [u8; 16]) -> (Tapped, TapWriter) {
    let mut ring = TapRing::create(worker, boot_id, 1 << 20).unwrap();
    let writer = ring.writer().unwrap();
    let arena: OwnedFd = memfd_create("arena", MemfdFlags::ALLOW_SEALING | MemfdFlags::CLOEXEC).unwrap();
    let file = File::from(arena.try_clone().unwrap());
    let arena_bytes = u64::from(BUFFER_BYTES) * 8;
    file.set_len(arena_bytes).unwrap();
    file.write_all_at(FRAME, u64::from(BUFFER_BYTES) * 3 + u64::from(HEADROOM_BYTES) + 16).unwrap();
    fcntl_add_seals(&arena, SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL).unwrap();
    let answer = TapAnswer {
        worker,
        boot_id,
        ring_bytes: 1 << 20,
        arena_bytes,
        buffer_bytes: BUFFER_BYTES,
        headroom_bytes: HEADROOM_BYTES,
        shards: shards.to_vec(),
    };
    (Tapped { ring, arena, answer }, writer)
}

/// Records a turn with one whole frame whose message waits for the log; gives the position of its end.
fn record(writer: &mut TapWriter, worker: u16, turn: u64, shard: u16) -> u64 {
    let mut header = Turn::new_zeroed();
    (header.kind, header.flags, header.turn) = (KIND_TURN, TURN_DURABLE, turn.into());
    (header.worker, header.lead_shard, header.items) = (worker.into(), shard.into(), 1.into());
    header.ruleset_version = 77.into();
    let mut item = Item::new_zeroed();
    (item.buffer, item.offset, item.length, item.stride) = (3.into(), 16.into(), 128.into(), 128.into());
    (item.shard, item.frames, item.source) = (shard.into(), 1.into(), Endpoint::v4([10, 0, 0, 9], 5));
    let entry = FrameEntry {
        form: FRAME_WHOLE,
        flags: ENTRY_DURABLE,
        reason: 0,
        reserved: 0,
        count: 1.into(),
        reserved_2: 0.into(),
    };
    let body = [item.as_bytes(), entry.as_bytes()].concat();
    header.length = u32::try_from(size_of::<Turn>() + body.len()).unwrap().into();
    let bytes = [header.as_bytes(), &body].concat();
    writer.begin(bytes.len()).expect("room")[..bytes.len()].copy_from_slice(&bytes);
    writer.commit(bytes.len())
}

async fn stable(writer: &mut TapWriter, position: u64) {
    let writer = std::cell::RefCell::new(writer);
    eventually_some(async || (writer.borrow_mut().sample(1).stable >= position).then_some(())).await;
}

async fn status(control: &mut Control) -> LogStatus {
    control.client.status(StatusRequest {}).await.unwrap().into_inner().log.expect("a log that is enabled")
}

/// Frames and turns in a shard's log.
fn read(path: &Path) -> (Vec<Vec<u8>>, u64) {
    let mut files = ReadOnly::new(path);
    let (mut frames, mut turns) = (Vec::new(), 0);
    let mut cursor = Cursor::new(&mut files, 0).unwrap();
    while let Some(item) = cursor.next(&mut files).unwrap() {
        let LogItem::Commit(commit) = item else { continue };
        for raw in commit.records() {
            match Record::read(&raw) {
                Some(Record::Frame(arrival, bytes)) => {
                    assert_eq!(arrival.source, Endpoint::v4([10, 0, 0, 9], 5));
                    frames.push(bytes.to_vec());
                }
                Some(Record::Decisions(_)) => turns += 1,
                _ => {}
            }
        }
    }
    (frames, turns)
}

#[tokio::test]
async fn turns_of_a_node_are_logged_over_restarts_of_control() {
    let folder = Folder::new();
    let node = Node::start(&folder.0, 1);
    let boot_id = node.hello.boot_id;
    let ((first, mut writer), (second, _idle)) = (tap(0, &[0, 2], boot_id), tap(1, &[1, 3], boot_id));
    node.told.lock().unwrap().taps = vec![first, second];
    assert_eq!(writer.sample(1).refuses, Some(Reason::PersistUnavailable));
    let directory = folder.0.join("log");
    let text = format!("[log]\nenabled = true\ndirectory = \"{}\"\nsegment_mib = 8\n", directory.display());
    let log = ControlFile::parse("control.toml", &text).unwrap().0.log;
    for turn in 1..=3 {
        let mut control = Control::start_with(&folder.0, log.clone()).await;
        control.connected().await;
        let end = record(&mut writer, 0, turn, 2);
        stable(&mut writer, end).await;
        assert_eq!(writer.sample(1).refuses, None);
        let told = eventually_some(async || {
            let client = control.client.clone();
            let status = client.clone().status(StatusRequest {}).await.unwrap().into_inner().log.unwrap();
            // The status is told every 100 ms, which may be between the turn and its sync.
            let is_durable = status.shards.iter().any(|shard| shard.shard == 2 && shard.durable > 0);
            (is_durable && status.workers.first().is_some_and(|worker| worker.turns == turn)).then_some(status)
        })
        .await;
        assert_eq!((told.problem.as_str(), told.workers.len(), told.workers[0].turns_lost), ("", 2, 0));
        let shard = told.shards.iter().find(|shard| shard.shard == 2).unwrap();
        assert_eq!(shard.state, "running");
        control.stop().await;
        assert_eq!(writer.sample(1).refuses, Some(Reason::PersistUnavailable), "nobody writes any more");
    }
    let path = directory.join("shard-00002");
    assert_eq!(read(&path), (vec![FRAME.to_vec(); 3], 3));
    let keys = std::fs::read_to_string(directory.join("log.pub")).unwrap();
    let key = keys.lines().find(|key| key.contains("/shard-00002+")).unwrap();
    let report = verify(&mut ReadOnly::new(&path), Verifier::parse(key).as_ref(), &[]).unwrap();
    assert!(report.is_sound(), "{:?}", report.findings);
}

#[tokio::test]
async fn a_node_without_taps_goes_on_and_the_status_says_why_nothing_is_logged() {
    let folder = Folder::new();
    let _node = Node::start(&folder.0, 1);
    let text = format!("[log]\nenabled = true\ndirectory = \"{}\"\n", folder.0.join("log").display());
    let log = ControlFile::parse("control.toml", &text).unwrap().0.log;
    let mut control = Control::start_with(&folder.0, log).await;
    control.connected().await;
    let status = status(&mut control).await;
    assert!(status.problem.contains("no log") && status.shards.is_empty(), "{status:?}");
    control.stop().await;
    let mut control = Control::start(&folder.0).await;
    control.connected().await;
    assert_eq!(control.client.status(StatusRequest {}).await.unwrap().into_inner().log, None);
    control.stop().await;
}
