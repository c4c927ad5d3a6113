//! The end of the socket that control holds. Calls block up to a time limit, so an asynchronous caller gives them a
//! thread of their own.

use super::{
    Accepted, FilterStatus, Hello, LaneAnswer, LaneRequest, LaneStatus, Peer, PortStatus, Reply, Request, TapAnswer,
    filters::{FilterRecord, FilterTold},
    lanes::{AnswerRecord, LaneRecord, LaneTold},
    ports::{PortAnswer, PortRecord},
    records::{HelloRecord, ReplyRecord},
    socket::{self, Datagram},
    tap::TapRecord,
};
use crate::{StatsReader, TapReader};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{SocketAddrUnix, connect},
    process::geteuid,
};
use std::{
    fmt, io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::{Duration, Instant},
};

/// Why a call did not succeed.
#[derive(Debug)]
pub enum CallError {
    /// `tachyond` said no, and why; the same request will fail again.
    Refused(String),
    /// `tachyond` is busy; the same request may succeed in a moment.
    Busy(String),
    /// The connection is gone or out of step; connect anew.
    Lost(io::Error),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused(text) => write!(f, "tachyond refused: {text}"),
            Self::Busy(text) => write!(f, "tachyond is busy: {text}"),
            Self::Lost(error) => write!(f, "the connection to tachyond is lost: {error}"),
        }
    }
}

impl std::error::Error for CallError {}

/// A connection to `tachyond`.
#[derive(Debug)]
pub struct ControlEnd {
    socket: OwnedFd,
    peer: Peer,
    number: u32,
    patience: Duration,
    boot_id: [u8; 16],
}

impl ControlEnd {
    /// Connects, and takes the hello and the statistics segment. Whoever listens must be root, this process's own user or
    /// one of `allowed`. No call waits longer than `patience`.
    ///
    /// # Errors
    /// Nobody listens at `path`, or not who or what should; the text says which.
    pub fn connect(path: &Path, allowed: &[u32], patience: Duration) -> io::Result<(Self, Hello, StatsReader)> {
        let socket = socket::open()?;
        connect(&socket, &SocketAddrUnix::new(path)?)?;
        let peer = socket::peer(&socket)?;
        if peer.uid != 0 && peer.uid != geteuid().as_raw() && !allowed.contains(&peer.uid) {
            let text = format!("user {} listens at {}, not tachyond's", peer.uid, path.display());
            return Err(io::Error::new(io::ErrorKind::PermissionDenied, text));
        }
        let mut end = Self { socket, peer, number: 0, patience, boot_id: [0; 16] };
        let mut buffer = [0; size_of::<HelloRecord>()];
        let (len, fds) = end.wait_for(&mut buffer)?;
        let hello = Hello::from_bytes(&buffer[..len]).map_err(invalid)?;
        end.boot_id = hello.boot_id;
        let fd = fds.first().ok_or_else(|| invalid("the hello brought no statistics segment".into()))?;
        let stats = StatsReader::open(fd, hello.boot_id)?;
        if stats.workers() != hello.workers {
            return Err(invalid("hello and statistics segment differ in the number of workers".into()));
        }
        Ok((end, hello, stats))
    }

    /// Who listens.
    #[must_use]
    pub const fn peer(&self) -> Peer {
        self.peer
    }

    /// Sends a request and waits for its reply.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn call(&mut self, request: &Request) -> Result<(), CallError> {
        let mut buffer = [0; size_of::<ReplyRecord>()];
        let len = self.exchange(request, &mut buffer).map_err(CallError::Lost)?;
        self.outcome(&buffer[..len])
    }

    /// Asks how the ports are.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn ports(&mut self) -> Result<Vec<PortStatus>, CallError> {
        let lost = |text: String| CallError::Lost(invalid(text));
        let mut buffer = vec![0; size_of::<PortRecord>()];
        let mut ports = Vec::new();
        loop {
            let place = u32::try_from(ports.len()).unwrap_or(u32::MAX);
            let len = self.exchange(&Request::Port(place), &mut buffer).map_err(CallError::Lost)?;
            let Some(answer) = PortAnswer::from_bytes(&buffer[..len]) else {
                self.outcome(&buffer[..len])?;
                return Err(lost("a port was promised and did not come".into()));
            };
            let answer = answer.map_err(lost)?;
            if answer.number != self.number {
                return Err(lost(format!("answer {} to request {}", answer.number, self.number)));
            }
            ports.push(answer.port);
            if ports.len() >= usize::from(answer.ports) {
                return Ok(ports);
            }
        }
    }

    /// Offers a peer's part of a lane to a worker, and takes the worker's part.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn connect_lane(&mut self, lane: LaneRequest) -> Result<LaneAnswer, CallError> {
        let lost = |text: String| CallError::Lost(invalid(text));
        let mut buffer = [0; if size_of::<ReplyRecord>() > size_of::<AnswerRecord>() {
            size_of::<ReplyRecord>()
        } else {
            size_of::<AnswerRecord>()
        }];
        let len = self.exchange(&Request::ConnectLane(Box::new(lane)), &mut buffer).map_err(CallError::Lost)?;
        let Some(answer) = LaneAnswer::from_bytes(&buffer[..len]) else {
            self.outcome(&buffer[..len])?;
            return Err(lost("a lane was promised and its details did not come".into()));
        };
        match answer.map_err(lost)? {
            (number, answer) if number == self.number => Ok(answer),
            (number, _) => Err(lost(format!("answer {number} to request {}", self.number))),
        }
    }

    /// Asks how the lanes are.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn lanes(&mut self) -> Result<Vec<LaneStatus>, CallError> {
        let lost = |text: String| CallError::Lost(invalid(text));
        let mut buffer = [0; if size_of::<ReplyRecord>() > size_of::<LaneRecord>() {
            size_of::<ReplyRecord>()
        } else {
            size_of::<LaneRecord>()
        }];
        let mut lanes = Vec::new();
        loop {
            let place = u32::try_from(lanes.len()).unwrap_or(u32::MAX);
            let len = self.exchange(&Request::Lane(place), &mut buffer).map_err(CallError::Lost)?;
            let Some(told) = LaneTold::from_bytes(&buffer[..len]) else {
                // Accepted without a lane: there is none.
                return self.outcome(&buffer[..len]).map(|()| lanes);
            };
            let told = told.map_err(lost)?;
            if told.number != self.number {
                return Err(lost(format!("answer {} to request {}", told.number, self.number)));
            }
            lanes.push(told.lane);
            if lanes.len() as u64 >= u64::from(told.lanes) {
                return Ok(lanes);
            }
        }
    }

    /// Asks how the pre-filters are.
    ///
    /// # Errors
    /// See [`CallError`].
    pub fn filters(&mut self) -> Result<Vec<FilterStatus>, CallError> {
        let lost = |text: String| CallError::Lost(invalid(text));
        let mut buffer = [0; size_of::<FilterRecord>()];
        let mut filters = Vec::new();
        loop {
            let place = u32::try_from(filters.len()).unwrap_or(u32::MAX);
            let len = self.exchange(&Request::Filter(place), &mut buffer).map_err(CallError::Lost)?;
            let Some(told) = FilterTold::from_bytes(&buffer[..len]) else {
                // Accepted without a filter: there is none.
                return self.outcome(&buffer[..len]).map(|()| filters);
            };
            let told = told.map_err(lost)?;
            if told.number != self.number {
                return Err(lost(format!("answer {} to request {}", told.number, self.number)));
            }
            filters.push(told.filter);
            if filters.len() >= usize::from(told.filters) {
                return Ok(filters);
            }
        }
    }

    /// Asks for a worker's tap, and opens it: see [`TapReader::open`]. It may be asked for as often as one connects.
    ///
    /// # Errors
    /// See [`CallError`]; refused where the node has no log or no such worker.
    pub fn tap(&mut self, worker: u16) -> Result<TapReader, CallError> {
        let lost = |text: String| CallError::Lost(invalid(text));
        let mut buffer = [0; if size_of::<ReplyRecord>() > size_of::<TapRecord>() {
            size_of::<ReplyRecord>()
        } else {
            size_of::<TapRecord>()
        }];
        let (len, fds) = self.exchange_with_fds(&Request::Tap(worker), &mut buffer).map_err(CallError::Lost)?;
        let Some(answer) = TapAnswer::from_bytes(&buffer[..len]) else {
            self.outcome(&buffer[..len])?;
            return Err(lost("a tap was promised and did not come".into()));
        };
        let (number, answer) = answer.map_err(lost)?;
        if number != self.number || answer.worker != worker || answer.boot_id != self.boot_id {
            return Err(lost(format!("tap {number} of worker {} to request {}", answer.worker, self.number)));
        }
        let [ring, cursors, arena] = fds.as_slice() else {
            return Err(lost(format!("a tap has 3 descriptors and brought {}", fds.len())));
        };
        TapReader::open(ring, cursors, arena, &answer).map_err(CallError::Lost)
    }

    /// Sends a request and takes what comes back.
    fn exchange(&mut self, request: &Request, buffer: &mut [u8]) -> io::Result<usize> {
        self.exchange_with_fds(request, buffer).map(|(len, _)| len)
    }

    /// The same, with the descriptors that came.
    fn exchange_with_fds(&mut self, request: &Request, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        self.number = self.number.wrapping_add(1);
        let (bytes, fd) = request.to_bytes(self.number);
        let fds: Vec<_> = fd.into_iter().map(AsFd::as_fd).collect();
        socket::send(&self.socket, &bytes, &fds)?;
        self.wait_for(buffer)
    }

    /// What a reply says.
    fn outcome(&self, bytes: &[u8]) -> Result<(), CallError> {
        let reply = Reply::from_bytes(bytes).map_err(|text| CallError::Lost(invalid(text)))?;
        if reply.number != self.number {
            return Err(CallError::Lost(invalid(format!("reply {} to request {}", reply.number, self.number))));
        }
        match reply.accepted {
            Accepted::Yes => Ok(()),
            Accepted::Refused => Err(CallError::Refused(reply.text)),
            Accepted::Busy => Err(CallError::Busy(reply.text)),
        }
    }

    /// Waits for one datagram, up to the time limit.
    fn wait_for(&self, buffer: &mut [u8]) -> io::Result<(usize, Vec<OwnedFd>)> {
        let end = Instant::now() + self.patience;
        loop {
            match socket::receive(&self.socket, buffer)? {
                Datagram::Whole(len, fds) => return Ok((len, fds)),
                Datagram::Oversized => return Err(invalid("a datagram is longer than any record".into())),
                Datagram::Closed => return Err(io::ErrorKind::ConnectionReset.into()),
                Datagram::Nothing => {}
            }
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(io::ErrorKind::TimedOut.into());
            }
            let left = Timespec::try_from(left).map_err(io::Error::other)?;
            match poll(&mut [PollFd::new(&self.socket, PollFlags::IN)], Some(&left)) {
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
        }
    }
}

impl AsFd for ControlEnd {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}
