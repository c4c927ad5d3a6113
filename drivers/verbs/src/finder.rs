//! Finding the ways to peers beside the cold side's thread, which has workers to look after.
//!
//! To make an address handle and to connect a queue pair the kernel looks for the peer's Ethernet address, and waits up to a
//! second where no neighbour answers (`rdma_addr_find_l2_eth_by_grh` in drivers/infiniband/core/addr.c, called for both by
//! `ib_resolve_eth_dmac`). It has no call that asks and does not wait. So a thread of its own makes an address handle first and
//! throws it away: from then on the kernel has the neighbour, and for who needs the way again it is at hand.
//!
//! Ways are looked for one after the other, so a peer that nobody can reach delays the first lanes of others, and nothing else.

use crate::device::Way;
use std::{
    collections::BTreeMap,
    sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel},
    thread,
    time::Duration,
};
use tachyon_driver_api::PortError;

/// How long the cold side waits at most, and once for each way: a neighbour that the kernel knows already is told within this, and
/// so is most often one that has to answer first. Beyond it whoever asks has to come again.
const PATIENCE: Duration = Duration::from_millis(1);
/// Ways that are looked for or found and not asked for again.
const WAYS_MAX: usize = 16;

type Gid = [u8; 16];
type Found = (Gid, Result<(), PortError>);

/// See the module.
#[derive(Debug)]
pub(crate) struct Finder {
    wanted: SyncSender<Gid>,
    found: Receiver<Found>,
    /// What became of each; `None`: it is being looked for.
    ways: BTreeMap<Gid, Option<Result<(), PortError>>>,
}

impl Finder {
    /// Starts the thread; `look` finds one way, however long it takes. It ends with this.
    ///
    /// # Errors
    /// There is no thread to be had.
    pub(crate) fn start(
        mut look: impl FnMut(&Gid) -> Result<(), PortError> + Send + 'static,
    ) -> Result<Self, PortError> {
        let (wanted, asked) = sync_channel::<Gid>(WAYS_MAX);
        let (answers, found) = sync_channel::<Found>(WAYS_MAX);
        let work = move || {
            for gid in asked {
                if answers.send((gid, look(&gid))).is_err() {
                    return;
                }
            }
        };
        let thread = thread::Builder::new().name("rdma-ways".to_owned()).spawn(work);
        thread.map_err(|error| PortError(format!("there is no thread to look for ways of RDMA packets: {error}")))?;
        Ok(Self { wanted, found, ways: BTreeMap::new() })
    }

    /// Whether there is a way. What comes of a search that takes longer is told when the same is asked again.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn find(&mut self, gid: &Gid) -> Result<Way, PortError> {
        self.collect(Duration::ZERO)?;
        if !self.ways.contains_key(gid) {
            if self.ways.len() >= WAYS_MAX {
                self.ways.retain(|_, way| way.is_none()); // nobody came back for these
            }
            if self.ways.len() >= WAYS_MAX || self.wanted.try_send(*gid).is_err() {
                return Ok(Way::Sought);
            }
            self.ways.insert(*gid, None);
            self.collect(PATIENCE)?;
        }
        match self.ways.get_mut(gid).and_then(Option::take) {
            Some(result) => {
                self.ways.remove(gid); // told once: a neighbour may be gone when it is asked for again
                result.map(|()| Way::Known)
            }
            None => Ok(Way::Sought),
        }
    }

    /// Hears what was found out by now, or the next that is found out within this time.
    fn collect(&mut self, patience: Duration) -> Result<(), PortError> {
        let mut wait = patience;
        loop {
            match self.found.recv_timeout(wait) {
                Ok((gid, result)) => self.ways.insert(gid, Some(result)),
                Err(RecvTimeoutError::Timeout) => return Ok(()),
                Err(RecvTimeoutError::Disconnected) => {
                    return Err(PortError("the thread that looks for ways of RDMA packets is gone".to_owned()));
                }
            };
            wait = Duration::ZERO;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::channel;

    #[test]
    fn a_way_that_takes_long_holds_nobody_up_and_is_told_when_it_is_asked_for_again() {
        let (end, ends) = channel::<()>();
        let mut finder = Finder::start(move |gid| match gid[0] {
            1 => Ok(()),
            number => {
                let _ = ends.recv(); // which takes as long as the test wants
                Err(PortError(format!("no way to {number}")))
            }
        })
        .unwrap();
        assert_eq!(finder.find(&[2; 16]), Ok(Way::Sought));
        assert_eq!(finder.find(&[2; 16]), Ok(Way::Sought));
        end.send(()).unwrap(); // for one search: the second time it was only asked what came of the first
        let told = |finder: &mut Finder, gid| loop {
            match finder.find(gid) {
                Ok(Way::Sought) => thread::yield_now(),
                other => return other,
            }
        };
        assert_eq!(told(&mut finder, &[2; 16]), Err(PortError("no way to 2".to_owned())));
        assert_eq!(told(&mut finder, &[1; 16]), Ok(Way::Known), "the second search never was");
        // More than are kept, and nobody comes back for them.
        for number in 3..40 {
            assert_eq!(finder.find(&[number; 16]), Ok(Way::Sought));
        }
        (0..40).for_each(|_| end.send(()).unwrap());
        assert_eq!(told(&mut finder, &[1; 16]), Ok(Way::Known));
    }
}
