/* What bindgen reads: DPDK's headers, and the constants whose macros it cannot evaluate. */
#include <stdio.h>
#include <rte_eal.h>
#include <rte_errno.h>
#include <rte_log.h>
#include <rte_lcore.h>
#include <rte_launch.h>
#include <rte_cycles.h>
#include <rte_malloc.h>
#include <rte_version.h>
#include <rte_dev.h>
#include <rte_mempool.h>
#include <rte_mbuf.h>
#include <rte_ring.h>
#include <rte_hash.h>
#include <rte_ethdev.h>
#include <rte_eth_ring.h>
#include "shim.h"

static const uint64_t SHIM_MBUF_F_INDIRECT = RTE_MBUF_F_INDIRECT;
static const uint64_t SHIM_MBUF_F_EXTERNAL = RTE_MBUF_F_EXTERNAL;
static const uint64_t SHIM_MBUF_F_RX_RSS_HASH = RTE_MBUF_F_RX_RSS_HASH;

static const uint64_t SHIM_RX_OFFLOAD_SCATTER = RTE_ETH_RX_OFFLOAD_SCATTER;
static const uint64_t SHIM_RX_OFFLOAD_RSS_HASH = RTE_ETH_RX_OFFLOAD_RSS_HASH;
static const uint64_t SHIM_TX_OFFLOAD_MULTI_SEGS = RTE_ETH_TX_OFFLOAD_MULTI_SEGS;
static const uint64_t SHIM_RSS_HASH_TYPES = RTE_ETH_RSS_IP | RTE_ETH_RSS_TCP | RTE_ETH_RSS_UDP;
static const uint32_t SHIM_MQ_RX_RSS = RTE_ETH_MQ_RX_RSS;

static const uint32_t SHIM_RING_F_SP_ENQ = RING_F_SP_ENQ;
static const uint32_t SHIM_RING_F_SC_DEQ = RING_F_SC_DEQ;
static const uint8_t SHIM_HASH_RW_CONCURRENCY_LF = RTE_HASH_EXTRA_FLAGS_RW_CONCURRENCY_LF;
static const uint32_t SHIM_HASH_LOOKUP_BULK_MAX = RTE_HASH_LOOKUP_BULK_MAX;
static const uint32_t SHIM_LCORE_ID_ANY = LCORE_ID_ANY;
static const int32_t SHIM_SOCKET_ID_ANY = SOCKET_ID_ANY;
static const uint32_t SHIM_PKTMBUF_HEADROOM = RTE_PKTMBUF_HEADROOM;
