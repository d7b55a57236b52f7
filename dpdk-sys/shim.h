/* DPDK's inline functions as real ones. One call per burst; work per packet is done on the mbuf's fields. */
#ifndef DPDK_SHIM_H
#define DPDK_SHIM_H

#include <stddef.h>
#include <stdint.h>

struct rte_mbuf;
struct rte_mempool;
struct rte_ring;
struct rte_eth_link;

int shim_errno(void);
void shim_clear_errno(void);
unsigned shim_lcore_id(void);

/* Sends DPDK's log to `write`, one call per message, in the thread that logs. NULL on failure. */
typedef void (*shim_log_fn)(const char *text, size_t len);
int shim_log_to(shim_log_fn write);

struct rte_mbuf *shim_pktmbuf_alloc(struct rte_mempool *pool);
int shim_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned count);
void shim_pktmbuf_free(struct rte_mbuf *mbuf);
void shim_pktmbuf_free_bulk(struct rte_mbuf **mbufs, unsigned count);
void shim_pktmbuf_attach(struct rte_mbuf *indirect, struct rte_mbuf *to);

void shim_eth_link(const struct rte_eth_link *link, uint32_t *speed, int *up, int *full_duplex);

unsigned shim_ring_enqueue_bulk(struct rte_ring *ring, void *const *objects, unsigned count);
unsigned shim_ring_enqueue_burst(struct rte_ring *ring, void *const *objects, unsigned count);
unsigned shim_ring_dequeue_bulk(struct rte_ring *ring, void **objects, unsigned count);
unsigned shim_ring_dequeue_burst(struct rte_ring *ring, void **objects, unsigned count);
unsigned shim_ring_count(const struct rte_ring *ring);
unsigned shim_ring_capacity(const struct rte_ring *ring);

#endif
