"""A load of POST requests from raw sockets, for where ``wrk`` is not installed.

    python -m tests.benchmarks.load PORT PATH SECONDS CONNECTIONS [BODY]

BODY has USER where a user's id goes. It prints one line of JSON: requests per second, p50 and p99 in milliseconds, and
answers that were not 200.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time

import uvloop

from tests.benchmarks.build_context import USERS


class Connection(asyncio.Protocol):
    """Sends the next request when the answer to the last one is whole."""

    def __init__(self, path: str, until: float, body: bytes) -> None:
        self.body = body
        self.head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: ".encode()
        self.until = until
        self.done = asyncio.get_running_loop().create_future()
        self.times: list[float] = []
        self.errors = 0
        self.buffer = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        body = self.body.replace(b"USER", random.choice(USERS).encode())
        self.began = time.perf_counter()
        self.transport.write(b"%s%d\r\n\r\n%s" % (self.head, len(body), body))

    def data_received(self, data: bytes) -> None:
        self.buffer += data
        head, found, body = self.buffer.partition(b"\r\n\r\n")
        if not found:
            return
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        if len(body) < length:
            return
        self.times.append(time.perf_counter() - self.began)
        self.errors += not head.startswith(b"HTTP/1.1 200")
        self.buffer = b""
        if time.perf_counter() < self.until:
            self.send()
        else:
            self.transport.close()
            self.done.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.done.done():
            self.errors += 1
            self.done.set_result(None)


async def main() -> None:
    """Load, and print the figures."""
    port, path, seconds, connections = int(sys.argv[1]), sys.argv[2], float(sys.argv[3]), int(sys.argv[4])
    asked = sys.argv[5].encode() if len(sys.argv) > 5 else b'{"user_id":"USER"}'
    loop, began = asyncio.get_running_loop(), time.perf_counter()
    made = [
        (await loop.create_connection(lambda: Connection(path, began + seconds, asked), "127.0.0.1", port))[1]
        for _ in range(connections)
    ]
    await asyncio.gather(*(one.done for one in made))
    took = time.perf_counter() - began
    times = sorted(time for one in made for time in one.times)
    print(
        json.dumps(
            {
                "rate": len(times) / took,
                "p50": times[len(times) // 2] * 1000,
                "p99": times[len(times) * 99 // 100] * 1000,
                "errors": sum(one.errors for one in made),
            }
        )
    )


if __name__ == "__main__":
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(main())
