//! The pre-filter by hand: `cargo run -p tachyon-loader --example prefilter -- attach|show|detach INTERFACE`, as root.
//!
//! What it attaches knows no session, so every frame is dropped for E_AUTH_NO_SESSION and everything else passes: enough to
//! see the ledger move.
#![allow(clippy::print_stdout, reason = "its output is its purpose")]

use std::{env, error::Error, path::Path};
use tachyon_loader::{Config, Content, Prefilter};
use tachyon_wire::Reason;

fn main() -> Result<(), Box<dyn Error>> {
    let words: Vec<String> = env::args().skip(1).collect();
    let [command, interface] = words.as_slice() else {
        return Err("say what to do, and where: attach|show|detach INTERFACE".into());
    };
    let config = Config::default();
    match command.as_str() {
        "attach" => {
            let filter = Prefilter::attach(interface, &config, &Content::default())?;
            println!("{interface} had: {:?}", filter.found());
            if let Some(why) = filter.why_generic() {
                println!("generic XDP is used: {why}");
            }
            show(&filter)
        }
        "show" => show(&there(interface, &config.pins)?),
        "detach" => Ok(there(interface, &config.pins)?.detach()?),
        other => Err(format!("{other} is none of attach, show and detach").into()),
    }
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
