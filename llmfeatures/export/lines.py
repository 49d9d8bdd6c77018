# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Lines of JSON from canonical rows: each distinct prompt of a batch is encoded once, the rest is joined by Arrow."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from datetime import datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import compute

from llmfeatures.errors import InvalidValueError, RequestError
from llmfeatures.types import text

pc: Any = compute
Lines = Any
"""A column of bytes, one JSON text per row."""
_BYTES = pa.large_binary()
_CODECS = {".gz": "gzip", ".zst": "zstd"}


def with_prompt(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows that have a prompt, in their order."""
    messages = batch.column("messages")
    return batch.filter(messages.is_valid()) if messages.null_count else batch


@contextmanager
def text_file(part: Path, path: Path) -> Generator[Callable[[Lines], None], None, None]:
    """A function that writes columns of lines to ``part``, compressed as the name ``path`` says."""
    codec = _CODECS.get(path.suffix)
    with pa.OSFile(str(part), "wb") as raw:
        sink = raw if codec is None else pa.CompressedOutputStream(raw, codec)
        with sink:
            yield lambda lines: _write(sink, lines)


def _write(sink: Any, lines: Any) -> None:
    if not len(lines):
        return
    _, offsets, data = lines.buffers()
    ends = memoryview(offsets).cast("q")
    start, end = ends[lines.offset], ends[lines.offset + len(lines)]
    sink.write(data.slice(start, end - start))


def joined(*parts: str | Lines) -> Lines:
    """Texts and columns put together row by row; at least one is a column."""
    made = [pa.scalar(part.encode(), _BYTES) if isinstance(part, str) else part for part in parts]
    return pc.binary_join_element_wise(*made, pa.scalar(b"", _BYTES))


def messages_of(batch: pa.RecordBatch, encode: Callable[[list[dict[str, str]]], bytes] = orjson.dumps) -> Lines:
    """The messages of each row as JSON. Rows of one ``prompt_id`` share the text."""
    encoded = batch.column("prompt_id").dictionary_encode(null_encoding="encode")
    rows = pa.table({"id": encoded.indices, "row": pa.array(range(batch.num_rows), pa.int64())})
    first = rows.group_by("id", use_threads=False).aggregate([("row", "min")]).sort_by("id").column("row_min")
    distinct = batch.column("messages").take(first.combine_chunks())
    return pa.array([encode(one) for one in distinct.to_pylist()], _BYTES).take(encoded.indices)


def texts_of(column: Any, form: Callable[[bytes], bytes] = bytes) -> Lines:
    """Each text as JSON within ``form``; distinct texts once, null as no bytes at all."""
    encoded = column.dictionary_encode(null_encoding="encode")
    made = [b"" if one is None else form(orjson.dumps(one)) for one in encoded.dictionary.to_pylist()]
    return pa.array(made, _BYTES).take(encoded.indices)


def records_of(batch: pa.RecordBatch, names: Iterable[str], number: int) -> Lines:
    """The columns ``names`` of each row as one JSON object; moments as ISO text in UTC, decimals as text.

    Raises:
        RequestError: JSON has no form for a value; it names the row.
    """
    arrays = [(name, batch.column(name), _empty(batch.column(name).type)) for name in names]
    columns = {name: [{}] * batch.num_rows if empty else array.to_pylist() for name, array, empty in arrays}
    made: list[bytes] = []
    for row, values in enumerate(zip(*columns.values(), strict=True)):
        try:
            record = dict(zip(columns, values, strict=True))
            made.append(orjson.dumps(record, default=_plain, option=orjson.OPT_PASSTHROUGH_DATETIME))
        except TypeError:
            raise RequestError(
                f"row {number + row}: a value has no JSON form; cast that column of the spine to text, "
                "or write the format parquet"
            ) from None
    return pa.array(made, _BYTES)


def _empty(dtype: Any) -> bool:
    return pa.types.is_struct(dtype) and [field.name for field in dtype] == ["_"]


def _plain(value: Any) -> str:
    try:
        return text(value) if not isinstance(value, datetime) or value.tzinfo else value.isoformat()
    except InvalidValueError as error:
        raise TypeError from error


class UniqueIds:
    """Refuses an id that was there before, for tools that would lose or reject one of the rows."""

    def __init__(self, tool: str, longest: int | None = None) -> None:
        self.tool, self.longest = tool, longest
        self._seen: set[bytes] = set()

    def check(self, ids: Any, number: int) -> None:
        """Look at a batch's ids.

        Raises:
            RequestError: an id is there twice, or is too long; it names the row.
        """
        for row, one in enumerate(ids.to_pylist()):
            if self.longest is not None and len(one) > self.longest:
                raise RequestError(
                    f"row {number + row}: its id has {len(one)} characters and {self.tool} takes {self.longest}; "
                    "shorten the spine's id"
                )
            key = blake2b(one.encode(), digest_size=16).digest()
            if key in self._seen:
                raise RequestError(
                    f"row {number + row}: its id is another row's too, and {self.tool} keeps one row per id; "
                    "make the spine's ids unique"
                )
            self._seen.add(key)
