"""`inject`: a function that takes ``ctx`` becomes one that does not, and has the context built in each call."""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping
from contextlib import aclosing
from typing import Any, Concatenate, ParamSpec, Protocol, TypeVar, cast, overload

from llmfeatures.context import PromptContext
from llmfeatures.errors import RequestError

_P = ParamSpec("_P")
_R = TypeVar("_R")
_S = TypeVar("_S")

_CTX = "ctx"
_VARIADIC = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)


class Inject(Protocol):
    """A decorator that builds a prompt in each call of a function, and gives it as ``ctx``.

    The result takes what the function takes, but ``ctx``. A type checker knows the rest of its parameters when ``ctx``
    is the first, or the first after ``self``.
    """

    @overload
    def __call__(self, function: Callable[Concatenate[PromptContext, _P], _R], /) -> Callable[_P, _R]: ...
    @overload
    def __call__(
        self, function: Callable[Concatenate[_S, PromptContext, _P], _R], /
    ) -> Callable[Concatenate[_S, _P], _R]: ...
    @overload
    def __call__(self, function: Callable[..., _R], /) -> Callable[..., _R]: ...


class Target:
    """A function that takes ``ctx``, and its parameters without that one. ``code`` says of which kind it is: an object
    that is called like a function is what its ``__call__`` is.

    Raises:
        RequestError: it is no function, or takes no ``ctx``.
    """

    def __init__(self, function: Callable[..., Any]) -> None:
        kind = type(cast("object", function)).__name__
        if kind in ("staticmethod", "classmethod"):
            raise RequestError(f"put @{kind} above @…inject(…), which decorates the function itself")
        if not callable(function):
            raise RequestError(f"inject decorates a function, not {kind}")
        self.function = function
        called: Any = function
        plain = inspect.isroutine(called) or isinstance(called, (type, functools.partial))
        self.code: Callable[..., Any] = called if plain else called.__call__
        self.name: str = getattr(function, "__qualname__", kind)
        self._whole = _signature(function)
        if _CTX not in self._whole.parameters or self._whole.parameters[_CTX].kind in _VARIADIC:
            raise RequestError(f"{self.name} needs a parameter ctx, which takes the PromptContext")
        kept = [one for one in self._whole.parameters.values() if one.name != _CTX]
        self.signature = self._whole.replace(parameters=kept)
        self.parameters = [one.name for one in kept if one.kind not in _VARIADIC]

    def bind(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> inspect.BoundArguments:
        """The arguments of a call without ``ctx``, defaults included.

        Raises:
            TypeError: they are not what the function takes, as Python says it.
        """
        if _CTX in kwargs:
            raise TypeError(f"{self.name}() takes no argument 'ctx': it is built in each call")
        try:
            bound = self.signature.bind(*args, **kwargs)
        except TypeError as error:
            raise TypeError(f"{self.name}() {error}") from None
        bound.apply_defaults()
        return bound

    def call(self, bound: inspect.BoundArguments, ctx: PromptContext) -> Any:
        """Call the function with these arguments and ``ctx``."""
        given = {name: ctx if name == _CTX else bound.arguments[name] for name in self._whole.parameters}
        whole = inspect.BoundArguments(self._whole, cast("Any", given))
        return self.function(*whole.args, **whole.kwargs)

    def wrapped(self, wrapper: Callable[..., Any]) -> Callable[..., Any]:
        """The wrapper, named and annotated as the function without ``ctx``."""
        made: Any = functools.wraps(self.function)(wrapper)
        made.__signature__ = self.signature
        made.__annotations__ = {name: one for name, one in made.__annotations__.items() if name != _CTX}
        return made


Build = Callable[[Mapping[str, Any]], PromptContext]
"""Builds a context of a call's arguments, by name."""
AsyncBuild = Callable[[Mapping[str, Any]], Awaitable[PromptContext]]


def inject_sync(prompt: object, building: Callable[[Target], Build]) -> Inject:
    """The decorator of a builder that blocks. ``building`` is called when a function is decorated. Around ``async``
    functions the build runs in a thread.

    Raises:
        RequestError: ``prompt`` is no name, as where the decorator stands without one.
    """
    _check_name(prompt)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        target = Target(function)
        build = building(target)

        async def threaded(given: Mapping[str, Any]) -> PromptContext:
            return await asyncio.to_thread(build, given)

        return _awaited(target, threaded) or _called(target, build)

    return cast("Inject", decorate)


def inject_async(prompt: object, building: Callable[[Target], AsyncBuild], instead: str) -> Inject:
    """The decorator of a builder for asyncio; ``instead`` is the one for functions that are not ``async``.

    Raises:
        RequestError: ``prompt`` is no name.
    """
    _check_name(prompt)

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        target = Target(function)
        made = _awaited(target, building(target))
        if made is None:
            raise RequestError(f"{target.name} is not async; write async def, or decorate it with {instead}")
        return made

    return cast("Inject", decorate)


def _check_name(prompt: object) -> None:
    if isinstance(prompt, str) and prompt:
        return
    example = 'name it, like @builder.inject("recommender")'
    if isinstance(prompt, (staticmethod, classmethod)) or callable(prompt):
        raise RequestError(f"inject takes the name of a prompt, and then decorates; {example}")
    kind = "an empty text" if prompt == "" else type(prompt).__name__
    raise RequestError(f"inject takes the name of a prompt, not {kind}; {example}")


def _called(target: Target, build: Build) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        bound = target.bind(args, kwargs)
        return target.call(bound, build(bound.arguments))

    def generate(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        made: Generator[Any, Any, Any] = call(*args, **kwargs)
        return (yield from made)

    return target.wrapped(generate if inspect.isgeneratorfunction(target.code) else call)


def _awaited(target: Target, build: AsyncBuild) -> Callable[..., Any] | None:
    """The wrapper of an ``async`` function; None for another."""

    async def call(*args: Any, **kwargs: Any) -> Any:
        bound = target.bind(args, kwargs)
        return await target.call(bound, await build(bound.arguments))

    async def generate(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        bound = target.bind(args, kwargs)
        # what `yield from` does, which async functions do not have
        async with aclosing(target.call(bound, await build(bound.arguments))) as made:
            step: Awaitable[Any] = anext(made)
            while True:
                try:
                    item = await step
                except StopAsyncIteration:
                    return
                try:
                    sent = yield item
                except GeneratorExit:
                    raise
                except BaseException as error:  # noqa: BLE001  (the function decides)
                    step = made.athrow(error)
                else:
                    step = made.asend(sent)

    if inspect.isasyncgenfunction(target.code):
        return target.wrapped(generate)
    return target.wrapped(call) if inspect.iscoroutinefunction(target.code) else None


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    """The parameters of a function, with their types where these can be found now, for frameworks that read them."""
    try:
        return inspect.signature(function, eval_str=True)
    except Exception:  # noqa: BLE001  (a type that is imported for the checker only, or is not there yet)
        return inspect.signature(function)
