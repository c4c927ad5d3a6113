//! The guest's root file system: a cpio archive in memory, the same bytes for the same contents.
//!
//! The kernel unpacks concatenated archives one after the other, so what all jobs share is made once and a job is a
//! second, small archive behind it.

use crate::fetch::Tools;
use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

/// One file, folder, link or device.
#[derive(Debug)]
struct Entry {
    mode: u32,
    bytes: Vec<u8>,
    /// Major and minor number of a device.
    device: (u32, u32),
}

/// An archive in the making. Paths are absolute in the guest; their folders are made by themselves.
#[derive(Debug, Default)]
pub struct Archive {
    /// Sorted, so that a folder precedes what is in it and the order does not depend on who was added first.
    entries: BTreeMap<String, Entry>,
    /// Where each file of the machine went.
    copied: BTreeMap<PathBuf, String>,
}

const FOLDER: u32 = 0o040_755;
const LINK: u32 = 0o120_777;
const PROGRAM: u32 = 0o100_755;
const FILE: u32 = 0o100_644;
const CHARACTER_DEVICE: u32 = 0o020_600;

/// The first folders of Debian, where `/bin` and its like are links into `/usr`.
const MERGED: &[&str] = &["bin", "sbin", "lib", "lib64"];

impl Archive {
    /// An archive with nothing in it, such as one for a job.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An archive with the folders that every system has, a console, and busybox under all its names.
    ///
    /// # Errors
    ///
    /// Says what of busybox is missing.
    pub fn with_busybox(tools: &Tools) -> Result<Self> {
        let mut archive = Self::new();
        for name in MERGED {
            archive.folder(&format!("/usr/{name}"));
            archive.link(&format!("/{name}"), &format!("usr/{name}"));
        }
        for folder in ["/dev", "/proc", "/sys", "/run", "/tmp", "/etc", "/root", "/var"] {
            archive.folder(folder);
        }
        archive.link("/var/run", "/run"); // ip keeps its namespaces there
        // Until the init script has mounted /dev, the kernel itself opens this one for it.
        archive.put("/dev/console", CHARACTER_DEVICE, Vec::new(), (5, 1));
        let busybox = tools.find("/bin/busybox").or_else(|_| tools.find("/usr/bin/busybox"))?;
        archive.file("/usr/bin/busybox", fs::read(&busybox)?, true);
        let names = Command::new(&busybox).arg("--list").output().context("cannot start busybox")?;
        for name in String::from_utf8(names.stdout)?.lines().filter(|name| *name != "busybox") {
            archive.link(&format!("/usr/bin/{name}"), "busybox");
        }
        Ok(archive)
    }

    /// Adds a folder.
    pub fn folder(&mut self, path: &str) {
        self.put(path, FOLDER, Vec::new(), (0, 0));
    }

    /// Adds a link; one in the way is replaced.
    pub fn link(&mut self, path: &str, target: &str) {
        self.put(path, LINK, target.as_bytes().to_vec(), (0, 0));
    }

    /// Adds a file; what was there is replaced, so a real program can take the place of busybox's link.
    pub fn file(&mut self, path: &str, bytes: Vec<u8>, executable: bool) {
        self.put(path, if executable { PROGRAM } else { FILE }, bytes, (0, 0));
    }

    /// Adds a program or library of the machine, and all libraries that it is linked with, where they lie outside.
    /// `path` is where it is in the guest, `source` where it is here.
    ///
    /// # Errors
    ///
    /// Names the library that cannot be found.
    pub fn program(&mut self, tools: &Tools, path: &str, source: &Path) -> Result<()> {
        self.copy(path, source)?;
        let output = Command::new("ldd").arg(source).env("LD_LIBRARY_PATH", tools.libraries()).output();
        let text = String::from_utf8(output.context("cannot start ldd")?.stdout)?;
        if let Some(line) = text.lines().find(|line| line.contains("not found")) {
            bail!("{} needs {}: delete target/lab to fetch again", source.display(), line.trim());
        }
        for library in text.lines().filter_map(library_of) {
            let inside = library.strip_prefix(&*tools.root().to_string_lossy()).unwrap_or(library);
            self.copy(inside, Path::new(library))?;
        }
        Ok(())
    }

    /// Adds a file of the machine, or a link if it is there under another name: two copies of one library would be two
    /// libraries to the loader, and DPDK's refuse to be there twice.
    fn copy(&mut self, path: &str, source: &Path) -> Result<()> {
        let cannot = || format!("cannot read {}", source.display());
        let real = source.canonicalize().with_context(cannot)?;
        match self.copied.get(&real).cloned() {
            Some(first) if first != merged(path) => self.link(path, &format!("/{first}")),
            Some(_) => {}
            None => {
                self.file(path, fs::read(&real).with_context(cannot)?, true);
                self.copied.insert(real, merged(path));
            }
        }
        Ok(())
    }

    /// The archive in the `newc` format of the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst`,
    /// without times and owners.
    #[must_use]
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Vec::new();
        for (number, (path, entry)) in (1..).zip(&self.entries) {
            record(&mut out, number, path, entry);
        }
        let end = Entry { mode: 0, bytes: Vec::new(), device: (0, 0) };
        record(&mut out, 0, "TRAILER!!!", &end);
        pad(&mut out, 512); // so that the next archive begins where the kernel looks for one
        out
    }

    fn put(&mut self, path: &str, mode: u32, bytes: Vec<u8>, device: (u32, u32)) {
        let path = merged(path);
        let mut folder = path.as_str();
        while let Some((parent, _)) = folder.rsplit_once('/') {
            let made = || Entry { mode: FOLDER, bytes: Vec::new(), device: (0, 0) };
            self.entries.entry(parent.to_owned()).or_insert_with(made);
            folder = parent;
        }
        self.entries.insert(path, Entry { mode, bytes, device });
    }
}

/// A path as the archive has it: relative, and never through one of the links into `/usr`.
fn merged(path: &str) -> String {
    let path = path.trim_start_matches('/');
    match path.split_once('/') {
        Some((first, _)) if MERGED.contains(&first) => format!("usr/{path}"),
        _ => path.to_owned(),
    }
}

/// The library that a line of `ldd` speaks of: `name => /path (0x…)` or, for the loader, `/path (0x…)`.
fn library_of(line: &str) -> Option<&str> {
    let place = line.split_once("=> ").map_or(line, |(_, place)| place).trim();
    let path = place.split_once(" (0x")?.0;
    path.starts_with('/').then_some(path)
}

fn record(out: &mut Vec<u8>, number: u32, path: &str, entry: &Entry) {
    let size = u32::try_from(entry.bytes.len()).expect("a file of the guest has less than 4 GiB");
    let name_size = u32::try_from(path.len() + 1).expect("a path is short");
    let links = 1;
    let (major, minor) = entry.device;
    out.extend_from_slice(b"070701");
    for field in [number, entry.mode, 0, 0, links, 0, size, 0, 0, major, minor, name_size, 0] {
        out.extend_from_slice(format!("{field:08X}").as_bytes());
    }
    out.extend_from_slice(path.as_bytes());
    out.push(0);
    pad(out, 4);
    out.extend_from_slice(&entry.bytes);
    pad(out, 4);
}

fn pad(out: &mut Vec<u8>, unit: usize) {
    out.resize(out.len().next_multiple_of(unit), 0);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names in order, as cpio would list them.
    fn names(bytes: &[u8]) -> Vec<String> {
        let number = |at: usize| usize::from_str_radix(std::str::from_utf8(&bytes[at..at + 8]).unwrap(), 16).unwrap();
        let (mut at, mut names) = (0, Vec::new());
        loop {
            assert_eq!(&bytes[at..at + 6], b"070701");
            let (size, name_size) = (number(at + 6 + 6 * 8), number(at + 6 + 11 * 8));
            let name = String::from_utf8(bytes[at + 110..at + 110 + name_size - 1].to_vec()).unwrap();
            at = (at + 110 + name_size).next_multiple_of(4);
            at = (at + size).next_multiple_of(4);
            if name == "TRAILER!!!" {
                assert!(bytes[at..].iter().all(|byte| *byte == 0));
                return names;
            }
            names.push(name);
        }
    }

    #[test]
    fn folders_precede_their_contents_and_the_order_of_adding_does_not_show() {
        let mut one = Archive::new();
        one.file("/usr/bin/late", b"late".to_vec(), true);
        one.file("/etc/early", b"e".to_vec(), false);
        let mut other = Archive::new();
        other.file("/etc/early", b"e".to_vec(), false);
        other.file("/bin/late", b"late".to_vec(), true);
        assert_eq!(names(&one.bytes()), ["etc", "etc/early", "usr", "usr/bin", "usr/bin/late"]);
        assert_eq!(one.bytes(), other.bytes());
        assert_eq!(one.bytes().len() % 512, 0);
    }

    #[test]
    fn ldd_is_understood() {
        assert_eq!(library_of("\tlinux-vdso.so.1 (0x00007fff)"), None);
        assert_eq!(
            library_of("\tlibc.so.6 => /lib/x86_64-linux-gnu/libc.so.6 (0x7f)"),
            Some("/lib/x86_64-linux-gnu/libc.so.6")
        );
        assert_eq!(library_of("\t/lib64/ld-linux-x86-64.so.2 (0x7f)"), Some("/lib64/ld-linux-x86-64.so.2"));
    }
}
