//! One UDP socket per shard, with the options that every mode needs.

use crate::UringConfig;
use std::{
    io,
    net::{SocketAddr, UdpSocket},
    os::fd::{AsRawFd, RawFd},
};
use tachyon_driver_api::PortError;

/// The socket of one owned shard.
pub(crate) struct ShardSocket {
    socket: UdpSocket,
    /// The shard whose frames it carries.
    pub(crate) shard: u16,
    /// The port it is bound to.
    pub(crate) port: u16,
    /// The kernel's drop count when it was last looked at.
    drops: u32,
}

impl ShardSocket {
    /// Binds the socket of `shard`. What is weaker than asked goes to `degraded`.
    pub(crate) fn open(config: &UringConfig, shard: u16, degraded: &mut Vec<String>) -> Result<Self, PortError> {
        let port = match config.base_port {
            0 => 0,
            base => base.checked_add(shard).ok_or_else(|| {
                PortError(format!(
                    "shard {shard} has no port: base_port {base} + {shard} is above 65535; lower base_port"
                ))
            })?,
        };
        let address = SocketAddr::new(config.bind_ip, port);
        let failed = |what: &str, fix: &str, e: &io::Error| PortError(format!("{what} on {address}: {e}; {fix}"));
        let socket = UdpSocket::bind(address).map_err(|e| {
            let fix = match e.raw_os_error() {
                Some(libc::EADDRINUSE) => {
                    "another program (`ss -ulpn` tells which) has this port: stop it or change base_port"
                }
                Some(libc::EADDRNOTAVAIL) => "no interface has this address: correct bind_ip",
                Some(libc::EACCES) => "ports below 1024 need a privilege: choose a higher base_port",
                _ => "correct bind_ip and base_port",
            };
            failed("cannot bind UDP", fix, &e)
        })?;
        let fd = socket.as_raw_fd();
        let discover = if config.bind_ip.is_ipv6() {
            set(fd, libc::SOL_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_PMTUDISC_DO)
                .and_then(|()| set(fd, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO))
        } else {
            set(fd, libc::SOL_IP, libc::IP_MTU_DISCOVER, libc::IP_PMTUDISC_DO)
        };
        discover.map_err(|e| failed("cannot forbid IP fragments", "use a Linux kernel", &e))?;
        set(fd, libc::SOL_SOCKET, libc::SO_RXQ_OVFL, 1)
            .map_err(|e| failed("cannot ask for drop counts (SO_RXQ_OVFL)", "use a Linux kernel", &e))?;
        let port = socket.local_addr().map_err(|e| failed("cannot read the bound port", "try again", &e))?.port();
        room(fd, libc::SO_RCVBUFFORCE, libc::SO_RCVBUF, config.receive_buffer_bytes, "receive", "rmem_max", degraded);
        room(fd, libc::SO_SNDBUFFORCE, libc::SO_SNDBUF, config.send_buffer_bytes, "send", "wmem_max", degraded);
        Ok(Self { socket, shard, port, drops: 0 })
    }

    /// Asks the kernel to join runs of equal frames.
    pub(crate) fn join_runs(&self) -> io::Result<()> {
        set(self.fd(), libc::SOL_UDP, libc::UDP_GRO, 1)
    }

    pub(crate) fn fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }

    /// Datagrams dropped since the last look, when the kernel's count now is `drops`. Counts arrive with datagrams and can
    /// be older than one that was asked for in between; those say nothing new.
    #[inline]
    pub(crate) fn dropped(&mut self, drops: u32) -> u64 {
        let more = drops.wrapping_sub(self.drops);
        if more == 0 || more > u32::MAX / 2 {
            return 0;
        }
        self.drops = drops;
        u64::from(more)
    }

    /// Asks the kernel for the drop count, one syscall: without this, drops behind the last datagram would stay unseen.
    pub(crate) fn look_for_drops(&mut self) -> u64 {
        const WORDS: usize = libc::SK_MEMINFO_DROPS as usize + 1;
        let mut words = [0_u32; WORDS];
        let mut bytes = length(&words);
        // SAFETY: `words` and `bytes` live through the call and `bytes` holds the length of `words`.
        let result = unsafe {
            libc::getsockopt(self.fd(), libc::SOL_SOCKET, libc::SO_MEMINFO, words.as_mut_ptr().cast(), &raw mut bytes)
        };
        if result == 0 && bytes == length(&words) { self.dropped(words[WORDS - 1]) } else { 0 }
    }
}

/// Whether the kernel takes `UDP_SEGMENT` on this socket at all; a device may still refuse it at the first send.
pub(crate) fn can_send_runs(socket: &ShardSocket) -> bool {
    set(socket.fd(), libc::SOL_UDP, libc::UDP_SEGMENT, 0).is_ok()
}

/// The length of an option's value, as the kernel takes it.
fn length<T>(value: &T) -> libc::socklen_t {
    libc::socklen_t::try_from(size_of_val(value)).unwrap_or(0)
}

fn set(fd: RawFd, level: i32, option: i32, value: i32) -> io::Result<()> {
    // SAFETY: the value lives through the call, and its length is the one passed.
    let result = unsafe { libc::setsockopt(fd, level, option, (&raw const value).cast(), length(&value)) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Gives a socket `bytes` of room: beyond the system's limit if we may, else up to it, and then says so.
fn room(fd: RawFd, force: i32, option: i32, bytes: u32, what: &str, limit: &str, degraded: &mut Vec<String>) {
    let asked = i32::try_from(bytes).unwrap_or(i32::MAX / 2).min(i32::MAX / 2);
    if set(fd, libc::SOL_SOCKET, force, asked).is_err() {
        // A refusal shows in the size that is read back.
        let _ = set(fd, libc::SOL_SOCKET, option, asked);
    }
    let mut got = 0_i32;
    let mut got_bytes = length(&got);
    // SAFETY: both live through the call and `got_bytes` holds the length of `got`.
    let result = unsafe { libc::getsockopt(fd, libc::SOL_SOCKET, option, (&raw mut got).cast(), &raw mut got_bytes) };
    // The kernel doubles what is asked, for its own overhead.
    if result != 0 || got / 2 < asked {
        let line = format!(
            "socket {what} buffers have {} bytes instead of {asked}: without CAP_NET_ADMIN the system's limit holds; \
             `sysctl -w net.core.{limit}={asked}`",
            got / 2
        );
        if !degraded.contains(&line) {
            degraded.push(line);
        }
    }
}
