"""docs/check.md: what it shows is what is printed, and its files are ones that work."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import pytest
import yaml

from llmfeatures.checker.ignore import FIXED
from llmfeatures.checker.pages import FEATURES
from llmfeatures.checker.rules import RULES
from llmfeatures.cli.app import run
from llmfeatures.config import CheckSection
from llmfeatures.prompts.file import header_errors

PAGE = (Path(__file__).parents[2] / "docs" / "check.md").read_text(encoding="utf-8")
PROMPT = """---
features: {watch_count_30d: {default: 0}}
---
Hello.
{% if watch_count_30d >= "20" %}
heavy
{% endif %}
"""


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)


def test_the_output_is_what_is_printed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "home.prompt.j2").write_text(PROMPT)
    (tmp_path / "features.py").write_text(FEATURES)
    (tmp_path / "llmfeatures.toml").write_text('[project]\nname = "docs"\nregistry = "features.py"\n')
    monkeypatch.chdir(tmp_path)
    run(["check", "prompts"])
    (text,) = blocks("text output")
    assert text in capsys.readouterr().out
    run(["check", "prompts", "--json"])
    (data,) = blocks("json output")
    assert json.loads(capsys.readouterr().out) == json.loads(data)


def test_the_configuration_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    (text,) = blocks("toml")
    section = CheckSection(**tomllib.loads(text)["check"])
    assert section.options().per_file == {"support/*": frozenset({"LF050"})}


def test_the_workflow_and_the_hook_are_yaml() -> None:
    workflow, hook, header = (
        yaml.safe_load(text.removeprefix("---\n").removesuffix("---\n")) for text in blocks("yaml")
    )
    commands = [step["run"] for step in workflow["jobs"]["prompts"]["steps"] if "run" in step]
    assert commands[-1].startswith("llmfeatures check ")
    ids = [one["id"] for one in yaml.safe_load((Path(__file__).parents[2] / ".pre-commit-hooks.yaml").read_text())]
    assert hook["repos"][0]["hooks"] == [{"id": one} for one in ids]
    assert set(header) == {"features"}


def test_what_cannot_be_ignored_is_listed() -> None:
    (said,) = re.findall(r"cannot be ignored:\s+(.*?)\.\s", PAGE, re.DOTALL)
    listed: set[str] = set()
    for part in re.split(r",\s+|\s+and\s+", said):
        first, _, last = (one.strip() for one in part.partition(" to "))
        listed |= {code for code in RULES if first <= code <= (last or first)}
    assert listed == FIXED


def test_the_traps_are_what_yaml_does() -> None:
    rows = dict(re.findall(r"^\| (`.*?) \| (.*?) \|", PAGE.split("## What YAML reads")[1], re.MULTILINE))
    words = {word: said for row, said in rows.items() for word in re.findall(r"`(.*?)`", row)}
    kinds = {"a truth value": bool, "nothing": type(None), "text": str, "a date": object}
    for word, said in words.items():
        if said in kinds:
            assert isinstance(yaml.safe_load(f"[{word}]")[0], kinds[said]), word
        elif said.startswith("the numbers"):
            assert isinstance(yaml.safe_load(word), (int, float)), word
            assert str(yaml.safe_load(word)) in said
        else:  # a broken mapping, or none at all
            assert header_errors(f"---\ninputs: {{a: {{type: {word}}}}}\n---\n", path="p"), word
    assert len(words) > 15
