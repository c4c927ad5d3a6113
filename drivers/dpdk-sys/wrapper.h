/* What tachyon-driver-dpdk uses of DPDK, and as functions what DPDK has only as macros. */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#include <rte_config.h>
#include <rte_version.h>
#include <rte_eal.h>
#include <rte_alarm.h>
#include <rte_errno.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_memory.h>
#include <rte_memzone.h>
#include <rte_mempool.h>
#include <rte_mbuf.h>
#include <rte_dev.h>
#include <rte_ethdev.h>
#include <rte_flow.h>
#include <rte_eth_ring.h>
#include <rte_ring.h>
#include <rte_bus_vdev.h>

/* rte_errno is a macro around a thread-local variable. */
static inline int tachyon_errno(void) { return rte_errno; }

/* Where the descriptor's fields are. Newer versions move some into unions; offsets stay true. */
enum tachyon_mbuf_offset {
	TACHYON_BUF_ADDR = offsetof(struct rte_mbuf, buf_addr),
	TACHYON_BUF_IOVA = offsetof(struct rte_mbuf, buf_iova),
	TACHYON_DATA_OFF = offsetof(struct rte_mbuf, data_off),
	TACHYON_NB_SEGS = offsetof(struct rte_mbuf, nb_segs),
	TACHYON_OL_FLAGS = offsetof(struct rte_mbuf, ol_flags),
	TACHYON_PKT_LEN = offsetof(struct rte_mbuf, pkt_len),
	TACHYON_DATA_LEN = offsetof(struct rte_mbuf, data_len),
	TACHYON_BUF_LEN = offsetof(struct rte_mbuf, buf_len),
	TACHYON_NEXT = offsetof(struct rte_mbuf, next),
	TACHYON_TX_OFFLOAD = offsetof(struct rte_mbuf, tx_offload),
};

/* A link's fields are bits, whose layout changes between versions. */
static inline int tachyon_link_is_up(const struct rte_eth_link *link) { return link->link_status; }
static inline uint32_t tachyon_link_speed(const struct rte_eth_link *link) { return link->link_speed; }

/* Sends DPDK's log to a function, a line at a time; the C library's types for that differ. */
static inline int tachyon_log_to(ssize_t (*write)(void *, const char *, size_t))
{
	cookie_io_functions_t calls = { .write = write };
	FILE *stream = fopencookie(NULL, "w", calls);

	if (stream == NULL)
		return -1;
	setvbuf(stream, NULL, _IOLBF, 0);
	return rte_openlog_stream(stream);
}
