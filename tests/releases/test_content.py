"""What a release holds and how it is kept: the golden bytes, the id, what is other, and a state that is damaged."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures import Project
from llmfeatures.errors import ConfigError, FormatError, RequestError, UnknownNameError
from llmfeatures.ports import ActivationRecord
from llmfeatures.prompts.texts import PromptTexts
from llmfeatures.registry import load_registry
from llmfeatures.releases import Release, ReleasedPrompt, Releases, find_version
from llmfeatures.releases.changes import changes
from llmfeatures.releases.content import read, release_id, written
from llmfeatures.releases.definitions import rebuilt_registry, registry_json
from llmfeatures.releases.making import made_release
from llmfeatures.state import FolderState
from tests.projects import at, make_project
from tests.service.world import REGISTRY

GOLDEN = Path(__file__).parent / "golden"


def made(message: str = "first", *, library: str = "0.1.0", source: str = "{{ segment }}\n") -> Release:
    """A small release that no version of this library changes."""
    draft = Release(
        id="",
        library=library,
        formats={"header": 1, "release": 1, "renderer": 1},
        registry={
            "entities": [{"name": "user", "join_keys": [["user_id", "str"]], "description": ""}],
            "views": [],
            "on_demand": [],
        },
        prompts={
            "home": ReleasedPrompt(
                name="home",
                version="ab" * 32,
                source=source,
                partials=("_shared/sign.j2",),
                features=("segment",),
            )
        },
        partials={"_shared/sign.j2": "— “ü” 🎬\n"},
        created="2026-05-07T23:00:00.000000Z",
        message=message,
        parent=None,
    )
    return replace(draft, id=release_id(draft.content()))


def test_the_bytes_of_a_release_are_those_of_the_format() -> None:
    release = made()
    assert release.id == "bc278826918458626dc47eda4d0930d8eb620cfa266f12db2cc2cca5c2f5d639"
    assert written(release) == (GOLDEN / "release-1.json").read_bytes()
    assert read(written(release), release.id) == release


def test_the_bytes_of_activations_are_those_of_the_format(tmp_path: Path) -> None:
    state = FolderState(tmp_path)
    state.activate(ActivationRecord(release="a" * 64, at="2026-05-07T23:00:00.000000Z", message="ü"))
    state.activate(ActivationRecord(release="b" * 64, at="2026-05-08T00:00:00.000000Z"))
    assert (tmp_path / "releases" / "activations").read_bytes() == (GOLDEN / "activations-1").read_bytes()
    assert [one.release[0] for one in FolderState(tmp_path).activations()] == ["a", "b"]


def test_the_id_is_that_of_the_content_alone() -> None:
    assert made("one").id == made("two").id
    assert made(source="{{ segment }}!\n").id != made().id
    assert made(library="0.2.0").id != made().id


@given(st.dictionaries(st.text(min_size=1), st.text()), st.text())
def test_any_text_is_kept_as_it_is(partials: dict[str, str], message: str) -> None:
    draft = replace(made(message), partials=partials)
    release = replace(draft, id=release_id(draft.content()))
    assert read(written(release), release.id) == release


def test_a_damaged_release_says_so() -> None:
    release, data = made(), written(made())
    for other in (b"", b"{}", b"[]", data[:-40], data.replace(b"segment", b"segmenx")):
        with pytest.raises(FormatError, match="is damaged"):
            read(other, release.id)
    with pytest.raises(FormatError, match=r"has format 2, this version reads 1; upgrade"):
        read(data.replace(b'"format": 1', b'"format": 2'), release.id)


def test_a_state_that_is_damaged_or_of_the_future_says_so(tmp_path: Path) -> None:
    state = FolderState(tmp_path)
    assert state.activations() == []
    assert state.releases() == []
    assert state.release("a" * 64) is None
    state.activate(ActivationRecord(release="a" * 64, at="2026-05-07T23:00:00.000000Z"))
    path = tmp_path / "releases" / "activations"
    text = path.read_text()
    for damaged in ("", "{}", "[]", text[:30], text.replace('"at"', '"when"')):
        path.write_text(damaged)
        with pytest.raises(FormatError, match="is damaged, so nobody knows which release is active"):
            state.activations()
    path.write_text(text.replace('"format": 1', '"format": 9'))
    with pytest.raises(FormatError, match="has format 9, this version reads 1; upgrade"):
        state.activations()


def test_a_state_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "state").write_text("a file")
    with pytest.raises(ConfigError, match=r"correct \[project\] state"):
        FolderState(tmp_path / "state").add_release("a" * 64, b"{}")


def test_the_mark_is_another_after_each_activation(tmp_path: Path) -> None:
    state = FolderState(tmp_path)
    seen = {repr(state.activation_mark())}
    for number in range(20):
        state.activate(ActivationRecord(release="ab"[number % 2] * 64, at="2026-05-07T23:00:00.000000Z"))
        mark = repr(state.activation_mark())
        assert mark not in seen or number > 1  # an inode may come back, and not at once
        assert mark != repr(None)
        seen.add(mark)
    assert len(seen) > 2


def test_releases_are_found_by_the_beginning_of_their_ids(tmp_path: Path) -> None:
    releases = Releases(FolderState(tmp_path))
    one, two = made(), made(source="other\n")
    releases.add(one)
    releases.add(two)
    assert releases.find(one.id) == releases.find(one.id[:8]) == releases.find(one.id[:8].upper()) == one
    with pytest.raises(UnknownNameError, match="unknown release 'ffff'"):
        releases.find("ffff")
    with pytest.raises(RequestError, match="too short for a release; write 4 digits of it, or more"):
        releases.find(one.id[:3])
    with pytest.raises(RequestError, match="too short"):
        releases.find("")


def test_versions_are_found_in_the_newest_release_that_has_them(tmp_path: Path) -> None:
    state = FolderState(tmp_path)
    releases = Releases(state)
    one = made()
    later = replace(made(library="0.2.0"), created="2026-05-08T00:00:00.000000Z")
    for release in (one, later):
        releases.add(release)
    found = find_version(state, "home", "ababab")
    assert (found.version, found.source, found.release.id) == ("ab" * 32, "{{ segment }}\n", later.id)
    assert found.partials == {"_shared/sign.j2": "— “ü” 🎬\n"}
    assert found.file().body == "{{ segment }}\n"
    with pytest.raises(UnknownNameError, match="unknown version of prompt 'home' 'cdcdcd'"):
        find_version(state, "home", "cdcdcd")
    with pytest.raises(UnknownNameError, match="there are none"):
        find_version(state, "other", "ababab")
    prompt = replace(one.prompts["home"], version="abab" + "cd" * 30, source="x")
    draft = replace(one, prompts={"home": prompt})
    releases.add(replace(draft, id=release_id(draft.content())))
    with pytest.raises(RequestError, match=r"several versions of prompt 'home' begin with abab: .* write more of it"):
        find_version(state, "home", "abab")


STEPS = st.lists(st.tuples(st.integers(0, 2), st.integers(-3, 5)), max_size=12)


@settings(max_examples=20)
@given(STEPS)
def test_what_was_active_when_is_what_was_activated_last_before(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]
) -> None:
    """The clock of each step goes on by so many hours, also back."""
    releases = Releases(FolderState(tmp_path_factory.mktemp("state")))
    three = [made(source=str(number)) for number in range(3)]
    for release in three:
        releases.add(release)
    now = at(0)
    expected: list[tuple[datetime, str]] = []
    for which, hours in steps:
        now += timedelta(hours=hours)
        releases.activate(three[which].id, now=now)
        last = expected[-1][0] if expected else now
        expected.append((max(now, last), three[which].id))
    for hour in range(-40, 80, 5):
        moment = at(0) + timedelta(hours=hour, minutes=30 * (hour % 2))
        before = [release for since, release in expected if since <= moment]
        assert releases.active_at(moment) == (before[-1] if before else None)
    assert releases.active_id() == (expected[-1][1] if expected else None)


def test_a_registry_comes_back_as_it_was(tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text(
        REGISTRY.replace(
            "    scaled,\n",
            "    scaled,\n"
            "    FeatureView('counts', user, 'data/c.parquet', [Aggregation('n7', 'count', window='7d')],\n"
            "        cadence='1d', expect={'min_rows': 3}),\n"
            "    FeatureView('sql', user, {'query': 'SELECT 1', 'columns': {'uid': 'user_id'}},\n"
            "        [Feature('plan', 'str', column='p', tags={'a': 'b'})], ttl='7d', lateness='1h', owner='me'),\n",
        ).replace("import Entity", "import Aggregation, Entity, Feature")
    )
    registry = load_registry("features.py", tmp_path)
    kept = json.loads(json.dumps(registry_json(registry), sort_keys=True))
    again, absent = rebuilt_registry(kept, registry)
    assert again == registry
    assert [list(one.join_keys) for one in again.entities] == [["tenant_id", "number"], ["user_id"]]
    assert registry_json(again) == kept
    assert not absent
    assert "watched * factor" in kept["on_demand"][0]["source"]


def test_an_on_demand_feature_with_other_code_is_absent(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    (tmp_path / "a" / "features.py").write_text(REGISTRY)
    (tmp_path / "b" / "features.py").write_text(REGISTRY.replace("watched * factor", "watched * factor + 1"))
    old, new = load_registry("features.py", tmp_path / "a"), load_registry("features.py", tmp_path / "b")
    again, absent = rebuilt_registry(registry_json(old), new)
    assert absent == {"user.scaled": "its function has other code now"}
    assert again.on_demand == ()
    assert again.views == old.views


def test_what_is_other_is_said_by_name(tmp_path: Path) -> None:
    project = Project.load(make_project(tmp_path, prompts={"home": "{{ watched }}", "gone": "x", "words": "same"}))
    old = project.apply("one", dry_run=True).release
    text = (tmp_path / "features.yaml").read_text()
    text = text.replace("{segment: str}", "{segment: 'enum[a,b]', more: int}").replace("watched: int", "seen: int")
    text = text.replace(
        "source: data/watched.parquet", "ttl: 7d, source: {path: data/watched.parquet, columns: {watched: seen}}"
    )
    (tmp_path / "features.yaml").write_text(
        text.replace("segment.parquet, created", "segment.parquet, columns: {x: more}, created")
    )
    prompts = tmp_path / "prompts"
    (prompts / "gone.prompt.j2").unlink()
    (prompts / "new.prompt.j2").write_text("new")
    (prompts / "home.prompt.j2").write_text("{{ seen }}")
    (prompts / "words.prompt.j2").write_text("---\ndescription: said\n---\nsame")
    registry = load_registry("features.yaml", tmp_path)
    new = made_release(registry, PromptTexts.of_folder(prompts), created=at())
    found = changes(old, new)
    assert [(one.prompt, one.kind) for one in found.prompts] == [
        ("gone", "removed"),
        ("home", "changed"),
        ("new", "added"),
        ("words", "text"),
    ]
    assert "view segment: feature segment: dtype str → enum[a,b]" in found.registry
    assert "view segment: feature more added" in found.registry
    assert "view activity: feature watched removed" in found.registry
    assert "view activity: ttl none → 7d" in found.registry
    assert "view activity: its source is another" in found.registry
    assert not changes(new, new)
    assert changes(new, replace(new, library="9.9")).library == (new.library, "9.9")
    project.close()
