"""The reference workload: a streaming service's history, and spines over it. The same rows each time, with one DuckDB.

    python -m tests.benchmarks.workload FOLDER [--size tiny|small|large] [--prompts N]

Every row's user, moment and value are hashes of its number, so the files are neither sorted nor clustered. The small
history has 100,000 users and files of 1, 3 and 5 million rows; the large one ten times the users and 100 million rows.
FOLDER also is a project over these files, with the prompts ``recommender`` and ``unique``.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import dataclass
from pathlib import Path

DATA = Path(tempfile.gettempdir()) / "llmfeatures-benchmarks"
"""Where the workloads are kept unless ``--data`` says otherwise."""

SEGMENTS = ["casual", "power_user", "new", "dormant"]
GENRES = ["drama", "comedy", "thriller", "documentary", "sci-fi", "horror", "romance", "kids"]
FEATURES = {"user_segment": "str", "watch_count_30d": "int", "last_genre": "str"}

# the line break after a block is trimmed, as in every prompt file
BODY = """You recommend shows for a streaming service.

User context:
- segment: {{ user_segment }}
- watched {{ watch_count_30d }} titles in the last 30 days{% if watch_count_30d > 30 %} (heavy viewer){% endif %}

- last genre watched: {{ last_genre }}

Task: recommend 3 titles in a friendly, short message.
"""
UNIQUE = "For {{ user_id }}, at {{ as_of }}.\n"
"""A line that makes nearly every prompt a text of its own."""
HEADER = """---
features:
  user_segment: {default: unknown}
  watch_count_30d: {default: 0}
  last_genre: {default: unknown}
---
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """How many users, and rows per file."""

    name: str
    users: int
    rows: tuple[int, int, int]


TINY = Size(name="tiny", users=1_000, rows=(10_000, 30_000, 50_000))
SMALL = Size(name="small", users=100_000, rows=(1_000_000, 3_000_000, 5_000_000))
LARGE = Size(name="large", users=1_000_000, rows=(10_000_000, 30_000_000, 60_000_000))
SIZES = {size.name: size for size in (TINY, SMALL, LARGE)}


def write_history(folder: Path, size: Size) -> None:
    """The three files, and the project; what is there already is kept."""
    folder.mkdir(parents=True, exist_ok=True)
    segments, watches, genres = size.rows
    values = {
        "user_segment": (segments, 1, f"{SEGMENTS}[1 + (abs(hash(i + 5)) % 4)::INT]"),
        "watch_count_30d": (watches, 2, "(abs(hash(i + 6)) % 120)::BIGINT"),
        "last_genre": (genres, 3, f"{GENRES}[1 + (abs(hash(i + 7)) % 8)::INT]"),
    }
    for name, (rows, salt, value) in values.items():
        _write(folder / f"{name}.parquet", size, rows, salt, f"{value} AS {name}")
    _write_project(folder)


def write_spine(folder: Path, size: Size, prompts: int) -> Path:
    """A spine of so many rows: ``user_id``, ``event_timestamp``, ``request_id``."""
    path = folder / f"prompts_{prompts}.parquet"
    _write(path, size, prompts, 4, "i AS request_id")
    return path


def _write(path: Path, size: Size, rows: int, salt: int, column: str) -> None:
    if path.exists():
        return
    import duckdb

    part = path.with_suffix(".part")
    connection = duckdb.connect()
    connection.execute("SET threads = 2")  # the order of rows must not depend on the machine
    connection.execute(
        f"""COPY (
            SELECT
                'u' || lpad((abs(hash(i * 31 + {salt})) % {size.users})::VARCHAR, 8, '0') AS user_id,
                TIMESTAMPTZ '2026-01-01 00:00:00+00'
                    + to_microseconds((abs(hash(i * 7919 + {salt})) % (120::BIGINT * 86400 * 1000000))::BIGINT)
                    AS event_timestamp,
                {column}
            FROM range({rows}) AS numbers(i)
        ) TO '{part}' (FORMAT parquet, COMPRESSION zstd)"""
    )
    connection.close()
    part.replace(path)


def _write_project(folder: Path) -> None:
    views = "".join(
        f"  - {{name: v_{name}, entity: user, source: {name}.parquet, features: {{{name}: {dtype}}}}}\n"
        for name, dtype in FEATURES.items()
    )
    (folder / "features.yaml").write_text(f"entities:\n  - {{name: user, join_key: user_id}}\nviews:\n{views}")
    (folder / "prompts").mkdir(exist_ok=True)
    (folder / "prompts" / "recommender.prompt.j2").write_text(HEADER + BODY)
    (folder / "prompts" / "unique.prompt.j2").write_text(HEADER + UNIQUE + BODY)
    (folder / "llmfeatures.toml").write_text('[project]\nname = "bench"\nregistry = "features.yaml"\n')


def main() -> None:
    """Write a workload and say how large its files are."""
    parser = argparse.ArgumentParser(description="Writes the reference workload.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--prompts", type=int, default=200_000)
    options = parser.parse_args()
    size = SIZES[options.size]
    write_history(options.folder, size)
    write_spine(options.folder, size, options.prompts)
    for path in sorted(options.folder.glob("*.parquet")):
        print(f"{path.name:28} {path.stat().st_size / 2**20:8.1f} MiB")


if __name__ == "__main__":
    main()
