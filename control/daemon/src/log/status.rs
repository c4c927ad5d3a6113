//! How the logs are, for whoever asks.

use super::shard::Trouble;
use tachyon_proto::v1;
use tachyon_wire::Reason;

/// How one shard's log is.
#[derive(Clone, Debug)]
pub(crate) struct ShardStatus {
    pub(crate) shard: u16,
    pub(crate) trouble: Option<Trouble>,
    /// Records below these sequences are written, and durable.
    pub(crate) written: u64,
    pub(crate) durable: u64,
    /// How long ago the first record came that is not durable; 0 if all are.
    pub(crate) loss_window_ns: u64,
    pub(crate) bytes: u64,
    /// Records that the newest checkpoint covers, and Unix nanoseconds of its making.
    pub(crate) checkpoint: Option<(u64, u64)>,
}

/// How one worker's turns get there.
#[derive(Clone, Debug)]
pub(crate) struct WorkerStatus {
    pub(crate) worker: u16,
    /// The newest turn that is in the logs.
    pub(crate) turns: u64,
    pub(crate) turns_lost: u64,
    pub(crate) ring_bytes: u64,
    pub(crate) ring_used_bytes: u64,
    /// What it is told, and why.
    pub(crate) refuses: Option<(Reason, String)>,
}

/// How everything is.
#[derive(Clone, Debug, Default)]
pub(crate) struct LogStatus {
    /// What is wrong beside the logs themselves; empty if nothing.
    pub(crate) problem: String,
    pub(crate) shards: Vec<ShardStatus>,
    pub(crate) workers: Vec<WorkerStatus>,
}

impl LogStatus {
    /// As the interface has it.
    pub(crate) fn message(&self, directory: &str) -> v1::LogStatus {
        let shard = |shard: &ShardStatus| v1::LogShard {
            shard: shard.shard.into(),
            state: shard.trouble.as_ref().map_or("running", |trouble| state_name(trouble.reason)).to_owned(),
            why: shard.trouble.as_ref().map(|trouble| trouble.why.clone()).unwrap_or_default(),
            written: shard.written,
            durable: shard.durable,
            loss_window_ms: shard.loss_window_ns.div_ceil(1_000_000),
            bytes: shard.bytes,
            checkpoint_records: shard.checkpoint.map_or(0, |(records, _)| records),
            checkpoint_unix_s: shard.checkpoint.map_or(0, |(_, unix_ns)| unix_ns / 1_000_000_000),
        };
        let worker = |worker: &WorkerStatus| v1::LogWorker {
            worker: worker.worker.into(),
            turns: worker.turns,
            turns_lost: worker.turns_lost,
            ring_bytes: worker.ring_bytes,
            ring_used_bytes: worker.ring_used_bytes,
            refuses: worker.refuses.as_ref().map(|(reason, _)| reason.code().to_owned()).unwrap_or_default(),
            why: worker.refuses.as_ref().map(|(_, why)| why.clone()).unwrap_or_default(),
        };
        v1::LogStatus {
            directory: directory.to_owned(),
            problem: self.problem.clone(),
            shards: self.shards.iter().map(shard).collect(),
            workers: self.workers.iter().map(worker).collect(),
        }
    }
}

/// The state of a shard's log that publishers are told this reason for.
const fn state_name(reason: Reason) -> &'static str {
    match reason {
        Reason::PersistDiskFull => "full",
        Reason::PersistTimeout => "stalled",
        Reason::PersistCorrupt => "damaged",
        _ => "failed",
    }
}
