//! Acks and nacks: what the node tells a publisher that asked for it.

use crate::{ingress::Session, kept::Pending, window::Window};
use arrayvec::ArrayVec;
use tachyon_wire::{
    Endpoint, Reason,
    ack::{AckBody, CLASS_ADMITTED, CLASS_DURABLE, Map, NackBody},
    build::{self, Body, FrameFields, Seal},
};

/// Replies that can be due in one burst; more are lost, counted, and sent when the publisher repeats its frame. One per
/// frame of a full burst would be more than anyone asks for: acks of one session and shard are one reply.
pub const DUE_MAX: usize = 64;

/// Frames that one map of an ack speaks of.
const MAP_BITS: u32 = 256;

/// A nack that is kept so that a repeated frame gets it again.
#[derive(Clone, Copy, Debug)]
pub struct KeptNack {
    /// Index of the window it belongs to, plus 1; 0 marks a free entry.
    window: u32,
    epoch: u32,
    frame_id: u32,
    /// The first refused message's reason.
    pub reason: Reason,
    /// Messages accepted.
    pub accepted: Map,
}

impl KeptNack {
    /// A free entry.
    pub const EMPTY: Self =
        Self { window: 0, epoch: 0, frame_id: 0, reason: Reason::InternalInvariant, accepted: Map::EMPTY };
}

/// One reply to send at the end of the burst.
#[derive(Clone, Copy, Debug)]
pub struct Due {
    /// Slot in the session table.
    pub session: usize,
    /// Index of the window.
    pub window: usize,
    /// The shard it speaks of.
    pub shard: u16,
    /// Where the publisher's last frame came from.
    pub destination: Endpoint,
    /// The frame to nack; `None` = an ack of the whole window.
    pub nack_of: Option<u32>,
    /// The class that an ack vouches for.
    pub class: u8,
}

impl Due {
    /// Its bit in [`Window::ack_due`].
    pub(crate) fn bit(&self) -> u8 {
        1 << (self.class & 7)
    }
}

/// What is due, and the nacks that are kept.
#[derive(Debug)]
pub struct Replies<'a> {
    kept: &'a mut [KeptNack],
    /// Due at the end of this burst, in order.
    pub due: ArrayVec<Due, DUE_MAX>,
    /// Replies that found no room; the publisher's repeat asks for them again.
    pub lost: u64,
}

impl<'a> Replies<'a> {
    /// `kept` has a power of two of entries.
    pub fn new(kept: &'a mut [KeptNack]) -> Self {
        Self { kept, due: ArrayVec::new(), lost: 0 }
    }

    #[inline]
    fn place(&self, window: usize, frame_id: u32) -> usize {
        (window * 64 + frame_id as usize % 64) & (self.kept.len() - 1)
    }

    /// Notes a reply; an ack of a window and class is noted once per burst.
    pub fn note(&mut self, window: &mut Window, due: Due) {
        if due.nack_of.is_none() && window.ack_due & due.bit() != 0 {
            return;
        }
        if self.due.try_push(due).is_err() {
            self.lost += 1;
        } else if due.nack_of.is_none() {
            window.ack_due |= due.bit();
        }
    }

    /// Drops the nacks of a window that another session took over.
    pub fn forget(&mut self, window: usize) {
        for frame_id in 0..64 {
            let place = self.place(window, frame_id);
            if self.kept[place].window == entry(window) {
                self.kept[place] = KeptNack::EMPTY;
            }
        }
    }

    /// Keeps a nack; an older one in its place is dropped.
    pub fn keep(&mut self, window: usize, epoch: u32, frame_id: u32, reason: Reason, accepted: Map) {
        let place = self.place(window, frame_id);
        self.kept[place] = KeptNack { window: entry(window), epoch, frame_id, reason, accepted };
    }

    /// The nack of a frame, if it is still kept.
    #[must_use]
    pub fn kept(&self, window: usize, epoch: u32, frame_id: u32) -> Option<&KeptNack> {
        let nack = &self.kept[self.place(window, frame_id)];
        (nack.window == entry(window) && nack.epoch == epoch && nack.frame_id == frame_id).then_some(nack)
    }
}

fn entry(window: usize) -> u32 {
    u32::try_from(window).map_or(u32::MAX, |window| window + 1)
}

/// Writes the reply that is due to the start of `buffer`; returns its length, or `None` where there is nothing to say.
pub fn write(
    due: &Due,
    session: &Session,
    window: &mut Window,
    pending: Option<&Pending>,
    kept: Option<&KeptNack>,
    sent_ns: u64,
    buffer: &mut [u8],
) -> Option<u32> {
    let (epoch, shard) = (window.epoch, due.shard);
    // Before an id is taken for it: ids have no gaps.
    let nack = match due.nack_of {
        Some(_) => Some(kept?),
        None => None,
    };
    let (frame_id, reply_epoch) = window.reply.advance();
    let key = window.reply.key(reply_epoch, &session.reply_master, session.reply_id);
    let fields = FrameFields {
        frame_id,
        session_id: session.reply_id,
        shard,
        sent_ns,
        epoch: reply_epoch,
        ..FrameFields::default()
    };
    let seal = if window.key.is_some() || session.needs_tags() { Seal::Tag(&key) } else { Seal::Crc };
    if let Some(kept) = nack {
        let mut nack = NackBody::new(session.id, epoch, shard, kept.frame_id, kept.reason);
        nack.accepted = kept.accepted;
        return written(build::control(buffer, &fields, Body::Nack(&nack), seal));
    }
    window.ack_due &= !due.bit();
    let ack = ack(window, pending, session.id, shard, due.class);
    written(build::control(buffer, &fields, Body::Ack(&ack), seal))
}

fn written(bytes: Result<usize, build::PushError>) -> Option<u32> {
    u32::try_from(bytes.ok()?).ok()
}

/// What one window has settled at a class, as an ack says it. A frame of which the log takes nothing is settled at every
/// class at once, and one that it takes some of when that is written, or stable.
fn ack(window: &mut Window, pending: Option<&Pending>, session_id: u32, shard: u16, class: u8) -> AckBody {
    let stable = class == CLASS_DURABLE;
    let pending = pending.filter(|pending| class != CLASS_ADMITTED && pending.knows(window.epoch));
    let first = pending.and_then(|pending| pending.first(stable)).unwrap_or(u32::MAX);
    let cumulative = window.cumulative().min(first.saturating_sub(1));
    let waits = |id| pending.is_some_and(|pending| pending.waits(id, stable));
    let mut ack = AckBody::new(session_id, window.epoch, shard, class, cumulative);
    for id in cumulative + 1..=cumulative + MAP_BITS {
        if window.is_settled(id) && !waits(id) {
            ack.settle(id);
        }
    }
    for id in cumulative.saturating_sub(MAP_BITS - 1).max(1)..=cumulative + MAP_BITS {
        if window.is_refused(id) {
            ack.refuse(id);
        }
    }
    ack
}
