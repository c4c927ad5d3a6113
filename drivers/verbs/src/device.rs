//! The seam between this driver and a device: what the hot path asks of it, and what the cold side does.
//!
//! There are two implementations, real queue pairs ([`crate::Hardware`]) and one in memory ([`crate::stub`]). Both halves are
//! generic parameters, never trait objects, so nothing on the packet's way is called through a table of ours.

use arrayvec::ArrayVec;
use core::fmt;
use tachyon_driver_api::{BURST_MAX, PortError};
use tachyon_wire::Reason;

/// The bit of a work request's identity that says it is a receive.
pub(crate) const RECEIVE: u64 = 1 << 63;

/// A number that lets whoever knows it reach our memory or our queues: never shown.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Secret<T>(pub T);

impl<T> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("secret")
    }
}

/// A piece of memory to send.
#[derive(Clone, Copy, Debug)]
pub struct Work {
    /// Comes back with the completion.
    pub id: u64,
    /// Where the bytes are; they stay as they are until the completion.
    pub address: u64,
    /// How many there are; 0 for a message that is only its immediate.
    pub len: u32,
    /// Travels beside the bytes.
    pub immediate: u32,
    /// Whether success is told; failure always is.
    pub signalled: bool,
    /// Whether the device copies the bytes out at once.
    pub inline: bool,
}

/// Where a piece of work goes.
#[derive(Clone, Copy, Debug)]
pub enum To<'a, A> {
    /// A datagram queue pair of anybody.
    Datagram {
        /// The way there.
        address: &'a A,
        /// Its number.
        qpn: u32,
        /// What it asks senders to know.
        qkey: Secret<u32>,
    },
    /// The one that this queue pair is connected with.
    Peer,
    /// The memory of the one that this queue pair is connected with.
    Memory {
        /// The key of the memory.
        rkey: Secret<u32>,
        /// The address in it.
        address: u64,
    },
}

/// Memory to receive into.
#[derive(Clone, Copy, Debug)]
pub struct Receive {
    /// Comes back with the completion.
    pub id: u64,
    /// Where bytes go.
    pub address: u64,
    /// How many fit.
    pub len: u32,
}

/// How a piece of work ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Status {
    /// As it should.
    Good,
    /// Not tried, because the queue pair was in error already.
    Flushed,
    /// The peer did not answer any of the tries.
    NoAnswer,
    /// The peer had no memory to receive into at any of the tries.
    NotReady,
    /// The device told nothing for longer than all its tries may take. No completion says so: whoever waits for one does.
    Silent,
    /// Anything else, with the number that verbs has for it.
    Fault(u32),
}

impl Status {
    /// What a copy's ledger says of it.
    #[must_use]
    pub const fn reason(self) -> Option<Reason> {
        match self {
            Self::Good => None,
            Self::Flushed => Some(Reason::TxQpReset),
            Self::NoAnswer | Self::Silent => Some(Reason::TxTimeout),
            // The subscriber exists and answers; it does not make room.
            Self::NotReady => Some(Reason::TxCongestion),
            Self::Fault(_) => Some(Reason::TxCqError),
        }
    }
}

/// What a completion queue tells. Only `id` and `status` mean something where the status is not good.
#[derive(Clone, Copy, Debug)]
pub struct Completed {
    /// The work's or the receive's.
    pub id: u64,
    /// How it ended.
    pub status: Status,
    /// Bytes received, the 40 of a datagram's route header included.
    pub len: u32,
    /// What travelled beside them.
    pub immediate: Option<u32>,
    /// Our queue pair's number.
    pub qpn: u32,
    /// Where a datagram came from.
    pub source_qpn: u32,
    /// Whether the bytes went into a ring and not into the receive's memory.
    pub written: bool,
}

/// A burst of completions.
pub type CompletedBatch = ArrayVec<Completed, BURST_MAX>;

/// The hot half of a device: one worker's completion queue, its shared receive queue, and sending on its queue pairs.
pub trait Device: Send + fmt::Debug {
    /// A queue pair; keeps it alive.
    type Pair: Clone + Send + fmt::Debug;
    /// The way to a datagram queue pair; keeps it alive.
    type Address: Send + fmt::Debug;
    /// A ring's registration; keeps it alive.
    type Ring: Send + fmt::Debug;

    /// Begins a burst on one queue pair. No other call comes before [`Device::finish`] but [`Device::push`].
    fn start(&mut self, pair: &Self::Pair);

    /// Adds a piece of work. The caller sees to it that the queue has room.
    ///
    /// # Safety
    /// The bytes lie in registered memory, and nobody writes them before the work completed.
    unsafe fn push(&mut self, pair: &Self::Pair, work: &Work, to: To<'_, Self::Address>);

    /// Hands the burst over; false: nothing of it was taken, and the queue pair is broken.
    fn finish(&mut self, pair: &Self::Pair) -> bool;

    /// Gives the shared receive queue memory; returns how many of the first were taken.
    ///
    /// # Safety
    /// The memory is registered, and nobody touches it before the receive completed.
    unsafe fn receive(&mut self, receives: &[Receive]) -> usize;

    /// Moves what completed to the back of `into`, up to its free room.
    fn poll(&mut self, into: &mut CompletedBatch);

    /// Asks to be woken by the next completion. What completed before may tell nothing, so the caller polls once more.
    fn arm(&mut self);

    /// Sleeps until woken, at most `ns` nanoseconds.
    fn sleep(&mut self, ns: u64);

    /// Syscalls made so far.
    fn syscalls(&self) -> u64;
}

/// What a worker's part of a device has to have.
#[derive(Clone, Copy, Debug)]
pub struct Needs {
    /// Receives that are posted.
    pub receive_depth: u32,
    /// Pieces of work on one queue pair.
    pub send_depth: u32,
    /// Queue pairs, that for datagrams included.
    pub pairs: u32,
}

/// The other end of a connection, as far as the device has to know.
#[derive(Clone, Copy, Debug)]
pub struct PeerEnd {
    /// Its address, IPv4 ones IPv4-mapped.
    pub gid: [u8; 16],
    /// Its queue pair.
    pub qpn: u32,
    /// The number of its first packet.
    pub psn: u32,
    /// The smaller path MTU of both.
    pub mtu_bytes: u32,
}

/// Whether packets find a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// They do.
    Known,
    /// That is being found out; ask again.
    Sought,
}

/// What a device says by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FabricEvent {
    /// A queue pair cannot go on.
    PairFailed {
        /// Its number.
        qpn: u32,
        /// What happened.
        why: String,
    },
    /// The link came up.
    PortUp,
    /// The link went down.
    PortDown,
    /// The device is lost.
    DeviceLost,
    /// Something else, told to people.
    Note(String),
}

/// What a device is.
#[derive(Clone, Debug)]
pub struct FabricInfo {
    /// Its name.
    pub device: String,
    /// Our address on it, IPv4 ones IPv4-mapped.
    pub gid: [u8; 16],
    /// Largest payload of a packet.
    pub mtu_bytes: u32,
    /// Whether the link was up when it was opened.
    pub up: bool,
    /// Whether its doorbell is a system call, as with devices that are software.
    pub soft: bool,
    /// What is weaker than it could be.
    pub degraded: Vec<String>,
}

/// A ring that subscribers own.
#[derive(Debug)]
pub struct RingMemory<R> {
    /// Its first byte.
    pub address: u64,
    /// The key that the peer writes with.
    pub rkey: Secret<u32>,
    /// Registration and memory; both end with it.
    pub keep: R,
}

/// Shorthands for what a fabric's hot half holds.
pub(crate) type Pair<F> = <<F as Fabric>::Device as Device>::Pair;
pub(crate) type Address<F> = <<F as Fabric>::Device as Device>::Address;
pub(crate) type Ring<F> = <<F as Fabric>::Device as Device>::Ring;

/// The cold half of a device. All calls come from one thread; every error says what happened, where, and what to do.
#[expect(clippy::missing_errors_doc, reason = "the trait's own line says it for all of them")]
pub trait Fabric {
    /// Its hot half.
    type Device: Device;

    /// What it is.
    fn info(&self) -> FabricInfo;

    /// Makes one worker's completion queue and shared receive queue.
    fn worker(&mut self, worker: u16, needs: Needs) -> Result<Self::Device, PortError>;

    /// Makes a queue pair for datagrams, ready to send and receive.
    fn datagrams(&mut self, worker: u16, qkey: u32) -> Result<Pair<Self>, PortError>;

    /// Makes a queue pair for a connection, in reset.
    fn pair(&mut self, worker: u16) -> Result<Pair<Self>, PortError>;

    /// Its number.
    fn qpn(&self, pair: &Pair<Self>) -> u32;

    /// Brings a queue pair for datagrams from reset back to work.
    fn revive(&mut self, pair: &Pair<Self>, qkey: u32) -> Result<(), PortError>;

    /// Finds out whether packets find a peer, without waiting for long. [`Fabric::connect`] and [`Fabric::address`] do so too and
    /// may take a second for it, but not right after this knew.
    fn find_way(&mut self, gid: &[u8; 16]) -> Result<Way, PortError>;

    /// Connects a queue pair that is in reset.
    fn connect(&mut self, pair: &Pair<Self>, own_psn: u32, peer: &PeerEnd) -> Result<(), PortError>;

    /// Puts a queue pair into error, so that everything on it completes.
    fn fail(&mut self, pair: &Pair<Self>);

    /// Puts a queue pair into reset: nothing of it completes any more, and the device lets go of its memory.
    fn reset(&mut self, pair: &Pair<Self>) -> Result<(), PortError>;

    /// Finds the way to a datagram queue pair.
    fn address(&mut self, gid: &[u8; 16]) -> Result<Address<Self>, PortError>;

    /// Makes and registers memory that the peer of this queue pair may write into.
    fn ring(&mut self, pair: &Pair<Self>, bytes: usize) -> Result<RingMemory<Ring<Self>>, PortError>;

    /// The next thing that the device says by itself, without waiting.
    fn event(&mut self) -> Option<FabricEvent>;

    /// Memory regions registered so far, rings not counted.
    fn registrations(&self) -> u64;

    /// What the device counted.
    fn counters(&self) -> Vec<(String, u64)>;
}
