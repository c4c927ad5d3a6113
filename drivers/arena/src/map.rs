//! The system calls: a memfd on the best pages there are, mapped, placed, touched, locked.

use crate::{ArenaError, Pages};
use rustix::{
    fs::{MemfdFlags, SealFlags, fcntl_add_seals, ftruncate, memfd_create},
    io::Errno,
    mm::{Advice, MapFlags, ProtFlags, madvise, mlock, mmap, munmap},
    process::{Resource, getrlimit},
};
use std::{
    ffi::c_void,
    fs,
    os::fd::{AsFd, OwnedFd},
    ptr::{self, NonNull},
};

const GIB: usize = 1 << 30;
const MIB: usize = 1 << 20;

/// One shared mapping of one memfd. Plain numbers: nothing unmaps it.
#[derive(Debug)]
pub(crate) struct Mapping {
    base: NonNull<u8>,
    bytes: usize,
    page_bytes: usize,
}

// SAFETY: it is an address and two sizes; every access to the memory goes through a `Buffer`, which has its own rules.
unsafe impl Send for Mapping {}
// SAFETY: as above; nothing can be changed through a shared `Mapping`.
unsafe impl Sync for Mapping {}

impl Mapping {
    pub(crate) const fn base(&self) -> NonNull<u8> {
        self.base
    }

    pub(crate) const fn bytes(&self) -> usize {
        self.bytes
    }

    pub(crate) const fn page_bytes(&self) -> usize {
        self.page_bytes
    }
}

/// A kind of page: its size, how to ask for it, and how to have more of it.
struct Kind {
    page_bytes: usize,
    flags: MemfdFlags,
    name: &'static str,
    /// Where the administrator sets how many there are.
    setting: &'static str,
}

const HUGE_1G: Kind = Kind {
    page_bytes: GIB,
    flags: MemfdFlags::HUGETLB.union(MemfdFlags::HUGE_1GB),
    name: "1 GiB",
    setting: "/sys/kernel/mm/hugepages/hugepages-1048576kB/nr_hugepages",
};

const HUGE_2M: Kind = Kind {
    page_bytes: 2 * MIB,
    flags: MemfdFlags::HUGETLB.union(MemfdFlags::HUGE_2MB),
    name: "2 MiB",
    setting: "/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages",
};

/// Maps `bytes` (rounded up to whole pages) on the pages that were asked for.
pub(crate) fn map(
    bytes: usize,
    pages: Pages,
    numa_node: Option<u32>,
    degraded: &mut Vec<String>,
) -> Result<(OwnedFd, Mapping), ArenaError> {
    let refused = |kind: &Kind, errno: Errno| ArenaError(no_huge_pages(kind, bytes, errno));
    match pages {
        Pages::Huge1G => map_on(&HUGE_1G, bytes, numa_node, degraded).map_err(|errno| refused(&HUGE_1G, errno)),
        Pages::Huge2M => map_on(&HUGE_2M, bytes, numa_node, degraded).map_err(|errno| refused(&HUGE_2M, errno)),
        Pages::Ordinary => map_on_ordinary(bytes, numa_node, degraded),
        Pages::Auto => {
            // A 1 GiB page for a smaller arena would mostly be waste.
            if bytes >= GIB
                && let Ok(mapped) = map_on(&HUGE_1G, bytes, numa_node, degraded)
            {
                return Ok(mapped);
            }
            match map_on(&HUGE_2M, bytes, numa_node, degraded) {
                Ok(mapped) => Ok(mapped),
                Err(errno) => {
                    let cause = no_huge_pages(&HUGE_2M, bytes, errno);
                    degraded.push(format!("the arena stands on ordinary pages, which costs TLB misses: {cause}"));
                    map_on_ordinary(bytes, numa_node, degraded)
                }
            }
        }
    }
}

fn no_huge_pages(kind: &Kind, bytes: usize, errno: Errno) -> String {
    let needed = bytes.div_ceil(kind.page_bytes);
    format!(
        "{needed} pages of {} are not free ({errno}); reserve them as root: echo {needed} > {}",
        kind.name, kind.setting
    )
}

fn map_on_ordinary(
    bytes: usize,
    numa_node: Option<u32>,
    degraded: &mut Vec<String>,
) -> Result<(OwnedFd, Mapping), ArenaError> {
    let kind = Kind { page_bytes: rustix::param::page_size(), flags: MemfdFlags::empty(), name: "", setting: "" };
    let mapped = map_on(&kind, bytes, numa_node, degraded).map_err(|errno| {
        ArenaError(format!("{bytes} bytes of memory cannot be had ({errno}); make the arena smaller or free memory"))
    })?;
    // The memfd is shmem; the kernel merges its pages only where this setting lets it.
    let setting = "/sys/kernel/mm/transparent_hugepage/shmem_enabled";
    let enabled = fs::read_to_string(setting).unwrap_or_default();
    if !["[always]", "[within_size]", "[advise]", "[force]"].iter().any(|on| enabled.contains(on)) {
        degraded.push(format!(
            "the kernel does not merge the arena's ordinary pages into huge ones; let it as root: echo advise > {setting}"
        ));
    }
    Ok(mapped)
}

fn map_on(
    kind: &Kind,
    bytes: usize,
    numa_node: Option<u32>,
    degraded: &mut Vec<String>,
) -> Result<(OwnedFd, Mapping), Errno> {
    let bytes = bytes.checked_next_multiple_of(kind.page_bytes).ok_or(Errno::NOMEM)?;
    let descriptor =
        memfd_create("tachyon-arena", MemfdFlags::CLOEXEC.union(MemfdFlags::ALLOW_SEALING).union(kind.flags))?;
    ftruncate(&descriptor, bytes as u64)?;
    let mapping = map_shared(&descriptor, bytes, kind.page_bytes)?;
    // Whoever gets the descriptor must not be able to shrink the memory under us, which would be a bus error, nor to write
    // what we received. The mapping made above still can, and so can devices, which pin its pages.
    fcntl_add_seals(&descriptor, SealFlags::FUTURE_WRITE | SealFlags::SHRINK | SealFlags::GROW | SealFlags::SEAL)?;
    // Before the first touch, because a page is placed when it is touched.
    let unbound = numa_node.and_then(|node| bind(&mapping, node));
    if let Err(errno) = touch(&mapping, kind) {
        // SAFETY: the mapping was made above, and nothing points into it yet.
        unsafe { munmap(mapping.base.as_ptr().cast::<c_void>(), bytes) }?;
        return Err(errno);
    }
    degraded.extend(unbound);
    Ok((descriptor, mapping))
}

fn map_shared(descriptor: impl AsFd, bytes: usize, page_bytes: usize) -> Result<Mapping, Errno> {
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let base =
        unsafe { mmap(ptr::null_mut(), bytes, ProtFlags::READ | ProtFlags::WRITE, MapFlags::SHARED, descriptor, 0) }?;
    let base = NonNull::new(base.cast::<u8>()).ok_or(Errno::NOMEM)?;
    Ok(Mapping { base, bytes, page_bytes })
}

/// Makes every page present and writable now, because a page fault on the packet's way is a missed deadline.
fn touch(mapping: &Mapping, kind: &Kind) -> Result<(), Errno> {
    let start = mapping.base.as_ptr().cast::<c_void>();
    if kind.flags.is_empty() {
        // A kernel without transparent huge pages refuses the advice; then the pages stay as they are.
        // SAFETY: the range is the mapping; the advice changes no contents.
        let _ = unsafe { madvise(start, mapping.bytes, Advice::LinuxHugepage) };
    }
    // SAFETY: the range is the mapping; populating changes no contents.
    match unsafe { madvise(start, mapping.bytes, Advice::LinuxPopulateWrite) } {
        Err(Errno::INVAL) => {
            // Kernels before 5.14 do not know the advice; writing one byte per page does the same, only slower.
            for offset in (0..mapping.bytes).step_by(mapping.page_bytes) {
                // SAFETY: `offset` is within the mapping, which is new, writable and all zeros.
                unsafe { mapping.base.add(offset).write_volatile(0) };
            }
            Ok(())
        }
        other => other,
    }
}

/// Binds the mapping's pages to one NUMA node, or says why not.
fn bind(mapping: &Mapping, node: u32) -> Option<String> {
    /// Bits of the node mask that is handed to the kernel. 1,024 is what x86-64 kernels are built for at most.
    const NODES_MAX: usize = 1024;
    const WORD: usize = 64;
    let mut mask = [0_u64; NODES_MAX / WORD];
    let outcome = match mask.get_mut(node as usize / WORD) {
        None => Err(std::io::Error::from_raw_os_error(libc::EINVAL)),
        Some(word) => {
            *word = 1 << (node as usize % WORD);
            // SAFETY: the range is the mapping, and the mask has the number of bits that is told (the kernel wants one
            // more than it reads).
            let outcome = unsafe {
                libc::syscall(
                    libc::SYS_mbind,
                    mapping.base.as_ptr(),
                    mapping.bytes,
                    libc::MPOL_BIND,
                    mask.as_ptr(),
                    NODES_MAX + 1,
                    0,
                )
            };
            if outcome == 0 { Ok(()) } else { Err(std::io::Error::last_os_error()) }
        }
    };
    outcome.err().map(|error| {
        format!(
            "the arena is not bound to NUMA node {node} ({error}), so it may lie on another; name a node that has memory"
        )
    })
}

/// Locks the pages in memory.
pub(crate) fn lock(mapping: &Mapping, degraded: &mut Vec<String>) {
    // SAFETY: the range is the mapping; locking changes no contents.
    if let Err(errno) = unsafe { mlock(mapping.base.as_ptr().cast::<c_void>(), mapping.bytes) } {
        let limit = match getrlimit(Resource::Memlock).current {
            Some(bytes) => format!("{} KiB", bytes / 1024),
            None => "unlimited".to_owned(),
        };
        degraded.push(format!(
            "the arena's {} KiB are not locked in memory and may be swapped out ({errno}; RLIMIT_MEMLOCK is {limit}); \
             raise it with LimitMEMLOCK=infinity in the unit or `ulimit -l unlimited`, or grant CAP_IPC_LOCK",
            mapping.bytes / 1024
        ));
    }
}
