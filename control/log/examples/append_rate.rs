//! `cargo run --release -p tachyon-log --example append_rate -- FOLDER [seconds] [rounds]`: what appending costs beside
//! writing the same blocks to the same disk plainly. Prints one line of JSON.
//!
//! Both write commits of one size with `O_DIRECT` to files that were allocated before, with the same number in flight through
//! io_uring. They take turns and the ratio is of medians, because other people use the same disk. `fio`, if it is there, does
//! the same once more from outside.
#![expect(clippy::print_stdout, reason = "its output is what it is for")]

use std::{
    env, fs, io,
    path::Path,
    process::{Command, ExitCode},
    time::{Duration, Instant},
};
use tachyon_log::{
    Appender, Config, Disk, Record,
    record::Arrival,
    storage::{Completion, Files, Storage},
};
use tachyon_wire::Endpoint;

const SLOTS: usize = 8;
const SEGMENT_BYTES: u64 = 256 << 20;
/// What a frame of 22 messages at MTU 1500 has.
const FRAME_BYTES: usize = 1_472;

/// One turn: bytes written, seconds, and seconds of this process's time on a core.
#[derive(Clone, Copy)]
struct Turn {
    bytes: u64,
    seconds: f64,
    cpu_seconds: f64,
}

impl Turn {
    fn rate(self) -> f64 {
        self.bytes as f64 / self.seconds / 1e6
    }
}

fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or(0)).as_secs_f64()
}

fn timed(seconds: f64, mut work: impl FnMut() -> io::Result<u64>) -> io::Result<Turn> {
    let (start, cpu, mut bytes) = (Instant::now(), cpu_seconds(), 0);
    while start.elapsed().as_secs_f64() < seconds {
        bytes += work()?;
    }
    Ok(Turn { bytes, seconds: start.elapsed().as_secs_f64(), cpu_seconds: cpu_seconds() - cpu })
}

/// Appends frames, a commit after another; with `durable` every one is synced before it counts.
fn append(folder: &Path, slot_bytes: usize, seconds: f64, durable: bool) -> io::Result<Turn> {
    let disk = Disk::open(folder, SLOTS, slot_bytes)?;
    let config = Config {
        shard: 0,
        log_id: [1; 16],
        segment_bytes: SEGMENT_BYTES,
        mark_after_ns: u64::MAX,
        retry_after_ns: 1_000_000_000,
    };
    let mut log = Appender::open(disk, config, 0).map_err(io::Error::other)?;
    let arrival = Arrival { source: Endpoint::v4([10, 0, 0, 1], 9), worker: 0.into(), burst: 0.into() };
    let frame = [0x5a; FRAME_BYTES];
    let (mut now, mut settled) = (0, 0);
    // A record's frame and its header; commits fill their slots, so that is what they hold.
    let record_bytes = (32 + size_of::<Arrival>() + FRAME_BYTES) as u64;
    let turn = timed(seconds, || {
        now += 1;
        while log.append(now, &Record::Frame(arrival, &frame)).is_ok() {}
        if durable {
            log.commit(now, true);
        }
        let progress = log.poll(now).map_err(io::Error::other)?;
        let reached = if durable { progress.durable } else { progress.written };
        let bytes = (reached - settled) * record_bytes;
        settled = reached;
        Ok(bytes)
    });
    while !log.finish(now).map_err(io::Error::other)? {}
    turn
}

/// Writes full slots plainly, one behind the other, to files of the same length.
fn plain(folder: &Path, slot_bytes: usize, seconds: f64, durable: bool) -> io::Result<Turn> {
    let mut disk = Disk::open(folder, SLOTS, slot_bytes)?;
    for slot in 0..SLOTS {
        disk.slot(slot).fill(0x5a);
    }
    let (mut files, mut free) = (0, (0..SLOTS).collect::<Vec<_>>());
    let mut file = disk.create("plain-0", SEGMENT_BYTES)?;
    let (mut offset, mut unsynced, mut syncing) = (0, 0, false);
    let turn = timed(seconds, || {
        while let Some(slot) = free.pop() {
            if offset + slot_bytes as u64 > SEGMENT_BYTES {
                if free.len() + 1 < SLOTS || syncing {
                    free.push(slot);
                    break;
                }
                disk.close(file);
                files += 1;
                file = disk.create(&format!("plain-{files}"), SEGMENT_BYTES)?;
                offset = 0;
            }
            disk.begin_write(file, offset, slot, 0, slot_bytes)?;
            offset += slot_bytes as u64;
        }
        let mut bytes = 0;
        while let Some(completion) = disk.poll(0)? {
            match completion {
                Completion::Write { slot, result } => {
                    free.push(slot);
                    *(if durable { &mut unsynced } else { &mut bytes }) += result? as u64;
                }
                Completion::Sync { result, .. } => {
                    result?;
                    syncing = false;
                    bytes += core::mem::take(&mut unsynced);
                }
            }
        }
        if durable && !syncing && unsynced > 0 {
            disk.begin_sync(file)?;
            syncing = true;
        }
        Ok(bytes)
    });
    while free.len() < SLOTS || syncing {
        match disk.poll(0)? {
            Some(Completion::Write { slot, .. }) => free.push(slot),
            Some(Completion::Sync { .. }) => syncing = false,
            None => {}
        }
    }
    turn
}

/// What fio writes in MB/s, if it is installed.
fn fio(folder: &Path, slot_bytes: usize, seconds: f64) -> Option<f64> {
    let output = Command::new("fio")
        .args([
            "--name=plain",
            "--rw=write",
            "--ioengine=io_uring",
            "--direct=1",
            "--fallocate=posix",
            "--output-format=json",
        ])
        .args([format!("--directory={}", folder.display()), format!("--bs={slot_bytes}"), format!("--iodepth={SLOTS}")])
        .args([format!("--size={SEGMENT_BYTES}"), format!("--runtime={}", seconds.ceil()), "--time_based".into()])
        .output()
        .ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    let report: serde_json::Value = serde_json::from_str(text.get(text.find('{')?..)?).ok()?;
    report["jobs"][0]["write"]["bw_bytes"].as_f64().map(|bytes| bytes / 1e6)
}

fn median(turns: &[Turn], of: impl Fn(Turn) -> f64) -> f64 {
    let mut values: Vec<f64> = turns.iter().map(|turn| of(*turn)).collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

fn fresh(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fs::create_dir_all(folder)
}

fn measure(folder: &Path, slot_bytes: usize, seconds: f64, rounds: usize, durable: bool) -> io::Result<String> {
    let (mut ours, mut theirs, mut fios) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..rounds {
        fresh(folder)?;
        ours.push(append(folder, slot_bytes, seconds, durable)?);
        fresh(folder)?;
        theirs.push(plain(folder, slot_bytes, seconds, durable)?);
        fresh(folder)?;
        if !durable {
            fios.extend(fio(folder, slot_bytes, seconds));
        }
    }
    fs::remove_dir_all(folder)?;
    let (append, plain) = (median(&ours, Turn::rate), median(&theirs, Turn::rate));
    let per_core = median(&ours, |turn| turn.bytes as f64 / turn.cpu_seconds / 1e6);
    fios.sort_by(f64::total_cmp);
    let fio = fios.get(fios.len() / 2).map_or("null".to_owned(), |rate| format!("{rate:.0}"));
    Ok(format!(
        "{{\"commit_bytes\":{slot_bytes},\"durable\":{durable},\"append_mb_s\":{append:.0},\"plain_mb_s\":{plain:.0},\"fio_mb_s\":{fio},\
         \"ratio\":{:.2},\"append_mb_per_cpu_second\":{per_core:.0}}}",
        append / plain
    ))
}

fn main() -> ExitCode {
    let mut words = env::args().skip(1);
    let Some(folder) = words.next() else {
        println!("append_rate FOLDER [seconds] [rounds]: the folder is made, and removed with all that is in it");
        return ExitCode::FAILURE;
    };
    let seconds: f64 = words.next().map_or(3.0, |word| word.parse().expect("seconds"));
    let rounds: usize = words.next().map_or(5, |word| word.parse().expect("a number of rounds"));
    let folder = Path::new(&folder).join("append-rate");
    let rows = [(64 << 10, false), (256 << 10, false), (1 << 20, false), (256 << 10, true)];
    let rows: io::Result<Vec<String>> =
        rows.iter().map(|(bytes, durable)| measure(&folder, *bytes, seconds, rounds, *durable)).collect();
    match rows {
        Ok(rows) => println!("[{}]", rows.join(",\n ")),
        Err(error) => {
            println!("append_rate: {error}; is the disk full, or the folder not writable?");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
