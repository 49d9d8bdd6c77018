"""A process that writes to a store when it is told to: ``python -m tests.online.writers``, one JSON job per line."""

from __future__ import annotations

import json
import random
import sys
import time
from pathlib import Path

from llmfeatures.codec import order
from llmfeatures.online.redis import RedisStore
from llmfeatures.online.sqlite import SqliteStore
from llmfeatures.ports import RowWrite
from llmfeatures.testing.online import ACTIVITY, USER, activity

WRITERS = 8
USERS = 12
EVENTS = 30
RUNS = 4


def open_store(kind: str, where: str, namespace: str) -> RedisStore | SqliteStore:
    return SqliteStore(where, namespace, timeout=20) if kind == "sqlite" else RedisStore(where, namespace, timeout=20)


def row_of(user: int, event: int, writer: int) -> RowWrite:
    """A row whose values say which one it is. Writers agree on events, and so compete by created and by values."""
    created = None if writer % 3 == 0 else float(writer % 3)
    return activity(user, event, created=created, count=event, genre=f'"{writer}"')


def history(user: int, until: int = EVENTS) -> list[RowWrite]:
    """All rows of a user that anybody writes, up to an event."""
    return [row_of(user, event, writer) for event in range(until + 1) for writer in range(WRITERS)]


def newest(user: int, until: int = EVENTS) -> RowWrite:
    """The row of a user that must win."""
    return max(history(user, until), key=lambda row: order(row.event, row.created, row.values))


def write_all(store: RedisStore | SqliteStore, writer: int) -> None:
    """One writer: all its rows in its own order, mostly forward, in batches of its own size, each row twice."""
    chance = random.Random(writer)
    events = [(user, event) for user in range(USERS) for event in range(EVENTS + 1)] * 2
    # out of order, and yet forward: else the newest row comes early, and nothing moves for a reader to see
    events.sort(key=lambda one: one[1] + chance.uniform(-EVENTS / 3, EVENTS / 3))
    rows = [row_of(user, event, writer) for user, event in events]
    while rows:
        size = chance.randrange(1, 30)
        store.write(rows[:size])
        rows = rows[size:]
        time.sleep(chance.random() * 0.01)


def run_fully(store: RedisStore | SqliteStore, marker: Path) -> None:
    """Full runs, each up to a later moment: they take the store back to what the source had then.

    ``marker`` counts beginnings and ends: it is odd while a run is under way.
    """
    for number in range(1, RUNS + 1):
        marker.write_bytes(bytes([2 * number - 1]))
        began = store.begin()
        rows = [newest(user, EVENTS * number // RUNS) for user in range(USERS)]
        for first in range(0, USERS, 5):
            store.write(rows[first : first + 5], replace_before=began.now)
            time.sleep(0.02)
        store.sweep(ACTIVITY, USER, began.now)
        marker.write_bytes(bytes([2 * number]))
        time.sleep(0.15)


def main() -> None:
    print("ready", flush=True)
    for line in sys.stdin:
        job = json.loads(line)
        store = open_store(*job["place"])
        if job["what"] == "write":
            write_all(store, job["writer"])
        else:
            run_fully(store, Path(job["marker"]))
        store.close()
        print("done", flush=True)


if __name__ == "__main__":
    main()
