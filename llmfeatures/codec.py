"""The wire format: entity keys, row stamps and row values as text. Format 1; golden bytes are in the tests.

An online store holds a hash of text fields per entity key: each feature's canonical JSON under its name, and per view
a stamp ``EVENT|CREATED|WRITTEN`` under ``@VIEW``. Text order of stamps is time order.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from hashlib import sha256
from typing import Any
from urllib.parse import quote

from llmfeatures.clock import stamp
from llmfeatures.errors import InvalidValueError
from llmfeatures.types import DType, json_text, plain_json_text, text

FORMAT = 1
"""The number of the online layout, kept in the store's own meta record."""
STAMP_LENGTH = 27
NO_CREATED = "-"
"""The created timestamp of a row that has none: it sorts below every time."""
KEY_FIELD = "@key"
_KEPT = "-._~@+"


def view_field(view: str) -> str:
    """The field that holds a view's stamp."""
    return "@" + view


def encode_part(value: Any) -> str:
    """One join key value in an entity key: percent-encoded UTF-8 but for ASCII letters, digits and ``-._~@+``."""
    written = value if type(value) is str else text(value)
    return written if written.isascii() and written.isalnum() else quote(written, safe=_KEPT)


def entity_key(join_keys: Sequence[str], values: Sequence[Any]) -> str:
    """``user_id:8a2f``, or ``tenant_id:1:user_id:8a2f``: join keys in declared order with their encoded values."""
    if len(join_keys) == 1:
        return f"{join_keys[0]}:{encode_part(values[0])}"
    return ":".join([f"{name}:{encode_part(value)}" for name, value in zip(join_keys, values, strict=True)])


def created_stamp(moment: datetime | None) -> str:
    """The text of a created timestamp, ``-`` for none."""
    return NO_CREATED if moment is None else stamp(moment)


def event_of(view_stamp: str) -> str:
    """The event timestamp's text in a view's stamp.

    Raises:
        InvalidValueError: the text is no stamp.
    """
    if len(view_stamp) < STAMP_LENGTH + 2 or view_stamp[STAMP_LENGTH] != "|":
        raise InvalidValueError("stored data that is no stamp")
    return view_stamp[:STAMP_LENGTH]


def split_stamp(view_stamp: str) -> tuple[str, str, str]:
    """``(event, created, written)`` of a view's stamp, each as text."""
    event, created, written = view_stamp.split("|")
    return event, created, written


def row_text(values: Iterable[str]) -> str:
    """The compact JSON array of a row's encoded values in declared order: it breaks ties, the greatest by UTF-8
    bytes."""
    return f"[{','.join(values)}]"


def encode_row(dtypes: Sequence[DType], values: Sequence[Any]) -> tuple[str, ...]:
    """The canonical JSON of each canonical value of a row."""
    return tuple([dtype.encode(value) for dtype, value in zip(dtypes, values, strict=True)])


def order(event: str, created: str, values: Iterable[str]) -> tuple[str, str, bytes]:
    """What decides between two rows of a view: the greater of these wins, online and offline."""
    return event, created, row_text(values).encode()


def document_version(text: str, metadata: Mapping[str, Any]) -> str:
    """A short hash of what a prompt can print of a document: its text and metadata (JSON or canonical values)."""
    return sha256(json_text([text, dict(metadata)]).encode()).hexdigest()[:16]


def plain_document_version(text: str, metadata: dict[str, Any]) -> str:
    """As `document_version`, of plain JSON that was canonical already."""
    return sha256(plain_json_text([text, metadata]).encode()).hexdigest()[:16]
