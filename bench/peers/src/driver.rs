//! The node's driver with nothing behind it: what is received is sent on from the same buffer.

use crate::{Count, Relay, Turn};
use anyhow::{Result, anyhow};
use std::io::{self, Write};
use tachyon_driver_api::{CompletionBatch, Pool, Port, RxBatch, RxQueue, Transmit, TxBatch, TxQueue};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_uring::{BUFFER_BYTES, UringConfig, UringPort};
use tachyon_wire::Endpoint;

/// 32 MiB in all: the driver's 64 to receive into, its 256 to send, and a burst of each in hand.
const BUFFERS: usize = 512;
/// Empty turns before it sleeps: about as long as a syscall takes, so that sleeping never costs more than it saves.
const IDLE_TURNS: u32 = 64;

pub(crate) fn open(relay: &Relay) -> Result<Turn> {
    let config = ArenaConfig {
        bytes: BUFFERS * BUFFER_BYTES as usize,
        buffer_bytes: BUFFER_BYTES,
        pages: Pages::Auto,
        lock: true,
        numa_node: None,
    };
    let mut pool = Pool::new(Arena::create(config)?.take(BUFFERS)?);
    let config = UringConfig {
        receive_buffer_bytes: relay.receive_buffer_bytes,
        ..UringConfig::new(relay.bind.into(), relay.base_port)
    };
    let mut port = UringPort::new(config)?;
    let shards: Vec<u16> = (0..relay.shards).collect();
    let mut queue = port.open(&shards, &mut pool)?;
    for line in port.info().degraded {
        writeln!(io::stderr(), "degraded: {line}")?;
    }
    relay.to.port().checked_add(relay.shards - 1).ok_or_else(|| anyhow!("--to: its port + --shards is above 65535"))?;
    let (to, first, wait_ns) = (relay.to.ip().octets(), relay.to.port(), relay.wait_ns);
    let (mut received, mut sending, mut done) = (RxBatch::new(), TxBatch::new(), CompletionBatch::new());
    let mut idle = 0;
    Ok(Box::new(move |count: &mut Count| {
        if sending.is_empty() {
            queue.rx_burst(&mut pool, &mut received);
        } else {
            // Full: nothing more is taken in before what is here went out.
            queue.rx_burst(&mut pool, &mut RxBatch::new());
        }
        for item in received.drain(..) {
            let bytes = &item.buffer.bytes()[item.offset as usize..][..item.len as usize];
            count.frames(bytes, item.stride as usize);
            sending.push(Transmit {
                buffer: item.buffer,
                offset: item.offset,
                len: item.len,
                stride: item.stride,
                shard: item.shard,
                destination: Endpoint::v4(to, first + item.shard),
                token: 0,
            });
        }
        let sent = queue.tx_burst(&mut sending);
        queue.completions(&mut done);
        idle = if sent + done.len() > 0 { 0 } else { idle + 1 };
        done.drain(..).for_each(|completion| pool.put(completion.buffer));
        if idle > IDLE_TURNS && wait_ns > 0 {
            queue.wait(wait_ns);
        }
        count.syscalls = queue.stats().syscalls;
        Ok(())
    }))
}
