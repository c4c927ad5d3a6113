//! Compiles the policing peer against the DPDK that is installed; the driver has seen to it that one is.

/// The libraries that the peer calls. Its other functions are inline, or the driver links them.
const LIBRARIES: [&str; 4] = ["rte_eal", "rte_ethdev", "rte_mbuf", "rte_meter"];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed=src/meter.c");
    let libdpdk = pkg_config::Config::new()
        .cargo_metadata(false)
        .probe("libdpdk")
        .expect("libdpdk is installed (on Debian: apt install libdpdk-dev pkg-config)");
    let mut build = cc::Build::new();
    build.file("src/meter.c").includes(&libdpdk.include_paths).opt_level(3);
    // DPDK's own flags, which the crate that asks pkg-config does not pass on: its headers are written for them.
    build.flag("-include").flag("rte_config.h").flag("-march=corei7");
    build.compile("tachyon_meter");
    for path in &libdpdk.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    for library in LIBRARIES {
        println!("cargo:rustc-link-lib=dylib={library}");
    }
}
