"""The rows and views that the tests of online stores write."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from llmfeatures.clock import microseconds, stamp
from llmfeatures.codec import entity_key
from llmfeatures.ports import (
    RowColumns,
    RowWrite,
    ViewFields,
    ViewMeta,
)

ACTIVITY = ViewFields(name="activity", features=("watch_count", "last_genre"))
SEGMENT = ViewFields(name="segment", features=("user_segment",))
USER = ("user_id",)

START = datetime(2026, 5, 7, 22, tzinfo=UTC)
NEVER = stamp(datetime(9000, 1, 1, tzinfo=UTC))
"""A stamp later than anything a store writes now."""


def at(seconds: float) -> str:
    """The stamp of a moment some seconds after `START`."""
    return stamp(START + timedelta(seconds=seconds))


def key_of(user: object) -> str:
    """The entity key of a user."""
    return entity_key(USER, [str(user)])


def activity(
    user: object, event: float = 0, *, created: float | None = None, count: object = 1, genre: str = '"drama"'
) -> RowWrite:
    """A row of the view ``activity``."""
    when = "-" if created is None else at(created)
    return RowWrite(key_of(user), ACTIVITY, at(event), when, (str(count), genre))


def segment(user: object, event: float = 0, *, value: str = '"casual"') -> RowWrite:
    """A row of the view ``segment``."""
    return RowWrite(key_of(user), SEGMENT, at(event), "-", (value,))


def in_columns(rows: Sequence[RowWrite], view: ViewFields = ACTIVITY) -> RowColumns:
    """Rows of a view as `OnlineStore.write_columns` takes them."""
    import pyarrow as pa

    def column(texts: Sequence[str]) -> Any:
        texts_as_bytes = [text.encode() for text in texts]
        return pa.array(texts_as_bytes, pa.large_binary())  # pyright: ignore[reportUnknownVariableType]

    return RowColumns(
        view=view,
        keys=column([row.key for row in rows]),
        moments=column([f"{row.event}|{row.created}" for row in rows]),
        values=tuple(column([row.values[number] for row in rows]) for number in range(len(view.features))),
    )


ORDER = (
    ("greater event", activity(1, 1), activity(1, 2), True),
    ("smaller event", activity(1, 2), activity(1, 1, created=9), False),
    ("event by microseconds", activity(1, 0.000001), activity(1, 0.000002), True),
    ("greater created", activity(1, created=1), activity(1, created=2), True),
    ("smaller created", activity(1, created=2, count=1), activity(1, created=1, count=9), False),
    ("created against none", activity(1, count=9), activity(1, created=-9e8, count=1), True),
    ("none against created", activity(1, created=-9e8, count=1), activity(1, count=9), False),
    ("the same row", activity(1, created=1), activity(1, created=1), False),
    ("greater values", activity(1, count=1), activity(1, count=2), True),
    ("values are text: 9 is above 10", activity(1, count=10), activity(1, count=9), True),
    ("values are one text: a comma is below a digit", activity(1, count=10), activity(1, count=1), False),
    ("a prefix is below", activity(1, genre='"a"'), activity(1, genre='"aa"'), True),
    ("upper case is below lower case", activity(1, genre='"Z"'), activity(1, genre='"a"'), True),
    ("hyphens count", activity(1, genre='"-b"'), activity(1, genre='"a"'), True),
    ("letters beyond ASCII are above", activity(1, genre='"z"'), activity(1, genre='"é"'), True),
    ("bytes of UTF-8, not of UTF-16", activity(1, genre='"\uffee"'), activity(1, genre='"\U0001f600"'), True),
)
"""What decides between a stored row and a new one: name, stored, new, whether the new one wins."""


def cells(row: RowWrite) -> dict[str, str]:
    """What `OnlineStoreTests._held` sees of a row."""
    return {f"@{row.view.name}": f"{row.event}|{row.created}"} | dict(zip(row.view.features, row.values, strict=True))


def mark(schema_hash: str, seconds: float) -> ViewMeta:
    return ViewMeta(schema_hash=schema_hash, watermark=at(seconds))


def epoch(seconds: float) -> int:
    return microseconds(START + timedelta(seconds=seconds)) // 1_000_000
