//! The suite that every driver must pass, on the bare link and under the fault layer; and that it fails where it must.

mod rig;

use rig::rig;
use std::panic::catch_unwind;
use tachyon_driver_api::{
    Completion, CompletionBatch, Pool, QueueStats, RxBatch, RxQueue, TxBatch, TxQueue,
    conformance::{CountingAllocator, run_all},
};
use tachyon_driver_mem::{Faults, Faulty, MemQueue};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

#[test]
fn the_link_conforms() {
    assert_eq!(run_all(|| rig(|queue| queue)).len(), 12);
}

#[test]
fn a_fault_layer_without_faults_conforms() {
    assert_eq!(run_all(|| rig(|queue| Faulty::new(queue, Faults::default(), 1))).len(), 12);
}

#[test]
fn stalls_and_delays_alone_conform_because_they_lose_nothing() {
    let faults =
        Faults { stall: 6_000, stall_calls: 3, refuse: 6_000, delay: 20_000, delay_calls: 5, ..Faults::default() };
    let mut seed = 0;
    let ran = run_all(|| {
        seed += 1;
        rig(|queue| Faulty::new(queue, faults, seed))
    });
    assert_eq!(ran.len(), 12);
}

#[test]
fn a_link_that_loses_conforms_if_it_says_so() {
    let faults = Faults { drop: 3_000, ..Faults::default() };
    let mut seed = 100;
    let ran = run_all(|| {
        seed += 1;
        let mut rig = rig(|queue| Faulty::new(queue, faults, seed));
        rig.lossy = true;
        rig
    });
    assert_eq!(ran.len(), 12);
}

/// A driver with one bug.
struct Broken {
    queue: MemQueue,
    bug: Bug,
    kept: Option<Completion>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    LeaksABuffer,
    ReturnsAWrongCount,
    OverwritesTheBatch,
    AllocatesWhenReceiving,
    AllocatesWhenCompleting,
    TakesFromTheBack,
    CompletesTheFirstTokenTwice,
    HidesErrors,
    MixesShards,
    ForgetsStarvation,
    HoldsBackACompletion,
    WaitsForever,
}

impl RxQueue for Broken {
    fn rx_burst(&mut self, pool: &mut Pool, into: &mut RxBatch) -> usize {
        let before = into.len();
        let mut count = self.queue.rx_burst(pool, into);
        match self.bug {
            Bug::LeaksABuffer if count > 1 => {
                into.pop();
                count -= 1;
            }
            Bug::ReturnsAWrongCount if count > 0 => count += 1,
            Bug::OverwritesTheBatch if before > 0 && count > 0 => into.swap(0, before),
            Bug::AllocatesWhenReceiving => drop(std::hint::black_box(Box::new(count))),
            Bug::MixesShards if count > 0 => into[before].shard = 0,
            _ => {}
        }
        count
    }

    fn wait(&mut self, ns: u64) {
        self.queue.wait(ns);
        if self.bug == Bug::WaitsForever {
            std::thread::sleep(std::time::Duration::from_nanos(ns.min(5_000_000_000)));
        }
    }

    fn stats(&self) -> QueueStats {
        let stats = self.queue.stats();
        if self.bug == Bug::ForgetsStarvation { QueueStats { starved: 0, ..stats } } else { stats }
    }

    fn held(&self) -> usize {
        self.queue.held() + usize::from(self.kept.is_some())
    }
}

impl TxQueue for Broken {
    fn tx_burst(&mut self, from: &mut TxBatch) -> usize {
        if self.bug == Bug::TakesFromTheBack {
            let mut last: TxBatch = from.pop().into_iter().collect();
            return self.queue.tx_burst(&mut last);
        }
        self.queue.tx_burst(from)
    }

    fn completions(&mut self, into: &mut CompletionBatch) -> usize {
        let before = into.len();
        let mut count = self.queue.completions(into);
        match self.bug {
            Bug::AllocatesWhenCompleting => drop(std::hint::black_box(Box::new(count))),
            Bug::CompletesTheFirstTokenTwice => into[before..].iter_mut().for_each(|done| done.token = 1),
            Bug::HidesErrors => into[before..].iter_mut().for_each(|done| done.error = None),
            Bug::HoldsBackACompletion if self.kept.is_none() && count > 0 => {
                self.kept = into.pop();
                count -= 1;
            }
            _ => {}
        }
        count
    }
}

#[test]
fn the_suite_finds_each_bug() {
    for bug in [
        Bug::LeaksABuffer,
        Bug::ReturnsAWrongCount,
        Bug::OverwritesTheBatch,
        Bug::AllocatesWhenReceiving,
        Bug::AllocatesWhenCompleting,
        Bug::TakesFromTheBack,
        Bug::CompletesTheFirstTokenTwice,
        Bug::HidesErrors,
        Bug::MixesShards,
        Bug::ForgetsStarvation,
        Bug::HoldsBackACompletion,
        Bug::WaitsForever,
    ] {
        let outcome = catch_unwind(|| run_all(|| rig(|queue| Broken { queue, bug, kept: None })));
        assert!(outcome.is_err(), "the suite passes a driver that {bug:?}");
    }
}

#[test]
fn the_suite_finds_each_fault_of_the_link() {
    let rare = 1_000;
    let never = Faults::default();
    for faults in [
        Faults { drop: rare, ..never },
        Faults { duplicate: rare, ..never },
        Faults { reorder: 10_000, ..never },
        Faults { corrupt: rare, ..never },
        Faults { truncate: rare, ..never },
        Faults { submit_fail: rare, ..never },
        Faults { cq_error: rare, ..never },
        Faults { timeout: rare, ..never },
    ] {
        let outcome = catch_unwind(|| run_all(|| rig(|queue| Faulty::new(queue, faults, 3))));
        assert!(outcome.is_err(), "the suite passes a link with {faults:?}");
    }
}
