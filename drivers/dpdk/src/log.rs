//! What EAL and its drivers say: kept with its level, and in words that help where a fix is known.

use std::{
    collections::VecDeque,
    ffi::{c_char, c_int, c_void},
    fmt,
    sync::{Mutex, MutexGuard, PoisonError},
};
use tachyon_driver_dpdk_sys as sys;

/// Lines that are kept until somebody takes them; more push the oldest out.
const LINES_MAX: usize = 1_024;

/// How serious a line is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Of interest to who debugs.
    Debug,
    /// As it should be.
    Info,
    /// Something is weaker than it could be.
    Warning,
    /// Something does not work.
    Error,
}

/// One line of DPDK's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Line {
    /// How serious it is.
    pub level: Level,
    /// What it says, without line ends.
    pub text: String,
    /// What to do about it, if that is known.
    pub fix: Option<&'static str>,
}

impl fmt::Display for Line {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.fix {
            Some(fix) => write!(f, "{}; {fix}", self.text),
            None => f.write_str(&self.text),
        }
    }
}

/// Parts of what DPDK says, and what to do. The first that is found counts.
const FIXES: &[(&str, &str)] = &[
    ("No free 2048 kB hugepages", "reserve huge pages (`sysctl -w vm.nr_hugepages=256`), or set huge_pages = \"off\""),
    (
        "Cannot get hugepage information",
        "reserve huge pages (`sysctl -w vm.nr_hugepages=256`), or set huge_pages = \"off\"",
    ),
    ("Not enough memory available", "reserve more huge pages, or lower memory_mb in [dpdk]"),
    ("couldn't allocate memory due to IOVA", "switch the IOMMU on, so that devices see the process's addresses"),
    ("VFIO group is not viable", "bind every device of its IOMMU group to vfio-pci; `tachyon doctor` lists them"),
    ("failed to open VFIO group", "start as root, or give the user access to /dev/vfio; another process may hold it"),
    ("Failed to open VFIO group", "start as root, or give the user access to /dev/vfio; another process may hold it"),
    ("cannot open VFIO container", "load vfio-pci (`modprobe vfio-pci`)"),
    ("Device or resource busy", "another process holds the device; stop it first"),
    ("not managed by VFIO driver", "bind it to vfio-pci; `tachyon doctor` shows the commands"),
    ("Cannot set DMA remapping", "raise the limit of locked memory (`ulimit -l unlimited`)"),
    ("cannot set up DMA remapping", "raise the limit of locked memory (`ulimit -l unlimited`)"),
    ("Link status of the port", "look at the cable and at the other end"),
];

/// Parts of what DPDK warns of and nobody has to mind: pages of the other size, and mounts that are not used.
const HARMLESS: &[&str] =
    &["No free 1048576 kB hugepages", "no mounted hugetlbfs", "mp action callback: Operation not supported"];

/// Lines that nobody took yet.
struct Kept {
    lines: VecDeque<Line>,
    /// How many of the last ones were said since [`begin`].
    fresh: usize,
}

static KEPT: Mutex<Kept> = Mutex::new(Kept { lines: VecDeque::new(), fresh: 0 });

/// Takes what DPDK said since the last call, oldest first.
#[must_use]
pub fn take() -> Vec<Line> {
    let mut kept = kept();
    kept.fresh = 0;
    kept.lines.drain(..).collect()
}

/// What is said from here on belongs to what is tried next, so that no error tells of another device.
pub(crate) fn begin() {
    kept().fresh = 0;
}

fn kept() -> MutexGuard<'static, Kept> {
    KEPT.lock().unwrap_or_else(PoisonError::into_inner) // a line lost in a panic harms nobody
}

/// The last lines since [`begin`] that say what went wrong, for an error text.
pub(crate) fn last_errors() -> String {
    let kept = kept();
    let old = kept.lines.len().saturating_sub(kept.fresh);
    let serious = || kept.lines.iter().skip(old).filter(|line| line.level == Level::Error);
    let texts: Vec<String> = serious().skip(serious().count().saturating_sub(3)).map(Line::to_string).collect();
    texts.join("; ")
}

fn keep(level: Level, text: &str) {
    let text = text.trim_end();
    if text.is_empty() {
        return;
    }
    let fix = FIXES.iter().find(|(part, _)| text.contains(part)).map(|(_, fix)| *fix);
    let level = if HARMLESS.iter().any(|part| text.contains(part)) { Level::Info } else { level };
    let mut kept = kept();
    if kept.lines.len() == LINES_MAX {
        kept.lines.pop_front();
    }
    kept.fresh += 1;
    kept.lines.push_back(Line { level, text: text.to_owned(), fix });
}

/// Sends DPDK's log here from now on.
pub(crate) fn capture() {
    unsafe extern "C" fn write(_: *mut c_void, bytes: *const c_char, len: usize) -> isize {
        // SAFETY: the C library hands over `len` bytes for the time of the call.
        let bytes = unsafe { std::slice::from_raw_parts(bytes.cast::<u8>(), len) };
        // SAFETY: reads a thread-local number.
        let level = unsafe { sys::rte_log_cur_msg_loglevel() };
        let text = String::from_utf8_lossy(bytes);
        text.lines().for_each(|line| keep(from_number(level), line));
        isize::try_from(len).unwrap_or(isize::MAX)
    }
    // SAFETY: the function is there as long as the process. If there is no memory for a stream, DPDK goes on saying it all
    // where it did.
    unsafe { sys::tachyon_log_to(Some(write)) };
}

fn from_number(level: c_int) -> Level {
    match u32::try_from(level).unwrap_or(0) {
        0..=sys::RTE_LOG_ERR => Level::Error,
        sys::RTE_LOG_WARNING => Level::Warning,
        sys::RTE_LOG_DEBUG.. => Level::Debug,
        _ => Level::Info,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_known_complaint_comes_with_its_fix_and_the_oldest_line_goes_first() {
        keep(Level::Error, "EAL: No free 2048 kB hugepages reported on node 0\n");
        keep(Level::Info, "  \n");
        let lines = take();
        assert_eq!(lines.len(), 1);
        assert!(lines[0].to_string().ends_with("huge_pages = \"off\""), "{}", lines[0]);
        for number in 0..=LINES_MAX {
            keep(Level::Info, &number.to_string());
        }
        assert_eq!((take()[0].text.as_str(), take().len()), ("1", 0));
    }
}
