//! The Wireshark dissector says what this crate says: the same reasons, the same fields of every golden vector, the same
//! judgement of frames that were damaged, and never an error of its own.
//!
//! All but the first test need `tshark`; without it they say so and pass.

use proptest::{
    prelude::Rng as _,
    test_runner::{RngAlgorithm, TestRng},
};
use std::{
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
    process::Command,
};
use tachyon_wire::{
    Frame, FrameHeader, LINE, Lane, Message, Reason,
    ack::Map,
    crc,
    frame::{self, BASE_PORT},
    message::{self, Reference},
    payload,
};
use zerocopy::FromBytes as _;

const REASONS_BEGIN: &str = "-- reasons: begin\nlocal REASONS = {\n";

/// The fields that are compared, without their `tachyon.`, in the order in which `tshark` is asked for them.
const FIELDS: &[&str] = &[
    "fault",
    "flags",
    "version",
    "kind",
    "route_id",
    "frame_id",
    "len",
    "crc32c",
    "session_id",
    "shard",
    "count",
    "sent_ns",
    "epoch",
    "tag",
    "message.flags",
    "message.topic_id",
    "message.sender_id",
    "message.class",
    "message.inline_length",
    "message.flags.system_packet",
    "message.arena_id",
    "message.segment_id",
    "message.offset",
    "message.length",
    "message.checksum",
    "message.payload",
    "message.fault",
    "provenance.session_id",
    "provenance.epoch",
    "provenance.frame_id",
    "provenance.shard",
    "provenance.index",
    "payload_area",
    "ack.session_id",
    "ack.epoch",
    "ack.shard",
    "ack.class",
    "ack.cumulative",
    "ack.settled_frame",
    "ack.refused_frame",
    "nack.session_id",
    "nack.epoch",
    "nack.shard",
    "nack.reason",
    "nack.frame_id",
    "nack.accepted_message",
];

fn spec() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec")
}

fn dissector() -> PathBuf {
    spec().join("wireshark/tachyon.lua")
}

/// Name and bytes of every golden vector that has bytes: an empty datagram reaches no dissector.
fn vectors() -> Vec<(String, Vec<u8>)> {
    let entries = fs::read_dir(spec().join("vectors")).expect("spec/vectors");
    let mut paths: Vec<_> = entries.map(|entry| entry.expect("an entry").path()).collect();
    paths.retain(|path| path.extension().is_some_and(|ending| ending == "bin"));
    paths.sort();
    let read = |path: PathBuf| {
        let name = path.file_stem().expect("a name").to_string_lossy().into_owned();
        (name, fs::read(&path).expect("bytes"))
    };
    paths.into_iter().map(read).filter(|(_, bytes)| !bytes.is_empty()).collect()
}

/// A capture with one UDP datagram over IPv4 and Ethernet for each of `payloads`, to `port`; of each it holds at most
/// `held_max` bytes.
fn pcap(payloads: &[Vec<u8>], port: u16, held_max: usize) -> Vec<u8> {
    let mut file = Vec::new();
    // Magic, version 2.4, time zone and accuracy 0, no limit on a packet's length, link type 1 (Ethernet).
    for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 262_144, 1] {
        file.extend(word.to_le_bytes());
    }
    for (index, payload) in payloads.iter().enumerate() {
        let udp_bytes = u16::try_from(payload.len() + 8).expect("a datagram");
        let length = u32::try_from(payload.len() + 42).expect("a packet");
        let held = payload.len().min(held_max);
        let held_length = u32::try_from(held + 42).expect("a packet");
        for word in [u32::try_from(index).expect("few packets"), 0, held_length, length] {
            file.extend(word.to_le_bytes());
        }
        // Ethernet: to and from, then IPv4.
        file.extend([2, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 2, 8, 0]);
        // IPv4: checksum 0, which Wireshark does not look at by default; 192.0.2.10 to 192.0.2.1.
        file.extend([0x45, 0]);
        file.extend((udp_bytes + 20).to_be_bytes());
        file.extend([0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 10, 192, 0, 2, 1]);
        // UDP: a checksum of 0 means that there is none.
        for word in [40_000, port, udp_bytes, 0] {
            file.extend(word.to_be_bytes());
        }
        file.extend(&payload[..held]);
    }
    file
}

/// What `tshark` prints about a capture of `payloads`; `None` if there is no `tshark`, which is said.
fn tshark(name: &str, payloads: &[Vec<u8>], port: u16, arguments: &[&str]) -> Option<String> {
    tshark_reads(name, &pcap(payloads, port, usize::MAX), arguments)
}

fn tshark_reads(name: &str, capture: &[u8], arguments: &[&str]) -> Option<String> {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("{name}-{}.pcap", std::process::id()));
    fs::write(&file, capture).expect("a capture");
    let script = format!("lua_script:{}", dissector().display());
    let output = Command::new("tshark")
        .args(["-n", "-X", &script, "-r"])
        .arg(&file)
        .args(arguments)
        // Else a person's own settings and plugins would take part.
        .env("HOME", env!("CARGO_TARGET_TMPDIR"))
        .env("XDG_CONFIG_HOME", env!("CARGO_TARGET_TMPDIR"))
        .output();
    fs::remove_file(&file).expect("the capture is ours");
    let Ok(output) = output else {
        eprintln!("skipped {name}: tshark is not installed (apt-get install tshark)");
        return None;
    };
    let errors = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "tshark: {errors}");
    assert!(!errors.to_lowercase().contains("lua"), "tshark: {errors}");
    let text = String::from_utf8(output.stdout).expect("text");
    for bad in ["Lua Error", "_ws.lua", "Dissector bug", "Malformed Packet"] {
        let around = text.find(bad).map(|at| text[..at].lines().count());
        assert_eq!(around, None, "{name}: {bad:?} in this line of {text}");
    }
    Some(text)
}

/// One line of values per packet, as the dissector gives them.
fn dissected(name: &str, payloads: &[Vec<u8>], port: u16) -> Option<Vec<String>> {
    let names: Vec<String> = FIELDS.iter().map(|field| format!("tachyon.{field}")).collect();
    let mut arguments = vec!["-T", "fields", "-E", "separator=|", "-E", "occurrence=a", "-E", "aggregator=,"];
    arguments.extend(names.iter().flat_map(|name| ["-e", name]));
    let text = tshark(name, payloads, port, &arguments)?;
    Some(text.lines().map(str::to_owned).collect())
}

/// What this crate finds at fault with a frame on a network lane, as far as no session or rule is needed.
fn fault(bytes: &[u8]) -> (Result<Frame<'_>, Reason>, Option<Reason>) {
    let lane = Lane { frame_bytes_max: u32::MAX, references: false };
    let parsed = frame::parse(bytes, &lane);
    let found = match &parsed {
        Err(reason) => Some(*reason),
        Ok(frame) if !frame.is_authenticated() && !crc::verify(frame) => Some(Reason::BadCrc),
        Ok(frame) => payload::check(frame).err(),
    };
    (parsed, found)
}

/// The values that the dissector should give for `bytes`, in the order of [`FIELDS`].
#[derive(Default)]
struct Values(Vec<(&'static str, String)>);

impl Values {
    /// Another occurrence of a field.
    fn add(&mut self, field: &'static str, value: impl ToString) {
        assert!(FIELDS.contains(&field), "{field} is compared");
        self.0.push((field, value.to_string()));
    }

    fn line(&self) -> String {
        let all = |field: &str| {
            let values = self.0.iter().filter(|(name, _)| *name == field).map(|(_, value)| value.as_str());
            values.collect::<Vec<_>>().join(",")
        };
        FIELDS.iter().map(|field| all(field)).collect::<Vec<_>>().join("|")
    }

    fn header(&mut self, header: &FrameHeader) {
        self.add("flags", format!("0x{:04x}", header.flags.get()));
        self.add("version", header.version);
        self.add("kind", header.kind);
        self.add("route_id", header.route_id.get());
        self.add("frame_id", header.frame_id.get());
        self.add("len", header.len.get());
        self.add("crc32c", format!("0x{:08x}", header.crc32c.get()));
        self.add("session_id", header.session_id.get());
        self.add("shard", header.shard.get());
        self.add("count", header.count.get());
        self.add("sent_ns", header.sent_ns.get());
        self.add("epoch", header.epoch.get());
        self.add("tag", hex(&header.tag));
    }

    fn message(&mut self, frame: &Frame<'_>, index: usize, message: &Message) {
        let flags = message.flags.get();
        self.add("message.flags", format!("0x{flags:016x}"));
        self.add("message.topic_id", message.topic_id.get());
        self.add("message.sender_id", message.sender_id.get());
        self.add("message.class", message.class());
        self.add("message.inline_length", message.inline_length());
        self.add("message.flags.system_packet", if flags & message::SYSTEM_PACKET != 0 { 1 } else { 0 });
        let (offset, length, checksum) = match message.reference() {
            Some(Reference::Arena(place)) => {
                self.add("message.arena_id", place.arena_id.get());
                (place.offset, place.length, place.checksum)
            }
            Some(Reference::Shm(place)) => {
                self.add("message.segment_id", place.segment_id.get());
                (place.offset, place.length, place.checksum)
            }
            None => Default::default(),
        };
        if message.reference().is_some() {
            self.add("message.offset", offset.get());
            self.add("message.length", length.get());
            self.add("message.checksum", format!("0x{:016x}", checksum.get()));
        }
        let sound = message::check(message, false);
        if let Some(payload) = message.inline_payload().filter(|payload| !payload.is_empty()) {
            self.add("message.payload", hex(payload));
        } else if let (Ok(()), Ok(()), Some(place)) = (sound, payload::check(frame), message.in_frame()) {
            let start = usize::try_from(place.offset.get()).expect("in the frame");
            self.add("message.payload", hex(&frame.bytes[start..start + place.length.get() as usize]));
            if payload::of(frame, index) == Err(Reason::ArenaCorrupt) {
                self.add("message.fault", Reason::ArenaCorrupt.number());
            }
        }
        if let Err(reason) = sound {
            self.add("message.fault", reason.number());
        }
    }

    fn body(&mut self, frame: &Frame<'_>) {
        for (index, message) in frame.messages.iter().enumerate() {
            self.message(frame, index, message);
        }
        for identity in frame.provenance {
            self.add("provenance.session_id", identity.session_id.get());
            self.add("provenance.epoch", identity.epoch.get());
            self.add("provenance.frame_id", identity.frame_id.get());
            self.add("provenance.shard", identity.shard.get());
            self.add("provenance.index", identity.index.get());
        }
        if !frame.payload.is_empty() {
            self.add("payload_area", hex(frame.payload));
        }
        if let Some(ack) = frame.ack() {
            self.add("ack.session_id", ack.session_id.get());
            self.add("ack.epoch", ack.epoch.get());
            self.add("ack.shard", ack.shard.get());
            self.add("ack.class", ack.class);
            self.add("ack.cumulative", ack.cumulative.get());
            let cumulative = i64::from(ack.cumulative.get());
            self.map("ack.settled_frame", &ack.settled, |bit| cumulative + 1 + bit);
            self.map("ack.refused_frame", &ack.refused_before, |bit| cumulative - bit);
            self.map("ack.refused_frame", &ack.refused_after, |bit| cumulative + 1 + bit);
        }
        if let Some(nack) = frame.nack() {
            self.add("nack.session_id", nack.session_id.get());
            self.add("nack.epoch", nack.epoch.get());
            self.add("nack.shard", nack.shard.get());
            self.add("nack.reason", nack.reason);
            self.add("nack.frame_id", nack.frame_id.get());
            self.map("nack.accepted_message", &nack.accepted, |bit| bit);
        }
    }

    /// What the bits of a map stand for, those left out that stand for no frame.
    fn map(&mut self, field: &'static str, map: &Map, number: impl Fn(i64) -> i64) {
        let set = (0..256_u32).filter(|bit| map.get(*bit)).map(|bit| number(i64::from(bit)));
        let least = i64::from(field != "nack.accepted_message");
        for value in set.filter(|value| (least..=i64::from(u32::MAX)).contains(value)) {
            self.add(field, value);
        }
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        write!(text, "{byte:02x}").expect("a string takes it");
        text
    })
}

/// The whole line for `bytes`: everything if the layout is kept, else the fault alone.
fn expected(bytes: &[u8]) -> String {
    let mut values = Values::default();
    let (parsed, fault) = fault(bytes);
    if let Some(reason) = fault {
        values.add("fault", reason.number());
    }
    if let Ok(frame) = parsed {
        values.header(frame.header);
        values.body(&frame);
    }
    values.line()
}

/// Compares line by line. Of a frame that breaks the layout only the fault is compared, and the header if it is there:
/// what else can be shown of it is the dissector's choice.
fn compare(names: &[String], payloads: &[Vec<u8>], lines: &[String]) {
    assert_eq!(lines.len(), payloads.len());
    for ((name, bytes), found) in names.iter().zip(payloads).zip(lines) {
        let (parsed, fault) = fault(bytes);
        if parsed.is_ok() {
            for ((field, found), expected) in FIELDS.iter().zip(found.split('|')).zip(expected(bytes).split('|')) {
                assert_eq!(found, expected, "{name}: {field}");
            }
            continue;
        }
        let found: Vec<&str> = found.split('|').collect();
        let number = fault.map(|reason| reason.number().to_string());
        assert_eq!(Some(found[0]), number.as_deref(), "{name}");
        if let Ok((header, _)) = FrameHeader::ref_from_prefix(bytes) {
            let mut values = Values::default();
            values.header(header);
            let line = values.line();
            let header: Vec<&str> = line.split('|').collect();
            if bytes.starts_with(&frame::MAGIC) {
                assert_eq!(found[1..14], header[1..14], "{name}");
            }
        }
    }
}

#[test]
fn the_dissector_lists_every_reason() {
    let script = fs::read_to_string(dissector()).expect("the script").replace("    [", "[");
    let (_, table) = script.split_once(REASONS_BEGIN).expect("where the table begins");
    let (table, _) = table.split_once("}\n-- reasons: end\n").expect("where the table ends");
    let rows = Reason::ALL.iter().map(|reason| format!("[{}] = {:?},\n", reason.number(), reason.code()));
    let rows: String = rows.collect();
    assert_eq!(table, rows, "the table of reasons in {} should read:\n{rows}", dissector().display());
}

#[test]
fn every_vector_has_the_fields_that_the_parser_finds() {
    let (names, payloads): (Vec<_>, Vec<_>) = vectors().into_iter().unzip();
    let Some(lines) = dissected("vectors", &payloads, BASE_PORT + 3) else { return };
    compare(&names, &payloads, &lines);
}

#[test]
fn frames_on_other_ports_are_known_by_their_magic() {
    let (names, payloads): (Vec<_>, Vec<_>) =
        vectors().into_iter().filter(|(_, bytes)| bytes.starts_with(&frame::MAGIC)).unzip();
    let Some(lines) = dissected("heuristic", &payloads, 9_999) else { return };
    compare(&names, &payloads, &lines);
}

#[test]
fn ports_are_a_preference() {
    let not_ours = vec![b"no frame, and so known by its port alone".to_vec()];
    for (base, expected) in [("tachyon.base_port:9000", "2\n"), ("tachyon.base_port:9001", "\n")] {
        let arguments = ["-o", base, "-o", "tachyon.port_count:16", "-T", "fields", "-e", "tachyon.fault"];
        let Some(text) = tshark("ports", &not_ours, 9_000, &arguments) else { return };
        assert_eq!(text, expected, "{base}");
    }
}

#[test]
fn frames_that_the_kernel_joined_are_shown_one_by_one() {
    let vectors = vectors();
    let bytes = |name: &str| vectors.iter().find(|(found, _)| found == name).expect("the vector").1.clone();
    let joined = [bytes("data-22-tag"), bytes("heartbeat-crc"), bytes("ack-maps")].concat();
    let fields = ["-T", "fields", "-e", "tachyon.kind", "-e", "tachyon.fault", "-e", "_ws.col.Info"];
    let Some(text) = tshark("joined", &[joined], BASE_PORT + 3, &fields) else { return };
    assert_eq!(text, "0,3,1\t\tdata, 22 messages  s=65543 shard=3 epoch=5 frame=5001  and 2 more frames\n");
}

#[test]
fn a_frame_cut_anywhere_is_at_fault_and_nothing_else() {
    let names = ["data-provenance-5", "data-inline-lengths", "payload-mixed", "ack-maps", "nack", "heartbeat-tag"];
    let whole = vectors();
    let whole = whole.iter().filter(|(name, _)| names.contains(&name.as_str()));
    let (labels, payloads): (Vec<_>, Vec<_>) = whole
        .flat_map(|(name, bytes)| {
            (1..bytes.len()).map(move |end| (format!("{name}, {end} bytes"), bytes[..end].to_vec()))
        })
        .unzip();
    let Some(lines) = dissected("cut", &payloads, BASE_PORT + 3) else { return };
    compare(&labels, &payloads, &lines);
    // The tree as a person sees it, for errors that stand in no field.
    tshark("cut-tree", &payloads, BASE_PORT + 3, &["-V"]);
}

#[test]
fn what_the_capture_left_out_is_no_fault() {
    let vectors = vectors().into_iter().filter(|(_, bytes)| bytes.len() > 140 && fault(bytes).1.is_none());
    let payloads: Vec<_> = vectors.map(|(_, bytes)| bytes).collect();
    for held in [1, 20, 63, 64, 100, 128, 140] {
        let capture = pcap(&payloads, BASE_PORT + 3, held);
        let fields = ["-T", "fields", "-e", "tachyon.fault", "-e", "tachyon.cut"];
        let Some(text) = tshark_reads(&format!("held-{held}"), &capture, &fields) else { return };
        assert_eq!(text, "\t1\n".repeat(payloads.len()), "{held} bytes of each");
        tshark_reads(&format!("held-tree-{held}"), &capture, &["-V"]);
    }
}

#[test]
fn damaged_frames_are_judged_as_the_parser_judges_them() {
    let vectors = vectors();
    let small: Vec<_> = vectors.iter().filter(|(_, bytes)| (LINE..=1_472).contains(&bytes.len())).collect();
    let mut random = TestRng::deterministic_rng(RngAlgorithm::ChaCha);
    let mut below = |limit: usize| usize::try_from(random.next_u32()).expect("a number") % limit;
    let mut labels = Vec::new();
    let mut payloads = Vec::new();
    for _ in 0..3_000 {
        let (name, bytes) = small[below(small.len())];
        let mut bytes = bytes.clone();
        for _ in 0..=below(2) {
            let (at, bit) = (below(bytes.len()), below(8));
            bytes[at] ^= 1 << bit;
        }
        // Sealed anew in half of the cases, or nothing behind the crc would ever be looked at.
        if bytes[4] & 1 == 0 && below(2) == 0 {
            let crc = crc::compute(&bytes);
            bytes[20..24].copy_from_slice(&crc.to_le_bytes());
        }
        labels.push(format!("{name} as {}", hex(&bytes)));
        payloads.push(bytes);
    }
    let Some(lines) = dissected("damaged", &payloads, BASE_PORT + 3) else { return };
    compare(&labels, &payloads, &lines);
    tshark("damaged-tree", &payloads, BASE_PORT + 3, &["-V"]);
}
