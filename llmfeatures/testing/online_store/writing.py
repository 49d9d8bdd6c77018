"""Writing rows: what a key holds, and that the newest wins."""

from __future__ import annotations

import itertools

import pytest

from llmfeatures.codec import split_stamp
from llmfeatures.ports import (
    OnlineStore,
    Read,
    RowWrite,
    ViewFields,
    Written,
)
from llmfeatures.testing.online_store.rows import (
    ORDER,
    activity,
    at,
    cells,
    key_of,
    segment,
)
from llmfeatures.testing.online_store.store import StoreTests


class WritingTests(StoreTests):
    """Writing rows: what a key holds, and that the newest wins."""

    # Writing: what a key holds

    def test_the_layout_of_a_key(self, store: OnlineStore) -> None:
        before = store.begin().now
        assert store.write([activity(1, created=5), segment(1)]) == Written(written=2, skipped=0)
        held = self.raw_get(store, key_of(1))
        stamps = [split_stamp(held.pop("@activity")), split_stamp(held.pop("@segment"))]
        assert held == {
            "@key": key_of(1),
            "watch_count": "1",
            "last_genre": '"drama"',
            "user_segment": '"casual"',
        }
        assert [one[:2] for one in stamps] == [(at(0), at(5)), (at(0), "-")]
        assert all(before <= one[2] <= store.begin().now and len(one[2]) == 27 for one in stamps)

    def test_a_write_needs_no_begin_and_fills_no_meta(self, store: OnlineStore) -> None:
        store.write([segment(1)])
        assert store.meta() is None

    def test_writing_nothing(self, store: OnlineStore) -> None:
        assert store.write([]) == Written(written=0, skipped=0)
        assert store.write([], timeout=0) == Written(written=0, skipped=0)

    def test_a_write_within_a_timeout(self, store: OnlineStore) -> None:
        rows = [activity(user, count=user) for user in range(3_000)]
        assert store.write(rows, timeout=60) == Written(written=3_000, skipped=0)
        assert store.write([activity(1, 1, count=9)], timeout=60, replace_before=None) == Written(written=1, skipped=0)
        assert store.read([Read(key_of(user), ("watch_count",)) for user in (0, 1, 2_999)]) == [["0"], ["9"], ["2999"]]

    # Writing: newest wins

    @pytest.mark.parametrize(("stored", "new", "wins"), [one[1:] for one in ORDER], ids=[one[0] for one in ORDER])
    def test_newest_wins(self, store: OnlineStore, stored: RowWrite, new: RowWrite, wins: bool) -> None:
        store.write([stored])
        assert store.write([new]) == Written(written=int(wins), skipped=int(not wins))
        assert self._held(store, stored.key) == cells(new if wins else stored)

    @pytest.mark.parametrize(("stored", "new", "wins"), [one[1:] for one in ORDER], ids=[one[0] for one in ORDER])
    def test_newest_wins_within_a_call(self, store: OnlineStore, stored: RowWrite, new: RowWrite, wins: bool) -> None:
        assert store.write([stored, new]) == Written(written=1, skipped=1)
        assert self._held(store, stored.key) == cells(new if wins else stored)

    def test_newest_wins_within_a_call_in_any_order(self, store: OnlineStore) -> None:
        rows = [activity(1, event, count=event) for event in (1, 2, 3, 4)]
        for turn, rows_in_order in enumerate(itertools.permutations(rows)):
            moved = [row._replace(key=key_of(turn)) for row in rows_in_order]
            assert store.write(moved) == Written(written=1, skipped=3)
            assert self._held(store, key_of(turn)) == cells(rows[-1])

    def test_views_and_keys_are_decided_apart(self, store: OnlineStore) -> None:
        store.write([activity(1, 5), segment(1, 1), activity(2, 1)])
        rows = [activity(1, 3), segment(1, 3, value='"power_user"'), activity(2, 3)]
        assert store.write(rows) == Written(written=2, skipped=1)
        assert self._held(store, key_of(1)) == cells(activity(1, 5)) | cells(rows[1])
        assert self._held(store, key_of(2)) == cells(rows[2])

    def test_a_rows_fields_are_replaced_together(self, store: OnlineStore) -> None:
        store.write([activity(1, 1, count=7, genre='"noir"')])
        store.write([activity(1, 2, count="null", genre="null")])
        assert self._held(store, key_of(1)) == cells(activity(1, 2, count="null", genre="null"))

    def test_a_stored_row_without_one_of_the_features_loses_a_tie(self, store: OnlineStore) -> None:
        store.write([activity(1, count=9)])
        wider = RowWrite(
            key_of(1), ViewFields(name="activity", features=("watch_count", "rating")), at(0), "-", ("1", "5")
        )
        assert store.write([wider]) == Written(written=1, skipped=0)
        assert store.read([Read(key_of(1), ("watch_count", "rating"))]) == [["1", "5"]]

    def test_many_keys_in_one_call(self, store: OnlineStore) -> None:
        rows = [activity(user, count=user) for user in range(3000)]
        assert store.write(rows) == Written(written=3000, skipped=0)
        assert store.write(rows) == Written(written=0, skipped=3000)
