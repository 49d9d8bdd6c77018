# pyarrow has no types
# pyright: reportUnknownVariableType=false, reportUnknownArgumentType=false, reportUnknownParameterType=false
"""Where a report's rows come from, in words. A drawn spine carries them in its schema's metadata."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from llmfeatures.clock import duration_text, parse_duration

_ORIGIN = b"llmfeatures.origin"
_USERS = b"llmfeatures.users"


def drawn(table: pa.Table, keys: Sequence[str], options: dict[str, Any]) -> pa.Table:
    """A drawn spine that says how it was drawn.

    Args:
        table: its rows.
        keys: its columns of join keys.
        options: ``users``, ``every``, ``since``, ``where`` and ``seed``, as `Project.spine` has them.
    """
    users = table.group_by(list(keys)).aggregate([]).num_rows
    every, since = (duration_text(parse_duration(options[name])) for name in ("every", "since"))
    where = f" where {' '.join(options['where'].split())}" if options["where"] is not None else ""
    whole = "all " if options["users"] is None else ""
    said = f"{whole}{users:,} {'user' if users == 1 else 'users'} drawn from history, a moment every {every}"
    said += f" over {since}{where}, seed {options['seed']}"
    known = table.schema.metadata or {}
    return table.replace_schema_metadata({**known, _ORIGIN: said.encode(), _USERS: str(users).encode()})


def users_drawn(spine: object) -> int | None:
    """How many users a drawn spine has rows of; None of another spine."""
    users = _metadata(spine).get(_USERS)
    return None if users is None else int(users)


def spine_name(spine: object) -> str:
    """What a spine is, as a reader would know it: a file's name, or how it was drawn."""
    if isinstance(spine, (str, Path)):
        return Path(spine).name
    origin = _metadata(spine).get(_ORIGIN)
    return "rows in memory" if origin is None else origin.decode()


def _metadata(spine: object) -> dict[bytes, bytes]:
    if not isinstance(spine, pa.Table):
        return {}
    table: Any = spine
    return table.schema.metadata or {}
