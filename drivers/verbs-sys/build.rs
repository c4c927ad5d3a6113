//! Makes the bindings from the headers that are installed, and compiles what is inline in them.

use std::{env, path::PathBuf};

/// Functions that are bound; inline ones get a wrapper in C. What is called for every burst is not among them: it is
/// called through the pointers that `ibv_qp_ex`, `ibv_cq_ex` and `ibv_context` hold, as the inline functions do.
const FUNCTIONS: &[&str] = &[
    "ibv_free_device_list",
    "ibv_get_device_name",
    "ibv_(open|close)_device",
    "ibv_query_device",
    "_ibv_query_gid_(ex|table)",
    "ibv_(alloc|dealloc)_pd",
    "ibv_dereg_mr",
    "ibv_(create|destroy)_comp_channel",
    "ibv_create_cq_ex",
    "ibv_destroy_cq",
    "ibv_(get|ack)_cq_events?",
    "ibv_req_notify_cq",
    "ibv_(create|destroy)_srq",
    "ibv_post_srq_recv",
    "ibv_create_qp_ex",
    "ibv_qp_to_qp_ex",
    "ibv_(modify|destroy)_qp",
    "ibv_(create|destroy)_ah",
    "ibv_(get|ack)_async_event",
    "ibv_wc_status_str",
    "ibv_event_type_str",
    "ibv_port_state_str",
    "tachyon_.*",
];

const TYPES: &[&str] = &["ibv_.*"];

const VARIABLES: &[&str] = &["IBV_.*"];

fn main() {
    println!("cargo:rerun-if-changed=wrapper.h");
    println!("cargo:rerun-if-changed=build.rs");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets OUT_DIR"));
    // 1.11 is rdma-core 31, the first with a table of GIDs that names their types.
    let library = pkg_config::Config::new().cargo_metadata(false).atleast_version("1.11").probe("libibverbs");
    let Ok(library) = library else {
        println!(
            "cargo:error=libibverbs 1.11 (rdma-core 31) or newer is not installed (on Debian: apt install libibverbs-dev libclang-dev pkg-config), or build without the verbs driver"
        );
        std::process::exit(1);
    };
    let flags: Vec<String> = library.include_paths.iter().map(|path| format!("-I{}", path.display())).collect();
    let wrappers = out.join("wrappers.c");
    bindings(&flags, &wrappers).write_to_file(out.join("bindings.rs")).expect("OUT_DIR can be written");
    let mut compiler = cc::Build::new();
    compiler.file(&wrappers).include(".").opt_level(3).warnings(false);
    flags.iter().fold(&mut compiler, |compiler, flag| compiler.flag(flag)).compile("tachyon_verbs_wrappers");
    for path in &library.link_paths {
        println!("cargo:rustc-link-search=native={}", path.display());
    }
    println!("cargo:rustc-link-lib=dylib=ibverbs");
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
        .prepend_enum_name(false);
    for name in FUNCTIONS {
        builder = builder.allowlist_function(name);
    }
    for name in TYPES {
        builder = builder.allowlist_type(name);
    }
    for name in VARIABLES {
        builder = builder.allowlist_var(name);
    }
    builder
        .generate()
        .expect("bindgen reads the headers of verbs; it needs libclang (on Debian: apt install libclang-dev)")
}
