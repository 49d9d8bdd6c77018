"""Whose documents: never another entity's."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from llmfeatures.ports import DocumentRecord
from llmfeatures.testing.document_store.notes import HOSTILE, NOTES, ask, best, ids, key_of, note
from llmfeatures.testing.document_store.store import StoreTests

NEARBY = st.text(alphabet=list("aA%_:*'\"\\ é\u0301\x00$1"), max_size=3)
"""Keys that are parts and variants of each other."""
# a class per store inherits the test
UNCHECKED = [HealthCheck.too_slow, HealthCheck.differing_executors]
KEYS = st.one_of(NEARBY, st.sampled_from(HOSTILE), st.text(max_size=8))
DIRECTIONS = st.sampled_from([(1.0, 0.0, 0.0, 0.0), (1.0, 1.0, 0.0, 0.0), (0.0, 1.0, 0.0, 0.0), (0.0, -1.0, 1.0, 0.0)])
GENRES = st.one_of(st.none(), st.sampled_from(["a", "A", "", "%", "' OR 1=1 --"]))
MOMENTS = st.integers(0, 6)


@st.composite
def collections(draw: st.DrawFn) -> tuple[list[DocumentRecord], list[str]]:
    """Documents of a few entities whose keys could be mixed up."""
    users = draw(st.lists(KEYS, min_size=2, max_size=6, unique_by=key_of))
    records: dict[str, DocumentRecord] = {}
    for number in range(draw(st.integers(1, 14))):
        begins = draw(MOMENTS)
        one = note(
            draw(st.sampled_from(["a", "b", "A", "%"])) + str(number),
            draw(DIRECTIONS),
            user=draw(st.sampled_from(users)),
            begins=begins,
            ends=begins + draw(st.integers(1, 6)),
            version=str(number),
            genre=draw(GENRES),
        )
        records[one.key] = one
    return list(records.values()), users


class OwnerTests(StoreTests):
    """Whose documents."""

    def test_every_entity_has_its_own(self) -> None:
        self.fill(NOTES, [note("own", user=user, text=user) for user in HOSTILE])
        found = self.find(*[ask(user=user) for user in HOSTILE])
        assert [[(one.text, one.entity) for one in each] for each in found] == [[(one, key_of(one))] for one in HOSTILE]
        if self.has_recent:
            found = self.find(*[ask(user=user, order="recent") for user in HOSTILE])
            assert [[one.text for one in each] for each in found] == [[one] for one in HOSTILE]

    def test_who_has_none_gets_none(self) -> None:
        self.fill(NOTES, [note("own", user="ana")])
        others = [user for user in HOSTILE if user != "ana"]
        assert self.find(*[ask(user=user) for user in others]) == [[] for _ in others]

    def test_the_near_ones_of_others_do_not_take_a_place(self) -> None:
        theirs = [note(f"{number:03}", user="bob") for number in range(300)]
        self.fill(NOTES, [*theirs, note("far", (-1.0, 0.0, 0.0, 0.0))])
        assert ids(self.found(ask(top_k=2))) == ["far"]
        if self.has_recent:
            assert ids(self.found(ask(top_k=2, order="recent"))) == ["far"]

    @settings(max_examples=12, suppress_health_check=UNCHECKED)
    @given(collections(), DIRECTIONS, st.integers(1, 4), st.data())
    def test_never_another_entitys_document(
        self, collection: tuple[list[DocumentRecord], list[str]], vector: Any, top_k: int, data: st.DataObject
    ) -> None:
        self._never_anothers(collection, vector, top_k, data)

    @pytest.mark.heavy
    @settings(max_examples=150, suppress_health_check=UNCHECKED)
    @given(collections(), DIRECTIONS, st.integers(1, 4), st.data())
    def test_never_another_entitys_document_many_times(
        self, collection: tuple[list[DocumentRecord], list[str]], vector: Any, top_k: int, data: st.DataObject
    ) -> None:
        self._never_anothers(collection, vector, top_k, data)

    def _never_anothers(
        self, collection: tuple[list[DocumentRecord], list[str]], vector: Any, top_k: int, data: st.DataObject
    ) -> None:
        records, users = collection
        self.fill(NOTES, records)
        at, genre = data.draw(MOMENTS), data.draw(GENRES)
        asked = [*users, data.draw(KEYS)]
        queries = [ask(vector, user=user, top_k=top_k, as_of=at) for user in asked]
        queries += [ask(vector, user=user, top_k=top_k, as_of=at, genre=genre) for user in asked]
        if self.has_recent:
            queries += [ask(user=user, top_k=top_k, as_of=at, order="recent") for user in asked]
        for query, found in zip(queries, self.find(*queries), strict=True):
            assert all(one.entity == query.entity for one in found)
            assert len(found) <= top_k
            if self.tier != "live":
                assert self.agrees(found, best(records, query)), query
