//! A sender's quota is leased to workers in shares, and no sharing lets through more than the quota and a little.

use crate::fabric::{Config, Draws, Fabric, Rules, message, reasons};
use tachyon_policy::compile::Quota;
use tachyon_wire::{
    Message, Reason,
    command::{Command, Lease},
};

/// Sender 0: a message per 10 µs, 20 at once.
const PERIOD_NS: u64 = 10_000;
const BURST: u64 = 20;

fn fabric(worker: u16) -> Fabric {
    let quota = Quota::new(1, PERIOD_NS, u32::try_from(BURST).unwrap()).unwrap();
    let rules = Rules::new(1).sender(0, quota).topic(4, &[0], &[0]).topic(1, &[0], &[0]);
    let shards: &[u16] = if worker == 0 { &[0, 2] } else { &[1, 3] };
    let config =
        Config { worker, workers: 2, shards: Box::leak(shards.to_vec().into_boxed_slice()), ..Config::default() };
    let mut fabric = Fabric::new(config, rules);
    fabric.subscriber(false, 64, 1472);
    fabric.publisher(0, false);
    fabric
}

fn offer(fabric: &mut Fabric, count: usize) {
    let (shard, topic) = if fabric.config.worker == 0 { (0, 4) } else { (1, 1) };
    let messages: Vec<Message> = (0..count).map(|_| message(topic, 0, 0, 1, 0)).collect();
    fabric.publish(0, shard, 0, &messages);
}

fn lease(fabric: &mut Fabric, share: u32) {
    fabric.command(Command::Lease(Lease { sender_id: 0.into(), share: share.into() }));
}

#[test]
fn begins_with_an_equal_share_and_asks_for_more_once_a_millisecond() {
    let mut fabric = fabric(0);
    offer(&mut fabric, 22);
    fabric.step(0);
    let counters = fabric.worker.stats().counters;
    assert_eq!((counters.messages_accepted, counters.messages_refused[Reason::QuotaExceeded.index()]), (10, 12));
    for _ in 0..100 {
        offer(&mut fabric, 5);
        fabric.step(50_000);
        fabric.collect();
    }
    let demands = fabric.worker.host().demands.len();
    assert!((5..=7).contains(&demands), "{demands} demands in 5 ms");
    let demands = fabric.worker.host().demands.clone();
    assert!(demands.iter().all(|demand| demand.sender_id == 0));
    assert!(demands.is_sorted_by(|a, b| a.tick.get() < b.tick.get()));
    let counters = fabric.finish();
    // Half of one per 10 µs in 5 ms: 250, and the half burst.
    let accepted = counters.messages_accepted;
    assert!((250..=261).contains(&accepted), "{accepted}");
    assert_eq!(reasons(&counters.messages_refused), [(Reason::QuotaExceeded, 522 - accepted)]);
}

#[test]
fn spends_what_it_is_leased() {
    for (share, expected) in [(0, 0), (65_536, 500), (32_768, 250), (6_554, 50)] {
        let mut fabric = fabric(0);
        lease(&mut fabric, share);
        offer(&mut fabric, 22); // spends the burst
        fabric.step(0);
        let before = fabric.worker.stats().counters.messages_accepted;
        for _ in 0..100 {
            offer(&mut fabric, 8);
            fabric.step(50_000);
            fabric.collect();
        }
        let accepted = fabric.finish().messages_accepted - before;
        assert!(accepted.abs_diff(expected) <= 1, "share {share}: {accepted}, not {expected}");
    }
}

#[test]
fn two_workers_admit_no_more_than_the_quota_however_shares_move() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut draws = Draws(seed);
        let mut workers = [fabric(0), fabric(1)];
        let start = workers[0].now;
        let mut shares = [32_768u32, 32_768];
        for turn in 0..400 {
            let step = 1_000 + draws.next() % 40_000;
            for worker in &mut workers {
                offer(worker, 1 + draws.below(12));
                worker.step(step);
                worker.collect();
            }
            if turn % 7 == 6 {
                // Decrease first, increase in a later interval.
                let from = draws.below(2);
                let moved = draws.id(shares[from] + 1);
                shares[from] -= moved;
                lease(&mut workers[from], shares[from]);
                for worker in &mut workers {
                    worker.step(500);
                }
                shares[1 - from] += moved;
                lease(&mut workers[1 - from], shares[1 - from]);
            }
        }
        let elapsed = workers[0].now - start;
        let admitted: u64 = workers.iter_mut().map(|worker| worker.finish().messages_accepted).sum();
        let bound = BURST + elapsed.div_ceil(PERIOD_NS) + 2;
        assert!(admitted <= bound, "{admitted} > {bound}");
        assert!(admitted * 2 > bound, "{admitted} of {bound}: the quota is used");
    }
}
