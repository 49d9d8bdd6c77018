"""A split by entity: whole entities, the same parts for any spine, nothing lost."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmfeatures import Project
from llmfeatures.errors import RequestError
from llmfeatures.export.writing import shares
from tests.projects import MOMENT, NOW, at, make_project, segment


@pytest.fixture
def project(tmp_path: Path) -> Project:
    make_project(
        tmp_path,
        segments=[segment("u1", "casual", at(1), at(1))],
        counts=[],
        prompts={"home": "---\nfeatures:\n  segment: {default: unknown}\n---\n{{ segment }}"},
    )
    return Project.load(tmp_path, now=lambda: NOW)


def spine(users: list[str]) -> pa.Table:
    return pa.table({"user_id": users, "event_timestamp": pa.array([at(3)] * len(users), MOMENT), "id": users})


def users_of(path: Path) -> list[str]:
    return [one["user_id"] for one in pq.read_table(path).column("entity").to_pylist()]


def test_entities_stay_whole_and_in_their_part_whatever_the_spine(project: Project, tmp_path: Path) -> None:
    users = [f"u{number}" for number in range(400)]
    many = project.history("home", spine(users * 2)).write(tmp_path / "a.parquet", split="train=0.8,test=0.2")
    train, test = users_of(tmp_path / "a.train.parquet"), users_of(tmp_path / "a.test.parquet")
    assert many.rows == 800 == len(train) + len(test)
    assert not set(train) & set(test)
    assert set(train) | set(test) == set(users)
    assert 40 <= len(set(test)) <= 120
    project.history("home", spine(users[::-3])).write(tmp_path / "b.parquet", split={"train": 0.8, "test": 0.2})
    assert set(users_of(tmp_path / "b.test.parquet")) == set(test) & set(users[::-3])
    project.history("home", spine(users)).write(tmp_path / "c.parquet", split={"train": 0.8, "test": 0.2}, seed=1)
    assert set(users_of(tmp_path / "c.test.parquet")) != set(test)
    assert not (tmp_path / "a.parquet").exists()


def test_chats_parts_are_the_same_bytes_again(project: Project, tmp_path: Path) -> None:
    table = spine([f"u{number}" for number in range(50)])
    for name in ("a", "b"):
        project.history("home", table).write(tmp_path / f"{name}.jsonl.gz", split="x=0.5,y=0.5", seed=7)
    for part in ("x", "y"):
        assert (tmp_path / f"a.{part}.jsonl.gz").read_bytes() == (tmp_path / f"b.{part}.jsonl.gz").read_bytes()
        assert pq.read_table(tmp_path / f"a.{part}.index.parquet").num_rows > 5


@pytest.mark.parametrize(
    ("split", "reason"),
    [
        ("train=0.8", "sum to 0.8"),
        ("train=0.8,test", "'test' has no number"),
        ("a=1.5,b=-0.5", "share of 'a' is 1.5"),
        ("a=0.5,a=0.5", "twice"),
        ("../a=1", "no name for a part"),
        ("", "no number"),
        ({}, "sum to 0"),
        ({"a": float("nan")}, "share of 'a'"),
    ],
)
def test_what_is_no_split_is_refused(split: object, reason: str, project: Project, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match=reason):
        project.history("home", spine(["u1"])).write(tmp_path / "out.jsonl", split=split)
    assert not list(tmp_path.glob("out*"))


@given(st.lists(st.integers(1, 100), min_size=1, max_size=5))
def test_text_and_mapping_mean_the_same(weights: list[int]) -> None:
    split = {f"p{number}": weight / sum(weights) for number, weight in enumerate(weights)}
    assert shares(",".join(f"{name}={share!r}" for name, share in split.items())) == shares(split) == split
