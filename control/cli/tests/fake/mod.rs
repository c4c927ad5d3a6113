//! A control process that only answers: real gRPC over a real Unix socket, canned contents.

use std::{
    collections::BTreeMap,
    path::PathBuf,
    process::{Command, Output},
    sync::atomic::{AtomicU64, Ordering},
};
use tachyon_proto::v1::{
    self,
    control_server::{Control, ControlServer},
};
use tachyon_wire::reason::{Ledger, Reason};
use tempfile::TempDir;
use tokio::{net::UnixListener, runtime::Runtime};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status, transport::Server};

/// What the control process finds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Scene {
    /// All is well, and some traffic was refused.
    Running,
    /// No `tachyond`.
    Alone,
    /// Every call is denied.
    Denying,
}

/// One control process, until it is dropped.
pub(crate) struct Fake {
    folder: TempDir,
    _runtime: Runtime,
}

impl Fake {
    pub(crate) fn start(scene: Scene) -> Self {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let runtime = Runtime::new().expect("a runtime");
        let listener = runtime
            .block_on(async { UnixListener::bind(folder.path().join("control.sock")) })
            .expect("the socket can be bound");
        let service = ControlServer::new(Answers { scene, reads: AtomicU64::new(0) });
        let serving = Server::builder().add_service(service).serve_with_incoming(UnixListenerStream::new(listener));
        runtime.spawn(serving);
        Self { folder, _runtime: runtime }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.folder.path().join("control.sock")
    }

    /// Runs the built program against it.
    pub(crate) fn tachyon(&self, arguments: &[&str]) -> Output {
        Command::new(env!("CARGO_BIN_EXE_tachyon"))
            .args(arguments)
            .env("TACHYON_SOCKET", self.socket())
            .output()
            .expect("the program can be run")
    }

    /// Writes a file beside the socket.
    pub(crate) fn file(&self, name: &str, text: &str) -> String {
        let path = self.folder.path().join(name);
        std::fs::write(&path, text).expect("the file can be written");
        path.to_str().expect("the path is text").to_owned()
    }
}

/// Rules that this text is in are refused.
pub(crate) const WRONG: &str = "wrong";
pub(crate) const RULES_IN_FORCE: &str = "# in force\n[[topic]]\nmatch = \"a\"\n";
pub(crate) const BOOT_ID: &str = "0123456789abcdef0123456789abcdef";

struct Answers {
    scene: Scene,
    reads: AtomicU64,
}

impl Answers {
    fn node_or_unavailable(&self) -> Result<(), Status> {
        match self.scene {
            Scene::Running => Ok(()),
            Scene::Alone => Err(Status::unavailable("tachyond is not connected; start it")),
            Scene::Denying => Err(Status::permission_denied("only administrators may; run it as root")),
        }
    }

    fn problems(text: &str) -> Vec<v1::Problem> {
        let found = v1::Problem {
            line: 1,
            column: 1,
            message: "this is wrong".to_owned(),
            help: "make it right".to_owned(),
            rendered: "error: this is wrong\n --> rules.toml:1:1\n  = help: make it right".to_owned(),
        };
        if text.contains(WRONG) { vec![found] } else { Vec::new() }
    }
}

/// The ledgers after `reads` readings: each adds the same. In every one the first number is the sum of the others.
fn ledgers(reads: u64) -> v1::Ledgers {
    let reasons = |code: &str, count: u64| BTreeMap::from([(code.to_owned(), count)]);
    v1::Ledgers {
        frames: Some(v1::FrameLedger {
            seen: 100 * reads,
            admitted: 90 * reads,
            reasons: reasons("E_AUTH_BAD_TAG", 10 * reads),
        }),
        messages: Some(v1::MessageLedger {
            seen: 1_980 * reads,
            accepted: 1_900 * reads,
            reasons: reasons("E_GOV_THROTTLED", 80 * reads),
        }),
        copies: Some(v1::CopyLedger {
            due: 3_800 * reads,
            given: 3_700 * reads - 5,
            held: 5,
            reasons: reasons("E_TX_CONGESTION", 100 * reads),
        }),
        unaccounted: 0,
    }
}

fn residence(reads: u64) -> v1::Histogram {
    let buckets = vec![v1::Bucket { lowest: 1_024, highest: 2_047, count: 1_900 * reads }];
    v1::Histogram { count: 1_900 * reads, p50: 2_047, p99: 2_047, p999: 2_047, max: 2_047, buckets }
}

fn stats(reads: u64) -> v1::StatsResponse {
    let activity =
        v1::Activity { syscalls: 10 * reads, bytes_received: 150_000 * reads, buffers_free: 512, ..Default::default() };
    let worker = v1::Worker {
        worker: 0,
        ledgers: Some(ledgers(reads)),
        activity: Some(activity),
        ruleset_version: 7,
        residence: Some(residence(reads)),
        state: "running".to_owned(),
        ..Default::default()
    };
    let route = v1::Route {
        index: 0,
        route_id: 3,
        subscribers: vec![0, 1],
        topics: 2,
        example_topic: "orders.eu".to_owned(),
        accepted: 1_900 * reads,
        due: 3_800 * reads,
        given: 3_700 * reads - 5,
        refused: 100 * reads,
        endpoints: vec!["127.0.0.1:9000".to_owned(), "127.0.0.1:9100".to_owned()],
        lanes: vec!["udp".to_owned(), "udp (fell back)".to_owned()],
    };
    v1::StatsResponse {
        boot_id: BOOT_ID.to_owned(),
        // Half a second between two readings, whatever the clock says.
        read_ns: 500_000_000 * reads,
        ledgers: Some(ledgers(reads)),
        activity: Some(activity),
        residence: Some(residence(reads)),
        workers: vec![worker],
        routes: vec![route],
    }
}

fn status(scene: Scene) -> v1::StatusResponse {
    let connected = scene == Scene::Running;
    let node = v1::Node {
        boot_id: BOOT_ID.to_owned(),
        boot_number: 12,
        workers: 1,
        shard_count: 16,
        base_port: 24_640,
        addresses: vec!["127.0.0.1".to_owned()],
        sessions_max: 1_024,
        frame_bytes_max: 1_472,
        driver: "io_uring".to_owned(),
    };
    v1::StatusResponse {
        version: "0.1.0".to_owned(),
        control_uptime_s: 61,
        connected,
        connection_problem: if connected { String::new() } else { "no tachyond at tachyond.sock; start it".to_owned() },
        node: connected.then_some(node),
        ruleset_version: 7,
        ruleset_in_force: if connected { 7 } else { 0 },
        topics: 2,
        ledgers: connected.then(|| ledgers(1)),
        degraded: vec!["no huge pages: ordinary pages are used".to_owned()],
        ..Default::default()
    }
}

fn drop_of(reason: Reason) -> v1::Drop {
    let (ledger, frames) = match reason.ledger() {
        Ledger::Frames => ("frames", u64::from(reason == Reason::BadTag) * 12_345),
        Ledger::Messages => ("messages", 0),
        Ledger::Copies => ("copies", 0),
        Ledger::Reader => ("reader", 0),
        Ledger::Prefilter => ("prefilter", 0),
        Ledger::Any => ("any", 0),
    };
    let panicked = u64::from(reason == Reason::InternalPanic);
    v1::Drop {
        number: reason.number().into(),
        code: reason.code().to_owned(),
        ledger: ledger.to_owned(),
        frames,
        messages: 22 * panicked,
        copies: 44 * panicked,
        help: reason.help().to_owned(),
    }
}

/// One that is well, and one that is not and counts more than it tells.
fn ports() -> Vec<v1::Port> {
    let counter = |name: &str, value| v1::PortCounter { name: name.to_owned(), value };
    let east = v1::Port {
        name: "east".to_owned(),
        driver: "dpdk".to_owned(),
        device: "pci 0000:01:00.0".to_owned(),
        state: "ready".to_owned(),
        mac: "02:00:00:00:00:01".to_owned(),
        speed_mbps: Some(100_000),
        mtu: Some(9_000),
        numa_node: Some(0),
        queues: 4,
        steering: "flow rules".to_owned(),
        addresses: vec!["10.0.1.1/24".to_owned(), "fd00::1/64".to_owned()],
        counters: vec![counter("rx_good_packets", 1_234_567), counter("rx_missed_errors", 3)],
        counters_total: 2,
        ..Default::default()
    };
    let west = v1::Port {
        name: "west".to_owned(),
        driver: "dpdk".to_owned(),
        device: "memif 0 at /run/x.sock".to_owned(),
        state: "waiting".to_owned(),
        why: "nobody has connected to /run/x.sock; start the other side".to_owned(),
        queues: 4,
        steering: "none".to_owned(),
        addresses: vec!["10.0.2.1/24".to_owned()],
        counters: vec![counter("tx_dropped", 9)],
        counters_total: 300,
        ..Default::default()
    };
    vec![east, west]
}

/// One of each kind of owner; one failed and fell back.
fn lanes() -> Vec<v1::LaneStatus> {
    use v1::lane_status::Owner;
    let stands = v1::LaneStatus {
        worker: 0,
        owner: Some(Owner::SessionId(65_537)),
        endpoint: "10.0.0.7:4711".to_owned(),
        lane: v1::Lane::RdmaConnection.into(),
        state: "connected".to_owned(),
        ..Default::default()
    };
    let failed = v1::LaneStatus {
        worker: 1,
        owner: Some(Owner::Subscriber(1)),
        endpoint: "10.0.0.8:9100".to_owned(),
        lane: v1::Lane::RdmaRing.into(),
        state: "failed".to_owned(),
        why: "the peer does not acknowledge: look at the link and at the peer".to_owned(),
        attempts: 10,
        fell_back: true,
    };
    let strange = v1::LaneStatus { owner: None, lane: v1::Lane::RdmaDatagram.into(), worker: 1, ..stands.clone() };
    vec![stands, failed, strange]
}

/// One that is as it should be and dropped something, and one that was never measured.
fn filters() -> Vec<v1::Filter> {
    let drop = |reason: Reason, frames| v1::FilterDrop {
        number: reason.number().into(),
        code: reason.code().to_owned(),
        frames,
        help: reason.help().to_owned(),
    };
    let ledger = v1::FilterLedger {
        interface: "eth0".to_owned(),
        seen: 10_000,
        passed_foreign: 100,
        passed_ours: 8_000,
        redirected: 0,
        dropped: vec![drop(Reason::NoSession, 400), drop(Reason::FilterDenied, 1_500)],
        unaccounted: 0,
    };
    let eth0 = v1::Filter {
        interface: "eth0".to_owned(),
        state: "native".to_owned(),
        program_id: 77,
        version: 1,
        instructions: 12_345,
        code_bytes: 4_096,
        run_ns: 123_456,
        runs: 2_000,
        sessions: 3,
        prefixes: 1_000,
        topic_blocks: 5,
        ledger: Some(ledger.clone()),
        ..Default::default()
    };
    let eth1 = v1::Filter {
        interface: "eth1".to_owned(),
        state: "generic".to_owned(),
        why: "its driver has no native XDP; use one that has".to_owned(),
        program_id: 78,
        version: 1,
        instructions: 12_345,
        ledger: Some(v1::FilterLedger {
            interface: "eth1".to_owned(),
            seen: 7,
            passed_foreign: 5,
            unaccounted: 2,
            ..Default::default()
        }),
        ..Default::default()
    };
    vec![eth0, eth1]
}

#[tonic::async_trait]
impl Control for Answers {
    async fn open_session(
        &self,
        _: Request<v1::OpenSessionRequest>,
    ) -> Result<Response<v1::OpenSessionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn close_session(
        &self,
        _: Request<v1::CloseSessionRequest>,
    ) -> Result<Response<v1::CloseSessionResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn subscribe(&self, _: Request<v1::SubscribeRequest>) -> Result<Response<v1::SubscribeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn unsubscribe(
        &self,
        _: Request<v1::UnsubscribeRequest>,
    ) -> Result<Response<v1::UnsubscribeResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn resolve_topics(
        &self,
        _: Request<v1::ResolveTopicsRequest>,
    ) -> Result<Response<v1::ResolveTopicsResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn check_rules(
        &self,
        call: Request<v1::CheckRulesRequest>,
    ) -> Result<Response<v1::CheckRulesResponse>, Status> {
        let problems = Self::problems(&call.get_ref().text);
        let summary = v1::RulesSummary { topic_rules: 1, topics_known: 2, ..Default::default() };
        Ok(Response::new(v1::CheckRulesResponse { problems, warnings: Vec::new(), summary: Some(summary) }))
    }

    async fn apply_rules(
        &self,
        call: Request<v1::ApplyRulesRequest>,
    ) -> Result<Response<v1::ApplyRulesResponse>, Status> {
        if self.scene == Scene::Denying {
            self.node_or_unavailable()?;
        }
        let problems = Self::problems(&call.get_ref().text);
        let accepted = problems.is_empty();
        Ok(Response::new(v1::ApplyRulesResponse {
            accepted,
            problems,
            version: 8,
            in_force: accepted && self.scene == Scene::Running,
            ..Default::default()
        }))
    }

    async fn show_rules(&self, _: Request<v1::ShowRulesRequest>) -> Result<Response<v1::ShowRulesResponse>, Status> {
        Ok(Response::new(v1::ShowRulesResponse {
            text: RULES_IN_FORCE.to_owned(),
            file_name: "rules.toml".to_owned(),
            version: 7,
            applied_unix_s: 1_700_000_000,
        }))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Result<Response<v1::StatusResponse>, Status> {
        Ok(Response::new(status(self.scene)))
    }

    async fn drops(&self, _: Request<v1::DropsRequest>) -> Result<Response<v1::DropsResponse>, Status> {
        self.node_or_unavailable()?;
        let drops = Reason::ALL.iter().copied().map(drop_of).collect();
        let filters = filters().into_iter().filter_map(|filter| filter.ledger).collect();
        Ok(Response::new(v1::DropsResponse { drops, boot_id: BOOT_ID.to_owned(), filters }))
    }

    async fn stats(&self, _: Request<v1::StatsRequest>) -> Result<Response<v1::StatsResponse>, Status> {
        self.node_or_unavailable()?;
        Ok(Response::new(stats(self.reads.fetch_add(1, Ordering::Relaxed) + 1)))
    }

    async fn list_ports(&self, _: Request<v1::ListPortsRequest>) -> Result<Response<v1::ListPortsResponse>, Status> {
        self.node_or_unavailable()?;
        Ok(Response::new(v1::ListPortsResponse { ports: ports(), boot_id: BOOT_ID.to_owned() }))
    }

    async fn connect_lane(
        &self,
        _: Request<v1::ConnectLaneRequest>,
    ) -> Result<Response<v1::ConnectLaneResponse>, Status> {
        Err(Status::unimplemented(""))
    }

    async fn list_lanes(&self, _: Request<v1::ListLanesRequest>) -> Result<Response<v1::ListLanesResponse>, Status> {
        self.node_or_unavailable()?;
        Ok(Response::new(v1::ListLanesResponse { lanes: lanes() }))
    }

    async fn list_filters(
        &self,
        _: Request<v1::ListFiltersRequest>,
    ) -> Result<Response<v1::ListFiltersResponse>, Status> {
        self.node_or_unavailable()?;
        Ok(Response::new(v1::ListFiltersResponse { filters: filters() }))
    }

    async fn set_filter(&self, call: Request<v1::SetFilterRequest>) -> Result<Response<v1::SetFilterResponse>, Status> {
        self.node_or_unavailable()?;
        match call.get_ref().interface.as_str() {
            "eth0" | "eth1" => Ok(Response::new(v1::SetFilterResponse {})),
            name => Err(Status::failed_precondition(format!("tachyond refused: there is no interface `{name}`"))),
        }
    }

    /// Three prefixes on two pages.
    async fn list_denied(
        &self,
        call: Request<v1::ListDeniedRequest>,
    ) -> Result<Response<v1::ListDeniedResponse>, Status> {
        let entry =
            |prefix: &str, by_operator, by_rules| v1::DeniedPrefix { prefix: prefix.to_owned(), by_operator, by_rules };
        let all =
            [entry("10.0.0.0/8", true, false), entry("10.1.0.0/16", true, true), entry("2001:db8::/32", false, true)];
        let (first, second) = all.split_at(2);
        let more = call.get_ref().after.is_empty();
        assert!(more || call.get_ref().after == "10.1.0.0/16");
        Ok(Response::new(v1::ListDeniedResponse {
            denied: if more { first } else { second }.to_vec(),
            total: 3,
            more,
            in_force: self.scene == Scene::Running,
            problem: if self.scene == Scene::Running { "" } else { "tachyond is not connected" }.to_owned(),
        }))
    }

    /// 10.0.0.0/8 is on the list, and in the rules; nothing else is.
    async fn change_denied(
        &self,
        call: Request<v1::ChangeDeniedRequest>,
    ) -> Result<Response<v1::ChangeDeniedResponse>, Status> {
        if self.scene == Scene::Denying {
            self.node_or_unavailable()?;
        }
        let v1::ChangeDeniedRequest { add, remove } = call.into_inner();
        assert!(add.len() + remove.len() <= 262_144);
        let split = |texts: Vec<String>| texts.into_iter().partition::<Vec<_>, _>(|text| text == "10.0.0.0/8");
        let ((already, added), (removed, missing)) = (split(add), split(remove));
        let number = |texts: &[String]| u32::try_from(texts.len()).expect("few enough");
        Ok(Response::new(v1::ChangeDeniedResponse {
            added: number(&added),
            removed: number(&removed),
            total: 1 + number(&added),
            still_denied: removed,
            already,
            missing,
            in_force: self.scene == Scene::Running,
        }))
    }

    async fn set_port(&self, call: Request<v1::SetPortRequest>) -> Result<Response<v1::SetPortResponse>, Status> {
        self.node_or_unavailable()?;
        match call.get_ref().name.as_str() {
            "east" | "west" => Ok(Response::new(v1::SetPortResponse {})),
            name => Err(Status::failed_precondition(format!("tachyond refused: there is no port `{name}`"))),
        }
    }
}
