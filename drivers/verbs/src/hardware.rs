//! Real queue pairs, the cold half: a device opened, its objects made and destroyed, its events read.

use crate::{
    config::{RETRIES_MAX, VerbsConfig},
    device::{Fabric, FabricEvent, FabricInfo, Needs, PeerEnd, RingMemory, Secret, Way},
    devices::{self, Context, failed, made},
    finder::Finder,
    posting::{Completions, HardwareDevice},
};
use core::{ffi::CStr, mem, ptr};
use std::{net::IpAddr, sync::Arc};
use tachyon_driver_api::PortError;
use tachyon_driver_verbs_sys as sys;

/// Routers that a packet may pass: what Linux takes for RoCE too.
const HOP_LIMIT: u8 = 64;
/// What people have to do most often when memory cannot be registered.
const MEMORY_HINT: &str = "raise the limit of locked memory (`ulimit -l unlimited`, or LimitMEMLOCK of the unit)";
/// The same when queues cannot be made.
const QUEUE_HINT: &str = "lower receive_depth, send_depth or connections_max, or give it to fewer workers";

/// The same where a device cannot do what this driver does; all that have RoCE v2 and `ibv_wr_*` can.
const NO_POSTING_HINT: &str = "its provider has no extended posting: use rdma-core 34 or newer with mlx5, or with rxe";

/// An open device with its protection domain and the arena's registration.
#[derive(Debug)]
pub(crate) struct Opened {
    region: *mut sys::ibv_mr,
    domain: *mut sys::ibv_pd,
    pub(crate) name: String,
    pub(crate) context: Context,
}

// SAFETY: handles of verbs objects, which may be used by several threads; libibverbs locks what it has to.
unsafe impl Send for Opened {}
// SAFETY: the same.
unsafe impl Sync for Opened {}

impl Drop for Opened {
    fn drop(&mut self) {
        // SAFETY: made in `Hardware::open`, destroyed once; every object of the domain holds this and is gone.
        unsafe {
            if !self.region.is_null() {
                sys::ibv_dereg_mr(self.region);
            }
            sys::ibv_dealloc_pd(self.domain);
        }
    }
}

/// One worker's completion queue and shared receive queue.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) receive: *mut sys::ibv_srq,
    pub(crate) completions: Completions,
    _opened: Arc<Opened>,
}

// SAFETY: as for `Opened`.
unsafe impl Send for Queues {}
// SAFETY: as for `Opened`.
unsafe impl Sync for Queues {}

impl Drop for Queues {
    fn drop(&mut self) {
        // SAFETY: made in `Hardware::worker`, destroyed once; every queue pair holds this and is gone.
        unsafe { sys::ibv_destroy_srq(self.receive) };
        self.completions.destroy();
    }
}

/// A queue pair.
#[derive(Debug)]
pub struct QueuePair {
    pair: *mut sys::ibv_qp,
    pub(crate) posting: *mut sys::ibv_qp_ex,
    pub(crate) inline_bytes: u32,
    pub(crate) number: u32,
    _worker: Arc<Queues>,
}

// SAFETY: as for `Opened`. The worker posts; the cold side only changes its state. That is allowed at any time but for the reset,
// for which mlx5 clears what posting counts, without the lock of posting: it comes only once the worker was told to stop and took
// that order, see `VerbsPorts::tick`.
unsafe impl Send for QueuePair {}
// SAFETY: the same.
unsafe impl Sync for QueuePair {}

impl Drop for QueuePair {
    fn drop(&mut self) {
        // SAFETY: made in `Hardware::make_pair`, destroyed once, by whoever had the last handle: nobody posts any more.
        unsafe { sys::ibv_destroy_qp(self.pair) };
    }
}

/// The way to a datagram queue pair.
#[derive(Debug)]
pub struct AddressHandle {
    pub(crate) handle: *mut sys::ibv_ah,
    _opened: Arc<Opened>,
}

// SAFETY: as for `Opened`.
unsafe impl Send for AddressHandle {}

impl Drop for AddressHandle {
    fn drop(&mut self) {
        // SAFETY: made in `Hardware::address`, destroyed once; the worker gave it back when nothing of it was in flight.
        unsafe { sys::ibv_destroy_ah(self.handle) };
    }
}

/// A subscriber's own ring: memory and registration.
#[derive(Debug)]
pub struct RingRegion {
    region: *mut sys::ibv_mr,
    memory: *mut u8,
    layout: std::alloc::Layout,
    _opened: Arc<Opened>,
}

// SAFETY: as for `Opened`; the memory is named by address only.
unsafe impl Send for RingRegion {}

impl Drop for RingRegion {
    fn drop(&mut self) {
        // SAFETY: made in `Hardware::ring`. The registration ends first, so no device writes to what is freed then.
        unsafe {
            if sys::ibv_dereg_mr(self.region) == 0 {
                std::alloc::dealloc(self.memory, self.layout);
            }
        }
    }
}

/// A RoCE v2 port that is open.
#[derive(Debug)]
pub struct Hardware {
    opened: Arc<Opened>,
    config: VerbsConfig,
    info: FabricInfo,
    port: u8,
    gid_index: u8,
    /// Whether completions are read in place; see `Completions`.
    extended: bool,
    /// By worker.
    queues: Vec<Arc<Queues>>,
    registrations: u64,
    /// Started when it is first needed, so that its thread has no more rights than the one that the cold side is on.
    finder: Option<Finder>,
}

impl Hardware {
    /// Opens the device that has the configured address, and registers the arena.
    ///
    /// # Errors
    /// There is no such device, or it does not give what is needed; the text says what to do.
    pub fn open(config: &VerbsConfig) -> Result<Self, PortError> {
        let all = devices::devices()?;
        let (device, port, gid) = all.find(config.device.as_deref(), config.ip)?;
        let context = devices::open(&device.name)?;
        let name = device.name.clone();
        let gid_index = u8::try_from(gid.index).map_err(|_| {
            PortError(format!(
                "{name}: {} is at place {} of the table of addresses, above 255: remove some",
                config.ip, gid.index
            ))
        })?;
        // SAFETY: an open device.
        let domain =
            made(unsafe { sys::ibv_alloc_pd(context.0) }, &name, "no protection domain", "close other programs")?;
        let mut opened = Opened { region: ptr::null_mut(), domain, name, context };
        let start = ptr::with_exposed_provenance_mut(config.arena.base);
        // SAFETY: the arena stays mapped until the process ends, and belongs to buffers that are given to the device.
        let region = unsafe { sys::tachyon_reg_mr(domain, start, config.arena.bytes, sys::IBV_ACCESS_LOCAL_WRITE) };
        opened.region = made(region, &opened.name, "the arena cannot be registered", MEMORY_HINT)?;
        set_non_blocking(&opened)?;
        let extended = devices::attributes(&opened.context).is_some_and(|attributes| attributes.vendor_id == MELLANOX);
        let mut degraded = Vec::new();
        if port.mtu_bytes < 1_024 {
            degraded.push(format!("path MTU {}: raise the interface's MTU (4200 gives 4096)", port.mtu_bytes));
        }
        let ip = match config.ip {
            IpAddr::V4(ip) => ip.to_ipv6_mapped(),
            IpAddr::V6(ip) => ip,
        };
        let info = FabricInfo {
            device: opened.name.clone(),
            gid: ip.octets(),
            mtu_bytes: port.mtu_bytes.min(config.mtu_bytes_max),
            up: port.up,
            soft: !extended,
            degraded,
        };
        let (port, config) = (port.number, config.clone());
        Ok(Self {
            opened: Arc::new(opened),
            config,
            info,
            port,
            gid_index,
            extended,
            queues: Vec::new(),
            registrations: 1,
            finder: None,
        })
    }

    fn make_pair(&self, worker: &Arc<Queues>, kind: sys::ibv_qp_type) -> Result<Arc<QueuePair>, PortError> {
        let mut operations = u64::from(sys::IBV_QP_EX_WITH_SEND_WITH_IMM);
        if kind == sys::IBV_QPT_RC {
            operations |= u64::from(sys::IBV_QP_EX_WITH_RDMA_WRITE_WITH_IMM);
        }
        let mut inline_bytes = self.config.inline_bytes;
        loop {
            // SAFETY: zeros are a value of this plain structure, which verbs reads and completes; all handles in it live.
            let (pair, got) = unsafe {
                let mut wanted: sys::ibv_qp_init_attr_ex = mem::zeroed();
                wanted.send_cq = worker.completions.queue();
                wanted.recv_cq = wanted.send_cq;
                wanted.srq = worker.receive;
                wanted.cap.max_send_wr = self.config.send_depth;
                wanted.cap.max_send_sge = 1;
                wanted.cap.max_inline_data = inline_bytes;
                wanted.qp_type = kind;
                wanted.comp_mask = sys::IBV_QP_INIT_ATTR_PD | sys::IBV_QP_INIT_ATTR_SEND_OPS_FLAGS;
                wanted.pd = self.opened.domain;
                wanted.send_ops_flags = operations;
                (sys::ibv_create_qp_ex(self.opened.context.0, &raw mut wanted), wanted.cap.max_inline_data)
            };
            if pair.is_null() && inline_bytes > 0 {
                inline_bytes /= 2; // devices differ in what they take, and say so only by refusing
                continue;
            }
            let hint = match std::io::Error::last_os_error().raw_os_error() {
                Some(libc::EOPNOTSUPP | libc::ENOSYS) => NO_POSTING_HINT,
                _ => QUEUE_HINT,
            };
            let pair = made(pair, &self.opened.name, "a queue pair cannot be made", hint)?;
            // SAFETY: a queue pair that was made with operations, so it has an extended form.
            let (posting, number) = unsafe { (sys::ibv_qp_to_qp_ex(pair), (*pair).qp_num) };
            let inline_bytes = got.min(self.config.inline_bytes);
            return Ok(Arc::new(QueuePair { pair, posting, inline_bytes, number, _worker: Arc::clone(worker) }));
        }
    }

    fn modify(
        &self,
        pair: &QueuePair,
        attributes: &mut sys::ibv_qp_attr,
        mask: u32,
        what: &str,
    ) -> Result<(), PortError> {
        // SAFETY: a queue pair that lives, and a structure that verbs reads.
        let result = unsafe { sys::ibv_modify_qp(pair.pair, attributes, mask.cast_signed()) };
        if result == 0 {
            return Ok(());
        }
        let what = format!("queue pair {} cannot {what}", pair.number);
        Err(failed(&self.opened.name, &what, result, "is the peer's address reachable (`ip neigh`), and the link up?"))
    }

    fn to_state(&self, pair: &QueuePair, state: sys::ibv_qp_state, what: &str) -> Result<(), PortError> {
        let mut attributes = zeroed_attributes();
        attributes.qp_state = state;
        self.modify(pair, &mut attributes, sys::IBV_QP_STATE, what)
    }

    /// Our end of all ways.
    fn exit(&self) -> Exit {
        Exit { port: self.port, gid_index: self.gid_index, traffic_class: self.config.traffic_class }
    }

    fn bring_up_datagrams(&self, pair: &QueuePair, qkey: u32) -> Result<(), PortError> {
        let mut attributes = zeroed_attributes();
        (attributes.qp_state, attributes.port_num, attributes.qkey) = (sys::IBV_QPS_INIT, self.port, qkey);
        let mask = sys::IBV_QP_STATE | sys::IBV_QP_PKEY_INDEX | sys::IBV_QP_PORT | sys::IBV_QP_QKEY;
        self.modify(pair, &mut attributes, mask, "be prepared for datagrams")?;
        self.to_state(pair, sys::IBV_QPS_RTR, "receive datagrams")?;
        attributes.qp_state = sys::IBV_QPS_RTS;
        self.modify(pair, &mut attributes, sys::IBV_QP_STATE | sys::IBV_QP_SQ_PSN, "send datagrams")
    }
}

/// Where packets leave, and how they are marked.
#[derive(Clone, Copy, Debug)]
struct Exit {
    port: u8,
    gid_index: u8,
    traffic_class: u8,
}

impl Exit {
    /// The way to a peer, as far as packets go.
    fn way(self, gid: &[u8; 16]) -> sys::ibv_ah_attr {
        sys::ibv_ah_attr {
            grh: sys::ibv_global_route {
                dgid: sys::ibv_gid { raw: *gid },
                sgid_index: self.gid_index,
                hop_limit: HOP_LIMIT,
                traffic_class: self.traffic_class,
                ..sys::ibv_global_route::default()
            },
            is_global: 1,
            port_num: self.port,
            ..sys::ibv_ah_attr::default()
        }
    }

    /// Has the kernel find the way to a peer.
    fn address(self, opened: &Arc<Opened>, gid: &[u8; 16]) -> Result<AddressHandle, PortError> {
        let mut way = self.way(gid);
        // SAFETY: an open device's domain, and a structure that verbs reads.
        let handle = unsafe { sys::ibv_create_ah(opened.domain, &raw mut way) };
        let ip = std::net::Ipv6Addr::from(*gid);
        let what =
            format!("there is no way to {}", ip.to_ipv4_mapped().map_or_else(|| ip.to_string(), |ip| ip.to_string()));
        let handle = made(handle, &opened.name, &what, "is it reachable (`ip route get`, `ip neigh`)?")?;
        Ok(AddressHandle { handle, _opened: Arc::clone(opened) })
    }
}

/// The vendor of `mlx5` devices, as the IEEE registered it.
const MELLANOX: u32 = 0x02c9;

fn zeroed_attributes() -> sys::ibv_qp_attr {
    // SAFETY: zeros are a value of this plain structure.
    unsafe { mem::zeroed() }
}

fn set_non_blocking(opened: &Opened) -> Result<(), PortError> {
    // SAFETY: the descriptor is the open device's.
    let result = unsafe {
        let fd = (*opened.context.0).async_fd;
        libc::fcntl(fd, libc::F_SETFL, libc::fcntl(fd, libc::F_GETFL) | libc::O_NONBLOCK)
    };
    if result < 0 {
        Err(failed(&opened.name, "its events cannot be read without waiting", 0, "report this"))
    } else {
        Ok(())
    }
}

impl Fabric for Hardware {
    type Device = HardwareDevice;

    fn info(&self) -> FabricInfo {
        self.info.clone()
    }

    fn worker(&mut self, _worker: u16, needs: Needs) -> Result<HardwareDevice, PortError> {
        let name = self.opened.name.clone();
        // Every receive and every piece of work may complete at once; the device's own limit counts where it is lower.
        let most = devices::attributes(&self.opened.context).map_or(u32::MAX, |found| found.max_cqe.unsigned_abs());
        let wanted = needs.receive_depth.saturating_add(needs.pairs.saturating_mul(needs.send_depth));
        if wanted > most && self.queues.is_empty() {
            self.info.degraded.push(format!(
                "a worker's queues hold up to {wanted} pieces of work and its completion queue {most}: lower connections_max or \
                 send_depth"
            ));
        }
        let completions = Completions::new(&self.opened, wanted.min(most), self.extended, self.config.events)?;
        // SAFETY: zeros are a value of this plain structure, which verbs reads.
        let receive = unsafe {
            let mut wanted: sys::ibv_srq_init_attr = mem::zeroed();
            (wanted.attr.max_wr, wanted.attr.max_sge) = (needs.receive_depth, 1);
            sys::ibv_create_srq(self.opened.domain, &raw mut wanted)
        };
        let receive = match made(receive, &name, "a shared receive queue cannot be made", QUEUE_HINT) {
            Ok(receive) => receive,
            Err(error) => {
                completions.destroy();
                return Err(error);
            }
        };
        let queues = Arc::new(Queues { receive, completions, _opened: Arc::clone(&self.opened) });
        self.queues.push(Arc::clone(&queues));
        // SAFETY: the region was registered when the device was opened.
        let lkey = unsafe { (*self.opened.region).lkey };
        Ok(HardwareDevice::new(queues, lkey, !self.extended))
    }

    fn datagrams(&mut self, worker: u16, qkey: u32) -> Result<Arc<QueuePair>, PortError> {
        let pair = self.make_pair(&self.queues[usize::from(worker)], sys::IBV_QPT_UD)?;
        self.bring_up_datagrams(&pair, qkey)?;
        Ok(pair)
    }

    fn pair(&mut self, worker: u16) -> Result<Arc<QueuePair>, PortError> {
        self.make_pair(&self.queues[usize::from(worker)], sys::IBV_QPT_RC)
    }

    fn qpn(&self, pair: &Arc<QueuePair>) -> u32 {
        pair.number
    }

    fn revive(&mut self, pair: &Arc<QueuePair>, qkey: u32) -> Result<(), PortError> {
        self.bring_up_datagrams(pair, qkey)
    }

    fn find_way(&mut self, gid: &[u8; 16]) -> Result<Way, PortError> {
        let (exit, opened) = (self.exit(), &self.opened);
        let finder = match &mut self.finder {
            Some(finder) => finder,
            none => {
                let opened = Arc::clone(opened);
                none.insert(Finder::start(move |gid| exit.address(&opened, gid).map(drop))?)
            }
        };
        finder.find(gid)
    }

    fn connect(&mut self, pair: &Arc<QueuePair>, own_psn: u32, peer: &PeerEnd) -> Result<(), PortError> {
        let config = &self.config;
        let mut attributes = zeroed_attributes();
        (attributes.qp_state, attributes.port_num) = (sys::IBV_QPS_INIT, self.port);
        attributes.qp_access_flags = sys::IBV_ACCESS_LOCAL_WRITE | sys::IBV_ACCESS_REMOTE_WRITE;
        let mask = sys::IBV_QP_STATE | sys::IBV_QP_PKEY_INDEX | sys::IBV_QP_PORT | sys::IBV_QP_ACCESS_FLAGS;
        self.modify(pair, &mut attributes, mask, "be prepared")?;
        attributes.qp_state = sys::IBV_QPS_RTR;
        attributes.path_mtu = peer.mtu_bytes.ilog2().saturating_sub(7); // 256 is code 1
        (attributes.dest_qp_num, attributes.rq_psn) = (peer.qpn, peer.psn);
        attributes.min_rnr_timer = config.min_rnr_timer;
        attributes.ah_attr = self.exit().way(&peer.gid);
        let mask = sys::IBV_QP_STATE
            | sys::IBV_QP_AV
            | sys::IBV_QP_PATH_MTU
            | sys::IBV_QP_DEST_QPN
            | sys::IBV_QP_RQ_PSN
            | sys::IBV_QP_MAX_DEST_RD_ATOMIC
            | sys::IBV_QP_MIN_RNR_TIMER;
        self.modify(pair, &mut attributes, mask, "receive from its peer")?;
        (attributes.qp_state, attributes.sq_psn) = (sys::IBV_QPS_RTS, own_psn);
        (attributes.timeout, attributes.retry_cnt) = (config.timeout, config.retry_count.min(RETRIES_MAX));
        attributes.rnr_retry = config.rnr_retry.min(RETRIES_MAX);
        let mask = sys::IBV_QP_STATE
            | sys::IBV_QP_TIMEOUT
            | sys::IBV_QP_RETRY_CNT
            | sys::IBV_QP_RNR_RETRY
            | sys::IBV_QP_SQ_PSN
            | sys::IBV_QP_MAX_QP_RD_ATOMIC;
        self.modify(pair, &mut attributes, mask, "send to its peer")
    }

    fn fail(&mut self, pair: &Arc<QueuePair>) {
        // One that is in error already, or in reset, stays as it is.
        let _ = self.to_state(pair, sys::IBV_QPS_ERR, "be put into error");
    }

    fn reset(&mut self, pair: &Arc<QueuePair>) -> Result<(), PortError> {
        self.to_state(pair, sys::IBV_QPS_RESET, "be reset")
    }

    fn address(&mut self, gid: &[u8; 16]) -> Result<AddressHandle, PortError> {
        self.exit().address(&self.opened, gid)
    }

    fn ring(&mut self, _pair: &Arc<QueuePair>, bytes: usize) -> Result<RingMemory<RingRegion>, PortError> {
        let layout = std::alloc::Layout::from_size_align(bytes, 4_096);
        let layout = layout.ok().filter(|layout| layout.size() > 0);
        let layout = layout.ok_or_else(|| PortError(format!("a ring of {bytes} bytes cannot be")))?;
        // SAFETY: the layout has a size. The memory is registered before anybody knows of it.
        let (memory, region) = unsafe {
            let memory = std::alloc::alloc_zeroed(layout);
            let memory = made(memory, &self.opened.name, "there is no memory for a ring", "make it smaller")?;
            let access = sys::IBV_ACCESS_LOCAL_WRITE | sys::IBV_ACCESS_REMOTE_WRITE;
            (memory, sys::tachyon_reg_mr(self.opened.domain, memory.cast(), bytes, access))
        };
        let region = made(region, &self.opened.name, "a ring cannot be registered", MEMORY_HINT).inspect_err(|_| {
            // SAFETY: allocated above with this layout, and no device knows of it.
            unsafe { std::alloc::dealloc(memory, layout) }
        })?;
        // SAFETY: a registration that was made just now.
        let rkey = Secret(unsafe { (*region).rkey });
        let address = memory.expose_provenance() as u64;
        let keep = RingRegion { region, memory, layout, _opened: Arc::clone(&self.opened) };
        Ok(RingMemory { address, rkey, keep })
    }

    fn event(&mut self) -> Option<FabricEvent> {
        // SAFETY: the device is open and its descriptor does not block. The event is acknowledged as soon as it was read, because
        // destroying an object waits for that; a queue pair named by it is alive until then.
        unsafe {
            let mut event: sys::ibv_async_event = mem::zeroed();
            if sys::ibv_get_async_event(self.opened.context.0, &raw mut event) != 0 {
                return None;
            }
            let said = CStr::from_ptr(sys::ibv_event_type_str(event.event_type)).to_string_lossy().into_owned();
            let heard = match event.event_type {
                sys::IBV_EVENT_PORT_ACTIVE => FabricEvent::PortUp,
                sys::IBV_EVENT_PORT_ERR => FabricEvent::PortDown,
                sys::IBV_EVENT_DEVICE_FATAL => FabricEvent::DeviceLost,
                sys::IBV_EVENT_QP_FATAL | sys::IBV_EVENT_QP_REQ_ERR | sys::IBV_EVENT_QP_ACCESS_ERR => {
                    FabricEvent::PairFailed { qpn: (*event.element.qp).qp_num, why: said }
                }
                _ => FabricEvent::Note(said),
            };
            sys::ibv_ack_async_event(&raw mut event);
            Some(heard)
        }
    }

    fn registrations(&self) -> u64 {
        self.registrations
    }

    fn counters(&self) -> Vec<(String, u64)> {
        devices::hardware_counters(&self.opened.name, self.port)
    }
}
