//! Gets what the lab needs from Debian into a folder, and installs nothing.
//!
//! apt does the work with lists and archives of its own kept in that folder, so it needs no rights, and every package is
//! checked against the signed lists. Sources are the machine's own; the backports suite is taken from wherever the
//! main suite comes from, because the emulator of Debian 12 has no card with several queues. What is there already is
//! not fetched again, and then no network is needed; to get newer versions, the folder is deleted.

use anyhow::{Context, Result, bail};
use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::Command,
};

/// What the guest and its emulator are made of. Packages that the machine has installed are used where they are.
/// xz-utils and zstd unpack kernels and modules; dpdk-dev has testpmd; iproute2's `ip` knows namespaces, busybox's does not;
/// perftest is what the verbs driver is compared with, and ibverbs-providers has what libibverbs loads for the soft device.
const PACKAGES: &[&str] =
    &["busybox-static", "dpdk-dev", "ibverbs-providers", "iproute2", "perftest", "xz-utils", "zstd"];

/// From backports: igb, the only emulated card with several queues and real RSS, came with QEMU 8.
const BACKPORTED: &[&str] = &["qemu-system-x86"];

/// The release whose packages fit together here: testpmd is linked with its DPDK 22.11.
const CODENAME: &str = "bookworm";

/// Where fetched things lie.
#[derive(Debug)]
pub struct Cache {
    folder: PathBuf,
    /// Held as long as the cache is open: two who fetch at once would clear each other's half-made folders.
    _lock: File,
}

/// A kernel package, unpacked.
#[derive(Debug, Clone)]
pub struct KernelFiles {
    /// The compressed image.
    pub image: PathBuf,
    /// The folder with the modules.
    pub modules: PathBuf,
}

impl Cache {
    /// A cache in `folder`, usually `target/lab`.
    ///
    /// # Errors
    ///
    /// Says so if this is not Debian 12, or if the folder cannot be made.
    pub fn open(folder: &Path) -> Result<Self> {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        if !release.lines().any(|line| line == format!("VERSION_CODENAME={CODENAME}")) {
            bail!("the lab is made of Debian 12's packages, and this is another system: run it on Debian 12");
        }
        fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let folder = folder.canonicalize()?;
        let lock = File::create(folder.join("lock"))?;
        lock.lock()?;
        Ok(Self { folder, _lock: lock })
    }

    /// The folder.
    #[must_use]
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Fetches emulator and programs unless they are there; returns their root, which [`Tools`] looks into.
    ///
    /// # Errors
    ///
    /// Says what apt could not do, most often because there is no network.
    pub fn tools(&self) -> Result<Tools> {
        let root = self.folder.join("tools");
        let asked = format!("{PACKAGES:?} {BACKPORTED:?}");
        if fs::read_to_string(root.join("complete")).is_ok_and(|had| had == asked) {
            return Ok(Tools { root });
        }
        self.update()?;
        let archives = self.folder.join("apt/archives");
        empty(&archives)?;
        fs::create_dir_all(archives.join("partial"))?;
        let install = ["install", "-yqq", "--download-only", "--no-install-recommends"];
        let backports = format!("{CODENAME}-backports");
        self.apt("apt-get", &[&install[..], PACKAGES].concat())?;
        self.apt("apt-get", &[&install[..], &["-t", &backports], BACKPORTED].concat())?;
        empty(&root)?;
        for archive in packages_in(&archives)? {
            unpack(&archive, &root)?;
        }
        empty(&archives)?;
        // Written last: a folder without it was left half-made, and is made again.
        fs::write(root.join("complete"), asked)?;
        Ok(Tools { root })
    }

    /// Fetches the newest kernel of a series, such as `6.1` (Debian 12's own) or `6.12` (from its backports).
    ///
    /// # Errors
    ///
    /// Says what apt could not do, or that there is no such kernel.
    pub fn kernel(&self, series: &str) -> Result<KernelFiles> {
        if let Some(files) = self.unpacked_kernel(series)? {
            return Ok(files);
        }
        self.update()?;
        let shown = self.apt("apt-cache", &["show", "linux-image-amd64"])?;
        let package = newest_kernel(&shown, series)
            .with_context(|| format!("Debian 12 and its backports have no kernel {series}: ask for 6.1 or 6.12"))?;
        let download = self.folder.join("apt/kernel");
        empty(&download)?;
        let output = self.command("apt-get").current_dir(&download).args(["-qq", "download", package]).output()?;
        if !output.status.success() {
            bail!("apt-get cannot download {package}: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let folder = self.folder.join(package);
        empty(&folder)?;
        for archive in packages_in(&download)? {
            unpack(&archive, &folder)?;
        }
        fs::write(folder.join("complete"), "")?;
        empty(&download)?;
        self.unpacked_kernel(series)?.with_context(|| format!("{package} has no /boot/vmlinuz and /lib/modules"))
    }

    fn unpacked_kernel(&self, series: &str) -> Result<Option<KernelFiles>> {
        for entry in fs::read_dir(&self.folder)? {
            let (folder, name) = entry.map(|entry| (entry.path(), entry.file_name()))?;
            let Some(release) = name.to_str().and_then(|name| name.strip_prefix("linux-image-")) else { continue };
            if in_series(release, series) && folder.join("complete").exists() {
                let files = KernelFiles {
                    image: folder.join(format!("boot/vmlinuz-{release}")),
                    modules: folder.join(format!("lib/modules/{release}")),
                };
                return Ok(Some(files).filter(|files| files.image.exists() && files.modules.exists()));
            }
        }
        Ok(None)
    }

    /// Writes apt's configuration and sources into the folder and has the lists read.
    fn update(&self) -> Result<()> {
        let apt = self.folder.join("apt");
        for folder in ["lists/partial", "archives/partial"] {
            fs::create_dir_all(apt.join(folder))?;
        }
        let format = "$(REPO_URI) $(RELEASE) $(COMPONENT) $(SIGNED_BY)";
        let targets =
            Command::new("apt-get").args(["indextargets", "--format", format, "Created-By: Packages"]).output();
        let targets = String::from_utf8(targets.context("cannot start apt-get")?.stdout)?;
        let sources = sources(&targets)
            .with_context(|| format!("apt has no source for {CODENAME}: add one to /etc/apt/sources.list.d"))?;
        fs::write(apt.join("sources.list"), sources)?;
        // The hooks cleared here would act on the system's own lists and archives, which are none of our business.
        let at = apt.display();
        let configuration = format!(
            "#clear APT::Update::Post-Invoke;\n#clear APT::Update::Post-Invoke-Success;\n#clear DPkg::Post-Invoke;\n\
             Dir::State::lists \"{at}/lists\";\nDir::Cache \"{at}\";\nDir::Cache::archives \"archives\";\n\
             Dir::Etc::sourcelist \"{at}/sources.list\";\nDir::Etc::sourceparts \"-\";\n\
             APT::Sandbox::User \"\";\nDebug::NoLocking \"true\";\nAcquire::Retries \"2\";\n"
        );
        fs::write(apt.join("apt.conf"), configuration)?;
        // An unreachable source is only a warning to apt, unless it is told otherwise.
        self.apt("apt-get", &["update", "-qq", "-o", "APT::Update::Error-Mode=any"])
            .context("cannot read Debian's lists of packages; is there a network?")?;
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.arg("-c").arg(self.folder.join("apt/apt.conf")).env("LC_ALL", "C");
        command
    }

    fn apt(&self, program: &str, words: &[&str]) -> Result<String> {
        let output = self.command(program).args(words).output().with_context(|| format!("cannot start {program}"))?;
        if !output.status.success() {
            bail!("{program} {} failed: {}", words[0], String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(String::from_utf8(output.stdout)?)
    }
}

/// Programs and libraries, looked for in the fetched packages first and then on the machine.
#[derive(Debug, Clone)]
pub struct Tools {
    root: PathBuf,
}

impl Tools {
    /// Where the fetched packages were unpacked.
    #[must_use]
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The file that is, or would be, installed at the absolute `path`.
    ///
    /// # Errors
    ///
    /// Names the path if it is in neither place.
    pub fn find(&self, path: &str) -> Result<PathBuf> {
        let fetched = self.root.join(path.trim_start_matches('/'));
        [fetched, PathBuf::from(path)].into_iter().find(|path| path.exists()).with_context(|| {
            format!("{path} is neither in the lab's packages nor here: delete target/lab to fetch again")
        })
    }

    /// A command that runs the program installed at `path`, with the libraries that were fetched for it.
    ///
    /// # Errors
    ///
    /// As [`find`](Self::find).
    pub fn command(&self, path: &str) -> Result<Command> {
        let mut command = Command::new(self.find(path)?);
        command.env("LD_LIBRARY_PATH", self.libraries());
        Ok(command)
    }

    /// Folders of fetched libraries, as a loader wants them in `LD_LIBRARY_PATH`.
    #[must_use]
    pub fn libraries(&self) -> String {
        let folders = ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu"];
        folders.map(|folder| self.root.join(folder).display().to_string()).join(":")
    }
}

/// apt's sources for the lab: those of the machine that belong to the release, and backports beside the main one.
/// `targets` has a line of address, suite, component and keyring for each.
fn sources(targets: &str) -> Option<String> {
    let mut sources = String::new();
    let mut main = false;
    for target in targets.lines() {
        let mut words = target.split(' ');
        let (Some(address), Some(suite), Some("main")) = (words.next(), words.next(), words.next()) else { continue };
        // Where a source names no keyring, apt leaves the placeholder as it is and trusts its usual ones.
        let keyring = words.next().filter(|path| path.starts_with('/'));
        let options = keyring.map_or(String::new(), |path| format!("[signed-by={path}] "));
        let mut add = |suite: &str| sources.push_str(&format!("deb {options}{address} {suite} main\n"));
        match suite.strip_prefix(CODENAME) {
            Some("") => {
                main = true;
                add(suite);
                add(&format!("{CODENAME}-backports"));
            }
            Some("-updates" | "-security") => add(suite),
            _ => {}
        }
    }
    main.then_some(sources)
}

/// The package of the newest kernel in `series`, out of what apt shows of `linux-image-amd64`, which has newest first.
fn newest_kernel<'a>(shown: &'a str, series: &str) -> Option<&'a str> {
    let depends = shown.lines().filter_map(|line| line.strip_prefix("Depends: "));
    let packages = depends.flat_map(|depends| depends.split([',', ' ', '|']));
    packages
        .into_iter()
        .find(|package| package.strip_prefix("linux-image-").is_some_and(|release| in_series(release, series)))
}

/// Whether `6.12.95+deb12-amd64` is of the series `6.12`, and not only of one that begins alike.
fn in_series(release: &str, series: &str) -> bool {
    release.strip_prefix(series).is_some_and(|rest| rest.starts_with('.'))
}

fn packages_in(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "deb") {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

fn unpack(archive: &Path, root: &Path) -> Result<()> {
    let output = Command::new("dpkg-deb").arg("-x").args([archive, root]).output().context("cannot start dpkg-deb")?;
    if !output.status.success() {
        bail!("dpkg-deb cannot unpack {}: {}", archive.display(), String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}

fn empty(folder: &Path) -> Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot clear {}", folder.display()))?;
    }
    fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backports_come_from_where_the_main_suite_comes_from() {
        let targets = "http://one/debian/ bookworm main /usr/share/keyrings/a.gpg\n\
                       http://one/debian/ bookworm-updates main /usr/share/keyrings/a.gpg\n\
                       http://two/security/ bookworm-security main $(SIGNED_BY)\n\
                       http://three/ cloud-bookworm main /k.gpg\nhttp://one/debian/ bookworm contrib /k.gpg\n";
        let expected = "deb [signed-by=/usr/share/keyrings/a.gpg] http://one/debian/ bookworm main\n\
                        deb [signed-by=/usr/share/keyrings/a.gpg] http://one/debian/ bookworm-backports main\n\
                        deb [signed-by=/usr/share/keyrings/a.gpg] http://one/debian/ bookworm-updates main\n\
                        deb http://two/security/ bookworm-security main\n";
        assert_eq!(sources(targets).as_deref(), Some(expected));
        assert_eq!(sources("http://three/ trixie main /k.gpg\n"), None);
    }

    #[test]
    fn a_series_is_not_one_that_begins_alike() {
        let shown = "Version: 6.12.95-1~bpo12+1\nDepends: linux-image-6.12.95+deb12-amd64 (= 6.12.95-1~bpo12+1)\n\
                     Version: 6.1.192-2\nDepends: linux-image-6.1.0-56-amd64 (= 6.1.192-2)\n\
                     Version: 6.1.176-1\nDepends: linux-image-6.1.0-50-amd64 (= 6.1.176-1)\n";
        assert_eq!(newest_kernel(shown, "6.1"), Some("linux-image-6.1.0-56-amd64"));
        assert_eq!(newest_kernel(shown, "6.12"), Some("linux-image-6.12.95+deb12-amd64"));
        assert_eq!(newest_kernel(shown, "6.2"), None);
    }
}
