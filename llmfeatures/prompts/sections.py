"""Where sections, cache breaks and the conversation stand in a template and its partials, and where they cannot stand.

A section is dropped or cut after the prompt is rendered, so its text has to reach the prompt unchanged and once: not by
way of a macro, a set, call or filter block, nor inside a fence. A cache break is one place of the finished prompt, so
it stands directly in a message; the place of the conversation is one between messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from jinja2 import nodes

from llmfeatures.blocks import MOST_BREAKS
from llmfeatures.prompts.tags import CACHE_BREAK, CONVERSATION, END_DATA, END_MESSAGE, END_SECTION

Place = tuple[str, ...]
"""What a node is inside of, from the outside in."""

_TAG_BLOCKS: Final = {END_MESSAGE: "message", END_DATA: "a data block", END_SECTION: "a section"}
_PLACES: Final[tuple[tuple[type[nodes.Node], str], ...]] = (
    (nodes.If, "a branch"),
    (nodes.For, "a loop"),
    (nodes.Macro, "a macro"),
    (nodes.CallBlock, "a call block"),
    (nodes.AssignBlock, "a set block"),
)
_NO_MESSAGES: Final = (
    "{% conversation %} stands between messages, and this prompt has no message tag: put its text into "
    '{% message "system" %}…{% endmessage %}, and the conversation behind it'
)
_MOST: Final = {
    "break": (MOST_BREAKS, f"a prompt has at most {MOST_BREAKS} cache breaks: providers take no more"),
    "conversation": (1, "a prompt has one {% conversation %}, and this is a second: remove one of them"),
}
_CAPTURES: Final = ("a macro", "a call block", "a set block", "a filter block", "an imported partial")


class Section(NamedTuple):
    """One section tag."""

    name: str
    priority: int
    max_tokens: int | None
    line: int
    place: Place


class Reference(NamedTuple):
    """A partial that is included, or imported."""

    name: str
    line: int
    place: Place


class Misplaced(NamedTuple):
    """A section, break or conversation where it cannot be: the template's name, its line, and what to say."""

    template: str
    line: int
    message: str


@dataclass(slots=True, kw_only=True)
class Layout:
    """The sections, breaks, conversations and partials of one template file."""

    sections: list[Section] = field(default_factory=list[Section])
    breaks: list[Reference] = field(default_factory=list[Reference])
    conversations: list[Reference] = field(default_factory=list[Reference])
    partials: list[Reference] = field(default_factory=list[Reference])
    extends: str | None = None
    blocks: dict[str, Place] = field(default_factory=dict[str, Place])
    uses_messages: bool = False


def layout(template: nodes.Template) -> Layout:
    """What stands where in a parsed template."""
    made = Layout()
    _walk(template.body, (), made)
    return made


def _walk(body: Iterable[nodes.Node], place: Place, made: Layout) -> None:
    for node in body:
        match node:
            case nodes.Output():
                made.breaks += [Reference("", one.lineno, place) for one in node.nodes if _is_tag(one, CACHE_BREAK)]
                made.conversations += [
                    Reference("", one.lineno, place) for one in node.nodes if _is_tag(one, CONVERSATION)
                ]
            case nodes.FilterBlock():
                _walk(node.body, (*place, _enter_block(node, place, made)), made)
            case nodes.Block():
                made.blocks[node.name] = place
                _walk(node.body, (*place, f"block {node.name}"), made)
            case nodes.Extends():
                made.extends = _constant(node.template)
            case nodes.Include():
                made.partials.append(Reference(_constant(node.template), node.lineno, place))
            case nodes.Import() | nodes.FromImport():
                made.partials.append(Reference(_constant(node.template), node.lineno, (*place, "an imported partial")))
            case nodes.Expr():
                pass
            case _:
                inside = next((name for kind, name in _PLACES if isinstance(node, kind)), None)
                _walk(node.iter_child_nodes(), place if inside is None else (*place, inside), made)


def _enter_block(node: nodes.FilterBlock, place: Place, made: Layout) -> str:
    name = node.filter.name
    if name == END_SECTION:
        section, priority, max_tokens = (one.as_const() for one in node.filter.args)
        made.sections.append(Section(section, priority, max_tokens, node.lineno, place))
    if name == END_MESSAGE:
        made.uses_messages = True
    return _TAG_BLOCKS.get(name, "a filter block")


def _is_tag(node: nodes.Node, name: str) -> bool:
    return isinstance(node, nodes.Filter) and node.name == name


def _constant(node: nodes.Node) -> str:
    return str(node.value) if isinstance(node, nodes.Const) else ""


# -- a template with its partials ------------------------------------------------------------------------------------


def misplaced(layouts: Mapping[str, Layout], name: str) -> list[Misplaced]:
    """All sections, breaks and conversations of a template, with its partials, that cannot be where they are."""
    uses_messages = any(one.uses_messages for one in layouts.values())
    wrong: dict[Misplaced, None] = {}
    counts: Counter[str] = Counter()
    for found in _found(layouts, name, (), ()):
        misplace = _misplace(found, uses_messages=uses_messages)
        if misplace is None:
            counts[found.kind] += 1
            most = _MOST.get(found.kind)
            if most is not None and counts[found.kind] > most[0]:
                misplace = Misplaced(found.template, found.line, most[1])
        if misplace is not None:
            wrong[misplace] = None
    return list(wrong)


class _Include(NamedTuple):
    """What brings a partial in."""

    template: str
    line: int
    place: Place


class _Found(NamedTuple):
    """A ``section``, ``break`` or ``conversation``, with its place in its own file and what includes that, from the
    outside in."""

    template: str
    line: int
    place: Place
    kind: str
    includes: tuple[_Include, ...]


def _found(
    layouts: Mapping[str, Layout], name: str, includes: tuple[_Include, ...], path: tuple[str, ...]
) -> list[_Found]:
    if name in path or name not in layouts:
        return []
    one = layouts[name]
    path = (*path, name)
    made: list[_Found] = []
    for line, own, kind in (
        *((section.line, section.place, "section") for section in one.sections),
        *((at.line, at.place, "break") for at in one.breaks),
        *((at.line, at.place, "conversation") for at in one.conversations),
    ):
        if (place := _full(layouts, one, own)) is not None:
            made.append(_Found(name, line, place, kind, includes))
    for partial in one.partials:
        if (place := _full(layouts, one, partial.place)) is not None:
            made += _found(layouts, partial.name, (*includes, _Include(name, partial.line, place)), path)
    if one.extends is not None:
        made += _found(layouts, one.extends, includes, path)
    return made


def _misplace(found: _Found, *, uses_messages: bool) -> Misplaced | None:
    """What is wrong with a place, at the line of the innermost file that makes it so; None for a right one."""
    place = found.place
    for template, line, outer in ((found.template, found.line, ()), *reversed(found.includes)):
        place = (*outer, *place)
        if message := _refused(found.kind, place):
            return Misplaced(template, line, message if template == found.template else f"{found.template}: {message}")
    said = None
    if found.kind == "conversation":
        said = None if uses_messages else _NO_MESSAGES
    elif uses_messages and "message" not in place:
        said = "a section stands in a message: put it into one"
        if found.kind == "break":
            said = "{% cache_break %} stands in a message: write it at the end of the message before it"
    return None if said is None else Misplaced(found.template, found.line, said)


def _full(layouts: Mapping[str, Layout], one: Layout, place: Place) -> Place | None:
    """A place with those of the blocks that it fills in what the template extends; None for text that is not used."""
    if one.extends is None:
        return place
    if not place or not place[0].startswith("block "):
        return None
    seen: list[str] = []
    while one.extends is not None and one.extends in layouts and one.extends not in seen:
        seen.append(one.extends)
        one = layouts[one.extends]
        outer = one.blocks.get(place[0].removeprefix("block "))
        if outer is not None:
            place = (*outer, *place)
    return place


def _refused(kind: str, place: Place) -> str | None:
    """What to say about a place that cannot be; None for one that can."""
    if kind == "section":
        return _section_refused(place)
    inner = [one for one in place if not one.startswith("block ")]
    if kind == "conversation":
        if not inner:
            return None
        around = "a message" if inner[-1] == "message" else inner[-1]
        return (
            f"{{% conversation %}} stands between messages, not inside {around}: it is one place of the prompt, "
            "where earlier turns go"
        )
    outer: list[str] = []
    if "message" in inner:
        message = len(inner) - 1 - inner[::-1].index("message")
        # a message may be in a branch
        outer, inner = [one for one in inner[:message] if one != "a branch"], inner[message + 1 :]
    around = next(iter([*inner, *outer]), None)
    if around is None:
        return None
    return f"{{% cache_break %}} stands directly in a message, not inside {around}: it is one place of the prompt"


def _section_refused(place: Place) -> str | None:
    for one in reversed(place):
        if one in _CAPTURES:
            return (
                f"a section cannot be inside {one}, whose text can be changed or printed elsewhere; put the section "
                "around the place that prints it"
            )
        if one == "a data block":
            return "a section cannot be inside a data block; put the data block into the section"
        if one == "a section":
            return "sections do not nest; end the outer one before this one begins"
    return None
