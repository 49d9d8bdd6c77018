"""Many writers at once, beside full runs: the newest value stays, and a reader never sees what nobody wrote."""

from __future__ import annotations

import itertools
import json
import select
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmfeatures.codec import split_stamp
from llmfeatures.ports import OnlineStore, Read
from llmfeatures.testing.online import activity, key_of
from tests.online.writers import EVENTS, USERS, WRITERS, history, newest, open_store
from tests.servers import Server

GHOST = "ghost"
"""A user that only the store knows: a full run must remove it."""
FIELDS = ("watch_count", "last_genre", "@activity", "@key")

Place = tuple[str, str, str]
"""Which store: its kind, its URL or path, its namespace."""


class Writer:
    """A process that takes jobs."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.online.writers"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def wait(self, seconds: float = 100) -> None:
        """Wait for the end of its job, or of its start."""
        assert self._process.stdout is not None
        assert select.select([self._process.stdout], [], [], seconds)[0], "a writer takes too long"
        assert self._process.stdout.readline() in {"ready\n", "done\n"}

    def works(self) -> bool:
        assert self._process.stdout is not None
        return not select.select([self._process.stdout], [], [], 0)[0]

    def begin(self, **job: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(job) + "\n")
        self._process.stdin.flush()

    def end(self) -> None:
        self._process.communicate(timeout=20)


@pytest.fixture(scope="module")
def writers() -> Iterator[list[Writer]]:
    writers = [Writer() for _ in range(WRITERS + 1)]
    try:
        for writer in writers:
            writer.wait()
        yield writers
    finally:
        for writer in writers:
            writer.end()


class Watch:
    """A reader: every answer is a whole row of somebody, and outside a full run no event goes back."""

    def __init__(self, store: OnlineStore, marker: Path) -> None:
        self.store, self._marker = store, marker
        self.reads = self.changes = 0
        self._seen: dict[int, tuple[int, tuple[str, str]]] = {}
        self._rows = {user: {(row.event, row.created, *row.values) for row in history(user)} for user in range(USERS)}

    def _run(self) -> int:
        held = self._marker.read_bytes()
        return held[0] if held else -1  # -1: it is being written, and so a run begins or ends

    def look(self) -> None:
        users = list(range(USERS))
        before = self._run()
        answers = self.store.read([Read(key_of(user), FIELDS) for user in users])
        after = self._run()
        for user, (count, genre, stamp, key) in zip(users, answers, strict=True):
            if stamp is None:
                assert (count, genre, key) == (None, None, None)
                assert user not in self._seen or not self._seen[user][0] == before == after or after % 2
                continue
            event, created, _ = split_stamp(stamp)
            assert (event, created, count, genre) in self._rows[user]
            run, last = self._seen.get(user, (before, (event, created)))
            quiet = run == before == after and after % 2 == 0
            assert not quiet or last <= (event, created), "a key went back without a full run"
            self.changes += last != (event, created)
            self._seen[user] = before, (event, created)
        self.reads += 1


@pytest.fixture(params=["sqlite", "redis_server", "valkey_server"])
def place(request: pytest.FixtureRequest, tmp_path: Path, namespace: str) -> Place:
    if request.param == "sqlite":
        return "sqlite", str(tmp_path / "online.sqlite"), namespace
    server: Server = request.getfixturevalue(request.param)
    return "redis", server.url, namespace


@pytest.fixture
def store(place: Place) -> Iterator[OnlineStore]:
    store = open_store(*place)
    yield store
    store.close()


@pytest.mark.parametrize("full_runs", [False, True], ids=["writers", "writers and full runs"])
def test_many_processes(
    place: Place, store: OnlineStore, writers: list[Writer], tmp_path: Path, full_runs: bool
) -> None:
    marker = tmp_path / "runs"
    marker.write_bytes(b"\x00")
    store.write([activity(GHOST, EVENTS)])
    for number, writer in enumerate(writers[:WRITERS]):
        writer.begin(what="write", place=place, writer=number)
    busy = writers if full_runs else writers[:WRITERS]
    if full_runs:
        writers[-1].begin(what="run", place=place, marker=str(marker))
    watch = Watch(store, marker)
    deadline = time.monotonic() + 100
    while any(writer.works() for writer in busy):
        watch.look()
        assert time.monotonic() < deadline
    for writer in busy:
        writer.wait()
    watch.look()
    assert watch.changes > 1  # it looked while they wrote; how often, is up to the machine
    found = store.read([Read(key_of(user), FIELDS) for user in range(USERS)])
    for user, (count, genre, stamp, _) in enumerate(found):
        expected = newest(user)
        assert stamp is not None
        assert (*split_stamp(stamp)[:2], count, genre) == (expected.event, expected.created, *expected.values)
    assert (store.read([Read(key_of(GHOST), ("@key",))]) == [[None]]) == full_runs


def test_all_orders_of_three_writers_and_a_full_run(store: OnlineStore) -> None:
    """The same, small enough to try every order: a push before the run is replaced, one after its begin competes."""
    steps = ("old push", "begin", "run", "new push")
    for turn, taken in enumerate(itertools.permutations(steps)):
        if taken.index("begin") > taken.index("run"):
            continue
        user, began = f"order{turn}", ""
        for step in taken:
            if step == "begin":
                began = store.begin().now
            elif step == "run":
                store.write([activity(user, 5, count=5)], replace_before=began)
            else:
                event = 3 if step == "old push" else 9
                store.write([activity(user, event, count=event)])
        [[count]] = store.read([Read(key_of(user), ("watch_count",))])
        assert count == ("9" if taken.index("new push") > taken.index("begin") else "5")
