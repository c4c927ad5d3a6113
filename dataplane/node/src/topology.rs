//! All workers, cores, queues and shards, declared in one place.
//!
//! [`Machine`] is what there is, [`Plan`] what is made of it: worker `w` of `n` owns the shards `s` with `s mod n = w`, one
//! queue with a socket for each of them, one core if there is one to itself, and buffers from the arena of its core's NUMA
//! node. Everything else asks this plan.

use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::{collections::BTreeMap, fs, io};
use tachyon_config::NodeFile;

/// One logical processor.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cpu {
    /// The kernel's number of it.
    pub(crate) number: u16,
    /// Package and core; those with the same pair share a physical core.
    pub(crate) core: (u32, u32),
    /// Its NUMA node.
    pub(crate) numa_node: u32,
    /// The kernel schedules nothing on it by itself (`isolcpus`).
    pub(crate) isolated: bool,
}

/// The processors that this process may use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) cpus: Vec<Cpu>,
    /// What could not be found out, and what that costs.
    pub(crate) degraded: Vec<String>,
}

/// One worker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WorkerPlan {
    /// Its number, from 0.
    pub(crate) worker: u16,
    /// Where it is pinned; `None`: nowhere.
    pub(crate) cpu: Option<u16>,
    /// Whose memory it uses.
    pub(crate) numa_node: Option<u32>,
    /// The shards it owns. Never empty.
    pub(crate) shards: Vec<u16>,
}

/// All workers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) workers: Vec<WorkerPlan>,
    pub(crate) degraded: Vec<String>,
}

impl Plan {
    /// Lays the node file's workers over the machine.
    ///
    /// # Errors
    /// The node file names a core that this process may not use.
    pub(crate) fn new(file: &NodeFile, machine: &Machine) -> anyhow::Result<Self> {
        let count = file.workers.count;
        let mut degraded = machine.degraded.clone();
        let cpus: Vec<Option<&Cpu>> = if file.workers.cores.is_empty() {
            let mut chosen: Vec<_> = machine.by_preference().into_iter().take(count.into()).map(Some).collect();
            chosen.resize(count.into(), None);
            chosen
        } else {
            let find = |number: &u16| {
                let found = machine.cpus.iter().find(|cpu| cpu.number == *number);
                let usable = || machine.cpus.iter().map(|cpu| cpu.number.to_string()).collect::<Vec<_>>().join(", ");
                found
                    .map(Some)
                    .ok_or_else(|| anyhow::anyhow!("workers.cores names core {number}; usable are {}", usable()))
            };
            file.workers.cores.iter().map(find).collect::<Result<_, _>>()?
        };
        let unpinned = cpus.iter().filter(|cpu| cpu.is_none()).count();
        if unpinned > 0 {
            degraded.push(format!(
                "{unpinned} of {count} workers share cores: the process may use {}; lower workers.count or give it more",
                machine.cpus.len()
            ));
        }
        if let Some(shared) = shared_core(&cpus) {
            degraded.push(format!("two workers share physical core {shared}; choose others in workers.cores"));
        }
        let workers = (0..count).zip(&cpus).map(|(worker, cpu)| WorkerPlan {
            worker,
            cpu: cpu.map(|cpu| cpu.number),
            numa_node: cpu.map(|cpu| cpu.numa_node),
            shards: (0..file.network.shard_count).filter(|shard| owner(*shard, count) == worker).collect(),
        });
        Ok(Self { workers: workers.collect(), degraded })
    }
}

/// The worker, of so many, that owns a shard.
pub(crate) const fn owner(shard: u16, workers: u16) -> u16 {
    shard % workers
}

/// A physical core that two workers are on.
fn shared_core(cpus: &[Option<&Cpu>]) -> Option<u32> {
    let mut seen = BTreeMap::new();
    cpus.iter().flatten().find(|cpu| seen.insert(cpu.core, ()).is_some()).map(|cpu| cpu.core.1)
}

impl Machine {
    /// Processors in the order in which workers take them: isolated ones first, then one of each physical core before its
    /// siblings; the core of processor 0 last, because the kernel's own work tends to be there.
    fn by_preference(&self) -> Vec<&Cpu> {
        let first_core = self.cpus.iter().find(|cpu| cpu.number == 0).map(|cpu| cpu.core);
        let sibling = |cpu: &Cpu| self.cpus.iter().any(|other| other.core == cpu.core && other.number < cpu.number);
        let mut sorted: Vec<&Cpu> = self.cpus.iter().collect();
        sorted.sort_by_key(|cpu| (!cpu.isolated, sibling(cpu), Some(cpu.core) == first_core, cpu.number));
        sorted
    }

    /// Looks at the machine.
    pub(crate) fn discover() -> Self {
        #[cfg(feature = "hwloc")]
        match crate::hwloc::discover() {
            Ok(machine) => machine.usable(),
            Err(error) => {
                let mut machine = Self::from_sysfs().usable();
                machine.degraded.push(format!("topology comes from sysfs: hwloc failed ({error})"));
                machine
            }
        }
        #[cfg(not(feature = "hwloc"))]
        {
            let mut machine = Self::from_sysfs().usable();
            machine.degraded.push("topology comes from sysfs: built without hwloc; build with --features hwloc".into());
            machine
        }
    }

    /// Drops what this process may not run on.
    fn usable(mut self) -> Self {
        match sched_getaffinity(None) {
            Ok(set) => self.cpus.retain(|cpu| set.is_set(cpu.number.into())),
            Err(error) => self.degraded.push(format!("cannot tell which cores are allowed: {error}")),
        }
        self
    }

    fn from_sysfs() -> Self {
        let mut machine = Self::default();
        let nodes = numa_nodes();
        let isolated = read_list("/sys/devices/system/cpu/isolated").unwrap_or_default();
        let online = read_list("/sys/devices/system/cpu/online").unwrap_or_else(|error| {
            machine.degraded.push(format!("no worker is pinned: cannot read the list of processors ({error})"));
            Vec::new()
        });
        for number in online {
            let topology = format!("/sys/devices/system/cpu/cpu{number}/topology");
            let id = |name: &str| {
                let text = fs::read_to_string(format!("{topology}/{name}")).unwrap_or_default();
                text.trim().parse::<u32>().ok()
            };
            // Without these every processor counts as a core of its own.
            let core = (id("physical_package_id").unwrap_or(0), id("core_id").unwrap_or(number.into()));
            let numa_node = nodes.iter().find(|(_, cpus)| cpus.contains(&number)).map_or(0, |(node, _)| *node);
            machine.cpus.push(Cpu { number, core, numa_node, isolated: isolated.contains(&number) });
        }
        machine
    }
}

/// The processors of each NUMA node; empty on machines without.
fn numa_nodes() -> Vec<(u32, Vec<u16>)> {
    let folder = "/sys/devices/system/node";
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let numbers = names.filter_map(|name| name.strip_prefix("node")?.parse::<u32>().ok());
    numbers.filter_map(|node| Some((node, read_list(&format!("{folder}/node{node}/cpulist")).ok()?))).collect()
}

/// Reads a list such as `0-3,8`.
fn read_list(path: &str) -> io::Result<Vec<u16>> {
    parse_list(fs::read_to_string(path)?.trim()).ok_or_else(|| io::Error::other(format!("{path} is no list")))
}

pub(crate) fn parse_list(text: &str) -> Option<Vec<u16>> {
    let mut list = Vec::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        list.extend(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?);
    }
    Some(list)
}

/// Pins the calling thread.
pub(crate) fn pin(cpu: u16) -> io::Result<()> {
    let mut set = CpuSet::new();
    set.set(cpu.into());
    Ok(sched_setaffinity(None, &set)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(count: u16, cores: &[u16]) -> NodeFile {
        let mut file = NodeFile::default();
        (file.workers.count, file.workers.cores) = (count, cores.to_vec());
        file
    }

    /// Two packages (NUMA nodes) of two cores of two threads each: 0-3 first threads, 4-7 their siblings.
    fn machine() -> Machine {
        let cpu = |number: u16| {
            let core = u32::from(number % 4);
            Cpu { number, core: (core / 2, core), numa_node: core / 2, isolated: false }
        };
        Machine { cpus: (0..8).map(cpu).collect(), degraded: Vec::new() }
    }

    fn cpus(plan: &Plan) -> Vec<Option<u16>> {
        plan.workers.iter().map(|worker| worker.cpu).collect()
    }

    #[test]
    fn workers_take_whole_cores_first_and_the_core_of_processor_0_last() {
        let plan = Plan::new(&file(8, &[]), &machine()).unwrap();
        assert_eq!(cpus(&plan), [1, 2, 3, 0, 5, 6, 7, 4].map(Some));
        assert_eq!(cpus(&Plan::new(&file(2, &[]), &machine()).unwrap()), [Some(1), Some(2)]);
    }

    #[test]
    fn isolated_processors_come_first() {
        let mut machine = machine();
        machine.cpus[6].isolated = true;
        assert_eq!(cpus(&Plan::new(&file(2, &[]), &machine).unwrap()), [Some(6), Some(1)]);
    }

    #[test]
    fn every_shard_has_exactly_one_owner_and_every_worker_at_least_one_shard() {
        for count in 1..=16 {
            let plan = Plan::new(&file(count, &[]), &machine()).unwrap();
            let mut shards: Vec<u16> = plan.workers.iter().flat_map(|worker| worker.shards.clone()).collect();
            assert!(plan.workers.iter().all(|worker| !worker.shards.is_empty()));
            shards.sort_unstable();
            assert_eq!(shards, (0..16).collect::<Vec<_>>());
        }
    }

    #[test]
    fn named_cores_are_taken_as_they_are() {
        let plan = Plan::new(&file(2, &[7, 2]), &machine()).unwrap();
        assert_eq!(cpus(&plan), [Some(7), Some(2)]);
        assert_eq!(plan.workers[0].numa_node, Some(1));
        assert!(plan.degraded.is_empty());
        let error = Plan::new(&file(1, &[8]), &machine()).unwrap_err().to_string();
        assert!(error.contains("core 8; usable are 0, 1"), "{error}");
    }

    #[test]
    fn says_so_when_workers_must_share() {
        let plan = Plan::new(&file(9, &[]), &machine()).unwrap();
        assert_eq!(plan.workers[8].cpu, None);
        assert!(plan.degraded[0].contains("1 of 9 workers"), "{:?}", plan.degraded);
        let plan = Plan::new(&file(2, &[1, 5]), &machine()).unwrap();
        assert!(plan.degraded[0].contains("share physical core 1"), "{:?}", plan.degraded);
    }

    #[test]
    fn reads_the_kernels_lists() {
        assert_eq!(parse_list("0-3,8,10-11"), Some(vec![0, 1, 2, 3, 8, 10, 11]));
        assert_eq!(parse_list(""), Some(Vec::new()));
        assert_eq!(parse_list("a-b"), None);
    }

    #[test]
    fn finds_the_processor_it_runs_on_and_can_pin_to_it() {
        let machine = Machine::discover();
        let cpu = machine.cpus.last().unwrap().number;
        pin(cpu).unwrap();
        let set = sched_getaffinity(None).unwrap();
        assert!(set.is_set(cpu.into()) && set.count() == 1);
    }
}
