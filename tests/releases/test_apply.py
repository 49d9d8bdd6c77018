"""Applying and rolling back, as a person does it and from several processes at once."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from llmfeatures import Project, tokens
from llmfeatures.cli.app import run
from llmfeatures.errors import ReleaseError, UnknownNameError
from llmfeatures.releases.kept import Releases
from llmfeatures.state import FolderState
from tests.projects import at, make_project, segment


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return make_project(tmp_path, segments=[segment("u1", "power", at())])


def prompt(root: Path, text: str, name: str = "home") -> None:
    (root / "prompts" / f"{name}.prompt.j2").write_text(text)


def out(capsys: pytest.CaptureFixture[str], *arguments: str, code: int = 0) -> str:
    capsys.readouterr()
    assert run([*arguments]) == code
    return capsys.readouterr().out


def test_the_first_release_and_what_is_other_in_the_next(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at_root = ("--project", str(root))
    dry = out(capsys, "apply", "--dry-run", *at_root)
    assert "would apply release " in dry
    assert not (root / ".llmfeatures" / "releases").exists()
    first = out(capsys, "apply", "--message", "first", *at_root).splitlines()
    assert first[0].startswith("added    prompt home ")
    assert first[1:4] == ["added    entity user", "added    view segment", "added    view activity"]
    assert first[4].startswith("applied release ")
    assert dry.splitlines()[:4] == first[:4]
    assert out(capsys, "apply", *at_root).startswith("nothing changed: release ")
    prompt(root, "{{ segment }}", "home")
    prompt(root, "new", "new")
    assert out(capsys, "apply", *at_root, code=0).splitlines()[0].startswith("changed  prompt home ")
    listed = out(capsys, "apply", "--list", *at_root).splitlines()
    assert listed[0].split() == ["release", "created", "active", "prompts", "library", "message"]
    assert [line.split()[2] for line in listed[1:]] == ["active", "until"]
    assert listed[2].endswith("first")


def test_json(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at_root = ("--json", "--project", str(root))
    done = json.loads(out(capsys, "apply", "-m", "ü", *at_root))
    assert done["changed"]
    assert (done["previous"], done["message"], list(done["prompts"])) == (None, "ü", ["home"])
    assert [one["kind"] for one in done["changes"]["prompts"]] == ["added"]
    assert not json.loads(out(capsys, "apply", *at_root))["changed"]
    shown = json.loads(out(capsys, "apply", "--show", done["release"][:7], *at_root))
    assert shown["id"] == done["release"]
    assert shown["prompts"]["home"]["source"] == (root / "prompts" / "home.prompt.j2").read_text()
    listed = json.loads(out(capsys, "apply", "--list", *at_root))
    assert listed["active"] == done["release"]
    assert [one["release"] for one in listed["activations"]] == [done["release"]]


def test_an_error_anywhere_stops_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    prompt(root, "{{ segmnt }}", "broken")
    prompt(root, "{% if %}", "worse")
    printed = out(capsys, "apply", "--project", str(root), code=1)
    assert "prompts/broken.prompt.j2:1:4: " in printed
    assert "prompts/worse.prompt.j2" in printed
    project = Project.load(root)
    with pytest.raises(ReleaseError, match="nothing was applied: ") as caught:
        project.apply()
    assert len(caught.value.problems) >= 2
    assert not (root / ".llmfeatures" / "releases").exists()
    (root / "data" / "watched.parquet").unlink()
    (root / "prompts" / "broken.prompt.j2").unlink()
    (root / "prompts" / "worse.prompt.j2").unlink()
    with pytest.raises(ReleaseError, match="view activity"):
        Project.load(root).apply()


def test_going_back_and_forth(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project.load(root)
    one = project.apply("one")
    prompt(root, "two")
    two = Project.load(root).apply("two")
    assert two.previous == one.release
    assert two.release.parent == one.release.id
    back = project.roll_back()
    assert (back.release, back.changed, back.again) == (one.release, True, True)
    assert project.releases.active_id() == one.release.id
    assert not project.roll_back(one.release.id).changed
    # previous is what was active before, also after going back
    assert project.roll_back("previous").release == two.release
    assert "rolled back to release" in out(capsys, "apply", "--rollback", one.release.id[:6], "--project", str(root))
    # applying the files of a release that there was makes that one active again
    done = Project.load(root).apply()
    assert (done.release.id, done.again) == (two.release.id, True)
    assert done.release.message == "two"
    ids = [record.release for record in project.releases.activations()]
    assert ids == [one.release.id, two.release.id, one.release.id, two.release.id, one.release.id, two.release.id]
    with pytest.raises(UnknownNameError):
        project.roll_back("ffffffff")


def test_going_back_needs_somewhere_to_go(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    project = Project.load(root)
    for named in ("previous", "active"):
        with pytest.raises((ReleaseError, UnknownNameError)):
            project.roll_back(named)
    project.apply()
    with pytest.raises(ReleaseError, match="no release before the active one"):
        project.roll_back()
    assert run(["apply", "--rollback", "abcdef", "--project", str(root)]) == 2
    assert run(["apply", "--list", "--show", "active", "--project", str(root)]) == 2
    assert run(["apply", "--list", "--dry-run", "--project", str(root)]) == 2
    assert run(["apply", "--show", "active", "--message", "x", "--project", str(root)]) == 2
    assert "--list and --show are two things" in capsys.readouterr().err


def test_a_clock_that_was_set_back_changes_no_order(root: Path) -> None:
    now = datetime(2026, 5, 7, tzinfo=UTC)
    project = Project.load(root, now=lambda: now)
    one = project.apply()
    prompt(root, "two")
    two = Project.load(root, now=lambda: now - timedelta(days=3)).apply()
    releases = project.releases
    assert releases.active_at(now - timedelta(days=1)) is None
    assert releases.active_at(now) == two.release.id != one.release.id


def test_a_damaged_release_is_mended_by_applying_it(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = Project.load(root).apply()
    path = root / ".llmfeatures" / "releases" / f"{done.release.id}.json"
    whole = path.read_bytes()
    path.write_bytes(whole[:100])
    assert run(["apply", "--show", "active", "--project", str(root)]) == 1
    assert "is damaged" in capsys.readouterr().err
    assert not Project.load(root).apply().changed
    assert Project.load(root).releases.active() is not None


def test_a_file_that_changes_meanwhile_is_not_applied_unchecked(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    project = Project.load(root)
    check = project.check

    def slow(*args: Any, **kwargs: Any) -> Any:
        found = check(*args, **kwargs)
        prompt(root, "{{ nothing }}")
        return found

    monkeypatch.setattr(project, "check", slow)
    with pytest.raises(ReleaseError, match="prompt files changed while they were checked"):
        project.apply()
    assert project.releases.active() is None


def test_partials_are_in_it_and_only_those_that_are_used(root: Path) -> None:
    shared = root / "prompts" / "_shared"
    shared.mkdir()
    (shared / "used.j2").write_bytes(b"used\r\n{{ segment }}")
    (shared / "other.j2").write_text("other")
    (shared / ".DS_Store").write_bytes(b"\x00\xff\xfe")
    prompt(root, "---\nfeatures: {segment: {default: x}}\n---\n{% include '_shared/used.j2' %}")
    done = Project.load(root).apply()
    assert dict(done.release.partials) == {"_shared/used.j2": "used\n{{ segment }}"}
    assert done.release.prompts["home"].partials == ("_shared/used.j2",)
    assert done.release.prompts["home"].version == Project.load(root).prompts.plan("home").version


APPLY = """
import sys
from llmfeatures import Project, tokens
from llmfeatures.errors import ReleaseError
root, name = sys.argv[1:]
for number in range(8):
    project = Project.load(root)
    try:
        project.apply(f"{name}{number}")
        project.roll_back()
    except ReleaseError as error:
        assert "changed while" in str(error) or "no release before" in str(error), error
    project.close()
"""


def test_the_list_of_prompts_says_what_is_released(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def listed() -> dict[str, Any]:
        found = json.loads(out(capsys, "list", "prompts", "--json", "--project", str(root)))
        return {one["name"]: one for one in found}

    def table() -> list[list[str]]:
        return [line.split() for line in out(capsys, "list", "prompts", "--project", str(root)).splitlines()]

    prompt(root, "four words of text {{ segment }}{# not this #}{% if watched > 1 %} and more{% endif %}", "words")
    assert table()[0] == ["prompt", "description", "version", "tokens", "features", "inputs"]
    version = Project.load(root).apply().release.prompts["words"].version
    one = listed()["words"]
    assert (one["version"], one["released"]) == (version, version)
    text = "four words of text  and more"
    counted = tokens.tokenizer("o200k_base").count(text) if tokens.installed() else tokens.estimate(text)
    assert (one["tokens"], one["counted_by"]) == (counted, "o200k_base" if tokens.installed() else "estimate")
    prompt(root, "other", "words")
    prompt(root, "new", "new")
    (root / "prompts" / "home.prompt.j2").unlink()
    assert (listed()["words"]["released"], listed()["new"]["released"]) == (version, None)
    assert run(["list", "prompts", "--project", str(root)]) == 0
    printed = capsys.readouterr()
    assert re.search(rf"^words +[0-9a-f]{{12}} +{version[:12]} +~?1 *$", printed.out, re.MULTILINE)
    assert re.search(r"^new +[0-9a-f]{12} +not yet +~?1 *$", printed.out, re.MULTILINE)
    assert "'home' is in the active release and no longer in the files" in printed.err
    (root / ".llmfeatures" / "releases" / "activations").write_text("{")
    assert listed()["words"]["released"] is None


@pytest.mark.heavy
def test_several_processes_at_once(root: Path) -> None:
    Project.load(root).apply()
    prompt(root, "two")
    running = [
        subprocess.Popen([sys.executable, "-c", APPLY, str(root), name], stderr=subprocess.PIPE) for name in "abc"
    ]
    for one in running:
        assert one.communicate(timeout=100)[1] == b""
        assert one.returncode == 0
    releases = Releases(FolderState(root / ".llmfeatures"))
    records = releases.activations()
    assert [one.at for one in records] == sorted(one.at for one in records)
    assert len(releases.ids()) == 2
    assert all(one.release != other.release for one, other in pairwise(records))
    assert releases.active() is not None
