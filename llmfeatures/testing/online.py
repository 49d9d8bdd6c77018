"""What an online store must do: the contract of `llmfeatures.ports.OnlineStore` and `AsyncOnlineStore` as tests.

Subclass `OnlineStoreTests`, give the two fixtures and the raw hooks, and run it with pytest against the real component:

    class TestMyStore(OnlineStoreTests):
        @pytest.fixture
        def store(self): ...
"""

from __future__ import annotations

import asyncio
import itertools
import os
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import pytest

from llmfeatures.clock import microseconds, stamp
from llmfeatures.codec import FORMAT, entity_key, split_stamp
from llmfeatures.errors import EntityMismatchError, FormatError
from llmfeatures.ports import (
    AsyncOnlineStore,
    OnlineStore,
    Read,
    RowColumns,
    RowWrite,
    ViewFields,
    ViewMeta,
    ViewUsage,
    Written,
)

T = TypeVar("T")

ACTIVITY = ViewFields(name="activity", features=("watch_count", "last_genre"))
SEGMENT = ViewFields(name="segment", features=("user_segment",))
USER = ("user_id",)

START = datetime(2026, 5, 7, 22, tzinfo=UTC)
NEVER = stamp(datetime(9000, 1, 1, tzinfo=UTC))
"""A stamp later than anything a store writes now."""


def at(seconds: float) -> str:
    """The stamp of a moment some seconds after `START`."""
    return stamp(START + timedelta(seconds=seconds))


def key_of(user: object) -> str:
    """The entity key of a user."""
    return entity_key(USER, [str(user)])


def activity(
    user: object, event: float = 0, *, created: float | None = None, count: object = 1, genre: str = '"drama"'
) -> RowWrite:
    """A row of the view ``activity``."""
    when = "-" if created is None else at(created)
    return RowWrite(key_of(user), ACTIVITY, at(event), when, (str(count), genre))


def segment(user: object, event: float = 0, *, value: str = '"casual"') -> RowWrite:
    """A row of the view ``segment``."""
    return RowWrite(key_of(user), SEGMENT, at(event), "-", (value,))


def in_columns(rows: Sequence[RowWrite], view: ViewFields = ACTIVITY) -> RowColumns:
    """Rows of a view as `OnlineStore.write_columns` takes them."""
    import pyarrow as pa

    def column(texts: Sequence[str]) -> Any:
        texts_as_bytes = [text.encode() for text in texts]
        return pa.array(texts_as_bytes, pa.large_binary())  # pyright: ignore[reportUnknownVariableType]

    return RowColumns(
        view=view,
        keys=column([row.key for row in rows]),
        moments=column([f"{row.event}|{row.created}" for row in rows]),
        values=tuple(column([row.values[number] for row in rows]) for number in range(len(view.features))),
    )


ORDER = (
    ("greater event", activity(1, 1), activity(1, 2), True),
    ("smaller event", activity(1, 2), activity(1, 1, created=9), False),
    ("event by microseconds", activity(1, 0.000001), activity(1, 0.000002), True),
    ("greater created", activity(1, created=1), activity(1, created=2), True),
    ("smaller created", activity(1, created=2, count=1), activity(1, created=1, count=9), False),
    ("created against none", activity(1, count=9), activity(1, created=-9e8, count=1), True),
    ("none against created", activity(1, created=-9e8, count=1), activity(1, count=9), False),
    ("the same row", activity(1, created=1), activity(1, created=1), False),
    ("greater values", activity(1, count=1), activity(1, count=2), True),
    ("values are text: 9 is above 10", activity(1, count=10), activity(1, count=9), True),
    ("values are one text: a comma is below a digit", activity(1, count=10), activity(1, count=1), False),
    ("a prefix is below", activity(1, genre='"a"'), activity(1, genre='"aa"'), True),
    ("upper case is below lower case", activity(1, genre='"Z"'), activity(1, genre='"a"'), True),
    ("hyphens count", activity(1, genre='"-b"'), activity(1, genre='"a"'), True),
    ("letters beyond ASCII are above", activity(1, genre='"z"'), activity(1, genre='"é"'), True),
    ("bytes of UTF-8, not of UTF-16", activity(1, genre='"\uffee"'), activity(1, genre='"\U0001f600"'), True),
)
"""What decides between a stored row and a new one: name, stored, new, whether the new one wins."""


class OnlineStoreTests:
    """The contract. Every test starts with an empty store."""

    expires = False
    """Whether keys expire; then give `raw_expiry` too."""

    @pytest.fixture
    def store(self) -> OnlineStore:
        """An empty store."""
        raise NotImplementedError

    @pytest.fixture
    def async_store(self, store: OnlineStore) -> AsyncOnlineStore:
        """An asynchronous store on the data of ``store``."""
        raise NotImplementedError

    def raw_get(self, store: OnlineStore, key: str) -> dict[str, str]:
        """All fields of an entity key, or of ``@meta``, read past the store."""
        raise NotImplementedError

    def raw_set(self, store: OnlineStore, key: str, field: str, value: str) -> None:
        """Set one field of an entity key, or of ``@meta``, past the store."""
        raise NotImplementedError

    def raw_delete_all(self, store: OnlineStore) -> None:
        """Delete all that the store holds, past the store."""
        raise NotImplementedError

    def raw_expiry(self, store: OnlineStore, key: str) -> int | None:
        """When an entity key expires, in seconds from 1970; None when it does not."""
        raise NotImplementedError

    # Reading

    def test_nothing_is_there_at_first(self, store: OnlineStore) -> None:
        assert store.read([Read(key_of(1), ("watch_count", "@activity"))]) == [[None, None]]
        assert store.meta() is None

    def test_no_reads_no_answers(self, store: OnlineStore) -> None:
        assert store.read([]) == []
        assert store.read([Read(key_of(1), ())]) == [[]]

    def test_answers_come_in_the_order_of_reads_and_fields_duplicates_kept(self, store: OnlineStore) -> None:
        store.write([activity(user, count=user) for user in range(3)])
        fields = ("@key", "watch_count", "nothing", "watch_count")
        found = store.read([Read(key_of(user), fields) for user in (2, 0, 2, 7, 1)])
        expected = [[key_of(user), str(user), None, str(user)] for user in (2, 0, 2, 7, 1)]
        expected[3] = [None] * 4
        assert found == expected

    def test_reads_of_one_call_may_ask_for_different_fields(self, store: OnlineStore) -> None:
        store.write([activity(1), segment(1)])
        assert store.read([Read(key_of(1), ("user_segment",)), Read(key_of(1), ("last_genre", "watch_count"))]) == [
            ['"casual"'],
            ['"drama"', "1"],
        ]

    def test_a_key_that_is_there_without_the_fields_asked_for(self, store: OnlineStore) -> None:
        store.write([activity(1)])
        assert store.read([Read(key_of(1), ("user_segment", "@segment"))]) == [[None, None]]

    @pytest.mark.parametrize(
        "text",
        ['""', "null", '"é\U0001f600\u2028"', '"\\r\\n\\u0000"', "[1,[2]]", '"' + "x" * 300_000 + '"', '"%|:*@key"'],
    )
    def test_every_text_comes_back_as_it_went_in(self, store: OnlineStore, text: str) -> None:
        store.write([segment(1, value=text)])
        assert store.read([Read(key_of(1), ("user_segment",))]) == [[text]]

    @pytest.mark.parametrize("user", ["8a2f", "a b", "a:b", "*", "?", "[a]", "é", "", "@key", "\\", "%", "x" * 2000])
    def test_every_entity_key_is_its_own(self, store: OnlineStore, user: str) -> None:
        store.write([segment(user), segment("other", value='"other"')])
        assert store.read([Read(key_of(user), ("user_segment", "@key"))]) == [['"casual"', key_of(user)]]
        assert store.read([Read(key_of("absent"), ("user_segment",))]) == [[None]]

    def test_many_entities_in_one_call(self, store: OnlineStore) -> None:
        store.write([activity(user, count=user) for user in range(2000)])
        found = store.read([Read(key_of(user), ("watch_count",)) for user in range(2100)])
        assert found == [[str(user)] for user in range(2000)] + [[None]] * 100

    def test_another_entitys_hash_is_refused(self, store: OnlineStore) -> None:
        store.write([segment(1)])
        self.raw_set(store, key_of(1), "@key", key_of(2))
        with pytest.raises(EntityMismatchError):
            store.read([Read(key_of(1), ("user_segment",))])
        store.write([segment(3)])
        assert store.read([Read(key_of(3), ("user_segment",))]) == [['"casual"']]

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
        assert self._held(store, stored.key) == _cells(new if wins else stored)

    @pytest.mark.parametrize(("stored", "new", "wins"), [one[1:] for one in ORDER], ids=[one[0] for one in ORDER])
    def test_newest_wins_within_a_call(self, store: OnlineStore, stored: RowWrite, new: RowWrite, wins: bool) -> None:
        assert store.write([stored, new]) == Written(written=1, skipped=1)
        assert self._held(store, stored.key) == _cells(new if wins else stored)

    def test_newest_wins_within_a_call_in_any_order(self, store: OnlineStore) -> None:
        rows = [activity(1, event, count=event) for event in (1, 2, 3, 4)]
        for turn, rows_in_order in enumerate(itertools.permutations(rows)):
            moved = [row._replace(key=key_of(turn)) for row in rows_in_order]
            assert store.write(moved) == Written(written=1, skipped=3)
            assert self._held(store, key_of(turn)) == _cells(rows[-1])

    def test_views_and_keys_are_decided_apart(self, store: OnlineStore) -> None:
        store.write([activity(1, 5), segment(1, 1), activity(2, 1)])
        rows = [activity(1, 3), segment(1, 3, value='"power_user"'), activity(2, 3)]
        assert store.write(rows) == Written(written=2, skipped=1)
        assert self._held(store, key_of(1)) == _cells(activity(1, 5)) | _cells(rows[1])
        assert self._held(store, key_of(2)) == _cells(rows[2])

    def test_a_rows_fields_are_replaced_together(self, store: OnlineStore) -> None:
        store.write([activity(1, 1, count=7, genre='"noir"')])
        store.write([activity(1, 2, count="null", genre="null")])
        assert self._held(store, key_of(1)) == _cells(activity(1, 2, count="null", genre="null"))

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

    # Writing: columns

    @pytest.mark.parametrize(("stored", "new", "wins"), [one[1:] for one in ORDER], ids=[one[0] for one in ORDER])
    def test_newest_wins_in_columns(self, store: OnlineStore, stored: RowWrite, new: RowWrite, wins: bool) -> None:
        assert store.write_columns(in_columns([stored])) == Written(written=1, skipped=0)
        assert store.write_columns(in_columns([new])) == Written(written=int(wins), skipped=int(not wins))
        assert self._held(store, stored.key) == _cells(new if wins else stored)
        assert self.raw_get(store, stored.key)["@key"] == stored.key

    def test_columns_of_nothing(self, store: OnlineStore) -> None:
        assert store.write_columns(in_columns([])) == Written(written=0, skipped=0)

    def test_columns_leave_what_rows_leave(self, store: OnlineStore) -> None:
        texts = ['""', "null", '"é\U0001f600"', '"\\r\\n\\u0000"', '"' + "x" * 100_000 + '"', '"$3\r\n*1"']
        users = ["8a2f", "a b", "a:b", "*", "é", "", "@key", *map(str, range(700))]
        rows = [
            activity(user, turn, created=turn if turn % 3 else None, count=turn, genre=texts[turn % 50 % 6])
            for turn, user in enumerate(users)
        ]
        store.write([segment(user) for user in users[::2]])
        assert store.write_columns(in_columns(rows)) == Written(written=len(rows), skipped=0)
        held = [self._held(store, row.key) for row in rows]
        expected = [
            _cells(row) | (_cells(segment(user)) if turn % 2 == 0 else {})
            for turn, (user, row) in enumerate(zip(users, rows, strict=True))
        ]
        assert held == expected
        assert store.write(rows) == Written(written=0, skipped=len(rows))
        assert store.write_columns(in_columns(rows)) == Written(written=0, skipped=len(rows))

    def test_part_of_columns(self, store: OnlineStore) -> None:
        """Arrow cuts a column without copying it: what is before and behind is no row."""
        from dataclasses import replace

        whole = in_columns([activity(user, count=user) for user in range(9)])
        part = replace(
            whole,
            keys=whole.keys.slice(3, 4),
            moments=whole.moments.slice(3, 4),
            values=tuple(column.slice(3, 4) for column in whole.values),
        )
        assert store.write_columns(part) == Written(written=4, skipped=0)
        found = store.read([Read(key_of(user), ("watch_count",)) for user in range(9)])
        assert found == [[str(user)] if 3 <= user < 7 else [None] for user in range(9)]

    def test_newest_wins_among_columns_of_one_key(self, store: OnlineStore) -> None:
        rows = [activity(1, event, count=event) for event in (1, 3, 2)]
        store.write_columns(in_columns(rows))
        assert self._held(store, key_of(1)) == _cells(rows[1])
        began = store.begin().now
        store.write_columns(in_columns([activity(1, event, count=event) for event in (0, 2, 1)]), replace_before=began)
        assert self._held(store, key_of(1)) == _cells(activity(1, 2, count=2))

    def test_replace_before_in_columns(self, store: OnlineStore) -> None:
        store.write([activity(1, 9, count=9), activity(2, 1)])
        began = store.begin().now
        store.write([activity(3, 9)])
        rows = [activity(1, 1), activity(2, 1), activity(3, 1)]
        assert store.write_columns(in_columns(rows), replace_before=began) == Written(written=2, skipped=1)
        assert self._held(store, key_of(1)) == _cells(activity(1, 1))
        assert self._held(store, key_of(3)) == _cells(activity(3, 9))
        assert self._written(store, key_of(2), "activity") >= began
        store.write_columns(in_columns([activity(1)]), replace_before=NEVER)
        assert self._written(store, key_of(1), "activity") == NEVER

    def test_columns_of_another_format_are_refused(self, store: OnlineStore) -> None:
        store.begin()
        self.raw_set(store, "@meta", "@format", str(FORMAT + 1))
        store.close()
        with pytest.raises(FormatError):
            store.write_columns(in_columns([activity(1)]))
        assert self.raw_get(store, key_of(1)) == {}

    # Writing: a full run

    def test_replace_before_beats_what_was_written_before(self, store: OnlineStore) -> None:
        store.write([activity(1, 9, count=9), activity(2, 1)])
        began = store.begin().now
        rows = [activity(1, 1), activity(2, 1)]
        assert store.write(rows, replace_before=began) == Written(written=2, skipped=0)
        assert self._held(store, key_of(1)) == _cells(activity(1, 1))
        assert self._written(store, key_of(2), "activity") >= began

    def test_replace_before_competes_with_what_was_written_since(self, store: OnlineStore) -> None:
        began = store.begin().now
        store.write([activity(1, 9)])
        rows = [activity(1, 1), activity(2, 1)]
        assert store.write(rows, replace_before=began) == Written(written=1, skipped=1)
        assert store.write([activity(1, 10)], replace_before=began) == Written(written=1, skipped=0)

    def test_replace_before_still_takes_the_newest_row_of_the_call(self, store: OnlineStore) -> None:
        store.write([activity(1, 9)])
        began = store.begin().now
        assert store.write([activity(1, 1), activity(1, 3), activity(1, 2)], replace_before=began).written == 1
        assert self._held(store, key_of(1)) == _cells(activity(1, 3))

    def test_a_run_is_never_dated_before_its_beginning(self, store: OnlineStore) -> None:
        """A clock may be set back in the middle of a run; its sweep must not remove what it wrote."""
        store.write([activity(1)], replace_before=NEVER)
        assert self._written(store, key_of(1), "activity") == NEVER
        assert store.sweep(ACTIVITY, USER, NEVER) == 0

    # Sweeping

    def test_sweep_removes_what_was_written_before(self, store: OnlineStore) -> None:
        store.write([activity(user) for user in (1, 2, 3)])
        began = store.begin().now
        store.write([activity(2)], replace_before=began)
        store.write([activity(3, 1)])
        assert store.sweep(ACTIVITY, USER, began) == 1
        assert self.raw_get(store, key_of(1)) == {}
        assert self._held(store, key_of(2)) == _cells(activity(2))
        assert self._held(store, key_of(3)) == _cells(activity(3, 1))
        assert store.sweep(ACTIVITY, USER, began) == 0

    def test_sweep_leaves_other_views(self, store: OnlineStore) -> None:
        store.write([activity(1), segment(1)])
        assert store.sweep(ACTIVITY, USER, NEVER) == 1
        held = self.raw_get(store, key_of(1))
        assert sorted(held) == ["@key", "@segment", "user_segment"]
        assert store.sweep(SEGMENT, USER, NEVER) == 1
        assert self.raw_get(store, key_of(1)) == {}

    def test_sweep_leaves_other_entities(self, store: OnlineStore) -> None:
        others = [
            entity_key(("user_id", "other"), ["1", "2"]),
            entity_key(("user_id2",), ["1"]),
            entity_key(("other", "user_id"), ["1", "2"]),
        ]
        for key in others:
            store.write([activity(1)._replace(key=key)])
        store.write([activity("a:b"), activity("*")])
        assert store.sweep(ACTIVITY, USER, NEVER) == 2
        assert all(self._held(store, key) == _cells(activity(1)) for key in others)
        assert store.sweep(ACTIVITY, ("user_id", "other"), NEVER) == 1

    def test_sweep_leaves_the_meta_record(self, store: OnlineStore) -> None:
        meta = store.begin().meta
        assert store.sweep(ACTIVITY, USER, NEVER) == 0
        assert store.meta() == meta

    def test_sweep_of_many_keys(self, store: OnlineStore) -> None:
        store.write([activity(user) for user in range(2500)])
        began = store.begin().now
        store.write([activity(user) for user in range(0, 2500, 5)], replace_before=began)
        assert store.sweep(ACTIVITY, USER, began) == 2000
        found = store.read([Read(key_of(user), ("@key",)) for user in range(2500)])
        assert [row[0] is not None for row in found] == [user % 5 == 0 for user in range(2500)]

    # What is there

    def test_usage_counts_each_view(self, store: OnlineStore) -> None:
        views = {ACTIVITY: USER, SEGMENT: USER, ViewFields(name="other", features=("x",)): ("user_id", "other")}
        assert {name: one.keys for name, one in store.usage(views).views.items()} == dict.fromkeys(
            ("activity", "segment", "other"), 0
        )
        store.begin()
        store.write([activity(user) for user in range(1200)])
        store.write([segment(user) for user in ("a:b", "*", 1, 2)])
        other = entity_key(("user_id", "other"), ["1", "2"])
        store.write([RowWrite(other, ViewFields(name="other", features=("x",)), at(0), "-", ('"long" ',))])
        usage = store.usage(views)
        assert {name: one.keys for name, one in usage.views.items()} == {"activity": 1200, "segment": 4, "other": 1}
        assert usage.exact
        assert usage.problems == ()
        sizes = {name: one.bytes or 0 for name, one in usage.views.items()}
        texts = sum(len(text) for field, text in _cells(activity(1)).items() for text in (field, text))
        assert sizes["activity"] > 1200 * texts > sizes["segment"] > sizes["other"] > 0
        store.sweep(ACTIVITY, USER, NEVER)
        assert store.usage(views).views["activity"] == ViewUsage(keys=0, bytes=0)

    def test_usage_gives_up_in_time(self, store: OnlineStore) -> None:
        store.write([activity(user) for user in range(3000)])
        usage = store.usage({ACTIVITY: USER}, seconds=0)
        assert usage.exact or 0 < (usage.views["activity"].keys or 0) < 6000

    # The meta record

    def test_a_store_that_holds_something_was_not_empty(self, store: OnlineStore) -> None:
        store.write([activity(1)])
        assert not store.begin().was_empty
        assert not store.begin().was_empty

    def test_begin_makes_the_record_once(self, store: OnlineStore) -> None:
        first, second = store.begin(), store.begin()
        assert first.meta == second.meta == store.meta()
        assert first.meta.format == FORMAT
        assert first.meta.views == {}
        assert len(first.meta.lifetime) >= 16
        assert first.now <= second.now
        assert len(first.now) == 27

    def test_the_stores_time_is_utc(self, store: OnlineStore) -> None:
        now = datetime.fromisoformat(store.begin().now)
        assert abs(now - datetime.now(UTC)) < timedelta(minutes=1)

    def test_complete_a_full_run(self, store: OnlineStore) -> None:
        lifetime = store.begin().meta.lifetime
        assert store.complete("activity", _mark("a", 5), lifetime=lifetime, base=None)
        assert store.complete("segment", _mark("b", 6), lifetime=lifetime, base=None)
        meta = store.meta()
        assert meta is not None
        assert meta.views == {"activity": _mark("a", 5), "segment": _mark("b", 6)}
        assert meta.lifetime == lifetime
        assert self.raw_get(store, "@meta")["activity"] == f"a|{at(5)}"

    def test_a_full_run_replaces_the_record(self, store: OnlineStore) -> None:
        lifetime = store.begin().meta.lifetime
        store.complete("activity", _mark("a", 5), lifetime=lifetime, base=None)
        assert store.complete("activity", _mark("b", 3), lifetime=lifetime, base=None)
        assert self._view(store) == _mark("b", 3)

    @pytest.mark.parametrize(
        ("base", "new", "after"),
        [
            pytest.param(5, ("a", 7), ("a", 7), id="up from the base"),
            pytest.param(4, ("a", 7), ("a", 7), id="another run had moved it up, this one moves it further"),
            pytest.param(4, ("a", 4.5), ("a", 5), id="never down"),
            pytest.param(5, ("a", 5), ("a", 5), id="no move"),
            pytest.param(6, ("a", 7), ("a", 5), id="a full run took it below the base"),
            pytest.param(5, ("b", 7), ("a", 5), id="another schema"),
        ],
    )
    def test_an_incremental_run_moves_the_watermark(
        self, store: OnlineStore, base: float, new: tuple[str, float], after: tuple[str, float]
    ) -> None:
        lifetime = store.begin().meta.lifetime
        store.complete("activity", _mark("a", 5), lifetime=lifetime, base=None)
        assert store.complete("activity", _mark(*new), lifetime=lifetime, base=at(base))
        assert self._view(store) == _mark(*after)

    def test_a_flush_in_the_middle_of_a_run(self, store: OnlineStore) -> None:
        lifetime = store.begin().meta.lifetime
        store.write([activity(1)])
        self.raw_delete_all(store)
        assert store.read([Read(key_of(1), ("watch_count",))]) == [[None]]
        assert store.meta() is None
        assert not store.complete("activity", _mark("a", 5), lifetime=lifetime, base=None)
        assert store.meta() is None
        again = store.begin().meta
        assert again.lifetime != lifetime
        assert not store.complete("activity", _mark("a", 5), lifetime=lifetime, base=at(5))
        assert store.meta() == again

    def test_another_format_is_refused(self, store: OnlineStore) -> None:
        lifetime = store.begin().meta.lifetime
        self.raw_set(store, "@meta", "@format", str(FORMAT + 1))
        calls: list[Callable[[], object]] = [
            store.meta,
            store.begin,
            lambda: store.write([activity(1)]),
            lambda: store.complete("activity", _mark("a", 5), lifetime=lifetime, base=None),
        ]
        for call in calls:
            with pytest.raises(FormatError, match=f"format {FORMAT + 1}"):
                call()
        assert self.raw_get(store, key_of(1)) == {}

    def test_a_sweep_refuses_another_format(self, store: OnlineStore) -> None:
        store.begin()
        store.write([activity(1)])
        self.raw_set(store, "@meta", "@format", str(FORMAT + 1))
        with pytest.raises(FormatError):
            store.sweep(ACTIVITY, USER, NEVER)
        assert self.raw_get(store, key_of(1))

    # Expiry

    def test_a_key_expires_after_its_last_view(self, store: OnlineStore) -> None:
        if not self.expires:
            assert store.write([activity(1)], ttls={"activity": timedelta(days=1)}).written == 1
            return
        far = (datetime.now(UTC) + timedelta(days=400) - START).total_seconds() // 1
        day = timedelta(days=1)
        ttls = {"activity": 3 * day, "segment": 7 * day, "absent": 99 * day}
        store.write([activity(1, far + 0.25)], ttls=ttls)
        assert self.raw_expiry(store, key_of(1)) == _epoch(far + 1) + 4 * 86400
        store.write([segment(1, far - 86400)], ttls=ttls)
        assert self.raw_expiry(store, key_of(1)) == _epoch(far) + 7 * 86400
        store.write([activity(1, far + 5 * 86400)], ttls=ttls | {"activity": timedelta(microseconds=1)})
        assert self.raw_expiry(store, key_of(1)) == _epoch(far) + 7 * 86400
        store.write([segment(1, far)])
        assert self.raw_expiry(store, key_of(1)) is None

    def test_columns_set_the_expiry_and_take_it_away(self, store: OnlineStore) -> None:
        if not self.expires:
            return
        far = (datetime.now(UTC) + timedelta(days=400) - START).total_seconds() // 1
        ttls = {"activity": timedelta(days=2)}
        store.write_columns(in_columns([activity(1, far), activity(2, far)]), ttls=ttls)
        assert self.raw_expiry(store, key_of(1)) == _epoch(far) + 3 * 86400
        store.write_columns(in_columns([activity(1, far)]), ttls={"activity": timedelta(0)})
        assert self.raw_expiry(store, key_of(1)) == _epoch(far) + 86400
        store.write_columns(in_columns([activity(1, far + 1), activity(2, far), activity(3, far)]))
        assert [self.raw_expiry(store, key_of(user)) for user in (1, 2, 3)] == [None] * 3

    def test_a_skipped_row_too_sets_the_expiry(self, store: OnlineStore) -> None:
        if self.expires:
            far = (datetime.now(UTC) + timedelta(days=400) - START).total_seconds() // 1
            store.write([activity(1, far)])
            assert store.write([activity(1, far)], ttls={"activity": timedelta(0)}).skipped == 1
            assert self.raw_expiry(store, key_of(1)) == _epoch(far) + 86400

    # Threads, forks, closing

    def test_many_threads_at_once(self, store: OnlineStore) -> None:
        users = 16
        store.write([activity(user, count=user) for user in range(users)])
        problems: list[object] = []

        def read(user: int) -> None:
            for turn in range(50):
                found = store.read([Read(key_of(user), ("watch_count", "@key"))], timeout=10)
                if found != [[str(user), key_of(user)]]:
                    problems.append(found)
                if turn % 25 == 0:
                    store.write([segment(user, turn)])

        _in_threads([lambda user=user: read(user) for user in range(users)], problems)
        assert problems == []

    def test_a_forked_child_reads_and_writes(self, store: OnlineStore) -> None:
        if not hasattr(os, "fork"):
            return
        store.write([activity(user, count=user) for user in range(20)])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            child = os.fork()
        if child == 0:
            try:
                store.write([segment("child")])
                os._exit(_misread(store))
            finally:
                os._exit(99)
        assert _misread(store) == 0
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
        assert store.read([Read(key_of("child"), ("user_segment",))]) == [['"casual"']]

    def test_a_closed_store_can_be_used_again(self, store: OnlineStore) -> None:
        store.close()
        store.write([segment(1)])
        store.close()
        store.close()
        assert store.read([Read(key_of(1), ("user_segment",))]) == [['"casual"']]

    def test_part_of_a_key_is_another_key(self, store: OnlineStore) -> None:
        store.write([segment("12")])
        assert store.read([Read(key_of("1"), ("@key",)), Read(key_of("123"), ("@key",))]) == [[None], [None]]

    # Asynchronous reading

    def test_the_async_store_reads_the_same(self, store: OnlineStore, async_store: AsyncOnlineStore) -> None:
        reads = [Read(key_of(user), ("watch_count", "@activity", "user_segment", "@key")) for user in range(5)]
        assert _run(async_store, async_store.meta) is None
        assert _run(async_store, lambda: async_store.read(reads)) == [[None] * 4] * 5
        store.begin()
        store.write([activity(user, count=user) for user in range(3)])
        assert _run(async_store, lambda: async_store.read(reads)) == store.read(reads)
        assert _run(async_store, lambda: async_store.read([])) == []
        assert _run(async_store, async_store.meta) == store.meta()

    def test_the_async_store_refuses_what_is_not_right(self, store: OnlineStore, async_store: AsyncOnlineStore) -> None:
        store.begin()
        store.write([segment(1)])
        self.raw_set(store, key_of(1), "@key", key_of(2))
        with pytest.raises(EntityMismatchError):
            _run(async_store, lambda: async_store.read([Read(key_of(1), ("user_segment",))]))
        self.raw_set(store, "@meta", "@format", str(FORMAT + 1))
        with pytest.raises(FormatError):
            _run(async_store, async_store.meta)

    def test_many_tasks_at_once(self, store: OnlineStore, async_store: AsyncOnlineStore) -> None:
        users = range(200)
        store.write([activity(user, count=user) for user in users])

        async def read(user: int) -> list[list[str | None]]:
            return await async_store.read([Read(key_of(user), ("watch_count",))], timeout=10)

        async def read_all() -> Sequence[list[list[str | None]]]:
            return await asyncio.gather(*map(read, users))

        assert _run(async_store, read_all) == [[[str(user)]] for user in users]

    def test_a_cancelled_read_harms_no_other(self, store: OnlineStore, async_store: AsyncOnlineStore) -> None:
        users = 20
        store.write([activity(user, count=user) for user in range(users)])

        async def read(user: int) -> list[list[str | None]]:
            return await async_store.read([Read(key_of(user), ("watch_count",))], timeout=10)

        async def read_all() -> list[object]:
            wrong: list[object] = []
            for turn in range(100):
                task = asyncio.ensure_future(read(turn % users))
                for _ in range(turn % 7):
                    await asyncio.sleep(0)
                task.cancel()
                found = await read((turn + 1) % users)
                if found != [[str((turn + 1) % users)]]:
                    wrong.append(found)
                await asyncio.gather(task, return_exceptions=True)
            return wrong

        assert _run(async_store, read_all) == []

    # What the tests look with

    def _held(self, store: OnlineStore, key: str) -> dict[str, str]:
        """A key's fields, without its name and without when each row was written."""
        held = self.raw_get(store, key)
        held.pop("@key", None)
        return {field: value[:-28] if field.startswith("@") else value for field, value in held.items()}

    def _written(self, store: OnlineStore, key: str, view: str) -> str:
        return split_stamp(self.raw_get(store, key)[f"@{view}"])[2]

    def _view(self, store: OnlineStore) -> ViewMeta:
        meta = store.meta()
        assert meta is not None
        return meta.views["activity"]


def _cells(row: RowWrite) -> dict[str, str]:
    """What `OnlineStoreTests._held` sees of a row."""
    return {f"@{row.view.name}": f"{row.event}|{row.created}"} | dict(zip(row.view.features, row.values, strict=True))


def _misread(store: OnlineStore) -> int:
    """How many of 20 users, read 5 times, came back wrong."""
    reads = [(user, [Read(key_of(user), ("watch_count",))]) for user in [*range(20)] * 5]
    return sum(store.read(read, timeout=10) != [[str(user)]] for user, read in reads)


def _mark(schema_hash: str, seconds: float) -> ViewMeta:
    return ViewMeta(schema_hash=schema_hash, watermark=at(seconds))


def _epoch(seconds: float) -> int:
    return microseconds(START + timedelta(seconds=seconds)) // 1_000_000


def _run(store: AsyncOnlineStore, call: Callable[[], Awaitable[T]]) -> T:
    async def call_and_close() -> T:
        try:
            return await call()
        finally:
            await store.aclose()

    return asyncio.run(call_and_close())


def _in_threads(calls: Sequence[Callable[[], Any]], problems: list[object]) -> None:
    def run(call: Callable[[], Any]) -> None:
        try:
            call()
        except BaseException as error:  # noqa: BLE001 - a thread's error must fail the test, whatever it is
            problems.append(error)

    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    deadline = time.monotonic() + 60
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    assert not any(thread.is_alive() for thread in threads), "threads still run after a minute"
