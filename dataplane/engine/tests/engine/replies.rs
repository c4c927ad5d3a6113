//! Acks and nacks say what the worker settled, and say it again to whoever asks again.

use crate::fabric::{Config, Draws, Fabric, Reply, Rules, message, reasons};
use std::collections::BTreeSet;
use tachyon_policy::compile::Quota;
use tachyon_wire::{
    Message, Reason,
    ack::{AckBody, CLASS_ADMITTED, NackBody},
    command::Command,
    frame::ACK_WANTED,
};

/// Topic 1 is allowed, topic 5 is not.
fn fabric(tagged: bool) -> Fabric {
    let rules = Rules::new(1).senders().topic(1, &[0], &[0]).topic(5, &[1], &[0]);
    let mut fabric = Fabric::new(Config::default(), rules);
    fabric.subscriber(false, 128, 1472);
    fabric.publisher(0, tagged);
    fabric
}

fn ack(reply: &(u16, Reply)) -> &AckBody {
    match &reply.1 {
        Reply::Ack(ack) => ack,
        Reply::Nack(nack) => panic!("{nack:?}"),
    }
}

fn nack(reply: &(u16, Reply)) -> &NackBody {
    match &reply.1 {
        Reply::Nack(nack) => nack,
        Reply::Ack(ack) => panic!("{ack:?}"),
    }
}

fn good() -> Message {
    message(1, 0, 0, 1, 0)
}

fn denied() -> Message {
    message(5, 0, 0, 1, 0)
}

#[test]
fn acks_what_a_set_of_ids_says_is_settled_and_refused() {
    for tagged in [true, false] {
        let mut fabric = fabric(tagged);
        let mut draws = Draws(7);
        let (mut settled, mut refused) = (BTreeSet::new(), BTreeSet::new());
        let mut top = 0;
        for round in 0..1_500 {
            let id = if draws.below(8) == 0 && top > 1 { 1 + draws.id(top) } else { top + 1 + draws.id(3) };
            let bad = draws.below(5) == 0;
            let messages = if bad { vec![good(), denied()] } else { vec![good()] };
            let wants = draws.below(3) == 0;
            let frame = fabric.publishers[0].frame_as(1, if wants { ACK_WANTED } else { 0 }, id, &messages);
            fabric.send(0, 1, &frame);
            fabric.step(1_000);
            fabric.collect();
            let is_new = !settled.contains(&id) && id + 1_024 > top;
            if is_new {
                settled.insert(id);
                if bad {
                    refused.insert(id);
                }
                top = top.max(id);
            }
            let replies = fabric.publishers[0].take_replies();
            if !wants {
                assert_eq!(replies, []);
                continue;
            }
            let last = ack(replies.last().unwrap());
            let open = (1..).find(|id| !settled.contains(id) && id + 1_024 > top).unwrap();
            assert_eq!(last.cumulative.get(), open - 1, "round {round}");
            assert_eq!((last.class, last.epoch.get(), last.shard.get()), (CLASS_ADMITTED, 3, 1));
            for id in open..open + 256 {
                assert_eq!(last.is_settled(id), settled.contains(&id), "round {round}, frame {id}");
            }
            for id in open.saturating_sub(256).max(1)..open + 256 {
                let expected = refused.contains(&id) && id + 1_024 > top;
                assert_eq!(last.is_refused(id), expected, "round {round}, frame {id}");
            }
        }
        fabric.finish();
    }
}

#[test]
fn nacks_which_messages_were_accepted_and_says_it_again() {
    let mut fabric = fabric(true);
    let messages = [good(), message(2, 0, 0, 1, 0), good(), denied(), good()];
    let frame = fabric.publish(0, 1, ACK_WANTED, &messages);
    fabric.drain();
    let replies = fabric.publishers[0].take_replies();
    assert_eq!(replies.len(), 2);
    let first = *nack(&replies[0]);
    assert_eq!(first.reason, Reason::TopicShard.number(), "of the first refused message");
    assert_eq!((first.frame_id.get(), first.epoch.get()), (1, 3));
    let accepted: Vec<u32> = (0..256).filter(|index| first.is_accepted(*index)).collect();
    assert_eq!(accepted, [0, 2, 4]);
    assert!(ack(&replies[1]).is_refused(1) && ack(&replies[1]).is_settled(1));
    for _ in 0..3 {
        fabric.send(0, 1, &frame);
        fabric.drain();
        let again = fabric.publishers[0].take_replies();
        assert_eq!(again, replies, "a repeat is answered as the frame was, in new frames");
    }
    let counters = fabric.finish();
    assert_eq!((counters.messages_seen, counters.frames_admitted), (5, 1));
    assert_eq!(reasons(&counters.frames_refused), [(Reason::Replay, 3)]);
    assert_eq!(counters.replies_sent, 8);
}

#[test]
fn answers_nobody_who_did_not_ask() {
    let mut fabric = fabric(true);
    let frame = fabric.publish(0, 1, 0, &[denied()]);
    fabric.send(0, 1, &frame);
    let mut forged = fabric.publishers[0].frame(1, ACK_WANTED, &[denied()]);
    forged[60] ^= 1;
    fabric.send(0, 1, &forged);
    let counters = fabric.finish();
    assert_eq!((counters.replies_sent, fabric.publishers[0].replies.len()), (0, 0));
}

#[test]
fn a_heartbeat_settles_and_is_acked() {
    let mut fabric = fabric(true);
    for expected in 1..=4 {
        let beat = fabric.publishers[0].heartbeat(1, ACK_WANTED);
        fabric.send(0, 1, &beat);
        fabric.drain();
        let replies = fabric.publishers[0].take_replies();
        assert_eq!((replies.len(), ack(&replies[0]).cumulative.get()), (1, expected));
    }
    let counters = fabric.finish();
    assert_eq!((counters.frames_admitted, counters.messages_seen), (4, 0));
}

#[test]
fn acks_a_burst_once_and_nacks_every_frame_of_it() {
    let mut fabric = fabric(true);
    for number in 0..40 {
        fabric.publish(0, 1, ACK_WANTED, &if number % 4 == 0 { vec![denied()] } else { vec![good()] });
    }
    fabric.drain();
    let replies = fabric.publishers[0].take_replies();
    let nacked: Vec<u32> = replies
        .iter()
        .filter_map(|(_, reply)| if let Reply::Nack(nack) = reply { Some(nack.frame_id.get()) } else { None })
        .collect();
    assert_eq!(nacked, (0..10).map(|number| number * 4 + 1).collect::<Vec<u32>>());
    let acks: Vec<&AckBody> =
        replies.iter().filter_map(|(_, reply)| if let Reply::Ack(ack) = reply { Some(ack) } else { None }).collect();
    assert_eq!(acks.len(), 1);
    assert_eq!(acks[0].cumulative.get(), 40);
    assert_eq!((1..=40).filter(|id| acks[0].is_refused(*id)).count(), 10);
    fabric.finish();
}

#[test]
fn a_payload_area_that_lies_is_acked_as_refused() {
    let mut fabric = fabric(true);
    let publisher = &mut fabric.publishers[0];
    let id = publisher.next_id(1);
    let fields = publisher.fields(1, ACK_WANTED, id);
    let mut frame = publisher.write(fields, |writer| writer.push_with_payload(1, 0, 0, 0, &[7; 100]).unwrap());
    *frame.last_mut().unwrap() = 1;
    publisher.reseal(&mut frame);
    fabric.send(0, 1, &frame);
    let counters = fabric.finish();
    assert_eq!(reasons(&counters.frames_refused), [(Reason::RefInvalid, 1)]);
    let replies = fabric.publishers[0].take_replies();
    assert!(ack(&replies[0]).is_settled(1) && ack(&replies[0]).is_refused(1));
}

#[test]
fn a_new_epoch_begins_with_nothing_settled_and_no_nack() {
    let mut fabric = fabric(true);
    fabric.publish(0, 1, ACK_WANTED, &[denied()]);
    fabric.publish(0, 1, ACK_WANTED, &[good()]);
    fabric.drain();
    assert_eq!(fabric.publishers[0].take_replies().len(), 2);
    fabric.publishers[0].epoch = 4;
    fabric.publishers[0].last.clear();
    let frame = fabric.publish(0, 1, ACK_WANTED, &[good()]);
    fabric.send(0, 1, &frame);
    fabric.drain();
    let replies = fabric.publishers[0].take_replies();
    assert_eq!(replies.len(), 1, "the old epoch's nack of frame 1 is gone");
    let body = ack(&replies[0]);
    assert_eq!((body.epoch.get(), body.cumulative.get()), (4, 1));
    assert!(!body.is_refused(1) && !body.is_settled(2));
    fabric.finish();
}

#[test]
fn a_refusal_is_remembered_of_its_own_frame_only() {
    // Checked together, judged one after the other: by then the window is past the first, or in another epoch.
    let mut fabric = fabric(true);
    let refused = fabric.publishers[0].frame_as(1, ACK_WANTED, 1, &[denied()]);
    let far = fabric.publishers[0].frame_as(1, ACK_WANTED, 1_025, &[good()]);
    assert_eq!(refused.len(), far.len());
    let source = fabric.publishers[0].endpoint;
    assert!(fabric.send_from(source, 1, &[&refused, &far]));
    fabric.drain();
    let replies = fabric.publishers[0].take_replies();
    assert_eq!(ack(replies.last().unwrap()).cumulative.get(), 1, "frame 1 left the window, 2 did not");
    let far = fabric.publishers[0].frame_as(1, ACK_WANTED, 2_000, &[good()]);
    fabric.send(0, 1, &far);
    fabric.drain();
    let replies = fabric.publishers[0].take_replies();
    let body = ack(replies.last().unwrap());
    assert_eq!((body.cumulative.get(), body.is_settled(1_025)), (976, true));
    assert!(!body.is_refused(1_025), "frame 1 was refused, not 1,025");

    let old = fabric.publishers[0].frame_as(1, 0, 2_027, &[denied()]);
    fabric.publishers[0].epoch = 4;
    let new = fabric.publishers[0].frame_as(1, ACK_WANTED, 2_050, &[good()]);
    assert!(fabric.send_from(source, 1, &[&old, &new]));
    fabric.drain();
    let replies = fabric.publishers[0].take_replies();
    let body = ack(replies.last().unwrap());
    assert_eq!((body.epoch.get(), body.cumulative.get()), (4, 2_050 - 1_024));
    let beyond = fabric.publishers[0].frame_as(1, ACK_WANTED, 2_900, &[good()]);
    fabric.send(0, 1, &beyond);
    fabric.drain();
    let replies = fabric.publishers[0].take_replies();
    let body = ack(replies.last().unwrap());
    assert_eq!((body.cumulative.get(), body.is_settled(2_050)), (1_876, true));
    assert!((1_876 - 255..=1_876 + 256).all(|id| !body.is_refused(id)), "nothing of this epoch was refused");
    fabric.finish();
}

#[test]
fn a_nack_that_lost_its_place_leaves_no_gap_in_the_reply_ids() {
    // Nacks of frames 1 and 65 share a place; within one burst the first is lost to the second.
    let mut fabric = fabric(true);
    for id in [1, 65, 2] {
        let frame = fabric.publishers[0].frame_as(1, ACK_WANTED, id, &[denied()]);
        fabric.send(0, 1, &frame);
    }
    fabric.finish(); // a gap fails in `take`
    let replies = fabric.publishers[0].take_replies();
    assert_eq!(replies.iter().filter(|(_, reply)| matches!(reply, Reply::Nack(_))).count(), 2);
}

#[test]
fn never_tells_a_session_of_the_one_that_had_its_slot() {
    let mut fabric = fabric(true);
    fabric.publish(0, 1, ACK_WANTED, &[denied()]);
    fabric.drain();
    fabric.command(Command::CloseSession(fabric.publishers[0].session_id));
    let next = &mut fabric.publishers[0];
    next.take_replies();
    next.session_id += 64; // the same slot
    next.reply_id += 64;
    next.master = [9; 32];
    next.reply_master = [8; 32];
    let mut next = next.clone();
    next.last.clear();
    let mut fresh = crate::fabric::Publisher::new(0, 0, true);
    (fresh.session_id, fresh.reply_id) = (next.session_id, next.reply_id);
    (fresh.master, fresh.reply_master) = (next.master, next.reply_master);
    fabric.publishers[0] = fresh;
    let open = fabric.publishers[0].open();
    fabric.command(Command::OpenSession(open));
    let frame = fabric.publish(0, 1, ACK_WANTED, &[good()]);
    fabric.send(0, 1, &frame);
    fabric.drain();
    let replies = fabric.publishers[0].take_replies();
    assert_eq!(replies.len(), 1, "{replies:?}");
    assert!(!ack(&replies[0]).is_refused(1));
    fabric.finish();
}

#[test]
fn a_session_that_is_closed_and_opened_again_goes_on_numbering_replies() {
    let mut fabric = fabric(true);
    let open = fabric.publishers[0].open();
    for _ in 0..3 {
        fabric.publish(0, 1, ACK_WANTED, &[good()]);
        fabric.drain();
        fabric.command(Command::CloseSession(open.session_id.get()));
        fabric.command(Command::OpenSession(open));
    }
    fabric.finish(); // a reply id used twice under one key fails in `take`
    assert_eq!(fabric.publishers[0].replies.len(), 3);
}

#[test]
fn replies_are_counted_as_lost_where_there_is_no_room_for_them() {
    let mut fabric = fabric(true);
    let frames: Vec<Vec<u8>> = (0..150).map(|_| fabric.publishers[0].frame(1, ACK_WANTED, &[denied()])).collect();
    let source = fabric.publishers[0].endpoint;
    for ten in frames.chunks(10) {
        let ten: Vec<&[u8]> = ten.iter().map(Vec::as_slice).collect();
        assert!(fabric.send_from(source, 1, &ten));
    }
    let counters = fabric.finish();
    assert!(counters.replies_lost > 0);
    assert_eq!(counters.replies_sent + counters.replies_lost, 151);
    // Nothing is lost for good: a repeat asks again.
    fabric.publishers[0].take_replies();
    for frame in &frames[140..] {
        fabric.send(0, 1, frame);
    }
    fabric.drain();
    let replies = fabric.publishers[0].take_replies();
    assert_eq!(replies.len(), 11);
}

#[test]
fn a_quota_refusal_in_the_middle_of_a_frame_is_nacked_exactly() {
    let three = Quota::new(1, 1_000_000_000, 3).unwrap();
    let rules = Rules::new(1).sender(0, three).topic(1, &[0], &[0]);
    let mut fabric = Fabric::new(Config::default(), rules);
    fabric.subscriber(false, 128, 1472);
    fabric.publisher(0, true);
    fabric.publish(0, 1, ACK_WANTED, &[good(); 22]);
    fabric.drain();
    let replies = fabric.publishers[0].take_replies();
    assert_eq!(nack(&replies[0]).accepted.count(), 3);
    assert_eq!(nack(&replies[0]).reason, Reason::QuotaExceeded.number());
    fabric.finish();
}
