//! What tags, crcs and hashes cost, per path, in ns per frame or record: the least and the median of many short passes, for the machine is
//! seldom ours alone. `taskset -c 0 cargo run --release -p tachyon-kernels --example kernels_cost`
#![allow(clippy::print_stdout, reason = "a program whose output is a table")]

use sha2::{Digest, Sha256};
use std::{hint::black_box, time::Instant};
use tachyon_kernels::{
    Path, crc, sha256,
    tags::{self, Job},
};
use tachyon_wire::tag::FrameKey;

const RING: usize = 256 << 10;
const PASSES: usize = 401;
/// Frames of a pass, at least; a pass takes some 20 µs.
const FRAMES: usize = 256;

/// Least and median of the passes, ns per frame.
fn measure(frames_per_call: usize, mut call: impl FnMut()) -> (f64, f64) {
    let calls = FRAMES / frames_per_call;
    let mut passes: Vec<f64> = (0..PASSES)
        .map(|_| {
            let start = Instant::now();
            for _ in 0..calls {
                call();
            }
            start.elapsed().as_secs_f64() * 1e9 / (calls * frames_per_call) as f64
        })
        .collect();
    passes.sort_by(f64::total_cmp);
    (passes[0], passes[PASSES / 2])
}

fn line(what: &str, path: Path, (least, median): (f64, f64)) {
    println!("{what:<44} {:<8} {least:7.1} {median:7.1}", path.name());
}

/// Frames of one size, each at the offset that Ethernet gives it or at the start of a line.
fn frames(memory: &[u8], bytes: usize, offset: usize, only: usize) -> Vec<&[u8]> {
    let stride = bytes.next_multiple_of(64) + 64;
    memory.chunks_exact(stride).map(|slot| &slot[offset..][..bytes]).take(only).collect()
}

fn tags_cost(memory: &[u8], path: Path) {
    let keys: Vec<_> = (0..=255).map(|byte| FrameKey::from_bytes([byte; 16])).collect();
    for bytes in [1_472, 128] {
        for (place, offset, only) in [("hot", 0, 8), ("hot, offset 42", 42, 8), ("ring", 0, usize::MAX)] {
            let frames = frames(memory, bytes, offset, only);
            for many in [1, 2, 3, 4, 8] {
                let jobs: Vec<_> =
                    frames.iter().zip(keys.iter().cycle()).map(|(frame, key)| Job { key, frame }).collect();
                let mut groups = jobs.chunks_exact(many).cycle();
                let mut out = [[0; 16]; 8];
                let cost = measure(many, || {
                    tags::tags(path, black_box(groups.next().unwrap_or_default()), &mut out);
                    black_box(&mut out);
                });
                line(&format!("tag {bytes} B, {many} a call, {place}"), path, cost);
            }
        }
    }
    let shapes = [1_472, 128, 640, 1_472, 192, 1_024, 128, 1_472];
    let jobs = shapes.map(|bytes| Job { key: &keys[3], frame: &memory[..bytes] });
    let mut out = [[0; 16]; 8];
    let cost = measure(8, || {
        tags::tags(path, black_box(&jobs), &mut out);
        black_box(&mut out);
    });
    line("tag 816 B on average, 8 a call, mixed", path, cost);
}

fn crc_cost(memory: &[u8], path: Path) {
    for bytes in [1_472, 128, 4_096] {
        for (place, offset, only) in [("hot", 0, 8), ("hot, offset 42", 42, 8), ("ring", 0, usize::MAX)] {
            let frames = frames(memory, bytes, offset, only);
            let mut frames = frames.iter().cycle();
            let cost = measure(1, || {
                black_box(crc::frame_crc(path, black_box(frames.next().copied().unwrap_or_default())));
            });
            line(&format!("frame crc {bytes} B, {place}"), path, cost);
        }
        let cost = measure(1, || {
            black_box(crc::crc32c(path, black_box(&memory[..bytes])));
        });
        line(&format!("plain crc {bytes} B, hot"), path, cost);
    }
}

/// Lengths of the records of a call, in turn.
const RECORDS: [(&str, &[usize]); 3] =
    [("1536 B", &[1_536]), ("160 B", &[160]), ("mixed, 848 B", &[1_536, 160, 1_536, 160, 704, 1_248, 160, 1_280])];

fn hash_cost(memory: &[u8], path: Path) {
    for (what, lengths) in RECORDS {
        for many in [1, 2, 8, 11, 12, 13, 16, 64] {
            let lengths = lengths.iter().cycle().take(many);
            let records: Vec<_> = memory.chunks(1_600).zip(lengths).map(|(slot, bytes)| &slot[..*bytes]).collect();
            let mut out = [[0; 32]; 64];
            let cost = measure(many, || {
                sha256::hashes(path, 0, black_box(&records), &mut out);
                black_box(&mut out);
            });
            line(&format!("hash {what}, {many} a call"), path, cost);
        }
    }
}

/// The crate that one would take instead, for comparison; it uses the SHA instructions wherever there are any.
fn hash_cost_elsewhere(memory: &[u8]) {
    for (what, lengths) in RECORDS {
        let mut records = memory.chunks(1_600).zip(lengths.iter().cycle()).take(16).cycle();
        let cost = measure(16, || {
            for (slot, bytes) in records.by_ref().take(16) {
                let hash = Sha256::new().chain_update([0]).chain_update(black_box(&slot[..*bytes])).finalize();
                black_box(hash);
            }
        });
        line(&format!("hash {what}, the crate sha2"), Path::SCALAR, cost);
    }
}

fn main() {
    let memory: Vec<u8> = (0..RING + 64).map(|index| ((index * 167) >> 3).to_le_bytes()[0]).collect();
    let memory = &memory[memory.as_ptr().align_offset(64)..][..RING];
    println!("{:<44} {:<8} {:>7} {:>7}", "ns per frame", "path", "least", "median");
    hash_cost_elsewhere(memory);
    for path in Path::all() {
        hash_cost(memory, path);
        tags_cost(memory, path);
        crc_cost(memory, path);
    }
}
