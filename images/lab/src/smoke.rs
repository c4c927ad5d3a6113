//! The first job: two cards between two network namespaces, forwarding.
//!
//! It shows that the lab is sound: cards are DPDK's through vfio, every queue takes its share, RSS obeys key and table,
//! links go and come, and no datagram is lost. `smoke.sh` is its other half, in the guest.

use crate::{
    bed::Bed,
    guest::{Guest, Outcome},
    initramfs::Archive,
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use std::{path::Path, time::Duration};

const SCRIPT: &str = include_str!("../smoke.sh");

/// Packets that the script sends: once to all ports, to each group of ports, and once more in the end.
const SPREAD: u64 = 4000;
const STEERED: u64 = 64;
const AGAIN: u64 = 400;

/// Queues of each card.
const QUEUES: usize = 4;

/// It takes 15 seconds on a machine with two idle cores. Beyond this it hangs.
const LIMIT: Duration = Duration::from_secs(240);

/// Runs the job with the kernel `series` and checks what it said. `udp` is the built `tachyon-lab-udp`.
///
/// Returns `kernel`, `boot_s`, `wall_s`, `spread` and `steered` (packets per queue), and `links` (what each card saw).
///
/// # Errors
///
/// Says what did not hold, or that the guest died; its console is in `smoke.log` in `folder`.
pub fn run(folder: &Path, series: &str, udp: &Path) -> Result<Value> {
    let mut bed = Bed::make(folder, series)?;
    bed.modules(&["vfio_iommu_type1", "vfio_pci", "igb"])?;
    bed.packaged("/usr/bin/dpdk-testpmd")?;
    bed.dpdk_drivers(&["bus_pci", "mempool_ring", "net_e1000"])?;
    bed.packaged("/usr/libexec/coreutils/libstdbuf.so")?;
    bed.program("/usr/bin/tachyon-lab-udp", udp)?;
    let mut job = Archive::new();
    job.file("/job", SCRIPT.as_bytes().to_vec(), false);
    // One processor polls and one does all the rest. 64 huge pages are 128 MiB: two cards' buffers and rings, and some.
    let guest = Guest { name: "smoke", cpus: 2, memory_mib: 640, huge_pages: 64, wires: 2, ipv6: false };
    let outcome = guest.run(&bed, &job, LIMIT)?;
    judge(&outcome).with_context(|| bed.last_words("smoke"))
}

/// Holds what was said against what must be.
fn judge(outcome: &Outcome) -> Result<Value> {
    ensure!(outcome.code == 0, "the job failed with {}", outcome.code);
    let all = |key: &str| -> Vec<Vec<&str>> {
        let said = outcome.said.iter().filter(|(said, _)| said == key);
        said.map(|(_, value)| value.split_whitespace().collect()).collect()
    };
    let one = |key: &str| all(key).into_iter().next().with_context(|| format!("the job never said {key}"));

    let spread = arrived(&one("spread")?, SPREAD)?;
    ensure!(!spread.contains(&0), "not every queue was used: {spread:?}");
    arrived(&one("again")?, AGAIN).context("after the links were off and on")?;

    let mut steered = Vec::new();
    for (queue, words) in all("steered").iter().enumerate() {
        let (port, rest) = words.split_first().context("a port was steered")?;
        let counts = arrived(rest, STEERED)?;
        let right = counts.get(queue) == Some(&STEERED);
        ensure!(right, "ports from {port} belong to queue {queue}, but their packets went {counts:?}");
        steered.push(json!({ "first_port": port.parse::<u16>()?, "ports": 4, "packets_by_queue": counts }));
    }
    ensure!(steered.len() == QUEUES, "the job steered {} groups of ports", steered.len());

    let links = all("links");
    // Card, state, then what nic0 to nic3 saw: only the card whose plug was pulled noticed.
    let expected = [
        ["nic1", "off", "1", "0", "1", "1"],
        ["nic1", "on", "1", "1", "1", "1"],
        ["nic0", "off", "0", "1", "1", "1"],
        ["nic0", "on", "1", "1", "1", "1"],
    ];
    ensure!(links == expected, "the links were {links:?}, and should have been {expected:?}");
    let events: u32 = one("events")?.concat().parse()?;
    ensure!(events >= 2, "nic1's link went and came, and testpmd was interrupted {events} times");
    Ok(json!({
        "kernel": outcome.kernel, "boot_s": outcome.boot.as_secs_f64(), "wall_s": outcome.wall.as_secs_f64(),
        "spread": spread, "steered": steered, "links": links,
    }))
}

/// Packets by queue, out of words like `4000 0:1190 1:1125`: how many came, and how many of them each queue took.
fn arrived(words: &[&str], sent: u64) -> Result<Vec<u64>> {
    let (received, queues) = words.split_first().context("nothing was said of packets")?;
    let mut counts = vec![0; QUEUES];
    for word in queues {
        let (queue, packets) = word.split_once(':').with_context(|| format!("{word} is no queue's count"))?;
        let Some(count) = counts.get_mut(queue.parse::<usize>()?) else { bail!("there is no queue {queue}") };
        *count += packets.parse::<u64>()?;
    }
    let taken: u64 = counts.iter().sum();
    ensure!(taken == sent && received.parse() == Ok(sent), "of {sent} packets nic1 took {taken}, {received} came");
    Ok(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(said: &str) -> Outcome {
        let said = said.lines().filter_map(|line| line.trim().split_once(' '));
        let said = said.map(|(key, value)| (key.to_owned(), value.to_owned())).collect();
        Outcome { kernel: String::new(), code: 0, said, phases: Vec::new(), boot: Duration::ZERO, wall: Duration::ZERO }
    }

    const GOOD: &str = "spread 4000 0:1000 1:1000 2:1000 3:1000
        steered 24640 64 0:64
        steered 24644 64 1:64
        steered 24648 64 2:64
        steered 24652 64 3:64
        links nic1 off 1 0 1 1
        links nic1 on 1 1 1 1
        links nic0 off 0 1 1 1
        links nic0 on 1 1 1 1
        events 2
        again 400 0:400";

    #[test]
    fn what_must_hold_is_held_against_what_was_said() {
        judge(&outcome(GOOD)).unwrap();
        for (good, bad) in [
            ("spread 4000", "spread 3999"),
            ("1:1000 2:1000", "1:2000"),
            ("24644 64 1:64", "24644 64 1:63 2:1"),
            ("links nic1 off 1 0", "links nic1 off 0 0"),
            ("steered 24652 64 3:64", "other"),
            ("events 2", "events 0"),
            ("again 400 0:400", "again 0"),
        ] {
            let said = GOOD.replace(good, bad);
            assert_ne!(said, GOOD);
            assert!(judge(&outcome(&said)).is_err(), "{bad} passes");
        }
    }
}
