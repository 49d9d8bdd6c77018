"""Names that branches set: they are read from the template, and not from the prompt's features, where all ways set
them."""

from typing import Any

import pytest
from jinja2 import DictLoader

from llmfeatures.prompts.compiling import compile_prompt
from llmfeatures.prompts.environment import PromptEnvironment

PARTIALS = {"_shared/shown.j2": "{{ x }}", "_shared/base.j2": "{% block one %}{% endblock %}"}


def names(body: str) -> set[str]:
    env = PromptEnvironment(DictLoader(PARTIALS))
    return set(compile_prompt(env, body, name="p", path="p.prompt.j2", line_offset=0).names)


def shown(body: str, **values: Any) -> str:
    env = PromptEnvironment(DictLoader(PARTIALS))
    (message,) = compile_prompt(env, body, name="p", path="p.prompt.j2", line_offset=0).render(values)
    return message.content


@pytest.mark.parametrize(
    ("body", "read"),
    [
        ("{% if a %}{% set x = 1 %}{{ x }}{% endif %}", {"a"}),
        ("{% if a %}{% set x = 1 %}{% else %}{% set x = 2 %}{% endif %}{{ x }}", {"a"}),
        ("{% if a %}{% set x = 1 %}{% elif b %}{% set x %}2{% endset %}{% else %}{% set x = 3 %}{% endif %}{{ x }}",
         {"a", "b"}),
        ("{% if a %}{% set x = 1 %}{% else %}{% macro x() %}m{% endmacro %}{% endif %}{{ x }}", {"a"}),
        ("{% if a %}{% set x = 1 %}{% else %}{% set x = 2 %}{% endif %}{% include '_shared/shown.j2' %}", {"a"}),
        ("{% if a %}{% set x = 1 %}{% else %}{% set x = 2 %}{% endif %}{% for i in [1] %}{{ x }}{% endfor %}",
         {"a"}),
        ("{% for i in [1] %}{% if a %}{% continue %}{% else %}{% set x = 1 %}{% endif %}{{ x }}{% endfor %}", {"a"}),
        # and these come from outside, on some ways
        ("{% if a %}{% set x = 1 %}{% endif %}{{ x }}", {"a", "x"}),
        ("{% if a %}{% set x = 1 %}{% elif b %}{% set x = 2 %}{% endif %}{{ x }}", {"a", "b", "x"}),
        ("{% if a %}{% set x = x ~ 1 %}{{ x }}{% endif %}", {"a", "x"}),
        ("{% if a %}{% if b %}{% set x = 1 %}{% endif %}{{ x }}{% endif %}", {"a", "b", "x"}),
        ("{% for i in [1] %}{% set x = 1 %}{% endfor %}{{ x }}", {"x"}),
    ],
)  # fmt: skip
def test_which_names_are_read_from_outside(body: str, read: set[str]):
    assert names(body) == read


def test_they_print_what_their_branch_set():
    body = "{% if a %}{% set x = 1 %}{% elif b %}{% set x = 2 %}{% else %}{% set x = 3 %}{% endif %}{{ x }}"
    assert [shown(body, a=True, b=True), shown(body, a=False, b=True), shown(body, a=False, b=False)] == ["1", "2", "3"]
