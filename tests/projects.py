"""Small real projects for tests."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

MOMENT = pa.timestamp("us", "UTC")
NOW = datetime(2026, 5, 7, 23, tzinfo=UTC)
DEFAULT_PROMPT = """---
features:
  segment: {default: unknown}
  watched: {default: 0}
---
{{ segment }} watched {{ watched }}
"""


def at(hour: int = 12, minute: int = 0, *, day: int = 7) -> datetime:
    """A moment in May 2026, UTC."""
    return datetime(2026, 5, day, hour, minute, tzinfo=UTC)


def write_rows(path: Path, rows: Sequence[Mapping[str, Any]], schema: Mapping[str, pa.DataType]) -> None:
    """A Parquet file of rows; a column that a row does not have is null."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(
        pa.table({name: pa.array([row.get(name) for row in rows], dtype) for name, dtype in schema.items()}), path
    )


SEGMENTS = {"user_id": pa.string(), "segment": pa.string(), "event_timestamp": MOMENT, "created_timestamp": MOMENT}
WATCHED = {"user_id": pa.string(), "watched": pa.int64(), "event_timestamp": MOMENT}


def segment(
    user: str | None, value: str | None, event: datetime | None, created: datetime | None = None
) -> dict[str, Any]:
    """A row of the view ``segment``."""
    return {"user_id": user, "segment": value, "event_timestamp": event, "created_timestamp": created}


def watched(user: str, value: int | None, event: datetime) -> dict[str, Any]:
    """A row of the view ``activity``."""
    return {"user_id": user, "watched": value, "event_timestamp": event}


def make_project(
    root: Path,
    *,
    segments: Sequence[Mapping[str, Any]] = (),
    counts: Sequence[Mapping[str, Any]] = (),
    prompts: Mapping[str, str] | None = None,
    online: str = "sqlite",
    ttl: str = "",
    extra: str = "",
) -> Path:
    """A project with two views of users, ``segment`` (with created timestamps) and ``activity`` (without)."""
    write_rows(root / "data" / "segment.parquet", segments, SEGMENTS)
    write_rows(root / "data" / "watched.parquet", counts, WATCHED)
    limit = f", ttl: {ttl}" if ttl else ""
    (root / "features.yaml").write_text(
        "entities: [{name: user, join_key: user_id}]\n"
        "views:\n"
        "  - {name: segment, entity: user, features: {segment: str}, "
        f"source: {{path: data/segment.parquet, created_timestamp: created_timestamp}}{limit}}}\n"
        f"  - {{name: activity, entity: user, features: {{watched: int}}, "
        f"source: data/watched.parquet{limit}}}\n{extra}"
    )
    for name, text in (prompts or {"home": DEFAULT_PROMPT}).items():
        path = root / "prompts" / f"{name}.prompt.j2"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (root / "llmfeatures.toml").write_text(
        f'[project]\nname = "t{abs(hash(str(root))) % 10**9}"\nregistry = "features.yaml"\n'
        f'[online]\nurl = "{online}"\ntimeout = "5s"\n'
    )
    return root
