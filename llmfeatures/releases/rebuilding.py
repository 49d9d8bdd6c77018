"""A release as prompts that render: those of the time, byte for byte, or an error that says why not."""

from __future__ import annotations

from datetime import datetime

from llmfeatures.builder import Prompts
from llmfeatures.clock import as_utc
from llmfeatures.compile import RENDERER_FORMAT
from llmfeatures.errors import LLMFeaturesError, ReleaseError, UnknownNameError
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.registry import Registry
from llmfeatures.releases.content import Release
from llmfeatures.releases.definitions import rebuilt_registry
from llmfeatures.releases.kept import Releases
from llmfeatures.usual import Usual
from llmfeatures.version import __version__


class ReleasedPrompts(Prompts):
    """The prompts of a release, compiled when they are first used. ``present`` is the registry with the functions.

    Raises:
        ReleaseError: it was made by a version that renders in another way, or its definitions cannot be read.
    """

    def __init__(self, release: Release, present: Registry) -> None:
        check_renderer(release)
        rebuilt = rebuilt_registry(release.registry, present)
        super().__init__(rebuilt.registry, release.texts())
        self.release, self._absent = release, rebuilt.absent

    @property
    def release_id(self) -> str | None:
        """The id of the release."""
        return self.release.id

    def _compile(self, name: str) -> tuple[PromptPlan, Usual | None]:
        """As of `Prompts`; only what renders as it did.

        Raises:
            UnknownNameError: the release has no such prompt.
            ReleaseError: a function that it needs has other code now, or it would not render as it did.
        """
        kept = self.release.prompts.get(name)
        needed = [] if kept is None else [("on-demand feature", one) for one in kept.on_demand]
        needed += [] if kept is None else [("retriever", one) for one in kept.retrievers]
        for kind, one in needed:
            if one in self._absent:
                raise ReleaseError(
                    f"prompt {name!r} of release {self.release.short} needs {kind} {one} as it was then, and "
                    f"{self._absent[one]}; load the project with the code of the time (llmfeatures apply --show "
                    f"{self.release.short} has the function's source)"
                )
        found = super()._compile(name)
        if kept is not None and found[0].version != kept.version:
            raise ReleaseError(
                f"prompt {name!r} of release {self.release.short} would not render as it did: its version was "
                f"{kept.version[:12]} and is {found[0].version[:12]} here (llmfeatures {__version__}, then "
                f"{self.release.library}); rebuild it with llmfeatures {self.release.library}"
            )
        return found

    def adopt(self, other: ReleasedPrompts) -> None:
        """Take over what ``other`` has compiled already and is the same here."""
        if (other.release.registry, other._absent) != (self.release.registry, self._absent):
            return
        for name, plan in other._plans.items():
            if name in self.release.prompts and other.release.prompts[name] == self.release.prompts[name]:
                self._plans[name] = plan

    def compile_all(self) -> dict[str, PromptPlan]:
        """The plans of all prompts.

        Raises:
            ReleaseError, PromptError: one cannot be compiled.
        """
        return {name: self.plan(name) for name in self.names()}


def reigning(releases: Releases, prompt: str, present: Registry) -> list[tuple[datetime, PromptPlan | None, str]]:
    """From when on a prompt had which plan, by the releases that were active, oldest first; a plan of None: it cannot
    be rendered, and why. ``present`` is the registry with the functions.

    Raises:
        UnknownNameError: no release has the prompt.
        ReleaseError: no release was ever active, or the prompt can be rendered as none of them has it.
    """
    made: dict[str, tuple[PromptPlan | None, str]] = {}
    found: list[tuple[datetime, PromptPlan | None, str]] = []
    names: set[str] = set()
    for record in releases.activations():
        if record.release not in made:
            made[record.release] = _plan_of(releases, record.release, prompt, present, names)
        found.append((as_utc(record.at), *made[record.release]))
    if not found:
        raise ReleaseError("no release was ever active; llmfeatures apply makes one of the files")
    if prompt not in names:
        raise UnknownNameError("prompt", prompt, names)
    if not any(plan for _, plan, _ in found):
        raise ReleaseError(found[-1][2])
    return found


def _plan_of(
    releases: Releases, identity: str, prompt: str, present: Registry, names: set[str]
) -> tuple[PromptPlan | None, str]:
    try:
        release = releases.get(identity)
        names.update(release.prompts)
        if prompt not in release.prompts:
            return None, f"release {release.short}, active then, has no prompt {prompt!r}"
        return ReleasedPrompts(release, present).plan(prompt), ""
    except LLMFeaturesError as error:
        return None, str(error)


def check_renderer(release: Release) -> None:
    """Refuse a release that this version of llmfeatures would render to other bytes.

    Raises:
        ReleaseError: it would.
    """
    found = release.formats.get("renderer")
    if found != RENDERER_FORMAT:
        raise ReleaseError(
            f"release {release.short} was made by llmfeatures {release.library}, whose prompts have other bytes "
            f"(renderer format {found}, here {RENDERER_FORMAT}); rebuild it with llmfeatures {release.library}, or run "
            "llmfeatures apply for a release of this version"
        )


def caution(release: Release) -> str | None:
    """What to say about a release that another version of llmfeatures made; None when this one did."""
    if release.library == __version__:
        return None
    return (
        f"release {release.short} was made by llmfeatures {release.library}, and this is {__version__}; prompts whose "
        "version is the same have the same bytes, and any other is refused"
    )
