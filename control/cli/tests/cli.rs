//! The built program against a control process that only answers: what it prints, and the codes it ends with.

mod fake;

use fake::{BOOT_ID, Fake, RULES_IN_FORCE, Scene, WRONG};
use serde_json::Value;
use std::process::{Command, Output};
use tachyon_config::RULES_MANUAL;
use tachyon_wire::reason::Reason;

const OK: i32 = 0;
const REFUSED: i32 = 1;
const USAGE: i32 = 2;
const UNREACHABLE: i32 = 3;

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("standard output is text")
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).expect("standard error is text")
}

/// The output of a command that must end with `code`.
fn ended(output: Output, code: i32) -> Output {
    assert_eq!(output.status.code(), Some(code), "stdout: {}\nstderr: {}", stdout(&output), stderr(&output));
    output
}

/// One JSON document on one line, and nothing else on standard output.
fn json(output: &Output) -> Value {
    let text = stdout(output);
    assert_eq!(text.matches('\n').count(), 1, "one line: {text}");
    serde_json::from_str(&text).expect("standard output is JSON")
}

/// Runs the program where no control process is.
fn without_control(arguments: &[&str]) -> Output {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let command = Command::new(env!("CARGO_BIN_EXE_tachyon"))
        .args(arguments)
        .arg("--socket")
        .arg(folder.path().join("nobody.sock"))
        .output();
    command.expect("the program can be run")
}

#[test]
fn status_tells_everything_that_a_script_needs() {
    let status = json(&ended(Fake::start(Scene::Running).tachyon(&["status", "--json"]), OK));
    assert_eq!(status["driver"], "io_uring");
    assert_eq!(status["drivers"], serde_json::json!(["io_uring"]));
    assert_eq!(status["degraded"], serde_json::json!(["no huge pages: ordinary pages are used"]));
    assert_eq!(status["ruleset_version"], 7);
    assert_eq!(status["ruleset_in_force"], 7);
    assert_eq!(status["boot_id"], BOOT_ID);
    assert_eq!(status["shard_count"], 16);
    assert_eq!(status["base_port"], 24_640);
    assert_eq!(status["data_plane"]["connected"], true);
    assert_eq!(status["workers"][0]["state"], "running");
    assert_eq!(
        (&status["ports"][0]["name"], &status["ports"][1]["state"]),
        (&Value::from("east"), &Value::from("waiting"))
    );
    assert_eq!(status["workers"][0]["residence_ns"]["p99"], 2_047);
    assert_eq!(status["workers"][0]["ledgers"]["messages"]["accepted"], 1_900);
    assert_eq!(status["ledgers"]["frames"]["seen"], 100);
    assert_eq!(status["ledgers"]["frames"]["reasons"]["E_AUTH_BAD_TAG"], 10);
    assert_eq!(status["ledgers"]["messages"]["reasons"]["E_GOV_THROTTLED"], 80);
    assert_eq!(status["ledgers"]["copies"]["held"], 5);
    assert_eq!(status["ledgers"]["unaccounted"], 0);
}

#[test]
fn status_for_a_person_adds_up_on_its_face() {
    let text = stdout(&ended(Fake::start(Scene::Running).tachyon(&["status"]), OK));
    for part in [
        "connected: driver io_uring, 1 worker",
        "ports 24640 to 24655",
        "ports         east, dpdk pci 0000:01:00.0, ready\n",
        "              west, dpdk memif 0 at /run/x.sock, waiting: nobody has connected",
        "version 7 in force",
        "1,980 seen = 1,900 accepted + 80 refused",
        "3,800 due = 3,695 given + 100 refused + 5 held",
        "no huge pages",
    ] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains('\x1b'), "no colours where nobody sees them");
}

#[test]
fn status_says_that_the_data_plane_is_not_connected() {
    let fake = Fake::start(Scene::Alone);
    let status = json(&ended(fake.tachyon(&["status", "--json"]), OK));
    assert_eq!(status["data_plane"]["connected"], false);
    assert_eq!(status["driver"], Value::Null);
    assert_eq!(status["ledgers"], Value::Null);
    assert_eq!(status["workers"], serde_json::json!([]));
    assert_eq!(status["ports"], serde_json::json!([]));
    let text = stdout(&ended(fake.tachyon(&["status"]), OK));
    assert!(text.contains("not connected: no tachyond"), "{text}");
}

#[test]
fn counters_without_a_data_plane_are_unreachable() {
    let fake = Fake::start(Scene::Alone);
    for command in [
        &["drops"][..],
        &["routes"],
        &["lanes"],
        &["ports"],
        &["ports", "stop", "east"],
        &["top", "--once"],
        &["prefilter", "status"],
        &["prefilter", "attach", "eth0"],
    ] {
        let output = ended(fake.tachyon(command), UNREACHABLE);
        assert!(stderr(&output).contains("tachyond is not connected; start it"), "{}", stderr(&output));
        assert!(stdout(&output).is_empty());
    }
}

#[test]
fn drops_show_what_happened_and_with_all_every_reason() {
    let fake = Fake::start(Scene::Running);
    let drops = json(&ended(fake.tachyon(&["drops", "--json"]), OK));
    let codes: Vec<&str> =
        drops["drops"].as_array().expect("a list").iter().filter_map(|drop| drop["code"].as_str()).collect();
    assert_eq!(codes, ["E_AUTH_BAD_TAG", "E_INTERNAL_PANIC"]);
    assert_eq!(drops["drops"][0]["count"], 12_345);
    assert_eq!(drops["drops"][0]["ledger"], "frames");
    assert_eq!(drops["drops"][1]["count"], 66);

    let all = json(&ended(fake.tachyon(&["drops", "--all", "--json"]), OK));
    let all = all["drops"].as_array().expect("a list");
    assert_eq!(all.len(), Reason::ALL.len());
    for (drop, reason) in all.iter().zip(Reason::ALL) {
        assert_eq!((drop["code"].as_str(), drop["help"].as_str()), (Some(reason.code()), Some(reason.help())));
    }
}

#[test]
fn drops_for_a_person_say_what_to_do_per_ledger() {
    let text = stdout(&ended(Fake::start(Scene::Running).tachyon(&["drops"]), OK));
    for line in
        ["12,345  frames    E_AUTH_BAD_TAG", "    22  messages  E_INTERNAL_PANIC", "    44  copies    E_INTERNAL_PANIC"]
    {
        assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
    }
    let words: Vec<&str> = text.split_whitespace().collect();
    assert!(words.join(" ").contains(Reason::BadTag.help()), "{text}");
}

#[test]
fn top_once_shows_the_rates_of_one_interval() {
    let fake = Fake::start(Scene::Running);
    let top = json(&ended(fake.tachyon(&["top", "--once", "--interval", "0.1", "--json"]), OK));
    // The fake counts half a second between two readings, so rates are twice its counts.
    assert_eq!(top["per_second"]["messages_seen"], 3_960);
    assert_eq!(top["per_second"]["messages_accepted"], 3_800);
    assert_eq!(top["per_second"]["reasons"]["messages"]["E_GOV_THROTTLED"], 160);
    assert_eq!(top["routes"][0]["given_per_second"], 7_400);
    assert_eq!(top["workers"][0]["messages_accepted_per_second"], 3_800);
    assert_eq!(top["residence_ns"]["count"], 1_900);
    assert!((top["syscalls_per_message"].as_f64().expect("a number") - 10.0 / 1_980.0).abs() < 1e-9);

    let text = stdout(&ended(fake.tachyon(&["top", "--once", "--interval", "0.1"]), OK));
    for part in ["messages seen, accepted  3,960  3,800", "E_GOV_THROTTLED", "orders.eu and 1 more", "unaccounted 0"] {
        assert!(text.contains(part), "{part} in\n{text}");
    }
    assert!(!text.contains('\x1b'), "nothing to redraw where nobody looks");
}

#[test]
fn routes_name_their_subscribers_and_topics() {
    let fake = Fake::start(Scene::Running);
    let routes = json(&ended(fake.tachyon(&["routes", "--json"]), OK));
    assert_eq!(routes["routes"][0]["route_id"], 3);
    assert_eq!(routes["routes"][0]["endpoints"][1], "127.0.0.1:9100");
    let text = stdout(&ended(fake.tachyon(&["routes"]), OK));
    let subscribers = "127.0.0.1:9000 udp, 127.0.0.1:9100 udp (fell back)";
    assert!(text.contains("orders.eu and 1 more") && text.contains(subscribers), "{text}");
    assert_eq!(routes["routes"][0]["lanes"], serde_json::json!(["udp", "udp (fell back)"]));
}

#[test]
fn lanes_tell_whose_each_is_and_why_one_is_not_connected() {
    let fake = Fake::start(Scene::Running);
    let lanes = json(&ended(fake.tachyon(&["lanes", "--json"]), OK));
    let expected = serde_json::json!({
        "worker": 1,
        "session_id": null,
        "subscriber": 1,
        "endpoint": "10.0.0.8:9100",
        "lane": "rdma_ring",
        "state": "failed",
        "why": "the peer does not acknowledge: look at the link and at the peer",
        "attempts": 10,
        "fell_back": true,
    });
    assert_eq!(lanes["lanes"][1], expected);
    assert_eq!((&lanes["lanes"][0]["session_id"], &lanes["lanes"][2]["session_id"]), (&65_537.into(), &Value::Null));
    let expected = "\
WORKER  WHOSE          ENDPOINT       LANE             STATE                      ATTEMPTS
     0  session 65537  10.0.0.7:4711  rdma_connection  connected                         0
     1  subscriber 1   10.0.0.8:9100  rdma_ring        failed (fell back to udp)        10
     1  nobody known   10.0.0.7:4711  rdma_datagram    connected                         0

worker 1, 10.0.0.8:9100: the peer does not acknowledge: look at the link and at the peer
";
    assert_eq!(stdout(&ended(fake.tachyon(&["lanes"]), OK)), expected);
    let denied = ended(Fake::start(Scene::Denying).tachyon(&["lanes"]), REFUSED);
    assert!(stderr(&denied).contains("only administrators may"), "{}", stderr(&denied));
}

#[test]
fn ports_tell_what_each_stands_on_and_why_one_is_not_ready() {
    let fake = Fake::start(Scene::Running);
    let ports = json(&ended(fake.tachyon(&["ports", "--json"]), OK));
    assert_eq!(ports["boot_id"], BOOT_ID);
    assert_eq!(ports["ports"][0]["speed_mbps"], 100_000);
    assert_eq!(ports["ports"][0]["counters"]["rx_good_packets"], 1_234_567);
    assert_eq!((&ports["ports"][1]["mac"], &ports["ports"][1]["mtu"]), (&Value::Null, &Value::Null));
    assert_eq!(ports["ports"][1]["counters_total"], 300);
    let text = stdout(&ended(fake.tachyon(&["ports"]), OK));
    for line in [
        "PORT  STATE    DRIVER  DEVICE                  MAC                MBIT/S   MTU  NODE  QUEUES  STEERING    ADDRESSES",
        "east  ready    dpdk    pci 0000:01:00.0        02:00:00:00:00:01  100000  9000     0       4  flow rules  10.0.1.1/24 fd00::1/64",
        "west  waiting  dpdk    memif 0 at /run/x.sock  -                       -     -     -       4  none        10.0.2.1/24",
        "west: nobody has connected to /run/x.sock; start the other side",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
    }
    assert!(!text.contains("rx_good_packets"), "counters are for -v: {text}");
    let text = stdout(&ended(fake.tachyon(&["ports", "-v"]), OK));
    for line in [
        "  1,234,567  rx_good_packets",
        "          3  rx_missed_errors",
        "  9  tx_dropped",
        "  and 299 more, which one answer has no room for",
    ] {
        assert!(text.lines().any(|shown| shown == line), "{line} in\n{text}");
    }
}

#[test]
fn ports_are_stopped_and_started_by_name() {
    let fake = Fake::start(Scene::Running);
    assert_eq!(stdout(&ended(fake.tachyon(&["ports", "stop", "east"]), OK)), "east: stopped\n");
    assert_eq!(stdout(&ended(fake.tachyon(&["ports", "start", "west"]), OK)), "west: started\n");
    let stopped = json(&ended(fake.tachyon(&["ports", "stop", "east", "--json"]), OK));
    assert_eq!(stopped, serde_json::json!({ "name": "east", "running": false }));
    let output = ended(fake.tachyon(&["ports", "stop", "north"]), REFUSED);
    assert!(stderr(&output).contains("there is no port `north`") && stdout(&output).is_empty(), "{}", stderr(&output));
    ended(fake.tachyon(&["ports", "stop"]), USAGE);
    ended(fake.tachyon(&["ports", "-v", "stop", "east"]), USAGE);
    let denied = ended(Fake::start(Scene::Denying).tachyon(&["ports", "stop", "east"]), REFUSED);
    assert!(stderr(&denied).contains("only administrators may"), "{}", stderr(&denied));
}

#[test]
fn prefilter_status_tells_mode_cost_and_ledger() {
    let fake = Fake::start(Scene::Running);
    let filters = json(&ended(fake.tachyon(&["prefilter", "status", "--json"]), OK));
    let (eth0, eth1) = (&filters["filters"][0], &filters["filters"][1]);
    assert_eq!((&eth0["mode"], &eth0["program_id"], &eth0["prefixes"]), (&"native".into(), &77.into(), &1_000.into()));
    assert!((eth0["ns_per_packet"].as_f64().expect("measured") - 61.728).abs() < 1e-9);
    assert_eq!((&eth1["mode"], &eth1["ns_per_packet"]), (&"generic".into(), &Value::Null));
    assert_eq!(eth0["ledger"]["dropped"][1]["code"], "E_FILTER_DENIED");
    assert_eq!(eth1["ledger"]["unaccounted"], 2);
    let expected = "\
INTERFACE  MODE     PROGRAM  INSTRUCTIONS  NS/PACKET  SESSIONS  PREFIXES  TOPIC BLOCKS
eth0       native        77         12345       61.7         3     1,000             5
eth1       generic       78         12345          -         0         0             0

eth1: its driver has no native XDP; use one that has

Pre-filter of eth0: 10,000 seen = 100 foreign + 8,000 passed + 0 redirected + 1,900 dropped
    400  E_AUTH_NO_SESSION
         No such session, or not from its pinned address; open one with
         OpenSession.
  1,500  E_FILTER_DENIED
         The source lies in a denied prefix and is no session's pinned address;
         take the prefix off the deny list or pin the session.

Pre-filter of eth1: 7 seen = 5 foreign + 0 passed + 0 redirected + 0 dropped
  2 packets came while the counters were read
";
    assert_eq!(stdout(&ended(fake.tachyon(&["prefilter", "status"]), OK)), expected);
}

#[test]
fn prefilters_are_attached_and_detached_by_interface() {
    let fake = Fake::start(Scene::Running);
    assert_eq!(stdout(&ended(fake.tachyon(&["prefilter", "attach", "eth0"]), OK)), "eth0: attached\n");
    assert_eq!(stdout(&ended(fake.tachyon(&["prefilter", "detach", "eth1"]), OK)), "eth1: detached\n");
    let detached = json(&ended(fake.tachyon(&["prefilter", "detach", "eth0", "--json"]), OK));
    assert_eq!(detached, serde_json::json!({ "interface": "eth0", "attached": false }));
    let output = ended(fake.tachyon(&["prefilter", "attach", "eth9"]), REFUSED);
    assert!(stderr(&output).contains("there is no interface `eth9`"), "{}", stderr(&output));
    let denied = ended(Fake::start(Scene::Denying).tachyon(&["prefilter", "attach", "eth0"]), REFUSED);
    assert!(stderr(&denied).contains("only administrators may"), "{}", stderr(&denied));
}

#[test]
fn denied_prefixes_are_listed_as_they_can_be_read_again() {
    let fake = Fake::start(Scene::Running);
    let listed = stdout(&ended(fake.tachyon(&["prefilter", "deny", "list"]), OK));
    assert_eq!(listed, "10.0.0.0/8\n10.1.0.0/16  # by the rules too\n2001:db8::/32  # by the rules\n");
    let file = fake.file("again.txt", &listed);
    let added = json(&ended(fake.tachyon(&["prefilter", "deny", "add", "--from-file", &file, "--json"]), OK));
    assert_eq!((&added["added"], &added["already"]), (&2.into(), &serde_json::json!(["10.0.0.0/8"])));
    let listed = json(&ended(fake.tachyon(&["prefilter", "deny", "list", "--json"]), OK));
    assert_eq!((listed["denied"].as_array().map(Vec::len), &listed["in_force"]), (Some(3), &true.into()));
    assert_eq!(listed["denied"][2]["by_rules"], true);
    let alone = ended(Fake::start(Scene::Alone).tachyon(&["prefilter", "deny", "list"]), OK);
    assert!(stderr(&alone).contains("tachyond does not have this list"), "{}", stderr(&alone));
}

#[test]
fn prefixes_are_denied_and_denied_no_longer() {
    let fake = Fake::start(Scene::Running);
    let output = ended(fake.tachyon(&["prefilter", "deny", "add", "192.0.2.7", "10.2.3.4/8", "::/64"]), OK);
    assert_eq!(stdout(&output), "2 added, 3 denied, in force\n");
    assert_eq!(stderr(&output), "note: denied already: 10.0.0.0/8\n");
    let output = ended(fake.tachyon(&["prefilter", "deny", "del", "10.0.0.0/8", "::1"]), OK);
    assert_eq!(stdout(&output), "1 removed, 1 denied, in force\n");
    let told = stderr(&output);
    assert!(told.contains("not on the list: ::1/128") && told.contains("by the rules: change [prefilter]"), "{told}");
    let output = ended(Fake::start(Scene::Alone).tachyon(&["prefilter", "deny", "add", "::1"]), OK);
    assert!(stdout(&output).contains("stored") && stderr(&output).contains("when it comes back"));
    let denied = ended(Fake::start(Scene::Denying).tachyon(&["prefilter", "deny", "add", "::1"]), REFUSED);
    assert!(stderr(&denied).contains("only administrators may"), "{}", stderr(&denied));
}

#[test]
fn prefixes_of_a_file_are_read_line_by_line_and_go_in_several_calls_if_need_be() {
    let fake = Fake::start(Scene::Running);
    let file = fake.file("list.txt", "# bad neighbours\n\n 192.0.2.0/24 # all of it\n::1\n");
    let output = ended(fake.tachyon(&["prefilter", "deny", "add", "10.9.9.9", "--from-file", &file]), OK);
    assert_eq!(stdout(&output), "3 added, 4 denied, in force\n");
    let wrong = fake.file("wrong.txt", "::1\n10.0.0.0/40\n");
    let output = ended(fake.tachyon(&["prefilter", "deny", "del", "--from-file", &wrong]), USAGE);
    let told = stderr(&output);
    assert!(
        told.contains("wrong.txt:2") && told.contains("0 to 32") && told.contains("help: write an address"),
        "{told}"
    );
    let many: String = (0..300_000_u32).map(|number| format!("{}\n", std::net::Ipv4Addr::from_bits(number))).collect();
    let many = fake.file("many.txt", &many);
    let added = json(&ended(fake.tachyon(&["prefilter", "deny", "add", "--from-file", &many, "--json"]), OK));
    assert_eq!((&added["added"], &added["total"]), (&300_000.into(), &37_857.into()));
}

#[test]
fn drops_show_the_pre_filters_before_the_node() {
    let fake = Fake::start(Scene::Running);
    let text = stdout(&ended(fake.tachyon(&["drops"]), OK));
    let (filter, node) = (text.find("Pre-filter of eth0: 10,000 seen"), text.find("E_AUTH_BAD_TAG"));
    assert!(filter.is_some() && filter < node, "{text}");
    let drops = json(&ended(fake.tachyon(&["drops", "--json"]), OK));
    assert_eq!(drops["filters"][0]["dropped"][0]["code"], "E_AUTH_NO_SESSION");
    assert_eq!(drops["filters"][0]["dropped"][1]["help"], Reason::FilterDenied.help());
}

#[test]
fn rules_check_asks_control() {
    let fake = Fake::start(Scene::Running);
    let good = fake.file("good.toml", "");
    let checked = json(&ended(fake.tachyon(&["rules", "check", &good, "--json"]), OK));
    assert_eq!((&checked["accepted"], &checked["checked_by"]), (&Value::Bool(true), &Value::from("control")));
    assert_eq!(checked["summary"]["topics_known"], 2);

    let wrong = fake.file("wrong.toml", WRONG);
    let checked = json(&ended(fake.tachyon(&["rules", "check", &wrong, "--json"]), REFUSED));
    assert_eq!(checked["accepted"], false);
    assert_eq!(checked["problems"][0]["help"], "make it right");
}

#[test]
fn rules_check_works_without_control() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).expect("the file can be written");
        path.to_str().expect("the path is text").to_owned()
    };
    let good = write("good.toml", RULES_MANUAL);
    let output = ended(without_control(&["rules", "check", &good, "--json"]), OK);
    let checked = json(&output);
    assert_eq!((&checked["accepted"], &checked["checked_by"]), (&Value::Bool(true), &Value::from("file")));
    assert!(stderr(&output).contains("only the file was checked"), "{}", stderr(&output));

    let wrong = write("wrong.toml", &RULES_MANUAL.replace("durability =", "durabilty ="));
    let output = ended(without_control(&["rules", "check", &wrong]), REFUSED);
    let told = stderr(&output);
    assert!(
        told.contains("unknown key `durabilty`") && told.contains("^^^") && told.contains("did you mean"),
        "{told}"
    );
    assert!(stdout(&output).is_empty());
}

#[test]
fn rules_apply_says_whether_they_are_in_force() {
    let (running, alone) = (Fake::start(Scene::Running), Fake::start(Scene::Alone));
    let good = running.file("good.toml", "");
    let applied = json(&ended(running.tachyon(&["rules", "apply", &good, "--json"]), OK));
    assert_eq!((&applied["accepted"], &applied["in_force"]), (&Value::Bool(true), &Value::Bool(true)));
    assert_eq!(applied["version"], 8);

    let output = ended(alone.tachyon(&["rules", "apply", &good]), OK);
    assert!(stdout(&output).contains("stored as version 8"), "{}", stdout(&output));
    assert!(stderr(&output).contains("tachyond is not connected"), "{}", stderr(&output));
}

#[test]
fn rules_apply_of_a_bad_file_is_refused_and_says_why() {
    let fake = Fake::start(Scene::Running);
    let wrong = fake.file("wrong.toml", WRONG);
    let output = ended(fake.tachyon(&["rules", "apply", &wrong]), REFUSED);
    assert!(stdout(&output).is_empty());
    assert!(stderr(&output).contains("= help: make it right"), "{}", stderr(&output));
    assert!(stderr(&output).contains("nothing was changed"), "{}", stderr(&output));
    let applied = json(&ended(fake.tachyon(&["rules", "apply", &wrong, "--json"]), REFUSED));
    assert_eq!((&applied["accepted"], &applied["version"]), (&Value::Bool(false), &Value::Null));
}

#[test]
fn rules_show_prints_the_file_byte_for_byte() {
    let fake = Fake::start(Scene::Running);
    assert_eq!(stdout(&ended(fake.tachyon(&["rules", "show"]), OK)), RULES_IN_FORCE);
    let shown = json(&ended(fake.tachyon(&["rules", "show", "--json"]), OK));
    assert_eq!((shown["text"].as_str(), shown["version"].as_u64()), (Some(RULES_IN_FORCE), Some(7)));
}

#[test]
fn a_denied_call_is_refused_with_what_to_do() {
    let fake = Fake::start(Scene::Denying);
    let file = fake.file("good.toml", "");
    for command in [&["drops"][..], &["rules", "apply", &file]] {
        let output = ended(fake.tachyon(command), REFUSED);
        assert!(stderr(&output).contains("only administrators may; run it as root"), "{}", stderr(&output));
        assert!(stderr(&output).contains("control.sock"), "says where: {}", stderr(&output));
    }
}

#[test]
fn no_control_process_is_unreachable_and_the_message_says_what_to_do() {
    for command in [&["status"][..], &["status", "--json"], &["drops"], &["top"], &["routes"], &["rules", "show"]] {
        let output = ended(without_control(command), UNREACHABLE);
        assert!(stdout(&output).is_empty());
        for part in ["cannot reach tachyon-control", "nobody.sock", "start tachyon-control"] {
            assert!(stderr(&output).contains(part), "{part} in {}", stderr(&output));
        }
    }
}

#[test]
fn a_socket_that_its_process_left_behind_is_unreachable() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("control.sock");
    drop(std::os::unix::net::UnixListener::bind(&socket).expect("the socket can be bound"));
    let command = Command::new(env!("CARGO_BIN_EXE_tachyon")).arg("status").arg("--socket").arg(&socket).output();
    let output = ended(command.expect("the program can be run"), UNREACHABLE);
    assert!(stderr(&output).contains("has ended"), "{}", stderr(&output));
}

#[test]
fn a_connection_that_breaks_during_a_call_is_unreachable() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let socket = folder.path().join("control.sock");
    let listener = std::os::unix::net::UnixListener::bind(&socket).expect("the socket can be bound");
    let closing = std::thread::spawn(move || drop(listener.accept().expect("the program connects")));
    let command = Command::new(env!("CARGO_BIN_EXE_tachyon")).arg("status").arg("--socket").arg(&socket).output();
    ended(command.expect("the program can be run"), UNREACHABLE);
    closing.join().expect("the listener ended");
}

#[test]
fn wrong_arguments_are_usage_errors() {
    for command in [
        &[][..],
        &["no-such-command"],
        &["rules", "check"],
        &["rules", "check", "/no/such/file.toml"],
        &["rules", "apply", "/no/such/file.toml"],
        &["top", "--interval", "0"],
        &["explain", "E_NO_SUCH_REASON"],
        &["prefilter"],
        &["prefilter", "attach"],
        &["prefilter", "deny", "add"],
        &["prefilter", "deny", "add", "10.0.0.0/33"],
        &["prefilter", "deny", "del", "--from-file", "/no/such/file"],
        &["completions", "no-such-shell"],
    ] {
        let output = ended(without_control(command), USAGE);
        assert!(stdout(&output).is_empty() && !stderr(&output).is_empty(), "{command:?}");
    }
}

#[test]
fn explain_needs_no_node_and_knows_every_reason() {
    for reason in Reason::ALL {
        let number = reason.number().to_string();
        for written in [reason.code(), &reason.code().to_lowercase(), &number] {
            let explained = json(&ended(without_control(&["explain", written, "--json"]), OK));
            assert_eq!(
                (explained["code"].as_str(), explained["help"].as_str()),
                (Some(reason.code()), Some(reason.help()))
            );
        }
    }
    let all = json(&ended(without_control(&["explain", "--json"]), OK));
    assert_eq!(all.as_array().map(Vec::len), Some(Reason::ALL.len()));
    let misspelt = ended(without_control(&["explain", "E_GOV_TROTTLED"]), USAGE);
    assert!(stderr(&misspelt).contains("E_GOV_THROTTLED"), "{}", stderr(&misspelt));
}

#[test]
fn help_documents_the_exit_codes_and_the_man_pages_and_completions_exist() {
    let help = stdout(&ended(without_control(&["--help"]), OK));
    for part in ["0  done", "1  refused", "2  usage", "3  unreachable", "TACHYON_SOCKET", "NO_COLOR"] {
        assert!(help.contains(part), "{part} in\n{help}");
    }
    assert!(stdout(&ended(without_control(&["man"]), OK)).contains(".TH tachyon 1"));
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().to_str().expect("the path is text");
    ended(without_control(&["man", "--to", path]), OK);
    assert!(folder.path().join("tachyon-rules-apply.1").exists());
    assert!(folder.path().join("tachyon-prefilter-deny-add.1").exists());
    for command in ["verify", "show", "tail", "prove", "check-proof", "checkpoint", "export"] {
        assert!(folder.path().join(format!("tachyon-log-{command}.1")).exists(), "{command}");
    }
    for shell in ["bash", "zsh", "fish"] {
        let completions = stdout(&ended(without_control(&["completions", shell]), OK));
        assert!(completions.contains("interval") && completions.contains("check-proof"), "{shell}");
    }
}

#[test]
fn a_reader_that_closes_early_is_no_error() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_tachyon"))
        .arg("explain")
        .stdout(std::process::Stdio::piped())
        .stderr(std::process::Stdio::piped())
        .spawn()
        .expect("the program can be run");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("the program ends");
    assert!(!stderr(&output).contains("panic"), "{}", stderr(&output));
    assert_eq!(output.status.code(), Some(OK));
}
