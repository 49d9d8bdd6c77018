"""What drives the stages of a prompt with documents: one shell that waits, with a thread per search, and one for
asyncio. What a stage reads, it reads at the same time."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import Future
from concurrent.futures import TimeoutError as LateError
from concurrent.futures import wait as wait_for
from contextlib import suppress
from contextvars import ContextVar
from datetime import datetime
from functools import partial
from typing import NamedTuple

from llmfeatures.errors import LLMFeaturesError, RetrieverError
from llmfeatures.finders import AsyncFinder, Finder
from llmfeatures.gathering import Answer, Call, FeatureRead, Gathered, Search, SearchResult, Stage, gather
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.readers import AsyncReader, SyncReader
from llmfeatures.retriever import Retriever, Tier
from llmfeatures.threads import SEARCHES

Finders = Callable[[Retriever], Finder]
"""Opens the finder of a retriever, or gives the one that is open."""
AsyncFinders = Callable[[Retriever], Awaitable[AsyncFinder]]
_LEAST = 0.001
_CLEANING = 0.05
_PREPARING = 30.0
"""Seconds that the first call of a process waits at most for what is loaded before its searches."""


class TracedLeg(NamedTuple):
    """A part of a call as a trace has it: its name, the retriever (None: features), when it began and ended in
    nanoseconds since 1970, and what was wrong."""

    name: str
    retriever: str | None
    began: int
    ended: int
    problem: str | None


LEGS: ContextVar[list[TracedLeg] | None] = ContextVar("llmfeatures_legs", default=None)
"""Where the legs of the calls in this context are listed, for whoever traces them; None: nowhere."""


class _Ready:
    """Which retrievers are prepared in this process, or are being so: each once, and until when calls wait for it."""

    def __init__(self) -> None:
        self._pid, self._known = os.getpid(), list[tuple[Retriever, Future[None], float]]()

    def awaited(self, plan: PromptPlan, begin: Callable[[Retriever], Future[None]]) -> list[Future[None]]:
        """What the retrievers of a plan still load, begun where it was not."""
        if self._pid != (pid := os.getpid()):
            self._pid, self._known = pid, []
        made: list[Future[None]] = []
        for plan_of in plan.documents:
            found = next((one for one in self._known if one[0] is plan_of.retriever), None)
            if found is None:
                found = plan_of.retriever, begin(plan_of.retriever), time.monotonic() + _PREPARING
                self._known.append(found)
            if not found[1].done() and time.monotonic() < found[2]:
                made.append(found[1])
        return made


class SyncGatherer:
    """Drives the stages of a call. Thread-safe; usable after ``fork``."""

    def __init__(self, reader: SyncReader, finders: Finders, timeout: float) -> None:
        self._reader, self._finders, self._timeout = reader, finders, timeout
        self._ready = _Ready()

    def prepare(self, plan: PromptPlan, timeout: float | None) -> None:
        """Load what the retrievers of a prompt need, such as a model, when it is built for the first time in this
        process; whoever comes meanwhile waits too. A call with a ``timeout`` of its own does not wait for that; what
        fails is said by the search."""
        if timeout is None and (preparing := self._ready.awaited(plan, self._begin)):
            wait_for(preparing, _PREPARING)

    def _begin(self, retriever: Retriever) -> Future[None]:
        return SEARCHES.submit((id(self), retriever.name), partial(_prepare, self._finders, retriever))

    def run(self, plan: PromptPlan, calls: Sequence[Call], as_of: datetime, timeout: float | None) -> Gathered:
        """All that the calls read. ``timeout`` (seconds; None: the reader's for features, the retrievers' for searches)
        bounds all of it together.

        Raises:
            RenderError: a query cannot be rendered, or a retriever failed and the prompt's policy is an error.
            EntityMismatchError: an answer belongs to another entity.
        """
        began = time.monotonic()
        stages = gather(plan, calls, as_of)
        try:
            stage = next(stages)
            while True:
                stage = stages.send(self._answers(stage, began, timeout))
        except StopIteration as done:
            return done.value

    def _answers(self, stage: Stage, began: float, timeout: float | None) -> list[Answer]:
        start = time.monotonic()
        deadline = began + (self._timeout if timeout is None else timeout)
        searches = {
            place: SEARCHES.submit((id(self), part.plan.retriever.name), partial(self._search, part, start, deadline))
            for place, part in enumerate(stage)
            if isinstance(part, Search)
        }
        try:
            # while the searches go on
            answers = {
                place: self._read(part, began, timeout)
                for place, part in enumerate(stage)
                if isinstance(part, FeatureRead)
            }
            for place, future in searches.items():
                answers[place] = _ended(stage[place], future, start, deadline)
        finally:
            for future in searches.values():
                future.cancel()
        return _in_order(stage, answers)

    def _read(self, part: FeatureRead, began: float, timeout: float | None) -> Answer:
        start = time.monotonic()
        left = None if timeout is None else max(timeout - (start - began), _LEAST)
        return _answer(self._reader.run(part.plan.read(part.rows), left), start)

    def _search(self, part: Search, start: float, deadline: float) -> Answer:
        tier: Tier | None = None
        try:
            finder = self._finders(part.plan.retriever)
            tier = finder.tier
            found = finder.find(part.queries, max(deadline - time.monotonic(), _LEAST))
        except RetrieverError as error:
            return _answer(SearchResult(None, tier, str(error)), start)
        return _answer(SearchResult(found, tier), start)


def _ended(part: FeatureRead | Search, future: Future[Answer], start: float, deadline: float) -> Answer:
    try:
        future.exception(max(deadline - time.monotonic(), 0.0))
    except LateError:
        return _answer(_late(part), start)
    return future.result()


class AsyncGatherer:
    """`SyncGatherer` for asyncio."""

    def __init__(self, reader: AsyncReader, finders: AsyncFinders, timeout: float) -> None:
        self._reader, self._finders, self._timeout = reader, finders, timeout
        self._ready = _Ready()
        self._preparing: set[asyncio.Task[None]] = set()

    async def prepare(self, plan: PromptPlan, timeout: float | None) -> None:
        """As `SyncGatherer.prepare`."""
        if timeout is None and (preparing := self._ready.awaited(plan, self._begin)):
            waiting = [asyncio.wrap_future(one) for one in preparing]
            try:
                await asyncio.wait(waiting, timeout=_PREPARING)
            finally:
                for one in waiting:
                    one.cancel()

    def _begin(self, retriever: Retriever) -> Future[None]:
        """It goes on when the call that began it is cancelled: others may wait for it."""
        loaded: Future[None] = Future()
        loaded.set_running_or_notify_cancel()
        task = asyncio.ensure_future(self._prepared(retriever))
        self._preparing.add(task)

        def done(_: object) -> None:
            self._preparing.discard(task)
            loaded.set_result(None)

        task.add_done_callback(done)
        return loaded

    async def _prepared(self, retriever: Retriever) -> None:
        with suppress(LLMFeaturesError):
            finder = await self._finders(retriever)
            await asyncio.wrap_future(SEARCHES.submit((id(self), retriever.name), finder.prepare))

    async def run(self, plan: PromptPlan, calls: Sequence[Call], as_of: datetime, timeout: float | None) -> Gathered:
        """As `SyncGatherer.run`."""
        began = time.monotonic()
        stages = gather(plan, calls, as_of)
        try:
            stage = next(stages)
            while True:
                stage = stages.send(await self._answers(stage, began, timeout))
        except StopIteration as done:
            return done.value

    async def _answers(self, stage: Stage, began: float, timeout: float | None) -> list[Answer]:
        start = time.monotonic()
        deadline = began + (self._timeout if timeout is None else timeout)
        reads = [place for place, part in enumerate(stage) if isinstance(part, FeatureRead)]
        inline = reads[0] if reads else None  # a task for each but this one
        tasks: dict[int, asyncio.Task[Answer]] = {
            place: asyncio.ensure_future(
                self._search(part, start, deadline) if isinstance(part, Search) else self._read(part, began, timeout)
            )
            for place, part in enumerate(stage)
            if place != inline
        }
        answers: dict[int, Answer] = {}
        try:
            if inline is not None:
                part = stage[inline]
                assert isinstance(part, FeatureRead)
                answers[inline] = await self._read(part, began, timeout)
                for place in reads[1:]:
                    answers[place] = await tasks[place]
            if waiting := [task for task in tasks.values() if not task.done()]:
                await asyncio.wait(waiting, timeout=max(deadline - time.monotonic(), 0.0))
            for place, task in tasks.items():
                answers[place] = task.result() if task.done() else _answer(_late(stage[place]), start)
        finally:
            await _left_behind(tasks.values())
        return _in_order(stage, answers)

    async def _read(self, part: FeatureRead, began: float, timeout: float | None) -> Answer:
        start = time.monotonic()
        left = None if timeout is None else max(timeout - (start - began), _LEAST)
        return _answer(await self._reader.run(part.plan.read(part.rows), left), start)

    async def _search(self, part: Search, start: float, deadline: float) -> Answer:
        tier: Tier | None = None
        try:
            finder = await self._finders(part.plan.retriever)
            tier = finder.tier
            found = await finder.find(part.queries, max(deadline - time.monotonic(), _LEAST))
        except RetrieverError as error:
            return _answer(SearchResult(None, tier, str(error)), start)
        return _answer(SearchResult(found, tier), start)


async def _left_behind(tasks: Iterable[asyncio.Task[Answer]]) -> None:
    """Cancel what is not done, and give it a moment to clean up."""
    unfinished: list[asyncio.Task[Answer]] = []
    for task in tasks:
        if not task.done():
            task.cancel()
            unfinished.append(task)
        elif not task.cancelled():
            task.exception()  # it is known, so that asyncio does not complain of it
    if unfinished:
        await asyncio.wait(unfinished, timeout=_CLEANING)


def _prepare(finders: Finders, retriever: Retriever) -> None:
    with suppress(LLMFeaturesError):
        finders(retriever).prepare()


def _late(part: FeatureRead | Search) -> SearchResult:
    assert isinstance(part, Search)
    return SearchResult(None, None, f"retriever {part.plan.retriever.name!r} did not answer in time")


def _answer(found: object, start: float) -> Answer:
    return Answer(found, (time.monotonic() - start) * 1000)


def _in_order(stage: Stage, answers: dict[int, Answer]) -> list[Answer]:
    made = [answers[place] for place in range(len(stage))]
    legs = LEGS.get()
    if legs is not None:
        now = time.time_ns()
        longest = max((one.milliseconds for one in made), default=0.0)
        for part, answer in zip(stage, made, strict=True):
            began = now - int(longest * 1e6)
            found = answer.found
            problem = found.problem
            retriever = part.plan.retriever.name if isinstance(part, Search) else None
            legs.append(TracedLeg(part.name, retriever, began, began + int(answer.milliseconds * 1e6), problem))
    return made
