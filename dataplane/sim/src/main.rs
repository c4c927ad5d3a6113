//! `tachyon-replay`: plays what the truth log recorded through the engine once more, and says whether anything differs.
//!
//! It reads the logs' files alone and writes nothing there; `tachyon log replay` starts it, because control does not link the engine.
#![forbid(unsafe_code)]

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use serde_json::{Value, json};
use std::{
    path::PathBuf,
    process::ExitCode,
    time::{Duration, Instant},
};
use tachyon_log::turn::header;
use tachyon_sim::{
    Keys, Report,
    record::{Recorder, UNIX_OFFSET_NS, World},
    run::{Outcome, run},
    write::Writer,
};

const AFTER_RUN: &str = "\
Exit codes: 0 nothing differs, 1 something does, 2 usage or unreadable files.

A worker is replayed from the node's start on and up to the first turn that was lost, or that a crash left in the logs of only some of its
shards; what was not is counted and said. Without --keys the tags of frames are taken on trust, and what left under a tag is not
compared.

JSON: {equal, turns, frames, messages, verdicts_compared, mismatches, first: [{turn, frame, message, recorded, replayed}],
egress_frames, egress_turns, digest_equal, on_trust, not_replayed, hash, seconds, damage, workers: [the same, and worker and because]}.
hash is BLAKE3 over the replayed records of a worker; of several, over their hashes.";

const AFTER_SNAPSHOT: &str = "\
The file: a line with version, BLAKE3 of the rest and its length, then JSON: {equal, damage, workers: [{worker, turn, tick,
ruleset_version, topics: [{topic, accepted, refused, level, last: {turn, session, epoch, frame_id, index, message}}],
senders: [{sender, level}], windows: [{session, shard, epoch, top, seen, refused}]}]}. Levels are in 1/16 ns of the node's clock;
message is hex, of volatile topics only its first 16 bytes. Exit codes: as run.";

/// Replays the truth log.
#[derive(Debug, Parser)]
#[command(name = "tachyon-replay", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Replays all turns and compares every verdict and what left.
    #[command(after_help = AFTER_RUN)]
    Run(Run),
    /// Replays all turns and writes down what topics, senders and sessions came to.
    #[command(after_help = AFTER_SNAPSHOT)]
    Snapshot(Snapshot),
    /// Makes logs of a worker in memory, to be replayed: for tests.
    Record(Record),
}

#[derive(Debug, Args)]
struct Run {
    /// The directory of the logs, with a folder for each shard.
    #[arg(long)]
    directory: PathBuf,
    /// The file of keys that control keeps.
    #[arg(long)]
    keys: Option<PathBuf>,
    /// Only this worker.
    #[arg(long)]
    worker: Option<u16>,
    /// One JSON document instead of text.
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
struct Snapshot {
    /// The directory of the logs, with a folder for each shard.
    #[arg(long)]
    directory: PathBuf,
    /// The file of keys that control keeps.
    #[arg(long)]
    keys: Option<PathBuf>,
    /// Only this worker.
    #[arg(long)]
    worker: Option<u16>,
    /// The file to write; replaced at once if it is there.
    #[arg(long)]
    out: PathBuf,
}

#[derive(Debug, Args)]
struct Record {
    /// Where to make the logs; the keys go to the file `keys` there.
    #[arg(long)]
    directory: PathBuf,
    /// How many messages to send.
    #[arg(long, default_value_t = 1_000_000)]
    messages: u64,
    /// What everything follows from.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Only some shards have topics for the log.
    #[arg(long)]
    partly: bool,
    /// Some topics are forwarded without the log where it takes nothing.
    #[arg(long)]
    marks: bool,
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(options) => replay(&options),
        Command::Snapshot(options) => snapshot(&options),
        Command::Record(options) => record(&options).map(|()| ExitCode::SUCCESS),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::from(2)
    })
}

fn replay(options: &Run) -> anyhow::Result<ExitCode> {
    let keys = options.keys.as_deref().map_or_else(|| Ok(Keys::new()), Keys::read)?;
    let (begin, mut told) = (Instant::now(), Instant::now());
    let progress = |turns: u64| {
        if turns.is_multiple_of(1_024) && told.elapsed() > Duration::from_secs(1) {
            told = Instant::now();
            eprint!("\r{turns} turns");
        }
    };
    let outcome = run(&options.directory, &keys, options.worker, false, progress)?;
    eprintln!();
    let seconds = begin.elapsed().as_secs_f64();
    say(&document(&outcome, seconds), options.json);
    Ok(if outcome.is_equal() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

fn snapshot(options: &Snapshot) -> anyhow::Result<ExitCode> {
    let keys = options.keys.as_deref().map_or_else(|| Ok(Keys::new()), Keys::read)?;
    let outcome = run(&options.directory, &keys, options.worker, true, |_| {})?;
    let document = json!({"equal": outcome.is_equal(), "damage": outcome.damage, "workers": outcome.snapshots});
    tachyon_sim::snapshot::write(&options.out, &document)?;
    eprintln!("{}: {} workers", options.out.display(), outcome.snapshots.len());
    Ok(if outcome.is_equal() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

/// The outcome as it is printed.
fn document(outcome: &Outcome, seconds: f64) -> Value {
    let hash = match outcome.reports.as_slice() {
        [report] => report.hash,
        reports => {
            let mut hasher = blake3::Hasher::new();
            for report in reports {
                hasher.update(&report.hash);
            }
            *hasher.finalize().as_bytes()
        }
    };
    let first = |report: &Report| {
        let told = report.first.iter().map(|mismatch| {
            json!({
                "turn": mismatch.turn, "frame": mismatch.frame, "message": mismatch.message,
                "recorded": mismatch.recorded, "replayed": mismatch.replayed,
            })
        });
        told.collect::<Vec<_>>()
    };
    let worker = |report: &Report| {
        json!({
            "worker": report.worker, "turns": report.turns, "frames": report.frames, "messages": report.messages,
            "verdicts_compared": report.verdicts_compared, "mismatches": report.mismatches, "first": first(report),
            "egress_frames": report.egress_frames, "egress_turns": report.egress_turns,
            "digest_equal": report.digest_equal, "on_trust": report.on_trust, "not_replayed": report.not_replayed,
            "because": report.because, "hash": hex(&report.hash),
        })
    };
    json!({
        "equal": outcome.is_equal(),
        "turns": outcome.sum(|report| report.turns),
        "frames": outcome.sum(|report| report.frames),
        "messages": outcome.sum(|report| report.messages),
        "verdicts_compared": outcome.sum(|report| report.verdicts_compared),
        "mismatches": outcome.sum(|report| report.mismatches),
        "first": outcome.reports.iter().flat_map(first).collect::<Vec<_>>(),
        "egress_frames": outcome.sum(|report| report.egress_frames.into()),
        "egress_turns": outcome.sum(|report| report.egress_turns),
        "digest_equal": outcome.reports.iter().all(|report| report.digest_equal),
        "on_trust": outcome.sum(|report| report.on_trust),
        "not_replayed": outcome.sum(|report| report.not_replayed),
        "hash": hex(&hash),
        "seconds": seconds,
        "damage": outcome.damage,
        "workers": outcome.reports.iter().map(worker).collect::<Vec<_>>(),
    })
}

#[expect(clippy::print_stdout, reason = "this is what the program is asked for")]
fn say(document: &Value, as_json: bool) {
    if as_json {
        println!("{document:#}");
        return;
    }
    let names =
        ["turns", "frames", "messages", "verdicts_compared", "mismatches", "egress_frames", "on_trust", "not_replayed"];
    for name in names {
        println!("{:<18} {}", name.replace('_', " "), document[name]);
    }
    println!("{:<18} {}", "digest equal", document["digest_equal"]);
    println!("{:<18} {}", "hash", document["hash"].as_str().unwrap_or_default());
    println!("{:<18} {:.1}", "seconds", document["seconds"].as_f64().unwrap_or_default());
    for worker in document["workers"].as_array().into_iter().flatten() {
        if let Some(because) = worker["because"].as_str() {
            println!("worker {}: {} turns not replayed: {because}", worker["worker"], worker["not_replayed"]);
        }
    }
    for text in document["damage"].as_array().into_iter().flatten() {
        println!("damage: {}", text.as_str().unwrap_or_default());
    }
    for mismatch in document["first"].as_array().into_iter().flatten() {
        println!("differs: {mismatch}");
    }
    println!("{}", if document["equal"] == true { "nothing differs" } else { "it differs" });
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn record(options: &Record) -> anyhow::Result<()> {
    std::fs::create_dir_all(&options.directory)
        .with_context(|| format!("cannot make {}", options.directory.display()))?;
    let world = World { seed: options.seed, partly: options.partly, marks: options.marks };
    let mut recorder = Recorder::new(world)?;
    let boot_id = *blake3::hash(&options.seed.to_le_bytes()).as_bytes().first_chunk().unwrap_or(&[0; 16]);
    let mut writer = Writer::new(&options.directory, boot_id, UNIX_OFFSET_NS);
    while recorder.messages() < options.messages {
        if let Some(turn) = recorder.step() {
            let version = header(&turn.record).map_or(0, |header| header.ruleset_version.get());
            writer.append(&turn, recorder.image(version))?;
        }
    }
    let counters = recorder.stats().counters;
    eprintln!(
        "{} messages in {} frames: {} accepted, {} turns recorded, {} bytes of records",
        counters.messages_seen,
        counters.frames_seen,
        counters.messages_accepted,
        counters.turns_recorded,
        counters.bytes_recorded
    );
    writer.finish(recorder.now())
}
