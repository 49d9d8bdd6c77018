"""`Project.status` and ``llmfeatures status`` tell the truth about indexes of documents."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import Project
from llmfeatures.cli.app import run
from llmfeatures.clock import iso
from llmfeatures.errors import SourceError
from llmfeatures.retriever_status import RetrieverStatus
from llmfeatures.status import status_json, status_samples
from tests.projects import NOW, at

REGISTRY = """
entities: [{name: user, join_key: user_id}]
retrievers:
  - {name: notes, entity: user, source: notes.jsonl, metadata: {stars: int}, cadence: 1h}
  - {name: plain, source: {path: plain.jsonl, valid_from: null}}
"""


@pytest.fixture
def root(tmp_path: Path) -> Path:
    note = {"user_id": "a", "text": "t", "valid_from": iso(at(1))}
    (tmp_path / "notes.jsonl").write_text(
        "".join(json.dumps({**note, "id": f"{number}"}) + "\n" for number in range(3))
    )
    (tmp_path / "plain.jsonl").write_text('{"id": "p", "text": "t"}\n')
    (tmp_path / "features.yaml").write_text(REGISTRY)
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "t"\nregistry = "features.yaml"\n')
    return tmp_path


@contextmanager
def opened(root: Path, after: timedelta = timedelta(0)) -> Iterator[Project]:
    with closing(Project.load(root, now=lambda: NOW + after)) as project:
        yield project


def states(project: Project) -> list[tuple[Any, ...]]:
    return [(one.retriever, one.state, one.documents, one.available) for one in project.status().retrievers]


def notes(project: Project) -> RetrieverStatus:
    return project.status().retrievers[0]


def test_from_never_filled_to_late(root: Path) -> None:
    with opened(root) as project:
        assert states(project) == [
            ("notes", "late: never filled", None, False),
            ("plain", "never filled", None, False),
        ]
        status = project.status()
        assert status.late == ("notes",)
        assert not status.well
        assert any("'plain' was never filled" in one and "materialize plain" in one for one in status.warnings)
        project.materialize()
        assert states(project) == [("notes", "ok", 3, True), ("plain", "ok", 1, True)]
        assert project.status().well
        assert notes(project).watermark == NOW
    for after, state in ((timedelta(hours=1.5), "ok"), (timedelta(hours=1.6), "late")):
        with opened(root, after) as project:
            assert notes(project).state == state
            assert notes(project).lag == after
            assert project.status().well is (state == "ok")


def test_another_definition_and_failures(root: Path) -> None:
    with opened(root) as project:
        project.materialize()
    (root / "notes.jsonl").write_text("{")
    with opened(root, timedelta(minutes=1)) as project:
        with pytest.raises(SourceError):
            project.materialize()
        assert [one.message for one in notes(project).failures] != []
        assert project.status().well, "the last good index is there"
    (root / "features.yaml").write_text(REGISTRY.replace("stars: int", "stars: str"))
    with opened(root) as project:
        assert states(project)[0] == ("notes", "ok, other definition", 3, False)
        assert any("materialize notes --full" in one for one in project.status().warnings)
        assert not project.status().well


def test_an_index_that_cannot_be_read(root: Path) -> None:
    with opened(root) as project:
        project.materialize()
    (root / ".llmfeatures" / "documents" / "notes" / "manifest.json").write_text("no JSON")
    with opened(root) as project:
        assert states(project)[0] == ("notes", "unknown", 3, None)
        assert any("cannot be read" in one and "damaged" in one for one in project.status().warnings)
        assert not project.status().well
        project.materialize(full=True)
        assert project.status().well


def test_as_json_and_as_numbers(root: Path) -> None:
    with opened(root) as project:
        project.materialize()
        status = project.status()
    (first, _) = status_json(status)["retrievers"]
    assert list(first) == [
        *("retriever", "model", "dimensions", "cadence", "watermark", "lag", "late", "available", "current", "problem"),
        *("documents", "last_run", "failures"),
    ]
    assert (first["watermark"], first["cadence"], first["documents"]) == (iso(NOW), 3600.0, 3)
    numbers = {
        (one.name, one.labels["retriever"]): one.value for one in status_samples(status) if "retriever" in one.labels
    }
    assert numbers["llmfeatures_retriever_watermark_timestamp_seconds", "notes"] == NOW.timestamp()
    assert numbers["llmfeatures_retriever_documents", "notes"] == 3
    assert numbers["llmfeatures_retriever_late", "plain"] == 0
    assert ("llmfeatures_retriever_cadence_seconds", "plain") not in numbers


def test_the_command(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    where = ["--project", str(root)]
    assert run(["status", *where]) == 1
    assert "late: never filled" in capsys.readouterr().out
    assert run(["materialize", "--json", *where]) == 0
    done = json.loads(capsys.readouterr().out)
    assert [(one["retriever"], one["documents"], one["written"]) for one in done["retrievers"]] == [
        ("notes", 3, 3),
        ("plain", 1, 1),
    ]
    assert run(["status", *where]) == 0
    out = capsys.readouterr().out
    assert "notes      ok" in out
    (root / "notes.jsonl").write_text("{")
    assert run(["materialize", *where]) == 1
    captured = capsys.readouterr()
    assert "line 1 of notes.jsonl is no JSON" in captured.err
    assert "plain      incremental" in captured.out
    run(["status", *where])
    assert "is no JSON" in capsys.readouterr().out
    assert run(["materialize", "nots", *where]) == 2
    assert "unknown view or retriever 'nots'; did you mean 'notes'" in " ".join(capsys.readouterr().err.split())
