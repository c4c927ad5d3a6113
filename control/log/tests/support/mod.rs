//! What the log's tests share: records that can be told from their sequence alone, and logs full of them.
#![allow(dead_code, reason = "every test file is a program of its own and uses its own part of this")]
#![allow(unreachable_pub, reason = "as above")]

use tachyon_log::{
    Appender, Config, Cursor, Record, Signer,
    cursor::Item,
    fault::{FaultDisk, Faults, Random},
    record::{Arrival, Gap},
    storage::{Files, Storage},
};
use tachyon_wire::{Endpoint, Reason};

pub const BLOCK: u64 = 4096;

pub fn config(segment_blocks: u64) -> Config {
    let segment_bytes = segment_blocks * BLOCK;
    Config { shard: 3, log_id: [7; 16], segment_bytes, mark_after_ns: 1_000, retry_after_ns: 1_000 }
}

pub fn signer() -> Signer {
    Signer::new("node.example/shard/3", &[42; 32]).expect("a name")
}

/// The bytes of the frame with this sequence: none is a whole number of anything, none is zero for long.
pub fn frame_bytes(seed: u64, sequence: u64) -> Vec<u8> {
    let mut random = Random::new(seed ^ sequence.wrapping_mul(0x1234_5678_9abc_def1));
    let length = 1 + random.below(700);
    (0..length).map(|_| random.next().to_le_bytes()[0] | 1).collect()
}

pub fn arrival(sequence: u64) -> Arrival {
    let worker = u16::try_from(sequence % 3).expect("small");
    let burst = u32::try_from(sequence).expect("small");
    Arrival { source: Endpoint::v4([10, 0, 0, 1], 7), worker: worker.into(), burst: burst.into() }
}

/// The record that every test appends at this sequence.
pub fn record(seed: u64, sequence: u64, bytes: &mut Vec<u8>) -> Record<'_> {
    *bytes = frame_bytes(seed, sequence);
    match sequence % 5 {
        0 => Record::Decisions(bytes),
        1 if sequence.is_multiple_of(3) => Record::Gap(Gap {
            count: sequence.into(),
            first_tick: 1.into(),
            last_tick: 2.into(),
            reason: Reason::PersistDiskFull.number(),
            kind: 0,
            reserved: [0; 6],
        }),
        _ => Record::Frame(arrival(sequence), bytes),
    }
}

pub fn disk(seed: u64, slots: usize, slot_blocks: usize) -> FaultDisk {
    FaultDisk::new(seed, slots, slot_blocks * 4096, Faults::default())
}

/// Appends records until `count` are there, in durable groups of `group`, and finishes.
pub fn fill<S: Storage>(appender: &mut Appender<S>, seed: u64, count: u64, group: u64) {
    let (mut now, mut bytes) = (0, Vec::new());
    while appender.next_sequence() < count {
        now += 100;
        let sequence = appender.next_sequence();
        let took = appender.append(now, &record(seed, sequence, &mut bytes));
        match took {
            Ok(_) => {}
            Err(tachyon_log::Error::Busy) => {}
            Err(error) => panic!("{error}"),
        }
        if sequence % group == group - 1 {
            appender.commit(now, true);
        }
        appender.poll(now).expect("a healthy disk");
    }
    finish(appender, now);
}

pub fn finish<S: Storage>(appender: &mut Appender<S>, mut now: u64) {
    for _ in 0..100_000 {
        now += 1_000;
        if appender.finish(now).expect("a healthy disk") {
            return;
        }
    }
    panic!("the log never finishes");
}

/// A finished log of `count` records.
pub fn log(seed: u64, count: u64, group: u64, segment_blocks: u64, slot_blocks: usize) -> FaultDisk {
    let mut appender = Appender::open(disk(seed, 4, slot_blocks), config(segment_blocks), 0).expect("a new log");
    fill(&mut appender, seed, count, group);
    appender.into_storage()
}

/// Reads all records as far as they hold; says too whether they end without a finding.
pub fn read_all<F: Files>(files: &mut F) -> (Vec<(u64, u8, Vec<u8>)>, bool) {
    let mut cursor = Cursor::new(files, 0).expect("a folder");
    let mut records = Vec::new();
    while let Some(item) = cursor.next(files).expect("readable files") {
        match item {
            Item::Segment(_) => {}
            Item::Commit(commit) => {
                records.extend(commit.records().map(|record| (record.sequence, record.kind, record.body.to_vec())));
            }
            Item::Damage(_) => return (records, false),
        }
    }
    (records, true)
}

/// Whether a record that was read is what was appended.
pub fn is_right(seed: u64, read: &(u64, u8, Vec<u8>)) -> bool {
    let mut bytes = Vec::new();
    let expected = record(seed, read.0, &mut bytes);
    let body = match &expected {
        Record::Decisions(bytes) => bytes.to_vec(),
        Record::Frame(arrival, frame) => [zerocopy::IntoBytes::as_bytes(arrival), frame].concat(),
        Record::Gap(gap) => zerocopy::IntoBytes::as_bytes(gap).to_vec(),
        _ => return false,
    };
    expected.kind() as u8 == read.1 && body == read.2
}
