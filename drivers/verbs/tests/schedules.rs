//! Random schedules of sends, errors, resets and lost offers: every item ends exactly once, no buffer is lost, nothing arrives
//! twice or bent, and no ring is overrun (the stub panics if one is).
#![expect(clippy::unwrap_used, reason = "test helpers panic where a test would")]

mod station;

use station::{MTU, Station, connect};
use std::collections::{BTreeMap, BTreeSet};
use tachyon_driver_api::{CompletionBatch, RxBatch, RxQueue, Transmit, TxQueue, conformance::CountingAllocator};
use tachyon_driver_verbs::{
    Details, Errand, RingSize,
    stub::{Faults, World},
};
use tachyon_wire::{Endpoint, Reason};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const NAMES: [Endpoint; 2] = [Endpoint::v4([192, 0, 2, 1], 24_640), Endpoint::v4([192, 0, 2, 2], 24_640)];

struct Draw(u64);

impl Draw {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        usize::try_from((z ^ (z >> 27)) >> 16).unwrap() % limit
    }
}

/// Some less than one poll reads, and some more.
fn receive_depth(seed: u32) -> u32 {
    8 + seed % 4 * 30
}

/// Two stations and everything that was seen of them.
struct Run {
    world: World,
    stations: [Station; 2],
    /// How each reaches the other.
    names: [Endpoint; 2],
    rings: Option<RingSize>,
    draw: Draw,
    number: u64,
    /// Per station: items that are open, and frames of each.
    open: [BTreeMap<u32, Vec<u64>>; 2],
    sent: BTreeSet<u64>,
    /// Frames of items that ended well.
    well: BTreeSet<u64>,
    arrived: Vec<u64>,
    reasons: BTreeMap<Option<u8>, u32>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Datagrams,
    Connections,
    Rings,
}

impl Run {
    fn new(kind: Kind, seed: u64) -> Self {
        let world = World::new(seed);
        let mut draw = Draw(seed);
        let small_seed = u32::try_from(seed).unwrap();
        let small = |config: &mut tachyon_driver_verbs::VerbsConfig| {
            // Small and odd, so that every queue is full at times.
            config.send_depth = 2 + small_seed % 15;
            config.signal_interval = 1 + small_seed % config.send_depth.min(7);
            config.receive_depth = receive_depth(small_seed);
            config.items_max = 100;
            config.items_per_lane_max = 70;
            config.reconnects_max = 1_000_000;
            config.reconnect_ns = 100_000;
        };
        let mut stations = [Station::new(&world, [192, 0, 2, 1], small), Station::new(&world, [192, 0, 2, 2], small)];
        let rings = RingSize { slots: 1 << draw.below(6), slot_bytes: MTU };
        let rings = Some(rings).filter(|_| kind == Kind::Rings);
        let mut names = NAMES;
        let [us, peer] = &mut stations;
        if kind == Kind::Datagrams {
            names = [us.datagrams(0), peer.datagrams(0)];
            let details = [us.ports.datagrams(0).unwrap(), peer.ports.datagrams(0).unwrap()];
            us.ports.reach(0, names[1], &details[1]).unwrap();
            peer.ports.reach(0, names[0], &details[0]).unwrap();
        } else {
            connect((us, 0, names[0]), (peer, 0, names[1]), (rings, rings));
        }
        for station in &mut stations {
            assert!(station.receive(0).is_empty());
        }
        Self {
            world,
            stations,
            names,
            rings,
            draw,
            number: 0,
            open: Default::default(),
            sent: BTreeSet::new(),
            well: BTreeSet::new(),
            arrived: Vec::new(),
            reasons: BTreeMap::new(),
        }
    }

    /// Sends one item of one to three frames.
    fn send(&mut self, at: usize) {
        let worker = &self.stations[at].workers[0];
        if worker.pool.free() < 200 || worker.queue.held() > 200 {
            return;
        }
        let stride = 64 * (1 + self.draw.below(4));
        let frames = 1 + self.draw.below(3);
        let (mut bytes, mut numbers) = (Vec::new(), Vec::new());
        for frame in 0..frames {
            self.number += 1;
            let len = if frame + 1 == frames { 8 * (1 + self.draw.below(stride / 8)) } else { stride };
            bytes.extend(self.number.to_le_bytes().iter().cycle().take(len));
            numbers.push(self.number);
        }
        let (to, shard) = (self.names[1 - at], u16::try_from(self.draw.below(16)).unwrap());
        let token = self.stations[at].send(0, shard, to, &bytes, u32::try_from(stride).unwrap());
        self.sent.extend(&numbers);
        self.open[at].insert(token, numbers);
    }

    fn receive(&mut self, at: usize) {
        for received in self.stations[at].receive(0) {
            let bytes = &received.buffer.bytes()[received.offset as usize..(received.offset + received.len) as usize];
            let number = u64::from_le_bytes(bytes[..8].try_into().unwrap());
            assert!(bytes.iter().eq(number.to_le_bytes().iter().cycle().take(bytes.len())), "frame {number} is bent");
            assert_eq!(received.source, self.names[1 - at]);
            self.arrived.push(number);
            self.stations[at].workers[0].pool.put(received.buffer);
        }
        assert!(self.stations[at].is_whole(0), "buffers of station {at}");
    }

    fn complete(&mut self, at: usize) {
        for (token, error) in self.stations[at].ended(0) {
            let numbers = self.open[at].remove(&token).expect("an item that is open, once");
            *self.reasons.entry(error.map(|reason| reason as u8)).or_default() += 1;
            if error.is_none() {
                self.well.extend(numbers);
            }
        }
        assert!(self.stations[at].is_whole(0), "buffers of station {at}");
    }

    /// Lets time pass, and carries errands; some are lost on the way, there or back.
    fn tick(&mut self, at: usize, lose: usize) {
        self.stations[at].tick();
        for errand in self.stations[at].ports.errands() {
            if self.draw.below(100) < lose {
                continue;
            }
            let Errand::Offer { details, to, .. } = errand else {
                self.stations[1 - at].ports.reset(0, self.names[at]).unwrap();
                continue;
            };
            let theirs = Details::decode(&details.encode()).unwrap();
            let answer = self.stations[1 - at].ports.accept(0, self.names[at], &theirs, self.rings);
            if self.draw.below(100) >= lose
                && let Ok(answer) = answer
            {
                self.stations[at].ports.connect(0, to, &answer).unwrap();
            }
        }
    }

    fn step(&mut self) {
        let at = self.draw.below(2);
        match self.draw.below(12) {
            0..=4 => self.send(at),
            5..=7 => self.receive(at),
            8..=10 => self.complete(at),
            _ => self.tick(at, 20),
        }
    }

    /// So many steps, and now and then somebody resets a connection.
    fn steps(&mut self, count: usize) {
        for step in 0..count {
            self.step();
            if step % 1_000 == 999 {
                let at = self.draw.below(2);
                self.flood(at);
                if self.stations[at].ports.reset(0, self.names[1 - at]).is_err() {
                    let datagrams = self.stations[at].ports.datagrams(0).unwrap();
                    let Details::Datagrams { qpn, .. } = datagrams else { panic!("{datagrams:?}") };
                    self.world.break_pair(qpn);
                }
            }
        }
    }

    /// As much arrives at a station as it has receives for, and it reads none of it.
    fn flood(&mut self, at: usize) {
        for _ in 0..80 {
            self.send(1 - at);
            self.complete(1 - at);
        }
    }

    /// Until nothing is open any more.
    fn settle(&mut self) {
        self.world.set_faults(Faults::default());
        for turn in 0.. {
            for at in [0, 1] {
                self.receive(at);
                self.complete(at);
                self.tick(at, 0);
            }
            if self.open.iter().all(BTreeMap::is_empty) {
                break;
            }
            assert!(turn < 20_000, "{:?} items never ended", self.open.each_ref().map(BTreeMap::len));
        }
        for _ in 0..20 {
            self.receive(0);
            self.receive(1);
        }
        let unique: BTreeSet<u64> = self.arrived.iter().copied().collect();
        assert_eq!(unique.len(), self.arrived.len(), "a frame arrived twice");
        assert!(unique.is_subset(&self.sent), "a frame arrived that nobody sent");
    }

    /// Everything is given back at the end.
    fn close(self) {
        for mut station in self.stations {
            let mut worker = station.workers.remove(0);
            assert_eq!(station.ports.report().registrations, 1, "nothing is registered after the start");
            assert_eq!(station.ports.close(0, worker.queue, &mut worker.pool), 0, "buffers are missing");
        }
    }
}

#[test]
fn without_faults_everything_arrives_in_order() {
    for kind in [Kind::Connections, Kind::Rings] {
        for seed in 0..40 {
            let mut run = Run::new(kind, seed);
            run.world.set_faults(Faults { delay: 20_000, hold: 20_000, ..Faults::default() });
            for _ in 0..3_000 {
                run.step();
            }
            run.settle();
            let congested = run.reasons.get(&Some(Reason::TxCongestion as u8)).copied().unwrap_or(0);
            assert_eq!(
                run.reasons.values().sum::<u32>(),
                run.reasons[&None] + congested,
                "{kind:?} {seed}: {:?}",
                run.reasons
            );
            let arrived: BTreeSet<u64> = run.arrived.iter().copied().collect();
            assert_eq!(arrived, run.well, "{kind:?} {seed}");
            run.close();
        }
    }
}

#[test]
fn with_faults_every_item_ends_once_and_no_buffer_is_lost() {
    let mut all: BTreeMap<Option<u8>, u32> = BTreeMap::new();
    for kind in [Kind::Datagrams, Kind::Connections, Kind::Rings] {
        for seed in 0..60 {
            let mut run = Run::new(kind, seed);
            run.world.set_faults(Faults {
                delay: 20_000,
                hold: 20_000,
                lose: 3_000,
                error: 300,
                refuse: 300,
                not_ready_max: 20,
                keep: 30_000,
                ..Faults::default()
            });
            run.steps(4_000);
            run.settle();
            for (reason, count) in &run.reasons {
                *all.entry(*reason).or_default() += count;
            }
            run.close();
        }
    }
    // What the schedules were to bring about, they brought about.
    for reason in
        [None, Some(Reason::TxCqError), Some(Reason::TxQpReset), Some(Reason::TxSubmitFail), Some(Reason::TxTimeout)]
    {
        assert!(all.get(&reason.map(|reason| reason as u8)).is_some_and(|count| *count > 20), "{reason:?}: {all:?}");
    }
}

#[test]
fn devices_that_forget_what_nobody_read_have_all_their_receives_in_the_end() {
    for kind in [Kind::Datagrams, Kind::Connections, Kind::Rings] {
        for seed in 0..60 {
            let mut run = Run::new(kind, seed);
            // Here a device tells at once what it has: what it does not tell, nobody can read before it forgets it.
            let (delay, error, refuse, forget) = (20_000, 300, 300, 65_536);
            run.world.set_faults(Faults { delay, error, refuse, not_ready_max: 20, forget, ..Faults::default() });
            run.steps(4_000);
            run.settle();
            let depth = receive_depth(u32::try_from(seed).unwrap()) as usize;
            let receives = run.stations.each_ref().map(|one| run.world.receives(station::mapped(one.ip), 0));
            assert_eq!(receives, [depth; 2], "{kind:?} {seed}");
            run.close();
        }
    }
}

#[test]
fn connections_come_back_after_every_fault() {
    for kind in [Kind::Datagrams, Kind::Connections, Kind::Rings] {
        for seed in 0..10 {
            let mut run = Run::new(kind, seed);
            for round in 0..20 {
                run.world.set_faults(Faults { error: 20_000, ..Faults::default() });
                for _ in 0..100 {
                    run.step();
                }
                run.settle();
                // Whatever it was, after some time frames go again.
                let before = run.arrived.len();
                for _ in 0..5_000 {
                    run.send(0);
                    run.tick(0, 0);
                    run.tick(1, 0);
                    run.receive(0);
                    run.receive(1);
                    run.complete(0);
                    if run.arrived.len() > before {
                        break;
                    }
                }
                assert!(
                    run.arrived.len() > before,
                    "{kind:?} {seed}, round {round}: {:?}",
                    run.stations[0].ports.report().lanes
                );
            }
            run.settle();
            run.close();
        }
    }
}

#[test]
fn threads_that_write_into_each_others_rings_lose_nothing() {
    const FRAMES: u64 = 5_000;
    let mut run = Run::new(Kind::Rings, 5);
    let names = run.names;
    let work = |at: usize, mut worker: station::Worker| {
        let (mut next, mut heard, mut ended) = (0, 0, 0);
        let mut batch = tachyon_driver_api::TxBatch::new();
        while heard < FRAMES || ended < FRAMES {
            if next < FRAMES
                && next - ended < 60
                && let Some(mut buffer) = worker.pool.get()
            {
                buffer.bytes_mut()[..8].copy_from_slice(&next.to_le_bytes());
                let destination = names[1 - at];
                batch.push(Transmit { buffer, offset: 0, len: 64, stride: 64, shard: 0, destination, token: 0 });
                next += worker.queue.tx_burst(&mut batch) as u64;
                batch.drain(..).for_each(|item| worker.pool.put(item.buffer));
            }
            let (mut received, mut done) = (RxBatch::new(), CompletionBatch::new());
            worker.queue.rx_burst(&mut worker.pool, &mut received);
            if received.is_empty() {
                worker.queue.wait(50_000); // there may be fewer cores than threads
            }
            for one in received {
                let bytes = one.buffer.bytes()[one.offset as usize..].first_chunk().unwrap();
                assert_eq!(u64::from_le_bytes(*bytes), heard, "in order, and each once");
                heard += 1;
                worker.pool.put(one.buffer);
            }
            worker.queue.completions(&mut done);
            for completion in done {
                assert_eq!(completion.error, None);
                ended += 1;
                worker.pool.put(completion.buffer);
            }
        }
        worker
    };
    let workers = run.stations.each_mut().map(|station| station.workers.remove(0));
    let [a, b] = workers;
    std::thread::scope(|scope| {
        let other = scope.spawn(|| work(1, b));
        let mut a = work(0, a);
        // The other side may still wait for credits of ours.
        while !other.is_finished() {
            a.queue.rx_burst(&mut a.pool, &mut RxBatch::new());
            a.queue.wait(50_000);
        }
        other.join().unwrap();
    });
}
