//! Writes the golden vectors: `cargo run -p tachyon-wire --example vectors -- spec/vectors`. Deterministic: the same
//! sources give the same files, and a test compares them with those that are checked in.

mod bad_frames;
mod good;
mod json;
mod judged;
mod messages;
mod world;

use std::{env, fs, io, path::PathBuf};

/// Every vector, in the order in which the document mentions what they show.
fn all() -> Vec<world::Vector> {
    [good::vectors(), bad_frames::vectors(), judged::vectors(), messages::vectors()].into_iter().flatten().collect()
}

fn main() -> io::Result<()> {
    let Some(folder) = env::args_os().nth(1).map(PathBuf::from) else {
        return Err(io::Error::other("say where to: vectors FOLDER"));
    };
    fs::create_dir_all(&folder)?;
    for vector in all() {
        fs::write(folder.join(vector.name).with_extension("bin"), &vector.bytes)?;
        fs::write(folder.join(vector.name).with_extension("json"), json::text(&vector))?;
    }
    Ok(())
}
