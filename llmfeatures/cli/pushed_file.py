# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false
"""Rows of a file, batch by batch, as `Project.push` takes them."""

from __future__ import annotations

import csv
import io
import json
import sys
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from llmfeatures.errors import InvalidValueError, PushedRowsError, RequestError
from llmfeatures.schema import FeatureView
from llmfeatures.types import DType

KINDS = ".parquet, .jsonl, .ndjson or .csv"


@dataclass(frozen=True, slots=True)
class Batch:
    """Some rows, and the number of each in the file: of its line, or of its row in Parquet (both from 1)."""

    rows: Any
    unit: str
    numbers: Sequence[int]

    def place(self, row: int) -> str:
        """Where a row of the batch stands in the file."""
        return f"{self.unit} {self.numbers[row]}"


def batches(file: str, view: FeatureView, size: int) -> Iterator[Batch]:
    """The rows of a file.

    Args:
        file: its path; ``-`` is standard input, as JSON lines.
        view: where they go; it says what the texts of a CSV mean.
        size: how many rows a batch has at most.

    Raises:
        RequestError: the file cannot be read, or is of no known kind.
        PushedRowsError: while they are read: a line is no row, or no text.
    """
    suffix = ".jsonl" if file == "-" else Path(file).suffix.lower()
    readers = {".parquet": _parquet, ".jsonl": _json, ".ndjson": _json, ".csv": _csv}
    if suffix not in readers:
        raise RequestError(f"{file} is of no known kind; give a file that ends in {KINDS}, or - for JSON lines")
    if file != "-" and not Path(file).is_file():
        raise RequestError(f"{file} is not there; give a file that ends in {KINDS}, or - for JSON lines")
    return readers[suffix](file, view, size)


def _parquet(file: str, _view: FeatureView, size: int) -> Iterator[Batch]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    first = 1
    try:
        with pq.ParquetFile(file) as opened:
            for batch in opened.iter_batches(size):
                yield Batch(batch, "row", range(first, first + batch.num_rows))
                first += batch.num_rows
    except pa.ArrowException:
        raise RequestError(f"{file} cannot be read as Parquet; write it again") from None


@contextmanager
def _opened(file: str) -> Generator[Any]:
    """The lines of a file, without the mark that some programs put before UTF-8."""
    name = "standard input" if file == "-" else file
    try:
        with (
            io.TextIOWrapper(sys.stdin.buffer, encoding="utf-8-sig")
            if file == "-"
            else Path(file).open(encoding="utf-8-sig", newline="")
        ) as lines:
            yield lines
    except UnicodeDecodeError:
        raise PushedRowsError(f"{name} is not all UTF-8 text; write it again as UTF-8") from None
    except csv.Error as error:
        raise PushedRowsError(f"{name} cannot be read as CSV: {error}; write it again") from None
    except OSError as error:
        raise RequestError(f"{name} cannot be read: {error.strerror}; give this process access") from None


def _json(file: str, _view: FeatureView, size: int) -> Iterator[Batch]:
    with _opened(file) as lines:
        rows = ((number, _object(line, number)) for number, line in enumerate(lines, start=1) if line.strip())
        yield from _together(rows, size)


def _object(line: str, number: int) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        row = None
    if not isinstance(row, dict):
        raise PushedRowsError(f"line {number} is no JSON object; each line is one row")
    return row


def _csv(file: str, view: FeatureView, size: int) -> Iterator[Batch]:
    from llmfeatures.pushable import TIMES, pushed_columns

    dtypes = pushed_columns(view) | dict.fromkeys(TIMES, DType("timestamp"))
    with _opened(file) as lines:
        reader = csv.DictReader(lines)
        rows = ((reader.line_num, _typed(row, dtypes, reader.line_num)) for row in reader)
        yield from _together(rows, size)


def _typed(row: Mapping[Any, Any], dtypes: Mapping[str, DType], number: int) -> dict[str, Any]:
    """The values of a line; an empty one is none."""
    if None in row or None in row.values():
        raise PushedRowsError(f"line {number} has more or fewer columns than the first line names")
    typed: dict[str, Any] = {}
    for name, text in row.items():
        try:
            typed[name] = dtypes[name].parse(text) if name in dtypes and text else text or None
        except InvalidValueError as error:
            raise PushedRowsError(f"line {number}, column {name!r}: {error}") from None
    return typed


def _together(rows: Iterable[tuple[int, Mapping[str, Any]]], size: int) -> Iterator[Batch]:
    pending = iter(rows)
    while some := list(islice(pending, size)):
        yield Batch([row for _, row in some], "line", [number for number, _ in some])
