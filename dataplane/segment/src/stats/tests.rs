use super::*;
use std::{fs::File, io::Write, os::fd::AsRawFd, process::Command, sync::atomic::AtomicBool, time::Instant};
use zerocopy::FromZeros;

const BOOT: [u8; 16] = *b"boot id, 16 byte";

/// Counters in which every word is `value`, so that a mixture of two publications shows.
fn all(value: u64) -> Counters {
    zerocopy::transmute!([value; COUNTER_WORDS])
}

fn all_stats(value: u64) -> Box<WorkerStats> {
    let mut stats = Box::new(WorkerStats::new_zeroed());
    stats.counters = all(value);
    stats.residence = zerocopy::transmute!([value; size_of::<Histogram>() / WORD]);
    stats.routes = [RouteCounters { accepted: value, due: value, given: value, refused: value }; ROUTES_COUNTED];
    stats
}

fn whole(counters: &Counters) -> u64 {
    let words: &[u64; COUNTER_WORDS] = zerocopy::transmute_ref!(counters);
    assert!(words.iter().all(|word| word == &words[0]), "torn: {words:?}");
    words[0]
}

#[test]
fn what_a_worker_publishes_is_what_control_reads() {
    let segment = StatsSegment::create(3, BOOT).unwrap();
    let reader = StatsReader::open(segment.reader_fd(), BOOT).unwrap();
    assert_eq!((reader.workers(), reader.boot_id()), (3, BOOT));
    assert_eq!(reader.read_counters(0).unwrap(), Counters::ZERO);
    for worker in 0..3 {
        segment.writer(worker).unwrap().publish_all(&all_stats(u64::from(worker) + 7));
    }
    for worker in 0..3 {
        assert_eq!(reader.read(worker).unwrap(), all_stats(u64::from(worker) + 7));
    }
    segment.writer(1).unwrap().publish_ledgers(&all(70));
    let stats = reader.read(1).unwrap();
    assert_eq!((stats.counters, stats.residence), (all(70), all_stats(8).residence), "ledgers alone moved");
    assert_eq!(reader.read_counters(3), Err(ReadError::NoSuchWorker));
    assert!(segment.writer(3).is_none());
}

#[test]
fn a_workers_status_is_told_apart_from_its_counters() {
    let segment = StatsSegment::create(2, BOOT).unwrap();
    let reader = StatsReader::open(segment.reader_fd(), BOOT).unwrap();
    assert_eq!(reader.status(1).unwrap().state, WorkerState::Starting);
    let status = WorkerStatus { state: WorkerState::Down, restarts: 3, heap_calls: 1 };
    segment.set_status(1, status);
    assert_eq!(reader.status(1), Ok(status));
    assert_eq!(reader.read_counters(1).unwrap(), Counters::ZERO);
    assert_eq!(reader.status(2), Err(ReadError::NoSuchWorker));
}

#[test]
fn readers_see_whole_bursts_while_the_worker_never_stops_publishing() {
    let segment = StatsSegment::create(1, BOOT).unwrap();
    let reader = StatsReader::open(segment.reader_fd(), BOOT).unwrap();
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut writer = segment.writer(0).unwrap();
            let mut burst = 0;
            while !stop.load(Ordering::Relaxed) {
                burst += 1;
                writer.publish_ledgers(&all(burst));
                for _ in 0..200 {
                    core::hint::spin_loop(); // the burst's work
                }
            }
        });
        let (mut last, mut read) = (0, 0);
        let end = Instant::now() + Duration::from_millis(300);
        while Instant::now() < end {
            if let Ok(counters) = reader.read_counters(0) {
                let burst = whole(&counters);
                assert!(burst >= last, "counters ran backwards");
                (last, read) = (burst, read + 1);
            }
        }
        stop.store(true, Ordering::Relaxed);
        assert!(read > 100 && last > 0, "only {read} looks succeeded");
    });
}

#[test]
fn a_writer_killed_while_publishing_is_an_error_and_its_successor_goes_on() {
    let segment = StatsSegment::create(1, BOOT).unwrap();
    let reader = StatsReader::open(segment.reader_fd(), BOOT).unwrap();
    segment.writer(0).unwrap().publish_all(&all_stats(4));
    let words = segment.mapping.words();
    let block = ledgers(words, run_of(0));
    block.sequence.store(block.sequence.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
    block.words[0].store(5, Ordering::Relaxed);
    assert_eq!(reader.read_counters(0), Err(ReadError::Torn));
    assert_eq!(reader.read(0), Err(ReadError::Torn));
    segment.writer(0).unwrap().publish_ledgers(&all(6));
    assert_eq!(whole(&reader.read_counters(0).unwrap()), 6);
}

#[test]
fn nobody_can_write_through_the_descriptor_that_control_gets() {
    let segment = StatsSegment::create(1, BOOT).unwrap();
    let len = PAGE_BYTES + STRIDE_BYTES;
    assert!(Mapping::read_write(segment.reader_fd(), len).is_err());
    let again = format!("/proc/self/fd/{}", segment.reader_fd().as_raw_fd());
    let mut reopened = File::options().write(true).open(again).unwrap();
    assert!(reopened.write_all(b"x").is_err());
    assert!(reopened.set_len(0).is_err());
}

fn refusal(fd: impl AsFd, boot_id: [u8; 16]) -> String {
    let error = StatsReader::open(fd, boot_id).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{error}");
    error.to_string()
}

/// A sealed memory file with these words in front.
fn forged(len: usize, header: &[u64]) -> File {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    let mut file = File::from(fd);
    file.write_all(&header.iter().flat_map(|word| word.to_le_bytes()).collect::<Vec<_>>()).unwrap();
    file.set_len(len as u64).unwrap();
    fcntl_add_seals(&file, SealFlags::SHRINK | SealFlags::SEAL).unwrap();
    file
}

#[test]
fn refuses_segments_that_are_not_what_was_said() {
    let segment = StatsSegment::create(1, BOOT).unwrap();
    assert!(refusal(segment.reader_fd(), [0; 16]).contains("another start"));
    let len = PAGE_BYTES + STRIDE_BYTES;
    let (low, high) = split(BOOT);
    let header = [MAGIC, LAYOUT, low, high, 1, STRIDE_BYTES as u64];
    assert!(StatsReader::open(forged(len, &header), BOOT).is_ok());
    for (index, text) in
        [(0, "first bytes"), (1, "another layout"), (3, "another start"), (4, "do not fit"), (5, "another layout")]
    {
        let mut wrong = header;
        wrong[index] += 1;
        let said = refusal(forged(len, &wrong), BOOT);
        assert!(said.contains(text), "word {index}: {said}");
    }
    assert!(refusal(forged(len - 8, &header), BOOT).contains("do not fit"));
    assert!(refusal(forged(100, &header), BOOT).contains("not the size"));
    assert!(refusal(forged(1 << 40, &header), BOOT).contains("not the size"));
    let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
    assert!(refusal(socket, BOOT).contains("no sealed memory file"));
}

#[test]
fn refuses_a_segment_that_could_shrink_under_the_reader() {
    let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
    assert!(refusal(fd, BOOT).contains("shrinking"));
}

#[test]
fn refuses_to_make_a_segment_without_workers_or_with_too_many() {
    for workers in [0, WORKERS_MAX + 1] {
        assert_eq!(StatsSegment::create(workers, BOOT).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}

/// The reading half of the next test; it does nothing unless that one starts it.
#[test]
fn second_process() {
    let Ok(path) = std::env::var("TACHYON_TEST_SEGMENT") else { return };
    let reader = StatsReader::open(File::open(path).unwrap(), BOOT).unwrap();
    let (mut last, mut looks) = (0, 0);
    while last < 20_000 {
        last = whole(&reader.read_counters(0).unwrap());
        looks += 1;
    }
    assert!(looks > 10);
}

#[test]
fn another_process_sees_whole_bursts() {
    let segment = StatsSegment::create(1, BOOT).unwrap();
    let path = format!("/proc/{}/fd/{}", std::process::id(), segment.reader_fd().as_raw_fd());
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "stats::tests::second_process"])
        .env("TACHYON_TEST_SEGMENT", path)
        .spawn()
        .unwrap();
    let mut writer = segment.writer(0).unwrap();
    let mut burst = 0;
    while child.try_wait().unwrap().is_none() {
        burst += 1;
        writer.publish_ledgers(&all(burst));
        if burst >= 10_000 {
            std::thread::sleep(Duration::from_micros(10)); // let the reader look between bursts as well
        }
    }
    assert!(child.wait().unwrap().success());
}
