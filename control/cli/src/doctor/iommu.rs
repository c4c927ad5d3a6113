//! What a driver needs that takes a device from the kernel: an IOMMU, so that the device reaches our memory and no other, and
//! vfio to hand it over.

use super::{
    cpu::Cpus,
    finding::{Finding, State, boot_with},
    host::Host,
    need::Need,
};

/// What the kernel shows of IOMMU and vfio.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Iommu {
    /// Units, such as `dmar0` or `ivhd0`.
    pub(crate) units: Vec<String>,
    pub(crate) groups: usize,
    /// The kernel's command line, by words.
    pub(crate) boot_words: Vec<String>,
    pub(crate) has_vfio_pci: bool,
    /// vfio without an IOMMU: any device may then write anywhere.
    pub(crate) without_iommu: bool,
}

impl Iommu {
    pub(crate) fn read(host: &Host) -> Self {
        let words = host.text("/proc/cmdline").unwrap_or_default();
        Self {
            units: host.names("/sys/class/iommu"),
            groups: host.names("/sys/kernel/iommu_groups").len(),
            boot_words: words.split_whitespace().map(str::to_owned).collect(),
            // The driver's folder is there whether it was loaded or built in.
            has_vfio_pci: host.exists("/sys/bus/pci/drivers/vfio-pci") || host.exists("/sys/module/vfio_pci"),
            without_iommu: host.text("/sys/module/vfio/parameters/enable_unsafe_noiommu_mode").as_deref() == Some("Y"),
        }
    }

    pub(crate) fn is_present(&self) -> bool {
        !self.units.is_empty() || self.groups > 0
    }
}

pub(crate) fn findings(iommu: &Iommu, cpus: &Cpus, need: &Need) -> Vec<Finding> {
    // Missing means failing only where the node file names a driver that cannot do without.
    let state = if need.vfio { State::Fails } else { State::Note };
    let because =
        if need.vfio { String::new() } else { format!(" (the node file's driver \"{}\" needs none)", need.driver) };
    vec![unit(iommu, cpus, state, &because), vfio(iommu, state, &because)]
}

fn unit(iommu: &Iommu, cpus: &Cpus, state: State, because: &str) -> Finding {
    const CHECK: &str = "iommu";
    if iommu.is_present() {
        let units = if iommu.units.is_empty() { "on".to_owned() } else { iommu.units.join(", ") };
        let through = iommu.boot_words.iter().any(|word| word == "iommu=pt");
        let found = format!("{units}; {} groups{}", iommu.groups, if through { ", iommu=pt" } else { "" });
        if through || iommu.groups == 0 {
            return Finding::fine(CHECK, found);
        }
        let finding = Finding::new(CHECK, State::Note, found)
            .help("devices that stay with the kernel are translated too, which costs them; iommu=pt spares them");
        return boot_with(finding, "iommu=pt");
    }
    let off = iommu.boot_words.iter().find(|word| {
        matches!(word.as_str(), "intel_iommu=off" | "amd_iommu=off" | "iommu=off")
            || word.starts_with("iommu.passthrough=off")
    });
    if let Some(word) = off {
        return Finding::new(CHECK, state, format!("switched off by {word} on the kernel's command line{because}"))
            .help(format!("vfio needs it; remove {word} from the boot loader's settings and boot again"));
    }
    if iommu.without_iommu {
        let help =
            "vfio runs in its unsafe mode: a device that is handed over can write to all memory; switch the IOMMU on";
        return Finding::new(CHECK, State::Degraded.min(state), format!("none, and vfio does without{because}"))
            .help(help);
    }
    let finding = Finding::new(CHECK, state, format!("none{because}"));
    let place = if cpus.is_guest {
        "the hypervisor has to give this virtual machine one"
    } else {
        "switch it on in the firmware (VT-d, AMD-Vi or SMMU)"
    };
    let finding = finding.help(format!("vfio needs it; {place}, and tell the kernel"));
    match cpus.vendor.as_str() {
        "GenuineIntel" => boot_with(finding, "intel_iommu=on iommu=pt"),
        // The kernel uses AMD's by itself; there is no word for "on".
        "AuthenticAMD" => boot_with(finding, "iommu=pt"),
        _ => finding,
    }
}

fn vfio(iommu: &Iommu, state: State, because: &str) -> Finding {
    const CHECK: &str = "vfio";
    if iommu.has_vfio_pci {
        return Finding::fine(CHECK, "vfio-pci is there");
    }
    Finding::new(CHECK, state, format!("vfio-pci is not loaded{because}"))
        .help("without it no device can be taken from its kernel driver")
        .command("modprobe vfio-pci")
        .command("echo vfio-pci > /etc/modules-load.d/vfio-pci.conf")
}
