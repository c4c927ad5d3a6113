//! The second job: `tachyond` between its load, on two cards that it owns through DPDK.
//!
//! It shows what software devices cannot: that the node starts on real PCI devices or says why not, that packets reach the
//! worker that owns their shard, that ports stop, lose their link and come back under load, and that what is no frame
//! is counted by cause; and each time that every frame, message and copy is accounted for. `dpdk/` has its other half,
//! in the guest.

use crate::{
    bed::Bed,
    guest::{Guest, Outcome, Phase},
    initramfs::Archive,
    load::{Load, exact, object, one},
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

const SCRIPT: &str = include_str!("../dpdk/job.sh");

/// Files of the guest's `/etc/tachyon`.
const FILES: [(&str, &str); 3] = [
    ("node", include_str!("../dpdk/node.toml")),
    ("control", include_str!("../dpdk/control.toml")),
    ("rules", include_str!("../dpdk/rules.toml")),
];

/// Our programs that run in the guest.
pub const PROGRAMS: [&str; 4] = ["tachyond", "tachyon-control", "tachyon", "tachyon-load"];

/// Packets of each kind that the script has `tachyon-lab-junk` send.
const JUNK: u64 = 100;

/// What the node calls them, and whether others of that kind may come by themselves.
const JUNK_CAUSES: [(&str, bool); 10] = [
    ("neighbour", true),
    ("fragment", false),
    ("vlan", false),
    ("not_udp", false),
    ("other_mac", false),
    ("length", false),
    ("ip_checksum", false),
    ("udp_checksum", false),
    ("other_port", false),
    ("not_ip", false),
];

/// It takes two minutes on a machine with two idle cores. Beyond this it hangs.
const LIMIT: Duration = Duration::from_secs(600);

/// Runs the job with the kernel `series` and checks what it said. Our [`PROGRAMS`] are in the folder `built`, the lab's own
/// in `lab_built`.
///
/// Returns `kernel`, `boot_s`, `wall_s` and `phases`: of each `name`, `seconds` and what was seen.
///
/// # Errors
///
/// Says what did not hold, or that the guest died; its console is in `dpdk.log` in `folder`.
pub fn run(folder: &Path, series: &str, built: &Path, lab_built: &Path) -> Result<Value> {
    let mut bed = Bed::make(folder, series)?;
    bed.modules(&["vfio_iommu_type1", "vfio_pci", "igb"])?;
    bed.dpdk_drivers(&["bus_pci", "bus_vdev", "mempool_ring", "net_e1000"])?;
    for program in PROGRAMS {
        bed.program(&format!("/usr/bin/{program}"), &built.join(program))?;
    }
    bed.program("/usr/bin/tachyon-lab-junk", &lab_built.join("tachyon-lab-junk"))?;
    let mut job = Archive::new();
    for (name, text) in FILES {
        job.file(&format!("/etc/tachyon/{name}.toml"), text.as_bytes().to_vec(), false);
    }
    job.file("/job", SCRIPT.as_bytes().to_vec(), false);
    // Four processors, because four workers are to be on cores of their own. The script reserves pages itself.
    let guest = Guest { name: "dpdk", cpus: 4, memory_mib: 1536, huge_pages: 0, wires: 2, ipv6: true };
    let outcome = guest.run(&bed, &job, LIMIT)?;
    judge(&outcome).with_context(|| bed.last_words("dpdk"))
}

/// Holds what was said against what must be.
fn judge(outcome: &Outcome) -> Result<Value> {
    let last = outcome.phases.last().map_or("before its first phase", |phase| phase.name.as_str());
    ensure!(outcome.code == 0, "the job failed with {} in phase {last}", outcome.code);
    let mut phases = Vec::new();
    for phase in &outcome.phases {
        let judged = judge_phase(phase).with_context(|| format!("phase {}", phase.name))?;
        phases.push(json!({ "name": phase.name, "seconds": phase.wall.as_secs_f64(), "seen": judged }));
    }
    let names: Vec<_> = outcome.phases.iter().map(|phase| phase.name.as_str()).collect();
    ensure!(names == PHASES, "the job's phases were {names:?}");
    Ok(json!({
        "kernel": outcome.kernel, "boot_s": outcome.boot.as_secs_f64(), "wall_s": outcome.wall.as_secs_f64(),
        "phases": phases,
    }))
}

const PHASES: [&str; 10] = ["boot", "pages", "two", "second", "stop", "links", "junk", "four", "ipv6", "gone"];

fn judge_phase(phase: &Phase) -> Result<Value> {
    match phase.name.as_str() {
        "boot" => Ok(json!({})),
        "pages" => Ok(json!({ "refused": refused(phase, "pages", "huge pages")? })),
        "two" => {
            let ping = one(phase, "ping")?;
            ensure!(ping == "5 packets received", "the kernel pinged east: {ping}");
            Ok(json!({ "ping": ping, "load": exact(phase, "two")?, "workers": spread(phase, "two", 2)? }))
        }
        "second" => Ok(json!({ "refused": refused(phase, "second", "0000:")?, "load": exact(phase, "second")? })),
        "stop" => Ok(json!({ "stopped": egress_lost(phase, "stopped")?, "started": exact(phase, "started")? })),
        "links" => {
            for side in ["west", "east"] {
                let port = port(phase, &format!("{side}-off"), side)?;
                ensure!(port["state"] == "link_down", "{side} without link is {}", port["state"]);
            }
            Ok(json!({
                "west_off": egress_lost(phase, "west-off")?, "west_on": exact(phase, "west-on")?,
                "east_off": ingress_lost(phase, "east-off")?, "east_on": exact(phase, "east-on")?,
            }))
        }
        "junk" => Ok(json!({ "load": exact(phase, "junk")?, "counted": junk(phase)? })),
        "four" => Ok(json!({ "load": exact(phase, "four")?, "workers": spread(phase, "four", 4)? })),
        "ipv6" => {
            let ping = one(phase, "ping")?;
            ensure!(ping == "5 packets received", "the kernel pinged east: {ping}");
            Ok(json!({ "ping": ping, "load": exact(phase, "ipv6")? }))
        }
        "gone" => {
            for (side, state) in [("east", "ready"), ("west", "failed")] {
                let port = port(phase, "gone", side)?;
                ensure!(port["state"] == state, "{side} is {} because west was taken out", port["state"]);
            }
            Ok(json!({ "load": egress_lost(phase, "gone")? }))
        }
        name => bail!("there is no phase {name}"),
    }
}

/// A node that must not start said one line with `why` in it, and failed.
fn refused(phase: &Phase, name: &str, why: &str) -> Result<Value> {
    let words: Vec<_> = one(phase, "refused")?.splitn(4, ' ').collect();
    let [said, code, lines, text] = words[..] else { bail!("a refusal was {words:?}") };
    ensure!(said == name && code == "1", "tachyond ended with {code}: {text}");
    ensure!(lines == "1" && text.contains(why), "tachyond gave up with {lines} lines, the last: {text}");
    Ok(json!({ "code": 1, "said": text }))
}

/// A load whose way out was closed for a while: all came in, and copies that were not given have their reason. What was given
/// before anyone knew is lost on the wire.
fn egress_lost(phase: &Phase, name: &str) -> Result<Value> {
    let load = Load::of(phase, name)?;
    let json = load.json();
    let due = load.count("/ledgers/copies/due");
    let given = load.count("/ledgers/copies/given");
    let refused = load.count("/ledgers/copies/reasons/E_TX_SUBMIT_FAIL");
    ensure!(load.count("/offered_frames") == load.count("/ledgers/frames/seen"), "load {name} came in part: {json}");
    ensure!(load.count("/unaccounted") == 0, "load {name} is not accounted for: {json}");
    ensure!(
        given.checked_add(refused) == Some(due),
        "copies of load {name} are not given or refused as unsent: {json}"
    );
    ensure!(refused > 0, "load {name} lost no copy, so its port was not closed: {json}");
    Ok(json)
}

/// A load whose way in was closed for a while: what was lost was lost before the node, which cannot know of it. It may be
/// nothing, because this wire keeps packets for a card without link, as long as there is room.
fn ingress_lost(phase: &Phase, name: &str) -> Result<Value> {
    let load = Load::of(phase, name)?;
    let json = load.json();
    let lost = load.count("/lost_before_us/frames");
    ensure!(lost == load.count("/unaccounted"), "load {name} did not only lose frames before us: {json}");
    ensure!(load.is_clean("copies") && load.is_clean("messages"), "what came of load {name} was refused: {json}");
    Ok(json)
}

/// Every worker got frames, and each those of its own shards.
fn spread(phase: &Phase, name: &str, workers: usize) -> Result<Value> {
    let status = object(phase, "status", name)?;
    let each = status["workers"].as_array().cloned().unwrap_or_default();
    let seen: Vec<u64> = each.iter().map(|worker| worker["ledgers"]["frames"]["seen"].as_u64().unwrap_or(0)).collect();
    let wrong = each.iter().map(|worker| &worker["ledgers"]["frames"]["reasons"]["E_INGRESS_WRONG_SHARD"]);
    let wrong: u64 = wrong.map(|count| count.as_u64().unwrap_or(0)).sum();
    ensure!(seen.len() == workers && !seen.contains(&0), "of {workers} workers not all got frames: {seen:?}");
    ensure!(wrong == 0, "{wrong} frames came to the wrong worker of {seen:?}");
    let heap: u64 = each.iter().map(|worker| worker["heap_calls"].as_u64().unwrap_or(u64::MAX)).sum();
    ensure!(heap == 0, "workers used the heap {heap} times");
    let steering = port(phase, name, "east")?["steering"].clone();
    ensure!(steering == "hash key", "packets find their worker by {steering}");
    // East has both families, which one key cannot keep apart.
    let told = status["degraded"].as_array().into_iter().flatten().filter_map(Value::as_str);
    ensure!(told.into_iter().any(|line| line.contains("over IPv6 only from")), "nobody was told what IPv6 lacks");
    Ok(json!({ "frames_by_worker": seen, "wrong_shard": wrong, "steering": steering }))
}

/// A port in the status called `name`.
fn port(phase: &Phase, name: &str, port: &str) -> Result<Value> {
    let status = object(phase, "status", name)?;
    let found = status["ports"].as_array().into_iter().flatten().find(|found| found["name"] == port);
    found.cloned().with_context(|| format!("status {name} has no port {port}"))
}

/// What east counted beside frames while junk was sent, by cause.
fn junk(phase: &Phase) -> Result<Value> {
    let (before, after) = (port(phase, "before", "east")?, port(phase, "after", "east")?);
    let count = |port: &Value, cause: &str| port["counters"][format!("not_frames_{cause}")].as_u64().unwrap_or(0);
    let counted: Vec<_> =
        JUNK_CAUSES.iter().map(|(cause, _)| (*cause, count(&after, cause) - count(&before, cause))).collect();
    let right =
        JUNK_CAUSES.iter().zip(&counted).all(|((_, more), (_, count))| *count == JUNK || (*more && *count > JUNK));
    ensure!(right, "{JUNK} packets of each kind were sent, and {counted:?} counted");
    Ok(counted
        .into_iter()
        .map(|(cause, count)| (cause.to_owned(), json!(count)))
        .collect::<serde_json::Map<_, _>>()
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(name: &str, report: &Value) -> (String, String) {
        ("load".to_owned(), format!("{name} {report}"))
    }

    /// A report of four frames, of which every copy was given unless `refused`, and received unless `lost`.
    fn report(refused: u64, lost: u64) -> Value {
        let reasons = if refused > 0 { json!({ "E_TX_SUBMIT_FAIL": refused }) } else { json!({}) };
        json!({
            "offered_frames": 4, "received_copies": 16 - refused - lost, "unaccounted": 0,
            "lost_before_us": { "frames": 0, "source": "none" }, "lost_after_us": { "copies": lost, "source": "frame_gaps" },
            "ledgers": {
                "frames": { "seen": 4, "reasons": {} }, "messages": { "reasons": {} },
                "copies": { "due": 16, "given": 16 - refused, "reasons": reasons },
            },
        })
    }

    fn phase(said: Vec<(String, String)>) -> Phase {
        Phase { name: "test".to_owned(), said, wall: Duration::ZERO }
    }

    /// The same report with one number changed.
    fn changed(mut report: Value, path: &str, count: u64) -> Value {
        *report.pointer_mut(path).unwrap() = json!(count);
        report
    }

    #[test]
    fn an_exact_load_has_no_loss_and_no_reason() {
        let judge = |report: &Value| exact(&phase(vec![load("a", report)]), "a");
        judge(&report(0, 0)).unwrap();
        let mut overflown = report(0, 4);
        overflown["lost_after_us"]["source"] = json!("subscriber_overflow");
        judge(&overflown).unwrap();
        assert!(judge(&report(4, 0)).is_err() && judge(&report(0, 4)).is_err());
        for (path, count) in [("/offered_frames", 5), ("/unaccounted", 1), ("/ledgers/frames/seen", 3)] {
            assert!(judge(&changed(report(0, 0), path, count)).is_err(), "{path}");
        }
        let mut wrong = report(0, 0);
        wrong["ledgers"]["frames"]["reasons"] = json!({ "E_INGRESS_WRONG_SHARD": 1 });
        assert!(judge(&wrong).is_err());
    }

    #[test]
    fn a_closed_way_out_shows_as_refused_copies_and_nothing_else() {
        let judge = |report: &Value| egress_lost(&phase(vec![load("a", report)]), "a");
        judge(&report(8, 0)).unwrap();
        judge(&report(8, 4)).unwrap();
        assert!(judge(&report(0, 4)).is_err(), "nothing was refused");
        for (path, count) in [("/unaccounted", 1), ("/ledgers/copies/given", 9), ("/ledgers/frames/seen", 3)] {
            assert!(judge(&changed(report(8, 0), path, count)).is_err(), "{path}");
        }
    }

    #[test]
    fn a_closed_way_in_loses_frames_before_us_only() {
        let judge = |lost, unaccounted| {
            let report = changed(changed(report(0, 0), "/lost_before_us/frames", lost), "/unaccounted", unaccounted);
            ingress_lost(&phase(vec![load("a", &report)]), "a")
        };
        judge(2, 2).unwrap();
        judge(0, 0).unwrap();
        assert!(judge(2, 3).is_err() && judge(2, 0).is_err());
    }

    #[test]
    fn workers_must_all_have_work_and_none_of_anothers() {
        let judge = |seen: [u64; 2], wrong: u64, steering: &str| {
            let worker = |seen: u64, wrong: u64| {
                let reasons = json!({ "E_INGRESS_WRONG_SHARD": wrong });
                json!({ "ledgers": { "frames": { "seen": seen, "reasons": reasons } }, "heap_calls": 0 })
            };
            let ports = json!([{ "name": "east", "steering": steering }]);
            let workers = [worker(seen[0], 0), worker(seen[1], wrong)];
            let status = json!({ "workers": workers, "ports": ports, "degraded": ["over IPv6 only from some"] });
            spread(&phase(vec![("status".to_owned(), format!("a {status}"))]), "a", 2)
        };
        judge([5, 6], 0, "hash key").unwrap();
        assert!(judge([11, 0], 0, "hash key").is_err());
        assert!(judge([5, 6], 1, "hash key").is_err());
        assert!(judge([5, 6], 0, "none: no hash").is_err());
    }

    #[test]
    fn junk_is_counted_once_each() {
        let judge = |neighbours: u64, fragments: u64| {
            let status = |name: &str, count: u64, neighbours: u64, fragments: u64| {
                let causes = JUNK_CAUSES.iter().map(|(cause, _)| (format!("not_frames_{cause}"), json!(count)));
                let mut counters: serde_json::Map<_, _> = causes.collect();
                counters.insert("not_frames_neighbour".to_owned(), json!(neighbours));
                counters.insert("not_frames_fragment".to_owned(), json!(fragments));
                let ports = json!({ "ports": [{ "name": "east", "counters": counters }] });
                ("status".to_owned(), format!("{name} {ports}"))
            };
            junk(&phase(vec![status("before", 7, 3, 0), status("after", JUNK + 7, neighbours + 3, fragments)]))
        };
        judge(JUNK, JUNK).unwrap();
        judge(JUNK + 2, JUNK).unwrap();
        assert!(judge(JUNK, JUNK - 1).is_err() && judge(JUNK, JUNK + 1).is_err() && judge(JUNK - 1, JUNK).is_err());
    }

    #[test]
    fn a_refusal_is_one_line_with_its_cause() {
        let judge = |text: &str| refused(&phase(vec![("refused".to_owned(), text.to_owned())]), "a", "huge pages");
        judge("a 1 1 tachyond: error: 64 MiB of huge pages are missing").unwrap();
        for bad in ["a 0 1 huge pages", "a 139 1 huge pages", "a 1 2 huge pages", "a 1 1 something", "b 1 1 huge pages"]
        {
            assert!(judge(bad).is_err(), "{bad}");
        }
    }
}
