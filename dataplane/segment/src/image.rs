//! Images in sealed memory: rulesets, and lists of denied sources.

use crate::mapping::Mapping;
use rustix::fs::{MemfdFlags, SealFlags, fcntl_add_seals, fcntl_get_seals, fstat, memfd_create};
use std::{
    fs::File,
    io::{self, Write},
    os::fd::{AsFd, OwnedFd},
};

/// Most bytes of an image: 128 MiB. The largest sections that `wire::image` allows are 32 MiB of topics, 16 MiB of
/// senders, 1.25 MiB of routes and 16 MiB of targets; the rest is room for rights.
pub const IMAGE_BYTES_MAX: usize = 128 << 20;

/// The seals that make an image immutable for good: no writing, no resizing, and no way to take that back.
const SEALS: SealFlags = SealFlags::WRITE.union(SealFlags::SHRINK).union(SealFlags::GROW).union(SealFlags::SEAL);

/// Copies `bytes` into memory that nobody, not even this process, can change afterwards.
///
/// # Errors
/// `InvalidInput` if `bytes` is longer than [`IMAGE_BYTES_MAX`]; otherwise what the kernel says.
pub fn seal_image(bytes: &[u8]) -> io::Result<OwnedFd> {
    if bytes.len() > IMAGE_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, size_text(bytes.len() as u64)));
    }
    seal(bytes)
}

/// The same for whatever may be empty.
pub(crate) fn seal(bytes: &[u8]) -> io::Result<OwnedFd> {
    let fd = memfd_create("tachyon-ruleset", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING)?;
    let mut file = File::from(fd);
    file.write_all(bytes)?;
    fcntl_add_seals(&file, SEALS)?;
    Ok(file.into())
}

/// An image that somebody sealed: mapped read-only, and known never to change. One without bytes, which is how a list without
/// entries travels, has no mapping, because the kernel makes none of no length.
#[derive(Debug)]
pub struct SealedImage(Option<Mapping>);

impl SealedImage {
    /// Maps a sealed descriptor. What the bytes say is not looked at.
    ///
    /// # Errors
    /// `InvalidData` if it is not sealed against writing, shrinking, growing and further sealing, or if its size is
    /// more than [`IMAGE_BYTES_MAX`]; otherwise what the kernel says.
    pub fn adopt(fd: impl AsFd) -> io::Result<Self> {
        // Files that cannot be sealed at all (disk files, pipes, sockets) end here too, with EINVAL.
        let seals = fcntl_get_seals(&fd).map_err(|error| {
            io::Error::new(io::ErrorKind::InvalidData, format!("the descriptor is no sealed memory file: {error}"))
        })?;
        if !seals.contains(SEALS) {
            let text = format!("the image is not sealed: has {seals:?}, needs {SEALS:?}");
            return Err(io::Error::new(io::ErrorKind::InvalidData, text));
        }
        let size = u64::try_from(fstat(&fd)?.st_size).unwrap_or(u64::MAX);
        match usize::try_from(size) {
            Ok(0) => Ok(Self(None)),
            Ok(len) if len <= IMAGE_BYTES_MAX => Ok(Self(Some(Mapping::read_only(fd, len)?))),
            _ => Err(io::Error::new(io::ErrorKind::InvalidData, size_text(size))),
        }
    }

    /// Seals a copy of `bytes` and maps it.
    ///
    /// # Errors
    /// As [`seal_image`].
    pub fn from_bytes(bytes: &[u8]) -> io::Result<Self> {
        Self::adopt(seal_image(bytes)?)
    }
}

impl AsRef<[u8]> for SealedImage {
    fn as_ref(&self) -> &[u8] {
        let Some(mapping) = &self.0 else { return &[] };
        // SAFETY: `adopt` saw the seals against writing and shrinking, and the seal that keeps them.
        unsafe { mapping.bytes() }
    }
}

fn size_text(size: u64) -> String {
    format!("an image of {size} bytes is impossible: it has at most {IMAGE_BYTES_MAX}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn memfd(bytes: &[u8], seals: SealFlags) -> File {
        let fd = memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap();
        let mut file = File::from(fd);
        file.write_all(bytes).unwrap();
        fcntl_add_seals(&file, seals).unwrap();
        file
    }

    fn refusal(fd: impl AsFd) -> String {
        let error = SealedImage::adopt(fd).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
        error.to_string()
    }

    #[test]
    fn an_image_comes_back_as_it_went_in() {
        let bytes: Vec<u8> = (0..10_000u32).map(|i| u8::try_from(i % 251).unwrap()).collect();
        let fd = seal_image(&bytes).unwrap();
        assert_eq!(SealedImage::adopt(&fd).unwrap().as_ref(), bytes);
        assert_eq!(SealedImage::from_bytes(&bytes).unwrap().as_ref(), bytes);
    }

    #[test]
    fn a_sealed_image_cannot_be_written_any_more() {
        let mut file = File::from(seal_image(b"rules").unwrap());
        assert!(file.write_all(b"other").is_err());
        assert!(file.set_len(1).is_err());
        assert!(Mapping::read_write(&file, 5).is_err());
    }

    #[test]
    fn refuses_every_memory_file_that_lacks_a_seal() {
        for missing in [SealFlags::WRITE, SealFlags::SHRINK, SealFlags::GROW, SealFlags::SEAL] {
            let text = refusal(memfd(b"rules", SEALS.difference(missing)));
            assert!(text.contains("not sealed"), "{missing:?}: {text}");
        }
        assert!(refusal(memfd(b"rules", SealFlags::empty())).contains("not sealed"));
    }

    #[test]
    fn refuses_files_that_cannot_be_sealed() {
        assert!(refusal(File::open("/proc/self/exe").unwrap()).contains("no sealed memory file"));
        let (socket, _other) = std::os::unix::net::UnixStream::pair().unwrap();
        assert!(refusal(socket).contains("no sealed memory file"));
    }

    #[test]
    fn an_image_without_bytes_comes_back_without_bytes() {
        assert!(SealedImage::from_bytes(&[]).unwrap().as_ref().is_empty());
        assert!(refusal(memfd(b"", SEALS.difference(SealFlags::GROW))).contains("not sealed"));
    }

    #[test]
    fn refuses_images_that_are_too_large() {
        let large = File::from(memfd_create("test", MemfdFlags::CLOEXEC | MemfdFlags::ALLOW_SEALING).unwrap());
        large.set_len(IMAGE_BYTES_MAX as u64 + 1).unwrap(); // sparse: takes no memory
        fcntl_add_seals(&large, SEALS).unwrap();
        assert!(refusal(large).contains("impossible"));
        assert_eq!(seal_image(&vec![0; IMAGE_BYTES_MAX + 1]).unwrap_err().kind(), io::ErrorKind::InvalidInput);
    }
}
