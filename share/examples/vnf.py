"""A network function in 20 lines: offloads a session, and tells how it ended. Usage: python3 vnf.py unix:/run/openoffload-gateway.sock"""

import socket, sys, time
import grpc
import openoffload_v2_pb2 as pb
import openoffload_v2_pb2_grpc as rpc


def ipv4(text):  # the four bytes in network order, read as an integer of this machine
    return int.from_bytes(socket.inet_aton(text), sys.byteorder)


# Of a unix socket, grpcio would send the path as the authority, which is none (RFC 3986).
channel = grpc.insecure_channel(sys.argv[1], options=[("grpc.default_authority", "localhost")])
table = rpc.SessionTableStub(channel)
session = pb.SessionRequest(
    session_id=7, in_lif=1, out_lif=2, protocol_id=pb._TCP, cache_timeout=30,
    source_ip=ipv4("10.1.0.5"), source_port=40000, destination_ip=ipv4("198.51.100.10"), destination_port=443,
    action=pb.ActionParameters(action_type=pb._FORWARD))
answer = table.AddSession(iter([session]))
print("added:", pb.AddSessionStatus.Name(answer.request_status), flush=True)
closed = []
while answer.request_status == pb._SESSION_ACCEPTED and not closed:
    time.sleep(0.5)
    for closed in table.GetClosedSessions(pb.SessionRequestArgs()):
        print("closed:", closed.session_id, pb.SessionCloseCode.Name(closed.session_close_code),
              closed.in_packets, "packets in,", closed.out_packets, "out", flush=True)
