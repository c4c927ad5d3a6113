//! Every step of a seeded workload at which a machine can lose power or a process can be killed, each left in several ways;
//! the log is then opened again and held against what it had promised.

use super::support::{config, is_right, record, signer};
use tachyon_log::{
    Appender, Cursor, Error, State,
    cursor::Item,
    fault::{Cut, FaultDisk, Faults, Random},
    retention::Limits,
    verify::verify,
};

/// What came out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// Crashes, each with what it left.
    pub(crate) points: u64,
    /// Records that were acknowledged as durable and are not there.
    pub(crate) acked_lost: u64,
    /// Logs that were judged sound and hold something else than was appended.
    pub(crate) false_verify: u64,
    /// Logs that could not be opened again, were not judged sound, or did not go on.
    pub(crate) not_recovered: u64,
}

impl Outcome {
    pub(crate) fn add(&mut self, other: Self) {
        self.points += other.points;
        self.acked_lost += other.acked_lost;
        self.false_verify += other.false_verify;
        self.not_recovered += other.not_recovered;
    }
}

/// What the world was told before the machine went off.
#[derive(Clone, Copy, Debug, Default)]
struct Told {
    written: u64,
    durable: u64,
}

fn disk(seed: u64) -> FaultDisk {
    let faults = Faults { stall_ns: 300, ..Faults::default() };
    FaultDisk::new(seed, 3, 2 * 4096, faults)
}

/// Appends, commits, checkpoints and forgets as the seed says, until it is done or the machine goes off.
fn work(disk: &mut FaultDisk, seed: u64, records: u64, told: &mut Told) -> Result<(), Error> {
    let mut random = Random::new(seed);
    let mut now = 0;
    let mut appender = Appender::open(disk, config(8 + seed % 3 * 4), now)?;
    let (mut bytes, target) = (Vec::new(), appender.next_sequence() + records);
    while appender.next_sequence() < target {
        now += random.below(400);
        let appended = match random.below(24) {
            0 => appender.append_checkpoint(now, &signer()).map(drop),
            1 => {
                let limits = Limits { bytes_max: 6 * 8 * 4096, oldest_tick: 0 };
                appender.retain(now, now, &limits, &signer()).map(drop)
            }
            _ => appender.append(now, &record(seed, appender.next_sequence(), &mut bytes)).map(drop),
        };
        if !matches!(appended, Ok(()) | Err(Error::Busy)) {
            return appended;
        }
        match random.below(5) {
            0 | 1 => appender.commit(now, true),
            2 => appender.commit(now, false),
            _ => {}
        }
        let progress = appender.poll(now)?;
        assert_eq!(progress.state, State::Running);
        assert!(progress.durable <= progress.written && told.durable <= progress.durable);
        *told = Told { written: progress.written, durable: progress.durable };
    }
    loop {
        now += 500;
        let finished = appender.finish(now)?;
        *told = Told { written: appender.progress().written, durable: appender.progress().durable };
        if finished {
            return Ok(());
        }
    }
}

/// Opens what a crash left and holds it against what was told; then it has to go on.
fn judge(mut disk: FaultDisk, seed: u64, acked: u64, again: bool) -> (Outcome, FaultDisk) {
    let mut outcome = Outcome { points: 1, ..Outcome::default() };
    let opened =
        Appender::open(&mut disk, config(12), 0).map(|mut appender| (appender.next_sequence(), appender.root()));
    let Ok((next, root)) = opened else {
        outcome.not_recovered = 1;
        outcome.acked_lost = acked;
        return (outcome, disk);
    };
    outcome.acked_lost += acked.saturating_sub(next);
    let report = verify(&mut disk, Some(&signer().verifier()), &[]).expect("a disk that can be read");
    let sound = report.findings.is_empty() && report.root == Some(root) && report.next_sequence == next;
    outcome.not_recovered += u64::from(!sound);
    outcome.false_verify += u64::from(sound && !holds_what_was_appended(&mut disk, seed, next));
    if again {
        let mut told = Told::default();
        let went_on = work(&mut disk, seed, 12, &mut told).is_ok();
        let report = verify(&mut disk, Some(&signer().verifier()), &[]).expect("a disk that can be read");
        let sound = went_on && report.findings.is_empty() && report.next_sequence >= next + 12;
        outcome.not_recovered += u64::from(!sound);
        outcome.false_verify += u64::from(sound && !holds_what_was_appended(&mut disk, seed, next + 12));
    }
    (outcome, disk)
}

/// Whether everything up to `next` is there without a hole, and is what was appended. Notes and tombstones were made by
/// the log; their signatures were checked.
fn holds_what_was_appended(disk: &mut FaultDisk, seed: u64, next: u64) -> bool {
    let mut cursor = Cursor::new(disk, 0).expect("a folder");
    let mut expected = None;
    while let Some(item) = cursor.next(disk).expect("a disk that can be read") {
        let Item::Commit(commit) = item else { continue };
        for raw in commit.records() {
            let read = (raw.sequence, raw.kind, raw.body.to_vec());
            let ours = raw.kind == 6 || raw.kind == 8;
            if expected.is_some_and(|expected| expected != raw.sequence) || !(ours || is_right(seed, &read)) {
                return false;
            }
            expected = Some(raw.sequence + 1);
        }
    }
    expected.unwrap_or(next) >= next
}

/// The sequence behind the last record.
fn next_of(disk: &FaultDisk) -> u64 {
    verify(&mut disk.clone(), None, &[]).expect("a disk that can be read").next_sequence
}

/// Every crash of one workload. `each` is how many steps there are from one crash to the next.
pub(crate) fn enumerate(seed: u64, records: u64, each: u64) -> Outcome {
    let mut whole = disk(seed);
    let mut told = Told::default();
    work(&mut whole, seed, records, &mut told).expect("a healthy disk");
    let steps = whole.steps();
    let mut outcome = Outcome::default();
    for step in (0..steps).step_by(usize::try_from(each).expect("small")) {
        let mut stopped = disk(seed);
        stopped.stop_after(step);
        let mut told = Told::default();
        assert!(work(&mut stopped, seed, records, &mut told).is_err(), "the machine went off at step {step}");
        let mut random = Random::new(seed ^ step << 20);
        for cut in Cut::ALL {
            let left = stopped.clone().power_cut(random.next(), cut);
            let again = random.one_in(4);
            outcome.add(judge(left.clone(), seed, told.durable, again).0);
            // The power goes again while the log is being opened, or just after.
            if cut == Cut::TearsSectors {
                let mut left = left;
                left.stop_after(random.below(12));
                let _ = work(&mut left, seed, 3, &mut Told::default());
                outcome.add(judge(left.power_cut(random.next(), Cut::TearsSectors), seed, told.durable, false).0);
            }
        }
        // A killed process loses nothing that the disk has taken.
        let (killed, left) = judge(stopped.killed(random.next()), seed, told.written, false);
        outcome.add(killed);
        // What is there once the log is open again is durable, also what had only been in the disk's memory.
        let next = next_of(&left);
        outcome.add(judge(left.power_cut(random.next(), Cut::LosesAll), seed, next, false).0);
    }
    outcome
}
