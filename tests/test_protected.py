"""Nothing is written over what somebody wrote or the project reads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from llmfeatures import Project
from llmfeatures.errors import RequestError
from tests.projects import at, make_project, segment, watched
from tests.test_history import spine


@pytest.fixture
def project(tmp_path: Path) -> Project:
    pq.write_table(spine(), tmp_path / "spine.parquet")
    return Project.load(make_project(tmp_path, segments=[segment("a", "x", at(1))], counts=[watched("a", 1, at(1))]))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"path": "spine.parquet"}, "the spine itself"),
        ({"path": "o.jsonl", "report": "spine.parquet"}, "the spine itself; write the report"),
        ({"path": "data/segment.parquet"}, "the source of view 'segment'"),
        ({"path": "data/../data/watched.parquet"}, "the source of view 'activity'"),
        ({"path": "o.jsonl", "report": "data/watched.parquet"}, "the source of view 'activity'"),
        ({"path": "o.jsonl", "report": "o.jsonl"}, "both the export and the report"),
        ({"path": "o.jsonl", "report": "o.index.parquet"}, "both the export's index and the report"),
        ({"path": "features.yaml", "format": "chat"}, "looks like one that somebody wrote"),
        ({"path": "llmfeatures.toml", "format": "parquet"}, "looks like one that somebody wrote"),
        ({"path": "o.jsonl", "report": "prompts/home.prompt.j2"}, "looks like one that somebody wrote"),
        ({"path": "data/x.jsonl", "split": "segment=0.5,b=0.5", "report": "data/x.b.jsonl"}, "both the export and"),
    ],
)
def test_a_write_that_would_lose_something_is_refused(
    project: Project, tmp_path: Path, given: dict[str, Any], message: str
) -> None:
    before = {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()}
    given = {name: str(tmp_path / one) if name in ("path", "report") else one for name, one in given.items()}
    with pytest.raises(RequestError, match=message):
        project.history("home", tmp_path / "spine.parquet").write(**given)
    assert {one: one.read_bytes() for one in tmp_path.rglob("*") if one.is_file()} == before


def test_an_export_of_before_is_replaced(project: Project, tmp_path: Path) -> None:
    for _ in range(2):
        project.history("home", tmp_path / "spine.parquet").write(tmp_path / "o.jsonl", report=tmp_path / "r.html")
    assert (tmp_path / "r.html").exists()
