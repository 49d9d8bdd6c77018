"""The examples of docs/see-it.md run on the sample, and print what the page shows; and the options around them."""

from __future__ import annotations

import contextlib
import io
import json
import re
import shlex
import shutil
from pathlib import Path

import pytest

from llmfeatures import Project
from llmfeatures.cli.app import run

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "see-it.md"
BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VERSION = re.compile(r"^(\S+) [0-9a-f]{12} as of", re.MULTILINE)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("sample")
    for part in ("data", "prompts", "examples"):
        shutil.copytree(ROOT / part, root / part)
    (root / "llmfeatures.toml").write_text(
        '[project]\nname = "docs"\nregistry = "examples/streaming/features.py"\nnow = "2026-05-07T23:00:00Z"\n'
    )
    Project.load(root).materialize()
    return root


@pytest.fixture
def here(sample: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    monkeypatch.chdir(sample)
    return {label or language: text for language, label, text in BLOCK.findall(PAGE.read_text(encoding="utf-8"))}


@pytest.mark.parametrize(("command", "shown"), [("explain", "explained"), ("timeline", "log")])
def test_the_commands(here: dict[str, str], capsys: pytest.CaptureFixture[str], command: str, shown: str) -> None:
    assert run(shlex.split(here[command])[1:]) == 0
    out, err = capsys.readouterr()
    # the version of a prompt is that of its renderer too
    assert VERSION.sub(r"\1 VERSION as of", out) == VERSION.sub(r"\1 VERSION as of", here[shown])
    assert err == ""


def test_the_python_example(here: dict[str, str]) -> None:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(compile(here["python"], "see-it.md", "exec"), {"__name__": "see"})
    assert out.getvalue() == here["output"]


def test_explained_as_json(here: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["context", "recommender", "user_id=8a2f", "--explain", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    content = data["messages"][0]["content"]
    spans = data["explain"]["messages"][0]["spans"]
    assert [content[one["start"] : one["end"]] for one in spans] == ["power_user", "47", "documentary"]
    assert run(["context", "recommender", "user_id=8a2f", "--json"]) == 0
    assert "explain" not in json.loads(capsys.readouterr().out)


def test_a_timeline_as_json(here: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["context", "recommender", "user_id=8a2f", "--timeline", "--until", "2026-05-06", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [one["at"] for one in data["entries"]] == ["2026-05-05T12:00:00Z", "2026-04-06T00:00:00Z"]
    assert data["entries"][0]["diff"][1]["sign"] == "+"


def test_a_user_message_is_shown_with_the_parts(here: dict[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["context", "recommender", "user_id=8a2f", "--explain", "--user", "Hi"]) == 0
    assert capsys.readouterr().out.startswith("[system]\nYou recommend")
    ends = ["context", "support/answer", "user_id=8a2f", "question=Why?", "--explain", "--user", "Hi"]
    assert run(ends) == 2
    assert "already ends in a user message" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--timeline", "--as-of", "2026-05-05"], 2, "--since T and --until T instead of --as-of"),
        (["--since", "3d"], 2, "go with --timeline"),
        (["--timeline", "--watch"], 2, "--watch and --timeline do not go together"),
        (["--timeline", "--explain"], 2, "--timeline and --explain do not go together"),
        (["--timeline", "--since", "soon"], 2, "no length of time such as 30d"),
        (["--timeline", "--nobody", "colour=red"], 2, "takes no 'colour'"),
    ],
)
def test_options_that_do_not_go_together(
    here: dict[str, str], capsys: pytest.CaptureFixture[str], options: list[str], code: int, said: str
) -> None:
    assert run(["context", "recommender", "user_id=8a2f", *options]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert said in err
    assert err.count("\n") == 1


def test_a_prompt_that_reads_its_moment_says_where(
    here: dict[str, str], sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (sample / "prompts" / "dated.prompt.j2").write_text("Dear {{ user_id }},\ntoday is {{ as_of }}.\n")
    assert run(["context", "dated", "user_id=8a2f", "--timeline"]) == 1
    assert "prompts/dated.prompt.j2:2:13" in capsys.readouterr().err
    assert run(["context", "recomender", "--watch"]) == 2
    assert "did you mean 'recommender'" in capsys.readouterr().err


def test_in_colours_the_parts_have_no_marks(
    here: dict[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.delenv("NO_COLOR", raising=False)
    assert run(["context", "recommender", "user_id=8a2f", "--explain"]) == 0
    out = capsys.readouterr().out
    assert "Viewer: \x1b[1;33mpower_user\x1b[0m, watched" in out
    assert "«" not in out
    assert run(["context", "recommender", "user_id=8a2f", "--timeline"]) == 0
    out = capsys.readouterr().out
    assert "\x1b[1;7;32mpower_user\x1b[0m" in out
    assert "{+" not in out
