"""The documents of a prompt, compiled: what to search for, and what becomes of what was found. Pure; online and history
end here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, NamedTuple

from llmfeatures import codec
from llmfeatures.context import ContextDocument, FeatureOrigin, FeatureValue, made_document
from llmfeatures.errors import DocumentsUnavailableError, FeatureNotPresentError, InvalidValueError
from llmfeatures.plan import FeaturePlan
from llmfeatures.ports import NO_ENTITY, Document, DocumentQuery
from llmfeatures.prompts.compiled import Compiled
from llmfeatures.prompts.documents import template_document
from llmfeatures.refs import Role, origin_of, value_of
from llmfeatures.retriever import Retriever, Tier
from llmfeatures.tokens import Tokenizer

FETCHED = 2
"""So many times ``top_k`` documents are asked for, since some of them are left out as doubles."""


class Name(NamedTuple):
    """A value of the prompt in a filter, by the name that it has in a template."""

    name: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Brought:
    """The features of an entity that a document carries the join keys of, read for each document."""

    entity: str
    features: FeaturePlan

    def keys(self, document: Document) -> dict[str, Any]:
        """The join keys that the document carries; None where it carries none."""
        return {name: document.metadata.get(name) for name in self.features.parameters}


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentPlan:
    """The documents of one name in a prompt.

    ``role`` is whose they are; None for those that are for all. ``query`` is None for the newest ones. ``waits``: the
    query, or the filter, needs feature values. ``brought`` are the entities whose features the template may read of
    a document.
    """

    name: str
    retriever: Retriever
    role: Role | None
    query: Compiled | None
    filter: Mapping[str, Any]
    waits: bool
    top_k: int
    min_score: float | None
    max_tokens: int | None
    on_unavailable: str
    tokenizer: Tokenizer | None = None
    brought: tuple[Brought, ...] = ()
    metadata: Mapping[str, str] = field(init=False)
    """The dtype of each metadata."""
    origins: Mapping[str, FeatureOrigin] = field(init=False)
    """Where the features that documents bring come from, by ``entity.feature``."""

    def __post_init__(self) -> None:
        derive = object.__setattr__
        derive(self, "metadata", {name: str(dtype) for name, dtype in self.retriever.metadata.items()})
        derive(
            self,
            "origins",
            {
                f"{one.entity}.{ref.feature}": origin_of(ref)
                for one in self.brought
                for ref in one.features.outputs
                if ref.printed
            },
        )

    @property
    def reads(self) -> frozenset[str]:
        """The names of the prompt's values in the query and the filter; ``user.status`` too."""
        named = {one.name for one in self.filter.values() if isinstance(one, Name)}
        for name, attributes in self.query.attributes.items() if self.query is not None else ():
            named |= {name if attribute is None else f"{name}.{attribute}" for attribute in attributes} | {name}
        return frozenset(named)

    def search(self, values: Mapping[str, Any], keys: Mapping[str, Any], as_of: datetime) -> DocumentQuery | None:
        """The search for a call; None where there is nothing to search for: nobody is known, the query is empty, or a
        filter names a value that is None or that the metadata cannot have.

        Args:
            values: features (after their policies), inputs and join keys by the names that templates use.
            keys: the call's canonical join keys by parameter name.
            as_of: the moment.

        Raises:
            RenderError: the query cannot be rendered with these values.
        """
        entity, own = NO_ENTITY, dict[str, Any]()
        if self.role is not None:
            join_keys = tuple(self.role.entity.join_keys)
            given = [keys[name] for name in self.role.parameters]
            if None in given:
                return None
            own = dict(zip(join_keys, given, strict=True))
            entity = codec.entity_key(join_keys, given)
        values = {**values, "as_of": as_of}
        wanted = self._wanted(values)
        if wanted is None:
            return None
        text: str | None = None
        if self.query is not None:
            messages = self.query.render(values)
            text = messages[0].content if messages else ""
            if not text:
                return None
        return DocumentQuery(
            top_k=FETCHED * self.top_k,
            as_of=as_of,
            entity=entity,
            keys=own,
            text=text,
            filter=wanted,
            order="recent" if text is None else "score",
        )

    def _wanted(self, values: Mapping[str, Any]) -> dict[str, Any] | None:
        """The filter of a call; None where no document can have it."""
        wanted: dict[str, Any] = {}
        for name, one in self.filter.items():
            try:
                wanted[name] = self.retriever.metadata[name].canonical(_named(one, values))
            except InvalidValueError:  # a default that is no word of the enum
                return None
            if wanted[name] is None:
                return None
        return wanted


def partials_of(template: Compiled, documents: Sequence[DocumentPlan]) -> dict[str, str]:
    """The texts of the partials of a prompt's body and of its queries, by name."""
    found = dict(template.sources)
    for one in documents:
        if one.query is not None:
            found |= one.query.sources
    return dict(sorted(found.items()))


def _named(value: Any, values: Mapping[str, Any]) -> Any:
    if not isinstance(value, Name):
        return value
    first, _, rest = value.name.partition(".")
    return values[first][rest] if rest else values[first]


class Leg(NamedTuple):
    """What a retriever answered for one call: ``documents`` is None where it failed, and ``problem`` says why.
    ``skipped``: there was nothing to search for, and no ``tier``."""

    documents: Sequence[Document] | None
    tier: Tier | None
    problem: str | None = None
    skipped: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen:
    """What of the documents of one name comes into a prompt, and how many were left out because of what."""

    documents: tuple[Document, ...]
    found: int
    doubles: int = 0
    below: int = 0
    cut: int = 0


def chosen(plans: Sequence[DocumentPlan], legs: Sequence[Leg]) -> tuple[Chosen, ...]:
    """The documents of a prompt, name by name: of each text one, in the order of the names and then of the search;
    none below ``min_score``; at most ``top_k``; each text cut to its ``max_tokens``.

    Raises:
        DocumentsUnavailableError: a retriever failed, and the prompt's policy for it is an error.
    """
    seen: set[str] = set()
    return tuple([_chosen(plan, leg, seen) for plan, leg in zip(plans, legs, strict=True)])


def _chosen(plan: DocumentPlan, leg: Leg, seen: set[str]) -> Chosen:
    if leg.documents is None:
        if plan.on_unavailable == "error":
            raise DocumentsUnavailableError(
                f"documents {plan.name!r}: retriever {plan.retriever.name!r} is unavailable, and the policy is an "
                f"error ({leg.problem}); give the header's documents on_unavailable: none to go without them",
                documents=plan.name,
                retriever=plan.retriever.name,
            )
        return Chosen(documents=(), found=0)
    ids: set[str] = set()
    kept: list[Document] = []
    doubles = below = cut = 0
    for one in leg.documents:
        if plan.min_score is not None and (one.score is None or one.score < plan.min_score):
            below += 1
            continue
        if one.id in ids or one.text in seen:
            doubles += 1
            continue
        if len(kept) == plan.top_k:
            break
        text = one.text
        if plan.max_tokens is not None and plan.tokenizer is not None:
            text = plan.tokenizer.clip(text, plan.max_tokens)
        if text in seen:  # two that begin alike
            doubles += 1
            continue
        cut += text != one.text
        ids.add(one.id)
        seen.update((one.text, text))
        kept.append(_with_text(one, text))
    return Chosen(documents=tuple(kept), found=len(leg.documents), doubles=doubles, below=below, cut=cut)


def _with_text(document: Document, text: str) -> Document:
    return document if text == document.text else replace(document, text=text)


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundDocument:
    """A document of a prompt with the features that it brings, settled, by entity and then by feature name."""

    document: Document
    tier: Tier | None
    features: Mapping[str, Mapping[str, FeatureValue]] = field(default_factory=dict[str, Mapping[str, FeatureValue]])


def found_documents(
    plan: DocumentPlan,
    documents: Sequence[Document],
    tier: Tier | None,
    slots: Mapping[str, Sequence[Sequence[FeatureValue]]],
    inputs: Mapping[str, Any],
    as_of: datetime,
) -> list[FoundDocument]:
    """The documents of one name with the features that they bring. ``slots`` are those read, by entity and document.

    Raises:
        OnDemandError: an on-demand feature's function failed, or returned a wrong value.
    """
    made: list[FoundDocument] = []
    for place, document in enumerate(documents):
        features: dict[str, Mapping[str, FeatureValue]] = {}
        for one in plan.brought:
            settled = one.features.found(slots[one.entity][place], {**inputs, **one.keys(document)}, as_of)
            refs = zip(one.features.outputs, settled, strict=True)
            features[one.entity] = {ref.feature: found for ref, found in refs if ref.printed}
        made.append(FoundDocument(document=document, tier=tier, features=features))
    return made


def in_template(prompt: str, path: str, plan: DocumentPlan, found: FoundDocument) -> Any:
    """A document as a template reads it."""
    document = found.document
    return template_document(
        id=document.id,
        version=document.version,
        text=document.text,
        score=document.score,
        metadata=document.metadata,
        entities={
            one.entity: BroughtValues(prompt, path, plan, one, found.features[one.entity]) for one in plan.brought
        },
    )


class BroughtValues(dict[str, Any]):
    """The features that a document brings, as a template reads them: what has no value raises when it is read, unless
    its policy says what stands in."""

    def __init__(
        self, prompt: str, path: str, plan: DocumentPlan, brought: Brought, found: Mapping[str, FeatureValue]
    ) -> None:
        super().__init__()
        self._refused: dict[str, FeatureNotPresentError] = {}
        for ref in brought.features.outputs:
            if not ref.printed:
                continue
            try:
                self[ref.feature] = value_of(prompt, path, ref, found[ref.feature], f"documents {plan.name!r}: ")
            except FeatureNotPresentError as error:
                self._refused[ref.feature] = error

    def __missing__(self, name: str) -> Any:
        if name in self._refused:
            raise self._refused[name]
        raise KeyError(name)


def in_context(found: FoundDocument) -> ContextDocument:
    """A document as a `PromptContext` has it."""
    document = found.document
    return made_document(
        {
            "id": document.id,
            "version": document.version,
            "text": document.text,
            "score": document.score,
            "tier": found.tier,
            "metadata": document.metadata,
            "valid_from": document.valid_from,
            "valid_to": document.valid_to,
            "features": found.features,
        }
    )


def from_context(document: ContextDocument) -> FoundDocument:
    """The document that `in_context` was given; whose it is, a context does not say."""
    return FoundDocument(
        document=Document(
            id=document.id,
            version=document.version,
            text=document.text,
            score=document.score,
            metadata=document.metadata,
            valid_from=document.valid_from,
            valid_to=document.valid_to,
        ),
        tier=document.tier,
        features=document.features,
    )
