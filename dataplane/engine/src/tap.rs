//! Where a worker's turns are recorded: a ring of its own, which the truth log's writer reads.

use tachyon_wire::Reason;

/// What the log answered, looked at once per turn. Positions count the bytes of the ring from its beginning and only rise.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Log {
    /// Every record that ends at or before this position was written: acks of class *logged* may go out.
    pub written: u64,
    /// Every record that ends at or before this position is as stable as its messages ask for: durable ones may be forwarded
    /// and acknowledged, and buffers go back. Never above `written`.
    pub stable: u64,
    /// Bytes that the next record may have.
    pub room: usize,
    /// Less than a quarter of the ring is free.
    pub scarce: bool,
    /// Why nothing is taken now, if so: nobody writes the log, its disk is full or failed, or it stands still.
    pub refuses: Option<Reason>,
}

/// A worker's way to the truth log. Every method returns at once; none allocates, locks or makes a syscall. Records are laid out as
/// [`tachyon_wire::tap`] says, and each lies in one piece.
pub trait Tap {
    /// Whether there is a log at all. Where there is none, nothing is recorded, and nothing of what follows is called.
    fn is_there(&self) -> bool;

    /// How many buffers are free, counted now: what decides how much is shed. A replay, whose device keeps none, says how many
    /// there were instead; every other tap leaves it at that.
    #[inline(always)]
    fn free_buffers(&self, counted: usize) -> usize {
        counted
    }

    /// Looks at what the log says.
    fn sample(&mut self, now_ns: u64) -> Log;

    /// Room for a record of up to `bytes_max`; `None` where there is not so much. Called again with the same size before the
    /// commit it is the same memory, as it was left.
    fn begin(&mut self, bytes_max: usize) -> Option<&mut [u8]>;

    /// Hands over the record that was begun last, of which `bytes` were filled; returns the position of its end.
    fn commit(&mut self, bytes: usize) -> u64;

    /// The first record that ends behind `position`, which is 0 or the end of one, and its end; `None` if nothing was
    /// committed since. Only for positions from the last [`Tap::release`] on.
    fn record(&self, position: u64) -> Option<(&[u8], u64)>;

    /// The worker looks no more at records that end at or before this position, all of which are stable: from now on the
    /// ring's memory is free up to here.
    fn release(&mut self, position: u64);
}

/// No log.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoTap;

impl Tap for NoTap {
    #[inline(always)]
    fn is_there(&self) -> bool {
        false
    }

    fn sample(&mut self, _now_ns: u64) -> Log {
        Log { refuses: Some(Reason::PersistUnavailable), ..Log::default() }
    }

    fn begin(&mut self, _bytes_max: usize) -> Option<&mut [u8]> {
        None
    }

    fn commit(&mut self, _bytes: usize) -> u64 {
        0
    }

    fn record(&self, _position: u64) -> Option<(&[u8], u64)> {
        None
    }

    fn release(&mut self, _position: u64) {}
}
