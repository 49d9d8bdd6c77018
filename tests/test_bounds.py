"""Bounds: nothing that a template does makes much out of little, and one value has its limit."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from llmfeatures.errors import RenderError
from llmfeatures.prompts.compiled import Compiled
from llmfeatures.prompts.compiling import compile_prompt
from llmfeatures.prompts.environment import make_environment
from llmfeatures.prompts.limits import MAX_VALUE


@pytest.fixture(autouse=True)
def no_collection() -> Iterator[None]:
    """What other tests left is not finalized where the stack is at its end."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


TWICE = "{% if n %}{% set n = n - 1 %}{% include '_shared/twice.j2' %}{% include '_shared/twice.j2' %}{% endif %}"
BIG = "x" * 900_000
PATHS = [
    "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
    "{% for i in range(100001) %}{% endfor %}",
    "{% for i in xs %}{% for j in xs %}{% for k in xs %}{% endfor %}{% endfor %}{% endfor %}",
    "{% for i in [1] recursive %}{{ loop([i]) }}{% endfor %}",
    (
        "{% for i in xs|batch(1) %}{% for j in xs|slice(100) %}{% for k in j %}{% endfor %}{% endfor %}"
        "{% endfor %}{% for i in range(99999) %}{% endfor %}"
    ),
    "{% for c in big %}{% endfor %}",
    "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(60) }}",
    (
        "{% macro m(n) %}{% if n %}{% call m(n - 1) %}{% endcall %}{% call m(n - 1) %}{% endcall %}"
        "{% endif %}{% endmacro %}{{ m(60) }}"
    ),
    "{{ 'x' * 100000000 }}",
    "{{ big * 12 }}",
    "{{ big ~ big ~ big ~ big ~ big ~ big ~ big ~ big ~ big ~ big ~ big ~ big }}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=s) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}{{ ns.x }}",
    "{% set ns = namespace(x=s) %}{% for i in range(99) %}{% set ns.x = ns.x.join([ns.x, ns.x]) %}{% endfor %}",
    "{% for i in range(99) %}{{ big }}{% endfor %}",
    "{% set t %}{% for i in range(99) %}{{ big }}{% endfor %}{% endset %}",
    "{% filter upper %}{% for i in range(99) %}{{ big }}{% endfor %}{% endfilter %}",
    "{% data %}{% for i in range(99) %}{{ big }}{% endfor %}{% enddata %}",
    "{% message 'user' %}{% for i in range(99) %}{{ big }}{% endfor %}{% endmessage %}",
    "{% macro m() %}{{ big }}{{ big }}{{ big }}{% endmacro %}{{ m() }}{{ m() }}{{ m() }}{{ m() }}",
    "{{ big.replace('', big) }}",
    "{{ big|replace('', big) }}",
    "{{ big|replace('x', 'y' * 99) }}",
    "{{ big.join(big) }}",
    "{{ big|join(big) }}",
    "{{ s.ljust(100000000) }}",
    "{{ s.rjust(100000000) }}",
    "{{ s.zfill(100000000) }}",
    "{{ s.center(100000000) }}",
    "{{ s|center(100000000) }}",
    "{{ ('\t' * 99999).expandtabs(99999) }}",
    "{{ big|indent(100000000) }}",
    "{{ ('\n' * 99999)|indent(99999) }}",
    "{{ ('\n' * 9999)|indent(big) }}",
    "{{ big|wordwrap(1, wrapstring=big) }}",
    "{{ (big ~ ' ')|wordwrap(1, wrapstring='y' * 99) }}",
    "{{ '%100000000d' % 1 }}",
    "{{ '%.100000000f' % 1 }}",
    "{{ '%*d' % (100000000, 1) }}",
    "{{ ('%9999d' * 99999) % 1 }}",
    "{{ ('%(a)s' * 99999) % {'a': 'y' * 999} }}",
    "{{ ('%s' * 99) % ((big,) * 99) }}",
    "{{ '{:100000000}'.format(1) }}",
    "{{ '{:{}}'.format(1, 100000000) }}",
    "{{ ('{a}' * 99999).format(a='y' * 999) }}",
    "{{ ('{0}' * 99).format(big) }}",
    "{{ ('{:9999}' * 9999).format(*range(9999)) }}",
    "{{ [1] * 100000000 }}",
    "{{ [1] * 1000001 }}",
    "{{ [1]|batch(100000000, 0)|list }}",
    "{{ [1]|slice(100000000)|list }}",
    "{{ range(10000000) }}",
    "{{ range(100000000)|list }}",
    "{% set a = [1] * 999999 %}{{ [a] * 999999 }}",
    "{% set a = [1] * 999999 %}{{ ([a] * 999999)|json(2) }}",
    "{% set a = [1] * 999999 %}{{ ([a] * 999999)|tojson }}",
    "{% set a = [1] * 999999 %}{{ ([a] * 999999)|string|length }}",
    "{% set a = [1] * 999999 %}{{ ([a] * 9999)|sum(start=[])|length }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = ns.x + ns.x %}{% endfor %}",
    "{{ ([1] * 999999)|bullets }}",
    "{{ ([1] * 999999)|numbered }}",
    "{{ ([1] * 999999)|and_join }}",
    "{{ ([{'a': 1}] * 999999)|table }}",
    "{{ ([big] * 99)|bullets }}",
    "{{ ([{'a': big}] * 99)|table }}",
    "{{ ([big] * 99)|join('<') }}",
    "{{ ('a ' * 99)|datamark(big) }}",
    "{{ 10 ** 100000 }}",
    "{{ 10 ** 1000 * 10 ** 1000 }}",
    "{{ 5|round(-1000000000) }}",
    "{{ 5|round(1000000000) }}",
    "{% set ns = namespace(x=9) %}{% for i in range(99) %}{% set ns.x = ns.x * ns.x %}{% endfor %}{{ ns.x }}",
    "{{ 1|num(1000000) }}",
    "{{ huge }}",
    "{{ huge|upper }}",
    "{{ huge|json }}",
    "{{ [huge] }}",
    "{{ huge|data }}",
    "{{ huge|bullets if false else [huge]|bullets }}",
    "{{ many }}",
    "{{ '%s' % huge }}",
]
SLOW = [
    "{% for i in [1] recursive %}{% if loop.depth < 60 %}{{ loop([1]) }}{{ loop([1]) }}{% endif %}{% endfor %}",
    (
        "{% set ns = namespace(n=0) %}{% block b %}{% set ns.n = ns.n + 1 %}{% if ns.n < 60 %}"
        "{{ self.b() }}{{ self.b() }}{% endif %}{% set ns.n = ns.n - 1 %}{% endblock %}"
    ),
    "{% set n = 60 %}{% include '_shared/twice.j2' %}",
    "{% set ns = namespace(x='ab') %}{% for i in range(99) %}{% set ns.x = ns.x.replace('a', ns.x) %}{% endfor %}",
    "{% set a = [1] * 999999 %}{{ ([a] * 999999)|join }}",
    "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}",
    (
        "{% set ns = namespace(x=[1]) %}{% for i in range(99) %}{% set ns.x = {'a': ns.x, 'b': ns.x} %}"
        "{% endfor %}{{ ns.x|json }}"
    ),
    "{{ ([big] * 99) }}",
]


@pytest.fixture(scope="module")
def compiled(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Compiled]:
    root: Path = tmp_path_factory.mktemp("prompts")
    (root / "_shared").mkdir()
    (root / "_shared" / "twice.j2").write_text(TWICE)
    environment = make_environment(root)
    return lambda body: compile_prompt(environment, body, name="p", path="p.prompt.j2", line_offset=0)


def refused(template: Compiled) -> None:
    values: dict[str, Any] = {
        "s": "abc",
        "big": BIG,
        "xs": list(range(100)),
        "huge": "y" * (MAX_VALUE + 1),
        "many": [0] * (MAX_VALUE + 1),
    }
    with pytest.raises(RenderError, match=r"^\S*\.j2:\d+: ") as raised:
        template.render(values)
    assert "MemoryError" not in str(raised.value)


@pytest.mark.timeout(60)
@pytest.mark.parametrize("body", PATHS)
def test_there_is_no_way_around_the_bounds(compiled: Callable[[str], Compiled], body: str) -> None:
    refused(compiled(body))


@pytest.mark.heavy
@pytest.mark.timeout(120)
@pytest.mark.parametrize("body", SLOW)
def test_there_is_no_slow_way_either(compiled: Callable[[str], Compiled], body: str) -> None:
    refused(compiled(body))


def test_a_value_that_is_too_long_is_named(compiled: Callable[[str], Compiled]) -> None:
    said = r"a\.b has 1,000,001 characters, and a prompt prints 1,000,000 of a value at most: .*clip_chars"
    with pytest.raises(RenderError, match=said):
        compiled("{{ a.b }}").render({"a": {"b": "x" * (MAX_VALUE + 1)}})
    with pytest.raises(RenderError, match="a has more than 1,000,000 parts"):
        compiled("{{ a }}").render({"a": [0] * (MAX_VALUE + 1)})
    assert len(compiled("{{ a }}").render({"a": "x" * MAX_VALUE})[0].content) == MAX_VALUE
    assert len(compiled("{{ a|clip_chars(50) }}").render({"a": "x" * MAX_VALUE})[0].content) == 50
