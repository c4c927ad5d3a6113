//! `tachyon log checkpoint`: what the log has signed about itself, to be kept where nobody who can change the log can reach.

use super::{arguments::CheckpointOf, refused, shards, usage};
use crate::{failure::Failure, output};
use serde_json::json;
use tachyon_log::Verifier;

pub(crate) fn run(options: &CheckpointOf) -> Result<(), Failure> {
    let shard = shards::one(&options.place)?;
    let found = match options.at {
        Some(size) => shard.checkpoint_at(size)?,
        None => shard.newest_checkpoint(0)?,
    };
    let Some((says, note)) = found else {
        let what = match options.at {
            Some(size) => format!("the log holds no checkpoint of {size} records"),
            None => "the log holds no checkpoint yet".to_owned(),
        };
        return Err(usage(
            what,
            &shard.path,
            "without --at the newest one is printed; one is written from time to time",
        ));
    };
    let key: Option<Verifier> = shard.key(&shards::keys(&options.key, &options.place)?)?;
    let held = key.as_ref().map(|key| key.checkpoint(&note).is_some());
    if held == Some(false) {
        let help = "check the key; `tachyon log verify` says what else is damaged";
        return Err(refused("the checkpoint is not signed by the log's key", &shard.path, help));
    }
    if options.form.json {
        output::json(&json!({
            "shard": shard.number,
            // A checkpoint covers the records before it.
            "sequence": says.size,
            "origin": says.origin,
            "size": says.size,
            "root": super::hex(&says.root),
            "note": note,
            "checked": held,
        }));
        return Ok(());
    }
    if held.is_none() {
        output::message("note: its signature was not checked, there is no key beside the log; --key names one");
    }
    output::data(note);
    Ok(())
}
