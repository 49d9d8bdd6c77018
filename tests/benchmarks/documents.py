"""The embedded index of documents, in turns with what it is measured against: ``python -m tests.benchmarks.documents``.

100,000 documents of 384 dimensions in two versions each of a half, so that a moment sees two thirds to all of them.

- ``search``: one query of documents for all, beside numpy's product of the same matrix and vector in the same turn. The
  median of many.
- ``together``: 10,000 queries at random moments in one call, beside one call for each (of which some are run, and the
  time is that of all by their share): of documents for all, and of a thousand users' own.
- ``index``: from a Parquet file into an empty index, again when nothing changed, and loaded by a new process's first
  search. The embedder is a function that takes no time to speak of.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from llmfeatures import Entity, FunctionEmbedder, Project, Registry, Retriever
from llmfeatures.config import find_config
from llmfeatures.ports import DocumentQuery
from llmfeatures.retrieval.embedded import EmbeddedStore

DIMENSIONS, USERS, TOP = 384, 1_000, 5
START = datetime(2026, 1, 1, tzinfo=UTC)
DAYS = 120
MOMENT = pa.timestamp("us", "UTC")
NUMBERS = np.random.default_rng(2).standard_normal(20_000_000, np.float32)
USER = Entity("user", join_key="user_id")


def embed(texts: Sequence[str]) -> Any:
    """A random vector for each text, from a stretch of random numbers that begins where the text's hash says."""
    starts = [abs(hash(text)) % (len(NUMBERS) - DIMENSIONS) for text in texts]
    return np.stack([NUMBERS[start : start + DIMENSIONS] for start in starts])


EMBEDDER = FunctionEmbedder(embed, model="random", dimensions=DIMENSIONS)
SHARED = Retriever("shared", None, "shared.parquet", embedder=EMBEDDER, metadata={"genre": "str"})
OWN = Retriever("own", USER, "own.parquet", embedder=EMBEDDER, metadata={"genre": "str"})


def write(root: Path, count: int) -> None:
    """The sources."""
    chance = np.random.default_rng(0)
    starts = chance.integers(0, DAYS * 1440, count)
    table = pa.table(
        {
            # every third row is a later version of the one before
            "id": [f"d{number - (number % 3 == 1)}" for number in range(count)],
            "text": [f"document {number} " + "about something " * 12 for number in range(count)],
            "user_id": [f"u{number // 3 % USERS}" for number in range(count)],
            "genre": [f"g{number % 50}" for number in range(count)],
            "valid_from": pa.array([START + timedelta(minutes=int(one)) for one in starts], MOMENT),
        }
    )
    pq.write_table(table, root / "own.parquet")
    pq.write_table(table.drop_columns(["user_id"]), root / "shared.parquet")
    (root / "llmfeatures.toml").write_text('[project]\nname = "bench"\nregistry = "none.py"\n')


def opened(root: Path) -> Project:
    """The project."""
    return Project(find_config(root, {}), Registry([SHARED, OWN]))


def store_of(project: Project, retriever: Retriever) -> EmbeddedStore:
    """The index of a retriever."""
    store = project.retrieving.store(retriever)
    assert isinstance(store, EmbeddedStore)
    return store


def timed(call: Callable[[], Any]) -> float:
    """The seconds of a call."""
    began = time.perf_counter()
    call()
    return time.perf_counter() - began


def queries(count: int, *, own: bool) -> list[DocumentQuery]:
    """Queries at random moments of the second half of the history."""
    chance = np.random.default_rng(1)
    vectors = chance.standard_normal((count, DIMENSIONS), np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    minutes = chance.integers(DAYS * 720, DAYS * 1440, count)
    return [
        DocumentQuery(
            top_k=TOP,
            as_of=START + timedelta(minutes=int(minute)),
            text="q",
            vector=vector,
            **({"entity": f"user_id:u{int(chance.integers(0, USERS))}"} if own else {}),
        )
        for vector, minute in zip(vectors, minutes, strict=True)
    ]


def search(store: EmbeddedStore, asked: Sequence[DocumentQuery], now: datetime, turns: int) -> tuple[float, float]:
    """The median milliseconds of numpy's product, and of a search, one after the other."""
    matrix = store._current().matrix  # pyright: ignore[reportPrivateUsage]
    product: list[float] = []
    searched: list[float] = []
    for one in asked[:turns]:
        product.append(timed(lambda one=one: matrix @ one.vector))
        online = DocumentQuery(top_k=one.top_k, as_of=now, text="q", vector=one.vector)
        searched.append(timed(lambda online=online: store.search([online])))
    return median(product) * 1e3, median(searched) * 1e3


def together(store: EmbeddedStore, asked: Sequence[DocumentQuery], share: int) -> tuple[float, float]:
    """The seconds of all queries in one call, and in a call for each, of which every ``share``th is run."""
    found: list[Any] = []
    whole = timed(lambda: found.extend(store.search(asked)))
    alone: list[Any] = []
    some = timed(lambda: alone.extend(store.search([one])[0] for one in asked[::share]))
    assert alone == found[::share]
    return whole, some * share


def run(documents: int, rows: int, rounds: int) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        write(root, documents)
        with closing(opened(root)) as project:
            first = timed(project.materialize)
            again = timed(project.materialize)
        print(f"index two retrievers of {documents:,}: {first:.1f} s; when nothing changed: {again:.1f} s", flush=True)
        now = START + timedelta(days=DAYS)
        results: dict[str, list[tuple[float, float]]] = {"search": [], "shared": [], "own": []}
        loads: list[float] = []
        for _ in range(rounds):
            with closing(opened(root)) as project:
                shared, own = store_of(project, SHARED), store_of(project, OWN)
                loads.append(timed(lambda store=shared: store.search([])))
                own.search([])
                results["search"].append(search(shared, queries(100, own=False), now, 100))
                results["shared"].append(together(shared, queries(rows, own=False), 50))
                results["own"].append(together(own, queries(rows, own=True), 10))
            print(
                "  ".join(f"{name} {pair[-1][0]:.2f} {pair[-1][1]:.2f}" for name, pair in results.items()), flush=True
            )
        print("load: " + " ".join(f"{one:.2f}" for one in loads) + " s")
        for name, (base, ours) in (("search", ("product", "search")), ("shared", ("together", "alone"))):
            show(name, base, ours, results[name])
        show("own", "together", "alone", results["own"])


def show(name: str, base: str, other: str, pairs: Sequence[tuple[float, float]]) -> None:
    """A line for each side, and how they compare."""
    for place, label in enumerate((base, other)):
        print(f"{name} {label}: " + " ".join(f"{one[place]:.2f}" for one in pairs))
    ratios = [right / left for left, right in pairs]
    print(f"{name} {other} / {base}: " + " ".join(f"{one:.2f}" for one in ratios) + f", median {median(ratios):.2f}")


def main() -> None:
    """Read the options, and measure."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=100_000)
    parser.add_argument("--rows", type=int, default=10_000)
    parser.add_argument("--rounds", type=int, default=5)
    given = parser.parse_args()
    run(given.documents, given.rows, given.rounds)


if __name__ == "__main__":
    main()
