//! `tachyon doctor` as it is run: its exit codes, its text and its JSON, over machines made of a few files.

use serde_json::Value;
use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

/// What a node needs at least: no huge pages, no locked memory, no io_uring, one worker on an isolated core.
const MODEST: &str =
    "[network]\nio_uring = \"off\"\n[workers]\ncores = [1]\n[memory]\npages = \"ordinary\"\nlock = false\n";

fn write(root: &Path, path: &str, text: &str) {
    let path = root.join(path);
    fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
    fs::write(path, text).expect("a file");
}

/// A machine that has what [`MODEST`] needs.
fn modest() -> tempfile::TempDir {
    let root = tempfile::tempdir().expect("a temporary folder");
    let cpu = "sys/devices/system/cpu";
    write(root.path(), &format!("{cpu}/online"), "0-1\n");
    write(root.path(), &format!("{cpu}/isolated"), "1\n");
    write(root.path(), "sys/kernel/mm/transparent_hugepage/shmem_enabled", "always [advise] never\n");
    write(root.path(), "node.toml", MODEST);
    root
}

fn doctor(root: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tachyon"));
    command.arg("doctor").arg("--root").arg(root).arg("--config").arg(root.join("node.toml")).args(arguments);
    command.output().expect("the program can be run")
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn state_of(findings: &Value, check: &str) -> String {
    let rows = findings["findings"].as_array().expect("a list");
    let row = rows.iter().find(|row| row["check"] == check).expect("the check");
    row["state"].as_str().expect("a state").to_owned()
}

#[test]
fn ends_with_0_if_nothing_is_in_the_way() {
    let root = modest();
    let output = doctor(root.path(), &[]);
    assert_eq!(output.status.code(), Some(0), "{}", text(&output));
    assert!(text(&output).ends_with("This machine is fine.\n"), "{}", text(&output));
}

#[test]
fn ends_with_2_if_a_node_works_worse_than_it_could() {
    let root = modest();
    write(root.path(), "sys/devices/system/cpu/isolated", "\n");
    let output = doctor(root.path(), &["--json"]);
    assert_eq!(output.status.code(), Some(2));
    let said: Value = serde_json::from_str(&text(&output)).expect("one document");
    assert_eq!(text(&output).matches('\n').count(), 1);
    assert_eq!((said["state"].as_str(), state_of(&said, "isolated_cores").as_str()), (Some("degraded"), "degraded"));
    let shown = text(&doctor(root.path(), &[]));
    assert!(shown.contains("            # update-grub && reboot\n"), "{shown}");
    assert!(shown.ends_with("A node works here, with 1 weakness.\n"), "{shown}");
}

#[test]
fn ends_with_1_if_the_node_would_not_start() {
    let root = modest();
    write(root.path(), "node.toml", &MODEST.replace("[1]", "[5]"));
    let output = doctor(root.path(), &["--json"]);
    assert_eq!(output.status.code(), Some(1));
    let said: Value = serde_json::from_str(&text(&output)).expect("one document");
    assert_eq!((state_of(&said, "cores").as_str(), state_of(&said, "node_file").as_str()), ("fails", "fine"));
}

#[test]
fn a_node_file_that_tachyond_refuses_fails_and_the_rest_is_checked_all_the_same() {
    let root = modest();
    write(root.path(), "node.toml", "[network]\nbase_prt = 1\n");
    let output = doctor(root.path(), &[]);
    assert_eq!(output.status.code(), Some(1));
    let shown = text(&output);
    assert!(shown.contains("base_prt") && shown.contains("huge_pages"), "{shown}");
    fs::remove_file(root.path().join("node.toml")).expect("it was there");
    let output = doctor(root.path(), &[]);
    assert_eq!(output.status.code(), Some(1), "a file that was named has to be there");
}

#[test]
fn devices_are_shown_with_how_to_bind_them() {
    let root = modest();
    let device = "sys/bus/pci/devices/0000:3b:00.0";
    for (name, value) in [("class", "0x020000"), ("vendor", "0x8086"), ("device", "0x1572"), ("numa_node", "1")] {
        write(root.path(), &format!("{device}/{name}"), value);
    }
    std::os::unix::fs::symlink("../../../kernel/iommu_groups/12", root.path().join(device).join("iommu_group"))
        .expect("a link");
    let output = doctor(root.path(), &[]);
    let shown = text(&output);
    assert_eq!(output.status.code(), Some(0), "{shown}");
    assert!(shown.contains("0000:3b:00.0  8086:1572, no driver, NUMA node 1, IOMMU group 12"), "{shown}");
    assert!(shown.contains("# echo vfio-pci > /sys/bus/pci/devices/0000:3b:00.0/driver_override"), "{shown}");
    let said: Value = serde_json::from_str(&text(&doctor(root.path(), &["--json"]))).expect("one document");
    assert_eq!(said["nics"][0]["bypass"], "after binding");
    assert_eq!(said["nics"][0]["bind"].as_array().map(Vec::len), Some(3));
}

#[test]
fn rdma_devices_are_shown_with_why_they_cannot_be_used() {
    let root = modest();
    let port = |device: &str, state: &str, layer: &str| {
        let folder = format!("sys/class/infiniband/{device}/ports/1");
        write(root.path(), &format!("{folder}/state"), state);
        write(root.path(), &format!("{folder}/link_layer"), layer);
        write(root.path(), &format!("{folder}/rate"), "100 Gb/sec (4X EDR)\n");
        folder
    };
    let gid = |folder: &str, entry: u32, address: &str, kind: &str| {
        write(root.path(), &format!("{folder}/gids/{entry}"), address);
        write(root.path(), &format!("{folder}/gid_attrs/types/{entry}"), kind);
        write(root.path(), &format!("{folder}/gid_attrs/ndevs/{entry}"), "eth7\n");
    };
    let (own, ipv4) = ("fe80:0000:0000:0000:5054:00ff:fe12:3456", "0000:0000:0000:0000:0000:ffff:0a00:0102");
    port("ib0", "4: ACTIVE\n", "InfiniBand\n");
    port("mlx5_0", "1: DOWN\n", "Ethernet\n");
    gid(&port("mlx5_1", "4: ACTIVE\n", "Ethernet\n"), 0, ipv4, "IB/RoCE v1\n");
    gid(&port("mlx5_2", "4: ACTIVE\n", "Ethernet\n"), 1, own, "RoCE v2\n");
    for device in ["mlx5_3", "mlx5_4", "mlx5_5"] {
        gid(&port(device, "4: ACTIVE\n", "Ethernet\n"), 3, ipv4, "RoCE v2\n");
    }
    write(root.path(), "sys/class/infiniband_verbs/uverbs4/ibdev", "mlx5_4\n");
    write(root.path(), "sys/class/infiniband_verbs/uverbs5/ibdev", "mlx5_5\n");
    write(root.path(), "dev/infiniband/uverbs5", "");
    let said: Value = serde_json::from_str(&text(&doctor(root.path(), &["--json"]))).expect("one document");
    let ports = said["rdma"].as_array().expect("a list");
    let why = |device: &str| {
        let port = ports.iter().find(|port| port["device"] == device).expect(device);
        port["why"].as_str().unwrap_or("usable").to_owned()
    };
    for (device, words) in [
        ("ib0", "InfiniBand"),
        ("mlx5_0", "no link (1: DOWN)"),
        ("mlx5_1", "no entry for RoCE v2"),
        ("mlx5_2", "ip address add ADDRESS/BITS dev eth7"),
        ("mlx5_3", "modprobe ib_uverbs"),
        ("mlx5_4", "there is no /dev/infiniband/uverbs4"),
        ("mlx5_5", "usable"),
    ] {
        assert!(why(device).contains(words), "{device}: {}", why(device));
    }
    assert_eq!(ports[6]["addresses"], serde_json::json!(["10.0.1.2"]));
    let shown = text(&doctor(root.path(), &[]));
    assert!(shown.contains("mlx5_5 port 1, eth7, 10.0.1.2, 100 Gb/sec (4X EDR): usable"), "{shown}");
}

#[test]
fn this_machine_is_examined_without_an_error() {
    let output = Command::new(env!("CARGO_BIN_EXE_tachyon")).args(["doctor", "--json"]).output().expect("it runs");
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    let said: Value = serde_json::from_str(&text(&output)).expect("one document");
    let codes = [("fine", 0), ("note", 0), ("fails", 1), ("degraded", 2)];
    let expected = codes.iter().find(|(state, _)| said["state"] == *state).map(|(_, code)| *code);
    assert_eq!(output.status.code(), expected);
}
