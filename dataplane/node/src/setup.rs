//! From the node file to a running node: everything that can fail, fails here, before packets and with a text that says
//! what to do. In this order, because each step needs the ones before it: folders, drivers, memory, boot number, statistics, the
//! socket for control, workers (who then give up their privileges), and at last this thread's own.

use crate::{
    filters::Filters,
    housekeeping::{Desk, Housekeeping, check_image},
    leases::Leases,
    port_desk::PortDesk,
    ports::{Devices, PortSeat, Region},
    sandbox::{self, Sandbox, User, worker_filter},
    state::{StateFolder, make_folder},
    taps::Taps,
    topology::{Machine, Plan, WorkerPlan},
    voice::Voice,
    worker::{self, Clock, Common, Gauges, NodeHost, Seat},
};
use anyhow::Context;
use rtrb::RingBuffer;
use rustix::{
    mm::{MlockAllFlags, mlockall},
    process::geteuid,
    rand::{GetRandomFlags, getrandom},
};
use serde_json::json;
use std::{
    collections::BTreeMap,
    net::IpAddr,
    os::unix::fs::chown,
    sync::{Arc, atomic::AtomicBool},
    time::Instant,
};
use tachyon_config::{Driver, Instructions, NodeFile, Pages};
use tachyon_driver_api::Pool;
use tachyon_driver_arena::{Arena, ArenaConfig};
use tachyon_engine::{Limits, Path};
use tachyon_segment::{
    StatsReader, StatsSegment, WorkerState,
    handover::{Hello, Listener},
};
use tachyon_wire::Endpoint;

/// Commands and rulesets that may wait for a worker: it takes four commands per turn, so this is a second's worth at the
/// slowest idle turn. 4,096 records of some 150 bytes.
const ITEMS: usize = 4_096;
/// Rulesets that a worker may have given back and housekeeping not yet taken; it looks every 5 ms.
const RETIRED: usize = 16;
/// Words on senders that may wait for housekeeping: one per sender and millisecond; what does not fit is said again.
const DEMANDS: usize = 4_096;
/// Quarantined messages that may wait for housekeeping; what does not fit is not kept.
const QUARANTINE: usize = 1_024;

/// Builds the node; when this returns, the workers are in their loops.
pub(crate) fn build(file: &NodeFile, voice: Voice, stop: Arc<AtomicBool>) -> anyhow::Result<Housekeeping> {
    let plan = Plan::new(file, &Machine::discover())?;
    let path = path(file)?;
    let mut degraded = plan.degraded.clone();
    let user = file.node.user.as_deref().map(User::find).transpose()?;
    let state = StateFolder::open(&file.node.state_dir)?;
    raise_locked_memory(file);
    let seed = u64::from_ne_bytes(random()?);
    let mut filters = Filters::open(file, seed, user.filter(|_| geteuid().is_root()), &mut degraded);
    let mut devices = Devices::open(file, &plan, &filters, &mut degraded)?;
    let mut arenas = Arenas::new(file, &plan, devices.headroom_bytes(), &mut degraded)?;
    devices.open_with(file, &arenas.regions(), seed, &mut degraded)?;
    let boot = state.next_boot_number()?;
    let listener = listen(file, user)?;
    if let Some(user) = user.filter(|_| geteuid().is_root()) {
        state.give_to(user.uid, user.gid)?;
    }
    let own = [file.node.state_dir.clone(), file.node.run_dir.clone()];
    let folders = devices.folders(file).into_iter().chain(own).collect();
    let (sandbox, weak) = Sandbox::new(user, folders, devices.read());
    degraded.extend(weak);
    let workers_sandbox = if devices.is_soft() { Sandbox::none() } else { sandbox.clone() };

    let boot_id = random()?;
    let segment = StatsSegment::create(file.workers.count, boot_id)?;
    let filter = Arc::new(worker_filter()?);
    let workers = file.workers.clone();
    let common = Common { clock: Clock::start(), stop: stop.clone(), sandbox: workers_sandbox, filter, workers };
    let mut taps = Taps::new(boot_id, file.log.enabled.then_some(u64::from(file.log.ring_mib) << 20));
    let mut desks = Vec::new();
    for worker in &plan.workers {
        let (pool, region) = arenas.pool(worker)?;
        let tap = taps.add(worker, arenas.of(worker)?, arenas.headroom_bytes)?;
        let (host, desk) = rings(&segment, worker.worker)?;
        let limits = limits(file, worker, boot, common.clock, path, &devices);
        let seat = Seat { plan: worker.clone(), limits, pool, host, tap };
        desks.push(start(devices.seat(worker.worker, region)?, seat, desk, &common, &mut degraded)?);
    }
    degraded.extend(devices.start(&plan)?.into_iter().chain(filters.adopt()));
    lock_memory(file, &mut degraded);
    degraded.extend(sandbox.keeping(filters.rights(), filters.folders()).enter()?);
    let stats = StatsReader::open(segment.reader_fd(), boot_id).context("cannot read the statistics segment")?;
    let (hello, transports) = (hello(file, boot, boot_id, &devices), devices.titles());
    let ports = PortDesk::new(devices.cold(file.workers.count), stats);
    let mut house = Housekeeping {
        ports,
        filters,
        denying: None,
        clock: common.clock,
        hello,
        transports,
        listener,
        connection: None,
        segment,
        state,
        desks,
        leases: Leases::new(file.workers.count),
        taps,
        current: None,
        voice,
        stop,
        quarantined: 0,
        quarantined_last: None,
        quarantine_told: Instant::now(),
    };
    house.supervise();
    adopt_last_good(&mut house, &mut degraded);
    degraded.sort();
    degraded.dedup();
    house.hello.degraded = degraded;
    Ok(house)
}

/// Devices count the memory of queues that are made later too, when this thread has no right to more.
fn raise_locked_memory(file: &NodeFile) {
    if file.network.driver.has(Driver::Rdma) || file.network.driver.has(Driver::Afxdp) {
        sandbox::raise_locked_memory();
    }
}

/// Has everything that there is by now stay in memory, if the node file says so.
fn lock_memory(file: &NodeFile, degraded: &mut Vec<String>) {
    if file.memory.lock
        && let Err(error) = mlockall(MlockAllFlags::CURRENT)
    {
        degraded.push(format!(
            "tables are not locked in memory ({error}); raise RLIMIT_MEMLOCK (`ulimit -l`) or start as root"
        ));
    }
}

/// Says what the node is, once it runs.
pub(crate) fn announce(house: &Housekeeping, file: &NodeFile) {
    for line in &house.hello.degraded {
        house.voice.say("degraded", line, &[]);
    }
    house.voice.say("transports", &house.transports, &[("drivers", json!(house.hello.driver))]);
    let Hello { boot_number, workers, shard_count, listen, .. } = house.hello;
    let (address, port) = (IpAddr::from(listen.ip).to_canonical(), file.network.base_port);
    let ruleset = house.current.as_ref().map_or(0, |image| image.version());
    let instructions = path(file).map_or("", Path::name);
    let text = format!(
        "start {boot_number}, {workers} workers ({instructions}), {shard_count} shards at {address} from UDP port {port}, ruleset {ruleset}"
    );
    let socket = file.node.run_dir.join(SOCKET);
    let facts = [
        ("boot_number", json!(boot_number)),
        ("workers", json!(workers)),
        ("instructions", json!(instructions)),
        ("shard_count", json!(shard_count)),
        ("base_port", json!(port)),
        ("ruleset_version", json!(ruleset)),
        ("socket", json!(socket)),
    ];
    house.voice.say("ready", &text, &facts);
}

/// Name of the socket in run_dir.
const SOCKET: &str = "tachyond.sock";

fn listen(file: &NodeFile, user: Option<User>) -> anyhow::Result<Listener> {
    let folder = &file.node.run_dir;
    make_folder(folder, 0o755).with_context(|| format!("cannot make run_dir {}", folder.display()))?;
    let control = file.node.control_user.as_deref().map(User::find).transpose()?;
    let own = geteuid().as_raw();
    let allowed: Vec<u32> =
        [Some(own), user.map(|user| user.uid), control.map(|user| user.uid)].into_iter().flatten().collect();
    let path = folder.join(SOCKET);
    let listener = Listener::bind(&path, &allowed).with_context(|| format!("cannot listen at {}", path.display()))?;
    if let Some(user) = user.filter(|_| own == 0) {
        // So that the socket can be removed at the end.
        chown(folder, Some(user.uid), Some(user.gid)).context("cannot give run_dir to node.user")?;
    }
    Ok(listener)
}

/// One arena per NUMA node.
struct Arenas<'f> {
    file: &'f NodeFile,
    headroom_bytes: u32,
    made: BTreeMap<Option<u32>, Arena>,
}

impl<'f> Arenas<'f> {
    /// Makes them, each with room for the workers of its node.
    fn new(file: &'f NodeFile, plan: &Plan, headroom_bytes: u32, degraded: &mut Vec<String>) -> anyhow::Result<Self> {
        let mut workers_of: BTreeMap<Option<u32>, usize> = BTreeMap::new();
        for worker in &plan.workers {
            *workers_of.entry(worker.numa_node).or_default() += 1;
        }
        let (memory, buffer_bytes) = (&file.memory, file.buffer_bytes() + headroom_bytes);
        let mut made = BTreeMap::new();
        for (numa_node, workers) in workers_of {
            let arena = Arena::create(ArenaConfig {
                bytes: workers * file.buffers_per_worker() as usize * buffer_bytes as usize,
                buffer_bytes,
                pages: match memory.pages {
                    Pages::Auto => tachyon_driver_arena::Pages::Auto,
                    Pages::Huge1G => tachyon_driver_arena::Pages::Huge1G,
                    Pages::Huge2M => tachyon_driver_arena::Pages::Huge2M,
                    Pages::Ordinary => tachyon_driver_arena::Pages::Ordinary,
                },
                lock: memory.lock,
                numa_node,
            })?;
            degraded.extend_from_slice(arena.degraded());
            made.insert(numa_node, arena);
        }
        Ok(Self { file, headroom_bytes, made })
    }

    /// Where they lie.
    fn regions(&self) -> Vec<Region> {
        self.made.values().map(region).collect()
    }

    /// A worker's buffers, and the memory they lie in.
    fn pool(&mut self, worker: &WorkerPlan) -> anyhow::Result<(Pool, Region)> {
        let arena = self.made.get_mut(&worker.numa_node).context(NO_ARENA)?;
        let pool = Pool::new(arena.take_behind(self.headroom_bytes, self.file.buffers_per_worker() as usize)?);
        Ok((pool, region(arena)))
    }

    /// The arena of a worker's node.
    fn of(&self, worker: &WorkerPlan) -> anyhow::Result<&Arena> {
        self.made.get(&worker.numa_node).context(NO_ARENA)
    }
}

/// What is said if set-up forgot a NUMA node.
const NO_ARENA: &str = "each worker's node has an arena";

fn region(arena: &Arena) -> Region {
    let (base, bytes) = arena.region();
    Region { base: base.as_ptr().expose_provenance(), bytes, page_bytes: arena.page_bytes() }
}

/// Bytes that nobody can guess.
fn random<const BYTES: usize>() -> anyhow::Result<[u8; BYTES]> {
    let mut bytes = [0; BYTES];
    let count = getrandom(&mut bytes, GetRandomFlags::empty()).context("no random numbers")?;
    anyhow::ensure!(count == BYTES, "{count} random bytes instead of {BYTES}");
    Ok(bytes)
}

/// The rings between housekeeping and a worker: the worker's ends and housekeeping's.
fn rings(segment: &StatsSegment, worker: u16) -> anyhow::Result<(NodeHost, Desk)> {
    let (to_worker, items) = RingBuffer::new(ITEMS);
    let (retired, retired_out) = RingBuffer::new(RETIRED);
    let (demands, demands_out) = RingBuffer::new(DEMANDS);
    let (quarantine, quarantine_out) = RingBuffer::new(QUARANTINE);
    let stats = segment.writer(worker).with_context(|| format!("the segment has no worker {worker}"))?;
    let gauges = Arc::new(Gauges::default());
    let desk = Desk {
        items: to_worker,
        retired: retired_out,
        demands: demands_out,
        quarantine: quarantine_out,
        gauges: gauges.clone(),
        restarts_told: 0,
        sent: 0,
        thread: None,
        state: WorkerState::Starting,
    };
    Ok((NodeHost { items, retired, demands, quarantine, stats, gauges, current: None }, desk))
}

fn start(
    port: PortSeat,
    seat: Seat,
    mut desk: Desk,
    common: &Common,
    degraded: &mut Vec<String>,
) -> anyhow::Result<Desk> {
    let number = seat.plan.worker;
    let (opened, thread) =
        worker::start(port, seat, common).with_context(|| format!("worker {number} cannot start"))?;
    degraded.extend(opened.info.degraded);
    degraded.extend(opened.degraded);
    (desk.thread, desk.state) = (Some(thread), WorkerState::Running);
    Ok(desk)
}

/// The path that the node file asks for.
fn path(file: &NodeFile) -> anyhow::Result<Path> {
    let name = match file.workers.instructions {
        Instructions::Auto => return Ok(Path::detect()),
        Instructions::Avx512 => "avx512",
        Instructions::Avx2 => "avx2",
        Instructions::Scalar => "scalar",
    };
    Path::parse(name).with_context(|| {
        let best = Path::detect().name();
        format!("this CPU does not have all of {name}: set instructions = \"auto\" in [workers], or \"{best}\"")
    })
}

fn limits(file: &NodeFile, worker: &WorkerPlan, boot: u16, clock: Clock, path: Path, devices: &Devices) -> Limits {
    Limits {
        worker: worker.worker,
        workers: file.workers.count,
        shard_count: file.network.shard_count,
        shards: worker.shards.clone().leak(), // one small list per worker and process
        sessions_max: file.limits.sessions_max,
        topics_max: file.limits.topics_max,
        senders_max: file.limits.senders_max,
        subscribers_max: file.limits.subscribers_max,
        targets_max: file.limits.targets_max,
        buffers: file.buffers_per_worker(),
        receive_buffers: devices.receive_buffers(file),
        frame_bytes_max: devices.frame_bytes_max(file),
        held_buffers: file.held_buffers(),
        fill_window_ns: file.limits.fill_window_ns.into(),
        boot,
        unix_offset_ns: clock.unix_offset_ns(),
        path,
    }
}

fn hello(file: &NodeFile, boot_number: u16, boot_id: [u8; 16], devices: &Devices) -> Hello {
    let port = file.network.base_port;
    Hello {
        boot_id,
        boot_number,
        workers: file.workers.count,
        shard_count: file.network.shard_count,
        listen: match devices.address(file) {
            IpAddr::V4(ip) => Endpoint::v4(ip.octets(), port),
            IpAddr::V6(ip) => Endpoint::v6(ip.octets(), port),
        },
        frame_bytes_max: devices.frame_bytes_max(file),
        sessions_max: file.limits.sessions_max,
        subscribers_max: file.limits.subscribers_max,
        topics_max: file.limits.topics_max,
        senders_max: file.limits.senders_max,
        targets_max: file.limits.targets_max,
        ruleset_version: 0,
        driver: devices.names(),
        degraded: Vec::new(),
    }
}

/// Starts under the rules of last time, so that control is not needed to start.
fn adopt_last_good(house: &mut Housekeeping, degraded: &mut Vec<String>) {
    let loaded = match house.state.last_good() {
        Ok(None) => return,
        Ok(Some(sealed)) => check_image(sealed, &house.hello),
        Err(error) => Err(error.to_string()),
    };
    match loaded {
        Ok(image) => match house.bring_in(&image) {
            Ok(()) => house.current = Some(image),
            Err(error) => degraded.push(format!("starts without rules, so nothing passes: {error}")),
        },
        Err(error) => degraded.push(format!("starts without rules, so nothing passes: last-good.ruleset: {error}")),
    }
}
