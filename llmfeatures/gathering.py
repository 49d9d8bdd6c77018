"""What a prompt with documents reads online, and in which order: a generator of stages that a sync and an async shell
drive. Pure.

Of one stage all parts are read at the same time: features beside the searches that need none of them; then the
searches that do; then the features that documents bring.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

from llmfeatures.context import FeatureValue, Retrieval
from llmfeatures.document_plan import Brought, Chosen, DocumentPlan, FoundDocument, Leg, chosen, found_documents
from llmfeatures.errors import FeatureNotPresentError, RenderError
from llmfeatures.plan import FeaturePlan, ReadResult
from llmfeatures.ports import Document, DocumentQuery
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.retriever import Tier

Call = tuple[dict[str, Any], dict[str, Any]]
"""One row of a call: canonical join keys and inputs."""


class FeatureRead(NamedTuple):
    """Features to read, a row per row of encoded entity keys; the answer is a `ReadResult`. ``name`` is the leg's."""

    name: str
    plan: FeaturePlan
    rows: list[list[str | None]]


class Search(NamedTuple):
    """Searches of one retriever: the answer is a `SearchResult` with a list per query. ``name`` is the leg's."""

    name: str
    plan: DocumentPlan
    queries: list[DocumentQuery]


class SearchResult(NamedTuple):
    """What a retriever found, or None and the ``problem`` where it failed or was late."""

    documents: list[list[Document]] | None
    tier: Tier | None
    problem: str | None = None


class Answer(NamedTuple):
    """What became of a part of a stage, and how many milliseconds it took."""

    found: Any
    milliseconds: float


Stage = list[FeatureRead | Search]
"""What is read at the same time; its answer is a list of `Answer`, in order."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gathered:
    """All that a call read. Per row: its slots, and of each name of documents what the prompt has of it."""

    slots: list[list[FeatureValue]]
    documents: list[list[list[FoundDocument]]]
    retrievals: list[dict[str, Retrieval]]
    as_of: datetime
    problem: str | None
    timings: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(slots=True, kw_only=True)
class _Row:
    """One row of a call while it is gathered; ``brought`` are the slots of features by name of documents and entity."""

    keys: Mapping[str, Any]
    inputs: Mapping[str, Any]
    slots: list[FeatureValue] = field(default_factory=list[FeatureValue])
    legs: dict[str, Leg] = field(default_factory=dict[str, Leg])
    chosen: tuple[Chosen, ...] = ()
    brought: dict[tuple[str, str], list[list[FeatureValue]]] = field(
        default_factory=dict[tuple[str, str], list[list[FeatureValue]]]
    )


def gather(plan: PromptPlan, calls: Sequence[Call], as_of: datetime) -> Generator[Stage, list[Answer], Gathered]:
    """The stages of a call of a prompt with documents.

    ``as_of`` is the clock before the first read. Should a feature that is read be newer, as a writer's clock may have
    it, then that is the moment, and what was searched for before is searched for again.

    Raises:
        RenderError: a query cannot be rendered, or its features have no value by a policy that is an error.
        DocumentsUnavailableError: a retriever failed, and the prompt's policy for it is an error.
    """
    return _Gathering(plan, calls, as_of).stages()


def tell(error: RenderError, problem: str | None, number: int | None) -> None:
    """Put into an error why a feature was unavailable, and which row of a call it was."""
    if isinstance(error, FeatureNotPresentError) and error.status == "unavailable" and problem is not None:
        error.problem = problem
        error.args = (f"{error}. What was wrong: {problem}",)
    if number is not None:
        error.args = (f"row {number}: {error}",)


class _Gathering:
    def __init__(self, plan: PromptPlan, calls: Sequence[Call], as_of: datetime) -> None:
        self.plan, self.as_of = plan, as_of
        self.rows = [_Row(keys=keys, inputs=inputs) for keys, inputs in calls]
        self.timings: dict[str, float] = {}
        self.problem: str | None = None
        self.newest = as_of
        self.early = [one for one in plan.documents if not one.waits]
        self.late = [one for one in plan.documents if one.waits]

    def stages(self) -> Generator[Stage, list[Answer], Gathered]:
        features = self.plan.features
        first = FeatureRead("features", features, [features.entity_keys(row.keys) for row in self.rows])
        reads = [first] if features.refs else []
        searches = self._searches(self.early, with_features=False)
        stage = [*reads, *searches]
        answers = (yield stage) if stage else []
        if reads:
            for row, slots in zip(self.rows, self._read(first, answers[0]), strict=True):
                row.slots = slots
        self._take(searches, answers[len(reads) :])
        while True:  # searches that are late end it, since they bring nothing
            if self.newest > self.as_of:
                self.as_of = self.newest
                searches = self._searches(self.early, with_features=False)
                self._take(searches, (yield [*searches]) if searches else [])
            searches = self._searches(self.late, with_features=True)
            self._take(searches, (yield [*searches]) if searches else [])
            for number, row in enumerate(self.rows):
                with self._told(number):
                    row.chosen = chosen(self.plan.documents, [row.legs[one.name] for one in self.plan.documents])
            bringing = self._bringing()
            if bringing:
                self._bring(bringing, (yield [read for read, _ in bringing]))
            if self.newest <= self.as_of:
                return self._gathered()

    def _searches(self, plans: Sequence[DocumentPlan], *, with_features: bool) -> list[Search]:
        """The searches for these documents; what has nothing to search for is noted as such."""
        queries: dict[str, list[DocumentQuery]] = {plan.name: [] for plan in plans}
        for number, row in enumerate(self.rows if plans else ()):
            with self._told(number):
                values = self._names(row, with_features=with_features)
                for plan in plans:
                    query = plan.search(values, row.keys, self.as_of)
                    if query is None:
                        row.legs[plan.name] = Leg((), None, skipped=True)
                    else:
                        row.legs.pop(plan.name, None)
                        queries[plan.name].append(query)
        return [Search(plan.name, plan, queries[plan.name]) for plan in plans if queries[plan.name]]

    @contextmanager
    def _told(self, number: int) -> Generator[None]:
        try:
            yield
        except RenderError as error:
            tell(error, self.problem, number if len(self.rows) > 1 else None)
            raise

    def _names(self, row: _Row, *, with_features: bool) -> dict[str, Any]:
        if not with_features:
            return {**row.inputs, **row.keys}
        _, values = self.plan.values(row.slots, row.keys, row.inputs, self.as_of)
        return self.plan.named(values)

    def _take(self, searches: Sequence[Search], answers: Sequence[Answer]) -> None:
        for search, answer in zip(searches, answers, strict=True):
            self._time(search.name, answer)
            result: SearchResult = answer.found
            waiting = iter(result.documents or ())
            for row in self.rows:
                if search.name not in row.legs or not row.legs[search.name].skipped:
                    documents = None if result.documents is None else next(waiting)
                    row.legs[search.name] = Leg(documents, result.tier, result.problem)

    def _read(self, read: FeatureRead, answer: Answer) -> list[list[FeatureValue]]:
        self._time(read.name, answer)
        result: ReadResult = answer.found
        self.problem = self.problem or result.problem
        if result.newest is not None and result.newest > self.newest:
            self.newest = result.newest
        return result.slots

    def _time(self, name: str, answer: Answer) -> None:
        self.timings[name] = round(self.timings.get(name, 0.0) + answer.milliseconds, 3)

    def _bringing(self) -> list[tuple[FeatureRead, tuple[int, Brought]]]:
        """The reads of features that documents bring: one per name and entity, with a row per document of every row."""
        reads: list[tuple[FeatureRead, tuple[int, Brought]]] = []
        for place, plan in enumerate(self.plan.documents):
            for one in plan.brought:
                keys = [
                    one.features.entity_keys(one.keys(document))
                    for row in self.rows
                    for document in row.chosen[place].documents
                ]
                if keys:
                    reads.append((FeatureRead(f"{plan.name}.{one.entity}", one.features, keys), (place, one)))
        return reads

    def _bring(self, reads: Sequence[tuple[FeatureRead, tuple[int, Brought]]], answers: Sequence[Answer]) -> None:
        for (read, (place, one)), answer in zip(reads, answers, strict=True):
            slots = iter(self._read(read, answer))
            for row in self.rows:
                name = self.plan.documents[place].name
                row.brought[name, one.entity] = [next(slots) for _ in row.chosen[place].documents]

    def _gathered(self) -> Gathered:
        plans = self.plan.documents
        return Gathered(
            slots=[row.slots for row in self.rows],
            documents=[
                [
                    found_documents(
                        plan,
                        made.documents,
                        row.legs[plan.name].tier,
                        {one.entity: row.brought.get((plan.name, one.entity), []) for one in plan.brought},
                        row.inputs,
                        self.as_of,
                    )
                    for plan, made in zip(plans, row.chosen, strict=True)
                ]
                for row in self.rows
            ],
            retrievals=[self.plan.retrievals([row.legs[one.name] for one in plans], row.chosen) for row in self.rows],
            as_of=self.as_of,
            problem=self.problem,
            timings=self.timings,
        )
