//! The two ends of a UDP stream, for use in the guest: every datagram has a number, so what arrives is known exactly.
//!
//! `tachyon-lab-udp receive AT FIRST_PORT PORTS COUNT | tachyon-lab-udp send FROM TO FIRST_PORT PORTS COUNT`, each in its
//! namespace, sends from 64 source ports to PORTS destination ports in turn, and prints how many different datagrams
//! came. The receiver tells the sender through the pipe what it has, and no more is ever on the way than any queue
//! there holds: what is lost was not lost because somebody was slow. It measures nothing.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the job's script reads it")]

use anyhow::{Context, Result, bail};
use std::{
    collections::BTreeSet,
    net::{IpAddr, UdpSocket},
    ops::RangeInclusive,
    sync::mpsc,
    thread,
    time::Duration,
};

/// Source ports, so that a hash over them has something to spread; always the same, so it spreads them the same way.
const SOURCES: RangeInclusive<u16> = 20_000..=20_063;

/// Datagrams on the way at once: fewer than any queue holds.
const BURST: usize = 32;

/// Bytes of a datagram: one message.
const SIZE_BYTES: usize = 64;

/// How long nothing has to come for the receiver to give up: far longer than an emulated machine is ever paused.
const SILENCE: Duration = Duration::from_secs(20);

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    match words[..] {
        ["send", from, to, first, ports, count] => {
            send(from.parse()?, to.parse()?, first.parse()?, ports.parse()?, count.parse()?)
        }
        ["receive", at, first, ports, count] => receive(at.parse()?, first.parse()?, ports.parse()?, count.parse()?),
        _ => bail!("say: send FROM TO FIRST_PORT PORTS COUNT, or: receive AT FIRST_PORT PORTS COUNT"),
    }
}

fn send(from: IpAddr, to: IpAddr, first: u16, ports: u16, count: usize) -> Result<()> {
    let bind = |port| UdpSocket::bind((from, port)).with_context(|| format!("cannot bind {from}:{port}"));
    let sockets: Vec<_> = SOURCES.map(bind).collect::<Result<_>>()?;
    let mut targets = (first..first + ports).cycle();
    let mut told = std::io::stdin().lines();
    for (number, socket) in (0..count).zip(sockets.iter().cycle()) {
        if number % BURST == 0 {
            let line = told.next().context("the receiver ended")??;
            if line != "more" {
                println!("{line}"); // it has given up
                return Ok(());
            }
        }
        let mut message = [0_u8; SIZE_BYTES];
        message[..8].copy_from_slice(&number.to_le_bytes());
        let port = targets.next().context("there is at least one port")?;
        socket.send_to(&message, (to, port)).with_context(|| format!("cannot send to {to}:{port}"))?;
    }
    println!("{}", told.next().context("the receiver ended")??);
    Ok(())
}

fn receive(at: IpAddr, first: u16, ports: u16, count: usize) -> Result<()> {
    let (sender, numbers) = mpsc::channel();
    for port in first..first + ports {
        let socket = UdpSocket::bind((at, port)).with_context(|| format!("cannot bind {at}:{port}"))?;
        let sender = sender.clone();
        // The threads block in their sockets; they end with the process.
        thread::spawn(move || {
            let mut message = [0_u8; SIZE_BYTES + 1];
            while let Ok(size) = socket.recv(&mut message) {
                let number = message.first_chunk().map(|bytes| u64::from_le_bytes(*bytes));
                if size == SIZE_BYTES && sender.send(number).is_err() {
                    return;
                }
            }
        });
    }
    let mut seen = BTreeSet::new();
    while seen.len() < count {
        if seen.len() % BURST == 0 {
            println!("more");
        }
        let Ok(number) = numbers.recv_timeout(SILENCE) else { break };
        seen.extend(number);
    }
    println!("{}", seen.len());
    Ok(())
}
