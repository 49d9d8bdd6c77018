"""Full runs, sweeping, what is there, and the meta record."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

import pytest

from llmfeatures.codec import FORMAT, entity_key
from llmfeatures.errors import FormatError
from llmfeatures.ports import (
    OnlineStore,
    Read,
    RowWrite,
    ViewFields,
    ViewUsage,
    Written,
)
from llmfeatures.testing.online_store.rows import (
    ACTIVITY,
    NEVER,
    SEGMENT,
    USER,
    activity,
    at,
    cells,
    key_of,
    mark,
    segment,
)
from llmfeatures.testing.online_store.store import StoreTests


class RunTests(StoreTests):
    """Full runs, sweeping, what is there, and the meta record."""

    # Writing: a full run

    def test_replace_before_beats_what_was_written_before(self, store: OnlineStore) -> None:
        store.write([activity(1, 9, count=9), activity(2, 1)])
        began = store.begin().now
        rows = [activity(1, 1), activity(2, 1)]
        assert store.write(rows, replace_before=began) == Written(written=2, skipped=0)
        assert self._held(store, key_of(1)) == cells(activity(1, 1))
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
        assert self._held(store, key_of(1)) == cells(activity(1, 3))

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
        assert self._held(store, key_of(2)) == cells(activity(2))
        assert self._held(store, key_of(3)) == cells(activity(3, 1))
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
        assert all(self._held(store, key) == cells(activity(1)) for key in others)
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
        texts = sum(len(text) for field, text in cells(activity(1)).items() for text in (field, text))
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
        assert store.complete("activity", mark("a", 5), lifetime=lifetime, base=None)
        assert store.complete("segment", mark("b", 6), lifetime=lifetime, base=None)
        meta = store.meta()
        assert meta is not None
        assert meta.views == {"activity": mark("a", 5), "segment": mark("b", 6)}
        assert meta.lifetime == lifetime
        assert self.raw_get(store, "@meta")["activity"] == f"a|{at(5)}"

    def test_a_full_run_replaces_the_record(self, store: OnlineStore) -> None:
        lifetime = store.begin().meta.lifetime
        store.complete("activity", mark("a", 5), lifetime=lifetime, base=None)
        assert store.complete("activity", mark("b", 3), lifetime=lifetime, base=None)
        assert self._view(store) == mark("b", 3)

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
        store.complete("activity", mark("a", 5), lifetime=lifetime, base=None)
        assert store.complete("activity", mark(*new), lifetime=lifetime, base=at(base))
        assert self._view(store) == mark(*after)

    def test_a_flush_in_the_middle_of_a_run(self, store: OnlineStore) -> None:
        lifetime = store.begin().meta.lifetime
        store.write([activity(1)])
        self.raw_delete_all(store)
        assert store.read([Read(key_of(1), ("watch_count",))]) == [[None]]
        assert store.meta() is None
        assert not store.complete("activity", mark("a", 5), lifetime=lifetime, base=None)
        assert store.meta() is None
        again = store.begin().meta
        assert again.lifetime != lifetime
        assert not store.complete("activity", mark("a", 5), lifetime=lifetime, base=at(5))
        assert store.meta() == again

    def test_another_format_is_refused(self, store: OnlineStore) -> None:
        lifetime = store.begin().meta.lifetime
        self.raw_set(store, "@meta", "@format", str(FORMAT + 1))
        calls: list[Callable[[], object]] = [
            store.meta,
            store.begin,
            lambda: store.write([activity(1)]),
            lambda: store.complete("activity", mark("a", 5), lifetime=lifetime, base=None),
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
