//! The system calls of XDP sockets, on the kernel's own structures; no C library of BPF or XDP is needed.

use core::ptr::NonNull;
use std::{
    io, mem,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

/// `XDP_MAX_TX_SKB_BUDGET` (linux/if_xdp.h, since 6.17): how many packets one call sends in copy mode; 32 without it.
const XDP_MAX_TX_SKB_BUDGET: i32 = 9;
/// `BPF_MAP_UPDATE_ELEM` (linux/bpf.h).
const BPF_MAP_UPDATE: i64 = 2;
/// Options of sockets that libc does not have for every target (asm-generic/socket.h).
const SO_PREFER_BUSY_POLL: i32 = 69;
const SO_BUSY_POLL: i32 = 46;
const SO_BUSY_POLL_BUDGET: i32 = 70;

fn check(result: i32) -> io::Result<i32> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn length<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

pub(crate) fn socket() -> io::Result<OwnedFd> {
    // SAFETY: no memory is passed.
    let fd = check(unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) })?;
    // SAFETY: new, and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

pub(crate) fn set_option<T: Copy>(fd: BorrowedFd<'_>, level: i32, option: i32, value: &T) -> io::Result<()> {
    let value: *const T = value;
    // SAFETY: the value lives through the call, and its length is the one passed.
    check(unsafe { libc::setsockopt(fd.as_raw_fd(), level, option, value.cast(), length::<T>()) }).map(drop)
}

fn option<T>(fd: BorrowedFd<'_>, option: i32) -> io::Result<T> {
    // SAFETY: only used with plain structures of the kernel, for which zeros are a value.
    let mut value: T = unsafe { mem::zeroed() };
    let mut bytes = length::<T>();
    // SAFETY: both live through the call, and `bytes` holds the length of `value`.
    check(unsafe { libc::getsockopt(fd.as_raw_fd(), libc::SOL_XDP, option, (&raw mut value).cast(), &raw mut bytes) })?;
    // Kernels before 5.4 answer with shorter structures, which would be read wrongly.
    if bytes == length::<T>() { Ok(value) } else { Err(io::Error::from_raw_os_error(libc::EOPNOTSUPP)) }
}

pub(crate) fn ring_offsets(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_mmap_offsets> {
    option(fd, libc::XDP_MMAP_OFFSETS)
}

pub(crate) fn statistics(fd: BorrowedFd<'_>) -> io::Result<libc::xdp_statistics> {
    option(fd, libc::XDP_STATISTICS)
}

/// Registers memory as the socket's. The kernel keeps its own hold on the pages.
pub(crate) fn register(
    fd: BorrowedFd<'_>,
    base: usize,
    bytes: usize,
    chunk_bytes: u32,
    headroom: u32,
) -> io::Result<()> {
    let memory = libc::xdp_umem_reg {
        addr: base as u64,
        len: bytes as u64,
        chunk_size: chunk_bytes,
        headroom,
        flags: 0,
        tx_metadata_len: 0,
    };
    set_option(fd, libc::SOL_XDP, libc::XDP_UMEM_REG, &memory)
}

pub(crate) fn bind(fd: BorrowedFd<'_>, flags: u16, interface: u32, queue: u32) -> io::Result<()> {
    let address = libc::sockaddr_xdp {
        sxdp_family: libc::AF_XDP as u16,
        sxdp_flags: flags,
        sxdp_ifindex: interface,
        sxdp_queue_id: queue,
        sxdp_shared_umem_fd: 0,
    };
    let length = length::<libc::sockaddr_xdp>();
    // SAFETY: the address lives through the call, and its length is the one passed.
    check(unsafe { libc::bind(fd.as_raw_fd(), (&raw const address).cast(), length) }).map(drop)
}

/// Has one call send as many packets as the ring holds, where the kernel lets us.
pub(crate) fn send_all_at_once(fd: BorrowedFd<'_>, packets: u32) -> io::Result<()> {
    set_option(fd, libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &packets)
}

/// Room that packets on their way may take, beyond the system's limit.
pub(crate) fn set_send_room(fd: BorrowedFd<'_>, bytes: i32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, libc::SO_SNDBUFFORCE, &bytes)
}

/// Has our calls do the device's work instead of its interrupts.
pub(crate) fn busy_poll(fd: BorrowedFd<'_>, us: u32, packets: u32) -> io::Result<()> {
    set_option(fd, libc::SOL_SOCKET, SO_PREFER_BUSY_POLL, &1_i32)?;
    set_option(fd, libc::SOL_SOCKET, SO_BUSY_POLL, &us)?;
    set_option(fd, libc::SOL_SOCKET, SO_BUSY_POLL_BUDGET, &packets)
}

pub(crate) fn map(fd: BorrowedFd<'_>, offset: u64, bytes: usize) -> io::Result<NonNull<u8>> {
    let (access, kind) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_SHARED | libc::MAP_POPULATE);
    // SAFETY: a new mapping at an address of the kernel's choice overlaps nothing.
    let base = unsafe { libc::mmap64(ptr::null_mut(), bytes, access, kind, fd.as_raw_fd(), offset as i64) };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::from_raw_os_error(libc::ENOMEM))
}

/// Has the kernel look at the transmit ring, and in busy-poll mode at the device. Errors say that it shall look again later, or
/// that the interface is away, which the cold side sees; so none is of use here.
#[inline]
pub(crate) fn wake(fd: BorrowedFd<'_>) {
    // SAFETY: no memory is passed.
    unsafe { libc::sendto(fd.as_raw_fd(), ptr::null(), 0, libc::MSG_DONTWAIT, ptr::null(), 0) };
}

/// Has the kernel look at the fill ring.
#[inline]
pub(crate) fn wake_receive(fd: BorrowedFd<'_>) {
    let (address, length) = (ptr::null_mut(), ptr::null_mut());
    // SAFETY: no memory is passed.
    unsafe { libc::recvfrom(fd.as_raw_fd(), ptr::null_mut(), 0, libc::MSG_DONTWAIT, address, length) };
}

/// Sleeps until one of the sockets has something, at most `ns`.
pub(crate) fn wait(sockets: &mut [libc::pollfd], ns: u64) {
    let seconds = libc::time_t::try_from(ns / 1_000_000_000).unwrap_or(libc::time_t::MAX);
    let time = libc::timespec { tv_sec: seconds, tv_nsec: (ns % 1_000_000_000) as _ };
    // SAFETY: the array and the time live through the call, and the count is the array's.
    unsafe { libc::ppoll(sockets.as_mut_ptr(), sockets.len() as libc::nfds_t, &raw const time, ptr::null()) };
}

/// The bytes of an ordinary page, beyond which no chunk of a packet goes.
pub(crate) fn page_bytes() -> u32 {
    // SAFETY: no memory is passed.
    u32::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4_096)
}

/// Puts a socket into an `XSKMAP`.
pub(crate) fn put_into_map(map: BorrowedFd<'_>, key: u32, socket: BorrowedFd<'_>) -> io::Result<()> {
    /// The part of `union bpf_attr` that changes of a map use.
    #[repr(C)]
    struct Change {
        map: u32,
        zero: u32,
        key: u64,
        value: u64,
        flags: u64,
    }
    let value = socket.as_raw_fd();
    let change = Change {
        map: map.as_raw_fd().cast_unsigned(),
        zero: 0,
        key: (&raw const key).expose_provenance() as u64,
        value: (&raw const value).expose_provenance() as u64,
        flags: 0,
    };
    // SAFETY: the change, and the key and value that it points to (4 bytes each, as every XSKMAP has them), live through the
    // call, and the length is the one passed.
    let result = unsafe { libc::syscall(libc::SYS_bpf, BPF_MAP_UPDATE, &raw const change, size_of::<Change>()) };
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
