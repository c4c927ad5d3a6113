//! What the programs of this folder that need a RoCE v2 device have in common: opening an end.

use std::net::IpAddr;
use tachyon_driver_api::{Pool, Port};
use tachyon_driver_arena::{Arena, ArenaConfig, Pages};
use tachyon_driver_verbs::{ArenaRegion, RingSize, VerbsConfig, VerbsPorts, VerbsQueue, device::Fabric};

/// Buffers of one end.
pub(crate) const BUFFERS: usize = 1_024;
/// Room for a path MTU of 4096, and what stands in front.
const BUFFER_BYTES: u32 = 4_224;
/// What travels beside each frame: not 0, so that it is seen in packets.
pub(crate) const SHARD: u16 = 5;
/// The ring that a subscriber offers in ring mode.
pub(crate) const RING: RingSize = RingSize { slots: 128, slot_bytes: 4_096 };
/// 82 ms, as the InfiniBand table has it: in an emulated machine a worker stands still for longer than any subscriber should.
const MIN_RNR_TIMER: u8 = 26;

/// A device by its name, or whichever has the address.
pub(crate) type At = (Option<String>, IpAddr);

/// `DEVICE:IP`, or the address alone.
pub(crate) fn port(text: &str) -> Result<At, String> {
    let wrong = || format!("{text} is no DEVICE:IP");
    if let Ok(ip) = text.parse() {
        return Ok((None, ip));
    }
    let (device, ip) = text.split_once(':').ok_or_else(wrong)?;
    Ok((Some(device.to_owned()), ip.parse().map_err(|_| wrong())?))
}

/// The cold side of an end, and its one worker's queue and buffers.
pub(crate) type Parts<F> = (VerbsPorts<F>, VerbsQueue<<F as Fabric>::Device>, Pool);

/// Opens an end with one worker, for frames of `bytes`.
pub(crate) fn open<F: Fabric>(
    at: &At,
    (bytes, events): (u32, bool),
    fabric: impl FnOnce(&VerbsConfig) -> Result<F, String>,
) -> Result<Parts<F>, String> {
    let (pages, lock, numa_node) = (Pages::Auto, false, None);
    let memory =
        ArenaConfig { bytes: BUFFERS * BUFFER_BYTES as usize, buffer_bytes: BUFFER_BYTES, pages, lock, numa_node };
    let mut arena = Arena::create(memory).map_err(|error| error.to_string())?;
    let (base, size) = arena.region();
    let region = ArenaRegion { base: base.as_ptr().expose_provenance(), bytes: size };
    let mut config = VerbsConfig::new(at.1, region, u64::from(std::process::id()) ^ region.base as u64);
    config.device.clone_from(&at.0);
    // Soft devices have short completion queues, and there are few connections.
    (config.events, config.connections_max, config.min_rnr_timer) = (events, 4, MIN_RNR_TIMER);
    let mut ports = VerbsPorts::with(fabric(&config)?, config).map_err(|error| error.to_string())?;
    let mut pool = Pool::new(arena.take(BUFFERS).map_err(|error| error.to_string())?);
    let mut seat = ports.seat(0).ok_or("no seat")?;
    let queue = seat.open(&[], &mut pool).map_err(|error| error.to_string())?;
    let most = seat.info().frame_bytes_max;
    if most < bytes {
        return Err(format!("--bytes {bytes}: at most {most}"));
    }
    Ok((ports, queue, pool))
}
