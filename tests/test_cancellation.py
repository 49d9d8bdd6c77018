"""Builds that are given up, behind a proxy that delays: whoever asks next never sees another user's prompt."""

from __future__ import annotations

import asyncio
import contextlib
import random
from pathlib import Path

import pytest

from llmfeatures import Project
from tests.online.proxy import proxy_to
from tests.projects import NOW, at, make_project, watched

USERS = 40
PROMPT = "---\nfeatures:\n  watched: {default: 0}\n---\n{{ user_id }} watched {{ watched }}"


@pytest.mark.parametrize(
    "times", [3_000, pytest.param(100_000, marks=[pytest.mark.heavy, pytest.mark.timeout(900)])], ids=["3k", "100k"]
)
async def test_cancelled_builds_leave_no_foreign_value(tmp_path: Path, redis_url: str, times: int) -> None:
    make_project(
        tmp_path,
        counts=[watched(f"u{number}", number, at(1)) for number in range(USERS)],
        prompts={"p": PROMPT},
        online=redis_url,
    )
    Project.load(tmp_path, now=lambda: NOW).materialize()
    chance = random.Random(1)
    with proxy_to(int(redis_url.rpartition(":")[2].partition("/")[0])) as proxy:
        proxy.delay = lambda: chance.choice([0, 0, 0.0005, 0.001])
        config = (tmp_path / "llmfeatures.toml").read_text()
        (tmp_path / "llmfeatures.toml").write_text(config.replace(redis_url, proxy.url).replace('"5s"', '"20s"'))
        builder = Project.load(tmp_path, now=lambda: NOW).async_builder()
        finished: list[int] = []

        async def build(number: int) -> None:
            """One build, of a known user or an unknown one."""
            known = number < USERS
            ctx = await builder.build_context("p", user_id=f"u{number}")
            assert ctx.text == f"u{number} watched {number if known else 0}"
            assert ctx.features["watched"].status == ("present" if known else "missing")
            finished.append(number)

        turns = iter(range(times))

        async def work() -> None:
            for turn in turns:
                task = asyncio.ensure_future(build(chance.randrange(USERS + 10)))
                await asyncio.sleep(chance.choice([0, 0, chance.random() * 0.003]))
                task.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await task
                if turn % 4 == 0:
                    await build(turn % (USERS + 10))

        await asyncio.gather(*(work() for _ in range(8)))
        assert len(finished) >= times / 4
        await builder.aclose()
