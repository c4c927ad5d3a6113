use super::*;
use crate::alloc_seal::{self, Seal};
use proptest::prelude::*;
use std::{
    cell::RefCell,
    collections::{BTreeSet, VecDeque},
    rc::Rc,
};
use tachyon_driver_api::{Completion, Received, Transmit};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_wire::Reason;

/// Buffers of a test: more than all lines, batches and fakes hold together.
const BUFFERS: usize = 1_024;

/// What a fake does, and what was done with it.
#[derive(Debug)]
struct Inner {
    /// The ports that it reaches; `None`: all.
    reached: Option<BTreeSet<u16>>,
    /// Items that it takes before it is full.
    room: usize,
    /// Room that it has again after the call that found it full.
    later: usize,
    /// Tokens and ports of what it was given, in order.
    sent: Vec<(u32, u16)>,
    flying: VecDeque<Transmit>,
    /// Buffers that it hands on as received, marked by shard.
    arrivals: usize,
    waits: Vec<u64>,
    shard: u16,
}

/// A queue that does what a test says.
#[derive(Clone, Debug)]
pub(super) struct Fake(Rc<RefCell<Inner>>);

impl Fake {
    pub(super) fn new(shard: u16, reached: Option<&[u16]>) -> Self {
        let reached = reached.map(|ports| ports.iter().copied().collect());
        Self(Rc::new(RefCell::new(Inner {
            reached,
            room: usize::MAX,
            later: 0,
            sent: Vec::with_capacity(BUFFERS),
            flying: VecDeque::with_capacity(BUFFERS),
            arrivals: 0,
            waits: Vec::with_capacity(16),
            shard,
        })))
    }

    fn set_room(&self, room: usize) {
        self.0.borrow_mut().room = room;
    }

    fn set_reached(&self, ports: &[u16]) {
        self.0.borrow_mut().reached = Some(ports.iter().copied().collect());
    }

    pub(super) fn tokens(&self) -> Vec<u32> {
        self.0.borrow().sent.iter().map(|(token, _)| *token).collect()
    }
}

impl Reach for Fake {
    fn reaches(&self, to: &Endpoint) -> bool {
        self.0.borrow().reached.as_ref().is_none_or(|ports| ports.contains(&to.port.get()))
    }
}

impl RxQueue for Fake {
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        let mut inner = self.0.borrow_mut();
        let (source, shard) = (Endpoint::NONE, inner.shard);
        let mut count = 0;
        while inner.arrivals > 0 && !into.is_full() {
            let Some(buffer) = pool.get() else { break };
            into.push(Received { buffer, offset: 0, len: 64, stride: 64, shard, source });
            inner.arrivals -= 1;
            count += 1;
        }
        count
    }

    fn wait(&mut self, ns: u64) {
        self.0.borrow_mut().waits.push(ns);
    }

    fn stats(&self) -> QueueStats {
        let shard = u64::from(self.0.borrow().shard);
        QueueStats { syscalls: 1 << (8 * shard), overflow: 2 << (8 * shard), starved: 3 << (8 * shard) }
    }

    fn held(&self) -> usize {
        self.0.borrow().flying.len()
    }
}

impl TxQueue for Fake {
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        let mut inner = self.0.borrow_mut();
        let count = from.len().min(inner.room);
        inner.room -= count;
        if !from.is_empty() && count < from.len() {
            inner.room = std::mem::take(&mut inner.later);
        }
        for item in from.drain(..count) {
            inner.sent.push((item.token, item.destination.port.get()));
            inner.flying.push_back(item);
        }
        count
    }

    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        let mut inner = self.0.borrow_mut();
        let count = inner.flying.len().min(into.remaining_capacity());
        let error = (inner.shard == 1).then_some(Reason::TxTimeout);
        into.extend(inner.flying.drain(..count).map(|item| Completion {
            token: item.token,
            buffer: item.buffer,
            error,
        }));
        count
    }
}

type Selector = TransportSelector<Fake, Fake, Fake, Fake>;

const ALL: [Kind; 3] = [Kind::Verbs, Kind::Dpdk, Kind::Uring];

/// The same with the other driver for the second place, as no node has both.
const WITH_AFXDP: [Kind; 3] = [Kind::Verbs, Kind::Afxdp, Kind::Uring];

/// A selector over three fakes, and its buffers. The first reaches ports 1 and 2, the second 2 and 3, the last all.
struct Bench {
    fakes: [Fake; 3],
    selector: Selector,
    pool: Pool,
    next: u32,
}

impl Bench {
    fn new(order: &[Kind]) -> Self {
        let fakes = [Fake::new(0, Some(&[1, 2])), Fake::new(1, Some(&[2, 3])), Fake::new(2, None)];
        let has = |kind: Kind, fake: &Fake| order.contains(&kind).then(|| fake.clone());
        let (dpdk, afxdp) = (has(Kind::Dpdk, &fakes[1]), has(Kind::Afxdp, &fakes[1]));
        let selector = Selector::new(order, has(Kind::Verbs, &fakes[0]), dpdk, afxdp, has(Kind::Uring, &fakes[2]));
        let config =
            ArenaConfig { bytes: BUFFERS * 64, buffer_bytes: 64, pages: Pages::Ordinary, lock: false, numa_node: None };
        let pool = Pool::new(Arena::create(config).unwrap().take(BUFFERS).unwrap());
        Self { fakes, selector, pool, next: 0 }
    }

    fn batch(&mut self, ports: &[u16]) -> TxBatch {
        let mut batch = TxBatch::new();
        for port in ports {
            self.next += 1;
            let (buffer, destination) = (self.pool.get().unwrap(), Endpoint::v4([10, 0, 0, 1], *port));
            batch.push(Transmit { buffer, offset: 0, len: 64, stride: 64, shard: 0, destination, token: self.next });
        }
        batch
    }

    /// Sends to these ports; returns how many were taken. The others are given up.
    fn send(&mut self, ports: &[u16]) -> usize {
        let mut batch = self.batch(ports);
        let taken = self.selector.tx_burst(&mut batch);
        assert_eq!(taken + batch.len(), ports.len());
        batch.into_iter().for_each(|item| self.pool.put(item.buffer));
        taken
    }

    /// Turns once: receives, and returns the shards of what came.
    fn turn(&mut self) -> Vec<u16> {
        let mut batch = RxBatch::new();
        assert_eq!(self.selector.rx_burst(&mut self.pool, &mut batch), batch.len());
        let shards = batch.iter().map(|received| received.shard).collect();
        batch.into_iter().for_each(|received| self.pool.put(received.buffer));
        shards
    }

    /// Tokens of everything that ended.
    fn ended(&mut self) -> Vec<u32> {
        let mut all = Vec::new();
        loop {
            let mut batch = CompletionBatch::new();
            if self.selector.completions(&mut batch) == 0 {
                return all;
            }
            for completion in batch {
                all.push(completion.token);
                self.pool.put(completion.buffer);
            }
        }
    }

    fn tokens(&self) -> [Vec<u32>; 3] {
        self.fakes.each_ref().map(Fake::tokens)
    }

    fn is_whole(&self) -> bool {
        self.pool.free() + self.selector.held() == BUFFERS
    }
}

#[test]
fn a_frame_goes_by_the_first_driver_that_reaches_it_and_the_last_takes_the_rest() {
    for order in [ALL, WITH_AFXDP] {
        let mut bench = Bench::new(&order);
        assert_eq!(bench.send(&[1, 2, 3, 4, 3, 1]), 6);
        assert_eq!(bench.tokens(), [vec![1, 2, 6], vec![3, 5], vec![4]]);
        assert_eq!((bench.ended().len(), bench.is_whole()), (6, true));
    }
    let mut bench = Bench::new(&[Kind::Dpdk, Kind::Verbs]);
    assert_eq!(bench.send(&[1, 2, 3, 4]), 4);
    assert_eq!(bench.tokens(), [vec![1, 4], vec![2, 3], vec![]], "the order is the node file's");
    let mut ended = bench.ended();
    ended.sort_unstable();
    assert_eq!(ended, [1, 2, 3, 4]);
    assert!(bench.is_whole());
}

#[test]
fn the_only_driver_gets_bursts_as_they_are_and_sleeps_as_long_as_it_may() {
    for (index, kind) in [(0, Kind::Verbs), (1, Kind::Dpdk), (1, Kind::Afxdp), (2, Kind::Uring)] {
        let mut bench = Bench::new(&[kind]);
        bench.fakes[index].set_room(2);
        assert_eq!(bench.send(&[1, 9, 3]), 2, "what it does not take stays the caller's");
        assert_eq!((bench.tokens()[index].as_slice(), bench.selector.held()), ([1, 2].as_slice(), 2));
        bench.selector.wait(1_000_000);
        assert_eq!(bench.fakes[index].0.borrow().waits, [1_000_000]);
        assert_eq!(bench.selector.stats(), bench.fakes[index].stats());
    }
}

#[test]
fn what_a_full_driver_does_not_take_waits_in_order_and_holds_up_nobody_else() {
    let mut bench = Bench::new(&ALL);
    bench.fakes[0].set_room(1);
    assert_eq!(bench.send(&[1, 4, 1, 4, 1]), 5);
    assert_eq!(bench.send(&[4, 1, 3]), 3);
    assert_eq!(bench.tokens(), [vec![1], vec![8], vec![2, 4, 6]]);
    assert_eq!(bench.selector.held(), 8, "three of them wait");
    assert!(bench.is_whole());
    bench.fakes[0].set_room(2);
    bench.turn();
    assert_eq!(bench.tokens()[0], [1, 3, 5]);
    bench.fakes[0].set_room(9);
    assert_eq!(bench.send(&[1]), 1);
    assert_eq!(bench.tokens()[0], [1, 3, 5, 7, 9], "not before what waits");
    assert!(bench.ended().len() == 9 && bench.is_whole());
}

#[test]
fn what_finds_a_full_line_ends_there_and_holds_up_no_other_driver() {
    let mut bench = Bench::new(&ALL);
    // A line is as long as a batch.
    bench.fakes[0].set_room(0);
    assert_eq!((bench.send(&[1; 60]), bench.selector.held()), (60, 60));
    assert_eq!(bench.send(&[4, 1, 1, 1, 1, 1, 4, 3, 1, 4]), 10, "all are taken, also those behind");
    assert_eq!(bench.tokens(), [vec![], vec![68], vec![61, 67, 70]]);
    assert_eq!((bench.selector.waiting, bench.selector.ended.len(), bench.is_whole()), (64, 2, true));
    bench.selector.wait(1_000_000);
    assert_eq!(bench.fakes[2].0.borrow().waits, [0], "somebody is to hear of them");
    let mut done = CompletionBatch::new();
    bench.selector.completions(&mut done);
    let congested = |one: &Completion| (one.error == Some(Reason::TxCongestion)).then_some(one.token);
    assert_eq!(done.iter().filter_map(congested).collect::<Vec<_>>(), [66, 69]);
    done.into_iter().for_each(|one| bench.pool.put(one.buffer));
    // Nobody fetches what ended: then no more is taken than there is room for.
    assert_eq!((bench.send(&[1; 64]), bench.send(&[4, 1, 4])), (64, 1));
    assert_eq!((bench.selector.waiting, bench.selector.ended.len(), bench.is_whole()), (64, 64, true));
    bench.fakes[0].set_room(usize::MAX);
    bench.turn();
    assert_eq!((bench.selector.waiting, bench.ended().len()), (0, 64 + 64 + 1));
    assert!(bench.is_whole() && bench.selector.held() == 0);
    // The last one's line holds up what is behind, as one driver alone would.
    bench.fakes[2].set_room(0);
    assert_eq!((bench.send(&[4; 64]), bench.send(&[1, 4, 1])), (64, 1));
    assert!(bench.selector.ended.is_empty());
}

#[test]
fn a_destination_falls_over_and_back() {
    let mut bench = Bench::new(&ALL);
    bench.send(&[1, 2]);
    bench.fakes[0].set_reached(&[]);
    bench.send(&[1, 2]);
    bench.fakes[0].set_reached(&[1, 2]);
    bench.send(&[1, 2]);
    assert_eq!(bench.tokens(), [vec![1, 2, 5, 6], vec![4], vec![3]]);
    // What waits for a driver stays there, so across the switch what is sent later may overtake it.
    bench.fakes[0].set_room(0);
    bench.send(&[1]);
    bench.fakes[0].set_reached(&[]);
    bench.send(&[1]);
    bench.fakes[0].set_room(1);
    bench.turn();
    assert_eq!(bench.tokens(), [vec![1, 2, 5, 6, 7], vec![4], vec![3, 8]]);
}

#[test]
fn each_turn_begins_with_another_driver() {
    let mut bench = Bench::new(&ALL);
    for fake in &bench.fakes {
        fake.0.borrow_mut().arrivals = 10 * BURST_MAX;
    }
    let turns: Vec<Vec<u16>> = (0..6).map(|_| bench.turn()).collect();
    for (turn, shards) in turns.iter().enumerate() {
        assert_eq!(shards.len(), BURST_MAX);
        assert!(shards.iter().all(|shard| usize::from(*shard) == (turn + 1) % 3), "{shards:?}");
    }
    bench.fakes[1].0.borrow_mut().arrivals = 3;
    bench.turn();
    assert_eq!(bench.turn()[..4], [2; 4], "whose turn it is");
    let shards = bench.turn();
    assert_eq!(shards[0], 0);
}

#[test]
fn an_idle_worker_sleeps_briefly_on_the_last_driver_and_looks_at_the_others() {
    let mut bench = Bench::new(&ALL);
    bench.selector.wait(1_000_000);
    bench.selector.wait(10);
    bench.selector.wait(0);
    bench.fakes[0].set_room(0);
    bench.send(&[1]);
    bench.selector.wait(1_000_000);
    let waits = bench.fakes.each_ref().map(|fake| fake.0.borrow().waits.clone());
    assert_eq!(waits, [vec![0; 4], vec![0; 4], vec![SLICE_NS, 10, 0, 0]], "and not at all while something waits");
    let stats = bench.selector.stats();
    assert_eq!((stats.syscalls, stats.overflow, stats.starved), (0x0001_0101, 0x0002_0202, 0x0003_0303));
}

#[test]
fn no_burst_uses_the_heap() {
    let mut bench = Bench::new(&ALL);
    let mut batches = [bench.batch(&[1; 64]), bench.batch(&[1, 2, 3, 4]), bench.batch(&[4; 8])];
    let (mut received, mut done) = (RxBatch::new(), CompletionBatch::new());
    bench.fakes[0].set_room(10);
    bench.fakes[2].0.borrow_mut().arrivals = 5;
    let before = alloc_seal::calls();
    alloc_seal::seal(Seal::Counted);
    for batch in &mut batches {
        bench.selector.tx_burst(batch);
    }
    bench.selector.rx_burst(&mut bench.pool, &mut received);
    bench.selector.completions(&mut done);
    bench.selector.wait(1_000);
    alloc_seal::seal(Seal::Open);
    assert_eq!(alloc_seal::calls() - before, 0);
    assert_eq!((received.len(), bench.selector.waiting), (5, 54 + 2));
}

/// What can happen.
#[derive(Clone, Debug)]
enum Step {
    Send(Vec<u16>),
    Turn,
    Room(usize, usize),
    Later(usize, usize),
    Reach(usize, Vec<u16>),
    End,
}

fn step() -> impl Strategy<Value = Step> {
    let ports = || proptest::collection::vec(0_u16..6, 0..BURST_MAX);
    prop_oneof![
        4 => ports().prop_map(Step::Send),
        4 => (0_u16..6, 0..BURST_MAX).prop_map(|(port, count)| Step::Send(vec![port; count])),
        2 => Just(Step::Turn),
        3 => (0_usize..3, 0_usize..100).prop_map(|(fake, room)| Step::Room(fake, room)),
        2 => (0_usize..3, 0_usize..100).prop_map(|(fake, room)| Step::Later(fake, room)),
        1 => (0_usize..3, proptest::collection::vec(0_u16..6, 0..6)).prop_map(|(fake, ports)| Step::Reach(fake, ports)),
        2 => Just(Step::End),
    ]
}

/// The same, slowly: a line for each driver, and everything one by one.
struct Model {
    order: Vec<usize>,
    reached: [BTreeSet<u16>; 3],
    room: [usize; 3],
    later: [usize; 3],
    lines: [VecDeque<u32>; 3],
    sent: [Vec<u32>; 3],
    /// What found its line full since the last time that somebody fetched what ended.
    ended: Vec<u32>,
}

impl Model {
    fn way(&self, port: u16) -> usize {
        let (last, others) = self.order.split_last().unwrap();
        *others.iter().find(|one| self.reached[**one].contains(&port)).unwrap_or(last)
    }

    /// One call of a driver that something waits for.
    fn call(&mut self, one: usize) {
        while self.room[one] > 0
            && let Some(token) = self.lines[one].pop_front()
        {
            self.room[one] -= 1;
            self.sent[one].push(token);
        }
        if !self.lines[one].is_empty() {
            self.room[one] = std::mem::take(&mut self.later[one]);
        }
    }

    fn hand_on(&mut self) {
        self.order.clone().into_iter().for_each(|one| self.call(one));
    }

    fn send(&mut self, first: u32, ports: &[u16]) -> usize {
        self.hand_on();
        let ways: Vec<usize> = ports.iter().map(|port| self.way(*port)).collect();
        let Some(way) = ways.first().copied() else { return 0 };
        let goes_straight = self.lines[way].is_empty() && ways.iter().all(|one| *one == way);
        let (mut taken, last) = (0, self.order.last().copied());
        for (way, token) in ways.into_iter().zip(first..) {
            if self.lines[way].len() < BURST_MAX {
                self.lines[way].push_back(token);
            } else if Some(way) != last && self.ended.len() < BURST_MAX {
                self.ended.push(token);
            } else {
                break;
            }
            taken += 1;
        }
        if goes_straight {
            self.call(way)
        } else {
            self.hand_on()
        }
        taken
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// Against the model: who gets what in which order, what is taken, and that every item ends once.
    #[test]
    fn agrees_with_a_slow_model(
        steps in proptest::collection::vec(step(), 1..60),
        order in prop_oneof![
            Just(vec![0, 1, 2]), Just(vec![1, 0, 2]), Just(vec![0, 2]), Just(vec![1, 2]), Just(vec![0, 1]),
        ],
    ) {
        let kinds: Vec<Kind> = order.iter().map(|index: &usize| ALL[*index]).collect();
        let mut bench = Bench::new(&kinds);
        let reached = [[1, 2].into(), [2, 3].into(), (0..6).collect()];
        let mut model =
            Model { order, reached, room: [usize::MAX; 3], later: [0; 3], lines: Default::default(), sent: Default::default(), ended: Vec::new() };
        let (mut taken, mut ended) = (BTreeSet::new(), BTreeSet::new());
        for step in steps {
            match step {
                // So that the buffers last, ends come before they could run out.
                Step::Send(_) if bench.pool.free() < 2 * BURST_MAX => {}
                Step::Send(ports) => {
                    let first = bench.next + 1;
                    let count = bench.send(&ports);
                    prop_assert_eq!(count, model.send(first, &ports));
                    taken.extend((first..).take(count));
                }
                Step::Turn => {
                    bench.turn();
                    model.hand_on();
                }
                Step::Room(fake, room) => {
                    bench.fakes[fake].set_room(room);
                    model.room[fake] = room;
                }
                Step::Later(fake, room) => {
                    bench.fakes[fake].0.borrow_mut().later = room;
                    model.later[fake] = room;
                }
                Step::Reach(fake, ports) => {
                    bench.fakes[fake].set_reached(&ports);
                    model.reached[fake] = ports.into_iter().collect();
                }
                Step::End => {
                    for token in bench.ended() {
                        prop_assert!(ended.insert(token), "{} ended twice", token);
                    }
                    model.ended.clear();
                }
            }
            let told: Vec<u32> = bench.selector.ended.iter().map(|one| one.token).collect();
            prop_assert_eq!(told, model.ended.clone());
            prop_assert_eq!(bench.tokens(), model.sent.clone());
            prop_assert_eq!(bench.selector.waiting, model.lines.iter().map(VecDeque::len).sum::<usize>());
            prop_assert!(bench.is_whole(), "buffers are missing");
        }
        bench.fakes.iter().for_each(|fake| fake.set_room(usize::MAX));
        bench.turn();
        ended.extend(bench.ended());
        prop_assert_eq!(ended, taken);
        prop_assert_eq!(bench.pool.free(), BUFFERS);
    }
}
