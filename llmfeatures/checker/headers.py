"""The documents in a prompt's header: what is said of them, their queries and filters."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from jinja2 import nodes

from llmfeatures.checker import kinds, templates
from llmfeatures.checker.documents import DocumentKind
from llmfeatures.checker.expressions import value_of
from llmfeatures.checker.kinds import Kind, Value
from llmfeatures.checker.positions import Source, Span
from llmfeatures.checker.run import Capture, Frame, Run, parse
from llmfeatures.compile_documents import Name, attributes_in, document_errors, features_of, written_name
from llmfeatures.errors import PromptError
from llmfeatures.prompts.header import Documents
from llmfeatures.prompts.header_yaml import HeaderError, Place
from llmfeatures.prompts.tags import BEGIN_DATA, END_DATA, TAGS
from llmfeatures.registry import FoundOnDemand, Registry
from llmfeatures.types import DType

_IN_A_QUERY: Final = frozenset({BEGIN_DATA, END_DATA})


class HeaderSource(Source):
    """A template that is a value of the header. Where YAML has it as it is, a place in it is one of the file; else all
    of it is at the beginning of the value."""

    def __init__(self, path: str, text: str, place: Place | None) -> None:
        super().__init__(path, text)
        self.at = place
        width = place.end_column - place.column if place is not None and place.line == place.end_line else -1
        self._shift = {len(text): 0, len(text) + 2: 1}.get(width)  # in quotes, or not

    def span(self, start: int, end: int) -> Span:
        """Two places in the text as a span of the file."""
        if self.at is None or self._shift is None:
            return self.beginning()
        column = self.at.column + self._shift
        return Span(self.at.line, column + start, self.at.line, column + max(end, start))

    def whole(self) -> Span:
        """Where the value is."""
        return Span(None) if self.at is None else Span(*self.at)

    def beginning(self) -> Span:
        """Where the value begins, with no end: no edit is for there."""
        return Span(None) if self.at is None else Span(self.at.line, self.at.column)

    def of(self, node: nodes.Node) -> Span:
        """Where a node is."""
        start = self.start(node)
        return self.beginning() if start is None else self.span(start, self.end(node) or start)


def check_documents(run: Run) -> None:
    """Report what is wrong with the documents in the header, their queries and filters."""
    header, registry = run.file.header, run.names.registry
    for name, one in header.documents.items():
        for error in document_errors(registry, run.file, one, run.names.roles, counts=header.budget is not None):
            ends = (error.end_line, error.end_column) if isinstance(error, HeaderError) else ()
            span = Span(error.line, error.column, *ends)
            message, _, advice = error.message.partition("; ")
            known = [each.name for each in registry.retrievers]
            unknown = one.retriever not in known and error.message.startswith("unknown retriever")
            run.report(
                "LF002", Source(run.file.path, ""), None, message, span=span, help=advice,
                close=(one.retriever, known) if unknown else None,
            )  # fmt: skip
        for code, error in _never_found(run, one):
            ends = (error.end_line, error.end_column) if isinstance(error, HeaderError) else ()
            span = Span(error.line, error.column, *ends)
            run.report(code, Source(run.file.path, ""), None, error.message, span=span)
        if one.query is not None:
            _read_query(run, name, one.query)
        for key, written in one.filter.items():
            if isinstance(written_name(written), Name):
                _check_filter(run, name, key, written)


def _never_found(run: Run, one: Documents) -> Iterator[tuple[str, PromptError]]:
    """What leaves no document, whatever there is."""
    retriever = next((known for known in run.names.registry.retrievers if known.name == one.retriever), None)
    if retriever is None:
        return
    if one.min_score is not None and one.min_score > 1 and retriever.embedder is not None:
        said = f"{one.name}: min_score is above 1, and the score, a cosine similarity, never is: nothing is found"
        yield "LF002", run.file.error(said, "documents", one.name, "min_score")
    for key, written in one.filter.items():
        if written is None and key in retriever.metadata:
            said = f"{one.name}: filter {key} is null, and no document is found by that; name a value, or remove it"
            yield "LF012", run.file.error(said, "documents", one.name, "filter", key)


def _source(run: Run, text: str, *keys: str) -> HeaderSource:
    return HeaderSource(run.file.path, text, run.file.values.get(keys))


def _parsed(run: Run, name: str, source: HeaderSource, what: str) -> nodes.Template | None:
    parsed = parse(run.environment, f"{run.file.name} {name}", source)
    if parsed.tree is None:
        message, _, column = parsed.problem or ("a syntax error", None, None)
        span = source.beginning() if column is None else source.span(column - 1, column)
        run.report("LF001", source, None, f"{name}: {what}: {message}", span=span)
    return parsed.tree


def _read_query(run: Run, name: str, query: str) -> None:
    source = _source(run, query, "documents", name, "query")
    tree = _parsed(run, name, source, "query")
    if tree is None:
        return
    if any(one.name in TAGS and one.name not in _IN_A_QUERY for one in _filters(run, tree, set())):
        message = f"{name}: a query is one text, without messages, sections and cache breaks"
        run.report("LF002", source, None, message, span=source.whole())
        return
    captured = _apart(run, name, source, lambda: templates.read_whole(run, tree))
    if captured.blank and not captured.values and not run.muted:
        run.report(
            "LF066", source, None, f"{name}: the query can never have any text, and finds nothing", span=source.whole(),
            help="write one, or write order: recent and no query",
        )  # fmt: skip


def _filters(run: Run, tree: nodes.Template, seen: set[str]) -> Iterator[nodes.Filter]:
    """The filters of a template, which tags are too, and of the partials that it uses."""
    yield from tree.find_all(nodes.Filter)
    for node in tree.find_all((nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)):
        name = node.template.value if isinstance(node.template, nodes.Const) else None
        if isinstance(name, str) and name not in seen:
            seen.add(name)
            found = run.partial(name)
            if found is not None and found.tree is not None:
                yield from _filters(run, found.tree, seen)


def _apart(run: Run, name: str, source: HeaderSource, read: Callable[[], object]) -> Capture:
    """Read a template of its own, with the names of the prompt and none of those that the body sets."""
    kept = run.source, run.frames, run.tops, run.blocks, run.captures, run.facts, run.role, run.fences
    capture = Capture()
    run.source, run.frames, run.tops, run.blocks, run.facts = source, [], [Frame()], {}, {}
    run.captures, run.role, run.fences, run.names.searching = [capture], None, 0, name
    try:
        with run.scope(run.tops[0]):
            read()
    finally:
        run.source, run.frames, run.tops, run.blocks, run.captures, run.facts, run.role, run.fences = kept
        run.names.searching = ""
    return capture


def _check_filter(run: Run, name: str, key: str, written: str) -> None:
    keys = ("documents", name, "filter", key)
    source = _source(run, written, *(keys if keys in run.file.values else keys[:-1]))
    tree = _parsed(run, name, source, f"filter {key}")
    expression = None if tree is None else next(iter(tree.find_all((nodes.Getattr, nodes.Name))), None)
    if not isinstance(expression, (nodes.Getattr, nodes.Name)):
        return
    found: list[Value] = []
    _apart(run, name, source, lambda: found.append(value_of(run, expression)))
    kind: DocumentKind = run.names.documents[name].data
    dtype = None if kind.retriever is None else kind.retriever.metadata.get(key)
    if dtype is None or kinds.is_any(found[0]):
        return
    given = kinds.without(found[0].kinds, "none")
    if {_compared(each.name) for each in given} - {_compared(kinds.kind_of(dtype).name)}:
        run.report(
            "LF012", source, expression, f"{name}: filter {key} is {dtype}, and {written_name(written).name!r} is "
            f"{kinds.called(given)}: they are never equal",
        )  # fmt: skip


def _compared(name: str) -> str:
    return "str" if name == "enum" else name


def check_brought_inputs(run: Run) -> None:
    """Report on-demand features of entities that documents bring which take an input that the prompt does not have."""
    header, registry = run.file.header, run.names.registry
    if not header.documents:
        return
    read = frozenset[str]().union(*(attributes_in(tree) for _, tree in run.read_files.values()))
    for name, feature, dtype, documents, entity in _inputs(registry, run.names.documents, read):
        run.names.inputs_read.add(name)
        declared = header.inputs.get(name)
        if declared is None or declared.dtype != dtype:
            run.names.header(
                "LF019", f"{documents}: feature {feature!r} of entity {entity!r} takes the input {name!r} ({dtype}); "
                f"declare it under inputs, as {name}: {dtype}", "documents", documents,
            )  # fmt: skip


def _inputs(
    registry: Registry, documents: Mapping[str, Kind], read: frozenset[str]
) -> Iterator[tuple[str, str, DType, str, str]]:
    for name, kind in documents.items():
        for role in kind.data.brought.values():
            for found in features_of(registry, role.entity) if role.entity.name in read else ():
                if isinstance(found, FoundOnDemand) and found.feature.name in read:
                    for one, dtype in found.feature.inputs.items():
                        yield one, found.feature.name, dtype, name, role.entity.name
