//! Compiles the pre-filter with clang, and takes the numbers of its contract into Rust.

use std::{
    env,
    fmt::Write,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

fn main() {
    let sources = PathBuf::from(env::var("CARGO_MANIFEST_DIR").expect("cargo sets it")).join("../prefilter");
    let out = PathBuf::from(env::var("OUT_DIR").expect("cargo sets it"));
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", sources.display());
    println!("cargo:rerun-if-changed={}", sources.join("../../spec/tachyon.h").display());
    compile(&sources, &out.join("prefilter.bpf.o"));
    let contract = fs::read_to_string(sources.join("contract.h")).expect("contract.h is beside the program");
    fs::write(out.join("contract.rs"), numbers(&contract)).expect("OUT_DIR can be written");
}

/// The third version of the instruction set has been in every kernel since 5.1, and makes smaller code than the default.
/// The compiler works in the sources' folder, so that the object names no path of this machine: its hash tells programs apart.
fn compile(sources: &Path, object: &Path) {
    let arch = env::var("CARGO_CFG_TARGET_ARCH").expect("cargo sets it");
    let status = Command::new(env::var("CLANG").unwrap_or_else(|_| "clang".to_owned()))
        .args(["-target", "bpf", "-mcpu=v3", "-O2", "-g", "-Wall", "-Wextra", "-Werror", "-fdebug-compilation-dir=."])
        // Debian keeps <asm/types.h> where only compilers for the machine itself look.
        .arg(format!("-idirafter/usr/include/{arch}-linux-gnu"))
        .args(["-c", "prefilter.bpf.c"])
        .current_dir(sources)
        .arg("-o")
        .arg(object)
        .status();
    if !status.is_ok_and(|status| status.success()) {
        println!(
            "cargo:error=the pre-filter could not be compiled: it needs clang 14 and the headers of libbpf (on Debian: apt install clang libbpf-dev), or build without the loader"
        );
        std::process::exit(1);
    }
}

/// `#define PREFILTER_NAME NUMBER` becomes `pub const NAME: u32 = NUMBER;`.
fn numbers(contract: &str) -> String {
    let mut text = String::new();
    for line in contract.lines() {
        let Some((name, value)) = line.strip_prefix("#define PREFILTER_").and_then(|rest| rest.split_once(' ')) else {
            continue;
        };
        let value: u32 = value.trim().parse().expect("contract.h defines decimal numbers only");
        let _ = writeln!(text, "/// `PREFILTER_{name}` of contract.h.\npub const {name}: u32 = {value};");
    }
    text
}
