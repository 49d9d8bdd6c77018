"""What an aggregation may be, and that it survives in its view."""

from __future__ import annotations

from typing import Any

import pytest

from llmfeatures.errors import DefinitionError
from llmfeatures.registry import registry_from_yaml, schema_hash
from llmfeatures.schema import Aggregation, Entity, Feature, FeatureView

USER = Entity("user", join_key="user_id")


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        ("cuont", {}, "did you mean"),
        ("sum", {"column": "n"}, "needs a dtype"),
        ("mean", {}, "needs a column"),
        ("sum", {"column": "n", "dtype": "str"}, "gives no str"),
        ("count", {"n": 2}, "takes n"),
        ("last_n", {"column": "n", "dtype": "list[int]"}, "takes n"),
        ("last_n", {"column": "n", "dtype": "list[int]", "n": 0}, "takes n"),
        ("count", {"window": "0d"}, "longer than zero"),
    ],
)
def test_what_does_not_go_together_is_refused(function: str, options: dict[str, Any], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        Aggregation("watched", function, **options)


@pytest.mark.parametrize(
    ("features", "options", "said"),
    [
        ([Aggregation("a", "count")], {}, "cadence"),
        ([Aggregation("a", "count")], {"cadence": "1d", "ttl": "1d"}, "no ttl"),
        ([Aggregation("a", "count"), Feature("b", "int")], {"cadence": "1d"}, "plain features"),
    ],
)
def test_a_view_says_what_it_lacks(features: list[Feature], options: dict[str, str], said: str) -> None:
    with pytest.raises(DefinitionError, match=said):
        FeatureView("events", USER, "e.parquet", features, **options)


YAML = """
entities:
  - {name: user, join_key: user_id}
views:
  - name: events
    entity: user
    source: e.parquet
    cadence: CADENCE
    features:
      - {name: watched, function: count, window: 30d}
      - {name: titles, function: last_n, column: title, dtype: "list[str]", n: 3}
"""


def test_yaml_is_python_and_each_part_changes_the_hash() -> None:
    (view,) = registry_from_yaml(YAML.replace("CADENCE", "1d")).views
    count = Aggregation("watched", "count", window="30d")
    titles = Aggregation("titles", "last_n", column="title", dtype="list[str]", n=3)
    assert view.aggregates
    assert view == FeatureView("events", USER, "e.parquet", [count, titles], cadence="1d")
    assert view.model_dump()["features"][0]["function"] == "count"
    assert count.code == "count of 30d"
    others = [
        FeatureView("events", USER, "e.parquet", features, cadence=cadence)
        for features, cadence in (
            ([count, titles], "1h"),
            ([Aggregation("watched", "count", window="31d"), titles], "1d"),
            ([count, Aggregation("titles", "last_n", column="title", dtype="list[str]", n=4)], "1d"),
            ([Aggregation("watched", "count_distinct", column="watched", window="30d"), titles], "1d"),
            ([Aggregation("watched", "count", column="watched", window="30d"), titles], "1d"),
        )
    ]
    assert len({schema_hash(one) for one in [view, *others]}) == 6
