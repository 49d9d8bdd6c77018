"""As of a moment: which versions are visible."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from llmfeatures.clock import from_microseconds, microseconds
from llmfeatures.ports import ALWAYS, FOREVER
from llmfeatures.testing.document_store.notes import LONG_AGO, NOTES, NOW, ask, best, ids, note
from llmfeatures.testing.document_store.store import StoreTests

AT = microseconds(NOW)


class MomentTests(StoreTests):
    """As of a moment. A ``live`` store knows none: it gives what it holds."""

    def test_the_beginning_counts_and_the_end_does_not(self) -> None:
        self.fill(NOTES, [note("a", begins=AT, ends=AT + 10)])
        seen = [len(self.found(ask(as_of=AT + after))) for after in (-1, 0, 1, 9, 10, 11)]
        assert seen == ([1] * 6 if self.tier == "live" else [0, 1, 1, 1, 0, 0])
        if self.has_recent:
            seen = [len(self.found(ask(as_of=AT + after, order="recent"))) for after in (-1, 0, 1, 9, 10, 11)]
            assert seen == ([1] * 6 if self.tier == "live" else [0, 1, 1, 1, 0, 0])

    def test_versions_follow_each_other(self) -> None:
        if self.tier == "live":
            return
        bounds = [AT, AT + 1, AT + 2, AT + 1_000_000, AT + 86_400_000_000]
        versions = zip(bounds, [*bounds[1:], None], strict=True)
        records = [
            note("a", (1.0, turn, 0.0, 0.0), begins=begins, version=f"v{turn}", ends=FOREVER if ends is None else ends)
            for turn, (begins, ends) in enumerate(versions)
        ]
        self.fill(NOTES, records)
        for bound in bounds:
            for after in (-1, 0, 1):
                query = ask(as_of=bound + after)
                assert self.agrees(self.found(query), best(records, query)), (bound, after)
        found = self.find(*[ask(as_of=bound) for bound in bounds])
        assert [[one.version for one in each] for each in found] == [[f"v{turn}"] for turn in range(5)]

    def test_the_bounds_of_a_version_come_back(self) -> None:
        self.fill(NOTES, [note("a", begins=AT - 1, ends=AT + 1), note("b", begins=LONG_AGO + 7)])
        first, second = self.found(ask())
        assert (first.valid_from, first.valid_to) == (from_microseconds(AT - 1), from_microseconds(AT + 1))
        assert (second.valid_from, second.valid_to) == (from_microseconds(LONG_AGO + 7), None)

    def test_what_nothing_ends_is_there_to_the_end_of_time(self) -> None:
        self.fill(NOTES, [note("a"), note("b", ends=AT + 1)])
        last = datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC)
        for at in (last, datetime(2255, 6, 6, tzinfo=UTC), NOW + timedelta(days=80_000)):
            assert ids(self.found(ask(as_of=at))) == (["a", "b"] if self.tier == "live" else ["a"])
        if self.tier != "live":
            assert self.found(ask(as_of=datetime(1, 1, 1, tzinfo=UTC))) == []

    def test_what_nothing_begins_was_there_from_the_beginning_of_time(self) -> None:
        self.fill(NOTES, [note("a", begins=ALWAYS), note("b", begins=ALWAYS, ends=AT)])
        assert ids(self.found(ask(as_of=datetime(1, 1, 1, tzinfo=UTC)))) == ["a", "b"]
        assert [one.valid_from for one in self.found(ask(as_of=AT - 1))] == [None, None]
        assert ids(self.found(ask())) == (["a", "b"] if self.tier == "live" else ["a"])

    def test_long_ago_counts_too(self) -> None:
        """To the microsecond from 1684 to 2255: what JSON's numbers hold."""
        if self.tier == "live":
            return
        for begins in (microseconds(datetime(1700, 1, 1, tzinfo=UTC)) + 1, -1, 0, 1, 2**52 + 1):
            self.fill(NOTES, [note("a", begins=begins, ends=begins + 2)])
            assert [len(self.found(ask(as_of=begins + after))) for after in (-1, 0, 1, 2)] == [0, 1, 1, 0], begins

    def test_moments_are_each_querys_own(self) -> None:
        if self.tier == "live":
            return
        records = [
            note(f"{number}", (1.0, number % 3, 0.0, 0.0), begins=AT + number * 10, ends=AT + number * 10 + 25)
            for number in range(20)
        ]
        self.fill(NOTES, records)
        queries = [ask(as_of=AT + turn * 7, top_k=2) for turn in range(40)]
        found = self.find(*queries)
        assert all(self.agrees(one, best(records, query)) for one, query in zip(found, queries, strict=True))

    def test_what_is_over_does_not_take_the_place_of_what_is_not(self) -> None:
        if self.tier == "live":
            return
        over = [note(f"{number:03}", ends=AT) for number in range(200)]
        self.fill(NOTES, [*over, note("still", (-1.0, 0.0, 0.0, 0.0)), note("coming", begins=AT + 1)])
        assert ids(self.found(ask(top_k=3))) == ["still"]
        assert ids(self.found(ask(top_k=3, as_of=AT - 1))) == ["000", "001", "002"]
