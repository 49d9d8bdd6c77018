"""Eight processes write the same keys, out of order, beside real materializations: the newest row always stays."""

from __future__ import annotations

import multiprocessing
import random
import time
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import Project
from llmfeatures.clock import stamp
from llmfeatures.codec import created_stamp, entity_key, order
from llmfeatures.ports import RowWrite, ViewFields
from tests.projects import NOW, at, make_project, segment

WRITERS, USERS, EVENTS = 8, 10, 40
VIEW = ViewFields(name="segment", features=("segment",))


def moment(event: int) -> datetime:
    return at(1) + timedelta(minutes=event)


def pushed(user: int, event: int, writer: int) -> RowWrite:
    """A row whose value says when it happened and who wrote it."""
    key = entity_key(("user_id",), (f"u{user}",))
    return RowWrite(key, VIEW, stamp(moment(event)), created_stamp(moment(event)), (f'"{event} of {writer}"',))


def push_all(root: str, writer: int) -> None:
    """One writer: a row of every user for every event, mostly forward, twice."""
    chance = random.Random(writer)
    store = Project.load(root, now=lambda: NOW).online
    events = [(user, event) for user in range(USERS) for event in range(EVENTS)] * 2
    events.sort(key=lambda one: one[1] + chance.uniform(-15, 15))
    while events:
        size = chance.randrange(1, 20)
        store.write([pushed(user, event, writer) for user, event in events[:size]])
        events = events[size:]
        time.sleep(chance.random() * 0.01)


@pytest.fixture(params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest) -> str:
    return "sqlite" if request.param == "sqlite" else request.getfixturevalue("redis_url")


def test_the_newest_row_stays_whoever_writes_last(tmp_path: Path, online: str) -> None:
    history = [
        segment(f"u{user}", f"{event} of history", moment(event), moment(event))
        for user in range(USERS)
        for event in range(0, EVENTS + 5, 3)
    ]
    make_project(tmp_path, segments=history, online=online)
    project = Project.load(tmp_path, now=lambda: NOW)
    keys = [{"user_id": f"u{user}"} for user in range(USERS)]
    pool = multiprocessing.get_context("spawn")
    writers = [pool.Process(target=push_all, args=(str(tmp_path), writer)) for writer in range(WRITERS)]
    for writer in writers:
        writer.start()
    seen: dict[str, datetime] = {}
    changes = runs = 0
    began = time.monotonic()
    while any(writer.is_alive() for writer in writers):
        assert time.monotonic() - began < 120
        project.materialize("segment", until=moment(runs))
        runs += 1
        for key, row in zip(keys, project.get_online_features(["segment"], keys), strict=True):
            found: Any = row["segment"]
            if found.event_timestamp is None:
                continue
            assert found.event_timestamp == moment(int(found.value.partition(" ")[0])), "a value without its stamp"
            last = seen.get(key["user_id"], found.event_timestamp)
            assert last <= found.event_timestamp, "a key went back"
            changes += last != found.event_timestamp
            seen[key["user_id"]] = found.event_timestamp
    assert [writer.exitcode for writer in writers] == [0] * WRITERS
    project.materialize("segment")
    rows = [(stamp(row["event_timestamp"]), stamp(row["created_timestamp"]), f'"{row["segment"]}"') for row in history]
    rows += [
        (stamp(moment(event)), stamp(moment(event)), f'"{event} of {writer}"')
        for event in range(EVENTS)
        for writer in range(WRITERS)
    ]
    newest = max(rows, key=lambda row: order(row[0], row[1], (row[2],)))
    found = project.get_online_features(["segment"], keys)
    assert [f'"{row["segment"].value}"' for row in found] == [newest[2]] * USERS
    assert changes
    assert runs > 1
