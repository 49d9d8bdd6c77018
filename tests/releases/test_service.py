"""A running service goes over to the active release, while requests run and none of them fails."""

from __future__ import annotations

import re
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmfeatures import Project
from llmfeatures.cli.app import run
from llmfeatures.service import create_app
from tests.service.world import Running, make_world, served

HOME = "---\nfeatures:\n  segment: {default: unknown}\n---\n"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_world(tmp_path, serve='log = "json"')


def prompt(root: Path, text: str, name: str = "home") -> None:
    (root / "prompts" / f"{name}.prompt.j2").write_text(text)


def applied(root: Path, text: str) -> str:
    prompt(root, f"{HOME}{text} {{{{ segment }}}}\n")
    project = Project.load(root)
    done = project.apply(text)
    project.close()
    return done.release.id


def text(running: Running) -> str:
    return running.context("home", user_id="8a2f").json()["messages"][0]["content"]


def until(wanted: Callable[[], bool], seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while not wanted():
        assert time.monotonic() < deadline
        time.sleep(0.05)


class Asking:
    """Clients that ask without a pause; what they were answered, and when."""

    def __init__(self, url: str) -> None:
        self.answers: list[tuple[float, int, str]] = []
        self._url, self._over = url, threading.Event()

    def run(self) -> None:
        """Ask until it is over."""
        with httpx.Client(base_url=self._url, timeout=20) as client:
            while not self._over.is_set():
                answer = client.post("/v1/prompts/home/context", json={"user_id": "8a2f"})
                content = answer.json()["messages"][0]["content"] if answer.status_code == 200 else answer.text
                self.answers.append((time.monotonic(), answer.status_code, content))

    @contextmanager
    def asking(self, clients: int) -> Iterator[None]:
        """For the length of a block."""
        threads = [threading.Thread(target=self.run) for _ in range(clients)]
        for one in threads:
            one.start()
        try:
            yield
        finally:
            self._over.set()
            for one in threads:
                one.join()


def go_over(root: Path, running: Running, clients: int = 3) -> None:
    """Apply, apply, and go back, while clients ask."""
    asking = Asking(running.url)
    project = Project.load(root)
    moments: list[tuple[float, str]] = []
    with asking.asking(clients):
        for step in ("two", "three", "back"):
            time.sleep(0.5)
            if step == "back":
                project.roll_back()
            else:
                applied(root, step)
            moments.append((time.monotonic(), f"{'two' if step == 'back' else step} power"))
            time.sleep(2.2)
    project.close()
    assert Counter(code for _, code, _ in asking.answers) == {200: len(asking.answers)}
    before = "one power"
    ends = [*(moment for moment, _ in moments[1:]), float("inf")]
    for (moment, new), end in zip(moments, ends, strict=True):
        said = [(at, content) for at, _, content in asking.answers if moment < at < end]
        assert len(said) > 5
        assert {content for _, content in said} <= {before, new}
        late = {content for at, content in said if at > moment + 2.0}
        assert late == {new}, f"{before} was answered two seconds after {new} was applied"
        before = new


def test_a_running_service_goes_over_without_a_restart(root: Path) -> None:
    applied(root, "one")
    with served(root) as running:
        assert text(running) == "one power"
        asking = Asking(running.url)
        with asking.asking(1):
            applied(root, "two")
            until(lambda: asking.answers[-1][2] == "two power")
        assert {code for _, code, _ in asking.answers} == {200}
        assert {content for _, _, content in asking.answers} == {"one power", "two power"}


@pytest.mark.heavy
def test_requests_that_run_meanwhile_are_all_answered_by_one_of_the_two(root: Path) -> None:
    one = applied(root, "one")
    prompt(root, "files {{ user_id }}")
    with served(root) as running:
        assert running.lines("started")[0]["release"] == one
        assert running.client.get("/health/ready").json()["release"] == one
        assert running.client.get("/v1/registry").json()["release"] == one
        assert text(running) == "one power"
        go_over(root, running)
        lines = running.lines("release")
        assert [line["level"] for line in lines] == ["info"] * 3
        assert lines[0]["release"] == lines[2]["release"] != lines[1]["release"]
        assert running.client.get("/v1/registry").json()["release"] == lines[2]["release"]
        # the document and the paths follow: a prompt and an input that there were not
        assert running.context("later").status_code == 404
        prompt(root, "---\ninputs: {tone: {type: str}}\n---\n{{ tone }}", "later")
        applied(root, "four")
        until(lambda: running.context("later", tone="dry").status_code == 200)
        assert "/v1/prompts/later/context" in running.client.get("/openapi.json").json()["paths"]
        assert running.client.get("/v1/prompts/later/context").status_code == 405
        (root / "prompts" / "later.prompt.j2").unlink()
        applied(root, "five")
        until(lambda: running.context("later", tone="dry").status_code == 404)
        assert "later" not in running.client.get("/openapi.json").text
        shown = running.client.get("/metrics").text
        assert re.search(r'^llmfeatures_release\{release="[0-9a-f]{12}"\} 1\.0$', shown, re.MULTILINE)
        assert "llmfeatures_release_refused 0.0" in shown


@pytest.mark.heavy
def test_a_release_that_cannot_be_served_is_told_and_the_one_before_goes_on(root: Path) -> None:
    prompt(root, "---\nfeatures: {scaled: {default: 0.0}}\n---\n{{ scaled }}", "ratio")
    (root / "prompts" / "home.prompt.j2").write_text("files {{ user_id }}")
    with served(root) as running:
        # the files until there is a release
        assert text(running) == "files 8a2f"
        assert running.client.get("/health/ready").json()["release"] is None
        one = applied(root, "one")
        until(lambda: text(running) == "one power")
        code = root / "features.py"
        code.write_text(code.read_text().replace("watched * factor", "watched / factor"))
        two = applied(root, "two")
        until(lambda: running.client.get("/health/ready").json()["warnings"] != [])
        ready = running.client.get("/health/ready")
        assert (ready.status_code, ready.json()["release"]) == (200, one)
        (warning,) = ready.json()["warnings"]
        assert warning["code"] == "release"
        assert f"release {two[:12]} is active and cannot be compiled here" in warning["message"]
        assert "user.scaled" in warning["message"]
        assert running.context("ratio", user_id="8a2f", factor=2.0).json()["messages"][0]["content"] == "94.0"
        assert "llmfeatures_release_refused 1.0" in running.client.get("/metrics").text
        (line,) = [one for one in running.lines("release") if one["level"] == "error"]
        assert line["serving"] == one
        assert text(running) == "one power"
        assert run(["apply", "--rollback", one[:8], "--project", str(root)]) == 1  # the code of the time is not here
        # a process that starts now has the code of the new one
        with served(root) as another:
            assert text(another) == "two power"
            assert another.client.get("/health/ready").json()["release"] == two
        code.write_text(code.read_text().replace("watched / factor", "watched * factor"))
        assert run(["apply", "--rollback", one[:8], "--project", str(root)]) == 0
        until(lambda: running.client.get("/health/ready").json()["warnings"] == [])


@pytest.mark.heavy
def test_a_deployment_with_other_code(root: Path) -> None:
    """The code comes, then the release, then the new workers: until then the old ones go on with what they have."""
    prompt(root, "---\nfeatures: {scaled: {default: 0.0}}\n---\n{{ scaled }}", "ratio")
    one = applied(root, "one")

    def ratio() -> str:
        return running.context("ratio", user_id="8a2f", factor=2.0).json()["messages"][0]["content"]

    with served(root, "--workers", "2") as running:
        until(lambda: ratio() == "94.0")
        code = root / "features.py"
        code.write_text(code.read_text().replace("watched * factor", "watched / factor"))
        # too early: the new workers do not start without a release that they can serve, and the old ones stay
        running.process.send_signal(signal.SIGHUP)
        until(lambda: bool(running.lines("reload")))
        assert "user.scaled" in running.lines("start")[-1]["problem"]
        assert {ratio() for _ in range(20)} == {"94.0"}
        two = applied(root, "two")
        time.sleep(2.5)
        assert {ratio() for _ in range(20)} == {"94.0"}
        asking = Asking(running.url)
        with asking.asking(2):
            running.process.send_signal(signal.SIGHUP)
            until(lambda: {ratio() for _ in range(20)} == {"23.5"}, 60)
        assert {status for _, status, _ in asking.answers} == {200}
        assert {content for _, _, content in asking.answers} == {"one power", "two power"}
        assert running.client.get("/health/ready").json()["release"] == two != one


@pytest.mark.heavy
def test_the_files_are_served_where_that_is_asked_for(root: Path) -> None:
    applied(root, "one")
    prompt(root, "files {{ user_id }}")
    with served(root, "--working") as running:
        assert text(running) == "files 8a2f"
        assert running.lines("started")[0]["release"] is None
        assert "llmfeatures_release" not in running.client.get("/metrics").text


def test_an_application_of_ones_own(root: Path) -> None:
    from starlette.testclient import TestClient

    one = applied(root, "one")
    prompt(root, "files {{ user_id }}")
    for release, wanted in (("active", "one power"), (None, "files 8a2f")):
        project = Project.load(root)
        prompt(root, "files {{ user_id }}")
        with TestClient(create_app(project, release=release)) as client:
            answer = client.post("/v1/prompts/home/context", json={"user_id": "8a2f"}).json()
            assert answer["messages"][0]["content"] == wanted
            assert client.get("/health/ready").json()["release"] == (one if release else None)
            assert client.head("/health/live").status_code == 200
            assert client.put("/v1/registry").status_code == 405
            if release:
                service: Any = client.app
                code = root / "features.py"
                code.write_text(code.read_text().replace("watched * factor", "watched / factor"))
                prompt(root, "---\nfeatures: {scaled: {default: 0.0}}\n---\n{{ scaled }}", "ratio")
                applied(root, "two")
                assert client.portal is not None
                client.portal.call(service.service.look)
                ready = client.get("/health/ready").json()
                assert ready["release"] == one
                assert [warning["code"] for warning in ready["warnings"]] == ["release"]
                assert "llmfeatures_release_refused 1.0" in client.get("/metrics").text


@pytest.mark.heavy
def test_all_workers_go_over(root: Path) -> None:
    applied(root, "one")
    with served(root, "--workers", "2") as running:
        until(lambda: text(running) == "one power")
        go_over(root, running, clients=6)
