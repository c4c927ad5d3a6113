//! What outlives a start: the boot number and the last good ruleset, each in one file of the state folder.
//!
//! The folder belongs to the user that the node becomes, and the next start is root's again. So nothing here follows a link in it, by
//! which that user could have root write to or give away what is not the node's.

use anyhow::{Context, bail};
use rustix::fs::OFlags;
use std::{
    fs::{self, DirBuilder, File, TryLockError},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown, lchown},
    path::{Path, PathBuf},
};
use tachyon_segment::{IMAGE_BYTES_MAX, SealedImage};

/// The state folder, held by one `tachyond` at a time.
#[derive(Debug)]
pub(crate) struct StateFolder {
    path: PathBuf,
    _lock: File,
}

impl StateFolder {
    /// Opens the folder, making it if need be, and keeps others out for as long as this value lives.
    pub(crate) fn open(path: &Path) -> anyhow::Result<Self> {
        make_folder(path, 0o700).with_context(|| format!("cannot make state_dir {}", path.display()))?;
        let no_link = OFlags::NOFOLLOW.bits().cast_signed();
        let lock = File::options().create(true).append(true).custom_flags(no_link).open(path.join("lock"));
        let lock = lock.with_context(|| format!("cannot write to state_dir {}", path.display()))?;
        match lock.try_lock() {
            Ok(()) => Ok(Self { path: path.to_owned(), _lock: lock }),
            Err(TryLockError::WouldBlock) => {
                bail!(
                    "another tachyond uses state_dir {}; stop it or give this one a state_dir of its own",
                    path.display()
                )
            }
            Err(TryLockError::Error(error)) => Err(error).context("cannot lock state_dir"),
        }
    }

    /// Counts this start, on stable storage before it returns: no frame may be sent under a number that could come again.
    pub(crate) fn next_boot_number(&self) -> anyhow::Result<u16> {
        let path = self.path.join("boot-number");
        let last = match fs::read_to_string(&path) {
            Ok(text) => text.trim().parse::<u16>().with_context(|| {
                format!("{} is damaged; write a number above that of the last start into it", path.display())
            })?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
        };
        let Some(number) = last.checked_add(1) else {
            bail!("boot numbers are used up; close all sessions in control, then remove {}", path.display());
        };
        self.replace("boot-number", format!("{number}\n").as_bytes())?;
        Ok(number)
    }

    /// The last good ruleset's bytes, if one was stored.
    pub(crate) fn last_good(&self) -> io::Result<Option<SealedImage>> {
        let path = self.path.join("last-good.ruleset");
        match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
            Ok(found) if found.len() > IMAGE_BYTES_MAX as u64 => {
                return Err(io::Error::other(format!("{} bytes are no ruleset", found.len())));
            }
            Ok(_) => {}
        }
        SealedImage::from_bytes(&fs::read(path)?).map(Some)
    }

    /// Stores a ruleset as the last good one.
    pub(crate) fn store_last_good(&self, image: &[u8]) -> anyhow::Result<()> {
        self.replace("last-good.ruleset", image)
    }

    /// Gives the folder and what is in it to another user.
    pub(crate) fn give_to(&self, uid: u32, gid: u32) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let path = entry?.path();
            lchown(&path, Some(uid), Some(gid)).with_context(|| format!("cannot give {} away", path.display()))?;
        }
        // Where the folder itself is, the node file says, which may name a link.
        chown(&self.path, Some(uid), Some(gid)).with_context(|| format!("cannot give {} away", self.path.display()))
    }

    /// Replaces a file in one step: whoever reads it, also after a crash, sees the old content or the new one.
    fn replace(&self, name: &str, content: &[u8]) -> anyhow::Result<()> {
        let (path, new) = (self.path.join(name), self.path.join(format!("{name}.new")));
        let write = || -> io::Result<()> {
            match fs::remove_file(&new) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            let mut file = File::create_new(&new)?;
            file.write_all(content)?;
            file.sync_all()?;
            fs::rename(&new, &path)?;
            File::open(&self.path)?.sync_all() // the rename itself
        };
        write().with_context(|| format!("cannot store {}", path.display()))
    }
}

/// Makes a folder and those above it; an existing one keeps its rights.
pub(crate) fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(mode).create(path)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Self {
            Self(std::env::temp_dir().join(format!("tachyond-state-{name}-{}", std::process::id())))
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.0);
        }
    }

    #[test]
    fn every_start_gets_the_next_boot_number() {
        let folder = Folder::new("boot");
        for expected in 1..4 {
            let state = StateFolder::open(&folder.0).unwrap();
            assert_eq!(state.next_boot_number().unwrap(), expected);
        }
    }

    #[test]
    fn never_starts_under_a_number_that_may_have_been_used() {
        let folder = Folder::new("damaged");
        let state = StateFolder::open(&folder.0).unwrap();
        for (content, says) in [("", "damaged"), ("12x", "damaged"), ("65536", "damaged"), ("65535", "used up")] {
            fs::write(folder.0.join("boot-number"), content).unwrap();
            let error = format!("{:#}", state.next_boot_number().unwrap_err());
            assert!(error.contains(says), "{content:?}: {error}");
            assert_eq!(fs::read_to_string(folder.0.join("boot-number")).unwrap(), content);
        }
    }

    #[test]
    fn keeps_a_second_tachyond_out() {
        let folder = Folder::new("lock");
        let first = StateFolder::open(&folder.0).unwrap();
        assert!(format!("{:#}", StateFolder::open(&folder.0).unwrap_err()).contains("another tachyond"));
        drop(first);
        StateFolder::open(&folder.0).unwrap();
    }

    #[test]
    fn follows_no_link_in_the_folder() {
        let folder = Folder::new("links");
        let state = StateFolder::open(&folder.0).unwrap();
        let foreign = folder.0.join("foreign");
        fs::write(&foreign, "theirs").unwrap();
        symlink(&foreign, folder.0.join("boot-number.new")).unwrap();
        assert_eq!(state.next_boot_number().unwrap(), 1);
        assert_eq!(fs::read_to_string(&foreign).unwrap(), "theirs");
        // What a link to nothing points to cannot be given away; the link itself can.
        symlink(folder.0.join("nothing"), folder.0.join("link")).unwrap();
        state.give_to(rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw()).unwrap();
        drop(state);
        fs::remove_file(folder.0.join("lock")).unwrap();
        symlink(folder.0.join("nothing"), folder.0.join("lock")).unwrap();
        StateFolder::open(&folder.0).unwrap_err();
        assert!(!folder.0.join("nothing").exists(), "nobody's file was made");
    }

    #[test]
    fn the_last_good_ruleset_survives() {
        let folder = Folder::new("ruleset");
        let state = StateFolder::open(&folder.0).unwrap();
        assert!(state.last_good().unwrap().is_none());
        state.store_last_good(b"first").unwrap();
        state.store_last_good(b"second").unwrap();
        assert_eq!(state.last_good().unwrap().unwrap().as_ref(), b"second");
        let huge = File::create(folder.0.join("last-good.ruleset")).unwrap();
        huge.set_len(IMAGE_BYTES_MAX as u64 + 1).unwrap();
        assert!(state.last_good().is_err());
    }
}
