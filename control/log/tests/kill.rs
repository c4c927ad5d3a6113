//! Real processes, killed with SIGKILL while they append to a real folder: what they had acknowledged as durable is there.
//! `TACHYON_LOG_KILLS` says how many; 300 if it is not set.

mod support;

use std::{
    env, fs,
    io::{Read, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Duration,
};
use support::{config, is_right, record, signer};
use tachyon_log::{
    Appender, Cursor, Disk, Fault, ReadOnly, cursor::Item, fault::Random, retention::Limits, verify::verify,
};

const SEED: u64 = 77;
const FOLDER: &str = "TACHYON_LOG_KILL_FOLDER";
const SLOT_BYTES: usize = 16 * 1024;
const SEGMENT_BLOCKS: u64 = 64;

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn open(path: &Path) -> Appender<Disk> {
    let disk = Disk::open(path, 4, SLOT_BYTES).expect("a folder that nobody else writes to");
    Appender::open(disk, config(SEGMENT_BLOCKS), 0).expect("a log that opens after every kill")
}

/// Not a test: what the killed process runs. It appends for ever and writes each acknowledged sequence to its standard
/// error, eight bytes each.
#[test]
#[ignore = "the process that `killed_writers_lose_nothing` starts and kills"]
fn child() {
    let Some(path) = env::var_os(FOLDER) else { return };
    let mut appender = open(Path::new(&path));
    let mut random = Random::new(appender.next_sequence());
    let (mut bytes, mut told) = (Vec::new(), 0);
    for now in 0_u64.. {
        for _ in 0..=random.below(8) {
            let _busy = appender.append(now, &record(SEED, appender.next_sequence(), &mut bytes));
        }
        if now % 1_000 == 999 {
            let limits = Limits { bytes_max: 4 << 20, oldest_tick: 0 };
            let _busy = appender.retain(now, now, &limits, &signer());
        }
        appender.commit(now, true);
        let durable = appender.poll(now).expect("a healthy disk").durable;
        if durable > told {
            told = durable;
            std::io::stderr().write_all(&durable.to_le_bytes()).expect("a parent that listens");
        }
    }
}

/// Runs the child until it is killed; returns the last sequence that it acknowledged.
fn run_and_kill(path: &Path, random: &mut Random) -> u64 {
    let program = env::current_exe().expect("this program");
    let mut child = Command::new(program)
        .args(["--ignored", "--exact", "child", "--nocapture"])
        .env(FOLDER, path)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("a child");
    let mut acks = child.stderr.take().expect("a pipe");
    let mut last = [0; 8];
    // Most are killed somewhere in their work; some while they still open the log.
    let first = !random.one_in(8) && acks.read_exact(&mut last).is_ok();
    std::thread::sleep(Duration::from_micros(random.below(30_000)));
    child.kill().expect("our own child");
    child.wait().expect("our own child");
    let mut rest = Vec::new();
    acks.read_to_end(&mut rest).expect("a pipe");
    assert!(rest.len() % 8 == 0, "the child said: {}", String::from_utf8_lossy(&rest));
    let newest = rest.as_chunks::<8>().0.last().copied().or(first.then_some(last));
    newest.map_or(0, u64::from_le_bytes)
}

/// Reads from `from` on; returns where the log ends. Everything has to be what was appended.
fn read(path: &Path, from: u64) -> u64 {
    let mut files = ReadOnly::new(path);
    let mut cursor = Cursor::new(&mut files, from).expect("a folder");
    let mut next = 0;
    while let Some(item) = cursor.next(&mut files).expect("files that can be read") {
        match item {
            Item::Segment(header) => next = header.first_sequence,
            Item::Damage(damage) => assert!(matches!(damage.fault, Fault::Torn { .. }), "{damage}"),
            Item::Commit(commit) => {
                for raw in commit.records() {
                    let record = (raw.sequence, raw.kind, raw.body.to_vec());
                    assert!(raw.kind == 6 || is_right(SEED, &record), "record {} is another", raw.sequence);
                    assert_eq!(raw.sequence, next);
                    next += 1;
                }
            }
        }
    }
    next
}

#[test]
fn killed_writers_lose_nothing() {
    let kills: u64 = env::var("TACHYON_LOG_KILLS").map_or(300, |count| count.parse().expect("a number"));
    let folder = Folder(env::temp_dir().join(format!("tachyon-log-kill-{}", std::process::id())));
    let mut random = Random::new(SEED);
    let (mut acked, mut acks) = (0, 0);
    for kill in 0..kills {
        let told = run_and_kill(&folder.0, &mut random);
        acks += u64::from(told > acked);
        acked = told.max(acked);
        if folder.0.exists() && acked > 0 {
            let next = read(&folder.0, acked - 1);
            assert!(next >= acked, "kill {kill}: {acked} were durable and only {next} are there");
        }
    }
    let appender = open(&folder.0);
    assert!(appender.next_sequence() >= acked);
    drop(appender);
    let report = verify(&mut ReadOnly::new(&folder.0), Some(&signer().verifier()), &[]).expect("readable");
    assert_eq!(report.findings, []);
    assert!(acks > kills / 4, "only {acks} of {kills} children got as far as an acknowledgement");
}
