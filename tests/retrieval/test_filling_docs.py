"""What docs/documents.md says about filling the index happens as it says."""

from __future__ import annotations

import re
from contextlib import closing
from pathlib import Path

import pytest

from llmfeatures import DocumentSource, Project
from llmfeatures.cli.app import run
from llmfeatures.clock import from_microseconds, iso
from llmfeatures.ports import DatedDocuments

PAGE = (Path(__file__).parents[2] / "docs" / "documents.md").read_text(encoding="utf-8")
BLOCKS: dict[str, str] = dict(re.findall(r"^```\w+ (\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


def test_the_command_of_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "features.py").write_text(BLOCKS["registry"])
    (tmp_path / "data" / "sessions.jsonl").write_text(BLOCKS["documents"])
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "docs"\nregistry = "features.py"\n')
    monkeypatch.chdir(tmp_path)
    command, *shown = BLOCKS["materialize"].splitlines()
    assert run(command.removeprefix("$ llmfeatures ").split()) == 0

    def timeless(lines: list[str]) -> list[str]:
        return [re.sub(r" +\d+\.\d\d$", "", line) for line in lines]

    assert timeless(capsys.readouterr().out.splitlines()) == timeless(shown)
    assert run(["status"]) == 1, "the views were not filled"
    out = capsys.readouterr().out
    assert re.search(r"^viewing_sessions +ok ", out, re.MULTILINE)


def test_the_source_of_the_page(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "features.yaml").write_text(BLOCKS["source"])
    (tmp_path / "data" / "notes.jsonl").write_text(BLOCKS["notes"])
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "docs"\nregistry = "features.yaml"\n')
    with closing(Project.load(tmp_path)) as project:
        assert not [one for one in project.check() if one.where.startswith("retriever")]
        (report,) = project.materialize().retrievers
        assert (report.documents, report.versions) == (2, 2)
        store = project.retrieving.store(project.registry.retriever("notes"))
        assert isinstance(store, DatedDocuments)
        moments = store.boundaries("user_id:8a2f", 0, 2**53)
        assert [iso(from_microseconds(one)) for one in moments[:3]] == [
            "2026-05-03T22:00:00Z", "2026-05-04T08:00:00Z", "2026-05-05T20:30:00Z",
        ]  # fmt: skip


def test_the_options_of_a_source_are_those_of_the_page() -> None:
    section = PAGE.partition("Where columns have other names")[2].partition("In YAML")[0]
    named = re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)
    assert ["path", *named] == list(DocumentSource.model_fields)
