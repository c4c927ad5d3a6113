//! The machine as its `/proc` and `/sys` tell it, below one root folder, so that a test can put a machine of its own there.

use std::{
    fs, io,
    path::{Path, PathBuf},
    process::Command,
};

/// Reads below one folder. What is not there, or cannot be read, is `None`: kernels differ in what they show.
#[derive(Clone, Debug)]
pub(crate) struct Host {
    root: PathBuf,
}

impl Host {
    /// The machine whose `proc` and `sys` are in `root`; `/` is this one.
    pub(crate) fn at(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.root.join(Path::new(path).strip_prefix("/").unwrap_or(Path::new(path)))
    }

    /// The text of a file, without white space around it.
    pub(crate) fn text(&self, path: &str) -> Option<String> {
        let bytes = fs::read(self.path(path)).ok()?;
        Some(String::from_utf8_lossy(&bytes).trim().to_owned())
    }

    /// A file that holds one number, decimal or with `0x`.
    pub(crate) fn number(&self, path: &str) -> Option<u64> {
        let text = self.text(path)?;
        text.strip_prefix("0x").map_or_else(|| text.parse().ok(), |digits| u64::from_str_radix(digits, 16).ok())
    }

    /// A file that holds a list such as `0-3,8`.
    pub(crate) fn numbers(&self, path: &str) -> Option<Vec<u16>> {
        numbers(&self.text(path)?)
    }

    /// The names in a folder, sorted; none if there is no such folder.
    pub(crate) fn names(&self, path: &str) -> Vec<String> {
        let entries = fs::read_dir(self.path(path)).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// The last name of what a link points to: how `/sys` says which driver or group a device has.
    pub(crate) fn link(&self, path: &str) -> Option<String> {
        fs::read_link(self.path(path)).ok()?.file_name()?.to_str().map(str::to_owned)
    }

    pub(crate) fn exists(&self, path: &str) -> bool {
        self.path(path).exists()
    }

    /// Whether this user may read and write a file, such as a device's.
    pub(crate) fn opens(&self, path: &str) -> io::Result<()> {
        fs::OpenOptions::new().read(true).write(true).open(self.path(path)).map(drop)
    }

    /// The word in brackets of a choice such as `always [madvise] never`.
    pub(crate) fn chosen(&self, path: &str) -> Option<String> {
        let text = self.text(path)?;
        Some(text.split_once('[')?.1.split_once(']')?.0.to_owned())
    }

    /// What `ip` shows of all interfaces, in JSON: which XDP programs they have stands in no file. A machine that is made of files
    /// has that in one, `ip-link.json`.
    pub(crate) fn links(&self) -> Option<String> {
        if self.root != Path::new("/") {
            return self.text("/ip-link.json");
        }
        let output = Command::new("ip").args(["-json", "link"]).output().ok()?;
        output.status.success().then(|| String::from_utf8_lossy(&output.stdout).into_owned())
    }

    /// Whether a program of this name runs.
    pub(crate) fn runs(&self, program: &str) -> bool {
        let processes = self.names("/proc");
        let mut numbers = processes.iter().filter(|name| name.bytes().all(|byte| byte.is_ascii_digit()));
        numbers.any(|number| self.text(&format!("/proc/{number}/comm")).is_some_and(|name| name == program))
    }
}

/// Reads a list such as `0-3,8`; empty is a list too.
pub(crate) fn numbers(text: &str) -> Option<Vec<u16>> {
    let mut list = Vec::new();
    for part in text.trim().split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        list.extend(first.parse::<u16>().ok()?..=last.parse::<u16>().ok()?);
    }
    Some(list)
}

/// Writes such a list, as the kernel's command line takes it.
pub(crate) fn list(numbers: &[u16]) -> String {
    numbers.iter().map(u16::to_string).collect::<Vec<_>>().join(",")
}

/// Bytes for people: `132 MiB`, `2 GiB`, `512 KiB`.
pub(crate) fn bytes(bytes: u64) -> String {
    match bytes {
        0..0x10_0000 => format!("{} KiB", bytes.div_ceil(1 << 10)),
        0x10_0000..0x8000_0000 => format!("{} MiB", bytes.div_ceil(1 << 20)),
        _ => format!("{} GiB", bytes.div_ceil(1 << 30)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_are_read_as_the_kernel_writes_them() {
        assert_eq!(numbers("0-3,8\n"), Some(vec![0, 1, 2, 3, 8]));
        assert_eq!(numbers(""), Some(vec![]));
        assert_eq!(numbers("(null)"), None);
        assert_eq!(list(&[2, 3, 8]), "2,3,8");
    }

    #[test]
    fn what_is_not_there_is_not_read() {
        let host = Host::at("/nonexistent");
        assert_eq!((host.text("/proc/version"), host.names("/sys"), host.link("/sys/x")), (None, vec![], None));
        assert!(!host.exists("/proc") && !host.runs("tachyond"));
    }
}
