"""What every online store decides alike: which row wins, what a meta record says, whose key a key is."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NoReturn
from urllib.parse import quote

from llmfeatures.codec import FORMAT, STAMP_LENGTH, order, view_field
from llmfeatures.errors import FormatError
from llmfeatures.ports import Meta, RowColumns, RowWrite, ViewMeta

FORMAT_FIELD = "@format"
LIFETIME_FIELD = "@lifetime"
_SHORTEST_STAMP = 2 * STAMP_LENGTH + 3


def prefix_of(namespace: str) -> str:
    """What the names of a namespace's keys begin with; encoded, so that no two namespaces share a key."""
    return quote(namespace, safe="-._~@+") + ":"


def newest(rows: Iterable[RowWrite]) -> dict[str, dict[str, RowWrite]]:
    """The winners among rows: entity key → view → row."""
    winners: dict[str, dict[str, RowWrite]] = {}
    for row in rows:
        views = winners.setdefault(row.key, {})
        rival = views.get(row.view.name)
        if rival is None or _order(rival) < _order(row):
            views[row.view.name] = row
    return winners


def beats(row: RowWrite, stamp: str | None, values: Sequence[str | None], replace_before: str | None) -> bool:
    """Whether a row wins over the stored one. ``values`` are the stored texts of the row's features.

    A stored row that lacks one of the features is of an older schema, and loses a tie.
    """
    if stamp is None or len(stamp) < _SHORTEST_STAMP:
        return True
    if replace_before is not None and written_of(stamp) < replace_before:
        return True
    stored = (stamp[:STAMP_LENGTH], stamp[STAMP_LENGTH + 1 : -STAMP_LENGTH - 1])
    if stored != (row.event, row.created):
        return stored < (row.event, row.created)
    whole = [value for value in values if value is not None]
    return len(whole) < len(values) or order(*stored, whole) < _order(row)


def written_of(stamp: str) -> str:
    """When the store wrote the row of a stamp."""
    return stamp[-STAMP_LENGTH:]


def cells_of(row: RowWrite, written: str) -> list[tuple[str, str]]:
    """The fields of a row that was written at a moment, stamp first."""
    stamp = f"{row.event}|{row.created}|{written}"
    return [(view_field(row.view.name), stamp), *zip(row.view.features, row.values, strict=True)]


def row_writes(rows: RowColumns) -> list[RowWrite]:
    """Rows in columns, one by one."""
    keys, moments = _texts(rows.keys), _texts(rows.moments)
    values = [_texts(column) for column in rows.values]
    return [
        RowWrite(key, rows.view, both[:STAMP_LENGTH], both[STAMP_LENGTH + 1 :], texts)
        for key, both, texts in zip(keys, moments, zip(*values, strict=True), strict=True)
    ]


def _texts(column: Any) -> list[str]:
    return [one.decode() for one in column.to_pylist()]


def belongs(key: str, join_keys: Sequence[str]) -> bool:
    """Whether an encoded entity key has these join keys, and no other."""
    parts = key.split(":")
    return len(parts) == 2 * len(join_keys) and parts[::2] == list(join_keys)


def meta_of(fields: Mapping[str, str], where: str) -> Meta | None:
    """The meta record from its fields.

    Raises:
        FormatError: the record has another format number.
    """
    check_format(fields.get(FORMAT_FIELD), where)
    if FORMAT_FIELD not in fields:
        return None
    views = {name: view_meta(text) for name, text in fields.items() if not name.startswith("@")}
    return Meta(format=FORMAT, lifetime=fields.get(LIFETIME_FIELD, ""), views=views)


def view_meta(text: str) -> ViewMeta:
    """A view's entry in the meta record."""
    schema_hash, _, watermark = text.rpartition("|")
    return ViewMeta(schema_hash=schema_hash, watermark=watermark)


def view_text(meta: ViewMeta) -> str:
    """A view's entry in the meta record, as text."""
    return f"{meta.schema_hash}|{meta.watermark}"


def completed(stored: str | None, meta: ViewMeta, base: str | None) -> str | None:
    """What to record when a materialization of a view completes; None when the record stays as it is."""
    if base is None:
        return view_text(meta)
    if stored is None:
        return None
    before = view_meta(stored)
    moves = before.schema_hash == meta.schema_hash and base <= before.watermark < meta.watermark
    return view_text(meta) if moves else None


def check_format(found: str | None, where: str) -> None:
    """Raise `FormatError` when a store says that it holds another format; None says nothing."""
    if found is not None and found != str(FORMAT):
        refuse_format(found, where)


def refuse_format(found: str, where: str) -> NoReturn:
    """Raise the `FormatError` of a store that holds format ``found``."""
    raise FormatError(
        f"the online store {where} holds format {found}, and this version of llmfeatures reads format {FORMAT}: use "
        "the version that wrote it, or empty this store (or choose another namespace) and run `llmfeatures materialize`"
    )


def _order(row: RowWrite) -> tuple[str, str, bytes]:
    return order(row.event, row.created, row.values)
