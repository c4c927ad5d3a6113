//! The exporter's file.

use serde::Deserialize;
use std::{path::PathBuf, time::Duration};
use tachyon_config::{Diagnostic, Report, Source, read};
use toml::Spanned;

/// A checked exporter file. The commented default file explains each.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the default file, which is the manual, has a paragraph on each")]
pub struct Settings {
    pub servers: Vec<String>,
    pub log_dir: PathBuf,
    pub state_dir: PathBuf,
    pub shards: Vec<u16>,
    pub prefix: String,
    pub frames: bool,
    pub refused_too: bool,
    pub unacknowledged_max: usize,
    pub answer_max: Duration,
    pub poll: Duration,
    pub store: Duration,
    pub retry_max: Duration,
    pub stream: StreamSettings,
}

/// How the stream is, or is made.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the default file, which is the manual, has a paragraph on each")]
pub struct StreamSettings {
    pub name: String,
    pub replicas: usize,
    pub duplicate_window: Duration,
    pub messages_max: u64,
    pub bytes_max: u64,
    pub age_max: Duration,
    pub when_full: WhenFull,
}

/// What a full stream does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WhenFull {
    /// Forgets its oldest messages.
    RemoveOldest,
    /// Takes no new ones.
    Refuse,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct File {
    servers: Spanned<Vec<String>>,
    log_dir: PathBuf,
    state_dir: PathBuf,
    shards: Vec<u16>,
    prefix: Spanned<String>,
    frames: bool,
    refused_too: bool,
    unacknowledged_max: Spanned<u32>,
    answer_ms_max: Spanned<u32>,
    poll_ms: Spanned<u32>,
    store_ms: Spanned<u32>,
    retry_ms_max: Spanned<u32>,
    stream: StreamTable,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields, default)]
struct StreamTable {
    name: Spanned<String>,
    replicas: Spanned<u32>,
    duplicate_window_ms: Spanned<u32>,
    messages_max: Spanned<u64>,
    bytes_max: Spanned<u64>,
    age_ms_max: u64,
    when_full: WhenFull,
}

fn spanned<T>(value: T) -> Spanned<T> {
    Spanned::new(0..0, value)
}

impl Default for File {
    fn default() -> Self {
        Self {
            servers: spanned(vec!["nats://127.0.0.1:4222".into()]),
            log_dir: "/var/lib/tachyon/log".into(),
            state_dir: "/var/lib/tachyon/jetstream".into(),
            shards: Vec::new(),
            prefix: spanned("tachyon".into()),
            frames: false,
            refused_too: false,
            unacknowledged_max: spanned(4_096),
            answer_ms_max: spanned(5_000),
            poll_ms: spanned(10),
            store_ms: spanned(1_000),
            retry_ms_max: spanned(8_000),
            stream: StreamTable::default(),
        }
    }
}

impl Default for StreamTable {
    fn default() -> Self {
        Self {
            name: spanned("TACHYON".into()),
            replicas: spanned(1),
            duplicate_window_ms: spanned(120_000),
            messages_max: spanned(0),
            bytes_max: spanned(0),
            age_ms_max: 0,
            when_full: WhenFull::Refuse,
        }
    }
}

impl Settings {
    /// The commented default: the manual of the file.
    pub const MANUAL: &str = include_str!("../defaults/jetstream.toml");

    /// Reads and checks an exporter file. Gives the warnings beside it.
    ///
    /// # Errors
    /// Everything that is wrong with it, at least one thing.
    pub fn parse(file_name: &str, text: &str) -> Result<(Self, Vec<Diagnostic>), Vec<Diagnostic>> {
        let source = Source { name: file_name, text, manual: "tachyon-jetstream --print-default-config" };
        let file: File = read(&source).map_err(|diagnostic| vec![diagnostic])?;
        let mut report = Report::new(source);
        check(&file, &mut report);
        let ms = |value: &Spanned<u32>| Duration::from_millis(u64::from(*value.get_ref()));
        let stream = &file.stream;
        let stream = StreamSettings {
            name: stream.name.get_ref().clone(),
            replicas: *stream.replicas.get_ref() as usize,
            duplicate_window: ms(&stream.duplicate_window_ms),
            messages_max: *stream.messages_max.get_ref(),
            bytes_max: *stream.bytes_max.get_ref(),
            age_max: Duration::from_millis(stream.age_ms_max),
            when_full: stream.when_full,
        };
        let mut shards = file.shards;
        shards.sort_unstable();
        shards.dedup();
        report.finish(Self {
            servers: file.servers.into_inner(),
            log_dir: file.log_dir,
            state_dir: file.state_dir,
            shards,
            prefix: file.prefix.into_inner(),
            frames: file.frames,
            refused_too: file.refused_too,
            unacknowledged_max: *file.unacknowledged_max.get_ref() as usize,
            answer_max: ms(&file.answer_ms_max),
            poll: ms(&file.poll_ms),
            store: ms(&file.store_ms),
            retry_max: ms(&file.retry_ms_max),
            stream,
        })
    }
}

fn check(file: &File, report: &mut Report<'_>) {
    report.within("unacknowledged_max", &file.unacknowledged_max, 1..=65_536);
    report.within("answer_ms_max", &file.answer_ms_max, 100..=600_000);
    report.within("poll_ms", &file.poll_ms, 1..=10_000);
    report.within("store_ms", &file.store_ms, 1..=600_000);
    report.within("retry_ms_max", &file.retry_ms_max, 10..=600_000);
    report.within("replicas", &file.stream.replicas, 1..=5);
    report.within("duplicate_window_ms", &file.stream.duplicate_window_ms, 100..=86_400_000);
    // The server keeps both as signed numbers.
    report.within("messages_max", &file.stream.messages_max, 0..=i64::MAX.unsigned_abs());
    report.within("bytes_max", &file.stream.bytes_max, 0..=i64::MAX.unsigned_abs());
    for (key, name) in [("prefix", &file.prefix), ("name", &file.stream.name)] {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.get_ref().is_empty() || !name.get_ref().bytes().all(plain) {
            let message = format!("`{key}` is {:?}, which NATS would read as something else", name.get_ref());
            report.error(name.span(), message, "use letters, digits, `-` and `_`");
        }
    }
    let wrong = file.servers.get_ref().iter().find(|server| !server.starts_with("nats://"));
    if let Some(server) = wrong {
        let message = format!("`servers` has {server:?}, and TLS and web sockets are not built in");
        report.error(file.servers.span(), message, "write it as nats://host:port");
    } else if file.servers.get_ref().is_empty() {
        report.error(file.servers.span(), "`servers` is empty", "name one, such as nats://127.0.0.1:4222");
    }
}

impl Default for Settings {
    /// What holds where there is no file.
    fn default() -> Self {
        Self::parse("defaults", "").map(|(file, _)| file).expect("the defaults are in range")
    }
}

#[cfg(test)]
mod tests {
    use super::Settings;

    #[test]
    fn the_manual_holds_the_defaults() {
        assert_eq!(Settings::parse("jetstream.toml", Settings::MANUAL).unwrap(), (Settings::default(), vec![]));
    }

    #[test]
    fn what_is_wrong_is_told_at_its_place() {
        let told = |text: &str| Settings::parse("jetstream.toml", text).expect_err(text)[0].to_string();
        assert!(told("prefix = \"a.b\"").contains("letters, digits"));
        assert!(told("servers = [\"tls://host\"]").contains("TLS"));
        assert!(told("servers = []").contains("empty"));
        assert!(told("[stream]\nreplicas = 6").contains("from 1 to 5"));
        assert!(told("unacknowleged_max = 1").contains("did you mean `unacknowledged_max`"));
        assert!(told("[stream]\nwhen_full = \"refuses\"").contains("`refuse`"));
    }
}
