//! The whole program against a stand-in node and a stand-in control process, over real loopback sockets: phases,
//! progress, drain, proof and report.

use crate::stand_in::{EGRESS, EGRESS_MASTER, FRAME_BYTES, Node, SENDERS, SHARDS, master};
use clap::Parser;
use serde_json::Value;
use std::{
    net::UdpSocket,
    path::PathBuf,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread::JoinHandle,
};
use tachyon_loadgen::{
    args::{Cli, Verb},
    hire::free_ports,
    run,
};
use tachyon_proto::v1::{self, control_server};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// What the stand-in's two halves share.
struct Shared {
    node: Mutex<Node>,
    subscriber: Mutex<Option<u16>>,
    sessions: Mutex<u32>,
    stop: AtomicBool,
    base_port: u16,
}

struct StandIn(Arc<Shared>);

#[tonic::async_trait]
impl control_server::Control for StandIn {
    async fn open_session(&self, request: Request<v1::OpenSessionRequest>) -> Answer<v1::OpenSessionResponse> {
        assert!(request.into_inner().tags);
        let mut sessions = self.0.sessions.lock().unwrap();
        *sessions += 1;
        Ok(Response::new(v1::OpenSessionResponse {
            session_id: *sessions,
            reply_session_id: 100 + *sessions,
            master_key: master(*sessions).to_vec(),
            reply_master_key: vec![0; 32],
            epoch: 1,
            sender_low: 100,
            sender_high: 99 + SENDERS,
            tag_required: true,
            ..v1::OpenSessionResponse::default()
        }))
    }

    async fn subscribe(&self, request: Request<v1::SubscribeRequest>) -> Answer<v1::SubscribeResponse> {
        let request = request.into_inner();
        assert_eq!(request.topics, ["load.*", "other.hot"]);
        *self.0.subscriber.lock().unwrap() = Some(u16::try_from(request.base_port).unwrap());
        let session = v1::EgressSession { worker: 0, session_id: EGRESS, master_key: EGRESS_MASTER.to_vec(), epoch: 1 };
        let frame_bytes_max = FRAME_BYTES;
        Ok(Response::new(v1::SubscribeResponse { sessions: vec![session], frame_bytes_max, ..Default::default() }))
    }

    async fn resolve_topics(&self, request: Request<v1::ResolveTopicsRequest>) -> Answer<v1::ResolveTopicsResponse> {
        let names = request.into_inner().names.into_iter();
        // Numbers are given in order of names; the hot topic is asked for on its own and gets one of its own.
        let topic = |(index, name): (usize, String)| {
            let topic_id = if name.starts_with("load.") { u32::try_from(index).unwrap() + 1 } else { 1000 };
            v1::Topic { name, topic_id }
        };
        Ok(Response::new(v1::ResolveTopicsResponse {
            topics: names.enumerate().map(topic).collect(),
            ruleset_version: 1,
        }))
    }

    async fn status(&self, _: Request<v1::StatusRequest>) -> Answer<v1::StatusResponse> {
        let node = v1::Node {
            shard_count: u32::from(SHARDS),
            base_port: u32::from(self.0.base_port),
            addresses: vec!["0.0.0.0".into()],
            frame_bytes_max: FRAME_BYTES,
            ..v1::Node::default()
        };
        Ok(Response::new(v1::StatusResponse { connected: true, node: Some(node), ..v1::StatusResponse::default() }))
    }

    async fn stats(&self, _: Request<v1::StatsRequest>) -> Answer<v1::StatsResponse> {
        let ledgers = self.0.node.lock().unwrap().ledgers.clone();
        let (frames, messages, copies) = (ledgers.frames, ledgers.messages, ledgers.copies);
        let all = v1::Ledgers {
            frames: Some(v1::FrameLedger { seen: frames.total, admitted: frames.well, reasons: frames.reasons }),
            messages: Some(v1::MessageLedger {
                seen: messages.total,
                accepted: messages.well,
                reasons: messages.reasons,
            }),
            copies: Some(v1::CopyLedger { due: copies.total, given: copies.well, held: 0, reasons: copies.reasons }),
            unaccounted: 0,
        };
        let workers = vec![v1::Worker { ruleset_version: 7, ..v1::Worker::default() }];
        let activity = Some(v1::Activity { socket_overflow: ledgers.socket_overflow, ..v1::Activity::default() });
        let response = v1::StatsResponse { ledgers: Some(all), activity, workers, ..v1::StatsResponse::default() };
        Ok(Response::new(response))
    }

    async fn close_session(&self, _: Request<v1::CloseSessionRequest>) -> Answer<v1::CloseSessionResponse> {
        Ok(Response::new(v1::CloseSessionResponse {}))
    }

    async fn unsubscribe(&self, _: Request<v1::UnsubscribeRequest>) -> Answer<v1::UnsubscribeResponse> {
        Ok(Response::new(v1::UnsubscribeResponse {}))
    }

    async fn check_rules(&self, _: Request<v1::CheckRulesRequest>) -> Answer<v1::CheckRulesResponse> {
        Err(Status::unimplemented("rules"))
    }

    async fn apply_rules(&self, _: Request<v1::ApplyRulesRequest>) -> Answer<v1::ApplyRulesResponse> {
        Err(Status::unimplemented("rules"))
    }

    async fn show_rules(&self, _: Request<v1::ShowRulesRequest>) -> Answer<v1::ShowRulesResponse> {
        Err(Status::unimplemented("rules"))
    }

    async fn drops(&self, _: Request<v1::DropsRequest>) -> Answer<v1::DropsResponse> {
        Err(Status::unimplemented("drops"))
    }

    async fn list_ports(&self, _: Request<v1::ListPortsRequest>) -> Answer<v1::ListPortsResponse> {
        Err(Status::unimplemented("ports"))
    }

    async fn set_port(&self, _: Request<v1::SetPortRequest>) -> Answer<v1::SetPortResponse> {
        Err(Status::unimplemented("ports"))
    }
}

/// Receives and forwards until told to stop.
fn relay(shared: &Shared) {
    let bind = |shard: u16| UdpSocket::bind(("127.0.0.1", shared.base_port + shard)).unwrap();
    let sockets: Vec<UdpSocket> = (0..SHARDS).map(bind).collect();
    sockets.iter().for_each(|socket| socket.set_nonblocking(true).unwrap());
    let mut bytes = [0; 65_536];
    while !shared.stop.load(Ordering::Relaxed) {
        let mut idle = true;
        for (shard, socket) in (0..SHARDS).zip(&sockets) {
            while let Ok(length) = socket.recv(&mut bytes) {
                idle = false;
                let copies = shared.node.lock().unwrap().take(&bytes[..length], shard, false);
                let subscriber = *shared.subscriber.lock().unwrap();
                if let (Some(copies), Some(port)) = (copies, subscriber) {
                    socket.send_to(&copies, ("127.0.0.1", port + shard)).unwrap();
                }
            }
        }
        if idle {
            std::thread::sleep(std::time::Duration::from_micros(200));
        }
    }
}

/// Both stand-ins, and where the control process listens.
fn start(name: &str) -> (Arc<Shared>, PathBuf, JoinHandle<()>) {
    let first = 30_000 + u16::try_from(std::process::id() % 1000).unwrap() * 8;
    let base_port = free_ports("127.0.0.1".parse().unwrap(), first, SHARDS, 1).unwrap()[0];
    let shared = Arc::new(Shared {
        node: Mutex::new(Node::new(true, 0.0, 0.0)),
        subscriber: Mutex::new(None),
        sessions: Mutex::new(0),
        stop: AtomicBool::new(false),
        base_port,
    });
    let socket = std::env::temp_dir().join(format!("tachyon-load-{name}-{}.sock", std::process::id()));
    let _ = std::fs::remove_file(&socket);
    let (serving, listening) = (Arc::clone(&shared), socket.clone());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = UnixListenerStream::new(tokio::net::UnixListener::bind(listening).unwrap());
            let service = control_server::ControlServer::new(StandIn(serving));
            let _ = tonic::transport::Server::builder().add_service(service).serve_with_incoming(listener).await;
        });
    });
    let relaying = Arc::clone(&shared);
    (shared, socket, std::thread::spawn(move || relay(&relaying)))
}

#[test]
fn phases_run_one_after_another_and_everything_adds_up() {
    let (shared, socket, node) = start("phases");
    let line = [
        "tachyon-load",
        "run",
        "--control",
        socket.to_str().unwrap(),
        "--seconds",
        "0.6",
        "--rate",
        "20k",
        "--topics",
        "64",
        "--frame-bytes",
        "768",
        "--sessions",
        "3",
        "--senders",
        "10",
        "--choice",
        "zipf",
        "--seed",
        "9",
        "--phase",
        "name=steady",
        "--phase",
        "name=forged,forged=1/10,replayed=0.1",
        "--phase",
        "name=hot,hot-topic=other.hot,hot-share=0.5,flood-sender=3",
    ];
    let Verb::Run(args) = Cli::try_parse_from(line).unwrap().command;
    let mut lines: Vec<Value> = Vec::new();
    let report = run::run(&args, &mut |line| lines.push(line.clone())).unwrap();
    shared.stop.store(true, Ordering::Relaxed);
    node.join().unwrap();
    let _ = std::fs::remove_file(&socket);

    assert_eq!(report["unaccounted"], 0, "{report:#}");
    assert_eq!(report["unexpected"].as_array().map(Vec::len), Some(0), "{report:#}");
    assert_eq!(report["lost_before_us"]["source"], "none");
    let frames = report["offered_frames"].as_u64().unwrap();
    assert!((2_000..=3_300).contains(&frames), "20,000 messages a second in frames of 11 for 1.8 s: {frames}");
    assert_eq!(report["ledgers"]["frames"]["seen"], frames);
    assert_eq!(report["received_copies"], report["ledgers"]["copies"]["given"]);
    assert_eq!(report["driver"], "uring");
    assert!(report["end_to_end_ns"]["p50"].as_u64().unwrap() > 1000);
    assert_eq!(report["ruleset_versions"], serde_json::json!([7]));
    let phases = report["phases"].as_array().unwrap();
    assert_eq!(phases[0]["forged_frames"], 0);
    assert!(phases[1]["forged_frames"].as_u64().unwrap() > 40 && phases[1]["replayed_frames"].as_u64().unwrap() > 40);
    assert_eq!(phases[2]["ledgers"]["frames"]["refused"], 0, "a phase's ledgers are its own: {}", phases[2]);
    for phase in ["steady", "forged", "hot"] {
        let shown = lines.iter().filter(|line| line["event"] == "progress" && line["phase"] == phase).count();
        assert!(shown >= 1, "{phase}: {lines:?}");
    }
}

#[test]
fn without_a_control_process_the_error_says_what_to_start() {
    let line = ["tachyon-load", "run", "--control", "/nonexistent/control.sock", "--patience", "0.1"];
    let Verb::Run(args) = Cli::try_parse_from(line).unwrap().command;
    let error = format!("{:#}", run::run(&args, &mut |_| {}).unwrap_err());
    assert!(error.contains("start `tachyon-control`"), "{error}");
}
