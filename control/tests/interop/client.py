"""What existing OpenOffload clients do. Arguments: ADDRESS ROOT_CERT [CLIENT_CERT CLIENT_KEY]."""

import socket
import sys
import time

import grpc
import openoffload_v2_pb2 as pb
import openoffload_v2_pb2_grpc as rpc


def connect(address, root, cert=None, key=None, more=()):
    read = lambda path: open(path, "rb").read() if path else None
    credentials = grpc.ssl_channel_credentials(read(root), read(key), read(cert))
    options = [("grpc.ssl_target_name_override", "localhost"), *more]
    return grpc.secure_channel(address, credentials, options)


def ipv4(text):
    return int.from_bytes(socket.inet_aton(text), sys.byteorder)


def session(number, **fields):
    fields.setdefault("session_id", number)
    fields.setdefault("source_ip", ipv4("10.%d.%d.%d" % (number >> 16 & 255, number >> 8 & 255, number & 255)))
    fields.setdefault("destination_ip", ipv4("198.51.100.10"))
    fields.setdefault("protocol_id", pb._TCP)
    return pb.SessionRequest(
        in_lif=1,
        out_lif=2,
        source_port=40000,
        destination_port=443,
        action=pb.ActionParameters(action_type=pb._FORWARD, action_next_hop=ipv4("12.2.3.4")),
        **fields,
    )


def session_v6(number, **fields):
    """ip_version unset, only the v6 fields filled."""
    address = lambda last: socket.inet_pton(socket.AF_INET6, "2001:db8::%x" % last)
    return session(
        number, source_ip=0, destination_ip=0, source_ipv6=address(number), destination_ipv6=address(0xFFFF), **fields
    )


def poll(stub):
    """One poll under a deadline of 100 ms: what came, and whether the stream ended well."""
    records = []
    try:
        for record in stub.GetClosedSessions(pb.SessionRequestArgs(), timeout=0.1):
            records.append(record.session_id)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
        return records, False
    return records, True


def closed(stub, wanted=()):
    """Polls until what is wanted has come and a poll that ends well has nothing: what came by polls that ended well, and what
    came by others. A stream that broke gives its records back when the server has noticed, on a busy machine a while later; if
    all was sent by then they are gone, unread: None."""
    well, broken, breaks = [], [], 0
    for tries in range(400):
        records, ended = poll(stub)
        (well if ended else broken).extend(records)
        breaks += not ended
        if ended and not records:
            if set(wanted) <= set(well + broken):
                return well, broken
            if breaks and tries > 100:
                return None
            time.sleep(0.05)
    sys.exit("FAILED: closed sessions do not come, or do not end: %d of %d" % (len(set(well + broken)), len(wanted)))


def check(what, truth):
    if not truth:
        sys.exit("FAILED: " + what)
    print("ok: " + what)


def main():
    stub = rpc.SessionTableStub(connect(*sys.argv[1:]))

    everything = stub.GetAllSessions(pb.SessionRequestArgs(page_size=0), timeout=30)
    check("the table starts empty", len(everything.session_info) == 0 and everything.next_key == 0)
    check("no closed session, and the stream ends", closed(stub) == ([], []))

    unknown = stub.GetSession(pb.SessionId(session_id=12345678910), timeout=30)
    check(
        "an unknown id is answered",
        unknown.request_status == pb._REJECTED_SESSION_NONEXISTENT and unknown.session_id == 12345678910,
    )

    added = stub.AddSession(iter([session(1, session_id=12345678910)]), timeout=30)
    check("an IPv4 session", added.request_status == pb._SESSION_ACCEPTED and added.error_status == 0)
    found = stub.GetSession(pb.SessionId(session_id=12345678910), timeout=30)
    check(
        "it is established",
        found.session_state == pb._ESTABLISHED and found.session_close_code == pb._NOT_CLOSED and found.start_time.seconds > 0,
    )
    added = stub.AddSession(iter([session(1, session_id=5)]), timeout=30)
    check("the same tuple again", added.request_status == pb._SESSION_ALREADY_EXISTS)

    added = stub.AddSession(iter([session_v6(2), session_v6(3, protocol_id=pb._UDP)]), timeout=30)
    check("IPv6 sessions without ip_version", added.request_status == pb._SESSION_ACCEPTED)

    for length, first in ((64, 1000), (65, 2000)):
        bad = first + length - 1
        requests = [session(n) for n in range(first, bad)] + [session(bad, source_ip=0)]
        added = stub.AddSession(iter(requests), timeout=30)
        check("one failure in a stream of %d" % length, [e.session_id for e in added.response_error] == [bad])
        check("its bit", added.error_status == (1 << 63 if length == 64 else 0))
    added = stub.AddSession((session(n) for n in range(10000, 20000)), timeout=30)
    check("a stream of 10000", added.request_status == pb._SESSION_ACCEPTED)

    pages, page = [], 1
    while True:
        answer = stub.GetAllSessions(pb.SessionRequestArgs(page_size=1000, page=page), timeout=30)
        if not answer.session_info:
            break
        pages += [s.session_id for s in answer.session_info]
        page += 1
    everything = stub.GetAllSessions(pb.SessionRequestArgs(page_size=0), timeout=30)
    check("pages", sorted(pages) == sorted(s.session_id for s in everything.session_info) and len(pages) == 10130)

    deleted = stub.DeleteSession(pb.SessionId(session_id=12345678910), timeout=30)
    check("deleted", deleted.request_status == pb._ACCEPTED and deleted.session_state == pb._CLOSED)
    # It takes little more than it reads, and less than a round has: however late it cancels, the server has not sent all.
    window = [("grpc.http2.lookahead_bytes", 4096), ("grpc.http2.bdp_probe", 0)]
    narrow = rpc.SessionTableStub(connect(*sys.argv[1:], more=window))
    old, expected = set(), {12345678910}
    for first in range(10000, 15000, 1000):
        expected.update(range(first, first + 1000))
        for n in range(first, first + 1000):
            stub.DeleteSession(pb.SessionId(session_id=n), timeout=30)
        stream = narrow.GetClosedSessions(pb.SessionRequestArgs())
        next(stream)
        stream.cancel()
        time.sleep(0.1)
        found = closed(stub, expected)
        if found:
            break
        # A poll broke too late: again, with others.
        old |= expected
        expected = set()
    else:
        sys.exit("FAILED: in each round a poll broke")
    well, broken = found
    check("all closed sessions come by polls", set(well + broken) - old == expected)
    check("each once by polls that end well", len(well) == len(set(well)))
    time.sleep(0.2)
    more = sum(closed(stub), [])
    check("and no more, but for what a broken poll gave back", set(more) <= (set(broken) | old) - set(well))


main()
