"""Which entities there are: the distinct join keys in a history, with the first event of each."""

# pyarrow has incomplete stubs
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Any

import duckdb
import pyarrow as pa

from llmfeatures import columns
from llmfeatures.clock import microseconds
from llmfeatures.errors import SourceError
from llmfeatures.offline import sql
from llmfeatures.offline.pushed import Reading
from llmfeatures.offline.sources import describe, rows, run, translated
from llmfeatures.schema import FeatureView

_BATCH_ROWS = 50_000


def entity_keys(reading: Reading, views: Sequence[FeatureView], until: datetime) -> Iterator[Any]:
    """The distinct whole keys of the views' entity among rows with event <= until: a column per join key, and
    ``first``.

    Raises:
        SourceError: a view's keys or timestamps are not what the registry says, or memory and disk are not enough.
    """
    if not views:
        return
    con = reading.con
    dtypes = views[0].entity.join_keys
    keys = sql.names("k", len(dtypes))
    kept = sql.commas((f"{one} {sql.key_type(dtype)}" for one, dtype in zip(keys, dtypes.values(), strict=True)))
    run(con, f"CREATE TEMP TABLE there ({kept}, e BIGINT)")
    for view in views:
        # only keys and times are read: a feature that is not what it should be is no reason to stop
        bare = view.model_copy(update={"features": ()})
        described = describe(reading, bare)
        if described:
            with translated(view, reading.root):
                run(
                    con,
                    f"INSERT INTO there SELECT {sql.commas(keys)}, min(e) FROM ({rows(described, [])}) "
                    f"WHERE e <= {microseconds(until)} AND {sql.all_present(keys)} GROUP BY {sql.commas(keys)}",
                )
    with ExitStack() as stack:
        try:
            distinct = f"SELECT {sql.commas(keys)}, min(e) AS first FROM there GROUP BY {sql.commas(keys)}"
            reader = con.sql(distinct).to_arrow_reader(_BATCH_ROWS)
            stack.callback(reader.close)
            for raw in reader:
                yield _batch(dtypes, raw)
        except (duckdb.Error, pa.ArrowException, OSError):
            raise SourceError(
                "listing the entities ran out of memory or temporary disk; raise memory_limit under [offline], or free "
                "some disk"
            ) from None


def _batch(dtypes: Any, raw: Any) -> Any:
    arrays = [
        raw.column(number).view(columns.TIMESTAMP)
        if dtype.kind == "timestamp"
        else columns.canonical(dtype, raw.column(number)).array
        for number, dtype in enumerate(dtypes.values())
    ]
    first = raw.column(len(dtypes)).view(columns.TIMESTAMP)
    return pa.RecordBatch.from_arrays([*arrays, first], names=[*dtypes, "first"])
