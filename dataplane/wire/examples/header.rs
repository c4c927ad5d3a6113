//! Writes what a C program needs of the wire format: `cargo run -p tachyon-wire --example header -- spec/tachyon.h`.
//! Deterministic: the same sources give the same file, and a test compares it with the one that is checked in.

use std::{
    env,
    fmt::{self, Write},
    fs, io,
    mem::offset_of,
};
use tachyon_wire::{
    FrameHeader, LINE, Message, Reason,
    ack::{AckBody, NackBody},
    frame::{self, Provenance},
    image::TOPIC_SLOTS_MAX,
    message,
    reason::REASON_SLOTS,
};

const OPENING: &str = "/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The wire format for C: layouts, numbers and names, as dataplane/wire has them. Everything is little endian, and each
 * field lies on a multiple of its size from the start of its structure.
 *
 * Made by `cargo run -p tachyon-wire --example header -- spec/tachyon.h`; change the sources, never this file.
 */
#ifndef TACHYON_H
#define TACHYON_H

#include <linux/types.h>

#if __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
#error \"the wire format is little endian, and these structures are laid over its bytes as they are\"
#endif
";

/// A field: its type and name in C, and where it is.
type Field = (&'static str, &'static str, usize);

macro_rules! fields {
    ($of:ty: $($c_type:literal $c_name:literal = $field:ident;)*) => {
        &[$(($c_type, $c_name, offset_of!($of, $field))),*]
    };
}

const HEADER: &[Field] = fields! { FrameHeader:
    "__u32" "magic" = magic;
    "__u16" "flags" = flags;
    "__u8" "version" = version;
    "__u8" "kind" = kind;
    "__u32" "route_id" = route_id;
    "__u32" "frame_id" = frame_id;
    "__u32" "len" = len;
    "__u32" "crc32c" = crc32c;
    "__u32" "session_id" = session_id;
    "__u16" "shard" = shard;
    "__u16" "count" = count;
    "__u64" "sent_ns" = sent_ns;
    "__u32" "epoch" = epoch;
    "__u32" "reserved" = reserved;
    "__u64" "tag[2]" = tag;
};

const MESSAGE: &[Field] = fields! { Message:
    "__u64" "flags" = flags;
    "__u32" "topic_id" = topic_id;
    "__u32" "sender_id" = sender_id;
    "__u8" "data[48]" = data;
};

/// The numbers that a C program needs, each under the name it has here.
fn numbers() -> Vec<(&'static str, String)> {
    let decimal = |number: usize| number.to_string();
    let flags = |flags: u16| format!("{flags:#x}");
    vec![
        ("LINE", decimal(LINE)),
        ("MAGIC", format!("{:#010x}", u32::from_le_bytes(frame::MAGIC))),
        ("VERSION", decimal(frame::VERSION.into())),
        ("MESSAGES_MAX", decimal(frame::MESSAGES_MAX)),
        ("BASE_PORT", decimal(frame::BASE_PORT.into())),
        ("SHARDS_DEFAULT", decimal(frame::SHARDS_DEFAULT.into())),
        ("AUTHENTICATED", flags(frame::AUTHENTICATED)),
        ("DURABLE", flags(frame::DURABLE)),
        ("ACK_WANTED", flags(frame::ACK_WANTED)),
        ("TRACE", flags(frame::TRACE)),
        ("PROVENANCE", flags(frame::PROVENANCE)),
        ("FLAGS_KNOWN", flags(frame::FLAGS_KNOWN)),
        ("KIND_DATA", decimal(frame::KIND_DATA.into())),
        ("KIND_ACK", decimal(frame::KIND_ACK.into())),
        ("KIND_NACK", decimal(frame::KIND_NACK.into())),
        ("KIND_HEARTBEAT", decimal(frame::KIND_HEARTBEAT.into())),
        ("ACK_BYTES", decimal(size_of::<AckBody>())),
        ("NACK_BYTES", decimal(size_of::<NackBody>())),
        ("PROVENANCE_BYTES", decimal(size_of::<Provenance>())),
        ("MESSAGE_BYTES", decimal(size_of::<Message>())),
        ("INLINE_MAX", decimal(message::INLINE_MAX)),
        ("TOPIC_SLOTS_MAX", TOPIC_SLOTS_MAX.to_string()),
        ("REASON_SLOTS", decimal(REASON_SLOTS)),
    ]
}

fn structure(text: &mut String, name: &str, fields: &[Field], bytes: usize) -> fmt::Result {
    writeln!(text, "\nstruct {name} {{")?;
    for (c_type, c_name, _) in fields {
        writeln!(text, "    {c_type} {c_name};")?;
    }
    writeln!(text, "}};\n_Static_assert(sizeof(struct {name}) == {bytes}, \"{name} has no holes\");")?;
    for (_, c_name, at) in fields {
        let field = c_name.split('[').next().unwrap_or(c_name);
        writeln!(text, "_Static_assert(__builtin_offsetof(struct {name}, {field}) == {at}, \"{field} is at {at}\");")?;
    }
    Ok(())
}

/// The whole file.
pub(crate) fn text() -> Result<String, fmt::Error> {
    let mut text = OPENING.to_owned();
    text.push('\n');
    for (name, number) in numbers() {
        writeln!(text, "#define TACHYON_{name} {number}")?;
    }
    structure(&mut text, "tachyon_frame_header", HEADER, size_of::<FrameHeader>())?;
    structure(&mut text, "tachyon_message", MESSAGE, size_of::<Message>())?;
    text.push_str("\n/* Why something was refused; numbers and names never change. */\nenum tachyon_reason {\n");
    for reason in Reason::ALL {
        writeln!(text, "    TACHYON_{} = {},", reason.code(), reason.number())?;
    }
    text.push_str("};\n\n#endif\n");
    Ok(text)
}

/// Writes the file that is named, once. (The test that includes this file has no use for it.)
#[allow(dead_code, reason = "the test that compares the file includes this source for its text alone")]
fn main() -> io::Result<()> {
    let Some(path) = env::args_os().nth(1) else {
        return Err(io::Error::other("say where to: header FILE"));
    };
    fs::write(path, text().map_err(io::Error::other)?)
}
