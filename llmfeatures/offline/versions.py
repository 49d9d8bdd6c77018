"""Which version of its data a view is read from: the files, their sizes and when they were written."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, cast

from llmfeatures.files import named_files
from llmfeatures.ports import PushLog
from llmfeatures.schema import FeatureView, ParquetSource, PushSource

_FREE = {"generate_series", "range", "unnest"}
"""Table functions that read nothing but their arguments."""


def versions(root: Path, view: FeatureView, pushes: PushLog | None) -> list[str] | None:
    """The files that a view reads, each with its size and time, and which pushes it has, wherever they lie; None where
    that does not tell what it reads.

    Of a query, the files are those that it reads by name: as a table, or as the first argument of a function that reads
    files. If one cannot be told, or there is none, the query may read anything.
    """
    pushed: list[str] = []
    if pushes is not None and isinstance(view.source, PushSource):
        pushed = [f"pushes of {view.name}: {pushes.version(view.name)}"]
    source = view.batch
    if source is None:
        return pushed
    named = [source.path] if isinstance(source, ParquetSource) else _named(source.query)
    if not named or any("://" in one for one in named):
        return None
    files: set[Path] = set()
    try:
        for one in named:
            found = set(named_files(one, root) if isinstance(source, ParquetSource) else _files_of_table(root, one))
            if not found:
                return None
            files |= found
        named = [f"{file} {there.st_size} {there.st_mtime_ns}" for file in sorted(files) for there in (file.stat(),)]
    except OSError:  # gone meanwhile, or not for us to see
        return None
    return pushed + named


@lru_cache
def _named(query: str) -> Sequence[str] | None:
    """The paths that a query reads; None where it does not say."""
    import duckdb

    with duckdb.connect(":memory:", config={"enable_external_access": "false"}) as con:
        try:
            written = con.execute("SELECT json_serialize_sql(?)", [query]).fetchall()[0][0]
        except duckdb.Error:
            return None
    parsed = json.loads(written)
    if parsed.get("error"):
        return None
    nodes = list(_walk(parsed))
    tables: list[dict[str, Any]] = [one for node in nodes if node.get("cte_map") for one in node["cte_map"]["map"]]
    own = {str(one["key"]).lower() for one in tables}
    found: list[str] = []
    for node in nodes:
        if node.get("type") == "BASE_TABLE":
            if node["schema_name"]:
                return None
            if node["table_name"].lower() not in own:
                found.append(node["table_name"])
        elif node.get("type") == "TABLE_FUNCTION":
            paths = _read(node["function"])
            if paths is None:
                return None
            found += paths
    return found


def _read(function: dict[str, Any]) -> list[str] | None:
    """The paths that a table function reads; None where it does not say."""
    name = str(function["function_name"]).lower()
    if name in _FREE:
        return []
    arguments = _arguments(function)
    if not arguments or not (name.startswith("read_") or name.endswith("_scan")):
        return None
    first = arguments[0]
    paths = [_text(one) for one in (_arguments(first) if first.get("function_name") == "list_value" else [first])]
    told = [one for one in paths if one is not None]
    return told if len(told) == len(paths) else None


def _arguments(function: dict[str, Any]) -> list[dict[str, Any]]:
    """Of a function as DuckDB writes it as JSON: ``children`` up to 1.5, ``arguments`` since."""
    return function.get("children") or [one["expression"] for one in function.get("arguments", ())]


def _text(node: dict[str, Any]) -> str | None:
    """The text of a constant; None if it is none."""
    if node.get("class") != "CONSTANT":
        return None
    if "literal" in node:
        return node["literal"].get("text") if node["literal"].get("kind") == "STRING" else None
    value = node["value"].get("value")
    return value if isinstance(value, str) else None


def _walk(node: Any) -> Iterator[dict[str, Any]]:
    pending = [node]
    while pending:
        one = pending.pop()
        if isinstance(one, dict):
            fields = cast("dict[str, Any]", one)
            yield fields
            pending.extend(fields.values())
        elif isinstance(one, list):
            pending.extend(cast("list[Any]", one))


def _files_of_table(root: Path, path: str) -> list[Path]:
    """The files of a path in a query. A folder is none: what is read of it depends on the function."""
    if not path.strip("*?./\\") or (root / path).is_dir():
        return []
    return named_files(path, root)
