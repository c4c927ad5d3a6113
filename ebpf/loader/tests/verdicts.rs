//! What becomes of each kind of packet: a table of packet, end and reason.
#![allow(
    clippy::cast_possible_truncation,
    clippy::print_stdout,
    clippy::unwrap_used,
    reason = "test helpers panic where a test would, say what was skipped or measured, and sizes are small"
)]

mod bed;

use bed::{
    Bed, End, End::Foreign, End::Ours, FRAME_V4, FRAME_V6, NODE, OPEN, PINNED, PINNED_IP, PINNED_IP_V6, PINNED_PORT,
    PINNED_V6, PORT, SHARD, address, frame, good, inserted, packet, sessions, with,
};
use rustix::net::{AddressFamily, SocketType, socket};
use tachyon_loader::{Config, Content, Deliver, Prefix, Rate, TopicBlocks};
use tachyon_wire::Reason;

const ELSEWHERE: &str = "198.51.100.7:40000";
const MALFORMED: End = End::Dropped(Reason::FilterMalformed);
const FRAGMENT: End = End::Dropped(Reason::FilterFragment);
const BAD: End = End::Dropped(Reason::BadFrame);
const NO_SESSION: End = End::Dropped(Reason::NoSession);

fn v4(payload: &[u8]) -> Vec<u8> {
    packet(address(ELSEWHERE), PORT, payload)
}

fn v6(payload: &[u8]) -> Vec<u8> {
    packet(address("[2001:db8::99]:40000"), PORT, payload)
}

fn check(rows: Vec<(&str, Vec<u8>, End)>, config: &Config, content: &Content<'_>) {
    let mut bed = Bed::new(config, content);
    for (what, packet, end) in rows {
        assert_eq!(bed.judge(&packet), end, "{what}");
    }
}

fn check_with_sessions(rows: Vec<(&str, Vec<u8>, End)>) {
    check(rows, &Config::default(), &Content { sessions: &sessions(), ..Content::default() });
}

#[test]
fn only_datagrams_to_our_ports_are_judged() {
    if !bed::is_root() {
        return;
    }
    let frame = good(OPEN);
    let tag = [0x81, 0x00, 0, 5];
    let service_tag = [0x88, 0xa8, 0, 5];
    let tcp = with(v4(&frame), 23, &[6]);
    check_with_sessions(vec![
        ("IPv4", v4(&frame), Ours),
        ("IPv6", v6(&frame), Ours),
        ("a VLAN tag", inserted(v4(&frame), 12, &tag), Ours),
        ("a service tag", inserted(v6(&frame), 12, &service_tag), Ours),
        ("two tags", inserted(inserted(v4(&frame), 12, &tag), 12, &service_tag), Foreign),
        ("junk behind a tag", inserted(v4(b"junk"), 12, &tag), BAD),
        ("ARP", with(v4(&frame), 12, &[0x08, 0x06]), Foreign),
        ("TCP to the same port", tcp, Foreign),
        ("ssh", with(with(v4(&frame), 23, &[6]), 36, &[0, 22]), Foreign),
        ("the port below", packet(address(ELSEWHERE), tachyon_wire::frame::BASE_PORT - 1, &frame), Foreign),
        ("the port above", packet(address(ELSEWHERE), tachyon_wire::frame::BASE_PORT + 16, &frame), Foreign),
        ("port 0", packet(address(ELSEWHERE), 0, &frame), Foreign),
        ("version 5 in IPv4", with(v4(&frame), 14, &[0x55]), Foreign),
        ("version 4 in IPv6", with(v6(&frame), 14, &[0x40]), Foreign),
        ("a header of 16 bytes", with(v4(&frame), 14, &[0x44]), Foreign),
    ]);
}

#[test]
fn options_are_followed_and_extension_headers_pass() {
    if !bed::is_root() {
        return;
    }
    let frame = good(OPEN);
    let mut bed = Bed::new(&Config::default(), &Content { sessions: &sessions(), ..Content::default() });
    for words in 1..=10_usize {
        let options = vec![1; words * 4];
        let with_options = |payload: &[u8]| {
            let plain = with(v4(payload), 14, &[0x45 + words as u8]);
            let total = (20 + words * 4 + 8 + payload.len()) as u16;
            inserted(with(plain, 16, &total.to_be_bytes()), 34, &options)
        };
        assert_eq!(bed.judge(&with_options(&frame)), Ours, "{words} words of options");
        assert_eq!(bed.judge(&with_options(b"junk")), BAD, "{words} words of options before junk");
        assert_eq!(bed.judge(&with_options(&frame)[..34 + words * 4 + 7]), Foreign, "{words} words, and no UDP header");
    }
    for next in [0, 43, 44, 50, 51, 60, 135, 139, 140, 253, 254] {
        assert_eq!(bed.judge(&with(v6(&frame), 20, &[next])), Foreign, "extension {next}");
    }
}

#[test]
fn fragments_and_checksums() {
    if !bed::is_root() {
        return;
    }
    let frame = good(OPEN);
    check_with_sessions(vec![
        ("the first fragment", with(v4(&frame), 20, &[0x20, 0]), FRAGMENT),
        ("the first fragment of junk", with(v4(b"junk"), 20, &[0x20, 0]), FRAGMENT),
        ("a later fragment", with(v4(&frame), 20, &[0x20, 9]), Foreign),
        ("the last fragment", with(v4(&frame), 20, &[0, 9]), Foreign),
        ("may not be fragmented", with(v4(&frame), 20, &[0x40, 0]), Ours),
        ("the reserved bit", with(v4(&frame), 20, &[0x80, 0]), Ours),
        ("no checksum over IPv4", with(v4(&frame), 40, &[0, 0]), Ours),
        ("a wrong checksum over IPv4", with(v4(&frame), 40, &[1, 2]), Ours),
        ("no checksum over IPv6", with(v6(&frame), 60, &[0, 0]), MALFORMED),
        ("a wrong checksum over IPv6", with(v6(&frame), 60, &[1, 2]), Ours),
    ]);
}

/// Every packet that ends early, with lengths that still promise the whole.
#[test]
fn no_packet_that_was_cut_is_accepted() {
    if !bed::is_root() {
        return;
    }
    let mut bed = Bed::new(&Config::default(), &Content { sessions: &sessions(), ..Content::default() });
    for (packet, headers) in [(v4(&good(OPEN)), FRAME_V4), (v6(&good(OPEN)), FRAME_V6)] {
        for bytes in 14..packet.len() {
            let end = if bytes < headers { Foreign } else { MALFORMED };
            assert_eq!(bed.judge(&packet[..bytes]), end, "the first {bytes} of {} bytes", packet.len());
        }
        assert_eq!(bed.judge(&packet), Ours);
    }
}

/// Every value of each length field in the headers.
#[test]
fn no_length_can_lie() {
    if !bed::is_root() {
        return;
    }
    let frame = good(OPEN); // 128 bytes
    let mut bed = Bed::new(&Config::default(), &Content { sessions: &sessions(), ..Content::default() });
    for value in 0..=u16::MAX {
        let bytes = value.to_be_bytes();
        let ip = match value {
            156 => Ours,
            _ => MALFORMED, // shorter than the UDP length says, or longer than the packet
        };
        assert_eq!(bed.judge(&with(v4(&frame), 16, &bytes)), ip, "IPv4 total length {value}");
        let payload = if value == 136 { Ours } else { MALFORMED };
        assert_eq!(bed.judge(&with(v6(&frame), 18, &bytes)), payload, "IPv6 payload length {value}");
        let udp = match value {
            136 => Ours,
            8..136 => BAD, // the frame is cut
            _ => MALFORMED,
        };
        assert_eq!(bed.judge(&with(v4(&frame), 38, &bytes)), udp, "UDP length {value}");
        let len = if value == 64 { Ours } else { BAD };
        assert_eq!(bed.judge(&with(v4(&frame), FRAME_V4 + 16, &value.to_le_bytes())), len, "frame length {value}");
        let count = if value == 1 { Ours } else { BAD };
        assert_eq!(bed.judge(&with(v4(&frame), FRAME_V4 + 30, &value.to_le_bytes())), count, "count {value}");
    }
    let padded = [v4(&frame), vec![0; 18]].concat();
    assert_eq!(bed.judge(&padded), Ours, "Ethernet pads short packets");
}

#[test]
fn every_field_of_a_header_is_checked() {
    if !bed::is_root() {
        return;
    }
    let at = |offset: usize, bytes: &[u8]| with(v4(&good(OPEN)), FRAME_V4 + offset, bytes);
    let large = frame(OPEN, SHARD, &[3; 22]);
    let larger = frame(OPEN, SHARD, &[3; 23]);
    check_with_sessions(vec![
        ("magic", at(0, b"RTT2"), BAD),
        ("an unknown flag", at(4, &[0x20, 0]), BAD),
        ("authenticated, and a crc", at(4, &[1, 0]), BAD),
        ("version 0", at(6, &[0]), BAD),
        ("version 2", at(6, &[2]), BAD),
        ("kind 4", at(7, &[4]), BAD),
        ("an ack of one line", at(7, &[1]), BAD),
        ("frame id 0", at(12, &[0; 4]), BAD),
        ("reserved", at(44, &[0, 0, 0, 1]), BAD),
        ("a tag without its flag", at(63, &[1]), BAD),
        ("provenance that is not there", at(4, &[0x10, 0]), BAD),
        ("no frame at all", v4(b""), BAD),
        ("a header alone", v4(&good(OPEN)[..64]), BAD),
        ("a byte too many", v4(&[good(OPEN), vec![0]].concat()), BAD),
        ("the largest frame", v4(&large), Ours),
        ("a larger frame", v4(&larger), End::Dropped(Reason::TooLarge)),
        ("large junk", v4(&[0; 1473]), End::Dropped(Reason::TooLarge)),
        ("another shard", at(28, &[4, 0]), End::Dropped(Reason::WrongShard)),
        ("a route", at(8, &[1, 0, 0, 0]), BAD),
        ("a route and another shard", with(at(8, &[1, 0, 0, 0]), FRAME_V4 + 28, &[4, 0]), BAD),
    ]);
}

#[test]
fn sessions_and_their_sources() {
    if !bed::is_root() {
        return;
    }
    let from = |source: &str, session: u32| packet(address(source), PORT, &good(session));
    let route = |session: u32| with(from(ELSEWHERE, session), FRAME_V4 + 8, &[1, 0, 0, 0]);
    check_with_sessions(vec![
        ("an unknown session", from(ELSEWHERE, 99), NO_SESSION),
        ("session 0", from(ELSEWHERE, 0), NO_SESSION),
        ("pinned", from(PINNED_IP, PINNED), Ours),
        ("pinned, another port", from("192.0.2.10:40001", PINNED), Ours),
        ("pinned elsewhere", from(ELSEWHERE, PINNED), NO_SESSION),
        ("pinned with its port", from(PINNED_IP, PINNED_PORT), Ours),
        ("pinned to another port", from("192.0.2.10:40001", PINNED_PORT), NO_SESSION),
        ("pinned over IPv6", from(PINNED_IP_V6, PINNED_V6), Ours),
        ("pinned over IPv6 elsewhere", from("[2001:db8::11]:40000", PINNED_V6), NO_SESSION),
        ("pinned over IPv4, from IPv6", from(PINNED_IP_V6, PINNED), NO_SESSION),
        ("pinned to an IPv4 address, mapped", from("[::ffff:192.0.2.10]:40000", PINNED), Foreign),
        ("a node's route", route(NODE), Ours),
        (
            "a node's route to another shard",
            with(route(NODE), FRAME_V4 + 28, &[4, 0]),
            End::Dropped(Reason::WrongShard),
        ),
        ("a route of nobody's", route(99), BAD),
    ]);
}

#[test]
fn denied_prefixes_and_blocks_of_topics() {
    if !bed::is_root() {
        return;
    }
    let prefix = |ip: &str, bits| Prefix::new(ip.parse().unwrap(), bits).unwrap();
    let deny = [prefix("198.51.100.0", 24), prefix("192.0.2.0", 24), prefix("2001:db8:dead::", 48)];
    let mut topics = TopicBlocks::NONE;
    // Blocks 1, 40 and 100 and the last: bits in both halves of a word, and in other words.
    [67, 64 * 40, 64 * 100 + 9, (1 << 20) - 1].into_iter().for_each(|topic| topics.allow(topic));
    topics.allow(1 << 20);
    let from = |source: &str, session: u32, topic: u32| {
        packet(address(source), PORT, &frame(session, SHARD, &[topic, 1_000_003]))
    };
    let denied = End::Dropped(Reason::FilterDenied);
    let no_topic = End::Dropped(Reason::FilterTopic);
    let rows = vec![
        ("an open session from a denied place", from(ELSEWHERE, OPEN, 67), denied),
        ("the place beside it", from("198.51.101.7:1", OPEN, 67), Ours),
        ("a denied IPv6 place", from("[2001:db8:dead:1::5]:1", OPEN, 67), denied),
        ("the place beside that", from("[2001:db8:deae::5]:1", OPEN, 67), Ours),
        ("an unknown session from a denied place", from(ELSEWHERE, 99, 67), NO_SESSION),
        ("a pinned source is never denied", from(PINNED_IP, PINNED, 67), Ours),
        ("the first topic of the block", from(PINNED_IP, PINNED, 64), Ours),
        ("the last topic of the block", from(PINNED_IP, PINNED, 127), Ours),
        ("the topic before", from(PINNED_IP, PINNED, 63), no_topic),
        ("the topic behind", from(PINNED_IP, PINNED, 128), no_topic),
        ("block 40", from(PINNED_IP, PINNED, 64 * 40 + 63), Ours),
        ("block 8", from(PINNED_IP, PINNED, 64 * 8), no_topic),
        ("block 100", from(PINNED_IP, PINNED, 64 * 100), Ours),
        ("block 36", from(PINNED_IP, PINNED, 64 * 36), no_topic),
        ("the last topic", from(PINNED_IP, PINNED, (1 << 20) - 1), Ours),
        ("behind the last topic", from(PINNED_IP, PINNED, 1 << 20), no_topic),
        ("no topic that can be", from(PINNED_IP, PINNED, u32::MAX), no_topic),
        ("denied comes before topics", from(ELSEWHERE, OPEN, 1), denied),
    ];
    let content = Content { sessions: &sessions(), deny: &deny, topics: Some(&topics) };
    check(rows, &Config::default(), &content);
}

#[test]
fn sources_spend_their_burst_and_no_more() {
    if !bed::is_root() {
        return;
    }
    // One more frame is earned every second; all runs of a call are on one CPU, and so spend one bucket.
    let slow = Some(Rate { per_second: 1, burst: 5 });
    let config = Config { pinned_rate: slow, unpinned_rate: slow, seed: 0x5eed, ..Config::default() };
    let bed = Bed::new(&config, &Content { sessions: &sessions(), ..Content::default() });
    let start = std::time::Instant::now();
    let mut sent = 0;
    for (source, session) in [(PINNED_IP, PINNED), (ELSEWHERE, OPEN), ("203.0.113.5:1", OPEN)] {
        let before = bed.program.tables().counters().unwrap();
        bed.program.test_run(&packet(address(source), PORT, &good(session)), 1000).unwrap();
        let after = bed.program.tables().counters().unwrap();
        let passed = after.passed_ours() - before.passed_ours();
        let earned = start.elapsed().as_secs() + 1;
        assert!((5..=5 + earned).contains(&passed), "{source} passed {passed} frames");
        sent += 1000;
        assert_eq!(after.dropped(Reason::FilterRate) + after.passed_ours(), sent);
    }
}

#[test]
fn a_denied_source_spends_nothing_of_the_bucket_that_it_shares() {
    if !bed::is_root() {
        return;
    }
    let slow = Some(Rate { per_second: 1, burst: 5 });
    let config = Config { unpinned_rate: slow, ..Config::default() };
    let prefix = Prefix::new(address(ELSEWHERE).ip(), 32).unwrap();
    let bed = Bed::new(&config, &Content { sessions: &sessions(), deny: &[prefix], ..Content::default() });
    let packet = packet(address(ELSEWHERE), PORT, &good(OPEN));
    let tables = bed.program.tables();
    bed.program.test_run(&packet, 1000).unwrap();
    assert_eq!(tables.counters().unwrap().dropped(Reason::FilterDenied), 1000);
    // Denied no longer, it stands for another source with the same bucket.
    tables.deny_del(&prefix).unwrap();
    bed.program.test_run(&packet, 5).unwrap();
    assert_eq!(tables.counters().unwrap().passed_ours(), 5, "the burst is whole");
}

#[test]
fn a_rate_that_the_clock_cannot_keep_is_refused() {
    for (per_second, burst) in [(0, 10), (1_000_000, 9_999), (1, u32::MAX)] {
        let config = Config { pinned_rate: Some(Rate { per_second, burst }), ..Config::default() };
        let error = tachyon_loader::Program::load(&config, &Content::default()).expect_err("refused");
        assert!(error.0.contains("burst"), "{error}");
    }
}

/// The interface of a program that is its own neighbour: what is not dropped is its, ARP and tagged packets too.
#[test]
fn where_everything_goes_to_the_queue_only_junk_does_not() {
    if !bed::is_root() {
        return;
    }
    let frame = good(OPEN);
    let config = Config { deliver: Deliver::AllByQueue, ..Config::default() };
    let mut bed = Bed::new(&config, &Content { sessions: &sessions(), ..Content::default() });
    let arp = with(v4(&frame), 12, &[0x08, 0x06]);
    let tagged = inserted(v4(&frame), 12, &[0x81, 0x00, 0, 5]);
    assert_eq!([bed.judge(&v4(&frame)), bed.judge(&arp)], [Ours, Foreign], "without a socket the kernel has it");
    let socket = socket(AddressFamily::XDP, SocketType::RAW, None).expect("an AF_XDP socket");
    bed.program.tables().socket_add(0, &socket).expect("the socket fits");
    for (what, packet) in
        [("a frame", v4(&frame)), ("ARP", arp), ("a tagged frame", tagged), ("ssh", with(v4(&frame), 36, &[0, 22]))]
    {
        assert_eq!(bed.judge(&packet), End::Redirected, "{what}");
    }
    assert_eq!(bed.judge(&v4(b"junk")), BAD);
    assert_eq!(bed.judge(&packet(address(ELSEWHERE), PORT, &good(99))), NO_SESSION);
}

/// Packets of a test run come on queue 0, so the socket of shard 3 is number 3.
#[test]
fn frames_go_to_the_socket_of_their_queue_or_shard() {
    if !bed::is_root() {
        return;
    }
    let frame = good(OPEN);
    for (deliver, index) in [(Deliver::ByQueue, 0_u32), (Deliver::ByShard, u32::from(SHARD))] {
        let config = Config { deliver, ..Config::default() };
        let mut bed = Bed::new(&config, &Content { sessions: &sessions(), ..Content::default() });
        let socket = socket(AddressFamily::XDP, SocketType::RAW, None).expect("an AF_XDP socket");
        for (at, end) in [(index + 1, Ours), (index, End::Redirected)] {
            let map = bed.program.tables();
            map.socket_add(at, &socket).expect("the socket fits");
            assert_eq!(bed.judge(&v4(&frame)), end, "{deliver:?} with a socket at {at}");
        }
        assert_eq!(bed.judge(&v4(b"junk")), BAD);
        assert_eq!(bed.judge(&with(v4(&frame), 36, &[0, 22])), Foreign);
        let tagged = |number: u8| inserted(v4(&frame), 12, &[0x81, 0x00, 0xe0, number]);
        assert_eq!(bed.judge(&tagged(5)), Ours, "a VLAN is another interface");
        assert_eq!(bed.judge(&tagged(0)), End::Redirected, "a priority alone is no VLAN");
        drop(socket);
        assert_eq!(bed.judge(&v4(&frame)), Ours, "a socket that is closed leaves the table by itself");
    }
}
