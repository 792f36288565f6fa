"""A WebSocket server that speaks first, echoes, and counts how its connections end."""

import asyncio
import os

import websockets

endings = []


async def talk(socket):
    await socket.send(f"welcome to {socket.path}")
    try:
        async for message in socket:
            await socket.send(f"ended: {endings}" if message == "endings?" else message)
    finally:
        endings.append(socket.close_code)


async def main():
    async with websockets.serve(talk, "0.0.0.0", int(os.environ["PORT"]), subprotocols=["chat.v2"], max_size=None):
        await asyncio.Future()


asyncio.run(main())
