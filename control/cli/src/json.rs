//! The JSON of what control answers. Names are those of the protobuf interface; they are stable.

use serde_json::{Map, Value, json};
use tachyon_proto::v1;

/// The three ledgers: totals, and in each `reasons` from code to count.
pub(crate) fn ledgers(ledgers: &v1::Ledgers) -> Value {
    let frames = ledgers.frames.clone().unwrap_or_default();
    let messages = ledgers.messages.clone().unwrap_or_default();
    let copies = ledgers.copies.clone().unwrap_or_default();
    json!({
        "frames": { "seen": frames.seen, "admitted": frames.admitted, "reasons": frames.reasons },
        "messages": { "seen": messages.seen, "accepted": messages.accepted, "reasons": messages.reasons },
        "copies": { "due": copies.due, "given": copies.given, "held": copies.held, "reasons": copies.reasons },
        "unaccounted": ledgers.unaccounted,
    })
}

pub(crate) fn activity(activity: &v1::Activity) -> Value {
    json!({
        "quarantined": activity.quarantined,
        "bursts": activity.bursts,
        "turns": activity.turns,
        "bytes_received": activity.bytes_received,
        "bytes_sent": activity.bytes_sent,
        "frames_sent": activity.frames_sent,
        "replies_sent": activity.replies_sent,
        "replies_lost": activity.replies_lost,
        "syscalls": activity.syscalls,
        "socket_overflow": activity.socket_overflow,
        "receive_starved": activity.receive_starved,
        "ruleset_swaps": activity.ruleset_swaps,
        "buffers_free": activity.buffers_free,
    })
}

/// Nanoseconds. The buckets stay out: `top` subtracts them, a person does not.
pub(crate) fn histogram(histogram: &v1::Histogram) -> Value {
    json!({
        "count": histogram.count,
        "p50": histogram.p50,
        "p99": histogram.p99,
        "p999": histogram.p999,
        "max": histogram.max,
    })
}

pub(crate) fn worker(worker: &v1::Worker) -> Value {
    json!({
        "worker": worker.worker,
        "state": worker.state,
        "restarts": worker.restarts,
        "heap_calls": worker.heap_calls,
        "ruleset_version": worker.ruleset_version,
        "pressure": worker.pressure,
        "tick_ns": worker.tick_ns,
        "ledgers": worker.ledgers.as_ref().map(ledgers),
        "activity": worker.activity.as_ref().map(activity),
        "residence_ns": worker.residence.as_ref().map(histogram),
    })
}

pub(crate) fn route(route: &v1::Route) -> Value {
    json!({
        "index": route.index,
        "route_id": route.route_id,
        "subscribers": route.subscribers,
        "endpoints": route.endpoints,
        "lanes": route.lanes,
        "topics": route.topics,
        "example_topic": route.example_topic,
        "accepted": route.accepted,
        "due": route.due,
        "given": route.given,
        "refused": route.refused,
    })
}

/// `lane` as routes name it; `session_id` and `subscriber` are null where it is not theirs.
pub(crate) fn lane(lane: &v1::LaneStatus) -> Value {
    use v1::lane_status::Owner;
    let (session_id, subscriber) = match lane.owner {
        Some(Owner::SessionId(id)) => (Some(id), None),
        Some(Owner::Subscriber(slot)) => (None, Some(slot)),
        None => (None, None),
    };
    json!({
        "worker": lane.worker,
        "session_id": session_id,
        "subscriber": subscriber,
        "endpoint": lane.endpoint,
        "lane": crate::lanes::carrier(lane),
        "state": lane.state,
        "why": lane.why,
        "attempts": lane.attempts,
        "fell_back": lane.fell_back,
    })
}

/// What is not known is null.
pub(crate) fn filter(filter: &v1::Filter) -> Value {
    json!({
        "interface": filter.interface,
        "mode": filter.state,
        "why": filter.why,
        "program_id": Some(filter.program_id).filter(|id| *id != 0),
        "version": filter.version,
        "instructions": filter.instructions,
        "code_bytes": filter.code_bytes,
        "ns_per_packet": crate::prefilter::ns_per_packet(filter),
        "run_ns": filter.run_ns,
        "runs": filter.runs,
        "sessions": filter.sessions,
        "prefixes": filter.prefixes,
        "topic_blocks": filter.topic_blocks,
        "ledger": filter.ledger.as_ref().map(filter_ledger),
    })
}

/// What is not there yet is null: `checkpoint` before the first one, `refuses` while messages are taken.
pub(crate) fn log(log: &v1::LogStatus) -> Value {
    let shard = |shard: &v1::LogShard| {
        let checkpoint = (shard.checkpoint_unix_s > 0)
            .then(|| json!({ "records": shard.checkpoint_records, "unix_s": shard.checkpoint_unix_s }));
        json!({
            "shard": shard.shard,
            "state": shard.state,
            "why": shard.why,
            "written": shard.written,
            "durable": shard.durable,
            "loss_window_ms": shard.loss_window_ms,
            "bytes": shard.bytes,
            "checkpoint": checkpoint,
        })
    };
    let worker = |worker: &v1::LogWorker| {
        json!({
            "worker": worker.worker,
            "turns": worker.turns,
            "turns_lost": worker.turns_lost,
            "ring_bytes": worker.ring_bytes,
            "ring_used_bytes": worker.ring_used_bytes,
            "refuses": Some(&worker.refuses).filter(|refuses| !refuses.is_empty()),
            "why": worker.why,
        })
    };
    json!({
        "directory": log.directory,
        "problem": log.problem,
        "shards": log.shards.iter().map(shard).collect::<Vec<_>>(),
        "workers": log.workers.iter().map(worker).collect::<Vec<_>>(),
    })
}

/// In it `seen` is the sum of what passed, what was redirected and what was dropped.
pub(crate) fn filter_ledger(ledger: &v1::FilterLedger) -> Value {
    let dropped = |drop: &v1::FilterDrop| {
        json!({
            "code": drop.code,
            "number": drop.number,
            "count": drop.frames,
            "help": crate::prefilter::help(drop),
        })
    };
    json!({
        "interface": ledger.interface,
        "seen": ledger.seen,
        "passed_foreign": ledger.passed_foreign,
        "passed_ours": ledger.passed_ours,
        "redirected": ledger.redirected,
        "dropped": ledger.dropped.iter().map(dropped).collect::<Vec<_>>(),
        "unaccounted": ledger.unaccounted,
    })
}

/// What is not known is null; counters stand by name.
pub(crate) fn port(port: &v1::Port) -> Value {
    let counters: Map<String, Value> =
        port.counters.iter().map(|counter| (counter.name.clone(), counter.value.into())).collect();
    json!({
        "name": port.name,
        "driver": port.driver,
        "device": port.device,
        "state": port.state,
        "why": port.why,
        "mac": Some(&port.mac).filter(|mac| !mac.is_empty()),
        "speed_mbps": port.speed_mbps,
        "mtu": port.mtu,
        "numa_node": port.numa_node,
        "queues": port.queues,
        "steering": port.steering,
        "addresses": port.addresses,
        "counters": counters,
        "counters_total": port.counters_total,
    })
}

pub(crate) fn problems(problems: &[v1::Problem]) -> Value {
    let problem = |problem: &v1::Problem| {
        json!({
            "line": problem.line,
            "column": problem.column,
            "message": problem.message,
            "help": problem.help,
        })
    };
    problems.iter().map(problem).collect()
}

pub(crate) fn summary(summary: &v1::RulesSummary) -> Value {
    json!({
        "topic_rules": summary.topic_rules,
        "identities": summary.identities,
        "topics_known": summary.topics_known,
        "topics_unmatched": summary.topics_unmatched,
        "sessions_ended": summary.sessions_ended,
        "image_bytes": summary.image_bytes,
    })
}
