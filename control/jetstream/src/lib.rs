//! Takes the truth log to NATS JetStream: every accepted message once, in the order of its shard.
//!
//! It is a program of its own, so that a node without NATS has nothing of it. It reads the logs beside whoever writes them,
//! takes only whole commits, and writes nothing but its own positions. It deliberately judges nothing (which messages were
//! accepted is in the log's decisions), mends nothing (a log that is damaged or was set back stops it), and asks for nothing but what an
//! ordinary JetStream of version 2.9 can do.
//!
//! # What is published
//!
//! One NATS message for each message, with the subject `PREFIX.SHARD.TOPIC`; or one for each frame, `PREFIX.SHARD.frames`.
//! The payload is the 64 bytes of the message and behind them what it refers to in its frame, or the frame as received.
//! `Nats-Msg-Id` is the event's identity, `SESSION.EPOCH.FRAME.SHARD.INDEX` (whole frames have no index): the identity of the
//! admission at this node. Headers [`event::LOG`], [`event::RECORD`], [`event::TICK`], [`event::UNIX_NS`] and [`event::SENDER`] say
//! where it comes from; Unix time is the newest clock record's before it and the ticks since.
//!
//! # Why nothing is lost and nothing doubled
//!
//! What has to hold at every moment: *the stream, read from its start, has of each shard's log a beginning, without holes and
//! in order* (less what the stream's limits removed again). Three rules keep it so.
//!
//! 1. Before it publishes, the exporter reads from the stream its last sequence L and the last message of every shard, all of
//!    one moment (it reads until L stays the same). The message says by its headers where it stood in the log, so the
//!    exporter knows what comes next in every shard.
//! 2. Everything then goes out as one chain. The first message asks the server to store it only if the last sequence is L
//!    (`Nats-Expected-Last-Sequence`); every later one only if the last sequence is that of the one before *and the last
//!    identity is that of the one before* (`Nats-Expected-Last-Msg-Id`). The server looks at a stream's messages one after
//!    another, so if one of the chain is missing or anything else came between, all behind it are refused.
//! 3. A refusal, a lost answer or a broken connection ends the chain: back to rule 1.
//!
//! Why both expectations are needed: messages of an earlier chain may still lie in the server's socket when an exporter that was
//! killed, or whose connection broke, has already read L. Such a straggler is stored only if it fits behind what is there,
//! and then it is the right message, because what comes behind a given stream is fixed for each shard. But it takes a place
//! that the new chain counts on; sequence alone would then let the new chain's second message pass without its first.
//! The identity refuses it. The same holds for two exporters that run against all advice: they refuse each other's chains, slowly,
//! and the stream stays right. The server's duplicate window is not relied on, so it does not matter how long ago a
//! crash was; where it recognises a message first, its answer names the place that the message has, which is checked.
//!
//! Positions on disk are therefore no part of the proof. They spare reading the log from its start, remember the clock, and
//! say how far the export was where the stream's own limits have removed a shard's last message, or somebody deleted the
//! stream. The further one of stored position and stream counts, with one exception: a server that lost its disk's newest
//! writes (it syncs every two minutes unless told otherwise) has a last sequence below one that it acknowledged; then the
//! stream alone counts, and what was lost is sent again.
//!
//! # Why a position may fall between a frame and its decisions
//!
//! What became of a frame's messages stands in a record behind it: mostly in the same commit, after a crash of control in a later
//! one, and never if the node went with it. So a frame waits, and those behind it wait with it, until the log has decided it or has
//! gone on without: with decisions of another turn of its worker, or with another start of the node. What is published of a
//! log, and in which order, thus follows from the log alone, as rule 1 needs it.
//!
//! A position is a message of a frame, and there may be more of its turn behind it, whose decisions came before the crash and are read once
//! more. Reading begins with the segment that has the position's frame, so every frame behind the position is read, and its
//! decisions are behind it again. Frames of the same turn that are in an earlier segment are not read; but decisions say how
//! many frames their turn has in this log ([`tachyon_wire::tap::TurnParts`], or the one body that there is), and the frames of a turn
//! are in order, so the first ones are those that are missing, and each of the others gets its own decision
//! ([`tachyon_log::decided`]). What is before the position is passed over, whatever is said of it. The same holds where
//! retention removed the beginning of a turn.
//!
//! # What remains
//!
//! A commit is taken as soon as it is whole, which is before it is durable on the node's own disk. If the node then loses it to a
//! power failure, the stream has messages that the log does not have any more. The exporter knows its log again by the hash of
//! the last commit that it read, so it finds that out, says so and stops, instead of publishing other records over them.
//!
//! The rest is the log's: a message that it has twice under one identity is in the stream once if the duplicate window
//! covers the time between, as the server refuses the second (counted), else twice.
#![forbid(unsafe_code)]

pub mod accepts;
pub mod event;
pub mod export;
pub mod follow;
pub mod positions;
pub mod settings;
pub mod shard;
pub mod status;
pub mod stream;

pub use accepts::{Accepts, Decided, EveryMessage, Judged};
pub use export::Exporter;
pub use settings::Settings;
pub use status::Status;
