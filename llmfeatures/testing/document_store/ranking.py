"""Ranking many documents, against brute force."""

# numpy's functions are partly typed
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
from __future__ import annotations

from typing import Any

import pytest

from llmfeatures.ports import DocumentQuery, DocumentRecord
from llmfeatures.retriever import FunctionEmbedder, Retriever
from llmfeatures.testing.document_store.notes import LONG_AGO, ask, axes, best, seen, shared
from llmfeatures.testing.document_store.store import StoreTests

DAY = 86_400_000_000
WIDTH = 48
WIDE = Retriever(
    "wide",
    None,
    "wide.jsonl",
    embedder=FunctionEmbedder(axes, model="wide", dimensions=WIDTH),
    metadata={"genre": "str"},
)
"""Documents for all, with vectors of a more usual width."""


class RankingTests(StoreTests):
    """Ranking."""

    ranked = 5_000
    """So many documents are ranked."""
    recall = 0.95
    """So many of the best ten an index that may miss some must find, on average."""

    @pytest.mark.heavy
    def test_the_best_of_many_are_found(self) -> None:
        records, queries = self.many()
        self.fill(WIDE, records)
        for kind, asked in queries.items():
            expected = [best(records, query, WIDE) for query in asked]
            found = self.find(*asked, retriever=WIDE)
            if self.tier == "exact":
                assert all(self.agrees(one, wanted) for one, wanted in zip(found, expected, strict=True)), kind
            hits = [
                len({name for name, _, _ in seen(one)} & {name for name, _, _ in wanted}) / len(wanted)
                for one, wanted in zip(found, expected, strict=True)
            ]
            assert sum(hits) / len(hits) >= (1.0 if self.tier == "exact" else self.recall), kind
            assert [len(one) for one in found] == [len(one) for one in expected], kind

    def many(self) -> tuple[list[DocumentRecord], dict[str, list[DocumentQuery]]]:
        """Documents for all around some topics, and queries of each kind."""
        import numpy as np

        drawn: Any = np.random.default_rng(7)
        topics = drawn.normal(size=(40, WIDTH))
        records = [
            shared(
                f"{number:06}",
                tuple(topics[number % 40] + drawn.normal(size=WIDTH) * 0.6),
                begins=LONG_AGO + number % 300 * DAY,
                ends=LONG_AGO + (number % 300 + 200) * DAY,
                genre="abcdefgh"[number % 8] if number % 500 else "rare",
            )
            for number in range(self.ranked)
        ]
        vectors = [tuple(topics[turn % 40] + drawn.normal(size=WIDTH) * 0.6) for turn in range(40)]
        return records, {
            "all": [ask(one, user=None, as_of=LONG_AGO + 250 * DAY) for one in vectors],
            "of a genre": [ask(one, user=None, as_of=LONG_AGO + 250 * DAY, genre="c") for one in vectors],
            "rare": [ask(one, user=None, as_of=LONG_AGO + 250 * DAY, genre="rare", top_k=5) for one in vectors[:8]],
            "early": [ask(one, user=None, as_of=LONG_AGO + 2 * DAY) for one in vectors],
        }
