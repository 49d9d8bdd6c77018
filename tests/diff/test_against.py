"""`check --against`: what a change of the registry and of prompts does to each other, and to last week's prompts."""

from __future__ import annotations

import json

import pytest

from llmfeatures.cli.app import run
from llmfeatures.diff.changes import registry_changes
from llmfeatures.errors import RequestError
from llmfeatures.project import Project
from llmfeatures.registry import registry_from_yaml
from llmfeatures.releases.definitions import registry_json
from tests.diff.conftest import Made, commit

REGISTRY = """from llmfeatures import Entity, FeatureView, OnDemandFeature, ParquetSource, Registry
from words import WORDS

user = Entity("user", join_key="user_id")
source = ParquetSource("data/segment.parquet", created_timestamp="created_timestamp")


def doubled(watched):
    return None if watched is None else watched * 2


registry = Registry([
    FeatureView("segment", user, source, {"segment": f"enum[{','.join(WORDS)}]"}),
    FeatureView("activity", user, "data/watched.parquet", {"watched": "int"}),
    OnDemandFeature("twice", user, "int", doubled),
])
"""
WORDS = 'WORDS = ["casual", "power user", "in the short message", "@bob <b>bold</b>"]\n'
HOME = """---
features:
  segment: {default: unknown}
inputs:
  question: {type: str}
---
{% if segment == "casual" %}A casual viewer{% else %}A {{ segment }}{% endif %}. {{ question }}
"""
MAIL = "---\nfeatures: {twice: {default: 0}}\n---\n{{ twice }} titles\n"


@pytest.fixture
def project(made: Made) -> Project:
    """A project whose registry is Python with a sibling module, committed as it is."""
    loaded = made({"home": HOME, "mail": MAIL}, {})
    root = loaded.config.root
    (root / "features.py").write_text(REGISTRY)
    (root / "words.py").write_text(WORDS.replace("@bob <b>bold</b>", "other"))
    config = root / "llmfeatures.toml"
    config.write_text(config.read_text().replace("features.yaml", "features.py"))
    commit(root)
    return loaded


def _again(project: Project) -> Project:
    """The project as its files are now; its registry's sibling modules are loaded anew."""
    import sys

    sys.modules.pop("words", None)
    return Project.load(project.config.root)


def test_an_enum_word_is_removed(project: Project) -> None:
    root = project.config.root
    (root / "words.py").write_text(WORDS.replace('"casual", ', "").replace("@bob <b>bold</b>", "other"))
    found = _again(project).check_against("git:HEAD")
    rows = {one.prompt: one.rows for one in found.prompts}
    assert rows["home"].rows > rows["home"].changed > 0
    assert rows["mail"].changed == 0
    lines = found.lines()
    share = f"{100 * rows['home'].share:.1f}".removesuffix(".0")
    assert lines[0] == (
        "enum value 'casual' of user.segment removed: 1 prompt compares with it: home; "
        f"{share}% of last week's prompts that read it change"
    )
    assert any("new: prompts/home.prompt.j2:7:" in one and "LF030" in one for one in lines)
    assert not found.breaks
    held = found.as_json()["registry"][0]
    assert (held["compare"], held["changed"], held["rows"]) == (["home"], rows["home"].changed, rows["home"].rows)


@pytest.mark.heavy
def test_code_a_ttl_and_a_policy_change(project: Project) -> None:
    root = project.config.root
    text = REGISTRY.replace("watched * 2", "watched * 3").replace('{"watched": "int"}', '{"watched": "int"}, ttl="30d"')
    (root / "features.py").write_text(text)
    (root / "prompts" / "mail.prompt.j2").write_text(MAIL.replace("{default: 0}", "{default: 1, max_age: 3d}"))
    (root / "prompts" / "new.prompt.j2").write_text("Hello")
    (root / "prompts" / "home.prompt.j2").unlink()
    found = _again(project).check_against("git:HEAD")
    lines = "\n".join(found.lines())
    assert "the function of on-demand feature user.twice has other code: 1 prompt reads it: mail" in lines
    assert "ttl of view activity: none -> 30d" in lines
    assert "prompt mail changed: default of twice: 0 -> 1; max_age of twice: none -> 3d" in lines
    assert "prompt home removed" in lines
    assert "prompt new added" in lines
    assert "feature user.segment: prompts read it at git:HEAD" in lines
    mail = next(one for one in found.prompts if one.prompt == "mail")
    assert mail.rows.changed > 0


def test_a_feature_that_prompts_read_is_removed(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    root = project.config.root
    (root / "features.py").write_text(REGISTRY.replace('{"segment": f', '{"group": f'))
    _again(project)
    assert run(["check", "--against", "git:HEAD", "--json", "--project", str(root)]) == 1
    found = json.loads(capsys.readouterr().out)
    changes = {one["change"]: one["prompts"] for one in found["registry"]}
    assert changes["feature user.segment removed"] == ["home"]
    home = next(one for one in found["prompts"] if one["prompt"] == "home")
    assert "unknown name 'segment'" in home["problem"]
    assert ("LF010", "error") in [(one["code"], one["severity"]) for one in home["findings"]]


@pytest.mark.parametrize("text", ["{{ twise }}", "---\nfeatures: {twice: 3}\n---\n{{ twice }}"])
def test_a_prompt_that_cannot_be_built_any_more(project: Project, text: str) -> None:
    (project.config.root / "prompts" / "mail.prompt.j2").write_text(text)
    found = _again(project).check_against("git:HEAD")
    assert found.breaks
    assert [(one.prompt, one.broken) for one in found.prompts] == [("home", False), ("mail", True)]
    assert found.unread == ()  # what it is to read is not known


@pytest.mark.heavy
def test_nothing_changed_and_what_is_no_revision(project: Project, capsys: pytest.CaptureFixture[str]) -> None:
    assert _again(project).check_against("git:HEAD").lines()[0].startswith("nothing that decides a prompt changed")
    with pytest.raises(RequestError, match="takes git:REV"):
        project.check_against("HEAD")
    root = project.config.root
    assert run(["check", "--against", "git:HEAD", "--fix", "--project", str(root)]) == 2
    assert "--against looks at the whole project" in capsys.readouterr().err


def test_an_earlier_registry_that_does_not_load(project: Project) -> None:
    root = project.config.root
    (root / "features.py").write_text("import nothing_of_this_name\n")
    commit(root)
    (root / "features.py").write_text(REGISTRY)
    with pytest.raises(RequestError, match=r"could not be loaded: registry features.py:1 .*nothing_of_this_name"):
        _again(project).check_against("git:HEAD")


def test_changes_of_definitions() -> None:
    entities = "entities: [{name: user, join_key: user_id}]\nviews:\n"
    old = f"""{entities}
  - {{name: a, entity: user, source: a.parquet, features: {{x: int, y: str, z: 'enum[p,q]'}}}}
  - {{name: b, entity: user, source: b.parquet, features: [{{name: w, dtype: str, column: c}}]}}
"""
    new = f"""{entities}
  - {{name: a, entity: user, source: other.parquet, ttl: 7d, features: {{x: float, z: 'enum[q,r]'}}}}
  - {{name: b, entity: user, source: b.parquet, features: [{{name: v, dtype: str, column: c}}]}}
"""
    said = [
        one.said
        for one in registry_changes(registry_json(registry_from_yaml(old)), registry_json(registry_from_yaml(new)))
    ]
    assert said[:5] == [
        "feature user.y removed",
        "feature user.w renamed to user.v",
        "dtype of user.x: int -> float",
        "enum value 'p' of user.z removed",
        "enum value 'r' of user.z added",
    ]
    assert "ttl of view a: none -> 7d" in [one.replace("P7D", "7d").replace("604800.0", "7d") for one in said]
    assert any(one.startswith("source of view a: ") and "other.parquet" in one for one in said)
    assert len(said) == 7
