"""Several files as one prompt: includes, imports, and templates that extend each other."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from jinja2 import nodes

from llmfeatures.checker import calls
from llmfeatures.checker.kinds import ANY, Kind, Value, of
from llmfeatures.checker.positions import Span
from llmfeatures.checker.run import Capture, Frame, Parsed, Run
from llmfeatures.errors import did_you_mean
from llmfeatures.prompts import sections
from llmfeatures.prompts.codegen import PARTIALS
from llmfeatures.prompts.tags import column

if TYPE_CHECKING:
    from llmfeatures.checker.positions import Source

_Referring = nodes.Include | nodes.Import | nodes.FromImport | nodes.Extends
_TAGS: Final = {nodes.Import: "import", nodes.FromImport: "from", nodes.Include: "include", nodes.Extends: "extends"}


@dataclass(slots=True, eq=False)
class Module:
    """What an import gives."""

    name: str
    names: dict[str, Value] = field(default_factory=dict[str, Value])


def top_frame(run: Run) -> Frame | None:
    """The scope of the names that the file which is read now sets at its top."""
    return run.tops[-1] if run.tops else None


def referred(run: Run, node: _Referring) -> Parsed | None:
    """The partial that a tag names; None where it cannot be read, which is told."""
    from llmfeatures.checker.expressions import value_of

    tag = _TAGS[type(node)]
    written = node.template
    if not (isinstance(written, nodes.Const) and isinstance(written.value, str)):
        value_of(run, written)
        run.tell("LF003", written, f'{tag} takes the literal name of one partial, like {{% {tag} "{PARTIALS}/…" %}}')
        return None
    name = str(written.value)
    found = run.partial(name)
    if found is None:
        if isinstance(node, nodes.Include) and node.ignore_missing:
            return None
        known = run.known_partials()
        run.tell(
            "LF003", written, f"there is no partial {name!r}{did_you_mean(name, known)}",
            help=f"a partial is named by its path below the prompts folder, like {PARTIALS}/…",
        )  # fmt: skip
        return None
    run.partials.add(name)
    if name in run.including:
        circle = " → ".join([*run.including[run.including.index(name) :], name])
        run.tell("LF004", written, f"partials use each other in a circle: {circle}")
        return None
    if found.tree is None:
        run.syntax_error(found.source, found.problem or ("a syntax error", None, None))
        return None
    return found


def include(run: Run, node: nodes.Include) -> None:
    """An include prints a partial, which sees the names that are set here."""
    found = referred(run, node)
    if found is None:
        return
    blind = not node.with_context
    _read_file(run, found, Frame(blind=(run.source, node, found.name) if blind else None), keep=node.with_context)


def _read_file(run: Run, found: Parsed, frame: Frame, *, keep: bool) -> None:
    assert found.tree is not None
    source, frames, blocks = run.source, run.frames, run.blocks
    run.source, run.frames, run.blocks = found.source, ([*frames] if keep else []), {}
    run.including.append(found.name)
    run.tops.append(frame)
    facts = dict(run.facts)
    try:
        with run.scope(frame):
            read_whole(run, found.tree)
    finally:
        run.tops.pop()
        run.including.pop()
        run.source, run.frames, run.blocks, run.facts = source, frames, blocks, facts


def _module_of(run: Run, node: nodes.Import | nodes.FromImport) -> Module | None:
    found = referred(run, node)
    if found is None:
        return None
    frame = Frame(blind=None if node.with_context else (run.source, node, found.name))
    run.captures.append(Capture())
    role, run.role = run.role, None
    conditions, run.conditions = run.conditions, run.conditions + 1
    _read_file(run, found, frame, keep=node.with_context)
    run.conditions = conditions
    run.captures.pop()
    run.role = role
    return Module(found.name, {name: one for name, one in frame.names.items() if not name.startswith("_")})


def import_module(run: Run, node: nodes.Import) -> None:
    """``import "…" as name``."""
    module = _module_of(run, node)
    value = ANY if module is None else Value((Kind("module", truth=True, data=module),), run.root())
    run.bind(node.target, value, None if run.in_partial else node, "import")


def import_names(run: Run, node: nodes.FromImport) -> None:
    """``from "…" import a, b as c``."""
    module = _module_of(run, node)
    for one in node.names:
        name, alias = (one, one) if isinstance(one, str) else one
        value = ANY
        if module is not None:
            found = module.names.get(name)
            if found is None:
                known = list(module.names)
                hint = did_you_mean(name, known)
                run.tell("LF015", node, f"{module.name} has no {name!r} to import{hint}",
                         span=run.source.word(node, name), close=(name, known))  # fmt: skip
            else:
                value = found
        run.bind(alias, value, None if run.in_partial else node, "import")


# -- extends and blocks ----------------------------------------------------------------------------------------------


def extends(run: Run, node: nodes.Extends) -> None:
    """The parent is read in place of this file's own text, with the blocks of both."""
    if len(run.frames) > 1 and run.frames[-1] is not top_frame(run):
        run.tell("LF001", node, "cannot use extend from a non top-level scope")
        return
    found = referred(run, node)
    if found is not None:
        run.parents.append((found, node))


def read_template(run: Run, tree: nodes.Template) -> None:
    """A file with all that it extends: names set at its top, then the last parent's text with everyone's blocks."""
    from llmfeatures.checker.reading import read_all

    check_file(run, tree)
    text = run.source.text
    parents = "extends" in text and tree.find(nodes.Extends) is not None
    if "block" in text:
        collect_blocks(run, tree)
    if not parents:
        read_all(run, tree.body)
        return
    run.parents = []
    capture = Capture()
    run.captures.append(capture)
    run.skipping_blocks += 1
    read_all(run, tree.body)
    run.skipping_blocks -= 1
    run.captures.pop()
    parents_found, run.parents = run.parents, []
    if not parents_found:
        for blocks in list(run.blocks.values()):
            read_block(run, blocks[0][0])
        return
    found, _ = parents_found[0]
    assert found.tree is not None
    source = run.source
    run.source = found.source
    run.including.append(found.name)
    frame = Frame()
    run.tops.append(frame)
    with run.scope(frame):
        read_template(run, found.tree)
    run.tops.pop()
    run.including.pop()
    run.source = source


def read_whole(run: Run, tree: nodes.Template) -> None:
    """A file with all that it extends, and also the blocks that are printed nowhere."""
    from llmfeatures.checker.reading import read_all

    read_template(run, tree)
    for name, chain in run.blocks.items():
        for level, (block, source, frame) in enumerate(chain):
            if id(block) in run.blocks_read:
                continue
            outer, run.source = run.source, source
            if level == 0:
                run.tell(
                    "LF064", block, f"block {name!r} is in no parent, so that it is printed nowhere",
                    span=source.word(block, name), help="give it the name of a block of the parent",
                )  # fmt: skip
            inside = Frame(names={"self": ANY, "super": ANY})
            run.captures.append(Capture())
            with run.unreachable(), run.scope(frame), run.scope(inside):
                read_all(run, block.body)
            run.captures.pop()
            run.source = outer


def collect_blocks(run: Run, tree: nodes.Template) -> None:
    """Note the blocks of a file, behind those of the files that extend it."""
    seen: set[str] = set()
    for block in tree.find_all(nodes.Block):
        if block.name in seen:
            run.tell("LF001", block, f"block {block.name!r} defined twice")
            continue
        seen.add(block.name)
        run.blocks.setdefault(block.name, []).append((block, run.source, run.frames[-1]))


def read_block(run: Run, node: nodes.Block) -> None:
    """A block where it stands: the text of whoever extends it last."""
    if run.skipping_blocks:
        return
    chain = run.blocks.get(node.name) or [(node, run.source, run.frames[-1])]
    _read_level(run, node, chain, 0)


def _read_level(run: Run, node: nodes.Block, chain: list[tuple[nodes.Block, Source, Frame]], level: int) -> None:
    from llmfeatures.checker.reading import read_all

    block, source, _ = chain[level]
    run.blocks_read.add(id(block))
    frames, outer = run.frames, run.source
    tops = [frame for frame in frames if frame in run.tops or frame.blind is not None]
    run.frames = [*frames] if node.scoped else tops
    run.source = source
    names = {"self": ANY}
    if level + 1 < len(chain):
        names["super"] = of(Kind("function", truth=True, data="super"))
    try:
        with run.scope(Frame(names=names)):
            if block.name not in run.reading_blocks:
                run.reading_blocks.append(block.name)
                read_all(run, block.body)
                run.reading_blocks.pop()
        if level + 1 < len(chain) and _calls_super(block):
            run.captures.append(Capture())
            _read_level(run, node, chain, level + 1)
            run.captures.pop()
    finally:
        run.frames, run.source = frames, outer


def _calls_super(block: nodes.Block) -> bool:
    return any(one.name == "super" for one in block.find_all(nodes.Name))


# -- what Jinja and Python find out when they compile ----------------------------------------------------------------


def check_file(run: Run, tree: nodes.Template) -> None:
    """Report what a file's tags can never mean, wherever they stand."""
    text = run.source.text
    run.read_files.setdefault(run.including[-1] if run.including else run.template, (run.source, tree))
    if "autoescape" in text:
        for node in tree.find_all(nodes.ScopedEvalContextModifier):
            run.tell("LF001", node, "there is no autoescape tag: values are always escaped")
    if "break" in text or "continue" in text:
        _check_jumps(run, tree.body, in_loop=False)


def _check_jumps(run: Run, body: list[nodes.Node], *, in_loop: bool) -> None:
    for node in body:
        match node:
            case nodes.Break() | nodes.Continue():
                if not in_loop:
                    word = type(node).__name__.lower()
                    run.tell("LF001", node, f"the template cannot be compiled: {word!r} outside of a loop")
            case nodes.For():
                _check_jumps(run, node.body, in_loop=True)
                _check_jumps(run, node.else_, in_loop=in_loop)
            case nodes.Macro() | nodes.CallBlock() | nodes.Block():
                _check_jumps(run, node.body, in_loop=False)
            case nodes.Output() | nodes.Expr():
                pass
            case _:
                _check_jumps(run, list(node.iter_child_nodes()), in_loop=in_loop)


def check_places(run: Run) -> None:
    """Report sections, cache breaks and conversations that cannot be where they are."""
    files = run.read_files
    if not any(
        tag in source.text for source, _ in files.values() for tag in ("section", "cache_break", "conversation")
    ):
        return
    layouts = {name: sections.layout(tree) for name, (_, tree) in files.items()}
    for one in sections.misplaced(layouts, run.template):
        source = files[one.template][0]
        run.misplaced = True
        line, col = int(one.line), column(one.line)
        run.report("LF001", source, None, one.message, span=Span(line, col, line, None if col is None else col + 1))


def check_parameters(run: Run, node: nodes.Macro | nodes.CallBlock) -> None:
    """Report parameters that Jinja or Python refuses."""
    seen: set[str] = set()
    for place, one in enumerate(node.args):
        if one.name in seen:
            run.tell("LF001", one, f"the template cannot be compiled: parameter {one.name!r} is there twice")
        seen.add(one.name)
        if one.name == "caller" and place < len(node.args) - len(node.defaults):
            run.tell("LF001", one, 'the parameter "caller" of a macro is left out, or has a default')


def read_uncalled(run: Run) -> None:
    """Read the macros that nothing called, with arguments of which nothing is known."""
    for macro in run.defined:
        if id(macro) not in run.called_macros:
            calls.read_alone(run, macro)
