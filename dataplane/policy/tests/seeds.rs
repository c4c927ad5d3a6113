//! The fuzzer's seeds are what `compile` writes today. `TACHYON_WRITE_SEEDS=1` writes them anew.

use std::{env, fs, path::Path};
use tachyon_policy::compile::{Durability, Quota, RulesetSource, SenderSource, TopicSource, WhenFull, compile};

fn topic(topic_id: u32, publishers: u32, subscribers: u32) -> TopicSource {
    TopicSource {
        topic_id,
        quota: Quota::new(1_000, 1_000_000_000, topic_id).expect("a sound quota"),
        tag_required: topic_id.is_multiple_of(2),
        quarantine: topic_id.is_multiple_of(3),
        durability: [Durability::Volatile, Durability::Logged, Durability::Durable][topic_id as usize % 3],
        when_full: WhenFull::Nack,
        publishers,
        subscribers,
    }
}

fn sources() -> [(&'static str, RulesetSource); 4] {
    let empty = RulesetSource { version: 1, shard_count: 2, ..RulesetSource::default() };
    let sets = vec![vec![], vec![0, 1], vec![7, 4_095], vec![1]];
    let topics = (1..9).map(|id| topic(id, id % 2, (id % 3) + 1)).collect();
    let senders = (0..3).map(|sender_id| SenderSource { sender_id, quota: Quota { period: 7, burst: 3 } }).collect();
    let small = RulesetSource { version: 3, principals: 2, sets, topics, senders, ..empty.clone() };
    let unlimited = TopicSource { quota: Quota::UNLIMITED, ..topic(11, 1, 0) };
    let gap = RulesetSource { topics: vec![unlimited], senders: vec![], ..small.clone() };
    let mut wide = small.clone();
    // Two words of rights, and a route at full fan-out.
    wide.principals = 70;
    wide.sets.extend((0..70).map(|principal| vec![principal]));
    wide.sets.push((0..64).collect());
    wide.topics = (1..70).map(|id| topic(id, id + 4, if id == 8 { 74 } else { 2 })).collect();
    wide.topics.truncate(66);
    [("empty", empty), ("small", small), ("gap", gap), ("wide", wide)]
}

#[test]
fn seeds_are_what_compile_writes() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/seeds/image");
    for (name, source) in sources() {
        let image = compile(&source).unwrap();
        assert!(image.len() <= 4_096, "{name}: {} bytes", image.len());
        let path = folder.join(name).with_extension("bin");
        if env::var_os("TACHYON_WRITE_SEEDS").is_some() {
            fs::create_dir_all(&folder).unwrap();
            fs::write(&path, &image).unwrap();
        }
        assert_eq!(fs::read(&path).unwrap(), image, "{name}: set TACHYON_WRITE_SEEDS=1 to write it anew");
    }
}
