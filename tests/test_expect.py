"""`expect` on a view: a bad batch writes nothing, keeps the old values, and is heard of; ``--accept`` writes it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfeatures import Project
from llmfeatures.cli.app import run
from llmfeatures.errors import DefinitionError, ExpectationError
from llmfeatures.expect import wrong_keys, wrong_nulls
from llmfeatures.schema import Entity, Expect, FeatureView
from tests.projects import SEGMENTS, at, make_project, segment, watched, write_rows
from tests.test_materialize import load, values

PYTHON = """
from llmfeatures import Entity, Expect, FeatureView, ParquetSource, Registry
user = Entity("user", join_key="user_id")
source = ParquetSource("data/segment.parquet", created_timestamp="created_timestamp")
registry = Registry([
    FeatureView("segment", user, source, {"segment": "str"}, expect=Expect(EXPECT)),
    FeatureView("activity", user, "data/watched.parquet", {"watched": "int"}),
])
"""


@pytest.fixture(params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest) -> str:
    return "sqlite" if request.param == "sqlite" else request.getfixturevalue("redis_url")


@pytest.fixture
def opened() -> Iterator[Callable[[Path], Project]]:
    """Projects that are closed: the errors that a report holds would keep their connections."""
    with contextlib.ExitStack() as held:
        yield lambda root: held.enter_context(contextlib.closing(load(root)))


def rows(count: int, *, nulls: int = 0, hour: int = 1) -> list[dict[str, Any]]:
    return [segment(f"u{user}", None if user < nulls else f"h{hour}", at(hour), at(hour)) for user in range(count)]


def made(
    root: Path, expect: dict[str, Any], *, online: str = "sqlite", language: str = "yaml", count: int = 20
) -> Path:
    """A project whose view ``segment`` has 20 users and expects something."""
    make_project(root, segments=rows(count), counts=[watched("u0", 1, at(1))], online=online)
    if language == "yaml":
        path = root / "features.yaml"
        path.write_text(path.read_text().replace("{name: segment,", f"{{name: segment, expect: {json.dumps(expect)},"))
    else:
        options = ", ".join(f"{name}={value!r}" for name, value in expect.items())
        (root / "features.py").write_text(PYTHON.replace("EXPECT", options))
        config = root / "llmfeatures.toml"
        config.write_text(config.read_text().replace("features.yaml", "features.py"))
    return root


BAD: dict[str, tuple[dict[str, Any], list[dict[str, Any]], str]] = {
    "min_rows": (
        {"min_rows": 15},
        rows(14, hour=2),
        "min_rows: the source has 14 entity keys, and 15 are expected",
    ),
    "max_drop": (
        {"max_drop": 0.25},
        rows(14, hour=2),
        "max_drop: the source has 14 entity keys, 30.00% less than the 20 of the last run, and a drop of at most 25",
    ),
    "max_nulls": (
        {"max_nulls": 0.1},
        rows(20, nulls=3, hour=2),
        "max_nulls: feature 'segment' is null in 3 of 20 rows (15.00%), and at most 10.00% is expected",
    ),
    "max_nulls of one": (
        {"max_nulls": {"segment": 0}},
        rows(20, nulls=1, hour=2),
        "max_nulls: feature 'segment' is null in 1 of 20 rows (5.00%), and at most 0.00% is expected",
    ),
}


@pytest.mark.parametrize("full", [False, True], ids=["incremental", "full"])
@pytest.mark.parametrize("language", ["yaml", "python"])
@pytest.mark.parametrize("case", BAD)
def test_a_bad_batch_writes_nothing(
    tmp_path: Path, opened: Callable[[Path], Project], online: str, case: str, language: str, full: bool
) -> None:
    expect, bad, sentence = BAD[case]
    made(tmp_path, expect, online=online, language=language)
    users = [f"u{user}" for user in range(20)]
    project = opened(tmp_path)
    project.materialize(until=at(1))
    write_rows(tmp_path / "data/segment.parquet", bad, SEGMENTS)
    before = project.online.meta()
    report = project.materialize(full=full, check=False)
    (failure,) = report.failures
    assert isinstance(failure.error, ExpectationError)
    assert sentence in failure.message
    assert "nothing of it was written and the old values stay" in failure.message
    assert "--accept" in failure.message
    assert [one.view for one in report.views] == ["activity"]
    assert values(project, users) == [("present", "h1")] * 20
    meta = project.online.meta()
    assert before is not None
    assert meta is not None
    assert meta.views["segment"] == before.views["segment"]
    assert [one.message for one in project.state.failures("segment")] == [failure.message]
    with pytest.raises(ExpectationError, match="written: activity"):
        project.materialize(full=full)

    accepted = project.materialize("segment", full=full, accept=True)
    assert accepted.failures == ()
    assert [value for _, value in values(project, users)].count("h2") == sum(row["segment"] == "h2" for row in bad)
    if case != "min_rows":  # which still holds no more
        assert project.materialize("segment").failures == ()


@pytest.mark.parametrize(
    "expect", [{"min_rows": 20}, {"max_drop": 0}, {"max_nulls": 0.15}, {"max_nulls": {"segment": 0.15}}]
)
def test_what_is_as_expected_is_written(tmp_path: Path, expect: dict[str, Any]) -> None:
    made(tmp_path, expect)
    load(tmp_path).materialize(until=at(1))
    write_rows(tmp_path / "data/segment.parquet", rows(20, nulls=3, hour=2), SEGMENTS)
    project = load(tmp_path)
    assert project.materialize("segment").views[0].keys_written == 20
    assert values(project, ["u2", "u3"]) == [("null", None), ("present", "h2")]


def test_a_first_run_has_no_drop_and_a_run_without_new_rows_no_nulls(tmp_path: Path) -> None:
    made(tmp_path, {"max_drop": 0, "max_nulls": 0}, count=3)
    project = load(tmp_path)
    assert project.materialize("segment").views[0].keys_written == 3
    assert project.materialize("segment").views[0].keys_written == 0


def test_an_empty_source_is_a_drop(tmp_path: Path) -> None:
    made(tmp_path, {"max_drop": 0.5})
    load(tmp_path).materialize()
    write_rows(tmp_path / "data/segment.parquet", [], SEGMENTS)
    project = load(tmp_path)
    with pytest.raises(ExpectationError, match=r"has 0 entity keys, 100\.00% less than the 20"):
        project.materialize("segment", full=True)
    assert values(project, ["u0"]) == [("present", "h1")]


def test_a_drop_is_against_the_last_run_that_counted_not_the_best(tmp_path: Path) -> None:
    made(tmp_path, {"max_drop": 0.3})
    project = load(tmp_path)
    for hour, count in ((1, 20), (2, 15), (3, 11)):
        write_rows(tmp_path / "data/segment.parquet", rows(count, hour=hour), SEGMENTS)
        assert project.materialize("segment", until=at(hour)).failures == ()
    assert [one.keys for one in project.runs("segment")] == [20, 15, 11]


def test_expectations_are_of_what_a_run_takes(tmp_path: Path) -> None:
    """Keys that come after ``until`` do not count."""
    made(tmp_path, {"min_rows": 20})
    with pytest.raises(ExpectationError, match="has 0 entity keys"):
        load(tmp_path).materialize("segment", until=at(0))


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, {"max_nulls": {"segment": 0.1}})
    where = ["--project", str(tmp_path)]
    assert run(["materialize", *where]) == 0
    write_rows(tmp_path / "data/segment.parquet", rows(20, nulls=5, hour=2), SEGMENTS)
    capsys.readouterr()
    assert run(["materialize", "--full", "--json", *where]) == 1
    out, err = capsys.readouterr()
    printed = json.loads(out)
    (failure,) = printed["failures"]
    assert (failure["view"], failure["error"]) == ("segment", "ExpectationError")
    assert [one["view"] for one in printed["views"]] == ["activity"]
    assert "is null in 5 of 20 rows (25.00%)" in " ".join(err.split())
    assert run(["status", "--json", *where]) == 0
    (view,) = [one for one in json.loads(capsys.readouterr().out)["views"] if one["view"] == "segment"]
    (shown,) = view["failures"]
    assert (shown["verb"], shown["message"]) == ("materialize", failure["message"])
    assert run(["materialize", "segment", "--full", "--accept", *where]) == 0
    capsys.readouterr()
    assert run(["status", "--json", *where]) == 0
    (view,) = [one for one in json.loads(capsys.readouterr().out)["views"] if one["view"] == "segment"]
    assert view["failures"] == []  # a complete run came after them
    with contextlib.closing(Project.load(tmp_path)) as project:
        assert values(project, ["u0", "u19"]) == [("null", None), ("present", "h2")]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({}, "expects nothing"),
        ({"min_rows": -1}, "at least 0"),
        ({"min_rows": True}, "at least 0"),
        ({"max_drop": 1.01}, "max_drop is a share from 0 to 1"),
        ({"max_drop": float("nan")}, "max_drop is a share from 0 to 1"),
        ({"max_nulls": -0.1}, "max_nulls is a share from 0 to 1"),
        ({"max_nulls": {"segment": 2}}, "max_nulls of segment is a share"),
        ({"max_nuls": 0.1}, "max_nuls"),
    ],
)
def test_an_expectation_that_is_none(options: dict[str, Any], words: str) -> None:
    with pytest.raises(DefinitionError, match=words):
        Expect(**options)


def test_an_expectation_of_a_feature_that_is_not_there() -> None:
    user = Entity("user", join_key="user_id")
    with pytest.raises(DefinitionError, match="did you mean 'segment'"):
        FeatureView("segment", user, "x.parquet", {"segment": "str"}, expect={"max_nulls": {"segmet": 0.1}})


SHARES = st.one_of(st.none(), st.floats(0, 1))
COUNTS = st.integers(0, 10**6)


@given(least=st.one_of(st.none(), COUNTS), drop=SHARES, keys=COUNTS, before=st.one_of(st.none(), COUNTS))
def test_wrong_keys_is_the_plain_rule(least: int | None, drop: float | None, keys: int, before: int | None) -> None:
    expect = Expect(min_rows=least, max_drop=drop, max_nulls=1)
    too_few = least is not None and keys < least
    gone = before - keys if before else 0
    dropped = drop is not None and before is not None and gone > 0 and keys < before * (1 - drop)
    found = wrong_keys("v", expect, keys, before)
    assert (found is not None) == (too_few or dropped)
    if found is not None:
        assert ("min_rows" if too_few else "max_drop") in found


@given(
    most=st.one_of(SHARES, st.dictionaries(st.sampled_from("abc"), st.floats(0, 1))),
    rows=COUNTS,
    data=st.data(),
)
def test_wrong_nulls_is_the_plain_rule(most: Any, rows: int, data: st.DataObject) -> None:
    nulls = {name: data.draw(st.integers(0, rows)) for name in "abc"}
    expect = Expect(max_nulls=most, min_rows=0)
    limits = {name: most.get(name) if isinstance(most, dict) else most for name in "abc"}
    wrong = [name for name in "abc" if limits[name] is not None and nulls[name] > limits[name] * rows]
    found = wrong_nulls("v", expect, rows, nulls)
    assert (found is not None) == bool(wrong)
    if found is not None:
        assert f"feature {wrong[0]!r}" in found
