"""The examples of docs/releases.md, in the project that ``llmfeatures init`` makes."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest

from llmfeatures.cli.app import run

PAGE = (Path(__file__).parents[2] / "docs" / "releases.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


def masked(text: str) -> str:
    shown = re.sub(r"\b[0-9a-f]{12}\b", "…", text)
    return re.sub(r" +~?[0-9]+  first_name", " N  first_name", shown)  # estimated without the extra


def test_the_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def out(line: str) -> str:
        capsys.readouterr()
        assert run(shlex.split(line.removeprefix("$ ").removeprefix("llmfeatures "))) == 0
        return capsys.readouterr().out

    assert run(["init", str(tmp_path)]) == 0
    monkeypatch.chdir(tmp_path)
    out("materialize")
    first = out("apply").splitlines()[-1].split()[2]
    prompt = tmp_path / "prompts" / "welcome.prompt.j2"
    before = prompt.read_text()
    applied, listed, rebuilt = blocks("")
    prompt.write_text(before.replace("one friendly", "one short"))
    # the list is that before the files are applied
    command, _, expected = listed.partition("\n")
    assert masked(out(command)) == masked(expected)
    command, _, expected = applied.partition("\n")
    assert masked(out(command)) == masked(expected)
    (tmp_path / "requests.csv").write_text(
        "user_id,event_timestamp\nada,2026-01-06T00:00:00Z\nada,2100-01-01T00:00:00Z\n"
    )
    commands = [line.replace("372259c1e692", first) for line in rebuilt.splitlines()]
    assert "one friendly" in out(commands[0])
    assert run(shlex.split(commands[1])[1:]) == 1  # no release was active then
    assert "no release was active at 2026-01-06T00:00:00Z; the first is of " in capsys.readouterr().err
    assert run(shlex.split(commands[2])[1:]) == 1
    following, project = blocks("python")
    names: dict[str, Any] = {}
    exec(following, names)
    builder = names["builder"]
    assert "one short" in builder.build_context("welcome", user_id="ada").messages[0]["content"]
    prompt.write_text(before)
    names = {}
    exec(project, names)
    assert names["done"].again
    rows = names["history"].read_all().to_pylist()
    assert str(rows[0]["error"]).startswith("no release was active then")
    assert "one friendly" in rows[1]["messages"][0]["content"]
    names["project"].close()
    builder.close()


def test_every_option_is_on_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["apply", "--help"]) == 0
    options = set(re.findall(r"(--[a-z-]+)", capsys.readouterr().out)) - {"--help", "--project"}
    assert {"--message", "--dry-run", "--list", "--show", "--rollback", "--json"} <= options
    assert not [one for one in options if one not in PAGE]
