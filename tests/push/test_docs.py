"""The examples of docs/push.md run as written, and print what the page shows."""

from __future__ import annotations

import contextlib
import io
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures import PushSource
from llmfeatures.cli.app import run

PAGE = Path(__file__).parents[2] / "docs" / "push.md"
BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    found = {label or language: text for language, label, text in BLOCK.findall(PAGE.read_text(encoding="utf-8"))}
    (tmp_path / "features.py").write_text(found["registry"])
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "docs"\nregistry = "features.py"\n')
    monkeypatch.chdir(tmp_path)
    yield found
    shutil.rmtree(tmp_path)


def test_the_python_example(project: dict[str, str]) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(project["push"] + "project.close()\n", "push.md", "exec"), {"__name__": "push"})
    assert out.getvalue() == project["output"]


def test_the_registry_beside_aggregations(project: dict[str, str]) -> None:
    held: dict[str, Any] = {}
    exec(compile(project["python"], "push.md", "exec"), held)
    now, watching = held["registry"].views
    assert isinstance(now.source, PushSource)
    assert not now.aggregates
    assert watching.aggregates


def test_the_commands(
    project: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    pq.write_table(pa.table({"user_id": ["a"], "last_genre": ["x"], "watched": [1]}), "rows.parquet")
    lines = '{"user_id": "b", "last_genre": "y", "watched": 2}\n'

    class Input:
        buffer = io.BytesIO(lines.encode())

    monkeypatch.setattr("sys.stdin", Input)
    commands = [line.rpartition("llmfeatures ")[2].split() for line in project["sh"].splitlines()]
    assert len(commands) == 2
    for command in commands:
        assert run(command) == 0
        assert "1 rows of view taste are durable" in capsys.readouterr().out
