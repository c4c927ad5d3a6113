//! The control file's section on the truth log.

use crate::Report;
use serde::Deserialize;
use std::{path::PathBuf, time::Duration};
use toml::Spanned;

/// How the truth log is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TruthLogSection {
    /// Whether it is written at all.
    pub enabled: bool,
    /// The folder that holds one folder for each shard.
    pub directory: PathBuf,
    /// Length of a segment.
    pub segment_bytes: u64,
    /// How long records without a durable message may wait for others.
    pub commit_interval: Duration,
    /// At most so much of what is only logged is lost in a power cut.
    pub loss_window: Duration,
    /// Bytes that are kept of each shard; `None` = no limit.
    pub keep_bytes: Option<u64>,
    /// How long it is kept; `None` = no limit.
    pub keep: Option<Duration>,
    /// How often a checkpoint is signed.
    pub checkpoint_interval: Duration,
    /// How fast it is read again in the background; `None` = never.
    pub scrub_bytes_per_s: Option<u64>,
    /// Where the signing key lies.
    pub signing_key_file: PathBuf,
    /// The name that a new signing key gets; `None` = the host's.
    pub origin: Option<String>,
    /// Where keys of sessions are kept; `None` = nowhere.
    pub keys_file: Option<PathBuf>,
}

/// Longest origin: with a shard's folder behind it, a line of a note that a person still reads.
const ORIGIN_BYTES_MAX: usize = 200;
/// Most MiB that are kept of a shard: a pebibyte, more than any one disk has.
const KEEP_MIB_MAX: u64 = 1 << 30;
/// Seconds of a day.
const DAY_S: u64 = 24 * 60 * 60;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(crate) struct LogEntry {
    enabled: bool,
    directory: PathBuf,
    segment_mib: Spanned<u64>,
    commit_interval_us: Spanned<u64>,
    loss_window_ms: Spanned<u64>,
    keep_mib: Spanned<u64>,
    keep_days: Spanned<u64>,
    checkpoint_interval_s: Spanned<u64>,
    scrub_mib_per_s: Spanned<u64>,
    signing_key_file: Option<PathBuf>,
    origin: Option<Spanned<String>>,
    keep_keys: bool,
    keys_file: Option<PathBuf>,
}

impl Default for LogEntry {
    fn default() -> Self {
        let spanned = |value| Spanned::new(0..0, value);
        Self {
            enabled: false,
            directory: "/var/lib/tachyon/log".into(),
            segment_mib: spanned(64),
            commit_interval_us: spanned(1_000),
            loss_window_ms: spanned(200),
            keep_mib: spanned(4_096),
            keep_days: spanned(0),
            checkpoint_interval_s: spanned(60),
            scrub_mib_per_s: spanned(1),
            signing_key_file: None,
            origin: None,
            keep_keys: true,
            keys_file: None,
        }
    }
}

impl LogEntry {
    pub(crate) fn check(self, report: &mut Report<'_>) -> TruthLogSection {
        self.check_ranges(report);
        let mib = |value: Spanned<u64>| value.into_inner().saturating_mul(1 << 20);
        let keep_days = self.keep_days.into_inner();
        let keys_file = self.keys_file.unwrap_or_else(|| self.directory.join("keys"));
        TruthLogSection {
            enabled: self.enabled,
            segment_bytes: mib(self.segment_mib),
            commit_interval: Duration::from_micros(self.commit_interval_us.into_inner()),
            loss_window: Duration::from_millis(self.loss_window_ms.into_inner()),
            keep_bytes: Some(mib(self.keep_mib)).filter(|bytes| *bytes > 0),
            keep: (keep_days > 0).then(|| Duration::from_secs(keep_days.saturating_mul(DAY_S))),
            checkpoint_interval: Duration::from_secs(self.checkpoint_interval_s.into_inner()),
            scrub_bytes_per_s: Some(mib(self.scrub_mib_per_s)).filter(|rate| *rate > 0),
            signing_key_file: self.signing_key_file.unwrap_or_else(|| self.directory.join("log.key")),
            origin: self.origin.map(Spanned::into_inner),
            keys_file: self.keep_keys.then_some(keys_file),
            directory: self.directory,
        }
    }

    fn check_ranges(&self, report: &mut Report<'_>) {
        report.within("segment_mib", &self.segment_mib, 8..=4_096);
        report.within("commit_interval_us", &self.commit_interval_us, 0..=1_000_000);
        report.within("loss_window_ms", &self.loss_window_ms, 1..=60_000);
        report.within("keep_days", &self.keep_days, 0..=36_500);
        report.within("checkpoint_interval_s", &self.checkpoint_interval_s, 1..=DAY_S);
        report.within("scrub_mib_per_s", &self.scrub_mib_per_s, 0..=1_024);
        let (keep, segment) = (*self.keep_mib.get_ref(), *self.segment_mib.get_ref());
        // The segment that is filled and the one that is made ahead are never removed.
        let least = segment.saturating_mul(3);
        if keep != 0 && !(least..=KEEP_MIB_MAX).contains(&keep) {
            let message = format!("`keep_mib` is {keep}, with segments of {segment} MiB");
            let help = format!("give 0 for no limit, or a value from {least} to {KEEP_MIB_MAX}");
            report.error(self.keep_mib.span(), message, help);
        }
        let Some(origin) = &self.origin else { return };
        let text = origin.get_ref();
        let usable = text.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'+');
        if text.is_empty() || text.len() > ORIGIN_BYTES_MAX || !usable {
            let help = format!(
                "give a host name and a path, such as \"node7.example/tachyon\": printable ASCII without spaces and plus \
                 signs, at most {ORIGIN_BYTES_MAX} characters"
            );
            report.error(origin.span(), format!("`{text}` cannot be the origin of a log"), help);
        }
    }
}
