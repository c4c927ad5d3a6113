//! Good traffic under a flood: a real node behind a veth, its load on the other side, and ten times as much junk from there. The
//! filter is the node's own: attached, fed and counted by `tachyond`, and switched by the command line.
//!
//! All scenes, with and without filter and flood, take turns. Node and load have a core each, the junk comes on the
//! load's, so both filtered and unfiltered floods take the same from the load. In one more scene the same flood goes onto another
//! pair of ends, where a program that looks at nothing drops it: what good traffic suffers then is the machine's, by the flood's own
//! time, and only what it suffers beyond is the filter's.

use crate::{
    bed::{Bed, Cable, THEM, US, tool},
    figures::median,
    kernel::{self, Answer},
    packets::{FRAME, PINNED, frame, packet, with},
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use tachyon_wire::{Reason, frame::BASE_PORT};

/// Good frames a second, of one message each, and how much more junk there is.
const GOOD_PER_SECOND: u32 = 20_000;
const TIMES: u32 = 10;
/// How long each turn offers load, in seconds.
const SECONDS: u32 = 3;
/// Junk comes this often, in runs of what is due: a longer period would hold up good messages for as long as such a run takes.
const PERIOD: Duration = Duration::from_micros(400);
/// What P99 may grow to under the flood.
const P99_GROWTH: f64 = 1.5;
/// Before everybody else who is not above the usual (nice -15).
const PRIORITY: i32 = -15;
/// Behind everybody (nice 19): a flood from elsewhere would not take the load's processor away, only what it makes the kernel
/// do here would.
const FLOOD_PRIORITY: i32 = 19;
const PATIENCE: Duration = Duration::from_secs(20);

/// A process that ends with this value.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill(); // it may have ended by itself, which is as good
        let _ = self.0.wait();
    }
}

/// A folder that goes with this value.
struct Folder(PathBuf);

impl Folder {
    /// Anybody can guess its name, so one that is there already is not taken.
    fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("tachyon-xdp-{}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// The node, in a folder that is removed after its processes ended.
struct Node {
    programs: PathBuf,
    _data: Process,
    _control: Process,
    dir: Folder,
}

/// What became of one turn's good traffic.
#[derive(Clone, Copy, Debug)]
struct Turn {
    offered: f64,
    lost: f64,
    p99_us: f64,
    junk_seen: f64,
}

impl Node {
    /// With a filter on this interface.
    fn start(programs: &Path, cores: (usize, usize), interface: &str) -> Result<Self> {
        let folder = Folder::new()?; // before the processes, so that it goes after them also where this fails
        let dir = folder.0.as_path();
        for (name, text) in [
            ("node.toml", include_str!("../../../xtask/bench/node.toml")),
            ("control.toml", include_str!("../../../xtask/bench/control.toml")),
            ("rules.toml", include_str!("../../../xtask/bench/rules.toml")),
        ] {
            let filter = format!("\n[[prefilter]]\ninterface = \"{interface}\"\nat_stop = \"detach\"\n");
            let filter = if name == "node.toml" { filter.as_str() } else { "" };
            let text = [text, filter]
                .concat()
                .replace("{dir}", &dir.to_string_lossy())
                .replace("{base_port}", &BASE_PORT.to_string())
                .replace("{core}", &cores.0.to_string())
                .replace("{idle}", "wait")
                .replace("127.0.0.1", &US.to_string());
            fs::write(dir.join(name), text)?;
        }
        let start = |name: &str, core: usize, file: &str| -> Result<Process> {
            let mut command = on_core(core, &programs.join(name));
            let child = command.arg("--config").arg(dir.join(file)).stdout(Stdio::null()).spawn();
            Ok(Process(child.with_context(|| format!("cannot start {name}"))?))
        };
        let data = start("tachyond", cores.0, "node.toml")?;
        await_file(&dir.join("tachyond.sock"))?;
        let control = start("tachyon-control", cores.1, "control.toml")?;
        await_file(&dir.join("control.sock"))?;
        let node = Self { programs: programs.to_owned(), _data: data, _control: control, dir: folder };
        node.apply_rules()?;
        Ok(node)
    }

    fn socket(&self) -> PathBuf {
        self.dir.0.join("control.sock")
    }

    /// Until control answers and has the node.
    fn apply_rules(&self) -> Result<()> {
        let begun = Instant::now();
        loop {
            let output = self.command_line(&["rules", "apply", &self.dir.0.join("rules.toml").to_string_lossy()])?;
            if output.status.success() {
                return Ok(());
            }
            if begun.elapsed() > PATIENCE {
                bail!("the rules cannot be applied: {}", String::from_utf8_lossy(&output.stderr).trim());
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn command_line(&self, words: &[&str]) -> Result<Output> {
        let mut command = Command::new(self.programs.join("tachyon"));
        command.arg("--socket").arg(self.socket()).args(words).output().context("cannot start tachyon")
    }

    /// Puts the filter onto its interface, or takes it off.
    fn set_filter(&self, interface: &str, attached: bool) -> Result<()> {
        let word = if attached { "attach" } else { "detach" };
        let output = self.command_line(&["prefilter", word, interface])?;
        ensure!(output.status.success(), "prefilter {word}: {}", String::from_utf8_lossy(&output.stderr).trim());
        Ok(())
    }

    /// The filter's ledger, as the command line shows it.
    fn ledger(&self) -> Result<Value> {
        let output = self.command_line(&["prefilter", "status", "--json"])?;
        let status: Value = serde_json::from_slice(&output.stdout).context("prefilter status is JSON")?;
        let ledger = status["filters"][0]["ledger"].clone();
        ensure!(ledger.is_object(), "the node has no filter: {status}");
        Ok(ledger)
    }

    /// Offers the good traffic from the other side; the report.
    fn load(&self, bed: &Bed, core: usize) -> Result<Value> {
        let mut command = on_core(core, &self.programs.join("tachyon-load"));
        command.args(["run", "--json", "--topics", "1024", "--sessions", "4", "--messages-per-frame", "1"]);
        command.args(["--rate", &GOOD_PER_SECOND.to_string(), "--seconds", &SECONDS.to_string()]);
        command.args(["--listen", &THEM.to_string(), "--cpu", &core.to_string(), "--control"]).arg(self.socket());
        // Junk is in the node's ledgers too, which the load cannot explain and says; what it received is what counts here.
        let output = bed.there(|| Ok(command.stderr(Stdio::null()).output()?)).context("cannot start tachyon-load")?;
        let text = String::from_utf8(output.stdout)?;
        let last = text.lines().last().with_context(|| format!("tachyon-load ended with {}", output.status))?;
        serde_json::from_str(last).context("tachyon-load prints JSON lines")
    }
}

fn on_core(core: usize, program: &Path) -> Command {
    let mut command = Command::new("taskset");
    command.args(["-c", &core.to_string()]).arg(program);
    command
}

fn await_file(path: &Path) -> Result<()> {
    let begun = Instant::now();
    while !path.exists() {
        ensure!(begun.elapsed() < PATIENCE, "{} does not appear", path.display());
        thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}

/// What a ledger says was dropped for this reason.
fn dropped(ledger: &Value, reason: Reason) -> u64 {
    let drops = ledger["dropped"].as_array().into_iter().flatten();
    drops.filter(|drop| drop["code"] == reason.code()).filter_map(|drop| drop["count"].as_u64()).sum()
}

/// Whether everything that a ledger saw has an end.
fn adds_up(ledger: &Value) -> bool {
    let ends = ["passed_foreign", "passed_ours", "redirected"].map(|end| ledger[end].as_u64().unwrap_or(0));
    let drops = ledger["dropped"].as_array().into_iter().flatten().filter_map(|drop| drop["count"].as_u64());
    ledger["seen"].as_u64() == Some(ends.into_iter().chain(drops).sum()) && ledger["unaccounted"] == 0
}

/// Sends junk until told to stop; how many packets that was.
fn flood(cable: &Cable, bed: &Bed, stop: &AtomicBool) -> Result<u64> {
    let junk = with(packet(&frame(PINNED, 1, 0)), FRAME, &[0x55; 4]);
    let (begun, mut sent) = (Instant::now(), 0_u64);
    while !stop.load(Ordering::Relaxed) {
        // All that is due: a call can sleep in the kernel for longer than the period.
        let due = begun.elapsed().as_micros() as u64 * u64::from(GOOD_PER_SECOND * TIMES) / 1_000_000;
        let run = (due.saturating_sub(sent)).max(1);
        cable.send(bed, &junk, run as u32)?;
        sent += run;
        thread::sleep(PERIOD);
    }
    Ok(sent)
}

/// Where the junk goes in a turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Flood {
    Nowhere,
    /// Onto the node's interface.
    Here,
    /// Onto the other one.
    Elsewhere,
}

/// Everything in its place.
struct Stage {
    node: Node,
    cable: Cable,
    /// What comes here is dropped at once.
    elsewhere: Cable,
    _drop: OwnedFd,
    bed: Bed,
}

impl Stage {
    /// The veths and the node behind the first.
    fn set_up(programs: &Path, cores: (usize, usize)) -> Result<Self> {
        let bed = Bed::new()?;
        let (cable, elsewhere) = (bed.cable(0)?, bed.cable(1)?);
        // Without a filter a veth polls, and takes what a program sends it, only if it joins packets.
        tool(&format!("ethtool -K {} gro on", cable.name()))?;
        // The other side's kernel leaves checksums to a device that nobody has.
        bed.there(|| tool("ethtool -K them0 tx off"))?;
        let program = kernel::always(Answer::Drop)?;
        let drop = kernel::attach(program.as_fd(), elsewhere.us)?;
        let node = Node::start(programs, cores, &cable.name())?;
        Ok(Self { node, cable, elsewhere, _drop: drop, bed })
    }

    fn turn(&self, core: usize, filtered: bool, flood: Flood) -> Result<Turn> {
        let Self { node, cable, elsewhere, bed, .. } = self;
        node.set_filter(&cable.name(), filtered)?;
        let (before, before_elsewhere) = (dropped(&node.ledger()?, Reason::BadFrame), elsewhere.seen()?);
        let stop = AtomicBool::new(false);
        let (report, sent) = thread::scope(|scope| {
            let onto = if flood == Flood::Elsewhere { elsewhere } else { cable };
            let flood = (flood != Flood::Nowhere).then(|| {
                scope.spawn(|| {
                    crate::pin(core)?;
                    // Of this thread alone.
                    rustix::process::setpriority_process(None, FLOOD_PRIORITY)?;
                    self::flood(onto, bed, &stop)
                })
            });
            let report = node.load(bed, core);
            stop.store(true, Ordering::Relaxed);
            let sent = flood.map_or(Ok(0), |flood| flood.join().expect("the flood does not panic"));
            (report, sent)
        });
        let (report, sent) = (report?, sent?);
        let junk = match flood {
            Flood::Elsewhere => elsewhere.seen()? - before_elsewhere,
            _ if filtered => dropped(&node.ledger()?, Reason::BadFrame) - before,
            _ => sent,
        };
        let number = |value: &Value| value.as_f64().with_context(|| format!("a number is missing in {report}"));
        let offered = number(&report["offered_messages"])?;
        Ok(Turn {
            offered,
            lost: offered - number(&report["received_copies"])?,
            p99_us: number(&report["end_to_end_ns"]["p99"])? / 1e3,
            junk_seen: junk as f64,
        })
    }
}

/// One turn under the flood with the filter attached, for people who want to see it, with the filter's ledger.
pub(crate) fn show(programs: &Path, cores: (usize, usize)) -> Result<Value> {
    let stage = Stage::set_up(programs, cores)?;
    let turn = stage.turn(cores.1, true, Flood::Here)?;
    let ledger = stage.node.ledger()?;
    ensure!(adds_up(&ledger), "the filter's ledger does not add up: {ledger}");
    Ok(json!({
        "good_messages": turn.offered, "good_lost": turn.lost, "junk_dropped": turn.junk_seen, "p99_us": turn.p99_us,
        "ledger": ledger,
    }))
}

/// The scenes of a round: whether the filter is on, and where the junk goes.
const SCENES: [(bool, Flood); 5] = [
    (false, Flood::Nowhere),
    (false, Flood::Here),
    (true, Flood::Nowhere),
    (true, Flood::Here),
    (true, Flood::Elsewhere),
];

/// All scenes by turns; the object that is shown, with what is held to something in `rows`.
pub(crate) fn rows(programs: &Path, cores: (usize, usize), turns: usize, done: &mut dyn FnMut(Value)) -> Result<Value> {
    // A node has its cores to itself; on a shared machine this comes near it. What is started from here has it too.
    rustix::process::setpriority_process(None, PRIORITY).context("a higher priority needs root")?;
    let stage = Stage::set_up(programs, cores)?;
    let mut all = [const { Vec::new() }; SCENES.len()];
    for _ in 0..turns {
        for ((filtered, flood), turns) in SCENES.into_iter().zip(&mut all) {
            turns.push(stage.turn(cores.1, filtered, flood)?);
        }
    }
    let shown = |turns: &[Turn]| {
        let of = |which: fn(&Turn) -> f64| turns.iter().map(which).collect::<Vec<_>>();
        json!({
            "offered": of(|turn| turn.offered).iter().sum::<f64>(),
            "lost": of(|turn| turn.lost).iter().sum::<f64>(),
            "p99_us": median(&of(|turn| turn.p99_us)),
            "junk": of(|turn| turn.junk_seen).iter().sum::<f64>(),
            "junk_over_good": of(|turn| turn.junk_seen).iter().sum::<f64>() / of(|turn| turn.offered).iter().sum::<f64>(),
            "p99_us_of_each": of(|turn| turn.p99_us),
        })
    };
    let scenes: Vec<Value> = all.iter().map(|turns| shown(turns)).collect();
    // Of neighbouring turns, which what else the machine does reaches alike.
    let growth = |quiet: usize, flooded: usize| {
        let ratios = all[quiet].iter().zip(&all[flooded]).map(|(quiet, flooded)| flooded.p99_us / quiet.p99_us);
        median(&ratios.collect::<Vec<_>>())
    };
    let lost = scenes[3]["lost"].as_f64().unwrap_or(f64::NAN);
    let held = |case: &str, value: f64, limit: f64| json!({ "case": case, "value": value, "at_most": limit, "target": limit, "reached": value <= limit });
    done(held("goodput: messages lost under the flood, filtered", lost, 0.0));
    done(held("goodput: P99 under the flood over P99 without, filtered", growth(2, 3), P99_GROWTH));
    let told = |case: &str, value: f64| json!({ "case": case, "value": value });
    let lost = scenes[4]["lost"].as_f64().unwrap_or(f64::NAN);
    done(told("goodput: flood elsewhere: messages lost, filtered", lost));
    done(told("goodput: flood elsewhere: P99 over P99 without, filtered", growth(2, 4)));
    done(told("goodput: flood elsewhere: P99 under the flood here over it", growth(4, 3)));
    Ok(json!({
        "good_per_second": GOOD_PER_SECOND, "junk_times": TIMES,
        "unfiltered": scenes[0], "unfiltered_flooded": scenes[1], "filtered": scenes[2], "filtered_flooded": scenes[3],
        "filtered_flooded_elsewhere": scenes[4], "p99_growth_elsewhere": growth(2, 4),
        "p99_growth_unfiltered": growth(0, 1), "p99_growth_filtered": growth(2, 3),
    }))
}
