//! The lab: a virtual machine whose emulated network cards are really owned by DPDK, through vfio and an emulated IOMMU.
//!
//! Every queue, table and register that a driver needs is there, so ownership, steering, counters and link states can be
//! tested on any machine, by an ordinary user, without hardware and without `/dev/kvm`. What it is not for is speed: all
//! instructions of the guest are emulated, and its figures say nothing about a real machine.
//!
//! `cargo xtask lab` needs Debian 12, on its first run a network, and 700 MB in `target/lab`, which may be deleted at
//! any time. The guest's console is in `target/lab/JOB.log`; it stays empty as long as nothing goes wrong.
//!
//! - [`fetch`] gets kernel, emulator and programs from Debian into a folder of our own; nothing is installed.
//! - [`kernel`] prepares them: an ELF image that starts fast, and modules with all that they need.
//! - [`initramfs`] writes the guest's root file system.
//! - [`bed`] puts these together for a job.
//! - [`guest`] runs a job in it, answers what the job asks of the host, and ends it in time.
//! - [`smoke`] is the first job: two cards between two network namespaces, forwarding.
//! - [`dpdk`] is the second: the real node between its load, on two cards of its own.
//! - [`roce`] is the third: the verbs driver beside perftest, on two soft RoCE devices and a veth.
//! - [`governed`] is the fourth: the real node between its load, on the same devices.
//! - [`xdp`] is the fifth: the pre-filter and the XDP driver, with their own tests, on a kernel that users have.
#![forbid(unsafe_code)]

pub mod bed;
pub mod dpdk;
pub mod fetch;
pub mod governed;
pub mod guest;
pub mod initramfs;
pub mod kernel;
mod load;
mod qmp;
pub mod roce;
pub mod smoke;
pub mod xdp;
