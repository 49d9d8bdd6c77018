"""`ContextBuilder` and `AsyncContextBuilder`: two thin shells around the same plans."""

from __future__ import annotations

import asyncio
import functools
import inspect
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from copy import deepcopy
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, cast

from llmfeatures.clock import Clock, as_utc, parse_duration
from llmfeatures.compile import compile_plan
from llmfeatures.context import FeatureValue, PromptContext, made_context, prompt_id, request_id
from llmfeatures.errors import (
    ConfigError,
    FeatureNotPresentError,
    InvalidValueError,
    RenderError,
    RequestError,
    SourceError,
    did_you_mean,
)
from llmfeatures.plan import ReadResult
from llmfeatures.ports import AsyncOnlineStore, ClockName, OfflineStore, OnlineStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.environment import PromptEnvironment, make_environment
from llmfeatures.prompts.file import ABSENT, SUFFIX, prompt_names, read_prompt
from llmfeatures.prompts.texts import PromptTexts
from llmfeatures.readers import AsyncReader, SyncReader
from llmfeatures.registry import Registry
from llmfeatures.usual import Usual, usual_of
from llmfeatures.version import __version__

CLOCKS: tuple[ClockName, ...] = ("event", "known")
Timeout = float | timedelta | str | None
"""Seconds, a timedelta, or text such as ``250ms``; None is the configured one."""
TIMEOUT = 0.25
"""Seconds for the online reads of a call together, unless the project or the call says otherwise."""
Call = tuple[dict[str, Any], dict[str, Any]]
"""One row of a call: canonical join keys and inputs."""


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

    def __init__(self, prompts: Prompts, offline: Callable[[], OfflineStore], clock: Clock) -> None:
        self._prompts, self._offline, self._now = prompts, offline, clock

    def prompt_names(self) -> list[str]:
        """The names of all prompts, sorted."""
        return self._prompts.names()

    def plan(self, prompt: str) -> PromptPlan:
        """The compiled plan of a prompt."""
        return self._prompts.plan(prompt)

    def _online(self, plan: PromptPlan, calls: Sequence[Call], result: ReadResult) -> list[PromptContext]:
        as_of = self._now()
        if result.newest is not None and result.newest > as_of:
            as_of = result.newest  # a writer's clock is ahead: its value still counts
        source = "online" if plan.features.refs else "none"
        return _contexts(plan, calls, result.slots, as_of, source, None, result.problem)

    def _historical(
        self, plan: PromptPlan, calls: Sequence[Call], as_of: datetime | str, clock: ClockName
    ) -> list[PromptContext]:
        from llmfeatures.historical_features import as_of_slots

        at = moment("as_of", as_of)
        found = as_of_slots(self._offline(), plan.features, [keys for keys, _ in calls], at, clock)
        if found.errors:
            raise SourceError(next(iter(found.errors.values())))
        return _contexts(plan, calls, found.slots, at, "offline", clock, None)

    def _injected(self, prompt: str, function: Callable[..., Any]) -> Callable[..., dict[str, Any]]:
        """A function from a call's arguments to the keys and inputs of its prompt; names are checked now."""
        signature = inspect.signature(function)
        if "ctx" not in signature.parameters:
            raise RequestError(f"{function.__name__} needs a parameter ctx, which takes the PromptContext")
        plan = self._prompts.plan(prompt)
        optional = {name for name, one in plan.inputs.items() if one.default is not ABSENT}
        absent = [name for name in plan.parameters if name not in signature.parameters and name not in optional]
        if absent:
            raise RequestError(
                f"{function.__name__} has no parameter {', '.join(map(repr, absent))}, which prompt {prompt!r} needs"
            )
        wanted = [name for name in plan.parameters if name in signature.parameters]

        def arguments(*args: Any, **kwargs: Any) -> dict[str, Any]:
            bound = signature.bind_partial(*args, **kwargs)
            bound.apply_defaults()
            return {name: bound.arguments[name] for name in wanted if name in bound.arguments}

        return arguments


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
    ) -> None:
        super().__init__(prompts, offline, clock)
        self._store = SyncReader(online, timeout)

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
        **keys_and_inputs: Any,
    ) -> PromptContext:
        """The finished prompt for an entity: ``build_context("recommender", user_id="8a2f")``.

        Args:
            prompt: the prompt's name.
            as_of: rebuild it as of this moment from the offline store; a datetime or ISO 8601 text, naive is UTC.
            clock: with ``as_of``, which rows count: ``known`` (true and arrived) or ``event`` (true).
            timeout: for the online read; seconds, a timedelta or text such as ``250ms``.
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
            return self._historical(plan, [call], as_of, at_clock)[0]
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
            return self._historical(plan, calls, as_of, at_clock)
        reads = plan.features.read([plan.features.entity_keys(keys) for keys, _ in calls])
        return self._online(plan, calls, self._store.run(reads, limit, asked))

    def inject(self, prompt: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Decorate a function that takes ``ctx`` and the prompt's keys and inputs by name: ``ctx`` is built per call.

        Raises:
            RequestError: when decorating, a name that the prompt needs is no parameter of the function.
        """

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            if inspect.iscoroutinefunction(function) or inspect.isasyncgenfunction(function):
                raise RequestError(f"{function.__name__} is async; decorate it with AsyncContextBuilder.inject")
            arguments = self._injected(prompt, function)

            @functools.wraps(function)
            def call(*args: Any, **kwargs: Any) -> Any:
                return function(*args, **kwargs, ctx=self.build_context(prompt, **arguments(*args, **kwargs)))

            return call

        return decorate

    def close(self) -> None:
        """Give back connections. The builder can be used again."""
        self._store.store.close()


class AsyncContextBuilder(_Builder):
    """`ContextBuilder` for asyncio: the same methods, awaited. A cancelled call drops its connection."""

    def __init__(
        self,
        prompts: Prompts,
        online: AsyncOnlineStore,
        offline: Callable[[], OfflineStore],
        clock: Clock,
        timeout: float = TIMEOUT,
    ) -> None:
        super().__init__(prompts, offline, clock)
        self._store = AsyncReader(online, timeout)

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
            return (await asyncio.to_thread(self._historical, plan, [call], as_of, at_clock))[0]
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
            return await asyncio.to_thread(self._historical, plan, calls, as_of, at_clock)
        reads = plan.features.read([plan.features.entity_keys(keys) for keys, _ in calls])
        return self._online(plan, calls, await self._store.run(reads, limit, asked))

    def inject(self, prompt: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """As `ContextBuilder.inject`, for ``async def`` and async generators."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            arguments = self._injected(prompt, function)
            if inspect.isasyncgenfunction(function):

                @functools.wraps(function)
                async def generate(*args: Any, **kwargs: Any) -> Any:
                    ctx = await self.build_context(prompt, **arguments(*args, **kwargs))
                    async for item in function(*args, **kwargs, ctx=ctx):
                        yield item

                return generate
            if not inspect.iscoroutinefunction(function):
                raise RequestError(f"{function.__name__} is not async; decorate it with ContextBuilder.inject")

            @functools.wraps(function)
            async def call(*args: Any, **kwargs: Any) -> Any:
                ctx = await self.build_context(prompt, **arguments(*args, **kwargs))
                return await function(*args, **kwargs, ctx=ctx)

            return call

        return decorate

    async def aclose(self) -> None:
        """Give back connections. The builder can be used again."""
        await self._store.store.aclose()


def _contexts(
    plan: PromptPlan,
    calls: Sequence[Call],
    slots: Sequence[Sequence[FeatureValue]],
    as_of: datetime,
    source: str,
    clock: ClockName | None,
    problem: str | None,
) -> list[PromptContext]:
    contexts: list[PromptContext] = []
    for call, found in zip(calls, slots):  # noqa: B905  strict costs, and there is one answer per call
        try:
            contexts.append(_context(plan, call, found, as_of, source, clock, problem))
        except RenderError as error:
            if isinstance(error, FeatureNotPresentError) and error.status == "unavailable" and problem is not None:
                error.problem = problem
                error.args = (f"{error}. What was wrong: {problem}",)
            if len(calls) > 1:
                error.args = (f"row {len(contexts)}: {error}",)
            raise
    return contexts


def _context(
    plan: PromptPlan,
    call: Call,
    slots: Sequence[FeatureValue],
    as_of: datetime,
    source: str,
    clock: ClockName | None,
    problem: str | None,
) -> PromptContext:
    keys, inputs = call
    finished = plan.finish(slots, keys, inputs, as_of)
    return made_context(
        {
            "request_id": request_id(),
            "prompt": plan.name,
            "version": plan.version,
            "prompt_id": prompt_id(finished.messages),
            "as_of": as_of,
            "messages": [{"role": role, "content": content} for role, content in finished.messages],
            "features": finished.features,
            "values": finished.values,
            "documents": {},
            "config": deepcopy(plan.config) if plan.config else {},
            "tokens": finished.tokens,
            "manifest": plan.manifest(finished, keys, source=source, clock=clock, problem=problem, library=__version__),
        }
    )


def given_context(plan: PromptPlan, call: Call, slots: Sequence[FeatureValue], as_of: datetime) -> PromptContext:
    """The prompt for features that were given and not read, in the order of the plan's outputs.

    Raises:
        RenderError: it cannot be rendered with these values, or a feature has no value and its policy is an error.
    """
    return _context(plan, call, slots, as_of, "none", None, None)


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
