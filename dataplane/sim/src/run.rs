//! Replays all that a directory of logs holds.

use crate::{
    Keys, Replay, Report,
    logs::{Logs, WorkerTurn},
};
use serde_json::Value;
use std::{collections::BTreeMap, path::Path};

/// What all replays found, one for each worker of each start of the node.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// By worker and boot, in the order of their first turns.
    pub reports: Vec<Report>,
    /// What each worker came to, if that was asked for.
    pub snapshots: Vec<Value>,
    /// What does not hold in the files.
    pub damage: Vec<String>,
}

impl Outcome {
    /// A sum over the reports.
    #[must_use]
    pub fn sum(&self, of: impl Fn(&Report) -> u64) -> u64 {
        self.reports.iter().map(of).sum()
    }

    /// Whether all that was compared is equal.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.reports.iter().all(|report| report.mismatches == 0 && report.digest_equal)
    }
}

/// A worker of one start of the node, while it is replayed.
enum State {
    Running(Box<Replay>),
    /// It could not be started.
    Not(Report),
}

/// Replays every turn in the logs below `directory`, or those of one worker; a snapshot of each if `takes_notes`. `progress` is told the turns so far.
///
/// # Errors
/// The files cannot be read.
pub fn run(
    directory: &Path,
    keys: &Keys,
    worker: Option<u16>,
    takes_notes: bool,
    mut progress: impl FnMut(u64),
) -> anyhow::Result<Outcome> {
    let mut logs = Logs::open(directory)?;
    let mut order = Vec::new();
    let mut states: BTreeMap<([u8; 16], u16), State> = BTreeMap::new();
    let mut turns = 0;
    while let Some(next) = logs.next_turn()? {
        if worker.is_some_and(|worker| worker != next.worker) {
            continue;
        }
        let place = (next.boot, next.worker);
        let state = states.entry(place).or_insert_with(|| {
            order.push(place);
            start(&next, keys, takes_notes)
        });
        match state {
            State::Not(report) => report.not_replayed += 1,
            State::Running(replay) => play(replay, &next, &logs),
        }
        turns += 1;
        progress(turns);
    }
    let report = |place| match states.get(place) {
        Some(State::Running(replay)) => Some(replay.report()),
        Some(State::Not(report)) => Some(report.clone()),
        None => None,
    };
    let reports = order.iter().filter_map(report).collect();
    let snapshot = |state: &mut State| if let State::Running(replay) = state { replay.snapshot() } else { None };
    let snapshots = order.iter().filter_map(|place| snapshot(states.get_mut(place)?)).collect();
    Ok(Outcome { reports, snapshots, damage: logs.damage().to_vec() })
}

fn start(first: &WorkerTurn, keys: &Keys, takes_notes: bool) -> State {
    match first.turn.as_ref().map_err(Clone::clone).and_then(|turn| Replay::new(turn, keys.clone())) {
        Ok(mut replay) => {
            if takes_notes {
                replay.take_notes();
            }
            State::Running(Box::new(replay))
        }
        Err(because) => {
            let because = Some(because);
            State::Not(Report { worker: first.worker, digest_equal: true, because, ..Report::default() })
        }
    }
}

fn play(replay: &mut Replay, next: &WorkerTurn, logs: &Logs) {
    if let Some(what) = logs.damage().first() {
        return replay.pass_over(&format!("the log is damaged: {what}"));
    }
    let turn = match &next.turn {
        Ok(turn) => turn,
        Err(because) => return replay.pass_over(because),
    };
    let version = next.ruleset_version;
    if version != 0
        && !replay.has_ruleset(version)
        && let Some(image) = logs.image(version)
        && let Err(because) = replay.add_ruleset(version, image)
    {
        return replay.pass_over(&because);
    }
    replay.turn(turn);
}
