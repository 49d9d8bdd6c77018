"""The contract of document stores for databases on a network; its slow parts are heavy."""

from __future__ import annotations

from typing import Any, Final

import pytest

from llmfeatures.testing.document_store import AsyncIndexTests, DocumentIndexTests, UnansweredTests

KEPT: Final[dict[str, Any]] = {
    "entity": "=user_id:ana",
    "document": "a",
    "version": "1",
    "text": "Tea",
    "valid_from": 1743631200000000,
    "valid_to": 9007199254740991,
    "m_genre": '"x"',
    "m_stars": "null",
    "m_pinned": "null",
    "m_kind": "null",
    "m_day": "null",
    "m_seen": '"2026-05-07T22:00:00.000000Z"',
    "m_price": "null",
    "m_weight": "null",
    "m_words": '"[\\"b\\",\\"a\\"]"',
    "m_more": "null",
}
"""The fields of a document in format 1: ``note("a", text="Tea", genre="x", seen=NOW, words=["b", "a"])``."""
META: Final[dict[str, Any]] = {
    "format": 1,
    "model": "axes",
    "dimensions": 4,
    "metadata": {
        "genre": "str",
        "stars": "int",
        "pinned": "bool",
        "kind": "enum[memo,letter]",
        "day": "date",
        "seen": "timestamp",
        "price": "decimal(8,2)",
        "weight": "float",
        "words": "list[str]",
        "more": "json",
    },
    "watermark": None,
}
"""What an index says of itself in format 1, before it is complete."""


class RemoteTests(DocumentIndexTests, AsyncIndexTests, UnansweredTests):
    """The contract of document stores, over a network."""

    tier = "filtered"

    @pytest.mark.heavy
    def test_keys_are_those_of_all_records(self) -> None:
        super().test_keys_are_those_of_all_records()

    @pytest.mark.heavy
    def test_removed_records_are_gone(self) -> None:
        super().test_removed_records_are_gone()

    @pytest.mark.heavy
    def test_long_ago_counts_too(self) -> None:
        super().test_long_ago_counts_too()

    @pytest.mark.heavy
    def test_a_forked_child_searches(self) -> None:
        super().test_a_forked_child_searches()

    @pytest.mark.heavy
    def test_many_threads_at_once(self) -> None:
        super().test_many_threads_at_once()

    @pytest.mark.heavy
    def test_many_tasks_at_once(self) -> None:
        super().test_many_tasks_at_once()

    @pytest.mark.heavy
    def test_a_cancelled_search_leaves_nothing_behind(self) -> None:
        super().test_a_cancelled_search_leaves_nothing_behind()

    @pytest.mark.heavy
    def test_a_large_batch_is_each_query_alone(self) -> None:
        super().test_a_large_batch_is_each_query_alone()

    @pytest.mark.heavy
    def test_never_another_entitys_document(self) -> None:
        super().test_never_another_entitys_document()

    @pytest.mark.heavy
    def test_another_store_finds_the_same(self) -> None:
        super().test_another_store_finds_the_same()

    @pytest.mark.heavy
    def test_moments_are_each_querys_own(self) -> None:
        super().test_moments_are_each_querys_own()

    @pytest.mark.heavy
    def test_many_of_one_moment_are_cut_in_the_order_of_ids(self) -> None:
        super().test_many_of_one_moment_are_cut_in_the_order_of_ids()

    @pytest.mark.heavy
    def test_many_ties_are_cut_in_the_order_of_ids(self) -> None:
        super().test_many_ties_are_cut_in_the_order_of_ids()

    @pytest.mark.heavy
    def test_a_closed_store_can_be_used_again(self) -> None:
        super().test_a_closed_store_can_be_used_again()
