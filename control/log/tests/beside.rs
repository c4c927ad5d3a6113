//! Reading a log that is being written: whatever a reader sees of a commit that is on its way, it takes nothing for damage, and
//! it finds the rest later.

mod support;

use std::io;
use support::{is_right, log};
use tachyon_log::{
    Cursor, Found, Reader, fault::FaultDisk, format::segment_name, format::segment_of, storage::FileId, storage::Files,
    verify::Verification,
};

/// A finished log of which a reader sees at first only what was there some writes ago. With read number `shown_at` all of it
/// is there at once, as if the writer had been that fast.
struct Growing {
    disk: FaultDisk,
    /// The segment that was being written, and where in it.
    segment: u64,
    offset: u64,
    open: Vec<(FileId, u64)>,
    reads: u64,
    shown_at: u64,
}

impl Growing {
    fn hides(&self) -> bool {
        self.reads < self.shown_at
    }
}

impl Files for Growing {
    fn names(&mut self) -> io::Result<Vec<String>> {
        let (hides, segment) = (self.hides(), self.segment);
        let mut names = self.disk.names()?;
        names.retain(|name| !hides || segment_of(name).is_none_or(|first| first <= segment));
        Ok(names)
    }

    fn open(&mut self, name: &str) -> io::Result<FileId> {
        let file = self.disk.open(name)?;
        self.open.push((file, segment_of(name).unwrap_or(0)));
        Ok(file)
    }

    fn close(&mut self, file: FileId) {
        self.open.retain(|(open, _)| *open != file);
        self.disk.close(file);
    }

    fn length(&mut self, file: FileId) -> io::Result<u64> {
        self.disk.length(file)
    }

    fn read(&mut self, file: FileId, offset: u64, into: &mut [u8]) -> io::Result<usize> {
        let got = self.disk.read(file, offset, into)?;
        let segment = self.open.iter().find(|(open, _)| *open == file).map_or(0, |(_, segment)| *segment);
        if self.hides() && segment == self.segment {
            let kept = usize::try_from(self.offset.saturating_sub(offset)).expect("small");
            into[kept.min(got)..got].fill(0);
        }
        self.reads += 1;
        Ok(got)
    }
}

const SEED: u64 = 21;
const RECORDS: u64 = 200;

fn finished() -> FaultDisk {
    log(SEED, RECORDS, 3, 12, 2)
}

/// Where every commit of the log begins: its segment, and the byte in it.
fn commits() -> Vec<(u64, u64)> {
    let mut disk = finished();
    let mut cursor = Cursor::new(&mut disk, 0).expect("a folder");
    let (mut segment, mut places) = (0, Vec::new());
    while let Some(item) = cursor.next(&mut disk).expect("readable") {
        match item {
            tachyon_log::cursor::Item::Segment(header) => segment = header.first_sequence,
            tachyon_log::cursor::Item::Commit(commit) => places.push((segment, commit.offset)),
            tachyon_log::cursor::Item::Damage(damage) => panic!("{damage}"),
        }
    }
    places
}

fn growing((segment, offset): (u64, u64), shown_at: u64) -> Growing {
    Growing { disk: finished(), segment, offset, open: Vec::new(), reads: 0, shown_at }
}

#[test]
fn whatever_a_writer_adds_while_it_is_judged_is_no_damage() {
    let places = commits();
    for place in places.iter().skip(places.len() / 2).step_by(3) {
        // Enough for every read that the judging makes up to the end of what is seen at first.
        for shown_at in 0..places.len() as u64 * 3 {
            let mut files = growing(*place, shown_at);
            let mut verification = Verification::new(&mut files, None, &[]).expect("a folder");
            let report = verification.step(&mut files, u64::MAX).expect("readable").expect("the end");
            assert!(report.is_sound(), "from {place:?}, shown at read {shown_at}: {:?}", report.findings);
        }
    }
}

#[test]
fn a_follower_finds_every_record_whatever_it_saw_before() {
    let places = commits();
    for (index, place) in places.iter().enumerate().skip(1).step_by(2) {
        let mut reader = Reader::new(growing(*place, u64::MAX), 0).expect("a folder");
        let mut records = Vec::new();
        let mut read = |reader: &mut Reader<Growing>| {
            while let Some(found) = reader.read().expect("readable") {
                match found {
                    Found::Record(record) => records.push((record.sequence, record.kind, record.raw().body.to_vec())),
                    Found::Damage(damage) => assert!(!damage.fault.is_grave(), "commit {index}: {damage}"),
                }
            }
        };
        read(&mut reader);
        assert!(!reader.again().expect("readable"), "commit {index}: nothing more is there yet");
        reader.files().shown_at = 0;
        assert!(reader.again().expect("readable"), "commit {index}: more is there");
        read(&mut reader);
        assert!(records.iter().map(|record| record.0).eq(0..RECORDS), "commit {index}: all of them, in order");
        assert!(records.iter().all(|record| is_right(SEED, record)));
    }
}

#[test]
fn a_segment_that_is_truly_missing_is_still_missing() {
    let mut disk = finished();
    let last = Cursor::new(&mut disk, 0).expect("a folder").segments().last().copied().expect("a segment");
    disk.set(&segment_name(last), None);
    let report = Verification::new(&mut disk, None, &[])
        .expect("a folder")
        .step(&mut disk, u64::MAX)
        .expect("readable")
        .expect("the end");
    assert!(!report.is_sound());
    assert_eq!(report.sound_sequence, last);
}
