//! What both programs of this folder that need a RoCE v2 device have in common: opening an end, and knowing which frames came.

use std::net::IpAddr;
use tachyon_driver_api::{Buffer, Pool, Port};
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

/// The number that a frame begins with.
pub(crate) fn number(buffer: &Buffer, offset: u32) -> u64 {
    let bytes = buffer.bytes()[offset as usize..].first_chunk();
    bytes.map_or(u64::MAX, |bytes| u64::from_le_bytes(*bytes))
}

/// Numbers kept: more than ever are on their way, delayed ones included.
const SEEN: usize = 1 << 16;

/// Which of the last frames of a stream have come: a bit for each, so that one that comes twice is not taken for two.
#[derive(Debug)]
pub(crate) struct Seen {
    /// One more than the highest number.
    next: u64,
    bits: Box<[u64; SEEN / 64]>,
    /// Frames that came after one with a higher number: they were overtaken, or came twice.
    pub(crate) out_of_order: u64,
    /// Frames that came twice.
    pub(crate) repeated: u64,
}

impl Default for Seen {
    fn default() -> Self {
        Self { next: 0, bits: Box::new([0; SEEN / 64]), out_of_order: 0, repeated: 0 }
    }
}

impl Seen {
    pub(crate) fn note(&mut self, number: u64) {
        let place = |number: u64| {
            let at = usize::try_from(number % SEEN as u64).unwrap_or(0);
            (at / 64, 1_u64 << (at % 64))
        };
        self.out_of_order += u64::from(number < self.next);
        for skipped in self.next..number.saturating_add(1).min(self.next.saturating_add(SEEN as u64)) {
            let (word, bit) = place(skipped);
            self.bits[word] &= !bit; // it stood for an older one
        }
        let (word, bit) = place(number);
        self.repeated += u64::from(self.bits[word] & bit != 0);
        self.bits[word] |= bit;
        self.next = self.next.max(number.saturating_add(1));
    }
}
