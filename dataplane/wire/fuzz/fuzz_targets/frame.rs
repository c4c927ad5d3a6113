//! Any bytes, through everything that looks at received bytes. Once as they are, once sealed anew, because hardly any
//! changed frame gets past its crc. Run it in the folder above:
//! `cargo fuzz run frame fuzz/corpus/frame fuzz/seeds/frame`; the seeds are golden vectors.
#![no_main]

use libfuzzer_sys::fuzz_target;
use tachyon_wire::{
    Lane,
    build::{self, Seal},
    crc,
    frame::{self, Frame},
    message, payload,
    tag::{self, FrameKey},
};

const KEY: FrameKey = FrameKey::from_bytes([7; 16]);

fuzz_target!(|bytes: &[u8]| {
    let network = Lane { frame_bytes_max: 1472, references: false };
    let shared_memory = Lane { frame_bytes_max: 65_472, references: true };
    for lane in [network, shared_memory] {
        if let Ok(frame) = frame::parse(bytes, &lane) {
            look_at(&frame, &lane);
        }
        if bytes.len() < 64 {
            continue; // nothing to seal
        }
        for seal in [Seal::Crc, Seal::Tag(&KEY)] {
            let mut sealed = bytes.to_vec();
            build::seal(&mut sealed, seal);
            if let Ok(frame) = frame::parse(&sealed, &lane) {
                assert!(if frame.is_authenticated() { tag::verify(&KEY, &frame) } else { crc::verify(&frame) });
                look_at(&frame, &lane);
            }
        }
    }
});

fn look_at(frame: &Frame<'_>, lane: &Lane) {
    assert_eq!(frame.bytes.len(), 64 + frame.header.len.get() as usize);
    assert_eq!(crc::verify(frame), crc::compute(frame.bytes) == frame.header.crc32c.get());
    let covered = payload::check(frame).is_ok();
    for (index, message) in frame.messages.iter().enumerate() {
        let checked = message::check(message, lane.references);
        let found = payload::of(frame, index);
        // What both checks let through has a payload, or one that lies elsewhere or was damaged.
        if covered && checked.is_ok() && message.is_in_frame() {
            assert!(found.is_ok() || found == Err(tachyon_wire::Reason::ArenaCorrupt));
        }
    }
    if let Some(ack) = frame.ack() {
        let _ = (ack.is_settled(frame.header.frame_id.get()), ack.is_refused(frame.header.frame_id.get()));
    }
    let _ = frame.nack().map(|nack| nack.is_accepted(255));
}
