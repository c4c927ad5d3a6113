//! Whole machines, made of files, and what is said about them.

use super::{
    examine, exit_code,
    finding::{Finding, State},
    host::Host,
    need::Need,
    nics::{Bypass, Nic, nics},
    worst,
};
use std::{fs, os::unix::fs::symlink, path::PathBuf};
use tachyon_config::{Idle, NodeFile, Pages, Source};
use tempfile::TempDir;

/// A machine whose `/proc` and `/sys` are in a temporary folder.
struct Machine {
    folder: TempDir,
}

impl Machine {
    /// Four cores on two NUMA nodes, their second threads switched off; cores 2 and 3, one of each node, are isolated.
    /// Everything is set as a node wants it.
    fn good() -> Self {
        let machine = Self { folder: tempfile::tempdir().expect("a temporary folder") };
        let cpu = "/sys/devices/system/cpu";
        machine.file(&format!("{cpu}/online"), "0-3\n").file(&format!("{cpu}/isolated"), "2-3\n");
        machine.file(&format!("{cpu}/nohz_full"), "2-3\n");
        for number in 0..4 {
            machine.file(
                &format!("{cpu}/cpu{number}/topology/thread_siblings_list"),
                &format!("{number},{}\n", number + 4),
            );
            machine.file(&format!("{cpu}/cpu{number}/cpufreq/scaling_governor"), "performance\n");
        }
        for (node, cores) in [(0, "0,2,4,6"), (1, "1,3,5,7")] {
            let folder = format!("/sys/devices/system/node/node{node}");
            machine.file(&format!("{folder}/cpulist"), cores);
            machine.huge(node, "2048kB", 80, 70).huge(node, "1048576kB", 2, 2);
        }
        machine.file("/proc/meminfo", "MemTotal: 65536000 kB\nMemAvailable:   32768000 kB\n");
        machine.file("/proc/mounts", "proc /proc proc rw 0 0\n");
        machine.file("/sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n");
        machine.file(
            "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
            "always within_size [advise] never deny force\n",
        );
        machine.limits("unlimited", "65536").rights(0);
        machine.file("/proc/cpuinfo", "processor\t: 0\nvendor_id\t: GenuineIntel\nflags\t\t: fpu vme\n");
        machine
            .file("/proc/sys/kernel/osrelease", "6.1.0-18-amd64\n")
            .file("/proc/sys/kernel/io_uring_disabled", "0\n");
        machine.file("/proc/sys/net/core/bpf_jit_enable", "1\n");
        machine.file("/proc/sys/net/core/rmem_max", "4194304\n").file("/proc/sys/net/core/wmem_max", "4194304\n");
        let clock = "/sys/devices/system/clocksource/clocksource0";
        machine.file(&format!("{clock}/current_clocksource"), "tsc\n");
        machine.file(&format!("{clock}/available_clocksource"), "tsc hpet acpi_pm \n");
        machine.file("/proc/cmdline", "ro quiet intel_iommu=on iommu=pt\n").file("/sys/class/iommu/dmar0/x", "");
        machine.file("/sys/bus/pci/drivers/vfio-pci/bind", "");
        machine.devices();
        machine
    }

    /// One device of each sort: kept by the kernel, free with a sibling in its group, shared with the kernel, handed over, and
    /// one that is no Ethernet device.
    fn devices(&self) {
        self.device("0000:00:1f.6", "0x020000", Some("e1000e"), Some("1"), &["eno1"]);
        self.device("0000:3b:00.0", "0x020000", Some("ixgbe"), Some("12"), &["ens1f0"]);
        self.device("0000:3b:00.1", "0x020000", Some("ixgbe"), Some("12"), &["ens1f1"]);
        self.device("0000:3a:00.0", "0x060400", Some("pcieport"), Some("12"), &[]);
        self.device("0000:5e:00.0", "0x020000", Some("mlx5_core"), Some("13"), &["ens2"]);
        self.device("0000:af:00.0", "0x020000", Some("vfio-pci"), Some("14"), &[]);
        self.device("0000:01:00.0", "0x010802", Some("nvme"), Some("15"), &[]);
        // eno1 has 192.0.2.10/24 and the default route; ens2 has 198.51.100.7/24 and an address of IPv6.
        let head = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n";
        let routes = "eno1\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
                      eno1\t000200C0\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n\
                      ens2\t006433C6\t00000000\t0001\t0\t0\t0\t00FFFFFF\t0\t0\t0\n";
        self.file("/proc/net/route", &format!("{head}{routes}"));
        let leaf = |address: &str| format!("           |-- {address}\n              /32 host LOCAL\n");
        let trie = ["192.0.2.10", "198.51.100.7", "127.0.0.1"].map(leaf).concat();
        self.file(
            "/proc/net/fib_trie",
            &format!("Main:\n{trie}           |-- 192.0.2.255\n              /32 link BROADCAST\nLocal:\n{trie}"),
        );
        self.file(
            "/proc/net/if_inet6",
            "fe800000000000000000000000000001 02 40 20 80     eno1\n20010db8000000000000000000000007 04 40 00 80     ens2\n",
        );
        self.file("/proc/net/ipv6_route", "");
    }

    fn device(
        &self,
        address: &str,
        class: &str,
        driver: Option<&str>,
        group: Option<&str>,
        interfaces: &[&str],
    ) -> &Self {
        let folder = format!("/sys/bus/pci/devices/{address}");
        self.file(&format!("{folder}/class"), class).file(&format!("{folder}/numa_node"), "0\n");
        self.file(&format!("{folder}/vendor"), "0x8086\n").file(&format!("{folder}/device"), "0x1572\n");
        if let Some(driver) = driver {
            self.link(&format!("{folder}/driver"), &format!("../../../bus/pci/drivers/{driver}"));
        }
        if let Some(group) = group {
            self.link(&format!("{folder}/iommu_group"), &format!("../../../kernel/iommu_groups/{group}"));
            self.file(&format!("/sys/kernel/iommu_groups/{group}/devices/{address}"), "");
        }
        for interface in interfaces {
            self.file(&format!("{folder}/net/{interface}/address"), "02:00:00:00:00:01\n");
        }
        self
    }

    fn path(&self, path: &str) -> PathBuf {
        let path = self.folder.path().join(path.trim_start_matches('/'));
        fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
        path
    }

    fn file(&self, path: &str, text: &str) -> &Self {
        fs::write(self.path(path), text).expect("a file");
        self
    }

    fn link(&self, path: &str, to: &str) -> &Self {
        let path = self.path(path);
        let _ = fs::remove_file(&path);
        symlink(to, path).expect("a link");
        self
    }

    fn without(&self, path: &str) -> &Self {
        let path = self.path(path);
        if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) }.expect("it was there");
        self
    }

    fn huge(&self, node: u32, size: &str, total: u32, free: u32) -> &Self {
        let folder = format!("/sys/devices/system/node/node{node}/hugepages/hugepages-{size}");
        self.file(&format!("{folder}/nr_hugepages"), &format!("{total}\n"));
        self.file(&format!("{folder}/free_hugepages"), &format!("{free}\n"))
    }

    fn limits(&self, locked: &str, files: &str) -> &Self {
        let line = |name: &str, value: &str| format!("{name:<26}{value:<21}{value:<21}units\n");
        self.file("/proc/self/limits", &(line("Max open files", files) + &line("Max locked memory", locked)))
    }

    fn rights(&self, capabilities: u64) -> &Self {
        self.file("/proc/self/status", &format!("Name:\tx\nCapEff:\t{capabilities:016x}\nCpus_allowed_list:\t0-3\n"))
    }

    fn host(&self) -> Host {
        Host::at(self.folder.path())
    }

    fn examined(&self, need: &Need) -> Vec<Finding> {
        examine(&self.host(), need, &nics(&self.host()))
    }
}

/// A node file with a worker on each isolated core, and so an arena of 133 MiB on each NUMA node.
fn node_file() -> NodeFile {
    let mut file = NodeFile::default();
    (file.workers.count, file.workers.cores) = (2, vec![2, 3]);
    file
}

fn need() -> Need {
    Need::of(&node_file())
}

/// Those worse than a note.
fn troubles(findings: &[Finding]) -> Vec<&Finding> {
    findings.iter().filter(|finding| finding.state > State::Note).collect()
}

/// The one trouble of a machine that differs from the good one.
fn trouble(change: impl Fn(&Machine), need: &Need) -> Finding {
    let machine = Machine::good();
    change(&machine);
    let findings = machine.examined(need);
    let troubles = troubles(&findings);
    assert_eq!(troubles.len(), 1, "{troubles:?}");
    troubles[0].clone()
}

#[test]
fn a_good_machine_has_nothing_worse_than_a_note() {
    let findings = Machine::good().examined(&need());
    assert_eq!(troubles(&findings), Vec::<&Finding>::new());
    assert_eq!(exit_code(worst(&findings)), 0);
}

#[test]
fn a_machine_that_shows_nothing_is_examined_all_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let host = Host::at(folder.path());
    let findings = examine(&host, &Need::of(&NodeFile::default()), &nics(&host));
    assert!(findings.len() > 15, "{findings:?}");
    // Only what is known to be missing counts.
    let mut checks: Vec<_> = troubles(&findings).iter().map(|finding| finding.check).collect();
    checks.sort_unstable();
    assert_eq!(checks, ["cores", "huge_pages", "isolated_cores", "transparent_huge_pages"]);
}

#[test]
fn each_weakness_is_found_alone_and_has_its_fix() {
    let cpu = "/sys/devices/system/cpu";
    let huge = "/sys/devices/system/node/node1/hugepages/hugepages-2048kB";
    let clock = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
    let cases = [
        (format!("{huge}/free_hugepages"), "10", "huge_pages", format!("echo 137 > {huge}/nr_hugepages")),
        (format!("{cpu}/isolated"), "2", "isolated_cores", "isolcpus=managed_irq,domain,2,3 nohz_full=2,3".into()),
        (format!("{cpu}/cpu3/cpufreq/scaling_governor"), "powersave", "governor", "for c in 3; do echo perf".into()),
        (format!("{cpu}/cpu2/topology/thread_siblings_list"), "0,2", "smt", format!("echo 0 > {cpu}/cpu0/online")),
        ("/proc/sys/kernel/io_uring_disabled".into(), "2", "io_uring", "sysctl -w kernel.io_uring_disabled=0".into()),
        ("/proc/sys/net/core/bpf_jit_enable".into(), "0", "bpf_jit", "sysctl -w net.core.bpf_jit_enable=1".into()),
        ("/proc/sys/net/core/wmem_max".into(), "1000", "socket_buffers", "net.core.wmem_max=4194304".into()),
        (clock.into(), "hpet", "clock", format!("echo tsc > {clock}")),
    ];
    for (path, text, check, fix) in cases {
        let found = trouble(
            |machine| {
                machine.file(&path, text);
            },
            &need(),
        );
        assert_eq!((found.check, found.state), (check, State::Degraded), "{found:?}");
        assert!(found.commands.iter().any(|command| command.contains(&fix)), "{found:?}");
        assert!(!found.help.is_empty(), "{found:?}");
        assert_eq!(exit_code(found.state), 2);
    }
}

#[test]
fn a_low_limit_of_locked_memory_is_a_weakness() {
    let found = trouble(
        |machine| {
            machine.limits("8388608", "65536");
        },
        &need(),
    );
    assert_eq!(
        (found.check, found.state, found.commands[0].as_str()),
        ("memlock", State::Degraded, "ulimit -l unlimited")
    );
}

#[test]
fn a_sibling_that_only_others_may_run_on_takes_its_part_all_the_same() {
    let found = trouble(
        |machine| {
            machine.file("/sys/devices/system/cpu/cpu2/topology/thread_siblings_list", "0,2\n");
            machine.file("/proc/self/status", "CapEff:\t0\nCpus_allowed_list:\t2-3\n");
        },
        &need(),
    );
    assert_eq!((found.check, found.state), ("smt", State::Degraded));
}

#[test]
fn an_old_kernel_is_a_weakness_only_for_io_uring() {
    let old = |machine: &Machine| {
        machine.file("/proc/sys/kernel/osrelease", "5.15.0-91-generic\n").without("/proc/sys/kernel/io_uring_disabled");
    };
    assert_eq!(trouble(old, &need()).check, "kernel");
    let machine = Machine::good();
    old(&machine);
    assert!(troubles(&machine.examined(&Need { io_uring: false, ..need() })).is_empty());
}

#[test]
fn what_keeps_a_node_from_starting_fails() {
    let fails = |change: fn(&Machine), need: &Need, check: &str| {
        let found = trouble(change, need);
        assert_eq!((found.check, found.state, exit_code(found.state)), (check, State::Fails, 1), "{found:?}");
        found
    };
    let scarce = Need { pages: Pages::Huge1G, buffer_bytes_per_worker: 3 << 30, ..need() };
    let both = Machine::good().examined(&scarce);
    let both = troubles(&both);
    assert_eq!(both.len(), 2, "one for each NUMA node: {both:?}");
    assert!(both.iter().all(|found| found.state == State::Fails));
    assert!(both[0].commands.iter().any(|command| command.contains("hugepagesz=1G hugepages=0:3,1:3")), "{both:?}");
    fails(
        |machine| {
            machine.limits("unlimited", "64");
        },
        &need(),
        "nofile",
    );
    fails(
        |machine| {
            machine.file("/proc/meminfo", "MemAvailable: 1024 kB\n");
        },
        &need(),
        "memory",
    );
    let found = fails(
        |machine| {
            machine.file("/proc/self/status", "CapEff:\t0\nCpus_allowed_list:\t0-2\n");
        },
        &need(),
        "cores",
    );
    assert_eq!(found.found, "workers.cores names 3; usable are 0,1,2");
}

#[test]
fn pages_held_by_a_running_node_are_not_missing() {
    let machine = Machine::good();
    machine.huge(0, "2048kB", 80, 0).huge(1, "2048kB", 80, 0).file("/proc/77/comm", "tachyond\n");
    assert!(troubles(&machine.examined(&need())).is_empty());
    machine.file("/proc/77/comm", "other\n");
    assert_eq!(troubles(&machine.examined(&need())).len(), 2);
}

#[test]
fn ordinary_pages_want_merging() {
    let ordinary = Need { pages: Pages::Ordinary, ..need() };
    let never = |machine: &Machine| {
        machine.file(
            "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
            "always within_size advise [never] deny force\n",
        );
    };
    let found = trouble(never, &ordinary);
    assert_eq!(found.check, "transparent_huge_pages");
    let machine = Machine::good();
    never(&machine);
    assert!(troubles(&machine.examined(&need())).is_empty(), "with huge pages it does not matter");
}

#[test]
fn rights_stand_in_for_limits() {
    let machine = Machine::good();
    machine.limits("8388608", "65536").file("/proc/sys/net/core/rmem_max", "212992\n");
    machine.file("/proc/sys/kernel/io_uring_disabled", "1\n");
    assert_eq!(troubles(&machine.examined(&need())).len(), 3);
    // CAP_NET_ADMIN, CAP_IPC_LOCK, CAP_SYS_ADMIN.
    machine.rights(1 << 12 | 1 << 14 | 1 << 21);
    assert!(troubles(&machine.examined(&need())).is_empty());
}

#[test]
fn a_tick_is_a_weakness_for_workers_that_spin() {
    let ticking = |machine: &Machine| {
        machine.file("/sys/devices/system/cpu/nohz_full", "(null)\n");
    };
    let mut file = node_file();
    file.workers.idle = Idle::Spin;
    assert_eq!(trouble(ticking, &Need::of(&file)).check, "nohz_full");
    let machine = Machine::good();
    ticking(&machine);
    assert!(troubles(&machine.examined(&need())).is_empty());
}

#[test]
fn a_driver_on_vfio_needs_iommu_vfio_and_a_device() {
    let vfio = Need { vfio: true, driver: "bypass".into(), ..need() };
    assert!(troubles(&Machine::good().examined(&vfio)).is_empty());
    let none = |machine: &Machine| {
        machine.without("/sys/class/iommu").without("/sys/kernel/iommu_groups").file("/proc/cmdline", "quiet\n");
    };
    let found = trouble(none, &vfio);
    assert_eq!((found.check, found.state), ("iommu", State::Fails));
    assert!(found.commands.iter().any(|command| command.contains("intel_iommu=on iommu=pt")), "{found:?}");
    let amd = |machine: &Machine| {
        none(machine);
        machine.file("/proc/cpuinfo", "vendor_id : AuthenticAMD\n");
    };
    let found = trouble(amd, &vfio);
    assert!(
        found.commands.iter().any(|command| command.contains(" iommu=pt") && !command.contains("amd_iommu")),
        "{found:?}"
    );
    let off = |machine: &Machine| {
        none(machine);
        machine.file("/proc/cmdline", "quiet intel_iommu=off\n");
    };
    assert!(trouble(off, &vfio).help.contains("remove intel_iommu=off"));
    let unloaded = |machine: &Machine| {
        machine.without("/sys/bus/pci/drivers/vfio-pci");
    };
    let found = trouble(unloaded, &vfio);
    assert_eq!((found.check, found.commands[0].as_str()), ("vfio", "modprobe vfio-pci"));
    let taken = |machine: &Machine| {
        machine.without("/sys/bus/pci/devices/0000:af:00.0").without("/sys/bus/pci/devices/0000:5e:00.0");
    };
    assert_eq!(trouble(taken, &vfio).check, "nic");
}

fn nic(machine: &Machine, address: &str) -> Nic {
    nics(&machine.host()).into_iter().find(|nic| nic.address == address).expect("the device")
}

#[test]
fn devices_are_listed_with_what_hangs_on_them() {
    let machine = Machine::good();
    let addresses: Vec<String> = nics(&machine.host()).into_iter().map(|nic| nic.address).collect();
    assert_eq!(addresses, ["0000:00:1f.6", "0000:3b:00.0", "0000:3b:00.1", "0000:5e:00.0", "0000:af:00.0"]);
    let kept = nic(&machine, "0000:00:1f.6");
    assert_eq!((kept.bypass.clone(), kept.id.as_str(), kept.numa_node), (Bypass::Never, "8086:1572", Some(0)));
    assert!(kept.interfaces[0].has_default_route && kept.why.contains("default route"), "{kept:?}");
    assert_eq!(kept.interfaces[0].addresses, ["192.0.2.10".parse::<std::net::IpAddr>().unwrap()]);
    let beside = nic(&machine, "0000:5e:00.0");
    assert_eq!(beside.bypass, Bypass::Beside);
    let addresses: Vec<String> = beside.interfaces[0].addresses.iter().map(ToString::to_string).collect();
    assert_eq!(addresses, ["198.51.100.7", "2001:db8::7"]);
    assert_eq!(nic(&machine, "0000:af:00.0").bypass, Bypass::Ready);
}

#[test]
fn a_free_device_is_bound_with_its_whole_group_and_given_back() {
    let machine = Machine::good();
    machine.without("/sys/bus/pci/drivers/vfio-pci");
    let free = nic(&machine, "0000:3b:00.0");
    assert_eq!(free.group_others, ["0000:3b:00.1"], "the bridge stays");
    let Bypass::AfterBinding { bind, give_back } = free.bypass else { panic!("{:?}", free.bypass) };
    assert_eq!(
        bind,
        [
            "modprobe vfio-pci",
            "ip link set dev ens1f0 down",
            "echo vfio-pci > /sys/bus/pci/devices/0000:3b:00.0/driver_override",
            "echo 0000:3b:00.0 > /sys/bus/pci/devices/0000:3b:00.0/driver/unbind",
            "echo 0000:3b:00.0 > /sys/bus/pci/drivers_probe",
            "echo vfio-pci > /sys/bus/pci/devices/0000:3b:00.1/driver_override",
            "echo 0000:3b:00.1 > /sys/bus/pci/devices/0000:3b:00.1/driver/unbind",
            "echo 0000:3b:00.1 > /sys/bus/pci/drivers_probe",
        ]
    );
    assert_eq!(
        give_back[..3],
        [
            "echo 0000:3b:00.0 > /sys/bus/pci/devices/0000:3b:00.0/driver/unbind",
            "echo > /sys/bus/pci/devices/0000:3b:00.0/driver_override",
            "echo 0000:3b:00.0 > /sys/bus/pci/drivers_probe",
        ]
    );
}

#[test]
fn a_device_is_kept_for_its_group_its_bond_or_want_of_an_iommu() {
    let machine = Machine::good();
    let route = fs::read_to_string(machine.path("/proc/net/route")).unwrap().replace("ens2", "ens1f1");
    machine.file("/proc/net/route", &route);
    let shared = nic(&machine, "0000:3b:00.0");
    assert_eq!(shared.bypass, Bypass::Never);
    assert!(shared.why.contains("0000:3b:00.1 too, and ens1f1 carries the address 198.51.100.7"), "{}", shared.why);

    let machine = Machine::good();
    machine.link("/sys/class/net/ens1f0/master", "../bond0");
    assert_eq!(nic(&machine, "0000:3b:00.0").why, "ens1f0 is a part of bond0");

    let machine = Machine::good();
    machine.device("0000:c1:00.0", "0x020000", None, None, &[]);
    assert_eq!(nic(&machine, "0000:c1:00.0").bypass, Bypass::NotYet);
    machine.file("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode", "Y\n");
    let unsafe_mode = nic(&machine, "0000:c1:00.0");
    let Bypass::AfterBinding { bind, .. } = unsafe_mode.bypass else { panic!("{:?}", unsafe_mode.bypass) };
    assert!(!bind.iter().any(|line| line.contains("unbind")), "no driver is bound: {bind:?}");
    assert!(unsafe_mode.why.contains("could then write to all memory"), "{}", unsafe_mode.why);
}

#[test]
fn the_interface_behind_a_virtio_device_is_found_and_a_route_of_ipv6_counts() {
    let machine = Machine::good();
    machine.device("0000:00:03.0", "0x020000", Some("virtio-pci"), Some("20"), &[]);
    machine.file("/sys/bus/pci/devices/0000:00:03.0/virtio2/net/eth0/address", "02:00:00:00:00:09\n");
    let zeros = "0".repeat(32);
    let through = "fd000000000000000000000000000001";
    machine.file(
        "/proc/net/ipv6_route",
        &format!(
            "{zeros} 00 {zeros} 00 {zeros} ffffffff 00000001 00000000 00200200       lo\n\
             {zeros} 00 {zeros} 00 {through} 00000400 00000003 00000000 00000003     eth0\n"
        ),
    );
    let guest = nic(&machine, "0000:00:03.0");
    assert_eq!((guest.interfaces[0].name.as_str(), guest.interfaces[0].has_default_route), ("eth0", true));
    assert_eq!(guest.bypass, Bypass::Never);
}

/// A node file with filters on eth0, whose frames go to XDP sockets, and on veth0.
fn filtered() -> NodeFile {
    let text = "[network]\ndriver = [\"afxdp\", \"uring\"]\n[workers]\ncount = 2\ncores = [2, 3]\n\
                [[prefilter]]\ninterface = \"eth0\"\ndeliver = \"afxdp\"\n[[prefilter]]\ninterface = \"veth0.5\"\n";
    NodeFile::parse(&Source { name: "node.toml", text, manual: "" }).expect("a node file")
}

/// CAP_NET_ADMIN, CAP_NET_RAW and CAP_SYS_ADMIN.
const XDP_RIGHTS: u64 = 1 << 12 | 1 << 13 | 1 << 21;

/// What is said about XDP on a machine that has all of it, but for a change.
fn about_xdp(change: impl Fn(&Machine)) -> Vec<Finding> {
    let machine = Machine::good();
    machine.rights(XDP_RIGHTS).file("/proc/sys/kernel/osrelease", "6.12.9-amd64\n");
    machine.file("/proc/mounts", "bpf /sys/fs/bpf bpf rw,mode=700 0 0\n");
    machine.file("/sys/class/net/eth0/mtu", "1500\n").file("/sys/class/net/veth0.5/mtu", "1500\n");
    machine.link("/sys/class/net/eth0/device/driver", "../../../bus/pci/drivers/ice");
    machine.file("/ip-link.json", r#"[{"ifname":"eth0"},{"ifname":"veth0.5"}]"#);
    change(&machine);
    let findings = machine.examined(&Need::of(&filtered()));
    findings.into_iter().filter(|finding| finding.check.starts_with("xdp") || finding.check == "bpffs").collect()
}

#[test]
fn a_machine_with_all_that_xdp_needs_is_fine_and_one_without_filters_is_not_asked() {
    let findings = about_xdp(|_| {});
    assert!(findings.iter().all(|finding| finding.state == State::Fine), "{findings:?}");
    let said: Vec<&str> = findings.iter().map(|finding| finding.found.as_str()).collect();
    assert!(said.contains(&"eth0, ice: runs XDP programs, and can use our buffers itself"), "{said:?}");
    assert!(said.contains(&"nothing sits on eth0") && said.contains(&"mounted at /sys/fs/bpf"), "{said:?}");
    let findings = Machine::good().examined(&need());
    let xdp: Vec<&Finding> = findings.iter().filter(|finding| finding.check.starts_with("xdp")).collect();
    assert_eq!((xdp.len(), xdp[0].found.as_str()), (1, "the node file has no [[prefilter]]"));
}

#[test]
fn what_xdp_lacks_is_found_alone_and_has_its_fix() {
    type Change = fn(&Machine) -> &Machine;
    let cases: [(Change, &str, State, &str); 12] = [
        (|m| m.file("/proc/sys/kernel/osrelease", "5.15.0-1"), "xdp_kernel", State::Degraded, "newer kernel"),
        (|m| m.file("/proc/sys/kernel/osrelease", "6.1.0-56"), "xdp_kernel", State::Note, "3762 bytes"),
        (
            |m| m.file("/proc/sys/kernel/osrelease", "6.1.0").file("/sys/class/net/eth0/mtu", "9000"),
            "xdp_kernel",
            State::Degraded,
            "from 6.6 on",
        ),
        (|m| m.rights(1 << 12 | 1 << 21), "xdp_rights", State::Degraded, "as root"),
        (|m| m.file("/proc/mounts", "proc /proc proc rw 0 0\n"), "bpffs", State::Note, "mounts it if it may"),
        (|m| m.limits("1048576", "65536"), "xdp_memlock", State::Fails, "LimitMEMLOCK"),
        (|m| m.file("/proc/sys/net/ipv4/ip_forward", "1"), "xdp_forwarding", State::Note, "without a [[prefilter]]"),
        (|m| m.without("/sys/class/net/eth0"), "xdp_program", State::Fails, "make it before"),
        (|m| m.without("/sys/class/net/veth0.5"), "xdp_program", State::Degraded, "make it before"),
        (
            |m| m.file("/ip-link.json", r#"[{"ifname":"eth0","xdp":{"mode":1,"prog":{"id":7}}}]"#),
            "xdp_program",
            State::Degraded,
            "whose pins were lost",
        ),
        (
            |m| m.link("/sys/class/net/eth0/device/driver", "../drivers/e1000e"),
            "xdp_driver",
            State::Note,
            "zero copy needs another card",
        ),
        (
            |m| m.link("/sys/class/net/eth0/device/driver", "../drivers/igb"),
            "xdp_driver",
            State::Note,
            "a newer kernel",
        ),
    ];
    for (change, check, state, help) in cases {
        let findings = about_xdp(|machine| {
            change(machine);
        });
        let worse: Vec<&Finding> = findings.iter().filter(|finding| finding.state > State::Fine).collect();
        let [found] = worse.as_slice() else { panic!("{check}: {worse:?}") };
        assert_eq!((found.check, found.state), (check, state), "{found:?}");
        assert!(found.help.contains(help), "{found:?}");
    }
}

#[test]
fn a_filter_that_an_earlier_node_left_is_none_of_somebody_elses() {
    let attached = r#"[{"ifname":"veth0.5","xdp":{"mode":4,"attached":[{"mode":2,"prog":{"id":9}}]}}]"#;
    let found = |pinned: bool, rights: u64| {
        let findings = about_xdp(|machine| {
            machine.file("/ip-link.json", attached).rights(rights);
            if pinned {
                machine.file("/sys/fs/bpf/tachyon/veth0:5/link", "");
            }
        });
        let about = |finding: &&Finding| finding.check == "xdp_program" && finding.found.contains("veth0.5");
        findings.iter().find(about).map(|finding| (finding.state, finding.commands.len())).expect("it is told")
    };
    assert_eq!(found(true, XDP_RIGHTS), (State::Fine, 0));
    assert_eq!(found(false, XDP_RIGHTS), (State::Degraded, 2));
    assert_eq!(found(false, 0), (State::Note, 0), "pins are shown to root alone");
}

#[test]
fn a_filter_on_an_interface_that_the_node_file_does_not_name_is_told_with_and_without_filters() {
    for need in [Need::of(&filtered()), need()] {
        let machine = Machine::good();
        machine.file("/sys/fs/bpf/tachyon/eth7:5/link", "").file("/sys/fs/bpf/tachyon/eth8/sessions", "");
        machine.file("/sys/fs/bpf/tachyon/veth0:5/link", "");
        let findings = machine.examined(&need);
        let left: Vec<&Finding> = findings.iter().filter(|finding| finding.check == "xdp_left_over").collect();
        let named = usize::from(need.xdp.filters.is_empty()); // veth0.5 is somebody's only where the file names it
        assert_eq!(left.len(), 1 + named, "{left:?}");
        assert_eq!(
            (left[0].state, left[0].commands.as_slice()),
            (State::Degraded, ["rm -r /sys/fs/bpf/tachyon/eth7:5".to_owned()].as_slice())
        );
    }
}

#[test]
fn sockets_may_lock_their_memory_and_that_of_one_more() {
    // Two workers with one socket each, and one that is opened while its closed one still counts.
    let kib = Need::of(&filtered()).buffer_bytes_per_worker / 1_024;
    let state = |kib: u64| {
        let findings = about_xdp(|machine| {
            machine.limits(&(kib * 1_024).to_string(), "65536");
        });
        findings.iter().find(|finding| finding.check == "xdp_memlock").map(|finding| finding.state)
    };
    assert_eq!((state(3 * kib), state(3 * kib - 1)), (Some(State::Fine), Some(State::Fails)));
}
