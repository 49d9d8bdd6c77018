# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
# pyright: reportUnknownMemberType=false
"""The versions of a source's documents, sorted on disk, and when each of them is valid."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import duckdb
import orjson
import pyarrow as pa

from llmfeatures import cells, columns
from llmfeatures.codec import plain_document_version
from llmfeatures.columns import pc
from llmfeatures.errors import SourceError
from llmfeatures.offline.document_files import Rows, label_of, rows_of, wrong_row
from llmfeatures.offline.sources import interruptible, run, shortage
from llmfeatures.ports import ALWAYS, FOREVER, NO_ENTITY, SourceDocument
from llmfeatures.retriever import Retriever
from llmfeatures.types import json_text, plain_json_text

_BATCH = 1_000
_TABLE = "documents"
_SORTED = f"SELECT entity, id, text, metadata, begins, ends FROM {_TABLE} ORDER BY entity, id, begins"


class ReadDocuments:
    """A source that was read to its end: its rows lie in a table of ``con``, which may spill."""

    def __init__(self, con: duckdb.DuckDBPyConnection, retriever: Retriever) -> None:
        self._con, self._retriever = con, retriever
        counted = run(
            con,
            f"SELECT count(*), count(DISTINCT (entity, id)) FROM (SELECT DISTINCT entity, id, begins FROM {_TABLE})",
        )
        self.versions: int
        self.documents: int
        self.versions, self.documents = counted[0]

    def batches(self) -> Iterator[list[SourceDocument]]:
        """As `SourceDocuments.batches`. A version ends where the next one of its id begins, if not before. Of two rows
        with the same id and beginning the one counts whose text, metadata and end are the greater canonical JSON."""
        with _translated(self._retriever):
            reader = self._con.sql(_SORTED).to_arrow_reader(_BATCH)
            try:
                yield from _in_batches(_versions(reader))
            finally:
                reader.close()


@contextmanager
def read_documents(con: duckdb.DuckDBPyConnection, root: Path, retriever: Retriever) -> Generator[ReadDocuments]:
    """As `DocumentSources.documents`, with a connection of this call's own."""
    with _translated(retriever):
        run(
            con,
            f"CREATE TEMP TABLE {_TABLE} (entity VARCHAR, id VARCHAR, text VARCHAR, metadata VARCHAR, begins BIGINT, "
            "ends BIGINT)",
        )
        try:
            for rows in rows_of(root, retriever):
                con.register("rows", _table(retriever, rows))
                run(con, f"INSERT INTO {_TABLE} SELECT * FROM rows")
                con.unregister("rows")
            yield ReadDocuments(con, retriever)
        finally:
            run(con, f"DROP TABLE IF EXISTS {_TABLE}")


def _table(retriever: Retriever, rows: Rows) -> Any:
    entity, values = retriever.entity, rows.values
    if entity is None:
        keys = pa.array([NO_ENTITY] * rows.count, pa.string())
    else:
        arrays = [values[f"key {name}"] for name in entity.join_keys]
        keys = cells.entity_keys(entity.join_keys, arrays).cast(pa.large_string())
    begins, ends = (
        _moments(values.get("valid_from"), rows.count, ALWAYS),
        _moments(values.get("valid_to"), rows.count, FOREVER),
    )
    for number, (begin, end) in enumerate(zip(begins, ends, strict=True)):
        if end <= begin:
            role = "valid_from" if begin >= FOREVER else "valid_to"
            reason = (
                "it lies after the year 2255, which cannot be told from never"
                if role == "valid_from"
                else "it does not lie after valid_from; a version that was never valid has no row"
            )
            raise wrong_row(retriever, rows, number, role, reason)
    return pa.table(
        {
            "entity": keys,
            "id": values["id"],
            "text": values["text"],
            "metadata": pa.array(_metadata(retriever, rows), pa.large_string()),
            "begins": pa.array(begins, pa.int64()),
            "ends": pa.array(ends, pa.int64()),
        }
    )


def _moments(column: Any, count: int, otherwise: int) -> list[int]:
    if column is None:
        return [otherwise] * count
    counts = pc.cast(column, pa.int64()).to_pylist()
    return [otherwise if one is None else min(max(one, ALWAYS), FOREVER) for one in counts]


def _metadata(retriever: Retriever, rows: Rows) -> list[str]:
    """The metadata of each row as a canonical JSON object."""
    names = list(retriever.metadata)
    if not names:
        return ["{}"] * rows.count
    texts = [
        [dtype.encode(value) for value in columns.python_values(dtype, columns.whole(rows.values[f"metadata {name}"]))]
        for name, dtype in retriever.metadata.items()
    ]
    labels = [f"{json_text(name)}:" for name in names]
    order = sorted(range(len(names)), key=lambda place: names[place])
    return ["{" + ",".join([labels[place] + row[place] for place in order]) + "}" for row in zip(*texts, strict=True)]


def _versions(reader: Any) -> Iterator[SourceDocument]:
    """The sorted rows as versions."""
    before: tuple[Any, ...] | None = None
    for batch in reader:
        for row in zip(*(batch.column(number).to_pylist() for number in range(6)), strict=True):
            if before is None or before[:2] != row[:2]:
                if before is not None:
                    yield _document(before, before[5])
                before = row
            elif before[4] == row[4]:
                before = max(before, row, key=_greater)
            else:
                yield _document(before, min(before[5], row[4]))
                before = row
    if before is not None:
        yield _document(before, before[5])


def _greater(row: tuple[Any, ...]) -> bytes:
    return plain_json_text([row[2], orjson.loads(row[3]), row[5]]).encode()


def _document(row: tuple[Any, ...], ends: int) -> SourceDocument:
    entity, name, text, metadata, begins, _ = row
    values = orjson.loads(metadata)
    return SourceDocument(
        entity=entity,
        id=name,
        version=plain_document_version(text, values),
        text=text,
        metadata=values,
        valid_from=begins,
        valid_to=ends,
    )


def _in_batches(documents: Iterator[SourceDocument]) -> Iterator[list[SourceDocument]]:
    batch: list[SourceDocument] = []
    for one in documents:
        batch.append(one)
        if len(batch) == _BATCH:
            yield batch
            batch = []
    if batch:
        yield batch


@contextmanager
def _translated(retriever: Retriever) -> Generator[None]:
    try:
        with interruptible():
            yield
    except duckdb.Error as error:
        said = shortage(error) or f"it cannot be sorted ({type(error).__name__})"
        raise SourceError(f"{label_of(retriever)}: {said}") from None
