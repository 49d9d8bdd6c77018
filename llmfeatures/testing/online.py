"""What an online store must do: the contract of `llmfeatures.ports.OnlineStore` and `AsyncOnlineStore` as tests.

Subclass `OnlineStoreTests`, give the two fixtures and the raw hooks, and run it with pytest against the real component:

    class TestMyStore(OnlineStoreTests):
        @pytest.fixture
        def store(self): ...
"""

from __future__ import annotations

from llmfeatures.testing.online_store.columns import ColumnTests
from llmfeatures.testing.online_store.reading import ReadingTests
from llmfeatures.testing.online_store.rows import (
    ACTIVITY,
    NEVER,
    ORDER,
    SEGMENT,
    USER,
    activity,
    in_columns,
    key_of,
    segment,
)
from llmfeatures.testing.online_store.runs import RunTests
from llmfeatures.testing.online_store.sharing import SharingTests
from llmfeatures.testing.online_store.writing import WritingTests

__all__ = [
    "ACTIVITY",
    "NEVER",
    "ORDER",
    "SEGMENT",
    "USER",
    "OnlineStoreTests",
    "activity",
    "in_columns",
    "key_of",
    "segment",
]


class OnlineStoreTests(ReadingTests, WritingTests, ColumnTests, RunTests, SharingTests):
    """The contract. Every test starts with an empty store."""
