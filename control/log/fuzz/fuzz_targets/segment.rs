//! Any bytes as a log's only segment, through everything that looks at what lies on disk. Once as they are; once behind a
//! sound segment header; once as a commit that is sealed anew, because hardly any changed commit gets past its hash. Run it in
//! the folder above: `cargo fuzz run segment fuzz/corpus/segment`.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tachyon_log::{
    Appender, Config,
    fault::{FaultDisk, Faults},
    format::{BLOCK, COMMIT_HEADER, CommitHeader, SegmentHeader, round_up, segment_name, verify_commit},
    record::Record,
    tree,
    verify::verify,
};

fn look_at(bytes: Vec<u8>) {
    let mut disk = FaultDisk::new(0, 2, 2 * BLOCK, Faults::default());
    disk.set(&segment_name(0), Some(bytes));
    let report = verify(&mut disk, None, &[]).expect("a disk that can be read");
    let config = Config { shard: 0, log_id: [0; 16], segment_bytes: 6 * BLOCK as u64, mark_after_ns: 0, retry_after_ns: 0 };
    // What opens for appending is sound from then on, and keeps what was judged to be there.
    if let Ok(mut log) = Appender::open(&mut disk, config, 0) {
        assert_eq!(log.next_sequence(), report.next_sequence);
        let appended = log.append(0, &Record::Decisions(b"one more"));
        assert_eq!(appended.expect("a free slot"), report.next_sequence);
        while !log.finish(0).expect("a healthy disk") {}
        drop(log);
        let after = verify(&mut disk, None, &[]).expect("a disk that can be read");
        assert!(after.is_sound() || !report.is_sound());
        assert_eq!(after.next_sequence, report.next_sequence + 1);
    }
}

fuzz_target!(|bytes: &[u8]| {
    look_at(bytes.to_vec());
    let header = SegmentHeader {
        shard: 0,
        log_id: [0; 16],
        first_sequence: 0,
        first_commit: 0,
        segment_bytes: 6 * BLOCK as u64,
        tick: 0,
        previous: [0; 32],
        root: tree::empty(),
        edge: Vec::new(),
    };
    let mut segment = header.to_block().to_vec();
    segment.extend_from_slice(&bytes[..bytes.len().min(5 * BLOCK)]);
    segment.resize(6 * BLOCK, 0);
    look_at(segment.clone());
    // The first bytes say how many records are claimed; the rest is where they should be.
    let Some((claimed, records)) = bytes.split_first() else { return };
    let records = &records[..records.len().min(2 * BLOCK - COMMIT_HEADER)];
    let length = round_up(COMMIT_HEADER + records.len(), BLOCK);
    let commit = &mut segment[BLOCK..BLOCK + length];
    commit[COMMIT_HEADER..COMMIT_HEADER + records.len()].copy_from_slice(records);
    let sealed = CommitHeader {
        flags: 0,
        shard: 0,
        number: 0,
        first_sequence: 0,
        records: u32::from(*claimed),
        bytes: u32::try_from(length).expect("two blocks"),
        record_bytes: u32::try_from(records.len()).expect("two blocks"),
        durable_commits: 0,
        tick: 0,
        log_id: [0; 16],
        previous: [0; 32],
        hash: [0; 32],
    };
    sealed.seal(commit);
    if verify_commit(commit).is_err() {
        let damaged = verify(&mut disk_of(&segment), None, &[]).expect("a disk that can be read");
        assert!(!damaged.is_sound());
    }
    segment[BLOCK + length..].fill(0);
    look_at(segment);
});

fn disk_of(segment: &[u8]) -> FaultDisk {
    let mut disk = FaultDisk::new(0, 2, 2 * BLOCK, Faults::default());
    disk.set(&segment_name(0), Some(segment.to_vec()));
    disk
}
