//! `scale`: one worker per core, each with shards, input and memory of its own, on 1, 2, 4 … cores.
//!
//! Every worker has the same amount of work and of state at every step, so what is lost is what cores take from each other:
//! shared cache, memory, clock, and on a virtual machine whoever else is on the host.

use crate::{
    Common,
    case::{Case, Place, WorkingSet},
    cycle::print_targets,
    input, machine, median, rows,
    whole::{Clock, Loop},
};
use serde_json::{Value, json};
use std::{
    hint::spin_loop,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    thread,
    time::{Duration, Instant},
};
use tachyon_policy::{TopicState, Verified};

/// Shards of the fabric: as many as a fabric can have, so that up to 64 workers have some.
const SHARDS: u16 = 64;
/// Topics of each worker: 64 workers have as many as an image can hold.
const TOPICS_EACH: u32 = 16_384;

/// What `scale` takes beside the rest.
#[derive(Clone, Copy, Debug, clap::Args)]
pub(crate) struct Args {
    /// Most cores to use; without it all of them, up to 64.
    #[arg(long)]
    cores: Option<usize>,
}

/// Measures and prints.
pub(crate) fn run(args: Args, common: &Common) -> Result<(), String> {
    let allowed = machine::allowed();
    let wanted = args.cores.unwrap_or(allowed.len()).min(usize::from(SHARDS));
    if wanted == 0 || wanted > allowed.len() {
        return Err(format!(
            "--cores {wanted}: this process may use 1 to {} cores",
            allowed.len().min(usize::from(SHARDS))
        ));
    }
    let machine = machine::describe();
    if !common.json {
        println!(
            "one worker per core, {TOPICS_EACH} topics and 256 sessions each, 22 a frame, crc -> crc, seed {}",
            common.seed
        );
        machine::print(&machine);
        println!(
            "\n{:<6}{:>7}{:>18}{:>12}{:>14}  messages/s of each core",
            "input", "cores", "messages/s", "efficiency", "MB/s, about"
        );
    }
    let (mut steps, mut limits) = (Vec::new(), Vec::new());
    for working_set in [WorkingSet::L2, WorkingSet::Dram] {
        let mut single = f64::NAN;
        for count in counts(wanted) {
            let step = step(working_set, &allowed[..count], wanted, common, &mut single)?;
            if !common.json {
                print(&step);
            }
            steps.push(step);
        }
        limits.push(limit(working_set, wanted, &steps));
    }
    end(&steps, &limits, &machine, common);
    Ok(())
}

/// 1, 2, 4 … and the last, whatever it is.
fn counts(most: usize) -> Vec<usize> {
    let mut counts: Vec<usize> = (0..).map(|power| 1 << power).take_while(|count| *count < most).collect();
    counts.push(most);
    counts
}

/// The case of worker `number` of at most `most`.
fn case(working_set: WorkingSet, number: usize, most: usize) -> Case {
    let slots = most.next_power_of_two();
    let word = |number: usize| u16::try_from(number).unwrap_or(u16::MAX);
    let owned = SHARDS / word(slots);
    Case {
        topics: TOPICS_EACH * u32::from(word(slots)),
        working_set,
        place: Place { shards: SHARDS, first: word(number) * owned, owned, workers: word(most) },
        ..Case::BASE
    }
}

/// One number of cores; each worker's median, and what they come to together.
fn step(
    working_set: WorkingSet,
    cores: &[usize],
    most: usize,
    common: &Common,
    single: &mut f64,
) -> Result<Value, String> {
    let first = case(working_set, 0, most);
    let rulesets = Arc::new(vec![input::ruleset(&first, 1)]);
    let gate = Gate::new(cores.len());
    let each: Vec<f64> = thread::scope(|scope| {
        let start = |(number, core): (usize, &usize)| {
            let (core, rulesets, gate) = (*core, Arc::clone(&rulesets), &gate);
            scope.spawn(move || worker(&case(working_set, number, most), core, rulesets, gate, common))
        };
        let threads: Vec<_> = cores.iter().enumerate().map(start).collect();
        threads
            .into_iter()
            .map(|thread| thread.join().map_err(|_| "a worker failed: see above".to_owned()))
            .collect::<Result<_, _>>()
    })?;
    let total: f64 = each.iter().sum();
    if cores.len() == 1 {
        *single = total;
    }
    // A message is read once and written once, a line each.
    let bytes = total * 2.0 * 64.0;
    Ok(json!({
        "working_set": if working_set == WorkingSet::L2 { "l2" } else { "dram" }, "cores": cores.len(),
        "messages_per_second": total.round(), "per_core": each.iter().map(|rate| rate.round()).collect::<Vec<_>>(),
        "efficiency": total / (cores.len() as f64 * *single), "bytes_per_second": bytes.round(),
    }))
}

/// A worker on its core: messages a second, the median of all passes.
fn worker(case: &Case, core: usize, rulesets: Arc<Vec<Verified<Vec<u8>>>>, gate: &Gate, common: &Common) -> f64 {
    machine::pin(core);
    let _open = Opened(gate);
    let mut whole = Loop::new(case, common.seed + core as u64, rulesets, Clock::Since(Instant::now()));
    let (rounds, buffers) = whole.rounds();
    let rates = (0..common.passes()).map(|_| {
        let mut spent = Duration::ZERO;
        for _ in 0..rounds {
            whole.load(buffers);
            gate.pass();
            spent += whole.timed();
        }
        (rounds * buffers * case.per_buffer()) as f64 / spent.as_secs_f64()
    });
    let rate = median(rates.collect());
    whole.check();
    rate
}

/// Where all workers wait for the last, so that they start together. It spins: to be woken takes longer than a round.
#[derive(Debug)]
struct Gate {
    workers: AtomicUsize,
    arrived: AtomicUsize,
}

impl Gate {
    fn new(workers: usize) -> Self {
        Self { workers: workers.into(), arrived: 0.into() }
    }

    fn pass(&self) {
        let mine = self.arrived.fetch_add(1, Ordering::AcqRel);
        let size = self.workers.load(Ordering::Acquire);
        let whole = (mine / size + 1) * size;
        // A worker that failed opens the gate for good, or the rest would wait forever.
        while self.arrived.load(Ordering::Acquire) < whole && self.workers.load(Ordering::Acquire) == size {
            spin_loop();
        }
    }
}

/// Opens the gate if its worker panics.
struct Opened<'g>(&'g Gate);

impl Drop for Opened<'_> {
    fn drop(&mut self) {
        if thread::panicking() {
            self.0.workers.store(1, Ordering::Release);
        }
    }
}

/// What the workers keep in memory, against what the machine has.
fn limit(working_set: WorkingSet, most: usize, steps: &[Value]) -> Value {
    let case = case(working_set, 0, most);
    let limits = crate::whole::limits(&case);
    let tables = limits.topic_states() * size_of::<TopicState>()
        + case.sessions as usize
            * (limits.owned() * size_of::<tachyon_engine::window::Window>()
                + size_of::<tachyon_engine::ingress::Session>());
    let ring = case.ring() * case.frames() * case.frame_bytes();
    let each = tables + ring;
    let (l2, l3) = (machine::cache_bytes(2), machine::cache_bytes(3));
    let efficiency = steps.last().and_then(|step| step["efficiency"].as_f64()).unwrap_or(f64::NAN);
    let meets = if working_set == WorkingSet::Dram {
        "memory: every received line is read from DRAM, and cores share its bandwidth"
    } else if l2 > 0 && each <= l2 {
        "none: what a worker touches fits its own L2"
    } else if l3 > 0 && each * most <= l3 {
        "the shared L3: what a worker touches does not fit its L2, but that of all workers fits the L3"
    } else {
        "memory: what all workers touch does not fit the L3"
    };
    json!({
        "working_set": if working_set == WorkingSet::L2 { "l2" } else { "dram" }, "workers": most,
        "tables_bytes_each": tables, "ring_bytes_each": ring, "l2_bytes": l2, "l3_bytes": l3,
        "efficiency": efficiency, "meets": meets,
    })
}

fn end(steps: &[Value], limits: &[Value], machine: &Value, common: &Common) {
    let targets: Vec<Value> = limits
        .iter()
        .map(|limit| {
            let efficiency = limit["efficiency"].as_f64().unwrap_or(f64::NAN);
            let name = format!(
                "efficiency on {} cores, {}",
                limit["workers"],
                limit["working_set"].as_str().unwrap_or_default()
            );
            rows::at_least(&name, efficiency, rows::EFFICIENCY)
        })
        .collect();
    if common.json {
        println!(
            "{}",
            json!({ "steps": steps, "limits": limits, "targets": targets, "seed": common.seed, "passes": common.passes(), "machine": machine })
        );
        return;
    }
    println!();
    for limit in limits {
        let mib = |key: &str| limit[key].as_f64().unwrap_or(0.0) / f64::from(1 << 20);
        println!(
            "{:<6}each worker: tables {:.1} MiB, received frames {:.1} MiB; L2 {:.1} MiB, L3 {:.0} MiB. Limit: {}",
            limit["working_set"].as_str().unwrap_or_default(),
            mib("tables_bytes_each"),
            mib("ring_bytes_each"),
            mib("l2_bytes"),
            mib("l3_bytes"),
            limit["meets"].as_str().unwrap_or_default()
        );
    }
    print_targets(&targets);
}

fn print(step: &Value) {
    let number = |key: &str| step[key].as_f64().unwrap_or(f64::NAN);
    let each = step["per_core"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|rate| format!("{:.0}", rate.as_f64().unwrap_or(f64::NAN)));
    println!(
        "{:<6}{:>7}{:>18.0}{:>12.2}{:>14.0}  {}",
        step["working_set"].as_str().unwrap_or_default(),
        step["cores"],
        number("messages_per_second"),
        number("efficiency"),
        number("bytes_per_second") / 1e6,
        each.collect::<Vec<_>>().join(" ")
    );
}
