//! Which messages of the log are published. A log holds every frame as it was received; what became of its messages stands
//! in the records of decisions behind it. This file is the one place that knows how the two belong together.

use crate::positions::ClockAt;
use tachyon_log::{
    Record,
    decided::{Settled, Waiting},
    format::RawRecord,
};
use tachyon_wire::tap::HELD;

/// A frame of the log of which it is known what became of its messages, or that nobody knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judged {
    /// Sequence of its record.
    pub record: u64,
    /// Tick at which it was received, in nanoseconds of the node's clock.
    pub tick: u64,
    /// The clock that held there.
    pub clock: Option<ClockAt>,
    /// The frame, byte for byte.
    pub frame: Vec<u8>,
    /// One bit for each message that was accepted, the first message lowest; `None` where the log has no decisions.
    pub accepted: Option<[u64; 4]>,
}

impl Judged {
    /// Of a record that is a frame.
    fn new(record: &RawRecord<'_>, clock: Option<ClockAt>, frame: &[u8]) -> Self {
        Self { record: record.sequence, tick: record.tick, clock, frame: frame.to_vec(), accepted: None }
    }

    /// Whether the message with this place in the frame was accepted.
    #[must_use]
    pub fn is_accepted(&self, index: usize) -> bool {
        self.accepted.and_then(|bits| Some(bits.get(index / 64)? >> (index % 64) & 1 == 1)).unwrap_or(false)
    }
}

/// Tells accepted messages from others. It is given every record of one shard in order, from the start of a segment on, and
/// may keep frames back until the decisions about them come; but it gives them out in the order of their records, because a
/// position in the log stands for all that is before it.
pub trait Accepts {
    /// Takes the next record, and the clock that holds there; adds the frames that are settled by it.
    fn take(&mut self, record: &RawRecord<'_>, clock: Option<ClockAt>, judged: &mut Vec<Judged>);

    /// Records that come next were removed; adds the frames of which nothing more will be known.
    fn pass_over(&mut self, judged: &mut Vec<Judged>);
}

/// The messages that were accepted, by the log's decisions.
#[derive(Debug, Default)]
pub struct Decided {
    waiting: Waiting<Judged>,
}

impl Decided {
    fn give_out(&mut self, judged: &mut Vec<Judged>) {
        while let Some(Settled { kept, words }) = self.waiting.settled() {
            judged.push(Judged { accepted: words.as_deref().map(bits), ..kept });
        }
    }
}

impl Accepts for Decided {
    fn take(&mut self, record: &RawRecord<'_>, clock: Option<ClockAt>, judged: &mut Vec<Judged>) {
        self.waiting.take(record, |_, frame| Judged::new(record, clock, frame));
        self.give_out(judged);
    }

    fn pass_over(&mut self, judged: &mut Vec<Judged>) {
        self.waiting.give_up();
        self.give_out(judged);
    }
}

/// The bits of messages that were accepted. One that still waits for the log was: the log is what it waits for.
fn bits(words: &[u8]) -> [u64; 4] {
    let mut bits = [0; 4];
    for (index, word) in words.iter().enumerate() {
        if let Some(bits) = bits.get_mut(index / 64).filter(|_| *word == 0 || *word == HELD) {
            *bits |= 1 << (index % 64);
        }
    }
    bits
}

/// Every message of every frame, refused ones too.
#[derive(Clone, Copy, Debug, Default)]
pub struct EveryMessage;

impl Accepts for EveryMessage {
    fn take(&mut self, record: &RawRecord<'_>, clock: Option<ClockAt>, judged: &mut Vec<Judged>) {
        if let Some(Record::Frame(_, frame)) = Record::read(record) {
            judged.push(Judged { accepted: Some([u64::MAX; 4]), ..Judged::new(record, clock, frame) });
        }
    }

    fn pass_over(&mut self, _judged: &mut Vec<Judged>) {}
}

#[cfg(test)]
mod tests {
    use super::{Accepts, ClockAt, Decided, EveryMessage, Judged};
    use tachyon_log::{
        format::RawRecord,
        record::{Arrival, Clock, Kind},
        turn::Encoder,
    };
    use tachyon_wire::{
        Endpoint, Reason,
        tap::{ENTRY_REASONS, FRAME_WHOLE, FrameEntry, HELD, Item, KIND_TURN, Turn},
    };
    use zerocopy::{FromZeros, IntoBytes};

    const REFUSED: u8 = Reason::Throttled.number();

    /// Records in order, given to an implementation one by one.
    struct Log<A> {
        accepts: A,
        next: u64,
    }

    impl<A: Accepts> Log<A> {
        fn take(&mut self, kind: Kind, body: &[u8]) -> Vec<Judged> {
            let (sequence, mut judged) = (self.next, Vec::new());
            self.next += 1;
            let record = RawRecord { sequence, tick: 10 * sequence, kind: kind as u8, body, leaf: &[] };
            let clock = ClockAt { tick: sequence, unix_ns: sequence };
            self.accepts.take(&record, Some(clock), &mut judged);
            judged
        }

        fn frame(&mut self, burst: u32) -> Vec<Judged> {
            let arrival = Arrival { source: Endpoint::NONE, worker: 1.into(), burst: burst.into() };
            self.take(Kind::Frame, &[arrival.as_bytes(), b"frame"].concat())
        }

        fn decisions(&mut self, turn: u64, frames: &[&[u8]]) -> Vec<Judged> {
            let mut encoder = Encoder::default();
            for words in frames {
                let mut item = Item::new_zeroed();
                item.frames = 1.into();
                encoder.item(&item);
                let count = u16::try_from(words.len()).expect("few").into();
                let (form, flags) = (FRAME_WHOLE, ENTRY_REASONS);
                let entry = FrameEntry { form, flags, reason: 0, reserved: 0, count, reserved_2: 0.into() };
                encoder.frame(&entry, &[], &[], words);
            }
            let mut header = Turn::new_zeroed();
            (header.kind, header.turn, header.worker) = (KIND_TURN, turn.into(), 1.into());
            self.take(Kind::Decisions, &encoder.finish(&header))
        }
    }

    fn accepted(judged: &[Judged]) -> Vec<(u64, Option<u64>)> {
        judged.iter().map(|judged| (judged.record, judged.accepted.map(|bits| bits[0]))).collect()
    }

    #[test]
    fn a_frame_waits_and_only_what_was_accepted_is_said() {
        let mut log = Log { accepts: Decided::default(), next: 0 };
        assert_eq!((log.frame(7), log.frame(7)), (vec![], vec![]));
        let judged = log.decisions(7, &[&[0, REFUSED, HELD], &[REFUSED; 3]]);
        assert_eq!(accepted(&judged), [(0, Some(0b101)), (1, Some(0))]);
        // Time and clock are those of the frame.
        assert_eq!((judged[1].tick, judged[1].clock), (10, Some(ClockAt { tick: 1, unix_ns: 1 })));
        assert!(judged[0].is_accepted(2) && !judged[0].is_accepted(1) && !judged[0].is_accepted(300));
        let words: Vec<u8> = (0..256).map(|index| if index % 3 == 0 { 0 } else { REFUSED }).collect();
        log.frame(8);
        let [judged] = log.decisions(8, &[&words]).try_into().expect("one frame");
        assert!((0..256).all(|index| judged.is_accepted(index) == (index % 3 == 0)));
    }

    #[test]
    fn what_a_crash_left_without_decisions_is_given_out_as_such() {
        let mut log = Log { accepts: Decided::default(), next: 0 };
        log.frame(7);
        log.frame(8);
        assert_eq!(accepted(&log.decisions(8, &[&[0]])), [(0, None), (1, Some(1))], "control lost a turn");
        log.frame(9);
        // The node starts anew, and so do its turns.
        let clock = Clock { boot_id: [2; 16], unix_ns: 0.into(), boot: 1, reserved: [0; 7] };
        assert_eq!(accepted(&log.take(Kind::Clock, clock.as_bytes())), [(3, None)]);
        log.frame(9);
        assert_eq!(accepted(&log.decisions(9, &[&[0, 0]])), [(5, Some(3))]);
        log.frame(10);
        let mut judged = Vec::new();
        log.accepts.pass_over(&mut judged);
        assert_eq!(accepted(&judged), [(7, None)]);
        assert_eq!(log.decisions(10, &[&[0]]), [], "its frame is given up");
    }

    #[test]
    fn every_message_waits_for_nothing() {
        let mut log = Log { accepts: EveryMessage, next: 0 };
        assert_eq!(accepted(&log.frame(7)), [(0, Some(u64::MAX))]);
        assert_eq!(log.decisions(7, &[&[REFUSED]]), []);
    }
}
