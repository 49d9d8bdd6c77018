"""`ContextBuilder` and `AsyncContextBuilder`: two thin shells around the same plans."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from llmfeatures.clock import Clock, as_utc, parse_duration
from llmfeatures.compile import compile_plan
from llmfeatures.context import PromptContext
from llmfeatures.contexts import made_contexts
from llmfeatures.errors import (
    ConfigError,
    InvalidValueError,
    LLMFeaturesError,
    RequestError,
    SourceError,
    did_you_mean,
)
from llmfeatures.gathering import Call, Gathered
from llmfeatures.inject import AsyncBuild, Build, Inject, Target, inject_async, inject_sync
from llmfeatures.plan import ReadResult
from llmfeatures.ports import AsyncOnlineStore, ClockName, OfflineStore, OnlineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.environment import PromptEnvironment, make_environment
from llmfeatures.prompts.file import ABSENT, SUFFIX, prompt_names, read_prompt, read_text
from llmfeatures.prompts.texts import PromptTexts
from llmfeatures.readers import AsyncReader, SyncReader
from llmfeatures.registry import Registry
from llmfeatures.retrievers import AsyncRetrieving, Retrieving
from llmfeatures.retrieving import AsyncGatherer, SyncGatherer
from llmfeatures.tools import AsyncTools, Tools, prompt_tools
from llmfeatures.usual import Usual, usual_of

CLOCKS: tuple[ClockName, ...] = ("event", "known")
Timeout = float | timedelta | str | None
"""Seconds, a timedelta, or text such as ``250ms``; None is the configured one."""
TIMEOUT = 0.25
"""Seconds for the online reads of a call together, unless the project or the call says otherwise."""
_NO_RETRIEVERS = "prompt {!r} has documents, and this builder no retrievers; make it with ContextBuilder.from_project"


class Prompts:
    """The compiled prompts of a folder, or of texts, each compiled once; with ``reload``, again when a file of the
    folder changed."""

    def __init__(self, registry: Registry, source: Path | PromptTexts, *, reload: bool = False) -> None:
        self.registry, self.source = registry, source
        self.reload = reload and isinstance(source, Path)
        self._plans: dict[str, tuple[PromptPlan, Usual | None]] = {}
        self._seen: dict[str, tuple[int, int]] = {}
        self._environment: PromptEnvironment = _environment_of(source)

    def names(self) -> list[str]:
        """The names of all prompts, sorted."""
        return prompt_names(self.source) if isinstance(self.source, Path) else self.source.names()

    @property
    def release_id(self) -> str | None:
        """The id of the release that they are of; None for files."""
        return None

    def text(self, name: str) -> str:
        """The text of a prompt file.

        Raises:
            UnknownNameError: there is no such prompt.
        """
        return read_text(self.source, name) if isinstance(self.source, Path) else self.source.text(name)

    def plan(self, name: str) -> PromptPlan:
        """The plan of a prompt.

        Raises:
            UnknownNameError: there is no such prompt.
            PromptError: the prompt cannot be compiled.
        """
        return self.compiled(name)[0]

    def compiled(self, name: str) -> tuple[PromptPlan, Usual | None]:
        """The plan of a prompt, and its usual call if it has one. Raises as `plan`."""
        if self.reload:
            self._forget_changed()
        plans = self._plans  # another thread may begin afresh meanwhile
        found = plans.get(name)
        if found is None:
            found = plans[name] = self._compile(name)
        return found

    def _compile(self, name: str) -> tuple[PromptPlan, Usual | None]:
        source = self.source
        file = read_prompt(source, name) if isinstance(source, Path) else source.read(name)
        plan = compile_plan(self.registry, file, self._environment)
        return plan, usual_of(plan)

    def _forget_changed(self) -> None:
        """Start afresh when any file of the prompts folder changed."""
        seen: dict[str, tuple[int, int]] = {}
        folder = cast("Path", self.source)
        for path in (*folder.rglob(f"*{SUFFIX}"), *(folder / "_shared").rglob("*")):
            with suppress(OSError):  # an editor's lock, or a file that is being replaced
                status = path.stat()
                seen[os.fspath(path)] = (status.st_mtime_ns, status.st_size)
        if seen != self._seen:
            self._seen, self._plans = seen, {}
            self._environment = make_environment(folder)


def _environment_of(source: Path | PromptTexts) -> PromptEnvironment:
    return make_environment(source) if isinstance(source, Path) else source.environment()


class _Builder:
    """What both builders share: all but the reading."""

    def __init__(
        self, prompts: Prompts, offline: Callable[[], OfflineStore], clock: Clock, retrieving: Retrieving | None
    ) -> None:
        self._prompts, self._offline, self._now, self._retrieving = prompts, offline, clock, retrieving

    @property
    def registry(self) -> Registry:
        """The registry that the prompts are compiled against."""
        return self._prompts.registry

    @property
    def release(self) -> str | None:
        """The id of the release that the prompts are of; None for files."""
        return self._prompts.release_id

    def prompt_names(self) -> list[str]:
        """The names of all prompts, sorted."""
        return self._prompts.names()

    def prompt_text(self, name: str) -> str:
        """The text of a prompt file, as it is rendered.

        Raises:
            UnknownNameError: there is no such prompt.
        """
        return self._prompts.text(name)

    def plan(self, prompt: str) -> PromptPlan:
        """The compiled plan of a prompt."""
        return self._prompts.plan(prompt)

    def _online(self, plan: PromptPlan, calls: Sequence[Call], result: ReadResult) -> list[PromptContext]:
        as_of = self._now()
        if result.newest is not None and result.newest > as_of:
            as_of = result.newest  # a writer's clock is ahead: its value still counts
        source = "online" if plan.features.refs else "none"
        return made_contexts(plan, calls, result.slots, as_of, source, None, result.problem)

    def _with_documents(self, plan: PromptPlan, calls: Sequence[Call], gathered: Gathered) -> list[PromptContext]:
        source = "online" if plan.features.refs else "none"
        return made_contexts(plan, calls, gathered.slots, gathered.as_of, source, None, gathered.problem, gathered)

    def _historical(
        self, plan: PromptPlan, calls: Sequence[Call], as_of: datetime | str, clock: ClockName, live: bool
    ) -> list[PromptContext]:
        from llmfeatures.historical_documents import AsOfRow, documents_of
        from llmfeatures.historical_features import as_of_slots

        at, offline = moment("as_of", as_of), self._offline()
        documents = documents_of(plan, offline, self._retrieving, clock, live=live)
        found = as_of_slots(offline, plan.features, [keys for keys, _ in calls], at, clock)
        if found.errors:
            raise SourceError(next(iter(found.errors.values())))
        if documents is None:
            return made_contexts(plan, calls, found.slots, at, "offline", clock, None)
        asked = zip(calls, found.slots, strict=True)
        beside = documents.found([AsOfRow(slots, keys, inputs, at) for (keys, inputs), slots in asked])
        for row, one in enumerate(beside):
            if one.error is not None:
                if len(calls) > 1:
                    one.error.args = (f"row {row}: {one.error}",)
                raise one.error
        gathered = Gathered(
            slots=found.slots,
            documents=[one.documents for one in beside],
            retrievals=[plan.retrievals(one.legs, one.chosen) for one in beside],
            as_of=at,
            problem=None,
        )
        return made_contexts(plan, calls, found.slots, at, "offline", clock, None, gathered)

    def _taken(self, prompt: str, target: Target) -> list[str]:
        """The parameters of a decorated function that its prompt takes.

        Raises:
            RequestError: the prompt needs one that the function does not have.
        """
        plan = self._prompts.plan(prompt)
        optional = {name for name, one in plan.inputs.items() if one.default is not ABSENT}
        absent = [name for name in plan.parameters if name not in target.parameters and name not in optional]
        if absent:
            raise RequestError(
                f"{target.name} has no parameter {', '.join(map(repr, absent))}, which prompt {prompt!r} needs"
            )
        return [name for name in plan.parameters if name in target.parameters]


class ContextBuilder(_Builder):
    """Builds finished prompts. Thread-safe, and usable after ``fork``; share one per process.

    Make one with `ContextBuilder.from_project` or `Project.builder`.
    """

    def __init__(
        self,
        prompts: Prompts,
        online: OnlineStore,
        offline: Callable[[], OfflineStore],
        clock: Clock,
        timeout: float = TIMEOUT,
        *,
        retrieving: Retrieving | None = None,
    ) -> None:
        super().__init__(prompts, offline, clock, retrieving)
        self._store = SyncReader(online, timeout)
        self._retrieving = retrieving
        self._gatherer = (
            None if retrieving is None else SyncGatherer(self._store, retrieving.finder, retrieving.timeout)
        )

    @classmethod
    def from_project(
        cls,
        path: str | Path = ".",
        *,
        now: Clock | None = None,
        reload: bool = False,
        release: str | None = None,
    ) -> ContextBuilder:
        """The builder of the project that ``path`` lies in.

        Args:
            path: a folder or file in the project.
            now: a function that returns the current moment, aware; None is the project's clock.
            reload: compile a prompt again when a prompt file changed, for development.
            release: render a release instead of the files: an id, or the beginning of one, is that release for ever;
                ``active`` follows the active one, within a second of the next call, without a restart.

        Raises:
            ReleaseError: no release is active, or the release cannot be rendered here as it was.
        """
        from llmfeatures.project import Project

        return Project.load(path, now=now).builder(reload=reload, release=release)

    def build_context(
        self,
        prompt: str,
        /,
        *,
        as_of: datetime | str | None = None,
        clock: str = "known",
        timeout: Timeout = None,
        _live_documents: bool = False,
        **keys_and_inputs: Any,
    ) -> PromptContext:
        """The finished prompt for an entity: ``build_context("recommender", user_id="8a2f")``.

        Args:
            prompt: the prompt's name.
            as_of: rebuild it as of this moment from the offline store; a datetime or ISO 8601 text, naive is UTC.
            clock: with ``as_of``, which rows count: ``known`` (true and arrived) or ``event`` (true).
            timeout: for the online read; seconds, a timedelta or text such as ``250ms``.
            _live_documents: with ``as_of``, take what a retriever has now where it knows no time.
            **keys_and_inputs: each join key and input by name. A join key of None means that nobody is known.

        Raises:
            RequestError: a name is absent or unknown, or a value has another type.
            FeatureNotPresentError: a feature has no value and the prompt's policy is an error.
            RenderError: the template failed with these values.
        """
        plan, usual = self._prompts.compiled(prompt)
        at_clock, limit = clock_name(clock), None if timeout is None else seconds(timeout)
        asked = None
        if usual is not None and as_of is None and (read := usual.read(keys_and_inputs)) is not None:
            asked = self._store.ask([read], limit)
            if asked.answers is not None:
                made = usual.context(keys_and_inputs, asked.answers[0], self._now())
                if made is not None:
                    return made
        call = plan.bind(keys_and_inputs)
        if as_of is not None:
            return self._historical(plan, [call], as_of, at_clock, _live_documents)[0]
        if plan.documents:
            return self._with_documents(plan, [call], self._gathered(plan, [call], limit))[0]
        reads = plan.features.read([plan.features.entity_keys(call[0])])
        return self._online(plan, [call], self._store.run(reads, limit, asked))[0]

    def build_contexts(
        self,
        prompt: str,
        rows: Sequence[Mapping[str, Any]],
        /,
        *,
        as_of: datetime | str | None = None,
        clock: str = "known",
        timeout: Timeout = None,
        _live_documents: bool = False,
    ) -> list[PromptContext]:
        """The finished prompts of many rows of keys and inputs, in order, in one round trip and at one moment.

        Raises:
            As `build_context`; a bad row fails the call and names its number.
        """
        plan, usual = self._prompts.compiled(prompt)
        at_clock, limit = clock_name(clock), seconds(timeout)
        asked = None
        if usual is not None and as_of is None and _listed(rows):
            rows = [dict(row) if isinstance(row, dict) else row for row in rows]  # nobody changes it meanwhile
            if usual_reads := usual.reads(rows):
                asked = self._store.ask(usual_reads, limit)
                made = None if asked.answers is None else usual.contexts(rows, asked.answers, self._now())
                if made is not None:
                    return made
        calls = _calls(plan, rows)
        if as_of is not None:
            return self._historical(plan, calls, as_of, at_clock, _live_documents)
        if plan.documents:
            return self._with_documents(plan, calls, self._gathered(plan, calls, limit))
        reads = plan.features.read([plan.features.entity_keys(keys) for keys, _ in calls])
        return self._online(plan, calls, self._store.run(reads, limit, asked))

    def inject(self, prompt: str) -> Inject:
        """Decorate a function that takes ``ctx`` and the prompt's keys and inputs by name: ``ctx`` is built per call.

        The function may be a ``def``, ``async def`` (the build then runs in a thread), a generator or an async
        generator, whose context is built when its iteration begins.

        Raises:
            RequestError: there is no name of a prompt (``@builder.inject`` alone); or when decorating, a name that
                the prompt needs is no parameter of the function.
        """

        def building(target: Target) -> Build:
            taken = self._taken(prompt, target)
            return lambda given: self.build_context(prompt, **{name: given[name] for name in taken})

        return inject_sync(prompt, building)

    def tools(self, prompt: str, /, **keys_and_inputs: Any) -> Tools:
        """What a model may call for while it answers a prompt: the prompt's features, and a search of each of its
        documents, for the entity that is named here; the model can name no other.

        Args:
            prompt: the prompt's name.
            **keys_and_inputs: each join key by name, None for nobody; and inputs, for which no model is asked then.

        Raises:
            RequestError: a name is absent or unknown, a value has another type, or there is nothing to make tools of.
        """
        plan = self._prompts.plan(prompt)
        return Tools(prompt=prompt, tools=prompt_tools(plan, self.registry, keys_and_inputs), reads=self.gathered)

    def gathered(self, plan: PromptPlan, calls: Sequence[Call]) -> Gathered:
        """What a plan reads for calls; see `tools`."""
        return self._gathered(plan, calls, None)

    def prepare(self) -> None:
        """Load what the retrievers of all prompts need in this process, such as a model, so that no first call waits
        for it. What fails is said by the calls."""
        for name in self.prompt_names() if self._gatherer is not None else ():
            with suppress(LLMFeaturesError):
                plan = self.plan(name)
                if plan.documents and self._gatherer is not None:
                    self._gatherer.prepare(plan, None)

    def _gathered(self, plan: PromptPlan, calls: Sequence[Call], timeout: float | None) -> Gathered:
        if self._gatherer is None:
            raise ConfigError(_NO_RETRIEVERS.format(plan.name))
        self._gatherer.prepare(plan, timeout)
        return self._gatherer.run(plan, calls, self._now(), timeout)

    def close(self) -> None:
        """Give back connections. The builder can be used again."""
        self._store.store.close()
        if self._retrieving is not None:
            self._retrieving.close()


class AsyncContextBuilder(_Builder):
    """`ContextBuilder` for asyncio: the same methods, awaited. A cancelled call drops its connection."""

    def __init__(
        self,
        prompts: Prompts,
        online: AsyncOnlineStore,
        offline: Callable[[], OfflineStore],
        clock: Clock,
        timeout: float = TIMEOUT,
        *,
        retrieving: AsyncRetrieving | None = None,
    ) -> None:
        super().__init__(prompts, offline, clock, None if retrieving is None else retrieving.threaded)
        self._store = AsyncReader(online, timeout)
        self._searching = retrieving
        self._gatherer = (
            None if retrieving is None else AsyncGatherer(self._store, retrieving.finder, retrieving.timeout)
        )

    @classmethod
    def from_project(
        cls,
        path: str | Path = ".",
        *,
        now: Clock | None = None,
        reload: bool = False,
        release: str | None = None,
    ) -> AsyncContextBuilder:
        """As `ContextBuilder.from_project`."""
        from llmfeatures.project import Project

        return Project.load(path, now=now).async_builder(reload=reload, release=release)

    async def build_context(
        self,
        prompt: str,
        /,
        *,
        as_of: datetime | str | None = None,
        clock: str = "known",
        timeout: Timeout = None,
        _live_documents: bool = False,
        **keys_and_inputs: Any,
    ) -> PromptContext:
        """As `ContextBuilder.build_context`."""
        plan, usual = self._prompts.compiled(prompt)
        at_clock, limit = clock_name(clock), None if timeout is None else seconds(timeout)
        asked = None
        if usual is not None and as_of is None and (read := usual.read(keys_and_inputs)) is not None:
            asked = await self._store.ask([read], limit)
            if asked.answers is not None:
                made = usual.context(keys_and_inputs, asked.answers[0], self._now())
                if made is not None:
                    return made
        call = plan.bind(keys_and_inputs)
        if as_of is not None:
            return (await asyncio.to_thread(self._historical, plan, [call], as_of, at_clock, _live_documents))[0]
        if plan.documents:
            return self._with_documents(plan, [call], await self._gathered(plan, [call], limit))[0]
        reads = plan.features.read([plan.features.entity_keys(call[0])])
        return self._online(plan, [call], await self._store.run(reads, limit, asked))[0]

    async def build_contexts(
        self,
        prompt: str,
        rows: Sequence[Mapping[str, Any]],
        /,
        *,
        as_of: datetime | str | None = None,
        clock: str = "known",
        timeout: Timeout = None,
        _live_documents: bool = False,
    ) -> list[PromptContext]:
        """As `ContextBuilder.build_contexts`."""
        plan, usual = self._prompts.compiled(prompt)
        at_clock, limit = clock_name(clock), seconds(timeout)
        asked = None
        if usual is not None and as_of is None and _listed(rows):
            rows = [dict(row) if isinstance(row, dict) else row for row in rows]  # nobody changes it meanwhile
            if usual_reads := usual.reads(rows):
                asked = await self._store.ask(usual_reads, limit)
                made = None if asked.answers is None else usual.contexts(rows, asked.answers, self._now())
                if made is not None:
                    return made
        calls = _calls(plan, rows)
        if as_of is not None:
            return await asyncio.to_thread(self._historical, plan, calls, as_of, at_clock, _live_documents)
        if plan.documents:
            return self._with_documents(plan, calls, await self._gathered(plan, calls, limit))
        reads = plan.features.read([plan.features.entity_keys(keys) for keys, _ in calls])
        return self._online(plan, calls, await self._store.run(reads, limit, asked))

    def inject(self, prompt: str) -> Inject:
        """As `ContextBuilder.inject`, for ``async def`` and async generators."""

        def building(target: Target) -> AsyncBuild:
            taken = self._taken(prompt, target)
            return lambda given: self.build_context(prompt, **{name: given[name] for name in taken})

        return inject_async(prompt, building, "ContextBuilder.inject")

    def tools(self, prompt: str, /, **keys_and_inputs: Any) -> AsyncTools:
        """As `ContextBuilder.tools`; their ``call`` is awaited."""
        plan = self._prompts.plan(prompt)
        return AsyncTools(prompt=prompt, tools=prompt_tools(plan, self.registry, keys_and_inputs), reads=self.gathered)

    async def gathered(self, plan: PromptPlan, calls: Sequence[Call]) -> Gathered:
        """As `ContextBuilder.gathered`."""
        return await self._gathered(plan, calls, None)

    async def prepare(self) -> None:
        """Load what the retrievers of all prompts need in this process, such as a model, so that no first call waits
        for it. What fails is said by the calls."""
        for name in self.prompt_names() if self._gatherer is not None else ():
            with suppress(LLMFeaturesError):
                plan = self.plan(name)
                if plan.documents and self._gatherer is not None:
                    await self._gatherer.prepare(plan, None)

    async def _gathered(self, plan: PromptPlan, calls: Sequence[Call], timeout: float | None) -> Gathered:
        if self._gatherer is None:
            raise ConfigError(_NO_RETRIEVERS.format(plan.name))
        await self._gatherer.prepare(plan, timeout)
        return await self._gatherer.run(plan, calls, self._now(), timeout)

    async def aclose(self) -> None:
        """Give back connections. The builder can be used again."""
        await self._store.store.aclose()
        if self._searching is not None:
            await self._searching.aclose()


def _listed(rows: object) -> bool:
    return isinstance(rows, (list, tuple))


def _calls(plan: PromptPlan, rows: Sequence[Mapping[str, Any]]) -> list[Call]:
    calls: list[Call] = []
    if not _listed(rows):
        raise RequestError(f"rows is a list of mappings of keys and inputs, not {type(rows).__name__}")
    for number, row in enumerate(rows):
        if not isinstance(row, Mapping):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RequestError(f"row {number} is a mapping of keys and inputs, not {type(row).__name__}")
        try:
            calls.append(plan.bind(row))
        except RequestError as error:
            raise RequestError(f"row {number}: {error}") from None
    return calls


def moment(option: str, value: datetime | str) -> datetime:
    """A moment that a caller gave for an option, aware UTC.

    Raises:
        RequestError: it is no moment.
    """
    if not isinstance(value, (datetime, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"{option} is a datetime or ISO 8601 text, not {type(value).__name__}")
    try:
        return as_utc(value)
    except InvalidValueError as error:
        raise RequestError(f"{option}: {error}") from None


def clock_name(clock: str) -> ClockName:
    """A clock that a caller named.

    Raises:
        RequestError: there is no such clock.
    """
    if clock not in CLOCKS:
        raise RequestError(f"unknown clock {clock!r}{did_you_mean(str(clock), CLOCKS)}")
    return clock


def seconds(timeout: Timeout) -> float | None:
    """A timeout in seconds.

    Raises:
        RequestError: it is no duration longer than zero.
    """
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float, timedelta, str)):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise RequestError(f"timeout is seconds, a timedelta or text such as 250ms, not {type(timeout).__name__}")
    try:
        seconds = timeout if isinstance(timeout, (int, float)) else parse_duration(timeout).total_seconds()
    except ConfigError as error:
        raise RequestError(f"timeout: {error}") from None
    if seconds <= 0:
        raise RequestError("timeout is longer than zero")
    return float(seconds)
