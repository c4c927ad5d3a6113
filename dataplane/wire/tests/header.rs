//! The C header says what the code says.

#[path = "../examples/header.rs"]
mod header;

use std::{fs, path::PathBuf};

#[test]
fn the_header_is_what_the_sources_make() {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../spec/tachyon.h");
    let made = header::text().expect("text");
    assert_eq!(fs::read_to_string(path).expect("spec/tachyon.h"), made, "make it anew with the example `header`");
}
