"""A builder that follows the active release, without a restart."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmfeatures import AsyncContextBuilder, ContextBuilder, Project
from llmfeatures.errors import ReleaseError
from llmfeatures.releases.following import Following
from tests.projects import at, make_project, segment
from tests.service.world import make_world


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_project(tmp_path, segments=[segment("u1", "power", at())], prompts={"home": "one {{ user_id }}"})


def applied(root: Path, text: str) -> Project:
    (root / "prompts" / "home.prompt.j2").write_text(text)
    project = Project.load(root)
    project.apply()
    return project


def until(text: str, build: Callable[[], str]) -> None:
    deadline = time.monotonic() + 20
    while build() != text:
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_builder_goes_over_to_each_release(root: Path) -> None:
    with pytest.raises(ReleaseError, match="no release is active; llmfeatures apply"):
        ContextBuilder.from_project(root, release="active")
    project = applied(root, "one {{ user_id }}")
    builder = ContextBuilder.from_project(root, release="active")
    files = ContextBuilder.from_project(root)
    assert files.build_context("home", user_id="u1").messages[0]["content"] == "one u1"

    def build() -> str:
        return builder.build_context("home", user_id="u1").messages[0]["content"]

    assert build() == "one u1"
    (root / "prompts" / "home.prompt.j2").write_text("not applied")
    applied(root, "two {{ user_id }}")
    until("two u1", build)
    assert builder.build_contexts("home", [{"user_id": "a"}])[0].messages[0]["content"] == "two a"
    project.roll_back()
    until("one u1", build)
    assert files.build_context("home", user_id="u1").messages[0]["content"] == "one u1"


async def test_the_same_for_asyncio(root: Path) -> None:
    applied(root, "one {{ user_id }}")
    builder = AsyncContextBuilder.from_project(root, release="active")
    assert (await builder.build_context("home", user_id="u1")).messages[0]["content"] == "one u1"
    assert builder.prompt_names() == ["home"]
    await builder.aclose()


def test_a_release_that_does_not_compile_here_is_not_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = make_world(tmp_path)
    (root / "prompts" / "home.prompt.j2").write_text("---\nfeatures: {scaled: {default: 0.0}}\n---\n{{ scaled }}")
    here = Project.load(root)
    first = here.apply().release
    following = Following(here.state, here.registry)
    builder = here.builder(release="active")
    assert following.release == first.id
    text = (root / "features.py").read_text()
    (root / "features.py").write_text(text.replace("watched * factor", "watched / factor"))
    there = Project.load(root)
    second = there.apply().release
    assert following.moved()
    assert not following.take()
    assert not following.moved()
    assert following.release == first.id
    assert f"release {second.short} is active and cannot be compiled here" in str(following.problem)
    with caplog.at_level(logging.WARNING, "llmfeatures"):
        deadline = time.monotonic() + 20
        while not caplog.records and time.monotonic() < deadline:
            assert builder.build_context("home", user_id="8a2f", factor=2.0).messages[0]["content"] == "94.0"
            time.sleep(0.05)
    assert f"release {first.short} goes on" in caplog.text
    # whoever starts now knows of none that was rendered before
    for start in (lambda: Following(here.state, here.registry), lambda: here.builder(release="active")):
        with pytest.raises(
            ReleaseError, match=r"cannot be compiled here: .* llmfeatures apply makes a release of what"
        ):
            start()
    assert Following(there.state, there.registry).release == second.id
    with pytest.raises(ReleaseError, match=r"needs on-demand feature user\.scaled as it was then"):
        here.roll_back(second.id)
    assert here.roll_back(first.id).changed
    assert following.moved()
    assert not following.take()
    assert following.problem is None
    builder.close()
    for one in (here, there):
        one.close()


def test_what_is_the_same_is_not_compiled_again(root: Path) -> None:
    (root / "prompts" / "other.prompt.j2").write_text("other {{ user_id }}{% include '_shared/p.j2' %}")
    (root / "prompts" / "third.prompt.j2").write_text("third")
    (root / "prompts" / "_shared").mkdir()
    (root / "prompts" / "_shared" / "p.j2").write_text("one")
    project = applied(root, "one {{ user_id }}")
    following = Following(project.state, project.registry)
    assert following.current is not None
    before = following.current.compile_all()
    applied(root, "two {{ user_id }}")
    assert following.take()
    after = following.current.compile_all()
    assert after["other"] is before["other"]
    assert after["home"] is not before["home"]
    (root / "prompts" / "_shared" / "p.j2").write_text("two")
    applied(root, "two {{ user_id }}")
    assert following.take()
    last = following.current.compile_all()
    assert last["other"] is not before["other"]
    assert last["third"] is before["third"]
    (root / "features.yaml").write_text((root / "features.yaml").read_text().replace("watched: int", "watched: float"))
    applied(root, "two {{ user_id }}")
    assert following.take()
    assert following.current.compile_all()["third"] is not before["third"]


def test_a_state_that_is_damaged_meanwhile_stops_nobody(root: Path) -> None:
    project = applied(root, "one")
    following = Following(project.state, project.registry)
    (root / ".llmfeatures" / "releases" / "activations").write_text("{")
    assert following.moved()
    assert not following.take()
    assert "is damaged" in str(following.problem)
    assert following.current is not None
    (root / ".llmfeatures" / "releases" / "activations").unlink()
    assert following.moved()
    assert not following.take()
    assert "no release is active any more" in str(following.problem)


def test_a_release_whose_file_comes_late_is_taken_then(root: Path) -> None:
    project = applied(root, "one")
    following = Following(project.state, project.registry)
    second = applied(root, "two").releases.active()
    assert second is not None
    path = next((root / ".llmfeatures" / "releases").glob(f"{second.id}*"))
    late = path.rename(root / "late")
    for _ in range(2):
        assert following.moved()
        assert not following.take()
        assert f"release {second.short} is active and cannot be read" in str(following.problem)
    late.rename(path)
    assert following.moved()
    assert following.take()
    assert (following.release, following.problem, following.moved()) == (second.id, None, False)
