//! Where pins are, and which interface they are of.

use crate::{Doing, LoaderError, Result};
use rustix::{
    fs::{AtFlags, CWD, Gid, Mode, OFlags, Uid, chownat, open, statfs},
    io::Errno,
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

/// Gives the files of these names in an interface's folder to a user, as far as they are there, and both folders. Links below
/// `pins` are not followed: all of it may be that user's already, who could have what is not its own given away.
pub(crate) fn give_to(pins: &Path, interface: &str, names: &[&str], (uid, gid): (u32, u32)) -> Result<()> {
    let path = folder(pins, interface);
    let (uid, gid) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
    let there = match open(&path, OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty()) {
        Err(Errno::NOENT) => None,
        opened => Some(opened.doing(|| format!("{} cannot be opened", path.display()))?),
    };
    if let Some(there) = there {
        for name in names {
            match chownat(&there, *name, uid, gid, AtFlags::SYMLINK_NOFOLLOW) {
                Err(Errno::NOENT) => {}
                given => given.doing(|| format!("{} cannot be given away", path.join(name).display()))?,
            }
        }
        chownat(&there, "", uid, gid, AtFlags::EMPTY_PATH)
            .doing(|| format!("{} cannot be given away", path.display()))?;
    }
    match chownat(CWD, pins, uid, gid, AtFlags::empty()) {
        Err(Errno::NOENT) => Ok(()),
        given => given.doing(|| format!("{} cannot be given away", pins.display())),
    }
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

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::process::{getegid, geteuid};
    use std::os::unix::fs::symlink;

    #[test]
    fn nothing_is_given_away_through_a_link() {
        let pins = std::env::temp_dir().join(format!("tachyon-pins-{}", std::process::id()));
        let own = (geteuid().as_raw(), getegid().as_raw());
        fs::create_dir_all(pins.join("eth0:1")).unwrap();
        // Where a link to itself points to cannot be given away; the link itself can.
        symlink("link", pins.join("eth0:1/link")).unwrap();
        give_to(&pins, "eth0.1", &["counters", "link"], own).unwrap();
        symlink(pins.join("eth0:1"), pins.join("eth1")).unwrap();
        give_to(&pins, "eth1", &["link"], own).unwrap_err();
        fs::remove_dir_all(pins).unwrap();
    }
}
