use super::*;
use crate::port_desk::tests::desk as port_desk;
use rtrb::RingBuffer;
use std::{fs, thread};
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

#[test]
fn ports_are_ticked_told_whom_to_expect_and_set_by_control() {
    let folder = std::env::temp_dir().join(format!("tachyond-house-{}", std::process::id()));
    fs::create_dir_all(&folder).unwrap();
    let socket = folder.join("tachyond.sock");
    let (ports, kept) = port_desk(&["east", "west"]);
    let stop = Arc::new(AtomicBool::new(false));
    let house = Housekeeping {
        hello: hello(),
        transports: String::new(),
        listener: Listener::bind(&socket, &[rustix::process::geteuid().as_raw()]).unwrap(),
        connection: None,
        segment: StatsSegment::create(1, BOOT).unwrap(),
        state: StateFolder::open(&folder.join("state")).unwrap(),
        desks: vec![desk()],
        leases: Leases::new(1),
        taps: Taps::new(BOOT, None),
        ports,
        filters: Filters::none(),
        denying: None,
        clock: Clock::start(),
        current: None,
        voice: Voice::new(true),
        stop: stop.clone(),
        quarantined: 0,
        quarantine_told: Instant::now(),
    };
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
    fs::remove_dir_all(folder).unwrap();
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
