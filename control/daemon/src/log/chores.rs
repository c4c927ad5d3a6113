//! What is done for a shard's log now and then: checkpoints, snapshots, and the removal of what is too old or too much.

use super::{Now, Settings, folders::Folders, shard::Shard};
use std::io;
use tachyon_log::{Error, Record, Signer};
use tracing::{info, warn};

/// A snapshot is worth its writing once it saves a start from reading so many records: a few milliseconds.
const SNAPSHOT_RECORDS: u64 = 10_000;
/// How often it is looked whether something is to be removed; the disk has room for this long because the next segment's
/// space is taken ahead.
const RETAIN_NS: u64 = 10_000_000_000;
/// The same while the disk is full.
const RETAIN_FULL_NS: u64 = 1_000_000_000;

/// A shard's checkpoints, and the size of its log.
#[derive(Debug)]
pub(crate) struct Chores {
    signer: Signer,
    /// Whether the public key is where others find it.
    published: bool,
    /// How often the log was opened when this was looked at last.
    opened: u64,
    checkpoint_at: u64,
    /// Sequence behind the newest checkpoint.
    covered: u64,
    /// A checkpoint that is not durable yet: its sequence, its note, and when it was made.
    waiting: Option<(u64, String, u64)>,
    /// Records that the newest snapshot covers, and one of which not all are durable yet.
    snapped: u64,
    snapshot: Option<(u64, Vec<u8>)>,
    retain_at: u64,
    /// Records that the newest durable checkpoint covers, and Unix nanoseconds of its making.
    pub(crate) checkpoint: Option<(u64, u64)>,
    /// Bytes of all segments.
    pub(crate) bytes: u64,
}

impl Chores {
    /// For a shard that signs with this.
    pub(crate) const fn new(signer: Signer) -> Self {
        Self {
            signer,
            published: false,
            opened: 0,
            checkpoint_at: 0,
            covered: 0,
            waiting: None,
            snapped: 0,
            snapshot: None,
            retain_at: 0,
            checkpoint: None,
            bytes: 0,
        }
    }

    /// What signs.
    pub(crate) const fn signer(&self) -> &Signer {
        &self.signer
    }

    /// Does what is due. `boot_id` is that of the connected `tachyond`.
    pub(crate) fn run<F: Folders>(
        &mut self,
        number: u16,
        shard: &mut Shard<F::Storage>,
        now: Now,
        boot_id: &[u8; 16],
        settings: &Settings,
        folders: &mut F,
    ) {
        let said = |what: &str, error: io::Error| warn!("log of shard {number}: cannot {what}: {error}");
        if !self.published {
            self.published = true;
            folders
                .publish_key(&self.signer.verifier().to_string())
                .unwrap_or_else(|error| said("write log.pub", error));
        }
        if self.opened != shard.opened() {
            // The log may have gone back, and then a checkpoint that was not durable is one of another log.
            (self.opened, self.waiting, self.snapshot) = (shard.opened(), None, None);
            self.covered = self.covered.min(shard.progress().0);
        }
        if now.tick >= self.checkpoint_at {
            if self.checkpoint_at > 0 {
                self.checkpoint(shard, now, boot_id);
                self.snapshot = self.snapshot.take().or_else(|| shard.snapshot(self.snapped + SNAPSHOT_RECORDS));
            }
            self.checkpoint_at = now.tick.saturating_add(settings.checkpoint_interval_ns);
        }
        let (_, _, durable) = shard.progress();
        if let Some((_, note, unix_ns)) = self.waiting.take_if(|(sequence, ..)| *sequence < durable) {
            // Only now: a checkpoint that is known outside must never cover what a power cut takes away.
            folders.keep_checkpoint(number, &note).unwrap_or_else(|error| said("write the checkpoint", error));
            self.checkpoint = Some((self.covered.saturating_sub(1), unix_ns));
        }
        self.keep_snapshot(number, durable, folders);
        if now.tick >= self.retain_at {
            let full = shard.trouble().is_some();
            self.retain_at = now.tick.saturating_add(if full { RETAIN_FULL_NS } else { RETAIN_NS });
            let segments = folders.segments(number);
            match segments {
                Ok(segments) => self.retain(number, shard, now, settings, &segments),
                Err(error) => said("list its segments", error),
            }
        }
    }

    /// Keeps the snapshot that waits, once all that it covers is durable: a log must never be shorter than what is said of it.
    fn keep_snapshot<F: Folders>(&mut self, number: u16, durable: u64, folders: &mut F) {
        if let Some((records, snapshot)) = self.snapshot.take_if(|(records, _)| *records <= durable) {
            self.snapped = records;
            folders
                .keep_snapshot(number, records, &snapshot)
                .unwrap_or_else(|error| warn!("log of shard {number}: cannot keep a snapshot: {error}"));
        }
    }

    /// The same of a log that has ended in good order.
    pub(crate) fn keep_last_snapshot<F: Folders>(&mut self, number: u16, shard: &Shard<F::Storage>, folders: &mut F) {
        self.snapshot = shard.snapshot(self.snapped);
        self.keep_snapshot(number, shard.progress().2, folders);
    }

    fn checkpoint<S: tachyon_log::Storage>(&mut self, shard: &mut Shard<S>, now: Now, boot_id: &[u8; 16]) {
        let next = shard.progress().0;
        if next <= self.covered || self.waiting.is_some() || shard.clock(now, boot_id).is_err() {
            return;
        }
        let Some(appender) = shard.appender() else { return };
        let (sequence, root) = (appender.next_sequence(), appender.root());
        let note = self.signer.checkpoint(sequence, &root);
        if shard.append(now, now.tick, &Record::Checkpoint(&note)).is_ok() {
            self.covered = sequence + 1;
            self.waiting = Some((sequence, note, now.unix_ns));
            shard.ask_for_sync();
        }
    }

    fn retain<S: tachyon_log::Storage>(
        &mut self,
        number: u16,
        shard: &mut Shard<S>,
        now: Now,
        settings: &Settings,
        segments: &[(u64, u64)],
    ) {
        self.bytes = (segments.len() as u64).saturating_mul(settings.segment_bytes);
        if let Some((first, _)) = segments.first() {
            shard.forget_images(*first);
        }
        // A segment is too old when its last record is, which is when it was written last.
        let limit = settings.keep_ns.map_or(0, |keep| now.unix_ns.saturating_sub(keep));
        let aged = segments.iter().take_while(|(_, written)| *written < limit).count();
        // The last one is filled still, however long ago that was.
        let aged = aged.min(segments.len().saturating_sub(1));
        let aged_end = segments.get(aged).filter(|_| aged > 0).map_or(0, |(first, _)| *first);
        let bytes_max = settings.keep_bytes.unwrap_or(u64::MAX);
        let Some(appender) = shard.appender() else { return };
        match appender.retain_from(now.tick, now.unix_ns, bytes_max, aged_end, &self.signer) {
            Ok(0) | Err(Error::Busy | Error::Failed) => {}
            Ok(buried) => info!("log of shard {number}: {buried} old segments are removed"),
            Err(error) => warn!("log of shard {number}: cannot remove old segments: {error}"),
        }
    }
}
