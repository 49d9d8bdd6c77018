"""Documents that a case gives: they take the place of what retrievers would answer, and all else is as in a call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, cast

import yaml

from llmfeatures.cases.nodes import Given, Pairs, Reader, Written, canonical
from llmfeatures.context import FeatureValue
from llmfeatures.contexts import Beside
from llmfeatures.document_plan import Brought, DocumentPlan, FoundDocument, Leg, chosen
from llmfeatures.errors import InvalidValueError, did_you_mean
from llmfeatures.ports import Document
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.types import DType

KEYS: Final = ("text", "id", "version", "score", "metadata", "features")
UNAVAILABLE: Final = "unavailable"

_MISSING = FeatureValue(None, "missing", None)
Problem = Callable[[str, "Given | Written"], None]
"""Notes what is wrong with a case, and where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenDocument:
    """A document of a case, with the place of everything in it; ``features`` are by entity and name."""

    text: Written
    id: Written
    version: Written | None = None
    score: Given | None = None
    metadata: Mapping[str, Given] = field(default_factory=dict[str, Given])
    features: Mapping[str, tuple[Written, Mapping[str, Given]]] = field(
        default_factory=dict[str, tuple[Written, Mapping[str, Given]]]
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class GivenDocuments:
    """What a retriever is to answer; ``found`` is None where it fails."""

    at: Written
    found: tuple[GivenDocument, ...] | None


def read_documents(reader: Reader, node: yaml.Node) -> dict[str, GivenDocuments]:
    """The documents of a case by the names that the prompt's header gives them.

    Raises:
        PromptError: they are wrong, with line and column.
    """
    made: dict[str, GivenDocuments] = {}
    for name, (key, value) in reader.mapping(node).items():
        at = reader.at(key)
        if isinstance(value, yaml.ScalarNode) and value.value == UNAVAILABLE:
            made[name] = GivenDocuments(at=at, found=None)
            continue
        if not isinstance(value, yaml.SequenceNode):
            raise reader.error(f"{name} is a list of documents, like [{{text: ...}}], or {UNAVAILABLE}", value)
        listed = cast("list[yaml.Node]", value.value)
        made[name] = GivenDocuments(
            at=at, found=tuple([_document(reader, one, number) for number, one in enumerate(listed, 1)])
        )
    return made


def _document(reader: Reader, node: yaml.Node, number: int) -> GivenDocument:
    given = reader.mapping(node)
    reader.known(given, KEYS)
    if "text" not in given:
        raise reader.error("a document needs its text, like {text: ...}", node)
    texts = {key: reader.text(given[key][1], key) for key in ("text", "id", "version") if key in given}
    metadata: Pairs = reader.mapping(given["metadata"][1]) if "metadata" in given else {}
    features: Pairs = reader.mapping(given["features"][1]) if "features" in given else {}
    return GivenDocument(
        text=texts["text"],
        id=texts.get("id", Written(f"d{number}", *reader.place(node))),
        version=texts.get("version"),
        score=reader.given(given["score"][1]) if "score" in given else None,
        metadata={name: reader.given(one) for name, (_, one) in metadata.items()},
        features={
            name: (reader.at(key), {each: reader.given(value) for each, (_, value) in reader.mapping(one).items()})
            for name, (key, one) in features.items()
        },
    )


# -- in a prompt -----------------------------------------------------------------------------------------------------


def check_names(plan: PromptPlan, given: Mapping[str, GivenDocuments], wrong: Problem) -> None:
    """Note names that the prompt has no documents of."""
    known = [one.name for one in plan.documents]
    for name, one in given.items():
        if name not in known:
            wrong(f"the prompt has no documents {name!r}{did_you_mean(name, known)}", one.at)


def beside(
    plan: PromptPlan,
    given: Mapping[str, GivenDocuments],
    inputs: Mapping[str, Any],
    as_of: datetime,
    wrong: Problem,
) -> Beside | None:
    """What a call has beside its features; None for a prompt without documents. What is wrong with them is noted.

    Raises:
        RenderError: a retriever is to fail, and the prompt's policy for it is an error.
        OnDemandError: an on-demand feature's function failed.
    """
    if not plan.documents:
        return None
    legs: list[Leg] = []
    features: dict[tuple[str, str], GivenDocument] = {}
    for one in plan.documents:
        wanted = given.get(one.name)
        if wanted is not None and wanted.found is None:
            legs.append(Leg(None, None, "the case says so"))
            continue
        documents = () if wanted is None else wanted.found or ()
        features |= {(one.name, each.id.text): each for each in documents}
        legs.append(Leg([_found(one, each, as_of, wrong) for each in documents], "exact"))
    kept = chosen(plan.documents, legs)
    found = [
        [
            _with_features(one, document, features[one.name, document.id], inputs, as_of, wrong)
            for document in made.documents
        ]
        for one, made in zip(plan.documents, kept, strict=True)
    ]
    return Beside(found, plan.retrievals(legs, kept), {})


def _found(plan: DocumentPlan, given: GivenDocument, as_of: datetime, wrong: Problem) -> Document:
    known = plan.retriever.metadata
    for name, one in given.metadata.items():
        if name not in known:
            wrong(f"retriever {plan.retriever.name!r} has no metadata {name!r}{did_you_mean(name, known)}", one)
    score: float | None = None
    if plan.query is not None:
        score = 1.0 if given.score is None else _value("score", DType("float"), given.score, wrong)
    elif given.score is not None:
        wrong(f"documents {plan.name!r} are found by order: recent, and have no score", given.score)
    return Document(
        id=given.id.text,
        version="1" if given.version is None else given.version.text,
        text=given.text.text,
        score=score,
        metadata={
            name: _value(name, dtype, given.metadata[name], wrong) if name in given.metadata else None
            for name, dtype in known.items()
        },
        valid_from=as_of,
    )


def _with_features(
    plan: DocumentPlan,
    document: Document,
    given: GivenDocument,
    inputs: Mapping[str, Any],
    as_of: datetime,
    wrong: Problem,
) -> FoundDocument:
    brought = {one.entity: one for one in plan.brought}
    for entity, (at, _) in given.features.items():
        if entity not in brought:
            wrong(f"the prompt reads no features of {entity!r} of documents {plan.name!r}{_of(entity, brought)}", at)
    return FoundDocument(
        document=document,
        tier="exact",
        features={
            name: _features(one, given.features[name][1] if name in given.features else {},
                            {**inputs, **one.keys(document)}, as_of, wrong)
            for name, one in brought.items()
        },
    )  # fmt: skip


def _of(name: str, known: Mapping[str, object]) -> str:
    return did_you_mean(name, known) if known else ""


def _features(
    brought: Brought, given: Mapping[str, Given], values: Mapping[str, Any], as_of: datetime, wrong: Problem
) -> dict[str, FeatureValue]:
    plan = brought.features
    known = {ref.feature: ref for ref in plan.outputs}
    found: dict[str, FeatureValue] = {}
    for name, one in given.items():
        if name not in known:
            wrong(f"the prompt reads no feature {brought.entity}.{name}{did_you_mean(name, known)}", one)
            continue
        value = _value(name, known[name].dtype, one, wrong)
        found[name] = FeatureValue(value, "null" if value is None else "present", as_of)
    settled = plan.settle([found.get(ref.feature, _MISSING) for ref in plan.refs], as_of)
    stored: Sequence[FeatureValue] = list(settled)
    for ref in plan.computed:
        settled.append(found[ref.feature] if ref.feature in found else ref.value(stored, values, as_of))
    return {ref.feature: one for ref, one in zip(plan.outputs, settled, strict=True) if ref.printed}


def _value(name: str, dtype: DType, given: Given, wrong: Problem) -> Any:
    try:
        return canonical(name, dtype, given)
    except InvalidValueError as error:
        wrong(str(error), given)
        return None
