//! The control file: how `tachyon-control` itself runs.

use crate::{Diagnostic, Report, Source, TruthLogSection, read, truth_log::LogEntry};
use serde::Deserialize;
use std::path::PathBuf;
use tachyon_wire::image::{SUBSCRIBERS_MAX, TOPIC_SLOTS_MAX};
use toml::Spanned;

/// A checked control file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ControlFile {
    /// Where the sockets lie.
    pub run_dir: PathBuf,
    /// Where the registry lies.
    pub state_dir: PathBuf,
    /// What is said on standard error.
    pub log_level: LogLevel,
    /// Access bits of `control.sock`.
    pub socket_mode: u32,
    /// Administrators beside root and control's own user.
    pub admin_uids: Vec<u32>,
    /// Users, beside root and control's own, that `tachyond` may run as.
    pub node_uids: Vec<u32>,
    /// Most topics that are ever registered.
    pub topics_max: u32,
    /// Most sessions of one identity.
    pub sessions_per_identity: u32,
    /// Most subscriptions of one identity.
    pub subscribers_per_identity: u32,
    /// Credit of a subscriber that names none, in buffers.
    pub subscriber_credit: u32,
    /// The truth log.
    pub log: TruthLogSection,
}

/// What is said on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names say it, as in every logger")]
pub enum LogLevel {
    Error,
    Warn,
    Info,
    Debug,
    Trace,
}

/// Most sessions of one identity: as many as the node's table holds by default.
const SESSIONS_MAX: u32 = 65_536;
/// Most credit: more buffers than any arena of the size we test with has for one subscriber.
pub(crate) const CREDIT_MAX: u32 = 65_536;

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    run_dir: PathBuf,
    state_dir: PathBuf,
    log_level: LogLevel,
    socket_mode: Spanned<u32>,
    admin_uids: Vec<u32>,
    node_uids: Vec<u32>,
    topics_max: Spanned<u32>,
    sessions_per_identity: Spanned<u32>,
    subscribers_per_identity: Spanned<u32>,
    subscriber_credit: Spanned<u32>,
    log: LogEntry,
}

impl Default for File {
    fn default() -> Self {
        let spanned = |value| Spanned::new(0..0, value);
        Self {
            run_dir: "/run/tachyon".into(),
            state_dir: "/var/lib/tachyon".into(),
            log_level: LogLevel::Info,
            socket_mode: spanned(0o660),
            admin_uids: Vec::new(),
            node_uids: Vec::new(),
            topics_max: spanned(65_536),
            sessions_per_identity: spanned(4_096),
            subscribers_per_identity: spanned(256),
            subscriber_credit: spanned(256),
            log: LogEntry::default(),
        }
    }
}

impl ControlFile {
    /// The commented default: the manual of the file.
    pub const MANUAL: &str = include_str!("../defaults/control.toml");

    /// Reads and checks a control file. Gives the warnings beside it.
    ///
    /// # Errors
    /// Everything that is wrong with it, at least one thing.
    pub fn parse(file_name: &str, text: &str) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let source = Source { name: file_name, text, manual: "tachyon-control --print-default-config" };
        let file: File = read(&source).map_err(|diagnostic| vec![diagnostic])?;
        let mut report = Report::new(source);
        if file.socket_mode.get_ref() & !0o777 != 0 || file.socket_mode.get_ref() & 0o600 != 0o600 {
            let message = format!("`socket_mode` is 0o{:o}, which its owner could not use", file.socket_mode.get_ref());
            report.error(file.socket_mode.span(), message, "write it in octal, such as 0o660");
        }
        report.within("topics_max", &file.topics_max, 1..=TOPIC_SLOTS_MAX - 1);
        report.within("sessions_per_identity", &file.sessions_per_identity, 1..=SESSIONS_MAX);
        report.within("subscribers_per_identity", &file.subscribers_per_identity, 1..=SUBSCRIBERS_MAX);
        report.within("subscriber_credit", &file.subscriber_credit, 1..=CREDIT_MAX);
        let log = file.log.check(&mut report);
        report.finish(Self {
            run_dir: file.run_dir,
            state_dir: file.state_dir,
            log_level: file.log_level,
            socket_mode: file.socket_mode.into_inner(),
            admin_uids: file.admin_uids,
            node_uids: file.node_uids,
            topics_max: file.topics_max.into_inner(),
            sessions_per_identity: file.sessions_per_identity.into_inner(),
            subscribers_per_identity: file.subscribers_per_identity.into_inner(),
            subscriber_credit: file.subscriber_credit.into_inner(),
            log,
        })
    }
}

impl Default for ControlFile {
    /// What holds where there is no control file.
    fn default() -> Self {
        Self::parse("defaults", "").map(|(file, _)| file).expect("the defaults are in range")
    }
}
