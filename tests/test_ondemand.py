"""On-demand features: their definitions, their errors, and the registry's checks."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from llmfeatures import Entity, FeatureView, OnDemandFeature, Registry, on_demand
from llmfeatures.errors import DefinitionError, OnDemandError
from llmfeatures.registry import load_registry
from llmfeatures.types import parse_dtype

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
    line = viewer_kind.function.__code__.co_firstlineno + 3
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

    for function in (lambda watch_count_30d: watch_count_30d, later, many, len):
        with pytest.raises(DefinitionError, match="one"):
            OnDemandFeature("one", USER, "int", function)


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


def _table_of_arrays() -> dict[str, tuple[str, str]]:
    """The documented table: by dtype what a parameter gets and what may be returned."""
    lines = (Path(__file__).parent.parent / "docs" / "on-demand.md").read_text(encoding="utf-8").splitlines()
    start = next(at for at, line in enumerate(lines) if line.startswith("| dtype | a parameter gets"))
    rows: dict[str, tuple[str, str]] = {}
    for line in lines[start + 2 :]:
        if not line.startswith("|"):
            return rows
        dtype, given, returned = (cell.strip() for cell in line.strip("|").split("|"))
        rows[dtype.strip("`")] = given, returned
    return rows


EXAMPLES: dict[str, tuple[Any, list[Any], list[Any]]] = {
    # a value, types that may be returned with it, and types that may not
    "str": ("x", [pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())], [pa.binary()]),
    "enum[a,b]": ("a", [pa.large_string(), pa.dictionary(pa.int8(), pa.string())], [pa.binary()]),
    "int": (7, [pa.int8(), pa.uint64(), pa.decimal128(5, 0)], [pa.float64()]),
    "float": (2, [pa.float32(), pa.int16(), pa.decimal128(5, 2)], [pa.string()]),
    "bool": (True, [], [pa.int8()]),
    "timestamp": (
        datetime(2026, 5, 1, tzinfo=UTC),
        [pa.timestamp("s"), pa.timestamp("ns", "Asia/Tokyo")],
        [pa.int64()],
    ),
    "date": (date(2026, 5, 1), [pa.date64()], [pa.string()]),
    "decimal(10,3)": (Decimal(2), [pa.decimal128(20, 5), pa.int32()], [pa.float64()]),
    "list[int]": ([1, 2], [pa.large_list(pa.int8()), pa.list_(pa.int64(), 2)], [pa.list_(pa.float64()), pa.int64()]),
    "json": ({"a": 1}, [pa.struct([("a", pa.int8())])], [pa.binary()]),
}


def test_the_table_of_arrays_has_every_dtype() -> None:
    assert list(_table_of_arrays()) == list(EXAMPLES)


@pytest.mark.parametrize("written", EXAMPLES)
def test_arrays_have_the_documented_types(written: str) -> None:
    value, may, may_not = EXAMPLES[written]
    dtype = parse_dtype(written)
    given: list[Any] = []
    returned: list[Any] = []

    def same(watch_count_30d: Any) -> Any:
        given.append(watch_count_30d.type)
        return returned[-1] if returned else watch_count_30d

    feature = OnDemandFeature("same", USER, dtype, same, vectorized=True)

    def made() -> Any:
        return feature.compute_many([{"watch_count_30d": value}], {"watch_count_30d": dtype})[0]

    assert made() == dtype.canonical(value)
    assert f"`{given[0]}`" in _table_of_arrays()[written][0]
    for held in (*may, pa.null()):
        expected = None if held == pa.null() else dtype.canonical(value)
        array = pa.array([value], held) if expected is not None else pa.nulls(1)
        for one in (array, pa.chunked_array([array])):
            returned.append(one)
            assert made() == expected, held
    for held in may_not:
        returned.append(pa.nulls(1, held))
        assert isinstance(made(), OnDemandError), held
