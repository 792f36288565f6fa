"""A gRPC server without generated code: every message is bytes, and each method is one edge of the protocol."""

import os
import sys
import threading
import time
from concurrent import futures

import grpc

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
SERVICE = "test.Edges"

cancelled = threading.Semaphore(0)


def echo(request, context):
    """Sends everything back, metadata included."""
    sent = [(k, v) for k, v in context.invocation_metadata() if k.startswith("sent-")]
    context.send_initial_metadata(sent)
    context.set_trailing_metadata((("x-end", "of it"), ("x-end-bin", bytes(range(256)))))
    return request


def nap(request, context):
    """Sends everything back after a moment, so that some calls are always under way."""
    time.sleep(0.005)
    return request


def remaining(request, context):
    """Seconds that the caller still gives."""
    return str(context.time_remaining()).encode()


def wait(request, context):
    """Says that it has begun and then nothing; ends when the caller is gone, and remembers that it was told."""
    yield b"waiting"
    gone = threading.Event()
    if not context.add_callback(gone.set):
        gone.set()
    gone.wait(30)
    if not context.is_active():
        cancelled.release()


def was_cancelled(request, context):
    """Whether a call of wait was given up, once for each."""
    return b"yes" if cancelled.acquire(timeout=10) else b"no"


def fail(request, context):
    """A status with a message that must be percent-encoded, in trailers without a message before."""
    context.set_trailing_metadata((("x-reason", "because"),))
    context.abort(grpc.StatusCode.FAILED_PRECONDITION, "zu spät: 100% weg\n")


def count(request, context):
    """One request, many answers."""
    for i in range(int(request)):
        yield str(i).encode()


def fail_late(request, context):
    """Answers first, then a status."""
    yield b"first"
    yield b"second"
    context.abort(grpc.StatusCode.DATA_LOSS, "after two")


def add(requests, context):
    """Many requests, one answer."""
    return str(sum(int(request) for request in requests)).encode()


def converse(requests, context):
    """Each answer as soon as its request is there."""
    for request in requests:
        yield request[::-1]


def main():
    handlers = {f.__name__: grpc.unary_unary_rpc_method_handler(f) for f in (echo, nap, remaining, was_cancelled, fail)}
    handlers |= {f.__name__: grpc.unary_stream_rpc_method_handler(f) for f in (count, fail_late, wait)}
    handlers["add"] = grpc.stream_unary_rpc_method_handler(add)
    handlers["converse"] = grpc.stream_stream_rpc_method_handler(converse)
    # grpc_server.py NAME=MILLISECONDS ... for options of a server that are numbers.
    options = [(name, int(value)) for name, value in (word.split("=") for word in sys.argv[1:])]
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=16), options=UNLIMITED + options)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(SERVICE, handlers),))
    if server.add_insecure_port(f"0.0.0.0:{os.environ['PORT']}") == 0:
        sys.exit("the port is taken")
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    main()
