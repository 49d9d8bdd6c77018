"""Rows in columns are the texts that `codec` and `DType.encode` make row by row, for every dtype."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures import columns
from llmfeatures.cells import entity_keys, row_columns, value_texts
from llmfeatures.clock import stamp
from llmfeatures.codec import STAMP_LENGTH, created_stamp, entity_key
from llmfeatures.ports import LatestBatch
from llmfeatures.schema import Entity, FeatureView
from llmfeatures.types import INT64_MAX, INT64_MIN, DType, json_value, parse_dtype

FIRST, LAST = datetime(1, 1, 1), datetime(9999, 12, 31, 23, 59, 59, 999999)
MOMENTS = st.one_of(
    st.datetimes(FIRST, LAST),
    st.datetimes(FIRST, LAST).map(lambda one: one.replace(microsecond=0)),
    st.sampled_from([FIRST, LAST, datetime(1970, 1, 1), datetime(1969, 12, 31, 23, 59, 59, 999999)]),
).map(lambda one: one.replace(tzinfo=UTC))
TEXTS = st.one_of(
    st.text(max_size=20),
    st.text(st.characters(codec=None), max_size=8),  # lone surrogates too: canonical text has none
    st.sampled_from(
        ["", '"', "\\", "\x00", "\x1f", "\x7f", "\u2028", "é", "a b", "a:b", "%", "%41", "$5\r\nx", "😀", "-._~@+"]
    ),
)
FLOATS = st.one_of(
    st.floats(),
    st.sampled_from([0.0, -0.0, float("nan"), float("inf"), 1e16, 1e22, 1e-7, 5e-324, 0.1, 2.0**53, float(2**63)]),
)
JSON = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-(2**70), 2**70), FLOATS, TEXTS),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXTS, inner, max_size=3)),
    max_leaves=6,
)
INTS = st.one_of(st.integers(INT64_MIN, INT64_MAX), st.sampled_from([0, -1, INT64_MIN, INT64_MAX]))


def _decimals(written: str) -> st.SearchStrategy[Decimal]:
    dtype = parse_dtype(written)
    most = 10**dtype.precision - 1
    return st.integers(-most, most).map(lambda number: Decimal(number).scaleb(-dtype.scale) if number else Decimal(0))


SCALARS: dict[str, st.SearchStrategy[Any]] = {
    "str": TEXTS,
    'enum[a,"b,é]': st.sampled_from(["a", '"b', "é"]),
    "int": INTS,
    "float": FLOATS,
    "bool": st.booleans(),
    "timestamp": MOMENTS,
    "date": st.one_of(st.dates(), st.sampled_from([date.min, date.max, date(1969, 12, 31)])),
    "decimal(4,2)": _decimals("decimal(4,2)"),
    "decimal(18,0)": _decimals("decimal(18,0)"),
    "decimal(18,12)": _decimals("decimal(18,12)"),
}
VALUES: dict[str, st.SearchStrategy[Any]] = {
    **SCALARS,
    "json": JSON,
    **{
        f"list[{name}]": st.lists(one.filter(math.isfinite) if name == "float" else one, max_size=4)
        for name, one in SCALARS.items()
    },
}


def column(dtype: DType, values: list[Any], cut: int) -> Any:
    """A canonical column of values, of which the first ``cut`` are sliced off."""
    made = columns.array_of(dtype, values[:1] * cut + values)
    return made.slice(cut) if values else made


@pytest.mark.parametrize("written", VALUES)
@settings(max_examples=50)
@given(data=st.data())
def test_a_column_of_values_is_what_encode_writes_of_each(written: str, data: st.DataObject) -> None:
    dtype = parse_dtype(written)
    drawn = data.draw(st.lists(st.one_of(st.none(), VALUES[written]), max_size=8))
    # a text is JSON to be parsed to `canonical`, and a value to `json_value`
    values = [json_value(one) if written == "json" else dtype.canonical(one) for one in drawn]
    made = value_texts(dtype, column(dtype, values, data.draw(st.integers(0, 2))))
    assert made.type == pa.large_binary()
    assert made.to_pylist() == [dtype.encode(one).encode() for one in values]
    assert [dtype.decode(one) for one in made.to_pylist()] == values


def test_what_is_not_finite_is_null_and_no_zero_is_negative() -> None:
    dtype = parse_dtype("float")
    made = columns.canonical(dtype, pa.array([float("nan"), float("-inf"), -0.0, None]))
    assert made.non_finite == 2
    assert value_texts(dtype, made.array).to_pylist() == [b"null", b"null", b"0.0", b"null"]


@pytest.mark.parametrize("written", [name for name in SCALARS if name != "float"])  # which is no join key
@settings(max_examples=40)
@given(data=st.data())
def test_keys_are_what_codec_writes(written: str, data: st.DataObject) -> None:
    dtype = parse_dtype(written)
    drawn = data.draw(st.lists(st.tuples(SCALARS[written], TEXTS), max_size=6))
    rows = [(dtype.canonical(one), parse_dtype("str").canonical(other)) for one, other in drawn]
    keys = {"first": dtype, "user_id": parse_dtype("str")}
    arrays = [columns.array_of(one, [row[at] for row in rows]) for at, one in enumerate(keys.values())]
    made = entity_keys(keys, arrays).to_pylist()
    assert made == [entity_key(list(keys), row).encode() for row in rows]
    (alone,) = (entity_keys({"first": dtype}, arrays[:1]),)
    assert alone.to_pylist() == [entity_key(["first"], row[:1]).encode() for row in rows]


@given(st.lists(st.tuples(MOMENTS, st.one_of(st.none(), MOMENTS), INTS), max_size=6))
def test_moments_are_stamps_and_their_text_order_is_their_order(
    drawn: list[tuple[datetime, datetime | None, int]],
) -> None:
    view = FeatureView("activity", Entity("user", join_key="user_id"), "x.parquet", {"watched": "int"})
    moments = parse_dtype("timestamp")
    batch = LatestBatch(
        keys=(pa.array([f"u{number}" for number in range(len(drawn))], pa.string()),),
        event=columns.array_of(moments, [event for event, _, _ in drawn]),
        created=columns.array_of(moments, [created for _, created, _ in drawn]),
        columns=(pa.array([value for _, _, value in drawn], pa.int64()),),
    )
    rows = row_columns(view, batch)
    made = [one.decode() for one in rows.moments.to_pylist()]
    assert made == [f"{stamp(event)}|{created_stamp(created)}" for event, created, _ in drawn]
    assert all(one[STAMP_LENGTH] == "|" for one in made)
    events = [event for event, _, _ in drawn]
    assert sorted(events) == [drawn[at][0] for at in sorted(range(len(made)), key=lambda at: made[at][:STAMP_LENGTH])]
    assert len(rows) == len(drawn)


def test_a_wide_gap_of_moments_keeps_microseconds() -> None:
    dtype = parse_dtype("timestamp")
    moments = [datetime(1, 1, 1, tzinfo=UTC), datetime(1969, 12, 31, 23, 59, 59, 999999, UTC), LAST.replace(tzinfo=UTC)]
    moments.append(moments[1] + timedelta(microseconds=1))
    assert value_texts(dtype, columns.array_of(dtype, moments)).to_pylist() == [
        b'"0001-01-01T00:00:00.000000Z"',
        b'"1969-12-31T23:59:59.999999Z"',
        b'"9999-12-31T23:59:59.999999Z"',
        b'"1970-01-01T00:00:00.000000Z"',
    ]
