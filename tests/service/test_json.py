"""JSON of the service: dtypes as schemas, values in and out, contexts as bytes."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import jsonschema_rs
import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures import Project, PromptContext
from llmfeatures.blocks import CacheBreak
from llmfeatures.context import FeatureValue, Prefix, SectionTokens
from llmfeatures.errors import InvalidValueError
from llmfeatures.json_schema import schema_of, value_of
from llmfeatures.prompt_plan import Finished
from llmfeatures.service.encode import ContextWriter, features_json
from llmfeatures.types import DType, json_value, parse_dtype

WRITTEN = ["str", "int", "float", "bool", "timestamp", "date", "decimal(6,2)", "decimal(3,3)", "decimal(4,0)", "json"]
WRITTEN += ["enum[a,b]", "list[int]", "list[str]", "list[timestamp]", "list[decimal(6,2)]"]
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=6,
)
VALUES: dict[str, st.SearchStrategy[Any]] = {
    "str": TEXT,
    "int": st.integers(-(2**63), 2**63 - 1),
    "float": st.floats(allow_nan=False, allow_infinity=False),
    "bool": st.booleans(),
    "timestamp": st.datetimes(datetime(1, 1, 2), datetime(9999, 12, 30), timezones=st.just(UTC)),
    "date": st.dates(),
    "decimal": st.integers(-999_999, 999_999).map(lambda n: Decimal(n).scaleb(-2)),
    "enum": st.sampled_from(["a", "b"]),
    "json": ANY_JSON,
}


def values_of(dtype: DType) -> st.SearchStrategy[Any]:
    """Canonical values."""
    if dtype.kind == "list":
        assert dtype.item is not None
        return st.lists(values_of(dtype.item), max_size=3)
    if dtype.kind == "decimal":
        limit = 10**dtype.precision - 1
        return st.integers(-limit, limit).map(lambda n: Decimal(n).scaleb(-dtype.scale))
    return VALUES[dtype.kind]


@pytest.mark.parametrize("written", WRITTEN)
@given(data=st.data())
@settings(max_examples=20)
def test_a_canonical_value_goes_out_as_its_schema_says_and_comes_back(written: str, data: st.DataObject) -> None:
    dtype = parse_dtype(written)
    value = dtype.canonical(
        json.dumps(v) if isinstance(v := data.draw(values_of(dtype)), str) and written == "json" else v
    )
    sent = json.loads(json.dumps(json_value(value)))
    if value is not None:
        assert jsonschema_rs.is_valid(schema_of(dtype), sent)
    assert jsonschema_rs.is_valid(schema_of(dtype, nullable=True), sent)
    assert dtype.canonical(value_of(dtype, sent)) == value


@pytest.mark.parametrize("written", [one for one in WRITTEN if "timestamp" not in one and one != "date"])
@given(value=ANY_JSON)
@settings(max_examples=50)
def test_the_service_takes_what_the_schema_takes_and_nothing_else(written: str, value: Any) -> None:
    dtype = parse_dtype(written)
    sent = orjson.loads(json.dumps(value))
    if isinstance(sent, float) and sent.is_integer() and dtype.kind in ("int", "list"):
        return  # 1.0 is an integer to JSON Schema, and a float to us
    if isinstance(sent, list) and any(isinstance(one, float) and one.is_integer() for one in sent):
        return
    try:
        dtype.canonical(value_of(dtype, sent))
        taken = True
    except InvalidValueError:
        taken = False
    assert taken == jsonschema_rs.is_valid(schema_of(dtype, nullable=True), sent)


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Any:
    from tests.service.world import make_world

    root = make_world(tmp_path_factory.mktemp("json"), materialize=False)
    return Project.load(root).prompts.plan("all")


STATUS = st.sampled_from(["present", "null", "missing", "expired", "unavailable"])


def finished(features: dict[str, FeatureValue]) -> st.SearchStrategy[Finished]:
    """Finished prompts of these features, with or without sections and cache breaks."""
    section = SectionTokens(name="s", priority=-1, tokens=9, kept=4, outcome="cut")
    prefix = Prefix(characters=3, tokens=1, estimated=True, sha256="00")
    plain = Finished((), features, {})
    return st.sampled_from([plain, Finished((), features, {}, 9, (section, section), (CacheBreak(0, 3),), prefix)])


@given(data=st.data())
@settings(max_examples=50)
def test_the_fast_json_of_a_context_is_that_of_pydantic(plan: Any, data: st.DataObject) -> None:
    moments = VALUES["timestamp"]
    features: dict[str, FeatureValue] = {}
    values: dict[str, Any] = {"user_id": data.draw(TEXT)}
    for ref in plan.features.outputs:
        value = data.draw(st.none() | values_of(ref.dtype))
        features[ref.name] = FeatureValue(value, data.draw(STATUS), data.draw(st.none() | moments))
        values[ref.name] = value
    ctx = PromptContext(
        request_id="r", prompt="all", version="v", prompt_id="p", as_of=data.draw(moments),
        messages=[{"role": "system", "content": data.draw(TEXT)}], features=features, values=values,
        config=data.draw(st.dictionaries(TEXT, ANY_JSON, max_size=2)),
        manifest=plan.manifest(data.draw(finished(features)), {"user_id": "x"}, source="online", library="1"),
    )  # fmt: skip
    fast = ContextWriter(plan).json(ctx)
    assert json.loads(fast) == json.loads(ctx.model_dump_json())
    assert json.loads(ContextWriter(plan).json_list("contexts", [ctx, ctx]))["contexts"][1] == json.loads(fast)


def test_features_are_written_for_every_dtype() -> None:
    at = datetime(2026, 5, 7, 22, 0, 0, 5, tzinfo=UTC)
    row = {
        "a": FeatureValue(Decimal("1.50"), "present", at),
        "b": FeatureValue({"deep": [2**80]}, "present", at),
        "c": FeatureValue([date(2026, 1, 1)], "present", None),
        "d": FeatureValue(at, "present", None),
        "e": FeatureValue(None, "missing", None),
    }
    found = json.loads(features_json([row], {"a": "decimal(3,2)"}))["rows"][0]
    assert [found[name]["value"] for name in row] == [
        "1.50", {"deep": [2**80]}, ["2026-01-01"], "2026-05-07T22:00:00.000005Z", None,
    ]  # fmt: skip
    assert found["a"]["event_timestamp"] == "2026-05-07T22:00:00.000005Z"


def test_values_are_not_shown_when_refused() -> None:
    for written, value in (("date", 815), ("decimal(6,2)", 4711), ("list[date]", "geheim"), ("timestamp", ["geheim"])):
        with pytest.raises(InvalidValueError) as caught:
            parse_dtype(written).canonical(value_of(parse_dtype(written), value))
        assert str(value) not in str(caught.value)
        assert "geheim" not in str(caught.value)
