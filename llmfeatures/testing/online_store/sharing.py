"""Expiry, threads, forks, closing, and asynchronous reading."""

from __future__ import annotations

import asyncio
import os
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from llmfeatures.codec import FORMAT
from llmfeatures.errors import EntityMismatchError, FormatError
from llmfeatures.ports import (
    AsyncOnlineStore,
    OnlineStore,
    Read,
)
from llmfeatures.testing.online_store.rows import (
    START,
    activity,
    epoch,
    in_columns,
    key_of,
    segment,
)
from llmfeatures.testing.online_store.store import StoreTests

T = TypeVar("T")


class SharingTests(StoreTests):
    """Expiry, threads, forks, closing, and asynchronous reading."""

    # Expiry

    def test_a_key_expires_after_its_last_view(self, store: OnlineStore) -> None:
        if not self.expires:
            assert store.write([activity(1)], ttls={"activity": timedelta(days=1)}).written == 1
            return
        far = (datetime.now(UTC) + timedelta(days=400) - START).total_seconds() // 1
        day = timedelta(days=1)
        ttls = {"activity": 3 * day, "segment": 7 * day, "absent": 99 * day}
        store.write([activity(1, far + 0.25)], ttls=ttls)
        assert self.raw_expiry(store, key_of(1)) == epoch(far + 1) + 4 * 86400
        store.write([segment(1, far - 86400)], ttls=ttls)
        assert self.raw_expiry(store, key_of(1)) == epoch(far) + 7 * 86400
        store.write([activity(1, far + 5 * 86400)], ttls=ttls | {"activity": timedelta(microseconds=1)})
        assert self.raw_expiry(store, key_of(1)) == epoch(far) + 7 * 86400
        store.write([segment(1, far)])
        assert self.raw_expiry(store, key_of(1)) is None

    def test_columns_set_the_expiry_and_take_it_away(self, store: OnlineStore) -> None:
        if not self.expires:
            return
        far = (datetime.now(UTC) + timedelta(days=400) - START).total_seconds() // 1
        ttls = {"activity": timedelta(days=2)}
        store.write_columns(in_columns([activity(1, far), activity(2, far)]), ttls=ttls)
        assert self.raw_expiry(store, key_of(1)) == epoch(far) + 3 * 86400
        store.write_columns(in_columns([activity(1, far)]), ttls={"activity": timedelta(0)})
        assert self.raw_expiry(store, key_of(1)) == epoch(far) + 86400
        store.write_columns(in_columns([activity(1, far + 1), activity(2, far), activity(3, far)]))
        assert [self.raw_expiry(store, key_of(user)) for user in (1, 2, 3)] == [None] * 3

    def test_a_skipped_row_too_sets_the_expiry(self, store: OnlineStore) -> None:
        if self.expires:
            far = (datetime.now(UTC) + timedelta(days=400) - START).total_seconds() // 1
            store.write([activity(1, far)])
            assert store.write([activity(1, far)], ttls={"activity": timedelta(0)}).skipped == 1
            assert self.raw_expiry(store, key_of(1)) == epoch(far) + 86400

    # Threads, forks, closing

    def test_many_threads_at_once(self, store: OnlineStore) -> None:
        users = 16
        store.write([activity(user, count=user) for user in range(users)])
        problems: list[object] = []

        def read(user: int) -> None:
            for turn in range(50):
                found = store.read([Read(key_of(user), ("watch_count", "@key"))], timeout=10)
                if found != [[str(user), key_of(user)]]:
                    problems.append(found)
                if turn % 25 == 0:
                    store.write([segment(user, turn)])

        in_threads([lambda user=user: read(user) for user in range(users)], problems)
        assert problems == []

    def test_a_forked_child_reads_and_writes(self, store: OnlineStore) -> None:
        if not hasattr(os, "fork"):
            return
        store.write([activity(user, count=user) for user in range(20)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                store.write([segment("child")])
                os._exit(misread(store))
            finally:
                os._exit(99)
        assert misread(store) == 0
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.read([Read(key_of("child"), ("user_segment",))]) == [['"casual"']]

    def test_a_closed_store_can_be_used_again(self, store: OnlineStore) -> None:
        store.close()
        store.write([segment(1)])
        store.close()
        store.close()
        assert store.read([Read(key_of(1), ("user_segment",))]) == [['"casual"']]

    def test_part_of_a_key_is_another_key(self, store: OnlineStore) -> None:
        store.write([segment("12")])
        assert store.read([Read(key_of("1"), ("@key",)), Read(key_of("123"), ("@key",))]) == [[None], [None]]

    # Asynchronous reading

    def test_the_async_store_reads_the_same(self, store: OnlineStore, async_store: AsyncOnlineStore) -> None:
        reads = [Read(key_of(user), ("watch_count", "@activity", "user_segment", "@key")) for user in range(5)]
        assert run(async_store, async_store.meta) is None
        assert run(async_store, lambda: async_store.read(reads)) == [[None] * 4] * 5
        store.begin()
        store.write([activity(user, count=user) for user in range(3)])
        assert run(async_store, lambda: async_store.read(reads)) == store.read(reads)
        assert run(async_store, lambda: async_store.read([])) == []
        assert run(async_store, async_store.meta) == store.meta()

    def test_the_async_store_refuses_what_is_not_right(self, store: OnlineStore, async_store: AsyncOnlineStore) -> None:
        store.begin()
        store.write([segment(1)])
        self.raw_set(store, key_of(1), "@key", key_of(2))
        with pytest.raises(EntityMismatchError):
            run(async_store, lambda: async_store.read([Read(key_of(1), ("user_segment",))]))
        self.raw_set(store, "@meta", "@format", str(FORMAT + 1))
        with pytest.raises(FormatError):
            run(async_store, async_store.meta)

    def test_many_tasks_at_once(self, store: OnlineStore, async_store: AsyncOnlineStore) -> None:
        users = range(200)
        store.write([activity(user, count=user) for user in users])

        async def read(user: int) -> list[list[str | None]]:
            return await async_store.read([Read(key_of(user), ("watch_count",))], timeout=10)

        async def read_all() -> Sequence[list[list[str | None]]]:
            return await asyncio.gather(*map(read, users))

        assert run(async_store, read_all) == [[[str(user)]] for user in users]

    def test_a_cancelled_read_harms_no_other(self, store: OnlineStore, async_store: AsyncOnlineStore) -> None:
        users = 20
        store.write([activity(user, count=user) for user in range(users)])

        async def read(user: int) -> list[list[str | None]]:
            return await async_store.read([Read(key_of(user), ("watch_count",))], timeout=10)

        async def read_all() -> list[object]:
            wrong: list[object] = []
            for turn in range(100):
                task = asyncio.ensure_future(read(turn % users))
                for _ in range(turn % 7):
                    await asyncio.sleep(0)
                task.cancel()
                found = await read((turn + 1) % users)
                if found != [[str((turn + 1) % users)]]:
                    wrong.append(found)
                await asyncio.gather(task, return_exceptions=True)
            return wrong

        assert run(async_store, read_all) == []


def misread(store: OnlineStore) -> int:
    """How many of 20 users, read 5 times, came back wrong."""
    reads = [(user, [Read(key_of(user), ("watch_count",))]) for user in [*range(20)] * 5]
    return sum(store.read(read, timeout=10) != [[str(user)]] for user, read in reads)


def run(store: AsyncOnlineStore, call: Callable[[], Awaitable[T]]) -> T:
    async def call_and_close() -> T:
        try:
            return await call()
        finally:
            await store.aclose()

    return asyncio.run(call_and_close())


def in_threads(calls: Sequence[Callable[[], Any]], problems: list[object]) -> None:
    def run(call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - a thread's error must fail the test, whatever it is
            problems.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    deadline = time.monotonic() + 60
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    assert not any(thread.is_alive() for thread in threads), "threads still run after a minute"
