-- Pktgen-DPDK: the traffic of vlan-to-vxlan.toml on port 0, replies on port 1 or 0. Not tried here: it needs a NIC.
--   pktgen -l 0-2 -n 4 -a 0000:3b:00.0 -- -P -m "1.0" -f pktgen-dpdk.lua
-- Range mode counts up source address and port: 2 addresses x 32,768 ports = 65,536 flows.

package.path = package.path .. ";?.lua;test/?.lua;app/?.lua;"
require "Pktgen"

local port = "0"

pktgen.set(port, "count", 0)                 -- until stopped
pktgen.set(port, "rate", 100)                -- percent of the link
pktgen.set(port, "size", 64)
pktgen.set(port, "burst", 64)
pktgen.vlan(port, "on")
pktgen.set(port, "vlanid", 100)

pktgen.range.dst_mac(port, "start", "02:00:00:00:aa:01")
pktgen.range.src_mac(port, "start", "02:00:00:00:aa:05")
pktgen.range.ip_proto(port, "udp")
pktgen.range.src_ip(port, "start", "10.1.0.0")
pktgen.range.src_ip(port, "inc", "0.0.0.1")
pktgen.range.src_ip(port, "min", "10.1.0.0")
pktgen.range.src_ip(port, "max", "10.1.0.1")
pktgen.range.dst_ip(port, "start", "198.51.100.10")
pktgen.range.dst_ip(port, "inc", "0.0.0.0")
pktgen.range.dst_ip(port, "min", "198.51.100.10")
pktgen.range.dst_ip(port, "max", "198.51.100.10")
pktgen.range.src_port(port, "start", 1024)
pktgen.range.src_port(port, "inc", 1)
pktgen.range.src_port(port, "min", 1024)
pktgen.range.src_port(port, "max", 33791)
pktgen.range.dst_port(port, "start", 443)
pktgen.range.dst_port(port, "inc", 0)
pktgen.range.dst_port(port, "min", 443)
pktgen.range.dst_port(port, "max", 443)
pktgen.range.vlan_id(port, "start", 100)
pktgen.range.vlan_id(port, "inc", 0)
pktgen.range.vlan_id(port, "min", 100)
pktgen.range.vlan_id(port, "max", 100)
pktgen.range.pkt_size(port, "start", 64)
pktgen.range.pkt_size(port, "inc", 0)
pktgen.range.pkt_size(port, "min", 64)
pktgen.range.pkt_size(port, "max", 64)
pktgen.set_range(port, "on")

pktgen.start(port)
