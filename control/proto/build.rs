//! Compiles the protobuf text in pure Rust, so that building needs no `protoc`.

use prost::Message as _;
use std::{env, error::Error, fs, path::PathBuf};

/// These messages carry keys: `lib.rs` writes their `Debug` by hand, so that no log line can hold one.
const SECRET: [&str; 4] = [
    ".tachyon.v1.OpenSessionResponse",
    ".tachyon.v1.EgressSession",
    ".tachyon.v1.ConnectLaneRequest",
    ".tachyon.v1.ConnectLaneResponse",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let descriptors = protox::compile(["tachyon/v1/control.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(out.join("tachyon.v1.bin"), descriptors.encode_to_vec())?;
    tonic_prost_build::configure().btree_map(".").skip_debug(SECRET).compile_fds(descriptors)?;
    Ok(())
}
