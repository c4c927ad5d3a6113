//! Memory: huge pages per NUMA node, transparent ones, and whether there is enough of it at all.

use super::{
    finding::{Finding, State, boot_with},
    host::{Host, bytes},
    need::Need,
};
use std::collections::BTreeMap;
use tachyon_config::Pages;

/// One size of huge pages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Size {
    pub(crate) name: &'static str,
    pub(crate) page_bytes: u64,
    folder: &'static str,
}

pub(crate) const HUGE_2M: Size = Size { name: "2 MiB", page_bytes: 2 << 20, folder: "hugepages-2048kB" };
pub(crate) const HUGE_1G: Size = Size { name: "1 GiB", page_bytes: 1 << 30, folder: "hugepages-1048576kB" };

/// Huge pages of one size on one NUMA node.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Count {
    pub(crate) total: u64,
    pub(crate) free: u64,
}

/// The machine's memory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Memory {
    /// By NUMA node; one node, 0, where the kernel shows none.
    pub(crate) huge_2m: BTreeMap<u32, Count>,
    pub(crate) huge_1g: BTreeMap<u32, Count>,
    /// Bytes that programs can still get, huge pages not counted.
    pub(crate) available: Option<u64>,
    /// How pages of a memfd are merged, and those of private memory.
    pub(crate) merge_shared: Option<String>,
    pub(crate) merge_private: Option<String>,
    /// Where hugetlbfs is mounted.
    pub(crate) hugetlbfs: Option<String>,
    /// A running `tachyond` holds pages that it would have for itself after a restart.
    pub(crate) node_runs: bool,
}

impl Memory {
    pub(crate) fn read(host: &Host) -> Self {
        let merging = "/sys/kernel/mm/transparent_hugepage";
        let mounts = host.text("/proc/mounts").unwrap_or_default();
        let mut mounts = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
        Self {
            huge_2m: counts(host, HUGE_2M),
            huge_1g: counts(host, HUGE_1G),
            available: available(host),
            merge_shared: host.chosen(&format!("{merging}/shmem_enabled")),
            merge_private: host.chosen(&format!("{merging}/enabled")),
            hugetlbfs: mounts.find(|mount| mount.get(2) == Some(&"hugetlbfs")).map(|mount| mount[1].to_owned()),
            node_runs: host.runs("tachyond"),
        }
    }

    fn huge(&self, size: Size) -> &BTreeMap<u32, Count> {
        if size == HUGE_1G { &self.huge_1g } else { &self.huge_2m }
    }
}

fn counts(host: &Host, size: Size) -> BTreeMap<u32, Count> {
    let read = |folder: &str| {
        let total = host.number(&format!("{folder}/{}/nr_hugepages", size.folder))?;
        let free = host.number(&format!("{folder}/{}/free_hugepages", size.folder))?;
        Some(Count { total, free })
    };
    let nodes = host.names("/sys/devices/system/node");
    let nodes = nodes.iter().filter_map(|name| name.strip_prefix("node")?.parse::<u32>().ok());
    let mut counts: BTreeMap<u32, Count> = nodes
        .filter_map(|node| Some((node, read(&format!("/sys/devices/system/node/node{node}/hugepages"))?)))
        .collect();
    if counts.is_empty() {
        counts.extend(read("/sys/kernel/mm/hugepages").map(|count| (0, count)));
    }
    counts
}

fn available(host: &Host) -> Option<u64> {
    let text = host.text("/proc/meminfo")?;
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()? << 10)
}

/// Bytes of buffers that each NUMA node has to give: those of the workers whose cores are on it. `None` is a node that only
/// `tachyond` will choose, because the node file names no cores and the machine has several nodes.
pub(crate) fn arenas(need: &Need, node_of_core: &BTreeMap<u16, u32>, nodes: usize) -> BTreeMap<Option<u32>, u64> {
    let mut arenas = BTreeMap::new();
    if need.cores.is_empty() {
        let node = if nodes > 1 { None } else { Some(node_of_core.values().next().copied().unwrap_or(0)) };
        arenas.insert(node, need.buffer_bytes());
    }
    for core in &need.cores {
        *arenas.entry(Some(node_of_core.get(core).copied().unwrap_or(0))).or_default() += need.buffer_bytes_per_worker;
    }
    arenas
}

pub(crate) fn findings(memory: &Memory, need: &Need, arenas: &BTreeMap<Option<u32>, u64>) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (node, arena_bytes) in arenas {
        findings.push(huge_pages(memory, need.pages, *node, *arena_bytes, &at_boot(memory, arenas)));
    }
    findings.push(huge_page_table(memory));
    let mounted = memory.hugetlbfs.as_ref().map_or_else(|| "not mounted".to_owned(), |at| format!("mounted at {at}"));
    findings.push(Finding::fine("hugetlbfs", format!("{mounted}; not needed, the arena is a memfd")));
    // Where huge pages are short, the arena falls back on ordinary ones, if it may.
    let ordinary = need.pages == Pages::Ordinary || findings.iter().any(|finding| finding.state == State::Degraded);
    findings.push(transparent(memory, ordinary));
    findings.push(enough(memory, need));
    findings
}

/// All counts, for those who look for where the pages went.
fn huge_page_table(memory: &Memory) -> Finding {
    let mut words = Vec::new();
    for size in [HUGE_2M, HUGE_1G] {
        for (node, count) in memory.huge(size) {
            words.push(format!("{} on node {node}: {} of {} free", size.name, count.free, count.total));
        }
    }
    let found = if words.is_empty() { "the kernel has no huge pages".to_owned() } else { words.join("; ") };
    Finding::fine("huge_page_counts", found)
}

/// Whether one arena finds its pages, and if not, how to have them.
fn huge_pages(memory: &Memory, pages: Pages, node: Option<u32>, arena_bytes: u64, at_boot: &str) -> Finding {
    const CHECK: &str = "huge_pages";
    let place = node.map_or_else(|| "any one NUMA node".to_owned(), |node| format!("NUMA node {node}"));
    // As the arena chooses: a 1 GiB page for a smaller arena would mostly be waste.
    let (sizes, state): (&[Size], _) = match pages {
        Pages::Ordinary => {
            return Finding::fine(CHECK, "the node file asks for ordinary pages");
        }
        Pages::Huge1G => (&[HUGE_1G], State::Fails),
        Pages::Huge2M => (&[HUGE_2M], State::Fails),
        Pages::Auto if arena_bytes >= HUGE_1G.page_bytes => (&[HUGE_1G, HUGE_2M], State::Degraded),
        Pages::Auto => (&[HUGE_2M], State::Degraded),
    };
    let count_at = |size: Size| match node {
        Some(node) => memory.huge(size).get(&node).copied().unwrap_or_default(),
        // Whichever node is chosen, the best one can give this much.
        None => memory.huge(size).values().copied().max_by_key(|count| count.free).unwrap_or_default(),
    };
    for size in sizes {
        let (count, needed) = (count_at(*size), arena_bytes.div_ceil(size.page_bytes));
        if count.free >= needed {
            return Finding::fine(CHECK, format!("{needed} pages of {} are free on {place}", size.name));
        }
        if memory.node_runs && count.total >= needed {
            let found = format!("{needed} pages of {} on {place}, held by the tachyond that runs", size.name);
            return Finding::fine(CHECK, found);
        }
    }
    // 2 MiB pages can be had without a boot, so they are proposed where the node file leaves the choice.
    let size = sizes[sizes.len() - 1];
    let (count, needed) = (count_at(size), arena_bytes.div_ceil(size.page_bytes));
    let found = format!("{} of the {needed} pages of {} needed are free on {place}", count.free, size.name);
    let help = match state {
        State::Fails => "tachyond does not start with this node file; reserve them, or set memory.pages = \"auto\"",
        _ => "the arena would stand on ordinary pages, which costs TLB misses; reserve them",
    };
    let wanted = count.total + needed - count.free;
    let node = node.unwrap_or(0);
    let setting = format!("/sys/devices/system/node/node{node}/hugepages/{}/nr_hugepages", size.folder);
    let finding = Finding::new(CHECK, state, found).help(help).command(format!("echo {wanted} > {setting}"));
    if size == HUGE_1G {
        // Memory is in pieces soon after the boot, so pages of this size are best taken at the boot.
        return boot_with(finding, &format!("hugepagesz=1G hugepages={at_boot}"));
    }
    finding.command(format!("echo 'w {setting} - - - - {wanted}' > /etc/tmpfiles.d/tachyon-hugepages-node{node}.conf"))
}

/// How many pages of 1 GiB all nodes need together, as the kernel's command line takes it: by node, if there are several.
fn at_boot(memory: &Memory, arenas: &BTreeMap<Option<u32>, u64>) -> String {
    let wanted = |(node, arena_bytes): (&Option<u32>, &u64)| {
        let node = node.unwrap_or(0);
        let count = memory.huge_1g.get(&node).copied().unwrap_or_default();
        let needed = arena_bytes.div_ceil(HUGE_1G.page_bytes);
        (node, count.total + needed.saturating_sub(count.free))
    };
    let wanted: Vec<(u32, u64)> = arenas.iter().map(wanted).collect();
    match wanted.as_slice() {
        [(_, count)] if memory.huge_1g.len() <= 1 => count.to_string(),
        several => several.iter().map(|(node, count)| format!("{node}:{count}")).collect::<Vec<_>>().join(","),
    }
}

/// Matters only where the arena stands on ordinary pages; `always` for private memory is worth a word.
fn transparent(memory: &Memory, ordinary: bool) -> Finding {
    const CHECK: &str = "transparent_huge_pages";
    let (shared, private) = (memory.merge_shared.as_deref(), memory.merge_private.as_deref());
    let words = format!("memfd {}, private memory {}", shared.unwrap_or("unknown"), private.unwrap_or("unknown"));
    let merges = matches!(shared, Some("always" | "within_size" | "advise" | "force"));
    if ordinary && !merges {
        return Finding::new(CHECK, State::Degraded, words)
            .help(
                "the arena will stand on ordinary pages, and the kernel does not merge those of a memfd into huge ones",
            )
            .command("echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled");
    }
    if private == Some("always") {
        return Finding::new(CHECK, State::Note, words)
            .help("the kernel merges every program's pages, which may stop them for milliseconds; madvise leaves it to them")
            .command("echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
    }
    Finding::fine(CHECK, words)
}

/// Whether buffers and tables fit into what is left.
fn enough(memory: &Memory, need: &Need) -> Finding {
    const CHECK: &str = "memory";
    let Some(available) = memory.available else {
        return Finding::new(CHECK, State::Note, "the kernel does not say how much memory is available");
    };
    let huge: u64 = [HUGE_2M, HUGE_1G]
        .iter()
        .flat_map(|size| memory.huge(*size).values().map(|count| count.free * size.page_bytes))
        .sum();
    let wanted = need.buffer_bytes() + need.table_bytes;
    // Buffers may lie in huge pages, which `available` does not count; tables never do.
    let left = available + if need.pages == Pages::Ordinary { 0 } else { huge.min(need.buffer_bytes()) };
    let found = format!(
        "{} of buffers and about {} of tables; {} available",
        bytes(need.buffer_bytes()),
        bytes(need.table_bytes),
        bytes(left)
    );
    if wanted <= left || memory.node_runs {
        return Finding::fine(CHECK, found);
    }
    Finding::new(CHECK, State::Fails, found)
        .help("lower buffers_per_worker, buffer_bytes or the limits of the node file, or give the machine more memory")
}
