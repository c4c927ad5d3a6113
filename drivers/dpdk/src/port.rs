//! One device: found, configured, started, stopped, and asked what it is and what it counted. Cold, and one thread at a time.

use crate::{
    device::Device,
    eal::{Eal, error_of, last_error, let_settle},
    log,
    steer::{self, Families, Owners},
};
use core::{
    ffi::{CStr, c_char, c_void},
    mem, ptr,
    sync::atomic::{AtomicBool, AtomicU32, Ordering},
};
use std::ffi::CString;
use tachyon_driver_api::PortError;
use tachyon_driver_dpdk_sys as sys;
use tachyon_driver_ether::Mac;

/// Numbers software devices, so that each has a name of its own in the process.
static SERIAL: AtomicU32 = AtomicU32::new(0);

/// How packets find their worker where devices have a hash and no rules.
const HASH_ALONE: &str = "hash key";

/// What a device can do and was set to.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Abilities {
    /// It completes UDP checksums when it sends.
    pub(crate) udp_checksum: bool,
    /// It takes packets in pieces.
    pub(crate) pieces: bool,
}

/// A device that is configured; started or not.
#[derive(Debug)]
pub(crate) struct Opened {
    /// DPDK's number of it.
    pub(crate) number: u16,
    pub(crate) mac: Mac,
    pub(crate) socket: i32,
    pub(crate) abilities: Abilities,
    pub(crate) receive_descriptors: u16,
    pub(crate) transmit_descriptors: u16,
    /// Entries of its table from hash to queue.
    table: u16,
    steered_by_hash: bool,
    /// DPDK copies a device's configuration, but of the key only where it lies, and drivers read it with every start.
    key: Vec<u8>,
    /// How packets find their worker, in words.
    pub(crate) steering: String,
    pub(crate) running: bool,
    /// Made by name, so removed by name.
    name: CString,
    software: bool,
    /// A thread of DPDK's takes its connection down.
    settles: bool,
    /// Somebody takes it out of the machine, and waits for us to let go of it.
    wanted_back: &'static AtomicBool,
}

/// What a device is set to.
#[derive(Clone, Debug)]
pub(crate) struct Settings {
    pub(crate) queues: u16,
    pub(crate) mtu: u16,
    pub(crate) receive_descriptors: u16,
    pub(crate) transmit_descriptors: u16,
    pub(crate) families: Families,
    pub(crate) mac: Option<Mac>,
}

impl Opened {
    /// Finds or makes the device and configures it.
    pub(crate) fn open(_: Eal, device: &Device, settings: &Settings) -> Result<Self, PortError> {
        let (name, arguments) = device.name(SERIAL.fetch_add(1, Ordering::Relaxed), settings.queues)?;
        log::begin();
        let software = !matches!(device, Device::Pci(_));
        let fail = |what: &str, why: String| {
            let said = log::last_errors();
            let said = if said.is_empty() { String::new() } else { format!(" ({said})") };
            PortError(format!("{}: {what}: {why}{said}{}", device.title(), hint(device)))
        };
        let number = match device {
            Device::Crossed { cable, far } => crossed(&name, cable, *far).map_err(|why| fail("cannot be made", why))?,
            _ => {
                let mut result = 0;
                if software {
                    // SAFETY: two C strings.
                    result = unsafe { sys::rte_vdev_init(name.as_ptr(), arguments.as_ptr()) };
                }
                if result != 0 {
                    return Err(fail("cannot be made", error_of(result)));
                }
                number_of(&name).ok_or_else(|| fail("DPDK does not have it", "no driver took it".to_owned()))?
            }
        };
        let mut opened = Self {
            number,
            mac: [0; 6],
            socket: 0,
            abilities: Abilities::default(),
            receive_descriptors: settings.receive_descriptors,
            transmit_descriptors: settings.transmit_descriptors,
            table: 0,
            steered_by_hash: false,
            key: steer::key(settings.families).to_vec(),
            steering: "none".to_owned(),
            running: false,
            wanted_back: hear_of_removal(&name),
            name,
            software,
            settles: matches!(device, Device::Memif { .. }),
        };
        opened.configure(settings).map_err(|(what, result)| fail(what, error_of(result)))?;
        Ok(opened)
    }

    fn configure(&mut self, settings: &Settings) -> Result<(), (&'static str, i32)> {
        // SAFETY: plain C structures for which zeros are values, filled by DPDK or read by it during each call.
        unsafe {
            let mut info: sys::rte_eth_dev_info = mem::zeroed();
            check("cannot be asked what it is", sys::rte_eth_dev_info_get(self.number, &raw mut info))?;
            if info.max_rx_queues < settings.queues || info.max_tx_queues < settings.queues {
                return Err(("has fewer queues than there are workers", -libc::ENOSPC));
            }
            let wanted = u64::from(sys::RTE_ETH_RSS_NONFRAG_IPV4_UDP) | u64::from(sys::RTE_ETH_RSS_NONFRAG_IPV6_UDP);
            let hashes = info.flow_type_rss_offloads & wanted;
            let can_hash = hashes != 0 && usize::from(info.hash_key_size) == self.key.len() && info.reta_size > 0;
            let mut config: sys::rte_eth_conf = mem::zeroed();
            if can_hash && settings.queues > 1 {
                config.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
                let (rss_key, rss_key_len) = (self.key.as_mut_ptr(), self.key.len() as u8);
                config.rx_adv_conf.rss_conf = sys::rte_eth_rss_conf { rss_key, rss_key_len, rss_hf: hashes };
            }
            let checksums = sys::RTE_ETH_RX_OFFLOAD_IPV4_CKSUM as u64 | sys::RTE_ETH_RX_OFFLOAD_UDP_CKSUM as u64;
            config.rxmode.offloads = info.rx_offload_capa & checksums;
            let udp = sys::RTE_ETH_TX_OFFLOAD_UDP_CKSUM as u64;
            let pieces = sys::RTE_ETH_TX_OFFLOAD_MULTI_SEGS as u64;
            config.txmode.offloads = info.tx_offload_capa & (udp | pieces);
            // Software devices take pieces without saying so.
            let takes_pieces = info.tx_offload_capa & pieces != 0;
            self.abilities = Abilities { udp_checksum: info.tx_offload_capa & udp != 0, pieces: takes_pieces };
            if info.max_mtu >= u16::max(settings.mtu, 68) || info.max_mtu == 0 {
                config.rxmode.mtu = u32::from(settings.mtu);
            } else {
                return Err(("cannot have this MTU", -libc::ERANGE));
            }
            let queues = settings.queues;
            check("cannot be configured", sys::rte_eth_dev_configure(self.number, queues, queues, &raw const config))?;
            let (rx, tx) = (&raw mut self.receive_descriptors, &raw mut self.transmit_descriptors);
            check(
                "cannot have so few or many descriptors",
                sys::rte_eth_dev_adjust_nb_rx_tx_desc(self.number, rx, tx),
            )?;
            self.socket = sys::rte_eth_dev_socket_id(self.number);
            self.steered_by_hash = can_hash && queues > 1;
            self.table = info.reta_size;
            self.mac = settings.mac.unwrap_or_else(|| own_mac(self.number));
        }
        Ok(())
    }

    /// Sets up one worker's queue, in both directions.
    pub(crate) fn set_up(&self, queue: u16, pool: *mut sys::rte_mempool) -> Result<(), PortError> {
        log::begin();
        let (number, socket) = (self.number, u32::try_from(self.socket).unwrap_or(0));
        // SAFETY: null asks for the device's defaults; the pool outlives the port, as both stay until the process ends or
        // the port is closed first.
        let result = unsafe {
            match sys::rte_eth_rx_queue_setup(number, queue, self.receive_descriptors, socket, ptr::null(), pool) {
                0 => sys::rte_eth_tx_queue_setup(number, queue, self.transmit_descriptors, socket, ptr::null()),
                result => result,
            }
        };
        if result == 0 {
            return Ok(());
        }
        Err(PortError(format!(
            "queue {queue} of {} cannot be set up: {}; {}",
            self.name.to_string_lossy(),
            error_of(result),
            log::last_errors()
        )))
    }

    /// Starts it and tells it which shard goes where.
    pub(crate) fn start(&mut self, families: Families, owners: &Owners) -> Result<(), PortError> {
        log::begin();
        // SAFETY: all queues are set up; nobody polls it yet.
        let result = unsafe { sys::rte_eth_dev_start(self.number) };
        if result != 0 {
            let said = log::last_errors();
            return Err(PortError(format!(
                "{} cannot be started: {}; {said}",
                self.name.to_string_lossy(),
                error_of(result)
            )));
        }
        self.running = true;
        self.steer(families, owners);
        Ok(())
    }

    fn steer(&mut self, families: Families, owners: &Owners) {
        if owners.queues.iter().all(|queue| *queue == 0) {
            "one queue".clone_into(&mut self.steering);
            return;
        }
        // The hash is told in any case: a device that takes rules and ignores them still has it.
        let hash = if self.steered_by_hash {
            steer::by_hash(self.number, self.table, owners)
        } else {
            Err("the device has no hash over ports".to_owned())
        };
        self.steering = match (steer::by_rules(self.number, families, owners), hash) {
            (Ok(()), Ok(())) => "flow rules, and hash key".to_owned(),
            (Ok(()), Err(_)) => "flow rules".to_owned(),
            (Err(_), Ok(())) => HASH_ALONE.to_owned(),
            (Err(rules), Err(hash)) => format!("none: {rules}; {hash}"),
        };
    }

    /// Whether there is nothing but the hash to tell packets apart by.
    pub(crate) fn is_steered_by_hash_alone(&self) -> bool {
        self.steering == HASH_ALONE
    }

    /// Stops it. Nobody may poll it any more. What was in its rings goes back to the pools.
    pub(crate) fn stop(&mut self) -> Result<(), PortError> {
        if self.settles {
            // Twice: what was pending with the first alarm is done when the second one runs.
            let_settle();
            let_settle();
        }
        // SAFETY: the caller waited until nobody polls it.
        let result = unsafe { sys::rte_eth_dev_stop(self.number) };
        self.running = false;
        if result == 0 { Ok(()) } else { Err(PortError(format!("cannot be stopped: {}", error_of(result)))) }
    }

    /// Gives it up. Nobody may poll it any more.
    pub(crate) fn close(mut self) {
        if self.running {
            let _ = self.stop(); // what cannot be stopped is closed all the same
        }
        let wanted_back = !self.software && self.is_gone();
        // SAFETY: stopped, and nobody polls it. What the port stood on is asked for while there is a port.
        unsafe {
            let mut info: sys::rte_eth_dev_info = mem::zeroed();
            sys::rte_eth_dev_info_get(self.number, &raw mut info);
            sys::rte_eth_dev_close(self.number);
            if self.software {
                sys::rte_vdev_uninit(self.name.as_ptr());
            } else if wanted_back && !info.device.is_null() {
                // Closes what the kernel waits for. Otherwise it stays known to DPDK, which probes devices only once.
                sys::rte_dev_remove(info.device);
            }
        }
    }

    /// Whether its link is up, and its speed in Mbit/s where that is known.
    pub(crate) fn link(&self) -> (bool, Option<u32>) {
        // SAFETY: DPDK fills a structure for which zeros are a value.
        unsafe {
            let mut link: sys::rte_eth_link = mem::zeroed();
            let result = sys::rte_eth_link_get_nowait(self.number, &raw mut link);
            let speed = sys::tachyon_link_speed(&raw const link);
            let known = speed != 0 && speed != u32::MAX;
            (result == 0 && sys::tachyon_link_is_up(&raw const link) != 0, known.then_some(speed))
        }
    }

    /// Whether the device is no longer there, or is about to be.
    pub(crate) fn is_gone(&self) -> bool {
        // SAFETY: a number in, a number out.
        self.wanted_back.load(Ordering::Relaxed) || unsafe { sys::rte_eth_dev_is_removed(self.number) == 1 }
    }

    /// Packets that it dropped for want of room or buffers.
    pub(crate) fn missed(&self) -> u64 {
        // SAFETY: DPDK fills a structure for which zeros are a value.
        unsafe {
            let mut stats: sys::rte_eth_stats = mem::zeroed();
            sys::rte_eth_stats_get(self.number, &raw mut stats);
            stats.imissed + stats.rx_nombuf
        }
    }

    /// What it counted: the usual counts by our names, then its own that are not zero.
    pub(crate) fn counters(&self) -> Vec<(String, u64)> {
        // SAFETY: DPDK fills what it is given, as long as it is told.
        unsafe {
            let mut stats: sys::rte_eth_stats = mem::zeroed();
            if sys::rte_eth_stats_get(self.number, &raw mut stats) != 0 {
                return Vec::new();
            }
            let usual = [
                ("packets_received", stats.ipackets),
                ("packets_sent", stats.opackets),
                ("bytes_received", stats.ibytes),
                ("bytes_sent", stats.obytes),
                ("receive_missed", stats.imissed),
                ("receive_errors", stats.ierrors),
                ("receive_no_buffer", stats.rx_nombuf),
                ("send_errors", stats.oerrors),
            ];
            let mut counters: Vec<(String, u64)> = usual.map(|(name, count)| (name.to_owned(), count)).into();
            counters.extend(self.extended());
            counters
        }
    }

    fn extended(&self) -> Vec<(String, u64)> {
        // SAFETY: asked for the number first, then with room for as many.
        unsafe {
            let count = sys::rte_eth_xstats_get(self.number, ptr::null_mut(), 0);
            let room = usize::try_from(count).unwrap_or(0);
            let mut names: Vec<sys::rte_eth_xstat_name> = vec![mem::zeroed(); room];
            let mut values: Vec<sys::rte_eth_xstat> = vec![mem::zeroed(); room];
            let named = sys::rte_eth_xstats_get_names(self.number, names.as_mut_ptr(), room as u32);
            let got = sys::rte_eth_xstats_get(self.number, values.as_mut_ptr(), room as u32);
            if named != count || got != count {
                return Vec::new();
            }
            let used = values.iter().filter(|value| value.value != 0);
            let named = used.filter_map(|value| {
                let name = names.get(usize::try_from(value.id).ok()?)?;
                Some((CStr::from_ptr(name.name.as_ptr()).to_string_lossy().into_owned(), value.value))
            });
            // These are the usual ones once more.
            named.filter(|(name, _)| !name.ends_with("_good_packets") && !name.ends_with("_good_bytes")).collect()
        }
    }

    /// The memory of the arena becomes the device's to write into.
    pub(crate) fn map(&self, base: *mut u8, bytes: usize) -> Result<(), PortError> {
        if self.software {
            return Ok(());
        }
        // SAFETY: the region is the arena's and stays mapped; devices see the process's addresses.
        let result = unsafe {
            let mut info: sys::rte_eth_dev_info = mem::zeroed();
            sys::rte_eth_dev_info_get(self.number, &raw mut info);
            sys::rte_dev_dma_map(info.device, base.cast(), base.addr() as u64, bytes)
        };
        if result == 0 || sys_errno() == libc::ENOTSUP || sys_errno() == libc::EEXIST {
            return Ok(()); // without vfio the driver registers memory as it meets it
        }
        Err(PortError(format!(
            "{} cannot be given the arena: {}; raise the limit of locked memory (`ulimit -l unlimited`)",
            self.name.to_string_lossy(),
            last_error()
        )))
    }
}

fn number_of(name: &CStr) -> Option<u16> {
    let mut number = 0;
    // SAFETY: a C string in, a number out.
    let result = unsafe { sys::rte_eth_dev_get_port_by_name(name.as_ptr(), &raw mut number) };
    (result == 0).then_some(number)
}

/// Packets that each direction of a cable holds.
const CABLE_PACKETS: u32 = 1_024;

/// Makes one end of a cable between two ports of this process. Its two rings are made with the first end and stay.
fn crossed(name: &CStr, cable: &str, far: bool) -> Result<u16, String> {
    let ring = |direction: &str| {
        let name = CString::new(format!("{cable}-{direction}")).map_err(|error| error.to_string())?;
        // SAFETY: a C string and numbers; one thread opens devices at a time.
        let ring = unsafe {
            match sys::rte_ring_lookup(name.as_ptr()) {
                ring if ring.is_null() => sys::rte_ring_create(name.as_ptr(), CABLE_PACKETS, -1, 0),
                ring => ring,
            }
        };
        if ring.is_null() { Err(last_error()) } else { Ok(ring) }
    };
    let (mut out, mut back) = (ring("there")?, ring("back")?);
    if far {
        mem::swap(&mut out, &mut back);
    }
    // SAFETY: one ring each way, which stay; the name is a C string that DPDK copies.
    let number = unsafe { sys::rte_eth_from_rings(name.as_ptr(), &raw mut back, 1, &raw mut out, 1, 0) };
    u16::try_from(number).map_err(|_| last_error())
}

/// What becomes true when the kernel asks for the device of this name, on a thread of DPDK's. It waits for us then, so that
/// the device can be let go of in peace.
fn hear_of_removal(name: &CStr) -> &'static AtomicBool {
    unsafe extern "C" fn hear(_: *const c_char, event: sys::rte_dev_event_type, wanted_back: *mut c_void) {
        if event == sys::RTE_DEV_EVENT_REMOVE {
            // SAFETY: the flag below, which is never freed.
            unsafe { &*wanted_back.cast::<AtomicBool>() }.store(true, Ordering::Relaxed);
        }
    }
    // Nothing says when DPDK calls for the last time, so the flag stays: a byte for each device and process.
    let wanted_back: &'static AtomicBool = Box::leak(Box::default());
    let argument = ptr::from_ref(wanted_back).cast_mut().cast();
    // SAFETY: a C string that is copied, a function, and a flag for it. Without memory nobody is told, and the kernel waits.
    unsafe { sys::rte_dev_event_callback_register(name.as_ptr(), Some(hear), argument) };
    wanted_back
}

fn sys_errno() -> i32 {
    // SAFETY: reads a thread-local number.
    unsafe { sys::tachyon_errno() }
}

fn check(what: &'static str, result: i32) -> Result<(), (&'static str, i32)> {
    if result == 0 { Ok(()) } else { Err((what, result)) }
}

fn own_mac(number: u16) -> Mac {
    // SAFETY: DPDK writes six bytes.
    unsafe {
        let mut mac: sys::rte_ether_addr = mem::zeroed();
        sys::rte_eth_macaddr_get(number, &raw mut mac);
        mac.addr_bytes
    }
}

/// What people have to do most often when a device of this kind cannot be opened.
fn hint(device: &Device) -> &'static str {
    match device {
        Device::Pci(_) => "; bind it to vfio-pci, as `tachyon doctor` shows, and stop whoever else uses it",
        Device::Memif { server: true, .. } => "; is the socket's folder there, and no other server at it?",
        Device::AfPacket(_) | Device::AfXdp { .. } => {
            "; `ip link` lists interfaces, and raw sockets need root or CAP_NET_RAW"
        }
        Device::VirtioUser(_) => "; /dev/vhost-net needs the module vhost_net",
        _ => "",
    }
}
