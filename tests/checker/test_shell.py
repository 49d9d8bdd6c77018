"""``llmfeatures check`` as its users run it: formats, exit codes, ignore comments, configuration, fixes, the cache."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jsonschema_rs
import pytest
import yaml

from llmfeatures.checker import warm
from llmfeatures.cli.app import run
from llmfeatures.cli.asked import quick
from llmfeatures.project import Project
from tests.checker.sarif import SCHEMA as SARIF
from tests.projects import at, make_project, segment, watched

ROOT = Path(__file__).parents[2]
GOOD = "---\nfeatures:\n  segment: {default: unknown}\n  watched: {default: 0}\n---\n{{ segment }} {{ watched }}\n"
FAULTY = """---
features:
  segment: {default: unknown}
  watched: {default: 0}
---
{{ segment }}:
{% if watched >= "20" %}
heavy
{% endif %}
{{ 30 / watched }}
"""


class Ran(NamedTuple):
    code: int
    out: str
    err: str

    @property
    def problems(self) -> list[dict[str, Any]]:
        return json.loads(self.out)["problems"]

    @property
    def codes(self) -> list[str]:
        return [one["code"] for one in self.problems]


Check = Callable[..., Ran]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = make_project(
        tmp_path / "project",
        segments=[segment("a", "casual", at(), at())],
        counts=[watched("a", 22, at())],
        prompts={"home": GOOD},
    )
    monkeypatch.chdir(root)
    return root


@pytest.fixture
def check(project: Path, capsys: pytest.CaptureFixture[str]) -> Check:
    def call(*arguments: object) -> Ran:
        capsys.readouterr()
        code = run(["check", *map(str, arguments)])
        return Ran(code, *capsys.readouterr())

    return call


def put(project: Path, text: str, name: str = "home") -> Path:
    path = project / "prompts" / f"{name}.prompt.j2"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


# --- formats and exit codes


def test_text_shows_the_line_and_what_to_do(check: Check, project: Path) -> None:
    put(project, FAULTY)
    ran = check("--no-sources")
    assert ran.code == 1
    assert ran.out.startswith(
        "error[LF012]: comparing watched, an int, with a str: >= always fails\n"
        "  --> prompts/home.prompt.j2:7:7\n"
        '7 | {% if watched >= "20" %}\n'
        "  |       ^^^^^^^^^^^^^^^\n"
    )
    assert "\n  = help: write 20 without quotes\n\nwarning[LF052]: " in ran.out
    assert ran.out.endswith("\nchecked 2 views, 1 prompt: 1 error, 1 warning\n")
    assert "\x1b" not in ran.out


def test_json_is_for_programs(check: Check, project: Path) -> None:
    put(project, FAULTY)
    ran = check("--json")
    assert ran.code == 1
    assert json.loads(ran.out)["checked"] == {"views": 2, "prompts": 1}
    (first,) = (one for one in ran.problems if one["code"] == "LF012")
    assert first["where"] == "prompts/home.prompt.j2:7:7"
    assert (first["rule"], first["severity"], first["end_line"]) == ("compare-type", "error", 7)
    assert check("--format", "json").out == ran.out
    assert check("--json", "--format", "text").code == 2


def test_github_annotates_the_line(check: Check, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(project, FAULTY.replace("{{ segment }}:", "100%, {{ segmnt }}"))
    monkeypatch.chdir(project.parent)  # the repository's root
    lines = check("--project", project, "--no-sources", "--format", "github").out.splitlines()
    (unknown,) = (line for line in lines if "LF010" in line)
    assert unknown.startswith(
        "::error file=project/prompts/home.prompt.j2,line=6,col=10,title=LF010 unknown-name,endColumn=15::"
    )
    assert sorted({line.split(" ")[0] for line in lines}) == ["::error", "::notice", "::warning"]
    put(project, "{{ a, 100 % b: c }}\n")
    for line in check("--project", project, "--no-sources", "--format", "github").out.splitlines():
        assert line.startswith("::")
        assert "%" not in line.replace("%25", "").replace("%0A", "").replace("%0D", "").replace("%3A", "").replace(
            "%2C", ""
        )


def test_sarif_is_what_its_schema_says(check: Check, project: Path) -> None:
    put(project, FAULTY)
    put(project, "{{ Größe }}", "ä b")
    ran = check("--format", "sarif")
    assert ran.code == 1
    log = json.loads(ran.out)
    validator = jsonschema_rs.Draft7Validator(SARIF)
    assert [str(error) for error in validator.iter_errors(log)] == []
    (one,) = log["runs"]
    results = one["results"]
    (compared,) = (result for result in results if result["ruleId"] == "LF012")
    (location,) = compared["locations"]
    assert location["physicalLocation"]["region"] == {"startLine": 7, "startColumn": 7, "endLine": 7, "endColumn": 22}
    assert location["physicalLocation"]["artifactLocation"]["uri"] == "prompts/home.prompt.j2"
    rule = one["tool"]["driver"]["rules"][compared["ruleIndex"]]
    assert rule["id"] == "LF012"
    assert "Good:" in rule["help"]["markdown"]
    (change,) = compared["fixes"][0]["artifactChanges"]
    assert change["replacements"][0]["insertedContent"]["text"] == "20"
    assert any(
        "%C3%A4%20b" in result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"]
        for result in results
        if "locations" in result
    )


@pytest.mark.parametrize(("fail_on", "code"), [("error", 0), ("warning", 1), ("info", 1), ("never", 0)])
def test_fail_on(check: Check, project: Path, fail_on: str, code: int) -> None:
    put(project, GOOD + "{{ 30 / watched }}\n")
    assert check("--no-sources", "--fail-on", fail_on).code == code
    put(project, FAULTY)
    assert check("--no-sources", "--fail-on", fail_on).code == (0 if fail_on == "never" else 1)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--format", "xml"], "--format has no 'xml'; the valid choices are: github, json, sarif, text"),
        (["--fail-on", "errors"], "did you mean 'error'?"),
        (["--ignore", "LF999"], "there is no rule 'LF999'"),
        (["--explain", "LF0012"], "there is no rule 'LF0012'; did you mean 'LF012'"),
        (["nowhere.prompt.j2"], "nowhere.prompt.j2 is not there; give a prompt file, a partial or a folder of prompts"),
        (["features.yaml"], "features.yaml is no prompt: prompts are files NAME.prompt.j2 in prompts"),
    ],
)
def test_bad_usage_says_what_to_do(check: Check, arguments: list[str], said: str) -> None:
    ran = check(*arguments)
    assert (ran.code, ran.out) == (2, "")
    assert said in ran.err


def test_explain(check: Check) -> None:
    listed = check("--explain").out
    assert "LF012  error     compare-type" in listed
    both = check("--explain", "LF012", "LF020").out
    assert both.startswith("# LF012 compare-type\n")
    assert "\n# LF020 none-printed\n" in both
    assert "```jinja\n" in both
    rules = json.loads(check("--explain", "LF012", "LF020", "--json").out)
    assert [(one["code"], one["page"] in both) for one in rules] == [("LF012", True), ("LF020", True)]
    assert len(json.loads(check("--explain", "--format", "json").out)) == len(listed.splitlines()) - 1


def test_the_schema_is_printed(check: Check) -> None:
    assert json.loads(check("--schema").out)["$schema"].endswith("2020-12/schema")


# --- which files


def test_paths(check: Check, project: Path) -> None:
    put(project, "{{ segmnt }}{% include '_shared/a.j2' %}", "support/answer")
    put(project, "{{ watchd }}", "support/deep/er")
    (project / "prompts" / "_shared").mkdir()
    (project / "prompts" / "_shared" / "a.j2").write_text("{{ segmen }}")

    def places(*paths: str) -> set[str]:
        return {one["path"] for one in check("--json", *paths).problems if one["severity"] == "error"}

    answer, deeper, partial = (
        "prompts/support/answer.prompt.j2",
        "prompts/support/deep/er.prompt.j2",
        "prompts/_shared/a.j2",
    )
    assert places("prompts/home.prompt.j2") == set()
    assert places(answer) == {answer, partial}
    assert places("prompts/support") == places("prompts") == places(".") == {answer, deeper, partial}
    assert places("prompts/support/deep", "prompts/home.prompt.j2") == {deeper}
    assert places("prompts/_shared/a.j2") == places("prompts/_shared") == {answer, partial}


def test_what_needs_the_whole_project(check: Check, project: Path) -> None:
    (project / "prompts" / "_shared").mkdir()
    (project / "prompts" / "_shared" / "old.j2").write_text("old")
    put(project, "---\nfeatures: {segment: {default: x}}\n---\n{{ segment }}")
    (project / "data" / "watched.parquet").unlink()
    assert check("--json").codes == ["LF006", "LF063", "LF062"]
    assert check("--json", "--no-sources").codes == ["LF063", "LF062"]
    assert check("--json", "prompts").codes == []
    broken = check("--json", "--no-sources", "--select", "LF062,LF063")
    assert broken.codes == ["LF063", "LF062"]
    put(project, "{% if %}", "broken")
    assert check("--json", "--no-sources", "--select", "LF062", "--select", "LF063").codes == []  # nobody knows


def test_nothing_heavy_is_loaded_without_need(check: Check, project: Path) -> None:
    put(project, FAULTY)
    code = (
        "import sys, llmfeatures.cli.app as a\n"
        "assert a.run(['check', *sys.argv[1:]]) == 1\n"
        "print([n for n in ('duckdb', 'pyarrow', 'redis', 'openai', 'fastapi') if n in sys.modules])"
    )
    check()
    put(project, FAULTY + "x")  # the sources are the same
    for arguments in (["prompts"], ["--no-sources", "--no-cache"], []):
        ran = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
        assert ran.stdout.splitlines()[-1] == "[]", arguments


def test_a_registry_that_does_not_load(check: Check, project: Path) -> None:
    (project / "features.py").write_text("from llmfeatures import Entity\n\nuser = Entity('user', join_ky='x')\n")
    config = project / "llmfeatures.toml"
    config.write_text(config.read_text().replace("features.yaml", "features.py"))
    ran = check()
    assert ran.code == 1
    assert "  --> features.py:3\n3 | user = Entity('user', join_ky='x')\n" in ran.out
    (project / "features.py").write_text("import nowhere_to_be_found\n")
    assert "No module named 'nowhere_to_be_found'" in check().out


def test_an_unreadable_prompt_is_one_finding(check: Check, project: Path) -> None:
    (project / "prompts" / "home.prompt.j2").write_bytes(b"\xff\xfe")
    (project / "prompts" / "_shared").mkdir()
    (project / "prompts" / "_shared" / "a.j2").write_bytes(b"caf\xe9")
    put(project, "{% include '_shared/a.j2' %}", "other")
    found = check("--json", "--no-sources")
    errors = [(one["code"], one["path"]) for one in found.problems if one["severity"] == "error"]
    assert errors == [("LF001", "prompts/home.prompt.j2"), ("LF001", "prompts/_shared/a.j2")]


def test_project_check_says_the_same(check: Check, project: Path) -> None:
    put(project, FAULTY)
    with_info = [one for one in check("--json").problems if one["severity"] != "info"]
    found = Project.load(project).check()
    assert [(one.code, one.severity, one.where) for one in found] == [
        (one["code"], one["severity"], one["where"]) for one in with_info
    ]
    assert any(one.message.endswith("; write 20 without quotes") for one in found)


# --- which rules


def test_configuration(check: Check, project: Path) -> None:
    put(project, FAULTY)
    put(project, FAULTY, "support/answer")
    config = project / "llmfeatures.toml"
    plain = config.read_text()
    config.write_text(
        plain + '[check]\nignore = ["LF062", "LF007"]\nerror = ["LF052"]\nwarning = ["LF012"]\n'
        'per_file = {"support/*" = ["LF052"]}\n'
    )
    found = [(one["code"], one["severity"], one["path"]) for one in check("--json").problems]
    assert found == [
        ("LF012", "warning", "prompts/home.prompt.j2"),
        ("LF052", "error", "prompts/home.prompt.j2"),
        ("LF012", "warning", "prompts/support/answer.prompt.j2"),
    ]
    assert check("--json", "--select", "LF052").codes == ["LF052"]
    assert check("--json", "--select", "LF052", "--ignore", "LF052").codes == []
    config.write_text(plain + '[check]\nignore = ["LF102"]\n')
    ran = check()
    assert ran.code == 2
    assert "[check] ignore: there is no rule 'LF102'; did you mean 'LF" in ran.err


# --- the cache


def test_nothing_is_done_again_and_nothing_is_stale(check: Check, project: Path, capsys: Any) -> None:
    home = put(project, FAULTY)
    shared = project / "prompts" / "_shared" / "a.j2"
    shared.parent.mkdir()
    shared.write_text("{{ segment }}")
    put(project, "---\nfeatures: {segment: {default: x}}\n---\n{% include '_shared/a.j2' %}", "other")
    first = check("--json")
    assert "LF012" in first.codes
    capsys.readouterr()
    assert quick(["check", "--json"]) == 1  # the answer is known
    assert capsys.readouterr().out == check("--json").out == first.out

    def changed(path: Path, text: str) -> list[str]:
        before = path.read_text() if path.exists() else None
        path.write_text(text)
        assert quick(["check", "--json"]) is None
        codes = check("--json").codes
        assert codes == check("--json", "--no-cache").codes
        path.unlink() if before is None else path.write_text(before)
        return codes

    assert "LF012" not in changed(home, GOOD)
    assert "LF010" in changed(shared, "{{ segmen }}")
    assert "LF063" in changed(shared.parent / "b.j2", "{{ segment }}")
    assert "LF012" not in changed(
        project / "llmfeatures.toml", (project / "llmfeatures.toml").read_text() + "[check]\nignore = ['LF012']\n"
    )
    registry = project / "features.yaml"
    assert "LF012" not in changed(registry, registry.read_text().replace("watched: int", "watched: str"))
    (project / "data" / "watched.parquet").unlink()
    assert "LF006" in check("--json").codes


def test_a_registry_in_several_files_is_seen(check: Check, project: Path) -> None:
    (project / "features.py").write_text(
        "import json, pathlib\nfrom llmfeatures import Entity, FeatureView, Registry\n"
        "from my_dtypes_of_test import KIND\n"
        "more = json.loads((pathlib.Path(__file__).parent / 'more.json').read_text())\n"
        "features = {'segment': KIND, **more}\n"
        "registry = Registry([FeatureView('v', Entity('user', join_key='user_id'), 'data/v.parquet', features)])\n"
    )
    (project / "my_dtypes_of_test.py").write_text("KIND = 'str'\n")
    (project / "more.json").write_text('{"watched": "int"}')
    config = project / "llmfeatures.toml"
    config.write_text(config.read_text().replace("features.yaml", "features.py"))
    put(project, FAULTY)

    def codes() -> list[str]:
        run = [sys.executable, "-m", "llmfeatures", "check", "--json", "--no-sources"]
        # modules of the project's root are importable where it is on the path
        ran = subprocess.run(
            run, capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(project)}
        )
        return [one["code"] for one in json.loads(ran.stdout)["problems"]]

    assert codes() == codes() == ["LF012", "LF052"]
    (project / "more.json").write_text('{"watched": "str"}')
    assert "LF012" not in codes()
    (project / "more.json").write_text('{"watched": "int"}')
    (project / "my_dtypes_of_test.py").write_text("KIND = 'list[str]'\n")
    assert codes() != ["LF012", "LF052"]


@pytest.mark.parametrize(
    "text", ["", "{", "[]", '{"format": 1}', '{"format": 1, "runs": {"x": 3}}', '{"format": 99}', "\0"]
)
def test_a_broken_cache_is_ignored(check: Check, project: Path, text: str) -> None:
    put(project, FAULTY)
    good = check("--json").out
    folder = project / ".llmfeatures" / "check"
    for path in folder.iterdir():
        path.write_text(text)
    assert check("--json").out == good
    for path in folder.iterdir():
        data = json.loads(path.read_text())
        path.write_text(json.dumps({key: [1] for key in data}))
    assert check("--json").out == good


def test_a_state_folder_that_cannot_be_written_is_no_error(check: Check, project: Path) -> None:
    put(project, FAULTY)
    (project / ".llmfeatures").write_text("a file")
    assert check("--json", "--no-sources").codes == ["LF012", "LF052"]


@pytest.mark.heavy
def test_many_processes_at_once(check: Check, project: Path) -> None:
    for number in range(12):
        put(project, FAULTY, f"p{number}")
    want = check("--json", "--no-sources", "--no-cache").out
    command = [sys.executable, "-m", "llmfeatures", "check", "--json", "--no-sources"]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    assert {one.communicate()[0] for one in running} == {want}
    assert check("--json", "--no-sources").out == want


def test_two_processes_find_what_one_finds(check: Check, project: Path) -> None:
    for number in range(30):
        put(project, FAULTY.replace("heavy", f"heavy {number}"), f"p{number:02}")
    loaded = Project.load(project)
    alone = [(one.where, one.code) for one in loaded.check() if one.code == "LF012"]
    assert [(one["where"], one["code"]) for one in check("--json", "--no-cache", "--select", "LF012").problems] == alone
    assert len(alone) == 30


def test_the_quick_way_understands_or_leaves_it(check: Check, project: Path, capsys: Any) -> None:
    put(project, FAULTY)
    for arguments in (
        ["--format=github", "--no-sources"],
        ["prompts/home.prompt.j2", "--select", "LF012"],
        ["prompts", "--ignore=LF012", "--fail-on", "warning"],
        ["--project", ".", "--format", "sarif", "--fail-on=never"],
    ):
        ran = check(*arguments)
        capsys.readouterr()
        assert quick(["check", *arguments]) == ran.code, arguments
        assert capsys.readouterr().out == ran.out
    for left in (
        ["--fix"],
        ["--explain"],
        ["--help"],
        ["--no-cache"],
        ["--format"],
        ["--format", "xml"],
        ["-x"],
        ["nowhere"],
    ):
        assert quick(["check", *left]) is None
    assert quick(["status"]) is None
    assert quick([]) is None


def test_folders_that_a_registry_lists_and_installed_packages_count(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "words").mkdir()
    inputs = warm.Inputs()
    with warm.recording(inputs, tmp_path):
        list((tmp_path / "words").glob("*"))
    before = inputs.digests()
    assert before
    (tmp_path / "words" / "pro").write_text("")
    assert inputs.digests() != before
    packages = tmp_path / "site-packages"
    packages.mkdir()
    monkeypatch.syspath_prepend(packages)
    installed = warm.packages_installed()
    (packages / "team_features-2.dist-info").mkdir()
    assert warm.packages_installed() != installed


def test_what_a_registry_asks_elsewhere_is_not_kept(tmp_path: Path) -> None:
    inputs = warm.Inputs()
    with warm.recording(inputs, tmp_path):
        subprocess.run([sys.executable, "-c", ""], check=True)
    assert inputs.unknown


# --- the hook


def test_the_pre_commit_hook_runs(project: Path) -> None:
    (hook,) = yaml.safe_load((ROOT / ".pre-commit-hooks.yaml").read_text())
    assert {"id", "name", "entry", "language", "files", "pass_filenames"} <= set(hook)
    assert (hook["id"], hook["language"], hook["pass_filenames"]) == ("llmfeatures-check", "python", False)
    put(project, FAULTY)
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    ran = subprocess.run(hook["entry"].split(), capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == 1
    assert "error[LF012]" in ran.stdout
