"""A row that is parsed at once is what it is when it is parsed value by value, whatever the store holds."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfeatures import Entity, FeatureView, Registry
from llmfeatures.plan import FeaturePlan, ReadResult, plan_references
from llmfeatures.ports import Meta

USER = Entity("user", "user_id")
REGISTRY = Registry(
    [
        FeatureView("a", USER, "a.parquet", {"word": "str", "count": "int"}),
        FeatureView("b", USER, "b.parquet", {"share": "float", "flag": "bool"}),
    ]
)
FEATURES = ["count", "share", "word", "flag"]
TEXTS = st.one_of(
    st.sampled_from(
        ['"x"', "1", "1.5", "true", "null", "", "1,2", '"a","b"', "[1", "2]", "[", '"a', 'b"', "{}", "1e400", "\ud800"]
    ),
    st.text(max_size=4),
)
STAMPS = st.one_of(
    st.sampled_from(["2026-05-07T22:00:00.000000Z|-|2026-05-07T23:00:00.000000Z", "2026-05-07T22:00:00.000000Z", "x"]),
    st.datetimes(datetime(1, 1, 1), datetime(9999, 12, 31)).map(
        lambda one: f"{one.isoformat(timespec='microseconds')}Z|-|2026-05-07T23:00:00.000000Z"
    ),
)


def answered(plan: FeaturePlan, answer: list[str | None]) -> ReadResult:
    """What the plan makes of one entity's fields, in a store whose meta record knows no view."""
    read = plan.read([["user_id:8a2f"]])
    next(read)
    try:
        read.send([list(answer)])
        read.send(Meta(format=1, lifetime="x", views={}))
    except StopIteration as done:
        return done.value
    raise AssertionError("the plan reads once, and the meta record when something is absent")


@pytest.fixture(scope="module")
def plan() -> FeaturePlan:
    """All four features, two of each view and not in the views' order."""
    made = plan_references(REGISTRY, FEATURES)
    assert made.types == [int, float, str, bool]
    assert made.fields == (("count", "share", "word", "flag", "@a", "@b"),)
    return made


@given(values=st.lists(st.none() | TEXTS, min_size=4, max_size=4), stamps=st.tuples(STAMPS, STAMPS))
def test_a_row_parsed_at_once_is_the_row_parsed_one_by_one(
    plan: FeaturePlan, values: list[str | None], stamps: tuple[str, str]
) -> None:
    one_by_one = replace(plan)
    object.__setattr__(one_by_one, "types", None)
    answer = [*values, *stamps]
    assert answered(plan, answer) == answered(one_by_one, answer)


def test_a_whole_row(plan: FeaturePlan) -> None:
    old, new = (f"2026-05-07T{hour}:00:00.000000Z|-|2026-05-07T23:00:00.000000Z" for hour in (21, 22))
    result = answered(plan, ["47", "0.5", '"dr\\u00e4ma"', "true", old, new])
    hours = {21: datetime(2026, 5, 7, 21, tzinfo=UTC), 22: datetime(2026, 5, 7, 22, tzinfo=UTC)}
    assert result.slots == [
        [
            (47, "present", hours[21]),
            (0.5, "present", hours[22]),
            ("dräma", "present", hours[21]),
            (True, "present", hours[22]),
        ]
    ]
    assert result.newest == hours[22]
