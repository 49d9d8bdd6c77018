"""The examples of docs/diff.md run as written, and print what the page shows."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from llmfeatures.cli.app import run
from tests.diff.conftest import commit, git

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "diff.md"
BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HASHES = re.compile(r"\b[0-9a-f]{9,12}\b")


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The sample project, committed."""
    root = tmp_path / "sample"
    shutil.copytree(ROOT / "prompts", root / "prompts")
    shutil.copytree(ROOT / "examples" / "streaming", root / "examples" / "streaming")
    shutil.copytree(ROOT / "data", root / "data", ignore=lambda _, names: [one for one in names if one == "pushes"])
    (root / "llmfeatures.toml").write_text(
        '[project]\nname = "streaming"\nregistry = "examples/streaming/features.py"\nnow = "2026-05-07T23:00:00Z"\n'
        '[diff]\nprice = "2.50"\n'
    )
    git(root, "init", "-q")
    commit(root)
    monkeypatch.chdir(root)
    return root


def _blocks() -> list[tuple[str, str, str]]:
    return [(one[0], one[1], one[2]) for one in BLOCK.findall(PAGE.read_text(encoding="utf-8"))]


def _same(shown: str, printed: str) -> None:
    """What the page shows is what is printed, hashes apart."""
    assert HASHES.sub("HASH", printed.rstrip()) == HASHES.sub("HASH", shown.rstrip())


def test_the_examples(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = project / "prompts" / "recommender.prompt.j2"
    commands: list[str] = []
    seen = 0
    for language, label, block in _blocks():
        if label == "edit":
            git(project, "checkout", "-q", "--", ".")
            old, new = (line[1:] for line in block.rstrip().split("\n"))
            for path in (text, project / "examples" / "streaming" / "features.py"):
                if old in path.read_text(encoding="utf-8"):
                    path.write_text(path.read_text(encoding="utf-8").replace(old, new), encoding="utf-8")
                    seen += 1
        elif language == "sh":
            commands = [line.partition("#")[0] for line in block.splitlines() if line.startswith("llmfeatures ")]
            for command in commands if label == "run" else ():
                run(shlex.split(command)[1:])
        elif label == "output":
            _same(block, capsys.readouterr().out)
            seen += 1
    assert seen == 4
