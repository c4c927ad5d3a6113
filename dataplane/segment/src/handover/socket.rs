//! Datagrams with a few descriptors, over a Unix socket.

use rustix::{
    cmsg_space,
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, ReturnFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socket_with, sockopt,
    },
};
use std::{
    io::{self, IoSlice, IoSliceMut},
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

/// Most descriptors of a datagram: those of a tap.
pub(super) const FDS_MAX: usize = 3;

/// Who is at the other end, as the kernel says; not what it claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its process when it connected.
    pub pid: i32,
    /// Its effective user when it connected.
    pub uid: u32,
}

pub(super) fn peer(socket: impl AsFd) -> io::Result<Peer> {
    let credentials = sockopt::socket_peercred(socket)?;
    Ok(Peer { pid: credentials.pid.as_raw_nonzero().get(), uid: credentials.uid.as_raw() })
}

/// A socket that closes on exec and does not block.
pub(super) fn open() -> io::Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    Ok(socket_with(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None)?)
}

/// Sends one datagram, with descriptors if there are any, at most [`FDS_MAX`].
pub(super) fn send(socket: impl AsFd, bytes: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::other("no room for so many descriptors"));
    }
    let flags = SendFlags::NOSIGNAL | SendFlags::DONTWAIT;
    loop {
        match sendmsg(&socket, &[IoSlice::new(bytes)], &mut control, flags) {
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
            Ok(sent) if sent == bytes.len() => return Ok(()),
            Ok(_) => return Err(io::Error::other("a datagram was sent in part")),
        }
    }
}

/// One datagram as it arrived.
pub(super) enum Datagram {
    /// Its bytes are the first so many of the buffer; with it came these descriptors.
    Whole(usize, Vec<OwnedFd>),
    /// It was longer than the buffer, or brought more than [`FDS_MAX`] descriptors (all of them are closed).
    Oversized,
    /// Nothing has arrived.
    Nothing,
    /// The other end is gone.
    Closed,
}

/// Takes one datagram if there is one.
pub(super) fn receive(socket: impl AsFd, buffer: &mut [u8]) -> io::Result<Datagram> {
    let mut space = [MaybeUninit::uninit(); cmsg_space!(ScmRights(FDS_MAX))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let flags = RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT;
    let received = loop {
        match recvmsg(&socket, &mut [IoSliceMut::new(buffer)], &mut control, flags) {
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => return Ok(Datagram::Nothing),
            Err(Errno::CONNRESET | Errno::PIPE) => return Ok(Datagram::Closed),
            other => break other?,
        }
    };
    // Taken out of the buffer in any case, so that what was sent is closed.
    let mut fds: Vec<OwnedFd> = Vec::new();
    for message in control.drain() {
        if let RecvAncillaryMessage::ScmRights(rights) = message {
            fds.extend(rights);
        }
    }
    if received.flags.intersects(ReturnFlags::TRUNC | ReturnFlags::CTRUNC) || fds.len() > FDS_MAX {
        return Ok(Datagram::Oversized);
    }
    // A sequenced-packet socket says "closed" by an empty datagram; no record is empty, so nothing is lost by that.
    if received.bytes == 0 {
        return Ok(Datagram::Closed);
    }
    Ok(Datagram::Whole(received.bytes, fds))
}
