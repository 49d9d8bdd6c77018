"""Filling: what an index keeps, and what it says of itself."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from llmfeatures.errors import FormatError, RetrieverError, RetrieverUnavailableError
from llmfeatures.ports import IndexMeta, index_meta
from llmfeatures.retriever import FunctionEmbedder, Retriever
from llmfeatures.testing.document_store.notes import (
    DIMENSIONS,
    NOTES,
    NOW,
    OTHER,
    SHARED,
    USER,
    ask,
    axes,
    ids,
    note,
)
from llmfeatures.testing.document_store.store import StoreTests

DONE = index_meta(NOTES, NOW)
NEWEST = Retriever("newest", USER, "newest.jsonl", metadata={"genre": "str"})
"""Without an embedder."""


class IndexTests(StoreTests):
    """Filling."""

    def test_there_is_no_index_at_first(self) -> None:
        assert self.index().meta() is None

    def test_what_was_never_filled_cannot_be_searched(self) -> None:
        with pytest.raises(RetrieverUnavailableError, match=r"notes.*materialize"):
            self.found(ask())
        if self.has_recent:
            with pytest.raises(RetrieverUnavailableError, match=r"notes.*materialize"):
                self.found(ask(order="recent"))

    def test_an_index_that_is_not_complete_was_never_filled(self) -> None:
        self.index().begin(index_meta(NOTES))
        self.index().write([note("a")])
        with pytest.raises(RetrieverUnavailableError, match=r"notes.*materialize"):
            self.found(ask())
        self.index().complete(DONE)
        assert ids(self.found(ask())) == ["a"]

    def test_an_index_says_what_it_is(self) -> None:
        index = self.index()
        index.begin(index_meta(NOTES))
        assert index.meta() == index_meta(NOTES)
        index.begin(index_meta(NOTES))
        index.complete(DONE)
        assert index.meta() == DONE == self.another_index().meta()
        later = replace(DONE, watermark=NOW + timedelta(microseconds=1))
        index.complete(later)
        assert index.meta() == later

    def test_beginning_again_keeps_what_is_there(self) -> None:
        self.fill(NOTES, [note("a")])
        self.index().begin(index_meta(NOTES))
        assert self.index().meta() == DONE
        assert ids(self.found(ask())) == ["a"]

    def test_a_record_is_found_once_it_is_written(self) -> None:
        self.fill(NOTES, [note("a")])
        another = self.another()
        assert [len(one) for one in another.search([ask()], timeout=30)] == [1]
        self.index().write([note("b")])
        assert ids(self.found(ask())) == ["a", "b"]
        assert ids(another.search([ask()], timeout=30)[0]) == ["a", "b"]

    def test_writing_a_record_again_changes_nothing(self) -> None:
        records = [note("a"), note("b"), note("a", user="bob")]
        self.fill(NOTES, records)
        before = self.found(ask())
        self.index().write(records)
        self.index().write([records[0], records[0]])
        assert sorted(self.index().keys()) == sorted(one.key for one in records)
        assert self.found(ask()) == before

    def test_keys_are_those_of_all_records(self) -> None:
        self.fill(NOTES, [])
        assert list(self.index().keys()) == []
        records = [note(f"{number}", user=f"user{number % 7}") for number in range(2_500)]
        self.fill(NOTES, records)
        self.fill(OTHER, [note("other", retriever=OTHER)])
        assert sorted(self.index().keys()) == sorted(one.key for one in records)

    def test_removed_records_are_gone(self) -> None:
        records = [note(f"{number:04}") for number in range(1_300)]
        self.fill(NOTES, records)
        self.index().remove([one.key for one in records[:1_250]])
        assert ids(self.found(ask(top_k=99))) == [one.id for one in records[1_250:]]
        assert sorted(self.index().keys()) == sorted(one.key for one in records[1_250:])
        self.index().remove([records[0].key, records[1_299].key, "0" * 32])
        self.index().remove([])
        assert ids(self.found(ask(top_k=99))) == [one.id for one in records[1_250:-1]]

    def test_writing_nothing(self) -> None:
        self.fill(NOTES, [note("a")])
        self.index().write([])
        assert ids(self.found(ask())) == ["a"]

    def test_replacing_removes_all(self) -> None:
        self.fill(NOTES, [note("a")])
        self.index().begin(index_meta(NOTES), replace=True)
        assert self.index().meta() == index_meta(NOTES), "its watermark is gone too"
        assert list(self.index().keys()) == []
        self.index().write([note("b")])
        self.index().complete(DONE)
        assert ids(self.found(ask())) == ["b"]

    @pytest.mark.parametrize(
        "wanted",
        [
            replace(DONE, model="another"),
            replace(DONE, dimensions=DIMENSIONS + 1),
            replace(DONE, metadata={**DONE.metadata, "stars": "str"}),
            replace(DONE, metadata={"genre": "str"}),
            replace(DONE, model=None, dimensions=None),
        ],
        ids=["model", "dimensions", "dtype", "names", "no embedder"],
    )
    def test_another_index_is_refused(self, wanted: IndexMeta) -> None:
        self.fill(NOTES, [note("a")])
        with pytest.raises(RetrieverError, match=r"notes.*--full") as refused:
            self.index().begin(wanted)
        assert not isinstance(refused.value, RetrieverUnavailableError)
        assert self.index().meta() == DONE
        assert ids(self.found(ask())) == ["a"]

    def test_an_index_becomes_another_by_replacing(self) -> None:
        self.fill(NOTES, [note("a")])
        assert ids(self.found(ask())) == ["a"]
        wider = Retriever(
            "notes",
            USER,
            "notes.jsonl",
            embedder=FunctionEmbedder(axes, model="wider", dimensions=6),
            metadata={"genre": "str"},
        )
        again = self.another_index(wider)
        again.begin(index_meta(wider), replace=True)
        record = note("b", (0.0, 0.0, 0.0, 0.0, 0.0, 1.0), retriever=wider, genre="x")
        again.write([record])
        again.complete(index_meta(wider, NOW))
        found = again.search([ask((0.0, 0.0, 0.0, 0.0, 0.0, 1.0))], timeout=30)[0]
        assert [(one.id, one.score, one.metadata) for one in found] == [("b", 1.0, {"genre": "x"})]

    def test_vectors_of_another_model_are_not_searched(self) -> None:
        """A service that was not deployed yet must not compare vectors of two models."""
        self.fill(NOTES, [note("a")])
        other = Retriever(
            "notes",
            USER,
            "notes.jsonl",
            embedder=FunctionEmbedder(axes, model="other", dimensions=DIMENSIONS),
            metadata=NOTES.metadata,
        )
        with pytest.raises(RetrieverError, match=r"notes.*axes.*other"):
            self.another(other).search([ask()], timeout=30)

    def test_a_query_that_cannot_be_compared_is_refused(self) -> None:
        self.fill(NOTES, [note("a")])
        for query in (
            replace(ask(), vector=None),
            ask((1.0, 0.0)),
            ask((float("nan"), 0.0, 0.0, 0.0)),
            ask(nothing="x"),
        ):
            with pytest.raises(RetrieverError) as refused:
                self.found(query)
            assert not isinstance(refused.value, RetrieverUnavailableError)
        assert ids(self.found(ask())) == ["a"]

    def test_without_vectors_the_newest_are_found(self) -> None:
        if not self.has_recent:
            return
        records = [
            note(f"{number}", None, retriever=NEWEST, begins=number, genre="ab"[number % 2], user=f"{number // 5}")
            for number in range(10)
        ]
        self.fill(NEWEST, records)
        found = self.found(ask(order="recent", user="1", top_k=3), NEWEST)
        assert [(one.id, one.score) for one in found] == [("9", None), ("8", None), ("7", None)]
        assert ids(self.found(ask(order="recent", user="1", genre="a"), NEWEST)) == ["8", "6"]

    def test_documents_for_all_are_kept_apart_from_an_entitys(self) -> None:
        self.fill(SHARED, [])
        self.fill(NOTES, [note("a")])
        assert self.found(ask(user=None), SHARED) == []

    def test_another_format_is_refused(self) -> None:
        self.fill(NOTES, [note("a")])
        self.set_format(NOTES, DONE.format + 1)
        another = self.another()
        with pytest.raises(FormatError, match="format"):
            another.search([ask()], timeout=30)
        for call in (
            lambda: self.index().meta(),
            lambda: self.index().begin(index_meta(NOTES)),
            lambda: self.found(ask()),
        ):
            self.store().close()
            with pytest.raises(FormatError, match="format"):
                call()
        self.fill(NOTES, [note("b")])
        assert ids(self.found(ask())) == ["b"], "replaced, it has the format of this version"

    def test_an_indexing_that_died_goes_on(self) -> None:
        records = [note(f"{number:02}", text=f"text {number}") for number in range(20)]
        first = self.index()
        first.begin(index_meta(NOTES))
        first.write(records[:10])
        first.close()
        again = self.another_index()
        again.begin(index_meta(NOTES))
        assert set(again.keys()) == {one.key for one in records[:10]}
        again.write(records[5:])
        again.complete(DONE)
        assert ids(self.found(ask(top_k=99))) == [one.id for one in records]
