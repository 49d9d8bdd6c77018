# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""What the online store holds of rows, made column by column: the texts that `codec` and `DType.encode` make."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pyarrow as pa

from llmfeatures import columns
from llmfeatures.codec import NO_CREATED, encode_part
from llmfeatures.export.json_columns import BYTES, bytes_of, joined, json_texts, pc
from llmfeatures.ports import LatestBatch, RowColumns, ViewFields
from llmfeatures.schema import FeatureView
from llmfeatures.types import DType

_AS_JSON = ("str", "enum", "int", "bool", "date", "decimal")
"""Kinds whose canonical JSON is that of their text."""
_PLAIN_KEYS = ("str", "int", "bool", "date", "enum")
_KEPT = b"-._~@+0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
"""What stands in an entity key as it is."""
_NULL = pa.scalar(b"null", BYTES)


def row_columns(view: FeatureView, batch: LatestBatch) -> RowColumns:
    """A batch of winning rows as the online store takes them."""
    created = pc.fill_null(columns.stamp_texts(batch.created), NO_CREATED)
    return RowColumns(
        view=ViewFields(name=view.name, features=tuple(one.name for one in view.features)),
        keys=entity_keys(view.entity.join_keys, batch.keys),
        moments=joined(columns.stamp_texts(batch.event).cast(BYTES), "|", created.cast(BYTES)),
        values=tuple(
            value_texts(feature.dtype, array) for feature, array in zip(view.features, batch.columns, strict=True)
        ),
    )


def entity_keys(join_keys: Any, arrays: Any) -> Any:
    """`codec.entity_key` of each row of canonical join key columns, as bytes. ``join_keys`` maps names to dtypes."""
    parts: list[Any] = []
    for (name, dtype), array in zip(join_keys.items(), arrays, strict=True):
        parts += [f"{':' if parts else ''}{name}:", _key_parts(dtype, columns.whole(array))]
    return joined(*parts)


def value_texts(dtype: DType, array: Any) -> Any:
    """`DType.encode` of each value of a canonical column, as bytes; null is ``null``."""
    array = columns.whole(array)
    if dtype.kind in _AS_JSON:
        return json_texts(array)
    if dtype.kind == "timestamp":
        made = joined('"', columns.stamp_texts(array).cast(BYTES), '"')
    elif dtype.kind == "json":
        made = array.cast(BYTES)
    elif dtype.item is not None:
        made = _lists(dtype.item, array)
    else:
        made = _one_by_one(dtype, array, dtype.encode)
    return pc.fill_null(made, _NULL)


def _lists(item: DType, array: Any) -> Any:
    # the items of null lists are not among the flattened ones
    lengths = pc.fill_null(pc.list_value_length(array).cast(pa.int64()), 0)
    ends = pa.concat_arrays([pa.array([0], pa.int64()), pc.cumulative_sum(lengths)])
    items = pa.LargeListArray.from_arrays(ends, value_texts(item, array.flatten()))
    made = joined("[", pc.binary_join(items, pa.scalar(b",", BYTES)), "]")
    return pc.if_else(array.is_valid(), made, _NULL)


def _key_parts(dtype: DType, array: Any) -> Any:
    if dtype.kind in _PLAIN_KEYS:
        made = array.cast(pa.large_string()).cast(BYTES)
        if not bytes_of(made).translate(None, _KEPT):
            return made
    return _one_by_one(dtype, array, encode_part)


def _one_by_one(dtype: DType, array: Any, write: Callable[[Any], str]) -> Any:
    """Texts by way of Python, each distinct value once; null where it is null."""
    encoded = array.dictionary_encode()
    values = columns.python_values(dtype, encoded.dictionary)
    return pa.array([write(value).encode() for value in values], BYTES).take(encoded.indices)
