"""Registries: Python and YAML are equal, and what is wrong is named with what to do."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmfeatures import Entity, Feature, FeatureView, ParquetSource, PushSource, Registry, SqlSource
from llmfeatures.errors import DefinitionError, UnknownNameError
from llmfeatures.registry import load_registry, registry_from_yaml, schema_hash

YAML = """
entities:
  - {name: user, join_key: user_id, description: A viewer}
  - name: seat
    join_keys: {tenant_id: int, user_id: str}
views:
  - name: segment
    entity: user
    source: data/user_segment.parquet
    features: {user_segment: "enum[casual,power_user]"}
    cadence: 1d
    ttl: 36h
  - name: activity
    entity: user
    source: {path: data/*.parquet, created_timestamp: created, columns: {uid: user_id}}
    features:
      - {name: watch_count_30d, dtype: int, column: n, description: Titles watched, tags: {team: growth}}
    lateness: 90s
  - name: taste
    entity: seat
    source: {batch: {query: "SELECT * FROM 'x.csv'"}}
    features: {last_genre: str, price: "decimal(10,2)", seen: "list[timestamp]"}
    owner: growth
  - {name: pushed, entity: seat, source: {batch: null}, features: {clicks: int}}
"""


def python() -> Registry:
    user = Entity("user", join_key="user_id", description="A viewer")
    seat = Entity("seat", join_keys={"tenant_id": "int", "user_id": "str"})
    return Registry(
        [
            FeatureView(
                "segment",
                user,
                "data/user_segment.parquet",
                {"user_segment": "enum[casual,power_user]"},
                cadence="1d",
                ttl="36h",
            ),
            FeatureView(
                "activity",
                user,
                ParquetSource("data/*.parquet", created_timestamp="created", columns={"uid": "user_id"}),
                [Feature("watch_count_30d", "int", column="n", description="Titles watched", tags={"team": "growth"})],
                lateness="90s",
            ),
            FeatureView(
                "taste",
                seat,
                PushSource(batch=SqlSource("SELECT * FROM 'x.csv'")),
                {"last_genre": "str", "price": "decimal(10,2)", "seen": "list[timestamp]"},
                owner="growth",
            ),
            FeatureView("pushed", seat, PushSource(), {"clicks": "int"}),
        ]
    )


def test_yaml_and_python_are_equal() -> None:
    loaded = registry_from_yaml(YAML)
    assert loaded == python()
    assert [schema_hash(view) for view in loaded.views] == [schema_hash(view) for view in python().views]


def test_definitions_are_frozen() -> None:
    with pytest.raises(ValueError, match="frozen"):
        python().views[0].name = "other"


def test_features_are_found_by_bare_and_dotted_name() -> None:
    assert python().find("last_genre").view.name == "taste"
    assert python().find("user.user_segment").feature.name == "user_segment"
    with pytest.raises(UnknownNameError, match="did you mean 'last_genre'"):
        python().find("last_gener")


USER = Entity("user", join_key="user_id")
WRONG: dict[str, tuple[Any, str]] = {
    "duplicate view": (
        lambda: Registry([FeatureView("v", USER, "a", {"a": "int"}), FeatureView("v", USER, "a", {"b": "int"})]),
        "view 'v' is defined twice",
    ),
    "duplicate feature": (
        lambda: Registry([FeatureView("v", USER, "a", {"a": "int"}), FeatureView("w", USER, "a", {"a": "int"})]),
        "'a' of entity 'user' is in two views, 'v' and 'w'",
    ),
    "feature twice in a view": (
        lambda: FeatureView("v", USER, "a", [Feature("a", "int"), Feature("a", "str")]),
        "lists feature 'a' twice",
    ),
    "unknown dtype": (lambda: Feature("a", "integer"), "the dtypes are: str, int"),
    "ttl of zero": (lambda: FeatureView("v", USER, "a", {"a": "int"}, ttl="0s"), "a ttl is longer than zero"),
    "no duration": (lambda: FeatureView("v", USER, "a", {"a": "int"}, ttl="2 weeks"), "is no duration"),
    "no identifier": (lambda: Feature("watch-count", "int"), "is no identifier"),
    "leading underscore": (lambda: Feature("_a", "int"), "is no identifier"),
    "an option's name": (lambda: Feature("as_of", "int"), "an option of build_context"),
    "a global's name": (lambda: Feature("range", "int"), "a global of Jinja"),
    "a keyword": (lambda: Entity("e", join_key="class"), "a Python keyword"),
    "a word of Jinja": (lambda: Feature("none", "int"), "a word of Jinja"),
    "feature named like a join key": (lambda: FeatureView("v", USER, "a", {"user_id": "str"}), "is a join key"),
    "no features": (lambda: FeatureView("v", USER, "a", {}), "has no features"),
    "unknown option": (lambda: FeatureView("v", USER, "a", {"a": "int"}, ttll="1d"), "its options are"),
    "no join key": (lambda: Entity("e"), "either join_key or join_keys"),
    "a float as join key": (lambda: Entity("e", join_keys={"k": "float"}), "cannot be float"),
    "same join keys": (
        lambda: Registry([USER, Entity("viewer", join_key="user_id")]),
        "have the same join keys",
    ),
    "two dtypes of a join key": (
        lambda: Registry([USER, Entity("seat", join_keys={"user_id": "int", "seat_id": "str"})]),
        "join key 'user_id' is",
    ),
    "entity defined twice": (
        lambda: Registry([USER, Entity("user", join_key="uid")]),
        "entity 'user' is defined twice",
    ),
    "unknown entity in YAML": (
        lambda: registry_from_yaml("views: [{name: v, entity: usr, source: a, features: {a: int}}]"),
        "unknown entity 'usr'",
    ),
    "unknown section in YAML": (lambda: registry_from_yaml("feature_views: []"), "not feature_views"),
    "view without a source in YAML": (
        lambda: registry_from_yaml("entities: [{name: user, join_key: user_id}]\nviews: [{name: v, entity: user}]"),
        "source",
    ),
    "a duration without a unit": (lambda: FeatureView("v", USER, "a", {"a": "int"}, ttl=30), "has no unit"),
    "a name that is no text": (lambda: FeatureView(5, USER, "a", {"a": "int"}), "view 5"),
    "features that are none": (lambda: FeatureView("v", USER, "a", 5), "features is a mapping"),
    "no list in YAML": (lambda: registry_from_yaml("entities: 5"), "has a list of entities"),
    "source of no kind": (lambda: FeatureView("v", USER, {"file": "a"}, {"a": "int"}), "exactly one of: path"),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_is_wrong_is_named(case: str) -> None:
    make, message = WRONG[case]
    with pytest.raises(DefinitionError, match=message):
        make()


def test_a_broken_registry_module_is_named_with_its_line(tmp_path: Path) -> None:
    (tmp_path / "features.py").write_text("import llmfeatures\n\nllmfeatures.Entity('user')\n")
    with pytest.raises(DefinitionError, match=r"features\.py:3: Entity 'user'"):
        load_registry("features.py", tmp_path)
    (tmp_path / "features.py").write_text("x = 1\n")
    with pytest.raises(DefinitionError, match="defines no Registry named 'registry'"):
        load_registry("features.py", tmp_path)
    with pytest.raises(DefinitionError, match="is not there"):
        load_registry("absent.py", tmp_path)


def test_a_registry_can_come_from_a_package(tmp_path: Path) -> None:
    (tmp_path / "shared_features.py").write_text("from llmfeatures import Registry\nmine = Registry([])\n")
    assert load_registry("shared_features:mine", tmp_path) == Registry([])
