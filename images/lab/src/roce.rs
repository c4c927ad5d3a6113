//! The third job: two soft RoCE v2 devices (rxe) on the two ends of a veth, and the verbs driver between them beside perftest.
//!
//! It compares what the same kernel gives to both in one boot, by turns and with both polling, so the ratio means something though
//! the machine is emulated and no figure by itself does. Then links go and packets are lost, late and out of order, and each time
//! every frame is accounted for. Devices and veth count packets, so what is told really was on the wire: one soft device alone
//! would short-cut it. `roce.sh` is the other half, in the guest.

use crate::{
    bed::Bed,
    guest::{Guest, Outcome, Phase},
    initramfs::Archive,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

const SCRIPT: &str = include_str!("../roce.sh");

/// Programs of perftest that the script runs.
const PERFTEST: [&str; 4] = ["ib_send_bw", "ib_send_lat", "ib_write_bw", "ib_write_lat"];

/// Of perftest's rate, the least that ours shall be.
const RATIO_MIN: f64 = 0.8;
/// Of perftest's time for one way, the most that ours shall be.
const LATENCY_RATIO_MAX: f64 = 1.3;

/// Runs of each program per row, and messages of each that the script asks perftest for: streamed, and there and back.
const RUNS: usize = 3;
const STREAMED: u64 = 6_000;
const PING_PONGS: u64 = 1_000;

/// Rows and faults, in the script's order.
const MODES: [&str; 3] = ["ud", "rc", "ring"];
const BYTES: [u64; 2] = [64, 1024];
const FAULTS: [&str; 4] = ["link", "loss", "delay", "reorder"];

/// What is not done, and why.
const SKIPPED: [&str; 1] = ["one side killed: both ends of verbs_pingpong are in one process"];

/// It takes three to five minutes on a machine with two cores. Beyond this it hangs.
const LIMIT: Duration = Duration::from_secs(480);

/// Runs the job with the kernel `series` and checks what it said. `pingpong` is the built example `verbs_pingpong`.
///
/// Returns `kernel`, `boot_s`, `wall_s`, `rows` (rates in thousand messages a second, times in µs for one way), `faults`, and
/// `missed`: what was slower than it shall be. That is no error, because it may be the machine's fault. `skipped`: what was not done.
/// `findings`: faults after which a frame was lost unseen or a lane did not come back; whoever calls fails if there are any.
///
/// # Errors
///
/// Says what did not hold, or that the guest died; its console is in `roce.log` in `folder`.
pub fn run(folder: &Path, series: &str, pingpong: &Path) -> Result<Value> {
    let mut bed = Bed::make(folder, series)?;
    // crc32_generic is asked for by its algorithm's name, which no list of dependencies knows.
    bed.modules(&["crc32_generic", "rdma_rxe", "ib_uverbs", "veth", "sch_netem"])?;
    for program in PERFTEST {
        bed.packaged(&format!("/usr/bin/{program}"))?;
    }
    for (name, path) in [("rdma", "/bin/rdma"), ("tc", "/sbin/tc")] {
        bed.program(&format!("/usr/bin/{name}"), &bed.tools().find(path)?)?;
    }
    bed.packaged("/usr/lib/x86_64-linux-gnu/libibverbs/librxe-rdmav34.so")?;
    bed.program("/usr/bin/verbs_pingpong", pingpong)?;
    let mut job = Archive::new();
    // libibverbs loads the drivers that are named here.
    job.file("/etc/libibverbs.d/rxe.driver", b"driver rxe\n".to_vec(), false);
    job.file("/job", SCRIPT.as_bytes().to_vec(), false);
    // Two processors, because both ends poll.
    let guest = Guest { name: "roce", cpus: 2, memory_mib: 768, huge_pages: 0, wires: 0, ipv6: false };
    let outcome = guest.run(&bed, &job, LIMIT)?;
    judge(&outcome).with_context(|| bed.last_words("roce"))
}

/// Holds what was said against what must be.
fn judge(outcome: &Outcome) -> Result<Value> {
    let last = outcome.phases.last().map_or("before its first phase", |phase| phase.name.as_str());
    ensure!(outcome.code == 0, "the job failed with {} in phase {last}", outcome.code);
    let (mut rows, mut faults, mut missed, mut findings) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for bytes in BYTES {
        for mode in MODES {
            let name = format!("{mode}-{bytes}");
            let row = row(phase(outcome, &name)?, mode, bytes).with_context(|| format!("phase {name}"))?;
            let low = row["ratio"].as_f64().is_none_or(|ratio| ratio < RATIO_MIN);
            let slow = row["latency_ratio"].as_f64().is_none_or(|ratio| ratio > LATENCY_RATIO_MAX);
            missed.extend(low.then(|| format!("{mode} {bytes}: ratio {}, shall be {RATIO_MIN}", row["ratio"])));
            let text =
                || format!("{mode} {bytes}: latency_ratio {}, shall be {LATENCY_RATIO_MAX}", row["latency_ratio"]);
            missed.extend(slow.then(text));
            rows.push(row);
        }
    }
    for kind in FAULTS {
        for mode in MODES {
            let name = format!("{kind}-{mode}");
            match fault(phase(outcome, &name)?, kind, mode) {
                Ok(json) => faults.push(json),
                Err(error) => {
                    // Told with everything else, because what went well is then still known.
                    let error = format!("{error:#}");
                    findings.push(format!("{name}: {error}"));
                    faults.push(json!({ "fault": kind, "mode": mode, "error": error }));
                }
            }
        }
    }
    Ok(json!({
        "kernel": outcome.kernel, "boot_s": outcome.boot.as_secs_f64(), "wall_s": outcome.wall.as_secs_f64(),
        "rows": rows, "faults": faults, "missed": missed, "skipped": SKIPPED,
        "findings": findings,
    }))
}

fn phase<'a>(outcome: &'a Outcome, name: &str) -> Result<&'a Phase> {
    outcome.phases.iter().find(|phase| phase.name == name).with_context(|| format!("the job had no phase {name}"))
}

/// What was said under `key` of what is called `name`.
fn said<'a>(phase: &'a Phase, key: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let values = phase.said.iter().filter(move |(said, _)| said == key).map(|(_, value)| value.as_str());
    values.filter_map(move |value| value.strip_prefix(name)?.strip_prefix(' '))
}

/// One size by one way, ours and theirs.
fn row(phase: &Phase, mode: &str, bytes: u64) -> Result<Value> {
    let name = format!("{mode} {bytes}");
    let kind = if mode == "ring" { "ib_write" } else { "ib_send" };
    // perftest's last column of a rate is millions of messages a second; the fifth of a latency is the median of one way.
    let theirs = |program: &str, column: fn(&[f64]) -> Option<f64>| -> Result<f64> {
        let program = format!("{name} {kind}_{program}");
        let lines: Vec<_> = said(phase, "perftest", &program).collect();
        let figures = lines.iter().filter_map(|line| column(&numbers(line)?));
        median(figures.collect())
            .with_context(|| format!("of {program} there are the runs {lines:?}; {}", failures(phase)))
    };
    let reports: Vec<Value> = said(phase, "tachyon", &name).map(serde_json::from_str).collect::<Result<_, _>>()?;
    let ours = |test: &str, figure: &str| -> Result<f64> {
        let runs = reports.iter().filter(|report| report["test"] == test);
        let figures = runs.filter_map(|report| report[figure].as_f64()).collect();
        median(figures).with_context(|| format!("of our {test} there are too few runs; {}", failures(phase)))
    };
    let (their_kpps, our_kpps) = (theirs("bw", |row| Some(row.last()? * 1_000.0))?, ours("stream", "kpps")?);
    let (their_us, our_us) = (theirs("lat", |row| row.get(4).copied())?, ours("pingpong", "p50_us")? / 2.0);
    let arrived: u64 = reports.iter().map(crossings).sum();
    let their_wire = wire(phase, &format!("{name} perftest"), RUNS as u64 * (STREAMED + 2 * PING_PONGS))?;
    let our_wire = wire(phase, &format!("{name} tachyon"), arrived)?;
    Ok(json!({
        "mode": mode, "bytes": bytes, "runs": RUNS,
        "perftest_kpps": rounded(their_kpps), "tachyon_kpps": rounded(our_kpps), "ratio": rounded(our_kpps / their_kpps),
        "perftest_us_p50": rounded(their_us), "tachyon_us_p50": rounded(our_us), "latency_ratio": rounded(our_us / their_us),
        "perftest_wire": their_wire, "tachyon_wire": our_wire,
    }))
}

fn failures(phase: &Phase) -> String {
    let failed: Vec<_> = phase.said.iter().filter(|(key, _)| key == "failed").map(|(_, what)| what.as_str()).collect();
    format!("failed were {failed:?}, see the console")
}

/// How often a frame of a report crossed the wire, at least.
fn crossings(report: &Value) -> u64 {
    let arrived = report["arrived"].as_u64().unwrap_or(0);
    if report["test"] == "pingpong" { 2 * arrived } else { arrived }
}

fn numbers(line: &str) -> Option<Vec<f64>> {
    line.split_whitespace().map(|word| word.parse().ok()).collect()
}

/// The one in the middle, of as many runs as there must be.
fn median(mut figures: Vec<f64>) -> Option<f64> {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().filter(|figure| figures.len() >= RUNS && *figure > 0.0)
}

fn rounded(figure: f64) -> f64 {
    (figure * 1_000.0).round() / 1_000.0
}

/// Packets that all runs together put on the wire: at least as many as messages must have crossed it.
fn wire(phase: &Phase, name: &str, crossed: u64) -> Result<Value> {
    let mut sums = [0_u64; 3];
    for line in said(phase, "wire", name) {
        let counts: Vec<u64> = line.split(' ').map(str::parse).collect::<Result<_, _>>()?;
        ensure!(counts.len() == 6, "the counters of {name} are {line:?}");
        for (at, sum) in sums.iter_mut().enumerate() {
            *sum += counts[at + 3].saturating_sub(counts[at]);
        }
    }
    let [sent, received, veth] = sums;
    let all = sums.iter().all(|sum| *sum >= crossed);
    ensure!(
        all && crossed > 0,
        "{name}: {crossed} messages crossed, and packets sent, received and on the veth were {sums:?}"
    );
    Ok(json!({ "sent_pkts": sent, "rcvd_pkts": received, "veth_packets": veth, "messages": crossed }))
}

/// A stream that something was done to: it ended by itself, and every frame arrived or is known not to have.
fn fault(phase: &Phase, kind: &str, mode: &str) -> Result<Value> {
    let name = format!("{kind} {mode}");
    let line = said(phase, "fault", &name).next().with_context(|| format!("the job never said fault {name}"))?;
    let (code, text) = line.split_once(' ').context("a fault has a code and a report")?;
    let report: Value = serde_json::from_str(text).with_context(|| format!("the report of {name} is {text:?}"))?;
    let count = |key: &str| report[key].as_u64().with_context(|| format!("{name} has no {key}: {report}"));
    let (posted, sent, failed) = (count("posted")?, count("sent")?, count("failed")?);
    let distinct = count("arrived")?.saturating_sub(count("repeated")?);
    let lost = posted.saturating_sub(distinct);
    ensure!(code == "0" && count("buffers_missing")? == 0, "{name} ended with {code}: {report}");
    ensure!(distinct <= posted && distinct > 0, "more arrived than was sent, or nothing, in {name}: {report}");
    ensure!(sent + failed == posted, "frames of {name} have no end: {report}");
    let connected = report["lanes"][0].as_str().is_some_and(|lane| lane.contains(" connected "));
    ensure!(connected, "the lane of {name} did not come back: {report}");
    if mode != "ud" {
        // A good completion is the peer's word; one that failed may have arrived all the same.
        ensure!(sent <= distinct, "{name} lost frames that were acknowledged: {report}");
        ensure!(kind == "link" || failed == 0, "{name} had failures though the link stood: {report}");
    } else if kind == "loss" {
        ensure!(lost > 0, "{name} lost nothing, so nothing was done to it: {report}");
    }
    let mut json = json!({
        "fault": kind, "mode": mode, "seconds": rounded(phase.wall.as_secs_f64()), "posted": posted, "sent": sent,
        "failed": failed, "arrived": distinct, "repeated": count("repeated")?, "out_of_order": count("out_of_order")?,
        "lost": lost, "kpps": report["kpps"], "lane": report["lanes"][0],
    });
    if kind == "link" {
        let words = said(phase, "link", mode).next().context("the job never said what the link did")?;
        let (down, back) = words.split_once(' ').context("a link has two words")?;
        let after = distinct.saturating_sub(down.parse()?);
        ensure!(back == "1" && after > 0, "nothing arrived over {mode} once its link was up again: {report}");
        json["arrived_after_up"] = after.into();
    }
    Ok(json)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(said: &[(&str, String)]) -> Phase {
        let said = said.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        Phase { name: "test".to_owned(), said, wall: Duration::from_secs(1) }
    }

    /// What three runs of everything say, with this many packets on the veth for each of ours.
    fn measured(packets: u64) -> Phase {
        let mut said = Vec::new();
        for kpps in ["10", "30", "20"] {
            said.push(("perftest", format!("rc 64 ib_send_bw 64 8000 1.0 1.1 0.0{kpps}")));
            said.push(("perftest", "rc 64 ib_send_lat 64 1500 20.0 90.0 25.0 26.0 1.0 40.0 80.0".to_owned()));
            said.push(("tachyon", format!("rc 64 {{\"test\":\"stream\",\"kpps\":{kpps},\"arrived\":500}}")));
            said.push(("tachyon", "rc 64 {\"test\":\"pingpong\",\"p50_us\":100,\"arrived\":10}".to_owned()));
            said.push(("wire", "rc 64 perftest 0 0 0 11000 11000 11000".to_owned()));
            said.push(("wire", format!("rc 64 tachyon 0 0 0 520 520 {packets}")));
        }
        phase(&said)
    }

    #[test]
    fn a_row_is_of_medians_and_of_packets_that_were_on_the_wire() {
        let row = row(&measured(520), "rc", 64).unwrap();
        assert_eq!((&row["perftest_kpps"], &row["ratio"]), (&json!(20.0), &json!(1.0)));
        assert_eq!((&row["tachyon_us_p50"], &row["latency_ratio"]), (&json!(50.0), &json!(2.0)));
        assert_eq!(row["tachyon_wire"]["veth_packets"], 1560);
        assert!(super::row(&measured(519), "rc", 64).is_err());
        let mut two = measured(520);
        two.said.remove(0);
        assert!(super::row(&two, "rc", 64).unwrap_err().to_string().contains("ib_send_bw"));
    }

    fn faulty(kind: &str, mode: &str, sent: u64, failed: u64, arrived: u64) -> Result<Value> {
        let report = json!({
            "posted": 100, "sent": sent, "failed": failed, "arrived": arrived, "repeated": 0, "out_of_order": 0,
            "buffers_missing": 0, "lanes": ["connection connected "], "kpps": 1,
        });
        let phase = phase(&[("fault", format!("{kind} {mode} 0 {report}")), ("link", format!("{mode} 50 1"))]);
        fault(&phase, kind, mode)
    }

    #[test]
    fn connections_lose_nothing_and_datagrams_nothing_unseen() {
        faulty("loss", "rc", 100, 0, 100).unwrap();
        assert!(faulty("loss", "rc", 100, 0, 99).is_err() && faulty("loss", "rc", 99, 1, 99).is_err());
        assert!(faulty("link", "rc", 98, 2, 97).is_err() && faulty("link", "rc", 98, 1, 98).is_err());
        assert_eq!(faulty("link", "rc", 98, 2, 99).unwrap()["arrived_after_up"], 49);
        assert!(faulty("link", "rc", 50, 50, 50).is_err());
        assert_eq!(faulty("loss", "ud", 100, 0, 95).unwrap()["lost"], 5);
        assert!(faulty("loss", "ud", 100, 0, 100).is_err() && faulty("delay", "ud", 100, 0, 101).is_err());
    }
}
