"""Searching: what is found, in which order."""

from __future__ import annotations

from llmfeatures.clock import from_microseconds
from llmfeatures.ports import NO_ENTITY
from llmfeatures.testing.document_store.notes import (
    ALL,
    LONG_AGO,
    NOTES,
    OTHER,
    SHARED,
    ask,
    best,
    ids,
    key_of,
    note,
    shared,
)
from llmfeatures.testing.document_store.store import StoreTests

NEAR = {"a": (1.0, 0.1), "b": (1.0, 0.4), "c": (0.0, 1.0), "d": (-1.0, 0.2)}
DAY = 86_400_000_000


class SearchTests(StoreTests):
    """Searching."""

    def test_it_says_its_tier(self) -> None:
        assert all(self.store(one).tier == self.tier for one in ALL)

    def test_no_queries_no_answers(self) -> None:
        self.fill(NOTES, [note("a")])
        assert self.find() == []

    def test_nothing_is_found_in_an_empty_index(self) -> None:
        self.fill(NOTES, [])
        assert self.find(ask(), ask(user="bob")) == [[], []]
        if self.has_recent:
            assert self.found(ask(order="recent")) == []

    def test_all_of_a_document_is_found(self) -> None:
        self.fill(NOTES, [note("a", text="Tea at five", version="v7", begins=LONG_AGO, genre="drama", stars=3)])
        (one,) = self.found(ask())
        assert (one.id, one.version, one.text, one.entity, one.score) == ("a", "v7", "Tea at five", key_of("ana"), 1.0)
        assert (one.valid_from, one.valid_to) == (from_microseconds(LONG_AGO), None)
        assert (one.metadata["genre"], one.metadata["stars"], one.metadata["pinned"]) == ("drama", 3, None)
        assert set(one.metadata) == set(NOTES.metadata)

    def test_documents_for_all_are_found(self) -> None:
        self.fill(SHARED, [shared("b", (0.0, 1.0, 0.0, 0.0)), shared("a", genre="noir")])
        found = self.found(ask(user=None), SHARED)
        assert [(one.id, one.entity, one.score, one.metadata) for one in found] == [
            ("a", NO_ENTITY, 1.0, {"genre": "noir"}),
            ("b", NO_ENTITY, 0.0, {"genre": None}),
        ]

    def test_the_nearest_come_first(self) -> None:
        records = [note(name, (*near, 0.0, 0.0)) for name, near in NEAR.items()]
        self.fill(NOTES, records[::-1])
        for top_k in (1, 2, 3, 4, 9):
            query = ask(top_k=top_k)
            assert self.agrees(self.found(query), best(records, query)), top_k
        assert ids(self.found(ask((-1.0, 0.0, 0.0, 0.0)))) == ["d", "c", "b", "a"]

    def test_scores_are_cosines_rounded_to_six_decimals(self) -> None:
        self.fill(NOTES, [note(name, (*near, 0.3, 0.1)) for name, near in NEAR.items()])
        found = self.found(ask((0.2, 0.7, 0.1, 0.4)))
        assert len(found) == 4
        assert all(one.score is not None and one.score == round(one.score, 6) for one in found)
        assert max(abs(one.score or 0) for one in found) <= 1

    def test_ties_are_in_the_order_of_ids(self) -> None:
        names = ["b", "B", "a", "é", "10", "9", "aa", "Z", "z", "_", "😀", "\uffee", "a b", "a\x00", "a\x01", "~"]
        self.fill(NOTES, [note(name) for name in names] + [note("near", (1.0, 0.01, 0.0, 0.0))])
        for top_k in (1, 5, len(names), 99):
            assert ids(self.found(ask(top_k=top_k))) == [*sorted(names), "near"][:top_k], top_k

    def test_many_ties_are_cut_in_the_order_of_ids(self) -> None:
        self.fill(NOTES, [note(f"{number * 7919 % 300:03}") for number in range(300)])
        assert ids(self.found(ask(top_k=7))) == [f"{number:03}" for number in range(7)]

    def test_the_newest_version_is_first_among_ties_of_an_id(self) -> None:
        self.fill(NOTES, [note("a", begins=LONG_AGO + turn * DAY, version=str(turn)) for turn in (1, 3, 2)])
        assert [one.version for one in self.found(ask())] == (["3", "2", "1"]), (
            "versions that are visible together are a mistake of the source; their order is still fixed"
        )

    def test_recent_is_the_newest_first(self) -> None:
        if not self.has_recent:
            return
        days = {"a": 3, "b": 9, "c": 1, "d": 9, "e": 5}
        records = [note(name, begins=LONG_AGO + day * DAY) for name, day in days.items()]
        self.fill(NOTES, records)
        for top_k in (1, 2, 3, 9):
            query = ask(order="recent", top_k=top_k)
            assert self.agrees(self.found(query), best(records, query)), top_k
        assert [(one.id, one.score) for one in self.found(ask(order="recent", top_k=3))] == [
            ("b", None),
            ("d", None),
            ("e", None),
        ]

    def test_many_of_one_moment_are_cut_in_the_order_of_ids(self) -> None:
        if self.has_recent:
            self.fill(NOTES, [note(f"{number * 7919 % 300:03}") for number in range(300)])
            assert ids(self.found(ask(order="recent", top_k=7))) == [f"{number:03}" for number in range(7)]

    def test_a_vector_of_zeros_is_no_nearer_to_anything(self) -> None:
        if self.has_zero:
            self.fill(NOTES, [note("none", (0.0,) * 4), note("a"), note("far", (-1.0, 0.0, 0.0, 0.0))])
            assert [(one.id, one.score) for one in self.found(ask())] == [("a", 1.0), ("none", 0.0), ("far", -1.0)]
            assert [one.score for one in self.found(ask((0.0,) * 4))] == [0.0] * 3

    def test_answers_are_in_the_order_of_queries(self) -> None:
        users = ["ana", "bob", "eve"]
        records = [note(f"{user}{number}", (1.0, number, 0.0, 0.0), user=user) for user in users for number in range(4)]
        self.fill(NOTES, records)
        queries = [
            ask(
                (1.0, turn, 0.0, 0.0),
                user=user,
                top_k=turn + 1,
                order="recent" if turn == 2 and self.has_recent else "score",
            )
            for turn, user in enumerate(["eve", "ana", "nobody", "bob", "ana", "eve", "ana"])
        ]
        queries.append(queries[0])
        if self.has_recent:
            queries.append(ask(user="bob", top_k=3, order="recent"))
        found = self.find(*queries)
        assert all(self.agrees(one, best(records, query)) for one, query in zip(found, queries, strict=True))
        assert found == [self.found(query) for query in queries], "a batch is each query alone"

    def test_a_large_batch_is_each_query_alone(self) -> None:
        users = [f"user{number}" for number in range(12)]
        records = [
            note(f"{number}", (1.0, number % 5, number % 3, 0.0), user=user) for user in users for number in range(9)
        ]
        self.fill(NOTES, records)
        queries = [
            ask((turn % 4, 1.0, turn % 3, 0.0), user=users[turn % 12], top_k=1 + turn % 6) for turn in range(130)
        ]
        found = self.find(*queries)
        for query, one in zip(queries[:12], found, strict=False):
            assert one == self.found(query)
        assert all(self.agrees(one, best(records, query)) for one, query in zip(found, queries, strict=True))

    def test_retrievers_of_one_database_are_apart(self) -> None:
        self.fill(NOTES, [note("mine")])
        self.fill(OTHER, [note("other", retriever=OTHER)])
        self.fill(SHARED, [shared("all")])
        assert ids(self.found(ask())) == ["mine"]
        assert ids(self.found(ask(), OTHER)) == ["other"]
        assert ids(self.found(ask(user=None), SHARED)) == ["all"]
        assert self.found(ask(user=None)) == []
        self.fill(OTHER, [])
        assert (ids(self.found(ask())), self.found(ask(), OTHER)) == (["mine"], [])

    def test_every_text_comes_back_as_it_went_in(self) -> None:
        texts = ["", " ", "a\nb\r\n\tc", "q\"'\\/", "é😀\u2028\x7f", "nul \x00 and \x01 and \x01\x01", "%s $1 {0} :x ?"]
        texts += ["<script>{{ x }}", "x" * 30_000]
        self.fill(NOTES, [note(f"{number}", text=text) for number, text in enumerate(texts)])
        assert [one.text for one in self.found(ask(top_k=20))] == texts

    def test_every_id_and_version_comes_back_as_it_went_in(self) -> None:
        names = sorted(
            ["", " ", "a", "a ", "A", "%", "'", '"', "\\", "a/b", "é", "e\u0301", "\x00", "x" * 500, "1", "01"]
        )
        self.fill(NOTES, [note(name, version=f"v{name}") for name in names])
        assert [(one.id, one.version) for one in self.found(ask(top_k=30))] == [(name, f"v{name}") for name in names]
