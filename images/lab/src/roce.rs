//! The third job: two soft RoCE v2 devices (rxe) on the two ends of a veth, and the verbs driver between them beside perftest.
//!
//! It compares what the same kernel gives to both in one boot, by turns, so the ratio means something though the machine is
//! emulated and no figure by itself does. Both poll with a processor for each end, and in the rows called `events` both sleep
//! until they are woken and share one. perftest posts lists of 32 with one completion for each (`-l 32 -Q 32`) and 128 on their
//! way, its default; ours posts bursts of at least 32 and at most 64 with a completion for every 16th and the last, and 128 on their
//! way. The soft device has no use for inline data on either side. A latency pair counts if both ends had a processor most of the time:
//! see [`calm`].
//!
//! Then packets are looked at, links go, packets are lost, late and out of order, a subscriber is killed, reads nothing or has the
//! wrong key, and each time every frame is accounted for. Devices and veth count packets, so what is told really was on the wire: one
//! soft device alone would short-cut it. `roce/` is the other half, in the guest.

use crate::{
    bed::Bed,
    guest::{Guest, Outcome, Phase},
    initramfs::Archive,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

/// The devices and perftest, for both jobs on them, and this job.
pub(crate) const DEVICES: &str = include_str!("../roce/devices.sh");
const SCRIPT: &str = include_str!("../roce/alone.sh");

/// Programs of perftest that the script runs.
const PERFTEST: [&str; 4] = ["ib_send_bw", "ib_send_lat", "ib_write_bw", "ib_write_lat"];

/// Of perftest's rate, the least that ours shall be.
const RATIO_MIN: f64 = 0.8;
/// Of perftest's time for one way, the most that ours shall be.
const LATENCY_RATIO_MAX: f64 = 1.3;

/// Runs of each rate per row that the script makes, and the fewest of which a median is taken: a program of perftest may fail.
const RUNS: usize = 7;
const RUNS_MIN: usize = 2;
/// Messages of each run: streamed, and there and back.
const STREAMED: u64 = 2_048;
const PING_PONGS: u64 = 100;
/// How many times its least a latency may be to be one of two ends that both had a processor. Undisturbed ones are 1.1 to 1.5
/// times their least; where the machine takes a processor away they are whole time slices, a hundred times as long.
const CALM_MAX: f64 = 3.0;

/// Rows and faults, in the script's order.
const ROWS: [(&str, u64); 8] = [
    ("ud", 64),
    ("rc", 64),
    ("ring", 64),
    ("ud", 1024),
    ("rc", 1024),
    ("ring", 1024),
    ("ud-events", 64),
    ("rc-events", 64),
];
const MODES: [&str; 3] = ["ud", "rc", "ring"];
const FAULTS: [&str; 4] = ["link", "loss", "delay", "reorder"];
/// What is done to one of two subscribers, by which mode, and the reasons of which its frames have one then; by datagrams nobody
/// notices that a subscriber is gone. The kernel takes memory and queue pairs of a dead process one after the other, so a write may
/// still be answered: that there is no such memory.
const VICTIMS: [(&str, &str, &[&str]); 6] = [
    ("killed", "ud", &[]),
    ("killed", "rc", &["TxTimeout"]),
    ("killed", "ring", &["TxTimeout", "TxCqError"]),
    ("withheld", "rc", &["TxCongestion"]),
    ("withheld", "ring", &["TxTimeout"]),
    ("key", "ring", &["TxCqError"]),
];
/// What a mode puts on the wire, as `tachyon-lab-capture` calls it: opcode, traffic class (DSCP 26 and ECT) and immediate. Sends with
/// an immediate are 0x05 on connections and 0x65 as datagrams, writes with one 0x0b, acknowledgements 0x11.
const PACKETS: [(&str, &[&str]); 3] = [
    ("ud", &["0x65 106 frame:5"]),
    ("rc", &["0x05 106 frame:5", "0x11 106 none"]),
    ("ring", &["0x0b 106 slot:5", "0x05 106 credits", "0x11 106 none"]),
];

/// It takes two to four minutes on a machine with two cores. Beyond this it hangs.
const LIMIT: Duration = Duration::from_secs(900);

/// Runs the job with the kernel `series` and checks what it said. `examples` is the folder with the built examples `verbs_pingpong`
/// and `verbs_faults`, `own` the one with our programs.
///
/// Returns `kernel`, `boot_s`, `wall_s`, `rows` (rates in thousand messages a second, times in µs for one way), `packets`, `faults`
/// and `missed`: what was slower than it shall be. That is no error, because it may be the machine's fault. `findings`: faults after
/// which a frame was lost unseen, a lane did not come back or another one was hurt; whoever calls fails if there are any.
///
/// # Errors
///
/// Says what did not hold, or that the guest died; its console is in `roce.log` in `folder`.
pub fn run(folder: &Path, series: &str, examples: &Path, own: &Path) -> Result<Value> {
    let mut bed = bed(folder, series)?;
    for example in ["verbs_pingpong", "verbs_faults"] {
        bed.program(&format!("/usr/bin/{example}"), &examples.join(example))?;
    }
    bed.program("/usr/bin/tachyon-lab-capture", &own.join("tachyon-lab-capture"))?;
    let job = job(&format!("RUNS={RUNS}\nPING_PONGS={PING_PONGS}\n{DEVICES}{SCRIPT}"));
    // Two processors, because both ends poll.
    let guest = Guest { name: "roce", cpus: 2, memory_mib: 768, huge_pages: 0, wires: 0, ipv6: false };
    let outcome = guest.run(&bed, &job, LIMIT)?;
    judge(&outcome).with_context(|| bed.last_words("roce"))
}

/// A bed with soft RoCE, perftest, and what cuts and disturbs a veth.
///
/// # Errors
///
/// As [`Bed::make`].
pub(crate) fn bed(folder: &Path, series: &str) -> Result<Bed> {
    let mut bed = Bed::make(folder, series)?;
    // crc32_generic is asked for by its algorithm's name, which no list of dependencies knows.
    bed.modules(&["crc32_generic", "rdma_rxe", "ib_uverbs", "veth", "sch_netem", "sch_prio", "cls_u32", "af_packet"])?;
    for program in PERFTEST {
        bed.packaged(&format!("/usr/bin/{program}"))?;
    }
    for (name, path) in [("rdma", "/bin/rdma"), ("tc", "/sbin/tc")] {
        bed.program(&format!("/usr/bin/{name}"), &bed.tools().find(path)?)?;
    }
    bed.packaged("/usr/lib/x86_64-linux-gnu/libibverbs/librxe-rdmav34.so")?;
    Ok(bed)
}

/// A job that knows how many messages a run of a rate has.
pub(crate) fn job(script: &str) -> Archive {
    let mut job = Archive::new();
    // libibverbs loads the drivers that are named here.
    job.file("/etc/libibverbs.d/rxe.driver", b"driver rxe\n".to_vec(), false);
    job.file("/job", format!("STREAMED={STREAMED}\n{script}").into_bytes(), false);
    job
}

/// Holds what was said against what must be.
fn judge(outcome: &Outcome) -> Result<Value> {
    let last = outcome.phases.last().map_or("before its first phase", |phase| phase.name.as_str());
    ensure!(outcome.code == 0, "the job failed with {} in phase {last}", outcome.code);
    let (mut rows, mut faults, mut missed, mut findings) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (mode, bytes) in ROWS {
        let name = format!("{mode}-{bytes}");
        let row = row(phase(outcome, &name)?, mode, bytes).with_context(|| format!("phase {name}"))?;
        let text = |what: &str| format!("{mode} {bytes}: {what}");
        if row["rate_reached"] == false {
            missed.push(text(&format!("ratio {}, shall be {RATIO_MIN}", row["ratio"])));
        }
        if row["latency_reached"] == false {
            missed.push(text(&format!("latency_ratio {}, shall be {LATENCY_RATIO_MAX}", row["latency_ratio"])));
        }
        if row["calm_pairs"] == 0 {
            missed
                .push(text("the latency ratio is not known: perftest did not finish, or in no pair did both ends have a processor most of the time"));
        }
        rows.push(row);
    }
    let packets: Vec<Value> =
        PACKETS.iter().map(|(mode, kinds)| packets(outcome, mode, kinds)).collect::<Result<_>>()?;
    let mut note = |name: String, kind: &str, mode: &str, result: Result<Value>| match result {
        Ok(json) => faults.push(json),
        Err(error) => {
            // Told with everything else, because what went well is then still known.
            let error = format!("{error:#}");
            findings.push(format!("{name}: {error}"));
            faults.push(json!({ "fault": kind, "mode": mode, "error": error }));
        }
    };
    for kind in FAULTS {
        for mode in MODES {
            let name = format!("{kind}-{mode}");
            note(name.clone(), kind, mode, phase(outcome, &name).and_then(|phase| fault(phase, kind, mode)));
        }
    }
    for (kind, mode, reasons) in VICTIMS {
        let name = format!("{kind}-{mode}");
        note(name.clone(), kind, mode, phase(outcome, &name).and_then(|phase| victim(phase, kind, mode, reasons)));
    }
    Ok(json!({
        "kernel": outcome.kernel, "boot_s": outcome.boot.as_secs_f64(), "wall_s": outcome.wall.as_secs_f64(),
        "rows": rows, "packets": packets, "faults": faults, "missed": missed, "findings": findings,
    }))
}

pub(crate) fn phase<'a>(outcome: &'a Outcome, name: &str) -> Result<&'a Phase> {
    outcome.phases.iter().find(|phase| phase.name == name).with_context(|| format!("the job had no phase {name}"))
}

/// What was said under `key` of what is called `name`.
pub(crate) fn said<'a>(phase: &'a Phase, key: &'a str, name: &'a str) -> impl Iterator<Item = &'a str> {
    let values = phase.said.iter().filter(move |(said, _)| said == key).map(|(_, value)| value.as_str());
    values.filter_map(move |value| value.strip_prefix(name)?.strip_prefix(' '))
}

/// One size by one way, ours and theirs.
fn row(phase: &Phase, mode: &str, bytes: u64) -> Result<Value> {
    let name = format!("{mode} {bytes}");
    // perftest's last column of a rate is millions of messages a second; the fifth of a latency is the median of one way.
    let theirs = |program: &str, column: fn(&[f64]) -> Option<f64>, least: usize| -> Result<f64> {
        let program = format!("{name} {program}");
        let lines: Vec<_> = said(phase, "perftest", &program).collect();
        let figures = lines.iter().filter_map(|line| column(&numbers(line)?));
        median(figures.collect(), least)
            .with_context(|| format!("of {program} there are the runs {lines:?}; {}", failures(phase)))
    };
    let rate: fn(&[f64]) -> Option<f64> = |row| Some(row.last()? * 1_000.0);
    let reports: Vec<Value> = said(phase, "tachyon", &name).map(serde_json::from_str).collect::<Result<_, _>>()?;
    let streams: Vec<&Value> = reports.iter().filter(|report| report["test"] == "stream").collect();
    let our_rates = streams.iter().filter_map(|report| report["kpps"].as_f64()).collect();
    let their_kpps = theirs("ib_send_bw", rate, RUNS_MIN)?;
    let our_kpps = median(our_rates, RUNS_MIN)
        .with_context(|| format!("of our streams there are too few; {}", failures(phase)))?;
    let pairs = pairs(phase, &name)?;
    let calm = calm(&pairs);
    let counted = if calm.is_empty() { &pairs } else { &calm };
    let of = |figure: fn(&Pair) -> f64| median(counted.iter().map(figure).collect(), 1);
    let (their_us, our_us) = (of(|pair| pair.theirs.1), of(|pair| pair.ours.1));
    let least = |figure: fn(&Pair) -> f64| pairs.iter().map(figure).fold(f64::INFINITY, f64::min);
    let arrived: u64 = streams.iter().filter_map(|report| report["arrived"].as_u64()).sum();
    let their_wire = wire(phase, &format!("{name} perftest"), RUNS_MIN as u64 * STREAMED)?;
    let our_wire = wire(phase, &format!("{name} tachyon"), arrived)?;
    let ratio = our_kpps / their_kpps;
    let latency_ratio = our_us.zip(their_us).map(|(ours, theirs)| ours / theirs);
    let reached = latency_ratio.filter(|_| !calm.is_empty()).map(|ratio| ratio <= LATENCY_RATIO_MAX);
    let mut row = json!({
        "mode": mode, "bytes": bytes, "runs": RUNS,
        "perftest_kpps": rounded(their_kpps), "tachyon_kpps": rounded(our_kpps), "ratio": rounded(ratio),
        "rate_reached": ratio >= RATIO_MIN,
        "perftest_us_p50": their_us.map(rounded), "tachyon_us_p50": our_us.or(alone(&reports)).map(rounded),
        "latency_ratio": latency_ratio.map(rounded),
        "latency_reached": reached,
        "perftest_us_min": rounded(least(|pair| pair.theirs.0)), "tachyon_us_min": rounded(least(|pair| pair.ours.0)),
        "pairs": pairs.len(), "calm_pairs": calm.len(), "perftest_wire": their_wire, "tachyon_wire": our_wire,
    });
    if mode == "ring" {
        // A plain write tells its reader nothing: no like, but what a ring is made of.
        row["write_kpps"] = rounded(theirs("ib_write_bw", rate, RUNS_MIN)?).into();
        row["write_us_p50"] = theirs("ib_write_lat", |row| row.get(4).copied(), 1).ok().map(rounded).into();
    }
    Ok(row)
}

/// Our latency where perftest did not finish one: its latency programs can wait for ever for a packet or an event that was lost, and
/// with Linux 6.12 those with events do.
fn alone(reports: &[Value]) -> Option<f64> {
    median(reports.iter().filter_map(|report| Some(report["p50_us"].as_f64()? / 2.0)).collect(), 1)
}

/// A latency of theirs and the one of ours right behind it: the least and the median of each, in µs for one way.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Pair {
    theirs: (f64, f64),
    ours: (f64, f64),
}

/// All pairs of a row, in order.
fn pairs(phase: &Phase, name: &str) -> Result<Vec<Pair>> {
    let (mut theirs, mut ours, mut pairs) = (None, None, Vec::new());
    let under = |value: &'_ str, name: &str| {
        value.strip_prefix(name).and_then(|rest| rest.strip_prefix(' ')).map(str::to_owned)
    };
    for (key, value) in &phase.said {
        match key.as_str() {
            "perftest" => {
                let line = under(value, &format!("{name} ib_send_lat"));
                theirs = line.and_then(|line| numbers(&line)?.get(2..5).map(|of| (of[0], of[2]))).or(theirs);
            }
            "tachyon" => {
                let Some(text) = under(value, name) else { continue };
                let report: Value = serde_json::from_str(&text)?;
                ours =
                    report["min_us"].as_f64().zip(report["p50_us"].as_f64()).map(|(min, p50)| (min / 2.0, p50 / 2.0));
            }
            "pair" if under(value, name).is_some() => {
                pairs.extend(theirs.take().zip(ours.take()).map(|(theirs, ours)| Pair { theirs, ours }));
            }
            _ => {}
        }
    }
    Ok(pairs)
}

/// The pairs in which neither side's median is more than [`CALM_MAX`] times the least that this side ever took in the row. Both ends
/// poll, so a message waits for a processor whenever the machine gives one of them to somebody else; that happens to both sides
/// alike, but not in the same run.
fn calm(pairs: &[Pair]) -> Vec<Pair> {
    let least = |figure: fn(&Pair) -> f64| pairs.iter().map(figure).fold(f64::INFINITY, f64::min) * CALM_MAX;
    let (theirs, ours) = (least(|pair| pair.theirs.0), least(|pair| pair.ours.0));
    pairs.iter().copied().filter(|pair| pair.theirs.1 <= theirs && pair.ours.1 <= ours).collect()
}

/// What was seen of a mode's packets: all that must be there, and nothing of another class.
fn packets(outcome: &Outcome, mode: &str, kinds: &[&str]) -> Result<Value> {
    let phase = phase(outcome, &format!("wire-{mode}"))?;
    let mut seen = serde_json::Map::new();
    for line in said(phase, "captured", mode) {
        let (kind, count) = line.rsplit_once(' ').with_context(|| format!("a captured kind is {line:?}"))?;
        ensure!(kind.split(' ').nth(1) == Some("106"), "packets of {mode} have another traffic class than 106: {line}");
        seen.insert(kind.to_owned(), count.parse::<u64>()?.into());
    }
    let missing: Vec<_> = kinds.iter().filter(|kind| !seen.contains_key(**kind)).collect();
    ensure!(missing.is_empty(), "of {mode} no packets {missing:?} were seen, only {seen:?}");
    Ok(json!({ "mode": mode, "seen": seen }))
}

/// One of two subscribers had its trouble: its frames have the reason, it is back, and the other lost nothing.
fn victim(phase: &Phase, kind: &str, mode: &str, reasons: &[&str]) -> Result<Value> {
    let name = format!("{kind} {mode}");
    let line = said(phase, "subscribers", &name).next().with_context(|| format!("the job never said {name}"))?;
    let (code, text) = line.split_once(' ').context("a fault has a code and a report")?;
    let report: Value = serde_json::from_str(text).with_context(|| format!("the report of {name} is {text:?}"))?;
    ensure!(code == "0" && report["buffers_missing"] == 0, "{name} ended with {code}: {report}");
    for who in ["witness", "victim"] {
        let lane = &report[who];
        let count = |key: &str| lane[key].as_u64().with_context(|| format!("the {who} has no {key}: {report}"));
        let failed: u64 =
            lane["failed"].as_object().into_iter().flatten().filter_map(|(_, count)| count.as_u64()).sum();
        let (posted, sent, arrived) = (count("posted")?, count("sent")?, count("arrived")? + count("refused")?);
        ensure!(posted == sent + failed && count("open")? == 0, "frames of the {who} have no end: {report}");
        ensure!(
            lane["state"] == "connected" && sent > 0 && arrived > 0,
            "the {who}'s lane did not come back: {report}"
        );
        ensure!(count("repeated")? == 0 && arrived <= posted, "more arrived at the {who} than was sent: {report}");
        // What a process knew that was killed is lost with it, and datagrams may be.
        let counts = mode != "ud" && (who == "witness" || kind != "killed");
        ensure!(!counts || sent <= arrived, "the {who} lost frames that were acknowledged: {report}");
        ensure!(who != "witness" || failed == 0, "the witness had failures: {report}");
    }
    let failed = &report["victim"]["failed"];
    if reasons.is_empty() {
        ensure!(failed.as_object().is_some_and(serde_json::Map::is_empty), "datagrams failed: {report}");
    } else {
        let ended = reasons.iter().any(|reason| failed[reason].as_u64() > Some(0));
        ensure!(ended, "no frame ended as {}: {report}", reasons.join(" or "));
    }
    let seconds = rounded(phase.wall.as_secs_f64());
    Ok(
        json!({ "fault": kind, "mode": mode, "seconds": seconds, "victim": report["victim"], "witness": report["witness"] }),
    )
}

fn failures(phase: &Phase) -> String {
    let failed: Vec<_> = phase.said.iter().filter(|(key, _)| key == "failed").map(|(_, what)| what.as_str()).collect();
    format!("failed were {failed:?}, see the console")
}

pub(crate) fn numbers(line: &str) -> Option<Vec<f64>> {
    line.split_whitespace().map(|word| word.parse().ok()).collect()
}

/// The one in the middle, of at least so many.
pub(crate) fn median(mut figures: Vec<f64>, least: usize) -> Option<f64> {
    figures.sort_unstable_by(f64::total_cmp);
    figures.get(figures.len() / 2).copied().filter(|figure| figures.len() >= least && *figure > 0.0)
}

pub(crate) fn rounded(figure: f64) -> f64 {
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
            said.push(("tachyon", format!("rc 64 {{\"test\":\"stream\",\"kpps\":{kpps},\"arrived\":500}}")));
            said.push(("wire", "rc 64 perftest 0 0 0 11000 11000 11000".to_owned()));
            said.push(("wire", format!("rc 64 tachyon 0 0 0 520 520 {packets}")));
        }
        // In the second and in the third one side waited for a processor.
        for (theirs, ours) in [(25.0, 60.0), (4_000.0, 70.0), (26.0, 8_000.0), (27.0, 62.0), (26.0, 61.0)] {
            said.push(("perftest", format!("rc 64 ib_send_lat 64 300 20.0 90.0 {theirs} 26.0 1.0 40.0 80.0")));
            let report = json!({ "test": "pingpong", "min_us": 50.0, "p50_us": ours, "arrived": 10 });
            said.push(("tachyon", format!("rc 64 {report}")));
            said.push(("pair", "rc 64 1".to_owned()));
        }
        phase(&said)
    }

    #[test]
    fn a_row_is_of_medians_and_of_packets_that_were_on_the_wire() {
        let row = row(&measured(520), "rc", 64).unwrap();
        assert_eq!((&row["perftest_kpps"], &row["ratio"]), (&json!(20.0), &json!(1.0)));
        assert_eq!((&row["perftest_us_p50"], &row["tachyon_us_p50"]), (&json!(26.0), &json!(30.5)));
        assert_eq!((&row["pairs"], &row["calm_pairs"], &row["latency_reached"]), (&json!(5), &json!(3), &json!(true)));
        assert_eq!(row["tachyon_wire"]["veth_packets"], 1560);
        let mut alone = measured(520);
        alone.said.retain(|(key, value)| key != "pair" && !value.contains("_lat"));
        let alone = super::row(&alone, "rc", 64).unwrap();
        assert_eq!((&alone["tachyon_us_p50"], &alone["latency_reached"]), (&json!(31.0), &Value::Null));
        assert!(super::row(&measured(499), "rc", 64).is_err());
        let mut one = measured(520);
        one.said.retain(|(key, value)| key != "perftest" || !value.contains("_bw") || value.ends_with("10"));
        assert!(super::row(&one, "rc", 64).unwrap_err().to_string().contains("ib_send_bw"));
    }

    #[test]
    fn a_victim_has_its_reason_and_a_witness_has_none() {
        let lane = |failed: Value, sent: u64, arrived: u64| {
            json!({
                "posted": 100, "sent": sent, "failed": failed, "open": 0, "arrived": arrived, "repeated": 0, "refused": 0,
                "state": "connected", "why": "",
            })
        };
        let told = |witness: Value, victim: Value| {
            let report = json!({ "witness": witness, "victim": victim, "buffers_missing": 0 });
            super::victim(&phase(&[("subscribers", format!("key ring 0 {report}"))]), "key", "ring", &["TxCqError"])
        };
        let (good, hurt) = (lane(json!({}), 100, 100), json!({ "TxCqError": 1, "TxQpReset": 9 }));
        told(good.clone(), lane(hurt.clone(), 90, 90)).unwrap();
        assert!(
            told(lane(json!({ "TxQpReset": 1 }), 99, 99), lane(hurt.clone(), 90, 90)).is_err(),
            "the witness was hurt"
        );
        assert!(told(good.clone(), lane(hurt.clone(), 89, 90)).is_err(), "one has no end");
        assert!(told(good.clone(), lane(hurt, 90, 89)).is_err(), "one was acknowledged and did not arrive");
        assert!(told(good, lane(json!({ "TxQpReset": 10 }), 90, 90)).is_err(), "another reason");
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
