//! What a worker recorded is replayed and nothing differs; where something differs it is said.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use tachyon_sim::{
    Keys, Replay, Report,
    record::{Recorder, World},
};

/// Records messages and replays them at once.
fn replayed(world: World, messages: u64) -> (Report, Recorder) {
    let mut recorder = Recorder::new(world).unwrap();
    let mut keys = Keys::new();
    recorder.keys().into_iter().for_each(|key| keys.add(key));
    let mut replay = None;
    while recorder.messages() < messages {
        let Some(turn) = recorder.step() else { continue };
        let mut turn = turn;
        turn.record = tachyon_sim::compare::canonical(&turn.record, &whole(), Some(&keys)).unwrap();
        let replay = replay.get_or_insert_with(|| Replay::new(&turn, keys.clone()).unwrap());
        let version = tachyon_sim::turn::header(&turn.record).unwrap().ruleset_version.get();
        if version != 0 {
            replay.add_ruleset(version, recorder.image(version).unwrap()).unwrap();
        }
        replay.turn(&turn);
    }
    (replay.unwrap().report(), recorder)
}

/// Keys replaced by their names, and nothing else.
fn whole() -> tachyon_sim::compare::Scope {
    tachyon_sim::compare::Scope { egress: true, ..Default::default() }
}

#[test]
fn a_replay_makes_the_same_records() {
    let (report, recorder) = replayed(World { seed: 1, ..World::default() }, 200_000);
    println!("{report:#?}");
    println!("{:?}", recorder.stats().counters);
    assert_eq!((report.mismatches, report.not_replayed), (0, 0));
    assert!(report.digest_equal && report.egress_turns > 0 && report.egress_frames > 0);
}
