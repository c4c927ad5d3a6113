//! `cargo xtask demo`: the whole of Tachyon on one machine, under load, with everything accounted for at the end.

mod report;

use crate::{
    Build, install,
    node::{self, Node, Start},
};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    io::{BufRead, BufReader},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

/// What to do without asking, and how to say it.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Installs what is missing without asking.
    #[arg(long)]
    pub(crate) yes: bool,
    /// Prints one JSON object as the last line.
    #[arg(long)]
    pub(crate) json: bool,
}

/// What is offered, one phase after the other. 300k messages a second is load that two shared cores carry easily, generator
/// and subscribers included; `overload` is all that the generator has.
const PHASES: [&str; 8] = [
    "name=steady,seconds=5,rate=300k",
    "name=forged,seconds=2,rate=300k,forged=0.05",
    "name=replayed,seconds=2,rate=300k,replayed=0.05",
    "name=flooding sender,seconds=3,rate=300k,flood-sender=3,flood-share=0.5",
    "name=throttled topic,seconds=2,rate=300k,hot-topic=slow.topic,hot-share=0.05",
    "name=control killed,seconds=5,rate=300k",
    "name=overload,seconds=3,rate=max",
    "name=after,seconds=2,rate=300k",
];

/// What the demo does to the node, in order: in which phase, how long after it was first seen, and what.
const DEEDS: [(&str, Duration, Deed); 3] = [
    ("steady", Duration::from_millis(2_500), Deed::Swap),
    ("control killed", Duration::from_millis(500), Deed::Kill),
    ("control killed", Duration::from_millis(2_000), Deed::Restart),
];

#[derive(Clone, Copy)]
enum Deed {
    /// Other rules under load.
    Swap,
    /// `kill -9` of control.
    Kill,
    /// Control comes back.
    Restart,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let degraded = install::ensure(args.yes)?;
    if !args.json {
        println!("building in release …");
    }
    node::build(if install::can_filter() { &["tachyon-bench-xdp"] } else { &[] }, args.json)?;
    show(Build::Release, args.json, degraded)
}

/// The demo of programs that are built so; `degraded` is what the machine lacks for more.
pub(crate) fn show(build: Build, json: bool, mut degraded: Vec<String>) -> Result<()> {
    let begun = Instant::now();
    let say = |text: &str| {
        if !json {
            println!("{text}");
        }
    };
    let idle = if node::cores() < 2 {
        degraded.push("one core: the node and the load take turns on it".to_owned());
        "wait"
    } else {
        "spin"
    };
    let mut node = Node::start(&Start { build, files: "demo", values: &[("idle", idle)], nice: None })?;
    say(&format!("tachyond and tachyon-control run; their sockets are in {}", node.dir().display()));
    let mut load = start_load(build, &node)?;
    let report = watch(&mut load, &mut node, &say)?;
    let mut result = report::join(&report, &node.status()?, degraded);
    node.stop()?;
    if install::can_filter() {
        say(
            "over a veth between two network namespaces, with the pre-filter attached and a junk flood beside the load …",
        );
        result["prefilter"] = flooded(build)?;
    } else {
        result["prefilter"] = Value::Null;
        let text = "no pre-filter was shown: it needs root, clang, libbpf-dev, iproute2 and ethtool";
        result["degraded"].as_array_mut().into_iter().for_each(|lines| lines.push(text.into()));
    }
    result["demo_seconds"] = begun.elapsed().as_secs().into();
    if json {
        println!("{result}");
    } else {
        report::print(&result);
    }
    if result["unaccounted"] != 0 {
        bail!("{} frames, messages or copies are not accounted for", result["unaccounted"]);
    }
    Ok(())
}

/// A node of its own behind the pre-filter: what became of the good traffic and of the junk.
fn flooded(build: Build) -> Result<Value> {
    let output = Command::new(build.program("tachyon-xdp-bench"))
        .arg("--show-flood")
        .output()
        .context("cannot show the flood")?;
    if !output.status.success() {
        bail!("the pre-filter's part failed: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    serde_json::from_slice(&output.stdout).context("the pre-filter's part is one JSON object")
}

fn start_load(build: Build, node: &Node) -> Result<Child> {
    let mut command = node::load(build);
    command.args(node.words()).arg("--progress");
    command.args(["--topics", "4096", "--sessions", "4", "--senders", "32", "--subscribers", "2", "--subscribe", "*"]);
    for phase in PHASES {
        command.args(["--phase", phase]);
    }
    command.stdout(Stdio::piped()).spawn().context("cannot start tachyon-load")
}

/// Shows progress, and does to the node what the demo is about while the load runs. Returns the load's report.
fn watch(load: &mut Child, node: &mut Node, say: &impl Fn(&str)) -> Result<Value> {
    let output = BufReader::new(load.stdout.take().context("the load's output is piped")?);
    let (mut report, mut deeds) = (None, DEEDS.iter().peekable());
    let (mut phase, mut since) = (Value::Null, Instant::now());
    for line in output.lines() {
        let line: Value = serde_json::from_str(&line?).context("tachyon-load prints JSON lines")?;
        if line["unaccounted"].is_number() {
            report = Some(line);
            continue;
        }
        say(&report::progress(&line));
        if line["phase"] != phase {
            (phase, since) = (line["phase"].clone(), Instant::now());
        }
        if let Some((_, _, deed)) = deeds.next_if(|(name, after, _)| phase == *name && since.elapsed() >= *after) {
            say(&format!("  {}", act(*deed, node)?));
        }
    }
    if let Some((name, ..)) = deeds.peek() {
        bail!("the load ended before the demo did all it meant to do in phase `{name}`");
    }
    let status = load.wait()?;
    if !status.success() {
        bail!("tachyon-load ended with {status}");
    }
    report.context("tachyon-load printed no report")
}

fn act(deed: Deed, node: &mut Node) -> Result<String> {
    match deed {
        Deed::Swap => node.apply("rules-swapped.toml"),
        Deed::Kill => node.kill_control().map(|()| "control: killed with -9".to_owned()),
        Deed::Restart => node.start_control().map(|()| "control: started again".to_owned()),
    }
}
