"""The filters that take another filter, a test or an attribute by its name: ``map``, ``select`` and their like."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from jinja2 import nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.kinds import ANY, Value, derived, of, series

if TYPE_CHECKING:
    from llmfeatures.checker.filters import Given
    from llmfeatures.checker.run import Run


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
    of_attribute = node.name.endswith("attr")
    if of_attribute:
        if not rest:
            run.tell("LF014", node, f"{node.name} needs the name of an attribute", span=run.source.name_of(node))
            return _series_of(given, item)
        tested = attribute_of_items(run, rest.pop(0), item)
    else:
        tested = item
    if not rest:
        left = kinds.with_truth(item.kinds, truth=truth)
        return _series_of(given, item if of_attribute else item._replace(kinds=left or item.kinds))
    name = check_named(run, rest[0], "test")
    if name is None:
        return _series_of(given, item)
    test = nodes.Test(node.node or rest[0], name, rest[1:], node.kwargs, None, None, lineno=rest[0].lineno)
    with run.silent(kinds.is_any(tested)):
        apply_test(run, test, tested, span=run.source.of(rest[0]))
    if of_attribute:
        return _series_of(given, item)
    left = narrowed_by_test(name, item.kinds)[0 if truth else 1]
    return _series_of(given, item._replace(kinds=left or item.kinds))


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
            if kind.name in ("any", "json", "document", "dict", "list", "tuple", "module", "namespace"):
                found.append(_part(kind, part, GROUP))
            elif part in ATTRIBUTES.get(kind.name, {}):
                found.append(ANY)
        if not found and value.kinds:
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
