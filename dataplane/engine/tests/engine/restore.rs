//! A worker that starts anew where a log ends: windows of before, and messages that are forwarded once more.

use crate::fabric::{Config, Fabric, Reply, Rules, mark, message, reasons};
use tachyon_policy::compile::Durability;
use tachyon_wire::{
    Reason,
    ack::{AckBody, CLASS_DURABLE},
    command::{Again, Command, OpenSession, Restore, SESSION_RESTORING},
    frame::{ACK_WANTED, Provenance},
};

const VOLATILE: u32 = 1;
const DURABLE: u32 = 9;
/// A topic of its shard that the rules do not know.
const UNKNOWN: u32 = 17;
const SHARD: u16 = 1;
const FLOOR: u32 = 9 << 16;

/// A worker that knows a session as one that is restored: the log has frames 1, 2, 4 and 5 of it, 4 with a refusal.
fn restoring() -> (Fabric, OpenSession) {
    let config = Config { held_buffers: 64, log_bytes: 1 << 20, ..Config::default() };
    let rules = Rules::new(1).senders().topic(VOLATILE, &[0], &[0]).topic(DURABLE, &[0], &[0, 1]);
    let mut fabric = Fabric::new(config, rules.with(|topic| topic.durability = Durability::Durable));
    fabric.subscriber(false, 128, 1472);
    fabric.subscriber(true, 128, 1472);
    let publisher = fabric.publisher(0, true);
    let publisher = &mut fabric.publishers[publisher];
    // Other keys make it another session in the slot.
    (publisher.master, publisher.reply_master) = ([1; 32], [2; 32]);
    let open = publisher.open();
    let mut first = OpenSession { epoch_floor: FLOOR.into(), ..open };
    first.flags |= SESSION_RESTORING;
    let bits = |ids: &[u32]| [ids.iter().fold(0, |bits, id| bits | 1_u64 << id).into(), 0.into(), 0.into(), 0.into()];
    let part = Restore {
        session_id: open.session_id,
        epoch: 3.into(),
        top: 5.into(),
        shard: SHARD.into(),
        word: 0,
        reserved: 0,
        seen: bits(&[1, 2, 4, 5]),
        refused: bits(&[4]),
    };
    fabric.command(Command::OpenSession(first));
    fabric.command(Command::Restore(part));
    fabric.step(1_000);
    (fabric, OpenSession { epoch_floor: 0.into(), ..open })
}

fn acks(fabric: &Fabric, shard: u16) -> Vec<AckBody> {
    let replies = fabric.publishers[0].replies.iter().filter(|(of, _)| *of == shard);
    replies.filter_map(|(_, reply)| if let Reply::Ack(ack) = reply { Some(*ack) } else { None }).collect()
}

#[test]
fn what_the_log_has_is_a_repeat_and_what_it_lacks_is_not() {
    let (mut fabric, open) = restoring();
    let early = fabric.publishers[0].frame_as(SHARD, ACK_WANTED, 6, &[message(DURABLE, 0, 0, 6, 0)]);
    fabric.send(0, SHARD, &early);
    fabric.finish();
    assert!(fabric.publishers[0].replies.is_empty(), "it is closed until its window is whole");
    fabric.command(Command::OpenSession(open));
    for id in 1..=6 {
        let frame = fabric.publishers[0].frame_as(SHARD, ACK_WANTED, id, &[message(DURABLE, 0, 0, id.into(), 0)]);
        fabric.send(0, SHARD, &frame);
    }
    fabric.step(1_000);
    fabric.drain_held();
    let durable = |fabric: &Fabric| *acks(fabric, SHARD).iter().rfind(|ack| ack.class == CLASS_DURABLE).unwrap();
    let ack = durable(&fabric);
    let settled: Vec<u32> = (1..=6).filter(|id| ack.is_settled(*id)).collect();
    assert_eq!((ack.epoch.get(), settled, ack.is_refused(4)), (3, vec![1, 2, 4, 5], true), "before anything is stable");
    fabric.worker.tap().sync();
    let counters = fabric.finish();
    assert_eq!(durable(&fabric).cumulative.get(), 6);
    assert_eq!(reasons(&counters.frames_refused), [(Reason::NoSession, 1), (Reason::Replay, 4)]);
    assert_eq!(counters.messages_accepted, 2);
    let received: Vec<u64> = fabric.subscribers[1].received.iter().map(|copy| mark(&copy.message).0).collect();
    assert_eq!(received, [3, 6]);
}

#[test]
fn a_live_window_is_not_set_back() {
    let (mut fabric, open) = restoring();
    fabric.command(Command::OpenSession(open));
    let frame = fabric.publishers[0].frame_as(SHARD, ACK_WANTED, 2_000, &[message(VOLATILE, 0, 0, 0, 0)]);
    fabric.send(0, SHARD, &frame);
    fabric.finish();
    // Control died on the way, and its successor tells all of it once more.
    let mut again = OpenSession { epoch_floor: FLOOR.into(), ..open };
    again.flags |= SESSION_RESTORING;
    fabric.command(Command::OpenSession(again));
    let seen = [u64::MAX.into(); 4];
    let part = Restore {
        session_id: open.session_id,
        epoch: 3.into(),
        top: 200.into(),
        shard: SHARD.into(),
        word: 0,
        reserved: 0,
        seen,
        refused: [0.into(); 4],
    };
    fabric.command(Command::Restore(part));
    fabric.command(Command::OpenSession(open));
    fabric.step(1_000);
    for id in [2_000, 1_100, 900] {
        let frame = fabric.publishers[0].frame_as(SHARD, 0, id, &[message(VOLATILE, 0, 0, 0, 0)]);
        fabric.send(0, SHARD, &frame);
    }
    let counters = fabric.finish();
    assert_eq!(reasons(&counters.frames_refused), [(Reason::Stale, 1), (Reason::Replay, 1)], "1,100 is new");
}

#[test]
fn an_epoch_that_is_over_is_answered_with_the_one_there_is() {
    let (mut fabric, open) = restoring();
    fabric.command(Command::OpenSession(open));
    let other = SHARD + 1;
    let wanted = |fabric: &Fabric, epoch, flags| {
        let mut publisher = fabric.publishers[0].fields(other, flags, 1);
        publisher.epoch = epoch;
        fabric.publishers[0].write(publisher, |writer| writer.push(&message(2, 0, 0, 0, 0)).unwrap())
    };
    let old = wanted(&fabric, 3, 0);
    fabric.send(0, other, &old);
    fabric.finish();
    assert!(acks(&fabric, other).is_empty(), "nobody asked");
    let old = wanted(&fabric, 3, ACK_WANTED);
    fabric.send(0, other, &old);
    fabric.finish();
    let epochs: Vec<u32> = acks(&fabric, other).iter().map(|ack| ack.epoch.get()).collect();
    assert_eq!(epochs, [FLOOR]);
    let new = wanted(&fabric, FLOOR, ACK_WANTED);
    fabric.send(0, other, &new);
    let counters = fabric.finish();
    assert_eq!((counters.frames_admitted, reasons(&counters.frames_refused)), (1, vec![(Reason::Stale, 2)]));
}

#[test]
fn forwards_again_under_the_old_identity_and_only_what_is_durable() {
    let (mut fabric, open) = restoring();
    let identity = Provenance {
        session_id: open.session_id,
        epoch: 3.into(),
        frame_id: 5.into(),
        shard: SHARD.into(),
        index: 7.into(),
    };
    fabric.command(Command::Again(Again { identity, message: message(DURABLE, 0, 0, 77, 0) }));
    fabric.command(Command::Again(Again { identity, message: message(VOLATILE, 0, 0, 78, 0) }));
    let elsewhere = Provenance { shard: 60.into(), ..identity };
    fabric.command(Command::Again(Again { identity: elsewhere, message: message(DURABLE, 0, 0, 79, 0) }));
    fabric.command(Command::Again(Again { identity, message: message(UNKNOWN, 0, 0, 80, 0) }));
    let counters = fabric.finish();
    assert_eq!((counters.copies_due, counters.copies_given, counters.messages_seen), (5, 2, 0));
    let lost = [(Reason::PersistUnavailable, 2), (Reason::InternalInvariant, 1)];
    assert_eq!(reasons(&counters.copies_refused), lost, "what is not forwarded is counted");
    for subscriber in &fabric.subscribers {
        let copies: Vec<_> = subscriber.received.iter().map(|copy| (mark(&copy.message).0, copy.identity)).collect();
        assert_eq!(copies, [(77, Some(identity))]);
    }
}
