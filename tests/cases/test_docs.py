"""The examples of docs/prompt-tests.md and docs/types.md are real."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmfeatures.cases.file import EXPECTED, KEYS
from llmfeatures.cli.app import run

ROOT = Path(__file__).parents[2]
BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> dict[str, str]:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    return {label or language: text for language, label, text in BLOCK.findall(text)}


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = blocks("prompt-tests.md")
    (tmp_path / "examples").mkdir()
    shutil.copy(ROOT / "examples" / "streaming" / "features.py", tmp_path / "features.py")
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "docs"\nregistry = "features.py"\n')
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "home.prompt.j2").write_text(found["prompt"])
    (tmp_path / "prompts" / "home.cases.yaml").write_text(found["cases"])
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_prompt_tests(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    found = blocks("prompt-tests.md")
    assert run(["test"]) == 1
    assert run(["test", "--update"]) == 0
    assert (project / "prompts/home.snapshots/heavy_viewer.txt").read_text() == found["snapshot"]
    capsys.readouterr()
    assert run(["test", "--coverage"]) == 0
    assert capsys.readouterr().out == found["coverage"]
    prompt = project / "prompts" / "home.prompt.j2"
    prompt.write_text(prompt.read_text().replace("deep cuts", "rarities"))
    assert run(["test"]) == 1
    assert capsys.readouterr().out == found["failure"]
    for line in found["sh"].splitlines():
        assert run(line.partition("#")[0].split()[1:]) in (0, 1)


def test_every_key_is_described() -> None:
    page = (ROOT / "docs" / "prompt-tests.md").read_text(encoding="utf-8")
    assert [one for one in (*KEYS, *EXPECTED) if f"`{one}" not in page] == []


def test_json_has_what_the_page_says(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run(["test", "--update"])
    capsys.readouterr()
    assert run(["test", "--json", "--coverage"]) == 0
    page = (ROOT / "docs" / "prompt-tests.md").read_text(encoding="utf-8").partition("In JSON")[2].partition("##")[0]
    data = json.loads(capsys.readouterr().out)
    named = set(re.findall(r"`(\w+)`", page))
    assert set(data) | set(data["cases"][0]) | {"kind", "message", "path", "line", "column", "diff"} == named


@pytest.mark.heavy
def test_types(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = blocks("types.md")
    monkeypatch.chdir(tmp_path)
    for name in ("prompts.pyi", "prompt_types.py"):
        assert run(["check", "--project", str(ROOT), "--types", name]) == 0
    (tmp_path / "stub.py").write_text(found["stub"])
    (tmp_path / "module.py").write_text(found["module"])
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", "stub.py", "module.py"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    red = {
        (Path(one["file"]).name, one["range"]["start"]["line"]) for one in json.loads(done.stdout)["generalDiagnostics"]
    }
    wanted = {
        (f"{name}.py", number)
        for name in ("stub", "module")
        for number, line in enumerate(found[name].splitlines())
        if "# red" in line
    }
    assert red == wanted


def test_documents(project: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = (ROOT / "docs" / "prompt-tests.md").read_text(encoding="utf-8")
    found = {language: text for language, label, text in BLOCK.findall(text) if label == "answer"}
    registry = next(text for _, label, text in BLOCK.findall((ROOT / "docs" / "documents.md").read_text("utf-8"))
                    if label == "registry")  # fmt: skip
    (project / "features.py").write_text(registry)
    for path in (project / "prompts").iterdir():
        path.unlink()
    (project / "prompts" / "answer.prompt.j2").write_text(found["jinja"])
    (project / "prompts" / "answer.cases.yaml").write_text(found["yaml"])
    assert run(["test", "--coverage"]) == 0
    assert capsys.readouterr().out == "3 cases passed, 0 failed\n4 of 4 branches taken\n"
