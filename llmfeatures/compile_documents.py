"""Compile the documents of a prompt file: their queries and filters, whose they are, and which features they bring."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from jinja2 import nodes

from llmfeatures.document_plan import Brought, DocumentPlan, Name
from llmfeatures.errors import InvalidValueError, PromptError, UnknownNameError, did_you_mean
from llmfeatures.ondemand import code_hash_of
from llmfeatures.plan import FeaturePlan, plan_named
from llmfeatures.prompts.compiled import Compiled
from llmfeatures.prompts.compiling import compile_prompt
from llmfeatures.prompts.environment import PromptEnvironment
from llmfeatures.prompts.file import ABSENT, Documents, Input, Policy, PromptFile
from llmfeatures.refs import FeatureRef, Role, role_of
from llmfeatures.registry import Found, FoundOnDemand, Registry
from llmfeatures.retriever import FILTERED, Retriever
from llmfeatures.schema import Entity
from llmfeatures.tokens import Tokenizer
from llmfeatures.types import DType, json_text

DOCUMENTS_FORMAT: Final = 1
"""Part of the version of every prompt with documents: raised when other ones of those found, or other parts of them,
come into a prompt."""
_ONE_NAME: Final = re.compile(r"\s*\{\{\s*([A-Za-z_]\w*(?:\.[A-Za-z_]\w*)?)\s*\}\}\s*", re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class Reads:
    """What a prompt reads from its context: its body, its partials, and the queries and filters of its documents. As
    of `Compiled`."""

    names: frozenset[str]
    attributes: Mapping[str, tuple[str | None, ...]]
    positions: Mapping[str, tuple[str, int, int | None]]

    @classmethod
    def of(cls, file: PromptFile, template: Compiled, queries: Mapping[str, Compiled]) -> Reads:
        """Of all parts together."""
        attributes = {name: list(read) for name, read in template.attributes.items()}
        positions = dict(template.positions)
        for document in file.header.documents.values():
            where = _place(file, document.name)
            for name, attribute in _read_by(document, queries.get(document.name)):
                known = attributes.setdefault(name, [])
                if attribute not in known:
                    known.append(attribute)
                positions.setdefault(name, where)
                if attribute is not None:
                    positions.setdefault(f"{name}.{attribute}", where)
        return cls(
            names=frozenset(attributes),
            attributes={name: tuple(read) for name, read in attributes.items()},
            positions=positions,
        )


def _place(file: PromptFile, name: str) -> tuple[str, int, int | None]:
    place = file.values.get(("documents", name, "query")) or file.values.get(("documents", name, "filter"))
    if place is not None:
        return file.path, place.line, place.column
    line, column = file.positions.get(("documents", name), (1, 1))
    return file.path, line, column


def _read_by(document: Documents, query: Compiled | None) -> Iterator[tuple[str, str | None]]:
    """The names that a query and a filter read, each with the attribute."""
    for name in sorted(query.names) if query is not None else ():
        for attribute in query.attributes[name] if query is not None else ():
            yield name, attribute
    for value in document.filter.values():
        if isinstance(one := written_name(value), Name):
            name, _, attribute = one.name.partition(".")
            yield name, attribute or None


def written_name(value: Any) -> Any:
    """A value of a header's filter: a `Name` where it is written ``"{{ name }}"``, else the value itself."""
    found = _ONE_NAME.fullmatch(value) if isinstance(value, str) else None
    return value if found is None else Name(found[1])


def compiled_queries(
    file: PromptFile, environment: PromptEnvironment, tokenizer: Tokenizer | None = None
) -> dict[str, Compiled]:
    """The query of each of a prompt file's documents that has one, compiled. ``tokenizer`` is that of the budget.

    Raises:
        PromptError: a query cannot be right.
    """
    made: dict[str, Compiled] = {}
    for name, one in file.header.documents.items():
        if one.query is None:
            continue
        try:
            query = compile_prompt(
                environment,
                one.query,
                name=f"{file.name} {name}",
                path=file.path,
                line_offset=0,
                tokenizer=tokenizer,
            )
        except PromptError as error:
            raise file.error(f"{name}: query: {error.message}", "documents", name, "query") from None
        if query.uses_messages or query.sections or query.breaks:
            raise file.error(
                f"{name}: a query is one text, without messages, sections and cache breaks", "documents", name, "query"
            )
        for read in sorted(query.names & file.header.documents.keys()):
            raise file.error(f"{name}: query: {_no_documents(read)}", "documents", name, "query")
        made[name] = query
    return made


def _no_documents(name: str) -> str:
    return f"{name!r} are documents, which nothing is searched by; documents are read by the body of the prompt"


def planned_documents(
    registry: Registry,
    file: PromptFile,
    template: Compiled,
    queries: Mapping[str, Compiled],
    roles: Mapping[str, Role],
    policies: Mapping[tuple[str, str], Policy],
) -> tuple[DocumentPlan, ...]:
    """The documents of a prompt file, in the order of its header. ``roles`` are the prompt's by name.

    Raises:
        PromptError: there is no such retriever, or what the header says does not go with it.
    """
    if not file.header.documents:
        return ()
    attributes = read_attributes(template)
    given = {"as_of", *file.header.inputs, *(name for role in roles.values() for name in role.parameters)}
    made: list[DocumentPlan] = []
    for name, one in file.header.documents.items():
        retriever = _retriever(registry, file, one)
        query = queries.get(name)
        reads = {read for read, _ in _read_by(one, query)}
        made.append(
            DocumentPlan(
                name=name,
                retriever=retriever,
                role=_role(file, one, retriever, roles),
                query=query,
                filter=_filter(file, one, retriever),
                waits=not reads <= given,
                top_k=one.top_k,
                min_score=one.min_score,
                max_tokens=one.max_tokens,
                on_unavailable=one.on_unavailable,
                tokenizer=template.tokenizer,
                brought=tuple(_brought(registry, retriever, attributes, policies)),
            )
        )
        _check_count(file, one, counts=template.tokenizer is not None)
    return tuple(made)


def _check_count(file: PromptFile, one: Documents, *, counts: bool) -> None:
    if one.max_tokens is not None and not counts:
        raise file.error(
            f"{one.name}: max_tokens need a tokenizer; give the header a budget, like "
            "budget: {max_tokens: 4000, tokenizer: o200k_base}",
            "documents", one.name, "max_tokens",
        )  # fmt: skip


def document_errors(
    registry: Registry, file: PromptFile, one: Documents, roles: Mapping[str, Role], *, counts: bool
) -> Iterator[PromptError]:
    """All that is wrong with what a header says of documents, beside what their query is. ``counts``: whether there is
    a budget, whose tokenizer counts."""
    try:
        _check_count(file, one, counts=counts)
    except PromptError as error:
        yield error
    try:
        retriever = _retriever(registry, file, one)
    except PromptError as error:
        yield error
        retriever = next((known for known in registry.retrievers if known.name == one.retriever), None)
        if retriever is None:
            return
    try:
        _role(file, one, retriever, roles)
    except PromptError as error:
        yield error
    for name, written in one.filter.items():
        try:
            _filter(file, replace(one, filter={name: written}), retriever)
        except PromptError as error:
            yield error


def _retriever(registry: Registry, file: PromptFile, one: Documents) -> Retriever:
    try:
        retriever = registry.retriever(one.retriever)
    except UnknownNameError as error:
        raise file.error(str(error), "documents", one.name, "retriever") from None
    if one.query is not None and retriever.embedder is None and retriever.function is None:
        raise file.error(
            f"{one.name}: retriever {one.retriever!r} has no embedder, so it answers no query; give it one in the "
            "registry, or write order: recent and no query",
            "documents", one.name, "query",
        )  # fmt: skip
    return retriever


def _role(file: PromptFile, one: Documents, retriever: Retriever, roles: Mapping[str, Role]) -> Role | None:
    if retriever.entity is None:
        if one.entity is not None:
            raise file.error(
                f"{one.name}: the documents of retriever {one.retriever!r} are for all, and no entity's; remove entity",
                "documents", one.name, "entity",
            )  # fmt: skip
        return None
    found = [role for role in roles.values() if role.entity == retriever.entity]
    if one.entity is not None:
        chosen = next((role for role in found if role.name == one.entity), None)
        if chosen is None:
            raise file.error(
                f"{one.name}: entity {one.entity!r} is no role of entity {retriever.entity.name!r} here"
                f"{did_you_mean(one.entity, [role.name for role in found])}", "documents", one.name, "entity",
            )  # fmt: skip
        return chosen
    if len(found) == 1:
        return found[0]
    if found:
        names = " and ".join(repr(role.name) for role in found)
        raise file.error(
            f"{one.name}: the documents of retriever {one.retriever!r} belong to entity {retriever.entity.name!r}, "
            f"which has several roles here, {names}; say whose by entity: {found[0].name}",
            "documents", one.name, "retriever",
        )  # fmt: skip
    raise file.error(
        f"{one.name}: the documents of retriever {one.retriever!r} belong to entity {retriever.entity.name!r}, which "
        f"has no role here; add one to the header, like entities: {{{retriever.entity.name}: {retriever.entity.name}}}",
        "documents", one.name, "retriever",
    )  # fmt: skip


def _filter(file: PromptFile, one: Documents, retriever: Retriever) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for name, written in one.filter.items():
        at = ("documents", one.name, "filter", name)
        dtype = retriever.metadata.get(name)
        if dtype is None:
            raise file.key_error(
                f"{one.name}: retriever {one.retriever!r} has no metadata {name!r}"
                f"{did_you_mean(name, retriever.metadata)}", *at,
            )  # fmt: skip
        if dtype.kind not in FILTERED:
            raise file.key_error(f"{one.name}: metadata {name!r} is {dtype}, which a filter cannot compare", *at)
        value = written_name(written)
        if isinstance(value, Name) and value.name.partition(".")[0] in file.header.documents:
            raise file.error(f"{one.name}: filter {name}: {_no_documents(value.name.partition('.')[0])}", *at)
        if not isinstance(value, Name):
            try:
                value = dtype.canonical(value)
            except InvalidValueError as error:
                raise file.error(f"{one.name}: filter {name}: {error}", *at) from None
        made[name] = value
    return made


def read_attributes(template: Compiled) -> frozenset[str]:
    """Every attribute that a prompt's body and partials read of anything, as far as it is written out."""
    trees = [template.parsed(source) for source in (template.body, *template.sources.values())]
    return frozenset[str]().union(*map(attributes_in, trees))


def attributes_in(tree: nodes.Template) -> frozenset[str]:
    """Every attribute that a template reads of anything, as far as it is written out."""
    found: set[str] = set()
    for node in tree.find_all((nodes.Getattr, nodes.Const)):
        if isinstance(node, nodes.Getattr):
            found.add(node.attr)
        elif isinstance(node.value, str):
            found.update(node.value.split("."))
    return frozenset(found)


def _brought(
    registry: Registry, retriever: Retriever, attributes: frozenset[str], policies: Mapping[tuple[str, str], Policy]
) -> Iterator[Brought]:
    for entity in registry.brought_by(retriever):
        if entity.name not in attributes:
            continue
        role = role_of(entity.name, entity)
        named = [
            (found.feature.name, role, found)
            for found in features_of(registry, entity)
            if found.feature.name in attributes
        ]
        yield Brought(entity=entity.name, features=plan_named(registry, named, policies))


def brought_roles(registry: Registry, file: PromptFile, roles: Mapping[str, Role]) -> list[Role]:
    """The roles of entities that a prompt's documents bring, beside the prompt's own."""
    retrievers = {one.retriever for one in file.header.documents.values()}
    brought = (entity for one in registry.retrievers if one.name in retrievers for entity in registry.brought_by(one))
    return [role_of(name, entity) for name, entity in {one.name: one for one in brought}.items() if name not in roles]


def brought_names(documents: Iterable[DocumentPlan]) -> set[str]:
    """The names that a header's policies may have for the features that documents bring."""
    found = [(one.entity, ref.feature) for each in documents for one in each.brought for ref in one.features.outputs]
    return {name for entity, feature in found for name in (feature, f"{entity}.{feature}")}


def features_of(registry: Registry, entity: Entity) -> Iterable[Found | FoundOnDemand]:
    """All features of an entity, stored and on demand."""
    for view in registry.views_of(entity):
        for feature in view.features:
            yield Found(view, feature)
    yield from map(FoundOnDemand, registry.on_demand_of(entity))


def check_brought_inputs(file: PromptFile, documents: Iterable[DocumentPlan], inputs: Mapping[str, Input]) -> None:
    """Refuse a document's on-demand feature that takes an input which the prompt does not have."""
    for document in documents:
        for brought in document.brought:
            for name, dtype in brought.features.inputs.items():
                if name not in inputs or inputs[name].dtype != dtype:
                    raise file.error(
                        f"{document.name}: a feature of entity {brought.entity!r} takes the input {name!r} ({dtype}); "
                        f"declare it under inputs, as {name}: {dtype}",
                        "documents",
                        document.name,
                    )


def check_filters(
    file: PromptFile, documents: Iterable[DocumentPlan], features: FeaturePlan, inputs: Mapping[str, Input]
) -> None:
    """Refuse a filter by a value of the prompt that has another dtype than the metadata."""
    known = {"as_of": DType("timestamp"), **{ref.name: ref.dtype for ref in features.outputs}}
    known |= {name: one.dtype for name, one in inputs.items()}
    for role in features.roles:
        known |= dict(zip(role.parameters, role.entity.join_keys.values(), strict=True))
    for document in documents:
        for name, value in document.filter.items():
            dtype, metadata = known.get(value.name) if isinstance(value, Name) else None, document.retriever.metadata
            if dtype is not None and _compared(dtype) != _compared(metadata[name]):
                raise file.error(
                    f"{document.name}: filter {name} is {metadata[name]}, and {value.name!r} is {dtype}; "
                    "they are never equal",
                    "documents", document.name, "filter", name,
                )  # fmt: skip


def _compared(dtype: DType) -> str:
    return "str" if dtype.kind == "enum" else dtype.kind


def version_of(documents: Iterable[DocumentPlan], file: PromptFile) -> dict[str, object]:
    """What decides the bytes of a prompt with documents beside its body; nothing for another."""
    parts = [_version(one, file.header.documents[one.name]) for one in documents]
    return {"documents": [DOCUMENTS_FORMAT, parts]} if parts else {}


def _version(plan: DocumentPlan, written: Documents) -> list[object]:
    retriever, embedder = plan.retriever, plan.retriever.embedder
    return [
        plan.name, retriever.name, None if plan.role is None else plan.role.name, written.query,
        {name: one if isinstance(one, Name) else json_text(one) for name, one in sorted(plan.filter.items())},
        plan.top_k, plan.min_score, plan.max_tokens, plan.on_unavailable,
        None if embedder is None else [embedder.model, embedder.dimensions],
        {name: str(dtype) for name, dtype in sorted(retriever.metadata.items())},
        None if retriever.function is None else code_hash_of(retriever.function),
        [[one.entity, _brought_version(one)] for one in plan.brought],
    ]  # fmt: skip


def _brought_version(brought: Brought) -> list[object]:
    return [
        [
            ref.name, str(ref.dtype), None if ref.limit is None else str(ref.limit), ref.policy.on_missing,
            ref.policy.on_unavailable, "" if ref.policy.default is ABSENT else json_text(ref.policy.default),
            None if isinstance(ref, FeatureRef) else ref.on_demand.code_hash(),
        ]
        for ref in sorted(brought.features.outputs, key=lambda one: one.name)
    ]  # fmt: skip
