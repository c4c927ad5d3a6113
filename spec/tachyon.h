/* SPDX-License-Identifier: Apache-2.0 */
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
#error "the wire format is little endian, and these structures are laid over its bytes as they are"
#endif

#define TACHYON_LINE 64
#define TACHYON_MAGIC 0x31545452
#define TACHYON_VERSION 1
#define TACHYON_MESSAGES_MAX 256
#define TACHYON_BASE_PORT 24640
#define TACHYON_SHARDS_DEFAULT 16
#define TACHYON_AUTHENTICATED 0x1
#define TACHYON_DURABLE 0x2
#define TACHYON_ACK_WANTED 0x4
#define TACHYON_TRACE 0x8
#define TACHYON_PROVENANCE 0x10
#define TACHYON_FLAGS_KNOWN 0x1f
#define TACHYON_KIND_DATA 0
#define TACHYON_KIND_ACK 1
#define TACHYON_KIND_NACK 2
#define TACHYON_KIND_HEARTBEAT 3
#define TACHYON_ACK_BYTES 128
#define TACHYON_NACK_BYTES 64
#define TACHYON_PROVENANCE_BYTES 16
#define TACHYON_MESSAGE_BYTES 64
#define TACHYON_INLINE_MAX 48
#define TACHYON_TOPIC_SLOTS_MAX 1048576
#define TACHYON_REASON_SLOTS 64

struct tachyon_frame_header {
    __u32 magic;
    __u16 flags;
    __u8 version;
    __u8 kind;
    __u32 route_id;
    __u32 frame_id;
    __u32 len;
    __u32 crc32c;
    __u32 session_id;
    __u16 shard;
    __u16 count;
    __u64 sent_ns;
    __u32 epoch;
    __u32 reserved;
    __u64 tag[2];
};
_Static_assert(sizeof(struct tachyon_frame_header) == 64, "tachyon_frame_header has no holes");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, magic) == 0, "magic is at 0");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, flags) == 4, "flags is at 4");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, version) == 6, "version is at 6");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, kind) == 7, "kind is at 7");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, route_id) == 8, "route_id is at 8");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, frame_id) == 12, "frame_id is at 12");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, len) == 16, "len is at 16");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, crc32c) == 20, "crc32c is at 20");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, session_id) == 24, "session_id is at 24");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, shard) == 28, "shard is at 28");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, count) == 30, "count is at 30");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, sent_ns) == 32, "sent_ns is at 32");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, epoch) == 40, "epoch is at 40");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, reserved) == 44, "reserved is at 44");
_Static_assert(__builtin_offsetof(struct tachyon_frame_header, tag) == 48, "tag is at 48");

struct tachyon_message {
    __u64 flags;
    __u32 topic_id;
    __u32 sender_id;
    __u8 data[48];
};
_Static_assert(sizeof(struct tachyon_message) == 64, "tachyon_message has no holes");
_Static_assert(__builtin_offsetof(struct tachyon_message, flags) == 0, "flags is at 0");
_Static_assert(__builtin_offsetof(struct tachyon_message, topic_id) == 8, "topic_id is at 8");
_Static_assert(__builtin_offsetof(struct tachyon_message, sender_id) == 12, "sender_id is at 12");
_Static_assert(__builtin_offsetof(struct tachyon_message, data) == 16, "data is at 16");

/* Why something was refused; numbers and names never change. */
enum tachyon_reason {
    TACHYON_E_INGRESS_TOO_LARGE = 1,
    TACHYON_E_INGRESS_BAD_FRAME = 2,
    TACHYON_E_INGRESS_WRONG_SHARD = 3,
    TACHYON_E_AUTH_NO_SESSION = 4,
    TACHYON_E_AUTH_BAD_TAG = 5,
    TACHYON_E_INGRESS_BAD_CRC = 6,
    TACHYON_E_AUTH_TAG_REQUIRED = 7,
    TACHYON_E_AUTH_STALE = 8,
    TACHYON_E_AUTH_REPLAY = 9,
    TACHYON_E_ARENA_REF_INVALID = 10,
    TACHYON_E_INGRESS_BAD_PACKET = 20,
    TACHYON_E_INGRESS_MODE_FORBIDDEN = 21,
    TACHYON_E_GOV_TOPIC_SHARD = 22,
    TACHYON_E_GOV_SYSTEM_DENIED = 23,
    TACHYON_E_AUTH_SENDER = 24,
    TACHYON_E_GOV_RULESET_UNAVAILABLE = 25,
    TACHYON_E_GOV_RULESET_INVALID = 26,
    TACHYON_E_GOV_DENYLISTED = 27,
    TACHYON_E_GOV_TAG_REQUIRED = 28,
    TACHYON_E_GOV_SHED = 29,
    TACHYON_E_GOV_QUOTA_EXCEEDED = 30,
    TACHYON_E_GOV_THROTTLED = 31,
    TACHYON_E_TX_CONGESTION = 40,
    TACHYON_E_TX_SUBMIT_FAIL = 41,
    TACHYON_E_TX_CQ_ERROR = 42,
    TACHYON_E_TX_QP_RESET = 43,
    TACHYON_E_TX_TIMEOUT = 44,
    TACHYON_E_ARENA_OOM = 45,
    TACHYON_E_PERSIST_UNAVAILABLE = 46,
    TACHYON_E_PERSIST_TIMEOUT = 47,
    TACHYON_E_PERSIST_DISK_FULL = 48,
    TACHYON_E_PERSIST_CORRUPT = 49,
    TACHYON_E_ARENA_CORRUPT = 50,
    TACHYON_E_FILTER_MALFORMED = 52,
    TACHYON_E_FILTER_FRAGMENT = 53,
    TACHYON_E_FILTER_DENIED = 54,
    TACHYON_E_FILTER_RATE = 55,
    TACHYON_E_FILTER_TOPIC = 56,
    TACHYON_E_INTERNAL_PANIC = 60,
    TACHYON_E_INTERNAL_INVARIANT = 61,
    TACHYON_E_INTERNAL_OVERFLOW = 62,
};

#endif
