"""Threads, forks, closing, and asyncio."""

from __future__ import annotations

import asyncio
import os
import threading
import warnings
from collections.abc import Callable, Sequence

import pytest

from llmfeatures.errors import FormatError, RetrieverUnavailableError
from llmfeatures.ports import AsyncDocumentStore, Document, DocumentRecord, index_meta
from llmfeatures.retriever import Retriever
from llmfeatures.testing.document_store.notes import ALL, NOTES, ask, ids, note
from llmfeatures.testing.document_store.store import StoreTests

USERS = [f"user{number}" for number in range(16)]


def of_users() -> list[DocumentRecord]:
    """Three documents of each user."""
    return [note(f"{user} {number}", (1.0, number, 0.0, 0.0), user=user) for user in USERS for number in range(3)]


def own(user: str) -> list[str]:
    """What a user has, nearest first."""
    return [f"{user} {number}" for number in range(3)]


class SharingTests(StoreTests):
    """Threads, forks and closing."""

    def test_many_threads_at_once(self) -> None:
        self.fill(NOTES, of_users())
        store = self.store()

        def read(user: str) -> list[object]:
            return [
                found for _ in range(12) if ids(found := store.search([ask(user=user)], timeout=30)[0]) != own(user)
            ]

        assert in_threads([lambda user=user: read(user) for user in USERS]) == []

    def test_a_forked_child_searches(self) -> None:
        if not self.forks:
            return
        self.fill(NOTES, of_users())
        assert self.misread() == 0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                os._exit(self.misread())
            finally:
                os._exit(99)
        assert self.misread() == 0
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert self.misread() == 0

    def test_a_closed_store_can_be_used_again(self) -> None:
        self.fill(NOTES, of_users())
        store = self.store()
        store.close()
        assert self.misread() == 0
        store.close()
        store.close()
        assert self.misread() == 0

    def test_another_store_finds_the_same(self) -> None:
        self.fill(NOTES, of_users())
        queries = [ask(user=user) for user in USERS]
        assert self.another().search(queries, timeout=30) == self.find(*queries)

    def misread(self) -> int:
        """How many users did not get their own documents."""
        found = self.find(*[ask(user=user) for user in USERS])
        return sum(ids(one) != own(user) for user, one in zip(USERS, found, strict=True))


class AsyncTests(StoreTests):
    """A store for asyncio: as the one for threads."""

    def test_it_says_its_tier_too(self) -> None:
        async def tier(store: AsyncDocumentStore) -> str:
            return store.tier

        assert [self.with_async(one, tier) for one in ALL] == [self.tier] * len(ALL)

    def test_the_async_store_finds_the_same(self) -> None:
        self.fill(NOTES, of_users())
        queries = [ask(user=user, top_k=2) for user in USERS]
        if self.has_recent:
            queries += [ask(user=user, order="recent") for user in USERS]

        async def search(store: AsyncDocumentStore) -> tuple[list[list[Document]], list[list[Document]]]:
            return await store.search(queries, timeout=30), await store.search([])

        assert self.with_async(NOTES, search) == (self.find(*queries), [])

    def test_many_tasks_at_once(self) -> None:
        self.fill(NOTES, of_users())

        async def search(store: AsyncDocumentStore) -> list[list[str]]:
            async def one(user: str) -> list[str]:
                return ids((await store.search([ask(user=user)], timeout=30))[0])

            return await asyncio.gather(*[one(user) for user in USERS * 6])

        assert self.with_async(NOTES, search) == [own(user) for user in USERS * 6]

    def test_a_cancelled_search_leaves_nothing_behind(self) -> None:
        self.fill(NOTES, of_users())

        async def search(store: AsyncDocumentStore) -> list[list[str]]:
            await store.search([ask()], timeout=30)
            for turn in range(30):
                task = asyncio.ensure_future(store.search([ask(user=USERS[turn % 16])] * 4, timeout=30))
                for _ in range(turn % 6):
                    await asyncio.sleep(0)
                await asyncio.sleep(turn % 5 * 0.0005)
                task.cancel()
                (ended,) = await asyncio.gather(task, return_exceptions=True)
                assert isinstance(ended, (list, asyncio.CancelledError)), (
                    "who is cancelled sees that, and no other error"
                )
            return [ids((await store.search([ask(user=user)], timeout=30))[0]) for user in USERS]

        assert self.with_async(NOTES, search) == [own(user) for user in USERS]

    def test_a_closed_async_store_can_be_used_again(self) -> None:
        self.fill(NOTES, of_users())

        async def search(store: AsyncDocumentStore) -> list[str]:
            await store.search([ask(user=USERS[0])], timeout=30)
            await store.aclose()
            await store.aclose()
            return ids((await store.search([ask(user=USERS[0])], timeout=30))[0])

        assert self.with_async(NOTES, search) == own(USERS[0])

    def test_one_async_store_in_two_event_loops(self) -> None:
        self.fill(NOTES, of_users())
        store = self.open_async(NOTES)

        async def search(*, close: bool) -> list[str]:
            try:
                return ids((await store.search([ask(user=USERS[0])], timeout=30))[0])
            finally:
                if close:
                    await store.aclose()

        assert [asyncio.run(search(close=True)) for _ in range(2)] == [own(USERS[0])] * 2


class AsyncIndexTests(AsyncTests):
    """A store for asyncio, of an index."""

    def test_the_async_store_refuses_what_is_not_right(self) -> None:
        async def search(store: AsyncDocumentStore) -> list[list[Document]]:
            return await store.search([ask()], timeout=30)

        def unfilled(retriever: Retriever = NOTES) -> None:
            with pytest.raises(RetrieverUnavailableError, match=r"notes.*materialize"):
                self.with_async(retriever, search)

        unfilled()
        self.index().begin(index_meta(NOTES))
        unfilled()
        self.fill(NOTES, [note("a")])
        assert len(self.with_async(NOTES, search)[0]) == 1
        self.set_format(NOTES, index_meta(NOTES).format + 1)
        with pytest.raises(FormatError, match="format"):
            self.with_async(NOTES, search)


def in_threads(calls: Sequence[Callable[[], list[object]]]) -> list[object]:
    """What calls, at the same time in a thread each, returned or raised, all in one list."""
    together = threading.Barrier(len(calls))
    all_of_them: list[object] = []

    def run(call: Callable[[], list[object]]) -> None:
        together.wait(30)
        try:
            all_of_them.extend(call())
        except Exception as error:  # noqa: BLE001
            all_of_them.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return all_of_them
