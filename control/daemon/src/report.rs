//! Counters of the node as messages of the interface.

use crate::{
    lanes::Seen,
    refusal::Refusal,
    routes::{RouteEntry, RouteTable},
    state::State,
};
use rustix::time::{ClockId, clock_gettime};
use std::{collections::BTreeMap, sync::Arc};
use tachyon_proto::v1::{
    self, Activity, Bucket, CopyLedger, Drop, DropsResponse, FrameLedger, Histogram, Ledgers, MessageLedger, Node,
    Route, StatsResponse, Worker,
};
use tachyon_segment::{
    StatsReader, WorkerState,
    handover::{FilterState, FilterStatus, Hello, PortState, PortStatus},
};
use tachyon_wire::{
    Ledger, Reason,
    counters::{self, Counters, HISTOGRAM_BUCKETS, ROUTES_COUNTED, RouteCounters, WorkerStats},
    reason::REASON_SLOTS,
};
use zerocopy::{FromBytes, IntoBytes};

/// Everything that the workers publish, read at once.
#[derive(Debug)]
pub(crate) struct Reading {
    hello: Arc<Hello>,
    read_ns: u64,
    total: Box<WorkerStats>,
    workers: Vec<Worker>,
}

impl Reading {
    /// Reads the counters of the connected node.
    ///
    /// # Errors
    /// A worker's counters stay half written: it was stopped or killed.
    pub(crate) fn take(hello: Arc<Hello>, stats: &StatsReader) -> Result<Self, Refusal> {
        let zero = RouteCounters::default();
        let mut total = Box::new(WorkerStats {
            counters: Counters::ZERO,
            residence: counters::Histogram::ZERO,
            routes: [zero; ROUTES_COUNTED],
        });
        let mut workers = Vec::new();
        for worker in 0..stats.workers() {
            let unreadable = |error| Refusal::Unavailable(format!("worker {worker}: {error}"));
            let read = stats.read(worker).map_err(unreadable)?;
            let status = stats.status(worker).map_err(unreadable)?;
            add(&mut total, &read);
            workers.push(Worker {
                worker: worker.into(),
                ledgers: Some(ledgers(&read.counters)),
                activity: Some(activity(&read.counters)),
                ruleset_version: read.counters.ruleset_version,
                pressure: u32::try_from(read.counters.pressure).unwrap_or(u32::MAX),
                tick_ns: read.counters.tick,
                residence: Some(histogram(&read.residence)),
                state: state_name(status.state).to_owned(),
                restarts: status.restarts,
                heap_calls: status.heap_calls,
            });
        }
        let now = clock_gettime(ClockId::Monotonic);
        let read_ns = now.tv_sec.cast_unsigned() * 1_000_000_000 + now.tv_nsec.cast_unsigned();
        Ok(Self { hello, read_ns, total, workers })
    }

    /// The ledgers of all workers together.
    #[must_use]
    pub(crate) fn ledgers(&self) -> Ledgers {
        ledgers(&self.total.counters)
    }

    /// Every reason, and before them what the pre-filters did.
    #[must_use]
    pub(crate) fn drops(&self, filters: &[FilterStatus]) -> DropsResponse {
        let counters = &self.total.counters;
        let drop = |reason: &Reason| Drop {
            number: reason.number().into(),
            code: reason.code().to_owned(),
            ledger: ledger_name(reason.ledger()).to_owned(),
            frames: counters.frames_refused[reason.index()],
            messages: counters.messages_refused[reason.index()],
            copies: counters.copies_refused[reason.index()],
            help: reason.help().to_owned(),
        };
        DropsResponse {
            drops: Reason::ALL.iter().map(drop).collect(),
            boot_id: boot_id(&self.hello),
            filters: filters.iter().map(filter_ledger).collect(),
        }
    }

    /// Everything. `routes` come from [`route_names`].
    #[must_use]
    pub(crate) fn stats(self, routes: Vec<Route>) -> StatsResponse {
        let counted = |mut route: Route| {
            let index = (route.index as usize).min(ROUTES_COUNTED - 1);
            let RouteCounters { accepted, due, given, refused } = self.total.routes[index];
            (route.accepted, route.due, route.given, route.refused) = (accepted, due, given, refused);
            route
        };
        StatsResponse {
            boot_id: boot_id(&self.hello),
            read_ns: self.read_ns,
            ledgers: Some(self.ledgers()),
            activity: Some(activity(&self.total.counters)),
            residence: Some(histogram(&self.total.residence)),
            routes: routes.into_iter().map(counted).collect(),
            workers: self.workers,
        }
    }
}

/// Routes as a person knows them, counts still zero. Those that are counted together are one.
#[must_use]
pub(crate) fn route_names(state: &State, table: &RouteTable, seen: &Seen) -> Vec<Route> {
    let last = ROUTES_COUNTED - 1;
    let single = table.routes.iter().take(last).zip(0..).map(|(entry, index)| route(state, seen, entry, index));
    let mut routes: Vec<Route> = single.collect();
    if let Some(rest) = table.routes.get(last..).filter(|rest| !rest.is_empty()) {
        let index = u32::try_from(last).unwrap_or(u32::MAX);
        match rest {
            [only] => routes.push(route(state, seen, only, index)),
            _ => routes.push(Route { index, topics: rest.iter().map(|entry| entry.topics).sum(), ..Route::default() }),
        }
    }
    routes
}

fn route(state: &State, seen: &Seen, entry: &RouteEntry, index: u32) -> Route {
    let endpoint = |slot: &u32| Some(state.subscribers.get(slot)?.at().to_string());
    let workers = state.link.as_ref().map_or(0, |link| link.hello.workers);
    let carrier = |slot: &u32| {
        let subscriber = state.subscribers.get(slot)?;
        Some(seen.carrier(&subscriber.lanes, subscriber.at(), workers).to_owned())
    };
    let example = (entry.example as usize).checked_sub(1).and_then(|index| state.topics.get(index));
    Route {
        index,
        route_id: entry.route_id,
        endpoints: entry.subscribers.iter().map(|slot| endpoint(slot).unwrap_or_default()).collect(),
        lanes: entry.subscribers.iter().map(|slot| carrier(slot).unwrap_or_default()).collect(),
        subscribers: entry.subscribers.clone(),
        topics: entry.topics,
        example_topic: example.cloned().unwrap_or_default(),
        ..Route::default()
    }
}

/// The facts of a start of `tachyond`.
#[must_use]
pub(crate) fn node(hello: &Hello) -> Node {
    Node {
        boot_id: boot_id(hello),
        boot_number: hello.boot_number.into(),
        workers: hello.workers.into(),
        shard_count: hello.shard_count.into(),
        base_port: hello.listen.port.get().into(),
        addresses: addresses(hello),
        sessions_max: hello.sessions_max,
        frame_bytes_max: hello.frame_bytes_max,
        driver: hello.driver.clone(),
    }
}

/// Where frames are taken. The caller is on the same host, so where every address of it serves, loopback is told.
#[must_use]
pub(crate) fn addresses(hello: &Hello) -> Vec<String> {
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
    let ip = Ipv6Addr::from(hello.listen.ip);
    let every = ip.to_ipv4_mapped().is_some_and(|v4| v4.is_unspecified());
    match ip {
        _ if every => vec![Ipv4Addr::LOCALHOST.to_string()],
        _ if ip.is_unspecified() => vec![Ipv4Addr::LOCALHOST.to_string(), Ipv6Addr::LOCALHOST.to_string()],
        _ => vec![IpAddr::from(ip).to_canonical().to_string()],
    }
}

/// A port.
#[must_use]
pub(crate) fn port(port: PortStatus) -> v1::Port {
    let mac = port.mac.map(|mac| mac.map(|byte| format!("{byte:02x}")).join(":"));
    let state = match port.state {
        PortState::Ready => "ready",
        PortState::LinkDown => "link_down",
        PortState::Stopped => "stopped",
        PortState::Waiting => "waiting",
        PortState::Failed => "failed",
    };
    v1::Port {
        name: port.name,
        driver: port.driver,
        device: port.device,
        state: state.to_owned(),
        why: port.why,
        mac: mac.unwrap_or_default(),
        speed_mbps: port.speed_mbps,
        mtu: port.mtu,
        numa_node: port.numa_node,
        queues: port.queues.into(),
        steering: port.steering,
        addresses: port.addresses,
        counters: port.counters.into_iter().map(|(name, value)| v1::PortCounter { name, value }).collect(),
        counters_total: port.counters_total,
    }
}

/// A pre-filter.
#[must_use]
pub(crate) fn filter(filter: &FilterStatus) -> v1::Filter {
    let state = match filter.state {
        FilterState::Native => "native",
        FilterState::Generic => "generic",
        FilterState::Detached => "detached",
        FilterState::Failed => "failed",
    };
    v1::Filter {
        interface: filter.interface.clone(),
        state: state.to_owned(),
        why: filter.why.clone(),
        program_id: filter.program_id,
        version: filter.version,
        instructions: filter.instructions,
        code_bytes: filter.code_bytes,
        run_ns: filter.run_ns,
        runs: filter.runs,
        sessions: filter.sessions,
        prefixes: filter.prefixes,
        topic_blocks: filter.topic_blocks,
        ledger: Some(filter_ledger(filter)),
    }
}

/// What a pre-filter counted. A count at a number that no reason has is told too, as in [`reasons`].
fn filter_ledger(filter: &FilterStatus) -> v1::FilterLedger {
    let told = |(frames, number): (&u64, u8)| {
        let reason = Reason::from_number(number);
        let unknown = "tachyond is newer than tachyon-control; install the same version of both";
        v1::FilterDrop {
            number: number.into(),
            code: code(number),
            frames: *frames,
            help: reason.map_or(unknown, Reason::help).to_owned(),
        }
    };
    let dropped = filter.dropped.iter().zip(0_u8..).filter(|(frames, _)| **frames > 0).map(told);
    let passed = [filter.passed_foreign, filter.passed_ours, filter.redirected];
    let ended = passed.iter().chain(&filter.dropped).fold(0_u64, |sum, frames| sum.saturating_add(*frames));
    v1::FilterLedger {
        interface: filter.interface.clone(),
        seen: filter.seen,
        passed_foreign: filter.passed_foreign,
        passed_ours: filter.passed_ours,
        redirected: filter.redirected,
        dropped: dropped.collect(),
        unaccounted: filter.seen.abs_diff(ended),
    }
}

pub(crate) fn boot_id(hello: &Hello) -> String {
    hello.boot_id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Adds a worker to the total. Every counter is a `u64`, so they add up as words.
fn add(total: &mut WorkerStats, worker: &WorkerStats) {
    let into = <[u64]>::mut_from_bytes(total.counters.as_mut_bytes()).unwrap_or_default();
    let from = <[u64]>::ref_from_bytes(worker.counters.as_bytes()).unwrap_or_default();
    into.iter_mut().zip(from).for_each(|(sum, value)| *sum = sum.wrapping_add(*value));
    total.residence.merge(&worker.residence);
    for (sum, route) in total.routes.iter_mut().zip(&worker.routes) {
        sum.accepted += route.accepted;
        sum.due += route.due;
        sum.given += route.given;
        sum.refused += route.refused;
    }
}

fn ledgers(counters: &Counters) -> Ledgers {
    let unaccounted = counters.unaccounted().iter().map(|gap| gap.unsigned_abs()).sum();
    Ledgers {
        frames: Some(FrameLedger {
            seen: counters.frames_seen,
            admitted: counters.frames_admitted,
            reasons: reasons(&counters.frames_refused),
        }),
        messages: Some(MessageLedger {
            seen: counters.messages_seen,
            accepted: counters.messages_accepted,
            reasons: reasons(&counters.messages_refused),
        }),
        copies: Some(CopyLedger {
            due: counters.copies_due,
            given: counters.copies_given,
            held: counters.copies_held,
            reasons: reasons(&counters.copies_refused),
        }),
        unaccounted,
    }
}

/// By code. A count at a number that no reason has is shown too, since hiding it would break the sums.
fn reasons(counts: &[u64; REASON_SLOTS]) -> BTreeMap<String, u64> {
    counts.iter().zip(0_u8..).filter(|(count, _)| **count > 0).map(|(count, number)| (code(number), *count)).collect()
}

fn code(number: u8) -> String {
    Reason::from_number(number).map_or_else(|| format!("E_UNKNOWN_{number}"), |reason| reason.code().to_owned())
}

const fn activity(counters: &Counters) -> Activity {
    Activity {
        quarantined: counters.quarantined,
        bursts: counters.bursts,
        turns: counters.turns,
        bytes_received: counters.bytes_received,
        bytes_sent: counters.bytes_sent,
        frames_sent: counters.frames_sent,
        replies_sent: counters.replies_sent,
        replies_lost: counters.replies_lost,
        syscalls: counters.syscalls,
        socket_overflow: counters.socket_overflow,
        receive_starved: counters.receive_starved,
        ruleset_swaps: counters.ruleset_swaps,
        buffers_free: counters.buffers_free,
    }
}

fn histogram(counted: &counters::Histogram) -> Histogram {
    let highest = |index: usize| match index + 1 {
        HISTOGRAM_BUCKETS => counted.max,
        next => counters::Histogram::lowest(next) - 1,
    };
    let bucket = |(index, count): (usize, &u64)| Bucket {
        lowest: counters::Histogram::lowest(index),
        highest: highest(index),
        count: *count,
    };
    Histogram {
        count: counted.buckets.iter().sum(),
        p50: counted.quantile(500),
        p99: counted.quantile(990),
        p999: counted.quantile(999),
        max: counted.max,
        buckets: counted.buckets.iter().enumerate().filter(|(_, count)| **count > 0).map(bucket).collect(),
    }
}

const fn ledger_name(ledger: Ledger) -> &'static str {
    match ledger {
        Ledger::Frames => "frames",
        Ledger::Messages => "messages",
        Ledger::Copies => "copies",
        Ledger::Reader => "reader",
        Ledger::Prefilter => "prefilter",
        Ledger::Any => "any",
    }
}

const fn state_name(state: WorkerState) -> &'static str {
    match state {
        WorkerState::Starting => "starting",
        WorkerState::Running => "running",
        WorkerState::Down => "down",
    }
}
