"""The command line: real runs on real projects."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from llmfeatures.cli import worddiff
from llmfeatures.cli.app import run
from llmfeatures.context import PromptContext
from llmfeatures.coverage import coverage
from llmfeatures.project import Project
from llmfeatures.types import parse_dtype, placeholder
from tests.projects import MOMENT, at, make_project, segment, watched

MULTI = """---
description: Answers a question
features:
  segment: {on_missing: error}
  watched: {default: 0}
inputs:
  question: {type: str, max_chars: 200}
---
{% message "system" %}
{{ segment }} watched {{ watched }}
{% endmessage %}
{% message "user" %}
{{ question }}
{% endmessage %}
"""


class Ran(NamedTuple):
    """What a command line did."""

    code: int
    out: str
    err: str

    @property
    def data(self) -> Any:
        return json.loads(self.out)


Cli = Callable[..., Ran]


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Cli:
    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = run([str(one) for one in arguments])
        return Ran(code, *capsys.readouterr())

    return call


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """Users a (all), b (a null segment), c (a segment only); a's history has two moments."""
    return make_project(
        tmp_path / "project",
        segments=[
            segment("a", "casual", at(day=1), at(day=1)),
            segment("a", "power", at(day=5), at(day=5)),
            segment("b", None, at(day=5), at(day=5)),
            segment("c", "casual", at(day=5), at(13, day=6)),
        ],
        counts=[watched("a", 22, at(day=1)), watched("a", 47, at(day=5)), watched("b", 5, at(day=5))],
        prompts={"home": HOME, "support/answer": MULTI},
    )


HOME = """---
description: Greets
features:
  segment: {default: unknown}
  watched: {default: 0}
---
Viewer: {{ segment }}, watched {{ watched }} titles.
Suggest 3 titles.
"""


@pytest.fixture
def filled(project: Path, cli: Cli) -> Path:
    assert cli("materialize", "--project", project).code == 0
    return project


def spine(path: Path, rows: list[dict[str, Any]]) -> Path:
    fields = {"user_id": pa.string(), "event_timestamp": MOMENT, "question": pa.string()}
    names = [name for name in fields if any(name in row for row in rows)]
    pq.write_table(pa.table({name: pa.array([row.get(name) for row in rows], fields[name]) for name in names}), path)
    return path


# --- all verbs


VERBS = ("init", "demo", "list", "check", "materialize", "features", "context", "history")


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example(cli: Cli, verb: str) -> None:
    ran = cli(verb, "--help")
    assert ran.code == 0
    assert f"Example:\n    llmfeatures {verb}" in ran.out


def test_help_version_and_no_verb(cli: Cli) -> None:
    assert all(f"\n  {verb} " in cli("--help").out for verb in VERBS)
    assert re.fullmatch(r"llmfeatures \d+\.\d+\.\d+\S*\n", cli("--version").out)
    assert cli().code == 2
    assert "Commands:" in cli().out


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    code = (
        "import sys, llmfeatures.cli.app as a\n"
        "assert a.run(['--help']) == 0\n"
        "print([n for n in ('duckdb', 'pyarrow', 'redis', 'pydantic', 'jinja2') if n in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.splitlines()[-1] == "[]"


def test_an_application_loads_no_checker(cli: Cli, tmp_path: Path) -> None:
    assert cli("init", tmp_path / "app").code == 0
    code = (
        "import sys\n"
        "from llmfeatures import ContextBuilder\n"
        "ContextBuilder.from_project('.').build_context('welcome', user_id='ada')\n"
        "print([n for n in ('llmfeatures.checking', 'llmfeatures.checker.engine', 'duckdb') if n in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path / "app")
    assert ran.stdout == "[]\n"


def test_python_m_runs_it(tmp_path: Path) -> None:
    ran = subprocess.run(
        [sys.executable, "-m", "llmfeatures", "check"], capture_output=True, text=True, check=False, cwd=tmp_path
    )
    assert (ran.returncode, ran.stdout) == (2, "")
    assert ran.stderr.startswith("error: no llmfeatures.toml")


# --- init


def test_a_new_project_works_at_once(cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cli("init", tmp_path / "my app!")
    assert made.code == 0
    assert (tmp_path / "my app!" / ".gitignore").read_text() == ".llmfeatures/\n"
    commands = [line.strip() for line in made.out.split("Next:\n")[1].splitlines()]
    assert commands[0] == f"cd '{tmp_path}/my app!'"
    monkeypatch.chdir(tmp_path / "my app!")
    for command in commands[1:]:
        ran = cli(*command.split()[1:])
        assert (ran.code, "error" in ran.err) == (0, False), (command, ran)
    assert "User: Ada, plan pro, 9 sessions" in cli("context", "welcome", "user_id=ada").out
    diff = cli("context", "welcome", "user_id=ada", "--as-of", "2026-01-06", "--diff").out
    assert "plan [-free-], [-2-] sessions" in diff
    assert len(Path("evals.jsonl").read_text().splitlines()) == 3
    assert cli("check").out == "checked 2 views, 1 prompt: 0 errors, 0 warnings\n"


def test_init_overwrites_nothing(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text("mine")
    ran = cli("init", tmp_path)
    assert (ran.code, ran.out) == (2, "")
    assert "features.py" in ran.err
    assert "llmfeatures.toml" not in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["features.py"]
    assert (tmp_path / "features.py").read_text() == "mine"


def test_init_refuses_a_file_and_another_project(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    assert cli("init", tmp_path / "file").code == 2
    (tmp_path / "pyproject.toml").write_text("[tool.llmfeatures.project]\nname = 'x'\n")
    assert "[tool.llmfeatures]" in cli("init", tmp_path).err


def test_init_keeps_what_gitignore_says(cli: Cli, tmp_path: Path) -> None:
    (tmp_path / ".gitignore").write_text("dist/")
    assert cli("init", tmp_path).code == 0
    assert (tmp_path / ".gitignore").read_text() == "dist/\n.llmfeatures/\n"


# --- list, check, materialize


def test_list_features(cli: Cli, project: Path) -> None:
    ran = cli("list", "--project", project)
    lines = ran.out.splitlines()
    assert re.sub(" +", " ", lines[0]) == "feature dtype view / entity description sample present prompts"
    assert re.search(r"^segment +str +segment / user +power +67% +home, support/answer$", lines[1])
    assert re.search(r"^watched +int +activity / user +5 +67% +home, support/answer$", lines[2])
    assert all(line == line.rstrip() for line in lines)
    first = cli("list", "features", "--json", "--project", project).data[0]
    assert first["present"] == 2
    assert first["known"] == 3
    assert first["sample"] == "power"


def test_list_features_counts_what_the_ttl_lets_count(tmp_path: Path) -> None:
    root = make_project(
        tmp_path,
        segments=[segment("a", "old", at(11, day=6)), segment("b", "edge", at(12, day=6)), segment("c", None, at())],
        counts=[watched("d", 1, at(day=1))],
        ttl="24h",
    )
    project = Project.load(root, now=at)
    found = coverage(project.offline, project.registry, at())
    assert [(one.feature.name, one.present, one.known, one.sample) for one in found] == [
        ("segment", 1, 4, "edge"),
        ("watched", 0, 4, None),
    ]


def test_list_says_what_it_cannot_read(cli: Cli, project: Path) -> None:
    (project / "data" / "segment.parquet").unlink()
    (project / "prompts" / "broken.prompt.j2").write_text("{{ nothing_like_it }}")
    ran = cli("list", "--project", project)
    assert ran.code == 0
    assert "segment.parquet" in ran.err
    assert "'broken' is left out" in ran.err
    assert len(ran.out.splitlines()) == 3


def test_list_prompts(cli: Cli, project: Path) -> None:
    ran = cli("list", "prompts", "--project", project)
    assert re.search(r"^home +Greets +[0-9a-f]{12} +~?[0-9]+ +segment, watched$", ran.out, re.MULTILINE)
    data = cli("list", "prompts", "--json", "--project", project).data
    assert [one["name"] for one in data] == ["home", "support/answer"]
    assert data[1]["inputs"] == {"question": "str"}
    assert len(data[0]["version"]) == 64


def test_check_finds_problems(cli: Cli, project: Path) -> None:
    fine = cli("check", "--project", project)
    assert fine.code == 0
    assert fine.out.splitlines()[-1].startswith("checked 2 views, 2 prompts: 0 errors")
    (project / "prompts" / "home.prompt.j2").write_text("hello\n{{ segmnt }}\n")
    ran = cli("check", "--project", project)
    assert ran.code == 1
    assert "\n  --> prompts/home.prompt.j2:2:4\n2 | {{ segmnt }}\n  |    ^^^^^^\n" in ran.out
    assert "1 error" in ran.out.splitlines()[-1]
    data = cli("check", "--json", "--project", project)
    assert data.code == 1
    assert data.data["checked"] == {"views": 2, "prompts": 2}
    assert {"code", "severity", "where", "message", "help"} < set(data.data["problems"][0])


def test_check_reports_a_registry_that_does_not_load(cli: Cli, project: Path) -> None:
    (project / "features.yaml").write_text("views: [{name: x, entity: nobody, source: p, features: {a: int}}]")
    ran = cli("check", "--project", project)
    assert ran.code == 1
    assert ran.out.startswith("error[LF005]: unknown entity 'nobody'")


def test_materialize(cli: Cli, project: Path) -> None:
    first = cli("materialize", "--project", project)
    assert first.code == 0
    assert first.err == ""
    assert re.search(r"^segment +full +4 +3 +0 +0 +0 +0 +\d+\.\d\d$", first.out, re.MULTILINE)
    again = cli("materialize", "segment", "--json", "--project", project).data["views"]
    assert [(one["view"], one["full"], one["keys_written"]) for one in again] == [("segment", False, 0)]
    full = cli("materialize", "--full", "--until", "2026-05-02", "--json", "--project", project).data["views"]
    assert [(one["keys_written"], one["removed"], one["until"]) for one in full] == [
        (1, 2, "2026-05-02T00:00:00Z"),
        (1, 1, "2026-05-02T00:00:00Z"),
    ]


# --- features


def test_features_now_and_as_of(cli: Cli, filled: Path) -> None:
    now = cli("features", "segment", "watched", "user_id=a", "--project", filled).out.splitlines()
    assert now[0].split() == ["feature", "value", "status", "event", "timestamp"]
    assert now[1].split() == ["segment", "power", "present", "2026-05-05T12:00:00Z"]
    then = cli("features", "watched", "user_id=a", "--as-of", "2026-05-02", "--project", filled).out.splitlines()
    assert then[1].split() == ["watched", "22", "present", "2026-05-01T12:00:00Z"]


def test_features_of_several_rows_and_nobody(cli: Cli, filled: Path) -> None:
    rows = cli("features", "segment", "--row", "user_id=a", "--row", "user_id=b", "--project", filled).out.splitlines()
    assert rows[1].split() == ["a", "segment", "power", "present", "2026-05-05T12:00:00Z"]
    assert rows[2].split() == ["b", "segment", "-", "null", "2026-05-05T12:00:00Z"]
    data = cli("features", "segment", "--nobody", "--json", "--project", filled).data
    missing = {"value": None, "status": "missing", "event_timestamp": None}
    assert data == [{"keys": {"user_id": None}, "features": {"segment": missing}}]


@pytest.mark.parametrize(("clock", "status"), [("known", "missing"), ("event", "present")])
def test_features_under_both_clocks(cli: Cli, filled: Path, clock: str, status: str) -> None:
    ran = cli(
        "features", "segment", "user_id=c", "--as-of", "2026-05-06T12:00Z", "--clock", clock, "--json",
        "--project", filled,
    )  # fmt: skip
    assert ran.data[0]["features"]["segment"]["status"] == status


# --- context


def test_context_now(cli: Cli, filled: Path) -> None:
    ran = cli("context", "home", "user_id=a", "--project", filled)
    assert ran == (0, "Viewer: power, watched 47 titles.\nSuggest 3 titles.\n", "")
    for command in (["context", "home"], ["features", "segment"]):
        blank = cli(*command, "user_id=", "--project", filled)
        assert blank.code == 0
        assert "note: user_id= is given without a value" in blank.err
        assert "note: user_id=" not in cli(*command, "user_id=a", "--project", filled).err
    nobody = cli("context", "home", "--nobody", "--project", filled)
    assert nobody.out.startswith("Viewer: unknown, watched 0 titles.")


def test_context_of_several_messages(cli: Cli, filled: Path) -> None:
    ran = cli("context", "support/answer", "user_id=a", "question=What is new?", "--project", filled)
    assert ran.out == "[system]\npower watched 47\n\n[user]\nWhat is new?\n"
    with_user = cli("context", "home", "user_id=a", "--user", "Hello", "--json", "--project", filled).data
    assert [one["role"] for one in with_user["chat"]["messages"]] == ["system", "user"]
    assert PromptContext.model_validate(cli("context", "home", "user_id=a", "--json", "--project", filled).data)
    assert with_user["features"]["watched"]["value"] == 47


def test_context_as_of_and_explained(cli: Cli, project: Path) -> None:
    ran = cli("context", "home", "user_id=a", "--as-of", "2026-05-02", "--explain", "--project", project)
    assert ran.out.startswith("Viewer: «casual», watched «22» titles.")
    assert "segment: present, 12h old, from view segment" in ran.out


def test_context_diff_marks_the_changed_words(cli: Cli, filled: Path) -> None:
    ran = cli("context", "home", "user_id=a", "--as-of", "2026-05-02", "--diff", "--project", filled)
    lines = ran.out.splitlines()
    assert lines[0] == "--- 2026-05-02T00:00:00Z"
    assert lines[1].startswith("+++ 20")
    assert lines[2:] == [
        "-Viewer: [-casual-], watched [-22-] titles.",
        "+Viewer: {+power+}, watched {+47+} titles.",
        " Suggest 3 titles.",
    ]
    both = cli("context", "home", "user_id=a", "--as-of", "2026-05-02", "--diff", "--json", "--project", filled).data
    assert "casual" in both["then"]["messages"][0]["content"]
    assert "power" in both["now"]["messages"][0]["content"]
    same = cli("context", "home", "user_id=a", "--as-of", "2026-05-06", "--diff", "--project", filled)
    assert "is the same as now" in same.err
    assert same.out.startswith(" Viewer: power")


def test_context_without_a_key_shows_three_examples(cli: Cli, filled: Path) -> None:
    ran = cli("context", "home", "--project", filled)
    assert ran.code == 0
    assert [line for line in ran.out.splitlines() if line.startswith("== ")] == [
        "== typical user: user_id=a",
        "== unknown user: user_id=unknown",
        "== user with nulls or missing values: user_id=b",
    ]
    assert "segment null, watched present\nViewer: unknown, watched 5 titles." in ran.out


def test_examples_show_an_error_and_placeholders(cli: Cli, filled: Path) -> None:
    ran = cli("context", "support/answer", "--project", filled)
    assert ran.code == 0
    assert "[user]\n<question>" in ran.out
    assert "placeholders stand for question" in ran.err
    assert ran.out.count("no prompt: feature 'segment'") == 2
    data = cli("context", "support/answer", "--json", "question=Why?", "--project", filled).data
    assert [one["error"] is None for one in data] == [True, False, False]
    assert data[0]["context"]["messages"][1]["content"] == "Why?"


def test_examples_of_an_empty_history(cli: Cli, tmp_path: Path) -> None:
    ran = cli("context", "home", "--project", make_project(tmp_path))
    assert ran.code == 0
    assert ran.out.count("there is none") == 2
    assert "unavailable" in ran.err
    assert "llmfeatures materialize" in ran.err


TRADE = """---
entities: {buyer: user, seller: user, shop: shop}
features:
  buyer.segment: {default: unknown}
  seller.segment: {default: unknown}
  open: {on_missing: none}
---
{{ buyer.segment }} buys from {{ seller.segment }} in {{ shop_id }}{% if open %}, open{% endif %}
"""


@pytest.fixture
def trade(tmp_path: Path) -> Path:
    """Two roles of one entity, and an entity with two join keys."""
    root = make_project(
        tmp_path / "trade",
        segments=[segment("a", "casual", at()), segment("b", None, at())],
        prompts={"trade": TRADE},
    )
    registry = root / "features.yaml"
    entities = "[{name: user, join_key: user_id}, {name: shop, join_keys: {tenant_id: int, shop_id: str}}]"
    view = "  - {name: shops, entity: shop, features: {open: bool}, source: data/shops.parquet}\n"
    registry.write_text(
        registry.read_text().replace("[{name: user, join_key: user_id}]", entities) + view, encoding="utf-8"
    )
    columns = {"tenant_id": [1, 2], "shop_id": ["north", "south"], "open": [True, None]}
    pq.write_table(
        pa.table({**columns, "event_timestamp": pa.array([at(), at()], MOMENT)}), root / "data" / "shops.parquet"
    )
    return root


def test_examples_of_roles_and_several_join_keys(cli: Cli, trade: Path) -> None:
    assert cli("materialize", "--project", trade).code == 0
    ran = cli("context", "trade", "--project", trade)
    assert ran.code == 0, ran
    assert ran.out.splitlines() == [
        "== typical user and shop: buyer_user_id=a seller_user_id=a tenant_id=1 shop_id=north",
        "buyer.segment present, seller.segment present, open present",
        "casual buys from casual in north, open",
        "",
        "== unknown user and shop: buyer_user_id=unknown seller_user_id=unknown tenant_id=-1 shop_id=unknown",
        "buyer.segment missing, seller.segment missing, open missing",
        "unknown buys from unknown in unknown",
        "",
        "== user and shop with nulls or missing values: buyer_user_id=b seller_user_id=b tenant_id=2 shop_id=south",
        "buyer.segment null, seller.segment null, open null",
        "unknown buys from unknown in south",
    ]


def test_features_by_several_join_keys(cli: Cli, trade: Path) -> None:
    arguments = ("--row", "tenant_id=1,shop_id=north", "--row", "tenant_id=2,shop_id=north", "--project", trade)
    lines = cli("features", "shop.open", "--as-of", "2026-05-08", *arguments).out.splitlines()
    assert [line.split()[:5] for line in lines[1:]] == [
        ["1", "north", "shop.open", "true", "present"],
        ["2", "north", "shop.open", "-", "missing"],
    ]
    assert "tenant_id is of type int" in cli("features", "open", "tenant_id=x", "shop_id=s", "--project", trade).err


@pytest.mark.parametrize(
    "written",
    [
        "str",
        "int",
        "float",
        "bool",
        "timestamp",
        "date",
        "json",
        "decimal(10,2)",
        "enum[a,b]",
        "list[str]",
        "list[int]",
    ],
)
def test_a_placeholder_is_of_its_dtype(written: str) -> None:
    dtype = parse_dtype(written)
    made = placeholder("question", dtype, 4 if written == "str" else None)
    assert dtype.canonical(made) == made
    assert written != "str" or made == "<que"


def test_a_diff_is_marked_in_colour_and_without() -> None:
    lines = worddiff.diff_lines("same\nlast genre: nothing yet.\ngone", "same\nlast genre: sci-fi.")
    assert [worddiff.plain(line) for line in lines] == [
        " same",
        "-last genre: [-nothing yet-].",
        "-[-gone-]",
        "+last genre: {+sci-fi+}.",
    ]
    assert worddiff.styled(lines[1]).plain == "-last genre: nothing yet."
    assert [worddiff.plain(line) for line in worddiff.diff_lines("a b c", "x y z")] == ["-[-a b c-]", "+{+x y z+}"]


# --- history


def test_history_writes_and_sums_up(cli: Cli, project: Path, tmp_path: Path) -> None:
    rows = [
        {"user_id": "a", "event_timestamp": at(day=2)},
        {"user_id": "c", "event_timestamp": at(day=6)},
        {"user_id": None, "event_timestamp": at(day=6)},
    ]
    requests = spine(tmp_path / "requests.parquet", rows)
    out = tmp_path / "evals.jsonl"
    ran = cli("history", "home", "--spine", requests, "--out", out, "--project", project)
    assert (ran.code, ran.out) == (0, "")
    lines = [json.loads(line)["messages"][0]["content"] for line in out.read_text().splitlines()]
    assert lines[0].startswith("Viewer: casual, watched 22")
    assert len(lines) == 3
    assert "3 prompts of 3 rows" in ran.err
    assert "segment: 2 missing, 1 present" in ran.err
    assert "1 value that the event clock would give had not arrived yet" in ran.err
    parquet = tmp_path / "evals.parquet"
    data = cli(
        "history", "home", "--spine", requests, "--out", parquet, "--clock", "event", "--json", "--project", project
    ).data
    assert (data["rows"], data["errors"], data["hidden"]) == (3, 0, 0)
    assert pq.read_table(parquet).num_rows == 3


def test_rows_without_a_prompt_make_the_exit_code(cli: Cli, project: Path, tmp_path: Path) -> None:
    rows = [
        {"user_id": "a", "event_timestamp": at(day=2), "question": "Why?"},
        {"user_id": "z", "event_timestamp": at(day=2), "question": "Why?"},
        {"user_id": "a", "event_timestamp": None, "question": "Why?"},
    ]
    requests = spine(tmp_path / "requests.parquet", rows)
    out = tmp_path / "evals.parquet"
    arguments = ("history", "support/answer", "--spine", requests, "--out", out, "--project", project)
    ran = cli(*arguments)
    assert ran.code == 1
    assert "2 rows without a prompt; the first: row 1: feature 'segment'" in ran.err
    assert pq.read_table(out).column("error").null_count == 1
    assert cli(*arguments, "--allow-errors").code == 0


@pytest.mark.parametrize("where", [None, "segment = 'platinum'"])
def test_no_rows_are_one_warning(cli: Cli, project: Path, tmp_path: Path, where: str | None) -> None:
    empty = tmp_path / "none.parquet"
    pq.write_table(pa.table({"user_id": pa.array([], pa.string()), "event_timestamp": pa.array([], MOMENT)}), empty)
    drawn = ("--users", 9, "--where", where)
    arguments = (*(("--spine", empty) if where is None else drawn), "--out", tmp_path / "x.jsonl")
    ran = cli("history", "home", *arguments, "--project", project)
    assert (ran.code, ran.out) == (0, "")
    first, second = ran.err.splitlines()
    assert first.startswith("note: no rows were found: " + ("--where is" if where else str(empty)))
    assert second.startswith("note: 0 prompts of 0 rows in ")
    ran = cli("history", "home", *arguments, "--json", "--project", project)
    assert ran.data["rows"] == 0
    assert ran.err.startswith("note: no rows were found")


def test_fewer_users_than_asked_for_are_told(cli: Cli, project: Path, tmp_path: Path) -> None:
    def told(*options: object) -> list[str]:
        ran = cli("history", "home", *options, "--out", tmp_path / "x.parquet", "--project", project)
        assert ran.code == 0
        return [line for line in ran.err.splitlines() if "not 2,000,000" in line]

    assert told("--users", 2_000_000) == ["note: 3 users are known, not 2,000,000"]
    assert told("--users", 2_000_000, "--where", "watched > 9") == [
        "note: 1 user is known for whom --where is ever true, not 2,000,000"
    ]
    assert told("--users", 3) == told("--where", "watched > 9") == []


def test_the_files_of_a_split_are_named(cli: Cli, project: Path, tmp_path: Path) -> None:
    out, parts = tmp_path / "sp.jsonl.zst", [tmp_path / f"sp.{name}.jsonl.zst" for name in ("train", "test")]
    split = ("history", "home", "--users", 3, "--split", "train=0.5,test=0.5", "--out", out, "--project", project)
    ran = cli(*split)
    assert ran.code == 0
    assert f"rows in {parts[0]}, {parts[1]}\n" in ran.err
    data = cli(*split, "--json").data
    assert data["parts"] == {"train": str(parts[0]), "test": str(parts[1])}
    assert "out" not in data
    assert all(Path(one).is_file() for one in data["parts"].values())


@pytest.mark.parametrize(
    ("name", "form", "says"),
    [
        ("a.parquet", "chat", "a.parquet is lines of JSON, as the format chat is"),
        ("q.jsonl", "parquet", "q.jsonl is a Parquet file, as the format parquet is"),
        ("q.csv", "hf", "q.csv is a Parquet file, as the format hf is"),
        ("a.jsonl.gz", "promptfoo", None),
        ("a.parquet", "hf", None),
        ("a", "parquet", None),
    ],
)
def test_a_name_that_says_another_format_is_told(
    cli: Cli, project: Path, tmp_path: Path, name: str, form: str, says: str | None
) -> None:
    ran = cli("history", "home", "--users", 1, "--out", tmp_path / name, "--format", form, "--project", project)
    assert ran.code == 0
    assert (tmp_path / name).is_file()
    told = [line for line in ran.err.splitlines() if " the format " in line]
    assert [one.partition(";")[0] for one in told] == ([f"note: {says}"] if says else [])


# --- mistakes


MISTAKES: list[tuple[int, str, str]] = [
    (2, "context hom user_id=a", "did you mean 'home'?"),
    (2, "context home user=a", "prompt 'home' takes no 'user'"),
    (2, "context home a", "'a' is no NAME=VALUE"),
    (2, "context home user_id=a user_id=b", "user_id is given twice"),
    (2, "context home user_id=a --as-of yesterday", "ISO 8601"),
    (2, "context home user_id=a --as-of 2026-05-02 --clock wall", "unknown clock 'wall'"),
    (2, "context home user_id=a --clock event", "--clock goes with --as-of"),
    (2, "context home user_id=a --diff", "--diff needs --as-of"),
    (2, "context home --diff --as-of 2026-05-02", "give user_id=VALUE"),
    (2, "context support/answer user_id=a", "needs the input 'question'"),
    (1, "context support/answer user_id=z question=x", "{on_missing: none}"),
    (2, "context support/answer user_id=a question=x --user more", "already ends in a user message"),
    (2, "context ../home user_id=a", "unknown prompt"),
    (2, "features segmnt user_id=a", "did you mean 'segment'?"),
    (2, "features segment", "user_id is required; give user_id=VALUE"),
    (2, "features user_id=a", "no feature is named"),
    (2, "features segment user=a", "takes no 'user'"),
    (2, "features segment user_id=a --as-of x", "ISO 8601"),
    (2, "list things", "features, prompts"),
    (2, "materialize segmen", "did you mean 'segment'?"),
    (2, "materialize --until soon", "ISO 8601"),
    (2, "materialize --fast", "No such option"),
    (2, "nothing", "No such command"),
    (2, "history home --out x.jsonl", "--spine"),
    (1, "history home --spine {tmp}/none.parquet --out {tmp}/x.jsonl", "none.parquet"),
    (2, "history home --spine {tmp}/s.parquet --out {tmp}/x.xls", ".parquet or .jsonl"),
    (
        2,
        "history home --spine {tmp}/s.parquet --out {tmp}/x.jsonl --format csv",
        "chat, hf, inspect, langfuse, mlflow, parquet, promptfoo",
    ),
    (2, "history home --users 1 --out -", "--out is the name of a file"),
    (2, "history home --users 1 --out {tmp}/x.jsonl --report -", "--report is the name of a file"),
    (2, "history home --users 1 --out {tmp}/q.parquet.zst --format parquet", "end --out in .parquet"),
    (2, "history home --spine {tmp}/s.parquet --users 1 --out {tmp}/x.jsonl", "users draws a spine"),
    (2, "history home --spine {tmp}/s.parquet --out {tmp}/none/x.jsonl", "cannot write"),
    (2, "history home --spine {tmp}/s.parquet --out {tmp}/x.jsonl --clock wall", "unknown clock"),
    (1, "history support/answer --spine {tmp}/s.parquet --out {tmp}/x.jsonl", "no column 'question'"),
    (2, "check --project {tmp}/nowhere/at/all", "llmfeatures init"),
    (2, "demo --sample {tmp}", "has no sample project"),
]


@pytest.mark.parametrize(("code", "words", "says"), MISTAKES, ids=[words for _, words, _ in MISTAKES])
def test_a_mistake_is_one_sentence(
    cli: Cli, filled: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, words: str, says: str
) -> None:
    spine(tmp_path / "s.parquet", [{"user_id": "a", "event_timestamp": at(day=2)}])
    monkeypatch.chdir(filled)
    before = sorted(path.name for path in tmp_path.iterdir())
    ran = cli(*words.replace("{tmp}", str(tmp_path)).split())
    assert ran.code == code, ran
    assert ran.out == ""
    assert re.fullmatch(r"error: [^\n]+\n", ran.err), ran.err
    assert says in ran.err
    assert "Traceback" not in ran.err
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize(
    ("file", "text", "code"),
    [
        ("llmfeatures.toml", "[project\n", 2),
        ("llmfeatures.toml", '[project]\nname = "x"\nregistri = "features.yaml"\n', 2),
        ("features.yaml", "entities: [}", 1),
        ("prompts/home.prompt.j2", "{% if %}", 1),
        ("prompts/home.prompt.j2", "---\nfeatures: {segment: {deflt: 1}}\n---\n{{ segment }}", 1),
        ("data/segment.parquet", "no parquet", 1),
    ],
)
def test_a_broken_project_is_one_sentence(cli: Cli, project: Path, file: str, text: str, code: int) -> None:
    (project / file).write_text(text)
    ran = cli("context", "home", "user_id=a", "--as-of", "2026-05-02", "--project", project)
    assert ran.code == code, ran
    assert re.fullmatch(r"error: [^\n]+\n", ran.err), ran.err


def test_a_store_that_is_not_there(cli: Cli, tmp_path: Path) -> None:
    project = make_project(tmp_path, online="redis://127.0.0.1:1/0")
    ran = cli("materialize", "--project", project)
    assert ran.code == 1
    assert re.fullmatch(r"error: [^\n]+\nerror: view 'activity' was not run\n", ran.err), ran.err
    context = cli("context", "home", "user_id=a", "--project", project)
    assert context.code == 0
    assert context.err.startswith("note: segment, watched unavailable: ")


# --- output


def terminal(arguments: list[object], **environment: str) -> str:
    """What a terminal of 100 columns shows."""
    ran = subprocess.run(
        [sys.executable, "-m", "llmfeatures", *map(str, arguments)],
        capture_output=True,
        check=True,
        env={**os.environ, "FORCE_COLOR": "1", "COLUMNS": "100", "TERM": "xterm-256color", **environment},
    )
    return ran.stdout.decode()


def test_a_terminal_gets_colours_and_a_fitting_table(filled: Path) -> None:
    arguments: list[object] = ["context", "home", "user_id=a", "--as-of", "2026-05-02", "--diff", "--project", filled]
    assert "\x1b[" in terminal(arguments)
    assert "[-casual-]" in terminal(arguments, NO_COLOR="1")
    plain = re.sub(r"\x1b\[[0-9;]*m", "", terminal(["list", "--project", filled]))
    assert max(map(len, plain.splitlines())) <= 100
    assert [line.split()[0] for line in plain.splitlines()] == ["feature", "segment", "watched"]


def test_a_value_never_drives_the_terminal(cli: Cli, tmp_path: Path) -> None:
    hostile = "\x1b[31mred\nnext [bold]line[/bold] :smile:"
    project = make_project(tmp_path, segments=[segment("a", hostile, at())])
    ran = cli("features", "segment", "user_id=a", "--as-of", "2026-05-08", "--project", project)
    assert "\\x1b[31mred\\nnext [bold]line[/bold] :smile:" in ran.out
    assert len(ran.out.splitlines()) == 2


def test_a_reader_that_leaves_is_no_traceback(filled: Path) -> None:
    shown = f'"{sys.executable}" -m llmfeatures list --json --project "{filled}" | true'
    ran = subprocess.run(["bash", "-c", shown], capture_output=True, text=True, check=False)
    assert "Traceback" not in ran.stderr


def test_an_interrupt_leaves_no_half_written_file(filled: Path, tmp_path: Path) -> None:
    count = 3_000_000
    user, moment = pa.scalar("a"), pa.scalar(at(day=2), MOMENT)
    table = pa.table({"user_id": pa.repeat(user, count), "event_timestamp": pa.repeat(moment, count)})
    pq.write_table(table, tmp_path / "large.parquet")
    target = tmp_path / "out"
    target.mkdir()
    process = subprocess.Popen(
        [
            sys.executable, "-m", "llmfeatures", "history", "home", "--project", filled,
            "--spine", tmp_path / "large.parquet", "--out", target / "evals.parquet",
        ],
        stderr=subprocess.PIPE,
        text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not any(target.iterdir()) and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert {one.name for one in target.iterdir()} <= {".evals.parquet.partial"}
    assert "kept" in err


def test_the_repository_is_a_project_too(cli: Cli, tmp_path: Path) -> None:
    root = Path(__file__).parent.parent
    for part in ("data", "prompts", "examples"):
        shutil.copytree(root / part, tmp_path / part)
    shutil.copyfile(root / "pyproject.toml", tmp_path / "pyproject.toml")
    ran = cli("check", "--project", tmp_path)
    assert ran.code == 0
    assert "checked 3 views, 2 prompts: 0 errors" in ran.out


@pytest.mark.parametrize(
    ("rows", "total", "seconds", "said"),
    [
        (0, None, 0.0, "joining"),
        (0, 1_200, 3.0, "joining 1,200 rows"),
        (500, None, 2.0, "500 rows, 250 rows/s"),
        (500, 1_500, 2.0, "500 of 1,500 rows, 250 rows/s, 0:00:04 left"),
    ],
)
def test_progress_of_a_history(rows: int, total: int | None, seconds: float, said: str) -> None:
    from llmfeatures.cli.history import progress_text

    assert progress_text(rows, total, seconds) == said


def test_progress_of_a_history_that_goes_on() -> None:
    from llmfeatures.cli.history import progress_text

    assert progress_text(1_000, 3_000, 2.0, 1_000) == "joining 2,000 rows"
    assert progress_text(2_000, 3_000, 2.0, 1_000) == "2,000 of 3,000 rows, 500 rows/s, 0:00:02 left"


def test_an_error_after_an_interrupt_is_the_interrupt_s(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    """DuckDB and Arrow make errors of their own of Ctrl-C, and another thread may find them first."""
    import os

    from llmfeatures.errors import SourceError
    from llmfeatures.project import Project

    def load(*_: object, **__: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(5)
        except KeyboardInterrupt:
            raise SourceError("not enough memory") from None

    monkeypatch.setattr(Project, "load", load)
    ran = cli("status")
    assert (ran.code, ran.out, ran.err) == (130, "", "")
