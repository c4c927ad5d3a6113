//! Pre-filters: told, set, and given what they deny, whatever was started again in between.

use crate::{
    RULES, refused,
    support::{Control, Folder, Node, eventually},
};
use std::fs;
use tachyon_proto::v1::{
    ChangeDeniedRequest, ChangeDeniedResponse, DropsRequest, ListDeniedRequest, ListDeniedResponse, ListFiltersRequest,
    SetFilterRequest, StatusRequest,
};
use tachyon_segment::handover::{FilterState, FilterStatus, Prefix};
use tachyon_wire::{Reason, reason::REASON_SLOTS};
use tonic::{Code, Status};

fn change(add: &[&str], remove: &[&str]) -> ChangeDeniedRequest {
    let all = |texts: &[&str]| texts.iter().map(|&text| text.into()).collect();
    ChangeDeniedRequest { add: all(add), remove: all(remove) }
}

async fn try_changed(control: &Control, add: &[&str], remove: &[&str]) -> Result<ChangeDeniedResponse, Status> {
    control.client.clone().change_denied(change(add, remove)).await.map(tonic::Response::into_inner)
}

async fn changed(control: &Control, add: &[&str], remove: &[&str]) -> ChangeDeniedResponse {
    try_changed(control, add, remove).await.unwrap()
}

async fn page(control: &Control, after: &str) -> ListDeniedResponse {
    control.client.clone().list_denied(ListDeniedRequest { after: after.into() }).await.unwrap().into_inner()
}

async fn degraded(control: &Control) -> String {
    control.client.clone().status(StatusRequest {}).await.unwrap().into_inner().degraded.join("; ")
}

async fn started(folder: &Folder) -> (Node, Control) {
    let node = Node::start(&folder.0, 1);
    let mut control = Control::start(&folder.0).await;
    control.connected().await;
    (node, control)
}

fn prefix(text: &str) -> Prefix {
    let (ip, bits) = text.split_once('/').unwrap();
    Prefix::new(ip.parse().unwrap(), bits.parse().unwrap()).unwrap()
}

fn has(node: &Node, texts: &[&str]) -> bool {
    node.told.lock().unwrap().denied == texts.iter().map(|text| prefix(text)).collect::<Vec<_>>()
}

/// Some of everything; a reason that this build does not know among them.
fn filter(interface: &str, state: FilterState) -> FilterStatus {
    let mut dropped = [0; REASON_SLOTS];
    dropped[Reason::FilterDenied.index()] = 20;
    dropped[63] = 1;
    FilterStatus {
        interface: interface.into(),
        state,
        why: if state == FilterState::Native { String::new() } else { "its driver has no native mode".into() },
        program_id: 77,
        version: 1,
        instructions: 12_345,
        code_bytes: 4_096,
        run_ns: 9_000,
        runs: 100,
        sessions: 3,
        prefixes: 2,
        topic_blocks: 5,
        seen: 1_000,
        passed_foreign: 900,
        passed_ours: 49,
        redirected: 30,
        dropped,
    }
}

#[tokio::test]
async fn filters_are_told_as_the_node_tells_them() {
    let folder = Folder::new();
    let mut control = Control::start(&folder.0).await;
    let alone = control.client.list_filters(ListFiltersRequest {}).await;
    refused(alone, Code::Unavailable, "tachyond is not connected");
    let node = Node::start(&folder.0, 1);
    control.connected().await;
    assert!(control.client.list_filters(ListFiltersRequest {}).await.unwrap().into_inner().filters.is_empty());
    assert!(control.client.drops(DropsRequest {}).await.unwrap().into_inner().filters.is_empty());
    node.told.lock().unwrap().filters = vec![filter("eth0", FilterState::Native), filter("eth1", FilterState::Generic)];
    let filters = control.client.list_filters(ListFiltersRequest {}).await.unwrap().into_inner().filters;
    let [eth0, eth1] = filters.as_slice() else { panic!("two filters: {filters:?}") };
    assert_eq!((eth0.interface.as_str(), eth0.state.as_str(), eth0.why.as_str()), ("eth0", "native", ""));
    assert_eq!((eth1.state.as_str(), eth1.why.as_str()), ("generic", "its driver has no native mode"));
    assert_eq!((eth0.program_id, eth0.version, eth0.instructions, eth0.code_bytes), (77, 1, 12_345, 4_096));
    assert_eq!((eth0.run_ns, eth0.runs, eth0.sessions, eth0.prefixes, eth0.topic_blocks), (9_000, 100, 3, 2, 5));
    let drops = control.client.drops(DropsRequest {}).await.unwrap().into_inner();
    let ledger = &drops.filters[1];
    assert_eq!((ledger.interface.as_str(), ledger.seen, ledger.unaccounted), ("eth1", 1_000, 0));
    assert_eq!((ledger.passed_foreign, ledger.passed_ours, ledger.redirected), (900, 49, 30));
    let told: Vec<_> = ledger.dropped.iter().map(|drop| (drop.number, drop.code.as_str(), drop.frames)).collect();
    assert_eq!(told, [(54, "E_FILTER_DENIED", 20), (63, "E_UNKNOWN_63", 1)]);
    assert_eq!(ledger.dropped[0].help, Reason::FilterDenied.help());
    assert_eq!(eth0.ledger.as_ref().unwrap().dropped, ledger.dropped);
    node.told.lock().unwrap().filters[0].seen = 990;
    let drops = control.client.drops(DropsRequest {}).await.unwrap().into_inner();
    assert_eq!(drops.filters[0].unaccounted, 10, "what does not add up is not hidden");
}

#[tokio::test]
async fn a_filter_is_attached_and_detached_by_interface() {
    let folder = Folder::new();
    let (node, mut control) = started(&folder).await;
    node.told.lock().unwrap().filters = vec![filter("eth0", FilterState::Detached)];
    let set = |interface: &str, attached| SetFilterRequest { interface: interface.into(), attached };
    control.client.set_filter(set("eth0", true)).await.unwrap();
    control.client.set_filter(set("eth0", false)).await.unwrap();
    refused(control.client.set_filter(set("eth9", true)).await, Code::FailedPrecondition, "no such interface");
    for wrong in ["", "sixteen-letters-"] {
        refused(control.client.set_filter(set(wrong, true)).await, Code::InvalidArgument, "tachyon prefilter status");
    }
    assert_eq!(node.told.lock().unwrap().log, ["AttachFilter(eth0)", "DetachFilter(eth0)", "AttachFilter(eth9)"]);
}

#[tokio::test]
async fn a_change_is_at_the_node_before_it_is_answered() {
    let folder = Folder::new();
    let (node, control) = started(&folder).await;
    let answer = changed(&control, &["10.1.2.3/8", "2001:db8::/32", "10.1.0.0/16", "192.0.2.7"], &[]).await;
    assert!(has(&node, &["10.0.0.0/8", "10.1.0.0/16", "192.0.2.7/32", "2001:db8::/32"]));
    assert_eq!((answer.added, answer.total, answer.in_force), (4, 4, true));
    let answer = changed(&control, &["10.0.0.0/8", "::1"], &["10.1.0.0/16", "10.2.0.0/16"]).await;
    assert_eq!((answer.added, answer.removed, answer.total), (1, 1, 4));
    assert_eq!((answer.already, answer.missing), (vec!["10.0.0.0/8".to_owned()], vec!["10.2.0.0/16".to_owned()]));
    assert!(has(&node, &["::1/128", "10.0.0.0/8", "192.0.2.7/32", "2001:db8::/32"]));
    let lists = node.told.lock().unwrap().denied_lists;
    let answer = changed(&control, &["10.0.0.0/8"], &[]).await;
    assert!(answer.in_force && node.told.lock().unwrap().denied_lists == lists, "nothing changed, nothing is sent");
    let rest = ["::1", "10.0.0.0/8", "192.0.2.7", "2001:db8::/32"];
    assert!(changed(&control, &[], &rest).await.in_force);
    assert!(has(&node, &[]), "an empty list gets through too");
}

#[tokio::test]
async fn what_makes_no_sense_changes_nothing() {
    let folder = Folder::new();
    let (node, control) = started(&folder).await;
    let before = changed(&control, &["10.0.0.0/8"], &[]).await.total;
    refused(try_changed(&control, &["10.0.0.1", "10.0.0.0/33"], &[]).await, Code::InvalidArgument, "`10.0.0.0/33`");
    refused(try_changed(&control, &[], &["nowhere"]).await, Code::InvalidArgument, "write an address");
    refused(try_changed(&control, &["::1"], &["::1/128"]).await, Code::InvalidArgument, "added and removed at once");
    refused(try_changed(&control, &["::1"; 262_145], &[]).await, Code::InvalidArgument, "several calls");
    let list = control.client.clone().list_denied(ListDeniedRequest { after: "x".into() }).await;
    refused(list, Code::InvalidArgument, "`x`");
    assert_eq!(page(&control, "").await.total, before);
    assert!(has(&node, &["10.0.0.0/8"]));
}

#[tokio::test]
async fn the_list_outlives_control_and_goes_to_every_start_of_the_node() {
    let folder = Folder::new();
    let control = Control::start(&folder.0).await;
    let answer = changed(&control, &["10.0.0.0/8", "::/64"], &[]).await;
    assert!(!answer.in_force && answer.added == 2, "stored: there is no node");
    assert!(page(&control, "").await.problem.contains("tachyond is not connected"));
    control.stop().await;
    let mut control = Control::start(&folder.0).await;
    let node = Node::start(&folder.0, 1);
    control.connected().await;
    assert!(has(&node, &["::/64", "10.0.0.0/8"]), "it has the list once it counts as connected");
    let list = page(&control, "").await;
    assert!(list.in_force && !list.more);
    let hello = node.hello.clone();
    drop(node);
    let node = Node::start_as(&folder.0, hello); // the same start: only the connection was gone
    eventually(async || has(&node, &["::/64", "10.0.0.0/8"])).await;
    drop(node);
    let node = Node::start(&folder.0, 2);
    eventually(async || has(&node, &["::/64", "10.0.0.0/8"])).await;
}

#[tokio::test]
async fn rules_deny_beside_the_list() {
    let folder = Folder::new();
    let (node, mut control) = started(&folder).await;
    changed(&control, &["10.0.0.0/8", "192.0.2.0/24"], &[]).await;
    let rules = format!("{RULES}\n[prefilter]\ndeny = [\"10.0.0.0/8\", \"2001:db8::/32\"]\n");
    let applied = control.apply(&rules).await;
    assert!(applied.in_force && applied.warnings.is_empty(), "{applied:?}");
    assert!(has(&node, &["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]));
    let whose: Vec<_> =
        page(&control, "").await.denied.into_iter().map(|one| (one.prefix, one.by_operator, one.by_rules)).collect();
    let expected = [("10.0.0.0/8", true, true), ("192.0.2.0/24", true, false), ("2001:db8::/32", false, true)];
    assert_eq!(whose, expected.map(|(prefix, operator, rules)| (prefix.to_owned(), operator, rules)));
    let answer = changed(&control, &[], &["10.0.0.0/8", "192.0.2.0/24", "2001:db8::/32"]).await;
    assert_eq!((answer.removed, answer.missing, answer.total), (2, vec!["2001:db8::/32".to_owned()], 2));
    assert_eq!(answer.still_denied, ["10.0.0.0/8", "2001:db8::/32"]);
    assert!(has(&node, &["10.0.0.0/8", "2001:db8::/32"]));
    control.stop().await;
    let mut control = Control::start(&folder.0).await;
    control.connected().await;
    assert!(has(&node, &["10.0.0.0/8", "2001:db8::/32"]), "stored with the rules");
    assert!(control.apply(RULES).await.in_force);
    assert!(has(&node, &[]));
    let wrong = control.apply(&rules.replace("/32", "/132")).await;
    assert!(!wrong.accepted && wrong.problems[0].rendered.contains("^^^"), "{wrong:?}");
}

#[tokio::test]
async fn a_node_that_refuses_the_list_is_no_obstacle_to_anything_else() {
    let folder = Folder::new();
    let node = Node::start(&folder.0, 1);
    node.told.lock().unwrap().refuse_denied = Some("this node has no pre-filter".into());
    let mut control = Control::start(&folder.0).await;
    control.connected().await;
    assert_eq!(degraded(&control).await, "ordinary pages", "it misses nothing");
    let refusal = try_changed(&control, &["10.0.0.0/8"], &[]).await;
    refused(refusal, Code::FailedPrecondition, "no pre-filter; the list is stored");
    assert!(degraded(&control).await.contains("denied prefixes are not in force: tachyond refused"));
    let applied = control.apply(&format!("{RULES}\n[prefilter]\ndeny = [\"::/8\"]\n")).await;
    assert!(applied.in_force && applied.warnings[0].message.contains("not in force yet"), "{applied:?}");
    node.told.lock().unwrap().refuse_denied = None;
    let answer = changed(&control, &["10.0.0.0/8"], &[]).await;
    assert!(answer.in_force && answer.added == 0 && has(&node, &["::/8", "10.0.0.0/8"]), "offered again");
    assert_eq!(degraded(&control).await, "ordinary pages");
}

#[tokio::test]
async fn a_damaged_list_is_refused_and_the_node_keeps_what_it_has() {
    let folder = Folder::new();
    let (node, control) = started(&folder).await;
    changed(&control, &["10.0.0.0/8"], &[]).await;
    let lists = node.told.lock().unwrap().denied_lists;
    control.stop().await;
    let path = folder.0.join("state/denied.list");
    let mut bytes = fs::read(&path).unwrap();
    bytes[10] ^= 1;
    fs::write(&path, bytes).unwrap();
    let mut control = Control::start(&folder.0).await;
    control.connected().await;
    assert!(control.apply(RULES).await.in_force, "everything else works");
    let told = degraded(&control).await;
    assert!(told.contains("denied.list") && told.contains("damaged") && told.contains("remove it"), "{told}");
    refused(try_changed(&control, &["::1"], &[]).await, Code::FailedPrecondition, "damaged");
    let list = control.client.clone().list_denied(ListDeniedRequest::default()).await;
    refused(list, Code::FailedPrecondition, "damaged");
    assert!(has(&node, &["10.0.0.0/8"]) && node.told.lock().unwrap().denied_lists == lists);
    control.stop().await;
    fs::remove_file(path).unwrap();
    let mut control = Control::start(&folder.0).await;
    control.connected().await;
    assert!(has(&node, &[]));
}

#[tokio::test]
async fn a_million_prefixes_are_stored_sent_and_listed() {
    let folder = Folder::new();
    let (node, mut control) = started(&folder).await;
    let text = |number: u32| format!("2001:db8:{:x}:{:x}::/64", number >> 16, number & 0xffff);
    let mut numbers = (0..1_000_000).map(text);
    let mut calls = 0;
    loop {
        let add: Vec<String> = numbers.by_ref().take(262_144).collect();
        if add.is_empty() {
            break;
        }
        let answer = control.client.change_denied(ChangeDeniedRequest { add, remove: Vec::new() }).await;
        assert!(answer.unwrap().into_inner().in_force);
        calls += 1;
    }
    assert_eq!((calls, node.told.lock().unwrap().denied.len()), (4, 1_000_000));
    control.stop().await;
    let mut control = Control::start(&folder.0).await;
    control.connected().await;
    assert_eq!(node.told.lock().unwrap().denied.len(), 1_000_000);
    let (mut listed, mut after) = (0, String::new());
    loop {
        let list = page(&control, &after).await;
        assert_eq!(list.total, 1_000_000);
        listed += list.denied.len();
        after = list.denied.last().unwrap().prefix.clone();
        if !list.more {
            break;
        }
    }
    assert_eq!((listed, after), (1_000_000, text(999_999)));
}
