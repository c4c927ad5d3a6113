//! `tachyon-peers`: what the node is measured against, each peer a few plain lines that anyone can check for honesty.
//!
//! `relay` receives frames on one UDP port per shard and sends the same bytes on, without a look at them but for counting:
//! with `recvmmsg` and `sendmmsg` as most programs do it, with segmentation offloads added, or with the node's own driver
//! and nothing behind it. At the end it prints one JSON object. It deliberately checks, governs and copies nothing, and
//! makes no load of its own.
#![deny(unsafe_code)]

mod driver;
mod mmsg;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand, ValueEnum};
use std::{
    io::{self, Read, Write},
    net::{Ipv4Addr, SocketAddrV4},
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};
use tachyon_wire::frame::BASE_PORT;

/// Peers to measure the node against.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    peer: Peer,
}

#[derive(Subcommand)]
enum Peer {
    /// Sends on every frame it receives.
    Relay(Relay),
}

/// How a relay talks to the kernel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// `recvmmsg` and `sendmmsg`, 64 datagrams a call.
    Recvmmsg,
    /// The same with `UDP_GRO` and `UDP_SEGMENT`.
    Gso,
    /// The node's io_uring driver with nothing behind it.
    Uring,
}

#[derive(Args, Clone, Debug)]
struct Relay {
    #[arg(long, value_enum)]
    mode: Mode,
    /// Address to bind.
    #[arg(long, default_value_t = Ipv4Addr::LOCALHOST)]
    bind: Ipv4Addr,
    /// Shard n is received at this port + n.
    #[arg(long, default_value_t = BASE_PORT)]
    base_port: u16,
    /// Ports to receive at.
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=1024))]
    shards: u16,
    /// Where to send: shard n goes to this port + n.
    #[arg(long)]
    to: SocketAddrV4,
    /// How long to run; without it, until standard input closes.
    #[arg(long)]
    seconds: Option<f64>,
    /// The core to stay on.
    #[arg(long)]
    cpu: Option<usize>,
    /// Room in the kernel per socket, in bytes; the node's default.
    #[arg(long, default_value_t = 4 << 20)]
    receive_buffer_bytes: u32,
    /// Longest idle sleep of mode `uring`, in nanoseconds; 0: poll without sleeping. The others sleep up to 10 ms, so give
    /// 10000000 where time on the core is compared.
    #[arg(long, default_value_t = 10_000)]
    wait_ns: u64,
}

/// What a relay did.
#[derive(Clone, Copy, Debug, Default)]
struct Count {
    frames: u64,
    messages: u64,
    syscalls: u64,
}

impl Count {
    /// Counts the frames in `bytes`, one every `stride`. The header holds the number of messages at 30, little endian.
    fn frames(&mut self, bytes: &[u8], stride: usize) {
        for frame in bytes.chunks(stride.max(1)) {
            self.frames += 1;
            self.messages += frame.get(30..32).map_or(0, |count| u64::from(count[0]) | u64::from(count[1]) << 8);
        }
    }
}

/// Set when it is time to end.
static ENDED: AtomicBool = AtomicBool::new(false);

fn main() -> Result<()> {
    let Peer::Relay(relay) = Cli::parse().peer;
    let seconds = relay.seconds.map(Duration::try_from_secs_f64).transpose().context("--seconds")?;
    // What wakes the relay when it is over runs beside it and takes none of its time.
    thread::spawn(move || {
        match seconds {
            Some(seconds) => thread::sleep(seconds),
            None => while io::stdin().read(&mut [0; 64]).is_ok_and(|bytes| bytes > 0) {},
        }
        ENDED.store(true, Ordering::Relaxed);
    });
    if let Some(cpu) = relay.cpu {
        let mut set = rustix::thread::CpuSet::new();
        set.set(cpu);
        rustix::thread::sched_setaffinity(None, &set).with_context(|| format!("cannot stay on core {cpu}"))?;
    }
    let mut run = match relay.mode {
        Mode::Recvmmsg => mmsg::open(&relay, false)?,
        Mode::Gso => mmsg::open(&relay, true)?,
        Mode::Uring => driver::open(&relay)?,
    };
    // Whoever started it may begin once this line is there.
    writeln!(io::stdout(), "{}", serde_json::json!({ "ready": true }))?;
    let (start, cpu) = (Instant::now(), cpu_seconds());
    let mut count = Count::default();
    while !ENDED.load(Ordering::Relaxed) {
        run(&mut count)?;
    }
    let report = serde_json::json!({
        "mode": relay.mode.to_possible_value().map(|mode| mode.get_name().to_owned()),
        "frames": count.frames,
        "messages": count.messages,
        "syscalls": count.syscalls,
        "cpu_seconds": cpu_seconds() - cpu,
        "wall": start.elapsed().as_secs_f64(),
    });
    writeln!(io::stdout(), "{report}")?;
    Ok(())
}

/// One turn of a relay.
type Turn = Box<dyn FnMut(&mut Count) -> Result<()>>;

/// What this thread has spent on a core, in seconds.
fn cpu_seconds() -> f64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ThreadCPUTime);
    Duration::try_from(time).unwrap_or_default().as_secs_f64()
}
