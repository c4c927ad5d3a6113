//! Every path that this machine has says what the scalar twin says.

use proptest::prelude::*;
use sha2::{Digest, Sha256};
use tachyon_kernels::{
    Path, crc, sha256,
    tags::{self, Job},
};
use tachyon_wire::{LINE, Lane, frame, tag::FrameKey};

/// Longest frame of these tests, in lines: 256 messages and a header.
const LINES_MAX: usize = 257;
const LANE: Lane = Lane { frame_bytes_max: 1 << 20, references: false };

/// Bytes that look like nothing, from a seed.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..len).map(|_| next()).collect()
}

fn check_crc(bytes: &[u8]) {
    for path in Path::all() {
        assert_eq!(crc::crc32c(path, bytes), tachyon_wire::crc::of(bytes), "{}, {} bytes", path.name(), bytes.len());
        let expected = tachyon_wire::crc::compute(bytes);
        assert_eq!(crc::frame_crc(path, bytes), expected, "frame, {}, {} bytes", path.name(), bytes.len());
        let behind = crc::crc32c(path, bytes.get(LINE..).unwrap_or_default());
        assert_eq!(crc::joined_crc(path, bytes, behind), expected, "joined, {}, {} bytes", path.name(), bytes.len());
    }
}

fn check_tags(jobs: &[Job<'_>]) {
    let expected: Vec<_> = jobs.iter().map(|job| tachyon_wire::tag::compute(job.key, job.frame)).collect();
    for path in Path::all() {
        let mut out = vec![[0xa5; 16]; jobs.len() + 1];
        tags::tags(path, jobs, &mut out);
        assert_eq!(out[..jobs.len()], expected, "{}", path.name());
        assert_eq!(out[jobs.len()], [0xa5; 16], "what belongs to no job is left alone");
    }
}

fn check_hashes(prefix: u8, inputs: &[&[u8]]) {
    let expected: Vec<[u8; 32]> =
        inputs.iter().map(|input| Sha256::new().chain_update([prefix]).chain_update(input).finalize().into()).collect();
    for path in Path::all() {
        let mut hashes = vec![[0xa5; 32]; inputs.len() + 1];
        sha256::hashes(path, prefix, inputs, &mut hashes);
        for (index, (hash, expected)) in hashes.iter().zip(&expected).enumerate() {
            assert_eq!(hash, expected, "{}, {} bytes, input {index}", path.name(), inputs[index].len());
        }
        assert_eq!(hashes[inputs.len()], [0xa5; 32], "what belongs to no input is left alone");
    }
}

#[test]
fn crcs_of_every_length_of_lines() {
    let bytes = noise(7, LINES_MAX * LINE + LINE);
    for lines in 0..=LINES_MAX {
        check_crc(&bytes[lines % LINE..][..lines * LINE]);
    }
}

#[test]
fn crcs_of_payloads_longer_than_frames() {
    let bytes = noise(11, 70_000);
    for len in (17_300..17_700).step_by(7).chain([65_536, 70_000]) {
        check_crc(&bytes[len % 5..len]);
    }
}

#[test]
fn crcs_of_lengths_that_no_frame_has() {
    let bytes = noise(8, 1024);
    for len in 0..=bytes.len() {
        check_crc(&bytes[..len]);
        check_crc(&bytes[len..]);
    }
}

#[test]
fn crcs_that_are_published() {
    for path in Path::all() {
        assert_eq!(crc::crc32c(path, b"123456789"), 0xe306_9283); // the catalogue's check value
        assert_eq!(crc::crc32c(path, &[0; 32]), 0x8a91_36aa); // RFC 3720, B.4
        assert_eq!(crc::crc32c(path, &[0xff; 32]), 0x62a8_ab43); // RFC 3720, B.4
    }
}

#[test]
fn frames_are_verified_as_wire_does() {
    let mut bytes = vec![0; LINE];
    bytes[..4].copy_from_slice(&frame::MAGIC);
    (bytes[6], bytes[7], bytes[12]) = (frame::VERSION, frame::KIND_HEARTBEAT, 1);
    let crc32c = tachyon_wire::crc::compute(&bytes);
    for wrong in [0, 1, 1 << 31] {
        bytes[20..24].copy_from_slice(&(crc32c ^ wrong).to_le_bytes());
        let frame = frame::parse(&bytes, &LANE).unwrap();
        for path in Path::all() {
            assert_eq!(crc::verify_frame(path, &frame), wrong == 0);
            assert_eq!(crc::verify_frame(path, &frame), tachyon_wire::crc::verify(&frame));
        }
    }
}

#[test]
fn tags_of_every_length_in_pairs() {
    let bytes = noise(9, LINES_MAX * LINE + LINE);
    let keys = [FrameKey::from_bytes([1; 16]), FrameKey::from_bytes([2; 16])];
    for lines in 1..=LINES_MAX {
        let long = Job { key: &keys[0], frame: &bytes[lines % LINE..][..lines * LINE] };
        let short = Job { key: &keys[1], frame: &bytes[..lines.div_ceil(2) * LINE] };
        check_tags(&[long, short]);
        check_tags(&[short, long, long]);
    }
}

#[test]
fn tags_of_lengths_that_no_frame_has() {
    let bytes = noise(10, 512);
    let key = FrameKey::from_bytes([3; 16]);
    for len in LINE..=bytes.len() {
        let odd = Job { key: &key, frame: &bytes[..len] };
        check_tags(&[odd, Job { key: &key, frame: &bytes[..LINE] }, odd]);
    }
}

#[test]
fn tags_of_bytes_without_header_panic_on_every_path() {
    let key = FrameKey::ZERO;
    for path in Path::all() {
        let result =
            std::panic::catch_unwind(|| tags::tags(path, &[Job { key: &key, frame: &[0; 63] }], &mut [[0; 16]]));
        assert!(result.is_err(), "{}", path.name());
    }
}

#[test]
fn hashes_of_every_length_alone_and_among_others() {
    let bytes = noise(12, 1024);
    for len in 0..=300 {
        let input = &bytes[len % LINE..][..len];
        for many in [1, 2, 3, 12, 16, 17] {
            check_hashes(len.to_le_bytes()[0], &vec![input; many]);
        }
    }
    let inputs: Vec<_> = (0..=300).map(|len| &bytes[300 - len..][..len]).collect();
    check_hashes(0, &inputs);
    check_hashes(1, &inputs.iter().rev().copied().collect::<Vec<_>>());
}

#[test]
fn hashes_of_one_long_input_among_short_ones() {
    let bytes = noise(13, 70_000);
    for at in 0..40 {
        let inputs: Vec<_> = (0..40).map(|index| &bytes[index..][..if index == at { 66_000 } else { 160 }]).collect();
        check_hashes(0, &inputs);
    }
}

#[test]
fn hashes_that_are_published() {
    let million = vec![b'a'; 1_000_000];
    let long = b"abcdefghbcdefghicdefghijdefghijkefghijklfghijklmghijklmnhijklmnoijklmnopjklmnopqklmnopqrlmnopqrsmnopqrstnopqrstu";
    // FIPS 180-2, B.1 to B.3, and what NIST's examples add to them.
    let published: [(&[u8], &str); 4] = [
        (b"abc", "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
        (
            b"abcdbcdecdefdefgefghfghighijhijkijkljklmklmnlmnomnopnopq",
            "248d6a61d20638b8e5c026930c3e6039a33ce45964ff2167f6ecedd419db06c1",
        ),
        (long, "cf5b16a778af8380036ce59e7b0492370b249b11e8f07a51afac45037afee9d1"),
        (&million, "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0"),
    ];
    for path in Path::all() {
        for (message, published) in published {
            let mut hash = [[0; 32]];
            sha256::hashes(path, message[0], &[&message[1..]], &mut hash);
            let hash: String = hash[0].iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(hash, published, "{}", path.name());
        }
    }
}

#[test]
fn equal_sees_every_bit() {
    let a = [0x5a; 16];
    assert!(tags::equal(&a, &a));
    for bit in 0..128 {
        let mut b = a;
        b[bit / 8] ^= 1 << (bit % 8);
        assert!(!tags::equal(&a, &b));
    }
}

proptest! {
    #[test]
    fn crcs_of_any_bytes(seed: u64, start in 0_usize..LINE, len in 0..LINES_MAX * LINE) {
        check_crc(&noise(seed, start + len)[start..]);
    }

    #[test]
    fn tags_of_any_jobs(
        bytes in any::<u64>().prop_map(|seed| noise(seed, LINES_MAX * LINE + LINE)),
        shapes in prop::collection::vec((0_usize..LINE, 1..=LINES_MAX, any::<[u8; 16]>()), 0..=9),
    ) {
        let keys: Vec<_> = shapes.iter().map(|shape| FrameKey::from_bytes(shape.2)).collect();
        let frames = shapes.iter().map(|(start, lines, _)| &bytes[*start..][..lines * LINE]);
        let jobs: Vec<_> = keys.iter().zip(frames).map(|(key, frame)| Job { key, frame }).collect();
        check_tags(&jobs);
    }

    #[test]
    fn tags_of_more_jobs_than_a_batch(seed: u64, shapes in prop::collection::vec(1_usize..8, 10..40)) {
        let bytes = noise(seed, 16 * LINE);
        let key = FrameKey::from_bytes(seed.to_le_bytes().repeat(2).try_into().unwrap());
        let jobs: Vec<_> = shapes.iter().map(|lines| Job { key: &key, frame: &bytes[lines * 3..][..lines * LINE] }).collect();
        check_tags(&jobs);
    }

    #[test]
    fn hashes_of_any_inputs(
        seed: u64,
        prefix: u8,
        shapes in prop::collection::vec((0_usize..LINE, prop_oneof![0_usize..200, 0_usize..=4_096]), 0..=50),
    ) {
        let bytes = noise(seed, 4_096 + LINE);
        let inputs: Vec<_> = shapes.iter().map(|(start, len)| &bytes[*start..][..*len]).collect();
        check_hashes(prefix, &inputs);
    }
}
