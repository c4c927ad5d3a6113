//! The benchmark, for a moment: every row is there and counted something.

use std::{path::Path, time::Duration};
use tachyon_bench_nats::{FRAME_BYTES, MESSAGE_BYTES, Plan, rows};

#[test]
fn every_row_counts_something() {
    if !["/usr/sbin/nats-server", "/usr/bin/nats-server"].iter().any(|path| Path::new(path).exists()) {
        eprintln!("skipped: nats-server is not installed (apt-get install nats-server)");
        return;
    }
    let plan = Plan {
        directory: std::env::temp_dir(),
        duration: Duration::from_millis(100),
        connections: 2,
        unacknowledged_max: 64,
    };
    let rows = rows(&plan).expect("a server that works");
    assert!(rows.len() == 4 || rows.len() == 6, "{rows:?}");
    for row in &rows {
        assert!([MESSAGE_BYTES, FRAME_BYTES].contains(&row.message_bytes), "{row:?}");
        assert!(row.acknowledged > 0 && row.server.starts_with("nats-server 2"), "{row:?}");
        assert_eq!(row.sync == "always", row.survives == "power failure", "{row:?}");
    }
}
