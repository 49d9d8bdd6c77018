"""Builds that are given up, behind a proxy that delays: whoever asks next never sees another user's prompt."""

from __future__ import annotations

import asyncio
import os
import random
import time
from pathlib import Path

import pytest

from llmfeatures import Project, PromptContext
from tests.online.callers import HANGS, USERS, again, make, text_of
from tests.online.proxy import proxy_to
from tests.online.test_safety import forking, in_child

BUILDS = 1_000_000
"""How many builds the long run cancels: six minutes of an idle machine."""
STRANGERS = 10


class Builds:
    """Builds of one async builder, of known users and unknown ones; each is checked that comes to an end."""

    def __init__(self, project: Project) -> None:
        self.builder = project.async_builder()
        self.finished = 0
        self.given_up = 0
        self.longest = 0.0

    async def one(self, number: int) -> None:
        """One build to its end."""
        user = f"u{number}"
        start = time.monotonic()
        _check(await self.builder.build_context("default", user_id=user), number)
        self._ended(start)

    async def several(self, number: int) -> None:
        """One call of builds to its end."""
        numbers = [(number + step) % (USERS + STRANGERS) for step in range(4)]
        start = time.monotonic()
        found = await self.builder.build_contexts("default", [{"user_id": f"u{one}"} for one in numbers])
        for ctx, one in zip(found, numbers, strict=True):
            _check(ctx, one)
        self._ended(start)

    def _ended(self, start: float) -> None:
        self.finished += 1
        self.longest = max(self.longest, time.monotonic() - start)

    async def many(self, numbers: range) -> bool:
        """Builds one after another, in a forked child."""
        for number in numbers:
            await self.one(number % (USERS + STRANGERS))
        return True

    async def cancelled(self, times: int, chance: random.Random, *, longest: float, tasks: int = 8) -> None:
        """Cancel so many builds at random, none of which has ended: after some turns of the event loop, or after up to
        ``longest`` seconds. Every fourth is followed by one that is not."""
        until = self.given_up + times

        async def work() -> None:
            while self.given_up < until:
                number = chance.randrange(USERS + STRANGERS)
                build = self.several if chance.random() < 0.1 else self.one
                task = asyncio.ensure_future(build(number))
                if longest and chance.random() < 0.3:
                    await asyncio.sleep(chance.random() * longest)
                else:
                    for _ in range(chance.randrange(6)):
                        await asyncio.sleep(0)
                task.cancel()
                try:
                    await task
                except asyncio.CancelledError:
                    self.given_up += 1
                if chance.random() < 0.25:
                    await self.one(number)

        await asyncio.gather(*(work() for _ in range(tasks)))

    def told(self) -> str:
        """What happened, in a few words."""
        return f"{self.given_up:,} cancelled, {self.finished:,} right, the longest {self.longest * 1000:.0f} ms"


def _check(ctx: PromptContext, number: int) -> None:
    user = f"u{number}"
    assert ctx.text == (text_of(user) if number < USERS else f"{user} is unknown, watched 0")
    assert ctx.features["watched"].status == ("present" if number < USERS else "missing")
    assert not ctx.manifest.degraded


def all_numbers() -> range:
    return range(USERS + STRANGERS)


@pytest.mark.parametrize(
    "times", [1_000, pytest.param(20_000, marks=[pytest.mark.heavy, pytest.mark.timeout(900)])], ids=["1k", "20k"]
)
async def test_cancelled_builds_behind_a_proxy_that_delays(tmp_path: Path, redis_url: str, times: int) -> None:
    make(tmp_path, online=redis_url).materialize()
    chance = random.Random(1)
    with proxy_to(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        proxy.delay = lambda: chance.choice([0, 0, 0.0005, 0.001])
        project = again(tmp_path, online=(redis_url.removesuffix("/0"), proxy.url), timeout="20s")
        builds = Builds(project)
        await builds.cancelled(times, chance, longest=0.003)
        assert builds.given_up >= times
        assert builds.finished >= times / 5
        assert builds.longest < HANGS
        print(builds.told())
        await builds.builder.aclose()


@pytest.mark.parametrize(
    "times", [4_000, pytest.param(BUILDS, marks=[pytest.mark.heavy, pytest.mark.timeout(3600)])], ids=["4k", "million"]
)
async def test_cancelled_builds_with_forks_between(tmp_path: Path, redis_url: str, times: int) -> None:
    project = make(tmp_path, online=redis_url, timeout="20s")
    project.materialize()
    project.close()
    builds, chance, codes = Builds(project), random.Random(2), list[int]()
    for _ in range(2):
        running = asyncio.ensure_future(builds.cancelled(times // 2, chance, longest=0.0005))
        await asyncio.sleep(0.05)
        with forking():
            child = in_child(lambda: asyncio.run(builds.many(all_numbers())))
        await running
        codes.append(os.waitstatus_to_exitcode((await asyncio.to_thread(os.waitpid, child, 0))[1]))
    assert codes == [0, 0]
    assert builds.given_up >= times
    assert builds.finished >= times / 5
    assert builds.longest < HANGS
    print(builds.told())
    for number in all_numbers():
        await builds.one(number)
    await builds.builder.aclose()
