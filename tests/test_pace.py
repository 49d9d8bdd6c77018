"""`--rate`: never more rows than it allows, but for one portion; by a clock of the test's own."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfeatures.errors import RequestError
from llmfeatures.pace import Pace
from tests.projects import NOW, at, make_project, segment
from tests.test_materialize import load, values


@dataclass
class Clock:
    """Time goes by when somebody sleeps, or works."""

    now: float = 1000.0

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


@given(
    rate=st.floats(0.01, 1e7),
    batch=st.integers(1, 20_000),
    work=st.lists(st.tuples(st.integers(1, 20_000), st.floats(0, 30)), min_size=1, max_size=30),
)
def test_never_more_rows_than_the_rate_but_for_one_portion(
    rate: float, batch: int, work: list[tuple[int, float]]
) -> None:
    clock = Clock()
    pace = Pace(rate=rate, clock=lambda: clock.now, sleep=clock.sleep)
    portion = pace.portion(batch)
    assert 1 <= portion <= batch
    sent: list[tuple[float, int]] = []
    for wanted, seconds in work:
        rows = min(wanted, portion)
        pace.wait(rows)
        sent.append((clock.now, rows))
        clock.now += seconds
    # of every stretch of time, not of the whole run alone: what was not used is lost
    for first in range(len(sent)):
        for last in range(first, len(sent)):
            rows = sum(count for _, count in sent[first : last + 1])
            seconds = sent[last][0] - sent[first][0]
            assert rows <= (rate * seconds + portion) * (1 + 1e-6)


@given(st.floats(0.01, 1e6), st.integers(1, 30))
def test_a_writer_that_takes_no_time_keeps_the_rate(rate: float, portions: int) -> None:
    clock = Clock()
    pace = Pace(rate=rate, clock=lambda: clock.now, sleep=clock.sleep)
    rows = pace.portion(10_000)
    for _ in range(portions):
        pace.wait(rows)
    assert math.isclose(clock.now - 1000, rows * (portions - 1) / rate, rel_tol=1e-6, abs_tol=1e-6)


def test_no_rate_is_no_limit() -> None:
    def refuse(seconds: float) -> None:
        raise AssertionError(seconds)

    pace = Pace(sleep=refuse)
    assert pace.portion(10_000) == 10_000
    for _ in range(10):
        pace.wait(10_000)


@pytest.mark.parametrize("rate", [0, -1, float("nan"), float("inf"), True, "fast"])
def test_a_rate_that_is_none_is_refused(tmp_path: Path, rate: Any) -> None:
    with pytest.raises(RequestError, match="greater than zero"):
        Pace(rate=rate)
    make_project(tmp_path, segments=[segment("a", "x", at(1))])
    with pytest.raises(RequestError, match="greater than zero"):
        load(tmp_path).materialize(rate=rate)


def test_a_run_at_a_rate_writes_the_same(tmp_path: Path) -> None:
    users = [f"u{number}" for number in range(25)]
    make_project(tmp_path, segments=[segment(user, user, at(1)) for user in users])
    project = load(tmp_path)
    told: list[int] = []
    report = project.materialize("segment", rate=100, progress=lambda view, done, total: told.append(done))
    assert (report.views[0].until, report.views[0].keys_written) == (NOW, 25)
    assert values(project, users) == [("present", user) for user in users]
    assert told == sorted(told)
    assert {10, 20, 25} <= set(told)  # in portions of a tenth of a second
