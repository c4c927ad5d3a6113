//! What a log says of sessions, record by record.

use super::{LEFT_NS, Tail, Windows};
use crate::log::{shard::Shard, tests::Script};
use tachyon_log::turn::split;
use tachyon_log::{
    Disk, Record,
    record::{Arrival, Clock},
};
use tachyon_wire::{
    Endpoint, FrameHeader, Message, Reason,
    build::{FrameFields, FrameWriter, Seal},
    command::Restore,
    tap::{
        ALIGN, ENTRY_DURABLE, ENTRY_LOGGED, ENTRY_REASONS, FRAME_REFUSED, FRAME_STUBS, FRAME_WHOLE, FrameEntry, HELD,
        Item, KIND_TURN, STUB_BYTES, TURN_BYTES, Turn, WITHHELD,
    },
};
use zerocopy::{FromZeros, IntoBytes};

const SESSION: u32 = 70;

/// A frame of a turn, and the words on its messages.
#[derive(Clone, Copy)]
struct Judged {
    form: u8,
    epoch: u32,
    id: u32,
    reason: u8,
    words: &'static [u8],
}

const fn whole(id: u32) -> Judged {
    Judged { form: FRAME_WHOLE, epoch: 5, id, reason: 0, words: &[] }
}

fn bytes_of(epoch: u32, id: u32) -> Vec<u8> {
    let mut bytes = [0; 1024];
    let fields = FrameFields { frame_id: id, session_id: SESSION, shard: 3, epoch, ..FrameFields::default() };
    let mut writer = FrameWriter::new(&mut bytes, fields);
    (0..2_u8).for_each(|index| writer.push(&Message::inline(19, 1, 1, &[index]).expect("valid")).expect("room"));
    let length = writer.finish(Seal::Crc);
    bytes[..length].to_vec()
}

/// The log of a shard in memory.
#[derive(Default)]
struct Log {
    windows: Windows,
    next: u64,
}

impl Log {
    fn add(&mut self, record: &Record<'_>) {
        self.windows.take(self.next, record);
        self.next += 1;
    }

    fn boot(&mut self, number: u8) {
        self.add(&Record::Clock(Clock { boot_id: [number; 16], unix_ns: 1.into(), boot: 1, reserved: [0; 7] }));
    }

    /// Appends a turn; gives the sequence of its first record.
    fn turn(&mut self, number: u64, tick: u64, stable: u64, frames: &[Judged]) -> u64 {
        let first = self.next;
        let burst = u32::try_from(number).expect("small").into();
        let arrival = Arrival { source: Endpoint::NONE, worker: 0.into(), burst };
        for judged in frames.iter().filter(|judged| judged.form == FRAME_WHOLE) {
            self.add(&Record::Frame(arrival, &bytes_of(judged.epoch, judged.id)));
        }
        let mut item = Item::new_zeroed();
        (item.shard, item.frames) = (3.into(), u16::try_from(frames.len()).expect("few").into());
        let mut body = item.as_bytes().to_vec();
        for judged in frames {
            let durable = if judged.form == FRAME_WHOLE { ENTRY_DURABLE | ENTRY_LOGGED } else { 0 };
            let flags = durable | if judged.words.is_empty() { 0 } else { ENTRY_REASONS };
            let count = if judged.form == FRAME_REFUSED { 0 } else { 2 };
            let entry = FrameEntry {
                form: judged.form,
                flags,
                reason: judged.reason,
                reserved: 0,
                count: count.into(),
                reserved_2: 0.into(),
            };
            body.extend_from_slice(entry.as_bytes());
            if judged.form != FRAME_WHOLE {
                body.extend_from_slice(&bytes_of(judged.epoch, judged.id)[..size_of::<FrameHeader>()]);
            }
            if judged.form == FRAME_STUBS {
                body.resize(body.len() + 2 * STUB_BYTES, 0);
            }
            body.extend_from_slice(judged.words);
            body.resize(body.len().next_multiple_of(ALIGN), 0);
        }
        let mut turn = Turn::new_zeroed();
        (turn.kind, turn.turn, turn.tick, turn.stable) = (KIND_TURN, number.into(), tick.into(), stable.into());
        turn.items = 1.into();
        turn.length = u32::try_from(TURN_BYTES + body.len()).expect("small").into();
        self.add(&Record::Decisions(&[turn.as_bytes(), &body].concat()));
        first
    }

    /// Epoch, highest frame, frames that are there, and those with a refused message.
    fn window(&self) -> (u32, u32, Vec<u32>, Vec<u32>) {
        let parts: Vec<Restore> = self.windows.of(SESSION, 3).collect();
        let (epoch, top) = parts.first().map_or((0, 0), |part| (part.epoch.get(), part.top.get()));
        let ids = |of: fn(&Restore, usize) -> u64| {
            let ids = parts.iter().flat_map(|part| (0..256).map(move |at| (part, at)));
            let ids = ids.filter(|(part, at)| of(part, at / 64) >> (at % 64) & 1 != 0);
            ids.map(|(part, at)| u32::from(part.word) * 64 + u32::try_from(at).expect("small")).collect()
        };
        (epoch, top, ids(|part, word| part.seen[word].get()), ids(|part, word| part.refused[word].get()))
    }
}

#[test]
fn a_window_is_what_was_settled_and_what_was_refused_of_it() {
    let mut log = Log::default();
    log.boot(1);
    let refused =
        |reason: Reason, epoch, id| Judged { form: FRAME_REFUSED, epoch, id, reason: reason.number(), words: &[] };
    let stubs = Judged { form: FRAME_STUBS, ..whole(4) };
    let partly = Judged { words: &[HELD, 27], ..whole(2) };
    let withheld = Judged { form: FRAME_STUBS, words: &[WITHHELD, 0], ..whole(7) };
    log.turn(1, 10, 0, &[whole(1), partly, stubs, refused(Reason::BadTag, 5, 5), withheld]);
    log.turn(
        2,
        20,
        0,
        &[refused(Reason::RefInvalid, 5, 6), refused(Reason::Replay, 5, 1), refused(Reason::Stale, 4, 9)],
    );
    assert_eq!(log.window(), (5, 7, vec![1, 2, 4, 6, 7], vec![2, 6, 7]));
    // What was in the log without its decisions was never settled.
    let arrival = Arrival { source: Endpoint::NONE, worker: 0.into(), burst: 3.into() };
    log.add(&Record::Frame(arrival, &bytes_of(5, 8)));
    log.boot(2);
    log.turn(1, 10, 0, &[whole(9)]);
    assert_eq!(log.window(), (5, 9, vec![1, 2, 4, 6, 7, 9], vec![2, 6, 7]));
    log.turn(2, 20, 0, &[whole(1_026)]);
    // Frame 1,026 has the bit of frame 2, which has left the window, as has frame 1.
    assert_eq!(log.window(), (5, 1_026, vec![2, 4, 6, 7, 9], vec![6, 7]));
    log.turn(3, 30, 0, &[refused(Reason::Stale, 6, u32::MAX), Judged { epoch: 6, ..whole(3) }]);
    assert_eq!(log.window(), (6, 3, vec![3], vec![]), "a newer epoch");
}

#[test]
fn what_may_not_have_left_begins_where_the_last_old_turn_says() {
    let mut log = Log::default();
    log.boot(1);
    let start = |log: &Log| Tail::start(&log.windows.tail);
    let first = log.turn(1, LEFT_NS, 0, &[whole(1)]);
    assert_eq!(start(&log), 0, "nothing is known to have left");
    let second = log.turn(2, 2 * LEFT_NS, 0, &[whole(2)]);
    assert!(start(&log) <= first);
    let third = log.turn(3, 3 * LEFT_NS, 1, &[whole(3)]);
    assert!(start(&log) <= first, "turn 2 had forwarded none, by what it says");
    log.turn(4, 4 * LEFT_NS, 3, &[]);
    assert_eq!(start(&log), second, "turn 3 had forwarded turn 1, and is old");
    log.turn(5, 5 * LEFT_NS, 3, &[]);
    assert!(start(&log) > third);
}

#[test]
fn a_node_that_was_told_nothing_yet_does_not_end_what_may_not_have_left() {
    let mut log = Log::default();
    log.boot(1);
    let first = log.turn(1, LEFT_NS, 0, &[whole(1)]);
    let start = |log: &Log| Tail::start(&log.windows.tail);
    log.boot(2);
    let knocks = Judged { form: FRAME_REFUSED, reason: Reason::NoSession.number(), ..whole(1) };
    for turn in 1..10 {
        log.turn(turn, turn * LEFT_NS, turn - 1, &[knocks]);
        assert!(start(&log) <= first, "sessions are closed still");
    }
    log.turn(10, 10 * LEFT_NS, 9, &[whole(2)]);
    assert!(start(&log) <= first, "it was told, and may be gone before anything left");
    log.turn(11, 11 * LEFT_NS, 10, &[]);
    assert!(start(&log) > first);
}

#[test]
fn a_snapshot_of_any_turn_and_the_rest_come_to_the_same_as_all() {
    let script = Script::new(2, &[0, 1], 150);
    let mut records: Vec<(u64, Vec<u8>, Option<Arrival>)> = Vec::new();
    let number = |number: u64| u32::try_from(number).expect("small");
    for turn in 1..=script.turns {
        let parts = split(&script.record(turn), Shard::<Disk>::body_bytes_max()).expect("a turn").parts;
        for part in parts.into_iter().filter(|part| part.shard == 0) {
            let burst = u32::try_from(turn).expect("small").into();
            let arrival = Arrival { source: Endpoint::NONE, worker: 2.into(), burst };
            let frame = |index: usize| bytes_of(5 + number(turn / 40), number(turn * 4) + number(index as u64));
            records.extend((0..part.frames.len()).map(|index| (turn, frame(index), Some(arrival))));
            records.extend(part.bodies.into_iter().map(|body| (turn, body, None)));
        }
    }
    let take = |windows: &mut Windows, from: usize, to: usize| {
        for (sequence, (_, bytes, arrival)) in (0..).zip(&records).skip(from).take(to - from) {
            let record = arrival.map_or(Record::Decisions(bytes), |arrival| Record::Frame(arrival, bytes));
            windows.take(sequence, &record);
        }
    };
    let mut all = Windows::default();
    take(&mut all, 0, records.len());
    assert!(all.of(SESSION, 0).count() > 0);
    let (mut before, mut at) = (Windows::default(), 0);
    for cut in 1..records.len() {
        take(&mut before, at, cut);
        at = cut;
        let snapshot = before.to_snapshot();
        let mut after = Windows::from_snapshot(&snapshot, cut as u64).expect("its own");
        take(&mut after, cut, records.len());
        assert_eq!(after, all, "cut at record {cut}");
        assert!(Windows::from_snapshot(&snapshot, cut as u64 - 1).is_err(), "the log is shorter than it");
    }
    let snapshot = all.to_snapshot();
    for at in 0..snapshot.len() {
        let mut damaged = snapshot.clone();
        damaged[at] ^= 4;
        assert!(Windows::from_snapshot(&damaged, u64::MAX).is_err(), "byte {at}");
        assert!(Windows::from_snapshot(&snapshot[..at], u64::MAX).is_err(), "{at} bytes");
    }
}
