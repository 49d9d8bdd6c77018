"""What a project consists of: configuration, registry, stores and prompts, opened when they are first used."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, lru_cache, partial
from typing import TYPE_CHECKING, Self

from llmfeatures import config as configuration
from llmfeatures.builder import (
    AsyncContextBuilder,
    ContextBuilder,
    Prompts,
)
from llmfeatures.clock import Clock
from llmfeatures.config import Config
from llmfeatures.errors import RequestError
from llmfeatures.plan import FeaturePlan, plan_references
from llmfeatures.ports import OfflineStore, OnlineStore, PushLog, StateStore
from llmfeatures.readers import SyncReader
from llmfeatures.registry import Registry
from llmfeatures.releases import Release, Releases
from llmfeatures.retrievers import Retrieving

if TYPE_CHECKING:
    from llmfeatures.releases.rebuilding import ReleasedPrompts


_PLANS = 256
"""So many lists of features that were asked for are remembered, with how to read them."""


class Stores:
    """What a project consists of: configuration, registry, stores and prompts, opened when they are first used."""

    def __init__(self, config: Config, registry: Registry, *, now: Clock | None = None) -> None:
        self.config, self.registry = config, registry
        self.clock: Clock = now or config.clock()
        self.release: Release | None = None
        self._stores: Stores | None = None
        self._owns = False
        self._plan = lru_cache(_PLANS)(partial(plan_references, registry))

    @cached_property
    def online(self) -> OnlineStore:
        """The online store."""
        return configuration.open_online(self.config) if self._stores is None else self._stores.online

    @cached_property
    def offline(self) -> OfflineStore:
        """The offline store."""
        if self._stores is not None:
            return self._stores.offline
        return configuration.open_offline(self.config, self.pushes)

    @cached_property
    def pushes(self) -> PushLog:
        """The log of pushed rows."""
        return configuration.open_pushes(self.config) if self._stores is None else self._stores.pushes

    @cached_property
    def state(self) -> StateStore:
        """The project's state."""
        return configuration.open_state(self.config)

    @cached_property
    def releases(self) -> Releases:
        """The releases of the project; see `apply`."""
        return Releases(self.state)

    @cached_property
    def prompts(self) -> Prompts:
        """The project's prompts, compiled when they are first used."""
        return Prompts(self.registry, self.config.prompts)

    @cached_property
    def retrieving(self) -> Retrieving:
        """The retrievers at work."""
        return Retrieving(self.config) if self._stores is None else self._stores.retrieving

    @property
    def _timeout(self) -> float:
        return self.config.online.timeout.total_seconds()

    def _asked(self, features: Sequence[str]) -> FeaturePlan:
        """How to read features that were asked for by name.

        Raises:
            UnknownNameError: there is no such feature.
            RequestError: they are no list of names.
        """
        if not isinstance(features, (list, tuple)) or not all(isinstance(name, str) for name in features):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise RequestError("features is a list of names, like ['user_segment']")
        return self._plan(tuple(features))

    @cached_property
    def _reader(self) -> SyncReader:
        return SyncReader(self.online, self._timeout)

    def builder(self, *, reload: bool = False, release: str | None = None) -> ContextBuilder:
        """A builder of finished prompts on this project's stores; ``release`` as for `ContextBuilder.from_project`."""
        prompts = self._prompts(reload, release)
        return ContextBuilder(
            prompts, self.online, lambda: self.offline, self.clock, self._timeout, retrieving=self.retrieving
        )

    def async_builder(self, *, reload: bool = False, release: str | None = None) -> AsyncContextBuilder:
        """A builder for asyncio, with an online store of its own."""
        prompts = self._prompts(reload, release)
        store = configuration.open_async_online(self.config)
        return AsyncContextBuilder(
            prompts, store, lambda: self.offline, self.clock, self._timeout, retrieving=self.retrieving.for_asyncio()
        )

    def _prompts(self, reload: bool, release: str | None) -> Prompts:
        if release == "active":
            from llmfeatures.releases.following import ActivePrompts

            return ActivePrompts(self.state, (self._stores or self).registry)
        if release is not None:
            return self.at_release(release).prompts
        if reload and self.release is None:
            return Prompts(self.registry, self.config.prompts, reload=True)
        return self.prompts

    def at_release(self, release: str | Release) -> Self:
        """The project with the prompts and the registry of a release: they render what they rendered then, byte for
        byte, or raise an error. It has this one's stores, and needs no `close` of its own.

        Args:
            release: an id or the beginning of one, ``active`` or ``previous``; or a `Release`. The functions of
                on-demand features are those of the registry as it is loaded, where their code is the same.

        Raises:
            UnknownNameError: there is no such release.
            RequestError: several ids begin so.
            ReleaseError: this version of llmfeatures renders otherwise, or no release is active.
            FormatError: the release is damaged, or of another format.
        """
        from llmfeatures.releases.rebuilding import ReleasedPrompts

        found = self.releases.find(release) if isinstance(release, str) else release
        return self.with_prompts(ReleasedPrompts(found, (self._stores or self).registry))

    def with_prompts(self, prompts: ReleasedPrompts) -> Self:
        """As `at_release`, with prompts that are made already."""
        made = type(self)(self.config, prompts.registry, now=self.clock)
        made.release, made._stores = prompts.release, self._stores or self
        made.__dict__["prompts"] = prompts
        return made

    def close(self) -> None:
        """Give back what was opened."""
        if self._stores is not None:  # they are another project's
            if self._owns:
                self._stores.close()
            return
        for name in ("online", "offline", "pushes", "retrieving"):
            if name in self.__dict__:
                self.__dict__[name].close()
