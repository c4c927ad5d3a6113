//! Where pins are, and which interface they are of.

use crate::{Doing, LoaderError, Result};
use rustix::{
    fs::statfs,
    mount::{MountFlags, mount},
    net::{AddressFamily, SocketType, netdevice, socket},
};
use std::{
    fs,
    path::{Path, PathBuf},
};

/// What `statfs` says of a bpf file system (BPF_FS_MAGIC in linux/magic.h).
const BPF_FS: u64 = 0xcafe_4a11;
/// Where everybody expects it.
const USUAL: &str = "/sys/fs/bpf";

/// The kernel's number of an interface in this network namespace.
pub(crate) fn index_of(interface: &str) -> Result<u32> {
    let asked = socket(AddressFamily::INET, SocketType::DGRAM, None)
        .and_then(|socket| netdevice::name_to_index(&socket, interface));
    asked.doing(|| format!("there is no interface {interface} in this network namespace"))
}

/// The folder for an interface's pins. A bpf file system refuses dots, and no interface has a colon, so VLAN devices swap
/// them.
pub(crate) fn folder(pins: &Path, interface: &str) -> PathBuf {
    pins.join(interface.replace('.', ":"))
}

/// The same, made if it is not there.
pub(crate) fn make_folder(pins: &Path, interface: &str) -> Result<PathBuf> {
    ensure_bpf(pins)?;
    let folder = folder(pins, interface);
    fs::create_dir_all(&folder).doing(|| format!("{} cannot be made", folder.display()))?;
    Ok(folder)
}

/// Makes sure that pins will be on a bpf file system. The usual one is mounted if nobody has.
fn ensure_bpf(pins: &Path) -> Result<()> {
    let there = pins.ancestors().find(|path| path.exists()).unwrap_or(Path::new("/"));
    if is_bpf(there) {
        return Ok(());
    }
    if pins.starts_with(USUAL) {
        let mounted = mount("bpf", USUAL, "bpf", MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC, None);
        return mounted.doing(|| format!("no bpf file system is there; as root: mount -t bpf bpf {USUAL}"));
    }
    Err(LoaderError(format!("{} is on no bpf file system; mount one there, or pin below {USUAL}", pins.display())))
}

fn is_bpf(path: &Path) -> bool {
    statfs(path).is_ok_and(|found| found.f_type.cast_unsigned() == BPF_FS)
}
