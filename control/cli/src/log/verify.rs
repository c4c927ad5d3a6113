//! `tachyon log verify`: whether the log may be believed, and what is damaged if not.

use super::{
    arguments::{Place, Verify},
    exit_code, failed, hex, refused,
    shards::{self, Shard},
    usage,
};
use crate::{
    failure::Failure,
    output,
    table::{Paint, count, plural},
};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    process::ExitCode,
};
use tachyon_log::{
    Damage, Error, Fault, Verifier,
    damage::Part,
    format::segment_of,
    note::Checkpoint,
    verify::{Report, Verification},
};

/// Bytes that are judged between two looks at the progress bar.
const SLICE_BYTES: u64 = 16 << 20;
/// Logs below this size are judged before anybody looks for a bar.
const BAR_BYTES: u64 = 256 << 20;
/// How often a log is judged anew because its oldest segment was removed meanwhile.
const ATTEMPTS: usize = 3;
/// Characters of the bar.
const BAR_CHARS: u64 = 40;

/// What was found of one shard.
struct Judged {
    shard: Shard,
    key: Option<Verifier>,
    report: Report,
}

impl Judged {
    /// Whether the log of another shard lies in this one's folder.
    fn is_foreign(&self) -> bool {
        self.report.identity.is_some_and(|(_, number)| number != self.shard.number)
    }

    fn is_sound(&self) -> bool {
        self.report.is_sound() && !self.is_foreign()
    }
}

pub(crate) fn run(options: &Verify) -> Result<ExitCode, Failure> {
    let found = shards::shards(&options.place)?;
    if found.len() > 1 && !options.checkpoints.is_empty() {
        let help = "choose the shard that they are of with --shard";
        return Err(usage("checkpoints are given for several shards", &options.place.directory, help));
    }
    let keys = shards::keys(&options.key, &options.place)?;
    let mut bar = Bar::new(&found);
    let mut judged = Vec::new();
    for shard in found {
        judged.push(judge(shard, &keys, options, &mut bar)?);
    }
    bar.clear();
    let sound = judged.iter().all(Judged::is_sound);
    if options.form.json {
        output::json(&json!({
            "directory": options.place.directory.display().to_string(),
            "sound": sound,
            "shards": judged.iter().map(described).collect::<Value>(),
        }));
    } else {
        judged.iter().for_each(|judged| output::data(text(judged, Paint::detect())));
        unsigned(&judged, &options.place);
    }
    Ok(exit_code(!sound))
}

/// A log without a key is judged all the same, and that is said.
fn unsigned(judged: &[Judged], place: &Place) {
    if judged.iter().any(|judged| judged.key.is_none()) {
        let directory = place.directory.display();
        output::message(&format!(
            "note: signatures were not checked, there is no key for them in {directory}/log.pub; --key names one"
        ));
    }
}

fn judge(shard: Shard, keys: &[Verifier], options: &Verify, bar: &mut Bar) -> Result<Judged, Failure> {
    let key = shard.key(keys)?;
    let mut outside = Vec::new();
    for path in &options.checkpoints {
        let note = shards::note(path)?;
        let says = match &key {
            Some(key) => key.checkpoint(&note),
            None => Checkpoint::unchecked(&note),
        };
        let help = "give a checkpoint of this log as it was printed, and the log's key";
        outside.push(says.ok_or_else(|| refused("this is no checkpoint that the log's key signed", path, help))?);
    }
    let mut judged = report(&shard, key.as_ref(), &outside, bar);
    for _ in 1..ATTEMPTS {
        // Retention removed what was listed; the log now has another beginning, from which it is judged.
        let removed = matches!(&judged, Err(Error::Storage { source, .. }) if source.kind() == io::ErrorKind::NotFound);
        if !removed {
            break;
        }
        judged = report(&shard, key.as_ref(), &outside, bar);
    }
    let report = judged.map_err(failed(&shard.path))?;
    Ok(Judged { shard, key, report })
}

fn report(shard: &Shard, key: Option<&Verifier>, outside: &[Checkpoint], bar: &mut Bar) -> Result<Report, Error> {
    let mut files = shard.files();
    let mut verification = Verification::new(&mut files, key.cloned(), outside)?;
    loop {
        if let Some(report) = verification.step(&mut files, SLICE_BYTES)? {
            bar.end_of_shard(verification.bytes());
            return Ok(report);
        }
        bar.show(verification.bytes());
    }
}

fn text(judged: &Judged, paint: Paint) -> String {
    let (report, number) = (&judged.report, judged.shard.number);
    let verdict = if judged.is_sound() { paint.good("sound") } else { paint.bad("DAMAGED") };
    let records = match report.records {
        0 => "no records".to_owned(),
        records => format!(
            "{} ({} to {})",
            plural(records, "record", "records"),
            report.first_sequence,
            report.next_sequence.saturating_sub(1)
        ),
    };
    let signed = match &judged.key {
        None => "signatures not checked".to_owned(),
        Some(key) => format!("{} signed by {}", plural(report.checkpoints, "checkpoint", "checkpoints"), key.name()),
    };
    let mut text = format!(
        "shard {number}: {verdict}, {records} in {} and {}, {signed}\n",
        plural(report.commits, "commit", "commits"),
        plural(report.segments, "segment", "segments"),
    );
    if let Some((_, other)) = report.identity.filter(|_| judged.is_foreign()) {
        text.push_str(&format!("  the log in this folder is that of shard {other}; move it to its own\n"));
    }
    for damage in &report.findings {
        let weight = if damage.fault.is_grave() { "" } else { "no damage: " };
        text.push_str(&format!("  {weight}{damage}\n"));
    }
    if !report.is_sound() {
        let from = report.first_sequence;
        text.push_str(&match report.sound_sequence.checked_sub(1).filter(|last| *last >= from) {
            Some(last) => format!("  records {from} to {last} are sound: {}\n", count(last - from + 1)),
            None => "  not even the first record is surely sound\n".to_owned(),
        });
    }
    text
}

fn described(judged: &Judged) -> Value {
    let report = &judged.report;
    json!({
        "shard": judged.shard.number,
        "path": judged.shard.path.display().to_string(),
        "sound": judged.is_sound(),
        "log_id": report.identity.map(|(log_id, _)| hex(&log_id)),
        "log_shard": report.identity.map(|(_, number)| number),
        "key": judged.key.as_ref().map(|key| key.name().to_owned()),
        "segments": report.segments,
        "commits": report.commits,
        "records": report.records,
        "first_sequence": report.first_sequence,
        "next_sequence": report.next_sequence,
        "sound_sequence": report.sound_sequence,
        "root": report.root.map(|root| hex(&root)),
        "checkpoints": report.checkpoints,
        "findings": report.findings.iter().map(finding).collect::<Value>(),
    })
}

/// A finding for a program: `segment` is the sequence in the segment's name, what is not known is null.
pub(crate) fn finding(damage: &Damage) -> Value {
    let (name, commit, record) = match damage.fault {
        Fault::SegmentHeader => ("segment_header", None, None),
        Fault::SegmentForeign => ("segment_foreign", None, None),
        Fault::SegmentLength { .. } => ("segment_length", None, None),
        Fault::SegmentMissing { sequence } => ("segment_missing", None, Some(sequence)),
        Fault::Commit { number, part: Part::Record(sequence), .. } => ("commit", Some(number), Some(sequence)),
        Fault::Commit { number, sequence, .. } => ("commit", Some(number), Some(sequence)),
        Fault::Chain { number } => ("chain", Some(number), None),
        Fault::Torn { number } => ("torn", Some(number), None),
        Fault::Leftover => ("leftover", None, None),
        Fault::NoTombstone { sequence } => ("no_tombstone", None, Some(sequence)),
        Fault::Tombstone { sequence } => ("tombstone", None, Some(sequence)),
        Fault::Checkpoint { sequence } => ("checkpoint", None, Some(sequence)),
        Fault::Body { sequence } => ("body", None, Some(sequence)),
        Fault::RolledBack { size } => ("rolled_back", None, Some(size)),
        Fault::Forked { size } => ("forked", None, Some(size)),
        Fault::Unprovable { size } => ("unprovable", None, Some(size)),
        Fault::Leaves => ("leaves", None, None),
    };
    json!({
        "file": damage.file,
        "offset": damage.offset,
        "segment": segment_of(&damage.file),
        "commit": commit,
        "record": record,
        "fault": name,
        "grave": damage.fault.is_grave(),
        "what": damage.fault.to_string(),
    })
}

/// How far the judging is, on standard error where a person looks at it.
struct Bar {
    shown: bool,
    bytes_total: u64,
    bytes_before: u64,
}

impl Bar {
    fn new(shards: &[Shard]) -> Self {
        let files = shards.iter().filter_map(|shard| fs::read_dir(&shard.path).ok()).flatten().flatten();
        let segments = files.filter(|file| segment_of(&file.file_name().to_string_lossy()).is_some());
        let bytes_total = segments.filter_map(|file| file.metadata().ok()).map(|about| about.len()).sum();
        Self { shown: io::stderr().is_terminal() && bytes_total >= BAR_BYTES, bytes_total, bytes_before: 0 }
    }

    /// `bytes` of this shard are judged.
    fn show(&self, bytes: u64) {
        if self.shown {
            let _ = write!(io::stderr().lock(), "\r{}", bar(self.bytes_before + bytes, self.bytes_total));
        }
    }

    const fn end_of_shard(&mut self, bytes: u64) {
        self.bytes_before += bytes;
    }

    fn clear(&self) {
        if self.shown {
            let _ = write!(io::stderr().lock(), "\r\x1b[K");
        }
    }
}

/// `[=====>    ]  52 % of 12 GiB`. The end of the last segment is empty, so it need not come to 100.
fn bar(bytes: u64, bytes_total: u64) -> String {
    let share = |whole: u64| {
        let part = u128::from(bytes) * u128::from(whole) / u128::from(bytes_total.max(1));
        u64::try_from(part).unwrap_or(whole).min(whole)
    };
    let filled = usize::try_from(share(BAR_CHARS)).unwrap_or(0);
    let empty = usize::try_from(BAR_CHARS).unwrap_or(0) - filled;
    let (full, rest) = ("=".repeat(filled), " ".repeat(empty));
    format!("[{full}{rest}] {:>3} % of {} MiB", share(100), count(bytes_total >> 20))
}

#[cfg(test)]
mod tests {
    use super::bar;

    #[test]
    fn the_bar_fills_and_never_overflows() {
        assert_eq!(bar(0, 2 << 30), format!("[{}]   0 % of 2,048 MiB", " ".repeat(40)));
        assert_eq!(bar(1 << 30, 2 << 30), format!("[{}{}]  50 % of 2,048 MiB", "=".repeat(20), " ".repeat(20)));
        assert_eq!(bar(9 << 30, 2 << 30), format!("[{}] 100 % of 2,048 MiB", "=".repeat(40)));
        assert!(bar(0, 0).contains("0 %"));
    }
}
