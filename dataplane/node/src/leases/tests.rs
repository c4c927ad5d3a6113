use super::*;
use proptest::prelude::*;
use std::collections::VecDeque;

const SENDER: u32 = 5;
/// 100,000 messages a second: 500 in an interval.
const PERIOD: u64 = 10_000 * 16;
const PER_INTERVAL: u64 = INTERVAL_NS * 16 / PERIOD;

/// Workers that take a lease some steps after it was sent, in order, and that refuse what exceeds their share.
struct Model {
    rings: Vec<VecDeque<u32>>,
    sent: Vec<u64>,
    taken: Vec<u64>,
    share: Vec<u32>,
    room: usize,
    log: Vec<(usize, u32)>,
}

impl Model {
    fn new(workers: usize, room: usize) -> Self {
        Self {
            rings: vec![VecDeque::new(); workers],
            sent: vec![0; workers],
            taken: vec![0; workers],
            share: vec![equal_part(workers); workers],
            room,
            log: Vec::new(),
        }
    }

    /// The worker takes up to so many of its commands.
    fn take(&mut self, worker: usize, count: usize) {
        for _ in 0..count {
            let Some(share) = self.rings[worker].pop_front() else { return };
            self.taken[worker] += 1;
            self.share[worker] = share;
            let out: u32 = self.share.iter().sum();
            assert!(out <= SHARE_ALL, "{out} of {SHARE_ALL} are out: {:?}", self.share);
        }
    }

    /// What a worker refuses of so many offered messages in an interval.
    fn refused(&self, worker: usize, offered: u64) -> u32 {
        let allowed = PER_INTERVAL * u64::from(self.share[worker]) / u64::from(SHARE_ALL);
        u32::try_from(offered.saturating_sub(allowed)).unwrap()
    }
}

impl Couriers for Model {
    fn send(&mut self, worker: usize, lease: Lease) -> Option<u64> {
        if self.rings[worker].len() >= self.room {
            return None;
        }
        self.log.push((worker, lease.share.get()));
        self.rings[worker].push_back(lease.share.get());
        self.sent[worker] += 1;
        Some(self.sent[worker])
    }
    fn in_force(&self, worker: usize, ticket: u64) -> bool {
        self.taken[worker] >= ticket
    }
}

fn demand(refused: u32) -> Demand {
    Demand { sender_id: SENDER.into(), refused: refused.into(), tick: 0.into() }
}

/// Runs so many intervals of these offered loads; returns what was refused in the last of them.
fn run(leases: &mut Leases, model: &mut Model, offered: &[u64], intervals: usize) -> u64 {
    let mut total = 0;
    for _ in 0..intervals {
        total = 0;
        for (worker, offered) in offered.iter().enumerate() {
            let refused = model.refused(worker, *offered);
            total += u64::from(refused);
            if refused > 0 {
                leases.demand(worker, demand(refused));
            }
        }
        leases.step(|_| PERIOD, model);
        (0..offered.len()).for_each(|worker| model.take(worker, usize::MAX));
    }
    total
}

#[test]
fn one_busy_worker_gets_nearly_all_within_100_ms() {
    let (mut leases, mut model) = (Leases::new(4), Model::new(4, 16));
    run(&mut leases, &mut model, &[0, 2 * PER_INTERVAL, 0, 0], 20);
    assert!(model.share[1] > SHARE_ALL / 10 * 9, "{:?}", model.share);
    assert!(model.share.iter().all(|share| *share > 0), "nobody is left with nothing: {:?}", model.share);
}

#[test]
fn what_fits_together_is_not_refused_for_long() {
    for offered in [[300, 100, 50, 0], [10, 10, 10, 450], [125, 125, 125, 100], [0, 240, 240, 0]] {
        let (mut leases, mut model) = (Leases::new(4), Model::new(4, 16));
        run(&mut leases, &mut model, &offered, 400);
        let mut refused = 0;
        for _ in 0..100 {
            refused += run(&mut leases, &mut model, &offered, 1);
        }
        let total: u64 = offered.iter().sum::<u64>() * 100;
        assert!(refused * 50 < total, "{offered:?}: {refused} of {total} refused, shares {:?}", model.share);
    }
}

#[test]
fn overloaded_workers_share_in_proportion_to_what_they_are_offered() {
    let (mut leases, mut model) = (Leases::new(2), Model::new(2, 16));
    run(&mut leases, &mut model, &[3 * PER_INTERVAL, PER_INTERVAL], 60);
    let part = f64::from(model.share[0]) / f64::from(SHARE_ALL);
    assert!((0.70..0.80).contains(&part), "{part}");
}

#[test]
fn load_that_moves_takes_the_shares_with_it() {
    let (mut leases, mut model) = (Leases::new(2), Model::new(2, 16));
    run(&mut leases, &mut model, &[PER_INTERVAL, 0], 60);
    assert!(model.share[0] > SHARE_ALL / 10 * 9, "{:?}", model.share);
    run(&mut leases, &mut model, &[0, PER_INTERVAL], 60);
    assert!(model.share[1] > SHARE_ALL / 10 * 9, "{:?}", model.share);
}

#[test]
fn shares_go_back_to_equal_parts_when_nobody_speaks_of_a_sender() {
    let (mut leases, mut model) = (Leases::new(4), Model::new(4, 16));
    run(&mut leases, &mut model, &[PER_INTERVAL, 0, 0, 0], 50);
    assert_eq!(leases.senders.len(), 1);
    run(&mut leases, &mut model, &[0; 4], usize::try_from(FORGET).unwrap() + 10);
    assert_eq!(model.share, [equal_part(4); 4]);
    assert!(leases.senders.is_empty(), "and it is forgotten");
}

#[test]
fn a_single_worker_keeps_the_whole() {
    let (mut leases, mut model) = (Leases::new(1), Model::new(1, 16));
    run(&mut leases, &mut model, &[9 * PER_INTERVAL], 50);
    assert_eq!(model.log, []);
}

#[test]
fn a_worker_that_never_takes_its_commands_blocks_only_what_depends_on_it() {
    let (mut leases, mut model) = (Leases::new(3), Model::new(3, 1));
    for _ in 0..50 {
        leases.demand(0, demand(400));
        leases.step(|_| PERIOD, &mut model);
        model.take(0, usize::MAX);
        model.take(1, usize::MAX); // worker 2 hangs
    }
    assert_eq!(model.share[2], equal_part(3), "what it holds is still its own");
    assert!(model.share.iter().sum::<u32>() <= SHARE_ALL);
}

proptest! {
    #[test]
    fn never_more_than_the_whole_is_out_and_the_same_words_make_the_same_moves(
        workers in 2usize..6,
        room in 1usize..4,
        script in proptest::collection::vec((0usize..6, 0u32..2_000, 0usize..6, 0usize..3), 1..400),
    ) {
        let play = || {
            let (mut leases, mut model) = (Leases::new(u16::try_from(workers).unwrap()), Model::new(workers, room));
            for (speaker, refused, taker, count) in &script {
                if *refused > 500 {
                    leases.demand(*speaker, demand(*refused));
                }
                leases.step(|_| PERIOD, &mut model);
                model.take(taker % workers, *count); // asserts that never more than the whole is out
                let held: u32 = leases.senders.values().flat_map(|sender| &sender.held).sum();
                assert!(held <= SHARE_ALL);
            }
            model.log
        };
        prop_assert_eq!(play(), play());
    }
}
