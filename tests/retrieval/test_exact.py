"""Exact search: what brute force in float64 says, alone or together, in blocks of any size."""

# numpy's functions are partly typed
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

import math
import tempfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from llmfeatures.clock import from_microseconds
from llmfeatures.ports import FOREVER, NO_ENTITY, Document, DocumentQuery, DocumentRecord, index_meta
from llmfeatures.retrieval import exact
from llmfeatures.retrieval.embedded import EmbeddedStore
from llmfeatures.retrieval.wire import rounded
from llmfeatures.retriever import FunctionEmbedder, Retriever
from llmfeatures.schema import Entity
from tests.projects import NOW

USER = Entity("user", join_key="user_id")


def retriever(dimensions: int) -> Retriever:
    embedder = FunctionEmbedder(len, model="drawn", dimensions=dimensions)
    return Retriever("notes", USER, "notes.jsonl", embedder=embedder, metadata={"genre": "str", "stars": "int"})


def unit(values: Sequence[float]) -> Any:
    made = np.asarray(values, np.float64)
    return (made / (np.linalg.norm(made) or 1.0)).astype(np.float32)


def record(number: int, **fields: Any) -> DocumentRecord:
    return DocumentRecord(**{"key": f"{number:032x}", "version": str(number), "text": f"text {number}", **fields})


def filled(folder: Path, one: Retriever, records: Sequence[DocumentRecord], parts: int = 1) -> EmbeddedStore:
    store = EmbeddedStore(folder, one)
    store.begin(index_meta(one))
    for part in range(parts):
        store.write(records[part::parts])
    store.complete(index_meta(one, NOW))
    return store


def brute(records: Sequence[DocumentRecord], query: DocumentQuery) -> list[tuple[str, str, float | None]]:
    """The answer, in float64, one by one."""
    at = round(query.as_of.timestamp() * 1e6)
    found: list[tuple[Any, ...]] = []
    for one in records:
        if one.entity != query.entity or not one.valid_from <= at < one.valid_to:
            continue
        if any(one.metadata[name] != value for name, value in query.filter.items()):
            continue
        if query.order == "recent":
            found.append((-one.valid_from, one.id, 0, one.version, None))
            continue
        score = round(math.fsum(float(a) * float(b) for a, b in zip(one.vector, query.vector, strict=True)), 6)  # pyright: ignore[reportArgumentType, reportCallIssue]
        found.append((-score, one.id, -one.valid_from, one.version, score))
    return [(one[1], one[3], one[4]) for one in sorted(found, key=lambda one: one[:3])[: query.top_k]]


def shown(documents: Sequence[Document]) -> list[tuple[str, str, float | None]]:
    return [(one.id, one.version, one.score) for one in documents]


def moment(count: int) -> datetime:
    return from_microseconds(count)


@st.composite
def indexes(draw: st.DrawFn) -> tuple[int, list[DocumentRecord], list[DocumentQuery]]:
    dimensions = draw(st.sampled_from([1, 2, 3, 8, 17]))
    # few directions, some of them nearer to each other than float32 can tell in a product
    base = draw(
        st.lists(st.lists(st.integers(-2, 2), min_size=dimensions, max_size=dimensions), min_size=1, max_size=4)
    )
    nudges = st.sampled_from([0.0, 0.0, 1e-7, -1e-7, 3e-7, 1e-6, 1e-5, 0.3])

    def vector() -> Any:
        chosen = draw(st.sampled_from(base))
        return unit([one + draw(nudges) for one in chosen])

    entities = ["user_id:a", "user_id:b", NO_ENTITY]
    records: list[DocumentRecord] = []
    for place in range(draw(st.integers(0, 30))):
        entity = draw(st.sampled_from(entities))
        begins = draw(st.integers(0, 6))
        ends = draw(st.sampled_from([begins + 1, begins + 2, begins + 5, FOREVER]))
        name = f"d{place}" if draw(st.booleans()) else f"e{place}"
        records.append(
            record(
                place,
                entity=entity,
                id=name,
                metadata={"genre": draw(st.sampled_from(["x", "y", None])), "stars": draw(st.integers(0, 1))},
                valid_from=begins,
                valid_to=ends,
                vector=vector(),
            )
        )
    queries: list[DocumentQuery] = []
    for _ in range(draw(st.integers(1, 12))):
        filters: dict[str, Any] = {}
        if draw(st.booleans()):
            filters["genre"] = draw(st.sampled_from(["x", "y", None, "z"]))
        if draw(st.booleans()):
            filters["stars"] = draw(st.integers(0, 2))
        order = draw(st.sampled_from(["score", "score", "recent"]))
        queries.append(
            DocumentQuery(
                top_k=draw(st.integers(0, 6)),
                as_of=moment(draw(st.integers(-1, 12))),
                entity=draw(st.sampled_from([*entities, "user_id:c"])),
                text="q" if order == "score" else None,
                vector=vector() if order == "score" else None,
                filter=filters,
                order=order,  # pyright: ignore[reportArgumentType]
            )
        )
    return dimensions, records, queries


def agrees(
    drawn: tuple[int, list[DocumentRecord], list[DocumentQuery]], few: int, products: int, width: int, direct: int
) -> None:
    dimensions, records, queries = drawn
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.multiple(
            exact, _FEW=few, _PRODUCTS=products, _WIDTH=width, _DIRECT=direct, _SMALL=products, _NUMBERS=products * 3
        ),
    ):
        store = filled(Path(folder) / "notes", retriever(dimensions), records, parts=2)
        together = store.search(queries)
        assert [shown(one) for one in together] == [brute(records, query) for query in queries]
        assert [store.search([query])[0] for query in queries] == together
        assert store.search(queries[::-1])[::-1] == together
        for one in together:
            for document in one:
                held = records[int(document.version)]
                assert (document.text, document.entity, dict(document.metadata)) == (
                    held.text,
                    held.entity,
                    dict(held.metadata),
                )


LIMITS = st.tuples(
    st.sampled_from([0, 3, 1_000]),
    st.sampled_from([1, 20, 1 << 20]),
    st.sampled_from([1, 2, 5, 64]),
    st.sampled_from([0, 256]),
)


@settings(max_examples=20)
@given(indexes(), LIMITS)
def test_together_alone_and_brute_force_agree(
    drawn: tuple[int, list[DocumentRecord], list[DocumentQuery]], limits: tuple[int, int, int, int]
) -> None:
    agrees(drawn, *limits)


@pytest.mark.parametrize("products", [1, 30, 1 << 20])
@pytest.mark.parametrize("few", [0, 1_000])
def test_a_beginning_counts_and_an_end_does_not_in_blocks_of_any_size(tmp_path: Path, few: int, products: int) -> None:
    records = [
        record(
            place,
            entity=NO_ENTITY,
            id=f"{place:02}",
            metadata={"genre": "x", "stars": 0},
            valid_from=place,
            valid_to=place + 3,
            vector=unit([1.0, place]),
        )
        for place in range(20)
    ]
    queries = [
        DocumentQuery(top_k=9, as_of=moment(at), text="q", vector=unit([1.0, 1.0]))
        for at in [*range(-1, 24), *range(24)]
    ]
    with patch.multiple(exact, _FEW=few, _PRODUCTS=products, _WIDTH=2, _DIRECT=0, _SMALL=products):
        found = filled(tmp_path, retriever(2), records).search(queries)
    assert [shown(one) for one in found] == [brute(records, query) for query in queries]
    assert [len(one) for one in found[:6]] == [0, 1, 2, 3, 3, 3]


@pytest.mark.heavy
@settings(max_examples=500)
@given(indexes(), LIMITS)
def test_together_alone_and_brute_force_agree_often(
    drawn: tuple[int, list[DocumentRecord], list[DocumentQuery]], limits: tuple[int, int, int, int]
) -> None:
    agrees(drawn, *limits)


@given(st.lists(st.floats(-1.2, 1.2) | st.integers(-1_100_000, 1_100_000).map(lambda one: one / 2e6), max_size=40))
def test_many_are_rounded_as_each_is(scores: list[float]) -> None:
    near = [math.nextafter(one, way) for one in scores for way in (-2.0, 2.0)]
    made = exact.rounded_all(np.array([*scores, *near]))
    assert [repr(one) for one in made.tolist()] == [repr(rounded(one)) for one in (*scores, *near)]


def drawn_index(
    folder: Path, count: int, dimensions: int, *, near: bool
) -> tuple[EmbeddedStore, list[DocumentRecord], Any]:
    """Many shared documents; ``near``: all within a hair of each other, so that float32 cannot order them."""
    chance = np.random.default_rng(7)
    made = chance.standard_normal((count, dimensions))
    if near:
        made = made[0] + made * 1e-6
    made /= np.linalg.norm(made, axis=1, keepdims=True)
    vectors = made.astype(np.float32)
    vectors[count // 2] = vectors[0]
    begins = chance.integers(0, 100, count)
    records = [
        record(
            place,
            entity=NO_ENTITY,
            id=f"{place * 7919 % count:06}",
            metadata={"genre": "xyz"[place % 3], "stars": place % 5},
            valid_from=int(begins[place]),
            valid_to=FOREVER if place % 4 else int(begins[place]) + 20,
            vector=vectors[place],
        )
        for place in range(count)
    ]
    return filled(folder, retriever(dimensions), records), records, chance


@pytest.mark.parametrize("near", [False, True])
def test_great_entities_agree_with_brute_force(tmp_path: Path, near: bool) -> None:
    store, records, chance = drawn_index(tmp_path, 3_000, 32, near=near)
    queries = [
        DocumentQuery(
            top_k=int(chance.integers(1, 9)),
            as_of=moment(int(chance.integers(0, 130))),
            text="q",
            vector=unit(chance.standard_normal(32)) if turn % 3 else records[turn].vector,
            filter={"genre": "y"} if turn % 4 == 0 else {},
        )
        for turn in range(40)
    ]
    found = store.search(queries)
    held = np.stack([one.vector for one in records]).astype(np.float64)  # pyright: ignore[reportArgumentType, reportCallIssue]
    for query, documents in zip(queries, found, strict=True):
        assert store.search([query])[0] == documents
        scores = (held * np.asarray(query.vector, np.float64)).sum(axis=1)
        at = round(query.as_of.timestamp() * 1e6)
        best = sorted(
            (-round(float(scores[place]), 6), one.id, one.version)
            for place, one in enumerate(records)
            if one.valid_from <= at < one.valid_to and ("genre" not in query.filter or one.metadata["genre"] == "y")
        )[: query.top_k]
        assert [(-score, name, version) for score, name, version in best] == [
            (one.score, one.id, one.version) for one in documents
        ]


@pytest.mark.heavy
@pytest.mark.parametrize("near", [False, True])
def test_a_great_index_gives_the_same_bits_together_and_alone(tmp_path: Path, near: bool) -> None:
    store, _, chance = drawn_index(tmp_path, 40_000, 384, near=near)
    queries = [
        DocumentQuery(
            top_k=10,
            as_of=moment(int(chance.integers(0, 130))),
            text="q",
            vector=unit(chance.standard_normal(384)),
            filter={"stars": 3} if turn % 5 == 0 else {},
            order="recent" if turn % 11 == 0 else "score",
        )
        for turn in range(400)
    ]
    found = store.search(queries)
    assert all(store.search([query])[0] == one for query, one in zip(queries, found, strict=True))
    shuffled = chance.permutation(len(queries))
    assert [found[place] for place in shuffled] == store.search([queries[place] for place in shuffled])
