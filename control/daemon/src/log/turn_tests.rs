use super::*;
use crate::log::tests::Script;
use tachyon_log::record::key_name;
use tachyon_wire::tap::{Part as TapPart, read};
use zerocopy::FromZeros;

const MAX: usize = 1 << 18;

#[test]
fn every_part_is_a_turn_record_of_its_shard_and_together_they_are_the_turn() {
    let script = Script::new(3, &[1, 4, 6], 400);
    for number in 1..=script.turns {
        let record = script.record(number);
        let (turn, parts) = read(&record).expect("a turn");
        let split = split(&record, MAX).expect("a turn");
        let mut items = Vec::new();
        for part in &split.parts {
            let [body] = part.bodies.as_slice() else { panic!("one body for each shard") };
            let (header, mut inner) = read(body).expect("a turn record");
            assert_eq!(
                (header.turn, header.worker, header.tick, header.flags),
                (turn.turn, turn.worker, turn.tick, turn.flags)
            );
            assert_eq!(header.commands.get() > 0, turn.commands.get() > 0 && part.shard == 1);
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
        assert_eq!(frames.count(), split.parts.iter().map(|part| part.frames.len()).sum::<usize>());
    }
}

#[test]
fn what_is_too_long_becomes_several_bodies_of_one_turn() {
    let script = Script::new(0, &[0], 40);
    let whole = split(&script.record(2), MAX).expect("a turn");
    let most = whole.parts[0].bodies[0].len();
    let mut cut = 0;
    for number in (1..=40).filter(|number| number % 50 != 1) {
        let record = script.record(number);
        for max in (TURN_BYTES..most.max(record.len())).step_by(8) {
            let Ok(split) = split(&record, max) else { continue };
            cut += usize::from(split.parts[0].bodies.len() > 1);
            let mut joined = record[..TURN_BYTES].to_vec();
            for body in &split.parts[0].bodies {
                assert!(body.len() <= max && read(body).expect("a turn record").1.all(|_| true));
                joined.extend_from_slice(&body[TURN_BYTES..]);
            }
            assert_eq!(joined, record, "turn {number} at {max}");
        }
    }
    assert!(cut > 20, "{cut} were cut");
}

#[test]
fn keys_become_names_and_unknown_commands_zeros() {
    let script = Script::new(0, &[0], 1);
    let split = split(&script.record(1), MAX).expect("a turn");
    assert_eq!(split.keys, [crate::log::tests::key_of(0, 1, 1), crate::log::tests::key_of(0, 1, 2)]);
    let body = &split.parts[0].bodies[0];
    for key in &split.keys {
        assert!(!body.windows(4).any(|window| window == &key[..4]), "a key is in the body");
        assert!(body.windows(32).any(|window| window == key_name(key)), "its name is not");
    }
    let mut keys = Vec::new();
    assert_eq!(without_keys(99, &[1, 2, 3], &mut keys), [0; 3]);
    assert_eq!(without_keys(COMMAND_OPEN_SESSION, &[1; 7], &mut keys), [0; 7], "a command of another length");
    assert_eq!(without_keys(COMMAND_CLOSE_SESSION, &[1, 2, 3, 4], &mut keys), [1, 2, 3, 4]);
    assert!(keys.is_empty());
}

#[test]
fn what_makes_no_sense_is_refused() {
    let record = Script::new(0, &[0], 1).record(2);
    assert!(split(&record[..record.len() - 8], MAX).is_err());
    let mut skip = Turn::new_zeroed();
    skip.length = 64.into();
    assert!(split(skip.as_bytes(), MAX).is_err());
    for byte in 0..record.len() {
        let mut damaged = record.clone();
        damaged[byte] ^= 0x41;
        // Whatever it says, it is no panic and no read outside.
        let _ = split(&damaged, MAX);
    }
}
