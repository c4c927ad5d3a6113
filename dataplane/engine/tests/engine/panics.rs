//! A turn that panics is charged, and the next one goes on.

use crate::fabric::{Config, Fabric, Rules, message, reasons};
use std::panic::{AssertUnwindSafe, catch_unwind};
use tachyon_wire::Reason;

#[test]
fn charges_the_rest_of_the_burst_to_the_panic_and_goes_on() {
    let mut fabric = Fabric::new(Config::default(), Rules::new(1).senders().topic(1, &[0], &[0, 1]));
    fabric.subscriber(false, 64, 1472);
    fabric.subscriber(true, 64, 1472);
    fabric.publisher(0, true);
    let offer = |fabric: &mut Fabric| {
        let messages: Vec<_> = (0..22).map(|_| message(1, 0, 2, 7, fabric.now)).collect();
        let frame = fabric.publishers[0].frame(1, 0, &messages);
        let source = fabric.publishers[0].endpoint;
        fabric.send_from(source, 1, &[&frame]);
    };
    for round in 1..=5u64 {
        offer(&mut fabric);
        fabric.worker.host().panics = true;
        let now = fabric.now + 1;
        let turn = catch_unwind(AssertUnwindSafe(|| fabric.worker.poll(now)));
        assert!(turn.is_err(), "the turn panicked");
        fabric.worker.recover();
        let counters = &fabric.worker.stats().counters;
        assert_eq!(reasons(&counters.frames_refused), [(Reason::InternalPanic, round)]);
        assert_eq!(counters.unaccounted(), [0; 3]);
        assert_eq!(fabric.worker.buffers_missing(), 0);
        offer(&mut fabric);
        fabric.drain();
    }
    let counters = fabric.finish();
    assert_eq!((counters.messages_accepted, counters.copies_given), (5 * 22, 5 * 44), "what came after it passed");
}
