//! `cargo xtask bench disk`: what a disk that stalls, is full or fails does to a node, on a real file system that this makes for
//! itself in a file. Durable messages wait or are refused with a reason; messages that are not logged must not notice.

use super::{finish, machine, median, target};
use crate::{
    Build, install,
    node::{self, Node, Start},
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle, sleep},
    time::{Duration, Instant},
};

/// How long.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Rounds in which a calm disk and a stalling one take turns.
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds that load is offered each time.
    #[arg(long, default_value_t = 4)]
    seconds: u32,
    /// Where the file with the file system lies; a gigabyte, removed afterwards.
    #[arg(long, default_value = "target/bench/disk")]
    folder: PathBuf,
    /// Prints one JSON object as the last line.
    #[arg(long)]
    json: bool,
}

/// How much longer messages that are not logged may take beside a stalled disk, at P99.
const VOLATILE_P99_MAX: f64 = 1.2;
/// How long the disk does nothing, and how long it then works.
const STALL: Duration = Duration::from_secs(1);
const WORK: Duration = Duration::from_millis(500);
/// Messages a second of each kind, little enough for both generators to share one core.
const RATE: &str = "100k";
/// Of the file system: room for four segments of each shard and more.
const MIB: u32 = 1024;
/// How long the log may take to say that something is wrong, or well again.
const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn run(args: &Args) -> Result<()> {
    usable()?;
    node::build(&[], args.json)?;
    let begun = machine();
    let disk = Disk::new(&args.folder)?;
    let log = disk.mount.join("log");
    fs::create_dir_all(&log)?;
    let values =
        [("log", &*log.to_string_lossy()), ("durability", "durable")].map(|(name, value)| (name, value.to_owned()));
    let values = values.each_ref().map(|(name, value)| (*name, value.as_str()));
    let mut node = Node::start(&Start { build: Build::Release, files: "log", values: &values, nice: None })?;
    let (calm, stalled) = stalls(args, &node, &disk)?;
    let full = full(args, &node, &disk)?;
    let failed = failed(args, &mut node, &disk)?;
    node.stop()?;
    let p99 = |row: &Value| row["volatile"]["p99_ns"].as_f64().unwrap_or(f64::NAN);
    let ratios = calm.iter().zip(&stalled).map(|(calm, stalled)| p99(stalled) / p99(calm));
    let mut rows = [calm.clone(), stalled.clone()].concat();
    rows.extend(full.into_iter().chain(failed));
    let lost: f64 = rows.iter().filter_map(|row| row["volatile"]["lost"].as_f64()).sum();
    let targets = json!([
        target("volatile messages' P99 beside a stalled disk", median(ratios.collect()), VOLATILE_P99_MAX, false),
        target("volatile messages lost", lost, 0.0, false),
    ]);
    let result = json!({"rows": rows, "targets": targets, "machine": begun});
    finish(args.json, &result)
}

/// What this needs, or the first thing that is missing.
fn usable() -> Result<()> {
    ensure!(is_root(), "a file system of its own needs root");
    for (tool, package) in [("mkfs.ext4", "e2fsprogs"), ("fsfreeze", "util-linux"), ("python3", "python3")] {
        ensure!(
            install::is_there(&["sh", "-c", &format!("command -v {tool}")]),
            "{tool} is missing (apt-get install {package})"
        );
    }
    Ok(())
}

fn is_root() -> bool {
    install::is_there(&["sh", "-c", "test $(id -u) = 0"])
}

/// A calm disk and a stalling one in turns, with a first round that makes all segments and counts for nothing.
fn stalls(args: &Args, node: &Node, disk: &Disk) -> Result<(Vec<Value>, Vec<Value>)> {
    offer(args, node)?;
    let (mut calm, mut stalled) = (Vec::new(), Vec::new());
    for round in 1..=args.rounds {
        say(args, &format!("round {round} of {}: calm", args.rounds));
        calm.push(row("calm", node, offer(args, node)?)?);
        say(args, &format!("round {round} of {}: stalling", args.rounds));
        let stalls = Stalls::start(disk);
        let offered = offer(args, node);
        let status = node.status(); // answered while the disk stands still
        stalls.end()?; // whatever came of it, or the file system could not be taken down
        stalled.push(row_with("stalling", &status?, offered?));
        await_state(node, "running")?;
    }
    Ok((calm, stalled))
}

/// No room left; then room again.
fn full(args: &Args, node: &Node, disk: &Disk) -> Result<Vec<Value>> {
    say(args, "a full disk");
    let filler = disk.mount.join("filler");
    // What cannot be had is the point, so dd's complaint is not shown.
    Command::new("dd")
        .args(["if=/dev/zero", "bs=1M"])
        .arg(format!("of={}", filler.display()))
        .stderr(Stdio::null())
        .status()?;
    let mut rows = Vec::new();
    let begun = Instant::now();
    // Room that segments have already must be written first.
    loop {
        let row = row("full", node, offer(args, node)?)?;
        let is_full = row["log_state"] == "full";
        rows.push(row);
        if is_full {
            break;
        }
        ensure!(begun.elapsed() < 4 * PATIENCE, "a full disk was never told: {}", node.status()?["log"]);
    }
    fs::remove_file(filler)?;
    await_state(node, "running")?;
    rows.push(row("room again", node, offer(args, node)?)?);
    Ok(rows)
}

/// Every write fails; then a new start on the same disk.
fn failed(args: &Args, node: &mut Node, disk: &Disk) -> Result<Vec<Value>> {
    say(args, "a disk that fails");
    disk.fail()?;
    let mut rows = vec![row("failed", node, offer(args, node)?)?];
    // The scrub may be the first to notice; to it a log that cannot be read is a damaged one.
    let told = rows[0]["log_state"].as_str().unwrap_or_default();
    ensure!(["failed", "damaged"].contains(&told), "a failed disk is told as {told}");
    node.kill_control()?;
    disk.remount()?;
    node.start_control()?;
    await_state(node, "running")?;
    rows.push(row("mounted again", node, offer(args, node)?)?);
    say(args, "verifying the log");
    let verified = Command::new(Build::Release.program("tachyon"))
        .args(["log", "verify", "--json", "--directory"])
        .arg(disk.mount.join("log"))
        .output()?;
    ensure!(verified.status.success(), "the log is not sound: {}", String::from_utf8_lossy(&verified.stdout));
    Ok(rows)
}

/// Durable and volatile messages at once, from two generators: what became of each.
fn offer(args: &Args, node: &Node) -> Result<[Value; 2]> {
    let start = |prefix: &str, port: &str, seconds: u32| {
        let mut words = node.words();
        words[3] = port.to_owned();
        node::load(Build::Release)
            .args(["--topics", "1024", "--sessions", "2", "--senders", "8", "--rate", RATE, "--topic-prefix", prefix])
            .args(words)
            .args(["--seconds", &seconds.to_string()])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()) // each sees the other's messages in the node's ledgers, and says so
            .spawn()
            .context("cannot start tachyon-load")
    };
    let durable = start("load.", "26640", args.seconds + 1)?;
    sleep(Duration::from_millis(500));
    let volatile = report(start("live.", "26800", args.seconds)?)?;
    Ok([report(durable)?, volatile])
}

fn report(load: Child) -> Result<Value> {
    let output = load.wait_with_output()?;
    let text = String::from_utf8(output.stdout)?;
    serde_json::from_str(text.lines().last().unwrap_or_default())
        .with_context(|| format!("tachyon-load said: {}", String::from_utf8_lossy(&output.stderr)))
}

fn row(case: &str, node: &Node, offered: [Value; 2]) -> Result<Value> {
    Ok(row_with(case, &node.status()?, offered))
}

fn row_with(case: &str, status: &Value, offered: [Value; 2]) -> Value {
    let [durable, volatile] = offered.map(|report| {
        let (offered, received) = (report["offered_messages"].as_u64(), report["received_copies"].as_u64());
        json!({
            "offered": offered, "received": received,
            "lost": offered.unwrap_or(0).saturating_sub(received.unwrap_or(0)),
            "p50_ns": report["end_to_end_ns"]["p50"], "p99_ns": report["end_to_end_ns"]["p99"],
            "max_ns": report["end_to_end_ns"]["max"],
        })
    });
    json!({"case": case, "log_state": state(status), "log": problem(status), "durable": durable, "volatile": volatile})
}

/// The state of the log as a whole: the first of a shard that does not run.
fn state(status: &Value) -> String {
    let shards = status["log"]["shards"].as_array().into_iter().flatten();
    let state = shards.filter_map(|shard| shard["state"].as_str()).find(|state| *state != "running");
    state.unwrap_or("running").to_owned()
}

/// What `tachyon status` says is wrong with the first such shard.
fn problem(status: &Value) -> Value {
    let mut shards = status["log"]["shards"].as_array().into_iter().flatten();
    shards.find(|shard| shard["state"] != "running").map_or(Value::Null, |shard| shard["why"].clone())
}

fn await_state(node: &Node, wanted: &str) -> Result<()> {
    let begun = Instant::now();
    loop {
        let status = node.status()?;
        if state(&status) == wanted {
            return Ok(());
        }
        ensure!(begun.elapsed() < PATIENCE, "the log did not come to be {wanted}: {}", status["log"]);
        sleep(Duration::from_millis(100));
    }
}

fn say(args: &Args, text: &str) {
    if !args.json {
        println!("{text}");
    }
}

/// A file system in a file, gone when this is dropped.
struct Disk {
    image: PathBuf,
    mount: PathBuf,
}

impl Disk {
    fn new(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder)?;
        let folder = folder.canonicalize()?;
        let disk = Self { image: folder.join("image"), mount: folder.join("mount") };
        disk.clear(); // what a run that was killed has left
        fs::create_dir_all(&disk.mount)?;
        crate::run(Command::new("truncate").args(["-s", &format!("{MIB}M")]).arg(&disk.image))?;
        crate::run(Command::new("mkfs.ext4").args(["-q", "-F", "-m", "0"]).arg(&disk.image))?;
        disk.attach()?;
        Ok(disk)
    }

    fn attach(&self) -> Result<()> {
        crate::run(Command::new("mount").args(["-o", "loop"]).args([&self.image, &self.mount]))
    }

    fn remount(&self) -> Result<()> {
        crate::run(Command::new("umount").arg(&self.mount))?;
        self.attach()
    }

    fn freeze(&self, how: &str) -> bool {
        Command::new("fsfreeze")
            .arg(how)
            .arg(&self.mount)
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success())
    }

    /// Has every further write fail: `EXT4_IOC_SHUTDOWN` (`_IOR('X', 125, __u32)`) without flushing the journal.
    fn fail(&self) -> Result<()> {
        let program = "import fcntl, os, struct, sys\n\
            fcntl.ioctl(os.open(sys.argv[1], os.O_RDONLY), 0x8004587D, struct.pack('I', 2))";
        crate::run(Command::new("python3").args(["-c", program]).arg(&self.mount))
    }

    fn clear(&self) {
        self.freeze("--unfreeze");
        // Neither is there the first time.
        let _ = Command::new("umount").arg(&self.mount).stderr(Stdio::null()).status();
        let _ = fs::remove_file(&self.image);
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A disk that stands still again and again, until this ends.
struct Stalls {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<bool>,
}

impl Stalls {
    fn start(disk: &Disk) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (seen, disk) = (Arc::clone(&stop), Disk { image: disk.image.clone(), mount: disk.mount.clone() });
        let thread = thread::spawn(move || {
            let disk = std::mem::ManuallyDrop::new(disk); // the mount is not ours to take down
            let mut all = true;
            while !seen.load(Ordering::Relaxed) {
                all &= disk.freeze("--freeze");
                sleep(STALL);
                all &= disk.freeze("--unfreeze");
                sleep(WORK);
            }
            all
        });
        Self { stop, thread }
    }

    fn end(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        ensure!(self.thread.join().is_ok_and(|all| all), "fsfreeze could not stop or start the file system");
        Ok(())
    }
}
