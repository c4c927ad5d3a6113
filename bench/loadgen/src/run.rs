//! One run from the first call to the report: sessions, phases, drains, proof.

use crate::{
    args::{Phase, RunArgs, Threads},
    capture::{self, CapturePorts},
    clock::{SECOND_NS, now_ns},
    crew::{Order, Report, Summary},
    hire::{self, Hand, UringPorts},
    ledger::Ledgers,
    offered::Offered,
    open::{self, Opened},
    plan::{Bias, Plan},
    publisher::{Part, Shape},
    rdma::{Keeper, Rdma},
    relay::Relay,
    report::{PhaseDone, Run},
    schedule::{Schedule, frames_per_run},
    session::{Access, Control, LaneCalls, NodeFacts, Reading},
    subscriber::Heard,
};
use anyhow::{Context, Result, bail};
use serde_json::{Value, json};
use std::{
    net::IpAddr,
    sync::{Arc, atomic::Ordering},
    time::{Duration, Instant},
};

/// From the order to the first intended time: every thread has seen the order by then.
const HEAD_START_NS: u64 = 20_000_000;
/// Progress lines come this often: twice what a person who waits wants to see at least.
const PROGRESS_NS: u64 = 250_000_000;
/// How often the leading thread looks at its crews, and at the node's counters while they settle.
const LOOK: Duration = Duration::from_millis(20);
/// Equal readings in a row after which nothing moves any more: 60 ms, twelve times the node's longest internal interval.
const STILL_READINGS: u32 = 3;
/// How long counters may keep moving after the last frame was offered: full socket buffers of a node that is slowed down.
const SETTLE_NS: u64 = 30 * SECOND_NS;

/// Does one run; `show` gets each progress line.
///
/// # Errors
/// What could not be opened, or went away: what happened and what to do.
pub fn run(args: &RunArgs, show: &mut dyn FnMut(&Value)) -> Result<Value> {
    let phases = args.settled_phases().map_err(anyhow::Error::msg)?;
    let rdma = Rdma::asked(args)?;
    let mut access = access(args)?;
    let node = access.node()?;
    let rdma = rdma.map(|rdma| rdma.towards(node.workers, node.shard_count, node.fabric_mtu_bytes));
    let args = &on_fabric(args, rdma.as_ref(), &node)?;
    let frame_messages = args.frame_messages().map_err(anyhow::Error::msg)?;
    let node_ip = open::node_ip(args, &node)?;
    let capture = CapturePorts::asked(args, node_ip, node.shard_count)?;
    let (args, node_ip) = (&on_capture(args, node_ip), capture::write_to(args, node_ip));
    let hire = |roster| match (&capture, &rdma) {
        (Some(ports), _) => Hand::hire(ports.clone(), roster),
        (None, Some(rdma)) => Hand::hire(rdma.clone(), roster),
        (None, None) => Hand::hire(sockets(args, node_ip), roster),
    };
    let opened = open::open(args, &mut *access, &node, node_ip, frame_messages, hire)?;
    let keeper = rdma.map(|rdma| agree(args, &rdma, &opened, &node, node_ip)).transpose()?;
    let mut lead = Lead { access, opened, capture, show, versions: Vec::new() };
    let start = lead.settle()?.0;
    let (shape, mut before, mut done) = (lead.opened.shape, start.clone(), Vec::new());
    for (index, phase) in phases.iter().enumerate() {
        let (finished, after) = lead.phase(args, index, phase, shape, &before)?;
        done.push(finished);
        before = after;
    }
    let mut summaries = Vec::new();
    for hand in &lead.opened.hands {
        hand.order(Order::Stop)?;
        match hand.reports.recv().context("a load thread ended before its report")? {
            Report::Final(summary) => summaries.push(summary),
            Report::Phase(..) => bail!("a load thread reported a phase that nobody ended"),
        }
    }
    let end = before;
    // At rest until the crews are gone: nothing is offered again while sessions and subscriptions end.
    let (fabric, _at_rest) = keeper.map(Keeper::end).transpose()?.unzip();
    let mut degraded = lead.opened.degraded.clone();
    if let Some(capture) = &lead.capture {
        capture.check()?;
        degraded.extend(capture.strange());
    }
    note_own_limits(args, &done, &summaries, &mut degraded);
    let run = Run {
        driver: lead.opened.driver,
        seed: args.seed,
        tagged: !args.crc,
        frame_messages,
        timed: args.carries_time() && lead.capture.is_none(),
        counted: node.counts,
        frames_most: lead.opened.shape.frames_most,
        copies_most: args.frame_messages_max(),
        phases: done,
        summaries,
        start,
        end,
        ruleset_versions: lead.versions.clone(),
        degraded,
        fabric: fabric.map(|report| (args.fabric, report)),
    };
    let mut report = run.json();
    if let Err(error) = lead.close()
        && let Some(degraded) = report["degraded"].as_array_mut()
    {
        // The run is over and proved; what the node still holds of it ends with the leases.
        degraded.push(format!("its sessions were not ended: {error:#}").into());
    }
    Ok(report)
}

/// A node, or the relay that is in its place.
fn access(args: &RunArgs) -> Result<Box<dyn Access>> {
    if let Some(relay) = args.relay {
        return Ok(Box::new(Relay::new(relay, args.shards, args.listen_port, args.frame_bytes)));
    }
    let socket = args.control.as_deref().context("give --control or --relay")?;
    Ok(Box::new(Control::connect(socket, Duration::from_secs_f64(args.patience))?))
}

fn sockets(args: &RunArgs, node: IpAddr) -> UringPorts {
    UringPorts { node, listen: args.listen, frame_bytes_max: args.frame_bytes, buffers: hire::buffers(args) }
}

/// The arguments, with subscribers and frames as the fabric wants them.
fn on_fabric(args: &RunArgs, rdma: Option<&Rdma>, node: &NodeFacts) -> Result<RunArgs> {
    let most = |rdma: &Rdma| rdma.mtu_bytes().min(node.frame_bytes_max);
    rdma.map_or_else(|| Ok(args.clone()), |rdma| args.on_fabric(most(rdma)).map_err(anyhow::Error::msg))
}

/// Agrees on a lane from each queue to each worker. A publisher's lanes are agreed on for the first of its sessions, and
/// carry the frames of all.
fn agree(args: &RunArgs, rdma: &Rdma, opened: &Opened, node: &NodeFacts, node_ip: IpAddr) -> Result<Keeper> {
    let socket = args.control.as_deref().context("RDMA lanes are agreed on through --control")?;
    let publishers: usize = opened.publishers.iter().sum();
    let sessions = opened.sessions.get(..publishers).context("fewer sessions than publishers")?;
    rdma.agree(open::endpoint(node_ip, node.base_port), sessions, &opened.subscribers, &LaneCalls::new(socket)?)
}

/// The arguments, with subscribers where written packets come from: one end has one address.
fn on_capture(args: &RunArgs, node: IpAddr) -> RunArgs {
    let listen = if args.write.is_some() { capture::write_from(args, node) } else { args.listen };
    RunArgs { listen, ..args.clone() }
}

/// What this program itself did less well than asked; it belongs in the report, next to what the node did.
fn note_own_limits(args: &RunArgs, phases: &[PhaseDone], summaries: &[Summary], degraded: &mut Vec<String>) {
    if !args.carries_time() {
        degraded
            .push("no end-to-end latency: the payload has no room for a time; give --payload-bytes 8 or more".into());
    }
    let mut offered = Offered::default();
    phases.iter().for_each(|phase| offered.merge(&phase.offered));
    if offered.missed > 0 {
        let missed = offered.missed;
        degraded.push(format!("the generator did not keep up: {missed} planned frames were not offered; lower --rate"));
    }
    if offered.exhausted > 0 {
        degraded.push("a session ran out of frame numbers; give more --sessions".into());
    }
    let starved: u64 = summaries.iter().map(|summary| summary.starved).sum();
    if starved > 0 {
        degraded.push(format!("the generator had no free buffer {starved} times; give more --buffers"));
    }
}

/// Cores this process may use, and whether publishers and subscribers get threads of their own.
#[must_use]
pub fn apart(threads: Threads) -> bool {
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    match threads {
        Threads::Together => false,
        Threads::Apart => true,
        Threads::Auto => cores >= 3,
    }
}

/// The thread that gives orders.
struct Lead<'a> {
    access: Box<dyn Access>,
    opened: Opened,
    capture: Option<CapturePorts>,
    show: &'a mut dyn FnMut(&Value),
    versions: Vec<u64>,
}

impl Lead<'_> {
    /// Runs one phase and waits until the node has settled: what came of it, and the counters then.
    fn phase(
        &mut self,
        args: &RunArgs,
        index: usize,
        phase: &Phase,
        shape: Shape,
        before: &Reading,
    ) -> Result<(PhaseDone, Reading)> {
        (self.show)(&json!({ "event": "phase_begin", "phase": phase.name, "index": index, "seconds": phase.seconds }));
        let start_ns = now_ns() + HEAD_START_NS;
        self.begin(args, index, phase, shape, start_ns)?;
        self.watch(index, phase, start_ns);
        self.hand_over(args, before)?;
        let (after, still_ns) = self.settle()?;
        if after.boot_id != before.boot_id {
            bail!("the node restarted during phase `{}`, and its counters with it; nothing can be proved", phase.name);
        }
        let planned_ns = phase_ns(phase);
        // The node kept up if the first look after the end found everything seen; else its backlog took until it had.
        let late_ns = still_ns.saturating_sub(start_ns + planned_ns);
        let active_ns =
            planned_ns + if late_ns > 2 * u64::try_from(LOOK.as_nanos()).unwrap_or(0) { late_ns } else { 0 };
        let (offered, heard) = self.end()?;
        let ledgers: Ledgers = after.ledgers.since(&before.ledgers);
        let done = PhaseDone { phase: phase.clone(), offered, heard, ledgers, active_ns };
        (self.show)(&json!({
            "event": "phase_end",
            "phase": phase.name,
            "index": index,
            "offered_frames": done.offered.frames,
            "offered_messages": done.offered.messages,
            "accepted_messages": done.ledgers.messages.well,
            "ledgers": done.ledgers.json(),
        }));
        Ok((done, after))
    }

    fn begin(&self, args: &RunArgs, index: usize, phase: &Phase, shape: Shape, start_ns: u64) -> Result<()> {
        let opened = &self.opened;
        let hot = phase.hot.as_ref().and_then(|(name, share)| Some((*opened.hot_topics.get(name)?, *share)));
        let bias = Bias { sender: phase.flood, topic: hot };
        // Each phase draws from a seed of its own, so that adding a phase does not change the others.
        let seed = args.seed.wrapping_add((index as u64) << 32);
        let plan = Plan::draw(&opened.topics, args.choice, opened.senders, opened.shard_count, bias, seed);
        let plan = Arc::new(plan);
        let publishers: usize = opened.publishers.iter().sum();
        let rate = phase.rate.part(publishers);
        let wanted = args.frames_per_run.map(|frames| frames.clamp(1, shape.frames_most));
        let frames = wanted.unwrap_or_else(|| frames_per_run(rate, shape.messages, shape.frames_most));
        let end_ns = start_ns + phase_ns(phase);
        let schedule = Schedule::new(rate, frames * shape.messages, start_ns, end_ns);
        let part = |_| Part {
            schedule,
            plan: Arc::clone(&plan),
            frames_per_run: frames,
            forged: phase.forged,
            replayed: phase.replayed,
        };
        for (hand, count) in opened.hands.iter().zip(&opened.publishers) {
            hand.order(Order::Begin((0..*count).map(part).collect()))?;
        }
        Ok(())
    }

    /// Shows progress until every crew has offered all it will.
    fn watch(&mut self, index: usize, phase: &Phase, start_ns: u64) {
        let mut last = (now_ns(), self.totals());
        let wanted = index as u64 + 1;
        while self.opened.hands.iter().any(|hand| hand.gauges.phases_offered.load(Ordering::Acquire) < wanted) {
            std::thread::sleep(LOOK);
            // A thread that died offers nothing any more; the next order says so.
            if self.opened.hands.iter().any(Hand::is_gone) {
                return;
            }
            let now = now_ns();
            if now - last.0 >= PROGRESS_NS {
                let totals = self.totals();
                let since = |new: u64, old: u64| {
                    u128::from(new.saturating_sub(old)) * u128::from(SECOND_NS) / u128::from(now - last.0)
                };
                let per_second = |new, old| u64::try_from(since(new, old)).unwrap_or(u64::MAX);
                (self.show)(&json!({
                    "event": "progress",
                    "phase": phase.name,
                    "index": index,
                    "elapsed_ms": now.saturating_sub(start_ns) / 1_000_000,
                    "offered_frames": totals[0],
                    "offered_messages": totals[1],
                    "received_copies": totals[2],
                    "offered_per_second": per_second(totals[1], last.1[1]),
                    "received_per_second": per_second(totals[2], last.1[2]),
                }));
                last = (now, totals);
            }
        }
    }

    /// Frames and messages offered, and copies received, of all crews since the start.
    fn totals(&self) -> [u64; 3] {
        let mut sums = [0; 3];
        for hand in &self.opened.hands {
            let gauges = [&hand.gauges.frames, &hand.gauges.messages, &hand.gauges.copies];
            for (sum, gauge) in sums.iter_mut().zip(gauges) {
                *sum += gauge.load(Ordering::Relaxed);
            }
        }
        sums
    }

    /// Gives the node the capture, if one was written, and waits until it saw everything and its copies were read, or
    /// nothing moved for as long as it may take.
    fn hand_over(&mut self, args: &RunArgs, before: &Reading) -> Result<()> {
        let Some(capture) = self.capture.clone() else { return Ok(()) };
        capture.finish()?;
        let (mut last, mut moved) = ([0; 3], Instant::now());
        while moved.elapsed().as_secs_f64() < args.write_patience {
            capture.check()?;
            let ledgers = self.read()?.ledgers.since(&before.ledgers);
            let [offered, _, read] = self.totals();
            let (seen, given) = (ledgers.frames.total, ledgers.copies.well);
            if seen >= offered && (read >= given || args.read.is_none()) {
                break;
            }
            if [seen, given, read] != last {
                (last, moved) = ([seen, given, read], Instant::now());
            }
            std::thread::sleep(LOOK);
        }
        Ok(())
    }

    /// Waits until neither the node's counters nor ours move any more: the counters, and since when they stood still.
    fn settle(&mut self) -> Result<(Reading, u64)> {
        let start = now_ns();
        let (mut last, mut received) = (self.read()?, self.totals()[2]);
        let (mut still, mut still_ns) = (0, now_ns());
        while still < STILL_READINGS {
            std::thread::sleep(LOOK);
            let looked = now_ns();
            let (next, copies) = (self.read()?, self.totals()[2]);
            if next.ledgers.settled(&last.ledgers) && copies == received {
                still += 1;
            } else {
                (still, still_ns) = (0, looked);
            }
            (last, received) = (next, copies);
            if now_ns() - start > SETTLE_NS {
                break; // The ledgers say what is still held, and the proof charges it.
            }
        }
        Ok((last, still_ns))
    }

    fn read(&mut self) -> Result<Reading> {
        let reading = self.access.read()?;
        if self.versions.last() != Some(&reading.ruleset_version) {
            self.versions.push(reading.ruleset_version);
        }
        Ok(reading)
    }

    /// Ends a phase: what everybody offered and heard in it.
    fn end(&self) -> Result<(Offered, Vec<Heard>)> {
        let (mut sum, mut all) = (Offered::default(), Vec::new());
        for hand in &self.opened.hands {
            hand.order(Order::End)?;
            match hand.reports.recv().context("a load thread ended before its report")? {
                Report::Phase(offered, heard) => {
                    offered.iter().for_each(|part| sum.merge(part));
                    all.extend(heard);
                }
                Report::Final(_) => bail!("a load thread went home early"),
            }
        }
        Ok((sum, all))
    }

    /// Ends threads, subscriptions and sessions.
    fn close(mut self) -> Result<()> {
        for subscriber in &self.opened.subscribers {
            self.access.unsubscribe(*subscriber)?;
        }
        for session in &self.opened.sessions {
            self.access.close_session(*session)?;
        }
        self.opened.hands.into_iter().try_for_each(Hand::dismiss)
    }
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "checked to be above 0 and at most a day")]
fn phase_ns(phase: &Phase) -> u64 {
    (phase.seconds * SECOND_NS as f64) as u64
}
