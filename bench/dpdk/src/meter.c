/* A policer as DPDK's example qos_meter is one: a meter for each flow (srTCM, colour-aware), the colour written into the
 * packet, red packets dropped. The inline functions of DPDK's headers are compiled here, with its own flags. */

#include <stdint.h>
#include <stdlib.h>

#include <rte_cycles.h>
#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_mbuf.h>
#include <rte_meter.h>

/* As the example receives and sends. */
#define BURST 32
/* Where the example has a packet's colour: the last byte of the Ethernet destination. */
#define COLOUR_AT 5
/* The flow is the topic of the frame's only message: behind Ethernet, IPv4, UDP, the frame's header, and 8 bytes. */
#define FLOW_AT (14 + 20 + 8 + 64 + 8)

static struct rte_meter_srtcm *flows;
static struct rte_meter_srtcm_profile profile;
static uint32_t flow_mask;

/* Makes `count` meters, a power of two, that are always green. Returns 0 or a negative error. */
int tachyon_meter_open(uint32_t count)
{
	/* A thousand million packets a second, as the other contender's rules allow. */
	struct rte_meter_srtcm_params rate = { .cir = 64000000000ull, .cbs = 1ull << 36, .ebs = 1ull << 36 };
	int error = rte_meter_srtcm_profile_config(&profile, &rate);

	flows = calloc(count, sizeof(*flows));
	if (flows == NULL)
		return -ENOMEM;
	flow_mask = count - 1;
	for (uint32_t i = 0; i < count && error == 0; i++)
		error = rte_meter_srtcm_config(&flows[i], &profile);
	return error;
}

static enum rte_color police(struct rte_mbuf *packet, uint64_t now)
{
	uint8_t *bytes = rte_pktmbuf_mtod(packet, uint8_t *);
	uint32_t flow = *(const unaligned_uint32_t *)(bytes + FLOW_AT) & flow_mask;
	uint32_t len = rte_pktmbuf_pkt_len(packet) - sizeof(struct rte_ether_hdr);
	enum rte_color in = (enum rte_color)bytes[COLOUR_AT];
	enum rte_color out = rte_meter_srtcm_color_aware_check(&flows[flow], &profile, now, len, in);

	bytes[COLOUR_AT] = (uint8_t)out;
	return out;
}

/* Receives a burst from a queue, polices it and sends it back there; returns how many packets were sent, and says how
 * many were received. */
uint32_t tachyon_meter_forward(uint16_t port, uint16_t queue, uint32_t *received)
{
	struct rte_mbuf *in[BURST], *out[BURST];
	uint16_t got = rte_eth_rx_burst(port, queue, in, BURST), count = 0, sent;
	uint64_t now = rte_rdtsc();

	for (uint16_t i = 0; i < got; i++) {
		if (police(in[i], now) == RTE_COLOR_RED)
			rte_pktmbuf_free(in[i]);
		else
			out[count++] = in[i];
	}
	sent = rte_eth_tx_burst(port, queue, out, count);
	for (uint16_t i = sent; i < count; i++)
		rte_pktmbuf_free(out[i]);
	*received = got;
	return sent;
}
