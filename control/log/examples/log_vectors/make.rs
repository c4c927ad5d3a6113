//! The golden logs: every kind of record, several segments, and one log whose first segments were removed.

use std::collections::BTreeMap;
use tachyon_log::{
    Appender, Config, Files, Record, Signer,
    fault::{FaultDisk, Faults},
    record::{Arrival, Clock, Command, Gap, ruleset_pieces},
    retention::Limits,
    verify::{Report, verify},
};
use tachyon_wire::{
    Endpoint, Reason,
    command::{AddSubscriber, Command as Wire, Lease, OpenSession},
};

/// The frame of the wire document's example, so that a reader can go on to decode it.
const FRAME: &[u8] = include_bytes!("../../../../spec/vectors/example-crc.bin");

/// Files by path, relative to `spec/log`.
pub(crate) type Golden = BTreeMap<String, Vec<u8>>;

pub(crate) fn signer() -> Signer {
    Signer::new("node.example/shard/3", &[42; 32]).expect("a name")
}

fn commands() -> [Wire; 5] {
    let open = OpenSession {
        session_id: 0x0001_0007.into(),
        reply_session_id: 0x0001_0008.into(),
        principal: 1.into(),
        sender_low: 100.into(),
        sender_high: 199.into(),
        epoch_floor: 5.into(),
        class_cap: 0,
        flags: 1,
        pinned: Endpoint::v4([192, 0, 2, 7], 0),
        master: [0x11; 32],
        reply_master: [0x22; 32],
    };
    let add = AddSubscriber {
        slot: 4.into(),
        worker: 1.into(),
        tagged: 1,
        reserved: 0,
        session_id: 0x0002_0001.into(),
        credit: 64.into(),
        frame_bytes_max: 1472.into(),
        endpoint: Endpoint::v4([192, 0, 2, 8], 24_640),
        master: [0x33; 32],
    };
    let lease = Lease { sender_id: 150.into(), share: 32_768.into() };
    [
        Wire::OpenSession(open),
        Wire::AddSubscriber(add),
        Wire::Lease(lease),
        Wire::RemoveSubscriber(4),
        Wire::CloseSession(0x0001_0007),
    ]
}

struct Writer {
    log: Appender<FaultDisk>,
    now: u64,
}

impl Writer {
    fn append(&mut self, record: &Record<'_>) {
        self.now += 1_000;
        self.log.append(self.now, record).expect("room");
    }

    fn commit(&mut self, durable: bool) {
        self.log.commit(self.now, durable);
        let target = self.log.next_sequence();
        while self.log.progress().durable < target && durable {
            self.log.poll(self.now).expect("a disk without faults");
        }
    }

    fn finish(&mut self) {
        while !self.log.finish(self.now).expect("a disk without faults") {}
    }
}

fn write() -> Writer {
    let disk = FaultDisk::new(0, 8, 2 * 4096, Faults::default());
    let config = Config {
        shard: 3,
        log_id: *b"golden log, no 1",
        segment_bytes: 6 * 4096,
        mark_after_ns: u64::MAX,
        retry_after_ns: 0,
    };
    let mut writer = Writer { log: Appender::open(disk, config, 0).expect("a new log"), now: 0 };
    let unix_ns = 1_767_225_600_000_000_000_u64; // 2026-01-01T00:00:00Z
    writer.append(&Record::Clock(Clock { boot_id: [9; 16], unix_ns: unix_ns.into(), boot: 1, reserved: [0; 7] }));
    let image: Vec<u8> = (0..9_000_u32).map(|index| (index * 7).to_le_bytes()[0]).collect();
    ruleset_pieces(1, &image, 5_000).for_each(|piece| writer.append(&piece));
    writer.commit(true);
    commands().iter().for_each(|command| writer.append(&Record::Command(Command::new(command))));
    writer.commit(false);
    for burst in 0..40_u32 {
        let source = Endpoint::v4([192, 0, 2, 7], 40_000);
        writer.append(&Record::Frame(Arrival { source, worker: 1.into(), burst: burst.into() }, FRAME));
        writer.append(&Record::Decisions(&[burst.to_le_bytes()[0]; 21]));
        if burst % 4 == 3 {
            writer.commit(burst % 8 == 7);
        }
        if burst == 20 {
            writer.log.append_checkpoint(writer.now, &signer()).expect("room");
        }
    }
    let lost = Gap {
        count: 12.into(),
        first_tick: 5_000.into(),
        last_tick: 6_000.into(),
        reason: Reason::PersistDiskFull.number(),
        kind: 1,
        reserved: [0; 6],
    };
    writer.append(&Record::Gap(lost));
    writer.log.append_checkpoint(writer.now, &signer()).expect("room");
    writer.commit(true);
    writer
}

fn keep(disk: &mut FaultDisk, folder: &str, golden: &mut Golden) {
    let report = verify(disk, Some(&signer().verifier()), &[]).expect("a disk without faults");
    let names = disk.names().expect("a folder").into_iter().filter(|name| !name.ends_with(".tmp"));
    for name in names {
        golden.insert(format!("{folder}/{name}"), disk.bytes(&name).expect("a file").to_vec());
    }
    golden.insert(format!("{folder}.json"), text(&report).into_bytes());
}

/// What every reader should come to.
fn text(report: &Report) -> String {
    let root: String = report.root.expect("a sound log").iter().map(|byte| format!("{byte:02x}")).collect();
    format!(
        "{{\n \"segments\": {},\n \"commits\": {},\n \"first_sequence\": {},\n \"next_sequence\": {},\n \"root\": \"{root}\",\n \
         \"checkpoints\": {},\n \"findings\": []\n}}\n",
        report.segments, report.commits, report.first_sequence, report.next_sequence, report.checkpoints,
    )
}

pub(crate) fn golden() -> Golden {
    let mut golden = Golden::new();
    golden.insert("key.txt".into(), format!("{}\n", signer().verifier()).into_bytes());
    let mut writer = write();
    writer.finish();
    keep(writer.log.storage(), "whole", &mut golden);
    let limits = Limits { bytes_max: 3 * 6 * 4096, oldest_tick: 0 };
    writer.log.retain(writer.now, 1_767_225_700_000_000_000, &limits, &signer()).expect("room");
    writer.finish();
    keep(writer.log.storage(), "buried", &mut golden);
    golden
}
