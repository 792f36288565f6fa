"""A gRPC client: grpc_client.py TARGET STEP runs one step and fails with a traceback if it is not as it should be."""

import sys
import threading
import time
from concurrent import futures

import grpc

UNLIMITED = [("grpc.max_receive_message_length", -1), ("grpc.max_send_message_length", -1)]
# Seconds that a call without a deadline of its own may take.
ENOUGH = 60


def equal(got, wanted):
    assert got == wanted, f"got {show(got)}, wanted {show(wanted)}"


def show(value):
    """In a line, its ends if it is long."""
    text = repr(value)
    return text if len(text) <= 3000 else f"{text[:1000]} ... {text[-1000:]}"


def error_of(call):
    """The error with which a call ends."""
    try:
        result = call()
    except grpc.RpcError as error:
        return error
    raise AssertionError(f"no error but {result!r}")


class Edges:
    def __init__(self, channel):
        self.channel = channel

    def unary(self, name):
        return self.channel.unary_unary(f"/test.Edges/{name}")

    def server_stream(self, name):
        return self.channel.unary_stream(f"/test.Edges/{name}")

    def step_unary(self):
        for i in range(20):
            equal(self.unary("echo")(b"hello %d" % i, timeout=ENOUGH), b"hello %d" % i)
        equal(self.unary("echo")(b"", timeout=ENOUGH), b"")

    def step_server_stream(self):
        answers = list(self.server_stream("count")(b"2000", timeout=ENOUGH))
        equal(answers, [str(i).encode() for i in range(2000)])

    def step_client_stream(self):
        add = self.channel.stream_unary("/test.Edges/add")
        equal(add((str(i).encode() for i in range(2000)), timeout=ENOUGH), str(sum(range(2000))).encode())

    def step_bidirectional(self):
        # The next request leaves only when the last one is answered: whoever holds one back stops both.
        answered = threading.Semaphore(1)
        words = [b"word %d" % i for i in range(200)]

        def requests():
            for word in words:
                assert answered.acquire(timeout=ENOUGH), "an answer is held back"
                yield word

        converse = self.channel.stream_stream("/test.Edges/converse")
        got = []
        for answer in converse(requests(), timeout=ENOUGH):
            got.append(answer)
            answered.release()
        equal(got, [word[::-1] for word in words])

    def step_deadline(self):
        call = self.server_stream("wait")(b"", timeout=1)
        equal(next(call), b"waiting")
        error = error_of(lambda: next(call))
        equal(error.code(), grpc.StatusCode.DEADLINE_EXCEEDED)
        # The work behind is given up as well.
        equal(self.unary("was_cancelled")(b"", timeout=ENOUGH), b"yes")

    def step_deadline_is_told(self):
        left = float(self.unary("remaining")(b"", timeout=50))
        assert 20 < left <= 50, left

    def step_cancellation(self):
        call = self.server_stream("wait")(b"", timeout=ENOUGH)
        equal(next(call), b"waiting")
        call.cancel()
        equal(error_of(lambda: next(call)).code(), grpc.StatusCode.CANCELLED)
        equal(self.unary("was_cancelled")(b"", timeout=ENOUGH), b"yes")
        # A stream that is dropped half-way leaves its channel usable.
        stream = self.server_stream("count")(b"100000000", timeout=ENOUGH)
        equal(next(stream), b"0")
        stream.cancel()
        equal(self.unary("echo")(b"still there", timeout=ENOUGH), b"still there")

    def step_large(self):
        for size in (1, 65_535, 65_536, 5_000_000, 64 << 20):
            message = bytes(range(256)) * (size // 256 + 1)
            equal(self.unary("echo")(message[:size], timeout=ENOUGH), message[:size])

    def step_metadata(self):
        sent = (("sent-word", "one, two"), ("sent-word", "three"), ("sent-bytes-bin", bytes(range(256))), ("sent-empty", ""))
        answer, call = self.unary("echo").with_call(b"", timeout=ENOUGH, metadata=sent)
        equal(sorted((k, v) for k, v in call.initial_metadata() if k.startswith("sent-")), sorted(sent))
        trailing = dict(call.trailing_metadata())
        equal((trailing["x-end"], trailing["x-end-bin"]), ("of it", bytes(range(256))))

    def step_status(self):
        error = error_of(lambda: self.unary("fail")(b"", timeout=ENOUGH))
        equal((error.code(), error.details()), (grpc.StatusCode.FAILED_PRECONDITION, "zu spät: 100% weg\n"))
        equal(dict(error.trailing_metadata())["x-reason"], "because")
        error = error_of(lambda: self.unary("no_such_method")(b"", timeout=ENOUGH))
        equal(error.code(), grpc.StatusCode.UNIMPLEMENTED)

    def step_late_status(self):
        stream = self.server_stream("fail_late")(b"", timeout=ENOUGH)
        got = [next(stream), next(stream)]
        error = error_of(lambda: next(stream))
        equal((got, error.code(), error.details()), ([b"first", b"second"], grpc.StatusCode.DATA_LOSS, "after two"))

    def step_parallel(self):
        # More calls at once than one connection's streams.
        calls = [self.unary("echo").future(b"%d" % i, timeout=ENOUGH) for i in range(1000)]
        equal([call.result() for call in calls], [b"%d" % i for i in range(1000)])

    def step_aging(self):
        # The server ends each connection after half a second: many die under calls that are on their way.
        end = time.monotonic() + 5

        def calls():
            count = 0
            while time.monotonic() < end:
                equal(self.unary("nap")(b"%d" % count, timeout=ENOUGH), b"%d" % count)
                count += 1
            return count

        with futures.ThreadPoolExecutor(16) as pool:
            counts = [call.result() for call in [pool.submit(calls) for _ in range(16)]]
        print(sum(counts), "calls", end=": ")


def main():
    target, *steps = sys.argv[1:]
    with grpc.insecure_channel(target, options=UNLIMITED) as channel:
        for step in steps:
            getattr(Edges(channel), f"step_{step}")()
            print(step, "is as it should be")


if __name__ == "__main__":
    main()
