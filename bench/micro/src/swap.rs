//! `swap`: a new ruleset as a worker feels it, and what making one costs the control process.
//!
//! Two things are told apart. *Adopting* is what the worker does in the burst that first sees the new version: it is measured
//! with a burst of one heartbeat, which has no message. *Refreshing* is what each topic and sender costs when it is touched
//! for the first time after that: it shows with a burst of one message, in full bursts, and in the millisecond that follows.

use crate::{
    Common,
    case::Case,
    cycle::print_targets,
    input::{self, Source},
    machine, median, rows,
    whole::{Clock, Loop},
};
use serde_json::{Value, json};
use std::{sync::Arc, time::Instant};
use tachyon_driver_api::{Buffer, Received};
use tachyon_policy::{Verified, compile::compile, verify};

/// Rulesets that take turns. A worker only asks whether a version is another one than before, so old ones may come back;
/// but a topic that nobody touched while all the others had their turn passes for current when its version returns. With
/// eight, and a tenth of a million topics touched per swap, that spares less than a tenth of the refreshing.
const VERSIONS: u64 = 8;
/// Swaps between two looks at what an ordinary burst takes, because a shared machine changes its mind.
const BLOCK: usize = 250;
/// Bursts of such a look.
const LOOK: usize = 64;
/// Received and judged between two swaps.
const LOAD_NS: f64 = 1e6;

/// What `swap` takes beside the rest.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Swaps per number of topics; a third of them meet a burst of a heartbeat, of one message, and a full one each.
    #[arg(long, default_value_t = 10_000)]
    swaps: usize,
}

/// Measures and prints.
pub(crate) fn run(args: Args, common: &Common) {
    let swaps = if common.quick { args.swaps / 10 } else { args.swaps }.max(3);
    let machine = machine::describe();
    if !common.json {
        println!("{swaps} swaps under full load at each size, ns, seed {}", common.seed);
        machine::print(&machine);
        println!("\n{:<12}{:<44}{:>10}{:>10}{:>12}", "topics", "extra", "P50", "P99", "max");
    }
    let mut sizes = Vec::new();
    for topics in [1_024, 65_536, 1_000_000] {
        let size = at(topics, swaps, common.seed);
        if !common.json {
            print(&size);
        }
        sizes.push(size);
    }
    let adopting = sizes[1]["adopting_ns"]["p99"].as_f64().unwrap_or(f64::NAN);
    let targets = vec![rows::target("adopting a ruleset, 65,536 topics, P99, ns", adopting, 200.0)];
    if common.json {
        let result = json!({ "sizes": sizes, "targets": targets, "versions": VERSIONS, "seed": common.seed, "machine": machine });
        println!("{result}");
    } else {
        println!();
        print_targets(&targets);
    }
}

/// What was seen, by kind.
#[derive(Debug, Default)]
struct Seen {
    /// Bursts of a heartbeat that met no swap: what the clock and the machine add by themselves.
    calm: Vec<f64>,
    /// Bursts of a heartbeat that adopted.
    adopting: Vec<f64>,
    /// Bursts of one message that met no swap.
    calm_message: Vec<f64>,
    /// Bursts of one message that adopted.
    message: Vec<f64>,
    /// Full bursts that adopted.
    burst: Vec<f64>,
    /// Full bursts of the millisecond after a swap together.
    millisecond: Vec<f64>,
    /// Medians of ordinary full bursts.
    ordinary: Vec<f64>,
}

fn at(topics: u32, swaps: usize, seed: u64) -> Value {
    let case = Case { topics, ..Case::BASE };
    let (rulesets, compile_ms, verify_ms, bytes) = rulesets(&case);
    let mut whole =
        Loop::with(&case, Source::new(&case, seed), Arc::new(rulesets), Clock::Since(Instant::now()), case.ring());
    let mut seen = Seen::default();
    let swapped = whole.worker.stats().counters.ruleset_swaps;
    let mut done = 0;
    while done < swaps {
        let block = BLOCK.min(swaps - done);
        block_of(&mut whole, block, &mut seen);
        done += block;
    }
    whole.check();
    let counted = whole.worker.stats().counters.ruleset_swaps - swapped;
    assert_eq!(counted, swaps as u64, "the worker saw every swap");
    let (calm, calm_message) = (median(seen.calm.clone()), median(seen.calm_message.clone()));
    json!({
        "topics": topics, "swaps": swaps, "ordinary_burst_ns": median(seen.ordinary.clone()),
        "messages_per_burst": case.ring() * case.per_buffer(), "heartbeat_burst_ns": calm, "single_message_burst_ns": calm_message,
        "no_swap_ns": spread(&seen.calm, calm), "adopting_ns": spread(&seen.adopting, calm),
        "single_message_ns": spread(&seen.message, calm_message),
        "full_burst_ns": spread(&seen.burst, 0.0), "following_millisecond_ns": spread(&seen.millisecond, 0.0),
        "compile_ms": compile_ms, "verify_ms": verify_ms, "image_bytes": bytes,
    })
}

/// Some swaps, after a look at what is ordinary.
fn block_of(whole: &mut Loop, swaps: usize, seen: &mut Seen) {
    let ordinary = ordinary(whole);
    seen.ordinary.push(ordinary);
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bursts in a millisecond")]
    let following = (LOAD_NS / ordinary).ceil() as usize;
    for number in 0..swaps {
        match number % 3 {
            0 => {
                seen.calm.push(single(whole, Source::heartbeat));
                swap(whole);
                seen.adopting.push(single(whole, Source::heartbeat));
            }
            1 => {
                seen.calm_message.push(single(whole, Source::single));
                swap(whole);
                seen.message.push(single(whole, Source::single));
            }
            _ => {
                swap(whole);
                seen.burst.push(full(whole) - ordinary);
            }
        }
        let extra: f64 = (0..following).map(|_| full(whole) - ordinary).sum();
        if number % 3 < 2 {
            seen.millisecond.push(extra); // in the third case the burst that adopted did some of its work
        }
    }
}

/// Puts the next ruleset in force, after a full burst, so that the next one finds the caches as the last one did.
fn swap(whole: &mut Loop) {
    full(whole);
    let host = whole.worker.host();
    host.current = (host.current + 1) % host.rulesets.len();
}

/// What a full burst takes when every topic was refreshed, or nearly.
fn ordinary(whole: &mut Loop) -> f64 {
    let settle = 2 * whole.case.topics as usize / (whole.case.ring() * whole.case.per_buffer());
    (0..settle).for_each(|_| {
        full(whole);
    });
    median((0..LOOK).map(|_| full(whole)).collect())
}

/// A burst of four full buffers, until the last copy is sent.
fn full(whole: &mut Loop) -> f64 {
    whole.load(whole.case.ring());
    whole.timed().as_secs_f64() * 1e9
}

/// The turn that receives a burst of one frame.
fn single(whole: &mut Loop, make: fn(&mut Source, Buffer) -> Received) -> f64 {
    let queue = whole.worker.queue();
    let buffer = queue.spare.pop().expect("all buffers are back");
    queue.input.push_back(make(&mut whole.source, buffer));
    let now = whole.clock.tick();
    let begun = Instant::now();
    whole.worker.poll(now);
    let ns = begun.elapsed().as_secs_f64() * 1e9;
    whole.drain();
    ns
}

/// The rulesets; milliseconds to compile and to verify one, and its bytes.
fn rulesets(case: &Case) -> (Vec<Verified<Vec<u8>>>, f64, f64, usize) {
    let (mut compiled, mut verified, mut bytes) = (Vec::new(), Vec::new(), 0);
    let ms = |begun: Instant| begun.elapsed().as_secs_f64() * 1e3;
    let rulesets = (1..=VERSIONS).map(|version| {
        let source = input::source(case, version);
        let begun = Instant::now();
        let image = compile(&source).expect("the ruleset compiles");
        compiled.push(ms(begun));
        bytes = image.len();
        let begun = Instant::now();
        let ruleset = verify(image, case.place.shards).expect("the ruleset is sound");
        verified.push(ms(begun));
        ruleset
    });
    (rulesets.collect(), median(compiled), median(verified), bytes)
}

/// Quantiles of what lies above `base`.
fn spread(figures: &[f64], base: f64) -> Value {
    let mut sorted: Vec<f64> = figures.iter().map(|ns| (ns - base).round()).collect();
    sorted.sort_by(f64::total_cmp);
    let at = |permille: usize| sorted.get(sorted.len() * permille / 1_000).or(sorted.last()).copied();
    json!({ "p50": at(500), "p99": at(990), "max": sorted.last(), "count": sorted.len() })
}

fn print(size: &Value) {
    let lines = [
        ("a burst of a heartbeat, no swap", "no_swap_ns"),
        ("a burst of a heartbeat that adopts", "adopting_ns"),
        ("a burst of one message that adopts", "single_message_ns"),
        ("a full burst that adopts", "full_burst_ns"),
        ("the full bursts of the following millisecond", "following_millisecond_ns"),
    ];
    let topics = size["topics"].as_u64().unwrap_or(0);
    for (name, key) in lines {
        let of = |quantile: &str| size[key][quantile].as_f64().unwrap_or(f64::NAN);
        println!("{topics:<12}{name:<44}{:>10.0}{:>10.0}{:>12.0}", of("p50"), of("p99"), of("max"));
    }
    let of = |key: &str| size[key].as_f64().unwrap_or(f64::NAN);
    println!(
        "{topics:<12}an ordinary full burst of {} messages takes {:.0} ns; compiling {:.1} ms, verifying {:.1} ms, {:.1} MB",
        size["messages_per_burst"],
        of("ordinary_burst_ns"),
        of("compile_ms"),
        of("verify_ms"),
        of("image_bytes") / 1e6
    );
}
