use super::{
    records::{LAYOUT, REQUEST_BYTES_MAX},
    socket::{self, Datagram},
    *,
};
use crate::{SealedImage, StatsSegment, TapRing, seal_image};
use rustix::{
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, SocketAddrUnix, connect, sendmsg},
    process::geteuid,
};
use std::{
    io::{ErrorKind, IoSlice},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::PathBuf,
    thread,
    time::{Duration, Instant},
};
use tachyon_wire::{
    Endpoint,
    command::{AddSubscriber, OpenSession},
};
use zerocopy::{FromZeros, IntoBytes};

const BOOT: [u8; 16] = [7; 16];
const PATIENCE: Duration = Duration::from_secs(5);

/// A socket path of its own for each test, removed on drop.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Self {
        let folder = std::env::temp_dir().join(format!("tachyon-{name}-{}", std::process::id()));
        std::fs::create_dir_all(&folder).unwrap();
        Self(folder.join("node.sock"))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(self.0.parent().unwrap());
    }
}

fn hello() -> Hello {
    Hello {
        boot_id: BOOT,
        boot_number: 3,
        workers: 2,
        shard_count: 16,
        listen: Endpoint::v4([127, 0, 0, 1], 24_640),
        frame_bytes_max: 1472,
        sessions_max: 1024,
        subscribers_max: 64,
        topics_max: 65_536,
        senders_max: 4096,
        targets_max: 512,
        ruleset_version: 9,
        driver: "uring".into(),
        degraded: vec!["ordinary pages".into(), "nothing is pinned".into()],
    }
}

#[test]
fn rights_are_set_on_sockets_and_through_no_link() {
    let place = Place::new("rights");
    let (other, mode) = (place.0.with_extension("other"), |path: &PathBuf| path.metadata().unwrap().mode() & 0o777);
    let _listener = Listener::bind(&place.0, &[]).unwrap();
    assert_eq!(mode(&place.0), 0o666);
    std::os::unix::fs::symlink(&place.0, &other).unwrap();
    set_socket_rights(&other, 0o600).unwrap_err();
    std::fs::remove_file(&other).unwrap();
    std::fs::write(&other, "").unwrap();
    set_socket_rights(&other, 0o777).unwrap_err();
    assert_eq!(mode(&place.0), 0o666);
    set_socket_rights(&place.0, 0o640).unwrap();
    assert_eq!(mode(&place.0), 0o640);
    std::fs::remove_file(&other).unwrap();
}

/// Accepts one connection, waiting for it.
fn accept(listener: &Listener) -> Connection {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        if let Some(connection) = listener.accept().unwrap() {
            return connection;
        }
        thread::sleep(Duration::from_millis(1));
    }
    panic!("nobody connected");
}

/// Takes the next thing that is not `Nothing`.
fn next(connection: &Connection) -> Incoming {
    let end = Instant::now() + PATIENCE;
    while Instant::now() < end {
        match connection.receive().unwrap() {
            Incoming::Nothing => thread::sleep(Duration::from_millis(1)),
            other => return other,
        }
    }
    panic!("nothing came");
}

fn reply(number: u32, accepted: Accepted, text: &str) -> Reply {
    Reply { number, accepted, text: text.into() }
}

#[test]
fn hello_requests_and_replies_pass_between_two_threads() {
    let place = Place::new("pass");
    let listener = Listener::bind(&place.0, &[geteuid().as_raw()]).unwrap();
    let segment = StatsSegment::create(2, BOOT).unwrap();
    let node = thread::spawn(move || {
        let connection = accept(&listener);
        assert_eq!(connection.peer().uid, geteuid().as_raw());
        assert_eq!(connection.peer().pid, i32::try_from(std::process::id()).unwrap());
        connection.send_hello(&hello(), segment.reader_fd()).unwrap();
        let mut seen = Vec::new();
        loop {
            let (number, request) = match next(&connection) {
                Incoming::Request(number, request) => (number, request),
                Incoming::Closed => return seen,
                other => panic!("{other:?}"),
            };
            let (accepted, text) = match &request {
                Request::Ruleset(fd) if SealedImage::adopt(fd).unwrap().as_ref() == b"rules" => (Accepted::Yes, ""),
                Request::CloseSession(8) => (Accepted::Refused, "no such session"),
                Request::RemoveSubscriber(4) => (Accepted::Busy, "ring full"),
                _ => (Accepted::Yes, ""),
            };
            seen.push((number, format!("{request:?}")));
            connection.reply(&reply(number, accepted, text)).unwrap();
        }
    });
    let (mut control, said, stats) = ControlEnd::connect(&place.0, &[], PATIENCE).unwrap();
    assert_eq!(said, hello());
    assert_eq!(stats.workers(), 2);
    let mut open = OpenSession::new_zeroed();
    open.session_id = 77.into();
    control.call(&Request::OpenSession(Box::new(open))).unwrap();
    let mut add = AddSubscriber::new_zeroed();
    add.slot = 5.into();
    control.call(&Request::AddSubscriber(Box::new(add))).unwrap();
    control.call(&Request::Ruleset(seal_image(b"rules").unwrap())).unwrap();
    let refused = control.call(&Request::CloseSession(8)).unwrap_err();
    assert!(matches!(&refused, CallError::Refused(text) if text == "no such session"), "{refused}");
    let busy = control.call(&Request::RemoveSubscriber(4)).unwrap_err();
    assert!(matches!(&busy, CallError::Busy(text) if text == "ring full"), "{busy}");
    drop(control);
    let seen = node.join().unwrap();
    let names = ["OpenSession(77)", "AddSubscriber(5, worker 0)", "Ruleset", "CloseSession(8)", "RemoveSubscriber(4)"];
    let expected: Vec<_> =
        names.iter().enumerate().map(|(i, n)| (u32::try_from(i).unwrap() + 1, (*n).to_owned())).collect();
    assert_eq!(seen, expected);
}

/// A raw connection, and the node's end of it.
fn raw(name: &str) -> (Place, OwnedFd, Connection) {
    let place = Place::new(name);
    let listener = Listener::bind(&place.0, &[geteuid().as_raw()]).unwrap();
    let socket = socket::open().unwrap();
    connect(&socket, &SocketAddrUnix::new(&place.0).unwrap()).unwrap();
    let connection = accept(&listener);
    (place, socket, connection)
}

fn complaint(connection: &Connection) -> (u32, String) {
    match next(connection) {
        Incoming::Malformed(number, text) => (number, text),
        other => panic!("{other:?}"),
    }
}

#[test]
fn refuses_every_datagram_that_is_no_request_and_stays_in_step() {
    let (_place, socket, connection) = raw("malformed");
    let (good, _) = Request::CloseSession(1).to_bytes(42);
    for len in 1..good.len() {
        socket::send(&socket, &good[..len], &[]).unwrap();
        complaint(&connection);
    }
    for len in [good.len() + 1, REQUEST_BYTES_MAX, REQUEST_BYTES_MAX + 1, 60_000] {
        let long: Vec<u8> = good.iter().copied().chain(std::iter::repeat(0)).take(len).collect();
        socket::send(&socket, &long, &[]).unwrap();
        complaint(&connection);
    }
    let bits = (0..good.len() * 8).filter(|bit| (bit / 8 < 4) || (bit / 8 >= 8 && bit / 8 < 24)); // all but number and id
    for bit in bits {
        let mut bad = good.clone();
        bad[bit / 8] ^= 1 << (bit % 8);
        if [4, 6, 11, 12, 13, 14].contains(&bad[16]) {
            continue; // RemoveSubscriber, Port, Lane and Filter have the same body
        }
        socket::send(&socket, &bad, &[]).unwrap();
        assert_eq!(complaint(&connection).0, 42, "bit {bit}");
    }
    socket::send(&socket, &good, &[]).unwrap();
    assert!(matches!(next(&connection), Incoming::Request(42, Request::CloseSession(1))));
}

#[test]
fn refuses_another_layout_with_a_reason() {
    let (_place, socket, connection) = raw("layout");
    let (mut bytes, _) = Request::CloseSession(1).to_bytes(5);
    bytes[8..16].copy_from_slice(&(LAYOUT + 1).to_le_bytes());
    socket::send(&socket, &bytes, &[]).unwrap();
    let (number, text) = complaint(&connection);
    assert_eq!(number, 5);
    assert!(text.contains("same version"), "{text}");
}

#[test]
fn refuses_descriptors_where_none_belong_and_closes_them() {
    let (_place, socket, connection) = raw("descriptors");
    let open_before = std::fs::read_dir("/proc/self/fd").unwrap().count();
    let (bytes, _) = Request::CloseSession(1).to_bytes(1);
    let image = seal_image(b"rules").unwrap();
    socket::send(&socket, &bytes, &[image.as_fd()]).unwrap();
    assert!(complaint(&connection).1.contains("every other request with none"));
    let ruleset = Request::Ruleset(seal_image(b"rules").unwrap());
    let (bytes, _) = ruleset.to_bytes(2);
    socket::send(&socket, &bytes, &[]).unwrap();
    assert!(complaint(&connection).1.contains("one descriptor"));
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(5))];
    for count in [2, 3, 4, 5] {
        let fds = vec![image.as_fd(); count];
        let mut control = SendAncillaryBuffer::new(&mut space);
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
        assert!(complaint(&connection).1.contains("one descriptor"), "{count}");
    }
    drop((image, ruleset));
    // Other tests run beside this one, so the count is only bounded: hundreds of rounds would show a leak.
    for _ in 0..300 {
        let image = seal_image(b"rules").unwrap();
        let mut control = SendAncillaryBuffer::new(&mut space);
        let fds = [image.as_fd(); 5];
        assert!(control.push(SendAncillaryMessage::ScmRights(&fds)));
        sendmsg(&socket, &[IoSlice::new(&bytes)], &mut control, SendFlags::empty()).unwrap();
        complaint(&connection);
    }
    assert!(std::fs::read_dir("/proc/self/fd").unwrap().count() < open_before + 100, "descriptors leak");
}

#[test]
fn refuses_users_that_may_not_connect() {
    if geteuid().is_root() {
        return; // root always may; the other half of this is what every other test does
    }
    let place = Place::new("users");
    let listener = Listener::bind(&place.0, &[]).unwrap();
    let socket = socket::open().unwrap();
    connect(&socket, &SocketAddrUnix::new(&place.0).unwrap()).unwrap();
    assert_eq!(listener.accept().unwrap_err().kind(), ErrorKind::PermissionDenied);
    let mut byte = [0];
    assert!(matches!(socket::receive(&socket, &mut byte).unwrap(), Datagram::Closed));
}

/// Connects while a stranger answers with `bytes` and perhaps a descriptor; returns what is said about it.
fn told_by_a_stranger(name: &str, bytes: &[u8], with: Option<OwnedFd>) -> String {
    let place = Place::new(name);
    let listener = Listener::bind(&place.0, &[geteuid().as_raw()]).unwrap();
    let bytes = bytes.to_vec();
    let stranger = thread::spawn(move || {
        let connection = accept(&listener);
        let fds: Vec<_> = with.iter().map(AsFd::as_fd).collect();
        socket::send(&connection, &bytes, &fds).unwrap();
    });
    let error = ControlEnd::connect(&place.0, &[], PATIENCE).unwrap_err();
    stranger.join().unwrap();
    error.to_string()
}

#[test]
fn control_refuses_hellos_that_do_not_fit() {
    let record = hello().to_record();
    let good = record.as_bytes();
    let segment = |workers, boot| {
        let segment = StatsSegment::create(workers, boot).unwrap();
        Some(segment.reader_fd().try_clone_to_owned().unwrap())
    };
    assert!(told_by_a_stranger("short", &good[..100], None).contains("not 100"));
    assert!(told_by_a_stranger("none", good, None).contains("no statistics segment"));
    assert!(told_by_a_stranger("boot", good, segment(2, [1; 16])).contains("another start"));
    assert!(told_by_a_stranger("workers", good, segment(1, BOOT)).contains("number of workers"));
    assert!(told_by_a_stranger("image", good, seal_image(&[1; 65_536]).ok()).contains("first bytes"));
    let mut other = good.to_vec();
    other[0] ^= 1;
    assert!(told_by_a_stranger("magic", &other, segment(2, BOOT)).contains("not tachyond"));
    let mut other = good.to_vec();
    other[8] ^= 1;
    assert!(told_by_a_stranger("hello-layout", &other, segment(2, BOOT)).contains("same version"));
}

#[test]
fn control_does_not_wait_for_ever() {
    let place = Place::new("patience");
    let _listener = Listener::bind(&place.0, &[geteuid().as_raw()]).unwrap();
    let error = ControlEnd::connect(&place.0, &[], Duration::from_millis(20)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::TimedOut);
}

#[test]
fn a_left_over_socket_is_replaced_and_anything_else_is_not() {
    let place = Place::new("left-over");
    let first = Listener::bind(&place.0, &[]).unwrap();
    drop(first);
    assert!(!place.0.exists(), "a listener takes its file with it");
    std::os::unix::net::UnixListener::bind(&place.0).unwrap();
    drop(Listener::bind(&place.0, &[]).unwrap());
    std::fs::write(&place.0, "precious").unwrap();
    assert_eq!(Listener::bind(&place.0, &[]).unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(std::fs::read(&place.0).unwrap(), b"precious");
}

#[test]
fn long_texts_are_cut_at_a_whole_character() {
    let long = "ä".repeat(REPLY_TEXT_MAX);
    let record = reply(1, Accepted::Refused, &long).to_record();
    let back = Reply::from_bytes(record.as_bytes()).unwrap();
    assert_eq!(back.text, "ä".repeat(REPLY_TEXT_MAX / 2));
}

/// A port whose texts and counters are as long as they can be and still arrive whole.
fn port(name: &str, counters: u32) -> PortStatus {
    PortStatus {
        name: name.into(),
        driver: "dpdk".into(),
        device: "0000:01:00.0".into(),
        state: PortState::LinkDown,
        why: "no carrier; plug it in".into(),
        mac: Some([2, 0, 0, 0, 0, 1]),
        speed_mbps: Some(100_000),
        mtu: Some(9_000),
        numa_node: Some(0),
        queues: 4,
        steering: "flow rules".into(),
        addresses: (0..8).map(|n| format!("{n}0ff:ffff:ffff:ffff:ffff:ffff:ffff:ffff/128")).collect(),
        counters: (0..counters).map(|n| (format!("{n:0>56}"), u64::from(n) << 33)).collect(),
        counters_total: counters,
    }
}

/// A thread that answers each request for a port from this list, and everything else with a refusal.
fn with_ports(name: &str, ports: Vec<PortStatus>) -> (Place, thread::JoinHandle<Vec<String>>, ControlEnd) {
    let place = Place::new(name);
    let listener = Listener::bind(&place.0, &[geteuid().as_raw()]).unwrap();
    let segment = StatsSegment::create(2, BOOT).unwrap();
    let node = thread::spawn(move || {
        let connection = accept(&listener);
        connection.send_hello(&hello(), segment.reader_fd()).unwrap();
        let mut seen = Vec::new();
        loop {
            let (number, request) = match next(&connection) {
                Incoming::Request(number, request) => (number, request),
                Incoming::Malformed(number, text) => {
                    connection.reply(&reply(number, Accepted::Refused, &text)).unwrap();
                    continue;
                }
                _ => return seen,
            };
            seen.push(format!("{request:?}"));
            let asked = if let Request::Port(place) = request { ports.get(place as usize) } else { None };
            let count = u16::try_from(ports.len()).unwrap();
            match asked {
                Some(port) => connection.reply_port(number, count, port).unwrap(),
                None => connection.reply(&reply(number, Accepted::Refused, "there is no such port")).unwrap(),
            }
        }
    });
    let (control, ..) = ControlEnd::connect(&place.0, &[], PATIENCE).unwrap();
    (place, node, control)
}

#[test]
fn ports_are_told_one_by_one_with_everything_that_they_count() {
    let bare = PortStatus {
        state: PortState::Ready,
        why: String::new(),
        mac: None,
        speed_mbps: None,
        mtu: None,
        numa_node: None,
        addresses: Vec::new(),
        ..port("bare", 0)
    };
    let ports = vec![port("sixteen-letters-", 256), bare, port("c", 1)];
    let (_place, node, mut control) = with_ports("ports", ports.clone());
    assert_eq!(control.ports().unwrap(), ports);
    let stopped = control.call(&Request::StopPort("east".into())).unwrap_err();
    assert!(matches!(&stopped, CallError::Refused(text) if text == "there is no such port"), "{stopped}");
    control.call(&Request::StartPort("sixteen-letters-".into())).unwrap_err();
    let long = control.call(&Request::StopPort("seventeen-letters".into())).unwrap_err();
    assert!(matches!(&long, CallError::Refused(text) if text.contains("1 to 16 bytes")), "{long}");
    drop(control);
    let expected = ["Port(0)", "Port(1)", "Port(2)", "StopPort(east)", "StartPort(sixteen-letters-)"];
    assert_eq!(node.join().unwrap(), expected);
}

#[test]
fn more_counters_than_there_is_room_for_are_cut_and_counted() {
    let (_place, _node, mut control) = with_ports("counters", vec![port("east", 1_000)]);
    let told = control.ports().unwrap();
    assert_eq!((told[0].counters.len(), told[0].counters_total), (PORT_COUNTERS_MAX, 1_000));
    assert_eq!(told[0].counters, port("east", 1_000).counters[..PORT_COUNTERS_MAX]);
}

#[test]
fn a_node_without_ports_refuses_and_the_connection_stays_in_step() {
    let (_place, _node, mut control) = with_ports("no-ports", Vec::new());
    for _ in 0..2 {
        let refused = control.ports().unwrap_err();
        assert!(matches!(&refused, CallError::Refused(text) if text.contains("no such port")), "{refused}");
    }
}

fn lane(worker: u16, kind: LaneKind, state: LaneState) -> LaneStatus {
    let why = "the peer does not acknowledge: look at the link and at the peer".into();
    let to = Endpoint::v4([10, 0, 0, 7], 9_000);
    LaneStatus { worker, to, kind, state, why, attempts: 3, fell_back: state == LaneState::Failed }
}

#[test]
fn lanes_are_offered_answered_listed_and_dropped() {
    let place = Place::new("lanes");
    let listener = Listener::bind(&place.0, &[geteuid().as_raw()]).unwrap();
    let segment = StatsSegment::create(2, BOOT).unwrap();
    let told = [
        lane(0, LaneKind::Datagrams, LaneState::Connected),
        lane(1, LaneKind::Connection, LaneState::Waiting),
        lane(2, LaneKind::Ring, LaneState::Failed),
        lane(3, LaneKind::Ring, LaneState::Ending),
    ];
    let lanes = told.clone();
    let node = thread::spawn(move || {
        let connection = accept(&listener);
        connection.send_hello(&hello(), segment.reader_fd()).unwrap();
        let mut seen = Vec::new();
        loop {
            let (number, request) = match next(&connection) {
                Incoming::Request(number, request) => (number, request),
                Incoming::Malformed(number, text) => {
                    connection.reply(&reply(number, Accepted::Refused, &text)).unwrap();
                    continue;
                }
                _ => return seen,
            };
            seen.push(format!("{request:?}"));
            match request {
                Request::ConnectLane(lane) if lane.worker == 9 => {
                    connection.reply(&reply(number, Accepted::Refused, "there is no worker 9")).unwrap();
                }
                Request::ConnectLane(lane) => {
                    let mut details = lane.details;
                    details.reverse();
                    connection.reply_details(number, &LaneAnswer { to: lane.to, details }).unwrap();
                }
                Request::Lane(place) => {
                    connection.reply_lane(number, 4, &lanes[place as usize]).unwrap();
                }
                _ => connection.reply(&reply(number, Accepted::Yes, "")).unwrap(),
            }
        }
    });
    let (mut control, ..) = ControlEnd::connect(&place.0, &[], PATIENCE).unwrap();
    let details: [u8; LANE_DETAILS_BYTES] = std::array::from_fn(|n| u8::try_from(n).unwrap());
    let to = Endpoint::v4([10, 0, 0, 7], 9_000);
    let offer = LaneRequest { worker: 1, to, ports: 16, falls_back: true, details };
    let mut mirrored = details;
    mirrored.reverse();
    assert_eq!(control.connect_lane(offer).unwrap(), LaneAnswer { to, details: mirrored });
    let refused = control.connect_lane(LaneRequest { worker: 9, ..offer }).unwrap_err();
    assert!(matches!(&refused, CallError::Refused(text) if text == "there is no worker 9"), "{refused}");
    assert_eq!(control.lanes().unwrap(), told);
    control.call(&Request::DropLane(1, to)).unwrap();
    let past = LaneRequest { to: Endpoint::v4([10, 0, 0, 7], 65_530), ..offer };
    let refused = control.connect_lane(past).unwrap_err();
    assert!(matches!(&refused, CallError::Refused(text) if text.contains("cannot be")), "{refused}");
    drop(control);
    let seen = node.join().unwrap();
    assert_eq!(seen[0], "ConnectLane(worker 1, 16 ports)", "no detail of a lane is printed");
    assert!(seen[6].starts_with("DropLane(worker 1"), "{seen:?}");
}

#[test]
fn offers_that_cannot_be_are_refused() {
    let to = Endpoint::v4([10, 0, 0, 7], 65_530);
    let offer = LaneRequest { worker: 0, to, ports: 6, falls_back: false, details: [1; LANE_DETAILS_BYTES] };
    assert_eq!(LaneRequest::from_record(&offer.to_record()), Ok(offer));
    for ports in [0, 7, u16::MAX] {
        assert!(LaneRequest::from_record(&LaneRequest { ports, ..offer }.to_record()).is_err(), "{ports}");
    }
}

#[test]
fn filters_are_told_one_by_one_and_lists_travel_sealed() {
    let place = Place::new("filters");
    let listener = Listener::bind(&place.0, &[geteuid().as_raw()]).unwrap();
    let segment = StatsSegment::create(2, BOOT).unwrap();
    let filter = |interface: &str, state| FilterStatus {
        interface: interface.into(),
        state,
        why: "the driver of this card has no native mode".into(),
        program_id: 7,
        version: 1,
        instructions: 4_000,
        code_bytes: 2_000,
        run_ns: 1 << 40,
        runs: 1 << 34,
        sessions: 9,
        prefixes: 1_000_000,
        topic_blocks: 3,
        seen: 100,
        passed_foreign: 10,
        passed_ours: 20,
        redirected: 30,
        dropped: std::array::from_fn(|n| n as u64),
    };
    let told = vec![filter("fifteen-letters", FilterState::Native), filter("b", FilterState::Failed)];
    let filters = told.clone();
    let node = thread::spawn(move || {
        let connection = accept(&listener);
        connection.send_hello(&hello(), segment.reader_fd()).unwrap();
        let mut listed = Vec::new();
        while let Incoming::Request(number, request) = next(&connection) {
            match request {
                Request::Filter(place) => connection.reply_filter(number, 2, &filters[place as usize]).unwrap(),
                Request::Denied(fd) => {
                    let sealed = SealedImage::adopt(&fd).unwrap();
                    listed = Prefix::list(sealed.as_ref()).unwrap().to_vec();
                    connection.reply(&reply(number, Accepted::Yes, "")).unwrap();
                }
                other => connection.reply(&reply(number, Accepted::Yes, &format!("{other:?}"))).unwrap(),
            }
        }
        listed
    });
    let (mut control, ..) = ControlEnd::connect(&place.0, &[], PATIENCE).unwrap();
    assert_eq!(control.filters().unwrap(), told);
    let list = [Prefix::new([10, 0, 0, 0].into(), 8).unwrap(), Prefix::new([0; 16].into(), 0).unwrap()];
    control.call(&Request::Denied(seal_image(list.as_bytes()).unwrap())).unwrap();
    control.call(&Request::AttachFilter("eth0".into())).unwrap();
    control.call(&Request::DetachFilter("eth0".into())).unwrap();
    drop(control);
    assert_eq!(node.join().unwrap(), list);
}

/// What a node answers about worker 1's tap; the arena is any sealed memory of its size.
fn tap_answer() -> TapAnswer {
    TapAnswer {
        worker: 1,
        boot_id: BOOT,
        ring_bytes: 4_096,
        arena_bytes: 5,
        buffer_bytes: 2_048,
        headroom_bytes: 128,
        shards: (0..64).collect(),
    }
}

#[test]
fn a_tap_is_handed_over_with_three_descriptors_as_often_as_it_is_asked_for() {
    let place = Place::new("tap");
    let listener = Listener::bind(&place.0, &[geteuid().as_raw()]).unwrap();
    let segment = StatsSegment::create(2, BOOT).unwrap();
    let mut tap = TapRing::create(1, BOOT, 4_096).unwrap();
    let mut writer = tap.writer().unwrap();
    let arena = seal_image(b"arena").unwrap();
    let node = thread::spawn(move || {
        for _ in 0..2 {
            let connection = accept(&listener);
            connection.send_hello(&hello(), segment.reader_fd()).unwrap();
            while let Incoming::Request(number, request) = next(&connection) {
                let mut answer = tap_answer();
                let fds = [tap.ring_fd(), tap.cursors_fd(), arena.as_fd()];
                match request {
                    Request::Tap(0) => {
                        let text = "the node keeps no log; set enabled = true in [log] of the node file";
                        connection.reply(&reply(number, Accepted::Refused, text)).unwrap();
                    }
                    Request::Tap(1) => connection.reply_tap(number, &answer, fds).unwrap(),
                    Request::Tap(2) => {
                        answer.boot_id = [0; 16];
                        connection.reply_tap(number, &answer, fds).unwrap();
                    }
                    Request::Tap(3) => connection.reply(&reply(number, Accepted::Yes, "")).unwrap(),
                    other => panic!("{other:?}"),
                }
            }
        }
    });
    let mut bytes = Vec::new();
    let (mut control, ..) = ControlEnd::connect(&place.0, &[], PATIENCE).unwrap();
    let refused = control.tap(0).unwrap_err();
    assert!(matches!(&refused, CallError::Refused(text) if text.contains("[log]")), "{refused}");
    let mut reader = control.tap(1).unwrap();
    assert_eq!(reader.answer(), &tap_answer());
    writer.begin(64).unwrap()[4] = tachyon_wire::tap::KIND_TURN;
    let end = writer.commit(64);
    assert_eq!(reader.next(&mut bytes), Ok(Some(end)));
    for worker in [2, 3] {
        let lost = control.tap(worker).unwrap_err();
        assert!(matches!(lost, CallError::Lost(_)), "{lost}");
    }
    drop((control, reader));
    let (mut control, ..) = ControlEnd::connect(&place.0, &[], PATIENCE).unwrap();
    let mut reader = control.tap(1).unwrap();
    assert_eq!(reader.next(&mut bytes), Ok(Some(end)), "it was not stable");
    drop(control);
    node.join().unwrap();
}
