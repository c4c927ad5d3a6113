//! The interface over a real Unix socket, with a node that only keeps what it is told.
#![expect(clippy::unwrap_used, reason = "helpers of tests, which end at the first surprise as tests do")]

mod filters;
mod lanes;
mod log;
mod support;

use support::{Control, Folder, Node, SHARDS, Told, eventually, hello};
use tachyon_policy::verify;
use tachyon_proto::v1::{
    CheckRulesRequest, CloseSessionRequest, DropsRequest, ListPortsRequest, OpenSessionRequest, OpenSessionResponse,
    ResolveTopicsRequest, SetPortRequest, ShowRulesRequest, StatsRequest, StatusRequest, SubscribeRequest,
    SubscribeResponse, UnsubscribeRequest,
};
use tachyon_segment::handover::{Hello, PortState, PortStatus};
use tachyon_wire::{
    Reason,
    command::{SESSION_SYSTEM, SESSION_TAG_REQUIRED},
    counters::{Counters, Histogram, ROUTES_COUNTED, RouteCounters, WorkerStats},
};
use tonic::{Code, Status};
use tonic_reflection::pb::v1::{
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};

const RULES: &str = r#"
[[topic]]
match = "orders.*"

[[topic]]
match = "fills.*"
rate = "10/s"

[[identity]]
name = "desk"
publish = ["orders.*"]
subscribe = ["fills.*", "orders.*"]
senders = "100-199"
class = "P1"
system = true

[[identity]]
name = "plain"
publish = ["orders.*"]
senders = "200-200"
tags = "optional"

[[identity]]
name = "foreign"
publish = ["orders.*"]
senders = "300-300"
uids = [4000000]
"#;

fn open(identity: &str) -> OpenSessionRequest {
    OpenSessionRequest { identity: identity.into(), tags: true, ..OpenSessionRequest::default() }
}

fn subscribe(topics: &[&str]) -> SubscribeRequest {
    SubscribeRequest {
        identity: "desk".into(),
        topics: topics.iter().map(|&topic| topic.into()).collect(),
        address: "127.0.0.1".into(),
        base_port: 40_000,
        ..SubscribeRequest::default()
    }
}

fn resolve(identity: &str, names: &[&str]) -> ResolveTopicsRequest {
    ResolveTopicsRequest { identity: identity.into(), names: names.iter().map(|&name| name.into()).collect() }
}

async fn ids(control: &mut Control, names: &[&str]) -> Vec<u32> {
    let answer = control.client.resolve_topics(resolve("desk", names)).await.unwrap().into_inner();
    answer.topics.iter().map(|topic| topic.topic_id).collect()
}

async fn opened(control: &mut Control, request: OpenSessionRequest) -> OpenSessionResponse {
    control.client.open_session(request).await.unwrap().into_inner()
}

async fn subscribed(control: &mut Control, topics: &[&str]) -> SubscribeResponse {
    control.client.subscribe(subscribe(topics)).await.unwrap().into_inner()
}

/// A node, and a control that has applied [`RULES`].
async fn pair(folder: &Folder) -> (Node, Control) {
    let node = Node::start(&folder.0, 1);
    let mut control = Control::start(&folder.0).await;
    control.connected().await;
    let applied = control.apply(RULES).await;
    assert!(applied.accepted && applied.in_force, "{applied:?}");
    (node, control)
}

fn refused<T: std::fmt::Debug>(outcome: Result<T, Status>, code: Code, words: &str) {
    let status = outcome.unwrap_err();
    assert!(status.code() == code && status.message().contains(words), "{status:?}");
}

#[tokio::test]
async fn a_session_reaches_the_node_as_it_was_granted() {
    let folder = Folder::new();
    let (node, mut control) = pair(&folder).await;
    let request = OpenSessionRequest {
        publish_topics: vec!["orders.eu".into()],
        pinned_address: "10.1.2.3:9000".into(),
        ..open("desk")
    };
    let session = opened(&mut control, request).await;
    assert_eq!((session.sender_low, session.sender_high, session.class_cap), (100, 199, 1));
    assert_eq!((session.shard_count, session.base_port, session.epoch), (4, 24_640, 1 << 16));
    assert_eq!(session.addresses, ["127.0.0.1"]);
    assert_eq!(session.topics[0].topic_id, 1);
    let told = node.told.lock().unwrap();
    let command = told.sessions[&session.session_id];
    assert_eq!(command.reply_session_id.get(), session.reply_session_id);
    assert_eq!(
        (command.master.as_slice(), command.reply_master.as_slice()),
        (&*session.master_key, &*session.reply_master_key)
    );
    assert_ne!(session.master_key, session.reply_master_key);
    assert_eq!(command.flags, SESSION_TAG_REQUIRED | SESSION_SYSTEM);
    assert_eq!((command.epoch_floor.get(), command.pinned.port.get()), (1 << 16, 9000));
    let verified = verify(told.image.as_slice(), SHARDS).unwrap();
    assert!(verified.ruleset().topic(1).is_some(), "the topic is in force before the session is told");
    assert!(!format!("{session:?}").contains(&format!("{:?}", session.master_key)), "no key in a log line");
}

#[tokio::test]
async fn what_is_not_granted_is_refused_with_what_to_do() {
    let folder = Folder::new();
    let node = Node::start(&folder.0, 1);
    let mut control = Control::start(&folder.0).await;
    control.connected().await;
    refused(control.client.open_session(open("desk")).await, Code::FailedPrecondition, "rules apply");
    assert!(control.apply(RULES).await.accepted);
    refused(control.client.open_session(open("nobody")).await, Code::NotFound, "`nobody`");
    refused(control.client.open_session(open("foreign")).await, Code::PermissionDenied, "`uids`");
    let untagged = OpenSessionRequest { tags: false, ..open("desk") };
    refused(control.client.open_session(untagged).await, Code::PermissionDenied, "tags");
    let fills = OpenSessionRequest { publish_topics: vec!["fills.x".into()], ..open("desk") };
    refused(control.client.open_session(fills).await, Code::PermissionDenied, "may not publish on `fills.x`");
    let pinned = OpenSessionRequest { pinned_address: "nowhere".into(), ..open("desk") };
    refused(control.client.open_session(pinned).await, Code::InvalidArgument, "`nowhere`");
    let lane = OpenSessionRequest { lane: 7, ..open("desk") };
    refused(control.client.open_session(lane).await, Code::InvalidArgument, "no lane 7");
    refused(control.client.subscribe(subscribe(&["other.*"])).await, Code::PermissionDenied, "`other.*`");
    refused(control.client.subscribe(subscribe(&["a*b"])).await, Code::InvalidArgument, "`*`");
    let high = SubscribeRequest { base_port: 65_533, ..subscribe(&["fills.*"]) };
    refused(control.client.subscribe(high).await, Code::InvalidArgument, "1 to 65532");
    refused(control.client.resolve_topics(resolve("desk", &["secret"])).await, Code::PermissionDenied, "`secret`");
    refused(control.client.resolve_topics(resolve("desk", &["orders.é"])).await, Code::InvalidArgument, "é");
    let close = CloseSessionRequest { session_id: 9 };
    refused(control.client.close_session(close).await, Code::NotFound, "no session 9");
    let told = node.told.lock().unwrap();
    assert!(told.log.iter().all(|request| request == "Ruleset"), "the node hears of none of it: {:?}", told.log);
}

#[tokio::test]
async fn untagged_sessions_are_for_identities_that_may() {
    let folder = Folder::new();
    let (node, mut control) = pair(&folder).await;
    let session = opened(&mut control, OpenSessionRequest { tags: false, ..open("plain") }).await;
    assert!(!session.tag_required && !session.system);
    assert_eq!(node.told.lock().unwrap().sessions[&session.session_id].flags, 0);
}

#[tokio::test]
async fn a_subscriber_gets_todays_topics_and_those_to_come() {
    let folder = Folder::new();
    let (node, mut control) = pair(&folder).await;
    ids(&mut control, &["fills.a", "orders.a"]).await;
    let subscriber = subscribed(&mut control, &["fills.*"]).await;
    assert_eq!((subscriber.topics_matched, subscriber.topics[0].name.as_str()), (1, "fills.a"));
    assert_eq!((subscriber.sessions.len(), subscriber.sessions[1].epoch), (2, 1 << 16));
    ids(&mut control, &["fills.b"]).await;
    let told = node.told.lock().unwrap();
    let egress: Vec<u32> = told.subscribers.values().map(|add| add.session_id.get()).collect();
    assert_eq!(egress, subscriber.sessions.iter().map(|session| session.session_id).collect::<Vec<_>>());
    assert_ne!(subscriber.sessions[0].master_key, subscriber.sessions[1].master_key);
    let verified = verify(told.image.as_slice(), SHARDS).unwrap();
    let targets = |topic: u32| {
        let route = verified.ruleset().topic(topic).unwrap().route.get();
        verified.ruleset().route(route).map(|(_, targets)| targets.iter().map(|slot| slot.get()).collect::<Vec<_>>())
    };
    assert_eq!((targets(1), targets(2), targets(3)), (Some(vec![0]), None, Some(vec![0])));
}

#[tokio::test]
async fn an_ended_subscriber_leaves_the_routes_before_the_node() {
    let folder = Folder::new();
    let (node, mut control) = pair(&folder).await;
    let slot = subscribed(&mut control, &["fills.a"]).await.subscriber;
    control.client.unsubscribe(UnsubscribeRequest { subscriber: slot }).await.unwrap();
    let gone = control.client.unsubscribe(UnsubscribeRequest { subscriber: slot }).await;
    refused(gone, Code::NotFound, "no subscriber 0");
    let told = node.told.lock().unwrap();
    assert_eq!(told.log[told.log.len() - 2..], ["Ruleset", "RemoveSubscriber(0)"]);
    assert_eq!(verify(told.image.as_slice(), SHARDS).unwrap().ruleset().routes(), 0);
}

#[tokio::test]
async fn many_calls_at_once_become_few_rulesets() {
    let folder = Folder::new();
    let (node, control) = pair(&folder).await;
    let calls: Vec<_> = (0..100)
        .map(|number| {
            let mut client = control.client.clone();
            let request = resolve("desk", &[&format!("orders.{number}")]);
            tokio::spawn(async move { client.resolve_topics(request).await.unwrap() })
        })
        .collect();
    let mut ids = Vec::new();
    for call in calls {
        ids.push(call.await.unwrap().into_inner().topics[0].topic_id);
    }
    ids.sort_unstable();
    assert_eq!(ids, (1..=100).collect::<Vec<_>>());
    let rulesets = node.told.lock().unwrap().log.iter().filter(|request| *request == "Ruleset").count();
    assert!(rulesets <= 60, "{rulesets} rulesets for 100 calls"); // each call alone would make 101
}

#[tokio::test]
async fn a_restart_of_control_disturbs_nothing_and_forgets_nothing() {
    let folder = Folder::new();
    let (node, mut control) = pair(&folder).await;
    let before = ids(&mut control, &["orders.a", "fills.a", "orders.b"]).await;
    let session = opened(&mut control, OpenSessionRequest { detached: true, ..open("desk") }).await;
    let subscriber = subscribed(&mut control, &["fills.*"]).await;
    let told_before = node.told.lock().unwrap().log.len();
    control.stop().await;
    let mut control = Control::start(&folder.0).await;
    control.connected().await;
    eventually(async || node.told.lock().unwrap().log.len() > told_before).await;
    assert_eq!(node.told.lock().unwrap().log[told_before..], ["Ruleset"], "no session or subscriber is touched");
    assert_eq!(ids(&mut control, &["orders.a", "fills.a", "orders.b"]).await, before);
    assert_eq!(ids(&mut control, &["orders.new"]).await, [4]);
    let another = opened(&mut control, open("desk")).await;
    assert_ne!(another.session_id, session.session_id);
    let second = subscribed(&mut control, &["fills.*"]).await;
    assert_ne!(second.subscriber, subscriber.subscriber);
    let mut numbers: Vec<u32> =
        [&subscriber, &second].iter().flat_map(|s| s.sessions.iter().map(|e| e.session_id)).collect();
    numbers.extend([session.session_id, session.reply_session_id, another.session_id, another.reply_session_id]);
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!(numbers.len(), 8, "numbers are unique over both directions");
    let shown = control.client.show_rules(ShowRulesRequest {}).await.unwrap().into_inner();
    assert_eq!(shown.text, RULES);
}

#[tokio::test]
async fn a_new_start_of_the_node_is_told_everything_under_higher_epochs() {
    let folder = Folder::new();
    let (node, mut control) = pair(&folder).await;
    let session = opened(&mut control, OpenSessionRequest { detached: true, ..open("desk") }).await;
    let subscriber = subscribed(&mut control, &["fills.a"]).await;
    drop(node);
    let lost = resolve("desk", &["orders.later"]);
    eventually(async || !control.client.clone().status(StatusRequest {}).await.unwrap().into_inner().connected).await;
    refused(control.client.resolve_topics(lost).await, Code::Unavailable, "tachyond is not connected");
    control.client.close_session(CloseSessionRequest { session_id: 1 }).await.unwrap_err();
    let node = Node::start(&folder.0, 2);
    control.connected().await;
    let told = node.told.lock().unwrap();
    let again = told.sessions[&session.session_id];
    assert_eq!(again.epoch_floor.get(), 2 << 16);
    assert_eq!(again.master.as_slice(), session.master_key, "the key is the same");
    assert_eq!(told.subscribers.len(), 2);
    assert_eq!(told.subscribers[&(0, 1)].master.as_slice(), subscriber.sessions[1].master_key);
    let kinds: Vec<&str> =
        told.log.iter().map(|request| &request[..request.find('(').unwrap_or(request.len())]).collect();
    assert_eq!(
        kinds,
        ["OpenSession", "AddSubscriber", "AddSubscriber", "Ruleset", "OpenSession"],
        "sessions are open once the rules are in force"
    );
    assert!(
        verify(told.image.as_slice(), SHARDS).unwrap().ruleset().topic(2).is_some(),
        "registered while it was away"
    );
}

#[tokio::test]
async fn a_node_that_lost_its_boot_number_gets_no_old_keys() {
    for other in [hello(1), Hello { workers: 3, ..hello(5) }] {
        let folder = Folder::new();
        let node = Node::start(&folder.0, 2);
        let mut control = Control::start(&folder.0).await;
        control.connected().await;
        assert!(control.apply(RULES).await.accepted);
        opened(&mut control, OpenSessionRequest { detached: true, ..open("desk") }).await;
        subscribed(&mut control, &["fills.a"]).await;
        drop(node);
        let node = Node::start_as(&folder.0, other);
        eventually(async || node.told.lock().unwrap().version > 0).await;
        assert_eq!(node.told.lock().unwrap().log, ["Ruleset"]);
        let status = control.client.status(StatusRequest {}).await.unwrap().into_inner();
        assert_eq!((status.sessions, status.subscribers, status.topics), (0, 0, 1));
    }
}

#[tokio::test]
async fn the_status_names_the_ruleset_that_this_start_of_the_node_has() {
    let folder = Folder::new();
    let (node, mut control) = pair(&folder).await;
    ids(&mut control, &["orders.a"]).await;
    drop(node);
    let status = async || control.client.clone().status(StatusRequest {}).await.unwrap().into_inner();
    eventually(async || !status().await.connected).await;
    let told = Told { version: 1, refuse: Some("not now".into()), ..Told::default() };
    let _node = Node::start_with(&folder.0, hello(2), told);
    eventually(async || status().await.connected).await;
    assert_eq!(status().await.ruleset_in_force, 1);
}

#[tokio::test]
async fn a_slot_is_free_once_the_rules_of_a_new_start_do_not_name_it() {
    // One subscriber that was ending, and one that ends because of what the new start is.
    for (unsubscribes, next) in [(true, hello(2)), (false, Hello { workers: 3, ..hello(2) })] {
        let folder = Folder::new();
        let (node, mut control) = pair(&folder).await;
        let slot = subscribed(&mut control, &["fills.a"]).await.subscriber;
        let refuses = || Some("not now".to_owned());
        node.told.lock().unwrap().refuse = refuses();
        if unsubscribes {
            control.client.unsubscribe(UnsubscribeRequest { subscriber: slot }).await.unwrap();
        }
        drop(node);
        eventually(async || !control.client.clone().status(StatusRequest {}).await.unwrap().into_inner().connected)
            .await;
        // It goes on with the rules that it has stored, by which copies are due in the slot.
        let node = Node::start_with(&folder.0, next, Told { refuse: refuses(), ..Told::default() });
        control.connected().await;
        refused(control.client.subscribe(subscribe(&["orders.a"])).await, Code::Unavailable, "not now");
        let taken: Vec<u32> = node.told.lock().unwrap().subscribers.keys().map(|(slot, _)| *slot).collect();
        assert!(!taken.is_empty() && !taken.contains(&slot), "{taken:?}");
        node.told.lock().unwrap().refuse = None;
        ids(&mut control, &["orders.b"]).await;
        assert_eq!(subscribed(&mut control, &["orders.c"]).await.subscriber, slot, "it is free now");
    }
}

#[tokio::test]
async fn a_session_that_ends_without_the_node_ends_there_later() {
    let folder = Folder::new();
    let (node, mut control) = pair(&folder).await;
    let session = opened(&mut control, open("desk")).await;
    let hello = node.hello.clone();
    drop(node);
    eventually(async || !control.client.clone().status(StatusRequest {}).await.unwrap().into_inner().connected).await;
    control.client.close_session(CloseSessionRequest { session_id: session.session_id }).await.unwrap();
    let node = Node::start_as(&folder.0, hello); // the same start: only the connection was gone
    eventually(async || node.told.lock().unwrap().version > 0).await;
    let log = node.told.lock().unwrap().log.clone();
    assert_eq!(log, [format!("CloseSession({})", session.session_id), "Ruleset".into()]);
}

#[tokio::test]
async fn what_the_node_was_too_busy_for_is_tried_again() {
    let folder = Folder::new();
    let (node, mut control) = pair(&folder).await;
    let session = opened(&mut control, open("desk")).await;
    node.told.lock().unwrap().busy = Some("CloseSession");
    control.client.close_session(CloseSessionRequest { session_id: session.session_id }).await.unwrap();
    assert!(node.told.lock().unwrap().sessions.contains_key(&session.session_id));
    node.told.lock().unwrap().busy = None;
    eventually(async || node.told.lock().unwrap().sessions.is_empty()).await;
    node.told.lock().unwrap().busy = Some("Ruleset");
    refused(control.client.resolve_topics(resolve("desk", &["orders.a"])).await, Code::Unavailable, "busy");
    node.told.lock().unwrap().busy = None;
    let has_topic = |image: &[u8]| verify(image, SHARDS).unwrap().ruleset().topic(1).is_some();
    eventually(async || has_topic(&node.told.lock().unwrap().image)).await;
}

#[tokio::test]
async fn bad_rules_change_nothing_and_say_why() {
    let folder = Folder::new();
    let (node, mut control) = pair(&folder).await;
    let version = node.told.lock().unwrap().version;
    let typo = RULES.replace("rate =", "rat =");
    let answer = control.apply(&typo).await;
    assert!(!answer.accepted && !answer.in_force);
    assert_eq!((answer.problems[0].line, answer.problems[0].column), (7, 1));
    assert!(answer.problems[0].rendered.contains("--> rules.toml:7:1") && answer.problems[0].help.contains("`rate`"));
    let far = RULES
        .replace("senders = \"100-199\"", "senders = \"100-5000\"")
        .replace("200-200", "6000-6000")
        .replace("300-300", "7000-7000");
    let answer = control.apply(&far).await;
    assert!(answer.problems[0].message.contains("senders_max"), "{answer:?}");
    node.told.lock().unwrap().refuse = Some("no room".into());
    let answer = control.apply(&RULES.replace("10/s", "20/s")).await;
    assert!(!answer.accepted && answer.problems[0].message.contains("no room"), "{answer:?}");
    node.told.lock().unwrap().refuse = None;
    assert_eq!(node.told.lock().unwrap().version, version);
    let shown = control.client.show_rules(ShowRulesRequest {}).await.unwrap().into_inner();
    assert_eq!((shown.text.as_str(), shown.file_name.as_str()), (RULES, "rules.toml"));
}

#[tokio::test]
async fn checking_rules_changes_nothing() {
    let folder = Folder::new();
    let (node, mut control) = pair(&folder).await;
    opened(&mut control, OpenSessionRequest { publish_topics: vec!["orders.a".into()], ..open("desk") }).await;
    let version = node.told.lock().unwrap().version;
    let text = RULES.replace("class = \"P1\"", "class = \"P3\"").replace("match = \"orders.*\"", "match = \"o\"");
    let request = CheckRulesRequest { text, file_name: "new.toml".into() };
    let answer = control.client.check_rules(request).await.unwrap().into_inner();
    let summary = answer.summary.unwrap();
    assert!(answer.problems.is_empty());
    assert_eq!((summary.topics_known, summary.topics_unmatched, summary.sessions_ended), (0, 1, 1));
    assert!(answer.warnings.iter().any(|warning| warning.message.contains("orders.*")), "{answer:?}");
    assert_eq!(node.told.lock().unwrap().version, version);
}

#[tokio::test]
async fn narrower_rules_end_what_they_no_longer_grant() {
    let folder = Folder::new();
    let (node, mut control) = pair(&folder).await;
    let kept = opened(&mut control, open("plain")).await;
    let narrowed = opened(&mut control, open("desk")).await;
    let subscriber = subscribed(&mut control, &["fills.a"]).await.subscriber;
    let answer = control.apply(&RULES.replace("system = true", "")).await;
    assert_eq!(answer.summary.unwrap().sessions_ended, 1);
    assert_eq!(node.told.lock().unwrap().sessions.keys().copied().collect::<Vec<_>>(), [kept.session_id]);
    assert!(control.apply(&RULES.replace("\"desk\"", "\"other\"")).await.accepted);
    eventually(async || node.told.lock().unwrap().subscribers.is_empty()).await;
    let closed = control.client.close_session(CloseSessionRequest { session_id: narrowed.session_id }).await;
    refused(closed, Code::NotFound, "no session");
    let gone = control.client.unsubscribe(UnsubscribeRequest { subscriber }).await;
    refused(gone, Code::NotFound, "no subscriber");
}

#[tokio::test]
async fn rules_that_are_applied_without_a_node_go_there_when_it_comes() {
    let folder = Folder::new();
    let mut control = Control::start(&folder.0).await;
    let answer = control.apply(RULES).await;
    assert!(answer.accepted && !answer.in_force);
    refused(control.client.open_session(open("desk")).await, Code::Unavailable, "not connected");
    let node = Node::start(&folder.0, 1);
    eventually(async || node.told.lock().unwrap().version > 0).await;
}

#[tokio::test]
async fn what_a_process_opened_ends_with_it() {
    let folder = Folder::new();
    let (node, mut control) = pair(&folder).await;
    let ours = opened(&mut control, open("desk")).await;
    let mut other = tokio::process::Command::new(std::env::current_exe().unwrap());
    other.args(["--exact", "opens_sessions_for_another_test", "--ignored"]).env("TEST_SOCKET", &control.socket);
    assert!(other.output().await.unwrap().status.success());
    let log = || node.told.lock().unwrap().log.iter().filter(|request| request.starts_with("OpenSession")).count();
    assert_eq!(log(), 3, "the other process opened one that stays and one that does not, and subscribed");
    eventually(async || node.told.lock().unwrap().subscribers.is_empty()).await;
    let told = node.told.lock().unwrap();
    assert_eq!(told.sessions.len(), 2);
    assert!(told.sessions.contains_key(&ours.session_id), "this process still runs");
}

/// The other process of the test above.
#[tokio::test]
#[ignore = "started by another test"]
async fn opens_sessions_for_another_test() {
    let socket = std::env::var_os("TEST_SOCKET").unwrap();
    let mut client = tachyon_proto::connect(socket.as_ref()).await.unwrap();
    client.open_session(open("desk")).await.unwrap();
    client.open_session(OpenSessionRequest { detached: true, ..open("desk") }).await.unwrap();
    client.subscribe(subscribe(&["fills.a"])).await.unwrap();
}

#[tokio::test]
async fn counters_are_told_as_the_workers_published_them() {
    let folder = Folder::new();
    let (mut node, mut control) = pair(&folder).await;
    subscribed(&mut control, &["fills.a"]).await;
    let mut stats = Box::new(WorkerStats {
        counters: Counters::ZERO,
        residence: Histogram::ZERO,
        routes: [RouteCounters::default(); ROUTES_COUNTED],
    });
    stats.counters.frames_seen = 10;
    stats.counters.frames_admitted = 7;
    stats.counters.frames_refused[Reason::BadTag.index()] = 3;
    stats.counters.messages_seen = 5;
    stats.counters.messages_accepted = 5;
    stats.residence.record(1000, 5);
    stats.routes[0] = RouteCounters { accepted: 5, due: 5, given: 4, refused: 1 };
    for writer in &mut node.writers {
        writer.publish_all(&stats);
    }
    let answer = control.client.stats(StatsRequest {}).await.unwrap().into_inner();
    let ledgers = answer.ledgers.unwrap();
    assert_eq!((ledgers.frames.clone().unwrap().seen, ledgers.unaccounted), (20, 0));
    assert_eq!(ledgers.frames.unwrap().reasons["E_AUTH_BAD_TAG"], 6);
    assert_eq!((answer.workers.len(), answer.residence.unwrap().count), (2, 10));
    let route = &answer.routes[0];
    assert_eq!((route.given, route.topics, route.example_topic.as_str()), (8, 1, "fills.a"));
    assert_eq!(
        (route.endpoints.as_slice(), route.lanes.as_slice()),
        (&["127.0.0.1:40000".into()][..], &["udp".into()][..])
    );
    let drops = control.client.drops(DropsRequest {}).await.unwrap().into_inner().drops;
    assert_eq!(drops.len(), Reason::ALL.len());
    let bad_tag = drops.iter().find(|drop| drop.code == "E_AUTH_BAD_TAG").unwrap();
    assert_eq!((bad_tag.frames, bad_tag.ledger.as_str()), (6, "frames"));
    let status = control.client.status(StatusRequest {}).await.unwrap().into_inner();
    assert_eq!(status.degraded, ["ordinary pages"]);
    assert_eq!((status.subscribers, status.identities, status.topics), (1, 3, 1));
    stats.counters.frames_admitted = 6;
    node.writers[0].publish_all(&stats);
    let ledgers = control.client.stats(StatsRequest {}).await.unwrap().into_inner().ledgers.unwrap();
    assert_eq!(ledgers.unaccounted, 1, "what does not add up is not hidden");
}

#[tokio::test]
async fn limits_of_an_identity_and_of_the_node_hold() {
    let folder = Folder::new();
    let (_node, mut control) = pair(&folder).await;
    for _ in 0..63 {
        opened(&mut control, open("desk")).await;
    }
    refused(control.client.open_session(open("desk")).await, Code::ResourceExhausted, "sessions_max");
    for _ in 0..16 {
        subscribed(&mut control, &["fills.a"]).await;
    }
    let over = control.client.subscribe(subscribe(&["fills.a"])).await;
    refused(over, Code::ResourceExhausted, "subscribers_max");
    let names: Vec<String> = (0..1023).map(|number| format!("orders.{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let over = control.client.resolve_topics(resolve("desk", &names)).await;
    refused(over, Code::ResourceExhausted, "topics_max");
    assert_eq!(ids(&mut control, &["orders.x"]).await, [2], "what was refused took no ids");
}

fn port(name: &str, state: PortState) -> PortStatus {
    PortStatus {
        name: name.into(),
        driver: "dpdk".into(),
        device: "0000:01:00.0".into(),
        state,
        why: if state == PortState::Ready { String::new() } else { "no carrier; plug it in".into() },
        mac: Some([2, 0, 0, 0, 0, 0x1f]),
        speed_mbps: Some(25_000),
        mtu: None,
        numa_node: Some(0),
        queues: 2,
        steering: "flow rules".into(),
        addresses: vec!["10.0.1.1/24".into()],
        counters: vec![("rx_good_packets".into(), 7)],
        counters_total: 300,
    }
}

#[tokio::test]
async fn ports_are_told_as_the_node_tells_them() {
    let folder = Folder::new();
    let mut control = Control::start(&folder.0).await;
    let alone = control.client.list_ports(ListPortsRequest {}).await;
    refused(alone, Code::Unavailable, "tachyond is not connected");
    let node = Node::start(&folder.0, 1);
    control.connected().await;
    node.told.lock().unwrap().ports = vec![port("east", PortState::Ready), port("west", PortState::LinkDown)];
    let answer = control.client.list_ports(ListPortsRequest {}).await.unwrap().into_inner();
    assert_eq!(answer.boot_id, "01".repeat(16));
    let [east, west] = answer.ports.as_slice() else { panic!("two ports: {answer:?}") };
    assert_eq!((east.name.as_str(), east.state.as_str(), east.why.as_str()), ("east", "ready", ""));
    assert_eq!((west.state.as_str(), west.why.as_str()), ("link_down", "no carrier; plug it in"));
    assert_eq!((east.mac.as_str(), east.speed_mbps, east.mtu), ("02:00:00:00:00:1f", Some(25_000), None));
    assert_eq!((east.numa_node, east.queues, east.steering.as_str()), (Some(0), 2, "flow rules"));
    assert_eq!((east.addresses.as_slice(), east.counters_total), (["10.0.1.1/24".to_owned()].as_slice(), 300));
    assert_eq!((east.counters[0].name.as_str(), east.counters[0].value), ("rx_good_packets", 7));
}

#[tokio::test]
async fn a_port_is_stopped_and_started_by_name() {
    let folder = Folder::new();
    let node = Node::start(&folder.0, 1);
    let mut control = Control::start(&folder.0).await;
    control.connected().await;
    node.told.lock().unwrap().ports = vec![port("east", PortState::Ready)];
    let set = |name: &str, running| SetPortRequest { name: name.into(), running };
    control.client.set_port(set("east", false)).await.unwrap();
    control.client.set_port(set("east", true)).await.unwrap();
    refused(control.client.set_port(set("west", false)).await, Code::FailedPrecondition, "there is no such port");
    for wrong in ["", "seventeen-letters"] {
        refused(control.client.set_port(set(wrong, false)).await, Code::InvalidArgument, "tachyon ports");
    }
    assert_eq!(node.told.lock().unwrap().log, ["StopPort(east)", "StartPort(east)", "StopPort(west)"]);
}

#[tokio::test]
async fn only_one_control_runs_on_a_registry() {
    let folder = Folder::new();
    let _control = Control::start(&folder.0).await;
    let config = tachyon_config::ControlFile {
        run_dir: folder.0.clone(),
        state_dir: folder.0.join("state"),
        ..tachyon_config::ControlFile::default()
    };
    let error = tachyon_control::serve(config, std::future::pending()).await.unwrap_err();
    assert!(format!("{error:#}").contains("another tachyon-control"), "{error:#}");
}

#[tokio::test]
async fn health_and_reflection_are_served() {
    let folder = Folder::new();
    let control = Control::start(&folder.0).await;
    let channel = tachyon_proto::channel(&control.socket).await.unwrap();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let request = tonic_health::pb::HealthCheckRequest { service: "tachyon.v1.Control".into() };
    let status = health.check(request).await.unwrap().into_inner().status();
    assert_eq!(status, tonic_health::pb::health_check_response::ServingStatus::Serving);
    let mut reflection = tonic_reflection::pb::v1::server_reflection_client::ServerReflectionClient::new(channel);
    let request = tonic_reflection::pb::v1::ServerReflectionRequest {
        host: String::new(),
        message_request: Some(MessageRequest::ListServices(String::new())),
    };
    let mut answers = reflection.server_reflection_info(tokio_stream::iter([request])).await.unwrap().into_inner();
    let Some(MessageResponse::ListServicesResponse(list)) = answers.message().await.unwrap().unwrap().message_response
    else {
        panic!("no list")
    };
    assert!(list.service.iter().any(|service| service.name == "tachyon.v1.Control"), "{list:?}");
}
