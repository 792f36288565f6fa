"""A WebSocket client: websocket_client.py URL STEP fails with a traceback if the step is not as it should be."""

import asyncio
import sys

import websockets


def equal(got, wanted):
    assert got == wanted, f"got {got!r:.300}, wanted {wanted!r:.300}"


def connect(url, **options):
    return websockets.connect(url, max_size=None, open_timeout=30, **options)


async def talk(url):
    """Both sides speak first and at any time; every size of frame, text and bytes, pings and a close with a reason."""
    async with connect(url + "/room?a=b", subprotocols=["chat.v1", "chat.v2"]) as socket:
        equal(socket.subprotocol, "chat.v2")
        equal(await socket.recv(), "welcome to /room?a=b")
        for message in ("", "grüß dich", b"", bytes(range(256)), b"x" * 65_536, b"y" * (16 << 20)):
            await socket.send(message)
            equal(await socket.recv(), message)
        await asyncio.wait_for(await socket.ping(), 30)
        await socket.close(4001, "enough")
    async with connect(url) as socket:
        await socket.recv()
        await socket.send("endings?")
        assert "4001" in await socket.recv(), "the server never saw how the client closed"


async def pipeline(url):
    """Many frames under way in both directions, without compression."""
    async with connect(url, compression=None) as socket:
        await socket.recv()
        words = [f"word {i}" for i in range(5000)]

        async def send():
            for word in words:
                await socket.send(word)

        sending = asyncio.create_task(send())
        equal([await socket.recv() for _ in words], words)
        await sending


async def idle(url):
    """A tunnel in which nothing is said for longer than connections are kept between requests (3 s)."""
    async with connect(url, ping_interval=None) as socket:
        await socket.recv()
        await asyncio.sleep(5)
        await socket.send("still there")
        equal(await socket.recv(), "still there")


async def vanish(url):
    """A client that is gone without a word: the server hears of it."""
    async with connect(url) as socket:
        await socket.recv()
        socket.transport.abort()
    async with connect(url) as socket:
        await socket.recv()
        for _ in range(100):
            await socket.send("endings?")
            if "1006" in await socket.recv():
                return
            await asyncio.sleep(0.1)
        raise AssertionError("the server never heard that its client was gone")


steps = {step.__name__: step for step in (talk, pipeline, idle, vanish)}
asyncio.run(steps[sys.argv[2]](sys.argv[1]))
print(sys.argv[2], "is as it should be")
