//! What is asked of the kernel directly: small programs, their attachment, packets put onto a wire, and namespaces.
#![expect(unsafe_code, reason = "libbpf-rs has no safe form of these calls, and rustix none of unshare")]

use libbpf_rs::libbpf_sys;
use rustix::{
    thread::{UnshareFlags, unshare_unsafe},
    time::{ClockId, clock_gettime},
};
use std::{
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    time::Duration,
};

/// How the programs below answer (XDP_DROP and XDP_PASS of linux/bpf.h).
#[derive(Clone, Copy, Debug)]
pub(crate) enum Answer {
    Drop = 1,
    Pass = 2,
}

/// `BPF_F_TEST_XDP_LIVE_FRAMES` of linux/bpf.h: what the program answers is done with the packets.
const LIVE_FRAMES: u32 = 1 << 1;
/// Packets that are made, and put onto the wire, together: what a device's poll takes at once (NAPI_POLL_WEIGHT).
const BATCH: u32 = 64;

fn checked(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::from_raw_os_error(-result)) } else { Ok(result) }
}

fn owned(result: i32) -> io::Result<OwnedFd> {
    let fd = checked(result)?;
    // SAFETY: the call that gave this descriptor opened it for us, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

const fn instruction(code: u8, registers: u8, immediate: i32) -> libbpf_sys::bpf_insn {
    let mut one = libbpf_sys::bpf_insn {
        code,
        _bitfield_align_1: [],
        _bitfield_1: libbpf_sys::__BindgenBitfieldUnit::new([0]),
        off: 0,
        imm: immediate,
    };
    one._bitfield_1 = libbpf_sys::__BindgenBitfieldUnit::new([registers]);
    one
}

const fn set(register: u8, value: i32) -> libbpf_sys::bpf_insn {
    instruction(0xb7, register, value) // BPF_ALU64 | BPF_MOV | BPF_K
}

const EXIT: libbpf_sys::bpf_insn = instruction(0x95, 0, 0);

fn load(code: &[libbpf_sys::bpf_insn]) -> io::Result<OwnedFd> {
    let (name, licence) = (c"bench".as_ptr(), c"Apache-2.0".as_ptr());
    let mut options = libbpf_sys::bpf_prog_load_opts {
        sz: size_of::<libbpf_sys::bpf_prog_load_opts>() as u64,
        expected_attach_type: libbpf_sys::BPF_XDP,
        prog_flags: 1 << 5, // BPF_F_XDP_HAS_FRAGS, so that it can take the pre-filter's place
        ..Default::default()
    };
    let (kind, count) = (libbpf_sys::BPF_PROG_TYPE_XDP, code.len() as u64);
    // SAFETY: the kernel reads `count` instructions, two strings and the options, which all outlive the call.
    owned(unsafe { libbpf_sys::bpf_prog_load(kind, name, licence, code.as_ptr(), count, &raw mut options) })
}

/// A program that looks at nothing and always answers this.
pub(crate) fn always(answer: Answer) -> io::Result<OwnedFd> {
    load(&[set(0, answer as i32), EXIT])
}

/// A program that puts each packet onto the wire behind this interface.
pub(crate) fn send_through(interface: u32) -> io::Result<OwnedFd> {
    let redirect = instruction(0x85, 0, 23); // BPF_JMP | BPF_CALL, BPF_FUNC_redirect of linux/bpf.h
    load(&[set(1, interface.cast_signed()), set(2, 0), redirect, EXIT])
}

/// Puts a program onto an interface, in its driver, until the link is dropped.
pub(crate) fn attach(program: BorrowedFd<'_>, interface: u32) -> io::Result<OwnedFd> {
    let options = libbpf_sys::bpf_link_create_opts {
        sz: size_of::<libbpf_sys::bpf_link_create_opts>() as u64,
        flags: libbpf_sys::XDP_FLAGS_DRV_MODE,
        ..Default::default()
    };
    let (interface, kind) = (interface.cast_signed(), libbpf_sys::BPF_XDP);
    // SAFETY: the descriptor is open and the options outlive the call, which keeps neither.
    owned(unsafe { libbpf_sys::bpf_link_create(program.as_raw_fd(), interface, kind, &raw const options) })
}

/// Puts another program in place of the one of a link.
pub(crate) fn replace(link: BorrowedFd<'_>, program: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: both descriptors are open, and no options means the default ones.
    checked(unsafe { libbpf_sys::bpf_link_update(link.as_raw_fd(), program.as_raw_fd(), std::ptr::null()) })?;
    Ok(())
}

/// Gives a program `count` copies of a packet, and does with them what it answers. With `live` off nothing comes of them,
/// and the result is the mean time of one run.
pub(crate) fn run(program: BorrowedFd<'_>, packet: &[u8], count: u32, live: bool) -> io::Result<u32> {
    let mut options = libbpf_sys::bpf_test_run_opts {
        sz: size_of::<libbpf_sys::bpf_test_run_opts>() as u64,
        data_in: packet.as_ptr().cast(),
        data_size_in: u32::try_from(packet.len()).map_err(io::Error::other)?,
        repeat: i32::try_from(count).map_err(io::Error::other)?,
        flags: if live { LIVE_FRAMES } else { 0 },
        batch_size: if live { BATCH } else { 0 },
        ..Default::default()
    };
    // SAFETY: the kernel reads `data_size_in` bytes of `packet`, which outlives the call, and writes to `options` only.
    checked(unsafe { libbpf_sys::bpf_prog_test_run_opts(program.as_raw_fd(), &raw mut options) })?;
    Ok(options.duration)
}

/// Nanoseconds that a program ran while the kernel measured, and how often.
pub(crate) fn run_times(program: BorrowedFd<'_>) -> io::Result<(u64, u64)> {
    let mut info = libbpf_sys::bpf_prog_info::default();
    let mut bytes = size_of_val(&info) as u32;
    // SAFETY: the kernel writes at most `bytes` to `info`, which asks for no arrays.
    checked(unsafe {
        libbpf_sys::bpf_obj_get_info_by_fd(program.as_raw_fd(), (&raw mut info).cast(), &raw mut bytes)
    })?;
    Ok((info.run_time_ns, info.run_cnt))
}

/// Takes the calling thread into new namespaces.
pub(crate) fn unshare(what: UnshareFlags) -> io::Result<()> {
    // SAFETY: no descriptor table is unshared, so every descriptor stays what it is.
    Ok(unsafe { unshare_unsafe(what) }?)
}

/// CPU time of this thread. Soft interrupts that run inside its calls are in it, as this kernel does not keep them apart
/// (no CONFIG_IRQ_TIME_ACCOUNTING).
pub(crate) fn cpu() -> Duration {
    let time = clock_gettime(ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default()
}
