"""Types for the caller: what each prompt takes, as overloads, so that a wrong name is red in the application's editor.

Written as a stub (``prompts.pyi``), or as a module (``prompts.py``) that has two functions beside the types.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

from llmfeatures.errors import RequestError
from llmfeatures.files import replacing
from llmfeatures.prompt_plan import PromptPlan
from llmfeatures.prompts.file import ABSENT, Input
from llmfeatures.types import DType

SUFFIXES: Final = (".pyi", ".py")

_HEAD = """\
# Written by `llmfeatures check --types {name}`: do not edit; write it again when a prompt or the registry changed.
# ruff: noqa
# fmt: off
"""
_ALIASES = """\
_Moment = _datetime.datetime | str | None
_Clock = Literal["known", "event"]
_Timeout = float | _datetime.timedelta | str | None
"""
_OPTIONS = ("as_of: _Moment = None", 'clock: _Clock = "known"', "timeout: _Timeout = None")
_FUNCTIONS = '''\
def context_builder(
    path: str | Path = ".",
    *,
    now: Callable[[], _datetime.datetime] | None = None,
    reload: bool = False,
    release: str | None = None,
) -> Prompts:
    """`ContextBuilder.from_project`, typed."""
    return ContextBuilder.from_project(path, now=now, reload=reload, release=release)


def async_context_builder(
    path: str | Path = ".",
    *,
    now: Callable[[], _datetime.datetime] | None = None,
    reload: bool = False,
    release: str | None = None,
) -> AsyncPrompts:
    """`AsyncContextBuilder.from_project`, typed."""
    return AsyncContextBuilder.from_project(path, now=now, reload=reload, release=release)
'''
_LONGEST_DEFAULT = 40


class _Taken(NamedTuple):
    """A join key or input of a prompt: its type as written, and the text of its default; None where it must be
    given."""

    name: str
    type: str
    default: str | None


def types_of(plans: Iterable[PromptPlan], *, name: str) -> str:
    """The text of the file: the same for the same prompts, in any order.

    Args:
        plans: the prompts.
        name: the file's, which decides by its suffix whether it is a stub or a module.

    Raises:
        RequestError: there is no prompt, or the suffix is another one.
    """
    ordered = sorted(plans, key=lambda one: one.name)
    suffix = Path(name).suffix
    if suffix not in SUFFIXES:
        raise RequestError(f"types go into a stub, like prompts.pyi, or a module, like prompt_types.py, not {name!r}")
    if not ordered:
        raise RequestError("there is no prompt to write types of; make one, prompts/NAME.prompt.j2")
    rows = _row_names([one.name for one in ordered])
    taken = {one.name: _taken(one) for one in ordered}
    parts = [
        _ALIASES + _literal_names(ordered),
        *(_row(rows[one.name], one.name, taken[one.name]) for one in ordered),
        _protocol("Prompts", "`ContextBuilder` or `Client`", ordered, taken, rows, awaited=False),
        _protocol("AsyncPrompts", "`AsyncContextBuilder` or `AsyncClient`", ordered, taken, rows, awaited=True),
    ]
    module = suffix == ".py"
    body = "\n\n".join([*parts, _FUNCTIONS] if module else parts)
    return f"{_HEAD.format(name=name)}{_imports(body, module=module)}\n{body}"


def write_types(plans: Iterable[PromptPlan], path: Path) -> bool:
    """Write the types of prompts to a file, atomically; False when it says them already, and stays as it is.

    Raises:
        RequestError: there is no prompt, or the file cannot be written, is another kind of file, or somebody else's.
    """
    written = types_of(plans, name=path.name)
    present = _present(path)
    if present == written:
        return False
    if present and not present.startswith(_HEAD.partition("--types")[0]):
        raise RequestError(f"{path} looks like one that somebody wrote, and would be replaced; give another file")
    with replacing(path) as part:
        part.write_bytes(written.encode())
    return True


def types_are_current(plans: Iterable[PromptPlan], path: Path) -> bool:
    """Whether the file says what `write_types` would write."""
    return _present(path) == types_of(plans, name=path.name)


def _present(path: Path) -> str | None:
    try:
        return path.read_bytes().decode().replace("\r\n", "\n")
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError) as error:
        raise RequestError(f"cannot read {path}: {getattr(error, 'strerror', None) or 'it is no UTF-8'}") from None


# -- what a prompt takes ---------------------------------------------------------------------------------------------


def _taken(plan: PromptPlan) -> list[_Taken]:
    """The join keys, then the inputs: those that must be given first."""
    keys = [
        _Taken(name, f"{_type(dtype)} | None", None)
        for name, dtype in plan.parameters.items()
        if name not in plan.inputs
    ]
    inputs = [_input(one) for one in plan.inputs.values()]
    return [*keys, *sorted(inputs, key=lambda one: one.default is not None)]


def _input(declared: Input) -> _Taken:
    written = _type(declared.dtype)
    if declared.default is None and written != "Any":
        written += " | None"
    default = None if declared.default is ABSENT else _default(declared.default)
    return _Taken(declared.name, written, default)


def _default(value: Any) -> str:
    """A default as an editor is to show it, where it is short and plain."""
    plain = value is None or type(value) in (str, int, float, bool)
    return written if plain and len(written := repr(value)) <= _LONGEST_DEFAULT else "..."


def _type(dtype: DType) -> str:
    """What a caller may give for a dtype: what `DType.canonical` takes."""
    return " | ".join(_choices(dtype))


def _choices(dtype: DType) -> tuple[str, ...]:
    match dtype.kind:
        case "enum":
            return (_literal(dtype.words),)
        case "timestamp":
            return "_datetime.datetime", "str"
        case "date":
            return "_datetime.date", "str"
        case "decimal":
            return "_decimal.Decimal", "int", "str"
        case "json":
            return ("Any",)
        case "list":
            return _list_choices(dtype)
        case _:
            return (dtype.kind,)


def _list_choices(dtype: DType) -> tuple[str, ...]:
    """Lists of one type each, since a list of datetimes is no list of datetimes and texts to a type checker."""
    assert dtype.item is not None
    items = _choices(dtype.item)
    each = (*items, "int") if dtype.item.kind == "float" else items
    return (*(f"list[{one}]" for one in each), f"tuple[{' | '.join(items)}, ...]")


def _literal(words: Iterable[str]) -> str:
    return f"Literal[{', '.join(map(_quoted, words))}]"


def _quoted(word: str) -> str:
    """The word in double quotes, as Python reads it."""
    escaped = "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in _escaped(word))
    return f'"{escaped}"'


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"')


# -- what is written -------------------------------------------------------------------------------------------------


def _row_names(prompts: Sequence[str]) -> dict[str, str]:
    """The name of each prompt's rows: ``support/answer`` has ``SupportAnswerRow``; a second of the same has a
    number."""
    names: dict[str, str] = {}
    for prompt in prompts:
        words = re.findall(r"[A-Za-z0-9]+", prompt)
        made = "".join(word[0].upper() + word[1:] for word in words) or "Prompt"
        base = name = f"{made}Row" if made[0].isalpha() else f"Prompt{made}Row"
        number = 1
        while name in names.values():
            number += 1
            name = f"{base}{number}"
        names[prompt] = name
    return names


def _literal_names(plans: Sequence[PromptPlan]) -> str:
    lines = "".join(f"    {_quoted(one.name)},\n" for one in plans)
    return f"PromptName = Literal[\n{lines}]\n"


def _row(name: str, prompt: str, taken: Sequence[_Taken]) -> str:
    """One row of `build_contexts`; the functional form, in which no key hides the name of a type."""
    fields = "".join(
        f"    {_quoted(one.name)}: {one.type if one.default is None else f'NotRequired[{one.type}]'},\n"
        for one in taken
    )
    return f'{name} = TypedDict("{name}", {{\n{fields}}})\n"""A row of {_docstring(prompt)}."""\n'


def _protocol(
    name: str,
    implemented: str,
    plans: Sequence[PromptPlan],
    taken: dict[str, list[_Taken]],
    rows: dict[str, str],
    *,
    awaited: bool,
) -> str:
    define = "async def" if awaited else "def"
    overload = "    @overload\n" if len(plans) > 1 else ""
    lines = [f'class {name}(Protocol):\n    """What {implemented} does with the prompts of this project."""\n\n']
    for plan in plans:
        given = [_parameter(one) for one in taken[plan.name]]
        lines.append(overload + _method(define, "build_context", plan, ["/", "*", *given], "PromptContext"))
    for plan in plans:
        given = [f"rows: Sequence[{rows[plan.name]}]", "/", "*"]
        lines.append(overload + _method(define, "build_contexts", plan, given, "list[PromptContext]"))
    lines.append("    def inject(self, prompt: PromptName, /) -> Inject: ...\n")
    lines.append("    async def aclose(self) -> None: ...\n" if awaited else "    def close(self) -> None: ...\n")
    return "".join(lines)


def _parameter(one: _Taken) -> str:
    return f"{one.name}: {one.type}" if one.default is None else f"{one.name}: {one.type} = {one.default}"


def _method(define: str, name: str, plan: PromptPlan, given: Sequence[str], returned: str) -> str:
    parameters = ["self", f"prompt: Literal[{_quoted(plan.name)}]", *given, *_OPTIONS]
    lines = "".join(f"        {one},\n" for one in parameters)
    said = f'\n        """{_docstring(plan.description)}"""\n        ...\n' if plan.description else " ...\n"
    return f"    {define} {name}(\n{lines}    ) -> {returned}:{said}"


def _docstring(text: str) -> str:
    shown = _escaped(" ".join(text.split()))
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in shown)


def _imports(body: str, *, module: bool) -> str:
    """The imports that the body needs, and no other."""
    typing = ("Any", "Literal", "NotRequired", "Protocol", "TypedDict", "overload")
    code = re.sub(r'"""(?:[^"\\]|\\.)*"""', "", body)  # a description may hold any word
    used = [one for one in typing if re.search(rf"(?<![\w\"]){one}\b(?!\")", code)]
    lines = [
        "import datetime as _datetime",
        *(["import decimal as _decimal"] if "_decimal." in body else []),
        f"from collections.abc import {'Callable, ' if module else ''}Sequence",
        *(["from pathlib import Path"] if module else []),
        f"from typing import {', '.join(used)}",
        "",
        f"from llmfeatures import {'AsyncContextBuilder, ContextBuilder, ' if module else ''}PromptContext",
        "from llmfeatures.inject import Inject",
    ]
    return "".join(f"{one}\n" for one in lines)
