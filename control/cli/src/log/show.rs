//! `tachyon log show`: records, decoded.

use super::{
    arguments::{Filter, Show},
    clock::Clock,
    describe::Described,
    exit_code, failed, shards, usage,
};
use crate::{failure::Failure, output};
use serde_json::{Value, json};
use std::process::ExitCode;
use tachyon_log::Found;

pub(crate) fn run(options: &Show) -> Result<ExitCode, Failure> {
    let (first, last) = (*options.range.start(), *options.range.end());
    let filter = Filter::default();
    let (mut damaged, mut seen, mut records) = (false, 0_u64, Vec::<Value>::new());
    for shard in shards::shards(&options.place)? {
        let mut clock = Clock::before(&shard, first)?;
        let mut reader = shard.reader(first)?.until(last.saturating_add(1));
        while let Some(found) = reader.read().map_err(failed(&shard.path))? {
            match found {
                Found::Damage(damage) if damage.fault.is_grave() => {
                    damaged = true;
                    output::message(&format!("damage: {}/{damage}", shard.path.display()));
                }
                Found::Damage(_) => {}
                Found::Record(record) => {
                    clock.learn(&record);
                    let unix_ns = clock.unix_ns(record.tick);
                    let described = Described { shard: shard.number, record: &record, unix_ns, filter: &filter };
                    if options.form.json {
                        records.push(described.json());
                    } else {
                        output::data((if seen > 0 { "\n" } else { "" }).to_owned() + &described.text());
                    }
                    seen += 1;
                }
            }
        }
    }
    if options.form.json {
        output::json(&json!({ "damaged": damaged, "records": records }));
    }
    if seen == 0 && !damaged {
        let help = "`tachyon log tail` shows the newest ones, `tachyon log verify` says which are there";
        let what = format!("there is no record {first} to {last}");
        return Err(usage(what, &options.place.directory, help));
    }
    Ok(exit_code(damaged))
}
