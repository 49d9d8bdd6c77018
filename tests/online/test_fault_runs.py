"""Many calls through a proxy that does anything: right, or unavailable, or a typed error; never another user's."""

from __future__ import annotations

import asyncio
import os
import random
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from llmfeatures import AsyncContextBuilder, ContextBuilder, FeatureValue, Project, PromptContext
from llmfeatures.errors import LLMFeaturesError
from tests.online.callers import HANGS, SLACK, USERS, again, make, segment_of, text_of, watched_of
from tests.online.proxy import FAULTS, Fault, Proxy, proxy_to
from tests.online.test_safety import forking, in_child
from tests.servers import Server

TIMEOUT = 0.5
"""Seconds that a call has: many times what one takes, so that also a busy machine answers most."""
NAMES = [f"u{user}" for user in range(USERS)]
FOREIGN = {
    user: [text for other in NAMES if other != user for text in (segment_of(other), str(watched_of(other)))]
    for user in NAMES
}


class Tally:
    """What calls came to. Every wrong one is kept."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.untyped: list[str] = []
        self.longest = 0.0

    def saw(self, user: str, ctx: PromptContext) -> None:
        """Judge a prompt of the kind ``default``."""
        if ctx.text == text_of(user):
            self.counts["right"] += 1
        elif ctx.manifest.degraded:
            self.counts["unavailable"] += 1
        else:
            self.counts["garbled value"] += 1
        if any(text in ctx.text for text in FOREIGN[user]) or not ctx.text.startswith(f"{user} is "):
            self.wrong.append(f"{user}: {ctx.text}")

    def found(self, user: str, row: dict[str, FeatureValue]) -> None:
        """Judge features that were read without a prompt."""
        values = [str(row[name].value) for name in ("segment", "watched")]
        statuses = {one.status for one in row.values()}
        if values == [segment_of(user), str(watched_of(user))]:
            self.counts["right"] += 1
        elif statuses == {"unavailable"}:
            self.counts["unavailable"] += 1
        else:
            self.counts["garbled value"] += 1
        if any(text in FOREIGN[user] for text in values):
            self.wrong.append(f"{user}: {values}")

    def failed(self, error: Exception) -> None:
        self.counts[type(error).__name__] += 1
        if not isinstance(error, LLMFeaturesError):
            self.untyped.append(repr(error))

    def took(self, start: float) -> None:
        self.longest = max(self.longest, time.monotonic() - start)


def judged(tally: Tally, users: list[str], build: ContextBuilder, prompt: str, project: Project | None = None) -> None:
    """One call of the sync builder, or of the project."""
    start = time.monotonic()
    try:
        if prompt == "many":
            found = build.build_contexts("default", [{"user_id": one} for one in users])
            for user, ctx in zip(users, found, strict=True):
                tally.saw(user, ctx)
        elif prompt == "features" and project is not None:
            rows = project.get_online_features(["segment", "watched"], [{"user_id": one} for one in users])
            for user, row in zip(users, rows, strict=True):
                tally.found(user, row)
        elif prompt == "strict":
            ctx = build.build_context("strict", user_id=users[0])
            if any(text in ctx.text for text in FOREIGN[users[0]]):
                tally.wrong.append(ctx.text)
            tally.counts["strict"] += 1
        else:
            tally.saw(users[0], build.build_context("default", user_id=users[0]))
    except Exception as error:
        tally.failed(error)
    tally.took(start)


async def judged_async(tally: Tally, users: list[str], build: AsyncContextBuilder, prompt: str) -> None:
    """One call of the async builder."""
    start = time.monotonic()
    try:
        if prompt == "many":
            found = await build.build_contexts("default", [{"user_id": one} for one in users])
            for user, ctx in zip(users, found, strict=True):
                tally.saw(user, ctx)
        else:
            tally.saw(users[0], await build.build_context("default", user_id=users[0]))
    except Exception as error:
        tally.failed(error)
    tally.took(start)


@pytest.fixture
def proxy(redis_server: Server) -> Iterator[Proxy]:
    with proxy_to(redis_server.port) as proxy:
        yield proxy


class Misfortune:
    """Faults of every kind, and outages, until it ends."""

    def __init__(self, proxy: Proxy, chance: random.Random) -> None:
        self._proxy, self._chance, self._over = proxy, chance, threading.Event()
        proxy.fault, proxy.delay, proxy.place = self._fault, self._delay, chance.randrange
        self._outages = threading.Thread(target=self._cut, daemon=True)
        self._outages.start()

    def end(self) -> None:
        """No more faults; returns when the last of them is done."""
        self._over.set()
        self._outages.join()
        self._proxy.settle()

    def _fault(self) -> Fault | None:
        return None if self._over.is_set() or self._chance.random() > 0.1 else self._chance.choice(FAULTS)

    def _delay(self) -> float:
        return 0 if self._over.is_set() else self._chance.choice([*[0] * 40, 0.001, 0.01, 2 * TIMEOUT])

    def _cut(self) -> None:
        while not self._over.wait(self._chance.random() * 0.5):
            self._proxy.refusing = self._chance.random() < 0.5
            self._proxy.cut_all()
            time.sleep(0.01)
            self._proxy.refusing = False


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # redis-py's socket, half connected
@pytest.mark.parametrize(
    "times", [800, pytest.param(10_000, marks=[pytest.mark.heavy, pytest.mark.timeout(900)])], ids=["800", "10k"]
)
def test_random_faults(redis_server: Server, proxy: Proxy, tmp_path: Path, times: int) -> None:
    direct = redis_server.url.removesuffix("/0")
    filled = make(tmp_path, online=f"{direct}/1")  # so that a connection begins with an exchange of its own
    filled.materialize()
    filled.close()
    project = again(tmp_path, online=(direct, proxy.url), timeout=f"{TIMEOUT * 1000:.0f}ms")
    builder = project.builder()
    async_builder = project.async_builder()
    assert builder.build_context("default", user_id="u1", timeout=HANGS).text == text_of("u1")
    tally, misfortune = Tally(), Misfortune(proxy, random.Random(times))
    turns = iter(range(times))
    lock = threading.Lock()

    def next_call(chance: random.Random) -> tuple[list[str], str] | None:
        with lock:
            if next(turns, None) is None:
                return None
        return chance.sample(NAMES, 4), chance.choice(["default", "default", "many", "strict", "features"])

    def work(seed: int) -> None:
        chance = random.Random(seed)
        while call := next_call(chance):
            judged(tally, call[0], builder, call[1], project)

    async def work_async() -> None:
        async def one(seed: int) -> None:
            chance = random.Random(seed)
            while call := next_call(chance):
                await judged_async(tally, call[0], async_builder, call[1])

        await asyncio.gather(*(one(100 + number) for number in range(8)))

    def loop() -> None:
        with asyncio.Runner() as runner:
            runner.run(work_async())
            worked.set()
            calm.wait(HANGS)
            afterwards.extend(runner.run(texts_async(async_builder)))
            runner.run(async_builder.aclose())

    worked, calm = threading.Event(), threading.Event()
    afterwards: list[str] = []
    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    runner = threading.Thread(target=loop)
    for thread in (*threads, runner):
        thread.start()
    with forking():
        children = [in_child(lambda: _in_child(builder)) for _ in range(3)]
    codes = [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]
    for thread in threads:
        thread.join()
    worked.wait(900)
    misfortune.end()
    calm.set()
    runner.join()
    assert codes == [0] * 3
    assert tally.wrong == []
    assert tally.untyped == []
    assert tally.longest < TIMEOUT + SLACK
    assert tally.counts["right"] > 0, tally.counts
    assert tally.counts["unavailable"] > 0, tally.counts
    expected = [text_of(user) for user in NAMES]
    assert afterwards == expected
    assert [builder.build_context("default", user_id=user, timeout=HANGS).text for user in NAMES] == expected
    print(f"{times:,} calls: {dict(tally.counts)}, the longest {tally.longest * 1000:.0f} ms")
    project.close()


async def texts_async(builder: AsyncContextBuilder) -> list[str]:
    """The prompt of every user, without a fault."""
    return [(await builder.build_context("default", user_id=user, timeout=HANGS)).text for user in NAMES]


def _in_child(builder: ContextBuilder) -> bool:
    """Calls of a builder that was inherited in the middle of others' calls."""
    tally, deadline = Tally(), time.monotonic() + HANGS
    chance = random.Random(os.getpid())
    turn = 0
    while turn < 50 or (not tally.counts["right"] and time.monotonic() < deadline):
        judged(tally, chance.sample(NAMES, 4), builder, "default")
        turn += 1
    if tally.wrong or tally.untyped:
        print("in a forked child:", tally.wrong, tally.untyped, file=sys.stderr, flush=True)
    return not tally.wrong and not tally.untyped and tally.counts["right"] > 0
