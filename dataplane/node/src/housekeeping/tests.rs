use super::*;
use crate::port_desk::tests::desk as port_desk;
use rtrb::RingBuffer;
use std::{fs, path::PathBuf, thread};
use tachyon_segment::handover::{CallError, ControlEnd};
use tachyon_wire::Endpoint;
use zerocopy::FromZeros;

const BOOT: [u8; 16] = [1; 16];
const PATIENCE: Duration = Duration::from_secs(20);

/// A desk whose worker takes nothing.
fn desk() -> Desk {
    Desk {
        items: RingBuffer::new(8).0,
        retired: RingBuffer::new(1).1,
        demands: RingBuffer::new(1).1,
        quarantine: RingBuffer::new(1).1,
        gauges: Arc::default(),
        restarts_told: 0,
        sent: 0,
        thread: None,
        state: WorkerState::Running,
    }
}

/// Has the node stop when the thread that plays control ends, however it ends.
struct Stopping(Arc<AtomicBool>);

impl Drop for Stopping {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn hello() -> Hello {
    Hello {
        boot_id: BOOT,
        boot_number: 1,
        workers: 1,
        shard_count: 1,
        listen: Endpoint::NONE,
        frame_bytes_max: 1_472,
        sessions_max: 64,
        subscribers_max: 4,
        topics_max: 64,
        senders_max: 64,
        targets_max: 64,
        ruleset_version: 0,
        driver: "kept".into(),
        degraded: Vec::new(),
    }
}

fn add(slot: u32, endpoint: Endpoint) -> Request {
    let mut add = AddSubscriber::new_zeroed();
    (add.slot, add.endpoint) = (slot.into(), endpoint);
    Request::AddSubscriber(Box::new(add))
}

const SOCKET: &str = "tachyond.sock";

/// A folder that goes away with the test.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let path = std::env::temp_dir().join(format!("tachyond-house-{name}-{}", std::process::id()));
        fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn house(folder: &Folder, desks: Vec<Desk>, ports: PortDesk) -> Housekeeping {
    let workers = u16::try_from(desks.len()).unwrap();
    Housekeeping {
        hello: Hello { workers, ..hello() },
        transports: String::new(),
        listener: Listener::bind(&folder.0.join(SOCKET), &[rustix::process::geteuid().as_raw()]).unwrap(),
        connection: None,
        segment: StatsSegment::create(workers, BOOT).unwrap(),
        state: StateFolder::open(&folder.0.join("state")).unwrap(),
        desks,
        leases: Leases::new(workers),
        taps: Taps::new(BOOT, None),
        ports,
        filters: Filters::none(),
        denying: None,
        clock: Clock::start(),
        current: None,
        voice: Voice::new(true),
        stop: Arc::new(AtomicBool::new(false)),
        quarantined: 0,
        quarantined_last: None,
        quarantine_told: Instant::now(),
    }
}

#[test]
fn a_worker_that_ended_keeps_nothing_from_the_others() {
    let folder = Folder::new("ended");
    let (room, mut live) = RingBuffer::new(8);
    let mut house = house(&folder, vec![desk(), Desk { items: room, ..desk() }], port_desk(&[]).0);
    for id in 0..8 {
        assert!(house.handle(Request::CloseSession(id)).is_ok());
    }
    while live.pop().is_ok() {}
    assert!(house.handle(Request::CloseSession(8)).is_err(), "the first one takes nothing");
    assert!(!house.desks.in_force(0, 8));
    house.desks[0].state = WorkerState::Down;
    for id in 8..12 {
        assert!(house.handle(Request::CloseSession(id)).is_ok());
    }
    let lease = Lease { sender_id: 1.into(), share: 0.into() };
    let ticket = house.desks.send(0, lease).unwrap();
    assert!(house.desks.in_force(0, ticket), "what it had can be given to others");
    assert_eq!(core::iter::from_fn(|| live.pop().ok()).count(), 4);
}

#[test]
fn the_last_quarantined_messages_are_told_when_it_is_time() {
    let folder = Folder::new("quarantine");
    let (mut fill, quarantine) = RingBuffer::new(4);
    let mut house = house(&folder, vec![Desk { quarantine, ..desk() }], port_desk(&[]).0);
    let now = Instant::now();
    house.quarantine_told = now + PATIENCE; // so that it is not yet time
    fill.push((Message::new_zeroed(), Reason::Throttled.number())).unwrap();
    house.collect();
    assert_eq!((house.quarantined, house.quarantined_last.is_some()), (1, true));
    house.quarantine_told = now.checked_sub(QUARANTINE_EVERY).unwrap();
    house.collect(); // nothing more came
    assert_eq!((house.quarantined, house.quarantined_last.is_some()), (0, false));
}

#[test]
fn ports_are_ticked_told_whom_to_expect_and_set_by_control() {
    let folder = Folder::new("ports");
    let (ports, kept) = port_desk(&["east", "west"]);
    let house = house(&folder, vec![desk()], ports);
    let (stop, socket) = (house.stop.clone(), folder.0.join(SOCKET));
    let control = thread::spawn(move || {
        let _stopping = Stopping(stop);
        let (mut control, ..) = ControlEnd::connect(&socket, &[], PATIENCE).unwrap();
        control.call(&add(0, Endpoint::v4([10, 0, 0, 9], 9_000))).unwrap();
        control.call(&add(1, Endpoint::v6([0xfd; 16], 9_000))).unwrap();
        control.call(&add(4, Endpoint::v4([10, 0, 0, 8], 9_000))).unwrap_err(); // there is no such slot
        let names: Vec<String> = control.ports().unwrap().into_iter().map(|port| port.name).collect();
        control.call(&Request::StopPort("east".into())).unwrap();
        let broken = control.call(&Request::StartPort("west".into()));
        let end = Instant::now() + PATIENCE;
        while control.ports().unwrap()[0].counters[1].1 < 2 {
            assert!(Instant::now() < end, "it never ticked twice");
        }
        (names, broken)
    });
    house.run();
    let (names, broken) = control.join().unwrap();
    assert_eq!(names, ["east", "west"]);
    assert!(matches!(&broken, Err(CallError::Refused(text)) if text == "west is broken"), "{broken:?}");
    let kept = kept.borrow();
    let (ticks, mut rest): (Vec<&String>, Vec<&String>) = kept.iter().partition(|what| what.starts_with("tick "));
    rest.dedup();
    let v6 = format!("want {}", IpAddr::from([0xfd_u8; 16]));
    assert_eq!(rest, ["want 10.0.0.9", v6.as_str(), "reports", "stop east", "reports"]);
    let ticks: Vec<u64> = ticks.iter().map(|tick| tick[5..].parse().unwrap()).collect();
    assert!(ticks.is_sorted_by(|one, next| one < next), "{ticks:?}");
}
