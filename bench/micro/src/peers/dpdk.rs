//! DPDK's own `rte_hash` and `rte_meter`, called from C as its examples call them, beside the stage of ours that does the
//! same and more: `govern`.
//!
//! DPDK looks a topic up and meters it (srTCM, colour-blind); ours also checks the message, the sender's range, rights,
//! class and the sender's quota. Both are given the same received frames, and both ask for their records ahead of time:
//! DPDK within its burst of 32, ours a few frames ahead.

pub(super) const NAME: &str = "dpdk rte_hash + rte_meter";
pub(super) const WHAT: &str = "topic lookup and rate of each message, 65,536 topics, 22 a frame";

#[cfg(has_dpdk)]
pub(super) use here::rows;

#[cfg(not(has_dpdk))]
pub(super) fn rows(_seed: u64, _rounds: usize) -> Vec<serde_json::Value> {
    vec![super::missing(NAME, WHAT, "libdpdk was not there when this was built: apt-get install libdpdk-dev")]
}

#[cfg(has_dpdk)]
mod here {
    use super::{
        super::{missing, row, take_turns, turn},
        NAME, WHAT,
    };
    use crate::{
        case::Case,
        stages::{Govern, Input, ROUNDS},
    };
    use serde_json::Value;
    use std::{fs, time::Instant};

    /// Megabytes that DPDK is started with.
    const MEGABYTES: u64 = 64;

    #[expect(unsafe_code, reason = "DPDK is C")]
    mod c {
        use tachyon_wire::LINE;

        // SAFETY: as defined in dpdk.c, with the same integers.
        unsafe extern "C" {
            fn tachyon_dpdk_open(topics: u32, huge: i32) -> i32;
            fn tachyon_dpdk_pass(bytes: *const u8, frames: usize, messages: usize) -> u32;
        }

        /// DPDK, started once.
        pub(super) struct Dpdk(());

        impl Dpdk {
            /// Starts it and enters the topics.
            pub(super) fn open(topics: u32, huge: bool) -> Result<Self, i32> {
                static OPENED: std::sync::Once = std::sync::Once::new();
                let mut error = -1;
                // SAFETY: it writes its own statics alone, and `Once` makes this the only call in the process.
                OPENED.call_once(|| error = unsafe { tachyon_dpdk_open(topics, i32::from(huge)) });
                if error == 0 { Ok(Self(())) } else { Err(error) }
            }

            /// Judges all messages of a received buffer; returns how many were green.
            pub(super) fn pass(&mut self, bytes: &[u8], messages: usize) -> usize {
                let frames = bytes.len() / (LINE * (1 + messages));
                // SAFETY: it reads as many frames of as many messages as the slice holds, and `self` says that `open`
                // succeeded and that nobody else is in here.
                unsafe { tachyon_dpdk_pass(bytes.as_ptr(), frames, messages) as usize }
            }
        }
    }

    /// DPDK and our stage in turns.
    pub(in super::super) fn rows(seed: u64, rounds: usize) -> Vec<Value> {
        let case = Case::BASE;
        let huge = huge_pages();
        let mut dpdk = match c::Dpdk::open(case.topics, huge) {
            Ok(dpdk) => dpdk,
            Err(error) => return vec![missing(NAME, WHAT, &format!("DPDK does not start here: error {error}"))],
        };
        let mut input = Input::new(&case, seed);
        let mut theirs = || {
            let ns: f64 = (0..ROUNDS).map(|_| round(&mut dpdk, &mut input, &case)).sum();
            ns / (ROUNDS * input.messages()) as f64
        };
        let mut govern = Govern::new(&case, seed);
        // Theirs has no rules to adopt, but its cores are to have met every topic as well.
        (0..govern.warm_up() / ROUNDS).for_each(|_| {
            theirs();
        });
        let mut ours = || {
            let (messages, ns) = govern.pass();
            ns / messages as f64
        };
        let [ours, theirs] = take_turns(rounds, [&mut || turn(&mut ours), &mut || turn(&mut theirs)]);
        let pages = if huge { "on 2 MiB pages" } else { "on 4 KiB pages (none of 2 MiB are free)" };
        let note = format!("bulk lookups of 32 with crc hash, srTCM colour-blind, meters prefetched, {pages}");
        vec![
            row("ours, govern", WHAT, ours, ours, "and message, sender range, rights, class, sender quota"),
            row(NAME, WHAT, theirs, ours, &note),
        ]
    }

    /// DPDK over the next buffers; nanoseconds.
    fn round(dpdk: &mut c::Dpdk, input: &mut Input, case: &Case) -> f64 {
        input.load();
        let begun = Instant::now();
        let green: usize = input.buffers().map(|bytes| dpdk.pass(bytes, case.messages)).sum();
        let ns = begun.elapsed().as_secs_f64() * 1e9;
        assert_eq!(green, input.messages(), "every message is known and green");
        ns
    }

    /// Whether the kernel has enough free 2 MiB pages for DPDK to use them.
    fn huge_pages() -> bool {
        let free = fs::read_to_string("/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages");
        free.ok().and_then(|free| free.trim().parse().ok()).is_some_and(|free: u64| free * 2 >= 2 * MEGABYTES)
    }
}
