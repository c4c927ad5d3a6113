/* DPDK's own lookup and meter, as an application on it would call them for a burst of packets: the inline functions of its
 * headers are compiled here, with its own flags. Plain C types cross into Rust and nothing else. */

#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

#include <rte_cycles.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_hash.h>
#include <rte_hash_crc.h>
#include <rte_malloc.h>
#include <rte_meter.h>
#include <rte_prefetch.h>

/* A burst as DPDK's examples receive it. */
#define BURST 32
/* Where a message says its topic, and how long it is. */
#define TOPIC_AT 8
#define LINE 64

static struct rte_hash *table;
static struct rte_meter_srtcm *meters;
static struct rte_meter_srtcm_profile profile;

/* Starts the environment without devices and without files; `huge` says whether 2 MiB pages are there. It pins the calling
 * thread to a core, which is undone, because other measurements come after this one. Returns 0 or a negative error. */
static int start(int huge)
{
	char core[16];
	char *words[] = { "tachyon-micro", "-l", core, "--no-pci", "--no-telemetry", "--log-level", "1", "-m", "64",
			  huge ? "--in-memory" : "--no-huge", "--no-shconf" };
	int count = sizeof(words) / sizeof(words[0]) - (huge ? 1 : 0); /* in-memory implies no-shconf */
	cpu_set_t before;

	snprintf(core, sizeof(core), "%d", sched_getcpu());
	if (pthread_getaffinity_np(pthread_self(), sizeof(before), &before) != 0)
		return -1;
	if (rte_eal_init(count, words) < 0)
		return -rte_errno;
	return pthread_setaffinity_np(pthread_self(), sizeof(before), &before) == 0 ? 0 : -1;
}

/* Starts DPDK and enters the topics 1 to `topics` - 1, each with a meter of its own that is always green. */
int tachyon_dpdk_open(uint32_t topics, int huge)
{
	struct rte_hash_parameters parameters = {
		.name = "topics",
		.entries = topics,
		.key_len = sizeof(uint32_t),
		.hash_func = rte_hash_crc,
		.socket_id = SOCKET_ID_ANY,
	};
	/* A thousand million messages a second, as the other contenders' rules allow. */
	struct rte_meter_srtcm_params rate = { .cir = 1000000000ull * LINE, .cbs = 1ull << 36, .ebs = 1ull << 36 };
	int error = start(huge);

	if (error != 0)
		return error;
	table = rte_hash_create(&parameters);
	meters = rte_zmalloc("meters", sizeof(*meters) * topics, LINE);
	if (table == NULL || meters == NULL)
		return -ENOMEM;
	error = rte_meter_srtcm_profile_config(&profile, &rate);
	for (uint32_t topic = 1; topic < topics && error == 0; topic++) {
		int32_t at = rte_hash_add_key(table, &topic);

		if (at < 0 || (uint32_t)at >= topics)
			return at < 0 ? at : -ENOSPC;
		error = rte_meter_srtcm_config(&meters[at], &profile);
	}
	return error;
}

/* Looks up and meters the messages of one burst; returns how many were green. */
static uint32_t judge(const void **keys, uint32_t count, uint64_t now)
{
	int32_t at[BURST];
	uint32_t green = 0;

	if (rte_hash_lookup_bulk(table, keys, count, at) != 0)
		return 0;
	for (uint32_t i = 0; i < count; i++)
		if (at[i] >= 0)
			rte_prefetch0(&meters[at[i]]);
	for (uint32_t i = 0; i < count; i++)
		if (at[i] >= 0)
			green += rte_meter_srtcm_color_blind_check(&meters[at[i]], &profile, now, LINE) == RTE_COLOR_GREEN;
	return green;
}

/* Takes all messages of `frames` frames of `messages` messages each, in bursts; returns how many were green. */
uint32_t tachyon_dpdk_pass(const uint8_t *bytes, size_t frames, size_t messages)
{
	const void *keys[BURST];
	uint32_t count = 0, green = 0;

	for (size_t frame = 0; frame < frames; frame++) {
		for (size_t message = 0; message < messages; message++) {
			bytes += LINE;
			keys[count++] = bytes + TOPIC_AT;
			if (count == BURST) {
				green += judge(keys, count, rte_rdtsc());
				count = 0;
			}
		}
		bytes += LINE;
	}
	return green + (count > 0 ? judge(keys, count, rte_rdtsc()) : 0);
}
