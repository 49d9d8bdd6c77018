"""On-demand features: their definitions, their errors, and the registry's checks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from llmfeatures import Entity, FeatureView, OnDemandFeature, Registry, on_demand
from llmfeatures.errors import DefinitionError, OnDemandError
from llmfeatures.registry import load_registry

USER = Entity("user", "user_id")
VIEW = FeatureView("activity", USER, "data/a.parquet", {"watch_count_30d": "int"})


@on_demand(USER, "enum[light,heavy]", inputs={"hour": "int"})
def viewer_kind(watch_count_30d: int | None, hour: int) -> Any:
    if hour < 0:
        raise ValueError(f"secret {watch_count_30d}")
    return None if watch_count_30d is None else "heavy" if watch_count_30d > hour else "light"


def test_value_and_call() -> None:
    assert viewer_kind(30, 2) == "heavy"
    assert viewer_kind.compute({"watch_count_30d": 1, "hour": 2}) == "light"
    assert viewer_kind.compute({"watch_count_30d": None, "hour": 2}) is None


def test_a_failure_names_the_feature_and_line_and_shows_no_value() -> None:
    line = viewer_kind.function.__code__.co_firstlineno + 3  # pyright: ignore[reportFunctionMemberAccess]
    with pytest.raises(OnDemandError) as caught:
        viewer_kind.compute({"watch_count_30d": 777, "hour": -1})
    message = str(caught.value)
    assert "viewer_kind" in message
    assert "ValueError" in message
    assert f"test_ondemand.py:{line}" in message
    assert "777" not in message
    assert "secret" not in message
    assert caught.value.feature == "viewer_kind"


def test_a_wrong_result_is_an_error_without_the_value() -> None:
    def word(watch_count_30d: int | None) -> str:
        return f"secret{watch_count_30d}"

    with pytest.raises(OnDemandError, match="word") as caught:
        OnDemandFeature("word", USER, "int", word).compute({"watch_count_30d": 5})
    assert "secret" not in str(caught.value)


def test_functions_that_are_refused() -> None:
    async def later(watch_count_30d: int) -> int:
        return watch_count_30d

    def many(*watch_count_30d: int) -> int:
        return len(watch_count_30d)

    for function in (lambda watch_count_30d: watch_count_30d, later, many, len):  # pyright: ignore[reportUnknownLambdaType, reportUnknownVariableType]
        with pytest.raises(DefinitionError, match="one"):
            OnDemandFeature("one", USER, "int", function)  # pyright: ignore[reportUnknownArgumentType]


def test_the_registry_checks_parameters_and_names() -> None:
    def kind(watch_count_30: int) -> int:
        return watch_count_30

    def chained(viewer_kind: str) -> str:
        return viewer_kind

    def fine(watch_count_30d: int, user_id: str, as_of: object) -> str:
        return f"{watch_count_30d}{user_id}{as_of}"

    with pytest.raises(DefinitionError, match="did you mean 'watch_count_30d'"):
        Registry([VIEW, OnDemandFeature("kind", USER, "int", kind)])
    with pytest.raises(DefinitionError, match="on demand too"):
        Registry([VIEW, viewer_kind, OnDemandFeature("chained", USER, "str", chained)])
    with pytest.raises(DefinitionError, match="taken"):
        Registry([VIEW, OnDemandFeature("watch_count_30d", USER, "str", fine)])
    with pytest.raises(DefinitionError, match="taken"):
        Registry([VIEW, viewer_kind, viewer_kind])
    assert len(Registry([VIEW, viewer_kind, OnDemandFeature("fine", USER, "str", fine)]).on_demand) == 2


def test_finding_one() -> None:
    registry = Registry([VIEW, viewer_kind])
    assert registry.find_any("user.viewer_kind").feature == viewer_kind
    with pytest.raises(DefinitionError, match="is on demand"):
        registry.find("viewer_kind")


def test_yaml_equals_python(tmp_path: Path) -> None:
    (tmp_path / "registry.yaml").write_text(
        """
entities: [{name: user, join_key: user_id}]
views: [{name: activity, entity: user, source: data/a.parquet, features: {watch_count_30d: int}}]
on_demand:
  - {name: viewer_kind, entity: user, dtype: "enum[light,heavy]", function: "tests.test_ondemand:viewer_kind",
     inputs: {hour: int}}
"""
    )
    assert load_registry("registry.yaml", tmp_path) == Registry([VIEW, viewer_kind])


def test_the_code_hash_ignores_comments_and_sees_code(tmp_path: Path) -> None:
    def hashed(name: str, body: str) -> str:
        file = tmp_path / f"{name}.py"
        file.write_text(body)
        space: dict[str, Any] = {}
        exec(compile(body, str(file), "exec"), space)
        return OnDemandFeature("f", USER, "int", space["f"]).code_hash()

    plain = hashed("a", "def f(watch_count_30d):\n    return watch_count_30d + 1\n")
    assert hashed("b", "def f(watch_count_30d):\n\n    # why\n    return (watch_count_30d + 1)\n") == plain
    assert hashed("c", "def f(watch_count_30d):\n    return watch_count_30d + 2\n") != plain
