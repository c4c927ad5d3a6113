//! `cargo xtask test`.

use crate::{Build, bench, capture, cargo, demo, install};
use anyhow::Result;

/// What to leave out.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// Leaves out the model checking, the demo, the instruction counts and the soak, which need builds of their own.
    #[arg(long)]
    quick: bool,
}

/// Every crate's tests, then the lock-free structures under a model checker, then the whole of it: both processes, the
/// load generator and real traffic, which passes only if everything is accounted for; and what a message may cost in
/// instructions, where there is something to count them with, and that nothing is lost over DPDK, where it is. The dissector
/// is among the crates' tests, in `wire`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let degraded = if args.quick { Vec::new() } else { install::ensure(true)? };
    let features = features();
    if !args.quick {
        // The node as the tests have it: what is shipped takes nine minutes more to build, on two cores.
        crate::run(&mut cargo(
            &[&["build", "--locked", "--workspace", "--lib", "--bins", "--tests", "--examples"], features.as_slice()]
                .concat(),
        ))?;
        demo::show(Build::Dev, true, degraded)?;
        if install::has_dpdk() {
            println!("capture: {}", capture::round_trip(Build::Dev, None)?);
        }
        // These two by what is shipped.
        bench::compare_instructions()?;
        bench::soak_dpdk()?;
        search()?;
    }
    if !install::is_there(&["tshark", "--version"]) {
        // Said here because a passing test's own words are not shown.
        println!("the dissector's tests: skipped, tshark is not installed (`apt-get install tshark`)");
    }
    if !install::has_nats() {
        println!("the exporter's tests: skipped, nats-server is not installed (`apt-get install nats-server`)");
    }
    if !install::is_there(&["python3", "-c", "import pyarrow"]) {
        println!(
            "exported tables: read by our own crate alone, pyarrow is not installed (python3 -m pip install pyarrow)"
        );
    }
    let mut tests = cargo(&[&["test", "--locked", "--workspace"], features.as_slice()].concat());
    if !args.quick {
        // Ten million messages are recorded and replayed, which takes a minute or two.
        tests.env("TACHYON_REPLAY_MESSAGES", "10000000");
    }
    crate::run(&mut tests)
}

/// The lock-free structures under a model checker. It replaces the atomics, so this is a build of its own; optimised, or the
/// search takes minutes, but not linked as what is shipped, which would take longer than the search.
fn search() -> Result<()> {
    let words = ["test", "--locked", "--release", "--target-dir", "target/loom", "--lib"];
    let packages = ["-p", "tachyon-driver-mem", "-p", "tachyon-segment"];
    let mut search = cargo(&[words.as_slice(), &packages].concat());
    search.env("RUSTFLAGS", "--cfg loom -C debug-assertions").env("CARGO_PROFILE_RELEASE_LTO", "off");
    crate::run(search.env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16"))
}

/// Every feature and crate, or those for which the libraries are there.
fn features() -> Vec<&'static str> {
    let (dpdk, verbs, hwloc) = (install::has_dpdk(), install::has_verbs(), install::has_hwloc());
    let bpf = install::has_bpf();
    let mut words = Vec::new();
    if !dpdk {
        println!("not tested: DPDK (apt-get install libdpdk-dev libclang-dev)");
        let needs = ["tachyon-driver-dpdk-sys", "tachyon-driver-dpdk", "tachyon-bench-dpdk"];
        words.extend(needs.iter().flat_map(|package| ["--exclude", package]));
    }
    if !verbs {
        println!("not tested: verbs (apt-get install libibverbs-dev libclang-dev)");
        words.extend(["--exclude", "tachyon-driver-verbs-sys", "--exclude", "tachyon-driver-verbs"]);
    }
    if !bpf {
        println!("not tested: the pre-filter (apt-get install clang libbpf-dev)");
        words.extend(["--exclude", "tachyon-loader"]);
        // Its tests give DPDK's AF_XDP driver the pre-filter.
        words.extend(["--exclude", "tachyon-driver-dpdk"].into_iter().filter(|_| dpdk));
    }
    if !hwloc {
        println!("not tested: hwloc (apt-get install libhwloc-dev libudev-dev)");
    }
    if dpdk && verbs && hwloc && bpf {
        words.push("--all-features");
        return words;
    }
    let some = [
        (dpdk, "tachyon-node/dpdk"),
        (verbs, "tachyon-node/verbs"),
        (verbs, "tachyon-loadgen/verbs"),
        (hwloc, "tachyon-node/hwloc"),
        (bpf, "tachyon-node/xdp"),
    ];
    for (_, feature) in some.iter().filter(|(is_there, _)| *is_there) {
        words.extend(["--features", feature]);
    }
    words
}
