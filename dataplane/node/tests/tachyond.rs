//! `tachyond` as a process: started, spoken to over its socket, sent frames, stopped, killed, started again.

mod node;

use node::{Folder, Node, PATIENCE, SHARDS, frame, free_base, rules, ruleset, session, subscriber, wait_for};
use std::{fs, net::UdpSocket, process::Command, thread, time::Duration};
use tachyon_policy::compile::{Quota, compile};
use tachyon_segment::{
    WorkerState,
    handover::{CallError, LaneRequest, PortState, Request},
    seal_image,
};
use tachyon_wire::{
    Endpoint,
    frame::{self, Lane},
};

fn refused(result: Result<(), CallError>) -> String {
    match result {
        Err(CallError::Refused(text)) => text,
        other => panic!("not refused: {other:?}"),
    }
}

#[test]
fn frames_pass_under_rules_that_control_brought_and_every_message_is_accounted_for() {
    let folder = Folder::new("pass");
    let mut node = Node::start(&folder.0, free_base(), 1, "");
    node.hear("\"ready\"");
    let (mut control, hello, stats) = node.connect();
    assert_eq!((hello.workers, hello.shard_count, hello.boot_number), (1, SHARDS, 1));
    assert_eq!((hello.listen.port.get(), hello.ruleset_version), (node.base, 0));
    assert_eq!(hello.driver, "uring");

    let inbox = UdpSocket::bind("127.0.0.1:0").unwrap();
    inbox.set_read_timeout(Some(PATIENCE)).unwrap();
    control.call(&session(1)).unwrap();
    control.call(&subscriber(0, inbox.local_addr().unwrap().port())).unwrap();
    let out = UdpSocket::bind("127.0.0.1:0").unwrap();
    let to = ("127.0.0.1", node.base);
    out.send_to(&frame(1, 0, 1), to).unwrap();
    wait_for(&stats, "refused for want of rules", |all| all[0].messages_seen == 1);

    control.call(&ruleset(&rules(5, Quota::UNLIMITED))).unwrap();
    for id in 2..12 {
        out.send_to(&frame(1, 0, id), to).unwrap();
    }
    let mut copies = 0;
    while copies < 10 {
        let mut buffer = [0; 2048];
        let len = inbox.recv(&mut buffer).unwrap();
        let seen = frame::parse(&buffer[..len], &Lane { frame_bytes_max: 1472, references: false }).unwrap();
        assert!(seen.messages.iter().all(|message| message.inline_payload() == Some(b"hello".as_slice())));
        assert_eq!(seen.header.epoch.get() >> 16, 1, "sent under the boot number");
        copies += seen.messages.len();
    }
    let all = wait_for(&stats, "all given", |all| all[0].copies_given == 10);
    assert_eq!(all[0].unaccounted(), [0; 3]);
    assert_eq!((all[0].messages_seen, all[0].messages_accepted), (11, 10));
    let status = stats.status(0).unwrap();
    assert_eq!((status.state, status.heap_calls), (WorkerState::Running, 0));
    assert!(node.stop());
    let stats = stats.read(0).unwrap();
    assert_eq!(stats.routes.iter().map(|route| route.given).sum::<u64>(), 10, "published at the end");
}

#[test]
fn a_bad_image_is_refused_with_a_reason_and_the_old_rules_stay() {
    let folder = Folder::new("bad-image");
    let mut node = Node::start(&folder.0, free_base(), 1, "");
    node.hear("\"ready\"");
    let (mut control, _, stats) = node.connect();
    control.call(&ruleset(&rules(5, Quota::UNLIMITED))).unwrap();
    let good = compile(&rules(6, Quota::UNLIMITED)).unwrap();
    for position in [0, 8, 40, 127, 300, good.len() - 1] {
        let mut bad = good.clone();
        bad[position] ^= 1;
        refused(control.call(&Request::Ruleset(seal_image(&bad).unwrap())));
    }
    refused(control.call(&Request::Ruleset(seal_image(&good[..good.len() - 64]).unwrap())));
    let unsealed = fs::File::open("/proc/self/exe").unwrap();
    assert!(refused(control.call(&Request::Ruleset(unsealed.into()))).contains("sealed"));
    assert!(refused(control.call(&ruleset(&rules(5, Quota::UNLIMITED)))).contains("not newer"));
    let mut large = rules(7, Quota::UNLIMITED);
    large.topics[0].topic_id = 2_000;
    assert!(refused(control.call(&ruleset(&large))).contains("topics_max"));
    let mut large = rules(7, Quota::UNLIMITED);
    large.sets[1] = vec![16];
    assert!(refused(control.call(&ruleset(&large))).contains("subscribers_max"));
    let mut other = rules(7, Quota::UNLIMITED);
    (other.shard_count, other.topics[0].topic_id) = (8, 8);
    assert!(refused(control.call(&ruleset(&other))).contains("shards"));
    assert!(refused(control.call(&subscriber(1, 9))).contains("no worker 1"));

    control.call(&session(1)).unwrap();
    let out = UdpSocket::bind("127.0.0.1:0").unwrap();
    out.send_to(&frame(1, 0, 1), ("127.0.0.1", node.base)).unwrap();
    let all = wait_for(&stats, "judged", |all| all[0].messages_seen == 1);
    assert_eq!((all[0].messages_accepted, all[0].ruleset_version), (1, 5));
}

#[test]
fn control_may_vanish_and_come_back_and_the_rules_stay() {
    let folder = Folder::new("vanish");
    let mut node = Node::start(&folder.0, free_base(), 1, "");
    node.hear("\"ready\"");
    let (mut control, first, _) = node.connect();
    control.call(&ruleset(&rules(5, Quota::UNLIMITED))).unwrap();
    control.call(&session(1)).unwrap();
    drop(control);
    node.hear("disconnected");
    let out = UdpSocket::bind("127.0.0.1:0").unwrap();
    out.send_to(&frame(1, 0, 1), ("127.0.0.1", node.base)).unwrap();
    let (mut old, second, stats) = node.connect();
    assert_eq!((second.boot_id, second.ruleset_version), (first.boot_id, 5));
    wait_for(&stats, "accepted without control", |all| all[0].messages_accepted == 1);
    let (mut new, ..) = node.connect();
    node.hear("connected");
    new.call(&session(2)).unwrap();
    assert!(matches!(old.call(&session(3)), Err(CallError::Lost(_))), "a new connection replaces the old one");
}

#[test]
fn a_killed_node_starts_from_its_last_good_rules_under_the_next_boot_number() {
    let folder = Folder::new("last-good");
    let base = free_base();
    let mut node = Node::start(&folder.0, base, 1, "");
    node.hear("\"ready\"");
    let (mut control, first, _) = node.connect();
    control.call(&ruleset(&rules(5, Quota::UNLIMITED))).unwrap();
    control.call(&ruleset(&rules(6, Quota::UNLIMITED))).unwrap();
    node.kill();

    let mut node = Node::start(&folder.0, base, 1, "");
    assert!(node.hear("\"ready\"").contains("\"ruleset_version\":6"));
    let (mut control, second, stats) = node.connect();
    assert_eq!((first.boot_number, second.boot_number, second.ruleset_version), (1, 2, 6));
    assert_ne!(first.boot_id, second.boot_id);
    control.call(&session(1)).unwrap();
    let out = UdpSocket::bind("127.0.0.1:0").unwrap();
    out.send_to(&frame(1, 0, 1), ("127.0.0.1", base)).unwrap();
    wait_for(&stats, "accepted", |all| all[0].messages_accepted == 1);
    assert!(node.stop());

    fs::write(folder.0.join("state/last-good.ruleset"), b"damaged").unwrap();
    let mut node = Node::start(&folder.0, base, 1, "");
    node.hear("starts without rules");
    assert!(node.hear("\"ready\"").contains("\"ruleset_version\":0"));
}

#[test]
fn a_senders_quota_follows_its_traffic_from_worker_to_worker() {
    let folder = Folder::new("leases");
    let mut node = Node::start(&folder.0, free_base(), 2, "");
    node.hear("\"ready\"");
    let (mut control, _, stats) = node.connect();
    // 1,000 a second, so 500 on each worker at first, and at once what comes together where a thread has to wait for its core.
    let quota = Quota::new(1_000, 1_000_000_000, 100).unwrap();
    control.call(&ruleset(&rules(5, quota))).unwrap();
    control.call(&session(1)).unwrap();
    let out = UdpSocket::bind("127.0.0.1:0").unwrap();
    // Shard 1 belongs to worker 1. Offered is twice the quota; after the first moments nearly all of it must pass.
    let mut id = 0;
    let mut offer = |milliseconds: u32| {
        for _ in 0..milliseconds {
            for _ in 0..2 {
                id += 1;
                out.send_to(&frame(1, 1, id), ("127.0.0.1", node.base + 1)).unwrap();
            }
            thread::sleep(Duration::from_millis(1));
        }
        // Once all of them are judged, so that none counts for another time.
        wait_for(&stats, "judged", |all| all[1].messages_seen == u64::from(id))[1]
    };
    let before = offer(200);
    let started = std::time::Instant::now();
    let after = offer(400);
    let passed = after.messages_accepted - before.messages_accepted;
    let allowed = 1_000 * u64::try_from(started.elapsed().as_millis()).unwrap() / 1_000;
    // A slow host offers less in that time than the quota is.
    let possible = allowed.min(after.messages_seen - before.messages_seen);
    assert!(passed > possible * 7 / 10, "{passed} of {possible} passed: the quota did not move");
    assert!(passed < allowed * 11 / 10 + 110, "{passed} of {allowed} passed: more than the quota");
    assert_eq!(stats.read_counters(0).unwrap().messages_seen, 0);
}

#[test]
fn a_second_node_in_the_same_folder_is_refused() {
    let folder = Folder::new("second");
    let mut first = Node::start(&folder.0, free_base(), 1, "");
    first.hear("\"ready\"");
    let mut second = Node::start(&folder.0, free_base(), 1, "");
    second.hear("another tachyond");
    assert!(!second.child.wait().unwrap().success());
    first.connect();
}

#[test]
fn a_port_that_is_taken_is_an_error_and_not_a_hang() {
    let folder = Folder::new("taken");
    let base = free_base();
    let _taken = UdpSocket::bind(("127.0.0.1", base + 1)).unwrap();
    let mut node = Node::start(&folder.0, base, 1, "");
    let line = node.hear("\"error\"");
    assert!(line.contains("worker 0 cannot start"), "{line}");
    assert!(!node.child.wait().unwrap().success());
}

#[test]
fn its_ports_are_told_and_cannot_be_taken_from_the_workers() {
    let folder = Folder::new("ports");
    let mut node = Node::start(&folder.0, free_base(), 2, "");
    node.hear("\"ready\"");
    let (mut control, _, stats) = node.connect();
    let out = UdpSocket::bind("127.0.0.1:0").unwrap();
    out.send_to(&frame(1, 0, 1), ("127.0.0.1", node.base)).unwrap();
    wait_for(&stats, "received", |all| all[0].frames_seen == 1);
    let ports = control.ports().unwrap();
    let [port] = ports.as_slice() else { panic!("one port: {ports:?}") };
    assert_eq!((port.name.as_str(), port.driver.as_str(), port.queues), ("udp", "uring", 2));
    assert_eq!((port.state, port.addresses.as_slice()), (PortState::Ready, ["127.0.0.1".to_owned()].as_slice()));
    assert_eq!(port.device, format!("127.0.0.1, ports from {}", node.base));
    let names: Vec<&str> = port.counters.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["syscalls", "socket_overflow", "receive_starved"]);
    assert!(port.counters[0].1 > 0, "receiving took a syscall: {port:?}");
    let stopped = refused(control.call(&Request::StopPort("udp".into())));
    assert!(stopped.contains("cannot be stopped") && stopped.contains("stop tachyond instead"), "{stopped}");
    assert!(refused(control.call(&Request::StartPort("east".into()))).contains("no port `east`"));
    control.call(&session(1)).unwrap(); // still in step
}

/// What a node said that ended by itself, and whether it ended well.
#[expect(clippy::unwrap_used, reason = "in a test a failure is a panic, in its helpers too")]
fn said_by(folder: &Folder, network: &str) -> (bool, String) {
    let file = folder.0.join("node.toml");
    let folders = format!("[node]\nstate_dir = {:?}\nrun_dir = {:?}\n", folder.0.join("state"), folder.0.join("run"));
    fs::write(&file, format!("{folders}[network]\n{network}")).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_tachyond")).arg("--config").arg(&file).output().unwrap();
    (output.status.success(), String::from_utf8(output.stdout).unwrap())
}

/// Whether this machine has an RDMA device that could answer for loopback, which no test machine but a lab's has.
fn has_rdma() -> bool {
    fs::read_dir("/sys/class/infiniband").is_ok_and(|mut devices| devices.next().is_some())
}

#[test]
fn a_driver_of_several_that_is_not_there_is_told_in_one_line_and_the_others_go_on() {
    if has_rdma() {
        return println!("skipped: this machine has an RDMA device");
    }
    let folder = Folder::new("several");
    let more = "[rdma]\nreceive_depth = 32\n";
    let mut node = Node::start_with(&folder.0, free_base(), 1, "driver = [\"rdma\", \"uring\"]\n", more);
    let told = node.hear("rdma is left out");
    assert!(told.contains("\"degraded\""), "{told}");
    let why = if cfg!(feature = "verbs") { "no RDMA device" } else { "build it with --features verbs" };
    assert!(told.contains(why) && !told.contains("\\n"), "{told}");
    assert!(node.hear("\"transports\"").contains("\"drivers\":\"uring\""));
    node.hear("\"ready\"");
    assert_eq!(node.said.iter().filter(|line| line.contains("rdma is left out")).count(), 1);
    let (mut control, hello, stats) = node.connect();
    assert_eq!((hello.driver.as_str(), hello.frame_bytes_max), ("uring", 1_472));
    assert!(hello.degraded.iter().any(|line| line.contains("rdma is left out")), "{:?}", hello.degraded);
    assert_eq!(control.ports().unwrap().len(), 1);
    assert_eq!(control.lanes().unwrap(), []);
    let offer = LaneRequest { worker: 0, to: Endpoint::NONE, ports: 1, falls_back: true, details: [0; 64] };
    let refusal = refused(control.connect_lane(offer).map(|_| ()));
    assert!(refusal.contains("no driver with lanes"), "{refusal}");
    control.call(&Request::DropLane(0, Endpoint::NONE)).unwrap();
    // And frames pass as ever.
    control.call(&ruleset(&rules(5, Quota::UNLIMITED))).unwrap();
    control.call(&session(1)).unwrap();
    let out = UdpSocket::bind("127.0.0.1:0").unwrap();
    out.send_to(&frame(1, 0, 1), ("127.0.0.1", node.base)).unwrap();
    wait_for(&stats, "accepted", |all| all[0].messages_accepted == 1);
    assert!(node.stop());
}

#[test]
fn a_node_none_of_whose_drivers_is_there_does_not_start() {
    if has_rdma() {
        return println!("skipped: this machine has an RDMA device");
    }
    let folder = Folder::new("none");
    let (fine, said) = said_by(&folder, "driver = \"rdma\"\naddress = \"127.0.0.1\"\n");
    let why =
        if cfg!(feature = "verbs") { "this machine has no RDMA device" } else { "build it with --features verbs" };
    assert!(!fine && said.contains("error") && said.contains(why), "{said}");
    #[cfg(not(feature = "dpdk"))]
    {
        let port = "[[ports]]\nname = \"east\"\ndevice = { ring = {} }\naddresses = [\"10.0.1.1/24\"]\n";
        let network = format!("driver = [\"rdma\", \"dpdk\"]\naddress = \"127.0.0.1\"\n{port}");
        let (fine, said) = said_by(&folder, &network);
        assert!(!fine && said.contains("none of the drivers in [network] is there"), "{said}");
        assert!(said.contains(why) && said.contains("build it with --features dpdk"), "{said}");
    }
    assert!(!folder.0.join("state/boot-number").exists(), "what did not start is no start");
}

#[cfg(not(feature = "dpdk"))]
#[test]
fn a_driver_that_is_not_built_in_is_refused_with_what_to_do() {
    let folder = Folder::new("no-dpdk");
    let port = "[[ports]]\nname = \"east\"\ndevice = { ring = {} }\naddresses = [\"10.0.1.1/24\"]\n";
    let (fine, said) = said_by(&folder, &format!("driver = \"dpdk\"\n{port}"));
    assert!(!fine && said.contains("build it with --features dpdk"), "{said}");
    assert!(!folder.0.join("state/boot-number").exists(), "what did not start is no start");
}

#[cfg(not(feature = "xdp"))]
#[test]
fn without_xdp_a_node_goes_on_without_filters_and_says_so() {
    use tachyon_segment::handover::Prefix;
    let folder = Folder::new("no-xdp");
    let more = "[[prefilter]]\ninterface = \"lo\"\ndeliver = \"afxdp\"\n";
    let text = "driver = [\"afxdp\", \"uring\"]\n[workers]\ncount = 1\n";
    let file = format!(
        "[node]\nstate_dir = {:?}\nrun_dir = {:?}\n{more}[network]\naddress = \"127.0.0.1\"\nbase_port = {}\n{text}",
        folder.0.join("state"),
        folder.0.join("run"),
        free_base()
    );
    let mut node = Node::start_file(&folder.0, free_base(), &file);
    node.hear("\"ready\"");
    for says in ["afxdp is left out: this tachyond was built without XDP", "lo has no pre-filter, everything passes"] {
        assert!(node.said.iter().any(|line| line.contains("degraded") && line.contains(says)), "{:#?}", node.said);
    }
    let (mut control, ..) = node.connect();
    assert_eq!(control.filters().unwrap(), []);
    for request in [Request::AttachFilter("lo".into()), Request::DetachFilter("lo".into())] {
        assert!(refused(control.call(&request)).contains("--features xdp"));
    }
    control.call(&Request::Denied(Prefix::seal(&[]).unwrap())).unwrap();
    let list = [Prefix::new([10, 0, 0, 0].into(), 8).unwrap()];
    assert!(refused(control.call(&Request::Denied(Prefix::seal(&list).unwrap()))).contains("--features xdp"));
}

#[test]
fn the_command_line_checks_files_and_prints_the_manual() {
    let run = |arguments: &[&str]| {
        let output = Command::new(env!("CARGO_BIN_EXE_tachyond")).args(arguments).output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    let (fine, manual) = run(&["--print-default-config"]);
    assert!(fine && manual.contains("base_port = 24640"));
    let folder = Folder::new("cli");
    let file = folder.0.join("node.toml");
    fs::write(&file, &manual).unwrap();
    let name = file.to_str().unwrap();
    assert!(run(&["--check", "--config", name]).0);
    fs::write(&file, "[network]\nbase_prt = 1\n").unwrap();
    let (fine, said) = run(&["--check", "--config", name]);
    assert!(!fine && said.contains("did you mean `base_port`?") && said.contains('^'), "{said}");
    let (fine, said) = run(&["--config", "/does/not/exist"]);
    assert!(!fine && said.contains("--print-default-config"), "{said}");
}
