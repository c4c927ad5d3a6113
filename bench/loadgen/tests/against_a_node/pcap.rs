//! The whole program over files: what it writes a stand-in node reads, and what that writes it reads.

use crate::{
    control::{Shared, start},
    stand_in::SHARDS,
};
use clap::Parser;
use std::{
    fs::{self, File},
    io::Write,
    net::IpAddr,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    thread,
    time::Duration,
};
use tachyon_driver_ether::{Checked, Hop, Interface, Network, Receiver, UdpChecksum};
use tachyon_loadgen::{
    args::{Cli, Verb},
    pcap::Follower,
    run,
};

/// Where the node is and what its device is called, as DPDK calls its first pcap device.
struct Place {
    ip: IpAddr,
    vlan: Option<u16>,
}

const NODE_MAC: [u8; 6] = [0x02, 0x70, 0x63, 0x61, 0x70, 0x00];

/// A node over two files: reads the first once it is there, and writes into the second, in microseconds and with every
/// record in two pieces, until told to stop.
fn node(shared: &Shared, place: &Place, reads: &Path, writes: &Path) {
    let network = Network { ip: place.ip, prefix: 24, gateway: None };
    let interface = Interface {
        mac: NODE_MAC,
        vlan: place.vlan,
        networks: std::iter::once(network).collect(),
        base_port: shared.base_port,
        shard_count: SHARDS,
        mtu: 1500,
    };
    let receiver = Receiver::new(&interface);
    let mut follower = Follower::new(reads).unwrap();
    let mut out = File::create(writes).unwrap();
    out.write_all(&[&0xa1b2_c3d4u32.to_le_bytes()[..], &[2, 0, 4, 0], &[0; 12], &1u32.to_le_bytes()].concat()).unwrap();
    let mut slept = false;
    while !shared.stop.load(Ordering::Relaxed) {
        let Some(packet) = follower.packet().unwrap() else {
            thread::sleep(Duration::from_millis(1));
            continue;
        };
        if !std::mem::replace(&mut slept, true) {
            // Far longer than counters have to stand still before a run believes that nothing will move any more.
            thread::sleep(Duration::from_millis(300));
        }
        let found = receiver.find(packet, Checked::default()).unwrap();
        let frame = &packet[found.offset as usize..][..found.len as usize];
        let copies = shared.node.lock().unwrap().take(frame, found.shard, false);
        let subscriber = shared.subscriber.lock().unwrap().clone();
        let (Some(copies), Some((address, port))) = (copies, subscriber) else { continue };
        let hop = Hop::new(&interface, 0, [2, 0, 0, 0, 0, 0x99], address.parse().unwrap()).unwrap();
        let mut bytes = vec![0; hop.header_bytes()];
        let from = shared.base_port + found.shard;
        hop.write(&mut bytes, from, port + found.shard, &copies, UdpChecksum::None);
        bytes.extend(copies);
        let length = u32::try_from(bytes.len()).unwrap().to_le_bytes();
        let record = [&[0; 8], &length[..], &length, &bytes].concat();
        let (first, second) = record.split_at(record.len() / 2);
        out.write_all(first).unwrap();
        out.write_all(second).unwrap();
    }
}

fn file(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("tachyon-load-{name}-{}.pcap", std::process::id()));
    let _ = fs::remove_file(&path);
    path
}

fn run_over_files(name: &str, ip: &str, expected_from: &str, more: &[&str]) {
    let (input, output) = (file(&format!("{name}-in")), file(&format!("{name}-out")));
    // What an earlier run left there is not read as if it belonged to this one.
    fs::write(&output, b"").unwrap();
    let vlan = more.contains(&"--vlan").then_some(77);
    let place = Place { ip: ip.parse().unwrap(), vlan };
    let (reads, writes) = (input.clone(), output.clone());
    let (shared, socket, playing) = start(name, move |shared| node(shared, &place, &reads, &writes));
    let line = [
        &["tachyon-load", "run", "--control", socket.to_str().unwrap(), "--node", ip][..],
        &["--write", input.to_str().unwrap(), "--read", output.to_str().unwrap()],
        &["--seconds", "0.4", "--rate", "100k", "--topics", "64", "--frame-bytes", "768", "--sessions", "3"],
        &["--senders", "10", "--forged-share", "1/10", "--replayed-share", "0.1", "--publishers", "2"],
        &["--threads", "apart", "--phase", "name=only,hot-topic=other.hot"],
        more,
    ];
    let Verb::Run(args) = Cli::try_parse_from(line.concat()).unwrap().command;
    let report = run::run(&args, &mut |_| {}).unwrap();
    shared.stop.store(true, Ordering::Relaxed);
    playing.join().unwrap();
    let _ = fs::remove_file(&socket);

    assert_eq!(shared.subscriber.lock().unwrap().as_ref().unwrap().0, expected_from);
    assert_eq!(report["unaccounted"], 0, "{report:#}");
    assert_eq!(report["lost_before_us"]["source"], "none", "{report:#}");
    assert_eq!(report["driver"], "pcap");
    let frames = report["offered_frames"].as_u64().unwrap();
    assert!(frames > 300, "{report:#}");
    assert_eq!(report["ledgers"]["frames"]["seen"], frames);
    assert!(report["ledgers"]["frames"]["refused"].as_u64().unwrap() > 20, "{report:#}");
    assert!(report["received_copies"].as_u64().unwrap() > 300, "{report:#}");
    assert_eq!(report["received_copies"], report["ledgers"]["copies"]["given"]);
    assert!(!report.to_string().contains("packets without a frame"), "{report:#}");
    for path in [input, output] {
        fs::remove_file(path).unwrap();
    }
}

#[test]
fn everything_adds_up_over_files() {
    run_over_files("pcap4", "192.0.2.1", "192.0.2.2", &[]);
}

#[test]
fn everything_adds_up_over_ipv6_with_a_vlan() {
    let own = ["--vlan", "77", "--write-from", "2001:db8::9"];
    run_over_files("pcap6", "2001:db8::1", "2001:db8::9", &own);
}

#[test]
fn a_node_that_never_reads_is_found_out_within_the_patience() {
    let input = file("unread");
    let (shared, socket, playing) = start("unread", |_| {});
    let line = [
        &["tachyon-load", "run", "--control", socket.to_str().unwrap(), "--node", "192.0.2.1"][..],
        &["--write", input.to_str().unwrap(), "--subscribers", "0", "--write-patience", "0.1"],
        &["--seconds", "0.1", "--rate", "100k", "--topics", "64", "--frame-bytes", "768", "--senders", "10"],
    ];
    let Verb::Run(args) = Cli::try_parse_from(line.concat()).unwrap().command;
    let report = run::run(&args, &mut |_| {}).unwrap();
    shared.stop.store(true, Ordering::Relaxed);
    playing.join().unwrap();
    assert_eq!(report["lost_before_us"]["source"], "unknown");
    assert_eq!(report["unaccounted"], report["offered_frames"]);
    assert_eq!(fs::read(&input).unwrap()[..4], [0x4d, 0x3c, 0xb2, 0xa1], "the file is there, and whole");
    fs::remove_file(&input).unwrap();
    let _ = fs::remove_file(&socket);
}
