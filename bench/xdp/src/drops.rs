//! Junk that arrives on a veth and dies there: ours beside xdp-filter, and beside a program that looks at nothing.
//!
//! Each of them sits on a pair of its own, so that turns alternate without attaching anything. The packets are the same
//! and come from the same place: a program that the kernel's test run repeats, live, and whose packets go onto the far end.

use crate::{
    bed::{Bed, Cable, tool},
    figures::{Rates, median, row},
    kernel::{self, Answer},
    packets::{self, FRAME, OPEN, PINNED, UNKNOWN, frame, packet, packet_from, with},
};
use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use std::{
    net::Ipv4Addr,
    os::fd::{AsFd, OwnedFd},
};
use tachyon_loader::{Config, Content, Prefilter, Prefix, Rate};
use tachyon_wire::{Reason, frame::BASE_PORT};

/// Packets of one turn: some tens of milliseconds.
const PACKETS: u32 = 200_000;
/// How many of them may be missing in what the program saw: the wire holds 256, and what finds it full is gone.
const LOST_MAX: f64 = 0.02;
/// Turns that may be lost before the machine is called too busy for this.
const TRIES: usize = 5;
/// What ours has to reach of xdp-filter, and of a program that looks at nothing.
const OF_XDP_FILTER: f64 = 0.95;
const OF_DROP: f64 = 0.9;
/// On the deny list below.
const DENIED: Ipv4Addr = Ipv4Addr::new(198, 51, 100, 7);

/// One kind of junk.
struct Junk {
    case: &'static str,
    packet: Vec<u8>,
    reason: Reason,
    /// Whether it shows before the frame's header is found to be sound, which is what the targets are about.
    early: bool,
}

fn kinds() -> Vec<Junk> {
    let good = packet(&frame(PINNED, 1, 0));
    let junk = |case, packet, reason, early| Junk { case, packet, reason, early };
    vec![
        junk("bad magic", with(good.clone(), FRAME, &[0x55; 4]), Reason::BadFrame, true),
        junk("first fragment", with(good.clone(), 20, &[0x20, 0]), Reason::FilterFragment, true),
        junk("too short", packet(&[0x55; 60]), Reason::BadFrame, true),
        junk("wrong UDP length", with(good.clone(), 38, &[0x7f, 0]), Reason::FilterMalformed, true),
        junk("too large", packet(&[0x55; 1_473]), Reason::TooLarge, true),
        junk("bad layout", with(good.clone(), FRAME + 4, &[0xee; 4]), Reason::BadFrame, true),
        junk("wrong shard", with(good.clone(), 36, &(BASE_PORT + 1).to_be_bytes()), Reason::WrongShard, false),
        junk("unknown session", packet(&frame(UNKNOWN, 1, 0)), Reason::NoSession, false),
        junk("session of another source", with(good, 34, &[1, 2]), Reason::NoSession, false),
        junk("denied source", packet_from(DENIED, &frame(OPEN, 1, 0)), Reason::FilterDenied, false),
    ]
}

/// Everything, attached.
struct Scene {
    bed: Bed,
    ours: Cable,
    filter: Cable,
    drop: Cable,
    prefilter: Prefilter,
    _drop: OwnedFd,
}

impl Scene {
    fn new(bed: Bed) -> Result<Self> {
        let (ours, filter, drop) = (bed.cable(0)?, bed.cable(1)?, bed.cable(2)?);
        let rate = Some(Rate { per_second: 1_000_000_000, burst: 100_000_000 });
        let config = Config { pinned_rate: rate, unpinned_rate: rate, generic_allowed: false, ..Config::default() };
        let denied = Prefix::new(DENIED.into(), 32).context("32 bits")?;
        let content = Content { sessions: &packets::sessions(), deny: &[denied], topics: None };
        let prefilter = Prefilter::attach(&ours.name(), &config, &content)?;
        // Nothing but UDP, the fewest checks it can be made to do; both ports that the packets go to.
        tool(&format!("xdp-filter load -f udp -m native {}", filter.name()))
            .context("xdp-filter is what ours is compared with (on Debian: apt install xdp-tools)")?;
        for port in [BASE_PORT, BASE_PORT + 1] {
            tool(&format!("xdp-filter port -p udp {port}"))?;
        }
        let program = kernel::always(Answer::Drop)?;
        let link = kernel::attach(program.as_fd(), drop.us)?;
        Ok(Self { bed, ours, filter, drop, prefilter, _drop: link })
    }

    /// M packets per CPU-second, the sender's and the driver's time and all. A turn of which much was lost is taken again: then
    /// the kernel let another thread poll the end, on whose time we do not look.
    fn turn(&self, cable: &Cable, packet: &[u8]) -> Result<f64> {
        let mut lost = 1.0;
        for _ in 0..TRIES {
            let before = cable.seen()?;
            let start = kernel::cpu();
            cable.send(&self.bed, packet, PACKETS)?;
            let time = kernel::cpu() - start;
            let seen = cable.seen()? - before;
            lost = 1.0 - seen as f64 / f64::from(PACKETS);
            if lost <= LOST_MAX {
                return Ok(seen as f64 / time.as_secs_f64() / 1e6);
            }
        }
        bail!("{:.1} % of the packets to {} were lost on the wire, {TRIES} times in a row", lost * 100.0, cable.name())
    }

    fn measure(&self, junk: &Junk, turns: usize) -> Result<Vec<Value>> {
        let mut rates = [const { Vec::new() }; 3];
        let before = self.prefilter.tables().counters()?;
        for turn in 0..=turns {
            for (cable, rates) in [&self.ours, &self.filter, &self.drop].into_iter().zip(&mut rates) {
                let rate = self.turn(cable, &junk.packet)?;
                if turn > 0 {
                    rates.push(rate); // the first warms up
                }
            }
        }
        let after = self.prefilter.tables().counters()?;
        let dropped = after.dropped(junk.reason) - before.dropped(junk.reason);
        // The kernel itself says a word now and then, such as that it looks for routers.
        let foreign = after.passed_foreign() - before.passed_foreign();
        let seen = after.seen() - before.seen();
        ensure!(dropped + foreign == seen, "{}: {dropped} of {seen} packets ended as {:?}", junk.case, junk.reason);
        let [ours, filter, drop] = &rates;
        let beside = |peer, theirs: &[f64], target| {
            let rates = Rates { ours: median(ours), theirs: median(theirs), ratio: median_ratio(ours, theirs) };
            row(&format!("drop: {}", junk.case), &rates, peer, junk.early.then_some(target))
        };
        Ok(vec![beside("xdp-filter", filter, OF_XDP_FILTER), beside("XDP_DROP", drop, OF_DROP)])
    }
}

/// The median of the ratios of neighbouring turns, which what else the machine does reaches alike.
pub(crate) fn median_ratio(ours: &[f64], theirs: &[f64]) -> f64 {
    let ratios: Vec<f64> = ours.iter().zip(theirs).map(|(ours, theirs)| ours / theirs).collect();
    median(&ratios)
}

/// Every kind of junk.
pub(crate) fn rows(bed: Bed, turns: usize, done: &mut dyn FnMut(Value)) -> Result<()> {
    let scene = Scene::new(bed)?;
    for junk in kinds() {
        scene.measure(&junk, turns)?.into_iter().for_each(&mut *done);
    }
    let Scene { filter, prefilter, .. } = scene;
    tool(&format!("xdp-filter unload {}", filter.name()))?;
    Ok(prefilter.detach()?)
}
