/* SPDX-License-Identifier: Apache-2.0
 *
 * 802.1Q tags for kernels without 8021q devices: two tc programs that make an
 * interface carry one VLAN of an uplink.
 *
 * An interface's index says its VLAN: VLAN n is the interface with the index
 * VLAN_BASE + n. UPLINK is the index of the uplink. So nothing is configured.
 */
#include <linux/bpf.h>
#include <linux/if_ether.h>
#include <linux/pkt_cls.h>

#define SEC(name) __attribute__((section(name), used))

static long (*vlan_push)(struct __sk_buff *, __be16, __u16) = (void *)BPF_FUNC_skb_vlan_push;
static long (*vlan_pop)(struct __sk_buff *) = (void *)BPF_FUNC_skb_vlan_pop;
static long (*redirect)(__u32, __u64) = (void *)BPF_FUNC_redirect;

/* Ingress of a VLAN's interface: tag the frame and send it out of the uplink. */
SEC("tag") int push_tag(struct __sk_buff *skb)
{
	if (vlan_push(skb, __builtin_bswap16(ETH_P_8021Q), skb->ifindex - VLAN_BASE))
		return TC_ACT_SHOT;
	return redirect(UPLINK, 0);
}

/* Ingress of the uplink: untag the frame and send it out of its VLAN's interface. */
SEC("untag") int pop_tag(struct __sk_buff *skb)
{
	__u32 vid;

	if (!skb->vlan_present)
		return TC_ACT_SHOT;
	vid = skb->vlan_tci & 0xfff;
	if (vlan_pop(skb))
		return TC_ACT_SHOT;
	return redirect(VLAN_BASE + vid, 0);
}

/* skb_vlan_push and skb_vlan_pop are open to every licence; redirect too. */
char LICENSE[] SEC("license") = "Dual MIT/GPL";
