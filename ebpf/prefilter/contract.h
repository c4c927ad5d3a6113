/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the pre-filter and its loader agree on: numbers, layouts of keys and values, and how a packet can end.
 *
 * The loader's build reads the `#define NAME NUMBER` lines of this file, so each number exists once; sizes of the
 * structures are asserted on both sides. What is of the wire format is in spec/tachyon.h.
 */
#ifndef TACHYON_PREFILTER_CONTRACT_H
#define TACHYON_PREFILTER_CONTRACT_H

#include "../../spec/tachyon.h"

/* Goes up whenever the same tables would come to other verdicts. */
#define PREFILTER_VERSION 2
/* Goes up whenever a key or a value means something else, even if it has the same size: tables are then filled anew. */
#define PREFILTER_LAYOUT 1

/* Sessions: 65,536 publishers, each with the opposite direction of a subscription. */
#define PREFILTER_SESSIONS_MAX 131072
/* Denied prefixes, IPv4 and IPv6 together. */
#define PREFILTER_PREFIXES_MAX 1048576
/* Topics that share one bit of the allow map: 2 KiB for all topic slots, which stay in the first cache. */
#define PREFILTER_TOPIC_BLOCK 64
/* 64-bit words of that map: topic slots / topics of a block / 64. */
#define PREFILTER_TOPIC_WORDS 256
/* Buckets for sources that no session is pinned to; by a keyed hash, so several sources can share one. */
#define PREFILTER_SOURCES 8192
/* Sockets: queues, or queues * shards. */
#define PREFILTER_SOCKETS_MAX 4096

/*
 * How a packet ends. Below TACHYON_REASON_SLOTS it is dropped, for the reason with that number; each packet adds one to
 * SEEN and one to exactly one other place, so SEEN = PASSED_FOREIGN + PASSED_OURS + REDIRECTED + all reasons.
 */
#define PREFILTER_PASSED_FOREIGN 64
#define PREFILTER_PASSED_OURS 65
#define PREFILTER_REDIRECTED 66
#define PREFILTER_SEEN 67
#define PREFILTER_ENDS 68

/* Where good frames go: to the kernel's sockets, ... */
#define PREFILTER_TO_KERNEL 0
/* ... to the AF_XDP socket whose index is the receive queue, ... */
#define PREFILTER_TO_QUEUE 1
/* ... or to the one whose index is queue * shard_count + shard. Where there is none, to the kernel. */
#define PREFILTER_TO_SHARD 2
/*
 * Everything that is not dropped, whoever it is for, goes to the socket whose index is the receive queue: the interface belongs to
 * a program that is its own neighbour, such as DPDK's.
 */
#define PREFILTER_ALL_TO_QUEUE 3

/* Session flag: opened by another node, so its frames may carry a route. */
#define PREFILTER_SESSION_NODE 1

/* A token bucket (GCRA), in sixteenths of a nanosecond as in the data plane. interval 0 is no limit. */
struct prefilter_rate {
    __u64 interval;  /* between two frames */
    __u64 tolerance; /* how far the theoretical arrival may be ahead of the clock: (burst - 1) * interval */
};

/* Constants of one loaded program, in its read-only data: the verifier removes what they switch off. */
struct prefilter_config {
    __u32 version; /* PREFILTER_VERSION */
    __u32 layout;  /* a hash over PREFILTER_LAYOUT and the shape of every map */
    __u64 build;   /* a hash over the program's object file */
    __u64 seed;    /* of the hash over sources; secret, or an attacker could aim at a bucket */
    struct prefilter_rate pinned;   /* of each session that is pinned, per CPU */
    struct prefilter_rate unpinned; /* of each other source, per CPU */
    __u32 frame_bytes_max;
    __u32 deliver; /* PREFILTER_TO_... */
    __u16 base_port;
    __u16 shard_count;
    __u32 reserved;
};
_Static_assert(sizeof(struct prefilter_config) == 72, "as the loader has it");

/* Value of `sessions`; the key is the session id. Addresses are IPv6, or IPv4 as ::ffff:a.b.c.d, in network order. */
struct prefilter_session {
    __u64 ip[2]; /* all zeros: not pinned */
    __u16 port;  /* 0: any */
    __u16 flags; /* PREFILTER_SESSION_... */
    __u32 reserved;
};
_Static_assert(sizeof(struct prefilter_session) == 24, "as the loader has it");

/* Key of a deny list: the first `bits` bits of an address as above, so an IPv4 prefix has 96 more. */
struct prefilter_prefix {
    __u32 bits;
    __u32 ip[4];
};
_Static_assert(sizeof(struct prefilter_prefix) == 20, "as the loader has it");

/* The one value of `counters`, on each CPU. */
struct prefilter_counters {
    __u64 ends[PREFILTER_ENDS];
};

_Static_assert(PREFILTER_TOPIC_WORDS * 64 * PREFILTER_TOPIC_BLOCK == TACHYON_TOPIC_SLOTS_MAX, "a bit for every block");
_Static_assert(PREFILTER_PASSED_FOREIGN == TACHYON_REASON_SLOTS, "ends follow the reasons");

#endif
