//! `tachyon prefilter`: what is dropped at the device, before the node.

use crate::{
    arguments::{DenyChange, DenyCommand, Form, InterfaceName, PrefilterCommand},
    connection::Connection,
    failure::{Exit, Failure},
    json, output,
    table::{Paint, Side, Table, count, plural, wrap},
};
use serde_json::json;
use std::{fs, io, path::Path};
use tachyon_config::SourcePrefix;
use tachyon_proto::v1;
use tachyon_wire::reason::Reason;

/// The state in which a filter costs least.
const NATIVE: &str = "native";
/// Most prefixes of one call, as the interface has it.
const AT_ONCE_MAX: usize = 262_144;
/// Of the prefixes that a change did not find as expected, how many are told to a person.
const NAMED_MAX: usize = 20;

pub(crate) async fn run(
    connection: impl Future<Output = Result<Connection, Failure>>,
    command: &PrefilterCommand,
) -> Result<(), Failure> {
    match command {
        PrefilterCommand::Status(form) => status(&mut connection.await?, *form).await,
        PrefilterCommand::Attach(interface) => set(&mut connection.await?, interface, true).await,
        PrefilterCommand::Detach(interface) => set(&mut connection.await?, interface, false).await,
        PrefilterCommand::Deny(DenyCommand::List(form)) => list(&mut connection.await?, *form).await,
        PrefilterCommand::Deny(DenyCommand::Add(change)) => deny(connection, change, true).await,
        PrefilterCommand::Deny(DenyCommand::Del(change)) => deny(connection, change, false).await,
    }
}

async fn set(connection: &mut Connection, interface: &InterfaceName, attached: bool) -> Result<(), Failure> {
    let InterfaceName { interface, form } = interface;
    connection.set_filter(v1::SetFilterRequest { interface: interface.clone(), attached }).await?;
    if form.json {
        output::json(&json!({ "interface": interface, "attached": attached }));
    } else {
        output::data(format!("{interface}: {}\n", if attached { "attached" } else { "detached" }));
    }
    Ok(())
}

async fn status(connection: &mut Connection, form: Form) -> Result<(), Failure> {
    let filters = connection.list_filters().await?.filters;
    if form.json {
        output::json(&json!({ "filters": filters.iter().map(json::filter).collect::<Vec<_>>() }));
    } else if filters.is_empty() {
        output::message("No interface has a pre-filter; the node file says which get one.");
    } else {
        output::data(text(&filters, Paint::detect()));
    }
    Ok(())
}

fn text(filters: &[v1::Filter], paint: Paint) -> String {
    let headings =
        ["INTERFACE", "MODE", "PROGRAM", "INSTRUCTIONS", "NS/PACKET", "SESSIONS", "PREFIXES", "TOPIC BLOCKS"];
    let left = ["INTERFACE", "MODE"];
    let side = |heading| if left.contains(&heading) { Side::Left } else { Side::Right };
    let mut table = Table::new(&headings.map(|heading| (heading, side(heading))));
    for filter in filters {
        let known = |number: u32| if number == 0 { "-".to_owned() } else { number.to_string() };
        table.row(vec![
            filter.interface.clone(),
            filter.state.clone(),
            known(filter.program_id),
            known(filter.instructions),
            ns_per_packet(filter).map_or_else(|| "-".to_owned(), |ns| format!("{ns:.1}")),
            count(filter.sessions.into()),
            count(filter.prefixes.into()),
            count(filter.topic_blocks.into()),
        ]);
    }
    let mut text = table.show(paint);
    for filter in filters.iter().filter(|filter| !filter.why.is_empty()) {
        let why = if filter.state == NATIVE { filter.why.clone() } else { paint.bad(&filter.why) };
        text.push_str(&format!("\n{}: {why}\n", filter.interface));
    }
    if filters.iter().all(|filter| filter.runs == 0) {
        text.push_str("\nThe time per packet is measured while `sysctl kernel.bpf_stats_enabled=1` holds.\n");
    }
    for ledger in filters.iter().filter_map(|filter| filter.ledger.as_ref()) {
        text.push('\n');
        text.push_str(&ledger_text(ledger, paint));
    }
    text
}

/// Mean time in the program, where the kernel measured it.
#[expect(clippy::cast_precision_loss, reason = "a mean for a person, with one digit behind the point")]
pub(crate) fn ns_per_packet(filter: &v1::Filter) -> Option<f64> {
    (filter.runs > 0).then(|| filter.run_ns as f64 / filter.runs as f64)
}

/// The sum on its face, and a line and its help for each reason.
pub(crate) fn ledger_text(ledger: &v1::FilterLedger, paint: Paint) -> String {
    let dropped = ledger.dropped.iter().fold(0_u64, |sum, drop| sum.saturating_add(drop.frames));
    let heading = paint.heading(&format!("Pre-filter of {}", ledger.interface));
    let mut text = format!(
        "{heading}: {} seen = {} foreign + {} passed + {} redirected + {} dropped\n",
        count(ledger.seen),
        count(ledger.passed_foreign),
        count(ledger.passed_ours),
        count(ledger.redirected),
        count(dropped),
    );
    if ledger.unaccounted > 0 {
        let apart = plural(ledger.unaccounted, "packet", "packets");
        text.push_str(&format!("  {apart} came while the counters were read\n"));
    }
    let width = ledger.dropped.iter().map(|drop| count(drop.frames).len()).max().unwrap_or(0);
    for drop in &ledger.dropped {
        text.push_str(&format!("  {:>width$}  {}\n", count(drop.frames), paint.bad(&drop.code)));
        text.push_str(&wrap(help(drop), width + 4));
    }
    text
}

/// What to do: as [`crate::drops`] has it.
pub(crate) fn help(drop: &v1::FilterDrop) -> &str {
    u8::try_from(drop.number).ok().and_then(Reason::from_number).map_or(drop.help.as_str(), |reason| reason.help())
}

/// Every denied prefix, in lines that `deny add --from-file` reads again.
async fn list(connection: &mut Connection, form: Form) -> Result<(), Failure> {
    let (mut denied, mut after) = (Vec::new(), String::new());
    let last = loop {
        let mut page = connection.list_denied(v1::ListDeniedRequest { after }).await?;
        denied.append(&mut page.denied);
        match denied.last() {
            Some(last) if page.more => after = last.prefix.clone(),
            _ => break page,
        }
    };
    if form.json {
        let entry = |one: &v1::DeniedPrefix| json!({ "prefix": one.prefix, "by_operator": one.by_operator, "by_rules": one.by_rules });
        output::json(&json!({
            "denied": denied.iter().map(entry).collect::<Vec<_>>(),
            "in_force": last.in_force,
            "problem": last.problem,
        }));
        return Ok(());
    }
    if denied.is_empty() {
        output::message("No prefix is denied; add one with `tachyon prefilter deny add PREFIX`.");
    }
    let line = |one: &v1::DeniedPrefix| match (one.by_operator, one.by_rules) {
        (true, false) => format!("{}\n", one.prefix),
        (true, true) => format!("{}  # by the rules too\n", one.prefix),
        (false, _) => format!("{}  # by the rules\n", one.prefix),
    };
    output::data(denied.iter().map(line).collect::<String>());
    if !last.in_force && !denied.is_empty() {
        output::message(&format!("warning: tachyond does not have this list: {}", last.problem));
    }
    Ok(())
}

/// What several calls came to.
#[derive(Default)]
struct Done {
    changed: u64,
    unchanged: Vec<String>,
    still_denied: Vec<String>,
    total: u32,
    in_force: bool,
}

/// Adds or removes. A list that is too long for one call goes in several. The file is read before anyone is asked.
async fn deny(
    connection: impl Future<Output = Result<Connection, Failure>>,
    change: &DenyChange,
    add: bool,
) -> Result<(), Failure> {
    let mut prefixes: Vec<String> = change.prefixes.iter().map(ToString::to_string).collect();
    if let Some(file) = &change.from_file {
        prefixes.extend(read(file)?);
    }
    let mut connection = connection.await?;
    let mut done = Done { in_force: true, ..Done::default() };
    // An empty file is one call too, whose answer says how things stand.
    let calls: Vec<&[String]> = if prefixes.is_empty() { vec![&[]] } else { prefixes.chunks(AT_ONCE_MAX).collect() };
    for call in calls {
        let call = call.to_vec();
        let request = if add {
            v1::ChangeDeniedRequest { add: call, remove: Vec::new() }
        } else {
            v1::ChangeDeniedRequest { add: Vec::new(), remove: call }
        };
        let answer = connection.change_denied(request).await?;
        done.changed += u64::from(answer.added) + u64::from(answer.removed);
        done.unchanged.extend(answer.already);
        done.unchanged.extend(answer.missing);
        done.still_denied.extend(answer.still_denied);
        (done.total, done.in_force) = (answer.total, answer.in_force);
    }
    tell(&done, add, change.form);
    Ok(())
}

fn tell(done: &Done, add: bool, form: Form) {
    if form.json {
        let (changed, unchanged) = if add { ("added", "already") } else { ("removed", "missing") };
        let mut told = json!({ "total": done.total, "in_force": done.in_force });
        told[changed] = done.changed.into();
        told[unchanged] = json!(done.unchanged);
        if !add {
            told["still_denied"] = json!(done.still_denied);
        }
        output::json(&told);
        return;
    }
    let state = if done.in_force { "in force" } else { "stored" };
    let (what, unchanged) = if add { ("added", "denied already") } else { ("removed", "not on the list") };
    output::data(format!("{} {what}, {} denied, {state}\n", count(done.changed), count(done.total.into())));
    for (prefixes, what) in [
        (&done.unchanged, unchanged),
        (&done.still_denied, "still denied by the rules: change [prefilter] in the rules file and apply it"),
    ] {
        if !prefixes.is_empty() {
            output::message(&format!("note: {what}: {}", named(prefixes)));
        }
    }
    if !done.in_force {
        output::message("warning: tachyond is not connected; it takes this list when it comes back");
    }
}

fn named(prefixes: &[String]) -> String {
    let (shown, rest) = prefixes.split_at(prefixes.len().min(NAMED_MAX));
    let more = if rest.is_empty() { String::new() } else { format!(" and {} more", count(rest.len() as u64)) };
    format!("{}{more}", shown.join(" "))
}

/// The prefixes of a file: one a line; empty lines, and what stands behind `#`, are left out.
fn read(file: &Path) -> Result<Vec<String>, Failure> {
    let stdin = file == Path::new("-");
    let name = if stdin { "standard input".to_owned() } else { file.display().to_string() };
    let usage =
        |what: String, place: String, help: &str| Failure { exit: Exit::Usage, what, place, help: help.to_owned() };
    let text = if stdin { io::read_to_string(io::stdin()) } else { fs::read_to_string(file) };
    let text = text.map_err(|error| {
        let help = "name a text file that exists and that this user may read";
        usage(format!("cannot read the prefixes: {error}"), name.clone(), help)
    })?;
    let mut prefixes = Vec::new();
    for (line, number) in text.lines().zip(1..) {
        let line = line.split('#').next().unwrap_or(line).trim();
        if line.is_empty() {
            continue;
        }
        let prefix: SourcePrefix =
            line.parse().map_err(|wrong| usage(wrong, format!("{name}:{number}"), SourcePrefix::HELP))?;
        prefixes.push(prefix.to_string());
    }
    Ok(prefixes)
}
