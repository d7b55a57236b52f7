"""Makes the calls that a document shows as grpcurl commands, knowing nothing but the server's reflection.

Arguments: ENDPOINT DOCUMENT. Prints each command's method and answer; ends with how many there were.
"""

import re
import shlex
import sys

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

WITH_VALUE = {"-d", "-max-time"}


def commands(text):
    blocks = re.findall(r"^```sh\n(.*?)^```", text, re.M | re.S)
    pending = ""
    for line in "".join(blocks).splitlines():
        if line.startswith("#") or not line:
            continue
        pending = pending + "\n" + line if pending else line
        try:
            yield shlex.split(pending)
        except ValueError:  # a quotation that goes on in the next line
            continue
        pending = ""


def parse(words):
    options, rest = {}, []
    words = iter(words)
    for word in words:
        if word in WITH_VALUE:
            options[word] = next(words)
        elif word.startswith("-"):
            options[word] = True
        else:
            rest.append(word)
    return options, rest


def call(channel, pool, method, body):
    service, name = method.split("/")
    found = pool.FindServiceByName(service).FindMethodByName(name)
    request = message_factory.GetMessageClass(found.input_type)
    answer = message_factory.GetMessageClass(found.output_type)
    streams = [found.client_streaming, found.server_streaming]
    kind = {(0, 0): channel.unary_unary, (1, 0): channel.stream_unary, (0, 1): channel.unary_stream}[tuple(map(int, streams))]
    stub = kind("/" + method, request_serializer=request.SerializeToString, response_deserializer=answer.FromString)
    message = json_format.Parse(body, request())
    # A stream without end gets a second; a single answer as long as a slow and busy machine needs.
    result = stub(iter([message]) if streams[0] else message, timeout=1 if streams[1] else 30)
    if not streams[1]:
        return [result]
    try:
        return list(result)
    except grpc.RpcError as error:
        if error.code() != grpc.StatusCode.DEADLINE_EXCEEDED:
            raise
        return []


def main(endpoint, document):
    channel = grpc.insecure_channel(endpoint, options=[("grpc.default_authority", "localhost")])
    database = ProtoReflectionDescriptorDatabase(channel)
    pool = descriptor_pool.DescriptorPool(database)
    count = 0
    for words in commands(open(document).read()):
        if words[0] != "grpcurl":
            continue
        options, rest = parse(words[1:])
        assert rest[0].endswith(".sock") and {"-plaintext", "-unix"} <= options.keys(), words
        if rest[1] == "list":
            result = database.get_services()
            assert {"gateway.v1.Gateway", "openoffload.v2.SessionTable"} <= set(result), result
        elif rest[1] == "describe":
            result = [field.name for field in pool.FindMessageTypeByName(rest[2]).fields]
        else:
            result = [json_format.MessageToDict(m, preserving_proto_field_name=True) for m in call(channel, pool, rest[1], options.get("-d", "{}"))]
        print(rest[1:], str(result)[:300])
        count += 1
    print("%d commands" % count)


main(*sys.argv[1:])
