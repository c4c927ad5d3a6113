//! `tachyon top`: the live view.

use crate::{
    arguments::Top,
    connection::Connection,
    failure::{Exit, Failure},
    json, output, routes,
    sample::Interval,
    status::refused,
    table::{Paint, Side, Table, count, nanoseconds},
};
use serde_json::{Value, json};
use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io::{self, IsTerminal as _},
};
use tachyon_proto::v1;

/// Rows of reasons and of routes in one view, so that it fits on a terminal.
const ROWS_MAX: usize = 10;
/// Moves to the upper left corner and clears the screen.
const REDRAW: &str = "\x1b[H\x1b[2J";

/// Shows views until it is stopped, or one. Once it has begun it outlives a restart of either process, because that is
/// when one looks at it.
pub(crate) async fn run(connection: &mut Connection, options: &Top) -> Result<(), Failure> {
    let redraw = if options.once || !io::stdout().is_terminal() { "" } else { REDRAW };
    let mut before = connection.stats().await?;
    loop {
        tokio::time::sleep(options.interval).await;
        let after = match connection.stats().await {
            Ok(after) => after,
            Err(failure) if failure.exit == Exit::Unreachable && !options.once => {
                output::message(&format!("{}; trying again", failure.what));
                continue;
            }
            Err(failure) => return Err(failure),
        };
        if let Some(interval) = Interval::between(&before, &after) {
            if options.form.json {
                output::json(&described(&interval));
            } else {
                output::data(format!("{redraw}{}", text(&interval, Paint::detect())));
            }
            if options.once {
                return Ok(());
            }
        }
        before = after;
    }
}

/// Totals of one interval that both forms show.
struct Totals {
    frames: v1::FrameLedger,
    messages: v1::MessageLedger,
    copies: v1::CopyLedger,
    unaccounted: u64,
    activity: v1::Activity,
    residence: v1::Histogram,
}

impl Totals {
    fn of(counts: &v1::StatsResponse) -> Self {
        let ledgers = counts.ledgers.clone().unwrap_or_default();
        Self {
            frames: ledgers.frames.unwrap_or_default(),
            messages: ledgers.messages.unwrap_or_default(),
            copies: ledgers.copies.unwrap_or_default(),
            unaccounted: ledgers.unaccounted,
            activity: counts.activity.unwrap_or_default(),
            residence: counts.residence.clone().unwrap_or_default(),
        }
    }

    /// `None` where no message came.
    fn syscalls_per_message(&self) -> Option<f64> {
        (self.messages.seen > 0).then(|| self.activity.syscalls as f64 / self.messages.seen as f64)
    }
}

fn described(interval: &Interval) -> Value {
    let totals = Totals::of(&interval.counts);
    let rate = |counted| interval.per_second(counted);
    let rates = |reasons: &BTreeMap<String, u64>| -> BTreeMap<String, u64> {
        reasons.iter().map(|(code, counted)| (code.clone(), rate(*counted))).collect()
    };
    json!({
        "boot_id": interval.counts.boot_id,
        "read_ns": interval.counts.read_ns,
        "elapsed_ns": interval.elapsed_ns,
        "per_second": {
            "frames_seen": rate(totals.frames.seen),
            "frames_admitted": rate(totals.frames.admitted),
            "messages_seen": rate(totals.messages.seen),
            "messages_accepted": rate(totals.messages.accepted),
            "copies_due": rate(totals.copies.due),
            "copies_given": rate(totals.copies.given),
            "bytes_received": rate(totals.activity.bytes_received),
            "bytes_sent": rate(totals.activity.bytes_sent),
            "frames_sent": rate(totals.activity.frames_sent),
            "syscalls": rate(totals.activity.syscalls),
            "reasons": {
                "frames": rates(&totals.frames.reasons),
                "messages": rates(&totals.messages.reasons),
                "copies": rates(&totals.copies.reasons),
            },
        },
        "syscalls_per_message": totals.syscalls_per_message(),
        "residence_ns": json::histogram(&totals.residence),
        "copies_held": totals.copies.held,
        "buffers_free": totals.activity.buffers_free,
        "unaccounted": totals.unaccounted,
        "workers": interval.counts.workers.iter().map(|worker| worker_rates(interval, worker)).collect::<Vec<_>>(),
        "routes": interval.counts.routes.iter().map(|route| route_rates(interval, route)).collect::<Vec<_>>(),
    })
}

fn worker_rates(interval: &Interval, worker: &v1::Worker) -> Value {
    let messages = messages(worker);
    json!({
        "worker": worker.worker,
        "state": worker.state,
        "pressure": worker.pressure,
        "ruleset_version": worker.ruleset_version,
        "messages_seen_per_second": interval.per_second(messages.seen),
        "messages_accepted_per_second": interval.per_second(messages.accepted),
        "residence_ns": worker.residence.as_ref().map(json::histogram),
    })
}

fn route_rates(interval: &Interval, route: &v1::Route) -> Value {
    json!({
        "index": route.index,
        "route_id": route.route_id,
        "topics": route.topics,
        "example_topic": route.example_topic,
        "accepted_per_second": interval.per_second(route.accepted),
        "due_per_second": interval.per_second(route.due),
        "given_per_second": interval.per_second(route.given),
        "refused_per_second": interval.per_second(route.refused),
    })
}

fn messages(worker: &v1::Worker) -> v1::MessageLedger {
    worker.ledgers.clone().and_then(|ledgers| ledgers.messages).unwrap_or_default()
}

fn text(interval: &Interval, paint: Paint) -> String {
    let totals = Totals::of(&interval.counts);
    let mut parts = vec![flow(interval, &totals, paint) + &levels(&totals, paint), workers(interval).show(paint)];
    parts.extend(reasons(interval, &totals).map(|table| table.show(paint)));
    parts.extend(busiest_routes(interval).map(|table| table.show(paint)));
    parts.join("\n")
}

fn flow(interval: &Interval, totals: &Totals, paint: Paint) -> String {
    let rate = |counted| count(interval.per_second(counted));
    // 8 bits a byte, 1,000,000 bits a megabit.
    let megabits = |bytes: u64| count(interval.per_second(bytes) / 125_000);
    let headings = ["PER SECOND", "IN", "OUT", "REFUSED", "MBIT"];
    let side = |heading| if heading == "PER SECOND" { Side::Left } else { Side::Right };
    let mut table = Table::new(&headings.map(|heading| (heading, side(heading))));
    let mut row = |name: &str, into, out, reasons, bytes: Option<u64>| {
        let megabits = bytes.map(megabits).unwrap_or_default();
        table.row(vec![name.to_owned(), rate(into), rate(out), rate(refused(reasons)), megabits]);
    };
    let (frames, messages, copies) = (&totals.frames, &totals.messages, &totals.copies);
    row("frames seen, admitted", frames.seen, frames.admitted, &frames.reasons, Some(totals.activity.bytes_received));
    row("messages seen, accepted", messages.seen, messages.accepted, &messages.reasons, None);
    row("copies due, given", copies.due, copies.given, &copies.reasons, Some(totals.activity.bytes_sent));
    table.show(paint)
}

fn levels(totals: &Totals, paint: Paint) -> String {
    let residence = &totals.residence;
    let syscalls = totals.syscalls_per_message().map_or_else(|| "-".to_owned(), |syscalls| format!("{syscalls:.4}"));
    let unaccounted = count(totals.unaccounted);
    format!(
        "residence P50 {}, P99 {}, P99.9 {}, max {}\nsyscalls per message {syscalls}, copies held {}, buffers free {}, \
         unaccounted {}\n",
        nanoseconds(residence.p50),
        nanoseconds(residence.p99),
        nanoseconds(residence.p999),
        nanoseconds(residence.max),
        count(totals.copies.held),
        count(totals.activity.buffers_free),
        if totals.unaccounted == 0 { unaccounted } else { paint.bad(&unaccounted) },
    )
}

fn workers(interval: &Interval) -> Table {
    let headings = ["WORKER", "STATE", "RULESET", "PRESSURE", "MESSAGES/S", "ACCEPTED/S", "RESIDENCE P99"];
    let side = |heading| if heading == "STATE" { Side::Left } else { Side::Right };
    let mut table = Table::new(&headings.map(|heading| (heading, side(heading))));
    for worker in &interval.counts.workers {
        let messages = messages(worker);
        table.row(vec![
            worker.worker.to_string(),
            worker.state.clone(),
            worker.ruleset_version.to_string(),
            worker.pressure.to_string(),
            count(interval.per_second(messages.seen)),
            count(interval.per_second(messages.accepted)),
            nanoseconds(worker.residence.as_ref().map_or(0, |residence| residence.p99)),
        ]);
    }
    table
}

/// The most frequent first; `None` where nothing was refused.
fn reasons(interval: &Interval, totals: &Totals) -> Option<Table> {
    let of = |ledger, reasons: &BTreeMap<String, u64>| -> Vec<(u64, &'static str, String)> {
        reasons.iter().map(|(code, counted)| (*counted, ledger, code.clone())).collect()
    };
    let mut all = of("frames", &totals.frames.reasons);
    all.extend(of("messages", &totals.messages.reasons));
    all.extend(of("copies", &totals.copies.reasons));
    all.sort_by_key(|(counted, ..)| Reverse(*counted));
    let mut table = Table::new(&[("REFUSED/S", Side::Right), ("LEDGER", Side::Left), ("REASON", Side::Left)]);
    for (counted, ledger, code) in all.iter().take(ROWS_MAX) {
        table.row(vec![count(interval.per_second(*counted)), (*ledger).to_owned(), code.clone()]);
    }
    (!all.is_empty()).then_some(table)
}

/// The busiest first; `None` where there is no route.
fn busiest_routes(interval: &Interval) -> Option<Table> {
    let mut all: Vec<&v1::Route> = interval.counts.routes.iter().collect();
    all.sort_by_key(|route| Reverse(route.due));
    let headings = ["ROUTE", "TOPICS", "ACCEPTED/S", "DUE/S", "GIVEN/S", "REFUSED/S"];
    let side = |heading| if heading == "TOPICS" { Side::Left } else { Side::Right };
    let mut table = Table::new(&headings.map(|heading| (heading, side(heading))));
    for route in all.iter().take(ROWS_MAX) {
        let rate = |counted| count(interval.per_second(counted));
        let counts = [route.accepted, route.due, route.given, route.refused].map(rate);
        table.row([routes::name(route), routes::topics(route)].into_iter().chain(counts).collect());
    }
    (!all.is_empty()).then_some(table)
}
