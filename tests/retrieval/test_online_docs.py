"""The examples of docs/documents.md run as written, and print what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import Project
from llmfeatures.cli.app import run
from llmfeatures.config import find_config
from llmfeatures.prompts.header import DOCUMENT_KEYS

PAGE = (Path(__file__).parents[2] / "docs" / "documents.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```\w+ (\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS: dict[str, str] = dict(BLOCK.findall(PAGE))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "data").mkdir()
    (tmp_path / "prompts").mkdir()
    (tmp_path / "features.py").write_text(BLOCKS["registry"])
    (tmp_path / "data" / "sessions.jsonl").write_text(BLOCKS["documents"])
    (tmp_path / "prompts" / "answer.prompt.j2").write_text(BLOCKS["prompt"])
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "docs"\nregistry = "features.py"\n')
    monkeypatch.chdir(tmp_path)
    return tmp_path


def ran(text: str) -> str:
    """What a block of Python prints."""
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(f"{text}\nproject.close()\n", "documents.md", "exec"), {"__name__": "documents"})
    return out.getvalue()


@pytest.mark.heavy
def test_the_project_of_the_page(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ran(BLOCKS["call"]) == BLOCKS["output"]
    assert run(["context", "answer", "user_id=8a2f", "question=space?", "--explain"]) == 0
    out = capsys.readouterr().out
    assert "documents sessions: retriever viewing_sessions, found, tier exact" in out
    assert "s1: score" in out
    assert "s3" not in out


def test_the_project_of_the_page_is_without_faults(folder: Path) -> None:
    with contextlib.closing(Project.load(folder)) as project:
        assert [one for one in project.check() if one.severity == "error"] == []


def test_the_function_of_the_page(tmp_path: Path) -> None:
    held: dict[str, Any] = {}
    exec(compile(BLOCKS["function"], "documents.md", "exec"), held)
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "home.prompt.j2").write_text(
        '---\ninputs: {q: str}\ndocuments: {docs: {retriever: tickets, query: "{{ q }}", top_k: 1, min_score: 1}}\n'
        "---\n{% for d in docs %}{{ d.id }}{% endfor %}."
    )
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "docs"\nregistry = "x.py"\n')
    builder = Project(find_config(tmp_path), held["registry"]).builder()
    assert builder.build_context("home", user_id="8a2f", q="a refund").text == "t2."
    assert builder.build_context("home", user_id="other", q="a refund").text == "."


def test_the_page_has_every_key_of_the_header() -> None:
    table = PAGE.split("The keys of a name under `documents:`:")[1].split("## ")[0]
    assert re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE) != []
    assert set(re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)) == set(DOCUMENT_KEYS)
