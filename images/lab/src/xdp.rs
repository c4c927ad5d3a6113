//! The fifth job: the pre-filter and XDP sockets on a kernel of Debian's.
//!
//! The kernel's verifier says what it had to do, the program is attached in the driver and in the kernel, and the very test
//! programs of `ebpf/loader` and `drivers/afxdp`, built here, run there: the program against the one parser, by golden
//! vectors and by generated and mutated frames; verdicts, lists, killed loaders; conformance and faults of the driver. What an
//! older kernel lacks its tests say by themselves, and that is told. `xdp/` is the other half, in the guest.

use crate::{
    bed::Bed,
    guest::{Guest, Outcome, Phase},
    initramfs::Archive,
    load::one,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

const SCRIPT: &str = include_str!("../xdp/job.sh");

/// The test programs that the script runs, in its order: of the loader, and of the driver.
pub const LOADER_TESTS: [&str; 5] = ["differential", "verdicts", "deny", "interface", "killed"];
/// See [`LOADER_TESTS`].
pub const DRIVER_TESTS: [&str; 3] = ["conformance", "kernel", "faults"];

/// Frames of each kind that the differential test makes up, beside the golden vectors.
const FRAMES: u32 = 10_000;

/// Why a test may say that it did nothing: only because the kernel is too old for what it is about.
const TOO_OLD: &str = "this kernel";

/// It takes some minutes on a machine with two idle cores. Beyond this it hangs.
const LIMIT: Duration = Duration::from_secs(1_800);

/// What runs in the guest.
#[derive(Debug)]
pub struct Programs {
    /// The example `prefilter` of the loader.
    pub prefilter: PathBuf,
    /// The test programs, by name.
    pub tests: Vec<(String, PathBuf)>,
    /// The folder of the golden vectors.
    pub vectors: PathBuf,
}

/// Runs the job with the kernel `series` and checks what it said.
///
/// Returns `kernel`, `boot_s`, `wall_s`, `verifier` (counts, and bytes of the program), `jit`, `native` and `generic` (how the
/// kernel says that it attached the program), `rows` (of each test program `name`, `passed`, `left_out` and `seconds`), and
/// `findings`: what did not hold.
///
/// # Errors
///
/// Says that something said nothing, or that the guest died; its console is in `xdp.log` in `folder`.
pub fn run(folder: &Path, series: &str, programs: &Programs) -> Result<Value> {
    let mut bed = Bed::make(folder, series)?;
    bed.modules(&["veth", "af_packet"])?;
    // The tests have packets' checksums made by the sender's kernel.
    let ethtool = bed.tools().find("/sbin/ethtool")?;
    bed.program("/usr/bin/ethtool", &ethtool)?;
    bed.program("/usr/bin/prefilter", &programs.prefilter)?;
    for name in LOADER_TESTS.into_iter().chain(DRIVER_TESTS) {
        let built = programs.tests.iter().find(|(built, _)| built == name);
        let (_, path) = built.with_context(|| format!("the test program {name} was not built"))?;
        bed.program(&format!("/usr/bin/xdp_{name}"), path)?;
    }
    let mut job = Archive::new();
    for entry in fs::read_dir(&programs.vectors).with_context(|| format!("no {}", programs.vectors.display()))? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        job.file(&format!("/vectors/{name}"), fs::read(&path)?, false);
    }
    job.file("/job", format!("FRAMES={FRAMES}\n{SCRIPT}").into_bytes(), false);
    // Two processors, because a driver's tests poll while the kernel works for the other side.
    let guest = Guest { name: "xdp", cpus: 2, memory_mib: 1_536, huge_pages: 0, wires: 0, ipv6: true };
    let outcome = guest.run(&bed, &job, LIMIT)?;
    judge(&outcome).with_context(|| bed.last_words("xdp"))
}

/// Holds what was said against what must be.
fn judge(outcome: &Outcome) -> Result<Value> {
    let last = outcome.phases.last().map_or("before its first phase", |phase| phase.name.as_str());
    ensure!(outcome.code == 0, "the job failed with {} in phase {last}", outcome.code);
    let phase = |name: &str| {
        let found = outcome.phases.iter().find(|phase| phase.name == name);
        found.with_context(|| format!("there was no phase {name}"))
    };
    let mut findings = Vec::new();
    let verifier: Value = serde_json::from_str(one(phase("verifier")?, "verifier")?).context("the verifier's words")?;
    let jit = one(phase("verifier")?, "jit")? == "1";
    let attached = |word: &str| -> Result<String> {
        let said = one(phase("attach")?, word)?;
        Ok(said.trim().trim_start_matches("mode: ").to_owned())
    };
    let (native, generic) = (attached("attach")?, attached("generic")?);
    if native != "Native" || generic != "Generic" {
        findings.push(format!("attached to a veth in its driver: {native}; in the kernel: {generic}"));
    }
    let mut rows = Vec::new();
    for name in LOADER_TESTS.into_iter().chain(DRIVER_TESTS) {
        rows.push(row(name, phase(name)?, &mut findings).with_context(|| format!("phase {name}"))?);
    }
    Ok(json!({
        "kernel": outcome.kernel, "boot_s": outcome.boot.as_secs_f64(), "wall_s": outcome.wall.as_secs_f64(),
        "verifier": verifier, "jit": jit, "native": native, "generic": generic, "rows": rows, "findings": findings,
    }))
}

/// How one test program ended.
fn row(name: &str, phase: &Phase, findings: &mut Vec<String>) -> Result<Value> {
    let (code, result) = one(phase, "ended")?.split_once(' ').context("a program ends with a code and a result")?;
    let passed = count(result, "passed").unwrap_or(0);
    if code != "0" || passed == 0 || count(result, "failed") != Some(0) {
        findings.push(format!("{name} ended with {code}: {result}"));
    }
    let left_out: Vec<&str> =
        phase.said.iter().filter(|(key, _)| key == "skipped").map(|(_, value)| value.as_str()).collect();
    // Anything else would be a lab that tests nothing.
    let strange = left_out.iter().filter(|why| !why.contains(TOO_OLD));
    findings.extend(strange.map(|why| format!("{name} left something out: {why}")));
    Ok(json!({ "name": name, "passed": passed, "left_out": left_out, "seconds": phase.wall.as_secs_f64() }))
}

/// The number before a word in `test result: ok. 5 passed; 0 failed; …`.
fn count(result: &str, word: &str) -> Option<u64> {
    let before = result.split([';', '.']).find_map(|part| part.trim().strip_suffix(word))?;
    before.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(rows: &[(&str, &str)]) -> Phase {
        let said = rows.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect();
        Phase { name: "verdicts".to_owned(), said, wall: Duration::ZERO }
    }

    #[test]
    fn a_test_program_that_failed_or_did_nothing_is_a_finding() {
        let good = "0 test result: ok. 5 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.02s";
        let bad = "101 test result: FAILED. 4 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out";
        let none = "0 test result: ok. 0 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out";
        let old = ("skipped", "not tested: this kernel's XDP sockets take packets in one piece");
        for (rows, finding) in [
            (vec![("ended", good)], None),
            (vec![("ended", good), old], None),
            (vec![("ended", bad)], Some("verdicts ended with 101")),
            (vec![("ended", none)], Some("verdicts ended with 0")),
            (vec![("ended", good), ("skipped", "skipped: needs root")], Some("verdicts left something out")),
        ] {
            let mut findings = Vec::new();
            row("verdicts", &said(&rows), &mut findings).unwrap();
            assert_eq!(findings.len(), usize::from(finding.is_some()), "{findings:?}");
            assert!(finding.is_none_or(|finding| findings[0].starts_with(finding)), "{findings:?}");
        }
        assert!(row("verdicts", &said(&[]), &mut Vec::new()).is_err());
    }
}
