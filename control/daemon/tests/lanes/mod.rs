//! RDMA lanes: agreed on, refused, dropped, lost with a start of the node, and whose they are.

use crate::{
    RULES, open, opened, port, refused, subscribe,
    support::{Control, Folder, Node, WORKERS_PART, eventually, hello},
};
use tachyon_proto::v1::{
    CloseSessionRequest, ConnectLaneRequest, Lane, LaneStatus, ListLanesRequest, OpenSessionRequest,
    OpenSessionResponse, StatsRequest, SubscribeRequest, SubscribeResponse, UnsubscribeRequest, connect_lane_request,
    lane_status::Owner, list_lanes_request,
};
use tachyon_segment::handover::{Hello, LaneState, PortState, PortStatus};
use tachyon_wire::Endpoint;
use tonic::Code;

fn rdma(boot_number: u16) -> Hello {
    Hello { driver: "rdma, uring".into(), frame_bytes_max: 8_960, ..hello(boot_number) }
}

/// A node with RDMA before UDP, and a control that has applied the rules.
async fn pair_with(folder: &Folder, hello: Hello) -> (Node, Control) {
    let node = Node::start_as(&folder.0, hello);
    let mut control = Control::start(&folder.0).await;
    control.connected().await;
    assert!(control.apply(RULES).await.in_force);
    (node, control)
}

fn publish(identity: &str) -> OpenSessionRequest {
    OpenSessionRequest { lane: Lane::RdmaConnection.into(), detached: true, ..open(identity) }
}

fn listen() -> SubscribeRequest {
    SubscribeRequest { lane: Lane::RdmaRing.into(), fall_back: true, detached: true, ..subscribe(&["fills.a"]) }
}

async fn listening(control: &mut Control) -> SubscribeResponse {
    control.client.subscribe(listen()).await.unwrap().into_inner()
}

fn of_session(session: &OpenSessionResponse, worker: u32, details: &[u8]) -> ConnectLaneRequest {
    let owner = Some(connect_lane_request::Owner::SessionId(session.session_id));
    ConnectLaneRequest { owner, worker, details: details.to_vec() }
}

fn of_subscriber(subscriber: u32, worker: u32) -> ConnectLaneRequest {
    let owner = Some(connect_lane_request::Owner::Subscriber(subscriber));
    ConnectLaneRequest { owner, worker, details: [5; 64].to_vec() }
}

async fn lanes(control: &Control, owner: Option<list_lanes_request::Owner>) -> Vec<LaneStatus> {
    let request = ListLanesRequest { owner };
    control.client.clone().list_lanes(request).await.unwrap().into_inner().lanes
}

fn drops(node: &Node) -> Vec<String> {
    node.told.lock().unwrap().log.iter().filter(|line| line.starts_with("DropLane")).cloned().collect()
}

#[tokio::test]
async fn both_ends_get_each_others_part() {
    let folder = Folder::new();
    let (node, mut control) = pair_with(&folder, rdma(1)).await;
    let session = opened(&mut control, publish("desk")).await;
    let answer = control.client.connect_lane(of_session(&session, 1, &[7; 64])).await.unwrap().into_inner();
    assert_eq!((answer.details.as_slice(), answer.workers), (&WORKERS_PART[..], 2));
    let subscriber = listening(&mut control).await.subscriber;
    control.client.connect_lane(of_subscriber(subscriber, 0)).await.unwrap();
    let offers = node.told.lock().unwrap().offers.clone();
    let name = Endpoint::v4([10, 0, 0, 7], 77);
    assert_eq!((offers[0].worker, offers[0].to, offers[0].ports), (1, name, 1), "what the node calls it");
    assert_eq!((offers[0].details, offers[0].falls_back), ([7; 64], false));
    assert_eq!((offers[1].worker, offers[1].to), (0, Endpoint::v4([127, 0, 0, 1], 40_000)));
    assert_eq!((offers[1].ports, offers[1].falls_back), (4, true), "its shards are one peer");
    let all = lanes(&control, None).await;
    let told: Vec<_> = all.iter().map(|lane| (lane.worker, lane.owner.unwrap(), lane.endpoint.as_str())).collect();
    let expected = [
        (0, Owner::Subscriber(subscriber), "127.0.0.1:40000"),
        (1, Owner::SessionId(session.session_id), "10.0.0.7:77"),
    ];
    assert_eq!(told, expected);
    assert!(all.iter().all(|lane| lane.state == "connected" && lane.lane == i32::from(Lane::RdmaRing)), "{all:?}");
    let of_one = lanes(&control, Some(list_lanes_request::Owner::Subscriber(subscriber))).await;
    assert_eq!(of_one, all[..1]);
}

#[tokio::test]
async fn lanes_that_cannot_be_are_refused_with_what_to_do() {
    let folder = Folder::new();
    let (node, mut control) = pair_with(&folder, rdma(1)).await;
    let udp = opened(&mut control, open("desk")).await;
    let session = opened(&mut control, publish("desk")).await;
    let mut ask = async |request| control.client.connect_lane(request).await;
    refused(ask(of_session(&udp, 0, &[1; 64])).await, Code::FailedPrecondition, "opened for UDP");
    refused(ask(of_session(&session, 0, &[1; 63])).await, Code::InvalidArgument, "64 bytes, not 63");
    refused(ask(of_session(&session, 2, &[1; 64])).await, Code::InvalidArgument, "no worker 2: the node has 2");
    refused(ask(of_subscriber(3, 0)).await, Code::NotFound, "no subscriber 3");
    let nobody = ConnectLaneRequest { owner: None, ..of_session(&session, 0, &[1; 64]) };
    refused(ask(nobody).await, Code::InvalidArgument, "name a session_id or a subscriber");
    node.told.lock().unwrap().refuse_lane = Some("no lane is left; raise lanes_max".into());
    refused(ask(of_session(&session, 0, &[1; 64])).await, Code::FailedPrecondition, "raise lanes_max");
    assert!(lanes(&control, None).await.is_empty(), "nothing was agreed on");
    let falls = SubscribeRequest { lane: Lane::Udp.into(), ..listen() };
    refused(control.client.subscribe(falls).await, Code::FailedPrecondition, "leave fall_back out");
}

#[tokio::test]
async fn a_node_without_rdma_or_without_a_driver_behind_it_says_so() {
    let folder = Folder::new();
    let (node, mut control) = pair_with(&folder, Hello { driver: "uring".into(), ..rdma(1) }).await;
    refused(control.client.open_session(publish("desk")).await, Code::FailedPrecondition, "add \"rdma\"");
    refused(control.client.subscribe(listen()).await, Code::FailedPrecondition, "its drivers: uring");
    assert!(lanes(&control, None).await.is_empty());
    drop((node, control));
    let folder = Folder::new();
    let (_node, mut control) = pair_with(&folder, Hello { driver: "uring, rdma".into(), ..rdma(1) }).await;
    refused(control.client.subscribe(listen()).await, Code::FailedPrecondition, "no driver behind \"rdma\"");
    let steady = SubscribeRequest { fall_back: false, ..listen() };
    control.client.subscribe(steady).await.unwrap();
}

#[tokio::test]
async fn a_lane_ends_with_what_it_was_agreed_on_for() {
    let folder = Folder::new();
    let (node, mut control) = pair_with(&folder, rdma(1)).await;
    let session = opened(&mut control, publish("desk")).await;
    let subscriber = listening(&mut control).await.subscriber;
    for worker in 0..2 {
        control.client.connect_lane(of_session(&session, worker, &[7; 64])).await.unwrap();
        control.client.connect_lane(of_subscriber(subscriber, worker)).await.unwrap();
    }
    // A restart of control forgets no lane.
    control.stop().await;
    let mut control = Control::start(&folder.0).await;
    control.connected().await;
    control.client.close_session(CloseSessionRequest { session_id: session.session_id }).await.unwrap();
    assert_eq!(drops(&node).len(), 2, "{:?}", drops(&node));
    control.client.unsubscribe(UnsubscribeRequest { subscriber }).await.unwrap();
    eventually(async || drops(&node).len() == 4).await;
    let told = node.told.lock().unwrap();
    assert!(told.lanes.is_empty(), "{:?}", told.lanes);
    let (ruleset, dropped) = (told.log.iter().rposition(|line| line == "Ruleset"), told.log.len() - 1);
    assert!(ruleset.unwrap() < dropped, "copies stop before their lane does: {:?}", told.log);
}

#[tokio::test]
async fn a_lane_ends_with_the_process_that_wanted_it() {
    let folder = Folder::new();
    let (node, control) = pair_with(&folder, rdma(1)).await;
    let mut other = tokio::process::Command::new(std::env::current_exe().unwrap());
    other.args(["--exact", "lanes::agrees_on_lanes_for_another_test", "--ignored"]);
    assert!(other.env("TEST_SOCKET", &control.socket).output().await.unwrap().status.success());
    assert_eq!(node.told.lock().unwrap().offers.len(), 2);
    eventually(async || node.told.lock().unwrap().lanes.is_empty()).await;
    assert_eq!(drops(&node).len(), 2);
}

/// The other process of the test above.
#[tokio::test]
#[ignore = "started by another test"]
async fn agrees_on_lanes_for_another_test() {
    let socket = std::env::var_os("TEST_SOCKET").unwrap();
    let mut client = tachyon_proto::connect(socket.as_ref()).await.unwrap();
    let session = OpenSessionRequest { detached: false, ..publish("desk") };
    let session = client.open_session(session).await.unwrap().into_inner();
    client.connect_lane(of_session(&session, 0, &[7; 64])).await.unwrap();
    let subscriber = client.subscribe(SubscribeRequest { detached: false, ..listen() }).await.unwrap().into_inner();
    client.connect_lane(of_subscriber(subscriber.subscriber, 1)).await.unwrap();
}

#[tokio::test]
async fn a_new_start_of_the_node_has_no_lanes_and_peers_see_it() {
    let folder = Folder::new();
    let (node, mut control) = pair_with(&folder, rdma(1)).await;
    let session = opened(&mut control, publish("desk")).await;
    control.client.connect_lane(of_session(&session, 0, &[7; 64])).await.unwrap();
    drop(node);
    let node = Node::start_as(&folder.0, rdma(2));
    eventually(async || node.told.lock().unwrap().version > 0).await;
    assert!(node.told.lock().unwrap().sessions.contains_key(&session.session_id), "the session stays");
    let all = lanes(&control, None).await;
    assert_eq!((all.len(), all[0].state.as_str()), (1, "waiting"));
    assert!(all[0].why.contains("the node started again"), "{all:?}");
    control.client.connect_lane(of_session(&session, 0, &[8; 64])).await.unwrap();
    let all = lanes(&control, None).await;
    assert_eq!((all[0].state.as_str(), all[0].endpoint.as_str()), ("connected", "10.0.0.8:77"));
    assert_eq!(drops(&node), Vec::<String>::new(), "this start never had the old one");
    node.told.lock().unwrap().lanes.clear();
    control.client.connect_lane(of_session(&session, 1, &[8; 64])).await.unwrap(); // so that the lanes are looked at anew
    let all = lanes(&control, None).await;
    assert!(all[0].state == "waiting" && all[0].why.contains("does not have it any more"), "{all:?}");
}

#[tokio::test]
async fn another_offer_replaces_the_lane_and_takes_the_name_from_whoever_had_it() {
    let folder = Folder::new();
    let (node, mut control) = pair_with(&folder, rdma(1)).await;
    let first = opened(&mut control, publish("desk")).await;
    control.client.connect_lane(of_session(&first, 0, &[7; 64])).await.unwrap();
    control.client.connect_lane(of_session(&first, 0, &[8; 64])).await.unwrap();
    assert_eq!(node.told.lock().unwrap().lanes.len(), 1, "the one that was replaced is dropped");
    let second = opened(&mut control, publish("desk")).await;
    control.client.connect_lane(of_session(&second, 0, &[8; 64])).await.unwrap();
    let all = lanes(&control, None).await;
    assert_eq!((all.len(), all[0].owner), (1, Some(Owner::SessionId(second.session_id))));
    control.client.close_session(CloseSessionRequest { session_id: first.session_id }).await.unwrap();
    assert_eq!(node.told.lock().unwrap().lanes.len(), 1, "it is the other's now");
}

#[tokio::test]
async fn a_publisher_gets_no_name_that_leads_to_another_user_not_for_a_moment() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: a process of another user can only be started by root");
    }
    let folder = Folder::new();
    let (node, mut control) = pair_with_another_user(&folder).await;
    by_another_user(&folder, &control, "subscribes_for_another_test", "").await.unwrap();
    let session = opened(&mut control, publish("desk")).await;
    // The subscriber gets its frames by UDP, so the node knows of no lane that would be in the way.
    let outcome = control.client.connect_lane(of_session(&session, 0, &[7; 64])).await;
    refused(outcome, Code::PermissionDenied, "frames of another user go to 10.0.0.7:77");
    assert_eq!(node.told.lock().unwrap().offers.len(), 0, "the node was asked for a name and for nothing else");
    control.client.connect_lane(of_session(&session, 0, &[8; 64])).await.unwrap();
}

#[tokio::test]
async fn no_lane_takes_the_acks_of_another_users_publisher_where_it_is_pinned() {
    if !rustix::process::geteuid().is_root() {
        return println!("skipped: a process of another user can only be started by root");
    }
    let folder = Folder::new();
    let (node, mut control) = pair_with_another_user(&folder).await;
    let session = opened(&mut control, publish("desk")).await;
    let ask = async |last: u8| control.client.clone().connect_lane(of_session(&session, 0, &[last; 64])).await;
    // The fake node makes 10.0.0.x:77 of the details.
    ask(20).await.unwrap();
    let pinned = async |at| by_another_user(&folder, &control, "publishes_for_another_test", at).await;
    for at in ["10.0.0.20", "10.0.0.20:77"] {
        let said = pinned(at).await.unwrap_err();
        assert!(said.contains("an RDMA lane of another user leads to 10.0.0.20"), "{said}");
    }
    for at in ["10.0.0.20:78", "10.0.0.9", "10.0.0.10:77", "10.0.0.11:78"] {
        pinned(at).await.unwrap();
    }
    for last in [9, 10] {
        refused(ask(last).await, Code::PermissionDenied, &format!("frames of another user go to 10.0.0.{last}:77"));
    }
    assert_eq!(node.told.lock().unwrap().offers.len(), 1, "the node was asked for names and for nothing else");
    ask(11).await.unwrap();
}

#[tokio::test]
async fn a_publishers_lane_leads_to_where_its_session_is_pinned() {
    let folder = Folder::new();
    let (_node, mut control) = pair_with(&folder, rdma(1)).await;
    let pinned = OpenSessionRequest { pinned_address: "10.0.0.7".into(), ..publish("desk") };
    let session = opened(&mut control, pinned).await;
    let outcome = control.client.connect_lane(of_session(&session, 0, &[8; 64])).await;
    refused(outcome, Code::PermissionDenied, "is pinned to 10.0.0.7, and this lane leads to 10.0.0.8");
    control.client.connect_lane(of_session(&session, 0, &[7; 64])).await.unwrap();
}

/// `nobody`, where Debian has it.
const OTHER_USER: u32 = 65_534;

/// A node and a control that another user may publish and subscribe with, too.
async fn pair_with_another_user(folder: &Folder) -> (Node, Control) {
    let (node, mut control) = pair_with(folder, rdma(1)).await;
    let other = format!(
        "{RULES}\n[[identity]]\nname = \"other\"\npublish = [\"orders.*\"]\nsubscribe = [\"fills.*\"]\n\
         senders = \"400-400\"\nuids = [{OTHER_USER}]\n"
    );
    assert!(control.apply(&other).await.in_force);
    let exe = folder.0.join("other"); // ours may be in a folder that only we can read
    std::fs::copy(std::env::current_exe().unwrap(), exe).unwrap();
    (node, control)
}

/// Has another user do what is below, where a session is pinned to `at`; what it said if that failed.
async fn by_another_user(folder: &Folder, control: &Control, what: &str, at: &str) -> Result<(), String> {
    let mut other = tokio::process::Command::new(folder.0.join("other"));
    other.args(["--exact", &format!("lanes::{what}"), "--ignored"]).uid(OTHER_USER);
    let output = other.env("TEST_SOCKET", &control.socket).env("TEST_PIN", at).output().await.unwrap();
    let said = [output.stdout, output.stderr].concat();
    if output.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&said).into_owned()) }
}

/// The other user's process of a test above.
#[tokio::test]
#[ignore = "started by another test"]
async fn publishes_for_another_test() {
    let socket = std::env::var_os("TEST_SOCKET").unwrap();
    let mut client = tachyon_proto::connect(socket.as_ref()).await.unwrap();
    let pinned_address = std::env::var("TEST_PIN").unwrap();
    client.open_session(OpenSessionRequest { pinned_address, detached: true, ..open("other") }).await.unwrap();
}

/// The same.
#[tokio::test]
#[ignore = "started by another test"]
async fn subscribes_for_another_test() {
    let socket = std::env::var_os("TEST_SOCKET").unwrap();
    let mut client = tachyon_proto::connect(socket.as_ref()).await.unwrap();
    let (identity, address) = ("other".into(), "10.0.0.7".into());
    let base_port = 75; // and its four shards
    let wish = SubscribeRequest { identity, address, base_port, detached: true, ..subscribe(&["fills.a"]) };
    client.subscribe(wish).await.unwrap();
}

#[tokio::test]
async fn frames_on_rdma_lanes_are_at_most_one_packet() {
    let folder = Folder::new();
    let (node, mut control) = pair_with(&folder, rdma(1)).await;
    assert_eq!(opened(&mut control, publish("desk")).await.frame_bytes_max, 8_960, "the port tells no MTU");
    let fabric = PortStatus { driver: "rdma".into(), mtu: Some(1_100), ..port("fabric", PortState::Ready) };
    node.told.lock().unwrap().ports = vec![port("east", PortState::Ready), fabric];
    assert_eq!(opened(&mut control, publish("desk")).await.frame_bytes_max, 1_088);
    assert_eq!(opened(&mut control, open("desk")).await.frame_bytes_max, 8_960, "UDP is not limited by it");
    assert_eq!(listening(&mut control).await.frame_bytes_max, 1_088);
    let long = SubscribeRequest { frame_bytes_max: 1_152, ..listen() };
    refused(control.client.subscribe(long).await, Code::InvalidArgument, "128 to 1088");
}

#[tokio::test]
async fn routes_tell_what_carries_their_copies() {
    let folder = Folder::new();
    let (node, mut control) = pair_with(&folder, rdma(1)).await;
    let subscriber = listening(&mut control).await.subscriber;
    let carrier = async |control: &Control| {
        let stats = control.client.clone().stats(StatsRequest {}).await.unwrap().into_inner();
        stats.routes[0].lanes.clone()
    };
    assert_eq!(carrier(&control).await, ["rdma_ring"], "as it was asked for");
    for worker in 0..2 {
        control.client.connect_lane(of_subscriber(subscriber, worker)).await.unwrap();
    }
    assert_eq!(carrier(&control).await, ["rdma_ring"]);
    let fail = |worker: usize| {
        let lane = &mut node.told.lock().unwrap().lanes[worker];
        (lane.state, lane.fell_back, lane.why) = (LaneState::Failed, true, "the peer does not acknowledge".into());
    };
    fail(0);
    eventually(async || carrier(&control).await == ["mixed"]).await;
    fail(1);
    eventually(async || carrier(&control).await == ["udp (fell back)"]).await;
    let all = lanes(&control, None).await;
    assert!(all.iter().all(|lane| lane.fell_back && lane.state == "failed" && lane.why.contains("acknowledge")));
}

#[tokio::test]
async fn secrets_are_in_no_line_that_anybody_prints() {
    let folder = Folder::new();
    let (node, mut control) = pair_with(&folder, rdma(1)).await;
    let session = opened(&mut control, publish("desk")).await;
    let mut details = [201; 64];
    details[0] = 3; // which the fake node makes an address of
    let request = of_session(&session, 0, &details);
    let shown = format!("{request:?} {request:#?}");
    let answer = control.client.connect_lane(request).await.unwrap().into_inner();
    let log = node.told.lock().unwrap().log.clone();
    let shown = format!("{shown} {answer:?} {log:?} {:?}", lanes(&control, None).await);
    assert!(!shown.contains("201") && !shown.contains("171") && !shown.contains("0xab"), "{shown}");
    control.stop().await;
    let stored = std::fs::read(folder.0.join("state/registry.redb")).unwrap();
    for part in [&b"201,201,201"[..], b"171,171,171", &[201; 8], &[0xab; 8]] {
        assert!(!stored.windows(part.len()).any(|bytes| bytes == part), "details are on the disk");
    }
}
