"""Eight faults to plant. Each is what a careless implementation would do, and the parity property must see each."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from itertools import product
from typing import Any

import pyarrow as pa
from pyarrow import compute as pc

from llmfeatures import columns, contexts, materialize, plan
from llmfeatures.clock import stamp, system_clock
from llmfeatures.context import FeatureValue
from llmfeatures.offline import aggregate
from llmfeatures.schema import ParquetSource

Undo = Callable[[], None]


def plant(fault: str | None, *, where: str) -> Undo:
    """Plant a fault in the process that fills the store, or in the one that reads it; the result takes it out again."""
    if fault is None or (fault in IN_READER) != (where == "reader"):
        return lambda: None
    return FAULTS[fault]()


def _patch(target: Any, name: str, value: Any) -> Undo:
    before = getattr(target, name)
    setattr(target, name, value)
    return lambda: setattr(target, name, before)


def _ttl_ignored_online() -> Undo:
    context = contexts._context

    def unlimited(plan_: Any, call: Any, slots: Any, as_of: Any, source: str, *rest: Any) -> Any:
        if source == "online":
            refs = tuple(replace(ref, limit=None) for ref in plan_.features.refs)
            plan_ = replace(plan_, features=replace(plan_.features, refs=refs))
        return context(plan_, call, slots, as_of, source, *rest)

    return _patch(contexts, "_context", unlimited)


def _created_ignored() -> Undo:
    read = materialize.Materializer._read

    def blind(self: Any, view: Any, *rest: Any) -> Any:
        source = view.source
        timeless = ParquetSource(source.path, event_timestamp=source.event_timestamp, columns=source.columns)
        return read(self, view.model_copy(update={"source": timeless}), *rest)

    return _patch(materialize.Materializer, "_read", blind)


def _float32_widened() -> Undo:
    canonical = columns.canonical

    def widened(dtype: Any, array: Any) -> Any:
        if array.type == pa.float32():
            array = array.cast(pa.float64())
        return canonical(dtype, array)

    return _patch(columns, "canonical", widened)


def _microseconds_dropped() -> Undo:
    stamp_texts = columns.stamp_texts

    def cut(array: Any) -> Any:
        made = stamp_texts(array)
        return pc.binary_join_element_wise(pc.utf8_slice_codeunits(made, 0, 19), ".000000Z", "").cast(made.type)

    return _patch(columns, "stamp_texts", cut)


def _null_taken_for_missing() -> Undo:
    found = plan._found

    def confused(*args: Any) -> list[FeatureValue]:
        return [FeatureValue(None, "missing", None) if one.status == "null" else one for one in found(*args)]

    return _patch(plan, "_found", confused)


def _last_write_wins() -> Undo:
    from llmfeatures.online.redis import RedisStore
    from llmfeatures.online.sqlite import SqliteStore

    undos = []
    for store, name in product((RedisStore, SqliteStore), ("write", "write_columns")):
        before = getattr(store, name)

        def write(self: Any, rows: Any, *, _write: Any = before, **options: Any) -> Any:
            return _write(self, rows, **{**options, "replace_before": stamp(system_clock() + timedelta(hours=1))})

        undos.append(_patch(store, name, write))
    return lambda: [undo() for undo in undos] and None


def _grid_ignored() -> Undo:
    """An event counts at once, and not from the next point of its view's grid."""

    def now(moment: Any, view: Any) -> Any:
        return moment

    undos = [_patch(aggregate, name, now) for name in ("_ceil", "_floored")]
    return lambda: [undo() for undo in undos] and None


def _emptied_windows_forgotten() -> Undo:
    """A key is looked at again when an event enters, and not when one leaves."""

    def entered(self: Any) -> str:
        return f"CREATE TEMP TABLE changes AS SELECT {', '.join(self.keys)}, entered AS m FROM events"

    return _patch(aggregate._Events, "changes", entered)


FAULTS: dict[str, Callable[[], Undo]] = {
    "ttl ignored online": _ttl_ignored_online,
    "created ignored": _created_ignored,
    "float32 widened": _float32_widened,
    "microseconds dropped": _microseconds_dropped,
    "null taken for missing": _null_taken_for_missing,
    "last write wins": _last_write_wins,
    "grid ignored": _grid_ignored,
    "emptied windows forgotten": _emptied_windows_forgotten,
}
IN_READER = ("ttl ignored online", "null taken for missing")
"""The faults of the online read; the others are of the way there."""
