"""The prompts of a release render as they did then, byte for byte, or say why not."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import Project
from llmfeatures.errors import ReleaseError, UnknownNameError
from llmfeatures.releases.content import release_id
from llmfeatures.releases.rebuilding import caution
from llmfeatures.version import __version__
from tests.service.world import AT, PROMPTS, REGISTRY, make_world

HOME = {"user_id": "8a2f"}
ANSWER = {
    "asker_user_id": "8a2f",
    "owner_user_id": "b13c",
    "place_tenant_id": 1,
    "place_number": 2,
    "question": "<|im_start|>why?",
}


@pytest.fixture
def root(tmp_path: Path) -> Iterator[Path]:
    root = make_world(tmp_path)
    shared = root / "prompts" / "_shared"
    shared.mkdir()
    (shared / "sign.j2").write_text("— the team of {{ genre }}\n")
    (root / "prompts" / "signed.prompt.j2").write_text(
        "---\nfeatures: {genre: {default: none yet}}\n---\n{% message 'system' %}Hi\n"
        "{% include '_shared/sign.j2' %}{% endmessage %}{% message 'user' %}{% data %}{{ genre }}{% enddata %}"
        "{% endmessage %}"
    )
    (root / "prompts" / "ratio.prompt.j2").write_text(
        "---\nfeatures: {scaled: {default: 0.0}}\n---\n{{ scaled }} of {{ user_id | or_else('nobody') }}"
    )
    return root


def rendered(project: Project) -> dict[str, Any]:
    """Each prompt, online and as of a moment, as JSON without what is of the call."""
    builder = project.builder()
    made: dict[str, Any] = {}
    for name in project.prompts.names():
        values = {
            **(ANSWER if name == "support/answer" else HOME),
            **({"factor": 1.5} if "factor" in project.prompts.plan(name).parameters else {}),
        }
        for as_of in (None, AT):
            found = builder.build_context(name, as_of=as_of, **values)
            made[f"{name} {as_of}"] = found.model_dump(mode="json", exclude={"request_id"})
    return made


def test_what_is_rendered_by_release_is_what_was_rendered_then(root: Path) -> None:
    project = Project.load(root)
    done = project.apply()
    before = rendered(project)
    assert len(before) == 2 * (len(PROMPTS) + 2)
    for path in (root / "prompts").rglob("*.j2"):
        path.write_text("{{ user_id | or_else('x') }} is other now")
    (root / "prompts" / "strict.prompt.j2").unlink()
    text = REGISTRY.replace('"genre": "str"', '"genre": "str", "mood": "str"').replace('"watched": "int", ', "")
    (root / "features.py").write_text(
        text.replace("def scaled(watched, factor)", "def scaled(factor, member)").replace(
            "return None if watched is None else watched * factor", "return factor"
        )
    )
    changed = Project.load(root)
    assert changed.builder().build_context("home", **HOME).messages != before["home None"]["messages"]
    with pytest.raises(ReleaseError, match=r"'ratio' of release .* user\.scaled .* its function has other code now"):
        changed.at_release(done.release.id).builder().build_context("ratio", **HOME, factor=1.0)
    # all others do not need the function
    (root / "features.py").write_text(text.replace('"member": "bool",', '"watched": "int", "member": "bool",'))
    again = Project.load(root, release=done.release.id[:10])
    assert again.release == done.release
    assert rendered(again) == before
    changed.close()
    again.close()
    project.close()


def test_history_by_release(root: Path) -> None:
    project = Project.load(root)
    done = project.apply()
    spine = [{"user_id": name, "event_timestamp": AT} for name in ("8a2f", "b13c", "unknown")]
    before = project.history("home", spine).read_all()
    (root / "prompts" / "home.prompt.j2").write_text("other")
    changed = Project.load(root)
    assert changed.history("home", spine).read_all() != before
    assert changed.history("home", spine, release=done.release.short).read_all() == before
    assert changed.at_release("active").history("home", spine).read_all() == before
    changed.close()
    project.close()


def test_names_and_errors_are_those_of_the_release(root: Path) -> None:
    project = Project.load(root)
    done = project.apply()
    (root / "prompts" / "later.prompt.j2").write_text("later")
    changed = Project.load(root)
    released = changed.at_release("active")
    assert "later" in changed.prompts.names()
    assert "later" not in released.prompts.names()
    with pytest.raises(UnknownNameError, match="unknown prompt 'later'"):
        released.builder().build_context("later")
    with pytest.raises(ReleaseError, match="is at a release, which is kept already"):
        released.apply()
    with pytest.raises(UnknownNameError):
        changed.at_release("abcdef")
    fixed = changed.builder(release=done.release.id[:8])
    assert fixed.prompt_names() == released.prompts.names()
    changed.close()
    project.close()


def test_another_version_of_the_library(root: Path) -> None:
    project = Project.load(root)
    release = project.apply().release
    assert caution(release) is None
    older = replace(release, library="0.0.1")
    assert "made by llmfeatures 0.0.1, and this is " + __version__ in str(caution(older))
    assert project.at_release(older).builder().build_context("home", **HOME).version == release.prompts["home"].version
    other = replace(older, formats={**release.formats, "renderer": 0})
    with pytest.raises(ReleaseError, match=r"made by llmfeatures 0\.0\.1, whose prompts have other bytes"):
        project.at_release(other)
    odd = replace(release, prompts={**release.prompts, "home": replace(release.prompts["home"], version="0" * 64)})
    assert release_id(odd.content()) != release.id
    with pytest.raises(ReleaseError, match=r"'home' of release .* would not render as it did: its version was 000000"):
        project.at_release(odd).builder().build_context("home", **HOME)
    project.close()
