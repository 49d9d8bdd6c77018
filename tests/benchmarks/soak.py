"""A soak of the service: a steady load for ten minutes, and the memory of its process.

    python -m tests.benchmarks.soak [MINUTES] [--connections 16]

It prints the resident memory every twenty seconds, and in the end the rise from the mean of the second tenth to the
mean of the last. Exit code 1 when that is more than 5 %, or an answer was not 200.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

from tests.benchmarks.build_context import make_project
from tests.benchmarks.serve import Figures, load, server
from tests.servers import free_port, redis_server

LIMIT = 0.05


def resident(process_id: int) -> float:
    """MiB that a process holds in memory."""
    pages = int(Path(f"/proc/{process_id}/statm").read_text().split()[1])
    return pages * 4096 / 2**20


def main() -> int:
    """Soak, and say how it went."""
    parser = argparse.ArgumentParser(description="The memory of the service under a steady load.")
    parser.add_argument("minutes", nargs="?", type=float, default=10)
    parser.add_argument("--connections", type=int, default=16)
    options = parser.parse_args()
    seconds, found, sizes = options.minutes * 60, list[Figures](), list[float]()
    with redis_server() as url, tempfile.TemporaryDirectory() as name:
        folder, port = Path(name), free_port()
        make_project(folder, url).close()
        command = [sys.executable, "-m", "llmfeatures", "serve", "--port", str(port), "--project", str(folder)]
        with server(command, {}, port, folder / "log.txt") as process:
            path = "/v1/prompts/recommender/context"
            asking = threading.Thread(
                target=lambda: found.append(load(port, path, seconds, options.connections, folder))
            )
            asking.start()
            began = time.monotonic()
            while asking.is_alive():
                asking.join(max(1.0, min(20.0, seconds / 30)))
                sizes.append(resident(process.pid))
                print(f"{time.monotonic() - began:6.0f} s  {sizes[-1]:7.1f} MiB", flush=True)
    if not found:
        print("the load could not be made")
        return 1
    tenth = max(1, len(sizes) // 10)
    first, last = statistics.mean(sizes[tenth : 2 * tenth]), statistics.mean(sizes[-tenth:])
    print(f"{found[0].rate:,.0f} requests/s, {found[0].errors} errors; memory rose by {last / first - 1:+.1%}")
    return int(last / first - 1 > LIMIT or found[0].errors > 0)


if __name__ == "__main__":
    sys.exit(main())
