# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Parquet files put together as they are: the bytes of the row groups are copied, and one footer says where they are.

Reading and writing them again would take as long as writing them did, and give other bytes where Arrow reads a type
back as another one. A footer is Thrift in the compact protocol; of it, only offsets and counts change.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Final

import pyarrow.parquet as pq

_MAGIC: Final = b"PAR1"
_CHUNK: Final = 4 << 20
_INTS, _TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _MAP, _STRUCT = (4, 5, 6), 1, 2, 3, 7, 8, 9, 10, 11, 12
_NUM_ROWS, _ROW_GROUPS = 3, 4
"""Fields of a footer."""
_Changes = Mapping[int, Any]
"""What to do with fields by their number: a function of an integer, or such a mapping for a struct or list of them."""


def put_together(parts: Sequence[tuple[Path, int]], whole: Path) -> None:
    """Write to ``whole`` the first rows, so many of each, of files that one writer could have written after each other.

    Each number of rows is that of whole row groups. The bytes are those that one writer would have written.
    """
    footers: list[tuple[bytes, int, int]] = []
    with whole.open("wb") as out:
        out.write(_MAGIC)
        for path, rows in parts:
            with path.open("rb") as file:
                footer, groups, end = _measured(file, rows)
                footers.append((footer, groups, out.tell() - len(_MAGIC)))
                file.seek(len(_MAGIC))
                _copy(file, out, end - len(_MAGIC))
        footer = _joined(footers, sum(rows for _, rows in parts))
        out.write(footer + len(footer).to_bytes(4, "little") + _MAGIC)


def _measured(file: BinaryIO, rows: int) -> tuple[bytes, int, int]:
    """A file's footer, how many row groups have so many rows, and where they end."""
    size = file.seek(-8, 2)
    length = int.from_bytes(file.read(4), "little")
    start = file.seek(size - length)
    footer = file.read(length)
    known = pq.read_metadata(file)
    groups = 0
    while rows > 0:
        rows -= known.row_group(groups).num_rows
        groups += 1
    if groups == known.num_row_groups:
        return footer, groups, start
    first = known.row_group(groups).column(0)
    return footer, groups, first.dictionary_page_offset if first.has_dictionary_page else first.data_page_offset


def _copy(source: BinaryIO, target: BinaryIO, size: int) -> None:
    while size:
        data = source.read(min(size, _CHUNK))
        target.write(data)
        size -= len(data)


def _joined(footers: Sequence[tuple[bytes, int, int]], rows: int) -> bytes:
    """One footer of several, each with how many of its row groups count and how far their bytes have moved."""
    groups: list[bytes] = []
    for footer, count, moved in footers:
        changes = _moved(moved, len(groups))
        groups += [_Reader(group).value(_STRUCT, changes) for group in _row_groups(footer)[:count]]
    made: list[bytes] = []
    for number, header, payload in _fields(footers[0][0]):
        if number == _NUM_ROWS:
            made += [header, _varint(rows << 1)]
        elif number == _ROW_GROUPS:
            made += [header, _list_header(_STRUCT, len(groups)), *groups]
        else:
            made += [header, payload]
    return b"".join([*made, b"\0"])


def _moved(by: int, ordinal: int) -> _Changes:
    """What changes of a row group whose bytes have moved, and which has so many others before it."""

    def offset(value: int) -> int:
        return value + by if value else 0  # nothing is at 0, so it says that there is no such thing

    def place(value: int) -> int:
        return value + ordinal

    column = {2: offset, 3: {9: offset, 10: offset, 11: offset, 14: offset}, 4: offset, 6: offset}
    return {1: column, 5: offset, 7: place}


def _fields(struct: bytes) -> list[tuple[int, bytes, bytes]]:
    """The number, header and payload of each field."""
    reader = _Reader(struct)
    found: list[tuple[int, bytes, bytes]] = []
    number = 0
    while (field := reader.field(number)) is not None:
        number, kind, header = field
        found.append((number, header, reader.value(kind)))
    return found


def _row_groups(footer: bytes) -> list[bytes]:
    payload = next(payload for number, _, payload in _fields(footer) if number == _ROW_GROUPS)
    reader = _Reader(payload)
    kind, count, _ = reader.list_header()
    return [reader.value(kind) for _ in range(count)]


class _Reader:
    """Goes through a value in the compact protocol."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def value(self, kind: int, changes: _Changes | Callable[[int], int] | None = None) -> bytes:
        """The bytes of the value that comes next, with the changes."""
        start = self.at
        if callable(changes):
            written = self._varint()
            return _zigzag(changes((written >> 1) ^ -(written & 1)))
        if kind == _STRUCT:
            return self._struct(changes or {})
        if kind in (_LIST, _SET):
            kind_of, count, header = self.list_header()
            return header + b"".join(self.value(_in_list(kind_of), changes) for _ in range(count))
        if kind == _MAP:
            self._skip_map()
        elif kind in _INTS:
            self._varint()
        elif kind == _BINARY:
            length = self._varint()
            self.at += length
        else:
            self.at += {_TRUE: 0, _FALSE: 0, _BYTE: 1, _DOUBLE: 8}[kind]
        return self.data[start : self.at]

    def field(self, before: int) -> tuple[int, int, bytes] | None:
        """The number, kind and header of the next field of a struct; None at its end."""
        start = self.at
        first = self.data[self.at]
        self.at += 1
        if not first:
            return None
        number = before + (first >> 4)
        if not first >> 4:
            number = self._varint() >> 1
        return number, first & 15, self.data[start : self.at]

    def list_header(self) -> tuple[int, int, bytes]:
        """The kind and number of a list's values, and its header."""
        start = self.at
        first = self.data[self.at]
        self.at += 1
        count = first >> 4
        if count == 15:
            count = self._varint()
        return first & 15, count, self.data[start : self.at]

    def _struct(self, changes: _Changes) -> bytes:
        made: list[bytes] = []
        number = 0
        while (field := self.field(number)) is not None:
            number, kind, header = field
            made += [header, self.value(kind, changes.get(number))]
        return b"".join([*made, b"\0"])

    def _skip_map(self) -> None:
        if count := self._varint():
            kinds = self.data[self.at]
            self.at += 1
            for _ in range(count):
                self.value(_in_list(kinds >> 4))
                self.value(_in_list(kinds & 15))

    def _varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.data[self.at]
            self.at += 1
            value |= (byte & 127) << shift
            if byte < 128:
                return value
            shift += 7


def _in_list(kind: int) -> int:
    """A bool is a byte in a list; in a struct its header says all."""
    return _BYTE if kind in (_TRUE, _FALSE) else kind


def _list_header(kind: int, count: int) -> bytes:
    return bytes([count << 4 | kind]) if count < 15 else bytes([0xF0 | kind]) + _varint(count)


def _zigzag(value: int) -> bytes:
    return _varint(value << 1 if value >= 0 else (-value << 1) - 1)


def _varint(value: int) -> bytes:
    made = bytearray()
    while value >= 128:
        made.append(value & 127 | 128)
        value >>= 7
    made.append(value)
    return bytes(made)
