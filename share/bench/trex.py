"""TRex, stateless: the traffic of vlan-to-vxlan.toml. Not tried here: it needs a NIC.

In the console:  start -f trex.py -m 1mpps -p 0 -t sessions=65536,size=64
Size "imix" sends 7 : 4 : 1 frames of 64, 594 and 1518 bytes. A second stream of 1000 packets/s measures latency.
"""

import argparse

from trex_stl_lib.api import (
    Dot1Q,
    Ether,
    IP,
    STLFlowLatencyStats,
    STLPktBuilder,
    STLProfile,
    STLScVmRaw,
    STLStream,
    STLTXCont,
    STLVmFixChecksumHw,
    STLVmTupleGen,
    STLVmWrFlowVar,
    UDP,
    CTRexVmInsFixHwCs,
)

PORTS = (1024, 33791)
FIRST_ADDRESS = 0x0A010000  # 10.1.0.0
IMIX = {64: 7, 594: 4, 1518: 1}


def address(number):
    return ".".join(str(number >> shift & 255) for shift in (24, 16, 8, 0))


class VlanToVxlan:
    def packet(self, sessions, size):
        base = (
            Ether(src="02:00:00:00:aa:05", dst="02:00:00:00:aa:01")
            / Dot1Q(vlan=100)
            / IP(src=address(FIRST_ADDRESS), dst="198.51.100.10")
            / UDP(sport=PORTS[0], dport=443)
        )
        # Sizes count the FCS, which TRex adds, and not the tag.
        padding = bytes(max(0, size - 4 + 4 - len(base)))
        ports = PORTS[1] - PORTS[0] + 1
        addresses = max(1, -(-sessions // ports))
        vm = STLScVmRaw(
            [
                STLVmTupleGen(
                    name="flow",
                    ip_min=address(FIRST_ADDRESS),
                    ip_max=address(FIRST_ADDRESS + addresses - 1),
                    port_min=PORTS[0],
                    port_max=PORTS[0] + min(sessions, ports) - 1,
                ),
                STLVmWrFlowVar(fv_name="flow.ip", pkt_offset="IP.src"),
                STLVmWrFlowVar(fv_name="flow.port", pkt_offset="UDP.sport"),
                STLVmFixChecksumHw(
                    l3_offset="IP", l4_offset="UDP", l4_type=CTRexVmInsFixHwCs.L4_TYPE_UDP
                ),
            ]
        )
        return STLPktBuilder(pkt=base / padding, vm=vm)

    def get_streams(self, tunables=(), **kwargs):
        parser = argparse.ArgumentParser()
        parser.add_argument("--sessions", type=int, default=65536)
        parser.add_argument("--size", default="64")
        arguments = parser.parse_args(tunables)
        sizes = IMIX if arguments.size == "imix" else {int(arguments.size): 1}
        streams = [
            STLStream(packet=self.packet(arguments.sessions, size), mode=STLTXCont(pps=share))
            for size, share in sizes.items()
        ]
        streams.append(
            STLStream(
                # 16 bytes of the payload become TRex's own.
                packet=self.packet(1, 82),
                mode=STLTXCont(pps=1000),
                flow_stats=STLFlowLatencyStats(pg_id=1),
            )
        )
        return STLProfile(streams).get_streams()


def register():
    return VlanToVxlan()
