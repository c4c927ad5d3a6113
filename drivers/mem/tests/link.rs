//! The link between two threads, its limits, and the port that opens it.

use std::thread;
use tachyon_driver_api::{CompletionBatch, Pool, Port, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_mem::{LinkConfig, MemPort, MemQueue, Outside, pair};
use tachyon_wire::{Endpoint, Reason};

const PEER: Endpoint = Endpoint::v4([192, 0, 2, 1], 1000);

fn pools(buffers: usize) -> (Pool, Pool) {
    let mut arena = Arena::create(ArenaConfig {
        bytes: 2 * buffers * 2048,
        buffer_bytes: 2048,
        pages: Pages::Ordinary,
        lock: false,
        numa_node: None,
    })
    .expect("a little memory");
    (
        Pool::new(arena.take(buffers).expect("half of the arena")),
        Pool::new(arena.take(buffers).expect("half of the arena")),
    )
}

fn item(pool: &mut Pool, number: u32) -> Option<Transmit> {
    let mut buffer = pool.get()?;
    buffer.bytes_mut()[..4].copy_from_slice(&number.to_le_bytes());
    Some(Transmit { buffer, offset: 0, len: 64, stride: 64, shard: 0, destination: PEER, token: number })
}

/// Sends `count` numbered frames and expects as many from the other end, in order; ends with every buffer back.
fn exchange(mut queue: MemQueue, mut pool: Pool, count: u32) {
    let (mut next, mut expected, mut completed) = (0, 0, 0);
    let (mut received, mut sending, mut done) = (RxBatch::new(), TxBatch::new(), CompletionBatch::new());
    while expected < count || completed < count {
        // Half of the buffers at most, so that enough is left to receive with.
        while next < count && !sending.is_full() && pool.free() > pool.total() / 2 {
            sending.extend(item(&mut pool, next));
            next += 1;
        }
        let mut moved = queue.tx_burst(&mut sending);
        moved += queue.rx_burst(&mut pool, &mut received);
        for item in received.drain(..) {
            assert_eq!(item.buffer.bytes()[..4], expected.to_le_bytes());
            expected += 1;
            pool.put(item.buffer);
        }
        moved += queue.completions(&mut done);
        for completion in done.drain(..) {
            assert_eq!((completion.token, completion.error), (completed, None));
            completed += 1;
            pool.put(completion.buffer);
        }
        if moved == 0 {
            queue.wait(1_000_000);
        }
    }
    assert_eq!((queue.held(), pool.free()), (0, pool.total()));
}

#[test]
fn two_threads_exchange_a_hundred_thousand_frames_each_way_in_order() {
    const FRAMES: u32 = 100_000;
    let (worker, outside) = pair(LinkConfig { depth: 64, ..LinkConfig::default() });
    let (worker_pool, outside_pool) = pools(200);
    let other = thread::spawn(move || exchange(outside, outside_pool, FRAMES));
    exchange(worker, worker_pool, FRAMES);
    other.join().unwrap();
}

#[test]
fn takes_no_more_than_its_depth_until_something_completes() {
    let (mut worker, outside) = pair(LinkConfig { depth: 8, ..LinkConfig::default() });
    let (mut pool, outside_pool) = pools(64);
    let mut outside = Outside::new(outside, outside_pool);
    let mut batch: TxBatch = (0..20).filter_map(|number| item(&mut pool, number)).collect();
    assert_eq!((worker.tx_burst(&mut batch), worker.held()), (8, 8));
    assert_eq!(worker.tx_burst(&mut batch), 0);
    assert_eq!(outside.receive().len(), 8);
    assert_eq!(worker.tx_burst(&mut batch), 0, "the buffers that come back must be taken first");
    let mut done = CompletionBatch::new();
    assert_eq!(worker.completions(&mut done), 8);
    assert_eq!(worker.tx_burst(&mut batch), 8);
}

#[test]
fn what_cannot_be_sent_completes_with_submit_fail_and_its_own_buffer() {
    let (mut worker, outside) = pair(LinkConfig { depth: 8, frame_bytes_max: 1024 });
    let (mut pool, outside_pool) = pools(8);
    let mut outside = Outside::new(outside, outside_pool);
    let wrong: [fn(&mut Transmit); 5] = [
        |item| item.destination = Endpoint::NONE,
        |item| (item.len, item.stride) = (1025, 1025),
        |item| item.stride = 0,
        |item| item.len = 0,
        |item| item.offset = u32::MAX,
    ];
    for (number, spoil) in (0..).zip(wrong) {
        let mut item = item(&mut pool, number).unwrap();
        spoil(&mut item);
        let index = item.buffer.index();
        let mut batch: TxBatch = [item].into_iter().collect();
        assert_eq!(worker.tx_burst(&mut batch), 1);
        let mut done = CompletionBatch::new();
        assert_eq!(worker.completions(&mut done), 1, "case {number}");
        assert_eq!((done[0].token, done[0].error, done[0].buffer.index()), (number, Some(Reason::TxSubmitFail), index));
    }
    assert!(outside.receive().is_empty());
}

#[test]
fn a_buffer_travels_without_being_copied_and_another_comes_back() {
    let (mut worker, mut outside) = pair(LinkConfig::default());
    let (mut pool, mut outside_pool) = pools(4);
    let item = item(&mut pool, 1).unwrap();
    let address = item.buffer.address();
    let mut batch: TxBatch = [item].into_iter().collect();
    worker.tx_burst(&mut batch);
    let mut received = RxBatch::new();
    assert_eq!(outside.rx_burst(&mut outside_pool, &mut received), 1);
    assert_eq!(received[0].buffer.address(), address);
    assert_eq!(received[0].source, PEER, "the outside is told whom the worker addressed");
    let mut done = CompletionBatch::new();
    assert_eq!(worker.completions(&mut done), 1);
    assert_ne!(done[0].buffer.address(), address);
}

#[test]
fn the_port_opens_queues_and_keeps_their_outside_ends() {
    let mut port = MemPort::new(LinkConfig::default()).unwrap();
    let (mut pool, outside_pool) = pools(16);
    let mut queue = port.open(&[0, 1], &mut pool).unwrap();
    let mut outside = Outside::new(port.take_outside().unwrap(), outside_pool);
    assert!(port.take_outside().is_none());
    assert!(outside.send(PEER, 1, 42, &[&[1; 64], &[2; 64], &[3; 32]]));
    let mut batch = RxBatch::new();
    assert_eq!(queue.rx_burst(&mut pool, &mut batch), 1);
    let got = &batch[0];
    assert_eq!((got.offset, got.len, got.stride, got.shard, got.source), (42, 160, 64, 1, PEER));
    assert_eq!((port.info().driver, port.info().frame_bytes_max), ("mem", 1472));
    let error = MemPort::new(LinkConfig { depth: 100, ..LinkConfig::default() }).unwrap_err();
    assert!(error.0.contains("power of two"), "{error}");
}
