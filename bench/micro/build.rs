//! Compiles the DPDK peer where libdpdk is installed, and leaves it out where it is not.

use std::{path::Path, process::Command};

/// The libraries that the peer calls; what they need themselves they name themselves.
const LIBRARIES: [&str; 3] = ["rte_eal", "rte_hash", "rte_meter"];

fn main() {
    println!("cargo:rustc-check-cfg=cfg(has_dpdk)");
    println!("cargo:rerun-if-changed=src/peers/dpdk.c");
    watch();
    let Ok(libdpdk) = pkg_config::Config::new().cargo_metadata(false).probe("libdpdk") else { return };
    let mut build = cc::Build::new();
    build.file("src/peers/dpdk.c").includes(&libdpdk.include_paths).opt_level(3);
    // DPDK's own flags, which the crate that asks pkg-config does not pass on: its headers are written for them.
    build.flag("-include").flag("rte_config.h").flag("-march=corei7");
    build.compile("tachyon_dpdk");
    for path in &libdpdk.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for library in LIBRARIES {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
    println!("cargo:rustc-cfg=has_dpdk");
}

/// Looks again where something was installed or removed, and only then: a script that runs in each build makes each build
/// a whole one.
fn watch() {
    println!("cargo:rerun-if-env-changed=PKG_CONFIG_PATH");
    println!("cargo:rerun-if-env-changed=LIBDPDK_NO_PKG_CONFIG");
    let Ok(output) = Command::new("pkg-config").args(["--variable", "pc_path", "pkg-config"]).output() else { return };
    let folders = String::from_utf8_lossy(&output.stdout);
    for folder in folders.trim().split(':').filter(|folder| Path::new(folder).is_dir()) {
        println!("cargo:rerun-if-changed={folder}");
    }
}
