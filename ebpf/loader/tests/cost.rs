//! What the program costs: `cargo test --release -p tachyon-loader --test cost -- --ignored --nocapture`.
#![allow(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test helpers panic where a test would, say what was skipped or measured, and sizes are small"
)]

mod bed;

use bed::{Bed, OPEN, PINNED, PINNED_IP, PORT, address, good, packet, sessions, with};
use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    time::Instant,
};
use tachyon_loader::{Config, Content, Prefix, Rate, RunTimes};

/// xorshift64*, so that every run asks for the same addresses.
pub(crate) struct Random(u64);

impl Random {
    fn next(&mut self) -> u32 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }
}

/// Prefixes of 24 to 32 bits, as lists of bad neighbourhoods have.
fn prefixes(count: usize) -> Vec<Prefix> {
    let mut random = Random(7);
    let mut prefix = || {
        let bits = 24 + (random.next() % 9) as u8;
        Prefix::new(IpAddr::V4(Ipv4Addr::from_bits(random.next())), bits).expect("at most 32 bits")
    };
    (0..count).map(|_| prefix()).collect()
}

const REPEATS: u32 = 1_000_000;

/// The best of some long runs: what else the machine does only ever adds.
fn hot_ns(bed: &Bed, packet: &[u8]) -> u32 {
    (0..5).map(|_| bed.program.test_run(packet, REPEATS).expect("a run").run_ns).min().expect("five runs")
}

/// The same as the kernel measures each run while it is told to, which adds tens of nanoseconds.
fn measured_ns(bed: &Bed, packet: &[u8]) -> u64 {
    let _measured = RunTimes::measure().expect("run times");
    let before = bed.program.facts().expect("facts");
    bed.program.test_run(packet, REPEATS).expect("a run");
    let after = bed.program.facts().expect("facts");
    (after.run_time_ns - before.run_time_ns) / (after.run_count - before.run_count)
}

/// The mean over sources that were never seen before, as the kernel measures each run.
fn cold_ns(bed: &Bed) -> u64 {
    let _measured = RunTimes::measure().expect("run times");
    let mut random = Random(11);
    let frame = good(OPEN);
    let before = bed.program.facts().expect("facts");
    for _ in 0..50_000 {
        let source = SocketAddr::new(IpAddr::V4(Ipv4Addr::from_bits(random.next())), 40_000);
        bed.program.test_run(&packet(source, PORT, &frame), 1).expect("a run");
    }
    let after = bed.program.facts().expect("facts");
    (after.run_time_ns - before.run_time_ns) / (after.run_count - before.run_count)
}

#[test]
#[ignore = "a measurement, not a check"]
fn what_a_packet_costs() {
    if !bed::is_root() {
        return;
    }
    let rate = Some(Rate { per_second: 2_000_000_000, burst: 200_000_000 });
    let config = Config { pinned_rate: rate, unpinned_rate: rate, ..Config::default() };
    let sessions = sessions();
    for count in [1, 10_000, 1_000_000] {
        let start = Instant::now();
        let deny = prefixes(count);
        let bed = Bed::new(&config, &Content { sessions: &sessions, deny: &deny, ..Content::default() });
        println!("{count} denied prefixes, made and in force in {:.2?}: {:?}", start.elapsed(), bed.program.facts());
        let pinned = packet(address(PINNED_IP), PORT, &good(PINNED));
        let open = packet(address("203.0.113.77:40000"), PORT, &good(OPEN));
        let junk = packet(address(PINNED_IP), PORT, &[0x55; 128]);
        for (what, packet) in [
            ("ssh", with(with(pinned.clone(), 23, &[6]), 36, &[0, 22])),
            ("bad magic", junk),
            ("pinned session", pinned),
            ("open session, a source seen before", open),
        ] {
            let (hot, measured) = (hot_ns(&bed, &packet), measured_ns(&bed, &packet));
            println!("  {what:36} {hot:>4} ns, {measured:>4} ns with measuring");
        }
        println!("  {:36} {:>4} ns, measuring included", "open session, sources never seen", cold_ns(&bed));
        println!("  sessions and prefixes: {:?}", bed.program.tables().entries());
    }
}
