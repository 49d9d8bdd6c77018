# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Lines of JSON from canonical rows: each distinct prompt of a batch is encoded once, the rest is joined by Arrow."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from hashlib import blake2b
from typing import Any

import orjson
import pyarrow as pa
from pyarrow import compute
from pyarrow import types as pt

from llmfeatures.errors import RequestError
from llmfeatures.export.json_columns import BYTES, Lines, json_objects, json_texts

pc: Any = compute
_DIGEST = 16
DOCUMENTS = "llmfeatures.documents"
"""In the metadata of the schema of rows whose prompt has documents: the names that it has for them."""


def has_documents(schema: pa.Schema) -> bool:
    """Whether the rows are those of a prompt with documents; else the column ``documents`` says nothing."""
    return DOCUMENTS.encode() in (schema.metadata or {})


def with_prompt(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows that have a prompt, in their order."""
    messages = batch.column("messages")
    return batch.filter(messages.is_valid()) if messages.null_count else batch


def messages_of(batch: pa.RecordBatch, *, inside: bool = False) -> Lines:
    """The messages of each row as JSON. Rows of one ``prompt_id`` share the text.

    With ``inside``, it is what stands between the quotes of a JSON text that holds the messages.
    """
    encoded = batch.column("prompt_id").dictionary_encode(null_encoding="encode")
    if len(encoded.dictionary) == batch.num_rows:
        return json_texts(batch.column("messages"), inside=inside)
    firsts = pc.index_in(pa.array(range(len(encoded.dictionary)), encoded.indices.type), encoded.indices)
    return json_texts(batch.column("messages").take(firsts), inside=inside).take(encoded.indices)


def texts_of(column: Any, form: Callable[[bytes], bytes] | None = None) -> Lines:
    """Each text as JSON, within ``form`` where there is one; null as no bytes at all."""
    if form is None and not column.null_count:
        return json_texts(column)
    encoded = column.dictionary_encode(null_encoding="encode")
    dumped = [None if one is None else orjson.dumps(one) for one in encoded.dictionary.to_pylist()]
    made = [b"" if one is None else one if form is None else form(one) for one in dumped]
    return pa.array(made, BYTES).take(encoded.indices)


def records_of(batch: pa.RecordBatch, names: Iterable[str], number: int, *, inside: bool = False) -> Lines:
    """The columns ``names`` of each row as one JSON object; moments as ISO text in UTC, decimals as text.

    With ``inside``, it is what stands between the quotes of a JSON text that holds the object.

    Raises:
        RequestError: JSON has no form for a value; it names the row.
    """
    made = json_objects(((name, _without_empty(batch.column(name))) for name in names), batch.num_rows, inside=inside)
    if made.null_count:
        row = pc.index(made.is_null(), pa.scalar(value=True)).as_py()
        raise RequestError(
            f"row {number + row}: a value has no JSON form; cast that column of the spine to text, "
            "or write the format parquet"
        )
    return made


def _without_empty(column: Any) -> Any:
    """A struct whose one field stands for having none, as a struct without fields."""
    if not pt.is_struct(column.type) or [field.name for field in column.type] != ["_"]:
        return column
    return pa.array([{}] * len(column), pa.struct([]))


class UniqueIds:
    """Refuses an id that was there before, for tools that would lose or reject one of the rows."""

    def __init__(self, tool: str, longest: int | None = None) -> None:
        self.tool, self.longest = tool, longest
        self._seen: set[bytes] = set()

    def restore(self, seen: bytes) -> None:
        """Know what earlier calls of `check` returned, one after the other."""
        self._seen.update(seen[start : start + _DIGEST] for start in range(0, len(seen), _DIGEST))

    def check(self, ids: Any, number: int) -> bytes:
        """Look at a batch's ids. Returns their digests, 16 bytes each.

        Raises:
            RequestError: an id is there twice, or is too long; it names the row.
        """
        digests: list[bytes] = []
        for row, one in enumerate(ids.to_pylist()):
            if self.longest is not None and len(one) > self.longest:
                raise RequestError(
                    f"row {number + row}: its id has {len(one)} characters and {self.tool} takes {self.longest}; "
                    "shorten the spine's id"
                )
            key = blake2b(one.encode(), digest_size=_DIGEST).digest()
            if key in self._seen:
                raise RequestError(
                    f"row {number + row}: its id is another row's too, and {self.tool} keeps one row per id; "
                    "make the spine's ids unique"
                )
            self._seen.add(key)
            digests.append(key)
        return b"".join(digests)
