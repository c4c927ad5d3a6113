//! `tachyon drops`: what the pre-filters dropped, then every reason of the node with its count, its ledger and what to do.

use crate::{
    arguments::Form,
    connection::Connection,
    failure::Failure,
    json, output,
    prefilter::ledger_text,
    table::{Paint, count, wrap},
};
use serde_json::{Value, json};
use tachyon_proto::v1;
use tachyon_wire::reason::Reason;

pub(crate) async fn run(connection: &mut Connection, all: bool, form: Form) -> Result<(), Failure> {
    let answer = connection.drops().await?;
    let shown: Vec<&v1::Drop> = answer.drops.iter().filter(|drop| all || total(drop) > 0).collect();
    if form.json {
        let drops: Value = shown.iter().map(|drop| described(drop)).collect();
        let filters: Vec<Value> = answer.filters.iter().map(json::filter_ledger).collect();
        output::json(&json!({ "boot_id": answer.boot_id, "filters": filters, "drops": drops }));
        return Ok(());
    }
    let paint = Paint::detect();
    // In the order in which a packet meets them.
    output::data(answer.filters.iter().map(|ledger| ledger_text(ledger, paint) + "\n").collect::<String>());
    if shown.is_empty() {
        output::message("Nothing was refused since tachyond started; --all lists every reason.");
    } else {
        output::data(text(&shown, paint));
    }
    Ok(())
}

const fn total(drop: &v1::Drop) -> u64 {
    drop.frames.saturating_add(drop.messages).saturating_add(drop.copies)
}

fn described(drop: &v1::Drop) -> Value {
    json!({
        "code": drop.code,
        "number": drop.number,
        "ledger": drop.ledger,
        "count": total(drop),
        "frames": drop.frames,
        "messages": drop.messages,
        "copies": drop.copies,
        "help": help(drop),
    })
}

/// What to do: from this program, or from control where it is newer and knows a reason that this program does not.
fn help(drop: &v1::Drop) -> &str {
    u8::try_from(drop.number).ok().and_then(Reason::from_number).map_or(drop.help.as_str(), |reason| reason.help())
}

/// One line and its help per reason; a reason of any ledger has a line for each ledger it struck.
fn text(drops: &[&v1::Drop], paint: Paint) -> String {
    let counts = drops.iter().flat_map(|drop| struck(drop)).map(|(number, _)| count(number).len());
    let width = counts.max().unwrap_or(0).max("COUNT".len());
    let mut text = paint.heading(&format!("{:>width$}  {:<8}  REASON AND WHAT TO DO", "COUNT", "LEDGER"));
    text.push('\n');
    for drop in drops {
        for (number, ledger) in struck(drop) {
            let code = if number > 0 { paint.bad(&drop.code) } else { drop.code.clone() };
            text.push_str(&format!("{:>width$}  {ledger:<8}  {code}\n", count(number)));
        }
        // Under the code: behind the count, the ledger's 8 characters and two gaps of 2.
        text.push_str(&wrap(help(drop), width + 12));
    }
    text
}

/// The ledgers that it struck; its own, with 0, if none.
fn struck(drop: &v1::Drop) -> Vec<(u64, &str)> {
    let mut struck = vec![(drop.frames, "frames"), (drop.messages, "messages"), (drop.copies, "copies")];
    struck.retain(|(count, _)| *count > 0);
    if struck.is_empty() { vec![(0, drop.ledger.as_str())] } else { struck }
}
