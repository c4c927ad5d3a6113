//! A log that nothing happens to: what goes in comes out, in order, verified, and other people's tools agree.

mod support;

use support::{config, fill, is_right, log, read_all};
use tachyon_log::{Appender, verify::verify};

#[test]
fn what_goes_in_comes_out_over_many_segments() {
    let mut disk = log(1, 500, 7, 12, 2);
    let (records, whole) = read_all(&mut disk);
    assert!(whole);
    assert_eq!(records.len(), 500);
    for (sequence, record) in records.iter().enumerate() {
        assert_eq!(record.0, sequence as u64);
        assert!(is_right(1, record), "record {sequence}");
    }
    let report = verify(&mut disk, None, &[]).expect("readable");
    assert_eq!(report.findings, []);
    assert!(report.segments > 5, "{} segments", report.segments);
    assert_eq!(report.next_sequence, 500);
}

#[test]
fn a_log_goes_on_where_it_ended() {
    let mut storage = log(2, 40, 3, 12, 2);
    for round in 1..6 {
        let mut appender = Appender::open(storage, config(12), 0).expect("a sound log");
        assert_eq!(appender.next_sequence(), 40 * round);
        assert!(!appender.was_torn());
        fill(&mut appender, 2, 40 * (round + 1), 3);
        let root = appender.root();
        storage = appender.into_storage();
        assert_eq!(verify(&mut storage, None, &[]).expect("readable").root, Some(root));
    }
    let (records, whole) = read_all(&mut storage);
    assert!(whole && records.len() == 240 && records.iter().all(|record| is_right(2, record)));
}
