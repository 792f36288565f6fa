"""An agent of the SPIFFE Workload API: gRPC's and protobuf's own libraries on a Unix socket.

workload_api_agent.py FOLDER: listens on FOLDER/agent.sock. FOLDER/state names the workloads that the
caller is: each has NAME.id, NAME.crt, NAME.key and NAME.roots there. A change of it is pushed. An
empty one means that nobody has registered the caller.
"""

import os
import ssl
import sys
import time
from base64 import b64decode
from concurrent import futures

import grpc
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

FOLDER = sys.argv[1]


def messages():
    """The classes of workload.proto, as far as a response with X.509 certificates goes."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="workload.proto", syntax="proto3")

    def message(name, *fields):
        made = file.message_type.add(name=name)
        for number, (label, kind, of, field_name) in enumerate(fields, 1):
            made.field.add(name=field_name, number=number, label=label, type=kind, type_name=of)

    one, many = field.LABEL_OPTIONAL, field.LABEL_REPEATED
    message(
        "X509SVID",
        (one, field.TYPE_STRING, None, "spiffe_id"),
        (one, field.TYPE_BYTES, None, "x509_svid"),
        (one, field.TYPE_BYTES, None, "x509_svid_key"),
        (one, field.TYPE_BYTES, None, "bundle"),
        (one, field.TYPE_STRING, None, "hint"),
    )
    message(
        "X509SVIDResponse",
        (many, field.TYPE_MESSAGE, ".X509SVID", "svids"),
        (many, field.TYPE_BYTES, None, "crl"),
    )
    pool = descriptor_pool.DescriptorPool()
    found = pool.Add(file) or pool.FindFileByName("workload.proto")
    find = found.message_types_by_name.__getitem__
    if hasattr(message_factory, "GetMessageClass"):
        make = message_factory.GetMessageClass
    else:
        make = message_factory.MessageFactory(pool).GetPrototype
    return make(find("X509SVID")), make(find("X509SVIDResponse"))


SVID, RESPONSE = messages()


def read(name):
    with open(os.path.join(FOLDER, name), encoding="ascii") as file:
        return file.read()


def ders(text):
    """What is in a file of PEM, one after the other."""
    parts = text.split("-----BEGIN ")[1:]
    return b"".join(b64decode(part.split("-----")[1]) for part in parts)


def response(names):
    svids = [
        SVID(
            spiffe_id=read(f"{name}.id"),
            x509_svid=ders(read(f"{name}.crt")),
            x509_svid_key=ders(read(f"{name}.key")),
            bundle=ssl.PEM_cert_to_DER_cert(read(f"{name}.roots")),
            hint="a hint",
        )
        for name in names
    ]
    return RESPONSE(svids=svids).SerializeToString()


def fetch(request, context):
    if request or ("workload.spiffe.io", "true") not in context.invocation_metadata():
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, "security header missing from request")
    pushed = None
    while context.is_active():
        names = read("state").split()
        if not names:
            context.abort(grpc.StatusCode.PERMISSION_DENIED, "no identity issued")
        if names != pushed:
            pushed = names
            yield response(names)
        time.sleep(0.02)


def main():
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    handlers = {"FetchX509SVID": grpc.unary_stream_rpc_method_handler(fetch)}
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("SpiffeWorkloadAPI", handlers),))
    server.add_insecure_port(f"unix:{FOLDER}/agent.sock")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
