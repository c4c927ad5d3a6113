//! `cargo run -p tachyon-log --example log_vectors -- spec/log`: makes the golden logs, always the same.

mod make;

use std::{env, fs, io, path::PathBuf};

fn main() -> io::Result<()> {
    let folder = PathBuf::from(env::args().nth(1).ok_or_else(|| io::Error::other("name the folder: spec/log"))?);
    for (name, bytes) in make::golden() {
        let path = folder.join(name);
        fs::create_dir_all(path.parent().unwrap_or(&folder))?;
        fs::write(path, bytes)?;
    }
    Ok(())
}
