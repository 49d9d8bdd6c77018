# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""The bytes of a segment, format 1: a line of JSON, then one checksummed frame per push. Pure.

    {"columns":{"user_id":"str","last_genre":"str"},"format":1,"key":"…32 hex digits…","view":"taste"}\\n
    frame:   FF 50 53 48 | length of the body, u32 | BLAKE2b of the body with the segment's key, 16 bytes | body
    body:    length of the push id, u16 | received, i64 microseconds since 1970 | push id, UTF-8 | an Arrow IPC message

All numbers are little-endian. The message is a record batch of the columns, then `PUSHED_EVENT` and `PUSHED_CREATED`;
its schema is what the header's dtypes name. A file that is cut at any byte holds the pushes before the cut, whole, and
no other. The key is random, so that no pushed value can look like a frame.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

import pyarrow as pa

from llmfeatures.clock import from_microseconds, microseconds
from llmfeatures.columns import TIMESTAMP, constant
from llmfeatures.errors import DefinitionError, FormatError, PushLogError
from llmfeatures.ports import PUSHED_CREATED, PUSHED_EVENT, PUSHED_ID, PUSHED_RECEIVED, Push
from llmfeatures.types import DType, parse_dtype

FORMAT = 1
SUFFIX = ".seg"
DIGEST = 16
"""Bytes of a checksum, and of what stands for a push id in an index."""
LARGEST = 2**30
_MAGIC = b"\xffPSH"
_FRAME = struct.Struct(f"<4sI{DIGEST}s")
_BODY = struct.Struct("<Hq")


@dataclass(frozen=True, slots=True, kw_only=True)
class Header:
    """The first line of a segment: the view, its columns and their dtypes, and the key of the checksums."""

    view: str
    columns: Mapping[str, DType]
    key: bytes


@dataclass(frozen=True, slots=True)
class Frame:
    """A push as it stands in a segment. It ends before the byte ``end``."""

    end: int
    push_id: str
    received: int
    message: bytes


def header_line(header: Header) -> bytes:
    """The first line of a segment."""
    fields = {
        "columns": {name: str(dtype) for name, dtype in header.columns.items()},
        "format": FORMAT,
        "key": header.key.hex(),
        "view": header.view,
    }
    return json.dumps(fields, ensure_ascii=True, separators=(",", ":")).encode() + b"\n"


def read_header(name: str, data: bytes) -> tuple[Header, int] | None:
    """The header of a segment's bytes, and where its frames begin; None when the file was cut before that.

    Raises:
        FormatError: it is of another format, or no segment.
    """
    end = data.find(b"\n")
    if end < 0:
        return None
    try:
        fields = json.loads(data[:end])
        found = fields["format"]
    except (ValueError, TypeError, KeyError):
        raise FormatError(f"push segment {name} is damaged; restore it, or move it out of the folder") from None
    if found != FORMAT:
        raise FormatError(f"push segment {name} has format {found}, this version reads {FORMAT}; upgrade llmfeatures")
    try:
        columns = {str(column): parse_dtype(dtype) for column, dtype in fields["columns"].items()}
        return Header(view=fields["view"], columns=columns, key=bytes.fromhex(fields["key"])), end + 1
    except (ValueError, TypeError, KeyError, AttributeError, DefinitionError):
        raise FormatError(f"push segment {name} is damaged; restore it, or move it out of the folder") from None


def body_of(push: Push) -> bytes:
    """The body of the frame of a push.

    Raises:
        PushLogError: the push is too large.
    """
    push_id = push.push_id.encode()
    message = push.rows.serialize()
    if message.size > LARGEST:
        raise PushLogError("a push is too large to be kept at once; push fewer rows at a time")
    return b"".join((_BODY.pack(len(push_id), microseconds(push.received)), push_id, message))


def frame_of(body: bytes, key: bytes) -> bytes:
    """A frame, ready to be appended to the segment of this key."""
    return _FRAME.pack(_MAGIC, len(body), _checksum(body, key)) + body


def frames(data: bytes, start: int, key: bytes) -> Iterator[Frame]:
    """The whole frames of a segment's bytes from ``start`` on. What is no frame is passed over: a torn one at the end,
    or bytes that were damaged."""
    at = start
    while True:
        frame = _frame_at(data, at, key)
        if frame is None:
            at = data.find(_MAGIC, at + 1)
            if at < 0:
                return
            continue
        yield frame
        at = frame.end


def _frame_at(data: bytes, at: int, key: bytes) -> Frame | None:
    if len(data) - at < _FRAME.size + _BODY.size:
        return None
    magic, length, checksum = _FRAME.unpack_from(data, at)
    first = at + _FRAME.size
    end = first + length
    if magic != _MAGIC or length < _BODY.size or end > len(data):
        return None
    body = memoryview(data)[first:end]
    if _checksum(body, key) != checksum:
        return None
    id_length, received = _BODY.unpack_from(body)
    split = _BODY.size + id_length
    return Frame(end, bytes(body[_BODY.size : split]).decode(), received, bytes(body[split:]))


def _checksum(body: bytes | memoryview, key: bytes) -> bytes:
    return blake2b(body, key=key, digest_size=DIGEST).digest()


def id_digest(push_id: str) -> bytes:
    """What stands for a push id in an index."""
    return blake2b(push_id.encode(), digest_size=DIGEST).digest()


def pushed_schema(columns: Mapping[str, DType]) -> Any:
    """The Arrow schema of a push."""
    fields = [pa.field(name, dtype.arrow()) for name, dtype in columns.items()]
    return pa.schema([*fields, pa.field(PUSHED_EVENT, TIMESTAMP), pa.field(PUSHED_CREATED, TIMESTAMP)])


def kept_schema(columns: Mapping[str, DType]) -> Any:
    """The Arrow schema of pushed rows as they are read."""
    schema = pushed_schema(columns)
    return schema.append(pa.field(PUSHED_RECEIVED, TIMESTAMP)).append(pa.field(PUSHED_ID, pa.string()))


def rows_of(frame: Frame, schema: Any) -> Any:
    """The rows of a frame; ``schema`` is `pushed_schema` of the segment's columns."""
    return pa.ipc.read_record_batch(pa.py_buffer(frame.message), schema)


def kept_rows(frame: Frame, schema: Any) -> Any:
    """The rows of a frame as they are read: with when they were received and the push id."""
    batch = rows_of(frame, schema)
    count = batch.num_rows
    received = pa.repeat(constant(frame.received), count).view(TIMESTAMP)
    push_id = pa.repeat(pa.array([frame.push_id], pa.string())[0], count)
    return pa.RecordBatch.from_arrays(
        [*batch.columns, received, push_id], names=[*schema.names, PUSHED_RECEIVED, PUSHED_ID]
    )


def push_of(frame: Frame, columns: Mapping[str, DType]) -> Push:
    """The push that a frame holds."""
    rows = rows_of(frame, pushed_schema(columns))
    return Push(push_id=frame.push_id, received=from_microseconds(frame.received), columns=columns, rows=rows)
