"""The timeline of a prompt with documents, against the prompt at every microsecond that can matter."""

from __future__ import annotations

import pytest
from hypothesis import given, settings

from tests.retrieval.test_history import QUIET, opened, rows_of
from tests.retrieval.world import LAST, World, moment, worlds

MOMENTS = range(-2, LAST + 18)


def check(world: World) -> None:
    """Between two entries the prompt is the first one's, byte for byte; at an entry it is another one."""
    with opened(world) as project:
        rows = rows_of(project, world, MOMENTS)
        for place, user in enumerate(world.users):
            own = rows[place * len(MOMENTS) : (place + 1) * len(MOMENTS)]
            identities = [(row["prompt_id"], row["error"]) for row in own]
            expected = [
                (moment(at), *identity)
                for at, identity, before in zip(MOMENTS, identities, [None, *identities], strict=False)
                if identity != before
            ]
            made = project.timeline(
                "p",
                user_id=user,
                question=world.question,
                kind=world.kind,
                since=moment(MOMENTS[0]),
                until=moment(MOMENTS[-1]),
            )
            assert [(one.at, one.prompt_id, one.error) for one in reversed(made.entries)] == expected


@settings(max_examples=2, deadline=None, suppress_health_check=QUIET)
@given(world=worlds(dated=False))
def test_between_two_entries_the_prompt_is_the_first_one_s(world: World) -> None:
    check(world)


@pytest.mark.heavy
@pytest.mark.timeout(2400)
@settings(max_examples=200, deadline=None, suppress_health_check=QUIET)
@given(world=worlds(dated=False))
def test_timelines_at_length(world: World) -> None:
    check(world)
