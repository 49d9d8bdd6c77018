"""The filters that take another filter, a test or an attribute by its name: ``map``, ``select`` and their like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from jinja2 import nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.documents import attribute_of_document, known_attributes
from llmfeatures.checker.kinds import ANY, Kinds, Value, derived, of, series
from llmfeatures.errors import did_you_mean

if TYPE_CHECKING:
    from llmfeatures.checker.filters import Given
    from llmfeatures.checker.run import Run


_DOCUMENTS = {"document": "a document", "brought": "the entity that a document brings"}


def map_items(given: Given) -> Value:
    """What ``map`` gives."""
    from llmfeatures.checker.calls import apply_filter, check_named

    run, node = given.run, given.node
    keywords = {str(one.key): one.value for one in node.kwargs}
    item = given.item
    if not node.args and not node.dyn_args:
        if "attribute" not in keywords:
            run.tell("LF014", node, "map needs the name of a filter, or attribute=", span=run.source.name_of(node))
            return derived((series(ANY),), given.value)
        for name, one in keywords.items():
            if name not in ("attribute", "default"):
                run.tell("LF014", one, f"map with attribute= takes default=, and no {name!r}")
        made = attribute_of_items(run, keywords["attribute"], item)
        if "default" in keywords:
            made = kinds.joined(
                kinds.dropped(made, "undefined"), given.args.get("default", ANY)
            )  # fmt: skip
        return _series_of(given, made)
    name = check_named(run, node.args[0], "filter") if node.args else None
    if name is None:
        return _series_of(given, ANY)
    called = nodes.Filter(None, name, list(node.args[1:]), node.kwargs, None, None, lineno=node.args[0].lineno)
    return _series_of(given, apply_filter(run, called, item, span=run.source.of(node.args[0])))


def choose_items(given: Given) -> Value:
    """What ``select``, ``reject``, ``selectattr`` and ``rejectattr`` give."""
    from llmfeatures.checker.calls import check_named
    from llmfeatures.checker.conditions import apply_test, narrowed_by_test

    run, node = given.run, given.node
    item, rest = given.item, list(node.args)
    truth = node.name.startswith("select")
    if node.name.endswith("attr"):
        if not rest:
            run.tell("LF014", node, f"{node.name} needs the name of an attribute", span=run.source.name_of(node))
            return _series_of(given, item)
        attribute = rest.pop(0)
        tested = attribute_of_items(run, attribute, item)._replace(path=run.root())
        subject = _named(run, node, attribute)
    else:
        attribute, tested, subject = None, item, node.node or rest[0]
    if not rest:
        left = kinds.with_truth(tested.kinds, truth=truth)
        if attribute is not None:
            return _series_of(given, _narrowed(item, attribute, tested, left))
        return _series_of(given, item._replace(kinds=left or item.kinds))
    name = check_named(run, rest[0], "test")
    if name is None:
        return _series_of(given, item)
    test = nodes.Test(subject, name, rest[1:], node.kwargs, None, None, lineno=rest[0].lineno)
    with run.silent(kinds.is_any(tested)):
        made = apply_test(run, test, tested, span=run.source.of(rest[0]))
    if attribute is not None:
        facts = made.when[0 if truth else 1] if made.when is not None else None
        return _series_of(given, _narrowed(item, attribute, tested, (facts or {}).get(tested.path or (), ())))
    left = narrowed_by_test(name, item.kinds)[0 if truth else 1]
    return _series_of(given, item._replace(kinds=left or item.kinds))


def _named(run: Run, node: nodes.Filter | nodes.Test, attribute: nodes.Expr) -> nodes.Expr:
    """What stands for the attribute of each item in what is said of it."""
    if not isinstance(attribute, nodes.Const) or node.node is None:
        return node.node or attribute
    written = run.text_of(attribute)
    made: Any = nodes.Name(written, "load", lineno=attribute.lineno)
    made.said = str(attribute.value)
    made.advice = f'leave it out before: {run.text_of(node.node, 200)}|rejectattr({written}, "none")|{node.name}(…)'
    return made


def _narrowed(item: Value, attribute: nodes.Expr, tested: Value, left: Kinds) -> Value:
    """The items, of which those were left out whose attribute is None, or undefined."""
    gone = kinds.names(tested.kinds) & {"none", "undefined"} - kinds.names(left)
    there = kinds.without(tested.kinds, *gone)
    of_documents = all(kind.name in ("document", "brought") for kind in item.kinds)
    if not (left and gone and there and of_documents and isinstance(attribute, nodes.Const)):
        return item
    known = {str(attribute.value): there}
    return item._replace(kinds=tuple([kind._replace(parts={**(kind.parts or {}), **known}) for kind in item.kinds]))


def _series_of(given: Given, item: Value) -> Value:
    made = derived((series(item),), given.value, item)
    return made._replace(text_of=item.text_of)


def attribute_of_items(run: Run, node: nodes.Expr, item: Value) -> Value:
    """The attribute of each item that ``attribute=`` names; dots go deeper, numbers are indexes."""
    from llmfeatures.checker.attributes import ATTRIBUTES
    from llmfeatures.checker.filters import GROUP

    if not isinstance(node, nodes.Const):
        return ANY
    if node.value is None:
        return item
    value = item
    for part in str(node.value).split("."):
        found: list[Value] = []
        for kind in value.kinds:
            if kind.name in ("document", "brought"):
                one = attribute_of_document(run.names, run.source, node, kind, part)
                if one is not None:
                    found.append(one._replace(dynamic=True))
            elif kind.name in ("any", "json", "dict", "list", "tuple", "module", "namespace"):
                found.append(_part(kind, part, GROUP))
            elif part in ATTRIBUTES.get(kind.name, {}):
                found.append(ANY)
        if not found and value.kinds:
            one = value.kinds[0]
            if one.name in ("document", "brought"):
                hint = did_you_mean(part, known_attributes(run.names, one))
                run.tell("LF015", node, f"{_DOCUMENTS[one.name]} has no {part!r}{hint}")
            else:
                run.tell("LF016", node, f"the items are {_plural(value)}, and have no .{part}")
            return ANY
        value = kinds.joined(*[derived(one.kinds, one, value) for one in found]) if found else ANY
    return value


def _part(kind: Any, part: str, group: Any) -> Value:
    if kind.name == "dict" and isinstance(kind.parts, dict):
        return cast("dict[Any, Value]", kind.parts).get(part, ANY)
    if kind.name == "tuple" and kind.parts:
        index = group.get(part) if kind.data == "group" else int(part) if part.isdigit() else None
        if index is not None and index < len(kind.parts):
            return kind.parts[index]
    if kind.name == "list" and part.isdigit():
        return kind.item or ANY
    return ANY


def _plural(value: Value) -> str:
    return " or ".join(sorted(kinds.names(value.kinds)))


__all__ = ["attribute_of_items", "choose_items", "map_items", "of"]
