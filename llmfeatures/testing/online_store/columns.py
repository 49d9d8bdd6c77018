"""Writing columns."""

from __future__ import annotations

import pytest

from llmfeatures.codec import FORMAT
from llmfeatures.errors import FormatError
from llmfeatures.ports import (
    OnlineStore,
    Read,
    RowWrite,
    Written,
)
from llmfeatures.testing.online_store.rows import (
    NEVER,
    ORDER,
    activity,
    cells,
    in_columns,
    key_of,
    segment,
)
from llmfeatures.testing.online_store.store import StoreTests


class ColumnTests(StoreTests):
    """Writing columns."""

    # Writing: columns

    @pytest.mark.parametrize(("stored", "new", "wins"), [one[1:] for one in ORDER], ids=[one[0] for one in ORDER])
    def test_newest_wins_in_columns(self, store: OnlineStore, stored: RowWrite, new: RowWrite, wins: bool) -> None:
        assert store.write_columns(in_columns([stored])) == Written(written=1, skipped=0)
        assert store.write_columns(in_columns([new])) == Written(written=int(wins), skipped=int(not wins))
        assert self._held(store, stored.key) == cells(new if wins else stored)
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
            cells(row) | (cells(segment(user)) if turn % 2 == 0 else {})
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
        assert self._held(store, key_of(1)) == cells(rows[1])
        began = store.begin().now
        store.write_columns(in_columns([activity(1, event, count=event) for event in (0, 2, 1)]), replace_before=began)
        assert self._held(store, key_of(1)) == cells(activity(1, 2, count=2))

    def test_replace_before_in_columns(self, store: OnlineStore) -> None:
        store.write([activity(1, 9, count=9), activity(2, 1)])
        began = store.begin().now
        store.write([activity(3, 9)])
        rows = [activity(1, 1), activity(2, 1), activity(3, 1)]
        assert store.write_columns(in_columns(rows), replace_before=began) == Written(written=2, skipped=1)
        assert self._held(store, key_of(1)) == cells(activity(1, 1))
        assert self._held(store, key_of(3)) == cells(activity(3, 9))
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
