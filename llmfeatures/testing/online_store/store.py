"""What each part of the contract of an online store needs: a store, and ways to look past it."""

from __future__ import annotations

import pytest

from llmfeatures.codec import split_stamp
from llmfeatures.ports import (
    AsyncOnlineStore,
    OnlineStore,
    ViewMeta,
)


class StoreTests:
    """Every test starts with an empty store."""

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
