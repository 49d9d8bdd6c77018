"""`materialize --due`, and the schedules of docs/schedules.md."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

import pytest

from llmfeatures import Project
from llmfeatures.cli.app import run
from llmfeatures.materialize import MaterializeReport
from tests.projects import SEGMENTS, WATCHED, at, make_project, segment, watched, write_rows

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "schedules.md").read_text(encoding="utf-8")
DAG = ROOT / "examples" / "airflow_dag.py"
BLOCK = re.compile(r"^```(\w+)(?: (\w+))?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
CADENCES = {"segment": "1d", "activity": "1h"}


@pytest.fixture(params=["sqlite", "redis"])
def online(request: pytest.FixtureRequest) -> str:
    return "sqlite" if request.param == "sqlite" else request.getfixturevalue("redis_url")


def made(root: Path, *, online: str = "sqlite", cadences: dict[str, str] = CADENCES) -> Path:
    make_project(root, segments=[segment("a", "x", at(1), at(1))], counts=[watched("a", 1, at(1))], online=online)
    path = root / "features.yaml"
    text = path.read_text()
    for name, cadence in cadences.items():
        text = text.replace(f"{{name: {name},", f"{{name: {name}, cadence: {cadence},")
    path.write_text(text)
    return root


def load(root: Path, moment: datetime) -> Project:
    return Project.load(root, now=lambda: moment)


def due_run(root: Path, moment: datetime, views: Sequence[str] | None = None) -> list[str]:
    """The views that a run takes."""
    project = load(root, moment)
    expected = project.due()
    report = project.materialize(views, due=True)
    assert [one.view for one in report.views] == [one for one in expected if views is None or one in views]
    project.close()
    return [one.view for one in report.views]


def test_each_view_once_per_cadence(tmp_path: Path, online: str) -> None:
    made(tmp_path, online=online)
    assert due_run(tmp_path, at(9, 20)) == ["segment", "activity"]  # never filled
    assert due_run(tmp_path, at(9, 59)) == []
    assert due_run(tmp_path, at(10)) == ["activity"]
    assert due_run(tmp_path, at(10)) == []
    assert due_run(tmp_path, at(14, 1)) == ["activity"]  # once, for all that was missed
    assert due_run(tmp_path, at(0, 0, day=8)) == ["segment", "activity"]


def test_a_run_that_was_missed_brings_all_rows(tmp_path: Path) -> None:
    made(tmp_path)
    due_run(tmp_path, at(9))
    write_rows(tmp_path / "data/watched.parquet", [watched("a", n, at(n)) for n in (1, 10, 12)], WATCHED)
    assert due_run(tmp_path, at(13)) == ["activity"]
    (row,) = load(tmp_path, at(13)).get_online_features(["watched"], [{"user_id": "a"}])
    assert row["watched"].value == 12


def test_due_among_named_views_and_never_without_a_cadence(tmp_path: Path) -> None:
    made(tmp_path, cadences={"activity": "1h"})
    assert due_run(tmp_path, at(9), ["segment"]) == []
    assert due_run(tmp_path, at(9)) == ["activity"]
    assert [one.view for one in load(tmp_path, at(9)).materialize().views] == ["segment", "activity"]
    assert due_run(tmp_path, at(12), ["segment"]) == []
    assert due_run(tmp_path, at(12), ["segment", "activity"]) == ["activity"]


def test_another_definition_is_due(tmp_path: Path) -> None:
    made(tmp_path)
    due_run(tmp_path, at(9))
    path = tmp_path / "features.yaml"
    path.write_text(path.read_text().replace("{watched: int}", "{watched: float}"))
    assert due_run(tmp_path, at(9, 1)) == ["activity"]


def test_a_view_that_failed_stays_due(tmp_path: Path) -> None:
    made(tmp_path)
    due_run(tmp_path, at(9))
    rows = [segment("a", None, at(10), at(10))]
    write_rows(tmp_path / "data/segment.parquet", rows, SEGMENTS)
    path = tmp_path / "features.yaml"
    path.write_text(path.read_text().replace("{name: segment,", "{name: segment, expect: {max_nulls: 0},"))
    project = load(tmp_path, at(1, day=8))
    report: MaterializeReport = project.materialize(due=True, check=False)
    assert [one.view for one in report.failures] == ["segment"]
    assert project.due() == ["segment"]


def test_two_runs_do_not_overlap(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path)
    project = load(tmp_path, at(9))
    with project.state.alone("materialize-due") as alone:
        assert alone
        report = project.materialize(due=True)
        assert report.running_elsewhere
        assert report.views == ()
        assert run(["materialize", "--due", "--project", str(tmp_path)]) == 0
        assert "another run of --due is going on" in " ".join(capsys.readouterr().err.split())
        assert project.due() == ["segment", "activity"]
        assert [one.view for one in project.materialize("segment").views] == ["segment"]  # one that was asked for
    assert [one.view for one in project.materialize(due=True).views] == ["activity"]


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made(tmp_path, cadences={"activity": "365d"})
    where = ["--project", str(tmp_path)]
    assert run(["materialize", "segment", "--due", *where]) == 0
    assert "no view is due" in capsys.readouterr().err
    assert run(["materialize", "--due", "--json", *where]) == 0
    assert [one["view"] for one in json.loads(capsys.readouterr().out)["views"]] == ["activity"]
    assert run(["materialize", "--due", "--json", *where]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "views": [],
        "retrievers": [],
        "failures": [],
        "running_elsewhere": False,
    }
    assert run(["materialize", "activty", "--due", *where]) == 2


def commands(text: str) -> list[list[str]]:
    """The options of each ``llmfeatures`` command in a text."""
    return [found.split() for found in re.findall(r"\bllmfeatures ((?:materialize|status)\b[^`\n>\"']*)", text)]


@pytest.mark.parametrize("text", [PAGE, DAG.read_text(encoding="utf-8")], ids=["page", "dag"])
def test_the_commands_of_the_schedules_have_these_options(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    helps: dict[str, str] = {}
    for verb in ("materialize", "status"):
        assert run([verb, "--help"]) == 0
        helps[verb] = capsys.readouterr().out
    found = commands(text)
    assert {verb for verb, *_ in found} == {"materialize", "status"}
    used = {(verb, word) for verb, *words in found for word in words if word.startswith("--")}
    assert ("materialize", "--due") in used
    for verb, option in used:
        assert option in helps[verb], f"{verb} has no {option}"


def test_the_views_of_the_page_are_views(tmp_path: Path) -> None:
    texts = [text for language, _, text in BLOCK.findall(PAGE) if language == "yaml"]
    assert len(texts) == 2
    for number, text in enumerate(texts):
        root = made(tmp_path / str(number))
        (root / "features.yaml").write_text(f"entities: [{{name: user, join_key: user_id}}]\n{text}")
        (view,) = load(root, at(9)).registry.views
        assert view.cadence is not None
        assert (view.expect is not None) == (number == 1)


def test_the_units_of_the_page(tmp_path: Path) -> None:
    """As systemd itself reads them, where it is installed: with a program that is there in the place of ours."""
    units = {kind: text for language, kind, text in BLOCK.findall(PAGE) if language == "ini"}
    assert set(units) == {"service", "timer"}
    (command,) = re.findall(r"^ExecStart=(.*)$", units["service"], re.MULTILINE)
    assert command.split()[1:] == ["materialize", "--due"]
    if shutil.which("systemd-analyze") is None:
        return
    for kind, text in units.items():
        here = text.replace(command.split()[0], sys.executable).replace("/srv/streaming", str(tmp_path))
        (tmp_path / f"llmfeatures-materialize.{kind}").write_text(here)
    for kind in units:
        unit = tmp_path / f"llmfeatures-materialize.{kind}"
        done = subprocess.run(
            ["systemd-analyze", "verify", "--man=no", str(unit)], check=False, capture_output=True, text=True
        )
        said = [line for line in done.stderr.splitlines() if "llmfeatures" in line]
        assert (done.returncode, said) == (0, []), done.stderr
    (calendar,) = re.findall(r"^OnCalendar=(.*)$", units["timer"], re.MULTILINE)
    subprocess.run(["systemd-analyze", "calendar", calendar], check=True, capture_output=True)


@pytest.mark.heavy
def test_airflow_s_own_parser_takes_the_dag(tmp_path: Path) -> None:
    """In a process of its own: Airflow makes a home folder and a database."""
    pytest.importorskip("airflow", reason="Airflow is not installed here")
    assert_airflow_takes(sys.executable, tmp_path)


def assert_airflow_takes(python: str, home: Path) -> None:
    code = f"""
from airflow.dag_processing.dagbag import DagBag
bag = DagBag({str(DAG)!r})
assert not bag.import_errors, bag.import_errors
dag = bag.dags["llmfeatures_materialize"]
assert [task.task_id for task in dag.topological_sort()] == ["materialize", "status"], dag.tasks
"""
    environment = {
        "AIRFLOW_HOME": str(home),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "HOME": str(home),
        "PATH": "/usr/bin:/bin",
    }
    for arguments in (["-m", "airflow", "db", "migrate"], ["-c", code]):
        done = subprocess.run([python, *arguments], check=False, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
