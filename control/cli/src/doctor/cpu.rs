//! Cores: which there are, whether they are left alone, and how steadily they run.

use super::{
    finding::{Finding, State, boot_with},
    host::{Host, list, numbers},
    need::Need,
};
use crate::table::plural;
use std::collections::BTreeMap;

/// The machine's processors, by the kernel's numbers.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Cpus {
    pub(crate) online: Vec<u16>,
    /// Those of them that this process may run on.
    pub(crate) usable: Vec<u16>,
    /// The kernel schedules nothing on these by itself.
    pub(crate) isolated: Vec<u16>,
    /// No tick while one thread runs; `None` where the kernel was built without.
    pub(crate) tickless: Option<Vec<u16>>,
    /// The other threads of a processor's core.
    pub(crate) siblings: BTreeMap<u16, Vec<u16>>,
    /// Who sets its frequency; absent where nobody does, as in most virtual machines.
    pub(crate) governors: BTreeMap<u16, String>,
    pub(crate) numa_nodes: BTreeMap<u16, u32>,
    /// `GenuineIntel`, `AuthenticAMD` or another; empty where the kernel does not say.
    pub(crate) vendor: String,
    /// A virtual machine.
    pub(crate) is_guest: bool,
}

impl Cpus {
    pub(crate) fn read(host: &Host) -> Self {
        let folder = "/sys/devices/system/cpu";
        let online = host.numbers(&format!("{folder}/online")).unwrap_or_default();
        let status = host.text("/proc/self/status").unwrap_or_default();
        let allowed = status.lines().find_map(|line| numbers(line.strip_prefix("Cpus_allowed_list:")?));
        let may = |cpu: &u16| allowed.as_ref().is_none_or(|allowed| allowed.contains(cpu));
        let info = host.text("/proc/cpuinfo").unwrap_or_default();
        let value = |key: &str| {
            let line = info.lines().find(|line| line.split(':').next().is_some_and(|name| name.trim() == key));
            line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
        };
        let siblings = |cpu: &u16| {
            let listed = host.numbers(&format!("{folder}/cpu{cpu}/topology/thread_siblings_list")).unwrap_or_default();
            listed.into_iter().filter(|other| other != cpu).collect::<Vec<_>>()
        };
        let governor = |cpu: &u16| host.text(&format!("{folder}/cpu{cpu}/cpufreq/scaling_governor"));
        let nodes = host.names("/sys/devices/system/node");
        let nodes = nodes.iter().filter_map(|name| name.strip_prefix("node")?.parse::<u32>().ok());
        let cores_of = |node| host.numbers(&format!("/sys/devices/system/node/node{node}/cpulist")).unwrap_or_default();
        Self {
            isolated: host.numbers(&format!("{folder}/isolated")).unwrap_or_default(),
            // The kernel writes "(null)" where the option is built in and not used.
            tickless: host.text(&format!("{folder}/nohz_full")).map(|text| numbers(&text).unwrap_or_default()),
            siblings: online.iter().map(|cpu| (*cpu, siblings(cpu))).collect(),
            governors: online.iter().filter_map(|cpu| Some((*cpu, governor(cpu)?))).collect(),
            numa_nodes: nodes.flat_map(|node| cores_of(node).into_iter().map(move |core| (core, node))).collect(),
            vendor: value("vendor_id"),
            is_guest: value("flags").split(' ').any(|flag| flag == "hypervisor"),
            usable: online.iter().copied().filter(may).collect(),
            online,
        }
    }

    /// The processors that workers will be on: those named, or all, of which `tachyond` chooses.
    fn candidates(&self, need: &Need) -> Vec<u16> {
        if need.cores.is_empty() { self.usable.clone() } else { need.cores.clone() }
    }
}

pub(crate) fn findings(cpus: &Cpus, need: &Need) -> Vec<Finding> {
    vec![cores(cpus, need), isolation(cpus, need), ticks(cpus, need), governor(cpus, need), threads(cpus, need)]
}

/// Whether the cores exist.
fn cores(cpus: &Cpus, need: &Need) -> Finding {
    const CHECK: &str = "cores";
    let missing: Vec<u16> = need.cores.iter().copied().filter(|core| !cpus.usable.contains(core)).collect();
    if !missing.is_empty() {
        let found = format!("workers.cores names {}; usable are {}", list(&missing), list(&cpus.usable));
        let help = "tachyond does not start: these are off, not there, or not allowed to this process (cpuset, taskset); name \
                    others in workers.cores";
        return Finding::new(CHECK, State::Fails, found).help(help);
    }
    let found = format!("{} usable for {}", cpus.usable.len(), workers(need));
    if usize::from(need.workers) > cpus.usable.len() {
        return Finding::new(CHECK, State::Degraded, found).help("workers would share cores; lower workers.count");
    }
    if usize::from(need.workers) == cpus.usable.len() && need.spins {
        let help = "spinning workers would leave no core to the kernel and to tachyon-control; lower workers.count, or set \
                    workers.idle = \"wait\"";
        return Finding::new(CHECK, State::Degraded, found).help(help);
    }
    Finding::fine(CHECK, found)
}

fn workers(need: &Need) -> String {
    plural(need.workers.into(), "worker", "workers")
}

/// Whether other threads may be put on the workers' cores.
fn isolation(cpus: &Cpus, need: &Need) -> Finding {
    const CHECK: &str = "isolated_cores";
    let shared: Vec<u16> = need.cores.iter().copied().filter(|core| !cpus.isolated.contains(core)).collect();
    if need.cores.is_empty() && cpus.isolated.len() >= usize::from(need.workers) {
        return Finding::fine(CHECK, format!("{} are isolated, and taken first", list(&cpus.isolated)));
    }
    if !need.cores.is_empty() && shared.is_empty() {
        return Finding::fine(CHECK, format!("{} are isolated", list(&need.cores)));
    }
    let help = "the kernel may put other threads on a worker's core, which then waits for milliseconds";
    if need.cores.is_empty() {
        let found = format!("{} isolated for {}", plural(cpus.isolated.len() as u64, "core", "cores"), workers(need));
        let help =
            format!("{help}; name the workers' cores in workers.cores and run this again for the kernel's words");
        return Finding::new(CHECK, State::Degraded, found).help(help);
    }
    let cores = list(&need.cores);
    let found = format!("{} of workers.cores are not isolated", list(&shared));
    let words = format!("isolcpus=managed_irq,domain,{cores} nohz_full={cores} rcu_nocbs={cores}");
    boot_with(Finding::new(CHECK, State::Degraded, found).help(help), &words)
}

/// Whether the kernel's tick interrupts the workers.
fn ticks(cpus: &Cpus, need: &Need) -> Finding {
    const CHECK: &str = "nohz_full";
    // A worker that waits is interrupted anyway; one that spins is not, unless by the tick.
    let state = if need.spins { State::Degraded } else { State::Note };
    let Some(tickless) = &cpus.tickless else {
        return Finding::new(CHECK, state, "this kernel was built without NO_HZ_FULL").help(
            "the tick interrupts each worker 100 to 1000 times a second; a kernel with CONFIG_NO_HZ_FULL does not",
        );
    };
    let ticking: Vec<u16> = need.cores.iter().copied().filter(|core| !tickless.contains(core)).collect();
    if need.cores.is_empty() {
        let found = format!("without a tick: {}", if tickless.is_empty() { "none".into() } else { list(tickless) });
        return Finding::new(CHECK, if tickless.is_empty() { State::Note } else { State::Fine }, found);
    }
    if ticking.is_empty() {
        return Finding::fine(CHECK, format!("no tick on {}", list(&need.cores)));
    }
    let finding = Finding::new(CHECK, state, format!("{} of workers.cores have a tick", list(&ticking)))
        .help("the tick interrupts a worker 100 to 1000 times a second");
    let cores = list(&need.cores);
    // The same words and so the same file as for isolation: they go together.
    boot_with(finding, &format!("isolcpus=managed_irq,domain,{cores} nohz_full={cores} rcu_nocbs={cores}"))
}

/// Whether the cores' frequency follows the load, which a polling worker confuses.
fn governor(cpus: &Cpus, need: &Need) -> Finding {
    const CHECK: &str = "governor";
    let slow: Vec<(u16, &str)> = cpus
        .candidates(need)
        .into_iter()
        .filter_map(|core| Some((core, cpus.governors.get(&core)?.as_str())))
        .filter(|(_, governor)| *governor != "performance")
        .collect();
    if cpus.governors.is_empty() {
        return Finding::fine(CHECK, "nobody sets frequencies here");
    }
    let Some((_, first)) = slow.first() else { return Finding::fine(CHECK, "performance") };
    let names = list(&slow.iter().map(|(core, _)| *core).collect::<Vec<_>>());
    let loop_over = names.replace(',', " ");
    Finding::new(CHECK, State::Degraded, format!("{first} on {names}"))
        .help("frequency rises only after load has come, so the first messages of a burst are late")
        .command(format!(
            "for c in {loop_over}; do echo performance > /sys/devices/system/cpu/cpu$c/cpufreq/scaling_governor; done"
        ))
}

/// Whether another thread runs on a worker's physical core.
fn threads(cpus: &Cpus, need: &Need) -> Finding {
    const CHECK: &str = "smt";
    let mut busy = Vec::new();
    for core in &need.cores {
        for sibling in cpus.siblings.get(core).into_iter().flatten() {
            if need.cores.contains(sibling) && sibling > core {
                let found = format!("workers.cores names {core} and {sibling}, two threads of one core");
                return Finding::new(CHECK, State::Degraded, found)
                    .help("each gets about half of it; name another core");
            }
            if cpus.online.contains(sibling) && !need.cores.contains(sibling) {
                busy.push(*sibling);
            }
        }
    }
    if busy.is_empty() {
        let smt = cpus.siblings.values().any(|others| !others.is_empty());
        let found = match (smt, need.cores.is_empty()) {
            (false, _) => "each core has one thread",
            (true, true) => "cores have several threads; workers get whole cores first",
            (true, false) => "no other thread is on the workers' cores",
        };
        return Finding::fine(CHECK, found);
    }
    busy.sort_unstable();
    let mut finding = Finding::new(CHECK, State::Degraded, format!("{} are siblings of workers' cores", list(&busy)))
        .help("what runs on them takes up to half of a worker's core; switch them off");
    for sibling in busy {
        finding = finding.command(format!("echo 0 > /sys/devices/system/cpu/cpu{sibling}/online"));
    }
    finding
}
