//! The fourth job: `tachyond` on one of two soft RoCE devices, its publishers and subscribers on the other, beside perftest.
//!
//! It shows what neither the driver alone nor the node without a device can: that frames of real sessions go by datagrams, by
//! connections and by writes into rings from end to end with every message accounted for; what `tachyon lanes`, `ports` and
//! `routes` say meanwhile; how many messages a second that is in the guest in which perftest was measured too; and what becomes
//! of lanes whose link goes, whose packets are lost or late, whose subscriber is killed, or that fall back to UDP.
//! `roce/` has its other half, in the guest. All four processes share two emulated processors, so the rates say nothing of a
//! real machine; the ratio says what it is worth that a packet carries 63 messages.

use crate::{
    dpdk::PROGRAMS,
    guest::{Guest, Outcome, Phase},
    load::{Load, object},
    roce,
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

const SCRIPT: &str = include_str!("../roce/governed.sh");

/// Files of the guest's `/etc/tachyon`.
const FILES: [(&str, &str); 3] = [
    ("node", include_str!("../roce/node.toml")),
    ("control", include_str!("../dpdk/control.toml")),
    ("rules", include_str!("../roce/rules.toml")),
];

/// Each way's name, how routes name what carries its copies, what carries its publishers' frames, and what of both is on the
/// wire, as in the other job's `PACKETS` but of any shard.
const MODES: [(&str, &str, &str, &[&str]); 3] = [
    ("ud", "rdma_datagram", "rdma_datagram", &["0x65 106 frame:"]),
    ("rc", "rdma_connection", "rdma_connection", &["0x05 106 frame:", "0x11 106 none"]),
    (
        "ring",
        "rdma_ring",
        "rdma_connection",
        &["0x0b 106 slot:", "0x05 106 frame:", "0x05 106 credits", "0x11 106 none"],
    ),
];

/// Bytes of a frame and messages in it at a path MTU of 4096.
const FRAME_BYTES: u64 = 4_096;
const FRAME_MESSAGES: u64 = 63;
/// Of perftest's 64-byte messages a second, the least that ours shall be.
const RATIO_MIN: f64 = 10.0;
/// How long the kernel waits at least for a neighbour that does not answer; it gives it a second.
const LOST_WAY_MS: f64 = 900.0;
/// Fewest runs of which a median is taken: a program of perftest may fail.
const RUNS_MIN: usize = 2;

/// It takes four minutes on a machine with two idle cores. Beyond this it hangs.
const LIMIT: Duration = Duration::from_secs(900);

/// Runs the job with the kernel `series` and checks what it said. Our [`PROGRAMS`] are in the folder `built`, with the example
/// `verbs_one_memory` in its folder of examples; `own` is the folder with the lab's own programs.
///
/// Returns `kernel`, `boot_s`, `wall_s`, `rows` (each `governed`, with messages a second of the generator's subscriber beside
/// perftest's), `lanes` and `packets` of each way, `faults`, `memory`, `missed`: what was slower than it shall be, which may be
/// the machine's fault, and `findings`: what did not hold; whoever calls fails if there are any.
///
/// # Errors
///
/// Says that the job did not run to its end, or that the guest died; its console is in `governed.log` in `folder`.
pub fn run(folder: &Path, series: &str, built: &Path, own: &Path) -> Result<Value> {
    let mut bed = roce::bed(folder, series)?;
    for program in PROGRAMS {
        bed.program(&format!("/usr/bin/{program}"), &built.join(program))?;
    }
    for example in ["verbs_one_memory", "verbs_ways"] {
        bed.program(&format!("/usr/bin/{example}"), &built.join("examples").join(example))?;
    }
    bed.program("/usr/bin/tachyon-lab-capture", &own.join("tachyon-lab-capture"))?;
    let mut job = roce::job(&format!("{}{SCRIPT}", roce::DEVICES));
    for (name, text) in FILES {
        job.file(&format!("/etc/tachyon/{name}.toml"), text.as_bytes().to_vec(), false);
    }
    // Two processors: one for the node's worker, one for the load. More would only share those of the host.
    let guest = Guest { name: "governed", cpus: 2, memory_mib: 1024, huge_pages: 0, wires: 0, ipv6: false };
    let outcome = guest.run(&bed, &job, LIMIT)?;
    judge(&outcome).with_context(|| bed.last_words("governed"))
}

/// What was found out so far, and what did not hold.
#[derive(Default)]
struct Found {
    good: Vec<Value>,
    findings: Vec<String>,
}

impl Found {
    /// Judges a phase; what went wrong is told with everything else, because what went well is then still known.
    fn look(&mut self, outcome: &Outcome, name: &str, judge: impl FnOnce(&Phase) -> Result<Value>) {
        let failed = |phase: &Phase| {
            let words = phase.said.iter().filter(|(key, _)| key == "failed").map(|(_, text)| text.as_str());
            words.collect::<Vec<_>>().join("; ")
        };
        let result = roce::phase(outcome, name).and_then(|phase| {
            let words = failed(phase);
            judge(phase)
                .and_then(|json| if words.is_empty() { Ok(json) } else { Err(anyhow::anyhow!("{json}")) })
                .context(words)
        });
        match result {
            Ok(mut json) => {
                json["phase"] = name.into();
                self.good.push(json);
            }
            Err(error) => self.findings.push(format!("{name}: {error:#}")),
        }
    }
}

/// Holds what was said against what must be.
fn judge(outcome: &Outcome) -> Result<Value> {
    let last = outcome.phases.last().map_or("before its first phase", |phase| phase.name.as_str());
    ensure!(outcome.code == 0, "the job failed with {} in phase {last}", outcome.code);
    let (mut rows, mut ways, mut faults) = (Found::default(), Found::default(), Found::default());
    for (mode, copies, frames, wire) in MODES {
        ways.look(outcome, &format!("exact-{mode}"), |phase| way(phase, mode, copies, frames, wire));
        rows.look(outcome, &format!("rate-{mode}"), |phase| row(phase, mode));
        faults.look(outcome, &format!("link-{mode}"), |phase| link(phase, mode));
        for fault in ["loss", "delay"] {
            faults.look(outcome, &format!("{fault}-{mode}"), |phase| disturbed(phase, fault, mode));
        }
        faults.look(outcome, &format!("killed-{mode}"), |phase| killed(phase, mode));
        if mode != "ud" {
            faults.look(outcome, &format!("fallback-{mode}"), |phase| fallback(phase, copies));
        }
    }
    faults.look(outcome, "one-memory", |phase| object_of(phase, "memory"));
    faults.look(outcome, "ways", lost_way);
    let slow = |row: &&Value| row["reached"] == false;
    let missed = rows
        .good
        .iter()
        .filter(slow)
        .map(|row| format!("{}: ratio {}, shall be {RATIO_MIN}", row["mode"], row["ratio"]));
    let findings = [rows.findings, ways.findings, faults.findings].concat();
    Ok(json!({
        "kernel": outcome.kernel, "boot_s": outcome.boot.as_secs_f64(), "wall_s": outcome.wall.as_secs_f64(),
        "missed": missed.collect::<Vec<_>>(), "rows": rows.good, "ways": ways.good, "faults": faults.good,
        "findings": findings,
    }))
}

/// The first thing said under `key`, one JSON object.
fn object_of(phase: &Phase, key: &str) -> Result<Value> {
    let text = crate::load::one(phase, key)?;
    serde_json::from_str(text).with_context(|| format!("{key} is {text:?}"))
}

/// How fast a way is from end to end, everything accounted for, beside perftest's 64-byte messages a second; by turns, and each
/// time as a median.
fn row(phase: &Phase, mode: &str) -> Result<Value> {
    // Its last column is millions of messages a second. A ring's packets have no like that its reader is told of but a send.
    let perftest = |bytes: u64| {
        let name = format!("{mode} {bytes}");
        let lines: Vec<&str> = roce::said(phase, "perftest", &name).collect();
        let figures = lines.iter().filter_map(|line| Some(roce::numbers(line.split_once(' ')?.1)?.last()? * 1e6));
        roce::median(figures.collect(), RUNS_MIN).with_context(|| format!("of perftest {name} there are {lines:?}"))
    };
    let (theirs, packets) = (perftest(64)?, perftest(FRAME_BYTES)?);
    let mut rates = Vec::new();
    let mut loads = Vec::new();
    for text in roce::said(phase, "load", "rate") {
        let load = Load(serde_json::from_str(text).with_context(|| format!("a load is {text:?}"))?);
        ensure!(load.count("/unaccounted") == 0, "load rate is not accounted for: {}", load.json());
        let (messages, frames) = (load.count("/offered_messages"), load.count("/offered_frames").max(1));
        ensure!(
            messages == frames * FRAME_MESSAGES,
            "frames have {} messages, not {FRAME_MESSAGES}",
            messages / frames
        );
        let received = u32::try_from(load.count("/received_copies")).context("a run has fewer messages")?;
        rates.push(f64::from(received) / load.0["active_seconds"].as_f64().unwrap_or(f64::INFINITY));
        loads.push(load.json());
    }
    let rate = roce::median(rates.clone(), RUNS_MIN).with_context(|| format!("of the load there are {rates:?}"))?;
    let ratio = roce::rounded(rate / theirs);
    Ok(json!({
        "governed": true, "mode": mode, "bytes": 64, "messages_per_frame": FRAME_MESSAGES, "messages_per_second": rate.round(),
        "perftest_messages_per_second": theirs.round(), "ratio": ratio, "reached": ratio >= RATIO_MIN,
        "runs": rates.iter().map(|rate| rate.round()).collect::<Vec<_>>(), "loads": loads,
        "perftest_frames_per_second": packets.round(),
        // A frame crosses the veth twice; this part of its time is what perftest takes for two of its packets.
        "two_hops_share": roce::rounded(2.0 * rate / (packets * 63.0)), "frame_us": spent(phase, mode)?,
    }))
}

/// What a frame takes at the greatest rate, in µs of processor time: of both processors as a whole and of the node's and the load's
/// process, each in itself and in the kernel.
fn spent(phase: &Phase, mode: &str) -> Result<Value> {
    let line = roce::said(phase, "spent", mode).next().context("the job never said what a frame costs")?;
    let counts =
        roce::numbers(line).filter(|counts| counts.len() == 18).with_context(|| format!("spent is {line:?}"))?;
    let (before, after) = counts.split_at(9);
    let frames = after[0] - before[0];
    ensure!(frames > 0.0, "no frame was sent while it was looked: {line}");
    let names = ["programs", "system", "packets", "idle", "node", "node_system", "load", "load_system"];
    // They are told in hundredths of a second.
    let each = |at: usize| roce::rounded((after[at + 1] - before[at + 1]) * 1e4 / frames);
    Ok(names.iter().enumerate().map(|(at, name)| ((*name).to_owned(), json!(each(at)))).collect())
}

/// A load at a rate that everybody can follow: exact, over the lanes that were asked for, in packets that were on the wire.
fn way(phase: &Phase, mode: &str, copies: &str, frames: &str, kinds: &[&str]) -> Result<Value> {
    let load = Load::of(phase, "exact")?;
    let json = load.json();
    let whole = load.count("/offered_frames") == load.count("/ledgers/frames/seen")
        && load.count("/ledgers/copies/due") == load.count("/received_copies");
    let clean = ["frames", "messages", "copies"].into_iter().all(|ledger| load.is_clean(ledger));
    // Datagrams may be lost where a processor of the guest stands still, but not without a name.
    ensure!(load.count("/unaccounted") == 0 && load.count("/received_copies") > 0, "not accounted for: {json}");
    ensure!((whole && clean) || mode == "ud", "not exact: {json}");
    let lanes = object(phase, "lanes", "exact")?;
    let of = |owner: &str| {
        let each = lanes["lanes"].as_array().into_iter().flatten().filter(|lane| lane[owner].is_number());
        each.map(|lane| format!("{} {}", lane["lane"].as_str().unwrap_or(""), lane["state"].as_str().unwrap_or("")))
            .collect::<Vec<_>>()
    };
    let (publishers, subscribers) = (of("session_id"), of("subscriber"));
    ensure!(publishers == [format!("{frames} connected")], "publishers' lanes are {publishers:?}");
    ensure!(subscribers == [format!("{copies} connected")], "subscribers' lanes are {subscribers:?}");
    let carried = carriers(phase, "exact")?;
    ensure!(carried == [copies], "routes are carried by {carried:?}");
    let ports = object(phase, "ports", "exact")?;
    let port = &ports["ports"][0];
    ensure!(port["driver"] == "verbs" && port["state"] == "ready" && port["mtu"] == 4096, "the RDMA port is {port}");
    let seen: Vec<&str> = roce::said(phase, "captured", mode).collect();
    let missing: Vec<_> = kinds.iter().filter(|kind| !seen.iter().any(|line| line.starts_with(**kind))).collect();
    ensure!(missing.is_empty(), "no packets {missing:?} were seen, only {seen:?}");
    let wire = roce::said(phase, "wire", mode).next().context("the job never said wire")?;
    let counts = roce::numbers(wire).filter(|counts| counts.len() == 6).with_context(|| format!("wire is {wire:?}"))?;
    #[expect(clippy::cast_precision_loss, reason = "a run has far fewer than 2^53 frames")]
    let crossed = 2.0 * load.count("/offered_frames") as f64;
    ensure!(
        mode == "ud" || counts[5] - counts[2] >= crossed,
        "{crossed} frames crossed a veth with packets {counts:?}"
    );
    Ok(json!({
        "mode": mode, "load": json, "publishers": publishers, "subscribers": subscribers, "carried_by": carried,
        "veth_packets": counts[5] - counts[2], "seen": seen,
    }))
}

/// What carries copies, by the routes that were told under this name; each once.
fn carriers(phase: &Phase, name: &str) -> Result<Vec<String>> {
    let routes = object(phase, "routes", name)?;
    let lanes = routes["routes"]
        .as_array()
        .into_iter()
        .flatten()
        .flat_map(|route| route["lanes"].as_array().into_iter().flatten());
    let mut names: Vec<String> = lanes.filter_map(Value::as_str).map(str::to_owned).collect();
    names.sort_unstable();
    names.dedup();
    Ok(names)
}

/// The states of all lanes that were told under this name.
fn states(phase: &Phase, name: &str) -> Result<Vec<String>> {
    let lanes = object(phase, "lanes", name)?;
    let each = lanes["lanes"].as_array().into_iter().flatten();
    Ok(each.map(|lane| lane["state"].as_str().unwrap_or_default().to_owned()).collect())
}

/// The link went away under load and came back: the port said so, copies of lanes ended in their reasons, and the lanes carry again.
fn link(phase: &Phase, mode: &str) -> Result<Value> {
    let load = Load::of(phase, "link")?;
    let json = load.json();
    ensure!(load.count("/unaccounted") == 0, "not accounted for: {json}");
    ensure!(load.is_seen() || mode == "ud", "the node saw other frames than were sent: {json}");
    let ports = object(phase, "status", "down")?;
    ensure!(ports["ports"][0]["state"] == "link_down", "the port without link is {}", ports["ports"][0]);
    let words = roce::said(phase, "link", mode).next().context("the job never said what the link did")?;
    let (down, back) = words.split_once(' ').context("a link has two words")?;
    let after = load.count("/received_copies").saturating_sub(down.parse()?);
    ensure!(back == "1" && after > 0, "nothing arrived once the link was up again: {json}");
    let states = states(phase, "up")?;
    ensure!(!states.is_empty() && states.iter().all(|state| state == "connected"), "lanes are {states:?} afterwards");
    let refused = load.reasons("copies");
    Ok(json!({ "fault": "link", "mode": mode, "load": json, "copies_refused": refused, "copies_after_up": after }))
}

/// Packets were lost or late: connections lose nothing by it, datagrams nothing without a name.
fn disturbed(phase: &Phase, fault: &str, mode: &str) -> Result<Value> {
    let load = Load::of(phase, fault)?;
    let json = load.json();
    ensure!(load.count("/unaccounted") == 0 && load.count("/received_copies") > 0, "not accounted for: {json}");
    let whole = load.count("/offered_frames") == load.count("/ledgers/frames/seen")
        && load.count("/ledgers/copies/due") == load.count("/received_copies");
    ensure!(mode == "ud" || (whole && load.is_clean("copies")), "a connection lost something: {json}");
    ensure!(mode != "ud" || fault != "loss" || !whole, "nothing was lost, so nothing was done to it: {json}");
    Ok(json!({ "fault": fault, "mode": mode, "load": json }))
}

/// A peer that packets cannot find held up the cold side for less than a tenth of what it holds up whoever asks the kernel.
fn lost_way(phase: &Phase) -> Result<Value> {
    let json = object_of(phase, "ways")?;
    let ms = |key: &str| json[key].as_f64().with_context(|| format!("there is no {key}: {json}"));
    ensure!(ms("alone_ms")? > LOST_WAY_MS, "the kernel did not wait for anybody: {json}");
    ensure!(ms("longest_ms")? < LOST_WAY_MS / 10.0, "the cold side was held up: {json}");
    Ok(json)
}

/// What the node's own ledgers say once all is over: every copy due was given or has its reason.
fn settled(phase: &Phase) -> Result<Value> {
    let ledgers = object(phase, "status", "rest")?["ledgers"].clone();
    ensure!(
        ledgers["unaccounted"] == 0 && ledgers["copies"]["held"] == 0,
        "the node's ledgers do not add up: {ledgers}"
    );
    Ok(ledgers)
}

/// One of two subscribers was killed: the other, whose load it is, missed no copy, and the node's ledgers add up.
fn killed(phase: &Phase, mode: &str) -> Result<Value> {
    let load = Load::of(phase, "witness")?;
    let (offered, received) = (load.count("/offered_messages"), load.count("/received_copies"));
    let gaps = load.count("/subscribers/0/gap_frames");
    let text = || format!("{}", load.json());
    let exact = received == offered && gaps == 0;
    ensure!(exact || (mode == "ud" && received > 0), "the witness lost copies ({gaps} gaps): {}", text());
    let (before, after) = (states(phase, "before")?.len(), states(phase, "after")?.len());
    ensure!(after < before, "the killed one's lanes are still there: {before} and then {after}");
    let ledgers = settled(phase)?;
    Ok(json!({
        "fault": "killed", "mode": mode, "witness_offered": offered, "witness_received": received,
    "copy_reasons": load.reasons("copies"), "unaccounted": ledgers["unaccounted"],
    }))
}

/// A lane's packets were lost: copies went by UDP after the last try, and over the lane again once they passed, while the
/// other subscriber, which is on UDP, missed none.
fn fallback(phase: &Phase, copies: &str) -> Result<Value> {
    let (lane, udp, back) = (carriers(phase, "lane")?, carriers(phase, "udp")?, carriers(phase, "back")?);
    ensure!(lane == [copies, "udp"], "before, routes were carried by {lane:?}");
    ensure!(udp == ["udp", "udp (fell back)"], "without packets, routes were carried by {udp:?}");
    ensure!(back == [copies, "udp"], "afterwards, routes were carried by {back:?}");
    let load = Load::of(phase, "publisher")?;
    let (offered, received) = (load.count("/offered_messages"), load.count("/received_copies"));
    ensure!(offered == received, "the publisher's own subscriber lost copies: {}", load.json());
    let ledgers = settled(phase)?;
    // The subscriber beside it publishes too, now and then, and counts what it offers.
    let subscriber = crate::load::one(phase, "subscriber")?;
    let counts = roce::numbers(subscriber).filter(|counts| counts.len() == 2);
    let counts = counts.with_context(|| format!("subscriber is {subscriber:?}"))?;
    let others = load.count("/ledgers/frames/seen").saturating_sub(load.count("/offered_frames"));
    #[expect(clippy::cast_precision_loss, reason = "a run has far fewer than 2^53 frames")]
    let is_theirs = others as f64 <= counts[1];
    ensure!(
        is_theirs,
        "the node saw {others} frames more, and the other program offered {}: {}",
        counts[1],
        load.json()
    );
    Ok(json!({
        "fault": "fallback", "mode": copies, "offered": offered, "by_udp_alone": received, "subscriber_received": counts[0],
        "subscriber_offered": counts[1], "others_seen": others,
        "copy_reasons": load.reasons("copies"), "unaccounted": ledgers["unaccounted"],
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn phase(said: &[(&str, String)]) -> Phase {
        let said = said.iter().map(|(key, value)| ((*key).to_owned(), value.clone())).collect();
        Phase { name: "test".to_owned(), said, wall: Duration::from_secs(1) }
    }

    fn load(name: &str, offered: u64, received: u64, unaccounted: u64) -> (&'static str, String) {
        load_seen(name, offered, offered / 63, received, unaccounted)
    }

    fn load_seen(name: &str, offered: u64, seen: u64, received: u64, unaccounted: u64) -> (&'static str, String) {
        let report = json!({
            "offered_frames": offered / 63, "offered_messages": offered, "received_copies": received, "active_seconds": 2.0,
            "unaccounted": unaccounted, "subscribers": [{ "gap_frames": 0 }],
            "lost_before_us": { "send_errors": 12, "unknown": 9 },
            "ledgers": {
                "frames": { "seen": seen, "reasons": {} }, "messages": { "seen": offered, "reasons": {} },
                "copies": { "due": offered, "reasons": {} },
            },
        });
        ("load", format!("{name} {report}"))
    }

    #[test]
    fn a_row_is_what_arrived_beside_perftest_and_is_accounted_for() {
        let of = |received, unaccounted| {
            let perftest = ("perftest", "rc 64 ib_send_bw 64 2048 2.4 0.9 0.003150".to_owned());
            let frames = ("perftest", "rc 4096 ib_send_bw 4096 2048 2.4 0.9 0.001000".to_owned());
            let turn = [perftest, frames, load("rate", 63_000, received, unaccounted)];
            let spent = ("spent", "rc 100 1 2 3 4 5 6 7 8 1100 101 202 303 4 55 66 77 88".to_owned());
            row(&phase(&[turn.as_slice(), &turn, &[spent]].concat()), "rc")
        };
        let good = of(63_000, 0).unwrap();
        assert_eq!((&good["messages_per_second"], &good["ratio"]), (&json!(31_500.0), &json!(10.0)));
        assert_eq!((&good["governed"], &good["reached"]), (&json!(true), &json!(true)));
        assert_eq!((&good["two_hops_share"], &good["frame_us"]["packets"]), (&json!(1.0), &json!(3_000.0)));
        assert_eq!((&good["frame_us"]["node"], &good["frame_us"]["load_system"]), (&json!(500.0), &json!(800.0)));
        assert_eq!(of(31_500, 0).unwrap()["reached"], false, "what did not arrive is no rate");
        assert!(of(63_000, 1).is_err());
    }

    fn routes(name: &str, lanes: [&str; 2]) -> (&'static str, String) {
        ("routes", format!("{name} {}", json!({ "routes": [{ "lanes": lanes }] })))
    }

    #[test]
    fn a_lane_falls_back_and_returns_and_nobody_else_notices() {
        let told = |udp: &str, received, theirs: u64| {
            let ledgers = json!({ "unaccounted": 0, "copies": { "held": 0 } });
            let said = [
                routes("lane", ["udp", "rdma_ring"]),
                routes("udp", ["udp", udp]),
                routes("back", ["udp", "rdma_ring"]),
                load_seen("publisher", 63_000, 1_002, received, 2),
                ("status", format!("rest {}", json!({ "ledgers": ledgers }))),
                ("subscriber", format!("5000 {theirs}")),
            ];
            fallback(&phase(&said), "rdma_ring")
        };
        assert_eq!(told("udp (fell back)", 63_000, 2).unwrap()["others_seen"], 2);
        assert!(told("udp (fell back)", 63_000, 1).is_err(), "somebody sent what nobody offered");
        assert!(told("rdma_ring", 63_000, 2).is_err() && told("udp (fell back)", 62_999, 2).is_err());
    }

    #[test]
    fn what_ended_without_an_answer_may_be_there_or_not_and_all_else_is_exact() {
        let of = |seen| {
            let down = json!({ "ports": [{ "state": "link_down" }] });
            let said = [
                load_seen("link", 63_000, seen, 63_000, 0),
                ("status", format!("down {down}")),
                ("link", "rc 100 1".to_owned()),
                ("lanes", format!("up {}", json!({ "lanes": [{ "state": "connected" }] }))),
            ];
            link(&phase(&said), "rc").is_ok()
        };
        // Of 1,000 frames 988 ended well, 3 never left, and of 9 nobody knows.
        assert!(!of(987) && of(988) && of(997) && !of(998) && !of(1_000));
    }

    #[test]
    fn connections_lose_nothing_to_lost_packets_and_datagrams_must() {
        let of = |mode, received, unaccounted| {
            disturbed(&phase(&[load("loss", 63_000, received, unaccounted)]), "loss", mode).is_ok()
        };
        assert!(of("rc", 63_000, 0) && !of("rc", 62_937, 0) && !of("rc", 63_000, 1));
        assert!(of("ud", 62_937, 0) && !of("ud", 63_000, 0) && !of("ud", 62_937, 1));
    }

    #[test]
    fn a_way_that_nobody_finds_holds_up_only_who_asks_the_kernel() {
        let of = |longest: f64, alone: f64| {
            let ways = json!({ "longest_ms": longest, "alone_ms": alone });
            lost_way(&phase(&[("ways", ways.to_string())])).is_ok()
        };
        assert!(of(12.5, 1_004.0) && !of(1_002.0, 1_004.0) && !of(0.1, 3.0));
    }

    #[test]
    fn what_a_phase_calls_failed_is_a_finding() {
        let outcome = |said: &[(&str, String)]| Outcome {
            kernel: String::new(),
            code: 0,
            said: Vec::new(),
            phases: vec![phase(said)],
            boot: Duration::ZERO,
            wall: Duration::ZERO,
        };
        let findings = |said: &[(&str, String)]| {
            let mut found = Found::default();
            found.look(&outcome(said), "test", |_| Ok(json!({})));
            found.findings
        };
        assert_eq!(findings(&[]), Vec::<String>::new());
        assert!(findings(&[("failed", "no lane came back".to_owned())])[0].contains("no lane came back"));
    }
}
