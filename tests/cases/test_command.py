"""``llmfeatures test``: real runs on real projects."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from llmfeatures.cli.app import run
from tests.projects import make_project

PROMPTS = {
    "home": "---\nfeatures: {segment: {default: unknown}}\n---\nViewer: {{ segment }}.\n",
    "support/answer": "---\nfeatures: {watched: {default: 0}}\n---\nCount: {{ watched }}\n",
    "bare": "Hello\n",
}
CASES = """- id: a
  features: {segment: casual}
  expect: {contains: casual, snapshot: true}
- id: b
  expect: {contains: [heavy, unknown]}
"""


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_project(tmp_path, prompts=PROMPTS)
    (root / "prompts/home.cases.yaml").write_text(CASES)
    (root / "prompts/support/answer.cases.yaml").write_text("- {id: zero, expect: {contains: 'Count: 0'}}\n")
    monkeypatch.chdir(root)
    return root


def test_what_is_printed(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    snapshot = "prompts/home.snapshots/a.txt"
    assert run(["test"]) == 1
    assert capsys.readouterr().out.splitlines() == [
        f"prompts/home.cases.yaml:3:40: a: there is no snapshot {snapshot} yet; llmfeatures test --update writes it",
        "  | Viewer: casual.",
        "prompts/home.cases.yaml:5:23: b: the prompt does not contain 'heavy'",
        "  | Viewer: unknown.",
        "1 case passed, 2 failed; 1 prompt has no cases: bare",
    ]
    assert run(["test", "--update", "-k", "::a"]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"wrote {snapshot}",
        "1 case passed, 0 failed; 1 prompt has no cases: bare",
    ]


def test_which_cases_run(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def names(*arguments: str) -> list[str]:
        capsys.readouterr()
        run(["test", "--json", *arguments])
        return [f"{one['prompt']}::{one['id']}" for one in json.loads(capsys.readouterr().out)["cases"]]

    assert names() == ["home::a", "home::b", "support/answer::zero"]
    assert names("support/answer") == ["support/answer::zero"]
    assert names("prompts/support/answer.cases.yaml", "prompts/home.prompt.j2") == [
        "support/answer::zero",
        *names("home"),
    ]
    assert names(str(root / "prompts/home.cases.yaml"), "-k", "::b") == ["home::b"]
    assert names("bare") == []


def test_mistakes_of_use(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["test", "hme"]) == 2
    assert "unknown prompt 'hme'; did you mean 'home'?" in capsys.readouterr().err
    assert run(["test", "--updat"]) == 2
    assert run(["test", "-k", "nothing"]) == 2
    assert "no case has 'nothing'" in capsys.readouterr().err
    assert run(["test", "--project", str(root.parent)]) == 2


def test_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["test", "--json", "--update", "--coverage"]) == 1
    data: Any = json.loads(capsys.readouterr().out)
    assert (data["passed"], data["failed"], data["without_cases"]) == (2, 1, ["bare"])
    assert data["coverage"] == {"branches": 0, "taken": 0, "missed": []}
    first, second, _ = data["cases"]
    assert first["wrote_snapshot"] == "prompts/home.snapshots/a.txt"
    assert (first["text"], first["passed"], first["failures"]) == ("Viewer: casual.", True, [])
    assert second["failures"] == [
        {
            "kind": "contains",
            "message": "the prompt does not contain 'heavy'",
            "path": "prompts/home.cases.yaml",
            "line": 5,
            "column": 23,
            "diff": [],
        }
    ]


def test_a_project_without_cases_says_where_they_go(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_project(tmp_path)
    assert run(["test", "--project", str(root)]) == 0
    ran = capsys.readouterr()
    assert ran.out == "0 cases passed, 0 failed; 1 prompt has no cases: home\n"
    assert "prompts/home.cases.yaml" in ran.err


def test_unused_snapshots_are_a_note(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "prompts/bare.snapshots").mkdir()
    (root / "prompts/bare.snapshots/old.txt").write_text("x\n")
    assert run(["test", "bare", "support/answer"]) == 0
    assert "no case uses prompts/bare.snapshots/old.txt" in capsys.readouterr().err
    assert run(["test", "bare", "--update"]) == 0
    assert "removed prompts/bare.snapshots/old.txt\n" in capsys.readouterr().out


@pytest.mark.skipif(sys.platform == "win32", reason="there is no pty")
def test_colours_in_a_terminal_only(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "prompts/home.snapshots").mkdir()
    (root / "prompts/home.snapshots/a.txt").write_text("Viewer: formal.\n")
    assert run(["test", "home", "-k", "::a"]) == 1
    plain = capsys.readouterr().out
    assert "  -Viewer: [-formal-].\n  +Viewer: {+casual+}.\n" in plain
    assert "\x1b" not in plain
    command = [sys.executable, "-m", "llmfeatures", "test", "home", "-k", "::a"]
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color"}
    environment.pop("NO_COLOR", None)
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=environment) as process:
        process.wait(60)
        os.close(theirs)
        shown = os.read(ours, 100_000).decode()
    os.close(ours)
    assert "\x1b[" in shown
    assert "formal" in shown


def test_nothing_heavy_is_loaded(root: Path) -> None:
    code = (
        "import sys; from llmfeatures.cli.app import run; run(['test', '--coverage']); "
        "print([one for one in ('duckdb', 'pyarrow', 'redis', 'openai', 'fastapi', 'pandas') if one in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]"
