//! `cargo xtask tidy`: the house rules that a machine can check.

use crate::{cargo, root};
use anyhow::{Context, Result, bail};
use serde_json::Value;
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// Which of our crates each crate may use. Imports point down only: whatever is not written here is refused.
const LAYERS: &[(&str, &[&str])] = &[
    ("tachyon-wire", &[]),
    ("tachyon-kernels", &["wire"]),
    ("tachyon-policy", &["wire", "kernels"]),
    ("tachyon-driver-api", &["wire"]),
    ("tachyon-engine", &["wire", "kernels", "policy", "driver-api"]),
    ("tachyon-driver-arena", &["driver-api"]),
    ("tachyon-driver-mem", &["driver-api", "wire"]),
    ("tachyon-driver-uring", &["driver-api", "wire"]),
    ("tachyon-driver-ether", &["wire"]),
    ("tachyon-driver-afxdp", &["driver-api", "driver-ether", "wire"]),
    ("tachyon-driver-dpdk-sys", &[]),
    ("tachyon-driver-dpdk", &["driver-api", "driver-dpdk-sys", "driver-ether", "wire"]),
    ("tachyon-driver-verbs-sys", &[]),
    ("tachyon-driver-verbs", &["driver-api", "driver-verbs-sys", "wire"]),
    ("tachyon-segment", &["wire"]),
    ("tachyon-loader", &["wire"]),
    ("tachyon-config", &["wire"]),
    ("tachyon-log", &["wire", "kernels"]),
    ("tachyon-jetstream", &["wire", "config", "log"]),
    ("tachyon-proto", &[]),
    ("tachyon-daemon", &["wire", "policy", "segment", "config", "proto", "log"]),
    ("tachyon-cli", &["wire", "config", "log", "proto"]),
    (
        "tachyon-node",
        &[
            "wire",
            "policy",
            "engine",
            "segment",
            "config",
            "driver-api",
            "driver-arena",
            "driver-uring",
            "driver-afxdp",
            "driver-dpdk",
            "driver-verbs",
            "loader",
        ],
    ),
    ("tachyon-sim", &["wire", "policy", "engine", "driver-api", "driver-arena", "driver-mem", "log"]),
    ("tachyon-micro", &["wire", "kernels", "policy", "engine", "driver-api", "driver-arena", "driver-mem"]),
    (
        "tachyon-loadgen",
        &["wire", "driver-api", "driver-arena", "driver-uring", "driver-ether", "driver-verbs", "proto"],
    ),
    ("tachyon-bench-dpdk", &["wire", "engine", "driver-api", "driver-arena", "driver-dpdk", "micro"]),
    ("tachyon-bench-xdp", &["wire", "driver-api", "driver-afxdp", "driver-arena", "driver-uring", "loader", "micro"]),
    ("tachyon-bench-nats", &[]),
    ("tachyon-peers", &["wire", "driver-api", "driver-arena", "driver-uring"]),
    ("tachyon-lab", &[]),
    ("xtask", &["lab"]),
];

/// Folders whose code may say `unsafe`. Test files that count allocations or send signals are not the product.
const UNSAFE_ISLANDS: &[&str] = &["drivers/", "dataplane/kernels/", "dataplane/segment/"];

/// Single files that may lift their crate's ban: the benchmark's calls into the kernel's BPF, and what hands the log's memory to
/// io_uring.
const UNSAFE_FILES: &[&str] = &["bench/xdp/src/kernel.rs", "control/log/src/ring.rs"];

/// A file longer than this has two things living in one room.
const LINES_MAX: usize = 800;

pub(crate) fn run() -> Result<()> {
    let mut faults = layers()?;
    let files = tracked()?;
    for file in &files {
        let text = match fs::read_to_string(root().join(file)) {
            Ok(text) => text,
            Err(_) => continue, // a binary golden vector or seed
        };
        match file.extension().and_then(|extension| extension.to_str()) {
            Some("rs") => rust(file, &text, &mut faults),
            Some("md") => links(file, &text, &mut faults),
            _ => {}
        }
    }
    for fault in &faults {
        println!("{fault}");
    }
    if !faults.is_empty() {
        bail!("{} house rules are broken", faults.len());
    }
    println!("tidy: {} files keep the house rules", files.len());
    Ok(())
}

fn tracked() -> Result<Vec<PathBuf>> {
    let output = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()?;
    let text = String::from_utf8(output.stdout).context("file names are UTF-8")?;
    Ok(text.split('\0').filter(|name| !name.is_empty()).map(PathBuf::from).collect())
}

fn layers() -> Result<Vec<String>> {
    let output = cargo(&["metadata", "--format-version=1", "--no-deps", "--locked"]).output()?;
    if !output.status.success() {
        bail!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr));
    }
    let metadata: Value = serde_json::from_slice(&output.stdout)?;
    let allowed: BTreeMap<_, _> = LAYERS.iter().copied().collect();
    let mut faults = Vec::new();
    for package in metadata["packages"].as_array().into_iter().flatten() {
        let name = package["name"].as_str().unwrap_or_default();
        let Some(below) = allowed.get(name) else {
            faults.push(format!("{name} has no place in the layers: give it one in xtask/src/tidy.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = dependency["name"].as_str().unwrap_or_default();
            let ours = dependency["path"].is_string() && dependency["kind"].is_null();
            let short = used.strip_prefix("tachyon-").unwrap_or(used);
            if ours && !below.contains(&short) {
                faults.push(format!("{name} imports {used}: imports point down only"));
            }
        }
    }
    Ok(faults)
}

fn rust(file: &Path, text: &str, faults: &mut Vec<String>) {
    let name = file.display();
    let count = text.lines().count();
    if count > LINES_MAX {
        faults.push(format!("{name}: {count} lines, more than {LINES_MAX}: two things live in one room"));
    }
    let path = file.to_string_lossy();
    let product = path.contains("/src/") && !UNSAFE_ISLANDS.iter().any(|island| path.starts_with(island));
    let root_file = path.ends_with("src/lib.rs") || path.ends_with("src/main.rs");
    let lifts =
        text.lines().any(|line| line.starts_with("#![expect(unsafe_code") || line.starts_with("#![allow(unsafe_code"));
    if product && lifts && !UNSAFE_FILES.contains(&path.as_ref()) {
        faults.push(format!("{name}: lifts the ban on unsafe code and is no island"));
    }
    if product && root_file && !text.contains("#![forbid(unsafe_code)]") && !text.contains("#![deny(unsafe_code)]") {
        faults.push(format!("{name}: outside the islands a crate forbids unsafe code"));
    }
    if root_file && !text.starts_with("//!") {
        faults.push(format!("{name}: opens with what the crate does, why, and what it does not do"));
    }
}

/// Links to files of this checkout have to lead somewhere.
fn links(file: &Path, text: &str, faults: &mut Vec<String>) {
    let folder = root().join(file.parent().unwrap_or(Path::new("")));
    for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
        let target = link.split('#').next().unwrap_or_default();
        if !target.is_empty() && !target.contains("://") && !folder.join(target).exists() {
            faults.push(format!("{}: the link to {target} leads nowhere", file.display()));
        }
    }
}
