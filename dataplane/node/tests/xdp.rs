//! `tachyond` behind the pre-filter, with sockets and with AF_XDP: what was sent is what the filter and the node account for
//! together, whatever is opened, closed, swapped, killed or taken off meanwhile. Needs root, for namespaces of its own.
#![cfg(feature = "xdp")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "in a test a failure is a panic, in its helpers too, and what is skipped is said"
)]

mod cable;
mod node;

use cable::{Cable, NODE, OTHER, PUBLISHER};
use node::{Folder, Node, PATIENCE, SHARDS, rules, ruleset, wait_for};
use std::{net::UdpSocket, process::Command, thread, time::Instant};
use tachyon_policy::compile::{Quota, RulesetSource};
use tachyon_segment::{
    StatsReader,
    handover::{CallError, ControlEnd, FilterState, FilterStatus, Prefix, Request},
};
use tachyon_wire::{
    Endpoint, Message, Reason,
    build::{FrameFields, FrameWriter, Seal},
    command::{AddSubscriber, OpenSession},
    counters::Counters,
};
use zerocopy::FromZeros;

/// In namespaces of their own all tests can use the same ports.
const BASE: u16 = 24_640;
/// Where the subscriber listens for shard 0.
const INBOX: u16 = 30_000;
/// The first topic of another block than that of the usual ones, in shard 0.
const FAR_TOPIC: u32 = 256;

/// A node on one end of a cable, and control; the publisher and the subscriber are on the other.
struct Bench {
    cable: Cable,
    folder: Folder,
    node: Node,
    control: ControlEnd,
    stats: StatsReader,
    publisher: UdpSocket,
    inboxes: Vec<UdpSocket>,
    frame_id: u32,
    text: String,
}

impl Bench {
    /// A node with this text in its file; `None` where that cannot be tested.
    fn new(name: &str, text: &str) -> Option<Self> {
        let (cable, folder) = (Cable::new()?, Folder::new(name));
        let publisher = cable.socket(PUBLISHER, 0);
        let inboxes = (0..SHARDS).map(|shard| cable.socket(PUBLISHER, INBOX + shard)).collect();
        let (node, control, stats) = start(&cable, &folder, text);
        let text = text.to_owned();
        Some(Self { cable, folder, node, control, stats, publisher, inboxes, frame_id: 0, text })
    }

    /// Kills the node.
    fn kill(&mut self) {
        self.node.kill();
    }

    /// Starts it again.
    fn start(&mut self) {
        (self.node, self.control, self.stats) = start(&self.cable, &self.folder, &self.text);
    }

    /// Rules, a session that anybody may use, and a subscriber on every worker.
    fn furnish(&mut self) {
        self.control.call(&ruleset(&rules(5, Quota::UNLIMITED))).unwrap();
        self.furnish_without_rules();
    }

    /// The same for a node that has last time's rules.
    fn furnish_without_rules(&mut self) {
        self.open(1, Endpoint::NONE);
        for worker in 0..self.stats.workers() {
            let mut add = AddSubscriber::new_zeroed();
            (add.slot, add.worker, add.credit) = (3.into(), worker.into(), 64.into());
            (add.session_id, add.frame_bytes_max) = ((40 + u32::from(worker)).into(), 1472.into());
            add.endpoint = Endpoint::v4([10, 77, 0, 1], INBOX);
            self.control.call(&Request::AddSubscriber(Box::new(add))).unwrap();
        }
    }

    fn open(&mut self, id: u32, pinned: Endpoint) {
        let mut open = OpenSession::new_zeroed();
        (open.session_id, open.reply_session_id) = (id.into(), (id + 32).into());
        (open.sender_low, open.sender_high, open.pinned) = (7.into(), 7.into(), pinned);
        self.control.call(&Request::OpenSession(Box::new(open))).unwrap();
    }

    /// A new frame of one message.
    fn frame(&mut self, session_id: u32, topic: u32) -> Vec<u8> {
        self.frame_id += 1;
        let shard = u16::try_from(topic % u32::from(SHARDS)).unwrap();
        let mut buffer = [0; 128];
        let fields = FrameFields { frame_id: self.frame_id, session_id, shard, ..FrameFields::default() };
        let mut writer = FrameWriter::new(&mut buffer, fields);
        writer.push(&Message::inline(topic, 7, 1, b"hello").unwrap()).unwrap();
        let len = writer.finish(Seal::Crc);
        buffer[..len].to_vec()
    }

    /// Sends so many frames of one message from the publisher.
    fn send(&mut self, count: u32, session_id: u32, topic: u32) {
        for _ in 0..count {
            let frame = self.frame(session_id, topic);
            let port = BASE + u16::try_from(topic % u32::from(SHARDS)).unwrap();
            self.publisher.send_to(&frame, (NODE, port)).unwrap();
        }
    }

    fn send_junk(&self, count: u32) {
        for _ in 0..count {
            self.publisher.send_to(&[0x55; 128], (NODE, BASE)).unwrap();
        }
    }

    fn filter(&mut self) -> FilterStatus {
        let mut filters = self.control.filters().unwrap();
        assert_eq!(filters.len(), 1);
        filters.remove(0)
    }

    /// Looks at the filter until something is true.
    fn filter_when(&mut self, what: &str, condition: impl Fn(&FilterStatus) -> bool) -> FilterStatus {
        let end = Instant::now() + PATIENCE;
        loop {
            let filter = self.filter();
            if condition(&filter) {
                return filter;
            }
            assert!(Instant::now() < end, "never {what}: {filter:?}");
            thread::yield_now();
        }
    }

    /// Waits until the filter has judged so many frames and so much junk: the kernel may run it after `send_to` returned.
    fn filtered(&mut self, count: u64) -> FilterStatus {
        let ended = |filter: &FilterStatus| filter.passed_ours + filter.redirected + filter.dropped.iter().sum::<u64>();
        let filter = self.filter_when("judged by the filter", |filter| {
            ended(filter) >= count && ended(filter) + filter.passed_foreign == filter.seen
        });
        assert_eq!(ended(&filter), count, "not one more: {filter:?}");
        filter
    }

    /// Waits until the workers have judged so many frames together.
    fn judged(&self, frames: u64) -> Vec<Counters> {
        let all = wait_for(&self.stats, "judged", |all| all.iter().map(|one| one.frames_seen).sum::<u64>() >= frames);
        assert_eq!(all.iter().map(|one| one.frames_seen).sum::<u64>(), frames, "not one more");
        all
    }

    /// The subscriber receives so many messages of a shard.
    fn received(&self, shard: u16, count: usize) {
        let inbox = &self.inboxes[usize::from(shard)];
        inbox.set_read_timeout(Some(PATIENCE)).unwrap();
        let mut messages = 0;
        while messages < count {
            let mut buffer = [0; 2048];
            messages += inbox.recv(&mut buffer).expect("all copies arrive") / 64 - 1;
        }
        assert_eq!(messages, count);
    }
}

/// Starts a node where the cable ends.
fn start(cable: &Cable, folder: &Folder, text: &str) -> (Node, ControlEnd, StatsReader) {
    let path = &folder.0;
    let text = format!(
        "[node]\nstate_dir = {:?}\nrun_dir = {:?}\nfilter_dir = {:?}\nuser = \"65534\"\n\
         [limits]\ntopics_max = 1024\nsenders_max = 256\nsessions_max = 64\nsubscribers_max = 16\ntargets_max = 256\n{text}",
        path.join("state"),
        path.join("run"),
        cable.pins.join("tachyon"),
    );
    let mut node = cable.at_node(|| Node::start_file(path, BASE, &text));
    node.hear("\"ready\"");
    let (control, _, stats) = node.connect();
    (node, control, stats)
}

fn network(driver: &str) -> String {
    format!("[network]\ndriver = {driver}\naddress = \"{NODE}\"\nbase_port = {BASE}\nshard_count = {SHARDS}\n")
}

fn with_sockets() -> String {
    let memory = "[memory]\nbuffers_per_worker = 256\nreceive_buffers = 64\n";
    format!(
        "{}{memory}[workers]\ncount = 1\nstrict_heap = true\n[[prefilter]]\ninterface = \"b\"\n",
        network("\"uring\"")
    )
}

fn with_afxdp() -> String {
    let afxdp = "[afxdp]\nreceive_descriptors = 64\ntransmit_descriptors = 256\n";
    let filter = "[[prefilter]]\ninterface = \"b\"\ndeliver = \"afxdp\"\n";
    format!("{}{afxdp}[workers]\ncount = 2\nstrict_heap = true\n{filter}", network("[\"afxdp\", \"uring\"]"))
}

/// The interface is that of a DPDK port, which is a neighbour of its own.
#[cfg(feature = "dpdk")]
fn with_dpdk() -> String {
    let dpdk = "[dpdk]\nhuge_pages = \"off\"\nreceive_descriptors = 64\ntransmit_descriptors = 64\n";
    let port = format!(
        "[[ports]]\nname = \"east\"\ndevice = {{ af_xdp = {{ interface = \"b\" }} }}\naddresses = [\"{NODE}/24\"]\n\
         mac = \"02:00:00:00:78:02\"\n"
    );
    let filter = "[[prefilter]]\ninterface = \"b\"\ndeliver = \"dpdk\"\n";
    format!("{}{dpdk}[workers]\ncount = 1\n{port}{filter}", network("\"dpdk\""))
}

fn dropped(filter: &FilterStatus, reason: Reason) -> u64 {
    filter.dropped[reason.index()]
}

fn swapped(version: u64) -> RulesetSource {
    let mut rules = rules(version, Quota::UNLIMITED);
    for topic in &mut rules.topics {
        topic.topic_id += FAR_TOPIC - u32::from(SHARDS);
    }
    rules
}

#[test]
fn good_frames_pass_filter_and_node_and_each_other_one_dies_once_with_its_reason() {
    let Some(mut bench) = Bench::new("xdp-sockets", &with_sockets()) else { return };
    let new = bench.filter();
    assert_eq!((new.state, new.why.as_str(), new.interface.as_str()), (FilterState::Native, "", "b"));
    assert_eq!((new.sessions, new.prefixes, new.topic_blocks), (0, 0, 16_384));
    assert!(new.program_id > 0 && new.instructions > 0 && new.code_bytes > 0, "{new:?}");
    bench.furnish();
    bench.open(2, Endpoint::v4([10, 77, 0, 9], 0)); // from where nobody sends
    bench.filter_when("narrowed to the ruleset's topics", |filter| filter.topic_blocks == 1);

    bench.send(20, 1, 4);
    bench.send_junk(5);
    bench.send(3, 99, 4);
    bench.send(2, 2, 4);
    bench.send(4, 1, FAR_TOPIC);
    let denied = bench.cable.socket(OTHER, 0);
    let frame = bench.frame(1, 4);
    denied.send_to(&frame, (NODE, BASE)).unwrap();
    let all = bench.judged(21);
    assert_eq!((all[0].messages_accepted, all[0].unaccounted()), (21, [0; 3]));
    let list = [Prefix::new(OTHER.parse().unwrap(), 32).unwrap()];
    bench.control.call(&Request::Denied(Prefix::seal(&list).unwrap())).unwrap();
    for _ in 0..6 {
        let frame = bench.frame(1, 4);
        denied.send_to(&frame, (NODE, BASE)).unwrap();
    }
    let filter = bench.filtered(20 + 5 + 3 + 2 + 4 + 1 + 6);
    assert_eq!((filter.passed_ours, filter.redirected), (21, 0));
    assert_eq!((filter.sessions, filter.prefixes), (2, 1));
    assert_eq!([Reason::BadFrame, Reason::NoSession].map(|reason| dropped(&filter, reason)), [5, 5]);
    assert_eq!([Reason::FilterTopic, Reason::FilterDenied].map(|reason| dropped(&filter, reason)), [4, 6]);
    bench.received(0, 21);
    // Nobody is denied any more.
    bench.control.call(&Request::Denied(Prefix::seal(&[]).unwrap())).unwrap();
    let frame = bench.frame(1, 4);
    denied.send_to(&frame, (NODE, BASE)).unwrap();
    bench.judged(22);
    assert_eq!((bench.filter().prefixes, dropped(&bench.filter(), Reason::FilterDenied)), (0, 6));
    assert!(bench.node.stop());
    assert!(bench.cable.pins.join("tachyon/b/link").exists(), "the filter stays");
}

#[test]
fn what_is_opened_and_swapped_passes_at_once_and_what_is_closed_and_detached_is_the_workers() {
    let Some(mut bench) = Bench::new("xdp-changes", &with_sockets()) else { return };
    bench.furnish();
    for id in 10..30 {
        bench.open(id, Endpoint::v4([10, 77, 0, 1], 0));
        bench.send(1, id, 4);
    }
    bench.judged(20);
    for id in 10..30 {
        bench.control.call(&Request::CloseSession(id)).unwrap();
    }
    bench.filter_when("closed them", |filter| filter.sessions == 1);
    bench.send(1, 10, 4);
    assert_eq!(dropped(&bench.filtered(21), Reason::NoSession), 1);

    // The new topics pass with the answer to the swap, and the old ones end once nobody judges by the old rules.
    bench.filter_when("narrowed", |filter| filter.topic_blocks == 1);
    for version in 6..16 {
        let (rules, topic) =
            if version % 2 == 0 { (swapped(version), FAR_TOPIC) } else { (rules(version, Quota::UNLIMITED), 4) };
        bench.control.call(&ruleset(&rules)).unwrap();
        bench.send(2, 1, topic);
        bench.judged(20 + 2 * (version - 5));
        bench.filter_when("narrowed", |filter| filter.topic_blocks == 1);
    }
    assert_eq!(dropped(&bench.filter(), Reason::FilterTopic), 0);
    bench.send(1, 1, FAR_TOPIC);
    assert_eq!(dropped(&bench.filtered(42), Reason::FilterTopic), 1);

    // Off, everything passes and the workers judge; on again, it knows what was opened meanwhile.
    let id = bench.filter().program_id;
    bench.control.call(&Request::DetachFilter("b".into())).unwrap();
    assert_eq!(bench.filter().state, FilterState::Detached);
    bench.send_junk(3);
    bench.judged(43);
    bench.open(30, Endpoint::NONE);
    bench.control.call(&Request::AttachFilter("b".into())).unwrap();
    let filter = bench.filter();
    assert_eq!((filter.state, filter.program_id, filter.sessions), (FilterState::Native, id, 2));
    bench.filtered(42);
    bench.send_junk(3);
    bench.send(1, 30, 4);
    bench.judged(44);
    assert_eq!(dropped(&bench.filtered(46), Reason::BadFrame), 3);
    let refused = bench.control.call(&Request::DetachFilter("c".into()));
    assert!(
        matches!(&refused, Err(CallError::Refused(text)) if text.contains("those that have one: b")),
        "{refused:?}"
    );
}

/// A list goes in by slices, between which leases are moved; whoever sent it hears when all of it is in force.
#[test]
fn a_list_of_many_slices_is_answered_when_it_is_in_force_and_the_last_one_sent_stays() {
    let Some(mut bench) = Bench::new("xdp-lists", &with_sockets()) else { return };
    bench.furnish();
    let denied = bench.cable.socket(OTHER, 0);
    let other = |index: u32| Prefix::new(std::net::Ipv4Addr::from_bits(0xc000_0000 + index).into(), 32).unwrap();
    let mut sent = 0;
    for count in [20_000, 4_096, 4_095, 0] {
        // The one that counts comes last, so it is in the last slice.
        let list: Vec<Prefix> =
            (0..count).map(other).chain([Prefix::new(OTHER.parse().unwrap(), 32).unwrap()]).collect();
        bench.control.call(&Request::Denied(Prefix::seal(&list).unwrap())).unwrap();
        let frame = bench.frame(1, 4);
        denied.send_to(&frame, (NODE, BASE)).unwrap();
        sent += 1;
        let filter = bench.filtered(sent);
        assert_eq!((filter.prefixes, dropped(&filter, Reason::FilterDenied)), (count + 1, sent));
    }
    // Control may send requests behind it without waiting: answers come in their order.
    bench.control.call(&Request::Denied(Prefix::seal(&[]).unwrap())).unwrap();
    bench.send(1, 1, 4);
    bench.judged(1);
}

#[test]
fn a_killed_node_finds_its_filter_again_and_nothing_slipped_through_meanwhile() {
    let Some(mut bench) = Bench::new("xdp-killed", &with_sockets()) else { return };
    bench.furnish();
    let list = [Prefix::new(OTHER.parse().unwrap(), 32).unwrap()];
    bench.control.call(&Request::Denied(Prefix::seal(&list).unwrap())).unwrap();
    bench.send(2, 1, 4);
    bench.judged(2);
    let first = bench.filter();
    bench.kill();
    bench.send_junk(7);
    bench.start();
    bench.send_junk(3);
    let second = bench.filter_when("narrowed to the last good rules", |filter| filter.topic_blocks == 1);
    assert_eq!((second.program_id, second.prefixes), (first.program_id, 1), "adopted, with those who are denied");
    assert_eq!(second.sessions, 0, "what is open is up to control");
    assert_eq!(dropped(&bench.filtered(12), Reason::BadFrame), 10, "nothing got past it");
    bench.send(1, 1, 4);
    assert_eq!(dropped(&bench.filtered(13), Reason::NoSession), 1, "what the workers do not know it does not either");
    bench.control.call(&ruleset(&rules(6, Quota::UNLIMITED))).unwrap();
    bench.open(1, Endpoint::NONE);
    bench.send(4, 1, 4);
    bench.judged(4);
    // Stopped with another word in its file, it takes the filter off.
    bench.kill();
    bench.text.push_str("at_stop = \"detach\"\n");
    bench.start();
    assert_eq!(bench.filter().program_id, first.program_id);
    assert!(bench.node.stop());
    assert!(!bench.cable.pins.join("tachyon/b").exists(), "no pin is left");
}

#[test]
fn a_filter_that_cannot_be_attached_is_said_and_comes_when_its_interface_does() {
    let text = with_sockets().replace("\"b\"", "\"late\"\nmode = \"generic\"");
    let Some(mut bench) = Bench::new("xdp-late", &text) else { return };
    let filter = bench.filter();
    assert!(filter.state == FilterState::Failed && filter.why.contains("no interface late"), "{filter:?}");
    assert!(bench.node.said.iter().any(|line| line.contains("degraded") && line.contains("late has no pre-filter")));
    bench.furnish();
    bench.send(1, 1, 4);
    bench.judged(1);
    bench.cable.add_interface("late");
    bench.node.hear("\"prefilter\"");
    let filter = bench.filter();
    assert_eq!((filter.state, filter.sessions), (FilterState::Generic, 1), "{filter:?}");
    assert!(filter.why.contains("as the node file says"), "{filter:?}");
}

#[test]
fn tables_that_cannot_be_taken_over_are_replaced() {
    let Some(mut bench) = Bench::new("xdp-replaced", &with_sockets()) else { return };
    let first = bench.filter();
    bench.kill();
    let deny = bench.cable.pins.join("tachyon/b/deny");
    let mut bpftool = Command::new("bpftool");
    let deleted = bpftool.args(["map", "delete", "pinned"]).arg(deny).args(["key", "0", "0", "0", "0"]).status();
    if !deleted.is_ok_and(|status| status.success()) {
        return println!("skipped: only bpftool takes a table out of a filter");
    }
    bench.start();
    let second = bench.filter();
    assert_eq!((second.state, second.why.as_str()), (FilterState::Native, ""));
    assert_ne!(second.program_id, first.program_id);
    bench.furnish();
    let list = [Prefix::new(OTHER.parse().unwrap(), 32).unwrap()];
    bench.control.call(&Request::Denied(Prefix::seal(&list).unwrap())).unwrap();
    bench.send(1, 1, 4);
    bench.judged(1);
}

#[test]
fn a_filter_that_the_node_file_no_longer_names_is_said_and_can_be_taken_off_as_it_says() {
    let Some(mut bench) = Bench::new("xdp-left", &with_sockets()) else { return };
    bench.kill();
    bench.text = bench.text.replace("[[prefilter]]\ninterface = \"b\"\n", "");
    bench.start();
    let pins = bench.cable.pins.join("tachyon/b");
    let fix = format!("rm -r {}", pins.display());
    assert!(
        bench.node.said.iter().any(|line| line.contains("degraded") && line.contains(&fix)),
        "{:?}",
        bench.node.said
    );
    std::fs::remove_dir_all(pins).unwrap();
    let end = Instant::now() + PATIENCE;
    while bench.cable.has_program() {
        assert!(Instant::now() < end, "never off");
    }
    bench.furnish();
    bench.send(1, 1, 4);
    bench.judged(1);
}

#[test]
fn with_afxdp_each_frame_comes_to_its_worker_by_one_way_and_leaves_by_the_first_that_reaches() {
    let Some(mut bench) = Bench::new("xdp-afxdp", &with_afxdp()) else { return };
    bench.furnish();
    bench.filter_when("narrowed", |filter| filter.topic_blocks == 1);
    // Packets come on the first queue, which is worker 0's, and shard 0 as well; shard 1 is worker 1's.
    let end = Instant::now() + PATIENCE;
    let mut sent = 0_u64;
    while bench.filter().redirected == 0 || finished(&mut bench) == 0 {
        assert!(Instant::now() < end, "never by AF_XDP both ways: {:?}", bench.control.ports());
        bench.send(1, 1, 4);
        sent += 1;
        bench.judged(sent);
        bench.received(0, 1);
    }
    let before = bench.filter();
    bench.send(20, 1, 4);
    bench.send(30, 1, 5);
    bench.send_junk(5);
    let all = bench.judged(sent + 50);
    let by_worker: Vec<u64> = all.iter().map(|one| one.frames_seen).collect();
    assert_eq!(by_worker, [sent + 20, 30]);
    bench.received(0, 20);
    bench.received(1, 30);
    let filter = bench.filtered(sent + 55);
    assert_eq!(filter.redirected - before.redirected, 20);
    assert_eq!(filter.passed_ours - before.passed_ours, 30, "another worker's shard goes to its sockets");
    assert_eq!(dropped(&filter, Reason::BadFrame), 5);
    let all = wait_for(&bench.stats, "all given", |all| all.iter().all(|one| one.copies_held == 0));
    assert!(all.iter().all(|one| one.unaccounted() == [0; 3]), "{all:#?}");

    // Without the filter the same frames come by sockets, and with it by AF_XDP again.
    bench.control.call(&Request::DetachFilter("b".into())).unwrap();
    bench.send(3, 1, 4);
    bench.judged(sent + 53);
    bench.control.call(&Request::AttachFilter("b".into())).unwrap();
    bench.send(3, 1, 4);
    bench.judged(sent + 56);
    assert_eq!(bench.filter().redirected, filter.redirected + 3);

    // Killed and started again, its sockets are found in the map that was left.
    bench.kill();
    bench.start();
    bench.control.call(&ruleset(&rules(6, Quota::UNLIMITED))).unwrap();
    bench.open(1, Endpoint::NONE);
    let (end, before, mut sent) = (Instant::now() + PATIENCE, bench.filter(), 0);
    assert_eq!(before.program_id, filter.program_id);
    while bench.filter().redirected == before.redirected {
        assert!(Instant::now() < end, "never redirected again");
        bench.send(1, 1, 4);
        sent += 1;
        bench.judged(sent);
    }
}

#[test]
#[cfg(feature = "dpdk")]
fn before_a_dpdk_port_junk_ends_at_the_interface_and_a_filter_that_was_left_there_is_not_in_the_way() {
    let Some(mut bench) = Bench::new("xdp-dpdk", &with_dpdk()) else { return };
    for round in 1..=2 {
        assert_eq!((bench.filter().state, bench.filter().why.as_str()), (FilterState::Native, ""), "round {round}");
        if round == 1 {
            bench.furnish()
        } else {
            bench.furnish_without_rules()
        }
        bench.filter_when("narrowed", |filter| filter.topic_blocks == 1);
        // Until the port has found the subscriber.
        let (end, mut sent) = (Instant::now() + PATIENCE, 0);
        bench.inboxes[0].set_read_timeout(Some(std::time::Duration::from_millis(50))).unwrap();
        loop {
            assert!(Instant::now() < end, "never a copy: {:?}", bench.control.ports());
            bench.send(1, 1, 4);
            sent += 1;
            bench.judged(sent);
            if bench.inboxes[0].recv(&mut [0; 2048]).is_ok() {
                break;
            }
        }
        bench.send(20, 1, 4);
        bench.send_junk(5);
        bench.send(3, 99, 4);
        bench.judged(sent + 20);
        bench.received(0, 20);
        let filter = bench.filter_when("all judged", |filter| dropped(filter, Reason::NoSession) == 3);
        assert_eq!((dropped(&filter, Reason::BadFrame), filter.passed_ours, filter.passed_foreign), (5, 0, 0));
        assert!(filter.redirected >= sent + 20, "{filter:?}");
        let refused = bench.control.call(&Request::DetachFilter("b".into()));
        assert!(matches!(&refused, Err(CallError::Refused(text)) if text.contains("DPDK port")), "{refused:?}");
        if round == 1 {
            // What it leaves on the interface would be in the driver's way.
            bench.kill();
            assert!(bench.cable.has_program());
            bench.text.push_str("at_stop = \"detach\"\n");
            bench.start();
        }
    }
    assert!(!bench.folder.0.join("state/prefilter-b.o").exists(), "the program is in the kernel, and no file is left");
    assert!(bench.node.stop());
    assert!(!bench.cable.has_program(), "it was taken off");
}

#[test]
#[cfg(feature = "dpdk")]
fn an_interface_goes_from_the_kernel_to_a_dpdk_port_and_back_though_each_node_is_killed() {
    let Some(mut bench) = Bench::new("xdp-hands", &with_sockets()) else { return };
    for (round, text) in [with_dpdk(), with_sockets()].into_iter().enumerate() {
        bench.kill();
        assert!(bench.cable.has_program(), "what it left is there");
        bench.text = text;
        bench.start();
        let filter = bench.filter();
        assert_eq!((filter.state, filter.why.as_str()), (FilterState::Native, ""), "round {round}");
    }
    bench.furnish();
    bench.send_junk(2);
    bench.send(1, 1, 4);
    bench.judged(1);
    assert_eq!(dropped(&bench.filtered(3), Reason::BadFrame), 2);
}

/// Items that left by AF_XDP.
fn finished(bench: &mut Bench) -> u64 {
    let ports = bench.control.ports().unwrap();
    let port = ports.iter().find(|port| port.driver == "afxdp").expect("the port of the interface");
    let count = port.counters.iter().find(|(name, _)| name == "items_finished");
    count.map_or(0, |(_, count)| *count)
}
