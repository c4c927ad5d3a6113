//! The pre-filter by hand: `cargo run -p tachyon-loader --example prefilter -- attach|generic|show|detach INTERFACE`, as
//! root; `verify` without an interface says in JSON what the kernel's verifier had to do.
//!
//! What it attaches knows no session, so every frame is dropped for E_AUTH_NO_SESSION and everything else passes: enough to
//! see the ledger move.
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::{env, error::Error, path::Path};
use tachyon_loader::{Config, Content, Effort, Prefilter, Program};
use tachyon_wire::Reason;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    if words == ["verify"] {
        return verify();
    }
    let [command, interface] = words.as_slice() else {
        return Err("say what to do, and where: attach|generic|show|detach INTERFACE, or verify".into());
    };
    let config = Config { native_allowed: command != "generic", ..Config::default() };
    match command.as_str() {
        "attach" | "generic" => {
            let filter = Prefilter::attach(interface, &config, &Content::default())?;
            println!("{interface} had: {:?}", filter.found());
            if let Some(why) = filter.why_generic() {
                println!("generic XDP is used: {why}");
            }
            show(&filter)
        }
        "show" => show(&there(interface, &config.pins)?),
        "detach" => Ok(there(interface, &config.pins)?.detach()?),
        other => Err(format!("{other} is none of attach, generic, show, detach and verify").into()),
    }
}

/// One JSON object: the kernel, and of the program what its verifier counted and how large it became.
fn verify() -> Result<(), Box<dyn Error>> {
    let config = Config::default();
    let effort = Effort::of(&config)?;
    let facts = Program::load(&config, &Content::default())?.facts()?;
    let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease")?;
    println!(
        "{{\"kernel\":\"{}\",\"verified_instructions\":{},\"states\":{},\"states_peak\":{},\
         \"states_per_instruction_max\":{},\"stack_bytes\":\"{}\",\"verifier_us\":{},\
         \"translated_bytes\":{},\"jited_bytes\":{}}}",
        kernel.trim(),
        effort.instructions,
        effort.states,
        effort.states_peak,
        effort.states_per_instruction_max,
        effort.stack_bytes,
        effort.micros,
        facts.translated_bytes,
        facts.jited_bytes
    );
    Ok(())
}

fn there(interface: &str, pins: &Path) -> Result<Prefilter, Box<dyn Error>> {
    Prefilter::open(interface, pins)?.ok_or_else(|| format!("no pre-filter is on {interface}; attach one first").into())
}

fn show(filter: &Prefilter) -> Result<(), Box<dyn Error>> {
    println!("{:#?}", filter.status()?);
    let counters = filter.tables().counters()?;
    println!("seen {}, of these:", counters.seen());
    println!("  passed, not ours: {}", counters.passed_foreign());
    println!("  passed to the kernel's sockets: {}", counters.passed_ours());
    println!("  given to AF_XDP sockets: {}", counters.redirected());
    for reason in Reason::ALL.iter().filter(|reason| counters.dropped(**reason) > 0) {
        println!("  dropped for {}: {}", reason.code(), counters.dropped(*reason));
    }
    Ok(())
}
