//! One worker's thread: what the engine needs from its host, and the loop around the engine's turn.

use crate::{
    alloc_seal::{self, Seal},
    ports::PortSeat,
    sandbox::{self, Sandbox},
    taps::NodeTap,
    topology::{self, WorkerPlan},
};
use rtrb::{Consumer, Producer};
use seccompiler::BpfProgram;
use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
        mpsc,
    },
    thread::{self, JoinHandle},
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tachyon_config::{Idle, WorkersSection};
use tachyon_driver_api::{Pool, Port, PortInfo, RxQueue, TxQueue};
use tachyon_engine::{Host, Limits, Memory, Work, Worker};
use tachyon_policy::Verified;
use tachyon_segment::{SealedImage, StatsWriter};
use tachyon_wire::{
    Message, Reason,
    command::{Command, Demand},
    counters::WorkerStats,
};

/// A ruleset that housekeeping checked. Housekeeping keeps each one until every worker has given it back, so that the
/// last one to let go, and thus to unmap, is never a worker.
pub(crate) type Image = Arc<Verified<SealedImage>>;

/// What housekeeping sends a worker. One ring for both, so that a worker sees them in the order in which control sent
/// them: a subscriber is there before the ruleset that names it.
#[derive(Debug)]
pub(crate) enum Item {
    /// A command.
    Command(Command),
    /// The ruleset from here on.
    Image(Image),
}

/// What a worker's thread says of itself beside its counters.
#[derive(Debug, Default)]
pub(crate) struct Gauges {
    /// Times it used the heap while sealed.
    pub(crate) heap_calls: AtomicU64,
    /// Times its loop went on after a panic.
    pub(crate) restarts: AtomicU64,
}

/// The worker's ends of the rings, and its page of the statistics segment.
#[derive(Debug)]
pub(crate) struct NodeHost {
    pub(crate) items: Consumer<Item>,
    pub(crate) retired: Producer<Image>,
    pub(crate) demands: Producer<Demand>,
    pub(crate) quarantine: Producer<(Message, u8)>,
    pub(crate) stats: StatsWriter,
    pub(crate) gauges: Arc<Gauges>,
    pub(crate) current: Option<Image>,
}

impl NodeHost {
    /// Brings a ruleset into force and gives the last one back.
    fn adopt(&mut self, image: Image) {
        if let Some(old) = self.current.replace(image) {
            let given_back = self.retired.push(old);
            debug_assert!(given_back.is_ok(), "`command` made sure that there is room");
        }
    }
}

impl Host for NodeHost {
    type Image = SealedImage;

    #[inline]
    fn ruleset(&mut self) -> Result<&Verified<SealedImage>, Reason> {
        self.current.as_deref().ok_or(Reason::RulesetUnavailable)
    }

    /// Rulesets are adopted here and not in `ruleset`, so that within a turn every look at it sees the same one.
    #[inline]
    fn command(&mut self) -> Option<Command> {
        loop {
            if self.retired.is_full() {
                return None; // housekeeping empties it within its interval
            }
            match self.items.pop().ok()? {
                Item::Command(command) => return Some(command),
                Item::Image(image) => self.adopt(image),
            }
        }
    }

    fn demand(&mut self, demand: Demand) {
        // A word that finds no room is said again after the next refusal.
        let _ = self.demands.push(demand);
    }

    fn quarantine(&mut self, message: &Message, reason: u8) -> bool {
        self.quarantine.push((*message, reason)).is_ok()
    }

    #[inline]
    fn publish(&mut self, stats: &WorkerStats, whole: bool) {
        if whole {
            self.stats.publish_all(stats);
            self.gauges.heap_calls.store(alloc_seal::calls(), Ordering::Relaxed);
        } else {
            self.stats.publish_ledgers(&stats.counters);
        }
    }
}

/// The node's clock: nanoseconds of CLOCK_MONOTONIC since one second before the node's start, so that no tick is 0.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Clock {
    origin: Instant,
    unix_offset_ns: u64,
}

/// How far before the start ticks begin.
const HEAD_START: Duration = Duration::from_secs(1);

impl Clock {
    pub(crate) fn start() -> Self {
        let unix = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        Self { origin: Instant::now(), unix_offset_ns: nanoseconds(unix.saturating_sub(HEAD_START)) }
    }

    /// What to add to a tick to get Unix nanoseconds; follows no correction of the wall clock after the start.
    pub(crate) const fn unix_offset_ns(&self) -> u64 {
        self.unix_offset_ns
    }

    #[inline]
    pub(crate) fn tick_ns(&self) -> u64 {
        nanoseconds(self.origin.elapsed() + HEAD_START)
    }
}

#[inline]
fn nanoseconds(duration: Duration) -> u64 {
    duration.as_secs() * 1_000_000_000 + u64::from(duration.subsec_nanos())
}

/// What an idle worker does, in the loop's units.
#[derive(Clone, Copy, Debug)]
struct Rest {
    spin_ns: u64,
    /// `None`: never sleeps.
    wait_ns: Option<u64>,
}

impl Rest {
    fn new(workers: &WorkersSection) -> Self {
        let wait_ns = match workers.idle {
            Idle::Spin => None,
            Idle::Wait => Some(u64::from(workers.idle_wait_us) * 1_000),
        };
        Self { spin_ns: u64::from(workers.idle_spin_us) * 1_000, wait_ns }
    }
}

/// What all workers share.
#[derive(Clone, Debug)]
pub(crate) struct Common {
    pub(crate) clock: Clock,
    pub(crate) stop: Arc<AtomicBool>,
    pub(crate) sandbox: Sandbox,
    pub(crate) filter: Arc<BpfProgram>,
    pub(crate) workers: WorkersSection,
}

/// All that one worker is started with, beside its port.
#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) plan: WorkerPlan,
    pub(crate) limits: Limits,
    pub(crate) pool: Pool,
    pub(crate) host: NodeHost,
    pub(crate) tap: NodeTap,
}

/// What a worker's thread says once it is in its loop.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) info: PortInfo,
    /// What is degraded besides the port.
    pub(crate) degraded: Vec<String>,
}

/// How a worker's thread ended.
#[derive(Debug)]
pub(crate) enum End {
    /// It was told to stop.
    Stopped,
    /// It panicked, and said this.
    Panicked(String),
}

/// Panics after which a worker stays down: it is not a burst that is wrong then, and every turn is charged to a panic.
const RESTARTS_MAX: u64 = 1_000;

/// Silence after which a spinning worker asks its sockets for drops, ns. It costs a system call for each, so it is longer
/// than any gap in traffic, and short enough for whoever waits for the ledgers to add up.
const SILENCE_NS: u64 = 10_000_000;

/// Time for frames that are on their way to leave when the node stops.
const DRAIN: Duration = Duration::from_millis(100);

/// What a worker's thread says while it is waited for.
type Say = mpsc::SyncSender<anyhow::Result<Opened>>;

/// Starts a worker's thread and waits until it is in its loop or says why not.
pub(crate) fn start(port: PortSeat, seat: Seat, common: &Common) -> anyhow::Result<(Opened, JoinHandle<End>)> {
    let (say, hear) = mpsc::sync_channel(1);
    let common = common.clone();
    let name = format!("worker-{}", seat.plan.worker);
    let thread = thread::Builder::new().name(name).spawn(move || live(port, seat, &common, &say))?;
    match hear.recv() {
        Ok(opened) => opened.map(|opened| (opened, thread)),
        Err(_) => anyhow::bail!("a worker's thread ended before it was open"),
    }
}

/// The engine's loop with all that a node gives it.
type Loop<'a, Q> = Worker<'a, Q, NodeHost, NodeTap>;

/// The whole life of a worker's thread.
fn live(port: PortSeat, seat: Seat, common: &Common, say: &Say) -> End {
    match open(port, seat, common) {
        Ok((opened, worker)) => {
            let _ = say.send(Ok(opened));
            run(worker, common)
        }
        Err(error) => {
            let _ = say.send(Err(error));
            End::Stopped
        }
    }
}

/// On the worker's thread: pins it, takes its memory, opens its queue, gives up what it needs no more.
fn open<'a>(
    mut port: PortSeat,
    seat: Seat,
    common: &Common,
) -> anyhow::Result<(Opened, Loop<'a, <PortSeat as Port>::Queue>)> {
    let Seat { plan, limits, mut pool, host, tap } = seat;
    let mut degraded = Vec::new();
    if let Some(cpu) = plan.cpu
        && let Err(error) = topology::pin(cpu)
    {
        degraded.push(format!("worker {} is not pinned to core {cpu}: {error}", plan.worker));
    }
    let memory = Memory::leak(&limits); // after pinning, so that first touch puts it on the right node
    let queue = port.open(limits.shards, &mut pool)?;
    degraded.extend(common.sandbox.enter()?);
    if let Err(error) = sandbox::apply(&common.filter) {
        degraded.push(format!("workers are not confined to their system calls: {error}"));
    }
    let opened = Opened { info: port.info(), degraded };
    Ok((opened, Worker::with_tap(limits, memory, pool, queue, host, tap)))
}

/// The loop, and what is left to do after it.
fn run<Q: RxQueue + TxQueue>(mut worker: Loop<'_, Q>, common: &Common) -> End {
    let rest = Rest::new(&common.workers);
    alloc_seal::seal(if common.workers.strict_heap { Seal::Strict } else { Seal::Counted });
    let gauges = worker.host().gauges.clone();
    let mut restarts = 0;
    let end = loop {
        let end = catch_unwind(AssertUnwindSafe(|| {
            turn_until_stopped(&mut worker, common, rest);
            drain(&mut worker, common);
        }));
        match end {
            Err(_) if restarts < RESTARTS_MAX => {
                restarts += 1;
                worker.recover();
                gauges.restarts.store(restarts, Ordering::Relaxed);
            }
            end => break end,
        }
    };
    alloc_seal::seal(Seal::Open);
    let stats = *worker.stats();
    worker.host().publish(&stats, true);
    match end {
        Ok(()) => End::Stopped,
        Err(panic) => End::Panicked(panic_text(&*panic)),
    }
}

fn turn_until_stopped<Q: RxQueue + TxQueue>(worker: &mut Loop<'_, Q>, common: &Common, rest: Rest) {
    let mut busy_at = common.clock.tick_ns();
    let mut told = false;
    while !common.stop.load(Ordering::Relaxed) {
        let now = common.clock.tick_ns();
        let work = worker.poll(now);
        if !is_quiet(work) {
            (busy_at, told) = (now, false);
            continue;
        }
        match rest.wait_ns {
            Some(wait_ns) if now - busy_at >= rest.spin_ns => {
                if !told {
                    told = true; // nothing changes while it sleeps, so readers shall see all of it
                    publish_whole(worker);
                }
                worker.wait(wait_ns);
            }
            // After a long silence the device is asked once what it dropped at the end.
            None if !told && now - busy_at >= SILENCE_NS => {
                told = true;
                worker.wait(0);
            }
            _ => core::hint::spin_loop(),
        }
    }
}

fn is_quiet(work: Work) -> bool {
    work.idle && work.received == 0 && work.sent == 0 && work.completed == 0
}

fn publish_whole<Q: RxQueue + TxQueue>(worker: &mut Loop<'_, Q>) {
    let stats = *worker.stats();
    worker.host().publish(&stats, true);
}

/// Lets what is open, queued or in flight leave, for a while.
fn drain<Q: RxQueue + TxQueue>(worker: &mut Loop<'_, Q>, common: &Common) {
    let end = Instant::now() + DRAIN;
    while Instant::now() < end {
        let work = worker.poll(common.clock.tick_ns());
        if is_quiet(work) && worker.stats().counters.copies_held == 0 {
            return;
        }
    }
}

fn panic_text(panic: &(dyn std::any::Any + Send)) -> String {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it said nothing").to_owned()
}
