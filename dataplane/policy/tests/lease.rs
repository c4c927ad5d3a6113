//! However shares of a quota move between workers, all of them together keep it.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers too")]

use tachyon_policy::compile::{Durability, Quota, RulesetSource, SenderSource, TopicSource, WhenFull, compile};
use tachyon_policy::{
    FrameContext, Inputs, Path, Publisher, Ruleset, SenderState, Shards, Tables, TopicState, Verdict, govern,
    set_lease, verify,
};
use tachyon_wire::Message;
use tachyon_wire::command::{Lease, SHARE_ALL};
use zerocopy::FromZeros;

/// One worker's tables for one topic and one sender.
struct Worker {
    topics: [TopicState; 2],
    senders: [SenderState; 1],
    share: u32,
}

impl Worker {
    fn tables(&mut self, default_share: u32) -> Tables<'_> {
        let shards = Shards::new(1, 2, &[0]);
        Tables { topics: &mut self.topics, senders: &mut self.senders, shards, default_share, path: Path::detect() }
    }

    /// How many of `count` messages at this tick pass.
    fn offer(&mut self, ruleset: Ruleset<'_>, tick_ns: u64, count: usize, default_share: u32) -> u64 {
        let mut message = Message::new_zeroed();
        message.flags.set(1 | 1 << 5);
        message.topic_id.set(1);
        let inputs = Inputs { tick_ns, ruleset: Ok(ruleset), pressure: 0 };
        let publisher = Publisher { principal: 0, sender_low: 0, sender_high: 0, class_cap: 0, system: false };
        let frame = FrameContext { publisher: &publisher, authenticated: true, shard: 0, lane_refs_allowed: false };
        let mut verdicts = [Verdict::default(); 64];
        let mut tables = self.tables(default_share);
        govern(&inputs, &frame, &vec![message; count], &mut tables, &mut verdicts, &mut |_| {});
        verdicts[..count].iter().filter(|verdict| verdict.is_accepted()).count() as u64
    }

    fn lease(&mut self, ruleset: Ruleset<'_>, tick_ns: u64, share: u32, default_share: u32) {
        let inputs = Inputs { tick_ns, ruleset: Ok(ruleset), pressure: 0 };
        set_lease(&inputs, &mut self.tables(default_share), Lease { sender_id: 0.into(), share: share.into() });
        self.share = share;
    }
}

fn image(quota: Quota) -> Vec<u8> {
    let topic = TopicSource {
        topic_id: 1,
        quota: Quota::UNLIMITED,
        tag_required: false,
        quarantine: false,
        durability: Durability::Volatile,
        when_full: WhenFull::default(),
        publishers: 0,
        subscribers: 1,
    };
    let sets = vec![vec![0], vec![]];
    let senders = vec![SenderSource { sender_id: 0, quota }];
    let source = RulesetSource { version: 1, shard_count: 1, principals: 1, sets, topics: vec![topic], senders };
    compile(&source).unwrap()
}

#[test]
fn never_admits_more_than_the_quota_while_shares_move() {
    let mut state = 0x7ac4_0004_u64;
    println!("seed {state}");
    let mut below = move |end: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % end
    };
    for workers in [1_u64, 2, 3, 5, 8] {
        for burst in [1, 2, 7, 31, 400] {
            let period_ns = 1 + below(5_000);
            let quota = Quota::new(1, period_ns, burst).unwrap();
            let verified = verify(image(quota), 1).unwrap();
            let ruleset = verified.ruleset();
            let default_share = SHARE_ALL / u32::try_from(workers).unwrap();
            let fresh = || Worker { topics: Default::default(), senders: Default::default(), share: default_share };
            let mut all: Vec<Worker> = (0..workers).map(|_| fresh()).collect();
            let (mut tick_ns, mut admitted) = (0, 0);
            for _ in 0..4_000 {
                tick_ns += below(period_ns * 3);
                let one = usize::try_from(below(workers)).unwrap();
                let other = usize::try_from(below(workers)).unwrap();
                admitted += all[one].offer(ruleset, tick_ns, usize::try_from(below(20)).unwrap(), default_share);
                if below(3) == 0 && one != other {
                    // Decrease first; the increase may come later.
                    let part = u32::try_from(below(u64::from(all[one].share) + 1)).unwrap();
                    let (less, more) = (all[one].share - part, all[other].share + part);
                    all[one].lease(ruleset, tick_ns, less, default_share);
                    tick_ns += below(period_ns);
                    all[other].lease(ruleset, tick_ns, more, default_share);
                }
                let most = u64::from(burst) + tick_ns / period_ns + workers;
                assert!(admitted <= most, "{workers} workers, burst {burst}: {admitted} of {most}");
            }
        }
    }
}

#[test]
fn gives_one_worker_the_whole_quota_and_the_rest_none() {
    let verified = verify(image(Quota::new(1, 1_000, 10).unwrap()), 1).unwrap();
    let ruleset = verified.ruleset();
    let mut worker = Worker { topics: Default::default(), senders: Default::default(), share: 0 };
    assert_eq!(worker.offer(ruleset, 0, 40, SHARE_ALL / 2), 5);
    worker.lease(ruleset, 0, SHARE_ALL, SHARE_ALL / 2);
    assert_eq!(worker.offer(ruleset, 0, 40, SHARE_ALL / 2), 0);
    assert_eq!(worker.offer(ruleset, 3_000, 40, SHARE_ALL / 2), 3);
    worker.lease(ruleset, 1_000_000, 0, SHARE_ALL / 2);
    assert_eq!(worker.offer(ruleset, 2_000_000, 40, SHARE_ALL / 2), 0);
    // The burst was lost with the share: it starts empty again.
    worker.lease(ruleset, 2_000_000, SHARE_ALL, SHARE_ALL / 2);
    assert_eq!(worker.offer(ruleset, 2_001_000, 40, SHARE_ALL / 2), 1);
}
