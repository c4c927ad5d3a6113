//! Which messages of the log are published. A log holds every frame as it was received; what became of its messages stands
//! in the records of decisions behind it. This file is the one place that knows how the two belong together.

use tachyon_log::{Record, format::RawRecord};

/// A frame of the log of which it is known what became of its messages.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Sequence of its record.
    pub record: u64,
    /// Tick at which it was received, in nanoseconds of the node's clock.
    pub tick: u64,
    /// The frame, byte for byte.
    pub frame: Vec<u8>,
    /// One bit for each message that was accepted, the first message lowest.
    pub accepted: [u64; 4],
}

impl Judged {
    /// Whether the message with this place in the frame was accepted.
    #[must_use]
    pub fn is_accepted(&self, index: usize) -> bool {
        self.accepted.get(index / 64).is_some_and(|bits| bits >> (index % 64) & 1 == 1)
    }
}

/// Tells accepted messages from others. It is given every record of one shard in order, from the start of a segment on, and
/// may keep frames back until the decisions about them come; but it gives them out in the order of their records, because a
/// position in the log stands for all that is before it.
pub trait Accepts {
    /// Takes the next record; adds the frames that are settled by it.
    fn take(&mut self, record: &RawRecord<'_>, judged: &mut Vec<Judged>);
}

/// Every message of every frame.
#[derive(Clone, Copy, Debug, Default)]
pub struct EveryMessage;

impl Accepts for EveryMessage {
    fn take(&mut self, record: &RawRecord<'_>, judged: &mut Vec<Judged>) {
        if let Some(Record::Frame(_, frame)) = Record::read(record) {
            let (record, tick) = (record.sequence, record.tick);
            judged.push(Judged { record, tick, frame: frame.to_vec(), accepted: [u64::MAX; 4] });
        }
    }
}
