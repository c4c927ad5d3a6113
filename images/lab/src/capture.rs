//! What RoCE v2 packets say on the wire, for use in the guest: `tachyon-lab-capture DEVICE COUNT` reads COUNT of them at a device,
//! those that it sends included, or as many as come before nothing does for six seconds. Prints each kind of packet that there was and how often:
//! `OPCODE TRAFFIC_CLASS IMMEDIATE COUNT`, where the immediate is `frame:SHARD`, `slot:SHARD`, `credits`, `probe`, `other` or `none`.
#![forbid(unsafe_code)]
#![expect(clippy::print_stdout, reason = "the job's script reads it")]

use anyhow::{Context, Result, bail};
use nix::{
    ifaddrs::getifaddrs,
    sys::{
        socket::{AddressFamily, SockFlag, SockProtocol, SockType, bind, setsockopt, socket, sockopt::ReceiveTimeout},
        time::TimeVal,
    },
};
use std::{collections::BTreeMap, fs::File, io::Read, os::fd::AsRawFd};

/// The UDP port of RoCE v2 (InfiniBand Architecture, annex A17).
const PORT: u16 = 4_791;
/// Longest packet: a path MTU of 4096 and its headers.
const PACKET_BYTES: usize = 4_400;
/// How long nothing has to come: on a host with other work a load takes several seconds to begin.
const SILENCE_S: i64 = 6;

fn main() -> Result<()> {
    let words: Vec<_> = std::env::args().skip(1).collect();
    let words: Vec<_> = words.iter().map(String::as_str).collect();
    let [device, count] = words[..] else { bail!("say: DEVICE COUNT") };
    let mut socket = open(device)?;
    let mut kinds: BTreeMap<String, u64> = BTreeMap::new();
    let (mut left, mut packet) = (count.parse::<u64>()?, vec![0; PACKET_BYTES]);
    println!("ready");
    while left > 0 {
        let Ok(size) = socket.read(&mut packet) else { break };
        let Some(kind) = kind(&packet[..size]) else { continue };
        *kinds.entry(kind).or_default() += 1;
        left -= 1;
    }
    for (kind, count) in kinds {
        println!("{kind} {count}");
    }
    Ok(())
}

fn open(device: &str) -> Result<File> {
    let mut addresses = getifaddrs()?.filter(|entry| entry.interface_name == device);
    let address = addresses
        .find_map(|entry| entry.address?.as_link_addr().copied())
        .with_context(|| format!("there is no device {device}"))?;
    let all = SockProtocol::EthAll;
    let socket =
        socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), all).context("raw sockets need root")?;
    bind(socket.as_raw_fd(), &address).with_context(|| format!("cannot bind to {device}"))?;
    setsockopt(&socket, ReceiveTimeout, &TimeVal::new(SILENCE_S, 0))?;
    Ok(File::from(socket))
}

/// What a packet is, if it is RoCE v2 over IPv4 without options.
fn kind(packet: &[u8]) -> Option<String> {
    let number = |at: usize| Some(u32::from_be_bytes(*packet.get(at..)?.first_chunk()?));
    let is_ipv4_udp = packet.get(12..15)? == [0x08, 0x00, 0x45] && packet.get(23)? == &17;
    let port = u16::from_be_bytes(*packet.get(36..)?.first_chunk()?);
    if !is_ipv4_udp || port != PORT {
        return None;
    }
    // The base header begins at 42 and has 12 bytes; the immediate comes behind what the opcode puts between (InfiniBand
    // Architecture, 9.2.1 and 9.3): nothing for sends, 16 bytes for writes, 8 for datagrams.
    let (traffic_class, opcode) = (packet[15], *packet.get(42)?);
    let immediate = match opcode {
        0x05 | 0x65 => said(number(if opcode == 0x05 { 54 } else { 62 })?),
        0x0b => format!("slot:{}", number(70)? & 0xffff),
        _ => "none".to_owned(),
    };
    Some(format!("{opcode:#04x} {traffic_class} {immediate}"))
}

/// What the immediate of a send says, as the driver's `ring` module has it.
fn said(immediate: u32) -> String {
    match immediate >> 16 {
        0 => format!("frame:{immediate}"),
        1 => "credits".to_owned(),
        2 => "probe".to_owned(),
        _ => "other".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn packets_are_known_by_opcode_class_and_immediate() {
        let mut packet = vec![0; 80];
        packet[12..16].copy_from_slice(&[0x08, 0x00, 0x45, 106]);
        packet[23] = 17;
        packet[36..38].copy_from_slice(&PORT.to_be_bytes());
        for (opcode, at, immediate, text) in [
            (0x05, 54, 5_u32, "0x05 106 frame:5"),
            (0x05, 54, 1 << 16 | 32, "0x05 106 credits"),
            (0x65, 62, 5, "0x65 106 frame:5"),
            (0x0b, 70, 9 << 16 | 5, "0x0b 106 slot:5"),
            (0x11, 54, 7, "0x11 106 none"),
        ] {
            packet[42] = opcode;
            packet[at..at + 4].copy_from_slice(&immediate.to_be_bytes());
            assert_eq!(kind(&packet).as_deref(), Some(text));
        }
        packet[37] += 1;
        assert_eq!(kind(&packet), None, "another port");
        assert_eq!(kind(&packet[..30]), None);
    }
}
