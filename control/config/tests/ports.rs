//! `[dpdk]` and `[[ports]]` of the node file: what is taken, what is refused, and where the caret stands.

use tachyon_config::{DEFAULT_NODE_FILE, Device, Driver, HugePages, NodeFile, Role, Source};

fn parse(text: &str) -> Result<NodeFile, String> {
    let source = Source { name: "node.toml", text, manual: "tachyond --print-default-config" };
    NodeFile::parse(&source).map_err(|diagnostic| diagnostic.to_string())
}

/// A node with one port of these keys, which replace those of a port that is fine.
fn with_port(keys: &str) -> Result<NodeFile, String> {
    let mut text = "[network]\ndriver = \"dpdk\"\n".to_owned() + PORT;
    for line in keys.lines() {
        let key = line.split(" =").next().unwrap_or_default();
        let others = text.lines().filter(|line| line.split(" =").next() != Some(key));
        text = others.map(|line| format!("{line}\n")).collect::<String>() + line + "\n";
    }
    parse(&text)
}

const PORT: &str = "[[ports]]\nname = \"east\"\ndevice = { ring = {} }\naddresses = [\"10.0.1.1/24\"]\n";
const WEST: &str = "[[ports]]\nname = \"west\"\ndevice = { ring = {} }\naddresses = [\"10.0.2.1/24\"]\n";

#[test]
fn every_key_of_the_manual_can_be_written_as_it_stands_there() {
    let (head, ports) = DEFAULT_NODE_FILE.split_once("# [[ports]]").expect("the manual shows a port");
    let (ports, _) = ports.split_once("# Only read with").expect("another section follows");
    let is_key =
        |line: &&str| line.split_once(" = ").is_some_and(|(key, _)| key.bytes().all(|b| b.is_ascii_lowercase()));
    let keys: Vec<&str> = ports.lines().filter_map(|line| line.strip_prefix("# ")).filter(is_key).collect();
    assert_eq!(keys.len(), 8, "a key is missing in node.toml, or its number here: {keys:?}");
    let text = format!("{head}[[ports]]\n{}", keys.join("\n")).replace("driver = \"uring\"", "driver = \"dpdk\"");
    let file = parse(&text).expect("valid");
    let port = &file.ports[0];
    assert_eq!((file.network.driver, file.dpdk.huge_pages), (Driver::Dpdk.into(), HugePages::Auto));
    assert_eq!((port.name.as_str(), port.device.to_string().as_str()), ("east", "pci 0000:01:00.0"));
    assert_eq!((port.vlan, port.mtu, port.gateways.len()), (Some(7), 1_500, 1));
    assert_eq!(port.mac.expect("given").octets(), [2, 0, 0, 0, 0, 1]);
    assert_eq!(port.neighbours[0].mac.to_string(), "02:00:00:00:00:02");
    assert_eq!((port.addresses[1].to_string().as_str(), port.addresses[1].prefix()), ("fd00::1/64", 64));
    let devices: Vec<&str> = ports
        .lines()
        .filter_map(|line| line.strip_prefix("#   {")?.rsplit_once('}'))
        .map(|(device, _)| device)
        .collect();
    assert_eq!(devices.len(), 8, "a device is missing in node.toml, or its number here: {devices:?}");
    for device in devices {
        with_port(&format!("device = {{{device}}}")).unwrap_or_else(|said| panic!("{said}"));
    }
}

#[test]
fn devices_are_read_into_their_parts() {
    let device = |text: &str| with_port(&format!("device = {text}")).expect("valid").ports.remove(0).device;
    assert_eq!(device("{ null = {} }"), Device::Null { frame_bytes: 1_514, receive: true });
    let memif = device("{ memif = { socket = \"/run/a.sock\", id = 7, role = \"client\" } }");
    assert!(matches!(&memif, Device::Memif { id: 7, role: Role::Client, .. }), "{memif:?}");
    assert_eq!(memif.to_string(), "memif 7 at /run/a.sock");
    assert_eq!(device("{ pcap = { write = \"out.pcap\" } }").to_string(), "pcap to out.pcap");
}

#[test]
fn sizes_that_are_left_out_follow_driver_and_mtu() {
    let sizes = |file: &NodeFile| (file.frame_bytes_max(), file.buffer_bytes());
    assert_eq!(sizes(&NodeFile::default()), (1_472, 67_648));
    assert_eq!(sizes(&with_port("").expect("valid")), (1_472, 2_112));
    assert_eq!(sizes(&with_port("addresses = [\"10.0.1.1/24\", \"fd00::1/64\"]").expect("valid")), (1_408, 2_112));
    // 9,064 bytes are 142 lines, and the next odd number is 143.
    assert_eq!(sizes(&with_port("mtu = 9000").expect("valid")), (8_960, 143 * 64));
    assert_eq!(sizes(&with_port("mtu = 576").expect("valid")), (512, 2_112));
    let two = format!("[network]\ndriver = \"dpdk\"\n{PORT}mtu = 9000\n{WEST}");
    assert_eq!(
        sizes(&parse(&two).expect("valid")),
        (1_472, 143 * 64),
        "frames fit every port, buffers the largest packet"
    );
    assert_eq!(
        sizes(&parse("[memory]\nbuffer_bytes = 4096\n[network]\nframe_bytes_max = 128").expect("valid")),
        (128, 4_096)
    );
}

#[test]
fn text_that_would_break_a_device_argument_is_refused_at_its_place() {
    for text in ["a,b", "a b", "a=b", "a\\tb", "a\\u0000b", "a\\nb", "ä", "a[0]", "a\\\"b", "", "0123456789abcdef"] {
        for kind in ["af_packet", "af_xdp"] {
            let said = with_port(&format!("device = {{ {kind} = {{ interface = \"{text}\" }} }}")).expect_err(text);
            assert!(
                said.contains("is no interface name") && said.contains("15 letters") && said.contains('^'),
                "{said}"
            );
        }
    }
    for text in ["/a,b", "/a b", "/a=b", "/a\\tb", "/a\\u0007b", "/ä", "/a(b", "", &"/a".repeat(54)] {
        for device in [
            format!("{{ memif = {{ socket = \"{text}\", role = \"server\" }} }}"),
            format!("{{ pcap = {{ read = \"{text}\" }} }}"),
            format!("{{ pcap = {{ write = \"{text}\" }} }}"),
            format!("{{ virtio_user = {{ path = \"{text}\" }} }}"),
        ] {
            let said = with_port(&format!("device = {device}")).expect_err(text);
            assert!(said.contains("cannot be part of a device's arguments") && said.contains('^'), "{said}");
        }
    }
    let said = with_port("device = { af_xdp = { interface = \"va,queue=1\" } }").expect_err("refused");
    let expected = "\
error: \"va,queue=1\" is no interface name that a device can have
 --> node.toml:6:35
  |
6 | device = { af_xdp = { interface = \"va,queue=1\" } }
  |                                   ^^^^^^^^^^^^
  = help: choose one of 1 to 15 letters, digits, dots, underscores and hyphens (`ip link` lists them)";
    assert_eq!(said, expected);
}

#[test]
fn values_out_of_range_are_refused_with_a_choice() {
    for (keys, says) in [
        ("name = \"East\"", "choose 1 to 16 of a-z, 0-9 and -"),
        ("name = \"\"", "is no port name"),
        ("name = \"seventeen-letters\"", "is no port name"),
        ("device = { pci = \"01:00.0\" }", "lspci -D"),
        ("device = { pci = \"0000:01:20.0\" }", "is no PCI address"),
        ("device = { pci = \"0000:01:00.8\" }", "is no PCI address"),
        ("device = { pci = \"0000:0A:00.0\" }", "in small letters"),
        ("device = { tap = {} }", "unknown value `tap`"),
        ("device = { ring = {}, null = {} }", "keep exactly one"),
        ("device = {}", "keep exactly one"),
        ("device = { ring = { size = 1 } }", "unknown key `size`"),
        ("device = { null = { frame_bytes = 63 } }", "choose 64 to 9018"),
        ("device = { null = { receives = true } }", "did you mean `receive`?"),
        ("device = { memif = { socket = \"/a\" } }", "missing key `role`"),
        ("device = { memif = { socket = \"/a\", role = \"both\" } }", "unknown value `both`"),
        ("device = { memif = { socket = \"/a\", id = -1, role = \"server\" } }", "-1"),
        ("addresses = [\"10.0.1.1\"]", "has no network"),
        ("addresses = [\"10.0.1/24\"]", "is no address with a network"),
        ("addresses = [\"10.0.1.1/33\"]", "/1 to /32"),
        ("addresses = [\"fd00::1/129\"]", "/1 to /128"),
        ("addresses = [\"10.0.1.0/24\"]", "not the address of one host"),
        ("addresses = [\"10.0.1.255/24\"]", "not the address of one host"),
        ("addresses = [\"224.0.0.1/24\"]", "not the address of one host"),
        ("addresses = [\"127.0.0.1/8\"]", "not the address of one host"),
        ("addresses = [\"fe80::1/64\"]", "not the address of one host"),
        ("addresses = [\"::ffff:10.0.0.1/100\"]", "not the address of one host"),
        ("gateway = \"there\"", "is no IP address"),
        ("vlan = 0", "choose 1 to 4094"),
        ("vlan = 4095", "choose 1 to 4094"),
        ("mtu = 9001", "choose 576 to 9000"),
        ("mac = \"01:00:00:00:00:01\"", "hardware address of one device"),
        ("mac = \"00:00:00:00:00:00\"", "hardware address of one device"),
        ("mac = \"02:00:00:00:00\"", "hardware address of one device"),
        ("mac = \"02:00:00:00:00:+1\"", "hardware address of one device"),
        ("speed = 10", "unknown key `speed`"),
    ] {
        let said = with_port(keys).expect_err(keys);
        assert!(said.contains(says) && said.contains('^'), "{keys}: {said}");
    }
    for (dpdk, says) in [
        ("memory_mb = 8", "choose 16 to 16384"),
        ("huge_pages = \"maybe\"", "unknown value `maybe`"),
        ("receive_descriptors = 1000", "choose 512 or 1024"),
        ("transmit_descriptors = 8192", "choose 64 to 4096"),
    ] {
        let said = parse(&format!("[dpdk]\n{dpdk}\n")).expect_err(dpdk);
        assert!(said.contains(says) && said.contains('^'), "{dpdk}: {said}");
    }
    let said = parse("[network]\ndriver = \"dpdk\"\n[[ports]]\nname = \"a\"\n").expect_err("refused");
    assert!(said.contains("missing key `device`"), "{said}");
}

#[test]
fn contradictions_within_a_port_are_refused_at_their_place() {
    for (keys, says) in [
        ("addresses = []", "has 0 addresses"),
        ("addresses = [\"10.0.1.1/24\", \"10.0.1.2/25\"]", "10.0.1.1/24 and 10.0.1.2/25 of port `east` overlap"),
        ("device = { pcap = {} }", "a pcap device without a file"),
        ("gateway = \"10.0.2.254\"", "gateway 10.0.2.254 is not a neighbour"),
        ("gateway = \"10.0.1.1\"", "gateway 10.0.1.1 is not a neighbour"),
        ("gateway = \"fd00::fe\"", "gateway fd00::fe is not a neighbour"),
        ("gateway = [\"10.0.1.2\", \"10.0.1.3\"]", "two gateways of a family"),
        ("neighbours = [{ ip = \"10.0.2.2\", mac = \"02:00:00:00:00:02\" }]", "10.0.2.2 is not a neighbour"),
        ("neighbours = [{ ip = \"10.0.1.1\", mac = \"02:00:00:00:00:02\" }]", "10.0.1.1 is not a neighbour"),
    ] {
        let said = with_port(keys).expect_err(keys);
        assert!(said.contains(says) && said.contains(&format!(" | {keys}\n")), "{keys}: {said}");
    }
    let said = with_port("addresses = [\"fd00::1/64\"]\nmtu = 1279").expect_err("too small for IPv6");
    assert!(said.contains("choose 1280 or more") && said.contains("7 | mtu = 1279"), "{said}");
    let two = "neighbours = [{ ip = \"10.0.1.2\", mac = \"02:00:00:00:00:02\" }, { ip = \"10.0.1.2\", mac = \"02:00:00:00:00:03\" }]";
    assert!(with_port(two).expect_err("twice").contains("10.0.1.2 stands twice"));
    assert!(
        with_port("gateway = [\"10.0.1.254\", \"fd00::fe\"]\naddresses = [\"10.0.1.1/24\", \"fd00::1/64\"]").is_ok()
    );
    assert!(with_port("addresses = [\"10.0.1.0/31\"]\ngateway = \"10.0.1.1\"").is_ok(), "RFC 3021");
}

#[test]
fn ports_that_contradict_each_other_or_the_rest_are_refused_at_their_place() {
    let dpdk = |rest: &str| parse(&format!("[network]\ndriver = \"dpdk\"\n{rest}"));
    let said =
        parse("[[ports]]\nname = \"a\"\ndevice = { ring = {} }\naddresses = [\"10.0.0.1/8\"]\n").expect_err("uring");
    assert!(said.contains("the uring driver has no [[ports]]") && said.contains("1 | [[ports]]"), "{said}");
    let said = dpdk("").expect_err("no ports");
    assert!(said.contains("dpdk without a single port") && said.contains("2 | driver = \"dpdk\""), "{said}");
    assert!(dpdk(&format!("{PORT}{WEST}")).is_ok());

    let said = dpdk(&format!("{PORT}{}", WEST.replace("west", "east"))).expect_err("names");
    assert!(said.contains("a second port named `east`") && said.contains("8 | name = \"east\""), "{said}");
    let said = dpdk(&format!("{PORT}{}", WEST.replace("10.0.2.1/24", "10.0.0.1/8"))).expect_err("networks");
    assert!(
        said.contains("10.0.0.1/8 overlaps 10.0.1.1/24 of port `east`") && said.contains("10 | addresses"),
        "{said}"
    );
    for (one, other, same) in [
        ("{ pci = \"0000:01:00.0\" }", "{ pci = \"0000:01:00.0\" }", true),
        ("{ pci = \"0000:01:00.0\" }", "{ pci = \"0000:01:00.1\" }", false),
        ("{ af_xdp = { interface = \"va\" } }", "{ af_packet = { interface = \"va\" } }", true),
        (
            "{ memif = { socket = \"/a\", role = \"server\" } }",
            "{ memif = { socket = \"/a\", role = \"client\" } }",
            true,
        ),
        (
            "{ memif = { socket = \"/a\", role = \"server\" } }",
            "{ memif = { socket = \"/a\", id = 1, role = \"server\" } }",
            false,
        ),
        ("{ pcap = { write = \"/a\" } }", "{ pcap = { write = \"/a\" } }", true),
        ("{ pcap = { read = \"/a\" } }", "{ pcap = { read = \"/a\" } }", false),
        ("{ virtio_user = { path = \"/run/a\" } }", "{ virtio_user = { path = \"/run/a\" } }", true),
        ("{ virtio_user = { path = \"/dev/vhost-net\" } }", "{ virtio_user = { path = \"/dev/vhost-net\" } }", false),
        ("{ null = {} }", "{ null = {} }", false),
    ] {
        let text = PORT.replace("{ ring = {} }", one) + &WEST.replace("{ ring = {} }", other);
        let outcome = dpdk(&text);
        assert_eq!(outcome.is_err(), same, "{one} {other}");
        if let Err(said) = outcome {
            assert!(said.contains("already belongs to port `east`") && said.contains("9 | device"), "{said}");
        }
    }

    let said = parse(&format!(
        "[network]\ndriver = \"dpdk\"\nframe_bytes_max = 1472\n{PORT}{}",
        WEST.replace("10.0.2.1/24", "fd00::1/64")
    ));
    let said = said.expect_err("IPv6 has less room");
    assert!(
        said.contains("does not fit MTU 1500 over IPv6 on port `west`") && said.contains("choose 1408 or less"),
        "{said}"
    );
    assert!(said.contains("3 | frame_bytes_max = 1472"), "{said}");
    let said = dpdk(&format!("[memory]\nbuffer_bytes = 65408\n{PORT}")).expect_err("too large");
    assert!(said.contains("choose 65344 or less") && said.contains("4 | buffer_bytes = 65408"), "{said}");
    assert!(dpdk(&format!("[memory]\nbuffer_bytes = 65344\n{PORT}")).is_ok());
    let said = dpdk(&format!("[memory]\nbuffer_bytes = 2048\n{PORT}mtu = 2000\n")).expect_err("too small");
    assert!(said.contains("choose 2112 or more") && said.contains("4 | buffer_bytes = 2048"), "{said}");
    let many: String =
        (0..17).map(|n| PORT.replace("east", &format!("p{n}")).replace("10.0.1.1", &format!("10.0.{n}.1"))).collect();
    assert!(dpdk(&many).expect_err("too many").contains("17 ports, more than a node can have"));
}
