"""What databases hold of documents: names of tables, moments, and whether ties are settled."""

from __future__ import annotations

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from llmfeatures.clock import from_microseconds, microseconds
from llmfeatures.ports import ALWAYS, FOREVER, index_meta
from llmfeatures.retrieval import pgvector_sql, wire
from llmfeatures.testing.document_store import NOTES, ask
from llmfeatures.testing.document_store.notes import NOW

NAMESPACES = st.text(alphabet="ab_-: ~A", max_size=6) | st.text(max_size=80)
RETRIEVERS = st.from_regex(r"[a-c][ab_\-]{0,5}", fullmatch=True) | st.from_regex(r"[a-z][a-z_]{50,80}", fullmatch=True)


@given(NAMESPACES, RETRIEVERS, NAMESPACES, RETRIEVERS, st.sampled_from([56, 200]))
def test_no_two_retrievers_have_one_place(first: str, one: str, second: str, other: str, limit: int) -> None:
    places = wire.place(first, one, limit), wire.place(second, other, limit)
    assert all(len(place) <= limit for place in places)
    assert all(
        set(place) <= set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-~") for place in places
    )
    assert (places[0] == places[1]) == ((first, one) == (second, other))


def test_places_are_plain_where_they_can_be() -> None:
    assert wire.place("movie_app", "viewing_sessions", 56) == "movie_app__viewing_sessions"
    assert wire.place("movie_app", "a__b", 56).startswith("movie_app__a__b~")
    assert wire.place("movie_app_", "b", 56).startswith("movie_app___b~")


@given(st.datetimes(min_value=datetime(1, 1, 1), max_value=datetime(9999, 12, 31), timezones=st.just(UTC)))
def test_a_moment_lies_within_what_a_version_can(at: datetime) -> None:
    found = wire.moment(at)
    assert ALWAYS <= found < FOREVER
    if ALWAYS <= microseconds(at) < FOREVER:
        assert from_microseconds(found) == at
    assert float(found) == found, "JSON holds it"


@given(st.text(alphabet="\x00\x01\x02a", max_size=8), st.text(alphabet="\x00\x01\x02a", max_size=8))
def test_texts_without_nul_come_back_and_sort_the_same(one: str, other: str) -> None:
    kept = [pgvector_sql.without_nul(text) for text in (one, other)]
    assert [pgvector_sql.with_nul(text) for text in kept] == [one, other]
    assert not any("\x00" in text for text in kept)
    assert (kept[0].encode() < kept[1].encode()) == (one.encode() < other.encode())


def test_what_an_index_says_comes_back() -> None:
    for meta in (index_meta(NOTES), index_meta(NOTES, NOW)):
        assert wire.meta_of("notes", wire.meta_fields(meta)) == meta


def test_ties_are_settled_when_one_behind_them_is_known() -> None:
    def found(*scores: float) -> list[wire.Document]:
        return [wire.Document(id=str(turn), version="1", text="", score=score) for turn, score in enumerate(scores)]

    assert wire.settled(found(0.9, 0.8), 3, ask(top_k=2)), "there are no more"
    assert wire.settled(found(0.9, 0.8, 0.7), 3, ask(top_k=2))
    assert not wire.settled(found(0.9, 0.8, 0.8), 3, ask(top_k=2))
    assert not wire.settled(found(0.9, 0.9, 0.9), 3, ask(top_k=1))
