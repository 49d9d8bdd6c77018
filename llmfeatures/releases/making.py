"""Making a release of what a project is now."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from llmfeatures.builder import Prompts
from llmfeatures.clock import stamp
from llmfeatures.compile import RENDERER_FORMAT
from llmfeatures.errors import LLMFeaturesError, PromptError, ReleaseError
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.texts import PromptTexts
from llmfeatures.refs import ComputedRef
from llmfeatures.registry import Registry
from llmfeatures.releases.changes import Changes
from llmfeatures.releases.content import FORMAT, Release, ReleasedPrompt, release_id
from llmfeatures.releases.definitions import registry_json
from llmfeatures.version import __version__

HEADER_FORMAT = 1
"""Of the header of prompt files: raised when a key means something else."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Applied:
    """What `Project.apply` did. ``release`` is the active one now, unless it was a ``dry_run``; ``changes`` are those
    since ``previous``, the one that was active. ``again``: it had been applied before, and is active again."""

    release: Release
    previous: Release | None
    changes: Changes
    changed: bool
    again: bool
    dry_run: bool

    def as_json(self) -> dict[str, Any]:
        """All of it as JSON, but for the content of prompts."""
        return {
            "release": self.release.id,
            "previous": None if self.previous is None else self.previous.id,
            "changed": self.changed,
            "again": self.again,
            "dry_run": self.dry_run,
            "created": self.release.created,
            "message": self.release.message,
            "library": self.release.library,
            "prompts": {name: one.version for name, one in sorted(self.release.prompts.items())},
            "changes": self.changes.as_json(),
        }


def made_release(
    registry: Registry, texts: PromptTexts, *, created: datetime, message: str = "", parent: str | None = None
) -> Release:
    """A release of these definitions and prompt files. Nothing is kept by that.

    Raises:
        ReleaseError: prompts cannot be compiled; ``problems`` says which, and why.
    """
    plans = _compiled(Prompts(registry, texts))
    used = sorted({name for plan in plans.values() for name in plan.partials})
    made = {name: _prompt(plan, texts.prompts[name]) for name, plan in plans.items()}
    fields: dict[str, Any] = {
        "library": __version__,
        "formats": {"header": HEADER_FORMAT, "release": FORMAT, "renderer": RENDERER_FORMAT},
        "registry": registry_json(registry),
        "prompts": made,
        "partials": {name: texts.partials[name] for name in used},
    }
    draft = Release(id="", created=stamp(created), message=message, parent=parent, **fields)
    return Release(id=release_id(draft.content()), created=draft.created, message=message, parent=parent, **fields)


def _compiled(prompts: Prompts) -> dict[str, PromptPlan]:
    plans: dict[str, PromptPlan] = {}
    problems: list[str] = []
    for name in prompts.names():
        try:
            plans[name] = prompts.plan(name)
        except PromptError as error:
            where = ":".join(str(part) for part in (error.path, error.line, error.column) if part)
            problems.append(f"{where}: error: {error.message}")
        except LLMFeaturesError as error:
            problems.append(f"{name}: error: {error}")
    if problems:
        raise ReleaseError.of(problems)
    return plans


def _prompt(plan: PromptPlan, source: str) -> ReleasedPrompt:
    return ReleasedPrompt(
        name=plan.name,
        version=plan.version,
        source=source,
        partials=tuple(plan.partials),
        features=tuple(ref.name for ref in plan.features.answers),
        on_demand=tuple(sorted({f"{one.on_demand.entity.name}.{one.on_demand.name}" for one in _computed(plan)})),
        retrievers=tuple(sorted({one.retriever.name for one in plan.documents})),
    )


def _computed(plan: PromptPlan) -> Iterator[ComputedRef]:
    yield from plan.features.computed
    for document in plan.documents:
        for one in document.brought:
            yield from one.features.computed
