//! The stream: made or held against the settings, and read back for how far each shard is in it.

use crate::{
    event::{LOG, Place, RECORD, WHOLE, from_hex},
    settings::{Settings, StreamSettings, WhenFull},
};
use async_nats::{
    header::NATS_MESSAGE_ID,
    jetstream::{
        Context, ErrorCode,
        context::GetStreamErrorKind,
        message::StreamMessage,
        stream::{Config, DiscardPolicy, Info, LastRawMessageErrorKind, RetentionPolicy, StorageType, Stream},
    },
};
use core::fmt;
use std::{collections::BTreeMap, time::Duration};

/// Why the stream cannot be used.
#[derive(Debug)]
pub enum Refusal {
    /// It may work later: the server is away, starting or full.
    Later(String),
    /// Somebody has to do something first.
    Never(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Later(what) | Self::Never(what) => f.write_str(what),
        }
    }
}

/// The last event of a shard in the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Last {
    /// The log that it came from.
    pub log_id: [u8; 16],
    /// Where in it.
    pub place: Place,
    /// Its sequence in the stream.
    pub sequence: u64,
}

/// What the stream holds, all of one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    /// When the stream was made, in Unix nanoseconds.
    pub created: i128,
    /// Sequence of the stream's last message; 0 if there was none.
    pub last_sequence: u64,
    /// By shard.
    pub shards: BTreeMap<u16, Last>,
}

/// All subjects of a shard.
fn shard_subjects(prefix: &str, shard: u16) -> String {
    format!("{prefix}.{shard}.*")
}

/// The stream as the settings want it.
fn config(settings: &Settings) -> Config {
    let StreamSettings { name, replicas, duplicate_window, messages_max, bytes_max, age_max, when_full } =
        &settings.stream;
    // The server says -1 where there is no limit.
    let limit = |max: u64| if max == 0 { -1 } else { i64::try_from(max).unwrap_or(i64::MAX) };
    let subjects = if settings.shards.is_empty() {
        vec![format!("{}.*.*", settings.prefix)]
    } else {
        settings.shards.iter().map(|shard| shard_subjects(&settings.prefix, *shard)).collect()
    };
    Config {
        name: name.clone(),
        description: Some("messages of Tachyon's truth log; tachyon-jetstream alone writes here".into()),
        subjects,
        storage: StorageType::File,
        retention: RetentionPolicy::Limits,
        discard: match when_full {
            WhenFull::RemoveOldest => DiscardPolicy::Old,
            WhenFull::Refuse => DiscardPolicy::New,
        },
        num_replicas: *replicas,
        duplicate_window: *duplicate_window,
        max_messages: limit(*messages_max),
        max_bytes: limit(*bytes_max),
        max_age: *age_max,
        max_messages_per_subject: -1,
        max_consumers: -1,
        ..Config::default()
    }
}

/// What of the stream is not as it has to be, one line each. Where the server writes one thing in several ways they count as
/// one.
fn differences(wanted: &Config, there: &Config) -> Vec<String> {
    fn line<T: PartialEq + fmt::Debug>(found: &mut Vec<String>, what: &str, wanted: &T, there: &T) {
        if wanted != there {
            found.push(format!("{what} is {there:?} and has to be {wanted:?}"));
        }
    }
    let limit = |max: i64| if max <= 0 { None } else { Some(max) };
    let sorted = |subjects: &[String]| {
        let mut subjects = subjects.to_vec();
        subjects.sort_unstable();
        subjects
    };
    let mut found = Vec::new();
    line(&mut found, "storage", &wanted.storage, &there.storage);
    line(&mut found, "subjects", &sorted(&wanted.subjects), &sorted(&there.subjects));
    line(&mut found, "retention", &wanted.retention, &there.retention);
    line(&mut found, "discard", &wanted.discard, &there.discard);
    line(&mut found, "replicas", &wanted.num_replicas, &there.num_replicas);
    line(&mut found, "duplicate window", &wanted.duplicate_window, &there.duplicate_window);
    line(&mut found, "messages at most", &limit(wanted.max_messages), &limit(there.max_messages));
    line(&mut found, "bytes at most", &limit(wanted.max_bytes), &limit(there.max_bytes));
    line(&mut found, "age at most", &wanted.max_age, &there.max_age);
    line(&mut found, "messages per subject", &None, &limit(there.max_messages_per_subject));
    line(&mut found, "largest message", &None, &limit(i64::from(there.max_message_size)));
    // Without acknowledgements nothing is known; a mirror takes no messages; others' sources would stand between ours.
    line(&mut found, "no_ack", &false, &there.no_ack);
    line(&mut found, "sealed", &false, &there.sealed);
    line(&mut found, "mirror or sources", &false, &(there.mirror.is_some() || there.sources.is_some()));
    found
}

/// The stream, which is made if it is not there; and whether it was.
///
/// # Errors
///
/// When the server does not answer, has no JetStream, or the stream is not what the settings say.
pub async fn ensure(context: &Context, settings: &Settings) -> Result<(Stream, bool), Refusal> {
    let name = &settings.stream.name;
    let wanted = config(settings);
    let (stream, made) = match context.get_stream(name).await {
        Ok(stream) => (stream, false),
        Err(error) => match error.kind() {
            GetStreamErrorKind::JetStream(told) if told.error_code() == ErrorCode::STREAM_NOT_FOUND => {
                (make(context, &wanted).await?, true)
            }
            GetStreamErrorKind::JetStream(told) => return Err(refused(name, &told)),
            _ => return Err(Refusal::Later(format!("an answer about stream {name}: {}", chain(&error)))),
        },
    };
    let differences = differences(&wanted, &stream.cached_info().config);
    if differences.is_empty() {
        return Ok((stream, made));
    }
    Err(Refusal::Never(format!(
        "stream {name} is not what the settings say: {}; change the stream, or the settings, or name another stream",
        differences.join("; ")
    )))
}

async fn make(context: &Context, wanted: &Config) -> Result<Stream, Refusal> {
    use async_nats::jetstream::context::CreateStreamErrorKind as Kind;
    let made = context.create_stream(wanted.clone()).await;
    made.map_err(|error| match error.kind() {
        Kind::JetStream(told) => refused(&wanted.name, &told),
        _ => Refusal::Later(format!("making stream {}: {}", wanted.name, chain(&error))),
    })
}

/// What the server said, and whether it may say something else later.
fn refused(name: &str, told: &async_nats::jetstream::Error) -> Refusal {
    let code = told.error_code();
    if code == ErrorCode::STREAM_SUBJECT_OVERLAP {
        return Refusal::Never(format!(
            "stream {name} cannot be made: another stream has subjects of this prefix; give another `prefix`, or remove \
             that stream"
        ));
    }
    // 503: JetStream is off, still starting, or has no leader just now. 500: resources, which may be freed.
    if told.code() == 503 || told.code() >= 500 {
        return Refusal::Later(format!("JetStream for stream {name}: the server says {told}"));
    }
    Refusal::Never(format!("stream {name} cannot be used: the server says {told}"))
}

/// Reads back how far each of these shards is. Repeated until nothing came in between, because messages that were sent
/// before a connection broke may still be on their way.
///
/// # Errors
///
/// When the server does not answer, or the last message is none of ours.
pub async fn snapshot(stream: &Stream, prefix: &str, shards: &[u16]) -> Result<Snapshot, Refusal> {
    let mut before = info(stream).await?;
    loop {
        let mut found = BTreeMap::new();
        for shard in shards {
            if let Some(last) = last_of(stream, &shard_subjects(prefix, *shard)).await? {
                found.insert(*shard, last);
            }
        }
        let after = info(stream).await?;
        if after.state.last_sequence == before.state.last_sequence {
            let created = after.created.unix_timestamp_nanos();
            return Ok(Snapshot { created, last_sequence: after.state.last_sequence, shards: found });
        }
        before = after;
    }
}

async fn info(stream: &Stream) -> Result<Info, Refusal> {
    let name = &stream.cached_info().config.name;
    let info = stream.get_info().await;
    info.map_err(|error| Refusal::Later(format!("an answer about stream {name}: {}", chain(&error))))
}

async fn last_of(stream: &Stream, subjects: &str) -> Result<Option<Last>, Refusal> {
    match stream.get_last_raw_message_by_subject(subjects).await {
        Ok(message) => read(&message).map(Some).ok_or_else(|| {
            Refusal::Never(format!(
                "message {} of the stream, subject {}, was not written by this program; remove it, or export to a stream \
                 of another name and prefix",
                message.sequence, message.subject
            ))
        }),
        Err(error) if matches!(error.kind(), LastRawMessageErrorKind::NoMessageFound) => Ok(None),
        Err(error) => Err(Refusal::Later(format!("the last message of {subjects}: {}", chain(&error)))),
    }
}

/// Where a message of the stream comes from; nothing if it is none of ours.
fn read(message: &StreamMessage) -> Option<Last> {
    let header = |name: &str| message.headers.get(name).map(|value| value.as_str());
    let id = header(NATS_MESSAGE_ID.as_ref())?;
    let index = match id.split('.').count() {
        4 => WHOLE,
        5 => id.rsplit('.').next()?.parse().ok()?,
        _ => return None,
    };
    let place = Place { record: header(RECORD)?.parse().ok()?, index };
    Some(Last { log_id: from_hex(header(LOG)?)?, place, sequence: message.sequence })
}

/// An error with what caused it.
pub fn chain(error: &dyn core::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let more = error.to_string();
        if !text.contains(&more) {
            text = format!("{text}: {more}");
        }
        cause = error.source();
    }
    text
}

/// How long a pause is after so many tries without success: a sixteenth of the longest, doubled each time.
#[must_use]
pub fn pause(tries: u32, longest: Duration) -> Duration {
    longest / (16 >> tries.min(4))
}

#[cfg(test)]
mod tests {
    use super::{config, differences, pause};
    use crate::settings::Settings;
    use async_nats::jetstream::stream::StorageType;
    use std::time::Duration;

    #[test]
    fn a_stream_is_held_against_every_setting() {
        let settings = Settings::default();
        let wanted = config(&settings);
        assert_eq!(differences(&wanted, &wanted), Vec::<String>::new());
        let mut there = wanted.clone();
        there.storage = StorageType::Memory;
        there.max_messages_per_subject = 5;
        there.duplicate_window = Duration::from_secs(1);
        let told = differences(&wanted, &there);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].contains("storage is Memory and has to be File"), "{told:?}");
        // Servers write "no limit" as 0 or as -1.
        there = wanted.clone();
        (there.max_messages, there.max_bytes) = (0, 0);
        assert_eq!(differences(&wanted, &there), Vec::<String>::new());
    }

    #[test]
    fn pauses_double_and_end() {
        let longest = Duration::from_millis(1_600);
        let pauses: Vec<u128> = (0..6).map(|tries| pause(tries, longest).as_millis()).collect();
        assert_eq!(pauses, [100, 200, 400, 800, 1_600, 1_600]);
    }
}
