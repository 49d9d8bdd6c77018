"""Never another entity's values, and never a stale one: whatever goes wrong on the way, a read is right or an error."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import random
import signal
import threading
import time
import warnings
from collections.abc import Callable, Iterator

import pytest

from llmfeatures.errors import EntityMismatchError, StoreUnavailableError
from llmfeatures.online.redis import AsyncRedisStore, RedisStore
from llmfeatures.ports import Read
from llmfeatures.testing.online import activity, key_of
from tests.online.proxy import Change, Proxy, proxy_to, unchanged
from tests.servers import Server

USERS = 20


@pytest.fixture
def store(redis_server: Server, namespace: str) -> Iterator[RedisStore]:
    """A store past the proxy, with a row for each user."""
    store = RedisStore(redis_server.url, namespace, timeout=20)
    store.write([activity(user, count=user) for user in range(USERS)])
    yield store
    store.close()


@pytest.fixture
def proxy(redis_server: Server) -> Iterator[Proxy]:
    with proxy_to(redis_server.port) as proxy:
        yield proxy


def one(user: object) -> list[Read]:
    return [Read(key_of(user), ("watch_count", "last_genre", "@activity"))]


def value_of(answer: list[list[str | None]]) -> str | None:
    return answer[0][0]


# Replies that are shifted


def once_at(number: int, change: Change) -> tuple[Change, Callable[[], bool]]:
    """A change of the reply of this number, and a function that tells whether it was made."""
    numbers = itertools.count()
    made: list[bool] = []

    def changed(reply: bytes) -> list[bytes]:
        if next(numbers) != number:
            return [reply]
        made.append(True)
        return change(reply)

    return changed, lambda: bool(made)


class Memory:
    """The last reply of each kind that went by, to be sent again."""

    def __init__(self) -> None:
        self.last: dict[bytes, bytes] = {}

    def keep(self, change: Change) -> Change:
        def kept(reply: bytes) -> list[bytes]:
            replies = change(reply)
            self.last[reply[:1]] = reply
            return replies

        return kept

    def of(self, kind: bytes) -> bytes:
        return self.last.get(kind, b"$-1\r\n")


WITHHELD = "a reply is withheld"
PATIENT = 20.0
"""Seconds that nothing takes, however busy the machine is."""
SLACK = 0.5
"""Seconds by which a busy machine may be late."""
FAULTS: dict[str, Callable[[Memory], Change]] = {
    "a reply comes twice": lambda memory: lambda reply: [reply, reply],
    "an earlier hash comes first": lambda memory: lambda reply: [memory.of(b"*"), reply],
    "an earlier hash comes after": lambda memory: lambda reply: [reply, memory.of(b"*")],
    "an earlier exchange comes first": lambda memory: lambda reply: [memory.of(b"*"), memory.of(b"$"), reply],
    "an earlier hash instead of this": lambda memory: (
        lambda reply: [memory.of(b"*")] if reply[:1] == b"$" else [reply] * 2
    ),
    "an absent hash comes first": lambda memory: lambda reply: [b"*4\r\n" + b"$-1\r\n" * 4, reply],
    "a hash of another length comes first": lambda memory: lambda reply: [b"*1\r\n$-1\r\n", reply],
    WITHHELD: lambda memory: lambda reply: [],
    "an error comes first": lambda memory: lambda reply: [b"-ERR nobody asked\r\n", reply],
    "no Redis reply at all": lambda memory: lambda reply: [b"HTTP/1.1 400 Bad Request\r\n\r\n"],
}
SEQUENCES = {
    "one user": [1] * 6,
    "users that nobody knows": ["nobody", "nobody", "no one", "nobody", "no one", "no one"],
    "a user and one that nobody knows": [1, "nobody", 1, 1, "nobody", "nobody"],
    "several users": [1, 2, 1, 3, 3, 1],
}


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("users", SEQUENCES)
@pytest.mark.parametrize("number", range(5))
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_shifted_replies_are_caught(
    store: RedisStore, proxy: Proxy, namespace: str, fault: str, users: str, number: int, asynchronous: bool
) -> None:
    memory = Memory()
    changed, made = once_at(number, FAULTS[fault](memory))
    read, close = _reader(proxy, namespace, asynchronous)
    errors: list[Exception] = []
    known: dict[object, str | None] = {user: str(user) for user in range(USERS)}
    read(one(1), timeout=PATIENT)
    memory.last = {}
    proxy.change = memory.keep(changed)
    until = 0.25 if fault == WITHHELD else PATIENT
    for turn, user in enumerate([*SEQUENCES[users], 1, "nobody", 1]):
        try:
            found = value_of(read(one(user), timeout=PATIENT if made() else until))
        except (EntityMismatchError, StoreUnavailableError) as error:
            errors.append(error)
        else:
            assert found == known.get(user)
        if user in known:  # what went by is stale from here on
            known[user] = str(turn + 100)
            store.write([activity(user, turn + 1, count=turn + 100)])
    close()
    assert made()
    assert len(errors) == 1


def _reader(
    proxy: Proxy, namespace: str, asynchronous: bool
) -> tuple[Callable[..., list[list[str | None]]], Callable[[], None]]:
    if not asynchronous:
        store = RedisStore(proxy.url, namespace, timeout=0.15)
        return store.read, store.close
    async_store = AsyncRedisStore(proxy.url, namespace, timeout=0.15)
    runner = asyncio.Runner()

    def close() -> None:
        runner.run(async_store.aclose())
        runner.close()

    return lambda reads, timeout=None: runner.run(async_store.read(reads, timeout=timeout)), close


def test_shifted_replies_within_a_call_of_many(store: RedisStore, proxy: Proxy, namespace: str) -> None:
    reads = [one(user)[0] for user in [*range(USERS), "nobody", *range(USERS)]]
    expected = store.read(reads)
    through = RedisStore(proxy.url, namespace, timeout=0.15)
    assert through.read(reads, timeout=PATIENT) == expected
    for number in range(0, len(reads) + 1, 4):
        for change in (lambda reply: [reply, reply], lambda reply: []):
            proxy.change, _ = once_at(number, change)
            with pytest.raises((EntityMismatchError, StoreUnavailableError)):
                # A surplus reply after the last one is found by the next call, when the first did not see it yet.
                through.read(reads), time.sleep(0.01), through.read(reads)
            proxy.change = unchanged
            assert through.read(reads, timeout=PATIENT) == expected
    through.close()


def test_a_shifted_meta_is_caught(store: RedisStore, proxy: Proxy, namespace: str) -> None:
    other = RedisStore(store._where, f"{namespace}-other", timeout=20)
    lifetimes = [used.begin().meta.lifetime for used in (store, other)]
    through = RedisStore(proxy.url, namespace, timeout=0.15)
    empty = [b"*0\r\n"]
    for change in (lambda reply: [*empty, reply], lambda reply: [reply, reply], lambda reply: []):
        through.meta(timeout=PATIENT)
        proxy.change, made = once_at(0, change)
        with pytest.raises((EntityMismatchError, StoreUnavailableError)):
            through.meta(), time.sleep(0.01), through.meta()
        assert made()
        meta = through.meta(timeout=PATIENT)
        assert meta is not None
        assert meta.lifetime == lifetimes[0]
    for used in (through, other):
        used.close()


# Reads that are given up


async def cancel_many(
    store: AsyncRedisStore, times: int, patience: Callable[[], float], tasks: int = 8
) -> list[object]:
    """Cancel that many reads at random moments, each followed by one that is not cancelled; return wrong answers."""
    chance = random.Random(7)
    wrong: list[object] = []
    turns = iter(range(times))

    async def read(user: object) -> None:
        found = value_of(await store.read(one(user), timeout=20))
        if found != (None if user == "nobody" else str(user)):
            wrong.append((user, found))

    async def work() -> None:
        for turn in turns:
            user = "nobody" if turn % 5 == 0 else turn % USERS
            task = asyncio.ensure_future(read(user))
            seconds = patience()
            if seconds:
                await asyncio.sleep(seconds)
            else:
                for _ in range(chance.randrange(12)):
                    await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
            if turn % 4 == 0:
                await read((turn + 1) % USERS)

    await asyncio.gather(*(work() for _ in range(tasks)))
    return wrong


@pytest.mark.parametrize(
    "times", [3_000, pytest.param(100_000, marks=[pytest.mark.heavy, pytest.mark.timeout(600)])], ids=["3k", "100k"]
)
async def test_cancelled_reads_leave_no_foreign_value(
    store: RedisStore, proxy: Proxy, namespace: str, times: int
) -> None:
    chance = random.Random(1)
    proxy.delay = lambda: chance.choice([0, 0, 0.0005, 0.001])
    through = AsyncRedisStore(proxy.url, namespace, timeout=20)
    patience = lambda: chance.choice([0, 0, chance.random() * 0.003])  # noqa: E731
    assert await cancel_many(through, times, patience) == []
    assert value_of(await through.read(one(3))) == "3"
    await through.aclose()


async def test_cancelled_reads_give_their_place_back(
    store: RedisStore, proxy: Proxy, namespace: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("llmfeatures.online.redis.CONNECTIONS", 2)
    proxy.delay = lambda: 0.0005
    through = AsyncRedisStore(proxy.url, namespace, timeout=20)
    assert await cancel_many(through, 500, lambda: 0, tasks=6) == []
    assert [value_of(await through.read(one(user))) for user in range(5)] == list("01234")
    await through.aclose()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # redis-py's socket, half connected
def test_interrupted_reads_leave_no_foreign_value(store: RedisStore, proxy: Proxy, namespace: str) -> None:
    """KeyboardInterrupt, or any exception of a signal, between the request and the whole of its reply."""
    chance = random.Random(3)
    proxy.delay = lambda: chance.choice([0, 0.001])
    through = RedisStore(proxy.url, namespace, timeout=20)
    interrupted = 0

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        for turn in range(600):
            with contextlib.suppress(KeyboardInterrupt):
                interrupted += 1
                signal.setitimer(signal.ITIMER_REAL, 0.0001 + chance.random() * 0.002)
                assert value_of(through.read(one(turn % USERS))) == str(turn % USERS)
                signal.setitimer(signal.ITIMER_REAL, 0)
                interrupted -= 1
            assert value_of(through.read(one((turn + 1) % USERS))) == str((turn + 1) % USERS)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupted > 100
    through.close()


# Time


@pytest.mark.parametrize("slow", ["late", "by drops"])
@pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "async"])
def test_a_slow_reply_is_given_up_and_never_read(
    store: RedisStore, proxy: Proxy, namespace: str, slow: str, asynchronous: bool
) -> None:
    read, close = _reader(proxy, namespace, asynchronous)
    read(one(1), timeout=PATIENT)
    for turn in range(3):
        accepted = proxy.accepted
        if slow == "late":
            proxy.delay = lambda: 2 * SLACK
        else:
            proxy.dribble = 0.05
        start = time.monotonic()
        with pytest.raises(StoreUnavailableError, match=r"within 0\.15 s"):
            read(one(2))
        assert 0.14 < time.monotonic() - start < 0.15 + SLACK
        proxy.delay, proxy.dribble = float, 0.0
        store.write([activity(2, turn + 1, count=turn + 50)])
        assert value_of(read(one(2), timeout=PATIENT)) == str(turn + 50)
        assert value_of(read(one("nobody"), timeout=PATIENT)) is None
        assert proxy.accepted == accepted + 1
    close()


# Forks


@contextlib.contextmanager
def forking() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # threads and forks: what is tested here
        yield


def in_child(work: Callable[[], bool]) -> int:
    """Fork a child that ends with 0 when ``work`` says True."""
    child = os.fork()
    if child == 0:
        try:
            os._exit(0 if work() else 1)
        finally:
            os._exit(2)
    return child


def rightly(store: RedisStore, times: int) -> bool:
    return all(value_of(store.read(one(turn % USERS), timeout=20)) == str(turn % USERS) for turn in range(times))


def test_forked_children_and_their_parent(store: RedisStore) -> None:
    assert rightly(store, 5)
    with forking():
        children = [in_child(lambda: rightly(store, 200)) for _ in range(4)]
    assert rightly(store, 200)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 4
    assert rightly(store, 5)


def test_a_fork_while_threads_read(store: RedisStore) -> None:
    stop = threading.Event()
    right: list[bool] = []

    def read() -> None:
        while not stop.is_set():
            right.append(rightly(store, 20))

    threads = [threading.Thread(target=read) for _ in range(4)]
    for thread in threads:
        thread.start()
    codes: list[int] = []
    with forking():
        for _ in range(10):
            child = in_child(lambda: rightly(store, 50))
            codes.append(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
    stop.set()
    for thread in threads:
        thread.join()
    assert codes == [0] * 10
    assert all(right)


def test_an_async_store_in_forked_children(store: RedisStore, redis_server: Server, namespace: str) -> None:
    through = AsyncRedisStore(redis_server.url, namespace, timeout=20)

    async def read(times: int) -> bool:
        found = [value_of(await through.read(one(turn % USERS))) for turn in range(times)]
        return found == [str(turn % USERS) for turn in range(times)]

    with asyncio.Runner() as runner:
        assert runner.run(read(20))
        with forking():
            children = [in_child(lambda: asyncio.run(read(100))) for _ in range(3)]
        assert runner.run(read(100))
        assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0] * 3
        assert runner.run(read(20))
        runner.run(through.aclose())
