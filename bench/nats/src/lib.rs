//! What NATS JetStream with file storage takes on this machine's disk: acknowledged messages a second, to be put beside the
//! truth log's.
//!
//! It starts a server of its own on loopback with its files in a folder of the given directory, and publishes as fast as
//! acknowledgements come. What an acknowledgement is worth is in every row: unless the server syncs each write, it promises
//! only that the server's kernel has the message. It deliberately knows nothing of Tachyon and measures nothing but this.
#![forbid(unsafe_code)]

mod server;

use anyhow::{Context, Result};
use async_nats::jetstream::{
    self,
    context::{PublishAckFuture, PublishError},
    publish::PublishAck,
    stream::{Config, DiscardPolicy, StorageType},
};
use bytes::Bytes;
use serde::Serialize;
use server::{Server, Sync};
use std::{
    collections::VecDeque,
    future::IntoFuture,
    path::PathBuf,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

/// Bytes of one of our messages.
pub const MESSAGE_BYTES: usize = 64;
/// Bytes of the messages of a full frame at an MTU of 1500: 22 of ours.
pub const FRAME_BYTES: usize = 22 * MESSAGE_BYTES;

/// Before the clock runs, so that files exist and buffers have their size.
const WARM_UP: Duration = Duration::from_millis(500);
/// The stream forgets its oldest messages beyond this, so that a long run does not fill the disk.
const STREAM_BYTES_MAX: i64 = 1 << 30;
const SUBJECT: &str = "bench.messages";

/// How to measure.
#[derive(Clone, Debug)]
pub struct Plan {
    /// Where the server's files go; a folder is made in it and removed again.
    pub directory: PathBuf,
    /// How long each row takes.
    pub duration: Duration,
    /// Connections that publish at the same time where messages go out in batches.
    pub connections: usize,
    /// Most unacknowledged messages of each of them.
    pub unacknowledged_max: usize,
}

/// One measurement.
#[derive(Clone, Debug, Serialize)]
pub struct Row {
    /// The server, with its version.
    pub server: String,
    /// When the server syncs: `always`, before it acknowledges, or `default`, which is every two minutes.
    pub sync: &'static str,
    /// How messages are published: `one by one` or `batched`.
    pub publishing: &'static str,
    /// Connections at the same time.
    pub connections: usize,
    /// Most unacknowledged messages of each of them.
    pub unacknowledged_max: usize,
    /// Bytes of a message's payload.
    pub message_bytes: usize,
    /// Messages that were acknowledged while the clock ran.
    pub acknowledged: u64,
    /// How long that was.
    pub seconds: f64,
    /// The one divided by the other.
    pub acknowledged_per_second: f64,
    /// What an acknowledged message survives: `power failure` or `a crash of the server`.
    pub survives: &'static str,
}

/// All rows: for both sizes the strictest that this server can do, one by one and, if it can sync always, batched; then its
/// default, batched.
///
/// # Errors
///
/// When there is no nats-server, or it does not start or answer.
pub fn rows(plan: &Plan) -> Result<Vec<Row>> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let strictest = if Server::can_sync_always(&plan.directory)? { Sync::Always } else { Sync::Default };
    let mut kinds = vec![(strictest, false), (Sync::Default, true)];
    if strictest == Sync::Always {
        kinds.insert(1, (Sync::Always, true));
    }
    let mut rows = Vec::new();
    for (sync, batched) in kinds {
        for message_bytes in [MESSAGE_BYTES, FRAME_BYTES] {
            rows.push(runtime.block_on(row(plan, sync, batched, message_bytes))?);
        }
    }
    Ok(rows)
}

async fn row(plan: &Plan, sync: Sync, batched: bool, message_bytes: usize) -> Result<Row> {
    let server = Server::start(&plan.directory, sync)?;
    let connections = if batched { plan.connections } else { 1 };
    let unacknowledged_max = if batched { plan.unacknowledged_max } else { 1 };
    let (count, stop) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicBool::new(false)));
    let mut publishers = Vec::new();
    for index in 0..connections {
        let client = server.connect().await?;
        let context = jetstream::ContextBuilder::new().max_ack_inflight(unacknowledged_max).build(client);
        if index == 0 {
            make_stream(&context).await?;
        }
        let payload = Bytes::from(vec![0x5a; message_bytes]);
        publishers.push(tokio::spawn(publish(context, payload, unacknowledged_max, count.clone(), stop.clone())));
    }
    tokio::time::sleep(WARM_UP).await;
    let (from, start) = (count.load(Ordering::Relaxed), Instant::now());
    tokio::time::sleep(plan.duration).await;
    let (acknowledged, seconds) = (count.load(Ordering::Relaxed) - from, start.elapsed().as_secs_f64());
    stop.store(true, Ordering::Relaxed);
    for publisher in publishers {
        publisher.await?.context("a publisher gave up")?;
    }
    Ok(Row {
        server: format!("nats-server {}", server.version),
        sync: sync.name(),
        publishing: if batched { "batched" } else { "one by one" },
        connections,
        unacknowledged_max,
        message_bytes,
        acknowledged,
        seconds,
        #[expect(clippy::cast_precision_loss, reason = "far below 2^52")]
        acknowledged_per_second: acknowledged as f64 / seconds,
        survives: if sync == Sync::Always { "power failure" } else { "a crash of the server" },
    })
}

async fn make_stream(context: &jetstream::Context) -> Result<()> {
    let config = Config {
        name: "BENCH".into(),
        subjects: vec![SUBJECT.into()],
        storage: StorageType::File,
        discard: DiscardPolicy::Old,
        max_bytes: STREAM_BYTES_MAX,
        ..Config::default()
    };
    context.create_stream(config).await.context("cannot make a stream")?;
    Ok(())
}

type Answer = Pin<Box<dyn Future<Output = Result<PublishAck, PublishError>> + Send>>;

/// Publishes with as many unacknowledged as are allowed, counting acknowledgements.
async fn publish(
    context: jetstream::Context,
    payload: Bytes,
    unacknowledged_max: usize,
    count: Arc<AtomicU64>,
    stop: Arc<AtomicBool>,
) -> Result<()> {
    let mut flying: VecDeque<Answer> = VecDeque::with_capacity(unacknowledged_max);
    while !stop.load(Ordering::Relaxed) || !flying.is_empty() {
        while flying.len() < unacknowledged_max && !stop.load(Ordering::Relaxed) {
            let answer: PublishAckFuture = context.publish(SUBJECT, payload.clone()).await?;
            flying.push_back(Box::pin(answer.into_future()));
        }
        if let Some(answer) = flying.pop_front() {
            answer.await?;
            count.fetch_add(1, Ordering::Relaxed);
        }
    }
    Ok(())
}
