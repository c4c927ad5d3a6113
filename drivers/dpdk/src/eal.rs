//! Starting DPDK, once per process and from typed values only.

use crate::{device::PciAddress, log};
use std::{
    cell::Cell,
    ffi::{CStr, CString, c_char, c_int, c_void},
    fs,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};
use tachyon_driver_api::PortError;
use tachyon_driver_dpdk_sys as sys;

/// On which pages DPDK's own memory stands (packet descriptors and rings; frames are in the arena).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum HugePages {
    /// Huge ones if some are free.
    #[default]
    Auto,
    /// Huge ones or an error.
    On,
    /// Ordinary ones: enough for software devices.
    Off,
}

/// How to start DPDK.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct EalConfig {
    /// Its own memory in MiB.
    pub memory_mib: u32,
    /// The pages that memory stands on.
    pub huge_pages: HugePages,
    /// The devices that it may touch; it looks at no other.
    pub pci: Vec<PciAddress>,
}

/// DPDK, started. Everything that calls it asks for this.
#[derive(Clone, Copy, Debug)]
pub struct Eal {
    huge_pages: bool,
}

static STARTED: AtomicBool = AtomicBool::new(false);

impl Eal {
    /// Starts DPDK. The calling thread keeps the cores that it may run on.
    ///
    /// # Errors
    /// It was started before, huge pages are missing and demanded, or DPDK refuses; the text has what it said.
    pub fn start(config: &EalConfig) -> Result<Self, PortError> {
        let free_mib = free_huge_mib();
        let huge_pages = match config.huge_pages {
            HugePages::Off => false,
            HugePages::Auto => free_mib >= config.memory_mib,
            HugePages::On if free_mib >= config.memory_mib => true,
            HugePages::On => {
                return Err(PortError(format!(
                    "DPDK wants {} MiB of huge pages and {free_mib} MiB are free: reserve them (`sysctl -w vm.nr_hugepages={}`), \
                     or set huge_pages = \"auto\" in [dpdk]",
                    config.memory_mib,
                    config.memory_mib.div_ceil(2) + 1
                )));
            }
        };
        if !huge_pages && let Some(address) = config.pci.first() {
            return Err(PortError(format!(
                "device {address} needs {} MiB of huge pages and {free_mib} MiB are free: reserve them (`sysctl -w vm.nr_hugepages={}`)",
                config.memory_mib,
                config.memory_mib.div_ceil(2) + 1
            )));
        }
        if STARTED.swap(true, Ordering::AcqRel) {
            return Err(PortError("DPDK was started before in this process; that works once".to_owned()));
        }
        log::capture();
        let affinity = affinity();
        let started = init(&arguments(config, huge_pages));
        restore(&affinity);
        started?;
        Ok(Self { huge_pages })
    }

    /// Whether its memory stands on huge pages.
    #[must_use]
    pub const fn huge_pages(&self) -> bool {
        self.huge_pages
    }

    /// Which DPDK this is, such as `DPDK 22.11.11`.
    #[must_use]
    pub fn version() -> String {
        // SAFETY: returns a static C string.
        unsafe { CStr::from_ptr(sys::rte_version()) }.to_string_lossy().into_owned()
    }
}

/// Free huge pages of 2 MiB and 1 GiB, in MiB.
fn free_huge_mib() -> u32 {
    let free = |kib: u32| {
        let path = format!("/sys/kernel/mm/hugepages/hugepages-{kib}kB/free_hugepages");
        fs::read_to_string(path).ok().and_then(|text| text.trim().parse::<u32>().ok()).unwrap_or(0)
    };
    free(2_048).saturating_mul(2).saturating_add(free(1_048_576).saturating_mul(1_024))
}

/// EAL's command line. Only numbers and addresses go in.
fn arguments(config: &EalConfig, huge_pages: bool) -> Vec<String> {
    let mut arguments: Vec<String> = ["tachyon", "--no-telemetry", "--iova-mode=va"].map(String::from).into();
    // A floating main thread: EAL must not pin the thread that starts it, nor count on a core of its own.
    arguments.push(format!("--lcores=0@({})", allowed_cores()));
    arguments.push(format!("--file-prefix=tachyon-{}", std::process::id()));
    arguments.extend(["-m".to_owned(), config.memory_mib.to_string()]);
    // Nothing in a file system either way: no mount is needed, and nothing is left behind.
    let pages: &[&str] = if huge_pages { &["--in-memory"] } else { &["--no-huge", "--no-shconf"] };
    arguments.extend(pages.iter().map(|&text| text.to_owned()));
    match config.pci.as_slice() {
        [] => arguments.push("--no-pci".to_owned()),
        addresses => arguments.extend(addresses.iter().map(|address| format!("--allow={address}"))),
    }
    arguments
}

/// The cores that this process may use, as a list.
fn allowed_cores() -> String {
    let set = affinity();
    let cores: Vec<String> = (0..libc::CPU_SETSIZE)
        .filter(|core| {
            // SAFETY: looks at one bit of a set that is as large as CPU_SETSIZE says.
            unsafe { libc::CPU_ISSET(usize::try_from(*core).unwrap_or(0), &set) }
        })
        .filter(|core| *core < 128) // RTE_MAX_LCORE of Debian's build
        .map(|core| core.to_string())
        .collect();
    if cores.is_empty() { "0".to_owned() } else { cores.join(",") }
}

fn affinity() -> libc::cpu_set_t {
    // SAFETY: zeros are an empty set, and the kernel writes at most the size it is told.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::sched_getaffinity(0, size_of::<libc::cpu_set_t>(), &raw mut set);
        set
    }
}

fn restore(set: &libc::cpu_set_t) {
    // SAFETY: the kernel reads the size it is told. If it refuses, the thread is pinned to what EAL chose, which is the same set.
    unsafe { libc::sched_setaffinity(0, size_of::<libc::cpu_set_t>(), set) };
}

fn init(arguments: &[String]) -> Result<(), PortError> {
    let strings: Vec<CString> = arguments.iter().filter_map(|text| CString::new(text.as_str()).ok()).collect();
    // EAL keeps pointers into its arguments, so they stay: a few bytes, once per process.
    let mut pointers: Vec<*mut c_char> = strings.into_iter().map(CString::into_raw).collect();
    let count = c_int::try_from(pointers.len()).unwrap_or(0);
    pointers.push(std::ptr::null_mut());
    // SAFETY: `count` C strings and a null, none of them ever freed.
    let result = unsafe { sys::rte_eal_init(count, pointers.leak().as_mut_ptr()) };
    if result >= 0 {
        return Ok(());
    }
    let said = log::last_errors();
    let said = if said.is_empty() { last_error() } else { said };
    Err(PortError(format!("DPDK does not start: {said}; `tachyon doctor` looks at what it needs")))
}

thread_local! {
    /// Queues that this thread opened, if it got its number for them.
    static QUEUES: Cell<u32> = const { Cell::new(0) };
}

/// Gives the calling thread a number, with which pools keep a cache for it.
pub(crate) fn enter_thread() -> Result<(), PortError> {
    // SAFETY: reads a thread-local number.
    let numbered = unsafe { sys::rte_lcore_id() } != u32::MAX;
    if numbered && QUEUES.get() == 0 {
        return Ok(()); // the thread that started DPDK has one
    }
    // SAFETY: asks for a number of this thread.
    if !numbered && unsafe { sys::rte_thread_register() } != 0 {
        return Err(PortError(format!("DPDK takes no more threads: {}; use fewer workers", last_error())));
    }
    QUEUES.set(QUEUES.get() + 1);
    Ok(())
}

/// Gives the number back with the last of its queues: what is in caches by then cannot be reached without it.
pub(crate) fn leave_thread() {
    let queues = QUEUES.get();
    QUEUES.set(queues.saturating_sub(1));
    if queues == 1 {
        // SAFETY: the thread calls nothing that needs the number any more.
        unsafe { sys::rte_thread_unregister() };
    }
}

/// Waits until DPDK's own thread, which handles what devices and peers tell, is done with what it is at: memif's driver takes a
/// connection down there, and closing its device in the middle of that frees the same memory twice.
pub(crate) fn let_settle() {
    unsafe extern "C" fn passed(flag: *mut c_void) {
        // SAFETY: the flag below, which is never freed.
        unsafe { &*flag.cast::<AtomicBool>() }.store(true, Ordering::Release);
    }
    // Left behind: a byte each time that such a device is stopped. The thread may come by after we stopped waiting.
    let flag: &'static AtomicBool = Box::leak(Box::default());
    // SAFETY: a function and a flag for it, both of which stay. Alarms are run by that thread, one after the other with the rest.
    if unsafe { sys::rte_eal_alarm_set(1, Some(passed), std::ptr::from_ref(flag).cast_mut().cast()) } != 0 {
        return;
    }
    let begun = Instant::now();
    while !flag.load(Ordering::Acquire) && begun.elapsed() < SETTLE {
        std::thread::sleep(Duration::from_micros(50));
    }
}

/// Longest wait for that thread: it does nothing that takes long.
const SETTLE: Duration = Duration::from_millis(200);

/// What DPDK's own error number says.
pub(crate) fn last_error() -> String {
    // SAFETY: a thread-local number and a static table of texts.
    let text = unsafe { CStr::from_ptr(sys::rte_strerror(sys::tachyon_errno())) };
    text.to_string_lossy().into_owned()
}

/// The text of a negative result.
pub(crate) fn error_of(result: c_int) -> String {
    // SAFETY: a static table of texts.
    let text = unsafe { CStr::from_ptr(sys::rte_strerror(-result)) };
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_hold_nothing_but_numbers_and_addresses() {
        let pci = vec!["0000:01:00.0".parse().unwrap()];
        let config = EalConfig { memory_mib: 64, huge_pages: HugePages::Auto, pci };
        let line = arguments(&config, true).join(" ");
        assert!(
            line.contains("-m 64") && line.contains("--allow=0000:01:00.0") && !line.contains("--no-huge"),
            "{line}"
        );
        let line = arguments(&EalConfig { pci: Vec::new(), ..config }, false).join(" ");
        assert!(line.contains("--no-pci") && line.contains("--no-huge"), "{line}");
    }
}
