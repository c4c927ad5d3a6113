//! Which RDMA devices there are, what they could be used for, and why not.

use core::{ffi::CStr, mem, ptr};
use std::{fmt, io, net::IpAddr};
use tachyon_driver_api::PortError;
use tachyon_driver_verbs_sys as sys;

/// What a GID stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GidKind {
    /// InfiniBand's own.
    InfiniBand,
    /// RoCE without IP, which no router forwards.
    RoceV1,
    /// RoCE over UDP over IP: the one that this driver uses.
    RoceV2,
}

/// One entry of a port's GID table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gid {
    /// Its place in the table, which differs between machines and starts.
    pub index: u32,
    /// The address.
    pub address: IpAddr,
    /// What it stands for.
    pub kind: GidKind,
}

/// One port of a device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DevicePort {
    /// Its number, from 1.
    pub number: u8,
    /// Whether its link is up.
    pub up: bool,
    /// Whether it is on Ethernet.
    pub ethernet: bool,
    /// Largest payload of a packet, as the interface's MTU allows it now.
    pub mtu_bytes: u32,
    /// Its addresses.
    pub gids: Vec<Gid>,
    /// Why this driver cannot use it; `None`: it can.
    pub unusable: Option<String>,
}

/// One device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeviceReport {
    /// Its name.
    pub name: String,
    /// Its ports.
    pub ports: Vec<DevicePort>,
    /// Why it cannot be opened; `None`: it can.
    pub unusable: Option<String>,
}

/// All devices, for people: a line each, or one that says that there are none.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Devices(pub Vec<DeviceReport>);

impl fmt::Display for Devices {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("no RDMA device\n");
        }
        for device in &self.0 {
            if let Some(why) = &device.unusable {
                writeln!(f, "{}: {why}", device.name)?;
            }
            for port in &device.ports {
                let gids: Vec<String> =
                    port.gids.iter().map(|gid| format!("{} ({:?})", gid.address, gid.kind)).collect();
                let why = port.unusable.as_deref().unwrap_or("usable");
                writeln!(
                    f,
                    "{} port {}: {why}; MTU {}, {}",
                    device.name,
                    port.number,
                    port.mtu_bytes,
                    gids.join(", ")
                )?;
            }
        }
        Ok(())
    }
}

impl Devices {
    /// The device and port that has this address as RoCE v2, by name if one is given.
    ///
    /// # Errors
    /// There is none; the text says what there is.
    pub fn find(&self, name: Option<&str>, ip: IpAddr) -> Result<(&DeviceReport, &DevicePort, &Gid), PortError> {
        let named = self.0.iter().filter(|device| name.is_none_or(|name| name == device.name));
        let all = named.flat_map(|device| device.ports.iter().map(move |port| (device, port)));
        let found = all.flat_map(|(device, port)| port.gids.iter().map(move |gid| (device, port, gid)));
        let mut found = found.filter(|(_, _, gid)| gid.kind == GidKind::RoceV2 && gid.address == ip);
        match found.next() {
            Some((device, port, gid)) if port.ethernet => Ok((device, port, gid)),
            _ => Err(PortError(format!(
                "no RDMA device{} has the address {ip} for RoCE v2: give it to the device's interface (`ip address`), or \
                 choose one of:\n{self}",
                name.map(|name| format!(" called {name}")).unwrap_or_default()
            ))),
        }
    }
}

/// An open device.
#[derive(Debug)]
pub(crate) struct Context(pub(crate) *mut sys::ibv_context);

// SAFETY: verbs objects may be used by several threads (libibverbs locks what it has to); this is only a handle.
unsafe impl Send for Context {}
// SAFETY: the same.
unsafe impl Sync for Context {}

impl Drop for Context {
    fn drop(&mut self) {
        // SAFETY: opened by `open`, closed once; whatever was made of it holds this and is gone.
        unsafe { sys::ibv_close_device(self.0) };
    }
}

/// The system's list, freed at the end.
struct List(*mut *mut sys::ibv_device, usize);

impl List {
    /// `None`: the system has no RDMA at all.
    fn get() -> Result<Option<Self>, PortError> {
        let mut count = 0;
        // SAFETY: a number comes out, and a list or null.
        let list = unsafe { sys::tachyon_device_list(&raw mut count) };
        if !list.is_null() {
            return Ok(Some(Self(list, usize::try_from(count).unwrap_or(0))));
        }
        let error = io::Error::last_os_error();
        match error.raw_os_error() {
            // Kernels without CONFIG_INFINIBAND say so; containers without its files say the other.
            Some(libc::ENOSYS | libc::ENOENT) => Ok(None),
            _ => Err(PortError(format!("RDMA devices cannot be listed: {error}; is /dev/infiniband readable?"))),
        }
    }

    fn devices(&self) -> impl Iterator<Item = (*mut sys::ibv_device, String)> + '_ {
        (0..self.1).map(|at| {
            // SAFETY: the list has that many devices, each with a name.
            unsafe {
                let device = *self.0.add(at);
                (device, CStr::from_ptr(sys::ibv_get_device_name(device)).to_string_lossy().into_owned())
            }
        })
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: got from verbs, freed once; open devices stay.
        unsafe { sys::ibv_free_device_list(self.0) };
    }
}

/// What there is.
///
/// # Errors
/// The list cannot be read. That there are no devices is no error.
pub fn devices() -> Result<Devices, PortError> {
    let Some(list) = List::get()? else { return Ok(Devices(Vec::new())) };
    let report = |(device, name): (*mut sys::ibv_device, String)| {
        // SAFETY: a device of the list.
        let context = unsafe { sys::ibv_open_device(device) };
        if context.is_null() {
            let why =
                format!("cannot be opened: {}; look at the rights of /dev/infiniband", io::Error::last_os_error());
            return DeviceReport { name, ports: Vec::new(), unusable: Some(why) };
        }
        let ports = ports(&Context(context));
        DeviceReport { name, ports, unusable: None }
    };
    Ok(Devices(list.devices().map(report).collect()))
}

/// Opens a device by its name.
pub(crate) fn open(name: &str) -> Result<Context, PortError> {
    let list = List::get()?.ok_or_else(|| PortError("no RDMA device".to_owned()))?;
    let Some((device, _)) = list.devices().find(|(_, found)| found == name) else {
        return Err(PortError(format!("there is no RDMA device {name}: `rdma link` lists them")));
    };
    // SAFETY: a device of the list.
    let context = unsafe { sys::ibv_open_device(device) };
    if context.is_null() {
        return Err(PortError(format!(
            "{name} cannot be opened: {}; look at the rights of /dev/infiniband",
            io::Error::last_os_error()
        )));
    }
    Ok(Context(context))
}

/// A device's attributes, if it tells them.
pub(crate) fn attributes(context: &Context) -> Option<sys::ibv_device_attr> {
    // SAFETY: zeros are a value of this plain structure, which verbs fills.
    unsafe {
        let mut attributes: sys::ibv_device_attr = mem::zeroed();
        (sys::ibv_query_device(context.0, &raw mut attributes) == 0).then_some(attributes)
    }
}

fn ports(context: &Context) -> Vec<DevicePort> {
    let count = attributes(context).map_or(0, |attributes| attributes.phys_port_cnt);
    let gids = gids(context);
    (1..=count).filter_map(|number| port(context, number, &gids)).collect()
}

fn port(context: &Context, number: u8, gids: &[(u32, Gid)]) -> Option<DevicePort> {
    // SAFETY: zeros are a value of this plain structure, which verbs fills.
    let attributes = unsafe {
        let mut attributes: sys::ibv_port_attr = mem::zeroed();
        if sys::tachyon_query_port(context.0, number, &raw mut attributes) != 0 {
            return None;
        }
        attributes
    };
    let up = attributes.state == sys::IBV_PORT_ACTIVE;
    let ethernet = u32::from(attributes.link_layer) == sys::IBV_LINK_LAYER_ETHERNET;
    let gids: Vec<Gid> = gids.iter().filter(|(port, _)| *port == u32::from(number)).map(|(_, gid)| *gid).collect();
    let unusable = match () {
        () if !ethernet => Some("it is on InfiniBand, and this driver speaks RoCE v2".to_owned()),
        () if !gids.iter().any(|gid| gid.kind == GidKind::RoceV2) => {
            Some("it has no address for RoCE v2: give its interface one".to_owned())
        }
        () if !up => Some("its link is down: look at the cable, and set its interface up".to_owned()),
        () => None,
    };
    // Codes 1 to 5 stand for 256 to 4096.
    let mtu_bytes = 128 << attributes.active_mtu.clamp(1, 5);
    Some(DevicePort { number, up, ethernet, mtu_bytes, gids, unusable })
}

/// Port and entry of all that is in the device's table.
fn gids(context: &Context) -> Vec<(u32, Gid)> {
    /// More than any device has.
    const ENTRIES: usize = 1_024;
    // SAFETY: zeros are a value of this plain structure; verbs fills at most as many as it is told, each of the size told.
    let entries = unsafe {
        let mut entries: Vec<sys::ibv_gid_entry> = vec![mem::zeroed(); ENTRIES];
        let size = size_of::<sys::ibv_gid_entry>();
        let count = sys::_ibv_query_gid_table(context.0, entries.as_mut_ptr(), ENTRIES, 0, size);
        entries.truncate(usize::try_from(count).unwrap_or(0));
        entries
    };
    let gid = |entry: &sys::ibv_gid_entry| {
        let kind = match entry.gid_type {
            sys::IBV_GID_TYPE_ROCE_V2 => GidKind::RoceV2,
            sys::IBV_GID_TYPE_ROCE_V1 => GidKind::RoceV1,
            _ => GidKind::InfiniBand,
        };
        // SAFETY: both views of the union are plain bytes.
        let ip = std::net::Ipv6Addr::from(unsafe { entry.gid.raw });
        let address = ip.to_ipv4_mapped().map_or(IpAddr::V6(ip), IpAddr::V4);
        (entry.port_num, Gid { index: entry.gid_index, address, kind })
    };
    entries.iter().map(gid).collect()
}

/// The kernel's counts of a port, by their names.
pub(crate) fn hardware_counters(device: &str, port: u8) -> Vec<(String, u64)> {
    let folder = format!("/sys/class/infiniband/{device}/ports/{port}/hw_counters");
    let Ok(files) = std::fs::read_dir(folder) else { return Vec::new() };
    let mut counters: Vec<(String, u64)> = files
        .flatten()
        .filter_map(|file| {
            let count = std::fs::read_to_string(file.path()).ok()?.trim().parse().ok()?;
            Some((file.file_name().to_string_lossy().into_owned(), count))
        })
        .filter(|(_, count)| *count > 0)
        .collect();
    counters.sort();
    counters
}

/// Makes a failed call's text.
pub(crate) fn failed(device: &str, what: &str, result: i32, hint: &str) -> PortError {
    // Verbs return the error number, or set errno and return null or -1.
    let error = if result > 0 { io::Error::from_raw_os_error(result) } else { io::Error::last_os_error() };
    PortError(format!("{device}: {what}: {error}; {hint}"))
}

/// Whether a pointer that verbs returned is one.
pub(crate) fn made<T>(pointer: *mut T, device: &str, what: &str, hint: &str) -> Result<*mut T, PortError> {
    if ptr::eq(pointer, ptr::null()) { Err(failed(device, what, 0, hint)) } else { Ok(pointer) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Devices {
        let gid = |index, kind, ip: &str| Gid { index, address: ip.parse().unwrap(), kind };
        let gids = vec![
            gid(0, GidKind::RoceV1, "192.0.2.1"),
            gid(1, GidKind::RoceV2, "192.0.2.1"),
            gid(5, GidKind::RoceV2, "2001:db8::1"),
        ];
        let port = DevicePort { number: 1, up: true, ethernet: true, mtu_bytes: 1_024, gids, unusable: None };
        Devices(vec![DeviceReport { name: "rxe0".to_owned(), ports: vec![port], unusable: None }])
    }

    #[test]
    fn an_address_is_found_by_type_and_never_by_index() {
        let devices = some();
        let index = |ip: &str| devices.find(None, ip.parse().unwrap()).map(|(_, _, gid)| gid.index);
        assert_eq!(index("192.0.2.1"), Ok(1));
        assert_eq!(index("2001:db8::1"), Ok(5));
        assert!(index("192.0.2.2").unwrap_err().0.contains("rxe0 port 1"), "it says what there is");
        assert!(devices.find(Some("mlx5_0"), "192.0.2.1".parse().unwrap()).is_err());
    }

    #[test]
    fn a_machine_without_devices_says_so_in_one_line() {
        assert_eq!(Devices(Vec::new()).to_string(), "no RDMA device\n");
        // On a machine with devices this lists them; on none may it fail.
        print!("{}", devices().unwrap());
    }
}
