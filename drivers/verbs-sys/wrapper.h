/* What tachyon-driver-verbs uses of verbs, and as functions what verbs has only as macros. */
#include <stddef.h>
#include <stdint.h>
#include <infiniband/verbs.h>

/* These three names are macros that choose between generations of the call. */
static inline struct ibv_device **tachyon_device_list(int *count) { return ibv_get_device_list(count); }
static inline struct ibv_mr *tachyon_reg_mr(struct ibv_pd *pd, void *start, size_t bytes, unsigned int access)
{
	return ibv_reg_mr(pd, start, bytes, access);
}
static inline int tachyon_query_port(struct ibv_context *context, uint8_t port, struct ibv_port_attr *attributes)
{
	return ibv_query_port(context, port, attributes);
}
