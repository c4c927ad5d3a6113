//! The calls into libbpf for which libbpf-rs has no safe form.

use libbpf_rs::libbpf_sys;
use std::{
    ffi::CString,
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    os::unix::ffi::OsStrExt,
    path::Path,
};

/// The error of a call that gives a negative error number.
fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

fn owned(result: i32) -> io::Result<OwnedFd> {
    let fd = checked(result)?;
    // SAFETY: the call that gave this descriptor opened it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    Ok(CString::new(path.as_os_str().as_bytes())?)
}

/// Attaches a program to an interface; `flags` are XDP_FLAGS_…
pub(crate) fn link_create(program: BorrowedFd<'_>, ifindex: u32, flags: u32) -> io::Result<OwnedFd> {
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as u64,
        flags,
        ..Default::default()
    };
    let ifindex = i32::try_from(ifindex).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open and the options outlive the call, which keeps neither.
    owned(unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), ifindex, libbpf_sys::BPF_XDP, &raw const options) })
}

/// Puts another program in place of the one of a link; every packet sees one or the other.
pub(crate) fn link_update(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open, and no options means the default ones.
    checked(unsafe { libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) })?;
    Ok(())
}

/// Ends a link at once, whoever holds it.
pub(crate) fn link_detach(link: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: the descriptor is open.
    checked(unsafe { libbpf_sys::bpf_link_detach(link.as_raw_fd()) })?;
    Ok(())
}

/// Gives an object of the kernel a name on a bpf file system, which keeps it alive.
pub(crate) fn pin(object: BorrowedFd<'_>, path: &Path) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: the descriptor is open, and the path is a C string that outlives the call.
    checked(unsafe { libbpf_sys::bpf_obj_pin(object.as_raw_fd(), path.as_ptr()) })?;
    Ok(())
}

/// Opens a loaded program.
pub(crate) fn program_by_id(id: u32) -> io::Result<OwnedFd> {
    // SAFETY: the call takes a number and cannot be misused.
    owned(unsafe { libbpf_sys::bpf_prog_get_fd_by_id(id) })
}

/// What the kernel says of a program, and the ids of its maps.
pub(crate) fn program_info(program: BorrowedFd<'_>) -> io::Result<(libbpf_sys::bpf_prog_info, Vec<u32>)> {
    // More than the program has; the kernel writes as many as fit.
    let mut maps = vec![0_u32; 32];
    let mut info = libbpf_sys::bpf_prog_info {
        nr_map_ids: 32,
        map_ids: maps.as_mut_ptr().expose_provenance() as u64,
        ..Default::default()
    };
    let mut bytes = u32::try_from(size_of_val(&info)).map_err(io::Error::other)?;
    // SAFETY: the kernel writes at most `bytes` to `info` and `nr_map_ids` numbers to `maps`; both outlive the call.
    checked(unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(program.as_raw_fd(), (&raw mut info).cast(), &raw mut bytes)
    })?;
    maps.truncate(info.nr_map_ids as usize);
    Ok((info, maps))
}

/// Runs a program `repeat` times over a packet, without a device. Gives its answer and the nanoseconds of one run.
pub(crate) fn test_run(program: BorrowedFd<'_>, packet: &[u8], repeat: u32) -> io::Result<(u32, u32)> {
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as u64,
        data_in: packet.as_ptr().cast(),
        data_size_in: u32::try_from(packet.len()).map_err(io::Error::other)?,
        repeat: i32::try_from(repeat).map_err(io::Error::other)?,
        ..Default::default()
    };
    // SAFETY: the kernel reads `data_size_in` bytes of `packet`, which outlives the call, and writes to `options` only.
    checked(unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) })?;
    Ok((options.retval, options.duration))
}

/// Makes the kernel measure programs for as long as the descriptor is open.
pub(crate) fn measure_run_times() -> io::Result<OwnedFd> {
    // SAFETY: the call takes a number and cannot be misused.
    owned(unsafe { libbpf_sys::bpf_enable_stats(libbpf_sys::BPF_STATS_RUN_TIME) })
}
