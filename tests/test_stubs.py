"""Types for the caller: pyright and mypy on an application that uses them."""

from __future__ import annotations

import ast
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeGuard

import pytest

from llmfeatures import ContextBuilder, Project, PromptContext
from llmfeatures.cli.app import run
from llmfeatures.errors import RequestError
from llmfeatures.stubs import types_are_current, types_of, write_types
from tests.projects import NOW, at, make_project, segment, watched

DTYPES = {
    "a_str": "str",
    "an_enum": "enum[kind,brief]",
    "an_int": "int",
    "a_float": "float",
    "a_bool": "bool",
    "a_timestamp": "timestamp",
    "a_date": "date",
    "a_decimal": "decimal(9,2)",
    "a_json": "json",
    "a_list": "list[str]",
    "enums": "list[enum[x,y]]",
    "moments": "list[timestamp]",
    "floats": "list[float]",
}
ALL = "---\ninputs:\n" + "".join(f'  {name}: {{type: "{dtype}"}}\n' for name, dtype in DTYPES.items())
PROMPTS = {
    "home": '---\ndescription: Greets "everybody" \\ all\n---\n{{ segment }}\n',
    "support/answer": """---
description: Answers
inputs:
  question: {type: str}
  tone: {type: "enum[kind,brief]", default: kind}
  date: {type: date, default: null}
  note: {type: str, default: "a text that is longer than an editor should show"}
---
{{ segment }} {{ question }} {{ tone }} {{ date | or_else("") }} {{ note }}
""",
    "support-answer": "---\nentities: {buyer: user, seller: user}\n---\n{{ buyer.segment }} {{ seller.segment }}\n",
    "2fast": f"{ALL}---\n" + " ".join(f"{{{{ {name} }}}}" for name in DTYPES) + "\n",
    "nobody": "Hello\n",
}

RIGHT = """
from __future__ import annotations

from datetime import date, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING, cast

import prompt_types
from llmfeatures import AsyncClient, AsyncContextBuilder, Client, ContextBuilder, PromptContext

if TYPE_CHECKING:
    from prompts import AsyncPrompts, PromptName, Prompts, SupportAnswerRow2


def use(builder: Prompts) -> None:
    made: PromptContext = builder.build_context("home", user_id="a")
    print(made.text)
    builder.build_context("home", user_id=None, as_of="2026-05-07", clock="event", timeout=0.1)
    builder.build_context("home", user_id="a", as_of=datetime(2026, 5, 7), timeout=timedelta(seconds=1))
    builder.build_context("support/answer", user_id="a", question="?")
    builder.build_context("support/answer", user_id="a", question="?", tone="brief", date=date(2026, 5, 7), note="")
    builder.build_context("support-answer", buyer_user_id="a", seller_user_id=None)
    builder.build_context("nobody")
    builder.build_context(
        "2fast", a_str="x", an_enum="kind", an_int=1, a_float=1, a_bool=True, a_timestamp="2026-05-07",
        a_date=date(2026, 5, 7), a_decimal=Decimal("1.5"), a_json={"a": [1]}, a_list=["x"], enums=["x", "y"],
        moments=[datetime(2026, 5, 7)], floats=[1.5],
    )
    words = ["x", "z"]
    whole = [1, 2]
    builder.build_context(
        "2fast", a_str="x", an_enum="brief", an_int=1, a_float=1.5, a_bool=True, a_timestamp=datetime(2026, 5, 7),
        a_date="2026-05-07", a_decimal="1.5", a_json=None, a_list=words, enums=("x",), moments=("2026-05-07",),
        floats=whole,
    )
    builder.build_contexts("support/answer", [{"user_id": "a", "question": "?"}], as_of="2026-05-07")
    row: SupportAnswerRow2 = {"user_id": None, "question": "?", "tone": "kind"}
    builder.build_contexts("support/answer", [row])
    name: PromptName = "nobody"
    print(name)

    @builder.inject("home")
    def answer(question: str, *, user_id: str, ctx: PromptContext) -> int:
        return len(question + user_id + ctx.text)

    print(answer("?", user_id="a") + 1)

    @builder.inject("home")
    def first(ctx: PromptContext, question: str, *, user_id: str) -> int:
        return len(question + user_id + ctx.text)

    print(first("?", user_id="a") + 1)
    builder.close()


async def use_async(builder: AsyncPrompts) -> None:
    made: PromptContext = await builder.build_context("home", user_id="a")
    many: list[PromptContext] = await builder.build_contexts("home", [{"user_id": "a"}])
    print(made, many)
    await builder.aclose()


use(ContextBuilder.from_project("."))
use(Client("http://127.0.0.1"))
use(prompt_types.context_builder("."))
builder = cast("Prompts", ContextBuilder.from_project("."))
use(builder)
print(use_async(AsyncContextBuilder.from_project(".")), use_async(AsyncClient("http://127.0.0.1")))
print(use_async(prompt_types.async_context_builder(".", reload=True)))
"""
WRONG = """
from datetime import datetime
from typing import TYPE_CHECKING, cast

import prompt_types
from llmfeatures import AsyncContextBuilder, ContextBuilder, PromptContext

if TYPE_CHECKING:
    from prompts import AsyncPrompts, Prompts

builder = cast("Prompts", ContextBuilder.from_project("."))
builder.build_context("hme", user_id="a")  # wrong: name
builder.build_context("home")  # wrong: no key
builder.build_context("home", user="a")  # wrong: key
builder.build_context("home", user_id=5)  # wrong: type of a key
builder.build_context("home", user_id="a", question="?")  # wrong: input of another prompt
builder.build_context("home", user_id="a", clock="knwn")  # wrong: clock
builder.build_context("support/answer", user_id="a")  # wrong: no input
builder.build_context("support/answer", user_id="a", question=5)  # wrong: type of an input
builder.build_context("support/answer", user_id="a", question="?", tone="kindly")  # wrong: word
builder.build_context("support/answer", user_id="a", question=None)  # wrong: None
builder.build_context("support-answer", user_id="a")  # wrong: key without role
builder.build_contexts("hme", [])  # wrong: name
builder.build_contexts("home", [{"user": "a"}])  # wrong: key in a row
builder.build_contexts("home", [{"user_id": "a", "x": 1}])  # wrong: further key in a row
builder.build_contexts("support/answer", [{"user_id": "a"}])  # wrong: no input in a row
prompt_types.context_builder(".").build_context("hme", user_id="a")  # wrong: name


@builder.inject("hme")  # wrong: name
def answer(*, user_id: str, ctx: PromptContext) -> int:
    return len(user_id + ctx.text)


@builder.inject("home")
def first(ctx: PromptContext, *, user_id: str) -> int:
    return len(user_id + ctx.text)


first(user_id=5)  # wrong: type of a parameter


async def use() -> None:
    typed = cast("AsyncPrompts", AsyncContextBuilder.from_project("."))
    await typed.build_context("hme", user_id="a")  # wrong: name
    await prompt_types.async_context_builder(".").build_context("nobody", user_id="a")  # wrong: key
    print(typed.build_context("home", user_id="a").text)  # wrong: not awaited


def dtypes(what: object) -> None:
    text, word, moment = "x", "x", datetime(2026, 5, 7)
    builder.build_contexts("2fast", [what])  # wrong: no row
    everything = {"a_str": "x"}
    print(everything, text, word, moment)
"""
ONE_WRONG_DTYPE = {
    "a_str": "5",
    "an_enum": '"x"',
    "an_int": '"5"',
    "a_float": '"1.5"',
    "a_bool": '"yes"',
    "a_timestamp": "5",
    "a_date": "5",
    "a_decimal": "1.5",
    "a_list": '"x"',
    "enums": '["z"]',
    "moments": "[5]",
    "floats": '["1.5"]',
}
RIGHT_VALUES = {
    "a_str": '"x"',
    "an_enum": '"kind"',
    "an_int": "1",
    "a_float": "1.5",
    "a_bool": "True",
    "a_timestamp": '"2026-05-07"',
    "a_date": '"2026-05-07"',
    "a_decimal": '"1.5"',
    "a_json": "1",
    "a_list": "[]",
    "enums": "[]",
    "moments": "[]",
    "floats": "[]",
}


def wrong_dtypes() -> Iterator[str]:
    """A call for each dtype, with one wrong value."""
    for name, value in ONE_WRONG_DTYPE.items():
        given = ", ".join(f"{key}={one}" for key, one in {**RIGHT_VALUES, name: value}.items())
        yield f'builder.build_context("2fast", {given})  # wrong: {name}\n'


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An application beside the types of its prompts."""
    root = make_project(tmp_path_factory.mktemp("app"), prompts=PROMPTS)
    plans = plans_of(root)
    write_types(plans, root / "prompts.pyi")
    write_types(plans, root / "prompt_types.py")
    (root / "right.py").write_text(RIGHT)
    (root / "wrong.py").write_text(WRONG + "".join(wrong_dtypes()))
    return root


def plans_of(root: Path) -> list[Any]:
    prompts = Project.load(root).prompts
    return [prompts.plan(name) for name in prompts.names()]


def wanted_lines(path: Path) -> list[int]:
    return [number for number, line in enumerate(path.read_text().splitlines(), 1) if "# wrong" in line]


@pytest.mark.heavy
def test_pyright_sees_what_is_wrong_and_nothing_else(app: Path) -> None:
    (app / "pyrightconfig.json").write_text('{"typeCheckingMode": "strict", "pythonVersion": "3.11"}')
    files = ["right.py", "wrong.py", "prompts.pyi", "prompt_types.py"]
    done = subprocess.run(
        [sys.executable, "-m", "pyright", "--pythonpath", sys.executable, "--outputjson", *files],
        cwd=app, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found: dict[str, set[int]] = {}
    for one in json.loads(done.stdout)["generalDiagnostics"]:
        found.setdefault(Path(one["file"]).name, set()).add(one["range"]["start"]["line"] + 1)
    assert sorted(found.pop("wrong.py")) == wanted_lines(app / "wrong.py"), done.stdout
    assert found == {}, done.stdout


@pytest.mark.heavy
def test_mypy_sees_what_is_wrong_and_nothing_else(app: Path) -> None:
    files = ["right.py", "wrong.py", "prompts.pyi", "prompt_types.py"]
    done = subprocess.run(
        [sys.executable, "-m", "mypy", "--strict", "--cache-dir", str(app / ".mypy_cache"), *files],
        cwd=app, capture_output=True, text=True, check=False,
    )  # fmt: skip
    found = re.findall(r"^(\S+?):(\d+): error", done.stdout, re.MULTILINE)
    assert sorted({int(line) for file, line in found if file == "wrong.py"}) == wanted_lines(app / "wrong.py"), (
        done.stdout
    )
    assert {file for file, _ in found} == {"wrong.py"}, done.stdout


def test_the_module_works_when_the_application_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = make_project(
        tmp_path, segments=[segment("a", "casual", at(1))], counts=[watched("a", 1, at(1))], prompts=PROMPTS
    )
    write_types(plans_of(root), root / "typed_here.py")
    monkeypatch.syspath_prepend(str(root))
    import typed_here  # pyright: ignore[reportMissingImports]

    builder: Any = typed_here.context_builder(root, now=lambda: NOW)
    assert type(builder) is ContextBuilder
    made: PromptContext = builder.build_context("home", user_id="a", as_of=NOW)
    assert made.text == "casual"
    builder.close()


def test_the_same_prompts_have_the_same_types(app: Path) -> None:
    plans = plans_of(app)
    written = types_of(plans, name="prompts.pyi")
    assert types_of(reversed(plans), name="prompts.pyi") == written
    assert (app / "prompts.pyi").read_text() == written
    assert ast.get_docstring(ast.parse(written)) is None
    assert "SupportAnswerRow2 = TypedDict" in written
    assert "Prompt2fastRow = TypedDict" in written
    assert '"""Greets \\"everybody\\" \\\\ all"""' in written
    assert "note: str = ..." in written
    assert 'tone: Literal["kind", "brief"] = \'kind\'' in written


def test_one_prompt_has_no_overloads(tmp_path: Path) -> None:
    root = make_project(tmp_path)
    written = types_of(plans_of(root), name="prompts.pyi")
    assert "overload" not in written
    assert "Any" not in written


def test_a_description_is_no_code(tmp_path: Path) -> None:
    said = 'Any "overload" \\\\ of NotRequired rows'
    root = make_project(tmp_path, prompts={"home": f"---\ndescription: '{said}'\n---\n{{{{ segment }}}}"})
    written = types_of(plans_of(root), name="prompt_types.py")
    assert "from typing import Literal, Protocol, TypedDict\n" in written
    (shown,) = {ast.get_docstring(one) for one in ast.walk(ast.parse(written)) if _is_method(one, "build_context")}
    assert shown == said
    # a docstring alone would be a body that returns None
    assert all(ast.unparse(one.body[-1]) == "..." for one in ast.walk(ast.parse(written)) if _is_method(one, "build_"))


def _is_method(node: ast.AST, name: str) -> TypeGuard[ast.FunctionDef | ast.AsyncFunctionDef]:
    return isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name.startswith(name)


def test_a_file_is_written_once_and_only_over_its_own(tmp_path: Path) -> None:
    root = make_project(tmp_path)
    plans, path = plans_of(root), root / "prompts.pyi"
    assert not types_are_current(plans, path)
    assert write_types(plans, path)
    assert types_are_current(plans, path)
    before = path.stat().st_mtime_ns
    assert not write_types(plans, path)
    assert path.stat().st_mtime_ns == before
    (root / "prompts" / "more.prompt.j2").write_text("{{ watched }}")
    assert not types_are_current(plans_of(root), path)
    path.write_text("def mine() -> None: ...\n")
    with pytest.raises(RequestError, match="looks like one that somebody wrote"):
        write_types(plans, path)
    with pytest.raises(RequestError, match="into a stub"):
        write_types(plans, root / "prompts.txt")
    with pytest.raises(RequestError, match="there is no prompt"):
        write_types([], path)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    root = make_project(tmp_path)
    monkeypatch.chdir(root)
    assert run(["check", "--types", "prompts.pyi", "--verify"]) == 1
    assert "prompts.pyi is not up to date" in capsys.readouterr().err
    assert run(["check", "--types", "prompts.pyi"]) == 0
    assert capsys.readouterr().out == "wrote prompts.pyi: the types of 1 prompt\n"
    assert run(["check", "--types", "prompts.pyi"]) == 0
    assert run(["check", "--types", "prompts.pyi", "--verify"]) == 0
    assert capsys.readouterr().out == "prompts.pyi is up to date\n" * 2
    assert run(["check", "--types", "prompts.txt"]) == 2
    assert run(["check", "--verify"]) == 2
    (root / "prompts" / "broken.prompt.j2").write_text("{% if %}")
    capsys.readouterr()
    assert run(["check", "--types", "prompts.pyi"]) == 1
    assert "prompts/broken.prompt.j2:1" in capsys.readouterr().err
