//! The end of the socket that `tachyond` holds. Nothing here blocks: its owner polls the descriptors.

use super::{
    FilterStatus, Hello, LaneAnswer, LaneStatus, Peer, PortStatus, Reply, Request, TapAnswer,
    filters::FilterTold,
    lanes::LaneTold,
    ports::PortAnswer,
    records::REQUEST_BYTES_MAX,
    socket::{self, Datagram},
};
use rustix::{
    fs::{FileType, Mode, OFlags, chmod, fstat, lstat, open, unlink},
    io::Errno,
    net::{SocketAddrUnix, SocketFlags, accept_with, bind, listen},
};
use std::{
    io,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};
use zerocopy::IntoBytes;

/// Connections that may wait to be accepted. There is one control process; more than a few waiting is a fault.
const BACKLOG: i32 = 8;

/// The listening socket; its file is removed on drop.
#[derive(Debug)]
pub struct Listener {
    socket: OwnedFd,
    path: PathBuf,
    allowed: Vec<u32>,
}

impl Listener {
    /// Listens at `path`; a socket that lies there already is taken for left over and replaced, so its caller makes sure
    /// that no other `tachyond` runs in this folder. Users in `allowed`, and root, may connect.
    ///
    /// # Errors
    /// Something else than a socket lies at `path`, or what the kernel says.
    pub fn bind(path: &Path, allowed: &[u32]) -> io::Result<Self> {
        match lstat(path) {
            Ok(found) if FileType::from_raw_mode(found.st_mode).is_socket() => unlink(path)?,
            Ok(_) => {
                let text = format!("{} is in the way and is no socket; remove it", path.display());
                return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
            }
            Err(Errno::NOENT) => {}
            Err(error) => return Err(error.into()),
        }
        let socket = socket::open()?;
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        // Who may connect is decided by the credentials, which cannot be lent like a group.
        set_socket_rights(path, 0o666)?;
        listen(&socket, BACKLOG)?;
        Ok(Self { socket, path: path.to_owned(), allowed: allowed.to_vec() })
    }

    /// Takes the next connection from a user that may; others are closed unheard.
    ///
    /// # Errors
    /// `PermissionDenied` for a user that may not, or what the kernel says.
    pub fn accept(&self) -> io::Result<Option<Connection>> {
        let socket = match accept_with(&self.socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => return Ok(None),
            other => other?,
        };
        let peer = socket::peer(&socket)?;
        if peer.uid != 0 && !self.allowed.contains(&peer.uid) {
            let text =
                format!("user {} (process {}) may not connect; set control_user in the node file", peer.uid, peer.pid);
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        Ok(Some(Connection { socket, peer }))
    }
}

/// Gives the socket file at `path` the rights `mode`. Its folder may belong to a user with fewer rights than ours, who could put a
/// link in its place: so what is there is opened, looked at, and changed through what was opened.
///
/// # Errors
/// What lies at `path` is no socket, or what the kernel says.
pub fn set_socket_rights(path: &Path, mode: u32) -> io::Result<()> {
    let found = open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())?;
    if !FileType::from_raw_mode(fstat(&found)?.st_mode).is_socket() {
        let text = format!("{} is no socket any more; remove it", path.display());
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, text));
    }
    // A descriptor of this kind does not change rights by itself.
    Ok(chmod(format!("/proc/self/fd/{}", found.as_raw_fd()), Mode::from_raw_mode(mode))?)
}

impl AsFd for Listener {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        // A file that stays behind is replaced at the next start, so a failure here changes nothing.
        let _ = unlink(&self.path);
    }
}

/// What came in on a connection.
#[derive(Debug)]
pub enum Incoming {
    /// A request and its number.
    Request(u32, Request),
    /// Something that is no request: its number as far as it could be read, and why. To be answered as refused.
    Malformed(u32, String),
    /// Nothing for now.
    Nothing,
    /// The other end is gone.
    Closed,
}

/// A connection to control.
#[derive(Debug)]
pub struct Connection {
    socket: OwnedFd,
    peer: Peer,
}

impl Connection {
    /// Who it is.
    #[must_use]
    pub const fn peer(&self) -> Peer {
        self.peer
    }

    /// Says hello, with the descriptor of the statistics segment.
    ///
    /// # Errors
    /// What the kernel says; the connection is of no use then.
    pub fn send_hello(&self, hello: &Hello, stats: BorrowedFd<'_>) -> io::Result<()> {
        socket::send(&self.socket, hello.to_record().as_bytes(), &[stats])
    }

    /// Takes the next request, if one has arrived.
    ///
    /// # Errors
    /// What the kernel says; the connection is of no use then.
    pub fn receive(&self) -> io::Result<Incoming> {
        let mut buffer = [0; REQUEST_BYTES_MAX];
        Ok(match socket::receive(&self.socket, &mut buffer)? {
            Datagram::Whole(len, fds) if fds.len() <= 1 => {
                match Request::from_bytes(&buffer[..len], fds.into_iter().next()) {
                    Ok((number, request)) => Incoming::Request(number, request),
                    Err((number, text)) => Incoming::Malformed(number, text),
                }
            }
            Datagram::Whole(..) | Datagram::Oversized => {
                Incoming::Malformed(0, format!("a request has at most {REQUEST_BYTES_MAX} bytes and one descriptor"))
            }
            Datagram::Nothing => Incoming::Nothing,
            Datagram::Closed => Incoming::Closed,
        })
    }

    /// Answers a request.
    ///
    /// # Errors
    /// What the kernel says; `WouldBlock` if the other end does not read its answers.
    pub fn reply(&self, reply: &Reply) -> io::Result<()> {
        socket::send(&self.socket, reply.to_record().as_bytes(), &[])
    }

    /// Answers [`Request::Port`] with the port that was asked for, one of so many.
    ///
    /// # Errors
    /// As with [`Connection::reply`].
    pub fn reply_port(&self, number: u32, ports: u16, port: &PortStatus) -> io::Result<()> {
        socket::send(&self.socket, &PortAnswer::to_bytes(number, ports, port), &[])
    }

    /// Answers [`Request::ConnectLane`] with our part.
    ///
    /// # Errors
    /// As with [`Connection::reply`].
    pub fn reply_details(&self, number: u32, answer: &LaneAnswer) -> io::Result<()> {
        socket::send(&self.socket, answer.to_record(number).as_bytes(), &[])
    }

    /// Answers [`Request::Lane`] with the lane that was asked for, one of so many.
    ///
    /// # Errors
    /// As with [`Connection::reply`].
    pub fn reply_lane(&self, number: u32, lanes: u32, lane: &LaneStatus) -> io::Result<()> {
        socket::send(&self.socket, LaneTold::to_record(number, lanes, lane).as_bytes(), &[])
    }

    /// Answers [`Request::Filter`] with the pre-filter that was asked for, one of so many.
    ///
    /// # Errors
    /// As with [`Connection::reply`].
    pub fn reply_filter(&self, number: u32, filters: u16, filter: &FilterStatus) -> io::Result<()> {
        socket::send(&self.socket, FilterTold::to_record(number, filters, filter).as_bytes(), &[])
    }

    /// Answers [`Request::Tap`] with the tap that was asked for: its ring, its cursors and the arena, the first and the last
    /// of them sealed against writing.
    ///
    /// # Errors
    /// As with [`Connection::reply`].
    pub fn reply_tap(
        &self,
        number: u32,
        answer: &TapAnswer,
        [ring, cursors, arena]: [BorrowedFd<'_>; 3],
    ) -> io::Result<()> {
        socket::send(&self.socket, answer.to_record(number).as_bytes(), &[ring, cursors, arena])
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}
