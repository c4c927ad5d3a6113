//! `cargo xtask capture`: a node on capture files, which needs no network, no device and no privileges; and what tshark
//! makes of both files.

use crate::{
    Build, install, node,
    node::{Node, Start},
    root,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{path::Path, process::Command};

/// What to say, and in which form.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Prints one JSON object.
    #[arg(long)]
    json: bool,
    /// Keeps the two files in this folder.
    #[arg(long)]
    keep: Option<std::path::PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    ensure!(install::has_dpdk(), "capture files are read through DPDK: apt-get install libdpdk-dev libclang-dev");
    node::build(&[], args.json)?;
    let result = round_trip(Build::Release, args.keep.as_deref())?;
    if args.json {
        println!("{result}");
    } else {
        println!("{result:#}");
    }
    Ok(())
}

/// One file through a node, checked.
pub(crate) fn round_trip(build: Build, keep: Option<&Path>) -> Result<Value> {
    let node = Node::start(&Start { build, files: "capture", values: &[], nice: None })?;
    let (read, write) = (node.dir().join("in.pcap"), node.dir().join("out.pcap"));
    let mut load = node::load(build);
    load.args(node.words()).args(["--seconds", "1", "--rate", "100k", "--write-from", "192.0.2.2"]);
    let output =
        load.arg("--write").arg(&read).arg("--read").arg(&write).output().context("cannot start tachyon-load")?;
    let text = String::from_utf8_lossy(&output.stdout);
    let Some(report) = text.lines().last().and_then(|line| serde_json::from_str::<Value>(line).ok()) else {
        bail!("the load generator said: {}", String::from_utf8_lossy(&output.stderr));
    };
    ensure!(report["unaccounted"] == 0, "not everything is accounted for: {report}");
    let frames = report["offered_frames"].as_u64().context("the report has offered.frames")?;
    let mut result = json!({ "frames": frames, "messages": report["offered_messages"], "unaccounted": 0 });
    if install::is_there(&["tshark", "--version"]) {
        for (name, file) in [("in", &read), ("out", &write)] {
            let (seen, faulty) = look(file)?;
            ensure!(
                seen == frames && faulty == 0,
                "tshark sees {seen} of {frames} frames in {name}.pcap, {faulty} faulty"
            );
        }
        result["tshark"] = json!("every frame of both files is as the wire document says");
    }
    if let Some(folder) = keep {
        std::fs::create_dir_all(folder)?;
        for file in [&read, &write] {
            std::fs::copy(file, folder.join(file.file_name().context("a file")?))?;
        }
    }
    node.stop()?;
    Ok(result)
}

/// Frames of a file, and how many of them the dissector finds a fault in.
fn look(file: &Path) -> Result<(u64, u64)> {
    let script = format!("lua_script:{}", root().join("spec/wireshark/tachyon.lua").display());
    let count = |filter: &str| -> Result<u64> {
        let words = ["-X", &script, "-Y", filter, "-T", "fields", "-e", "frame.number"];
        let output = Command::new("tshark").arg("-r").arg(file).args(words).output().context("cannot run tshark")?;
        ensure!(output.status.success(), "tshark: {}", String::from_utf8_lossy(&output.stderr));
        Ok(output.stdout.iter().filter(|byte| **byte == b'\n').count() as u64)
    };
    Ok((count("tachyon")?, count("tachyon.fault || tachyon.message.fault || _ws.malformed")?))
}
