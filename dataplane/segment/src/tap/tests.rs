use super::{shape::Head, *};
use crate::handover::TapAnswer;
use proptest::{collection::vec, prelude::*};
use std::{collections::VecDeque, fs::File, io::Write, os::fd::AsRawFd, os::unix::fs::FileExt, process::Command};
use tachyon_wire::{
    Endpoint, Reason,
    tap::{Item, Turn},
};
use zerocopy::{FromZeros, IntoBytes};

const BOOT: [u8; 16] = *b"boot id, 16 byte";
const WORKER: u16 = 3;
const BYTES: u64 = 4_096;
const BUFFER: u32 = 256;
const HEADROOM: u32 = 64;
/// Ticks at which nothing has been silent for long, and at which everything has.
const EARLY: u64 = 1_000;
const LATE: u64 = EARLY + 2_000_000_000;

/// A tap with an arena of four buffers whose bytes count up.
struct Fixture {
    tap: TapRing,
    arena: File,
    answer: TapAnswer,
}

impl Fixture {
    fn new() -> Self {
        let tap = TapRing::create(WORKER, BOOT, BYTES).unwrap();
        let bytes: Vec<u8> = (0..BUFFER * 4).map(|n| u8::try_from(n % 251).unwrap()).collect();
        let arena = sealed(&bytes, SealFlags::SHRINK | SealFlags::SEAL);
        let answer = TapAnswer {
            worker: WORKER,
            boot_id: BOOT,
            ring_bytes: BYTES,
            arena_bytes: bytes.len() as u64,
            buffer_bytes: BUFFER,
            headroom_bytes: HEADROOM,
            shards: vec![0, 2],
        };
        Self { tap, arena, answer }
    }

    fn reader(&self) -> TapReader {
        TapReader::open(self.tap.ring_fd(), self.tap.cursors_fd(), &self.arena, &self.answer).unwrap()
    }

    /// Writes a word of the cursors as a control process that lost its mind would.
    fn forge(&self, word: usize, value: u64) {
        let path = format!("/proc/self/fd/{}", self.tap.cursors_fd().as_raw_fd());
        File::options()
            .write(true)
            .open(path)
            .unwrap()
            .write_all_at(&value.to_le_bytes(), (word * WORD) as u64)
            .unwrap();
    }
}

/// A memory file with these bytes and seals.
fn sealed(bytes: &[u8], seals: SealFlags) -> File {
    let mut file = File::from(memory_file("test", bytes.len()).unwrap());
    file.write_all(bytes).unwrap();
    fcntl_add_seals(&file, seals).unwrap();
    file
}

/// A turn record of `bytes` that says its number all over.
fn record(number: u64, bytes: usize) -> Vec<u8> {
    let mut turn = Turn::new_zeroed();
    turn.length = u32::try_from(bytes).unwrap().into();
    turn.kind = KIND_TURN;
    turn.turn = number.into();
    let mut record = turn.as_bytes().to_vec();
    record.resize(bytes, number.to_le_bytes()[0]);
    record
}

fn push(writer: &mut TapWriter, number: u64, bytes: usize) -> Option<u64> {
    let room = writer.begin(bytes)?;
    room[..bytes].copy_from_slice(&record(number, bytes));
    Some(writer.commit(bytes))
}

#[test]
fn records_pass_whole_and_what_is_stable_gives_room() {
    let mut fixture = Fixture::new();
    let mut writer = fixture.tap.writer().unwrap();
    assert!(fixture.tap.writer().is_none(), "two would write over each other");
    let mut reader = fixture.reader();
    let mut bytes = Vec::new();
    assert_eq!(reader.next(&mut bytes), Ok(None));
    let first = push(&mut writer, 1, 64).unwrap();
    let second = push(&mut writer, 2, 2_000).unwrap();
    assert_eq!((first, second), (64, 2_064));
    let sample = writer.sample(EARLY);
    assert_eq!((sample.room, sample.scarce), (4_096 - 2_064, false));
    assert!(writer.begin(2_040).is_none(), "more than is free");
    assert_eq!(reader.next(&mut bytes), Ok(Some(first)));
    assert_eq!(bytes, record(1, 64));
    assert_eq!(reader.next(&mut bytes), Ok(Some(second)));
    assert_eq!(bytes, record(2, 2_000));
    assert_eq!(reader.next(&mut bytes), Ok(None));
    reader.set_written(second);
    reader.set_stable(first);
    let sample = writer.sample(EARLY);
    assert_eq!((sample.written, sample.stable), (second, first));
    reader.set_stable(second);
    let sample = writer.sample(EARLY);
    assert_eq!((sample.written, sample.stable, sample.room), (second, second, 4_096 - 2_064));
    writer.release(second);
    assert_eq!(writer.sample(EARLY).room, 2_064);
    // It does not fit before the end of the memory, so it goes to the start, behind a skip.
    let third = push(&mut writer, 3, 2_064).unwrap();
    assert_eq!(third, 4_096 + 2_064);
    assert_eq!(reader.next(&mut bytes), Ok(Some(third)));
    assert_eq!(bytes, record(3, 2_064));
}

#[test]
fn a_record_that_is_begun_and_not_committed_is_nobodys() {
    let mut fixture = Fixture::new();
    let (mut writer, mut reader) = (fixture.tap.writer().unwrap(), fixture.reader());
    writer.begin(512).unwrap().fill(0xff);
    assert_eq!(reader.next(&mut Vec::new()), Ok(None));
    assert_eq!(writer.begin(512).unwrap(), [0xff; 512], "the same memory, as it was left");
    assert_eq!(writer.begin(5).unwrap().len(), 8, "whole words");
    let end = push(&mut writer, 1, 64).unwrap();
    assert_eq!((end, writer.commit(8)), (64, 64), "nothing is begun any more");
    assert!(writer.begin(usize::MAX).is_none());
    let mut bytes = Vec::new();
    assert_eq!(reader.next(&mut bytes), Ok(Some(64)));
    assert_eq!(bytes, record(1, 64));
}

#[test]
fn the_worker_reads_its_records_again_until_it_releases_them() {
    let mut fixture = Fixture::new();
    let (mut writer, mut reader) = (fixture.tap.writer().unwrap(), fixture.reader());
    let ends: Vec<u64> = (0..4).map(|number| push(&mut writer, number, 1_000).unwrap()).collect();
    let walked: Vec<(Vec<u8>, u64)> = [0, 1_000, 2_000, 3_000]
        .iter()
        .map(|at| writer.record(*at).unwrap())
        .map(|(r, end)| (r.to_vec(), end))
        .collect();
    assert_eq!(walked, (0..4).map(|n| record(n, 1_000)).zip(ends).collect::<Vec<_>>());
    assert!(writer.sample(EARLY).scarce, "less than a quarter is free");
    assert_eq!(writer.record(4_000), None);
    assert_eq!(writer.record(8), None, "no record starts there");
    while reader.next(&mut Vec::new()).unwrap().is_some() {}
    reader.set_stable(2_000);
    let sample = writer.sample(EARLY);
    assert_eq!((sample.stable, sample.scarce), (2_000, true));
    assert!(writer.record(0).is_some(), "what waited for it can be done");
    assert_eq!(push(&mut writer, 4, 1_000), None);
    writer.release(1_000);
    assert_eq!(writer.record(0), None);
    assert!(writer.record(1_000).is_some());
    writer.release(4_000); // of which only 2,000 are stable
    assert!(writer.record(2_000).is_some());
    assert_eq!(writer.sample(EARLY).room, 2_000);
    assert_eq!(push(&mut writer, 4, 1_000), Some(4_096 + 1_000));
    writer.release(0);
    assert_eq!(writer.record(1_000), None, "never backwards");
    assert_eq!(writer.record(4_000).map(|(bytes, end)| (bytes.to_vec(), end)), Some((record(4, 1_000), 5_096)));
}

#[test]
fn cursors_that_lie_move_nothing_that_they_must_not() {
    let mut fixture = Fixture::new();
    let mut writer = fixture.tap.writer().unwrap();
    for number in 0..5 {
        push(&mut writer, number, 104).unwrap();
    }
    let mut positions = |written: u64, stable: u64| {
        fixture.forge(WRITTEN, written);
        fixture.forge(STABLE, stable);
        let sample = writer.sample(EARLY);
        (sample.written, sample.stable)
    };
    assert_eq!(positions(103, 0), (0, 0), "within the first record");
    assert_eq!(positions(207, 105), (104, 104), "within further ones");
    assert_eq!(positions(312, 208), (312, 208));
    assert_eq!(positions(0, 0), (312, 208), "backwards");
    assert_eq!(positions(9, 300), (312, 208), "stable above written, within a record");
    assert_eq!(positions(0, 416), (416, 416), "what is stable was written");
    assert_eq!(positions(u64::MAX, 417), (520, 416), "beyond the head");
    assert_eq!(positions(0, u64::MAX), (520, 520));
    writer.release(u64::MAX);
    assert_eq!(writer.sample(EARLY).room, 4_096 - 520);
}

#[test]
fn a_look_walks_a_bounded_way_and_the_next_ones_go_on() {
    let mut fixture = Fixture::new();
    let mut writer = fixture.tap.writer().unwrap();
    let records = BYTES / 8;
    for _ in 0..records {
        // The shortest that can be, so that there are many.
        writer.begin(8).unwrap()[4] = KIND_TURN;
        writer.commit(8);
    }
    fixture.forge(STABLE, BYTES - 1); // not the head, which is believed at once
    let reached: Vec<u64> = (0..9).map(|_| writer.sample(EARLY).stable / 8).collect();
    assert_eq!(reached, [64, 128, 192, 256, 320, 384, 448, 511, 511]);
}

#[test]
fn the_log_refuses_by_what_it_says_and_by_silence() {
    let mut fixture = Fixture::new();
    let (mut writer, reader) = (fixture.tap.writer().unwrap(), fixture.reader());
    let mut refuses = |now| writer.sample(now).refuses;
    assert_eq!(refuses(EARLY), Some(Reason::PersistUnavailable), "nobody is there");
    assert_eq!(refuses(LATE), Some(Reason::PersistUnavailable));
    reader.set_state(TapState::Running);
    assert_eq!(refuses(2 * LATE), None);
    assert_eq!(refuses(2 * LATE + 1_999_999_999), None);
    assert_eq!(refuses(2 * LATE + 2_000_000_000), Some(Reason::PersistTimeout));
    reader.beat();
    assert_eq!(refuses(2 * LATE + 2_000_000_001), None);
    assert_eq!(refuses(0), None, "a clock that runs backwards is no silence");
    for reason in Reason::ALL {
        reader.set_state(TapState::Refuses(*reason));
        let expected = if reason.code().starts_with("E_PERSIST") { *reason } else { Reason::PersistUnavailable };
        assert_eq!(refuses(9 * LATE), Some(expected), "{reason:?}");
    }
    for garbage in [2, 255, 256, 257, 511, 512, u64::MAX] {
        fixture.forge(STATE, garbage);
        assert_eq!(refuses(9 * LATE), Some(Reason::PersistUnavailable), "{garbage}");
    }
    reader.set_state(TapState::Running);
    assert_eq!(refuses(20 * LATE), None, "the time of silence begins when somebody is to beat");
}

#[test]
fn a_log_whose_connection_ended_is_gone_until_it_beats() {
    let mut fixture = Fixture::new();
    let (mut writer, reader) = (fixture.tap.writer().unwrap(), fixture.reader());
    reader.set_state(TapState::Running);
    assert_eq!(writer.sample(EARLY).refuses, None);
    fixture.tap.hung_up();
    assert_eq!(writer.sample(EARLY + 1).refuses, Some(Reason::PersistUnavailable));
    assert_eq!(writer.sample(EARLY + 2).refuses, Some(Reason::PersistUnavailable));
    reader.beat();
    assert_eq!(writer.sample(EARLY + 3).refuses, None, "only the socket was lost");
    assert_eq!(fixture.reader().stable(), 0);
    assert_eq!(
        writer.sample(EARLY + 4).refuses,
        Some(Reason::PersistUnavailable),
        "opening says that nobody writes yet"
    );
}

#[test]
fn frames_are_copied_from_where_their_item_says_and_from_nowhere_else() {
    let fixture = Fixture::new();
    let reader = fixture.reader();
    let expected = |at: u32, len: u32| (at..at + len).map(|n| u8::try_from(n % 251).unwrap()).collect::<Vec<_>>();
    let item = |buffer: u32, offset: u32, length: u32, stride: u32| {
        let (source, zero) = (Endpoint::NONE, 0.into());
        let [buffer, offset, length, stride] = [buffer, offset, length, stride].map(Into::into);
        Item { buffer, offset, length, stride, shard: zero, place: zero, frames: zero, source }
    };
    let mut bytes = vec![9; 1_000];
    for offset in [0, 1, 7, 42] {
        for (index, at, len) in [(0, 0, 64), (1, 64, 64), (2, 128, 22)] {
            reader.frame(&item(2, offset, 150, 64), index, &mut bytes).unwrap();
            assert_eq!(bytes, expected(2 * BUFFER + HEADROOM + offset + at, len), "{offset}, frame {index}");
        }
    }
    reader.frame(&item(1, 3, 5, 64), 0, &mut bytes).unwrap();
    assert_eq!(bytes, expected(BUFFER + HEADROOM + 3, 5), "within one word");
    reader.frame(&item(3, 0, 192, 192), 0, &mut bytes).unwrap();
    assert_eq!(bytes, expected(3 * BUFFER + HEADROOM, 192), "up to the arena's end");
    for (wrong, index) in [
        (item(4, 0, 64, 64), 0),                    // no such buffer
        (item(u32::MAX, u32::MAX, u32::MAX, 1), 0), // as far as can be
        (item(0, 0, 193, 193), 0),                  // into the next buffer
        (item(0, 129, 64, 64), 0),                  // the same by its offset
        (item(0, 0, 128, 64), 2),                   // no such frame
        (item(0, 0, 128, 64), usize::MAX),          // nor this one
        (item(0, 0, 64, 0), 0),                     // frames without length
        (item(0, 0, 0, 64), 0),                     // no bytes
    ] {
        let error = reader.frame(&wrong, index, &mut bytes).unwrap_err();
        assert!(error.to_string().contains("not in the arena"), "{error}");
    }
}

#[test]
fn control_cannot_write_the_ring_and_nobody_can_resize_either_piece() {
    let fixture = Fixture::new();
    let (ring, cursors) = (fixture.tap.ring_fd(), fixture.tap.cursors_fd());
    assert!(Mapping::read_write(ring, PAGE_BYTES).is_err());
    assert!(Mapping::read_write(cursors, PAGE_BYTES).is_ok());
    let reopened = |fd: BorrowedFd<'_>| {
        File::options().read(true).write(true).open(format!("/proc/self/fd/{}", fd.as_raw_fd())).unwrap()
    };
    assert!(reopened(ring).write_all(b"x").is_err());
    assert!(Mapping::read_write(reopened(ring), PAGE_BYTES).is_err());
    for fd in [ring, cursors] {
        for len in [0, 1 << 20] {
            assert!(reopened(fd).set_len(len).is_err());
        }
        assert!(fcntl_add_seals(fd, SealFlags::WRITE).is_err(), "the seals are final");
    }
}

#[test]
fn sizes_that_cannot_be_are_refused() {
    for bytes in [0, 2_048, 12_288, TAP_BYTES_MAX * 2, u64::MAX] {
        assert_eq!(TapRing::create(0, BOOT, bytes).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{bytes}");
    }
}

/// A piece with this header, and the seals that a reader needs.
fn piece(header: [u64; HEADER_WORDS], len: usize, seals: SealFlags) -> File {
    let mut bytes = header.as_bytes().to_vec();
    bytes.resize(len, 0);
    sealed(&bytes, seals)
}

#[test]
fn descriptors_that_are_not_what_was_said_are_refused() {
    let fixture = Fixture::new();
    let seals = SealFlags::SHRINK | SealFlags::SEAL;
    let (ring_len, page) = (ring_len(BYTES).unwrap(), PAGE_BYTES);
    let ring = |header, len, seals| {
        let ring = piece(header, len, seals);
        TapReader::open(ring, fixture.tap.cursors_fd(), &fixture.arena, &fixture.answer).map(|_| ())
    };
    let cursors = |header, len, seals| {
        let cursors = piece(header, len, seals);
        TapReader::open(fixture.tap.ring_fd(), cursors, &fixture.arena, &fixture.answer).map(|_| ())
    };
    let good = [header(RING_MAGIC, WORKER, BOOT, BYTES), header(CURSORS_MAGIC, WORKER, BOOT, BYTES)];
    assert!(ring(good[0], ring_len, seals).is_ok() && cursors(good[1], page, seals).is_ok());
    let said = |result: io::Result<()>| {
        let error = result.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
        error.to_string()
    };
    for (word, text) in [(0, "first bytes"), (1, "layout"), (2, "start"), (3, "start"), (4, "worker"), (5, "bytes")] {
        let mut wrong = good;
        wrong[0][word] ^= 1;
        wrong[1][word] ^= 1;
        for said in [said(ring(wrong[0], ring_len, seals)), said(cursors(wrong[1], page, seals))] {
            assert!(said.contains(text), "word {word}: {said}");
        }
    }
    for (seals, text) in [(SealFlags::GROW, "shrinking"), (SealFlags::SHRINK, "shrinking"), (seals, "instead of")] {
        let less = if text == "shrinking" { 0 } else { 8 };
        for said in [said(ring(good[0], ring_len - less, seals)), said(cursors(good[1], page - less, seals))] {
            assert!(said.contains(text), "{said}");
        }
    }
    let open = |arena: File, answer: &TapAnswer| {
        said(TapReader::open(fixture.tap.ring_fd(), fixture.tap.cursors_fd(), arena, answer).map(|_| ()))
    };
    assert!(open(sealed(&[0; 1_024], SealFlags::GROW), &fixture.answer).contains("the arena is not sealed"));
    assert!(open(sealed(&[0; 1_023], seals), &fixture.answer).contains("the arena has 1023 bytes"));
    let mut odd = fixture.answer.clone();
    odd.ring_bytes -= 1;
    assert!(open(fixture.arena.try_clone().unwrap(), &odd).contains("cannot be"));
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    let error = TapReader::open(socket, fixture.tap.cursors_fd(), &fixture.arena, &fixture.answer).unwrap_err();
    assert!(error.to_string().contains("no sealed memory file"), "{error}");
}

#[test]
fn a_ring_that_lies_about_its_records_is_refused_and_nothing_outside_is_read() {
    let answer = Fixture::new().answer;
    let len = ring_len(BYTES).unwrap();
    let turn = |length: u64| Head::with_length(u64::from_le_bytes([0, 0, 0, 0, KIND_TURN, 0, 0, 0]), length);
    for (head, first, text) in [
        (8, 0, "no record"),
        (64, turn(56), "impossible length"),
        (64, turn(0), "impossible length"),
        (64, turn(72), "impossible length"),
        (128, turn(68), "impossible length"),
        (BYTES, turn(u64::from(u32::MAX)), "impossible length"),
        (BYTES, Head::skip(BYTES), "a skip"),
        (BYTES, Head::skip(64), "a skip"),
        (BYTES + 8, turn(64), "a head"),
        (12, turn(64), "a head"),
    ] {
        let fixture = Fixture::new();
        let mut bytes = header(RING_MAGIC, WORKER, BOOT, BYTES).as_bytes().to_vec();
        bytes.resize(len, 0);
        bytes[DATA * WORD..][..8].copy_from_slice(&first.to_le_bytes());
        let ring = sealed(&bytes, SealFlags::SHRINK | SealFlags::SEAL);
        let mut reader = TapReader::open(&ring, fixture.tap.cursors_fd(), &fixture.arena, &answer).unwrap();
        ring.write_all_at(&u64::to_le_bytes(head), (HEAD * WORD) as u64).unwrap();
        let error = reader.next(&mut Vec::new()).unwrap_err().to_string();
        assert!(error.contains(text) && error.contains("worker 3"), "{head}, {first:x}: {error}");
    }
}

/// The reading half of the next test; it does nothing unless that one starts it.
#[test]
fn second_process() {
    let Ok(paths) = std::env::var("TACHYON_TEST_TAP") else { return };
    let open = |path: &str| File::options().read(true).write(true).open(path).unwrap();
    let [ring, cursors, arena] = paths.split(' ').map(open).collect::<Vec<_>>().try_into().unwrap();
    let mut reader = TapReader::open(ring, cursors, arena, &Fixture::new().answer).unwrap();
    reader.set_state(TapState::Running);
    let mut bytes = Vec::new();
    for number in 0..3 {
        let end = reader.next(&mut bytes).unwrap().unwrap();
        assert_eq!(bytes, record(number, 96));
        reader.set_written(end);
        if number == 1 {
            reader.set_stable(end);
        }
    }
    std::process::abort(); // as a process that is killed: nothing is tidied up
}

#[test]
fn what_was_not_stable_when_control_was_killed_is_read_again() {
    let mut fixture = Fixture::new();
    let mut writer = fixture.tap.writer().unwrap();
    for number in 0..5 {
        push(&mut writer, number, 96).unwrap();
    }
    let path = |fd: BorrowedFd<'_>| format!("/proc/{}/fd/{}", std::process::id(), fd.as_raw_fd());
    let paths = [fixture.tap.ring_fd(), fixture.tap.cursors_fd(), fixture.arena.as_fd()].map(path).join(" ");
    let status = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "tap::tests::second_process"])
        .env("TACHYON_TEST_TAP", paths)
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .status()
        .unwrap();
    assert_eq!(std::os::unix::process::ExitStatusExt::signal(&status), Some(6), "it got to its end, which is SIGABRT");
    let sample = writer.sample(EARLY);
    assert_eq!((sample.written, sample.stable, sample.refuses), (288, 192, None));
    assert_eq!(writer.sample(LATE).refuses, Some(Reason::PersistTimeout));
    let mut reader = fixture.reader();
    assert_eq!((reader.stable(), reader.position()), (192, 192));
    let mut bytes = Vec::new();
    for number in 2..5 {
        assert_eq!(reader.next(&mut bytes), Ok(Some((number + 1) * 96)));
        assert_eq!(bytes, record(number, 96));
    }
    reader.set_stable(288);
    reader.set_written(u64::MAX);
    let sample = writer.sample(LATE);
    assert_eq!((sample.written, sample.stable), (480, 288));
}

/// One step of either side.
#[derive(Clone, Debug)]
enum Step {
    Record(usize),
    Read,
    /// Written up to this place among the records that were read and are not stable.
    Written(usize),
    /// The same for stable; and whether the worker releases them.
    Stable(usize, bool),
    /// The control process dies and comes back.
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        6 => (8_usize..300).prop_map(|words| Step::Record(words * 8)),
        8 => Just(Step::Read),
        2 => (0_usize..8).prop_map(Step::Written),
        4 => (0_usize..8, any::<bool>()).prop_map(|(place, released)| Step::Stable(place, released)),
        1 => Just(Step::Restart),
    ];
    vec(step, 1..200)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against a queue of records that are not stable, the first `read` of which control has read.
    #[test]
    fn the_ring_is_a_queue_whatever_wraps_and_whoever_restarts(steps in steps()) {
        let mut fixture = Fixture::new();
        let (mut writer, mut reader) = (fixture.tap.writer().unwrap(), fixture.reader());
        let mut queue: VecDeque<(Vec<u8>, u64)> = VecDeque::new();
        let (mut read, mut written, mut stable, mut number) = (0, 0, 0, 0);
        let mut bytes = Vec::new();
        for step in steps {
            match step {
                Step::Record(len) => {
                    let room = writer.sample(EARLY).room;
                    number += 1;
                    let end = push(&mut writer, number, len);
                    prop_assert_eq!(end.is_some(), len <= room);
                    queue.extend(end.map(|end| (record(number, len), end)));
                }
                Step::Read => {
                    let end = reader.next(&mut bytes).unwrap();
                    prop_assert_eq!(end, queue.get(read).map(|(_, end)| *end));
                    if let Some((record, _)) = queue.get(read) {
                        prop_assert_eq!(&bytes, record);
                        read += 1;
                    }
                }
                Step::Written(place) if place < read => {
                    reader.set_written(queue[place].1);
                    written = written.max(queue[place].1);
                }
                Step::Stable(place, released) if place < read => {
                    stable = queue[place].1;
                    reader.set_stable(stable);
                    queue.drain(..=place);
                    read -= place + 1;
                    if released {
                        prop_assert_eq!(writer.sample(EARLY).stable, stable);
                        writer.release(stable);
                    }
                }
                Step::Restart => {
                    reader = fixture.reader();
                    read = 0;
                }
                Step::Written(_) | Step::Stable(..) => {}
            }
            let sample = writer.sample(EARLY);
            prop_assert_eq!((sample.written, sample.stable), (written.max(stable), stable));
            let mut position = stable;
            for (record, end) in &queue {
                let found = writer.record(position).map(|(bytes, end)| (bytes.to_vec(), end));
                prop_assert_eq!(found.as_ref(), Some(&(record.clone(), *end)));
                position = *end;
            }
            prop_assert!(writer.record(position).is_none());
        }
    }
}
