//! `cargo xtask lab`.

mod xdp;

use crate::{Build, cargo, install, target};
use anyhow::{Result, bail};
use clap::Subcommand;
use serde_json::Value;

/// What to run there.
#[derive(Subcommand)]
pub(crate) enum Lab {
    /// DPDK forwards between two cards that it owns; every queue is used, RSS obeys, links go and come.
    Smoke(Args),
    /// The real node on two cards that it owns, under load: refusals, steering, stops, lost links, junk; all accounted for.
    Dpdk(Args),
    /// The verbs driver beside perftest on two soft RoCE devices, and a look at its packets; then without link, with loss, delay
    /// and reordering, and with a subscriber that is killed, reads nothing or has the wrong key.
    Roce {
        /// Instead: the real node on one device and its load on the other, beside perftest; then the same troubles.
        #[arg(long)]
        governed: bool,
        #[command(flatten)]
        args: Args,
    },
    /// The pre-filter and the XDP driver on the guest's kernel: what its verifier says, attached to a veth in both ways, beside
    /// the one parser over golden vectors and made-up frames, under killed loaders; the driver's conformance and faults.
    Xdp(Args),
}

/// How.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Prints one JSON object and nothing else.
    #[arg(long)]
    json: bool,
    /// The guest's kernel: 6.1, Debian 12's own, or 6.12, from its backports.
    #[arg(long, default_value = "6.1")]
    kernel: String,
}

pub(crate) fn run(lab: &Lab) -> Result<()> {
    crate::run(&mut cargo(&["build", "--quiet", "--locked", "--package", "tachyon-lab", "--bins"]))?;
    let target = target();
    let (folder, own) = (target.join("lab"), target.join("debug"));
    let (args, result, print): (_, _, fn(&Value)) = match lab {
        Lab::Smoke(args) => {
            let result = tachyon_lab::smoke::run(&folder, &args.kernel, &own.join("tachyon-lab-udp"))?;
            (args, result, print_smoke)
        }
        Lab::Dpdk(args) => {
            if !install::has_dpdk() {
                bail!("a node that owns cards needs DPDK: apt-get install libdpdk-dev libclang-dev");
            }
            build_node("tachyon-node/dpdk")?;
            let release = Build::Release.program("");
            (args, tachyon_lab::dpdk::run(&folder, &args.kernel, &release, &own)?, print_dpdk)
        }
        Lab::Roce { governed: true, args } => {
            build_node("tachyon-node/verbs,tachyon-loadgen/verbs")?;
            build_examples()?;
            (
                args,
                tachyon_lab::governed::run(&folder, &args.kernel, &Build::Release.program(""), &own)?,
                print_governed,
            )
        }
        Lab::Roce { governed: false, args } => {
            build_examples()?;
            (
                args,
                tachyon_lab::roce::run(&folder, &args.kernel, &Build::Release.program("examples"), &own)?,
                print_roce,
            )
        }
        Lab::Xdp(args) => (args, xdp::run(&folder, &args.kernel)?, xdp::print),
    };
    if args.json {
        println!("{result}");
    } else {
        print(&result);
    }
    if let Some(findings) = result["findings"].as_array().filter(|findings| !findings.is_empty()) {
        bail!("what must hold did not: {findings:?}");
    }
    Ok(())
}

/// Builds our programs for the guest, which is the same system as this one.
fn build_node(features: &str) -> Result<()> {
    let packages = ["tachyon-node", "tachyon-daemon", "tachyon-cli", "tachyon-loadgen"];
    let mut command = cargo(&["build", "--quiet", "--locked", "--release", "--features", features]);
    crate::run(command.args(packages.iter().flat_map(|package| ["--package", package])))
}

/// Builds the verbs driver's examples, which run in the guest.
fn build_examples() -> Result<()> {
    let examples = ["--package", "tachyon-driver-verbs", "--examples"];
    crate::run(cargo(&["build", "--quiet", "--locked", "--release"]).args(examples))
}

/// The smoke test's result, for a person.
fn print_smoke(result: &Value) {
    let kernel = result["kernel"].as_str().unwrap_or_default();
    println!("lab: testpmd owned two cards of a guest with Linux {kernel}, and no datagram was lost");
    println!("  by default its queues took {} packets", result["spread"]);
    for group in result["steered"].as_array().into_iter().flatten() {
        let first = group["first_port"].as_u64().unwrap_or_default();
        println!("  ports {first} to {}: {}", first + 3, group["packets_by_queue"]);
    }
    println!("  links off and on were seen by testpmd, with interrupts, and by the kernel");
    let seconds = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
    println!("  booted in {:.1} s, done after {:.1} s", seconds("boot_s"), seconds("wall_s"));
}

/// The verbs driver's result, for a person.
fn print_roce(result: &Value) {
    println!("lab: verbs beside perftest in a guest with Linux {}", result["kernel"].as_str().unwrap_or_default());
    println!(
        "  way       bytes   theirs kpps, ours, ratio   theirs us, ours, ratio, calm   packets on the veth for our messages"
    );
    let number = |row: &Value, key: &str| row[key].as_f64().unwrap_or(f64::NAN);
    for row in result["rows"].as_array().into_iter().flatten() {
        let (mode, wire) = (row["mode"].as_str().unwrap_or_default(), &row["tachyon_wire"]);
        let rates = ["perftest_kpps", "tachyon_kpps", "ratio"].map(|key| number(row, key));
        let times = ["perftest_us_p50", "tachyon_us_p50", "latency_ratio"].map(|key| number(row, key));
        println!(
            "  {mode:<9} {:>5}   {:8.2} {:8.2} {:5.2}    {:8.1} {:8.1} {:5.2} {} of {}   {} for {}",
            row["bytes"],
            rates[0],
            rates[1],
            rates[2],
            times[0],
            times[1],
            times[2],
            row["calm_pairs"],
            row["pairs"],
            wire["veth_packets"],
            wire["messages"]
        );
    }
    for told in ["packets", "faults"] {
        result[told].as_array().into_iter().flatten().for_each(|one| println!("  {one}"));
    }
    for missed in result["missed"].as_array().into_iter().flatten() {
        println!("  slower than it shall be: {}", missed.as_str().unwrap_or_default());
    }
    println!("  booted in {:.1} s, done after {:.1} s", number(result, "boot_s"), number(result, "wall_s"));
}

/// The node's result on RDMA, for a person.
fn print_governed(result: &Value) {
    println!("lab: tachyond with RDMA in a guest with Linux {}", result["kernel"].as_str().unwrap_or_default());
    for row in result["rows"].as_array().into_iter().flatten() {
        println!(
            "  {:<5} governed: {} messages/s in frames of {}; perftest, 64 bytes: {}; ratio {}",
            row["mode"].as_str().unwrap_or_default(),
            row["messages_per_second"],
            row["messages_per_frame"],
            row["perftest_messages_per_second"],
            row["ratio"]
        );
        println!(
            "        of a frame's time perftest needs {} for two such packets; in processor time it takes, in us, {}",
            row["two_hops_share"], row["frame_us"]
        );
    }
    for told in ["ways", "faults"] {
        result[told].as_array().into_iter().flatten().for_each(|one| println!("  {one}"));
    }
    for missed in result["missed"].as_array().into_iter().flatten() {
        println!("  slower than it shall be: {}", missed.as_str().unwrap_or_default());
    }
    let seconds = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
    println!("  booted in {:.1} s, done after {:.1} s", seconds("boot_s"), seconds("wall_s"));
}

/// The node's result, for a person.
fn print_dpdk(result: &Value) {
    println!("lab: tachyond owned two cards of a guest with Linux {}", result["kernel"].as_str().unwrap_or_default());
    for phase in result["phases"].as_array().into_iter().flatten() {
        let seconds = phase["seconds"].as_f64().unwrap_or(f64::NAN);
        println!("  {:<8} {seconds:5.1} s", phase["name"].as_str().unwrap_or_default());
        for (name, seen) in phase["seen"].as_object().into_iter().flatten() {
            println!("    {}", line(name, seen));
        }
    }
    let seconds = |key: &str| result[key].as_f64().unwrap_or(f64::NAN);
    println!("  booted in {:.1} s, done after {:.1} s", seconds("boot_s"), seconds("wall_s"));
}

/// One thing that was seen in a phase; of a load what there is to know at a glance.
fn line(name: &str, seen: &Value) -> String {
    if !seen["offered_frames"].is_number() {
        return format!("{name}: {seen}");
    }
    let lost = |side: &str| match &seen[format!("lost_{side}")] {
        count if *count == 0 => String::new(),
        count => format!(", {count} lost {side} us by {}", seen[format!("lost_{side}_by")]),
    };
    let refused = match seen["copy_reasons"].as_object() {
        Some(reasons) if !reasons.is_empty() => format!(", refused {}", seen["copy_reasons"]),
        _ => String::new(),
    };
    format!(
        "{name}: {} frames offered, {} seen, {} copies due, {} given, {} received{refused}{}{}, unaccounted {}",
        seen["offered_frames"],
        seen["seen"],
        seen["due"],
        seen["given"],
        seen["received"],
        lost("before"),
        lost("after"),
        seen["unaccounted"],
    )
}
