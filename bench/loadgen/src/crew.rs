//! A crew is one thread's publishers and subscribers, taking turns in one loop. On a machine with two cores that is all
//! of them, and they never starve the node: a crew with nothing to do sleeps until the next run is due.

use crate::{
    clock::now_ns,
    offered::{Offered, Replies},
    publisher::{Part, Publisher},
    reader::Anomaly,
    subscriber::{Heard, Subscriber},
};
use std::{
    collections::BTreeMap,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{Receiver, Sender, TryRecvError},
    },
};
use tachyon_driver_api::{RxQueue, TxQueue};

/// The longest sleep: a millisecond, so that an order is seen at once by a person's measure.
const REST_MAX_NS: u64 = 1_000_000;
/// The longest sleep on one of several queues, while the others may have something.
const REST_SHARED_NS: u64 = 100_000;
/// Waits shorter than this are spun through: about what going to sleep and waking up costs.
const SPIN_NS: u64 = 5_000;
/// How long a crew with a core of its own spins before it sleeps, so that a wake-up is in no latency it measures.
const OWN_CORE_SPIN_NS: u64 = 1_000_000;

/// What a crew is told.
#[derive(Debug)]
pub enum Order {
    /// Begin a phase: one part for each publisher.
    Begin(Vec<Part>),
    /// End the phase and report it.
    End,
    /// Report everything and go home.
    Stop,
}

/// What a crew reports.
#[derive(Debug)]
pub enum Report {
    /// One phase: what each publisher offered and each subscriber heard.
    Phase(Vec<Offered>, Vec<Heard>),
    /// The whole run.
    Final(Summary),
}

/// What is only known at the end.
#[derive(Clone, Debug, Default)]
pub struct Summary {
    /// What the node answered to all publishers.
    pub replies: Replies,
    /// Each subscriber, in order.
    pub subscribers: Vec<SubscriberSummary>,
    /// Times a queue of this crew had no buffer to receive into.
    pub starved: u64,
}

/// What is only known at the end about one subscriber.
#[derive(Clone, Debug, Default)]
pub struct SubscriberSummary {
    /// Frames of the node that never came.
    pub gap_frames: u64,
    /// Datagrams the kernel dropped because the socket was full.
    pub overflow: u64,
    /// Frames that could not be counted, by cause.
    pub anomalies: BTreeMap<Anomaly, u64>,
}

/// A crew's totals, for whoever shows progress. Only the crew writes them.
#[derive(Debug, Default)]
pub struct Gauges {
    /// Frames offered.
    pub frames: AtomicU64,
    /// Messages offered.
    pub messages: AtomicU64,
    /// Copies read.
    pub copies: AtomicU64,
    /// Phases in which this crew offered all it will.
    pub phases_offered: AtomicU64,
}

/// One thread's publishers and subscribers.
#[derive(Debug)]
pub struct Crew<Q> {
    /// Who publishes.
    pub publishers: Vec<Publisher<Q>>,
    /// Who subscribes.
    pub subscribers: Vec<Subscriber<Q>>,
    /// Whether it may spin: nobody else needs its core.
    pub own_core: bool,
}

impl<Q: RxQueue + TxQueue> Crew<Q> {
    /// Works until told to stop, or until whoever gives orders is gone.
    pub fn work(mut self, orders: &Receiver<Order>, reports: &Sender<Report>, gauges: &Gauges) {
        let mut past = Totals::default();
        let (mut phases, mut busy_ns, mut turn_of) = (0, now_ns(), 0);
        loop {
            match orders.try_recv() {
                Ok(Order::Begin(parts)) => {
                    phases += 1;
                    for (publisher, part) in self.publishers.iter_mut().zip(parts) {
                        publisher.begin(part);
                    }
                }
                Ok(Order::End) => {
                    past = self.totals(past);
                    let offered = self.publishers.iter_mut().map(Publisher::end).collect();
                    let heard = self.subscribers.iter_mut().map(Subscriber::end).collect();
                    // Whoever does not listen any more is not told.
                    let _ = reports.send(Report::Phase(offered, heard));
                }
                Ok(Order::Stop) => {
                    let _ = reports.send(Report::Final(self.summary()));
                    return;
                }
                Err(TryRecvError::Disconnected) => return,
                Err(TryRecvError::Empty) => {}
            }
            let now = now_ns();
            let worked = self.turn(now);
            self.show(past, phases, now, gauges);
            if worked > 0 {
                busy_ns = now;
            } else {
                self.rest(now, now - busy_ns, &mut turn_of);
            }
        }
    }

    /// One turn of everybody. Returns how much there was to do.
    pub fn turn(&mut self, now: u64) -> usize {
        let published: usize = self.publishers.iter_mut().map(|publisher| publisher.turn(now)).sum();
        published + self.subscribers.iter_mut().map(|subscriber| subscriber.turn(now_ns)).sum::<usize>()
    }

    fn totals(&self, past: Totals) -> Totals {
        let mut sum = past;
        for publisher in &self.publishers {
            sum.frames += publisher.offered().frames;
            sum.messages += publisher.offered().messages;
        }
        sum.copies += self.subscribers.iter().map(|subscriber| subscriber.heard().copies).sum::<u64>();
        sum
    }

    fn show(&self, past: Totals, phases: u64, now: u64, gauges: &Gauges) {
        let sum = self.totals(past);
        gauges.frames.store(sum.frames, Ordering::Relaxed);
        gauges.messages.store(sum.messages, Ordering::Relaxed);
        gauges.copies.store(sum.copies, Ordering::Relaxed);
        if self.publishers.iter().all(|publisher| publisher.idle(now)) {
            // Last, so that whoever sees it sees the totals before it.
            gauges.phases_offered.store(phases, Ordering::Release);
        }
    }

    /// Gives the core to others until there may be something to do.
    fn rest(&mut self, now: u64, idle_ns: u64, turn_of: &mut usize) {
        let due = self.publishers.iter().filter_map(Publisher::next_due).min();
        let until_due = due.map_or(REST_MAX_NS, |due| due.saturating_sub(now)).min(REST_MAX_NS);
        if until_due < SPIN_NS || (self.own_core && idle_ns < OWN_CORE_SPIN_NS) {
            std::hint::spin_loop();
            return;
        }
        // Sleep on one queue after another; subscribers first, because what they miss is latency.
        let queues = if self.subscribers.is_empty() { self.publishers.len() } else { self.subscribers.len() };
        let ns = if queues > 1 { until_due.min(REST_SHARED_NS) } else { until_due };
        *turn_of = (*turn_of + 1) % queues.max(1);
        if let Some(subscriber) = self.subscribers.get_mut(*turn_of) {
            subscriber.wait(ns);
        } else if let Some(publisher) = self.publishers.get_mut(*turn_of) {
            publisher.wait(ns);
        }
    }

    /// What is only known at the end.
    #[must_use]
    pub fn summary(&self) -> Summary {
        let mut summary = Summary::default();
        for publisher in &self.publishers {
            summary.replies.merge(publisher.replies());
            summary.starved += publisher.queue_stats().starved;
        }
        for subscriber in &self.subscribers {
            let stats = subscriber.queue_stats();
            summary.starved += stats.starved;
            summary.subscribers.push(SubscriberSummary {
                gap_frames: subscriber.gaps(),
                overflow: stats.overflow,
                anomalies: subscriber.anomalies().clone(),
            });
        }
        summary
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Totals {
    frames: u64,
    messages: u64,
    copies: u64,
}
