//! A stand-in control process: sessions without rules, and the ledgers of the stand-in node.

use crate::stand_in::{EGRESS, EGRESS_MASTER, FRAME_BYTES, Node, SENDERS, SHARDS, master};
use std::{
    path::PathBuf,
    sync::{Arc, Mutex, atomic::AtomicBool},
    thread::JoinHandle,
};
use tachyon_loadgen::hire::free_ports;
use tachyon_proto::v1::{self, control_server};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::{Request, Response, Status};

type Answer<T> = Result<Response<T>, Status>;

/// What the stand-in's two halves share.
pub(crate) struct Shared {
    pub(crate) node: Mutex<Node>,
    /// Address and port of shard 0.
    pub(crate) subscriber: Mutex<Option<(String, u16)>>,
    sessions: Mutex<u32>,
    pub(crate) stop: AtomicBool,
    pub(crate) base_port: u16,
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
        *self.0.subscriber.lock().unwrap() = Some((request.address, u16::try_from(request.base_port).unwrap()));
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

    async fn list_ports(&self, _: Request<v1::ListPortsRequest>) -> Answer<v1::ListPortsResponse> {
        Err(Status::unimplemented("ports"))
    }

    async fn set_port(&self, _: Request<v1::SetPortRequest>) -> Answer<v1::SetPortResponse> {
        Err(Status::unimplemented("ports"))
    }

    async fn connect_lane(&self, _: Request<v1::ConnectLaneRequest>) -> Answer<v1::ConnectLaneResponse> {
        Err(Status::unimplemented("lanes"))
    }

    async fn list_lanes(&self, _: Request<v1::ListLanesRequest>) -> Answer<v1::ListLanesResponse> {
        Err(Status::unimplemented("lanes"))
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

    async fn list_filters(&self, _: Request<v1::ListFiltersRequest>) -> Answer<v1::ListFiltersResponse> {
        Err(Status::unimplemented("filters"))
    }

    async fn set_filter(&self, _: Request<v1::SetFilterRequest>) -> Answer<v1::SetFilterResponse> {
        Err(Status::unimplemented("filters"))
    }

    async fn list_denied(&self, _: Request<v1::ListDeniedRequest>) -> Answer<v1::ListDeniedResponse> {
        Err(Status::unimplemented("filters"))
    }

    async fn change_denied(&self, _: Request<v1::ChangeDeniedRequest>) -> Answer<v1::ChangeDeniedResponse> {
        Err(Status::unimplemented("filters"))
    }

    async fn drops(&self, _: Request<v1::DropsRequest>) -> Answer<v1::DropsResponse> {
        Err(Status::unimplemented("drops"))
    }
}

/// Starts a control process and a node that is played by `relay`: both, and where the control process listens.
pub(crate) fn start(
    name: &str,
    relay: impl FnOnce(&Shared) + Send + 'static,
) -> (Arc<Shared>, PathBuf, JoinHandle<()>) {
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
