"""A TCP proxy in front of a Redis server that delays, duplicates, injects, withholds, dribbles, cuts or garbles replies
on purpose, refuses connections, and can be pointed at another server."""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from typing import Literal

Change = Callable[[bytes], list[bytes]]
"""What becomes of one reply: the replies that are sent instead."""

Fault = Literal["cut", "reset", "half", "swallow", "garble", "twice"]
"""What befalls a packet of replies: the connection ends after a part of it, or is reset; a part comes and then nothing,
or nothing at all; a byte is another; it comes twice."""
FAULTS: tuple[Fault, ...] = ("cut", "reset", "half", "swallow", "garble", "twice")


def unchanged(reply: bytes) -> list[bytes]:
    return [reply]


class Proxy:
    """The proxy's knobs, which a test may turn at any time."""

    def __init__(self, upstream: int) -> None:
        self.upstream = upstream
        self.port = 0
        self.change: Change = unchanged
        self.delay: Callable[[], float] = float
        """Seconds that each packet of replies waits."""
        self.dribble = 0.0
        """Seconds between two bytes of a reply; 0 for none."""
        self.accepted = 0
        self.refusing = False
        """Whether new connections are closed at once."""
        self.fault: Callable[[], Fault | None] = lambda: None
        """What befalls the next packet of replies."""
        self.place: Callable[[int], int] = random.Random(11).randrange
        """Where in a packet of that many bytes it happens."""
        self._writers: set[asyncio.StreamWriter] = set()
        self._loop: asyncio.AbstractEventLoop | None = None

    def cut_all(self) -> None:
        """End all connections, as a server does that goes away."""
        assert self._loop is not None

        def cut() -> None:
            for writer in self._writers:
                writer.transport.abort()

        self._loop.call_soon_threadsafe(cut)

    def settle(self) -> None:
        """Return when what was begun, such as `cut_all`, has happened on both sides."""
        assert self._loop is not None
        asyncio.run_coroutine_threadsafe(asyncio.sleep(0.05), self._loop).result(20)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """One connection."""
        self.accepted += 1
        self._loop = asyncio.get_running_loop()
        if self.refusing:
            writer.transport.abort()
            return
        self._writers.add(writer)
        with contextlib.suppress(OSError, asyncio.CancelledError):
            answers, requests = await asyncio.open_connection("127.0.0.1", self.upstream)
            tasks = [
                asyncio.ensure_future(self._requests(reader, requests)),
                asyncio.ensure_future(self._replies(answers, writer)),
            ]
            try:
                await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            finally:
                requests.transport.abort()
                writer.transport.abort()
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
        self._writers.discard(writer)
        writer.transport.abort()

    async def _requests(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(data)

    async def _replies(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        held = b""
        while data := await reader.read(65536):
            held += data
            out = b""
            while size := reply_size(held):
                reply, held = held[:size], held[size:]
                out += b"".join(self.change(reply))
            if seconds := self.delay():
                await asyncio.sleep(seconds)
            fault = self.fault() if out else None
            if fault is not None:
                out = await self._befall(fault, out, writer)
            for piece in [out[i : i + 1] for i in range(len(out))] if self.dribble else [out]:
                writer.write(piece)
                await asyncio.sleep(self.dribble)

    async def _befall(self, fault: Fault, out: bytes, writer: asyncio.StreamWriter) -> bytes:
        """Let a fault happen to a packet of replies; what is still to be sent."""
        place = self.place(len(out))
        if fault == "garble":
            return out[:place] + bytes([self.place(256)]) + out[place + 1 :]
        if fault == "twice":
            return out + out
        if fault == "swallow":
            return b""
        writer.write(out[:place])
        await writer.drain()
        if fault == "half":
            return b""
        if fault == "reset":
            linger = struct.pack("ii", 1, 0)  # closing with nothing to wait for sends RST
            writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        else:
            writer.write_eof()
            await asyncio.sleep(0.01)  # the other side reads all that came before it sees the end
        writer.transport.abort()
        raise ConnectionResetError


def reply_size(data: bytes, start: int = 0) -> int:
    """How many bytes the first reply in ``data`` has; 0 when it is not there as a whole."""
    end = data.find(b"\r\n", start)
    if end < 0:
        return 0
    kind, body = data[start : start + 1], end + 2
    if kind == b"$":
        size = int(data[start + 1 : end])
        after = body if size < 0 else body + size + 2
        return after - start if after <= len(data) else 0
    if kind == b"*":
        at = body
        for _ in range(max(int(data[start + 1 : end]), 0)):
            size = reply_size(data, at)
            if not size:
                return 0
            at += size
        return at - start
    return body - start


@contextlib.contextmanager
def proxy_to(upstream: int, *, tls: ssl.SSLContext | None = None) -> Iterator[Proxy]:
    """A proxy for the length of a block, in a thread of its own; with ``tls``, one that speaks it to clients."""
    proxy = Proxy(upstream)
    ready: Future[asyncio.AbstractEventLoop] = Future()
    done = asyncio.Event()

    async def main() -> None:
        server = await asyncio.start_server(proxy.serve, "127.0.0.1", 0, ssl=tls)
        proxy.port = server.sockets[0].getsockname()[1]
        ready.set_result(asyncio.get_running_loop())
        await done.wait()
        server.close()
        rest = asyncio.all_tasks() - {asyncio.current_task()}
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        await asyncio.sleep(0)

    thread = threading.Thread(target=asyncio.run, args=(main(),), daemon=True)
    thread.start()
    loop = ready.result(10)
    try:
        yield proxy
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(10)
