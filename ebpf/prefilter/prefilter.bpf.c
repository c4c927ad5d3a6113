// SPDX-License-Identifier: Apache-2.0
//
// The pre-filter: an XDP program that lets junk die at the device, before it costs a socket, a buffer or a worker.
//
// It makes those checks of a frame that its headers alone allow, cheapest first and with the verdicts of the one parser
// in dataplane/wire, and hands on what is left. It is no border: whatever it lets through is checked again in full, so
// where a packet is odd and no check is cheap the kernel and the engine decide:
//
// - Packets that are not UDP to one of our ports pass untouched, whatever else they are.
// - One VLAN tag is looked through, since devices differ in taking it off; packets with more pass, they are not ours. What
//   still has a tag of some VLAN never goes to an AF_XDP socket: it belongs to another interface of the kernel's.
// - IPv4 options move the ports, and are followed. IPv6 extension headers are a loop, and pass.
// - The first fragment of a datagram for us is dropped, as frames are never fragmented; so the others, which show no
//   port and pass, never become a datagram.
// - Checksums are the device's or the kernel's work, and a frame has a seal besides. Only their lack is looked at: IPv6
//   demands one (RFC 8200, section 8.1), IPv4 does not.
// - Where a device splits headers from data and a part of the frame cannot be read in place, the frame passes unjudged.
//
// Structures are laid over the packet without `packed`: clang would read packed fields byte by byte, and the CPUs with
// an XDP driver read unaligned words. No type of the running kernel is used, so there is nothing to relocate.

#include "contract.h"
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/in.h>
#include <linux/ip.h>
#include <linux/ipv6.h>
#include <linux/udp.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char terms[] SEC("license") = "Apache-2.0";

// Filled in by the loader before the program is loaded, constant from then on.
const volatile struct prefilter_config config = {};

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, 1);
    __type(key, __u32);
    __type(value, struct prefilter_counters);
} counters SEC(".maps");

// Changed one by one: an element of a hash is replaced whole, so no packet sees half of a session.
struct {
    __uint(type, BPF_MAP_TYPE_HASH);
    __uint(max_entries, PREFILTER_SESSIONS_MAX);
    __type(key, __u32);
    __type(value, struct prefilter_session);
} sessions SEC(".maps");

// Theoretical arrival times, by the low bits of the session id: these are its slot in the node, so no two open sessions
// share one.
struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, PREFILTER_SESSIONS_MAX);
    __type(key, __u32);
    __type(value, __u64);
} pinned_rates SEC(".maps");

struct {
    __uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
    __uint(max_entries, PREFILTER_SOURCES);
    __type(key, __u32);
    __type(value, __u64);
} source_rates SEC(".maps");

struct deny_list {
    __uint(type, BPF_MAP_TYPE_LPM_TRIE);
    __uint(max_entries, PREFILTER_PREFIXES_MAX);
    __uint(map_flags, BPF_F_NO_PREALLOC);
    // By size: clang 14 writes no type information for structures that only an inner map names.
    __uint(key_size, sizeof(struct prefilter_prefix));
    __uint(value_size, sizeof(__u8));
};

// One place that holds the list in force, so that a whole list is replaced by one write. Both families are in one trie,
// or there would be two writes. Without a list nothing is denied.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, 1);
    __type(key, __u32);
    __array(values, struct deny_list);
} deny SEC(".maps");

struct topic_words {
    __uint(type, BPF_MAP_TYPE_ARRAY);
    __uint(max_entries, PREFILTER_TOPIC_WORDS);
    __type(key, __u32);
    __type(value, __u64);
};

// The same for topics; without a map every block is allowed.
struct {
    __uint(type, BPF_MAP_TYPE_ARRAY_OF_MAPS);
    __uint(max_entries, 1);
    __type(key, __u32);
    __array(values, struct topic_words);
} topics SEC(".maps");

// Under the name by which DPDK's AF_XDP driver looks for it in a program that it is given.
struct {
    __uint(type, BPF_MAP_TYPE_XSKMAP);
    __uint(max_entries, PREFILTER_SOCKETS_MAX);
    __type(key, __u32);
    __type(value, __u32);
} xsks_map SEC(".maps");

// No end: the next check decides.
#define GO_ON 0

/* Bytes 8 to 11 of an IPv4 address in IPv6 form, as they lie in memory. */
#define MAPPED 0xffff0000u
#define VLAN_BYTES 4
#define VLAN_NUMBER 0x0fff
// Of packets with nothing special about them: where the Ethernet type is, the first byte of an IPv4 header without options,
// and bytes up to the frame.
#define PLAIN_TYPE 12
#define PLAIN_VERSION_AND_LENGTH 0x45
#define PLAIN_BYTES (sizeof(struct ethhdr) + sizeof(struct iphdr) + sizeof(struct udphdr))
#define FRAGMENT_OFFSET 0x1fff
#define MORE_FRAGMENTS 0x2000

// A datagram for one of our ports. Where it came from is read only when somebody asks for it.
struct datagram {
    const struct iphdr *v4; /* or ... */
    const struct ipv6hdr *v6;
    const struct udphdr *udp;
    __u16 shard;
    __u32 frame_bytes;
    __u64 vlan; /* 0: none, or a tag with a priority alone */
};

// Whether the device delivered this many bytes. Their number is asked for only if they are not all in one piece, since
// that is a call.
static __always_inline int has_bytes(struct xdp_md *ctx, __u32 bytes)
{
    return bytes <= ctx->data_end - ctx->data || bytes <= bpf_xdp_get_buff_len(ctx);
}

// `room` is what the IP header leaves for the datagram, `at` where that begins.
static __always_inline __u32 find_udp(struct xdp_md *ctx, struct udphdr *udp, __u32 at, __u32 room, struct datagram *found)
{
    __u32 bytes = bpf_ntohs(udp->len);

    if (bytes < sizeof(*udp) || bytes > room || !has_bytes(ctx, at + room))
        return TACHYON_E_FILTER_MALFORMED;
    found->udp = udp;
    found->frame_bytes = bytes - sizeof(*udp);
    return GO_ON;
}

// Whether a datagram is for one of our ports; shards follow the base port, and ports do not wrap.
static __always_inline int is_ours(const struct udphdr *udp, struct datagram *found)
{
    __u32 shard = (__u32)bpf_ntohs(udp->dest) - config.base_port;

    found->shard = shard;
    return shard < config.shard_count;
}

// `header_bytes` is what the header says of its length.
static __always_inline __u32 find_v4(struct xdp_md *ctx, struct iphdr *ip, __u32 at, __u32 header_bytes,
                                     struct datagram *found)
{
    void *end = (void *)(long)ctx->data_end;
    struct udphdr *udp = (void *)ip + header_bytes;
    __u32 total, fragment;

    if ((void *)(udp + 1) > end || ip->protocol != IPPROTO_UDP)
        return PREFILTER_PASSED_FOREIGN;
    fragment = ip->frag_off;
    if (fragment & bpf_htons(FRAGMENT_OFFSET) || !is_ours(udp, found))
        return PREFILTER_PASSED_FOREIGN;
    if (fragment & bpf_htons(MORE_FRAGMENTS))
        return TACHYON_E_FILTER_FRAGMENT;
    total = bpf_ntohs(ip->tot_len);
    if (total < header_bytes)
        return TACHYON_E_FILTER_MALFORMED;
    found->v4 = ip;
    return find_udp(ctx, udp, at + header_bytes, total - header_bytes, found);
}

static __always_inline __u32 find_v6(struct xdp_md *ctx, struct ipv6hdr *ip, __u32 at, struct datagram *found)
{
    void *end = (void *)(long)ctx->data_end;
    struct udphdr *udp = (void *)(ip + 1);

    if ((void *)(udp + 1) > end || ip->version != 6 || ip->nexthdr != IPPROTO_UDP || !is_ours(udp, found))
        return PREFILTER_PASSED_FOREIGN;
    // An IPv4 address in IPv6 form would take on the source, and spend the rate, of an IPv4 peer. The kernel takes none.
    if ((ip->saddr.in6_u.u6_addr32[0] | ip->saddr.in6_u.u6_addr32[1]) == 0 && ip->saddr.in6_u.u6_addr32[2] == MAPPED)
        return PREFILTER_PASSED_FOREIGN;
    if (udp->check == 0)
        return TACHYON_E_FILTER_MALFORMED;
    found->v6 = ip;
    return find_udp(ctx, udp, at + sizeof(*ip), bpf_ntohs(ip->payload_len), found);
}

// From the device's bytes to a datagram for us.
static __always_inline __u32 find_datagram(struct xdp_md *ctx, struct datagram *found)
{
    void *data = (void *)(long)ctx->data, *end = (void *)(long)ctx->data_end;
    struct ethhdr *ethernet = data;
    __u32 at = sizeof(*ethernet);
    __be16 type;

    if ((void *)(ethernet + 1) > end)
        return PREFILTER_PASSED_FOREIGN;
    type = ethernet->h_proto;
    if (type == bpf_htons(ETH_P_8021Q) || type == bpf_htons(ETH_P_8021AD)) {
        __be16 *tag = (void *)(ethernet + 1);

        if ((void *)(tag + 2) > end)
            return PREFILTER_PASSED_FOREIGN;
        found->vlan = bpf_ntohs(tag[0]) & VLAN_NUMBER;
        type = tag[1];
        at += VLAN_BYTES;
    }
    if (type == bpf_htons(ETH_P_IP)) {
        struct iphdr *ip = data + at;

        if ((void *)(ip + 1) > end || ip->version != 4 || ip->ihl < 5)
            return PREFILTER_PASSED_FOREIGN;
        return find_v4(ctx, ip, at, ip->ihl * 4, found);
    }
    if (type == bpf_htons(ETH_P_IPV6))
        return find_v6(ctx, data + at, at, found);
    return PREFILTER_PASSED_FOREIGN;
}

// The flags that mean something on frames of this kind.
static __always_inline __u16 flags_allowed(__u8 kind)
{
    if (kind == TACHYON_KIND_DATA)
        return TACHYON_FLAGS_KNOWN;
    if (kind == TACHYON_KIND_HEARTBEAT)
        return TACHYON_AUTHENTICATED | TACHYON_ACK_WANTED | TACHYON_TRACE;
    return TACHYON_AUTHENTICATED | TACHYON_TRACE;
}

// Whether `count` messages, and their provenance, fit into the body.
static __always_inline int is_sound_data(const struct tachyon_frame_header *header, __u32 body)
{
    __u32 count = header->count, need = count * TACHYON_MESSAGE_BYTES;

    if (header->flags & TACHYON_PROVENANCE)
        need += (count * TACHYON_PROVENANCE_BYTES + TACHYON_LINE - 1) / TACHYON_LINE * TACHYON_LINE;
    return count != 0 && count <= TACHYON_MESSAGES_MAX && need <= body;
}

// The kinds without messages; what is in their bodies is not looked at.
static __always_inline int is_sound_control(const struct tachyon_frame_header *header, __u32 body)
{
    if (header->count != 0 || header->route_id != 0)
        return 0;
    switch (header->kind) {
    case TACHYON_KIND_ACK:
        return body == TACHYON_ACK_BYTES;
    case TACHYON_KIND_NACK:
        return body == TACHYON_NACK_BYTES;
    case TACHYON_KIND_HEARTBEAT:
        return body == 0;
    default:
        return 0;
    }
}

// The parser's checks of a header, in dataplane/wire/src/frame.rs.
static __always_inline int is_sound(const struct tachyon_frame_header *header, __u32 frame_bytes)
{
    __u32 body = frame_bytes - sizeof(*header);
    __u64 seal_other;

    if (header->version != TACHYON_VERSION || body % TACHYON_LINE || header->len != body)
        return 0;
    if (header->flags & ~flags_allowed(header->kind) || header->frame_id == 0 || header->reserved)
        return 0;
    // Last, as it lies in the packet's next cache line.
    seal_other = header->flags & TACHYON_AUTHENTICATED ? header->crc32c : header->tag[0] | header->tag[1];
    if (seal_other)
        return 0;
    return header->kind == TACHYON_KIND_DATA ? is_sound_data(header, body) : is_sound_control(header, body);
}

// The one parser's first checks and the engine's next two, with their reasons. A route is allowed to sessions of nodes
// alone, and that is decided before the shard; such frames are few, so only they ask for the session twice.
static __always_inline __u32 check_frame(const struct tachyon_frame_header *header, const struct datagram *found)
{
    struct prefilter_session *session;
    __u32 id = header->session_id;

    if (!is_sound(header, found->frame_bytes))
        return TACHYON_E_INGRESS_BAD_FRAME;
    if (header->kind == TACHYON_KIND_DATA && header->route_id != 0) {
        session = bpf_map_lookup_elem(&sessions, &id);
        if (!session || !(session->flags & PREFILTER_SESSION_NODE))
            return TACHYON_E_INGRESS_BAD_FRAME;
    }
    return header->shard == found->shard ? GO_ON : TACHYON_E_INGRESS_WRONG_SHARD;
}

// Whether a bucket has no frame left; if it has one, `next` is what the bucket becomes once that is taken. The coarse clock is
// read without a system register and steps once a tick (1 to 10 ms); the loader demands bursts that last longer. An arrival
// further ahead than this rate can bring about was left by another one in tables that were taken over, and must not hold up its
// source for as long as that.
static __always_inline int is_over(const __u64 *arrival, __u64 interval, __u64 tolerance, __u64 *next)
{
    __u64 now = bpf_ktime_get_coarse_ns() << 4;
    __u64 due = *arrival > now && *arrival - now <= tolerance + interval ? *arrival : now;

    *next = due + interval;
    return due - now > tolerance;
}

static __always_inline __u32 check_pinned_rate(__u32 session_id)
{
    __u32 slot = session_id & (PREFILTER_SESSIONS_MAX - 1);
    __u64 *arrival, next;

    if (config.pinned.interval == 0)
        return GO_ON;
    arrival = bpf_map_lookup_elem(&pinned_rates, &slot);
    if (!arrival)
        return GO_ON;
    if (is_over(arrival, config.pinned.interval, config.pinned.tolerance, &next))
        return TACHYON_E_FILTER_RATE;
    *arrival = next;
    return GO_ON;
}

// The bucket of a source, which it shares with others. The multiplier is 2^64 over the golden ratio, which spreads neighbouring
// addresses (Knuth, volume 3, section 6.4).
static __always_inline __u64 *bucket_of(const __u64 source[2])
{
    const __u64 golden = 0x9e3779b97f4a7c15;
    __u64 hash = (source[0] ^ config.seed) * golden;
    __u32 slot;

    hash = (hash ^ hash >> 32 ^ source[1]) * golden;
    hash = (hash ^ hash >> 29 ^ config.seed) * golden;
    slot = (hash >> 32) & (PREFILTER_SOURCES - 1);
    return bpf_map_lookup_elem(&source_rates, &slot);
}

// A long list costs hundreds of nanoseconds, which is why known sources never come here.
static __always_inline __u32 check_deny_list(const __u64 source[2])
{
    struct prefilter_prefix key = { .bits = 128 };
    __u32 zero = 0;
    void *list = bpf_map_lookup_elem(&deny, &zero);

    __builtin_memcpy(key.ip, source, sizeof(key.ip));
    return list && bpf_map_lookup_elem(list, &key) ? TACHYON_E_FILTER_DENIED : GO_ON;
}

// Rate and deny list of a source that no session is pinned to. The list is asked only for what the rate lets pass, and what it
// denies spends nothing, because others share the bucket. Every slot of an array is there; that one might not be is the
// verifier's idea, and answering it here spares it a second way through the list.
static __always_inline __u32 check_open_source(const __u64 source[2])
{
    __u64 *arrival, next;
    __u32 end;

    if (config.unpinned.interval == 0)
        return check_deny_list(source);
    arrival = bucket_of(source);
    if (!arrival || is_over(arrival, config.unpinned.interval, config.unpinned.tolerance, &next))
        return TACHYON_E_FILTER_RATE;
    end = check_deny_list(source);
    if (end == GO_ON)
        *arrival = next;
    return end;
}

static __always_inline void source_of(const struct datagram *found, __u64 source[2])
{
    if (found->v4) {
        source[0] = 0;
        source[1] = MAPPED | (__u64)found->v4->saddr << 32;
    } else if (found->v6) {
        __builtin_memcpy(source, &found->v6->saddr, sizeof(found->v6->saddr));
    }
}

// Session and source: what is pinned must come from there and has a bucket of its own; whatever may come from anywhere
// must not come from a denied place.
static __always_inline __u32 check_source(__u32 session_id, const struct datagram *found)
{
    struct prefilter_session *session = bpf_map_lookup_elem(&sessions, &session_id);
    __u64 source[2] = {};

    if (!session)
        return TACHYON_E_AUTH_NO_SESSION;
    source_of(found, source);
    if (session->ip[0] | session->ip[1]) {
        if (session->ip[0] != source[0] || session->ip[1] != source[1])
            return TACHYON_E_AUTH_NO_SESSION;
        if (session->port != 0 && session->port != bpf_ntohs(found->udp->source))
            return TACHYON_E_AUTH_NO_SESSION;
        return check_pinned_rate(session_id);
    }
    return check_open_source(source);
}

// Whether anybody may publish in the block of the first message's topic.
static __always_inline __u32 check_topic(struct xdp_md *ctx, const struct tachyon_frame_header *header)
{
    const struct tachyon_message *first = (void *)(header + 1);
    __u32 zero = 0, block, word;
    void *words;
    __u64 *bits;

    if (header->kind != TACHYON_KIND_DATA || (void *)(first + 1) > (void *)(long)ctx->data_end)
        return GO_ON;
    block = first->topic_id / PREFILTER_TOPIC_BLOCK;
    word = block / 64;
    if (word >= PREFILTER_TOPIC_WORDS)
        return TACHYON_E_FILTER_TOPIC;
    words = bpf_map_lookup_elem(&topics, &zero);
    if (!words)
        return GO_ON;
    bits = bpf_map_lookup_elem(words, &word);
    return bits && !(*bits >> block % 64 & 1) ? TACHYON_E_FILTER_TOPIC : GO_ON;
}

// Whether a packet is IPv4 without a VLAN tag and options, as nearly all for us are, and junk too.
static __always_inline int is_plain(struct xdp_md *ctx)
{
    void *data = (void *)(long)ctx->data;
    const __be16 *type = data + PLAIN_TYPE;
    const __u8 *version_and_length = data + sizeof(struct ethhdr);

    return data + PLAIN_BYTES <= (void *)(long)ctx->data_end && *type == bpf_htons(ETH_P_IP) &&
           *version_and_length == PLAIN_VERSION_AND_LENGTH;
}

// Every check of a datagram for us, cheapest first. Returns how the packet ends.
static __always_inline __u32 judge_datagram(struct xdp_md *ctx, const struct datagram *found)
{
    const struct tachyon_frame_header *header;
    __u32 end;

    if (found->frame_bytes > config.frame_bytes_max)
        return TACHYON_E_INGRESS_TOO_LARGE;
    if (found->frame_bytes < sizeof(*header))
        return TACHYON_E_INGRESS_BAD_FRAME;
    header = (void *)(found->udp + 1);
    if ((void *)(header + 1) > (void *)(long)ctx->data_end)
        return PREFILTER_PASSED_OURS;
    if (header->magic != TACHYON_MAGIC)
        return TACHYON_E_INGRESS_BAD_FRAME;
    end = check_frame(header, found);
    if (end != GO_ON)
        return end;
    end = check_source(header->session_id, found);
    if (end != GO_ON)
        return end;
    end = check_topic(ctx, header);
    return end != GO_ON ? end : PREFILTER_PASSED_OURS;
}

// Every check, on one of two ways through the same text: on that of plain packets everything has a constant place, which
// halves the instructions to a bad magic.
static __always_inline __u32 judge(struct xdp_md *ctx, struct datagram *found)
{
    void *data = (void *)(long)ctx->data;
    __u32 end;

    if (is_plain(ctx)) {
        end = find_v4(ctx, data + sizeof(struct ethhdr), sizeof(struct ethhdr), sizeof(struct iphdr), found);
        return end != GO_ON ? end : judge_datagram(ctx, found);
    }
    end = find_datagram(ctx, found);
    return end != GO_ON ? end : judge_datagram(ctx, found);
}

// Whether a packet that is not dropped is one for a socket.
static __always_inline int is_for_socket(__u32 end, const struct datagram *found)
{
    if (config.deliver == PREFILTER_ALL_TO_QUEUE)
        return end == PREFILTER_PASSED_OURS || end == PREFILTER_PASSED_FOREIGN;
    return config.deliver != PREFILTER_TO_KERNEL && end == PREFILTER_PASSED_OURS && found->vlan == 0;
}

// Gives a packet to the socket of its queue or shard, if one is there, and else ends it as it would have.
static __always_inline __u32 deliver(struct xdp_md *ctx, __u16 shard, __u32 end)
{
    __u32 index = ctx->rx_queue_index;

    if (config.deliver == PREFILTER_TO_SHARD)
        index = index * config.shard_count + shard;
    return bpf_redirect_map(&xsks_map, index, XDP_PASS) == XDP_REDIRECT ? PREFILTER_REDIRECTED : end;
}

// With `frags` a device may hand over packets in several pieces, as it does with large MTUs.
SEC("xdp.frags")
int tachyon_prefilter(struct xdp_md *ctx)
{
    struct datagram found = {};
    __u32 zero = 0, end;
    struct prefilter_counters *counted = bpf_map_lookup_elem(&counters, &zero);

    if (!counted)
        return XDP_PASS;
    counted->ends[PREFILTER_SEEN]++;
    end = judge(ctx, &found);
    if (is_for_socket(end, &found))
        end = deliver(ctx, found.shard, end);
    if (end >= PREFILTER_ENDS)
        end = TACHYON_E_INTERNAL_INVARIANT;
    counted->ends[end]++;
    if (end == PREFILTER_REDIRECTED)
        return XDP_REDIRECT;
    return end < TACHYON_REASON_SLOTS ? XDP_DROP : XDP_PASS;
}
