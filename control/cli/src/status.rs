//! `tachyon status`: the state of the node.

use crate::{
    arguments::Form,
    connection::Connection,
    failure::{Exit, Failure},
    json, output, ports,
    table::{Paint, Side, Table, count, duration, nanoseconds, plural},
};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use tachyon_proto::v1;

pub(crate) async fn run(connection: &mut Connection, form: Form) -> Result<(), Failure> {
    let status = connection.status().await?;
    let stats = match connection.stats().await {
        Ok(stats) => Some(stats),
        // Without tachyond there are no counters, and this command is the one that says so.
        Err(failure) if failure.exit == Exit::Unreachable => None,
        Err(failure) => return Err(failure),
    };
    let workers = stats.map(|stats| stats.workers).unwrap_or_default();
    // Whatever is wrong with the ports alone, `tachyon ports` says it; the rest is no less worth knowing.
    let ports = connection.list_ports().await.map(|answer| answer.ports).unwrap_or_default();
    if form.json {
        output::json(&described(&status, &workers, &ports));
    } else {
        output::data(text(&status, &workers, &ports, Paint::detect()));
    }
    Ok(())
}

fn described(status: &v1::StatusResponse, workers: &[v1::Worker], ports: &[v1::Port]) -> Value {
    let node = status.node.as_ref();
    json!({
        "version": status.version,
        "control_uptime_s": status.control_uptime_s,
        "data_plane": { "connected": status.connected, "problem": status.connection_problem },
        "driver": node.map(|node| &node.driver),
        "drivers": node.map(|node| node.driver.split(", ").collect::<Vec<_>>()),
        "boot_id": node.map(|node| &node.boot_id),
        "boot_number": node.map(|node| node.boot_number),
        "shard_count": node.map(|node| node.shard_count),
        "base_port": node.map(|node| node.base_port),
        "addresses": node.map(|node| &node.addresses),
        "sessions_max": node.map(|node| node.sessions_max),
        "frame_bytes_max": node.map(|node| node.frame_bytes_max),
        "workers": workers.iter().map(json::worker).collect::<Vec<_>>(),
        "ports": ports.iter().map(json::port).collect::<Vec<_>>(),
        "ruleset_version": status.ruleset_version,
        "ruleset_in_force": status.ruleset_in_force,
        "ruleset_problem": status.ruleset_problem,
        "topics": status.topics,
        "sessions": status.sessions,
        "subscribers": status.subscribers,
        "identities": status.identities,
        "ledgers": status.ledgers.as_ref().map(json::ledgers),
        "log": status.log.as_ref().map(json::log),
        "degraded": status.degraded,
    })
}

fn text(status: &v1::StatusResponse, workers: &[v1::Worker], ports: &[v1::Port], paint: Paint) -> String {
    let mut lines = vec![
        ("control", format!("version {}, up for {}", status.version, duration(status.control_uptime_s))),
        ("data plane", data_plane(status, paint)),
    ];
    if let Some(node) = &status.node {
        lines.push(("takes frames", takes(node)));
        lines.push(("boot", format!("{} (number {})", node.boot_id, node.boot_number)));
    }
    for (position, port) in ports.iter().enumerate() {
        lines.push((if position == 0 { "ports" } else { "" }, ports::line(port, paint)));
    }
    lines.push(("ruleset", ruleset(status, paint)));
    lines.push(("registered", registered(status)));
    if let Some(ledgers) = &status.ledgers {
        lines.extend(ledger_lines(ledgers, paint));
    }
    if let Some(log) = &status.log {
        lines.push(("truth log", log_line(log, paint)));
    }
    for (position, degraded) in status.degraded.iter().enumerate() {
        lines.push((if position == 0 { "degraded" } else { "" }, paint.bad(degraded)));
    }
    let mut text: String = lines.iter().map(|(name, value)| format!("{name:<12}  {value}\n")).collect();
    if !workers.is_empty() {
        text.push('\n');
        text.push_str(&worker_table(workers).show(paint));
    }
    if let Some(log) = status.log.as_ref().filter(|log| !log.shards.is_empty()) {
        text.push('\n');
        text.push_str(&log_table(&log.shards).show(paint));
    }
    text
}

/// The log as a whole: the first thing that is wrong with it, or where it lies and what it holds.
fn log_line(log: &v1::LogStatus, paint: Paint) -> String {
    let shard = |shard: &v1::LogShard| (!shard.why.is_empty()).then(|| format!("shard {}: {}", shard.shard, shard.why));
    let worker = |worker: &v1::LogWorker| {
        (!worker.refuses.is_empty())
            .then(|| format!("worker {} is told {}: {}", worker.worker, worker.refuses, worker.why))
    };
    let problem = Some(log.problem.clone()).filter(|problem| !problem.is_empty());
    let problem = problem.or_else(|| log.shards.iter().find_map(shard)).or_else(|| log.workers.iter().find_map(worker));
    let lost: u64 = log.workers.iter().map(|worker| worker.turns_lost).sum();
    let fill =
        log.workers.iter().map(|worker| worker.ring_used_bytes * 100 / worker.ring_bytes.max(1)).max().unwrap_or(0);
    let lost = if lost == 0 { String::new() } else { format!(", {} lost", plural(lost, "turn", "turns")) };
    match problem {
        Some(problem) => format!("{}{lost}: {problem}", paint.bad("not taking everything")),
        None => format!("{} in {}, rings {fill} % full{lost}", paint.good("running"), log.directory),
    }
}

fn log_table(shards: &[v1::LogShard]) -> Table {
    let headings = ["SHARD", "LOG", "WRITTEN", "DURABLE", "LOSS WINDOW", "MIB", "CHECKPOINT"];
    let side = |heading| if heading == "LOG" { Side::Left } else { Side::Right };
    let mut table = Table::new(&headings.map(|heading| (heading, side(heading))));
    for shard in shards {
        table.row(vec![
            shard.shard.to_string(),
            shard.state.clone(),
            count(shard.written),
            count(shard.durable),
            format!("{} ms", shard.loss_window_ms),
            count(shard.bytes >> 20),
            if shard.checkpoint_unix_s == 0 { "-".to_owned() } else { count(shard.checkpoint_records) },
        ]);
    }
    table
}

fn data_plane(status: &v1::StatusResponse, paint: Paint) -> String {
    match &status.node {
        Some(node) if status.connected => {
            let workers = plural(node.workers.into(), "worker", "workers");
            format!("{}: {}, {workers}", paint.good("connected"), drivers(&node.driver))
        }
        _ => format!("{}: {}", paint.bad("not connected"), status.connection_problem),
    }
}

/// The drivers, in the order in which a frame's way is looked for.
fn drivers(names: &str) -> String {
    match names.split_once(", ") {
        None => format!("driver {names}"),
        Some((first, others)) => format!("drivers {first}, then {}", others.replace(", ", ", then ")),
    }
}

/// Where the shards listen: one port each, in a row.
fn takes(node: &v1::Node) -> String {
    let last = node.base_port.saturating_add(node.shard_count.saturating_sub(1));
    let ports = format!("ports {} to {last}", node.base_port);
    format!("{}, {ports}, frames up to {} bytes", node.addresses.join(" "), count(node.frame_bytes_max.into()))
}

fn ruleset(status: &v1::StatusResponse, paint: Paint) -> String {
    let (compiled, in_force) = (status.ruleset_version, status.ruleset_in_force);
    let state = match (compiled, in_force) {
        (0, 0) => paint.bad("none, so nothing may pass; apply one with `tachyon rules apply FILE`"),
        (_, 0) => paint.bad(&format!("version {compiled} compiled, none in force")),
        _ if compiled == in_force => format!("version {in_force} in force"),
        _ => paint.bad(&format!("version {compiled} compiled, version {in_force} in force")),
    };
    if status.ruleset_problem.is_empty() { state } else { format!("{state}: {}", status.ruleset_problem) }
}

fn registered(status: &v1::StatusResponse) -> String {
    [
        plural(status.topics.into(), "topic", "topics"),
        plural(status.identities.into(), "identity", "identities"),
        plural(status.sessions.into(), "session", "sessions"),
        plural(status.subscribers.into(), "subscriber", "subscribers"),
    ]
    .join(", ")
}

fn ledger_lines(ledgers: &v1::Ledgers, paint: Paint) -> Vec<(&'static str, String)> {
    let frames = ledgers.frames.clone().unwrap_or_default();
    let messages = ledgers.messages.clone().unwrap_or_default();
    let copies = ledgers.copies.clone().unwrap_or_default();
    let unaccounted = count(ledgers.unaccounted);
    let sum = |first: (&str, u64), second: (&str, u64), reasons: &BTreeMap<String, u64>| {
        let refused = count(refused(reasons));
        format!("{} {} = {} {} + {refused} refused", count(first.1), first.0, count(second.1), second.0)
    };
    let held = format!(" + {} held", count(copies.held));
    vec![
        ("frames", sum(("seen", frames.seen), ("admitted", frames.admitted), &frames.reasons)),
        ("messages", sum(("seen", messages.seen), ("accepted", messages.accepted), &messages.reasons)),
        ("copies", sum(("due", copies.due), ("given", copies.given), &copies.reasons) + &held),
        ("unaccounted", if ledgers.unaccounted == 0 { unaccounted } else { paint.bad(&unaccounted) }),
    ]
}

/// Everything that a ledger refused.
pub(crate) fn refused(reasons: &BTreeMap<String, u64>) -> u64 {
    reasons.values().fold(0, |sum, count| sum.saturating_add(*count))
}

fn worker_table(workers: &[v1::Worker]) -> Table {
    let headings = ["WORKER", "STATE", "RULESET", "PRESSURE", "MESSAGES", "ACCEPTED", "RESIDENCE P99", "RESTARTS"];
    let side = |heading| if heading == "STATE" { Side::Left } else { Side::Right };
    let mut table = Table::new(&headings.map(|heading| (heading, side(heading))));
    for worker in workers {
        let messages = worker.ledgers.clone().and_then(|ledgers| ledgers.messages).unwrap_or_default();
        table.row(vec![
            worker.worker.to_string(),
            worker.state.clone(),
            worker.ruleset_version.to_string(),
            worker.pressure.to_string(),
            count(messages.seen),
            count(messages.accepted),
            nanoseconds(worker.residence.as_ref().map_or(0, |residence| residence.p99)),
            count(worker.restarts),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::{drivers, log_line, log_table};
    use crate::table::Paint;
    use tachyon_proto::v1;

    #[test]
    fn the_log_says_first_what_is_wrong_with_it() {
        let shard =
            v1::LogShard { shard: 7, state: "running".into(), written: 12_000, durable: 11_000, ..Default::default() };
        let worker = v1::LogWorker { ring_bytes: 400, ring_used_bytes: 100, turns_lost: 3, ..Default::default() };
        let mut log = v1::LogStatus {
            directory: "/log".into(),
            shards: vec![shard],
            workers: vec![worker],
            ..v1::LogStatus::default()
        };
        let paint = Paint::plain();
        assert_eq!(log_line(&log, paint), "running in /log, rings 25 % full, 3 turns lost");
        assert!(log_table(&log.shards).show(paint).contains("running"));
        log.workers[0].refuses = "E_PERSIST_TIMEOUT".into();
        log.workers[0].why = "slow".into();
        let said = log_line(&log, paint);
        assert_eq!(said, "not taking everything, 3 turns lost: worker 0 is told E_PERSIST_TIMEOUT: slow");
        log.problem = "tachyond is not connected".into();
        assert!(log_line(&log, paint).ends_with(": tachyond is not connected"));
    }

    #[test]
    fn several_drivers_are_told_in_their_order() {
        assert_eq!(drivers("uring"), "driver uring");
        assert_eq!(drivers("rdma, dpdk, uring"), "drivers rdma, then dpdk, then uring");
    }
}
