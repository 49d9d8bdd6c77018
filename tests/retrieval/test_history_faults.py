"""The laws of history with documents see planted faults: each is planted, and random worlds must find it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import Phase, given, settings

from llmfeatures import historical_documents as historical
from llmfeatures.historical_documents import HistoricalDocuments
from llmfeatures.retrieval.embedded import EmbeddedStore
from tests.retrieval import test_history, test_timeline
from tests.retrieval.test_history import QUIET
from tests.retrieval.world import World, worlds

US = timedelta(microseconds=1)


def searched_late(patch: pytest.MonkeyPatch) -> None:
    """Documents are those of a microsecond later."""
    inner = HistoricalDocuments._search

    def search(self: Any, plan: Any, block: Any) -> None:
        asked = [row.asked for row in block]
        for row in block:
            row.asked = row.asked._replace(at=row.asked.at + US)
        inner(self, plan, block)
        for row, one in zip(block, asked, strict=True):
            row.asked = one

    patch.setattr(HistoricalDocuments, "_search", search)


def brought_late(patch: pytest.MonkeyPatch) -> None:
    """The features that documents bring are those of a microsecond later."""
    inner = historical.slots_at

    def slots_at(offline: Any, plan: Any, rows: Any, moments: Any, clock: Any) -> Any:
        return inner(offline, plan, rows, [one + US for one in moments], clock)

    patch.setattr(historical, "slots_at", slots_at)


def mixed_up(patch: pytest.MonkeyPatch) -> None:
    """Rows have each other's documents."""
    inner = EmbeddedStore.search

    def search(self: Any, queries: Any, **options: Any) -> Any:
        found = inner(self, queries, **options)
        place = {query.entity: number for number, query in enumerate(queries)}
        return [found[place[query.entity]] for query in queries]

    patch.setattr(EmbeddedStore, "search", search)


def no_boundaries(patch: pytest.MonkeyPatch) -> None:
    """The index does not say when documents change."""
    patch.setattr(EmbeddedStore, "boundaries", lambda *_: [])


def nothing_brought(patch: pytest.MonkeyPatch) -> None:
    """Nobody looks at when the features that documents bring change."""
    patch.setattr(HistoricalDocuments, "brought_keys", lambda *_: [])


LAWS: dict[str, tuple[Callable[[World], None], list[Callable[[pytest.MonkeyPatch], None]]]] = {
    "rule": (test_history.check_rule, [searched_late, mixed_up]),
    "parity": (test_history.check_parity, [searched_late, brought_late, mixed_up]),
    "timeline": (test_timeline.check, [no_boundaries, nothing_brought]),
}


@pytest.mark.heavy
@pytest.mark.timeout(1200)
@pytest.mark.parametrize(
    ("law", "fault"),
    [pytest.param(law, one, id=f"{law}-{one.__name__}") for law, (_, all_) in LAWS.items() for one in all_],
)
def test_random_worlds_see_a_planted_fault(law: str, fault: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    fault(monkeypatch)

    @settings(max_examples=400, deadline=None, database=None, phases=[Phase.generate], suppress_health_check=QUIET)
    @given(world=worlds(dated=law != "timeline"))
    def holds(world: World) -> None:
        LAWS[law][0](world)

    with pytest.raises(AssertionError):
        holds()
