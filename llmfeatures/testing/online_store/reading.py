"""Reading."""

from __future__ import annotations

import pytest

from llmfeatures.errors import EntityMismatchError
from llmfeatures.ports import (
    OnlineStore,
    Read,
)
from llmfeatures.testing.online_store.rows import (
    activity,
    key_of,
    segment,
)
from llmfeatures.testing.online_store.store import StoreTests


class ReadingTests(StoreTests):
    """Reading."""

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
