#define _GNU_SOURCE
#include <stdio.h>

#include <rte_errno.h>
#include <rte_ethdev.h>
#include <rte_lcore.h>
#include <rte_log.h>
#include <rte_mbuf.h>
#include <rte_mempool.h>
#include <rte_ring.h>

#include "shim.h"

int shim_errno(void)
{
	return rte_errno;
}

void shim_clear_errno(void)
{
	rte_errno = 0;
}

unsigned shim_lcore_id(void)
{
	return rte_lcore_id();
}

static ssize_t log_write(void *cookie, const char *text, size_t len)
{
	((shim_log_fn)cookie)(text, len);
	return (ssize_t)len;
}

int shim_log_to(shim_log_fn write)
{
	cookie_io_functions_t io = { .write = log_write };
	FILE *stream = fopencookie((void *)write, "w", io);

	if (stream == NULL)
		return -1;
	setvbuf(stream, NULL, _IONBF, 0);
	return rte_openlog_stream(stream);
}

struct rte_mbuf *shim_pktmbuf_alloc(struct rte_mempool *pool)
{
	return rte_pktmbuf_alloc(pool);
}

int shim_pktmbuf_alloc_bulk(struct rte_mempool *pool, struct rte_mbuf **mbufs, unsigned count)
{
	return rte_pktmbuf_alloc_bulk(pool, mbufs, count);
}

void shim_pktmbuf_free(struct rte_mbuf *mbuf)
{
	rte_pktmbuf_free(mbuf);
}

void shim_pktmbuf_free_bulk(struct rte_mbuf **mbufs, unsigned count)
{
	rte_pktmbuf_free_bulk(mbufs, count);
}

void shim_pktmbuf_attach(struct rte_mbuf *indirect, struct rte_mbuf *to)
{
	rte_pktmbuf_attach(indirect, to);
}

void shim_eth_link(const struct rte_eth_link *link, uint32_t *speed, int *up, int *full_duplex)
{
	*speed = link->link_speed;
	*up = link->link_status == RTE_ETH_LINK_UP;
	*full_duplex = link->link_duplex == RTE_ETH_LINK_FULL_DUPLEX;
}

unsigned shim_ring_enqueue_bulk(struct rte_ring *ring, void *const *objects, unsigned count)
{
	return rte_ring_enqueue_bulk(ring, objects, count, NULL);
}

unsigned shim_ring_enqueue_burst(struct rte_ring *ring, void *const *objects, unsigned count)
{
	return rte_ring_enqueue_burst(ring, objects, count, NULL);
}

unsigned shim_ring_dequeue_bulk(struct rte_ring *ring, void **objects, unsigned count)
{
	return rte_ring_dequeue_bulk(ring, objects, count, NULL);
}

unsigned shim_ring_dequeue_burst(struct rte_ring *ring, void **objects, unsigned count)
{
	return rte_ring_dequeue_burst(ring, objects, count, NULL);
}

unsigned shim_ring_count(const struct rte_ring *ring)
{
	return rte_ring_count(ring);
}

unsigned shim_ring_capacity(const struct rte_ring *ring)
{
	return rte_ring_get_capacity(ring);
}
