"""Finished prompts: what was read becomes a `PromptContext`, with its manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from datetime import datetime
from typing import NamedTuple

from llmfeatures.context import FeatureValue, PromptContext, Retrieval, made_context, prompt_id, request_id
from llmfeatures.document_plan import FoundDocument, in_context
from llmfeatures.errors import RenderError
from llmfeatures.gathering import Call, Gathered, tell
from llmfeatures.ports import ClockName
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.version import __version__


def made_contexts(
    plan: PromptPlan,
    calls: Sequence[Call],
    slots: Sequence[Sequence[FeatureValue]],
    as_of: datetime,
    source: str,
    clock: ClockName | None,
    problem: str | None,
    gathered: Gathered | None = None,
) -> list[PromptContext]:
    """The finished prompts of calls, in order: ``slots`` are the features of each, ``gathered`` its documents.

    Raises:
        RenderError: one cannot be rendered; of several, the error names its row.
    """
    contexts: list[PromptContext] = []
    for call, found in zip(calls, slots):  # noqa: B905  strict costs, and there is one answer per call
        beside = None if gathered is None else _beside(gathered, len(contexts))
        try:
            contexts.append(_context(plan, call, found, as_of, source, clock, problem, beside))
        except RenderError as error:
            tell(error, problem, len(contexts) if len(calls) > 1 else None)
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
    beside: Beside | None = None,
) -> PromptContext:
    keys, inputs = call
    documents = beside.documents if beside is not None else ()
    finished = plan.finish(slots, keys, inputs, as_of, documents)
    manifest = plan.manifest(
        finished,
        keys,
        source=source,
        clock=clock,
        problem=problem,
        library=__version__,
        retrievals=None if beside is None else beside.retrievals,
        timings=None if beside is None else beside.timings,
        documents=documents,
    )
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
            "documents": {
                one.name: [in_context(document) for document in found]
                for one, found in zip(plan.documents, documents)  # noqa: B905  without any where none were read
            },
            "config": deepcopy(plan.config) if plan.config else {},
            "tokens": finished.tokens,
            "manifest": manifest,
        }
    )


class Beside(NamedTuple):
    """What a call read beside its features: documents per name, what the manifest says of them, and timings."""

    documents: Sequence[Sequence[FoundDocument]]
    retrievals: Mapping[str, Retrieval]
    timings: Mapping[str, float]


def _beside(gathered: Gathered, row: int) -> Beside:
    return Beside(gathered.documents[row], gathered.retrievals[row], gathered.timings)


def given_context(
    plan: PromptPlan, call: Call, slots: Sequence[FeatureValue], as_of: datetime, beside: Beside | None = None
) -> PromptContext:
    """The prompt for features that were given and not read, in the order of the plan's outputs; and for documents.

    Raises:
        RenderError: it cannot be rendered with these values, or a feature has no value and its policy is an error.
    """
    return _context(plan, call, slots, as_of, "none", None, None, beside)
