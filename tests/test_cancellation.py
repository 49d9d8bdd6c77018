"""Builds that are given up, behind a proxy that delays: whoever asks next never sees another user's prompt."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from pathlib import Path

import pytest

from llmfeatures import Project
from tests.online.callers import USERS, again, make, text_of
from tests.online.proxy import proxy_to
from tests.online.test_safety import forking, in_child

BUILDS = int(os.environ.get("LLMFEATURES_CANCELLED_BUILDS", "100000"))
"""How many builds the long run cancels."""
STRANGERS = 10


class Builds:
    """Builds of one async builder, of known users and unknown ones; each is checked that comes to an end."""

    def __init__(self, project: Project) -> None:
        self.builder = project.async_builder()
        self.finished = 0

    async def one(self, number: int) -> None:
        """One build to its end."""
        user = f"u{number}"
        ctx = await self.builder.build_context("default", user_id=user)
        assert ctx.text == (text_of(user) if number < USERS else f"{user} is unknown, watched 0")
        assert ctx.features["watched"].status == ("present" if number < USERS else "missing")
        assert not ctx.manifest.degraded
        self.finished += 1

    async def many(self, numbers: range) -> bool:
        """Builds one after another, in a forked child."""
        for number in numbers:
            await self.one(number % (USERS + STRANGERS))
        return True

    async def cancelled(self, times: int, chance: random.Random, *, longest: float, tasks: int = 8) -> None:
        """Cancel so many builds at random: after some turns of the event loop, or after up to ``longest`` seconds.
        Every fourth is followed by one that is not."""
        turns = iter(range(times))

        async def work() -> None:
            for turn in turns:
                task = asyncio.ensure_future(self.one(chance.randrange(USERS + STRANGERS)))
                if longest and chance.random() < 0.3:
                    await asyncio.sleep(chance.random() * longest)
                else:
                    for _ in range(chance.randrange(12)):
                        await asyncio.sleep(0)
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                if turn % 4 == 0:
                    await self.one(turn % (USERS + STRANGERS))

        await asyncio.gather(*(work() for _ in range(tasks)))


def all_numbers() -> range:
    return range(USERS + STRANGERS)


@pytest.mark.parametrize(
    "times", [2_000, pytest.param(20_000, marks=[pytest.mark.heavy, pytest.mark.timeout(900)])], ids=["2k", "20k"]
)
async def test_cancelled_builds_behind_a_proxy_that_delays(tmp_path: Path, redis_url: str, times: int) -> None:
    make(tmp_path, online=redis_url).materialize()
    chance = random.Random(1)
    with proxy_to(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        proxy.delay = lambda: chance.choice([0, 0, 0.0005, 0.001])
        project = again(tmp_path, online=(redis_url.removesuffix("/0"), proxy.url), timeout="20s")
        builds = Builds(project)
        await builds.cancelled(times, chance, longest=0.003)
        assert builds.finished >= times / 4
        await builds.builder.aclose()


@pytest.mark.parametrize(
    "times", [4_000, pytest.param(BUILDS, marks=[pytest.mark.heavy, pytest.mark.timeout(7200)])], ids=["4k", "many"]
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
    assert builds.finished >= times / 4
    for number in all_numbers():
        await builds.one(number)
    await builds.builder.aclose()
