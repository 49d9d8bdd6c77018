"""Each row of a history by the release that was active at its moment."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures import Project
from llmfeatures.cli.app import run
from llmfeatures.errors import ReleaseError, RequestError, UnknownNameError
from tests.projects import SEGMENTS, at, make_project, segment, watched, write_rows

ONE = "---\nfeatures: {segment: {default: unknown}}\n---\nFirst: {{ segment }}\n"
TWO = (
    "---\nfeatures: {watched: {default: 0}}\ninputs: {tone: {type: str, default: warm}}\n---\n"
    "Second: {{ watched }} of {{ user_id | or_else('nobody') }}, {{ tone }}\n"
)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_project(
        tmp_path,
        segments=[segment("u1", "power", at(day=1)), segment("u1", "casual", at(day=5))],
        counts=[watched("u1", 3, at(day=1)), watched("u2", 4, at(day=4))],
        prompts={"home": ONE},
    )


def applied(root: Path, when: datetime, **prompts: str | None) -> str:
    """The release of these prompt files, active from a moment on."""
    for name, text in prompts.items():
        path = root / "prompts" / f"{name}.prompt.j2"
        if text is None:
            path.unlink()
        else:
            path.write_text(text)
    project = Project.load(root, now=lambda: when)
    done = project.apply()
    project.close()
    return done.release.id


def rows(*moments: datetime | None) -> pa.Table:
    return pa.table(
        {
            "user_id": pa.array(["u1" if number % 2 == 0 else "u2" for number in range(len(moments))]),
            "event_timestamp": pa.array(list(moments), pa.timestamp("us", "UTC")),
            "tone": pa.array(["dry"] * len(moments)),
            "note": pa.array([f"n{number}" for number in range(len(moments))]),
        }
    )


def test_each_row_has_the_prompt_of_its_time(root: Path) -> None:
    one = applied(root, at(day=2), home=ONE)
    two = applied(root, at(day=4), home=TWO)
    # the moments are in no order, and that of an activation counts as its own
    spine = rows(at(day=5), at(day=3), at(day=2), at(day=4), at(day=1), at(day=3), None, at(day=6))
    project = Project.load(root)
    made = project.history("home", spine, release="then")
    found = made.read_all()
    alone = {one: project.history("home", spine, release=one).read_all().to_pylist() for one in (one, two)}
    assert found.num_rows == 8
    by = [two, one, one, two, None, one, None, two]
    for row, release, number in zip(found.to_pylist(), by, range(8), strict=True):
        assert row["metadata"]["note"] == f"n{number}"
        if release is None:
            assert row["messages"] is None
            continue
        expected = alone[release][number]
        for name in ("id", "prompt", "version", "prompt_id", "as_of", "messages", "error", "clock"):
            assert row[name] == expected[name], (name, number)
        for name in ("entity", "inputs", "features", "statuses", "timestamps"):
            fields = {key: value for key, value in (row[name] or {}).items() if value is not None}
            assert fields == {key: value for key, value in (expected[name] or {}).items() if value is not None}
    assert found.column("error")[4].as_py() == "no release was active then; the first is of 2026-05-02T12:00:00.000000Z"
    assert found.column("version")[4].as_py() is None
    assert found.column("error")[6].as_py() == "event_timestamp is null"
    assert (made.summary.rows, made.summary.errors) == (8, 2)
    assert str(made.summary.first_error).startswith("row 4: no release was active then")
    assert set(made.summary.statuses) == {"segment", "watched"}
    project.close()


def test_each_row_is_read_from_where_its_release_says(root: Path) -> None:
    one = applied(root, at(day=2), home=ONE)
    write_rows(root / "data" / "other.parquet", [segment("u1", "other", at(day=1))], SEGMENTS)
    definitions = root / "features.yaml"
    definitions.write_text(definitions.read_text().replace("data/segment.parquet", "data/other.parquet"))
    two = applied(root, at(day=4))
    project = Project.load(root)
    versions = [project.at_release(each).prompts.plan("home").version for each in (one, two)]
    assert versions[0] == versions[1]
    found = project.history("home", rows(at(day=3), None, at(day=5)), release="then").read_all()
    assert [row and row[0]["content"] for row in found.column("messages").to_pylist()] == [
        "First: power",
        None,
        "First: other",
    ]
    project.close()


def test_a_large_spine_keeps_its_order(root: Path, tmp_path: Path) -> None:
    applied(root, at(day=2), home=ONE)
    applied(root, at(day=4), home=TWO)
    first = at(day=2)
    moments: list[datetime | None] = [first + timedelta(minutes=(number * 7919) % 6000) for number in range(30_000)]
    pq.write_table(rows(*moments), tmp_path / "spine.parquet")
    project = Project.load(root)
    found = project.history("home", tmp_path / "spine.parquet", release="then").read_all()
    assert found.column("as_of").to_pylist() == moments
    assert found.column("error").null_count == 30_000
    assert found.combine_chunks().column("metadata").chunk(0).field("note").to_pylist()[:3] == ["n0", "n1", "n2"]
    starts = {row["messages"][0]["content"].split(":")[0] for row in found.slice(0, 500).to_pylist()}
    assert starts == {"First", "Second"}
    assert len(set(found.column("id").to_pylist())) == 30_000
    project.close()


def test_a_release_without_the_prompt_and_one_that_cannot_be_rendered(root: Path) -> None:
    applied(root, at(day=2), home=ONE, other="x")
    gone = applied(root, at(day=3), home=None)
    applied(root, at(day=4), home=TWO)
    project = Project.load(root)
    found = project.history("home", rows(at(day=2), at(day=3), at(day=4)), release="then").read_all()
    assert [one is None for one in found.column("error").to_pylist()] == [True, False, True]
    assert found.column("error")[1].as_py() == f"release {gone[:12]}, active then, has no prompt 'home'"
    with pytest.raises(UnknownNameError, match="unknown prompt 'nowhere'"):
        project.history("nowhere", rows(at(day=2)), release="then").read_all()
    with pytest.raises(RequestError, match="without goes with one prompt"):
        project.history("home", rows(at(day=2)), release="then", without="watched")
    project.close()


def test_a_feature_that_had_another_dtype(root: Path) -> None:
    applied(root, at(day=2), home=TWO)
    text = (root / "features.yaml").read_text()
    (root / "features.yaml").write_text(text.replace("watched: int", "watched: float"))
    applied(root, at(day=4), home=TWO.replace("default: 0}", "default: 0.5}"))
    project = Project.load(root)
    with pytest.raises(RequestError, match=r"watched of prompt 'home' is int64 in one release and double in another"):
        project.history("home", rows(at(day=2)), release="then").read_all()
    project.close()


def test_without_any_release(root: Path) -> None:
    project = Project.load(root)
    with pytest.raises(ReleaseError, match="no release was ever active"):
        project.history("home", rows(at(day=2)), release="then")
    project.close()


def test_the_command_line(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = applied(root, at(day=2), home=ONE)
    applied(root, at(day=4), home=TWO)

    def out(*arguments: str, code: int = 0) -> str:
        capsys.readouterr()
        assert run([*arguments, "--project", str(root)]) == code
        return capsys.readouterr().out

    def context(*arguments: str, code: int = 0) -> str:
        return out("context", "home", "user_id=u1", *arguments, code=code)

    def moment(day: int) -> str:
        return at(day=day).isoformat()

    assert context("--as-of", moment(3), "--release", "then") == "First: power\n"
    assert context("--as-of", moment(3)) == "Second: 3 of u1, warm\n"
    assert context("--as-of", moment(5), "--release", "then") == "Second: 3 of u1, warm\n"
    assert context("--as-of", moment(5), "--release", one[:8]) == "First: casual\n"
    context("--as-of", moment(1), "--release", "then", code=1)
    context("--release", "then", code=2)
    context("--release", "ffffff", code=2)
    pq.write_table(rows(at(day=3), at(day=5)), tmp_path / "spine.parquet")
    for release, texts in (("then", ["First", "Second"]), (one[:8], ["First", "First"]), ("active", ["Second"] * 2)):
        target = tmp_path / f"{release}.jsonl"
        done = out("history", "home", "--spine", str(tmp_path / "spine.parquet"), "--out", str(target),
                   "--release", release, "--json")  # fmt: skip
        assert json.loads(done)["rows"] == 2
        lines: list[Any] = [json.loads(line) for line in target.read_text().splitlines()]
        assert [line["messages"][0]["content"].split(":")[0] for line in lines] == texts
