//! Frames that wait for the node's word: kept until they are settled at the class that is asked for, and sent again, the same bytes,
//! while no word comes.

use crate::offered::Settled;
use std::collections::BTreeMap;
use tachyon_wire::ack::AckBody;

/// Frames that wait at most, over all sessions and shards of a publisher: with the 256 that an ack reaches beyond the first that is
/// missing, no frame is ever 1,024 behind the newest, which is the wire contract's limit. 8 MiB at frames of 16 KiB.
pub const UNSETTLED_MAX: usize = 512;
/// First pause before a frame is sent again, and the longest; doubled each time, as the wire document suggests.
const PAUSE_NS: [u64; 2] = [20_000_000, 1_280_000_000];
/// A frame is given up after so many tries, which takes a quarter of a minute.
const TRIES_MAX: u32 = 16;

/// A frame as it was sent.
#[derive(Debug)]
struct Kept {
    bytes: Vec<u8>,
    due_ns: u64,
    pause_ns: u64,
    tries: u32,
}

/// A session in a shard under one epoch, as acks name it.
type Stream = (u32, u16, u32);

/// The frames of one publisher that wait.
#[derive(Debug, Default)]
pub struct Unsettled {
    streams: BTreeMap<Stream, BTreeMap<u32, Kept>>,
    count: usize,
    /// When the first of them is due, or later than that was.
    next_ns: u64,
}

impl Unsettled {
    /// Whether so many more may be sent.
    #[must_use]
    pub const fn has_room(&self, frames: usize) -> bool {
        self.count + frames <= UNSETTLED_MAX
    }

    /// Whether none waits.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// When there is something to send again.
    #[must_use]
    pub fn next_due(&self) -> Option<u64> {
        (self.count > 0).then_some(self.next_ns)
    }

    /// Keeps a frame that is sent now.
    pub fn keep(&mut self, stream: Stream, frame_id: u32, bytes: &[u8], now_ns: u64) {
        let due_ns = now_ns + PAUSE_NS[0];
        self.next_ns = if self.count == 0 { due_ns } else { self.next_ns.min(due_ns) };
        let kept = Kept { bytes: bytes.to_vec(), due_ns, pause_ns: PAUSE_NS[0], tries: 1 };
        self.streams.entry(stream).or_default().insert(frame_id, kept);
        self.count += 1;
    }

    /// Takes an ack of the class that frames wait for.
    pub fn settle(&mut self, ack: &AckBody, settled: &mut Settled) {
        let stream = (ack.session_id.get(), ack.shard.get(), ack.epoch.get());
        let Some(frames) = self.streams.get_mut(&stream) else { return };
        let before = frames.len();
        frames.retain(|frame_id, _| {
            let done = ack.is_settled(*frame_id);
            let refused = done && ack.is_refused(*frame_id);
            settled.refused += u64::from(refused);
            settled.acked += u64::from(done && !refused);
            !done
        });
        self.count -= before - frames.len();
    }

    /// Hands out up to `most` frames that have waited for long enough, each with its shard, and gives up those that waited too long.
    pub fn repeat(
        &mut self,
        now_ns: u64,
        most: usize,
        settled: &mut Settled,
        mut send: impl FnMut(u16, &[u8]),
    ) -> usize {
        if self.count == 0 || now_ns < self.next_ns {
            return 0;
        }
        let (mut sent, mut next_ns) = (0, u64::MAX);
        for ((_, shard, _), frames) in &mut self.streams {
            frames.retain(|_, kept| {
                if kept.due_ns <= now_ns && kept.tries >= TRIES_MAX {
                    settled.given_up += 1;
                    self.count -= 1;
                    return false;
                }
                if kept.due_ns <= now_ns && sent < most {
                    send(*shard, &kept.bytes);
                    sent += 1;
                    kept.tries += 1;
                    kept.pause_ns = (kept.pause_ns * 2).min(PAUSE_NS[1]);
                    kept.due_ns = now_ns + kept.pause_ns;
                }
                next_ns = next_ns.min(kept.due_ns);
                true
            });
        }
        self.next_ns = next_ns;
        settled.retransmitted += sent as u64;
        sent
    }
}

#[cfg(test)]
mod tests {
    use super::{PAUSE_NS, TRIES_MAX, UNSETTLED_MAX, Unsettled};
    use crate::offered::Settled;
    use tachyon_wire::ack::{AckBody, CLASS_DURABLE};

    const STREAM: (u32, u16, u32) = (7, 3, 5);

    fn kept(frames: u32) -> Unsettled {
        let mut unsettled = Unsettled::default();
        (1..=frames).for_each(|id| unsettled.keep(STREAM, id, &[u8::try_from(id).unwrap(); 64], 0));
        unsettled
    }

    #[test]
    fn what_no_ack_speaks_of_is_sent_again_with_longer_pauses_and_given_up_in_the_end() {
        let (mut unsettled, mut settled) = (kept(2), Settled::default());
        let mut ack = AckBody::new(7, 5, 3, CLASS_DURABLE, 0);
        ack.settle(2);
        unsettled.settle(&ack, &mut settled);
        let (mut now, mut times) = (0, Vec::new());
        while let Some(due) = unsettled.next_due() {
            assert!(due > now);
            now = due;
            unsettled.repeat(now, 8, &mut settled, |shard, bytes| {
                assert_eq!((shard, bytes), (3, [1; 64].as_slice()));
                times.push(now);
            });
        }
        assert_eq!(settled, Settled { acked: 1, retransmitted: u64::from(TRIES_MAX) - 1, given_up: 1, ..settled });
        let pauses: Vec<u64> = times.windows(2).map(|two| two[1] - two[0]).collect();
        assert!(
            pauses.is_sorted() && pauses.first() == Some(&(2 * PAUSE_NS[0])) && pauses.last() == Some(&PAUSE_NS[1])
        );
    }

    #[test]
    fn another_epochs_ack_settles_nothing_and_a_refusal_is_told() {
        let (mut unsettled, mut settled) = (kept(2), Settled::default());
        unsettled.settle(&AckBody::new(7, 6, 3, CLASS_DURABLE, 2), &mut settled);
        assert!(!unsettled.is_empty() && settled == Settled::default());
        let mut ack = AckBody::new(7, 5, 3, CLASS_DURABLE, 2);
        ack.refuse(1);
        unsettled.settle(&ack, &mut settled);
        assert!(unsettled.is_empty());
        assert_eq!((settled.acked, settled.refused), (1, 1));
    }

    #[test]
    fn it_never_keeps_more_than_it_may() {
        let unsettled = kept(200);
        assert!(unsettled.has_room(UNSETTLED_MAX - 200) && !unsettled.has_room(UNSETTLED_MAX - 199));
    }
}
