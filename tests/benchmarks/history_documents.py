"""Historical prompts with documents, beside one search per row, in turns:
``python -m tests.benchmarks.history_documents``.

100,000 documents of 384 dimensions in the embedded index, once of a thousand users and once for all; 10,000 rows of a
spine, each with a question of its own. ``together`` is the way it is done: rows are searched for together. ``alone``
does the same with 1,000 of the rows, and each is searched for alone. Both must give the same prompts. Times are those
of the processor, so that others on the machine count little; give BLAS one thread (``OPENBLAS_NUM_THREADS=1``).
"""

from __future__ import annotations

import argparse
import random
import tempfile
from collections.abc import Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from time import process_time
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml

from llmfeatures import Project
from llmfeatures.finders import Finder
from llmfeatures.historical_documents import HistoricalDocuments
from llmfeatures.ports import Document, DocumentQuery

DIMENSIONS, USERS, TITLES = 384, 1_000, 200
START = datetime(2026, 1, 1, tzinfo=UTC)
NOW = START + timedelta(days=120)
MOMENT = pa.timestamp("us", "UTC")
HEADER = """---
features:
  genre: {default: nothing}
%sinputs: {question: str}
documents:
  docs: {retriever: %s, query: "{{ question }}", top_k: 5}
---
Viewer of {{ genre }}.
"""
STARS = "  title.stars: {default: 0}\n"
PLAIN = "{% for d in docs %}{{ d.text }}\n{% endfor %}"
RATED = "{% for d in docs %}{{ d.text }} rated {{ d.title.stars }}\n{% endfor %}"
PROMPTS = {
    "own": HEADER % ("", "own") + PLAIN,
    "bringing": HEADER % (STARS, "own") + RATED,
    "shared": HEADER % ("", "shared") + PLAIN,
}


def embed(texts: Sequence[str]) -> Any:
    """A random vector for each text, always the same one: what a model takes is not measured."""
    return np.stack(
        [np.random.default_rng(abs(hash(text)) % 2**32).standard_normal(DIMENSIONS) for text in texts]
    ).astype(np.float32)


def write(root: Path, documents: int) -> None:
    """The project's files."""
    draw = random.Random(0)
    (root / "prompts").mkdir(parents=True)
    days = [START + timedelta(minutes=draw.randrange(120 * 1440)) for _ in range(documents)]
    table = pa.table(
        {
            "id": [f"d{number}" for number in range(documents)],
            "text": [f"document {number} " + "about something " * 12 for number in range(documents)],
            "user_id": [f"u{number % USERS}" for number in range(documents)],
            "title_id": [f"t{draw.randrange(TITLES)}" for _ in range(documents)],
            "valid_from": pa.array(days, MOMENT),
        }
    )
    pq.write_table(table, root / "own.parquet")
    pq.write_table(table.drop_columns(["user_id"]), root / "shared.parquet")
    events = pa.array([START + timedelta(days=number % 90) for number in range(20_000)], MOMENT)
    users, titles = [f"u{number % USERS}" for number in range(20_000)], [f"t{n % TITLES}" for n in range(20_000)]
    genres, stars = [f"g{number % 17}" for number in range(20_000)], [number % 6 for number in range(20_000)]
    pq.write_table(pa.table({"user_id": users, "genre": genres, "event_timestamp": events}), root / "genre.parquet")
    pq.write_table(pa.table({"title_id": titles, "stars": stars, "event_timestamp": events}), root / "stars.parquet")
    embedder = {"function": "tests.benchmarks.history_documents:embed", "model": "random", "dimensions": DIMENSIONS}
    common: dict[str, Any] = {"embedder": embedder, "metadata": {"title_id": "str"}}
    registry: dict[str, Any] = {
        "entities": [{"name": "user", "join_key": "user_id"}, {"name": "title", "join_key": "title_id"}],
        "views": [
            {"name": "genres", "entity": "user", "features": {"genre": "str"}, "source": "genre.parquet"},
            {"name": "ratings", "entity": "title", "features": {"stars": "int"}, "source": "stars.parquet"},
        ],
        "retrievers": [
            {"name": "own", "entity": "user", "source": "own.parquet", **common},
            {"name": "shared", "source": "shared.parquet", **common},
        ],
    }
    (root / "features.yaml").write_text(yaml.safe_dump(registry))
    (root / "llmfeatures.toml").write_text('[project]\nname = "bench"\nregistry = "features.yaml"\n')
    for name, text in PROMPTS.items():
        (root / "prompts" / f"{name}.prompt.j2").write_text(text)


def spine(rows: int) -> pa.Table:
    """Rows of many users and moments, each with a question of its own."""
    draw = random.Random(1)
    return pa.table(
        {
            "user_id": [f"u{draw.randrange(USERS)}" for _ in range(rows)],
            "question": [f"question {number}" for number in range(rows)],
            "event_timestamp": pa.array(
                [START + timedelta(minutes=draw.randrange(30 * 1440, 120 * 1440)) for _ in range(rows)], MOMENT
            ),
        }
    )


class Alone:
    """A finder that searches for each query alone."""

    def __init__(self, finder: Finder) -> None:
        self._finder, self.tier = finder, finder.tier

    def find(self, queries: Sequence[DocumentQuery], timeout: float | None) -> list[list[Document]]:
        """As `Finder.find`."""
        return [self._finder.find([one], timeout)[0] for one in queries]


def taken(project: Project, prompt: str, asked: pa.Table, *, alone: bool) -> tuple[float, list[str]]:
    """The seconds of processor that a history takes, and its prompt ids."""
    inner = HistoricalDocuments.__init__

    def made(self: Any, *args: Any, **options: Any) -> None:
        inner(self, *args, **options)
        self._finders = {name: Alone(one) for name, one in self._finders.items()}

    if alone:
        HistoricalDocuments.__init__ = made  # type: ignore[method-assign]
    try:
        began = process_time()
        rows = project.history(prompt, asked).read_all()
        seconds = process_time() - began
    finally:
        HistoricalDocuments.__init__ = inner  # type: ignore[method-assign]
    assert rows.column("error").null_count == len(rows)
    return seconds, rows.column("prompt_id").to_pylist()


def searched(project: Project, prompt: str, asked: pa.Table, *, alone: bool) -> float:
    """The seconds of processor of the searches alone."""
    (plan,) = project.prompts.plan(prompt).documents
    finder: Finder = project.retrieving.finder(plan.retriever)
    queries = [plan.search(row, row, row["event_timestamp"]) for row in asked.to_pylist()]
    began = process_time()
    (Alone(finder) if alone else finder).find([one for one in queries if one is not None], 600.0)
    return process_time() - began


def main() -> None:
    """Print each run, in milliseconds per row, and the ratios of the medians."""
    parser = argparse.ArgumentParser(description="Historical prompts with documents, beside one search per row.")
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--alone", type=int, default=1_000, help="so many of the rows are searched for alone")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "bench"
        write(root, options.documents)
        asked = spine(options.rows)
        some = asked.slice(0, options.alone)
        with closing(Project.load(root, now=lambda: NOW)) as project:
            project.materialize()
            for prompt in PROMPTS:
                expected = taken(project, prompt, asked, alone=False)[1]  # the index is loaded, questions have vectors
                assert taken(project, prompt, some, alone=True)[1] == expected[: len(some)]
                runs: dict[tuple[str, bool], list[float]] = {}
                for _ in range(options.rounds):
                    for alone, rows in ((False, asked), (True, some)):
                        each = 1000 / len(rows)
                        searches = searched(project, prompt, rows, alone=alone)
                        runs.setdefault(("search", alone), []).append(searches * each)
                        runs.setdefault(("history", alone), []).append(
                            taken(project, prompt, rows, alone=alone)[0] * each
                        )
                for what in ("search", "history"):
                    together, single = (runs[what, alone] for alone in (False, True))
                    for name, one in (("together", together), ("alone", single)):
                        print(f"{prompt:9} {what:8} {name:9}", *[f"{run:.3f}" for run in one], "ms per row")
                    print(f"{prompt:9} {what:8} {median(single) / median(together):.1f} x\n", flush=True)


if __name__ == "__main__":
    main()
