"""The documents of prompts as of other moments than now: many rows together, each at its own moment.

What is searched for, what of it comes into a prompt and how it is rendered is decided where it is decided online: by
`DocumentPlan.search`, `document_plan.chosen` and `PromptPlan.finish`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple, Protocol

from llmfeatures.context import FeatureValue
from llmfeatures.document_plan import (
    FETCHED,
    Brought,
    Chosen,
    DocumentPlan,
    FoundDocument,
    Leg,
    chosen,
    found_documents,
)
from llmfeatures.errors import ConfigError, LLMFeaturesError, RequestError, SourceError
from llmfeatures.finders import Finder
from llmfeatures.ports import ClockName, DocumentQuery, DocumentStore, OfflineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.retriever import Retriever
from llmfeatures.slots import slots_at

_HELD: Final = 50_000
"""So many documents at most are asked for, and held, at a time; rows of a batch beyond them wait."""
_PATIENCE: Final = 60.0, 1.0
"""Seconds that a search of many queries may take: so many, and so many more per query. Nobody waits for an answer."""


class Retrievers(Protocol):
    """What opens retrievers; `retrievers.Retrieving` does."""

    def finder(self, retriever: Retriever) -> Finder:
        """Finds a retriever's documents."""
        ...

    def store(self, retriever: Retriever) -> DocumentStore:
        """Where they are."""
        ...


class AsOfRow(NamedTuple):
    """A row of history: the features of the plan's outputs or refs, canonical keys and inputs, the moment (UTC)."""

    slots: Sequence[FeatureValue]
    keys: Mapping[str, Any]
    inputs: Mapping[str, Any]
    at: datetime


@dataclass(slots=True, kw_only=True)
class RowDocuments:
    """The documents of a row by the prompt's names of them, and what they were taken from, for
    `PromptPlan.retrievals`; or why there is no prompt."""

    documents: list[list[FoundDocument]] = field(default_factory=list[list[FoundDocument]])
    legs: Sequence[Leg] = ()
    chosen: Sequence[Chosen] = ()
    error: LLMFeaturesError | None = None


@dataclass(slots=True, kw_only=True)
class _Row:
    """A row while its documents are looked for; ``brought`` are slots of features by name of documents and entity."""

    asked: AsOfRow
    names: dict[str, Any] | None = None
    legs: dict[str, Leg] = field(default_factory=dict[str, Leg])
    chosen: tuple[Chosen, ...] = ()
    brought: dict[tuple[str, str], list[list[FeatureValue]]] = field(
        default_factory=dict[tuple[str, str], list[list[FeatureValue]]]
    )
    error: LLMFeaturesError | None = None


class HistoricalDocuments:
    """Finds the documents of a prompt's rows of history.

    A retriever that fails fails the whole run, whatever the prompt's policy is: that it is out of order today says
    nothing about the prompt of the time, and rows without documents would look as if there had been none.

    Raises:
        RequestError: a retriever is ``live``, and not ``live``.
        ConfigError: a retriever cannot be opened.
    """

    def __init__(
        self,
        plan: PromptPlan,
        offline: OfflineStore,
        retrievers: Retrievers | None,
        clock: ClockName,
        *,
        live: bool = False,
    ) -> None:
        self._plan, self._offline = plan, offline
        self._clock: ClockName = clock
        if retrievers is None:
            raise ConfigError(f"prompt {plan.name!r} has documents, and there are no retrievers to find them with")
        self._finders = {one.name: retrievers.finder(one.retriever) for one in plan.documents}
        for one in plan.documents:
            if not live and self._finders[one.name].tier == "live":
                cure = (
                    "give it documents with valid_from"
                    if one.retriever.function is None
                    else 'where its function keeps to query.as_of, say tier="exact" or tier="filtered" in the registry'
                )
                raise RequestError(
                    f"documents {one.name!r} of prompt {plan.name!r}: retriever {one.retriever.name!r} is live: it has "
                    f"what is there now, which no prompt of the past could have known; {cure}, "
                    "or take them all the same with --live-documents (in Python live_documents=True, for "
                    "build_context _live_documents=True)"
                )
        self.rows = max(1, _HELD // sum(FETCHED * one.top_k for one in plan.documents))
        """So many rows are found at a time."""

    def found(self, rows: Sequence[AsOfRow]) -> list[RowDocuments]:
        """The documents of each row, `rows` of them together; what is wrong with a row alone is in the row.

        Raises:
            RetrieverError: a retriever or embedder did not do what was asked.
            EntityMismatchError: a document of another entity came back.
            SourceError: a source of a feature that documents bring is not what the registry says.
        """
        made: list[RowDocuments] = []
        for block in self._blocks(rows):
            for place, plan in enumerate(self._plan.documents):
                for one in plan.brought:
                    self._bring(place, plan, one, block)
            made.extend(map(self._made, block))
        return made

    def brought_keys(self, rows: Sequence[AsOfRow]) -> list[tuple[Brought, list[dict[str, Any]]]]:
        """Whose features the documents of any of the rows bring, each once. Raises as `found`."""
        seen: dict[tuple[int, int], dict[tuple[Any, ...], dict[str, Any]]] = {}
        for block in self._blocks(rows):
            for row in _sound(block):
                for place, plan in enumerate(self._plan.documents):
                    for number, one in enumerate(plan.brought):
                        for keys in map(one.keys, row.chosen[place].documents):
                            seen.setdefault((place, number), {})[*keys.values()] = keys
        return [
            (self._plan.documents[place].brought[number], list(keys.values())) for (place, number), keys in seen.items()
        ]

    def _blocks(self, rows: Sequence[AsOfRow]) -> Iterator[list[_Row]]:
        """The rows, with what of the documents comes into their prompts."""
        for start in range(0, len(rows), self.rows):
            block = [_Row(asked=one) for one in rows[start : start + self.rows]]
            for plan in self._plan.documents:
                self._search(plan, block)
            for row in _sound(block):
                row.chosen = chosen(self._plan.documents, [row.legs[one.name] for one in self._plan.documents])
            yield block

    def _search(self, plan: DocumentPlan, block: Sequence[_Row]) -> None:
        """Search for one name of documents, once for all rows; rows that ask the same ask together."""
        queries: dict[tuple[Any, ...], DocumentQuery] = {}
        asking: list[tuple[_Row, tuple[Any, ...]]] = []
        for row in _sound(block):
            try:
                query = plan.search(self._names(plan, row), row.asked.keys, row.asked.at)
            except LLMFeaturesError as error:
                row.error = error
                continue
            if query is None:
                row.legs[plan.name] = Leg((), None, skipped=True)
                continue
            same = query.entity, query.text, query.as_of, *query.filter.values()
            queries.setdefault(same, query)
            asking.append((row, same))
        if not queries:
            return
        finder = self._finders[plan.name]
        found = finder.find(list(queries.values()), _PATIENCE[0] + _PATIENCE[1] * len(queries))
        answers = dict(zip(queries, found, strict=True))
        for row, same in asking:
            row.legs[plan.name] = Leg(answers[same], finder.tier)

    def _names(self, plan: DocumentPlan, row: _Row) -> dict[str, Any]:
        """What a query may read, by the names that templates use: as online, features only where they are needed."""
        asked = row.asked
        if not plan.waits:
            return {**asked.inputs, **asked.keys}
        if row.names is None:
            _, values = self._plan.values(asked.slots, asked.keys, asked.inputs, asked.at)
            row.names = self._plan.named(values)
        return row.names

    def _bring(self, place: int, plan: DocumentPlan, brought: Brought, block: Sequence[_Row]) -> None:
        """Join the features of one entity that one name of documents brings, each document at the moment of its row."""
        owners = [(row, one) for row in _sound(block) for one in row.chosen[place].documents]
        if not owners:
            return
        found = slots_at(
            self._offline,
            brought.features,
            [brought.keys(one) for _, one in owners],
            [row.asked.at for row, _ in owners],
            self._clock,
        )
        for number, (row, _) in enumerate(owners):
            row.brought.setdefault((plan.name, brought.entity), []).append(found.slots[number])
            if number in found.errors:
                row.error = SourceError(f"documents {plan.name!r}: {found.errors[number]}")

    def _made(self, row: _Row) -> RowDocuments:
        plans = self._plan.documents
        if row.error is not None:
            return RowDocuments(error=row.error)
        asked = row.asked
        try:
            documents = [
                found_documents(
                    plan,
                    made.documents,
                    row.legs[plan.name].tier,
                    {one.entity: row.brought.get((plan.name, one.entity), []) for one in plan.brought},
                    asked.inputs,
                    asked.at,
                )
                for plan, made in zip(plans, row.chosen, strict=True)
            ]
        except LLMFeaturesError as error:
            return RowDocuments(error=error)
        return RowDocuments(
            documents=documents,
            legs=[row.legs[one.name] for one in plans],
            chosen=row.chosen,
        )


def _sound(block: Sequence[_Row]) -> Iterator[_Row]:
    return (row for row in block if row.error is None)


DocumentsOf = Callable[[PromptPlan], HistoricalDocuments | None]
"""What finds the documents of a prompt's rows; None for a prompt without."""


def documents_of(
    plan: PromptPlan,
    offline: OfflineStore,
    retrievers: Retrievers | None,
    clock: ClockName,
    *,
    live: bool = False,
) -> HistoricalDocuments | None:
    """What finds the documents of a prompt's rows; None for a prompt without. Raises as `HistoricalDocuments`."""
    return HistoricalDocuments(plan, offline, retrievers, clock, live=live) if plan.documents else None
