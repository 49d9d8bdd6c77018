"""Following the active release while a process runs: what is looked at, when, and what is rendered meanwhile."""

from __future__ import annotations

import logging
import threading
import time
from typing import Final

from llmfeatures.builder import Prompts
from llmfeatures.errors import LLMFeaturesError, ReleaseError
from llmfeatures.ports import StateStore
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.registry import Registry
from llmfeatures.releases.kept import Releases
from llmfeatures.releases.rebuilding import ReleasedPrompts
from llmfeatures.usual import Usual

LOOK_EVERY: Final = 1.0
"""Seconds from one look at the active release to the next."""
_log = logging.getLogger("llmfeatures")


class Following:
    """The prompts of the active release, whole: ``current`` is None until a release is active.

    A release that cannot be compiled here is not taken: the one before stays, and ``problem`` says why. At the start
    that is an error, as nobody knows what was rendered before. ``present`` is the registry with the functions.

    Raises:
        ReleaseError: the active release cannot be compiled here.
        FormatError: it cannot be read which release is active.
    """

    def __init__(self, state: StateStore, present: Registry) -> None:
        self._state, self._present = state, present
        self._releases = Releases(state)
        self._mark = state.activation_mark()
        self.current: ReleasedPrompts | None = None
        self.problem: str | None = None
        active = self._releases.active_id()
        if active is not None and not self._take(active):
            raise ReleaseError(f"{self.problem}; llmfeatures apply makes a release of what is here now")

    @property
    def release(self) -> str | None:
        """The id of the release whose prompts are rendered."""
        return None if self.current is None else self.current.release.id

    def moved(self) -> bool:
        """Whether a release was made the active one since the last look, or could not be read then. One system call."""
        return self._state.activation_mark() != self._mark

    def take(self) -> bool:
        """Compile the active release. Returns whether ``current`` is another now; ``problem`` is that of this one."""
        self._mark = self._state.activation_mark()
        try:
            active = self._releases.active_id()
        except LLMFeaturesError as error:
            self._mark, self.problem = object(), str(error)  # a mark that nothing has: it is read again
            return False
        if active is None:
            self.problem = None if self.current is None else "no release is active any more; run llmfeatures apply"
            return False
        if active == self.release:
            self.problem = None
            return False
        return self._take(active)

    def _take(self, identity: str) -> bool:
        try:
            release = self._releases.get(identity)
        except LLMFeaturesError as error:
            self._mark, self.problem = object(), f"release {identity[:12]} is active and cannot be read: {error}"
            return False
        try:
            prompts = ReleasedPrompts(release, self._present)
            if self.current is not None:
                prompts.adopt(self.current)
            prompts.compile_all()
        except LLMFeaturesError as error:
            self.problem = f"release {identity[:12]} is active and cannot be compiled here: {error}"
            return False
        self.current, self.problem = prompts, None
        return True


class ActivePrompts(Prompts):
    """The prompts of the active release, whichever that is: another one is noticed within a second of the next call,
    compiled in the background, and taken as a whole.

    Raises:
        ReleaseError: no release is active, or it cannot be compiled here.
    """

    def __init__(self, state: StateStore, present: Registry) -> None:
        self._following = Following(state, present)
        if self._following.current is None:
            raise ReleaseError("no release is active; llmfeatures apply makes one of the files")
        self._held: ReleasedPrompts = self._following.current
        super().__init__(self._held.registry, self._held.source)
        self._look_at = time.monotonic() + LOOK_EVERY
        self._taking: threading.Thread | None = None
        self._tell()

    @property
    def problem(self) -> str | None:
        """Why the active release is not the one that is rendered; None when it is."""
        return self._following.problem

    @property
    def release(self) -> str:
        """The id of the release whose prompts are rendered."""
        return self._held.release.id

    @property
    def release_id(self) -> str | None:
        """The same; see `Prompts`."""
        return self.release

    def names(self) -> list[str]:
        """The names of all prompts, sorted."""
        return self._held.names()

    def text(self, name: str) -> str:
        """The text of a prompt file. Raises as `Prompts.text`."""
        return self._held.text(name)

    def compiled(self, name: str) -> tuple[PromptPlan, Usual | None]:
        """The plan of a prompt, and its usual call if it has one. Raises as `plan`."""
        if time.monotonic() >= self._look_at:
            self._look()
        return self._held.compiled(name)

    def _look(self) -> None:
        self._look_at = time.monotonic() + LOOK_EVERY
        if self._following.moved() and (self._taking is None or not self._taking.is_alive()):
            self._taking = threading.Thread(target=self._take, name="llmfeatures-release", daemon=True)
            self._taking.start()

    def _take(self) -> None:
        known = self.problem
        if self._following.take() and self._following.current is not None:
            self._held = self._following.current
            self.registry = self._held.registry
        if self.problem != known:
            self._tell()

    def _tell(self) -> None:
        if self._following.problem is not None:
            _log.warning("%s; release %s goes on", self._following.problem, self.release[:12])
