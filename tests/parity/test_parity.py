"""The property that the project exists for (see the package's docstring), and proof that it can fail."""

from __future__ import annotations

import asyncio
import multiprocessing
import shutil
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, Phase, example, given, settings

from llmfeatures import Project
from tests.parity.faults import FAULTS, plant
from tests.parity.filler import fill
from tests.parity.world import World, everything, worlds

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.function_scoped_fixture]


@pytest.fixture(scope="module")
def other_process() -> Iterator[ProcessPoolExecutor]:
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield pool


@pytest.fixture(params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest) -> str:
    return "sqlite" if request.param == "sqlite" else request.getfixturevalue("redis_url")


def differences(world: World, online: str, pool: ProcessPoolExecutor, fault: str | None = None) -> list[Any]:
    """Every entity whose prompt, statuses or identity differ between any two of the ways to build it."""
    root = Path(tempfile.mkdtemp(prefix="parity"))
    try:
        world.write(root, online)
        pool.submit(fill, str(root), [world.before, world.ran], fault).result()
        undo = plant(fault, where="reader")
        try:
            return _differences(world, root)
        finally:
            undo()
    finally:
        shutil.rmtree(root)


def _differences(world: World, root: Path) -> list[Any]:
    project = Project.load(root, now=lambda: world.at)
    builder = project.builder()
    wanted = list(builder.plan("p").parameters)
    rows = [{name: keys[name] for name in wanted} for keys in world.entity_keys]
    try:
        ways = {
            "point": [seen(builder.build_context("p", **row)) for row in rows],
            "batch": [seen(ctx) for ctx in builder.build_contexts("p", rows)],
            "async": asyncio.run(_async(project, rows)),
            "as_of": [seen(ctx) for ctx in builder.build_contexts("p", rows, as_of=world.at)],
            "history": _history(project, rows, [world.at], "known"),
        }
        found = _unequal(rows, ways)
        alone = {"as_of, alone": [seen(builder.build_context("p", as_of=world.at, **rows[0]))]}
        found += _unequal(rows[:1], {**alone, "history": ways["history"][:1]})
        # online is the clock "known"; what a moment is in history, alone or among others, holds for both clocks
        moments = [world.before, world.at]
        among = _history(project, rows, moments, world.clock)
        for number, moment in enumerate(moments):
            contexts = builder.build_contexts("p", rows, as_of=moment, clock=world.clock)
            alone = {f"as_of {moment} {world.clock}": [seen(ctx) for ctx in contexts]}
            found += _unequal(rows, {**alone, "history": among[number::2]})
        return found
    finally:
        project.close()


def _unequal(rows: list[dict[str, Any]], ways: dict[str, list[Any]]) -> list[Any]:
    return [
        (row, name, ways[name][index], ways["history"][index])
        for index, row in enumerate(rows)
        for name in ways
        if ways[name][index] != ways["history"][index]
    ]


async def _async(project: Project, rows: list[dict[str, Any]]) -> list[Any]:
    builder = project.async_builder()
    try:
        return [seen(await builder.build_context("p", **row)) for row in rows]
    finally:
        await builder.aclose()


def _history(project: Project, rows: list[dict[str, Any]], moments: list[datetime], clock: str) -> list[Any]:
    """What history has of each row at each moment."""
    plan = project.prompts.plan("p")
    asked = [row for row in rows for _ in moments]
    spine = pa.table(
        {
            **{name: pa.array([row[name] for row in asked], dtype.arrow()) for name, dtype in plan.parameters.items()},
            "event_timestamp": pa.array(moments * len(rows), pa.timestamp("us", "UTC")),
        }
    )
    made = project.history("p", spine, clock=clock).read_all().to_pylist()
    assert [row["error"] for row in made] == [None] * len(asked)
    return [
        (row["prompt_id"], row["messages"], {**row["statuses"]}, {**row["timestamps"]}, row["version"]) for row in made
    ]


def seen(ctx: Any) -> Any:
    """What must be equal: the bytes, and what is said about each feature."""
    return (
        ctx.prompt_id,
        ctx.messages,
        {name: found.status for name, found in ctx.features.items()},
        {name: found.event_timestamp for name, found in ctx.features.items()},
        ctx.version,
    )


@settings(max_examples=8, deadline=None, suppress_health_check=QUIET)
@example(world=everything())
@given(world=worlds())
def test_online_and_historical_prompts_are_the_same_bytes(
    world: World, online: str, other_process: ProcessPoolExecutor
) -> None:
    assert differences(world, online, other_process) == []


@pytest.mark.heavy
@settings(max_examples=600, deadline=None, suppress_health_check=QUIET)
@given(world=worlds())
@pytest.mark.timeout(2400)
def test_parity_at_length(world: World, online: str, other_process: ProcessPoolExecutor) -> None:
    assert differences(world, online, other_process) == []


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault: str, online: str, other_process: ProcessPoolExecutor) -> None:
    """Each by `everything` alone; the heavy one shows that random worlds find them too."""

    @settings(max_examples=50, deadline=None, database=None, phases=[Phase.explicit, Phase.generate])
    @example(world=everything())
    @given(world=worlds())
    def parity(world: World) -> None:
        assert differences(world, online, other_process, fault) == []

    with pytest.raises(AssertionError, match=r"assert \[.+\] == \[\]"):
        parity()


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("fault", FAULTS)
def test_random_worlds_see_a_planted_fault(fault: str, other_process: ProcessPoolExecutor) -> None:
    @settings(max_examples=2_000, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=QUIET)
    @given(world=worlds())
    def parity(world: World) -> None:
        assert differences(world, "sqlite", other_process, fault) == []

    with pytest.raises(AssertionError):
        parity()
