//! Makes the bindings from the headers that are installed, and compiles what is inline in them.

use std::{env, path::PathBuf};

/// Functions that are bound; inline ones get a wrapper `NAME_w`.
const FUNCTIONS: &[&str] = &[
    "rte_version",
    "rte_eal_(init|alarm_set)",
    "rte_strerror",
    "rte_thread_(un)?register",
    "rte_lcore_id",
    "rte_log_cur_msg_loglevel",
    "rte_extmem_register",
    "rte_dev_(dma_map|remove|event_callback_register)",
    "rte_vdev_(un)?init",
    "rte_mempool_(create_empty|set_ops_byname|populate_default|obj_iter|free|avail_count|get_bulk|put_bulk)",
    "rte_pktmbuf_(pool_create|init|pool_init|alloc|free|attach_extbuf)",
    "rte_eth_dev_(configure|start|stop|close|info_get|get_port_by_name|socket_id|adjust_nb_rx_tx_desc|rss_reta_update|is_removed)",
    "rte_eth_(rx|tx)_queue_setup",
    "rte_eth_tx_done_cleanup",
    "rte_eth_(macaddr_get|link_get_nowait|stats_get|xstats_get|xstats_get_names|allmulticast_enable)",
    "rte_flow_(create|flush)",
    "rte_eth_from_rings",
    "rte_ring_(create|lookup)",
    "tachyon_.*",
];

const TYPES: &[&str] = &[
    "rte_eth_.*",
    "rte_mbuf",
    "rte_mempool.*",
    "rte_pktmbuf_.*",
    "rte_flow_.*",
    "rte_iova_mode",
    "tachyon_mbuf_offset",
];

const VARIABLES: &[&str] = &[
    "TACHYON_.*",
    "rte_eth_fp_ops",
    "RTE_ETH_.*",
    "RTE_MBUF_F_.*",
    "RTE_PKTMBUF_.*",
    "RTE_MBUF_L[23]_LEN_OFS",
    "RTE_VER_.*",
    "RTE_MAX_ETHPORTS",
    "RTE_MEMPOOL_.*",
    "RTE_LOG_.*",
    "RTE_EAL_.*",
];

/// Types that Rust cannot lay out (packed and aligned at once); nothing looks into them.
const OPAQUE: &[&str] = &["rte_arp_.*", "rte_l2tpv2.*", "rte_gtp_psc.*", "rte_flow_item_.*_hdr"];

/// Linked when DPDK is loaded at run time: what is called by name. Drivers are loaded by EAL.
const DYNAMIC: &[&str] =
    &["rte_eal", "rte_ethdev", "rte_mbuf", "rte_mempool", "rte_ring", "rte_bus_vdev", "rte_net_ring"];

/// Linked into the appliance whole, because drivers and memory pools announce themselves by constructors.
const STATIC: &[&str] = &[
    "rte_eal",
    "rte_kvargs",
    "rte_telemetry",
    "rte_ring",
    "rte_rcu",
    "rte_mempool",
    "rte_mbuf",
    "rte_net",
    "rte_meter",
    "rte_ethdev",
    "rte_pci",
    "rte_hash",
    "rte_timer",
    "rte_cryptodev",
    "rte_security",
    "rte_bus_vdev",
    "rte_bus_pci",
    "rte_bus_auxiliary",
    "rte_mempool_ring",
    "rte_net_null",
    "rte_net_ring",
    "rte_net_memif",
    "rte_net_af_packet",
    "rte_net_pcap",
    "rte_net_e1000",
    "rte_net_ixgbe",
    "rte_net_i40e",
    "rte_net_ice",
    "rte_common_iavf",
    "rte_net_iavf",
    "rte_net_virtio",
    "rte_net_ena",
    "rte_common_mlx5",
    "rte_net_mlx5",
];

/// What the static libraries need from the system.
const STATIC_NEEDS: &[&str] = &["numa", "bsd", "md", "fdt", "m", "dl", "pthread", "pcap", "mlx5", "ibverbs", "z"];

fn main() {
    println!("cargo:rerun-if-changed=wrapper.h");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    let library = pkg_config::Config::new().cargo_metadata(false).atleast_version("22.11").probe("libdpdk");
    let Ok(library) = library else {
        println!(
            "cargo:error=libdpdk 22.11 or newer is not installed (on Debian: apt install libdpdk-dev libclang-dev pkg-config), or build without the feature `dpdk`"
        );
        std::process::exit(1);
    };
    let flags = flags(&library);
    let wrappers = out.join("wrappers.c");
    bindings(&flags, &wrappers).write_to_file(out.join("bindings.rs")).expect("OUT_DIR can be written");
    let mut compiler = cc::Build::new();
    compiler.file(&wrappers).include(".").opt_level(3).warnings(false).flag("-Wno-deprecated-declarations");
    flags.iter().fold(&mut compiler, |compiler, flag| compiler.flag(flag)).compile("tachyon_dpdk_wrappers");
    link(&library);
}

/// What pkg-config gives beside folders, which holds two things that matter: `-include rte_config.h` and the `-march` that
/// the headers' inline code was made for.
fn flags(library: &pkg_config::Library) -> Vec<String> {
    let mut flags: Vec<String> = library.include_paths.iter().map(|path| format!("-I{}", path.display())).collect();
    flags.extend(["-D_GNU_SOURCE", "-include", "rte_config.h"].map(String::from)); // glibc has `fopencookie` for GNU only
    if env::var("CARGO_CFG_TARGET_ARCH").is_ok_and(|arch| arch == "x86_64") {
        flags.push("-march=corei7".to_owned()); // Debian's DPDK is made for it; the headers need SSE4.2
    }
    flags
}

fn bindings(flags: &[String], wrappers: &std::path::Path) -> bindgen::Bindings {
    let mut builder = bindgen::Builder::default()
        .header("wrapper.h")
        .clang_args(flags)
        .wrap_static_fns(true)
        .wrap_static_fns_path(wrappers)
        .wrap_static_fns_suffix("_w")
        .derive_default(true)
        .generate_comments(false)
        .layout_tests(true)
        .default_enum_style(bindgen::EnumVariation::Consts)
        .prepend_enum_name(false)
        .clang_macro_fallback()
        .clang_macro_fallback_build_dir(PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR")));
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in VARIABLES {
        builder = builder.allowlist_var(name);
    }
    for name in OPAQUE {
        builder = builder.opaque_type(name);
    }
    builder.generate().expect("bindgen reads DPDK's headers; it needs libclang (on Debian: apt install libclang-dev)")
}

fn link(library: &pkg_config::Library) {
    for path in &library.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    println!("cargo:rerun-if-env-changed=TACHYON_DPDK_STATIC");
    if env::var_os("TACHYON_DPDK_STATIC").is_none_or(|value| value.is_empty()) {
        for name in DYNAMIC {
            println!("cargo:rustc-link-lib=dylib={name}");
        }
        return;
    }
    println!(
        "cargo:rustc-link-search=native=/usr/lib/{}-linux-gnu",
        env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default()
    );
    for name in STATIC {
        println!("cargo:rustc-link-lib=static:+whole-archive,-bundle={name}");
    }
    for name in STATIC_NEEDS {
        println!("cargo:rustc-link-lib={name}");
    }
}
