"""Metadata: what comes back, and what a filter lets through."""

from __future__ import annotations

from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Any

import pytest

from llmfeatures.testing.document_store.notes import NOTES, SHARED, ask, best, ids, note, shared
from llmfeatures.testing.document_store.store import StoreTests

SEEN = datetime(2026, 5, 1, 12, 30, 0, 1, tzinfo=UTC)
VALUES: dict[str, tuple[Any, Any]] = {
    "genre": ("drama", "Drama"),
    "stars": (3, -3),
    "pinned": (True, False),
    "kind": ("memo", "letter"),
    "day": (date(2026, 5, 1), date(2026, 5, 2)),
    "seen": (SEEN, SEEN.replace(microsecond=2)),
    "price": (Decimal("1.50"), Decimal("-1.50")),
}
"""Of each kind that a filter may name, two values."""
HOSTILE = (
    *("", " ", "drama ", "dram", "dramas", "%", "dr%", "_", "*", "'", '"', "\\", "' OR 1=1 --", "$ne", '{"$ne": 1}'),
    *("é", "e\u0301", "😀", "\x00", "\x01", "\x00a", "null", "true", "1", "[]", "{}", "a:b", "a b", "a,b", "a|b"),
)
"""Texts that a filter could mix up."""


class FilterTests(StoreTests):
    """Metadata."""

    @pytest.mark.parametrize("name", VALUES)
    def test_a_filter_of_each_kind(self, name: str) -> None:
        yes, no = VALUES[name]
        records = [note("yes", **{name: yes}), note("no", **{name: no}), note("none")]
        self.fill(NOTES, records)
        assert ids(self.found(ask(**{name: yes}))) == ["yes"]
        assert ids(self.found(ask(**{name: no}))) == ["no"]
        assert ids(self.found(ask(**dict[str, Any]({name: None})))) == ["none"], (
            "a filter for null is those without a value"
        )
        assert ids(self.found(ask())) == ["no", "none", "yes"]
        if self.has_recent:
            assert ids(self.found(ask(order="recent", **{name: yes}))) == ["yes"]

    def test_all_parts_of_a_filter_count(self) -> None:
        records = [
            note(f"{genre}{stars}{user}", user=user, genre=genre, stars=stars)
            for genre in ("a", "b")
            for stars in (1, 2)
            for user in ("ana", "bob")
        ]
        self.fill(NOTES, records)
        assert ids(self.found(ask(genre="a", stars=2))) == ["a2ana"]
        assert ids(self.found(ask(user="bob", genre="b"))) == ["b1bob", "b2bob"]
        assert self.found(ask(genre="a", stars=3)) == []
        assert self.found(ask(user="eve", genre="a")) == []

    def test_the_filter_comes_before_top_k(self) -> None:
        records = [note(f"{number:03}", genre="common") for number in range(200)]
        records += [
            note("rare1", (0.0, 1.0, 0.0, 0.0), genre="rare"),
            note("rare2", (-1.0, 0.0, 0.0, 0.0), genre="rare"),
        ]
        self.fill(NOTES, records)
        assert ids(self.found(ask(top_k=2, genre="rare"))) == ["rare1", "rare2"]

    def test_documents_for_all_are_filtered(self) -> None:
        self.fill(SHARED, [shared("a", genre="x"), shared("b", genre="y"), shared("c", genre="x")])
        assert ids(self.found(ask(user=None, genre="x"), SHARED)) == ["a", "c"]

    def test_a_filter_lets_through_nothing_but_its_text(self) -> None:
        self.fill(NOTES, [note(f"{number:02}", genre=text) for number, text in enumerate(HOSTILE)] + [note("none")])
        found = self.find(*[ask(genre=text) for text in HOSTILE])
        assert [ids(one) for one in found] == [[f"{number:02}"] for number in range(len(HOSTILE))]
        assert [one[0].metadata["genre"] for one in found] == list(HOSTILE)

    def test_whole_numbers_are_exact(self) -> None:
        numbers = (0, 1, -1, 2**53 - 1, 2**53, 2**53 + 1, 2**63 - 1, -(2**63), 2**63 - 2)
        self.fill(NOTES, [note(f"{place}", stars=number) for place, number in enumerate(numbers)])
        found = self.find(*[ask(stars=number) for number in numbers])
        assert [[one.metadata["stars"] for one in each] for each in found] == [[number] for number in numbers]

    def test_every_value_of_metadata_comes_back(self) -> None:
        values: dict[str, list[Any]] = {name: [*both, None] for name, both in VALUES.items()}
        values["weight"] = [0.1, -0.0, 1e22, 5e-324, 1.0, None]
        values["words"] = [[], ["a", "", "é\x00"], None]
        values["more"] = [{}, {"b": [1, 1.0, 1e22, None, True, "x"], "a": {"é": "\x00"}}, [], '"text"', 0, False]
        records = [
            note(f"{name} {turn}", **{name: value}) for name, each in values.items() for turn, value in enumerate(each)
        ]
        self.fill(NOTES, records)
        found = {one.id: one.metadata for one in self.found(ask(top_k=99))}
        assert len(found) == len(records)
        for name, each in values.items():
            dtype = NOTES.metadata[name]
            for turn, value in enumerate(each):
                kept = found[f"{name} {turn}"][name]
                assert (type(kept), dtype.encode(kept)) == (type(value), dtype.encode(dtype.canonical(value))), name

    def test_filtered_ones_agree_with_the_rules(self) -> None:
        records = [
            note(f"{number:02}", (1.0, number % 7, number % 5, number % 3), genre="xyz"[number % 3], stars=number % 4)
            for number in range(60)
        ]
        self.fill(NOTES, records)
        for query in (
            ask(genre="x"),
            ask(genre="y", stars=2),
            ask(stars=0, top_k=3),
            ask((0.0, 1.0, 1.0, 0.0), genre="z"),
        ):
            assert self.agrees(self.found(query), best(records, query))
