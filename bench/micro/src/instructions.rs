//! `instructions`: a run that callgrind can count, the same every time.
//!
//! What is prepared does not depend on `--rounds`, only how much of it is received: so two runs differ by the loop alone.

use crate::{
    case::Case,
    input::{self, Source},
    replay::PER_CALL,
    whole::{Clock, Loop},
};
use serde_json::{Value, json};
use std::sync::Arc;

/// Rounds that are prepared, whatever is received.
const PREPARED: usize = 20;

/// How much of it is received.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Bursts of four buffers to receive, up to 20.
    #[arg(long, default_value_t = PREPARED)]
    rounds: usize,
}

/// Prints one JSON object, with or without `--json`: it is for a program.
pub(crate) fn run(case: &Case, args: Args, seed: u64) -> Result<(), String> {
    /// Under valgrind everything takes fifty times as long, and instructions do not depend on caches.
    const TOPICS: u32 = 1_024;
    /// As above.
    const SESSIONS: u32 = 16;
    /// As above.
    const SENDERS: u32 = 256;
    let case = Case { topics: TOPICS, sessions: SESSIONS, senders: SENDERS, ..*case };
    if let Some(fault) = case.fault() {
        return Err(fault.to_owned());
    }
    let rulesets = Arc::new(vec![input::ruleset(&case, 1)]);
    let buffers = PREPARED * PER_CALL;
    let source = Source::of(&case, seed, buffers * case.per_buffer());
    let mut whole = Loop::with(&case, source, rulesets, Clock::Steps(0), buffers);
    let before = whole.worker.stats().counters.messages_accepted;
    whole.load(buffers);
    whole.keep(args.rounds * PER_CALL);
    whole.drain();
    whole.check();
    let messages = whole.worker.stats().counters.messages_accepted - before;
    println!("{}", json!({ "messages": messages, "rounds": args.rounds, "machine": features() }));
    Ok(())
}

/// The instruction sets on which the code, ours and that of libraries, depends at run time. Valgrind shows its own.
fn features() -> Value {
    #[cfg(target_arch = "x86_64")]
    let found = [
        ("avx2", std::is_x86_feature_detected!("avx2")),
        ("avx512f", std::is_x86_feature_detected!("avx512f")),
        ("aes", std::is_x86_feature_detected!("aes")),
        ("vaes", std::is_x86_feature_detected!("vaes")),
        ("pclmulqdq", std::is_x86_feature_detected!("pclmulqdq")),
        ("vpclmulqdq", std::is_x86_feature_detected!("vpclmulqdq")),
        ("sse4.2", std::is_x86_feature_detected!("sse4.2")),
    ];
    #[cfg(not(target_arch = "x86_64"))]
    let found = [("x86-64", false)];
    let names: Vec<&str> = found.iter().filter(|(_, found)| *found).map(|(name, _)| *name).collect();
    json!(format!("{} {}", std::env::consts::ARCH, names.join(" ")))
}
