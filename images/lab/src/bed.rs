//! What the guests of one job share: tools, a kernel, and a root file system with the modules and programs asked for.

use crate::{
    fetch::{Cache, KernelFiles, Tools},
    initramfs::Archive,
    kernel::{self, Modules},
};
use anyhow::{Context, Result};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// Where Debian keeps DPDK's drivers, in a folder named after their version.
const DPDK: &str = "/usr/lib/x86_64-linux-gnu/dpdk";

/// Lines of a console that fit into a message.
const LAST_WORDS: usize = 12;

/// Prepared things for guests.
#[derive(Debug)]
pub struct Bed {
    folder: PathBuf,
    tools: Tools,
    files: KernelFiles,
    kernel: PathBuf,
    archive: Archive,
}

impl Bed {
    /// Fetches and unpacks what is not yet in `folder`, usually `target/lab`, for the kernel `series`, such as `6.1`.
    /// The root file system has busybox and `ip`.
    ///
    /// # Errors
    ///
    /// Says what could not be had; see [`Cache`].
    pub fn make(folder: &Path, series: &str) -> Result<Self> {
        let cache = Cache::open(folder)?;
        let tools = cache.tools()?;
        let files = cache.kernel(series)?;
        let kernel = files.modules.with_file_name("vmlinux"); // beside the modules, so it goes with their package
        kernel::write_elf(&tools, &files, &kernel)?;
        let archive = Archive::with_busybox(&tools)?;
        let mut bed = Self { folder: cache.folder().to_owned(), tools, files, kernel, archive };
        bed.program("/usr/bin/ip", &bed.tools.find("/bin/ip")?)?;
        Ok(bed)
    }

    /// Adds kernel modules; the guest's `load` takes the same names.
    ///
    /// # Errors
    ///
    /// Names a module that the kernel does not have.
    pub fn modules(&mut self, names: &[&str]) -> Result<()> {
        let modules = Modules::open(&self.tools, &self.files)?;
        for name in names {
            let order = modules.in_order(name)?;
            let list: Vec<_> = order.iter().map(|module| module.name.as_str()).collect();
            self.archive.file(&format!("/lib/modules/{name}.order"), list.join(" ").into_bytes(), false);
            for module in order {
                self.archive.file(&format!("/lib/modules/{}.ko", module.name), module.bytes, false);
            }
        }
        Ok(())
    }

    /// Adds a program that lies at `source`, with its libraries, at `path`.
    ///
    /// # Errors
    ///
    /// As [`Archive::program`].
    pub fn program(&mut self, path: &str, source: &Path) -> Result<()> {
        self.archive.program(&self.tools, path, source)
    }

    /// Adds a program of one of the lab's packages where that package has it.
    ///
    /// # Errors
    ///
    /// As [`Archive::program`].
    pub fn packaged(&mut self, path: &str) -> Result<()> {
        self.archive.program(&self.tools, path, &self.tools.find(path)?)
    }

    /// Adds drivers of DPDK, such as `net_e1000`, where it looks for them when it starts.
    ///
    /// # Errors
    ///
    /// Says that DPDK or the driver is missing.
    pub fn dpdk_drivers(&mut self, names: &[&str]) -> Result<()> {
        let mut folders = fs::read_dir(self.tools.find(DPDK)?)?;
        let version = folders.next().context("DPDK has no folder of drivers")??.file_name();
        for name in names {
            self.packaged(&format!("{DPDK}/{}/librte_{name}.so", version.to_string_lossy()))?;
        }
        Ok(())
    }

    /// The tools.
    #[must_use]
    pub fn tools(&self) -> &Tools {
        &self.tools
    }

    /// The kernel as an ELF image.
    #[must_use]
    pub fn kernel(&self) -> &Path {
        &self.kernel
    }

    /// The root file system.
    #[must_use]
    pub fn archive(&self) -> &Archive {
        &self.archive
    }

    /// Where the console of the guest called `name` is written.
    #[must_use]
    pub fn console(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// The end of that console, for a message about a guest that failed.
    #[must_use]
    pub fn last_words(&self, name: &str) -> String {
        let path = self.console(name);
        let text = fs::read(&path).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let lines: Vec<_> = text.lines().collect();
        let last = lines[lines.len().saturating_sub(LAST_WORDS)..].join("\n");
        format!("the guest's console, {}, ended with:\n{last}", path.display())
    }
}
