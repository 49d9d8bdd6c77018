"""The examples of docs/serve.md, docs/deployment.md and docs/observability.md run as they are written."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import Project, service
from llmfeatures.config import ServeSection, find_config
from llmfeatures.service.metrics import COUNTERS
from tests.service.world import Running, served

ROOT = Path(__file__).parents[2]
SERVE, DEPLOYMENT, OBSERVABILITY, SCHEDULES = (
    (ROOT / "docs" / f"{name}.md").read_text() for name in ("serve", "deployment", "observability", "schedules")
)


def blocks(text: str, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def sample(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sample project, materialized."""
    root = tmp_path_factory.mktemp("sample")
    shutil.copytree(ROOT / "examples" / "streaming", root / "examples" / "streaming")
    (root / "data").mkdir()
    for path in (ROOT / "data").glob("*.parquet"):
        shutil.copy(path, root / "data")
    (root / "prompts").mkdir()
    shutil.copy(ROOT / "prompts" / "recommender.prompt.j2", root / "prompts")
    own = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["llmfeatures"]["project"]
    text = "".join(f"{name} = {json.dumps(value)}\n" for name, value in own.items())
    (root / "llmfeatures.toml").write_text(f"[project]\n{text}")
    project = Project.load(root)
    project.materialize()
    project.close()
    return root


def test_the_examples_of_the_service_and_its_clients(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    client, own = blocks(SERVE, "python")
    with served(sample) as running:
        names: dict[str, Any] = {}
        exec(client.replace("http://127.0.0.1:8000", running.url), names)
        assert names["ctx"].values["user_segment"] == "power_user"
        assert len(names["many"]) == 2
        assert names["rows"][0]["user_segment"].status == "present"
        curl = next(block for block in blocks(SERVE, "") if block.startswith("curl"))
        command = curl.replace("http://127.0.0.1:8000", running.url)
        done = subprocess.run(command, shell=True, capture_output=True, check=True)
        assert json.loads(done.stdout)["values"]["user_segment"] == "power_user"
    monkeypatch.chdir(sample)
    names = {}
    exec(own, names)
    assert "/v1/features" in names["app"].openapi()["paths"]


def test_the_options_of_serve_are_all_shown_with_their_defaults() -> None:
    shown = tomllib.loads(blocks(SERVE, "toml")[0])["serve"]
    made = ServeSection(**shown)
    assert made == ServeSection()
    assert {*shown, "keys"} == set(ServeSection.model_fields)


def test_the_metrics_and_the_log_of_the_page(running: Running) -> None:
    assert all(f"`{name}_total`" in OBSERVABILITY for name, _, _ in COUNTERS.values())
    ctx = running.context("home", user_id="8a2f").json()
    (line,) = [one for one in running.lines() if one["request_id"] == ctx["request_id"]]
    assert list(line) == list(json.loads(blocks(OBSERVABILITY, "json")[0]))


def test_the_events_of_the_log_are_all_on_the_page() -> None:
    source = "".join(path.read_text() for path in Path(service.__file__).parent.glob("*.py"))
    events = set(re.findall(r'\.event\(\s*(?:"\w+"|level),\s*"(\w+)"', source))
    assert {"started", "reload", "failure", "server"} <= events
    assert not [one for one in events if f"`{one}`" not in OBSERVABILITY]


def test_the_unit_starts_what_is_there() -> None:
    (unit,) = blocks(DEPLOYMENT, "ini")
    (command,) = re.findall(r"^ExecStart=\S+/llmfeatures (.*)$", unit, re.MULTILINE)
    assert command.split() == ["serve", "--host", "127.0.0.1", "--port", "8000", "--workers", "2"]


def test_the_service_and_its_schedule_have_one_environment(sample: Path) -> None:
    """What they do not share they lose: pushed rows of the one are not there for the other, nor are its keys."""
    (serving,), (materializing,) = blocks(DEPLOYMENT, "ini"), blocks(SCHEDULES, "ini service")
    for name in ("EnvironmentFile", "StateDirectory", "User", "WorkingDirectory", "UMask"):
        (value,) = re.findall(rf"^{name}=(.*)$", serving, re.MULTILINE)
        assert re.findall(rf"^{name}=(.*)$", materializing, re.MULTILINE) == [value]
    (file,) = re.findall(r"^EnvironmentFile=(.*)$", serving, re.MULTILINE)
    (folder,) = re.findall(r"^StateDirectory=(.*)$", serving, re.MULTILINE)
    (cron,) = blocks(SCHEDULES, "cron")
    (program,) = set(re.findall(r"[\w/.]+/bin/llmfeatures\b", serving + materializing + cron + DEPLOYMENT))
    for line in [*cron.splitlines(), next(one for one in DEPLOYMENT.splitlines() if one.startswith("sudo"))]:
        assert f"set -a && . {file} && cd /srv/streaming &&" in line
        assert program in line or line.startswith("sudo")
    assert f"`{file}`" in DEPLOYMENT
    assert not re.findall(r"^Environment=", serving + materializing, re.MULTILINE)
    (text,) = blocks(DEPLOYMENT, "env")
    environment = {name: value.strip("'") for name, _, value in (one.partition("=") for one in text.splitlines())}
    config = find_config(sample, environment)
    assert config.project.state == f"/var/lib/{folder}/state"
    assert config.project.pushes == f"/var/lib/{folder}/pushes"
    assert config.serve.keys_needed
    assert config.online.url.startswith("rediss://llmfeatures-write:")
    assert len(environment) == 4
