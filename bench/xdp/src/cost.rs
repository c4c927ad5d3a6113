//! What one packet costs the program: as the kernel's test run repeats it, and as the kernel counts it on a veth under load.
//! Nothing is subtracted; what a program that does nothing shows in the same turns stands beside it.

use crate::{
    bed::{Bed, Cable},
    figures::{cost, median},
    kernel::{self, Answer},
    packets::{FRAME, NODE, OPEN, PINNED, Random, frame, packet, packet_from, packet_v6, sessions, with},
};
use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};
use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};
use tachyon_loader::{Config, Content, Counters, Deliver, Program, Rate, RunTimes};
use tachyon_wire::Reason;

/// Runs of one turn in the test run, packets of one turn on the veth, and sources of one turn.
const RUNS: u32 = 300_000;
const PACKETS: u32 = 100_000;
const SOURCES: u32 = 10_000;
/// What a packet may cost, in ns.
const BAD_MAGIC_NS: f64 = 60.0;
const KNOWN_SESSION_NS: f64 = 150.0;
/// Lengths of the deny list.
const LISTS: [usize; 4] = [0, 1, 10_000, 1_000_000];

/// Which of the two ways of measuring.
#[derive(Clone, Copy, Debug)]
enum Way {
    TestRun,
    Veth,
    /// Packets from sources that were never seen before, one by one.
    Sources,
}

/// How the packets of a case have to end, so that the way that is measured is the one that is meant.
#[derive(Clone, Copy, Debug)]
enum End {
    Dropped(Reason),
    Passed,
    /// Some of the sources are on the list.
    PassedMost,
}

impl End {
    fn check(self, what: &str, before: &Counters, after: &Counters) -> Result<()> {
        let seen = after.seen() - before.seen();
        let ended = match self {
            Self::Dropped(reason) => after.dropped(reason) - before.dropped(reason),
            Self::Passed | Self::PassedMost => after.passed_ours() - before.passed_ours(),
        };
        // The kernel itself says a word now and then, such as that it looks for routers.
        let few = if matches!(self, Self::PassedMost) { seen / 10 } else { seen / 1_000 };
        ensure!(ended + few >= seen, "{what}: {ended} of {seen} packets ended as {self:?}");
        Ok(())
    }
}

struct Scene<'b> {
    bed: &'b Bed,
    ours: Cable,
    empty: Cable,
    nothing: OwnedFd,
    _empty: OwnedFd,
}

/// Both programs on cables of their own.
pub(crate) fn rows(bed: &Bed, turns: usize, done: &mut dyn FnMut(Value)) -> Result<Value> {
    let (ours, empty) = (bed.cable(0)?, bed.cable(1)?);
    let nothing = kernel::always(Answer::Pass)?;
    let link = kernel::attach(nothing.as_fd(), empty.us)?;
    let scene = Scene { bed, ours, empty, nothing, _empty: link };
    let mut facts = Value::Null;
    for count in LISTS {
        let program = scene.program(count)?;
        let attached = kernel::attach(program.as_fd(), scene.ours.us)?;
        scene.of_list(&program, count, turns, done)?;
        drop(attached);
        let told = program.facts()?;
        facts = json!({
            "verified_instructions": told.verified_instructions,
            "translated_bytes": told.translated_bytes,
            "jited_bytes": told.jited_bytes,
            "kernel": fs::read_to_string("/proc/sys/kernel/osrelease")?.trim(),
        });
    }
    Ok(facts)
}

impl Scene<'_> {
    fn program(&self, denied: usize) -> Result<Program> {
        // Buckets that are looked at and never empty.
        let rate = Some(Rate { per_second: 1_000_000_000, burst: 100_000_000 });
        let config = Config { pinned_rate: rate, unpinned_rate: rate, deliver: Deliver::ByShard, ..Config::default() };
        let deny = Random(7).prefixes(denied);
        Ok(Program::load(&config, &Content { sessions: &sessions(), deny: &deny, topics: None })?)
    }

    fn of_list(&self, program: &Program, denied: usize, turns: usize, done: &mut dyn FnMut(Value)) -> Result<()> {
        let known = packet(&frame(PINNED, 1, 0));
        let longest = packet_v6(true, &frame(NODE, 1, 5));
        // The kernel takes the tag out of the very memory that the next packet is made of, so on the veth there is none.
        let longest_veth = packet_v6(false, &frame(NODE, 1, 5));
        let open = packet(&frame(OPEN, 1, 0));
        let junk = with(known.clone(), FRAME, &[0x55; 4]);
        let mut show = |what: &str, way: Way, packet: &[u8], end: End, limit| -> Result<()> {
            let before = program.tables().counters()?;
            let (ours, empty) = self.turns(program, way, packet, turns)?;
            let what = format!("{what}, {denied} denied prefixes");
            end.check(&what, &before, &program.tables().counters()?)?;
            done(cost(&what, way.name(), ours, empty, limit));
            Ok(())
        };
        let bad_magic = End::Dropped(Reason::BadFrame);
        if denied == 0 {
            for way in [Way::TestRun, Way::Veth] {
                show("bad magic", way, &junk, bad_magic, Some(BAD_MAGIC_NS))?;
                show("known session, IPv4", way, &known, End::Passed, Some(KNOWN_SESSION_NS))?;
            }
        }
        let name = "known session, IPv6, VLAN, route";
        show(name, Way::TestRun, &longest, End::Passed, Some(KNOWN_SESSION_NS))?;
        show("known session, IPv6, route", Way::Veth, &longest_veth, End::Passed, Some(KNOWN_SESSION_NS))?;
        show("open session, one source", Way::TestRun, &open, End::Passed, None)?;
        show("open session, unknown sources", Way::Sources, &open, End::PassedMost, None)
    }

    /// ns of one run of ours and of the empty program, by turns.
    fn turns(&self, program: &Program, way: Way, packet: &[u8], turns: usize) -> Result<(f64, f64)> {
        let (mut ours, mut empty) = (Vec::new(), Vec::new());
        for turn in 0..=turns {
            let mine = self.turn(program.as_fd(), &self.ours, way, packet, turn)?;
            let others = self.turn(self.nothing.as_fd(), &self.empty, way, packet, turn)?;
            if turn > 0 {
                ours.push(mine);
                empty.push(others);
            }
        }
        Ok((median(&ours), median(&empty)))
    }

    fn turn(&self, program: BorrowedFd<'_>, cable: &Cable, way: Way, packet: &[u8], turn: usize) -> Result<f64> {
        if matches!(way, Way::TestRun) {
            return Ok(f64::from(kernel::run(program, packet, RUNS, false)?));
        }
        let _measured = RunTimes::measure()?;
        let before = kernel::run_times(program)?;
        if matches!(way, Way::Veth) {
            cable.send(self.bed, packet, PACKETS)?;
        } else {
            let mut random = Random(turn as u64 + 11);
            let payload = &packet[FRAME..];
            for _ in 0..SOURCES {
                kernel::run(program, &packet_from(random.address(), payload), 1, false)?;
            }
        }
        let after = kernel::run_times(program)?;
        let count = (after.1 - before.1).max(1);
        (after.1 > before.1).then_some(()).context("the kernel counted no runs")?;
        Ok((after.0 - before.0) as f64 / count as f64)
    }
}

impl Way {
    fn name(self) -> &'static str {
        match self {
            Self::TestRun => "test run",
            Self::Veth => "run_time_ns on veth",
            Self::Sources => "run_time_ns, source by source",
        }
    }
}
