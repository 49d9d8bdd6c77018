"""Our tokens and trees are Jinja's own, with the same places and the same errors."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from jinja2 import DictLoader, TemplateSyntaxError, nodes
from jinja2.parser import Parser

from llmfeatures.prompts.environment import PromptEnvironment
from llmfeatures.prompts.lexing import tokens
from llmfeatures.prompts.tags import column

ROOT = Path(__file__).parent.parent
FILES = sorted(
    path
    for folder in ("prompts", "examples", "tests/checker", "tests/cases")
    for path in (ROOT / folder).rglob("*.j2")
    if path.is_file()
)
TEXTS = [path.read_text(encoding="utf-8") for path in FILES]
OFFSET = 7
FRAGMENTS = [
    *["{%", "%}", "{{", "}}", "{#", "#}", "{%-", "-%}", "{%+", "+%}", "{{-", "-}}", "{#-", "-#}", "{{+", "+#}", "\n"],
    *[
        "\r\n",
        "\r",
        " ",
        "\t",
        "\u2003",
        "\u2028",
        "\x85",
        "\x1c",
        "\v",
        "é",
        "中",
        "\u037a",
        "½",
        "٣",
        "·",
        "€",
        "\ud800",
    ],
    *["raw", "{% raw %}", "{% endraw %}", "{%- raw -%}", "{% endraw -%}", "{% raw +%}", "(", ")", "[", "]", "{", "}"],
    *["1", "0", "01", "1_000", "1.5", "1.", ".5", "1e5", "1.5e-3", "0x1f", "0b2", "9" * 20, "1.1.1", "x.0.1", "1a"],
    *["'a'", '"b"', "'a\\nb'", "'\\x4'", "'\\N{DASH}'", "'", '"', "\\", "'a\nb'", "'é'", "x", "_", "not", "in", "is"],
    *["if", "else", "and", "or", "none", "true", "==", "!=", "=", "<", ">=", "//", "/", "**", "*", "%", "+", "-", "~"],
    *["|", ".", ":", ",", ";", "!", "@", "$", "not in", "is not", "{% if x %}", "{% endif %}", "{% for a in b %}"],
    *[
        "{% endfor %}",
        "x|join(', ')",
        "x.y[1:2]",
        "f(a, *b, k=1, **c)",
        "a if b else c",
        "{'a': [1, (2,)]}",
        "{% set x",
    ],
    *[
        "{% message 'user' %}",
        "{% endmessage %}",
        "{% data %}",
        "{% enddata %}",
        "-1 ** 2",
        "x is divisibleby 3",
        "\x00",
    ],
]


class Plain(PromptEnvironment):
    """Jinja's own lexer and parser."""

    def _tokenize(self, source: str, name: Any, filename: Any = None, state: Any = None) -> Any:
        from jinja2.lexer import TokenStream

        source = source.replace("\r\n", "\n").replace("\r", "\n")
        return TokenStream(
            self.lexer.wrap(self._positioned(source, name, filename, state), name, filename), name, filename
        )

    def _parse(self, source: str, name: Any, filename: Any) -> Any:
        return Parser(self, source, name, filename).parse()


OURS, JINJAS = PromptEnvironment(DictLoader({})), Plain(DictLoader({}))
OURS.line_offsets["t"] = JINJAS.line_offsets["t"] = OFFSET


def shape(node: Any) -> Any:
    """A tree as plain values, with places."""
    if isinstance(node, nodes.Node):
        fields = [shape(getattr(node, name)) for name in node.fields]
        return type(node).__name__, fields, node.lineno, column(node.lineno), node.environment is not None
    if isinstance(node, list | tuple):
        return [shape(one) for one in node]
    return type(node).__name__, repr(node)


def read(environment: PromptEnvironment, source: str) -> Any:
    try:
        stream = [
            (one.lineno, column(one.lineno), one.type, type(one.value), one.value)
            for one in environment._tokenize(source, "t")
        ]
    except (TemplateSyntaxError, SyntaxError, ValueError) as error:
        stream = said(error)
    try:
        return stream, shape(environment._parse(source, "t", "t"))
    except (TemplateSyntaxError, SyntaxError, ValueError) as error:
        return stream, said(error)


def said(error: Any) -> Any:
    line = getattr(error, "lineno", None)
    return type(error), str(error), line, column(line)


def same(source: str) -> None:
    assert read(OURS, source) == read(JINJAS, source)


def test_every_template_of_ours_reads_as_with_jinja() -> None:
    for source in TEXTS:
        same(source)


def test_most_templates_need_no_help_from_jinja() -> None:
    assert sum(tokens(source, 0) is not None for source in TEXTS) > 0.9 * len(TEXTS)


@given(st.data())
def test_a_mutated_template_reads_as_with_jinja(data: st.DataObject) -> None:
    source = data.draw(st.sampled_from(TEXTS))
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(source)))
        end = min(len(source), at + data.draw(st.sampled_from([0, 0, 0, 1, 2, 5, 40])))
        source = source[:at] + data.draw(st.sampled_from(["", *FRAGMENTS])) + source[end:]
    same(source)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))
def test_any_row_of_fragments_reads_as_with_jinja(source: str) -> None:
    same(source)


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=9).map(" ".join), st.booleans())
def test_any_expression_reads_as_with_jinja(source: str, block: bool) -> None:
    same(f"{{% if {source} %}}{{% endif %}}" if block else f"{{{{ {source} }}}}")
