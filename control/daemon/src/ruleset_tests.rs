use super::*;
use crate::record::Owner;
use tachyon_policy::{compile::compile, verify};

const RULES: &str = r#"
[[topic]]
match = "orders.*"
rate = "1000/s"
burst = 10

[[topic]]
match = "orders.eu.*"
tag = false

[[topic]]
match = "orders.eu.gold"
quarantine = true

[[topic]]
match = "fills.*"

[[identity]]
name = "desk"
publish = ["orders.*"]
senders = "10-12"
sender_rate = "5/s"

[[identity]]
name = "eu"
publish = ["orders.eu.*", "orders.*", "fills.*"]
subscribe = ["orders.eu.*", "fills.*"]
senders = "20-20"

[[identity]]
name = "reader"
subscribe = ["*"]
"#;

fn in_force() -> (InForce, u32) {
    let (rules, _) = Rules::parse("rules.toml", RULES).unwrap();
    let principals: Principals = rules.identities.iter().map(|identity| identity.name.clone()).zip(0..).collect();
    let text = RulesText { text: RULES.into(), file_name: "rules.toml".into(), applied_unix_s: 0 };
    (InForce::new(text, rules, &principals), 3)
}

fn subscriber(slot: u32, identity: &str, topics: &[&str]) -> Subscriber {
    Subscriber {
        slot,
        owner: Owner { identity: identity.into(), principal: 0, uid: 0, process: None },
        topics: topics.iter().map(|&topic| topic.into()).collect(),
        address: "127.0.0.1".parse().unwrap(),
        base_port: 1,
        credit: 1,
        tagged: false,
        frame_bytes_max: 1472,
        egress: Vec::new(),
        lanes: crate::record::Lanes::default(),
        ending: false,
    }
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.into()).collect()
}

fn plan(topics: &[&str], subscribers: &[Subscriber]) -> Result<Plan, String> {
    let (in_force, principals) = in_force();
    Plan::new(&in_force, &names(topics), subscribers.iter(), principals, 16)
}

/// Publishers and subscribers of a topic.
fn sets_of(plan: &Plan, topic_id: u32) -> (Vec<u32>, Vec<u32>) {
    let topic = plan.source.topics.iter().find(|topic| topic.topic_id == topic_id).unwrap();
    let set = |id: SetId| plan.source.sets[id as usize].clone();
    (set(topic.publishers), set(topic.subscribers))
}

#[test]
fn a_topic_follows_the_most_specific_entry_alone() {
    let plan = plan(&["orders.us", "orders.eu.x", "orders.eu.gold", "orders.eu.gold2", "other"], &[]).unwrap();
    let flags: Vec<_> =
        plan.source.topics.iter().map(|t| (t.topic_id, t.quota.burst, t.tag_required, t.quarantine)).collect();
    let unlimited = Quota::UNLIMITED.burst;
    let expected =
        [(1, 10, true, false), (2, unlimited, false, false), (3, unlimited, true, true), (4, unlimited, false, false)];
    assert_eq!(flags, expected, "nothing is inherited from a wider entry");
    assert_eq!(plan.unmatched, 1, "`other` is in no entry, so it is not in the ruleset");
}

#[test]
fn overlapping_publish_patterns_give_each_identity_once() {
    let plan = plan(&["orders.us", "orders.eu.x", "fills.a"], &[]).unwrap();
    assert_eq!(sets_of(&plan, 1).0, [0, 1]);
    assert_eq!(sets_of(&plan, 2).0, [0, 1]);
    assert_eq!(sets_of(&plan, 3).0, [1]);
}

#[test]
fn a_subscription_reaches_as_far_as_its_identity_and_no_further() {
    let subscribers = [
        subscriber(5, "eu", &["*", "orders.*", "orders.eu.x"]),
        subscriber(2, "reader", &["orders.*"]),
        subscriber(9, "desk", &["*"]),
        subscriber(7, "gone", &["*"]),
    ];
    let plan = plan(&["orders.us", "orders.eu.x", "fills.a"], &subscribers).unwrap();
    assert_eq!(sets_of(&plan, 1).1, [2]);
    assert_eq!(sets_of(&plan, 2).1, [2, 5]);
    assert_eq!(sets_of(&plan, 3).1, [5]);
}

#[test]
fn every_sender_of_every_identity_has_its_quota() {
    let plan = plan(&["orders.us"], &[]).unwrap();
    let mut ids: Vec<u32> = plan.source.senders.iter().map(|sender| sender.sender_id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [10, 11, 12, 20]);
    assert_eq!(plan.source.senders[0].quota, Quota::new(5, 1_000_000_000, 1).unwrap());
}

#[test]
fn a_plan_compiles_to_an_image_that_says_the_same() {
    let mut plan = plan(&["orders.us", "orders.eu.x"], &[subscriber(3, "reader", &["orders.us"])]).unwrap();
    plan.source.version = 7;
    let verified = verify(compile(&plan.source).unwrap(), 16).unwrap();
    let ruleset = verified.ruleset();
    let (us, eu) = (ruleset.topic(1).unwrap(), ruleset.topic(2).unwrap());
    let (route, targets) = ruleset.route(us.route.get()).unwrap();
    assert_eq!((route.route_id.get(), targets[0].get(), targets.len()), (1, 3, 1));
    assert!(ruleset.route(eu.route.get()).is_none());
    let may =
        |principal: u32, group: u16| ruleset.rights_row(principal)[usize::from(group / 64)].get() >> (group % 64) & 1;
    assert_eq!((may(0, us.group.get()), may(1, us.group.get()), may(2, us.group.get())), (1, 1, 0));
}

#[test]
fn too_many_subscribers_of_one_topic_are_refused_with_its_name() {
    let many: Vec<Subscriber> =
        (0..=u32::from(FAN_OUT_MAX)).map(|slot| subscriber(slot, "reader", &["fills.*"])).collect();
    assert!(plan(&["orders.us"], &many).is_ok());
    let said = plan(&["orders.us", "fills.a"], &many).unwrap_err();
    assert!(said.contains("`fills.a`") && said.contains("at most 64"), "{said}");
}

#[test]
fn a_plan_is_held_against_the_node_it_is_for() {
    let plan =
        plan(&["orders.us", "fills.a"], &[subscriber(1, "reader", &["*"]), subscriber(2, "reader", &["*"])]).unwrap();
    let fits = Limits { topics: 3, senders: 21, targets: 2 };
    assert_eq!(plan.check(fits), Ok(()));
    assert!(plan.check(Limits { topics: 2, ..fits }).unwrap_err().contains("topics_max"));
    assert!(plan.check(Limits { senders: 20, ..fits }).unwrap_err().contains("senders_max"));
    assert!(plan.check(Limits { targets: 1, ..fits }).unwrap_err().contains("targets_max"));
}
