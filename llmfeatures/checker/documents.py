"""What a document has in a template: its parts, and the features of entities that it brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Any, cast

from jinja2 import nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.kinds import ANY, FLOAT, NONE, STR, UNDEFINED, Kind, Kinds, Value, of
from llmfeatures.checker.positions import Source
from llmfeatures.registry import Registry
from llmfeatures.retriever import Retriever
from llmfeatures.types import DType

if TYPE_CHECKING:
    from llmfeatures.checker.names import Names
    from llmfeatures.prompts.file import PromptFile
    from llmfeatures.refs import Role


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentKind:
    """What the documents of one name have. ``retriever`` is None where there is none of its name."""

    retriever: Retriever | None
    scored: bool
    brought: Mapping[str, Role]
    others: tuple[DocumentKind, ...] = ()
    """What else a document may be, where several searches are one list."""

    def joined_with(self, other: DocumentKind) -> DocumentKind:
        """Documents of either."""
        first, *others = self.alternatives()
        for one in other.alternatives():
            if one != first and one not in others:
                others.append(one)
        return replace(first, others=tuple(others))

    def alternatives(self) -> tuple[DocumentKind, ...]:
        """The documents of each search."""
        return replace(self, others=()), *self.others

    def names(self) -> list[str]:
        """What may be read of a document."""
        return ["id", "metadata", "score", "text", "version", *self.brought]


def document_kinds(registry: Registry, file: PromptFile, role_of: Any) -> dict[str, Kind]:
    """The kind of a document, by the name of the documents."""
    known = {one.name: one for one in registry.retrievers}
    made: dict[str, Kind] = {}
    for name, one in file.header.documents.items():
        retriever = known.get(one.retriever)
        brought = {} if retriever is None else {e.name: role_of(e.name, e) for e in registry.brought_by(retriever)}
        data = DocumentKind(retriever=retriever, scored=one.order == "score", brought=brought)
        made[name] = Kind("document", truth=True, data=data)
    return made


def attribute_of_document(names: Names, source: Source, node: nodes.Node, kind: Kind, name: str) -> Value | None:
    """``d.name`` of a document, or of an entity that one brings; None where there is no such attribute."""
    data: DocumentKind | None = kind.data if kind.name == "document" else None
    if kind.name == "brought":
        made = names.brought(kind.data, name, source, node)
    elif data is not None and data.others:
        made = _of_either([_attribute(one, name) for one in data.alternatives()])
    else:
        made = _attribute(data, name)
    return made if made is None or not kind.parts else _told(made, kind.parts, name)


def _told(made: Value, told: Mapping[str, Kinds], name: str) -> Value:
    """The attribute as the filters before leave it: ``told`` are kinds by the path that a filter names."""
    if name in told:
        return made._replace(kinds=kinds.meet(made.kinds, told[name]) or made.kinds)
    deeper = {path.removeprefix(f"{name}."): known for path, known in told.items() if path.startswith(f"{name}.")}
    if not deeper or len(made.kinds) != 1:
        return made
    (kind,) = made.kinds
    if kind.name == "brought":
        return made._replace(kinds=(kind._replace(parts=deeper),))
    if kind.name == "dict" and isinstance(kind.parts, dict):
        parts = cast("dict[str, Value]", kind.parts)
        changed = {key: _told(one, deeper, key) for key, one in parts.items()}
        return made._replace(kinds=(kind._replace(parts=changed),))
    return made


def _of_either(values: Sequence[Value | None]) -> Value | None:
    """What one of several kinds of documents has, which may be undefined where not all of them have it."""
    found = [one for one in values if one is not None]
    if not found:
        return None
    if all(one.kinds[0].name == "dict" for one in found):
        every = [cast("dict[str, Value]", one.kinds[0].parts) for one in found]
        parts = {key: _of_either([one.get(key) for one in every]) for key in dict.fromkeys(chain(*every))}
        return of(Kind("dict", parts=parts))
    made = kinds.joined(*found)
    return made if len(found) == len(values) else made._replace(kinds=kinds.unite(made.kinds, (UNDEFINED,)))


def _attribute(data: DocumentKind | None, name: str) -> Value | None:
    match name:
        case "text" | "id" | "version":
            return of(STR)
        case "score":
            return of(FLOAT) if data is None or data.scored else of(FLOAT, NONE)
        case "metadata" if data is not None and data.retriever is not None:
            parts = {key: _metadata(key, dtype) for key, dtype in data.retriever.metadata.items()}
            return of(Kind("dict", parts=parts))
        case "metadata":
            return of(Kind("json"))
        case _ if data is None or data.retriever is None:
            return ANY
        case _:
            role = data.brought.get(name)
            return None if role is None else of(Kind("brought", truth=True, data=role))


def _metadata(name: str, dtype: DType) -> Value:
    text = dtype.kind in ("str", "json") or (dtype.kind == "list" and dtype.item == DType("str"))
    return Value((kinds.kind_of(dtype), NONE), None, f"metadata {name!r}" if text else "", dynamic=True)


def known_attributes(names: Names, kind: Kind) -> list[str]:
    """The attributes of a document, or of an entity that one brings."""
    if kind.name == "brought":
        return names.features_of(kind.data.entity.name)
    return DocumentKind(retriever=None, scored=True, brought={}).names() if kind.data is None else kind.data.names()
