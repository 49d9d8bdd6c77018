"""Which version of its data a view is read from: the files, their sizes and when they were written."""

from __future__ import annotations

import glob
import re
from collections.abc import Iterator
from pathlib import Path

from llmfeatures.schema import FeatureView, ParquetSource

_QUOTED = re.compile(r"'((?:[^']|'')+)'|\"([^\"]+)\"")


def versions(root: Path, view: FeatureView) -> list[str] | None:
    """The files that a view reads, each with its size and time; None where that does not tell what it reads.

    Of a query, the files are those that it names; a query without any may read anything.
    """
    source = view.batch
    if source is None:
        return []
    if isinstance(source, ParquetSource):
        named = [source.path]
    else:
        named = [(one or two).replace("''", "'") for one, two in _QUOTED.findall(source.query)]
    if any("://" in one for one in named):
        return None
    files = sorted({file for one in named for file in _files(root, one)})
    return [f"{file} {file.stat().st_size} {file.stat().st_mtime_ns}" for file in files] or None


def _files(root: Path, path: str) -> Iterator[Path]:
    whole = root / path
    if whole.is_dir():
        yield from (one for one in whole.rglob("*.parquet") if one.is_file())
    elif whole.is_file():
        yield whole
    else:
        found = (root / one for one in glob.iglob(path, root_dir=root, recursive=True))  # noqa: PTH207
        yield from (one for one in found if one.is_file())
