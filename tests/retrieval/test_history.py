"""Historical prompts with documents: against the rule, against the prompt that is built online, and one read by eye."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings

from llmfeatures import Project
from tests.retrieval.world import LAST, MOMENT, World, moment, worlds

QUIET = [HealthCheck.too_slow, HealthCheck.data_too_large]


@contextmanager
def opened(world: World, *, materialized: bool = True) -> Iterator[Project]:
    """The world's project, materialized by its moment; its clock stands there."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "p"
        world.write(root)
        project = Project.load(root, now=lambda: moment(world.at))
        try:
            if materialized:
                project.materialize()
            yield project
        finally:
            project.close()


def rows_of(project: Project, world: World, moments: Sequence[int]) -> list[dict[str, Any]]:
    """Rows of history: of each user each moment."""
    asked = [(user, at) for user in world.users for at in moments]
    spine = pa.table(
        {
            "user_id": pa.array([user for user, _ in asked], pa.string()),
            "event_timestamp": pa.array([moment(at) for _, at in asked], MOMENT),
            "question": [world.question] * len(asked),
            "kind": [world.kind] * len(asked),
        }
    )
    return project.history("p", spine).read_all().to_pylist()


def check_rule(world: World) -> None:
    """Each row has the documents that the rule gives it."""
    moments = range(-1, LAST + 14)
    with opened(world) as project:
        rows = iter(rows_of(project, world, moments))
        for user in world.users:
            for at in moments:
                row = next(rows)
                assert row["error"] is None
                listed = [(one["id"], one["score"]) for one in row["documents"]]
                assert listed == world.expected(user, at), (user, at)
                assert {one["tier"] for one in row["documents"]} <= {"exact"}


def outcome(ctx: Any) -> Any:
    """What must be equal: the bytes, and what is said of each document."""
    documents = {
        name: [one.model_dump(mode="json", exclude={"features"}) for one in found]
        for name, found in ctx.documents.items()
    }
    features = {name: [one.features for one in found] for name, found in ctx.documents.items()}
    retrievals = {name: one.model_dump(mode="json") for name, one in ctx.manifest.retrievals.items()}
    return ctx.prompt_id, ctx.messages, ctx.values, documents, features, retrievals, ctx.version


def check_parity(world: World) -> None:
    """Online at its moment, as of it, and in history, alone and together: the same."""
    with opened(world) as project:
        builder = project.builder()
        asked = [{"user_id": user, "question": world.question, "kind": world.kind} for user in world.users]
        online = [outcome(builder.build_context("p", **row)) for row in asked]
        at = moment(world.at)
        assert [outcome(one) for one in builder.build_contexts("p", asked)] == online
        assert [outcome(one) for one in builder.build_contexts("p", asked, as_of=at)] == online
        assert outcome(builder.build_context("p", as_of=at, **asked[0])) == online[0]
        among = rows_of(project, world, [world.at, 3, world.at + 1])[::3]
        for row, (identity, messages, _, documents, *_) in zip(among, online, strict=True):
            assert (row["prompt_id"], row["messages"]) == (identity, messages)
            assert row["documents"] == [
                {key: one[key] for key in ("id", "version", "score", "tier")}
                for found in documents.values()
                for one in found
            ]


@settings(max_examples=3, deadline=None, suppress_health_check=QUIET)
@given(world=worlds())
def test_no_row_sees_another_version_than_the_one_of_its_moment(world: World) -> None:
    check_rule(world)


@pytest.mark.heavy
@pytest.mark.timeout(2400)
@settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
@given(world=worlds())
def test_the_rule_at_length(world: World) -> None:
    check_rule(world)


@settings(max_examples=3, deadline=None, suppress_health_check=QUIET)
@given(world=worlds())
def test_online_and_historical_prompts_are_the_same(world: World) -> None:
    check_parity(world)


@pytest.mark.heavy
@pytest.mark.timeout(2400)
@settings(max_examples=300, deadline=None, suppress_health_check=QUIET)
@given(world=worlds())
def test_parity_at_length(world: World) -> None:
    check_parity(world)
