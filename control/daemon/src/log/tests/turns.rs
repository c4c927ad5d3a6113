//! Turns of every sort, taken apart for the logs of their shards.

use super::{Script, key_of};
use tachyon_log::{
    record::key_name,
    turn::{Logged, Part, RecordedTurn, Unjoined, join, parts_of, split},
};
use tachyon_wire::{
    command::OpenSession,
    tap::{COMMAND_OPEN_SESSION, COMMAND_PARTS, FRAME_WHOLE, Part as TapPart, TURN_BYTES, TURN_DURABLE, Turn, read},
};
use zerocopy::{FromBytes, FromZeros, IntoBytes};

const MAX: usize = 1 << 18;

#[test]
fn every_part_is_a_turn_record_of_its_shard_and_together_they_are_the_turn() {
    let script = Script::new(3, &[1, 4, 6], 400);
    for number in 1..=script.turns {
        let record = script.record(number);
        let (turn, parts) = read(&record).expect("a turn");
        let split = split(&record, MAX).expect("a turn");
        let shards = split.parts.iter().fold(0, |shards, part| shards | 1_u64 << part.shard);
        let mut items = Vec::new();
        for part in &split.parts {
            let [body] = part.bodies.as_slice() else { panic!("one body for each shard") };
            let (header, mut inner) = read(body).expect("a turn record");
            assert_eq!(
                (header.turn, header.worker, header.tick, header.flags),
                (turn.turn, turn.worker, turn.tick, turn.flags)
            );
            let said = parts_of(body);
            assert_eq!(said.is_some(), split.parts.len() > 1, "what is alone needs no word");
            let frames = u32::try_from(part.frames.len()).expect("few");
            assert!(said.is_none_or(|said| (said.shards.get(), said.frames.get(), said.bodies.get()) == (shards, frames, 1)));
            let commands = header.commands.get() - u16::from(said.is_some());
            assert_eq!(commands > 0, turn.commands.get() > 0 && part.shard == 1);
            let (mut wholes, mut place) = (0, 0);
            for piece in inner.by_ref() {
                match piece {
                    TapPart::Item(item) => {
                        assert_eq!(item.shard.get(), part.shard);
                        items.push(item.place.get());
                        place = 0;
                    }
                    TapPart::Frame(frame) => {
                        if frame.entry.form == FRAME_WHOLE {
                            assert_eq!(part.frames[wholes].index, place);
                            wholes += 1;
                        }
                        place += 1;
                    }
                    TapPart::Command(..) => {}
                }
            }
            assert!(inner.is_whole());
            assert_eq!(part.frames.len(), wholes);
        }
        items.sort_unstable();
        assert_eq!(items.len(), usize::from(turn.items.get()), "every item is in one part");
        let durable = split.parts.iter().any(|part| part.durable);
        assert_eq!(durable, turn.flags & TURN_DURABLE != 0);
        if turn.items.get() == 0 {
            assert_eq!(split.parts.iter().map(|part| part.shard).collect::<Vec<_>>(), [1], "the lead shard");
        }
        let frames = parts.filter(|part| matches!(part, TapPart::Frame(frame) if frame.entry.form == FRAME_WHOLE));
        let mut places: Vec<usize> =
            split.parts.iter().flat_map(|part| part.frames.iter().map(|whole| whole.place)).collect();
        places.sort_unstable();
        assert!(places.into_iter().eq(0..frames.count()), "each whole frame is in one part");
    }
}

/// What the logs have of a turn, with a frame's place in the turn for its bytes.
fn logged(parts: &[Part]) -> Vec<Logged> {
    let part = |part: &Part| Logged {
        shard: part.shard,
        frames: part.frames.iter().map(|whole| whole.place.to_le_bytes().to_vec()).collect(),
        bodies: part.bodies.clone(),
    };
    parts.iter().map(part).collect()
}

/// A turn as the log has it, keys replaced by their names.
fn nameless(record: &[u8]) -> Vec<u8> {
    let mut bytes = record.to_vec();
    for part in read(record).expect("a turn").1 {
        if let TapPart::Command(COMMAND_OPEN_SESSION, command) = part {
            let open = OpenSession::read_from_bytes(command).expect("a command");
            let (master, reply_master) = (key_name(&open.master), key_name(&open.reply_master));
            let at = command.as_ptr().addr() - record.as_ptr().addr();
            let named = OpenSession { master, reply_master, ..open };
            bytes[at..at + command.len()].copy_from_slice(named.as_bytes());
        }
    }
    bytes
}

#[test]
fn a_turn_is_put_together_again_however_it_was_cut_and_what_is_missing_is_named() {
    let script = Script::new(3, &[1, 4, 6], 600);
    let (mut several, mut cut) = (0, 0);
    for number in 1..=script.turns {
        let record = script.record(number);
        for max in [MAX, 640, 1_024] {
            let Ok(split) = split(&record, max) else { continue };
            assert!(split.parts.iter().flat_map(|part| &part.bodies).all(|body| body.len() <= max));
            let whole = logged(&split.parts);
            let RecordedTurn { record: joined, frames } = join(whole.clone()).expect("all of it");
            assert_eq!(joined, nameless(&record), "turn {number} at {max}");
            let count: usize = split.parts.iter().map(|part| part.frames.len()).sum();
            let places = (0..count).map(|place| place.to_le_bytes().to_vec());
            assert!(frames.into_iter().eq(places), "in the order in which they were judged");
            for place in 0..whole.len() {
                let shard = whole[place].shard;
                let mut without = whole.clone();
                without.remove(place);
                if !without.is_empty() {
                    several += 1;
                    assert_eq!(join(without), Err(Unjoined::Missing(vec![shard])), "turn {number}");
                }
                let mut shorter = whole.clone();
                if shorter[place].bodies.len() > 1 {
                    cut += 1;
                    shorter[place].bodies.pop();
                    assert_eq!(join(shorter), Err(Unjoined::Missing(vec![shard])), "turn {number}");
                }
                let mut less = whole.clone();
                if less[place].frames.pop().is_some() {
                    assert_eq!(join(less), Err(Unjoined::Senseless), "turn {number}");
                }
            }
        }
    }
    assert!(several > 100 && cut > 20, "{several} in several shards, {cut} in several bodies");
}

#[test]
fn keys_become_names() {
    let script = Script::new(0, &[0], 1);
    let split = split(&script.record(1), MAX).expect("a turn");
    assert_eq!(split.keys, [key_of(0, 1, 1), key_of(0, 1, 2)]);
    let body = &split.parts[0].bodies[0];
    for key in &split.keys {
        assert!(!body.windows(4).any(|window| window == &key[..4]), "a key is in the body");
        assert!(body.windows(32).any(|window| window == key_name(key)), "its name is not");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    let record = Script::new(0, &[0], 1).record(2);
    assert!(split(&record[..record.len() - 8], MAX).is_err());
    let mut skip = Turn::new_zeroed();
    skip.length = 64.into();
    assert!(split(skip.as_bytes(), MAX).is_err());
    for max in [0, 8, TURN_BYTES] {
        assert!(split(&record, max).is_err(), "no record is so short");
    }
    for byte in 0..record.len() {
        let mut damaged = record.clone();
        damaged[byte] ^= 0x41;
        // Whatever it says, it is no panic and no read outside.
        if let Ok(split) = split(&damaged, MAX) {
            let _ = join(logged(&split.parts));
        }
    }
    let (turn, _) = Turn::read_from_prefix(&record).expect("a header");
    let mut encoder = tachyon_log::turn::Encoder::default();
    encoder.command(COMMAND_PARTS, &[0xff; 16]);
    let split = split(&encoder.finish(&turn), MAX).expect("a turn");
    assert_eq!(join(logged(&split.parts)).map(|turn| turn.record.len()), Ok(TURN_BYTES), "a worker has no say in this");
}
