//! What may be written behind `tachyon log`.

use crate::arguments::Form;
use clap::{Args, Subcommand, ValueEnum};
use std::{ops::RangeInclusive, path::PathBuf};

const AFTER_VERIFY: &str = "\
Exit codes: 0 the log may be believed, 1 damage was found, 2 usage or unreadable files. A torn end, which every crash leaves, is
no damage.

A log that was set back as a whole, with all its files, is sound in itself; only a checkpoint that was kept elsewhere shows it:
give it with --checkpoint.

JSON: {directory, sound, shards: [{shard, path, sound, log_id, log_shard, key, segments, commits, records, first_sequence,
next_sequence, sound_sequence, root, checkpoints, findings: [{file, offset, segment, commit, record, fault, grave, what}]}]}.
next_sequence is behind the last record that holds, and below sound_sequence nothing is wrong; log_id and root are hex; what is not
known is null.";

const AFTER_SHOW: &str = "\
JSON: {damaged, records: [RECORD]}. A RECORD has shard, sequence, tick (ns of the node's clock), unix_ns (null where no clock record
says), kind, and by kind:
  frame       source, worker, burst, fault (null, or why it is no frame: then only frame, in hex, follows), type, flags, route_id,
              frame_id, session_id, frame_shard, epoch, sent_ns, frame_bytes, messages: [{index, topic_id, sender_id, class, flags, mode, payload, text, fault, provenance}]
  decisions   worker, turn, ruleset_version, pressure, free_buffers, refuses (null, or why the log took no messages), turn_flags,
              stable_turn, egress_frames, egress_digest, turn_shards (null, or all shards with a part of the turn), commands: [{command,
              and its fields}], frames: [{kept (whole: as a record of its own, before this one; stubs: header and the first 16
              bytes of each message; head: 64 bytes of one that was not admitted), reason (of one that was not admitted),
              messages, held, refused: [{index, reason}], for_log, session_id, epoch, frame_id (null where kept is whole), source,
              item_shard, place}]. Messages that are not refused were accepted; held ones waited for the log.
              Of a body that is no turn: bytes, head
  ruleset     version, total_bytes, offset, bytes
  command     command, and its fields; keys are never logged, only their names
  clock       boot_id, boot, clock_unix_ns
  gap         count, first_tick, last_tick, reason, of_kind
  tombstone   first, end, end_commit, chain, root, removed_unix_ns, why, signature
  checkpoint  origin, size, root, note
Payloads and hashes are hex; text is null where a payload is none.";

const AFTER_TAIL: &str = "\
JSON lines: a RECORD a line, as `tachyon log show --help` describes it, with only the messages that the filters let pass.
With a filter only frames are shown.";

const AFTER_PROVE: &str = "\
Inclusion is printed as a tlog-proof (c2sp.org/tlog-proof), with the record's bytes as its extra data; what is hashed is header and
body of the record, as RFC 6962 hashes a leaf. Consistency is printed as a witness is sent it (c2sp.org/tlog-witness, add-checkpoint).
Both end in the signed checkpoint, so that nothing but the key is needed to check them, by `tachyon log check-proof` or any other
tool for these forms.

JSON: inclusion {proof, shard, index, leaf_hash, size, root, path, checkpoint, text}; consistency {proof, shard, old_size, old_root,
size, root, path, checkpoint, text}, in which checkpoint and text are null where no checkpoint of that size is there. Hashes are
base64.";

const AFTER_CHECK: &str = "\
Exit codes: 0 it holds, 1 it does not, 2 usage.

JSON: {proof, holds, why, origin, size, root, index, leaf_hash, record} or {proof, holds, why, origin, old_size, old_root, size, root};
record is as `tachyon log show --help` describes it, why is null if it holds.";

const AFTER_CHECKPOINT: &str = "\
JSON: {shard, sequence, origin, size, root, note, checked}; checked is null without a key.";

const AFTER_EXPORT: &str = "\
pcapng: each frame as UDP in IP in Ethernet, from its source to the port of its shard, at the time that the log's clock records give
its tick (where there are none: the tick itself), with shard and sequence as a comment. The node's own address is not in the log and
reads as zeros.

parquet: a row per message: shard, sequence, index, tick, unix_ns, session, epoch, frame_id, topic_id, sender_id, class, flags, mode,
data, payload, verdict. unix_ns is null where no clock record says; payload where a message has none in the log. verdict is
\"accepted\", or the code of the reason why not; null where the log has no decisions, as behind a crash. Messages of frames that are not
recorded whole have no row.

JSON: {format, file, frames, messages, left_out, damaged}.";

/// The commands that read a truth log.
#[derive(Debug, Subcommand)]
pub(crate) enum LogCommand {
    /// Judges every segment of every shard: chain, crcs, tree, checkpoints, tombstones.
    #[command(after_help = AFTER_VERIFY)]
    Verify(Verify),
    /// Shows records, decoded.
    #[command(after_help = AFTER_SHOW)]
    Show(Show),
    /// Shows the newest records, a line for each frame and message; follows the log if told to.
    #[command(after_help = AFTER_TAIL)]
    Tail(Tail),
    /// Proves that a record is in the log, or that the log was only appended to.
    #[command(after_help = AFTER_PROVE)]
    Prove(Prove),
    /// Checks a proof. Needs no log, only its key.
    #[command(after_help = AFTER_CHECK)]
    CheckProof(CheckProof),
    /// Prints the newest signed checkpoint of a shard, to be kept elsewhere.
    #[command(after_help = AFTER_CHECKPOINT)]
    Checkpoint(CheckpointOf),
    /// Writes frames to a capture file, or messages to a table.
    #[command(after_help = AFTER_EXPORT)]
    Export(Export),
    #[command(flatten)]
    Replay(crate::replay::ReplayCommand),
}

/// Which log.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The log's folder, in which each shard has one of its own; or the folder of one shard.
    #[arg(long, value_name = "DIR", env = "TACHYON_LOG_DIR", default_value = "/var/lib/tachyon/log")]
    pub(crate) directory: PathBuf,
    /// One shard alone.
    #[arg(long, value_name = "N")]
    pub(crate) shard: Option<u16>,
}

/// Which key.
#[derive(Debug, Args)]
pub(crate) struct Key {
    /// The log's verifier key (name+id+key), or a file with it. Without it: log.pub in the log's folder.
    #[arg(long, value_name = "KEY")]
    pub(crate) key: Option<String>,
}

#[derive(Debug, Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) key: Key,
    /// A checkpoint that was kept elsewhere; may be given several times, for one shard.
    #[arg(long = "checkpoint", value_name = "FILE")]
    pub(crate) checkpoints: Vec<PathBuf>,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Show {
    /// A record's sequence, or the first and the last: `5` or `5..9`.
    #[arg(value_name = "SEQ[..SEQ]", value_parser = range)]
    pub(crate) range: RangeInclusive<u64>,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct Tail {
    /// How many records; with filters, how many that pass.
    #[arg(short = 'n', long = "lines", value_name = "N", default_value_t = 10)]
    pub(crate) count: usize,
    /// Goes on as the log grows, until it is interrupted.
    #[arg(long, short)]
    pub(crate) follow: bool,
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) form: Form,
}

/// Which frames and messages. Several values of one filter are alternatives; different filters must all let pass.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Filter {
    /// Only messages of this topic.
    #[arg(long = "topic", value_name = "ID")]
    pub(crate) topics: Vec<u32>,
    /// Only messages of this sender.
    #[arg(long = "sender", value_name = "ID")]
    pub(crate) senders: Vec<u32>,
    /// Only frames of this session.
    #[arg(long = "session", value_name = "ID")]
    pub(crate) sessions: Vec<u32>,
}

#[derive(Debug, Args)]
pub(crate) struct Prove {
    /// The record whose inclusion is proved.
    #[arg(value_name = "SEQ", required_unless_present = "from", conflicts_with_all = ["from", "to"])]
    pub(crate) sequence: Option<u64>,
    /// Records of the older tree, as its checkpoint says.
    #[arg(long, value_name = "SIZE")]
    pub(crate) from: Option<u64>,
    /// Records of the newer tree; without it, those of the newest checkpoint.
    #[arg(long, value_name = "SIZE", requires = "from")]
    pub(crate) to: Option<u64>,
    /// The checkpoint to prove against; without it, the newest of the log.
    #[arg(long, value_name = "FILE", conflicts_with = "to")]
    pub(crate) checkpoint: Option<PathBuf>,
    /// Writes the record's bytes (what is hashed as the leaf) to this file too.
    #[arg(long, value_name = "FILE", requires = "sequence")]
    pub(crate) record: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) key: Key,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct CheckProof {
    /// The proof; `-` reads standard input.
    pub(crate) file: PathBuf,
    /// Of a proof of inclusion: the record's bytes, where they are not in the proof or not to be taken from it.
    #[arg(long, value_name = "FILE")]
    pub(crate) record: Option<PathBuf>,
    /// Of a proof of consistency: the older checkpoint.
    #[arg(long, value_name = "FILE")]
    pub(crate) old: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) key: Key,
    #[command(flatten)]
    pub(crate) form: Form,
}

#[derive(Debug, Args)]
pub(crate) struct CheckpointOf {
    /// The checkpoint of this many records instead, if it is in the log.
    #[arg(long, value_name = "SIZE")]
    pub(crate) at: Option<u64>,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) key: Key,
    #[command(flatten)]
    pub(crate) form: Form,
}

/// What an export is written as.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// A capture of frames, for Wireshark.
    Pcapng,
    /// A table of messages, for pandas, DuckDB and their like.
    Parquet,
}

#[derive(Debug, Args)]
pub(crate) struct Export {
    /// What is written.
    #[arg(long, value_enum)]
    pub(crate) format: Format,
    /// The file; one that is there is replaced.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: PathBuf,
    /// The first record.
    #[arg(long, value_name = "SEQ", default_value_t = 0)]
    pub(crate) from: u64,
    /// The last record.
    #[arg(long, value_name = "SEQ", default_value_t = u64::MAX, hide_default_value = true)]
    pub(crate) to: u64,
    /// The UDP port of shard 0, for pcapng.
    #[arg(long, value_name = "PORT", default_value_t = tachyon_wire::frame::BASE_PORT)]
    pub(crate) base_port: u16,
    #[command(flatten)]
    pub(crate) filter: Filter,
    #[command(flatten)]
    pub(crate) place: Place,
    #[command(flatten)]
    pub(crate) form: Form,
}

fn range(text: &str) -> Result<RangeInclusive<u64>, String> {
    let number = |text: &str| text.parse::<u64>().map_err(|_| format!("`{text}` is no sequence"));
    let (first, last) = match text.split_once("..") {
        None => (number(text)?, number(text)?),
        Some((first, last)) => (number(first)?, number(last)?),
    };
    if first > last { Err("the first is behind the last".to_owned()) } else { Ok(first..=last) }
}

#[cfg(test)]
mod tests {
    use super::range;

    #[test]
    fn a_range_has_both_its_ends() {
        assert_eq!(range("5"), Ok(5..=5));
        assert_eq!(range("5..9"), Ok(5..=9));
        for wrong in ["", "..", "5..", "..5", "9..5", "5..6..7", "-1", "x"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
