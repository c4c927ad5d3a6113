//! `tachyon log prove` and `tachyon log check-proof`: what holds of the log for whoever does not have it.

use super::{
    arguments::{CheckProof, Prove},
    describe::Described,
    exit_code, failed, refused,
    shards::{self, Shard},
    usage,
};
use crate::{failure::Failure, log::arguments::Filter, output};
use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde_json::{Value, json};
use std::{fs, path::Path, process::ExitCode};
use tachyon_log::{
    Owned, Verifier,
    note::Checkpoint,
    proof::{Consistency, Inclusion, Wrong},
    tree::{self, Hash, Leaves},
    verify,
};

const VERIFY: &str = "`tachyon log verify` says what of the log is damaged";

/// Prints a proof, after having checked it as whoever gets it will.
pub(crate) fn run(options: &Prove) -> Result<(), Failure> {
    let shard = shards::one(&options.place)?;
    let key = shard.key(&shards::keys(&options.key, &options.place)?)?;
    match (options.sequence, options.from) {
        (Some(sequence), _) => inclusion(options, &shard, key.as_ref(), sequence),
        (None, Some(from)) => consistency(options, &shard, key.as_ref(), from),
        (None, None) => Err(usage("nothing is to be proved", &shard.path, "give a sequence, or --from")),
    }
}

fn inclusion(options: &Prove, shard: &Shard, key: Option<&Verifier>, sequence: u64) -> Result<(), Failure> {
    let (says, note) = match &options.checkpoint {
        Some(path) => outside(path, key)?,
        None => shard.newest_checkpoint(sequence)?.ok_or_else(|| {
            let help = "wait for the next one, or sign one and give it with --checkpoint";
            usage(format!("no checkpoint of the log covers record {sequence} yet"), &shard.path, help)
        })?,
    };
    let Some(record) = shard.record(sequence)? else {
        let help = "`tachyon log verify` says which are there; of removed ones only the hashes are left";
        return Err(usage(format!("there is no record {sequence}"), &shard.path, help));
    };
    let leaves = leaves(shard, &says)?;
    let path = leaves.inclusion(sequence, says.size).ok_or_else(|| unprovable(shard, &says))?;
    let hash = tree::leaf(&record.leaf);
    if !tree::verify_inclusion(&hash, sequence, says.size, &path, &says.root) {
        return Err(refused(format!("record {sequence} is not what was logged"), &shard.path, VERIFY));
    }
    if let Some(file) = &options.record {
        fs::write(file, &record.leaf).map_err(|error| {
            usage(format!("cannot write the record: {error}"), file, "name a file that this user may write")
        })?;
    }
    let proof = Inclusion { record: Some(record.leaf), index: sequence, path, checkpoint: note };
    if options.form.json {
        output::json(&json!({
            "proof": "inclusion",
            "shard": shard.number,
            "index": sequence,
            "leaf_hash": BASE64.encode(hash),
            "size": says.size,
            "root": BASE64.encode(says.root),
            "path": base64_all(&proof.path),
            "checkpoint": proof.checkpoint,
            "text": proof.to_string(),
        }));
    } else {
        output::data(proof.to_string());
    }
    Ok(())
}

fn consistency(options: &Prove, shard: &Shard, key: Option<&Verifier>, from: u64) -> Result<(), Failure> {
    let found = match (&options.checkpoint, options.to) {
        (Some(path), _) => Some(outside(path, key)?),
        (None, Some(size)) => shard.checkpoint_at(size)?,
        (None, None) => shard.newest_checkpoint(0)?,
    };
    let Some(size) = options.to.or(found.as_ref().map(|(says, _)| says.size)) else {
        return Err(usage(
            "the log holds no checkpoint yet",
            &shard.path,
            "name the newer size with --to and ask for --json",
        ));
    };
    if from > size {
        return Err(usage(format!("--from {from} is behind {size}"), &shard.path, "name the smaller size with --from"));
    }
    if found.is_none() && !options.form.json {
        let newest = shard.newest_checkpoint(0)?.map_or_else(String::new, |(says, _)| format!(" ({})", says.size));
        let help = format!(
            "leave --to out to prove against the newest one{newest}, give one with --checkpoint, or ask for --json, which \
             needs none"
        );
        return Err(usage(format!("the log holds no checkpoint of {size} records"), &shard.path, help));
    }
    let leaves = match &found {
        Some((says, _)) => leaves(shard, says)?,
        None => verify::tree(&mut shard.files()).map_err(failed(&shard.path))?,
    };
    let parts = (leaves.root(from), leaves.root(size), leaves.consistency(from, size));
    let (Some(old_root), Some(root), Some(proof)) = parts else {
        let what = format!("the records that it takes to prove {from} to {size} are not there");
        return Err(usage(what, &shard.path, "keep the files of leaf hashes, or choose larger sizes"));
    };
    if !tree::verify_consistency(from, &old_root, size, &root, &proof) {
        return Err(refused(
            format!("the tree of {from} records is no beginning of that of {size}"),
            &shard.path,
            VERIFY,
        ));
    }
    let text = found.map(|(_, checkpoint)| Consistency { old_size: from, proof: proof.clone(), checkpoint });
    if options.form.json {
        output::json(&json!({
            "proof": "consistency",
            "shard": shard.number,
            "old_size": from,
            "old_root": BASE64.encode(old_root),
            "size": size,
            "root": BASE64.encode(root),
            "path": base64_all(&proof),
            "checkpoint": text.as_ref().map(|proof| proof.checkpoint.clone()),
            "text": text.as_ref().map(ToString::to_string),
        }));
    } else if let Some(proof) = text {
        output::data(proof.to_string());
    }
    Ok(())
}

fn base64_all(hashes: &[Hash]) -> Vec<String> {
    hashes.iter().map(|hash| BASE64.encode(hash)).collect()
}

/// A checkpoint that was kept elsewhere; signed by the log's key if that is known.
fn outside(path: &Path, key: Option<&Verifier>) -> Result<(Checkpoint, String), Failure> {
    let note = shards::note(path)?;
    let says = key.map_or_else(|| Checkpoint::unchecked(&note), |key| key.checkpoint(&note));
    let help = "give a checkpoint of this log as it was printed, and the log's key";
    says.map(|says| (says, note)).ok_or_else(|| refused("this is no checkpoint of the log's key", path, help))
}

/// The tree, which is that of the checkpoint as far as it reaches.
fn leaves(shard: &Shard, says: &Checkpoint) -> Result<Leaves, Failure> {
    let leaves = verify::tree(&mut shard.files()).map_err(failed(&shard.path))?;
    match leaves.root(says.size) {
        Some(root) if root == says.root => Ok(leaves),
        Some(_) => {
            let what = format!("the checkpoint of {} records has another root: it is not of this log", says.size);
            Err(refused(what, &shard.path, VERIFY))
        }
        None if says.size > leaves.size() => {
            let what = format!("the checkpoint covers {} records and the log has {}", says.size, leaves.size());
            Err(refused(what, &shard.path, "the log was set back; restore it from a copy"))
        }
        None => Err(unprovable(shard, says)),
    }
}

fn unprovable(shard: &Shard, says: &Checkpoint) -> Failure {
    let what = format!("a checkpoint of {} records ends among removed ones, whose hashes are gone", says.size);
    usage(what, &shard.path, "choose a newer checkpoint, and keep the files of leaf hashes")
}

/// What came of checking a proof.
struct Verdict {
    kind: &'static str,
    holds: Result<Checkpoint, Wrong>,
    /// Of this kind of proof alone.
    fields: Value,
    /// The record of a proof of inclusion, if it is one.
    record: Option<Owned>,
}

/// Checks a proof with nothing but the key.
pub(crate) fn check(options: &CheckProof) -> Result<ExitCode, Failure> {
    let text = String::from_utf8(shards::read(&options.file)?).unwrap_or_default();
    let keys = shards::keys(&options.key, &options.place)?;
    if keys.is_empty() {
        let help = "give it with --key: name+id+key, or a file with it, as it lies in log.pub beside the log";
        return Err(usage("there is no key to check the proof with", &options.file, help));
    }
    let verdict = match (Inclusion::parse(&text), Consistency::parse(&text)) {
        (Ok(proof), _) => check_inclusion(&proof, options, &keys)?,
        (_, Ok(proof)) => check_consistency(&proof, options, &keys)?,
        (Err(wrong), Err(_)) => Verdict { kind: "unknown", holds: Err(wrong), fields: json!({}), record: None },
    };
    let holds = verdict.holds.is_ok();
    if options.form.json {
        output::json(&described(&verdict));
    } else {
        match &verdict.holds {
            Ok(says) => output::data(sentence(&verdict, says)),
            Err(wrong) => {
                let place = &options.file;
                output::message(&refused(format!("the proof does not hold: {wrong}"), place, "").to_string());
            }
        }
    }
    Ok(exit_code(!holds))
}

/// The key that a note claims to be signed with; any other says that it is not.
fn key_of<'a>(note: &str, keys: &'a [Verifier]) -> &'a Verifier {
    let origin = Checkpoint::unchecked(note).map(|says| says.origin);
    keys.iter().find(|key| Some(key.name()) == origin.as_deref()).unwrap_or(&keys[0])
}

fn check_inclusion(proof: &Inclusion, options: &CheckProof, keys: &[Verifier]) -> Result<Verdict, Failure> {
    let bytes = match (&options.record, &proof.record) {
        (Some(path), _) => shards::read(path)?,
        (None, Some(record)) => record.clone(),
        (None, None) => {
            let help = "give the record's bytes with --record";
            return Err(usage("the proof does not say of which record it is", &options.file, help));
        }
    };
    let hash = tree::leaf(&bytes);
    let holds = proof.check(&hash, key_of(&proof.checkpoint, keys));
    let fields = json!({ "index": proof.index, "leaf_hash": BASE64.encode(hash) });
    Ok(Verdict { kind: "inclusion", holds, fields, record: Owned::from_leaf(&bytes) })
}

fn check_consistency(proof: &Consistency, options: &CheckProof, keys: &[Verifier]) -> Result<Verdict, Failure> {
    let key = key_of(&proof.checkpoint, keys);
    let old_root = match &options.old {
        None if proof.old_size == 0 => tree::empty(),
        None => {
            let help = "give the older checkpoint with --old";
            return Err(usage("the proof does not say with which root the log began", &options.file, help));
        }
        Some(path) => match key.checkpoint(&shards::note(path)?) {
            Some(says) if says.size == proof.old_size => says.root,
            Some(says) => {
                let what = format!("it covers {} records, and the proof begins with {}", says.size, proof.old_size);
                return Err(usage(what, path, "give the checkpoint that the proof begins with"));
            }
            None => return Err(refused("the older checkpoint is not signed by this key", path, "check the key")),
        },
    };
    let fields = json!({ "old_size": proof.old_size, "old_root": BASE64.encode(old_root) });
    Ok(Verdict { kind: "consistency", holds: proof.check(&old_root, key), fields, record: None })
}

fn described(verdict: &Verdict) -> Value {
    let says = verdict.holds.as_ref().ok();
    let mut value = json!({
        "proof": verdict.kind,
        "holds": says.is_some(),
        "why": verdict.holds.as_ref().err().map(ToString::to_string),
        "origin": says.map(|says| says.origin.clone()),
        "size": says.map(|says| says.size),
        "root": says.map(|says| BASE64.encode(says.root)),
    });
    if let (Some(into), Some(fields)) = (value.as_object_mut(), verdict.fields.as_object()) {
        into.extend(fields.clone());
        if verdict.kind == "inclusion" {
            into.insert("record".to_owned(), verdict.record.as_ref().map(record_json).into());
        }
    }
    value
}

/// The shard of a record that came alone is not known; it is in its checkpoint's origin, if anywhere.
fn record_json(record: &Owned) -> Value {
    let filter = Filter::default();
    let mut value = Described { shard: 0, record, unix_ns: None, filter: &filter }.json();
    if let Some(fields) = value.as_object_mut() {
        fields.remove("shard");
    }
    value
}

fn sentence(verdict: &Verdict, says: &Checkpoint) -> String {
    let Checkpoint { origin, size, .. } = says;
    if verdict.kind == "consistency" {
        let old = &verdict.fields["old_size"];
        return format!("It holds: the first {old} of the {size} records of {origin} are what they were.\n");
    }
    let index = &verdict.fields["index"];
    let what = verdict.record.as_ref().map_or_else(
        || "The bytes are no record of this version.\n".to_owned(),
        |record| {
            let filter = Filter::default();
            let text = Described { shard: 0, record, unix_ns: None, filter: &filter }.text();
            // The first line names the shard, which a record alone does not know, and the time needs the log's clock.
            let lines = text.lines().skip(1).filter(|line| !line.starts_with("  time "));
            format!("  kind        {}\n{}\n", super::describe::kind(record.kind), lines.collect::<Vec<_>>().join("\n"))
        },
    );
    format!("It holds: this is record {index} of the {size} that {origin} signed for.\n{what}")
}
