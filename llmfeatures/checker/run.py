"""One check of one prompt: its scopes, what guards have told so far, and what was found."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, Final, cast
from weakref import WeakKeyDictionary

from jinja2 import TemplateNotFound, TemplateSyntaxError, nodes

from llmfeatures.checker import kinds
from llmfeatures.checker.edits import closest, near, replacement
from llmfeatures.checker.findings import Edit, Finding, Severity
from llmfeatures.checker.kinds import ANY, UNSET, Facts, Kind, Kinds, Path, Value
from llmfeatures.checker.names import CLOCKS, Names
from llmfeatures.checker.positions import Source, Span
from llmfeatures.checker.rules import RULES
from llmfeatures.checker.truth import CHOSEN, CONDITION, EITHER, excluded
from llmfeatures.errors import did_you_mean
from llmfeatures.prompts.environment import PromptEnvironment
from llmfeatures.prompts.file import PromptFile
from llmfeatures.prompts.lexing import PromptParser
from llmfeatures.prompts.tags import column, syntax_problem
from llmfeatures.registry import Registry

Place = Span | Callable[[], Span]
"""Where something is, or how to find out."""
_AGREED: Final = frozenset({"LF012", "LF030", "LF031", "LF033"})
"""What is said of a macro's body only where it holds for every call."""
_ANYWHERE: Final = frozenset({"LF001", "LF003", "LF004", "LF010", "LF011", "LF015", "LF019", "LF053"})
"""What compiling refuses also where no value leads."""
_IMPLIED: Final = frozenset({"varargs", "kwargs", "self", "super"})
_AS_BEFORE: Final = nullcontext()
_DEEP: Final = 24
_DEPENDING: Final = (EITHER, CONDITION)
_ALTERNATIVES: Final = 6
"""Branches of one if of which is remembered what each would have set."""
_CALLS: Final = 400


@dataclass(slots=True, eq=False)
class Frame:
    """The names that one scope sets. ``unread`` are those that nothing has read yet, with where they are set."""

    names: dict[str, Value] = field(default_factory=dict[str, Value])
    unread: dict[str, tuple[Source, nodes.Node, str]] = field(default_factory=dict[str, tuple[Source, nodes.Node, str]])
    blind: tuple[Source, nodes.Node, str] | None = None
    """Set where names of the prompt are not seen from here on: the import that hides them, and its partial."""


@dataclass(slots=True, eq=False)
class Parsed:
    """A template file as it was parsed."""

    name: str
    source: Source
    tree: nodes.Template | None
    problem: tuple[str, int | None, int | None] | None = None


@dataclass(slots=True, eq=False)
class Capture:
    """What is printed into a macro's, a block's or a set's text instead of a message."""

    values: list[Value] = field(default_factory=list[Value])
    blank: bool = True
    conditions: int = -1
    """How many conditions are around it; text under no further one is there for ``sure``."""
    sure: bool = False


_parsed: WeakKeyDictionary[PromptEnvironment, dict[str, tuple[str, Parsed]]] = WeakKeyDictionary()


class Run:
    """The state of one check."""

    def __init__(self, registry: Registry, file: PromptFile, environment: PromptEnvironment) -> None:
        self.file, self.environment = file, environment
        self.findings: dict[tuple[Any, ...], Finding] = {}
        self.muted = self.unreached = 0
        self.frames: list[Frame] = []
        self.facts: dict[Path, Kinds] = {}
        self.captures: list[Capture] = []
        self.source = Source(file.path, file.body, file.body_line)
        self.template = file.name
        self.partials: set[str] = set()
        self.read_files: dict[str, tuple[Source, nodes.Template]] = {}
        self.including: list[str] = []
        self.blocks: dict[str, list[tuple[nodes.Block, Source, Frame]]] = {}
        self.role: str | None = None
        self.fences = self.loops = 0
        self.misplaced = False
        self.namespaces = self.asking = self.asked = False
        self.conditions = 0
        self.outside: list[tuple[Source, nodes.Node | Span, str]] = []
        self.uses_messages = False
        self.prints_text = False
        self.literals: list[str] = []
        self.before_break: list[tuple[Source, nodes.Node, str]] = []
        self.breaks: list[tuple[Source, nodes.Node, int, int]] = []
        self.literal_size = 0
        self.whole_message: nodes.Node | None = None
        self.forgotten = 0
        """How often something changed that facts may depend on."""
        self.depth = self.calls = self.told_constants = 0
        self.calling: list[object] = []
        self.agreeing: dict[object, list[dict[tuple[Any, ...], Finding]]] = {}
        self.collected: list[dict[tuple[Any, ...], Finding]] = []
        self.called_macros: set[int] = set()
        self.last: tuple[Any, ...] = ()
        """The finding that was noted last."""
        self.told_none: set[Path | None] = set()
        self.shapes: dict[Any, int] = {}
        """Conditions by what they say, each with a number."""
        self.defined: list[Any] = []
        self.tops: list[Frame] = []
        self.parents: list[tuple[Parsed, nodes.Node]] = []
        self.skipping_blocks = 0
        self.blocks_read: set[int] = set()
        self.reading_blocks: list[str] = []
        self._roots = count(1)
        self._once: set[object] = set()
        self.suspected: set[str] = set()
        """Names of which a misspelling was found: that they are not read is no second mistake."""
        self.names = Names(registry, file, self.report, self.suspected)

    def close(self) -> None:
        """Let go of everything: parts of a run know the run, which only a garbage collector would find out."""
        vars(self).clear()

    # -- templates ---------------------------------------------------------------------------------------------------

    def partial(self, name: str) -> Parsed | None:
        """A partial, parsed once for all prompts of the environment; None when there is none."""
        try:
            assert self.environment.loader is not None
            if not name.startswith("_shared/"):
                return None
            text, path, _ = self.environment.loader.get_source(self.environment, name)
        except (TemplateNotFound, OSError, UnicodeDecodeError):
            return None
        known = _parsed.setdefault(self.environment, {})
        found = known.get(name)
        if found is None or found[0] != text:
            found = known[name] = text, parse(self.environment, name, Source(path or name, text))
        return found[1]

    def known_partials(self) -> list[str]:
        """The names of the partials that there are."""
        try:
            assert self.environment.loader is not None
            return [name for name in self.environment.loader.list_templates() if name.startswith("_shared/")]
        except TypeError:
            return []

    def syntax_error(self, source: Source, problem: tuple[str, int | None, int | None]) -> None:
        """Report why a file could not be parsed."""
        message, line, col = problem
        end = None if col is None else col + 1
        self.report("LF001", source, None, message, span=Span(line, col, line, end))

    @property
    def in_partial(self) -> bool:
        """Whether what is read now belongs to a partial."""
        return bool(self.including)

    # -- findings ----------------------------------------------------------------------------------------------------

    def report(
        self,
        code: str,
        source: Source,
        node: nodes.Node | None,
        message: str,
        *,
        help: str = "",  # noqa: A002
        span: Place | None = None,
        edits: tuple[Edit, ...] = (),
        close: tuple[str, Iterable[str]] | None = None,
        severity: Severity | None = None,
        once: object = None,
        sure: bool = False,
    ) -> None:
        """Note a finding, unless it is noted already or nothing is to be said now.

        Args:
            span: the place, where it is not all of the node.
            close: a name and those that there are: an edit puts the near one, when there is one, into the place.
            once: what to tell only the first time.
            sure: it is a mistake also where it holds for one call of a macro alone.
        """
        if self.muted or (self.unreached and code not in _ANYWHERE) or (once is not None and once in self._once):
            return
        if once is not None:
            self._once.add(once)
        at = span() if callable(span) else span
        at = at or (source.of(node) if node is not None else Span(None))
        if close is not None:
            self.suspected.update(near(*close))
            meant = closest(*close)
            if meant is not None:
                edits, help = replacement(at, meant), help or f"write {meant}"  # noqa: A001
        found = Finding(
            code=code,
            severity=severity or RULES[code].severity,
            path=source.path,
            message=message,
            line=at.line,
            column=at.column,
            end_line=at.end_line,
            end_column=at.end_column,
            help=help,
            edits=edits,
        )
        into = self.collected[-1] if self.collected and code in _AGREED and not sure else self.findings
        self.last = code, source.path, at.line, at.column
        into.setdefault(self.last, found)

    def tell(self, code: str, node: nodes.Node | None, message: str, **options: Any) -> None:
        """Note a finding in the template that is read now."""
        self.report(code, self.source, node, message, **options)

    def noted(self) -> set[tuple[Any, ...]]:
        """What is noted so far."""
        return set(self.collected[-1] if self.collected else self.findings)

    def unsay(self, code: str, noted: set[tuple[Any, ...]]) -> None:
        """Take back what was noted of a rule since."""
        found = self.collected[-1] if self.collected else self.findings
        for key in [key for key in found if key[0] == code and key not in noted]:
            del found[key]

    def constant(self, node: nodes.Node, value: Value, message: str, *, because: str = "") -> None:
        """Note that a condition has one answer, unless that is so only for this call or this prompt."""
        if value.param or value.lenient or (self.in_partial and value.dynamic):
            return
        self.told_constants += not (self.muted or self.unreached)
        self.tell("LF031", node, message, help=because)

    def silent(self, silent: bool = True) -> AbstractContextManager[None]:
        """Note nothing."""
        return self._silent() if silent else _AS_BEFORE

    @contextmanager
    def _silent(self) -> Generator[None, None, None]:
        self.muted += 1
        try:
            yield
        finally:
            self.muted -= 1

    def unreachable(self, unreachable: bool = True) -> AbstractContextManager[None]:
        """Note only what is wrong wherever it stands."""
        return self._unreachable() if unreachable else _AS_BEFORE

    @contextmanager
    def _unreachable(self) -> Generator[None, None, None]:
        self.unreached += 1
        try:
            yield
        finally:
            self.unreached -= 1

    def text_of(self, node: nodes.Node, most: int = 40) -> str:
        """An expression as it is written, for messages."""
        written = getattr(node, "said", "") or self.source.written(node) or "the value"
        written = "(" * (written.count(")") - written.count("(")) + written  # a node begins inside of its brackets
        return written if len(written) <= most else f"{written[:most]}…"

    def advice(self, node: nodes.Node | None, otherwise: str) -> str:
        """What to do against None in a value: of an attribute of items, to leave out those that have none."""
        return getattr(node, "advice", "") or otherwise

    # -- scopes ------------------------------------------------------------------------------------------------------

    @contextmanager
    def scope(self, frame: Frame | None = None) -> Generator[Frame, None, None]:
        """A scope inside the present one."""
        made = frame or Frame()
        self.frames.append(made)
        try:
            yield made
        finally:
            self.frames.pop()
            self.check_unread(made)

    def check_unread(self, frame: Frame) -> None:
        """Report the names of a scope that nothing read."""
        for name, (source, node, what) in frame.unread.items():
            if not name.startswith("_") and name not in self.suspected:
                self.report(
                    "LF064", source, node, f"{what} {name!r} is set and never read", help="remove it",
                    span=source.word(node, name),
                )  # fmt: skip
        frame.unread.clear()

    def root(self) -> Path:
        """A path of a value of its own."""
        return (next(self._roots),)

    def bind(self, name: str, value: Value, node: nodes.Node | None = None, what: str = "variable") -> None:
        """Set a name in the present scope; with ``node``, it is reported when nothing reads it."""
        frame = self.frames[-1]
        known = name in frame.names
        frame.names[name] = value if value.path is not None else value._replace(path=self.root())
        if node is not None and (not known or name in frame.unread):
            frame.unread[name] = self.source, node, what

    def lookup(self, name: str) -> Value | None:
        """What a name is in the scopes, before guards; None where none sets it."""
        for frame in reversed(self.frames):
            found = frame.names.get(name)
            if found is not None:
                frame.unread.pop(name, None)
                return found
        return None

    def read(self, node: nodes.Name, attribute: str | None = None, holder: nodes.Node | None = None) -> Value:
        """What a name is here."""
        name = node.name
        found = self.lookup(name)
        if name == "loop" and found is not None and not self._sees(found):
            found = None
        if found is not None and not kinds.has(found, "unset"):
            return self.refined(found)
        above = self._context(node, attribute, holder or node)
        if found is None:
            return self.refined(above) if above is not None else self._unknown(node)
        left = kinds.dropped(found, "unset")
        if above is not None:
            return kinds.joined(left, above)
        self.tell(
            "LF026",
            node,
            f"{name!r} is set in some branches only, and undefined after the others",
            help=f"set {name} before the if, or in an else",
        )
        return left._replace(path=None)

    def _sees(self, loop: Value) -> bool:
        return all(kind.name != "loop" or kind.data.is_seen(self.source) for kind in loop.kinds)

    def _context(self, node: nodes.Name, attribute: str | None, holder: nodes.Node) -> Value | None:
        name = node.name
        if name == "self":
            return ANY
        if name in self.environment.globals:
            return Value((Kind("function", truth=True, data=name),))
        for frame in reversed(self.frames):
            if frame.blind is not None:
                return self._blind(node, *frame.blind)
        heard = not (self.muted or self.unreached)
        return self.names.value(self.source, node, attribute, holder, heard=heard)

    def _blind(self, node: nodes.Name, source: Source, statement: nodes.Node, partial: str) -> Value | None:
        """A name of the prompt, read where an import hides them."""
        if node.name not in self.names.known():
            return None
        self.report(
            "LF010",
            source,
            statement,
            f"{partial} reads {node.name!r}, which it cannot see: write 'with context' after the import, or pass it to "
            "the macro as an argument",
        )
        return ANY

    def _unknown(self, node: nodes.Name) -> Value:
        name = node.name
        if name in CLOCKS:
            self.tell(
                "LF053",
                node,
                f"a prompt has no {name}: built again, it would be another",
                help="the moment of the prompt is as_of; what chance or the machine decides is an input or a feature",
            )
            return ANY
        if name == "loop":
            self.tell("LF010", node, "'loop' is there only inside of a for", help="read it in the loop's own body")
            return ANY
        known = {*self.names.known(), *[one for frame in self.frames for one in frame.names if one not in _IMPLIED]}
        close = name, {*known, *self.environment.globals}
        self.tell("LF010", node, f"unknown name {name!r}{did_you_mean(name, known)}", close=close)
        return ANY

    # -- what guards tell --------------------------------------------------------------------------------------------

    def refined(self, value: Value) -> Value:
        """The value as the guards around leave it."""
        if value.path is None:
            return value
        known = self.facts.get(value.path)
        if known is None or known == value.kinds:
            return value
        # what was told of a part may be wider than what the part now is
        left = kinds.meet(value.kinds, known) or known
        if (CHOSEN, value.path) in self.facts:
            # what only another condition tells may well be asked again
            return value._replace(kinds=left, param=True)
        return kinds.with_kinds(value, left)

    def is_there(self, path: Path | None, part: Any) -> bool:
        """Whether a guard said that a part of a value is defined."""
        known = None if path is None else self.facts.get((*path, part))
        return known is not None and "undefined" not in kinds.names(known)

    def assume(self, facts: Facts | None) -> bool:
        """Take facts for true from now on; whether they can be."""
        if facts is None:
            return False
        possible = True
        for path, known in facts.items():
            now = None if path[0] == EITHER else self.facts.get(path)
            met = known if now is None else kinds.meet(now, known)
            possible = possible and bool(met)
            self.facts[path] = met or known
        return self._decide() and possible

    def _decide(self) -> bool:
        """Where all alternatives but one are excluded, that one holds."""
        for path in [path for path in self.facts if path[0] == EITHER]:
            alternatives = cast("tuple[Facts, ...]", self.facts[path])
            left = tuple([one for one in alternatives if not excluded(self.facts, one)])
            if len(left) == len(alternatives):
                continue
            if len(left) > 1:
                self.facts[path] = cast("Kinds", left)
                for one in set(left[0]).intersection(*left[1:]):
                    known = kinds.unite(*[other[one] for other in left])
                    self.facts[one] = kinds.meet(self.facts.get(one, known), known) or known
                    self.facts[CHOSEN, one] = (kinds.ANY_KIND,)
                continue
            del self.facts[path]
            if not left:
                return False
            for one in left[0]:
                self.facts[CHOSEN, one] = (kinds.ANY_KIND,)
            return self.assume(left[0])
        return True

    @contextmanager
    def assuming(self, facts: Facts | None) -> Generator[bool, None, None]:
        """Take facts for true for a while; what cannot be is read in silence."""
        before = dict(self.facts)
        possible = self.assume(facts)
        with self.unreachable(not possible):
            yield possible
        self.facts = before

    def forget(self, root: Any) -> None:
        """Drop what was known of the parts of a value that changed, and of what may depend on them."""
        self.forgotten += 1
        dropped = [path for path in self.facts if path[0] in _DEPENDING or (path[0] == root and len(path) > 1)]
        for path in dropped:
            del self.facts[path]

    def merge(self, ends: list[tuple[dict[str, Value], dict[Path, Kinds]]]) -> None:
        """Go on after branches, of which each left these names in the present scope, and these facts."""
        frame = self.frames[-1]
        if not ends:
            return
        if len(ends) == 1:
            frame.names, self.facts = ends[0]
            return
        merged: dict[str, Value] = {}
        differing: list[tuple[Path, list[Value]]] = []
        for name in dict.fromkeys(name for names, _ in ends for name in names):
            found = [names.get(name) for names, _ in ends]
            if None in found:
                frame.names = {}
                outer = self.peek(name)
                found = [one or outer or Value((UNSET,)) for one in found]
            values = cast("list[Value]", found)
            if any(value is not values[0] for value in values):
                values = [_known(value, facts) for value, (_, facts) in zip(values, ends, strict=True)]
            one = kinds.joined(*values)
            merged[name] = one = one if one.path is not None else one._replace(path=self.root())
            if any(value is not values[0] for value in values):
                differing.append((cast("Path", one.path), values))
        frame.names = merged
        common = set(ends[0][1]).intersection(*[facts for _, facts in ends[1:]])
        self.facts = {
            path: ends[0][1][path] if path[0] == EITHER else kinds.unite(*[facts[path] for _, facts in ends])
            for path in common
        }
        if differing and len(ends) <= _ALTERNATIVES:
            self.facts[EITHER, *self.root()] = cast("Kinds", _alternatives([facts for _, facts in ends], differing))

    def choose(self, yes: dict[Path, Kinds], one: Kinds, no: dict[Path, Kinds], other: Kinds) -> Path:
        """A path for a value that is the one where these facts hold, else the other."""
        path = self.root()
        self.facts[EITHER, *path] = cast("Kinds", ({**yes, path: one}, {**no, path: other}))
        return path

    def peek(self, name: str) -> Value | None:
        """`lookup`, without counting as a reading."""
        return next((frame.names[name] for frame in reversed(self.frames) if name in frame.names), None)

    # -- macros ------------------------------------------------------------------------------------------------------

    @contextmanager
    def call(self, macro: object) -> Generator[bool, None, None]:
        """Read a macro's body for one call; False when it goes too deep, and is not to be read."""
        self.depth += 1
        self.calls += 1
        self.calling.append(macro)
        collected: dict[tuple[Any, ...], Finding] = {}
        self.collected.append(collected)
        facts, role = dict(self.facts), self.role
        fine = self.depth <= _DEEP and self.calls <= _CALLS and self.calling.count(macro) <= 1
        try:
            yield fine
        finally:
            self.depth -= 1
            self.calling.pop()
            self.collected.pop()
            self.facts, self.role = facts, role
            if fine and not self.muted and not self.unreached:
                self.agreeing.setdefault(macro, []).append(collected)

    def settle_agreed(self) -> None:
        """Note what held in every call of a macro."""
        for found in self.agreeing.values():
            for key, one in found[0].items():
                if all(key in other for other in found[1:]):
                    self.findings.setdefault(key, one)

    def none_dropped(self, value: Value) -> Value:
        """The value as a guard against None would leave it: what was told once is not told again."""
        left = kinds.without(value.kinds, "none", "undefined")
        self.told_none.add(value.path)
        if value.ignored is not None and not self.muted and value.ignored in self.findings:
            self.findings[value.ignored] = replace(self.findings[value.ignored], severity="error")
        if value.path is not None and left:
            self.facts[value.path] = left
        return value._replace(kinds=left or (kinds.ANY_KIND,))


def _alternatives(ends: list[dict[Path, Kinds]], names: list[tuple[Path, list[Value]]]) -> tuple[Facts, ...]:
    """What held after each branch and not after all of them: later guards may tell which was taken."""
    first = ends[0]
    own = {
        path
        for facts in ends
        for path, known in facts.items()
        if path[0] != EITHER and any(other.get(path) != known for other in (first, *ends[1:]))
    }
    return tuple([
        {path: facts[path] for path in own if path in facts} | {path: values[at].kinds for path, values in names}
        for at, facts in enumerate(ends)
    ])  # fmt: skip


def _known(value: Value, facts: Facts) -> Value:
    """A value as the facts of a branch leave it."""
    known = None if value.path is None else facts.get(value.path)
    return value if known is None else value._replace(kinds=known)


def parse(environment: PromptEnvironment, name: str, source: Source) -> Parsed:
    """A template parsed, or what is wrong with it."""
    environment.line_offsets[name] = source.offset
    try:
        # as Environment.parse does, without going through the whole tree to give each node the environment
        tree = nodes.Template(PromptParser(environment, source.text, name, source.path).subparse(), lineno=1)
    except TemplateSyntaxError as error:
        return Parsed(name, source, None, (syntax_problem(error), int(error.lineno), column(error.lineno)))
    except RecursionError:
        return Parsed(name, source, None, ("the template nests too deeply", None, None))
    except Exception as error:  # noqa: BLE001  (a parser's own mistake about odd text is no reason to fail)
        return Parsed(name, source, None, (f"the template cannot be parsed: {type(error).__name__}", None, None))
    return Parsed(name, source, tree)
