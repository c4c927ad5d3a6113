//! What the figures were taken on.

use serde_json::{Value, json};
use std::{fs, hint::black_box, path::Path, time::Instant};

/// Where the kernel tells about the first core's caches.
const CACHES: &str = "/sys/devices/system/cpu/cpu0/cache";

/// What a reader needs to know before believing a figure.
pub fn describe() -> Value {
    let pages = |kib: u32| number(format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/nr_hugepages"));
    json!({
        "cpu": cpu(),
        "cores": read("/proc/cpuinfo").lines().filter(|line| line.starts_with("processor")).count(),
        "pinned_to": pinned(),
        "ghz": (gigahertz() * 100.0).round() / 100.0,
        "l1d_bytes": cache_bytes(1), "l2_bytes": cache_bytes(2), "l3_bytes": cache_bytes(3),
        "memory_bytes": memory_bytes(),
        "kernel": read("/proc/sys/kernel/osrelease"),
        "huge_pages_2m": pages(2_048), "huge_pages_1g": pages(1_048_576),
        "transparent_huge_pages": chosen(&read("/sys/kernel/mm/transparent_hugepage/enabled")),
        "governor": Some(read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")).filter(|name| !name.is_empty()),
        "virtual": read("/proc/cpuinfo").contains(" hypervisor"),
        "load_average": read("/proc/loadavg").split(' ').take(3).collect::<Vec<_>>().join(" "),
        "dram_rows": if crate::flush::POSSIBLE { "flushed line by line before each pass" } else { "not flushed" },
    })
}

/// The description in a line or two, for a person.
pub fn print(machine: &Value) {
    let of = |key: &str| machine[key].as_str().unwrap_or("unknown").to_owned();
    let mib = |key: &str| machine[key].as_f64().unwrap_or(0.0) / f64::from(1 << 20);
    println!(
        "{}, {} GHz, {} cores{}, L2 {:.1} MiB, L3 {:.0} MiB, memory {:.0} MiB",
        of("cpu"),
        machine["ghz"],
        machine["cores"],
        if machine["virtual"] == true { " of a virtual machine" } else { "" },
        mib("l2_bytes"),
        mib("l3_bytes"),
        mib("memory_bytes")
    );
    println!(
        "Linux {}, huge pages: {} of 2 MiB, {} of 1 GiB, transparent {}; governor {}; load {}",
        of("kernel"),
        machine["huge_pages_2m"],
        machine["huge_pages_1g"],
        of("transparent_huge_pages"),
        of("governor"),
        of("load_average")
    );
}

/// The cores that the calling thread may run on.
pub fn allowed() -> Vec<usize> {
    let Ok(set) = rustix::thread::sched_getaffinity(None) else { return vec![0] };
    (0..rustix::thread::CpuSet::MAX_CPU).filter(|number| set.is_set(*number)).collect()
}

/// Keeps the calling thread on one core. A refusal is no fault: the figures are then noisier, and `pinned_to` says so.
pub fn pin(core: usize) {
    let mut set = rustix::thread::CpuSet::new();
    set.set(core);
    let _ = rustix::thread::sched_setaffinity(None, &set);
}

/// The only core that the calling thread may run on.
fn pinned() -> Option<usize> {
    let allowed = allowed();
    (allowed.len() == 1).then(|| allowed[0])
}

/// Bytes of the first core's cache of this level, instructions aside; 0 if the kernel does not tell.
pub(crate) fn cache_bytes(level: u32) -> usize {
    let entries = fs::read_dir(CACHES).into_iter().flatten().flatten();
    let of_level = entries
        .map(|entry| entry.path())
        .find(|path| number(path.join("level")) == Some(level.into()) && read(path.join("type")) != "Instruction");
    let size = of_level.map(|path| read(path.join("size"))).unwrap_or_default();
    let digits = size.trim_end_matches(['K', 'M']).parse().unwrap_or(0);
    digits << if size.ends_with('M') { 20 } else { 10 }
}

/// Bytes of memory that are available now.
pub fn memory_bytes() -> u64 {
    let text = read("/proc/meminfo");
    let kib =
        text.lines().find_map(|line| line.strip_prefix("MemAvailable:")?.trim().strip_suffix(" kB")?.parse().ok());
    kib.unwrap_or(0_u64) << 10
}

/// The clock that the core really runs at: a chain of multiplications, each of which waits for the one before and takes
/// three cycles on every x86-64 and Arm core of the last ten years.
pub(crate) fn gigahertz() -> f64 {
    const LINKS: u64 = 20_000_000;
    const CYCLES: f64 = 3.0;
    let run = || {
        let begun = Instant::now();
        let mut x: u64 = black_box(0x9e37_79b9_7f4a_7c15);
        for _ in 0..LINKS {
            x = x.wrapping_mul(x); // of itself, or the compiler would multiply the constants first
        }
        black_box(x);
        CYCLES * LINKS as f64 / begun.elapsed().as_secs_f64() / 1e9
    };
    (0..3).map(|_| run()).fold(0.0, f64::max)
}

/// The model name that the kernel tells.
fn cpu() -> String {
    let text = read("/proc/cpuinfo");
    let name = text.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    name.map_or_else(|| "an unknown CPU".to_owned(), |(_, name)| name.to_owned())
}

/// The word in brackets.
fn chosen(text: &str) -> Option<String> {
    text.split_once('[')?.1.split_once(']').map(|(word, _)| word.to_owned())
}

fn read(path: impl AsRef<Path>) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

fn number(path: impl AsRef<Path>) -> Option<u64> {
    read(path).parse().ok()
}
