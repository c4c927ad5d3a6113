//! What goes between a worker and the cold side: packets that want an answer, answers to send, and who is where.

use rtrb::{Consumer, Producer, RingBuffer};
use std::collections::{BTreeSet, VecDeque};
use tachyon_driver_ether::News;

/// Longest packet that goes over: ARP has 42 bytes, neighbour discovery over IPv6 with a VLAN tag 90, and an echo request of the
/// usual size 98 to 122.
pub(crate) const HEARD_BYTES: usize = 128;
/// Packets that may wait either way; in a storm the rest is dropped, and whoever asked asks again.
const PACKETS: usize = 64;
/// Destinations that may wait to be asked for; whoever is left out is noted again with the next copy for it.
const WANTED: usize = 64;
/// News that a worker has not taken yet; more wait with the cold side, because each change is told once.
const NEWS: usize = 4_096;
/// News that wait with the cold side before those that newer ones replaced are left out.
const LATE: usize = 4 * NEWS;

/// A packet on its way to the cold side or back.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Heard {
    pub(crate) port: u16,
    pub(crate) len: u16,
    pub(crate) bytes: [u8; HEARD_BYTES],
}

/// The worker's ends.
#[derive(Debug)]
pub(crate) struct WorkerWires {
    pub(crate) heard: Producer<Heard>,
    /// Destinations that no way is known to, as in `Endpoint::ip`.
    pub(crate) wanted: Producer<[u8; 16]>,
    pub(crate) answers: Consumer<Heard>,
    pub(crate) news: Consumer<News>,
}

impl WorkerWires {
    /// Whether the cold side sent something.
    #[inline]
    pub(crate) fn has_work(&self) -> bool {
        !self.news.is_empty() || !self.answers.is_empty()
    }
}

/// The cold side's ends.
#[derive(Debug)]
pub(crate) struct DeskWires {
    pub(crate) heard: Consumer<Heard>,
    pub(crate) wanted: Consumer<[u8; 16]>,
    pub(crate) answers: Producer<Heard>,
    news: Producer<News>,
    /// What found no room in the ring, oldest first.
    late: VecDeque<News>,
}

impl DeskWires {
    /// Whether there still is a worker at the other end.
    pub(crate) fn is_alive(&self) -> bool {
        !self.news.is_abandoned()
    }

    /// Tells the worker these, after those that it was not told yet.
    pub(crate) fn tell(&mut self, news: &[News]) {
        if !self.is_alive() {
            self.late.clear();
            return;
        }
        self.late.extend(news);
        while let Some(one) = self.late.pop_front() {
            if self.news.push(one).is_err() {
                self.late.push_front(one);
                break;
            }
        }
        if self.late.len() > LATE {
            let mut seen = BTreeSet::new();
            let last: Vec<News> = self.late.drain(..).rev().filter(|one| seen.insert(destination(one))).collect();
            self.late.extend(last.into_iter().rev());
        }
    }
}

const fn destination(news: &News) -> [u8; 16] {
    match news {
        News::Reached { to, .. } | News::Lost { to } => *to,
    }
}

pub(crate) fn wires() -> (WorkerWires, DeskWires) {
    let (heard, heard_out) = RingBuffer::new(PACKETS);
    let (wanted, wanted_out) = RingBuffer::new(WANTED);
    let (answers_in, answers) = RingBuffer::new(PACKETS);
    let (news_in, news) = RingBuffer::new(NEWS);
    let desk =
        DeskWires { heard: heard_out, wanted: wanted_out, answers: answers_in, news: news_in, late: VecDeque::new() };
    (WorkerWires { heard, wanted, answers, news }, desk)
}
