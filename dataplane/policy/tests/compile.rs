//! What `compile` makes of a source, and what it refuses by name.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use std::time::{Duration, Instant};
use tachyon_policy::compile::{
    CompileError, Durability, Quota, RulesetSource, SenderSource, TopicSource, WhenFull, compile,
};
use tachyon_policy::verify;
use tachyon_wire::image::ROUTE_NONE;

fn topic(topic_id: u32) -> TopicSource {
    TopicSource {
        topic_id,
        quota: Quota::UNLIMITED,
        tag_required: false,
        quarantine: false,
        durability: Durability::Volatile,
        when_full: WhenFull::default(),
        publishers: 1,
        subscribers: 2,
    }
}

fn source() -> RulesetSource {
    RulesetSource {
        version: 1,
        shard_count: 16,
        principals: 4,
        sets: vec![vec![], vec![0, 3], vec![7, 5, 6]],
        topics: vec![topic(1), topic(20)],
        senders: vec![SenderSource { sender_id: 9, quota: Quota::UNLIMITED }],
    }
}

/// The error after a change to a good source.
fn after(change: impl FnOnce(&mut RulesetSource)) -> CompileError {
    let mut changed = source();
    change(&mut changed);
    compile(&changed).unwrap_err()
}

#[test]
fn writes_the_same_bytes_for_the_same_rules_in_any_order() {
    let mut plain = source();
    plain.topics.extend([TopicSource { publishers: 0, ..topic(5) }, TopicSource { subscribers: 1, ..topic(6) }]);
    let mut shuffled = plain.clone();
    // The same sets under other ids, with repetitions; the same records in another order.
    shuffled.sets = vec![vec![6, 7, 5, 7], vec![3, 0, 0], vec![], vec![0, 3]];
    for (topic, old) in shuffled.topics.iter_mut().zip(&plain.topics) {
        topic.publishers = [2, 1][old.publishers as usize];
        topic.subscribers = [2, 3, 0][old.subscribers as usize];
    }
    shuffled.topics.reverse();
    shuffled.senders.reverse();
    assert_eq!(compile(&plain).unwrap(), compile(&shuffled).unwrap());
}

#[test]
fn shares_groups_and_routes_between_topics_with_equal_sets() {
    let mut source = source();
    source.sets.push(vec![5, 6, 7]);
    source.topics.push(TopicSource { subscribers: 3, publishers: 0, ..topic(2) });
    source.topics.push(TopicSource { subscribers: 0, ..topic(3) });
    let verified = verify(compile(&source).unwrap(), 16).unwrap();
    let ruleset = verified.ruleset();
    let of = |id| ruleset.topic(id).map(|rule| (rule.group.get(), rule.route.get())).unwrap();
    assert_eq!([of(1), of(20), of(2), of(3)], [(1, 0), (1, 0), (0, 0), (1, ROUTE_NONE)]);
    assert_eq!(ruleset.routes(), 1);
}

#[test]
fn gives_a_sender_without_limit_a_record_that_is_in_use() {
    let mut source = source();
    source.senders[0].quota.burst = 0;
    let verified = verify(compile(&source).unwrap(), 16).unwrap();
    assert!(verified.ruleset().sender(9).is_some());
    assert!(verified.ruleset().sender(8).is_none());
}

#[test]
fn compiles_a_source_without_any_records() {
    let source = RulesetSource { version: 1, shard_count: 1, ..RulesetSource::default() };
    assert!(verify(compile(&source).unwrap(), 1).is_ok());
}

#[test]
fn rounds_rates_so_that_never_more_passes() {
    assert_eq!(Quota::new(100_000_000, 1_000_000_000, 1), Some(Quota { period: 160, burst: 1 }));
    assert_eq!(Quota::new(3, 1, 1), Some(Quota { period: 6, burst: 1 }));
    assert_eq!(Quota::new(1, 60_000_000_000, 2), Some(Quota { period: 960_000_000_000, burst: 2 }));
    assert_eq!(Quota::new(u64::MAX, 1, 1), Some(Quota { period: 1, burst: 1 }));
    for (messages, per_ns, burst) in [(0, 1, 1), (1, 0, 1), (1, 1, 0), (1, u64::MAX, 1), (1, 1 << 58, 2)] {
        assert_eq!(Quota::new(messages, per_ns, burst), None);
    }
}

#[test]
fn names_what_is_wrong_with_the_ruleset() {
    assert_eq!(after(|source| source.version = 0), CompileError::Version(0));
    assert_eq!(after(|source| source.version = 1 << 32), CompileError::Version(1 << 32));
    assert_eq!(after(|source| source.shard_count = 12), CompileError::ShardCount(12));
    assert_eq!(after(|source| source.principals = 65_537), CompileError::Principals(65_537));
    assert_eq!(after(|source| source.senders[0].sender_id = 1 << 20), CompileError::SenderId(1 << 20));
    assert_eq!(after(|source| source.senders.push(source.senders[0])), CompileError::DuplicateSender(9));
    let quota = Quota { period: 1, burst: 0 };
    assert_eq!(after(|source| source.senders[0].quota = quota), CompileError::SenderQuota(9));
}

#[test]
fn names_what_is_wrong_with_a_topic() {
    assert_eq!(after(|source| source.topics.push(topic(0))), CompileError::TopicId(0));
    assert_eq!(after(|source| source.topics.push(topic(1 << 20))), CompileError::TopicId(1 << 20));
    assert_eq!(after(|source| source.topics.push(topic(20))), CompileError::DuplicateTopic(20));
    let quota = Quota { period: 1 << 60, burst: 5 };
    assert_eq!(after(|source| source.topics[1].quota = quota), CompileError::TopicQuota(20));
    let unknown = CompileError::UnknownSet { topic_id: 1, set: 3 };
    assert_eq!(after(|source| source.topics[0].publishers = 3), unknown);
    assert_eq!(after(|source| source.topics[0].subscribers = 3), unknown);
    let no_principal = CompileError::UnknownPrincipal { topic_id: 1, principal: 4 };
    assert_eq!(after(|source| source.sets[1].push(4)), no_principal);
    let no_slot = CompileError::SubscriberSlot { topic_id: 1, slot: 4_096 };
    assert_eq!(after(|source| source.sets[2].push(4_096)), no_slot);
    let fan_out = CompileError::FanOut { topic_id: 1, subscribers: 65 };
    assert_eq!(after(|source| source.sets[2] = (0..65).collect()), fan_out);
    assert_eq!(no_slot.to_string(), "topic 1: subscriber slot 4096, slots are below 4096");
}

/// Distinct sets of `count` topics, made of two members each.
fn distinct(count: u32) -> RulesetSource {
    let mut source = source();
    source.principals = 1_024;
    source.sets = vec![vec![], vec![0], vec![0]];
    source.sets.extend((0..count).map(|index| vec![index / 256, 256 + index % 256]));
    source.topics = (0..count).map(|index| topic(index + 1)).collect();
    source
}

#[test]
fn names_the_topic_with_which_groups_or_routes_run_out() {
    let mut source = distinct(65_537);
    for topic in &mut source.topics {
        topic.subscribers = 2 + topic.topic_id;
    }
    assert_eq!(compile(&source).unwrap_err(), CompileError::TooManyRoutes { topic_id: 65_537 });
    source.topics.pop();
    assert!(verify(compile(&source).unwrap(), 16).is_ok());
    for topic in &mut source.topics {
        (topic.publishers, topic.subscribers) = (topic.subscribers, 0);
    }
    assert_eq!(compile(&source).unwrap_err(), CompileError::TooManyGroups { topic_id: 65_536 });
}

#[test]
fn compiles_the_most_topics_in_seconds() {
    let mut source = source();
    source.sets = (0..2_000).map(|index| vec![index % 4, index]).collect();
    source.principals = 2_000;
    let most = (1 << 20) - 1;
    source.topics =
        (1..=most).map(|id| TopicSource { publishers: id % 1_000, subscribers: id % 2_000, ..topic(id) }).collect();
    source.senders = (0..65_536).map(|sender_id| SenderSource { sender_id, quota: Quota::UNLIMITED }).collect();
    let start = Instant::now();
    let image = compile(&source).unwrap();
    let compiled = start.elapsed();
    assert_eq!(verify(image, 16).unwrap().ruleset().topic_slots(), 1 << 20);
    println!("{most} topics: compiled in {compiled:?}, verified in {:?}", start.elapsed() - compiled);
    // In release it takes about 0.1 s; the bound is only there to notice something quadratic on a busy machine.
    assert!(compiled < Duration::from_secs(20));
}
